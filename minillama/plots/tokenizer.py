"""Figures of chapter 02: words that never end, merges, tokens of a line, what a vocabulary buys and costs."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from minillama.plots import COLOURS, DASHES, label_line, new_figure, shown

SIGNS = {" ": "␣", "\n": "↵"}  # what can't be seen in a box
TINTS = ("#DCEBF7", "#FBE6D6", "#DDF1EA", "#F6E5EF")


def visible(text: str) -> str:
    """The text, with a sign for the space and for the end of a line."""
    return "".join(SIGNS.get(character, character) for character in text)


def _rows_of_boxes(axes: Axes, rows: Mapping[str, Sequence[str]], notes: Sequence[str]):
    """One row per name: the pieces of a text in boxes, as wide as they are long, and a note at the end."""
    longest = max(sum(map(len, pieces)) for pieces in rows.values())
    for y, (name, pieces) in enumerate(rows.items()):
        axes.text(-0.6, -y, name, ha="right", va="center", fontsize=10)
        x = 0
        for i, piece in enumerate(pieces):
            tint = TINTS[i % 2] if len(piece) > 1 else "white"
            axes.add_patch(
                FancyBboxPatch(
                    (x + 0.07, -y - 0.31), len(piece) - 0.14, 0.62, boxstyle="round,pad=0,rounding_size=0.12",
                    facecolor=tint, edgecolor="0.35", linewidth=0.8,
                )
            )  # fmt: skip
            for k, character in enumerate(visible(piece)):
                axes.text(x + k + 0.5, -y, character, ha="center", va="center", fontsize=9, family="monospace")
            x += len(piece)
        axes.text(longest + 0.5, -y, notes[y], va="center", fontsize=10, color=COLOURS[0])
    axes.set_xlim(-0.4, longest + 0.4)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def merges(rows: Mapping[str, Sequence[str]]) -> Figure:
    """A text after each merge: {what was merged: the pieces that there are then}."""
    n = max(sum(map(len, pieces)) for pieces in rows.values())
    figure, axes = new_figure(
        "How does a text get shorter?", "", "", width=3.6 + 0.33 * n, height=0.7 + 0.5 * len(rows)
    )
    _rows_of_boxes(axes, rows, [f"{len(pieces)} tokens" for pieces in rows.values()])
    return shown(figure)


def tokens_of_a_line(rows: Mapping[str, Sequence[str]]) -> Figure:
    """One line, cut by several vocabularies: {vocabulary: pieces}."""
    n = max(sum(map(len, pieces)) for pieces in rows.values())
    figure, axes = new_figure(
        "What does a model see of a line?", "", "", width=2.3 + 0.17 * n, height=0.7 + 0.46 * len(rows)
    )
    _rows_of_boxes(axes, rows, [f"{len(pieces)} tokens" for pieces in rows.values()])
    return shown(figure)


def kinds_by_text(places: Sequence[int], kinds: Mapping[str, Sequence[int]]) -> Figure:
    """How many different words, characters, ... a text has shown after so many words."""
    figure, axes = new_figure(
        "Is there an end to the words?", "words read so far (thousands)", "different ones among them"
    )
    for i, (name, numbers) in enumerate(kinds.items()):
        axes.plot([place / 1000 for place in places], numbers, color=COLOURS[i], linestyle=DASHES[i])
        label_line(axes, places[-1] / 1000, numbers[-1], f"{numbers[-1]:,} {name}", COLOURS[i], dy=7)
    axes.set_ylim(bottom=-300)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return shown(figure)


def compression(sizes: Sequence[int], lengths: Mapping[str, Sequence[float]]) -> Figure:
    """Characters per token for several sizes of the vocabulary, a line per algorithm."""
    figure, axes = new_figure(
        "How much text does a token hold?",
        "size of the vocabulary (each tick twice the last)",
        "characters per token, on unseen text",
    )
    for i, (name, values) in enumerate(lengths.items()):
        axes.plot(sizes, values, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        label_line(axes, sizes[-1], values[-1], name, COLOURS[i], dy=(8, -3, -8)[i % 3])
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0.8, None)
    return shown(figure)


def two_scores(losses: Mapping[str, float], bits: Mapping[str, float]) -> Figure:
    """The same models on two scales: nats per token on the left, bits per byte on the right."""
    figure = Figure(figsize=(9, 2.9), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("Nats per token: not comparable", "Bits per byte: comparable")
    for i, (axes, values) in enumerate(zip(panels, (losses, bits), strict=True)):
        names = list(values)[::-1]
        axes.barh(range(len(names)), [values[name] for name in names], height=0.55, color=COLOURS[i])
        for y, name in enumerate(names):
            axes.text(values[name] * 0.98, y, f"{values[name]:.2f}", ha="right", va="center", color="white")
        axes.set_yticks(range(len(names)), names if i == 0 else [])
        axes.tick_params(axis="y", length=0)
        axes.set_title(titles[i], loc="left", fontsize=12)
        axes.set_xlabel(("loss (nats per token)", "bits per byte")[i] + ", lower is better")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    return shown(figure)


def languages(tokens: Mapping[str, int], characters: Mapping[str, int]) -> Figure:
    """Tokens of the same sentence in several languages; beside each bar, how many characters it has."""
    figure, axes = new_figure(
        "What does the same sentence cost?", "tokens (one per byte would be the most)", "", 8, 0.9 + 0.42 * len(tokens)
    )
    names = sorted(tokens, key=lambda name: tokens[name], reverse=True)
    axes.barh(range(len(names)), [tokens[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.9")
    for y, name in enumerate(names):
        text = f"{tokens[name]} tokens for {characters[name]} characters"
        axes.text(tokens[name] + 5, y, text, va="center", fontsize=9)
    axes.set_xlim(0, 1.42 * max(tokens.values()))
    return shown(figure)


def costs_by_share(shares: Sequence[float], tokens: Mapping[str, Sequence[float]], n_merges: int) -> Figure:
    """Tokens per sentence in each language, by how much of the tokenizer's training text was Chinese."""
    figure, axes = new_figure(
        f"Who gets the {n_merges} merges?", "share of Chinese in the text the tokenizer learned from (%)",
        "tokens per sentence",
    )  # fmt: skip
    for i, (name, values) in enumerate(tokens.items()):
        axes.plot(
            [100 * share for share in shares], values, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4
        )
        label_line(axes, 100, values[-1], f"{name} {values[-1]:.0f}", COLOURS[i])
        axes.annotate(
            f"{values[0]:.0f}", (0, values[0]), xytext=(6, 6), textcoords="offset points", color=COLOURS[i], ha="left"
        )
    axes.set_ylim(0, None)
    return shown(figure)


def share_of_parameters(shares: Mapping[str, float]) -> Figure:
    """How much of a model is the table of its tokens, in and out (share of all parameters, from 0 to 1)."""
    figure, axes = new_figure(
        "How much of a model is its vocabulary?", "share of all parameters (%)", "", 8, 0.9 + 0.42 * len(shares)
    )
    names = list(shares)[::-1]
    axes.barh(range(len(names)), [100 * shares[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.9")
    for y, name in enumerate(names):
        axes.text(100 * shares[name] + 0.3, y, f"{100 * shares[name]:.1f} %", va="center", fontsize=9)
    axes.set_xlim(0, 112 * max(shares.values()))
    return shown(figure)
