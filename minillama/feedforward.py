"""The feed-forward block: each token thinks for itself. Chapter 05."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


def swiglu_d_ff(d_model: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Width of LLaMA's feed-forward block: two thirds of 4 * d_model, rounded up to a multiple.

    SwiGLU has three matrices where ReLU has two; 2/3 keeps the number of parameters. LLaMA 2 70B and LLaMA 3
    stretch the result by a multiplier (1.3) before rounding.
    Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2; the rounding is in Meta's released code.

    >>> swiglu_d_ff(4096), swiglu_d_ff(8192, multiple_of=4096, multiplier=1.3)
    (11008, 28672)
    """
    width = int(2 * 4 * d_model / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * math.ceil(width / multiple_of)


class ReLUFeedForward(nn.Module):
    """The feed-forward block of 2017: widen, cut off below zero, narrow.

    Shape: (B, T, C) -> (B, T, C). Computes down(relu(up(x))).
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3.
    """

    def __init__(self, d_model: int, d_ff: int, *, bias: bool = True):
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)))


class SwiGLU(nn.Module):
    """LLaMA's feed-forward block: one half says what, the other half how much of it.

    Shape: (B, T, C) -> (B, T, C). Computes down(silu(gate(x)) * up(x)), silu(z) = z * sigmoid(z).
    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def __init__(self, d_model: int, d_ff: int, *, bias: bool = False):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
