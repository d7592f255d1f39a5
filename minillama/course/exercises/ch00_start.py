"""Exercises of chapter 00, small ones: twice a number, the highest score, a list that grows, how many numbers."""

import math

import torch

from minillama.course.checks import integers, permutation, pick, rand, same
from minillama.course.exercise import Exercise

# 00.1 ----------------------------------------------------------------------------------------------------------------


def double(x: float) -> float:
    """Twice the number x.

    >>> double(5)
    10
    """
    return 2 * x


double_exercise = Exercise(
    "00.1",
    double,
    hints=(
        "Replace the whole line `raise NotImplementedError(...)` by one that begins with `return`.",
        "A number and the same number once more.",
        "`return x + x` is one way.",
    ),
)


@double_exercise.check("twice 2")
def double_of_two(double):
    same(double(2), 4)


@double_exercise.check("twice 0")
def double_of_zero(double):
    same(double(0), 0)


@double_exercise.check("twice a larger number")
def double_of_more(double):
    n = int(integers(5, 12))
    same(double(n), 2 * n)


@double_exercise.check("twice a number below zero")
def double_of_less(double):
    n = -int(integers(5, 12))
    same(double(n), 2 * n)


@double_exercise.check("twice a number with a fraction")
def double_of_fraction(double):
    x = int(integers(3, 9)) + pick([0.6, 0.7, 0.8])
    same(double(x), 2 * x)


@double_exercise.mistake("You multiplied x by itself. Twice x is x + x. For 2 and 0 nobody sees the difference.")
def multiplied_by_itself(x):
    return x * x


@double_exercise.mistake("You added 2. Twice x is x + x. For x = 2 nobody sees the difference.")
def two_more(x):
    return x + 2


@double_exercise.mistake("""You took 2 to the power of x (`**` is the power). Twice x is `2 * x`, with one star.""")
def power_of_two(x):
    return 2**x


@double_exercise.mistake("""You took x to the power of x (`**` is the power). Twice x is `2 * x`.""")
def power_of_itself(x):
    return x**x if x >= 0 else math.nan


@double_exercise.mistake("You gave x back as it came. Give back twice x.")
def as_it_came(x):
    return x


@double_exercise.mistake("You halved x. Multiply by 2; don't divide.")
def halved(x):
    return x / 2


@double_exercise.mistake("""Your function gave nothing back, and nothing is what Python calls None. Write `return` in
    front of the result. (`print` only shows a number; no other part of a program can use it.)""")
def printed(x):
    print(2 * x)


@double_exercise.mistake("You cut off the fraction before you doubled. Leave int() away: x may be 3.7.")
def without_the_fraction(x):
    return 2 * int(x)


@double_exercise.mistake("You rounded. Give back the number as it is: twice 3.7 is 7.4.")
def rounded(x):
    return round(2 * x)


@double_exercise.mistake("You dropped the sign. Twice -5 is -10.")
def without_the_sign(x):
    return 2 * abs(x)


@double_exercise.mistake("""You made a text of x, and twice a text is that text two times: "7" becomes "77". Numbers
    need no quotes and no str().""")
def doubled_text(x):
    return 2 * str(x)


@double_exercise.alternative("a sum")
def added(x):
    return x + x


@double_exercise.alternative("a division")
def divided(x):
    return x / 0.5


@double_exercise.alternative("a list of two")
def summed(x):
    return sum([x for _ in range(2)])


# 00.2 ----------------------------------------------------------------------------------------------------------------


def likeliest(scores: dict):
    """The token with the highest score.

    scores: token -> score, at least one. Of several tokens with the same highest score, the one that comes first.
    The dict stays as it was.

    >>> likeliest({"a": 0.5, "e": 2.0, "z": -1.0})
    'e'
    """
    return max(scores, key=lambda token: scores[token])


likeliest_exercise = Exercise(
    "00.2",
    likeliest,
    hints=(
        "Two things have to be remembered while you go through the dict: the highest score so far, and whose it is. "
        "You give back whose it is.",
        '`for token, score in scores.items():` goes through both together. What are "the best so far" before the '
        "first one? A score can be negative, so 0 is no good start.",
        "`max(scores, key=...)` gives the key for which `key` is largest, and the first one of equals. What has to "
        "stand for the dots is a function that takes a token and gives its score: `scores.get`.",
    ),
)

