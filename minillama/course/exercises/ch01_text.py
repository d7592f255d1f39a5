"""Exercises of chapter 01: characters, bigrams, how good a guess is, windows."""

import math
from collections import Counter
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama import data
from minillama.course.checks import gradients, holds, integers, permutation, pick, rand, randn, refuses, same
from minillama.course.exercise import Exercise

# 01.1 ----------------------------------------------------------------------------------------------------------------


class CharacterTokenizer:
    """Number the characters of a text in sorted order: one id per character, 0, 1, 2, ...

    text: the tokenizer knows every character that occurs in it, and no other.
    vocab_size: how many different characters that are.
    Errors: any exception for a character or an id that it does not know; never a wrong answer in silence.

    >>> tokenizer = CharacterTokenizer("hello")
    >>> tokenizer.vocab_size, tokenizer.encode("hole"), tokenizer.decode([1, 0, 2, 2, 3])
    (4, [1, 3, 2, 0], 'hello')
    """

    def __init__(self, text: str):
        self.characters = sorted(set(text))
        self.ids = {character: i for i, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)

    def encode(self, text: str) -> list[int]:
        """The id of each character."""
        return [self.ids[character] for character in text]

    def decode(self, tokens: list[int]) -> str:
        """The characters of the ids, joined."""
        if any(token < 0 for token in tokens):  # a list takes -1 for its last item
            raise IndexError(f"ids are 0 to {self.vocab_size - 1}, found {min(tokens)}")
        return "".join(self.characters[token] for token in tokens)


character_tokenizer = Exercise(
    "01.1",
    CharacterTokenizer,
    given=(),
    hints=(
        "What must be remembered? A list of the characters (from id to character) and a dictionary (from character "
        "to id). Both are made in `__init__`, once.",
        "`sorted(set(text))` is the list. `enumerate` of it gives the pairs (id, character). `encode` and `decode` "
        "are one line each, a loop in brackets.",
        "`self.characters = sorted(set(text))`, `self.ids = {c: i for i, c in enumerate(self.characters)}`. A "
        "dictionary refuses an unknown character by itself (KeyError), a list an id that is too large (IndexError). "
        "But `self.characters[-1]` is the *last* character: `decode` has to look for negative ids itself.",
    ),
)

LETTERS = "aeimostCDRZ é\n,"


def _shuffled(letters: str) -> str:
    return "".join(letters[i] for i in permutation(len(letters)))


@character_tokenizer.check("ids 0, 1, 2, ... for the characters in sorted order", points=2)
def sorted_order(CharacterTokenizer):
    counts = permutation(len(LETTERS))  # every character another number of times
    text = _shuffled(LETTERS) + "".join(LETTERS[i] * n for i, n in enumerate(counts))
    given = CharacterTokenizer(text).encode("".join(sorted(LETTERS)))
    by_count = sorted(LETTERS, key=Counter(text).get, reverse=True)
    orders = {
        "the characters are numbered in the order in which they first appear": list(dict.fromkeys(text)),
        "the most frequent character has id 0, the rarest the last id": by_count,
    }
    names = [name for name, order in orders.items() if given == [order.index(c) for c in sorted(LETTERS)]]
    if given == [ord(c) for c in sorted(LETTERS)]:
        names = ["the ids are the characters' Unicode numbers"]
    if given == list(range(1, len(LETTERS) + 1)):
        names = ["the order is right, but the first id is 1"]
    right = given == list(range(len(LETTERS)))
    holds(right, "'\\n' is the first in sorted order, then ' ', ',', 'C', ...", (names or ["some other order"])[0])


@character_tokenizer.check("part of the text there and back: the same text again")
def round_trip(CharacterTokenizer):
    tokenizer = CharacterTokenizer("One day he said: Café!\n" + _shuffled(LETTERS))
    word = _shuffled("Cdeas\né") + "day"
    same(tokenizer.decode(tokenizer.encode(word)), word)


@character_tokenizer.check("each character counted once in vocab_size")
def vocab_size(CharacterTokenizer):
    text = "banana" + pick(["Band", "BAND", "nab\n"])
    same(CharacterTokenizer(text).vocab_size, len(set(text)))


@character_tokenizer.check("a text of a single character, three times")
def one_character(CharacterTokenizer):
    letter = pick(LETTERS)
    same(CharacterTokenizer(9 * letter).encode(3 * letter), [0, 0, 0])


@character_tokenizer.check("an error for a character that was not in the text")
def unknown_character(CharacterTokenizer):
    refuses(CharacterTokenizer("hello").encode, pick(["hex", "help", "shell"]), error="Exception")


@character_tokenizer.check("an error for an id that is too large")
def id_too_large(CharacterTokenizer):
    refuses(CharacterTokenizer("hello").decode, [1, pick([4, 5, 9])], error="Exception")


@character_tokenizer.check("an error for a negative id")
def negative_id(CharacterTokenizer):
    refuses(CharacterTokenizer("hello").decode, [1, pick([-1, -2, -3])], error="Exception")


@character_tokenizer.mistake("""You number the characters in the order in which they appear. Sort them first. As it is,
    the same book with its chapters exchanged gets other numbers, and a model trained on one can't read the other.""")
class InOrderOfAppearance(CharacterTokenizer):
    def __init__(self, text):
        self.characters = list(dict.fromkeys(text))
        self.ids = {character: i for i, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)


@character_tokenizer.mistake("""You take the characters as they come out of a set, and a set has no order: Python mixes
    it anew each time it starts. Sort them. As it is, tomorrow the same model would speak gibberish, without an
    error.""")
class AsTheSetHasThem(CharacterTokenizer):
    def __init__(self, text):
        self.characters = list(set(text))
        self.ids = {character: i for i, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)


@character_tokenizer.mistake("""You give the smallest ids to the most frequent characters. That is a way, but not the
    one that was agreed on: sort the characters themselves, so that everybody with the same set of characters has the
    same ids.""")
class MostFrequentFirst(CharacterTokenizer):
    def __init__(self, text):
        self.characters = [character for character, _ in Counter(text).most_common()]
        self.ids = {character: i for i, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)


@character_tokenizer.mistake("""Your ids are the characters' Unicode numbers (ord). Number only the characters that
    occur, from 0 on: a model will keep one row of a table per id, and "é" alone would ask for 234 rows.""")
class UnicodeNumbers(CharacterTokenizer):
    def __init__(self, text):
        self.characters = {ord(character): character for character in text}
        self.ids = {character: ord(character) for character in text}
        self.vocab_size = len(self.characters)


@character_tokenizer.mistake("""You turn capitals into small letters. Then they can never come back, and a model that
    was trained so writes no names. Leave the text as it is.""")
