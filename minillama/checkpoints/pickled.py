"""Weights in PyTorch's own files (.bin, .pth): only tensors are taken from them, and no code in them is run."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from minillama.files import megabytes
from minillama.saving import check_dense

MAX_INSTRUCTIONS = 2**26  # bytes of the part that says what the tensors are


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save made, mapped into memory. -> name: tensor

    Errors: ValueError that names the file, for anything else than named tensors.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doct", b"<html")):
        raise ValueError(f"{path}: a web page, not weights; download it again from the file's own address")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a Git LFS pointer, not weights; fetch the file itself with: git lfs pull")
    try:
        _check_zip(path, size)
        weights = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
            weights = weights["model"]
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
        ):
            raise ValueError(f"{type(weights).__name__} in it, expected names and tensors")
        for name, tensor in weights.items():
            check_dense({name: tensor})
    except Exception as error:  # torch's reader fails in many ways
        raise ValueError(
            f"{path}: {megabytes(size)} that are not PyTorch weights, or damaged; download it again, or use "
            f"safetensors\n{str(error)[:1000] or type(error).__name__}"
        ) from None
    return {name: tensor.detach() for name, tensor in weights.items()}


def _check_zip(path: Path, size: int):
    """Raise ValueError if a zip file would become larger than it is, or its instructions are too long to follow."""
    with zipfile.ZipFile(path) as opened:
        entries = opened.infolist()
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("compressed, expected tensors stored as they are")
    if any(entry.filename.endswith(".pkl") and entry.file_size > MAX_INSTRUCTIONS for entry in entries):
        raise ValueError(f"more than {MAX_INSTRUCTIONS:,} bytes of instructions, expected tensors")
