"""Exercises of chapter 03: an average, softmax, attention, and who may look where."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama import attention
from minillama.course.checks import integers, permutation, pick, randn, same
from minillama.course.exercise import Exercise

# --- 03.1: an average of the past -----------------------------------------------------------------------------------


def past_average(x: Tensor) -> Tensor:
    """Average each row with all the rows before it.

    Shape: (T, C) -> (T, C). Row i of the result is the plain average of rows 0 to i of x.

    >>> past_average(torch.tensor([[2.0], [4.0], [9.0]]))
    tensor([[2.],
            [3.],
            [5.]])
    """
    T = len(x)
    weights = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]  # (T, T), each row adds up to 1
    return weights @ x


average_exercise = Exercise(
    "03.1",
    past_average,
    hints=(
        "A loop is fine. Row 2 of the result needs three rows of x: `x[0]`, `x[1]` and `x[2]`. How do you slice them?",
        "Rows 0 to i are `x[: i + 1]`. Average them over their rows, `dim=0`, collect the results in a list, and "
        "put the list together with `torch.stack`.",
        "`torch.stack([x[: i + 1].mean(dim=0) for i in range(len(x))])`. Without a loop: a triangle of ones "
        "(`torch.ones(T, T).tril()`), each row divided by how many ones it has, times x.",
    ),
)


@average_exercise.check("three rows of one number each: 2, 4, 9")
def three_rows_by_hand(past_average):
    same(past_average(torch.tensor([[2.0], [4.0], [9.0]])), torch.tensor([[2.0], [3.0], [5.0]]))


@average_exercise.check("five rows of three numbers")
def five_rows(past_average):
    x = randn(5, 3)
    same(past_average(x), torch.stack([sum(x[: i + 1]) / (i + 1) for i in range(5)]))


@average_exercise.check("as many rows as columns")
def a_square(past_average):
    x = 1e-2 * randn(4, 4)
    same(past_average(x), torch.stack([x[: i + 1].mean(0) for i in range(4)]))


@average_exercise.check("a single row, which is its own average")
def a_single_row(past_average):
    x = randn(1, 3)
    same(past_average(x), x)


@average_exercise.mistake(
    "Every row of your result is the average of all rows. Row i may know rows 0 to i only: `x[: i + 1]`. With this "
    "mistake the first word already knows the last one."
)
def average_of_everything(x):
    return x.mean(dim=0).expand(len(x), -1).clone()


@average_exercise.mistake(
    "You added the rows up and did not divide. Divide row i by the number of rows in its sum, i + 1."
)
def sum_of_the_past(x):
    return x.cumsum(0)


@average_exercise.mistake(
    "You divided every row by T. Only the last row has T words in it; row i has i + 1, so divide it by i + 1. Each "
    "row of weights must add up to 1."
)
def divided_by_the_length(x):
    return x.cumsum(0) / len(x)


@average_exercise.mistake(
    "You left out the row itself: `x[:i]` ends before row i. Take `x[: i + 1]`. The first row has nothing before "
    "it, and an average of nothing is 0 / 0."
)
def without_itself(x):
    return torch.stack([x[:i].mean(dim=0) for i in range(len(x))])


@average_exercise.mistake(
    "You went one row too far: row i already knows row i + 1. Take `x[: i + 1]`, whose last row is i."
)
def one_too_far_average(x):
    return torch.stack([x[: i + 2].mean(dim=0) for i in range(len(x))])


@average_exercise.mistake(
    "You averaged along a row, over the numbers of one word (dim=1). Average down the columns, over words: dim=0."
)
def over_the_columns(x):
    return x.cumsum(1) / torch.arange(1, x.size(1) + 1)


@average_exercise.mistake(
    "Your counts 1, 2, 3, ... have shape (T,), and PyTorch lines them up with the columns of x. Make them a column,"
    " one count per row: `[:, None]` gives (T, 1). In a square x this mistake raises no error."
)
def counts_in_a_row(x):
    return x.cumsum(0) / torch.arange(1, len(x) + 1)


@average_exercise.mistake(
    "You divided the columns of your triangle by their sums. Divide each row by its sum, i + 1: `sum(dim=1, "
    "keepdim=True)`. It is the rows of weights that must add up to 1."
)
def columns_add_up_to_one(x):
    triangle = torch.ones(len(x), len(x)).tril()
    return triangle / triangle.sum(dim=0) @ x


@average_exercise.mistake(
    "You averaged the last average with the new row, half and half. Then the first word counts 1/2, 1/4, 1/8, ... In a "
    "plain average all words so far count the same."
)
def half_and_half(x):
    rows = [x[0]]
    for row in x[1:]:
        rows.append((rows[-1] + row) / 2)
    return torch.stack(rows)


@average_exercise.mistake(
    "You put a triangle of ones and zeros through softmax. A 0 is not nothing there: e^0 = 1, so the future gets a "
    "share too. Divide each row of the triangle by its sum instead."
)
def softmax_of_the_triangle(x):
    return torch.ones(len(x), len(x)).tril().softmax(-1) @ x


@average_exercise.alternative("a loop over slices")
def average_by_slices(x):
    return torch.stack([x[: i + 1].mean(dim=0) for i in range(len(x))])


@average_exercise.alternative("a running sum")
def average_by_running_sum(x):
    return x.cumsum(dim=0) / torch.arange(1, len(x) + 1).unsqueeze(1)


@average_exercise.alternative("the last average, moved a little towards each new row")
def average_by_moving(x):
    average, rows = torch.zeros_like(x[0]), []
    for i, row in enumerate(x):
        average = average + (row - average) / (i + 1)
        rows.append(average)
    return torch.stack(rows)


@average_exercise.alternative("softmax over a triangle of zeros and minus infinity")
def average_by_softmax(x):
    hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    return torch.zeros(len(x), len(x)).masked_fill(hidden, -math.inf).softmax(-1) @ x


# --- 03.2: softmax ---------------------------------------------------------------------------------------------------


def softmax(scores: Tensor) -> Tensor:
    """Turn scores into weights: e to the power of each score, divided by the sum of these powers over the last axis.

    Shape: (..., S) -> (..., S). No weight is negative, and along the last axis they add up to 1.
    Large scores such as 1000 or -1000 do no harm; a score of minus infinity gets the weight 0 (not every score of a row
    is minus infinity).

    >>> softmax(torch.tensor([1000.0, 1000.0]))
    tensor([0.5000, 0.5000])
    """
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


softmax_exercise = Exercise(
    "03.2",
    softmax,
    hints=(
        "Three steps: make the scores harmless, take e to their power (`.exp()`), divide by a sum. Which axis is "
        "summed, and why must its length stay 1?",
        "Subtract from each row its own largest score: `scores.amax(dim=-1, keepdim=True)`. Then no power is above 1.",
        "`powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()`, and divide by "
        "`powers.sum(dim=-1, keepdim=True)`.",
    ),
)


@softmax_exercise.check("one row of scores: 3, 1, 0, 0")
def one_row(softmax):
    total = math.exp(3) + math.exp(1) + 2
    same(softmax(torch.tensor([3.0, 1.0, 0.0, 0.0])), torch.tensor([math.exp(3), math.exp(1), 1.0, 1.0]) / total)


@softmax_exercise.check("three rows of five scores, each row on its own")
def three_rows(softmax):
    scores = 2 * randn(3, 5)
    same(softmax(scores), F.softmax(scores, dim=-1))


@softmax_exercise.check("scores with three axes, (2, 3, 4), along the last one")
def three_axes(softmax):
    scores = randn(2, 3, 4)
    same(softmax(scores), F.softmax(scores, dim=-1))


@softmax_exercise.check("a square of scores, (4, 4), along the last axis")
def square_scores(softmax):
    scores = randn(4, 4)
    same(softmax(scores), F.softmax(scores, dim=-1))


@softmax_exercise.check("scores around 1000")
def scores_around_1000(softmax):
    scores = 1000 + integers(-3, 4, 2, 5).float()
    same(softmax(scores), F.softmax(scores, dim=-1), atol=1e-4, rtol=1e-4)  # float32 has steps of 6e-5 there


@softmax_exercise.check("a row around 1000, one around -1000, and one with both")
def rows_far_apart(softmax):
    small = integers(-2, 3, 3, 5).float()
    far = torch.tensor([[1000.0] * 5, [-1000.0] * 5, [1000.0, 1000.0, -1000.0, 0.0, 0.0]])
    same(softmax(small + far), F.softmax(small + far, dim=-1), atol=1e-4, rtol=1e-4)


@softmax_exercise.check("scores of minus infinity get the weight 0")
def minus_infinity(softmax):
    scores = randn(2, 4)
    scores[0, 1] = scores[1, 2] = scores[1, 3] = -math.inf
    same(softmax(scores), F.softmax(scores, dim=-1))


@softmax_exercise.mistake(
    "e to the power of a large score is infinite (float32 ends at e^88), and infinite / infinite is NaN. Subtract the "
    "largest score of each row first; the weights stay the same."
)
def without_subtracting(scores):
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "You subtracted the largest score of the whole tensor. In a row whose scores are all far below it every power "
    "is 0, and 0 / 0 is NaN. Subtract each row's own: `amax(dim=-1, keepdim=True)`."
)
def one_largest_for_all(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "Your numbers add up to 1 along the first axis. Add along the last one, `dim=-1`: there are the keys among which a "
    "query shares out its attention."
)
def over_the_first_axis(scores):
    return F.softmax(scores, dim=0)


@softmax_exercise.mistake(
    "You divided by the sum of the whole tensor, so all rows together add up to 1. Each row must: sum with `dim=-1, "
    "keepdim=True`."
)
def one_sum_for_all(scores):
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum()


@softmax_exercise.mistake(
    "You divided the scores by the largest one. Subtract it: e^(a - m) = e^a / e^m scales all weights alike, a / m "
    "does not."
)
def divided_by_the_largest(scores):
    powers = (scores / scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "You divided the scores themselves by their sum. Take e to their power first: scores may be negative or 0, weights "
    "must not be."
)
def without_powers(scores):
    return scores / scores.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "Your sum has lost the last axis, so PyTorch lines it up with the wrong one; where that fits, as in a square, "
    "there is not even an error. Keep it with length 1: `sum(dim=-1, keepdim=True)`."
)
def sum_without_keepdim(scores):
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1)


@softmax_exercise.mistake("You gave the logarithms of the weights. Leave out the logarithm: weights add up to 1.")
def logarithms(scores):
    return F.log_softmax(scores, dim=-1)


@softmax_exercise.mistake("You took powers of 2, as in the example by hand. Take powers of e: `.exp()`.")
def powers_of_two(scores):
    powers = 2 ** (scores - scores.amax(dim=-1, keepdim=True))
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "You subtracted the average score. That helps until one score lies far above the average, and then its power is "
    "infinite. Below the largest score nothing can overflow: subtract that one."
)
def subtracting_the_average(scores):
    powers = (scores - scores.mean(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "You subtracted the smallest score of each row. Then the others lie above 0, and if one lies far above, its "
    "power is infinite. Subtract the largest one: `amax`, not `amin`."
)
def subtracting_the_smallest(scores):
    powers = (scores - scores.amin(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.mistake(
    "You cut large scores off before taking powers. Then 1000 and 1003 get the same weight, though the second "
    "should have 20 times as much. Subtract the largest score of each row instead; that changes no weight."
)
def cut_off(scores):
    powers = scores.clamp(max=80).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


@softmax_exercise.alternative("torch's own")
def softmax_of_torch(scores):
    return torch.softmax(scores, dim=-1)


@softmax_exercise.alternative("the logarithm of the sum, subtracted before taking powers")
def softmax_by_logarithm(scores):
    return (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()


@softmax_exercise.alternative("a loop over rows, in Python's own numbers")
def softmax_by_loop(scores):
    rows = []
    for row in scores.reshape(-1, scores.size(-1)).tolist():
        powers = [math.exp(score - max(row)) for score in row]
        rows.append([power / sum(powers) for power in powers])
    return torch.tensor(rows).reshape(scores.shape)


# --- 03.3: one query -------------------------------------------------------------------------------------------------


def attend_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Average the values, weighted by how well one query matches each key.

    Shape: q (D,), k (S, D), v (S, Dv) -> (Dv,)
    Key j has the score q · k[j] / sqrt(D); the softmax of the S scores are the weights of the S values.

    >>> attend_one(torch.zeros(2), torch.zeros(2, 2), torch.tensor([[1.0], [3.0]]))  # nothing to choose by
    tensor([2.])
    """
    scores = torch.stack([(q * key).sum() for key in k]) / math.sqrt(len(q))
    out = torch.zeros(v.size(1))
    for weight, value in zip(scores.softmax(dim=0), v, strict=True):
        out = out + weight * value
    return out


