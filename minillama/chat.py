"""Talk with a chat model: turns, a cache that is kept between them, and an end of an answer. Chapter 13."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minillama.cache import cache_for
from minillama.generate import check_sampling, evaluating, last_logits, penalize_repetition, sampling_probs
from minillama.sentencepieces import any_of, check_text, encode_around
from minillama.templates import TEMPLATES, Message, render
from minillama.tokenizer import TextStream

ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"}  # no answer goes on after these


@dataclass(frozen=True)
class Step:
    """One token of an answer, and what else it might have been: the ids and logits of the best, best first."""

    token: int
    candidates: tuple[tuple[int, float], ...]


class Chat:
    """A conversation with a checkpoint.

    loaded: from checkpoints.load; model, tokenizer, chat_template, stop_tokens and source are used.
    template: a name in templates.TEMPLATES or a text in Jinja; default: the checkpoint's own.
    system: instructions that go before everything. max_tokens: the length of an answer, at most.
    Sampling as in generate; the default, always the likeliest token, is what suits a small model.
    report: called with a line where the user should know something.
    Special tokens in what is said are text: nobody ends a turn by typing <|im_end|>.
    When the context is full, the oldest turns are forgotten, never the system's message; `report` says so.
    Errors: ValueError if there is no template or no tokenizer, for a setting out of range, and for a message that is
    too long for the model.
    """

    def __init__(
        self,
        loaded: Any,
        *,
        template: str | None = None,
        system: str | None = None,
        max_tokens: int = 200,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        report=print,
    ):
        self.model, self.tokenizer, self.report = loaded.model, loaded.tokenizer, report
        self.template = loaded.chat_template if template is None else template
        if self.tokenizer is None:
            raise ValueError(getattr(loaded, "no_tokenizer", "") or f"{loaded.source}: no tokenizer, and so no chat")
        if self.template is None:
            raise ValueError(
                f"{loaded.source}: no chat template: perhaps it was never trained to chat; if it was, choose one of "
                f"{', '.join(TEMPLATES)}"
            )
        if self.template not in TEMPLATES and "{" not in self.template:
            raise ValueError(f"template={self.template!r}; expected one of {', '.join(TEMPLATES)}, or one in Jinja")
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}; expected at least 1")
        self.max_tokens, self.repetition_penalty = max_tokens, repetition_penalty
        self.sampling: dict[str, Any] = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        check_sampling(**self.sampling, repetition_penalty=repetition_penalty)
        self.special_ids: dict[str, int] = getattr(self.tokenizer, "special_ids", {})
        self.stop: set[Any] = {*loaded.stop_tokens, getattr(self.tokenizer, "eos", None)} - {None}
        self.stop |= {i for text, i in self.special_ids.items() if text in ENDS}
        self._special = any_of(self.special_ids)
        self._generator = torch.Generator(self.device)
        self._generator.seed() if seed is None else self._generator.manual_seed(seed)
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.reset()

    def reset(self):
        """Forget the conversation."""
        self.messages: list[Message] = list(self._system)
        self.tokens: list[int] = []  # all that the model was given or said
        self.steps: list[Step] = []  # of the last answer
        self.n_computed = 0  # tokens that went through the model for the last answer
        self._cache = cache_for(self.model)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def ask(self, text: str) -> str:
        """Say something; -> the answer."""
        return "".join(self.say(text))

    def say(self, text: str) -> Generator[str, None, None]:
        """Say something; yield the answer piece by piece, never half a character.

        Who stops iterating, or presses Ctrl-C, keeps what was said so far as the answer.
        Errors: ValueError; the conversation is then as it was.
        """
        check_text(text)
        before, answer, ended = list(self.messages), "", False
        self.messages.append({"role": "user", "content": text})
        try:
            tokens, n_new = self._make_room()
            stream = TextStream(self.tokenizer)
            for token in self._continue(tokens, n_new):
                piece = stream.add(token) if answer else stream.add(token).removeprefix(" ")  # SentencePiece's prefix
                answer += piece
                yield piece
            rest = stream.end()
            answer, ended = answer + rest, True
            yield rest
        finally:
            if answer or ended:
                self.messages.append({"role": "assistant", "content": answer})
            else:
                self.messages = before

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation up to where the assistant speaks.

        While the template runs, stand-ins hide the characters with which special tokens begin, in whatever was said.
        """
        said = "".join(message["content"] for message in messages)
        unused = (c for c in map(chr, range(0xF0000, 0x10FFFE)) if c not in said)
        stand_ins = dict(zip(sorted({text[0] for text in self.special_ids}), unused, strict=False))
        hide, show = str.maketrans(stand_ins), str.maketrans({new: old for old, new in stand_ins.items()})
        hidden = [{**message, "content": message["content"].translate(hide)} for message in messages]
        return encode_around(
            self._special, self.special_ids, lambda part: self.tokenizer.encode(part.translate(show)),
            self._render(hidden),
        )  # fmt: skip

    def _render(self, messages: list[Message]) -> str:
        if self.template in TEMPLATES:
            return TEMPLATES[self.template](messages)
        ends = [getattr(self.tokenizer, name, None) for name in ("bos", "eos")]
        bos, eos = (next((text for text, i in self.special_ids.items() if i == end), "") for end in ends)
        return render(self.template, messages, bos=bos, eos=eos)

    def _make_room(self) -> tuple[list[int], int]:
        """-> the conversation as tokens, and how many more may follow. The oldest turns go if they must."""
        max_len, first, n_dropped = self.model.config.max_len, len(self._system), 0
        while True:
            tokens = self.prompt(self.messages)
            room = max_len - len(tokens)
            if room >= self.max_tokens or (len(self.messages) == first + 1 and room > 0):
                break
            if len(self.messages) == first + 1:
                raise ValueError(f"{len(tokens):,} tokens, but the model takes {max_len:,} in all; say it shorter")
            del self.messages[first : first + 2]
            n_dropped += 1
        if n_dropped:
            self.report(f"the context of {max_len:,} tokens is full; forgotten, the oldest first: {n_dropped} turns")
        return tokens, min(room, self.max_tokens)

    @torch.no_grad()
    def _continue(self, tokens: list[int], n_new: int) -> Iterator[int]:
        """Yield token after token, the stop token not. Of what the cache holds already, nothing is computed again."""
        pairs = enumerate(zip(self.tokens, tokens, strict=False))
        n_same = next((i for i, (old, new) in pairs if old != new), len(self.tokens))
        self._cache.crop(min(n_same, len(tokens) - 1))  # the last one has to go in, to see what follows it
        self.tokens, self.steps, self.n_computed = tokens, [], 0
        with evaluating(self.model):
            for _ in range(n_new):
                logits = self._next_logits(tokens)
                if self.repetition_penalty != 1:
                    seen = torch.tensor([tokens], device=self.device)
                    logits = penalize_repetition(logits, seen, self.repetition_penalty)
                probs = sampling_probs(logits, **self.sampling)
                token = int(torch.multinomial(probs, 1, generator=self._generator))
                tokens.append(token)
                best = logits[0].topk(min(5, logits.size(-1)))
                self.steps.append(Step(token, tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))))
                if token in self.stop:
                    return
                yield token

    def _next_logits(self, tokens: list[int]) -> Tensor:
        """Scores of the next token, (1, V), from the tokens that the cache does not hold yet."""
        new = torch.tensor([tokens[len(self._cache) :]], device=self.device)
        try:
            logits = last_logits(self.model, new, cache=self._cache)
        except BaseException:  # Ctrl-C: some layers have seen these tokens, others have not
            self._cache = cache_for(self.model)
            raise
        self.n_computed += new.size(1)
        return logits[:, : self.tokenizer.vocab_size]  # a model may have more rows than there are tokens
