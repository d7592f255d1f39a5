"""What it costs to grade a submission of three exercises: here, with plain nbval, and with nbgrader.

    .venv/bin/python benchmarks/grading.py [--submissions 100] [--others 5] [--jobs 2] [--without-nbgrader]

The same made-up class for all, a third of it wrong. `--others`: so many submissions for nbval and nbgrader, which take
turns with as many of ours. nbgrader is installed with pip into a folder of its own. Seconds of the processor count all
processes; for the row "warm" the first submission is left out, which starts them. The last line is the whole command
on `--submissions`, by the clock.
"""

import argparse
import json
import os
import resource
import shutil
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from minillama.classroom import graft
from minillama.classroom.grading import Grader, Task
from minillama.classroom.pool import Pool
from minillama.classroom.release import pristine
from minillama.course.exercise import find
from tests.made_up_class import as_bytes, learner, some_answers_of

IDS = ("03.2", "03.4", "03.5")
GRADE = {"schema_version": 3, "grade": True, "solution": False, "locked": True, "points": 5, "cell_type": "code"}
SOLVE = {"schema_version": 3, "grade": False, "solution": True, "locked": False, "cell_type": "code"}


def short_notebook(answers: dict[str, str]) -> dict:
    """The first cell of chapter 03, three exercises and their checks: for graders that run what they are given."""
    book = learner("03")
    first = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
    cells = [first]
    for cell in book["cells"]:
        mine = cell["metadata"].get("minillama", {})
        if mine.get("exercise") in IDS:
            grade_id = {"grade_id": cell["id"]}
            if mine["role"] == "exercise":
                cell["source"] = answers.get(mine["exercise"], cell["source"])
                cell["metadata"]["nbgrader"] = SOLVE | grade_id
            else:
                cell["metadata"]["nbgrader"] = GRADE | grade_id
            cells.append(cell)
    for cell in cells:
        cell["outputs"], cell["execution_count"] = [], None
    return book | {"cells": cells}


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Ours:
    def __init__(self):
        self.pool = Pool()
        self.grader = Grader("a nonce", {id: Task(find(id).points) for id in IDS}, self.pool)

    def cpu(self) -> float:
        return time.process_time() + sum(self.pool.spent.values())

    def grade(self, book: dict) -> int:
        cells, _ = graft.read_cells(as_bytes(book))
        graded, _ = self.grader.grade(cells, "03", pristine("03"))
        return sum(one.outcome == "right" for one in graded)


class Nbval:
    def __init__(self, scratch: Path):
        self.path = scratch / "nbval.ipynb"

    def cpu(self) -> float:
        return children_cpu()

    def grade(self, book: dict) -> int:
        self.path.write_bytes(as_bytes(book))
        command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:xdist", "-c",
                   os.devnull, "--rootdir", str(self.path.parent), str(self.path)]  # fmt: skip
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, check=False, cwd=self.path.parent
        )
        return len(IDS) - sum(line.startswith("FAILED") for line in done.stdout.splitlines())


class Nbgrader:
    def __init__(self, scratch: Path):
        self.course, environment = scratch / "course", scratch / "nbgrader"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        self.python = environment / "bin" / "python"
        subprocess.run([self.python, "-m", "pip", "install", "-q", "nbgrader", "ipykernel"], check=True)
        here = [path for path in site.getsitepackages() if Path(path).is_dir()]
        packages = next(environment.glob("lib/python*/site-packages"))
        (packages / "ours.pth").write_text("\n".join([*here, str(Path(__file__).parents[1])]) + "\n")
        (self.course / "source" / "ps1").mkdir(parents=True)
        (self.course / "source" / "ps1" / "short.ipynb").write_bytes(as_bytes(short_notebook({})))
        (self.course / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'a course'\n")
        self.run("generate_assignment", "ps1", "--force")
        self.n = 0

    def run(self, *arguments: str):
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"  # it calls alembic
        done = subprocess.run([self.python, "-m", "nbgrader", *arguments], cwd=self.course, text=True, check=False,
                              env=ENVIRONMENT | {"PATH": path}, capture_output=True)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"nbgrader {' '.join(arguments)}: {done.stderr[-1500:]}")

    def cpu(self) -> float:
        return children_cpu()

    def grade(self, book: dict) -> int:
        self.n += 1
        folder = self.course / "submitted" / f"student{self.n}" / "ps1"
        folder.mkdir(parents=True)
        (folder / "short.ipynb").write_bytes(as_bytes(book))
        self.run("autograde", "ps1", "--student", f"student{self.n}", "--force")
        graded = json.loads((self.course / "autograded" / f"student{self.n}" / "ps1" / "short.ipynb").read_text())
        outputs = [cell["outputs"] for cell in graded["cells"] if cell["metadata"].get("nbgrader", {}).get("grade")]
        return sum(all(output["output_type"] != "error" for output in one) for one in outputs)


ENVIRONMENT = os.environ | {"MINILLAMA_GRADING": "1", "OMP_NUM_THREADS": "1"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=100)
    parser.add_argument("--others", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--without-nbgrader", action="store_true")
    options = parser.parse_args()
    books = [short_notebook(some_answers_of(IDS, i)) for i in range(max(options.submissions, options.others + 1))]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sides = {"minillama grade": Ours(), "plain nbval": Nbval(scratch)}
        if not options.without_nbgrader:
            sides["nbgrader autograde"] = Nbgrader(scratch)
        compare(sides, books[: options.others + 1])
        whole_class(books[: options.submissions], scratch, options.jobs)
    sides["minillama grade"].pool.__exit__()


def compare(sides: dict, books: list[dict]):
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    right = dict.fromkeys(sides, 0)
    for book in books:
        for name, side in sides.items():
            cpu, clock = side.cpu(), time.perf_counter()
            right[name] += side.grade(book)
            spent[name].append((side.cpu() - cpu, time.perf_counter() - clock))
    print("| three exercises | CPU seconds | ratio | seconds | right answers found |\n|---|---|---|---|---|")
    ours = sum(cpu for cpu, _ in spent["minillama grade"][1:]) / (len(books) - 1)
    for name, times in spent.items():
        warm = times[1:]
        cpu, clock = (sum(column) / len(warm) for column in zip(*warm, strict=True))
        print(f"| {name}{', warm' if name == 'minillama grade' else ''} | {cpu:.2f} | {cpu / ours:.0f} | {clock:.2f} "
              f"| {right[name]} of {len(IDS) * len(books)} |")  # fmt: skip


def whole_class(books: list[dict], scratch: Path, jobs: int):
    folder = scratch / "class"
    folder.mkdir()
    for i, book in enumerate(books):
        (folder / f"student {i}.ipynb").write_bytes(as_bytes(book))
    grading = ['release = ""', *(f'[[exercise]]\nid = "{id}"\npoints = {find(id).points}' for id in IDS)]
    (scratch / "grading.toml").write_text("\n".join(grading))
    command = [sys.executable, "-m", "minillama", "grade", str(folder), "--out", str(scratch / "grades"),
               "--jobs", str(jobs), "--release", str(scratch / "grading.toml")]  # fmt: skip
    clock = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    print(f"\n{len(books)} submissions with --jobs {jobs}: {time.perf_counter() - clock:.0f} s")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
