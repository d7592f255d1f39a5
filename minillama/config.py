"""The sizes of a model: numbers only, checked once, and the true sizes of the LLaMA family."""

import dataclasses
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from minillama.feedforward import swiglu_d_ff

# Far beyond any LLaMA of this course; a config from a broken file must not ask for a terabyte.
LIMITS = {
    "vocab_size": 2**20, "d_model": 2**16, "n_layers": 2**10, "n_heads": 2**10, "n_kv_heads": 2**10,
    "head_dim": 2**12, "d_ff": 2**20, "max_len": 2**24,
}  # fmt: skip


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE's frequencies are stretched for longer texts: "linear" or "llama3" (see position.py)."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_len: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"kind={self.kind!r}; this course knows 'linear' and 'llama3'")
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            check_positive(name, getattr(self, name))
        check_count("original_max_len", self.original_max_len, limit=LIMITS["max_len"])
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be smaller than high_freq_factor={self.high_freq_factor}"
            )

    def numbers(self) -> dict[str, float]:
        """What the scaling function of this kind is called with, besides the frequencies."""
        numbers = {name: value for name, value in vars(self).items() if name != "kind"}
        return numbers if self.kind == "llama3" else {"factor": self.factor}


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder-only model; what is left out follows from the rest.

    vocab_size: number of different tokens. d_model: numbers per token. n_layers: blocks. n_heads: query heads.
    n_kv_heads: key/value heads (default n_heads). head_dim: numbers per head (default d_model / n_heads).
    d_ff: width inside the feed-forward block (default: LLaMA's rule). max_len: longest text in tokens.
    tied: the output layer uses the embedding's weights.
    Errors: ValueError that names the field, its value and a way out.

    >>> Config(vocab_size=65, d_model=48, n_layers=2, n_heads=5)
    Traceback (most recent call last):
    ValueError: d_model=48 does not split into n_heads=5 heads; try d_model=50, or give head_dim
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int = None  # type: ignore[assignment]  # the three Nones are filled in below
    head_dim: int = None  # type: ignore[assignment]
    d_ff: int = None  # type: ignore[assignment]
    max_len: int = 2048
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = False

    def __post_init__(self):
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", from_dict(RopeScaling, self.rope_scaling, "rope_scaling."))
        if not isinstance(self.rope_scaling, RopeScaling | None):
            raise ValueError(f"rope_scaling={self.rope_scaling!r}; expected its fields kind, factor, ..., or null")
        for name in ("vocab_size", "d_model", "n_layers", "n_heads"):
            check_count(name, getattr(self, name))
        if self.head_dim is None:
            if self.d_model % self.n_heads:
                nearest = self.n_heads * max(1, round(self.d_model / self.n_heads))
                raise ValueError(
                    f"d_model={self.d_model} does not split into n_heads={self.n_heads} heads; "
                    f"try d_model={nearest}, or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.d_model // self.n_heads)
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", swiglu_d_ff(self.d_model))
        for name in ("n_kv_heads", "head_dim", "d_ff", "max_len"):
            check_count(name, getattr(self, name))
        if self.n_heads % self.n_kv_heads:
            divisors = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            raise ValueError(
                f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}; "
                f"try one of n_kv_heads={divisors}"
            )
        check_positive("norm_eps", self.norm_eps)
        check_positive("rope_base", self.rope_base)
        if not isinstance(self.tied, bool):
            raise ValueError(f"tied={self.tied!r}; expected true or false")

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, None: what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: str = "") -> "Config":
        """Undo to_dict. Errors: ValueError that names unknown and missing fields, with `where` (a file) in front."""
        return from_dict(cls, fields, where)


