"""Let an encoder-decoder write: one sentence for each source, word by word. Chapter 08."""

import torch
from torch import Tensor

from minillama import beam
from minillama.generate import evaluating
from minillama.seq2seq import Seq2Seq


@torch.no_grad()
def greedy(
    model: Seq2Seq, source: Tensor, source_mask: Tensor | None = None, *, bos: int, eos: int, n_new: int
) -> Tensor:
    """Write a target for each source, always the most likely next token. (B, S) -> (B, 1 + n), n <= n_new.

    source_mask as in Seq2Seq. Each row starts with bos and ends with eos, unless n_new tokens did not suffice; one that
    has ended repeats eos while others go on. The model is put into eval mode meanwhile and left as it was.
    Errors: ValueError for n_new below 1.
    """
    beam.check_search(1, n_new, 0.0)
    with evaluating(model):
        encoded = model.encode(source, source_mask)
        target = torch.full_like(source[:, :1], bos)  # (B, 1)
        ended = torch.zeros_like(target, dtype=torch.bool)
        for _ in range(n_new):
            new = model.decode(target, encoded, source_mask)[:, -1:].argmax(dim=-1)  # (B, 1)
            new = new.masked_fill(ended, eos)
            target, ended = torch.cat([target, new], dim=1), ended | (new == eos)
            if ended.all():
                break
    return target


def beam_search(
    model: Seq2Seq,
    source: Tensor,
    source_mask: Tensor | None = None,
    *,
    bos: int,
    eos: int,
    n_new: int,
    width: int = 4,
    length_penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """Write `width` targets for each source, the best first. (B, S) -> (B, width, 1 + n), scores (B, width).

    What the settings and scores mean, and errors: beam.search. Else as in greedy.
    """
    beam.check_search(width, n_new, length_penalty)
    with evaluating(model), torch.no_grad():
        encoded = model.encode(source, source_mask).repeat_interleave(width, dim=0)  # (B * width, S, C)
        mask = None if source_mask is None else source_mask.repeat_interleave(width, dim=0)
        return beam.search(
            lambda target: model.decode(target, encoded, mask)[:, -1],
            torch.full_like(source[:, :1], bos),
            n_new,
            width=width,
            eos=eos,
            length_penalty=length_penalty,
        )
