from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minillama import attention, feedforward, norm, position
from minillama.attention import Attention, causal_mask
from minillama.block import Block, Parts, PostNormBlock
from minillama.config import Config
from minillama.feedforward import ReLUFeedForward, SwiGLU
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import LearnedPositions, NoPositions, RoPE, Sinusoidal

CONFIG = Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, d_ff=7, norm_eps=1e-3)
VASWANI = Parts(norm=LayerNorm, feedforward=ReLUFeedForward, attention=partial(Attention, bias=True))
RENAMES = {
    "attention.o_proj": "self_attn.out_proj",
    "feedforward.up_proj": "linear1",
    "feedforward.down_proj": "linear2",
}
RENAMES |= {"attention_norm": "norm1", "feedforward_norm": "norm2"}


def torchs_names(tensors: dict) -> dict:
    """Our weights (or gradients) under the names of nn.TransformerEncoderLayer, where q, k and v are one matrix."""
    packed = {
        f"self_attn.in_proj_{kind}": torch.cat([tensors[f"attention.{n}_proj.{kind}"] for n in "qkv"])
        for kind in ("weight", "bias")
    }
    plain = {}
    for name, tensor in tensors.items():
        part, kind = name.rsplit(".", 1)
        if part in RENAMES:
            plain[f"{RENAMES[part]}.{kind}"] = tensor
    return packed | plain


@pytest.mark.parametrize(("Ours", "norm_first"), [(Block, True), (PostNormBlock, False)])
@pytest.mark.parametrize("masked", [True, False])
def test_a_block_equals_torchs_encoder_layer_in_values_and_gradients(Ours, norm_first, masked, same):
    config = Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, d_ff=7, norm_eps=1e-3)
    ours = Ours(config, VASWANI)
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)  # norms too: two different ones
    theirs = nn.TransformerEncoderLayer(
        *(12, 6, 7), dropout=0.0, norm_first=norm_first, layer_norm_eps=1e-3, batch_first=True
    )
    theirs.load_state_dict(torchs_names(ours.state_dict()))
    mask = causal_mask(3) if masked else None
    theirs_masked = partial(theirs, src_mask=~mask if masked else None)
    same(lambda x: ours(x, mask), theirs_masked, torch.randn(2, 3, 12), atol=1e-5, rtol=1e-5)
    gradients = torchs_names({name: parameter.grad for name, parameter in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-5)


def test_a_block_that_adds_nothing_is_the_identity():
    block, x = Block(CONFIG, Parts()), torch.randn(2, 3, 12)
    nn.init.zeros_(block.attention.o_proj.weight)
    nn.init.zeros_(block.feedforward.down_proj.weight)
    assert_close(block(x), x, atol=0, rtol=0)


@pytest.mark.parametrize("Ours", [Block, PostNormBlock])
def test_a_block_leaves_its_input_alone(Ours):
    x = torch.randn(2, 3, 12)
    before = x.clone()
    Ours(CONFIG, Parts())(x, causal_mask(3))
    assert_close(x, before, atol=0, rtol=0)


@pytest.mark.parametrize("Ours", [Block, PostNormBlock])
def test_a_block_hands_mask_and_everything_else_to_the_attention(Ours):
    seen = {}

    class Spy(nn.Module):
        def __init__(self, d_model, n_heads, **sizes):
            super().__init__()
            seen.update(d_model=d_model, n_heads=n_heads, **sizes)

        def forward(self, x, mask, **inner):
            seen.update(mask=mask, **inner)
            return x

    Ours(CONFIG, Parts(attention=Spy))(torch.randn(2, 3, 12), "a mask", rotate="r", cache="c")
    assert seen == dict(d_model=12, n_heads=6, n_kv_heads=2, mask="a mask", rotate="r", cache="c")


def test_the_attention_is_told_a_head_width_of_its_own():
    config = Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, head_dim=5, d_ff=7)
    assert Block(config, Parts()).attention.k_proj.weight.shape == (10, 12)


