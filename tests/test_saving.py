import contextlib
import errno
import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minillama import saving
from minillama.block import Parts
from minillama.config import Config, RopeScaling
from minillama.feedforward import ReLUFeedForward
from minillama.files import DiskFull
from minillama.llama import Llama
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import LearnedPositions
from minillama.saving import (
    checkpoints,
    clean_up,
    newest_checkpoint,
    open_checkpoint,
    read_state,
    save_checkpoint,
    verify,
)
from minillama.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train('a"é😉\n')
SIZES = {"vocab_size": 5, "d_model": 4, "n_layers": 1, "n_heads": 2, "d_ff": 3, "max_len": 8}
FILES = [
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "training.json",
    "training.pth",
    "manifest.json",
]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and file size limits are for POSIX")


class MyNorm(RMSNorm):
    """A learner's own."""


def llama(step=0, parts=Parts(), **sizes) -> Llama:  # noqa: B008
    """A model whose every weight is its step."""
    model = Llama(Config(**SIZES | sizes), parts)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, step)
    return model


def save(run: Path, step: int, **sizes) -> Path:
    folder = run / f"step-{step:06}"
    save_checkpoint(folder, llama(step, **sizes), TOKENIZER, {"step": step}, {"step": step, "m": torch.ones(3) * step})
    return folder


def is_whole(path: Path, step: int) -> bool:
    """Everything in a run's newest checkpoint, or in this one, is what save(run, step) has written."""
    opened = open_checkpoint(path, report=lambda _: None)
    state = read_state(opened.folder)
    return (
        all(bool((weight == step).all()) for weight in opened.model.state_dict().values())
        and opened.tokenizer.characters == TOKENIZER.characters
        and opened.training == {"step": step}
        and state["step"] == step
        and state["m"].tolist() == [step] * 3
    )


def newest(run: Path) -> tuple[Path | None, str]:
    """-> the newest whole checkpoint, and what was reported meanwhile"""
    said = []
    return newest_checkpoint(run, report=said.append), "\n".join(said)


def flip(path: Path, position: int | None = None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ({}, Parts()),
        ({"tied": True, "n_kv_heads": 1, "vocab_size": 9}, Parts()),
        ({"rope_scaling": RopeScaling("llama3", factor=8.0, original_max_len=16), "head_dim": 6}, Parts()),
        ({"rope_scaling": RopeScaling("linear", factor=2.0), "norm_eps": 1e-6, "rope_base": 500.0}, Parts()),
        ({}, Parts(norm=LayerNorm, feedforward=ReLUFeedForward, position=LearnedPositions)),
    ],
)
def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, sizes, parts):
    model = Llama(Config(**SIZES | sizes), parts)
    training = {"step": 3, "recipe": {"lr": 0.1, "name": "é"}, "losses": [1.5, None]}
    state = {
        "optimizer": {"m": torch.randn(2, 3), "betas": (0.9, 0.95)},
        "random": torch.get_rng_state(),
        "step": 3,
    }
    save_checkpoint(tmp_path / "step-000003", model, TOKENIZER, training, state)

    opened = open_checkpoint(tmp_path)
    assert opened.folder == tmp_path / "step-000003"
    assert opened.training == training
    assert opened.tokenizer.encode('é"a') == TOKENIZER.encode('é"a')
    assert opened.model.config == model.config
    assert opened.model.parts == parts
    assert not opened.model.training
    found, saved = opened.model.state_dict(), model.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    assert (opened.model.lm_head.weight is opened.model.embed_tokens.weight) is model.config.tied
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(opened.model(tokens), model.eval()(tokens))

    resumed = read_state(opened.folder)
    assert torch.equal(resumed["optimizer"]["m"], state["optimizer"]["m"])
    assert torch.equal(resumed["random"], state["random"])
    assert (resumed["optimizer"]["betas"], resumed["step"]) == ((0.9, 0.95), 3)


def test_a_checkpoint_can_be_read_without_this_package(tmp_path):
    folder = save(tmp_path, 7)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights.keys() == llama().state_dict().keys()
    assert json.loads((folder / "config.json").read_text())["config"]["d_model"] == 4
    assert json.loads((folder / "training.json").read_text()) == {"step": 7}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest) == sorted(FILES[:-1])
    for name, entry in manifest.items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_checkpoint_without_a_state_opens_and_forgets_the_state_of_an_earlier_one(tmp_path):
    folder = save(tmp_path, 7)
    save_checkpoint(folder, llama(8), TOKENIZER, {"step": 8})
    assert open_checkpoint(folder).training == {"step": 8}
    assert read_state(folder) is None


