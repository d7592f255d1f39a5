"""Exercises of chapter 11: from scores to probabilities, a cache, positions in a batch, a loop that writes, its end."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama import generate
from minillama.cache import KVCache
from minillama.course.checks import holds, integers, permutation, pick, rand, randn, refuses, same
from minillama.course.exercise import Exercise
from minillama.generate import check_sampling, keep_top_k, keep_top_p

# The ten words of the chapter, in the order of the alphabet: asleep cheese dead gone good green here hungry mad old
CHANCES = (0.05, 0.01, 0.30, 0.10, 0.08, 0.02, 0.20, 0.03, 0.15, 0.06)
DEAD, HERE, MAD = 2, 6, 8


def _ten_words() -> Tensor:
    """Their scores, (1, 10)."""
    return torch.tensor([CHANCES]).log() + 3


def _apart(*shape: int, scale: float = 1.0) -> Tensor:
    """Scores of both signs in random order, of which no two in a row are close. -> shape"""
    rows = [torch.tensor(permutation(shape[-1])) for _ in range(math.prod(shape[:-1]))]
    ranks = torch.stack(rows).float().view(shape) - shape[-1] / 2
    return scale * (ranks + 0.3 * rand(*shape) + 0.1)


# 11.1 tempered ------------------------------------------------------------------------------------------------------


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Turn scores into probabilities: softmax(logits / temperature). (B, V) -> (B, V), rows sum to 1

    temperature: 0 or more. 0 is greedy: 1.0 for the largest score of each row and 0.0 for all others; if several are
    largest, the first of them gets the 1.0.
    """
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    return (logits / temperature).softmax(dim=-1)


temperature = Exercise(
    "11.1",
    tempered,
    hints=(
        "Two cases. For temperature 0 there is nothing to divide: find the place of the largest score in each row, and "
        "put a 1 there. For all others: divide, then softmax along the row.",
        "`logits.argmax(dim=-1, keepdim=True)` is the place, (B, 1), the first one if there are several. "
        "`torch.zeros_like(logits)` has the right shape for the answer.",
        "`if temperature == 0: return torch.zeros_like(logits).scatter(-1, best, 1.0)`, and after it "
        "`(logits / temperature).softmax(dim=-1)`.",
    ),
)


@temperature.check("temperature 1, for the ten words")
def tempered_one(tempered):
    same(tempered(_ten_words(), 1.0), torch.tensor([CHANCES]))


@temperature.check("temperature 0.5: the chances squared, then made to sum to 1")
def tempered_half(tempered):
    squares = torch.tensor([CHANCES, CHANCES[::-1]]).pow(2)
    logits = torch.tensor([CHANCES, CHANCES[::-1]]).log() + torch.tensor([[3.0], [-2.0]])
    same(tempered(logits, 0.5), squares / squares.sum(dim=-1, keepdim=True))


@temperature.check("temperature 2, for three rows")
def tempered_two(tempered):
    logits = 2 * randn(3, 7)
    same(tempered(logits, 2.0), F.softmax(logits.double() / 2, dim=-1).float())


@temperature.check("temperature 0: the largest score of each row, for sure")
def tempered_zero(tempered):
    logits = _apart(3, 7)
    same(tempered(logits, 0.0), (logits == logits.amax(-1, keepdim=True)).float())


@temperature.check("temperature 0 where two scores are the largest: the first of them")
def tempered_tie(tempered):
    logits = torch.tensor([[1.0, 4.0, -2.0, 4.0], [-1.0, -3.0, -1.0, -8.0]])
    same(tempered(logits, 0.0), torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]]))


@temperature.check("scores in the hundreds, at temperature 0.5")
def tempered_large(tempered):
    logits = 100 * _apart(2, 5)
    same(tempered(logits, 0.5), F.softmax(logits.double() / 0.5, dim=-1).float())


@temperature.mistake("""You multiplied by the temperature. Divide: a high temperature must make scores smaller, and so
    more alike. Yours makes a bold model timid and a timid one bold.""")
def multiplied(logits, temperature):
    return tempered(logits, 0) if temperature == 0 else (logits * temperature).softmax(dim=-1)


@temperature.mistake("""You divided the probabilities by the temperature and made them sum to 1 again, which undoes
    it: all are divided by the same number. Divide the scores, before softmax.""")
def on_probabilities(logits, temperature):
    if temperature == 0:
        return tempered(logits, 0)
    probs = logits.softmax(dim=-1) / temperature
    return probs / probs.sum(dim=-1, keepdim=True)


@temperature.mistake("""You divided the probabilities by the temperature. Then they don't sum to 1, and if they were
    made to, all would be as before. Divide the scores, before softmax.""")
def softmax_first(logits, temperature):
    return tempered(logits, 0) if temperature == 0 else logits.softmax(dim=-1) / temperature


@temperature.mistake("""You raised probabilities to the power of 1 / temperature, which is a good idea, and did not
    make them sum to 1 again. Divide by the sum of each row.""")
def power_without_a_sum(logits, temperature):
    return tempered(logits, 0) if temperature == 0 else logits.softmax(dim=-1) ** (1 / temperature)


@temperature.mistake("""At temperature 0 two equal scores got half of the probability each. That is what dividing by a
    tiny number gives, such as temperature + 1e-9. Temperature 0 must be one token for sure, or the same prompt gives
    another text each time: find the first largest one (`argmax`).""")
def nearly_zero(logits, temperature):
    return (logits.double() / (temperature + 1e-9)).softmax(dim=-1).float()


@temperature.mistake("""At temperature 0 two equal scores got 1.0 each, and the row sums to 2. Only the first of them
    may have it: `argmax` gives its place.""")
def all_of_the_largest(logits, temperature):
    if temperature == 0:
        return (logits == logits.amax(dim=-1, keepdim=True)).float()
    return tempered(logits, temperature)


@temperature.mistake("""At temperature 0 you put the 1.0 into a copy of the scores, and the other scores are still
    there. They must be 0: `scatter` into `torch.zeros_like(logits)`.""")
def into_the_scores(logits, temperature):
    if temperature == 0:
        return logits.scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    return tempered(logits, temperature)


@temperature.mistake("""You divided by 0. That gives infinities, and softmax makes NaN of them. Temperature 0 is a
    case of its own: 1.0 for the largest score.""")
def divided_by_zero(logits, temperature):
    return (logits / temperature).softmax(dim=-1)


@temperature.mistake("""At temperature 0 you left the scores as they were, as if it were 1 (`if temperature:` is False
    for 0). It must be the largest score for sure.""")
def zero_is_one(logits, temperature):
    return (logits / temperature if temperature else logits).softmax(dim=-1)


@temperature.mistake("""At temperature 0 you gave the *place* of the best token. Asked for are probabilities, (B, V):
    1.0 at that place and 0.0 elsewhere, so that whoever draws from them need not know about temperature.""")
def gives_the_place(logits, temperature):
    return logits.argmax(dim=-1) if temperature == 0 else tempered(logits, temperature)


@temperature.mistake("""At temperature 0 you gave whole numbers, int64 (F.one_hot does that). Probabilities are float:
    `.float()`.""")
def whole_numbers(logits, temperature):
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.size(-1))
    return tempered(logits, temperature)


@temperature.mistake("""Your columns sum to 1. Each row is one text, and its V probabilities must sum to 1: softmax
    along the last axis, dim=-1.""")
def over_the_batch(logits, temperature):
    return tempered(logits, 0) if temperature == 0 else (logits / temperature).softmax(dim=0)


@temperature.mistake("""Your exponentials overflow: e to the power of 89 is more than float32 holds. Use softmax, or
    subtract the largest score of each row first (exercise 03.2).""")
def overflows(logits, temperature):
    if temperature == 0:
        return tempered(logits, 0)
    powers = (logits / temperature).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@temperature.mistake("""You forgot the softmax: these are scores, divided by the temperature. Make probabilities of
    them.""")
def still_scores(logits, temperature):
    return tempered(logits, 0) if temperature == 0 else logits / temperature


@temperature.alternative("probabilities to the power of 1 / temperature")
def powers_of_probabilities(logits, temperature):
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.size(-1)).float()
    powers = logits.double().softmax(dim=-1) ** (1 / temperature)
    return (powers / powers.sum(dim=-1, keepdim=True)).float()


@temperature.alternative("with math.exp and lists, the largest score subtracted")
def with_lists(logits, temperature):
    rows = []
    for row in logits.tolist():
        if temperature == 0:
            rows.append([float(i == row.index(max(row))) for i in range(len(row))])
        else:
            powers = [math.exp((score - max(row)) / temperature) for score in row]
            rows.append([power / sum(powers) for power in powers])
    return torch.tensor(rows)


# 11.2 keep_top_k ----------------------------------------------------------------------------------------------------

top_k = Exercise(
    "11.2",
    generate.keep_top_k,
    hints=(
        "Ask for each row: how large is its k-th largest score? Everything smaller goes.",
        "`logits.topk(k, dim=-1).values` are the k largest of each row, the largest first, (B, k). You need its last "
        "column, as a column: `[:, -1:]`, (B, 1).",
        "`logits.masked_fill(logits < smallest_kept, -math.inf)`, where `smallest_kept` is that column.",
    ),
)


def _top_k(logits: Tensor, k: int) -> Tensor:
    """Row by row, in plain Python."""
    rows = [(row, sorted(row)[-k]) for row in logits.tolist()]
    return torch.tensor([[x if x >= least else -math.inf for x in row] for row, least in rows])


@top_k.check("k = 3, for the ten words: dead, here and mad are left")
def top_k_ten_words(keep_top_k):
    expected = torch.full((1, 10), -math.inf)
    expected[0, [DEAD, HERE, MAD]] = _ten_words()[0, [DEAD, HERE, MAD]]
    same(keep_top_k(_ten_words(), 3), expected)


@top_k.check("three rows of scores, each with its own k best")
def top_k_rows(keep_top_k):
    logits = _apart(3, 8) + torch.tensor([[0.0], [30.0], [-30.0]])
    same(keep_top_k(logits, 4), _top_k(logits, 4))


@top_k.check("scores that are all negative")
def top_k_negative(keep_top_k):
    logits = _apart(2, 6) - 20
    same(keep_top_k(logits, 2), _top_k(logits, 2))


@top_k.check("scores that are all positive")
def top_k_positive(keep_top_k):
    logits = _apart(2, 6) + 20
    same(keep_top_k(logits, 5), _top_k(logits, 5))


@top_k.check("two tokens that share the k-th place: both stay")
def top_k_ties(keep_top_k):
    logits = torch.tensor([[1.0, 5.0, 3.0, 3.0, 0.0], [7.0, -1.0, 7.0, 7.0, 7.0]])
    same(keep_top_k(logits, 2), _top_k(logits, 2))


@top_k.check("k = 1, and k = V")
def top_k_ends(keep_top_k):
    logits = _apart(3, 5)
    same([keep_top_k(logits, 1), keep_top_k(logits, 5)], [_top_k(logits, 1), logits])


def _least_kept(logits: Tensor, k: int) -> Tensor:
    return logits.sort(dim=-1, descending=True).values[:, k - 1 : k]


@top_k.mistake("""You filled with 0. Zero is a score like any other, and here larger than many of those that you kept:
    after softmax the dropped tokens are back. Fill with -math.inf: e to the power of that is 0.""")
def fills_with_zero(logits, k):
    return logits.masked_fill(logits < _least_kept(logits, k), 0.0)


