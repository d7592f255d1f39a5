"""What every format is brought to before a model is built from it: sizes, and named tensors that are not read yet."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillama.block import Parts
from minillama.config import Config
from minillama.llama import Llama
from minillama.saving import read_json
from minillama.weights import check_finite, check_shapes

MAX_JSON = 2**26  # bytes
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FEEDFORWARD = {"gate_proj", "up_proj", "down_proj"}

# Our names, and those of Hugging Face, Meta and GGUF, in this order.
OUTER = {
    "embed_tokens": ("model.embed_tokens", "tok_embeddings", "token_embd"),
    "norm": ("model.norm", "norm", "output_norm"),
    "lm_head": ("lm_head", "output", "output"),
}
LAYER = {
    "attention_norm": ("input_layernorm", "attention_norm", "attn_norm"),
    "attention.q_proj": ("self_attn.q_proj", "attention.wq", "attn_q"),
    "attention.k_proj": ("self_attn.k_proj", "attention.wk", "attn_k"),
    "attention.v_proj": ("self_attn.v_proj", "attention.wv", "attn_v"),
    "attention.o_proj": ("self_attn.o_proj", "attention.wo", "attn_output"),
    "feedforward_norm": ("post_attention_layernorm", "ffn_norm", "ffn_norm"),
    "feedforward.gate_proj": ("mlp.gate_proj", "feed_forward.w1", "ffn_gate"),
    "feedforward.up_proj": ("mlp.up_proj", "feed_forward.w3", "ffn_up"),
    "feedforward.down_proj": ("mlp.down_proj", "feed_forward.w2", "ffn_down"),
}
FORMATS = {"huggingface": (0, "model.layers"), "meta": (1, "layers"), "gguf": (2, "blk")}

# A tensor with such a name belongs to another architecture; what it is, in words.
FOREIGN = {
    r"q_norm|k_norm": "normalized queries and keys (as in Qwen3, OLMo 2)",
    r"expert|block_sparse_moe|router|_exps|gate_inp": "a mixture of experts (as in Mixtral)",
    r"qkv|W_pack|query_key_value|gate_up": "fused matrices (as in Phi-3, Baichuan, InternLM2)",
    r"pre_feedforward_layernorm|post_feedforward|post_attention_norm|post_ffw": "extra norms (as in Gemma 2, OLMo 2)",
    r"lora_": "a LoRA adapter, not a whole model",
    r"qweight|qzeros|weight_scale|absmax|\.SCB": "quantized weights (GPTQ, AWQ, bitsandbytes, FP8)",
    r"vision|image|audio": "a model that also sees or hears",
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: what the header says of it, and a function that reads it.

    dtype: of what `read` gives. mapped: whether that is the file itself, and takes no memory of its own.
    """

    name: str  # in the file
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)
    mapped: bool = True


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose headers fit each other; no weight has been read. Tensors go by minillama's names."""

    path: Path
    format: str
    config: Config
    tensors: dict[str, Stored]
    tokenizer: Callable[[], Any]
    biased: frozenset[str] = frozenset()  # names of linear layers that add a bias, such as "q_proj"
    chat_template: str | None = None
    stop_tokens: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()  # what a user should know

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored as; float32 for those that have to be computed first."""
        wide = any(not t.mapped and t.dtype == torch.float32 for t in self.tensors.values())
        dtype = self.tensors["embed_tokens.weight"].dtype
        return torch.float32 if wide or dtype == torch.float64 else dtype


def our_names(n_layers: int, format: str) -> dict[str, str]:
    """What a format calls each module of the model -> what minillama calls it."""
    column, layers = FORMATS[format]
    names = {theirs[column]: ours for ours, theirs in OUTER.items()}
    for i in range(n_layers):
        names |= {f"{layers}.{i}.{theirs[column]}": f"layers.{i}.{ours}" for ours, theirs in LAYER.items()}
    return names


def their_names(n_layers: int, format: str) -> dict[str, str]:
    """What minillama calls each module of the model -> what a format calls it."""
    return {ours: theirs for theirs, ours in our_names(n_layers, format).items()}


def tensor_shapes(config: Config, biased: Iterable[str] = ()) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Llama with these sizes. The output layer of a tied one is left out.

    >>> tensor_shapes(Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2))["lm_head.weight"]
    (5, 4)
    """
    C, D, F, V = config.d_model, config.head_dim, config.d_ff, config.vocab_size
    queries, keys = config.n_heads * D, config.n_kv_heads * D
    layer = {
        "attention_norm": (C,),
        "attention.q_proj": (queries, C),
        "attention.k_proj": (keys, C),
        "attention.v_proj": (keys, C),
        "attention.o_proj": (C, queries),
        "feedforward_norm": (C,),
        "feedforward.gate_proj": (F, C),
        "feedforward.up_proj": (F, C),
        "feedforward.down_proj": (C, F),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, C), "norm.weight": (C,)}
    if not config.tied:
        shapes["lm_head.weight"] = (V, C)
    for i in range(config.n_layers):
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes |= {f"layers.{i}.{n}.bias": s[:1] for n, s in layer.items() if n.rpartition(".")[2] in biased}
    return shapes


