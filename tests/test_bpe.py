import json
import random
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillama import bpe
from minillama.bpe import compile_pattern, count_pairs, decode, encode, learn_merges, merge, merge_word, train_bpe
from minillama.tokenizer import BytePairTokenizer

few_letters = st.text("ab", max_size=40) | st.text("abcd ", max_size=40)


def test_pairs_are_counted_where_they_overlap_too():
    assert count_pairs([1, 1, 1, 2]) == {(1, 1): 2, (1, 2): 1}
    assert count_pairs([]) == count_pairs([7]) == {}
    assert count_pairs(b"aba") == {(97, 98): 1, (98, 97): 1}


@pytest.mark.parametrize(
    ("ids", "merged"),
    [
        ([1, 1, 1], [9, 1]),
        ([1, 1, 1, 1], [9, 9]),
        ([2, 1, 1, 1, 1, 1, 3], [2, 9, 9, 1, 3]),
        ([1], [1]),
        ([], []),
    ],
)
def test_overlapping_pairs_are_merged_from_left_to_right(ids, merged):
    assert merge(ids, (1, 1), 9) == merged


def test_a_pair_is_merged_at_the_end_and_only_in_its_order():
    assert merge([3, 1, 2], (1, 2), 9) == [3, 9]
    assert merge([1, 2, 1, 2, 1], (1, 2), 9) == [9, 9, 1]
    assert merge([2, 1, 1], (1, 2), 9) == [2, 1, 1]


def test_what_a_merge_makes_is_not_merged_with_its_neighbour_at_once():
    assert merge([1, 2, 2], (1, 2), 1) == [1, 2]


def test_merging_leaves_the_callers_list_alone():
    ids = [1, 2, 3]
    assert merge(ids, (1, 2), 9) == [9, 3]
    assert merge(ids, (8, 8), 9) is not ids
    assert ids == [1, 2, 3]


def test_the_example_of_wikipedia_begins_with_aa():
    assert train_bpe(b"aaabdaaabac", 1) == [(97, 97)]


def test_the_smallest_pair_wins_a_tie():
    assert train_bpe(b"xyab", 1) == [(97, 98)]  # each pair once: not the first seen, not the largest
    assert train_bpe(b"bbbaaaddddcccc", 1) == [(99, 99)]


def test_the_first_merge_does_not_depend_on_the_order_of_the_text():
    runs = ["bbb", "aaa", "dddd", "cccc"]
    for seed in range(10):
        random.Random(seed).shuffle(runs)
        assert train_bpe("".join(runs).encode(), 1) == [(99, 99)]


def test_pairs_are_counted_again_after_each_merge():
    assert train_bpe(b"abcabcabcx", 2) == [(97, 98), (256, 99)]  # bc was as frequent as ab, and is gone with it


def test_training_stops_when_no_pair_is_left():
    assert train_bpe(b"ab", 10) == [(97, 98)]
    assert train_bpe(b"abcd", 10) == [(97, 98), (99, 100), (256, 257)]
    assert train_bpe(b"", 10) == train_bpe(b"a", 10) == train_bpe(b"abab", 0) == []


def train_on_words(words, n_merges):
    """train_bpe for many words, with its plain functions, and whether any pair was as frequent as the chosen one."""
    words, merges, ties = [list(word) for word in words], [], False
    for new_id in range(256, 256 + n_merges):
        counts = Counter()
        for word in words:
            counts.update(count_pairs(word))
        if not counts:
            break
        pair = min(counts, key=lambda pair, counts=counts: (-counts[pair], pair))
        ties = ties or list(counts.values()).count(counts[pair]) > 1
        words = [merge(word, pair, new_id) for word in words]
        merges.append(pair)
    return merges, ties


@given(few_letters, st.integers(0, 40))
def test_the_fast_way_learns_what_the_plain_way_learns_from_a_whole_text(text, n_merges):
    assert learn_merges({text.encode(): 1}, n_merges) == train_bpe(text.encode(), n_merges)


@given(st.lists(st.text("abc", max_size=8), max_size=12), st.integers(0, 25))
def test_the_fast_way_learns_what_the_plain_way_learns_from_words(words, n_merges):
    words = [word.encode() for word in words]
    assert learn_merges(Counter(words), n_merges) == train_on_words(words, n_merges)[0]


@given(st.dictionaries(st.binary(max_size=6), st.integers(1, 3), max_size=8))
def test_a_word_that_occurs_often_counts_as_often(words):
    again = [word for word, n_times in words.items() for _ in range(n_times)]
    assert learn_merges(words, 10) == train_on_words(again, 10)[0]


