"""Where a token stands. Attention alone cannot tell; these can. Chapter 06.

Three ways: add a pattern of waves (sinusoidal), add a learned vector, or rotate queries and keys (RoPE). Each part has
`add(x, positions)`, for the embeddings, and `rotate(x, positions)`, for queries and keys; None where it does neither.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


def sinusoidal(n_positions: int, d_model: int) -> Tensor:
    """Give each position a vector of waves, from fast to slow. -> (T, C)

    Computes sin(t / 10000**(2i/C)) in channel 2i and cos of the same angle in channel 2i + 1.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> sinusoidal(2, 4).round(decimals=3)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8410, 0.5400, 0.0100, 1.0000]])
    """
    return _waves(torch.arange(n_positions), d_model)


def _waves(positions: Tensor, d_model: int) -> Tensor:
    """(...,) -> (..., C)"""
    angles = positions[..., None].float() * rope_frequencies(d_model).to(positions.device)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :d_model]


def rope_frequencies(head_dim: int, base: float = 10000.0) -> Tensor:
    """Angle, in radians per position, by which each pair of channels turns: base**(-2i/D). -> (D/2,)

    >>> rope_frequencies(4, base=100.0)
    tensor([1.0000, 0.1000])
    """
    return 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)


def cos_sin(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle by which each pair turns at each position. (..., T), (D/2,) -> (..., T, D/2) twice

    In float32, since bfloat16 can't count past 256.
    """
    angles = positions[..., None].float() * frequencies.to(positions.device)
    return angles.cos(), angles.sin()


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pair (x[i], x[i + D/2]) of each vector by its angle: Hugging Face's half-split layout.

    Shape: x (..., T, D), cos and sin (T, D/2) or (B, T, D/2) -> (..., T, D), in the dtype of x.

    >>> rotate_pairs(torch.tensor([[3.0, 4.0]]), cos=torch.tensor([[0.0]]), sin=torch.tensor([[1.0]]))  # a quarter
    tensor([[-4.,  3.]])
    """
    while 2 < cos.ndim < x.ndim:  # one set of angles per sequence: the same for all its heads
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate each pair of channels of q or k by an angle that grows with the position.

    Shape: x (..., T, D), positions (T,) or (B, T) -> (..., T, D). Half-split: channel i is paired with i + D/2 and
    turned by position * base**(-2i/D) radians. A product of a rotated query and a rotated key depends only on how far
    apart they stand.
    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.

    >>> apply_rope(torch.tensor([[1.0, 0.0]]), torch.tensor([math.pi / 2])).round(decimals=3).abs()
    tensor([[0., 1.]])
    """
    return rotate_pairs(x, *cos_sin(positions, rope_frequencies(x.size(-1), base)))


def apply_rope_interleaved(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """The same rotation in Meta's layout: channel 2i is paired with 2i + 1. Shapes as in apply_rope."""
    half_split = torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)
    left, right = apply_rope(half_split, positions, base).chunk(2, dim=-1)
    return torch.stack([left, right], dim=-1).flatten(-2)


