"""Grading a class from the command line: complete whatever happens, the same again, and nothing lost."""

import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from minillama.classroom import batch, graft, pool, strip
from minillama.classroom.batch import Bench, Plan, grade_class, nonce_of
from minillama.classroom.choosing import Work
from minillama.classroom.grading import Grader, Task, add_checks
from minillama.classroom.handed_in import File
from minillama.classroom.pool import Limits, Pool
from minillama.classroom.release import Release, make_release, open_release, pristine
from minillama.cli import main
from minillama.course.answers import Answer, start
from minillama.course.exercise import exercises_of, find, solution
from minillama.course.stub import TODO, stub
from tests.made_up_class import as_bytes, filled, learner, write_class, written

LIMITS = Limits(cpu_seconds=3, call_seconds=10)
CHAPTER = "00"  # four small exercises


def plan(tasks=None, **settings):
    return Plan(Release((CHAPTER,), tasks or {}), "a nonce", "workers", LIMITS, **settings)


def solved(**changes):
    answers = {id: solution(exercise) for id, exercise in exercises_of(CHAPTER).items()}
    return as_bytes(filled(learner(CHAPTER), answers | {id.replace("_", "."): text for id, text in changes.items()}))


def rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.fixture
def school(tmp_path):
    place = tmp_path / "class"
    place.mkdir()
    mistake = find("00.1").mistakes[0]
    files = {
        "anna.ipynb": solved(),
        "ben.ipynb": solved(**{"00.1": written(find("00.1"), mistake.answer)}),
        "carl.ipynb": as_bytes(learner(CHAPTER)),
        "dora.ipynb": b"{",
        "emil.ipynb": solved(**{"00.2": "def likeliest(probabilities):\n    while True:\n        pass\n"}),
        "fred.ipynb": solved(**{"00.3": "import os\n\n" + stub(find("00.3")).replace(TODO, "os._exit(3)")}),
        "gina.ipynb": b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    }
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place


def test_every_status_is_said_and_the_points_are_those_deserved(school, tmp_path):
    out = tmp_path / "grades"
    graded, faults = grade_class(school, out, plan())
    found = rows(out / "grades.csv")
    assert faults == [] and {student: row["status"] for student, row in found.items()} == {
        "anna": "ok", "ben": "ok", "carl": "ok", "dora": "unreadable", "emil": "timeout", "fred": "crashed",
        "gina": "wrong release",
    }  # fmt: skip
    full = sum(exercise.points for exercise in exercises_of(CHAPTER).values())
    assert found["anna"]["total"] == str(full) and found["carl"]["total"] == "0"
    assert float(found["emil"]["total"]) == full - find("00.2").points
    assert float(found["fred"]["total"]) == full - find("00.3").points
    assert 0 < float(found["ben"]["total"]) < full and found["dora"]["00.1 double"] == ""
    (ben,) = [result for result in graded if result.student == "ben"]
    assert ben.exercises[0].mistake == find("00.1").mistakes[0].text
    assert ben.exercises[0].mistake[:30] in " ".join((out / "feedback" / "ben.md").read_text("utf-8").split())
    assert {"grades.csv", "long.csv", "manual.csv", "summary.html", "summary.png"} <= {p.name for p in out.iterdir()}


