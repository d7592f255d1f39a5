"""What a teacher gets from grading a class: tables, a page of feedback for each student, and a summary."""

import csv
import hashlib
import io
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

from minillama.classroom.manual import Exercises, Manual, cell, read_manual, start_manual
from minillama.classroom.pages import Blocks, markdown, web_page
from minillama.classroom.results import STATUSES, Graded, Result
from minillama.files import replacing
from minillama.plots.classroom import outcomes

EXPLAINED = {
    "unreadable": "the file could not be opened as a notebook; save it in Jupyter and hand in the .ipynb file again",
    "wrong release": "the notebook is of another edition of the course; ask your teacher for the one of your class",
    "crashed": "your code ended the program that ran it, and what came after that could not be checked",
    "timeout": "your code ran longer than it may; look for a loop that never ends, or takes very many steps",
    "missing": "no file was handed in for this chapter",
    "needs review": "your answers were checked, and your teacher looks at them before the points are final",
    "ok": "your answers were checked",
}
SIGNS = {
    "right": "✓",
    "wrong": "✗",
    "not attempted": "○",
    "missing": "○",
    "timeout": "!",
    "crashed": "!",
}
WINDOWS = re.compile(
    r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\..*)?", re.IGNORECASE
)  # Windows has no files of these names
Cell = str | float


@dataclass
class Mark:
    """One exercise of one student, with the points that count. by_hand: the teacher gave them."""

    graded: Graded
    by_hand: bool
    comment: str

    @property
    def counts(self) -> bool:
        return self.by_hand or self.graded.outcome != "missing"


@dataclass
class Student:
    """One student: every chapter and every exercise of the release. extra: points for the whole submission."""

    name: str
    chapters: list[Result]
    marks: list[Mark]
    extra: float
    comment: str

    @property
    def total(self) -> float:
        return self.extra + sum(mark.graded.points for mark in self.marks if mark.counts)

    @property
    def status(self) -> str:
        """The worst of the chapters."""
        return min((result.status for result in self.chapters), key=STATUSES.index)


@dataclass
class Tally:
    """One exercise of the whole class.

    counts: right, wrong, not attempted, anything else. share: mean of the points, from 0 to 1, of those who handed it
    in. attempted: how many. mistakes: each known one that was made, and how often.
    """

    heading: str
    counts: list[int]
    share: float | None
    attempted: int
    mistakes: list[tuple[str, int]]


def write_reports(folder: Path, results: list[Result], exercises: list[tuple[str, str, float]], title: str = ""):
    """Write grades.csv, long.csv, feedback/ and the summary into the folder, and start manual.csv if there is none.

    exercises: id, name and possible points of each exercise of the release. Others are left out.
    Errors: ValueError if a row of manual.csv can't be meant; then nothing is written.
    """
    names = sorted({result.student for result in results})
    manual = read_manual(folder / "manual.csv", names, exercises)
    students = [
        _student(name, [result for result in results if result.student == name], exercises, manual) for name in names
    ]
    start_manual(folder / "manual.csv")
    _write_csv(folder / "grades.csv", grades(students, exercises))
    _write_csv(folder / "long.csv", long(students))
    (folder / "feedback").mkdir(exist_ok=True)
    for student in students:
        _write_page(folder / "feedback" / safe_name(student.name), feedback(student, exercises, title))
    tallies = [_tally(id, name, students) for id, name, _ in exercises]
    drawn = io.BytesIO()
    outcomes([(tally.heading, tally.counts) for tally in tallies]).savefig(drawn, format="png")
    with replacing(folder / "summary.png") as file:
        file.write(drawn.getvalue())
    _write_page(folder / "summary", summary(students, exercises, title, tallies, drawn.getvalue()))


