"""Which file of a student counts for which chapter."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from minillama.classroom import graft
from minillama.classroom.handed_in import File
from minillama.course.exercise import chapters, exercises_of


@dataclass(frozen=True)
class Work:
    """One chapter of one student, and the file that it is in, if there is one. flags: how that was chosen."""

    student: str
    chapter: str
    file: File | None
    flags: tuple[str, ...] = ()


def works_of(files: Sequence[File], chosen: Sequence[str]) -> list[Work]:
    """For each student and chapter the file that counts: the newest that can be read."""
    by_student: dict[str, list[File]] = defaultdict(list)
    for file in files:
        by_student[file.student].append(file)
    works = []
    for student, theirs in by_student.items():
        found = {file: chapter_of(file) for file in theirs}
        for chapter in chosen:
            mine = [file for file in theirs if found[file] == chapter]
            mine.sort(key=lambda file: (not fault_of(file), file.changed, file.name))
            flags = [f"{len(mine)} files; {mine[-1].name} counts, the newest that can be read"] if len(mine) > 1 else []
            if not mine:  # perhaps this is it: a file that nothing can be said of
                mine = [file for file in theirs if not found[file]]
                flags += [f"{f.name} is chapter {found[f]}" for f in theirs if found[f] not in (None, *chosen)]
                flags += [f"{file.name}: {fault_of(file) or 'has none of the exercises'}" for file in mine]
            works.append(Work(student, chapter, mine[-1] if mine else None, tuple(flags)))
    return works


@cache
def fault_of(file: File) -> str:
    """Why a file can't be graded; "" if it can."""
    try:
        graft.read_cells(file.data)
    except graft.Unreadable as error:
        return file.fault or str(error)
    return file.fault


@cache
def chapter_of(file: File) -> str | None:
    """Which chapter a notebook is: by its metadata, its exercises, its name, its definitions; None if by none."""
    if not fault_of(file):
        cells, own = graft.read_cells(file.data)
        said = own.get("chapter")
        if isinstance(said, str) and said in chapters():
            return said
        named = Counter(cell.exercise[:2] for cell in cells if cell.exercise[:2] in chapters())
        if named:
            return named.most_common(1)[0][0]
    for chapter, name in chapters().items():
        if f"{chapter}_{name}" in file.name:
            return chapter
    if fault_of(file):
        return None
    defined = set().union(*(graft.definitions_of(cell.text) for cell in cells if cell.kind == "code"))
    found = {chapter: len(defined & {e.name for e in exercises_of(chapter).values()}) for chapter in chapters()}
    likeliest = max(found, key=lambda chapter: found[chapter])
    return likeliest if list(found.values()).count(found[likeliest]) == 1 else None


def released(own: dict[str, Any]) -> dict[str, Any]:
    """What a notebook's own metadata say of its release; {} if that is nothing, or no longer readable."""
    release = own.get("release")
    return release if isinstance(release, dict) else {}
