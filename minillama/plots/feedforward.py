"""The figures of chapter 05: units as detectors, their curves, dead ones, what they hear, and where numbers live."""

from matplotlib.figure import Figure

from minillama.plots import COLOURS, DASHES, label_line, new_figure, shown


def phrases_and_units(phrases: dict[str, tuple[float, float, float]], units: dict[str, tuple[float, float]]) -> Figure:
    """Four phrases as points (n, g) with what they should get; units as ("on where n * a + g * b > 1"): (a, b)."""
    figure, axes = new_figure("Which phrase switches on which unit?", "n: was there a “not”?", "g: how good?", 6.6, 4.4)
    axes.set_xlim(-0.5, 2.3)
    axes.set_ylim(-2.1, 2.1)
    n = [-0.5, 2.3]
    for i, (name, (a, b)) in enumerate(units.items()):
        edge = [(1 - a * x) / b for x in n]
        axes.plot(n, edge, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.5)
        axes.fill_between(n, edge, [2.1 if b > 0 else -2.1] * 2, color=COLOURS[i], alpha=0.12, linewidth=0)
        axes.text(2.25, 1.75 if b > 0 else -1.75, name, color=COLOURS[i], ha="right", va="center")
    for text, (x, y, wanted) in phrases.items():
        axes.plot(x, y, marker="o" if wanted > 0 else "X", color="black", markersize=9)
        axes.annotate(f"{text} ({wanted:+.0f})", (x, y), xytext=(8, 11 if y > 0 else -11), textcoords="offset points",
                      va="center")  # fmt: skip
    axes.set_xticks([0, 1])
    axes.set_yticks([-2, -1, 0, 1, 2])
    axes.grid(False)
    return shown(figure)


def alike_by_depth(cosines: dict[str, list[float]]) -> Figure:
    """How much tokens that began unrelated point the same way, after each block."""
    figure, axes = new_figure(
        "Can tokens still be told apart after 32 blocks?", "block", "cosine between two tokens (average)"
    )
    for i, (name, values) in enumerate(cosines.items()):
        blocks = range(1, len(values) + 1)
        axes.plot(blocks, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2)
        label_line(axes, len(values), values[-1], f"{name}: {values[-1]:.2f}", COLOURS[i])
    axes.set_xlim(0, len(values) * 1.42)
    axes.set_xticks(range(0, len(values) + 1, 8))
    axes.set_ylim(-0.05, 1.08)
    return shown(figure)


def how_often_on(shares: dict[str, list[float]], n_dead: dict[str, int]) -> Figure:
    """How many units are on for which share of the tokens; one panel per model, the dead ones counted."""
    figure = Figure(figsize=(8.6, 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(shares), sharey=True)
    edges = [i / 20 for i in range(21)]
    for i, (axes, (name, values)) in enumerate(zip(panels, shares.items(), strict=True)):
        alive = [value for value in values if value > 0]
        counts, _, _ = axes.hist(alive, bins=edges, color=COLOURS[0], alpha=0.75, linewidth=0)
        axes.bar(-0.045, n_dead[name], width=0.05, color=COLOURS[1])
        height = max(n_dead[name], *counts[:4])  # above the bars that the words would cover
        axes.annotate(
            f"{n_dead[name]} dead", (-0.07, height), xytext=(0, 4), textcoords="offset points", color=COLOURS[1],
            ha="left", va="bottom",
        )  # fmt: skip
        axes.set_title(f"{name}: how often is a unit on?", loc="left", fontsize=12)
        axes.set_xlabel("share of the tokens")
        axes.set_ylabel("" if i else "units")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        axes.set_xlim(-0.09, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])  # room for the words (the panels share this axis)
    return shown(figure)


def curves_and_slopes(x: list[float], curves: dict[str, list[float]], slopes: dict[str, list[float]]) -> Figure:
    """Activation functions on the left, how steep each of them is on the right."""
    figure = Figure(figsize=(9.0, 3.8), dpi=110, layout="constrained")
    titles = ("What is let through?", "Where is there a slope to learn from?")
    for axes, title, lines in zip(figure.subplots(1, 2), titles, (curves, slopes), strict=True):
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(x, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2, label=name)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlabel("z, the value of the unit")
        axes.axhline(0, color="0.8", linewidth=1, zorder=0)
        axes.axvline(0, color="0.8", linewidth=1, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", frameon=False)
        axes.set_ylabel("output" if lines is curves else "slope (output per z)")
    return shown(figure)


def heard_by_a_unit(text: str, values: list[float], title: str) -> Figure:
    """The value of one unit at each character of a text."""
    figure, axes = new_figure(title, "", "value of the unit", width=9.0, height=3.0)
    axes.bar(range(len(values)), values, color=[COLOURS[1] if v == max(values) else COLOURS[0] for v in values])
    axes.axhline(0, color="0.5", linewidth=1)
    axes.set_xticks(range(len(text)), ["␣" if c == " " else "⏎" if c == "\n" else c for c in text], fontsize=10)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.7, len(text) - 0.3)
    return shown(figure)


