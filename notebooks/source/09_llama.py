# %% [markdown]
# # 09 · LLaMA: the parts become a model
#
# After this chapter you can put a whole LLaMA together, say what its loss must be before the first step, work out on
# paper what a model of 70 billion numbers holds and what a token costs it, read LLaMA 1, 2, 3, 3.1 and 3.2 as a
# handful of changed sizes, prove in seconds that a model keeps its promises, and run the weights of one LLaMA in
# another program, digit for digit.
#
# Reading takes about 90 minutes, the seven exercises about as long again. Chapter 07 is enough to follow it: the block
# and what is in it. (Chapter 08 may wait.) From chapter 03 you need the causal mask, and from chapter 06 that RoPE
# rotates queries and keys.

# %%
import dataclasses
import math
import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.attention import Attention, attend, causal_mask
from minillama.block import Block, Parts
from minillama.cache import KVCache
from minillama.config import PRESETS, Config
from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.plots import llama as plots

torch.set_printoptions(precision=3, sci_mode=False)

# %%
from itertools import pairwise

from minillama import assets
from minillama.certify import certify
from minillama.data import Batches, split
from minillama.generate import sample_text
from minillama.info import costs, quantity
from minillama.norm import RMSNorm
from minillama.position import RoPE
from minillama.saving import open_checkpoint
from minillama.tokenizer import CharTokenizer
from minillama.train import AdamW, evaluate, next_token_loss

# %% [markdown]
# ## A text on its way through
#
# You have all the parts. Follow one short text through them, by hand, before anything is called a model. The sizes are
# tiny: C = 8 numbers per token, two blocks.

# %%
text = assets.corpus()
tokenizer = CharTokenizer.train(text)
train_tokens, validation_tokens = split(torch.tensor(tokenizer.encode(text)))
tokens = torch.tensor([tokenizer.encode("To be")])
print(tokens, tuple(tokens.shape))

# %% [markdown]
# Five numbers from 0 to 64: B = 1 text of T = 5 tokens. The first part is a table with 65 rows of 8 numbers, one row
# per character. Token 32 gets row 32. That is all an **embedding** does: it looks up a row.

# %%
torch.manual_seed(0)
table = nn.Embedding(65, 8)
x = table(tokens)
print(tuple(x.shape), "the first row is row 32 of the table:", torch.equal(x[0, 0], table.weight[32]))

# %% [markdown]
# Then the blocks, one after the other. Each takes the stream x, of shape (B, T, C), and hands on x plus what its
# attention and its feed-forward have to say (chapter 07). The attention needs to know two things that x does not
# carry: who may look at whom, which is the causal mask, and where each token stands, for RoPE to rotate. Everything
# else the block knows by itself.

# %%
config = Config(vocab_size=65, d_model=8, n_layers=2, n_heads=2, d_ff=12)
rope, positions = RoPE(config), torch.arange(5)
blocks = [Block(config, Parts()) for _ in range(2)]
for block in blocks:
    x = block(x, causal_mask(5), rotate=partial(rope.rotate, positions=positions))
print(tuple(x.shape))

# %% [markdown]
# (`partial(f, positions=positions)` is the function f with one of its arguments already filled in. The attention will
# call it with queries, and again with keys; it need not know about positions.)
#
# What comes out is still 8 numbers per token, and we want 65 scores, one for each character that may come next. So one
# more norm, since the stream has grown on its way, and then a matrix from 8 to 65: the **head**.

# %%
norm, head = RMSNorm(8), nn.Linear(8, 65, bias=False)
logits = head(norm(x))
print(tuple(logits.shape))

# %% [markdown]
# These scores are called **logits**. `logits[0, 4]` are the 65 scores for what comes after "To be", and `logits[0, 0]`
# those for what comes after "T". A softmax makes probabilities of them; the model leaves that to the loss and to
# whoever lets it write.
#
# That is a LLaMA. Read the figure from bottom to top, as the text goes: every part, the shape that comes out of it,
# and how many numbers there are to learn in it.


