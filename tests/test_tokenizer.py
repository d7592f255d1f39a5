import copy
import json
import pickle
import re

import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama import sentencepieces
from minillama.bpe import compile_pattern
from minillama.tokenizer import (
    BytePairTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    tokenizer_from_dict,
    train_bpe,
)
from tests.test_bpe import replay, train_on_words


@given(st.text(min_size=1))
def test_any_text_it_was_trained_on_comes_back(text):
    tokenizer = CharTokenizer.train(text)
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)
    assert tokenizer.decode(tokens) == text


def test_ids_follow_the_sorted_characters_capitals_and_accents_apart():
    tokenizer = CharTokenizer.train("Héllo W")  # sorted: space, H, W, l, o, é
    assert tokenizer.vocab_size == 6
    assert tokenizer.encode("Héllo W") == [1, 5, 3, 3, 4, 0, 2]


@given(st.text(min_size=1), st.randoms())
def test_the_order_and_number_of_characters_in_the_text_do_not_matter(text, random):
    shuffled = random.sample(text * 2, 2 * len(text))
    assert CharTokenizer.train("".join(shuffled)).encode(text) == CharTokenizer.train(text).encode(text)


def test_nothing_becomes_nothing():
    tokenizer = CharTokenizer.train("ab")
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_a_tensor_of_ids_can_be_decoded():
    assert CharTokenizer.train("ab").decode(torch.tensor([1, 0, 1])) == "bab"


@pytest.mark.parametrize(("unknown", "code"), [("é", "U+00E9"), ("A", "U+0041"), ("😉", "U+1F609"), ("\n", "U+000A")])
def test_an_unknown_character_is_named_with_its_code_and_its_first_position(unknown, code):
    with pytest.raises(ValueError) as error:
        CharTokenizer.train("abc").encode("cab" + unknown + "b" + unknown)
    for words in (repr(unknown), code, "position 3 ", "the 3 that this tokenizer knows", "train a tokenizer"):
        assert words in str(error.value)


@pytest.mark.parametrize("token", [-1, 3, 10**20])
def test_an_unknown_id_is_refused_and_the_range_is_said(token):
    with pytest.raises(ValueError, match=f"^token {token} is not one of 0 to 2$"):
        CharTokenizer.train("abc").decode([0, token])


def test_there_is_nothing_to_learn_from_an_empty_text():
    with pytest.raises(ValueError, match="the text is empty"):
        CharTokenizer.train("")


@given(st.text(min_size=1))
def test_it_survives_a_json_file(text):
    tokenizer = CharTokenizer.train(text)
    again = CharTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "byte pairs", "characters": "ab"}, "expected a tokenizer of kind 'characters'"),
        ({"characters": "ab"}, "expected a tokenizer of kind 'characters'"),
        ([], "expected a tokenizer of kind 'characters'"),
        (None, "expected a tokenizer of kind 'characters'"),
        ("characters", "expected a tokenizer of kind 'characters'"),
        ({"kind": "characters"}, "field 'characters': expected one string"),
        ({"kind": "characters", "characters": 7}, "field 'characters': expected one string"),
        ({"kind": "characters", "characters": ["a", "bc"]}, "field 'characters': expected one string"),
        ({"kind": "characters", "characters": ""}, "expected at least one character"),
        ({"kind": "characters", "characters": "abcb"}, "each only once"),
    ],
)
def test_a_broken_tokenizer_file_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        CharTokenizer.from_dict(fields)


@pytest.mark.parametrize("characters", [["a", "bc"], ["a", ""]])
def test_only_single_characters_make_a_vocabulary(characters):
    with pytest.raises(ValueError, match=r"expected single characters, found '(bc)?'"):
        CharTokenizer(characters)


