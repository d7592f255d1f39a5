"""A Llama in a GGUF file: what llama.cpp's keys and tensors are called here."""

import mmap
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillama.checkpoints.gguf import MAGIC, REPAIR, Entry, read_header, read_tensor
from minillama.checkpoints.opened import ATTENTION, FEEDFORWARD, Opened, Stored, make_config, name_tensors, token_ids
from minillama.config import Config, RopeScaling
from minillama.position import interleaved_to_half, llama3_scaling, rope_frequencies

ARCHITECTURES = ("llama", "qwen2")  # Mistral's files say llama
# Texts of control tokens that end an answer, in files that name only one of them.
ENDS = {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "</s>"}


def fits(path: Path) -> bool:
    """Whether a file is GGUF, by its first bytes or its name."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC or path.suffix == ".gguf"


def open_file(path: Path) -> Opened:
    """Read the header of a GGUF file.

    Errors: ValueError that names the file and the key or tensor: for damaged files, and for models that are no Llama.
    """
    metadata, entries, content = read_header(path)
    by_name = {entry.name: entry for entry in entries}
    factors = by_name.pop("rope_freqs.weight", None)
    config, notes = read_config(path, metadata, by_name)
    if factors:
        if factors.shape != (config.head_dim // 2,):
            expected = f"expected ({config.head_dim // 2},)"
            raise ValueError(f"{path}: tensor {factors.name!r}: shape {factors.shape}, {expected}; {REPAIR}")
        scaling = _llama3(path, metadata, config, read_tensor(content, factors))
        config = Config.from_dict(config.to_dict() | {"rope_scaling": scaling})
    heads = {}
    if metadata["general.architecture"] == "llama":  # the others are half-split, as ours
        heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}
    names = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj",
             "ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"}  # fmt: skip
    biased = {names[name] for name in names if f"blk.0.{name}.bias" in by_name}
    stored = []
    for entry in by_name.values():
        n_heads = heads.get(entry.name.split(".")[-2]) if "." in entry.name else None
        dtype, mapped = entry.type.plain or torch.float32, entry.type.plain is not None and n_heads is None
        stored.append(
            Stored(entry.name, path, entry.shape, dtype, partial(_read, path, content, entry, n_heads), mapped)
        )
    tensors = name_tensors(stored, config, "gguf", path, biased & (ATTENTION | FEEDFORWARD))

    def tokenizer():
        from minillama.checkpoints.tokenizers import from_gguf

        return from_gguf(metadata) if "tokenizer.ggml.tokens" in metadata else None

    template = metadata.get("tokenizer.chat_template")
    return Opened(
        path, "gguf", config, tensors, tokenizer, frozenset(biased), template if isinstance(template, str) else None,
        stop_tokens(path, metadata), notes,
    )  # fmt: skip


def _read(path: Path, content: mmap.mmap, entry: Entry, n_heads: int | None) -> Tensor:
    try:
        weight = read_tensor(content, entry)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return weight if n_heads is None else interleaved_to_half(weight, n_heads)


def read_config(path: Path, metadata: dict[str, Any], entries: dict[str, Entry]) -> tuple[Config, tuple[str, ...]]:
    """Our sizes for a file's metadata, and notes for the user. Errors: ValueError that names what is not a Llama's."""
    arch = metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        expected = " or ".join(ARCHITECTURES)
        raise ValueError(f"{path}: general.architecture={str(arch)[:80]!r}, expected {expected}; use another model")

    def get(name: str, default: Any = None) -> Any:
        return metadata.get(f"{arch}.{name}", default)

    embedding = entries.get("token_embd.weight")
    vocab_size = embedding.shape[0] if embedding and len(embedding.shape) == 2 else get("vocab_size")
    max_len, window, notes = get("context_length"), get("attention.sliding_window"), ()
    if type(window) is int and type(max_len) is int and 0 < window < max_len:
        notes = (f"sliding_window={window}: texts are limited to that, since beyond it this is another model",)
        max_len = window
    fields = {
        "vocab_size": ("vocab_size", vocab_size), "d_model": ("embedding_length", get("embedding_length")),
        "n_layers": ("block_count", get("block_count")),
        "n_heads": ("attention.head_count", get("attention.head_count")),
        "n_kv_heads": ("attention.head_count_kv", get("attention.head_count_kv")),
        "head_dim": ("attention.key_length", get("attention.key_length")),
        "d_ff": ("feed_forward_length", get("feed_forward_length")), "max_len": ("context_length", max_len),
        "norm_eps": ("attention.layer_norm_rms_epsilon", get("attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_base": ("rope.freq_base", get("rope.freq_base", 10000.0)),
    }  # fmt: skip
    names = {ours: f"{arch}.{theirs}" for ours, (theirs, _) in fields.items()}
    values = {ours: _short(value) for ours, (_, value) in fields.items()}
    config = make_config(path, names, **values, rope_scaling=_linear(path, get), tied="output.weight" not in entries)
    for name, wanted in (
        ("rope.dimension_count", config.head_dim), ("attention.value_length", config.head_dim), ("expert_count", 0),
        ("attention.scale", None), ("residual_scale", None), ("logit_scale", None), ("embedding_scale", None),
    ):  # fmt: skip
        if get(name) not in (None, wanted):
            raise ValueError(
                f"{path}: {arch}.{name}={str(get(name))[:80]}, expected {wanted or 'none'}; use another model"
            )
    return config, notes


def _short(value: Any) -> Any:
    """float32 as it was meant: 9.999999747378752e-06 -> 1e-05."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _linear(path: Path, get) -> RopeScaling | None:
    kind, factor = get("rope.scaling.type", "none"), get("rope.scaling.factor", get("rope.scale_linear", 1.0))
    if kind == "none" and get("rope.scaling.type") is None and factor not in (0.0, 1.0):
        kind = "linear"
    if kind == "none":
        return None
    if kind != "linear":
        raise ValueError(f"{path}: rope.scaling.type={str(kind)[:80]!r}, expected none or linear; use another model")
    try:
        return RopeScaling("linear", _short(factor))
    except ValueError as error:
        raise ValueError(f"{path}: rope.scaling: {error}") from None


