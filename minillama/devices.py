"""What this machine can do: where to compute, and which shortcuts pay."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, else MPS (Apple), else the CPU.

    Errors: ValueError if the name is unknown or there is no such device here.
    """
    here = available_devices()
    if name == "auto":
        return torch.device(here[0])
    if name.split(":")[0] not in here:
        raise ValueError(f"device={name!r}; this machine has {', '.join(here)}. See: python -m minillama doctor")
    return torch.device(name)


def available_devices() -> list[str]:
    """Of "cuda", "mps" and "cpu" those that torch can use here, the fastest first."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_there in here.items() if is_there]


def free_memory(device: torch.device) -> int | None:
    """Bytes that a model could take on this device now; None where nobody says.

    >>> free_memory(torch.device("cpu")) != 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    with suppress(AttributeError, OSError, ValueError):  # not Linux: all that is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def bf16_pays(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16 than in float32: measured, some ten milliseconds."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 256, dtype=dtype, device=device), torch.ones(256, 1024, dtype=dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (a @ b)[0, 0].item()
            times.append(time.perf_counter() - start)
        return min(times)

    try:
        return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
    except RuntimeError:  # a device without bfloat16
        return False


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on the CPU, None if there is none."""
    candidates = [os.environ.get("CXX", ""), "cl"] if os.name == "nt" else [os.environ.get("CXX", ""), "g++", "clang++"]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)
