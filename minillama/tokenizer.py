"""Text to tokens and back. Chapters 01 and 02."""

import codecs
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from minillama.bpe import (
    GPT2_PATTERN,
    MAX_VOCAB_SIZE,
    check_merges,
    compile_pattern,
    count_pairs,
    learn_merges,
    merge,
    merge_word,
    train_bpe,
)
from minillama.merging import ByteLevelTokenizer, MergingTokenizer, PieceTokenizer
from minillama.sentencepieces import SentencePieceTokenizer, check_kind, check_text

__all__ = [
    "GPT2_PATTERN",
    "ByteLevelTokenizer",
    "BytePairTokenizer",
    "CharTokenizer",
    "PieceTokenizer",
    "SentencePieceTokenizer",
    "TextStream",
    "Tokenizer",
    "count_pairs",
    "merge",
    "tokenizer_from_dict",
    "train_bpe",
]


class CharTokenizer:
    """One token per character, numbered in sorted order.

    characters: every character it knows, each once; the vocabulary is sorted(characters).
    Errors: ValueError for a character or an id that it does not know.

    >>> tokenizer = CharTokenizer.train("hello")
    >>> tokenizer.encode("hole"), tokenizer.decode([1, 0, 2, 2, 3])
    ([1, 3, 2, 0], 'hello')
    """

    kind = "characters"

    def __init__(self, characters: Iterable[str]):
        self.characters = sorted(characters)
        self.ids = {character: i for i, character in enumerate(self.characters)}
        if not self.ids or len(self.ids) != len(self.characters):
            raise ValueError("characters: expected at least one character, and each only once")
        for character in self.characters:
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"characters: expected single characters, found {character!r}")

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Know every character that occurs in text."""
        if not text:
            raise ValueError("the text is empty: there is no character to learn")
        return cls(set(text))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """One id, below vocab_size, for each character."""
        try:
            return [self.ids[character] for character in text]
        except KeyError:
            place, unknown = next((i, c) for i, c in enumerate(text) if c not in self.ids)
            raise ValueError(
                f"character {unknown!r} (U+{ord(unknown):04X}) at position {place} is not among the "
                f"{self.vocab_size} that this tokenizer knows; leave it out, or train a tokenizer on text that has it"
            ) from None

    def decode(self, tokens: Iterable[int]) -> str:
        """The characters of the ids, joined."""
        tokens = list(tokens)
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token {token} is not one of 0 to {self.vocab_size - 1}")
        return "".join(self.characters[token] for token in tokens)

    def to_dict(self) -> dict:
        """What JSON can hold: enough to build the same tokenizer again with from_dict."""
        return {"kind": self.kind, "characters": "".join(self.characters)}

    @classmethod
    def from_dict(cls, fields: dict) -> "CharTokenizer":
        """Undo to_dict. Errors: ValueError if the fields are not those of a character tokenizer."""
        if not isinstance(fields, dict) or fields.get("kind") != cls.kind:
            raise ValueError(f"expected a tokenizer of kind {cls.kind!r}, found {reprlib.repr(fields)}")
        if not isinstance(fields.get("characters"), str):
            raise ValueError("field 'characters': expected one string that holds all characters")
        return cls(fields["characters"])


class BytePairTokenizer(MergingTokenizer):
    """Byte-level BPE: ids 0 to 255 are the bytes, each merge makes one more, special tokens come last.

    merges: pairs of ids in the order in which they were learned. Merges never reach over the end of a word.
    pattern: a regular expression for words, see bpe.compile_pattern; None: the whole text is one word.
    Any text, and any bytes, come back from their ids.
    Errors: ValueError that says which merge, pattern or special token is wrong.
    Source: Sennrich et al. 2016, arXiv:1508.07909; bytes and pattern: Radford et al. 2019 (GPT-2).

    >>> tokenizer = BytePairTokenizer.train("low lower lowest", 259, special_tokens=["<end>"])
    >>> tokenizer.encode("slow low"), tokenizer.encode("low<end>", allow_special=True)
    ([115, 257, 32, 257], [257, 258])
    """

    kind = "byte-pairs"

    def __init__(
        self,
        merges: Sequence[tuple[int, int]],
        *,
        pattern: str | None = GPT2_PATTERN,
        special_tokens: Sequence[str] = (),
    ):
        self.ranks, content = check_merges(merges)
        self.merges = list(self.ranks)
        self.pattern = pattern
        self._pattern = None if pattern is None else compile_pattern(pattern)
        _check_special(special_tokens, MAX_VOCAB_SIZE - len(content))
        special_ids = {text: len(content) + i for i, text in enumerate(special_tokens)}
        self._know(content + [text.encode() for text in special_tokens], special_ids)

    @classmethod
    def train(
        cls,
        text: str,
        vocab_size: int,
        *,
        pattern: str | None = GPT2_PATTERN,
        special_tokens: Sequence[str] = (),
    ) -> "BytePairTokenizer":
        """Learn the merges of train_bpe until there are vocab_size tokens, or no pair is left.

        Special tokens that occur in the text are learned from as text.
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0 or vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(
                f"vocab_size: {vocab_size}, expected 256 bytes, {len(special_tokens)} special tokens and some merges, "
                f"{MAX_VOCAB_SIZE:,} in all at most; try vocab_size={512 + len(special_tokens)}"
            )
        check_text(text)
        words = Counter([text] if pattern is None else compile_pattern(pattern).findall(text))
        merges = learn_merges({word.encode(): n_times for word, n_times in words.items()}, n_merges)
        return cls(merges, pattern=pattern, special_tokens=special_tokens)

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; the same as those of the text, where they are UTF-8."""
        return self._encode(data.decode("utf-8", "surrogateescape"))

    def _words(self, text: str) -> Iterable[str]:
        return [text] if self._pattern is None else self._pattern.findall(text)

    def _merge(self, word: str) -> list[int]:
        return merge_word(word.encode("utf-8", "surrogateescape"), self.ranks)

    def to_dict(self) -> dict:
        """What JSON can hold: enough to build the same tokenizer again with from_dict."""
        merges, special_tokens = [list(pair) for pair in self.merges], list(self.special_ids)
        return {"kind": self.kind, "pattern": self.pattern, "special_tokens": special_tokens, "merges": merges}

    @classmethod
    def from_dict(cls, fields: dict) -> "BytePairTokenizer":
        """Undo to_dict. Errors: ValueError that names the field; a merge by its place, counted from 0."""
        check_kind(fields, cls.kind)
        names = ["kind", "merges", "pattern", "special_tokens"]
        if fields.keys() != set(names):
            raise ValueError(f"fields: {reprlib.repr(list(fields))}, expected {names}; use another copy of the file")
        return cls(fields["merges"], pattern=fields["pattern"], special_tokens=fields["special_tokens"])


class TextStream:
    """The text of tokens that come one by one: what `add` and `end` return, joined, is the text of all of them.

    Half a character waits for its other half.

    >>> stream = TextStream(BytePairTokenizer([]))
    >>> [stream.add(token) for token in "aé".encode()], stream.end()
    (['a', '', 'é'], '')
    """

    def __init__(self, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The characters that this token completes; '' if there is none."""
        if isinstance(self._tokenizer, CharTokenizer):
            return self._tokenizer.decode([token])
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def end(self) -> str:
        """What still waits: U+FFFD for a character that remained unfinished, or ''."""
        return self._decoder.decode(b"", final=True)