one_query_exercise = Exercise(
    "03.3",
    attend_one,
    hints=(
        "Four steps, each a line or a short loop: a score per key, divide, softmax, and the sum of weight times value.",
        "The scores: `q @ key` for each `key` in k, put together with `torch.stack`. Divide by the root of `len(q)`.",
        "`weights = softmax(torch.stack([q @ key for key in k]) / math.sqrt(len(q)))`, then `weights @ v`, or a loop "
        "that adds `weight * value`.",
    ),
)


def _one_query(q, k, v):
    return F.scaled_dot_product_attention(q[None], k, v)[0]


@one_query_exercise.check("a query of two numbers, three keys, values of one number")
def small_numbers(attend_one):
    q, k, v = (
        torch.tensor([2.0, 0.0]),
        torch.tensor([[1.0, 5.0], [0.0, 3.0], [-1.0, 1.0]]),
        torch.tensor([[6.0], [3.0], [9.0]]),
    )
    powers = [math.exp(2 / math.sqrt(2)), 1.0, math.exp(-2 / math.sqrt(2))]
    same(attend_one(q, k, v), torch.tensor([(6 * powers[0] + 3 * powers[1] + 9 * powers[2]) / sum(powers)]))


@one_query_exercise.check("a query of four numbers, five keys, values of three numbers")
def more_numbers(attend_one):
    q, k, v = randn(4), randn(5, 4), randn(5, 3)
    same(attend_one(q, k, v), _one_query(q, k, v))


