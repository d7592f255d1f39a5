"""Checkpoints as Hugging Face's Transformers saves them: config.json and safetensors, or old pytorch_model.bin."""

from pathlib import Path
from typing import Any

from minillama.checkpoints.opened import (
    ATTENTION,
    FEEDFORWARD,
    Opened,
    Stored,
    make_config,
    name_tensors,
    plain_file,
    read_fields,
    token_ids,
)
from minillama.checkpoints.pickled import read_pickled
from minillama.config import Config, RopeScaling
from minillama.weights import read_weights

NAMES = {
    "vocab_size": "vocab_size", "d_model": "hidden_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "d_ff": "intermediate_size", "max_len": "max_position_embeddings", "norm_eps": "rms_norm_eps",
    "rope_base": "rope_theta", "tied": "tie_word_embeddings",
}  # fmt: skip
# Llama in all but name; Qwen2 adds biases to queries, keys and values.
MODEL_TYPES = ("llama", "mistral", "qwen2")
DEFAULT_HEADS = {"llama": None, "mistral": 8, "qwen2": 32}  # n_kv_heads, where the file does not say
# Fields that make it another model, unless they hold one of these values.
FOREIGN_FIELDS: dict[str, tuple] = {
    "hidden_act": ("silu", "swish", None), "partial_rotary_factor": (1, None), "quantization_config": (None,),
    "num_local_experts": (None, 0, 1), "no_rope_layers": (None, []), "clip_qkv": (None,), "use_qk_norm": (False, None),
    "qk_norm": (False, None), "attn_logit_softcapping": (None,), "final_logit_softcapping": (None,),
    "embedding_multiplier": (1, None), "residual_multiplier": (1, None), "logits_scaling": (1, None),
    "attention_multiplier": (None,), "use_cache_quantization": (None, False), "is_encoder_decoder": (False, None),
}  # fmt: skip
REPAIR = "this package opens plain Llamas only; use another model"


def fits(path: Path) -> bool:
    """Whether a folder looks like one of Hugging Face's."""
    return (path / "config.json").is_file()


def open_folder(folder: Path) -> Opened:
    """Read the headers of a Hugging Face folder.

    Errors: ValueError, OSError that name the file and the field or tensor: for damaged files, and for models that are
    no Llama.
    """
    where = folder / "config.json"
    fields = read_fields(where)
    config, notes = read_config(where, fields)
    stored = read_tensors(folder)
    same_twice = False
    if config.tied and "lm_head.weight" in stored:  # the file decides, as in Transformers
        head, embedding = (stored[name] for name in ("lm_head.weight", "model.embed_tokens.weight") if name in stored)
        same_twice = head.shape == embedding.shape and head.read().equal(embedding.read())
    if same_twice:
        del stored["lm_head.weight"]
    elif config.tied and "lm_head.weight" in stored:
        config = Config.from_dict(config.to_dict() | {"tied": False})
        notes += ("tie_word_embeddings is true, but there is another output layer in the file: that one is used",)
    biased = biases(fields)
    tensors = name_tensors(stored.values(), config, "huggingface", folder, biased)

    def tokenizer():
        from minillama.checkpoints.tokenizers import from_folder

        return from_folder(folder)

    return Opened(
        folder, "huggingface", config, tensors, tokenizer, frozenset(biased), chat_template(folder),
        stop_tokens(folder, fields), notes,
    )  # fmt: skip


