# %% [markdown]
# # 05 · Feed-forward: each token thinks for itself
#
# After this chapter you can build the block that holds most of a LLaMA's numbers, say why it has a bend in the middle
# and, in LLaMA, a gate, work out where a width like 11008 comes from, find units that have died in training, and count
# the parameters and the work of any LLaMA, part by part.
#
# Reading takes about 70 minutes, the seven exercises about as long again. Chapter 04 is enough to follow it:
# attention with its heads and its four matrices, `nn.Linear`, the loss in nats, TinyShakespeare.

# %%
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import assets
from minillama.block import Parts
from minillama.config import PRESETS, Config
from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.data import Batches, split
from minillama.info import costs
from minillama.llama import Llama
from minillama.plots import feedforward as plots

# %%
from minillama.saving import open_checkpoint
from minillama.train import evaluate, next_token_loss

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## What a sum can't say
#
# > good · bad · not good · not bad
#
# Attention brings words together. Suppose that it has done its work, and that the last word of each of these phrases
# now carries two numbers:
#
# - **n**: was there a "not" before me? 1 for yes, 0 for no;
# - **g**: how good? 1 for "good", -1 for "bad".
#
# What the phrase means is not there yet. "Not good" is bad, and its g is still 1. Somebody has to look at both
# numbers of this one word, and conclude something.

# %%
phrases = ["good", "bad", "not good", "not bad"]
x = torch.tensor([[0.0, 1], [0, -1], [1, 1], [1, -1]])  # a row per phrase: n, g
meaning = torch.tensor([1.0, -1, -1, 1])

# %% [markdown]
# The tool we have is the weighted sum, `nn.Linear`: a · n + b · g + c, with three numbers that we may choose. Where
# the sum is above zero it says *good thing*, where it is below, *bad thing*.
#
# **Predict.** With the best a, b and c, how many of the four phrases does it get right: 2, 3 or 4?

# %% predict: right
right = 3  # 2, 3 or 4

# %% reveal: right
grid = torch.linspace(-3, 3, 25)
a, b, c = torch.meshgrid(grid, grid, grid, indexing="ij")  # 15,625 sums
sums = a[..., None] * x[:, 0] + b[..., None] * x[:, 1] + c[..., None]
n_right = (sums * meaning > 0).sum(dim=-1)
print("the best of", n_right.numel(), "sums gets", n_right.max().item(), "of 4 right")
predicted(right, n_right.max().item())

# %% [markdown]
# Trying harder does not help. Write down what all four want:
#
# | phrase | n | g | the sum | should be |
# |---|---|---|---|---|
# | good | 0 | 1 | b + c | above 0 |
# | not bad | 1 | -1 | a - b + c | above 0 |
# | bad | 0 | -1 | -b + c | below 0 |
# | not good | 1 | 1 | a + b + c | below 0 |
#
# Add the first two lines: a + 2c is above 0. Add the last two: a + 2c is below 0. Both can't be. A sum gives each
# number its own say, whatever the other one is. But here one number decides what the other one means.
#
# ### More sums don't help
#
# Then take a thousand sums, and sums of these sums. By hand, with two: let h₁ = n + g and h₂ = n - g, and at the end
# 2 · h₁ + 3 · h₂. That is 2n + 2g + 3n - 3g = 5n - g. One sum again. It is always so: a matrix after a matrix is a
# matrix.

# %%
torch.manual_seed(0)
up, down = torch.randn(1000, 2), torch.randn(2, 1000)  # 2 numbers -> 1000 -> 2
one_matrix = down @ up
print("4,000 numbers do the work of", one_matrix.numel())
print("the same:", torch.allclose(x @ up.T @ down.T, x @ one_matrix.T, rtol=1e-3, atol=1e-3))

# %% [markdown]
# ## Two units that can keep quiet
#
# Something has to stand between the two matrices. The smallest thing that helps: **whatever is below zero becomes
# 0.** It is called **ReLU**, for *rectified linear unit*, and it is max(0, z).
#
# With it, a sum can listen for something. n + g - 1 is above 0 only if n *and* g are 1, that is, for "not good". And
# n - g - 1 is above 0 only for "not bad". Such a sum, cut off below zero, is a **unit**. It speaks up in one case and
# is quiet in all others. What shall it do when it speaks? Correct g: "not good" takes 2 away, "not bad" adds 2.
#
# | phrase | n | g | n + g - 1 | unit 1 | n - g - 1 | unit 2 | -2 · unit 1 + 2 · unit 2 | g afterwards |
# |---|---|---|---|---|---|---|---|---|
# | good | 0 | 1 | 0 | 0 | -2 | 0 | 0 | **1** |
# | bad | 0 | -1 | -2 | 0 | 0 | 0 | 0 | **-1** |
# | not good | 1 | 1 | 1 | 1 | -1 | 0 | -2 | **-1** |
# | not bad | 1 | -1 | -1 | 0 | 1 | 1 | 2 | **1** |
#
# Four of four. In the figure each unit owns a region of the plane; at its dashed or solid edge the sum is 0, and
# inside it is above. (A filled circle means a good thing, a cross a bad one.) No single straight line has the circles
# on one side and the crosses on the other. Two units, each with a line of its own, pick out what has to be corrected.

# %%
points = {text: (*row.tolist(), wanted.item()) for text, row, wanted in zip(phrases, x, meaning, strict=True)}
plots.phrases_and_units(points, {"unit 1: n + g > 1": (1, 1), "unit 2: n - g > 1": (1, -1)})
on = [(int(n + g > 1), int(n - g > 1)) for n, g in x.tolist()]
assert on == [(0, 0), (0, 0), (1, 0), (0, 1)]

