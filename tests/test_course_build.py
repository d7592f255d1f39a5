"""From sources to notebooks: what is built, when it is built again, what is refused; and stubs from solutions."""

import ast
import functools
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minillama import norm
from minillama.cli import main
from minillama.course import build, exercise, lint
from minillama.course import stub as stubs
from minillama.course.exercise import Exercise, find, package_part, solution
from minillama.course.stub import TODO, hidden_lines, stub

HINTS = ("Think of *twice*.", "Add.", "`x + x`")


def double(x: float) -> float:
    """Twice as much."""
    # adding would do
    twice_as_much_as_before = x + x
    return twice_as_much_as_before


class Scale(nn.Module):
    """Multiply each channel by its weight. (B, C) -> (B, C)"""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        """Each channel by its own."""
        return torch.multiply(x, self.weight.view(1, -1))


DOUBLE, SCALE = Exercise("70.1", double, hints=HINTS), Exercise("70.2", Scale, hints=HINTS)
DOUBLE.check("twice as much", points=2)(lambda double: None)
SCALE.check("each by its own")(lambda Scale: None)
EXERCISES = {"70.1": DOUBLE, "70.2": SCALE}

ROOT = Path(__file__).resolve().parents[1]
SOURCE = """\
# %% [markdown]
# # Toys
#
# See [the norms](#Norms), [the README](README.md), [the package](../minillama/norm.py), [another](https://example.org)
# and [this chapter](70_toys.ipynb) or [solved](solutions/70_toys.ipynb).

# %%
from minillama.course import check, my_parts, predicted, show

one = 1
print("one", one)

# %% [markdown]
# ## Norms
#
# Write `double`.

# %% exercise: 70.1

# %% check: 70.1
double = check("70.1", double)

# %% [markdown]
# How fast does it grow?

# %% predict: growth
growth = "x é 2"  # "x é 2" or "x + 2"

# %% reveal: growth
predicted(growth, "x é 2")

# %% varies
print("varies")

# %% [markdown]
# ### Scale

# %% exercise: 70.2

# %% check: 70.2
Scale = check("70.2", Scale)

# %% show
show("norm.RMSNorm")

# %%
parts = my_parts()

# %%
print("two", 1 + 1)
"""


@pytest.fixture(autouse=True)
def repository(monkeypatch, tmp_path):
    """A repository with one chapter, whose notebooks need no kernel to run."""
    source = tmp_path / "notebooks" / "source" / "70_toys.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE, encoding="utf-8")
    (tmp_path / "notebooks" / "README.md").write_text("read me")
    (tmp_path / "minillama" / "plots").mkdir(parents=True)
    (tmp_path / "minillama" / "norm.py").write_text("")
    monkeypatch.setattr(build, "notebooks_folder", lambda: tmp_path / "notebooks")
    for module in (exercise, build):
        monkeypatch.setattr(module, "exercises_of", lambda chapter: EXERCISES)
    monkeypatch.setattr(build, "execute", pretend_to_run)
    pretend_to_run.runs = 0
    return SimpleNamespace(
        source=source,
        learner=tmp_path / "notebooks" / "70_toys.ipynb",
        worked=tmp_path / "notebooks" / "solutions" / "70_toys.ipynb",
        plots=tmp_path / "minillama" / "plots",
    )


real_execute = build.execute


def pretend_to_run(book, source):
    """Each code cell says its id."""
    pretend_to_run.runs += 1
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    for i, cell in enumerate(code, 1):
        cell["execution_count"] = i
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [f"output of {cell['id']}\n"]}]


def built(**options):
    said = []
    build.build(report=said.append, **options)
    return said


def bytes_of(repository):
    return repository.learner.read_bytes(), repository.worked.read_bytes()


def cells_of(path):
    return {cell["id"]: cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]}


def text_of(cell):
    return "".join(cell["source"])


# What is built -------------------------------------------------------------------------------------------------------


def test_both_editions_have_the_same_cells_with_ids_from_the_source(repository):
    built()
    learner, worked = cells_of(repository.learner), cells_of(repository.worked)
    assert list(learner) == list(worked) == [
        "toys-1", "toys-2", "norms-1", "exercise-70-1", "check-70-1", "hints-70-1", "norms-2", "predict-growth",
        "reveal-growth", "norms-3", "scale-1", "exercise-70-2", "check-70-2", "hints-70-2", "scale-2", "scale-3",
        "scale-4",
    ]  # fmt: skip


def test_the_worked_edition_holds_the_solutions_and_all_outputs(repository):
    built()
    worked = cells_of(repository.worked)
    assert text_of(worked["exercise-70-1"]) == solution(DOUBLE).strip()
    assert text_of(worked["predict-growth"]) == 'growth = "x é 2"  # "x é 2" or "x + 2"'
    assert all(cell["outputs"] for cell in worked.values() if cell["cell_type"] == "code")


