"""Let a model write: from scores to probabilities, from probabilities to one token, and again. Chapter 11."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minillama import beam
from minillama.cache import KVCache, cache_for


def sampling_probs(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Turn scores into the probabilities to draw the next token from. (B, V) -> (B, V), rows sum to 1.

    In this order: divide by temperature (below 1 bolder, above 1 wilder; 0: the best token for sure); keep the top_k
    best; keep the best ones that together reach the probability top_p; keep those at least min_p times as probable as
    the best. At least one token always stays.
    Errors: ValueError that names the setting and its range, or says that the scores hold NaN or no token at all.
    Source: Holtzman et al. 2020, arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).

    >>> sampling_probs(torch.tensor([[0.0, 3.0, 2.0, 1.0]]), top_k=2).round(decimals=2)
    tensor([[0.0000, 0.7300, 0.2700, 0.0000]])
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    best = logits.max(dim=-1, keepdim=True)  # NaN is "larger" than everything, so it shows up here
    if not best.values.isfinite().all():
        raise ValueError("the scores of a row hold NaN or infinity, or rule out every token; look at the logits")
    if temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float).scatter(-1, best.indices, 1.0)
    # Differences to the best can't overflow; a temperature below 1e-30 would be 0 in float32.
    logits = (logits.float() - best.values) / max(temperature, 1e-30)
    if top_k is not None:
        logits = keep_top_k(logits, min(top_k, logits.size(-1)))
    if top_p is not None and top_p < 1:  # 1 keeps all, even those too small to change a sum
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = logits.masked_fill(logits.exp() < min_p, -math.inf)  # the best one's exp is 1
    return logits.softmax(dim=-1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest of each row to -inf. (B, V) -> (B, V)"""
    smallest_kept = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable tokens until they reach p together, the one that crosses p included. (B, V) -> (B, V)"""
    probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(dim=-1) - probs  # probability of the tokens ahead of this one
    drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    drop.scatter_(-1, order[:, :1], False)  # the best one stays, whatever p is
    return logits.masked_fill(drop, -math.inf)


def penalize_repetition(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Lower the scores of tokens that were there already. (B, V), (B, T) -> (B, V)

    Positive scores are divided by the penalty, negative ones multiplied; 1 changes nothing.
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    seen = logits.gather(-1, tokens)
    return logits.scatter(-1, tokens, torch.where(seen > 0, seen / penalty, seen * penalty))


def pad_left(prompts: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Line up prompts of different lengths at their ends. -> tokens (B, T), mask (B, T), True where a token is real.

    >>> tokens, mask = pad_left([[5, 6, 7], [8]])
    >>> tokens.tolist(), mask.int().tolist()
    ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])
    """
    if not prompts or not all(prompts):
        raise ValueError("a prompt is empty; give each at least one token, such as a newline or the start token")
    length = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return tokens, mask


@torch.no_grad()
def stream(
    model,
    tokens: Tensor,
    n_new: int,
    *,
    repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
    use_cache: bool = True,
    **sampling,
) -> Iterator[Tensor]:
    """Yield the next token of each sequence, (B,), n_new times. Settings as in generate."""
    check_prompt(model, tokens)
    check_sampling(repetition_penalty=repetition_penalty)
    with evaluating(model):
        cache = cache_for(model) if use_cache else None
        for _ in range(n_new):
            logits = _next_logits(model, tokens, mask, cache)
            if repetition_penalty != 1:
                said = tokens if mask is None else torch.where(mask, tokens, tokens[:, -1:])  # padding was not said
                logits = penalize_repetition(logits, said, repetition_penalty)
            probs = sampling_probs(logits, **sampling)
            new = torch.multinomial(probs, 1, generator=generator)  # (B, 1)
            tokens = torch.cat([tokens, new], dim=1)
            if mask is not None:
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            yield new[:, 0]


