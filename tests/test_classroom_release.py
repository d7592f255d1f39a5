"""Handing out chapters: what students get, what they don't, and what their teacher keeps."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from minillama.classroom import graft
from minillama.classroom.grading import Task
from minillama.classroom.release import make_release, open_release
from minillama.classroom.strip import PACKAGE, without_solution
from minillama.cli import main
from minillama.course import build
from minillama.course.answers import run
from minillama.course.exercise import chapters, exercises_of, find, solution
from minillama.course.stub import stub
from tests.made_up_class import written

IDS = [id for chapter in chapters() for id in exercises_of(chapter)]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "out"
    made = make_release(
        ["03", "07"], out, points={"07.3": 10.0}, forbid={"07.3": ["F.rms_norm"]}, due="2027-01-15T23:59"
    )
    return out, made


def in_release(out, code, tmp_path, **environment):
    """Run Python in what students get."""
    paths = {"PYTHONPATH": str(out / "students"), "MINILLAMA_PARTS": str(tmp_path / "parts")}
    done = subprocess.run([sys.executable, "-c", code], cwd=out / "students", env=os.environ | paths | environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("id", IDS)
def test_every_solution_can_be_taken_out_of_its_file(id):
    exercise = find(id)
    file = PACKAGE / (exercise.answer.__module__.removeprefix("minillama.").replace(".", "/") + ".py")
    text = file.read_text(encoding="utf-8")
    bare = without_solution(text, exercise)
    compile(bare, "bare", "exec")
    assert solution(exercise) in text and solution(exercise) not in bare and stub(exercise) in bare


def test_students_get_no_solution_of_these_chapters_and_no_worked_edition(release):
    out, made = release
    texts = {path: path.read_text(encoding="utf-8") for path in (out / "students").rglob("*.py")}
    texts |= {path: path.read_text(encoding="utf-8") for path in (out / "students").rglob("*.ipynb")}
    assert {path.name for path in texts if path.suffix == ".ipynb"} == {"03_attention.ipynb", "07_norm.ipynb"}
    for id in made.tasks:
        text = solution(find(id))
        inside = json.dumps(text, ensure_ascii=False)[1:-1]
        assert [str(path) for path, content in texts.items() if text in content or inside in content] == []
    assert "mistake" not in (out / "students/minillama/course/exercises/ch07_norm.py").read_text(encoding="utf-8")
    assert solution(find("05.5")) in (out / "students/minillama/feedforward.py").read_text(encoding="utf-8")


def test_the_zip_is_the_folder_and_the_key_is_the_worked_edition(release):
    out, _ = release
    with zipfile.ZipFile(out / "students.zip") as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert names == {
        path.relative_to(out / "students").as_posix() for path in (out / "students").rglob("*") if path.is_file()
    }
    for source in build.sources("03") + build.sources("07"):
        worked = build.editions(source)[1]
        assert (out / "teacher" / "key" / worked.name).read_bytes() == worked.read_bytes()


def test_the_notebook_says_what_counts_until_when_and_what_is_not_allowed(release):
    out, made = release
    book = json.loads((out / "students/notebooks/07_norm.ipynb").read_text(encoding="utf-8"))
    assert book["metadata"]["minillama"]["release"] == made.for_students()
    texts = {cell["id"]: "".join(cell["source"]) for cell in book["cells"]}
    assert len(texts) == len(book["cells"])
    assert "2027-01-15 23:59" in texts["this-class"] and "07.3 10" in texts["this-class"]
    assert "`F.rms_norm`" in texts["rules-exercise-07-3"] and "rules-exercise-07-1" not in texts
    readme = (out / "students/README.md").read_text(encoding="utf-8")
    assert "07.3 without `F.rms_norm`" in readme and made.id in readme


def test_what_is_written_for_the_grader_is_read_again(release):
    out, made = release
    assert open_release(out / "teacher") == made == open_release(out / "teacher" / "grading.toml")
    assert made.tasks["07.3"] == Task(10.0, ["F.rms_norm"]) and made.tasks["07.1"] == Task(7.0, [])


def test_another_term_is_another_release(release, tmp_path):
    _, made = release
    ids = {made.id}
    for i, changes in enumerate(({"due": ""}, {"points": {}}, {"forbid": {}}, {"partial": False})):
        same = {"points": {"07.3": 10.0}, "forbid": {"07.3": ["F.rms_norm"]}, "due": "2027-01-15T23:59"}
        ids.add(make_release(["03", "07"], tmp_path / str(i), **(same | changes)).id)
    assert len(ids) == 5


def test_the_package_works_as_before_and_its_files_hold_stubs(release, tmp_path):
    out, _ = release
    code = """
