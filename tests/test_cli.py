import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minillama import assets, certify, cli, devices, distributed, generate
from minillama.assets import ASSETS
from minillama.config import PRESETS
from minillama.files import sha256
from minillama.recipe import RECIPES, Recipe
from minillama.saving import read_json
from tests.test_loop import TEXT

TRAIN = "train shakespeare-taste --text text.txt --steps 6 --d-model 12 --length 8 --batch-size 4 --d-ff 16".split()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)


def said(capsys, *arguments, code=0):
    assert cli.main(list(arguments)) == code
    return capsys.readouterr()


def failed(capsys, *arguments):
    """The one error line of a command that must fail, without a traceback."""
    error = said(capsys, *arguments, code=1).err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def test_training_ends_with_the_loss_and_a_sample_that_the_sample_command_continues(capsys):
    out = said(capsys, *TRAIN).out
    assert re.search(r"validation loss \d\.\d{4} nats per character", out)
    assert "python -m minillama sample runs/shakespeare-taste" in out
    first, second, other = (said(capsys, "sample", "--tokens", "40", "--seed", seed).out for seed in "112")
    assert first == second != other and len(first) == 42  # a line feed before, one after
    assert said(capsys, "sample", "--tokens", "40").out != said(capsys, "sample", "--tokens", "40").out
    assert said(capsys, "sample", "--tokens", "9", "--temperature", "0", "--prompt", "my lord").out.startswith(
        "my lord"
    )


def test_a_finished_run_is_shown_again_and_fresh_sets_it_aside(capsys):
    said(capsys, *TRAIN)
    stamp = os.stat("runs/shakespeare-taste/metrics.csv").st_mtime_ns
    assert "validation loss" in said(capsys, *TRAIN).out
    assert os.stat("runs/shakespeare-taste/metrics.csv").st_mtime_ns == stamp
    assert "shakespeare-taste.old-1" in said(capsys, *TRAIN, "--fresh").out
    assert "shakespeare-taste.old-2" in said(capsys, *TRAIN, "--fresh").out
    assert sorted(os.listdir("runs")) == [f"shakespeare-taste{old}" for old in ("", ".old-1", ".old-2")]


def test_of_several_processes_only_the_first_sets_a_run_aside(capsys, monkeypatch):
    said(capsys, *TRAIN)
    monkeypatch.setattr(distributed.Processes, "here", lambda: distributed.Processes(rank=1))
    assert said(capsys, *TRAIN, "--fresh").out == ""
    assert os.listdir("runs") == ["shakespeare-taste"]


def test_a_run_goes_where_it_is_told_and_the_newest_one_is_taken(capsys):
    for number, place in enumerate(("runs/first", "runs/second", "elsewhere")):
        out = said(capsys, *TRAIN, "--out", place, "--fresh", "--seed", str(number)).out
        assert f"python -m minillama sample {place}\n" in out
    assert sorted(os.listdir("runs")) == ["first", "second"]
    for newest in ("runs/first", "runs/second"):
        os.utime(newest, (2e9, 2e9 + len(newest)))
        assert str(Path(newest)) in said(capsys, "certify").out


def test_without_the_optimizers_state_training_goes_on_if_one_says_so(capsys):
    said(capsys, *TRAIN)
    for checkpoint in Path("runs/shakespeare-taste").glob("step-*"):
        (checkpoint / "training.pth").unlink()
        manifest = read_json(checkpoint / "manifest.json")
        del manifest["training.pth"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert "no training.pth" in failed(capsys, *TRAIN)
    assert "validation loss" in said(capsys, *TRAIN, "--weights-only-resume").out


def test_threads_are_those_that_were_asked_for(capsys):
    before = torch.get_num_threads()
    try:
        assert "with 2 threads" in said(capsys, *TRAIN, "--threads", "2").out
    finally:
        torch.set_num_threads(before)


def test_every_number_of_a_recipe_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Recipe):
        assert ("--" + field.name.replace("_", "-") in shown) == (field.name not in ("name", "about"))


def test_without_flags_sampling_is_done_as_the_help_says(capsys, monkeypatch):
    said(capsys, *TRAIN)
    settings = {}
    monkeypatch.setattr(generate, "stream", lambda *_, generator, **rest: settings.update(rest) or iter([]))
    said(capsys, "sample")
    assert settings == dict(temperature=0.8, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0)