class SmallLettersOnly(CharacterTokenizer):
    def __init__(self, text):
        super().__init__(text.lower())

    def encode(self, text):
        return super().encode(text.lower())


@character_tokenizer.mistake("""You leave out characters that you do not know, in silence: what comes back is not what
    went in. Raise an error; whoever calls can still decide to leave them out.""")
class LeavesOutTheUnknown(CharacterTokenizer):
    def encode(self, text):
        return [self.ids[character] for character in text if character in self.ids]


@character_tokenizer.mistake("""You give an unknown character the id 0, which belongs to another character. Raise an
    error instead of a wrong answer (`self.ids[character]` does so by itself, `self.ids.get(character, 0)` does
    not).""")
class TheUnknownIsZero(CharacterTokenizer):
    def encode(self, text):
        return [self.ids.get(character, 0) for character in text]


@character_tokenizer.mistake("""decode([-1]) gives the last character: for Python, item -1 of a list is its last one.
    Refuse negative ids yourself. In later chapters -1 and -100 mean "no token here", and must not turn into text.""")
class MinusOneIsTheLast(CharacterTokenizer):
    def decode(self, tokens):
        return "".join(self.characters[token] for token in tokens)


@character_tokenizer.mistake("""You number every occurrence: the three a's of "banana" get three ids. Take each
    character once, with set(text), before you sort.""")
class EveryOccurrence(CharacterTokenizer):
    def __init__(self, text):
        self.characters = sorted(text)
        self.ids = {character: i for i, character in enumerate(self.characters)}
        self.vocab_size = len(self.characters)


@character_tokenizer.mistake("""You number the characters anew for each text that you encode, so that the id of "e"
    depends on its neighbours. Number them once, in __init__, and only look them up in encode.""")
class NumberedAnewEachTime(CharacterTokenizer):
    def encode(self, text):
        characters = sorted(set(text))
        return [characters.index(character) for character in text]


@character_tokenizer.mistake("""You count from 1. Ids begin with 0: they are places in lists and rows of tables, and
    those are counted from 0. With V tokens the last id is V - 1.""")
class CountedFromOne(CharacterTokenizer):
    def encode(self, text):
        return [1 + self.ids[character] for character in text]

    def decode(self, tokens):
        if min(tokens) < 1:
            raise IndexError("too small")
        return "".join(self.characters[token - 1] for token in tokens)


@character_tokenizer.alternative("two dictionaries")
class TwoDictionaries:
    def __init__(self, text):
        self.to_id = dict(zip(sorted(set(text)), range(len(text)), strict=False))
        self.to_character = {i: character for character, i in self.to_id.items()}
        self.vocab_size = len(self.to_id)

    def encode(self, text):
        return list(map(self.to_id.__getitem__, text))

    def decode(self, tokens):
        return "".join(map(self.to_character.__getitem__, tokens))


@character_tokenizer.alternative("one string, searched from the left, and a ValueError")
class OneString:
    def __init__(self, text):
        self.characters = ""
        for character in sorted(text):
            if not self.characters.endswith(character):
                self.characters += character

    @property
    def vocab_size(self):
        return len(self.characters)

    def encode(self, text):
        return [self.characters.index(character) for character in text]

    def decode(self, tokens):
        if not set(tokens) <= set(range(self.vocab_size)):
            raise ValueError("unknown id")
        return "".join([self.characters[token] for token in tokens])


# 01.2 ----------------------------------------------------------------------------------------------------------------

split = Exercise(
    "01.2",
    data.split,
    hints=(
        "Nothing is shuffled and nothing is lost: it is one cut, and the only question is where.",
        "Find `n_train`, the number of tokens for training. Then the two parts are `tokens[:n_train]` and "
        "`tokens[n_train:]`.",
        "`n_train = len(tokens) - math.ceil(len(tokens) * validation)`; before it, "
        "`if not 0 < validation < 1: raise ValueError(...)`.",
    ),
)


@split.check("24 tokens, a quarter of them for validation")
def a_quarter(split):
    tokens = integers(0, 65, 24)
    same(split(tokens, validation=0.25), (tokens[:18], tokens[18:]))


@split.check("a tenth for validation if nothing else is said")
def a_tenth(split):
    tokens = integers(0, 65, 200)
    same(split(tokens), (tokens[:180], tokens[180:]))


@split.check("no place of the text in both parts")
def nothing_twice(split):
    train, validation = split(torch.arange(64), validation=pick([0.125, 0.25, 0.75]))
    both = sorted(set(train.tolist()) & set(validation.tolist()))
    holds(not both, "both parts hold these places of the text", both)


@split.check("every place of the text in one of the parts")
def nothing_lost(split):
    train, validation = split(torch.arange(64), validation=pick([0.125, 0.25, 0.75]))
    lost = sorted(set(range(64)) - set(train.tolist()) - set(validation.tolist()))
    holds(not lost, "these places of the text are in neither part", lost)


@split.check("a ValueError for a share below 0 or above 1")
def impossible_share(split):
    refuses(split, torch.arange(8), validation=pick([-0.25, -1.0, 1.5, 10.0]))


@split.check("a ValueError for a share of 0: there would be nothing to test on")
def no_validation(split):
    refuses(split, torch.arange(8), validation=0.0)


@split.check("a ValueError for a share of 1: there would be nothing to train on")
def no_training(split):
    refuses(split, torch.arange(8), validation=1.0)


def _n_train(tokens, validation):
    if not 0 < validation < 1:
        raise ValueError("share")
    return len(tokens) - math.ceil(len(tokens) * validation)


@split.mistake("""You shuffled the tokens before the cut. A text is its order: what is left is a bag of letters. Cut
    first, and leave both parts as they are.""")
def shuffled_first(tokens, validation=0.1):
    n_train = _n_train(tokens, validation)
    mixed = tokens[torch.randperm(len(tokens))]
    return mixed[:n_train], mixed[n_train:]


@split.mistake("""You test on the beginning and train on the rest. Train on the first part and test on the last: so it
    was agreed, and so the numbers can be compared with other people's.""")
def beginning_for_validation(tokens, validation=0.1):
    n_validation = len(tokens) - _n_train(tokens, validation)
    return tokens[n_validation:], tokens[:n_validation]


@split.mistake("""You give back the validation part first. Training comes first: as it is, whoever calls trains on the
    tenth and tests on the nine tenths.""")
def wrong_way_round(tokens, validation=0.1):
    n_train = _n_train(tokens, validation)
    return tokens[n_train:], tokens[:n_train]


@split.mistake("""`validation` is the share of the *validation* part; you gave that share to training. Cut at 1 -
    validation.""")
def share_of_training(tokens, validation=0.1):
    n_train = len(tokens) - _n_train(tokens, validation)
    return tokens[:n_train], tokens[n_train:]


