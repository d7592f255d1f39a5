"""benchmarks/ablations.py, with two steps instead of 700: its file, and that the comparison is a fair one."""

import csv
import importlib.util
from pathlib import Path

import pytest
import torch

from minillama import loop
from minillama.data import Batches

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(ablations, tmp_path_factory):
    """The file after two runs, and what gave each of them its batches, with all that it gave."""
    out, seen = tmp_path_factory.mktemp("ablations") / "new" / "ablations.csv", []

    class Watched(Batches):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.given = []
            seen.append(self)

        def __call__(self, step):
            batch = super().__call__(step)
            self.given.append(torch.stack(batch))
            return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Batches", Watched)
        ablations.main(arguments(out))
    return out, seen


def arguments(out: Path) -> list[str]:
    threads = ["--threads", str(torch.get_num_threads())]  # as they are: other tests come after this one
    return ["--steps", "2", "--variants", "llama", "relu", "--seeds", "3", "--out", str(out), *threads]


def test_the_file_has_a_row_for_each_run(measured):
    with open(measured[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == "variant seed parameters tokens steps loss seconds".split()
    assert [(row["variant"], row["seed"], row["steps"]) for row in rows] == [("llama", "3", "2"), ("relu", "3", "2")]
    for row in rows:
        assert int(row["tokens"]) == 2 * 12 * 64
        assert 3.5 < float(row["loss"]) < 4.5  # ln 65 is 4.17; two steps of a warm-up change little
        assert float(row["seconds"]) > 0


def test_equal_seeds_see_equal_batches_and_other_seeds_others(ablations, measured):
    llama, relu = (torch.stack(batches.given) for batches in measured[1])
    assert llama.shape == (2, 2, 12, 64)  # steps, tokens and targets, B, T
    assert torch.equal(llama, relu)
    same_seed, other_seed = (Batches(measured[1][0].tokens, 12, 64, seed=seed) for seed in (3, 4))
    assert torch.equal(llama[1], torch.stack(same_seed(1)))
    assert not torch.equal(llama[1], torch.stack(other_seed(1)))
    recipes = [ablations.BASE.but(**changes) for _, changes in ablations.VARIANTS.values()]
    for field in ("batch_size", "length", "accumulate", "tokenizer", "seed"):  # all that the batches depend on
        assert len({getattr(recipe, field) for recipe in recipes}) == 1


def test_all_variants_have_as_many_parameters_within_one_percent(ablations, measured):
    with open(measured[0], newline="") as file:
        llama, relu = (int(row["parameters"]) for row in csv.DictReader(file))
    assert abs(relu - llama) < 0.01 * llama
    for parts, changes in ablations.VARIANTS.values():
        n_parameters = ablations.Llama(ablations.BASE.but(**changes).config(65), parts).n_parameters
        assert abs(n_parameters - llama) < 0.01 * llama


def test_a_finished_run_is_not_repeated_unless_it_is_asked_for(ablations, measured, monkeypatch, capsys):
    out, again = measured[0], []
    before = out.read_bytes()

    def measure(name, seed, steps, text):
        again.append(name)
        return next(row for row in ablations.read(out) if row["variant"] == name) | {"steps": steps, "loss": 1.0}

    monkeypatch.setattr(ablations, "measure", measure)
    ablations.main(arguments(out))
    assert not again and out.read_bytes() == before
    assert "| relu | 155,136 | 1,536 |" in capsys.readouterr().out  # the table shows them all the same
    other = out.with_name("again.csv")
    other.write_bytes(before)
    ablations.main([*arguments(other), "--again"])
    assert again == ["llama", "relu"]
    assert [row["loss"] for row in ablations.read(other)] == [1.0, 1.0]  # in place of the old rows
    ablations.main([*arguments(other), "--steps", "5"])
    assert [row["steps"] for row in ablations.read(other)] == [2, 2, 5, 5]  # other steps: another run


def test_an_unknown_variant_is_refused_with_the_known_ones(ablations, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablations.main(["--variants", "gelu", "--out", str(tmp_path / "a.csv")])
    message = capsys.readouterr().err
    assert "gelu" in message and all(name in message for name in ablations.VARIANTS)


def test_a_file_of_another_kind_is_not_overwritten(ablations, tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss\n1,2.5\n")
    with pytest.raises(ValueError, match=r"metrics\.csv: columns .*choose another --out"):
        ablations.main(arguments(file))
    assert file.read_text() == "step,loss\n1,2.5\n"
