"""Points and comments that a teacher gives by hand, in a file that grading starts and then only reads."""

import csv
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from minillama.files import replacing

COLUMNS = ["student", "exercise", "points", "comment"]
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)")  # Excel writes 4,5 in many countries

Manual = dict[tuple[str, str], tuple[float | None, str]]
Exercises = Sequence[tuple[str, str, float]]  # id, name and possible points of each, in order


def cell(text: str) -> str:
    """The text for a cell of a CSV file, with a ' before what a spreadsheet would take for a formula.

    >>> cell("=1+1"), cell("ann")
    ("'=1+1", 'ann')
    """
    text = text.replace("\0", "").encode(errors="backslashreplace").decode()
    risky = text.lstrip().startswith(("=", "+", "-", "@")) or text.startswith(("\t", "\r", "\n"))
    return f"'{text}" if risky else text


def start_manual(path: Path):
    """Write the file with its header alone, if there is no file yet."""
    if not path.exists():
        with replacing(path) as file:
            file.write((",".join(COLUMNS) + "\r\n").encode("utf-8-sig"))


def read_manual(path: Path, students: Sequence[str] | None = None, exercises: Exercises | None = None) -> Manual:
    """Points (or None) and comment by student and exercise id; the id is "" for the whole submission.

    Names and ids are looked up among `students` and `exercises`; without these they are taken as they stand.
    Errors: ValueError that names the line, if a row can't be meant.
    """
    manual: Manual = {}
    for line, row in _rows(path):
        name, id, points, comment = row
        student = name if students is None else _student(name, students, f"{path}: line {line}")
        exercise = id if exercises is None else _exercise(id, exercises, f"{path}: line {line}")
        if (student, exercise) in manual:
            what = f"exercise {id}" if id else "the whole submission"
            raise ValueError(
                f"{path}: line {line}: found a second row for {name!r} and {what}, expected one; delete one of them"
            )
        manual[student, exercise] = _points(points, f"{path}: line {line}"), comment
    return manual


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows below the header that aren't blank, four cells each, with the number of the line they begin in."""
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {line}: found text in another encoding, expected UTF-8; save the file as 'CSV UTF-8'"
        ) from error
    text = re.sub(r'"[ \t]+(?=[,;\r\n]|$)', '"', text)  # blanks behind a quoted cell
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for row in reader:
            rows.append((line, [item.strip() for item in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {line}: found a cell that can't be read ({error}), expected one \" at its beginning and one "
            'at its end, and "" for a " inside; mend that line'
        ) from error
    found = delimiter.join(rows[0][1]).rstrip(delimiter) if rows else ""
    if found.lower() != delimiter.join(COLUMNS):
        raise ValueError(
            f"{path}: line 1: found {found!r}, expected {','.join(COLUMNS)!r}; write that as the first line"
        )
    for line, row in rows:
        if any(row[len(COLUMNS) :]):
            raise ValueError(
                f"{path}: line {line}: found {len(row)} cells, expected {len(COLUMNS)}; "
                f'put a comment that has a {delimiter} in it between two "'
            )
    return [(line, (row + [""] * len(COLUMNS))[: len(COLUMNS)]) for line, row in rows[1:] if any(row)]


def _student(text: str, students: Sequence[str], where: str) -> str:
    """The student that is meant, also with the ' from grades.csv, and whichever way an é is stored."""
    if text in students:
        return text
    found = [student for student in students if _same(text) in (_same(student), _same(cell(student)))]
    if len(found) == 1:
        return found[0]
    near = difflib.get_close_matches(text, students, n=1, cutoff=0) or ["none, as the class is empty"]
    expected = "one student" if found else f"a student of the class, such as {near[0]!r}"
    problem = f"{len(found)} students who are called {text!r}" if found else f"the student {text!r}"
    raise ValueError(f"{where}: found {problem}, expected {expected}; copy the name from grades.csv or delete the row")


def _exercise(text: str, exercises: Exercises, where: str) -> str:
    """The id of the exercise that is meant; its heading in grades.csv will do."""
    if not text:
        return ""
    for id, name, _ in exercises:
        if text in (id, f"{id} {name}"):
            return id
    known = ", ".join(id for id, _, _ in exercises)
    example = " ".join(exercises[0][:2]) if exercises else ""
    raise ValueError(
        f"{where}: found the exercise {text!r}, expected one of {known} or nothing; write it like the heading in "
        f"grades.csv ({example!r}), which a spreadsheet doesn't turn into a number"
    )


def _points(text: str, where: str) -> float | None:
    if not text:
        return None
    points = float(text.replace(",", ".")) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(points):
        raise ValueError(
            f"{where}: found {text!r} as points, expected a number such as 4.5, or nothing; write the number alone"
        )
    return points


def _same(name: str) -> str:
    """Two names are the same if this is the same for both."""
    return unicodedata.normalize("NFC", name.strip())
