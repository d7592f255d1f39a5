"""Write a model so that other programs run it: a Hugging Face folder for Transformers, a GGUF file for llama.cpp."""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from minillama.block import Parts
from minillama.checkpoints.gguf import ALIGNMENT, write_file
from minillama.checkpoints.llamacpp import rope_factors
from minillama.checkpoints.opened import ATTENTION, FEEDFORWARD, tensor_shapes, their_names
from minillama.checkpoints.vocabulary import gguf_keys, tokenizer_json
from minillama.config import PRESETS, Config
from minillama.files import replacing, replacing_folder
from minillama.llama import Llama
from minillama.position import half_to_interleaved
from minillama.weights import check_shapes

FORMATS = ("huggingface", "gguf")
FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}  # GGUF's numbers for whole files


def export(
    model: Llama,
    tokenizer: Any,
    path: str | Path,
    format: str = "huggingface",
    *,
    dtype: torch.dtype | None = None,
    chat_template: str | None = None,
    stop_tokens: Iterable[int] = (),
) -> Path:
    """Write a model and its tokenizer for other programs. -> path

    format: "huggingface", a folder that Transformers opens; or "gguf", a file that llama.cpp runs.
    tokenizer: any of this package's, or None for the weights alone. dtype: of the matrices (default: what they are);
    float32, float16 or bfloat16. chat_template, stop_tokens: as `load` gives them.
    Errors: ValueError for a model that is not built like LLaMA, for a tokenizer that the format has no words for, and
    if there is something at `path` already; DiskFull, other OSError. Nothing is left half written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format={format!r}; expected one of {', '.join(FORMATS)}")
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"{path}: there is something already; give another name, or delete it")
    dtype = model.embed_tokens.weight.dtype if dtype is None else dtype
    if dtype not in FILE_TYPES:
        raise ValueError(f"dtype={dtype}; expected one of {', '.join(map(str, FILE_TYPES))}")
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"tokenizer {tokenizer.vocab_size:,} tokens, model {model.config.vocab_size:,}; not a pair")
    biased = check_is_llama(model)
    write = {"huggingface": write_huggingface, "gguf": write_gguf}[format]
    write(model, tokenizer, path, dtype, biased, chat_template, tuple(stop_tokens))
    return path


def check_is_llama(model: Llama) -> frozenset[str]:
    """Names of the linear layers with a bias. Errors: ValueError if the model has other parts than LLaMA's."""
    for field, part in model.parts.names().items():
        usual, name = Parts().names()[field], part.split("(")[0]
        if name != usual and "." not in name:  # with a dot: somebody else's, whose weights are looked at below
            raise ValueError(f"{field}={part}: other programs know only LLaMA's {usual}; export a model made of those")
    biased = {
        name.rpartition(".")[2] for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.bias is not None
    } & (ATTENTION | FEEDFORWARD)  # fmt: skip
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    check_shapes(found, tensor_shapes(model.config, biased), "this model")
    return frozenset(biased)


def write_huggingface(model: Llama, tokenizer, folder: Path, dtype, biased, chat_template, stop_tokens):
    """config.json, model.safetensors, generation_config.json, tokenizer.json, tokenizer_config.json."""
    files: dict[str, Any] = {"config.json": huggingface_config(model.config, biased, dtype, stop_tokens)}
    if stop_tokens:
        files["generation_config.json"] = {"eos_token_id": list(stop_tokens)}
    if tokenizer is not None:
        files["tokenizer.json"], settings = tokenizer_json(tokenizer)
        files["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_len, **settings,
        } | ({"chat_template": chat_template} if chat_template else {})  # fmt: skip
    theirs = their_names(model.config.n_layers, "huggingface")
    weights = {
        _rename(name, theirs): parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
    }
    with replacing_folder(folder) as new:
        for name, content in files.items():
            with replacing(new / name) as file:
                file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        safetensors.torch.save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
        with open(new / "model.safetensors", "rb") as file:
            os.fsync(file.fileno())