def test_the_learners_edition_holds_stubs_and_no_answers(repository):
    built()
    learner = cells_of(repository.learner)
    assert text_of(learner["exercise-70-1"]) == stub(DOUBLE).strip()
    assert text_of(learner["predict-growth"]) == 'growth = ...  # "x é 2" or "x + 2"'
    with_outputs = {id for id, cell in learner.items() if cell.get("outputs") or cell.get("execution_count")}
    assert with_outputs == {"toys-2", "norms-3", "scale-4"}  # not of check, predict, reveal, show, my_parts
    everything = repository.learner.read_text()
    for line in ("twice_as_much", "torch.multiply", "adding would do"):
        assert line not in everything and line in repository.worked.read_text()
    assert [h for e in EXERCISES.values() for h in hidden_lines(e)]
    assert not any(line in everything for e in EXERCISES.values() for line in hidden_lines(e))


def test_hints_are_folded_and_checks_cannot_be_edited(repository):
    built()
    learner = cells_of(repository.learner)
    hints = text_of(learner["hints-70-1"])
    assert hints.count("<details><summary>Hint ") == 3 and "\n\nThink of *twice*.\n\n</details>" in hints
    assert learner["check-70-1"]["metadata"] == {
        "minillama": {"role": "check", "exercise": "70.1", "points": 2}, "deletable": False, "editable": False
    }  # fmt: skip
    assert learner["exercise-70-2"]["metadata"] == {"minillama": {"role": "exercise", "exercise": "70.2"}}
    assert learner["norms-3"]["metadata"] == {"tags": ["nbval-ignore-output"]}


def test_links_lead_to_the_same_place_from_both_editions(repository):
    built()
    targets = {}
    for path in (repository.learner, repository.worked):
        targets[path] = re.findall(r"\]\((.*?)\)", text_of(cells_of(path)["toys-1"]))
    assert targets[repository.learner] == [
        "#Norms", "README.md", "../minillama/norm.py", "https://example.org", "70_toys.ipynb", "solutions/70_toys.ipynb"
    ]  # fmt: skip
    assert targets[repository.worked] == [
        "#Norms", "../README.md", "../../minillama/norm.py", "https://example.org", "70_toys.ipynb", "70_toys.ipynb"
    ]  # fmt: skip
    for path, found in targets.items():
        assert all((path.parent / target).resolve().exists() for target in [*found[1:3], *found[4:]])


def test_the_notebooks_are_valid_and_say_where_they_come_from(repository):
    nbformat = pytest.importorskip("nbformat")
    built()
    for path, edition in ((repository.learner, "learner"), (repository.worked, "worked")):
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        assert book.metadata.kernelspec.name == "python3" and (book.nbformat, book.nbformat_minor) == (4, 5)
        made = book.metadata.minillama
        assert (made.chapter, made.edition, made.source) == ("70", edition, "notebooks/source/70_toys.py")
        assert len({cell.id for cell in book.cells}) == len(book.cells)


# Ids -----------------------------------------------------------------------------------------------------------------


def ids(text, repository):
    repository.source.write_text(text, encoding="utf-8")
    return {cell.text.strip(): cell.id for cell in build.parse(repository.source) if cell.text.strip()}


def test_ids_stay_when_a_cell_comes_in_another_section(repository):
    before = ids(SOURCE, repository)
    for place in ("# %% [markdown]\n# ## Norms", "# %% [markdown]\n# ### Scale"):
        after = ids(SOURCE.replace(place, f"# %%\nnew = 1\n\n{place}"), repository)
        assert after.pop("new = 1") and after == before


def test_the_ids_of_exercises_are_theirs_whatever_comes(repository):
    tricks = [
        "# %% [markdown]\n# # Exercise 70\n\n# %%\na = 1\n\n# %%\nb = 1\n\n",  # exercise-70-1, were it not taken
        "# %% [markdown]\n# # Check 70\n\n# %%\na = 1\n\n", "# %% [markdown]\n# # Hints 70\n\n# %%\na = 1\n\n",
        "# %%\nx = 1\n\n" * 3,
    ]  # fmt: skip
    for trick in tricks:
        repository.source.write_text(trick + SOURCE, encoding="utf-8")
        cells = build.parse(repository.source)
        named = {cell.id for cell in cells if cell.kind in ("exercise", "check")}
        assert named == {"exercise-70-1", "exercise-70-2", "check-70-1", "check-70-2"}
        made = [cell["id"] for cell in build.notebook(repository.source, cells, "learner")["cells"]]
        assert len(set(made)) == len(made) and {"hints-70-1", "hints-70-2"} < set(made)


