"""Tokenizers from the files and fields in which real models bring theirs. What is not understood is refused by name."""

import base64
import binascii
import re
import reprlib
import struct
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minillama.bpe import MAX_VOCAB_SIZE
from minillama.checkpoints.opened import read_fields
from minillama.merging import ALPHABET, GPT2, ByteLevelTokenizer, PieceTokenizer, spell
from minillama.sentencepieces import MAX_MODEL_BYTES, SentencePieceTokenizer
from minillama.tokenizer import CharTokenizer

RealTokenizer = ByteLevelTokenizer | PieceTokenizer | SentencePieceTokenizer | CharTokenizer

DIGIT, DIGITS = r"\p{N}", r"\p{N}+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The first of 256 tokens that follow those in LLaMA 3's tokenizer.model; Meta's llama3/tokenizer.py lists them.
LLAMA3_SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
]  # fmt: skip
PRE_TOKENIZERS = {  # tokenizer.ggml.pre -> patterns, whole_words
    "gpt-2": ([GPT2], False),
    "smollm": ([DIGIT, GPT2], False),
    "llama-bpe": ([LLAMA3], True),
    "llama3": ([LLAMA3], True),
    "llama-v3": ([LLAMA3], True),
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type

MARK = re.compile(r"<\|.*\|>", re.DOTALL)  # ends a turn, and the like: special, also where a file forgot to say so
ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")  # a byte, as `vocabulary.escape` writes it
ANY = object()  # a value that changes no ids


def from_folder(folder: str | Path) -> RealTokenizer | None:
    """The tokenizer of a checkpoint's folder: tokenizer.json, or else tokenizer.model; None if there is neither.

    tokenizer_config.json says what begins and ends a text.
    Errors: ValueError that names the file and what in it is not understood.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return from_json(folder / "tokenizer.json")
    path = folder / "tokenizer.model"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        first = file.read(200).split(b"\n")[0].split()
    if len(first) == 2 and first[1].isdigit():
        return from_tiktoken(path)
    tokenizer, added = SentencePieceTokenizer.open(path), folder / "added_tokens.json"
    if added.is_file() and any(i >= tokenizer.vocab_size for i in read_fields(added).values()):
        raise ValueError(f"{added}: tokens that tokenizer.model does not have; use a folder with tokenizer.json")
    return tokenizer


def from_tiktoken(path: str | Path) -> ByteLevelTokenizer:
    """LLaMA 3's own tokenizer.model: a line `base64 rank` for each token, and 256 special tokens that it does not name.

    Errors: ValueError that names the file and the line.
    """
    path, vocabulary = Path(path), []
    for number, line in enumerate(_read(path).splitlines()):
        try:
            token, rank = line.split()
            vocabulary.append(spell(base64.b64decode(token, validate=True)))
            if int(rank) != number:
                raise ValueError(f"rank {int(rank)}, expected {number}")
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{path}: line {number + 1}: {reprlib.repr(line)}, expected a token in base64 and its rank ({error}); "
                f"use another copy of the file"
            ) from None
    special_ids = {text: len(vocabulary) + i for i, text in enumerate(LLAMA3_SPECIAL)}
    with _named(path):
        return ByteLevelTokenizer(
            vocabulary + LLAMA3_SPECIAL, None, patterns=[LLAMA3], special_ids=special_ids, whole_words=True,
            bos=special_ids["<|begin_of_text|>"], eos=special_ids["<|end_of_text|>"], add_bos=True,
        )  # fmt: skip


def from_gguf(metadata: Mapping[str, Any]) -> ByteLevelTokenizer | PieceTokenizer | CharTokenizer:
    """The tokenizer in a GGUF file's metadata: byte-level BPE ("gpt2") or SentencePiece's ("llama").

    Of "rwkv", only what `export` makes of it: a token per character, or per byte.

    Errors: ValueError that names the field.
    """
    fields = {name.removeprefix("tokenizer.ggml."): value for name, value in metadata.items()}
    tokens, kind = fields.get("tokens"), fields.get("model")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"tokenizer.ggml.tokens: {reprlib.repr(tokens)}, expected a list of texts")
    types = fields.get("token_type", [NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type: expected a number for each of {len(tokens):,} tokens")
    types = [
        CONTROL if kind == USER_DEFINED and MARK.fullmatch(text) else kind
        for text, kind in zip(tokens, types, strict=True)
    ]
    bos, eos = (_id(fields, name, len(tokens)) for name in ("bos_token_id", "eos_token_id"))
    special_ids = {text: i for i, text in enumerate(tokens) if types[i] in (UNKNOWN, CONTROL, USER_DEFINED)}
    common: dict[str, Any] = dict(
        special_ids=special_ids, always=[text for text, i in special_ids.items() if types[i] == USER_DEFINED],
        bos=bos, eos=eos,
    )  # fmt: skip
    if kind == "gpt2":
        pre = fields.get("pre", "gpt-2")
        if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            raise ValueError(f"tokenizer.ggml.pre: {reprlib.repr(pre)}, expected one of {known}; take another file")
        patterns, whole_words = PRE_TOKENIZERS[pre]
        return ByteLevelTokenizer(
            tokens, _merges(fields.get("merges"), "tokenizer.ggml.merges"), patterns=patterns, whole_words=whole_words,
            add_bos=bool(fields.get("add_bos_token", whole_words)), **common,
        )  # fmt: skip
    if kind == "llama":
        numbers = {text: i for i, text in enumerate(tokens) if types[i] == BYTE}
        return PieceTokenizer(
            tokens, _byte_ids(numbers), scores=fields.get("scores"),
            hidden=[i for i in range(len(tokens)) if types[i] == UNUSED],
            prefix=bool(fields.get("add_space_prefix", True)), add_bos=bool(fields.get("add_bos_token", True)),
            **common,
        )  # fmt: skip
    if kind == "rwkv" and not special_ids:
        escaped = [token.encode("utf-8", "surrogateescape") for token in tokens]
        data = [ESCAPED.sub(lambda byte: bytes([int(byte[1], 16)]), token) for token in escaped]
        if data == [bytes([byte]) for byte in range(256)]:
            return ByteLevelTokenizer(ALPHABET, [])
        return _characters([token.decode("utf-8", "backslashreplace") for token in data], "tokenizer.ggml.tokens")
    raise ValueError(f"tokenizer.ggml.model: {reprlib.repr(kind)}, expected 'gpt2' or 'llama'; take another file")


def from_llama2c(path: str | Path) -> PieceTokenizer:
    """llama2.c's tokenizer.bin: the longest token's length, then score, length and bytes of each token.

    Encodes as run.c does; a model that SentencePiece trained to drop double spaces would drop them, run.c does not.
    Errors: ValueError that names the file and the token.
    """
    path = Path(path)
    data, pieces, scores = _read(path), [], []
    at = 4
    while at < len(data):
        try:
            score, length = struct.unpack_from("<fi", data, at)
            at += 8 + length
            if not 0 < length <= len(data) or at > len(data):
                raise ValueError(f"{length:,} bytes long")
            pieces.append(data[at - length : at].decode("utf-8"))
            scores.append(score)
        except (struct.error, ValueError) as error:
            raise ValueError(
                f"{path}: token {len(pieces)} of {len(data):,} bytes: {error}, expected score, length and UTF-8; "
                f"use another copy of the file"
            ) from None
        if len(pieces) > MAX_VOCAB_SIZE:
            raise ValueError(f"{path}: more than {MAX_VOCAB_SIZE:,} tokens; use another file")
    with _named(path):
        if len(pieces) < 259:
            raise ValueError(f"{len(pieces)} tokens, expected <unk>, <s>, </s>, 256 bytes and more; use another file")
        pieces[1:3] = "<s>", "</s>"
        return PieceTokenizer(
            pieces, _byte_ids({text: i for i, text in enumerate(pieces[:259])}), scores=scores,
            special_ids={text: i for i, text in enumerate(pieces[:3])}, space=" ", bos=1, eos=2,
        )  # fmt: skip


def from_json(path: str | Path) -> ByteLevelTokenizer | PieceTokenizer | CharTokenizer:
    """Hugging Face's tokenizer.json, of byte-level BPE, of LLaMA 2's BPE with byte fallback, or of characters alone.

    Errors: ValueError that names the file and the field that is not understood: no field is ignored.
    """
    path = Path(path)
    with _named(path):
        content = _check("the file", read_fields(path), {
            "version": ("1.0",), "truncation": (None,), "padding": (None,), "added_tokens": ANY, "normalizer": ANY,
            "pre_tokenizer": ANY, "post_processor": ANY, "decoder": ANY, "model": ANY,
        })  # fmt: skip
        model = _check("model", content.get("model"), {
            "type": ("BPE",), "dropout": (None, 0.0), "continuing_subword_prefix": (None, ""),
            "end_of_word_suffix": (None, ""), "unk_token": ANY, "fuse_unk": ANY, "byte_fallback": (True, False),
            "ignore_merges": (True, False), "vocab": ANY, "merges": ANY,
        })  # fmt: skip
        vocabulary, special_ids, always = _vocabulary(model.get("vocab"), content.get("added_tokens", []))
        merges = _merges(model.get("merges"), "model.merges")
        common: dict[str, Any] = dict(special_ids=special_ids, always=always)
        common |= _ends(path.with_name("tokenizer_config.json"), special_ids, content.get("post_processor"))
        if model.get("byte_fallback"):
            return _pieces(content, model, vocabulary, merges, common)
        if not merges and content.get("decoder") == {"type": "Fuse"}:
            for where in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
                if content.get(where):
                    raise ValueError(f"{where}: {reprlib.repr(content[where])}, expected none beside single characters")
            _check("model", {"unk_token": model.get("unk_token")}, {"unk_token": (None,)})
            return _characters(vocabulary, "model.vocab")
        return _byte_level(content, model, vocabulary, merges, common)


def _byte_level(content: dict, model: dict, vocabulary: list[str], merges: list, common: dict) -> ByteLevelTokenizer:
    normalizer, decoder, patterns = content.get("normalizer"), content.get("decoder"), []
    if normalizer is not None:
        _check("normalizer", normalizer, {"type": ("NFC",)})
    *steps, last = _steps(content, "pre_tokenizer", "pretokenizers") or [("pre_tokenizer", {"type": None})]
    for where, step in steps:
        if step.get("type") == "Digits":
            _check(where, step, {"type": ANY, "individual_digits": (True, False)})
            patterns.append(DIGIT if step.get("individual_digits") else DIGITS)
        else:
            _check(where, step, {"type": ("Split",), "pattern": ANY, "behavior": ("Isolated",), "invert": (False,)})
            patterns.append(_check(f"{where}.pattern", step.get("pattern"), {"Regex": ANY}).get("Regex"))
    where, step = last
    byte_level = {"type": ("ByteLevel",), "add_prefix_space": (False,), "trim_offsets": ANY, "use_regex": (True, False)}
    _check(where, step, byte_level)
    if step.get("use_regex", True):
        patterns.append(GPT2)
    if decoder is not None:
        _check("decoder", decoder, byte_level | {"add_prefix_space": ANY})
    unknown = model.get("unk_token")
    if unknown is not None and (unknown not in vocabulary or model.get("fuse_unk")):
        raise ValueError(f"model.unk_token: {unknown!r}, expected a token of the vocabulary, and fuse_unk false")
    return ByteLevelTokenizer(
        vocabulary, merges, patterns=patterns, whole_words=bool(model.get("ignore_merges")), nfc=normalizer is not None,
        unknown=None if unknown is None else vocabulary.index(unknown), **common,
    )  # fmt: skip


def _pieces(content: dict, model: dict, vocabulary: list[str], merges: list, common: dict) -> PieceTokenizer:
    steps = _steps(content, "normalizer", "normalizers")
    kinds = [step.get("type") for _, step in steps]
    if kinds not in (["Prepend", "Replace"], ["Replace"]) or content.get("pre_tokenizer") is not None:
        raise ValueError(
            f"normalizer: {reprlib.repr(content.get('normalizer'))}, pre_tokenizer: "
            f"{reprlib.repr(content.get('pre_tokenizer'))}, expected LLaMA 2's: Prepend (or not) and "
            f"Replace, and no other; remove tokenizer.json where there is a tokenizer.model, which is read instead"
        )
    for where, step in steps:
        _check(where, step, {"type": ANY, "prepend": ("▁",), "pattern": ({"String": " "},), "content": ("▁",)})
    if model.get("ignore_merges"):
        raise ValueError("model.ignore_merges: true, expected false beside byte_fallback")
    numbers = {text: i for i, text in enumerate(vocabulary) if text.startswith("<0x")}
    return PieceTokenizer(vocabulary, _byte_ids(numbers), merges=merges, prefix=len(steps) == 2, **common)


def _characters(texts: list[str], where: str) -> CharTokenizer:
    """The tokenizer of a file that `export` made of characters; another one has them in another order."""
    for before, text in zip(["", *texts], texts, strict=False):
        if len(text) != 1 or text <= before:
            raise ValueError(f"{where}: {reprlib.repr(text)} after {before!r}, expected single characters in order")
    return CharTokenizer(texts)


def _vocabulary(vocab: Any, added: Any) -> tuple[list[str], dict[str, int], list[str]]:
    """-> the text of each id, the ids of special tokens, and those that are never text."""
    if not isinstance(vocab, dict) or not isinstance(added, list):
        raise ValueError("model.vocab, added_tokens: expected an object and a list")
    texts: dict[int, str] = {}
    special_ids, always = {}, []
    for text, i in vocab.items():
        if type(i) is not int or texts.setdefault(i, text) != text:
            raise ValueError(f"model.vocab: {text!r} has the id {reprlib.repr(i)}, expected a number of its own")
    for n, token in enumerate(added):
        where = f"added_tokens[{n}]"
        token = _check(where, token, {
            "id": ANY, "content": ANY, "special": (True, False), "normalized": ANY, "single_word": (False,),
            "lstrip": (False,), "rstrip": (False,),
        })  # fmt: skip
        i, text = token.get("id"), token.get("content")
        if type(i) is not int or not isinstance(text, str) or not text or texts.setdefault(i, text) != text:
            raise ValueError(f"{where}: id {reprlib.repr(i)} for {reprlib.repr(text)}, expected an id of its own")
        special_ids[text] = i
        if not token.get("special") and not MARK.fullmatch(text):
            always.append(text)
    missing = next((i for i in range(len(texts)) if i not in texts), None)
    if missing is not None:
        raise ValueError(f"model.vocab: no token has the id {missing}, expected all from 0 to {len(texts) - 1}")
    return [texts[i] for i in range(len(texts))], special_ids, always


def _ends(path: Path, special_ids: dict[str, int], post_processor: Any) -> dict[str, Any]:
    """What begins and ends a text: bos and eos from tokenizer_config.json, add_bos from there or the post-processor."""
    begins = _added_before(post_processor)
    config = read_fields(path) if path.is_file() else {}
    ends = {}
    for name in ("bos", "eos"):
        token = config.get(f"{name}_token")
        ends[name] = special_ids.get(str(token["content"] if isinstance(token, dict) else token))
    if ends["bos"] is None and begins:
        ends["bos"] = special_ids.get(begins[0])
    return ends | {"add_bos": bool(config.get("add_bos_token") or begins)}


def _added_before(post_processor: Any) -> list[str]:
    """The special tokens that a post-processor puts before a text."""
    begins = []
    for where, step in _steps({"post_processor": post_processor}, "post_processor", "processors"):
        if step.get("type") == "ByteLevel":
            continue  # changes offsets only
        _check(where, step, {"type": ("TemplateProcessing",), "single": ANY, "pair": ANY, "special_tokens": ANY})
        kinds = [next(iter(part.items())) for part in step["single"]]
        if [kind for kind, _ in kinds] not in (["Sequence"], ["SpecialToken", "Sequence"]):
            found = reprlib.repr(step["single"])
            raise ValueError(f"{where}.single: {found}, expected one token before the text, or none")
        begins += [fields["id"] for kind, fields in kinds if kind == "SpecialToken"]
    return begins


def _steps(content: dict, name: str, parts: str) -> list[tuple[str, dict]]:
    """The steps of a field that may be one, or a Sequence of several, or null. -> (where, step)"""
    field = content.get(name)
    if field is None:
        return []
    if isinstance(field, dict) and field.get("type") == "Sequence":
        steps = [(f"{name}.{parts}[{i}]", step) for i, step in enumerate(field.get(parts) or [])]
    else:
        steps = [(name, field)]
    for where, step in steps:
        if not isinstance(step, dict):
            raise ValueError(f"{where}: {reprlib.repr(step)}, expected an object with a type")
    return steps


def _check(where: str, found: Any, expected: Mapping[str, Any]) -> dict:
    """Refuse every field that is not among those expected, and every value that is none of those allowed for it."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {reprlib.repr(found)}, expected an object with {', '.join(expected)}")
    for name, value in found.items():
        if name not in expected:
            raise ValueError(f"{where}.{name}: {reprlib.repr(value)} is not understood, expected {', '.join(expected)}")
        allowed = expected[name]
        if allowed is not ANY and value not in allowed:
            options = " or ".join(map(repr, allowed))
            raise ValueError(f"{where}.{name}: {reprlib.repr(value)} is not understood, expected {options}")
    return found


