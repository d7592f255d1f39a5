"""The figures of chapter 12: where the time goes, roofs, bits, rulers, and drafts that were kept or not."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillama.plots import COLOURS, DASHES, label_line, label_lines, new_figure, shown


def where_time_goes(profiles: Mapping[str, Mapping[str, float]]) -> Figure:
    """Shares of the time by kind of operation, one bar per profile; kinds in the same order in all."""
    figure, axes = new_figure(
        "What does the processor do?", "share of the time (%)", "", width=8.0, height=1.4 + 0.62 * len(profiles)
    )
    axes.grid(False)
    shades = (COLOURS[0], "#8FC1E3", COLOURS[1], "0.75")
    for row, shares in enumerate(profiles.values()):
        left = 0.0
        for shade, share in zip(shades, shares.values(), strict=False):
            axes.barh(row, 100 * share, left=left, color=shade, height=0.6, edgecolor="white")
            if share > 0.045:
                dark = shade in COLOURS
                axes.text(left + 50 * share, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9,
                          color="white" if dark else "black")  # fmt: skip
            left += 100 * share
    axes.set_yticks(range(len(profiles)), list(profiles))
    axes.set_ylim(len(profiles) - 0.5, -1.2)
    left = 0.0
    for shade, kind in zip(shades, next(iter(profiles.values())), strict=False):
        axes.add_patch(_square(left, -0.95, shade))
        axes.text(left + 2.6, -0.82, kind, va="center", fontsize=9)
        left += 7 + 1.55 * len(kind)
    axes.set_xlim(0, 100)
    return shown(figure)


def roofs(flops: float, bandwidth: float, points: Sequence[tuple[str, float, float]], rows: str) -> Figure:
    """Operations per second by operations per byte: the two roofs, and measured points (label, intensity, flops)."""
    figure, axes = new_figure(
        "Which roof is above you?", "operations per byte (logarithmic)", "billion operations per second", height=4.4
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ridge = flops / bandwidth
    left = min(intensity for _, intensity, _ in points) / 1.6
    right = max(max(intensity for _, intensity, _ in points), 4 * ridge) * 2.2  # room for a label
    axes.plot([left, ridge], [left * bandwidth / 1e9, flops / 1e9], color=COLOURS[0])
    axes.plot([ridge, right], [flops / 1e9, flops / 1e9], color=COLOURS[0])
    height = flops / 1e9 * 1.12
    axes.text(left * 1.08, height, f"sloped: memory, {bandwidth / 1e9:.0f} GB/s", color=COLOURS[0])
    axes.text(right / 1.03, height, f"flat: the processor, {flops / 1e9:.0f}", ha="right", color=COLOURS[0])
    x, y = [p[1] for p in points], [p[2] / 1e9 for p in points]
    axes.plot(x, y, color=COLOURS[1], linestyle=DASHES[1], marker="o", markersize=5)
    for label, intensity, speed in points:
        axes.annotate(label, (intensity, speed / 1e9), xytext=(5, -12), textcoords="offset points", fontsize=9)
    axes.text(right / 1.05, min(y) / 1.9, rows, ha="right", color=COLOURS[1])
    _plain_logarithms(axes)
    axes.set_xlim(left, right)
    axes.set_ylim(min(y) / 2.2, flops / 1e9 * 2.2)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if min(y) / 2.2 < tick < flops / 1e9 * 2.2]
    axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
    return shown(figure)


def bytes_by_length(lengths: Sequence[int], lines: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Gigabytes that are read for one step, by the length of the text, both logarithmic."""
    figure, axes = new_figure(title, "length of each text (tokens, logarithmic)", "read per step (GB, logarithmic)",
                              width=7.6)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths[::2], [f"{length:,}" for length in lengths[::2]])
    axes.minorticks_off()
    lowest, highest = min(map(min, lines.values())), max(map(max, lines.values()))
    ticks = [tick for tick in (5, 10, 20, 50, 100, 200, 500) if lowest / 2 < tick < 1.5 * highest]
    axes.set_yticks(ticks, [f"{tick}" for tick in ticks])
    ends = []
    for i, (name, values) in enumerate(lines.items()):
        axes.plot(lengths, values, color=COLOURS[i], linestyle=DASHES[i])
        ends.append((lengths[-1], values[-1], name, COLOURS[i]))
    axes.set_xlim(lengths[0], lengths[-1])
    label_lines(axes, ends)
    return shown(figure)


def score_memory(lengths: Sequence[int], whole: Sequence[float], tile: Sequence[float]) -> Figure:
    """Bytes for scores by the length of the text: the whole table, and one tile of it."""
    figure, axes = new_figure(
        "How much room do the scores of one head need?", "length T of the text (tokens)", "megabytes (logarithmic)"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths[::2], [f"{length:,}" for length in lengths[::2]])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    for i, (name, values) in enumerate({"T × T table": whole, "one tile": tile}.items()):
        megabytes = [value / 1e6 for value in values]
        axes.plot(lengths, megabytes, color=COLOURS[i], linestyle=DASHES[i])
        label_line(axes, lengths[-1], megabytes[-1], name, COLOURS[i])
    return shown(figure)


