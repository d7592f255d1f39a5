"""The same graft, run by nbval: a kernel that holds the checks asks workers for the answers.

Slower than grading.py by far, and the second opinion on it: the tests compare the verdicts of both.
"""

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minillama.classroom import graft
from minillama.classroom.grading import Grader, Notebook, Task, add_checks
from minillama.classroom.pool import Limits, Pool
from minillama.classroom.release import pristine
from minillama.classroom.results import Graded
from minillama.course.checking import CheckFailed
from minillama.course.exercise import exercises_of, find

CONFTEST = """
def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    for item in items:
        item.output_timeout = 60
"""


def grade(data: bytes, chapter: str, plan: dict[str, Any]) -> tuple[list[Graded], str]:
    """Grade a notebook as grading.Grader does: an exercise is right if nbval finds its check cell as it should be."""
    tasks = plan["release"]["tasks"]
    ids = [id for id in exercises_of(chapter) if not tasks or id in tasks]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "submitted.ipynb").write_bytes(data)
        (folder / "plan.json").write_text(json.dumps(plan | {"chapter": chapter}))
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "graded.ipynb").write_text(json.dumps(_notebook(ids)))
        limit = str(100 * plan["limits"]["call_seconds"])
        command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", f"--nbval-cell-timeout={limit}",
                   "--junitxml=report.xml", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull,
                   "--rootdir=.", "graded.ipynb"]  # fmt: skip
        environment = os.environ | {"JUPYTER_RUNTIME_DIR": name, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if not (folder / "report.xml").exists():
            raise RuntimeError(f"nbval did not run: {(done.stdout + done.stderr)[-500:]}")
        cases = list(ET.parse(folder / "report.xml").getroot().iter("testcase"))
        passed = [not any(child.tag in ("failure", "error", "skipped") for child in case) for case in cases]
        if len(passed) != 1 + 2 * len(ids) or not passed[0]:
            raise RuntimeError(f"nbval could not begin: {done.stdout[-500:]}")
        graded, held = [], ""
        for i, id in enumerate(ids):
            content = json.loads((folder / f"{id}.json").read_text())
            held = content.pop("held") or held
            one = Graded(**content)
            if passed[2 + 2 * i] != (one.outcome == "right"):
                one.flags.append(f"nbval says {'passed' if passed[2 + 2 * i] else 'failed'}, the check {one.outcome}")
                one.outcome, one.review = "wrong", True
            graded.append(one)
        return graded, held


def _notebook(ids: list[str]) -> dict[str, Any]:
    """Of the pristine notebook what is graded: an answer's stand-in in place of the stub, then the check."""
    cells = [_cell("begin", "from minillama.classroom.nbval import begin\n\nanswer, check = begin()", "")]
    for id in ids:
        exercise = find(id)
        slug = id.replace(".", "-")
        cells.append(_cell(f"exercise-{slug}", f'{exercise.name} = answer("{id}")', ""))
        expected = f"✓ {id} {exercise.name}: {exercise.points} of {exercise.points}\n"
        cells.append(_cell(f"check-{slug}", f'{exercise.name} = check("{id}", {exercise.name})', expected))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(id: str, source: str, printed: str) -> dict[str, Any]:
    outputs = [{"name": "stdout", "output_type": "stream", "text": printed}] if printed else []
    return {"cell_type": "code", "execution_count": 1, "id": id, "metadata": {}, "outputs": outputs, "source": source}


def begin():
    """In the kernel: what stands for an answer, and a check that asks a worker and raises as a notebook's does."""
    plan = json.loads(Path("plan.json").read_text())
    add_checks(plan["release"]["hidden"])
    tasks = {id: Task(**task) for id, task in plan["release"]["tasks"].items()}
    cells, _ = graft.read_cells(Path("submitted.ipynb").read_bytes())
    grader = Grader(plan["nonce"], tasks, Pool(Limits(**plan["limits"])), partial=plan["release"]["partial"])
    notebook = Notebook(cells, pristine(plan["chapter"]))

    def answer(id: str) -> str:
        return id

    def check(id: str, given: str):
        one, held = grader.grade_one(find(given), notebook)
        Path(f"{id}.json").write_text(json.dumps(asdict(one) | {"held": held}))
        if one.outcome != "right":
            raise CheckFailed(one.message)
        print(one.message)

    return answer, check