# %%
def size(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


stages = [('text: "To be"', "5 characters", None), ("token ids", "(1, 5)", None)]
stages += [("embedding", "(1, 5, 8)", size(table))]
stages += [(f"block {i + 1}: attention, feed-forward", "(1, 5, 8)", size(block)) for i, block in enumerate(blocks)]
stages += [("norm", "(1, 5, 8)", size(norm)), ("head", "(1, 5, 65)", size(head)), ("logits", "65 scores each", None)]
plots.way_of_a_text(stages, "What happens to a text on its way through LLaMA?")
assert sum(count or 0 for _, _, count in stages) == 2168

# %% [markdown]
# ## Put it together
#
# Now the same as a class that works for any sizes and any parts. Its `forward` has four arguments; here is what they
# are for.
#
# - **tokens**, shape (B, T).
# - **positions**: where each token stands, 0, 1, 2, ... unless somebody says otherwise. Two rows of different
#   positions are needed where one text of a batch has padding in front.
# - **mask**: which keys may be looked at, besides the causal mask. It hides padding, for instance. It is joined to the
#   causal mask with `&`: a key is seen if *both* allow it. So a mask takes away and never adds. The keys' axis comes
#   last: a mask for B texts that is the same for all heads and all queries has shape (B, 1, 1, S), and broadcasting
#   repeats it.
# - **cache**: a store for keys and values. While a model writes, token after token, the old tokens' keys and values
#   don't change, so they are kept (chapter 11 builds it). Here you only need to know three things: `len(cache)` is how
#   many tokens it has seen; `cache[i]` is the part that belongs to layer i; and a layer that is called with
#   `cache=cache[i]` looks things up there and adds its own by itself.
#
# (In Python an empty cache counts as False, as an empty list does. To ask whether there is a cache, write `cache is
# not None`.)
#
# By hand: a cache has seen 4 tokens, and 2 more come. Then T = 2 queries look at S = 6 keys, the new tokens stand at
# positions 4 and 5, and the causal mask has two rows:

# %%
T, S = 2, 6
print(torch.arange(S - T, S), causal_mask(T, S).int(), sep="\n")

# %% [markdown]
# The parts come as classes, in `parts` (chapter 07). `parts.block(config, parts)` makes a block.
# `parts.position(config)` makes the one that knows about positions, and it has two sides, because there are two ways
# to say where a token stands (chapter 06):
#
# - `position.add(x, positions)` gives back the embeddings, with something added if this is a kind that adds. RoPE adds
#   nothing, but it wants to be called: it works out its angles there, once for all layers.
# - `position.rotate(x, positions)` rotates queries or keys. A kind that does not rotate has `rotate = None`, and then
#   the layers must not be handed any `rotate` at all.
#
# A layer is called with x and with the mask, joined as above: `layer(x, may_look)`. What only some attentions
# understand travels as named arguments: `layer(x, may_look, **inner)`, where `inner` is a dict with `rotate` in it, or
# `cache`, or both, or nothing. (`**` hands a dict over as named arguments. A learner's first attention, which takes
# neither, fits as well.)
#
# In `__init__`, three things need care:
#
# - **`nn.ModuleList`** and no plain list for the layers. PyTorch looks for weights in modules, and a plain list is
#   none: the weights in it would be trained by nobody and saved by nobody.
# - **The first weights.** `_init_weights` is given: it draws the first weights of one module. Every module has a
#   method `apply(f)`, which calls f on all modules inside it, all that are there *at that moment*. So apply it to the
#   whole model when the model is complete. Why the weights are drawn as they are is the next section.
# - **The tie.** With `config.tied`, embedding and head share one matrix: both are (V, C). Assign one to the other, as
#   in `head.weight = table.weight`; that makes them the same object, no copy. Do it last.
#
# Use these names, since the names of the weights follow from them and files of weights are full of them:
# `self.config`, `self.parts`, `self.embed_tokens`, `self.position`, `self.layers`, `self.norm`, `self.lm_head`. (The
# final norm gets its eps from the config, as in the block: `parts.norm(config.d_model, eps=config.norm_eps)`.)
#
# `n_parameters` is a property, so that one writes `llama.n_parameters` without parentheses. `p.numel()` is the number
# of numbers in a tensor, and `self.parameters()` lists every tensor once, a tied one too.
#
# **Exercise 09.1.** Write `Llama`: `__init__`, `n_parameters` and `forward`. A mask whose `dtype` is not `torch.bool`,
# or which has not exactly four axes (`mask.ndim`), is refused: `raise ValueError(...)`, with a message that says what
# came and what was expected.

# %% exercise: 09.1

# %% check: 09.1
Llama = check("09.1", Llama)

# %% [markdown]
# Your model is made of your own parts as far as you have them. `my_parts()` collects what has passed its check, in
# this chapter and in the others, and says which is whose.

# %% varies
parts = my_parts()
tiny = Llama(PRESETS["tiny"], parts)
print(f"\n{tiny.n_parameters:,} numbers to learn")

# %% [markdown]
# ## The first loss
#
# A model that knows nothing should say so: all 65 characters alike, a loss of ln 65 = 4.17 (chapter 01). Is a model
# with random weights such a model? `_init_weights` draws them with a deviation of 0.02. PyTorch's own choice for an
# embedding is a deviation of 1. It looks like a matter of taste.
#
# **Predict.** A fresh model of C = 64, embedding and head tied, its embedding drawn with deviation 1. What is its loss
# on Shakespeare, before the first step: about 4, about 8, or about 60?

# %% predict: start
start = 60  # 4, 8 or 60

# %% reveal: start
batches = Batches(train_tokens, batch_size=16, length=64, seed=0)


def fresh(deviation, tied=True, d_model=64):
    torch.manual_seed(0)
    model = Llama(Config(vocab_size=65, d_model=d_model, n_layers=3, n_heads=2, d_ff=176, max_len=64, tied=tied), parts)
    nn.init.normal_(model.embed_tokens.weight, std=deviation)
    nn.init.normal_(model.lm_head.weight, std=deviation)
    return model


tokens, targets = batches(0)
with torch.no_grad():
    loud, usual = (next_token_loss(fresh(deviation)(tokens), targets).item() for deviation in (1.0, 0.02))
print(f"deviation 1: {loud:.0f} nats, deviation 0.02: {usual:.1f} nats")
predicted(start, round(loud), within=1.1)

# %% [markdown]
# Sixty nats: this model gives the right character a probability of e⁻⁶⁰. It is not ignorant. It is certain, and wrong.
# Certain of what? The figure has its probabilities after the letter "e", for all 65 characters, and below those of the
# model with 0.02. Look for the tall bar.

# %%
e = torch.tensor([tokenizer.encode("e")])
with torch.no_grad():
    guesses = {f"deviation {d:g}": fresh(d)(e)[0, -1].softmax(-1).tolist() for d in (1.0, 0.02)}
plots.first_guesses(sorted(set(text)), guesses, last="e")
certain = guesses["deviation 1"][tokenizer.encode("e")[0]]
assert certain > 0.99 and max(guesses["deviation 0.02"]) < 0.1

# %% [markdown]
# It expects the letter it has just read. With a tied head that is no accident. The score of a character is its row of
# the table times what comes out of the norm; and in a fresh model what comes out of the norm is, for the most part,
# the last character's own row, since the small random blocks have added next to nothing. A row times itself is large:
# no product in the sum is negative.
#
# How large? Let the numbers of the table have deviation s. By hand, with C = 4 and the row [1, -1, 1, -1], where s =
# 1:
#
# - the norm divides by the row's typical size: by s, so that what the head reads has size 1
# - the row's own score is (1 · 1 + 1 · 1 + 1 · 1 + 1 · 1) = 4
# - with [0.1, -0.1, 0.1, -0.1], where s = 0.1, the norm makes [1, -1, 1, -1] of it again, and the score is 4 · 0.1 =
#   0.4
#
# In general: C products, each about s² / s. So the last token's **own score is C · s**, which is 64 for the loud model
# and 64 · 0.02 = 1.3 for the quiet one. The scores of all *other* characters are sums of C products of random sign: 0
# on average, √C · s away from it (the walk of chapter 03), which is 8 for the loud model and 0.16 for the quiet one.

# %%
rows = fresh(1.0).embed_tokens.weight.detach()
scores = RMSNorm(64)(rows) @ rows.T
own, others = scores.diagonal(), scores[~torch.eye(65, dtype=torch.bool)]
print(f"own score {own.mean():.0f}, others {abs(others.mean()):.0f} on average, typically {others.std():.0f} away")
assert 60 < own.mean() < 68 and 7 < others.std() < 9

# %% [markdown]
# A loss is ln(sum of e^score) minus the target's score (chapter 01). The target is some other character; its score is
# 0 on average. So the first loss is the logarithm of the sum. The own score gives it a term e^(C · s). Each of the
# other V - 1 gives e^score with a score about 0. But the average of e^score is *more* than e⁰ = 1, as ups count more
# than downs: e¹ = 2.7 and e⁻¹ = 0.4 have the average 1.5. For random scores of deviation d the average is e^(d²/2),
# and here d² = C · s². Measure it, as long as d is not large:

# %%
torch.manual_seed(0)
for d in (0.5, 1.0, 1.5):
    measured = (d * torch.randn(1_000_000)).exp().mean()
    print(f"d = {d}: average of e^score {measured:.2f}, e^(d²/2) = {math.exp(d * d / 2):.2f}")
    assert abs(measured / math.exp(d * d / 2) - 1) < 0.03

# %% [markdown]
# Put together: *first loss = ln( e^own + (V - 1) · e^(C · s² / 2) )*. If head and embedding are two matrices, the last
# token is one like all others, and its term is e^(C · s² / 2) too. By hand, for C = 64, s = 0.02, not tied: C · s² / 2
# = 0.013, and the loss is ln 65 + 0.013 = 4.19.
#
# **Exercise 09.2.** Write `expected_first_loss`. Mind the overflow: e⁴⁰⁹⁶ is more than Python can hold. You met the
# way out in exercise 03.2: ln(e^a + e^b) = m + ln(e^(a - m) + e^(b - m)), where m is the larger of the two.

# %% exercise: 09.2

# %% check: 09.2
expected_first_loss = check("09.2", expected_first_loss)

# %% [markdown]
# Does the formula hold? Measure fresh models, with their blocks and on real text, from deviation 0.005 to 1.

# %%
deviations = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
kinds = {"tied": True, "two matrices": False}
measured, formula = {}, {}
with torch.no_grad():
    for name, tied in kinds.items():
        measured[name] = [next_token_loss(fresh(s, tied)(tokens), targets).item() for s in deviations]
        formula[name] = [expected_first_loss(65, 64, s, tied) for s in deviations]

# %% [markdown]
# In the figure the points are measured; the lines are your formula. Follow the lower line up to 0.2 or so, and the
# upper one all the way.

# %%
plots.first_losses(deviations, measured, formula, math.log(65), usual=0.02)
assert all(abs(m / f - 1) < 0.08 for m, f in zip(measured["tied"], formula["tied"], strict=True))
assert measured["two matrices"][-1] < 0.7 * formula["two matrices"][-1]

# %% [markdown]
# Tied, the formula is within 8 % everywhere. Not tied it fails at the loud end, where it says 36: with scores 8 away
# from 0, the average of e^score is made by scores so rare that 65 characters don't have one. And it holds for small
# models only. In a wide one the blocks are heard from the first step on: 0.02 times the root of the width is no longer
# small, and the last token's row is one voice among many.

# %%
with torch.no_grad():
    wide = next_token_loss(fresh(0.02, d_model=256)(tokens), targets).item()
print(f"C = 256, tied, 0.02: measured {wide:.1f}, formula {expected_first_loss(65, 256, 0.02, True):.1f}")
assert wide < 4.7

# %% [markdown]
# A formula has a range, and it is worth knowing.
#
# At 0.02 and below, both lines lie flat at ln 65. That is what 0.02 is for, and it makes the cheapest test there is:
# **before you train a model, look at its first loss. It must be near ln V.** If it is not, something is wrong with the
# weights, with the targets, or with the loss, and no training will tell you as clearly. For Llama 2 ln V is ln 32,000 =
# 10.4, for Llama 3 it is ln 128,256 = 11.8.

# %%
for V in (65, 32_000, 128_256):
    print(f"V = {V:>7,}: ln V = {math.log(V):5.2f}")

# %% [markdown]
# ### What does a loud start cost?
#
# Everything is the same but the first weights: text, steps, learning rate. Each curve is the average of the last ten
# steps.


# %%
def trained(model, steps, lr=4e-3):
    optimizer = AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * (1 - 0.9 * step / steps)
        loss = next_token_loss(model(batches(step)[0]), batches(step)[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [sum(losses[max(0, i - 9) : i + 1]) / len(losses[max(0, i - 9) : i + 1]) for i in range(steps)]


# %%
steps = 40 if FAST else 400
starts = {"deviation 1, tied": (1.0, True), "0.02, tied": (0.02, True), "0.02, two matrices": (0.02, False)}
curves = {name: trained(fresh(deviation, tied), steps) for name, (deviation, tied) in starts.items()}

# %% [markdown]
# The axis is logarithmic. See how long the loud one takes to get to where the others begin, and whether it catches up.

# %% varies
plots.two_starts(curves, math.log(65))
for name, curve in curves.items():
    print(f"{name:20} {curve[0]:4.1f} -> {curve[-1]:.2f}")
late = next(i for i, loss in enumerate(curves["deviation 1, tied"]) if loss < math.log(65)) if not FAST else 0
assert curves["deviation 1, tied"][-1] > curves["0.02, tied"][-1] + 0.03
assert curves["0.02, two matrices"][-1] < curves["0.02, tied"][-1]
assert FAST or 10 < late < 200

# %% [markdown]
# The loud model first has to unlearn its certainty, step by step. When it arrives at ln 65, the others have been
# learning for a while, and at the end it is still behind. A large run that starts like this burns real money. And
# remember how it looked: a loss that falls from sixty to six makes a splendid curve.
#
# ## Tied or not?
#
# Of the two quiet models in the figure, one has an embedding and a head, the other one matrix for both. The one with
# two matrices did better here. It has 4,160 numbers more, and what a row *means when it is read* need not be what makes
# it *to be expected*. So what speaks for the tie? The matrix has V · C numbers, and in a small model with a large
# vocabulary that is much of the whole. (M is a million, G a billion. SmolLM2 is not of the family, but built like a
# LLaMA.)

# %%
for name in ("smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "llama-3.1-405b"):
    config = PRESETS[name]
    matrix, n = config.vocab_size * config.d_model, costs(config).n_parameters
    print(f"{name:15} {'tied' if config.tied else 'two ':5} one such matrix: {matrix / n:5.1%} of {quantity(n)}")

# %% [markdown]
# Llama 3.2 1B would have a fifth more numbers with a second matrix, so it ties. In a model of 405 billion nobody would
# notice, and it has two.
#
# ## How many numbers?
#
# "7B" is a name. How many numbers are there really, and where? Work it out for the smallest model that has everything:
# V = 5, C = 4, one block with two heads of D = 2 (H = G = 2), F = 3.
#
# | part | shape | numbers |
# |---|---|---|
# | embedding | V × C | 5 · 4 = 20 |
# | q_proj, o_proj | C × (H · D), each | 2 · 4 · 4 = 32 |
# | k_proj, v_proj | C × (G · D), each | 2 · 4 · 4 = 32 |
# | gate, up, down | C × F, each | 3 · 4 · 3 = 36 |
# | two norms | C, each | 2 · 4 = 8 |
# | the norm at the end | C | 4 |
# | head, if not tied | V × C | 20 |
#
# Together 152. H is the number of query heads, `n_heads`. G is the number of heads that have keys and values of their
# own, `n_kv_heads` (chapter 04): from Llama 2 70B on, it is 8. D is `head_dim`; usually H · D = C, but a config may say
# otherwise. RoPE has no numbers to learn. (In chapter 05 you counted part by part. Now it is the whole, and you will
# use it.)
#
# **Exercise 09.3.** Write `count_parameters`, for any config. Work it out, build nothing: you will be asked about
# models of 70 billion numbers, whose weights would fill 280 billion bytes.

# %% exercise: 09.3

# %% check: 09.3
count_parameters = check("09.3", count_parameters)

# %% [markdown]
# The sizes of all LLaMAs are in `PRESETS`. Building one with 405 billion numbers takes more memory than any machine
# you are likely to have, and counting it takes no time. Your count, what it is called, and what the papers say (LLaMA:
# table 2; the others in their names only):

# %%
in_the_paper = {"llama-1-7b": 6.7, "llama-1-13b": 13.0, "llama-1-33b": 32.5, "llama-1-65b": 65.2, "llama-2-70b": 70,
                "llama-3-8b": 8, "llama-3-70b": 70, "llama-3.1-405b": 405}  # fmt: skip
for name, billions in in_the_paper.items():
    n = count_parameters(PRESETS[name])
    print(f"{name:15} {n:>15,}   in the paper {billions} billion")
    assert abs(n / 1e9 / billions - 1) < 0.03

# %% [markdown]
# So names are rounded generously: "7B" is 6.7, "33B" is 32.5, and "70B" was 69 in Llama 2 and is 70.6 in Llama 3,
# whose vocabulary is larger.
#
# **Predict.** Of all numbers in Llama 2 7B, how many per cent are in the feed-forwards: 33, 50 or 64? (You counted them
# in chapter 05. Do you remember?)

# %% predict: where
where = 64  # 33, 50 or 64

# %% reveal: where
config = PRESETS["llama-2-7b"]
share = config.n_layers * 3 * config.d_model * config.d_ff / count_parameters(config)
print(f"attention {config.n_layers * 4 * config.d_model**2 / count_parameters(config):.0%}")
predicted(where, round(100 * share))

# %% [markdown]
# Twice as much as in the attentions, which have all the fame. The same for more models:


# %%
def shares(name):
    config = PRESETS[name]
    C, L, n = config.d_model, config.n_layers, count_parameters(config)
    parts_of = {"embedding and head": config.vocab_size * C * (1 if config.tied else 2),
                "attention": L * 2 * C * config.head_dim * (config.n_heads + config.n_kv_heads),
                "feed-forward": L * 3 * C * config.d_ff, "norms (too few to see)": (2 * L + 1) * C}  # fmt: skip
    return {part: count / n for part, count in parts_of.items()}


names = ["tiny", "smollm2-135m", "llama-3.2-1b", "llama-2-7b", "llama-3-8b", "llama-2-70b", "llama-3.1-405b"]
bars = {f"{name}: {quantity(count_parameters(PRESETS[name]))}": shares(name) for name in names}

# %% [markdown]
# A bar for each model (G is a billion, M a million, k a thousand). Look at the left ends first, at what the vocabulary
# takes from the small ones, and then at the feed-forwards.

# %%
plots.where_numbers_are(bars)
assert all(abs(sum(parts_of.values()) - 1) < 1e-9 for parts_of in bars.values())
assert shares("llama-3.1-405b")["feed-forward"] > 0.8 > 0.7 > shares("llama-2-7b")["feed-forward"]

# %% [markdown]
# ## How much work?
#
# One more count, and you can talk about money. An addition or a multiplication of two numbers is one **floating-point
# operation**, FLOP for short.
#
# A matrix with C · F numbers makes F sums of C products: each of its numbers is multiplied once and added once. So a
# token costs **2 operations per number of each matrix** it goes through. By hand, for the smallest model (152
# numbers):
#
# - the matrices of the block: 2 · (32 + 32 + 36) = 200
# - the head: 2 · 20 = 40. The embedding costs nothing: looking up a row is no arithmetic.
# - attention: the token's query meets the keys of the whole text. For n tokens, H heads of D numbers: 2 · n · H · D
#   for the scores, and as much again for the average of the values. In each block. With n = 10: 4 · 10 · 4 = 160.
#
# Together 400 for the tenth token of a text. (Norms, softmax and the like are left out: they come to very little.) The
# keys may be shared among query heads, as in Llama 3; each query head still computes its own scores with them.
#
# **Exercise 09.4.** Write `flops_per_token`: what the *last* token of a text of n_tokens costs, the others being read
# already.

# %% exercise: 09.4

# %% check: 09.4
flops_per_token = check("09.4", flops_per_token)

# %%
for name in ("llama-2-7b", "llama-3-8b", "llama-3-70b", "llama-3.1-405b"):
    config = PRESETS[name]
    first, last = flops_per_token(config, 1), flops_per_token(config, config.max_len)
    n = count_parameters(config)
    print(f"{name:15} {quantity(first)} for the first token, {first / n:.2f} per number of the model;"
          f" {quantity(last)} for token {config.max_len:,}")  # fmt: skip

# %% [markdown]
# (T is a trillion, a thousand G.) The rule of thumb that everybody uses is in the middle of each line: **two operations
# per number of the model, for each token.** Llama 3 8B needs a little less, since its large embedding is only looked
# up. And the rule holds for short texts. How short? The figure takes the two parts of the work for Llama 3.1 8B. One is
# flat, the other rises with the length of the text. See where they cross, and where the model's longest text is.

# %%
config = PRESETS["llama-3.1-8b"]
lengths = [2**k for k in range(7, 18)]
flat = flops_per_token(config, 0)
work = {"all matrices": [flat] * len(lengths), "looking back": [flops_per_token(config, n) - flat for n in lengths]}
plots.work_by_length(lengths, work, {"LLaMA 1": 2048, "Llama 2": 4096, "Llama 3": 8192, "Llama 3.1": 131_072})
cross = flat / (flops_per_token(config, 1) - flat)
print(f"equal at {cross:,.0f} tokens")
assert 25_000 < cross < 32_000

# %% [markdown]
# In numbers, what part of the work is looking back:

# %%
for n in (2048, 8192, 131_072):
    print(f"{n:>7,} tokens: {1 - flat / flops_per_token(config, n):.0%}")

# %% [markdown]
# At 8,192 tokens, where Llama 3 ended, it is less than a quarter. At the 131,072 of Llama 3.1 it is four fifths.
#
# ### Training, checked against the papers
#
# In training, every token goes forward, and then slopes go back through the same matrices: once for the numbers that
# come in and once for the weights, so twice as much again. Three times 2 is 6: **training costs 6 operations per
# number and token.** Now you can check what the papers say:
#
# - The Llama 3 paper: 405 billion numbers, 15.6 trillion tokens, "3.8 × 10²⁵ FLOPs".
# - The LLaMA paper (table 15, and 1.4 trillion tokens): the 65B took 1,022,362 hours on graphics cards of the kind
#   A100, each of which can do 312 trillion operations a second at the very best.

# %%
flops_405b = 6 * count_parameters(PRESETS["llama-3.1-405b"]) * 15.6e12
print(f"405B: {flops_405b:.1e} operations")
per_second = 6 * count_parameters(PRESETS["llama-1-65b"]) * 1.4e12 / (1_022_362 * 3600)
print(f"65B:  {per_second / 1e12:.0f} trillion a second on each card, {per_second / 312e12:.0%} of its best")
assert 3.75e25 < flops_405b < 3.85e25

# %% [markdown]
# The first agrees to the last digit given. The second says how well they used their cards: nearly half of what is
# possible, which is very good. And what could *this* machine do? Multiply two large matrices and count.

# %% varies
a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
a @ b
began = time.perf_counter()
for _ in range(5):
    a @ b
speed = 5 * 2 * 1024**3 / (time.perf_counter() - began)
years = 6 * count_parameters(PRESETS["llama-1-7b"]) * 1e12 / speed / (365 * 24 * 3600)
print(f"{speed / 1e9:.0f} billion a second. LLaMA 7B on a trillion tokens: {years:,.0f} years at this speed")

# %% [markdown]
# That is why, in chapter 13, we take the weights that others have paid for.
#
# ## The family as a list of changes
#
# From LLaMA 1 to the text models of Llama 3.2, 1B and 3B, no new kind of part was added. (The 11B and the 90B of 3.2
# look at pictures, and have other parts for that.) What changed is in the config: sizes, and two or three numbers. So
# the best description of a new LLaMA is the list of fields in which it differs from an old one.
#
# A config is a frozen dataclass, that is, its fields can't be changed once it is made. `config.to_dict()` gives all its
# fields as a plain dict.
#
# **Exercise 09.5.** Write `config_diff`.

# %% exercise: 09.5

# %% check: 09.5
config_diff = check("09.5", config_diff)


# %%
def short(value):
    return f"{value['kind']}, factor {value['factor']:g}" if isinstance(value, dict) else value


family = ["llama-1-7b", "llama-2-7b", "llama-3-8b", "llama-3.1-8b", "llama-3.2-1b"]
for old, new in pairwise(family):
    print(f"{old} -> {new}")
    for field, (before, after) in config_diff(PRESETS[old], PRESETS[new]).items():
        print(f"    {field:13} {short(before)} -> {short(after)}")

# %% [markdown]
# Read it as a history:
#
# - **LLaMA 1 to Llama 2** (7B): twice the text, another eps. The rest is data: 2 trillion tokens instead of one. In
#   the largest model, 70B, the heads share 8 keys and values (chapter 04).
# - **Llama 2 to Llama 3** (8B): a vocabulary four times as large (chapter 02), shared keys and values in the small
#   model too, a wider feed-forward, twice the text again, and RoPE's base is 500,000, so that its slowest hands turn
#   slower (chapter 06). And more than seven times the data, 15 trillion tokens.
# - **Llama 3 to 3.1**: the text sixteen times as long, by RoPE scaling and further training. Nothing else, and a 405B.
# - **Llama 3.1 to 3.2** (1B, 3B): small, tied, with another factor in the scaling.
#
# The rest of the history is data, and how long they trained. The picture of the model, which you have drawn above, is
# the same for all.
#
# ## Seven promises
#
# Your model has passed its check, and trained. Is it a LLaMA? Chapters 03 and 07 have shown bugs that make the loss
# *better*. So there has to be another kind of proof, and since the model is a function, there is one: **change what
# must not matter and see whether anything moves; change what must matter and see whether something does.**
#
# Here are four attentions. One is healthy. One lets each token look one place too far. One has no mask at all. In the
# last one softmax runs over the queries, so that each key divides its attention among those who look at it.


# %%
def one_too_far(q, k, v, mask):
    return attend(q, k, v, mask | mask.roll(1, -1).tril(k.size(-2) - q.size(-2) + 1))


def no_mask(q, k, v, mask):
    return attend(q, k, v)


def over_the_queries(q, k, v, mask):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -1e9).softmax(dim=-2) @ v


attentions = {"healthy": attend, "one too far": one_too_far, "no mask": no_mask, "over queries": over_the_queries}

# %% [markdown]
# Four small models, one with each, are trained on the same text for the same steps.
#
# **Predict.** Which one ends with the lowest loss: "healthy", "one too far", "no mask" or "over queries"?

# %% predict: best
best = "one too far"  # "healthy", "one too far", "no mask" or "over queries"

# %%
small = Config(vocab_size=65, d_model=32, n_layers=2, n_heads=2, d_ff=88, max_len=64, tied=True)
last_loss = {}
for name, how in attentions.items():
    torch.manual_seed(0)
    model = Llama(small, Parts(attention=partial(Attention, attend=how)))
    last_loss[name] = trained(model, 60 if FAST else 200)[-1]

# %% reveal: best
predicted(best, min(last_loss, key=last_loss.get))

# %% varies
print({name: round(loss, 2) for name, loss in last_loss.items()})
assert last_loss["one too far"] < last_loss["healthy"]

# %% [markdown]
# The best is a broken one. It reads the next character off the text instead of guessing it. In the full run all three
# broken ones beat the healthy one by far, and none of them could write a line: when a model writes, there is no next
# character yet to be looked at.
#
# So leave the loss alone, and look at who knows what. Change one token at a time in a text of eight characters, and
# see at which tokens the logits move. (With random weights that are large, so that every part is heard.)


# %%
def who_moves(model, tokens):
    """-> (T, T), True where the logits at token i move when token j is changed"""
    T = tokens.size(1)
    moved = torch.zeros(T, T, dtype=torch.bool)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=1.5 / p.size(-1) ** 0.5 if p.ndim == 2 else 1.0)
        for j in range(T):
            changed = tokens.clone()
            changed[:, j] = (changed[:, j] + 7) % 65
            moved[:, j] = (model(changed) - model(tokens)).abs().amax((0, 2)) > 1e-3
    return moved


# %% [markdown]
# Rows are the tokens at which we look, columns the tokens that were changed. Blue is the past, which should matter.
# Orange, above the diagonal, is the future. In a healthy model that half is empty.

# %%
line = "To be, o"
line_tokens = torch.tensor([tokenizer.encode(line)])
moves = {}
one_block = dataclasses.replace(small, n_layers=1)
for name, how in attentions.items():
    torch.manual_seed(1)
    moves[name] = who_moves(Llama(one_block, Parts(attention=partial(Attention, attend=how))), line_tokens)
plots.who_moves(["␣" if c == " " else c for c in line], moves)
assert torch.equal(moves["healthy"], torch.ones(8, 8, dtype=torch.bool).tril())
assert all(moves[name].triu(1).any() for name in attentions if name != "healthy")

# %% [markdown]
# With one block, "one too far" colours one stripe: each token knows the next. And with more blocks?

# %%
for n_blocks in (1, 2, 3):
    torch.manual_seed(1)
    deeper = dataclasses.replace(small, n_layers=n_blocks)
    moved = who_moves(Llama(deeper, Parts(attention=partial(Attention, attend=one_too_far))), line_tokens)
    seen = moved[0].nonzero().max().item()
    print(f"{n_blocks} blocks: the first token knows of the next {seen}")
    assert seen == n_blocks

# %% [markdown]
# A leak of one token per block is a leak of 32 tokens in LLaMA 7B.
#
# A number says it shorter than a figure: *the first position that looks into the future*, or `None`. To find it, take
# a position p. Keep the tokens 0 to p, and replace all that come later. The logits at p must stay.
#
# Three things make such a test worthless, and all three are popular: to change the tokens at p as well (of course the
# logits move), to change only the last one (most leaks are not that long), and to ask for exact equality (sums in
# another order differ in the seventh digit).
#
# **Exercise 09.6.** Write `first_look_ahead`. It is handed a function from tokens to logits, which may be a model or
# anything else. `torch.randint(vocab_size, shape)` draws random tokens; change a copy of them, `tokens.clone()`. Take a
# few texts at once: in a single one, a new random token may happen to be the old one, and the leak is missed.

# %% exercise: 09.6

# %% check: 09.6
first_look_ahead = check("09.6", first_look_ahead)

# %%
for name, how in attentions.items():
    torch.manual_seed(0)
    model = Llama(small, Parts(attention=partial(Attention, attend=how)))
    print(f"{name:14} {first_look_ahead(model, 65, 12)}")

# %% [markdown]
# Your test found them all, in models without any training. `certify` does this and six other things. Each is a promise
# that the rest of the course relies on:
#
# | property | what is changed | what would go wrong |
# |---|---|---|
# | causal | later tokens | the loss looks wonderful, the model can't write |
# | sequences do not touch | another text of the batch | answers depend on who else is asking |
# | padding ignored | the tokens under the mask; then there are none | short texts in a batch get worse |
# | cached equals uncached | the text comes in pieces | it writes other things than it was trained to |
# | relative in position | all positions, by 21 | it can't read on where it has not been |
# | finite in bfloat16 | the dtype of all weights | NaN, on the machine where it counts |
# | first loss near ln V | nothing | you have seen it |
#
# Healthy models pass with the weights they have, and once more with large random ones, since an untrained model hardly
# looks around, and a small leak would not be heard. Now a broken model for each. Read each class before you look at
# what `certify` says to it.


# %%
class NormOverTheBatch(RMSNorm):
    def forward(self, x):
        return x / (x.pow(2).mean((0, 2), keepdim=True) + self.eps).sqrt() * self.weight


class CoarseNorm(RMSNorm):
    def forward(self, x):
        return super().forward(x) / (1 - torch.full_like(x, 0.9999)) * 1e-4  # in bfloat16, 0.9999 is 1


class LoudNorm(RMSNorm):
    def __init__(self, d_model, eps):
        super().__init__(d_model, eps)
        self.weight.data *= 200


# %%
class RotatesAndStretches(RoPE):
    def add(self, x, positions):
        return x * (1 + positions[..., None] / 10).to(x.dtype)


def own_mask(q, k, v, mask):
    T, S = q.size(-2), k.size(-2)
    return attend(q, k, v, causal_mask(T, S))


class StartsAgainAtZero(Llama):
    def forward(self, tokens, *, cache=None, positions=None, mask=None):
        positions = torch.arange(tokens.size(1)) if positions is None else positions
        return super().forward(tokens, cache=cache, positions=positions, mask=mask)


# %%
def with_parts(**broken):
    return Llama(small, Parts(**broken))


suspects = {
    "healthy": with_parts(),
    "one too far": with_parts(attention=partial(Attention, attend=one_too_far)),
    "norm over the batch": with_parts(norm=NormOverTheBatch),
    "a mask of its own": with_parts(attention=partial(Attention, attend=own_mask)),
    "starts again at zero": StartsAgainAtZero(small),
    "rotates and stretches": with_parts(position=RotatesAndStretches),
    "coarse norm": with_parts(norm=CoarseNorm),
    "loud norm": with_parts(norm=LoudNorm),
}

# %%
for name, suspect in suspects.items():
    print(f"{name:22} {', '.join(certify(suspect).failed) or 'passed'}")

# %% [markdown]
# The healthy one passes, and each of the others fails by the name of what is wrong with it. (Some fail more than once,
# for good reason: whoever looks one place too far also sees other things when the text comes in pieces.)
#
# The certificate of your own model, in full:

# %% varies
certificate = certify(Llama(PRESETS["tiny"], parts))
for verdict in certificate.verdicts:
    print(f"{verdict.property:24} {verdict.status:8} {verdict.found}")
assert certificate.passed

# %% [markdown]
# ## The same numbers as Hugging Face
#
# All this proves that the model is consistent. That it is *LLaMA*, and not something equally consistent, is proved by
# one thing only: with the same weights, the same logits as the program that everybody uses. Hugging Face's
# Transformers has a class `LlamaForCausalLM`. Its weights have other names than ours:
#
# | here | there |
# |---|---|
# | embed_tokens.weight | model.embed_tokens.weight |
# | layers.3.attention_norm.weight | model.layers.3.input_layernorm.weight |
# | layers.3.attention.q_proj.weight | model.layers.3.self_attn.q_proj.weight |
# | layers.3.feedforward_norm.weight | model.layers.3.post_attention_layernorm.weight |
# | layers.3.feedforward.gate_proj.weight | model.layers.3.mlp.gate_proj.weight |
# | norm.weight | model.norm.weight |
# | lm_head.weight | lm_head.weight |
#
# "post_attention" means: it comes after the attention, before the feed-forward. It is no post-norm.
#
# **Exercise 09.7.** Write `hugging_face_name`. Text has `.replace(old, new)` and `.startswith(beginning)`. There is a
# trap: look where the word "attention" stands, in our names *and* in theirs.

# %% exercise: 09.7

# %% check: 09.7
hugging_face_name = check("09.7", hugging_face_name)

# %% [markdown]
# Now take the shipped model, which was trained on Shakespeare with this course, and load its weights twice: into your
# `Llama`, and under their other names into Hugging Face's. Transformers is not needed for the course, and may not be
# there; then the cell says so and goes on.

# %%
shipped = open_checkpoint(assets.shipped_model())
sizes = shipped.model.config
yours = Llama(sizes, parts)
yours.load_state_dict(shipped.model.state_dict())
yours.eval()
their_sizes = dict(
    vocab_size=sizes.vocab_size, hidden_size=sizes.d_model, num_hidden_layers=sizes.n_layers,
    num_attention_heads=sizes.n_heads, num_key_value_heads=sizes.n_kv_heads, intermediate_size=sizes.d_ff,
    max_position_embeddings=sizes.max_len, rms_norm_eps=sizes.norm_eps, tie_word_embeddings=sizes.tied,
)  # fmt: skip
renamed = {hugging_face_name(name): weight for name, weight in shipped.model.state_dict().items()}
print(len(renamed), "weights, the first:", next(iter(renamed)))

# %% varies
line_tokens = torch.tensor([tokenizer.encode("O Romeo, Romeo! wherefore art thou")])
try:
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**their_sizes))
    theirs.eval()
    theirs.load_state_dict(renamed)
    with torch.no_grad():
        difference = (yours(line_tokens) - theirs(line_tokens).logits).abs().max().item()
    print(f"largest difference of {line_tokens.numel() * sizes.vocab_size:,} logits: {difference:.0e}")
    assert difference < 1e-3
except ImportError:
    print("Transformers is not installed; `pip install transformers`, and this cell compares the two")

# %% [markdown]
# Where Transformers is installed, the largest difference of all logits is one of rounding, about a hundred-thousandth.
# What you have written is LLaMA.
#
# ## It speaks
#
# First your own model, fresh, trained here and now, for some seconds or (in full mode) about a minute. It has 159,296
# numbers and sees 64 characters at a time.

# %%
torch.manual_seed(0)
mine = Llama(dataclasses.replace(PRESETS["tiny"], tied=False), parts)
curve = trained(mine, 60 if FAST else 2000, lr=5e-3)
loss = evaluate(mine, validation_tokens[:16_385], length=64)

# %% varies
print(f"{mine.n_parameters:,} numbers, {loss:.2f} nats per character on text it has not seen\n")
print(sample_text(mine, tokenizer, 300, seed=1, prompt="ROMEO:\n"))
assert loss < (3.4 if FAST else 1.85)

# %% [markdown]
# In the full run: letters into words, words into lines, lines into speakers. Nobody told it of any of these. The
# bigram table of chapter 01, which knows one character back, for comparison:

# %%
counts = torch.ones(65, 65).index_put_((train_tokens[:-1], train_tokens[1:]), torch.tensor(1.0), accumulate=True)
shares_of_next = counts / counts.sum(dim=1, keepdim=True)
bigram = -shares_of_next[validation_tokens[:16_384], validation_tokens[1:16_385]].log().mean()
print(f"bigram table: {bigram:.2f} nats per character")
assert FAST or loss < bigram - 0.5

# %% [markdown]
# Now the shipped model, eleven times as large and trained for a quarter of an hour, running on *your* class and your
# parts.

# %% varies
for model in (yours, shipped.model):
    print(f"{evaluate(model, validation_tokens[:16_385], length=256):.4f} nats")
print(sample_text(yours, tokenizer, 400, seed=2, prompt="ROMEO:\n"))

# %% [markdown]
# Twice the same loss: it is the same model, and one of the two is yours.
#
# ## The package's version
#
# Compare with yours.

# %% show
show("llama.Llama")

# %% show
show("info.costs")

# %% [markdown]
# Two things to notice. `torch.device("meta")` makes a model whose weights have shapes and no memory: a way to count
# without a formula. And `costs` counts like you, and adds what the memory will be.

# %%
config = PRESETS["llama-2-7b"]
theirs_and_yours = costs(config, n_tokens=1000).flops_per_token, flops_per_token(config, 1000)
print(*theirs_and_yours)
assert theirs_and_yours[0] == theirs_and_yours[1] and costs(config).n_parameters == count_parameters(config)

# %% [markdown]
# ## What the LLaMAs do
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 and 3.1 (2024) | Llama 3.2 (2024) |
# |---|---|---|---|---|
# | sizes | 7B, 13B, 33B, 65B | 7B, 13B, 70B | 8B, 70B, 405B (3.1) | 1B, 3B |
# | blocks | 32, 40, 60, 80 | 32, 40, 80 | 32, 80, 126 | 16, 28 |
# | channels | 4096, 5120, 6656, 8192 | 4096, 5120, 8192 | 4096, 8192, 16384 | 2048, 3072 |
# | query heads | 32, 40, 52, 64 | 32, 40, 64 | 32, 64, 128 | 32, 24 |
# | key/value heads | as many | as many; 70B: 8 | 8 | 8 |
# | vocabulary | 32,000 | 32,000 | 128,256 | 128,256 |
# | longest text | 2,048 | 4,096 | 8,192; 3.1: 131,072 | 131,072 |
# | embedding and head | two matrices | two matrices | two matrices | tied |
# | training tokens | 1.0 T (7B, 13B), 1.4 T | 2.0 T | over 15 T | up to 9 T |
#
# Sources: LLaMA (arXiv:2302.13971), table 2; Llama 2 (arXiv:2307.09288), table 1; The Llama 3 Herd of Models
# (arXiv:2407.21783), section 3.2 and table 3; the configs and model cards published with the weights (3.2, and what is
# not in the papers). The papers don't say how the first weights were drawn; 0.02 is the default of Hugging Face's
# `LlamaConfig` (`initializer_range`).
#
# ## Further reading
#
# - LLaMA: Open and Efficient Foundation Language Models. Hugo Touvron and others, 2023. With this chapter you can read
#   every line of its section 2.
# - Llama 2: Open Foundation and Fine-Tuned Chat Models. Hugo Touvron and others, 2023.
# - The Llama 3 Herd of Models. Aaron Grattafiori and others, 2024.
# - Using the Output Embedding to Improve Language Models. Ofir Press, Lior Wolf, 2017. The tie.
# - Scaling Laws for Neural Language Models. Jared Kaplan and others, 2020. Where "6 operations per number and token"
#   comes from.
# - Training Compute-Optimal Large Language Models. Jordan Hoffmann and others, 2022. How many tokens for how many
#   numbers.
# - Language Models are Unsupervised Multitask Learners. Alec Radford and others, 2019. GPT-2, whose skeleton this is.
#
# Next, chapter 10 trains it properly: the optimizer you have used as a closed box, learning rates that rise and fall,
# clipped slopes, and a run that can be stopped and resumed.