NASTY = [
    "",
    " ",
    "    four, then  two   three ",
    "\n\n x\t\r\n\r\n",
    "\0 \x07\x1b[0m\x7f\x80",
    "Hello, I'm THE 1st: it's 2024-01-31, isn't it?!",
    "def f(x_1):\n    return {'a': x_1**2}  # ½ x²\n",
    "naïve café Ünïcödé ﬁ ß İ",
    "e\u0301 is not é",
    "漢字とかな交じり文 한국어",
    "مرحبا שלום हिन्दी ไทย",
    "😉👩‍👩‍👧‍👦🏳️‍🌈🇫🇷",
    "\u200b\u200d\ufeff\u00a0\u3000\u2028\u202e",
    "\ufffd \uffff \U0010ffff \ue000",
    "<|end|> <s> </s> <unk> <0x0A> [INST] ▁ a▁ ▁▁b \u2585",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
TEXT = (
    "It is the cause, it is the cause, my soul.\nLet me not name it to you, you chaste stars!\nIt is the cause.\n" * 3
)

WORDS = BytePairTokenizer.train(TEXT, 300)
WHOLE = BytePairTokenizer.train(TEXT, 300, pattern=None, special_tokens=["<s>"])
PIECES = SentencePieceTokenizer.train(TEXT, 300)
PREFIXED = SentencePieceTokenizer.train(TEXT, 300, dummy_prefix=True)
UNIGRAM = SentencePieceTokenizer.train(TEXT, 285, model_type="unigram")

any_text = st.text() | st.text(st.sampled_from("it the cause ▁\n\0é😉<s>"))
learned = pytest.mark.parametrize(
    "tokenizer", [WORDS, WHOLE, PIECES, PREFIXED, UNIGRAM], ids=["words", "whole", "pieces", "prefixed", "unigram"]
)


@learned
@given(any_text)
def test_any_text_comes_back(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert all(type(token) is int and 0 <= token < tokenizer.vocab_size for token in tokens)
    assert tokenizer.decode(tokens) == text


@learned
@pytest.mark.parametrize("text", NASTY)
def test_unusual_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@learned
def test_text_it_has_learned_becomes_shorter_and_comes_back(tokenizer):
    tokens = tokenizer.encode(TEXT)
    assert len(tokens) < len(TEXT) * 0.7
    assert tokenizer.decode(tokens) == TEXT


@learned
@pytest.mark.parametrize("half", ["\ud800", "\udfff"])
def test_half_a_character_is_refused_with_its_place(tokenizer, half):
    for use in (tokenizer.encode, lambda text: tokenizer.train(text, 300)):
        with pytest.raises(ValueError, match=rf"^text: .* \(U\+{ord(half):04X}\) at position 3 is half of a character"):
            use(f"aé {half}")


@learned
@pytest.mark.parametrize("token", [-1, "vocab_size", 10**20])
def test_any_tokenizer_refuses_an_unknown_id(tokenizer, token):
    token = tokenizer.vocab_size if token == "vocab_size" else token
    with pytest.raises(ValueError, match=f"^token {token} is not one of 0 to {tokenizer.vocab_size - 1}$"):
        tokenizer.decode([0, token, 5])
    with pytest.raises(TypeError):
        tokenizer.decode([1.5])


@learned
def test_any_tokenizer_decodes_every_id_tensors_and_nothing(tokenizer):
    assert all(isinstance(tokenizer.decode([token]), str) for token in range(tokenizer.vocab_size))
    assert tokenizer.decode(torch.tensor(tokenizer.encode("it is"))) == "it is"
    assert tokenizer.decode([]) == "" and tokenizer.encode("") == []


@learned
def test_any_tokenizer_survives_a_json_file(tokenizer):
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert type(again) is type(tokenizer) and again.vocab_size == tokenizer.vocab_size
    assert again.to_dict() == tokenizer.to_dict()
    for text in [*NASTY, TEXT]:
        assert again.encode(text) == tokenizer.encode(text)


def test_characters_are_opened_by_their_kind_too():
    assert tokenizer_from_dict(CharTokenizer("abc").to_dict()).encode("cab") == [2, 0, 1]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"kind": "words"}, "'words'"),
        ({"merges": []}, "None"),
        ({"kind": ["characters"]}, r"\['characters'\]"),
        ({}, "None"),
        ([1], r"\[1\]"),
        (None, "None"),
        ("characters", "'characters'"),  # a kind, but not in its place
    ],
)
def test_an_unknown_kind_is_refused_by_name(fields, found):
    with pytest.raises(ValueError, match=f"^kind: {found}, expected one of characters, byte-pairs, .*; use"):
        tokenizer_from_dict(fields)


