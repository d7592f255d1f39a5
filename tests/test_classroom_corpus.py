import csv
import json
import os
import re
import shutil
import signal
import socket
import time
import zipfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest

from minillama.classroom import graft, nbval
from minillama.classroom.batch import Plan, grade_class
from minillama.classroom.grading import Grader, Task
from minillama.classroom.handed_in import handed_in
from minillama.classroom.pool import FORKS, Limits, Pool
from minillama.classroom.release import Release, pristine
from minillama.classroom.strip import PACKAGE
from minillama.course.exercise import exercises_of, find, solution
from tests.classroom_corpus import (
    CASES,
    CONFINED,
    FOLDER,
    RELEASE,
    SECRET,
    SOLUTIONS,
    Case,
    _placed,
    files,
    neighbour_of,
    notebook_of,
    notebooks_for_nbval,
)  # fmt: skip
from tests.made_up_class import filled, learner

FAST = Limits(cpu_seconds=2, call_seconds=8.0, memory_mib=512)
PATIENCE = 60  # seconds for one notebook, on a busy computer
CANARY = "nobody writes here\n"
pytestmark = pytest.mark.skipif(not FORKS, reason="workers are confined on Linux only")


@contextmanager
def within(seconds: int):
    """Raise TimeoutError if the block takes longer: a grader that hangs must not hang the tests."""

    def late(*_):
        raise TimeoutError(f"the grader took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file() and p.suffix != ".zip"}


@pytest.fixture(scope="module", autouse=True)
def outside():
    """What answers must not reach: files beside the grader's, a socket that listens, a secret in the environment."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / "canary").write_text(CANARY)
    (FOLDER / "other_student.ipynb").write_text(json.dumps(filled(learner("03"), {"03.2": solution(find("03.2"))})))
    with zipfile.ZipFile(FOLDER / "package.zip", "w") as archive:
        archive.write(PACKAGE / "attention.py", "attention.py")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as unnamed:
        listening.bind(str(FOLDER / "socket"))
        unnamed.bind(f"\0{SECRET}")
        listening.listen(100)
        unnamed.listen(100)
        os.environ["LC_MINILLAMA_CORPUS"] = SECRET  # also how processes of this pool are told from others
        yield
    del os.environ["LC_MINILLAMA_CORPUS"]
    shutil.rmtree(FOLDER)


class Graders:
    """A grader for all tests, and a new one after a test that has failed."""

    made: ClassVar[list] = []

    def __init__(self, confine: bool = True):
        self.confine, self.pool, self.grader, self.how = confine, None, None, ""
        Graders.made.append(self)

    def open(self) -> Grader:
        if self.grader is None:
            self.pool = Pool(FAST, confine=self.confine)
            self.grader = Grader("corpus", {}, self.pool)
        return self.grader

    def held(self) -> str:
        """How this system confines an answer, seen on one that does no harm."""
        if not self.how:
            book = filled(learner("00"), {"00.1": solution(find("00.1"))})
            _, self.how = graded(self.open(), json.dumps(book).encode(), "00")
        return self.how

    def close(self):
        if self.pool:
            self.pool.__exit__()
        self.pool = self.grader = None


@pytest.fixture(scope="module")
def graders(outside):
    made = Graders()
    yield made
    made.close()


@pytest.fixture(scope="module")
def unconfined(outside):
    made = Graders(confine=False)
    yield made
    made.close()


def graded(grader: Grader, data: bytes, chapter: str):
    with within(PATIENCE):
        cells, _ = graft.read_cells(data)
        results, held = grader.grade(cells, chapter, pristine(chapter))
    return {one.id: one for one in results}, held


def skip_unless_held(case: Case, graders: Graders):
    if missing := [need for need in case.needs if need not in graders.held()]:
        pytest.skip(f"this system does not confine answers with: {', '.join(missing)}")


def processes() -> dict[int, str]:
    """The processes of this test's graders that are there: number and the letter of their state."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                if f"LC_MINILLAMA_CORPUS={SECRET}".encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                pass
    return found


def still_there(before: dict[int, str]) -> set[int]:
    """The processes that are there now and were not before, after they had time to end."""
    for _ in range(100):
        if not (left := processes().keys() - before.keys()):
            break
        time.sleep(0.02)
    return left


def strays() -> set[int]:
    """The processes that are neither a pool's server nor one of its templates, after all had time to end."""
    for _ in range(100):
        servers = [made.pool.server.pid for made in Graders.made if made.pool]
        places = [Path(f"/proc/{pid}/task/{pid}/children") for pid in servers]
        templates = [int(pid) for place in places for pid in place.read_text().split()]
        if not (left := processes().keys() - {*servers, *templates}):
            break
        time.sleep(0.02)
    return left


def parameters() -> list:
    marks = [[pytest.mark.slow] if case.slow else [] for case in CASES]
    return [pytest.param(case, marks=m, id=f"{case.kind}: {case.name}") for case, m in zip(CASES, marks, strict=True)]


@pytest.mark.parametrize("case", parameters())
def test_gets_the_points_that_it_earned_and_no_other(case, graders):
    skip_unless_held(case, graders)
    data, chapter = notebook_of(case)
    try:
        found, _ = graded(graders.open(), data, chapter)
        left = strays()
    except BaseException:
        graders.close()
        raise
    mine, other = found[case.exercise], found[neighbour_of(case)]
    assert (mine.outcome, mine.points) == (case.outcome, case.worth), mine.message
    assert (other.outcome, other.points) == ("right", other.possible), other.message
    assert not left
    assert contents(FOLDER)["canary"] == CANARY and sorted(os.listdir(FOLDER)) == [
        "canary", "other_student.ipynb", "package.zip", "socket"
    ]  # fmt: skip
    assert len(mine.message) < 20_000 and sum(map(len, mine.flags)) < 5_000


HARMLESS = [
    "the package's own, read from disk",
    "the notebook of another student",
    "TCP",
    "UDP",
    "a file is written outside",
]


@pytest.mark.parametrize("name", HARMLESS)
def test_without_confinement_the_same_attack_works_so_that_these_tests_can_tell(name, unconfined):
    case = next(case for case in _placed([*SOLUTIONS, *CONFINED]) if case.name == name)
    data, chapter = notebook_of(case)
    found, _ = graded(unconfined.open(), data, chapter)
    for made in FOLDER.glob("w*"):
        made.unlink()
    assert found[case.exercise].outcome == "right"


FORBIDDEN = {
    "from torch": "return torch.softmax(scores, dim=-1)",
    "under a name that is put together": "return getattr(torch, 'soft' + 'max')(scores, dim=-1)",
    "as a method": "return scores.softmax(dim=-1)",
    "from torch.nn.functional": "return torch.nn.functional.softmax(scores, -1)",
    "as a module": "return torch.nn.Softmax(dim=-1)(scores)",
    "from torch.special": "return torch.special.softmax(scores, -1)",
    "from where torch keeps it": "return torch._C._VariableFunctions.softmax(scores, -1)",
    "from the module, loaded again": "import importlib as i; return i.reload(torch.nn.functional).softmax(scores, -1)",
}


SEEN_ONLY = ["from where torch keeps it"]  # nothing can be put in its place there


@pytest.mark.parametrize("how", FORBIDDEN)
def test_a_function_that_is_not_allowed_gives_no_points_or_at_least_shows(how, graders):
    graders.open()
    grader = Grader("corpus", {"03.2": Task(7.0, ["softmax"]), "03.1": Task(4.0)}, graders.pool)
    grader.trees = graders.grader.trees
    answers = {"03.2": f"def softmax(scores):\n    {FORBIDDEN[how]}\n", "03.1": solution(find("03.1"))}
    found, _ = graded(grader, json.dumps(filled(learner("03"), answers)).encode(), "03")
    assert found["03.2"].points == 0 or (how in SEEN_ONLY and found["03.2"].review)
    assert found["03.1"].points == 4


@pytest.mark.slow
def test_a_whole_folder_of_broken_files_and_hostile_answers_is_graded_to_the_end(tmp_path, outside):
    place, out = tmp_path / "handed in", tmp_path / "grades"
    place.mkdir()
    there = files()
    for one in there:
        (place / one.student).mkdir()
        for number, (name, data) in enumerate(one.files.items()):
            (place / one.student / name).write_bytes(data)
            os.utime(place / one.student / name, (10**9 - number, 10**9 - number))
    quick = [case for case in CASES if case.exercise.startswith("00") and not case.slow and not case.needs]
    for number, case in enumerate(quick):
        (place / f"Case {number}").mkdir()
        (place / f"Case {number}" / "00_start.ipynb").write_bytes(notebook_of(case)[0])
    for student, name in (("A link", "00_start.ipynb"), ("A folder", "00_start.ipynb")):
        (place / student).mkdir()
        path = place / student / name
        path.symlink_to(FOLDER / "other_student.ipynb") if student == "A link" else path.mkdir()
    tasks = {e.id: Task(float(e.points)) for e in exercises_of("00").values()}
    release = Release(("00",), tasks, id=RELEASE)
    before = processes()
    with within(5 * PATIENCE):
        results, faults = grade_class(place, out, Plan(release, "corpus", "workers", FAST))
    assert not faults
    by_student = {result.student: result for result in results}
    assert set(by_student) == {path.name for path in place.iterdir()} == {file.student for file in handed_in(place)}
    for one in there:
        result = by_student[one.student]
        assert (result.student, result.status, result.points) == (one.student, one.status, one.points)
        assert one.flag in " ".join(result.flags)
    for number, case in enumerate(quick):
        mine = next(e for e in by_student[f"Case {number}"].exercises if e.id == case.exercise)
        assert (case.name, mine.points) == (case.name, case.worth)
    assert {by_student[name].status for name in ("A link", "A folder")} == {"unreadable"}
    with open(out / "grades.csv", encoding="utf-8-sig", newline="") as table:
        rows = list(csv.reader(table))
    assert len(rows) == 1 + len(by_student)
    assert contents(FOLDER)["canary"] == CANARY
    assert not still_there(before)


def test_the_notebooks_for_nbval_hold_every_answer_once():
    books = notebooks_for_nbval()
    text = "".join("".join(cell["source"]) for _, data, _ in books for cell in json.loads(data)["cells"])
    assert len(books) <= 10
    for case in CASES:
        lines = [line.strip() for line in case.answer.splitlines() if not re.search("NAME|ID|SOLUTION", line)]
        assert case.change or not lines or max(lines, key=len) in text, case.name


@pytest.mark.parametrize("confine", [True, False])
def test_no_process_of_an_answer_outlives_it_and_none_of_a_pool_its_end(outside, confine):
    before = processes()
    with Pool(FAST, confine=confine) as pool:
        grader = Grader("corpus", {}, pool)
        book = notebook_of(next(case for case in CASES if case.name.startswith("children and grandchildren")))
        graded(grader, *book)
        templates = processes()
        graded(grader, *book)
        assert pool.server.pid in templates and not still_there(templates)
    assert not still_there(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "chapter"), [pytest.param(*book, id=book[0]) for book in notebooks_for_nbval()]
)
def test_nbval_gives_the_same_verdicts(name, data, chapter):
    plan = {"release": {"tasks": {}, "partial": True, "hidden": ""}, "nonce": "a nonce", "limits": asdict(FAST)}
    theirs, _ = nbval.grade(data, chapter, plan)
    with Pool(FAST) as pool:
        ours, _ = Grader("a nonce", {}, pool).grade(graft.read_cells(data)[0], chapter, pristine(chapter))
    verdicts = [[(one.id, one.outcome, one.points, one.mistake) for one in graded] for graded in (theirs, ours)]
    assert verdicts[0] == verdicts[1], name
