import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from minillama.config import Config
from minillama.llama import Llama
from minillama.position import (
    LearnedPositions,
    NoPositions,
    RoPE,
    Sinusoidal,
    apply_rope,
    apply_rope_interleaved,
    half_to_interleaved,
    interleaved_to_half,
    linear_scaling,
    llama3_scaling,
    ntk_base,
    rope_frequencies,
    sinusoidal,
)

POSITIONS = torch.tensor([3, 4, 5, 6, 9])
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_len=8192)


def angles(positions, head_dim, base):
    """position * base**(-2i/D), in float64 and without the package. (..., T) -> (..., T, D/2)"""
    exponents = torch.tensor([-2 * i / head_dim for i in range(head_dim // 2)], dtype=torch.float64)
    return positions[..., None].double() * base**exponents


def complex_rope(x, positions, base, layout):
    """Each pair is a complex number and is multiplied by e**(i * angle)."""
    pairs = x.double().unflatten(-1, (2, -1)).mT if layout == "half" else x.double().unflatten(-1, (-1, 2))
    turned = torch.view_as_complex(pairs.contiguous()) * torch.exp(1j * angles(positions, x.size(-1), base))
    pairs = torch.view_as_real(turned)
    return (pairs.mT if layout == "half" else pairs).flatten(-2)


LAYOUTS = pytest.mark.parametrize(("rope", "layout"), [(apply_rope, "half"), (apply_rope_interleaved, "pairs")])


@LAYOUTS
@pytest.mark.parametrize("base", [50.0, 10000.0, 500000.0])
def test_rope_equals_multiplying_complex_numbers(rope, layout, base, same):
    def theirs(x):
        return complex_rope(x, POSITIONS, base, layout).float()

    same(lambda x: rope(x, POSITIONS, base), theirs, torch.randn(2, 3, 5, 8))


def test_rope_turns_the_first_pair_by_one_radian_per_position():
    x = torch.zeros(2, 8)
    x[0, 0] = x[1, 7] = 1
    out = apply_rope(x, torch.tensor([2, 2]), base=16.0)
    first = [math.cos(2), 0, 0, 0, math.sin(2), 0, 0, 0]
    last = [0, 0, 0, -math.sin(2 / 8), 0, 0, 0, math.cos(2 / 8)]  # 16**(-6/8) is 1/8
    assert_close(out, torch.tensor([first, last]))


@LAYOUTS
def test_rope_takes_positions_per_sequence(rope, layout):
    x, positions = torch.randn(2, 3, 5, 8), torch.stack([POSITIONS, POSITIONS.flip(0) + 7])
    alone = [rope(x[b], positions[b], 50.0) for b in range(2)]
    assert_close(rope(x, positions, 50.0), torch.stack(alone))
    assert_close(rope(x[:, 0], positions, 50.0), torch.stack(alone)[:, 0])  # and without heads


@LAYOUTS
def test_rope_at_position_0_changes_nothing(rope, layout):
    x = torch.randn(2, 3, 1, 8)
    assert_close(rope(x, torch.tensor([0])), x)


@LAYOUTS
def test_rotated_scores_depend_only_on_the_distance(rope, layout):
    q, k = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    near, far = (rope(q, POSITIONS + shift) @ rope(k, POSITIONS + shift).mT for shift in (0, 100))
    assert_close(near, far, atol=1e-4, rtol=0)
    assert not torch.allclose(near, rope(q, POSITIONS + 1) @ rope(k, POSITIONS).mT, atol=1e-2)


@LAYOUTS
def test_bfloat16_queries_far_away_get_exact_angles(rope, layout):
    x, positions = torch.randn(2, 3, 2, 8).bfloat16(), torch.tensor([4095, 4094])
    out = rope(x, positions)
    assert out.dtype == torch.bfloat16
    assert_close(out.double(), complex_rope(x, positions, 10000.0, layout), atol=4e-2, rtol=0)


def test_both_layouts_give_equal_scores_once_the_weights_are_reordered():
    H, G, D, C = 6, 3, 8, 5
    x, wq, wk = torch.randn(2, 5, C), torch.randn(H * D, C), torch.randn(G * D, C)

    def scores(rope, wq, wk):
        q, k = ((x @ w.T).unflatten(-1, (-1, D)).transpose(1, 2) for w in (wq, wk))
        return rope(q, POSITIONS, 50.0) @ rope(k, POSITIONS, 50.0).repeat_interleave(H // G, dim=1).mT

    meta = scores(apply_rope_interleaved, wq, wk)
    ours = scores(apply_rope, interleaved_to_half(wq, H), interleaved_to_half(wk, G))
    wrong_way = scores(apply_rope, half_to_interleaved(wq, H), half_to_interleaved(wk, G))
    assert_close(ours, meta, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(wrong_way, meta, atol=1.0)


@pytest.mark.parametrize("shape", [(24,), (24, 5)])  # a bias and a weight
def test_reordering_stays_within_each_head_and_can_be_undone(shape):
    weight = torch.randn(shape)
    half = interleaved_to_half(weight, 3)
    rows = [8 * h + i for h in range(3) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert_close(half, weight[rows], atol=0, rtol=0)
    assert_close(half_to_interleaved(half, 3), weight, atol=0, rtol=0)


@pytest.mark.parametrize("d_model", [6, 5, 1])
def test_sinusoidal_is_waves_from_fast_to_slow(d_model):
    golden = [
        [(math.sin, math.cos)[c % 2](t / 10000 ** (2 * (c // 2) / d_model)) for c in range(d_model)] for t in range(4)
    ]
    assert_close(sinusoidal(4, d_model), torch.tensor(golden))


def test_linear_scaling_equals_positions_divided_by_the_factor():
    x = torch.randn(3, 5, 8)
    frequencies = linear_scaling(rope_frequencies(8, 50.0), 4.0)
    assert_close(POSITIONS[:, None] * frequencies, angles(POSITIONS / 4, 8, 50.0).float())
    rope = RoPE(config(rope_scaling=dict(kind="linear", factor=4.0)))
    assert_close(rope.rotate(x, POSITIONS), complex_rope(x, POSITIONS / 4, 50.0, "half").float())


def test_llama3_scaling_leaves_fast_pairs_stretches_slow_ones_and_goes_smoothly_between():
    turns = torch.tensor([100.0, 4.0, 2.5, 1.0, 0.01])  # in 8192 positions
    frequencies = turns * 2 * math.pi / 8192
    expected = frequencies * torch.tensor([1, 1, 0.5 + 0.5 / 8, 1 / 8, 1 / 8])
    assert_close(llama3_scaling(frequencies, **LLAMA3), expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_ntk_stretches_the_slowest_pair_by_the_factor_and_leaves_the_fastest(factor):
    old, new = rope_frequencies(64), rope_frequencies(64, ntk_base(10000.0, 64, factor))
    assert_close(old[0], new[0])
    assert_close(old[-1] / factor, new[-1], atol=0, rtol=1e-5)  # small numbers: compare them relatively


def hf_frequencies(kind, theta, max_len=8192, seq_len=None, **numbers):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        head_dim=64,
        max_position_embeddings=max_len,
        rope_parameters=dict(rope_type=kind, rope_theta=theta, **numbers),
    )
    return ROPE_INIT_FUNCTIONS[kind](theirs, "cpu", seq_len)[0]


@pytest.mark.parametrize(
    ("factor", "theta", "old_len"), [(8.0, 500000.0, 8192), (32.0, 500000.0, 8192), (4.0, 1e4, 64)]
)
def test_llama3_scaling_equals_transformers(factor, theta, old_len):
    theirs = hf_frequencies(
        "llama3",
        theta,
        factor=factor,
        low_freq_factor=1.5,
        high_freq_factor=4.0,
        original_max_position_embeddings=old_len,
    )
    assert_close(llama3_scaling(rope_frequencies(64, theta), factor, 1.5, 4.0, old_len), theirs, atol=0, rtol=1e-5)


def test_linear_scaling_equals_transformers():
    theirs = hf_frequencies("linear", 10000.0, factor=4.0)
    assert_close(linear_scaling(rope_frequencies(64), 4.0), theirs, atol=0, rtol=1e-5)


def test_ntk_base_equals_transformers():
    """Its "dynamic" scaling with factor 3 at twice the old length is NTK by 3 * 2 - (3 - 1) = 4."""
    theirs = hf_frequencies("dynamic", 10000.0, max_len=100, seq_len=200, factor=3.0)
    assert_close(rope_frequencies(64, ntk_base(10000.0, 64, 4.0)), theirs, atol=0, rtol=1e-5)


def config(**changes):
    sizes = dict(vocab_size=11, d_model=24, n_layers=1, n_heads=3, d_ff=5, max_len=10, rope_base=50.0)
    return Config(**(sizes | changes))


def test_the_rope_part_takes_width_base_and_scaling_from_the_config():
    x = torch.randn(2, 3, 5, 10)
    plain = RoPE(config(head_dim=10))
    assert_close(plain.rotate(x, POSITIONS), complex_rope(x, POSITIONS, 50.0, "half").float())
    scaled = RoPE(config(head_dim=10, rope_scaling=dict(kind="llama3") | LLAMA3))
    assert_close(scaled.frequencies(), llama3_scaling(rope_frequencies(10, 50.0), **LLAMA3), atol=0, rtol=1e-6)


def test_rope_keeps_nothing_that_a_cast_could_spoil():
    rope = RoPE(config())
    before = rope.frequencies()
    assert_close(rope.bfloat16().frequencies(), before, atol=0, rtol=0)
    assert rope.state_dict() == {}


def test_all_layers_rotate_by_angles_that_are_computed_once(monkeypatch):
    calls, frequencies = [], RoPE.frequencies
    monkeypatch.setattr(RoPE, "frequencies", lambda self: calls.append(self) or frequencies(self))
    Llama(config(n_layers=3))(torch.tensor([[1, 2, 3]]))
    assert len(calls) == 1


def test_angles_prepared_for_other_positions_are_not_used():
    x, rope, positions = torch.randn(3, 5, 8), RoPE(config()), POSITIONS.clone()
    rope.add(x, positions)
    assert_close(rope.rotate(x, POSITIONS + 2), complex_rope(x, POSITIONS + 2, 50.0, "half").float())
    assert_close(rope.rotate(x, positions), complex_rope(x, POSITIONS, 50.0, "half").float())
    positions += 3  # the same tensor says something else in the next pass
    rope.add(x, positions)
    assert_close(rope.rotate(x, positions), complex_rope(x, POSITIONS + 3, 50.0, "half").float())


def test_a_model_can_be_trained_at_positions_that_it_was_tested_at():
    llama, tokens, positions = Llama(config()), torch.tensor([[1, 2, 3]]), torch.arange(3)
    with torch.inference_mode():  # what is made here must not be used in training
        llama(tokens, positions=positions)
    llama(tokens, positions=positions).sum().backward()


def test_rope_refuses_an_odd_width():
    with pytest.raises(ValueError, match="head_dim=5 is odd"):
        RoPE(config(d_model=15, n_heads=3))


@pytest.mark.parametrize("Position", [Sinusoidal, LearnedPositions, NoPositions])
def test_parts_that_do_not_rotate_say_so(Position):
    assert Position(config()).rotate is None


@pytest.mark.parametrize("positions", [POSITIONS, torch.stack([POSITIONS, POSITIONS.flip(0)])])
def test_each_part_adds_what_it_says(positions):
    x = torch.randn(2, 5, 24)
    learned = LearnedPositions(config())
    assert_close(learned.add(x, positions), x + learned.embed_positions.weight[positions])
    assert_close(Sinusoidal(config()).add(x, positions), x * math.sqrt(24) + sinusoidal(10, 24)[positions])
    for part in (RoPE(config()), NoPositions(config())):
        assert_close(part.add(x, positions), x, atol=0, rtol=0)


def test_learned_positions_has_a_vector_for_each_position():
    assert LearnedPositions(config(max_len=10)).embed_positions.weight.shape == (10, 24)


def test_a_part_needs_of_the_config_only_what_it_uses():
    RoPE(SimpleNamespace(head_dim=8, rope_base=50.0, rope_scaling=None)).rotate(torch.randn(5, 8), POSITIONS)


@LAYOUTS
def test_rope_leaves_its_inputs_alone(rope, layout):
    x, positions = torch.randn(2, 3, 5, 8), POSITIONS.clone()
    before = x.clone()
    rope(x, positions)
    assert_close((x, positions), (before, POSITIONS), atol=0, rtol=0)
