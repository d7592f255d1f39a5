"""Hand out chapters: what students get, and what their teacher keeps.

The course is public, and its solutions with it: what is left out here is what nobody should stumble upon.
"""

import hashlib
import json
import shutil
import tomllib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from minillama import left_out
from minillama.classroom.grading import Task
from minillama.classroom.strip import PACKAGE, copy_package, exercises_file, module_name, text_of, without_solution
from minillama.course import build
from minillama.course.exercise import exercises_of, find
from minillama.files import replacing_folder

COPIED = ("requirements.txt", "pyproject.toml", "LICENSE")
RELEASED = "course/released"  # in a class's package: the notebooks as they were handed out


@dataclass(frozen=True)
class Release:
    """What was handed out. due: local time as ISO text, or "". tasks: by exercise id. id: of this very release.

    hidden: the text of a teacher's own file of checks, which students don't have.
    """

    chapters: tuple[str, ...]
    tasks: dict[str, Task]
    due: str = ""
    partial: bool = True
    id: str = ""
    hidden: str = ""

    def for_students(self) -> dict[str, Any]:
        """What a notebook's metadata say of it."""
        return {
            "id": self.id,
            "due": self.due,
            "points": {id: task.points for id, task in self.tasks.items()},
            "forbid": {id: task.forbid for id, task in self.tasks.items() if task.forbid},
            "partial": self.partial,
        }


def open_release(place: Path) -> Release:
    """The release of this teacher's folder, or grading.toml. Errors: ValueError that names file and field."""
    file = place / "grading.toml" if place.is_dir() else place
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file}: not there; expected a release's teacher folder, or its grading.toml") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}; mend this line of the file") from error
    rows = content.get("exercise")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file}: no [[exercise]]; expected one for each exercise that counts")
    tasks = {}
    for number, row in enumerate(rows, 1):
        where = f"{file}: [[exercise]] number {number}"
        id, points, forbid = row.get("id"), row.get("points"), row.get("forbid", [])
        try:
            find(id)
        except ValueError as error:
            raise ValueError(f"{where}: id: {error}") from error
        if isinstance(points, bool) or not isinstance(points, int | float) or not 0 < points < 1e6:
            raise ValueError(f"{where}: points = {points!r}, expected a number above 0")
        if not isinstance(forbid, list) or not all(isinstance(name, str) for name in forbid):
            raise ValueError(f'{where}: forbid = {forbid!r}, expected a list such as ["F.rms_norm"]')
        tasks[id] = Task(float(points), forbid)
    due, partial = str(content.get("due", "")), content.get("partial", True)
    if not isinstance(partial, bool):
        raise ValueError(f"{file}: partial = {partial!r}, expected true or false")
    _check_due(due, str(file))
    hidden = _hidden(file, content["checks"]) if "checks" in content else ""
    chosen = tuple(sorted({id[:2] for id in tasks}))
    return Release(chosen, tasks, due, partial, str(content.get("release", "")), hidden)


def _hidden(file: Path, name: Any) -> str:
    """The text of the checks that grading.toml names. Errors: ValueError if it is not there, or no Python."""
    path = file.parent / str(name)
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file}: checks = {name!r}: {error}; expected a Python file beside this one") from error
    return text


def _check_due(due: str, where: str):
    try:
        datetime.fromisoformat(due or "2027-01-15")
    except ValueError as error:
        raise ValueError(f"{where}: due = {due!r}, expected a date such as 2027-01-15T23:59") from error


@cache
def pristine(chapter: str) -> tuple[str, ...]:
    """The texts of a chapter's own code cells: no exercises, no checks, no predictions."""
    (notebook,) = [*(PACKAGE / RELEASED).glob(f"{chapter}_*.ipynb")] or [build.editions(build.sources(chapter)[0])[1]]
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    own = [cell for cell in cells if cell["cell_type"] == "code" and "minillama" not in cell["metadata"]]
    return tuple("".join(cell["source"]) for cell in own)