def interleaved_to_half(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of a q or k weight (or bias) made for interleaved RoPE, so that it fits half-split RoPE.

    Shape: (H * D, ...) -> (H * D, ...). Scores are unchanged, since q and k are reordered alike. For k, n_heads is
    the number of key/value heads.

    >>> interleaved_to_half(torch.arange(8), n_heads=1)
    tensor([0, 2, 4, 6, 1, 3, 5, 7])
    """
    pairs = weight.view(n_heads, -1, 2, *weight.shape[1:])  # (H, D/2, 2, ...)
    return pairs.transpose(1, 2).reshape(weight.shape)


def half_to_interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Undo interleaved_to_half. (H * D, ...) -> (H * D, ...)"""
    halves = weight.view(n_heads, 2, -1, *weight.shape[1:])  # (H, 2, D/2, ...)
    return halves.transpose(1, 2).reshape(weight.shape)


def linear_scaling(frequencies: Tensor, factor: float) -> Tensor:
    """Stretch positions: a model made for n positions reads factor * n, all of them squeezed into its old range.

    Source: Chen et al. 2023, arXiv:2306.15595.
    """
    return frequencies / factor


def llama3_scaling(
    frequencies: Tensor, factor: float, low_freq_factor: float, high_freq_factor: float, original_max_len: int
) -> Tensor:
    """Llama 3.1's scaling: slow pairs are stretched, fast pairs stay, those between go smoothly from one to the other.

    A pair is slow if it turns fewer than low_freq_factor times in original_max_len positions, fast if more than
    high_freq_factor times.
    Source: the code released with Llama 3.1 (Grattafiori et al. 2024, arXiv:2407.21783, describes the model).
    """
    turns = original_max_len * frequencies / (2 * math.pi)
    fast = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return fast * frequencies + (1 - fast) * frequencies / factor


def ntk_base(base: float, head_dim: int, factor: float) -> float:
    """The base that stretches RoPE's slowest pair by factor and leaves its fastest as it is ("NTK-aware" scaling).

    Source: a public post by bloc97, 2023, restated in Peng et al. 2023, arXiv:2309.00071, section 3.1.

    >>> ntk_base(10000.0, head_dim=64, factor=2.0) / 10000 > 2
    True
    """
    return base * factor ** (head_dim / (head_dim - 2))


class NoPositions(nn.Module):
    """Say nothing about positions."""

    rotate = None

    def __init__(self, config):
        super().__init__()

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        return x


class Sinusoidal(NoPositions):
    """Add waves to the embeddings, which are first scaled by sqrt(d_model), as in 2017 (section 3.4)."""

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        C = x.size(-1)
        return x * math.sqrt(C) + _waves(positions, C).to(x.dtype)


class LearnedPositions(NoPositions):
    """Add a vector of its own, learned, for each position up to config.max_len. Source: GPT (Radford et al. 2018)."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_positions = nn.Embedding(config.max_len, config.d_model)

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        if positions.max() >= self.embed_positions.num_embeddings:
            n, last = self.embed_positions.num_embeddings, int(positions.max())
            raise ValueError(
                f"position {last}; this model has learned 0 to {n - 1}: shorten the text, or raise max_len"
            )
        return x + self.embed_positions(positions)


class RoPE(NoPositions):
    """Rotate queries and keys, LLaMA's way, with config's head_dim, rope_base and rope_scaling.

    All layers rotate by the same angles: `add`, called before the first one, computes them once for all.
    Errors: ValueError if head_dim is odd.
    """

    def __init__(self, config):
        super().__init__(config)
        if config.head_dim % 2:
            raise ValueError(f"head_dim={config.head_dim} is odd; RoPE turns pairs, so give it an even number")
        self.head_dim, self.base, self.scaling = config.head_dim, config.rope_base, config.rope_scaling
        self.prepared: Any = (None, None, None)  # positions, and their cos and sin

    def frequencies(self) -> Tensor:
        """Radians per position for each pair, scaled where the config says so. -> (D/2,)"""
        frequencies = rope_frequencies(self.head_dim, self.base)
        if self.scaling is None:
            return frequencies
        scale = {"linear": linear_scaling, "llama3": llama3_scaling}[self.scaling.kind]
        return scale(frequencies, **self.scaling.numbers())

    def add(self, x: Tensor, positions: Tensor) -> Tensor:
        """Leave the embeddings as they are, and prepare the angles of these positions for `rotate`."""
        self.prepared = positions, *cos_sin(positions, self.frequencies())
        return x

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate queries or keys as apply_rope does. x (..., T, D), positions (T,) or (B, T) -> (..., T, D)"""
        prepared_for, cos, sin = self.prepared
        if prepared_for is not positions:
            cos, sin = cos_sin(positions, self.frequencies())
        return rotate_pairs(x, cos, sin)
