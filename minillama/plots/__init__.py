"""Every figure of the course, in one style: readable in grey and by the colour-blind, labels where the lines are.

What all figures share is here; each chapter has its own in a file named like the module it teaches.
"""

import io
import sys
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# From Okabe and Ito's palette, the dark ones first; each line also has a dash pattern of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DASHES = ("-", "--", ":", "-.")


def new_figure(title: str, x: str, y: str, width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure whose title asks or answers one question; x and y are the axes' names with their units."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def label_line(axes: Axes, x: float, y: float, text: str, colour: str, dy: float = 0.0):
    """Write a line's name at its end, dy points higher."""
    axes.annotate(
        text, (x, y), xytext=(5, dy), textcoords="offset points", color=colour, va="center", annotation_clip=False
    )


def label_lines(axes: Axes, ends: Iterable[tuple[float, float, str, str]], gap: float = 13):
    """Name lines at their ends (x, y, text, colour), at least `gap` points apart. Call when the limits are set."""
    figure = axes.get_figure(root=True)
    assert figure
    figure.draw_without_rendering()  # only now is it known where a value stands
    lowest = float("-inf")
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        at = axes.transData.transform((x, y))[1] * 72 / figure.dpi  # points
        lowest = max(at, lowest + gap)
        label_line(axes, x, y, text, colour, dy=lowest - at)


def shown(figure: Figure) -> Figure:
    """Show a figure below the notebook cell that made it (nothing happens outside a notebook), and give it back."""
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display
        from PIL.Image import open as open_image

        drawn, png = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png")
        open_image(drawn).convert("RGB").quantize(128).save(png, format="png", optimize=True)  # a third of the size
        titles = [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]
        display(Image(png.getvalue(), width=round(figure.get_figwidth() * 100), alt=" / ".join(filter(None, titles))))
    return figure


def loss_curve(metrics: list[dict[str, Any]], name: str) -> Figure:
    """How the loss of a run went down, in training and on the validation part (rows as in loop.Run.metrics)."""
    measured = [row for row in metrics if row["validation_loss"] is not None]
    figure, axes = new_figure(
        f"{name}: how surprised is the model by the next token?",
        "training so far (million tokens)",
        "loss (nats per token)",
    )
    lines = []
    for key, rows, text in (("train_loss", metrics, "training"), ("validation_loss", measured, "validation")):
        if not rows:
            continue
        x, y = [row["tokens"] / 1e6 for row in rows], [row[key] for row in rows]
        i = len(lines)
        marker = "o" if key == "validation_loss" else None
        axes.plot(x, y, color=COLOURS[i], linestyle=DASHES[i], marker=marker, markersize=4)
        lines.append((x[-1], y[-1], f"{text} {y[-1]:.2f}", COLOURS[i]))
    label_lines(axes, lines)
    return figure
