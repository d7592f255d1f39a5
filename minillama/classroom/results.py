"""What came of a submission, as data that is written to a file and read again."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from minillama.files import replacing

STATUSES = ("unreadable", "wrong release", "crashed", "timeout", "missing", "needs review", "ok")  # the worst first
OUTCOMES = ("right", "wrong", "not attempted", "missing", "timeout", "crashed")


@dataclass
class Graded:
    """One exercise of one submission.

    outcome: one of OUTCOMES. points of possible, as the teacher weighs them. mistake: the sentence of the known mistake
    that it is, or "". message: what the student reads. flags: what a teacher should know. review: a teacher should look
    at it before the points count. code: the same for answers that are the same code, "" if it is none.
    """

    id: str
    name: str
    outcome: str
    points: float
    possible: float
    mistake: str = ""
    message: str = ""
    flags: list[str] = field(default_factory=list)
    review: bool = False
    code: str = ""


@dataclass
class Result:
    """One chapter of one student.

    status: one of STATUSES. file: as the teacher knows it, "" if there is none. key: what it was made from; a result
    with another key is made again. held: how the answers were confined.
    """

    student: str
    chapter: str
    status: str
    file: str = ""
    key: str = ""
    held: str = ""
    flags: list[str] = field(default_factory=list)
    exercises: list[Graded] = field(default_factory=list)

    @property
    def points(self) -> float:
        return sum(graded.points for graded in self.exercises)

    @property
    def possible(self) -> float:
        return sum(graded.possible for graded in self.exercises)


def write(path: Path, result: Result):
    """Write a result, to be read again; either all of it is there or nothing."""
    with replacing(path) as file:
        file.write(json.dumps(asdict(result), indent=1, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


def read(path: Path) -> Result | None:
    """A result that was written; None if there is none, or only a part of one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        exercises = [Graded(**graded) for graded in content.pop("exercises")]
        return Result(**content, exercises=exercises)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