def name_tensors(
    stored: Iterable[Stored], config: Config, format: str, where: Path, biased: Iterable[str] = ()
) -> dict[str, Stored]:
    """The tensors of a file by minillama's names.

    Errors: ValueError, in the file's own names, unless they are exactly those of a Llama with these sizes.
    """
    tensors = {tensor.name: tensor for tensor in stored}
    for name in tensors:
        for pattern, what in FOREIGN.items():
            if re.search(pattern, name):
                raise ValueError(f"{where}: tensor {name!r}: {what}, expected a plain Llama; use another model")
    expected = tensor_shapes(config, biased)
    if len(tensors) < len(expected) // 16:  # before every name is spelt out
        raise ValueError(
            f"{where}: {len(tensors)} tensors, expected {len(expected)} for {config.n_layers} layers; "
            f"check that config and weights belong together"
        )
    theirs = their_names(config.n_layers, format)
    file_names = {ours: theirs[ours.rpartition(".")[0]] + ours[ours.rindex(".") :] for ours in expected}
    wanted = {file_names[ours]: shape for ours, shape in expected.items()}
    check_shapes({name: tensor.shape for name, tensor in tensors.items()}, wanted, str(where))
    for tensor in tensors.values():
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{where}: tensor {tensor.name!r} holds {tensor.dtype}, expected floating-point numbers")
    return {ours: tensors[file_names[ours]] for ours in expected}


def make_config(where: Path, names: dict[str, str], **fields: Any) -> Config:
    """A Config of a file's numbers. names: what the file calls our fields.

    Errors: ValueError that begins with the file and speaks of its own fields.
    """
    theirs = {ours: theirs for ours, theirs in names.items() if ours in fields}
    for ours, name in theirs.items():
        if fields[ours] is None and ours in ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff"):
            raise ValueError(f"{where}: field {name!r} is missing; use another copy of the file")
    try:
        return Config(**fields)
    except ValueError as error:
        message = re.sub("|".join(rf"\b{ours}\b" for ours in theirs), lambda m: theirs[m[0]], str(error))
        raise ValueError(f"{where}: {message}") from None


def read_fields(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Errors: ValueError that names the file; FileNotFoundError."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise ValueError(f"{path}: {size:,} bytes, expected at most {MAX_JSON:,}; use another copy of the file")
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: a {type(fields).__name__}, expected a JSON object; use another copy of the file")
    return fields


def token_ids(where: Path, name: str, value: Any) -> tuple[int, ...]:
    """The ids that a field names: one, a list of them, or None."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > 1000 or not all(type(i) is int for i in ids):
        raise ValueError(f"{where}: {name}: {str(value)[:80]}, expected token ids, such as 2 or [2, 3]")
    return tuple(i for i in ids if i >= 0)


def skeleton(config: Config, parts: Parts, biased: Iterable[str] = ()) -> Llama:
    """A model of these sizes whose weights take no memory yet; tables that the parts make themselves are there.

    Errors: ValueError if the parts can't add the biases that the checkpoint has.
    """
    biased = set(biased)
    if biased & ATTENTION:
        parts = replace(parts, attention=partial(parts.attention, bias=True))
    if biased & FEEDFORWARD:
        parts = replace(parts, feedforward=partial(parts.feedforward, bias=True))
    try:
        with torch.device("meta"):
            model = Llama(config, parts)
    except TypeError as error:
        if biased and "bias" in str(error):
            raise ValueError(
                f"parts: this checkpoint has biases; give the part a keyword bias=False\n{error}"
            ) from None
        raise
    if any(_has_table(module) for module in model.modules()):
        model = Llama(config, parts)
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if biased and isinstance(module, nn.Linear) and last in ATTENTION | FEEDFORWARD and last not in biased:
            module.register_parameter("bias", None)  # Qwen2's o_proj
    return model


def _has_table(module: nn.Module) -> bool:
    """Whether a part keeps a tensor that is no weight, and that therefore has to be made for real."""
    kept = [*module.buffers(recurse=False), *vars(module).values()]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in kept)


def build(
    opened: Opened,
    parts: Parts,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    allow_nonfinite: bool = False,
) -> Llama:
    """The model of a checkpoint. Weights of the wanted dtype stay in the file, mapped into memory page by page.

    Errors: ValueError for parts that need other weights, and for weights that are not finite.
    """
    model = skeleton(opened.config, parts, opened.biased)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}  # a tied pair counts once
    check_shapes({name: t.shape for name, t in opened.tensors.items()}, expected, f"{opened.path}: for these parts")
    dtype = opened.dtype if dtype is None else dtype
    weights = {}
    for name, stored in opened.tensors.items():
        weights[name] = stored.read().to(device=device, dtype=dtype)
        if not allow_nonfinite:
            check_finite(weights[name], stored.name, str(stored.file))
    model.load_state_dict(weights, strict=False, assign=True)  # buffers, which are tables here, stay as they are
    if opened.config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model.to(device).eval()


def plain_file(folder: Path, name: object, where: Path) -> Path:
    """The file of this name in a folder. Links may stay in the folder, or lead into the model hub's cache around it.

    Errors: ValueError for a path, or a link that leads elsewhere; FileNotFoundError.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\\" in name or "\0" in name:
        raise ValueError(f"{where}: {str(name)[:200]!r} is not a plain file name; use another copy of the file")
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, but {where.name} names it; download it too")
    real, home = path.resolve(), folder.resolve()
    if real.parent not in (home, home.parent.parent / "blobs"):
        raise ValueError(f"{path}: a link to {real}, expected a file of this folder; copy the file here")
    return path
