"""Tokenizers as other programs want them: tokenizer.json for Hugging Face, and keys of a GGUF file for llama.cpp."""

from typing import Any

from minillama.checkpoints.tokenizers import BYTE, CONTROL, NORMAL, PRE_TOKENIZERS, UNUSED, USER_DEFINED
from minillama.merging import ALPHABET, GPT2, ByteLevelTokenizer, PieceTokenizer, spell
from minillama.sentencepieces import SentencePieceTokenizer
from minillama.tokenizer import GPT2_PATTERN, BytePairTokenizer, CharTokenizer

Standard = CharTokenizer | ByteLevelTokenizer | PieceTokenizer


def standard(tokenizer: Any) -> Standard:
    """The same ids from a tokenizer that other programs have too. Errors: ValueError if there is none."""
    if isinstance(tokenizer, Standard):
        return tokenizer
    if isinstance(tokenizer, BytePairTokenizer):
        return _byte_level(tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _pieces(tokenizer)
    raise ValueError(f"tokenizer: {type(tokenizer).__name__}, expected one of this package's")


def _byte_level(tokenizer: BytePairTokenizer) -> ByteLevelTokenizer:
    if tokenizer.pattern not in (GPT2_PATTERN, None):
        raise ValueError(f"tokenizer: pattern {tokenizer.pattern!r}; only GPT2_PATTERN, or None, can be exported")
    n_special = len(tokenizer.special_ids)
    n_plain = tokenizer.vocab_size - n_special
    texts = [spell(tokenizer.decode_bytes([i])) for i in range(n_plain)]
    merges = [(texts[left], texts[right]) for left, right in tokenizer.merges]
    patterns = () if tokenizer.pattern is None else (GPT2,)
    return ByteLevelTokenizer(
        [*texts, *tokenizer.special_ids], merges, patterns=patterns, special_ids=tokenizer.special_ids
    )


def _pieces(tokenizer: SentencePieceTokenizer) -> PieceTokenizer:
    library = tokenizer._library
    pieces = [library.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    byte_ids = [library.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    if not all(library.is_byte(i) for i in byte_ids):
        raise ValueError("tokenizer: a SentencePiece model without bytes for unknown characters; can't be exported")
    special = {piece: i for i, piece in enumerate(pieces) if library.is_control(i) or library.is_unknown(i)}
    scores = [library.get_score(i) for i in range(tokenizer.vocab_size)]
    if not all(score.is_integer() for score in scores):
        raise ValueError("tokenizer: a SentencePiece model of type unigram; only BPE can be exported")
    prefix = library.encode("a", out_type=str)[0].startswith("▁")
    return PieceTokenizer(
        pieces, byte_ids, scores=scores, special_ids=special, prefix=prefix, bos=tokenizer.bos, eos=tokenizer.eos
    )


def tokenizer_json(tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of tokenizer.json, and what tokenizer_config.json should say of bos and eos."""
    tokenizer = standard(tokenizer)
    if isinstance(tokenizer, CharTokenizer):
        # A character that is not in the vocabulary is left out; ours refuses it.
        return _json({"vocab": dict(tokenizer.ids), "merges": []}, decoder={"type": "Fuse"}), {}
    names = {i: text for text, i in tokenizer.special_ids.items()}
    settings = {f"{end}_token": names[i] for end in ("bos", "eos") if (i := getattr(tokenizer, end)) in names}
    added = [
        {"id": i, "content": text, "special": text not in tokenizer.fields["always"], "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for text, i in sorted(tokenizer.special_ids.items(), key=lambda item: item[1])
    ]  # fmt: skip
    post = None
    if tokenizer.add_bos and "bos_token" in settings:
        post = _add_bos(settings["bos_token"], tokenizer.special_ids[settings["bos_token"]])
    content = _json_of_bytes(tokenizer) if isinstance(tokenizer, ByteLevelTokenizer) else _json_of_pieces(tokenizer)
    return content | {"added_tokens": added, "post_processor": post}, settings


def _json(model: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A tokenizer.json for BPE, with every field that there is."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **model,
        },
        **fields,
    }  # fmt: skip


def _json_of_bytes(tokenizer: ByteLevelTokenizer) -> dict[str, Any]:
    vocabulary, unknown = tokenizer.fields["vocabulary"], tokenizer.fields["unknown"]
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in tokenizer.fields["patterns"]
    ]
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _json(
        {"vocab": {text: i for i, text in enumerate(vocabulary)}, "ignore_merges": tokenizer.whole_words,
         "merges": merges(tokenizer, vocabulary), "unk_token": None if unknown is None else vocabulary[unknown]},
        normalizer={"type": "NFC"} if tokenizer.nfc else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*splits, last]},
        decoder=last,
    )  # fmt: skip


def _json_of_pieces(tokenizer: PieceTokenizer) -> dict[str, Any]:
    pieces = _marked(tokenizer)
    unknown = next((text for text in ("<unk>", "<UNK>") if text in pieces), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    prepend = [{"type": "Prepend", "prepend": "▁"}] * tokenizer.prefix
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * tokenizer.prefix
    return _json(
        {"vocab": {text: i for i, text in enumerate(pieces)}, "merges": merges(tokenizer, pieces),
         "byte_fallback": True, "unk_token": unknown, "fuse_unk": True},
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        decoder={"type": "Sequence", "decoders": [*back, *strip]},
    )  # fmt: skip


def merges(tokenizer: ByteLevelTokenizer | PieceTokenizer, texts: list[str]) -> list[list[str]]:
    """The pairs that merge, the first that goes first in front."""
    pairs = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    return [[texts[left], texts[right]] for left, right in pairs]


def _marked(tokenizer: PieceTokenizer) -> list[str]:
    """The pieces with ▁ for a space."""
    return [
        piece if i in set(tokenizer.byte_ids) else piece.replace(tokenizer.space, "▁")
        for i, piece in enumerate(tokenizer.fields["pieces"])
    ]


def _add_bos(text: str, i: int) -> dict[str, Any]:
    begin, first, second = (
        {"SpecialToken": {"id": text, "type_id": 0}},
        *({"Sequence": {"id": x, "type_id": 0}} for x in "AB"),
    )
    return {
        "type": "TemplateProcessing", "single": [begin, first], "pair": [begin, first, begin, second],
        "special_tokens": {text: {"id": text, "ids": [i], "tokens": [text]}},
    }  # fmt: skip


def gguf_keys(tokenizer: Any, stop_tokens: tuple[int, ...] = ()) -> dict[str, Any]:
    """The keys tokenizer.ggml.* of a GGUF file. Errors: ValueError for patterns that llama.cpp has no name for."""
    tokenizer = standard(tokenizer)
    if isinstance(tokenizer, CharTokenizer):
        keys = _longest_first([escape(character.encode()) for character in tokenizer.characters])
    elif isinstance(tokenizer, ByteLevelTokenizer):
        keys = _keys_of_bytes(tokenizer)
    else:
        keys = _keys_of_pieces(tokenizer)
    ends = {} if isinstance(tokenizer, CharTokenizer) else {"bos": tokenizer.bos, "eos": tokenizer.eos}
    if stop_tokens and ends.get("eos") is None:
        ends["eos"] = stop_tokens[0]
    keys |= {f"{end}_token_id": i for end, i in ends.items() if i is not None}
    return {f"tokenizer.ggml.{name}": value for name, value in keys.items()}


def _longest_first(tokens: list[str]) -> dict[str, Any]:
    """llama.cpp's "rwkv" takes the longest token that the rest of the text begins with, and knows no special tokens."""
    return {"model": "rwkv", "tokens": tokens, "token_type": [NORMAL] * len(tokens), "add_bos_token": False}


def escape(data: bytes) -> str:
    """Bytes as llama.cpp's "rwkv" reads them: what is not a plain ASCII character as hexadecimal digits.

    >>> escape("a é".encode())
    'a\\\\x20\\\\xc3\\\\xa9'
    """
    return "".join(chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)


def _keys_of_bytes(tokenizer: ByteLevelTokenizer) -> dict[str, Any]:
    vocabulary, special = tokenizer.fields["vocabulary"], set(tokenizer.special_ids.values())
    patterns, always = tokenizer.fields["patterns"], set(tokenizer.fields["always"])
    if not tokenizer.ranks:
        if special or vocabulary != ALPHABET:
            raise ValueError("tokenizer: no merges, which llama.cpp refuses; train one with a larger vocabulary")
        return _longest_first([f"\\x{byte:02x}" for byte in range(256)])
    pre = next((name for name, known in PRE_TOKENIZERS.items() if known == (patterns, tokenizer.whole_words)), None)
    if pre is None or tokenizer.nfc:
        raise ValueError(f"tokenizer: patterns {patterns}, for which llama.cpp has no name; use format='huggingface'")
    types = [NORMAL] * len(vocabulary)
    for text, i in tokenizer.special_ids.items():
        types[i] = USER_DEFINED if text in always else CONTROL
    keys = {
        "model": "gpt2", "pre": pre, "tokens": vocabulary, "token_type": types,
        "merges": [" ".join(pair) for pair in merges(tokenizer, vocabulary)], "add_bos_token": tokenizer.add_bos,
    }  # fmt: skip
    if tokenizer.eos is None and ALPHABET[0xFF] in vocabulary:
        # llama.cpp would take id 11 for the end of a text; this byte is in no UTF-8.
        keys |= dict.fromkeys(("bos_token_id", "eos_token_id"), vocabulary.index(ALPHABET[0xFF]))
    return keys


def _keys_of_pieces(tokenizer: PieceTokenizer) -> dict[str, Any]:
    pieces, fields = _marked(tokenizer), tokenizer.fields
    types = [NORMAL] * len(pieces)
    for text, i in tokenizer.special_ids.items():
        types[i] = USER_DEFINED if text in set(fields["always"]) else CONTROL
    for ids, kind in ((tokenizer.byte_ids, BYTE), (fields["hidden"], UNUSED)):
        for i in ids:
            types[i] = kind
    unknown = tokenizer.special_ids.get("<unk>")
    if unknown is not None:
        types[unknown] = 2
    scores = fields["scores"]
    if scores is None:  # merges alone: the piece that the first one makes gets the highest score
        scores = [0.0] * len(pieces)
        for pair in sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__, reverse=True):
            scores[tokenizer.made[pair]] = -1.0 - tokenizer.ranks[pair]
    return {
        "model": "llama", "pre": "default", "tokens": pieces, "scores": [float(score) for score in scores],
        "token_type": types, "add_bos_token": tokenizer.add_bos, "add_space_prefix": tokenizer.prefix,
    } | ({} if unknown is None else {"unknown_token_id": unknown})  # fmt: skip
