import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minillama.norm import LayerNorm, RMSNorm

PAIRS = [(RMSNorm, nn.RMSNorm), (LayerNorm, nn.LayerNorm)]
both = pytest.mark.parametrize("Norm", [RMSNorm, LayerNorm])


def with_random_weights(norm: nn.Module) -> nn.Module:
    """Not ones and zeros: a forgotten weight or bias must show."""
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0])  # 1e-3 and 0 are where eps shows
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize(("Ours", "Theirs"), PAIRS)
def test_a_norm_equals_torch_in_values_and_gradients(Ours, Theirs, eps, scale, same):
    ours = with_random_weights(Ours(8, eps))
    theirs = Theirs(8, eps)
    theirs.load_state_dict(ours.state_dict())
    x = scale * (torch.randn(2, 3, 8) + 1)  # a mean that is not 0 tells the two norms apart
    same(ours, theirs, x, atol=1e-5, rtol=1e-4)
    for name, parameter in theirs.named_parameters():
        assert_close(ours.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize(("Ours", "Theirs"), PAIRS)
def test_a_fresh_norm_equals_torch_at_the_default_eps(Ours, Theirs):
    x = 1e-3 * torch.randn(2, 3, 8)
    assert_close(Ours(8)(x), Theirs(8, eps=1e-5)(x))


def test_layer_norm_of_one_and_three_zeros_is_known_by_hand():
    out = LayerNorm(4, eps=1e-12)(torch.tensor([1.0, 0, 0, 0]))
    assert_close(out, torch.tensor([3.0, -1, -1, -1]) / 3**0.5)


@both
def test_a_token_is_normalized_by_itself(Norm):
    norm, x = with_random_weights(Norm(8)), torch.randn(2, 3, 8)
    alone = [[norm(x[b, t]) for t in range(3)] for b in range(2)]
    assert_close(norm(x), torch.stack([torch.stack(row) for row in alone]))


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_norm_keeps_the_dtype_and_is_computed_in_float32(Norm, dtype):
    norm = with_random_weights(Norm(8)).to(dtype)
    x = (300 * torch.randn(2, 3, 8)).to(dtype)  # 300**2 is more than float16 holds
    out = norm(x)
    assert out.dtype == dtype
    assert_close(out.float(), copy.deepcopy(norm).float()(x.float()), atol=1e-2, rtol=1e-2)


@both
def test_a_norm_leaves_its_input_alone(Norm):
    x = torch.randn(2, 3, 8)
    before = x.clone()
    with_random_weights(Norm(8))(x)
    assert_close(x, before, atol=0, rtol=0)
