import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.tokenizer import CharTokenizer


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
