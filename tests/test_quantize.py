import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from minillama.block import Parts
from minillama.config import Config
from minillama.llama import Llama
from minillama.norm import LayerNorm
from minillama.position import Sinusoidal
from minillama.quantize import (
    FORMATS,
    Int4Linear,
    Int8Linear,
    dequantize_int4,
    dequantize_int8,
    n_bytes,
    quantize,
    quantize_int4,
    quantize_int8,
)

ROUNDED = {"float32": 0.0, "bfloat16": 0.01, "int8": 0.03, "int4": 0.3}  # of the logits, relative to their spread


def llama(parts=Parts(), **changes):  # noqa: B008  (frozen)
    torch.manual_seed(1)
    sizes = dict(vocab_size=51, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=96, max_len=64)
    model = Llama(Config(**(sizes | changes)), parts)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def relative(given, expected):
    return float((given - expected).square().mean().sqrt() / expected.std())


def test_int8_rows_lose_at_most_half_a_step_each_with_a_scale_of_its_own():
    weight = torch.randn(7, 40) * torch.logspace(-6, 6, 7)[:, None]
    codes, scale = quantize_int8(weight)
    assert codes.dtype == torch.int8 and scale.shape == (7,) and scale.dtype == torch.float32
    assert (codes.abs().amax(dim=1) == 127).all() and codes.min() >= -127
    assert ((dequantize_int8(codes, scale) - weight).abs() <= 0.501 * scale[:, None]).all()


def test_int4_groups_hold_their_smallest_and_largest_number_exactly():
    weight = torch.randn(5, 96) + 3
    codes, scale, minimum = quantize_int4(weight)
    assert codes.dtype == torch.uint8 and scale.shape == minimum.shape == (5, 3)
    assert (codes.view(5, 3, 32).amin(-1) == 0).all() and (codes.view(5, 3, 32).amax(-1) == 15).all()
    error = (dequantize_int4(codes, scale, minimum) - weight).abs().view(5, 3, 32)
    assert (error <= 0.501 * scale[..., None]).all()


def test_numbers_that_stand_on_the_16_steps_come_back_as_they_were():
    steps = torch.randint(0, 16, (3, 64), generator=torch.Generator().manual_seed(0))
    steps[:, [0, 32]], steps[:, [1, 33]] = 0, 15
    weight = steps * 0.25 - 1.5
    codes, scale, minimum = quantize_int4(weight)
    assert torch.equal(codes, steps.to(torch.uint8)) and torch.equal(dequantize_int4(codes, scale, minimum), weight)


@pytest.mark.parametrize("value", [0.0, -2.0, 1e-30])
def test_rows_of_equal_numbers_and_zeros_are_no_division_by_zero(value):
    weight = torch.full((2, 32), value)
    assert_close(dequantize_int8(*quantize_int8(weight)), weight)
    assert_close(dequantize_int4(*quantize_int4(weight)), weight)


def test_groups_that_do_not_divide_a_row_are_refused():
    with pytest.raises(ValueError, match="rows of 40 numbers do not split into groups of group_size=32"):
        quantize_int4(torch.ones(2, 40))


@given(n=st.integers(1, 40), k=st.integers(1, 130), rows=st.integers(1, 40))
def test_an_int8_layer_multiplies_by_its_rounded_weight_for_every_shape(n, k, rows):
    weight, x = torch.randn(n, k), torch.randn(rows, k).bfloat16().float()
    layer = Int8Linear.pack(weight)
    expected = F.linear(x, layer.codes.float() * layer.scale.float()[:, None])
    assert_close(layer(x), expected, atol=0.02 * k**0.5, rtol=0.02)
    assert_close(layer.rows(torch.tensor([[0]])), (layer.codes[0].float() * layer.scale[0].float())[None, None])


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("n, k", [(16, 32), (48, 96), (112, 160)])
def test_an_int4_layer_multiplies_by_its_rounded_weight(n, k, rows):
    weight, x = torch.randn(n, k), torch.randn(2, rows, k).bfloat16().float()
    given = Int4Linear.pack(weight)(x)
    assert given.dtype == x.dtype
    assert_close(given, F.linear(x, dequantize_int4(*quantize_int4(weight))), atol=0.02 * k**0.5, rtol=0.02)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weights", FORMATS)
def test_a_quantized_model_says_nearly_the_same_in_fewer_bytes(weights, tied):
    model, tokens = llama(tied=tied), torch.randint(51, (2, 20))
    small = quantize(model, weights)
    assert relative(small(tokens), model(tokens)) <= ROUNDED[weights]
    assert n_bytes(small) <= n_bytes(model) * {"float32": 1, "bfloat16": 0.52, "int8": 0.29, "int4": 0.23}[weights]


def test_the_model_that_was_quantized_stays_as_it_was():
    model = llama().requires_grad_(True).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    quantize(model, "int4")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.training and all(p.requires_grad for p in model.parameters())


def test_any_parts_can_be_quantized_and_what_has_a_bias_is_refused():
    other = llama(Parts(norm=LayerNorm, position=Sinusoidal))
    tokens = torch.randint(51, (1, 9))
    assert relative(quantize(other, "int8")(tokens), other(tokens)) < 0.05
    other.layers[0].feedforward.up_proj = nn.Linear(64, 96)
    with pytest.raises(ValueError, match="layers.0.feedforward.up_proj has a bias"):
        quantize(other, "int8")


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="weights='int3'; expected one of float32, bfloat16, int8, int4"):
        quantize(llama(), "int3")


def test_shapes_that_the_int4_kernel_does_not_take_are_packed_in_int8():
    small = quantize(llama(d_ff=88, d_model=48, n_heads=2, n_kv_heads=1), "int4")
    kinds = {name: type(layer).__name__ for name, layer in small.layers[0].named_modules() if "proj" in name}
    assert set(kinds.values()) == {"Int8Linear"}
