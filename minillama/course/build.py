"""From a chapter's source to its two notebooks. notebooks/source/README.md says how a source is written."""

import hashlib
import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from minillama.course.exercise import Exercise, exercises_of, find, package_part, solution
from minillama.course.keep import keep_worked
from minillama.course.lint import PREDICTION, SHOWN, lint
from minillama.course.stub import stub
from minillama.files import replacing

KINDS = ("exercise", "check", "predict", "reveal", "varies", "show")
VERSION = 2  # raised when the builder makes something else of the same source
WIDEST = 105  # characters in a line of output


class BuildError(ValueError):
    """A source that can't become a notebook, or a notebook that must not be overwritten."""


@dataclass
class Cell:
    """One cell of the source: kind is markdown, code or one of KINDS; name is what follows it ("07.3", "growth")."""

    kind: str
    name: str
    text: str
    line: int
    id: str = ""

    @property
    def where(self) -> str:
        return f"line {self.line}"


def notebooks_folder() -> Path:
    """`notebooks/` of the repository. Errors: BuildError outside of one."""
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    if not (folder / "source").is_dir():
        raise BuildError(f"{folder / 'source'} is not there; building needs a clone of the repository")
    return folder


def sources(chapter: str | None = None) -> list[Path]:
    """The sources of all chapters, or of one. Errors: BuildError if there is none."""
    found = sorted((notebooks_folder() / "source").glob("[0-9][0-9]_*.py"))
    wanted = [path for path in found if chapter in (None, path.stem[:2], path.stem[:2].lstrip("0"))]
    if chapter and not wanted:
        there = ", ".join(path.stem for path in found) or "none"
        raise BuildError(f"no source for chapter {chapter}; there are {there}")
    return wanted


def build(chapter: str | None = None, *, force: bool = False, report: Callable[[str], object] = print):
    """Make both notebooks of each chapter whose sources changed. force: run again, and overwrite hand edits.

    Errors: BuildError for a source that breaks a rule, a cell that fails, a notebook that was edited by hand.
    """
    for source in sources(chapter):
        cells = checked_cells(source)
        stamp = fingerprint(source, cells)
        paths = editions(source)
        if not force:
            if all(stored(path, stamp) for path in paths):
                report(f"{source.stem}: current")
                continue
            for path in paths:
                refuse_hand_edits(path, source)
        learner, worked = (notebook(source, cells, edition) for edition in ("learner", "worked"))
        code = code_fingerprint(source, cells)
        ran = None if force else same_code(paths[1], code)
        if ran:
            report(f"{source.stem}: the same code, its outputs stay")
            keep_outputs(ran, worked)
        else:
            report(f"{source.stem}: running ...")
            execute(worked, source)
        copy_outputs(cells, worked, learner)
        for path, made in zip(paths, (learner, worked), strict=True):
            made["metadata"]["minillama"]["ran"] = code
            write(path, made, stamp)
            report(f"{path.relative_to(source.parents[1])}: {path.stat().st_size / 1e3:.0f} kB")


def check_current(chapter: str | None = None) -> list[str]:
    """What is not as `build` would make it, a line each; nothing is run and nothing written."""
    faults = []
    for source in sources(chapter):
        try:
            stamp = fingerprint(source, checked_cells(source))
        except ValueError as error:
            faults.append(str(error))
            continue
        for path in editions(source):
            try:
                refuse_hand_edits(path, source)
                if not stored(path, stamp):
                    faults.append(f"{path}: not current; python -m minillama build {source.stem[:2]}")
            except BuildError as error:
                faults.append(str(error))
    if not chapter:
        made = {path for source in sources() for path in editions(source)}
        folders = notebooks_folder(), notebooks_folder() / "solutions"
        there = {path for folder in folders for path in folder.glob("[0-9][0-9]_*.ipynb")}
        faults += [f"{path}: has no source; delete it" for path in sorted(there - made)]
    return faults


