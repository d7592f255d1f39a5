"""What a learner keeps: their own text, that runs alone, from which a model is made; and what they read on the way."""

import linecache
import multiprocessing
import os
import subprocess
import sys
import types
from itertools import count
from pathlib import Path

import pytest
import torch

import minillama.course
from minillama import norm
from minillama.cli import main
from minillama.config import Config
from minillama.course import check, exercise, hint, keep, my_parts, predicted, show
from minillama.course.exercise import Exercise, solution
from minillama.llama import Llama

ROOT = Path(__file__).resolve().parents[1]
numbers = count()


def answer_to(id, answer):
    made = Exercise(id, answer, hints=("think", "look", "write"))
    made.check("anything", points=3)(lambda answer: None)
    return made


def double(x):
    return 2 * x


def chapter_of_parts():
    from minillama.attention import attend, causal_mask
    from minillama.block import Block

    parts = (norm.LayerNorm, norm.RMSNorm, Block, attend, causal_mask, double)
    return {f"71.{i}": answer_to(f"71.{i}", part) for i, part in enumerate(parts, 1)}


EXERCISES = chapter_of_parts()
LAYERNORM, RMSNORM, BLOCK, ATTEND, MASK, DOUBLE = EXERCISES.values()


def course_of_toys(exercise, keep):
    """What the fixture below does, in another process."""
    exercise.exercises_of = keep.exercises_of = lambda chapter: EXERCISES
    keep.chapters = lambda: {"71": "toys"}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A course of one chapter, and a learner's empty folder."""
    for module in (exercise, keep):
        monkeypatch.setattr(module, "exercises_of", lambda chapter: EXERCISES)
    monkeypatch.setattr(keep, "chapters", lambda: {"71": "toys"})
    monkeypatch.setenv("MINILLAMA_PARTS", str(tmp_path / "parts"))
    monkeypatch.delenv("MINILLAMA_GRADING", raising=False)
    monkeypatch.setattr(minillama.course, "_hints_given", {})
    return tmp_path / "parts"


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's memory: notebook(cell) runs a cell in it, as ipykernel does, and gives all its names."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))

    def run(cell):
        name = f"/tmp/ipykernel_{os.getpid()}/{next(numbers)}.py"
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec", dont_inherit=True), vars(module))
        return vars(module)

    vars(module).update(check=check, keep=keep, get_ipython=lambda: None)
    return run


def kept_text(exercise=DOUBLE):
    return keep.path_of(exercise).read_text(encoding="utf-8")


