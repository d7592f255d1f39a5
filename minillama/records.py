"""What a training run writes down besides its weights: measurements, and where the random numbers were."""

import csv
import io
import random
from pathlib import Path
from typing import Any

import torch

from minillama.files import replacing


def random_state() -> dict[str, Any]:
    """Where torch's and Python's random numbers are."""
    state = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]):
    """Go on where random_state was."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


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