def _student(name: str, results: list[Result], exercises: Exercises, manual: Manual) -> Student:
    """A student's chapters and exercises, also those of which there is no result."""
    graded = {graded.id: graded for result in results for graded in result.exercises}
    marks = []
    for id, exercise, possible in exercises:
        points, comment = manual.get((name, id), (None, ""))
        one = replace(graded.get(id, Graded(id, exercise, "missing", 0, possible)), name=exercise, possible=possible)
        marks.append(Mark(one if points is None else replace(one, points=points), points is not None, comment))
    missing = {chapter: Result(name, chapter, "missing") for chapter in (_chapter(id) for id, _, _ in exercises)}
    chapters = missing | {result.chapter: result for result in results}
    extra, comment = manual.get((name, ""), (None, ""))
    return Student(name, [chapters[chapter] for chapter in sorted(chapters)], marks, extra or 0, comment)


def _chapter(id: str) -> str:
    return id.partition(".")[0]


def number(x: float) -> str:
    """A number of points with as many decimals as it needs, at most two.

    >>> number(6.0), number(4.5), number(1 / 3)
    ('6', '4.5', '0.33')
    """
    return f"{round(x, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0 makes 0 of -0


def safe_name(student: str) -> str:
    """A file name for a student, without its ending: no two students share one, even where A and a are the same.

    >>> safe_name("ann"), safe_name("Ann"), safe_name("a/b")
    ('ann', 'Ann-17239b6e', 'a_b-c14cddc0')
    """
    digest = hashlib.sha256(student.encode(errors="surrogatepass")).hexdigest()[:8]
    allowed = [c if unicodedata.category(c)[0] in "LMN" or c in "-_." else "_" for c in student]  # M: parts of letters
    name = unicodedata.normalize("NFC", "".join(allowed)).lstrip(".")
    if WINDOWS.fullmatch(name):
        name = f"_{name}"
    name = name[:60].encode()[:180].decode(errors="ignore").rstrip(".")  # a file name has at most 255 bytes
    plain = name.upper().lower() == name and not re.search(r"-[0-9a-f]{8}$", name)
    if name == student and name and plain:
        return name
    return f"{name[:51]}-{digest}"


def grades(students: list[Student], exercises: Exercises) -> list[list[Cell]]:
    """The rows of grades.csv: one for each student."""
    headings = [f"{id} {name}" for id, name, _ in exercises]
    rows: list[list[Cell]] = [["student", "status", "total", "possible", *headings, "comment", "flags"]]
    for student in students:
        worst = [result.chapter for result in student.chapters if result.status == student.status]
        where = f" ({', '.join(worst)})" if len(worst) < len(student.chapters) else ""
        points = [mark.graded.points if mark.counts else "" for mark in student.marks]
        comments = [student.comment] if student.comment else []
        comments += [f"{mark.graded.id}: {mark.comment}" for mark in student.marks if mark.comment]
        flags = [flag for result in student.chapters for flag in result.flags]
        flags += [f"{mark.graded.id}: {flag}" for mark in student.marks for flag in mark.graded.flags]
        begin = [student.name, student.status + where, student.total, _possible(exercises)]
        rows.append([*begin, *points, "; ".join(comments), "; ".join(flags)])
    return rows


def long(students: list[Student]) -> list[list[Cell]]:
    """The rows of long.csv: one for each student and exercise."""
    rows: list[list[Cell]] = [
        [*"student chapter file status exercise name outcome points possible mistake flags confined".split()]
    ]
    for student in students:
        chapters = {result.chapter: result for result in student.chapters}
        for mark in student.marks:
            result, graded = chapters[_chapter(mark.graded.id)], mark.graded
            begin = [student.name, result.chapter, result.file, result.status, graded.id, graded.name, graded.outcome]
            points = graded.points if mark.counts else ""
            rows.append([*begin, points, graded.possible, graded.mistake, "; ".join(graded.flags), result.held])
    return rows


def feedback(student: Student, exercises: Exercises, title: str) -> Blocks:
    """What a student reads. Flags are for the teacher, and not here."""
    total = f"{number(student.total)} of {number(_possible(exercises))} points"
    page: Blocks = [("h1", f"{title}: {student.name}" if title else student.name), ("strong", f"Total: {total}")]
    if student.extra:
        page.append(("p", f"For the whole submission, set by your teacher: {number(student.extra)} points"))
    if student.comment:
        page.append(("p", f"Your teacher writes: {student.comment}"))
    for result in student.chapters:
        page += [("h2", f"Chapter {result.chapter}"), ("p", f"{result.status}: {EXPLAINED[result.status]}.")]
        for mark in student.marks:
            if _chapter(mark.graded.id) == result.chapter:
                page += _feedback(mark)
    return page


