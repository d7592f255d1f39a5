"""Prove in seconds what a falling loss does not: that a model can't see the future, and a few things more. Chapter 09.

A model that leaks the answer trains wonderfully. So each property is put to the test: change what must not matter and
look whether anything moves; change what must matter and look whether something does.
"""

import copy
import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from minillama.block import Parts
from minillama.cache import cache_for
from minillama.config import Config
from minillama.llama import Llama
from minillama.train import next_token_loss

PASSED, FAILED, NOT_CLAIMED = "passed", "FAILED", "not claimed"
# Differences are measured in units of the logits' standard deviation.
SAME = 1e-4  # below this, rounding
MOVED = 1e-3  # above this, no rounding


@dataclass(frozen=True)
class Verdict:
    """What was found about one property. status: passed, FAILED or not claimed."""

    property: str
    status: str
    found: str


@dataclass(frozen=True)
class Certificate:
    """The verdicts on a model; printing it shows them as a table."""

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """No property failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The properties that failed, by name."""
        return [verdict.property for verdict in self.verdicts if verdict.status == FAILED]

    def __str__(self) -> str:
        lines = [
            textwrap.fill(f"{v.property:<28} {v.status:<12} {v.found}", width=100, subsequent_indent=" " * 42)
            for v in self.verdicts
        ]
        return "\n".join([*lines, "certified" if self.passed else f"NOT CERTIFIED: {', '.join(self.failed)}"])

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"certified": self.passed, "verdicts": [vars(verdict) for verdict in self.verdicts]}


def certify(model: nn.Module | Callable[[Tensor], Tensor], vocab_size: int | None = None, seed: int = 0) -> Certificate:
    """Test a Llama of any parts, or any function from tokens (B, T) to logits (B, T, V), for seven properties.

    A Llama may be one's own class, if it is called like ours and has its config and parts. It is tested as it is and,
    since an untrained one hardly looks around, with large random weights as well; the model itself is not changed. A
    function needs vocab_size, and is tested for the properties that it can have.
    Errors: ValueError if a function comes without vocab_size.

    >>> from minillama.config import Config
    >>> certify(Llama(Config(vocab_size=65, d_model=16, n_layers=2, n_heads=2, d_ff=24))).passed
    True
    """
    generator = torch.Generator().manual_seed(seed)
    if not _is_llama(model):
        if vocab_size is None:
            raise ValueError("vocab_size is missing: how many tokens does this function know?")
        subjects: list[tuple[str, Callable]] = [("", model)]
    else:
        vocab_size = model.config.vocab_size
        subjects = [("as it is", _copy(model)), ("with random weights", _shaken(model, generator))]
    with torch.no_grad():
        verdicts = []
        for name, test in _TESTS.items():
            try:
                problem, found = _run(test, subjects, vocab_size, generator)
            except Exception as error:  # a broken model may break anywhere
                problem, found = True, f"{type(error).__name__}: {error}".splitlines()[0]
            status = NOT_CLAIMED if problem is None else FAILED if problem else PASSED
            verdicts.append(Verdict(name, status, found))
    return Certificate(tuple(verdicts))


def _run(test, subjects, vocab_size: int, generator: torch.Generator) -> tuple[bool | None, str]:
    """Run one test on each subject. -> the first problem, or what was found last"""
    problem, found = None, ""
    for name, subject in subjects:
        problem, found = test(subject, vocab_size, generator)
        if problem:
            return True, f"{found} ({name})" if name else found
    return problem, found


def _is_llama(model: Any) -> TypeGuard[Llama]:
    """A Llama, or somebody's own class that can do the same."""
    if isinstance(model, Llama):
        return True
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "config", None), Config):
        return False
    arguments = inspect.signature(model.forward).parameters
    return isinstance(getattr(model, "parts", None), Parts) and {"cache", "positions", "mask"} <= set(arguments)


def _copy(model: Llama) -> Llama:
    return copy.deepcopy(model).eval()


def _shaken(model: Llama, generator: torch.Generator) -> Llama:
    """A copy with weights so large and different that every part of it matters to the logits."""
    model = _copy(model)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        # Vectors are the norms' scales and the biases, matrices keep the size of what goes through them.
        parameter.data = (1 + 0.3 * noise if parameter.ndim < 2 else 1.5 * noise / parameter.size(-1) ** 0.5).to(
            parameter
        )
    return model


def _some_tokens(n_rows: int, model, vocab_size: int, generator: torch.Generator) -> Tensor:
    length = min(13, model.config.max_len if _is_llama(model) else 13)
    return torch.randint(vocab_size, (n_rows, length), generator=generator).to(_device(model))


