"""What a class handed in: whose a file is, and what of a zip file is never read."""

import os
import stat
import time
import zipfile

import pytest

from minillama.classroom import handed_in as module
from minillama.classroom.choosing import chapter_of, works_of
from minillama.classroom.handed_in import File, handed_in, marked_late, student_of
from tests.made_up_class import as_bytes, learner

NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("anna.ipynb", "anna"),
        ("anna_07_norm.ipynb", "anna"),
        ("anna-07_norm (2).ipynb", "anna"),
        ("07_norm anna.ipynb", "anna"),
        ("07_norm.ipynb", "07_norm"),
        ("Zoë Müller.ipynb", "Zoë Müller"),
        ("anna/deep/07_norm.ipynb", "anna"),
        ("Anna Meier_123_assignsubmission_file_/07_norm.ipynb", "Anna Meier_123"),
        ("Anna Meier_123_assignsubmission_file_07_norm.ipynb", "Anna Meier_123"),
        ("meieranna_42_99_07_norm-1.ipynb", "meieranna_42"),
        ("meieranna_LATE_42_99_07_norm.ipynb", "meieranna_42"),
    ],
)
def test_a_file_is_its_folders_or_what_its_name_says(name, student):
    assert student_of(name) == student


def test_a_platform_that_says_late_is_believed():
    assert marked_late("class.zip/meieranna_LATE_42_99_07_norm.ipynb") and not marked_late("late_anna.ipynb")


def test_files_folders_and_zips_of_students_are_read_and_all_else_is_passed_over(tmp_path):
    (tmp_path / "ben").mkdir()
    (tmp_path / "ben" / ".ipynb_checkpoints").mkdir()
    for name in ("anna.ipynb", "ben/07_norm.ipynb", "ben/notes.txt", "ben/.ipynb_checkpoints/07.ipynb", ".x.ipynb"):
        (tmp_path / name).write_bytes(NOTEBOOK)
    zipped(tmp_path / "carl.zip", {"work/03.ipynb": NOTEBOOK, "__MACOSX/work/._03.ipynb": b"x", "a.pdf": b"x"})
    assert [(f.student, f.name, f.fault) for f in handed_in(tmp_path)] == [
        ("anna", "anna.ipynb", ""),
        ("ben", "ben/07_norm.ipynb", ""),
        ("carl", "carl.zip/work/03.ipynb", ""),
    ]


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_a_platforms_zip_is_taken_apart_by_names(tmp_path, in_a_folder):
    folder = tmp_path / "of the platform"
    folder.mkdir()
    names = ["Anna M_1_assignsubmission_file_/07_norm.ipynb", "Ben O_2_assignsubmission_file_/07_norm.ipynb"]
    path = zipped(folder / "class.zip", {name: NOTEBOOK for name in names})
    assert [f.student for f in handed_in(folder if in_a_folder else path)] == ["Anna M_1", "Ben O_2"]


@pytest.mark.parametrize(
    "name", ["../evil.ipynb", "/etc/evil.ipynb", "a/../../evil.ipynb", "C:\\evil.ipynb", "..\\evil.ipynb"]
)
def test_an_entry_that_leaves_the_folder_is_refused_and_the_others_are_read(tmp_path, name):
    zipped(tmp_path / "anna.zip", {name: NOTEBOOK, "good.ipynb": NOTEBOOK})
    zipped(tmp_path / "ben.zip", {"good.ipynb": NOTEBOOK})
    files = handed_in(tmp_path)
    assert {f.student for f in files} == {"anna", "ben"}
    assert [f.fault for f in files if "evil" in f.name] == ["a name that leaves the folder, refused"]
    assert [f.data for f in files if "evil" in f.name] == [b""] and sum(f.data == NOTEBOOK for f in files) == 2
    assert sorted(path.name for path in tmp_path.parent.rglob("evil*")) == []


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_bytes(NOTEBOOK)
    folder = tmp_path / "class"
    folder.mkdir()
    os.symlink(secret, folder / "anna.ipynb")
    os.symlink(tmp_path, folder / "ben")
    entry = zipfile.ZipInfo("carl.ipynb")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "carl.zip", "w") as archive:
        archive.writestr(entry, str(secret))
    files = handed_in(folder)
    assert [f.student for f in files] == ["anna", "carl"]
    assert all("link" in f.fault and not f.data for f in files)