def shakespeare_like(n_bytes):
    """Lines of made-up words, a few of them frequent, as in a play."""
    rng = random.Random(3)
    syllables = ["the", "ou", "ll", "not", "king", "and", "er", "my", "lo", "rd", "art", "s", "a", "wi", "th"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    text = ""
    while len(text) < n_bytes:
        line = " ".join(words[int(rng.paretovariate(0.7)) % 400] for _ in range(rng.randint(3, 9)))
        text += line.capitalize() + rng.choice([",\n", ".\n\n", "!\n", ":\n"])
    return text


def test_the_fast_way_learns_what_the_plain_way_learns_from_20_kilobytes():
    text = shakespeare_like(20_000)
    assert learn_merges({text.encode(): 1}, 40) == train_bpe(text.encode(), 40)
    words = [word.encode() for word in compile_pattern(bpe.GPT2_PATTERN).findall(text)]
    assert learn_merges(Counter(words), 40) == train_on_words(words, 40)[0]


def replay(data, merges):
    for rank, pair in enumerate(merges):
        data = merge(data, pair, 256 + rank)
    return list(data)


@st.composite
def any_merges(draw):
    """Merges that are possible, though no text may have taught them."""
    letters, merges = [97, 98, 99], []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.sampled_from(letters), st.sampled_from(letters)))
        if pair not in merges:
            merges.append(pair)
            letters.append(255 + len(merges))
    return merges


@given(any_merges(), st.text("abc", max_size=40))
def test_encoding_is_replaying_the_merges_in_their_order(merges, text):
    ranks, data = {pair: rank for rank, pair in enumerate(merges)}, text.encode()
    assert encode(data, merges) == merge_word(data, ranks) == replay(data, merges)
    assert decode(encode(data, merges), merges) == data


BC, AB, BCD, ABC = (98, 99), (97, 98), (256, 100), (97, 256)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abc", [259]),
        ("abcd", [97, 258]),  # neither the longest from the left, abc|d, nor ab|cd
        ("ababc", [257, 259]),  # bc before ab, though ab is more frequent here
        ("b", [98]),
        ("", []),
    ],
)
def test_the_merge_learned_first_goes_first(text, tokens):
    merges = [BC, AB, BCD, ABC]
    assert encode(text.encode(), merges) == tokens
    assert merge_word(text.encode(), {pair: rank for rank, pair in enumerate(merges)}) == tokens


def test_a_merge_of_two_merges_is_found_from_the_right_one():
    merges = [(97, 98), (99, 100), (256, 257)]
    assert encode(b"abcd", merges) == merge_word(b"abcd", {pair: i for i, pair in enumerate(merges)}) == [258]


@pytest.mark.parametrize(("merges", "tokens"), [([(97, 97)], [256, 256, 97]), ([(97, 97), (256, 97)], [256, 257])])
def test_encoding_overlaps_goes_from_left_to_right(merges, tokens):
    assert encode(b"aaaaa", merges) == merge_word(b"aaaaa", {pair: i for i, pair in enumerate(merges)}) == tokens


@pytest.mark.parametrize("data", [b"", b"x", b" low", "😉 né".encode(), b"\xff", "😉".encode()[:2], bytes(range(256))])
@pytest.mark.parametrize("merges", [[], [(108, 111), (256, 119)], [(240, 159), (256, 152), (195, 169)]])
def test_any_bytes_come_back(data, merges):
    ids = encode(data, merges)
    assert decode(ids, merges) == data and len(ids) <= len(data)
    assert all(type(i) is int and 0 <= i < 256 + len(merges) for i in ids)


def test_a_character_may_be_spread_over_several_tokens():
    assert decode([240, 159, 152, 137], []).decode() == "😉"
    assert decode([256, 152, 137, 32, 256], [(240, 159)]).decode("utf-8", "replace") == "😉 \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("unknown", [-1, 257, 10**9])
def test_an_id_that_no_merge_makes_is_refused(unknown):
    with pytest.raises(KeyError):
        decode([97, unknown], [(97, 98)])


def test_the_plain_way_encodes_as_the_fast_tokenizer_without_words():
    text = shakespeare_like(3_000) + "😉 naïve  \n"
    tokenizer = BytePairTokenizer.train(text, 300, pattern=None)
    assert tokenizer.merges == train_bpe(text.encode(), 44)
    assert encode(text.encode(), tokenizer.merges) == tokenizer.encode(text)
    assert decode(tokenizer.encode(text), tokenizer.merges).decode() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, I'm  here.", ["Hello", ",", " I", "'m", " ", " here", "."]),
        ("we'll they've I'd", ["we", "'ll", " they", "'ve", " I", "'d"]),
        ("WE'LL", ["WE", "'", "LL"]),  # GPT-2 knows the small ones only
        ("a\n\n  b \n", ["a", "\n\n ", " b", " \n"]),
        ("x²=10½", ["x", "²", "=", "10½"]),
        ("snake_case", ["snake", "_", "case"]),
        ("naïve 漢字 Ünï", ["naïve", " 漢字", " Ünï"]),
        ("", []),
    ],
)
def test_words_are_those_of_gpt2(text, words):
    assert compile_pattern(bpe.GPT2_PATTERN).findall(text) == words


