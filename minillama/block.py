"""A block, one layer of the model, and the parts it is made of. Chapter 07."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

from torch import Tensor, nn

from minillama.attention import Attention
from minillama.config import Config
from minillama.feedforward import ReLUFeedForward, SwiGLU
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import LearnedPositions, NoPositions, RoPE, Sinusoidal


class Block(nn.Module):
    """One layer: look around, then think, each time on a normalized copy and added to what was there (pre-norm).

    Shape: x (B, T, C) -> (B, T, C); mask bool, broadcast to (B, H, T, S). `inner` goes to the attention as it is.
    Computes h = x + attention(norm(x)); h + feedforward(norm(h)).
    Source: Xiong et al. 2020, arXiv:2002.04745 (pre-norm); Touvron et al. 2023, arXiv:2302.13971.
    """

    def __init__(self, config: Config, parts: "Parts"):
        super().__init__()
        sizes: dict[str, int] = {"n_kv_heads": config.n_kv_heads}
        if config.head_dim * config.n_heads != config.d_model:
            sizes["head_dim"] = config.head_dim
        self.attention_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.attention = parts.attention(config.d_model, config.n_heads, **sizes)
        self.feedforward_norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.feedforward = parts.feedforward(config.d_model, config.d_ff)

    def forward(self, x: Tensor, mask: Tensor | None = None, **inner) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        return x + self.feedforward(self.feedforward_norm(x))


class PostNormBlock(Block):
    """The block of 2017: normalize after adding. Computes h = norm(x + attention(x)); norm(h + feedforward(h)).

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, **inner) -> Tensor:
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        return self.feedforward_norm(x + self.feedforward(x))


@dataclass(frozen=True)
class Parts:
    """What a model is built from: five classes, or functions that return a module. Chapter 07.

    norm(d_model, eps=...), feedforward(d_model, d_ff), attention(d_model, n_heads, n_kv_heads=...),
    position(config), block(config, parts). The default is LLaMA.
    Errors: TypeError if a part is an instance instead of a class.

    >>> Parts(norm=LayerNorm).names()["norm"]
    'LayerNorm'
    """

    norm: Callable[..., nn.Module] = RMSNorm
    feedforward: Callable[..., nn.Module] = SwiGLU
    attention: Callable[..., nn.Module] = Attention
    position: Callable[..., nn.Module] = RoPE
    block: Callable[..., nn.Module] = Block

    def __post_init__(self):
        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, nn.Module):
                name = type(part).__name__
                raise TypeError(
                    f"Parts({field.name}={name}(...)): pass the class, {field.name}={name}, not an instance"
                )
            if not callable(part):
                raise TypeError(f"Parts({field.name}={part!r}): expected a class or a function that returns a module")

    @classmethod
    def from_names(cls, names: dict[str, str]) -> "Parts":
        """The package's own parts of these names. Errors: ValueError if one is somebody else's, and has to be given."""
        if not isinstance(names, dict) or set(names) != {field.name for field in fields(cls)}:
            raise ValueError(f"parts: expected a name for each of {[f.name for f in fields(cls)]}, found {names!r}")
        for field, name in names.items():
            if not isinstance(name, str) or name not in _OWN:
                raise ValueError(
                    f"made with {field}={name}, which is not one of minillama's own parts; "
                    f"load it with parts=Parts({field}=...)"
                )
        return cls(**{field: _OWN[name] for field, name in names.items()})

    def names(self) -> dict[str, str]:
        """The parts' names, as a checkpoint stores them: {"norm": "RMSNorm", ...}"""
        return {field.name: _name(getattr(self, field.name)) for field in fields(self)}


def _name(part: Callable) -> str:
    """'RMSNorm' for the package's own, 'torch.nn...RMSNorm' or '__main__.RMSNorm' for others.

    partial(Attention, bias=True) is 'Attention(bias=True)'.
    """
    if isinstance(part, partial):
        options = ", ".join(f"{key}={_value(value)}" for key, value in sorted(part.keywords.items()))
        return f"{_name(part.func)}({options})"
    name = getattr(part, "__qualname__", type(part).__qualname__)
    module = getattr(part, "__module__", None) or ""
    return name if module.split(".")[0] == "minillama" or not module else f"{module}.{name}"


def _value(value) -> str:
    return _name(value) if callable(value) else repr(value)


_OWN: dict[str, Callable[..., nn.Module]] = {
    _name(part): part
    for part in (
        RMSNorm, LayerNorm, SwiGLU, ReLUFeedForward, Attention, RoPE, Sinusoidal, LearnedPositions, NoPositions,
        Block, PostNormBlock,
    )
}  # fmt: skip
