import pytest

from minillama.config import Config
from minillama.recipe import RECIPES, Recipe, find_recipe

SMALL = dict(name="s", about="", d_model=8, n_layers=1, n_heads=2, d_ff=12, length=4, steps=3, batch_size=2, lr=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", 1.5), ("steps", "9"), ("batch_size", -1), ("length", True), ("accumulate", 0),
        ("lr", 0), ("lr", float("nan")), ("max_norm", -1.0), ("embedding_lr", 0.0), ("optimizer", "sgd"),
        ("schedule", "flat"), ("precision", "fp64"), ("dropout", 1.0), ("dropout", -0.1), ("average", 1.0),
        ("weight_decay", "much"), ("warmup_steps", -1), ("seed", 2**31), ("d_model", 7), ("n_heads", 3), ("d_ff", 0),
        ("tokenizer", "words"), ("tokenizer", "bpe-"), ("tokenizer", "bpe-1e3"), ("tokenizer", 512), ("tokenizer", ""),
    ],
)  # fmt: skip
def test_a_field_out_of_range_is_named_with_its_value(field, value):
    with pytest.raises(ValueError) as error:
        Recipe(**SMALL | {field: value})
    assert f"{field}=" in str(error.value) and str(value) in str(error.value)


def test_a_recipe_trains_a_plain_tied_llama():
    assert Recipe(**SMALL).config(65) == Config(65, 8, 1, 2, d_ff=12, max_len=4, tied=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_found_by_its_name_and_fits_into_four_megabytes(name):
    from minillama.info import costs

    assert find_recipe(name).name == name
    assert costs(RECIPES[name].config(65)).weights_bytes < 4e6


def test_an_unknown_recipe_or_field_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="shakespeare-quick"):
        find_recipe("shakespear")
    with pytest.raises(ValueError, match="'step'.*steps"):
        RECIPES["shakespeare-quick"].but(step=3)
