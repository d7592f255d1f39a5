"""Exercises of chapter 02: byte pairs, special tokens, the likeliest cut, bits per byte."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise

from minillama import bpe
from minillama.bpe import encode
from minillama.course.checks import integers, permutation, pick, rand, refuses, same
from minillama.course.exercise import Exercise

Pair = tuple[int, int]


def _letters(n: int) -> list[int]:
    """The bytes of n different small letters, in random order."""
    return [97 + i for i in permutation(26)[:n]]


# 02.1 ----------------------------------------------------------------------------------------------------------------

pairs = Exercise(
    "02.1",
    bpe.count_pairs,
    hints=(
        "Five ids have four pairs of neighbours: id 0 with 1, 1 with 2, 2 with 3, 3 with 4.",
        "`zip(ids[:-1], ids[1:])` and `itertools.pairwise(ids)` both walk over the pairs. A `Counter` counts "
        "whatever it is given.",
        "`return Counter(pairwise(ids))`, or a loop with `counts[pair] = counts.get(pair, 0) + 1` over an empty dict.",
    ),
)


@pairs.check("six ids: four different pairs, one of them twice")
def six_ids(count_pairs):
    a, b, c, d = _letters(4)
    same(count_pairs([a, b, c, a, b, d]), {(a, b): 2, (b, c): 1, (c, a): 1, (b, d): 1})


@pairs.check("an id five times in a row: four pairs, which overlap")
def in_a_row(count_pairs):
    (a,) = _letters(1)
    same(count_pairs([a] * 5), {(a, a): 4})


@pairs.check("two ids that alternate: a pair and its mirror image are two pairs")
def mirrored(count_pairs):
    a, b = _letters(2)
    same(count_pairs([a, b, a, b, a, b]), {(a, b): 3, (b, a): 2})


@pairs.check("one id, and none: no pairs, an empty dict")
def too_short(count_pairs):
    same([count_pairs([7]), count_pairs([])], [{}, {}])


@pairs.check("forty ids, bytes and larger ones")
def forty(count_pairs):
    ids = [[101, 32, 256, 300][i] for i in integers(0, 4, 40).tolist()]
    expected = {}
    for place in range(39):
        pair = (ids[place], ids[place + 1])
        expected[pair] = expected.get(pair, 0) + 1
    same(count_pairs(ids), expected)


@pairs.mistake("""You cut the ids into twos: first with second, third with fourth. But the second and the third are
    neighbours as well. Count a pair at every place except the last.""")
def cut_into_twos(ids):
    return Counter(zip(ids[::2], ids[1::2], strict=False))


@pairs.mistake("""You leave out pairs that overlap with the one before: in aaaaa you see two pairs, and there are
    four. Counting looks at every place. (Merging is where overlaps have to be avoided; that is the next exercise.)""")
def without_overlaps(ids):
    counts, i = Counter(), 0
    while i < len(ids) - 1:
        counts[ids[i], ids[i + 1]] += 1
        i += 2 if ids[i] == ids[i + 1] else 1
    return counts


@pairs.mistake("""You count (a, b) and (b, a) as the same pair. The order is part of the text: "on" is not "no".
    Leave out the sorting.""")
def either_order(ids):
    return Counter(tuple(sorted(pair)) for pair in pairwise(ids))


@pairs.mistake("""You count one pair too many: the last id with the first. That is what `ids[i - 1]` does at i = 0,
    since -1 is the last place for Python. A text is no circle: begin at i = 1.""")
def in_a_circle(ids):
    return Counter((ids[i - 1], ids[i]) for i in range(len(ids)))


@pairs.mistake("""The last pair is missing: your loop ends one place too early. n ids have n - 1 pairs, so i goes
    over range(len(ids) - 1).""")
def last_one_missing(ids):
    return Counter((ids[i], ids[i + 1]) for i in range(len(ids) - 2))


@pairs.mistake(
    """You count every two ids, however far apart. Only neighbours can be merged, so only neighbours count."""
)
def not_only_neighbours(ids):
    return Counter(combinations(ids, 2))


@pairs.mistake("""Each of your pairs has the count 1, however often it occurs. Add 1 to what was counted so far:
    counts[pair] = counts.get(pair, 0) + 1.""")
def always_one(ids):
    return dict.fromkeys(pairwise(ids), 1)


@pairs.mistake("""Every count is too small by 1: the first time that you meet a pair, you write down 0. It has
    occurred once by then.""")
def begins_with_zero(ids):
    counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts[pair] + 1 if pair in counts else 0
    return counts


@pairs.mistake("""Your pairs are texts such as "97 98". Make them tuples of two numbers: those can be compared by
    size, and ties will need that ("100 1" comes before "99 1" in the alphabet).""")
def pairs_as_text(ids):
    return Counter(f"{a} {b}" for a, b in pairwise(ids))


@pairs.mistake("""You look at ids[i + 1] at the last place, where there is no next one. n ids have n - 1 pairs, so i
    goes over range(len(ids) - 1).""")
def next_of_the_last(ids):
    return Counter((ids[i], ids[i + 1]) for i in range(len(ids)))


@pairs.mistake("""Your pairs are slices, and a slice of a list is a list, which can't be a key of a dictionary. Make a
    tuple of it: tuple(ids[i : i + 2]).""")
def pairs_as_lists(ids):
    return Counter(ids[i : i + 2] for i in range(len(ids) - 1))


@pairs.alternative("a loop over the places, a plain dict")
def with_a_loop(ids):
    counts = {}
    for i in range(1, len(ids)):
        pair = (ids[i - 1], ids[i])
        counts[pair] = counts.get(pair, 0) + 1
    return counts


@pairs.alternative("remember the id before, a defaultdict")
def with_a_memory(ids):
    counts, before = defaultdict(int), None
    for id in ids:
        if before is not None:
            counts[before, id] += 1
        before = id
    return counts


# 02.2 ----------------------------------------------------------------------------------------------------------------

merging = Exercise(
    "02.2",
    bpe.merge,
    hints=(
        "Walk with a place `i` and build a new list. At each place there are two cases. How far does `i` go in each?",
        "If the pair begins at i, append new_id and go on by 2. If not, append ids[i] and go on by 1. A `for` loop"
        " can't go on by 2; a `while` loop can.",
        "`while i < len(ids): if tuple(ids[i : i + 2]) == pair: ...; i += 2`, `else: ...; i += 1`. The slice is "
        "safe at the end, where it has one id only and equals no pair.",
    ),
)


@merging.check("a pair that occurs twice")
def twice(merge):
    a, b, c, d = _letters(4)
    same(merge([c, a, b, d, a, b, c], (a, b), 256), [c, 256, d, 256, c])


@merging.check("a pair at the very end")
def at_the_end(merge):
    a, b, c = _letters(3)
    same(merge([c, a, b], (a, b), 300), [c, 300])


@merging.check("the same id three, four and five times: pairs that overlap")
def overlaps(merge):
    (a,) = _letters(1)
    same([merge([a] * n, (a, a), 256) for n in (3, 4, 5)], [[256, a], [256, 256], [256, 256, a]])


@merging.check("the two ids in the other order: nothing to merge")
def other_order(merge):
    a, b = _letters(2)
    same(merge([b, a, a], (a, b), 256), [b, a, a])


@merging.check("no ids, one id, and a pair that is not there")
def nothing_to_do(merge):
    a, b, c = _letters(3)
    same([merge(ids, (a, b), 256) for ids in ([], [a], [a, c])], [[], [a], [a, c]])


@merging.check("ids whose digits look like the pair: 11, 2 is not 1, 2")
def digits(merge):
    same(merge([11, 2, 1, 25, 1, 2], (1, 2), 9), [11, 2, 1, 25, 9])


@merging.check("a new id that could be merged with its neighbour: not in this round")
def one_round(merge):
    same(merge([1, 2, 2, 3], (1, 2), 1), [1, 2, 3])


@merging.check("thirty ids of two kinds")
def thirty(merge):
    ids = integers(0, 2, 30).tolist()
    text = "".join("ab"[i] for i in ids).replace(first := pick(["ab", "ba"]), "c")
    same(merge(ids, ("ab".index(first[0]), "ab".index(first[1])), 2), ["abc".index(c) for c in text])


@merging.mistake("""The merged list is right, but you also changed the caller's list, who may still need the old ids
    (training counts in one list and merges in another). Build a new list and leave `ids` alone.""")
def in_place(ids, pair, new_id):
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            ids[i : i + 2] = [new_id]
        i += 1
    return ids


@merging.mistake("""The last id gets lost when no pair ends there. Your loop stops one place before the end, because
    a pair needs two places; a lonely last id has to be appended all the same.""")
def last_one_lost(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merging.mistake("""You look at ids[i + 1] at the last place, where there is no next one. Ask first whether i + 1 <
    len(ids), or compare a slice: `tuple(ids[i : i + 2]) == pair` is false there, without an error.""")
def beyond_the_end(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merging.mistake("""After a merge you go on by one place only, so the second id of the pair is there twice: inside
    the new id and once more behind it. Go on by two.""")
def goes_on_by_one(ids, pair, new_id):
    return [new_id if tuple(ids[i : i + 2]) == pair else ids[i] for i in range(len(ids))]


@merging.mistake("""You also merge the pair in the other order. Then the new id could stand for "on" or for "no",
    and nobody could decode it.""")
def both_orders(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) in (pair, pair[::-1]):
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


@merging.mistake("""You merge from right to left. Where pairs overlap, as in aaa, that gives another result: [a,
    new] instead of [new, a]. Both are possible, but everybody has to agree, or the same text gets two encodings.
    Begin on the left.""")
def from_the_right(ids, pair, new_id):
    return bpe.merge(ids[::-1], pair[::-1], new_id)[::-1]


@merging.mistake("""You merge the first occurrence only. All of them have to be replaced, in one walk through the
    list.""")
def first_only(ids, pair, new_id):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


@merging.mistake("""You made a text of the numbers and replaced in that. "11 2" contains "1 2", so digits of
    different ids run together. Compare the ids themselves, as numbers.""")
def as_digits(ids, pair, new_id):
    return [int(i) for i in " ".join(map(str, ids)).replace(f"{pair[0]} {pair[1]}", str(new_id)).split()]


@merging.mistake("""You merge again and again until the pair is gone. One walk is one merge; a new id never takes
    part in the walk that made it. Append it and go on behind it.""")
def until_it_is_gone(ids, pair, new_id):
    while (merged := bpe.merge(ids, pair, new_id)) != list(ids):
        ids = merged
    return list(ids)


@merging.mistake("""You replace an id wherever it equals the first of the pair, and drop the next one, whatever it
    is. Compare both: ids[i] with pair[0] and ids[i + 1] with pair[1].""")
def first_of_the_pair(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        merged.append(new_id if ids[i] == pair[0] else ids[i])
        i += 2 if ids[i] == pair[0] else 1
    return merged


@merging.mistake("""You take ids out of the list while a `for` loop walks over the places that it had at the start:
    it becomes shorter than the loop believes. Build a new list with `append`, and walk with `while`.""")
def popped_on_the_way(ids, pair, new_id):
    ids = list(ids)
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            ids[i] = new_id
            ids.pop(i + 1)
    return ids


@merging.mistake("""You never find the pair. Do you compare it with a slice? ids[i : i + 2] of a list is a list, and for
    Python no list equals a tuple: [1, 2] == (1, 2) is False. Compare tuple(ids[i : i + 2]).""")
def list_and_tuple(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        found = list(ids[i : i + 2]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


@merging.alternative("as characters, with str.replace, which also goes from left to right")
def as_characters(ids, pair, new_id):
    text = "".join(map(chr, ids)).replace(chr(pair[0]) + chr(pair[1]), chr(new_id))
    return [ord(character) for character in text]


@merging.alternative("with a flag: the id before is still free")
def with_a_flag(ids, pair, new_id):
    merged, free = [], False
    for id in ids:
        if free and (merged[-1], id) == pair:
            merged[-1], free = new_id, False
        else:
            merged.append(id)
            free = True
    return merged


@merging.alternative("with an iterator and one id in hand")
def with_an_iterator(ids, pair, new_id):
    merged, hand = [], []
    for id in ids:
        hand.append(id)
        if tuple(hand) == tuple(pair):
            merged.append(new_id)
            hand = []
        elif len(hand) == 2:
            merged.append(hand.pop(0))
    return merged + hand


# 02.3 ----------------------------------------------------------------------------------------------------------------

training = Exercise(
    "02.3",
    bpe.train_bpe,
    hints=(
        "`list(data)` is the list of the bytes, as numbers. Then a loop of three steps: count, choose, merge. The "
        "first new id is 256.",
        "Choosing: of all pairs, the one with the largest count; of several such, the smallest pair. Python "
        "compares tuples by their first items, then by the second: (97, 300) < (98, 1).",
        "`pair = min(counts, key=lambda pair: (-counts[pair], pair))` chooses: the largest count is the smallest "
        '"minus count". Before that: `if not counts: break`. After it: `ids = merge(ids, pair, 256 + '
        "len(merges))`.",
    ),
)


@training.check("aaabdaaabac, with other letters: three merges")
def known_example(train_bpe):
    a, b, c, d = (97 + i for i in sorted(permutation(26)[:4]))
    data = bytes([a, a, a, b, d, a, a, a, b, a, c])
    same(train_bpe(data, 3), [(a, a), (a, b), (256, 257)])


@training.check("four different letters, all pairs once: the smallest pair wins")
def tie_of_bytes(train_bpe):
    small, b, c, large = (97 + i for i in sorted(permutation(26)[:4]))
    same(train_bpe(bytes([c, large, small, b]), 1), [(small, b)])


@training.check("runs of letters, in any order: the tie is decided in the same way")
def runs(train_bpe):
    letters = [97 + i for i in sorted(permutation(20)[:4])]
    lengths = dict(zip(letters, (3, 3, 4, 4), strict=True))
    order = [letters[i] for i in permutation(4)]
    same(train_bpe(b"".join(bytes([letter]) * lengths[letter] for letter in order), 1), [(letters[2], letters[2])])


@training.check("pairs are counted again after each merge")
def counted_again(train_bpe):
    a, b, c, x = (97 + i for i in sorted(permutation(26)[:4]))
    same(train_bpe(bytes([a, b, c, a, b, c, a, b, c, x]), 2), [(a, b), (256, c)])


@training.check("four different letters and ten merges: three are possible, then it is one token")
def no_pair_left(train_bpe):
    a, b, c, d = (97 + i for i in sorted(permutation(26)[:4]))
    same(train_bpe(bytes([a, b, c, d]), 10), [(a, b), (c, d), (256, 257)])


@training.check("no bytes, one byte, no merges: an empty list")
def nothing_to_merge(train_bpe):
    same([train_bpe(b"", 2), train_bpe(b"x", 2), train_bpe(b"xyxy", 0)], [[], [], []])


@training.check("text that is not English: the ids are its bytes")
def not_english(train_bpe):
    character = pick("中文语言模型")
    a, b, c = character.encode()
    same(train_bpe(f"{character}, {character}, {character}".encode(), 2), _trained(f"{character}, " * 2 + character, 2))


@training.check("sixty letters of three kinds, eight merges")
def sixty_letters(train_bpe):
    text = "".join("abc"[i] for i in integers(0, 3, 60).tolist())
    same(train_bpe(text.encode(), 8), _trained(text, 8))


def _chosen(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))


def _trained(text, n_merges, choose=_chosen, first=256, ids=None):
    ids, merges = list(text.encode()) if ids is None else ids, []
    while len(merges) < n_merges and (counts := bpe.count_pairs(ids)):
        merges.append(choose(counts))
        ids = bpe.merge(ids, merges[-1], first + len(merges) - 1)
    return merges


@training.mistake("""Where several pairs are equally frequent, you take the one that comes first in the text. The
    rule is: the smallest pair. With yours, the same sentences in another order give another vocabulary.""")
def first_seen(data, n_merges):
    return _trained("", n_merges, lambda counts: max(counts, key=counts.get), ids=list(data))


@training.mistake("""Where several pairs are equally frequent, you take the largest. That is a good rule too, but
    the rule here is the smallest pair, and a rule helps only if all keep to the same one.""")
def largest_pair(data, n_merges):
    return _trained("", n_merges, lambda counts: max(counts, key=lambda pair: (counts[pair], pair)), ids=list(data))


@training.mistake("""You count once, at the beginning, and take the most frequent pairs of that. Each merge changes
    the counts around it: once ab is one token, the b of "abc" is gone, and bc with it. Count again after each
    merge.""")
def counted_once(data, n_merges):
    counts = bpe.count_pairs(list(data))
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:n_merges]


@training.mistake("""You count again, but in the old ids: `merge` gives back a *new* list, and you did not keep it.
    Write `ids = merge(ids, pair, new_id)`.""")
def result_not_kept(data, n_merges):
    counts = bpe.count_pairs(list(data))
    return [_chosen(counts) for _ in range(n_merges) if counts]


@training.mistake("""You go on when there is no pair left, and `max` or `min` of nothing is an error. Stop as soon
    as the counts are empty: then there are fewer merges than were asked for.""")
def does_not_stop(data, n_merges):
    ids, merges = list(data), []
    for new_id in range(256, 256 + n_merges):
        merges.append(_chosen(bpe.count_pairs(ids)))
        ids = bpe.merge(ids, merges[-1], new_id)
    return merges


@training.mistake("""You stop when no pair occurs twice. That would be sensible (such a merge saves one place in the
    whole text), but it was not asked for: stop when no pair is left.""")
def stops_at_one(data, n_merges):
    ids, merges = list(data), []
    for new_id in range(256, 256 + n_merges):
        counts = bpe.count_pairs(ids)
        if not counts or max(counts.values()) < 2:
            break
        merges.append(_chosen(counts))
        ids = bpe.merge(ids, merges[-1], new_id)
    return merges


@training.mistake("Your first new id is 257. The bytes are 0 to 255, so 256 is the first number that is free.")
def begins_with_257(data, n_merges):
    return _trained("", n_merges, first=257, ids=list(data))


@training.mistake("""You took n_merges for the size of the vocabulary, and took 256 off it. It is the number of
    merges itself; the vocabulary is 256 larger.""")
def vocabulary_size(data, n_merges):
    return _trained("", n_merges - 256, ids=list(data))


@training.mistake("""You start from the characters and their Unicode numbers. Start from the bytes, `list(data)`:
    those are never more than 256 kinds, in any language, and your new ids from 256 on would collide with real
    characters.""")
def from_characters(data, n_merges):
    return _trained("", n_merges, ids=[ord(character) for character in data.decode()])


@training.mistake("""There are two things. Where several pairs are equally frequent, you take the one that comes first
    in the text; the rule is: the smallest pair. And you go on when there is no pair left, where `max` of nothing is an
    error: stop as soon as the counts are empty.""")
def first_seen_without_end(data, n_merges):
    ids, merges = list(data), []
    for new_id in range(256, 256 + n_merges):
        counts = bpe.count_pairs(ids)
        merges.append(max(counts, key=counts.get))
        ids = bpe.merge(ids, merges[-1], new_id)
    return merges


@training.alternative("sort the pairs, then take the first")
def by_sorting(data, n_merges):
    ids, merges = list(data), []
    while len(merges) < n_merges and len(ids) > 1:
        counts = {}
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + 1
        pair = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0][0]
        ids = bpe.merge(ids, pair, 256 + len(merges))
        merges.append(pair)
    return merges


@training.alternative("one loop that keeps the best pair so far")
def with_the_best_so_far(data, n_merges):
    ids, merges = list(data), []
    for step in range(n_merges):
        best, most = None, 0
        for pair, n in bpe.count_pairs(ids).items():
            if n > most or (n == most and pair < best):
                best, most = pair, n
        if best is None:
            return merges
        merges.append(best)
        ids = bpe.merge(ids, best, 256 + step)
    return merges


@training.alternative("the fast one: counts that are kept up to date")
def kept_up_to_date(data, n_merges):
    return bpe.learn_merges({data: 1}, n_merges) if data else []


# 02.4 ----------------------------------------------------------------------------------------------------------------

encoding = Exercise(
    "02.4",
    bpe.encode,
    hints=(
        "Two questions in each round: which pairs are there now that are also in `merges`? Which of those was "
        "learned first?",
        "`ranks = {pair: rank for rank, pair in enumerate(merges)}` answers both: `pair in ranks`, and the "
        "smallest `ranks[pair]`. The new id of rank r is 256 + r. Repeat until no pair is known.",
        "Shorter: go through `merges` in order, and merge each one: `for rank, pair in enumerate(merges): ids = "
        "merge(ids, pair, 256 + rank)`. Why is that the same? A merge makes only pairs with its own new id, and "
        "those were learned later.",
    ),
)


@encoding.check("abc, where bc was learned before ab")
def learned_first(encode):
    a, b, c, d = _letters(4)
    merges = [(b, c), (a, b), (256, d), (a, 256)]
    same([encode(bytes([a, b, c]), merges), encode(bytes([a, b, c, d]), merges)], [[259], [a, 258]])


@encoding.check("ab three times, but bc was learned first")
def frequency_misleads(encode):
    a, b, c, x = _letters(4)
    same(encode(bytes([a, b, x, a, b, x, a, b, c]), [(b, c), (a, b)]), [257, x, 257, x, a, 256])


@encoding.check("abcd with three pairs that overlap: the one in the middle was learned last")
def middle_is_last(encode):
    a, b, c, d = _letters(4)
    same(encode(bytes([a, b, c, d]), [(c, d), (a, b), (b, c)]), [257, 256])


@encoding.check("a longer token would fit, but its parts are taken")
def longest_misleads(encode):
    a, b, c, d = _letters(4)
    same(encode(bytes([a, b, c, d]), [(c, d), (a, b), (257, c)]), [257, 256])


@encoding.check("the same letter seven times: tokens of tokens")
def tokens_of_tokens(encode):
    (a,) = _letters(1)
    same(encode(bytes([a] * 7), [(a, a), (256, 256), (257, 256)]), [258, a])


@encoding.check("merges of which the first do not occur")
def some_do_not_occur(encode):
    a, b, c, d = _letters(4)
    same(encode(bytes([c, d, c, d]), [(a, b), (c, d), (256, 257)]), [257, 257])


@encoding.check("nothing to merge: no bytes, one byte, no merges")
def nothing_known(encode):
    a, b = _letters(2)
    same([encode(b"", [(a, b)]), encode(bytes([a]), [(a, b)]), encode(bytes([a, b]), [])], [[], [a], [a, b]])


@encoding.check("bytes that are no English text")
def other_bytes(encode):
    a, b, c, d = pick("😉🙂🎈🐱").encode()
    same(encode(bytes([a, b, c, d, a, b]), [(a, b), (c, d)]), [256, 257, 256])


@encoding.check("sixty letters of three kinds, with merges that were learned from another sixty")
def learned_elsewhere(encode):
    text, other = (bytes(97 + i for i in integers(0, 3, 60).tolist()) for _ in range(2))
    merges = bpe.train_bpe(other, 9)
    same(encode(text, merges), bpe.merge_word(text, {pair: rank for rank, pair in enumerate(merges)}))


def _encoded(data, merges, choose):
    """Merge the pair that `choose(known pairs, ranks, their counts)` names, until no pair is known."""
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    while known := {pair: n for pair, n in bpe.count_pairs(ids).items() if pair in ranks}:
        pair = choose(known, ranks)
        ids = bpe.merge(ids, pair, 256 + ranks[pair])
    return ids


@encoding.mistake("""You merge the pair that is most frequent in *this* text. Encoding does not look at frequencies
    any more: it repeats what was learned, in that order. As it is, a word would get other ids in another sentence.""")
def most_frequent_here(data, merges):
    return _encoded(data, merges, lambda known, ranks: max(known, key=lambda pair: (known[pair], -ranks[pair])))


@encoding.mistake("""You merge the pair that was learned *last*. It is the other way round: the smallest place in
    `merges` first.""")
def learned_last(data, merges):
    return _encoded(data, merges, lambda known, ranks: max(known, key=ranks.get))


@encoding.mistake("""You go through `merges` from the end to the beginning. The tokens that later merges are made of
    do not exist yet then. Begin with the merge that was learned first.""")
def from_the_end(data, merges):
    ids = list(data)
    for rank, pair in reversed(list(enumerate(merges))):
        ids = bpe.merge(ids, pair, 256 + rank)
    return ids


@encoding.mistake("""You merge the first known pair from the left. Of all the known pairs in the text, take the one
    with the smallest place in `merges`, wherever it stands.""")
def leftmost(data, merges):
    return _encoded(data, merges, lambda known, ranks: next(iter(known)))


@encoding.mistake("""You take the longest token that fits, from left to right. That is another algorithm (WordPiece
    cuts like this), and a model that was trained on BPE's ids has never seen some of yours. Repeat the merges
    instead.""")
def longest_first(data, merges):
    content = {bytes([i]): i for i in range(256)}
    for new_id, (left, right) in enumerate(merges, start=256):
        by_id = {i: text for text, i in content.items()}
        content[by_id[left] + by_id[right]] = new_id
    ids, start = [], 0
    while start < len(data):
        end = next(end for end in range(len(data), start, -1) if data[start:end] in content)
        ids.append(content[data[start:end]])
        start = end
    return ids


@encoding.mistake("""You merge one pair and stop. Look again after each merge, until no pair of neighbours is in
    `merges`: that takes a loop.""")
def only_once(data, merges):
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    known = [pair for pair in bpe.count_pairs(ids) if pair in ranks]
    pair = min(known, key=ranks.get, default=None)
    return bpe.merge(ids, pair, 256 + ranks[pair]) if known else ids


@encoding.mistake("""You look for known pairs once, in the bytes, and never find those that the merges themselves
    make. Look again after each merge: tokens are made of tokens.""")
def pairs_of_bytes_only(data, merges):
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    for pair in sorted((pair for pair in bpe.count_pairs(ids) if pair in ranks), key=ranks.get):
        ids = bpe.merge(ids, pair, 256 + ranks[pair])
    return ids


@encoding.mistake("""With nothing to merge, `min` is asked for the smallest of nothing, and that is an error. A text
    of one byte, or without a known pair, is its own encoding: leave the loop before you choose.""")
def smallest_of_nothing(data, merges):
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    while True:
        pair = min(bpe.count_pairs(ids), key=lambda pair: ranks.get(pair, math.inf))
        if pair not in ranks:
            return ids
        ids = bpe.merge(ids, pair, 256 + ranks[pair])


@encoding.mistake("""You stop at the first merge that does not occur in this text. Leave it out and go on with the
    next one.""")
def stops_at_a_stranger(data, merges):
    ids = list(data)
    for rank, pair in enumerate(merges):
        if pair not in bpe.count_pairs(ids):
            break
        ids = bpe.merge(ids, pair, 256 + rank)
    return ids


@encoding.mistake("Your new ids are too large by 1. The pair at place 0 of `merges` makes the id 256.")
def from_257_on(data, merges):
    ids = list(data)
    for rank, pair in enumerate(merges):
        ids = bpe.merge(ids, pair, 257 + rank)
    return ids


@encoding.mistake("""You number the new ids in the order in which you use them. The id belongs to the merge: 256
    plus its place in `merges`, also when the merges before it do not occur in this text.""")
def numbered_anew(data, merges):
    ids, used = list(data), 0
    for pair in merges:
        if pair in bpe.count_pairs(ids):
            ids = bpe.merge(ids, pair, 256 + used)
            used += 1
    return ids


@encoding.mistake("""You merge one pair and stop, and if none is known, `min` of nothing is an error. It takes a loop:
    look for known pairs, leave if there are none, merge one, look again.""")
def once_or_an_error(data, merges):
    ids, ranks = list(data), {pair: rank for rank, pair in enumerate(merges)}
    pair = min([pair for pair in bpe.count_pairs(ids) if pair in ranks], key=ranks.get)
    return bpe.merge(ids, pair, 256 + ranks[pair])


@encoding.alternative("all merges in the order in which they were learned")
def replayed(data, merges):
    ids = list(data)
    for new_id, pair in enumerate(merges, start=256):
        ids = bpe.merge(ids, pair, new_id)
    return ids


@encoding.alternative("one place at a time, the pair of lowest rank, the leftmost of equals")
def one_at_a_time(data, merges):
    ids, ranks = list(data), {tuple(pair): rank for rank, pair in enumerate(merges)}
    while len(ids) > 1:
        places = range(len(ids) - 1)
        best = min(places, key=lambda i: ranks.get((ids[i], ids[i + 1]), len(ranks)))
        rank = ranks.get((ids[best], ids[best + 1]))
        if rank is None:
            break
        ids[best : best + 2] = [256 + rank]
    return ids


@encoding.alternative("with a heap")
def with_a_heap(data, merges):
    return bpe.merge_word(data, {tuple(pair): rank for rank, pair in enumerate(merges)})


# 02.5 ----------------------------------------------------------------------------------------------------------------

decoding = Exercise(
    "02.5",
    bpe.decode,
    hints=(
        "What are the bytes of id 300? Those of its left half, then those of its right half. Both halves have "
        "smaller ids.",
        "Make a dict from id to bytes: first `bytes([i])` for 0 to 255, then, merge after merge, left + right. A "
        "merge only uses ids that were made before it, so they are in the dict already.",
        "`content[new_id] = content[left] + content[right]` in a loop over `enumerate(merges, start=256)`; then "
        '`b"".join(content[i] for i in ids)`. A dict raises KeyError by itself.',
    ),
)


@decoding.check("bytes and one merge")
def one_merge(decode):
    a, b, c = _letters(3)
    same(decode([c, 256, a], [(a, b)]), bytes([c, a, b, a]))


@decoding.check("a token that is made of tokens")
def made_of_tokens(decode):
    a, b, c, d = _letters(4)
    same(decode([258, d, 257], [(a, b), (256, c), (257, d)]), bytes([a, b, c, d, d, a, b, c]))


@decoding.check("a character whose bytes are spread over several tokens")
def spread(decode):
    a, b, c, d = pick("😉🙂🎈🐱").encode()
    same(decode([a, 256, d], [(b, c)]), bytes([a, b, c, d]))


@decoding.check("half a character at the end")
def half(decode):
    a, b, _ = pick("中文语言模型").encode()
    same(decode([120, a, b], []), bytes([120, a, b]))


@decoding.check("bytes that are no text at all")
def no_text(decode):
    same(decode([255, 256, 254], [(254, 255)]), bytes([255, 254, 255, 254]))


@decoding.check("spaces at both ends")
def spaces(decode):
    (a,) = _letters(1)
    same(decode([256, 32], [(32, a)]), bytes([32, a, 32]))


@decoding.check("no ids: no bytes")
def no_ids(decode):
    same(decode([], [(97, 98)]), b"")


@decoding.check("a KeyError for ids that no merge makes")
def too_large(decode):
    refuses(decode, [97, pick([257, 300, 1000])], [(97, 98)], error="LookupError")


@decoding.check("a KeyError for an id below 0")
def below_zero(decode):
    refuses(decode, [97, -1], [(97, 98)], error="LookupError")


def _content(merges, first=256, flip=False):
    content = {i: bytes([i]) for i in range(256)}
    for new_id, (left, right) in enumerate(merges, start=first):
        content[new_id] = content[right] + content[left] if flip else content[left] + content[right]
    return content


@decoding.mistake("""You make text of each token by itself. A token may hold half a character, and half a character
    is no text: it becomes U+FFFD, for ever. Join all the bytes first.""")
def text_token_by_token(ids, merges):
    content = _content(merges)
    return "".join(content[i].decode("utf-8", "replace") for i in ids).encode()


@decoding.mistake("""You drop bytes that are no text (errors="ignore"). Here they are to be given back as they are:
    whoever reads a stream needs the first half of a character, until the second half comes.""")
def dropped(ids, merges):
    content = _content(merges)
    return b"".join(content[i] for i in ids).decode("utf-8", "ignore").encode()


@decoding.mistake("""You replace bytes that are no text by U+FFFD (errors="replace"). That is what one shows to a
    person in the end, but this function gives back bytes, all of them and unchanged.""")
def replaced(ids, merges):
    content = _content(merges)
    return b"".join(content[i] for i in ids).decode("utf-8", "replace").encode()


@decoding.mistake("""You give back text. Asked for are the bytes: leave out the last `.decode(...)`, which whoever
    calls can still do when the text is complete.""")
def gives_text(ids, merges):
    content = _content(merges)
    return b"".join(content[i] for i in ids).decode("utf-8", "replace")


@decoding.mistake("""You make a byte with chr(i).encode(). From 128 on that gives two bytes: chr(233) is the
    character é, and é is two bytes in UTF-8. Write bytes([i]).""")
def with_chr(ids, merges):
    content = {i: chr(i).encode() for i in range(256)}
    for new_id, (left, right) in enumerate(merges, start=256):
        content[new_id] = content[left] + content[right]
    return b"".join(content[i] for i in ids)


@decoding.mistake("bytes(i), with a number, is i zeros. With a list it is one byte per number: bytes([i]).")
def zeros(ids, merges):
    content = {i: bytes(i) for i in range(256)}
    for new_id, (left, right) in enumerate(merges, start=256):
        content[new_id] = content[left] + content[right]
    return b"".join(content[i] for i in ids)


@decoding.mistake("""You open a token once, and find tokens inside: the halves of 258 may be 257 and 100. Build the
    bytes of every id from those of its halves, in the order of the merges.""")
def opened_once(ids, merges):
    return bytes(half for i in ids for half in (merges[i - 256] if i > 255 else (i,)))


@decoding.mistake("You put the right half before the left one. The text of a token is left + right.")
def wrong_way_round(ids, merges):
    content = _content(merges, flip=True)
    return b"".join(content[i] for i in ids)


@decoding.mistake("""You put a space between the tokens. Spaces are bytes like all others, and are inside the
    tokens: join with b"".""")
def spaces_between(ids, merges):
    content = _content(merges)
    return b" ".join(content[i] for i in ids)


@decoding.mistake("""You cut off spaces at the ends. They belong to the text: join the bytes and leave them as they
    are.""")
def spaces_cut_off(ids, merges):
    content = _content(merges)
    return b"".join(content[i] for i in ids).strip()


@decoding.mistake("You count the merges from 257 on. The first merge makes the id 256.")
def first_is_257(ids, merges):
    content = _content(merges[:1], first=257) | {
        new_id + 1: text for new_id, text in _content(merges).items() if new_id > 255
    }
    return b"".join(content[i] if i > 255 else bytes([i]) for i in ids)


@decoding.mistake("""You leave out ids that you do not know, in silence. Raise a KeyError: an unknown id means that
    the ids belong to another vocabulary, and then nothing of the text can be trusted. (content[i] raises it,
    content.get(i) does not.)""")
def unknown_left_out(ids, merges):
    content = _content(merges)
    return b"".join(content.get(i, b"") for i in ids)


@decoding.mistake("""Your table is a list, and item -1 of a list is its last one: an id of -1 becomes text. Later
    chapters use -1 and -100 for "no token here". Use a dict, or refuse ids below 0.""")
def last_of_a_list(ids, merges):
    content = list(_content(merges).values())
    return b"".join(content[i] for i in ids)


@decoding.mistake("""An id below 0 gets as far as bytes([i]), and that raises a ValueError. No merge makes it, so it is
    a KeyError as well: ask whether 0 <= i < 256, not only whether i < 256.""")
def below_zero_as_a_byte(ids, merges):
    def content(i):
        return bytes([i]) if i < 256 else b"".join(map(content, merges[i - 256]))

    return b"".join(map(content, ids))


@decoding.alternative("a function that opens a token and its halves")
def opening(ids, merges):
    def content(i):
        if 0 <= i < 256:
            return bytes([i])
        if not 256 <= i < 256 + len(merges):
            raise KeyError(i)
        return b"".join(map(content, merges[i - 256]))

    return b"".join(map(content, ids))


@decoding.alternative("backwards: the last merge is opened first, in the ids themselves")
def backwards(ids, merges):
    for new_id in range(255 + len(merges), 255, -1):
        ids = [half for i in ids for half in (merges[new_id - 256] if i == new_id else (i,))]
    if any(not 0 <= i < 256 for i in ids):
        raise KeyError("unknown")
    return bytes(ids)


@decoding.alternative("a bytearray that grows")
def growing(ids, merges):
    content = [bytes([i]) for i in range(256)]
    for left, right in merges:
        content.append(content[left] + content[right])
    out = bytearray()
    for i in ids:
        if i < 0:
            raise IndexError("below 0")
        out += content[i]
    return bytes(out)


# 02.6 ----------------------------------------------------------------------------------------------------------------


def encode_with_special(
    text: str, merges: Sequence[Pair], special_ids: Mapping[str, int], allowed: Collection[str] = ()
) -> list[int]:
    """The ids of a text. An allowed special token becomes its one id; any other is plain text.

    special_ids: the id of each special token. allowed: those that count in this text.
    If one of them begins like another, the longer one counts. No merge reaches over them.

    >>> encode_with_special("ab<end>", [(97, 98)], {"<end>": 257})
    [256, 60, 101, 110, 100, 62]
    >>> encode_with_special("ab<end>", [(97, 98)], {"<end>": 257}, allowed=["<end>"])
    [256, 257]
    """
    if not allowed:
        return encode(text.encode(), merges)
    longest_first = sorted(allowed, key=len, reverse=True)
    ids = []
    for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
        ids += [special_ids[part]] if part in allowed else encode(part.encode(), merges)
    return ids


special = Exercise(
    "02.6",
    encode_with_special,
    hints=(
        "Cut the text at the allowed special tokens. What is between them goes through `encode(part.encode(), "
        "merges)`, each piece by itself; the special tokens go through `special_ids`.",
        "`re.split` with round brackets around the pattern keeps what it cut at: `re.split('(x|y)', 'axb')` is "
        "`['a', 'x', 'b']`. `|` and others mean something in a pattern, so each token needs `re.escape`. Without "
        "regular expressions: find the place where the first allowed token begins, and go on behind it.",
        "`pattern = '|'.join(map(re.escape, sorted(allowed, key=len, reverse=True)))`, then for each part of "
        "`re.split(f'({pattern})', text)`: `ids += [special_ids[part]]` if it is allowed, else its encoding. If "
        "nothing is allowed, leave the splitting out: an empty pattern fits everywhere.",
    ),
)

ND = [(110, 100)]  # nd becomes 256
TWO = {"<end>": 257, "<user>": 258}


@special.check("a user who types <end>: text like any other, merged as usual")
def typed_by_a_user(encode_with_special):
    a, b = _letters(2)
    text = bytes([a, b]).decode() + "<end>" + chr(a)
    merged = encode_with_special("x<end>", [(120, 60)], TWO)  # x and < are neighbours like any others
    same([encode_with_special(text, ND, TWO), merged], [bpe.encode(text.encode(), ND), [256, 101, 110, 100, 62]])


@special.check("an allowed <end> in the middle: one id, in its place")
def in_the_middle(encode_with_special):
    a, b = _letters(2)
    same(encode_with_special(f"{chr(a)}<end>{chr(b)}", ND, TWO, allowed=["<end>", "<user>"]), [a, 257, b])


@special.check("allowed tokens at both ends, and one twice")
def several(encode_with_special):
    a, b = _letters(2)
    text = f"<user>{chr(a)}<end><user>{chr(b)}<end>"
    same(encode_with_special(text, ND, TWO, allowed=["<end>", "<user>"]), [258, a, 257, 258, b, 257])


@special.check("<user> is allowed, <end> is not")
def one_of_two(encode_with_special):
    a, _ = _letters(2)
    same(encode_with_special(f"<user>{chr(a)}<end>", ND, TWO, allowed=["<user>"]), [258, a, 60, 101, 256, 62])


@special.check("pairs of letters and signs, with a special token between them: no merge over it, and none into it")
def no_merge_over_it(encode_with_special):
    into = encode_with_special("x<end>", [(120, 60)], TWO, allowed=["<end>"])
    same([encode_with_special("n<end>dnd", ND, TWO, allowed=["<end>"]), into], [[110, 257, 100, 256], [120, 257]])


@special.check("<|end|>, whose signs mean something in a pattern")
def signs(encode_with_special):
    (a,) = _letters(1)
    text, ids = f"{chr(a)}<|end|>end|", [a, 300, 101, 256, 124]
    same(encode_with_special(text, ND, {"<|end|>": 300}, allowed=["<|end|>"]), ids)


@special.check("<end> and <end>!, where one begins like the other: the longer one counts")
def longer_one(encode_with_special):
    ids, orders = {"<end>": 257, "<end>!": 258}, (["<end>", "<end>!"], ["<end>!", "<end>"])
    given = [encode_with_special("<end>!<end>?", ND, ids, allowed=order) for order in orders]
    same(given, [[258, 257, 63], [258, 257, 63]])


@special.check("an empty text, and text without any special token")
def none_there(encode_with_special):
    given = [encode_with_special(text, ND, TWO, allowed=["<end>"]) for text in ("", "ndü")]
    same(given, [[], [256, 195, 188]])


def _split(text, merges, special_ids, recognized):
    """Recognize these, the longest first."""
    pattern = "|".join(map(re.escape, sorted(recognized, key=len, reverse=True)))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [i for part in parts for i in ([special_ids[part]] if part in recognized else _plain(part, merges))]


def _plain(text, merges):
    return bpe.encode(text.encode(), merges)


@special.mistake("""You turn every special token into its id, allowed or not. Then a user who types <end> ends their
    own message, and whatever follows speaks with the voice of the system. Only what is in `allowed` counts.""")
def always_special(text, merges, special_ids, allowed=()):
    return _split(text, merges, special_ids, list(special_ids))


@special.mistake("""You never turn a special token into its id. Then the model never sees where a message ends; it
    sees a few signs that look like it. Those in `allowed` become one id each.""")
def never_special(text, merges, special_ids, allowed=()):
    return _plain(text, merges)


@special.mistake("""As soon as one special token is allowed, you recognize all of them. Look for those in `allowed`
    only.""")
def all_or_none(text, merges, special_ids, allowed=()):
    return _split(text, merges, special_ids, list(special_ids) if allowed else [])


@special.mistake("""You cut special tokens that are not allowed out of the text. The text is no longer what the user
    wrote; and it does not even help: out of <en<end>d> one cut makes a new <end>. Encode them as plain text.""")
def cut_out(text, merges, special_ids, allowed=()):
    for token in special_ids:
        if token not in allowed:
            text = text.replace(token, "")
    return _split(text, merges, special_ids, list(allowed))


@special.mistake("""You refuse a text in which a special token stands that is not allowed. Some libraries do so, and
    it is safe; but here such a text is to be encoded like any other (somebody may want to ask a question about
    <end>).""")
def refused(text, merges, special_ids, allowed=()):
    if any(token in text for token in special_ids if token not in allowed):
        raise ValueError("a special token that is not allowed")
    return _split(text, merges, special_ids, list(allowed))


@special.mistake("""You put the special token into the pattern as it is. In a pattern | means "or", so <|end|> is
    looked for as "<", "end" or ">", and never found as a whole. Use re.escape.""")
def not_escaped(text, merges, special_ids, allowed=()):
    pattern = "|".join(sorted(allowed, key=len, reverse=True))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [i for part in parts for i in ([special_ids[part]] if part in allowed else _plain(part, merges))]


@special.mistake("""The special tokens are gone: re.split leaves out what it cut at, unless the pattern stands in
    round brackets. Write f"({pattern})".""")
def lost_in_the_split(text, merges, special_ids, allowed=()):
    pattern = "|".join(map(re.escape, sorted(allowed, key=len, reverse=True)))
    parts = re.split(pattern, text) if pattern else [text]
    return [i for part in parts for i in _plain(part, merges)]


@special.mistake("""You find the shorter of two special tokens where the longer one stands. The pattern takes the
    first that fits: sort by length, the longest first.""")
def shortest_first(text, merges, special_ids, allowed=()):
    pattern = "|".join(map(re.escape, sorted(allowed, key=len)))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [i for part in parts for i in ([special_ids[part]] if part in allowed else _plain(part, merges))]


@special.mistake("""You look for the special tokens in the order in which `allowed` names them, and the pattern
    takes the first that fits. Sort them by length, the longest first.""")
def in_the_order_given(text, merges, special_ids, allowed=()):
    pattern = "|".join(map(re.escape, allowed))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [i for part in parts for i in ([special_ids[part]] if part in allowed else _plain(part, merges))]


@special.mistake("""If nothing is allowed your pattern is empty, and an empty pattern fits between all characters:
    the text falls into single letters, and nothing is merged. Encode it in one piece in that case.""")
def empty_pattern(text, merges, special_ids, allowed=()):
    pattern = "|".join(map(re.escape, sorted(allowed, key=len, reverse=True)))
    parts = re.split(f"({pattern})", text)
    return [i for part in parts for i in ([special_ids[part]] if part in allowed else _plain(part, merges))]


@special.mistake("""You put all special tokens at the end. Their place is their meaning: <end> ends what stands
    before it.""")
def moved_to_the_end(text, merges, special_ids, allowed=()):
    ids = _split(text, merges, special_ids, list(allowed))
    found = [i for i in ids if i in special_ids.values()]
    return [i for i in ids if i not in special_ids.values()] + found


@special.mistake("""You merge over the special token: its neighbours on the left and on the right were encoded
    together. Encode each piece between special tokens by itself.""")
def merged_over(text, merges, special_ids, allowed=()):
    ids = _split(text, [], special_ids, list(allowed))
    places = [(place, i) for place, i in enumerate(ids) if i in special_ids.values()]
    merged = bpe.encode(bytes(i for i in ids if i not in special_ids.values()), merges)
    for place, i in places:
        merged.insert(place, i)
    return merged


@special.mistake("""You cut the text at all special tokens, also at those that are not allowed. Those are plain text,
    and in plain text a merge may take a sign of <end> together with its neighbour. Cut at what is in `allowed`.""")
def cut_at_all(text, merges, special_ids, allowed=()):
    pattern = "|".join(map(re.escape, sorted(special_ids, key=len, reverse=True)))
    parts = re.split(f"({pattern})", text)
    return [i for part in parts for i in ([special_ids[part]] if part in allowed else _plain(part, merges))]


@special.mistake("""You encode the whole text first, and look for the special token among the ids. By then a merge may
    have taken one of its signs together with its neighbour, and it is not found. Cut first, then encode the pieces.""")
def looked_for_among_the_ids(text, merges, special_ids, allowed=()):
    ids = _plain(text, merges)
    for token in sorted(allowed, key=len, reverse=True):
        wanted, kept, i = _plain(token, merges), [], 0
        while i < len(ids):
            found = ids[i : i + len(wanted)] == wanted
            kept.append(special_ids[token] if found else ids[i])
            i += len(wanted) if found else 1
        ids = kept
    return ids


@special.alternative("character by character, without patterns")
def character_by_character(text, merges, special_ids, allowed=()):
    ids, plain, i = [], "", 0
    while i < len(text):
        found = max((token for token in allowed if text.startswith(token, i)), key=len, default="")
        if found:
            ids += [*_plain(plain, merges), special_ids[found]]
            plain = ""
        else:
            plain += text[i]
        i += len(found) or 1
    return ids + _plain(plain, merges)


@special.alternative("cut at the longest token, then encode both sides in the same way")
def both_sides(text, merges, special_ids, allowed=()):
    for token in sorted(allowed, key=len, reverse=True):
        before, there, after = text.partition(token)
        if there:
            left, right = (both_sides(side, merges, special_ids, allowed) for side in (before, after))
            return [*left, special_ids[token], *right]
    return _plain(text, merges)


@special.alternative("the matches of a pattern, and what is between them")
def between_matches(text, merges, special_ids, allowed=()):
    ids, end = [], 0
    pattern = "|".join(re.escape(token) for token in sorted(allowed, reverse=True)) or "(?!)"  # (?!) fits nowhere
    for match in re.finditer(pattern, text):
        ids += [*_plain(text[end : match.start()], merges), special_ids[match[0]]]
        end = match.end()
    return ids + _plain(text[end:], merges)


# 02.7 ----------------------------------------------------------------------------------------------------------------


def most_likely_pieces(text: str, log_probs: Mapping[str, float]) -> list[str]:
    """Cut a text into known pieces, so that the sum of their log probabilities is the largest.

    log_probs: the natural logarithm of each piece's probability.
    Errors: ValueError if the text can't be cut into known pieces.

    >>> known = {"a": -3.0, "b": -3.0, "c": -3.0, "ab": -2.5, "bc": -1.5}
    >>> most_likely_pieces("abc", known)
    ['a', 'bc']
    """
    best, begins = [0.0], [0]  # for the first n characters: the largest sum, and where its last piece begins
    for end in range(1, len(text) + 1):
        cuts = [(best[i] + log_probs[text[i:end]], i) for i in range(end) if text[i:end] in log_probs]
        largest, begin = max(cuts, default=(-math.inf, 0))
        best.append(largest)
        begins.append(begin)
    if best[-1] == -math.inf:
        raise ValueError(f"no pieces for {text!r}")
    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[begins[end] : end])
        end = begins[end]
    return pieces[::-1]


unigram = Exercise(
    "02.7",
    most_likely_pieces,
    hints=(
        "Fill a table from left to right: for each n, the largest sum with which the first n characters can be "
        "cut. For n = 0 it is 0.",
        "The last piece of the first n characters begins at some i < n. If text[i:n] is a known piece, the sum is "
        "best[i] + log_probs[text[i:n]]. Try all i, keep the largest, and remember its i. If none fits, the sum is"
        " -math.inf.",
        "At the end walk back: `end = len(text)`, append text[begins[end]:end], set end = begins[end], until it is"
        " 0; then turn the list round. If best[len(text)] is -math.inf, raise ValueError. (Simpler and slower: a "
        "function that tries every first piece and calls itself for the rest.)",
    ),
)


@unigram.check("abc, where the two rarer pieces are the better cut")
def by_hand(most_likely_pieces):
    a, b, c = (chr(i) for i in _letters(3))
    known = {a: -3.0, b: -3.0, c: -3.0, a + b: -2.5, b + c: -1.5}
    same(most_likely_pieces(a + b + c, known), [a, b + c])


@unigram.check("abcd, where the longest first piece is the wrong one")
def longest_is_wrong(most_likely_pieces):
    a, b, c, d = (chr(i) for i in _letters(4))
    known = {a: -4.0, b: -4.0, c: -4.0, d: -4.0, a + b + c: -6.0, a + b: -2.0, c + d: -3.0}
    same(most_likely_pieces(a + b + c + d, known), [a + b, c + d])


@unigram.check("abc, where three frequent pieces beat one rare piece")
def more_can_be_better(most_likely_pieces):
    a, b, c = (chr(i) for i in _letters(3))
    same(most_likely_pieces(a + b + c, {a: -1.0, b: -1.5, c: -1.25, a + b + c: -9.0}), [a, b, c])


@unigram.check("abc, where one rare piece beats three frequent ones")
def fewer_can_be_better(most_likely_pieces):
    a, b, c = (chr(i) for i in _letters(3))
    same(most_likely_pieces(a + b + c, {a: -1.0, b: -1.5, c: -1.25, a + b + c: -3.5}), [a + b + c])


@unigram.check("ab, where a is frequent and b is rare")
def one_of_them_is_rare(most_likely_pieces):
    a, b = (chr(i) for i in _letters(2))
    same(most_likely_pieces(a + b, {a: -0.25, b: -4.0, a + b: -1.5}), [a + b])


@unigram.check("abab, where no piece is b alone")
def not_everywhere(most_likely_pieces):
    a, b = (chr(i) for i in _letters(2))
    same(most_likely_pieces(a + b + a + b, {a: -0.5, a + b: -2.0, b + a: -1.0, a + b + a: -4.0}), [a + b, a + b])


@unigram.check("a text that can't be cut: ValueError")
def impossible(most_likely_pieces):
    a, b = (chr(i) for i in _letters(2))
    refuses(most_likely_pieces, a + b, {a: -1.0, b + a: -1.0})


@unigram.check("an empty text: no pieces")
def empty(most_likely_pieces):
    same(most_likely_pieces("", {"a": -1.0}), [])


@unigram.check("eight letters, pieces of one to four letters with random probabilities")
def eight_letters(most_likely_pieces):
    text = "".join("ab"[i] for i in integers(0, 2, 8).tolist())
    pieces = sorted({text[i:j] for i in range(8) for j in range(i + 1, min(i + 4, 8) + 1)})
    known = {piece: -5 * float(p) - 0.5 for piece, p in zip(pieces, rand(len(pieces)).double(), strict=True)}
    given, expected = most_likely_pieces(text, known), _best_cut(text, known)
    if not isinstance(given, list) or not all(isinstance(piece, str) for piece in given):
        same(given, expected)
    totals = [sum(known.get(piece, -99.0) for piece in pieces) for pieces in (given, expected)]
    if "".join(given) != text or abs(totals[0] - totals[1]) > 1e-9:  # "aab" may be a, a, b in two ways: equally good
        same(given, expected)


def _cuts(text, known):
    """Every way to cut a text into known pieces."""
    if not text:
        return [[]]
    heads = (text[:end] for end in range(1, len(text) + 1) if text[:end] in known)
    return [[head, *rest] for head in heads for rest in _cuts(text[len(head) :], known)]


def _best_cut(text, known, score=None):
    cuts = _cuts(text, known)
    if not cuts:
        raise ValueError("no cut")
    return max(cuts, key=score or (lambda cut: sum(known[piece] for piece in cut)))


def _greedy(text, known, choose):
    pieces = []
    while text:
        heads = [text[:end] for end in range(1, len(text) + 1) if text[:end] in known]
        if not heads:
            raise ValueError("no cut")
        pieces.append(choose(heads))
        text = text[len(pieces[-1]) :]
    return pieces


@unigram.mistake("""You take the longest piece that fits, from left to right. A good beginning can force a bad end.
    Compare whole cuts, by their sums.""")
def always_the_longest(text, log_probs):
    return _greedy(text, log_probs, lambda heads: max(heads, key=len))


@unigram.mistake("""You take the longest piece that fits, and where none fits a single character, known or not.
    Compare whole cuts by their sums, and raise a ValueError for a text that can't be cut.""")
