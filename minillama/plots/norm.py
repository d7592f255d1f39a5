"""The figures of chapter 07: lengths and slopes by depth, what a norm does to a token, three ways to stack."""

from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import Circle

from minillama.plots import COLOURS, DASHES, label_line, label_lines, new_figure, shown


def _in_words(value: float) -> str:
    """A number of any size, short: 0.0000005, 6.4, 956,000, 9.2e13."""
    if value >= 1e9:
        return f"{value:.1e}".replace("e+", "e")
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.7f}"


def lengths_by_depth(lengths: dict[str, list[float]], title: str) -> Figure:
    """The length of one token's vector before the first layer and after each, for some ways to stack the layers."""
    figure, axes = new_figure(title, "layer", "root mean square of the vector")
    axes.set_yscale("log")
    n = max(map(len, lengths.values()))
    axes.set_xlim(0, (n - 1) * 1.5)
    axes.set_xticks(range(0, n, 10))
    ends: list[tuple[float, float, str, str]] = []
    for i, (name, values) in enumerate(lengths.items()):
        axes.plot(values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        ends.append((len(values) - 1.0, values[-1], f"{name}: {_in_words(values[-1])}", COLOURS[i]))
    label_lines(axes, ends)
    return shown(figure)


def first_slopes(depths: list[int], slopes: dict[str, list[float]]) -> Figure:
    """How long the gradient of the first layer is, in stacks of more and more layers."""
    figure, axes = new_figure(
        "How much of the score reaches the first layer?", "layers in the stack", "gradient of the first layer (length)"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for i, (name, values) in enumerate(slopes.items()):
        axes.plot(depths, values, marker="o", markersize=4, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        label_line(axes, depths[-1], values[-1], name, COLOURS[i])
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_xlim(depths[0], depths[-1] * 4)
    return shown(figure)


def steps_of_a_norm(rows: dict[str, list[float]]) -> Figure:
    """The numbers of one token on a number line, after each step; the same channel has the same letter."""
    figure, axes = new_figure("What becomes of the four numbers of one token?", "", "", height=2.9)
    for y, values in zip(range(len(rows) - 1, -1, -1), rows.values(), strict=True):
        axes.axhline(y, color="0.8", linewidth=1, zorder=0)
        ranks = sorted(values)
        crowded = min(b - a for a, b in pairwise(ranks)) < 1.5  # then every second label goes below
        for i, value in enumerate(values):
            axes.plot(value, y, "o", color=COLOURS[i], markersize=9)
            below = crowded and ranks.index(value) % 2
            text = f"{'abcd'[i]} {value:g}"
            axes.annotate(
                text, (value, y), xytext=(0, -10 if below else 9), textcoords="offset points", ha="center",
                va="top" if below else "bottom", color=COLOURS[i], fontsize=9,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), list(reversed(rows)))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color="0.6", linewidth=1, zorder=0)
    axes.grid(False)
    return shown(figure)


def table_of_slopes(slopes: list[list[float]]) -> Figure:
    """Row i: which outputs move, and how fast, when channel i of the input is nudged."""
    figure, axes = new_figure("Nudge one channel: which outputs move?", "output", "nudged input", width=5.2, height=3.8)
    n, largest = len(slopes), max(abs(slope) for row in slopes for slope in row)
    image = axes.imshow(slopes, cmap="PuOr", vmin=-largest, vmax=largest)
    for i, row in enumerate(slopes):
        for j, slope in enumerate(row):
            ink = "white" if abs(slope) > 0.6 * largest else "black"
            axes.text(j, i, f"{slope:+.3f}", ha="center", va="center", color=ink)
    axes.set_xticks(range(n), list("abcd"[:n]))
    axes.set_yticks(range(n), list("abcd"[:n]))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="slope (output per input)")
    return shown(figure)


def onto_a_circle(before: list[tuple[float, float]], after: list[tuple[float, float]], radius: float) -> Figure:
    """Tokens of two channels before and after a norm, each pair joined by a line."""
    figure, axes = new_figure(
        "Where does RMSNorm put a token of two channels?", "channel 0", "channel 1", width=6.6, height=4.3
    )
    axes.add_patch(Circle((0, 0), radius, fill=False, color="0.6", linewidth=1))
    for (x0, y0), (x1, y1) in zip(before, after, strict=True):
        axes.annotate("", (x1, y1), xytext=(x0, y0), arrowprops={"arrowstyle": "->", "color": "0.6", "linewidth": 0.9})
    for points, marker, colour, name in ((before, "o", COLOURS[0], "before"), (after, "s", COLOURS[1], "after")):
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=6, label=name)
    axes.text(-0.45, 0.05, f"radius {radius:.2f}", ha="center", color="0.35", fontsize=9)
    axes.legend(loc="upper left", frameon=False)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(axis="both", color="0.93")
    return shown(figure)


