"""The notebooks: current, green as they are stored, and what a learner finds when they run them."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from minillama.config import PRESETS
from minillama.course import build, keep
from minillama.course.exercise import chapters, exercises_of
from minillama.llama import Llama

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
every_chapter = pytest.mark.parametrize("chapter", sorted(path.stem[:2] for path in build.sources()))


def learner(chapter):
    return next(NOTEBOOKS.glob(f"{chapter}_*.ipynb"))


def worked(chapter):
    return next((NOTEBOOKS / "solutions").glob(f"{chapter}_*.ipynb"))


def run(notebook, tmp_path, *, option="--nbval", grading=False, fast=True):
    """Run a notebook with nbval, its settings those of notebooks/conftest.py. -> {cell id: what went wrong, or None}"""
    environment = os.environ | {"MINILLAMA_PARTS": str(tmp_path / "parts"), "PYTHONHASHSEED": "0"}
    environment |= {"MINILLAMA_FAST": "1" if fast else "0", "MINILLAMA_GRADING": "1" if grading else "0"}
    if notebook.parent.name == "solutions":
        keep.keep_worked(tmp_path / "parts", before=notebook.name[:2])
    report = tmp_path / f"{notebook.stem}.xml"
    command = [sys.executable, "-m", "pytest", option, f"--confcutdir={NOTEBOOKS}", f"--junitxml={report}",
               "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={notebook.parent}", str(notebook)]  # fmt: skip
    done = subprocess.run([*command, "-p", "notebooks.conftest"], env=environment, capture_output=True, text=True,
                          cwd=NOTEBOOKS.parent, check=False)  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    ids = [cell["id"] for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    cases = list(ET.parse(report).getroot().iter("testcase"))
    assert len(cases) == len(ids), done.stdout
    outcomes = {}
    for case in cases:
        fault = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcomes[ids[int(case.get("name").split()[-1])]] = None if fault is None else fault.get("message")
    return outcomes


def failed(outcomes):
    return {id: fault for id, fault in outcomes.items() if fault is not None}


def test_all_notebooks_are_current():
    assert build.check_current() == []


def test_every_chapter_with_exercises_has_a_source():
    assert set(chapters()) == {path.stem[:2] for path in build.sources()}


@every_chapter
def test_the_courses_page_lists_it(chapter):
    assert f"({learner(chapter).name})" in (NOTEBOOKS / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@every_chapter
def test_the_worked_edition_gives_what_it_has_stored(chapter, tmp_path):
    assert failed(run(worked(chapter), tmp_path)) == {}


@pytest.mark.slow
@pytest.mark.nightly  # in every run test_jupyterlab.py does the same, with Run All in a browser
@every_chapter
def test_the_untouched_edition_runs_from_top_to_bottom(chapter, tmp_path):
    assert failed(run(learner(chapter), tmp_path, option="--nbval-lax")) == {}


@pytest.mark.slow
@every_chapter
def test_graded_the_untouched_edition_is_red_on_every_check_and_green_elsewhere(chapter, tmp_path):
    checks = {f"check-{id.replace('.', '-')}" for id in exercises_of(chapter)}
    assert set(failed(run(learner(chapter), tmp_path, grading=True))) == checks


@pytest.mark.slow
@every_chapter
def test_with_the_worked_answers_pasted_in_the_learners_edition_scores_full_marks(chapter, tmp_path):
    book, solutions = (json.loads(path.read_text()) for path in (learner(chapter), worked(chapter)))
    answers = {cell["id"]: cell["source"] for cell in solutions["cells"] if cell["id"].startswith("exercise-")}
    first = next(cell["id"] for cell in book["cells"] if cell["cell_type"] == "code")
    needed = [c for c in book["cells"] if c["id"] == first or "exercise" in c["metadata"].get("minillama", {})]
    for cell in needed:
        cell["source"] = answers.get(cell["id"], cell["source"])
    pasted = tmp_path / "pasted.ipynb"
    pasted.write_text(json.dumps(book | {"cells": needed}))
    outcomes = run(pasted, tmp_path, option="--nbval-lax", grading=True)
    assert failed(outcomes) == {} and sum(id.startswith("check-") for id in outcomes) == len(exercises_of(chapter))


@pytest.mark.slow
@pytest.mark.nightly
@every_chapter
def test_the_worked_edition_is_green_twice_in_a_row_and_in_full_mode(chapter, tmp_path):
    assert [failed(run(worked(chapter), tmp_path, fast=fast)) for fast in (True, True, False)] == [{}, {}, {}]


def test_from_chapter_10_on_the_worked_editions_run_on_parts_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILLAMA_PARTS", str(tmp_path))
    keep.keep_worked(tmp_path, before="09")
    assert list(tmp_path.iterdir()) == []
    keep.keep_worked(tmp_path, before="13")
    lines = []
    mine = keep.my_parts(lines.append)
    assert [line.split()[1] for line in lines] == ["yours:"] * 5
    torch.manual_seed(0)
    model = Llama(PRESETS["tiny"], mine)
    torch.manual_seed(0)
    package = Llama(PRESETS["tiny"])
    assert all(type(module).__module__ == "my_parts" for module in model.layers[0].children())
    tokens = torch.randint(PRESETS["tiny"].vocab_size, (2, 9))
    assert torch.equal(model(tokens), package(tokens))
