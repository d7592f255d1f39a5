"""Tokenizers that merge: what they share, and the two kinds that real models have. Chapters 02 and 13.

ByteLevelTokenizer (LLaMA 3, SmolLM2): a text is cut into words, and the bytes of each word are merged.
PieceTokenizer (LLaMA 1 and 2, llama2.c): the characters of the whole text are merged, spaces and all.
"""

import inspect
import math
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import regex

from minillama.bpe import MAX_VOCAB_SIZE, Pair, merge_word
from minillama.sentencepieces import any_of, check_kind, check_text, check_tokens, encode_around

SECONDS = 10.0  # for one pattern on one text: a stranger's may run for ever
MAX_PIECE = 512  # characters of one token
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_others = [byte for byte in range(256) if byte not in _printable]
ALPHABET = [chr(byte) if byte in _printable else chr(256 + _others.index(byte)) for byte in range(256)]
BYTE_OF = {character: byte for byte, character in enumerate(ALPHABET)}


def spell(data: bytes) -> str:
    """Bytes in the alphabet of GPT-2's files: a visible character for each of the 256.

    >>> spell(" é".encode())
    'ĠÃ©'
    """
    return "".join(ALPHABET[byte] for byte in data)


class MergingTokenizer:
    """What tokenizers with merges share: special tokens, a memory for words, and the way back to bytes and text.

    A subclass calls `_know` and has `_words` (text -> words) and `_merge` (word -> ids).
    Ids of up to 65,536 words are kept in memory, for speed.
    """

    kind: str
    fields: dict  # what it was made with
    cached_words, cached_characters = 2**16, 64  # at most so many words, none of them longer

    def _know(self, content: list[bytes], special_ids: dict[str, int], always: Iterable[str] = ()):
        """content: the bytes of each id, special tokens included. always: special tokens that are never text."""
        self._bytes, self.special_ids = content, special_ids
        self._special, self._always = any_of(special_ids), any_of(always)
        self._cache: dict[str, list[int]] = {}

    def to_dict(self) -> dict:
        """What JSON can hold: enough to build the same tokenizer again with from_dict."""
        return {"kind": self.kind, **self.fields}

    @classmethod
    def from_dict(cls, fields: dict) -> Self:
        """Undo to_dict. Errors: ValueError that names the field."""
        check_kind(fields, cls.kind)
        known = inspect.signature(cls).parameters
        if fields.keys() - {"kind"} != known.keys():
            found = reprlib.repr(sorted(fields.keys()))
            raise ValueError(f"fields: {found}, expected {['kind', *known]}; use another copy of the file")
        for name, value in fields.items():
            if name != "kind" and not _FIELDS[name](value):
                raise ValueError(f"{name}: {reprlib.repr(value)} does not belong there; use another copy of the file")
        return cls(**{name: value for name, value in fields.items() if name != "kind"})

    def _words(self, text: str) -> Iterable[str]:
        raise NotImplementedError

    def _merge(self, word: str) -> list[int]:
        raise NotImplementedError

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text. A special token in it is text like any other, unless allow_special.

        Errors: ValueError for half a character (a lone surrogate), which has no bytes.
        """
        check_text(text)
        special = self._special if allow_special else self._always
        return encode_around(special, self.special_ids, self._encode, text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the ids. Bytes that are no character, or a part of one, become U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of the ids, joined."""
        return b"".join([self._bytes[token] for token in check_tokens(tokens, self.vocab_size)])

    def _encode(self, text: str) -> list[int]:
        tokens = []
        for word in self._words(text):
            ids = self._cache.get(word)
            if ids is None:
                ids = self._merge(word)
                if len(word) <= self.cached_characters:
                    if len(self._cache) >= self.cached_words:
                        self._cache.clear()
                    self._cache[word] = ids
            tokens += ids
        return tokens


