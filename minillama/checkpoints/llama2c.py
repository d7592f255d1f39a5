"""Checkpoints of Karpathy's llama2.c, version 0: seven whole numbers, then all weights in float32."""

import math
import mmap
import struct
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minillama.checkpoints.opened import Opened, Stored, make_config, tensor_shapes
from minillama.position import interleaved_to_half

HEADER = struct.Struct("<7i")
# In this order, all layers of one kind together; between the last two, RoPE's tables, which nobody needs.
ORDER = (
    "embed_tokens", "attention_norm", "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
    "feedforward_norm", "feedforward.gate_proj", "feedforward.down_proj", "feedforward.up_proj", "norm", "lm_head",
)  # fmt: skip
NAMES = {
    "d_model": "dim", "d_ff": "hidden_dim", "n_layers": "n_layers", "n_heads": "n_heads", "n_kv_heads": "n_kv_heads",
    "vocab_size": "vocab_size", "max_len": "seq_len",
}  # fmt: skip
EXPECTED = "expected a model of llama2.c, version 0 (its `export.py --version 0`)"


def fits(path: Path) -> bool:
    """Whether a file may be one of llama2.c's, by its name: the format has no mark of its own."""
    return path.suffix == ".bin"


def open_file(path: Path) -> Opened:
    """Read the header of a .bin file. Its tokenizer is tokenizer.bin or tok<vocab_size>.bin beside it.

    Errors: ValueError that names the file and the field.
    """
    size = path.stat().st_size
    if size < HEADER.size:
        raise ValueError(f"{path}: {size} bytes, {EXPECTED}; download it again")
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if content[:4] == b"24ka":  # "ak42" in the order of bytes in the file
        version = int.from_bytes(content[4:8], "little")
        raise ValueError(f"{path}: llama2.c's version {version}, {EXPECTED}; export it again")
    dim, hidden, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = HEADER.unpack(content[: HEADER.size])
    config = make_config(
        path, NAMES, vocab_size=abs(vocab_size), d_model=dim, n_layers=n_layers, n_heads=n_heads,
        n_kv_heads=n_kv_heads, d_ff=hidden, max_len=seq_len, tied=vocab_size > 0,
    )  # fmt: skip
    shapes = tensor_shapes(config)
    rope_tables = seq_len * config.head_dim  # cosines and sines, half of it each
    n_bytes = HEADER.size + 4 * (sum(math.prod(shape) for shape in shapes.values()) + rope_tables)
    if n_bytes != size:
        raise ValueError(f"{path}: {size:,} bytes, {EXPECTED} of {n_bytes:,} bytes for these sizes; download it again")

    tensors, offset = {}, HEADER.size
    for kind in ORDER:
        for name in [
            n for n in (f"{kind}.weight", *(f"layers.{i}.{kind}.weight" for i in range(n_layers))) if n in shapes
        ]:
            if kind == "lm_head":
                offset = n_bytes - 4 * math.prod(shapes[name])
            heads = {"attention.q_proj": config.n_heads, "attention.k_proj": config.n_kv_heads}.get(kind)
            read = partial(_read, content, offset, shapes[name], heads)
            tensors[name] = Stored(name, path, shapes[name], torch.float32, read, mapped=heads is None)
            offset += 4 * math.prod(shapes[name])

    def tokenizer():
        from minillama.checkpoints.tokenizers import from_llama2c

        for name in (f"tok{config.vocab_size}.bin", "tokenizer.bin"):
            if (path.parent / name).is_file():
                return from_llama2c(path.parent / name)
        return None

    return Opened(path, "llama2.c", config, tensors, tokenizer, stop_tokens=(1, 2))


def _read(content: mmap.mmap, offset: int, shape: tuple[int, ...], n_heads: int | None) -> Tensor:
    weight = torch.frombuffer(content, dtype=torch.float32, count=math.prod(shape), offset=offset).view(shape)
    return weight if n_heads is None else interleaved_to_half(weight, n_heads)