LETTERS = "abcdefghijklmnopqrstuvwxy"  # z is missing: it is put in where the last of the alphabet is wanted


def _letters(n: int) -> list[str]:
    return [LETTERS[i] for i in permutation(len(LETTERS))[:n]]


@likeliest_exercise.check("three tokens, the highest score in the middle")
def likeliest_of_three(likeliest):
    same(likeliest({"a": 0.5, "e": 2.0, "z": -1.0}), "e")


@likeliest_exercise.check("six tokens in any order, one score far below zero", points=2)
def likeliest_of_six(likeliest):
    tokens = [*_letters(5), "z"]
    values = [round(x, 2) for x in (2 * rand(6)).tolist()]
    values[3] = 3.5
    values[1] = -4.5
    same(likeliest(dict(zip(tokens, values, strict=True))), tokens[3])


@likeliest_exercise.check("scores that are all below zero")
def likeliest_below_zero(likeliest):
    tokens = _letters(4)
    values = [-2.5, -3.0, round(-0.5 - float(rand(1)), 2), -2.0]
    same(likeliest(dict(zip(tokens, values, strict=True))), tokens[2])


@likeliest_exercise.check("two tokens with the same highest score: the first of them")
def likeliest_of_equals(likeliest):
    b, a, d, c = (letter + pick("ly") for letter in "badc")  # neither the first nor the last in the alphabet
    same(likeliest({b: 1.0, d: 3.0, c: 3.0, a: 0.0}), d)


@likeliest_exercise.check("tokens that are numbers, as in a model")
def likeliest_of_numbers(likeliest):
    ids = [7, 30 + int(integers(0, 9)), 20, 64]
    same(likeliest(dict(zip(ids, [0.1, -2.5, 1.5, 0.7], strict=True))), ids[2])


@likeliest_exercise.mistake("You gave back the score. Asked for is the token that has it: the key, not the value.")
def the_score(scores):
    return max(scores.values())


@likeliest_exercise.mistake("""You gave back the token and its score together. Only the token is asked for.""")
def token_and_score(scores):
    return max(scores.items(), key=lambda item: item[1])


@likeliest_exercise.mistake("""You gave back the score and its token together. Only the token is asked for.""")
def score_and_token(scores):
    best = max(scores, key=scores.get)
    return scores[best], best


@likeliest_exercise.mistake("""You compared the tokens instead of their scores: `max(scores)` looks at the keys, and
    gives the last one of the alphabet. `max` takes a `key=` that says what to compare.""")
def last_of_the_alphabet(scores):
    return max(scores)


@likeliest_exercise.mistake("""You gave back the token with the lowest score. The higher the score, the likelier the
    token.""")
def the_lowest(scores):
    return min(scores, key=scores.get)


@likeliest_exercise.mistake("""You compared scores without their signs. A score of -4.5 is very low, not high: such a
    token hardly ever comes.""")
def largest_without_sign(scores):
    return max(scores, key=lambda token: abs(scores[token]))


@likeliest_exercise.mistake("""You started with a best score of 0, so that no token with a negative score can win.
    Scores may all be negative. Start with the first token's score.""")
def starts_at_zero(scores):
    best, best_score = None, 0
    for token, score in scores.items():
        if score > best_score:
            best, best_score = token, score
    return best


@likeliest_exercise.mistake("""You started with an empty text and a best score of 0. If all scores are below 0, none
    of them gets in, and the empty text stays. Start with the first token's score.""")
def starts_at_zero_with_a_text(scores):
    best, best_score = "", 0
    for token, score in scores.items():
        if score > best_score:
            best, best_score = token, score
    return best


@likeliest_exercise.mistake("""Of two equal scores you took the last token; the first is asked for. Compare with `>`
    instead of `>=`.""")
def last_of_equals(scores):
    best, best_score = None, -math.inf
    for token, score in scores.items():
        if score >= best_score:
            best, best_score = token, score
    return best


@likeliest_exercise.mistake("""You gave back the place of the token, counted from 0. Give back the token that stands
    there.""")
def the_place(scores):
    values = list(scores.values())
    return values.index(max(values))


@likeliest_exercise.mistake("""You gave back a list of tokens. One token is asked for; if several have the highest
    score, the first of them.""")
