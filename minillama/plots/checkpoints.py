"""Figures of chapter 13: bytes of a file, bits of a number, 4-bit levels, mistakes, turns, layers, occupations."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minillama.plots import COLOURS, DASHES, label_lines, new_figure, shown

PALE = ("#CFE3F2", "#F7DCC8", "#C9EADD", "#F2DCE8")
PER_ROW = 16


def _bare(axes: Axes):
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])


def file_bytes(data: bytes, parts: Sequence[tuple[str, int, int]], title: str) -> Figure:
    """Every byte of a file in a box, 16 a row: as two hexadecimal digits, and as text. parts: name, begin, end."""
    n_rows = -(-len(data) // PER_ROW)
    figure, axes = new_figure(title, "", "", width=9.2, height=0.36 * n_rows + 0.9)
    _bare(axes)
    for p, (name, begin, end) in enumerate(parts):
        for i in range(begin, end):
            row, column = divmod(i, PER_ROW)
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=PALE[p % 4], edgecolor="white", linewidth=1.2))
            axes.text(
                column + 0.5, row + 0.52, f"{data[i]:02x}", ha="center", va="center", family="monospace", fontsize=9
            )
            text = chr(data[i]) if 33 <= data[i] < 127 else "␣" if data[i] == 32 else "·"
            axes.text(PER_ROW + 1.2 + 0.52 * column, row + 0.52, text, ha="center", va="center", family="monospace",
                      fontsize=9, color=COLOURS[p % 4])  # fmt: skip
        middle = (begin // PER_ROW + (end - 1) // PER_ROW) / 2 + 0.52
        axes.text(PER_ROW + 10.1, middle, name, va="center", fontsize=10, color=COLOURS[p % 4])
    for row in range(n_rows):
        axes.text(-0.4, row + 0.52, f"{row * PER_ROW}", ha="right", va="center", fontsize=8, color="0.4")
    axes.set_xlim(-1.6, PER_ROW + 14.6)
    axes.set_ylim(n_rows + 0.1, -0.3)
    return shown(figure)


def bits(rows: Mapping[str, str], splits: Mapping[str, tuple[int, int]], values: Mapping[str, str]) -> Figure:
    """The bits of one number in several types. splits: how many bits the exponent has, and how many the fraction."""
    figure, axes = new_figure("Which bits does bfloat16 keep?", "", "", width=9.2, height=2.5)
    _bare(axes)
    for row, (name, digits) in enumerate(rows.items()):
        exponent, _ = splits[name]
        for i, digit in enumerate(digits):
            kind = 0 if i == 0 else 1 if i <= exponent else 2
            axes.add_patch(Rectangle((i, row), 1, 0.72, facecolor=PALE[(1, 0, 2)[kind]], edgecolor="white"))
            axes.text(i + 0.5, row + 0.37, digit, ha="center", va="center", family="monospace", fontsize=10)
        axes.text(-0.5, row + 0.37, name, ha="right", va="center", fontsize=10)
        axes.text(len(digits) + 0.6, row + 0.37, values[name], va="center", fontsize=10)
    exponent = next(iter(splits.values()))[0]
    for i, (x, name) in enumerate(((0.5, "sign"), (1 + exponent / 2, "exponent"), (1 + exponent + 11.5, "fraction"))):
        axes.text(x, -0.16, name, ha="center", va="bottom", fontsize=9, color=(COLOURS[1], COLOURS[0], COLOURS[2])[i])
    axes.set_xlim(-4.6, 39.5)
    axes.set_ylim(len(rows), -0.8)
    return shown(figure)


def levels(numbers: Sequence[float], rebuilt: Sequence[float], grid: Sequence[float], title: str) -> Figure:
    """Numbers (rings) and what 4 bits make of them (dots), on the levels that there are."""
    figure, axes = new_figure(title, "place in the block", "weight", width=8.0, height=4.0)
    axes.grid(False)
    for level in grid:
        axes.axhline(level, color="0.85", linewidth=0.9, zorder=0)
    for i, (x, y) in enumerate(zip(numbers, rebuilt, strict=True)):
        axes.plot([i, i], [x, y], color="0.6", linewidth=1)
    axes.plot(range(len(numbers)), numbers, "o", color=COLOURS[0], markersize=6, fillstyle="none", label="before")
    axes.plot(range(len(rebuilt)), rebuilt, "o", color=COLOURS[1], markersize=3.5, label="after")
    axes.set_xticks(range(0, len(numbers), 4))
    axes.set_xlim(-1, len(numbers))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return shown(figure)


def turns(tokens: Sequence[tuple[int, str]], special: Sequence[int], title: str, width: float = 53) -> Figure:
    """The tokens of a conversation in boxes, with their ids; special ones are coloured, and a turn begins a new row."""
    rows: list[list[tuple[int, str, float]]] = [[]]
    for i, (number, text) in enumerate(tokens):
        box = max(2.4, 0.62 * len(text) + 1.0)
        new_turn = number in special and i > 0 and tokens[i - 1][1] == "↵"
        if new_turn or sum(b for *_, b in rows[-1]) + box > width:
            rows.append([])
        rows[-1].append((number, text, box))
    figure, axes = new_figure(title, "", "", width=9.8, height=0.62 * len(rows) + 0.7)
    _bare(axes)
    for r, row in enumerate(rows):
        x = 0.0
        for number, text, box in row:
            colour = PALE[1] if number in special else "#EEEEEE" if text == "↵" else "white"
            patch = Rectangle((x, r + 0.08), box - 0.25, 0.8, facecolor=colour, edgecolor="0.6", linewidth=0.8)
            axes.add_patch(patch)
            middle = x + (box - 0.25) / 2
            axes.text(middle, r + 0.36, text, ha="center", va="center", family="monospace", fontsize=8.5)
            axes.text(middle, r + 0.7, str(number), ha="center", va="center", fontsize=7, color="0.45")
            x += box
    axes.set_xlim(-0.2, width + 0.2)
    axes.set_ylim(len(rows) + 0.05, 0)
    return shown(figure)


def horizontal_bars(
    values: Mapping[str, float], texts: Mapping[str, str], title: str, x: str, mark: tuple[str, float] | None = None,
    highlight: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """A bar per name, from the first at the top, with a text at its end. mark: a name and a value for a dashed line."""
    figure, axes = new_figure(title, x, "", width=8.6, height=0.42 * len(values) + 1.3)
    axes.grid(False)
    largest = max([*values.values()] + ([mark[1]] if mark else []))
    for row, (name, value) in enumerate(values.items()):
        axes.barh(row, value, color=COLOURS[1] if name in highlight else COLOURS[0], height=0.66)
        axes.text(value + 0.012 * largest, row, texts[name], va="center", fontsize=10,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    if mark:
        axes.axvline(mark[1], color="0.45", linewidth=1, linestyle="--", zorder=0)
        axes.annotate(mark[0], (mark[1], 0), xytext=(6, 0), textcoords="offset points", color="0.35", va="center")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.32 * largest)
    return shown(figure)


def by_layer(curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """The probability of some words, read off after each layer."""
    figure, axes = new_figure(title, "after layer", "probability as the next word", width=7.6, height=4.0)
    n = len(next(iter(curves.values())))
    for i, curve in enumerate(curves.values()):
        axes.plot(range(1, n + 1), curve, color=COLOURS[i % 4], linestyle=DASHES[i % 4], linewidth=1.9)
    axes.set_ylim(-0.04, 1.02)
    axes.set_xlim(1, n * 1.18)
    axes.set_xticks([1, *range(5, n + 1, 5)] if n > 6 else range(1, n + 1))
    label_lines(axes, [(n, curve[-1], name, COLOURS[i % 4]) for i, (name, curve) in enumerate(curves.items())])
    return shown(figure)


def shares(values: Mapping[str, Sequence[float]], title: str, x: str, marks: Sequence[str]) -> Figure:
    """A row of marks per name, each a share from 0 to 1 in one sentence; the line shows how far they differ."""
    figure, axes = new_figure(title, x, "", width=7.8, height=0.34 * len(values) + 1.7)
    axes.grid(False)
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--", zorder=0)
    for row, dots in enumerate(values.values()):
        axes.plot([min(dots), max(dots)], [row, row], color="0.75", linewidth=1.5, zorder=1)
        for i, dot in enumerate(dots):
            label = marks[i] if row == 0 else None
            axes.plot(dot, row, "osD^"[i % 4], color=COLOURS[i % 4], markersize=6, zorder=2, label=label, linestyle="")
    axes.set_yticks(range(len(values)), list(values))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False)
    return shown(figure)