class ByteLevelTokenizer(MergingTokenizer):
    """Byte-level BPE with ids, merges and patterns of its own: LLaMA 3, SmolLM2, GPT-2.

    vocabulary: the text of each id; special tokens as they are, all others as `spell` writes them.
    merges: pairs of such texts, the first goes first; None: any two that together are a token, the lowest id first.
    patterns: regular expressions; what the first one finds, and what lies between, is cut by the next one.
    special_ids: text -> id. always: those that are never text, whatever `encode` is told.
    whole_words: a word that is a token is never taken apart. nfc: compose accents first (Unicode's NFC).
    bos, eos: the ids that begin and end a text, or None. add_bos: whether the model wants bos before a text; `encode`
    adds none. unknown: the id for a byte that has no token, such as U+0004 in SmolLM2; None: it vanishes, as in Hugging
    Face's library and llama.cpp.
    Errors: ValueError that names the token, merge or pattern.
    Source: Radford et al. 2019 (GPT-2).

    >>> tokenizer = ByteLevelTokenizer(["l", "o", "w", "lo", "low", "Ġ"], [("l", "o"), ("lo", "w")])
    >>> tokenizer.encode("low wool"), tokenizer.decode([4, 5, 3])
    ([4, 5, 2, 1, 1, 0], 'low lo')
    """

    kind = "byte-level"

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[Sequence[str]] | None,
        *,
        patterns: Sequence[str] = (GPT2,),
        special_ids: Mapping[str, int] | None = None,
        always: Iterable[str] = (),
        whole_words: bool = False,
        nfc: bool = False,
        unknown: int | None = None,
        bos: int | None = None,
        eos: int | None = None,
        add_bos: bool = False,
    ):
        special_ids = _check_ids(special_ids or {}, len(vocabulary))
        self.fields = dict(
            vocabulary=list(vocabulary), merges=merges and [list(pair) for pair in merges], patterns=list(patterns),
            special_ids=special_ids, always=list(always), whole_words=whole_words, nfc=nfc, unknown=unknown,
            bos=bos, eos=eos, add_bos=add_bos,
        )  # fmt: skip
        self.whole_words, self.nfc, self.bos, self.eos, self.add_bos = whole_words, nfc, bos, eos, add_bos
        self._patterns = [_compile(pattern) for pattern in patterns]
        self._ids = _numbers(vocabulary, set(special_ids.values()))
        content = [text.encode("utf-8", "surrogateescape") for text in vocabulary]
        for text, i in self._ids.items():
            if foreign := next((c for c in text if c not in BYTE_OF), None):
                raise ValueError(f"token {i}: {text!r} holds {foreign!r}, which stands for no byte; not byte-level BPE")
            content[i] = bytes(BYTE_OF[c] for c in text)
        if merges is None:
            self.ranks, self.made = joined_pairs(self._ids, range(len(vocabulary)))
        else:
            self.ranks, self.made = listed_pairs(self._ids, merges)
        self._byte_ids = [self._ids.get(character, unknown) for character in ALPHABET]
        self._know(content, special_ids, always)

    def _words(self, text: str) -> Iterable[str]:
        words = [unicodedata.normalize("NFC", text) if self.nfc else text]
        for pattern in self._patterns:
            words = [part for word in words for part in _split(pattern, word) if part]
        return words

    def _merge(self, word: str) -> list[int]:
        data = word.encode()
        if self.whole_words and (whole := self._ids.get(spell(data))) is not None:
            return [whole]
        known = [i for byte in data if (i := self._byte_ids[byte]) is not None]
        return merge_word(known, self.ranks, self.made)


