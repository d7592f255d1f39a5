"""Speculative decoding: guess several tokens cheaply, check them all in one call of the model. Chapter 12.

A call that reads ten tokens takes little longer than one that reads a single token, since it reads the weights once
either way. The text is drawn from the same distribution as without guesses, whatever the guesses are.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minillama.cache import cache_for
from minillama.generate import check_prompt, evaluating, sampling_probs


def ngram_draft(tokens: Sequence[int], length: int, n: int = 3) -> list[int]:
    """Guess that the text goes on as it did after the last n tokens stood there before; at most `length` tokens.

    The latest earlier place counts. Where the last n tokens stand nowhere else, the last n - 1 are looked for, and so
    on; [] if even the last one is new. (No model is asked: a text that repeats itself is guessed well, another is not.)
    Source: Saxena 2023, "Prompt lookup decoding" (a public repository).

    >>> ngram_draft([1, 2, 3, 4, 9, 1, 2, 3], length=2)
    [4, 9]
    """
    tokens = list(tokens)
    for size in range(min(n, len(tokens) - 1), 0, -1):
        last = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == last:
                return tokens[start + size : start + size + length]
    return []


def accept(
    draft: Tensor,
    draft_probs: Tensor,
    target_probs: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keep the beginning of a draft, and add one token, so that each is distributed as the target's.

    Shape: draft (K,), draft_probs (K, V), target_probs (K + 1, V) -> (n + 1,), n tokens were kept.
    Draft token x is kept with probability min(1, p(x) / q(x)), p from target_probs and q from
    draft_probs, which it must have been drawn from. The first one that is not kept is replaced by one
    drawn from max(0, p - q), scaled to sum 1, and the rest is dropped. After a draft that is kept
    whole, one more token is drawn from the last row.
    Source: Leviathan et al. 2023, arXiv:2211.17192, section 2.3; Chen et al. 2023, arXiv:2302.01318.

    >>> certain = torch.eye(4)  # the target says 0, then 1, then 2, for sure
    >>> accept(torch.tensor([0, 3]), certain[[0, 3]], certain[[0, 1, 2]]).tolist()
    [0, 1]
    """
    K = len(draft)
    chance = torch.rand(K, generator=generator, device=draft.device)
    kept = chance * _of(draft, draft_probs) < _of(draft, target_probs)
    n = int(kept.long().cumprod(dim=0).sum())  # how many before the first that is not kept
    probs = target_probs[n]
    if n < K:
        probs = (probs - draft_probs[n]).clamp(min=0)
    return torch.cat([draft[:n], torch.multinomial(probs, 1, generator=generator)])


def _of(draft: Tensor, probs: Tensor) -> Tensor:
    """The probability of each token of the draft. (K,), (at least K, V) -> (K,)"""
    return probs[: len(draft)].gather(-1, draft[:, None])[:, 0]


@torch.no_grad()
def stream_drafted(
    model, tokens: Tensor, n_new: int, *, draft=ngram_draft, draft_length: int = 8,
    generator: torch.Generator | None = None, **sampling,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the next tokens of one sequence, (1, T), one or more at each call of the model, n_new in all.

    draft: called as draft(tokens so far, length), gives at most so many tokens; they are checked against the model.
    sampling: settings of sampling_probs. At temperature 0 the text is that of generate, elsewhere it is distributed
    in the same way; the same seed gives another text than there.
    Errors: ValueError for more than one sequence, a text longer than the model's max_len, and as in generate.
    """
    check_prompt(model, tokens)
    if len(tokens) != 1:
        raise ValueError(f"{len(tokens)} sequences; drafts are checked for one at a time")
    if tokens.size(1) + n_new > model.config.max_len:
        raise ValueError(
            f"{tokens.size(1)} tokens and {n_new} more do not fit into this model's {model.config.max_len}; take fewer"
        )
    cache, text, n_left = cache_for(model), tokens[0].tolist(), n_new
    with evaluating(model):
        while n_left:
            guess = torch.tensor(draft(text, min(draft_length, n_left - 1)), dtype=tokens.dtype, device=tokens.device)
            unseen = torch.tensor([text[len(cache) :]], device=tokens.device)
            logits = model(torch.cat([unseen, guess[None]], dim=1), cache=cache)[0, unseen.size(1) - 1 :]  # (K + 1, V)
            probs = sampling_probs(logits, **sampling)
            certain = torch.nn.functional.one_hot(guess, probs.size(-1)).to(probs)  # drawn from nothing else
            new = accept(guess, certain, probs, generator=generator)
            text += new.tolist()
            cache.crop(len(text) - 1)  # forget the guesses that were wrong; the last token has not been read yet
            n_left -= len(new)
            yield new
