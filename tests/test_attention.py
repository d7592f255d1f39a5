import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minillama.attention import Attention, attend, causal_mask, merge_heads, repeat_kv, split_heads

HOLES = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=torch.bool)  # (T, S)


@pytest.fixture
def qkv():
    """T, S, D and Dv all different, and a batch and heads in front."""
    return torch.randn(2, 6, 3, 4), torch.randn(2, 6, 5, 4), torch.randn(2, 6, 5, 7)


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ((3,), [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        ((1,), [[1]]),
        ((2, 4), [[1, 1, 1, 0], [1, 1, 1, 1]]),
        ((1, 3), [[1, 1, 1]]),
        ((3, 4), [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
    ],
)
def test_the_causal_mask_shows_itself_and_the_past(sizes, rows):
    assert_close(causal_mask(*sizes), torch.tensor(rows, dtype=torch.bool))


def test_the_causal_mask_is_made_where_it_is_asked_for():
    assert causal_mask(2, 3, device="meta").is_meta


@pytest.mark.parametrize("mask", [None, HOLES, causal_mask(3, 5), HOLES.expand(2, 1, 3, 5)])
def test_attend_equals_torch_in_values_and_gradients(mask, qkv, same):
    ours, theirs = partial(attend, mask=mask), partial(F.scaled_dot_product_attention, attn_mask=mask)
    same(ours, theirs, *qkv)


def test_attend_gives_each_query_a_weighted_average():
    """By hand: scores 0 and ln 3 * 2 / sqrt(4), so the weights are 1/4 and 3/4."""
    q, k = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[0.0, 1, 1, 1], [math.log(3), 5, 5, 5]])
    assert_close(attend(q, k, torch.tensor([[4.0, 0.0], [8.0, 1.0]])), torch.tensor([[7.0, 0.75]]))


@pytest.mark.parametrize("scale", [200, 5e4])  # the second makes scores far below any -1e4 used for "hidden"
def test_attend_survives_large_scores(scale, qkv):
    q, k, v = qkv
    assert_close(attend(scale * q, k, v, HOLES), F.scaled_dot_product_attention(scale * q, k, v, HOLES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attend_keeps_the_dtype_and_masks_in_it(dtype, qkv):
    q, k, v = (x.to(dtype) for x in qkv)
    out = attend(q, k, v, HOLES)
    assert out.dtype == dtype
    wide = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), HOLES)
    assert_close(out.double(), wide, atol=3e-2, rtol=3e-2)


def test_a_hidden_key_has_no_influence_at_all(qkv):
    q, k, v = qkv
    wild_k, wild_v = k.clone(), v.clone()
    wild_k[..., 4, :], wild_v[..., 4, :] = 1e4 * torch.randn(4), 1e4 * torch.randn(7)
    out, wild = attend(q, k, v, HOLES), attend(q, wild_k, wild_v, HOLES)
    assert_close(wild[..., :2, :], out[..., :2, :], atol=0, rtol=0)  # rows 0 and 1 may not look at key 4
    assert not torch.allclose(wild[..., 2, :], out[..., 2, :])  # row 2 may


def test_a_query_that_may_look_nowhere_stays_finite_and_so_do_gradients(qkv):
    nowhere = HOLES.clone()
    nowhere[1] = False
    leaves = [x.clone().requires_grad_() for x in qkv]
    out = attend(*leaves, nowhere)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert_close(out[..., 0, :], F.scaled_dot_product_attention(*qkv, HOLES)[..., 0, :])  # others don't notice


def test_attend_leaves_its_inputs_alone(qkv):
    mask = HOLES.clone()
    before = [x.clone() for x in (*qkv, mask)]
    attend(*qkv, mask)
    assert_close([*qkv, mask], before, atol=0, rtol=0)


def test_split_heads_cuts_consecutive_pieces_and_merge_heads_undoes_it():
    x = torch.randn(2, 3, 12)
    split = split_heads(x, 6)
    assert split.shape == (2, 6, 3, 2)
    assert_close(split[1, 4, 2], x[1, 2, 8:10])
    assert_close(merge_heads(split), x)


def test_repeat_kv_puts_the_copies_of_a_head_side_by_side():
    x = torch.randn(2, 2, 5, 4)
    a, b = x[:, 0], x[:, 1]
    assert_close(repeat_kv(x, 3), torch.stack([a, a, a, b, b, b], dim=1))
    assert_close(repeat_kv(x, 1), x)