def parts_of_models(shares: dict[str, dict[str, float]]) -> Figure:
    """Where the numbers of some models live: one bar per model, one piece per part (shares from 0 to 1)."""
    figure, axes = new_figure("Where do the numbers of a LLaMA live?", "share of all parameters (%)", "", 8.4, 3.6)
    names = list(next(iter(shares.values())))
    inks = ("white", "white", "white", "black")
    for row, (_model, parts) in enumerate(shares.items()):
        left = 0.0
        for i, name in enumerate(names):
            width = 100 * parts[name]
            axes.barh(row, width, left=left, color=COLOURS[i], edgecolor="white", hatch=("", "//", "", "..")[i])
            if width > 4:
                axes.text(left + width / 2, row, f"{width:.0f}", ha="center", va="center", color=inks[i],
                          bbox={"facecolor": COLOURS[i], "edgecolor": "none", "pad": 1.5})  # fmt: skip
            if row == 0:
                axes.text(left + width / 2, -0.62, name, ha="center", va="bottom", color=COLOURS[i])
            left += width
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set_ylim(len(shares) - 0.45, -1.05)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    return shown(figure)


def operations_by_length(lengths: list[int], lines: dict[str, list[float]], crossing: float) -> Figure:
    """Operations per token of the parts of a model, by how long the text is (both axes logarithmic)."""
    figure, axes = new_figure(
        "Which part of LLaMA 2 7B has the most to do?", "tokens in the text", "operations for one token (billions)"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for i, (name, values) in enumerate(lines.items()):
        axes.plot(lengths, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2, marker="o", markersize=4)
        label_line(axes, lengths[-1], values[-1], name, COLOURS[i])
    axes.axvline(crossing, color="0.7", linewidth=1, zorder=0)
    axes.annotate(f"{crossing:,.0f}", (crossing, min(map(min, lines.values()))), xytext=(4, 0),
                  textcoords="offset points", color="0.35", fontsize=9)  # fmt: skip
    axes.set_xticks(lengths, [f"{n:,}" if i % 2 == 0 else "" for i, n in enumerate(lengths)], fontsize=9)
    axes.minorticks_off()
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xlim(lengths[0] / 1.2, lengths[-1] * 12)
    return shown(figure)


def losses_by_seed(panels: dict[str, dict[str, list[float]]]) -> Figure:
    """The loss of each version for each seed, a circle each, its average a bar; one panel per way to start."""
    figure = Figure(figsize=(9.6, 3.7), dpi=110, layout="constrained")
    for axes, (start, losses) in zip(
        figure.subplots(1, len(panels), sharex=True, sharey=True), panels.items(), strict=True
    ):
        for row, values in enumerate(losses.values()):
            colour = "0.4" if row < 2 else COLOURS[row - 2]
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [row - 0.25, row + 0.25], color=colour, linewidth=3)
            axes.plot(values, [row] * len(values), "o", color=colour, markersize=7, markerfacecolor="none")
            axes.annotate(f"{mean:.2f}", (mean, row - 0.27), ha="center", va="bottom", fontsize=9, color=colour)
        axes.set_title(f"Which learns best, from {start}?", loc="left", fontsize=12)
        axes.set_xlabel("loss on unseen text (nats per character)")
        axes.set_yticks(range(len(losses)), list(losses))
        axes.set_ylim(len(losses) - 0.5, -0.75)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    return shown(figure)


def errors_of_products(units: list[int], errors: dict[str, list[float]]) -> Figure:
    """How badly blocks of more and more units multiply two numbers (both axes logarithmic)."""
    figure, axes = new_figure("How well can a block multiply two numbers?", "units", "typical error")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for i, (name, values) in enumerate(errors.items()):
        axes.plot(units, values, color=COLOURS[i], linestyle=DASHES[i], linewidth=2, marker="o", markersize=4)
        label_line(axes, units[-1], values[-1], name, COLOURS[i])
    axes.set_xticks(units, [str(n) for n in units])
    axes.minorticks_off()
    axes.set_xlim(units[0] / 1.2, units[-1] * 3)
    return shown(figure)
