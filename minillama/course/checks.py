"""What a check is written with: fresh inputs, comparisons that say what differs, and weights. See exercise.py.

Inputs come from the seed of the run, whatever the answer does with random numbers of its own.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillama.course.answers import Answer, AnswerRaised
from minillama.course.wire import kind_of

_generator: ContextVar[torch.Generator] = ContextVar("generator")


@contextmanager
def drawing_from(seed: int):
    """Draw inputs from this seed while the block runs."""
    token = _generator.set(torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        _generator.reset(token)


def randn(*shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(shape, generator=_generator.get())


def rand(*shape: int) -> Tensor:
    """Numbers between 0 and 1, float32."""
    return torch.rand(shape, generator=_generator.get())


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers from low to high - 1, int64; of no shape: a tensor without axes."""
    return torch.randint(low, high, shape, generator=_generator.get())


def permutation(n: int) -> list[int]:
    """0 to n - 1 in random order."""
    return torch.randperm(n, generator=_generator.get()).tolist()


def pick(options: Sequence) -> Any:
    """One of them."""
    return options[int(integers(0, len(options)))]


class Differs(AssertionError):
    """An answer is not what was asked for: what kind of difference, what it gave, what was expected.

    expected: ... if there is nothing to show. place: where in a list or dict that is, "[1]". whole: the list itself.
    """

    def __init__(self, kind: str, given: Any, expected: Any = ..., text: str = ""):
        super().__init__(f"{kind}: {text}")
        self.kind, self.given, self.expected, self.text = kind, given, expected, text
        self.place, self.whole, self.atol, self.rtol = "", given, 1e-5, 1e-5


def same(given: Any, expected: Any, atol: float = 1e-5, rtol: float = 1e-5):
    """Raise Differs unless `given` is what was expected: type, then shape, dtype, NaN, values, in this order.

    Numbers and tensors may differ by atol + rtol * |expected|; expected may itself hold NaN or infinity.
    """
    try:
        _compare(given, expected, atol, rtol)
    except Differs as differs:
        differs.whole, differs.atol, differs.rtol = given, atol, rtol
        raise


def _compare(given: Any, expected: Any, atol: float, rtol: float):
    if _kind(given) != _kind(expected):
        raise Differs("type", given, expected, f"this is {_kind(given)}, expected {_kind(expected)}")
    if _stays_there(given) and not _stays_there(expected):
        raise Differs("type", given, expected, f"this is {_kind(given)} that can't be compared")
    if isinstance(expected, Tensor):
        _compare_tensors(given.detach(), expected.detach(), atol, rtol)
    elif isinstance(expected, np.ndarray):
        _compare_tensors(torch.as_tensor(given), torch.as_tensor(expected), atol, rtol)
    elif isinstance(expected, list | tuple):
        if len(given) != len(expected):
            raise Differs("length", given, expected, f"{len(given)} of them, expected {len(expected)}")
        _compare_items(given, expected, range(len(expected)), atol, rtol)
    elif isinstance(expected, dict):
        names = {"missing": set(expected) - set(given), "not expected": set(given) - set(expected)}
        text = "; ".join(f"{what}: {', '.join(sorted(map(repr, keys)))}" for what, keys in names.items() if keys)
        if text:
            raise Differs("keys", given, expected, text)
        _compare_items(given, expected, expected, atol, rtol)
    elif isinstance(given, float) and math.isnan(given) and expected == expected:
        raise Differs("nan", given, expected, "this is NaN (not a number)")
    elif not _equal(given, expected, atol, rtol):
        raise Differs("values", given, expected)


def _compare_items(given: Any, expected: Any, keys: Any, atol: float, rtol: float):
    for key in keys:
        try:
            _compare(given[key], expected[key], atol, rtol)
        except Differs as differs:
            if isinstance(expected[key], Tensor | list | tuple | dict):  # to be seen by itself
                differs.place = f"[{key!r}]{differs.place}"
            else:
                differs.given, differs.expected = given, expected
            raise


def _stays_there(value: Any) -> bool:
    """Is this no data, but something in the answer's process?"""
    return isinstance(value, Answer)


def _kind(value: Any) -> str:
    return value._kind if isinstance(value, Answer) else kind_of(value)