def bits(rows: Sequence[tuple[str, str, int]], note: str) -> Figure:
    """Numbers as cells, one per bit: (name, its bits, how many of them are the exponent); the first is the sign."""
    figure, axes = new_figure(note, "", "", width=8.6, height=0.7 + 0.72 * len(rows))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    for row, (_, digits, n_exponent) in enumerate(rows):
        for i, digit in enumerate(digits):
            part = 0 if i == 0 else 1 if i <= n_exponent else 2
            shade = ("0.85", "#F3C9A5", "#BFDDF0")[part]
            axes.add_patch(_square(i, row - 0.36, shade, 0.96, 0.6))
            axes.text(i + 0.48, row - 0.06, digit, ha="center", va="center", fontsize=8.5, family="monospace")
        parts = ((0.48, "sign"), (1 + n_exponent / 2, "exponent"), ((1 + n_exponent + len(digits)) / 2, "fraction"))
        for x, name in parts:
            axes.text(x, row + 0.42, name, ha="center", va="center", fontsize=8, color="0.35")
    axes.set_xlim(-0.2, max(len(digits) for _, digits, _ in rows) + 0.2)
    axes.set_ylim(len(rows) - 0.4, -0.5)
    return shown(figure)


def rulers(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str, limit: float) -> Figure:
    """Number lines: (name, the numbers, where they are after rounding), each number joined to where it ends."""
    figure, axes = new_figure(title, "weight", "", width=8.0, height=0.9 + 0.95 * len(rows))
    axes.grid(False)
    axes.spines[["left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    for row, (_, before, after) in enumerate(rows):
        axes.plot([-limit, limit], [row, row], color="0.85", linewidth=1, zorder=0)
        for x, y in zip(before, after, strict=True):
            axes.plot([x, y], [row - 0.28, row + 0.22], color="0.6", linewidth=0.7)
        axes.plot(before, [row - 0.28] * len(before), "o", color=COLOURS[0], markersize=4)
        axes.plot(after, [row + 0.22] * len(after), "s", color=COLOURS[1], markersize=4)
    axes.text(limit, -0.42, "before", color=COLOURS[0], ha="right", va="center", fontsize=9)
    axes.text(limit, 0.38, "after rounding", color=COLOURS[1], ha="right", va="center", fontsize=9)
    axes.set_xlim(-1.04 * limit, 1.04 * limit)
    axes.set_ylim(len(rows) - 0.45, -0.6)
    return shown(figure)


def error_by_group(
    sizes: Sequence[int | str], lines: Mapping[str, Sequence[float]], bits_each: Sequence[float]
) -> Figure:
    """Typical error of a weight by group size, and below each size the bits that a weight takes with it."""
    figure, axes = new_figure(
        "What does a smaller group buy, and what does it cost?",
        "weights in a group (bits per weight, scale and minimum included)",
        "typical error (% of a weight)",
    )
    places = range(len(sizes))
    ends = []
    for i, (name, errors) in enumerate(lines.items()):
        axes.plot(places, [100 * e for e in errors], color=COLOURS[i], linestyle=DASHES[i], marker="o", markersize=4)
        ends.append((len(sizes) - 1, 100 * errors[-1], name, COLOURS[i]))
    axes.set_xticks(places, [f"{size}\n({b:.2g})" for size, b in zip(sizes, bits_each, strict=True)])
    axes.set_ylim(bottom=0)
    label_lines(axes, ends)
    return shown(figure)


def two_trainings(levels: Mapping[str, float], start: float, ends: Mapping[str, float]) -> Figure:
    """Validation losses as bars, before any training and after each, and horizontal levels to compare with."""
    figure, axes = new_figure(
        "Weights of two bits: does it help to train with the rounding?", "", "loss (nats per character)", height=3.8
    )
    names = ["rounded, no training", *ends]
    for i, loss in enumerate([start, *ends.values()]):
        axes.bar(i, loss, color="0.8" if i == 0 else COLOURS[2 - i], width=0.55)
        axes.annotate(f"{loss:.2f}", (i, loss), xytext=(0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(names)), names)
    for name, level in levels.items():
        axes.axhline(level, color="0.3", linestyle=DASHES[2], linewidth=1)
        label_line(axes, len(names) - 0.45, level, f"{name}\n{level:.2f}", "0.3")
    axes.set_xlim(-0.5, len(names) - 0.45)
    axes.set_ylim(0, 1.12 * max(start, *ends.values()))
    return shown(figure)


def speeds(rows: Sequence[tuple[str, float, float]], bandwidth: float) -> Figure:
    """Tokens per second: (name, measured, what memory would allow), as bars with a mark."""
    figure, axes = new_figure(
        "How close to the memory's limit?", "tokens per second", "", width=7.6, height=1.3 + 0.5 * len(rows)
    )
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="0.9")
    widest = 1.08 * max(max(measured, limit) for _, measured, limit in rows)
    for i, (_, measured, limit) in enumerate(rows):
        axes.barh(i, measured, color=COLOURS[0], height=0.5)
        axes.plot([limit, limit], [i - 0.36, i + 0.36], color=COLOURS[1], linewidth=2.5)
        inside = measured > 0.12 * widest
        axes.annotate(
            f"{measured:,.0f}", (measured, i), xytext=(-4 if inside else 4, 0), textcoords="offset points", va="center",
            ha="right" if inside else "left", color="white" if inside else "black",
        )  # fmt: skip
    axes.annotate(
        f"{bandwidth / 1e9:.0f} GB per second / bytes of the weights", (rows[0][2], 0), xytext=(7, 0),
        textcoords="offset points", va="center", color=COLOURS[1], fontsize=9,
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, widest)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return shown(figure)


def accept_rule(tokens: Sequence[str], p: Sequence[float], q: Sequence[float]) -> Figure:
    """What the guesser gives each token, what of it stays, and what is filled up to p."""
    figure, axes = new_figure(
        "How does the rule turn the guesser's q into the model's p?", "token", "probability", width=7.6, height=3.8
    )
    for i, (model, guess) in enumerate(zip(p, q, strict=True)):
        stays = min(model, guess)
        axes.bar(i - 0.2, guess, color="0.85", width=0.36)
        axes.bar(i + 0.2, stays, color=COLOURS[0], width=0.36)
        axes.bar(i + 0.2, model - stays, bottom=stays, color=COLOURS[1], width=0.36)
        axes.text(i - 0.2, guess + 0.01, f"q = {guess:g}", ha="center", va="bottom", fontsize=9)
        axes.text(i + 0.2, model + 0.01, f"p = {model:g}", ha="center", va="bottom", fontsize=9)
        axes.text(i + 0.2, stays / 2, f"{stays:g}\nstays", ha="center", va="center", fontsize=9, color="white")
        if model > stays:
            middle, text = (stays + model) / 2, f"{model - stays:.2g}\nfilled up"
            axes.text(i + 0.2, middle, text, ha="center", va="center", fontsize=9, color="white")
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set_ylim(0, 1.15 * max(*p, *q))
    return shown(figure)


def drafted_text(pieces: Sequence[tuple[str, str]], title: str, per_line: int = 64) -> Figure:
    """A written text, character by character; pieces (text, kind): "prompt", "kept" (came from a draft) or "own"."""
    lines: list[list[tuple[str, str]]] = [[]]
    for text, kind in pieces:
        for character in text:
            if character == "\n" or len(lines[-1]) == per_line:
                lines.append([])
            if character != "\n":
                lines[-1].append((character, kind))
    figure, axes = new_figure(title, "", "", width=8.0, height=1.0 + 0.24 * len(lines))
    axes.axis("off")
    shades = {"prompt": "white", "own": "#F3C9A5", "kept": "#BFDDF0"}
    for row, line in enumerate(lines):
        for column, (character, kind) in enumerate(line):
            axes.add_patch(_square(column, row - 0.45, shades[kind], 1.0, 0.9))
            axes.text(column + 0.5, row, character, ha="center", va="center", fontsize=9, family="monospace")
    for i, (name, kind) in enumerate((("came from a draft", "kept"), ("written by the model itself", "own"))):
        axes.add_patch(_square(24 * i, len(lines) + 0.3, shades[kind], 1.0, 0.9))
        axes.text(24 * i + 1.5, len(lines) + 0.75, name, va="center", fontsize=9)
    axes.set_xlim(-0.3, per_line + 0.3)
    axes.set_ylim(len(lines) + 1.4, -0.8)
    return shown(figure)


def tokens_per_call(lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """Tokens written per call of the model, by the share of guesses that stay."""
    figure, axes = new_figure(title, "share of the guesses that stay", "tokens per call of the model")
    ends = []
    for i, (name, points) in enumerate(lines.items()):
        x, y = [a for a, _ in points], [b for _, b in points]
        axes.plot(x, y, color=COLOURS[i], linestyle=DASHES[i])
        ends.append((x[-1], y[-1], name, COLOURS[i]))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    label_lines(axes, ends)
    return shown(figure)


def _square(x: float, y: float, shade: str, width: float = 2.0, height: float = 0.26):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=shade, edgecolor="none")


def _plain_logarithms(axes: Axes):
    """1, 2, 4, ... below, 1, 10, 100, ... at the side, written as plain numbers."""
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
