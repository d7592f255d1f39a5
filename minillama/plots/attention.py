"""The figures of chapter 03: who looks where, how sharply, and what that costs."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_line, label_lines, new_figure, shown

HIDDEN = "0.88"  # the grey of what may not be looked at


def weights_by_word(
    queries: Sequence[str],
    keys: Sequence[str],
    weights: Tensor,
    title: str,
    mask: Tensor | None = None,
    unit: str = "word",
) -> Figure:
    """A table of weights (T, S) as shades of blue, words on both axes; where the mask is False, grey.

    A small table has the numbers in it, a large one does not.
    """
    T, S = weights.shape
    numbers = S <= 8
    size = 0.62 if numbers else 0.33
    figure, axes = new_figure(title, f"key: the {unit} that is looked at", f"query: the {unit} that looks",
                              width=max(5.2, 1.9 + size * S), height=1.3 + 0.8 * size * T)  # fmt: skip
    _table(axes, queries, keys)
    axes.imshow(weights.detach(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(T):
        for j in range(S):
            if mask is not None and not mask[i, j]:
                _cell(axes, i, j, HIDDEN)
            elif numbers:
                colour = "white" if weights[i, j] > 0.55 else "black"
                axes.text(j, i, f"{weights[i, j]:.2f}", ha="center", va="center", fontsize=9, color=colour)
    return shown(figure)


def shares(words: Sequence[str], points: Tensor, weights: Tensor, title: str) -> Figure:
    """One row of weights as bars, with the points that each word was given."""
    figure, axes = new_figure(title, "word (points)", "share", height=3.2)
    places = range(len(words))
    axes.bar(places, weights.tolist(), color=COLOURS[0], width=0.6)
    axes.set_xticks(places, [f"{word}\n({point:g})" for word, point in zip(words, points.tolist(), strict=True)])
    for i, weight in enumerate(weights.tolist()):
        axes.annotate(f"{weight:.2f}", (i, weight), xytext=(0, 3), textcoords="offset points", ha="center")
    axes.set_ylim(0, 1)
    return shown(figure)


def keys_in_use(widths: Sequence[int], plain: Sequence[float], scaled: Sequence[float], n_keys: int) -> Figure:
    """How many keys a query in effect looks at, by the width D of queries and keys, without and with the root."""
    figure, axes = new_figure(
        f"Among how many of {n_keys} keys does a query share its attention?",
        "width D of queries and keys (logarithmic)",
        "keys in use (e to the entropy)",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    for i, (text, values) in enumerate((("q · k", plain), ("q · k / √D", scaled))):
        axes.plot(widths, values, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        label_line(axes, widths[-1], values[-1], text, COLOURS[i])
    axes.set_ylim(0, n_keys)
    axes.set_xlim(widths[0] / 1.2, widths[-1] * 2.6)  # room for the names of the lines
    return shown(figure)


def masks(words: Sequence[str], tables: Mapping[str, Tensor]) -> Figure:
    """Masks (T, S) side by side, their queries being the last T words: blue may be looked at, grey may not."""
    figure, left = new_figure("", "", "", width=4.1 * len(tables), height=3.6)
    figure.delaxes(left)
    for i, (title, mask) in enumerate(tables.items()):
        axes = figure.add_subplot(1, len(tables), i + 1)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlabel("key: the word that is looked at")
        axes.set_ylabel("query: the word that looks" if i == 0 else "")
        T, S = mask.shape
        _table(axes, words[S - T : S], words[:S], first_row=S - T)
        axes.set_aspect("equal")
        axes.set_xlim(-0.5, S - 0.5)
        axes.set_ylim(S - 0.5, -0.5)  # the same for every table, so that a word keeps its height
        for row in range(T):
            for column in range(S):
                _cell(axes, S - T + row, column, "#8FC1E3" if mask[row, column] else HIDDEN)
                if mask[row, column]:
                    axes.text(column, S - T + row, "✓", ha="center", va="center", fontsize=11)
    return shown(figure)


def losses(curves: Mapping[str, Sequence[float]], smooth: int) -> Figure:
    """Training losses by step, averaged over `smooth` steps each."""
    figure, axes = new_figure(
        "Which way of looking back predicts the next character best?",
        "training step",
        "loss (nats per character)",
    )
    ends = []
    for i, (name, values) in enumerate(curves.items()):
        n = len(values) // smooth
        y = [sum(values[k * smooth : (k + 1) * smooth]) / smooth for k in range(n)]
        x = [(k + 0.5) * smooth for k in range(n)]
        axes.plot(x, y, color=COLOURS[i], linestyle=DASHES[i])
        ends.append((x[-1], y[-1], name, COLOURS[i]))
    axes.set_ylim(bottom=0)
    label_lines(axes, ends)
    return shown(figure)


def weight_and_contribution(words: Sequence[str], weights: Tensor, contributions: Tensor) -> Figure:
    """Two rows of bars, one above the other: how much each word is looked at, and how much comes from it."""
    figure, above = new_figure("Where does the query look?", "", "weight", height=4.6)
    figure.delaxes(above)
    rows = (
        ("Where does the query look?", "weight", weights),
        ("What does it get from there?", "weight × length", contributions),
    )
    for i, (title, name, values) in enumerate(rows):
        axes = figure.add_subplot(2, 1, i + 1)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.bar(range(len(words)), values.tolist(), color=COLOURS[i], width=0.6)
        axes.set_xticks(range(len(words)), words)
        axes.set_ylim(0, 1.25 * float(values.max()))
        for j, value in enumerate(values.tolist()):
            axes.annotate(f"{value:.2f}", (j, value), xytext=(0, 3), textcoords="offset points", ha="center")
    return shown(figure)


def times(lengths: Sequence[int], lines: Mapping[str, Sequence[float]]) -> Figure:
    """Seconds by length of the text, both on logarithmic axes, where a power of T is a straight line."""
    figure, axes = new_figure(
        "A text twice as long: how much more time?", "length T of the text (tokens)", "time (milliseconds)"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for i, (name, seconds) in enumerate(lines.items()):
        milliseconds = [1000 * s for s in seconds]
        axes.plot(lengths, milliseconds, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        label_line(axes, lengths[-1], milliseconds[-1], name, COLOURS[i])
    return shown(figure)


def _table(axes: Axes, rows: Sequence[str], columns: Sequence[str], first_row: int = 0):
    """Words on both axes, and no lines."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(first_row, first_row + len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)


def _cell(axes: Axes, row: int, column: int, colour: str):
    """Fill one cell of a table."""
    left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
    axes.fill(
        [left, right, right, left], [top, top, bottom, bottom], facecolor=colour, edgecolor="white", linewidth=0.8
    )
