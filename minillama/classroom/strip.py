"""Copies of the package that lack solutions: one for each exercise to be graded, and one for students."""

import ast
import re
import shutil
from pathlib import Path

import minillama
from minillama.course.answers import here
from minillama.course.checking import examine
from minillama.course.definitions import needed
from minillama.course.exercise import Exercise, chapters
from minillama.course.stub import stub

PACKAGE = Path(minillama.__file__).parent
UNSEEN = ("exercises", "classroom", "plots", "released", "build.py", "lint.py", "left_out.bin")


def copy_package(into: Path, *without: str):
    """Copy the package, with what a class's copy has left out of its files."""
    ignored = shutil.ignore_patterns("__pycache__", *without)
    for folder in reversed(minillama.__path__):
        shutil.copytree(folder, into, ignore=ignored, dirs_exist_ok=True)


def module_name(exercise: Exercise) -> str:
    """The file that the solution stands in, by its path in the package."""
    return exercise.answer.__module__.partition(".")[2].replace(".", "/") + ".py"


def text_of(name: str) -> str:
    """The text of a module, by its path in the package; of all of it, also where a class's copy has a stub."""
    return next(path for folder in minillama.__path__ if (path := Path(folder, name)).exists()).read_text(
        encoding="utf-8"
    )


def exercises_file(exercise: Exercise) -> str:
    return f"course/exercises/ch{exercise.chapter}_{chapters()[exercise.chapter]}.py"


def without_solution(text: str, exercise: Exercise) -> str:
    """A module's text with the stub in place of the solution. Errors: ValueError if it is not there."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == exercise.name:
            lines = text.splitlines(keepends=True)
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "".join(lines[: first - 1]) + stub(exercise) + "".join(lines[node.end_lineno :])
    raise ValueError(f"exercise {exercise.id}: {exercise.name} does not stand at the top of {module_name(exercise)}")


def tree_for(exercise: Exercise, seed: int, folder: Path):
    """Copy into `folder` the package that an answer to this exercise runs beside: no solution of it, and no checks.

    What is left of the exercise's own file are the toys that its checks send to an answer by name. Which these are is
    seen by running the checks on the solution. Errors: ValueError if they don't pass.
    """
    package = folder / "minillama"
    copy_package(package, *UNSEEN)
    exercises = exercises_file(exercise)
    (package / exercises).parent.mkdir()
    (package / exercises).with_name("__init__.py").touch()
    text = text_of(exercises)
    if module_name(exercise) == exercises:
        text = without_solution(text, exercise)
    else:
        bare = without_solution(text_of(module_name(exercise)), exercise)
        (package / module_name(exercise)).write_text(bare, encoding="utf-8")
    (package / exercises).write_text(needed(text, *toys_of(exercise, seed)), encoding="utf-8")
    (package / "__init__.py").write_text(f'__version__ = "{minillama.__version__}"\n', encoding="utf-8")


def toys_of(exercise: Exercise, seed: int) -> set[str]:
    """The names in the exercise's file that its checks send: functions that drive an answer, small models, ..."""
    requests: list[bytes] = []
    answer = here(exercise.answer)

    def send(request: bytes) -> bytes:
        requests.append(request)
        return answer(request)

    result = examine(exercise, send, seed)
    if not result.right:
        failed = [outcome.check.asked for outcome in result.outcomes if not outcome.passed]
        raise ValueError(f"exercise {exercise.id}: its own solution fails with seed {seed}: {'; '.join(failed)}")
    module = rf"minillama\.course\.exercises\.{Path(exercises_file(exercise)).stem}"
    return {name.decode() for r in requests for name in re.findall(rf'"{module}:(\w+)'.encode(), r)}


def lent(exercise: Exercise) -> str:
    """Source text that gives the solution, for a process that grades *another* exercise."""
    if module_name(exercise) != exercises_file(exercise):
        return f"from {exercise.answer.__module__} import {exercise.name}\n"
    return needed(text_of(exercises_file(exercise)), exercise.name)