def longest_or_anything(text, log_probs):
    return _greedy(text, {c: -99.0 for c in text} | log_probs, lambda heads: max(heads, key=len))


@unigram.mistake("""At each place you take the likeliest piece that fits there, and never look ahead. Short pieces
    are frequent, so the text falls into crumbs. Compare whole cuts, by their sums.""")
def always_the_likeliest(text, log_probs):
    return _greedy(text, log_probs, lambda heads: max(heads, key=log_probs.get))


@unigram.mistake("""You take the cut with the fewest pieces, and do not look at the probabilities (or only where two
    cuts have equally many). Three frequent pieces can be likelier than one rare one: compare the sums.""")
def fewest_pieces(text, log_probs):
    return _best_cut(text, log_probs, lambda cut: (-len(cut), sum(log_probs[piece] for piece in cut)))


@unigram.mistake("""You compare the mean of the log probabilities, not their sum. Each further piece has its price:
    the product of probabilities is the *sum* of logarithms, not divided by anything.""")
def by_the_mean(text, log_probs):
    return _best_cut(text, log_probs, lambda cut: sum(log_probs[piece] for piece in cut) / max(1, len(cut)))


@unigram.mistake("""You add up the probabilities themselves (e to the power of each). That several things happen
    together has the *product* of their probabilities, so add the logarithms.""")