def test_stop_ends_the_text(capsys):
    said(capsys, *TRAIN)
    out = said(capsys, "sample", "--tokens", "2000", "--stop", " ", "--seed", "3").out
    assert out.endswith(" \n") and out.strip("\n").count(" ") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sample", "nowhere"], "nowhere: no checkpoint here"),
        *(
            (
                [command, "smollm2"],
                "smollm2: not a run of this package, expected its folder; what opens other models: "
                "python -m minillama chat smollm2, and in Python minillama.checkpoints.load('smollm2')",
            )
            for command in ("sample", "certify", "evaluate")
        ),
        (["sample", __file__], f"{__file__}: not a run of this package"),
        (["export", "smollm2"], "smollm2: is read, not written; add a name for what to write"),
        (["info", "nope"], "'nope' is no file or folder, preset, recipe or asset"),
        (["train", "nope"], "shakespeare-quick"),
        (["train", "--text", "absent.txt"], "absent.txt"),
        (["train", "--lr", "-1"], "lr=-1.0"),
        (["train", "--d-model", "7"], "d_model=7"),
        (["train", "--threads", "0"], "--threads 0"),
        ([*TRAIN, "--device", "tpu"], "'tpu'"),
        (["info", "nope"], "llama-2-7b"),
        (["info", "tiny", "--length", "0"], "--length 0"),
        (["info", "tiny", "--length", "16777217"], "--length 16777217"),
        (["info", "."], ".: no checkpoint in this folder"),
        (["pack", ".", "small"], ".: no checkpoint here; give the"),
        (["data", "nope"], "tinyshakespeare"),
    ],
)
def test_a_users_mistake_gets_one_line_and_exit_code_1(capsys, arguments, expected):
    assert expected in failed(capsys, *arguments)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (["--temperature", "-1"], "temperature=-1.0"), (["--top-k", "0"], "top_k=0"), (["--top-p", "2"], "top_p=2.0"),
        (["--min-p", "-1"], "min_p=-1.0"), (["--repetition-penalty", "0"], "repetition_penalty=0.0"),
        (["--prompt", ""], "prompt is empty"), (["--prompt", "naïve"], "'ï' (U+00EF) at position 2"),
        (["--stop", "é"], "U+00E9"), (["--stop", ""], "--stop ''; expected one character"),
        (["--stop", "my"], "--stop 'my'; expected one"), (["--tokens", "-3"], "--tokens -3"),
        (["--tokens", "0"], "--tokens 0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_sample_is_named(capsys, setting, expected):
    said(capsys, *TRAIN)
    assert expected in failed(capsys, "sample", *setting)


def test_text_that_is_not_utf8_is_refused_with_the_place(capsys):
    with open("text.txt", "wb") as file:
        file.write(b"good so far \xff\xfe")
    assert "text.txt: byte 12 is not UTF-8" in failed(capsys, *TRAIN)


def test_a_damaged_run_is_named_not_traced(capsys):
    said(capsys, *TRAIN)
    for path in Path("runs").glob("*/step-*/config.json"):
        path.write_text("{")
    assert "config.json" in failed(capsys, "sample")


def test_traceback_shows_where_an_error_comes_from():
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "sample", "nowhere"])


def test_without_any_model_sample_says_how_to_make_one(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "minillama" / "assets.py"))  # installed without a clone
    assert "python -m minillama train" in failed(capsys, "sample")


@pytest.mark.parametrize("arguments", [[], ["nope"], ["train", "--steps", "many"], ["sample", "--tokens", "few"]])
def test_a_wrong_command_line_exits_with_2(arguments):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2


@pytest.mark.parametrize(
    "command",
    ["data", "train", "sample", "chat", "evaluate", "certify", "pack", "export", "info", "doctor", "progress", "build"],
)
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "--help"])
    assert exit.value.code == 0 and "--help" in capsys.readouterr().out


def test_info_lists_the_presets_and_shows_one(capsys):
    listed = said(capsys, "info").out
    assert all(name in listed for name in PRESETS) and "6,738,415,616" in listed
    shown = said(capsys, "info", "llama-2-70b", "--length", "4096").out
    assert "68,976,648,192" in shown and "138 GB in bfloat16" in shown
    assert "1.34 GB for 4,096 tokens (328 kB each)" in shown  # 2 * 80 layers * 8 heads * 128 numbers * 2 bytes
    assert "276 GB in float32" in said(capsys, "info", "llama-2-70b", "--dtype", "float32").out
    assert "800,000" in said(capsys, "info", "shakespeare-quick").out


def test_a_run_is_measured_again_certified_and_packed(capsys):
    said(capsys, *TRAIN)
    run = "runs/shakespeare-taste"
    assert "the same" in said(capsys, "evaluate", "--text", "text.txt").out
    assert said(capsys, "certify", run).out.endswith("certified\n")
    assert "certified" in said(capsys, "pack", run, "small", "--text", "text.txt").out
    command = read_json(Path("small/training.json"))["command"]
    assert command.startswith("python -m minillama train shakespeare-taste --d-model 12") and "--steps 6" in command
    Path("other.txt").write_text(TEXT + "More.")
    assert "trained on a text with SHA-256" in failed(capsys, "evaluate", run, "--text", "other.txt")


def test_a_run_on_byte_pairs_says_nats_per_token_and_is_measured_again_and_packed(capsys):
    out = said(capsys, *TRAIN, "--tokenizer", "bpe-270").out
    assert re.search(r"validation loss \d\.\d{4} nats per token .*bits per character; .* tokens\)", out)
    assert "the same" in said(capsys, "evaluate", "--text", "text.txt").out
    said(capsys, "pack", "runs/shakespeare-taste", "small", "--text", "text.txt")
    assert "--tokenizer bpe-270" in read_json(Path("small/training.json"))["command"]