# %% [markdown]
# ### The block
#
# A unit has three kinds of numbers: what it **listens for** (1 and 1), its **threshold** (-1), and what it **writes**
# when it is on (0 into channel n, -2 into channel g). Put all units side by side:
#
# - `up_proj` is an `nn.Linear` from C channels to F units. Row j of its weight is what unit j listens for; its bias
#   holds the thresholds.
# - ReLU (`F.relu`) cuts off, unit by unit.
# - `down_proj` is an `nn.Linear` from F units back to C channels. *Column* j of its weight is what unit j writes.
#
# The first one usually widens and the second one narrows, therefore *up* and *down*. F is called `d_ff`, C is called
# `d_model`. In the transformer of 2017 they were 2,048 and 512: four units per channel.
#
# The result of the block is not the new token. It is what is to be **added** to it: `x + block(x)`. The layer around
# the block does the addition, and nothing that was there is lost (chapter 07 has more on this).
#
# **Exercise 05.1.** Write `forward` of `ReLUFeedForward`. `__init__` is given. The `*` in it says that `bias` has to
# be named: `ReLUFeedForward(4, 16, bias=False)`.

# %% exercise: 05.1

# %% check: 05.1
ReLUFeedForward = check("05.1", ReLUFeedForward)

# %% [markdown]
# Our two units, in your block:


# %%
def put_in(block, **weights):
    """Give a block these weights. up_proj="1 1; 1 -1" means two rows, [1, 1] and [1, -1]."""
    for name, text in weights.items():
        rows = [[float(number) for number in row.split()] for row in text.split(";")]
        getattr(block, name).weight.data = torch.tensor(rows)
    return block


block = put_in(ReLUFeedForward(2, 2), up_proj="1 1; 1 -1", down_proj="0 0; -2 2")
block.up_proj.bias.data = torch.tensor([-1.0, -1.0])
block.down_proj.bias.data = torch.zeros(2)

# %%
after = x + block(x[None])[0]
for text, before, now in zip(phrases, x, after, strict=True):
    print(f"{text:<9} g was {before[1]:2.0f}, is {now[1]:2.0f}")
assert torch.equal(after[:, 1], meaning)

# %% [markdown]
# ## Each token by itself
#
# Attention looks at all tokens. This block looks at one. The same two matrices are used for every token, and none
# knows that there are others. To prove it, do what must not matter: change the third token, and put the tokens into
# another order.

# %%
block = ReLUFeedForward(8, 32)
tokens = torch.randn(1, 5, 8)
changed = tokens.clone()
changed[0, 2] += 1
order = [4, 2, 0, 1, 3]
print("tokens that moved:", [t for t in range(5) if not torch.equal(block(tokens)[0, t], block(changed)[0, t])])
print("other order, same results:", torch.allclose(block(tokens[:, order]), block(tokens)[:, order], atol=1e-6))
assert torch.allclose(block(tokens[:, order]), block(tokens)[:, order], atol=1e-6)

# %% [markdown]
# The papers call this **position-wise**. The two halves of a layer divide the work: attention *moves* things between
# tokens, with weights that add up to 1; the feed-forward block *makes something* of what has arrived at one token.
# Neither can do the other's work.

# %% [markdown]
# ## The formula with two ReLUs
#
# The paper of 2017 has max(0, xW₁ + b₁)W₂ + b₂: one ReLU. In articles about it you may find another one printed around
# the outside:
#
# > max(0, W₂ · max(0, W₁ · x + b₁) + b₂)
#
# It looks harmless, even tidy. What would it do? Put our two units into it.


# %%
class TwoReLUs(ReLUFeedForward):
    def forward(self, x):
        return F.relu(super().forward(x))


block = put_in(TwoReLUs(2, 2), up_proj="1 1; 1 -1", down_proj="0 0; -2 2")
block.up_proj.bias.data, block.down_proj.bias.data = torch.tensor([-1.0, -1.0]), torch.zeros(2)
for text, before, now in zip(phrases, x, x + block(x[None])[0], strict=True):
    print(f"{text:<9} g was {before[1]:2.0f}, is {now[1]:2.0f}")

# %% [markdown]
# "Not good" stays good. The -2 was cut off on its way out. Such a block can only add. It can never take anything away
# from a token, however wrong it is.
#
# How much do real blocks take away? The course comes with a small LLaMA that was trained on Shakespeare. Measure
# which share of the numbers that its four blocks write is negative. Then put a ReLU behind each of them, as the
# article has it. (A *hook* is a function that PyTorch calls with what a part has just given; if the hook gives
# something back, that is taken instead.)

# %%
trained = open_checkpoint(assets.shipped_model())
text = assets.corpus(report=lambda line: None)
training, validation = split(torch.tensor(trained.tokenizer.encode(text)))


def loss_with(hook):
    hooks = [layer.feedforward.register_forward_hook(hook) for layer in trained.model.layers]
    loss = evaluate(trained.model, validation[:4000], length=256)
    for handle in hooks:
        handle.remove()
    return loss


# %%
negative = []
as_it_is = loss_with(lambda part, inputs, out: negative.append((out < 0).float().mean().item()))
cut_off = loss_with(lambda part, inputs, out: F.relu(out))
silent = loss_with(lambda part, inputs, out: 0 * out)
print(f"share of negative numbers: {sum(negative) / len(negative):.2f}")
print(f"loss as it is {as_it_is:.2f}, with a second ReLU {cut_off:.2f}, without what the blocks write {silent:.2f}")
assert 0.45 < sum(negative) / len(negative) < 0.55 and as_it_is + 0.5 < cut_off < silent

# %% [markdown]
# Half of everything that is written is negative: as much is taken away as is added. With the outer ReLU the model
# falls back most of the way to the bigrams of chapter 01, which have 2.5 nats. (Without the blocks it is worse than
# one that knows nothing, which has ln 65 = 4.17: the layers above had been trained to rely on them.)
#
# That was unfair: the model had been trained without it. Could one be trained with it? At the end of the chapter we
# do that, and you will see. First look at the shape of the thing. If all blocks only add, all tokens are pushed the
# same way: up, in every channel. Take eight random tokens and 32 random blocks, and nothing trained. How alike two
# tokens are, we measure by the **cosine**: 1 if they point the same way, 0 if they have nothing to do with each
# other. At the start it is near 0.
#
# **Predict.** How large is it after 32 blocks with a second ReLU: 0.1, 0.5 or 0.99?

