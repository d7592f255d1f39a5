"""Exercises of chapter 04: heads split and merged, attention with many of them, and what they cost to remember."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import attention
from minillama.attention import attend, causal_mask, merge_heads, repeat_kv, split_heads
from minillama.config import Config
from minillama.course.checks import holds, integers, pick, randn, same, weights, with_weights
from minillama.course.exercise import Exercise
from minillama.position import apply_rope


def _labelled(B: int, T: int, C: int) -> Tensor:
    """Numbers that say where they are from: 213 is text 2, token 1, channel 3, counted from 1; and some thousands."""
    b, t, c = (torch.arange(1.0, n + 1) for n in (B, T, C))
    return 1000 * integers(1, 9) + 100 * b[:, None, None] + 10 * t[:, None] + c


def _labelled_heads(B: int, H: int, T: int, D: int) -> Tensor:
    """The same, as heads: 213 is head 2, token 1, channel 3; each text has other thousands."""
    h, t, d = (torch.arange(1.0, n + 1) for n in (H, T, D))
    one = 100 * h[:, None, None] + 10 * t[:, None] + d
    return torch.stack([one + 1000 * (integers(1, 9) + 10 * b) for b in range(B)])


# 04.1 ----------------------------------------------------------------------------------------------------------------

split = Exercise(
    "04.1",
    attention.split_heads,
    hints=(
        "Two moves. First cut the last axis in two, so that a token's C numbers become H rows of D numbers. Which "
        "shape is that? Only then bring the heads in front of the tokens.",
        "`x.view(B, T, H, D)` cuts each token and leaves every number where it is. `.transpose(1, 2)` exchanges the "
        "axes of tokens and heads.",
        "`B, T, C = x.shape`, then `x.view(B, T, n_heads, C // n_heads)`, then `.transpose(1, 2)`. The other way "
        "round, or in one `view`, the tokens get mixed.",
    ),
)


def _split(x, n_heads):
    """Slices, one after the other: nothing that could be mixed up."""
    D = x.size(-1) // n_heads
    return torch.stack([x[:, :, h * D : (h + 1) * D] for h in range(n_heads)], dim=1)


@split.check("a single token with 6 numbers, 3 heads: the first two numbers, the next two, the last two")
def one_token(split_heads):
    x = _labelled(1, 1, 6)
    same(split_heads(x, 3), _split(x, 3))


@split.check("three tokens, 2 heads: each token cut by itself")
def three_tokens(split_heads):
    x = _labelled(1, 3, 8)
    same(split_heads(x, 2), _split(x, 2))


@split.check("a batch of two texts of 5 tokens, 3 heads")
def batch_of_two(split_heads):
    x = randn(2, 5, 6)
    same(split_heads(x, 3), _split(x, 3))


@split.check("as many heads as a token has numbers")
def one_number_each(split_heads):
    x = _labelled(2, 3, 4)
    same(split_heads(x, 4), _split(x, 4))


@split.check("a single head: all numbers, with one more axis")
def one_head(split_heads):
    x = randn(2, 3, 5)
    same(split_heads(x, 1), x[:, None])


@split.mistake("""You went to (B, H, T, D) with one view or reshape. It only reads the numbers in their order and
    fills the new shape with them, so that head 0 gets all numbers of the first tokens, and head 1 those of the last
    ones. Cut the last axis first, (B, T, H, D), and then exchange the axes of tokens and heads.""")
def straight_view(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, n_heads, T, C // n_heads)


@split.mistake("""You cut the tokens, but left the heads behind the tokens: (B, T, H, D). Attention works on the last
    two axes; it would let the heads of one token look at each other, and no token at another one. Exchange axes 1 and
    2.""")
def not_transposed(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, T, n_heads, C // n_heads)


@split.mistake("""You dealt the numbers out like cards: head 0 gets every n_heads-th one. Asked for are pieces of
    neighbours, the first D numbers for head 0. Trained weights rely on that order.""")
def dealt_like_cards(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, T, C // n_heads, n_heads).permute(0, 3, 1, 2)


@split.mistake("""Your heads and numbers are exchanged: n_heads says how many heads there are, not how wide one is.
    The last axis must hold C // n_heads numbers.""")
