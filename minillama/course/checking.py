"""Run an exercise's checks on an answer, find out which mistake it is, and say so."""

import os
import random
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from minillama.course import keep, words
from minillama.course.answers import SETTINGS, Answer, AnswerLost, AnswerRaised, Call, here
from minillama.course.checks import Differs, drawing_from, same
from minillama.course.exercise import Check, Exercise, Version, find
from minillama.course.wire import kind_of


class CheckFailed(Exception):
    """An answer is wrong, or missing where one is needed. Shown as its message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True)
class Outcome:
    """What came of one check. kind: passed, or what was wrong."""

    check: Check
    kind: str
    differs: Differs | None = None
    raised: AnswerRaised | None = None
    call: Call | None = None  # the one to show
    settings: Sequence[str] = ()  # of the whole program, that were changed, and put back

    @property
    def passed(self) -> bool:
        return self.kind == "passed"

    def like(self, other: "Outcome") -> bool:
        """Is this what `other` is: passed as well, the same values, or the same error?"""
        if self.kind != other.kind:
            return False
        if self.raised and other.raised:
            return (self.raised.kind, self.raised.told) == (other.raised.kind, other.raised.told)
        if self.differs and other.differs:
            if self.differs.text != other.differs.text or self.differs.whole is ...:  # nothing given, nothing known
                return False
            try:
                same(self.differs.whole, other.differs.whole, self.differs.atol, max(self.differs.rtol, 1e-4))
            except Differs:
                return False
            return True
        return not (self.raised or other.raised or self.differs or other.differs)


@dataclass(frozen=True)
class Result:
    """All outcomes of one answer, in the order of the checks."""

    exercise: Exercise
    outcomes: Sequence[Outcome]
    seed: int

    @property
    def points(self) -> int:
        return sum(outcome.check.points for outcome in self.outcomes if outcome.passed)

    @property
    def right(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def attempted(self) -> bool:
        """False if all that fails does so because the stub is still there."""
        failures = [outcome for outcome in self.outcomes if not outcome.passed]
        return not failures or any(outcome.kind != "not attempted" for outcome in failures)

    def like(self, other: "Result") -> bool:
        return all(mine.like(theirs) for mine, theirs in zip(self.outcomes, other.outcomes, strict=True))


def examine(exercise: Exercise, send: Callable[[bytes], bytes], seed: int) -> Result:
    """Run all checks on the answer behind `send`, with inputs from `seed`. Errors: AnswerLost."""
    return Result(exercise, [examine_one(exercise, i, send, seed) for i in range(len(exercise.checks))], seed)


def examine_one(exercise: Exercise, i: int, send: Callable[[bytes], bytes], seed: int) -> Outcome:
    """Run check number i, counted from 0, as `examine` does. Errors: AnswerLost."""
    with _as_if_alone():
        return _run(exercise, exercise.checks[i], send, seed + i)


@contextmanager
def _as_if_alone() -> Iterator[None]:
    """Run checks on the CPU, in float32, with gradients, whatever a notebook has set, and leave all as it was."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    settings = [(get, change, get()) for get, change in SETTINGS.values()]
    usual = torch.get_default_device().type == "cpu"  # entering torch.device makes every call slower
    try:
        with torch.inference_mode(False), nullcontext() if usual else torch.device("cpu"):
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        for get, change, value in settings:
            if get() != value:
                change(value)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def _run(exercise: Exercise, check: Check, send: Callable[[bytes], bytes], seed: int) -> Outcome:
    calls: list[Call] = []
    answer = Answer(send, name=exercise.name, seed=seed, log=calls)
    kind, differs, raised = "passed", None, None
    with drawing_from(seed):
        try:
            check.run(answer)
        except Differs as error:
            kind, differs = error.kind, error
        except AnswerRaised as error:
            kind, raised = "not attempted" if error.not_attempted else "raised", error
        except AnswerLost:
            raise
        except Exception as error:  # None has no shape, a function no length: what came back is not what was asked for
            if not calls:
                raise
            kind, reason = "unusable", f"{type(error).__name__}: {error}"
            differs = Differs(kind, calls[-1].gave, text=f"the check can't go on with this ({reason})")
    settings = sorted({x for call in calls for x in call.changed if isinstance(x, str)})
    changed = next((call for call in calls if any(isinstance(x, int) for x in call.changed)), None)
    if changed and (kind in ("passed", "values", "property") or (kind == "raised" and changed is not calls[-1])):
        return Outcome(check, "changed", differs, raised, changed, settings)
    shown = [call for call in calls if differs and call.gave is differs.whole] or calls
    return Outcome(check, kind, differs, raised, shown[-1] if shown else None, settings)


def results_of_mistakes(exercise: Exercise, seed: int) -> list[tuple[Version, Result]]:
    """What comes of each mistake, with the inputs of this seed."""
    return [(mistake, examine(exercise, here(mistake.answer), seed)) for mistake in exercise.mistakes]


def diagnose(result: Result, made: list[tuple[Version, Result]] | None = None) -> Version | None:
    """The one mistake whose outcomes are those of this answer; None if there is none, or more than one.

    made: the results of the mistakes with the same seed, if they are known already.
    """
    made = results_of_mistakes(result.exercise, result.seed) if made is None else made
    alike = [mistake for mistake, theirs in made if result.like(theirs)]
    return alike[0] if len({mistake.text for mistake in alike}) == 1 else None


def of_another_kind(exercise: Exercise, given: Any, kind: str, seed: int) -> Result:
    """The result of an answer that can't be checked, as it is no class or no function."""
    asked_for = "a class" if isinstance(exercise.answer, type) else "a function"
    differs = Differs("type", given, text=f"this is {kind}, expected {asked_for}")
    return Result(exercise, [Outcome(check, "type", differs) for check in exercise.checks], seed)


def check(id: str, answer: Any, *, seed: int | None = None) -> Any:
    """Check the answer to exercise `id` on fresh inputs.

    Right: print one line, keep the answer among the learner's parts, and give it back. Not attempted: print so, and
    lend the package's, so that later cells run. seed: replays a run.
    Errors: CheckFailed with the diagnosis if it is wrong; under MINILLAMA_GRADING=1 also if it was not attempted.
    """
    exercise = find(id)
    grading = os.environ.get("MINILLAMA_GRADING") == "1"
    seed = secrets.randbelow(10**6) if seed is None else seed
    title, total = f"{id} {exercise.name}", exercise.points
    wants_class = isinstance(exercise.answer, type)
    if answer is None or answer is ...:
        result = Result(exercise, [Outcome(check, "not attempted") for check in exercise.checks], seed)
    elif not callable(answer) or (isinstance(answer, nn.Module) and wants_class):
        result = of_another_kind(exercise, answer, kind_of(answer), seed)
    else:
        result = examine(exercise, here(answer), seed)
    if result.attempted and not grading:  # a teacher's folder stays the teacher's
        keep.record(exercise, result.points)
    if result.right:
        print(f"✓ {title}: {total} of {total}")
        if not grading:
            keep.keep(exercise, answer, lambda kept: examine(exercise, here(kept), seed).right)
        return answer
    if grading:  # one unsolved exercise spoils no other cell
        sys._getframe(1).f_globals[exercise.name] = exercise.answer
    if not result.attempted:
        points = f"not finished ({result.points} of {total})" if result.points else f"not attempted (0 of {total})"
        if grading:
            raise CheckFailed(f"○ {title}: {points}")
        print(f"○ {title}: {points}")
        return exercise.answer
    raise CheckFailed(words.report(result, diagnose(result)))
