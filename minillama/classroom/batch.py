"""Grade a class: every student's chapters, each result written as soon as it is there, then the tables and pages."""

import ctypes
import hashlib
import json
import multiprocessing
import secrets
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import torch
from tqdm import tqdm

from minillama import __version__
from minillama.classroom import graft, nbval, results
from minillama.classroom.choosing import Work, chapter_of, fault_of, released, works_of
from minillama.classroom.grading import Grader, add_checks
from minillama.classroom.handed_in import handed_in, marked_late
from minillama.classroom.pool import Limits, Pool
from minillama.classroom.release import Release, pristine
from minillama.classroom.reports import safe_name, write_reports
from minillama.classroom.results import Graded, Result
from minillama.classroom.strip import exercises_file, text_of
from minillama.course.exercise import exercises_of, find
from minillama.files import replacing


@dataclass(frozen=True)
class Plan:
    """What decides a result besides the notebook."""

    release: Release
    nonce: str
    engine: str
    limits: Limits

    def key(self, data: bytes, chapter: str) -> str:
        course = text_of(exercises_file(next(iter(exercises_of(chapter).values()))))
        parts = [__version__, json.dumps(asdict(self), sort_keys=True), chapter, course]
        return hashlib.sha256("\0".join(parts).encode() + data).hexdigest()


def grade_class(place: Path, out: Path, plan: Plan, *, jobs: int = 1) -> tuple[list[Result], list[str]]:
    """Grade what is in `place` into the folder `out`; a result that is there already, from the same, is kept.

    -> the results, and faults of the grader itself, for which no student is to blame.
    Errors: ValueError if there is nothing to grade.
    """
    files = handed_in(place)
    chosen = plan.release.chapters or tuple(sorted({found for file in files if (found := chapter_of(file))}))
    if not chosen:
        raise ValueError(f"{place}: none of its {len(files)} notebooks is a chapter of the course")
    (out / "results").mkdir(parents=True, exist_ok=True)
    works = works_of(files, chosen)
    paths = [out / "results" / f"{safe_name(work.student)} {work.chapter}.json" for work in works]
    made: list[Result | None] = [kept(work, path, plan) for work, path in zip(works, paths, strict=True)]
    todo = [i for i, result in enumerate(made) if result is None]
    faults = []
    with tqdm(total=len(works), initial=len(works) - len(todo), unit="notebook", disable=None) as bar:
        for i, result, fault in _worked(works, paths, todo, plan, jobs):
            made[i] = result
            faults += [f"{works[i].student} {works[i].chapter}: {fault}"] * bool(fault)
            bar.update()
    finished = [result for result in made if result]
    for work, result in zip(works, finished, strict=True):
        result.flags += [*work.flags, *_late(work, plan.release)]
    _flag_copies(finished)
    tasks = plan.release.tasks or {e.id: e for chapter in chosen for e in exercises_of(chapter).values()}
    write_reports(out, finished, [(id, find(id).name, float(task.points)) for id, task in tasks.items()])
    return finished, faults


def kept(work: Work, path: Path, plan: Plan) -> Result | None:
    """The result of before, if it came from the same file and the same plan."""
    result = results.read(path)
    return result if result and result.key == plan.key(work.file.data if work.file else b"", work.chapter) else None


def _worked(works, paths, todo, plan: Plan, jobs: int) -> Iterator[tuple[int, Result, str]]:
    """Grade these works, here or in several processes. -> number, result, fault of the grader"""
    if jobs == 1 or len(todo) < 2:
        with Bench(plan) as bench:
            for i in todo:
                yield i, *bench.work(works[i], paths[i])
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), spawn, _open_bench, (plan,)) as executor:
        waiting = {executor.submit(_at_bench, works[i], paths[i]): i for i in todo}
        for done in as_completed(waiting):
            yield waiting[done], *done.result()