def test_ids_are_ids_whatever_the_heading(repository):
    for heading in ("数学", "Über `x` & π: 100 %", "A" * 200, "!!!"):
        repository.source.write_text(f"# %% [markdown]\n# # {heading}\n\n# %%\na = 1\n", encoding="utf-8")
        for cell in build.parse(repository.source):
            assert re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", cell.id)


# When it is built again ----------------------------------------------------------------------------------------------


def test_a_second_build_runs_nothing_and_changes_no_byte(repository):
    built()
    before = bytes_of(repository)
    assert built() == ["70_toys: current"] and built(chapter="70") == ["70_toys: current"]
    assert bytes_of(repository) == before and pretend_to_run.runs == 1


def test_the_same_source_gives_the_same_bytes(repository):
    built()
    before = bytes_of(repository)
    repository.learner.unlink(), shutil.rmtree(repository.worked.parent)
    built()
    assert bytes_of(repository) == before


def changes():
    """What makes notebooks stale: {name: (what to change, ...)}"""

    def source(repository, monkeypatch):
        repository.source.write_text(SOURCE + "\n# %%\nmore = 1\n", encoding="utf-8")

    def body(repository, monkeypatch):
        monkeypatch.setattr(build, "solution", lambda e: solution(e).replace("x + x", "2 * x"))

    def docstring(repository, monkeypatch):
        monkeypatch.setattr(build, "stub", lambda e: stub(e).replace("Twice", "Two times"))

    def hints(repository, monkeypatch):
        monkeypatch.setattr(DOUBLE, "hints", ("a", "b", "c"))

    def points(repository, monkeypatch):
        monkeypatch.setattr(DOUBLE, "checks", [*DOUBLE.checks, exercise.Check("more", print)])

    def shown(repository, monkeypatch):
        monkeypatch.setattr(build, "package_part", lambda name: norm.LayerNorm)

    def figures(repository, monkeypatch):
        (repository.plots / "norm.py").write_text("# a new figure")

    def text(repository, monkeypatch):
        before, after = "# ## Norms", "# A new cell.\n\n# %% [markdown]\n# ## More\n#\n# ## Norms"
        repository.source.write_text(repository.source.read_text().replace(before, after))

    def builder(repository, monkeypatch):
        monkeypatch.setattr(build, "VERSION", build.VERSION + 1)

    def missing_learner(repository, monkeypatch):
        repository.learner.unlink()

    def missing_worked(repository, monkeypatch):
        repository.worked.unlink()

    return [source, body, docstring, hints, points, shown, figures, text, builder, missing_learner, missing_worked]


