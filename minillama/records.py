"""A run's measurements, which are written down, and its random numbers, which need not be."""

import csv
import hashlib
import io
import random
from pathlib import Path
from typing import Any

import torch

from minillama.files import replacing


def seed_everything(numbers: tuple[int, ...]):
    """Start torch's and Python's random numbers anew, as these numbers say.

    Done before each step, with the recipe's seed and the step, it makes a resumed run draw what an uninterrupted one
    would have drawn, without a state that would have to be saved.
    """
    seed = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")
    torch.manual_seed(seed)
    random.seed(seed)


def write_metrics(path: Path, metrics: list[dict[str, Any]]):
    """Rows as CSV, an empty field where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(metrics[0]) if metrics else ["step"])
    writer.writeheader()
    writer.writerows(metrics)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Undo write_metrics; no rows if the file is not there."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"] or 0), "tokens": int(row["tokens"] or 0)} for row in rows]


def differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """'steps 500, now 1000' for each field that differs, nested ones with a dot."""
    lines = []
    for name in sorted(saved.keys() | now.keys()):
        before, after = saved.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name} {before}, now {after}")
    return lines
