"""Tokens into training batches. Chapter 01."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def split(tokens: Tensor, validation: float = 0.1) -> tuple[Tensor, Tensor]:
    """Cut one long text in two: the first part to train on, the last to be tested on. (N,) -> (M,), (N - M,)

    Cut first, make windows afterwards: windows cut from the whole text would overlap the test.
    Errors: ValueError unless 0 < validation < 1.

    >>> split(torch.arange(10), validation=0.2)
    (tensor([0, 1, 2, 3, 4, 5, 6, 7]), tensor([8, 9]))
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation}; expected a share between 0 and 1, such as 0.1")
    n_train = len(tokens) - math.ceil(len(tokens) * validation - 1e-9)  # 1e-9: 3 * 0.1 is a little more than 0.3
    return tokens[:n_train], tokens[n_train:]


def split_text(text: str, validation: float = 0.1) -> tuple[str, str]:
    """Cut a text where split would cut its characters, so that every tokenizer is tested on the same part of it."""
    n_train = len(split(torch.empty(len(text)), validation)[0])
    return text[:n_train], text[n_train:]


def window(tokens: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Take `length` tokens, and for each of them the token that comes next. (N,) -> (T,), (T,)

    Errors: ValueError for a start from which no whole window, with its next token, fits.

    >>> window(torch.arange(10, 17), start=0, length=3)
    (tensor([10, 11, 12]), tensor([11, 12, 13]))
    """
    check_length(tokens, length)
    if not 0 <= start < len(tokens) - length:
        raise ValueError(
            f"start={start}; with {len(tokens)} tokens and length {length}, 0 to {len(tokens) - length - 1}"
        )
    return tokens[start : start + length], tokens[start + 1 : start + length + 1]


def windows(tokens: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Go once through the text, each token a target once (but for the first, which nothing predicts).

    Yields windows of `length` tokens, side by side, without overlap; the last one may be shorter.
    """
    check_length(tokens, min(length, 1))
    for start in range(0, len(tokens) - 1, length):
        yield window(tokens, start, min(length, len(tokens) - 1 - start))


class Batches:
    """Training batches without end: `batches(step)` is the batch of that step, always the same for the same seed.

    Each epoch lays the windows side by side from another random start, and shuffles them, so that no token is
    in two windows of an epoch. No state: a run that resumes asks for the next step.
    Shape: (batch_size, length) twice, tokens and targets.
    Errors: ValueError if the text is too short for one batch.

    >>> tokens, targets = Batches(torch.arange(100), batch_size=2, length=5, seed=0)(step=7)
    >>> tokens.shape, bool((targets == tokens + 1).all())
    (torch.Size([2, 5]), True)
    """

    def __init__(self, tokens: Tensor, batch_size: int, length: int, seed: int):
        check_length(tokens, length)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1")
        self.tokens, self.batch_size, self.length, self.seed = tokens, batch_size, length, seed
        self.per_epoch = (len(tokens) - length) // length  # windows that fit after any random start
        if self.per_epoch < batch_size:
            raise ValueError(
                f"{len(tokens)} tokens hold {self.per_epoch} windows of {length}, fewer than batch_size={batch_size}; "
                f"use more text, or smaller batches"
            )
        self.epoch, self.starts = -1, torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, batch = divmod(step, self.per_epoch // self.batch_size)
        if epoch != self.epoch:
            self.epoch, self.starts = epoch, self._starts(epoch)
        starts = self.starts[batch * self.batch_size :][: self.batch_size].tolist()
        pairs = [window(self.tokens, start, self.length) for start in starts]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    def _starts(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        unused = len(self.tokens) - self.length * self.per_epoch  # the last one is only a target
        offset = torch.randint(unused, (1,), generator=generator)
        return offset + self.length * torch.randperm(self.per_epoch, generator=generator)


def check_length(tokens: Tensor, length: int):
    """Raise ValueError unless the text holds at least one window of this length and its next token."""
    if length < 1:
        raise ValueError(f"length={length}; expected at least 1")
    if len(tokens) < length + 1:
        raise ValueError(f"{len(tokens)} tokens; windows of {length} need at least {length + 1}. Use more text")
