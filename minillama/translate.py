"""Teach an encoder-decoder to translate the sentences of grammar.py into two languages. Chapter 08."""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from minillama.config import Config
from minillama.decode import beam_search, greedy
from minillama.grammar import Triple, sentences
from minillama.seq2seq import Seq2Seq, pad_right, teacher_forcing
from minillama.train import AdamW, clip_gradients, decay_groups, learning_rate, next_token_loss

LANGUAGES = {"fr": 1, "zh": 2}  # place in a triple
CHINESE = "\u4e00-\u9fff。"
LONGEST = 40  # tokens; the grammar's longest sentence has 31


class WordTokenizer:
    """One token per word or sign of English and French, one per character of Chinese; l'oiseau is l' and oiseau.

    words: all it knows, each once. The first ids are its signs: 0 <pad>, 1 <bos>, 2 <eos>, 3 <fr>, 4 <zh>; text never
    turns into one of them.
    Errors: ValueError for a word it does not know, or a text whose spaces decode would not put back.

    >>> tokenizer = WordTokenizer.train(["L'oiseau a dormi.", "鸟睡了。"])
    >>> tokenizer.decode(tokenizer.encode("L'oiseau a dormi.")), len(tokenizer.encode("鸟睡了。"))
    ("L'oiseau a dormi.", 4)
    """

    signs = ("<pad>", "<bos>", "<eos>", *(f"<{language}>" for language in LANGUAGES))
    pad, bos, eos = 0, 1, 2

    def __init__(self, words: Iterable[str]):
        self.words = [*self.signs, *sorted(words)]
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            raise ValueError("words: one is there twice, expected each once; give a set")

    @classmethod
    def train(cls, texts: Iterable[str]) -> "WordTokenizer":
        """Know every word that occurs in the texts."""
        return cls({word for text in texts for word in cls.split(text)})

    @staticmethod
    def split(text: str) -> list[str]:
        """Words, signs and Chinese characters, in order."""
        return re.findall(rf"[{CHINESE}]|[^\W{CHINESE}]+'?|\S", text)

    @staticmethod
    def join(words: Iterable[str]) -> str:
        """Undo split: a space between two words, but none before a sign, after l' or beside Chinese."""
        text = " ".join(words)
        return re.sub(rf"(?<=[{CHINESE}']) | (?=[{CHINESE}.,!?])", "", text)

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        words = self.split(text)
        for word in words:
            if word not in self.ids:
                raise ValueError(f"word: {word!r}, expected one of the {len(self.words)} known; train on text with it")
        if self.join(words) != text:
            raise ValueError(f"text: {text!r}, expected {self.join(words)!r}; leave out the other spaces")
        return [self.ids[word] for word in words]

    def decode(self, tokens: Iterable[int]) -> str:
        return self.join(self.words[token] for token in tokens)

    def source(self, english: str, language: str) -> list[int]:
        """The English sentence after a sign that says into which language: one model can do both."""
        if language not in LANGUAGES:
            raise ValueError(f"language: {language!r}, expected one of {', '.join(LANGUAGES)}; it learned only these")
        return [self.ids[f"<{language}>"], *self.encode(english)]


def train_translation(
    steps: int = 1000,
    seed: int = 1,
    *,
    d_model: int = 96,
    n_layers: int = 2,
    batch_size: int = 32,
    lr: float = 3e-3,
    n_sentences: int = 20_000,
    report=None,
) -> tuple[Seq2Seq, WordTokenizer]:
    """Train on sentences of the grammar that hold no held-out pair; each goes into both languages. About 70 s on a CPU.

    report: called with (step, loss in nats per token).
    """
    triples = sentences(n_sentences, seed)
    tokenizer = WordTokenizer.train(text for triple in triples for text in triple)
    config = Config(
        vocab_size=tokenizer.vocab_size, d_model=d_model, n_layers=n_layers, n_heads=4, d_ff=4 * d_model,
        max_len=LONGEST, tied=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Seq2Seq(config)
    optimizer = AdamW(decay_groups(model, weight_decay=0.01), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=lr, warmup_steps=steps // 10, total_steps=steps)
        chosen = torch.randint(len(triples), (batch_size,), generator=generator).tolist()
        loss = translation_loss(model, tokenizer, [triples[i] for i in chosen])
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        if report:
            report(step, loss.item())
    return model, tokenizer


def translation_loss(model: Seq2Seq, tokenizer: WordTokenizer, triples: Sequence[Triple]) -> Tensor:
    """How surprised the model is by the French and the Chinese of some English sentences, in nats per token."""
    pairs = [(triple[0], language, triple[place]) for triple in triples for language, place in LANGUAGES.items()]
    source, source_mask = pad_right([tokenizer.source(text, language) for text, language, _ in pairs], tokenizer.pad)
    inputs, labels = teacher_forcing(
        [tokenizer.encode(text) for *_, text in pairs], bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad
    )
    return next_token_loss(model(source, inputs, source_mask), labels)


def translate(
    model: Seq2Seq, tokenizer: WordTokenizer, english: Sequence[str], language: str, width: int = 1
) -> list[str]:
    """Translate sentences into "fr" or "zh"; with a width above 1 by beam search. A sentence that is given up at
    LONGEST tokens comes back as far as it went.
    """
    source, mask = pad_right([tokenizer.source(text, language) for text in english], tokenizer.pad)
    settings = dict(bos=tokenizer.bos, eos=tokenizer.eos, n_new=LONGEST)
    if width == 1:
        target = greedy(model, source, mask, **settings)
    else:
        target = beam_search(model, source, mask, width=width, **settings)[0][:, 0]
    rows = [row[1:] for row in target.tolist()]
    return [tokenizer.decode(row[: row.index(tokenizer.eos)] if tokenizer.eos in row else row) for row in rows]


def exact_match(model: Seq2Seq, tokenizer: WordTokenizer, triples: Sequence[Triple]) -> dict[str, float]:
    """Which share of the sentences is translated without any mistake, for each language."""
    shares = {}
    for language, place in LANGUAGES.items():
        said = translate(model, tokenizer, [triple[0] for triple in triples], language)
        shares[language] = sum(s == triple[place] for s, triple in zip(said, triples, strict=True)) / len(triples)
    return shares
