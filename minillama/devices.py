"""What this machine can do: where to compute, and which shortcuts pay."""

import os
import shutil
import time

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
