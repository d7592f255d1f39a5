import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minillama.attention import Attention, causal_mask
from minillama.block import Block, Parts, PostNormBlock
from minillama.cache import KVCache
from minillama.config import Config
from minillama.feedforward import ReLUFeedForward, SwiGLU
from minillama.llama import Llama
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import LearnedPositions, NoPositions, RoPE, Sinusoidal

SIZES = dict(vocab_size=31, d_model=48, n_layers=2, n_heads=6, d_ff=20, max_len=64, norm_eps=1e-2, rope_base=500.0)
SMALL = SIZES | dict(d_model=12)
BIASED = Parts(attention=partial(Attention, bias=True), feedforward=partial(SwiGLU, bias=True))


def loud(model: nn.Module) -> nn.Module:
    """Large random weights, norms and biases too: with fresh ones, nearly 0, most mistakes don't show."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model.eval()


# --- The same weights in Hugging Face's model -----------------------------------------------------------------------

RENAMES = {
    "model.": "",
    "post_attention_layernorm": "feedforward_norm",
    "input_layernorm": "attention_norm",
    "self_attn": "attention",
    "mlp": "feedforward",
}


def our_name(name: str) -> str:
    for theirs, ours in RENAMES.items():
        name = name.replace(theirs, ours)
    return name


def pair(parts=Parts(), rope=None, **changes):  # noqa: B008  (frozen)
    """Our model and transformers' with the same sizes and the same random weights."""
    transformers = pytest.importorskip("transformers")
    config = Config(**(SIZES | changes))
    rope = {"rope_type": "default", "rope_theta": config.rope_base} | (rope or {})
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.d_ff,
            max_position_embeddings=config.max_len,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=config.tied,
            attention_bias=parts is BIASED,
            mlp_bias=parts is BIASED,
            initializer_range=0.2,
            attn_implementation="eager",
        )
    ).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:  # norms start as ones and biases as zeros, where a forgotten one would not show
            nn.init.uniform_(parameter, 0.2, 1.0)
    ours = Llama(config, parts).eval()
    ours.load_state_dict({our_name(name): weight for name, weight in theirs.state_dict().items()})
    return ours, theirs


LINEAR = dict(rope_type="linear", factor=4.0)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3 |= dict(original_max_position_embeddings=50)
OUR_LINEAR = dict(kind="linear", factor=4.0)
OUR_LLAMA3 = dict(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_len=50)
CASES = {
    "multi-head": dict(),
    "grouped-query": dict(n_kv_heads=2),
    "multi-query": dict(n_kv_heads=1),
    "tied": dict(n_kv_heads=2, tied=True),
    "biases": dict(n_kv_heads=2, parts=BIASED),
    "wide heads": dict(n_kv_heads=2, head_dim=14),
    "narrow heads": dict(n_kv_heads=3, head_dim=4, tied=True),
    "linear": dict(rope=LINEAR, rope_scaling=OUR_LINEAR),
    "llama3": dict(rope=LLAMA3, rope_scaling=OUR_LLAMA3, n_kv_heads=2, tied=True),
    "ntk": dict(rope=dict(rope_theta=500 * 4 ** (8 / 6)), rope_base=500 * 4 ** (8 / 6)),
    "smollm2-like": dict(d_model=36, n_heads=9, n_kv_heads=3, tied=True),
    "everything": dict(d_model=60, head_dim=14, n_kv_heads=3, rope=LLAMA3, rope_scaling=OUR_LLAMA3, parts=BIASED),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case):
    ours, theirs = pair(**CASES[case])
    tokens = torch.randint(31, (2, 19))
    logits = theirs(tokens).logits
    assert logits.std() > 0.5  # loud enough for 1e-5 to mean something
    assert_close(ours(tokens), logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["grouped-query", "tied", "biases"])
