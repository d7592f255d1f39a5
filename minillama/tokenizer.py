"""Text to tokens and back. Chapters 01 and 02."""

from collections.abc import Iterable


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
            raise ValueError(f"expected a tokenizer of kind {cls.kind!r}, found {str(fields)[:60]!r}")
        if not isinstance(fields.get("characters"), str):
            raise ValueError("field 'characters': expected one string that holds all characters")
        return cls(fields["characters"])