class Bench:
    """A grader with its processes, opened when the first work comes. To be closed."""

    def __init__(self, plan: Plan):
        self.plan, self.pool, self.grader = plan, None, None
        torch.set_num_threads(1)
        add_checks(plan.release.hidden)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.__exit__()
        self.pool = self.grader = None

    def work(self, work: Work, path: Path) -> tuple[Result, str]:
        """Grade one, and write its result. A fault of the grader is tried once more, with new processes; -> its text"""
        for last in (False, True):
            try:
                result = self._graded(work)
                results.write(path, result)
                return result, ""
            except Exception as error:
                self.__exit__()
                if last:
                    fault = f"the grader itself failed: {type(error).__name__}: {error}"
                    name = work.file.name if work.file else ""
                    return Result(work.student, work.chapter, "needs review", name, flags=[fault],
                                  exercises=_missing(work.chapter, self.plan.release)), fault  # fmt: skip
        raise AssertionError

    def _graded(self, work: Work) -> Result:
        file, release = work.file, self.plan.release
        made = Result(work.student, work.chapter, "missing", exercises=_missing(work.chapter, release))
        made.key = self.plan.key(file.data if file else b"", work.chapter)
        if file is None:
            return made
        made.file = file.name
        if fault := fault_of(file):
            made.status, made.flags = "unreadable", [] if work.flags else [fault]
            return made
        cells, own = graft.read_cells(file.data)
        if chapter_of(file) is None:
            made.status = "wrong release"
            return made
        if self.plan.engine == "nbval":
            made.exercises, made.held = nbval.grade(file.data, work.chapter, asdict(self.plan))
        else:
            if self.grader is None:
                self.pool = Pool(self.plan.limits)
                self.grader = Grader(self.plan.nonce, release.tasks, self.pool, partial=release.partial)
            made.exercises, made.held = self.grader.grade(cells, work.chapter, pristine(work.chapter))
        made.status, made.flags = status_of(made.exercises), []
        theirs = released(own).get("id")
        if release.id and theirs != release.id:
            found = f"of release {theirs!r}"[:60] if theirs else "of no release"
            made.flags.append(f"the notebook is {found}, expected {release.id}")
            made.status = "wrong release" if theirs else max(made.status, "needs review", key=_badness)
        return made


def status_of(graded: Sequence[Graded]) -> str:
    found = ["ok", *(one.outcome for one in graded if one.outcome in results.STATUSES and one.outcome != "missing")]
    found += ["needs review" for one in graded if one.review]
    return max(found, key=_badness)


def _badness(status: str) -> int:
    return -results.STATUSES.index(status)


def _missing(chapter: str, release: Release) -> list[Graded]:
    there = exercises_of(chapter).values()
    tasks = release.tasks
    return [Graded(e.id, e.name, "missing", 0.0, float(tasks[e.id].points if tasks else e.points))
            for e in there if not tasks or e.id in tasks]  # fmt: skip


_bench: list[Bench] = []  # of this process


def _open_bench(plan: Plan):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody reads the results if the parent is gone
    _bench.append(Bench(plan))


def _at_bench(work: Work, path: Path) -> tuple[Result, str]:
    return _bench[0].work(work, path)


def _late(work: Work, release: Release) -> list[str]:
    if work.file is None:
        return []
    if marked_late(work.file.name):
        return ["late, says the learning platform"]
    after = work.file.changed - datetime.fromisoformat(release.due).timestamp() if release.due else 0.0
    return [f"late by {after / 3600:.1f} hours, by the file's date"] if after > 0 and work.file.changed else []


def _flag_copies(graded: Sequence[Result]):
    """Say of each answer who else has the same code. Short answers are often the same by themselves."""
    who: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in graded:
        for one in result.exercises:
            who[one.id, one.code].append(result.student)
    for result in graded:
        for one in result.exercises:
            others = [student for student in who[one.id, one.code] if student != result.student]
            if one.code and others:
                more = f" and {len(others) - 3} more" if len(others) > 3 else ""
                one.flags.append(f"the same code as {', '.join(others[:3])}{more}")


def nonce_of(out: Path, nonce: str) -> str:
    """The nonce of this grading: as given, as it was in this folder before, or a new one; and write it down."""
    file = out / "nonce.txt"
    before = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    nonce = nonce or before or secrets.token_hex(8)
    if nonce != before:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(file) as written:
            written.write(f"{nonce}\n".encode())
    return nonce