# %% predict: alike
alike = 0.99  # 0.1, 0.5 or 0.99


# %%
def average_cosine(x):
    """How alike the rows are, on average over all pairs of different rows. (N, C) -> a number"""
    directions = x / x.norm(dim=-1, keepdim=True)
    cosines = directions @ directions.T
    return ((cosines.sum() - len(x)) / (len(x) * (len(x) - 1))).item()


def through_blocks(outer, C=256, n_blocks=32):
    generator = torch.Generator().manual_seed(1)
    x, cosines = torch.randn(8, C, generator=generator), []
    for _ in range(n_blocks):
        up = torch.randn(C, 4 * C, generator=generator) / C**0.5
        down = torch.randn(4 * C, C, generator=generator) / (2 * C) ** 0.5
        seen = x / x.pow(2).mean(dim=-1, keepdim=True).sqrt()  # brought to one size, as LLaMA does (chapter 07)
        x = x + outer(F.relu(seen @ up) @ down)
        cosines.append(average_cosine(x))
    return cosines


# %% [markdown]
# Compare the two lines at their right ends.

# %% reveal: alike
cosines = {"one ReLU": through_blocks(lambda out: out), "two ReLUs": through_blocks(F.relu)}
plots.alike_by_depth(cosines)
assert cosines["two ReLUs"][-1] > 0.95 and cosines["one ReLU"][-1] < 0.75
predicted(alike, round(cosines["two ReLUs"][-1], 2), within=1.04)

# %% [markdown]
# Eight tokens went in that had nothing to do with each other, and eight copies of almost the same vector came out.
# Even one ReLU pushes a little: what leaves the units is never negative, so random blocks add something that all
# tokens share. But then `down_proj` mixes it with both signs. With the second ReLU the blocks can only push on.
#
# So if you build from a picture or an article: **one ReLU, in the middle.**

# %% [markdown]
# ## Units that never speak again
#
# A model learns by slopes: *if this number were a little larger, how much would the loss change?* What is the slope
# of a unit that is off? Nudge its sum from -0.5 to -0.499. ReLU gives 0 before and 0 after. The slope is 0, and with
# it the slopes of all numbers that the unit listens with.
#
# That is fine for a token that the unit has nothing to say about. Others will switch it on, and it learns from them.
# But what about a unit that is off for *every* token? It learns nothing, so it stays as it is, so it stays off. Such
# a unit is **dead**. It takes up memory and time, and does nothing.
#
# **Exercise 05.2.** Write `count_dead`. You get the sums before ReLU, z, for F units and all tokens of B texts. For a
# table of True and False, `.all(dim=1)` says for which places everything along axis 1 is True (and that axis is gone
# afterwards); `.any` says where anything is. `int(...)` makes a Python number of a tensor that holds a single one.

# %% exercise: 05.2

# %% check: 05.2
count_dead = check("05.2", count_dead)

# %% [markdown]
# Do units die in practice? Train two small LLaMAs with your block in it, two layers of 192 units each, that differ in
# one number: the learning rate, which says how far a step goes. 0.003 suits a model of this size. 0.1 is too much.


# %%
def build(feedforward, d_ff=192, n_layers=2, seed=0):
    torch.manual_seed(seed)
    config = Config(65, d_model=48, n_layers=n_layers, n_heads=2, d_ff=d_ff, max_len=64, tied=True)
    return Llama(config, Parts(feedforward=feedforward))


batches = Batches(training, batch_size=16, length=64, seed=0)


# %%
def train(model, steps, lr=0.003, falling=False):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        if falling:  # towards 0 at the end
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        tokens, targets = batches(step)
        loss = next_token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# %%
def values_of_units(model, texts):
    """What the units of each layer have to say before ReLU: a (B, T, F) for each layer."""
    values = []
    hooks = [layer.feedforward.up_proj.register_forward_hook(lambda part, inputs, out: values.append(out))
             for layer in model.layers]  # fmt: skip
    with torch.no_grad():
        model(texts)
    for handle in hooks:
        handle.remove()
    return values


# %% varies
texts = validation[:6400].view(100, 64)
shares, n_dead = {}, {}
for lr in (0.003, 0.1):
    model = train(build(ReLUFeedForward), 40 if FAST else 250, lr)
    values = values_of_units(model, texts)[1]  # of the second layer
    name = f"rate {lr}"
    shares[name] = (values > 0).float().mean(dim=(0, 1)).tolist()
    n_dead[name] = count_dead(values)
    print(f"{name}: {n_dead[name]} of 192 units dead, loss {evaluate(model, validation[:6400], 64):.2f}")
assert n_dead["rate 0.003"] < 20 < n_dead["rate 0.1"]

# %% [markdown]
# The figure shows all 192 units of the second layer. With the good rate they are on for a part of the tokens, each
# for its own. Compare that with the right end of the other picture. And look at the orange bars.

# %% varies
plots.how_often_on(shares, n_dead)
assert sum(share == 0 for share in shares["rate 0.1"]) == n_dead["rate 0.1"]

# %% [markdown]
# With the good rate a few units are silent. With the rate that is too high it is a fifth of them or more: large steps
# have pushed them so low that nothing reaches them any more. The other units are on for most tokens, which is not
# much better: a unit that is always on cuts off nothing, and is a plain sum again.
#
# (A dead unit has a small hope. What it *hears* comes from parts that still learn: the embedding, the attention in
# front of it, the layers below. If that moves far enough, some token may switch it on again. It can do nothing for it
# itself.)

# %% [markdown]
# ## Off, but not for good: GELU
#
# What if a unit that is off had a little slope left? The block of GPT-2 has such a unit. The idea: do not cut z off
# at 0, multiply it by a *share* that goes from 0 to 1 as z grows. GELU takes the share of **normal random numbers
# that lie below z**. (Normal numbers are what `torch.randn` gives.)

