"""Functions of torch that an exercise does not allow: calling one raises an error that says so."""

from contextlib import suppress
from typing import Any

import torch


def forbidding(names: list[str]) -> str:
    """Source text that forbids these, to run before an answer: "softmax", "F.rms_norm", "torch.nn.RMSNorm"."""
    return f"import minillama.course.forbid\n\nminillama.course.forbid.forbid({names!r})\ndel minillama\n"


def forbid(names: list[str]):
    """Put something that raises in the place of each of these, wherever torch keeps a function of that name."""
    inner: list[Any] = [getattr(torch._C, name) for name in ("_nn", "_VariableFunctions")]
    homes = [torch, torch.nn, torch.nn.functional, torch.special, torch.linalg, torch.Tensor, torch.ops.aten, *inner]
    for name in names:
        for home in homes:
            if hasattr(home, last := name.rpartition(".")[2]):
                with suppress(AttributeError, TypeError):
                    setattr(home, last, _refusing(last))


def _refusing(name: str):
    def refuse(*args, **kwargs):
        raise RuntimeError(f"{name} is not allowed in this exercise: use your own code here")

    return refuse
