"""The figures of chapter 00: the map, the next letter, where a model's numbers are, who notices the last letter."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from minillama.plots import COLOURS, new_figure, shown

PALE = {COLOURS[0]: "#D6E6F2", COLOURS[1]: "#F9E1D2", COLOURS[2]: "#D2EDE4", COLOURS[3]: "#F5E4ED"}


def _box(axes: Axes, x: float, y: float, text: str, chapter: str, colour: str, width: float = 3.4):
    """A part of the model, x and y its middle, with the chapter that builds it in a badge at its right end."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.28), width, 0.56, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=PALE[colour], edgecolor=colour, linewidth=1.2, zorder=3,
        )
    )  # fmt: skip
    axes.text(x - width / 2 + 0.15, y, text, ha="left", va="center", fontsize=9.5, zorder=4)
    axes.text(
        x + width / 2 - 0.12, y, chapter, ha="right", va="center", fontsize=9.5, fontweight="bold", color="black",
        zorder=4,
    )  # fmt: skip


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "->", colour: str = "0.35"):
    axes.annotate("", end, xytext=start, arrowprops={"arrowstyle": style, "color": colour, "linewidth": 1.2})


def map_of_the_course(builds: dict[str, str], before: str, after: str) -> Figure:
    """The model, read from the bottom up, and what is done with it; each box with the chapters that build it."""
    figure = Figure(figsize=(9.0, 7.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("Which chapter builds which part?", loc="left", fontsize=12)
    axes.set_xlim(-0.4, 9.4)
    axes.set_ylim(-0.2, 11.4)
    axes.axis("off")
    middle, blue, orange, green, pink = 2.9, *COLOURS

    axes.text(middle, 0.2, before, ha="center", va="center", family="monospace", fontsize=11)
    axes.text(middle, 11.1, after, ha="center", va="center", family="monospace", fontsize=11)
    axes.add_patch(Rectangle((0.35, 2.75), 5.1, 4.7, facecolor="0.97", edgecolor="0.45", linestyle="--", zorder=1))
    axes.text(5.3, 7.2, f"block  {builds['block']}", ha="right", va="center", fontsize=9.5, fontweight="bold")
    axes.text(0.5, 7.2, "N times, one upon the other", ha="left", va="center", fontsize=9, color="0.35")
    stack = [
        (1.1, "tokenizer", blue), (2.1, "embedding", blue), (3.3, "norm", green), (4.2, "attention", orange),
        (5.5, "norm", green), (6.4, "feed-forward", orange), (8.1, "norm", green), (9.1, "scores", blue),
        (10.2, "sampling", pink),
    ]  # fmt: skip
    for y, name, colour in stack:
        _box(axes, middle, y, name, builds[name], colour)
    heights = [0.2, *(y for y, _, _ in stack), 11.1]
    for low, high in pairwise(heights):
        _arrow(axes, (middle, low + (0.2 if low == 0.2 else 0.28)), (middle, high - 0.28))
    for low, high in ((2.9, 4.85), (5.05, 7.0)):  # past the sub-layer: what was there is added
        axes.plot([middle, 0.75, 0.75, middle - 0.12], [low, low, high, high], color="0.35", linewidth=1.2, zorder=2)
        axes.text(middle, high, "+", ha="center", va="center", fontsize=11, zorder=5,
                  bbox={"boxstyle": "circle,pad=0.08", "facecolor": "white", "edgecolor": "0.35"})  # fmt: skip
    axes.plot([middle - 0.25, -0.2, -0.2], [11.1, 11.1, 0.2], color="0.35", linewidth=1.2)
    _arrow(axes, (-0.215, 0.2), (middle - 1.25, 0.2))
    axes.text(-0.08, 5.1, "put at the end of the text, and again", rotation=90, fontsize=9, color="0.35", va="center")
    axes.text(middle - 1.7, 0.62, "text in", fontsize=9, color="0.35", va="center")
    axes.text(middle - 1.7, 10.75, "one token out", fontsize=9, color="0.35", va="center")

    right = 7.6
    _box(axes, right, 4.2, "positions", builds["positions"], orange)
    _arrow(axes, (right - 1.7, 4.2), (middle + 1.7, 4.2))
    axes.text(right - 1.7, 9.75, "What is done with it", fontsize=10.5, va="center")
    others = ["loss", "training", "proof", "speed", "real checkpoints"]
    for i, name in enumerate(others):
        _box(axes, right, 9.2 - 0.75 * i, name, builds[name], pink)
    axes.text(right - 1.7, 2.85, "Its ancestor, from the same parts", fontsize=10.5, va="center")
    _box(axes, right, 2.3, "encoder-decoder", builds["encoder-decoder"], green)
    axes.text(right - 1.7, 11.1, "In each box: the number of its chapter", fontsize=9, color="0.35", va="center")
    return shown(figure)


def next_characters(text: str, probabilities: dict[str, float]) -> Figure:
    """What a model thinks comes after a text: its probabilities of the likeliest next characters."""
    figure, axes = new_figure(f"What comes after “{text}”?", "next character", "probability (%)", height=3.2)
    names = [{" ": "space", "\n": "line end"}.get(character, character) for character in probabilities]
    percent = [100 * p for p in probabilities.values()]
    axes.bar(range(len(names)), percent, color=COLOURS[0], width=0.6)
    for i, value in enumerate(percent):
        axes.text(i, value + 1, f"{value:.1f}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(names)), names, fontsize=11)
    axes.set_ylim(0, max(percent) * 1.15)
    return shown(figure)


def where_the_numbers_are(models: dict[str, dict[str, int]]) -> Figure:
    """For each model one bar of 100 %, cut into its parts: {model: {part: how many numbers}}."""
    figure, axes = new_figure("Where are the numbers of a LLaMA?", "share of all numbers (%)", "", 8.6, 3.2)
    shades = [(COLOURS[2], "white"), (COLOURS[0], "white"), ("#F0C9A8", "black")]
    rows = list(models)
    for row, name in enumerate(rows):
        total, left = sum(models[name].values()), 0.0
        for i, (part, n) in enumerate(models[name].items()):
            colour, ink = shades[i]
            share = 100 * n / total
            axes.barh(row, share, left=left, color=colour, edgecolor="white", height=0.62)
            outside = share < 5  # too narrow for its own number
            axes.text(
                101 if outside else left + share / 2, row, f"{share:.0f} %", va="center", fontsize=10,
                ha="left" if outside else "center", color="black" if outside else ink,
            )  # fmt: skip
            if row == 0:  # the names of the parts, above the first bar
                last = i == len(models[name]) - 1
                axes.text(
                    100 if last else left + 0.5, -0.42, part, ha="right" if last else "left", va="bottom", fontsize=10
                )
            left += share
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.85)
    axes.set_xlim(0, 100)
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return shown(figure)


def who_notices(text: str, moved: dict[str, list[float]]) -> Figure:
    """How far the scores at each place move when the last letter of the text is replaced; a row per model."""
    figure = Figure(figsize=(8.6, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(len(moved), 1, sharex=True, sharey=True)
    top = max(max(values) for values in moved.values())
    for i, (axes, (name, values)) in enumerate(zip(panels, moved.items(), strict=True)):
        axes.bar(range(len(values)), values, color=COLOURS[i], width=0.65, hatch=("", "//")[i % 2], edgecolor="white")
        for place, value in enumerate(values):
            if value < 1e-4:  # rounding
                axes.text(place, top * 0.02, "0", ha="center", va="bottom", fontsize=9, color="0.35")
        axes.set_title(f"{name}: whose scores move when the last letter changes?", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, top * 1.1)
        axes.set_ylabel("change\n(std of scores)")
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    panels[-1].set_xticks(range(len(text)), ["␣" if c == " " else c for c in text], fontsize=11)
    panels[-1].set_xlabel("the text, letter by letter")
    return shown(figure)