def editions(source: Path) -> tuple[Path, Path]:
    """Where the learner's and the worked edition of a source belong."""
    folder = source.parents[1]
    return folder / f"{source.stem}.ipynb", folder / "solutions" / f"{source.stem}.ipynb"


def checked_cells(source: Path) -> list[Cell]:
    """The cells of a source that keeps all rules. Errors: BuildError with every rule that it breaks."""
    cells = parse(source)
    faults = lint(source, cells, exercises_of(source.stem[:2]))
    if faults:
        raise BuildError("\n".join(f"{source.name}, {fault}" for fault in faults))
    return cells


def parse(source: Path) -> list[Cell]:
    """Cut a source into cells, and give each an id that stays when other cells come and go."""
    import jupytext

    book = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    lines = [i for i, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1) if line.startswith("# %%")]
    if len(lines) != len(book.cells):
        raise BuildError(f"{source.name}: {len(lines)} cell markers for {len(book.cells)} cells; begin with '# %%'")
    cells = []
    for cell, line in zip(book.cells, lines, strict=True):
        title = cell.metadata.get("title", "")
        kind, _, name = title.partition(":")
        if cell.cell_type == "markdown":
            kind, name = "markdown", ""
        elif title and kind not in KINDS:
            raise BuildError(f'{source.name}, line {line}: cell title "{title}"; expected one of {", ".join(KINDS)}')
        cells.append(Cell(kind or "code", name.strip(), cell.source, line))
    _name_cells(cells)
    return cells


def _name_cells(cells: list[Cell]):
    """Cells with a name are called by it ("exercise-07-3"); the others by their section's heading, and counted."""
    section, taken = "top", set()
    for cell in cells:
        if cell.name:
            cell.id = _slug(f"{cell.kind}-{cell.name}")
            taken |= {cell.id, _slug(f"hints-{cell.name}")}
    for cell in cells:
        if heading := re.match(r"#+ (.+)", cell.text) if cell.kind == "markdown" else None:
            section = _slug(heading.group(1))
        if not cell.name:
            cell.id = next(id for n in count(1) if (id := f"{section}-{n}") not in taken)
            taken.add(cell.id)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48] or "cell"