def make_release(names: list[str], out: Path, *, points: dict[str, float], forbid: dict[str, list[str]], due: str = "",
                 partial: bool = True) -> Release:  # fmt: skip
    """Write `out`/students, the same as students.zip, and `out`/teacher.

    points, forbid: by exercise id, where they are not the course's. Errors: ValueError for what is not in these
    chapters, for a notebook that was edited, for a folder that is there already.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is there already; choose another folder, so that an earlier release stays as it was")
    ids = [exercise.id for name in names for exercise in exercises_of(name).values()]
    for id in [*points, *forbid]:
        if id not in ids:
            raise ValueError(f"{id}: no exercise of chapters {', '.join(names)}; they have {', '.join(ids)}")
    _check_due(due, "--due")
    tasks = {id: Task(points.get(id, float(find(id).points)), forbid.get(id, [])) for id in ids}
    books = {}
    for name in names:
        source = build.sources(name)[0]
        for edition in build.editions(source):
            build.refuse_hand_edits(edition, source)
        books[source.stem] = build.editions(source)
    said = json.dumps([due, partial, {id: [task.points, task.forbid] for id, task in tasks.items()}])
    content = said.encode() + b"".join(learner.read_bytes() for learner, _ in books.values())
    release = Release(tuple(names), tasks, due, partial, hashlib.sha256(content).hexdigest()[:12])
    with replacing_folder(out) as new:
        students, teacher = new / "students", new / "teacher"
        (students / "notebooks").mkdir(parents=True)
        (teacher / "key").mkdir(parents=True)
        _copy_package_without_solutions(students / "minillama", release)
        for stem, (learner, worked) in books.items():
            text = json.dumps(handed_out(json.loads(learner.read_text(encoding="utf-8")), release), indent=1,
                              ensure_ascii=False) + "\n"  # fmt: skip
            for folder in (students / "notebooks", students / "minillama" / RELEASED):
                folder.mkdir(exist_ok=True)
                (folder / f"{stem}.ipynb").write_text(text, encoding="utf-8")
            shutil.copy(worked, teacher / "key")
        for name in COPIED:
            shutil.copy(PACKAGE.parent / name, students)
        shutil.copytree(PACKAGE.parent / "data" / "shakespeare-best", students / "data" / "shakespeare-best")
        for name in ("ablations.csv", "tinyshakespeare.recipe.toml"):
            shutil.copy(PACKAGE.parent / "data" / name, students / "data")
        (students / "README.md").write_text(for_students(release, list(books)), encoding="utf-8")
        (teacher / "grading.toml").write_text(grading_toml(release), encoding="utf-8")
        shutil.make_archive(str(new / "students"), "zip", students)
    return release


def _copy_package_without_solutions(into: Path, release: Release):
    copy_package(into)
    whole: dict[str, str] = {}
    for exercise in map(find, release.tasks):
        for name in (module_name(exercise), exercises_file(exercise)):
            whole[name] = text_of(name)
    for name, text in whole.items():
        left = text
        if name.startswith("course/exercises/"):
            left = '"""The exercises of this chapter. While a class works on them, they are in left_out.bin."""\n'
        else:
            for exercise in map(find, release.tasks):
                left = without_solution(left, exercise) if module_name(exercise) == name else left
        (into / name).write_text(left, encoding="utf-8")
    (into / left_out.PACKED.name).write_bytes(left_out.pack(whole))
    for name in ("__init__.py", "course/exercises/__init__.py"):
        with open(into / name, "a", encoding="utf-8") as file:
            file.write(left_out.HOOK)


def handed_out(book: dict[str, Any], release: Release) -> dict[str, Any]:
    """A learner's edition with what this class should know: the release, what is due when, what is not allowed."""
    own = book["metadata"]["minillama"]
    kept = {name: own[name] for name in ("chapter", "edition", "source")}
    book["metadata"]["minillama"] = kept | {"release": release.for_students()}
    cells = []
    for cell in book["cells"]:
        mine = cell["metadata"].get("minillama", {})
        task = release.tasks.get(mine.get("exercise", ""))
        if task and mine["role"] == "exercise" and task.forbid:
            names = ", ".join(f"`{name}`" for name in task.forbid)
            cells.append(_note(f"rules-{cell['id']}", f"**In this class:** solve it without {names}."))
        cells.append(cell)
        if len(cells) == 1:
            cells.append(_note("this-class", _terms(release, kept["chapter"])))
    return book | {"cells": cells}


