"""The rules that a chapter's source keeps, as far as a program can see them."""

import ast
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from minillama.course.exercise import Exercise, package_part
from minillama.course.stub import hidden_lines

if TYPE_CHECKING:
    from minillama.course.build import Cell

MAX_LINES = 15
LIST_ITEM = re.compile(r"(\d+[.)]|[-+*]) ")
PREDICTION = re.compile(r"(\w+) = .+?(  # .+)")
SHOWN = re.compile(r'\bshow\("([\w.]+)"\)')


def lint(source: Path, cells: list["Cell"], exercises: dict[str, Exercise]) -> list[str]:
    """Every rule that is broken, a line each, with the place."""
    return [
        *_headings(cells),
        *_lists(cells),
        *_exercises(cells, exercises),
        *_predictions(cells),
        *_figures(cells),
        *_lengths(cells),
        *_links(source, cells),
        *_leaks(cells, exercises),
    ]


def _headings(cells):
    level, n_titles = 0, 0
    for cell in cells:
        if cell.kind != "markdown":
            continue
        for line in _without_code(cell.text).splitlines():
            if heading := re.match(r"(#+) ", line):
                new = len(heading.group(1))
                n_titles += new == 1
                if new > level + 1:
                    yield f"{cell.where}: heading of level {new} after level {level}: {line}"
                level = new
    if n_titles != 1:
        yield f"line 1: {n_titles} headings of level 1, expected one"


def _lists(cells):
    for cell in cells:
        lines = _without_code(cell.text).splitlines() if cell.kind == "markdown" else []
        for before, line in pairwise(lines):
            in_text = before.strip() and not re.match(r"\s", before) and not LIST_ITEM.match(before)
            if in_text and LIST_ITEM.match(line):
                yield f"{cell.where}: a list begins within a paragraph: wrap elsewhere or leave a line empty: {line}"


def _exercises(cells, exercises):
    asked = []
    for before, cell, following in zip([None, *cells], cells, [*cells[1:], None], strict=False):
        if cell.kind in ("exercise", "check") and cell.name not in exercises:
            yield f"{cell.where}: exercise {cell.name} is not in the chapter's file of exercises"
        elif cell.kind == "exercise":
            asked.append(cell.name)
            if cell.text.strip():
                yield f"{cell.where}: exercise {cell.name}: the cell must be empty, it is made from the solution"
            if following is None or (following.kind, following.name) != ("check", cell.name):
                yield f"{cell.where}: exercise {cell.name} is not followed by its check"
        elif cell.kind == "check":
            name = exercises[cell.name].name
            if cell.text.strip() != f'{name} = check("{cell.name}", {name})':
                yield f'{cell.where}: expected {name} = check("{cell.name}", {name})'
            if before is None or (before.kind, before.name) != ("exercise", cell.name):
                yield f"{cell.where}: check {cell.name} does not follow its exercise"
    if missing := set(exercises) - set(asked):
        yield f"line 1: no cell for exercise {', '.join(sorted(missing))}"
    if len(asked) != len(set(asked)):
        yield "line 1: an exercise is asked for twice"


def _predictions(cells):
    guesses = {}  # of the predictions that wait for their answers: {name: variable}
    for cell in cells:
        if cell.kind == "predict":
            match = PREDICTION.fullmatch(cell.text.strip())
            if not match:
                yield f"{cell.where}: expected `name = answer  # what to choose from`"
            guesses[cell.name] = match[1] if match else ""
        if cell.kind == "reveal":
            if cell.name not in guesses:
                yield f"{cell.where}: reveal: {cell.name} without a predict: {cell.name} before it"
            guess = guesses.pop(cell.name, "")
            if not re.search(rf"\bpredicted\({guess}\b", cell.text):
                yield f"{cell.where}: reveal without predicted({guess}, ...)"
    for name in guesses:
        yield f"line 1: predict: {name} without a reveal: {name} after it"


def _figures(cells):
    for before, cell in zip([None, *cells], cells, strict=False):
        if cell.kind in ("code", "varies", "reveal") and re.search(r"\bplots\.\w+\(", cell.text):
            if "assert " not in cell.text:
                yield f"{cell.where}: a figure without an assert beside it"
            if before is None or before.kind != "markdown":
                yield f"{cell.where}: a figure without a sentence before it that says what to see"


def _lengths(cells):
    for cell in cells:
        if cell.kind == "markdown":
            continue
        try:
            tree = ast.parse(cell.text)
        except SyntaxError as error:
            yield f"{cell.where}: {error.msg} in line {error.lineno} of the cell"
            continue
        lines = {i for i, line in enumerate(cell.text.splitlines(), 1) if line.strip()}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
                lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        if len(lines) > MAX_LINES:
            yield f"{cell.where}: {len(lines)} lines in one cell, at most {MAX_LINES}"
        for name in SHOWN.findall(cell.text):
            try:
                package_part(name)
            except ValueError as error:
                yield f"{cell.where}: {error}"


def _links(source, cells):
    texts = [cell.text for cell in cells if cell.kind == "markdown"]
    headings = [heading for text in texts for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    anchors = {heading.strip().replace("`", "").replace(" ", "-") for heading in headings}
    for cell in cells:
        text = _without_code(cell.text) if cell.kind == "markdown" else ""
        if "![](" in text:
            yield f"{cell.where}: an image without a text for those who can't see it"
        for target in re.findall(r"\]\(([^)\s]+)", text):
            file, _, anchor = target.partition("#")
            if target.startswith(("http://", "https://")):
                continue
            there = (source.parents[1] / file).exists() or (  # a notebook may still have to be built
                file.endswith(".ipynb") and (source.parent / Path(file).with_suffix(".py").name).exists()
            )
            if file and not there:
                yield f"{cell.where}: the link {target} leads nowhere"
            if not file and anchor not in anchors:
                yield f"{cell.where}: no heading for the link #{anchor}"


def _leaks(cells, exercises):
    for exercise in exercises.values():
        for line in hidden_lines(exercise):
            for cell in cells:
                if line in cell.text:
                    yield f"{cell.where}: gives away a line of the solution of {exercise.id}: {line}"


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
