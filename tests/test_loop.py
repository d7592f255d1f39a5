import copy
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from minillama import loop
from minillama.attention import Attention
from minillama.block import Parts
from minillama.contexts import dropout, stop_on_ctrl_c
from minillama.distributed import Processes
from minillama.loop import TrainingDiverged, train
from minillama.norm import LayerNorm
from minillama.pack import validation_loss
from minillama.recipe import RECIPES, Recipe
from minillama.records import read_metrics
from minillama.saving import checkpoints, newest_checkpoint, open_checkpoint, read_json, verify
from minillama.tokenizer import BytePairTokenizer, CharTokenizer
from minillama.train import bits_per_character, evaluate, learning_rate

TEXT = "".join(f"SPEAKER {n % 7}:\nWhat is {n % 10} and {n % 3}, my lord?\n\n" for n in range(60))
TINY = Recipe(
    "tiny", "for tests", d_model=12, n_layers=2, n_heads=3, n_kv_heads=1, d_ff=20, length=8, steps=12, batch_size=4,
    lr=1e-2, warmup_steps=3, dropout=0.2, average=0.5, evaluations=4, precision="fp32",
)  # fmt: skip
quietly = partial(train, progress=False, report=lambda _: None)


def same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def stop_after(n_steps, monkeypatch):
    """Press Ctrl-C, for real, while step n_steps is running."""
    step = loop.Trainer.step

    def pressing(self, forward, stopped):
        if self.run.step + 1 == n_steps:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, forward, stopped)

    monkeypatch.setattr(loop.Trainer, "step", pressing)


@pytest.mark.parametrize(("optimizer", "average"), [("muon", 0.5), ("adamw", 0.0), ("torch-adamw", 0.5)])
def test_training_learns(optimizer, average):
    run = quietly(TINY.but(optimizer=optimizer, average=average, steps=80, dropout=0.0), TEXT)
    measured = [row["validation_loss"] for row in run.metrics if row["validation_loss"] is not None]
    assert run.finished and run.step == 80
    assert measured[-1] == run.validation_loss < measured[0] - 0.3
    assert run.metrics[-1]["tokens"] == 80 * 4 * 8


def test_the_reported_loss_is_that_of_the_returned_model_on_the_whole_validation_part():
    run = quietly(TINY, TEXT)
    validation = torch.tensor(run.tokenizer.encode(TEXT))[int(0.9 * len(TEXT)) :]
    assert run.validation_loss == pytest.approx(evaluate(run.model, validation, length=8, batch_size=3), abs=1e-6)
    assert not run.model.training


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "average": 0.0}, {"optimizer": "torch-adamw"}])
def test_a_stopped_and_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, monkeypatch, changes):
    recipe = TINY.but(**changes)
    whole = quietly(recipe, TEXT)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        stopped = quietly(recipe, TEXT, out=tmp_path)
    assert stopped.step == 5 and not stopped.finished
    assert open_checkpoint(tmp_path).training["validation_loss"] is None  # not measured at this step
    torch.manual_seed(99)  # whatever happened in between
    random.seed(99)
    said = []
    resumed = train(recipe, TEXT, out=tmp_path, progress=False, report=said.append)
    assert resumed.finished and same_weights(whole.model, resumed.model)
    assert said[0].endswith("step-0000005: going on from step 5 of 12")
    untimed = [[(key, row[key]) for key in row if key != "seconds"] for row in whole.metrics]
    assert untimed == [[(key, row[key]) for key in row if key != "seconds"] for row in resumed.metrics]
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)  # goes on counting


def test_byte_pairs_are_learned_from_the_training_part_alone_and_measured_on_the_same_characters(tmp_path):
    text = TEXT + "naïve qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq\n" * 4  # which only validates
    training, validation = text[: math.floor(0.9 * len(text))], text[math.floor(0.9 * len(text)) :]
    recipe = TINY.but(tokenizer="bpe-300")
    run = quietly(recipe, text, out=tmp_path)
    assert run.tokenizer.to_dict() == BytePairTokenizer.train(training, 300).to_dict()
    assert run.tokenizer.to_dict() != BytePairTokenizer.train(text, 300).to_dict()
    tokens = torch.tensor(run.tokenizer.encode(validation))
    assert run.validation_loss == pytest.approx(evaluate(run.model, tokens, length=8), abs=1e-6)
    total, seen = run.validation_loss * (len(tokens) - 1), run.tokenizer.decode(tokens[1:].tolist())
    assert run.bits_per_character == pytest.approx(bits_per_character(total, len(seen)))
    opened = open_checkpoint(tmp_path)
    assert validation_loss(opened, text) == pytest.approx(run.validation_loss, abs=1e-6)
    assert same_weights(quietly(recipe, text, out=tmp_path).model, run.model)  # shown again
    with pytest.raises(ValueError, match="recipe.tokenizer bpe-300, now char"):
        quietly(TINY, text, out=tmp_path)