@one_query_exercise.check("as many keys as numbers per key and per value")
def one_query_square(attend_one):
    q, k, v = 2 * randn(4), randn(4, 4), randn(4, 4)
    same(attend_one(q, k, v), _one_query(q, k, v))


@one_query_exercise.check("a single key: there is nothing to choose")
def a_single_key(attend_one):
    q, k, v = randn(5), randn(1, 5), randn(1, 3)
    same(attend_one(q, k, v), v[0])


@one_query_exercise.check("scores in the hundreds")
def one_query_large_scores(attend_one):
    sign = 1.0 - 2.0 * integers(0, 2, 4).float()
    q, k, v = 20 * sign, torch.tensor(permutation(5)).float()[:, None] * 10 * sign, randn(5, 3)
    same(attend_one(q, k, v), _one_query(q, k, v))


@one_query_exercise.mistake(
    "The scores are not divided by sqrt(D). With D = 128, as in LLaMA, a query would then see one key and hardly "
    "any other."
)
def one_unscaled(q, k, v):
    return (k @ q).softmax(0) @ v


@one_query_exercise.mistake(
    "You divided by D. Divide by its square root: dot products of D numbers grow like sqrt(D), and divided by D all "
    "weights become nearly equal."
)
def one_divided_by_width(q, k, v):
    return (k @ q / len(q)).softmax(0) @ v


@one_query_exercise.mistake(
    "You divided by the root of the number of keys. Take the root of how long the query is: D = len(q)."
)
def one_divided_by_keys(q, k, v):
    return (k @ q / math.sqrt(len(k))).softmax(0) @ v


@one_query_exercise.mistake(
    "You divided the scores by their sum. Scores may be negative, and so would be the weights; put them through "
    "softmax."
)
def one_without_softmax(q, k, v):
    scores = k @ q / math.sqrt(len(q))
    return scores / scores.sum() @ v


@one_query_exercise.mistake(
    "Your powers of e are not divided by their sum, so the weights do not add up to 1. Use softmax."
)
def one_not_divided(q, k, v):
    return (k @ q / math.sqrt(len(q))).exp() @ v


