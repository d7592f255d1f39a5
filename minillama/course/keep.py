"""What a learner has: the answers that passed, as source text in a folder of their own, and a record of all tries.

The folder is `my_parts/` of the repository, or $MINILLAMA_PARTS. Everything in it is text, and the learner's.
"""

import __future__

import ast
import inspect
import linecache
import math
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minillama.attention import Attention, attend
from minillama.block import Block, Parts
from minillama.course.answers import run
from minillama.course.definitions import free_names, needed, same_code
from minillama.course.exercise import Exercise, chapters, exercises_of, find, solution
from minillama.feedforward import SwiGLU
from minillama.files import replacing
from minillama.norm import RMSNorm
from minillama.position import RoPE

PLACES = {RMSNorm: "norm", SwiGLU: "feedforward", Attention: "attention", RoPE: "position", Block: "block"}


def folder() -> Path:
    """Where the learner's parts are. What the worked editions run is kept apart from what the learner wrote."""
    if chosen := os.environ.get("MINILLAMA_PARTS"):
        return Path(chosen).expanduser()
    repository = Path(__file__).resolve().parents[2]
    parts = repository / "my_parts" if (repository / "pyproject.toml").is_file() else Path("my_parts")
    return parts / "worked" if Path.cwd() == repository / "notebooks" / "solutions" else parts


def path_of(exercise: Exercise) -> Path:
    return folder() / f"{exercise.id.replace('.', '_')}_{exercise.name}.py"


def keep(exercise: Exercise, answer: Any, right: Callable[[Any], bool] = lambda kept: True):
    """Write a right answer into the folder, if it is `right` when it runs from there; if not, say why on stderr."""
    path = path_of(exercise)
    try:
        text = source_of(answer, exercise.name)
        if path.exists() and same_code(text, solution(exercise)):
            return  # the worked edition never replaces what somebody wrote
        if not right(run(text, exercise.name, str(path), "my_parts")):
            raise ValueError("in a file of its own it gives something else; does it use names from other cells?")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except (Exception, SystemExit) as error:  # whatever it is, the answer was right
        reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        print(f"{exercise.name} is right, but was not kept among your parts: {reason}", file=sys.stderr)


def kept(id: str) -> Any:
    """The learner's own answer to an exercise; None if there is none yet.

    Errors: ValueError that names the file if it no longer runs.
    """
    exercise = find(id)
    path = path_of(exercise)
    try:
        return run(path.read_text(encoding="utf-8"), exercise.name, str(path), "my_parts")
    except FileNotFoundError:
        return None
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{path}: {type(error).__name__}: {error}; mend it, or delete the file and run the check again"
        ) from error


def part(id: str) -> Any:
    """The learner's own answer to an exercise, or else the package's. Kept parts that use each other say this."""
    answer = kept(id)
    return find(id).answer if answer is None else answer


def my_parts(report=print) -> Parts:
    """The model's parts: the learner's own where they have one, the package's for the rest; and say which is whose."""
    mine: dict[str, Any] = {}
    own_attend = None
    for chapter in chapters():
        for exercise in exercises_of(chapter).values():
            if exercise.answer in PLACES or exercise.answer is attend:
                answer = kept(exercise.id)
                if answer is not None and exercise.answer is attend:
                    own_attend = answer
                elif answer is not None:
                    mine[PLACES[exercise.answer]] = answer
    if own_attend is not None:
        mine["attention"] = partial(mine.get("attention", Attention), attend=own_attend)
    parts = Parts(**mine)
    for field, name in parts.names().items():
        report(f"{field:<12} {'yours' if field in mine else 'minillama'}: {name.replace('my_parts.', '')}")
    return parts


def keep_worked(into: Path, before: str):
    """Put the worked answers that models are made of into a folder, as if somebody had done the chapters before this.

    From chapter 10 on the worked editions are executed so: those chapters use what the earlier ones build.
    """
    into.mkdir(parents=True, exist_ok=True)
    for chapter in chapters():
        for exercise in exercises_of(chapter).values() if "10" <= before > chapter else ():
            if exercise.answer in PLACES or exercise.answer is attend:
                (into / path_of(exercise).name).write_text(_standing_alone(exercise.answer, exercise.name))


def record(exercise: Exercise, points: int):
    """Remember a result that is better than before, as a line at the end of progress.txt."""
    if points > results_so_far().get(exercise.id, -1):
        try:
            folder().mkdir(parents=True, exist_ok=True)
            with open(folder() / "progress.txt", "ab") as file:  # adding a line takes nothing from another process
                file.write(f"{exercise.id} {exercise.name}: {points} of {exercise.points} points\n".encode())
        except OSError as error:
            print(f"your progress could not be written: {error}", file=sys.stderr)