def all_of_the_best(scores):
    return [token for token, score in scores.items() if score == max(scores.values())]


@likeliest_exercise.mistake("""Your `return` stands inside the loop, so you gave back the first token before you had
    seen the others. Move it to the left, below the loop.""")
def returns_too_early(scores):
    best, best_score = None, -math.inf
    for token, score in scores.items():
        if score > best_score:
            best, best_score = token, score
        return best


@likeliest_exercise.alternative("a loop")
def with_a_loop(scores):
    best = None
    for token in scores:
        if best is None or scores[token] > scores[best]:
            best = token
    return best


@likeliest_exercise.alternative("sorted, the highest first")
def sorted_first(scores):
    return sorted(scores.items(), key=lambda item: -item[1])[0][0]


@likeliest_exercise.alternative("torch's argmax on the scores")
def with_torch(scores):
    values = torch.tensor(list(scores.values()), dtype=torch.float64)
    return list(scores)[(values == values.max()).nonzero()[0].item()]


# 00.3 ----------------------------------------------------------------------------------------------------------------


def with_next(tokens: list[int], new: int, max_len: int) -> list[int]:
    """The text with one more token at its end, and of that the last max_len tokens.

    max_len: at least 1. -> a new list; `tokens` stays as it was.

    >>> with_next([5, 6, 7], 8, max_len=10)
    [5, 6, 7, 8]
    >>> with_next([5, 6, 7], 8, max_len=3)
    [6, 7, 8]
    """
    return [*tokens, new][-max_len:]


with_next_exercise = Exercise(
    "00.3",
    with_next,
    hints=(
        "Two steps: make a list that is one longer, then cut off what is too much, at the left end.",
        "`tokens.append(new)` changes the list that you were given. `tokens + [new]` makes a new one.",
        "`tokens + [new]`, and of that the slice `[-max_len:]`: the last max_len. Put brackets around the sum.",
    ),
)


def _ids(n: int) -> list[int]:
    return [10 + i for i in permutation(50)[:n]]


@with_next_exercise.check("room to spare")
def room_to_spare(with_next):
    tokens = _ids(3)
    same(with_next(tokens, 7, 10), [*tokens, 7])


@with_next_exercise.check("exactly full afterwards")
def exactly_full(with_next):
    tokens = _ids(4)
    same(with_next(tokens, 7, 5), [*tokens, 7])


@with_next_exercise.check("full before: the oldest token goes")
def full_before(with_next):
    tokens = _ids(4)
    same(with_next(tokens, 7, 4), [*tokens[1:], 7])


@with_next_exercise.check("a text that is much too long")
def much_too_long(with_next):
    tokens = _ids(9)
    same(with_next(tokens, 7, 3), [*tokens[-2:], 7])


@with_next_exercise.check("room for a single token")
def room_for_one(with_next):
    same(with_next(_ids(3), 7, 1), [7])


@with_next_exercise.check("a text that is still empty")
def still_empty(with_next):
    same(with_next([], 7, 2), [7])


@with_next_exercise.mistake("""`append` put the new token into the list that you were given, and whoever gave it to
    you now finds it changed. Make a new list: `tokens + [new]`. (`tokens += [new]` is an append, too.)""")
def appended(tokens, new, max_len):
    tokens.append(new)
    return tokens[-max_len:]


@with_next_exercise.mistake("""`append` and `+=` change the list that you were given; and you never cut it. Make a new
    list, `tokens + [new]`, and take the last max_len of it.""")
def appended_and_never_cut(tokens, new, max_len):
    tokens.append(new)
    return tokens


@with_next_exercise.mistake("""You gave back what `append` gives back, which is None: it changes the list and returns
    nothing. Make a new list instead: `tokens + [new]`.""")
def what_append_returns(tokens, new, max_len):
    return tokens.append(new)


@with_next_exercise.mistake("""You never cut the sum. A model sees max_len tokens at most. (In `tokens +
    [new][-max_len:]` only `[new]` is cut: put brackets around the sum.)""")
def never_cut(tokens, new, max_len):
    return [*tokens, new]


@with_next_exercise.mistake("""You cut first and added then, so the list can be one token too long. Add first, then
    take the last max_len.""")
def cut_first(tokens, new, max_len):
    return [*tokens[-max_len:], new]