def test_a_run_and_a_checkpoint_both_open(tmp_path):
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    assert newest(tmp_path) == (new, "")
    assert is_whole(tmp_path, 2)
    assert is_whole(old, 1)
    assert open_checkpoint(str(old)).training == {"step": 1}


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    steps = [999_999, 1_000_000, 2, 10]
    for step in steps:
        (tmp_path / f"step-{step:06}").mkdir()
    (tmp_path / "step-000500 (copy)").mkdir()  # a person's own, not ours to count or to delete
    (tmp_path / "step-000600").touch()
    assert [folder.name for folder in checkpoints(tmp_path)] == [f"step-{step:06}" for step in sorted(steps)[::-1]]


def test_where_there_is_no_checkpoint_the_message_says_how_to_make_one(tmp_path):
    assert newest(tmp_path) == (None, "")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError) as error:
            open_checkpoint(path)
        assert str(error.value) == f"{path}: no checkpoint here; train one with: python -m minillama train"


# Damage


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_noticed_and_the_checkpoint_before_is_used(tmp_path, name, damage):
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    damage(new / name)
    folder, said = newest(tmp_path)
    assert folder == old
    assert said.startswith("passed over: ")
    assert str(new) in said
    assert name in said
    assert is_whole(tmp_path, 1)


