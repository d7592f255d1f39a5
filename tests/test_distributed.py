import os
import subprocess
import sys

import pytest
import torch

from minillama.distributed import Processes
from minillama.records import read_metrics
from minillama.saving import open_checkpoint
from tests.test_loop import TEXT, TINY, quietly

RECIPE = TINY.but(dropout=0.0, steps=6, evaluations=3, accumulate=2)


def torchrun(folder, n_processes):
    (folder / "text.txt").write_text(TEXT)
    flags = [f"--{name.replace('_', '-')}={getattr(RECIPE, name)}" for name in (
        "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "length", "steps", "batch_size", "lr", "warmup_steps",
        "average", "evaluations", "precision", "accumulate", "dropout", "weight_decay", "seed",
    )]  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes),
        "-m", "minillama", "train", "shakespeare-taste", "--text", "text.txt", "--out", "run", "--threads", "1", *flags,
    ]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over torchrun is tested on POSIX")
def test_two_processes_lose_as_much_as_one(tmp_path):
    done = torchrun(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation loss") == 4, "one process reports: three evaluations and the end"
    alone, together = quietly(RECIPE, TEXT), read_metrics(tmp_path / "run" / "metrics.csv")
    for mine, theirs in zip(alone.metrics, together, strict=True):
        for name in ("train_loss", "validation_loss", "gradient_norm"):
            assert mine[name] == pytest.approx(theirs[name], abs=2e-5), (mine["step"], name)
    weights = open_checkpoint(tmp_path / "run").model.state_dict()
    for name, weight in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-4)


def test_each_row_of_a_batch_goes_to_one_process():
    shares = [Processes(rank, 3).share(torch.arange(6)).tolist() for rank in range(3)]
    assert sorted(row for share in shares for row in share) == [0, 1, 2, 3, 4, 5] and all(
        len(share) == 2 for share in shares
    )


def test_one_process_is_the_first_also_on_several_machines():
    assert [Processes(rank, 4, local_rank=rank % 2).is_first for rank in range(4)] == [True, False, False, False]


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert Processes.here() == Processes(rank=2, count=3, local_rank=1)
    with pytest.raises(ValueError, match="batch_size=4; expected a multiple of 3 processes, such as 3"):
        Processes.here().check_batch_size(4)


def test_a_batch_smaller_than_the_number_of_processes_has_to_grow():
    with pytest.raises(ValueError, match="batch_size=1; expected a multiple of 4 processes, such as 4"):
        Processes(0, 4).check_batch_size(1)


def test_a_connection_is_made_and_closed_here_unless_somebody_else_made_it(monkeypatch):
    said = []
    monkeypatch.setattr(torch.distributed, "init_process_group", said.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: said.append("closed"))
    with pytest.raises(KeyError), Processes(0, 2).connected(torch.device("cpu")):
        raise KeyError
    assert said == ["gloo", "closed"]
    with Processes(0, 2).connected(torch.device("cuda")):
        assert said == ["gloo", "closed", "nccl"]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with Processes(0, 2).connected(torch.device("cpu")):
        pass
    assert len(said) == 4


def test_without_torchrun_there_is_one_process():
    assert Processes.here() == Processes() and Processes().is_first
    numbers = torch.tensor([2.0])
    assert Processes().mean(numbers) is numbers and Processes().share(numbers) is not None