def sum_of_probabilities(text, log_probs):
    return _best_cut(text, log_probs, lambda cut: sum(math.exp(log_probs[piece]) for piece in cut))


@unigram.mistake("""You take the *least* likely cut. Logarithms of probabilities are negative: the likeliest cut has
    the sum that is closest to 0, the largest one.""")
def least_likely(text, log_probs):
    return _best_cut(text, log_probs, lambda cut: -sum(log_probs[piece] for piece in cut))


@unigram.mistake("""Your pieces are the right ones in the wrong order: walking back from the end gives the last
    piece first. Turn the list round.""")
def last_piece_first(text, log_probs):
    return _best_cut(text, log_probs)[::-1]


@unigram.mistake("""You give back nothing where there is no cut. Raise a ValueError: an empty list says that the
    text was empty.""")
def silent(text, log_probs):
    return _best_cut(text, log_probs) if _cuts(text, log_probs) else []


@unigram.mistake("""A text that can't be cut comes back as one piece. Give places that can't be reached the sum
    -math.inf (0 would be better than every sum of logarithms), and raise a ValueError if the whole text has it.""")
def unreachable_is_free(text, log_probs):
    best, begins = [0.0] * (len(text) + 1), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        cuts = [(best[i] + log_probs[text[i:end]], i) for i in range(end) if text[i:end] in log_probs]
        best[end], begins[end] = max(cuts, default=(0.0, 0))
    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[begins[end] : end])
        end = begins[end]
    return pieces[::-1]


