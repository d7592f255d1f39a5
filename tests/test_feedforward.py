import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minillama.feedforward import ReLUFeedForward, SwiGLU, swiglu_d_ff


@pytest.mark.parametrize(
    ("sizes", "d_ff"),
    [  # the widths published with the models, and three by hand
        (dict(d_model=4096), 11008),
        (dict(d_model=5120), 13824),
        (dict(d_model=6656), 17920),
        (dict(d_model=8192), 22016),
        (dict(d_model=4096, multiple_of=1024, multiplier=1.3), 14336),
        (dict(d_model=8192, multiple_of=4096, multiplier=1.3), 28672),
        (dict(d_model=16384, multiple_of=4096, multiplier=1.2), 53248),
        (dict(d_model=2048, multiple_of=256, multiplier=1.5), 8192),
        (dict(d_model=768), 2048),  # already a multiple
        (dict(d_model=10, multiple_of=7), 28),
        (dict(d_model=1, multiple_of=1), 2),
    ],
)
def test_the_width_of_swiglu_is_the_published_one(sizes, d_ff):
    assert swiglu_d_ff(**sizes) == d_ff


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu_equals_its_formula_in_values_and_gradients(bias, same):
    ours = SwiGLU(5, 7, bias=bias)
    gate, up, down = (linear.state_dict() for linear in (ours.gate_proj, ours.up_proj, ours.down_proj))

    def formula(x):
        z = F.linear(x, **gate)
        return F.linear(z / (1 + torch.exp(-z)) * F.linear(x, **up), **down)

    same(ours, formula, torch.randn(2, 3, 5))


def test_swiglu_equals_torchs_glu_with_another_gate(same):
    """F.glu(cat(a, b)) is a * sigmoid(b); with a = gate * up and b = gate that is silu(gate) * up."""
    ours = SwiGLU(5, 7)

    def glu(x):
        gate = ours.gate_proj(x)
        return ours.down_proj(F.glu(torch.cat([gate * ours.up_proj(x), gate], dim=-1)))

    same(ours, glu, torch.randn(2, 3, 5))


@pytest.mark.parametrize(("gate", "up", "out"), [(-100.0, 3.0, 0.0), (3.0, -2.0, -5.7154), (0.0, 5.0, 0.0)])
def test_the_gate_opens_and_closes(gate, up, out):
    swiglu = SwiGLU(1, 1)
    for linear, value in ((swiglu.gate_proj, gate), (swiglu.up_proj, up), (swiglu.down_proj, 1.0)):
        nn.init.constant_(linear.weight, value)
    assert_close(swiglu(torch.ones(1, 1, 1)).item(), out, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_relu_feed_forward_equals_torchs_modules_in_a_row(bias, same):
    ours = ReLUFeedForward(5, 7, bias=bias)
    theirs = nn.Sequential(nn.Linear(5, 7, bias=bias), nn.ReLU(), nn.Linear(7, 5, bias=bias))
    renames = {"up_proj": "0", "down_proj": "2"}
    theirs.load_state_dict({renames[k.split(".")[0]] + "." + k.split(".")[1]: v for k, v in ours.state_dict().items()})
    same(ours, theirs, torch.randn(2, 3, 5))


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (SwiGLU(5, 7), ["gate_proj.weight", "up_proj.weight", "down_proj.weight"]),
        (ReLUFeedForward(5, 7), ["up_proj.weight", "up_proj.bias", "down_proj.weight", "down_proj.bias"]),
    ],
)
def test_weights_have_hugging_faces_names(part, names):
    assert list(part.state_dict()) == names


@pytest.mark.parametrize("FeedForward", [SwiGLU, ReLUFeedForward])
def test_a_feed_forward_treats_each_token_alone_and_leaves_its_input_alone(FeedForward):
    part, x = FeedForward(5, 7), torch.randn(2, 3, 5)
    before = x.clone()
    out = part(x)
    assert_close(out[1, 2], part(x[1:, 2:])[0, 0])
    assert_close(x, before, atol=0, rtol=0)
