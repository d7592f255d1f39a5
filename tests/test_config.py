import json
import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from minillama.config import PRESETS, Config, RopeScaling
from minillama.llama import Llama

SIZES = dict(vocab_size=65, d_model=48, n_layers=2, n_heads=6)
COUNTS = ["vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "max_len"]
LLAMA3 = dict(kind="llama3", factor=8.0)


def refused(fields: dict) -> str:
    """The message of the ValueError, which must be one line. From code and from a file the same."""
    with pytest.raises(ValueError) as error:
        Config.from_dict(fields)
    message = str(error.value)
    assert message and "\n" not in message
    with pytest.raises(ValueError) as located:
        Config.from_dict(fields, where="config.json: ")
    assert str(located.value) == "config.json: " + message
    return message


def test_what_is_left_out_follows_from_the_rest():
    config = Config(**SIZES)
    assert (config.n_kv_heads, config.head_dim, config.d_ff) == (6, 8, 256)
    assert (config.max_len, config.norm_eps, config.rope_base, config.rope_scaling, config.tied) == (
        *(2048, 1e-5, 10000.0, None),
        False,
    )


def test_a_given_head_width_need_not_divide_d_model():
    assert Config(vocab_size=65, d_model=50, n_layers=2, n_heads=6, head_dim=10).head_dim == 10


@pytest.mark.parametrize("value", [-8, 0, "64", 1.5, 48.0, True, [48], math.nan, 10**12])
@pytest.mark.parametrize("field", COUNTS)
def test_what_is_no_count_is_refused_with_field_and_value(field, value):
    assert f"{field}={value!r}" in refused(SIZES | {field: value})


@pytest.mark.parametrize("field", ["vocab_size", "d_model", "n_layers", "n_heads"])
def test_a_size_that_must_be_given_is_not_filled_in(field):
    assert f"{field}=None" in refused(SIZES | {field: None})


@pytest.mark.parametrize("field", COUNTS)
def test_a_number_with_400_digits_is_refused_like_any_other(field):
    assert f"{field}=1000" in refused(SIZES | {field: 10**400})


def test_a_terabyte_is_refused_in_gigabytes():
    message = refused(SIZES | {"vocab_size": 10**12})
    assert "4,000" in message and "GB" in message


@pytest.mark.parametrize(
    "value", [0, -1e-5, math.nan, math.inf, -math.inf, "1e-5", None, True, [1e-5], pytest.param(10**400, id="10**400")]
)
@pytest.mark.parametrize("field", ["norm_eps", "rope_base"])
def test_a_number_must_be_finite_and_above_0(field, value):
    assert f"{field}={value!r}"[:100] in refused(SIZES | {field: value})


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_tied_is_true_or_false(value):
    assert f"tied={value!r}" in refused(SIZES | {"tied": value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(d_model=50), ["d_model=50", "n_heads=6", "try d_model=48"]),
        (dict(d_model=2), ["d_model=2", "n_heads=6", "try d_model=6"]),
        (dict(n_kv_heads=4), ["n_heads=6", "n_kv_heads=4", "[1, 2, 3, 6]"]),
        (dict(n_kv_heads=12), ["n_heads=6", "n_kv_heads=12"]),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_a_way_out(changes, words):
    message = refused(SIZES | changes)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("unknown", "hint"), [("n_head", "'n_heads'"), ("vocabsize", "'vocab_size'"), ("xyz", "known fields: vocab_size, ")]
)
def test_an_unknown_field_is_named_with_the_closest_known_one(unknown, hint):
    message = refused(SIZES | {unknown: 1})
    assert f"unknown field {unknown!r}" in message and hint in message


@pytest.mark.parametrize("field", SIZES)
def test_a_missing_field_is_named(field):
    assert f"field {field!r} is missing" in refused({k: v for k, v in SIZES.items() if k != field})


@pytest.mark.parametrize("fields", [None, [], "tiny", 3])
def test_what_is_no_object_of_fields_is_refused(fields):
    assert f"found {type(fields).__name__}" in refused(fields)


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        (dict(kind="yarn", factor=2.0), "kind='yarn'"),
        (dict(kind=["linear"], factor=2.0), "kind=['linear']"),
        (dict(kind="linear"), "'factor' is missing"),
        (dict(factor=2.0), "'kind' is missing"),
        (LLAMA3 | dict(factr=2.0), "unknown field 'factr'; did you mean 'factor'?"),
        (dict(kind="linear", factor=0), "factor=0"),
        (dict(kind="linear", factor="2"), "factor='2'"),
        (dict(kind="linear", factor=math.nan), "factor=nan"),
        (dict(kind="linear", factor=2.0, low_freq_factor="a"), "low_freq_factor='a'"),
        (LLAMA3 | dict(low_freq_factor=None), "low_freq_factor=None"),
        (LLAMA3 | dict(original_max_len=-1), "original_max_len=-1"),
        (LLAMA3 | dict(low_freq_factor=4.0), "low_freq_factor=4.0 must be smaller than high_freq_factor=4.0"),
        ("linear", "rope_scaling='linear'"),
        (2.0, "rope_scaling=2.0"),
        ([], "rope_scaling=[]"),
        ({}, "'kind' is missing"),
    ],
)
def test_a_broken_rope_scaling_is_refused_by_name(scaling, words):
    message = refused(SIZES | {"rope_scaling": scaling})
    assert words in message and message.count("rope_scaling") == 1, message