import inspect, torch
import minillama.norm
from minillama.course import check, show
from minillama.course.exercise import find, solution
print(minillama.norm.RMSNorm(2)(torch.ones(1, 2)).tolist())
print("rsqrt" in open("minillama/norm.py").read(), "rsqrt" in solution(find("07.3")))
check("07.3", None)
check("07.6", find("07.6").answer, seed=1)
show("norm.RMSNorm")
"""
    assert in_release(out, code, tmp_path).splitlines() == [
        "[[0.9999949932098389, 0.9999949932098389]]",
        "False True",
        "○ 07.3 RMSNorm: not attempted (0 of 8)",
        "✓ 07.6 fold_norm: 4 of 4",
        "minillama/norm.py is left out while your class works on it.",
    ]


def test_a_student_hears_from_check_what_the_grader_says(release, tmp_path):
    out, _ = release
    book = json.loads((out / "students/notebooks/07_norm.ipynb").read_text(encoding="utf-8"))
    exercise = find("07.6")
    mistake = exercise.mistakes[0]
    for cell in book["cells"]:
        if cell["id"] == "exercise-07-6":
            cell["source"] = written(exercise, mistake.answer)
        if cell["id"] == "exercise-07-3":
            cell["source"] = "import torch\n\nRMSNorm = torch.nn.RMSNorm\n"
    mine = tmp_path / "mine.ipynb"
    mine.write_text(json.dumps(book))
    said = in_release(
        out, f"import sys; from minillama.cli import main; sys.exit(main(['check', {str(mine)!r}]))", tmp_path
    )
    assert (
        "✗ 07.6 fold_norm: " in said
        and mistake.text[:40] in said
        and "○ 07.1 LayerNorm: not attempted (0 of 7)" in said
    )
    assert "of 38 points" in said  # 36 of the course, and 2 more for 07.3
    assert "rms_norm is not allowed in this exercise" in said


@pytest.mark.slow
@pytest.mark.parametrize("grading", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_handed_out_notebooks_run_untouched_and_are_red_on_every_check_when_graded(release, tmp_path, grading):
    out, made = release
    environment = os.environ | {"PYTHONPATH": str(out / "students"), "MINILLAMA_FAST": "1"}
    environment |= {"MINILLAMA_PARTS": str(tmp_path), "MINILLAMA_GRADING": str(int(grading))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:xdist", "-c", os.devnull,
         "-p", "no:cacheprovider", "--rootdir=.", "notebooks/07_norm.ipynb"],
        cwd=out / "students", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    n_exercises = len([id for id in made.tasks if id.startswith("07")])
    assert (f"{n_exercises} failed" if grading else "passed") in done.stdout.splitlines()[-1], done.stdout[-2000:]
    assert grading or "failed" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chapters", "99"], "--chapters: no chapter 99; there are 00"),
        (["--chapters", "07", "--points", "07.3"], "07.3: expected an exercise and a value, such as 07.3=10"),
        (["--chapters", "07", "--points", "07.3=many"], "--points 07.3=many: expected a number above 0"),
        (["--chapters", "07", "--points", "07.3=-1"], "--points 07.3=-1: expected a number above 0"),
        (["--chapters", "07", "--points", "03.1=5"], "03.1: no exercise of chapters 07"),
        (["--chapters", "07", "--forbid", "07.9=softmax"], "07.9: no exercise of chapters 07"),
        (
            ["--chapters", "07", "--due", "tomorrow"],
            "--due: due = 'tomorrow', expected a date such as 2027-01-15T23:59",
        ),
    ],
)
def test_a_slip_in_the_command_is_said_and_nothing_is_written(arguments, said, tmp_path, capsys):
    assert main(["release", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_earlier_release_is_not_overwritten(release, capsys):
    out, made = release
    assert main(["release", "--chapters", "07", "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err and open_release(out / "teacher") == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("due = ", r"grading\.toml: .*mend this line"),
        ('due = "2027-01-15"', r"grading\.toml: no \[\[exercise\]\]"),
        ('[[exercise]]\nid = "07.99"\npoints = 1', r"grading\.toml: \[\[exercise\]\] number 1: id: no exercise"),
        ('[[exercise]]\nid = "07.3"\npoints = "ten"', r"points = 'ten', expected a number above 0"),
        ('[[exercise]]\nid = "07.3"\npoints = 1\nforbid = "x"', r"forbid = 'x', expected a list"),
        ('partial = 3\n[[exercise]]\nid = "07.3"\npoints = 1', r"partial = 3, expected true or false"),
        ('due = "soon"\n[[exercise]]\nid = "07.3"\npoints = 1', r"due = 'soon', expected a date"),
    ],
)
def test_what_is_wrong_in_grading_toml_is_named(text, said, tmp_path):
    (tmp_path / "grading.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        open_release(tmp_path)


def test_a_missing_grading_toml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"grading\.toml: not there; expected"):
        open_release(tmp_path)


def test_the_stub_of_a_released_notebook_counts_as_untouched(release):
    out, _ = release
    cells, own = graft.read_cells((out / "students/notebooks/07_norm.ipynb").read_bytes())
    answer = graft.answer_in(cells, find("07.3"))
    assert answer and answer.source.strip() == stub(find("07.3")).strip() and own["chapter"] == "07"
    assert run(f"import torch\nfrom torch import Tensor, nn\n{answer.source}", "RMSNorm")