@unigram.mistake("""You give back pieces for a text that can't be cut, and some of them are not known. When the table is
    full, look at the sum of the whole text: if it is -math.inf, raise a ValueError.""")
def not_refused(text, log_probs):
    best, begins = [0.0], [0]
    for end in range(1, len(text) + 1):
        largest, begin = max((best[i] + log_probs.get(text[i:end], -math.inf), i) for i in range(end))
        best.append(largest)
        begins.append(begin)
    pieces, end = [], len(text)
    while end > 0:
        pieces.append(text[begins[end] : end])
        end = begins[end]
    return pieces[::-1]


@unigram.alternative("a function that tries every first piece, and remembers what it has found out")
def with_a_memory_of_rests(text, log_probs):
    @cache
    def best(start):
        if start == len(text):
            return 0.0, ()
        found = [(-math.inf, ())]
        for end in range(start + 1, len(text) + 1):
            if (piece := text[start:end]) in log_probs:
                rest, pieces = best(end)
                found.append((log_probs[piece] + rest, (piece, *pieces)))
        return max(found)

    total, pieces = best(0)
    if total == -math.inf:
        raise ValueError("no cut")
    return list(pieces)


@unigram.alternative("all cuts, and the best of them")
def all_cuts(text, log_probs):
    return _best_cut(text, log_probs)