@top_k.mistake("""You filled with a large negative number. The docstring says -inf: it stays out whatever is done to
    the scores afterwards, while a number can be divided by a temperature, or meet scores that are just as low.""")
def fills_with_a_number(logits, k):
    return logits.masked_fill(logits < _least_kept(logits, k), -1e9)


@top_k.mistake("""You dropped the k-th best as well: compare with `<`, not with `<=`. With k = 1 nothing is left, and
    softmax of nothing is NaN.""")
def one_too_few(logits, k):
    return logits.masked_fill(logits <= _least_kept(logits, k), -math.inf)


@top_k.mistake("""You kept one token too many. The k-th largest is number k - 1 when one counts from 0.""")
def one_too_many(logits, k):
    return keep_top_k(logits, min(k + 1, logits.size(-1)))


@top_k.mistake("""You took place k of the sorted row. Python counts from 0: the k-th largest is at place k - 1, and
    with k = V there is no place k.""")
def place_k(logits, k):
    return logits.masked_fill(logits < logits.sort(dim=-1, descending=True).values[:, k, None], -math.inf)


@top_k.mistake("""You kept the k smallest. `topk` gives the largest, a plain `sort` gives the smallest first.""")
def keeps_the_worst(logits, k):
    return logits.masked_fill(logits > logits.sort(dim=-1).values[:, k - 1 : k], -math.inf)


@top_k.mistake("""You dropped the k best and kept the rest: the comparison is the wrong way round.""")
def drops_the_best(logits, k):
    return logits.masked_fill(logits >= _least_kept(logits, k), -math.inf)


@top_k.mistake("""You dropped what is larger than the k-th best, and kept the rest: the comparison is the wrong way
    round.""")
def drops_the_better(logits, k):
    return logits.masked_fill(logits > _least_kept(logits, k), -math.inf)


@top_k.mistake("""You kept only the best. `topk` gives the largest first, so the k-th is in the last column: `[:,
    -1:]`.""")
def first_column(logits, k):
    return logits.masked_fill(logits < _least_kept(logits, 1), -math.inf)


@top_k.mistake("""You took the smallest of all rows for the border of each. Each row has its own k best: the border is a
    column, (B, 1).""")
def smallest_of_all(logits, k):
    return logits.masked_fill(logits < _least_kept(logits, k).min(), -math.inf)


@top_k.mistake("""You took one border for all rows. Each row is a text of its own and has its own k best: the border
    is a column, (B, 1).""")
def one_border_for_all(logits, k):
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -math.inf)


@top_k.mistake("""You took the border of the first row for all rows. Each row has its own: keep the axis, `[:, -1:]`,
    (B, 1).""")
def border_of_the_first(logits, k):
    return logits.masked_fill(logits < _least_kept(logits, k)[0], -math.inf)


@top_k.mistake("""You kept exactly k where two tokens share the k-th place, and dropped one of two equals. Which one
    would be an accident of sorting. Compare scores with the k-th largest score, and keep all that are not
    smaller.""")
def exactly_k(logits, k):
    best = logits.topk(k, dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)


@top_k.mistake("""You gave back the k scores alone. Nobody can tell any more whose they are: give back (B, V), each
    score in its old place.""")
def gives_k_numbers(logits, k):
    return logits.topk(k, dim=-1).values


@top_k.mistake("""You gave back the scores in sorted order. The place in the row says which token it is: every score
    must stay where it was.""")
def gives_them_sorted(logits, k):
    ordered = logits.sort(dim=-1, descending=True).values
    return ordered.masked_fill(torch.arange(logits.size(-1)) >= k, -math.inf)


@top_k.mistake("""You gave back probabilities. Asked for are scores, so that another filter can follow; softmax comes
    once, at the end.""")
def gives_probabilities(logits, k):
    return keep_top_k(logits, k).softmax(dim=-1)


@top_k.alternative("sort, and torch.where")
def by_sorting(logits, k):
    ordered = logits.sort(dim=-1).values
    return torch.where(logits >= ordered[:, ordered.size(-1) - k, None], logits, torch.tensor(-math.inf))


@top_k.alternative("row by row, with a list")
def row_by_row(logits, k):
    out = logits.clone()
    for row in out:
        least = sorted(row.tolist(), reverse=True)[k - 1]
        for i, score in enumerate(row.tolist()):
            if score < least:
                row[i] = -math.inf
    return out


@top_k.alternative("count how many are better")
def by_counting(logits, k):
    n_better = (logits[:, None, :] > logits[:, :, None]).sum(dim=-1)  # (B, V)
    return logits.masked_fill(n_better >= k, -math.inf)


# 11.3 keep_top_p ----------------------------------------------------------------------------------------------------

top_p = Exercise(
    "11.3",
    generate.keep_top_p,
    hints=(
        "Line the tokens up, the most probable first. A token stays if those *ahead* of it have not reached p yet. "
        "So the question for each token is: how much do those ahead of it have together?",
        "`probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)`; `probs.cumsum(dim=-1)` counts the "
        "token itself too, so take it off again: `before = probs.cumsum(dim=-1) - probs`. What has `before >= p` goes.",
        "That is in sorted order. Bring it back: `drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, "
        "before >= p)`, then `logits.masked_fill(drop, -math.inf)`.",
    ),
)


def _top_p(logits: Tensor, p: float) -> Tensor:
    """Row by row, with a loop over the tokens, the most probable first."""
    out = torch.full_like(logits, -math.inf)
    for row, scores in zip(out, logits, strict=True):
        reached = 0.0
        for i in scores.sort(descending=True).indices.tolist():
            row[i] = scores[i]
            reached += scores.double().softmax(dim=-1)[i].item()
            if reached >= p:
                break
    return out


@top_p.check("p = 0.6, for the ten words: dead and here make 0.5, so mad is needed, too")
def top_p_ten_words(keep_top_p):
    expected = torch.full((1, 10), -math.inf)
    expected[0, [DEAD, HERE, MAD]] = _ten_words()[0, [DEAD, HERE, MAD]]
    same(keep_top_p(_ten_words(), 0.6), expected)


@top_p.check("three rows, one of them sure, one of them unsure")
def top_p_rows(keep_top_p):
    logits = torch.tensor([[1.5], [0.4], [0.1]]) * _apart(3, 9)
    same(keep_top_p(logits, 0.7), _top_p(logits, 0.7))


@top_p.check("a p so small that the best token alone is more")
def top_p_tiny(keep_top_p):
    logits = _apart(2, 6, scale=0.3)
    same(keep_top_p(logits, 1e-6), _top_p(logits, 1e-6))


@top_p.check("p = 1: all stay")
def top_p_all(keep_top_p):
    logits = torch.tensor([[0.5], [-3.0]]).repeat(1, 4)  # a quarter for each: sums without rounding
    same(keep_top_p(logits, 1.0), logits)


@top_p.check("tokens that were ruled out before (-inf) stay out")
def top_p_ruled_out(keep_top_p):
    logits = _ten_words().repeat(2, 1)
    logits[0, [DEAD, 9]] = -math.inf  # what is left sums to 0.64 of the old ones
    logits[1, [HERE, 0, 1]] = -math.inf
    same(keep_top_p(logits, 0.8), _top_p(logits, 0.8))


@top_p.check("scores far below 0, p = 0.95")
def top_p_negative(keep_top_p):
    logits = _apart(2, 7, scale=0.6) - 40
    same(keep_top_p(logits, 0.95), _top_p(logits, 0.95))


def _kept(logits, keep, fill=-math.inf):
    """With `keep`, a function of the sorted probabilities, in the place of the rule."""
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    return logits.masked_fill(~torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, keep(probs)), fill)


@top_p.mistake("""You dropped the token that crosses p, and where the best one alone is more than p, nothing is left:
    a row of -inf, which softmax turns into NaN. Ask what those *ahead* of a token have (`cumsum - probs`), not what
    they have together with it.""")
def without_the_crossing_one(logits, p):
    return _kept(logits, lambda probs: probs.cumsum(dim=-1) <= p)


@top_p.mistake("""You dropped the token that crosses p. It stays: the tokens that are left must *reach* p together.
    Ask what those ahead of a token have (`cumsum - probs`).""")
def crossing_one_dropped_but_one_kept(logits, p):
    first = torch.arange(logits.size(-1)) == 0
    return _kept(logits, lambda probs: (probs.cumsum(dim=-1) <= p) | first)


@top_p.mistake("""You dropped the token with which the sum reaches p: the one that crosses it, and with p = 1 the last
    of all. Ask what those *ahead* of a token have (`cumsum - probs`), not what they have together with it.""")
def without_the_last_one(logits, p):
    return _kept(logits, lambda probs: probs.cumsum(dim=-1) < p)


@top_p.mistake("""You moved the tokens to be dropped one place on, so that the one that crosses p stays, and forgot
    the first place: where the best token alone is more than p, it is dropped. It always stays.""")
def first_one_forgotten(logits, p):
    def keep(probs):
        drop = probs.cumsum(dim=-1) > p
        drop[:, 1:] = drop[:, :-1].clone()
        return ~drop

    return _kept(logits, keep)


@top_p.mistake("""You kept one token after the one that crosses p. Those up to the crossing one have reached p; the
    next is not needed.""")
def one_more(logits, p):
    return _kept(logits, lambda probs: F.pad((probs.cumsum(-1) - probs < p)[:, :-1], (1, 0), value=True))


@top_p.mistake("""You added up in the order of the vocabulary. First sort by probability: otherwise which tokens stay
    depends on their numbers, and an unlikely token with a small number is kept.""")
def not_sorted(logits, p):
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs.cumsum(dim=-1) - probs >= p, -math.inf)


@top_p.mistake("""You sorted, and then used the answer as if it were not sorted. Place 0 of the sorted row is the most
    probable token, not token 0: bring it back with `scatter` and the order that `sort` gave you.""")
def not_brought_back(logits, p):
    probs = logits.softmax(dim=-1).sort(dim=-1, descending=True).values
    return logits.masked_fill(probs.cumsum(dim=-1) - probs >= p, -math.inf)


@top_p.mistake("""You brought the marks back with `gather`. The order says where each token stood before sorting:
    `gather` fetches from these places, `scatter` puts there, and that is what is needed.""")
def gathered(logits, p):
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    return logits.masked_fill((probs.cumsum(dim=-1) - probs >= p).gather(-1, order), -math.inf)


@top_p.mistake("""You dropped those that are needed to reach p, and kept the rest: the comparison is the wrong way
    round.""")
def keeps_the_tail(logits, p):
    return _kept(logits, lambda probs: probs.cumsum(dim=-1) - probs >= p)


@top_p.mistake("""You sorted the least probable first, and kept those. The most probable come first:
    `descending=True`.""")
def worst_first(logits, p):
    probs, order = logits.softmax(dim=-1).sort(dim=-1)
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, probs.cumsum(dim=-1) - probs < p)
    return logits.masked_fill(~keep, -math.inf)


@top_p.mistake("""You used the order of the first row for all rows. Each row is sorted by itself.""")
def order_of_the_first(logits, p):
    order = logits[0].sort(descending=True).indices
    probs = logits.softmax(dim=-1)[:, order]
    keep = torch.zeros_like(logits, dtype=torch.bool)
    keep[:, order] = probs.cumsum(dim=-1) - probs < p
    return logits.masked_fill(~keep, -math.inf)