def test_with_a_token_per_character_bits_are_the_loss_in_another_unit():
    run = quietly(TINY, TEXT)
    assert run.bits_per_character == pytest.approx(run.validation_loss / math.log(2))
    with pytest.raises(ValueError, match="vocab_size: 255"):
        quietly(TINY.but(tokenizer="bpe-255"), TEXT)


def test_a_checkpoint_between_two_measurements_has_no_loss_of_its_own(tmp_path, monkeypatch):
    stop_after(3, monkeypatch)
    quietly(TINY.but(steps=400, evaluations=200), TEXT, out=tmp_path)  # measured and logged at every second step
    measured = {path.name: open_checkpoint(path).training["validation_loss"] for path in checkpoints(tmp_path)}
    assert measured["step-0000003"] is None and measured["step-0000002"] > 0


def test_how_often_a_run_is_evaluated_does_not_change_it():
    assert same_weights(quietly(TINY.but(evaluations=1), TEXT).model, quietly(TINY.but(evaluations=12), TEXT).model)


def test_accumulated_batches_equal_one_large_batch():
    recipe = TINY.but(dropout=0.0, average=0.0, optimizer="adamw")
    large, small = quietly(recipe, TEXT), quietly(recipe.but(batch_size=2, accumulate=2), TEXT)
    for name, weight in large.model.state_dict().items():
        torch.testing.assert_close(small.model.state_dict()[name], weight, rtol=0, atol=1e-5)
    for row, other in zip(large.metrics, small.metrics, strict=True):
        assert row["tokens"] == other["tokens"]
        assert (row["train_loss"], row["gradient_norm"]) == pytest.approx((other["train_loss"], other["gradient_norm"]))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_each_step_has_the_learning_rate_of_the_recipes_schedule(schedule):
    run = quietly(TINY.but(schedule=schedule), TEXT)
    settings = dict(peak=1e-2, warmup_steps=3, total_steps=12, shape=schedule)
    expected = [learning_rate(step, **settings) for step in range(12)]
    assert [row["learning_rate"] for row in run.metrics] == pytest.approx(expected)


@pytest.mark.parametrize("changes", [{"max_norm": 1e-4}, {"dropout": 0.0}, {"weight_decay": 0.9}, {"seed": 2}])
def test_what_the_recipe_says_is_done(changes):
    plain, changed = quietly(TINY, TEXT), quietly(TINY.but(**changes), TEXT)
    assert not same_weights(plain.model, changed.model)
    assert changed.metrics[0]["gradient_norm"] > 1e-2  # as it was before clipping


def test_the_last_step_is_measured_whatever_the_recipe_divides_into():
    run = quietly(TINY.but(steps=7, evaluations=2), TEXT)
    assert [row["step"] for row in run.metrics if row["validation_loss"] is not None] == [4, 7]


def test_the_average_follows_the_weights_with_a_short_memory_at_first(monkeypatch):
    weights, step = [], loop.Trainer.step

    def recording(self, forward, stopped):
        weights.append(first_matrix(self.model))
        result = step(self, forward, stopped)
        weights.append(first_matrix(self.model))
        return result

    def first_matrix(model):
        return model.layers[0].attention.q_proj.weight.detach().clone()

    monkeypatch.setattr(loop.Trainer, "step", recording)
    run, expected = quietly(TINY, TEXT), weights[0]
    for n, weight in enumerate(weights[1::2]):
        share = min(0.5, (n + 1) / (n + 10))
        expected = share * expected + (1 - share) * weight
    torch.testing.assert_close(first_matrix(run.model), expected)


def trainer(processes):
    cpu, tokenizer = torch.device("cpu"), CharTokenizer.train(TEXT)
    return loop.Trainer(TINY, TEXT, tokenizer, Parts(), cpu, None, lambda _: None, processes)


def test_each_step_of_each_process_draws_random_numbers_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr(loop, "seed_everything", seeds.append)
    for rank in (0, 1):
        one = trainer(Processes(rank))
        for one.run.step in range(3):
            one.step(one.model, lambda: False)
    weights, steps = seeds[::4], [seed for i, seed in enumerate(seeds) if i % 4]
    assert weights[0] == weights[1] and len(set(steps)) == 6


def test_only_the_first_process_reports_and_saves(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(loop.Processes, "here", lambda: Processes(rank=1))
    stop_after(3, monkeypatch)
    assert train(TINY, TEXT, out=tmp_path, report=said.append).step == 3
    assert said == [] and list(tmp_path.iterdir()) == []


def test_a_batch_that_the_processes_cannot_share_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="batch_size=4; expected a multiple of 3 processes"):
        trainer(Processes(0, 3))