@unigram.alternative("forwards, with whole lists of pieces")
def forwards(text, log_probs):
    reached = {0: (0.0, [])}
    for start in range(len(text)):
        for piece, log_prob in log_probs.items():
            if start in reached and text.startswith(piece, start):
                total, pieces = reached[start]
                end = start + len(piece)
                if end not in reached or total + log_prob > reached[end][0]:
                    reached[end] = (total + log_prob, [*pieces, piece])
    if len(text) not in reached:
        raise ValueError("no cut")
    return reached[len(text)][1]


# 02.8 ----------------------------------------------------------------------------------------------------------------


def bits_per_byte(loss: float, n_tokens: int, text: str) -> float:
    """How many bits a model needs, on average, for one byte (UTF-8) of a text.

    loss: its mean surprise, in nats per token. n_tokens: into how many tokens the text was cut.

    >>> bits_per_byte(4 * math.log(2), n_tokens=3, text="abcdef")  # 3 tokens of 4 bits, for 6 bytes
    2.0
    """
    return loss * n_tokens / math.log(2) / len(text.encode())


bits = Exercise(
    "02.8",
    bits_per_byte,
    hints=(
        "Mean times number is the total. How many nats did the whole text cost?",
        "One bit is ln 2 = 0.693 nats, so there are more bits than nats: divide by `math.log(2)`. The bytes of a "
        "text are `text.encode()`.",
        "`return loss * n_tokens / math.log(2) / len(text.encode())`",
    ),
)