@split.mistake("""You train on the whole text, the validation part with it. The validation score will be splendid and
    worth nothing: the exam's questions were in the lessons. Training ends where validation begins.""")
def trained_on_everything(tokens, validation=0.1):
    return tokens, tokens[_n_train(tokens, validation) :]


@split.mistake("""You took every n-th token for validation. Then the text has holes, and the neighbours that the model
    is to learn from are not neighbours. Make one cut.""")
def every_nth(tokens, validation=0.1):
    _n_train(tokens, validation)
    chosen = torch.zeros(len(tokens), dtype=torch.bool)
    chosen[:: round(1 / validation)] = True
    return tokens[~chosen], tokens[chosen]


@split.mistake("""One token is in neither part: a slice ends *before* its second number, so tokens[:n] and tokens[n:]
    fit together without a gap.""")
def one_lost(tokens, validation=0.1):
    n_train = _n_train(tokens, validation)
    return tokens[:n_train], tokens[n_train + 1 :]


@split.mistake("""One token is in both parts. Use the same number in both slices: tokens[:n] ends before n, tokens[n:]
    begins with it.""")
def one_shared(tokens, validation=0.1):
    n_train = _n_train(tokens, validation)
    return tokens[: n_train + 1], tokens[n_train:]


@split.mistake("""The cut is right, but you accept every share, also 0, 1 and 1.5. Raise ValueError unless 0 <
    validation < 1: an empty validation part is noticed hours later, as a score that is not a number.""")
def accepts_every_share(tokens, validation=0.1):
    n_train = len(tokens) - math.ceil(len(tokens) * validation)
    return tokens[:n_train], tokens[n_train:]


@split.mistake("""You accept the shares 0 and 1 themselves. With 0 there is nothing to test on, with 1 nothing to train
    on: ask for 0 < validation < 1, not <=.""")
def accepts_the_ends(tokens, validation=0.1):
    if validation < 0 or validation > 1:
        raise ValueError("share")
    return accepts_every_share(tokens, validation)


@split.alternative("torch's split, by sizes")
def by_sizes(tokens, validation=0.1):
    if validation <= 0 or validation >= 1:
        raise ValueError("between 0 and 1, please")
    n_validation = int(len(tokens) * validation)
    return tokens.split([len(tokens) - n_validation, n_validation])


@split.alternative("token by token")
def token_by_token(tokens, validation=0.1):
    if not 0 < validation < 1:
        raise ValueError("between 0 and 1, please")
    train, rest = [], []
    for i, token in enumerate(tokens.tolist()):
        (train if i + 1e-6 < len(tokens) * (1 - validation) else rest).append(token)
    return torch.tensor(train), torch.tensor(rest)


# 01.3 ----------------------------------------------------------------------------------------------------------------


def count_bigrams(tokens: Tensor, vocab_size: int) -> Tensor:
    """How often token b comes directly after token a: counts[a, b]. (N,) -> (V, V), int64

    >>> count_bigrams(torch.tensor([0, 1, 0, 1, 1]), vocab_size=2)
    tensor([[0, 2],
            [1, 1]])
    """
    ids = tokens.tolist()
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.int64)
    for (first, second), n_times in Counter(pairwise(ids)).items():
        counts[first, second] = n_times
    return counts


bigrams = Exercise(
    "01.3",
    count_bigrams,
    hints=(
        "Five tokens have four pairs. Which is the last token that has a successor?",
        "Start with `torch.zeros(vocab_size, vocab_size, dtype=torch.int64)`, and walk over the pairs: "
        "`tokens[:-1]` are the first ones, `tokens[1:]` the second ones. `.tolist()` makes the walk fast.",
        "`for first, second in zip(ids[:-1], ids[1:]): counts[first, second] += 1` is right, and takes seconds for "
        "a million tokens. Faster: let a `Counter` of the pairs do the counting, and fill the table from it.",
    ),
)


def _counted(tokens, V, first=slice(None, -1), second=slice(1, None)):
    pairs = tokens[first] * V + tokens[second]
    return torch.bincount(pairs, minlength=V * V).view(V, V)


@bigrams.check("seven tokens: five different pairs, one of them twice")
def small(count_bigrams):
    a, b, c = permutation(3)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for pair, n_times in {(a, b): 2, (b, c): 1, (c, c): 1, (c, a): 1, (b, b): 1}.items():
        expected[pair] = n_times
    same(count_bigrams(torch.tensor([a, b, c, c, a, b, b]), 3), expected)


@bigrams.check("200 tokens, where each pair occurs many times")
def many(count_bigrams):
    tokens = integers(0, 4, 200)
    same(count_bigrams(tokens, 4), _counted(tokens, 4))


@bigrams.check("a vocabulary with tokens that do not occur")
def larger_vocabulary(count_bigrams):
    tokens = integers(0, 5, 11)
    same(count_bigrams(tokens, 8), _counted(tokens, 8))


@bigrams.check("all pairs together: one less than there are tokens")
def one_less(count_bigrams):
    n = pick([6, 7, 9])
    given = count_bigrams(integers(0, 5, n), 5)
    holds(int(given.sum()) == n - 1, f"{n} tokens have {n - 1} pairs", int(given.sum()))


@bigrams.check("a single token, which has no pair")
def one_token(count_bigrams):
    same(count_bigrams(integers(0, 5, 1), 5), torch.zeros(5, 5, dtype=torch.int64))


@bigrams.mistake("""You exchanged rows and columns: counts[a, b] says how often b comes *after* a. As it is, your model
    would read from right to left.""")
def transposed(tokens, vocab_size):
    return _counted(tokens, vocab_size).T.contiguous()


@bigrams.mistake("""counts[tokens[:-1], tokens[1:]] += 1 adds 1 to each place only once, however often the place is
    named: a pair that occurs a thousand times counts 1. Count in a loop, with a Counter, or with torch.bincount.""")
def each_place_once(tokens, vocab_size):
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.int64)
    counts[tokens[:-1], tokens[1:]] += 1
    return counts


@bigrams.mistake("""You count one pair too many: the last token with the first one, as if the text were a ring
    (torch.roll does that, and so does tokens[i - 1] for i = 0). The last token has no successor.""")
def in_a_ring(tokens, vocab_size):
    return torch.bincount(tokens * vocab_size + tokens.roll(-1), minlength=vocab_size**2).view(vocab_size, vocab_size)


@bigrams.mistake("""You cut the text into pairs side by side, and lose every second one: in "abc" you see "ab" but not
    "bc". Move on by one token, not by two.""")
def side_by_side(tokens, vocab_size):
    n = len(tokens) // 2 * 2
    return _counted(tokens[:n], vocab_size, slice(0, None, 2), slice(1, None, 2))