def generate(
    model,
    tokens: Tensor,
    n_new: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Continue each sequence by n_new tokens, or until each has reached a stop token. (B, T) -> (B, T + n), n <= n_new

    A text longer than the model's max_len: the model sees its last max_len tokens.
    stop: token ids that end a sequence; one that has ended repeats its stop token while others go on.
    generator: draws the tokens, so that a seed gives the same text again.
    mask: (B, T) bool, True where a token is real, for prompts padded on the left (pad_left).
    Sampling settings as in sampling_probs; repetition_penalty as in penalize_repetition.
    The model is put into eval mode meanwhile and left as it was.
    Errors: ValueError for an empty prompt, a token the model does not know, or a setting out of range.
    """
    stops = torch.tensor(list(stop), dtype=tokens.dtype, device=tokens.device)
    new_tokens = []
    for new in stream(
        model, tokens, n_new, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, generator=generator, mask=mask, use_cache=use_cache,
    ):  # fmt: skip
        if new_tokens:
            new = torch.where(torch.isin(new_tokens[-1], stops), new_tokens[-1], new)
        new_tokens.append(new)
        if torch.isin(new, stops).all():
            break
    return torch.cat([tokens, *(new[:, None] for new in new_tokens)], dim=1)


def beam_search(
    model,
    tokens: Tensor,
    n_new: int,
    *,
    width: int = 4,
    stop: Sequence[int] = (),
    length_penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """Find the `width` likeliest continuations of each sequence that a beam of this width comes by, the best first.

    Shape: (B, T) -> tokens (B, width, T + n), scores (B, width); n <= n_new. What the settings and scores mean:
    beam.search. stop, the model's mode and max_len as in generate; each step reads the whole text again, without a
    cache.
    Errors: ValueError as in generate and beam.search.
    """
    check_prompt(model, tokens)
    with evaluating(model):
        return beam.search(
            lambda texts: _next_logits(model, texts, None, None),
            tokens,
            n_new,
            width=width,
            eos=stop,
            length_penalty=length_penalty,
        )


@contextmanager
def evaluating(model: nn.Module):
    """Put a model into eval mode, and afterwards back into what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sample_text(model, tokenizer, n_new: int, seed: int, prompt: str | None = None, **settings) -> str:
    """Let a model write n_new tokens after the prompt (default: a line feed, or the first character if it knows none).

    settings: those of generate; the temperature is 0.8 unless it is given. -> the text, with the prompt if there is one
    """
    start = [0] if tokenizer.kind == "characters" else tokenizer.encode("\n")
    tokens = torch.tensor([tokenizer.encode(prompt) if prompt else start], device=next(model.parameters()).device)
    generator = torch.Generator(tokens.device).manual_seed(seed)
    written = generate(model, tokens, n_new, generator=generator, **{"temperature": 0.8, **settings})
    return tokenizer.decode(written[0, 0 if prompt else len(start) :].tolist())


def _next_logits(model, tokens: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
    """Scores of the next token, (B, V), from what the cache has not seen yet or from all that fits into the model."""
    T, max_len = tokens.size(1), model.config.max_len
    if cache is None or max_len < T:  # the oldest token drops out of sight, so every cached value would change
        fits, seen = slice(max(0, T - max_len), T), 0
    else:
        fits, seen = slice(len(cache), T), len(cache)
    if mask is None:
        positions, may_look = None, None
    else:
        real = mask[:, fits.start - seen : T]
        positions = (real.cumsum(-1) - 1).clamp(min=0)[:, seen:]  # count real tokens only
        may_look = real[:, None, None, :]
    return last_logits(model, tokens[:, fits], cache=None if max_len < T else cache, positions=positions, mask=may_look)


def last_logits(model, tokens: Tensor, **where) -> Tensor:
    """Scores of the token after these, (B, V). A model with a method of this name works out no others."""
    return getattr(model, "last_logits", model)(tokens, **where)[:, -1]


def check_prompt(model, tokens: Tensor):
    """Raise ValueError unless tokens is a (B, T) tensor of ids that the model knows, T at least 1."""
    if tokens.ndim != 2 or tokens.size(0) < 1:
        raise ValueError(f"the prompt has shape {tuple(tokens.shape)}; expected (B, T), one row for each sequence")
    if tokens.size(1) < 1:
        raise ValueError("the prompt is empty; give it at least one token, such as a newline or the start token")
    lowest, highest, vocab_size = int(tokens.min()), int(tokens.max()), model.config.vocab_size
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"the prompt holds token {wrong}, but the model knows 0 to {vocab_size - 1}; "
            f"use the tokenizer that the model was trained with"
        )


def check_sampling(**settings: float | None):
    """Raise ValueError that names the first sampling setting out of its range, and the range."""
    ranges = {
        "temperature": ("0 or more (0: always the best token)", lambda x: 0 <= x < math.inf),
        "top_k": ("a whole number, at least 1", lambda x: isinstance(x, int) and x >= 1),
        "top_p": ("above 0, at most 1", lambda x: 0 < x <= 1),
        "min_p": ("0 to 1", lambda x: 0 <= x <= 1),
        "repetition_penalty": ("above 0 (1: no penalty)", lambda x: 0 < x < math.inf),
    }
    for name, value in settings.items():
        expected, fits = ranges[name]
        if value is not None and not fits(value):
            raise ValueError(f"{name}={value}; expected {expected}")