@bits.check("English text, one byte per character")
def english(bits_per_byte):
    text = "the cat sat on the mat"[: int(integers(10, 22))]
    loss, n = 1 + 3 * float(rand()), int(integers(3, 9))
    same(bits_per_byte(loss, n, text), n * loss / 0.6931471805599453 / len(text))


@bits.check("Chinese text, three bytes per character")
def chinese(bits_per_byte):
    text = pick(["猫坐在垫子上", "语言模型", "一只小猫"])
    loss, n = 1 + 3 * float(rand()), int(integers(5, 9))
    same(bits_per_byte(loss, n, text), n * loss / 0.6931471805599453 / (3 * len(text)))


@bits.check("one token for the whole text")
def one_token(bits_per_byte):
    same(bits_per_byte(8 * math.log(2), 1, "text"), 2.0)


@bits.check("256 equally likely bytes, one token each: 8 bits per byte")
def bytes_alone(bits_per_byte):
    text = pick(["naïve", "Zoë", "crème"])
    same(bits_per_byte(math.log(256), len(text.encode()), text), 8.0)


@bits.mistake("""You left out the number of tokens. The loss is the surprise of *one* token; multiply by n_tokens
    for the whole text. As it is, who cuts into fewer and larger tokens looks worse.""")
def without_the_tokens(loss, n_tokens, text):
    return loss / math.log(2) / len(text.encode())