@one_query_exercise.mistake(
    "You took the value of the best key alone. That is looking up; attention mixes all values by their weights. "
    "(From a choice of one, training could not learn to choose better: nothing changes when a score changes a "
    "little.)"
)
def one_best_only(q, k, v):
    return v[(k @ q).argmax()]


@one_query_exercise.mistake("This is the plain average of the values; your result does not depend on the scores.")
def one_plain_average(q, k, v):
    return v.mean(dim=0)


@one_query_exercise.mistake(
    "You mixed the keys. Keys only decide how much of each word is taken; what is taken are the values: `weights @ v`."
)
def one_mixes_keys(q, k, v):
    return (k @ q / math.sqrt(len(q))).softmax(0) @ k


@one_query_exercise.mistake(
    "You gave the weights back. One step is missing: the sum of weight times value, `weights @ v`."
)
def one_gives_weights(q, k, v):
    return (k @ q / math.sqrt(len(q))).softmax(0)


@one_query_exercise.mistake(
    "You divided by sqrt(D) after softmax. Then the weights add up to less than 1 and are as sharp as without it. "
    "Divide the scores, before softmax."
)
def one_divided_after(q, k, v):
    return (k @ q).softmax(0) / math.sqrt(len(q)) @ v


@one_query_exercise.mistake(
    "e to the power of your large scores is infinite, and infinite / infinite is NaN. Use the softmax that you "
    "wrote: it subtracts the largest score first."
)
def one_overflows(q, k, v):
    powers = (k @ q / math.sqrt(len(q))).exp()
    return powers / powers.sum() @ v


@one_query_exercise.mistake(
    "You compared directions only (cosine similarity). In attention the lengths of query and key count: a long key "
    "asks for more. Use the dot product, divided by sqrt(D)."
)
def one_cosine(q, k, v):
    return F.cosine_similarity(q[None], k).softmax(0) @ v


@one_query_exercise.mistake("You took powers of 2, as in the example by hand, where softmax takes powers of e.")
def one_powers_of_two(q, k, v):
    scores = k @ q / math.sqrt(len(q)) * math.log(2)
    return scores.softmax(0) @ v


@one_query_exercise.alternative("three matrix products, no loop")
def one_without_loop(q, k, v):
    return torch.softmax(k @ q / len(q) ** 0.5, dim=0) @ v


@one_query_exercise.alternative("torch's own, with an axis for the one query")
def one_by_torch(q, k, v):
    return F.scaled_dot_product_attention(q[None], k, v)[0]


@one_query_exercise.alternative("powers by hand, below the largest score")
def one_by_hand(q, k, v):
    scores = [sum(a * b for a, b in zip(q.tolist(), key, strict=True)) / math.sqrt(len(q)) for key in k.tolist()]
    powers = [math.exp(score - max(scores)) for score in scores]
    columns = zip(*v.tolist(), strict=True)
    return torch.tensor([sum(p * x for p, x in zip(powers, column, strict=True)) / sum(powers) for column in columns])


@one_query_exercise.alternative("einsum, with the scale put into the query")
def one_by_einsum(q, k, v):
    weights = torch.einsum("d,sd->s", q / math.sqrt(len(q)), k).softmax(0)
    return torch.einsum("s,sc->c", weights, v)


# --- 03.4: the causal mask -------------------------------------------------------------------------------------------

mask_exercise = Exercise(
    "03.4",
    attention.causal_mask,
    hints=(
        "Number the keys 0 to S - 1. Which number does query i have, when the last query is the last key?",
        "Query i has position S - T + i. Make one tensor with the positions of the queries and one with those of "
        "the keys (`torch.arange`), and compare every query with every key.",
        "`torch.arange(n_keys) <= torch.arange(n_keys - n_queries, n_keys)[:, None]`: a row against a column gives a "
        "table. Before that, `n_keys` is `n_queries` if it is None.",
    ),
)


@mask_exercise.check("three queries and no cache")
def three_by_three(causal_mask):
    same(causal_mask(3), torch.tensor([[True, False, False], [True, True, False], [True, True, True]]))


@mask_exercise.check("two new queries, five keys: three of them from the cache")
def two_by_five(causal_mask):
    same(causal_mask(2, 5), torch.tensor([[True, True, True, True, False], [True] * 5]))


@mask_exercise.check("one new query sees everything")
def one_by_many(causal_mask):
    n = int(integers(4, 9))
    same(causal_mask(1, n), torch.ones(1, n, dtype=torch.bool))


@mask_exercise.check("as many queries as keys, both given")
def both_given(causal_mask):
    n = int(integers(4, 7))
    same(causal_mask(n, n), torch.tensor([[j <= i for j in range(n)] for i in range(n)]))


@mask_exercise.check("four queries at the end of a longer text")
def four_at_the_end(causal_mask):
    n = int(integers(6, 10))
    same(causal_mask(4, n), torch.tensor([[j <= n - 4 + i for j in range(n)] for i in range(4)]))


def _keys(n_queries, n_keys):
    return n_queries if n_keys is None else n_keys


@mask_exercise.mistake(
    "A query can't see itself in your mask. Let it: with `<=` instead of `<`. Otherwise the first word has nothing to "
    "look at."
)
def not_itself(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).tril(S - n_queries - 1)


