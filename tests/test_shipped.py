"""The model in data/shakespeare-best, as everybody gets it with a clone."""

import json
import re

import pytest

from minillama import assets, cli
from minillama.assets import corpus, shipped_model
from minillama.certify import certify
from minillama.generate import sample_text
from minillama.pack import validation_loss
from minillama.recipe import RECIPES
from minillama.saving import open_checkpoint, verify

SHIPPED = shipped_model()
WORDS = set(
    "the and to of my you that in is not with me for it be this your his but have as thou him so will what".split()
)


@pytest.fixture(scope="module")
def shipped():
    assert verify(SHIPPED) is None
    return open_checkpoint(SHIPPED)


def test_it_is_small_and_says_how_it_was_made(shipped):
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4e6
    assert shipped.training["command"] == "python -m minillama train shakespeare-best"
    recipe = RECIPES["shakespeare-best"]
    assert shipped.model.config == recipe.config(shipped.tokenizer.vocab_size)
    made_by = shipped.training["identity"]["recipe"]
    assert {name: made_by[name] for name in ("steps", "lr", "dropout", "seed")} == {
        name: getattr(recipe, name) for name in ("steps", "lr", "dropout", "seed")
    }


def test_it_passes_its_certificate(shipped):
    certificate = certify(shipped.model)
    assert certificate.passed, certificate
    assert json.loads((SHIPPED / "certificate.json").read_text())["certified"]


def test_it_writes_speakers_lines_and_english_words(shipped):
    text = sample_text(shipped.model, shipped.tokenizer, n_new=600, seed=5)
    speakers = re.findall(r"^[A-Z][A-Za-z ]+:$", text, flags=re.MULTILINE)
    words = re.findall(r"[a-z']+", text)
    assert len(speakers) >= 3 and text.count("\n") >= 10
    assert sum(word in WORDS for word in words) > 0.2 * len(words)


def test_sample_speaks_on_a_fresh_clone(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # nothing was trained here
    assert cli.main(["sample", "--prompt", "ROMEO:\n", "--tokens", "80", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("ROMEO:\n")
    assert cli.main(["certify"]) == 0 and "certified" in capsys.readouterr().out


@pytest.mark.slow
def test_its_validation_loss_is_the_one_it_states(shipped):
    try:
        text = corpus(report=lambda line: None)
    except OSError as error:
        pytest.skip(f"TinyShakespeare is not to be had: {error}")
    loss = validation_loss(shipped, text)
    assert loss == pytest.approx(shipped.training["validation_loss"], abs=1e-3)
    assert loss < 1.46


def test_it_is_found_wherever_fetched_files_go_and_a_package_without_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILLAMA_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.newest_run() == SHIPPED
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "minillama" / "assets.py"))
    with pytest.raises(FileNotFoundError, match="this model comes with the repository"):
        shipped_model()
