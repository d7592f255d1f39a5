"""python -m minillama release, check, grade: what each does with its options."""

import re
import secrets
import sys
from collections import Counter

from minillama.classroom import graft
from minillama.classroom.batch import Plan, grade_class, nonce_of
from minillama.classroom.choosing import chapter_of, released
from minillama.classroom.grading import Grader, Task
from minillama.classroom.handed_in import File
from minillama.classroom.pool import Limits, Pool
from minillama.classroom.release import Release, make_release, open_release, pristine
from minillama.course.exercise import chapters, exercises_of

FULL = ("Landlock", "no network", "own processes")  # what must hold of a worker that runs what nobody has read


def release(options):
    """python -m minillama release"""
    names = [name.strip().zfill(2) for name in options.chapters.split(",")]
    for name in names:
        if name not in chapters():
            raise ValueError(f"--chapters: no chapter {name}; there are {', '.join(chapters())}")
    points, forbid = {}, {}
    for id, value in map(_pair, options.points):
        if not re.fullmatch(r"\d{1,5}(\.\d+)?", value) or float(value) == 0:
            raise ValueError(f"--points {id}={value}: expected a number above 0, such as 07.3=10")
        points[id] = float(value)
    for id, value in map(_pair, options.forbid):
        forbid.setdefault(id, []).extend(name.strip() for name in value.split(","))
    made = make_release(list(dict.fromkeys(names)), options.out, points=points, forbid=forbid, due=options.due,
                           partial=not options.all_or_none)  # fmt: skip
    print(f"release {made.id}")
    print(f"{options.out}/students.zip: for your students ({options.out}/students is the same, unpacked)")
    print(f"{options.out}/teacher: for you, the answer key and grading.toml")
    print(f"when they have handed in:  python -m minillama grade FOLDER --out GRADES --release {options.out}/teacher")


def _pair(text: str) -> tuple[str, str]:
    id, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: expected an exercise and a value, such as 07.3=10")
    return id.strip(), value.strip()


def grade(options):
    """python -m minillama grade"""
    release = open_release(options.release) if options.release else Release((), {})
    limits = Limits(options.seconds, 3.0 * options.seconds)
    plan = Plan(release, nonce_of(options.out, options.nonce), options.engine, limits)
    graded, faults = grade_class(options.folder, options.out, plan, jobs=options.jobs)
    held = {result.held for result in graded if result.held}
    print(f"{len({result.student for result in graded})} students, {len(graded)} notebooks: " + ", ".join(
        f"{n} {status}" for status, n in sorted(Counter(r.status for r in graded).items())))  # fmt: skip
    print(f"{options.out}: grades.csv, long.csv, feedback/, summary.html; your own points and comments: manual.csv")
    print(f"answers ran with: {'; '.join(sorted(held)) or 'none ran'}")
    if any(not all(part in how for part in FULL) for how in held):
        print(
            "WARNING: this system does not confine answers fully (Linux with Landlock and namespaces does). They could "
            "read files, use the network, or see other answers. For people whom you don't trust, grade in a container.",
            file=sys.stderr,
        )
    if faults:
        raise OSError("\n".join(["not graded, for a fault of the grader; grade again to try these again:", *faults]))


def check(options):
    """python -m minillama check"""
    cells, own = graft.read_cells(options.notebook.read_bytes())
    file = File("you", options.notebook.name, 0.0, options.notebook.read_bytes())
    chapter = chapter_of(file)
    if chapter is None:
        raise ValueError(f"{options.notebook}: has none of the course's exercises; expected a chapter's notebook")
    with Pool() as pool:
        partial = released(own).get("partial") is not False
        grader = Grader(secrets.token_hex(8), tasks_of(own, chapter), pool, partial=partial)
        graded, _ = grader.grade(cells, chapter, pristine(chapter))
    for one in graded:
        print(one.message)
        for flag in one.flags if one.review else ():
            print(f"  your teacher will see: {flag}")
    points, possible = (sum(values) for values in ([one.points for one in graded], [one.possible for one in graded]))
    print(f"\n{points:g} of {possible:g} points for what the checks can see. Save the notebook before you hand it in.")


def tasks_of(own: dict, chapter: str) -> dict[str, Task]:
    """What a notebook's own metadata say of points and of what is not allowed."""
    points, forbid = (released(own).get(name) for name in ("points", "forbid"))
    if not isinstance(points, dict):
        return {}
    forbid = forbid if isinstance(forbid, dict) else {}
    there = {id: worth for id, worth in points.items() if id in exercises_of(chapter)}
    return {id: Task(float(worth), list(forbid.get(id, []))) for id, worth in there.items()}
