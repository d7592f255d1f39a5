"""Grade one notebook: its answers run in workers, the checks here; both see data only."""

import ast
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from minillama.classroom import graft
from minillama.classroom.pool import Pool, Worker
from minillama.classroom.results import Graded
from minillama.classroom.strip import lent, tree_for
from minillama.course import checking, words
from minillama.course.answers import Answer, AnswerLost, AnswerRaised, start
from minillama.course.checks import Differs
from minillama.course.definitions import code_of, defined_names, needed, same_code
from minillama.course.exercise import Check, Exercise, Version, exercises_of, solution
from minillama.course.forbid import forbidding
from minillama.course.wire import WireError, kind_of

LOSSES = 2  # so often may an answer's process end before its time until the rest of the checks count as failed


@dataclass
class Task:
    """What a teacher sets for an exercise: its points, and functions of torch that it does not allow."""

    points: float
    forbid: list[str] = field(default_factory=list)


@dataclass
class Run:
    """An answer that was run: what came of the checks, how its process was held, and how it ended before its time.

    texts: what was run before it, and its own text.
    """

    result: checking.Result
    texts: tuple[list[str], str]
    held: str = ""
    ended: list[str] = field(default_factory=list)
    fault: AnswerRaised | None = None  # the text itself did not run


class Grader:
    """Grades notebooks with inputs that come from a nonce.

    nonce: the same one gives the same inputs, and so the same result. tasks: what is set, by exercise id; without any,
    all exercises, with the course's points. partial: an exercise gives a share of its points for the checks that pass,
    or else all or none.
    """

    def __init__(self, nonce: str, tasks: dict[str, Task], pool: Pool, *, partial: bool = True):
        self.nonce, self.tasks, self.pool, self.partial = nonce, tasks, pool, partial
        self.trees: dict[str, Path] = {}
        self.mistakes: dict[str, list[tuple[Version, checking.Result]]] = {}

    def task(self, exercise: Exercise) -> Task:
        return self.tasks.get(exercise.id) or Task(exercise.points)

    def seed(self, exercise: Exercise) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.nonce} {exercise.id}".encode()).digest()[:4]) % 10**6

    def tree(self, exercise: Exercise) -> Path:
        """The package that this exercise's answers run beside, made when it is first needed."""
        if exercise.id not in self.trees:
            tree = self.pool.folder / exercise.id
            tree_for(exercise, self.seed(exercise), tree)
            self.trees[exercise.id] = tree
        return self.trees[exercise.id]

    def grade(self, cells: Sequence[graft.Cell], chapter: str, pristine: Sequence[str]) -> tuple[list[Graded], str]:
        """All exercises of a chapter that are set. pristine: the texts of its own code cells. -> results, how held"""
        notebook = Notebook(cells, pristine)
        graded, held = [], ""
        for exercise in exercises_of(chapter).values():
            if not self.tasks or exercise.id in self.tasks:
                one, how = self.grade_one(exercise, notebook)
                graded.append(one)
                held = how or held
        return graded, held

    def grade_one(self, exercise: Exercise, notebook: "Notebook") -> tuple[Graded, str]:
        task = self.task(exercise)
        made = Graded(exercise.id, exercise.name, "missing", 0.0, task.points)
        answer = graft.answer_in(notebook.cells, exercise, notebook.pristine)
        title = f"{exercise.id} {exercise.name}"
        if answer is None:
            made.message = f"○ {title}: there is no answer in this notebook"
            return made, ""
        made.flags, made.review = list(answer.guessed), bool(answer.guessed)
        if graft.untouched(answer.source, exercise):
            made.outcome, made.message = "not attempted", f"○ {title}: not attempted (0 of {exercise.points})"
            return made, ""
        definition = graft.definition_in(answer, exercise.name)
        made.flags += suspicions(definition, exercise)
        made.code = fingerprint(definition)
        if mentioned := [name for name in task.forbid if _takes(definition, name)]:
            made.flags.append(f"mentions {', '.join(mentioned)}, which is not allowed")
            made.review = True
        run = self.run(exercise, notebook, answer)
        result = run.result
        share = result.points / exercise.points
        made.points = round(task.points * (share if self.partial else float(result.right)), 2)
        if result.right:
            made.outcome, made.message = "right", f"✓ {title}: {exercise.points} of {exercise.points}"
            notebook.right[exercise.id] = run.texts
        elif not result.attempted:
            points = f"not finished ({result.points} of {exercise.points})" if result.points else "not attempted"
            made.outcome, made.message = "not attempted", f"○ {title}: {points}"
        else:
            made.outcome = run.ended[-1] if run.ended else "wrong"
            mistake = None if run.ended or run.fault else self.diagnosis(result)
            made.mistake, made.message = mistake.text if mistake else "", words.report(result, mistake)
        return made, run.held

    def diagnosis(self, result: checking.Result) -> Version | None:
        id = result.exercise.id
        if id not in self.mistakes:  # the whole class has the same inputs
            self.mistakes[id] = checking.results_of_mistakes(result.exercise, result.seed)
        return checking.diagnose(result, self.mistakes[id])

    def run(self, exercise: Exercise, notebook: "Notebook", answer: graft.Answer) -> Run:
        """Run an answer's definition and the checks on it; if the definition alone lacks something, the whole cell."""
        run = self._run(exercise, notebook.texts(exercise, answer))
        definition = graft.definition_in(answer, exercise.name)
        raised = [outcome.raised for outcome in run.result.outcomes if outcome.raised]
        lacks = run.fault or any(error.kind == "NameError" for error in raised)
        if lacks and definition != answer.source:
            whole = self._run(exercise, notebook.texts(exercise, answer, whole=True))
            return run if whole.fault else whole
        return run

    def _run(self, exercise: Exercise, texts: tuple[list[str], str]) -> Run:
        """One worker after the other, until all checks are done: one that ends its worker takes only itself along."""
        seed, checks, tree = self.seed(exercise), exercise.checks, self.tree(exercise)
        before, source = texts
        if forbidden := self.task(exercise).forbid:
            before = [*before, forbidding(forbidden)]
        outcomes: list[checking.Outcome] = []
        run = Run(checking.Result(exercise, outcomes, seed), texts)
        while len(outcomes) < len(checks) and len(run.ended) < LOSSES:
            begun = False
            with self.pool.worker(tree) as worker:
                run.held = worker.held
                try:
                    start(worker.send, source, exercise.name, before)
                    if unfit := _unfit(exercise, worker, seed):
                        return Run(unfit, texts, worker.held)
                    begun = True
                    while len(outcomes) < len(checks):
                        outcomes.append(checking.examine_one(exercise, len(outcomes), worker.send, seed))
                except AnswerRaised as error:  # of the text itself; those of calls are outcomes
                    failed = [checking.Outcome(check, "raised", raised=error) for check in checks]
                    return Run(checking.Result(exercise, failed, seed), texts, worker.held, fault=error)
                except AnswerLost:
                    worker.ended = worker.ended or "crashed"  # or its reply was none
                except WireError as error:  # more text than may travel
                    failed = [_lost(check, str(error)) for check in checks]
                    return Run(checking.Result(exercise, failed, seed), texts, worker.held, ["crashed"])
            if worker.ended:
                run.ended += [worker.ended] * (1 if begun else LOSSES)
                outcomes.append(_lost(checks[len(outcomes)], self._why(worker)))
        outcomes += [_lost(check, "not tried any more") for check in checks[len(outcomes) :]]
        return run

    def _why(self, worker: Worker) -> str:
        if worker.ended != "timeout":
            return f"your code ended its process, or gave back what can't be read ({worker.how})"
        limits = self.pool.limits
        return f"your code took more than {limits.cpu_seconds} s of computing, or {limits.call_seconds:.0f} s in all"