class PieceTokenizer(MergingTokenizer):
    """BPE on the characters of the whole text, as SentencePiece does it: LLaMA 1 and 2, Mistral, llama2.c.

    pieces: the text of each id, with `space` for a space. byte_ids: 256 ids, for characters that are no piece.
    hidden: ids that no text becomes.
    scores: a number for each id; of two neighbours that together are a piece, the highest goes first. merges: pairs of
    pieces, the first goes first; give one of the two.
    special_ids, always, bos, eos, add_bos: as for ByteLevelTokenizer. Special tokens are no text: they decode to ''.
    prefix: put a space before each text, and take it away when decoding.
    Errors: ValueError that names the piece.
    Source: Kudo and Richardson 2018, arXiv:1808.06226; tokenizers of Touvron et al. 2023, arXiv:2302.13971.

    >>> pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "l", "o", "lo", "▁lo"]
    >>> tokenizer = PieceTokenizer(pieces, range(256), scores=[0.0] * 259 + [-1.0, -2.0])
    >>> tokenizer.encode("lo é"), tokenizer.decode([260, 256, 195, 169])
    ([260, 256, 195, 169], 'lo é')
    """

    kind = "pieces"

    def __init__(
        self,
        pieces: Sequence[str],
        byte_ids: Sequence[int],
        *,
        scores: Sequence[float] | None = None,
        merges: Sequence[Sequence[str]] | None = None,
        special_ids: Mapping[str, int] | None = None,
        always: Iterable[str] = (),
        hidden: Iterable[int] = (),
        space: str = "▁",
        prefix: bool = True,
        bos: int | None = None,
        eos: int | None = None,
        add_bos: bool = True,
    ):
        special_ids = _check_ids(special_ids or {}, len(pieces))
        _check_ids({str(n): i for n, i in enumerate([*byte_ids, *hidden])}, len(pieces))
        if len(set(byte_ids)) != 256:
            raise ValueError(f"byte_ids: {len(set(byte_ids))} of them, expected one for each of the 256 bytes")
        self.fields = dict(
            pieces=list(pieces), byte_ids=list(byte_ids), scores=scores and list(scores),
            merges=merges and [list(pair) for pair in merges], special_ids=special_ids, always=list(always),
            hidden=list(hidden), space=space, prefix=prefix, bos=bos, eos=eos, add_bos=add_bos,
        )  # fmt: skip
        self.byte_ids, self.space, self.prefix, self.bos, self.eos = list(byte_ids), space, prefix, bos, eos
        self.add_bos = add_bos
        self._ids = _numbers(pieces, {*special_ids.values(), *byte_ids, *hidden})
        if merges is not None:
            self.ranks, self.made = listed_pairs(self._ids, merges)
        elif scores is not None and len(scores) == len(pieces) and all(map(math.isfinite, scores)):
            places = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
            self.ranks, self.made = joined_pairs(self._ids, [places[score] for score in scores])
        else:
            found = "none" if scores is None else f"{len(scores):,}, or one that is not finite"
            raise ValueError(f"scores: {found}, expected a number for each of {len(pieces):,} pieces")
        content = [piece.replace(space, " ").encode("utf-8", "surrogateescape") for piece in pieces]
        for byte, i in enumerate(byte_ids):
            content[i] = bytes([byte])
        for text, i in special_ids.items():
            content[i] = text.encode() if text in set(always) else b""
        self._know(content, special_ids, always)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the ids, without the space that `encode` puts before it."""
        text = super().decode(tokens)
        return text.removeprefix(" ") if self.prefix else text

    def _words(self, text: str) -> Iterable[str]:
        return [(" " * self.prefix + text).replace(" ", self.space)] if text else []

    def _merge(self, word: str) -> list[int]:
        ids = []
        for character in word:
            known = self._ids.get(character)
            ids += [self.byte_ids[byte] for byte in character.encode()] if known is None else [known]
        return merge_word(ids, self.ranks, self.made)


def listed_pairs(ids: Mapping[str, int], merges: Sequence[Sequence[str]]) -> tuple[dict[Pair, int], dict[Pair, int]]:
    """Rank and result of each merge in a list. Errors: ValueError that names a merge of or into what is no token."""
    ranks, made = {}, {}
    for rank, (left, right) in enumerate(merges):
        shown = f"merges[{rank}]: {left[:80]!r} {right[:80]!r}"
        try:
            pair, token = (ids[left], ids[right]), ids[left + right]
        except KeyError as error:
            raise ValueError(f"{shown}, but {error.args[0][:80]!r} is not in the vocabulary") from None
        if pair in ranks:
            raise ValueError(f"{shown} is merges[{ranks[pair]}] too, expected each once")
        ranks[pair], made[pair] = rank, token
    return ranks, made


def joined_pairs(ids: Mapping[str, int], places: Sequence[int]) -> tuple[dict[Pair, int], dict[Pair, int]]:
    """Rank and result of each merge where no list says them: two tokens merge if the two together are a token.

    The rank is the place of that token among all.
    """
    ranks, made = {}, {}
    for text, token in ids.items():
        for i in range(1, len(text)):
            pair = ids.get(text[:i]), ids.get(text[i:])
            if None not in pair:
                ranks[pair], made[pair] = places[token], token
    return ranks, made


def _numbers(vocabulary: Sequence[str], special: set[int]) -> dict[str, int]:
    """text -> id, of what text can become. Errors: ValueError for a text that two ids have, or one that is too long."""
    if not 0 < len(vocabulary) <= MAX_VOCAB_SIZE:
        raise ValueError(f"vocabulary: {len(vocabulary):,} tokens, expected 1 to {MAX_VOCAB_SIZE:,}")
    ids: dict[str, int] = {}
    for i, text in enumerate(vocabulary):
        if i in special:
            continue
        if not 0 < len(text) <= MAX_PIECE:
            raise ValueError(f"token {i}: {len(text):,} characters, expected 1 to {MAX_PIECE}")
        if ids.setdefault(text, i) != i:
            raise ValueError(f"token {i}: {text!r} is token {ids[text]} too, expected each once")
    return ids


def _check_ids(ids: Mapping[str, int], n: int) -> dict[str, int]:
    for text, i in ids.items():
        if type(i) is not int or not 0 <= i < n:
            raise ValueError(f"{text!r}: id {i}, expected one of 0 to {n - 1}")
    return dict(ids)


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_id(value: Any) -> bool:
    return value is None or type(value) is int


def _is_flag(value: Any) -> bool:
    return type(value) is bool


_FIELDS = {  # of a file: whether a value is of the kind that belongs there
    **dict.fromkeys(["vocabulary", "pieces", "patterns", "always"], lambda value: _are(str, value)),
    **dict.fromkeys(["byte_ids", "hidden"], lambda value: _are(int, value)),
    **dict.fromkeys(["whole_words", "nfc", "add_bos", "prefix"], _is_flag),
    **dict.fromkeys(["unknown", "bos", "eos"], _is_id),
    "merges": lambda value: value is None or (_are(list, value) and all(_are(str, p) and len(p) == 2 for p in value)),
    "scores": lambda value: value is None or _are(float, value),
    "special_ids": lambda value: isinstance(value, dict),
    "space": lambda value: type(value) is str and len(value) == 1,
}


def _compile(pattern: str) -> regex.Pattern:
    try:
        if not isinstance(pattern, str) or len(pattern) > 10_000 or "&&" in pattern or "[[" in pattern:
            raise regex.error("expected a text of up to 10,000 characters without && and [[")
        compiled = regex.compile(f"({pattern})")
        if compiled.groups != 1:
            raise regex.error("expected no group that captures")
        return compiled
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"pattern: {reprlib.repr(pattern)}, not a regular expression ({error})") from None


def _split(pattern: regex.Pattern, text: str) -> list[str]:
    try:
        return pattern.split(text, timeout=SECONDS)
    except TimeoutError:
        shown = reprlib.repr(pattern.pattern)
        raise ValueError(f"pattern: {shown} takes more than {SECONDS:g} s on {len(text):,} characters") from None
