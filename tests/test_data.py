import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.data import Batches, split, split_text, window, windows

TOKENS = torch.arange(10, 17)


def starts(batches: Batches, steps) -> list[int]:
    """Where the windows of these steps start; for a text 0, 1, 2, ... that is their first token."""
    return [start for step in steps for start in batches(step)[0][:, 0].tolist()]


@pytest.mark.parametrize(
    ("start", "x", "y"),
    [(0, [10, 11, 12], [11, 12, 13]), (1, [11, 12, 13], [12, 13, 14]), (3, [13, 14, 15], [14, 15, 16])],
)
def test_the_targets_of_a_window_are_the_tokens_that_come_next(start, x, y):
    tokens, targets = window(TOKENS, start, length=3)
    assert (tokens.tolist(), targets.tolist()) == (x, y)


@pytest.mark.parametrize(("n", "length"), [(7, 3), (4, 3), (2, 1), (100, 8)])
def test_a_window_may_start_wherever_it_and_its_last_target_fit_and_nowhere_else(n, length):
    legal = [start for start in range(-n, 2 * n) if start >= 0 and start + length + 1 <= n]
    accepted = []
    for start in range(-n, 2 * n):
        try:
            x, y = window(torch.arange(n), start, length)
        except ValueError as error:
            assert f"start={start}" in str(error)
            assert f"0 to {legal[-1]}" in str(error)
        else:
            accepted.append(start)
            assert len(x) == len(y) == length
    assert accepted == legal


@pytest.mark.parametrize(
    ("n", "validation", "n_validation"),
    [(100, 0.1, 10), (100, 0.34, 34), (100, 0.07, 7), (10, 0.9, 9), (12, 0.2, 3), (5, 0.1, 1)],
)
def test_the_split_cuts_once_and_the_parts_share_no_position(n, validation, n_validation):
    train, rest = split(torch.arange(n), validation)
    assert train.tolist() == list(range(n - n_validation))
    assert rest.tolist() == list(range(n - n_validation, n))


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, math.nan])
def test_a_share_that_leaves_nothing_is_refused(validation):
    with pytest.raises(ValueError, match=f"validation={validation}; expected a share between 0 and 1"):
        split(TOKENS, validation)


@pytest.mark.parametrize("n", [2, 10, 11, 30, 99])
@pytest.mark.parametrize("validation", [0.1, 0.25])
def test_a_text_is_cut_where_its_characters_would_be(n, validation):
    text = "".join(map(chr, range(40, 40 + n)))
    parts = [[ord(character) for character in part] for part in split_text(text, validation)]
    assert parts == [part.tolist() for part in split(torch.arange(40, 40 + n), validation)]


@given(n=st.integers(2, 40), length=st.integers(1, 45))
def test_windows_make_every_token_but_the_first_a_target_once(n, length):
    pairs = list(windows(torch.arange(n), length))
    assert [t for _, y in pairs for t in y.tolist()] == list(range(1, n))
    assert [t for x, _ in pairs for t in x.tolist()] == list(range(n - 1))
    assert all(len(x) == len(y) == length for x, y in pairs[:-1])
    assert 1 <= len(pairs[-1][0]) <= length


def test_the_targets_of_a_batch_are_the_tokens_that_come_next():
    text = torch.randperm(100)
    follows = dict(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
    batches = Batches(text, batch_size=3, length=5, seed=1)
    for step in range(15):
        tokens, targets = batches(step)
        assert tokens.shape == targets.shape == (3, 5)
        assert [follows[t] for t in tokens.flatten().tolist()] == targets.flatten().tolist()
        assert [follows[t] for t in tokens[:, :-1].flatten().tolist()] == tokens[:, 1:].flatten().tolist()


def test_a_batch_depends_on_seed_and_step_only_not_on_what_was_asked_before():
    def fresh():
        return Batches(torch.arange(100), batch_size=3, length=5, seed=7)

    forward, backward, steps = fresh(), fresh(), range(20)  # 6 batches per epoch: 3 epochs and a bit
    in_order = [starts(forward, [step]) for step in steps]
    assert [starts(fresh(), [step]) for step in steps] == in_order
    assert [starts(backward, [step]) for step in reversed(steps)][::-1] == in_order
    assert [starts(forward, [step]) for step in (13, 2, 2, 13)] == [in_order[s] for s in (13, 2, 2, 13)]


def test_another_seed_gives_other_batches():
    ours, theirs = (Batches(torch.arange(100), batch_size=3, length=5, seed=seed) for seed in (0, 1))
    assert starts(ours, range(12)) != starts(theirs, range(12))


@pytest.mark.parametrize(("n", "length", "batch_size"), [(100, 5, 3), (83, 8, 2), (20, 1, 4), (12, 4, 2)])
def test_an_epoch_uses_no_token_twice_and_leaves_out_less_than_a_batch_and_a_window(n, length, batch_size):
    batches = Batches(torch.arange(n), batch_size, length, seed=3)
    per_epoch = (n // length - 1) // batch_size
    for epoch in range(5):
        used = sorted(starts(batches, range(epoch * per_epoch, (epoch + 1) * per_epoch)))
        assert all(after - before >= length for before, after in pairwise(used))
        assert n - len(used) * length < (batch_size + 1) * length


def test_epochs_lay_their_windows_differently_and_shuffle_them():
    batches = Batches(torch.arange(100), batch_size=3, length=5, seed=0)
    epochs = [starts(batches, range(6 * epoch, 6 * epoch + 6)) for epoch in range(8)]
    assert len({epoch[0] % 5 for epoch in epochs}) > 2
    assert all(len({start % 5 for start in epoch}) == 1 for epoch in epochs)  # side by side
    ranks = {tuple(sorted(epoch).index(start) for start in epoch) for epoch in epochs}
    assert len(ranks) == len(epochs)
    assert tuple(range(18)) not in ranks


@pytest.mark.parametrize(("n", "length"), [(24, 5), (25, 5), (29, 5)])
def test_over_many_epochs_every_legal_start_is_used_the_last_one_too(n, length):
    batches = Batches(torch.arange(n), batch_size=1, length=length, seed=0)
    assert set(starts(batches, range(400))) == set(range(n - length))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: window(torch.arange(12), 0, 64), "12 tokens; windows of 64 need at least 65"),
        (lambda: window(torch.arange(3), 0, 3), "3 tokens; windows of 3 need at least 4"),
        (lambda: list(windows(torch.arange(0), 8)), "0 tokens; .* need at least 2"),
        (lambda: list(windows(torch.arange(1), 8)), "1 tokens; .* need at least 2"),
        (lambda: Batches(torch.arange(0), 2, 64, seed=0), "0 tokens; windows of 64 need at least 65"),
        (lambda: Batches(torch.arange(12), 2, 64, seed=0), "12 tokens; windows of 64 need at least 65"),
        (lambda: Batches(torch.arange(40), 10, 4, seed=0), "40 tokens hold 9 windows of 4, fewer"),
    ],
)
def test_a_text_that_is_too_short_is_refused_with_both_numbers(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make()


@pytest.mark.parametrize("length", [0, -1])
@pytest.mark.parametrize(
    "make",
    [
        lambda length: window(TOKENS, 0, length),
        lambda length: list(windows(TOKENS, length)),
        lambda length: Batches(TOKENS, 1, length, seed=0),
    ],
)
def test_a_window_holds_at_least_one_token(make, length):
    with pytest.raises(ValueError, match=f"length={length}; expected at least 1"):
        make(length)


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_holds_at_least_one_window(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        Batches(torch.arange(50), batch_size, 5, seed=0)