@top_p.mistake("""You compared each token's own probability with p. What counts is how much those ahead of it have
    together. (A bound on each one's own is another filter.)""")
def each_by_itself(logits, p):
    return logits.masked_fill(logits.softmax(dim=-1) < p, -math.inf)


@top_p.mistake("""You added up scores. p is a probability: softmax first, then add up.""")
def sums_of_scores(logits, p):
    ordered, order = logits.sort(dim=-1, descending=True)
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, ordered.cumsum(dim=-1) - ordered >= p)
    return logits.masked_fill(drop, -math.inf)


@top_p.mistake("""You filled with 0. Zero is a score like any other: fill with -math.inf.""")
def zero_in_its_place(logits, p):
    return _kept(logits, lambda probs: probs.cumsum(dim=-1) - probs < p, fill=0.0)


@top_p.mistake("""You gave back probabilities. Asked for are scores; softmax comes once, at the end.""")
def probabilities_instead(logits, p):
    return keep_top_p(logits, p).softmax(dim=-1)


@top_p.mistake("""You set probabilities to 0 and gave them back. Asked for are scores: `logits.masked_fill(...)`, with
    -math.inf.""")
def probabilities_with_zeros(logits, p):
    return _kept(logits, lambda probs: probs.cumsum(dim=-1) - probs < p).isfinite() * logits.softmax(dim=-1)


@top_p.mistake("""You set probabilities to -inf and gave them back. Asked for are scores: `logits.masked_fill(...)`.""")
def probabilities_ruled_out(logits, p):
    return logits.softmax(dim=-1).masked_fill(keep_top_p(logits, p).isinf(), -math.inf)


@top_p.mistake("""You gave back the scores in sorted order. Every score must stay in its place, which says whose it
    is.""")
def left_sorted(logits, p):
    ordered = logits.sort(dim=-1, descending=True).values
    probs = ordered.softmax(dim=-1)
    return ordered.masked_fill(probs.cumsum(dim=-1) - probs >= p, -math.inf)


@top_p.alternative("the least probable first, as Hugging Face does it: drop them while they sum to 1 - p or less")
def from_below(logits, p):
    ordered, order = logits.sort(dim=-1)
    drop = ordered.double().softmax(dim=-1).cumsum(dim=-1) <= 1 - p + 1e-9
    drop[:, -1] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)


@top_p.alternative("a loop over the tokens, the best first")
def in_a_loop(logits, p):
    out = torch.full_like(logits, -math.inf)
    for row, scores in zip(out, logits, strict=True):
        probs = scores.softmax(dim=-1).tolist()
        reached = 0.0
        for i in sorted(range(len(probs)), key=lambda i: -probs[i]):
            if reached >= p:
                break
            row[i] = scores[i]
            reached += probs[i]
    return out


@top_p.alternative("without sorting: who is more probable than I am?")
def everybody_ahead(logits, p):
    probs = logits.softmax(dim=-1)
    ahead = ((probs[:, None, :] > probs[:, :, None]) * probs[:, None, :]).sum(dim=-1)
    return torch.where(ahead < p, logits, torch.full_like(logits, -math.inf))


# 11.4 keep_min_p ----------------------------------------------------------------------------------------------------


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least min_p times as probable as the best one of their row. (B, V) -> (B, V)

    The others get -inf. min_p: 0 to 1; 0 keeps all, 1 only the best.
    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), -math.inf)


minimum = Exercise(
    "11.4",
    keep_min_p,
    hints=(
        "One border per row, as with top-k. Here it is min_p times the probability of the best token.",
        "`probs = logits.softmax(dim=-1)`, and `probs.amax(dim=-1, keepdim=True)` is the best of each row, (B, 1).",
        "`logits.masked_fill(probs < min_p * best, -math.inf)`.",
    ),
)


def _min_p(logits: Tensor, min_p: float) -> Tensor:
    rows = []
    for row in logits.tolist():
        rows.append([x if math.exp(x - max(row)) >= min_p else -math.inf for x in row])
    return torch.tensor(rows)


@minimum.check("min_p = 0.25, for the ten words: the border is 0.25 · 0.30 = 0.075")
def min_p_ten_words(keep_min_p):
    expected = _ten_words().masked_fill(torch.tensor([CHANCES]) < 0.075, -math.inf)
    same(keep_min_p(_ten_words(), 0.25), expected)


@minimum.check("three rows, one of them sure, one of them unsure")
def min_p_rows(keep_min_p):
    logits = torch.tensor([[1.5], [0.4], [0.1]]) * _apart(3, 9)
    same(keep_min_p(logits, 0.3), _min_p(logits, 0.3))


@minimum.check("scores in the hundreds, of both signs")
def min_p_large(keep_min_p):
    logits = 0.7 * _apart(2, 6) + torch.tensor([[400.0], [-400.0]])
    same(keep_min_p(logits, 0.1), _min_p(logits, 0.1))


@minimum.check("min_p = 1: the best stays")
def min_p_one(keep_min_p):
    logits = _apart(2, 6)
    same(keep_min_p(logits, 1.0), _min_p(logits, 1.0))


@minimum.check("min_p = 0: all stay")
def min_p_zero(keep_min_p):
    logits = _apart(2, 6)
    same(keep_min_p(logits, 0.0), logits)


@minimum.mistake("""You compared with min_p itself. The border is min_p times the probability of the *best* token, so
    that it moves with the model: where nothing is likely, less is enough.""")
def fixed_border(logits, min_p):
    return logits.masked_fill(logits.softmax(dim=-1) < min_p, -math.inf)


@minimum.mistake("""You took min_p of the best *score*. "A tenth as probable" is said of probabilities; scores have no
    zero that means anything, and may be negative. Softmax first.""")
def part_of_the_score(logits, min_p):
    return logits.masked_fill(logits < min_p * logits.amax(dim=-1, keepdim=True), -math.inf)


@minimum.mistake("""You took the best of all rows for every row. Each row has its own: `amax(dim=-1,
    keepdim=True)`.""")
def best_of_all(logits, min_p):
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < min_p * probs.max(), -math.inf)


@minimum.mistake("""You dropped tokens that lie exactly on the border: at least min_p means that equal is enough. With
    min_p = 1 your version drops the best token itself, and nothing is left.""")
def more_than(logits, min_p):
    best = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((logits - best).exp() <= min_p, -math.inf)


@minimum.mistake("""Your exponentials overflow (or all become 0) where scores are large: use softmax, or subtract the
    largest score before exp.""")
def exp_of_scores(logits, min_p):
    powers = logits.exp()
    return logits.masked_fill(~(powers >= min_p * powers.amax(dim=-1, keepdim=True)), -math.inf)


@minimum.mistake("""You kept what is below the border and dropped what is above it. Turn the comparison round.""")
def keeps_the_unlikely(logits, min_p):
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs >= min_p * probs.amax(dim=-1, keepdim=True), -math.inf)


@minimum.mistake("""You filled with 0. Zero is a score like any other: fill with -math.inf.""")
def min_p_zero_filled(logits, min_p):
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), 0.0)


@minimum.mistake("""You gave back probabilities. Asked for are scores; softmax comes once, at the end.""")
def min_p_probabilities(logits, min_p):
    return keep_min_p(logits, min_p).softmax(dim=-1)


@minimum.mistake("""You set probabilities to 0 and gave them back. Asked for are scores: `logits.masked_fill(...)`, with
    -math.inf.""")
def min_p_probabilities_with_zeros(logits, min_p):
    probs = logits.softmax(dim=-1)
    return probs.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), 0.0)


@minimum.mistake("""You set probabilities to -inf and gave them back. Asked for are scores:
    `logits.masked_fill(...)`.""")
def min_p_probabilities_ruled_out(logits, min_p):
    probs = logits.softmax(dim=-1)
    return probs.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), -math.inf)


@minimum.mistake("""You took probabilities over the batch (dim=0). Each row is one text: softmax and `amax` go along the
    last axis, dim=-1.""")
def min_p_over_the_batch(logits, min_p):
    probs = logits.softmax(dim=0)
    return logits.masked_fill(probs < min_p * probs.amax(dim=0, keepdim=True), -math.inf)


@minimum.alternative("differences of scores: ln(min_p) below the best")
def in_logarithms(logits, min_p):
    if min_p == 0:
        return logits.clone()
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(min_p) - 1e-6, -math.inf)


@minimum.alternative("row by row, with math.exp")
def min_p_in_a_loop(logits, min_p):
    return _min_p(logits, min_p)


# 11.5 sampling_probs ------------------------------------------------------------------------------------------------

sampling = Exercise(
    "11.5",
    generate.sampling_probs,
    hints=(
        "First what must be refused: `check_sampling(...)` for the settings, and rows whose best score is not finite. "
        "Then temperature 0, which is done at once. Then the filters in the order of the docstring, softmax last.",
        "`best = logits.max(dim=-1, keepdim=True)` has `.values` and `.indices`. NaN counts as larger than any number, "
        "and `best.values.isfinite().all()` is False if a row holds NaN, inf, or only -inf. Then go on with "
        "`logits.float()`.",
        "Your `tempered` does temperature 0. For the rest: `(logits.float() - best.values) / temperature`, then if not "
        "None `keep_top_k(logits, min(top_k, V))`, if below 1 `keep_top_p`, if not None `keep_min_p`; then softmax.",
    ),
)


def _order(logits: Tensor, *steps: Callable[[Tensor], Tensor]) -> Tensor:
    logits = logits.double()
    for step in steps:
        logits = step(logits)
    return logits.softmax(dim=-1).float()


@sampling.check("no settings: softmax; and temperature 0.7")
def probs_plain(sampling_probs):
    logits = 2 * randn(2, 7)
    found = [sampling_probs(_ten_words()), sampling_probs(logits, temperature=0.7)]
    same(found, [torch.tensor([CHANCES]), _order(logits / 0.7)])


@sampling.check("temperature 0, where two are the best, whatever the other settings are")
def probs_greedy(sampling_probs):
    logits = torch.tensor([[1.0, 4.0, -2.0, 4.0], [-1.0, -3.0, -1.0, -8.0]])
    expected = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]])
    given = [sampling_probs(logits, temperature=0), sampling_probs(logits, temperature=0.0, top_k=3, top_p=0.9)]
    same(given, [expected, expected])


@sampling.check("top_k, and a top_k larger than the vocabulary")
def probs_top_k(sampling_probs):
    logits = _apart(2, 6, scale=0.5) - 3
    found = [sampling_probs(logits, top_k=2), sampling_probs(logits, top_k=99)]
    same(found, [_order(logits, lambda x: keep_top_k(x, 2)), _order(logits)])


@sampling.check("temperature 2 with top_p = 0.7: the temperature comes first")
def probs_temperature_then_p(sampling_probs):
    same(sampling_probs(_ten_words(), temperature=2.0, top_p=0.7), _order(_ten_words() / 2, lambda x: _top_p(x, 0.7)))


@sampling.check("temperature 2 with min_p = 0.4: the temperature comes first")
def probs_temperature_then_min(sampling_probs):
    same(
        sampling_probs(_ten_words(), temperature=2.0, min_p=0.4),
        _order(_ten_words() / 2, lambda x: keep_min_p(x, 0.4)),
    )


@sampling.check("top_k = 5 with top_p = 0.7: p of what the k best have")
def probs_k_then_p(sampling_probs):
    same(
        sampling_probs(_ten_words(), top_k=5, top_p=0.7),
        _order(_ten_words(), lambda x: keep_top_k(x, 5), lambda x: _top_p(x, 0.7)),
    )