@with_next_exercise.mistake("""You kept the first max_len tokens. The new one is at the other end and gets lost: a
    model with this mistake would write the same letter forever. Keep the last ones: `[-max_len:]`.""")
def kept_the_first(tokens, new, max_len):
    return [*tokens, new][:max_len]


@with_next_exercise.mistake("""You added a number to a list, which Python refuses. Make a list of the new token first:
    `tokens + [new]`.""")
def number_to_a_list(tokens, new, max_len):
    return (tokens + new)[-max_len:]


@with_next_exercise.mistake("""You put the new token in front. A text grows at its end.""")
def in_front(tokens, new, max_len):
    return [new, *tokens][:max_len]


@with_next_exercise.mistake("""You always dropped the oldest token, even where there was room for it. Only what is
    beyond max_len goes.""")
def always_drops_one(tokens, new, max_len):
    return [*tokens[1:], new][-max_len:]


@with_next_exercise.mistake("""You dropped one token at most. A text can be longer than max_len by many: take the last
    max_len, however many that drops.""")
def drops_one_at_most(tokens, new, max_len):
    longer = [*tokens, new]
    return longer[1:] if len(longer) > max_len else longer


@with_next_exercise.mistake("""You kept one token too few. `[-max_len:]` is the last max_len of a list.""")
def one_too_few(tokens, new, max_len):
    return [*tokens, new][-max_len + 1 :] if max_len > 1 else []


@with_next_exercise.mistake("""You took the last max_len - 1 of the old tokens, as `tokens[-(max_len - 1):]`. For
    max_len = 1 that is `tokens[-0:]`, which is the whole list. Add first, then cut.""")
def minus_zero(tokens, new, max_len):
    return [*tokens[-(max_len - 1) :], new]


@with_next_exercise.mistake("""You gave back a tuple. A list is asked for: square brackets.""")
def a_tuple(tokens, new, max_len):
    return (*tokens, new)[-max_len:]


@with_next_exercise.alternative("cut what is too much, by its length")
def by_length(tokens, new, max_len):
    longer = tokens + [new]  # noqa: RUF005
    return longer[max(0, len(longer) - max_len) :]


@with_next_exercise.alternative("a copy, from which the oldest are taken one by one")
def one_by_one(tokens, new, max_len):
    longer = list(tokens)
    longer.append(new)
    while len(longer) > max_len:
        del longer[0]
    return longer


@with_next_exercise.alternative("a deque that forgets by itself")
def with_a_deque(tokens, new, max_len):
    from collections import deque

    return list(deque([*tokens, new], maxlen=max_len))


# 00.4 ----------------------------------------------------------------------------------------------------------------


def count_numbers(shapes: dict[str, tuple]) -> int:
    """How many numbers a model has.

    shapes: the name of each weight -> its sizes. A vector has one size, a matrix two, and there may be more.

    >>> count_numbers({"norm.weight": (4,), "up_proj.weight": (3, 4)})
    16
    """
    return sum(math.prod(sizes) for sizes in shapes.values())


count_exercise = Exercise(
    "00.4",
    count_numbers,
    hints=(
        "One weight first: a matrix of 3 rows and 4 columns has 3 · 4 numbers. A vector of 4 has 4.",
        "Multiply the sizes of each weight, and add up over all weights. `shapes.values()` gives the sizes.",
        "`math.prod(sizes)` multiplies all numbers of a tuple, however many they are; `sum(... for ... in ...)` adds "
        "up.",
    ),
)


@count_exercise.check("one matrix")
def one_matrix(count_numbers):
    rows, columns = 3 + int(integers(0, 4)), 8 + int(integers(0, 4))
    same(count_numbers({"lm_head.weight": (rows, columns)}), rows * columns)


@count_exercise.check("one vector")
def one_vector(count_numbers):
    n = int(integers(5, 12))
    same(count_numbers({"norm.weight": (n,)}), n)


@count_exercise.check("matrices and vectors together", points=2)
def matrices_and_vectors(count_numbers):
    n = int(integers(5, 9))
    shapes = {
        "embed_tokens.weight": (65, n), "norm.weight": (n,), "up_proj.weight": (3 * n, n), "up_proj.bias": (3 * n,),
    }  # fmt: skip
    same(count_numbers(shapes), 65 * n + n + 3 * n * n + 3 * n)


