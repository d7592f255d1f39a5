"""Every exercise of the course: its solution and its alternatives pass, its mistakes are rejected and named."""

import os
from functools import cache

import pytest

from minillama.course.answers import elsewhere, here, run, start
from minillama.course.checking import examine
from minillama.course.exercise import chapters, exercises_of, find
from minillama.course.stub import stub

IDS = [id for chapter in chapters() for id in exercises_of(chapter)]
QUICK, MANY, NIGHTLY = range(3), range(3, 50), range(50, 200)
SETUP = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn\n"

seeds = pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(QUICK, id="3 seeds"),
        pytest.param(MANY, id="47 more", marks=pytest.mark.slow),
        pytest.param(NIGHTLY, id="150 more", marks=[pytest.mark.slow, pytest.mark.nightly]),
    ],
)
every_exercise = pytest.mark.parametrize("id", IDS)


def results(exercise, answer, seeds):
    return [examine(exercise, here(answer), 1000 * seed) for seed in seeds]


@seeds
@every_exercise
def test_the_solution_and_every_alternative_are_right(id, seeds):
    exercise = find(id)
    for version in [exercise.answer, *(alternative.answer for alternative in exercise.alternatives)]:
        for result in results(exercise, version, seeds):
            failed = [(o.check.asked, o.kind, o.differs, o.raised) for o in result.outcomes if not o.passed]
            assert result.right, (version, result.seed, failed)


@seeds
@every_exercise
def test_every_mistake_is_rejected_and_named(id, seeds):
    exercise = find(id)
    for seed in seeds:
        made = [(mistake, examine(exercise, here(mistake.answer), 1000 * seed)) for mistake in exercise.mistakes]
        for mistake, result in made:
            assert not result.right, f"{mistake.answer} passes with seed {1000 * seed}"
            assert result.attempted, mistake.answer
            alike = {other.text for other, theirs in made if result.like(theirs)}
            assert alike == {mistake.text}, f"seed {1000 * seed}: {mistake.answer} can't be told from {alike}"


@every_exercise
def test_there_are_enough_mistakes_and_alternatives_to_learn_from(id):
    exercise = find(id)
    many = exercise.name in ("RMSNorm", "attend")
    assert len(exercise.mistakes) >= (8 if many else 3) and len(exercise.alternatives) >= 2
    assert len({mistake.text for mistake in exercise.mistakes}) == len(exercise.mistakes)


@every_exercise
def test_the_stub_earns_nothing(id):
    exercise = find(id)
    answer = run(namespace_of(exercise) + stub(exercise), exercise.name)
    result = examine(exercise, here(answer), 1)
    assert result.points == 0 and not result.attempted


def namespace_of(exercise):
    """The imports of the module in which the solution stands, as source text."""
    module = exercise.answer.__module__
    return f"from __future__ import annotations\nfrom {module} import *\nfrom {module} import {exercise.name}\n{SETUP}"


@cache
def worker():
    """One process that answers for one thing after the other."""
    stack = elsewhere("Answer = None", "Answer")
    return stack, stack.__enter__()


@pytest.mark.skipif(os.name == "nt", reason="pipes of this kind were not tried on Windows")
@every_exercise
def test_an_answer_in_another_process_gets_the_same_result(id):
    exercise = find(id)
    lists = {"mistakes": exercise.mistakes, "alternatives": exercise.alternatives}
    answers = [("answer", exercise.answer)]
    answers += [(f"{name}[{i}].answer", v.answer) for name, versions in lists.items() for i, v in enumerate(versions)]
    _, send = worker()
    for expression, answer in answers:
        start(send, f'from minillama.course.exercise import find\nAnswer = find("{id}").{expression}', "Answer")
        there, local = examine(exercise, send, 7), examine(exercise, here(answer), 7)
        assert there.like(local) and there.points == local.points, expression