def heads_as_width(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, T, C // n_heads, n_heads).transpose(1, 2)


@split.mistake("""You exchanged the last two axes: a head now holds (D, T), its numbers in rows and its tokens in
    columns. Each token's piece must stay in one row: exchange axes 1 and 2.""")
def lying_heads(x, n_heads):
    B, T, C = x.shape
    return x.reshape(B, T, n_heads, C // n_heads).permute(0, 2, 3, 1)


@split.mistake("""You exchanged the axes before you cut: then the cut goes through the tokens and not through their
    numbers. First view(B, T, H, D), then transpose(1, 2).""")
def transposed_too_early(x, n_heads):
    B, T, C = x.shape
    return x.transpose(1, 2).reshape(B, n_heads, T, C // n_heads)


@split.mistake("""Your heads are right, but come as a row of separate tensors. Attention handles all heads in one step
    if they are one tensor: stack them on a new axis 1.""")
def separate_tensors(x, n_heads):
    return list(x.chunk(n_heads, dim=-1))


@split.mistake("""You put the axis of the heads in front of the batch, (H, B, T, D). The batch stays first: stack on
    axis 1, not 0.""")
def heads_before_batch(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1)).reshape(n_heads, *x.shape[:2], -1)


@split.alternative("cut with chunk, stacked on axis 1")
def chunks_stacked(x, n_heads):
    return torch.stack(x.chunk(n_heads, dim=-1), dim=1)


@split.alternative("unflatten and movedim")
def unflattened(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).movedim(2, 1)


@split.alternative("one number after the other, in loops")
def in_loops(x, n_heads):
    B, T, C = x.shape
    D = C // n_heads
    out = x.new_empty(B, n_heads, T, D)
    for t in range(T):
        for c in range(C):
            out[:, c // D, t, c % D] = x[:, t, c]
    return out


# 04.2 ----------------------------------------------------------------------------------------------------------------

merge = Exercise(
    "04.2",
    attention.merge_heads,
    hints=(
        "The way back is the same two moves in the opposite order: first the axes, then the shape.",
        "After `.transpose(1, 2)` the shape is (B, T, H, D), and the pieces of a token stand next to each other. "
        "The numbers in memory still have their old order, which is why `view` refuses; `reshape` copies them.",
        "`B, H, T, D = x.shape`, then `x.transpose(1, 2)`, then `.reshape(B, T, H * D)`.",
    ),
)


def _merge(x):
    return torch.cat([x[:, h] for h in range(x.size(1))], dim=-1)


@merge.check("a single token in 3 heads: its pieces side by side")
def one_token_back(merge_heads):
    x = _labelled_heads(1, 3, 1, 2)
    same(merge_heads(x), _merge(x))


@merge.check("four tokens in 3 heads")
def four_tokens_back(merge_heads):
    x = _labelled_heads(1, 3, 4, 2)
    same(merge_heads(x), _merge(x))


@merge.check("a batch of two, 2 heads")
def batch_back(merge_heads):
    x = randn(2, 2, 3, 4)
    same(merge_heads(x), _merge(x))


@merge.check("a single head")
def one_head_back(merge_heads):
    x = randn(2, 1, 3, 4)
    same(merge_heads(x), x[:, 0])


@merge.check("what was split, as it was before")
def there_and_back(merge_heads):
    x = randn(2, 5, 6)
    same(merge_heads(_split(x, 3)), x)


@merge.mistake("""You changed the shape without exchanging the axes first. The shape is right, the numbers are not: a
    "token" is now glued together from different tokens of one head. Each token then holds pieces of others, later
    ones among them, and training still works, a little worse, without an error. transpose(1, 2) first.""")
def glued_tokens(x):
    B, H, T, D = x.shape
    return x.reshape(B, T, H * D)


@merge.mistake("""You put the heads together number by number: the first number of each head, then the second one of
    each. Put whole heads side by side: the axes must be (B, T, H, D) before the reshape.""")
def number_by_number(x):
    B, H, T, D = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, T, H * D)


@merge.mistake("""`view` can't do this: it only reads the numbers in the order in which they lie in memory, and after
    transpose they lie in another order than the shape says. Use reshape, which copies them where that is needed (or
    .contiguous() before view).""")
def viewed(x):
    B, H, T, D = x.shape
    return x.transpose(1, 2).view(B, T, H * D)


@merge.mistake("""The axes are right, but the heads are still an axis of their own, (B, T, H, D). Make one axis of the
    last two: reshape(B, T, H * D).""")
def still_four_axes(x):
    return x.transpose(1, 2)


@merge.mistake("""You added the heads up. Then nobody can tell any more which head found what, and you are back at the
    average that heads were to cure. Put them side by side.""")
def summed(x):
    return x.sum(dim=1)


@merge.mistake("""You averaged over the heads. Then nobody can tell any more which head found what, which is what
    heads were to cure. Put them side by side.""")
def averaged(x):
    return x.mean(dim=1)


@merge.mistake(
    """You lost the axis of the batch: all tokens of all texts stand in one row. Asked for is (B, T, H
    * D)."""
)
def batch_lost(x):
    return _merge(x).flatten(0, 1)


@merge.mistake("""You exchanged the last two axes and then changed the shape: that mixes tokens as well as numbers.
    Exchange axes 1 and 2, heads and tokens.""")
def wrong_axes(x):
    B, H, T, D = x.shape
    return x.transpose(2, 3).reshape(B, T, H * D)


@merge.alternative("head after head, put side by side with cat")
def cat_of_heads(x):
    return torch.cat(x.unbind(dim=1), dim=-1)


@merge.alternative("permute, contiguous, view")
def contiguous_view(x):
    B, H, T, D = x.shape
    return x.permute(0, 2, 1, 3).contiguous().view(B, T, -1)


@merge.alternative("flatten")
def flattened(x):
    return x.movedim(1, 2).flatten(2)


# 04.3 ----------------------------------------------------------------------------------------------------------------


class MultiHeadAttention(nn.Module):
    """Attention in n_heads heads at once. (B, T, C) -> (B, T, C)

    Every head has D = C / n_heads numbers of each query, key and value, and its own row of weights for each token.
    What the heads found is put side by side and goes through o_proj.
    mask: as attend takes it, the same for all heads; None: everybody may look everywhere.
    """

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(project(x), self.n_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(attend(q, k, v, mask)))


multi_head = Exercise(
    "04.3",
    MultiHeadAttention,
    hints=(
        "Four steps: project x three times, split, attend, merge and project. `attend` takes tensors with any "
        "number of axes in front, so it handles all heads in one call.",
        "q, k and v are split, all three with `split_heads(..., self.n_heads)`. The mask goes to `attend` as it "
        "came. What `attend` gives back has the shape (B, H, T, D), and `merge_heads` takes that.",
        "`q = split_heads(self.q_proj(x), self.n_heads)`, the same for k and v; then `attend(q, k, v, mask)`; then "
        "`merge_heads`; then `self.o_proj`.",
    ),
)


def _filled(module):
    """Give a module of matrices random weights that keep scores between about -3 and 3. -> the module, its weights"""
    there = sorted(weights(module).items())
    new = {name: 1.5 * randn(*w.shape) / w.size(-1) ** 0.5 for name, w in there}
    return with_weights(module, new), new


def _one_head(q: Tensor, k: Tensor, v: Tensor, may_look: Tensor) -> Tensor:
    """Attention by its definition, query by query. (T, D), (S, D), (S, D), (T, S) -> (T, D)"""
    out = []
    for t in range(len(q)):
        keys = may_look[t].nonzero().flatten()
        weight = ((k[keys] * q[t]).sum(-1) / math.sqrt(q.size(-1))).softmax(0)
        out.append((weight[:, None] * v[keys]).sum(0))
    return torch.stack(out)


def _expected(x, w, n_heads, n_kv_heads=None, mask=None, context=None, rotate=None, past=None, one_head=_one_head):
    """Multi-head or grouped-query attention in float64, text by text and head by head."""
    w = {name: weight.double() for name, weight in w.items()}
    n_kv_heads = n_kv_heads or n_heads
    D = w["q_proj.weight"].size(0) // n_heads
    out = []
    for b, text in enumerate(x.double()):
        source = text if context is None else context[b].double()
        total = torch.zeros(len(text), w["o_proj.weight"].size(0), dtype=torch.float64)
        for h in range(n_heads):
            g = h * n_kv_heads // n_heads
            own, shared = slice(h * D, (h + 1) * D), slice(g * D, (g + 1) * D)
            q = text @ w["q_proj.weight"][own].T
            k, v = source @ w["k_proj.weight"][shared].T, source @ w["v_proj.weight"][shared].T
            if rotate is not None:
                q, k = rotate(q), rotate(k)
            if past is not None:
                k, v = torch.cat([past.k[b, g].double(), k]), torch.cat([past.v[b, g].double(), v])
            everything = torch.ones(1, 1, 1, 1, dtype=torch.bool) if mask is None else mask
            may_look = everything.expand(len(x), n_heads, len(q), len(k))[b, h]
            total += one_head(q, k, v, may_look) @ w["o_proj.weight"][:, own].T
        out.append(total)
    return torch.stack(out).float()


@multi_head.check("5 tokens of 6 numbers in 3 heads, everybody may look everywhere")
def no_mask(MultiHeadAttention):
    mha, w = _filled(MultiHeadAttention(6, 3))
    x = randn(2, 5, 6)
    same(mha(x), _expected(x, w, 3))


@multi_head.check("4 tokens in 2 heads with a causal mask")
def with_causal_mask(MultiHeadAttention):
    mha, w = _filled(MultiHeadAttention(6, 2))
    x, mask = randn(2, 4, 6), causal_mask(4)
    same(mha(x, mask), _expected(x, w, 2, mask=mask))


@multi_head.check("a mask of its own for each text, (B, 1, 1, T), that hides the padding at its end")
def with_padding_mask(MultiHeadAttention):
    mha, w = _filled(MultiHeadAttention(8, 4))
    x, lengths = randn(2, 5, 8), torch.tensor([5, int(integers(2, 5))])
    mask = (torch.arange(5) < lengths[:, None])[:, None, None]
    same(mha(x, mask), _expected(x, w, 4, mask=mask))


@multi_head.check("a single head: the attention of chapter 03")
def single_head(MultiHeadAttention):
    mha, w = _filled(MultiHeadAttention(4, 1))
    x = randn(2, 3, 4)
    same(mha(x), _expected(x, w, 1))


@multi_head.check("under a causal mask, the same result for the first tokens when the last one changes")
def past_stays(MultiHeadAttention):
    mha, w = _filled(MultiHeadAttention(6, 3))
    x, mask = randn(1, 5, 6), causal_mask(5)
    changed = torch.cat([x[:, :-1], randn(1, 1, 6)], dim=1)
    moved = [t for t in range(4) if (mha(x, mask) - mha(changed, mask))[0, t].abs().max() > 1e-4]
    holds(not moved, "tokens before the last one changed with it", moved)


def _projected(self, x):
    return tuple(split_heads(project(x), self.n_heads) for project in (self.q_proj, self.k_proj, self.v_proj))


@multi_head.mistake("""You merged without exchanging heads and tokens again: the pieces of different tokens got glued
    together. merge_heads does it right; by hand it is transpose(1, 2) and then reshape. The shape is right either
    way, and training goes on without an error.""")
class MergedWithoutTranspose(MultiHeadAttention):
    def forward(self, x, mask=None):
        return self.o_proj(attend(*_projected(self, x), mask).reshape(x.shape))


@multi_head.mistake("""You cut the heads with one view(B, H, T, D): that mixes tokens. split_heads does it right:
    view(B, T, H, D), then transpose(1, 2).""")
class SplitByView(MultiHeadAttention):
    def forward(self, x, mask=None):
        B, T, C = x.shape
        q, k, v = (p(x).view(B, self.n_heads, T, -1) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(merge_heads(attend(q, k, v, mask)))


@multi_head.mistake("""You never moved the heads in front of the tokens, so `attend` compares the heads of one token
    with each other, and no token ever looks at another one. Its last two axes must be tokens and numbers: (B, H, T,
    D).""")
class HeadsLookAtHeads(MultiHeadAttention):
    def forward(self, x, mask=None):
        B, T, C = x.shape
        q, k, v = (p(x).view(B, T, self.n_heads, -1) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(attend(q, k, v, mask).reshape(B, T, C))


@multi_head.mistake("""You scale the scores by the width of the model. The numbers that get multiplied and added up
    are those of one *head*: divide by the root of C / n_heads (`attend` does so by itself). As it is, all weights are
    too even.""")
class ScaledByModelWidth(MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = _projected(self, x)
        return self.o_proj(merge_heads(attend(q / math.sqrt(self.n_heads), k, v, mask)))


@multi_head.mistake("""Your values come from k_proj. Keys say what a token can be found by, values what it then tells:
    values need v_proj.""")
class ValuesFromKeys(MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, _ = _projected(self, x)
        return self.o_proj(merge_heads(attend(q, k, k, mask)))


@multi_head.mistake("""You exchanged queries and keys: now a token is weighted by what *it* offers to the others.
    attend takes the queries first.""")
class QueriesAndKeysExchanged(MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = _projected(self, x)
        return self.o_proj(merge_heads(attend(k, q, v, mask)))


@multi_head.mistake("""You forgot o_proj at the end. Without it the numbers of head 0 can only ever change the first D
    numbers of a token, and what two heads found is never combined.""")
class NoOutputProjection(MultiHeadAttention):
    def forward(self, x, mask=None):
        return merge_heads(attend(*_projected(self, x), mask))


@multi_head.mistake("""You do not hand the mask to attend, so every token sees the future. In training the loss will
    look wonderful, because the answer is in the input.""")
class MaskForgotten(MultiHeadAttention):
    def forward(self, x, mask=None):
        return super().forward(x)


@multi_head.mistake("""You turned the mask around. True means "may look" here, and attend wants it so: hand it over as
    it is.""")
class MaskTurnedAround(MultiHeadAttention):
    def forward(self, x, mask=None):
        return super().forward(x, None if mask is None else ~mask)


@multi_head.mistake("""You never split: this is one wide head, which has a single row of weights per token. Split q, k
    and v with split_heads, and merge afterwards.""")
class NeverSplit(MultiHeadAttention):
    def forward(self, x, mask=None):
        return self.o_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask))


@multi_head.mistake("""You attended first and split afterwards. By then it is too late: there was one wide head, with
    a single row of weights per token. Split q, k and v, and attend then.""")
class SplitTooLate(MultiHeadAttention):
    def forward(self, x, mask=None):
        out = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask)
        return self.o_proj(merge_heads(split_heads(out, self.n_heads)))


@multi_head.mistake("""You forgot to divide the scores by the root of the width of a head. The weights are too sharp,
    more so the wider a head is. `attend` does it by itself.""")
class NotScaled(MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = _projected(self, x)
        return self.o_proj(merge_heads(attend(q * math.sqrt(q.size(-1)), k, v, mask)))


@multi_head.mistake("""You merged number by number, the first of each head, then the second of each. Whole heads
    belong side by side, head 0 first: merge_heads.""")
class MergedNumberByNumber(MultiHeadAttention):
    def forward(self, x, mask=None):
        return self.o_proj(attend(*_projected(self, x), mask).permute(0, 2, 3, 1).reshape(x.shape))


@multi_head.alternative("head after head, as in the paper, each with its rows of the matrices")
class HeadAfterHead(MultiHeadAttention):
    def forward(self, x, mask=None):
        B, T, C = x.shape
        D, found = C // self.n_heads, []
        if mask is not None and mask.ndim > 2:
            mask = mask[:, 0]
        for h in range(self.n_heads):
            rows = slice(h * D, (h + 1) * D)
            q, k, v = (x @ p.weight[rows].T for p in (self.q_proj, self.k_proj, self.v_proj))
            found.append(attend(q, k, v, mask))
        return self.o_proj(torch.cat(found, dim=-1))


@multi_head.alternative("torch's fused attention, unflatten and flatten")
class Fused(MultiHeadAttention):
    def forward(self, x, mask=None):
        q, k, v = (
            p(x).unflatten(-1, (self.n_heads, -1)).movedim(2, 1) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).movedim(1, 2).flatten(2))


@multi_head.alternative("one product for q, k and v, and einsum")
class Einsum(MultiHeadAttention):
    def forward(self, x, mask=None):
        stacked = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        q, k, v = (x @ stacked.T).unflatten(-1, (3, self.n_heads, -1)).unbind(2)  # (B, T, H, D) each
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return self.o_proj(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(2))


# 04.4 ----------------------------------------------------------------------------------------------------------------


def contributions(heads: Tensor, weight: Tensor) -> Tensor:
    """What each head adds to the result, on its own. (B, H, T, D), (C, H * D) -> (B, H, T, C)

    heads: what the heads found, before they are merged. weight: that of the output projection.
    Head h meets the columns h * D to (h + 1) * D of the weight, and no others; the sum over the heads is what
    the output projection makes of the merged heads.
    """
    B, H, T, D = heads.shape
    pieces = weight.view(-1, H, D).permute(1, 2, 0)  # (H, D, C): the columns of each head, standing
    return heads @ pieces


per_head = Exercise(
    "04.4",
    contributions,
    hints=(
        "Begin with a loop over the heads: take one head's numbers `heads[:, h]`, shape (B, T, D), and the columns "
        "of the weight that belong to it.",
        "The columns are `weight[:, h * D : (h + 1) * D]`, shape (C, D). A layer computes x @ weight.T, so each "
        "head's result is `heads[:, h] @ columns.T`, shape (B, T, C).",
        "`torch.stack([heads[:, h] @ weight[:, h * D : (h + 1) * D].T for h in range(H)], dim=1)`, with `D = "
        "heads.size(-1)`.",
    ),
)


def _contributions(heads, weight):
    D = heads.size(-1)
    columns = [weight[:, h * D : (h + 1) * D] for h in range(heads.size(1))]
    return torch.stack([heads[:, h] @ piece.T for h, piece in enumerate(columns)], dim=1)


@per_head.check("two heads of two numbers, one token: small enough for paper")
def on_paper(contributions):
    heads = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]) + integers(0, 3)
    weight = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 3.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    same(contributions(heads, weight), _contributions(heads, weight))


@per_head.check("three heads, five tokens, two texts")
def three_heads(contributions):
    heads, weight = randn(2, 3, 5, 4), randn(12, 12)
    same(contributions(heads, weight), _contributions(heads, weight), atol=1e-4)


@per_head.check("an output of another width than the heads have together")
def other_width(contributions):
    heads, weight = randn(2, 3, 4, 2), randn(5, 6)
    same(contributions(heads, weight), _contributions(heads, weight))


@per_head.check("a sum over the heads that is the output projection of the merged heads")
def sums_up(contributions):
    heads, weight = randn(2, 2, 3, 4), randn(8, 8)
    same(contributions(heads, weight).sum(dim=1), _merge(heads) @ weight.T, atol=1e-4)


@per_head.check("nothing from a head that found only zeros")
def silent_head(contributions):
    heads, weight = randn(1, 3, 2, 4), randn(12, 12)
    heads[:, 1] = 0
    same(contributions(heads, weight)[:, 1], torch.zeros(1, 2, 12))


@per_head.mistake("""You cut the weight into rows. A row belongs to one *output*, and every head has a say in every
    output; what belongs to a head are columns, weight[:, h * D : (h + 1) * D].""")
def rows_instead(heads, weight):
    D = heads.size(-1)
    rows = [weight[h * D : (h + 1) * D] for h in range(heads.size(1))]
    return torch.stack([heads[:, h] @ piece for h, piece in enumerate(rows)], dim=1)


@per_head.mistake("""You viewed the weight straight as (H, D, C): that reads its numbers in their order and cuts it
    into rows, not into the columns of the heads. First view(C, H, D), which cuts the columns, then permute.""")
def weight_viewed(heads, weight):
    B, H, T, D = heads.shape
    return heads @ weight.reshape(H, D, -1)


@per_head.mistake("""You gave head h every H-th column. The heads stand side by side in the merged vector, so head 0
    has the first D columns, head 1 the next D.""")
def columns_dealt(heads, weight):
    H = heads.size(1)
    return torch.stack([heads[:, h] @ weight[:, h::H].T for h in range(H)], dim=1)


@per_head.mistake("""You added the heads up already. Asked for are the terms of that sum, one for each head: (B, H, T,
    C).""")
def already_summed(heads, weight):
    return _merge(heads) @ weight.T


@per_head.mistake("""You gave every head an equal share of the result. The sum is right, the terms are not: one head
    may add nearly everything and another nothing. Let each head meet its own columns.""")
def equal_shares(heads, weight):
    H = heads.size(1)
    return (_merge(heads) @ weight.T / H)[:, None].repeat(1, H, 1, 1)


@per_head.mistake("""Your terms are right, but the axis of the heads stands behind the tokens. Asked for is (B, H, T,
    C): stack on axis 1.""")
def heads_behind(heads, weight):
    return _contributions(heads, weight).transpose(1, 2)


@per_head.alternative("a loop over the heads")
def loop_over_heads(heads, weight):
    pieces = weight.chunk(heads.size(1), dim=1)
    return torch.stack([F.linear(head, piece) for head, piece in zip(heads.unbind(1), pieces, strict=True)], dim=1)


@per_head.alternative("one einsum")
def one_einsum(heads, weight):
    return torch.einsum("bhtd,chd->bhtc", heads, weight.unflatten(1, heads.shape[1::2]))


@per_head.alternative("all heads but one set to zero, then the whole projection")
def others_silent(heads, weight):
    found = []
    for h in range(heads.size(1)):
        alone = torch.zeros_like(heads)
        alone[:, h] = heads[:, h]
        found.append(_merge(alone) @ weight.T)
    return torch.stack(found, dim=1)


# 04.5 ----------------------------------------------------------------------------------------------------------------


def cache_bytes(config: Config, n_tokens: int, n_sequences: int = 1, bytes_per_number: int = 2) -> int:
    """How many bytes the keys and values of all layers need that a model keeps while it writes.

    config: the model's sizes, among them n_layers, n_heads, n_kv_heads, head_dim, d_model.
    n_tokens: length of one text. n_sequences: how many texts are written at the same time.
    bytes_per_number: 2 for 16-bit numbers, 4 for float32.
    """
    numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    return numbers * n_tokens * n_sequences * bytes_per_number


cache_size = Exercise(
    "04.5",
    cache_bytes,
    hints=(
        "Count the numbers first, for one token in one layer: how many heads have keys, how many numbers has one "
        "key? And what is kept besides keys?",
        "One token, one layer: n_kv_heads * head_dim numbers for the keys, as many for the values. Then times "
        "layers, tokens, texts, bytes.",
        "`2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_sequences * bytes_per_number`",
    ),
)


def _sizes(n_heads, n_kv_heads, **rest):
    D = pick([8, 16, 24])
    return Config(vocab_size=65, d_model=n_heads * D, n_layers=pick([3, 5, 7]), n_heads=n_heads, n_kv_heads=n_kv_heads,
                  d_ff=40, **rest)  # fmt: skip


def _by_counting(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return sum(2 * config.head_dim * n_tokens * n_sequences * bytes_per_number
               for _layer in range(config.n_layers) for _head in range(config.n_kv_heads))  # fmt: skip


@cache_size.check("one token, as many key/value heads as query heads")
def one_token_cached(cache_bytes):
    config = _sizes(4, 4)
    same(cache_bytes(config, 1), _by_counting(config, 1))


@cache_size.check("a text of some hundred tokens, fewer key/value heads than query heads")
def fewer_kv_heads(cache_bytes):
    config, n = _sizes(6, 2), int(integers(100, 900))
    same(cache_bytes(config, n), _by_counting(config, n))


@cache_size.check("heads of another width than d_model / n_heads")
def own_head_dim(cache_bytes):
    config = _sizes(6, 3, head_dim=pick([40, 56]))
    same(cache_bytes(config, 10), _by_counting(config, 10))


@cache_size.check("three texts at the same time")
def three_texts(cache_bytes):
    config = _sizes(6, 3)
    same(cache_bytes(config, 10, n_sequences=3), _by_counting(config, 10, 3))


@cache_size.check("float32, four bytes a number")
def in_float32(cache_bytes):
    config = _sizes(4, 2)
    same(cache_bytes(config, 10, bytes_per_number=4), _by_counting(config, 10, bytes_per_number=4))


@cache_size.check("Llama 2 70B with 4,096 tokens in 16-bit numbers")
def llama_2_70b(cache_bytes):
    config = Config(vocab_size=32000, d_model=8192, n_layers=80, n_heads=64, n_kv_heads=8, d_ff=28672, max_len=4096)
    same(cache_bytes(config, 4096), 1_342_177_280)


def _wrong(config, n_tokens, n_sequences=1, bytes_per_number=2, *, kinds=2, heads=None, width=None, layers=None):
    heads = config.n_kv_heads if heads is None else heads
    width = config.head_dim if width is None else width
    return kinds * (layers or config.n_layers) * heads * width * n_tokens * n_sequences * bytes_per_number


@cache_size.mistake("""You counted keys or values, not both. A new token needs the old keys to find something and the
    old values to take it: twice as much.""")
def keys_only(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, kinds=1)


@cache_size.mistake("""You counted one layer. Every layer has keys and values of its own: times n_layers.""")
def one_layer(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, layers=1)


@cache_size.mistake("""You counted the heads of the queries. Queries are used once and thrown away; only keys and
    values are kept, and there are n_kv_heads of them.""")
def query_heads(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, heads=config.n_heads)


@cache_size.mistake("""You counted d_model numbers for each key. A key/value head has head_dim numbers, and there are
    n_kv_heads of them: with grouped queries that is less than d_model.""")
def model_width(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, heads=1, width=config.d_model)


@cache_size.mistake("""You computed the width of a head as d_model // n_heads. That is the usual case, not the only
    one: take config.head_dim, which also knows the others.""")
def computed_head_dim(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, width=config.d_model // config.n_heads)


@cache_size.mistake("""You counted three things a token, queries as well. A query is used once, when its token is
    read, and never again: only keys and values are kept.""")
def queries_too(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, bytes_per_number, kinds=3)


@cache_size.mistake("""You counted the weights between all pairs of tokens, n_tokens * n_tokens. They are computed,
    used and thrown away; what is kept grows with n_tokens only.""")
def pairs_of_tokens(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens * n_tokens, n_sequences, bytes_per_number)


@cache_size.mistake("""These are bits. A byte has eight of them; bytes_per_number is in bytes already.""")
def in_bits(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return 8 * _wrong(config, n_tokens, n_sequences, bytes_per_number)


@cache_size.mistake("""You counted numbers, not bytes: times bytes_per_number.""")
def numbers_not_bytes(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, 1)


@cache_size.mistake("""You left out n_sequences. Texts do not share keys and values, unless they begin alike: each
    needs a cache of its own.""")
def one_text_only(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, 1, bytes_per_number)


@cache_size.mistake("""You always count two bytes a number. bytes_per_number says how many; in float32 it is four.""")
def always_two_bytes(config, n_tokens, n_sequences=1, bytes_per_number=2):
    return _wrong(config, n_tokens, n_sequences, 2)


@cache_size.alternative("an empty tensor of the right shape, asked for its size")
def ask_a_tensor(config, n_tokens, n_sequences=1, bytes_per_number=2):
    shape = (config.n_layers, 2, n_sequences, config.n_kv_heads, n_tokens, config.head_dim)
    return torch.empty(shape, device="meta").numel() * bytes_per_number


@cache_size.alternative("layer after layer, head after head")
def layer_after_layer(config, n_tokens, n_sequences=1, bytes_per_number=2):
    total = 0
    for _layer in range(config.n_layers):
        for _head in range(config.n_kv_heads):
            one = n_tokens * config.head_dim * bytes_per_number
            total += one + one
    return total * n_sequences


# 04.6 ----------------------------------------------------------------------------------------------------------------

repeat = Exercise(
    "04.6",
    attention.repeat_kv,
    hints=(
        "Heads are axis 1. Each of them appears n_repeats times, and its copies stand together: a, a, a, b, b, b.",
        "torch has two functions for this. `repeat` writes the whole row again, a, b, a, b; `repeat_interleave` "
        "writes each entry again, a, a, b, b.",
        "`x.repeat_interleave(n_repeats, dim=1)`",
    ),
)


def _repeated(x, n_repeats):
    return torch.stack([x[:, i // n_repeats] for i in range(x.size(1) * n_repeats)], dim=1)


@repeat.check("two heads a and b, three times each: a, a, a, b, b, b")
def two_by_three(repeat_kv):
    x = _labelled_heads(1, 2, 4, 5)
    same(repeat_kv(x, 3), _repeated(x, 3))


@repeat.check("three heads, twice each, in a batch of two")
def three_by_two(repeat_kv):
    x = randn(2, 3, 4, 5)
    same(repeat_kv(x, 2), _repeated(x, 2))


@repeat.check("a single head for four query heads")
def for_all(repeat_kv):
    x = randn(2, 1, 3, 5)
    same(repeat_kv(x, 4), _repeated(x, 4))


@repeat.check("nothing to repeat: as it was")
def only_once(repeat_kv):
    x = randn(2, 3, 4, 5)
    same(repeat_kv(x, 1), x)


@repeat.mistake("""Your order is a, b, a, b: the whole row of heads again and again. The first n_repeats query heads
    belong to a, so a comes n_repeats times, then b. With your order a trained model looks things up in other heads'
    keys and writes nonsense. (repeat_interleave instead of repeat; with expand, the new axis stands after the heads'
    axis.)""")
def row_repeated(x, n_repeats):
    return x.repeat(1, n_repeats, 1, 1)


@repeat.mistake("""You repeated tokens, not heads: the axis of the heads is 1, that of the tokens 2.""")
def tokens_repeated(x, n_repeats):
    return x.repeat_interleave(n_repeats, dim=2)


@repeat.mistake("""You wrote all tokens again, n_repeats times, one row behind the other. What is repeated are heads,
    axis 1, and each by itself.""")
def tokens_again(x, n_repeats):
    return x.repeat(1, 1, n_repeats, 1)


@repeat.mistake("""You repeated the numbers inside each head, which makes wider heads and not more of them. The axis
    of the heads is 1.""")
def numbers_repeated(x, n_repeats):
    return x.repeat_interleave(n_repeats, dim=3)


@repeat.mistake("""You repeated the texts of the batch. The axis of the heads is 1, that of the batch 0.""")
def texts_repeated(x, n_repeats):
    return x.repeat_interleave(n_repeats, dim=0)


@repeat.mistake("""repeat_interleave without dim makes one long row of everything. Say which axis: dim=1.""")
def no_axis(x, n_repeats):
    return x.repeat_interleave(n_repeats)


@repeat.mistake("""expand stretches an axis of size 1 only. It works for one key/value head and fails for more: put a
    new axis of size 1 behind the heads, stretch that one, and make one axis of the two.""")
def expanded(x, n_repeats):
    B, G, S, D = x.shape
    return x.expand(B, G * n_repeats, S, D).clone()


@repeat.mistake("""n_repeats is how often each head appears, and you took it for the number of heads at the end. The
    result has G * n_repeats heads.""")
def heads_at_the_end(x, n_repeats):
    return x.repeat_interleave(max(1, n_repeats // x.size(1)), dim=1)


@repeat.alternative("a new axis, stretched, and then made one with that of the heads")
def stretched(x, n_repeats):
    B, G, S, D = x.shape
    return x[:, :, None].expand(B, G, n_repeats, S, D).reshape(B, G * n_repeats, S, D)


@repeat.alternative("an index: 0, 0, 0, 1, 1, 1")
def indexed(x, n_repeats):
    return x[:, torch.arange(x.size(1) * n_repeats) // n_repeats]


@repeat.alternative("a loop over the heads")
def head_after_head(x, n_repeats):
    return torch.cat([head for head in x.split(1, dim=1) for _ in range(n_repeats)], dim=1)


# 04.7 ----------------------------------------------------------------------------------------------------------------

grouped = Exercise(
    "04.7",
    attention.Attention,
    hints=(
        "Begin with `MultiHeadAttention` and change one thing after the other: where k and v come from, how many "
        "heads they are split into, who repeats them. Without rotate, cache and context it must work already.",
        "Order: project and split; rotate q and k; hand k and v to the cache and go on with what it gives back; "
        "repeat both; attend; merge; o_proj. The mask goes to `self.attend` as it came.",
        "After `q`, `k`, `v` are split: `if rotate is not None: q, k = rotate(q), rotate(k)`, `if cache is not "
        "None: k, v = cache.append(k, v)`, then `repeat_kv(k, n)` and `repeat_kv(v, n)` with `n = self.n_heads // "
        "self.n_kv_heads`, then `self.attend(q, k, v, mask)`.",
    ),
)


class WrongNumberOfHeads(ValueError):
    """Keys that do not fit those in the cache."""


@dataclass(repr=False)
class Past:
    """A cache that holds some tokens already. Whoever appends twice in one call gets the new ones twice."""

    k: Tensor
    v: Tensor
    calls: list = field(default_factory=list, init=False)

    def __repr__(self) -> str:
        return f"<a cache of {self.k.size(2)} tokens>"

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and all values: those that were there, then the new ones; of a second call, once more."""
        if k.ndim == 4 and k.size(1) != self.k.size(1):
            raise WrongNumberOfHeads(f"the cache keeps {self.k.size(1)} key/value heads, and was handed {k.size(1)}")
        self.calls.append((k, v))
        ks, vs = zip(*self.calls, strict=True)
        return torch.cat([self.k, *ks], dim=2), torch.cat([self.v, *vs], dim=2)


def turned(x: Tensor) -> Tensor:
    """Rotate as chapter 06 does, the first token being number 0."""
    return apply_rope(x, torch.arange(x.size(-2)), base=100.0)


def turned_from_3(x: Tensor) -> Tensor:
    """The same, the first token being number 3."""
    return apply_rope(x, torch.arange(3, 3 + x.size(-2)), base=100.0)


def only_the_best(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Another way to attend: take the value of the best key, and nothing of the others."""
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return F.one_hot(scores.argmax(-1), k.size(-2)).to(v) @ v


def _best_head(q, k, v, may_look):
    scores = (q @ k.T).masked_fill(~may_look, -math.inf)
    return v[scores.argmax(-1)]


@grouped.check("6 query heads that share 2 key/value heads")
def shared_heads(Attention):
    part, w = _filled(Attention(12, 6, 2))
    x = randn(2, 5, 12)
    same(part(x), _expected(x, w, 6, 2))


@grouped.check("a causal mask, 4 query heads of another width than d_model / n_heads, 1 key/value head")
def multi_query_causal(Attention):
    part, w = _filled(Attention(10, 4, 1, head_dim=6))
    x, mask = randn(2, 5, 10), causal_mask(5)
    same(part(x, mask), _expected(x, w, 4, 1, mask=mask))


@grouped.check("a mask of its own for each text, (B, 1, 1, S), as many key/value heads as query heads")
def padding_mask(Attention):
    part, w = _filled(Attention(6, 3))
    x, lengths = randn(2, 5, 6), torch.tensor([int(integers(2, 5)), 5])
    mask = (torch.arange(5) < lengths[:, None])[:, None, None]
    same(part(x, mask), _expected(x, w, 3, mask=mask))


@grouped.check("queries and keys rotated")
def rotated(Attention):
    part, w = _filled(Attention(24, 6, 2))
    x = randn(1, 5, 24)
    same(part(x, rotate=turned), _expected(x, w, 6, 2, rotate=turned))


@grouped.check("a cache that holds 3 tokens already, and 1 new one, which may look at all 4")
def cached(Attention):
    part, w = _filled(Attention(8, 4, 2))
    x, past = randn(1, 1, 8), Past(randn(1, 2, 3, 2), randn(1, 2, 3, 2))
    same(part(x, cache=past), _expected(x, w, 4, 2, past=past))


@grouped.check("a cache that holds 3 tokens, and 2 new ones, rotated to their places 3 and 4, with a mask")
def cached_and_rotated(Attention):
    part, w = _filled(Attention(16, 4, 2))
    x, past, mask = randn(1, 2, 16), Past(randn(1, 2, 3, 4), randn(1, 2, 3, 4)), causal_mask(2, 5)
    expected = _expected(x, w, 4, 2, mask=mask, past=past, rotate=turned_from_3)
    same(part(x, mask, rotate=turned_from_3, cache=past), expected)


@grouped.check("keys and values from another text than the queries, once as long as x and once longer")
def cross_attention(Attention):
    part, w = _filled(Attention(6, 3))
    for length in (4, 7):
        x, context = randn(2, 4, 6), randn(2, length, 6)
        same(part(x, context=context), _expected(x, w, 3, context=context))


@grouped.check("another function than attend, one that takes only the best key")
def other_attend(Attention):
    part, w = _filled(Attention(6, 3, 1, attend=only_the_best))
    x, mask = randn(2, 4, 6), causal_mask(4)
    same(part(x, mask), _expected(x, w, 3, 1, mask=mask, one_head=_best_head))


def _parts(self, x, context=None):
    source = x if context is None else context
    q = split_heads(self.q_proj(x), self.n_heads)
    return q, *(split_heads(p(source), self.n_kv_heads) for p in (self.k_proj, self.v_proj))


def _finish(self, q, k, v, mask):
    n = self.n_heads // self.n_kv_heads
    return self.o_proj(merge_heads(self.attend(q, repeat_kv(k, n), repeat_kv(v, n), mask)))


@grouped.mistake("""You repeat the key/value heads in the order a, b, a, b. Query heads that stand together belong
    together: a, a, b, b, as repeat_kv does it. The shapes fit either way, and a trained model turns to nonsense.""")
class InTheWrongOrder(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n = self.n_heads // self.n_kv_heads
        return self.o_proj(merge_heads(self.attend(q, k.repeat(1, n, 1, 1), v.repeat(1, n, 1, 1), mask)))


@grouped.mistake("""You repeat the keys as a, a, b, b and the values as a, b, a, b: then a head finds a token by one
    head's key and takes another head's value. Repeat both with repeat_kv.""")
class ValuesInTheWrongOrder(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n = self.n_heads // self.n_kv_heads
        return self.o_proj(merge_heads(self.attend(q, repeat_kv(k, n), v.repeat(1, n, 1, 1), mask)))


@grouped.mistake("""You rotate the values as well. Only what is *compared* is rotated, queries and keys; the values
    are what a token tells, and that must not depend on where it stands.""")
class ValuesRotated(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k, v = rotate(q), rotate(k), rotate(v)
        if cache is not None:
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You rotate the queries and not the keys. Rotation works because both are turned and only the
    difference of their angles counts: rotate(k) as well.""")
class KeysNotRotated(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q = rotate(q)
        if cache is not None:
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You do not use `rotate`. Where it is given, q and k go through it, after they are split: without
    it a model does not know in which order its tokens stand.""")
class NeverRotated(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        return super().forward(x, mask, cache=cache, context=context)


@grouped.mistake("""You rotate before you split, over the whole width of the model. The rotation belongs to the
    numbers of one head: split first, then rotate.""")
class RotatedBeforeTheSplit(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        source = x if context is None else context
        q, k, v = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        q, k, v = split_heads(q, self.n_heads), *(split_heads(y, self.n_kv_heads) for y in (k, v))
        if cache is not None:
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You rotate after the cache, so that the old keys are turned once more each time something new
    comes. Turn the new keys once, and then put them into the cache.""")
class RotatedAfterTheCache(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if cache is not None:
            k, v = cache.append(k, v)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You repeat the key/value heads before you put them into the cache. Then it holds every head
    several times, and what grouped queries were invented to save is gone. Cache first, repeat afterwards.""")
class RepeatedBeforeTheCache(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        n = self.n_heads // self.n_kv_heads
        k, v = repeat_kv(k, n), repeat_kv(v, n)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.o_proj(merge_heads(self.attend(q, k, v, mask)))


@grouped.mistake("""You hand k and v to the cache and go on with the new ones alone. append gives everything back that
    it holds, old and new: k, v = cache.append(k, v).""")
class CacheNotUsed(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You call cache.append twice, so that every new key is kept twice, and twice as heavy. One call
    takes both and gives both back: k, v = cache.append(k, v).""")
class AppendedTwice(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            cache.append(k, v)
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You do not use `context`. Where it is given, keys and values come from it: k_proj(context),
    v_proj(context); the queries still come from x.""")
class ContextNotUsed(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        return super().forward(x, mask, rotate, cache)


@grouped.mistake("""You take the queries from the context and the rest from x. It is the other way round: x asks, the
    context answers. The result must have one row for each token of x.""")
class TheContextAsks(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        if context is None:
            return super().forward(x, mask, rotate, cache)
        return super().forward(context, mask, rotate, cache, context=x)


@grouped.mistake("""Your keys come from the context, and your values from x. A token that was found by its key must be
    the one whose value is taken: both from the context.""")
class ValuesFromX(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, _ = _parts(self, x, context)
        v = split_heads(self.v_proj(x), self.n_kv_heads)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""Your values come from the context, and your keys from x. A token that was found by its key must be
    the one whose value is taken: both from the context.""")
class KeysFromX(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, _, v = _parts(self, x, context)
        k = split_heads(self.k_proj(x), self.n_kv_heads)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        return _finish(self, q, k, v, mask)


@grouped.mistake("""You drop the mask when there is a cache. That is right for one new token, which may see
    everything. Of several new ones, the first would see the second: hand the mask on, always.""")
class NoMaskWithACache(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        return super().forward(x, mask if cache is None else None, rotate, cache, context)


@grouped.mistake("""You do not hand the mask on, so every token sees the future. In training the loss will look
    wonderful: the answer is in the input.""")
class MaskLost(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        return super().forward(x, None, rotate, cache, context)


@grouped.mistake("""You call the function attend by its name. Whoever makes an Attention may hand over another one,
    torch's fast one for example: call self.attend.""")
class AlwaysTheSameAttend(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        self.attend = attend
        return super().forward(x, mask, rotate, cache, context)


@grouped.mistake("""You forgot o_proj at the end: what the heads found is put side by side and never combined, and
    with a head_dim of its own the result does not even have the width of x.""")
class NoOutputProjectionAtTheEnd(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n = self.n_heads // self.n_kv_heads
        return merge_heads(self.attend(q, repeat_kv(k, n), repeat_kv(v, n), mask))


@grouped.mistake("""You merged without exchanging heads and tokens again: pieces of different tokens got glued
    together. merge_heads does it right.""")
class GluedTogether(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n = self.n_heads // self.n_kv_heads
        out = self.attend(q, repeat_kv(k, n), repeat_kv(v, n), mask)
        return self.o_proj(out.reshape(x.size(0), x.size(1), -1))


@grouped.alternative("query head after query head, each with key/value head h // n")
class QueryHeadAfterQueryHead(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        n = self.n_heads // self.n_kv_heads
        if mask is not None and mask.ndim > 2:
            mask = mask[:, 0]
        found = [self.attend(q[:, h], k[:, h // n], v[:, h // n], mask) for h in range(self.n_heads)]
        return self.o_proj(torch.cat(found, dim=-1))


@grouped.alternative("nothing repeated: the queries get an axis for their group")
class QueriesInGroups(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        q, k, v = _parts(self, x, context)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.append(k, v)
        q = q.unflatten(1, (self.n_kv_heads, -1))  # (B, G, H / G, T, D)
        if mask is not None and mask.ndim > 2:
            mask = mask[:, None]
        return self.o_proj(merge_heads(self.attend(q, k[:, :, None], v[:, :, None], mask).flatten(1, 2)))


@grouped.alternative("the weights repeated instead of keys and values, where nothing is cached")
class WeightsRepeated(attention.Attention):
    def forward(self, x, mask=None, rotate=None, cache=None, context=None):
        if cache is not None:
            return super().forward(x, mask, rotate, cache, context)
        source, n = x if context is None else context, self.n_heads // self.n_kv_heads
        D = self.k_proj.weight.size(0) // self.n_kv_heads
        wide = [
            p.weight.unflatten(0, (-1, D)).repeat_interleave(n, 0).flatten(0, 1) for p in (self.k_proj, self.v_proj)
        ]
        q, k, v = (split_heads(y, self.n_heads) for y in (self.q_proj(x), source @ wide[0].T, source @ wide[1].T))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return self.o_proj(merge_heads(self.attend(q, k, v, mask)))


# 04.8 ----------------------------------------------------------------------------------------------------------------


def average_heads(weight: Tensor, n_kv_heads: int, head_dim: int) -> Tensor:
    """Make n_kv_heads heads out of more: each new one is the mean of consecutive old ones. (H * D, C) -> (G * D, C)

    weight: that of k_proj or v_proj. Its first head_dim rows belong to head 0, the next head_dim rows to head 1.
    With 6 heads and n_kv_heads = 2, the first new head is the mean of heads 0, 1, 2, the other of 3, 4, 5: row i of a
    new head is the mean of their rows i.
    Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.1.
    """
    C = weight.size(1)
    heads = weight.view(n_kv_heads, -1, head_dim, C)  # (G, H / G, D, C)
    return heads.mean(dim=1).reshape(n_kv_heads * head_dim, C)


average = Exercise(
    "04.8",
    average_heads,
    hints=(
        "Give the rows names first: which group, which head of the group, which row of the head? A view with three "
        "axes in place of the first one does that.",
        "`weight.view(n_kv_heads, -1, head_dim, C)` has the axes (group, head in the group, row, column); -1 lets "
        "torch work out how many heads a group has. The mean goes over the heads of a group.",
        "`weight.view(n_kv_heads, -1, head_dim, weight.size(1)).mean(dim=1)`, then `.reshape(n_kv_heads * head_dim, "
        "-1)`.",
    ),
)


def _averaged(weight, n_kv_heads, head_dim):
    heads = weight.split(head_dim)
    n = len(heads) // n_kv_heads
    return torch.cat([sum(heads[g * n : (g + 1) * n]) / n for g in range(n_kv_heads)])


@average.check("four heads of two rows, two new ones: labelled rows, small enough for paper")
def rows_on_paper(average_heads):
    weight = _labelled_heads(1, 4, 2, 3)[0].flatten(0, 1)
    same(average_heads(weight, 2, 2), _averaged(weight, 2, 2), atol=1e-3)


@average.check("six heads of four rows, two new ones")
def six_to_two(average_heads):
    weight = randn(24, 10)
    same(average_heads(weight, 2, 4), _averaged(weight, 2, 4))


@average.check("three heads into a single one")
def three_to_one(average_heads):
    weight = randn(15, 4)
    same(average_heads(weight, 1, 5), _averaged(weight, 1, 5))


@average.check("as many new heads as old ones: nothing changes")
def same_number(average_heads):
    weight = randn(12, 5)
    same(average_heads(weight, 3, 4), weight)


@average.check("groups whose heads are alike: nothing is lost")
def alike(average_heads):
    few = randn(6, 5)
    weight = few.view(2, 3, 5).repeat_interleave(4, dim=0).flatten(0, 1)
    same(average_heads(weight, 2, 3), few)


@average.mistake("""You group the heads as 0, 2, 4 and 1, 3, 5. The query heads of a group stand together, 0, 1, 2 and
    3, 4, 5, and repeat_kv hands the first new head to the first of them: average consecutive heads.""")
def strided_groups(weight, n_kv_heads, head_dim):
    C = weight.size(1)
    return weight.reshape(-1, n_kv_heads, head_dim, C).mean(dim=0).reshape(-1, C)


@average.mistake("""You added the heads up without dividing. Keys n times as long make the scores n times as large,
    and the weights far too sharp: take the mean.""")
def summed_up(weight, n_kv_heads, head_dim):
    C = weight.size(1)
    return weight.reshape(n_kv_heads, -1, head_dim, C).sum(dim=1).reshape(-1, C)


@average.mistake("""You keep the first head of each group and throw the others away. That is a way, but not the one
    asked for, and after some training the worse one: take the mean.""")
def first_of_each(weight, n_kv_heads, head_dim):
    C = weight.size(1)
    return weight.reshape(n_kv_heads, -1, head_dim, C)[:, 0].reshape(-1, C)


@average.mistake("""You average neighbouring rows, that is, different numbers of one head. Row i of the new head is
    the mean of row i of each old one: the axes are (group, head in the group, row of the head).""")
def neighbouring_rows(weight, n_kv_heads, head_dim):
    C = weight.size(1)
    return weight.reshape(n_kv_heads, head_dim, -1, C).mean(dim=2).reshape(-1, C)


@average.mistake("""You averaged all heads into a single one. There are n_kv_heads groups, and each gets the mean of
    its own heads.""")
def mean_of_all(weight, n_kv_heads, head_dim):
    return weight.reshape(-1, head_dim, weight.size(1)).mean(dim=0)


@average.mistake("""Your numbers are right, but still stand as (G, D, C). A weight has two axes, (G * D, C): make one
    axis of the first two.""")
def three_axes(weight, n_kv_heads, head_dim):
    return weight.reshape(n_kv_heads, -1, head_dim, weight.size(1)).mean(dim=1)


@average.mistake("""You averaged and then repeated, so that there are as many heads as before. Saved is only what is
    not stored: give back n_kv_heads heads; repeat_kv repeats them when they are used.""")
def repeated_again(weight, n_kv_heads, head_dim):
    heads = weight.reshape(n_kv_heads, -1, head_dim, weight.size(1))
    return heads.mean(dim=1, keepdim=True).expand_as(heads).reshape(weight.shape)


@average.alternative("head after head, in a loop")
def group_after_group(weight, n_kv_heads, head_dim):
    n_rows = len(weight) // n_kv_heads
    new = []
    for group in range(n_kv_heads):
        rows = weight[group * n_rows : (group + 1) * n_rows]
        new.append(torch.stack(rows.split(head_dim)).mean(dim=0))
    return torch.cat(new)


@average.alternative("a matrix that averages")
def with_a_matrix(weight, n_kv_heads, head_dim):
    n = len(weight) // (n_kv_heads * head_dim)
    mix = torch.kron(torch.eye(n_kv_heads), torch.full((1, n), 1 / n))  # (G, H)
    return torch.kron(mix, torch.eye(head_dim)) @ weight


@average.alternative("einsum over the heads of a group")
def einsum_mean(weight, n_kv_heads, head_dim):
    heads = weight.unflatten(0, (n_kv_heads, -1, head_dim))
    return torch.einsum("gndc->gdc", heads).flatten(0, 1) / heads.size(1)