# %%
generator = torch.Generator().manual_seed(0)
normal = torch.randn(1_000_000, generator=generator)
for z in (-3.0, -1.0, 0.0, 1.0, 3.0):
    share = (normal < z).float().mean().item()
    print(f"z = {z:2.0f}: a share of {share:.2f} lies below it, GELU gives {z * share:5.2f}")

# %% [markdown]
# Far above 0 everything is let through, far below nothing, and at -1 a little of it: -1 · 0.16 = -0.16.
#
# Nobody draws a million numbers for that. Mathematicians have a function called **erf** for it: erf(z / √2) is the
# share of normal numbers *between -z and z*. For z = 1 that is 0.68. The other 0.32 lie outside, one half of them
# above z and the other half below -z. So below z lie 0.68 + 0.16 = 0.84, or in general (1 + erf(z / √2)) / 2.

# %%
between = torch.erf(torch.tensor(1 / math.sqrt(2))).item()
print(f"between -1 and 1: {between:.3f}, below 1: {(1 + between) / 2:.3f}")

# %% [markdown]
# When GELU was invented, erf was slow to compute, so its authors gave a second formula, which comes close with a tanh
# (another function that goes from -1 to 1). GPT-2 was trained with that one. It matters which one you use if you run
# somebody's model: they differ in the fourth digit behind the point, no loss curve shows that, and a comparison digit
# by digit does.
#
# **Exercise 05.3.** Write `gelu`, both versions. The docstring has the formulas; `torch.erf` and `torch.tanh` work
# number by number on tensors of any shape. (Inside, `tanh` alone is the argument, True or False.)

# %% exercise: 05.3

# %% check: 05.3
gelu = check("05.3", gelu)

# %%
z = torch.linspace(-5, 5, 2001)
difference = (gelu(z) - gelu(z, tanh=True)).abs()
print(f"largest difference {difference.max():.5f}, at z = {abs(z[difference.argmax()].item()):.1f}")
assert 0.0004 < difference.max() < 0.0006

# %% [markdown]
# ## SiLU: a share that is easier to get
#
# LLaMA takes another share, the **sigmoid**: 1 / (1 + e⁻ᶻ). By hand, for z = ln 3 = 1.1: e⁻ᶻ is 1/3, and 1 / (4/3) =
# 3/4. For z = -ln 3 it is 1 / (1 + 3) = 1/4. The two add up to 1, as they do for every z. Then
#
# **silu(z) = z · sigmoid(z) = z / (1 + e⁻ᶻ)**
#
# so silu(ln 3) = 0.82 and silu(-ln 3) = -0.27. Another name for it is *swish*.
#
# There is a trap in the second way to write it. Try it at z = -100, and ask PyTorch for the slope as well:

# %%
z = torch.tensor(-100.0, requires_grad=True)
out = z / (1 + torch.exp(-z))
out.backward()
print("e^100 as a float32:", torch.exp(torch.tensor(100.0)).item())
print(f"value {out.item():.1f}, slope {z.grad.item()}")

# %% [markdown]
# The value is right: -100 divided by infinity is 0. The slope is `nan`, because on the way back infinity is
# multiplied by zero. Everything looks well until the first training step in which some unit is at -100. After it, all
# weights are `nan`.
#
# **Exercise 05.4.** Write `silu`, so that values *and* slopes are numbers for every z. `torch.sigmoid` may be used.

# %% exercise: 05.4

# %% check: 05.4
silu = check("05.4", silu)

# %% [markdown]
# Put the three side by side. The slopes we leave to PyTorch.


# %%
def slope_of(function, z):
    z = z.clone().requires_grad_()
    function(z).sum().backward()
    return z.grad


z = torch.linspace(-4, 3, 141)
functions = {"ReLU": F.relu, "GELU": gelu, "SiLU": silu}

# %% [markdown]
# On the left is what they let through, on the right how steep they are. Look at the left half of the right picture:
# ReLU is flat there, the other two are not.

# %%
curves = {name: function(z).tolist() for name, function in functions.items()}
slopes = {name: slope_of(function, z).tolist() for name, function in functions.items()}
plots.curves_and_slopes(z.tolist(), curves, slopes)
assert max(map(abs, slopes["ReLU"][:79])) == 0 and min(slopes["SiLU"][:79]) < -0.09 and min(curves["SiLU"]) > -0.28

# %% [markdown]
# So units can't die that way any more? Kill some. Give half of the units of each layer a threshold of -3, so that no
# token switches them on. Train for a while, and measure how far what they listen with has moved.


# %%
class Bent(ReLUFeedForward):
    def __init__(self, d_model, d_ff, bend):
        super().__init__(d_model, d_ff)
        self.bend = bend

    def forward(self, x):
        return self.down_proj(self.bend(self.up_proj(x)))


# %%
moved = {}
for name, bend in functions.items():
    model = build(partial(Bent, bend=bend))
    first = model.layers[0].feedforward.up_proj
    first.bias.data[:96] = -3.0
    before = first.weight.detach().clone()
    train(model, 20 if FAST else 100)
    moved[name] = (first.weight - before)[:96].norm().item()
print("ReLU moved by exactly", moved["ReLU"])
print("GELU and SiLU moved by more than 0.1:", moved["GELU"] > 0.1 and moved["SiLU"] > 0.1)
assert moved["ReLU"] == 0 and min(moved["GELU"], moved["SiLU"]) > 0.1

# %% [markdown]
# With ReLU not one of these 96 · 48 numbers has changed in the last digit, and none will, as long as no token switches
# the unit on. With the others they learn.