@bigrams.mistake("""You pair each token with the one after the next. The neighbour of tokens[i] is tokens[i + 1].""")
def after_the_next(tokens, vocab_size):
    return _counted(tokens, vocab_size, slice(None, -2), slice(2, None))


@bigrams.mistake("""Your table is as large as this text needs, not vocab_size by vocab_size. A token that does not
    occur here may occur in the next text, and needs its row.""")
def as_large_as_needed(tokens, vocab_size):
    return _counted(tokens, int(tokens.max()) + 1)


@bigrams.mistake("""You count each pair in both directions. "th" and "ht" are two pairs: count only the one that is
    there.""")
def both_directions(tokens, vocab_size):
    counts = _counted(tokens, vocab_size)
    return counts + counts.T


@bigrams.mistake("""The last pair is missing: range(len(tokens) - 2) stops too early. Five tokens have four pairs.""")
def last_pair_missing(tokens, vocab_size):
    return _counted(tokens[:-1], vocab_size)


@bigrams.alternative("one loop")
def one_loop(tokens, vocab_size):
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.int64)
    for i in range(len(tokens) - 1):
        counts[tokens[i], tokens[i + 1]] += 1
    return counts


@bigrams.alternative("number the pairs a * V + b, count the numbers")
def numbered_pairs(tokens, vocab_size):
    pairs = vocab_size * tokens[:-1] + tokens[1:]
    return torch.bincount(pairs, minlength=vocab_size * vocab_size).reshape(vocab_size, vocab_size)


@bigrams.alternative("one-hot rows, multiplied")
def one_hot_rows(tokens, vocab_size):
    rows = F.one_hot(tokens, vocab_size)
    return rows[:-1].T @ rows[1:]


@bigrams.alternative("index_put_, which does add up")
def accumulated(tokens, vocab_size):
    counts = torch.zeros(vocab_size, vocab_size, dtype=torch.int64)
    ones = torch.ones(len(tokens) - 1, dtype=torch.int64)
    return counts.index_put_((tokens[:-1], tokens[1:]), ones, accumulate=True)


# 01.4 ----------------------------------------------------------------------------------------------------------------


def bigram_probabilities(counts: Tensor, extra: float = 1.0) -> Tensor:
    """Turn counts of pairs into probabilities of the next token, row by row. (V, V) -> (V, V), float32

    Row a of the result: the probability of each token after a; it sums to 1.
    Every pair counts as if it had been seen `extra` times more; extra=1 is "add-one smoothing".

    >>> bigram_probabilities(torch.tensor([[0, 2], [1, 1]]))
    tensor([[0.2500, 0.7500],
            [0.5000, 0.5000]])
    """
    counts = counts + extra
    return counts / counts.sum(dim=-1, keepdim=True)


probabilities = Exercise(
    "01.4",
    bigram_probabilities,
    hints=(
        "Two steps, in this order: add to every count, then divide each row by its own sum.",
        "`.sum(dim=-1)` adds up along the last axis, one sum per row: shape (V,). To divide rows and not columns, the "
        "sums must stand below each other: shape (V, 1).",
        "`counts = counts + extra`, then `counts / counts.sum(dim=-1, keepdim=True)`.",
    ),
)


def _expected_probabilities(counts, extra):
    raised = counts.double() + extra
    return (raised / raised.sum(1).unsqueeze(1)).float()


@probabilities.check("a table of 3 by 3, one count more for each pair")
def three_by_three(bigram_probabilities):
    counts = integers(1, 9, 3, 3)
    same(bigram_probabilities(counts), _expected_probabilities(counts, 1.0))


@probabilities.check("probabilities in each row that sum to 1")
def rows_sum_to_one(bigram_probabilities):
    sums = bigram_probabilities(integers(0, 50, 5, 5), extra=pick([0.5, 1.0, 3.0])).sum(-1)
    holds(torch.allclose(sums, torch.ones(5)), "the sum of each row should be 1", sums)


@probabilities.check("a token that was never followed by anything: all tokens are equally likely after it")
def unseen_row(bigram_probabilities):
    counts = integers(1, 9, 4, 4)
    counts[2] = 0
    same(bigram_probabilities(counts), _expected_probabilities(counts, 1.0))


@probabilities.check("half a count more for each pair")
def half_extra(bigram_probabilities):
    counts = integers(0, 9, 3, 3)
    same(bigram_probabilities(counts, extra=0.5), _expected_probabilities(counts, 0.5))


@probabilities.check("nothing extra: the shares themselves")
def no_extra(bigram_probabilities):
    counts = integers(1, 30, 4, 4)
    same(bigram_probabilities(counts, extra=0.0), _expected_probabilities(counts, 0.0))


@probabilities.mistake("""You divide each column by its sum. That answers another question: what came *before*? Add up
    along the last axis (dim=-1), so that each row sums to 1.""")
def by_columns(counts, extra=1.0):
    counts = counts + extra
    return counts / counts.sum(dim=0, keepdim=True)


@probabilities.mistake("""The sums of the rows have shape (V,), and torch lays such a row of numbers along the
    *columns*: column b was divided by the sum of row b. No error, wrong numbers. keepdim=True keeps the sums standing
    below each other, (V, 1).""")
def without_keepdim(counts, extra=1.0):
    counts = counts + extra
    return counts / counts.sum(dim=-1)


@probabilities.mistake("""You divide by the sum of the whole table: these are the shares of the pairs among all pairs.
    Asked for is the next token once the first is known: divide each row by its own sum.""")
def whole_table(counts, extra=1.0):
    counts = counts + extra
    return counts / counts.sum()


@probabilities.mistake("""You forgot `extra`. Pairs that were not seen get probability 0, and a row without any pair
    becomes 0 / 0, not a number. Add it to every count first.""")
def nothing_added(counts, extra=1.0):
    return counts / counts.sum(dim=-1, keepdim=True)


@probabilities.mistake("""You add `extra` after dividing: 1 is a lot to add to a probability. Add to the counts, then
    divide.""")
def added_too_late(counts, extra=1.0):
    return counts / counts.sum(dim=-1, keepdim=True) + extra


@probabilities.mistake("""You add `extra` to the counts, but divide by the sums from before. With V tokens each sum
    grows by V * extra; as it is, your rows sum to more than 1.""")
def old_sums(counts, extra=1.0):
    return (counts + extra) / counts.sum(dim=-1, keepdim=True)


@probabilities.mistake("""You add `extra` once to each sum, and to each count. All V counts of a row have grown, so its
    sum has grown by V * extra. Add to the counts first and sum those.""")
def sum_plus_one(counts, extra=1.0):
    return (counts + extra) / (counts.sum(dim=-1, keepdim=True) + extra)


@probabilities.mistake("""You add V to each sum. That fits extra=1 only: each of the V counts of a row has grown by
    `extra`, so the sum has grown by V * extra. Add to the counts first and sum those, then it fits by itself.""")
