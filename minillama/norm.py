"""Normalization: keep the size of every token's vector in hand. Chapter 07."""

import torch
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Shift each vector to mean 0, divide by its standard deviation, then scale and shift each channel.

    Shape: (B, T, C) -> (B, T, C)
    Computes (x - mean) / sqrt(var + eps) * weight + bias over the channels (var divides by C, not C - 1), in
    float32 whatever x is; the result has the dtype of x (with weights of that dtype).
    Source: Ba et al. 2016, arXiv:1607.06450.

    >>> LayerNorm(4)(torch.tensor([[[1.0, 0, 0, 0]]])).detach().round(decimals=3)
    tensor([[[ 1.7320, -0.5770, -0.5770, -0.5770]]])
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps)  # (B, T, 1)
        return (centred * scale).to(x.dtype) * self.weight + self.bias


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale each channel.

    Shape: (B, T, C) -> (B, T, C)
    Computes x / sqrt(mean(x**2) + eps) * weight over the channels, in float32 whatever x is; the result has the
    dtype of x (with a weight of that dtype).
    Source: Zhang and Sennrich 2019, arXiv:1910.07467.

    >>> RMSNorm(4)(torch.full((1, 2, 4), 3.0))[0, 0].detach()
    tensor([1.0000, 1.0000, 1.0000, 1.0000])
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()  # x**2 overflows in float16 from x = 256 on
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)  # (B, T, 1)
        return (wide * scale).to(x.dtype) * self.weight
