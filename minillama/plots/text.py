"""Figures of chapter 01: characters, pairs of characters, surprise, windows."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_line, new_figure, shown

NAMES = {" ": "␣", "\n": "↵"}  # what can't be seen on an axis


def visible(characters: Sequence[str]) -> list[str]:
    """The characters, with a sign for the space and for the end of a line."""
    return [NAMES.get(character, character) for character in characters]


def character_shares(shares: Mapping[str, float]) -> Figure:
    """How often each character occurs, the most frequent first (share of the text, from 0 to 1)."""
    figure, axes = new_figure(
        "How often does each character occur?", "character (␣ space, ↵ end of line)", "share of the text (%)", width=9
    )
    ordered = sorted(shares, key=lambda character: -shares[character])
    places = range(len(ordered))
    axes.bar(places, [100 * shares[character] for character in ordered], color=COLOURS[0], width=0.8)
    axes.set_xticks(places, visible(ordered), fontsize=8, family="monospace")
    axes.set_xlim(-0.8, len(ordered) - 0.2)
    level = 100 / len(ordered)
    axes.axhline(level, color=COLOURS[1], linestyle=DASHES[1])
    axes.annotate(
        f"if all {len(ordered)} were equally frequent: {level:.1f} %",
        (len(ordered) - 0.4, level),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        color=COLOURS[1],
    )
    return shown(figure)


def bigram_table(probabilities: Tensor, characters: Sequence[str]) -> Figure:
    """Which character follows which: row a, column b, the darker the likelier. probabilities: (n, n)"""
    figure, axes = new_figure(
        "What comes after what?", "next character (␣ space, ↵ end of line)", "character that is there", 7.2, 6.4
    )
    axes.grid(False)
    picture = axes.imshow(probabilities.tolist(), cmap="Greys", norm=PowerNorm(0.5, 0, 1), aspect="equal")
    places, names = range(len(characters)), visible(characters)
    axes.set_xticks(places, names, family="monospace")
    axes.set_yticks(places, names, family="monospace")
    axes.set_xticks([i - 0.5 for i in places[1:]], minor=True)
    axes.set_yticks([i - 0.5 for i in places[1:]], minor=True)
    axes.grid(which="minor", color="0.93", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for row, (likeliest, share) in enumerate(
        zip(probabilities.argmax(-1).tolist(), probabilities.amax(-1).tolist(), strict=True)
    ):
        axes.add_patch(
            Rectangle((likeliest - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=1.4, zorder=3)
        )
        if share >= 0.3:
            axes.text(likeliest, row, f"{100 * share:.0f}", color="white", fontsize=7, ha="center", va="center")
    figure.colorbar(
        picture,
        ax=axes,
        shrink=0.7,
        label="probability of the next character\n(framed: the likeliest; numbers: in %, from 30 on)",
    )
    return shown(figure)


def surprise_curve(points: Mapping[str, float]) -> Figure:
    """How surprising an event of probability p is, -ln p, with some events by name: {name: p}"""
    figure, axes = new_figure(
        "How surprising is what had probability p?", "probability p that was given to it", "surprise, -ln p (nats)"
    )
    line = [i / 400 for i in range(3, 401)]
    axes.plot(line, [-math.log(p) for p in line], color=COLOURS[0])
    for name, p in points.items():
        axes.plot([p], [-math.log(p)], "o", color=COLOURS[1])
        axes.annotate(
            f"{name}: {abs(math.log(p)):.3f}",
            (p, -math.log(p)),
            xytext=(9, 5),
            textcoords="offset points",
            color=COLOURS[1],
        )
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylim(-0.15, 5)
    return shown(figure)


def surprise_along(text: str, nats: Sequence[float], nothing: float) -> Figure:
    """How surprising each character of a text is (nats[i] belongs to text[i]), and what knowing nothing would give."""
    figure, axes = new_figure(
        "Where is the table surprised?", "the text, character by character (␣ space, ↵ end of line)", "surprise (nats)",
        9, 3.6,
    )  # fmt: skip
    colours = [COLOURS[1] if n > nothing else COLOURS[0] for n in nats]
    axes.bar(range(len(text)), nats, color=colours, width=0.8)
    for place, colour in enumerate(colours):
        if colour == COLOURS[1]:
            axes.patches[place].set_hatch("///")
            axes.patches[place].set_edgecolor("white")
    axes.set_xticks(range(len(text)), visible(text), family="monospace", fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.8, len(text) - 0.2)
    axes.axhline(nothing, color="0.25", linestyle=DASHES[1])
    label_line(axes, len(text) - 0.2, nothing, f"knowing nothing\n{nothing:.3f}", "0.25")
    mean = sum(nats) / len(nats)
    axes.axhline(mean, color=COLOURS[0], linestyle=DASHES[2])
    label_line(axes, len(text) - 0.2, mean, f"mean {mean:.2f}", COLOURS[0])
    return shown(figure)


def bits_by_context(
    lengths: Sequence[int], training: Sequence[float], validation: Sequence[float], nothing: float
) -> Figure:
    """Bits per character of tables that look at more and more characters, on training and validation text."""
    figure, axes = new_figure(
        "Does a longer look back help?",
        "characters that the table looks at",
        "bits per character",
    )
    for i, (name, bits) in enumerate({"training text": training, "validation text": validation}.items()):
        axes.plot(lengths, bits, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        label_line(axes, lengths[-1], bits[-1], f"{name} {bits[-1]:.2f}", COLOURS[i])
    axes.axhline(nothing, color="0.4", linestyle=DASHES[2])
    label_line(axes, lengths[-1], nothing, f"knowing nothing {nothing:.2f}", "0.25", dy=8)
    best = min(range(len(lengths)), key=lambda i: validation[i])
    axes.annotate(
        f"best: {validation[best]:.2f}",
        (lengths[best], validation[best]),
        xytext=(0, 14),
        textcoords="offset points",
        ha="center",
        color=COLOURS[1],
    )
    axes.set_ylim(0, nothing + 0.5)
    return shown(figure)


def windows(text: str, length: int, starts: Sequence[int]) -> Figure:
    """Windows of a text and their targets, one row per start; a target beyond the end is a question mark."""
    figure, axes = new_figure(
        "Which windows fit?", "place in the text", "", 1.8 + 0.75 * len(text), 0.95 + 0.95 * (len(starts) + 1)
    )
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(text)))
    axes.set_xlim(-2.9, len(text) + 0.7)
    axes.set_ylim(-1.3 * len(starts) - 0.2, 0.75)
    axes.tick_params(length=0)

    def box(place, y, character, colour, dashed=False):
        axes.add_patch(
            Rectangle(
                (place - 0.46, y - 0.27), 0.92, 0.54, facecolor="white", edgecolor=colour, linewidth=1.4,
                linestyle="--" if dashed else "-",
            )
        )  # fmt: skip
        axes.text(place, y, character, ha="center", va="center", color=colour, family="monospace", fontsize=11)

    for place, character in enumerate(visible(text)):
        axes.text(place, 0.35, character, ha="center", va="center", family="monospace", fontsize=12, color="0.2")
    axes.text(-2.8, 0.35, "the text", va="center", color="0.2")
    for row, start in enumerate(starts):
        y = -1.3 * row - 0.55
        legal = start + length < len(text)
        axes.text(-2.8, y, f"start {start}: window", va="center", color=COLOURS[0])
        axes.text(-2.8, y - 0.56, "targets" if legal else "targets: one missing", va="center", color=COLOURS[1])
        for place in range(start, start + length):
            box(place, y, visible(text)[place] if place < len(text) else "?", COLOURS[0], place >= len(text))
            target = place + 1
            box(target, y - 0.56, visible(text)[target] if target < len(text) else "?", COLOURS[1],
                target >= len(text))  # fmt: skip
    return shown(figure)


def learning_curves(learned: Mapping[str, Sequence[float]], counted: Mapping[str, float]) -> Figure:
    """Loss of each learning table, step by step, and the loss of the table that was counted for it."""
    figure, axes = new_figure(
        "Does learning arrive where counting is?",
        "steps of training (each tick ten times the last)",
        "loss on the training text (nats per character)",
    )
    for i, (name, losses) in enumerate(learned.items()):
        axes.plot(range(1, len(losses) + 1), losses, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.2)
        axes.axhline(counted[name], color=COLOURS[i], linewidth=0.8, linestyle=DASHES[2])
        end = len(losses)
        last = sum(losses[-20:]) / len(losses[-20:])
        label_line(axes, end, last, f"{name}, learned", COLOURS[i], dy=9)
        label_line(axes, end, counted[name], f"counted {counted[name]:.2f}", COLOURS[i], dy=-7)
    axes.set_xscale("log")
    axes.set_xticks([10**i for i in range(5) if 10**i <= end], [f"{10**i:,}" for i in range(5) if 10**i <= end])
    axes.minorticks_off()
    axes.set_ylim(bottom=2.2)
    return shown(figure)


def scoreboard(bits: Mapping[str, float]) -> Figure:
    """Bits per character of several models, the worst on top."""
    figure, axes = new_figure(
        "How many bits does the next character cost?", "bits per character, on text that was not trained on", "",
        8, 0.9 + 0.42 * len(bits),
    )  # fmt: skip
    names = sorted(bits, key=lambda name: bits[name])
    axes.barh(range(len(names)), [bits[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.9")
    for i, name in enumerate(names):
        axes.text(bits[name] + 0.06, i, f"{bits[name]:.2f}", va="center", fontsize=9)
    axes.set_xlim(0, max(bits.values()) + 0.6)
    return shown(figure)