def alone(code):
    """What a fresh process prints, with the kept parts there and the course as in these tests."""
    setup = (
        "from minillama.course import exercise, keep\nfrom tests.test_course_keep import course_of_toys\n"
        "course_of_toys(exercise, keep)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", setup + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


# What is kept --------------------------------------------------------------------------------------------------------


def test_a_right_answer_is_kept_as_its_text(notebook, folder):
    cell = "# My own.\ndef double(x):\n    # adding is enough\n    return x + x\n"
    names = notebook(cell)
    check("71.6", names["double"])
    assert kept_text() == cell
    assert keep.kept("71.6")(4) == 8 and keep.kept("71.6").__module__ == "my_parts"
    assert sorted(path.name for path in folder.iterdir()) == ["71_6_double.py", "progress.txt"]


def test_a_wrong_or_missing_answer_is_not_kept(notebook, folder):
    check("71.6", None)
    assert not folder.exists() and keep.kept("71.6") is None


CELLS = {
    "module aliases and from-imports": (
        "import torch.nn.functional as F, math\nfrom torch import nn\nfrom collections.abc import Callable as C\n",
        "def double(x, f: C = None):\n    return math.floor(nn.Identity()(x)) * 2 if F.relu else 0\n",
        ["import math", "import torch.nn.functional as F", "import torch.nn as nn",
         "from collections.abc import Callable as C"],
    ),
    "constants": (
        "import math, torch\nTWO = 2\nHALF = 0.5\nNAMES = ('a', 1)\nLOW = -math.inf\nTABLE = {'x': [1]}\n"
        "D = torch.float16\nNO = math.nan\nfrom minillama.bpe import Pair\n",
        "def double(x):\n    y: Pair = TWO * x * (HALF + HALF)\n"
        "    return y if NAMES and TABLE and x > LOW and D and NO and Pair else 0\n",
        ["TWO = 2", "HALF = 0.5", "NAMES = ('a', 1)", 'LOW = float("-inf")', "TABLE = {'x': [1]}",
         "from torch import float16 as D", 'NO = float("nan")', "Pair = tuple[int, int]"],
    ),
    "a function of torch by its own name": (
        "from torch import relu\nfrom torch.nn.functional import scaled_dot_product_attention as sdpa\n",
        "def double(x):\n    return 2 * float(relu(__import__('torch').tensor(float(x)))) if sdpa else 0\n",
        ["from torch import relu", "from torch._C._nn import scaled_dot_product_attention as sdpa"],
    ),
    "a part of the package, lent": (
        "from minillama.norm import RMSNorm\n",
        "def double(x):\n    return 2 * x if RMSNorm(3) else 0\n",
        ["from minillama.norm import RMSNorm"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CELLS)
def test_what_an_answer_takes_from_other_cells_becomes_imports_and_constants(what, notebook, capsys):
    before, cell, imports = CELLS[what]
    notebook(before)
    keep.keep(DOUBLE, notebook(cell)["double"], lambda kept: kept(3) == 6)
    assert capsys.readouterr().err == ""
    head, _, body = kept_text().partition("\n\n\n")
    assert body == cell and set(imports) <= set(head.splitlines())


def test_a_cell_is_kept_without_what_it_does_besides(notebook):
    notebook("import math, torch")
    names = notebook(
        "\n".join([
            "# A helper first.",
            "FACTOR = 2",
            "UNUSED = [torch.rand(3)]",
            "def helper(x):",
            "    y = x",
            "    return FACTOR * y",
            "",
            "get_ipython()",
            "print(helper(3))",
            "def double(x):",
            "    return helper(x) if other.check(x) else 0",
            "class other:",
            "    check = staticmethod(lambda x: True)",
            "double.note = 'attributes are kept'",
            'double = check("71.6", double)',
        ])
    )  # fmt: skip
    text = kept_text()
    assert text.startswith("# A helper first.\nFACTOR = 2\ndef helper(x):") and "UNUSED" not in text
    assert "print" not in text and 'check("' not in text and "get_ipython" not in text and "torch" not in text
    assert keep.kept("71.6")(4) == 8 and keep.kept("71.6").note == "attributes are kept" and names["double"](1) == 2


@pytest.mark.parametrize("cell", [
    "UNUSED = 2; helper = lambda x: 2 * x\ndef double(x): return helper(x)\n",
    "def double(x):\n    def check(y): return 2 * y\n    return check(x)\n",
    "def double(x):\n    return (x * 3\n        % (x * 3 + 1)\n        - x)\n",  # a line that begins like a magic
    "double = lambda x: 2 * x\n",
    "def mine(x):\n    return 2 * x\ndouble = mine\n",
    "if True:\n    def double(x):\n        return 2 * x\n",
    "import functools, torch\n@torch.no_grad()\ndef double(x, y=1, *, z=2):\n    return z * x\n",
    "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(x): return 2 * f(x)\n    return g\n"
    "@twice\ndef double(x):\n    return x\n",
    "from __future__ import annotations\ndef double(x: Undefined) -> Neither:\n    return 2 * x\n",
    "get_ipython().run_cell_magic('time', '', 'def double(x):\\n    return 2 * x\\n')\ndef double(x): return 2 * x\n",
    "def double(x):\n    return 2 * x\ndef double(x):\n    return x + x\n",
    "def double(x):\n    return x and 2 + double(x - 1)\n",
    "class Double:\n    def __new__(cls, x): return 2 * x\ndouble = Double\n",
])  # fmt: skip
def test_answers_of_many_forms_are_kept_and_work_alone(cell, notebook, capsys):
    notebook("class get:\n    def run_cell_magic(*args): pass\nget_ipython = get\n")
    keep.keep(DOUBLE, notebook(cell)["double"], lambda kept: kept(4) == 8)
    assert capsys.readouterr().err == "" and keep.kept("71.6")(5) == 10


def test_an_answer_of_a_cell_with_a_magic_is_found_in_the_cells(notebook):
    inside = "%%time\n# timed\ndef double(x):\n    return 2 * x\n"
    outer = f"get_ipython().run_cell_magic('time', '', {inside.partition(chr(10))[2]!r})\n"
    notebook("class get:\n    def run_cell_magic(*args): pass\nget_ipython = get\n")
    notebook(outer)
    names = {}
    exec(compile(inside.partition("\n")[2], "<timed exec>", "exec"), {"__name__": "__main__"}, names)
    keep.keep(DOUBLE, names["double"])
    assert kept_text() == "# timed\ndef double(x):\n    return 2 * x\n"


def test_a_class_keeps_its_decorators_defaults_and_super(notebook):
    notebook("import torch\nfrom torch import nn, Tensor\nEPS = 1e-5")
    cell = (
        "class RMSNorm(nn.Module):\n    '''Mine.'''\n\n"
        "    def __init__(self, d_model, eps=EPS):\n        super().__init__()\n"
        "        self.eps = eps\n        self.weight = nn.Parameter(torch.ones(d_model))\n\n    @property\n"
        "    def size(self):\n        return len(self.weight)\n\n    def forward(self, x: Tensor) -> Tensor:\n"
        "        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight\n"
    )
    keep.keep(RMSNORM, notebook(cell)["RMSNorm"])
    mine = keep.kept("71.2")(3)
    x = torch.randn(2, 3)
    torch.testing.assert_close(mine(x), norm.RMSNorm(3)(x))
    assert mine.size == 3 and "EPS = 1e-05" in kept_text(RMSNORM)


@pytest.mark.parametrize("cell", [
    "@torch.no_grad()\ndef double(x):\n    return 2 * whole(x)\n",
    "class double:\n    relu = F.silu\n    def __new__(cls, x):\n        return 2 * whole(x)\n",
])  # fmt: skip
def test_what_decorators_and_borrowed_functions_use_is_not_taken_for_the_learners(cell, notebook, capsys):
    notebook("import torch\nimport torch.nn.functional as F\nfrom math import floor as whole")
    keep.keep(DOUBLE, notebook(cell)["double"], lambda kept: kept(4) == 8)
    assert capsys.readouterr().err == "" and "from math import floor as whole\n" in kept_text()


def test_a_class_without_methods_of_its_own_is_found_by_its_name(notebook):
    notebook("from torch import nn")
    notebook("class RMSNorm(nn.RMSNorm):\n    def __init__(self, n, eps=0): super().__init__(n, eps)\n")
    keep.keep(RMSNORM, notebook("class RMSNorm(nn.RMSNorm):\n    eps = 1e-5\n")["RMSNorm"])
    assert kept_text(RMSNORM) == "import torch.nn as nn\n\n\nclass RMSNorm(nn.RMSNorm):\n    eps = 1e-5\n"


def test_a_function_of_torch_as_an_answer_is_kept_as_an_import_and_left_as_it_is():
    keep.keep(RMSNORM, torch.nn.RMSNorm)
    assert kept_text(RMSNORM) == "from torch.nn.modules.normalization import RMSNorm\n"
    assert keep.kept("71.2") is torch.nn.RMSNorm and torch.nn.RMSNorm.__module__ == "torch.nn.modules.normalization"


def test_a_helper_of_another_cell_gives_a_note_and_nothing_is_kept(notebook, capsys, folder):
    notebook("def helper(x):\n    return 2 * x\n")
    names = notebook("def double(x):\n    return helper(x)\n")
    assert check("71.6", names["double"]) is names["double"]
    said = capsys.readouterr()
    assert said.out == "✓ 71.6 double: 3 of 3\n"  # one line, whatever comes of keeping
    assert "double is right, but was not kept among your parts: it uses helper from another cell; put" in said.err
    assert not keep.path_of(DOUBLE).exists()


@pytest.mark.parametrize("before, note", [
    ("import torch\nTABLE = torch.ones(3)", "it uses TABLE, which is made in another cell"),
    ("TABLE = 'x' * 5000", "it uses TABLE"), ("TABLE = object()", "it uses TABLE"),
    ("TABLE = [object()]", "it uses TABLE"),
    ("TABLE = type('T', (int,), {'__repr__': lambda self: 1 / 0})(3)", "ZeroDivisionError"),
])  # fmt: skip
def test_what_no_line_can_make_again_gives_a_note(before, note, notebook, capsys):
    notebook(before)
    keep.keep(DOUBLE, notebook("def double(x):\n    return 2 * x if TABLE is not None else 0\n")["double"])
    assert note in capsys.readouterr().err and not keep.path_of(DOUBLE).exists()


@pytest.mark.parametrize("answer", [len, max.__call__, type("triple", (), {}), eval("lambda x: x")])
def test_answers_without_a_text_give_a_note(answer, capsys):
    keep.keep(DOUBLE, answer)
    assert "not kept among your parts" in capsys.readouterr().err


def test_the_packages_own_is_not_kept_as_the_learners(capsys):
    keep.keep(RMSNORM, norm.RMSNorm)
    assert "the package's own, not yours" in capsys.readouterr().err and not keep.path_of(RMSNORM).exists()


def test_an_answer_that_is_not_right_alone_is_not_kept(notebook, capsys):
    names = notebook("def double(x):\n    return globals()['helper'](x)\n")
    keep.keep(DOUBLE, names["double"], lambda kept: kept(1) == 2)
    assert "KeyError" in capsys.readouterr().err
    keep.keep(DOUBLE, names["double"], lambda kept: False)
    assert "gives something else" in capsys.readouterr().err and not keep.path_of(DOUBLE).exists()


def test_check_runs_the_kept_text_before_it_is_kept(notebook, capsys, monkeypatch):
    monkeypatch.setattr(DOUBLE, "checks", [exercise.Check("it", lambda answer: keep.source_of and answer(3))])
    names = notebook("def double(x):\n    return globals()['helper'](x)\n")
    names["helper"] = lambda x: 2 * x
    assert check("71.6", names["double"]) is names["double"]
    assert "gives something else" in capsys.readouterr().err and not keep.path_of(DOUBLE).exists()


def test_a_folder_that_cannot_be_written_gives_a_note_and_no_error(notebook, capsys, folder):
    folder.write_text("a file where the folder should be")
    names = notebook("def double(x):\n    return 2 * x\n")
    assert check("71.6", names["double"]) is names["double"]
    said = capsys.readouterr()
    assert said.out == "✓ 71.6 double: 3 of 3\n" and "could not be written" in said.err and "not kept" in said.err


def test_an_answer_that_uses_another_kept_part_finds_it(notebook):
    keep.keep(ATTEND, notebook("def attend(q, k, v, mask=None):\n    return v + 1\n")["attend"])
    keep.keep(DOUBLE, notebook("def double(x):\n    return attend(0, 0, x) + x - 1\n")["double"])
    assert kept_text() == (
        'from minillama.course.keep import part\n\nattend = part("71.4")\n\n\n'
        "def double(x):\n    return attend(0, 0, x) + x - 1\n"
    )
    assert keep.kept("71.6")(4) == 8
    keep.path_of(ATTEND).unlink()  # then the package's
    assert keep.kept("71.6").__globals__["attend"] is ATTEND.answer


def test_another_version_of_a_kept_part_is_not_taken_for_it(notebook, capsys):
    keep.keep(ATTEND, notebook("def attend(q, k, v, mask=None):\n    return v + 1\n")["attend"])
    notebook("def attend(q, k, v, mask=None):\n    return v + 2\n")
    keep.keep(DOUBLE, notebook("def double(x):\n    return attend(0, 0, x) + x - 2\n")["double"])
    assert "it uses attend from another cell" in capsys.readouterr().err


def test_two_parts_that_use_each_other_give_a_note(notebook, capsys):
    keep.keep(ATTEND, notebook("def attend(q, k, v, mask=None):\n    return v\n")["attend"])
    keep.keep(DOUBLE, notebook("def double(x):\n    return 2 * x\n")["double"])
    notebook("def attend(q, k, v, mask=None):\n    return double(v)\n")
    keep.keep(DOUBLE, notebook("def double(x):\n    return attend(0, 0, x)\n")["double"])
    assert "from another cell" in capsys.readouterr().err


def test_the_worked_edition_never_replaces_what_somebody_wrote(notebook):
    names = notebook(solution(DOUBLE))
    keep.keep(DOUBLE, names["double"])
    assert kept_text() == solution(DOUBLE)  # nothing was there
    mine = notebook("def double(x):\n    return x + x\n")["double"]
    keep.keep(DOUBLE, mine)
    assert "x + x" in kept_text()
    keep.keep(DOUBLE, notebook('def double(x: int) -> int:\n    """Worked."""\n\n    return 2 * x  # so\n')["double"])
    assert "x + x" in kept_text()
    keep.keep(DOUBLE, notebook("def double(x):\n    return x * 2\n")["double"])
    assert "x * 2" in kept_text()


@pytest.mark.slow
def test_a_kept_part_runs_in_a_fresh_process_and_reads_back_in_utf8(notebook):
    notebook("import math\n")
    keep.keep(ATTEND, notebook("def attend(q, k, v, mask=None):\n    return v + 1\n")["attend"])
    keep.keep(DOUBLE, notebook("def double(x):  # größer\n    return attend(0, 0, x) + math.floor(x) - 1\n")["double"])
    assert alone("print(keep.kept('71.6')(4))").strip() == "8"
    file = str(keep.path_of(DOUBLE))
    assert alone(f"exec(open({file!r}, encoding='utf-8').read()); print(double(5))").strip() == "10"


@pytest.mark.parametrize("text, error", [
    ("def double(x) return", "SyntaxError"), ("import nothing_of_it", "ModuleNotFoundError"), ("x = 1", "NameError"),
    ("1 / 0", "ZeroDivisionError"), ("raise SystemExit(3)", "SystemExit"), (b"\xff\xfe\0", "UnicodeDecodeError"),
])  # fmt: skip
def test_a_kept_file_that_no_longer_runs_is_named(text, error, folder):
    folder.mkdir()
    keep.path_of(DOUBLE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=error) as raised:
        keep.kept("71.6")
    assert str(keep.path_of(DOUBLE)) in str(raised.value) and "mend it, or delete the file" in str(raised.value)


# my_parts ------------------------------------------------------------------------------------------------------------

CONFIG = Config(vocab_size=11, d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=12)


def keep_everything(notebook):
    notebook("import math, torch\nfrom torch import Tensor, nn\nfrom minillama.config import Config\n"
             "from minillama.block import Parts\n")  # fmt: skip
    for part in (LAYERNORM, RMSNORM, BLOCK, ATTEND, MASK):
        keep.keep(part, notebook(solution(part) + "\nMARK = 'own'\n")[part.name])


def test_my_parts_is_the_packages_when_nothing_is_there(capsys):
    parts = my_parts()
    assert parts.names() == {"norm": "RMSNorm", "feedforward": "SwiGLU", "attention": "Attention", "position": "RoPE",
                             "block": "Block"}  # fmt: skip
    assert capsys.readouterr().out.count("minillama: ") == 5


def test_a_model_of_the_learners_parts_gives_what_the_packages_gives(notebook, capsys):
    keep_everything(notebook)
    assert sorted(path.name for path in keep.folder().glob("*.py")) == [
        "71_1_LayerNorm.py", "71_2_RMSNorm.py", "71_3_Block.py", "71_4_attend.py", "71_5_causal_mask.py"
    ]  # fmt: skip
    capsys.readouterr()
    parts = my_parts()
    assert capsys.readouterr().out.splitlines() == [
        "norm         yours: RMSNorm", "feedforward  minillama: SwiGLU", "attention    yours: Attention(attend=attend)",
        "position     minillama: RoPE", "block        yours: Block",
    ]  # fmt: skip
    mine, reference = Llama(CONFIG, parts), Llama(CONFIG)
    for layer in mine.layers:
        assert type(layer).__module__ == type(layer.attention_norm).__module__ == "my_parts"
        assert layer.attention.attend.__module__ == "my_parts"
    mine.load_state_dict(reference.state_dict())
    tokens = torch.randint(11, (2, 5))
    torch.testing.assert_close(mine(tokens), reference(tokens))


def test_a_broken_part_is_named_when_the_model_is_made(notebook, folder):
    folder.mkdir()
    keep.path_of(RMSNORM).write_text("class RMSNorm(nn.Module): pass")
    with pytest.raises(ValueError, match=r"71_2_RMSNorm.py: NameError"):
        my_parts()


def test_the_folder_is_the_chosen_one_or_that_of_the_repository(monkeypatch, tmp_path):
    assert keep.folder() == tmp_path / "parts"
    monkeypatch.setenv("MINILLAMA_PARTS", "~/mine")
    assert keep.folder() == Path.home() / "mine"
    monkeypatch.delenv("MINILLAMA_PARTS")
    assert keep.folder() == ROOT / "my_parts"
    monkeypatch.chdir(ROOT / "notebooks" / "solutions")
    assert keep.folder() == ROOT / "my_parts" / "worked"


# progress ------------------------------------------------------------------------------------------------------------


def test_progress_shows_what_passed_what_was_tried_and_what_is_open(capsys):
    keep.record(RMSNORM, 3)
    keep.record(BLOCK, 1)
    keep.record(MASK, 0)
    assert main(["progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "71 toys: 4 of 18 points"
    assert lines[1:7] == [
        "   ○ 71.1 LayerNorm                    3",
        "   ✓ 71.2 RMSNorm                      3 of 3",
        "   ✗ 71.3 Block                        1 of 3",
        "   ○ 71.4 attend                       3",
        "   ✗ 71.5 causal_mask                  0 of 3",
        "   ○ 71.6 double                       3",
    ]
    assert lines[-1].startswith("4 of 18 points.") and str(keep.folder()) in lines[-1]


def test_the_best_result_counts_and_worse_ones_leave_no_line(folder):
    for points in (1, 3, 2, 3, 0):
        keep.record(DOUBLE, points)
    assert keep.results_so_far() == {"71.6": 3} and len((folder / "progress.txt").read_text().splitlines()) == 2


def test_of_two_lines_of_one_exercise_the_better_one_counts(folder):
    folder.mkdir()  # two processes may have written at once
    (folder / "progress.txt").write_text("71.6 double: 3 of 3 points\n71.6 double: 1 of 3 points\n")
    assert keep.results_so_far() == {"71.6": 3}


def test_more_points_than_there_are_now_count_as_all(capsys):
    keep.record(answer_to("71.6", double), 3)
    DOUBLE.checks[0].__dict__["points"] = 2
    try:
        assert "✓ 71.6 double                       2 of 2" in keep.progress()
    finally:
        DOUBLE.checks[0].__dict__["points"] = 3


@pytest.mark.parametrize("damage", [
    b"", b"\xff\xfe\0garbage", b'{"71.2": [3', b"71.3 Block: 1 of", b"71.3 Block: x of 3 points\n",
])  # fmt: skip
def test_a_damaged_record_loses_no_other_line(damage, folder):
    keep.record(RMSNORM, 3)
    with open(folder / "progress.txt", "ab") as file:
        file.write(damage)
    keep.record(MASK, 2)
    assert keep.results_so_far() == {"71.2": 3, "71.5": 2}


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_two_processes_that_record_at_the_same_time_lose_nothing():
    def write(chapter):
        for i in range(100):
            keep.record(Exercise(f"{chapter}.{i}", double, hints=("", "", "")), i % 9)

    processes = [multiprocessing.get_context("fork").Process(target=write, args=[chapter]) for chapter in (10, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert keep.results_so_far() == {f"{chapter}.{i}": i % 9 for chapter in (10, 20) for i in range(100)}


def test_check_records_what_was_tried_and_not_what_was_not(capsys):
    check("71.6", None)
    assert keep.results_so_far() == {}
    DOUBLE.checks.append(exercise.Check("more", lambda answer: answer.nothing))
    try:
        with pytest.raises(minillama.course.CheckFailed):
            check("71.6", lambda x: x)
    finally:
        DOUBLE.checks.pop()
    assert keep.results_so_far() == {"71.6": 3}


# hint, predicted, show -----------------------------------------------------------------------------------------------


def test_hints_come_one_after_the_other_and_the_last_one_stays(capsys):
    for _ in range(4):
        hint("71.6")
    hint("71.5")
    hint("71.6", 1)
    hint("71.6")
    assert capsys.readouterr().out.splitlines() == [
        "Hint 1 of 3: think", "Hint 2 of 3: look", "Hint 3 of 3: write", "Hint 3 of 3: write", "Hint 1 of 3: think",
        "Hint 1 of 3: think", "Hint 2 of 3: look",
    ]  # fmt: skip
    for step in (0, 4, -1):
        with pytest.raises(ValueError, match="there are 1 to 3"):
            hint("71.6", step)


@pytest.mark.parametrize("guess, truth, within, said", [
    (..., 3, 1, "The answer: 3. You made no prediction"), (None, 3, 1, "You made no prediction"),
    (3, 3, 1, "You said 3; the answer: 3. Right."), (4, 3, 1, "You said 4; the answer: 3. Good to know"),
    (1_000, 3_000, 3, "You said 1,000; the answer: 3,000. Right."), (999, 3_000, 3, "Good"), (9_000, 3_000, 3, "Right"),
    (9_001, 3_000, 3, "Good"), (-2, 2, 5, "Good"), (-2, -3, 2, "Right"), (0, 3, 5, "Good"), (0, 0, 5, "Right"),
    (1, 0, 5, "Good"), ("up", "up", 1, "You said up; the answer: up. Right."), ("up", "down", 1, "Good"),
    ("up", 3, 2, "Good"), (4.17, 4.174387, 1.01, "You said 4.17; the answer: 4.174. Right."), (True, True, 1, "Right"),
    (4, torch.tensor(4.0), 1, "You said 4; the answer: 4. Right."), (3, torch.tensor(4), 1, "the answer: 4. Good"),
    (float("nan"), 1.0, 2, "Good"), (float("inf"), float("inf"), 1, "Right"),
])  # fmt: skip
def test_a_prediction_is_right_or_close_enough_or_not(guess, truth, within, said, capsys):
    predicted(guess, truth, within)
    assert said in capsys.readouterr().out


def test_show_shows_the_source_with_its_file_and_says_what_is_no_part(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda markdown: shown.append(markdown.data))
    show("norm.RMSNorm")
    assert shown[0].startswith("`minillama/norm.py`\n\n```python\nclass RMSNorm(nn.Module):")
    assert shown[0].endswith("weight\n```")
    for name in ("norm.Nothing", "nothing.RMSNorm", "norm", ""):
        with pytest.raises(ValueError, match="no such part"):
            show(name)


# In a notebook -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_kernel_answers_are_kept_from_cells_with_magics_and_with_the_check_in_them(folder):
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "from minillama.course import check, exercise, keep\nfrom tests.test_course_keep import course_of_toys\n"
        "course_of_toys(exercise, keep)\n"
        "import math",
        "%%time\n# timed\ndef double(x):\n    return 2 * math.floor(x)",
        'double = check("71.6", double)',
        "%time\n!true\n# mine\ndef causal_mask(n):\n    return [0]\ncausal_mask = check('71.5', causal_mask)",
        "from torch import nn\nclass RMSNorm(nn.RMSNorm): pass\nRMSNorm = check('71.2', RMSNorm)",
        "%%capture\ndef attend(q, k, v): return v\n",
        "attend = check('71.4', attend)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(ROOT)}})
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert [o for cell in book.cells for o in cell.outputs if o.get("name") == "stderr"] == []
    assert kept_text(DOUBLE) == "import math\n\n\n# timed\ndef double(x):\n    return 2 * math.floor(x)\n"
    assert kept_text(MASK) == "# mine\ndef causal_mask(n):\n    return [0]\n"
    assert kept_text(RMSNORM) == "from torch import nn\nclass RMSNorm(nn.RMSNorm): pass\n"
    assert kept_text(ATTEND) == "def attend(q, k, v): return v\n"