def _feedback(mark: Mark) -> Blocks:
    graded = mark.graded
    points = f"{number(graded.points if mark.counts else 0)} of {number(graded.possible)} points"
    by = ", set by your teacher" if mark.by_hand else ""
    page: Blocks = [("h3", f"{SIGNS[graded.outcome]} {graded.id} {graded.name}: {graded.outcome}, {points}{by}")]
    if mark.comment:
        page.append(("p", f"Your teacher writes: {mark.comment}"))
    if graded.message.strip() and SIGNS[graded.outcome] in "✗!":
        page.append(("pre", graded.message.strip("\n")))
    return page


def summary(students: list[Student], exercises: Exercises, title: str, tallies: list[Tally], png: bytes) -> Blocks:
    """What the teacher reads of the whole class."""
    statuses = Counter(student.status for student in students)
    said = ", ".join(f"{statuses[status]} {status}" for status in STATUSES if statuses[status])
    page: Blocks = [("h1", title or "The class"), ("p", f"Students: {len(students)}" + (said and f" ({said})"))]
    possible = _possible(exercises)
    if students and possible:
        totals = [100 * student.total / possible for student in students]
        spread = f"mean {mean(totals):.0f} %, median {median(totals):.0f} %"
        page.append(("p", f"Totals: {spread} of {number(possible)} points. Nothing handed in counts as 0."))
    shares = [(tally.share, tally.heading) for tally in tallies if tally.share is not None]
    if shares:
        share, heading = min(shares, key=lambda pair: pair[0])
        page.append(("p", f"Hardest: {heading}, with {100 * share:.0f} % of its points for those who handed it in"))
    table = [["exercise", "right", "wrong", "not attempted", "timeout or crashed", "mean points"]]
    for tally in tallies:
        share = "" if tally.share is None else f"{100 * tally.share:.0f} %"
        table.append([tally.heading, *map(str, tally.counts), share])
    page += [("h2", "Exercises"), ("image", ("what came of each exercise, as in the table below", "summary.png", png))]
    page += [("table", table), ("p", "Mean points are of those who handed the chapter in.")]
    page += [("h2", "Known mistakes")] if any(tally.mistakes for tally in tallies) else []
    for tally in tallies:
        if tally.mistakes:
            lines = [f"{count} of {tally.attempted}: {mistake}" for mistake, count in tally.mistakes]
            page += [("h3", tally.heading), ("list", lines)]
    return page


def _tally(id: str, name: str, students: list[Student]) -> Tally:
    marks = [mark for student in students for mark in student.marks if mark.graded.id == id]
    came = Counter(mark.graded.outcome for mark in marks)
    attempted = len(marks) - came["not attempted"] - came["missing"]
    counts = [came["right"], came["wrong"], came["not attempted"] + came["missing"], came["timeout"] + came["crashed"]]
    shares = [mark.graded.points / mark.graded.possible for mark in marks if mark.counts and mark.graded.possible]
    mistakes = Counter(mark.graded.mistake for mark in marks if mark.graded.mistake)
    by_count = sorted(mistakes.items(), key=lambda item: (-item[1], item[0]))
    return Tally(f"{id} {name}", counts, mean(shares) if shares else None, attempted, by_count)


def _possible(exercises: Exercises) -> float:
    return sum(possible for _, _, possible in exercises)


def _write_csv(path: Path, rows: list[list[Cell]]):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([cell(x) if isinstance(x, str) else number(x) for x in row] for row in rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))


def _write_page(path: Path, page: Blocks):
    """Write PATH.md and PATH.html."""
    for ending, text in ((".md", markdown(page)), (".html", web_page(page))):
        with replacing(path.with_name(path.name + ending)) as file:
            file.write(text.encode())
