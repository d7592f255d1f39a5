"""Weights in a file: read with every count checked before anything is allocated, and fitted to a model by name."""

import json
import math
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

# Bytes per number, by the name that the safetensors format gives the type.
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes, the format's own limit
LISTED = 30  # names that a message lists at most, of those missing and of those unknown


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file. -> name: tensor

    The header is checked against the size of the file first: a damaged or hostile file allocates nothing.
    Errors: ValueError that names the file, the tensor, what was found and what was expected.
    """
    path = Path(path)
    header, data_bytes = _read_header(path)
    covered = 0
    for name, entry in header.items():
        covered += _check_entry(f"{path}: tensor {name!r}", entry, data_bytes)
    if covered != data_bytes:
        raise ValueError(f"{path}: {data_bytes:,} bytes of weights, expected {covered:,}; download or save it again")
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: not a valid safetensors file; download or save it again\n{error}") from error


def _read_header(path: Path) -> tuple[dict, int]:
    """-> what the header says of each tensor, and how many bytes follow it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if start.lstrip().lower().startswith((b"<!doct", b"<html")):
            raise ValueError(f"{path}: a web page, not weights; download it again from the file's own address")
        if start == b"version ":
            raise ValueError(f"{path}: a Git LFS pointer, not weights; fetch the file itself with: git lfs pull")
        if size < 8:
            raise ValueError(f"{path}: {size} bytes, expected a safetensors file; download or save it again")
        length = int.from_bytes(start, "little")
        if length > min(size - 8, MAX_HEADER):
            raise ValueError(
                f"{path}: its header should have {length:,} bytes, but the file has {size:,}; "
                f"it is cut off, or not a safetensors file"
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("the header is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); download or save it again") from None
    header.pop("__metadata__", None)
    return header, size - 8 - length


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} stands in its header {times} times, expected once")
    return unique


def _check_entry(where: str, entry: object, data_bytes: int) -> int:
    """Raise ValueError unless type, shape and place fit each other and the file; return the tensor's bytes."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        counts = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{where}: expected dtype, shape and data_offsets, found {str(entry)[:80]}") from None
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ValueError(f"{where}: dtype {dtype!r}, expected one of {', '.join(BYTES)}")
    if len(counts) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        raise ValueError(
            f"{where}: shape {str(shape)[:80]}, bytes {str([begin, end])[:80]}; expected a few whole numbers from 0 on"
        )
    n_bytes = math.prod(shape) * BYTES[dtype]
    if n_bytes != end - begin or end > data_bytes:
        raise ValueError(
            f"{where}: shape {shape} of {dtype} takes {n_bytes:,} bytes, but bytes {begin:,} to {end:,} of "
            f"{data_bytes:,} are given; download or save the file again"
        )
    return n_bytes


def check_weights(weights: dict[str, Tensor], model: nn.Module, where: str, allow_nonfinite: bool = False):
    """Raise ValueError unless these weights are exactly the model's: names, shapes, kinds of numbers, all finite.

    Nothing is changed. `where` (a file) begins every message.
    """
    expected, parameters = dict(model.state_dict()), dict(model.named_parameters())
    for name, first in _tied_names(model).items():
        if name not in weights:
            del expected[name]
        elif first in weights and not torch.equal(weights[name], weights[first]):
            raise ValueError(f"{where}: {name} and {first} differ, but this model uses one for both; set tied=False")
    check_shapes(
        {n: tuple(w.shape) for n, w in weights.items()}, {n: tuple(w.shape) for n, w in expected.items()}, where
    )
    for name, weight in weights.items():
        if weight.is_floating_point() != expected[name].is_floating_point():
            kind = "floating-point" if expected[name].is_floating_point() else "whole"
            raise ValueError(
                f"{where}: tensor {name!r} holds {weight.dtype}, expected {kind} numbers; save it as those"
            )
        if name in parameters and not allow_nonfinite:
            check_finite(weight.to(expected[name].dtype), name, where)


def check_shapes(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], where: str):
    """Raise ValueError unless names and shapes are the expected ones; it lists names that are missing or unknown."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        lines = [f"{where}: its tensors are not this model's; check that config and weights belong together"]
        for name in missing[:LISTED]:
            close = get_close_matches(name, unknown[:LISTED], n=1)
            lines.append(f"  missing: {name}" + (f" (is it {close[0]}?)" if close else ""))
        lines += [f"  unknown: {name}" for name in unknown[:LISTED]]
        more = max(0, len(missing) - LISTED) + max(0, len(unknown) - LISTED)
        raise ValueError("\n".join(lines + [f"  and {more:,} more"] * (more > 0)))
    for name, shape in found.items():
        if shape != expected[name]:
            hint = "; transposed?" if shape == expected[name][::-1] else ""
            raise ValueError(f"{where}: tensor {name!r} has shape {shape}, the model expects {expected[name]}{hint}")


def check_finite(weight: Tensor, name: str, where: str):
    """Raise ValueError if a number is NaN or infinite. A finite tensor costs no memory."""
    if weight.numel() == 0 or all(extreme.isfinite() for extreme in weight.aminmax()):
        return
    bad = (~weight.isfinite()).nonzero()
    raise ValueError(
        f"{where}: tensor {name!r} holds {len(bad)} NaN or infinite numbers, the first at "
        f"{bad[0].tolist()}; load with allow_nonfinite=True to look at it"
    )


def load_weights(model: nn.Module, path: str | Path, allow_nonfinite: bool = False):
    """Read a safetensors file into a model; if anything does not fit, the model stays as it was.

    Errors: ValueError as in read_weights and check_weights.
    """
    weights = read_weights(path)
    check_weights(weights, model, str(path), allow_nonfinite)
    wide = [name for name, weight in weights.items() if weight.dtype == torch.float64]
    if wide:
        print(f"{path}: {len(wide)} tensors hold float64 numbers, the first {wide[0]}; rounded to the model's type")
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            if name in weights:
                parameter.copy_(weights[name])


def weights_to_save(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The model's tensors by name, as dtype, each stored once: the output layer of a tied model is left out."""
    tied = _tied_names(model)
    kept = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in tied}
    return {
        name: tensor.to(dtype if tensor.is_floating_point() else None, copy=True).contiguous()
        for name, tensor in kept.items()
    }


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are an earlier one under a second name: that name -> the first one."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied
