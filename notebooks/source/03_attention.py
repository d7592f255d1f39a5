# %% [markdown]
# # 03 · Attention: a word chooses where to look
#
# After this chapter you can work out attention with pencil and paper, write it in four lines that fit every LLaMA,
# say with a measurement what the square root in its formula is for, and find three bugs that make a model look
# *better* than it is.
#
# Reading takes about 80 minutes, and the six exercises about as long again. Chapter 01 is enough to follow it:
# tensors and their shapes, the loss in nats, TinyShakespeare.

# %%
import math
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.plots import attention as plots

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## One word, two answers
#
# > the cat sat on **the** mat
#
# The word "the" stands there twice. After the first one comes "cat", after the second one "mat". (In this chapter a
# token is a word, as long as we choose the numbers ourselves.) The bigram model of chapter 01 looks at the last token
# and at nothing else, so it must say the same both times. The best it can say is "cat or mat, half and half". That
# costs it ln 2 nats at each "the", however long it trains.

# %%
print(f"{-math.log(0.5):.3f} nats")

# %% [markdown]
# The way out: before a word is asked what comes next, it takes in something of the words before it. To see how, give
# each word two numbers, *how furry* and *how flat* the thing is that it stands for. In a trained model there are
# hundreds of such numbers per word, and nobody chose them. Here we choose them, so that they divide well: a cat is
# furry (7), a mat is flat (7), the other words are neither.

# %%
words = ["the", "cat", "sat", "on", "the", "mat"]
values = torch.tensor([[0.0, 0.0], [7.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 7.0]])  # furry, flat
print(values.shape)

# %% [markdown]
# ## An average of the past
#
# The easiest way to take something in is to average. Multiply each of the six rows by 1/6 and add them up:
#
# - furry: 7/6 = 1.17
# - flat: 7/6 = 1.17
#
# In PyTorch, `weights @ values` does that: it takes the first row times the first weight, plus the second row times
# the second weight, and so on. The six *weights* add up to 1.

# %%
weights = torch.full((6,), 1 / 6)
print(weights @ values)

# %% [markdown]
# If the weights are a table, `@` does this for each row of the table: row i of the result is mixed with the weights
# in row i. So one product can make an average for every word.
#
# A model that is to guess the next word must not know it yet. So row 0 averages one word, row 1 averages two, row 2
# averages three:
#
# | word | averages | furry | flat |
# |---|---|---|---|
# | the | the | 0 | 0 |
# | cat | the, cat | 7/2 | 0 |
# | sat | the, cat, sat | 7/3 | 0 |
# | ... | | | |
#
# **Exercise 03.1.** Write `past_average`. The letters in its docstring are the same in the whole course: T is the
# number of words (rows), C the number of numbers per word (columns). A loop is fine. `x[:3]` are the first three
# rows; `x.mean(dim=0)` averages over the rows, down each column; `torch.stack` makes one tensor of a list of rows.

# %% exercise: 03.1

# %% check: 03.1
past_average = check("03.1", past_average)

# %% [markdown]
# Which weights did your function use? Give it a table with ones on the diagonal, one word per row and per column
# (`torch.eye(6)`). What is mixed then are the words themselves, and the result is the weights. In the figure each row
# adds up to 1, and everything above the diagonal is 0: no word knows a later one.

# %%
past_weights = past_average(torch.eye(6))
plots.weights_by_word(words, words, past_weights, "How much of each word is in the average of the past?")
assert torch.allclose(past_weights.sum(dim=1), torch.ones(6))

# %% [markdown]
# Now watch the cat. Down the column "cat" its share shrinks: 1/2, 1/3, 1/4. Nothing happened to the cat. Words came
# that have nothing to do with it, and each of them takes its share.

# %%
for word, (furry, flat) in zip(words, past_average(values).tolist(), strict=True):
    print(f"{word:<4} furry {furry:.2f}   flat {flat:.2f}")

# %% [markdown]
# After 700 words of a story, 1/100 of a cat is left. An average does not forget anything; it drowns everything. What
# is missing is a choice: "sat" should take much of the cat and little of "on".

# %% [markdown]
# ## Points instead of equal shares
#
# Let the word "sat" give points. Its question is *who could have sat?* The cat gets 3 points. The mat gets 1: things
# do sit around. The others get 0. (For now "sat" may look at the whole sentence, even ahead. We come back to that.)
#
# Points must become shares. Our rule: **each point doubles the share.** A word with 3 points gets 2 · 2 · 2 = 8 times
# as much as a word with 0 points.
#
# **Predict.** Six words, with 0, 3, 0, 0, 0 and 1 points. Which share of its attention does "sat" spend on the cat?
# Write a number between 0 and 1 before you run the next cell.

# %% predict: share
share = 0.57  # a number between 0 and 1

# %% reveal: share
points = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0, 1.0])
powers = 2**points
weights = powers / powers.sum()
print("powers", powers.tolist(), " sum", powers.sum().item())
print("shares", [round(weight, 2) for weight in weights.tolist()])
predicted(share, 8 / 14, within=1.1)

# %% [markdown]
# 8 of 14, not 3 of 4. A word with 0 points still gets a share, 1 of 14, and there are many such words. Why powers,
# and not the points themselves?
#
# - Points may be negative. 2⁻³ = 1/8 is a small share; a share of -3 would make no sense.
# - There is always something to divide by. Six times 0 points gives six equal shares.
# - Only differences count. One point more for *every* word doubles every power and the sum as well, and no share
#   changes.
#
# The bars show what "sat" looks at. Six shares that add up to 1 in total: what one word gets, the others lose.

# %%
plots.shares(words, points, weights, 'What does "sat" look at?')
assert weights.argmax() == 1 and abs(weights.sum() - 1) < 1e-6

# %% [markdown]
# With these weights, mix the values. By hand: furry is 8/14 of 7, which is 4; flat is 2/14 of 7, which is 1.

# %%
print(weights @ values)

# %% [markdown]
# After "sat" has looked around, it carries (4, 1): somebody furry sat here. That is attention: **points, shares, a
# weighted average.** The rest of the chapter asks where the points come from, and does it for all words at once.

# %% [markdown]
# ## From points to weights: softmax
#
# Everybody uses powers of e = 2.718... instead of powers of 2, because the slope of eˣ is eˣ itself, which keeps the
# formulas of training short. One point now means 2.7 times as much. Points are called **scores**, shares **weights**,
# and the step from one to the other is **softmax**. Of S words with the scores s₁ to s_S, word j gets the weight
#
# $$\frac{e^{s_j}}{e^{s_1} + e^{s_2} + \dots + e^{s_S}}$$
#
# For the scores 3, 1, 0 and 0, say, the powers are 20.1, 2.7, 1 and 1, their sum is 24.8, and the weights are 0.81,
# 0.11, 0.04 and 0.04.
#
# There is a trap in it. A computer's numbers end somewhere.

# %%
for score in (10.0, 88.0, 89.0):
    print(f"e^{score:g} = {torch.tensor(score).exp().item():.3g}")
powers = torch.tensor([89.0, 89.0]).exp()
print("weights of two equal scores, 89 and 89:", (powers / powers.sum()).tolist())

# %% [markdown]
# A `float32` ends at 3.4 · 10³⁸, and e⁸⁹ is more. It becomes `inf` (infinite), and infinite / infinite is `nan`, *not
# a number*. One `nan` is enough to ruin a training run, since every sum with a `nan` in it is `nan`.
#
# The way out uses the last of the three points above: **only differences count.** Subtract the same number from all
# scores of a row, and no weight changes. Subtract the largest score, and the largest power is e⁰ = 1. Nothing can
# overflow any more. (A score far below becomes e⁻¹⁰⁰⁰ = 0, and a weight of 0 is right for it.)
#
# | scores | minus the largest | powers | weights |
# |---|---|---|---|
# | 1003, 1001, 1000, 1000 | 0, -2, -3, -3 | 1, 0.135, 0.050, 0.050 | 0.81, 0.11, 0.04, 0.04 |
#
# A word on axes before you write it. In a table of scores with shape `(2, 3)`, two rows of three, the **last axis**,
# `dim=-1`, runs along a row. `scores.sum(dim=-1)` gives shape `(2,)`, `scores.sum(dim=-1, keepdim=True)` gives `(2,
# 1)`: one number per row, as a column. A `(2, 3)` divided by a `(2, 1)` divides each row by its own number: where an
# axis has length 1, PyTorch repeats it until it fits. That is called **broadcasting**.

# %%
scores = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
print("without keepdim", tuple(scores.sum(dim=-1).shape), " with it", tuple(scores.sum(dim=-1, keepdim=True).shape))
print(scores / scores.sum(dim=-1, keepdim=True))

# %% [markdown]
# Without `keepdim`, the shapes `(2, 3)` and `(2,)` do not fit, and you get an error. Be glad of it: with a *square*
# table there would be none, since PyTorch lines shapes up from the right, and each *column* would be divided by a
# number that belongs to a row.
#
# **Exercise 03.2.** Write `softmax`, for scores of any shape (the `...` in the docstring stands for any axes, or
# none). Use `.exp()` and `.sum()`, not PyTorch's own softmax. `scores.amax(dim=-1, keepdim=True)` is the largest
# score of each row.

# %% exercise: 03.2

# %% check: 03.2
softmax = check("03.2", softmax)

# %% [markdown]
# The scores of "sat" again, now with e, and once more with 1000 points extra for everybody. The weights are the same.

# %%
print(softmax(points))
print(softmax(points + 1000))
assert torch.allclose(softmax(points), softmax(points + 1000))

# %% [markdown]
# ## Queries, keys and values
#
# Who gives the points? We did. A model has to find them itself, for every pair of words. It does it like this. Each
# word carries two more small lists of numbers:
#
# - its **key** says *what I am*,
# - its **query** says *what I am looking for*.
#
# The score is the two multiplied, place by place, and added up: the **dot product**. Say that the first number stands
# for "can sit" and the second for "can be sat on". The cat's key is (3, 1): it sits well, and now and then somebody
# sits on a cat. The mat's key is (1, 3). The other words are neither, (0, 0). The query of "sat" is (1, 0), *who can
# sit?*, and the query of "on" is (0, 1), *what can be sat on?*
#
# | | key of cat (3, 1) | key of mat (1, 3) |
# |---|---|---|
# | query of sat (1, 0) | 1·3 + 0·1 = **3** | 1·1 + 0·3 = **1** |
# | query of on (0, 1) | 0·3 + 1·1 = **1** | 0·1 + 1·3 = **3** |
#
# These are our points. The numbers that are mixed in the end, furry and flat, have a name as well: they are the
# **values**. A key says why to look here; a value says what is found.

# %%
keys = torch.tensor([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
queries = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
sat, on = queries[2], queries[3]
print("scores of sat", [(sat @ key).item() for key in keys])
print("scores of on ", [(on @ key).item() for key in keys])

# %% [markdown]
# And who chooses keys, queries and values? Training does, in a roundabout way. A word enters attention as *one*
# vector x of C numbers. Three tables of learned numbers make three vectors out of it: `q_proj`, `k_proj` and
# `v_proj`. Each is an `nn.Linear` without bias, which means: each new number is a weighted sum of the C old ones, and
# the weights are what is learned. The same three tables serve every word.

# %%
x = torch.randn(6, 4)  # six words, C = 4
q_proj, k_proj, v_proj = (nn.Linear(4, 2, bias=False) for _ in range(3))
print("x", tuple(x.shape), "-> q", tuple(q_proj(x).shape), "k", tuple(k_proj(x).shape), "v", tuple(v_proj(x).shape))

# %% [markdown]
# Chapter 04 puts these tables around attention. This chapter is about what happens between q, k and v, where nothing
# is learned at all.

# %% [markdown]
# ## Why a square root?
#
# Our queries and keys have 2 numbers each. Those of LLaMA have 128. A dot product of longer vectors is a sum of more
# products. Does it get larger? Some products are positive, some negative, and they partly cancel.
#
# **Predict.** Queries and keys of random numbers, each typically about 1 away from 0 (`torch.randn`). With D = 1 a
# typical score is 1 away from 0. How far is it with D = 256? (Typical means the standard deviation: square, average,
# root.)

# %% predict: spread
spread = 16  # 1, 16 or 256

# %% reveal: spread
torch.manual_seed(0)
for D in (1, 16, 256):
    q, k = torch.randn(1000, D), torch.randn(1000, D)
    print(f"D = {D:>3}: typical score {(q @ k.T).std():.0f}")
predicted(spread, 16)

# %% [markdown]
# It is a walk of D steps, each to the left or to the right. After 256 steps you are about 16 from where you started:
# √256. The scores grow with **√D**.
#
# Does that matter? Softmax cares about differences. A score ahead by 1 gets 2.7 times the weight; a score ahead by 16
# gets nine million times the weight. So the wider the vectors, the more the best key takes it all. To measure it,
# take the entropy of the weights: the average of -ln w, each counted with its own weight w. e to the power of it says
# among how many keys the attention is in effect shared, as perplexity did for characters in chapter 01. Equal weights
# on 64 keys give 64; all on one key gives 1.


# %%
def keys_in_use(scores):
    """Among how many keys the softmax of these scores is shared, on average. (T, S) -> a number"""
    weights = scores.softmax(dim=-1)
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(dim=-1)
    return entropy.mean().exp().item()


widths, plain, scaled = (1, 4, 16, 64, 128, 256, 1024), [], []
for D in widths:
    q, k = torch.randn(500, D), torch.randn(64, D)
    plain.append(keys_in_use(q @ k.T))
    scaled.append(keys_in_use(q @ k.T / math.sqrt(D)))

# %% [markdown]
# The blue line falls. With the width of LLaMA, D = 128, a query uses between one and two of the 64 keys. Divided by
# √D, a typical score is 1 away from 0 again, whatever D is, and the orange line stays where it was.

# %%
plots.keys_in_use(widths, plain, scaled, n_keys=64)
assert 1 < plain[widths.index(128)] < 2 and min(scaled) > 30

# %% [markdown]
# Why not let a model look at one key only? At the start of training queries and keys are random, much like these, so
# that one key would be any key. And from there the model could hardly learn. Training follows slopes: *if this score
# were a little higher, how much would the weight change?* For softmax this slope is w · (1 - w). At w = 0.5 it is
# 0.25. At w = 0.999 it is 0.001, and at w = 0.001 as well. A query that is sure from the start, by accident of its
# random numbers, hardly feels that it is wrong. The cell adds up the slopes over all 64 keys of a query.

# %%
torch.manual_seed(0)
for D in (1, 128, 1024):
    q, k = torch.randn(500, D), torch.randn(64, D)
    slopes = [(w * (1 - w)).sum(dim=-1).mean().item() for w in ((q @ k.T).softmax(-1), (q @ k.T / D**0.5).softmax(-1))]
    print(f"D = {D:>4}: slope without the root {slopes[0]:.1f}, with it {slopes[1]:.1f}")
    assert slopes[1] > 0.9

# %% [markdown]
# This is the formula of 2017, unchanged in every LLaMA. The score of a query and a key is
#
# $$\frac{q \cdot k}{\sqrt{D}}$$
#
# **Exercise 03.3.** Write `attend_one`: one query looks at S keys and takes its weighted average of S values. Loops
# are fine. You may use your `softmax`. The values have a width of their own, Dv, since they are never multiplied with
# a query.

# %% exercise: 03.3

# %% check: 03.3
attend_one = check("03.3", attend_one)

# %% [markdown]
# Let "sat" look, with the numbers from above. On paper, with powers of 2 and no root, we had (4, 1).

# %%
print(attend_one(sat, keys, values))

# %% [markdown]
# Almost the same, and that is luck: on paper a point meant a factor of 2, which is e to the power of 0.693. Here a
# point means e to the power of 1/√2 = 0.707. With D = 2 the paper rule and the real one differ by two percent.

# %% [markdown]
# ## All words ask at once
#
# Six queries, six keys: 36 scores. Put the queries into the rows of a table, shape (T, D), and the keys into another,
# (S, D). Then one product gives all scores: `queries @ keys.T`. `.T` swaps rows and columns, so that the keys stand
# in columns, and the number in row i and column j is query i times key j.

# %%
scores = queries @ keys.T
print(scores.int())

# %% [markdown]
# Row "sat" (the third) and row "on" (the fourth) are the ones you know. Softmax of each row gives weights, shape (T,
# S), and `weights @ values` gives an average for each query, (T, Dv).
#
# Real tensors have axes in front of these two: a batch holds several texts, and each text is looked at in several
# ways side by side (the heads of chapter 04). `@` leaves all axes but the last two alone and does one product for
# each text and head. But `.T` would turn *all* axes around. What you want swaps the last two, counted from the end:
# `k.transpose(-2, -1)`.

# %%
q, k = torch.randn(7, 3, 4), torch.randn(7, 5, 4)  # seven texts, three queries, five keys, D = 4
print(tuple(k.transpose(-2, -1).shape), "->", tuple((q @ k.transpose(-2, -1)).shape))

# %% [markdown]
# ## No looking ahead
#
# So far "sat" could look at "mat", which comes after it. While a model reads a finished text, that seems harmless. In
# training it spoils everything. A model is trained on all positions of a text at once: at "the" it is to predict
# "cat", at "cat" it is to predict "sat". If "the" may look at "cat", there is nothing to predict. It copies.
#
# So each query gets a row that says where it may look: at itself and at everything before it. All rows together are
# the **causal mask**. Its entries are True (may look) and False (may not). Some programs use True for *hidden*; read
# their documentation twice.
#
# When a model writes, there is one more thing. It produces one word at a time, and keeps the keys and values of the
# old words in a store, the **cache** (chapter 11). Then there are fewer queries than keys: 2 new words look at 5,
# three of them from the cache. The new words are the *last* ones. So with T queries and S keys, query i sits at
# position **S - T + i**, and the last query is the last key.
#
# | | the (cached) | cat (cached) | sat (cached) | on | the |
# |---|---|---|---|---|---|
# | **on**: query 0, position 5 - 2 + 0 = 3 | ✓ | ✓ | ✓ | ✓ | |
# | **the**: query 1, position 5 - 2 + 1 = 4 | ✓ | ✓ | ✓ | ✓ | ✓ |
#
# **Exercise 03.4.** Write `causal_mask`. Without `n_keys` there is no cache, and there are as many keys as queries.
# `device` says where tensors live, on the CPU or on a graphics card: hand it on, as in `torch.arange(n_keys,
# device=device)`, or leave it alone. Two tools: `torch.arange(2, 5)` is 2, 3, 4, and a comparison of a column with a
# row is a table, by broadcasting: `torch.arange(3)[:, None] > torch.arange(4)` has shape (3, 4).

# %% exercise: 03.4

# %% check: 03.4
causal_mask = check("03.4", causal_mask)

# %% [markdown]
# On the left the mask of a text that is read at once, on the right the same text when two words are new. The right
# one is the bottom of the left one: a cache changes how much is computed, never who may see whom.

# %%
tables = {"All at once: who may see whom?": causal_mask(5), "And if two words are new?": causal_mask(2, 5)}
plots.masks(words[:5], tables)
assert torch.equal(causal_mask(5)[-2:], causal_mask(2, 5))

# %% [markdown]
# ## Hide before softmax, not after
#
# How is a mask applied? Setting forbidden weights to 0 comes to mind. But then the row adds up to less than 1. By how
# much? By what the hidden words would have got. Here is the row of "sat", once for *the cat sat on the mat* and once
# for *the cat sat on the cat*. "sat" is not allowed to see the last word.

# %%
for ending, key in {"mat": keys[5], "cat": keys[1]}.items():
    sentence_keys = torch.cat([keys[:5], key[None]])
    row = softmax(sat @ sentence_keys.T / math.sqrt(2)) * causal_mask(6)[2]  # hidden weights become 0
    print(f"... on the {ending}: {[round(w, 2) for w in row.tolist()]}, sum {row.sum():.2f}")

# %% [markdown]
# Every hidden weight is 0, and yet the row knows how the sentence ends: its sum gives it away. It is a small leak,
# one number per row. Keep it in mind.
#
# So hide **before** softmax: replace forbidden *scores* by something so low that its power of e is 0. Then the rest
# adds up to 1 by itself. How low? Minus infinity is the obvious choice, and it is right, with one exception: a row in
# which everything is hidden.

# %%
nothing_visible = torch.tensor([[0.3, 1.2]])
for low in (-math.inf, torch.finfo(torch.float32).min):
    weights = nothing_visible.masked_fill(torch.tensor([[True, True]]), low).softmax(dim=-1)
    print(f"fill {low:.3g}: weights {weights.tolist()}")
print("0 times nan:", (0 * torch.tensor(math.nan)).item())

# %% [markdown]
# There is no such row in a causal mask, since every word sees itself. But texts in a batch are filled up to the same
# length with *padding*, and padding in front of a text may look nowhere. Minus infinity turns its row into `nan`.
# Nobody reads that row. But in the next layer its key and value are `nan`, and there even a weight of 0 does not
# help: 0 times `nan` is `nan`. One padded word has ruined a whole text.
#
# So the package fills with the lowest finite number that the type has, `torch.finfo(scores.dtype).min`, -3.4 · 10³⁸
# for a `float32`. In a row that has something to see, e to the power of that is 0. In a row that has nothing, all
# scores are equally low, and it becomes a plain average: useless, but a number. Your version may use either.
#
# Two more things that the docstring takes for granted. The mask is **broadcast to (..., T, S)**: it may be `(T, S)`,
# the same for all texts, or `(B, 1, S)`, one row per text for all its queries; PyTorch repeats what is missing. And
# `scores.masked_fill(where, number)` puts the number wherever `where` is True. Our mask says where one *may* look, so
# you need its opposite, `~mask`.
#
# **Exercise 03.5.** Write `attend`: for all queries, any axes in front, and a mask that may be None.

# %% exercise: 03.5

# %% check: 03.5
attend = check("03.5", attend)

# %% [markdown]
# To see the weights inside, use the trick from the beginning: with ones on the diagonal as values, what comes out are
# the weights.


# %%
def weights_of(q, k, mask=None):
    """The weights with which `attend` would mix. (..., T, D), (..., S, D) -> (..., T, S)"""
    return attend(q, k, torch.eye(k.size(-2)).to(q), mask)


open_weights = weights_of(queries, keys)
causal_weights = weights_of(queries, keys, causal_mask(6))

# %% [markdown]
# First without a mask. Row "sat" looks at the cat, row "on" at the mat, and the two "the", whose query is (0, 0), at
# all words alike.

# %%
plots.weights_by_word(words, words, open_weights, "Who looks where, if everybody may see everything?")
assert open_weights[2].argmax() == 1 and open_weights[3].argmax() == 5

# %% [markdown]
# Now with the mask (grey: hidden). "the", at the start, sees itself only. "sat" looks at the cat even more, since the
# mat is gone. And "on" finds nothing to sit on: the mat has not been said yet, and it makes do with the cat. Each row
# still adds up to 1: what is hidden is shared out among the rest.

# %%
plots.weights_by_word(words, words, causal_weights, "Who looks where, if nobody sees ahead?", mask=causal_mask(6))
assert torch.allclose(causal_weights.sum(dim=-1), torch.ones(6)) and causal_weights.triu(1).abs().max() == 0

# %% [markdown]
# This is the package's version, and it is what every LLaMA computes.

# %% show
show("attention.attend")

# %% [markdown]
# PyTorch has the same function, written for speed. It takes the same arguments, and True means the same.

# %%
q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
theirs = F.scaled_dot_product_attention(q, k, v, causal_mask(5))
print("same as PyTorch's:", torch.allclose(attend(q, k, v, causal_mask(5)), theirs, atol=1e-5))
assert torch.allclose(attend(q, k, v, causal_mask(5)), theirs, atol=1e-5)

# %% [markdown]
# ## Texts of different lengths
#
# A batch is one tensor, so its texts must have the same length. Shorter ones are filled up with a special token, the
# padding. It must not be looked at: it is not part of the text.
#
# | | 1st token | 2nd | 3rd | 4th |
# |---|---|---|---|---|
# | first text | 5 | 7 | 2 | *0* |
# | second text | 3 | 1 | *0* | *0* |
#
# With 0 as padding, the second text may look at its first two tokens and at nothing else. Which *axis* of the mask is
# that? Rows are queries, columns are keys. Padding must not be looked **at**, so it is hidden as a key, a column.
# What padding itself looks at, its row, does not matter: nobody reads it.
#
# **Exercise 03.6.** Write `batch_mask`: causal, and without padding. Each text has a mask of its own, so the shape is
# (B, T, T), B being the number of texts. `a & b` is True where both are. `x[:, None, :]` turns (B, T) into (B, 1, T).

# %% exercise: 03.6

# %% check: 03.6
batch_mask = check("03.6", batch_mask)

# %% [markdown]
# The proof that a mask hides something: change what is hidden, and see whether anything moves. Here the values and
# keys under the padding become something else entirely.

# %%
tokens = torch.tensor([[5, 7, 2, 0], [3, 1, 0, 0]])
q, k, v = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.randn(2, 4, 8)
padding = (tokens == 0)[:, :, None]
before = attend(q, k, v, batch_mask(tokens, pad=0))
after = attend(q, k + 100 * padding, v - 100 * padding, batch_mask(tokens, pad=0))
print(f"words moved by at most {(after - before).abs()[tokens != 0].max():.6f}")
assert torch.allclose(after[tokens != 0], before[tokens != 0], atol=1e-5)

# %% [markdown]
# ## Looking into another text
#
# Up to here queries, keys and values came from the same text. That is **self-attention**. But nothing in `attend`
# asks for it. Queries may come from one text, keys and values from another: **cross-attention**. In a translator each
# English word asks the French sentence (chapter 08). T is the length of the one text, S that of the other, and there
# is no causal mask: the French sentence is there from the start.
#
# In this example each French word has a key of its own, a 1 in a place of its own, and each English query is large
# where the key of its partner has the 1. In a trained translator both are learned.

# %%
english, french = ["the", "cat", "sat"], ["le", "chat", "était", "assis"]
partners = torch.tensor([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 3.0, 3.0]])  # "sat" is two words in French
crossed = weights_of(partners, torch.eye(4))
print(tuple(crossed.shape), "rows add up to", [round(total, 2) for total in crossed.sum(dim=-1).tolist()])

# %% [markdown]
# Three rows, four columns: an English word never looks at an English one here. "sat" shares itself between two words,
# in equal parts.

# %%
plots.weights_by_word(english, french, crossed, "Where does an English word look in the French text?")
assert crossed.shape == (3, 4) and torch.allclose(crossed[2, 2], crossed[2, 3])

# %% [markdown]
# ## Does it help?
#
# We said that a choice beats an average. Measure it. The model is a small LLaMA of two layers on the characters of
# TinyShakespeare. Its other parts are opened in chapters 04 to 09; here they stay the same, and only `attend` is
# swapped. Three versions:
#
# - **average**: ignores q and k, and averages what the mask allows;
# - **attention**: yours;
# - **mask after softmax**: the same, but with forbidden weights set to 0 *after* softmax, so that rows add up to less
#   than 1.


# %%
def average(q, k, v, mask):
    weights = mask.to(v)
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def mask_after_softmax(q, k, v, mask):
    return weights_of(q, k) * mask @ v


# %% [markdown]
# **Predict.** After training, each model predicts text that it has never seen, 20,000 characters of it. Which one has
# the lowest loss?

# %% predict: best
best = "mask after softmax"  # "average", "attention" or "mask after softmax"

# %% [markdown]
# The data, as in chapter 01, and a training loop. `Parts` says which parts a model is built from; `partial(Attention,
# attend=...)` is the package's attention layer with another `attend` in it.

# %%
from minillama.assets import corpus
from minillama.attention import Attention
from minillama.block import Parts
from minillama.config import Config
from minillama.data import Batches, split
from minillama.llama import Llama
from minillama.tokenizer import CharTokenizer
from minillama.train import evaluate, next_token_loss

text = corpus(report=lambda line: None)
tokenizer = CharTokenizer.train(text)
training, validation = split(torch.tensor(tokenizer.encode(text)))
length = 32 if FAST else 64
config = Config(65, d_model=length, n_layers=2, n_heads=2, d_ff=2 * length, max_len=length, tied=True)
batches = Batches(training, batch_size=16, length=length, seed=0)


# %%
def train_with(attend, **parts):
    """Train a small LLaMA with this function in place of attention. -> the model, its losses"""
    torch.manual_seed(0)
    model = Llama(config, Parts(attention=partial(Attention, attend=attend), **parts))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 if FAST else 0.003)
    losses = []
    for step in range(200 if FAST else 600):
        tokens, targets = batches(step)
        loss = next_token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


# %% [markdown]
# Train all three. This takes about a minute. (With `MINILLAMA_FAST=1` set, as the tests have it, it takes seconds, and
# the numbers in the text, which come from the full run, no longer fit.)

# %% varies
versions = {"average": average, "attention": attend, "mask after softmax": mask_after_softmax}
models, curves, unseen = {}, {}, {}
for name, version in versions.items():
    models[name], curves[name] = train_with(version)
    unseen[name] = evaluate(models[name], validation[:20_000], length)

# %% [markdown]
# The figure shows the losses in training. The choice beats the average: attention ends clearly lower. And then there
# is the third line. (A bump in such a line, up and soon down again, is a training step that was too long.)

# %% reveal: best
plots.losses(curves, smooth=10)
assert unseen["attention"] < unseen["average"] - (0.03 if FAST else 0.15)
assert unseen["mask after softmax"] < unseen["attention"] - 0.3
predicted(best, min(unseen, key=unseen.get))

# %% varies
for name, loss in unseen.items():
    print(f"{name:<20} {loss:.2f} nats per character on text it has never seen")

# %% [markdown]
# Less than 0.1 nats per character: the broken model gives the right character, one of 65, a probability of more than
# 90 %. And that on text that it has never seen. Nobody can do that, for nobody knows which of many possible words
# Shakespeare wrote next.
#
# It does not predict. It has learned to read the next character out of those sums. Take that away: show the models
# the text up to some place and *nothing* after it, as when they write, and ask for the next character.

# %% varies
torch.manual_seed(1)
starts = torch.randint(len(validation) - length - 1, (1000,)).tolist()
beginnings = torch.stack([validation[start : start + length] for start in starts])
answers = torch.stack([validation[start + length] for start in starts])
honest = {}
for name, model in models.items():
    with torch.no_grad():
        honest[name] = F.cross_entropy(model(beginnings)[:, -1], answers).item()
    print(f"{name:<20} {honest[name]:.2f} nats on the next character, with nothing after it")
assert honest["mask after softmax"] > honest["average"] + 0.1

# %% [markdown]
# Now the broken model is the worst of the three, far behind the plain average. The answer was there to be read, so it
# had no reason to learn anything else. **A loss that falls proves nothing. A loss that is too good is an alarm.**

# %% [markdown]
# ### What the average was missing
#
# Our LLaMA tells attention one thing more: how far apart two words stand (chapter 06). Was it that, or was it the
# choice? Train once more, with a model that gives no positions.

# %% varies
from minillama.position import NoPositions

blind, _ = train_with(attend, position=NoPositions)
without_positions = evaluate(blind, validation[:20_000], length)
print(f"attention without positions  {without_positions:.2f} nats")
assert without_positions > unseen["attention"] + 0.05

# %% [markdown]
# No better than the average, in as many steps. For characters, *what stands one place to my left?* is the question
# that matters, and attention by itself has no words for it. `attend` does not see the order of what it looks at:
# shuffle keys and values together, and every query gets exactly what it got before.

# %%
shuffled = [3, 0, 5, 1, 4, 2]
same = torch.allclose(attend(queries, keys, values), attend(queries, keys[shuffled], values[shuffled]))
print("on sat mat the the cat:", "the same averages" if same else "other averages")
assert same

# %% [markdown]
# A choice by content *and* a sense of place: both are needed, and the second one is chapter 06.

# %% [markdown]
# ## Four ways to break it
#
# Here are four versions with one error each. All four run, and give tensors of the right shape.
#
# 1. **Softmax over the queries.** The columns add up to 1 instead of the rows. (The weights with queries and keys in
#    each other's place, turned back.)
# 2. **Mask after softmax.** You know it.
# 3. **Diagonal one too far.** Each query gets the row of the next one, and sees one word ahead.
# 4. **Diagonal one too short.** Each query gets the row of the one before, and can't see itself. The first one sees
#    nothing.


# %%
def softmax_over_queries(q, k, v, mask):
    return weights_of(k, q, mask.mT).mT @ v


def one_too_far(q, k, v, mask):
    return attend(q, k, v, torch.cat([mask[..., 1:, :], mask[..., -1:, :]], dim=-2))


def one_too_short(q, k, v, mask):
    return attend(q, k, v, torch.cat([torch.zeros_like(mask[..., :1, :]), mask[..., :-1, :]], dim=-2))


# %% [markdown]
# Their losses, after the same training as above. It takes another minute.

# %% varies
bugs = {"softmax over queries": softmax_over_queries, "mask after softmax": mask_after_softmax,
        "one too far": one_too_far, "one too short": one_too_short}  # fmt: skip
for name in ("softmax over queries", "one too far", "one too short"):
    models[name], curves[name] = train_with(bugs[name])
    unseen[name] = evaluate(models[name], validation[:20_000], length)
for name in ("attention", *bugs):
    print(f"{name:<20} {unseen[name]:.2f} nats per character")
assert max(unseen["softmax over queries"], unseen["one too far"]) < unseen["attention"] - 0.3

# %% [markdown]
# Three of them "beat" attention by far. The fourth has a loss like attention's own; nobody would notice. So do not
# ask the loss. Ask directly: **change a later word, and see whether anything before it moves.** `certify` does this,
# and tests a few other properties in the same way, in a fraction of a second and without any training.

# %%
from minillama.certify import certify

tiny = Config(vocab_size=65, d_model=32, n_layers=2, n_heads=2, d_ff=64, max_len=32)
for name, version in {"attention": attend, **bugs}.items():
    torch.manual_seed(0)
    certificate = certify(Llama(tiny, Parts(attention=partial(Attention, attend=version))))
    print(f"{name:<20}", "FAILED: " + ", ".join(certificate.failed) if certificate.failed else "certified")
    if name != "one too short":  # what that one does depends on how your attend treats a row that sees nothing
        assert ("causal" in certificate.failed) == (name != "attention")

# %% [markdown]
# "causal" is the property we asked for, and all four fail: they can see the future. For the last one this is a
# surprise. How can a mask that hides *more* let something through? Its first row hides everything, and a row that
# hides everything is a plain average of all words, later ones included. One bad row is enough, since everyone may
# look at the first word. (With minus infinity as the fill that row is `nan`, and you notice. PyTorch's own function
# makes it 0, and then nothing leaks.)
#
# If "padding ignored" stands in your own first line, your `attend` gives `nan` where nothing may be looked at, as
# minus infinity does: padding in front of a text has ruined it, as above.
#
# Here is the whole certificate of the second one. "cached equals uncached" fails because a model that writes word by
# word has no future to peek at, and so computes something else.

# %% varies
print(certify(Llama(tiny, Parts(attention=partial(Attention, attend=mask_after_softmax)))))

# %% [markdown]
# Look at the size of the number in the first line. In an untrained model the leak is about a thousandth of what the
# outputs vary by. Training found it and made it the only thing that counts.

# %% [markdown]
# ## What a row of weights means, and what it does not
#
# A row of weights says **where the numbers of this average came from**, and how much of each. What did our model
# learn to look at? Read the weights off while it reads a sentence.

# %%
sentence, seen = "The cat sat on the mat", []


def watching(q, k, v, mask):
    seen.append(weights_of(q, k, mask)[0])
    return attend(q, k, v, mask)


for layer in models["attention"].layers:
    layer.attention.attend = watching
with torch.no_grad():
    models["attention"](torch.tensor([tokenizer.encode(sentence)]))
previous = [heads.diagonal(-1, -2, -1).mean(dim=-1) for heads in seen]  # the weight of the character before

# %% [markdown]
# The figure shows one of its four tables of weights: in the second layer, the one that looks most at the character
# just before. The dark squares lie on the diagonal or not far below it: a look at the character itself, or a few back.
# Every run learns something else; in one of ours this head looked at the last vowel or blank, the "t" of "cat" at "a",
# the "c" at the blank before it. Nobody had told it what a vowel is.

# %%
head = previous[1].argmax()
characters = [character.replace(" ", "␣") for character in sentence]
title = "What has one head of the second layer learned to look at?"
plots.weights_by_word(characters, characters, seen[1][head], title, mask=causal_mask(22), unit="character")
assert previous[1][head] > 0.2

# %% [markdown]
# It is tempting to read such a picture as an explanation: *the model said "t" because it looked at "a"*. Three
# reasons to be careful.
#
# **A weight is not a contribution.** What arrives is weight times value. Suppose a query spends 65 % of its attention
# on the second "the", whose value is (0, 0). The lower bars show what it gets from each word: from "the" nothing.

# %%
row = torch.tensor([0.05, 0.10, 0.05, 0.05, 0.65, 0.10])
contributions = row * values.norm(dim=1)  # weight times length of the value
plots.weight_and_contribution(words, row, contributions)
assert row.argmax() == 4 and contributions[4] == 0

# %% [markdown]
# Trained models do this too. Weights must add up to 1, so a query that wants nothing has to put them somewhere, often
# on the very first token (Xiao et al., below). In BERT, large weights on periods and separators go together with
# small vectors (Kobayashi et al.).
#
# **Other weights, same result.** The two "the" have the same value. Move the 65 % from one to the other: the picture
# changes, the average does not. Whoever explains the result by the picture must explain it by either.

# %%
other_row = row[[4, 1, 2, 3, 0, 5]]
for weights in (row, other_row):
    print([round(w, 2) for w in weights.tolist()], "->", [round(x, 2) for x in (weights @ values).tolist()])
assert torch.allclose(row @ values, other_row @ values)

# %% [markdown]
# **Deeper down, a place is not a word.** In the second layer the vector at "sat" is no longer "sat": the first layer
# has mixed the cat into it. Let "on" put all its weight on "sat" there, and none on the cat. What does it get?

# %%
first_layer = attend(queries, keys, values, causal_mask(6))
only_sat = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
furry, flat = (only_sat @ first_layer).tolist()
print(f"furry {furry:.1f}, flat {flat:.1f}")
assert furry > 5

# %% [markdown]
# ## What it costs
#
# Every query meets every key. (A causal mask uses only half of the table. Ours computes all of it and hides the
# rest.)
#
# **Predict.** Some computer needs 1 second for the attention of a text of 1,000 tokens. How many seconds for 10,000
# tokens?

# %% predict: seconds
seconds = 100  # 10, 100 or 1000


# %% reveal: seconds
def multiplications(T, D=128):
    """For the T * T scores, and for the weighted averages of values."""
    return T * T * D + T * T * D


for T in (1_000, 10_000, 100_000):
    print(f"T = {T:>7,}: {multiplications(T):>20,} multiplications, {T * T:>14,} weights")
predicted(seconds, round(multiplications(10_000) / multiplications(1_000)))

# %% [markdown]
# Ten times as long, a hundred times the work, and a hundred times as many weights. Everything else in a LLaMA works
# on one token at a time, and costs ten times as much for ten times the text. Measure both: `attend`, and one
# `nn.Linear`, for texts of growing length.


# %% varies
def fastest(task):
    """The shortest of seven runs, in seconds: other programs can only make it slower."""
    durations = []
    for _ in range(7):
        start = time.perf_counter()
        task()
        durations.append(time.perf_counter() - start)
    return min(durations)


lengths, seconds_for = (256, 512, 1024, 2048), {"attend": [], "one linear layer": []}

# %% [markdown]
# Both axes are logarithmic, so each step to the right is a text twice as long. The line of `attend` rises at least
# twice as steeply: four times the time for twice the text, by counting, and more than that once the table of weights
# no longer fits into the processor's own small memory.

# %% varies
linear = nn.Linear(256, 256)
with torch.no_grad():
    for T in lengths:
        q, k, v, x, mask = *torch.randn(3, T, 64), torch.randn(T, 256), causal_mask(T)
        seconds_for["attend"].append(fastest(partial(attend, q, k, v, mask)))
        seconds_for["one linear layer"].append(fastest(partial(linear, x)))
plots.times(lengths, seconds_for)
growth = {name: times[-1] / times[0] for name, times in seconds_for.items()}
for name, times in growth.items():
    print(f"{name:<16} {times:.0f} times the time for 8 times the text")
assert growth["attend"] > 1.5 * growth["one linear layer"]

# %% [markdown]
# The weights need not all be there at the same time. Programs such as FlashAttention go through the keys in pieces
# and keep only running sums, so that memory grows with T and not with T². The work stays T².

# %% [markdown]
# ## What LLaMA 1, 2 and 3 do here
#
# The formula is the same in all of them, and the same as yours. What changed is how far they look.
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3, 3.1 (2024) |
# |---|---|---|---|
# | score | q · k / √D | the same | the same |
# | D, width of a query | 128 | 128 | 128 |
# | heads × layers, smallest | 7B: 32 × 32 | 7B: 32 × 32 | 8B: 32 × 32 |
# | heads × layers, largest | 65B: 64 × 80 | 70B: 64 × 80 | 405B: 128 × 126 |
# | longest text in training | 2,048 tokens | 4,096 | 8,192, later 131,072 |
# | mask | causal | causal | causal, one document at a time |
#
# Sources: [LLaMA](https://arxiv.org/abs/2302.13971), section 2; [Llama 2](https://arxiv.org/abs/2307.09288), section
# 2.2; [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), sections 3.2 and 3.4; and the `config.json` of
# the models. Each head in each layer has a table of weights of its own. LLaMA 1 already neither stored those tables
# nor computed the scores that the mask hides (its section 2.4).
#
# In training a window is filled with several documents, one after the other. Llama 3 hides them from each other: a
# mask like your `batch_mask`, with "same document" instead of "no padding". How many weights is that, for one text of
# full length?

# %%
from minillama.config import PRESETS

for name in ("llama-1-7b", "llama-2-7b", "llama-3-8b", "llama-3.1-8b", "llama-3.1-405b"):
    llama = PRESETS[name]
    n_weights = llama.max_len**2 * llama.n_heads * llama.n_layers
    print(f"{name:<15} D = {llama.head_dim}, T = {llama.max_len:>7,}: {n_weights:.1e} weights in one text")
assert all(PRESETS[name].head_dim == 128 for name in PRESETS if name.startswith(("llama-1", "llama-2", "llama-3.1")))

# %% [markdown]
# ## Your attention in a LLaMA
#
# Plug it in. `my_parts()` builds a model's parts from what you have written so far, and takes the package's for the
# rest.

# %%
torch.manual_seed(0)
llama = Llama(tiny, my_parts())
certificate = certify(llama)
print("causal:", "causal" not in certificate.failed)
assert "causal" not in certificate.failed

# %% [markdown]
# Your `attend` stays in it: chapter 04 puts heads around it, and at the end of the course it runs inside a chat
# model.

# %% [markdown]
# ## What you have now
#
# - Attention is a weighted average. The weights are the softmax of q · k / √D.
# - The root keeps the scores at a size where softmax neither takes all nor forgets how to learn.
# - Hide before softmax. A mask is a table: row = who looks, column = what is looked at.
# - A row of weights says where an average came from. It is not the reason for what the model says.
# - It costs T².
# - Test what must not matter by changing it. The loss won't tell you.

# %% [markdown]
# ## Further reading
#
# - *Attention Is All You Need*, Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, 2017.
#   Section 3.2.1 is your `attend`; a footnote there gives the reason for the root.
# - *Neural Machine Translation by Jointly Learning to Align and Translate*, Bahdanau, Cho and Bengio, 2014. Where it
#   began: cross-attention in a translator, with a small network in place of the dot product.
# - *Attention is not Explanation*, Jain and Wallace, 2019, and the answer, *Attention is not not Explanation*,
#   Wiegreffe and Pinter, 2019.
# - *Attention is Not Only a Weight: Analyzing Transformers with Vector Norms*, Kobayashi, Kuribayashi, Yokoi and
#   Inui, 2020. Weight times length of the value.
# - *Efficient Streaming Language Models with Attention Sinks*, Xiao, Tian, Chen, Han and Lewis, 2023. Why so much
#   attention goes to the first token.
# - *FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness*, Dao, Fu, Ermon, Rudra and Ré, 2022.
#
# Next, in chapter 04, one word asks several questions at once: heads, and the three tables that make q, k and v.