def _lost(check: Check, text: str) -> checking.Outcome:
    return checking.Outcome(check, "lost", Differs("lost", ..., text=text))


def _unfit(exercise: Exercise, worker: Worker, seed: int) -> checking.Result | None:
    """The result of an answer that is no class or no function, as the check in a notebook has it."""
    given = Answer(worker.send, name=exercise.name)._ask("get")
    kind = given._kind if isinstance(given, Answer) else kind_of(given)
    fits = isinstance(given, Answer) and not (kind.startswith("an object") and isinstance(exercise.answer, type))
    return None if fits else checking.of_another_kind(exercise, given, kind, seed)


class Notebook:
    """A submitted notebook's cells, and what is known of its answers so far."""

    def __init__(self, cells: Sequence[graft.Cell], pristine: Sequence[str]):
        self.cells, self.pristine = cells, pristine
        self.right: dict[str, tuple[list[str], str]] = {}  # texts of the answers that passed
        self.own = graft.other_definitions(cells, pristine)

    def texts(self, exercise: Exercise, answer: graft.Answer, whole: bool = False) -> tuple[list[str], str]:
        """What to run before an answer, for the names that it uses, and the answer's text itself.

        A name is that of an earlier exercise (this student's answer if it was right, the solution if not), or one that
        the chapter defines, or one that the student defined in another cell.
        """
        source = answer.source if whole else graft.definition_in(answer, exercise.name)
        before: list[str] = []
        unknown = graft.unknown_names(source)
        for other in exercises_of(exercise.chapter).values():
            if other.id == exercise.id:
                break
            if other.name in unknown:
                texts, text = self.right.get(other.id) or ([], lent(other))
                before += [*texts, text]
        earlier = {other.name for other in exercises_of(exercise.chapter).values()}
        given = setup(tuple(self.pristine), frozenset(unknown - earlier))
        own = graft.needed_of(self.own, *(unknown - earlier - defined_names(given)))
        known = setup(tuple(self.pristine), frozenset(graft.unknown_names(own))) if own else ""
        return [text for text in (given, known, own, *before) if text], source


