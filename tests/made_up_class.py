"""A class that nobody is in: notebooks that are right, half right, wrong, empty or broken.

    python -m tests.made_up_class FOLDER [--students 30] [--chapters 03,07] [--release DIR]

For the tests, the benchmark of the grader, and whoever wants to try it before there are students.
"""

import argparse
import ast
import json
import random
import re
from pathlib import Path

from minillama.classroom.strip import exercises_file, text_of
from minillama.course import build
from minillama.course.definitions import needed
from minillama.course.exercise import Exercise, exercises_of, find, solution

NAMES = """Ada Alan Barbara Bjarne Chen Claude Dana Edsger Emmy Fatima Grace Hedy Ines José Kenji Linus Maria Noor Olga
Paul Qian Radia Sofia Tim Uri Vera Wei Xenia Yukihiro Zoë""".split()


def learner(chapter: str, release: Path | None = None) -> dict:
    """A learner's edition, as it is in the repository or in a release."""
    folder = release / "students" / "notebooks" if release else build.notebooks_folder()
    (path,) = folder.glob(f"{chapter}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))


def filled(book: dict, answers: dict[str, str]) -> dict:
    """A copy of a notebook with these texts in its exercise cells, by exercise id."""
    book = json.loads(json.dumps(book))
    for cell in book["cells"]:
        mine = cell["metadata"].get("minillama", {})
        if mine.get("role") == "exercise" and mine["exercise"] in answers:
            cell["source"] = answers[mine["exercise"]].splitlines(keepends=True)
    return book


def _plain(text: str) -> str:
    """The text of an exercises file without what a student's notebook does not have: our imports, our decorators."""
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        gone = [node] if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minillama.course") else []
        gone += node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
        for part in gone:
            if "no_grad" not in ast.unparse(part):
                lines[part.lineno - 1 : part.end_lineno] = [""] * ((part.end_lineno or 0) - part.lineno + 1)
    return "".join(lines)


def written(exercise: Exercise, version) -> str:
    """A mistake or an alternative as a student would have written it: a text of its own, under the exercise's name."""
    if version.__module__ != f"minillama.{exercises_file(exercise).removesuffix('.py').replace('/', '.')}":
        return solution(exercise)
    text = needed(_plain(text_of(exercises_file(exercise))), version.__name__)
    name = exercise.name
    if version.__name__ != name:
        inherits = isinstance(version, type) and exercise.answer in version.__mro__
        base = re.sub(rf"\b{name}\b", "Base", solution(exercise)) if inherits else ""
        module = exercise.answer.__module__.rpartition(".")[2]
        text = re.sub(rf"\b(?:{module}\.)?{name}\b", "Base", text) if inherits else text
        text = base + "\n\n" + re.sub(rf"\b{version.__name__}\b", name, text)
    return text


def some_answers(kind: str, chapter: str, chance: random.Random) -> dict[str, str]:
    """Answers of a student who is right, half right, or wrong."""
    answers = {}
    for exercise in exercises_of(chapter).values():
        right = [exercise.answer, *(alternative.answer for alternative in exercise.alternatives)]
        wrong = [mistake.answer for mistake in exercise.mistakes]
        what = {"right": "right", "wrong": "wrong", "half": chance.choice(("right", "right", "wrong", "stub"))}[kind]
        if what != "stub":
            answers[exercise.id] = written(exercise, chance.choice(right if what == "right" else wrong[:6]))
    return answers


def some_answers_of(ids: tuple[str, ...], seed: int) -> dict[str, str]:
    """Two right answers and a wrong one, or so."""
    chance = random.Random(seed)
    chosen = {}
    for exercise in map(find, ids):
        versions = exercise.mistakes if chance.random() < 1 / 3 else exercise.alternatives
        chosen[exercise.id] = written(exercise, chance.choice(versions).answer)
    return chosen


def as_bytes(book: dict) -> bytes:
    """A notebook's file."""
    return json.dumps(book, ensure_ascii=False).encode()


def broken(book: dict, how: str) -> bytes:
    """A notebook as editors, merges and mail leave it."""
    text = json.dumps(book)
    if how == "cut off":
        return text[: len(text) // 2].encode()
    if how == "conflict":
        return ("<<<<<<< HEAD\n" + text[:500] + "\n=======\n" + text[500:]).encode()
    if how == "no metadata":
        for cell in book["cells"]:
            cell["metadata"] = {}
            cell.pop("id", None)
        book["metadata"] = {}
    return as_bytes(book)


def write_class(folder: Path, chapters: list[str], n_students: int, release: Path | None = None, seed: int = 0):
    """A folder per student, with a notebook per chapter."""
    chance = random.Random(seed)
    kinds = (
        ["right"] * 10 + ["half"] * 11 + ["wrong"] * 3 + ["empty"] * 2 + ["cut off", "conflict", "no metadata", "loop"]
    )
    for i in range(n_students):
        name = NAMES[i % len(NAMES)] + (f" {i // len(NAMES) + 1}" if i >= len(NAMES) else "")
        kind = kinds[i % len(kinds)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for chapter in chapters:
            answers = {}
            if kind != "empty":
                answers = some_answers(kind if kind in ("right", "half", "wrong") else "right", chapter, chance)
            if kind == "loop":
                answers[next(iter(answers))] = "while True:\n    pass\n"
            book = filled(learner(chapter, release), answers)
            data = broken(book, kind) if kind in ("cut off", "conflict", "no metadata") else as_bytes(book)
            stem = Path(book["metadata"].get("minillama", {}).get("source", f"{chapter}_notebook")).stem
            (folder / name / f"{stem}.ipynb").write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--chapters", default="03,07")
    parser.add_argument("--release", type=Path, help="what python -m minillama release wrote")
    options = parser.parse_args()
    write_class(options.folder, options.chapters.split(","), options.students, options.release)


if __name__ == "__main__":
    main()
