"""What a learner reads whose answer is wrong: what was asked, on which input, what came out, what should have, why."""

import inspect
import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minillama.course.answers import Call, short
from minillama.course.checks import Differs, same
from minillama.course.exercise import Exercise, Version
from minillama.course.wire import kind_of

if TYPE_CHECKING:
    from minillama.course.checking import Outcome, Result

WIDTH = 98  # characters in a line; a notebook shows about 100
FEW, MANY = 8, 16  # numbers of a tensor, items of a list that a message shows
PRINTED = 5  # lines of what the answer printed


def report(result: "Result", mistake: Version | None) -> str:
    """The whole message, some lines of text."""
    exercise = result.exercise
    failed = [outcome for outcome in result.outcomes if not outcome.passed]
    outcome = next((outcome for outcome in failed if outcome.kind != "not attempted"), failed[0])
    lines = [f"✗ {exercise.id} {exercise.name}: {result.points} of {exercise.points}"]
    lines.append(f"  asked for: {outcome.check.asked}")
    names = _names(exercise, outcome.call) if outcome.call else []
    if outcome.call:
        lines += _input(outcome.call, names)
    lines += _what_came(outcome, names)
    if mistake:
        lines.append(f"  → {' '.join(mistake.text.split())}")
    elif outcome.kind == "values":
        lines.append(f'  The values differ, and not as in one of the known mistakes. hint("{exercise.id}") helps.')
    elif outcome.kind == "property":
        lines.append(f'  This is none of the known mistakes. hint("{exercise.id}") helps.')
    if outcome.settings:
        lines.append(
            f"  your code changes {' and '.join(outcome.settings)}, for the whole program; leave that as it is"
        )
    if outcome.call and outcome.call.printed.strip():
        lines += ["  your code printed:", *(f"    {line}" for line in outcome.call.printed.splitlines()[:PRINTED])]
    lines.append(f'  (the same inputs again: check("{exercise.id}", {exercise.name}, seed={result.seed}))')
    return "\n".join(map(_wrapped, lines)).encode(errors="backslashreplace").decode()  # half a character can't be shown


def _wrapped(line: str) -> str:
    """The line, or several, the later ones below what follows its label."""
    indent = re.match(r" *(→ |on: +|you gave: +|expected: +)?", line)
    assert indent
    below = " " * indent.end()
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent=below, replace_whitespace=False, break_on_hyphens=False)
    return line if len(line) <= WIDTH else wrap.fill(line)


def _what_came(outcome: "Outcome", names: list[str]) -> list[str]:
    if outcome.kind == "changed" and outcome.call:
        return _changed(outcome.call, names)
    if raised := outcome.raised:
        said = ": ".join(filter(None, [raised.kind, raised.message]))
        said += raised.wanted and f"; it should have raised {raised.wanted}"
        return [f"  your code raised {said}", *([f"  at {raised.line}"] if raised.line else [])]
    differs = outcome.differs
    assert differs
    place = f"at {differs.place}: " if differs.place else ""
    lines = [f"  {place}{differs.text}"] if place or differs.text else []
    if differs.expected is ...:
        return lines if differs.given is ... else [*lines, f"  you gave:  {value(differs.given)}"]
    given, expected = side_by_side(differs.given, differs.expected)
    return [*lines, f"  you gave:  {given}", f"  expected:  {expected}"]


def _changed(call: Call, names: list[str]) -> list[str]:
    named = dict(enumerate([*_arguments(call, names), *call.kwargs]))
    what = " and ".join(named.get(i, "something") for i in call.changed if isinstance(i, int))
    how = "work on a copy, or make something new (x = x + 1, not x += 1)"
    return [f"  you changed {what}, which you were given; {how}"]


def _names(exercise: Exercise, call: Call) -> list[str]:
    """The names of the parameters of what was called, as far as the solution tells."""
    function: Any = exercise.answer
    if call.driver:
        return list(inspect.signature(call.driver).parameters)[1:]
    if call.path:
        function = getattr(function, call.path[0], None)
    elif call.made:
        function = getattr(function, "forward", None)
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):
        return []


def _arguments(call: Call, names: list[str]) -> list[str]:
    return [names[i] if i < len(names) else f"input {i + 1}" for i in range(len(call.args))]


def _input(call: Call, names: list[str]) -> list[str]:
    """The call that went wrong: its name with the small arguments in it, then a line for each tensor."""
    named = [(name, x, "") for name, x in zip(_arguments(call, names), call.args, strict=True)]
    named += [(key, x, f"{key}=") for key, x in call.kwargs.items()]
    inside = ", ".join(f"{key}{name if isinstance(x, Tensor) else short(x)}" for name, x, key in named)
    lines = [f"  on:        {call.name}({inside})"]
    return lines + [f"             {name} {value(x)}" for name, x, _ in named if isinstance(x, Tensor)]


