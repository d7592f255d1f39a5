"""Figures of chapter 10: pulls on scores, paths down a valley, losses, schedules, six runs, ablations, Muon."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from minillama.plots import COLOURS, DASHES, label_line, label_lines, new_figure, shown


def _steps(losses: Sequence[float], every: int = 1) -> list[int]:
    return [every * (i + 1) for i in range(len(losses))]


def pulls(characters: Sequence[str], slopes: Mapping[str, Sequence[float]], target: str) -> Figure:
    """The slope of the loss for each score at one place, a panel for each model."""
    figure = Figure(figsize=(9.6, 2.3 * len(slopes)), dpi=110, layout="constrained")
    names = ["↵" if c == "\n" else "␣" if c == " " else c for c in characters]
    panels = figure.subplots(len(slopes), 1, sharex=True, sharey=True)
    for i, (axes, (model, values)) in enumerate(zip(panels, slopes.items(), strict=True)):
        title = f"How hard does one place pull at each score? {model}" if i == 0 else model
        axes.set_title(title, loc="left", fontsize=12)
        colours = [COLOURS[1] if c == target else COLOURS[0] for c in characters]
        axes.bar(range(len(names)), values, color=colours, width=0.75)
        at = characters.index(target)
        va = "bottom" if values[at] < -0.5 else "top"
        axes.annotate(f"{values[at]:.2f}".replace("-", "−"), (at, values[at]), xytext=(7, 0), va=va,
                      textcoords="offset points", fontsize=10, color=COLOURS[1])  # fmt: skip
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_ylim(-1.1, 0.45)
        axes.set_yticks([-1, -0.5, 0])
        axes.set_ylabel("slope")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xlim(-0.8, len(names) - 0.2)
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.tick_params(axis="x", length=0)
    figure.axes[-1].set_xlabel(f"score of this character (the next one is “{target}”)")
    return shown(figure)


def valley(paths: Mapping[str, Sequence[tuple[float, float]]], height: Callable[[float, float], float]) -> Figure:
    """Paths of (a, b) over the lines of equal height, a panel for each."""
    figure = Figure(figsize=(9.6, 3.1), dpi=110, layout="constrained")
    figure.suptitle("Which way does each of them take to the bottom?", x=0.01, ha="left", fontsize=12)
    wide = [-11 + 22 * i / 120 for i in range(121)]
    high = [-2.3 + 4.6 * i / 120 for i in range(121)]
    heights = [[height(a, b) for a in wide] for b in high]
    for i, (axes, (name, path)) in enumerate(
        zip(figure.subplots(1, len(paths), sharey=True), paths.items(), strict=True)
    ):
        axes.contour(wide, high, heights, levels=[1, 5, 12, 25, 45, 70], colors="0.75", linewidths=0.8)
        axes.plot(*zip(*path, strict=True), "-", marker=".", color=COLOURS[i], markersize=5, linewidth=1.3)
        axes.plot(0, 0, "+", color="0.2", markersize=10)
        axes.set_title(f"{name}: {height(*path[-1]):.2f} high after {len(path) - 1} steps", loc="left", fontsize=10)
        axes.set_xlim(-11, 11)
        axes.set_ylim(-2.3, 2.3)
        axes.set_xlabel("a")
        axes.set_ylabel("b" if i == 0 else "")
        axes.spines[["top", "right"]].set_visible(False)
    return shown(figure)


def losses(title: str, curves: Mapping[str, Sequence[float]], mark: tuple[int, str] | None = None, best: float = 0.0,
           levels: Mapping[str, float] | None = None) -> Figure:  # fmt: skip
    """Training losses by step. mark: a step worth a vertical line, and what happened there. levels: dotted lines."""
    figure, axes = new_figure(title, "step", "training loss (nats per character)", width=7.6)
    n = max(map(len, curves.values()))
    for i, curve in enumerate(curves.values()):
        axes.plot(_steps(curve), curve, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.7)
    low = min(map(min, curves.values()))
    top = max(curve[min(len(curve) - 1, n // 30)] for curve in curves.values())
    axes.set_ylim(low - 0.08 * (top - low), top + 0.05 * (top - low))
    axes.set_xlim(-n * 0.02, n * 1.36)
    axes.set_xticks([round(n * quarter / 4) for quarter in range(5)])
    for text, level in (levels or {}).items():
        axes.axhline(level, color="0.55", linewidth=1, linestyle=":", zorder=0)
        axes.annotate(text, (0, level), xytext=(4, 3), textcoords="offset points", fontsize=9, color="0.35")
    if mark:
        axes.axvline(mark[0], color="0.6", linewidth=1, zorder=0)
        axes.annotate(mark[1], (mark[0], top), xytext=(5, 0), textcoords="offset points", fontsize=9, va="top",
                      color="0.35")  # fmt: skip
    label_lines(axes, [(n, curve[-1], f"{name} {curve[-1]:.2f}", COLOURS[i]) for i, (name, curve) in
                       enumerate(curves.items())])  # fmt: skip
    return shown(figure)


def schedules(rates: Mapping[str, Sequence[float]], distances: Mapping[str, Sequence[float]]) -> Figure:
    """Left: the learning rate by step. Right: how far from the bottom of a noisy valley that leaves a weight."""
    figure = Figure(figsize=(9.6, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    titles = ("How large may a step be, and when?", "How far from the bottom does it stay?")
    for axes, curves, title, y in zip(
        (left, right), (rates, distances), titles, ("learning rate", "distance (typical of 400 runs)"), strict=True
    ):
        axes.set_title(title, loc="left", fontsize=12)
        n = max(map(len, curves.values()))
        for i, curve in enumerate(curves.values()):
            axes.plot(_steps(curve), curve, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.7)
        axes.set_xlabel("step")
        axes.set_ylabel(y)
        axes.set_xlim(0, n * 1.32)
        axes.set_xticks([0, n // 2, n])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        if axes is right:
            axes.set_yscale("log")
            axes.set_ylim(0.1, 12)
            axes.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
            axes.set_yticks([], minor=True)
        label_lines(axes, [(n, curve[-1], name, COLOURS[i]) for i, (name, curve) in enumerate(curves.items())])
    return shown(figure)


def kinds_of_numbers(kinds: Mapping[str, tuple[int, int, int]]) -> Figure:
    """The bits of each kind of number: sign, exponent, digits."""
    figure, axes = new_figure("What are the bits of a number spent on?", "bit", "", width=8.4, height=2.6)
    axes.grid(False)
    colours = ("0.55", COLOURS[1], COLOURS[0])
    for row, bits in enumerate(kinds.values()):
        left = 0
        for part, (n, colour) in enumerate(zip(bits, colours, strict=True)):
            for i in range(n):
                axes.barh(row, 0.9, left=left + i, height=0.62, color=colour)
            if n > 1:
                text = f"size: {n} bits" if part == 1 else f"digits: {n} bits"
                axes.text(left + n / 2 - 0.05, row, text, ha="center", va="center", color="white", fontsize=9,
                          weight="bold", bbox={"facecolor": colour, "edgecolor": "none", "pad": 2})  # fmt: skip
            else:
                axes.text(left + 0.45, row, "±", ha="center", va="center", color="white", fontsize=10, weight="bold")
            left += n
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-0.2, 32.2)
    axes.set_xticks([0, 8, 16, 24, 32])
    return shown(figure)


def six_runs(runs: Mapping[str, Sequence[float]], healthy: Sequence[float]) -> Figure:
    """The training losses of runs in boxes, one panel each, with a healthy one in grey for comparison."""
    figure = Figure(figsize=(9.6, 5.2), dpi=110, layout="constrained")
    figure.suptitle("Which of these runs are in order? (grey: a healthy run)", x=0.01, ha="left", fontsize=12)
    for i, (axes, (name, curve)) in enumerate(zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, runs.items(),
                                                  strict=True)):  # fmt: skip
        axes.plot(_steps(healthy), healthy, color="0.65", linewidth=1.2)
        axes.plot(_steps(curve), curve, color=COLOURS[0], linewidth=1.7)
        axes.set_title(name, loc="left", fontsize=12, weight="bold")
        axes.annotate(f"{curve[-1]:.2f}", (len(curve), curve[-1]), xytext=(0, 7), textcoords="offset points",
                      ha="right", color=COLOURS[0], fontsize=10)  # fmt: skip
        axes.set_ylim(0, 4.5)
        axes.set_yticks([0, 1, 2, 3, 4])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        if i % 3 == 0:
            axes.set_ylabel("training loss (nats)")
        if i >= 3:
            axes.set_xlabel("step")
    return shown(figure)


def by_heart(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], every: int, nothing: float) -> Figure:
    """For each amount of text a panel: the loss on that text and the loss on text never seen, by step."""
    figure = Figure(figsize=(9.6, 3.5), dpi=110, layout="constrained")
    figure.suptitle("What has been learned, and what is known by heart?", x=0.01, ha="left", fontsize=12)
    top = max(nothing * 1.1, *(max(new) for _, new in curves.values()))
    for i, (axes, (name, (seen, new))) in enumerate(zip(figure.subplots(1, len(curves), sharey=True), curves.items(),
                                                        strict=True)):  # fmt: skip
        axes.set_title(name, loc="left", fontsize=11)
        axes.axhline(nothing, color="0.55", linewidth=1, linestyle=":", zorder=0)
        if i == 0:
            axes.annotate("knows nothing", (1.28 * every * len(seen), nothing), xytext=(0, 2), fontsize=9, ha="right",
                          textcoords="offset points", color="0.35")  # fmt: skip
        for k, curve in enumerate((seen, new)):
            axes.plot(_steps(curve, every), curve, color=COLOURS[k], linestyle=DASHES[k], linewidth=1.8)
        n = every * len(seen)
        axes.set_xlim(0, n * 1.3)
        axes.set_xticks([0, n // 2, n])
        axes.set_ylim(0, top * 1.05)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per character)" if i == 0 else "")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        label_lines(axes, [(n, seen[-1], "seen", COLOURS[0]), (n, new[-1], "new", COLOURS[1])])
    return shown(figure)


def ablations(losses: Mapping[str, Sequence[float]], labels: Mapping[str, str], baseline: str) -> Figure:
    """For each variant the losses of its seeds as dots, their mean as a line; a band spans those of the baseline."""
    figure, axes = new_figure("What is each part of LLaMA worth, at this size?", "loss on text never seen "
                              "(nats per character, lower is better)", "", width=8.4,
                              height=0.55 * len(losses) + 1.4)  # fmt: skip
    axes.grid(False)
    axes.axvspan(min(losses[baseline]), max(losses[baseline]), color="0.9", zorder=0)
    for row, (variant, values) in enumerate(losses.items()):
        mean = sum(values) / len(values)
        colour = "0.25" if variant == baseline else COLOURS[0]
        axes.errorbar(mean, row, xerr=[[mean - min(values)], [max(values) - mean]], color=colour, capsize=5,
                      linewidth=1.6, marker="|", markersize=14)  # fmt: skip
        axes.plot(values, [row] * len(values), "o", color=colour, markersize=4.5, alpha=0.75)
        axes.annotate(f"{mean:.3f}", (max(values), row), xytext=(9, 0), textcoords="offset points", va="center",
                      color=colour)  # fmt: skip
    axes.set_yticks(range(len(losses)), [labels[variant] for variant in losses])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    low, high = min(map(min, losses.values())), max(map(max, losses.values()))
    axes.set_xlim(low - 0.05 * (high - low), high + 0.16 * (high - low))
    return shown(figure)


def singular_values(values: Mapping[str, Sequence[float]], curve: Callable[[float], float], steps: int) -> Figure:
    """Left: what the iteration makes of a single number from 0 to 1. Right: a matrix's singular values, sorted."""
    figure = Figure(figsize=(9.6, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_title("What do five steps make of a number?", loc="left", fontsize=12)
    numbers = [i / 400 for i in range(401)]
    for i, n in enumerate((1, steps)):
        results = []
        for s in numbers:
            for _ in range(n):
                s = curve(s)
            results.append(s)
        left.plot(numbers, results, color=COLOURS[i], linestyle=DASHES[1 - i], linewidth=1.6)
        label_line(left, 1, results[-1], f"{n} step{'s' * (n > 1)}", COLOURS[i], dy=-9 if i == 0 else 9)
    left.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    left.set_xlabel("before")
    left.set_ylabel("after")
    left.set_xlim(0, 1.28)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1])
    left.set_ylim(0, 1.4)
    right.set_title("And of the slopes of a real matrix?", loc="left", fontsize=12)
    for i, (name, row) in enumerate(values.items()):
        right.plot(range(1, len(row) + 1), row, color=COLOURS[i], linestyle=DASHES[i], marker=".", markersize=4)
        middle = len(row) // 2
        right.annotate(name, (middle, row[middle]), xytext=(6, 7), textcoords="offset points", color=COLOURS[i])
    right.set_xlabel("singular value, the largest first")
    right.set_ylabel("size")
    right.set_ylim(0, 1.4)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    return shown(figure)


def by_rate(rates: Sequence[float], losses: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """For each optimizer the losses by learning rate: a dot per seed, a line through their means."""
    figure, axes = new_figure(
        "What does Muon buy, at equal steps?", "peak learning rate", "loss on new text (nats)", width=7.6
    )
    axes.set_xscale("log")
    ends = []
    for i, (name, rows) in enumerate(losses.items()):
        means = [sum(row) / len(row) for row in rows]
        axes.plot(rates, means, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.7)
        for rate, row in zip(rates, rows, strict=True):
            axes.plot([rate] * len(row), row, "os"[i], color=COLOURS[i], markersize=5)
        ends.append((rates[-1], means[-1], f"{name}: {min(means):.2f} at best", COLOURS[i]))
    axes.set_xticks(list(rates), [f"{rate:g}" for rate in rates])
    axes.set_xticks([], minor=True)
    axes.set_xlim(rates[0] / 1.2, rates[-1] * (rates[-1] / rates[0]) ** 0.45)
    label_lines(axes, ends)
    return shown(figure)