@mask_exercise.mistake(
    "Every query sees one word too many: the one that it has to predict. A model trained like this learns to copy "
    "it, and its loss will look wonderful."
)
def one_too_many(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).tril(S - n_queries + 1)


@mask_exercise.mistake(
    "Your True means hidden. Here True means may look, as in PyTorch's `scaled_dot_product_attention`. Turn it round "
    "with `~`."
)
def true_means_hidden(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).triu(S - n_queries + 1)


@mask_exercise.mistake(
    "Your queries look at themselves and at what comes after them. Turn the comparison round: key <= query. (Or the "
    "triangle: `tril` keeps the lower left, `triu` the upper right.)"
)
def looks_ahead(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).triu(S - n_queries)


@mask_exercise.mistake(
    "With a cache your first query sits at position 0. But the queries are the last words of the text: query i sits at "
    "S - T + i. With this mistake a new word sees the oldest words and not its neighbours."
)
def aligned_at_the_start(n_queries, n_keys=None, device=None):
    return torch.ones(n_queries, _keys(n_queries, n_keys), dtype=torch.bool).tril()


@mask_exercise.mistake(
    "You ignored `n_keys`. With a cache there are more keys than queries, and the mask needs a column for each key:"
    " shape (T, S)."
)
def always_square(n_queries, n_keys=None, device=None):
    return torch.ones(n_queries, n_queries, dtype=torch.bool).tril()


@mask_exercise.mistake(
    "With a cache you let every query see everything. That is right for one new word. Of two new words, the first must "
    "not see the second."
)
def no_mask_with_a_cache(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).tril(0 if n_queries == S else S)


@mask_exercise.mistake(
    "Rows and columns are swapped: a row belongs to a query, a column to a key, shape (T, S). In a square mask this "
    "shows the past what is to come."
)
def keys_by_queries(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool).tril(S - n_queries).T


@mask_exercise.mistake(
    "The pattern is right, but these are ones and zeros. Give True and False: a comparison does, and so does "
    "`dtype=torch.bool`."
)
def ones_and_zeros(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S).tril(S - n_queries)