def test_characters_that_are_spread_over_several_tokens_are_written_whole(capsys, monkeypatch):
    said(capsys, *TRAIN, "--tokenizer", "bpe-260")
    tokens = [*"où ça 😉, né".encode(), 0xFF, *"ça ".encode(), 0xC3]  # bytes are their own ids
    monkeypatch.setattr(generate, "stream", lambda *_, **settings: (torch.tensor([token]) for token in tokens))
    assert said(capsys, "sample", "--prompt", "é").out == "éoù ça 😉, né\ufffdça \ufffd\n"
    assert said(capsys, "sample", "--prompt", "é", "--stop", "é").out == "éoù ça 😉, né\n"
    assert said(capsys, "sample", "--prompt", "é", "--stop", "😉").out == "éoù ça 😉\n"


def test_the_command_of_a_packed_run_names_what_was_switched_off_too(capsys):
    said(capsys, "train", "shakespeare-best", *TRAIN[2:], "--no-compile", "--precision", "fp32")
    said(capsys, "pack", "runs/shakespeare-best", "small", "--text", "text.txt")
    command = read_json(Path("small/training.json"))["command"]
    assert "--no-compile" in command and "--precision fp32" in command and "--n-layers" not in command


def test_a_model_that_is_not_certified_ends_with_its_faults_and_exit_code_1(capsys, monkeypatch):
    said(capsys, *TRAIN)
    verdicts = certify.Verdict("causal", certify.FAILED, "it looks ahead"), certify.Verdict("x", certify.PASSED, "")
    monkeypatch.setattr(certify, "certify", lambda model: certify.Certificate(verdicts))
    assert failed(capsys, "certify").endswith("not certified: causal\n")


@pytest.mark.parametrize("stored", [1.0, None])
def test_a_stored_loss_that_is_not_the_models_is_noticed(capsys, stored):
    said(capsys, *TRAIN, "--evaluations", "1")
    (checkpoint,) = Path("runs/shakespeare-taste").glob("step-*")
    training = read_json(checkpoint / "training.json")
    (checkpoint / "training.json").write_text(json.dumps(training | {"validation_loss": stored}))
    manifest = read_json(checkpoint / "manifest.json")
    path = checkpoint / "training.json"
    manifest["training.json"] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert f"validation_loss {stored}, measured now" in failed(capsys, "evaluate", "--text", "text.txt")


def test_info_shows_a_checkpoint(capsys):
    said(capsys, *TRAIN)
    assert re.search(r"d_model +12\n", said(capsys, "info", "runs/shakespeare-taste").out)


def test_doctor_names_what_is_missing_and_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(cli.PACKAGES, "no-such-package", "nothing")
    monkeypatch.setattr(devices, "compiler", lambda: None)
    monkeypatch.setenv("MINILLAMA_DATA", "empty")
    out = said(capsys, "doctor").out
    assert "pip install no-such-package" in out and "install g++" in out
    assert "python -m minillama data tinyshakespeare" in out and "torch" in out


def test_data_lists_what_is_here_and_what_is_not(capsys, monkeypatch):
    monkeypatch.setenv("MINILLAMA_DATA", "empty")
    assert re.search(r"tinyshakespeare .* not fetched .* public domain", said(capsys, "data").out)
    assert len(ASSETS) == said(capsys, "data").out.count("\n")


def minillama(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "minillama", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_training_saves_and_the_same_command_goes_on(capsys):
    endless = [*TRAIN, "--steps", "20000", "--evaluations", "20000"]
    process = minillama(*endless)
    deadline = time.monotonic() + 60
    while not os.path.exists("runs/shakespeare-taste/metrics.csv") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    stopped = re.search(r"stopped after step ([\d,]+) of 20,000 runs/shakespeare-taste; the same command goes on", out)
    assert process.returncode == 0 and stopped and "Traceback" not in err and "sample runs" not in out
    newest = sorted(os.listdir("runs/shakespeare-taste"))[-1]
    step = int(stopped[1].replace(",", ""))
    assert newest == f"step-{step:07d}"
    assert read_json(Path("runs/shakespeare-taste", newest, "training.json"))["step"] == step


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_and_a_closed_pipe_end_a_sample_without_a_traceback(capsys):
    said(capsys, *TRAIN)
    process = minillama("sample", "--tokens", "1000000")
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1] and process.returncode == 130
    process = minillama("sample", "--tokens", "100000")
    process.stdout.read(20)
    process.stdout.close()  # like `| head`
    assert process.wait(timeout=60) == 0 and process.stderr.read() == ""


def test_names_of_recipes_say_what_they_train():
    assert list(RECIPES) == ["shakespeare-taste", "shakespeare-quick", "shakespeare-best"]
