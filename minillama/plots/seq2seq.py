"""The figures of chapter 08: what a decoder reads and says, where it looks, and what a leak does to a loss."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_line, new_figure, shown

NOT_COUNTED = "0.88"  # the grey of what the loss does not count
READ, SAID = "#CFE3F1", "#F6D9C2"  # pale blue and orange


def read_and_said(inputs: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> Figure:
    """What the decoder reads, and under it what it shall say, for each sentence of a batch; "-100" is grey."""
    title = "After each token that it reads: what shall the decoder say?"
    n_columns = len(inputs[0])
    figure, axes = new_figure(title, "place in the target", "", width=1.6 + 0.82 * n_columns,
                              height=1.1 + 1.05 * len(inputs))  # fmt: skip
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    heights, names = [], []
    for i, pair in enumerate(zip(inputs, labels, strict=True)):
        for j, (name, words, colour) in enumerate(zip(("reads", "says"), pair, (READ, SAID), strict=True)):
            y = 2.4 * i + j
            heights.append(y)
            names.append(name)
            for x, word in enumerate(words):
                hidden = word in ("-100", "<pad>")
                _cell(axes, y, x, NOT_COUNTED if hidden else colour)
                axes.text(x, y, word, ha="center", va="center", fontsize=10, color="0.45" if hidden else "black")
    axes.set_xticks(range(n_columns), [str(x) for x in range(n_columns)])
    axes.set_yticks(heights, names)
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(max(heights) + 0.55, -0.55)
    return shown(figure)


def alignment(target: Sequence[str], source: Sequence[str], weights: Tensor, title: str) -> Figure:
    """Where each target word looks in the source: weights (T, S) as shades of blue, words on both axes."""
    T, S = weights.shape
    figure, axes = new_figure(title, "word of the source that is looked at", "word that is being written",
                              width=max(5.4, 2.0 + 0.56 * S), height=1.3 + 0.34 * T)  # fmt: skip
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.imshow(weights.detach(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(T):
        for j in range(S):
            if weights[i, j] >= 0.15:
                colour = "white" if weights[i, j] > 0.55 else "black"
                axes.text(j, i, f"{weights[i, j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(S), source)
    axes.set_yticks(range(T), target)
    return shown(figure)


def search_tree(
    first: Sequence[tuple[str, float]],
    second: Sequence[Sequence[tuple[str, float, float]]],
    greedy: tuple[int, int],
    best: tuple[int, int],
) -> Figure:
    """Two tokens that may be written: for each first one its share, for each second one its share and the product.

    greedy, best: which branches these are, (first, second).
    """
    figure, axes = new_figure("Is the best beginning the beginning of the best text?", "", "", width=7.4, height=4.4)
    axes.axis("off")
    gap, y, tops = 1.0, 0.0, []
    for i, leaves in enumerate(second):
        heights = [y - gap * k for k in range(len(leaves))]
        middle = sum(heights) / len(heights)
        tops.append(middle)
        for k, ((word, share, product), height) in enumerate(zip(leaves, heights, strict=True)):
            colour, style, width = _branch((i, k), greedy, best)
            axes.plot([1.15, 2], [middle, height], color=colour, linestyle=style, linewidth=width)
            axes.text(1.62, middle + 0.55 * (height - middle), f"{share:g}", ha="center", va="center", fontsize=9,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # fmt: skip
            axes.text(2.04, height, f"{word}", va="center", fontsize=10)
            note = "   the best" if (i, k) == best else "   greedy" if (i, k) == greedy else ""
            axes.text(2.42, height, f"{product:.2f}{note}", va="center", fontsize=10,
                      color=colour if note else "0.35")  # fmt: skip
        y = heights[-1] - 1.6 * gap
    root = sum(tops) / len(tops)
    for i, ((word, share), middle) in enumerate(zip(first, tops, strict=True)):
        colour, style, width = _branch((i,), greedy[:1], best[:1])
        axes.plot([0.1, 1], [root, middle], color=colour, linestyle=style, linewidth=width)
        axes.text(0.55, (root + middle) / 2, f"{share:g}", ha="center", va="center", fontsize=9,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # fmt: skip
        axes.text(1.075, middle, word, ha="center", va="center", fontsize=10)
    axes.text(0.05, root, "start", ha="right", va="center", fontsize=10)
    axes.text(2.42, 0.9, "both shares multiplied", fontsize=9, color="0.35")
    axes.set_xlim(-0.2, 3.3)
    axes.set_ylim(y + 1.0, 1.3)
    return shown(figure)


def _branch(place: tuple[int, ...], greedy: tuple[int, ...], best: tuple[int, ...]) -> tuple[str, str, float]:
    """Colour, dashes and width of a line of the tree."""
    if place == best:
        return COLOURS[0], "-", 2.2
    return (COLOURS[1], "--", 2.2) if place == greedy else ("0.7", "-", 1.0)


def right_by_length(groups: Sequence[str], lines: Mapping[str, Sequence[float]], counts: Sequence[int]) -> Figure:
    """Which percentage of sentences is translated without a mistake, by how long they are."""
    figure, axes = new_figure(
        "Does a longer sentence get harder to translate?",
        "words in the English sentence (sentences tested)",
        "translated without a mistake (%)",
    )
    places = range(len(groups))
    for i, (name, shares) in enumerate(lines.items()):
        y = [100 * share for share in shares]
        axes.plot(places, y, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=5)
        label_line(axes, places[-1], y[-1], name, COLOURS[i], dy=6 - 12 * i)
    axes.set_xticks(places, [f"{group}\n({n})" for group, n in zip(groups, counts, strict=True)])
    axes.set_ylim(0, 103)
    axes.margins(x=0.04)
    return shown(figure)


def losses(curves: Mapping[str, Sequence[float]], smooth: int) -> Figure:
    """Training losses by step, averaged over `smooth` steps each."""
    figure, axes = new_figure(
        "Which of the two learns to predict the next word?", "training step", "loss (nats per word)"
    )
    for i, (name, values) in enumerate(curves.items()):
        n = len(values) // smooth
        y = [sum(values[k * smooth : (k + 1) * smooth]) / smooth for k in range(n)]
        x = [(k + 0.5) * smooth for k in range(n)]
        axes.plot(x, y, color=COLOURS[i], linestyle=DASHES[i])
        lifted = 8 if y[-1] < 0.03 * max(values) else 0  # off the axis
        label_line(axes, x[-1], y[-1], f"{name}: {y[-1]:.2f}", COLOURS[i], dy=lifted)
    axes.set_ylim(bottom=0)
    return shown(figure)


def _cell(axes: Axes, row: float, column: float, colour: str):
    """Fill one cell of a table."""
    left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
    axes.fill(
        [left, right, right, left], [top, top, bottom, bottom], facecolor=colour, edgecolor="white", linewidth=1.2
    )