def rope_factors(config: Config) -> Tensor:
    """What llama.cpp divides RoPE's frequencies by, for Llama 3.1's scaling. -> (D/2,)"""
    assert config.rope_scaling is not None
    frequencies = rope_frequencies(config.head_dim, config.rope_base)
    return frequencies / llama3_scaling(frequencies, **config.rope_scaling.numbers())  # type: ignore[arg-type]


def _llama3(path: Path, metadata: dict[str, Any], config: Config, factors: Tensor) -> RopeScaling:
    """The scaling that a file holds only as factors: known by computing the factors again.

    Errors: ValueError if they are not those of Llama 3.1's scaling.
    """
    arch = metadata["general.architecture"]
    original = metadata.get(f"{arch}.rope.scaling.original_context_length", 8192)
    where = f"{path}: tensor 'rope_freqs.weight'"
    if config.rope_scaling is not None:
        raise ValueError(f"{where}, and linear scaling too, expected one of them; use another model")
    for factor in (8.0, 32.0, _short(float(factors.max()))):
        try:
            scaling = RopeScaling("llama3", factor, original_max_len=original)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        again = Config.from_dict(config.to_dict() | {"rope_scaling": scaling})
        if torch.allclose(rope_factors(again), factors.float(), rtol=1e-4):
            return scaling
    raise ValueError(f"{where}: not the factors of Llama 3.1's scaling; use another model")


def stop_tokens(path: Path, metadata: dict[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer: those that the file names, and its control tokens that are known to."""
    ids: list[int] = []
    for name in ("eos_token_id", "eot_token_id", "eom_token_id"):
        ids += token_ids(path, name, metadata.get(f"tokenizer.ggml.{name}"))
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "token_type"))
    if isinstance(tokens, list) and isinstance(types, list) and len(tokens) == len(types):
        ids += [i for i, (text, type) in enumerate(zip(tokens, types, strict=True)) if type == 3 and text in ENDS]
    return tuple(sorted(set(ids)))