def test_every_character_is_cut_as_gpt2_cuts_it():
    regex = pytest.importorskip("regex")
    published = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    ours = compile_pattern(bpe.GPT2_PATTERN)
    python_only_spaces = "\x1c\x1d\x1e\x1f"
    for c in map(chr, range(0x10000)):
        if unicodedata.category(c) not in ("Cn", "Cs") and c not in python_only_spaces:
            text = f"a{c}1{c}{c}! {c} {c}"
            assert ours.findall(text) == published.findall(text), f"U+{ord(c):04X}"


@given(st.sampled_from([r"[a-c]+", r"b*", r"(?i:A)|b\b", r"\p{L}+", ""]), st.text("abcd 1\n"))
def test_no_pattern_loses_a_character(pattern, text):
    assert "".join(compile_pattern(pattern).findall(text)) == text


def test_brackets_that_are_no_class_may_stand_before_a_letter():
    assert compile_pattern(r"\[\p{L}+\]|[ab]\p{N}").findall("[é]a1") == ["[é]", "a1"]


def test_what_the_pattern_passes_over_is_one_word_for_each_character():
    assert compile_pattern("[ab]+").findall("abxyba") == ["ab", "x", "y", "ba"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "missing )"),
        ("(a)|b", "a group that captures: write (?:...) instead of (...)"),
        (r"[\p{L}']+", r"\p inside [...]"),
        (r"[^\s\p{L}]+", r"\p inside [...]"),
        (r"[]\p{L}]+", r"\p inside [...]"),
        (r"\p{Greek}", r"bad escape \p"),
        ("a{99999999999999999999}", "repetition number is too large"),
        ("a" * 10_001, "up to 10,000 characters"),
        ("(?:" * 3000 + ")" * 3000, "expected a regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        compile_pattern(pattern)
    assert str(error.value).startswith("pattern: ") and "expected a regular expression" in str(error.value)


def test_checked_merges_have_their_ranks_and_bytes():
    ranks, content = bpe.check_merges([[104, 105], (256, 33)])
    assert ranks == {(104, 105): 0, (256, 33): 1}
    assert content[:256] == [bytes([i]) for i in range(256)]
    assert content[256:] == [b"hi", b"hi!"]


@pytest.mark.parametrize(
    ("merges", "words"),
    [
        (None, "merges: None, expected a list of pairs"),
        ("ab", "merges: 'ab', expected a list of pairs"),
        ({"a": 1}, "merges: {'a': 1}, expected a list of pairs"),
        ([[97, 98], "ab"], "merges[1]: 'ab', expected two ids"),
        ([[97, 98], [97]], "merges[1]: [97], expected two ids"),
        ([[97, 98, 99]], "merges[0]: [97, 98, 99], expected two ids"),
        ([[97, 98.0]], "merges[0]: [97, 98.0], expected two ids"),
        ([[97, True]], "merges[0]: [97, True], expected two ids"),
        ([[97, "98"]], "merges[0]: [97, '98'], expected two ids"),
        ([97, 98], "merges[0]: 97, expected two ids"),
        ([[97, 98], [97, 98]], "merges[1]: [97, 98], expected each pair once, but it is merges[0] too"),
        ([[97, 256]], "merges[0]: [97, 256], expected ids that are made before it, 0 to 255"),  # itself
        ([[97, 98], [258, 97]], "merges[1]: [258, 97], expected ids that are made before it, 0 to 256"),
        ([[97, 257], [97, 256]], "merges[0]: [97, 257], expected ids that are made before it"),  # a cycle
        ([[97, 98], [97, -1]], "merges[1]: [97, -1], expected ids that are made before it"),
        ([[10**9, 97]], "merges[0]: [1000000000, 97], expected ids that are made before it"),
    ],
)
def test_merges_that_no_training_makes_are_refused_with_their_place(merges, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        bpe.check_merges(merges)
    assert "; use another copy of the file, or train it again" in str(error.value)


def test_merges_that_ask_for_too_much_memory_are_refused():
    with pytest.raises(ValueError, match=r"merges: 10,000,000 of them, expected at most 1,048,320"):
        bpe.check_merges([[97, 98]] * 10**7)
    doubling = [[97, 97]] + [[255 + i, 255 + i] for i in range(1, 26)]  # sixty of them would take 2**60 bytes
    with pytest.raises(ValueError, match=r"merges\[24\]: .* at most 67,108,864 bytes together"):
        bpe.check_merges(json.loads(json.dumps(doubling)))
    bpe.check_merges(doubling[:24])
