"""Several processes train one model: each takes its share of every batch, the gradients are averaged. Chapter 10.

`torchrun --nproc-per-node 2 -m minillama train` starts them, on one machine or on many; without torchrun there is one
process, and everything here does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among all: rank from 0 to count - 1, local_rank among those of its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> "Processes":
        """What torchrun has put into the environment; one process without it."""
        return cls(*(int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))

    @property
    def is_first(self) -> bool:
        """The one that reports, evaluates and saves."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch. (B, ...) -> (B / count, ...)"""
        return batch[self.rank :: self.count]

    def check_batch_size(self, batch_size: int):
        """Raise ValueError unless a batch can be shared out evenly."""
        if batch_size % self.count:
            nearest = self.count * max(1, round(batch_size / self.count))
            raise ValueError(
                f"batch_size={batch_size}; expected a multiple of {self.count} processes, such as {nearest}"
            )

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over all processes, in each of them."""
        if self.count > 1:
            dist.all_reduce(numbers)
            numbers /= self.count
        return numbers

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are averaged over all processes."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """While this is open, the processes can talk to each other: through NCCL on GPUs, else through gloo."""
        if self.count == 1 or dist.is_initialized():
            yield
            return
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()