@mask_exercise.mistake(
    "You gave numbers to add to the scores, 0 and minus infinity. That is the other custom; here a mask is True "
    "where a query may look, and `attend` does the rest."
)
def to_be_added(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.full((n_queries, S), -math.inf).triu(S - n_queries + 1)


@mask_exercise.alternative("a triangle")
def mask_by_triangle(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.ones(n_queries, S, dtype=torch.bool, device=device).tril(diagonal=S - n_queries)


@mask_exercise.alternative("two loops")
def mask_by_loops(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return torch.tensor([[key <= S - n_queries + i for key in range(S)] for i in range(n_queries)], device=device)


@mask_exercise.alternative("the last rows of a square")
def mask_by_last_rows(n_queries, n_keys=None, device=None):
    positions = torch.arange(_keys(n_queries, n_keys), device=device)
    return (positions.unsqueeze(1) >= positions)[-n_queries:]


@mask_exercise.alternative("everything but the future")
def mask_by_future(n_queries, n_keys=None, device=None):
    S = _keys(n_queries, n_keys)
    return ~torch.ones((n_queries, S), dtype=torch.bool, device=device).triu(1 + S - n_queries)


# --- 03.5: attend ----------------------------------------------------------------------------------------------------

attend_exercise = Exercise(
    "03.5",
    attention.attend,
    hints=(
        "Four lines: scores, scale, hide, average. Write down the shape after each of them.",
        "`k.transpose(-2, -1)` swaps the last two axes whatever stands before them. `scores.masked_fill(~mask, "
        "low)` puts `low` where the mask is False, but only if there is a mask.",
        "`scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))`; then, if there is a mask, "
        "`scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)`; then `scores.softmax(dim=-1) @ v`.",
    ),
)


def _holes(*shape):
    """A mask that hides two keys from each query, other ones from each."""
    *others, S = shape
    rows = torch.tensor([permutation(S) for _ in range(math.prod(others))])
    return (rows >= 2).reshape(shape)


def _in_a_line(T, S, D=4):
    """Queries (T, D), and for keys of whole numbers along the same line their steps 0 to S - 1 and its direction."""
    sign = 1.0 - 2.0 * integers(0, 2, D).float()
    steps = torch.tensor(permutation(S)).float()
    return torch.tensor([40.0, 80.0, -60.0])[:T, None] * sign, steps, sign


@attend_exercise.check("one query, two keys with the scores 6 / 2 and 2 / 2, no mask")
def by_hand(attend):
    order = permutation(4)
    q = torch.tensor([[2.0, 1.0, 0.0, 1.0]])[:, order]
    k = torch.tensor([[2.0, 1.0, -1.0, 1.0], [0.0, 1.0, 2.0, 1.0]])[:, order]
    v = integers(-9, 10, 2, 3).float()
    weights = torch.tensor([[math.exp(3), math.exp(1)]]) / (math.exp(3) + math.exp(1))
    same(attend(q, k, v), weights @ v)


@attend_exercise.check("three queries, five keys, no mask")
def without_mask(attend):
    q, k, v = 1.5 * randn(3, 4), randn(5, 4), randn(5, 6)
    same(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@attend_exercise.check("two texts with three heads each: axes before the last two are left alone")
def batch_and_heads(attend):
    q, k, v = randn(2, 3, 4, 5), randn(2, 3, 6, 5), randn(2, 3, 6, 7)
    same(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@attend_exercise.check("a mask with holes, the same for both texts")
def one_mask(attend):
    q, k, v, mask = 2 * randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 6), _holes(3, 5)
    same(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


@attend_exercise.check("a mask for each text, the same for all its queries: shape (2, 1, 5)")
def mask_per_text(attend):
    q, k, v, mask = randn(2, 3, 4), randn(2, 5, 4), 1e-2 * randn(2, 5, 6), _holes(2, 1, 5)
    same(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


@attend_exercise.check("as many queries as keys, and as wide: (4, 4) everywhere")
def all_square(attend):
    q, k, v, mask = randn(4, 4), randn(4, 4), randn(4, 4), attention.causal_mask(4)
    same(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


@attend_exercise.check("scores in the thousands")
def thousands(attend):
    q, steps, sign = _in_a_line(3, 5)
    k, v = 20 * steps[:, None] * sign, randn(5, 6)
    same(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@attend_exercise.check("scores from -20,000 to -23,200, the two lowest of them hidden")
def low_scores(attend):
    _, steps, sign = _in_a_line(3, 5)
    q = -100 * sign.expand(3, 4)
    k, v = (100 + 4 * steps)[:, None] * sign, randn(5, 6)
    mask = (steps < 3).expand(3, 5).clone()
    same(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask))


LOWEST = torch.finfo(torch.float32).min


def _scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))


def _hidden(scores, mask):
    return scores if mask is None else scores.masked_fill(~mask, LOWEST)


@attend_exercise.mistake(
    "Softmax over the queries (dim=-2): your columns add up to 1. Each query shares out its own 1 among the keys: "
    "dim=-1. With this mistake every query depends on all the others, later ones included, and the loss of a model "
    "looks wonderful."
)
def over_queries(q, k, v, mask=None):
    return _hidden(_scores(q, k), mask).softmax(dim=-2) @ v


@attend_exercise.mistake(
    "Softmax over the first axis (dim=0). In a batch that axis counts the texts, so one text changes what another one "
    "sees. The keys are always the last axis of the scores: dim=-1."
)
def over_texts(q, k, v, mask=None):
    return _hidden(_scores(q, k), mask).softmax(dim=0) @ v


@attend_exercise.mistake(
    "The scores are not divided by sqrt(D). With D = 128, as in LLaMA, nearly every query would see a single key, and "
    "hardly any slope is left to learn from."
)
def unscaled(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You divided by D. Divide by its square root: dot products of D numbers grow like sqrt(D), and divided by D all "
    "weights become nearly equal."
)
def divided_by_width(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1) / q.size(-1), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "The scale is upside down: you multiplied by sqrt(D). Divide by it, or multiply by D ** -0.5 (dividing by D ** "
    "-0.5 is multiplying)."
)
def scale_upside_down(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1) / q.size(-1) ** -0.5, mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You divided by the root of the number of keys. Take the width of a query, `q.size(-1)`: a score is a sum over D "
    "products, however long the text is."
)
def divided_by_keys(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1) / math.sqrt(k.size(-2)), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You divided by the root of the values' width. The scores come from queries and keys: `q.size(-1)`."
)
def divided_by_values(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1) / math.sqrt(v.size(-1)), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You divided by sqrt(D) after softmax. Then the weights are as sharp as without it and add up to less than 1. "
    "Divide the scores, before softmax."
)
def divided_after(q, k, v, mask=None):
    return _hidden(q @ k.transpose(-2, -1), mask).softmax(dim=-1) / math.sqrt(q.size(-1)) @ v


@attend_exercise.mistake(
    "Your result does not depend on the mask. Where it is False, make the score as low as can be, before softmax: "
    "`scores.masked_fill(~mask, ...)`, and keep what it returns. Without it the future is visible."
)
def mask_forgotten(q, k, v, mask=None):
    return _scores(q, k).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You gave hidden keys the score 0. That hides nothing: e^0 = 1, more than a visible key with a negative score "
    "gets. Use the lowest number there is, or minus infinity."
)
def hidden_by_zero(q, k, v, mask=None):
    scores = _scores(q, k)
    return (scores if mask is None else scores.masked_fill(~mask, 0.0)).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You hid keys after softmax. What is left adds up to less than 1, and how much less tells about the hidden keys: "
    "the future leaks through the sum. Hide the scores, before softmax."
)
def hidden_after(q, k, v, mask=None):
    weights = _scores(q, k).softmax(dim=-1)
    return (weights if mask is None else weights * mask) @ v


@attend_exercise.mistake(
    "The mask is upside down: you hid what may be seen. True means may look, and `masked_fill` fills where its mask is "
    "True, so give it `~mask`."
)
def mask_upside_down(q, k, v, mask=None):
    return _hidden(_scores(q, k), None if mask is None else ~mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You added the mask to the scores: True counts as 1, False as 0, so hidden keys lose one point and no more. "
    "Adding is for masks of 0 and minus infinity; fill with `masked_fill(~mask, ...)`."
)
def mask_added(q, k, v, mask=None):
    scores = _scores(q, k)
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You filled hidden scores with plus infinity. Those keys then win everything, as NaN. Use minus."
)
def plus_infinity(q, k, v, mask=None):
    scores = _scores(q, k)
    return (scores if mask is None else scores.masked_fill(~mask, math.inf)).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "Your number for hidden keys is not low enough: real scores can lie below it, and then the hidden keys win. Use"
    " the lowest number of the dtype, `torch.finfo(scores.dtype).min`, or minus infinity."
)
def not_low_enough(q, k, v, mask=None):
    scores = _scores(q, k)
    return (scores if mask is None else scores.masked_fill(~mask, -1e4)).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You used `~mask` even where there is no mask. It may be None: then every query looks everywhere. Ask "
    "`if mask is not None`."
)
def mask_always_there(q, k, v, mask=None):
    return _scores(q, k).masked_fill(~mask, LOWEST).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "e to the power of your large scores is infinite, and infinite / infinite is NaN; of very low scores it is 0, and "
    "0 / 0 is NaN as well. Use a softmax that subtracts the largest score first: yours, or `scores.softmax(dim=-1)`."
)
def overflowing(q, k, v, mask=None):
    powers = _scores(q, k).exp()
    powers = powers if mask is None else powers * mask
    return powers / powers.sum(dim=-1, keepdim=True) @ v