def value(x: Any, digits: int = 4, depth: int = 0) -> str:
    """A value as a message shows it: of a large one its shape or length, and its beginning."""
    if isinstance(x, Tensor) and kind_of(x) == "a tensor":
        x = x.detach()
        if not x.numel():  # (10**9, 0) is a long list of nothing
            return f"{tuple(x.shape)} []"
        if x.numel() <= FEW:
            return f"{tuple(x.shape)} {_numbers(x, digits)}"
        first = x
        while first.ndim > 1:
            first = first[0]
        dots = ", ..." if x.ndim > 1 else ""
        return f"{tuple(x.shape)} {'[' * (x.ndim - 1)}{_numbers(first[:FEW], digits, len(first) > FEW)}{dots}"
    if isinstance(x, float):
        return _number(x, digits)
    if isinstance(x, list | tuple | dict) and depth < 3:
        items = [value(item, digits, depth + 1) for item in list(x)[:MANY]]
        if isinstance(x, dict):
            items = [f"{key}: {value(item, digits, depth + 1)}" for key, item in zip(items, x.values(), strict=False)]
        inside = ", ".join(items) + (f", ... ({len(x)} of them)" if len(x) > MANY else "")
        left, right = {list: "[]", tuple: "()", dict: "{}"}.get(type(x), "()")
        return f"{left}{inside}{',' if isinstance(x, tuple) and len(x) == 1 else ''}{right}"
    try:
        text = " ".join(repr(x).splitlines())
    except Exception:  # somebody's own __repr__, or a number of thousands of digits
        text = kind_of(x)
    return text if len(text) <= 100 else text[:97] + "..."


def side_by_side(given: Any, expected: Any) -> tuple[str, str]:
    """Both as text; of large ones the part where they differ, and with as many digits as it takes to see it."""
    texts = "", ""
    for digits in (4, 7, 16):
        texts = _pair(given, expected, digits)
        if texts[0] != texts[1]:
            break
    return texts


def _pair(given: Any, expected: Any, digits: int) -> tuple[str, str]:
    if isinstance(given, Tensor) and isinstance(expected, Tensor) and given.shape == expected.shape:
        if given.numel() > FEW:
            return _rows(given.detach(), expected.detach(), digits)
    elif isinstance(given, dict) and isinstance(expected, dict) and len(given) + len(expected) > FEW:
        both = {key for key in given if key in expected and _alike(given[key], expected[key])}
        given, expected = ({key: x for key, x in items.items() if key not in both} for items in (given, expected))
    for kinds, many in ((list | tuple, MANY), (str | bytes, 80)):
        if isinstance(given, kinds) and isinstance(expected, kinds) and max(len(given), len(expected)) > many:
            pairs = enumerate(zip(given, expected, strict=False))
            first = next((i for i, (a, b) in pairs if not _alike(a, b)), min(len(given), len(expected)))
            part = slice(max(0, first - many // 4), max(0, first - many // 4) + many)
            given, expected = (f"[{part.start}:{part.stop}] = {value(x[part], digits)}" for x in (given, expected))
            return given, expected
    return value(given, digits), value(expected, digits)


def _alike(given: Any, expected: Any) -> bool:
    try:
        same(given, expected)
    except Differs:
        return False
    return True


def _rows(given: Tensor, expected: Tensor, digits: int) -> tuple[str, str]:
    """The row (last axis) with the largest difference, from both."""
    mine, right = (x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (given, expected))
    equal = (mine == right) | (mine.isnan() & right.isnan())  # two infinities too, whose difference is NaN
    gap = (mine - right).abs().nan_to_num(nan=math.inf).masked_fill(equal, -1)
    where = [int(i) for i in torch.unravel_index(gap.argmax(), gap.shape)]
    row, column = tuple(where[:-1]), where[-1]
    start = max(0, min(column - FEW // 2, given.size(-1) - FEW))
    place = ", ".join(map(str, [*row, f"{start}:{start + FEW}" if given.size(-1) > FEW else ":"]))
    parts = [_numbers(x[row][start : start + FEW], digits) for x in (given, expected)]
    return f"[{place}] = {parts[0]}", f"[{place}] = {parts[1]}"


def _numbers(x: Tensor, digits: int, more: bool = False) -> str:
    def text(item) -> str:
        if isinstance(item, list):
            return f"[{', '.join(map(text, item))}]"
        return _number(item, digits) if isinstance(item, float) else str(item)

    inner = text(x.tolist())
    return inner[:-1] + ", ...]" if more else inner


def _number(x: float, digits: int) -> str:
    return f"{x:.{digits}g}" if math.isfinite(x) else str(x)