@given(st.binary())
@pytest.mark.parametrize("tokenizer", [WORDS, WHOLE])
def test_any_bytes_come_back(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(any_text)
def test_the_bytes_of_a_text_have_the_ids_of_the_text(text):
    assert WORDS.encode_bytes(text.encode()) == WORDS.encode(text)


def test_all_bytes_have_an_id_of_their_own():
    assert BytePairTokenizer([]).encode_bytes(bytes(range(256))) == list(range(256))


def test_without_a_pattern_training_is_train_bpe():
    assert WHOLE.merges == train_bpe(TEXT.encode(), 300 - 256 - 1)
    assert WHOLE.encode(TEXT) == replay(TEXT.encode(), WHOLE.merges)


def test_no_merge_reaches_over_the_end_of_a_word():
    content = [WORDS.decode([token]) for token in range(256, WORDS.vocab_size)]
    assert " cause" in content
    assert not [text for text in content if re.search(r"\S\s|,", text[1:])]
    assert WORDS.encode("it is") == [*WORDS.encode("it"), *WORDS.encode(" is")]


def test_the_pattern_is_an_argument_and_is_kept():
    letters = BytePairTokenizer.train("abab abab", 400, pattern=r"\p{L}")
    assert letters.merges == []
    again = BytePairTokenizer.from_dict(letters.to_dict())
    assert again.pattern == r"\p{L}"
    assert BytePairTokenizer.train("abab abab", 257, pattern="[a-z]+").merges == [(97, 98)]


@given(st.text("abcd ", max_size=30), st.integers(256, 300))
def test_each_word_is_merged_as_by_replaying_the_merges(text, vocab_size):
    tokenizer = BytePairTokenizer.train(text, vocab_size)
    words = compile_pattern(tokenizer.pattern).findall(text)
    assert tokenizer.encode(text) == [token for word in words for token in replay(word.encode(), tokenizer.merges)]


def test_training_learns_all_that_there_is_if_more_is_asked_for():
    tokenizer = BytePairTokenizer.train("ab", 1000, special_tokens=["<s>"])
    assert tokenizer.merges == [(97, 98)]
    assert tokenizer.special_ids == {"<s>": 257} and tokenizer.vocab_size == 258
    assert BytePairTokenizer.train("", 300).vocab_size == 256


@pytest.mark.parametrize("vocab_size", [-1, 0, 257, 2**20 + 1])
def test_a_vocabulary_too_small_or_too_large_is_refused(vocab_size):
    with pytest.raises(
        ValueError, match=f"^vocab_size: {vocab_size}, expected 256 bytes, 2 special .*; try vocab_size=514"
    ):
        BytePairTokenizer.train("ab", vocab_size, special_tokens=["<s>", "</s>"])
    assert BytePairTokenizer.train("ab", 258, special_tokens=["<s>", "</s>"]).vocab_size == 258


def test_a_character_split_over_tokens_is_joined_before_it_is_decoded():
    tokenizer = BytePairTokenizer([])
    assert tokenizer.encode("😉") == [0xF0, 0x9F, 0x98, 0x89]
    assert tokenizer.decode([0xF0, 0x9F, 0x98, 0x89]) == "😉"


def test_bytes_that_are_no_character_become_a_replacement_character():
    tokenizer = BytePairTokenizer([])
    assert tokenizer.decode([0xFF]) == "\ufffd"
    assert tokenizer.decode([97, 0xF0, 0x9F, 0x98]) == "a\ufffd"  # a character cut short
    assert tokenizer.decode([0x89, 98]) == "\ufffdb"
    assert tokenizer.decode_bytes([97, 0xF0, 0x9F]) == b"a\xf0\x9f"


def test_a_leading_space_is_kept():
    for tokenizer in (WORDS, WHOLE, PIECES, PREFIXED):
        assert tokenizer.decode(tokenizer.encode(" cause")) == " cause"
        assert tokenizer.decode(tokenizer.encode("cause")) == "cause"


def with_end(**arguments):
    return BytePairTokenizer([(97, 98)], special_tokens=["<|end|>", "<|end|>!", "|"], **arguments)


def test_a_special_token_in_a_users_text_is_text():
    text = "hi <|end|> x"
    assert with_end().encode(text) == list(text.encode())
    assert with_end().encode_bytes(text.encode()) == list(text.encode())


def test_a_special_token_becomes_one_id_in_its_place_when_asked_for():
    tokenizer = with_end()
    assert tokenizer.special_ids == {"<|end|>": 257, "<|end|>!": 258, "|": 259} and tokenizer.vocab_size == 260
    assert tokenizer.encode("b<|end|>a", allow_special=True) == [98, 257, 97]
    assert tokenizer.encode("<|end|><|end|>", allow_special=True) == [257, 257]
    assert tokenizer.encode("no <|end", allow_special=True) == [*b"no <", 259, *b"end"]
    assert tokenizer.decode([98, 257, 97]) == "b<|end|>a"
    assert BytePairTokenizer([]).encode("<s>", allow_special=True) == list(b"<s>")


def test_the_longest_special_token_that_fits_is_taken():
    assert with_end().encode("a<|end|>!|", allow_special=True) == [97, 258, 259]


@pytest.mark.parametrize("pattern", [None, "[a-z|]+"])
def test_nothing_is_merged_across_a_special_token(pattern):
    assert with_end(pattern=pattern).encode("a|b ab", allow_special=True) == [97, 259, 98, 32, 256]


@given(any_text)
def test_special_tokens_come_back_as_their_text(text):
    assert WHOLE.decode(WHOLE.encode(text, allow_special=True)) == text


@pytest.mark.parametrize(
    ("special_tokens", "words"),
    [
        ("<s>", "special_tokens: '<s>', expected a list of texts"),
        ([1], "special_tokens: [1], expected a list of texts"),
        (None, "special_tokens: None, expected a list of texts"),
        (["<s>", ""], "special_tokens[1]: '', expected at least one character"),
        (["<s>", "x", "<s>"], "special_tokens: '<s>' twice, expected each once"),
        (["<s>", "a\ud800"], "special_tokens[1]: '\\ud800' (U+D800) at position 1 is half of a character"),
        (["x"] * 2**20, "special_tokens: 1,048,576, expected at most 1,048,320"),
    ],
)
def test_special_tokens_are_checked(special_tokens, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        BytePairTokenizer([], special_tokens=special_tokens)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "characters"}, "expected a tokenizer of kind 'byte-pairs', found {"),
        ({"merges": [[97, 98], [97, 300]]}, "merges[1]: [97, 300], expected ids that are made before it"),
        ({"merges": [[97, 98], [97]]}, "merges[1]: [97], expected two ids"),
        ({"merges": None}, "merges: None, expected a list of pairs"),
        ({"pattern": "("}, "pattern: '(', expected a regular expression"),
        ({"pattern": 7}, "pattern: 7, expected a regular expression"),
        ({"special_tokens": "<s>"}, "special_tokens: '<s>', expected a list"),
        ({"extra": 1}, "fields: ['kind', 'pattern', 'special_tokens', 'merges', 'extra'], expected ['kind'"),
    ],
)
def test_a_broken_byte_pair_file_is_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        BytePairTokenizer.from_dict(WHOLE.to_dict() | change)