@given(st.sampled_from(FILES), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_one_wrong_byte_anywhere_is_noticed(tmp_path, name, data):
    if not (tmp_path / "step-000002").exists():
        save(tmp_path, 1)
        save(tmp_path, 2)
    file = tmp_path / "step-000002" / name
    content = file.read_bytes()
    wrong = bytearray(content)
    wrong[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        file.write_bytes(wrong)
        folder, said = newest(tmp_path)
    finally:
        file.write_bytes(content)
    if name == "manifest.json" and folder.name == "step-000002":  # only spaces may change there
        assert json.loads(wrong) == json.loads(content)
    else:
        assert folder.name == "step-000001"
        assert "step-000002" in said


def test_damage_is_told_with_numbers(tmp_path):
    folder = save(tmp_path, 1)
    size = (folder / "model.safetensors").stat().st_size
    assert verify(folder) is None
    truncate(folder / "model.safetensors")
    assert verify(folder) == f"{folder / 'model.safetensors'}: {size // 2:,} bytes, expected {size:,}"
    (folder / "model.safetensors").unlink()
    assert verify(folder) == f"{folder / 'model.safetensors'}: missing, expected {size:,} bytes"
    (folder / "manifest.json").unlink()
    assert verify(folder) == f"{folder}: no manifest.json; saving it was interrupted"


def test_a_file_that_the_disk_no_longer_gives_back_counts_as_damaged(tmp_path, monkeypatch):
    old, new, honest = save(tmp_path, 1), save(tmp_path, 2), saving.sha256

    def broken(path):
        if Path(path) == new / "model.safetensors":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return honest(path)

    monkeypatch.setattr(saving, "sha256", broken)
    folder, said = newest(tmp_path)
    assert folder == old
    assert str(new / "model.safetensors") in said


def test_if_every_checkpoint_is_damaged_all_are_named_and_nothing_starts_from_zero(tmp_path):
    for step, damaged in enumerate(("model.safetensors", "config.json", "manifest.json")):
        (flip if step < 2 else Path.unlink)(save(tmp_path, step) / damaged)
    with pytest.raises(ValueError) as error:
        open_checkpoint(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: no checkpoint is whole; restore one")
    for words in (
        "step-000000/model.safetensors",
        "step-000001/config.json",
        "step-000002: no manifest.json",
    ):
        assert words in message.replace(os.sep, "/")


@pytest.mark.parametrize("name", FILES[:5])
def test_a_damaged_checkpoint_that_is_asked_for_by_name_is_refused_by_the_files_name(tmp_path, name):
    folder = save(tmp_path, 1)
    (folder / name).unlink()
    with pytest.raises((ValueError, OSError)) as error:
        open_checkpoint(folder)
    assert f"{folder / name}: missing" in str(error.value)


def test_an_unfinished_checkpoint_that_is_asked_for_by_name_is_called_unfinished(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "manifest.json").unlink()
    with pytest.raises((ValueError, OSError), match=r"no manifest\.json; saving it was interrupted"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "7",
        "null",
        "{}",  # says nothing about any file
        '{"config.json": 7}',
        '{"config.json": {"bytes": 3}}',
        '{"config.json": {"sha256": 1, "bytes": "3"}}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_what_is_no_manifest_is_called_so(tmp_path, content):
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    (new / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    folder, said = newest(tmp_path)
    assert folder == old
    assert str(new) in said
    assert len(said) < 500


@pytest.mark.parametrize("name", ["../secret", "../../secret", "{absolute}", "x/../../secret", ""])
def test_a_manifest_does_not_lead_out_of_its_folder(tmp_path, name):
    run = tmp_path / "run"
    new = save(run, 1)
    for secret in (tmp_path / "secret", run / "secret"):
        secret.write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    name = name.format(absolute=tmp_path / "secret")
    manifest = json.loads((new / "manifest.json").read_text()) | {name: entry}
    (new / "manifest.json").write_text(json.dumps(manifest))
    problem = verify(new)
    assert problem is not None
    assert name in problem


# Interruptions


@contextlib.contextmanager
def interrupted_after(n_files: int, monkeypatch, interruption: type[BaseException]):
    """So many files take their place, then saving is interrupted."""
    n_replaced, replace = iter(range(99)), os.replace

    def interrupted(source, target):
        if next(n_replaced) == n_files:
            raise interruption
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(interruption):
        patch.setattr(os, "replace", interrupted)
        yield


@pytest.mark.parametrize("n_files", range(6))
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interruption_after_any_file_leaves_the_checkpoint_before(tmp_path, monkeypatch, n_files, interruption):
    first, old = tmp_path / "first", save(tmp_path, 1)
    with interrupted_after(n_files, monkeypatch, interruption):
        save(tmp_path, 2)
    assert newest(tmp_path)[0] == old
    assert is_whole(tmp_path, 1)

    with interrupted_after(n_files, monkeypatch, interruption):
        save(first, 2)
    assert newest(first)[0] is None  # nothing was ever whole here: a run may start
    save(first, 2)
    assert is_whole(first, 2)


@pytest.mark.parametrize("n_files", range(6))
def test_a_step_that_is_saved_again_and_interrupted_is_whole_or_called_damaged_but_never_gone(
    tmp_path, monkeypatch, n_files
):
    folder = save(tmp_path, 1)
    with interrupted_after(n_files, monkeypatch, KeyboardInterrupt):
        save_checkpoint(folder, llama(2), TOKENIZER, {"step": 2}, {"step": 2, "m": torch.ones(3) * 2})
    try:
        found = newest_checkpoint(tmp_path)
    except ValueError as error:
        assert str(folder) in str(error)
    else:
        assert found == folder  # None would start the run from zero
        assert is_whole(folder, 1)


def test_what_cannot_be_written_is_noticed_before_an_older_checkpoint_is_touched(tmp_path):
    folder = save(tmp_path, 1)
    for training, state in (({"step": object()}, None), ({"step": 1}, {"f": lambda: None})):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            save_checkpoint(folder, llama(2), TOKENIZER, training, state)
        assert verify(folder) is None
        assert is_whole(folder, 1)


# One process imports torch once and forks children, which save without a pause until the test's turn to kill them.
SAVE_UNTIL_KILLED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_saving import save
from minillama.saving import clean_up
run = Path({run!r})
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        for step in range(int(line), 10**6):
            save(run, step, d_model=64, d_ff=200)
            os.write(1, b"saved %d\\n" % step)
            clean_up(run)
    os.write(1, b"child %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@pytest.fixture
def saver(tmp_path):
    code = SAVE_UNTIL_KILLED.format(tests=str(Path(__file__).parent), run=str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    yield process
    os.killpg(process.pid, signal.SIGKILL)  # the children too
    process.communicate(timeout=30)


def kill_while_saving(saver, run: Path, first_step: int, delay: float) -> int:
    """Let a child save from first_step on, kill it, look at what it has left; return the newest step."""
    print(first_step, file=saver.stdin, flush=True)
    last, child = first_step - 1, None
    while child is None or last < first_step:  # at least one whole save
        word, number = saver.stdout.readline().split()
        child, last = (int(number), last) if word == "child" else (child, int(number))
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    while (line := saver.stdout.readline()) != "dead\n":
        last = int(line.split()[1])
    folder, _ = newest(run)
    step = int(folder.name.removeprefix("step-"))
    assert step in (last, last + 1)  # what was reported as saved is there
    assert is_whole(folder, step)
    return step


@posix
@pytest.mark.parametrize("n_kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_process_killed_while_saving_leaves_one_of_the_checkpoints_it_has_saved(tmp_path, saver, n_kills):
    step, kills, unfinished = 0, 0, 0
    while kills < n_kills or (not unfinished and kills < 40):
        kills += 1
        step = kill_while_saving(saver, tmp_path, step + 1, delay=random.uniform(0, 0.1))
        unfinished += sum(verify(folder) is not None for folder in checkpoints(tmp_path))
    clean_up(tmp_path)
    assert not list(tmp_path.glob("**/.*.tmp"))
    assert [verify(folder) for folder in checkpoints(tmp_path)[-2:]] == [None, None]
    assert unfinished  # at least one kill came in the middle


@contextlib.contextmanager
def files_no_larger_than(n_bytes: int):
    """A disk with less room, as far as a test can have one."""
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))


@posix
def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_is_needed(tmp_path):
    old = save(tmp_path, 1)
    size = (old / "model.safetensors").stat().st_size
    with pytest.raises(DiskFull) as error, files_no_larger_than(size - 1):
        save(tmp_path, 2)
    assert f"model.safetensors: file size limit reached: needs {size:,} bytes" in str(error.value)
    assert newest(tmp_path)[0] == old
    assert is_whole(tmp_path, 1)
    save(tmp_path, 2)
    assert is_whole(tmp_path, 2)


# Tidying


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.communicate(timeout=30)
    return process.pid


def test_cleaning_keeps_the_two_newest_whole_ones(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    clean_up(tmp_path)
    assert names(tmp_path) == ["step-000003", "step-000004"]
    clean_up(tmp_path, keep=1)
    assert names(tmp_path) == ["step-000004"]
    assert is_whole(tmp_path, 4)


@pytest.mark.parametrize("damaged", [[3], [4], [3, 4], [2, 3, 4], [1, 4], [1, 2, 3, 4]])
def test_cleaning_counts_whole_checkpoints_only_and_deletes_nothing_newer(tmp_path, damaged):
    for step in (1, 2, 3, 4):
        folder = save(tmp_path, step)
        if step in damaged:
            flip(folder / "model.safetensors")
    clean_up(tmp_path)
    whole = [step for step in (4, 3, 2, 1) if step not in damaged]
    oldest_kept = whole[1] if len(whole) > 1 else 1
    assert names(tmp_path) == [f"step-{step:06}" for step in range(oldest_kept, 5)]


def test_cleaning_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    dead = dead_process()
    folder = save(tmp_path, 1)
    stale = [folder / f".model.safetensors.{dead}.0123abcd.tmp", tmp_path / f".log.{dead}.0123abcd.tmp"]
    kept = [folder / f".config.json.{os.getpid()}.0123abcd.tmp", tmp_path / "notes.tmp", tmp_path / "log.txt"]
    for file in stale + kept:
        file.touch()
    clean_up(tmp_path)
    assert not any(file.exists() for file in stale)
    assert all(file.exists() for file in kept)
    assert is_whole(folder, 1)


def test_a_checkpoint_that_is_being_deleted_stops_being_one_first(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step)
    deleted, unlink = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda p, **options: (deleted.append(p.name), unlink(p, **options))[1])
    clean_up(tmp_path)
    assert deleted[0] == "manifest.json"
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_a_folder_that_a_program_has_put_into_a_checkpoint_does_not_stop_the_cleaning(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000001" / ".ipynb_checkpoints").mkdir()  # JupyterLab does
    clean_up(tmp_path)
    assert [folder.name for folder in checkpoints(tmp_path) if verify(folder) is None] == [
        "step-000003",
        "step-000002",
    ]


# What belongs together


def test_other_parts_are_refused_unless_the_caller_says_that_they_compute_the_same(tmp_path):
    folder = save(tmp_path, 1)
    with pytest.raises(ValueError) as error:
        open_checkpoint(tmp_path, Parts(norm=MyNorm, feedforward=ReLUFeedForward))
    message = str(error.value)
    assert message.startswith(f"{folder / 'config.json'}: made with parts ")
    for words in ("'norm': 'RMSNorm'", "norm=", "MyNorm", "feedforward=ReLUFeedForward", "other_parts=True"):
        assert words in message
    assert "block=" not in message  # that one is the same
    opened = open_checkpoint(tmp_path, Parts(norm=MyNorm), other_parts=True)
    assert isinstance(opened.model.norm, MyNorm)
    assert torch.equal(opened.model.norm.weight, torch.ones(4))
    assert open_checkpoint(tmp_path, Parts()).model.parts == Parts()


def test_other_parts_whose_weights_do_not_fit_are_refused_all_the_same(tmp_path):
    folder = save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"missing: layers\.0\.feedforward") as error:
        open_checkpoint(tmp_path, Parts(feedforward=ReLUFeedForward), other_parts=True)
    assert str(error.value).startswith(str(folder / "model.safetensors"))


def test_a_learners_own_part_is_asked_for_by_its_name(tmp_path):
    folder = tmp_path / "step-000001"
    save_checkpoint(folder, llama(1, Parts(norm=MyNorm)), TOKENIZER, {"step": 1})
    with pytest.raises(ValueError) as error:
        open_checkpoint(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{folder / 'config.json'}: made with norm=")
    assert "MyNorm, which is not one of minillama's own parts; load it with parts=Parts(norm=...)" in message
    assert isinstance(open_checkpoint(tmp_path, Parts(norm=MyNorm)).model.norm, MyNorm)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    save_checkpoint(tmp_path / "step-000001", llama(vocab_size=4), TOKENIZER, {})
    with pytest.raises(ValueError, match="step-000001: tokenizer 5 tokens, model 4; not a pair"):
        open_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "step-000002", llama(vocab_size=6), TOKENIZER, {})  # room to spare is fine
    assert open_checkpoint(tmp_path).model.config.vocab_size == 6


def test_weights_that_are_not_finite_are_opened_only_on_request(tmp_path):
    save_checkpoint(tmp_path / "step-000001", llama(float("nan")), TOKENIZER, {})
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor .* allow_nonfinite=True"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, allow_nonfinite=True).model.norm.weight.isnan().all()


def sign(folder: Path):
    """Make the manifest agree with what is there: as if it had been saved like this."""
    entries = {}
    for name in FILES[:-1]:
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            entries[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", '{"config": 7, "parts": {}}', "expected a JSON object"),
        ("config.json", '{"config": {"vocab_size": 5, "d_modle": 4}}', "unknown field 'd_modle'"),
        ("config.json", '{"config": {"vocab_size": 5}}', "field 'd_model' is missing"),
        ("config.json", json.dumps({"config": SIZES}), "parts: expected a name for each of"),
        (
            "config.json",
            json.dumps({"config": SIZES, "parts": {"norm": "RMSNorm"}}),
            "parts: expected a name for each",
        ),
        ("config.json", json.dumps({"config": SIZES | {"vocab_size": 10**12}}), "vocab_size=1000000000000"),
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "expected a JSON object"),
        ("tokenizer.json", '{"kind": "characters"}', "field 'characters'"),
        ("tokenizer.json", "abc", "not JSON"),
        ("training.json", "", "0 bytes that are not JSON"),
        ("model.safetensors", "<!DOCTYPE html>", "a web page, not weights"),
    ],
)
def test_a_file_that_was_written_wrong_is_named_with_what_is_wrong(tmp_path, name, content, words):
    folder = save(tmp_path, 1)
    (folder / name).write_text(content)
    sign(folder)
    with pytest.raises(ValueError) as error:
        open_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{folder / name}: ")
    assert words in str(error.value)


# The state of a training


class Bomb:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("forced", [None, "1"])
@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"step": 1, "m": [torch.ones(2), bomb]}])
@pytest.mark.parametrize("as_torch", [True, False])
def test_code_in_a_state_is_never_run_whatever_the_environment_says(tmp_path, monkeypatch, forced, wrap, as_torch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    path, marker = tmp_path / "training.pth", tmp_path / "executed"
    content = wrap(Bomb(marker))
    torch.save(content, path) if as_torch else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"training\.pth: .*not a training state; use another checkpoint"):
        read_state(tmp_path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb does work


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80",
        b"\x80\x02.",  # a pickle that takes from an empty stack
        b"\x80\x04\x95\x01",
        b"\x80\x02h\x07.",
        b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
        b"PK\x03\x04" + b"\0" * 40,
        b"<!DOCTYPE html>",
        pickle.dumps(object(), protocol=2),
    ],
)
def test_what_is_no_state_is_named_with_its_size(tmp_path, content):
    path = tmp_path / "training.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_state(tmp_path)
    assert str(error.value).startswith(f"{path}: {len(content)} bytes that are not a training state; use another")


@pytest.mark.parametrize("length", [1, 100, -200, -1])
def test_a_state_that_is_cut_is_named(tmp_path, length):
    folder = save(tmp_path, 1)
    path = folder / "training.pth"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError) as error:
        read_state(folder)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("tensor", [torch.zeros(1).expand(10**9), torch.eye(3).to_sparse()], ids=["repeats", "sparse"])
def test_a_state_whose_tensor_claims_more_than_the_file_holds_is_refused(tmp_path, tensor):
    torch.save({"random": {"torch": [tensor]}}, tmp_path / "training.pth")
    with pytest.raises(ValueError, match="that is sparse or repeats itself"):
        read_state(tmp_path)