def notebook(source: Path, cells: list[Cell], edition: str) -> dict[str, Any]:
    """One edition of a chapter, without outputs, as the JSON of nbformat 4.5."""
    made = []
    for cell in cells:
        made.append(_cell(cell, edition))
        if cell.kind == "check":
            made.append(_hints(find(cell.name)))
    return {
        "cells": made,
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "minillama": {"chapter": source.stem[:2], "edition": edition, "source": f"notebooks/source/{source.name}"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(cell: Cell, edition: str) -> dict[str, Any]:
    if cell.kind == "markdown":
        text = cell.text if edition == "learner" else _one_folder_deeper(cell.text)
        return {"cell_type": "markdown", "id": cell.id, "metadata": {}, "source": _lines(text)}
    text = cell.text
    metadata: dict[str, Any] = {}
    if cell.kind in ("exercise", "check"):
        exercise = find(cell.name)
        mine: dict[str, Any] = {"role": cell.kind, "exercise": cell.name}
        metadata["minillama"] = mine
        if cell.kind == "exercise":
            text = stub(exercise) if edition == "learner" else solution(exercise)
        else:
            mine["points"] = exercise.points
            metadata |= {"deletable": False, "editable": False}
    elif cell.kind == "predict":
        metadata["minillama"] = {"role": "predict"}
        if edition == "learner":
            text = PREDICTION.sub(r"\1 = ...\2", text.strip())  # growth = ...  # 1, 10 or 1_000_000
    elif cell.kind == "varies":
        metadata["tags"] = ["nbval-ignore-output"]
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": cell.id,
        "metadata": metadata,
        "outputs": [],
        "source": _lines(text.strip()),
    }


def _one_folder_deeper(text: str) -> str:
    """The links of a text for the worked edition, which stands among other worked editions."""
    text = re.sub(r"\]\((?!https?://|#|solutions/|\d\d_\w+\.ipynb)", "](../", text)
    return text.replace("](solutions/", "](")


def _hints(exercise: Exercise) -> dict[str, Any]:
    folded = [
        f"<details><summary>Hint {i}</summary>\n\n{text}\n\n</details>" for i, text in enumerate(exercise.hints, 1)
    ]
    return {"cell_type": "markdown", "id": _slug(f"hints-{exercise.id}"), "metadata": {},
            "source": _lines("\n".join(folded))}  # fmt: skip


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def execute(book: dict[str, Any], source: Path):
    """Run a notebook and store its outputs in it. Errors: BuildError that names the cell."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    node = nbformat.reads(json.dumps(book), as_version=4)
    running: list[str] = []
    with tempfile.TemporaryDirectory() as parts:
        keep_worked(Path(parts), before=source.name[:2])
        environment = os.environ | {"MINILLAMA_PARTS": parts, "PYTHONHASHSEED": "0"}
        environment.pop("MINILLAMA_GRADING", None)
        client = NotebookClient(
            node, timeout=900, kernel_name="python3", record_timing=False, extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(source.parents[1])}},
            on_cell_start=lambda cell, cell_index: running.append(cell.id),
        )  # fmt: skip
        try:
            client.execute(env=environment)
        except (CellControlSignal, DeadKernelError) as error:  # it raised, it took too long, it ended the kernel
            plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
            raise BuildError(f"{source.name}, cell {running[-1]}: {plain}") from error
    for cell, run in zip(book["cells"], node.cells, strict=True):
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"] = run.execution_count
        cell["outputs"] = [_output(output, cell, source) for output in _joined(run.outputs)]


def _joined(outputs: list) -> list[dict[str, Any]]:
    """Outputs with the pieces of a stream put together."""
    made: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and made and made[-1].get("name") == output["name"]:
            made[-1]["text"] += output["text"]
        else:
            made.append(dict(output))
    return made


def _output(output: dict[str, Any], cell: dict[str, Any], source: Path) -> dict[str, Any]:
    if output.get("name") == "stderr":
        raise BuildError(f"{source.name}, cell {cell['id']}: wrote to stderr: {output['text'][:200]}")
    texts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    widest = max((line for text in texts for line in text.splitlines()), key=len, default="")
    if len(widest) > WIDEST:
        raise BuildError(
            f"{source.name}, cell {cell['id']}: prints a line of {len(widest)} characters, at most {WIDEST} can be "
            f"read without scrolling or wrapping: {widest[:60]} ..."
        )
    if (here := str(Path(__file__).resolve().parents[2])) in "".join(texts):
        raise BuildError(f"{source.name}, cell {cell['id']}: prints {here}, a path of this machine")
    if "tags" not in cell["metadata"]:
        for pattern, what in ((r"0x[0-9a-f]{6,}", "an address"), (r"/(home|tmp|root|Users)/", "a path"),
                              (r"\d\.\d{7,}", "a number that is not rounded")):  # fmt: skip
            if found := re.search(pattern, "".join(texts)):
                raise BuildError(f"{source.name}, cell {cell['id']}: prints {what}, {found.group()}; mark it `varies`")
    plain = json.loads(json.dumps(output))
    if "text" in plain:
        plain["text"] = _lines(plain["text"])
    for kind, content in plain.get("data", {}).items():
        if kind.startswith("text/"):
            plain["data"][kind] = _lines(content)
    return plain


def same_code(path: Path, code: str) -> dict[str, Any] | None:
    """The worked edition that is there, if its outputs are those of this code_fingerprint; None if they are not."""
    book = read(path)
    made = book["metadata"].get("minillama", {}) if book else {}
    unchanged = made.get("content") == content_of(book) if book else False
    return book if unchanged and made.get("ran") == code else None


def keep_outputs(ran: dict[str, Any], worked: dict[str, Any]):
    """Give a notebook the outputs of an earlier one with the same code cells."""
    before, now = ([cell for cell in book["cells"] if cell["cell_type"] == "code"] for book in (ran, worked))
    for old, cell in zip(before, now, strict=True):
        cell["outputs"], cell["execution_count"] = old["outputs"], old["execution_count"]


def copy_outputs(cells: list[Cell], worked: dict[str, Any], learner: dict[str, Any]):
    """Give the learner's edition the outputs of the worked one, but for checks, answers to predictions, solutions."""
    own = {cell.id for cell in cells if cell.kind not in ("code", "varies") or "my_parts(" in cell.text}
    for mine, run in zip(learner["cells"], worked["cells"], strict=True):
        if mine["cell_type"] == "code" and mine["id"] not in own:
            mine["outputs"], mine["execution_count"] = run["outputs"], run["execution_count"]


def fingerprint(source: Path, cells: list[Cell]) -> str:
    """What the notebooks of a source are made from, as one SHA-256: its texts, exercises, and what decides outputs."""
    parts = [code_fingerprint(source, cells), source.read_text(encoding="utf-8")]
    for exercise in (find(cell.name) for cell in cells if cell.kind == "exercise"):
        parts += [stub(exercise), *exercise.hints]
    return _sha256(parts)


def code_fingerprint(source: Path, cells: list[Cell]) -> str:
    """What the outputs come from, as one SHA-256: code cells, solutions, parts that are shown, figures."""
    short = " with short trainings" if os.environ.get("MINILLAMA_FAST") == "1" else ""  # not what belongs into a commit
    parts = [f"builder {VERSION}{short}"]
    for cell in cells:
        if cell.kind == "markdown":
            continue
        parts += [f"{cell.kind} {cell.name}", cell.text.strip()]
        if cell.kind == "exercise":
            parts += [solution(find(cell.name)), str(find(cell.name).points)]
        parts += [inspect.getsource(package_part(name)) for name in SHOWN.findall(cell.text)]
        for name in re.findall(r"^from minillama\.plots import (\w+)", cell.text, re.MULTILINE):
            file = source.parents[2] / "minillama" / "plots" / f"{name}.py"
            parts.append(file.read_text(encoding="utf-8") if file.exists() else "")
    return _sha256(parts)


def _sha256(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def write(path: Path, book: dict[str, Any], stamp: str):
    """Write a notebook in the one form that the same content always has."""
    book["metadata"]["minillama"] |= {"made_from": stamp, "content": content_of(book)}
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n")


def content_of(book: dict[str, Any]) -> str:
    """One SHA-256 over what a person could have edited: cells with their texts and outputs, not the counts."""
    cells = [
        [c.get("cell_type"), c.get("id", ""), "".join(c["source"]), json.dumps(c.get("outputs", []), sort_keys=True)]
        for c in book["cells"]
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def read(path: Path) -> dict[str, Any] | None:
    """A notebook file; None if there is none. Errors: BuildError that names a file that is no notebook."""
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        content_of(book)
        book["metadata"].get("minillama", {}).get("content")
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: no notebook ({error!r}); delete it and build again") from error
    return book


def stored(path: Path, stamp: str) -> bool:
    """Was this notebook made from what `stamp` stands for, and not edited since?"""
    book = read(path)
    made = book["metadata"].get("minillama", {}) if book else {}
    return bool(book) and made.get("made_from") == stamp and made.get("content") == content_of(book)


def refuse_hand_edits(path: Path, source: Path):
    """Errors: BuildError if somebody worked in this notebook."""
    book = read(path)
    if book and book["metadata"].get("minillama", {}).get("content") != content_of(book):
        raise BuildError(
            f"{path}: edited by hand since it was built, and not overwritten. To change the chapter edit {source}; "
            f"to keep your answers, copy the notebook; then: python -m minillama build {source.stem[:2]} --force"
        )


def main(options):
    """python -m minillama build"""
    if not options.check:
        return build(options.chapter, force=options.force)
    faults = check_current(options.chapter)
    print("\n".join(faults) or "all notebooks are current", file=sys.stderr if faults else sys.stdout)
    if faults:
        raise BuildError(f"{len(faults)} not current")