# %% [markdown]
# ## Gates
#
# Our two units have a weakness. They work for g = 1 and g = -1. Now somebody writes "very good", g = 3. Without any
# "not", unit 1 computes n + g - 1 = 2, is on, and takes 4 away. For other numbers we would need other units, with
# other thresholds.
#
# What we want is one rule for all g: *if there is a "not", turn the sign*. That is, add -2 · n · g. With n = 0
# nothing is added. With n = 1, g becomes g - 2g = -g, whether g is 3 or -0.2. It is a **product** of two channels,
# and units that cut off can only come near it, in steps.
#
# So let a unit multiply. It gets two rows to listen with instead of one:
#
# - one says **how much**: it goes through SiLU, and is called the **gate**;
# - the other one says **what**: it is a plain sum, positive or negative, and is called **up**, as before.
#
# The value of the unit is silu(gate) · up. If the gate is far below zero, the product is 0, whatever the other side
# says: shut. If it is far above, the other side comes through, multiplied.
#
# Two such units do our job, and exactly. It rests on one line of algebra. silu(z) = z · sigmoid(z), and sigmoid(z)
# and sigmoid(-z) add up to 1, so
#
# silu(z) - silu(-z) = z · sigmoid(z) + z · sigmoid(-z) = z
#
# | | gate | up | writes into g |
# |---|---|---|---|
# | unit 1 | n | g | -2 |
# | unit 2 | -n | g | +2 |
#
# Together: -2 · silu(n) · g + 2 · silu(-n) · g = -2 · (silu(n) - silu(-n)) · g = -2 · n · g.
#
# This block is called **SwiGLU**, *swish-gated linear unit*: three matrices, no biases.
#
# **Exercise 05.5.** Write `forward` of `SwiGLU`. `__init__` is given. PyTorch has your `silu` too, as `F.silu`; take
# that one, so that your class can stand alone.

# %% exercise: 05.5

# %% check: 05.5
SwiGLU = check("05.5", SwiGLU)

# %%
block = put_in(SwiGLU(2, 2), gate_proj="1 0; -1 0", up_proj="0 1; 0 1", down_proj="0 0; -2 2")
for text, n, g in (("very good", 0, 3.0), ("not very good", 1, 3.0), ("not too bad", 1, -0.2)):
    token = torch.tensor([[[n, g]]])
    print(f"{text:<13} g was {g:4.1f}, is {(token + block(token))[0, 0, 1]:4.1f}")

# %% [markdown]
# We chose these weights. Does training find such ones? Let blocks with 2 to 32 units learn to multiply two numbers
# between -2 and 2, from 256 examples. Each gets three tries, and the best one counts.