def sum_plus_v(counts, extra=1.0):
    return (counts + extra) / (counts.sum(dim=-1, keepdim=True) + len(counts))


@probabilities.mistake("""You always add 1, whatever `extra` is. Use the argument.""")
def always_one(counts, extra=1.0):
    return (counts + 1.0) / (counts + 1.0).sum(dim=-1, keepdim=True)


@probabilities.mistake("""You used softmax. It is for scores that may be negative, and makes e to the power of a count:
    five seen against two then is 20 to 1, not 5 to 2. Counts are divided by their sum.""")
def softmax_of_counts(counts, extra=1.0):
    return (counts + extra).softmax(dim=-1)


@probabilities.alternative("row by row")
def row_by_row(counts, extra=1.0):
    rows = [[n + extra for n in row] for row in counts.tolist()]
    return torch.tensor([[n / sum(row) for n in row] for row in rows])


@probabilities.alternative("what was seen, mixed with knowing nothing")
def mixed(counts, extra=1.0):
    V, seen = counts.size(-1), counts.sum(-1, keepdim=True)
    share = counts / seen.clamp(min=1)
    trust = seen / (seen + V * extra)
    return trust * share + (1 - trust) / V


@probabilities.alternative("softmax of the logarithms")
def softmax_of_logarithms(counts, extra=1.0):
    return (counts + extra).log().softmax(dim=-1)


@probabilities.alternative("torch's normalize, einsum for the sums")
def normalized(counts, extra=1.0):
    counts = counts.float() + extra
    return torch.einsum("ab,a->ab", counts, 1 / torch.einsum("ab->a", counts))


# 01.5 ----------------------------------------------------------------------------------------------------------------


def perplexity_of_batches(mean_nats: list[float], n_tokens: list[int]) -> float:
    """Perplexity over a text that was scored in batches of different sizes.

    mean_nats[i]: mean surprise in batch i, in nats per token. n_tokens[i]: how many tokens that batch has.

    >>> round(perplexity_of_batches([1.0, 5.0], [3, 1]), 4)  # 8 nats, 4 tokens
    7.3891
    """
    total_nats = sum(nats * n for nats, n in zip(mean_nats, n_tokens, strict=True))
    return math.exp(total_nats / sum(n_tokens))


perplexities = Exercise(
    "01.5",
    perplexity_of_batches,
    hints=(
        "Forget the batches: how many nats are there in the whole text, and how many tokens?",
        "A batch of n tokens with a mean of m nats has n * m nats in all. Add those up, divide once.",
        "`total = sum(m * n for m, n in zip(mean_nats, n_tokens))`, then `math.exp(total / sum(n_tokens))`.",
    ),
)


def _numbers(n: int, low: float, high: float) -> list[float]:
    return [round(x, 3) for x in (low + (high - low) * rand(n)).tolist()]


@perplexities.check("two batches, the second much smaller and much harder")
def two_batches(perplexity_of_batches):
    (easy,), (hard,), n = _numbers(1, 0.5, 1.5), _numbers(1, 3.0, 4.0), pick([3, 4, 6])
    same(perplexity_of_batches([easy, hard], [n, 1]), math.exp((n * easy + hard) / (n + 1)))


@perplexities.check("a model that knows nothing of 65 characters: 65, however the batches are cut")
def knowing_nothing(perplexity_of_batches):
    same(perplexity_of_batches([math.log(65)] * 3, pick([[6, 1, 2], [5, 4, 1], [2, 7, 3]])), 65.0, atol=1e-3)


@perplexities.check("one batch")
def one_batch(perplexity_of_batches):
    nats = _numbers(1, 0.5, 2.0)
    same(perplexity_of_batches(nats, [pick([2, 3, 5])]), math.exp(nats[0]))


@perplexities.check("the same tokens in two batches or in three: the same perplexity")
def cut_differently(perplexity_of_batches):
    a, b, c = _numbers(3, 0.5, 3.0)
    two = perplexity_of_batches([(4 * a + 2 * b) / 6, c], [6, 1])
    three = perplexity_of_batches([a, b, c], [4, 2, 1])
    holds(abs(two - three) < 1e-4, "in two batches and in three these came out", [two, three])


@perplexities.mistake("""You averaged the means of the batches. So the one token of the last batch weighs as much as
    all of the first: multiply each mean by its number of tokens, add up, divide by all tokens.""")
def mean_of_means(mean_nats, n_tokens):
    return math.exp(sum(mean_nats) / len(mean_nats))


@perplexities.mistake("""You took the mean of the perplexities of the batches. Add up the nats first and raise e to the
    power of their mean at the very end; the other way round, one hard batch outweighs everything.""")
def mean_of_perplexities(mean_nats, n_tokens):
    return sum(math.exp(nats) for nats in mean_nats) / len(mean_nats)


@perplexities.mistake("""You weighted the perplexities by the tokens. Weighting is right, but the nats are what is
    added up: e to the power of the mean, not the mean of e to the power.""")
def weighted_perplexities(mean_nats, n_tokens):
    return sum(n * math.exp(nats) for nats, n in zip(mean_nats, n_tokens, strict=True)) / sum(n_tokens)


@perplexities.mistake("""You raised 2 to the power of the nats. Nats belong to e, bits to 2: use math.exp, or divide by
    ln 2 first.""")
def two_to_the_nats(mean_nats, n_tokens):
    return 2 ** (sum(nats * n for nats, n in zip(mean_nats, n_tokens, strict=True)) / sum(n_tokens))


@perplexities.mistake("""You divided all nats by the number of batches. Divide by the number of tokens.""")
def divided_by_batches(mean_nats, n_tokens):
    return math.exp(sum(nats * n for nats, n in zip(mean_nats, n_tokens, strict=True)) / len(n_tokens))


@perplexities.mistake("""You gave back the mean surprise in nats. Perplexity is e to the power of it: among how many
    equally likely tokens one would be as unsure.""")
def still_in_nats(mean_nats, n_tokens):
    return sum(nats * n for nats, n in zip(mean_nats, n_tokens, strict=True)) / sum(n_tokens)


@perplexities.mistake("""You gave back bits per token. Perplexity is e to the power of the mean surprise in nats (or 2
    to the power of the bits).""")
def in_bits(mean_nats, n_tokens):
    return sum(nats * n for nats, n in zip(mean_nats, n_tokens, strict=True)) / sum(n_tokens) / math.log(2)


@perplexities.mistake("""You added up the means as if they were totals: a batch's mean counts once, whatever its size.
    Multiply it by its number of tokens before you add.""")
def means_as_totals(mean_nats, n_tokens):
    return math.exp(sum(mean_nats) / sum(n_tokens))


