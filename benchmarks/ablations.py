"""What each part of LLaMA is worth on TinyShakespeare: exchange one, train, compare the validation losses.

    python benchmarks/ablations.py [--seeds N ...] [--steps N] [--variants NAME ...] [--out FILE] [--again]

Every variant is the recipe `shakespeare-taste` with one thing changed, at a learning rate of its own, and sees the same
batches as the others of its seed. Each run adds a row to FILE (data/ablations.csv); a run that is there already, with
the same variant, seed, steps and parameters, is not done again without --again. Loss: nats per character over the whole
validation part, bit for bit the same on one machine with one number of --threads (default 1). Seconds: of the training
loop, by the clock.

Learning rates were tried on seed 0, 700 steps, for all variants alike; each uses the one that was its best.

    peak learning rate    3e-3    6e-3    1.2e-2  2.4e-2
    llama                 1.892   1.811   1.823
    relu                  1.899   1.828   1.813   1.839
    layernorm             1.885   1.807   1.819
    sinusoidal            2.150   1.970   1.919   1.962
    postnorm              2.107   1.901   1.823   1.871
    postnorm, warm-up over 150 steps instead of 30
                          2.105   1.913   1.842   1.893
    adamw                 2e-3: 1.962   4e-3: 1.940   8e-3: 1.961   1.6e-2: 2.227

Sinusoidal scales the embeddings by sqrt(d_model), which with a tied output layer might have made a bad start. It does
not: the first batch's losses (seeds 0, 1, 2) are 4.21, 4.19, 4.15, those of llama 4.21, 4.23, 4.19; ln 65 is 4.17.
"""

import argparse
import csv
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from minillama.assets import corpus
from minillama.block import Parts, PostNormBlock
from minillama.feedforward import ReLUFeedForward
from minillama.llama import Llama
from minillama.loop import train
from minillama.norm import LayerNorm
from minillama.position import Sinusoidal
from minillama.recipe import RECIPES
from minillama.records import write_metrics
from minillama.tokenizer import CharTokenizer

COLUMNS = ["variant", "seed", "parameters", "tokens", "steps", "loss", "seconds"]
OUT = Path(__file__).resolve().parents[1] / "data" / "ablations.csv"
# float32 on every machine: "auto" would measure which precision is faster, and so might choose another one next time.
BASE = RECIPES["shakespeare-taste"].but(precision="fp32", evaluations=1)

# The parts of the model, and what changes in the recipe. ReLU has two matrices where SwiGLU has three.
VARIANTS: dict[str, tuple[Parts, dict[str, Any]]] = {
    "llama": (Parts(), {}),
    "relu": (Parts(feedforward=partial(ReLUFeedForward, bias=False)), {"d_ff": BASE.d_ff * 3 // 2, "lr": 1.2e-2}),
    "layernorm": (Parts(norm=LayerNorm), {}),
    "sinusoidal": (Parts(position=Sinusoidal), {"lr": 1.2e-2}),
    "postnorm": (Parts(block=PostNormBlock), {"lr": 1.2e-2}),
    "adamw": (Parts(), {"optimizer": "adamw", "lr": 4e-3}),
}


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none if it is not there. Errors: ValueError if it is a file of another kind."""
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{file}: columns {reader.fieldnames}, expected {COLUMNS}; choose another --out")
        kinds = [str, int, int, int, int, float, float]
        return [{name: kind(row[name]) for name, kind in zip(COLUMNS, kinds, strict=True)} for row in reader]


def key(row: dict[str, Any]) -> tuple:
    """What two runs have in common if the second need not be done."""
    return row["variant"], row["seed"], row["steps"], row["parameters"]


def measure(name: str, seed: int, steps: int, text: str) -> dict[str, Any]:
    """Train once. -> a row"""
    parts, changes = VARIANTS[name]
    recipe = BASE.but(seed=seed, steps=steps, **changes)
    run = train(recipe, text, parts=parts, device="cpu", progress=False, report=lambda line: None)
    if not run.finished:  # Ctrl-C
        raise SystemExit(f"stopped in {name}, seed {seed}; the same command goes on with this run")
    last = run.metrics[-1]
    numbers = [seed, run.model.n_parameters, last["tokens"], steps, run.validation_loss, last["seconds"]]
    return dict(zip(COLUMNS, [name, *numbers], strict=True))


def table(rows: list[dict[str, Any]]):
    """Print a line for each variant, over its seeds."""
    print("| variant | parameters | tokens | mean loss | lowest to highest | difference from llama |")
    print("|---|---|---|---|---|---|")
    losses = {name: [row["loss"] for row in rows if row["variant"] == name] for name in VARIANTS}
    for name in filter(losses.get, losses):
        row, found = next(row for row in rows if row["variant"] == name), losses[name]
        difference = f"{mean(found) - mean(losses['llama']):+.3f}" if losses["llama"] else ""
        sizes, spread = f"{row['parameters']:,} | {row['tokens']:,}", f"{min(found):.3f} to {max(found):.3f}"
        print(f"| {name} | {sizes} | {mean(found):.3f} | {spread} | {difference} |")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=BASE.steps)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--again", action="store_true", help="also do the runs that are in the file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text, rows, wanted = corpus(), read(options.out), []
    vocab_size = CharTokenizer.train(text).vocab_size
    for seed, name in product(options.seeds, options.variants):
        parts, changes = VARIANTS[name]
        wanted.append((name, seed, options.steps, Llama(BASE.but(**changes).config(vocab_size), parts).n_parameters))
        if options.again or wanted[-1] not in map(key, rows):
            row = measure(name, seed, options.steps, text)
            rows = [other for other in read(options.out) if key(other) != key(row)] + [row]
            write_metrics(options.out, rows)
            print(f"{name}, seed {seed}: loss {row['loss']:.4f}, {row['seconds']} s", flush=True)
    table([row for row in rows if key(row) in wanted])


if __name__ == "__main__":
    main()
