"""Checkpoints as Meta released them: params.json and consolidated.00.pth, .01, ..., a slice of every matrix in each."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillama.checkpoints.opened import Opened, Stored, make_config, name_tensors, plain_file, read_fields
from minillama.checkpoints.pickled import read_pickled
from minillama.config import RopeScaling
from minillama.position import interleaved_to_half

NAMES = {
    "vocab_size": "vocab_size", "d_model": "dim", "n_layers": "n_layers", "n_heads": "n_heads",
    "n_kv_heads": "n_kv_heads", "norm_eps": "norm_eps", "rope_base": "rope_theta",
}  # fmt: skip
BY_ROWS = re.compile(r"wq|wk|wv|w1|w3|output")  # each file has some rows of these,
BY_COLUMNS = re.compile(r"wo|w2")  # some columns of these, and all of every norm
MAX_SHARDS = 64


def fits(path: Path) -> bool:
    """Whether a folder looks like one of Meta's."""
    return (path / "params.json").is_file()


def open_folder(folder: Path, rope_factor: float | None = None, max_len: int | None = None) -> Opened:
    """Read the headers of a folder of Meta's.

    rope_factor: what Llama 3.1 and later stretch RoPE by. The files do not say it: 8 for large models (3.1, 3.3), 32
    for those with fewer than 4096 numbers per token (3.2), unless it is given. max_len: they do not say that either.
    Errors: ValueError, OSError that name the file and the field or tensor.
    """
    where = folder / "params.json"
    params = read_fields(where)
    shards = [read_pickled(path) for path in _shard_files(folder)]
    slices = _slices(folder, shards)
    rows = {name: sum(part.size(0) for part in parts) for name, parts in slices.items() if parts[0].ndim}
    notes, scaling, base = [], None, params.get("rope_theta", 10000.0)
    scaled = params.get("use_scaled_rope", False)
    if scaled:
        if rope_factor is None:
            rope_factor = 32.0 if type(params.get("dim")) is int and params["dim"] < 4096 else 8.0
            notes.append(
                f"{where.name} does not say by how much RoPE is stretched; taken as {rope_factor:g} (rope_factor)"
            )
        scaling = RopeScaling("llama3", rope_factor)
    vocab_size, embedding = params.get("vocab_size", -1), slices.get("tok_embeddings.weight", [])
    if vocab_size == -1 and embedding:
        vocab_size = embedding[0].size(0) * (len(embedding) if _split_by_rows(params, embedding) else 1)
    if max_len is None:
        max_len = 131072 if scaled else 8192 if base == 500000.0 else 2048
        notes.append(f"{where.name} does not say how long a text may be; taken as {max_len:,} (max_len)")
    config = make_config(
        where,
        NAMES,
        vocab_size=vocab_size,
        d_model=params.get("dim"),
        n_layers=params.get("n_layers"),
        n_heads=params.get("n_heads"),
        n_kv_heads=params.get("n_kv_heads"),
        d_ff=rows.get("layers.0.feed_forward.w1.weight", 1),
        max_len=max_len,
        norm_eps=params.get("norm_eps", 1e-5),
        rope_base=base,
        rope_scaling=scaling,
        tied="output.weight" not in slices,
    )
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}
    by_rows = _split_by_rows(params, embedding)
    stored = [_join(folder, name, parts, heads.get(name.split(".")[-2]), by_rows) for name, parts in slices.items()]
    tensors = name_tensors(stored, config, "meta", folder)

    def tokenizer():
        from minillama.checkpoints.tokenizers import from_folder

        return from_folder(folder)

    return Opened(folder, "meta", config, tensors, tokenizer, notes=tuple(notes))


def _shard_files(folder: Path) -> list[Path]:
    """consolidated.00.pth, .01, ... Errors: FileNotFoundError, ValueError if one is missing in the row."""
    found = sorted(path.name for path in folder.glob("consolidated.*.pth"))[: MAX_SHARDS + 1]
    wanted = [f"consolidated.{i:02}.pth" for i in range(max(1, len(found)))]
    for name, expected in zip(found or [""], wanted, strict=True):
        if name != expected:
            raise FileNotFoundError(f"{folder / expected}: no such file; download all of consolidated.*.pth")
    if len(found) > MAX_SHARDS:
        raise ValueError(f"{folder}: more than {MAX_SHARDS} files consolidated.*.pth, expected those of one model")
    return [plain_file(folder, name, folder) for name in found]


def _slices(folder: Path, shards: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Each tensor's slices, one from every file. RoPE's table, which old files have, is left out."""
    names = [name for name in shards[0] if name != "rope.freqs"]
    for i, shard in enumerate(shards):
        if different := (shard.keys() ^ shards[0].keys()) - {"rope.freqs"}:
            raise ValueError(
                f"{folder / f'consolidated.{i:02}.pth'}: tensor {min(different)!r} is not in every file; "
                f"the files are of different models, or damaged"
            )
    return {name: [shard[name] for shard in shards] for name in names}


def _split_by_rows(params: dict[str, Any], embedding: list[Tensor]) -> bool:
    """Whether the embedding is split by rows (Llama 3), and not by columns (Llama 1 and 2): its shape says so."""
    return len(embedding) > 1 and embedding[0].ndim == 2 and embedding[0].size(1) == params.get("dim")


def _join(folder: Path, name: str, parts: list[Tensor], n_heads: int | None, embedding_by_rows: bool) -> Stored:
    """One tensor, in our order of rows, of its slices."""
    kind = name.split(".")[-2] if "." in name else name
    axis = None
    if len(parts) > 1 and all(part.ndim == 2 for part in parts):
        if BY_ROWS.fullmatch(kind) or (kind == "tok_embeddings" and embedding_by_rows):
            axis = 0
        elif BY_COLUMNS.fullmatch(kind) or kind == "tok_embeddings":
            axis = 1
    shape = list(parts[0].shape)
    if any(part.dtype != parts[0].dtype or list(part.shape) != shape for part in parts):
        raise ValueError(
            f"{folder}: tensor {name!r} has another shape or type in every file; they do not belong together"
        )
    if axis is not None:
        shape[axis] *= len(parts)
    elif not all(part.equal(parts[0]) for part in parts[1:]):
        raise ValueError(f"{folder}: tensor {name!r} should be the same in every file, and is not")
    return Stored(
        name, folder / "consolidated.00.pth", tuple(shape), parts[0].dtype, partial(_read, parts, axis, n_heads),
        mapped=axis is None and n_heads is None,
    )  # fmt: skip


def _read(parts: list[Tensor], axis: int | None, n_heads: int | None) -> Tensor:
    weight = parts[0] if axis is None else torch.cat(parts, dim=axis)
    return weight if n_heads is None else interleaved_to_half(weight, n_heads)
