"""Weights in 8 or 4 bits: a number per group says how large one step is. Chapter 12.

Only weights are rounded, once; inputs stay as they are (up to bfloat16). A token's step through the model reads every
weight once and does little else, so half the bytes is nearly twice the speed. The products are torch's own CPU kernels.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP_SIZE = 32  # weights that share a scale and a minimum in 4 bits
MANY_ROWS = 16  # from here on, unpacking int8 weights first is faster than the kernel for few rows


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to whole steps from -127 to 127; the largest number of a row, by size, becomes 127 steps.

    Shape: (N, K) -> int8 (N, K), scale (N,) in float32: one step of that row. A row of zeros has scale 1.

    >>> quantize_int8(torch.tensor([[0.5, -2.0, 1.0]]))
    (tensor([[  32, -127,   64]], dtype=torch.int8), tensor([0.0157]))
    """
    weight = weight.float()
    largest = weight.abs().amax(dim=1, keepdim=True)  # (N, 1)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scale).round().clamp(-127, 127).to(torch.int8), scale[:, 0]


def dequantize_int8(codes: Tensor, scale: Tensor) -> Tensor:
    """Undo quantize_int8, up to half a step. int8 (N, K), (N,) -> float32 (N, K)"""
    return codes.float() * scale.float()[:, None]


def quantize_int4(weight: Tensor, group_size: int = GROUP_SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Round each group of a row to 16 evenly spaced numbers, from the group's smallest to its largest.

    Shape: (N, K) -> codes 0 to 15, uint8 (N, K); scale and minimum, float32 (N, K / group_size). A number is about
    code * scale + minimum. A group of equal numbers has scale 1. (GGUF's Q4_1 is this, with group_size 32.)
    Errors: ValueError if group_size does not divide K.

    >>> codes, scale, minimum = quantize_int4(torch.tensor([[0.0, 1.0, 2.0, 15.0]]), group_size=4)
    >>> codes.tolist(), scale.tolist(), minimum.tolist()
    ([[0, 1, 2, 15]], [[1.0]], [[0.0]])
    """
    N, K = weight.shape
    if group_size < 1 or K % group_size:
        raise ValueError(f"rows of {K} numbers do not split into groups of group_size={group_size}")
    groups = weight.float().view(N, K // group_size, group_size)
    minimum, maximum = groups.aminmax(dim=-1, keepdim=True)  # (N, K / group_size, 1)
    scale = torch.where(maximum > minimum, (maximum - minimum) / 15, 1.0)
    codes = ((groups - minimum) / scale).round().clamp(0, 15).to(torch.uint8)
    return codes.view(N, K), scale[..., 0], minimum[..., 0]


def dequantize_int4(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """Undo quantize_int4, up to half a step. (N, K), (N, K / group_size) twice -> float32 (N, K)"""
    groups = codes.float().view(*scale.shape, -1)
    return (groups * scale.float()[..., None] + minimum.float()[..., None]).view(codes.shape)


class Int8Linear(nn.Module):
    """A linear layer without bias, its weight in int8; made by `pack`.

    Shape: (..., K) -> (..., N), in the dtype of x.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor):
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.bfloat16())

    @classmethod
    def pack(cls, weight: Tensor) -> "Int8Linear":
        """Round this weight, (N, K)."""
        return cls(*quantize_int8(weight))

    def forward(self, x: Tensor) -> Tensor:
        rows, K = x.reshape(-1, x.size(-1)).bfloat16(), x.size(-1)
        # For few rows torch's kernel is faster; where 32 does not divide K, it reads beyond the weight.
        if len(rows) < MANY_ROWS and K % 32 == 0 and x.device.type == "cpu":
            out = torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.scale)
        else:
            out = F.linear(rows, self.codes.bfloat16()) * self.scale
        return out.view(*x.shape[:-1], -1).to(x.dtype)

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows of the weight. (...) -> (..., K), float32"""
        return self.codes[numbers].float() * self.scale[numbers].float()[..., None]


class Int4Linear(nn.Module):
    """A linear layer without bias, its weight in 4 bits, in groups. (..., K) -> (..., N), in the dtype of x.

    Made by `pack`; for the CPU only. Scales and minima are kept in bfloat16, as torch's kernel has them.
    """

    packed: Tensor
    scale_and_middle: Tensor

    def __init__(self, packed: Tensor, scale_and_middle: Tensor, group_size: int):
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("scale_and_middle", scale_and_middle)
        self.group_size = group_size

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Does torch's kernel take a weight of this shape?"""
        return weight.size(0) % 16 == 0 and weight.size(1) % GROUP_SIZE == 0

    @classmethod
    def pack(cls, weight: Tensor) -> "Int4Linear":
        """Round this weight, (N, K), in groups of GROUP_SIZE."""
        codes, scale, minimum = quantize_int4(weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        middle = minimum + 8 * scale  # the kernel computes (code - 8) * scale + middle
        return cls(packed, torch.stack([scale.T, middle.T], dim=-1).bfloat16().contiguous(), GROUP_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1)).bfloat16()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group_size, self.scale_and_middle)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


