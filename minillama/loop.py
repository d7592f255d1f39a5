"""The training loop: steps, measurements, checkpoints, and what to do when something comes in between. Chapter 10."""

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minillama.assets import corpus
from minillama.block import Parts
from minillama.certify import certify
from minillama.contexts import dropout, stop_on_ctrl_c
from minillama.data import Batches, split_text
from minillama.devices import bf16_pays, compiler, pick_device
from minillama.distributed import Processes
from minillama.files import replacing
from minillama.generate import sample_text
from minillama.llama import Llama
from minillama.recipe import Recipe, find_recipe
from minillama.records import differences, read_metrics, seed_everything, write_metrics
from minillama.saving import clean_up, newest_checkpoint, open_checkpoint, read_state, save_checkpoint
from minillama.tokenizer import BytePairTokenizer, CharTokenizer, Tokenizer
from minillama.train import build_optimizers, clip_gradients, evaluate, learning_rate, next_token_loss

LOG_ROWS = 200  # rows of the metrics, roughly, for a whole run


class TrainingDiverged(ValueError):
    """The loss or a gradient is no longer a number. The newest checkpoint is from before."""


@dataclass
class Run:
    """A training run: the model as it is now, and how it got there. `folder` is None if nothing is saved.

    metrics: rows of step, tokens, seconds, train_loss, validation_loss (None where not measured), in nats per token,
    learning_rate and gradient_norm. characters_per_token: of the validation part.
    """

    recipe: Recipe
    model: Llama
    tokenizer: Tokenizer
    folder: Path | None
    characters_per_token: float = 1.0
    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    @property
    def validation_loss(self) -> float:
        """The last one measured, over the whole validation part, in nats per token; NaN before the first."""
        measured = [row["validation_loss"] for row in self.metrics if row["validation_loss"] is not None]
        return measured[-1] if measured else math.nan

    @property
    def bits_per_character(self) -> float:
        """The same in bits per character, which can be compared between tokenizers."""
        return self.validation_loss / self.characters_per_token / math.log(2)


def train(
    recipe: Recipe | str,
    text: str | None = None,
    *,
    out: str | Path | None = None,
    parts: Parts = Parts(),  # noqa: B008  (frozen)
    device: str = "auto",
    weights_only_resume: bool = False,
    progress: bool = True,
    report=print,
) -> Run:
    """Train a model as a recipe says, on TinyShakespeare or on any text; the first 90 % of it, the rest validates.

    out: a folder for checkpoints, metrics.csv and loss.png. If it holds an unfinished run of the same recipe, text
    and parts, that run goes on: on the same machine with the same number of threads its weights end up bit for bit
    those of an uninterrupted one. Without `out` nothing is saved.
    Ctrl-C ends the step, saves, and returns the run as it is; a second Ctrl-C stops at once.
    weights_only_resume: go on even if the checkpoint has no optimizer state, from its weights alone.
    Under torchrun the processes share every batch; the first one reports and saves.
    Errors: ValueError if text, recipe or an earlier run don't fit; TrainingDiverged; OSError.
    """
    recipe = find_recipe(recipe)
    text = corpus(report=report) if text is None else text
    tokenizer, folder, processes = train_tokenizer(recipe, text), None if out is None else Path(out), Processes.here()
    where = pick_device(device)
    if where.type == "cuda" and processes.count > 1:
        where = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(where)
    if not processes.is_first:
        progress, report = False, lambda line: None
    with processes.connected(where):
        trainer = Trainer(recipe, text, tokenizer, parts, where, folder, report, processes)
        trainer.resume(weights_only_resume)
        trainer.run_steps(progress)
    trainer.run.model.eval()
    return trainer.run


def train_tokenizer(recipe: Recipe, text: str) -> Tokenizer:
    """The recipe's tokenizer. Pairs are learned from the training part alone, like everything else."""
    if recipe.tokenizer == "char":
        return CharTokenizer.train(text)
    return BytePairTokenizer.train(split_text(text)[0], int(recipe.tokenizer.removeprefix("bpe-")))