@sampling.check("top_p = 0.7 with min_p = 0.4: p of all, and then the comparison with the best")
def probs_p_then_min(sampling_probs):
    same(
        sampling_probs(_ten_words(), top_p=0.7, min_p=0.4),
        _order(_ten_words(), lambda x: _top_p(x, 0.7), lambda x: keep_min_p(x, 0.4)),
    )


@sampling.check("a token that is ruled out already (-inf): it gets 0, and nothing is refused")
def probs_ruled_out(sampling_probs):
    logits = _apart(2, 5).index_fill(1, torch.tensor(permutation(5)[:1]), -math.inf)
    same(sampling_probs(logits), _order(logits))


@sampling.check("float16 scores of 500 at temperature 0.001: no overflow, and float32 comes back")
def probs_half(sampling_probs):
    logits = torch.tensor([[500.0, 499.5, -500.0], [-500.0, -500.0, -501.0]]).half()
    same(sampling_probs(logits, temperature=0.001), torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]]))


@sampling.check("NaN is refused, at temperature 0 as well")
def probs_nan(sampling_probs):
    refuses(sampling_probs, torch.tensor([[1.0, 2.0], [math.nan, 0.0]]))
    refuses(sampling_probs, torch.tensor([[1.0, 2.0], [math.nan, 0.0]]), temperature=0.0)


@sampling.check("a row in which every token is ruled out is refused")
def probs_no_token(sampling_probs):
    refuses(sampling_probs, torch.tensor([[1.0, 2.0], [-math.inf, -math.inf]]), temperature=0.5)


@sampling.check("settings out of their range are refused")
def probs_settings(sampling_probs):
    for setting in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.5}):
        refuses(sampling_probs, _ten_words(), **setting)


