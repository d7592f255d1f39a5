"""Byte-pair encoding, on bytes and ids: plain, as chapter 02 builds it, and fast, with the same results."""

import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

Pair = tuple[int, int]

MAX_VOCAB_SIZE = 2**20
MAX_BYTES = 2**26  # of all tokens together: a merge may double a token, so forty merges could ask for a terabyte

# GPT-2's words, which say [^\s\p{L}\p{N}] for (?:[^\s\w]|_).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
_NUMERALS = "".join(c for c in map(chr, range(0x10000)) if c.isnumeric() and not c.isdecimal() and not c.isalpha())


def count_pairs(ids: Sequence[int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs.

    >>> count_pairs([1, 2, 1, 2])
    Counter({(1, 2): 2, (2, 1): 1})
    """
    return Counter(pairwise(ids))


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """A new list in which new_id stands for each occurrence of the pair, found from left to right.

    >>> merge([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    """
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def train_bpe(data: bytes, n_merges: int) -> list[Pair]:
    """Merge the most frequent pair, again and again; the pairs in that order. New ids are 256, 257, ...

    The smallest pair wins a tie. There are fewer merges if no pair is left.
    Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1.

    >>> train_bpe(b"aaabdaaabac", 3)
    [(97, 97), (97, 98), (256, 257)]
    """
    ids, merges = list(data), []
    for new_id in range(256, 256 + n_merges):
        counts = count_pairs(ids)
        if not counts:
            break
        pair = max(sorted(counts), key=counts.__getitem__)  # the first of the most frequent
        ids = merge(ids, pair, new_id)
        merges.append(pair)
    return merges


def encode(data: bytes, merges: Sequence[Pair]) -> list[int]:
    """The ids of any bytes: of the pairs in sight, merge the one that was learned first, until none of them is left.

    Source: Sennrich et al. 2016, section 3.2.

    >>> encode(b"abcd", [(98, 99), (97, 98), (256, 100)])  # bc goes before ab, though ab comes before bc
    [97, 258]
    """
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    while known := [pair for pair in count_pairs(ids) if pair in ranks]:
        pair = min(known, key=ranks.__getitem__)
        ids = merge(ids, pair, 256 + ranks[pair])
    return ids


def decode(ids: Sequence[int], merges: Sequence[Pair]) -> bytes:
    """The bytes of the ids, joined. They may be no text: an id can hold half of a character, so join first.

    Errors: KeyError for an id that no merge makes.

    >>> decode([97, 258], [(98, 99), (97, 98), (256, 100)])
    b'abcd'
    """
    content = {i: bytes([i]) for i in range(256)}
    for new_id, (left, right) in enumerate(merges, start=256):
        content[new_id] = content[left] + content[right]
    return b"".join(content[i] for i in ids)


def learn_merges(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """The merges of train_bpe, for words that occur so many times each; no pair reaches over the end of a word.

    Fast because it counts only once: a merge changes the counts of the pairs beside it, a heap knows the largest.
    The time grows with n log n for n bytes of different words.

    >>> learn_merges({b"low": 1, b" low": 2}, 3)
    [(108, 111), (256, 119), (32, 257)]
    """
    ids, weights = [-1], [0]  # all words in one row, with -1 around each
    for word, n_times in words.items():
        ids += [*word, -1]
        weights += [n_times] * (len(word) + 1)
    left, right = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    counts: Counter[Pair] = Counter()
    places: dict[Pair, list[int]] = {}  # where the first of the pair is, from left to right; some are out of date
    for i, pair in enumerate(pairwise(ids)):
        if min(pair) >= 0:
            counts[pair] += weights[i]
            places.setdefault(pair, []).append(i)
    heap = [(-n, pair) for pair, n in counts.items()]  # the smallest entry: the most frequent, then the smallest pair
    heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        n, pair = heappop(heap)
        if counts[pair] != -n:  # fewer than when it was put there; a count only grows while its last id is new
            if counts[pair]:
                heappush(heap, (-counts[pair], pair))
            continue
        (a, b), new_id = pair, 256 + len(merges)
        merges.append(pair)
        created = set()
        for i in places.pop(pair):
            j = right[i]
            if ids[i] != a or ids[j] != b:
                continue  # out of date: merged with another neighbour, or the second pair in aaa
            before, after, weight = left[i], right[j], weights[i]
            ids[i], ids[j], right[i], left[after] = new_id, -1, after, i
            x, y = ids[before], ids[after]
            for place, old, new in (before, (x, a), (x, new_id)), (i, (b, y), (new_id, y)):
                if min(old) >= 0:
                    counts[old] -= weight
                    counts[new] += weight
                    places.setdefault(new, []).append(place)
                    created.add(new)
        for new in created:
            if counts[new]:
                heappush(heap, (-counts[new], new))
    return merges


def merge_word(word: Sequence[int], ranks: Mapping[Pair, int], made: Mapping[Pair, int] | None = None) -> list[int]:
    """Merge the pair of lowest rank, the leftmost of equals, until none is left. ranks: the place of each merge.

    word: bytes, or ids to begin with. made: the id that each merge makes (default: 256 + its rank).
    The same as `encode`, but the time grows with n log n for n bytes.

    >>> merge_word(b"abcd", {(98, 99): 0, (97, 98): 1, (256, 100): 2})
    [97, 258]
    """
    ids = [*word, -1]  # no token; ids[-1] is also what the first byte finds to its left
    left, right = list(range(-1, len(word))), list(range(1, len(word) + 2))
    heap = [(ranks[pair], i, pair) for i, pair in enumerate(pairwise(word)) if pair in ranks]
    heapify(heap)
    while heap:
        rank, i, pair = heappop(heap)
        j = right[i]
        if (ids[i], ids[j]) != pair:
            continue  # one of the two has become part of another token
        before, after, new_id = left[i], right[j], 256 + rank if made is None else made[pair]
        ids[i], ids[j], right[i], left[after] = new_id, -1, after, i
        for place, pair in (before, (ids[before], new_id)), (i, (new_id, ids[after])):
            if pair in ranks:
                heappush(heap, (ranks[pair], place, pair))
    return [token for token in ids if token >= 0]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    r"""A regular expression whose findall cuts a text into words, and a character that it passes over into one more.

    It is Python's `re`, and outside of [...] also \p{L}, a letter, and \p{N}, a number (½ is one; but beyond U+FFFF
    only decimal digits). Unlike elsewhere, \s includes U+001C to U+001F. A stranger's pattern may run for ever.
    Errors: ValueError for what is no regular expression, and for one with groups that capture.

    >>> compile_pattern(GPT2_PATTERN).findall("It's  10½ km")
    ['It', "'s", ' ', ' 10½', ' km']
    """
    try:
        if not isinstance(pattern, str) or len(pattern) > 10_000:
            raise re.error("a text of up to 10,000 characters")
        if re.search(r"(?<!\\)\[\^?\]?(?:\\[^p]|[^\\\]])*\\p", pattern):
            raise re.error(r"\p inside [...]")
        plain = pattern.replace(r"\p{L}", rf"[^\W\d_{_NUMERALS}]").replace(r"\p{N}", rf"[\d{_NUMERALS}]")
        words = re.compile(rf"(?:{plain})|(?s:.)")
        if words.groups:
            raise re.error("a group that captures: write (?:...) instead of (...)")
    except (re.error, OverflowError, RecursionError) as error:
        shown = reprlib.repr(pattern)
        raise ValueError(f"pattern: {shown}, expected a regular expression ({error}); try GPT2_PATTERN") from None
    return words


def check_merges(merges: Any) -> tuple[dict[Pair, int], list[bytes]]:
    """The rank of each merge, and the bytes of each token. Errors: ValueError that gives the place of a bad merge."""
    repair = "use another copy of the file, or train it again"
    if not isinstance(merges, list | tuple):
        raise ValueError(f"merges: {reprlib.repr(merges)}, expected a list of pairs; {repair}")
    if len(merges) > MAX_VOCAB_SIZE - 256:
        raise ValueError(f"merges: {len(merges):,} of them, expected at most {MAX_VOCAB_SIZE - 256:,}; {repair}")
    ranks: dict[Pair, int] = {}
    content, size = [bytes([i]) for i in range(256)], 256
    for rank, pair in enumerate(merges):
        expected, highest = None, 255 + rank
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(type(i) is int for i in pair)):
            expected = "two ids"
        elif min(pair) < 0 or max(pair) > highest:
            expected = f"ids that are made before it, 0 to {highest}"
        elif tuple(pair) in ranks:
            expected = f"each pair once, but it is merges[{ranks[tuple(pair)]}] too"
        elif (size := size + sum(len(content[i]) for i in pair)) > MAX_BYTES:
            expected = f"tokens of at most {MAX_BYTES:,} bytes together"
        if expected:
            raise ValueError(f"merges[{rank}]: {reprlib.repr(pair)}, expected {expected}; {repair}")
        a, b = pair
        ranks[a, b] = rank
        content.append(content[a] + content[b])
    return ranks, content
