"""The SentencePiece library behind the interface of the other tokenizers. Chapter 02."""

import base64
import io
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from itertools import permutations
from operator import index
from pathlib import Path
from typing import Any

import sentencepiece

MAX_MODEL_BYTES = 2**26
MAX_VOCAB_SIZE = 2**20


class SentencePieceTokenizer:
    """A vocabulary that the SentencePiece library learned: the tokenizer of LLaMA 1 and 2.

    model: the bytes of a `tokenizer.model` file; `open` takes its path.
    bos, eos: the ids that begin and end a text, None where the model has none. No text is encoded to them.
    Models made by `train` give any text back: what has no token of its own becomes bytes. Others may lose
    what they were told to (such as double spaces), and models with a dummy prefix take one space from the start of
    whatever they decode: there, decode all ids together, not the newest alone.
    Errors: ValueError for bytes that are no such model.
    Source: Kudo and Richardson 2018, arXiv:1808.06226.

    >>> tokenizer = SentencePieceTokenizer.train("low lower lowest", 270)
    >>> tokenizer.decode(tokenizer.encode("  low, Löwe"))
    '  low, Löwe'
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        if not 0 < len(model) <= MAX_MODEL_BYTES:
            raise ValueError(
                f"model: {len(model):,} bytes, expected 1 to {MAX_MODEL_BYTES:,}; use another copy of the file"
            )
        try:
            self._library = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size: int = self._library.get_piece_size()
            self._characters = set().union(*map(self._library.id_to_piece, range(self.vocab_size)))
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"model: {len(model):,} bytes that begin with {model[:20]!r}, expected a SentencePiece model; "
                f"use another copy of the file\n{error}"
            ) from None
        self.model = model
        control = filter(self._library.is_control, range(self.vocab_size))
        self.special_ids: dict[str, int] = {self._library.id_to_piece(i): i for i in control}
        self.bos, self.eos = (i if i >= 0 else None for i in (self._library.bos_id(), self._library.eos_id()))

    @classmethod
    def open(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Open a `tokenizer.model` file. Errors: ValueError that names the file, FileNotFoundError."""
        try:
            with Path(path).open("rb") as file:
                return cls(file.read(MAX_MODEL_BYTES + 1))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def train(
        cls, text: str, vocab_size: int, *, model_type: str = "bpe", dummy_prefix: bool = False
    ) -> "SentencePieceTokenizer":
        """Learn exactly vocab_size tokens, among them 256 bytes, <unk>, <s>, </s> and each character of the text.

        model_type: "bpe" (LLaMA) or "unigram".
        dummy_prefix: put a space before each text, as LLaMA does, so that its first word is encoded as any other.
        Errors: ValueError that says which vocab_size is possible.
        """
        check_text(text)
        if model_type not in ("bpe", "unigram"):
            raise ValueError(f"model_type: {model_type!r}, expected 'bpe' or 'unigram'; try 'bpe'")
        if not 0 < vocab_size <= MAX_VOCAB_SIZE:
            raise ValueError(f"vocab_size: {vocab_size}, expected 1 to {MAX_VOCAB_SIZE:,}; try vocab_size=512")
        if not text.strip():
            raise ValueError("text: nothing but space, expected words to learn from; pass more text")
        lines, model = text.split("\n"), io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(  # pyright: ignore
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                byte_fallback=True,  # what has no token of its own becomes bytes, not <unk>
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                add_dummy_prefix=dummy_prefix,
                split_digits=True,
                max_sentence_length=max(10, *(len(line.encode()) for line in lines)),  # longer lines are left out
                num_threads=1,  # with more, the last digits of the scores may change from run to run
                minloglevel=3,  # say nothing: errors are raised
            )
        except RuntimeError as error:
            wanted = re.search(r"value (<=) (\d+)|(\d+) vs (\d+)", str(error))
            if not wanted:
                raise ValueError(f"text: {len(text):,} characters that cannot be learned from\n{error}") from None
            limit, possible = ("at most", wanted[2]) if wanted[1] else ("at least", wanted[4])
            raise ValueError(
                f"vocab_size: {vocab_size}, expected {limit} {possible} for this text; pass vocab_size={possible}\n"
                f"{error}"
            ) from None
        return cls(model.getvalue())

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text, without bos and eos; <s> in it is text like any other, unless allow_special.

        Errors: ValueError for half a character (a lone surrogate).
        """
        check_text(text)
        special = any_of(self.special_ids) if allow_special else None
        return encode_around(special, self.special_ids, self._encode, text)

    def _encode(self, text: str) -> list[int]:
        space_mark, library = "▁", self._library
        if space_mark not in text or not library.is_byte(library.piece_to_id("<0xE2>")):
            return library.encode(text)
        # The library takes this character for a space. Encode two others instead, which become bytes, and put it back.
        unknown = [c for c in map(chr, range(0xF0000, 0xF0100)) if c not in self._characters]
        stand_in = next(x + y for x, y in permutations(unknown, 2) if x + y not in text)
        there, wanted = ([library.piece_to_id(f"<0x{b:02X}>") for b in c.encode()] for c in (stand_in, space_mark))
        tokens = []
        for token in library.encode(text.replace(space_mark, stand_in)):
            tokens.append(token)
            if tokens[-len(there) :] == there:
                tokens[-len(there) :] = wanted
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the ids; bos and eos are no text. Bytes that are no character become U+FFFD."""
        return self._library.decode(check_tokens(tokens, self.vocab_size))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of the ids, joined, and every space kept, so that texts in a row fit together."""
        return b"".join([self._bytes_of(token) for token in check_tokens(tokens, self.vocab_size)])

    def _bytes_of(self, token: int) -> bytes:
        piece, library = self._library.id_to_piece(token), self._library
        if library.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        if library.is_control(token):
            return b""
        return (library.decode([token]) if library.is_unknown(token) else piece.replace("▁", " ")).encode()

    def to_dict(self) -> dict:
        """What JSON can hold: the model in base64."""
        return {"kind": self.kind, "model": base64.b64encode(self.model).decode()}

    @classmethod
    def from_dict(cls, fields: dict) -> "SentencePieceTokenizer":
        """Undo to_dict. Errors: ValueError that names the field."""
        check_kind(fields, cls.kind)
        model = fields.get("model")
        try:
            model_bytes = base64.b64decode(model, validate=True)  # pyright: ignore
        except (TypeError, ValueError) as error:
            found = f"model: {reprlib.repr(model)} ({error})"
            raise ValueError(f"{found}, expected text in base64; use another copy of the file") from None
        return cls(model_bytes)


def check_kind(fields: Any, kind: str):
    """Refuse what to_dict of another tokenizer wrote, or no to_dict at all."""
    if not isinstance(fields, dict) or fields.get("kind") != kind:
        raise ValueError(f"expected a tokenizer of kind {kind!r}, found {reprlib.repr(fields)}")


def check_text(text: str, name: str = "text"):
    """Refuse what UTF-8 cannot write. Errors: ValueError that gives the place."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"{name}: {half!r} (U+{ord(half):04X}) at position {error.start} is half of a character (a surrogate), "
            f"expected whole ones; leave it out, or read the text again as UTF-8"
        ) from None


def any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern to split a text at any of these; None if there are none."""
    longest_first = sorted(texts, key=len, reverse=True)  # where <a> and <a>b both fit
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


def encode_around(
    special: re.Pattern[str] | None, special_ids: Mapping[str, int], encode: Callable[[str], list[int]], text: str
) -> list[int]:
    """The ids of a text: those of the special tokens that `special`, made by any_of, finds, and what lies between."""
    if special is None:
        return encode(text)
    tokens = []
    for i, part in enumerate(special.split(text)):  # text, special, text, ..., special, text
        tokens += [special_ids[part]] if i % 2 else encode(part)
    return tokens


def check_tokens(tokens: Iterable[int], vocab_size: int) -> list[int]:
    """The ids as a list of int; a tensor's too. Errors: ValueError for an id outside of 0 to vocab_size - 1."""
    tokens = [index(token) for token in tokens]
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        wrong = next(token for token in tokens if not 0 <= token < vocab_size)
        raise ValueError(f"token {wrong} is not one of 0 to {vocab_size - 1}")
    return tokens