def test_what_is_too_large_or_no_zip_or_a_zip_in_a_zip_is_a_fault_of_one_student(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_NOTEBOOK", 1000)
    monkeypatch.setattr(module, "MAX_STUDENT", 2000)
    (tmp_path / "anna.ipynb").write_bytes(b"x" * 1001)
    zipped(tmp_path / "ben.zip", {"bomb.ipynb": b"0" * 5000})
    zipped(tmp_path / "carl.zip", {f"{i}.ipynb": b"0" * 900 for i in range(5)})
    (tmp_path / "dora.zip").write_bytes(b"PK\x03\x04 no zip")
    inner = zipped(tmp_path / "inner.bin", {"a.ipynb": NOTEBOOK}).read_bytes()
    zipped(tmp_path / "emil.zip", {"inner.zip": inner})
    faults = {f.student: f.fault for f in handed_in(tmp_path) if f.fault}
    assert set(faults) == {"anna", "ben", "carl", "dora", "emil"}
    assert "at most" in faults["anna"] and "at most" in faults["ben"] and "too much" in faults["carl"]
    assert "not a zip file" in faults["dora"] and "within a zip" in faults["emil"]


def test_a_damaged_entry_is_a_fault_and_a_password_too(tmp_path):
    path = zipped(tmp_path / "anna.zip", {"a.ipynb": NOTEBOOK * 50})
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    path = zipped(tmp_path / "ben.zip", {"a.ipynb": NOTEBOOK})
    data = bytearray(path.read_bytes())
    for at in (data.find(b"PK\x03\x04") + 6, data.find(b"PK\x01\x02") + 8):
        data[at] |= 1  # encrypted
    path.write_bytes(data)
    assert ["can't be read from the zip" in f.fault for f in handed_in(tmp_path)] == [True, True]


@pytest.mark.parametrize("content", [None, "empty", "file"])
def test_nothing_to_grade_is_said(tmp_path, content):
    place = tmp_path / "class"
    if content == "empty":
        place.mkdir()
    elif content == "file":
        place.write_text("hello")
    with pytest.raises(ValueError, match=r"class: (no notebooks|expected a folder)"):
        handed_in(place)


def file(student, name, changed=0.0, data=NOTEBOOK, fault=""):
    return File(student, name, changed, data, fault)


def test_of_several_files_the_newest_that_can_be_read_counts():
    good = as_bytes(learner("03"))
    files = [
        file("anna", "anna/old.ipynb", 1.0, good),
        file("anna", "anna/new.ipynb", 2.0, good + b" "),
        file("anna", "anna/03_attention.ipynb", 3.0, b"{"),
    ]
    (work,) = works_of(files, ["03"])
    assert work.file and work.file.name == "anna/new.ipynb" and "3 files" in work.flags[0]


def test_a_chapter_without_a_file_has_none_and_says_what_there_is():
    files = [file("anna", "anna/a.ipynb", 1.0, as_bytes(learner("00")))]
    both = {work.chapter: work for work in works_of(files, ["00", "03"])}
    assert both["00"].file and both["03"].file is None and both["03"].flags == ()
    (other,) = works_of(files, ["03"])
    assert other.file is None and other.flags == ("anna/a.ipynb is chapter 00",)


@pytest.mark.parametrize("gone", ["nothing", "own", "ids", "metadata", "both"])
def test_a_chapter_is_recognized_whatever_an_editor_has_dropped(gone):
    book = learner("03")
    for cell in book["cells"]:
        if gone in ("metadata", "both"):
            cell["metadata"] = {}
        if gone in ("ids", "both"):
            cell.pop("id")
    if gone != "nothing":
        book["metadata"].pop("minillama")
    assert chapter_of(file("anna", "anna.ipynb", time.time(), as_bytes(book))) == "03"


def test_a_notebook_of_something_else_is_no_chapter():
    assert chapter_of(file("anna", "anna.ipynb")) is None
    assert chapter_of(file("anna", "anna/07_norm.ipynb", data=b"broken")) == "07"