@attend_exercise.mistake(
    "You multiplied q by k as it stands. Row by row against row by row needs `q @ k.transpose(-2, -1)`; without it the "
    "shapes fit only if they are square, and then the numbers mean nothing."
)
def not_transposed(q, k, v, mask=None):
    return _hidden(q @ k / math.sqrt(q.size(-1)), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "You transposed the first two axes of k. That is right as long as there are only two. Count from the end: "
    "`k.transpose(-2, -1)`."
)
def first_two_axes(q, k, v, mask=None):
    return _hidden(q @ k.transpose(0, 1) / math.sqrt(q.size(-1)), mask).softmax(dim=-1) @ v


@attend_exercise.mistake(
    "Queries and keys have changed places: your rows belong to keys. The table of scores has a row for each query: "
    "`q @ k.transpose(-2, -1)`."
)
def places_changed(q, k, v, mask=None):
    scores = k @ q.transpose(-2, -1) / math.sqrt(q.size(-1))
    return _hidden(scores, mask).softmax(dim=-1) @ v


@attend_exercise.mistake("You gave the weights back. One step is missing: `weights @ v`, shape (..., T, Dv).")
def weights_only(q, k, v, mask=None):
    return _hidden(_scores(q, k), mask).softmax(dim=-1)


@attend_exercise.alternative("torch's own")
def attend_by_torch(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@attend_exercise.alternative("einsum, hiding with minus infinity")
def attend_by_einsum(q, k, v, mask=None):
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.size(-1) ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
    return torch.einsum("...ts,...sc->...tc", scores.softmax(-1), v)


@attend_exercise.alternative("half of the scale on each side")
def attend_scaled_on_both_sides(q, k, v, mask=None):
    scale = q.size(-1) ** -0.25
    scores = (q * scale) @ (k * scale).mT
    return (scores if mask is None else scores.masked_fill(mask.logical_not(), -1e9)).softmax(-1) @ v


@attend_exercise.alternative("the mask after softmax, and then each row divided by its sum")
def attend_divided_again(q, k, v, mask=None):
    weights = _scores(q, k).softmax(-1)
    weights = weights if mask is None else weights * mask
    return weights / weights.sum(-1, keepdim=True) @ v


@attend_exercise.alternative("one query at a time")
def attend_by_loop(q, k, v, mask=None):
    rows = []
    for i in range(q.size(-2)):
        scores = (q[..., i, None, :] * k).sum(-1) / math.sqrt(q.size(-1))  # (..., S)
        if mask is not None:
            scores = (
                scores + torch.zeros(mask.shape).masked_fill(~mask, -math.inf)[..., i if mask.size(-2) > 1 else 0, :]
            )
        rows.append((scores.softmax(-1)[..., None] * v).sum(-2))
    return torch.stack(rows, dim=-2)


# --- 03.6: texts of different lengths --------------------------------------------------------------------------------


def batch_mask(tokens: Tensor, pad: int) -> Tensor:
    """Say who may look where in a batch of texts that are filled up with padding.

    Shape: (B, T) -> (B, T, T), bool, True means "may look". Query i may look at key j if j does not come after i, and
    token j is not `pad`. Padding may stand at either end.

    >>> batch_mask(torch.tensor([[5, 7, 0]]), pad=0).int()
    tensor([[[1, 0, 0],
             [1, 1, 0],
             [1, 1, 0]]], dtype=torch.int32)
    """
    T = tokens.size(1)
    past = torch.ones(T, T, dtype=torch.bool).tril()
    return past & (tokens != pad)[:, None, :]


padding_exercise = Exercise(
    "03.6",
    batch_mask,
    hints=(
        "Two conditions, both must hold. One you have: `causal_mask(T)`, shape (T, T). The other says of each *key* "
        "whether it is a word.",
        "`tokens != pad` has shape (B, T). Keys are the last axis of a mask: put a new axis in the middle, so that "
        "it is (B, 1, T) and the same for every query.",
        "`causal_mask(T) & (tokens != pad)[:, None, :]`",
    ),
)


def _expected(tokens, pad):
    texts = tokens.tolist()
    return torch.tensor(
        [[[j <= i and text[j] != pad for j in range(len(text))] for i in range(len(text))] for text in texts]
    )


@padding_exercise.check("two texts, filled up with 0 at the end")
def at_the_end(batch_mask):
    tokens = torch.tensor([[5, 7, 2, 0], [3, 1, 0, 0]])
    same(batch_mask(tokens, 0), _expected(tokens, 0))


@padding_exercise.check("padding at the front")
def at_the_front(batch_mask):
    tokens = integers(1, 9, 2, 5)
    tokens[0, :1] = tokens[1, :3] = 0
    same(batch_mask(tokens, 0), _expected(tokens, 0))


@padding_exercise.check("another number for padding, and 0 is a word")
def another_pad(batch_mask):
    pad = pick([6, 7])
    tokens = torch.tensor([[0, 9, 1, 4, 2], [8, 0, 3, pad, pad], [5, pad, pad, pad, pad]])
    same(batch_mask(tokens, pad), _expected(tokens, pad))


@padding_exercise.check("as many texts as words")
def as_many_texts(batch_mask):
    tokens = integers(1, 9, 4, 4)
    tokens[1, 2:] = tokens[3, 3:] = 0
    same(batch_mask(tokens, 0), _expected(tokens, 0))


@padding_exercise.check("no padding at all")
def no_padding(batch_mask):
    tokens = integers(1, 9, 2, 3)
    same(batch_mask(tokens, 0), attention.causal_mask(3).expand(2, 3, 3).clone())


def _past(tokens):
    return attention.causal_mask(tokens.size(1))


@padding_exercise.mistake(
    "You hid the rows of padded queries. Hide the columns, the padded *keys*: `[:, None, :]` puts words on the last"
    " axis. As it is, every word still looks at the padding."
)
def queries_hidden(tokens, pad):
    return _past(tokens) & (tokens != pad)[:, :, None]


@padding_exercise.mistake("You let words look at the padding and hid the words. True means may look: `tokens != pad`.")
def padding_shown(tokens, pad):
    return _past(tokens) & (tokens == pad)[:, None, :]


@padding_exercise.mistake(
    "You joined the two conditions with or (`|`). Both must hold, so use and (`&`). With or, the future is visible "
    "wherever there is a word."
)
def either_condition(tokens, pad):
    return _past(tokens) | (tokens != pad)[:, None, :]


@padding_exercise.mistake(
    "The padding is hidden, but the future is not. A query may look no further than itself: `& causal_mask(T)`."
)
def future_shown(tokens, pad):
    return (tokens != pad)[:, None, :].expand(-1, tokens.size(1), -1).clone()


@padding_exercise.mistake(
    "The padding is hidden, but your triangle is upside down: a query sees itself and what comes after it. Keep the"
    " lower left: `tril`, or `causal_mask(T)`."
)
def future_instead_of_past(tokens, pad):
    return _past(tokens).T & (tokens != pad)[:, None, :]


@padding_exercise.mistake("You took 0 for padding whatever `pad` says. Compare with `pad`.")
def always_zero(tokens, pad):
    return _past(tokens) & (tokens != 0)[:, None, :]


@padding_exercise.mistake(
    "You hid every token up to `pad`. A token is a number only by name; smaller and larger mean nothing. Ask "
    "whether it is `pad`: `tokens != pad`."
)
def larger_than_pad(tokens, pad):
    return _past(tokens) & (tokens > pad)[:, None, :]


@padding_exercise.mistake(
    "You hid padded keys, which is right, and everything from padded queries as well. Leave those rows as they are: "
    "nobody reads them, and a row that sees nothing has nothing to average."
)
def both_hidden(tokens, pad):
    real = tokens != pad
    return _past(tokens) & real[:, None, :] & real[:, :, None]


@padding_exercise.mistake(
    "This is the causal mask alone: words still look at the padding before them or, at the end, at itself."
)
def padding_forgotten(tokens, pad):
    return _past(tokens).expand(len(tokens), -1, -1).clone()


@padding_exercise.mistake(
    "You used the padding of the first text for all of them. Each text has its own: keep the axis of texts, (B, 1, T)."
)
def of_the_first_text(tokens, pad):
    return (_past(tokens) & (tokens[0] != pad)).expand(len(tokens), -1, -1).clone()


@padding_exercise.mistake(
    "You counted the words of each text and hid everything after that many. That takes for granted that the padding "
    "stands at the end. Hide where the padding is: `tokens != pad`."
)
def by_length(tokens, pad):
    lengths = (tokens != pad).sum(dim=1)
    return _past(tokens) & (torch.arange(tokens.size(1)) < lengths[:, None])[:, None, :]


@padding_exercise.mistake(
    "You compared the (T, T) table with `tokens != pad` as it is, (B, T): PyTorch takes the texts for queries. Say "
    "which axis is which: `[:, None, :]` makes it (B, 1, T)."
)
def without_the_new_axis(tokens, pad):
    return _past(tokens) & (tokens != pad)


@padding_exercise.mistake(
    "The pattern is right, but these are ones and zeros. Join True and False with `&`; do not multiply."
)
def as_numbers(tokens, pad):
    return _past(tokens).float() * (tokens != pad)[:, None, :]


@padding_exercise.alternative("loops")
def batch_mask_by_loops(tokens, pad):
    B, T = tokens.shape
    mask = torch.zeros(B, T, T, dtype=torch.bool)
    for b in range(B):
        for i in range(T):
            for j in range(i + 1):
                mask[b, i, j] = bool(tokens[b, j] != pad)
    return mask


@padding_exercise.alternative("hiding instead of allowing")
def batch_mask_by_hiding(tokens, pad):
    T = tokens.size(1)
    future = torch.arange(T).unsqueeze(0) > torch.arange(T).unsqueeze(1)
    return torch.logical_or(future, tokens.eq(pad).unsqueeze(1)).logical_not()


@padding_exercise.alternative("the padding put into a copy of the causal mask, text by text")
def batch_mask_by_text(tokens, pad):
    return torch.stack([attention.causal_mask(len(text)).masked_fill(text == pad, False) for text in tokens])