@bits.mistake("""These are bits per token. That is what can't be compared between tokenizers: take the total, and
    divide by the bytes of the text.""")
def per_token(loss, n_tokens, text):
    return loss / math.log(2)


@bits.mistake("""You divide by the characters. Asked for are bytes: `len(text.encode())`. In English that is the
    same; a Chinese character is three bytes.""")
def per_character(loss, n_tokens, text):
    return loss * n_tokens / math.log(2) / len(text)


@bits.mistake("These are nats per byte. A bit is ln 2 nats: divide by math.log(2).")
def in_nats(loss, n_tokens, text):
    return loss * n_tokens / len(text.encode())


@bits.mistake(
    """You multiply by ln 2. A bit is less than a nat (0.693 of one), so there are *more* bits than nats: divide."""
)
def multiplied(loss, n_tokens, text):
    return loss * n_tokens * math.log(2) / len(text.encode())


@bits.mistake("""You took the logarithm of the loss. The loss is a logarithm already; from nats to bits it takes a
    factor, 1 / ln 2.""")
def logarithm_again(loss, n_tokens, text):
    return n_tokens * math.log2(loss) / len(text.encode())


@bits.mistake("You turned the fraction round: these are bytes per bit. Divide the bits by the bytes.")
def bytes_per_bit(loss, n_tokens, text):
    return len(text.encode()) * math.log(2) / (loss * n_tokens)


@bits.mistake("""A byte has eight bits, and you divided by 8 as well. But a bit here is an amount of surprise; a
    byte of English costs a good model about one bit, not eight.""")
def divided_by_eight(loss, n_tokens, text):
    return loss * n_tokens / math.log(2) / (8 * len(text.encode()))


@bits.alternative("from the perplexity, in base 2")
def from_the_perplexity(loss, n_tokens, text):
    return n_tokens * math.log2(math.exp(loss)) / len(bytes(text, "utf-8"))


@bits.alternative("bits per token times tokens per byte")
def bits_times_tokens(loss, n_tokens, text):
    bits_per_token, n_bytes = loss * math.log2(math.e), sum(len(character.encode()) for character in text)
    return bits_per_token * (n_tokens / n_bytes)