class PlainLinear(nn.Module):
    """A linear layer without bias, its weight in bfloat16 or float32. (..., K) -> (..., N), in the dtype of x."""

    weight: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and x.numel() == x.size(-1):  # one row: a plain loop reads the weight fastest
            return (self.weight.float() * x.unsqueeze(-2)).sum(-1).to(x.dtype)
        return F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows of the weight. (...) -> (..., K), float32"""
        return self.weight[numbers].float()


class PackedEmbedding(nn.Module):
    """An embedding that reads rows of a packed linear layer, which a tied model shares. (...) -> (..., C), float32"""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer.rows(tokens)


def pack_int4(weight: Tensor) -> nn.Module:
    """An Int4Linear where the kernel takes this shape, else an Int8Linear."""
    return Int4Linear.pack(weight) if Int4Linear.fits(weight) else Int8Linear.pack(weight)


FORMATS: dict[str, Callable[[Tensor], nn.Module]] = {
    "float32": lambda weight: PlainLinear(weight.float()),
    "bfloat16": lambda weight: PlainLinear(weight.bfloat16()),
    "int8": Int8Linear.pack,
    "int4": pack_int4,
}


@torch.no_grad()
def quantize(model: Any, weights: str) -> Any:
    """A copy of a Llama, of any parts, with its linear layers in "int4", "int8", "bfloat16" or "float32".

    Embedding and output layer take 8 bits at least: 4 would cost more accuracy than all other layers together. What is
    not a linear layer stays as it is, in float32. The copy can't be trained.
    Errors: ValueError for another format, a linear layer with a bias, or int4 elsewhere than on the CPU.
    """
    check_format(weights, model)
    linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    large = [*linears.values(), model.embed_tokens]
    small = copy.deepcopy(model, {id(p): p for layer in large for p in layer.parameters()})  # these are not copied
    for name, layer in linears.items():
        parent, _, own = name.rpartition(".")
        setattr(small.get_submodule(parent), own, FORMATS[weights](layer.weight))
    small.embed_tokens, small.lm_head = pack_outer(model, weights)
    for parameter in small.parameters():  # of norms; what is packed are buffers
        parameter.data = parameter.data.float()
    return small.requires_grad_(False).eval()


def check_format(weights: str, model: Any):
    """Raise ValueError unless this is one of FORMATS, and can be had for this model on its device."""
    device = model.lm_head.weight.device
    if weights not in FORMATS:
        raise ValueError(f"weights={weights!r}; expected one of {', '.join(FORMATS)}")
    if weights == "int4" and device.type != "cpu":
        raise ValueError(f"int4 weights work on the CPU only, and this model is on {device}; take int8 or bfloat16")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            raise ValueError(f"{name} has a bias; the packed formats have none, so run this model as it is")


def pack_outer(model: Any, weights: str) -> tuple[PackedEmbedding, nn.Module]:
    """Embedding and output layer of a Llama, packed, with one set of numbers if it is tied."""
    pack = FORMATS["int8" if weights == "int4" else weights]
    head = pack(model.lm_head.weight)
    tied = model.lm_head.weight is model.embed_tokens.weight
    return PackedEmbedding(head if tied else pack(model.embed_tokens.weight)), head


def n_bytes(model: nn.Module) -> int:
    """Bytes of all weights, packed or not; shared ones count once."""
    tensors = {id(x): x for x in [*model.parameters(), *model.buffers()]}
    return sum(x.numel() * x.element_size() for x in tensors.values())