@pytest.mark.parametrize("scaling", [None, dict(kind="linear", factor=4.0), LLAMA3 | dict(original_max_len=64)])
def test_a_config_survives_json(scaling):
    config = Config(**SIZES, head_dim=10, d_ff=7, norm_eps=1e-6, rope_scaling=scaling, tied=True)
    back = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config and hash(back) == hash(config)
    assert back.rope_scaling is None or isinstance(back.rope_scaling, RopeScaling)


def test_different_configs_are_different():
    config = Config(**SIZES)
    others = {replace(config, tied=True), replace(config, rope_scaling=RopeScaling(**LLAMA3)), replace(config, d_ff=9)}
    assert len({config, Config(**SIZES), *others}) == 4


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Config(**SIZES).d_model = 96


# Parameters, heads, longest text, eps, RoPE base: as published with the models.
PUBLISHED = {
    "llama-1-7b": (6738415616, 32, 32, 2048, 1e-6, 1e4),
    "llama-1-13b": (13015864320, 40, 40, 2048, 1e-6, 1e4),
    "llama-1-33b": (32528943616, 52, 52, 2048, 1e-6, 1e4),
    "llama-1-65b": (65285660672, 64, 64, 2048, 1e-5, 1e4),  # the only one of its family with 1e-5
    "llama-2-7b": (6738415616, 32, 32, 4096, 1e-5, 1e4),
    "llama-2-13b": (13015864320, 40, 40, 4096, 1e-5, 1e4),
    "llama-2-70b": (68976648192, 64, 8, 4096, 1e-5, 1e4),
    "llama-3-8b": (8030261248, 32, 8, 8192, 1e-5, 5e5),
    "llama-3-70b": (70553706496, 64, 8, 8192, 1e-5, 5e5),
    "llama-3.1-8b": (8030261248, 32, 8, 131072, 1e-5, 5e5),
    "llama-3.1-70b": (70553706496, 64, 8, 131072, 1e-5, 5e5),
    "llama-3.1-405b": (405853388800, 128, 8, 131072, 1e-5, 5e5),
    "llama-3.2-1b": (1235814400, 32, 8, 131072, 1e-5, 5e5),
    "llama-3.2-3b": (3212749824, 24, 8, 131072, 1e-5, 5e5),
    "tinyllama-1.1b": (1100048384, 32, 4, 2048, 1e-5, 1e4),
    "smollm2-135m": (134515008, 9, 3, 8192, 1e-5, 1e5),
    "smollm2-360m": (361821120, 15, 5, 8192, 1e-5, 1e5),
    "smollm2-1.7b": (1711376384, 32, 32, 8192, 1e-5, 1.3e5),
}


def test_every_preset_is_compared_with_what_was_published():
    assert set(PRESETS) == {"tiny", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_sizes_and_allocates_nothing_to_count_them(name):
    config = PRESETS[name]
    with torch.device("meta"):
        llama = Llama(config)
    assert all(tensor.is_meta for tensor in [*llama.parameters(), *llama.buffers()])
    found = (llama.n_parameters, config.n_heads, config.n_kv_heads, config.max_len, config.norm_eps, config.rope_base)
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_scales_rope_as_published(name):
    factor = {"llama-3.1": 8.0, "llama-3.2": 32.0}.get(name[:9])
    expected = None if factor is None else RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    assert PRESETS[name].rope_scaling == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    assert Config.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]