@perplexities.alternative("in bits, and 2 to the power of them")
def through_bits(mean_nats, n_tokens):
    bits = sum(nats / math.log(2) * n for nats, n in zip(mean_nats, n_tokens, strict=True))
    return 2 ** (bits / sum(n_tokens))


@perplexities.alternative("as a product: the geometric mean of 1 / probability")
def as_a_product(mean_nats, n_tokens):
    n_all = sum(n_tokens)
    return math.prod(math.exp(nats) ** (n / n_all) for nats, n in zip(mean_nats, n_tokens, strict=True))


@perplexities.alternative("with tensors")
def with_tensors(mean_nats, n_tokens):
    nats, n = torch.tensor(mean_nats, dtype=torch.float64), torch.tensor(n_tokens, dtype=torch.float64)
    return (nats @ n / n.sum()).exp().item()


# 01.6 ----------------------------------------------------------------------------------------------------------------


def legal_starts(n_tokens: int, length: int) -> range:
    """Where a window of `length` tokens can start in a text of n_tokens, so that each of its tokens has a next one.

    A range, or a list, of all starts, the smallest first; empty if the text is too short for even one window.

    >>> list(legal_starts(7, 3))
    [0, 1, 2, 3]
    """
    return range(n_tokens - length)


starts = Exercise(
    "01.6",
    legal_starts,
    hints=(
        "Look at the figure above: seven tokens, windows of 3. Which token must exist for the window that starts at 3? "
        "And for the one that starts at 4?",
        "A window that starts at s uses the tokens s to s + length - 1, and as targets s + 1 to s + length. Token "
        "number s + length must still be in the text, and the last token is number n_tokens - 1.",
        "`s + length <= n_tokens - 1` means `s < n_tokens - length`, and `range(n)` stops before n. A range with a "
        "negative end is empty.",
    ),
)


def _all_starts(n_tokens, length):
    """By trying: does the window, and the token after it, fit?"""
    text = list(range(n_tokens))
    return [s for s in range(n_tokens) if len(text[s + 1 : s + length + 1]) == length]


def _listed(given):
    return given.tolist() if isinstance(given, Tensor) else list(given)


@starts.check("seven tokens, windows of three")
def seven_and_three(legal_starts):
    same(_listed(legal_starts(7, 3)), [0, 1, 2, 3])


@starts.check("every start that fits, and none that does not")
def by_trying(legal_starts):
    n_tokens, length = pick([9, 12, 20]), pick([2, 4, 5])
    same(_listed(legal_starts(n_tokens, length)), _all_starts(n_tokens, length))


@starts.check("a text that holds exactly one window and its next token")
def exactly_one(legal_starts):
    length = pick([3, 4, 8])
    same(_listed(legal_starts(length + 1, length)), [0])


@starts.check("a text that is too short: no start at all")
def too_short(legal_starts):
    length = pick([3, 4, 8])
    same(_listed(legal_starts(length - pick([0, 1, 2]), length)), [])


@starts.mistake("""The last legal start is missing: range stops before its end, so range(n_tokens - length) already
    ends one early. The "- 1" is often added to be safe. With a text of length + 1 tokens nothing at all is left to
    train on.""")
def last_one_missing(n_tokens, length):
    return range(max(0, n_tokens - length - 1))


@starts.mistake("""You allow one start too many. The last window fits, but its last token has no next one: a window
    needs length + 1 tokens.""")
def one_too_many(n_tokens, length):
    return range(max(0, n_tokens - length + 1))


@starts.mistake("""You allow every place of the text. Windows that start near the end run over it, and Python's slices
    give fewer tokens without a word. Stop `length` places earlier.""")
def every_place(n_tokens, length):
    return range(n_tokens)


@starts.mistake("""You begin with 1. Tokens are counted from 0, and the first one is as good a start as any.""")
def from_one(n_tokens, length):
    return range(1, n_tokens - length)


@starts.mistake("""You list the starts of windows that stand side by side. Asked for are all legal starts: windows may
    overlap.""")
def side_by_side_only(n_tokens, length):
    return range(0, max(0, n_tokens - length), length)


@starts.mistake("""You say that 0 is always legal. In a text that is too short no start is; give an empty range.""")
def always_zero(n_tokens, length):
    return range(max(1, n_tokens - length))


@starts.mistake("""You gave how many starts there are, as a single number. Give the starts themselves: range(that
    number).""")
def how_many(n_tokens, length):
    return [max(0, n_tokens - length)]


@starts.alternative("a list, found by trying")
def found_by_trying(n_tokens, length):
    return [start for start in range(n_tokens) if start + length < n_tokens]


@starts.alternative("counted down from the last target")
def from_the_last_target(n_tokens, length):
    return sorted(last_target - length for last_target in range(n_tokens - 1, length - 1, -1))


# 01.7 ----------------------------------------------------------------------------------------------------------------

window = Exercise(
    "01.7",
    data.window,
    hints=(
        "Two slices of the same length. The second begins one token later.",
        "A slice from a to b is `tokens[a:b]` and ends before b. It never complains when b is beyond the end, or a "
        "negative. So look at `start` first, and raise ValueError unless it is one of the legal starts.",
        "`if not 0 <= start < len(tokens) - length: raise ValueError(...)`, then "
        "`return tokens[start : start + length], tokens[start + 1 : start + length + 1]`.",
    ),
)


@window.check("the first three of the tokens 10 to 16")
def the_first_three(window):
    tokens = torch.arange(10, 17)
    same(window(tokens, 0, 3), (torch.tensor([10, 11, 12]), torch.tensor([11, 12, 13])))


@window.check("a window inside a text")
def inside(window):
    tokens, start, length = integers(0, 65, 20), pick([2, 3, 5]), pick([4, 6, 7])
    same(window(tokens, start, length), (tokens[start : start + length], tokens[start + 1 : start + 1 + length]))


@window.check("the last legal start")
def last_legal_start(window):
    tokens, length = integers(0, 65, 9), pick([2, 4])
    same(window(tokens, 8 - length, length), (tokens[-length - 1 : -1], tokens[-length:]))


@window.check("a window of one token")
def window_of_one(window):
    tokens = permutation(9)
    same(window(torch.tensor(tokens), 4, 1), (torch.tensor(tokens[4:5]), torch.tensor(tokens[5:6])))


@window.check("a ValueError for a start so late that the last target is missing")
def start_too_late(window):
    length = pick([2, 4])
    refuses(window, torch.arange(10, 17), 7 - length, length)


@window.check("a ValueError for a negative start")
def negative_start(window):
    refuses(window, torch.arange(10, 17), pick([-1, -2]), 3)


@window.mistake("""You exchanged inputs and targets: you ask for the *previous* token. First the window, then the
    window one later.""")
def exchanged(tokens, start, length):
    return data.window(tokens, start, length)[::-1]