def outputs_of(path):
    if path.exists():
        return [cell["outputs"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_what_a_notebook_is_made_from_is_noticed_by_check_and_built_again(change, repository, monkeypatch, capsys):
    repository.source.write_text(SOURCE.replace("one = 1", "from minillama.plots import norm as plots\none = 1"))
    (repository.plots / "norm.py").write_text("# figures")
    built()
    assert build.check_current() == [] and main(["build", "--check"]) == 0
    assert capsys.readouterr().out == "all notebooks are current\n"
    change(repository, monkeypatch)
    faults = build.check_current()
    assert faults and all("not current; python -m minillama build 70" in fault for fault in faults)
    assert main(["build", "--check"]) == 1 and "not current" in capsys.readouterr().err
    assert pretend_to_run.runs == 1
    same_code = change.__name__ in ("docstring", "hints", "text", "missing_learner")
    before = outputs_of(repository.worked)
    assert built()[0] == f"70_toys: {'the same code, its outputs stay' if same_code else 'running ...'}"
    assert build.check_current() == [] and pretend_to_run.runs == (1 if same_code else 2)
    assert not same_code or (outputs_of(repository.worked) == before and any(before))


def test_a_notebook_whose_source_is_gone_is_noticed(repository):
    built()
    repository.source.rename(repository.source.with_name("70_games.py"))
    assert [fault for fault in build.check_current() if "70_toys.ipynb: has no source; delete it" in fault]


def test_a_chapter_is_named_by_its_number_and_an_unknown_one_is_told(repository):
    assert built(chapter="70")[0] == "70_toys: running ..."
    repository.source.rename(repository.source.with_name("07_toys.py"))
    assert [path.name for path in build.sources("7")] == [path.name for path in build.sources("07")] == ["07_toys.py"]
    with pytest.raises(build.BuildError, match="no source for chapter 99; there are 07_toys"):
        build.sources("99")


def test_no_sources_are_no_notebooks(repository):
    repository.source.unlink()
    assert build.sources() == [] and build.check_current() == []
    with pytest.raises(build.BuildError, match="there are none"):
        build.sources("01")


# What is refused -----------------------------------------------------------------------------------------------------


def edit(path, change):
    book = json.loads(path.read_text(encoding="utf-8"))
    change(book)
    path.write_text(json.dumps(book), encoding="utf-8")


HAND_EDITS = {
    "a text": lambda book: book["cells"][0].update(source=["# Mine"]),
    "an output": lambda book: book["cells"][1].update(outputs=[]),
    "an id": lambda book: book["cells"][1].update(id="mine"),
    "a kind": lambda book: book["cells"][0].update(cell_type="raw"),
    "a cell more": lambda book: book["cells"].append(book["cells"][0]),
    "a cell less": lambda book: book["cells"].pop(),
    "no mark of the builder": lambda book: book["metadata"].pop("minillama"),
}


@pytest.mark.parametrize("edition", ["learner", "worked"])
@pytest.mark.parametrize("what", HAND_EDITS)
def test_a_hand_edit_is_not_overwritten_and_the_message_names_the_source(what, edition, repository):
    built()
    path = getattr(repository, edition)
    edit(path, HAND_EDITS[what])
    before = bytes_of(repository)
    for new_source in (SOURCE, SOURCE + "\n# %%\nmore = 1\n"):
        repository.source.write_text(new_source, encoding="utf-8")
        with pytest.raises(build.BuildError) as raised:
            built()
        message = str(raised.value)
        assert str(path) in message and str(repository.source) in message and "--force" in message
        assert message in build.check_current()
        assert bytes_of(repository) == before
    built(force=True)
    assert build.check_current() == []


def test_a_notebook_that_was_only_opened_and_saved_is_no_hand_edit(repository):
    built()

    def saved_by_jupyter(book):
        book["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        book["metadata"]["language_info"]["version"] = "3.12.1"
        for cell in book["cells"]:
            cell["source"] = "".join(cell["source"])

    edit(repository.learner, saved_by_jupyter)
    assert build.check_current() == [] and built() == ["70_toys: current"]


@pytest.mark.parametrize("text", [
    "", "<<<<<<< HEAD", "[]", "{}", '{"cells": 5}', '{"cells": []}', '{"cells": [{}], "metadata": {}}',
    '{"cells": [], "metadata": []}', "\xff",
])  # fmt: skip
def test_a_file_that_is_no_notebook_is_named(text, repository):
    built()
    repository.learner.write_text(text, encoding="latin-1")
    with pytest.raises(build.BuildError, match=re.escape(str(repository.learner))):
        built()
    assert any(str(repository.learner) in fault for fault in build.check_current())
    assert repository.learner.read_text(encoding="latin-1") == text


def test_a_failed_build_leaves_the_old_notebooks_as_they_were(repository, monkeypatch):
    built()
    before = bytes_of(repository)
    repository.source.write_text(SOURCE + "\n# %%\nmore = 1\n", encoding="utf-8")

    def fail(book, source):
        raise build.BuildError("cell scale-5: failed")

    monkeypatch.setattr(build, "execute", fail)
    with pytest.raises(build.BuildError, match="scale-5"):
        built()
    assert bytes_of(repository) == before
    there = sorted(path.name for path in repository.learner.parent.iterdir())
    assert there == ["70_toys.ipynb", "README.md", "solutions", "source"]


def output_of(text, kind="stream", tags=()):
    cell = {"id": "norms-3", "metadata": {"tags": list(tags)} if tags else {}}
    output = {"output_type": "stream", "name": "stdout", "text": text}
    if kind == "data":
        output = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": text, "image/png": "aGVsbG8="}}
    return build._output(output, cell, Path("70_toys.py"))


@pytest.mark.parametrize("kind", ["stream", "data"])
@pytest.mark.parametrize("text, what", [
    ("loss 4.17438712345", "a number that is not rounded, 4.17438712345"), ("/root/x", "a path"), ("/Users/", "a path"),
    ("<object at 0x7f3a9c0d>", "an address, 0x7f3a9c0d"), ("saved in /tmp/x", "a path, /tmp/"), ("/home/x", "a path"),
])  # fmt: skip
def test_output_that_changes_between_machines_is_refused_with_its_cell(text, what, kind):
    with pytest.raises(build.BuildError, match=f"cell norms-3: prints {re.escape(what)}.*; mark it `varies`"):
        output_of(text, kind)
    assert output_of(text, kind, ["nbval-ignore-output"])
    assert output_of("loss 4.1744, 0x41, 1/2", kind)


def test_a_notebook_made_with_short_trainings_is_not_current(repository, monkeypatch):
    cells = build.parse(repository.source)
    full = build.fingerprint(repository.source, cells)
    monkeypatch.setenv("MINILLAMA_FAST", "1")
    assert build.fingerprint(repository.source, cells) != full


def test_a_path_of_this_machine_is_refused_in_every_cell():
    with pytest.raises(build.BuildError, match=f"cell norms-3: prints {re.escape(str(ROOT))}, a path of this machine"):
        output_of(f"in {ROOT}/minillama", tags=["nbval-ignore-output"])


@pytest.mark.parametrize("kind", ["stream", "data"])
def test_a_line_too_wide_to_read_is_refused_with_its_cell(kind):
    with pytest.raises(build.BuildError, match=r"cell norms-3: prints a line of 106 characters, at most 105 .*: word "):
        output_of("short\n" + "word " * 21 + "x\nshort", kind, ["nbval-ignore-output"])
    assert output_of("short\n" + "word " * 21, kind)


def test_what_a_cell_writes_to_stderr_is_refused_with_its_cell():
    output = {"output_type": "stream", "name": "stderr", "text": "UserWarning: no"}
    for metadata in ({}, {"tags": ["nbval-ignore-output"]}):
        with pytest.raises(build.BuildError, match="cell norms-3: wrote to stderr: UserWarning: no"):
            build._output(output, {"id": "norms-3", "metadata": metadata}, Path("70_toys.py"))


def test_pieces_of_a_stream_are_joined_and_texts_are_stored_by_line():
    pieces = [{"output_type": "stream", "name": name, "text": text} for name, text in
              (("stdout", "a"), ("stdout", "b\nc"), ("other", "d"))]  # fmt: skip
    joined = build._joined([*pieces, {"output_type": "display_data", "data": {}}])
    assert [output.get("text") for output in joined] == ["ab\nc", "d", None] and pieces[0]["text"] == "a"
    assert output_of("a\nb")["text"] == ["a\n", "b"]
    assert output_of("a\nb", "data")["data"] == {"text/plain": ["a\n", "b"], "image/png": "aGVsbG8="}


# The rules of a source -----------------------------------------------------------------------------------------------

BROKEN = {
    "no title": (("# # Toys", "# Toys"), "0 headings of level 1, expected one"),
    "two titles": (("# ## Norms", "# # Norms"), "2 headings of level 1, expected one"),
    "a level left out": (("# ### Scale", "# #### Scale"), "line 35: heading of level 4 after level 2"),
    "a check far from its exercise": (
        ('# %% check: 70.1\n', '# %%\nx = 1\n\n# %% check: 70.1\n'), "exercise 70.1 is not followed by its check"),
    "no check": (('# %% check: 70.1\ndouble = check("70.1", double)\n', ""), "70.1 is not followed by its check"),
    "a check alone": (("# %% exercise: 70.1\n", ""), "check 70.1 does not follow its exercise"),
    "another check": (('check("70.1", double)', 'check("70.1", doubled)'), 'expected double = check("70.1", double)'),
    "an exercise that is not there": (("exercise: 70.1", "exercise: 70.7"), "70.7 is not in the chapter's file"),
    "a check that is not there": (("check: 70.1", "check: 70.7"), "exercise 70.7 is not in the chapter's file"),
    "an exercise that is missing": (
        ('# %% exercise: 70.2\n\n# %% check: 70.2\nScale = check("70.2", Scale)\n', ""), "no cell for exercise 70.2"),
    "an exercise twice": (
        ("# %% show", '# %% exercise: 70.1\n\n# %% check: 70.1\ndouble = check("70.1", double)\n\n# %% show'),
        "asked for twice"),
    "an exercise with text in it": (("exercise: 70.1\n", "exercise: 70.1\nx = 1\n"), "the cell must be empty"),
    "a prediction without an end": (
        ("# %% reveal: growth\n", "# %%\n"), "predict: growth without a reveal: growth after it"),
    "a reveal without a prediction": (
        ("# %% predict: growth\n", "# %%\n"), "reveal: growth without a predict: growth before it"),
    "a reveal that reveals nothing": (("predicted(growth,", "print(growth,"), "reveal without predicted(growth, ...)"),
    "a reveal of something else": (("predicted(growth,", "predicted(grown,"), "reveal without predicted(growth, ...)"),
    "a prediction without choices": (('  # "x é 2" or "x + 2"', ""), "expected `name = answer  # what to choose from`"),
    "a prediction of two lines": (("growth = ", "x = 1\ngrowth = "), "expected `name = answer  # what to choose from`"),
    "a figure without an assert": (
        ('print("varies")', "plots.growth(1)"), "a figure without a sentence before it that says what to see"),
    "a figure without a sentence": (('print("varies")', "plots.growth(1)"), "a figure without an assert beside it"),
    "a long cell": (("one = 1\n", "".join(f"x{i} = 1\n" for i in range(20))), "22 lines in one cell, at most 15"),
    "no Python": (('print("one", one)', "print(one"), "'(' was never closed in line 4 of the cell"),
    "a part that is not there": (("norm.RMSNorm", "norm.Nothing"), 'show("norm.Nothing"): no such part'),
    "a link to nowhere": (("(README.md)", "(NOTHING.md)"), "the link NOTHING.md leads nowhere"),
    "a link to no chapter": (("(70_toys.ipynb)", "(71_toys.ipynb)"), "the link 71_toys.ipynb leads nowhere"),
    "a link to no heading": (("(#Norms)", "(#Forms)"), "no heading for the link #Forms"),
    "a list by accident": (("Write `double`.", "Write\n# 1. a double"), "a list begins within a paragraph"),
    "an image without a text": (("Write `double`.", "![](README.md)"), "an image without a text for those who can't"),
    "a solution in the text": (
        ("Write `double`.", "Write `twice_as_much_as_before = x + x`."), "gives away a line of the solution of 70.1"),
    "a solution in code": (("one = 1", "twice_as_much_as_before = x + x"), "gives away a line of the solution of 70.1"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_a_source_that_breaks_a_rule_is_refused_with_the_rule_and_the_place(rule, repository):
    (old, new), message = BROKEN[rule]
    assert SOURCE.count(old) >= 1
    repository.source.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(build.BuildError) as raised:
        built()
    assert message in str(raised.value) and re.match(r"70_toys.py, line \d+: ", str(raised.value))
    assert not repository.learner.exists() and str(raised.value) in build.check_current()


def test_a_source_that_keeps_the_rules_has_no_faults(repository):
    good = [
        ("Write `double`.", "Write `double`: see `code[1](x)` and `[a](b)`.\n#\n# ```python\n# # no heading\n# ```"),
        ("Write `double`.", "Write:\n#\n# 1. `double`\n#    of it\n# 2. nothing\n#\n# - else - \n#   than that"),
        ('print("varies")', 'plots.growth(1)\nassert one == 1'),
        ("# %% varies", "# %% [markdown]\n# A line, going up.\n\n# %% varies"),
        ("one = 1\n", "one = 1\n\n\ndef f():\n" + '    """' + "long\n" * 30 + '    """\n'),
        ("## Norms", "## Norms\n#\n# ### Deeper\n#\n# ## Up, and `code` in it\n#\n# [up](#Up,-and-code-in-it)"),
    ]  # fmt: skip
    for old, new in good:
        repository.source.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
        cells = build.parse(repository.source)
        faults = lint.lint(repository.source, cells, EXERCISES)
        assert not [fault for fault in faults if "figure" not in fault or "plots" not in new], (new, faults)


def test_all_rules_that_are_broken_are_told_at_once(repository):
    text = SOURCE.replace("# ### Scale", "# # Scale").replace("predicted(growth,", "print(growth,")
    repository.source.write_text(text, encoding="utf-8")
    with pytest.raises(build.BuildError) as raised:
        build.checked_cells(repository.source)
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("title", ["exercise 70.1", "answer: 70.1", "vary", "checks: 70.1"])
def test_an_unknown_title_of_a_cell_is_refused(title, repository):
    repository.source.write_text(SOURCE.replace("# %% varies", f"# %% {title}"), encoding="utf-8")
    with pytest.raises(build.BuildError, match=r'70_toys.py, line \d+: cell title ".*"; expected one of exercise'):
        built()


# With a kernel -------------------------------------------------------------------------------------------------------

KERNEL_SOURCE = SOURCE.replace("check, my_parts, predicted", "my_parts, predicted").replace(
    "one = 1", "check = lambda id, answer: print('right') or answer\none = 1\nimport torch\nfrom torch import nn"
)


@pytest.mark.slow
def test_a_chapter_is_run_and_its_outputs_are_stored(repository, monkeypatch):
    monkeypatch.setattr(build, "execute", real_execute)
    monkeypatch.setenv("MINILLAMA_GRADING", "1")  # not while building
    monkeypatch.setenv("MINILLAMA_PARTS", "nowhere")
    where = (
        "import os\ne = os.environ\n"
        "print(e.get('MINILLAMA_GRADING'), e['MINILLAMA_PARTS'] != 'nowhere', os.path.basename(os.getcwd()))"
    )
    repository.source.write_text(KERNEL_SOURCE.replace('print("varies")', where), encoding="utf-8")
    built()
    worked = cells_of(repository.worked)
    assert worked["toys-2"]["outputs"][0]["text"] == ["one 1\n"] and worked["toys-2"]["execution_count"] == 1
    assert worked["check-70-2"]["outputs"][0]["text"] == ["right\n"]
    assert worked["norms-3"]["outputs"][0]["text"] == ["None True notebooks\n"]
    assert worked["scale-2"]["outputs"][0]["data"]["text/markdown"][0] == "`minillama/norm.py`\n"
    assert cells_of(repository.learner)["scale-4"]["outputs"] == worked["scale-4"]["outputs"]
    before = bytes_of(repository)
    assert built() == ["70_toys: current"] and bytes_of(repository) == before
    built(force=True)
    assert bytes_of(repository) == before


@pytest.mark.slow
@pytest.mark.parametrize("code, message", [
    ("1 / 0", "ZeroDivisionError"), ("import os; os._exit(1)", "died"),
    ("import sys; print('oh', file=sys.stderr)", "wrote to stderr: oh"),
    ("print(1 / 3)", "prints a number that is not rounded"),
])  # fmt: skip
def test_a_cell_that_fails_is_named(code, message, repository, monkeypatch):
    monkeypatch.setattr(build, "execute", real_execute)
    repository.source.write_text(f"# %% [markdown]\n# # Toys\n\n# %%\nx = 1\n\n# %%\n{code}\n", encoding="utf-8")
    monkeypatch.setattr(build, "exercises_of", lambda chapter: {})
    with pytest.raises(build.BuildError, match=rf"(?is)70_toys.py, cell toys-3: .*{message}") as raised:
        built()
    assert "\x1b" not in str(raised.value) and not repository.worked.exists()


# Stubs ---------------------------------------------------------------------------------------------------------------


def stub_of(text, monkeypatch, given=("__init__",)):
    monkeypatch.setattr(stubs, "solution", lambda exercise: text)
    name = re.search(r"^(?:async )?(?:def|class) (\w+)", text, re.M)[1]
    return stub(SimpleNamespace(id="70.1", name=name, given=given))


SIGNATURES = [
    "def f(x):", "def f():", "def f(x: dict[str, int] = {'a:b': 1}, *args, key=lambda n: n, **kw) -> dict[str, int]:",
    "def f(\n    x,\n    y=(1, 2),  # two: of them\n):", "def f(\n    x: int,\n) -> tuple[\n    int, int\n]:",
    "async def f(x):", "def f(x):  # what: it does", "def f(x) -> 'a: b':", "@cache\ndef f(x):",
    "@wraps(\n    g\n)\n@cache\ndef f(größe=':'):",
]  # fmt: skip
DOCSTRINGS = [
    "", '"""One line."""', '"""Two\n\n    lines: one\n    """', 'r"""Raw \\d."""', "'''Single'''  # comment",
    '"""A""" "B"',
]  # fmt: skip
BODIES = [
    ["secret = 1", "return secret"], ["# a secret", "return 1  # secret"], ["return (\n        'secret'\n    )"],
    ["if x:", "    return 'secret'", "# secret: or else"], ['"secret"', "pass"],
    ["def g():", '    """secret"""', "return g"],
]  # fmt: skip


@pytest.mark.parametrize("signature, docstring", itertools.product(SIGNATURES, DOCSTRINGS))
def test_a_stub_keeps_signature_and_docstring_and_nothing_else(signature, docstring, monkeypatch):
    for body in BODIES:
        lines = [line for line in [docstring, *body] if line]
        text = signature + "\n" + "".join(f"    {line}\n" for line in lines)
        if not docstring and body[0].startswith('"'):
            continue  # that would be a docstring
        made = stub_of(text, monkeypatch)
        (old,), (new,) = ast.parse(text).body, ast.parse(made).body
        assert ast.get_docstring(new) == ast.get_docstring(old) and "secret" not in made
        old.body = new.body  # signature, decorators and name are the same
        assert ast.dump(old) == ast.dump(new)
        assert ast.unparse(new.body[-1]) == "raise NotImplementedError('your turn')"
        assert len(new.body) == 1 + bool(docstring) and made.startswith(signature)


@pytest.mark.parametrize("text", [
    "def f(x): return 'secret'\n", "def f(x): 'Doc.'; return 'secret'\n", "def f(x): y = 'secret'; return y\n",
    "def f(\n    x,\n): return 'secret'\n", "def f(x): return {'secret': 1}[':']\n",
])  # fmt: skip
def test_a_body_on_the_line_of_the_signature_goes_too(text, monkeypatch):
    made = stub_of(text, monkeypatch)
    (new,) = ast.parse(made).body
    assert "secret" not in made and made.splitlines()[-1] == f"    {TODO}" and new.args.args[0].arg == "x"
    assert ast.get_docstring(new) == ast.get_docstring(ast.parse(text).body[0])


CLASS = '''\
@final
class C(nn.Module):
    """What it is."""

    size = 3

    def __init__(self, n: int):
        super().__init__()
        self.n = n  # given

    @property
    def width(self):
        """How wide."""
        return "secret" * self.n
        # or: a secret

    # about forward

    def forward(self, x): return "secret"
    @staticmethod
    def other(
        x=1,
    ):
        # secret
        return "secret"

    def helper(self):
        return "given helper"
'''


def test_a_class_keeps_its_given_methods_and_loses_the_bodies_of_the_others(monkeypatch):
    assert (
        stub_of(CLASS, monkeypatch, given=("__init__", "helper"))
        == f'''\
@final
class C(nn.Module):
    """What it is."""

    size = 3

    def __init__(self, n: int):
        super().__init__()
        self.n = n  # given

    @property
    def width(self):
        """How wide."""
        {TODO}

    # about forward

    def forward(self, x):
        {TODO}
    @staticmethod
    def other(
        x=1,
    ):
        {TODO}

    def helper(self):
        return "given helper"
'''
    )


def test_what_leaves_nothing_to_write_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="nothing is left to write"):
        stub_of(CLASS, monkeypatch, given=("__init__", "width", "forward", "other", "helper"))
    monkeypatch.setattr(stubs, "solution", lambda exercise: "f = 3\n")
    with pytest.raises(ValueError, match="neither a function nor a class"):
        stub(SimpleNamespace(id="70.1", name="f", given=()))


def test_hidden_lines_are_those_of_the_bodies_that_tell_something():
    assert hidden_lines(DOUBLE) == ["twice_as_much_as_before = x + x", "return twice_as_much_as_before"]
    assert hidden_lines(SCALE) == ["return torch.multiply(x, self.weight.view(1, -1))"]


# Exercises -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["7.1", "07", "07.", ".1", "071.1", "ab.1", "07.a", ""])
def test_an_exercise_has_an_id_of_chapter_and_number(id):
    with pytest.raises(ValueError, match='expected chapter and number, such as "07.2"'):
        Exercise(id, double, hints=HINTS)


def test_an_exercise_has_three_hints():
    with pytest.raises(ValueError, match="2 hints, expected three"):
        Exercise("07.1", double, hints=HINTS[:2])


def test_an_exercise_collects_its_checks_mistakes_and_alternatives():
    made = Exercise("07.1", double, hints=HINTS)
    made.check("this", points=3)(len)
    made.check("that")(max)
    assert (
        made.mistake("""Two
        lines.""")(min)
        is min
    )
    made.alternative("so")(sum)
    assert made.points == 4 and made.name == "double" and made.chapter == "07"
    assert (made.mistakes[0].text, made.mistakes[0].answer, made.alternatives[0].text) == ("Two lines.", min, "so")


@pytest.fixture
def chapter_file(monkeypatch, tmp_path):
    """Write a chapter's file of exercises, in a course of its own."""
    from minillama.course import exercises

    original = functools.cache(exercise_functions["exercises_of"].__wrapped__)
    monkeypatch.setattr(exercise, "exercises_of", original)
    monkeypatch.setattr(exercise, "chapters", exercise_functions["chapters"].__wrapped__)
    monkeypatch.setattr(exercises, "__path__", [str(tmp_path)])

    def write(text):
        setup = "from minillama.course.exercise import Exercise\nH = ('', '', '')\n"
        (tmp_path / "ch88_toys.py").write_text(setup + text)
        monkeypatch.delitem(sys.modules, "minillama.course.exercises.ch88_toys", raising=False)
        return original

    return write


exercise_functions = {"exercises_of": exercise.exercises_of, "chapters": exercise.chapters}


def test_exercises_are_found_by_their_ids_in_order(chapter_file):
    chapter_file("a = Exercise('88.10', len, hints=H)\nb = Exercise('88.2', max, hints=H)\n")
    assert list(exercise.exercises_of("88")) == ["88.2", "88.10"] and find("88.10").answer is len
    with pytest.raises(ValueError, match=r'no exercise "88.3"; chapter 88 has 88.2, 88.10'):
        find("88.3")
    with pytest.raises(ValueError, match='no exercises for chapter "89"; there are 88'):
        find("89.1")
    with pytest.raises(ValueError, match='no exercise "88.1"'):
        find(88.10)  # type: ignore[arg-type]


@pytest.mark.parametrize("text, message", [
    ("a = Exercise('88.1', len, hints=H)\nb = Exercise('88.1', max, hints=H)\n", "two exercises have the same id"),
    ("a = Exercise('87.1', len, hints=H)\n", "exercise 87.1 stands in the file of chapter 88"),
])  # fmt: skip
def test_a_file_of_exercises_with_wrong_ids_is_refused(text, message, chapter_file):
    chapter_file(text)
    with pytest.raises(ValueError, match=message):
        exercise.exercises_of("88")


def test_parts_of_the_package_are_found_by_name():
    assert package_part("norm.RMSNorm") is norm.RMSNorm and package_part("course.exercise.Exercise") is Exercise
    with pytest.raises(ValueError, match="no such part"):
        package_part("norm.Nothing")


def test_solutions_inside_of_functions_are_moved_to_the_margin():
    def inner():
        return 1

    assert solution(Exercise("07.1", inner, hints=HINTS)) == "def inner():\n    return 1\n"