def _terms(release: Release, chapter: str) -> str:
    points = [f"{id} {task.points:g}" for id, task in release.tasks.items() if id.startswith(chapter)]
    due = f"Hand it in by **{release.due.replace('T', ' ')}**. " if release.due else ""
    total = sum(task.points for id, task in release.tasks.items() if id.startswith(chapter))
    return (
        f"**In this class.** {due}Points: {', '.join(points)}; {total:g} in all. Write your answers into the exercise "
        "cells; only these are graded. `python -m minillama check` with this file's name says what the grader will say "
        "(README.md)."
    )


def _note(id: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": id[:64], "metadata": {}, "source": text.splitlines(keepends=True)}


def for_students(release: Release, stems: list[str]) -> str:
    """The README of what students get."""
    points = "".join(f"| {id} | {find(id).name} | {task.points:g} |\n" for id, task in release.tasks.items())
    due = f"Due: **{release.due.replace('T', ' ')}**.\n\n" if release.due else ""
    forbidden = [
        f"- {id} without {', '.join(f'`{n}`' for n in t.forbid)}" for id, t in release.tasks.items() if t.forbid
    ]
    rules = "Not allowed:\n\n" + "\n".join(forbidden) + "\n\n" if forbidden else ""
    shares = "Each check that passes gives its share of the points." if release.partial else "All checks must pass."
    return f"""# Your assignment

{due}{rules}You need Python 3.11 or newer. In this folder:

    python3 -m venv .venv
    .venv/bin/python -m pip install -r requirements.txt
    .venv/bin/python -m pip install --no-deps -e .
    .venv/bin/jupyter lab notebooks

(On Windows the programs are in `.venv\\Scripts` instead of `.venv/bin`.) The notebooks: {", ".join(stems)}.

- Run the cells in order. An exercise is a cell with `raise NotImplementedError("your turn")`: write your answer there,
  helpers included. Don't delete, split or renumber cells; nothing but the exercise cells is graded.
- The check below it names the mistake if it knows it. Run it as often as you like. Where you have written nothing yet,
  the check lends a working part to the cells below.
- `.venv/bin/python -m minillama check notebooks/{stems[0]}.ipynb` tells you what the grader will say: it takes your
  answers out of the saved file and runs the same checks, on fresh inputs, each in a process of its own.
- Hand in the notebook files, saved.

| exercise | | points |
|---|---|---|
{points}
{shares} Release {release.id}. The package is the one of the course, but for the solutions of these chapters.
"""


def grading_toml(release: Release) -> str:
    """What the grader is told, for a teacher to edit."""
    rows = "".join(
        f"\n[[exercise]]  # {find(id).name}\nid = {json.dumps(id)}\npoints = {task.points:g}\n"
        f"forbid = {json.dumps(task.forbid)}\n"
        for id, task in release.tasks.items()
    )
    return f"""# What the grader goes by:  python -m minillama grade SUBMISSIONS --out GRADES --release THIS_FOLDER
# Change points, due, partial and forbid here if you must, and grade again; students were told what is in their copy.
# forbid: functions of torch that raise an error in this exercise, such as ["F.rms_norm", "softmax"].
# partial: true gives a share of the points for each check that passes, false all or none.
# checks: a Python file beside this one, with checks of your own that students don't have (notebooks/TEACHING.md).
# The worked answers are in key/.

release = {json.dumps(release.id)}
due = {json.dumps(release.due)}
partial = {str(release.partial).lower()}
{rows}"""
