"""What a class handed in: a folder with a notebook or a folder per student, or the zip file of a learning platform.

Nothing is unpacked: files are read where they are, zip entries from the zip. What leaves the folder is not read.
"""

import io
import re
import stat
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minillama.classroom.graft import MAX_NOTEBOOK

MAX_ENTRIES = 20_000
MAX_STUDENT, MAX_CLASS = 100 * 10**6, 2 * 10**9  # bytes unpacked, of one student's zip file, of a whole class's
MOODLE = re.compile(r"(?P<student>.+_\d+)_assignsubmission_.*")
CANVAS = re.compile(r"(?P<student>[^_]+(?P<late>_LATE)?_\d+)_\d+_.+")
CHAPTER = re.compile(r"[-_ ]*\d\d_[a-z0-9]+([-_ ]?\(?\d+\)?)?(?=$|[-_ ])[-_ ]*")
COPY = re.compile(r"( ?\(\d+\)|-\d+| - Copy| copy)$")
PASSED_OVER = (".", "__MACOSX")


@dataclass(frozen=True)
class File:
    """A notebook that was handed in. name: as the teacher knows it. changed: seconds since 1970. fault: why no data."""

    student: str
    name: str
    changed: float
    data: bytes = b""
    fault: str = ""


def handed_in(place: Path) -> list[File]:
    """All notebooks of a class, students in alphabetical order. Errors: ValueError if there are none."""
    if zipfile.is_zipfile(place):
        found = list(_from_zip(place.read_bytes(), place.name, ""))
    elif place.is_dir():
        found = list(_from_folder(place))
    else:
        raise ValueError(f"{place}: expected a folder, or a zip file, with the notebooks of a class")
    if not found:
        raise ValueError(f"{place}: no notebooks (.ipynb); expected one per student, a folder per student, or a zip")
    return sorted(found, key=lambda file: (file.student, file.name))


def _from_folder(place: Path) -> Iterator[File]:
    there = [path for path in sorted(place.iterdir()) if not path.name.startswith(PASSED_OVER)]
    if len(there) == 1 and there[0].suffix.lower() == ".zip" and not there[0].is_symlink():
        yield from _from_zip(there[0].read_bytes(), there[0].name, "")  # the platform's, put into a folder
        return
    for path in there:
        if path.is_dir() and not path.is_symlink():
            for inside in sorted(path.rglob("*")):
                if not any(part.startswith(PASSED_OVER) for part in inside.relative_to(place).parts):
                    yield from _from_file(inside, place, student_of(f"{path.name}/"))
        else:
            yield from _from_file(path, place, student_of(path.name))


def _from_file(path: Path, place: Path, student: str) -> Iterator[File]:
    name = path.relative_to(place).as_posix()
    if path.suffix.lower() not in (".ipynb", ".zip"):
        return
    if path.is_symlink() or not path.is_file():
        yield File(student, name, 0.0, fault="a link or no file, not read; hand in the notebook itself")
        return
    status = path.stat()
    if path.suffix.lower() == ".zip":
        yield from _from_zip(path.read_bytes(), name, student)
    elif status.st_size > MAX_NOTEBOOK:
        yield File(student, name, status.st_mtime, fault=_too_large(status.st_size))
    else:
        yield File(student, name, status.st_mtime, path.read_bytes())


def _from_zip(data: bytes, zip_name: str, student: str) -> Iterator[File]:
    """The notebooks in a zip; student: whose it is, "" if its names say whose each is."""
    owner = student or student_of(zip_name)
    room = MAX_STUDENT if student else MAX_CLASS
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        yield File(owner, zip_name, 0.0, fault=f"not a zip file that can be opened ({error})")
        return
    if len(entries) > MAX_ENTRIES:
        yield File(owner, zip_name, 0.0, fault=f"{len(entries):,} entries, at most {MAX_ENTRIES:,}")
        return
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if entry.is_dir() or any(part.startswith(PASSED_OVER) for part in path.parts if part != ".."):
            continue
        if path.suffix.lower() not in (".ipynb", ".zip"):
            continue
        whose, name = student or student_of(str(path)), f"{zip_name}/{path}"
        changed = time.mktime((*entry.date_time, 0, 0, -1)) if entry.date_time[0] >= 1980 else 0.0
        if fault := _fault_of(entry, path):
            yield File(owner if ".." in path.parts else whose, name, changed, fault=fault)
            continue
        room -= entry.file_size
        if room < 0:
            yield File(
                owner, zip_name, changed, fault=f"{name} and what follows it in the zip file is too much, not read"
            )
            return
        try:
            with archive.open(entry) as stream:
                content = stream.read(entry.file_size + 1)  # and no more, whatever its true size is
        except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, NotImplementedError, ValueError) as error:
            yield File(whose, name, changed, fault=f"can't be read from the zip file ({error})")
            continue
        if path.suffix.lower() != ".zip":
            yield File(whose, name, changed, content)
        elif student:
            yield File(whose, name, changed, fault="a zip file within a zip file, not opened")
        else:
            yield from _from_zip(content, name, whose)


def _fault_of(entry: zipfile.ZipInfo, path: PurePosixPath) -> str:
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", entry.filename):
        return "a name that leaves the folder, refused"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link, refused; hand in the notebook itself"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed by an unusual method; pack it again, as an ordinary zip file"
    return _too_large(entry.file_size) if entry.file_size > MAX_NOTEBOOK else ""


def _too_large(size: int) -> str:
    return f"{size / 1e6:,.0f} MB, at most {MAX_NOTEBOOK / 1e6:.0f}; clear its outputs and save it"


def student_of(name: str) -> str:
    """Whose a file is: by its folder, by the rules of Moodle and Canvas, or what its name has beside the chapter.

    >>> [student_of(name) for name in ("anna.ipynb", "anna_07_norm.ipynb", "07_norm-anna.ipynb", "anna/07_norm.ipynb")]
    ['anna', 'anna', 'anna', 'anna']
    >>> student_of("Anna Meier_123_assignsubmission_file_/07_norm.ipynb"), student_of("meieranna_42_99_07_norm-1.ipynb")
    ('Anna Meier_123', 'meieranna_42')
    """
    folder, slash, _ = name.replace("\\", "/").lstrip("/").partition("/")
    for pattern in (MOODLE, CANVAS):
        if found := pattern.fullmatch(folder):
            return found["student"].replace("_LATE", "")
    if slash:
        return folder
    stem = COPY.sub("", Path(name).stem)
    return CHAPTER.sub("", stem).strip() or stem


def marked_late(name: str) -> bool:
    """Does the learning platform say in the file's name that it came too late?"""
    found = CANVAS.fullmatch(name.rsplit("/", 1)[-1])
    return bool(found and found["late"])