Tokenizer = CharTokenizer | BytePairTokenizer | SentencePieceTokenizer | ByteLevelTokenizer | PieceTokenizer


def tokenizer_from_dict(fields: dict) -> Tokenizer:
    """The tokenizer that to_dict wrote, of whichever kind. Errors: ValueError that names the field.

    >>> tokenizer_from_dict(CharTokenizer("abc").to_dict()).decode([2, 0, 1])
    'cab'
    """
    kinds = {tokenizer.kind: tokenizer for tokenizer in get_args(Tokenizer)}
    kind = fields.get("kind") if isinstance(fields, dict) else fields
    if not isinstance(fields, dict) or not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"kind: {reprlib.repr(kind)}, expected one of {', '.join(kinds)}; use another copy of the file"
        )
    return kinds[kind].from_dict(fields)


def _check_special(special_tokens: Sequence[str], room: int):
    if not isinstance(special_tokens, list | tuple) or not all(isinstance(text, str) for text in special_tokens):
        raise ValueError(f"special_tokens: {reprlib.repr(special_tokens)}, expected a list of texts, such as ['<end>']")
    if len(special_tokens) > room:
        raise ValueError(f"special_tokens: {len(special_tokens):,}, expected at most {room:,}; name fewer")
    for i, text in enumerate(special_tokens):
        check_text(text, f"special_tokens[{i}]")
        if not text:
            raise ValueError(f"special_tokens[{i}]: '', expected at least one character; leave it out")
    if len(set(special_tokens)) < len(special_tokens):
        twice, _ = Counter(special_tokens).most_common(1)[0]
        raise ValueError(f"special_tokens: {twice!r} twice, expected each once; leave one out")