@pytest.mark.parametrize("name", ["pattern", "special_tokens", "merges"])
def test_a_byte_pair_file_without_one_of_its_fields_is_refused(name):
    fields = WHOLE.to_dict()
    del fields[name]
    with pytest.raises(
        ValueError, match=r"^fields: \[.*\], expected \['kind', 'merges', 'pattern', 'special_tokens'\]"
    ):
        BytePairTokenizer.from_dict(fields)


def test_the_memory_for_words_is_bounded_and_changes_no_id(monkeypatch):
    text = " ".join(f"it{i % 7} is{i} cause" for i in range(50)) + " " + "thecause" * 20
    expected = BytePairTokenizer(WORDS.merges).encode(text)
    monkeypatch.setattr(BytePairTokenizer, "cached_words", 5)
    monkeypatch.setattr(BytePairTokenizer, "cached_characters", 6)
    tokenizer = BytePairTokenizer(WORDS.merges)
    for _ in range(3):
        assert tokenizer.encode(text) == expected
        assert 0 < len(tokenizer._cache) <= 5
        assert max(map(len, tokenizer._cache)) <= 6


def test_a_word_that_is_kept_cannot_be_changed_by_the_caller():
    tokens = WORDS.encode("cause")
    tokens.append(7)
    assert WORDS.encode("cause") == tokens[:-1]