def from_dict(cls, fields: dict[str, Any], where: str):
    """Build a dataclass from a dict that may come from a broken file."""
    if not isinstance(fields, dict):
        raise ValueError(f"{where}expected a JSON object of fields, found {type(fields).__name__}")
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(known)}"
            raise ValueError(f"{where}unknown field {name!r}; {hint}")
    for name, field in known.items():
        if field.default is dataclasses.MISSING and name not in fields:
            raise ValueError(f"{where}field {name!r} is missing")
    try:
        return cls(**fields)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def check_count(name: str, value: Any, limit: int | None = None):
    """Raise ValueError unless value is a whole number from 1 to limit (default: the field's own)."""
    limit = LIMITS[name] if limit is None else limit
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={value!r}; expected a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value}; expected at least 1")
    if value > limit:
        raise ValueError(
            f"{name}={value} is more than {limit}, the most this package builds ({4 * value // 10**9:,} GB for each "
            f"column of float32 numbers that long); check the file it came from"
        )


def check_positive(name: str, value: Any):
    """Raise ValueError unless value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}={value!r}; expected a finite number above 0")


def _llama(d_model, n_layers, n_heads, d_ff, **rest) -> Config:
    return Config(d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_ff=d_ff, **rest)


_LLAMA_1: dict[str, Any] = dict(vocab_size=32000, max_len=2048, norm_eps=1e-6)
_LLAMA_2: dict[str, Any] = dict(vocab_size=32000, max_len=4096)
_LLAMA_3: dict[str, Any] = dict(vocab_size=128256, max_len=8192, rope_base=500000.0, n_kv_heads=8)
_LLAMA_31: dict[str, Any] = _LLAMA_3 | dict(max_len=131072, rope_scaling=RopeScaling("llama3", factor=8.0))
_LLAMA_32: dict[str, Any] = _LLAMA_31 | dict(rope_scaling=RopeScaling("llama3", factor=32.0), tied=True)
_SMOL: dict[str, Any] = dict(vocab_size=49152, max_len=8192, tied=True)

# Sizes as published with the models (their config.json and params.json).
PRESETS = {
    "tiny": Config(vocab_size=65, d_model=64, n_layers=3, n_heads=2, d_ff=176, max_len=64, tied=True),
    "llama-1-7b": _llama(4096, 32, 32, 11008, **_LLAMA_1),
    "llama-1-13b": _llama(5120, 40, 40, 13824, **_LLAMA_1),
    "llama-1-33b": _llama(6656, 60, 52, 17920, **_LLAMA_1),
    "llama-1-65b": _llama(8192, 80, 64, 22016, **_LLAMA_1 | dict(norm_eps=1e-5)),
    "llama-2-7b": _llama(4096, 32, 32, 11008, **_LLAMA_2),
    "llama-2-13b": _llama(5120, 40, 40, 13824, **_LLAMA_2),
    "llama-2-70b": _llama(8192, 80, 64, 28672, n_kv_heads=8, **_LLAMA_2),
    "llama-3-8b": _llama(4096, 32, 32, 14336, **_LLAMA_3),
    "llama-3-70b": _llama(8192, 80, 64, 28672, **_LLAMA_3),
    "llama-3.1-8b": _llama(4096, 32, 32, 14336, **_LLAMA_31),
    "llama-3.1-70b": _llama(8192, 80, 64, 28672, **_LLAMA_31),
    "llama-3.1-405b": _llama(16384, 126, 128, 53248, **_LLAMA_31),
    "llama-3.2-1b": _llama(2048, 16, 32, 8192, **_LLAMA_32),
    "llama-3.2-3b": _llama(3072, 28, 24, 8192, **_LLAMA_32),
    "tinyllama-1.1b": _llama(2048, 22, 32, 5632, n_kv_heads=4, vocab_size=32000, max_len=2048),
    "smollm2-135m": _llama(576, 30, 9, 1536, n_kv_heads=3, rope_base=100000.0, **_SMOL),
    "smollm2-360m": _llama(960, 32, 15, 2560, n_kv_heads=5, rope_base=100000.0, **_SMOL),
    "smollm2-1.7b": _llama(2048, 24, 32, 8192, rope_base=130000.0, **_SMOL),
}
