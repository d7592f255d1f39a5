"""The figures of chapter 11: ten words under every filter, what filters do to real text, what a cache saves."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from minillama.plots import COLOURS, DASHES, label_lines, new_figure, shown


def ten_words(title: str, words: list[str], panels: dict[str, list[float]], nothing: str = "out") -> Figure:
    """The probabilities of a few words, once per panel, the first one's likeliest on top; `nothing` stands for 0."""
    figure = Figure(figsize=(max(1.9 * len(panels), 7.0), 3.6), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    order = sorted(range(len(words)), key=lambda i: [-values[i] for values in panels.values()])
    highest = max(max(values) for values in panels.values())
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, values) in zip(all_axes, panels.items(), strict=True):
        for y, i in enumerate(order):
            if values[i] > 0:
                axes.barh(y, values[i], color=COLOURS[0], height=0.7)
                text, ink = f"{values[i]:.2f}", "0.15"
            else:
                text, ink = nothing, COLOURS[1]
            axes.annotate(
                text, (values[i], y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=ink
            )
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlim(0, 1.32 * highest)
        axes.set_xlabel("probability", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_yticks(range(len(order)), [words[i] for i in order])
    all_axes[0].set_ylim(len(order) - 0.5, -0.5)
    return shown(figure)


def by_temperature(temperatures: list[float], lines: dict[str, list[float]], shakespeare: dict[str, float]) -> Figure:
    """Shares between 0 and 1 by temperature, and as a thin line that of Shakespeare's own text, where it is given."""
    figure, axes = new_figure("What does a temperature do to a text?", "temperature", "share", width=7.4)
    axes.set_xlim(temperatures[0], temperatures[-1] * 1.28)
    axes.set_ylim(-0.02, 1.05)
    axes.set_xticks([t for t in temperatures if t == 0 or t >= 0.4])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ends = []
    for i, (name, values) in enumerate(lines.items()):
        axes.plot(temperatures, values, marker="o", markersize=4, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        ends.append((temperatures[-1], values[-1], name, COLOURS[i]))
        if name in shakespeare:
            axes.axhline(shakespeare[name], xmax=1 / 1.28, color=COLOURS[i], linewidth=0.8)
            ends.append((temperatures[-1], shakespeare[name], "in Shakespeare", COLOURS[i]))
    label_lines(axes, ends)
    return shown(figure)


def kept_along(line: str, kept: list[int], k: int, n_all: int, title: str) -> Figure:
    """How many characters a filter leaves at each place of a line, and the k that top-k would leave."""
    figure, axes = new_figure(title, "the character that comes next", "characters left", width=9.0, height=3.0)
    axes.bar(range(len(line)), kept, color=COLOURS[0], width=0.75)
    axes.axhline(k, color=COLOURS[1], linestyle=DASHES[1], linewidth=1.5)
    axes.annotate(
        f"top-k, k = {k}", (len(line) - 0.4, k), xytext=(4, 0), textcoords="offset points", va="center",
        color=COLOURS[1], annotation_clip=False, fontsize=9,
    )  # fmt: skip
    axes.set_xticks(range(len(line)), [_visible(character) for character in line])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.7, len(line) - 0.3)
    axes.set_ylim(0, max(*kept, k) * 1.15)
    return shown(figure)


def surprise_along(texts: dict[str, tuple[str, list[float]]]) -> Figure:
    """The surprise at each character of some texts, one text below the other."""
    figure = Figure(figsize=(9.4, 1.75 * len(texts) + 0.5), dpi=110, layout="constrained")
    figure.suptitle("How surprised is the model, character by character?", x=0.01, ha="left", fontsize=12)
    highest = max(max(nats) for _, nats in texts.values())
    for i, (name, (text, nats)) in enumerate(texts.items()):
        axes = figure.add_subplot(len(texts), 1, i + 1)
        axes.bar(range(len(text)), nats, color=COLOURS[i % len(COLOURS)], width=0.8)
        axes.set_title(f"{name}: {sum(nats) / len(nats):.2f} nats per character", loc="left", fontsize=10)
        axes.set_xticks(range(len(text)), [_visible(character) for character in text], fontsize=8)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.7, len(text) - 0.3)
        axes.set_ylim(0, highest * 1.05)
        axes.set_ylabel("nats", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return shown(figure)


def share_by_step(title: str, steps: list[int], lines: dict[str, list[float]], y: str) -> Figure:
    """Shares between 0 and 1 after more and more steps of training, one line per way to draw."""
    figure, axes = new_figure(title, "steps of training", y, width=7.4)
    axes.set_xlim(0, steps[-1] * 1.3)
    axes.set_ylim(-0.02, 1.05)
    axes.set_xticks([step for step in steps if step == 0 or step >= 0.1 * steps[-1]])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ends = []
    for i, (name, values) in enumerate(lines.items()):
        axes.plot(steps, values, marker="o", markersize=4, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        ends.append((steps[-1], values[-1], name, COLOURS[i]))
    label_lines(axes, ends)
    return shown(figure)


def time_to_write(seconds: dict[str, list[float]]) -> Figure:
    """How long it took until so many tokens were written, for some ways to write them."""
    figure, axes = new_figure("How long until so many characters are written?", "characters written", "seconds")
    n = max(len(values) for values in seconds.values())
    axes.set_xlim(0, n * 1.3)
    axes.set_xticks(range(0, n + 1, 60))
    ends = []
    for i, (name, values) in enumerate(seconds.items()):
        axes.plot(range(1, len(values) + 1), values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        ends.append((len(values), values[-1], f"{name}: {values[-1]:.1f} s", COLOURS[i]))
    axes.set_ylim(bottom=0)
    label_lines(axes, ends)
    return shown(figure)


def who_is_seen(panels: dict[str, tuple[list[list[bool]], list[str]]], may: dict[str, list[str]], title: str) -> Figure:
    """For some caches: which keys each new token looks at. A panel is a table (T, S) and the names of its keys.

    may: for each new token, the keys that it may see. What is seen and may not be is orange, what is missed is crossed.
    """
    figure = Figure(figsize=(8.6, 4.1), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    columns = (len(panels) + 1) // 2
    for i, (name, (table, keys)) in enumerate(panels.items()):
        axes = figure.add_subplot(2, columns, i + 1)
        for y, (query, row) in enumerate(zip(may, table, strict=True)):
            for x, (key, seen) in enumerate(zip(keys, row, strict=True)):
                allowed = key in may[query]
                axes.add_patch(_square(x, y, COLOURS[0 if allowed else 1] if seen else "0.93"))
                if allowed and not seen:
                    axes.text(x, y, "✗", ha="center", va="center", fontsize=12, color=COLOURS[1])
        axes.set_xlim(-0.5, len(keys) - 0.5)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xticks(range(len(keys)), keys, fontsize=10)
        axes.set_yticks(range(len(may)), list(may), fontsize=10)
        if i % columns == 0:
            axes.set_ylabel("new token", fontsize=9)
        axes.set_xlabel("keys in the cache, in this order", fontsize=8)
    return shown(figure)


def _square(x: float, y: float, colour: str) -> Rectangle:
    return Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, facecolor=colour, edgecolor="none")


def _visible(character: str) -> str:
    """A character as it can stand on an axis."""
    return {" ": "␣", "\n": "⏎"}.get(character, character)