def _sampling(
    logits, temperature=1.0, top_k=None, top_p=None, min_p=None, *, order="tkpm", last=None, check=check_sampling,
    finite=True, k=None,
):  # fmt: skip
    """The whole, with one thing about it changed."""
    check(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    best = logits.max(dim=-1, keepdim=True)
    if finite and not best.values.isfinite().all():
        raise ValueError("scores")
    if temperature == 0:
        return tempered(logits.float(), 0)
    logits = logits.float() - best.values
    steps = {
        "t": lambda x: x / temperature,
        "k": lambda x: x if top_k is None else keep_top_k(x, (k or min)(top_k, x.size(-1))),
        "p": lambda x: x if top_p is None or top_p >= 1 else keep_top_p(x, top_p),
        "m": lambda x: x if min_p is None else keep_min_p(x, min_p),
    }
    for step in order:
        logits = steps[step](logits)
    return (last or (lambda x: x.softmax(dim=-1)))(logits)


@sampling.mistake("""You applied top-p before the temperature. First divide by the temperature, then ask which tokens
    reach p: a high temperature makes the others likelier, so more of them are needed.""")
def p_before_temperature(logits, **settings):
    return _sampling(logits, order="kptm", **settings)


@sampling.mistake("""You applied min-p before the temperature. First divide by the temperature, then compare with the
    best: a high temperature brings the others closer to it.""")
def min_p_before_temperature(logits, **settings):
    return _sampling(logits, order="mtkp", **settings)


@sampling.mistake("""You applied the temperature last, after all filters. It comes first.""")
def temperature_last(logits, **settings):
    return _sampling(logits, order="kpmt", **settings)


@sampling.mistake("""You applied top-p before top-k. With top-k first, p is a part of what the k best have together,
    and fewer tokens may be enough.""")
def p_before_k(logits, **settings):
    return _sampling(logits, order="tpkm", **settings)


@sampling.mistake("""You applied min-p before top-p. With top-p first, p is a part of all; the other way round it is a
    part of what min-p has left, and fewer tokens are enough.""")
def min_p_before_p(logits, **settings):
    return _sampling(logits, order="tkmp", **settings)


@sampling.mistake("""You used only one of the filters that were set (`elif`?). They are used together, one after the
    other: each has an `if` of its own.""")
def one_filter_only(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if top_k is not None:
        top_p = min_p = None
    elif top_p is not None:
        min_p = None
    return _sampling(logits, temperature, top_k, top_p, min_p)


@sampling.mistake("""You made probabilities of the scores before the filters, and softmax of these again. The filters
    take scores: divide by the temperature without softmax, which comes once, at the end.""")
def softmax_twice(logits, temperature=1.0, **settings):
    if temperature == 0:
        return _sampling(logits, temperature, **settings)
    _sampling(logits, temperature, **settings)  # for what it refuses
    probs = tempered(logits.float() - logits.float().amax(dim=-1, keepdim=True), temperature)
    return _sampling(probs, 1.0, **settings)


@sampling.mistake("""You did not make the probabilities of what is left sum to 1 again. Set dropped scores to -inf
    *before* the last softmax, and the rest fills the gap by itself.""")
def not_normalized(logits, temperature=1.0, **settings):
    kept = _sampling(logits, temperature, **settings) > 0
    return kept * _sampling(logits, temperature)


@sampling.mistake("""At temperature 0 two equal scores share the probability. Temperature 0 means one token for sure,
    the first of the best.""")
def ties_share(logits, temperature=1.0, **settings):
    probs = _sampling(logits, temperature, **settings)
    if temperature == 0:
        return (logits.double() / 1e-9).softmax(dim=-1).float()
    return probs


@sampling.mistake("""A top_k larger than the vocabulary raises an error. Nothing is wrong with asking for the 99 best
    of 65: use min(top_k, V).""")
def top_k_too_large(logits, **settings):
    return _sampling(logits, k=lambda top_k, V: top_k, **settings)


@sampling.mistake("""Your scores can be NaN, and nobody is told. Check that the best score of each row is finite, and
    raise a ValueError: a broken model should say so here, and not write nonsense.""")
def nan_goes_through(logits, **settings):
    return _sampling(logits, finite=False, **settings)


@sampling.mistake("""At temperature 0 scores with NaN go through: you look for NaN only after that case is done. Look
    first.""")
def nan_at_zero(logits, temperature=1.0, **settings):
    return _sampling(logits, temperature, finite=temperature != 0, **settings)


@sampling.mistake("""You look for NaN, and not for a row in which every score is -inf. There is nothing to draw from it,
    and softmax makes NaN of it: check that the best score of each row is finite.""")
def no_token_goes_through(logits, **settings):
    if logits.isnan().any():
        raise ValueError("scores")
    return _sampling(logits, finite=False, **settings)


@sampling.mistake("""You refuse every -inf. A single one is no fault: that token was ruled out before. Only a row in
    which nothing else is left must be refused.""")
def refuses_any_infinity(logits, **settings):
    if not logits.isfinite().all():
        raise ValueError("scores")
    return _sampling(logits, **settings)


@sampling.mistake("""You did not check the settings. Call check_sampling first: a top_p of 0 or a temperature of -1 is
    a slip of the pen, and the error must name it.""")
def unchecked(logits, **settings):
    return _sampling(logits, check=lambda **settings: None, **settings)


@sampling.mistake("""You gave scores back: the softmax at the end is missing.""")
def no_softmax(logits, **settings):
    return _sampling(logits, last=lambda x: x, **settings)


@sampling.mistake("""You stayed in the type of the scores. Go to float32 first: probabilities in float16 are coarse,
    and draws from them are wrong in the tail.""")
def stays_in_half(logits, **settings):
    return _sampling(logits, **settings).to(logits.dtype)


@sampling.mistake("""You divided float16 scores by the temperature before you went to float32. 500 / 0.001 is more
    than float16 holds, infinity minus infinity is NaN. First `logits.float()`.""")
def divided_in_half(logits, temperature=1.0, **settings):
    check_sampling(temperature=temperature, **settings)
    if not logits.max(dim=-1).values.isfinite().all():
        raise ValueError("scores")
    return _sampling(logits if temperature == 0 else (logits / temperature).float(), min(temperature, 1.0) and 1.0,
                     **settings, finite=False) if temperature else _sampling(logits, 0, **settings)  # fmt: skip


@sampling.mistake("""You did everything in the type of the scores. 500 / 0.001 is more than float16 holds, and infinity
    minus infinity is NaN. First `logits.float()`.""")
def all_in_half(logits, temperature=1.0, **settings):
    if logits.dtype != torch.half or temperature == 0:
        return _sampling(logits, temperature, **settings)
    return (logits / temperature).softmax(dim=-1)


@sampling.mistake("""At temperature 0 you divided by 0, and the result is NaN. Do that case first: your `tempered`
    gives the answer, whatever the filters are.""")
def zero_not_handled(logits, temperature=1.0, **settings):
    probs = _sampling(logits, temperature, **settings)
    if temperature == 0:
        best = logits.max(dim=-1, keepdim=True).values
        return ((logits.float() - best) / temperature).softmax(dim=-1)
    return probs


@sampling.mistake("""After min-p your probabilities don't sum to 1. Set scores to -inf (your `keep_min_p` does), and
    softmax after that, once, at the very end.""")
def min_p_after_softmax(logits, min_p=None, **settings):
    check_sampling(min_p=min_p)
    probs = _sampling(logits, **settings)
    return probs if min_p is None else probs * (probs >= min_p * probs.amax(dim=-1, keepdim=True))


@sampling.mistake("""You left out min_p. It comes after top-p: your `keep_min_p`.""")
def without_min_p(logits, min_p=None, **settings):
    check_sampling(min_p=min_p)
    return _sampling(logits, **settings)


@sampling.alternative("a mask for each filter, from sorted probabilities")
def with_masks(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    if logits.isnan().any() or not logits.amax(dim=-1).isfinite().all():
        raise ValueError("not a number, or no token at all")
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.size(-1)).float()
    probs = (logits.double() / temperature).softmax(dim=-1)
    if top_k is not None and top_k < probs.size(-1):
        probs = probs * (probs >= probs.sort(dim=-1, descending=True).values[:, top_k - 1, None])
        probs = probs / probs.sum(dim=-1, keepdim=True)
    if top_p is not None:
        ahead = ((probs[:, None, :] > probs[:, :, None]) * probs[:, None, :]).sum(dim=-1)
        probs = probs * (ahead < top_p)
    if min_p is not None:
        probs = probs * (probs >= min_p * probs.amax(dim=-1, keepdim=True))
    return (probs / probs.sum(dim=-1, keepdim=True)).float()


@sampling.alternative("row by row, with lists")
def row_after_row(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    rows = []
    for row in logits.tolist():
        if any(math.isnan(x) for x in row) or not math.isfinite(max(row)):
            raise ValueError("look at the scores")
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))
        if temperature == 0:
            powers = {order[0]: 1.0}
        else:
            powers = {i: math.exp((row[i] - max(row)) / temperature) for i in order}
            powers = {i: powers[i] for i in order[:top_k] if powers[i] > 0}
            total, reached, kept = sum(powers.values()), 0.0, {}
            for i, power in powers.items():
                if reached < (top_p or 1) and power >= (min_p or 0):
                    kept[i] = power
                reached += power / total
            powers = kept
        rows.append([powers.get(i, 0.0) / sum(powers.values()) for i in range(len(row))])
    return torch.tensor(rows)


# 11.6 penalize_repetition -------------------------------------------------------------------------------------------

repetition = Exercise(
    "11.6",
    generate.penalize_repetition,
    hints=(
        "For each row: which tokens were there, and what are their scores now? A positive score gets smaller when it "
        "is divided. What must be done to a negative one, so that it gets smaller, too?",
        "`logits.gather(-1, tokens)` are the scores of the tokens that were there, (B, T). "
        "`torch.where(seen > 0, a, b)` takes a where the condition holds, and b elsewhere.",
        "`logits.scatter(-1, tokens, new)` puts the new scores, (B, T), back into their places. A token that was there "
        "twice gets the same number twice, which does no harm.",
    ),
)


def _penalized(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    rows = []
    for row, said in zip(logits.tolist(), tokens.tolist(), strict=True):
        lower = [x / penalty if x > 0 else x * penalty for x in row]
        rows.append([lower[i] if i in said else x for i, x in enumerate(row)])
    return torch.tensor(rows)


@repetition.check("scores 3, 1, -1, -2, of which the second and the last were there; penalty 2")
def penalty_by_hand(penalize_repetition):
    logits, tokens = torch.tensor([[3.0, 1.0, -1.0, -2.0]]), torch.tensor([[1, 3]])
    same(penalize_repetition(logits, tokens, 2.0), torch.tensor([[3.0, 0.5, -1.0, -4.0]]))


@repetition.check("three rows with scores of both signs, each with tokens of its own")
def penalty_rows(penalize_repetition):
    logits = _apart(3, 8)
    tokens = torch.stack([torch.tensor(permutation(8)[:4]) for _ in range(3)])
    same(penalize_repetition(logits, tokens, 1.3), _penalized(logits, tokens, 1.3))


@repetition.check("a token that was there three times")
def penalty_often(penalize_repetition):
    logits, tokens = _apart(2, 6), torch.tensor([[4, 4, 1, 4], [0, 5, 0, 0]])
    same(penalize_repetition(logits, tokens, 1.5), _penalized(logits, tokens, 1.5))


@repetition.check("positive scores only, and more tokens before than there are in the vocabulary")
def penalty_positive(penalize_repetition):
    logits, tokens = _apart(2, 5) + 9, integers(0, 4, 2, 12)
    same(penalize_repetition(logits, tokens, 1.2), _penalized(logits, tokens, 1.2))


@repetition.check("penalty 1 changes nothing")
def penalty_none(penalize_repetition):
    logits, tokens = _apart(2, 6), integers(0, 6, 2, 3)
    same(penalize_repetition(logits, tokens, 1.0), logits)


@repetition.check("a penalty below 1 is a reward")
def penalty_reward(penalize_repetition):
    logits, tokens = _apart(2, 6), torch.tensor([[0, 1, 2], [3, 4, 5]])
    same(penalize_repetition(logits, tokens, 0.5), _penalized(logits, tokens, 0.5))


def _change(logits, tokens, change):
    seen = logits.gather(-1, tokens)
    return logits.scatter(-1, tokens, change(seen))


@repetition.mistake("""You divided negative scores as well. -2 / 2 is -1, which is *more*: the token that was there
    gets likelier. Multiply where the score is negative.""")
def always_divides(logits, tokens, penalty):
    return _change(logits, tokens, lambda seen: seen / penalty)


@repetition.mistake("""You multiplied positive scores, and divided negative ones. It must be the other way round: both
    have to get smaller. With yours a model repeats itself more than before.""")
def rewards(logits, tokens, penalty):
    return _change(logits, tokens, lambda seen: torch.where(seen > 0, seen * penalty, seen / penalty))


@repetition.mistake("""You multiplied positive scores as well: they get larger, and the token that was there likelier.
    Divide where the score is positive.""")
def always_multiplies(logits, tokens, penalty):
    return _change(logits, tokens, lambda seen: seen * penalty)


@repetition.mistake("""You took the smaller of score / penalty and score * penalty. For a penalty above 1 that is right;
    one below 1 is a reward, and yours makes a punishment of it. Go by the sign of the score.""")
def never_rewards(logits, tokens, penalty):
    return _change(logits, tokens, lambda seen: torch.minimum(seen / penalty, seen * penalty))


@repetition.mistake("""You subtracted the penalty. That is another rule, known as presence penalty; here positive
    scores are divided and negative ones multiplied.""")
def subtracts(logits, tokens, penalty):
    return _change(logits, tokens, lambda seen: seen - penalty)


@repetition.mistake("""You punished a token once for each time that it was there. Here it counts once: the letter e or
    the word "the" would be gone after a few lines.""")
def each_time_again(logits, tokens, penalty):
    out = logits.clone()
    for row, said in zip(out, tokens.tolist(), strict=True):
        for i in said:
            row[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty
    return out


@repetition.mistake("""You punished in every row what was there in any row. Each row is a text of its own: what others
    have said is not its business.""")
def for_all_rows(logits, tokens, penalty):
    return _penalized(logits, tokens.reshape(1, -1).repeat(len(tokens), 1), penalty)


@repetition.mistake("""You punished the tokens that were *not* there. The model then says the same again and
    again.""")
def punishes_the_new(logits, tokens, penalty):
    lower = torch.where(logits > 0, logits / penalty, logits * penalty)
    return lower.scatter(-1, tokens, logits.gather(-1, tokens))


@repetition.mistake("""You punished only the last token. All tokens of the text so far count, (B, T).""")
def last_token_only(logits, tokens, penalty):
    return generate.penalize_repetition(logits, tokens[:, -1:], penalty)


@repetition.mistake("""You punished every token, whether it was there or not.""")
def everybody(logits, tokens, penalty):
    return torch.where(logits > 0, logits / penalty, logits * penalty)


@repetition.mistake("""You gave back the scores of the tokens that were there, (B, T). Put them back into their
    places, and give all V scores of each row.""")
def only_those_seen(logits, tokens, penalty):
    seen = logits.gather(-1, tokens)
    return torch.where(seen > 0, seen / penalty, seen * penalty)


@repetition.mistake("""You worked on probabilities. The rule is one for scores; softmax comes later, once.""")
def on_softmax(logits, tokens, penalty):
    return _change(logits.softmax(dim=-1), tokens, lambda seen: seen / penalty)


@repetition.alternative("row by row, with a set")
def with_a_set(logits, tokens, penalty):
    out = logits.clone()
    for row, said in zip(out, tokens.tolist(), strict=True):
        for i in set(said):
            row[i] = (
                min(row[i] / penalty, row[i] * penalty) if penalty >= 1 else max(row[i] / penalty, row[i] * penalty)
            )
    return out


@repetition.alternative("a table of who was there")
def with_a_table(logits, tokens, penalty):
    there = F.one_hot(tokens, logits.size(-1)).sum(dim=1) > 0  # (B, V)
    return torch.where(there, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


# 11.7 LayerCache ----------------------------------------------------------------------------------------------------


class LayerCache:
    """Keys and values of one layer, for all tokens so far.

    append(k, v): takes those of the new tokens, (B, G, T, D) each, puts them behind what is there, and gives back all
    that it then holds, (B, G, S, D) each: what was there and what came.
    n_tokens: how many it holds, 0 at first.
    """

    def __init__(self):
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v = k, v
        return k, v

    @property
    def n_tokens(self) -> int:
        return 0 if self.k is None else self.k.size(2)


store = Exercise(
    "11.7",
    LayerCache,
    hints=(
        "Two cases: the cache is empty (`self.k is None`), then what came is all there is; or it is not, then old and "
        "new are joined, the old in front. Both must be stored before they are given back.",
        "`torch.cat([self.k, k], dim=...)` joins along an axis. Of (B, G, T, D), which one is that of the tokens, "
        "counted from 0?",
        "`self.k = k if self.k is None else torch.cat([self.k, k], dim=2)`, the same for v, `return self.k, self.v`. "
        "`n_tokens` is `self.k.size(2)`, or 0.",
    ),
)


def _fill(LayerCache, chunks: Sequence[int]) -> tuple[list, list]:
    """Append random keys and values in such chunks. -> what each append gave back, and what it should have"""
    k, v = randn(2, 3, sum(chunks), 4), randn(2, 3, sum(chunks), 4)
    layer, given, expected, end = LayerCache(), [], [], 0
    for n in chunks:
        start, end = end, end + n
        given.append(layer.append(k[:, :, start:end].clone(), v[:, :, start:end].clone()))
        expected.append((k[:, :, :end].clone(), v[:, :, :end].clone()))
    return given, expected


@store.check("a prompt of five tokens at once")
def cache_prompt(LayerCache):
    same(*_fill(LayerCache, [5]))


@store.check("token by token")
def cache_single(LayerCache):
    same(*_fill(LayerCache, [1, 1, 1, 1]))


@store.check("uneven chunks: 3, 1, 2 and 4 tokens")
def cache_uneven(LayerCache):
    same(*_fill(LayerCache, [3, 1, 2, 4]))


@store.check("two caches, for two layers: what goes into one is not in the other")
def cache_two_layers(LayerCache):
    first, second = LayerCache(), LayerCache()
    k, v = randn(2, 1, 2, 3, 5), randn(2, 1, 2, 3, 5)
    first.append(k[0], v[0])
    same(second.append(k[1], v[1]), (k[1], v[1]))


@store.check("keys and values of different widths")
def cache_widths(LayerCache):
    layer, k, v = LayerCache(), randn(2, 3, 4, 6), randn(2, 3, 4, 5)
    layer.append(k[:, :, :3].clone(), v[:, :, :3].clone())
    same(layer.append(k[:, :, 3:].clone(), v[:, :, 3:].clone()), (k, v))


@store.check("n_tokens: 0 at first, then the number of tokens")
def cache_length(LayerCache):
    layer = LayerCache()
    found = [layer.n_tokens]
    for n in (4, 1, 2):
        layer.append(randn(2, 3, n, 5), randn(2, 3, n, 5))
        found.append(layer.n_tokens)
    same(found, [0, 4, 5, 7])


def _join(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat([old, new], dim=2)


@store.mistake("""You gave back, and kept, only what came last. The model forgets everything but the newest token: put
    the new ones behind what is there.""")
class Overwrites(LayerCache):
    def append(self, k, v):
        self.k, self.v = k, v
        return k, v


@store.mistake("""You gave back old and new, but kept only the new. At the next token the ones before are gone: store
    what you give back.""")
class KeepsTheNewOnly(LayerCache):
    def append(self, k, v):
        both = _join(self.k, k), _join(self.v, v)
        self.k, self.v = k, v
        return both


@store.mistake("""You joined old and new and gave that back, but did not store it: at the next token only the first
    piece is there.""")
class StoresTheFirstOnly(LayerCache):
    def append(self, k, v):
        if self.k is None:
            self.k, self.v = k, v
            return k, v
        return _join(self.k, k), _join(self.v, v)


@store.mistake("""You stored old and new, but gave back only the new ones. The query has to see all: return what you
    stored.""")
class GivesTheNewOnly(LayerCache):
    def append(self, k, v):
        self.k, self.v = _join(self.k, k), _join(self.v, v)
        return k, v


@store.mistake("""You put the new tokens in front. While a model writes token by token nobody notices, since a single
    query may look at everything, in any order. With two new tokens at once the mask hides the wrong ones.""")
class InFront(LayerCache):
    def append(self, k, v):
        if self.k is not None:
            k, v = torch.cat([k, self.k], dim=2), torch.cat([v, self.v], dim=2)
        self.k, self.v = k, v
        return k, v


@store.mistake("""You joined along the heads, dim=1. The tokens are on axis 2 of (B, G, T, D).""")
class MoreHeads(LayerCache):
    def append(self, k, v):
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=1), torch.cat([self.v, v], dim=1)
        self.k, self.v = k, v
        return k, v


@store.mistake("""You joined along the batch, dim=0: each token becomes a text of its own. The tokens are on axis 2 of
    (B, G, T, D).""")
class MoreTexts(LayerCache):
    def append(self, k, v):
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=0), torch.cat([self.v, v], dim=0)
        self.k, self.v = k, v
        return k, v


@store.mistake("""You joined along the last axis, which makes keys longer and not more. The tokens are on axis 2 of
    (B, G, T, D).""")
class LongerVectors(LayerCache):
    def append(self, k, v):
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=-1), torch.cat([self.v, v], dim=-1)
        self.k, self.v = k, v
        return k, v


@store.mistake("""What comes first is in your cache twice: it is stored, and then joined to itself. Join only if
    something was there before (`else`).""")
class FirstTwice(LayerCache):
    def append(self, k, v):
        if self.k is None:
            self.k, self.v = k, v
        return super().append(k, v)


@store.mistake("""Your n_tokens fails while the cache is empty. Llama asks an empty cache, too: 0.""")
class NoLengthWhenEmpty(LayerCache):
    @property
    def n_tokens(self):
        return self.k.size(2)


@store.mistake("""You stored the keys twice: once as keys, once as values.""")
class KeysAsValues(LayerCache):
    def append(self, k, v):
        return super().append(k, k)


@store.mistake("""You put the new keys behind the old values. The values need the new values: `torch.cat([self.v, v],
    dim=2)`.""")
class KeysBehindValues(LayerCache):
    def append(self, k, v):
        self.k, self.v = _join(self.k, k), v if self.v is None else torch.cat([self.v, k], dim=2)
        return self.k, self.v


@store.mistake("""You gave back values and keys in each other's place. First the keys, then the values.""")
class Swapped(LayerCache):
    def append(self, k, v):
        return super().append(k, v)[::-1]


@store.mistake("""Each new token is in your cache twice. Join once, and store the result.""")
class Twice(LayerCache):
    def append(self, k, v):
        super().append(k, v)
        return super().append(k, v)


@store.mistake("""Your n_tokens counts something else: `len(k)` is the size of the first axis, the number of texts.
    The tokens are on axis 2: `self.k.size(2)`.""")
class CountsTexts(LayerCache):
    @property
    def n_tokens(self):
        return 0 if self.k is None else len(self.k)


@store.mistake("""Your n_tokens counts heads, axis 1 of (B, G, T, D). The tokens are on axis 2: `self.k.size(2)`.""")
class CountsHeads(LayerCache):
    @property
    def n_tokens(self):
        return 0 if self.k is None else self.k.size(1)


@store.mistake("""Your n_tokens is D, the size of the last axis. The tokens are on axis 2: `self.k.size(2)`.""")
class CountsNumbers(LayerCache):
    @property
    def n_tokens(self):
        return 0 if self.k is None else self.k.size(-1)


@store.mistake(
    """Your n_tokens counts calls of append. A call may bring several tokens: count those, `self.k.size(2)`."""
)
class CountsCalls(LayerCache):
    def append(self, k, v):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        return super().append(k, v)

    @property
    def n_tokens(self):
        return getattr(self, "n_calls", 0)


@store.alternative("a list of pieces, joined when they are needed")
class Pieces:
    def __init__(self):
        self.pieces = []

    def append(self, k, v):
        self.pieces.append((k, v))
        return tuple(torch.cat(all_of, dim=2) for all_of in zip(*self.pieces, strict=True))

    @property
    def n_tokens(self):
        return sum(k.size(2) for k, _ in self.pieces)


@store.alternative("room for more than is needed, doubled when it is full")
class Room(LayerCache):
    def __init__(self):
        super().__init__()
        self.n = 0

    def append(self, k, v):
        end = self.n + k.size(2)
        if self.k is None or end > self.k.size(2):
            room = [torch.zeros(*new.shape[:2], 2 * end, new.size(3)) for new in (k, v)]
            if self.k is not None:
                room[0][:, :, : self.n], room[1][:, :, : self.n] = self.k[:, :, : self.n], self.v[:, :, : self.n]
            self.k, self.v = room
        self.k[:, :, self.n : end], self.v[:, :, self.n : end] = k, v
        self.n = end
        return self.k[:, :, :end].clone(), self.v[:, :, :end].clone()

    @property
    def n_tokens(self):
        return self.n


# 11.8 write ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write(model, tokens: Tensor, n_new: int, choose: Callable[[Tensor], Tensor], stop: Sequence[int] = ()) -> Tensor:
    """Continue each text by n_new tokens, or until each has written a stop token. (B, T) -> (B, T + n), n <= n_new

    model: `model(new, cache=cache)` reads tokens that the cache has not seen, (B, T'), adds them to the cache, and
    gives their scores, (B, T', V). It has `model.config.n_layers` layers. Each token is read only once.
    choose: called with the scores of the next token, (B, V), gives one token for each text, (B,).
    stop: ids that end a text. A text that has ended repeats its stop token while others go on. A stop token in what you
    were given ends nothing.
    """
    cache = KVCache(model.config.n_layers)
    new, stops = tokens, torch.tensor(list(stop), dtype=torch.int64)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        chosen = choose(model(new, cache=cache)[:, -1])  # (B,)
        chosen = torch.where(ended, tokens[:, -1], chosen)
        new = chosen[:, None]  # (B, 1)
        tokens, ended = torch.cat([tokens, new], dim=1), ended | torch.isin(chosen, stops)
        if ended.all():
            break
    return tokens


loop = Exercise(
    "11.8",
    write,
    hints=(
        "It is the loop of exercise 08.5 with three changes: the model has a cache, so it is shown the prompt once and "
        "then only the newest token; `choose` says which token comes next; there may be several stop tokens.",
        "Before the loop: `cache = KVCache(model.config.n_layers)`, `new = tokens`, and who has ended, all False. In "
        "it: `choose(model(new, cache=cache)[:, -1])` gives (B,). Then `new` is that token, as a column `[:, None]`.",
        "A text that has ended keeps its last token: `torch.where(ended, tokens[:, -1], chosen)`. `torch.isin(chosen, "
        "stops)` asks for each token whether it is one of `stops = torch.tensor(list(stop), dtype=torch.int64)`.",
    ),
)

V = 9


def diary(tokens: Tensor, cache: KVCache) -> Tensor:
    """A toy model that knows all it has read, and when. The next token is the sum of that, of V. (B, T) -> (B, T, V)"""
    T, n_before = tokens.size(1), len(cache)
    read = tokens[:, None, :, None].float()
    when = torch.full_like(read, n_before)
    tokens_read, calls = (x[:, 0, :, 0].long() for x in cache[0].append(read, when))
    best = (tokens_read + 2 * calls + 1).cumsum(dim=-1)[:, -T:] % V
    return -1.0 - (torch.arange(V) - best[..., None]).abs().float()


def counter(tokens: Tensor, cache: KVCache) -> Tensor:
    """A toy model: after 3 comes 4, and after 8 comes 0, if it reads each token once. (B, T) -> (B, T, V)"""
    tokens_read = cache[0].append(*[tokens[:, None, :, None].float()] * 2)[0][:, 0, -tokens.size(1) :, 0]
    best = (tokens_read.long() + 1) % V
    return -1.0 - (torch.arange(V) - best[..., None]).abs().float()


diary.config = counter.config = SimpleNamespace(n_layers=1)  # type: ignore[attr-defined]


def likeliest(logits: Tensor) -> Tensor:
    """(B, V) -> (B,)"""
    return logits.argmax(dim=-1)


def second_best(logits: Tensor) -> Tensor:
    """(B, V) -> (B,)"""
    return logits.topk(2, dim=-1).indices[:, 1]


def count_good_ones(logits: Tensor) -> Tensor:
    """How many scores are above -3. (B, V) -> (B,)"""
    return (logits > -3).sum(dim=-1)


def _expected(model, tokens: Tensor, n_new: int, choose, stop: Sequence[int] = ()) -> Tensor:
    """Text by text."""
    rows = []
    for row in tokens.tolist():
        cache, new, written = KVCache(1), row, []
        while len(written) < n_new and not (written and written[-1] in stop):
            new = choose(model(torch.tensor([new]), cache=cache)[:, -1]).tolist()
            written += new
        rows.append((row, written))
    longest = max(len(written) for _, written in rows)
    return torch.tensor([row + written + written[-1:] * (longest - len(written)) for row, written in rows])


def _compare_written(write, *args):
    same(write(*args), _expected(*args))


@loop.check("a model that counts, from 3 on, with the stop token 7")
def write_counts(write):
    same(write(counter, torch.tensor([[3]]), 9, likeliest, [7]), torch.tensor([[3, 4, 5, 6, 7]]))


@loop.check("a model that knows all it has read and in how many calls, without a stop token")
def write_diary(write):
    _compare_written(write, diary, integers(0, V, 2, 5), 6, likeliest)


@loop.check("another way to choose: the second best")
def write_second(write):
    _compare_written(write, diary, integers(0, V, 3, 2), 7, second_best)


@loop.check("a way to choose that looks at the scores, and not only at who is the best")
def write_by_scores(write):
    _compare_written(write, diary, integers(0, V, 2, 4), 6, count_good_ones)


@loop.check("three texts that end at different times, and two stop tokens")
def write_three(write):
    starts = torch.tensor([1, 3, 6])[permutation(3)]
    _compare_written(write, counter, torch.stack([integers(0, 9, 3), starts], dim=1), 12, likeliest, [5, 8])


@loop.check("a stop token among those that were given")
def write_given_stop(write):
    _compare_written(write, counter, torch.tensor([[8, 4], [5, 8], [8, 8]]), 12, likeliest, [8])


@loop.check("n_new = 0, and n_new = 1")
def write_few(write):
    tokens = integers(0, V, 2, 3)
    one = _expected(diary, tokens, 1, likeliest)
    same([write(diary, tokens, 0, likeliest), write(diary, tokens, 1, likeliest, [4])], [tokens, one])


def _write(model, tokens, n_new, choose, stop=(), *, last=-1, begin=None, done=torch.all, hold=True, feed=None):
    """The loop, with one thing about it changed."""
    cache, new, stops = KVCache(model.config.n_layers), tokens, torch.tensor(list(stop), dtype=torch.int64)
    ended = torch.zeros(len(tokens), dtype=torch.bool) if begin is None else begin(tokens, stops)
    for _ in range(n_new):
        chosen = choose(model(new, cache=cache)[:, last])
        if hold:
            chosen = torch.where(ended, tokens[:, -1], chosen)
        tokens, ended = torch.cat([tokens, chosen[:, None]], dim=1), ended | torch.isin(chosen, stops)
        new = chosen[:, None] if feed is None else feed(tokens)
        if done(ended):
            break
    return tokens


def _forgetful(model):
    """The model, with a new cache at each call."""

    def read(new, cache):
        return model(new, cache=KVCache(model.config.n_layers))

    read.config = model.config  # type: ignore[attr-defined]
    return read


@loop.mistake("""You showed the model the whole text each time, and the cache keeps it each time: after three rounds
    the first token is in there three times. With a cache the model reads the prompt once, and then only what is
    new.""")
def all_into_the_cache(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, feed=lambda tokens: tokens)


@loop.mistake("""You made a new cache for each token and read the whole text again. The text comes out right, and the
    cache saves nothing: make it once, before the loop, and show the model only what it has not read.""")
def a_new_cache_each_time(model, tokens, n_new, choose, stop=()):
    return _write(_forgetful(model), tokens, n_new, choose, stop, feed=lambda tokens: tokens)


@loop.mistake("""You made a new cache for each token, and showed the model only that token: it has forgotten all before.
    Make the cache once, before the loop.""")
def a_new_cache_for_each_token(model, tokens, n_new, choose, stop=()):
    return _write(_forgetful(model), tokens, n_new, choose, stop)


@loop.mistake("""You let the model read the prompt, and then its last token again. The prompt's own scores, `[:, -1]`,
    are those of the first new token: read each token once.""")
def last_one_twice(model, tokens, n_new, choose, stop=()):
    first = KVCache(model.config.n_layers)
    model(tokens, cache=first)

    def read(new, cache):
        return model(new[:, -1:], cache=first)

    read.config = model.config  # type: ignore[attr-defined]
    return _write(read, tokens, n_new, choose, stop)


@loop.mistake("""You showed the model only the last token of what you were given. It has to read the whole prompt
    first; only then one token at a time is enough.""")
def prompt_not_read(model, tokens, n_new, choose, stop=()):
    def read(new, cache):
        return model(new[:, -1:], cache=cache)

    read.config = model.config  # type: ignore[attr-defined]
    return _write(read, tokens, n_new, choose, stop)


@loop.mistake("""You took the scores of the first of the tokens that the model read. Those after the prompt are the
    last: [:, -1].""")
def first_scores(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, last=0)


@loop.mistake("""You took the likeliest token yourself. Leave it to `choose`, so that the same loop can draw at
    random.""")
def chooses_itself(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, likeliest, stop)


@loop.mistake("""You gave `choose` probabilities. It is called with scores, (B, V), and makes probabilities itself,
    with a temperature if it likes.""")
def hands_over_probabilities(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, lambda logits: choose(logits.softmax(dim=-1)), stop)


@loop.mistake("""You stopped when the first text had ended. Stop when all have.""")
def stops_at_the_first(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, done=torch.any)


@loop.mistake("""Your texts go on after their stop token while others are being written. Remember who has ended, and
    repeat their stop token.""")
def goes_on(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, hold=False)


@loop.mistake("""You never stop before n_new. When all texts have ended, there is nothing left to do.""")
def never_stops(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, done=lambda ended: False)


@loop.mistake("""You took a stop token among those that you were given for an end. Only one that the model has written
    counts: a chat begins with several of them, one at the end of each earlier answer.""")
def ended_by_the_prompt(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, begin=lambda tokens, stops: torch.isin(tokens, stops).any(dim=1))


@loop.mistake("""You took the last token of what you were given for an end, where it is a stop token. Only one that the
    model has written counts. At the beginning nobody has ended.""")
def ended_by_the_last_given(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop, begin=lambda tokens, stops: torch.isin(tokens[:, -1], stops))


@loop.mistake("""You look for stop tokens in the whole text, what you were given included. Look only at what was
    written: at the newest token, each time.""")
def looks_at_the_whole(model, tokens, n_new, choose, stop=()):
    cache, new, stops = KVCache(model.config.n_layers), tokens, torch.tensor(list(stop), dtype=torch.int64)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        chosen = torch.where(ended, tokens[:, -1], choose(model(new, cache=cache)[:, -1]))
        new = chosen[:, None]
        tokens = torch.cat([tokens, new], dim=1)
        ended = torch.isin(tokens, stops).any(dim=1)
        if ended.all():
            break
    return tokens


@loop.mistake("""You marked a text as ended before its stop token was put behind it: the stop token is lost, and the
    token before it is repeated. First keep back those that had ended before, then look who ends now.""")
def marked_too_soon(model, tokens, n_new, choose, stop=()):
    cache, new, stops = KVCache(model.config.n_layers), tokens, torch.tensor(list(stop), dtype=torch.int64)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        chosen = choose(model(new, cache=cache)[:, -1])
        ended = ended | torch.isin(chosen, stops)
        new = torch.where(ended, tokens[:, -1], chosen)[:, None]
        tokens = torch.cat([tokens, new], dim=1)
        if ended.all():
            break
    return tokens


@loop.mistake("""You used only the first stop token. Any of them ends a text.""")
def one_stop_token(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop[:1])


@loop.mistake("""A text that has ended repeats the first stop token of the list, and not its own. Repeat what it ended
    with: its last token.""")
def repeats_the_first_of_the_list(model, tokens, n_new, choose, stop=()):
    cache, new, stops = KVCache(model.config.n_layers), tokens, torch.tensor(list(stop), dtype=torch.int64)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        chosen = choose(model(new, cache=cache)[:, -1]).masked_fill(ended, [*stop, 0][0])
        new = chosen[:, None]
        tokens, ended = torch.cat([tokens, new], dim=1), ended | torch.isin(chosen, stops)
        if ended.all():
            break
    return tokens


@loop.mistake("""You gave only what was written. Give what you were given as well, in front of it.""")
def only_the_new(model, tokens, n_new, choose, stop=()):
    return _write(model, tokens, n_new, choose, stop)[:, tokens.size(1) :]


@loop.mistake("""The last stop token is missing. It belongs to the text: it is how one sees that the text has ended by
    itself and was not cut off.""")
def last_stop_missing(model, tokens, n_new, choose, stop=()):
    out = _write(model, tokens, n_new, choose, stop)
    written = out[:, tokens.size(1) :]
    stops = torch.tensor(list(stop), dtype=torch.int64)
    return out[:, :-1] if written.numel() and torch.isin(written[:, -1], stops).all() else out


@loop.alternative("read the prompt, then token by token, with lists")
@torch.no_grad()
def with_lists_of_tokens(model, tokens, n_new, choose, stop=()):
    cache, rows = KVCache(model.config.n_layers), tokens.tolist()
    ended, step = set(), tokens
    while len(rows[0]) < tokens.size(1) + n_new and len(ended) < len(rows):
        chosen = choose(model(step, cache=cache)[:, -1]).tolist()
        for i, token in enumerate(chosen):
            rows[i].append(rows[i][-1] if i in ended else token)
            if token in stop:
                ended.add(i)
        step = torch.tensor([row[-1:] for row in rows])
    return torch.tensor(rows)


@loop.alternative("the cache says what is new")
def by_the_length_of_the_cache(model, tokens, n_new, choose, stop=()):
    cache, start = KVCache(model.config.n_layers), tokens.size(1)
    stops = torch.tensor(list(stop), dtype=torch.int64)
    for _ in range(n_new):
        chosen = choose(model(tokens[:, len(cache) :], cache=cache)[:, -1])
        ended = torch.isin(tokens[:, start:], stops).any(dim=1)
        tokens = torch.cat([tokens, torch.where(ended, tokens[:, -1], chosen)[:, None]], dim=1)
        if torch.isin(tokens[:, start:], stops).any(dim=1).all():
            break
    return tokens


# 11.9 positions_of --------------------------------------------------------------------------------------------------


def positions_of(mask: Tensor) -> Tensor:
    """Say where each token of a batch stands, counting real tokens only. (B, T) bool -> (B, T), int64

    mask: True where a token is real. All padding stands in front. The first real token of each row is at 0, the next
    one at 1, and so on. Padding may have any position that exists: 0 or more, and below T.
    """
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


places = Exercise(
    "11.9",
    positions_of,
    hints=(
        "Walk along a row from the left and count the real tokens. At a real token the count includes itself; its "
        "position is one less.",
        "`mask.cumsum(dim=-1)` is that count: [0, 0, 1, 1, 1] becomes [0, 0, 1, 2, 3]. What are the positions?",
        "Subtract 1, and lift the -1 of the padding to 0: `.clamp(min=0)`.",
    ),
)


def _compare_places(positions_of, lengths: Sequence[int]):
    T = max(lengths)
    mask = torch.tensor([[False] * (T - n) + [True] * n for n in lengths])
    given = positions_of(mask)
    expected = torch.tensor([[0] * (T - n) + list(range(n)) for n in lengths])
    if isinstance(given, Tensor) and given.shape == mask.shape and given.dtype == torch.int64:
        given_all, given = given, torch.where(mask, given, 0)
        holds(torch.equal(given, expected), "real tokens should stand at 0, 1, 2, ...", given=given_all)
        fits = bool((given_all >= 0).all() and (given_all < T).all())
        holds(fits, f"padding should have positions from 0 to {T - 1}", given=given_all)
    else:
        same(given, expected)


@places.check("[0, 0, 1, 1] and [1, 1, 1, 1], where 1 is a real token")
def places_by_hand(positions_of):
    _compare_places(positions_of, [2, 4])


@places.check("four texts of different lengths")
def places_four(positions_of):
    _compare_places(positions_of, [2 + n for n in permutation(5)[:4]])


@places.check("a text of a single token beside a long one")
def places_single(positions_of):
    _compare_places(positions_of, [1, 9])


@places.check("texts of the same length: no padding at all")
def places_equal(positions_of):
    _compare_places(positions_of, [5, 5, 5])


@places.mistake("""You counted padding, too: 0, 1, 2, ... from the left edge. A short text then begins at position 3
    or 10, depending on who else is in the batch. Count real tokens only.""")
def counts_padding(mask):
    return torch.arange(mask.size(1)).repeat(len(mask), 1)


@places.mistake("""Your padding stands at -1. A table of positions would take its last row for that, and others raise
    an error: lift it to 0, with `.clamp(min=0)`.""")
def minus_one(mask):
    return mask.cumsum(dim=-1) - 1


@places.mistake("""Your padding has negative positions, counted backwards from the first real token. Lift them to 0,
    with `.clamp(min=0)`.""")
def further_below(mask):
    return torch.arange(mask.size(1)) - (~mask).sum(dim=-1, keepdim=True)


@places.mistake("""Your first real token stands at 1. `cumsum` counts from 1: subtract 1.""")
def from_one(mask):
    return mask.cumsum(dim=-1)


@places.mistake("""You added up over the batch (dim=0): how many texts have a real token here. Count along the row,
    dim=-1.""")
def over_the_texts(mask):
    return (mask.cumsum(dim=0) - 1).clamp(min=0)


@places.mistake("""You counted padding instead of real tokens.""")
def counts_the_padding_only(mask):
    return (~mask).cumsum(dim=-1)


@places.mistake("""You counted from the right, so that the newest token stands at 0. It is the last one: the first
    real token stands at 0.""")
def backwards(mask):
    return mask.flip(-1).cumsum(dim=-1).flip(-1) - mask.long()


@places.mistake("""Your positions are float. They are whole numbers (int64): places in a text.""")
def floats(mask):
    return (mask.float().cumsum(dim=-1) - 1).clamp(min=0)


@places.mistake("""You gave the lengths of the texts. Asked for is the position of each token, (B, T).""")
def lengths_only(mask):
    return mask.sum(dim=-1)


@places.alternative("take off the number of pads; padding gets 0")
def less_the_padding(mask):
    n_pads = (~mask).sum(dim=-1, keepdim=True)
    return (torch.arange(mask.size(1)) - n_pads).clamp(min=0)


@places.alternative("as Hugging Face has it: padding stands at 1")
def as_hugging_face(mask):
    return (mask.long().cumsum(dim=-1) - 1).masked_fill(~mask, 1)


@places.alternative("with loops")
def with_loops(mask):
    rows = []
    for row in mask.tolist():
        rows.append([max(0, sum(row[: i + 1]) - 1) for i in range(len(row))])
    return torch.tensor(rows)


# 11.10 UntilStop ----------------------------------------------------------------------------------------------------


class UntilStop:
    """Text that comes in pieces, up to a stop string. Of the stop string nothing is shown, not even its beginning.

    add(piece): takes the next piece of text, gives back what may be shown now. Held back is only an end that may still
    become the stop string. After the stop string: "", whatever comes.
    end(): no more pieces come; gives back what was still held back, or "".
    stopped: has the stop string come?
    What add and end gave, joined, is the text before the first stop string, or all of it if there was none.
    """

    def __init__(self, stop: str):
        self.stop = stop
        self.held = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        if self.stopped:
            return ""
        before, found, _ = (self.held + piece).partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        text = self.held + piece
        n = max(n for n in range(len(self.stop)) if text.endswith(self.stop[:n]))  # 0 always fits
        self.held = text[len(text) - n :]
        return text[: len(text) - n]

    def end(self) -> str:
        rest, self.held = self.held, ""
        return rest


stopping = Exercise(
    "11.10",
    UntilStop,
    hints=(
        "Put what was held back in front of the new piece. Is the stop string in it? Then show what stands before it, "
        "and nothing any more. If not: which end of the text could be the beginning of the stop string?",
        '`before, found, after = text.partition(stop)` cuts a text at the first stop string; `found` is "" if there '
        "is none. For the end: try `text.endswith(stop[:n])` for all n below len(stop); n = 0 always fits.",
        "`n = max(n for n in range(len(self.stop)) if text.endswith(self.stop[:n]))`: hold back the last n characters, "
        "show the rest. Mind n = 0: `text[-0:]` is the whole text, `text[len(text) - n:]` is right.",
    ),
)


def _play(UntilStop, stop: str, pieces: Sequence[str]) -> list:
    until = UntilStop(stop)
    return [*(until.add(piece) for piece in pieces), until.end(), until.stopped]


def _shown(stop: str, pieces: Sequence[str]) -> list:
    """What should come, worked out from the whole text so far."""
    text, shown, out, stopped = "", 0, [], False
    for piece in pieces:
        text += piece
        stopped = stop in text
        sure = text.index(stop) if stopped else min(i for i in range(len(text) + 1) if stop.startswith(text[i:]))
        out.append(text[shown:sure])
        shown = max(shown, sure)
    return [*out, "" if stopped else text[shown:], stopped]


def _compare_shown(UntilStop, stop: str, pieces: Sequence[str]):
    same(_play(UntilStop, stop, pieces), _shown(stop, pieces))


@stopping.check('the stop string "END" within one piece, and once more in it')
def stop_within(UntilStop):
    _compare_shown(UntilStop, "END", ["one ", "two END and END", " three", "four"])


@stopping.check('"END" over three pieces')
def stop_over_pieces(UntilStop):
    _compare_shown(UntilStop, "END", ["on", "e E", "N", "D two", "EN"])


@stopping.check('beginnings of "END" that come to nothing, and no stop')
def stop_false_alarm(UntilStop):
    _compare_shown(UntilStop, "END", ["E", "E", "EN", "x", "", "N E"])


@stopping.check('character by character: "aab" in "aaab"')
def stop_overlap(UntilStop):
    _compare_shown(UntilStop, "aab", list("caaabaa"))


@stopping.check("random pieces of a few letters, and a stop string of two")
def stop_random(UntilStop):
    letters = ["a", "b", "ba", "ab", "c", "bb", "caa"]
    pieces = [pick(letters) for _ in range(5)]
    _compare_shown(UntilStop, "bc", [*pieces, "b", "b", "ac", "b"])
    _compare_shown(UntilStop, "\n\n", ["a\n", *pieces, "\n", "\nb", "\n"])


@stopping.check("a text that ends in the middle of the stop string")
def stop_cut(UntilStop):
    _compare_shown(UntilStop, "abcd", ["xyz", "ab", "c"])


@stopping.mistake("""You looked for the stop string in each piece by itself. It may come in two: E and then ND. Put
    what may be its beginning aside, and look again when the next piece is there.""")
class PieceByPiece(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        before, found, _ = piece.partition(self.stop)
        self.stopped = bool(found)
        return before


@stopping.mistake("""You found the stop string, but its beginning had been shown already: it came with an earlier
    piece. What is on the screen can't be taken back. Hold it back as long as it may become the stop string.""")
class TooLate(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        self.text = getattr(self, "text", "")
        shown = len(self.text)
        self.text += piece
        if self.stop in self.text:
            self.stopped = True
            return self.text[shown : max(shown, self.text.index(self.stop))]
        return piece


@stopping.mistake("""You held back a fixed number of characters, whatever they are. The reader waits for text that
    can't be the beginning of the stop string: hold back only an end that fits.""")
class FixedNumber(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        text = self.held + piece
        before, found, _ = text.partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        n = max(0, len(text) - len(self.stop) + 1)
        self.held = text[n:]
        return text[:n]


@stopping.mistake("""You held back everything until the stop string came or the text was over. That is no streaming:
    show at once what can't be the beginning of the stop string.""")
class AllAtTheEnd(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        self.held += piece
        before, found, _ = self.held.partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        return ""


@stopping.mistake("""You showed the stop string itself. It is a sign for the program, not a part of the text.""")
class ShowsTheStop(UntilStop):
    def add(self, piece):
        was_stopped = self.stopped
        out = super().add(piece)
        return out + self.stop if self.stopped and not was_stopped else out


@stopping.mistake("""You went on after the stop string. After it nothing is shown, neither the rest of its piece nor
    any piece that follows.""")
class GoesOnAfterwards(UntilStop):
    def add(self, piece):
        text = self.held + piece
        self.stopped = self.stopped or self.stop in text
        text = text.replace(self.stop, "")
        n = max(n for n in range(len(self.stop)) if text.endswith(self.stop[:n]))
        self.held = text[len(text) - n :]
        return text[: len(text) - n]


@stopping.mistake("""You lost what was held back. If no stop string comes, the end of the text belongs to it: give it
    back in `end`.""")
class LosesTheRest(UntilStop):
    def end(self):
        return ""


@stopping.mistake("""You held back at most one character. The stop string may be longer: any beginning of it can stand
    at the end, up to all but its last character.""")
class HoldsOne(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        text = self.held + piece
        before, found, _ = text.partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        n = int(text.endswith(self.stop[:1]))
        self.held = text[len(text) - n :]
        return text[: len(text) - n]


@stopping.mistake("""You held back the shortest end that fits. Take the longest: after "aa" both characters may belong
    to "aab".""")
class ShortestEnd(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        text = self.held + piece
        before, found, _ = text.partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        n = min((n for n in range(1, len(self.stop)) if text.endswith(self.stop[:n])), default=0)
        self.held = text[len(text) - n :]
        return text[: len(text) - n]


@stopping.mistake("""You counted matching characters, and at the first that does not match you started from zero. Look
    at "aaab" and the stop string "aab": the second a of the failed try is the first of the one that succeeds.""")
class StartsFromZero(UntilStop):
    def add(self, piece):
        out = ""
        for character in piece:
            if self.stopped:
                break
            if character == self.stop[len(self.held)]:
                self.held += character
            else:
                out, self.held = out + self.held, ""
                if character == self.stop[0]:
                    self.held = character
                else:
                    out += character
            if self.held == self.stop:
                self.stopped, self.held = True, ""
        return out


@stopping.mistake("""You held back the last n characters with `text[-n:]`. For n = 0 that is the whole text, and
    `text[:-0]` is empty. Count from the front: `text[len(text) - n :]` and `text[: len(text) - n]`.""")
class MinusZero(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        text = self.held + piece
        before, found, _ = text.partition(self.stop)
        if found:
            self.held, self.stopped = "", True
            return before
        n = max(n for n in range(len(self.stop)) if text.endswith(self.stop[:n]))
        self.held = text[-n:]
        return text[:-n]


def _add(until, text: str) -> str:
    """As it should be, as long as nobody has stopped."""
    before, found, _ = text.partition(until.stop)
    if found:
        until.held, until.stopped = "", True
        return before
    n = max(n for n in range(len(until.stop)) if text.endswith(until.stop[:n]))
    until.held = text[len(text) - n :]
    return text[: len(text) - n]


@stopping.mistake("""You forgot to say that it has stopped: set `self.stopped`, and look at it when the next piece
    comes.""")
class NeverSaysSo(UntilStop):
    def add(self, piece):
        out = _add(self, self.held + piece)
        self.stopped = False
        return out


@stopping.mistake("""You noticed that it has stopped, and showed the pieces that came after it. Begin with `if
    self.stopped: return ""`.""")
class ForgetsThatItStopped(UntilStop):
    def add(self, piece):
        return _add(self, self.held + piece)


@stopping.mistake("""You took the last stop string of the piece. The first one ends the text: `partition`, not
    `rpartition`.""")
class LastStop(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        text = self.held + piece
        if self.stop in text:
            self.held, self.stopped = "", True
            return text[: text.rindex(self.stop)]
        return _add(self, text)


@stopping.mistake("""You held something back, and did not put it in front of the next piece: it is lost, and a stop
    string in two pieces is not found. Look at `self.held + piece`.""")
class ForgetsWhatIsHeld(UntilStop):
    def add(self, piece):
        return "" if self.stopped else _add(self, piece)


@stopping.mistake("""When the stop string came, you left in `self.held` what was held back before, and `end` shows it.
    After the stop string nothing is left to show: set it to "".""")
class HeldRemains(UntilStop):
    def add(self, piece):
        if self.stopped:
            return ""
        before = self.held
        out = _add(self, before + piece)
        self.held = before if self.stopped else self.held
        return out


@stopping.mistake("""You give what was held back a second time: after it has been shown, or after the stop string
    came, nothing is left to give at the end.""")
class HeldTwice(UntilStop):
    def add(self, piece):
        before = self.held
        out = super().add(piece)
        if self.stopped and not self.held:
            self.held = before + piece if not getattr(self, "over", False) else self.held
            self.over = True
        return out


@stopping.alternative("from the whole text so far")
class FromTheWhole:
    def __init__(self, stop):
        self.stop, self.text, self.n_shown, self.stopped = stop, "", 0, False

    def add(self, piece):
        if self.stopped:
            return ""
        self.text += piece
        sure = self.text.find(self.stop)
        self.stopped = sure >= 0
        if not self.stopped:
            sure = len(self.text)
            for i in range(self.n_shown, len(self.text)):
                if self.stop.startswith(self.text[i:]):
                    sure = i
                    break
        out, self.n_shown = self.text[self.n_shown : sure], sure
        return out

    def end(self):
        return "" if self.stopped else self.text[self.n_shown :]


@stopping.alternative("character by character")
class CharacterByCharacter:
    def __init__(self, stop):
        self.stop, self.held, self.stopped = stop, "", False

    def add(self, piece):
        out = ""
        for character in piece:
            if self.stopped:
                break
            self.held += character
            while not self.stop.startswith(self.held):
                out, self.held = out + self.held[0], self.held[1:]
            if self.held == self.stop:
                self.stopped, self.held = True, ""
        return out

    def end(self):
        rest, self.held = self.held, ""
        return rest