@pytest.mark.parametrize("found", ["g++", None])
def test_a_recipe_is_compiled_if_there_is_a_compiler(monkeypatch, found):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    monkeypatch.setattr(loop, "compiler", lambda: found)
    run = quietly(TINY.but(compile=True), TEXT, device="cpu")
    assert run.finished and len(compiled) == (1 if found else 0)
    assert same_weights(run.model, quietly(TINY, TEXT).model)


def test_other_parts_train_and_are_asked_for_again_on_resume(tmp_path, monkeypatch):
    parts = Parts(norm=LayerNorm, attention=partial(Attention, attend=F.scaled_dot_product_attention))
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        quietly(TINY, TEXT, out=tmp_path, parts=parts)
    with pytest.raises(ValueError, match=r"norm=RMSNorm"):
        quietly(TINY, TEXT, out=tmp_path)
    assert quietly(TINY, TEXT, out=tmp_path, parts=parts).finished


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = quietly(TINY, TEXT, out=tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = quietly(TINY, TEXT, out=tmp_path)
    assert again.finished and again.validation_loss == first.validation_loss
    assert same_weights(first.model, again.model)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_the_folder_holds_two_whole_checkpoints_the_metrics_and_the_curve(tmp_path):
    run = quietly(TINY, TEXT, out=tmp_path)
    names = ["certificate.txt", "loss.png", "metrics.csv", "step-0000009", "step-0000012"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert (tmp_path / "certificate.txt").read_text().endswith("\ncertified\n")
    assert all(verify(folder) is None for folder in checkpoints(tmp_path))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    opened = open_checkpoint(tmp_path)
    assert same_weights(opened.model, run.model) and opened.tokenizer.encode("my") == run.tokenizer.encode("my")
    assert opened.training["validation_loss"] == run.validation_loss


@pytest.mark.parametrize(
    ("recipe", "text", "expected"),
    [
        (TINY.but(lr=0.5), TEXT, "recipe.lr 0.01, now 0.5"),
        (TINY.but(steps=20, seed=3), TEXT, "recipe.seed 1, now 3; recipe.steps 12, now 20"),
        (TINY, TEXT.replace("lord", "liege"), "text_sha256"),
    ],
)
def test_a_run_of_another_recipe_or_text_is_refused_with_the_differences(tmp_path, recipe, text, expected):
    quietly(TINY, TEXT, out=tmp_path)
    with pytest.raises(ValueError) as error:
        quietly(recipe, text, out=tmp_path)
    assert expected in str(error.value) and "--fresh" in str(error.value)


def test_another_number_of_threads_is_said(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        quietly(TINY, TEXT, out=tmp_path)
    said, threads = [], torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert train(TINY, TEXT, out=tmp_path, progress=False, report=said.append).finished
    assert any(f"threads {threads}, now {threads + 1}" in line and "not equal bit for bit" in line for line in said)


def test_without_the_optimizers_state_resuming_needs_permission(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        quietly(TINY, TEXT, out=tmp_path)
    for folder in checkpoints(tmp_path):
        (folder / "training.pth").unlink()
        manifest = read_json(folder / "manifest.json")
        del manifest["training.pth"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"no training\.pth.*weights_only_resume=True"):
        quietly(TINY, TEXT, out=tmp_path)
    begun, run_steps, saved = [], loop.Trainer.run_steps, open_checkpoint(tmp_path).model

    def looking(self, progress):
        begun.append(copy.deepcopy(self.model))
        run_steps(self, progress)

    monkeypatch.setattr(loop.Trainer, "run_steps", looking)
    assert quietly(TINY, TEXT, out=tmp_path, weights_only_resume=True).finished
    assert same_weights(begun[0], saved)


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(tmp_path, monkeypatch):
    whole = quietly(TINY, TEXT)
    with monkeypatch.context() as patch:
        stop_after(8, patch)
        quietly(TINY, TEXT, out=tmp_path)
    newest = newest_checkpoint(tmp_path)
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    said = []
    resumed = train(TINY, TEXT, out=tmp_path, progress=False, report=said.append)
    assert any("model.safetensors" in line and "passed over" in line for line in said)
    assert same_weights(whole.model, resumed.model)
    assert [row["step"] for row in resumed.metrics] == list(range(1, 13))  # none twice


def test_if_every_checkpoint_is_damaged_training_stops_and_does_not_start_again(tmp_path):
    quietly(TINY, TEXT, out=tmp_path)
    for folder in checkpoints(tmp_path):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint is whole"):
        quietly(TINY, TEXT, out=tmp_path)
    assert len(checkpoints(tmp_path)) == 2


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    step = loop.Trainer.step

    def breaking(self, forward, stopped):
        if self.run.step == 7:
            self.model.layers[1].feedforward.up_proj.weight.data[0, 0] = float("nan")
        return step(self, forward, stopped)

    monkeypatch.setattr(loop.Trainer, "step", breaking)
    with pytest.raises(TrainingDiverged) as error:
        quietly(TINY, TEXT, out=tmp_path)
    message = str(error.value)
    assert "step 7" in message and "layers.1.feedforward.up_proj.weight" in message and "step-0000006" in message
    assert newest_checkpoint(tmp_path).name == "step-0000006"


def test_a_gradient_that_is_no_number_stops_training_too_though_the_loss_is_one(monkeypatch):
    step = loop.Trainer.step

    def breaking(self, forward, stopped):
        if self.run.step == 2:
            self.model.layers[0].attention.k_proj.weight.register_hook(lambda gradient: gradient / 0)
        return step(self, forward, stopped)

    monkeypatch.setattr(loop.Trainer, "step", breaking)
    with pytest.raises(TrainingDiverged, match=r"step 2: loss \d.*gradient of layers\.0\.attention\.k_proj\.weight"):
        quietly(TINY, TEXT)


def test_dropout_only_acts_in_training_and_leaves_no_trace():
    model = quietly(TINY, TEXT).model
    tokens = torch.tensor([[1, 2, 3]])
    before = model(tokens)
    with dropout(model, 0.5):
        torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)  # in eval mode
        assert not torch.equal(model.train()(tokens), model(tokens))
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)


def test_the_second_ctrl_c_stops_at_once_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_ctrl_c(lambda _: None) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_precision_is_measured_once_per_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "bf16_pays", lambda device: True)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        quietly(TINY.but(precision="auto"), TEXT, out=tmp_path)
    monkeypatch.setattr(loop, "bf16_pays", lambda device: False)  # a busy machine measures something else
    resumed = quietly(TINY.but(precision="auto"), TEXT, out=tmp_path)
    assert same_weights(quietly(TINY.but(precision="bf16"), TEXT).model, resumed.model)
    assert not same_weights(quietly(TINY, TEXT).model, resumed.model)


@pytest.mark.parametrize(
    ("text", "device", "expected"),
    [
        ("", "cpu", "empty"),
        ("too short", "cpu", "validation"),
        ("fourteen and two", "cpu", "14 tokens hold 0"),
        (TEXT, "tpu", "tpu"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(text, device, expected):
    with pytest.raises(ValueError, match=expected):
        quietly(TINY, text, device=device)


# Killed for real: a process that trains and saves after every step, killed at random moments, again and again.
KILLED = Recipe(
    "killed", "for tests", d_model=48, n_layers=3, n_heads=3, d_ff=96, length=32, steps=40, batch_size=8, lr=1e-2,
    dropout=0.1, average=0.9, evaluations=40, precision="fp32",
)  # fmt: skip
COMMAND = [sys.executable, "-c", "import sys; from tests.test_loop import train_killed; train_killed(sys.argv[1])"]


def train_killed(folder):
    torch.set_num_threads(1)
    train(KILLED, TEXT * 3, out=folder, progress=False, report=lambda _: None)


def start(folder):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    root = os.path.dirname(os.path.dirname(__file__))
    return subprocess.Popen([*COMMAND, str(folder)], env=env, cwd=root)


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_no_checkpoint_and_the_end_is_bit_for_bit_the_same(tmp_path, n_kills):
    assert start(tmp_path / "whole").wait() == 0
    folder, chance = tmp_path / "killed", random.Random(n_kills)
    kills, last = 0, 0
    while kills < n_kills:
        process = start(folder)
        begin = time.monotonic()
        while process.poll() is None and not changed(folder, last) and time.monotonic() - begin < 60:
            time.sleep(0.005)  # until it has begun to save: then anything may be half-done
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        newest = newest_checkpoint(folder, lambda _: None)
        steps = int(newest.name.split("-")[1]) if newest else 0
        assert steps >= last, "a checkpoint was lost"
        last = steps
    assert kills == n_kills, f"the run ended after {kills} kills; make it longer"
    assert start(folder).wait() == 0
    weights = [newest_checkpoint(tmp_path / name) / "model.safetensors" for name in ("whole", "killed")]
    whole, killed = (safetensors.torch.load_file(path) for path in weights)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert not list(folder.rglob("*.tmp"))


def changed(folder, last):
    return any(int(p.name.split("-")[1]) > last for p in checkpoints(folder)) if folder.exists() else False


@pytest.mark.slow
def test_the_shortest_recipe_reaches_what_its_description_promises(tmp_path):
    run = quietly("shakespeare-taste")
    assert run.validation_loss < 1.88
    assert RECIPES["shakespeare-taste"].steps == run.step