def _equal(given: Any, expected: Any, atol: float, rtol: float) -> bool:
    if isinstance(expected, Answer):  # two things that are no data: all that is known is what kind they are
        return True
    if float in (type(given), type(expected)) and -1e300 < given < 1e300 and -1e300 < expected < 1e300:
        return abs(given - expected) <= atol + rtol * abs(expected)
    return given == expected or (given != given and expected != expected)  # NaN is not even itself


def _compare_tensors(given: Tensor, expected: Tensor, atol: float, rtol: float):
    if given.shape != expected.shape:
        raise Differs("shape", given, expected, f"shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    if given.dtype != expected.dtype:
        raise Differs("dtype", given, expected, f"{_dtype(given)}, expected {_dtype(expected)}")
    if not (given.is_floating_point() or given.is_complex()):
        if not torch.equal(given, expected):  # as they are: float64 can't tell large integers apart
            raise Differs("values", given, expected)
        return
    mine, right = (x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (given, expected))
    if mine.isnan().any() and not right.isnan().any():
        n = int(mine.isnan().sum())
        raise Differs("nan", given, expected, f"{n} of {given.numel()} numbers are NaN (not a number)")
    if not torch.allclose(mine, right, rtol=rtol, atol=atol, equal_nan=True):
        raise Differs("values", given, expected)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def holds(condition: bool, text: str, given: Any = ...):
    """Raise Differs unless the condition is true; `text` says what should have been, `given` shows what was."""
    if not condition:
        raise Differs("property", given, text=text)


def refuses(answer: Answer, *args, error: str = "ValueError", **kwargs):
    """Raise Differs unless calling the answer raises this error."""
    wanted = "an error" if error == "Exception" else error
    try:
        given = answer(*args, **kwargs)
    except AnswerRaised as raised:
        if raised.not_attempted or error not in raised.kinds:
            raised.wanted = wanted
            raise
        return
    raise Differs("property", given, text=f"this should have raised {wanted}")


def weights(module: Answer) -> dict[str, Tensor]:
    """The module's weights, by name. Errors: Differs if it is no object at all."""
    if not isinstance(module, Answer):
        raise Differs("type", module, ..., f"this is {_kind(module)}, expected a module")
    return module._ask("weights")


def with_weights(module: Answer, new: dict[str, Tensor]) -> Answer:
    """Give the module these weights, and the module back. Errors: Differs if it has others than these."""
    there = weights(module)
    if {name: w.shape for name, w in there.items()} != {name: w.shape for name, w in new.items()}:
        shapes = [", ".join(f"{k} {tuple(v.shape)}" for k, v in sorted(w.items())) or "none" for w in (there, new)]
        text = "the weights' names and shapes (as the docstring or the given __init__ has them)"
        raise Differs("weights", shapes[0], shapes[1], text)
    module._ask("load", new)
    return module


def with_random_weights(module: Answer) -> Answer:
    """Give the module random weights between 0.5 and 1.5, half of them negative, so that a forgotten one shows."""
    signs = {name: 1 - 2 * (rand(*w.shape) < 0.5).to(w.dtype) for name, w in sorted(weights(module).items())}
    return with_weights(module, {name: sign * (0.5 + rand(*sign.shape)) for name, sign in signs.items()})


def gradients(answer: Answer, *args, **kwargs) -> dict[str, Any]:
    """Call the answer, and follow (out * out_gradient).sum() back; out_gradient is random, in the shape of the result.

    -> {"out", "out_gradient", "inputs": [one per argument, None for what is no float tensor], "weights": {by name}}
    """
    out = answer(*args, **kwargs)
    if not isinstance(out, Tensor):
        raise Differs("type", out, ..., f"this is {_kind(out)}, expected a tensor")
    out_gradient = randn(*out.shape)
    result = answer._ask("gradients", *args, out_gradient, **kwargs)
    if result["inputs"] and all(g is None for g in result["inputs"]) and not result["weights"]:
        raise Differs("property", out, text="no gradient comes back: the result does not depend on the input any more")
    return {**result, "out_gradient": out_gradient}


def driven(answer: Answer, driver: Callable, *args, **kwargs) -> Any:
    """Run driver(answer, *args, **kwargs) where the answer is: for answers that change weights or gradients there.

    driver: a function of this package, by name; what it returns is data.
    """
    return answer._ask("drive", *args, driver=driver, **kwargs)
