"""Figures of chapter 09: a text on its way, first guesses and losses, where numbers and work are, who sees whom."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_line, label_lines, new_figure, shown

SHADES = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7")
HATCHES = ("", "//", "", "..", "")


def way_of_a_text(stages: Sequence[tuple[str, str, int | None]], title: str) -> Figure:
    """The stages of a model from bottom to top: what it is called, what shape comes out, how many numbers it holds.

    A count of None: this is no part of the model, but what goes in or comes out.
    """
    n = len(stages)
    figure, axes = new_figure(title, "", "", width=7.6, height=0.62 * n + 0.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, 10)
    axes.set_ylim(-0.6, n - 0.3)
    for y, (name, shape, count) in enumerate(stages):
        part = count is not None
        box = FancyBboxPatch(
            (0.2, y - 0.3), 4.6, 0.6, boxstyle="round,pad=0.02,rounding_size=0.12", linewidth=1.4,
            facecolor="#DCEBF7" if part else "white", edgecolor=COLOURS[0] if part else "0.6",
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(2.5, y, name, ha="center", va="center", fontsize=11)
        axes.text(5.1, y, shape, va="center", fontsize=11, family="monospace")
        if part:
            axes.text(9.9, y, f"{count:,} numbers", va="center", ha="right", fontsize=11)
        if y:
            axes.annotate("", (2.5, y - 0.31), xytext=(2.5, y - 0.69), arrowprops={"arrowstyle": "->", "color": "0.3"})
    return shown(figure)


def first_guesses(characters: Sequence[str], guesses: Mapping[str, Sequence[float]], last: str) -> Figure:
    """The probability of each next character according to fresh models, a panel for each."""
    figure = Figure(figsize=(9.6, 2.1 * len(guesses)), dpi=110, layout="constrained")
    names = ["↵" if c == "\n" else "␣" if c == " " else c for c in characters]
    for i, (axes, (name, guess)) in enumerate(
        zip(figure.subplots(len(guesses), 1, sharex=True), guesses.items(), strict=True)
    ):
        title = f"What does a fresh model expect after “{last}”? {name}" if i == 0 else name
        axes.set_title(title, loc="left", fontsize=12)
        colours = [COLOURS[1] if c == last else COLOURS[0] for c in characters]
        axes.bar(range(len(names)), guess, color=colours, width=0.75)
        axes.set_ylim(0, 1.25 * max(guess))
        axes.set_yticks([0, 0.5, 1] if max(guess) > 0.5 else [0, 0.01, 0.02])
        at = characters.index(last)
        axes.text(at, guess[at] + 0.04 * max(guess), f"{guess[at]:.2f}", ha="center", color=COLOURS[1], fontsize=10)
        axes.axhline(1 / len(names), color="0.55", linewidth=1, linestyle="--", zorder=0)
        axes.set_ylabel("probability")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(-0.8, len(names) - 0.2)
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.tick_params(axis="x", length=0)
    figure.axes[-1].set_xlabel(f"next character (dashed: all alike, 1/{len(names)})")
    return shown(figure)


def first_losses(
    deviations: Sequence[float], measured: Mapping[str, Sequence[float]], formula: Mapping[str, Sequence[float]],
    knows_nothing: float, usual: float,
) -> Figure:  # fmt: skip
    """The loss of fresh models by the deviation of their embedding: points are measured, lines come from a formula."""
    figure, axes = new_figure(
        "How loud may the first weights be?", "deviation of the numbers in embedding and head", "first loss (nats)"
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for i, name in enumerate(measured):
        axes.plot(deviations, formula[name], color=COLOURS[i], linestyle=DASHES[i], linewidth=1.6)
        axes.plot(deviations, measured[name], "os"[i], color=COLOURS[i], markersize=5)
        label_line(axes, deviations[-1], formula[name][-1], name, COLOURS[i], dy=2)
    axes.axhline(knows_nothing, color="0.55", linewidth=1, zorder=0)
    axes.annotate(
        f"knows nothing: {knows_nothing:.2f}", (deviations[-1], knows_nothing), xytext=(8, 4),
        textcoords="offset points", fontsize=9, ha="left", va="bottom", color="0.35",
    )  # fmt: skip
    axes.axvline(usual, color="0.55", linewidth=1, linestyle=":", zorder=0)
    axes.annotate(
        f"usual: {usual:g}", (usual, 80), xytext=(4, 0), textcoords="offset points", fontsize=9,
        va="top", color="0.35",
    )  # fmt: skip
    axes.set_xlim(deviations[0] * 0.8, deviations[-1] * 6)
    axes.set_ylim(3.6, 90)
    ticks = [4, 8, 16, 32, 64]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks(deviations, [f"{d:g}" for d in deviations])
    axes.set_xticks([], minor=True)
    return shown(figure)


def two_starts(curves: Mapping[str, Sequence[float]], knows_nothing: float) -> Figure:
    """Training losses of models that differ in how they start."""
    figure, axes = new_figure("What does a loud start cost?", "step", "training loss (nats per character)")
    axes.set_yscale("log")
    n = max(map(len, curves.values()))
    for i, (_, curve) in enumerate(curves.items()):
        axes.plot(range(1, len(curve) + 1), curve, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.8)
    axes.axhline(knows_nothing, color="0.55", linewidth=1, zorder=0)
    axes.annotate("knows nothing", (n, knows_nothing), xytext=(0, 4), textcoords="offset points", fontsize=9,
                  ha="right", color="0.35")  # fmt: skip
    axes.set_ylim(1.7, max(max(curve) for curve in curves.values()) * 1.2)
    ticks = [2, 3, 4, 8, 16, 32, 64]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlim(-n * 0.02, n * 1.42)
    axes.set_xticks([round(n * quarter / 4) for quarter in range(5)])
    label_lines(axes, [(n, curve[-1], f"{name}: {curve[-1]:.2f}", COLOURS[i]) for i, (name, curve) in
                        enumerate(curves.items())])  # fmt: skip
    return shown(figure)


def where_numbers_are(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar per model, cut into the shares of its parts. shares: {"llama-2-7b: 6.74 G": {"attention": 0.32, ...}}"""
    figure, axes = new_figure("Where are a model's numbers?", "share of all numbers (%)", "", width=8.4,
                              height=0.48 * len(shares) + 1.5)  # fmt: skip
    axes.grid(False)
    for row, parts in enumerate(shares.values()):
        left = 0.0
        for i, (part, share) in enumerate(parts.items()):
            percent = 100 * share
            axes.barh(row, percent, left=left, color=SHADES[i], hatch=HATCHES[i], edgecolor="white", height=0.72,
                      label=part if row == 0 else None)  # fmt: skip
            if percent > 4.5:
                axes.text(left + percent / 2, row, f"{percent:.0f}", ha="center", va="center", fontsize=10,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85})  # fmt: skip
            left += percent
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 100)
    axes.legend(loc="upper center", bbox_to_anchor=(0.42, -0.14), ncols=4, frameon=False)
    return shown(figure)