def outputs_by_input_length(lengths: list[float], outputs: dict[str, list[float]], marks: dict[str, float]) -> Figure:
    """How long a token comes out of a norm, by how long it went in; `marks` are lengths worth a vertical line."""
    figure, axes = new_figure(
        "For which tokens does RMSNorm do its work?", "root mean square of the input", "root mean square of the output"
    )
    axes.set_xscale("log")
    for i, (name, values) in enumerate(outputs.items()):
        axes.plot(lengths, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2.2 - 0.4 * i, label=name)
    for i, (text, x) in enumerate(marks.items()):
        axes.axvline(x, color="0.7", linewidth=1, zorder=0)
        side = -1 if i == 0 else 1
        axes.annotate(text, (x, 1.16), xytext=(4 * side, 0), textcoords="offset points", fontsize=9, color="0.35",
                      ha="right" if i == 0 else "left")  # fmt: skip
    axes.set_ylim(-0.05, 1.25)
    axes.legend(loc="center left", bbox_to_anchor=(0.42, 0.4), frameon=False)
    return shown(figure)


def stream_by_depth(lengths: list[list[float]], characters: str) -> Figure:
    """How long each token's vector is before the first block and after each; a row per block, a column per token."""
    names = ["embedding", *(f"after block {i}" for i in range(1, len(lengths)))]
    figure, axes = new_figure("How does the stream of a trained model grow?", "", "", width=9.0, height=3.2)
    image = axes.imshow(lengths, cmap="Greys", aspect="auto", vmin=0)
    middle = max(max(row) for row in lengths) / 2
    for i, row in enumerate(lengths):
        for j, value in enumerate(row):
            ink = "white" if value > middle else "black"
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(characters)), ["␣" if c == " " else c for c in characters], fontsize=11)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="root mean square")
    return shown(figure)


def slopes_by_layer(slopes: dict[str, list[float]], title: str) -> Figure:
    """How long the gradient of each layer's matrices is, for some kinds of stacks."""
    figure, axes = new_figure(title, "layer", "gradient of the layer's matrices (length)")
    axes.set_yscale("log")
    for i, (name, values) in enumerate(slopes.items()):
        axes.plot(range(1, len(values) + 1), values, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        label_line(axes, len(values), values[-1], name, COLOURS[i])
    axes.set_xlim(0.5, len(values) * 1.25)
    axes.set_xticks([1, *range(4, len(values) + 1, 4)])
    return shown(figure)


def stacks_in_training(panels: dict[str, dict[str, list[float]]], knows_nothing: float, knows_letters: float) -> Figure:
    """Training losses of several models, in panels side by side; two levels to compare with."""
    figure = Figure(figsize=(9.5, 4.2), dpi=110, layout="constrained")
    for i, (axes, (title, curves)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True)
    ):
        n = max(map(len, curves.values()))
        axes.set_title(f"Which stack learns, from {title}?", loc="left", fontsize=12)
        axes.set_xlabel("step")
        axes.set_ylabel("" if i else "loss (nats per character)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, n * 1.3)
        axes.set_ylim(1.7, 4.5)
        for level, text in ((knows_nothing, "knows nothing"), (knows_letters, "knows only the letters")):
            axes.plot([0, n], [level, level], color="0.75", linewidth=1, zorder=0)
            axes.annotate(text, (n, level), xytext=(0, 4), textcoords="offset points", fontsize=8, ha="right")
        for j, (name, curve) in enumerate(curves.items()):
            if not curve:
                axes.annotate(f"{name}: not a number from the first step on", (0.03, 0.03), xycoords="axes fraction",
                              color=COLOURS[j])  # fmt: skip
            axes.plot(range(1, len(curve) + 1), curve, color=COLOURS[j], linestyle=DASHES[j], linewidth=1.8)
        ends = [(float(n), curve[-1], name, COLOURS[j]) for j, (name, curve) in enumerate(curves.items()) if curve]
        label_lines(axes, ends)
    return shown(figure)