@window.mistake("""The targets are the inputs themselves. The task would be to repeat what one sees: the loss goes to
    0, and nothing is learned. Begin the targets one token later.""")
def not_shifted(tokens, start, length):
    x, _ = data.window(tokens, start, length)
    return x, x.clone()


@window.mistake("""You give one target, the token after the window. Every token of the window has a next one: `length`
    targets, so that one window holds `length` questions.""")
def only_the_last_target(tokens, start, length):
    x, y = data.window(tokens, start, length)
    return x, y[-1]


@window.mistake("""The targets are one token short: they begin one later, so they must also end one later, before start
    + length + 1.""")
def targets_too_short(tokens, start, length):
    x, y = data.window(tokens, start, length)
    return x, y[:-1]


@window.mistake("""Both slices are one token short. A slice ends *before* its second number: from `start` to `start +
    length`, without a - 1.""")
def both_too_short(tokens, start, length):
    x, y = data.window(tokens, start, length)
    return x[:-1], y[:-1]


@window.mistake("""The targets are two tokens later: that is the token after the next. Begin at start + 1.""")
def shifted_by_two(tokens, start, length):
    x, _ = data.window(tokens, start, length)
    return x, tokens[start + 2 : start + length + 2]


@window.mistake("""You rolled the window round: its last target is its own first token. Take the target from the text,
    which goes on.""")
def rolled_round(tokens, start, length):
    x, _ = data.window(tokens, start, length)
    return x, x.roll(-1)


@window.mistake("""You always take the beginning of the text. Begin at `start`.""")
def start_forgotten(tokens, start, length):
    data.window(tokens, start, length)
    return tokens[:length], tokens[1 : length + 1]


@window.mistake("""The windows are right, but you accept starts that are not legal. Python's slices give fewer tokens
    without a word, and for a negative start none, or some from the end. Raise ValueError unless 0 <= start <
    len(tokens) - length.""")
def accepts_every_start(tokens, start, length):
    return tokens[start : start + length], tokens[start + 1 : start + length + 1]


@window.mistake("""You refuse starts that are too late, but not negative ones: for Python -1 is the last token, and the
    slice that begins there is empty or too short.""")
def accepts_negative_starts(tokens, start, length):
    if start >= len(tokens) - length:
        raise ValueError("too late")
    return tokens[start : start + length], tokens[start + 1 : start + length + 1]


@window.mistake("""You accept one start too many: the window still fits, its last target does not. start must be below
    len(tokens) - length.""")
def accepts_one_too_many(tokens, start, length):
    if not 0 <= start <= len(tokens) - length:
        raise ValueError("not legal")
    return tokens[start : start + length], tokens[start + 1 : start + length + 1]


@window.mistake("""You refuse the last legal start. start = len(tokens) - length - 1 still has all its targets; the
    first one that has not is len(tokens) - length.""")
def refuses_the_last(tokens, start, length):
    if not 0 <= start < len(tokens) - length - 1:
        raise ValueError("not legal")
    return tokens[start : start + length], tokens[start + 1 : start + length + 1]


@window.alternative("one slice of length + 1, cut twice")
def one_slice(tokens, start, length):
    piece = tokens[start : start + length + 1]
    if start < 0 or len(piece) != length + 1:
        raise ValueError("the window does not fit")
    return piece[:-1], piece[1:]


@window.alternative("by a row of places")
def by_places(tokens, start, length):
    places = torch.arange(start, start + length)
    if start not in range(len(tokens) - length):
        raise ValueError(f"{start} is not a legal start")
    return tokens[places], tokens[places + 1]


@window.alternative("torch's unfold: all windows, then one of them")
def unfolded(tokens, start, length):
    every = tokens.unfold(0, length + 1, 1)
    if not 0 <= start < len(every):
        raise ValueError(f"{len(every)} windows, no number {start}")
    return every[start, :-1], every[start, 1:]


# 01.8 ----------------------------------------------------------------------------------------------------------------


def next_token_loss(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """How surprised the model is by the true next tokens, on average, in nats per token.

    Shape: (B, T, V), (B, T) -> (). targets[b, t] is the token after tokens[b, t]: shifted by the data, not here.
    Targets equal to ignore_index do not count, neither among the nats nor among the tokens.

    >>> next_token_loss(torch.zeros(1, 2, 5), torch.tensor([[3, -100]]))  # no idea about 5 tokens: ln 5
    tensor(1.6094)
    """
    counts = targets != ignore_index  # (B, T), True or False
    log_probs = logits[counts].log_softmax(dim=-1)  # (n, V): only the places that count
    targets = targets[counts]  # (n,)
    return -log_probs[torch.arange(len(targets)), targets].mean()


loss = Exercise(
    "01.8",
    next_token_loss,
    hints=(
        "For one place: turn its V logits into V log-probabilities, take the one of the true token, change its sign. "
        "Then the mean over all places that count.",
        "First keep only the places that count: `counts = targets != ignore_index`; then `logits[counts]` has shape "
        "(n, V) and `targets[counts]` shape (n,). From there it goes on as in the cell above, one number per row.",
        "`log_probs = logits[counts].log_softmax(dim=-1)`, then `-log_probs[torch.arange(n), targets[counts]].mean()` "
        "with `n = int(counts.sum())`.",
    ),
)


def _torchs(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), ignore_index=ignore_index).float()


@loss.check("two texts of three tokens, all of which count")
def all_count(next_token_loss):
    logits, targets = randn(2, 3, 5), integers(0, 5, 2, 3)
    same(next_token_loss(logits, targets), _torchs(logits, targets))


@loss.check("targets of -100, which do not count: two in one text, none in the other")
def some_ignored(next_token_loss):
    logits, targets = randn(2, 3, 5), integers(0, 5, 2, 3)
    targets[0, 1:] = -100
    same(next_token_loss(logits, targets), _torchs(logits, targets))


@loss.check("another number than -100 for targets that do not count")
def another_number(next_token_loss):
    logits, targets = randn(2, 4, 7), integers(0, 6, 2, 4)
    targets[1, 2:], targets[0, 3] = 6, 6
    same(next_token_loss(logits, targets, ignore_index=6), _torchs(logits, targets, 6))


@loss.check("logits that are all equal: the natural logarithm of V, whatever comes")
def knows_nothing(next_token_loss):
    V = pick([3, 10, 65])
    same(next_token_loss(torch.full((2, 4, V), 1.5), integers(0, V, 2, 4)), torch.tensor(math.log(V)))


@loss.check("logits as large as 1000: a finite loss")
def large_logits(next_token_loss):
    logits, targets = 300 * randn(2, 3, 5), integers(0, 5, 2, 3)
    logits[0, 1], targets[0, 1] = torch.tensor([0.0, -1000.0, 0.0, 500.0, 1.0]), 1  # very wrong
    logits[1, 1], targets[1, 1] = torch.tensor([1000.0, -1000.0, 0.0, 500.0, 1.0]), 0  # very right
    same(next_token_loss(logits, targets), _torchs(logits, targets), rtol=1e-4)