def work_by_length(lengths: Sequence[int], work: Mapping[str, Sequence[float]], marks: Mapping[str, int]) -> Figure:
    """Operations for the last token of a text, by the length of the text; `marks` are lengths worth a vertical line."""
    figure, axes = new_figure(
        "When does looking back cost more than thinking?", "tokens in the text", "operations for the last one",
        width=7.6,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for i, (name, values) in enumerate(work.items()):
        axes.plot(lengths, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        label_line(axes, lengths[-1], values[-1], name, COLOURS[i])
    low, high = axes.get_ylim()
    for name, length in marks.items():
        axes.axvline(length, color="0.7", linewidth=1, zorder=0)
        axes.annotate(name, (length, low), xytext=(-4, 6), textcoords="offset points", fontsize=9, ha="right",
                      color="0.35", rotation=90, va="bottom")  # fmt: skip
    axes.set_ylim(low, high)
    axes.set_xlim(lengths[0], lengths[-1] * 8)
    ticks = [length for length in lengths if length >= 1000 or length == lengths[0]]
    axes.set_xticks(ticks, [f"{length:,}" if length < 1024 else f"{length // 1024}k" for length in ticks])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y / 1e9:g} G"))
    return shown(figure)


def who_moves(words: Sequence[str], tables: Mapping[str, Tensor]) -> Figure:
    """For each model a table: row i is filled in column j if the logits at token i move when token j changes."""
    figure = Figure(figsize=(3.25 * len(tables), 3.9), dpi=110, layout="constrained")
    figure.suptitle("Whose logits move when one token changes?", x=0.01, ha="left", fontsize=12)
    for i, (axes, (name, table)) in enumerate(zip(figure.subplots(1, len(tables)), tables.items(), strict=True)):
        axes.set_title(name, loc="left", fontsize=11)
        n = len(words)
        for row in range(n):
            for column in range(n):
                if bool(table[row, column]):
                    future = column > row
                    axes.fill([column - 0.44, column + 0.44, column + 0.44, column - 0.44],
                              [row - 0.44, row - 0.44, row + 0.44, row + 0.44],
                              color=COLOURS[1] if future else COLOURS[0], linewidth=0)  # fmt: skip
                    if future:
                        axes.text(column, row, "!", ha="center", va="center", color="white", weight="bold")
        axes.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="0.6", linewidth=0.8)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(n), words)
        axes.set_yticks(range(n), words if i == 0 else [])
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.8")
        axes.set_xlabel("changed token")
        axes.set_ylabel("logits at this token" if i == 0 else "")
    return shown(figure)