def _merges(merges: Any, where: str) -> list[list[str]]:
    """Merges as pairs; they are written as "a b" or as ["a", "b"]."""
    if not isinstance(merges, list):
        raise ValueError(f"{where}: {reprlib.repr(merges)}, expected a list")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(f"{where}[{i}]: {reprlib.repr(merges[i])}, expected two texts")
    return pairs


def _byte_ids(numbers: Mapping[str, int]) -> list[int]:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise ValueError(f"token {missing}: missing, expected one for each of the 256 bytes")
    return [numbers[name] for name in names]


def _id(fields: Mapping[str, Any], name: str, n: int) -> int | None:
    value = fields.get(name)
    if value is not None and not (type(value) is int and 0 <= value < n):
        raise ValueError(f"tokenizer.ggml.{name}: {reprlib.repr(value)}, expected one of 0 to {n - 1}")
    return value


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if not 0 < size <= MAX_MODEL_BYTES:
        raise ValueError(f"{path}: {size:,} bytes, expected 1 to {MAX_MODEL_BYTES:,}; use another copy of the file")
    return path.read_bytes()


@contextmanager
def _named(path: Path):
    """Begin a ValueError's message with the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error) if isinstance(error, ValueError) else f"a field that is not as it should be ({error!r})"
        raise ValueError(said if said.startswith(str(path.parent)) else f"{path}: {said}") from None
