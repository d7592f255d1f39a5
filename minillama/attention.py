"""Attention: every token looks at every token it may see, and takes what it needs. Chapters 03 and 04.

Letters: B batch, T queries, S keys, C d_model, H heads, G key/value heads, D head_dim.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def causal_mask(n_queries: int, n_keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Say which keys each query may look at: itself and everything before it.

    Shape: -> (T, S), bool, True means "may look". Query i sits at position S - T + i, so that with a cache the
    last query is also the last key. device: where the mask is made, default the CPU.

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    n_keys = n_queries if n_keys is None else n_keys
    query = torch.arange(n_keys - n_queries, n_keys, device=device)
    key = torch.arange(n_keys, device=device)
    return key <= query[:, None]  # (T, S)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average the values, weighted by how well each query matches each key.

    Shape: (..., T, D), (..., S, D), (..., S, Dv) -> (..., T, Dv); mask bool, broadcast to (..., T, S).
    Computes softmax(q k^T / sqrt(D)) v over the keys that the mask allows.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.

    >>> q, k, v = torch.zeros(1, 2), torch.zeros(2, 2), torch.tensor([[1.0], [3.0]])
    >>> attend(q, k, v)  # nothing to choose by: the plain average
    tensor([[2.]])
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (..., T, S)
    if mask is not None:
        # The lowest finite number, not -inf: a padded row that may look nowhere must not turn into NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Cut each token's vector into n_heads consecutive pieces. (B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.view(B, T, n_heads, C // n_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Put the pieces of each token side by side again. (B, H, T, D) -> (B, T, H * D)"""
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


def repeat_kv(x: Tensor, n_repeats: int) -> Tensor:
    """Give each key/value head to n_repeats consecutive query heads: a, b -> a, a, b, b.

    Shape: (B, G, S, D) -> (B, G * n_repeats, S, D)
    Source: Ainslie et al. 2023, arXiv:2305.13245 (grouped-query attention).
    """
    return x if n_repeats == 1 else x.repeat_interleave(n_repeats, dim=1)


class Attention(nn.Module):
    """Multi-head attention; with fewer key/value heads, grouped-query (G > 1) or multi-query (G = 1) attention.

    Shape: x (B, T, C) -> (B, T, C). mask bool, broadcast to (B, H, T, S), True means "may look".
    rotate: called on q (B, H, T, D) and k (B, G, T, D); a rotary position encoding goes in here.
    cache: has `append(k, v) -> (k, v)`, which returns everything stored so far (see cache.py).
    context: (B, S, C), where keys and values come from instead of x (cross-attention).
    attend: the function that does the averaging; `F.scaled_dot_product_attention` fits.
    Errors: ValueError if the heads don't divide evenly.
    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023, arXiv:2305.13245.

    >>> Attention(d_model=12, n_heads=6, n_kv_heads=2)(torch.randn(2, 3, 12)).shape
    torch.Size([2, 3, 12])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        *,
        head_dim: int | None = None,
        bias: bool = False,
        attend: Callable[..., Tensor] = attend,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if head_dim is None:
            if d_model % n_heads:
                raise ValueError(f"d_model={d_model} does not split into n_heads={n_heads} equal heads")
            head_dim = d_model // n_heads
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_heads={n_heads} is not a multiple of n_kv_heads={n_kv_heads}")
        self.n_heads, self.n_kv_heads, self.attend = n_heads, n_kv_heads, attend
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=bias)

    def forward(self, x: Tensor, mask=None, rotate=None, cache=None, context=None) -> Tensor:
        source = x if context is None else context
        q = split_heads(self.q_proj(x), self.n_heads)  # (B, H, T, D)
        k = split_heads(self.k_proj(source), self.n_kv_heads)  # (B, G, S, D)
        v = split_heads(self.v_proj(source), self.n_kv_heads)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n_repeats = self.n_heads // self.n_kv_heads
        out = self.attend(q, repeat_kv(k, n_repeats), repeat_kv(v, n_repeats), mask)  # (B, H, T, D)
        return self.o_proj(merge_heads(out))