def read_config(where: Path, fields: dict[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """Our sizes for a config.json, and notes for the user. Errors: ValueError that names what is not a Llama's."""
    kind = fields.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"{where}: model_type={str(kind)[:80]!r}, expected {', '.join(MODEL_TYPES)}; {REPAIR}")
    for name, neutral in FOREIGN_FIELDS.items():
        if fields.get(name) not in neutral:
            expected = " or ".join("absent" if value is None else repr(value) for value in neutral)
            raise ValueError(f"{where}: {name}={str(fields[name])[:80]}, expected {expected}; {REPAIR}")
    layers = fields.get("layer_types") or []
    if not isinstance(layers, list) or any(layer not in ("full_attention", "sliding_attention") for layer in layers):
        raise ValueError(f"{where}: layer_types={str(layers)[:80]}, expected full or sliding attention; {REPAIR}")
    base, scaling = rope(where, fields)
    max_len, notes = fields.get("max_position_embeddings", 2048), ()
    window = fields.get("sliding_window")
    if kind == "qwen2" and not fields.get("use_sliding_window", False):
        window = None
    if type(window) is int and type(max_len) is int and 0 < window < max_len:
        notes = (f"sliding_window={window}: texts are limited to that, since beyond it this is another model",)
        max_len = window
    config = make_config(
        where,
        NAMES,
        vocab_size=fields.get("vocab_size"),
        d_model=fields.get("hidden_size"),
        n_layers=fields.get("num_hidden_layers"),
        n_heads=fields.get("num_attention_heads"),
        n_kv_heads=fields.get("num_key_value_heads", DEFAULT_HEADS[kind]),
        head_dim=fields.get("head_dim"),
        d_ff=fields.get("intermediate_size"),
        max_len=max_len,
        norm_eps=fields.get("rms_norm_eps", 1e-6),
        rope_base=base,
        rope_scaling=scaling,
        tied=fields.get("tie_word_embeddings", False),
    )
    return config, notes


def rope(where: Path, fields: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """RoPE's base and scaling, in any of three spellings.

    Transformers 5: rope_parameters {rope_theta, rope_type, ...}. Before: rope_theta, and rope_scaling with rope_type,
    or with type.
    """
    settings = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(settings, dict) or any(isinstance(value, dict) for value in settings.values()):
        raise ValueError(f"{where}: RoPE settings {str(settings)[:80]}, expected one set of numbers; {REPAIR}")
    base = settings.get("rope_theta", fields.get("rope_theta", 10000.0))
    kind = settings.get("rope_type", settings.get("type", "default"))
    if settings.get("partial_rotary_factor") not in (1, None):
        raise ValueError(f"{where}: partial_rotary_factor={settings['partial_rotary_factor']}, expected 1; {REPAIR}")
    if kind == "default":
        return base, None
    if kind not in ("linear", "llama3"):
        raise ValueError(f"{where}: rope_type={str(kind)[:80]!r}, expected default, linear or llama3; {REPAIR}")
    names = {"factor": "factor"}
    if kind == "llama3":
        names |= {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
        names["original_max_len"] = "original_max_position_embeddings"
    for name in names.values():
        if name not in settings:
            raise ValueError(f"{where}: rope_type={kind!r} without {name}; use another copy of the file")
    try:
        return base, RopeScaling(kind, **{ours: settings[name] for ours, name in names.items()})
    except ValueError as error:
        raise ValueError(f"{where}: RoPE settings: {error}") from None


def biases(fields: dict[str, Any]) -> set[str]:
    """Names of the linear layers that add a bias."""
    attention = ATTENTION if fields.get("attention_bias") else set()
    if fields["model_type"] == "qwen2":
        attention = ATTENTION - {"o_proj"}
    return attention | (FEEDFORWARD if fields.get("mlp_bias") else set())


def read_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder, mapped into memory, without RoPE's tables, which old files have.

    Errors: ValueError, FileNotFoundError that name the file.
    """
    for single, read in (("model.safetensors", read_weights), ("pytorch_model.bin", read_pickled)):
        index = folder / f"{single}.index.json"
        if index.is_file():
            shards = _shards(folder, index)
        elif (folder / single).exists():
            shards = {plain_file(folder, single, folder): None}
        else:
            continue
        tensors: dict[str, Stored] = {}
        for path, names in shards.items():
            found = read(path)
            for name in names or ():
                if name not in found:
                    raise ValueError(f"{path}: tensor {name!r} is missing, but {index.name} says it is here")
            for name, tensor in found.items():
                if name in tensors:
                    raise ValueError(f"{path}: tensor {name!r} is in {tensors[name].file.name} too, expected once")
                tensors[name] = Stored(name, path, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    raise FileNotFoundError(f"{folder}: neither model.safetensors nor pytorch_model.bin, whole or with an index")


def _shards(folder: Path, index: Path) -> dict[Path, list[str]]:
    """The files that an index names, each with the tensors it should hold."""
    weight_map = read_fields(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: weight_map: {str(weight_map)[:80]}, expected tensor names and files")
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        shards.setdefault(str(file), []).append(name)
    return {plain_file(folder, file, index): names for file, names in shards.items()}


def stop_tokens(folder: Path, fields: dict[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, else those of config.json."""
    where = folder / "generation_config.json"
    settings = read_fields(where) if where.is_file() else {}
    if settings.get("eos_token_id") is None:
        where, settings = folder / "config.json", fields
    return token_ids(where, "eos_token_id", settings.get("eos_token_id"))


def chat_template(folder: Path) -> str | None:
    """The checkpoint's own chat template, in Jinja: a file of its own, or a field of tokenizer_config.json."""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        if alone.stat().st_size > 2**20:
            raise ValueError(f"{alone}: {alone.stat().st_size:,} bytes, expected at most a megabyte; delete it")
        return alone.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            template = read_fields(folder / name).get("chat_template")
            if isinstance(template, list):  # several, each with a name
                named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
                template = named.get("default")
            if isinstance(template, str):
                return template
    return None
