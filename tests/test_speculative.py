import itertools

import pytest
import torch
from torch.testing import assert_close

from minillama.generate import generate, sampling_probs
from minillama.speculative import accept, ngram_draft, stream_drafted
from tests.test_quantize import llama


def test_a_draft_is_what_followed_the_last_time():
    text = [1, 2, 3, 7, 7, 1, 2, 3, 8, 9, 5, 1, 2, 3]
    assert ngram_draft(text, length=2) == [8, 9]
    assert ngram_draft(text, length=50) == [8, 9, 5, 1, 2, 3]
    assert ngram_draft([4, 2, 9, 3, 2], length=3) == [9, 3, 2]  # only the last token was there before
    assert ngram_draft([1, 2, 3], length=3) == ngram_draft([1], length=3) == ngram_draft([1, 1], length=0) == []


def exact(draft_probs, target_probs):
    """The probability of each text of K + 1 tokens, by going through every draft and every way to accept it."""
    K, V = draft_probs.shape
    total = torch.zeros((V,) * (K + 1), dtype=torch.float64)
    for draft in itertools.product(range(V), repeat=K):
        chance, said = torch.tensor(1.0, dtype=torch.float64), ()
        for i, x in enumerate(draft):
            chance = chance * draft_probs[i, x]
        for i, x in enumerate(draft):
            keep = min(1.0, float(target_probs[i, x] / draft_probs[i, x]))
            rest = (target_probs[i] - draft_probs[i]).clamp(min=0)
            if keep < 1:
                for y in range(V):  # what follows a replaced token is drawn from the target in the next call
                    total[(*said, y)] += chance * (1 - keep) * rest[y] / rest.sum() * _after(target_probs[i + 1 :], V)
            chance, said = chance * keep, (*said, x)
        total[said] += chance * target_probs[K]
    return total


def _after(rows, V):
    """Probabilities of everything that may follow, one axis per row."""
    out = torch.ones((), dtype=torch.float64)
    for row in rows:
        out = out[..., None] * row
    return out


def test_the_rule_keeps_the_distribution_exactly():
    """By enumeration, with the rule of the docstring; that accept follows the rule is the next test."""
    torch.manual_seed(0)
    q, p = torch.rand(2, 3).double().softmax(-1), (3 * torch.rand(3, 3).double()).softmax(-1)
    assert_close(exact(q, p), _after(p, 3))


@pytest.mark.parametrize("q, p", [
    ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]), ([0.0, 0.0, 1.0], [0.5, 0.3, 0.2]), ([0.2, 0.3, 0.5], [1.0, 0.0, 0.0]),
    ([0.3, 0.3, 0.4], [0.3, 0.3, 0.4]),
])  # fmt: skip
def test_what_accept_gives_is_distributed_as_the_target_says(q, p):
    generator = torch.Generator().manual_seed(0)
    q, p, last = torch.tensor([q]), torch.tensor([p]), torch.tensor([[0.1, 0.1, 0.8]])
    first, second, n = torch.zeros(3), torch.zeros(3), 4000
    for _ in range(n):
        new = accept(torch.multinomial(q[0], 1, generator=generator), q, torch.cat([p, last]), generator=generator)
        first[new[0]] += 1
        if len(new) == 2:
            second[new[1]] += 1
    assert_close(first / n, p[0], atol=0.03, rtol=0)
    kept = float(torch.minimum(q, p).sum())  # how often the draft's token stays
    assert abs(float(second.sum()) / n - kept) < 0.03
    if kept > 0.1:
        assert_close(second / second.sum(), last[0], atol=0.05, rtol=0)


def test_nothing_after_the_first_refused_token_stays():
    certain = torch.eye(5)
    for wrong in range(3):
        draft = torch.tensor([1, 2, 3])
        draft[wrong] = 4
        assert accept(draft, certain[draft], certain[[1, 2, 3, 0]]).tolist() == [1, 2, 3][: wrong + 1]
    assert accept(torch.tensor([1, 2, 3]), certain[[1, 2, 3]], certain[[1, 2, 3, 0]]).tolist() == [1, 2, 3, 0]


def told(tokens, length):
    """A draft that is sometimes right: what comes is mostly the same token again."""
    return tokens[-1:] * length


@pytest.mark.parametrize("draft", [ngram_draft, told, lambda tokens, length: []])
def test_at_temperature_0_the_text_is_that_of_generate_whatever_the_drafts(draft):
    model, tokens = llama(), torch.tensor([[3, 4, 5, 3, 4]])
    expected = generate(model, tokens, 30, temperature=0)[0, 5:]
    given = list(stream_drafted(model, tokens, 30, draft=draft, temperature=0))
    assert torch.equal(torch.cat(given), expected)


def test_good_drafts_save_calls_and_are_counted_by_what_is_yielded():
    model, tokens = llama(), torch.tensor([[3, 4, 5, 3, 4]])
    text = generate(model, tokens, 30, temperature=0)[0].tolist()
    given = list(stream_drafted(model, tokens, 30, draft=lambda t, n: text[len(t) : len(t) + n], temperature=0))
    assert [len(new) for new in given] == [9, 9, 9, 3]


def test_drawn_texts_are_distributed_as_without_drafts():
    model, tokens, n = llama(n_layers=1), torch.tensor([[3, 4]]), 600
    generator = torch.Generator().manual_seed(2)
    probs = sampling_probs(model(tokens)[:, -1], temperature=0.5)[0]
    second = torch.zeros(51)
    for _ in range(n):
        new = list(stream_drafted(model, tokens, 2, draft=told, generator=generator, temperature=0.5))
        second[torch.cat(new)[0]] += 1
    assert float((second / n - probs).abs().sum()) / 2 < 0.1


def test_bad_input_is_refused():
    model = llama()
    with pytest.raises(ValueError, match="2 sequences"):
        next(stream_drafted(model, torch.ones(2, 3, dtype=torch.long), 4))
    with pytest.raises(ValueError, match="60 tokens and 5 more do not fit into this model's 64"):
        next(stream_drafted(model, torch.ones(1, 60, dtype=torch.long), 5))
    with pytest.raises(ValueError, match="top_p=2"):
        next(stream_drafted(model, torch.ones(1, 3, dtype=torch.long), 5, top_p=2))
