"""Measure several ways of doing one thing in one run, taking turns, and print their times as ratios.

Machines are shared and noisy: absolute times mean little, and a ratio means something only if both sides were measured
at the same moment. So each candidate gets a turn in each round, and what counts is the middle of its rounds.
"""

import statistics
import time
from collections.abc import Callable


def side_by_side(candidates: dict[str, Callable[[], object]], rounds: int, unit: str, per_call: float = 1.0):
    """Call each candidate once per round, print the table; the first one is what the others are compared with.

    unit and per_call: what one call does, such as 256 "tokens". CPU seconds are those of all threads.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()  # warm up: allocations, compilation
    for _ in range(rounds):
        for name, call in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    middle = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    first = middle[next(iter(middle))]
    print(f"{'':<38} {unit + '/s':>14} {'ratio':>7} {'CPU ms/call':>12} {'ratio':>7}")
    for name, (wall, cpu) in middle.items():
        print(f"{name:<38} {per_call / wall:>14,.1f} {first[0] / wall:>7.2f} {1e3 * cpu:>12.1f} {first[1] / cpu:>7.2f}")
    print(f"(median of {rounds} rounds, taking turns; a ratio above 1 is faster than the first row)\n")