# %%
def learn_to_multiply(block):
    generator = torch.Generator().manual_seed(1)
    pairs = 4 * torch.rand(256, 1, 2, generator=generator) - 2
    optimizer = torch.optim.Adam(block.parameters())
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        loss = (block(pairs)[..., 0] - pairs.prod(dim=-1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() ** 0.5


# %%
units, errors = [2, 4, 8, 16, 32], {"ReLU": [], "SwiGLU": []}
for n_units in units:
    for name, kind in (("ReLU", ReLUFeedForward), ("SwiGLU", SwiGLU)):
        tries = []
        for seed in range(3):
            torch.manual_seed(seed)
            tries.append(learn_to_multiply(kind(2, n_units)))
        errors[name].append(min(tries))

# %% [markdown]
# Both axes are logarithmic. Compare the second point of the orange line with the last one of the blue line.

# %% varies
plots.errors_of_products(units, errors)
assert errors["SwiGLU"][1] < errors["ReLU"][-1]

# %% [markdown]
# Four units with a gate come closer than 32 without. (With two it found something, but not our exact pair.) A unit
# with a gate costs three rows instead of two. That is half as much again, not eight times as much.

# %% [markdown]
# The package's version, in full. `bias` is there for other models; no LLaMA has one here.

# %% show
show("feedforward.SwiGLU")

# %% [markdown]
# Gates come in several kinds, and papers name them by what the gate goes through:
#
# | name | value of a unit | used by |
# |---|---|---|
# | GLU | sigmoid(gate) · up | convolutional models of 2016 |
# | ReGLU | relu(gate) · up | |
# | GEGLU | gelu(gate) · up | T5 (version 1.1), Gemma |
# | **SwiGLU** | silu(gate) · up | PaLM, LLaMA |
#
# Shazeer compared them in 2020 and found the gated ones better than the others, by a little, and could not say why:
# *"We offer no explanation as to why these architectures seem to work; we attribute their success, as all else, to
# divine benevolence."*

# %% [markdown]
# ## What a trained unit listens for
#
# Our unit for "not" was made up. Are there such units in a trained model? The Shakespeare LLaMA has 4 layers of 512
# units. Let it read 30,720 characters that it was not trained on, and for each unit look up the 20 places where its
# value is largest. Which three characters had it just read there?

# %%
read = validation[: 120 * 256].view(120, 256)
values = []
hooks = [layer.feedforward.down_proj.register_forward_pre_hook(lambda part, inputs: values.append(inputs[0]))
         for layer in trained.model.layers]  # fmt: skip
with torch.no_grad():
    trained.model(read)
for handle in hooks:
    handle.remove()
characters = trained.tokenizer.decode(read.flatten().tolist())
values = [layer.flatten(0, 1) for layer in values]  # of each layer: (30720, 512)


# %%
def heard(layer, unit, sign=1):
    """The three characters last read at the 20 places where this unit is strongest."""
    places = (sign * values[layer][:, unit]).topk(20).indices.tolist()
    return [characters[place - 2 : place + 1] for place in places]


for layer, unit in ((0, 158), (0, 489), (1, 217), (1, 176)):
    found = heard(layer, unit)
    print(f"layer {layer}, unit {unit}:", {repr(ending): found.count(ending) for ending in sorted(set(found))})

# %% [markdown]
# Unit 158 of the first layer hears "not", 20 times out of 20. Nobody told it to. Now read its value along a sentence
# that is not in its training text (Hamlet is not among the nine plays).

# %%
line, along = "To be, or not to be, that is the question", []
hook = trained.model.layers[0].feedforward.down_proj.register_forward_pre_hook(
    lambda part, inputs: along.extend(inputs[0][0, :, 158].tolist())
)
with torch.no_grad():
    trained.model(torch.tensor([trained.tokenizer.encode(line)]))
hook.remove()

# %% [markdown]
# See at which letters it speaks: a bar for each letter, the highest one in orange.

# %%
plots.heard_by_a_unit(line, along, "When does unit 158 of the first layer speak?")
assert line[max(range(len(line)), key=along.__getitem__) - 2 :].startswith("not")

# %% [markdown]
# Its highest bar by far is at the end of "not". (It is not quite silent elsewhere; see the end of "question".)
#
# And what do units write? A column of `down_proj` is added to the token, and at the end the token is compared with
# the embedding of each character. So one can ask a unit of the last layer directly: which character becomes more
# likely if you speak? (`trained.model.norm.weight` is a factor per channel that comes in between, chapter 07.)


# %%
def written(layer, unit, sign=1):
    """The character whose score rises most when this unit speaks."""
    column = sign * trained.model.layers[layer].feedforward.down_proj.weight[:, unit]
    scores = trained.model.lm_head.weight @ (trained.model.norm.weight * column)
    return trained.tokenizer.decode([scores.argmax().item()])


for unit, sign in ((446, -1), (224, 1)):
    found = heard(3, unit, sign)
    most = max(set(found), key=found.count)
    print(f"layer 3, unit {unit}: hears {most!r} ({found.count(most)} of 20), writes {written(3, unit, sign)!r}")

# %% [markdown]
# One hears " yo" and writes "u". The other hears "RUC" and writes "H": it has learned the name PETRUCHIO. (The value
# of the first one is negative there, and what it writes is turned over accordingly.)
#
# This is one way to read the block: a **memory**, with what to listen for as the keys and what to write as the
# values. We picked clear examples. How many are clear? Count the units whose 20 strongest places all have the same
# three characters.

# %%
for layer in range(4):
    same = sum(len(set(heard(layer, unit, sign))) == 1 for unit in range(512) for sign in (1, -1))
    print(f"layer {layer}: {same} of 1024 (each unit in both directions)")

# %% [markdown]
# A minority. Most units answer to several things at once, or to something that three characters don't show.

# %% [markdown]
# ## How wide?
#
# With ReLU, F = 4 · C was the custom. That costs 2 · C · 4C = 8 · C² numbers. SwiGLU has three matrices, 3 · C · F.
# To cost the same, F must be
#
# F = 8 · C² / (3 · C) = 8/3 · C, or two thirds of 4 · C
#
# For LLaMA 7B with C = 4096 that is 10,922.67. But the file says 11008. Where does it come from? Graphics cards work
# through matrices in tiles, of 128 or 256 numbers. A width that does not fill its last tile wastes time, so LLaMA
# rounds **up** to a multiple of 256:
#
# | step | |
# |---|---|
# | two thirds of 4 · 4096, what is behind the point cut off | 10922 |
# | how many times 256? | 42.66 |
# | rounded up, times 256 | 43 · 256 = **11008** |
#
# Later models stretch the width before rounding, with a **multiplier**, and round to larger multiples. Llama 2 70B has
# C = 8192, the multiplier 1.3, and rounds to a multiple of 4096:
#
# | step | |
# |---|---|
# | two thirds of 4 · 8192, cut off | 21845 |
# | times 1.3, cut off | 28398 |
# | how many times 4096, rounded up? | 6.93, so 7 |
# | 7 · 4096 | **28672** |
#
# **Exercise 05.6.** Write `swiglu_d_ff`. Cut off with `int(...)`; `math.ceil` rounds up. Without a multiplier it is
# None.

# %% exercise: 05.6

# %% check: 05.6
swiglu_d_ff = check("05.6", swiglu_d_ff)

# %% [markdown]
# Does the rule give the real sizes? multiple_of and multiplier stand in the file `params.json` that comes with each
# model.

# %%
rules = {"llama-1-7b": (256, None), "llama-1-13b": (256, None), "llama-1-33b": (256, None), "llama-1-65b": (256, None),
         "llama-2-70b": (4096, 1.3), "llama-3-8b": (1024, 1.3), "llama-3.1-405b": (4096, 1.2),
         "llama-3.2-1b": (256, 1.5)}  # fmt: skip
for name, (multiple_of, multiplier) in rules.items():
    size = PRESETS[name]
    by_rule = swiglu_d_ff(size.d_model, multiple_of, multiplier)
    print(f"{name:<15} C = {size.d_model:>5}  F = {by_rule:>5}  {by_rule / size.d_model:.2f} units per channel")
    assert by_rule == size.d_ff

# %% [markdown]
# LLaMA 1 has 2.67 units per channel plus the rounding, and so has Llama 2 up to 13B. From Llama 2 70B on there are 3.25
# to 4 of them. Why wider? One reason: grouped queries (chapter 04) make the attention smaller. Where the Llama 2 paper
# compares kinds of attention (appendix A.2.1), it widens the blocks of those with fewer keys and values by about 1.3,
# so that all models keep the same size.

# %% [markdown]
# ## Where the numbers live
#
# **Predict.** Llama 2 7B has 6.74 billion parameters, in the embedding, the attention of 32 layers, the feed-forward
# blocks of 32 layers, and the output layer. Which share of them is in the feed-forward blocks?

# %% predict: share
share = 0.64  # a number between 0 and 1

# %% [markdown]
# Count them. Per layer there are four matrices of attention, whose sizes you know from chapter 04, and the three of
# SwiGLU. In front of each of the two stands a **norm**, which has one number per channel (chapter 07), and one more
# norm stands behind the last layer. The **embedding** has a row of C numbers for each token of the vocabulary. The
# output layer has as many; in some small models it uses the very numbers of the embedding. That is called **tied**,
# and then it has none of its own.
#
# All sizes are in a `Config`: `d_model`, `n_layers`, `n_heads`, `n_kv_heads`, `head_dim`, `d_ff`, `vocab_size`,
# `tied`.
#
# **Exercise 05.7.** Write `parameters_by_part`.

# %% exercise: 05.7

# %% check: 05.7
parameters_by_part = check("05.7", parameters_by_part)

# %% reveal: share
counts = parameters_by_part(PRESETS["llama-2-7b"])
total = sum(counts.values())
for name, count in counts.items():
    print(f"{name:<12}{count:>14,}  {count / total:6.1%}")
print(f"{'together':<12}{total:>14,}")
assert total == costs(PRESETS["llama-2-7b"]).n_parameters
predicted(share, round(counts["feedforward"] / total, 2), within=1.1)

# %% [markdown]
# Nearly two thirds. When people talk about transformers they talk about attention; when a graphics card works on one,
# it mostly multiplies feed-forward matrices. The figure has five models. Look at the largest piece, and at the
# embeddings of the small one: Llama 3 has four times as many tokens as Llama 2.


# %%
def shares_of(name):
    counts = parameters_by_part(PRESETS[name])
    tables = counts["embedding"] + counts["output"]
    parts = {"attention": counts["attention"], "feed-forward": counts["feedforward"], "embedding and output": tables}
    return {part: count / sum(counts.values()) for part, count in parts.items()}


names = {"LLaMA 1 7B": "llama-1-7b", "Llama 2 70B": "llama-2-70b", "Llama 3 8B": "llama-3-8b",
         "Llama 3.1 405B": "llama-3.1-405b", "Llama 3.2 1B": "llama-3.2-1b"}  # fmt: skip
plots.parts_of_models({model: shares_of(name) for model, name in names.items()})
assert all(0.6 < shares_of(name)["feed-forward"] < 0.85 for name in names.values())

# %% [markdown]
# ### How much work is it?
#
# A matrix of n · m numbers costs one multiplication and one addition per number, for every token: **2 operations per
# parameter**. So the work of the matrices divides as their numbers do. (Looking up a row of the embedding costs
# nothing.)
#
# One thing is not in any matrix: each query meets all keys, and averages all values. That is 4 · T · H · D operations
# per layer for the last token of a text of T tokens (2 for each product of q and k, 2 for each weighted value). It
# grows with the text, the rest does not. At which T does it catch up with the feed-forward block? With H · D = C:
#
# 4 · T · C = 2 · 3 · C · F, so T = 1.5 · F
#
# For Llama 2 7B that is 1.5 · 11008 = 16,512 tokens, four times as many as it was trained for.

# %%
size = PRESETS["llama-2-7b"]
lengths = [2**k for k in range(8, 18)]
billions = {
    "feed-forward": [2 * counts["feedforward"] / 1e9 for _ in lengths],
    "attention: matrices": [2 * counts["attention"] / 1e9 for _ in lengths],
    "attention: q · k and averages": [4 * T * size.d_model * size.n_layers / 1e9 for T in lengths],
}

# %% [markdown]
# Two lines are flat, one rises. The grey line is at 1.5 · F.

# %%
plots.operations_by_length(lengths, billions, crossing=1.5 * size.d_ff)
for T, *parts in zip(lengths, *billions.values(), strict=True):
    everything = 1e9 * sum(parts) + 2 * counts["output"] + 2 * counts["norms"]
    assert math.isclose(everything, costs(size, n_tokens=T).flops_per_token, rel_tol=1e-3)

# %% [markdown]
# For a text of 4,096 tokens, the feed-forward blocks do twice the work of the attention's matrices, and four times
# that of the looking itself.

# %%
for name, values in billions.items():
    print(f"{name:<30} {values[lengths.index(4096)]:.2f} billion operations per token")

# %% [markdown]
# ## Does it help?
#
# Train it, with and without. Six small LLaMAs on Shakespeare's characters:
#
# - **attention only**: two layers without a feed-forward block;
# - **attention, 6 layers**: as many parameters as the others have, all of them spent on attention;
# - **ReLU**, **GELU**, **two ReLUs** (the formula from above): two layers with 192 units;
# - **SwiGLU**: two layers with 128 units. 3 · 48 · 128 is 2 · 48 · 192: the same number of parameters, exactly.


# %%
class Nothing(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()

    def forward(self, x):
        return torch.zeros_like(x)


class GELUFeedForward(ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(F.gelu(self.up_proj(x)))


# %%
versions = {
    "attention only": (Nothing, 192, 2),
    "attention, 6 layers": (Nothing, 192, 6),
    "ReLU": (partial(ReLUFeedForward, bias=False), 192, 2),
    "GELU": (partial(GELUFeedForward, bias=False), 192, 2),
    "SwiGLU": (SwiGLU, 128, 2),
    "two ReLUs": (partial(TwoReLUs, bias=False), 192, 2),
}
for name, (part, d_ff, n_layers) in versions.items():
    print(f"{name:<20} {build(part, d_ff, n_layers).n_parameters:,} parameters")

# %% [markdown]
# Every result needs a second look at where it started. It is the custom to start with random numbers of a deviation
# of 0.02, and `Llama` does it too. A sum of C such numbers, each times a channel of size 1, is 0.02 · √C away from 0:
# with the 4,096 channels of LLaMA 7B that is 1.28, with our 48 it is 0.14. Is that a difference? Not for ReLU: a sum
# half as large is let through half as large, and the next layers can make up for it. But a gate at 0.14 is neither
# open nor shut, and what it lets through is multiplied by another 0.14.

# %%
for z in (0.14, 1.28):
    gate = torch.tensor(z)
    print(f"sums of {z}: ReLU gives {z:.2f}, SwiGLU {(F.silu(gate) * z).item():.2f}")

# %% [markdown]
# So train everything twice: from *gentle* weights, 0.02, and from *full-size* weights, 1/√48 = 0.144, with which our
# small model starts as a wide one does. And each of these several times, from other random numbers, to see how much
# is luck.
#
# **Predict.** ReLU and SwiGLU have the same number of parameters here. Which one has the lower loss: "ReLU" both
# times, "SwiGLU" both times, or does it "depend" on the weights they start from?

# %% predict: winner
winner = "depend"  # "ReLU", "SwiGLU" or "depend"

# %% [markdown]
# This takes three minutes or so.


# %%
def full_size(model):
    for part in model.layers.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=48**-0.5)
    return model


def final_loss(name, seed, start, steps=30 if FAST else 500):
    part, d_ff, n_layers = versions[name]
    model = start(build(part, d_ff, n_layers, seed))
    train(model, steps, lr=0.004, falling=True)
    return evaluate(model, validation[: 4_000 if FAST else 20_000], 64)


# %% varies
def seeds_of(name):
    return (0,) if FAST else (0, 1, 2) if name in ("ReLU", "GELU", "SwiGLU") else (0, 1)


losses = {
    start: {name: [final_loss(name, seed, prepare) for seed in seeds_of(name)] for name in versions}
    for start, prepare in (("gentle weights", lambda model: model), ("full-size weights", full_size))
}
means = {start: {name: sum(row) / len(row) for name, row in runs.items()} for start, runs in losses.items()}

# %% [markdown]
# Each circle is a run, each bar the average of a row. Look first at the distance between the upper two rows and the
# rest. Then compare ReLU with SwiGLU, left and right, and see how far the circles of one row lie apart.

# %% reveal: winner
plots.losses_by_seed(losses)
for row in means.values():
    assert FAST or max(row["ReLU"], row["GELU"], row["SwiGLU"]) < row["attention only"] - 0.05
    assert FAST or max(row["ReLU"], row["SwiGLU"]) < row["attention, 6 layers"]
best = [min(("ReLU", "SwiGLU"), key=row.get) for row in means.values()]
assert FAST or best == ["ReLU", "SwiGLU"]  # a shortened run can't tell
predicted(winner, "depend")

# %% varies
for start, runs in losses.items():
    print(start)
    for name, row in runs.items():
        print(f"    {name:<20} {means[start][name]:.3f}   runs:", *(f"{loss:.3f}" for loss in row))

# %% [markdown]
# What the full run says (a shortened one says little):
#
# - **The block is worth its place.** Both rows without it are behind, and six layers of nothing but attention, with
#   as many parameters as the others, do not catch up.
# - **Which block is best depends on where it starts.** From gentle weights ReLU is ahead of SwiGLU, from full-size
#   weights SwiGLU is ahead of ReLU.
# - **The differences between the blocks are small**, about a tenth of a nat at most, and the runs of one row may lie as
#   far apart. Whoever shows you one run of each has shown you nothing.
# - **The second ReLU does not show.** A model that is trained with it finds other ways to take things away: the next
#   attention can, and the matrix that reads the result. It is another model all the same: put it around the blocks of
#   a real one, and you have seen what happens. No loss curve will tell you that you copied the wrong formula.
#
# So why does LLaMA use SwiGLU? Its authors went by what others had measured on far larger models, which start
# full-size because they are wide: a small gain, again and again. In a training run for millions of dollars, a few
# hundredths of a nat for the same number of parameters are a bargain.
#
# ## What the LLaMAs do
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3, 3.1 (2024) |
# |---|---|---|---|
# | block | SwiGLU, no biases | the same | the same |
# | C and F, smallest | 7B: 4096, 11008 | 7B: 4096, 11008 | 8B: 4096, 14336 |
# | C and F, largest | 65B: 8192, 22016 | 70B: 8192, 28672 | 405B: 16384, 53248 |
# | width | two thirds of 4 · C | the same; 70B: times 1.3 | times 1.3; 405B: times 1.2 |
# | rounded up to multiples of | 256 | 256; 70B: 4096 | 8B: 1024; 70B, 405B: 4096 |
#
# Sources: [LLaMA](https://arxiv.org/abs/2302.13971), section 2.2; [Llama 2](https://arxiv.org/abs/2307.09288),
# section 2.2 and appendix A.2.1; [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), table 3; multiples
# and multipliers are in the `params.json` of the models. How many units is that in a whole model?

# %%
for name in ("llama-1-7b", "llama-1-65b", "llama-2-70b", "llama-3-8b", "llama-3.1-405b"):
    size = PRESETS[name]
    share = parameters_by_part(size)["feedforward"] / sum(parameters_by_part(size).values())
    print(
        f"{name:<15} {size.n_layers:>3} layers of {size.d_ff:,}: {size.n_layers * size.d_ff:,} units, {share:.0%} of it"
    )

# %% [markdown]
# ## Plug yours in
#
# `my_parts()` builds a model's parts from what has passed its check. Your SwiGLU is one of them.

# %% varies
mine = Llama(PRESETS["tiny"], my_parts())
with torch.no_grad():
    print(tuple(mine(torch.zeros(1, 5, dtype=torch.long)).shape), f"{mine.n_parameters:,} parameters")
assert mine.n_parameters == costs(PRESETS["tiny"]).n_parameters

# %% [markdown]
# ## What you have now
#
# - Attention moves things between tokens. The feed-forward block makes something of what has arrived, for each token
#   by itself.
# - A unit listens for something, and writes something if it hears it. The bend in the middle is what makes that
#   possible: without it, two matrices are one.
# - One bend, in the middle. What the block writes must be able to be negative.
# - A ReLU unit that no token switches on never learns again.
# - A gate multiplies. It costs a third matrix, so the width is two thirds of what it was, rounded up.
# - About two thirds of a LLaMA's numbers are here, or more.
#
# ## Further reading
#
# - *Attention Is All You Need*, Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, 2017.
#   Section 3.3, with one ReLU.
# - *Perceptrons*, Minsky and Papert, 1969. What a single sum can't say.
# - *Gaussian Error Linear Units (GELUs)*, Hendrycks and Gimpel, 2016.
# - *Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement Learning*, Elfwing,
#   Uchibe and Doya, 2017. SiLU.
# - *Language Modeling with Gated Convolutional Networks*, Dauphin, Fan, Auli and Grangier, 2016. The first GLU.
# - *GLU Variants Improve Transformer*, Shazeer, 2020. Five pages; SwiGLU is in equation 6.
# - *Transformer Feed-Forward Layers Are Key-Value Memories*, Geva, Schuster, Berant and Levy, 2021. What units listen
#   for and write, in a larger model.
# - *Attention Is Not All You Need: Pure Attention Loses Rank Doubly Exponentially with Depth*, Dong, Cordonnier and
#   Loukas, 2021.
#
# Next, chapter 06: neither attention nor this block knows in which order the tokens stand.
