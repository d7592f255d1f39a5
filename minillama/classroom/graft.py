"""From a submitted notebook only the answers are taken; everything around them is the pristine notebook's.

A notebook is read as JSON and never run. An answer is found by its cell's metadata, by its cell's id, by a comment
`# exercise: 07.3`, or in the end by the name it defines.
"""

import ast
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from minillama.course.definitions import defined_names, free_names, needed, same_code
from minillama.course.exercise import Exercise
from minillama.course.stub import stub

MAX_NOTEBOOK = 20 * 10**6  # bytes
MAX_ANSWER = 200_000  # characters
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
NBVAL_MARKER = re.compile(r"^[ \t]*#[ \t]*NBVAL_\w+.*$", re.MULTILINE)
MAGIC = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)


class Unreadable(ValueError):
    """A file that is no notebook; the message says what is wrong with it."""


@dataclass
class Answer:
    """The text of one exercise's answer. guessed: what had to be guessed to find it, for a teacher to look at."""

    source: str
    guessed: list[str] = field(default_factory=list)


@dataclass
class Cell:
    """What counts of a cell. exercise: the id that its metadata, its id or a comment names, or ""."""

    kind: str
    text: str
    exercise: str = ""
    role: str = ""


def read_cells(data: bytes) -> tuple[list[Cell], dict]:
    """The cells of a notebook file and its own `minillama` metadata. Errors: Unreadable."""
    if len(data) > MAX_NOTEBOOK:
        raise Unreadable(f"{len(data) / 1e6:,.0f} MB, at most {MAX_NOTEBOOK / 1e6:.0f}; clear its outputs and save it")
    if not data.strip():
        raise Unreadable("the file is empty")
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        book = json.loads(text)
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        conflict = re.search(r"^(<{7}|={7}|>{7})", data.decode("utf-8", "replace"), re.MULTILINE)
        reason = "it has the marks of a merge conflict (<<<<<<<)" if conflict else f"not valid JSON ({error})"
        raise Unreadable(f"{reason}; open it in Jupyter and save it again") from error
    if not isinstance(book, dict):
        raise Unreadable("JSON, but no notebook")
    sheets = book.get("worksheets")  # nbformat 3
    cells = sheets[0].get("cells") if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else None
    cells = book.get("cells", cells)
    if not isinstance(cells, list):
        raise Unreadable("JSON, but no notebook: it has no cells")
    metadata = book.get("metadata")
    own = metadata.get("minillama") if isinstance(metadata, dict) else None
    return [_cell(cell) for cell in cells if isinstance(cell, dict)], own if isinstance(own, dict) else {}


def _cell(cell: dict) -> Cell:
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str)).replace("\r\n", "\n").replace("\r", "\n")
    metadata = cell.get("metadata")
    own = metadata.get("minillama") if isinstance(metadata, dict) else None
    own = own if isinstance(own, dict) else {}
    exercise, role = str(own.get("exercise", "")), str(own.get("role", ""))
    if not exercise and (named := re.fullmatch(r"(exercise|check)-(\d\d)-(\d+)", str(cell.get("id", "")))):
        exercise, role = f"{named[2]}.{named[3]}", named[1]
    if not exercise and (named := re.match(r"\s*#\s*exercise:?\s+(\d\d\.\d+)\s*$", text, re.MULTILINE)):
        exercise, role = named[1], "exercise"
    return Cell(str(cell.get("cell_type", "")), text, exercise, role)


