"""Figures of chapter 06: who looks where in another order, waves, clock hands, layouts, losses by position."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle, Rectangle
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_lines, new_figure, shown


def two_orders(sentences: Mapping[str, Tensor], title: str) -> Figure:
    """Attention weights (T, T) of sentences side by side, their words on both axes. sentences: {"a b c": weights}"""
    figure, first = new_figure("", "", "", width=4.0 * len(sentences), height=3.7)
    figure.delaxes(first)
    for i, (sentence, weights) in enumerate(sentences.items()):
        words = sentence.split()
        axes = figure.add_subplot(1, len(sentences), i + 1)
        axes.set_title(f"{title}\n“{sentence}”" if i == 0 else f"\n“{sentence}”", loc="left", fontsize=12)
        axes.imshow(weights.detach(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(words)), words)
        axes.set_yticks(range(len(words)), words)
        axes.set_xlabel("key: the word that is looked at")
        axes.set_ylabel("query: the word that looks" if i == 0 else "")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, line in enumerate(weights.tolist()):
            for column, weight in enumerate(line):
                colour = "white" if weight > 0.55 else "black"
                axes.text(column, row, f"{weight:.2f}", ha="center", va="center", color=colour)
    return shown(figure)


def waves(rows: Tensor) -> Figure:
    """A row of waves for each position, as shades. rows: (T, C), numbers from -1 to 1"""
    figure, axes = new_figure(
        "What does each position look like?", "channel: sine and cosine by turns, from fast to slow", "position",
        width=8, height=4.6,
    )  # fmt: skip
    axes.grid(False)
    picture = axes.imshow(rows, cmap="Greys", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="number in the channel", ticks=[-1, 0, 1])
    return shown(figure)


def hands(angles: Tensor) -> Figure:
    """A clock for each position and each pair, its hand at the angle (radians, from 3 o'clock, counter-clockwise).

    angles: (T, pairs)
    """
    n_positions, n_pairs = angles.shape
    figure, axes = new_figure(
        "Where do the hands of one query stand?", "position", "", width=8.4, height=0.9 + 7.6 * n_pairs / n_positions
    )
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal")
    for t in range(n_positions):
        for i in range(n_pairs):
            angle = float(angles[t, i])
            axes.add_patch(Circle((t, -i), 0.42, fill=False, edgecolor="0.75"))
            axes.plot([t, t + 0.4 * math.cos(angle)], [-i, -i + 0.4 * math.sin(angle)], color=COLOURS[0], linewidth=2)
            axes.plot([t], [-i], ".", color=COLOURS[0], markersize=4)
    axes.set_xlim(-0.6, n_positions - 0.4)
    axes.set_ylim(-n_pairs + 0.4, 0.6)
    axes.set_xticks(range(n_positions))
    axes.set_yticks([-i for i in range(n_pairs)], [f"pair {i}" for i in range(n_pairs)])
    axes.tick_params(length=0)
    return shown(figure)


def layouts(names: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Which channels of a head are the two numbers of one hand. names: {"half-split": [(0, 4), (1, 5), ...]}"""
    n_channels = 2 * len(next(iter(names.values())))
    apart = 2.9  # from one row of boxes to the next, in boxes
    figure, axes = new_figure(
        "Which two channels make one hand?", "channel", "", width=8.4, height=0.9 + 1.9 * len(names)
    )
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal")
    for row, (name, pairs) in enumerate(names.items()):
        base = -apart * row
        axes.annotate(name, (-0.7, base), ha="right", va="center")
        for i, (left, right) in enumerate(pairs):
            colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
            width = right - left
            arc = Arc(((left + right) / 2, base + 0.42), width, 0.5 + 0.55 * width, theta1=0, theta2=180)
            arc.set(color=colour, linestyle=dashes, linewidth=1.8)
            axes.add_patch(arc)
            for channel in (left, right):
                box = Rectangle((channel - 0.42, base - 0.42), 0.84, 0.84, edgecolor=colour, facecolor="white")
                axes.add_patch(box)
                axes.annotate(f"hand {i}", (channel, base), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlim(-2.2, n_channels - 0.4)
    axes.set_ylim(-apart * (len(names) - 1) - 0.6, 1.95)
    axes.set_xticks(range(n_channels))
    axes.set_yticks([])
    axes.tick_params(length=0)
    return shown(figure)


def scores_by_distance(distances: Sequence[int], scores: Mapping[str, Sequence[float]]) -> Figure:
    """The score of one query and one key by their distance, for three places of the query; the lines may coincide."""
    figure, axes = new_figure(
        "Does the score know where in the text we are?", "distance from the query back to the key (tokens)",
        "score q · k / √D",
    )  # fmt: skip
    styles = (  # so that lines that coincide stay visible: wide, then narrow, then dots
        ({"linewidth": 6, "alpha": 0.35}, "wide line"),
        ({"linestyle": "--", "linewidth": 1.5}, "dashes"),
        ({"linestyle": "none", "marker": "o", "markersize": 5, "markevery": 4}, "dots"),
    )
    for i, ((name, values), (style, word)) in enumerate(zip(scores.items(), styles, strict=True)):
        axes.plot(distances, values, color=COLOURS[i], **style)
        axes.annotate(
            f"{name} ({word})",
            (0.99, 0.97 - 0.08 * i),
            xycoords="axes fraction",
            ha="right",
            va="top",
            color=COLOURS[i],
        )
    axes.margins(x=0.02)
    return shown(figure)


def loss_by_position(
    curves: Mapping[str, Sequence[float]],
    every: int,
    trained: int,
    title: str,
    unit: str,
    nothing: float,
    first: int = 0,
) -> Figure:
    """Losses along a text, each the mean of `every` places, the first one at place `first`.

    trained: length of the texts in training. nothing: the loss of no idea at all. unit: of the places, "character".
    """
    figure, axes = new_figure(title, f"place in the text ({unit}s)", f"loss (nats per {unit})", width=8)
    end = first + every * max(map(len, curves.values()))
    ends = [(end, nothing, f"knowing nothing {nothing:.2f}", "0.35")]
    for i, (name, losses) in enumerate(curves.items()):
        places = [first + (k + 0.5) * every for k in range(len(losses))]
        axes.plot(places, losses, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.8)
        ends.append((end, float(losses[-1]), name, COLOURS[i]))
    highest = max(nothing, *(max(losses) for losses in curves.values()))
    axes.set_ylim(-0.02 * highest, 1.06 * highest)
    axes.axhline(nothing, color="0.45", linewidth=1)
    axes.axvline(trained, color="0.45", linewidth=1)
    axes.annotate(
        f"in training: {trained} {unit}s", (trained, 0.05), xycoords=("data", "axes fraction"), xytext=(5, 0),
        textcoords="offset points", fontsize=9, color="0.35",
    )  # fmt: skip
    axes.set_xlim(0, end)
    label_lines(axes, ends)
    return shown(figure)


def turns(turns: Tensor, length: int) -> Figure:
    """How often each pair goes round in `length` positions, the fast ones first; those below 1 never do."""
    figure, axes = new_figure(
        f"Which hands have gone round in {length} positions?", "pair", "turns (logarithmic axis)", height=3.6
    )
    axes.set_yscale("log")
    whole = turns >= 1
    pairs = list(range(len(turns)))
    for chosen, colour, marker, text in ((whole, COLOURS[0], "o", "at least once"), (~whole, COLOURS[1], "s", "never")):
        xs = [i for i in pairs if chosen[i]]
        ys = [float(turns[i]) for i in xs]
        axes.plot(xs, ys, marker, color=colour, markersize=5)
        if xs:
            middle = len(xs) // 2
            axes.annotate(
                f"{text}: {len(xs)} pairs", (xs[middle], ys[middle]), xytext=(10, 6), textcoords="offset points",
                color=colour,
            )  # fmt: skip
    axes.axhline(1, color="0.45", linewidth=1)
    powers = [10.0**n for n in range(-3, 4) if turns.min() / 2 < 10.0**n < 2 * turns.max()]
    axes.set_yticks(powers, [f"{power:g}" for power in powers])
    axes.minorticks_off()
    return shown(figure)


def slowed_down(factors: Mapping[str, Tensor]) -> Figure:
    """By which factor three kinds of scaling slow down each pair. factors: {"linear": (pairs,)}"""
    figure, axes = new_figure(
        "How much does each pair slow down?", "pair (fast ones first)", "slowed down by the factor", height=3.6
    )
    shares = (0.08, 0.72, 0.12)  # where along its curve each name stands, clear of the other curves
    for i, ((name, values), share) in enumerate(zip(factors.items(), shares, strict=True)):
        axes.plot(range(len(values)), values.tolist(), color=COLOURS[i], linestyle=DASHES[i], linewidth=1.8)
        place = round(share * (len(values) - 1))
        offset = (0, 6) if i == 0 else (8, -15)
        axes.annotate(name, (place, float(values[place])), xytext=offset, textcoords="offset points", color=COLOURS[i])
    axes.set_ylim(0.6, 1.1 * max(float(values.max()) for values in factors.values()))
    return shown(figure)