@loss.check("slopes for the logits (the gradient), so that a model can learn from the loss")
def gradient(next_token_loss):
    logits, targets = randn(2, 3, 4), integers(0, 4, 2, 3)
    targets[0, 2] = -100
    result = gradients(next_token_loss, logits, targets)
    counts = (targets != -100).unsqueeze(-1)
    slope = (logits.softmax(-1) - F.one_hot(targets.clamp(min=0), 4)) * counts / counts.sum()
    same(result["inputs"][0], slope * result["out_gradient"])


@loss.mistake("""You took softmax before log_softmax: probabilities are treated as scores, and between 0 and 1 there is
    little to tell them apart. log_softmax wants the logits as they are.""")
def softmax_twice(logits, targets, ignore_index=-100):
    return _torchs(logits.softmax(-1), targets, ignore_index)


@loss.mistake("""You took the logarithm of softmax. For large logits softmax rounds to exactly 0, and ln 0 is minus
    infinity: log_softmax computes both in one step, without going through 0.""")
def log_of_softmax(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    probabilities = logits[counts].softmax(-1)
    return -probabilities.gather(-1, targets[counts][:, None]).log().mean()


@loss.mistake("""You computed softmax yourself, e to the power of each logit divided by their sum. From 89 on, e to the
    power of a logit is infinity in float32, and infinity by infinity is nan. log_softmax gets round that.""")
def exp_by_sum(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    powers = logits[counts].exp()
    return -(powers / powers.sum(-1, keepdim=True)).gather(-1, targets[counts][:, None]).log().mean()


@loss.mistake("""You normalized over time (dim=1), as if the T places competed for a token. At each place it is the V
    tokens that compete: log_softmax over the last axis.""")
def over_time(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    return -logits.log_softmax(dim=1)[counts].gather(-1, targets[counts][:, None]).mean()


@loss.mistake("""You normalized over the places (dim=0). At each place it is its V tokens that compete: log_softmax
    over the last axis, dim=-1.""")
def over_places(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    return -logits[counts].log_softmax(dim=0).gather(-1, targets[counts][:, None]).mean()


@loss.mistake("""reshape(B, V, T) does not exchange two axes, it only cuts the same row of numbers at other places:
    your scores are no longer those of their token. Flatten to (B * T, V), or use transpose(1, 2).""")
def reshaped(logits, targets, ignore_index=-100):
    B, T, V = logits.shape
    return F.cross_entropy(logits.reshape(B, V, T), targets, ignore_index=ignore_index)


@loss.mistake("""You added up the surprises and did not divide. A sum grows with the batch; take the mean over the
    tokens that count.""")
def the_sum(logits, targets, ignore_index=-100):
    return _torchs(logits, targets, ignore_index) * (targets != ignore_index).sum()


@loss.mistake("""The targets are shifted already, by the windows. You shifted once more, so the model is asked for the
    token after the next. Compare logits[b, t] with targets[b, t].""")
def shifted_again(logits, targets, ignore_index=-100):
    return _torchs(logits[:, :-1], targets[:, 1:], ignore_index)


@loss.mistake("""You took the mean of each text, and then the mean of those. A text of one token then weighs as much as
    one of three: take one mean over all tokens that count.""")
def mean_per_text(logits, targets, ignore_index=-100):
    rows = [_torchs(x[None], y[None], ignore_index) for x, y in zip(logits, targets, strict=True)]
    return torch.stack(rows).mean()


@loss.mistake("""You left the ignored targets out of the sum, but divided by all of them. Divide by the number of
    targets that count.""")
def divided_by_all(logits, targets, ignore_index=-100):
    return _torchs(logits, targets, ignore_index) * (targets != ignore_index).float().mean()


@loss.mistake("""You look up every target, also those that do not count, and there is no token -100. Keep only the
    places that count first: `logits[counts]` and `targets[counts]` with `counts = targets != ignore_index`.""")
def nothing_ignored(logits, targets, ignore_index=-100):
    return -logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).mean()


@loss.mistake("""You ignore -100, whatever ignore_index is. Use the argument.""")
def always_minus_100(logits, targets, ignore_index=-100):
    return _torchs(logits, targets)


@loss.mistake("""Targets that do not count are taken for token 0 (clamp, or abs, or a product with 0 on the way). Take
    them out before you look anything up: logits[counts], targets[counts].""")
def ignored_is_token_0(logits, targets, ignore_index=-100):
    return _torchs(logits, targets.masked_fill(targets == ignore_index, 0))


@loss.mistake("""The sign is missing. Logarithms of probabilities are negative, and a loss should be large where the
    model is wrong: as it is, training would make the model as bad as it can.""")
def sign_missing(logits, targets, ignore_index=-100):
    return -_torchs(logits, targets, ignore_index)


@loss.mistake("""You divided by ln 2: these are bits. Here the loss is in nats, with the natural logarithm.""")
def in_bits_per_token(logits, targets, ignore_index=-100):
    return _torchs(logits, targets, ignore_index) / math.log(2)


@loss.mistake("""You took the negative logits of the true tokens as they are. A score says nothing alone; what counts
    is how it compares with the other V - 1 scores. log_softmax makes that comparison.""")
def scores_as_they_are(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    return -logits[counts].gather(-1, targets[counts][:, None]).mean()


@loss.alternative("torch's own")
def cross_entropy(logits, targets, ignore_index=-100):
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=ignore_index)


@loss.alternative("place by place")
def place_by_place(logits, targets, ignore_index=-100):
    nats = []
    for rows, answers in zip(logits, targets.tolist(), strict=True):
        for scores, answer in zip(rows, answers, strict=True):
            if answer != ignore_index:
                largest = scores.max()
                nats.append(largest + (scores - largest).exp().sum().log() - scores[answer])
    return sum(nats) / len(nats)


@loss.alternative("the true score against the logarithm of all, with a mask")
def against_all(logits, targets, ignore_index=-100):
    counts = (targets != ignore_index).float()
    known = targets.masked_fill(targets == ignore_index, 0)
    nats = logits.logsumexp(-1) - logits.gather(-1, known.unsqueeze(-1)).squeeze(-1)
    return (nats * counts).sum() / counts.sum()


@loss.alternative("one-hot targets, einsum")
def one_hot_targets(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    right = F.one_hot(targets.masked_fill(~counts, 0), logits.size(-1)) * counts.unsqueeze(-1)
    return -torch.einsum("btv,btv->", right.float(), logits.log_softmax(-1)) / counts.sum()