def answer_in(cells: Sequence[Cell], exercise: Exercise, pristine: Sequence[str] = ()) -> Answer | None:
    """The answer to an exercise, as its check in this notebook would have seen it; None if there is nothing.

    That is: all cells marked as its own (an editor splits and copies them), and those between them and the check that
    define its name again. If that is only the stub: another cell that defines the name. pristine: texts to pass over.
    """
    guessed: list[str] = []
    marked = [i for i, cell in enumerate(cells) if (cell.exercise, cell.role) == (exercise.id, "exercise")]
    marked = [i for i in marked if cells[i].text.strip()]
    mine = [i for i in marked if cells[i].kind == "code"]
    if marked and not mine:
        guessed.append("its cell was no code cell any more")
        mine = marked
    given = {text.strip() for text in pristine}
    others = [i for i, cell in enumerate(cells) if i not in marked and cell.kind == "code"]
    others = [i for i in others if cells[i].text.strip() not in given and _defines(cells[i].text, exercise.name)]
    others = [
        i for i in others if not untouched(cells[i].text, exercise) and not _imports(cells[i].text, exercise.name)
    ]
    last = mine[-1] if mine else len(cells)
    checks = [i for i, cell in enumerate(cells) if i > last and (cell.exercise, cell.role) == (exercise.id, "check")]
    between = [i for i in others if checks and last < i < checks[0]]
    written = [i for i in mine if not untouched(cells[i].text, exercise)]
    if between:
        guessed.append("a cell below its own defines it again")
    if not written and not between and others:
        guessed.append("found by its name, in a cell that is not its own")
        between = others[-1:]
    texts = list(dict.fromkeys(cells[i].text for i in [*written, *between] or mine))  # a copy is no second answer
    if not texts:
        return None
    if not between and sum(_defines(text, exercise.name) for text in texts) > 1:
        guessed.append(f"{len(texts)} different cells; the last one counts")
    text = "\n\n".join(texts)
    if len(text) > MAX_ANSWER:
        return Answer("", [*guessed, f"an answer of {len(text):,} characters, more than {MAX_ANSWER:,}: not run"])
    return Answer(NBVAL_MARKER.sub("", as_python(text)), guessed)


def untouched(text: str, exercise: Exercise) -> bool:
    """Is this still the stub, but for comments and layout?"""
    try:
        return not text.strip() or text.strip() == stub(exercise).strip() or same_code(text, stub(exercise))
    except UNPARSABLE:
        return False


@lru_cache(maxsize=1000)
def as_python(text: str) -> str:
    """A cell's text as Python: what only IPython understands (magics, prompts, a whole cell indented) is taken out."""
    if not text.strip() or len(text) > MAX_ANSWER or _tree(text) is not None:
        return text
    from IPython.core.inputtransformer2 import TransformerManager

    inside = re.sub(r"\A\s*(%%.*\n)+", "", text)  # %%time and others, which stand for the whole cell
    with suppress(Exception):  # it was not made for what is no code at all
        transformed = TransformerManager().transform_cell(inside)
        if _tree(transformed) is not None:
            return transformed
    without = MAGIC.sub("", text)
    return text if _tree(without) is None else without


@lru_cache(maxsize=5000)
def _defines(text: str, name: str) -> bool:
    """Does this text give something the name? If it can't be parsed: does it look so?"""
    if len(text) > MAX_ANSWER:
        return False
    if _tree(as_python(text)) is None:
        return bool(re.search(rf"^(def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", text, re.MULTILINE))
    return name in text and bool(needed_of(as_python(text), name))


def _imports(text: str, name: str) -> bool:
    """Is the name only imported here? That is no answer where an answer is looked for by its name."""
    tree = _tree(as_python(text))
    names = [alias.asname or alias.name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
             for alias in node.names] if tree else []  # fmt: skip
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)] if tree else []
    return name in names and name not in defined


def _tree(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except UNPARSABLE:
        return None


@lru_cache(maxsize=1000)  # an answer's definition is asked for where it is looked at, run, and run again
def needed_of(text: str, *names: str) -> str:
    """As `needed`, for text that somebody else wrote: "" if it is too deep to be looked at."""
    try:
        return needed(text, *names) if names else ""
    except UNPARSABLE:
        return ""


def definition_in(answer: Answer, name: str) -> str:
    """Of an answer's text what defines the name: no experiments, no calls of check. All of it if that can't be told."""
    return needed_of(answer.source, name) or answer.source


def definitions_of(text: str) -> set[str]:
    """The names that this text defines; none if it can't be parsed."""
    try:
        return defined_names(as_python(text)) if len(text) <= MAX_ANSWER else set()
    except UNPARSABLE:
        return set()


def unknown_names(text: str) -> set[str]:
    """The names that this text needs from outside; none if it can't be parsed."""
    try:
        return free_names(text)
    except UNPARSABLE:
        return set()


def other_definitions(cells: Sequence[Cell], pristine: Sequence[str]) -> str:
    """The text of all code that a student added or changed outside of the exercises, if it is not too long."""
    known = {text.strip() for text in pristine}
    own = [cell.text for cell in cells if cell.kind == "code" and not cell.exercise and cell.text.strip() not in known]
    text = "\n\n".join(plain for one in own if _tree(plain := as_python(one)) is not None)
    return text if len(text) <= MAX_ANSWER else ""
