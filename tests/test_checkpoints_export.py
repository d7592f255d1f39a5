"""What is exported says elsewhere what it says here: opened by Transformers, run by llama.cpp, opened again by us."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minillama import cli
from minillama.assets import shipped_model
from minillama.attention import Attention
from minillama.block import Parts, PostNormBlock
from minillama.checkpoints import load
from minillama.checkpoints.export import export
from minillama.config import Config
from minillama.feedforward import SwiGLU
from minillama.generate import generate
from minillama.llama import Llama
from minillama.merging import ALPHABET, ByteLevelTokenizer
from minillama.norm import LayerNorm
from minillama.position import NoPositions
from minillama.tokenizer import BytePairTokenizer, CharTokenizer, SentencePieceTokenizer
from tests import llama_cpp
from tests.tiny_checkpoints import VARIANTS, difference, random_model, tokens

transformers = pytest.importorskip("transformers")
SHARED = Path(__file__).parents[2] / "shared" / "data"
TEXT = "To be, or not to be: that is the question.\n\nWhether 'tis nobler in the mind to suffer 12 slings.\n" * 3
NASTY = [
    "", " ", "  two  spaces ", "\n\n\t x\r\n", "It's we'll I'M 1234567 ½ ² x²", "äöü ß é é", "日本語の文章。",
    "😀👩‍👩‍👧 🏳️‍🌈",
    "مرحبا ٣", "def f(x):\n    return x**2  # ok", "<s></s><unk><0x41>", "▁a ▁", "\x00\x7f", "a" * 70, "...!!!???", "Ⅷ",
]  # fmt: skip


@pytest.fixture(scope="module")
def shakespeare():
    return load(shipped_model())


def loud(parts=Parts(), **changes) -> Llama:  # noqa: B008
    """A model whose norms and biases are random too."""
    sizes = dict(vocab_size=61, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, max_len=128, norm_eps=1e-3)
    model = Llama(Config(**(sizes | changes)), parts)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim == 2 else 1.0)
    return model.eval()


# --- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_opens_every_variant_without_a_missing_or_unexpected_key(variant, tmp_path):
    theirs = random_model(variant)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    export(loaded.model, None, tmp_path / "ours", stop_tokens=[2, 5])
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.generation_config.eos_token_id == [2, 5]
    assert difference(loaded.model, again) <= 1e-5
    back = load(tmp_path / "ours")
    assert back.config == replace(loaded.config, max_len=back.config.max_len) and back.stop_tokens == (2, 5)
    assert difference(back.model, theirs) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_folder_holds_the_dtype_that_was_asked_for(dtype, tmp_path):
    export(loud(), None, tmp_path / "out", dtype=dtype)
    assert load(tmp_path / "out").model.lm_head.weight.dtype == dtype
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == dtype


def test_a_model_trained_here_says_in_transformers_what_it_says_here(shakespeare, tmp_path):
    export(shakespeare.model, shakespeare.tokenizer, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = "ROMEO:\nBut, soft! what light"
    given = tokenizer(prompt, return_tensors="pt")
    ids = given.input_ids
    assert ids[0].tolist() == shakespeare.tokenizer.encode(prompt)
    said = theirs.generate(ids, attention_mask=given.attention_mask, max_new_tokens=64, do_sample=False)
    ours = generate(shakespeare.model, ids, 64, temperature=0)
    assert tokenizer.decode(said[0]) == shakespeare.tokenizer.decode(ours[0].tolist())


def trained_sentence_pieces(prefix: bool) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(TEXT, 310, dummy_prefix=prefix)


TOKENIZERS = {
    "characters": lambda: CharTokenizer.train(TEXT),
    "byte pairs": lambda: BytePairTokenizer.train(TEXT, 300),
    "byte pairs, one word": lambda: BytePairTokenizer.train(TEXT, 300, pattern=None),
    "byte pairs, special": lambda: BytePairTokenizer.train(TEXT, 300, special_tokens=["<end>"]),
    "bytes": lambda: BytePairTokenizer([]),
    "sentence pieces": lambda: trained_sentence_pieces(False),
    "sentence pieces, prefix": lambda: trained_sentence_pieces(True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_made_here_gives_the_same_ids_in_transformers(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    export(loud(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ != "NoneType" and theirs.vocab_size <= tokenizer.vocab_size
    texts = [TEXT] if name == "characters" else [TEXT, *NASTY]
    for text in texts:
        if "sentence" in name and ("<" in text or "▁" in text):
            continue  # Transformers takes control tokens out of any text, and ▁ for a space
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids, text
        if "▁" not in text and "\x00" not in text:
            assert theirs.decode(ids) == tokenizer.decode(ids), text


@pytest.mark.parametrize(
    ("name", "format"),
    [(name, "huggingface") for name in TOKENIZERS]
    + [(name, "gguf") for name in TOKENIZERS if name != "byte pairs, one word"],  # which is refused: see below
)
def test_a_tokenizer_made_here_comes_back_with_the_same_ids(name, format, tmp_path):
    tokenizer = TOKENIZERS[name]()
    model = loud(vocab_size=tokenizer.vocab_size)
    again = load(export(model, tokenizer, tmp_path / "out", format))
    assert again.tokenizer is not None, again.no_tokenizer
    assert again.tokenizer.vocab_size == tokenizer.vocab_size
    texts = [TEXT] if name == "characters" else [TEXT, *(text for text in NASTY if "▁" not in text)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert again.tokenizer.encode(text) == ids and again.tokenizer.decode(ids) == text
    once_more = load(export(model, again.tokenizer, tmp_path / "once-more", format))
    assert once_more.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)


@pytest.mark.parametrize("format", ["huggingface", "gguf"])
def test_odd_characters_come_back(format, tmp_path):
    text = "\\x41 a\\n b'\"\té日😀\x7f▁\x00\n"
    tokenizer = CharTokenizer.train(text)
    again = load(export(loud(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "out", format)).tokenizer
    assert again.characters == tokenizer.characters and again.decode(again.encode(text)) == text
    with pytest.raises(ValueError, match=r"character 'z' .* is not among"):
        again.encode("z")


def test_the_token_for_an_unknown_byte_travels(tmp_path):
    vocabulary = ["<unk>", *ALPHABET[1:]]
    tokenizer = ByteLevelTokenizer(vocabulary, [], special_ids={"<unk>": 0}, unknown=0)
    export(loud(vocab_size=256), tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    again = load(tmp_path / "out").tokenizer
    for text in ("a\x00b", "\x00\x00"):
        ids = tokenizer.encode(text)
        assert 0 in ids and again.encode(text) == theirs.encode(text, add_special_tokens=False) == ids


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("model.vocab", {"b": 0, "a": 1}, "model.vocab: 'a' after 'b', expected single characters in order"),
        ("model.vocab", {"ab": 0}, "model.vocab: 'ab'"), ("model.unk_token", "a", "model.unk_token: 'a'"),
        ("normalizer", {"type": "Lowercase"}, "normalizer: .*Lowercase.*, expected none"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer: .*Whitespace"),
        ("post_processor", {"type": "ByteLevel"}, "post_processor: "),
        ("added_tokens", [{"id": 3, "content": "<s>"}], "added_tokens: .*expected none"),
    ],
)  # fmt: skip
def test_single_characters_with_something_else_are_refused(place, value, named, tmp_path):
    tokenizer = CharTokenizer("abc")
    path = export(loud(vocab_size=3), tokenizer, tmp_path / "out")
    content = json.loads((path / "tokenizer.json").read_text())
    field, _, inner = place.partition(".")
    if inner:
        content[field][inner] = value
    else:
        content[field] = value
    (path / "tokenizer.json").write_text(json.dumps(content))
    again = load(path)
    assert again.tokenizer is None and again.no_tokenizer.startswith(str(path / "tokenizer.json"))
    assert re.search(named, again.no_tokenizer), again.no_tokenizer


# --- llama.cpp ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libraries(request) -> Path:
    found = llama_cpp.fetch(request.config.cache.mkdir("llama.cpp"))  # .pytest_cache/d/llama.cpp
    if found is None:
        pytest.skip(f"needs npm on Linux, and its package {llama_cpp.PACKAGE}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_every_variant(variant, libraries, tmp_path):
    # 32 numbers per head or more: llama.cpp works in blocks
    random_model(variant, hidden_size=96, head_dim=16).save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    export(loaded.model, None, tmp_path / "model.gguf", "gguf")
    x = tokens()[:1, :60]
    found = torch.tensor(llama_cpp.ask(libraries, tmp_path / "model.gguf", tokens=x[0].tolist()))
    with torch.no_grad():
        difference = (found - loaded.model(x)[0]).abs().max().item()
    print(f"{variant}: {difference:.1e}")
    assert difference <= 1e-4


@pytest.mark.slow
def test_a_model_trained_here_says_in_llama_cpp_what_it_says_here(shakespeare, libraries, tmp_path):
    path = export(shakespeare.model, shakespeare.tokenizer, tmp_path / "model.gguf", "gguf")
    prompt = "ROMEO:\nBut, soft! what light 3 $ & through"
    ids = llama_cpp.ask(libraries, path, text=prompt)
    assert ids == shakespeare.tokenizer.encode(prompt)
    said = llama_cpp.ask(libraries, path, tokens=ids, greedy=100)
    ours = generate(shakespeare.model, torch.tensor([ids]), 100, temperature=0)[0, len(ids) :].tolist()
    assert llama_cpp.ask(libraries, path, ids=said) == shakespeare.tokenizer.decode(ours)
    everything = "".join(shakespeare.tokenizer.characters)
    assert llama_cpp.ask(libraries, path, text=everything) == shakespeare.tokenizer.encode(everything)
    assert llama_cpp.ask(libraries, path, ids=list(range(65))) == everything


@pytest.mark.slow
def test_odd_characters_are_the_same_tokens_in_llama_cpp(libraries, tmp_path):
    text = "\\x41 a\\n b'\"\té日😀\x7f▁"
    tokenizer = CharTokenizer.train(text)
    path = export(loud(vocab_size=tokenizer.vocab_size, d_model=96), tokenizer, tmp_path / "model.gguf", "gguf")
    assert llama_cpp.ask(libraries, path, text=text) == tokenizer.encode(text)
    assert llama_cpp.ask(libraries, path, ids=tokenizer.encode(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name not in ("characters", "byte pairs, one word")])
def test_a_tokenizer_made_here_gives_the_same_ids_in_llama_cpp(name, libraries, tmp_path):
    tokenizer = TOKENIZERS[name]()
    path = export(loud(vocab_size=tokenizer.vocab_size, d_model=96), tokenizer, tmp_path / "model.gguf", "gguf")
    for text in [TEXT, *NASTY]:
        if text and "\x00" not in text and not ("sentence" in name and "▁" in text):
            assert llama_cpp.ask(libraries, path, text=text) == tokenizer.encode(text), text
    assert llama_cpp.ask(libraries, path, ids=tokenizer.encode(TEXT)).strip() == TEXT.strip()
    if name == "byte pairs, special":
        asked = llama_cpp.ask(libraries, path, text="be<end>to", special=True)
        assert asked == tokenizer.encode("be<end>to", allow_special=True)


# --- GGUF, opened by ourselves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gguf_of_ours_comes_back(variant, tmp_path):
    theirs = random_model(variant)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    again = load(export(loaded.model, None, tmp_path / "model.gguf", "gguf"))
    assert again.config == loaded.config
    assert difference(again.model, theirs) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gguf_holds_the_dtype_that_was_asked_for_and_norms_in_float32(dtype, tmp_path):
    model = loud()
    path = export(model, None, tmp_path / "model.gguf", "gguf", dtype=dtype)
    again = load(path)
    assert again.model.lm_head.weight.dtype == dtype
    assert torch.equal(again.model.lm_head.weight, model.lm_head.weight.to(dtype))
    assert torch.equal(load(path, dtype=torch.float32).model.norm.weight, model.norm.weight)


def test_template_and_stop_tokens_travel(tmp_path):
    tokenizer = BytePairTokenizer.train(TEXT, 300, special_tokens=["<|im_end|>"])
    model = loud(vocab_size=tokenizer.vocab_size)
    for name, format in (("out", "huggingface"), ("out.gguf", "gguf")):
        path = export(model, tokenizer, tmp_path / name, format, chat_template="{{x}}", stop_tokens=(299,))
        again = load(path)
        assert (again.chat_template, again.stop_tokens) == ("{{x}}", (299,))


def test_a_tokenizer_with_more_tokens_than_the_model_is_not_its_own(tmp_path):
    tokenizer = BytePairTokenizer.train(TEXT, 300)
    export(loud(vocab_size=300), tokenizer, tmp_path / "large")
    export(loud(), None, tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_bytes((tmp_path / "large" / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match="tokenizer 300 tokens, model 61; not a pair"):
        load(tmp_path / "small")


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["huggingface", "gguf"])
def test_nothing_that_is_there_is_overwritten(format, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(ValueError, match="there is something already"):
            export(loud(), None, path, format)
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "parts",
    [
        Parts(norm=LayerNorm), Parts(block=PostNormBlock), Parts(position=NoPositions),
    ],
)  # fmt: skip
def test_models_that_are_no_llama_are_not_exported(parts, tmp_path):
    with pytest.raises(ValueError, match="other programs know only LLaMA's"):
        export(loud(parts), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_that_compute_the_same_are_exported(tmp_path):
    attention = partial(Attention, attend=F.scaled_dot_product_attention, bias=True)
    model = loud(Parts(attention=attention, feedforward=partial(SwiGLU, bias=True)))
    export(model, None, tmp_path / "out")
    assert difference(model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")) <= 1e-5


def test_what_a_format_has_no_words_for_is_refused(tmp_path):
    two = BytePairTokenizer([(97, 98), (256, 99), (98, 99), (97, 258)])  # abc twice
    for tokenizer, format, words in (
        (BytePairTokenizer([(97, 98)], pattern="x+"), "huggingface", "pattern"),
        (BytePairTokenizer([(97, 98)], pattern=None), "gguf", "llama.cpp has no name"),
        (two, "huggingface", "'abc'"),
        (SentencePieceTokenizer.train(TEXT, 290, model_type="unigram"), "gguf", "unigram"),
        (CharTokenizer.train("abc" * 10 + "".join(map(chr, range(500, 900)))), "gguf", "not a pair"),
        ("no tokenizer", "gguf", "expected one of this package's"),
    ):
        model = loud(vocab_size=320)
        if isinstance(tokenizer, str):
            tokenizer = type("Odd", (), {"vocab_size": 3})()
        with pytest.raises(ValueError, match=words):
            export(model, tokenizer, tmp_path / "out", format)
    with pytest.raises(ValueError, match="format='onnx'"):
        export(loud(), None, tmp_path / "out", "onnx")
    with pytest.raises(ValueError, match=r"dtype=torch\.float64"):
        export(loud(), None, tmp_path / "out", dtype=torch.float64)
    assert list(tmp_path.iterdir()) == []


def test_rope_is_spelt_as_old_and_new_versions_of_transformers_know_it(tmp_path):
    theirs = random_model("llama-3.1")
    theirs.save_pretrained(tmp_path / "theirs")
    export(load(tmp_path / "theirs").model, None, tmp_path / "ours")
    fields = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert fields["rope_theta"] == 5000.0 and fields["rope_scaling"]["rope_type"] == "llama3"


# --- The command line -----------------------------------------------------------------------------------------------


def test_export_and_info_on_the_command_line(tmp_path, capsys):
    ours, folder, file = str(shipped_model()), tmp_path / "out", tmp_path / "model.gguf"
    assert cli.main(["export", ours, str(folder)]) == 0
    said = capsys.readouterr().out
    assert "model.safetensors, tokenizer.json" in said and f"; made from {ours}\n" in said
    assert cli.main(["export", str(folder), str(file), "--dtype", "float16"]) == 0
    assert load(file).model.lm_head.weight.dtype == torch.float16
    assert load(file).tokenizer.characters == load(ours).tokenizer.characters
    capsys.readouterr()
    for path, format, dtype in ((folder, "huggingface", "float32"), (file, "gguf", "float16")):
        assert cli.main(["info", str(path), "--length", "100"]) == 0
        said = capsys.readouterr().out
        assert (
            said.startswith(f"{path}: {format}\n")
            and f" in {dtype}\n" in said
            and "fits here                yes" in said
        )
    assert cli.main(["export", ours, str(folder)]) == 1
    assert "there is something already" in capsys.readouterr().err


def test_info_says_what_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr("minillama.devices.free_memory", lambda device: 10_000_000_000)
    assert cli.main(["info", "llama-2-7b", "--device", "cpu"]) == 0
    assert "no: 15.6 GB of weights and cache, 10 GB free on cpu; try a smaller --length\n" in capsys.readouterr().out
    assert cli.main(["info", "llama-2-7b", "--dtype", "float32", "--device", "cpu"]) == 0
    assert "or --dtype bfloat16" in capsys.readouterr().out


def test_info_reads_headers_only_and_refuses_by_name(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
    assert cli.main(["info", str(tmp_path)]) == 1
    assert "model_type='gemma'" in capsys.readouterr().err
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert cli.main(["info", str(tmp_path / "model.gguf")]) == 1
    assert "4 bytes, expected a GGUF file" in capsys.readouterr().err
