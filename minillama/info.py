"""What a model costs, before anything is built: numbers to learn, operations, memory."""

from dataclasses import dataclass

import torch

from minillama.block import Parts
from minillama.config import Config
from minillama.llama import Llama


@dataclass(frozen=True)
class Costs:
    """Of a model of given sizes. Memory in bytes, operations in floating-point operations (a product and a sum: 2)."""

    n_parameters: int
    n_embedding: int  # of these, in the embedding (and in the output layer, where it is not tied)
    flops_per_token: int  # to read or write one token, the text being n_tokens long
    training_flops_per_token: int  # forward, and about twice that backward
    weights_bytes: int
    cache_bytes_per_token: int
    cache_bytes: int  # for the whole text
    training_bytes: int  # weights, gradients and AdamW's two means in float32, without activations


def costs(config: Config, n_tokens: int | None = None, bytes_per_number: int = 2, parts: Parts | None = None) -> Costs:
    """What a model costs, for a text of n_tokens (default config.max_len). Nothing is allocated.

    bytes_per_number: 4 for float32, 2 for bfloat16; training is counted in float32.
    Matrix products are counted exactly, as 2 operations per weight and token, and attention as 4 * n_tokens * H * D
    for the last token of the text; norms and the like are left out.

    >>> from minillama.config import PRESETS
    >>> f"{costs(PRESETS['llama-2-7b']).n_parameters:,}"
    '6,738,415,616'
    """
    n_tokens = config.max_len if n_tokens is None else n_tokens
    with torch.device("meta"):
        model = Llama(config, parts or Parts())
    n_embedding = config.vocab_size * config.d_model
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    n_products = matrices - (0 if config.tied else n_embedding)  # looking up an embedding is no product
    attention = 4 * n_tokens * config.n_heads * config.head_dim * config.n_layers
    per_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * bytes_per_number
    return Costs(
        n_parameters=model.n_parameters,
        n_embedding=n_embedding * (1 if config.tied else 2),
        flops_per_token=2 * n_products + attention,
        training_flops_per_token=3 * (2 * n_products + attention // 2),  # on average, half the text is visible
        weights_bytes=model.n_parameters * bytes_per_number,
        cache_bytes_per_token=per_token,
        cache_bytes=per_token * n_tokens,
        training_bytes=16 * model.n_parameters,
    )


def quantity(number: float, unit: str = "") -> str:
    """A large number for a reader: 6738415616 -> '6.74 G'."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:g} {unit}".rstrip()
