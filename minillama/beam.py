"""Beam search: follow several continuations at once, and keep the best. Chapters 08 and 11.

It knows no model, only a function that scores the next token, so that one search serves both kinds of transformer.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def length_factor(length: Tensor, penalty: float) -> Tensor:
    """What a total log-probability is divided by, so that long sequences have a chance: ((5 + length) / 6)**penalty.

    penalty 0: the plain total, which likes short sequences; 1: nearly the mean.
    Source: Wu et al. 2016, arXiv:1609.08144, equation 14.

    >>> length_factor(torch.tensor([1, 7]), penalty=1.0)
    tensor([1., 2.])
    """
    return ((5 + length) / 6) ** penalty


@torch.no_grad()
def search(
    next_logits: Callable[[Tensor], Tensor],
    tokens: Tensor,
    n_new: int,
    *,
    width: int,
    eos: int | Sequence[int],
    length_penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """Find likely continuations: after each token keep only the `width` best of all continuations seen so far.

    Shape: tokens (B, T) -> tokens (B, width, T + n), scores (B, width), best first; n <= n_new.
    next_logits: called with (B * width, T') tokens, scores the next one, (B * width, V); row r continues
    tokens[r // width].
    A sequence that has reached eos, one id or any of several, repeats it (it counts once in its length); the search
    ends when all have, or after n_new tokens. A score is log p(new tokens) / length_factor(their number), in nats; it
    is -inf for rows that are left over where there are fewer than `width` sequences. With width 1 this is greedy
    decoding.
    Errors: ValueError for width or n_new below 1, a length_penalty below 0, or logits that are NaN.
    Source: Graves 2012, arXiv:1211.3711; the length penalty of 0.6 is that of Vaswani et al. 2017, section 6.1.
    """
    check_search(width, n_new, length_penalty)
    B, T = tokens.shape
    ends = torch.tensor([eos] if isinstance(eos, int) else list(eos), dtype=tokens.dtype, device=tokens.device)
    tokens = tokens.repeat_interleave(width, dim=0)  # (B * width, T)
    total = torch.full((B, width), -math.inf, device=tokens.device)  # log-probability so far
    total[:, 0] = 0.0  # the others are copies
    length = torch.zeros_like(total)
    ended = torch.zeros_like(total, dtype=torch.bool)
    for _ in range(n_new):
        log_probs = next_logits(tokens).float().log_softmax(dim=-1).view(B, width, -1)
        if log_probs.isnan().any():
            raise ValueError("logits: NaN, expected numbers; a weight of the model is NaN, or all tokens are ruled out")
        V = log_probs.size(-1)
        last = tokens[:, -1].long().view(B, width, 1)
        stay = torch.full_like(log_probs, -math.inf).scatter(-1, last, 0.0)  # ended: the same again, for free
        log_probs = torch.where(ended[..., None], stay, log_probs)
        length = length + (~ended).float()
        totals = (total[..., None] + log_probs).flatten(1)  # (B, width * V)
        scores = totals / length_factor(length, length_penalty).repeat_interleave(V, dim=1)
        best = scores.topk(width, dim=1).indices  # (B, width)
        parent, new = best // V, best % V
        rows = (torch.arange(B, device=tokens.device)[:, None] * width + parent).flatten()
        tokens = torch.cat([tokens[rows], new.view(-1, 1)], dim=1)
        total, length = totals.gather(1, best), length.gather(1, parent)
        ended = ended.gather(1, parent) | torch.isin(new, ends)
        if (ended | total.isneginf()).all():
            break
    return tokens.view(B, width, -1), total / length_factor(length, length_penalty)


def check_search(width: int, n_new: int, length_penalty: float):
    """Raise ValueError that names the first setting out of its range."""
    for name, value in (("width", width), ("n_new", n_new)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {value!r}, expected a whole number, at least 1; width=1 is greedy decoding")
    if not 0 <= length_penalty < math.inf:
        raise ValueError(f"length_penalty: {length_penalty}, expected 0 or more; 0 leaves the scores as they are")