def _device(model) -> torch.device:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def _other(tokens: Tensor, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Tokens of the same shape, each of them another one."""
    steps = torch.randint(1, max(2, vocab_size), tokens.shape, generator=generator).to(tokens.device)
    return (tokens + steps) % vocab_size


def _distance(logits: Tensor, others: Tensor) -> float:
    """The largest difference, in standard deviations of the logits."""
    difference = (logits.double() - others.double()).abs().max() / logits.double().std().clamp(min=1e-30)
    return difference.item() if difference.isfinite() else math.inf


def _causal(model, vocab_size, generator):
    tokens = _some_tokens(2, model, vocab_size, generator)
    logits = model(tokens)
    for t in range(tokens.size(1) - 1, 0, -1):
        changed = torch.cat([tokens[:, :t], _other(tokens[:, t:], vocab_size, generator)], dim=1)
        distance = _distance(logits[:, :t], model(changed)[:, :t])
        if distance > SAME:
            return True, f"token {t} and later ones changed, and logits before them moved by {distance:.2g} deviations"
    blind = not _looks_back(model, tokens, logits, vocab_size, generator)
    return False, "no logit moves when a later token changes" + ("; none looks back either" if blind else "")


def _looks_back(model, tokens: Tensor, logits: Tensor, vocab_size: int, generator: torch.Generator) -> bool:
    """Do the last token's logits move when the first token changes?"""
    first = torch.cat([_other(tokens[:, :1], vocab_size, generator), tokens[:, 1:]], dim=1)
    return _distance(logits[:, -1], model(first)[:, -1]) > SAME


def _batch(model, vocab_size, generator):
    tokens = _some_tokens(3, model, vocab_size, generator)
    logits = model(tokens)
    others = _other(tokens, vocab_size, generator)
    distance = _distance(logits[1], model(torch.stack([others[0], tokens[1], others[2]]))[1])
    if distance > SAME:
        return True, f"another sequence changed, and logits moved by {distance:.2g} deviations"
    distance = _distance(logits[1:2], model(tokens[1:2]))
    if distance > MOVED:
        return True, f"alone, a sequence's logits are {distance:.2g} deviations from those in a batch"
    return False, "a sequence's logits are the same in any company"


def _padding(model, vocab_size, generator):
    if not _is_llama(model):
        return None, "the function takes no mask"
    tokens = _some_tokens(2, model, vocab_size, generator)
    n_pads = tokens.size(1) // 3
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[0, :n_pads] = False  # the second sequence has no padding
    positions = (real.cumsum(-1) - 1).clamp(min=0)

    def padded(tokens):
        return model(tokens, mask=real[:, None, None, :], positions=positions)[0, n_pads:]

    logits = padded(tokens)
    changed = torch.where(real, tokens, _other(tokens, vocab_size, generator))
    distance = _distance(logits, padded(changed))
    if distance > SAME:
        return True, f"other tokens as padding, and real logits moved by {distance:.2g} deviations"
    distance = _distance(logits, model(tokens[:1, n_pads:])[0])
    if distance > MOVED:
        return True, f"without its padding, a sequence's logits are {distance:.2g} deviations away"
    return False, "logits are the same with other padding and with none"


def _cached(model, vocab_size, generator):
    if not _is_llama(model):
        return None, "the function takes no cache"
    tokens = _some_tokens(2, model, vocab_size, generator)
    logits, length = model(tokens), tokens.size(1)
    for name, plan in (("token by token", [1] * length), ("in uneven chunks", [3, 1, 4, 2, 5])):
        cache = cache_for(model)
        pieces = torch.cat([model(piece, cache=cache) for piece in tokens.split(_fitting(plan, length), dim=1)], dim=1)
        distance = _distance(logits, pieces)
        if distance > MOVED:
            return True, f"{name}, logits are {distance:.2g} deviations away"
    return False, "token by token and in uneven chunks"


def _fitting(plan: list[int], length: int) -> list[int]:
    """The plan, cut off or stretched at its end so that it adds up to length."""
    sizes = []
    for size in plan:
        sizes.append(min(size, length - sum(sizes)))
    return [size for size in [*sizes, length - sum(sizes)] if size]


def _relative(model, vocab_size, generator):
    if not _is_llama(model) or model.position.rotate is None:
        return None, "its positions are absolute, or it has none"
    tokens = _some_tokens(2, model, vocab_size, generator)
    positions = torch.arange(tokens.size(1), device=tokens.device)
    logits = model(tokens, positions=positions)
    looks_back = len(positions) > 1 and _looks_back(model, tokens, logits, vocab_size, generator)
    if looks_back and torch.equal(logits, model(tokens, positions=3 * positions)):
        return True, "logits stay the same when tokens move apart: positions are ignored"
    distance = _distance(logits, model(tokens, positions=positions + 21))
    if distance > MOVED:
        return True, f"21 places further on, logits are {distance:.2g} deviations away"
    return False, "logits are the same 21 places further on"


def _bfloat16(model, vocab_size, generator):
    if not _is_llama(model):
        return None, "the function has weights of its own"
    logits = copy.deepcopy(model).bfloat16()(_some_tokens(2, model, vocab_size, generator))
    n_bad = int((~logits.isfinite()).sum())
    return n_bad > 0, f"{n_bad} of {logits.numel()} logits are NaN or infinite" if n_bad else "every logit is finite"


def _first_loss(model, vocab_size, generator):
    if not _is_llama(model) or sum(p.numel() for p in model.parameters()) > 50_000_000:
        return None, "it can't be started afresh here"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = type(model)(model.config, model.parts).eval()
    tokens = torch.randint(vocab_size, (8, min(64, model.config.max_len)), generator=generator)
    targets = torch.randint(vocab_size, tokens.shape, generator=generator)
    loss, expected = next_token_loss(fresh(tokens), targets).item(), math.log(vocab_size)
    found = f"a fresh one starts at {loss:.2f} nats, ln V = {expected:.2f}"
    return not abs(loss - expected) < 0.5, found


_TESTS = {
    "causal": _causal,
    "sequences do not touch": _batch,
    "padding ignored": _padding,
    "cached equals uncached": _cached,
    "relative in position": _relative,
    "finite in bfloat16": _bfloat16,
    "first loss near ln V": _first_loss,
}