def results_so_far() -> dict[str, int]:
    """{"07.2": points} of every exercise that was tried, the best of each. What can't be read is passed over."""
    best: dict[str, int] = {}
    try:
        text = (folder() / "progress.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return best
    for id, points in re.findall(r"(\d\d\.\d+) \w+: (\d{1,9}) of \d+ points\n", text):
        best[id] = max(best.get(id, 0), int(points))
    return best


def progress() -> str:
    """A map of the course, a line per exercise: passed, tried, open."""
    results, lines, all_points, all_total = results_so_far(), [], 0, 0
    for chapter, name in chapters().items():
        rows, points, total = [], 0, 0
        for exercise in exercises_of(chapter).values():
            tried, reached = exercise.id in results, min(results.get(exercise.id, 0), exercise.points)
            sign = "○" if not tried else "✓" if reached == exercise.points else "✗"
            points, total = points + reached, total + exercise.points
            state = f"{reached} of " if tried else ""
            rows.append(f"   {sign} {exercise.id} {exercise.name:<28} {state}{exercise.points}")
        lines += [f"{chapter} {name}: {points} of {total} points", *rows, ""]
        all_points, all_total = all_points + points, all_total + total
    where = f"Your parts are in {folder()}."
    return "\n".join([*lines, f"{all_points} of {all_total} points. ✓ passed, ✗ tried, ○ open. {where}"])


def source_of(answer: Any, name: str) -> str:
    """What defines `answer` in its cell, with the helpers and imports that it needs: a file of its own.

    Errors: ValueError that says why it can't stand on its own.
    """
    root = (getattr(answer, "__module__", "") or "").split(".")[0]
    if root == "minillama":
        raise ValueError("this is the package's own, not yours")
    if root == "torch":
        return _import_of(name, answer) + "\n"
    return _standing_alone(answer, name)


def _standing_alone(answer: Any, name: str) -> str:
    function = _some_function(answer)
    names = vars(sys.modules[answer.__module__]) if function is None else function.__globals__
    for text in _texts(function):
        for defined in (getattr(answer, "__name__", name), name):
            if body := needed(text, defined):
                free = {free for free in free_names(body) if free in names}
                imports = sorted(_import_of(free, names[free]) for free in free)
                later = function and function.__code__.co_flags & __future__.annotations.compiler_flag
                head = "\n".join(["from __future__ import annotations"] * bool(later) + imports)
                return (head and head + "\n\n\n") + body + (f"\n\n{name} = {defined}\n" if defined != name else "")
    raise ValueError("its source text was not found; define it in a cell of the notebook")


def _some_function(answer: Any) -> Any:
    """A function whose code knows the cell that it comes from."""
    functions = map(inspect.unwrap, vars(answer).values() if isinstance(answer, type) else (answer,))
    return next((f for f in functions if inspect.isfunction(f) and f.__module__ == answer.__module__), None)


def _texts(function: Any) -> Iterator[str]:
    """Where a definition may stand: in the file or cell of its code; or in one of all cells, the last one first."""
    if function:
        yield "".join(linecache.getlines(function.__code__.co_filename))
    for filename in reversed(list(linecache.cache)):
        if "ipykernel_" in filename or "ipython-input" in filename:
            yield "".join(linecache.getlines(filename))


def _import_of(name: str, value: Any) -> str:
    """The line that gives `name` the same value in a file of its own. Errors: ValueError if there is none."""
    if inspect.ismodule(value):
        return f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    if isinstance(value, float):
        return f'{name} = float("{float(value)!r}")' if not math.isfinite(value) else f"{name} = {float(value)!r}"
    if _is_literal(value):
        return f"{name} = {value!r}"
    if isinstance(value, types.GenericAlias) and "." not in repr(value):  # Pair = tuple[int, int]
        return f"{name} = {value!r}"
    if isinstance(value, torch.dtype):
        return f"from torch import {str(value).removeprefix('torch.')} as {name}"
    module, own = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", name).rpartition(".")[2]
    if module not in ("__main__", "my_parts", "answer"):
        if getattr(sys.modules.get(module), own, None) is not value:
            raise ValueError(f"it uses {name}, which is made in another cell; make it in the same cell")
        return f"from {module} import {own}" + (f" as {name}" if own != name else "")
    for chapter in chapters():
        for exercise in exercises_of(chapter).values():
            path = path_of(exercise)
            if exercise.name == name and path.exists() and _is_in(path, value, name):
                return f'from minillama.course.keep import part\n\n{name} = part("{exercise.id}")'
    raise ValueError(f"it uses {name} from another cell; put that into the same cell")


def _is_literal(value: Any) -> bool:
    """Is this a constant, and a short one? Then its repr makes it again."""
    if not isinstance(value, int | str | bytes | tuple | list | dict | set | None) or len(repr(value)) > 1000:
        return False
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        return False


def _is_in(path: Path, value: Any, name: str) -> bool:
    """Is `value` what this kept file holds, or made from it?"""
    if value.__module__ == "my_parts":
        return True
    try:
        return same_code(path.read_text(encoding="utf-8"), source_of(value, name))
    except (ValueError, RecursionError):
        return False
