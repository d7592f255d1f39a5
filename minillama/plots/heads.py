"""The figures of chapter 04: what heads can do, how they are cut, what they look at, what they cost."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillama.plots import COLOURS, DASHES, label_line, new_figure, shown

TINTS = ("#CFE3F2", "#F8D9C4", "#C9E8DD", "#F1DCE8")  # light versions of COLOURS, to write on


def errors_by_questions(errors: Mapping[int, Sequence[float]], expected: Mapping[int, Sequence[float]]) -> Figure:
    """What is left wrong by the number of questions, 1, 2, ...; a colour for each number of heads; dots: measured."""
    figure, axes = new_figure(
        "How many questions can a token ask at once? As many as it has heads.",
        "questions asked at once",
        "what is left wrong\n(0: nothing, 1: everything)",
    )
    for i, (n_heads, values) in enumerate(errors.items()):
        questions = range(1, len(values) + 1)
        axes.plot(questions, expected[n_heads], color=COLOURS[i], linestyle=DASHES[i])
        axes.plot(questions, values, color=COLOURS[i], linestyle="", marker="osD"[i], markersize=7)
        name = f"  {n_heads} head" + ("s" if n_heads > 1 else "")
        label_line(axes, len(values), values[-1], name, COLOURS[i])
    axes.set_xticks(questions)
    axes.set_ylim(-0.03, 1)
    axes.text(1.0, 0.93, "dots: measured after training\nlines: 1 - heads / questions", color="0.35", va="top")
    return shown(figure)


def who_gets_what(cuts: Mapping[str, Tensor], tokens: Sequence[str]) -> Figure:
    """For each way to cut, its heads (H, T, D) with their numbers, coloured by the token that a number comes from.

    The numbers say where they are from: 23 is token 2, channel 3.
    """
    figure, axes = new_figure("", "", "", width=3.6 * len(cuts), height=4.2)
    figure.delaxes(axes)
    for column, (title, heads) in enumerate(cuts.items()):
        H, T, D = heads.shape
        axes = figure.add_subplot(1, len(cuts), column + 1)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlim(-0.1, D)
        axes.set_ylim(H * (T + 0.9) - 0.4, -0.7)
        axes.axis("off")
        for h in range(H):
            top = h * (T + 0.9)
            axes.text(0, top - 0.15, f"head {h}", fontsize=10, color="0.35")
            for t in range(T):
                for d in range(D):
                    number = int(heads[h, t, d])
                    token = number // 10 - 1
                    axes.fill([d, d + 0.96, d + 0.96, d], [top + t, top + t, top + t + 0.93, top + t + 0.93],
                              color=TINTS[token])  # fmt: skip
                    axes.text(d + 0.48, top + t + 0.47, f"{number}  {tokens[token]}", ha="center", va="center")
    return shown(figure)


def attention_maps(maps: Mapping[str, Tensor], characters: Sequence[str], title: str) -> Figure:
    """Tables of weights (T, S) side by side, dark where a query (row) looks at a key (column)."""
    figure, axes = new_figure("", "", "", width=3.75 * len(maps), height=4.5)
    figure.delaxes(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    places = range(len(characters))
    for i, (name, weights) in enumerate(maps.items()):
        axes = figure.add_subplot(1, len(maps), i + 1)
        axes.set_title(name, loc="left", fontsize=11)
        axes.imshow(weights.detach(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(places, characters, fontsize=8)
        axes.set_yticks(places, characters, fontsize=8)
        axes.tick_params(length=0, pad=1)
        axes.set_xlabel("key: looked at", fontsize=9)
        axes.set_ylabel("query: looks" if i == 0 else "", fontsize=9)
    return shown(figure)


def loss_without_each_head(costs: Tensor) -> Figure:
    """costs (layers, heads): by how much the loss rises when this head is taken away."""
    L, H = costs.shape
    figure, axes = new_figure(
        "What does the model lose with one head less?", "the head that is taken away", "loss goes up by (nats)", width=8
    )
    for layer in range(L):
        for h in range(H):
            place, cost = layer * (H + 0.7) + h, float(costs[layer, h])
            axes.bar(place, cost, color=COLOURS[0], width=0.8)
            axes.annotate(f"{cost:.2f}", (place, max(cost, 0)), xytext=(0, 3), textcoords="offset points", ha="center",
                          fontsize=9)  # fmt: skip
    centres = [layer * (H + 0.7) + h for layer in range(L) for h in range(H)]
    axes.set_xticks(centres, [f"{h}\nlayer {layer}" if h == H // 2 else f"{h}" for layer in range(L) for h in range(H)])
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.12)
    return shown(figure)


def cache_against_weights(
    tokens: Sequence[int], caches: Mapping[str, Sequence[float]], weights: float, name: str
) -> Figure:
    """Gigabytes of the cache by the number of tokens, both axes logarithmic, and the line of the weights themselves."""
    figure, axes = new_figure(
        "After how many tokens is the cache larger than the model?",
        "tokens in the cache, of all texts together (logarithmic)",
        "gigabytes (logarithmic)",
        width=8,
        height=4.4,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for i, (label, values) in enumerate(caches.items()):
        axes.plot(tokens, values, color=COLOURS[i], linestyle=DASHES[i])
        label_line(axes, tokens[-1], values[-1], label, COLOURS[i])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.minorticks_off()
    axes.axhline(weights, color="0.3", linewidth=1)
    axes.text(tokens[0], weights * 1.15, name, color="0.3", va="bottom")
    axes.margins(x=0)
    return shown(figure)


def sharing(n_heads: int, numbers_of_kv_heads: Mapping[str, int]) -> Figure:
    """Query heads above, the key/value heads that they read below; one panel for each way to share."""
    figure, axes = new_figure("", "", "", width=3.6 * len(numbers_of_kv_heads), height=3.0)
    figure.delaxes(axes)
    for i, (title, n_kv_heads) in enumerate(numbers_of_kv_heads.items()):
        axes = figure.add_subplot(1, len(numbers_of_kv_heads), i + 1)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlim(-1, n_heads - 0.4)
        axes.set_ylim(-0.75, 1.75)
        axes.axis("off")
        n = n_heads // n_kv_heads
        for group in range(n_kv_heads):
            centre = group * n + (n - 1) / 2
            colour, tint = COLOURS[group % len(COLOURS)], TINTS[group % len(TINTS)]
            for h in range(group * n, (group + 1) * n):
                axes.plot([h, centre], [1, 0], color=colour, linewidth=1.2, zorder=1)
                _circle(axes, h, 1, str(h), tint, colour)
            _circle(axes, centre, 0, str(group), tint, colour)
        axes.text((n_heads - 1) / 2, 1.42, f"{n_heads} query heads", ha="center", color="0.35")
        axes.text((n_heads - 1) / 2, -0.58, f"{n_kv_heads} key/value head" + "s" * (n_kv_heads > 1), ha="center",
                  color="0.35")  # fmt: skip
    return shown(figure)


def _circle(axes: Axes, x: float, y: float, text: str, tint: str, colour: str):
    axes.plot([x], [y], marker="o", markersize=17, markerfacecolor=tint, markeredgecolor=colour, zorder=2)
    axes.text(x, y - 0.005, text, ha="center", va="center", fontsize=9, zorder=3)


def repair(steps: Sequence[int], losses: Mapping[str, Sequence[float]], before: float) -> Figure:
    """Validation loss by the number of steps trained after a model was changed, a line for each way to change it."""
    figure, axes = new_figure(
        "One key/value head instead of three: how fast does the model recover?",
        "training steps after the change",
        "validation loss\n(nats per character)",
        width=8,
    )
    ends = []
    for i, (name, values) in enumerate(losses.items()):
        axes.plot(steps, values, color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        ends.append((values[-1], name, COLOURS[i]))
    last = 0.0
    for y, name, colour in sorted(ends):
        wanted = max(y, last + 0.22)  # labels keep a distance from each other
        axes.annotate(name, (steps[-1], y), xytext=(steps[-1] * 1.015, wanted), color=colour, va="center",
                      annotation_clip=False)  # fmt: skip
        last = wanted
    axes.plot([steps[0], steps[-1]], [before, before], color="0.3", linewidth=1)
    axes.text(steps[-1], before - 0.06, "before the change", color="0.3", ha="right", va="top")
    axes.set_ylim(bottom=min(1.0, before - 0.4))
    return shown(figure)
