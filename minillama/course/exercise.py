"""What an exercise is: a part to write, how it is checked, what people get wrong, and what is right as well."""

import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that is asked for: `run` is handed the answer, and compares."""

    asked: str
    run: Callable[[Any], None]
    points: int = 1


@dataclass(frozen=True)
class Version:
    """A whole answer to an exercise, and what there is to say of it: a mistake, or an alternative."""

    text: str
    answer: Any


@dataclass
class Exercise:
    """One exercise. notebooks/source/README.md shows how to write one.

    id: chapter and number, such as "07.2". answer: the function or class that is asked for, and its solution.
    hints: three, the last one nearly the answer. given: methods of a class that the learner gets.
    Errors: ValueError if the id or the number of hints is none.
    """

    id: str
    answer: Any
    hints: tuple[str, ...] = ()
    given: tuple[str, ...] = ("__init__",)
    checks: list[Check] = field(default_factory=list)
    mistakes: list[Version] = field(default_factory=list)
    alternatives: list[Version] = field(default_factory=list)

    def __post_init__(self):
        chapter, _, number = self.id.partition(".")
        if not (len(chapter) == 2 and chapter.isdigit() and number.isdigit()):
            raise ValueError(f'exercise "{self.id}": expected chapter and number, such as "07.2"')
        if len(self.hints) != 3:
            raise ValueError(f"exercise {self.id}: {len(self.hints)} hints, expected three")

    @property
    def name(self) -> str:
        """What the learner calls the answer."""
        return self.answer.__name__

    @property
    def chapter(self) -> str:
        return self.id[:2]

    @property
    def points(self) -> int:
        return sum(check.points for check in self.checks)

    def check(self, asked: str, points: int = 1):
        """Make the function below a check; `asked` completes "asked for: ..."."""

        def add(run):
            self.checks.append(Check(asked, run, points))
            return run

        return add

    def mistake(self, sentence: str):
        """Make the function or class below a mistake, and `sentence` what the learner reads who made it."""
        return self._version(self.mistakes, sentence)

    def alternative(self, label: str):
        """Make the function or class below an answer that must be accepted."""
        return self._version(self.alternatives, label)

    def _version(self, versions: list[Version], text: str):
        def add(answer):
            versions.append(Version(" ".join(text.split()), answer))
            return answer

        return add


@cache
def chapters() -> dict[str, str]:
    """The chapters that have exercises: {"07": "norm", ...}"""
    from minillama.course import exercises

    names = sorted(module.name for module in pkgutil.iter_modules(exercises.__path__))
    return {name[2:4]: name[5:] for name in names}


@cache
def exercises_of(chapter: str) -> dict[str, Exercise]:
    """The exercises of one chapter, by id. Errors: ValueError if there is no such chapter."""
    if chapter not in chapters():
        raise ValueError(f'no exercises for chapter "{chapter}"; there are {", ".join(chapters()) or "none yet"}')
    module = importlib.import_module(f"minillama.course.exercises.ch{chapter}_{chapters()[chapter]}")
    found = [value for value in vars(module).values() if isinstance(value, Exercise)]
    for exercise in found:
        if exercise.chapter != chapter:
            raise ValueError(f"exercise {exercise.id} stands in the file of chapter {chapter}")
    by_id = {exercise.id: exercise for exercise in sorted(found, key=lambda e: int(e.id[3:]))}
    if len(by_id) != len(found):
        raise ValueError(f"chapter {chapter}: two exercises have the same id")
    return by_id


def find(id: str) -> Exercise:
    """The exercise "07.2". Errors: ValueError that lists the ids of the chapter."""
    there = exercises_of(str(id)[:2])
    if id not in there:
        raise ValueError(f'no exercise "{id}"; chapter {str(id)[:2]} has {", ".join(there)}')
    return there[id]


def solution(exercise: Exercise) -> str:
    """The source text of the answer, as the worked edition shows it."""
    return _source(exercise.answer)


@cache
def _source(answer: Any) -> str:
    return textwrap.dedent(inspect.getsource(answer))  # for a class, Python reads the whole file again each time


def package_part(name: str) -> Any:
    """What show("norm.RMSNorm") shows. Errors: ValueError if there is no such part."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"minillama.{module}"), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'show("{name}"): no such part; expected one such as "norm.RMSNorm"') from error