class Trainer:
    """The state of a training run, between steps."""

    def __init__(self, recipe, text, tokenizer, parts, device, folder, report, processes):
        processes.check_batch_size(recipe.batch_size)
        self.device, self.report, self.processes = device, report, processes
        parts_of_text = split_text(text)
        self.train_tokens, self.validation_tokens = (torch.tensor(tokenizer.encode(part)) for part in parts_of_text)
        if len(self.validation_tokens) < 2:
            raise ValueError(f"{len(self.train_tokens)} tokens leave no validation part (a tenth); use more text")
        self.batches = Batches(self.train_tokens, recipe.batch_size, recipe.length, recipe.seed)
        seed_everything((recipe.seed,))
        self.model = Llama(recipe.config(tokenizer.vocab_size), parts).to(device)
        self.average = copy.deepcopy(self.model) if recipe.average else self.model
        self.optimizers = build_optimizers(self.model, recipe)
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        precision = recipe.precision
        if precision == "auto":
            pays = processes.mean(torch.tensor([float(bf16_pays(device))], device=device))  # all must agree
            precision = "bf16" if pays.item() >= 0.5 else "fp32"
        # What can't be changed without changing the result a little, besides the recipe itself.
        self.circumstances = {
            "torch": str(torch.__version__),
            "device": device.type,
            "threads": torch.get_num_threads(),
            "processes": processes.count,
            "precision": precision,
            "compiled": recipe.compile and (device.type != "cpu" or compiler() is not None),
        }
        self.identity = {
            "recipe": dataclasses.asdict(recipe),
            "parts": parts.names(),
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        predicted = tokenizer.decode(self.validation_tokens[1:].tolist())
        characters_per_token = len(predicted) / (len(self.validation_tokens) - 1)
        self.run = Run(recipe, self.average, tokenizer, folder, characters_per_token)
        self.seconds = 0.0  # of training so far, evaluation included

    def resume(self, weights_only: bool = False):
        """Go on from the newest whole checkpoint of the run's folder, if there is one."""
        folder = self.run.folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.processes.is_first:
            clean_up(folder)
        newest = newest_checkpoint(folder, self.report)
        if newest is None:
            return
        saved = open_checkpoint(newest, self.model.parts)
        different = differences(saved.training["identity"], self.identity)
        if different:
            raise ValueError(
                f"{newest}: belongs to another run: {'; '.join(different)}. "
                f"Choose another folder, or start anew with --fresh"
            )
        state = read_state(newest)
        if state is None and not weights_only:
            raise ValueError(
                f"{newest}: no training.pth, so the optimizers would forget what they know and the loss would jump; "
                f"use another checkpoint, or go on all the same with weights_only_resume=True"
            )
        if self.run.recipe.precision == "auto" and saved.training["circumstances"]["device"] == self.device.type:
            self.circumstances["precision"] = saved.training["circumstances"]["precision"]  # measured once per run
        for difference in differences(saved.training["circumstances"], self.circumstances):
            self.report(f"resumed with another {difference}: close to an uninterrupted run, not equal bit for bit")
        self.run.step, self.seconds = saved.training["step"], saved.training["seconds"]
        self.run.metrics = [row for row in read_metrics(folder / "metrics.csv") if row["step"] <= self.run.step]
        self.average.load_state_dict(saved.model.state_dict())
        if state is None:
            self.model.load_state_dict(saved.model.state_dict())
            return
        self.model.load_state_dict(state["weights"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        if not self.run.finished:
            self.report(f"{newest}: going on from step {self.run.step:,} of {self.run.recipe.steps:,}")

    def run_steps(self, progress: bool):
        """Train until the recipe's last step, or until Ctrl-C."""
        run, recipe = self.run, self.run.recipe
        if run.finished:
            return
        forward = self.processes.parallel(self.model)
        forward = torch.compile(forward) if self.circumstances["compiled"] else forward
        evaluate_every, log_every = math.ceil(recipe.steps / recipe.evaluations), max(1, recipe.steps // LOG_ROWS)
        started, began, losses, to_evaluate = time.perf_counter(), self.seconds, [], False
        bar = tqdm(total=recipe.steps, initial=run.step, unit="step", disable=not progress, dynamic_ncols=True)
        self.model.train()
        with bar, dropout(self.model, recipe.dropout), stop_on_ctrl_c(self.report) as stop:
            stopping = False
            while not run.finished and not stopping:
                loss, norm, stopping = self.step(forward, stop.is_set)
                losses.append(loss)
                run.step += 1
                self.seconds = began + time.perf_counter() - started
                bar.update()
                to_evaluate = run.step % evaluate_every == 0 or run.finished
                if run.step % log_every == 0 or to_evaluate:
                    self.log(sum(losses) / len(losses), norm)
                    bar.set_postfix_str(f"loss {losses[-1]:.3f}, {self.tokens_per_second():,.0f} tokens/s")
                    losses = []
                if to_evaluate:
                    self.evaluate(write=bar.write if progress else self.report)
                    self.seconds = began + time.perf_counter() - started
                    self.save()
            if stopping and not run.finished:
                if not to_evaluate:
                    self.save()
                where = f" {run.folder}; the same command goes on from here" if run.folder else ""
                self.report(f"stopped after step {run.step:,} of {recipe.steps:,}{where}")

    def step(self, forward, stopped: Callable[[], bool]) -> tuple[float, float, bool]:
        """One optimizer step. -> loss in nats per token, gradient norm before clipping, is any process stopped?"""
        recipe, total = self.run.recipe, 0.0
        seed_everything((recipe.seed, self.run.step, self.processes.rank))
        factor = learning_rate(
            self.run.step, peak=1.0, warmup_steps=recipe.warmup_steps, total_steps=recipe.steps, shape=recipe.schedule
        )
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        autocast = self.circumstances["precision"] == "bf16"
        for part in range(recipe.accumulate):
            batch = self.batches(self.run.step * recipe.accumulate + part)
            tokens, targets = (self.processes.share(side) for side in batch)
            with torch.autocast(self.device.type, torch.bfloat16) if autocast else nullcontext():
                logits = forward(tokens.to(self.device))
            loss = next_token_loss(logits, targets.to(self.device)) / recipe.accumulate
            loss.backward()
            total += loss.item()
        total, stops = self.processes.mean(torch.tensor([total, float(stopped())], device=self.device)).tolist()
        norm = clip_gradients(self.model.parameters(), recipe.max_norm).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingDiverged(self._diverged(total, norm))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if recipe.average:
            share = min(recipe.average, (self.run.step + 1) / (self.run.step + 10))  # a short memory at first
            with torch.no_grad():
                for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    mean.lerp_(weight, 1 - share)
        return total, norm, stops > 0

    def _diverged(self, loss: float, norm: float) -> str:
        def first(tensors: Iterator[tuple[str, Tensor | None]]) -> str | None:
            return next((name for name, t in tensors if t is not None and not t.isfinite().all()), None)

        weight = first(iter(self.model.named_parameters()))
        gradient = first((name, p.grad) for name, p in self.model.named_parameters())
        where = f"weight {weight}" if weight else f"gradient of {gradient}" if gradient else "the loss alone"
        kept = newest_checkpoint(self.run.folder, lambda _: None) if self.run.folder else None
        return (
            f"step {self.run.step}: loss {loss}, gradient norm {norm}; first without finite numbers: {where}. "
            f"{f'The last good checkpoint is {kept}. ' if kept else ''}Try a smaller lr than {self.run.recipe.lr}"
        )

    def evaluate(self, write):
        """Measure the loss on the whole validation part, and let the model say something."""
        run = self.run
        if not self.processes.is_first:
            return
        run.metrics[-1]["validation_loss"] = evaluate(run.model, self.validation_tokens, run.recipe.length)
        said = sample_text(run.model, run.tokenizer, n_new=80, seed=run.step).replace("\n", " / ")
        write(f"step {run.step:,}: validation loss {run.validation_loss:.4f}   {said}")

    def log(self, loss: float, norm: float):
        """Add a row to the metrics."""
        recipe, step = self.run.recipe, self.run.step
        row = {"step": step, "tokens": step * recipe.accumulate * recipe.batch_size * recipe.length}
        row |= {"seconds": round(self.seconds, 2), "train_loss": loss, "validation_loss": None}
        row |= {"learning_rate": self.optimizers[0].param_groups[0]["lr"], "gradient_norm": norm}
        self.run.metrics.append(row)

    def tokens_per_second(self) -> float:
        return self.run.metrics[-1]["tokens"] / max(self.seconds, 1e-9)

    def save(self):
        """Write a checkpoint, the metrics and their picture; keep the two newest checkpoints."""
        from minillama import plots  # matplotlib takes a second to import: not before it is needed

        run = self.run
        if run.folder is None or not self.processes.is_first:
            return
        row = run.metrics[-1] if run.metrics and run.metrics[-1]["step"] == run.step else {}
        training = {"step": run.step, "seconds": self.seconds, "validation_loss": row.get("validation_loss")}
        training |= {"identity": self.identity, "circumstances": self.circumstances}
        state = {
            "weights": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write_metrics(run.folder / "metrics.csv", run.metrics)
        save_checkpoint(run.folder / f"step-{run.step:07d}", run.model, run.tokenizer, training, state)
        clean_up(run.folder)
        if run.finished:
            with replacing(run.folder / "certificate.txt") as file:
                file.write(f"{certify(run.model)}\n".encode())
        if run.metrics:
            figure = plots.loss_curve(run.metrics, run.recipe.name)
            with replacing(run.folder / "loss.png") as file:
                figure.savefig(file, format="png")
