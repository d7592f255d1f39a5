import json
from functools import partial

import pytest
import torch

from minillama.attention import Attention, attend
from minillama.block import Parts
from minillama.certify import certify
from minillama.llama import Llama
from minillama.pack import pack, validation_loss
from minillama.saving import open_checkpoint, read_state, verify
from tests.test_loop import TEXT, TINY, quietly


@pytest.fixture
def run(tmp_path):
    quietly(TINY, TEXT, out=tmp_path / "run")
    return tmp_path / "run"


def test_a_packed_run_is_small_whole_and_says_what_it_is(run, tmp_path):
    packed = pack(run, tmp_path / "packed", TEXT, "the command")
    names = {path.name for path in packed.folder.iterdir()}
    assert names == {"certificate.json", "config.json", "manifest.json", "metrics.csv", "model.safetensors",
                     "tokenizer.json", "training.json"}  # fmt: skip
    assert verify(packed.folder) is None and read_state(packed.folder) is None
    assert packed.training["command"] == "the command"
    assert json.loads((packed.folder / "certificate.json").read_text())["certified"]
    big, small = (path.stat().st_size for path in (
        open_checkpoint(run).folder / "model.safetensors", packed.folder / "model.safetensors",
    ))  # fmt: skip
    assert small < 0.7 * big  # bfloat16, and a header


def test_the_packed_loss_is_that_of_the_rounded_weights(run, tmp_path):
    packed = pack(run, tmp_path / "packed", TEXT, "")
    assert packed.training["validation_loss"] == validation_loss(packed, TEXT)
    assert packed.training["validation_loss"] != open_checkpoint(run).training["validation_loss"]
    weights = packed.model.state_dict()
    for name, weight in open_checkpoint(run).model.state_dict().items():
        torch.testing.assert_close(weights[name], weight.bfloat16().float(), rtol=0, atol=0)


def test_the_loss_measured_again_is_the_one_that_training_reported(run):
    stored = open_checkpoint(run)
    assert validation_loss(stored, TEXT) == pytest.approx(stored.training["validation_loss"], abs=1e-6)


def test_a_loss_on_another_text_is_refused(run):
    with pytest.raises(ValueError, match="trained on a text with SHA-256"):
        validation_loss(open_checkpoint(run), TEXT + "!")


def test_the_certificate_is_of_the_rounded_weights(run, tmp_path, monkeypatch):
    certified = []
    monkeypatch.setattr("minillama.pack.certify", lambda model: certified.append(model) or certify(model))
    pack(run, tmp_path / "packed", TEXT, "")
    assert all(torch.equal(p, p.bfloat16().float()) for p in certified[0].parameters())


def test_a_run_whose_measurements_are_lost_is_packed_without(run, tmp_path):
    (run / "metrics.csv").unlink()
    assert not (pack(run, tmp_path / "packed", TEXT, "").folder / "metrics.csv").exists()


def test_a_model_that_fails_its_certificate_is_not_packed(run, tmp_path, monkeypatch):
    see_all = Parts(attention=partial(Attention, attend=lambda q, k, v, mask: attend(q, k, v)))
    monkeypatch.setattr("minillama.pack.certify", lambda model: certify(Llama(model.config, see_all)))
    with pytest.raises(ValueError, match="fails its certificate"):
        pack(run, tmp_path / "packed", TEXT, "")
    assert not (tmp_path / "packed").exists()
