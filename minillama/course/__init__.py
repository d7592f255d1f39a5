"""What a chapter's notebook needs: check, hint, show, predicted, my_parts, FAST."""

import inspect
import os
from typing import Any

import torch

from minillama import left_out
from minillama.course.checking import CheckFailed, check
from minillama.course.exercise import find, package_part
from minillama.course.keep import my_parts

__all__ = ["FAST", "CheckFailed", "check", "hint", "my_parts", "predicted", "show"]

FAST = os.environ.get("MINILLAMA_FAST") == "1"
_hints_given: dict[str, int] = {}


def hint(id: str, step: int | None = None):
    """Print the next hint for an exercise, or its first, second or third one."""
    hints = find(id).hints
    step = min(_hints_given.get(id, 0) + 1, len(hints)) if step is None else step
    if not 1 <= step <= len(hints):
        raise ValueError(f"hint {step} of exercise {id}; there are 1 to {len(hints)}")
    _hints_given[id] = step
    print(f"Hint {step} of {len(hints)}: {hints[step - 1]}")


def show(name: str):
    """Show the source of a part of the package: show("norm.RMSNorm")."""
    from IPython.display import Markdown, display

    part = package_part(name)
    file = part.__module__.replace(".", "/")
    if left_out.hides(inspect.getfile(part)):
        print(f"{file}.py is left out while your class works on it.")
        return
    display(Markdown(f"`{file}.py`\n\n```python\n{inspect.getsource(part).rstrip()}\n```"))


def predicted(guess: Any, truth: Any, within: float = 1.0):
    """Say whether a prediction was right: equal to the truth or, of numbers, within this factor of it."""
    truth = truth.item() if isinstance(truth, torch.Tensor) and truth.numel() == 1 else truth
    if guess is ... or guess is None:
        print(f"The answer: {_text(truth)}. You made no prediction; a wrong one teaches more than none.")
    elif guess == truth or (_is_number(guess) and _is_number(truth) and _close(guess, truth, within)):
        print(f"You said {_text(guess)}; the answer: {_text(truth)}. Right.")
    else:
        print(f"You said {_text(guess)}; the answer: {_text(truth)}. Good to know now: find out what surprised you.")


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _close(guess: float, truth: float, within: float) -> bool:
    return guess * truth > 0 and max(guess / truth, truth / guess) <= within + 1e-9


def _text(x: Any) -> str:
    return f"{x:,.4g}" if isinstance(x, float) else f"{x:,}" if _is_number(x) else str(x)