def byte_characters():
    """GPT-2's printable character for each byte: its own where it has one, else the next from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def test_ids_are_those_of_the_tokenizers_library():
    library = pytest.importorskip("tokenizers")
    pieces = [byte_characters()[byte] for byte in range(256)]
    merges = []
    for a, b in WORDS.merges:
        merges.append((pieces[a], pieces[b]))
        pieces.append(pieces[a] + pieces[b])
    assert len(set(pieces)) == len(pieces) == WORDS.vocab_size  # it could not tell two ids with the same bytes apart
    theirs = library.Tokenizer(library.models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = library.decoders.ByteLevel()
    for text in [*NASTY, TEXT, TEXT.upper(), TEXT[::-1]]:
        assert WORDS.encode(text) == theirs.encode(text).ids
        assert WORDS.decode(WORDS.encode(text)) == theirs.decode(theirs.encode(text).ids)


def test_merges_are_those_of_the_tokenizers_library_where_no_two_pairs_tie():
    library = pytest.importorskip("tokenizers")
    words = "ca cdd aaac cda da cc ccac abb abdd ccc abbd bd".split()
    times = [18, 31, 58, 54, 63, 84, 44, 21, 24, 57, 64, 7]
    text = "".join(f"{word}\n" * n_times for word, n_times in zip(words, times, strict=True))
    assert train_on_words([word.encode() for word in text.split()], 15)[1] is False  # no ties

    ours = BytePairTokenizer.train(text, 256 + 15, pattern="[a-d]+")
    theirs = library.Tokenizer(library.models.BPE())
    theirs.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.BpeTrainer(vocab_size=4 + 15, show_progress=False)
    theirs.train_from_iterator([text], trainer)
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert len(merges) == 15
    assert [[ours.decode([a]), ours.decode([b])] for a, b in ours.merges] == merges


def test_pieces_are_those_of_the_sentencepiece_library():
    library = sentencepiece.SentencePieceProcessor(model_proto=PIECES.model)
    for text in [*NASTY, TEXT]:
        if "▁" not in text:
            assert PIECES.encode(text) == library.encode(text)
    assert library.encode(" cause, it", out_type=str) == ["▁cause", ",", "▁it"]


def test_a_character_without_a_piece_becomes_its_bytes():
    first = PIECES._library.piece_to_id("<0x00>")
    assert PIECES.encode("é😉\n") == [first + byte for byte in "é😉\n".encode()]
    assert PIECES.decode([first + 0xFF]) == "\ufffd"
    assert PIECES.decode([first + 0xF0, first + 0x9F]) == "\ufffd\ufffd"


@pytest.mark.parametrize("tokenizer", [PIECES, PREFIXED, UNIGRAM])
def test_the_mark_that_stands_for_a_space_comes_back_as_itself(tokenizer):
    every_private = "".join(map(chr, range(0xF0000, 0xF0100)))
    for text in ("▁", "a▁ ▁b", "\U000f0001▁\U000f0000", f"{every_private}▁{every_private}"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_dummy_prefix_makes_the_first_word_like_any_other():
    cause = PREFIXED.encode("cause")
    assert PREFIXED.encode("the cause")[-len(cause) :] == cause
    assert PIECES.encode("the cause")[-1:] == PIECES.encode(" cause") != PIECES.encode("cause")
    # The price: it takes a space from all that it decodes.
    assert PREFIXED.decode(PREFIXED.encode("the")) + PREFIXED.decode(PREFIXED.encode("cause")) == "thecause"
    assert PIECES.decode(PIECES.encode("the")) + PIECES.decode(PIECES.encode(" cause")) == "the cause"


def test_bos_and_eos_are_no_text_and_no_text_becomes_them():
    for tokenizer in (PIECES, PREFIXED, UNIGRAM):
        assert (tokenizer.bos, tokenizer.eos) == (1, 2)
        tokens = tokenizer.encode("<s>hi</s> <unk>")
        assert not {0, 1, 2} & set(tokens)
        assert tokenizer.decode([1, *tokens, 2]) == "<s>hi</s> <unk>"


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_training_is_quiet_and_always_the_same(capfd, model_type):
    models = {SentencePieceTokenizer.train(TEXT, 285, model_type=model_type).model for _ in range(3)}
    assert len(models) == 1
    assert capfd.readouterr() == ("", "")


def test_a_long_line_is_learned_from_too():
    text = "zebra " * 2000  # 12,000 bytes; the library leaves out lines over 4,192 unless told otherwise
    assert SentencePieceTokenizer.train(f"a\n{text}", 270).encode(" zebra") != PIECES.encode(" zebra")
    assert len(SentencePieceTokenizer.train(f"a\n{text}", 270).encode(" zebra")) == 1


def test_every_character_of_the_text_has_a_token_however_rare():
    tokenizer = SentencePieceTokenizer.train("a b " * 3000 + "é", 264)
    assert len(tokenizer.encode("é")) == 1 and len(tokenizer.encode("è")) == 2


def test_digits_stay_single_and_spaces_may_join_as_in_llama():
    tokenizer = SentencePieceTokenizer.train("    2024: 2024\n" * 9, 267)
    assert len(tokenizer.encode("2024")) == 4
    assert len(tokenizer.encode("    ")) < 4


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize(("vocab_size", "limit"), [(100, "at least"), (100_000, "at most")])
def test_a_vocabulary_that_the_text_does_not_allow_is_refused_and_a_possible_one_is_said(vocab_size, limit, model_type):
    with pytest.raises(
        ValueError, match=rf"^vocab_size: {vocab_size}, expected {limit} \d+ for this text; pass"
    ) as error:
        SentencePieceTokenizer.train(TEXT, vocab_size, model_type=model_type)
    possible = int(re.search(r"pass vocab_size=(\d+)", str(error.value))[1])
    assert SentencePieceTokenizer.train(TEXT, possible, model_type=model_type).vocab_size == possible


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", 300), "text: nothing but space"),
        ((" \n\n ", 300), "text: nothing but space"),
        (("ab", 0), "vocab_size: 0, expected 1 to 1,048,576"),
        (("ab", 10**12), "vocab_size: 1000000000000, expected 1 to 1,048,576"),
    ],
)
def test_sentencepiece_cannot_learn_from_nothing(arguments, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        SentencePieceTokenizer.train(*arguments)
    with pytest.raises(ValueError, match="^model_type: 'word', expected 'bpe' or 'unigram'"):
        SentencePieceTokenizer.train("ab", 300, model_type="word")


def test_a_tokenizer_model_file_can_be_opened(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(PIECES.model)
    for path in (tmp_path / "tokenizer.model", str(tmp_path / "tokenizer.model")):
        assert SentencePieceTokenizer.open(path).encode("the cause ▁") == PIECES.encode("the cause ▁")
    with pytest.raises(FileNotFoundError):
        SentencePieceTokenizer.open(tmp_path / "other.model")


GARBAGE = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "web page": b"<!DOCTYPE html><html><body>404: Not Found</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n",
    "cut": PIECES.model[: len(PIECES.model) // 2],
    "one byte short": PIECES.model[:-1],
    "no pieces": b"\x12\x00",
    "no UTF-8": PIECES.model.replace("▁cause".encode(), b"\xe2\x96\x81ca\xffse"),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content, capfd):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: model: {len(content):,} bytes")) as error:
        SentencePieceTokenizer.open(path)
    assert "; use another copy of the file" in str(error.value).splitlines()[0]
    assert capfd.readouterr() == ("", "")


def test_a_file_too_large_to_be_a_model_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sentencepieces, "MAX_MODEL_BYTES", 1000)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(PIECES.model)
    with pytest.raises(ValueError, match=r"1,001 bytes, expected 1 to 1,000"):
        SentencePieceTokenizer.open(path)


@pytest.mark.parametrize("model", [None, 7, "not base64!", "é", "YWJj", "", ["YWJj"]])
def test_a_broken_sentencepiece_field_is_refused(model):
    with pytest.raises(ValueError, match=r"^model: .*, expected .*; use another copy of the file"):
        SentencePieceTokenizer.from_dict({"kind": "sentencepiece", "model": model})
    with pytest.raises(ValueError, match="^expected a tokenizer of kind 'sentencepiece', found"):
        SentencePieceTokenizer.from_dict({"kind": "characters", "model": "YWJj"})


def test_base64_with_something_else_in_it_is_refused():
    fields = PIECES.to_dict()
    fields["model"] = fields["model"][:100] + "!" + fields["model"][100:]
    with pytest.raises(ValueError, match=r"^model: .*, expected text in base64; use another copy"):
        SentencePieceTokenizer.from_dict(fields)


@pytest.mark.parametrize("tokenizer", [WHOLE, PIECES])
def test_a_copy_is_the_same_tokenizer(tokenizer):
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode(TEXT) == tokenizer.encode(TEXT)