@lru_cache(maxsize=1)
def add_checks(text: str):
    """Run a teacher's file of checks, once in a process: it adds them to the exercises."""
    exec(compile(text, "<your checks>", "exec"), {"__name__": "your_checks"})


@lru_cache(maxsize=1000)
def setup(pristine: tuple[str, ...], names: frozenset[str]) -> str:
    """What the chapter's own cells define of these names: imports, functions, classes, constants; no computing."""
    return needed(_definitions(pristine), *sorted(names)) if names else ""


@lru_cache(maxsize=50)
def _definitions(pristine: tuple[str, ...]) -> str:
    kept = []
    for text in pristine:
        for node in ast.parse(text).body:
            plain = isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
            if plain or (isinstance(node, ast.Assign) and not any(isinstance(n, ast.Call) for n in ast.walk(node))):
                kept.append(ast.unparse(node))
    return "\n".join(kept)


def suspicions(source: str, exercise: Exercise) -> list[str]:
    """What a teacher may want to know of an answer's text. None of it costs points."""
    flags = []
    with suppress(*graft.UNPARSABLE):
        if same_code(source, solution(exercise)):
            flags.append("the same code as the worked solution")
    if _mentions(source, "minillama") and not _mentions(solution(exercise), "minillama"):
        flags.append("uses the package minillama")
    return flags


def _mentions(source: str, word: str) -> bool:
    return bool(re.search(rf"\b{re.escape(word)}\b", source))


def _takes(source: str, name: str) -> bool:
    """Does this text take the function from torch: F.rms_norm, or from torch.nn import RMSNorm?"""
    return bool(re.search(rf"(\.\s*|\bimport\b.*\b){re.escape(name.rpartition('.')[2])}\b", source))


def fingerprint(source: str) -> str:
    """What two answers share that are the same code but for comments and layout; "" if that can't be told."""
    with suppress(*graft.UNPARSABLE):
        if code := code_of(source):
            return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]
    return ""