def huggingface_config(config: Config, biased: Iterable[str], dtype: torch.dtype, stop_tokens=()) -> dict[str, Any]:
    """A config.json, with RoPE spelt as all versions of Transformers know it. Errors: ValueError for odd biases."""
    attention, feedforward = set(biased) & ATTENTION, set(biased) & FEEDFORWARD
    qwen2 = attention == ATTENTION - {"o_proj"} and not feedforward
    if (attention not in (set(), ATTENTION) and not qwen2) or feedforward not in (set(), FEEDFORWARD):
        raise ValueError(f"biases of {', '.join(sorted(biased))} only: Transformers has no such Llama")
    scaling = config.rope_scaling and {"rope_type": config.rope_scaling.kind} | {
        {"original_max_len": "original_max_position_embeddings"}.get(name, name): value
        for name, value in config.rope_scaling.numbers().items()
    }
    fields = {
        "architectures": ["Qwen2ForCausalLM" if qwen2 else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen2 else "llama",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim, "hidden_act": "silu",
        "max_position_embeddings": config.max_len, "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_base,
        "rope_scaling": scaling, "tie_word_embeddings": config.tied, "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."), "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None,
    }  # fmt: skip
    if stop_tokens:
        fields["eos_token_id"] = list(stop_tokens)
    return fields if qwen2 else fields | {"attention_bias": bool(attention), "mlp_bias": bool(feedforward)}


def _rename(name: str, theirs: dict[str, str]) -> str:
    module, _, kind = name.rpartition(".")
    return f"{theirs[module]}.{kind}"


def write_gguf(model: Llama, tokenizer, path: Path, dtype, biased, chat_template, stop_tokens):
    """One file: metadata, the list of tensors, the tensors. Norms and biases stay float32, as llama.cpp wants them."""
    config = model.config
    metadata = gguf_metadata(config, dtype)
    metadata |= gguf_keys(tokenizer, stop_tokens) if tokenizer else {"tokenizer.ggml.model": "none"}
    if chat_template:
        metadata["tokenizer.chat_template"] = chat_template
    theirs = their_names(config.n_layers, "gguf")
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}

    def read(parameter: Tensor, n_heads: int | None) -> Tensor:
        weight = parameter.detach().to("cpu", torch.float32 if parameter.ndim == 1 else dtype)
        return (weight if n_heads is None else half_to_interleaved(weight, n_heads)).contiguous()

    tensors: dict[str, tuple[tuple[int, ...], torch.dtype, Callable[[], Tensor]]] = {
        _rename(name, theirs): (
            tuple(parameter.shape), torch.float32 if parameter.ndim == 1 else dtype,
            lambda parameter=parameter, name=name: read(parameter, heads.get(name.split(".")[-2])),
        )
        for name, parameter in model.named_parameters()
    }  # fmt: skip
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        factors = rope_factors(config)
        tensors["rope_freqs.weight"] = (tuple(factors.shape), torch.float32, lambda: factors)
    n_bytes = sum(math.prod(shape) * kind.itemsize for shape, kind, _ in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, n_bytes) as file:
        write_file(file, metadata, tensors)


def gguf_metadata(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """What llama.cpp wants to know of the sizes."""
    preset = next((name for name, known in PRESETS.items() if known == config), "minillama")
    metadata: dict[str, Any] = {
        "general.architecture": "llama", "general.name": preset, "general.alignment": ALIGNMENT,
        "general.file_type": FILE_TYPES[dtype], "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_len, "llama.embedding_length": config.d_model,
        "llama.block_count": config.n_layers, "llama.feed_forward_length": config.d_ff,
        "llama.attention.head_count": config.n_heads, "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim, "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "llama.rope.dimension_count": config.head_dim, "llama.rope.freq_base": float(config.rope_base),
    }  # fmt: skip
    scaling = config.rope_scaling
    if scaling is None:
        return metadata
    if scaling.kind == "linear":
        return metadata | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float(scaling.factor)}
    return metadata | {"llama.rope.scaling.original_context_length": scaling.original_max_len}