@pytest.mark.slow
def test_a_second_run_asks_no_worker_and_gives_the_same_tables(school, tmp_path, monkeypatch):
    out = tmp_path / "grades"
    grade_class(school, out, plan())
    before = {name: (out / name).read_bytes() for name in ("grades.csv", "long.csv", "summary.md")}
    monkeypatch.setattr(batch, "Pool", None)
    grade_class(school, out, plan())
    assert {name: (out / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("change", ["file", "nonce", "points", "damaged"])
def test_what_decides_a_result_makes_it_again(school, tmp_path, change):
    out = tmp_path / "grades"
    only = school / "anna.ipynb"
    for path in school.iterdir():
        if path != only:
            path.unlink()
    grade_class(school, out, plan())
    path = out / "results" / "anna 00.json"
    first = json.loads(path.read_text())
    changed = plan()
    if change == "file":
        only.write_bytes(only.read_bytes() + b"\n")
    elif change == "nonce":
        changed = Plan(changed.release, "another", "workers", LIMITS)
    elif change == "points":
        changed = plan({"00.1": Task(50.0)})
    else:
        path.write_text(path.read_text()[:100])
    grade_class(school, out, changed)
    second = json.loads(path.read_text())
    assert (second["key"] == first["key"]) == (change == "damaged") and second["status"] == "ok"


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_gives_the_same_tables(tmp_path):
    place, release = tmp_path / "class", Release((CHAPTER,), {})
    write_class(place, [CHAPTER], 14)
    arguments = ["grade", str(place), "--seconds", "3", "--nonce", "n"]
    killed, left = [*arguments, "--out", str(tmp_path / "killed")], []
    for jobs in ([], ["--jobs", "2"]):
        process = subprocess.Popen([sys.executable, "-m", "minillama", *killed, *jobs])
        results = tmp_path / "killed" / "results"
        n_before = len(list(results.glob("*.json"))) if results.exists() else 0
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if results.exists() and len(list(results.glob("*.json"))) > n_before + 2:
                break
            time.sleep(0.05)
        started = below(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left += started
        assert len(started) >= (2 if pool.FORKS else 0)
    n_kept = len(list(results.glob("*.json")))
    assert 0 < n_kept < 14, "the test was too slow or too fast to kill it in the middle"
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < until:
        time.sleep(0.1)
    assert [pid for pid in left if Path(f"/proc/{pid}").exists()] == []
    assert main([*killed, "--jobs", "2"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    for name in ("grades.csv", "long.csv", "summary.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert len(rows(tmp_path / "whole" / "grades.csv")) == 14 and release


def below(pid):
    """All processes that this one started, and those that they started."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [found for child in children for found in (child, *below(child))]


@pytest.mark.slow
def test_a_fault_of_the_grader_is_said_and_tried_again_and_stops_nobody_else(school, tmp_path, monkeypatch, capsys):
    def broken_for_ben(self, cells, chapter, texts, real=Grader.grade):
        if any("ben was here" in cell.text for cell in cells):
            raise RuntimeError("a template has died")
        return real(self, cells, chapter, texts)

    monkeypatch.setattr(Grader, "grade", broken_for_ben)
    (school / "ben.ipynb").write_bytes(solved(**{"00.1": "# ben was here\n" + solution(find("00.1"))}))
    arguments = ["grade", str(school), "--out", str(tmp_path / "grades"), "--seconds", "3"]
    assert main(arguments) == 1
    assert "ben 00: the grader itself failed: RuntimeError: a template has died" in capsys.readouterr().err
    found = rows(tmp_path / "grades" / "grades.csv")
    assert found["ben"]["status"] == "needs review" and found["anna"]["status"] == "ok" and len(found) == 7
    monkeypatch.undo()
    assert main(arguments) == 0
    assert rows(tmp_path / "grades" / "grades.csv")["ben"]["status"] == "ok"


def test_a_template_that_dies_is_replaced(tmp_path):
    file = File("anna", "anna.ipynb", 0.0, solved())
    with Bench(plan()) as bench:
        assert bench.work(Work("anna", CHAPTER, file), tmp_path / "1.json")[0].status == "ok"
        bench.pool.server.kill()
        for control in bench.pool.templates.values():
            control.close()
        again, fault = bench.work(Work("anna", CHAPTER, file), tmp_path / "2.json")
    assert (again.status, fault) == ("ok", "")


def test_a_nonce_is_drawn_once_and_kept(tmp_path):
    first = nonce_of(tmp_path / "out", "")
    assert len(first) == 16 and nonce_of(tmp_path / "out", "") == first
    assert nonce_of(tmp_path / "out", "mine") == "mine" == nonce_of(tmp_path / "out", "")
    assert nonce_of(tmp_path / "other", "") != first


@pytest.mark.slow
def test_manual_points_survive_a_regrade(school, tmp_path):
    out = tmp_path / "grades"
    grade_class(school, out, plan())
    (out / "manual.csv").write_text("student,exercise,points,comment\ncarl,00.1,3,spoken exam\n")
    grade_class(school, out, Plan(plan().release, "another nonce", "workers", LIMITS))
    assert (out / "manual.csv").read_text() == "student,exercise,points,comment\ncarl,00.1,3,spoken exam\n"
    assert rows(out / "grades.csv")["carl"]["total"] == "3"


HIDDEN = """
from minillama.course.checks import same
from minillama.course.exercise import find


@find("00.1").check("a hidden one: twice 1000", points=5)
def twice_a_thousand(double):
    same(double(1000), 2000)
"""


def test_a_teachers_own_checks_count_and_say_what_they_asked_for(tmp_path):
    exercise = find("00.1")
    n_checks = len(exercise.checks)
    (tmp_path / "mine.py").write_text(HIDDEN)
    (tmp_path / "grading.toml").write_text('checks = "mine.py"\n[[exercise]]\nid = "00.1"\npoints = 10\n')
    place = tmp_path / "class"
    place.mkdir()
    (place / "anna.ipynb").write_bytes(solved())
    (place / "ben.ipynb").write_bytes(solved(**{"00.1": "def double(x):\n    return 2 * min(x, 100)\n"}))
    try:
        graded, _ = grade_class(place, tmp_path / "out", Plan(open_release(tmp_path), "n", "workers", LIMITS))
    finally:
        del exercise.checks[n_checks:]
        add_checks.cache_clear()
    assert [result.points for result in graded] == [10.0, 5.0]
    assert "asked for: a hidden one: twice 1000" in graded[1].exercises[0].message


@pytest.mark.parametrize("text", [None, "def broken(:\n"])
def test_a_file_of_checks_that_is_missing_or_broken_is_named(tmp_path, text):
    (tmp_path / "grading.toml").write_text('checks = "mine.py"\n[[exercise]]\nid = "00.1"\npoints = 10\n')
    if text:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"grading\.toml: checks = 'mine\.py': .*expected a Python file"):
        open_release(tmp_path)


def test_check_says_word_for_word_what_the_grader_says(school, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("minillama.classroom.commands.secrets.token_hex", lambda n: "a nonce")
    graded, _ = grade_class(school, tmp_path / "out", plan())
    assert main(["check", str(school / "ben.ipynb")]) == 0
    said = capsys.readouterr().out
    (ben,) = [result for result in graded if result.student == "ben"]
    assert said.startswith("\n".join(one.message for one in ben.exercises))
    assert f"\n{ben.points:g} of {ben.possible:g} points" in said


def test_the_long_table_says_what_confined_each_answer(school, tmp_path):
    grade_class(school, tmp_path / "out", plan())
    with open(tmp_path / "out" / "long.csv", encoding="utf-8-sig", newline="") as file:
        held = {row["student"]: row["confined"] for row in csv.DictReader(file)}
    assert held["anna"].startswith("limits") == pool.FORKS and held["dora"] == ""


def test_an_answer_that_only_runs_as_a_whole_serves_later_ones(tmp_path):
    begin = "make = globals().__setitem__\nmake('scale', 1.0)\n\n\n"
    whole = f"{begin}def softmax(scores):\n    return torch.softmax(scale * scores, -1)\n"
    uses = "def attend_one(q, k, v):\n    return softmax(k @ q / len(q) ** 0.5) @ v\n"
    cells, _ = graft.read_cells(as_bytes(filled(learner("03"), {"03.2": whole, "03.3": uses})))
    with Pool(LIMITS) as made:
        graded, _ = Grader("n", {"03.2": Task(1.0), "03.3": Task(1.0)}, made).grade(cells, "03", pristine("03"))
    assert [one.outcome for one in graded] == ["right", "right"]


def test_what_a_killed_grader_left_in_the_temporary_folder_is_cleared(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stale = tmp_path / ".minillama-grading.999999999.0123abcd.tmp"
    stale.mkdir()
    with Pool(LIMITS) as made:
        assert not stale.exists() and list(tmp_path.iterdir()) == [made.folder]
    assert list(tmp_path.iterdir()) == []


def of_this_system():
    """What a worker can be held by here, found out without the grader."""
    libc, there = ctypes.CDLL(None), {"limits"}
    there |= {"Landlock"} if libc.syscall(444, None, 0, 1) > 0 else set()
    there |= {"few system calls"} if Path("/proc/sys/kernel/seccomp/actions_avail").exists() else set()
    for name, flag in (("no network", 0x40000000), ("own processes", 0x20000000), ("own memory", 0x08000000)):
        child = os.fork()
        if child == 0:
            os._exit(0 if libc.unshare(flag) == 0 or libc.unshare(0x10000000 | flag) == 0 else 1)
        there |= {name} if os.waitpid(child, 0)[1] == 0 else set()
    return there


@pytest.mark.skipif(not pool.FORKS, reason="workers are confined on Linux only")
def test_a_worker_is_held_by_all_that_this_system_has(tmp_path):
    exercise = find("00.1")
    strip.tree_for(exercise, 1, tmp_path / "tree")
    with Pool(LIMITS) as made, made.worker(tmp_path / "tree") as worker:
        held = worker.held
        start(
            worker.send,
            "import os\n\n\ndef double(x):\n    return os.getpid(), sorted(os.environ), os.getcwd()\n",
            "double",
        )
        pid, environment, folder = Answer(worker.send, name="double")(1)
    assert {name for name in of_this_system() if name not in held} == set()
    assert pid == 1 or "own processes" not in held
    assert environment == ["CUDA_VISIBLE_DEVICES", "HOME", "LC_ALL", "PATH", "TMPDIR"]
    assert folder.startswith(str(made.folder)) and not Path(folder).exists()


@pytest.mark.skipif(not pool.FORKS, reason="there is a server of workers on Linux only")
def test_the_server_of_workers_is_not_told_what_is_in_the_environment(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "of the teacher")
    with Pool(LIMITS) as made:
        told = Path(f"/proc/{made.server.pid}/environ").read_bytes()
    assert b"of the teacher" not in told and b"PATH=" in told


def test_copies_and_late_files_are_flagged_and_cost_nothing(tmp_path):
    place = tmp_path / "class"
    place.mkdir()
    own = "def double(x):\n    result = x\n    return result + x\n"
    for name, text in {
        "anna": own,
        "ben": own.replace("    result = x", "    result = x  # mine"),
        "carl": solution(find("00.1")),
    }.items():
        (place / f"{name}.ipynb").write_bytes(solved(**{"00.1": text}))
    os.utime(place / "ben.ipynb", (2e9, 2e9))
    late = Plan(Release((CHAPTER,), {"00.1": Task(5.0)}, due="2030-01-01"), "n", "workers", LIMITS)
    graded, _ = grade_class(place, tmp_path / "out", late)
    flags = {result.student: [*result.flags, *result.exercises[0].flags] for result in graded}
    assert flags["anna"] == ["the same code as ben"] and "the same code as the worked solution" in flags["carl"]
    assert len(flags["ben"]) == 2 and flags["ben"][0].startswith("late by ")
    assert [result.points for result in graded] == [5.0, 5.0, 5.0]


@pytest.mark.slow
def test_points_are_the_teachers_in_shares_or_all_or_none(tmp_path):
    some = next(m for m in find("00.1").mistakes if 0 < share_of(m) < 1)
    for partial, expected in ((True, 10 * share_of(some)), (False, 0.0)):
        place = tmp_path / f"class {partial}"
        place.mkdir()
        (place / "anna.ipynb").write_bytes(solved(**{"00.1": written(find("00.1"), some.answer)}))
        release = Release((CHAPTER,), {"00.1": Task(10.0), "00.2": Task(1.0)}, partial=partial)
        (result,), _ = grade_class(place, tmp_path / f"out {partial}", Plan(release, "n", "workers", LIMITS))
        assert [one.points for one in result.exercises] == [pytest.approx(expected), 1.0]


def share_of(mistake):
    from minillama.course.answers import here
    from minillama.course.checking import examine

    return examine(find("00.1"), here(mistake.answer), 1).points / find("00.1").points


def test_an_import_in_another_answer_is_not_taken_for_one():
    imports = "from minillama.block import Block\n\n\ndef find_the_broken(suspects, config):\n    return []\n"
    book = filled(learner("07"), {"07.4": solution(find("07.4")), "07.5": imports})
    for cell in book["cells"]:
        cell["metadata"] = {}
        cell.pop("id")
    answer = graft.answer_in(graft.read_cells(as_bytes(book))[0], find("07.4"), pristine("07"))
    assert answer and answer.source.strip() == solution(find("07.4")).strip()
    bare = filled(learner("07"), {"07.5": imports})
    untouched = graft.answer_in(graft.read_cells(as_bytes(bare))[0], find("07.4"), pristine("07"))
    assert untouched and untouched.guessed == [] and graft.untouched(untouched.source, find("07.4"))


@pytest.mark.slow
def test_a_notebook_of_another_release_is_graded_and_says_so(tmp_path):
    made = make_release([CHAPTER], tmp_path / "release", points={}, forbid={})
    place = tmp_path / "class"
    write_class(place, [CHAPTER], 1, tmp_path / "release")
    old = json.loads(next(place.rglob("*.ipynb")).read_text())
    old["metadata"]["minillama"]["release"]["id"] = "last year"
    bare = filled(learner(CHAPTER), {})
    for name, book in {"old": old, "bare": bare}.items():
        (place / name).mkdir()
        (place / name / "00_start.ipynb").write_bytes(as_bytes(book))
    graded, _ = grade_class(place, tmp_path / "out", Plan(made, "n", "workers", LIMITS))
    assert {result.student: result.status for result in graded} == {
        "Ada": "ok", "old": "wrong release", "bare": "needs review"}  # fmt: skip
    full = float(sum(task.points for task in made.tasks.values()))
    assert next(result.points for result in graded if result.student == "old") == full


def test_forbidden_functions_raise_in_their_exercise_only(tmp_path):
    text = "import torch\n\n\ndef softmax(scores):\n    return torch.softmax(scores, -1)\n"
    answers = {"03.2": text, "03.5": solution(find("03.5")), "03.3": solution(find("03.3"))}
    cells, _ = graft.read_cells(as_bytes(filled(learner("03"), answers)))
    tasks = {
        "03.2": Task(7.0, ["torch.softmax"]),
        "03.3": Task(5.0, []),
        "03.5": Task(8.0, ["F.scaled_dot_product_attention"]),
    }
    with Pool(LIMITS) as made:
        graded, _ = Grader("n", tasks, made).grade(cells, "03", pristine("03"))
    one = {result.id: result for result in graded}
    assert (one["03.2"].outcome, one["03.2"].points) == ("wrong", 0.0) and one["03.5"].points == 8.0
    assert "softmax is not allowed in this exercise" in one["03.2"].message and one["03.2"].review
    assert one["03.2"].flags == ["mentions torch.softmax, which is not allowed"] and one["03.3"].points == 5.0


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        ("def softmax(scores):\n    return torch.softmax(scores, -1)\n", "right"),
        ("def softmax(scores):\n    return 0\n", "wrong"),
    ],
)
def test_an_earlier_answer_is_the_students_if_it_was_right_and_the_solution_if_not(first, outcome):
    uses = "def attend_one(q, k, v):\n    return softmax(k @ q / len(q) ** 0.5) @ v\n"
    cells, _ = graft.read_cells(as_bytes(filled(learner("03"), {"03.2": first, "03.3": uses})))
    with Pool(LIMITS) as made:
        graded, _ = Grader("n", {"03.2": Task(1.0), "03.3": Task(1.0)}, made).grade(cells, "03", pristine("03"))
    assert [one.outcome for one in graded] == [outcome, "right"]


@pytest.mark.slow
def test_what_does_not_confine_is_said_loudly(school, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pool, "FORKS", False)
    for path in school.iterdir():
        if path.name not in ("anna.ipynb", "emil.ipynb"):
            path.unlink()
    assert main(["grade", str(school), "--out", str(tmp_path / "out"), "--seconds", "2"]) == 0
    said = capsys.readouterr()
    assert "WARNING" in said.err and "container" in said.err and pool.UNCONFINED in said.out
    assert {s: row["status"] for s, row in rows(tmp_path / "out" / "grades.csv").items()} == {
        "anna": "ok",
        "emil": "timeout",
    }