@count_exercise.check("a weight with three sizes")
def three_sizes(count_numbers):
    a, b, c = (int(n) for n in 2 + integers(0, 3, 3) + torch.tensor([0, 3, 6]))
    same(count_numbers({"filter.weight": (a, b, c)}), a * b * c)


@count_exercise.check("two weights of the same shape")
def alike(count_numbers):
    n = int(integers(3, 7))
    same(count_numbers({"q_proj.weight": (n, 9), "k_proj.weight": (n, 9)}), 18 * n)


@count_exercise.mistake("""You added up the sizes of each weight. A matrix of 3 rows and 4 columns has 3 · 4 = 12
    numbers: multiply them.""")
def added_sizes(shapes):
    return sum(sum(sizes) for sizes in shapes.values())


@count_exercise.mistake("""You expected two sizes for every weight. A vector has one, `(192,)`: multiply however many
    there are, with a loop or with `math.prod`.""")
def two_sizes_unpacked(shapes):
    total = 0
    for rows, columns in shapes.values():
        total += rows * columns
    return total


@count_exercise.mistake("""You multiplied `sizes[0]` and `sizes[1]`. A vector has one size only. Multiply however
    many there are: with a loop, or with `math.prod`.""")
def two_sizes_by_number(shapes):
    return sum(sizes[0] * sizes[1] for sizes in shapes.values())


@count_exercise.mistake("""You multiplied the first size by the last. For a vector that is the same number twice, so
    that a vector of 192 counts 36,864; with three sizes the middle one is lost. Multiply all of them.""")
def first_times_last(shapes):
    return sum(sizes[0] * sizes[-1] for sizes in shapes.values())


@count_exercise.mistake("""You multiplied the weights with each other. Multiply only inside of each shape, and *add
    up* over the weights.""")
def product_of_all(shapes):
    return math.prod(math.prod(sizes) for sizes in shapes.values())


@count_exercise.mistake("""You left out the vectors. They are few numbers, but training moves them like all others.""")
def matrices_only(shapes):
    return sum(math.prod(sizes) for sizes in shapes.values() if len(sizes) > 1)


@count_exercise.mistake("""You counted only what is called "weight". A bias is learned too; count every entry.""")
def no_biases(shapes):
    return sum(math.prod(sizes) for name, sizes in shapes.items() if name.endswith("weight"))


@count_exercise.mistake("""You counted the weights themselves, as entries of the dict. Asked for is how many numbers
    they hold together.""")
def number_of_entries(shapes):
    return len(shapes)


@count_exercise.mistake("""You took only the first size of each weight. A matrix of 3 rows has 3 times as many numbers
    as one row.""")
def first_sizes(shapes):
    return sum(sizes[0] for sizes in shapes.values())


@count_exercise.mistake("""You put the shapes into a set, and a set holds equal ones once: of q_proj and k_proj, which
    have the same shape, only one was counted.""")
def equal_shapes_once(shapes):
    return sum(math.prod(sizes) for sizes in set(shapes.values()))


@count_exercise.mistake("""You gave back the last weight's numbers only. In the loop, add to the total (`total +=`);
    `total =` forgets what was there.""")
def the_last_only(shapes):
    total = 0
    for sizes in shapes.values():
        total = math.prod(sizes)
    return total


@count_exercise.mistake("""You went through the names. A loop over a dict gives its keys; the sizes are in
    `shapes.values()`.""")
def through_the_names(shapes):
    return sum(math.prod(sizes) for sizes in shapes)


@count_exercise.mistake("""You gave back a list with one number for each weight. Add them up.""")
def one_number_each(shapes):
    return [math.prod(sizes) for sizes in shapes.values()]


@count_exercise.alternative("two loops")
def with_two_loops(shapes):
    total = 0
    for sizes in shapes.values():
        n = 1
        for size in sizes:
            n *= size
        total += n
    return total


@count_exercise.alternative("torch's sizes")
def with_torch_sizes(shapes):
    return sum(torch.Size(sizes).numel() for sizes in shapes.values())


@count_exercise.alternative("empty tensors that are asked how many numbers they hold")
def with_empty_tensors(shapes):
    return sum(torch.empty(sizes, device="meta").numel() for sizes in shapes.values())
