"""The figure of a class: what came of each exercise."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from minillama.plots import COLOURS, new_figure

# What a bar is cut into: its name, its colour, and that of the number in it. In grey, no two are alike.
PARTS = (
    ("right", "#8FC1E3", "black"),
    ("wrong", COLOURS[1], "white"),
    ("not attempted", "0.9", "black"),
    ("timeout or crashed", "0.15", "white"),
)


def outcomes(rows: Sequence[tuple[str, Sequence[int]]]) -> Figure:
    """A bar per exercise: its name, and how many answers were right, wrong, not attempted, or something else."""
    figure, axes = new_figure(
        "What came of each exercise?", "students", "", width=8.0, height=1.6 + 0.34 * max(1, len(rows))
    )
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=12, pad=30)  # room for the names of the parts
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.9")
    n_students = max([1, *(sum(counts) for _, counts in rows)])
    for i, (_, colour, ink) in enumerate(PARTS):
        lengths = [counts[i] for _, counts in rows]
        left = [sum(counts[:i]) for _, counts in rows]
        axes.barh(range(len(rows)), lengths, left=left, color=colour, height=0.74, edgecolor="white")
        for y, (start, count) in enumerate(zip(left, lengths, strict=True)):
            if count / n_students > 0.016 * len(str(count)):  # wide enough for the number
                axes.text(start + count / 2, y, str(count), ha="center", va="center", fontsize=9, color=ink)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, n_students)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [Patch(facecolor=colour, edgecolor="white", label=part) for part, colour, _ in PARTS]
    axes.legend(handles=names, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, handlelength=1.2)
    return figure
