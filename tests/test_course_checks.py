"""What a check says: one line if right, one if not attempted, and else what was asked, on what, what came, and why."""

import functools
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minillama.course import exercise, words
from minillama.course.answers import AnswerLost, here, short
from minillama.course.checking import CheckFailed, check, diagnose, examine
from minillama.course.checks import (
    Differs,
    drawing_from,
    driven,
    gradients,
    holds,
    integers,
    permutation,
    pick,
    rand,
    randn,
    refuses,
    same,
    weights,
    with_random_weights,
    with_weights,
)
from minillama.course.exercise import Exercise

HINTS = ("one", "two", "three")


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Multiply each channel by its scale, then add its shift. (B, C), (C,), (C,) -> (B, C)"""
    return x * scale + shift


TOY = Exercise("70.1", affine, hints=HINTS)


@TOY.check("each channel times its scale, plus its shift", points=2)
def _values(affine):
    x, scale, shift = randn(2, 3), 1 + rand(3), 2 + rand(3)
    same(affine(x, scale, shift), x * scale + shift)


@TOY.check("the same for small numbers")
def _small(affine):
    x, scale, shift = 1e-4 * randn(2, 3), 1 + rand(3), 1e-4 * (2 + rand(3))
    same(affine(x, scale, shift), x * scale + shift, atol=1e-8)


@TOY.mistake("You forgot the scale.")
def no_scale(x, scale, shift):
    return x + shift


@TOY.mistake("You subtracted the shift.")
def minus_shift(x, scale, shift):
    return x * scale - shift


@TOY.mistake("You turned the channels round.")
def turned(x, scale, shift):
    return x.flip(-1) * scale + shift


@TOY.mistake("You doubled everything.")
def doubled(x, scale, shift):
    return 2 * (x * scale + shift)


@TOY.mistake("You changed x.")
def in_place(x, scale, shift):
    x *= scale
    return x + shift


@TOY.mistake("You took the wrong axis.")
def wrong_axis(x, scale, shift):
    return x * scale[:, None] + shift


class Scale(nn.Module):
    """Multiply each channel by its weight. (B, C) -> (B, C)"""

    def __init__(self, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


MODULE = Exercise("70.2", Scale, hints=HINTS)


@MODULE.check("its weight for each channel")
def _module(Scale):
    scale, x = with_random_weights(Scale(3)), randn(2, 3)
    same(scale(x), x * weights(scale)["weight"])


@MODULE.mistake("You forgot the weight.")
class WithoutWeight(Scale):
    def forward(self, x):
        return x


COUNT = Exercise("70.3", len, hints=HINTS)  # a bare exercise: its check is set by each test
EXERCISES = {exercise.id: exercise for exercise in (TOY, MODULE, COUNT)}


@pytest.fixture(autouse=True)
def course(monkeypatch, tmp_path):
    """A course of these exercises, and a learner without any parts."""
    monkeypatch.setattr(exercise, "exercises_of", lambda chapter: EXERCISES)
    monkeypatch.setenv("MINILLAMA_PARTS", str(tmp_path / "parts"))
    monkeypatch.delenv("MINILLAMA_GRADING", raising=False)


def failure(id, answer, seed=3):
    """The message of a wrong answer."""
    with pytest.raises(CheckFailed) as failed:
        check(id, answer, seed=seed)
    return str(failed.value)


def outcome_of(run, answer, seed=3):
    """What comes of one check alone."""
    COUNT.checks[:] = [exercise.Check("this", run)]
    return examine(COUNT, here(answer), seed).outcomes[0]


# check ---------------------------------------------------------------------------------------------------------------


def test_a_right_answer_gets_one_line_that_is_always_the_same(capsys):
    def mine(x, scale, shift):
        print("looking at", x)
        return shift + scale * x

    mine.__module__ = "minillama.somewhere"  # not kept, which is another matter
    for seed in (None, 1, 2):
        assert check("70.1", mine, seed=seed) is mine
    assert capsys.readouterr().out == 3 * "✓ 70.1 affine: 3 of 3\n"


def todo(x, scale, shift):
    raise NotImplementedError("your turn")


@pytest.mark.parametrize("answer", [None, ..., todo])
def test_a_missing_answer_gets_one_line_and_the_packages(answer, capsys):
    assert check("70.1", answer) is affine
    assert capsys.readouterr().out == "○ 70.1 affine: not attempted (0 of 3)\n"


def test_a_class_with_empty_methods_is_not_attempted(capsys):
    class Empty(nn.Module):
        def __init__(self, d_model):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(d_model))

        def forward(self, x):
            raise NotImplementedError

    assert check("70.2", Empty) is Scale
    assert "not attempted" in capsys.readouterr().out


def test_an_answer_that_does_half_of_it_is_not_finished(capsys):
    def half(x, scale, shift):
        if x.abs().max() < 0.01:
            raise NotImplementedError
        return x * scale + shift

    assert check("70.1", half) is affine
    assert capsys.readouterr().out == "○ 70.1 affine: not finished (2 of 3)\n"


def test_a_wrong_answer_reads_what_was_asked_on_what_what_came_what_was_expected_and_why():
    lines = failure("70.1", no_scale).splitlines()
    assert lines[0] == "✗ 70.1 affine: 0 of 3"
    assert lines[1] == "  asked for: each channel times its scale, plus its shift"
    assert lines[2] == "  on:        affine(x, scale, shift)"
    with drawing_from(3):
        x, scale, shift = randn(2, 3), 1 + rand(3), 2 + rand(3)
    for line, tensor in zip(lines[3:6], (x, scale, shift), strict=True):
        assert f"{tensor.flatten()[0]:.4g}" in line
    assert lines[6].startswith("  you gave:  ") and f"{(x + shift)[0, 0]:.4g}" in lines[6]
    assert lines[7].startswith("  expected:  ") and f"{(x * scale + shift)[0, 0]:.4g}" in lines[7]
    assert lines[8:] == ["  → You forgot the scale.", '  (the same inputs again: check("70.1", affine, seed=3))']


@pytest.mark.parametrize("mistake", TOY.mistakes, ids=lambda mistake: mistake.answer.__name__)
def test_every_mistake_gets_its_sentence(mistake):
    for seed in range(5):
        assert f"  → {mistake.text}" in failure("70.1", mistake.answer, seed)


def test_a_seed_replays_a_run_and_no_seed_draws_anew():
    assert failure("70.1", no_scale, 5) == failure("70.1", no_scale, 5)
    assert failure("70.1", no_scale, 5).splitlines()[3:6] != failure("70.1", no_scale, 6).splitlines()[3:6]
    assert len({failure("70.1", no_scale, None).splitlines()[3] for _ in range(4)}) > 1


def test_random_answers_are_replayed_as_well():
    def noisy(x, scale, shift):
        return x * scale + shift + torch.rand(()) + random.random() + float(np.random.rand())

    assert failure("70.1", noisy, 5) == failure("70.1", noisy, 5)


STEPS = {
    "scale": lambda x, scale, shift: (x, torch.ones_like(scale), shift, 1),
    "shift": lambda x, scale, shift: (x, scale, -shift, 1),
    "turned": lambda x, scale, shift: (x.flip(-1), scale, shift, 1),
    "doubled": lambda x, scale, shift: (x, scale, shift, 2),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3, unique=True), st.integers(0, 10**6))
def test_two_errors_at_once_are_never_given_a_name_and_one_error_always(steps, seed):
    def answer(x, scale, shift):
        factor = 1
        for step in steps:
            x, scale, shift, times = STEPS[step](x, scale, shift)
            factor *= times
        return factor * (x * scale + shift)

    result = examine(TOY, here(answer), seed)
    names = {"scale": no_scale, "shift": minus_shift, "turned": turned, "doubled": doubled}
    mistake = diagnose(result)
    if len(steps) == 1:
        assert mistake and mistake.answer is names[steps[0]]
    else:
        assert mistake is None and "The values differ, and not as in one" in words.report(result, mistake)


def test_a_mistake_and_a_change_of_the_inputs_are_two_errors():
    def both(x, scale, shift):
        x += 1
        return x * scale - shift

    message = failure("70.1", both)
    assert "you changed x, which you were given" in message and "→" not in message


def test_another_error_of_the_same_type_is_another_mistake():
    def other(x, scale, shift):
        return x @ scale[:2] + shift

    assert "RuntimeError" in failure("70.1", wrong_axis) and "→" in failure("70.1", wrong_axis)
    assert "RuntimeError" in failure("70.1", other) and "→" not in failure("70.1", other)


def test_the_same_error_is_the_same_mistake_whatever_the_answer_is_called():
    exercise = Exercise("70.9", affine, hints=HINTS)
    exercise.check("this")(lambda affine: affine(1, 2, 3))
    exercise.mistake("You take two only.")(functools.wraps(no_scale)(lambda x, scale: x))
    mine = lambda x, scale: x  # noqa: E731
    mine.__name__ = mine.__qualname__ = "affine"
    exercise.mistakes[0].answer.__qualname__ = "no_scale"
    found = diagnose(examine(exercise, here(mine), 1))
    assert found and found.text == "You take two only."


def test_mistakes_that_cannot_be_told_apart_are_not_named(monkeypatch):
    monkeypatch.setattr(TOY, "mistakes", [*TOY.mistakes, exercise.Version("Another sentence.", no_scale)])
    assert "→" not in failure("70.1", no_scale)


def test_a_message_shows_the_first_check_that_failed_and_is_not_missing():
    def half(x, scale, shift):
        if x.abs().max() > 0.01:
            raise NotImplementedError
        return x

    assert "asked for: the same for small numbers" in failure("70.1", half)


@pytest.mark.parametrize("answer, text", [
    (lambda x, scale, shift: (x * scale + shift)[0], "shape (3,), expected (2, 3)"),
    (lambda x, scale, shift: (x * scale + shift).double(), "float64, expected float32"),
    (lambda x, scale, shift: (x * scale + shift) * torch.tensor([1, math.nan, 1]), "2 of 6 numbers are NaN"),
    (lambda x, scale, shift: None, "this is None, expected a tensor"),
    (lambda x, scale, shift: 3.5, "this is a number, expected a tensor"),
    (lambda x, scale, shift: [x], "this is a list, expected a tensor"),
    (lambda x, scale, shift: (x,), "this is a tuple, expected a tensor"),
    (lambda x, scale, shift: (x * scale + shift).numpy(), "this is a numpy array, expected a tensor"),
    (lambda x, scale, shift: lambda: x, "this is a function, expected a tensor"),
    (lambda x, scale, shift: object(), "this is an object of class object, expected a tensor"),
    (lambda x, scale, shift: nn.Linear, "this is a class, expected a tensor"),
    (lambda x, scale, shift: x.to_sparse(), "this is a sparse tensor, expected a tensor"),
    (lambda x, scale, shift: x.to("meta"), "this is a meta tensor, expected a tensor"),
    (lambda x, scale, shift: (x * scale + shift) + 0j, "complex64, expected float32"),
    (lambda x, scale, shift: torch.ones(1).expand(2**40), "this is a value of more than 64 MiB, expected a tensor"),
    (lambda x, scale, shift: "x" * 20_000_000, "this is a value of more than 16 MiB, expected a tensor"),
    (lambda x, scale, shift: "x" * 2_000_000, "this is text, expected a tensor"),
    (lambda x, scale, shift: iter(int, 1), "this is a list, expected a tensor"),
    (lambda x, scale, shift: 10**5000, "this is a number of over 3,000 digits, expected a tensor"),
])  # fmt: skip
def test_what_is_of_another_kind_has_a_message_of_its_own(answer, text):
    message = failure("70.1", answer)
    assert f"  {text}" in message and "values differ" not in message and len(message) < 2000


def test_shape_comes_before_dtype_before_nan_before_changed_inputs_before_values():
    faults = {
        "shape (1, 3), expected (2, 3)": lambda x: x[:1],
        "float64, expected float32": lambda x: x.double(),
        "numbers are NaN": lambda x: x * math.nan,
        "you changed x": lambda x: x.mul_(3),
        "values differ": lambda x: x + 1,
    }
    names = list(faults)
    for i, name in enumerate(names):

        def answer(x, scale, shift, remaining=names[i:]):
            for fault in reversed(remaining):  # the change of x while it is still x
                x = faults[fault](x) if fault != "values differ" else x
            return x + 1

        message = failure("70.1", answer)
        assert name in message and not any(other in message for other in names if other != name), message


def test_a_change_of_the_inputs_is_told_also_if_the_values_are_right_and_the_name_is_given():
    def careless(x, scale, shift):
        result = x * scale + shift
        shift.zero_()
        x[0] = 0
        return result

    assert "you changed x and shift, which you were given; work on a copy" in failure("70.1", careless)


def test_a_change_in_one_call_is_the_cause_of_an_error_in_the_next():
    def grow(tokens):
        tokens.append(1)
        return tokens[:2]

    def run(answer):
        given = [0]
        answer(given)
        holds(True, "")

    def later(answer):
        answer([0])
        answer(5)

    assert outcome_of(run, grow).kind == "changed"
    assert outcome_of(later, grow).kind == "changed"
    assert outcome_of(lambda answer: answer(5), grow).kind == "raised"

    def grow_and_fail(tokens):
        tokens.append(1)
        raise ValueError

    assert outcome_of(lambda answer: answer([0]), grow_and_fail).kind == "raised"


@pytest.mark.parametrize("change, what", [
    (lambda: torch.set_default_dtype(torch.float64), "torch's default dtype"),
    (lambda: torch.set_grad_enabled(False), "whether torch records gradients"),
])  # fmt: skip
def test_a_change_of_the_whole_program_is_undone_and_told_if_something_is_wrong(change, what):
    def answer(x, scale, shift, wrong=0):
        change()
        return x * scale + shift + wrong

    assert check("70.1", answer) is answer
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    message = failure("70.1", functools.partial(answer, wrong=1))
    assert f"  your code changes {what}, for the whole program; leave that as it is" in message


def test_a_default_dtype_that_is_set_while_a_module_is_made_is_told_as_well():
    class Wide(Scale):
        def __init__(self, d_model):
            torch.set_default_dtype(torch.float64)
            super().__init__(d_model)

    outcome = outcome_of(lambda Scale: same(Scale(3)(torch.ones(3)), torch.ones(3)), Wide)
    assert outcome.kind == "dtype" and outcome.settings == ["torch's default dtype"]


@pytest.mark.parametrize("kind, error", [
    ("ValueError", ValueError("no")), ("SystemExit", SystemExit(2)), ("RecursionError", RecursionError("too deep")),
    ("KeyError", KeyError("x")), ("GeneratorExit", GeneratorExit("so")),
])  # fmt: skip
def test_an_error_of_the_answer_is_told_with_its_line(kind, error):
    def answer(x, scale, shift):
        raise error

    message = failure("70.1", answer)
    line = answer.__code__.co_firstlineno + 1
    assert f"  your code raised {kind}: {error}\n  at line {line}: raise error" in message


def test_an_error_inside_of_torch_is_told_with_the_line_that_called_it():
    def answer(x, scale, shift):
        layer = nn.Linear(5, 6)
        return layer(x)

    assert f"at line {answer.__code__.co_firstlineno + 2}: return layer(x)" in failure("70.1", answer)


def test_an_interrupt_stops_the_check():
    def answer(x, scale, shift):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("70.1", answer)


def test_a_module_without_forward_and_a_dtype_that_torch_cannot_do_are_errors_not_missing_answers():
    class NoForward(nn.Module):
        def __init__(self, d_model):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(d_model))

    assert 'missing the required "forward"\n  function' in failure("70.2", NoForward)
    assert "not implemented for 'Long'" in failure("70.1", lambda x, scale, shift: x.long().softmax(0))


def test_half_a_character_in_a_message_can_still_be_shown():
    def answer(x, scale, shift):
        raise ValueError(chr(0xD800))

    assert b"ValueError: \\ud800\n  at line" in failure("70.1", answer).encode()


@pytest.mark.parametrize("id, answer, text", [
    ("70.1", 5, "this is a number, expected a function"),
    ("70.1", torch.ones(2), "this is a tensor, expected a function"),
    ("70.2", Scale(3), "this is an object of class Scale, expected a class"),
    ("70.2", "Scale", "this is text, expected a class"),
])  # fmt: skip
def test_an_answer_that_is_no_answer_at_all_is_told(id, answer, text):
    assert f"  {text}" in failure(id, answer)


def test_a_result_that_the_check_cannot_go_on_with_is_shown():
    def run(answer):
        same(answer(1).mean(), torch.tensor(1.0))

    outcome = outcome_of(run, lambda x: None)
    assert outcome.kind == "unusable" and outcome.call
    assert "(AttributeError: 'NoneType' object has no attribute 'mean')" in str(outcome.differs)
    with pytest.raises(ZeroDivisionError):  # a check that fails by itself
        outcome_of(lambda answer: 1 / 0, len)


def test_the_call_that_is_shown_is_the_one_whose_result_was_wrong():
    def run(answer):
        first, second = answer(torch.tensor([1.0])), answer(torch.tensor([2.0]))
        same(second, torch.tensor([2.0]))
        same(first, torch.tensor([5.0]))

    outcome = outcome_of(run, lambda x: x)
    assert outcome.call and outcome.call.args[0].item() == 1


def test_what_the_answer_printed_is_shown_with_the_diagnosis(capsys):
    def answer(x, scale, shift):
        for i in range(20):
            print("step", i)
        return x

    message = failure("70.1", answer)
    assert "  your code printed:\n    step 0\n    step 1\n" in message and "step 9" not in message
    assert capsys.readouterr().out == ""


def test_random_state_and_settings_of_the_learner_are_untouched(monkeypatch):
    def answer(x, scale, shift):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        return x * scale + shift + torch.rand(())

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    try:
        with torch.device("meta"), pytest.raises(CheckFailed):
            check("70.1", answer)
        with torch.inference_mode():
            assert check("70.2", Scale) is Scale  # needs weights, float32, on the CPU
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_checks_draw_the_same_numbers_whatever_the_notebook_has_set():
    def run(answer):
        holds(False, "", (randn(2), rand(2), torch.ones(1), torch.ones(1, requires_grad=True) * 2))

    usual = outcome_of(run, len).differs
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.no_grad():
            other = outcome_of(run, len).differs
    finally:
        torch.set_default_dtype(torch.float32)
    assert usual and other
    same(other.given, usual.given)
    assert other.given[3].requires_grad
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            assert outcome_of(lambda answer: gradients(answer, randn(2)), lambda x: 2 * x).kind == "passed"


def test_each_check_draws_numbers_of_its_own():
    drawn = []
    both = Exercise("70.7", len, hints=HINTS)
    for _ in range(2):
        both.check("this")(lambda answer: drawn.append(randn(2).tolist()))
    examine(both, here(len), 1)
    assert drawn[0] != drawn[1]


def test_an_answer_that_is_lost_is_no_wrong_answer():
    def send(request):
        raise AnswerLost("the answer's process has ended")

    with pytest.raises(AnswerLost):
        examine(TOY, send, 1)


def test_graded_a_missing_answer_raises_and_a_wrong_one_too_and_both_lend(monkeypatch, capsys):
    monkeypatch.setenv("MINILLAMA_GRADING", "1")
    for answer, text in ((todo, "○ 70.1 affine: not attempted (0 of 3)"), (no_scale, "✗ 70.1 affine: 0 of 3")):
        names = {"check": check, "affine": answer}
        with pytest.raises(CheckFailed, match=text.replace("(", r"\(").replace(")", r"\)")):
            exec('affine = check("70.1", affine)', names)
        assert names["affine"] is affine
    names = {"check": check, "affine": lambda x, scale, shift: x * scale + shift}
    exec('affine = check("70.1", affine)', names)
    assert names["affine"] is not affine and capsys.readouterr().out == "✓ 70.1 affine: 3 of 3\n"


def test_graded_an_answer_that_calls_itself_does_not_find_the_packages(monkeypatch):
    monkeypatch.setenv("MINILLAMA_GRADING", "1")
    names = {"check": check}
    exec("def affine(x, scale, shift):\n    return affine(x, scale, shift)", names)
    with pytest.raises(CheckFailed, match="RecursionError"):
        exec('affine = check("70.1", affine)', names)


def test_graded_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILLAMA_GRADING", "1")
    check("70.1", lambda x, scale, shift: x * scale + shift)
    with pytest.raises(CheckFailed):
        check("70.1", no_scale)
    assert not (tmp_path / "parts").exists()


def test_an_unknown_exercise_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match=r'no exercise "70.7"; chapter 70 has 70.1, 70.2'):
        check("70.7", len)


# What is compared ----------------------------------------------------------------------------------------------------


def difference(given, expected, **tolerance):
    try:
        same(given, expected, **tolerance)
    except Differs as differs:
        return differs.kind
    return None


T = torch.tensor
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("given, expected, kind", [
    (T([1.0]), T([1.0]), None), (T([1.0 + 5e-6]), T([1.0]), None), (T([1.001]), T([1.0]), "values"),
    (T([NAN, 1]), T([NAN, 1]), None), (T([1.0, NAN]), T([NAN, 1]), "values"), (T([NAN]), T([1.0]), "nan"),
    (T([INF, -INF]), T([INF, -INF]), None), (T([INF]), T([-INF]), "values"), (T([INF]), T([1.0]), "values"),
    (T([NAN + 0j]), T([1 + 0j]), "nan"), (T([1 + 1j]), T([1 + 2j]), "values"), (T([1 + 1j]), T([1 + 1j]), None),
    (T([2**60 + 1]), T([2**60]), "values"), (T([2**60]), T([2**60]), None), (T([True]), T([False]), "values"),
    (T([1]), T([1.0]), "dtype"), (T([1.0]), T(1.0), "shape"), (T(1.0), 1.0, "type"), (1.0, T(1.0), "type"),
    (T([1.0], dtype=torch.float8_e4m3fn), T([1.0], dtype=torch.float8_e4m3fn), None),
    (torch.empty(0, 3), torch.empty(0, 3), None), (torch.empty(0, 3), torch.empty(3, 0), "shape"),
    (3, 3, None), (3, 4, "values"), (3, 3.0, None), (3.0, 3, None), (2.9, 3, "values"), (True, 1, "type"),
    (1, True, "type"),
    (NAN, NAN, None), (NAN, 1.0, "nan"), (1.0, NAN, "values"), (INF, INF, None), (INF, 1.0, "values"),
    (10**400, 10**400, None), (10**400, 10**400 + 1, "values"), ("a", "a", None), ("a", "b", "values"),
    ("a", b"a", "type"), (b"a", b"a", None), (None, None, None), (None, 0, "type"), ({1}, frozenset([1]), None),
    ({1}, {2}, "values"), ([1], (1,), "type"), ([1, 2], [1, 2], None), ([1, 2], [1, 3], "values"),
    ([1], [1, 2], "length"), ([1, NAN], [1.0, 2.0], "nan"), ([1, "2"], [1, 2], "type"), ([T([1.0])], [T([1.0])], None),
    ([T([1.0]), T([1])], [T([1.0]), T([1.0])], "dtype"), ({"a": 1}, {"a": 1}, None), ({"a": 1}, {"a": 2}, "values"),
    ({"a": 1}, {"b": 1}, "keys"), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, None),
    ({"a": [T([1.0])]}, {"a": [T([2.0])]}, "values"),
    ({"a": NAN}, {"a": 1.0}, "nan"), (torch.float16, torch.float16, None), (torch.float16, torch.float32, "values"),
    (range(3), range(3), None), (range(3), [0, 1, 2], "type"), (np.ones(2), np.ones(2), None),
    (np.ones(2), np.zeros(2), "values"), (np.ones(2), np.ones(3), "shape"),
])  # fmt: skip
def test_same_tells_type_shape_dtype_nan_and_values_apart(given, expected, kind):
    assert difference(given, expected) == kind


def test_tolerances_are_those_of_the_check():
    assert difference(T([1e-6]), T([2e-6])) is None
    assert difference(T([1e-6]), T([2e-6]), atol=1e-9) == "values"
    assert difference([1.05], [1.0], rtol=0.1) is None


def test_a_difference_inside_of_lists_says_where():
    with pytest.raises(Differs) as raised:
        same([T([1.0]), {"b": (T([1.0]), T([2.0]))}], [T([1.0]), {"b": (T([1.0]), T([3.0]))}])
    assert raised.value.place == "[1]['b'][1]" and raised.value.given.item() == 2
    assert len(raised.value.whole) == 2


def test_two_wrong_results_are_alike_only_if_all_of_them_is():
    def alike(mine, theirs):
        outcomes = [
            outcome_of(lambda answer: same(answer(), [T([1.0]), T([2.0])]), lambda x=x: x) for x in (mine, theirs)
        ]
        return outcomes[0].like(outcomes[1])

    assert alike([T([5.0]), T([2.0])], [T([5.0]), T([2.0])])
    assert not alike([T([5.0]), T([2.0])], [T([5.0]), T([9.0])])  # the first difference is the same, not the second
    assert alike(object(), object()) and not alike(object(), len)
    assert not alike([T([5.0]), T([2.0])], [T([1.0]), T([2.0])])


def test_a_property_names_a_mistake_only_if_it_shows_what_was_given():
    for shown, name in (((), False), ((3,), True)):
        one = Exercise("70.6", len, hints=HINTS)
        one.check("this")(lambda answer, shown=shown: holds(answer([1]) == 1, "it should be 1", *shown))
        one.mistake("You gave 2.")(lambda x: 2)
        result = examine(one, here(lambda x: 3), 1)
        assert (diagnose(result) is not None) == name
        assert ("you gave:  3" in words.report(result, None)) == name


def test_holds_needs_its_condition_and_shows_what_was_given():
    holds(True, "a sum of 1")
    with pytest.raises(Differs) as raised:
        holds(False, "a sum of 1", given=2.5)
    assert raised.value.kind == "property" and raised.value.given == 2.5


def refused(answer, **kwargs):
    return outcome_of(lambda answer: refuses(answer, 1, **kwargs), answer).kind


def test_refuses_takes_the_error_its_children_and_nothing_else():
    def raising(error):
        def answer(x):
            raise error

        return answer

    assert refused(raising(ValueError())) == "passed"
    assert refused(raising(UnicodeError("x"))) == "passed"
    assert refused(raising(TypeError())) == "raised"
    assert refused(raising(KeyError()), error="Exception") == "passed"
    assert refused(lambda x: x) == "property"


def test_an_error_of_another_kind_is_told_with_the_one_that_was_wanted():
    def answer(x):
        raise KeyError

    one = Exercise("70.5", len, hints=HINTS)
    one.check("an error")(lambda answer: refuses(answer, 1))
    report = words.report(examine(one, here(answer), 1), None)
    assert "your code raised KeyError; it should have raised ValueError\n  at line" in report


def test_a_stub_refuses_nothing():
    def stub(x):
        raise NotImplementedError("your turn")

    assert refused(stub, error="Exception") == refused(stub, error="RuntimeError") == "not attempted"


def test_inputs_are_what_they_say():
    with drawing_from(1):
        assert randn(2, 3).shape == (2, 3) and rand(4).dtype == torch.float32 and float(rand(100).min()) >= 0
        assert set(integers(2, 5, 100).tolist()) == {2, 3, 4} and integers(0, 3).shape == ()
        assert sorted(permutation(5)) == [0, 1, 2, 3, 4] and {pick("ab") for _ in range(30)} == {"a", "b"}
    draws = []
    for seed in (1, 1, 2):
        with drawing_from(seed):
            draws.append((randn(3).tolist(), permutation(9)))
    assert draws[0] == draws[1] != draws[2]


def test_random_weights_are_random_neither_zero_nor_one_and_of_both_signs():
    def run(Scale):
        scale = with_random_weights(Scale(100))
        weight = weights(scale)["weight"]
        holds(bool(((weight.abs() >= 0.5) & (weight.abs() <= 1.5)).all()), "between 0.5 and 1.5")
        holds(20 < int((weight < 0).sum()) < 80 and weight.unique().numel() == 100, "random")
        same(scale(torch.ones(100)), weight)
        same(with_weights(scale, {"weight": 2 * torch.ones(100)})(torch.ones(100)), 2 * torch.ones(100))

    outcome = outcome_of(run, Scale)
    assert outcome.passed, outcome.differs


def test_a_buffer_of_the_learners_is_no_weight():
    class Buffered(Scale):
        def __init__(self, d_model):
            super().__init__(d_model)
            self.register_buffer("mask", torch.ones(d_model, dtype=torch.bool))

    assert examine(MODULE, here(Buffered), 1).right


@pytest.mark.parametrize("answer, kind, text", [
    (lambda d_model: nn.Linear(d_model, 2), "weights", "as the docstring or the given __init__"),
    (lambda d_model: None, "type", "this is None, expected a module"),
    (lambda d_model: torch.ones(3), "type", "this is a tensor, expected a module"),
])  # fmt: skip
def test_other_weights_than_the_given_ones_are_told(answer, kind, text):
    outcome = outcome_of(lambda Scale: with_weights(Scale(3), {"weight": torch.ones(3)}), answer)
    assert outcome.kind == kind and text in str(outcome.differs)


def test_gradients_go_back_to_inputs_and_weights():
    def run(Scale):
        scale, x = with_random_weights(Scale(3)), randn(2, 3)
        result = gradients(scale, x)
        same(result["inputs"], [result["out_gradient"] * weights(scale)["weight"]])
        same(result["weights"], {"weight": (result["out_gradient"] * x).sum(0)})
        same(result["out"], x * weights(scale)["weight"])

    assert outcome_of(run, Scale).passed


@pytest.mark.parametrize("answer, kind", [
    (lambda x: x.detach(), "property"), (lambda x: None, "type"), (lambda x: torch.ones(2), "property"),
    (lambda x: x * 2, "passed"), (lambda x: len, "type"), (lambda x: x.mul_(2), "changed"),
])  # fmt: skip
def test_a_result_that_no_gradient_comes_back_from_is_told(answer, kind):
    assert outcome_of(lambda answer: gradients(answer, randn(2)), answer).kind == kind


def twice(answer, weight, step):
    """A driver: what a weight is after two calls that change it."""
    weight = weight.clone()
    answer(weight, step)
    answer(weight, step)
    return weight


twice.__module__ = exercise.__name__  # a driver travels by name, as a function of the package


@pytest.mark.parametrize("answer, kind", [
    (lambda weight, step: weight.add_(step), "passed"), (lambda weight, step: weight.sub_(step), "values"),
    (lambda weight, step: weight + step, "values"), (lambda weight, step: 1 / 0, "raised"),
])  # fmt: skip
def test_a_driver_calls_the_answer_where_it_is_and_tells_what_became_of_its_inputs(monkeypatch, answer, kind):
    monkeypatch.setattr(exercise, "twice", twice, raising=False)

    def run(answer):
        weight = randn(2)
        same(driven(answer, twice, weight, 3.0), weight + 6)

    outcome = outcome_of(run, answer)
    assert outcome.kind == kind and outcome.call.name == "twice" and outcome.call.changed == []
    if not outcome.passed:
        text = words.report(examine(COUNT, here(answer), 3), None)
        assert "on:        twice(weight, 3.0)" in text


@pytest.mark.parametrize("value, text", [
    ([torch.ones(3), torch.ones(2, 4)], "[tensor (3,), tensor (2, 4)]"), ((torch.ones(1),), "(tensor (1,),)"),
    ({"x": [torch.ones(2)], "n": 3}, "{'x': [tensor (2,)], 'n': 3}"), ([1.5, "a", None], "[1.5, 'a', None]"),
    (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16..."), (nn.Linear, "Linear"),
])  # fmt: skip
def test_a_call_is_named_with_the_shapes_of_its_tensors_also_within_lists(value, text):
    assert short(value) == text


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x, text", [
    (T(2.5), "() 2.5"), (T([1, 2]), "(2,) [1, 2]"), (torch.empty(0, 3), "(0, 3) []"), (T([True]), "(1,) [True]"),
    (torch.arange(10), "(10,) [0, 1, 2, 3, 4, 5, 6, 7, ...]"),
    (torch.arange(12).view(2, 6), "(2, 6) [[0, 1, 2, 3, 4, 5], ..."),
    (torch.arange(20).view(2, 10), "(2, 10) [[0, 1, 2, 3, 4, 5, 6, 7, ...], ..."), (1 / 3, "0.3333"), (math.nan, "nan"),
    ([1, 0.5], "[1, 0.5]"), ((T([1.0]),), "((1,) [1],)"), ({"a": 1 / 3}, "{'a': 0.3333}"),
    ("x" * 200, "'" + "x" * 96 + "..."),
    (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, ... (20 of them)]"), (None, "None"),
    (T([1 + 2j]), "(1,) [(1+2j)]"), (T([1.0]).to_sparse(), None), (nn.ReLU(), "ReLU()"),
    ([[[[[1]]]]], "[[[[[1]]]]]"), (T([1.5], requires_grad=True), "(1,) [1.5]"), (T([1.5]).bfloat16(), "(1,) [1.5]"),
])  # fmt: skip
def test_values_are_shown_in_few_words(x, text):
    assert text is None or words.value(x) == text
    assert words.value(10**5000) == "a number"
    assert len(words.value(x)) < 300 and "\n" not in words.value(x)


@pytest.mark.parametrize("given, expected, texts", [
    (T([1.00001]), T([1.0]), ("(1,) [1.00001]", "(1,) [1]")),  # four digits would look the same
    (torch.arange(20.0).view(2, 10), torch.arange(20.0).view(2, 10).index_fill(1, T([9]), 0.0),
     ("[1, 2:10] = [12, 13, 14, 15, 16, 17, 18, 19]", "[1, 2:10] = [12, 13, 14, 15, 16, 17, 18, 0]")),
    (T([[-INF, 1, 2]] * 3), T([[-INF, 1, 2]] * 2 + [[-INF, 1, 3]]), ("[2, :] = [-inf, 1, 2]", "[2, :] = [-inf, 1, 3]")),
    (T([[NAN, 1, 2]] * 3), T([[NAN, 1, 2]] * 2 + [[NAN, 1, 3]]), ("[2, :] = [nan, 1, 2]", "[2, :] = [nan, 1, 3]")),
    ([*range(60)], [*range(40), 0, *range(41, 60)],
     ("[36:52] = [36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]",
      "[36:52] = [36, 37, 38, 39, 0, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]")),
    ("a" * 90 + "b", "a" * 90 + "c", ("[70:150] = '" + "a" * 20 + "b'", "[70:150] = '" + "a" * 20 + "c'")),
    ({i: i for i in range(9)}, {i: i % 8 for i in range(9)}, ("{8: 8}", "{8: 0}")),
    (T(1 + 2j), T(1 + 3j), ("() (1+2j)", "() (1+3j)")),
    (torch.ones(9) + 0j, torch.ones(9) + 1j, ("[0:8] = [" + ", ".join(["(1+0j)"] * 8) + "]",
                                              "[0:8] = [" + ", ".join(["(1+1j)"] * 8) + "]")),
])  # fmt: skip
def test_of_large_values_the_part_that_differs_is_shown(given, expected, texts):
    assert words.side_by_side(given, expected) == texts


def test_the_call_is_shown_with_the_names_of_its_parameters():
    def run(Scale):
        scale = with_weights(Scale(d_model=3), {"weight": torch.ones(3)})
        same(scale(torch.arange(3.0)), torch.zeros(3))

    MODULE.checks.append(exercise.Check("nothing", run))
    try:
        message = failure("70.2", Scale)
    finally:
        MODULE.checks.pop()
    assert "  on:        Scale(d_model=3)(x)\n             x (3,) [0, 1, 2]\n" in message


def test_methods_and_numbers_with_points_in_their_names_are_shown_too():
    class Shop:
        def __init__(self, tax, prices):
            self.tax = tax

        def total(self, amounts, twice=False):
            return amounts

    shop = Exercise("70.4", Shop, hints=HINTS)
    shop.check("this")(lambda Shop: same(Shop(0.5, {"a": 1}).total(T([1.0]), twice=True), T([2.0])))
    message = words.report(examine(shop, here(Shop), 1), None)
    assert "  on:        Shop(0.5, {'a': 1}).total(amounts, twice=True)\n             amounts (1,) [1]\n" in message


def test_an_error_is_rendered_as_its_message_alone():
    assert CheckFailed("one\ntwo")._render_traceback_() == ["one", "two"]


# In a notebook -------------------------------------------------------------------------------------------------------

SETUP = """
from minillama.course import check, exercise
from tests.test_course_checks import EXERCISES, affine as the_packages
exercise.exercises_of = lambda chapter: EXERCISES
import torch; torch.manual_seed(4); before = torch.get_rng_state()
"""


@pytest.mark.slow
def test_in_a_kernel_a_wrong_answer_is_an_error_output_that_shows_its_message_alone(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    cells = [
        SETUP,
        "def affine(x, scale, shift):\n    print(1)\n    return x * scale + shift\n",
        'affine = check("70.1", affine)',
        "def affine(x, scale, shift):\n    return x + shift\n",
        'affine = check("70.1", affine, seed=3)',
        "def affine(x, scale, shift):\n    y = x.nothing\n    return y\n",
        'affine = check("70.1", affine)',
        "def affine(x, scale, shift):\n    import sys\n    sys.exit(1)\n",
        'affine = check("70.1", affine)',
        "def affine(x, scale, shift): raise ValueError('\\ud800')",
        'affine = check("70.1", affine)',
        'affine = check("70.1", ...)\nprint(affine is the_packages, torch.equal(before, torch.get_rng_state()))',
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"MINILLAMA_PARTS": str(tmp_path), "PYTHONPATH": str(root)}
    client = NotebookClient(book, timeout=120, allow_errors=True, resources={"metadata": {"path": str(root)}})
    client.execute(env=environment)
    right, wrong, raised, left, half, lent = (cell.outputs for cell in book.cells[2::2] + book.cells[-1:])
    assert [output.text for output in right] == ["✓ 70.1 affine: 3 of 3\n"]
    for outputs in (wrong, raised, left, half):
        (output,) = outputs
        assert output.output_type == "error" and output.ename == "CheckFailed" and "✗ 70.1 affine" in output.evalue
        assert "\n".join(output.traceback) == output.evalue and "Traceback" not in output.evalue
    assert wrong[0].evalue == failure("70.1", no_scale, 3)
    assert "AttributeError: 'Tensor' object has no attribute 'nothing'\n  at line 2: y = x.nothing" in raised[0].evalue
    assert "SystemExit: 1\n  at line 3: sys.exit(1)" in left[0].evalue and "\\ud800" in half[0].evalue
    assert lent[0].text == "○ 70.1 affine: not attempted (0 of 3)\nTrue True\n"