def copied_from(theirs: nn.MultiheadAttention, bias: bool) -> Attention:
    ours = Attention(theirs.embed_dim, theirs.num_heads, bias=bias)
    for name in ("weight", "bias") if bias else ("weight",):
        packed = theirs.get_parameter(f"in_proj_{name}").detach().chunk(3)
        for linear, piece in zip((ours.q_proj, ours.k_proj, ours.v_proj), packed, strict=True):
            linear.get_parameter(name).data.copy_(piece)
        ours.o_proj.get_parameter(name).data.copy_(theirs.out_proj.get_parameter(name))
    return ours


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["no mask", "causal", "padding", "cross"])
def test_attention_equals_torchs_multihead_attention(kind, bias, same):
    B, T, S, C, H = 2, 3, 5, 12, 6
    theirs = nn.MultiheadAttention(C, H, bias=bias, batch_first=True)
    for parameter in theirs.parameters():  # torch starts biases at 0, where a forgotten one would not show
        nn.init.normal_(parameter, std=0.5)
    ours = copied_from(theirs, bias)
    real = torch.tensor([[True, True, False], [True, False, True]])  # (B, T)

    def run_ours(x, context=None):
        mask = {"causal": causal_mask(T), "padding": real[:, None, None]}.get(kind)
        return ours(x, mask, context=context)

    def run_theirs(x, context=None):
        source = x if context is None else context
        blocked = dict(attn_mask=~causal_mask(T)) if kind == "causal" else {}
        padding = dict(key_padding_mask=~real) if kind == "padding" else {}
        return theirs(x, source, source, need_weights=False, **blocked, **padding)[0]

    inputs = [torch.randn(B, T, C), torch.randn(B, S, C)] if kind == "cross" else [torch.randn(B, T, C)]
    same(run_ours, run_theirs, *inputs)
    for name in ("weight", "bias") if bias else ("weight",):
        packed = [linear.get_parameter(name).grad for linear in (ours.q_proj, ours.k_proj, ours.v_proj)]
        assert_close(torch.cat(packed), theirs.get_parameter(f"in_proj_{name}").grad)
        assert_close(ours.o_proj.get_parameter(name).grad, theirs.out_proj.get_parameter(name).grad)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("head_dim", [None, 5])  # 5 * 6 heads is not the 12 of d_model
def test_query_head_h_uses_kv_head_h_over_group_size(n_kv_heads, head_dim, same):
    C, H, G, D = 12, 6, n_kv_heads, head_dim or 2
    ours = Attention(C, H, G, head_dim=head_dim)
    mask = causal_mask(3)

    def head_by_head(x):
        heads = []
        for h in range(H):
            g = h // (H // G)
            q = x @ ours.q_proj.weight[h * D : (h + 1) * D].T
            k = x @ ours.k_proj.weight[g * D : (g + 1) * D].T
            v = x @ ours.v_proj.weight[g * D : (g + 1) * D].T
            heads.append(F.scaled_dot_product_attention(q, k, v, mask))
        return torch.cat(heads, dim=-1) @ ours.o_proj.weight.T

    same(lambda x: ours(x, mask), head_by_head, torch.randn(2, 3, C))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
def test_torchs_attend_and_a_learners_fit_in(n_kv_heads):
    shapes = []

    def slow(q, k, v, mask):  # positional arguments, and no defaults
        shapes.extend([q.shape, k.shape, v.shape])
        weights = (q @ k.mT / k.shape[-1] ** 0.5).exp() * mask
        return weights / weights.sum(-1, keepdim=True) @ v

    ours = Attention(12, 6, n_kv_heads)
    x, mask = torch.randn(2, 3, 12), causal_mask(3)
    for other in (F.scaled_dot_product_attention, slow):
        theirs = Attention(12, 6, n_kv_heads, attend=other)
        theirs.load_state_dict(ours.state_dict())
        assert_close(theirs(x, mask), ours(x, mask))
    assert shapes == [(2, 6, 3, 2)] * 3  # it was called, with a key and a value head for each query head


def test_rotate_gets_queries_and_keys_in_heads_and_no_values():
    seen = []

    def rotate(x):
        seen.append(x.shape)
        return torch.zeros_like(x)

    attention, x = Attention(12, 6, 2), torch.randn(2, 3, 12)
    out = attention(x, rotate=rotate)
    assert seen == [(2, 6, 3, 2), (2, 2, 3, 2)]
    mean = attention.v_proj(x).mean(1, keepdim=True).view(2, 1, 2, 1, 2).expand(2, 3, 2, 3, 2).reshape(2, 3, 12)
    assert_close(out, attention.o_proj(mean))  # q = k = 0 leaves the plain average of unrotated values


@pytest.mark.parametrize("bias", [False, True])
def test_weights_have_hugging_faces_names_and_shapes(bias):
    weights = Attention(12, 6, 2, head_dim=5, bias=bias).state_dict()
    shapes = {"q_proj": (30, 12), "k_proj": (10, 12), "v_proj": (10, 12), "o_proj": (12, 30)}
    assert {k: v.shape for k, v in weights.items() if k.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in shapes.items()
    }
    assert {k for k in weights if k.endswith("bias")} == ({f"{name}.bias" for name in shapes} if bias else set())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(d_model=12, n_heads=5), "d_model=12 does not split into n_heads=5"),
        (dict(d_model=12, n_heads=6, n_kv_heads=4), "n_heads=6 is not a multiple of n_kv_heads=4"),
        (dict(d_model=12, n_heads=3, n_kv_heads=6), "n_heads=3 is not a multiple of n_kv_heads=6"),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_both_numbers(sizes, message):
    with pytest.raises(ValueError, match=message):
        Attention(**sizes)


def test_attention_leaves_its_input_alone():
    x = torch.randn(2, 3, 12)
    before = x.clone()
    Attention(12, 6, 2)(x, causal_mask(3))
    assert_close(x, before, atol=0, rtol=0)