def test_gradients_equal_transformers(case):
    ours, theirs = pair(**CASES[case])
    tokens = torch.randint(31, (2, 9))
    for logits in (ours(tokens), theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in theirs.named_parameters():
        assert_close(ours.get_parameter(our_name(name)).grad, parameter.grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "positions", [torch.arange(7, 16), torch.tensor([[0, 1, 2, 5, 6, 9, 20, 21, 40], [*range(9)]])]
)
def test_given_positions_equal_transformers(positions):
    ours, theirs = pair(n_kv_heads=2)
    tokens = torch.randint(31, (2, 9))
    expected = theirs(tokens, position_ids=positions.expand(2, 9)).logits
    assert_close(ours(tokens, positions=positions), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_left_padding_equals_transformers():
    ours, theirs = pair(n_kv_heads=2)
    tokens, real = torch.randint(31, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    real[1, :4] = False
    positions = (real.cumsum(1) - 1).clamp(min=0)
    expected = theirs(tokens, attention_mask=real.long(), position_ids=positions).logits
    logits = ours(tokens, positions=positions, mask=real[:, None, None])
    assert_close(logits[real], expected[real], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_error_is_no_larger_than_transformers(dtype):
    ours, theirs = pair(n_kv_heads=2)
    tokens = torch.randint(31, (2, 19))
    exact = theirs(tokens).logits
    logits = ours.to(dtype)(tokens)
    assert logits.dtype == dtype
    error, their_error = ((x.float() - exact).square().mean() for x in (logits, theirs.to(dtype)(tokens).logits))
    assert 0 < error < 1.5 * their_error


# --- Every combination of the package's own parts -------------------------------------------------------------------

COMBINATIONS = product(
    [RMSNorm, LayerNorm],
    [SwiGLU, ReLUFeedForward],
    [RoPE, Sinusoidal, LearnedPositions, NoPositions],
    [Block, PostNormBlock],
    [6, 2, 1],
    [Attention, partial(Attention, attend=F.scaled_dot_product_attention)],
)


def label(value):
    return "fused" if isinstance(value, partial) else getattr(value, "__name__", str(value))


@torch.no_grad()
@pytest.mark.parametrize(
    ("norm", "feedforward", "position", "block", "n_kv_heads", "attention"), COMBINATIONS, ids=label
)
def test_every_combination_of_parts_is_causal_and_can_be_cached(
    norm, feedforward, position, block, n_kv_heads, attention
):
    parts = Parts(norm, feedforward, attention, position, block)
    llama = loud(Llama(Config(**(SMALL | dict(n_kv_heads=n_kv_heads))), parts))
    tokens = torch.randint(31, (2, 6))
    logits = llama(tokens)
    assert logits.shape == (2, 6, 31)

    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 31
    moved = (llama(changed) - logits).abs().amax((0, 2))
    assert moved[:4].max() < 1e-6 and moved[4:].min() > 1e-3

    cache = KVCache(2)
    pieces = [llama(tokens[:, start:end], cache=cache) for start, end in [(0, 2), (2, 5), (5, 6)]]
    assert_close(torch.cat(pieces, dim=1), logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("position", [RoPE, Sinusoidal, LearnedPositions])
def test_positions_are_felt_and_rope_feels_only_distances(position):
    llama = loud(Llama(Config(**SMALL), Parts(position=position)))
    tokens = torch.randint(31, (1, 5)).expand(2, 5)
    here, far = llama(tokens), llama(tokens, positions=torch.arange(30, 35))
    assert torch.allclose(here, far, atol=1e-4) == (position is RoPE)
    spread = llama(tokens, positions=torch.tensor([0, 2, 3, 7, 8]))
    assert not torch.allclose(here, spread, atol=1e-2)


# --- Parts from elsewhere -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("Ours", "Theirs"), [(RMSNorm, nn.RMSNorm), (LayerNorm, nn.LayerNorm)])
def test_torchs_norms_fit_unchanged(Ours, Theirs):
    ours = loud(Llama(Config(**SMALL), Parts(norm=Ours)))
    theirs = Llama(Config(**SMALL), Parts(norm=Theirs))
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randint(31, (2, 5))
    assert_close(theirs(tokens), ours(tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_learners_first_attention_fits_where_nothing_rotates():
    """No rotate, no cache, no grouped heads: what there is after chapter 04."""

    class MyAttention(nn.MultiheadAttention):
        def __init__(self, d_model, n_heads, n_kv_heads):
            super().__init__(d_model, n_heads, bias=False, batch_first=True)

        def forward(self, x, mask):
            return super().forward(x, x, x, attn_mask=~mask, need_weights=False)[0]

    mine = loud(Llama(Config(**SMALL), Parts(attention=MyAttention, position=Sinusoidal)))
    ours = Llama(Config(**SMALL), Parts(position=Sinusoidal))
    weights = {}
    for name, weight in mine.state_dict().items():
        if name.endswith("in_proj_weight"):
            weights |= {
                name.replace("in_proj_w", f"{n}_proj.w"): w for n, w in zip("qkv", weight.chunk(3), strict=True)
            }
        else:
            weights[name.replace("out_proj", "o_proj")] = weight
    ours.load_state_dict(weights)
    tokens = torch.randint(31, (2, 5))
    assert_close(mine(tokens), ours(tokens), atol=1e-5, rtol=1e-5)


def test_a_function_that_returns_a_module_fits():
    def tiny(d_model, d_ff):
        return nn.Linear(d_model, d_model)

    llama = Llama(Config(**SMALL), Parts(feedforward=tiny))
    assert isinstance(llama.layers[1].feedforward, nn.Linear)


# --- The model as a whole -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_whole_model_equals_torchs_encoder_with_a_causal_mask():
    """The 2017 parts give GPT's forerunner, which torch has: nn.TransformerEncoder."""
    parts = Parts(LayerNorm, ReLUFeedForward, partial(Attention, bias=True), Sinusoidal, Block)
    ours = loud(Llama(Config(**SMALL), parts))
    layer = nn.TransformerEncoderLayer(
        *(12, 6, 20), dropout=0.0, norm_first=True, layer_norm_eps=1e-2, batch_first=True
    )
    theirs = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12, eps=1e-2), enable_nested_tensor=False)
    theirs.norm.load_state_dict(ours.norm.state_dict())
    for mine, layer in zip(ours.layers, theirs.layers, strict=True):
        for name in ("weight", "bias"):
            qkv = [getattr(mine.attention, f"{n}_proj").get_parameter(name) for n in "qkv"]
            layer.self_attn.get_parameter(f"in_proj_{name}").copy_(torch.cat(qkv))
        layer.self_attn.out_proj.load_state_dict(mine.attention.o_proj.state_dict())
        layer.linear1.load_state_dict(mine.feedforward.up_proj.state_dict())
        layer.linear2.load_state_dict(mine.feedforward.down_proj.state_dict())
        layer.norm1.load_state_dict(mine.attention_norm.state_dict())
        layer.norm2.load_state_dict(mine.feedforward_norm.state_dict())
    tokens = torch.randint(31, (2, 5))
    angles = torch.arange(5)[:, None] / 10000 ** (torch.arange(0, 12, 2) / 12)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    x = theirs(ours.embed_tokens(tokens) * math.sqrt(12) + waves, mask=~causal_mask(5))
    assert_close(ours(tokens), x @ ours.lm_head.weight.T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sequences_of_a_batch_do_not_touch():
    llama, tokens = loud(Llama(Config(**SMALL))), torch.randint(31, (3, 5))
    alone = torch.cat([llama(row[None]) for row in tokens])
    assert_close(llama(tokens), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_lies_under_the_padding_does_not_matter():
    llama, tokens = loud(Llama(Config(**SMALL))), torch.randint(31, (2, 5))
    real = torch.tensor([[True] * 5, [False, False, True, True, True]])
    other = torch.where(real, tokens, (tokens + 1) % 31)
    logits, changed = (llama(t, mask=real[:, None, None]) for t in (tokens, other))
    assert_close(changed[real], logits[real], atol=0, rtol=0)
    assert logits.isfinite().all()  # the two tokens that may look nowhere included


def test_a_text_of_nothing_but_padding_has_finite_gradients():
    llama, tokens = loud(Llama(Config(**SMALL))), torch.randint(31, (2, 5))
    real = torch.tensor([[True] * 5, [False] * 5])
    llama(tokens, mask=real[:, None, None]).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in llama.parameters())


@torch.no_grad()
def test_a_mask_takes_away_from_the_causal_mask_and_never_adds():
    llama, tokens = loud(Llama(Config(**SMALL))), torch.randint(31, (2, 5))
    everything = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    assert_close(llama(tokens, mask=everything), llama(tokens), atol=0, rtol=0)
    per_head = torch.ones(1, 6, 5, 5, dtype=torch.bool)
    per_head[:, 3, 4, 0] = False
    moved = (llama(tokens, mask=per_head) - llama(tokens)).abs().amax((0, 2))
    assert moved[:4].max() == 0 and moved[4] > 1e-4


def test_tied_weights_are_one_and_stay_one():
    llama = Llama(Config(**SMALL, tied=True))
    assert llama.lm_head.weight is llama.embed_tokens.weight
    llama.load_state_dict(Llama(llama.config).state_dict())
    llama.double()
    assert llama.lm_head.weight.data_ptr() == llama.embed_tokens.weight.data_ptr()
    untied = Llama(Config(**SMALL))
    assert untied.n_parameters - llama.n_parameters == 31 * 12
    assert not torch.equal(untied.lm_head.weight, untied.embed_tokens.weight)


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_loss_is_close_to_ln_v(tied):
    sizes = SIZES | dict(vocab_size=200, d_model=60, tied=tied)
    tokens = torch.randint(200, (8, 30))
    logits = Llama(Config(**sizes), BIASED)(tokens)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(200), abs=0.05)


def test_biases_start_at_0_and_matrices_small():
    llama = Llama(Config(**SIZES), BIASED)
    for name, parameter in llama.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.25), name


def test_layers_are_distinct_and_every_weight_learns():
    llama = Llama(Config(**SMALL, n_kv_heads=2))
    llama(torch.randint(31, (2, 5))).sin().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in llama.parameters())
    per_layer = 2 * 12 * 12 + 2 * 4 * 12 + 3 * 12 * 20 + 2 * 12
    assert llama.n_parameters == 2 * 31 * 12 + 2 * per_layer + 12


def test_the_state_dict_has_these_names():
    names = ["attention_norm", "feedforward_norm"]
    names += [f"attention.{n}_proj" for n in "qkvo"] + [f"feedforward.{n}_proj" for n in ("gate", "up", "down")]
    expected = {f"layers.{i}.{name}.weight" for i in range(2) for name in names}
    expected |= {"embed_tokens.weight", "norm.weight", "lm_head.weight"}
    assert set(Llama(Config(**SMALL)).state_dict()) == expected


@torch.no_grad()
def test_the_model_leaves_its_inputs_alone():
    llama, tokens = loud(Llama(Config(**SMALL))), torch.randint(31, (2, 5))
    inputs = [tokens, torch.arange(5), torch.ones(2, 1, 1, 5, dtype=torch.bool)]
    before = [x.clone() for x in inputs]
    llama(tokens, positions=inputs[1], mask=inputs[2])
    assert_close(inputs, before, atol=0, rtol=0)


@pytest.mark.parametrize("mask", [torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 1, 1, 2)], ids=["2-D", "numbers"])
def test_a_mask_that_would_be_misread_is_refused(mask):
    with pytest.raises(ValueError, match="expected bool with four axes"):
        Llama(Config(**SMALL))(torch.tensor([[1, 2], [3, 4]]), mask=mask)


def test_a_text_longer_than_the_learned_positions_is_refused():
    model = Llama(Config(**SMALL | {"max_len": 3}), Parts(position=LearnedPositions))
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()
    with pytest.raises(ValueError, match="position 3; this model has learned 0 to 2"):
        model(torch.tensor([[1, 2, 3, 4]]))