def test_norms_are_built_with_the_configs_eps():
    block = Block(CONFIG, Parts())
    assert block.attention_norm.eps == block.feedforward_norm.eps == 1e-3
    assert block.attention_norm is not block.feedforward_norm


@pytest.mark.parametrize(
    ("field", "instance"),
    [
        ("norm", RMSNorm(4)),
        ("feedforward", SwiGLU(4, 7)),
        ("attention", Attention(4, 2)),
        ("position", RoPE(CONFIG)),
        ("block", Block(CONFIG, Parts())),
    ],
)
def test_an_instance_is_refused_with_the_fix(field, instance):
    name = type(instance).__name__
    with pytest.raises(TypeError, match=rf"pass the class, {field}={name}, not an instance"):
        Parts(**{field: instance})


@pytest.mark.parametrize("wrong", ["RMSNorm", None, 3])
def test_what_cannot_be_called_is_refused_by_field_and_value(wrong):
    with pytest.raises(TypeError, match=rf"norm={wrong!r}"):
        Parts(norm=wrong)


def test_the_default_parts_are_llamas():
    names = dict(norm="RMSNorm", feedforward="SwiGLU", attention="Attention", position="RoPE", block="Block")
    assert Parts().names() == names


@pytest.mark.parametrize("part", [RMSNorm, LayerNorm])
@pytest.mark.parametrize("thinker", [SwiGLU, ReLUFeedForward])
@pytest.mark.parametrize("place", [RoPE, Sinusoidal, LearnedPositions, NoPositions])
@pytest.mark.parametrize("layer", [Block, PostNormBlock])
def test_names_bring_the_packages_own_parts_back(part, thinker, place, layer):
    parts = Parts(norm=part, feedforward=thinker, position=place, block=layer)
    assert Parts.from_names(parts.names()) == parts


def test_every_part_the_package_has_can_be_named():
    modules = (norm, feedforward, attention, position)
    own = {x for m in modules for x in vars(m).values() if isinstance(x, type) and issubclass(x, nn.Module)}
    own = {x for x in own if x.__module__.startswith("minillama")}
    assert len(own) == 9
    for part in own:
        assert Parts.from_names(Parts().names() | {"norm": part.__name__}).norm is part


class Mine(nn.Module):
    pass


@pytest.mark.parametrize(
    ("field", "part", "name"),
    [
        ("norm", nn.RMSNorm, r"torch\.nn\.modules\.normalization\.RMSNorm"),
        ("norm", Mine, r"test_block\.Mine"),
        ("norm", lambda d_model, eps: Mine(), r"test_block\.<lambda>"),
        ("attention", partial(Attention, bias=True), r"Attention\(bias=True\)"),
        ("attention", partial(Attention, attend=F.scaled_dot_product_attention), r"scaled_dot_product_attention\)"),
        ("feedforward", partial(SwiGLU, bias=True), r"SwiGLU\(bias=True\)"),
    ],
)
def test_somebody_elses_part_is_refused_by_name_with_the_way_out(field, part, name):
    names = Parts(**{field: part}).names()
    assert " at 0x" not in names[field]  # no addresses: a name must be the same tomorrow
    with pytest.raises(ValueError, match=name) as error:
        Parts.from_names(names)
    assert f"parts=Parts({field}=...)" in str(error.value)


@pytest.mark.parametrize("names", [None, [], "RMSNorm", {}, {"norm": "RMSNorm"}, Parts().names() | {"extra": "RoPE"}])
def test_names_that_are_not_the_five_are_refused(names):
    with pytest.raises(ValueError, match="expected a name for each of"):
        Parts.from_names(names)


@pytest.mark.parametrize("name", [None, 3, ["RMSNorm"], {}])
def test_a_name_that_is_no_string_is_refused(name):
    with pytest.raises(ValueError, match="norm"):
        Parts.from_names(Parts().names() | {"norm": name})
