# %% [markdown]
# # 07 · Normalization: how to stack eighty layers
#
# After this chapter you can say why a deep network fails without normalization, and show it. You can write LayerNorm
# and its backward pass, RMSNorm as LLaMA uses it, and the block that LLaMA repeats 32 to 126 times. And you can find
# a bug in such a block that makes small models look *better*.
#
# Reading takes about 80 minutes, the six exercises about 90. Chapter 05 is enough to follow it: vectors of numbers,
# matrices, the feed-forward block, and a loss that training pushes down. Attention appears as a closed box, in which
# tokens look at each other.

# %%
import inspect
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import assets
from minillama.block import Parts, PostNormBlock
from minillama.certify import certify
from minillama.config import PRESETS, Config
from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.course.exercises.ch07_norm import SUSPECTS
from minillama.data import Batches, split
from minillama.llama import Llama
from minillama.plots import norm as plots

# %%
from minillama.saving import open_checkpoint
from minillama.tokenizer import CharTokenizer
from minillama.train import AdamW, evaluate, next_token_loss

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## A factor per layer
#
# The largest LLaMA 1 has 80 layers. Each takes a token's vector and hands on a new one. Suppose that each layer makes
# the vector 10 % longer. That sounds harmless.
#
# **Predict.** How many times longer is the vector after 80 layers? About 8, about 80, or about 2,000?

# %% predict: growth
growth = 2000  # 8, 80 or 2000

# %% reveal: growth
print(f"10 % longer each time:  {1.1**80:.0f} times as long")
print(f"10 % shorter each time: {0.9**80:.5f} times as long")
predicted(growth, round(1.1**80), within=1.1)

# %% [markdown]
# Layers multiply. A factor of 1.1 becomes 2,048 and a factor of 0.9 becomes 0.0002. The only factor that survives
# eighty layers is 1, and it has to be 1 almost exactly.
#
# Who decides what the factor is? The weights do, and weights move in training. Here is a model that was trained for
# about a quarter of an hour; it comes with the course. Its matrices started as random numbers with a deviation of
# 0.02. Such a matrix makes a vector of 192 channels about 0.02 · √192 = 0.28 times as long. What has become of that?

# %%
trained = open_checkpoint(assets.shipped_model())
print("at the start: about", round(0.02 * 192**0.5, 2))
for name in ("attention.v_proj", "attention.o_proj", "feedforward.up_proj"):
    matrices = [layer.get_submodule(name).weight for layer in trained.model.layers]
    print(f"{name:20}", [round((m.std() * m.size(1) ** 0.5).item(), 1) for m in matrices])

# %% [markdown]
# Four layers, four numbers in each row. Training made the matrices two to five times as strong, and each layer
# differently. So it does not help to start with the right factor: no layer stays there.
#
# ## How long is a vector?
#
# Take `[1, 7, 5, 5]`. Square each number: 1, 49, 25, 25. Average: 100 / 4 = 25. Take the root: 5. This is the **root
# mean square** of the vector, RMS for short. It says how large its numbers typically are, whatever their signs, and
# however many they are. When this chapter says "long", it means this number.


# %%
def rms(x):
    return x.pow(2).mean(-1, keepdim=True).sqrt()


print(rms(torch.tensor([1.0, 7, 5, 5])), rms(torch.tensor([3.0, -4, 0, 0])))

# %% [markdown]
# `mean(-1)` averages over the last axis. `keepdim=True` keeps that axis, with size 1, so that `x / rms(x)` divides
# all numbers of a vector by its one RMS. (Size 1 against size 4: PyTorch repeats the one number four times. This is
# called **broadcasting**.)
#
# ## Forty layers
#
# Now 40 layers, as bare as possible: each is a matrix of random numbers that neither lengthens nor shortens a typical
# vector. Two ways to stack them:
#
# - **replace**: the vector becomes what the layer makes of it. Let each matrix be a little weak, 0.7.
# - **add**: the layer's result is added to what was there. Every transformer does this. It is called a **residual
#   connection**, and it means that a layer that has nothing to say does no harm.


# %%
C = 256
generator = torch.Generator().manual_seed(0)
layers = [torch.randn(C, C, generator=generator) / C**0.5 for _ in range(40)]
start = torch.randn(C, generator=generator)
start = start / rms(start)


def walk(step):
    x, lengths = start, [1.0]
    for matrix in layers:
        x = step(x, matrix)
        lengths.append(rms(x).item())
    return lengths


# %% [markdown]
# The axis of the figure is logarithmic, so that a factor per layer is a straight line.

# %%
lengths = {
    "add": walk(lambda x, matrix: x + matrix @ x),
    "replace": walk(lambda x, matrix: 0.7 * matrix @ x),
}
plots.lengths_by_depth(lengths, "How long is a vector after 40 layers?")
assert lengths["add"][-1] > 1e5 and lengths["replace"][-1] < 1e-5

# %% [markdown]
# "Replace" is gone after 40 layers: six zeros behind the point. "Add" has grown a million times, though no matrix
# lengthens anything. Why? A random matrix turns the vector into another direction, nearly at a right angle to the old
# one. Put two arrows of length 1 together at a right angle, and Pythagoras says how long the sum is: √(1² + 1²) =
# 1.41. Forty times that: √2⁴⁰ = 2²⁰, a million. Nothing is broken. That is what adding does.

# %%
turned = torch.stack([matrix @ start for matrix in layers])
cosines = F.cosine_similarity(turned, start[None], dim=-1)
print(f"cosine of the angle (0 is a right angle): {cosines.min():.2f} to {cosines.max():.2f}")
print(f"length of the sum: {rms(start + turned).mean():.2f} on average; 2 ** 20 = {2**20:,}")

# %% [markdown]
# ## What the first layer hears of it
#
# Long vectors would only be ugly. The harm is in the learning.
#
# Training needs **slopes**: for each weight, how much the score changes if you nudge the weight a little. (The
# *score* is whatever number judges the model, such as its loss. All slopes of a layer together are its **gradient**.)
# A nudge in the first layer travels through all layers above before it reaches the score, and each of them multiplies
# it by its factor. So slopes shrink and grow as vectors do.
#
# Measure it: stacks of 1 to 64 layers, and the length of the first matrix's gradient. There is a third kind now,
# "add, normalized": each layer reads the vector divided by its RMS, and the score does too.


# %%
def first_slope(step, n_layers, last=lambda x: x):
    generator = torch.Generator().manual_seed(1)
    matrices = [torch.randn(C, C, generator=generator) / C**0.5 for _ in range(n_layers)]
    first = matrices[0].requires_grad_()
    x = start
    for matrix in matrices:
        x = step(x, matrix)
    score = (last(x) * torch.randn(C, generator=generator)).mean()
    score.backward()
    return first.grad.norm().item()


# %% [markdown]
# Look at the right end of each line.

# %%
depths = [1, 2, 4, 8, 16, 32, 64]
slopes = {
    "add": [first_slope(lambda x, m: x + m @ x, n) for n in depths],
    "replace": [first_slope(lambda x, m: 0.7 * m @ x, n) for n in depths],
    "add, normalized": [first_slope(lambda x, m: x + m @ (x / rms(x)), n, lambda x: x / rms(x)) for n in depths],
}
plots.first_slopes(depths, slopes)
assert slopes["add"][-1] > 1e6 and slopes["replace"][-1] < 1e-6
assert max(slopes["add, normalized"]) < 4 * min(slopes["add, normalized"])

# %% [markdown]
# With 64 layers "replace" gives the first layer a slope of 10⁻¹⁰: whatever it does, the score does not care, and it
# never learns. People say that the gradient **vanishes**. "Add" gives it 10⁹: the smallest step throws everything
# over. The gradient **explodes**. The third line is flat. One division per layer did that, and the rest of this
# chapter is about this division: what exactly is divided, where it stands, and how to get it wrong.
#
# ## LayerNorm by hand
#
# The transformer of 2017 used LayerNorm, from 2016. It does two things to each token: shift it so that its average is
# 0, then stretch it so that its typical size is 1. Take a token with four channels (that is what the C numbers of a
# token are called):
#
# | | a | b | c | d | |
# |---|---|---|---|---|---|
# | the token | 9 | 7 | 15 | 1 | their mean is 32 / 4 = 8 |
# | minus the mean | 1 | -1 | 7 | -7 | squares: 1, 1, 49, 49; their mean is 25, its root 5 |
# | divided by the root | 0.2 | -0.2 | 1.4 | -1.4 | |
#
# The mean of the squares, 25, is the **variance** of the token; its root, 5, is the **standard deviation**, `std`. So
# the second step divides by the RMS of what the first step left over. The result has mean 0 and RMS 1, whatever the
# token was. We will call it `x_hat`.

# %%
token = torch.tensor([9.0, 7, 15, 1])
centred = token - token.mean()
x_hat = centred / rms(centred)
print(x_hat)

# %% [markdown]
# In the figure each channel keeps its colour. The order and the proportions of the distances stay; place and size are
# gone.

# %%
plots.steps_of_a_norm(
    {"token": [9.0, 7.0, 15.0, 1.0], "minus mean": [1.0, -1.0, 7.0, -7.0], "divided by std": [0.2, -0.2, 1.4, -1.4]}
)
assert torch.allclose(x_hat, torch.tensor([0.2, -0.2, 1.4, -1.4]))

# %% [markdown]
# Each token is treated by itself: its mean and its deviation come from its own channels, and no other token is looked
# at. Everything else is details, and the details are where the mistakes live.
#
# ### Detail 1: divide by C, not by C - 1
#
# `torch.var` and `torch.std` divide the sum of the squares by C - 1 unless told otherwise. Statisticians need that.
# LayerNorm divides by C. With four channels the difference is large; with 4,096 nobody would see it in a loss curve.

# %%
print("divided by C - 1:", round(token.var().item(), 2), "by C:", token.var(correction=0).item())

# %% [markdown]
# ### Detail 2: eps
#
# A token whose channels are all alike has variance 0, and 0 / 0 is not a number. So a tiny number, **eps**, is added
# to the variance, inside the root: `sqrt(var + eps)`. It is 0.00001 here, in Python `1e-5`.

# %%
alike = torch.full((4,), 7.0)
centred = alike - alike.mean()
print("without eps:", centred / centred.pow(2).mean().sqrt())
print("with eps:   ", centred / (centred.pow(2).mean() + 1e-5).sqrt())

# %% [markdown]
# `nan` is a plague: any sum with a `nan` in it is `nan`. One such token, one training step, and all weights are
# `nan`.
#
# ### Detail 3: sixteen bits
#
# Large models keep their numbers in 16 bits instead of 32: half the memory, and more speed where the hardware knows
# how. There are two ways to spend 16 bits. `float16` is exact to about three digits, but it ends at 65,504.
# `bfloat16` reaches as far as `float32`, but is exact to two digits only.
#
# **Predict.** Take the token `[300, -300, 300, -300]` in `float16`. Its mean is 0 and its RMS is 300, so the answer
# is `[1, -1, 1, -1]`. Now compute it as above, all in `float16`. What is the largest number that comes out: 1, 0, or
# is it `"inf"` or `"nan"`?

# %% predict: half
largest = 0  # 1, 0, "inf" or "nan"

# %% reveal: half
half = torch.tensor([300.0, -300, 300, -300], dtype=torch.float16)
squares = half.pow(2)
print("squares:", squares)
out = half / (squares.mean() + 1e-5).sqrt()
print("out:    ", out)
predicted(largest, round(out.max().item()))

# %% [markdown]
# 300² is 90,000, more than 65,504: infinity. The mean of infinities is infinity, its root too, and 300 divided by
# infinity is 0. The token is *gone*, and nothing complains. The way out is to compute in `float32` whatever comes in,
# and to go back at the end:

# %%
wide = half.float()
print((wide / (wide.pow(2).mean() + 1e-5).sqrt()).to(half.dtype))

# %% [markdown]
# Do real models have numbers beyond 255? In LLaMA 2 7B single channels above 1,000 have been found (Sun et al. 2024).
#
# ### Detail 4: a weight and a bias
#
# A token of RMS 1 is not always what the next matrix wants. So each channel gets two numbers of its own that training
# moves: a factor, the **weight**, which starts at 1, and a summand, the **bias**, which starts at 0. The result is
# `x_hat * weight + bias`. Both have shape (C,) and are the same for all tokens; broadcasting repeats them for the B
# texts of a batch and the T tokens of a text.
#
# **Exercise 07.1.** Write the `forward` of `LayerNorm`; `__init__` is given. Compute in `float32`, and give back the
# dtype that came in: after `.to(x.dtype)`, times weight, plus bias.

# %% exercise: 07.1

# %% check: 07.1
LayerNorm = check("07.1", LayerNorm)

# %% [markdown]
# ## The slopes of LayerNorm
#
# PyTorch follows slopes by itself. For this one layer do it by hand: it shows why a norm makes training easier, and
# it is a good test of whether you know what a norm does.
#
# A slope is measured with a nudge. Raise channel a of our token from 9 to 9.001 and look how far each output moves,
# per unit of nudge:


# %%
def normalize(x):
    return (x - x.mean()) / rms(x - x.mean())


token = token.double()  # float64: 16 digits, so that small differences can be trusted
nudge = torch.tensor([0.001, 0, 0, 0]).double()
print((normalize(token + nudge) - normalize(token - nudge)) / 0.002)

# %% [markdown]
# Only one channel was touched, and all four outputs moved. The others went *down*. Nudging up and down and dividing
# by the distance, as here, is called taking **numerical differences**. It works for anything, and needs two runs per
# number.
#
# The figure shows the same for all four channels; its first row is what you have measured. Look at c and d, the two
# channels far from the mean. Nudge c up, and output c hardly moves: c is what makes this token long, and length is
# divided away. But d comes up from below, nearly as much.

# %%
columns = [(normalize(token + n) - normalize(token - n)) / 0.002 for n in 0.001 * torch.eye(4).double()]
slopes = torch.stack(columns)
plots.table_of_slopes(slopes.tolist())
assert abs(slopes[0, 0].item() - 0.148) < 1e-3 and slopes.sum(0).abs().max() < 1e-6

# %% [markdown]
# Where does 0.148 come from? The output is `x_hat = (x - mean) / std`, with a mean of 8 and a std of 5. A nudge of
# size t in channel a gets to the outputs on three routes:
#
# 1. **Directly.** x moves by t, so output a moves by t / 5.
# 2. **Through the mean.** The mean moves by t / 4, and all four outputs go down by (t / 4) / 5.
# 3. **Through the std.** It moves too. By how much? Measure it:

# %%
for channel in range(4):
    nudge = 0.001 * torch.eye(4)[channel].double()
    moved = rms(token + nudge - (token + nudge).mean()) - rms(token - nudge - (token - nudge).mean())
    print("abcd"[channel], f"std moves by {moved.item() / 0.002:+.2f} per unit, x_hat is {x_hat[channel]:+.1f}")

# %% [markdown]
# The std moves by `x_hat / 4` of the nudge: channels far from the mean pull most. When the std grows, all outputs
# shrink in proportion to themselves: output j moves by `-x_hat[j]` times that, divided by 5. Add the three routes for
# a nudge of channel a, where `x_hat[a]` is 0.2:
#
# | output | direct | through the mean | through the std | sum, divided by 5 |
# |---|---|---|---|---|
# | a | 1 | -0.25 | -0.2 · 0.2 / 4 = -0.01 | **0.148** |
# | b | 0 | -0.25 | +0.2 · 0.2 / 4 = +0.01 | **-0.048** |
# | c | 0 | -0.25 | -1.4 · 0.2 / 4 = -0.07 | **-0.064** |
# | d | 0 | -0.25 | +1.4 · 0.2 / 4 = +0.07 | **-0.036** |
#
# The same four numbers as measured. (The table in the figure is symmetric: nudging a moves c as much as nudging c
# moves a.)
#
# ### From outputs back to inputs
#
# Training asks the question the other way round. It knows, for each output j, how much the score changes per unit of
# it: call that `g[j]`. It wants to know the same for each input i. So add up, over all outputs, (how far output j
# moves when i is nudged) · (what that is worth, `g[j]`). Route by route:
#
# - directly: `g[i]`
# - through the mean: minus 1/C of every `g[j]`, together `- mean(g)`
# - through the std: minus `x_hat[i]` / C times every `g[j] * x_hat[j]`, together `- x_hat[i] * mean(g * x_hat)`
#
# and everything divided by std. That is the whole backward pass:
#
# `grad_x = (g - mean(g) - x_hat * mean(g * x_hat)) / std`
#
# By hand, for a score that is output a and nothing else, so g = [1, 0, 0, 0]: mean(g) is 0.25, mean(g · x_hat) is 0.2
# / 4 = 0.05, and the first number is (1 - 0.25 - 0.2 · 0.05) / 5 = 0.148 once more.
#
# ### Two things a norm cannot feel
#
# Add 100 to all channels: LayerNorm takes it off again. Stretch the centred token to twice its length: LayerNorm
# shrinks it again. If the output cannot feel a change, its slope in that direction must be 0. So two checks come for
# free:

# %%
g = torch.tensor([1.0, 0, 0, 0])
grad_x = (g - g.mean() - x_hat * (g * x_hat).mean()) / 5
print("grad_x:", grad_x)
print(f"slope when all channels go up: {grad_x.sum().abs():.3f}, when the token gets longer: {grad_x @ x_hat:.3f}")

# %% [markdown]
# And the division by std: a token that is ten times as long gets slopes that are a tenth. So a layer cannot win by
# shouting. This is the brake that kept the third line in the figure above flat.
#
# ### Weight and bias
#
# The full output is `x_hat * weight + bias`. If `grad_out` says what each output is worth, then
#
# - per unit of bias the output moves by 1, so the bias's slope is `grad_out`,
# - per unit of weight the output moves by `x_hat`, so the weight's slope is `grad_out * x_hat`,
# - per unit of x_hat the output moves by `weight`, so what arrives at x_hat is `g = grad_out * weight`.
#
# One weight serves all tokens of all texts in the batch. A nudge to it moves all of them, so its slope is the *sum*
# of what the B · T tokens say. The same holds for the bias. (`x.sum((0, 1))` adds up over the first two axes.)
#
# **Exercise 07.2.** Write `layer_norm_backward` with these formulas, without PyTorch's own slopes. Here std is
# `sqrt(var + eps)`, as in the forward pass; with that, the formulas stay exactly true.

# %% exercise: 07.2

# %% check: 07.2
layer_norm_backward = check("07.2", layer_norm_backward)

# %% [markdown]
# Believe no formula, measure it: each of the 2 · 3 · 5 inputs is nudged up and down, and the result compared with
# what `layer_norm_backward` says.


# %%
def score(x):
    return (F.layer_norm(x, (5,), weight, eps=1e-5) * worth).sum().item()


generator = torch.Generator().manual_seed(3)
x, worth = (torch.randn(2, 3, 5, generator=generator).double() for _ in range(2))
weight = torch.rand(5, generator=generator).double() + 0.5

# %%
measured = torch.zeros(2, 3, 5).double()
for place in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
    nudge = torch.zeros(2, 3, 5).double()
    nudge[tuple(place)] = 1e-4
    measured[tuple(place)] = (score(x + nudge) - score(x - nudge)) / 2e-4
difference = (measured - layer_norm_backward(x, worth, weight, 1e-5)[0]).abs().max()
print("largest difference below a millionth:", bool(difference < 1e-6))
assert difference < 1e-6

# %% [markdown]
# ## RMSNorm: half of it is enough
#
# LayerNorm shifts, then stretches. Which of the two does the good? In 2019 Zhang and Sennrich left the shift out.
# Their models, for translation among other things, came out as good, and 7 % to 64 % faster. What is left over is
# RMSNorm: **divide each token by its RMS**. No mean, no bias, one pass over the numbers. It is what every LLaMA uses.
#
# By hand: `[1, 7, 5, 5]` has RMS 5, so it becomes `[0.2, 1.4, 1, 1]`. The mean square of that is
# (0.04 + 1.96 + 1 + 1) / 4, which is 1. Its mean is 0.9, and nobody minds.
#
# Draw it for tokens of two channels. An RMS of 1 means x² + y² = 2, so all tokens land on a circle of radius √2. Only
# their direction is left.

# %%
generator = torch.Generator().manual_seed(5)
tokens = torch.randn(14, 2, generator=generator) * torch.tensor([1.7, 1.1])
on_circle = tokens / rms(tokens)
plots.onto_a_circle(tokens.tolist(), on_circle.tolist(), radius=2**0.5)
assert (on_circle.norm(dim=-1) - 2**0.5).abs().max() < 1e-5

# %% [markdown]
# What would LayerNorm do in this picture? It also takes the mean off, and with two channels that leaves only two
# points, (1, -1) and (-1, 1). With 4,096 channels it costs one direction of 4,096, which is why leaving it out
# changes so little.
#
# ### Where eps takes over
#
# The divisor is `sqrt(mean(x²) + eps)`. For a token of RMS 1, an eps of 1e-5 changes nothing that float32 could show
# you. For a token of RMS 0.003 the two summands are equal, since 0.003² ≈ 1e-5. For smaller ones eps wins, and the
# token stays small. The figure shows three versions: LLaMA 2's eps, LLaMA 1's, and one that squares in float16.


# %%
def length_after(x, eps):
    return rms(x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()).mean().item()


inputs = sorted([10 ** (k / 8) for k in range(-40, 29)] + [255.0, 256.0])
outputs = {
    "eps = 1e-5": [length_after(torch.full((1, 64), a), 1e-5) for a in inputs],
    "eps = 1e-6": [length_after(torch.full((1, 64), a), 1e-6) for a in inputs],
    "1e-6, in float16": [length_after(torch.full((1, 64), a).half(), 1e-6) for a in inputs],
}

# %% [markdown]
# In the wide middle all tokens come out at length 1, which is the purpose. See what happens at the two ends.

# %%
plots.outputs_by_input_length(inputs, outputs, {"√1e-6": 1e-6**0.5, "√1e-5": 1e-5**0.5, "256": 256.0})
assert abs(length_after(torch.full((1, 64), 1e-5**0.5), 1e-5) - 0.5**0.5) < 1e-3
assert length_after(torch.full((1, 64), 300.0).half(), 1e-6) == 0

# %% [markdown]
# At 256 the float16 version falls to 0, since 256² = 65,536 is already too much. And the eps of a model is part of
# the model: run LLaMA 1 with LLaMA 2's eps, and small tokens come out shorter than it ever saw in training.
#
# **Exercise 07.3.** Write the `forward` of `RMSNorm`; two or three lines are enough. As before: compute in `float32`,
# and give back the dtype that came in, `float16` for `float16` and `bfloat16` for `bfloat16` (with the weight in the
# same dtype, as in a model that was converted as a whole).

# %% exercise: 07.3

# %% check: 07.3
RMSNorm = check("07.3", RMSNorm)

# %% [markdown]
# ### Break it: a norm that mixes tokens
#
# Which axis is averaged is one number in the code, and every one of them gives the right shape. Here is the version
# with one RMS for all tokens of a text together. Tokens of the same size would never notice. `certify`, from chapter
# 09, changes later tokens and looks whether anything moves at earlier ones:


# %%
class MixedNorm(RMSNorm):
    def forward(self, x):
        return x / (x.pow(2).mean((-2, -1), keepdim=True) + self.eps).sqrt() * self.weight


small = Config(vocab_size=65, d_model=16, n_layers=2, n_heads=2, d_ff=24)
print("RMSNorm:  ", certify(Llama(small, Parts(norm=RMSNorm))).failed)
print("MixedNorm:", certify(Llama(small, Parts(norm=MixedNorm))).failed)

# %% [markdown]
# A token's numbers now depend on how long the *later* tokens are. That is a leak from the future, through one
# divisor. Padding leaks in the same way, and a model that generates word by word gives other answers than in
# training.
#
# ## The residual stream
#
# Back to the forty layers, with the norm where LLaMA has it: each layer reads a normalized *copy*, and its answer is
# added to the vector itself.
#
# `x = x + matrix @ (x / rms(x))`
#
# What the layer adds now has length 1 or so, however long x has become.
#
# **Predict.** x starts with length 1. How long is it after 40 such layers: 1, 6, 40 or a million?

# %% predict: stream
stream = 6  # 1, 6, 40 or 1_000_000

# %% reveal: stream
after_40 = walk(lambda x, matrix: x + matrix @ (x / rms(x)))[-1]
print(f"after 40 layers: {after_40:.1f}")
predicted(stream, round(after_40), within=1.5)

# %% [markdown]
# Pythagoras again: 1 and forty times a 1 at right angles, √41 = 6.4. Not a factor per layer any more, but a summand
# under the root. And if the matrices get stronger in training? Make all of them three times as strong. The figure has
# all four walks. Compare the two upper lines with the two at the bottom.

# %%
lengths = {
    "add, 3 times as strong": walk(lambda x, matrix: x + 3 * matrix @ x)[:29],
    "add": walk(lambda x, matrix: x + matrix @ x),
    "normalized, 3 times": walk(lambda x, matrix: x + 3 * matrix @ (x / rms(x))),
    "normalized": walk(lambda x, matrix: x + matrix @ (x / rms(x))),
}
plots.lengths_by_depth(lengths, "How much does the strength of the matrices matter?")
assert 15 < lengths["normalized, 3 times"][-1] < 25 and 4 < lengths["normalized"][-1] < 9

# %% [markdown]
# Three times the strength makes the normalized vector three times as long, 19 instead of 6. Without the norm it is
# 7·10¹³ times as long after 28 layers (the line was cut there). So a norm does not keep x small. It makes each
# layer's *share* independent of what all the layers below did.
#
# People call x the **residual stream**: it flows past all layers from the embedding to the output, every layer reads
# a copy of it, and every layer adds something. Nothing is overwritten. Here is the stream of the trained model, for
# each letter of a line, before the first block and after each.

# %%
line, seen = "O Romeo, Romeo!", []
hooks = [m.register_forward_pre_hook(lambda _, inputs: seen.append(rms(inputs[0])[0, :, 0].tolist()))
         for m in (*trained.model.layers, trained.model.norm)]  # fmt: skip
with torch.no_grad():
    trained.model(torch.tensor([trained.tokenizer.encode(line)]))
for hook in hooks:
    hook.remove()

# %% [markdown]
# A letter comes in with a length of 0.1. See how it goes on, and that not all letters grow alike.

# %%
plots.stream_by_depth(seen, line)
assert max(seen[0]) < 0.3 and min(seen[-1]) > 3
assert all(below < above for below, above in zip(map(sum, seen), map(sum, seen[1:]), strict=False))

# %% [markdown]
# The stream becomes more than fifty times as long in four blocks, and every block copes with it, because none of them
# sees it: they see copies of RMS 1, times a weight. How much does the trained model depend on that? Take its norms
# out:


# %%
class NoNorm(nn.Module):
    def __init__(self, d_model, eps=1e-5):
        super().__init__()

    def forward(self, x):
        return x


without = Llama(trained.model.config, Parts(norm=NoNorm))
without.load_state_dict(trained.model.state_dict(), strict=False)  # all weights but those of the norms

text = assets.corpus()
train_tokens, validation_tokens = split(torch.tensor(CharTokenizer.train(text).encode(text)))
loss_with, loss_without = (evaluate(m, validation_tokens[:4000], length=256) for m in (trained.model, without))

# %%
print(f"with its norms {loss_with:.2f} nats, without {loss_without:.1f} nats, knowing nothing {math.log(65):.2f}")
assert loss_with < 1.5 and loss_without > math.log(65)

# %% [markdown]
# Worse than a model that knows nothing. A norm is no decoration that can be taken off afterwards.
#
# ## Before or after?
#
# A transformer block has two sub-layers: the attention, in which tokens look at each other (chapter 04), and the
# feed-forward, in which each token thinks by itself (chapter 05). Each gets a residual connection and a norm. There
# are two places for the norm:
#
#     2017, post-norm:    x = norm(x + sublayer(x))        the sum is normalized
#     LLaMA, pre-norm:    x = x + sublayer(norm(x))        what the sub-layer reads is normalized
#
# They look alike. Follow x from the bottom to the top: in the second line it is never touched, only added to. In the
# first it goes through a norm, twice per block, 64 times in a model of 32 blocks. In a pre-norm model one more norm
# stands at the very end, before the output matrix reads the stream.
#
# ### The block
#
# Time to build LLaMA's. The package hands a block its sizes and its parts, so that you can exchange any of them:
#
# - `Config` holds sizes and nothing else: `config.d_model` is C, `config.n_heads` the heads of the attention,
#   `config.d_ff` the width of the feed-forward, `config.norm_eps` the eps.
# - `Parts` holds classes: `parts.norm`, `parts.attention`, `parts.feedforward`. `Parts()` is LLaMA,
#   `Parts(norm=LayerNorm)` is LLaMA with your LayerNorm.
#
# `__init__` is given: it makes two norms, an attention and a feed-forward. Your `forward` is handed x, a mask that
# says who may look at whom, and in `inner` whatever else only the attention understands (such as the rotation of
# chapter 06). Call the attention as `self.attention(something, mask, **inner)`; the feed-forward takes one argument.
#
# **Exercise 07.4.** Write the `forward` of `Block`: pre-norm, first the attention, then the feed-forward. Two lines.

# %% exercise: 07.4

# %% check: 07.4
Block = check("07.4", Block)

# %% [markdown]
# ## Slopes in a real stack
#
# Now measure the slopes again, no longer in bare matrices but in whole LLaMAs of 24 blocks, on real text: the loss of
# next letters in TinyShakespeare.
#
# How strong should the matrices be? Random numbers with a deviation of 0.02 are the custom. In a model with 4,096
# channels they make a vector 0.02 · √4096 = 1.28 times as long; in ours, with 48 channels, only 0.14 times. A small
# model with 0.02 is a gentle model. To get the strength of a wide one we take 1/√48 = 0.14, which makes the factor 1,
# and call it *full-size*.

# %%
batches = Batches(train_tokens, batch_size=16, length=64, seed=0)
GENTLE, FULL_SIZE = 0.02, 48**-0.5


def build(parts, n_layers, deviation):
    torch.manual_seed(0)
    config = Config(vocab_size=65, d_model=48, n_layers=n_layers, n_heads=2, d_ff=128, max_len=64)
    llama = Llama(config, parts)
    for module in llama.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
    return llama


# %%
def slopes_of(parts):
    llama = build(parts, n_layers=24, deviation=FULL_SIZE)
    tokens, targets = batches(0)
    loss = next_token_loss(llama(tokens), targets)
    loss.backward()
    matrices = [[p.grad.norm() for p in layer.parameters() if p.ndim == 2] for layer in llama.layers]
    return loss.item(), [torch.stack(grads).norm().item() for grads in matrices]


# %%
stacks = {
    "pre-norm": Parts(norm=RMSNorm, block=Block),
    "post-norm": Parts(norm=RMSNorm, block=PostNormBlock),
    "no norm": Parts(norm=NoNorm, block=Block),
}
losses, slopes = {}, {}
for name, parts in stacks.items():
    losses[name], slopes[name] = slopes_of(parts)
print({name: round(loss, 1) for name, loss in losses.items()})

# %% [markdown]
# Without a norm there is no loss to speak of, before the first step: numbers grew until they were infinite, infinity
# minus infinity is `nan`, and there is nothing to draw. The other two:

# %%
assert not math.isfinite(losses["no norm"]) and slopes.pop("no norm")
plots.slopes_by_layer(slopes, "24 blocks: who gets how much of the gradient?")
assert slopes["post-norm"][0] > 20 * slopes["post-norm"][-1]
assert slopes["pre-norm"][3] < 4 * slopes["pre-norm"][-1]

# %% [markdown]
# Read the figure from right to left, as the slopes travel. In the pre-norm stack all blocks get their share; the
# first few get more, and from the fourth on they differ by a factor of 3 at most. In the post-norm stack each block
# on the way multiplies the slope by 1.2, and the factor per layer is back: the first block gets 60 times what the
# last one gets. One learning rate cannot suit both.
#
# ## A short training, with and without
#
# Three stacks of 12 blocks, each trained twice, from gentle and from full-size weights: same text, same steps, same
# learning rate. (AdamW is the optimizer of chapter 10: it moves each weight against its slope, by about `lr`. From
# here on the text speaks of the full runs. With `MINILLAMA_FAST=1` set, as the tests have it, they are a tenth as
# long, and most stacks get no further than the letters.)


# %%
def train(llama, steps, lr=3e-3, warmup=1):
    optimizer = AdamW(llama.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / warmup)
        tokens, targets = batches(step)
        loss = next_token_loss(llama(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# Two numbers to compare with. ln 65 = 4.17 is the loss of knowing nothing. And there is the loss of a model that
# knows how frequent each letter is, and nothing else, not even which letter came before:

# %%
frequencies = train_tokens.bincount().float() / len(train_tokens)
KNOWS_NOTHING = math.log(65)
KNOWS_LETTERS = -(frequencies * frequencies.log()).nansum().item()
print(f"knows nothing {KNOWS_NOTHING:.2f}, knows the letters {KNOWS_LETTERS:.2f}")

# %%
steps = 30 if FAST else 300
curves = {"gentle weights": {}, "full-size weights": {}}
for panel, deviation in zip(curves, (GENTLE, FULL_SIZE), strict=True):
    for name, parts in stacks.items():
        hopeless = (panel, name) == ("full-size weights", "no norm")  # nan from the start, as we saw
        curves[panel][name] = train(build(parts, 12, deviation), 0 if hopeless else steps)


# %%
def smooth(losses):
    return [sum(losses[max(0, i - 9) : i + 1]) / len(losses[max(0, i - 9) : i + 1]) for i in range(len(losses))]


curves = {panel: {name: smooth(losses) for name, losses in runs.items()} for panel, runs in curves.items()}

# %% [markdown]
# Each point is the average of the last ten steps. Look first at the right panel, then at the left.

# %% varies
plots.stacks_in_training(curves, KNOWS_NOTHING, KNOWS_LETTERS)
last = {panel: {n: loss[-1] for n, loss in runs.items() if loss} for panel, runs in curves.items()}
for panel, losses in last.items():
    print(f"{panel:<18}", ", ".join(f"{name} {loss:.2f}" for name, loss in losses.items()))
assert last["full-size weights"]["pre-norm"] < (3.2 if FAST else 2.25)
assert last["full-size weights"]["post-norm"] > KNOWS_LETTERS - 0.1

# %% [markdown]
# On the right: pre-norm learns. Post-norm finds out how frequent each letter is, and there it stays; twelve blocks
# might as well not be there. No norm could not even begin.
#
# On the left, with gentle weights, all three learn, and *post-norm is the best*. So "pre-norm is better" is not what
# you have seen. What you have seen is that pre-norm worked both times. People who train a model once, for a million
# dollars, want the one that works both times. (One run each. With another seed "no norm" ended at 2.8 instead of 2.4;
# the others moved by 0.03 or less.)
#
# Post-norm can be helped. The original transformer was trained with a **warm-up**: the learning rate starts near 0
# and rises over many steps. Same full-size weights, a third of the learning rate, and a warm-up over the first third:

# %% varies
helped = build(stacks["post-norm"], n_layers=12, deviation=FULL_SIZE)
helped = train(helped, steps=10 if FAST else 300, lr=1e-3, warmup=100)
print(f"post-norm with warm-up: {smooth(helped)[-1]:.2f}")
assert FAST or smooth(helped)[-1] < 2.9

# %% [markdown]
# It learns, later and less. LLaMA has a warm-up as well (2,000 steps, see chapter 10); our pre-norm stack did
# without.
#
# ## A bug that no curve shows
#
# Here is the most treacherous bug of this chapter. Somebody writes
#
#     x = self.attention_norm(x)
#     x = x + self.attention(x, mask)
#
# instead of adding to the x from before. The shapes are right. The residual is there, the norm is there. But what is
# handed on is no longer the stream: it is the normalized copy. Below are five blocks, `SUSPECTS`, in closed boxes.
# One of them has this bug. All five are trained for the same steps, in small models of four layers, from full-size
# weights.

# %% varies
for i, suspect in enumerate(SUSPECTS):
    llama = build(Parts(block=suspect), n_layers=4, deviation=FULL_SIZE)
    print(f"suspect {i}: loss {smooth(train(llama, 20 if FAST else 150))[-1]:.2f}")

# %% [markdown]
# All of them learn.
#
# **Predict.** Which one is broken? Go by the losses; there is nothing else to go by yet.

# %% predict: broken
broken = 3  # 0, 1, 2, 3 or 4

# %% [markdown]
# A loss is the wrong instrument. So build one that can tell. Think about what a healthy block promises: it returns x
# *plus* something. Which experiment shows whether it is really x, and not something that looks like it?
#
# You may do what you like to the blocks. In each, the last matrix of the attention is
# `block.attention.o_proj.weight`, and the last one of the feed-forward is `block.feedforward.down_proj.weight`. (To
# change weights, do it under `with torch.no_grad():`. `weight.zero_()` fills a weight with zeros.)
#
# **Exercise 07.5.** Write `find_the_broken`. It will be tried on these five and on others: more than one may be
# broken, or none; norms may have weights of 1 or not; some healthy blocks are not LLaMA's.

# %% exercise: 07.5

# %% check: 07.5
find_the_broken = check("07.5", find_the_broken)

# %% reveal: broken
found = find_the_broken(SUSPECTS, Config(vocab_size=65, d_model=48, n_layers=4, n_heads=2, d_ff=128))
print("broken:", found)
print(inspect.getsource(SUSPECTS[found[0]].forward))
predicted(broken, found[0])

# %% [markdown]
# Going by the losses, two suspects stand out, 2 and 3, and both are *better* than the rest. Suspects 0, 1 and 4 give
# the same loss to the last digit, because they compute the same, written differently. Suspect 2 lets its sub-layers
# stand side by side, both reading x. That is another design, but it hands on x, so in this respect it is healthy. The
# broken one was 3.
#
# What is the harm, then, in a block that learns faster? Give it twelve layers.

# %% varies
steps = 30 if FAST else 150
for name, block in (("healthy", SUSPECTS[0]), ("broken", SUSPECTS[found[0]])):
    deep = smooth(train(build(Parts(block=block), n_layers=12, deviation=FULL_SIZE), steps))[-1]
    print(f"12 layers, {name}: {deep:.2f}")
assert deep > KNOWS_LETTERS - 0.1

# %% [markdown]
# It knows how frequent the letters are, and that is all. Its stream goes through a norm in every block, as in the
# post-norm stack, and the factor per layer is back. Every small test of it had passed.
#
# The bug has a second face: load the weights of a real LLaMA into such a block, and they mean something else. The
# trained model of this chapter, with that one line changed:

# %%
swapped = Llama(trained.model.config, Parts(block=SUSPECTS[found[0]]))
swapped.load_state_dict(trained.model.state_dict())
loss_swapped = evaluate(swapped, validation_tokens[:4000], length=256)
print(f"healthy {loss_with:.2f}, broken {loss_swapped:.1f} nats")
assert loss_swapped > 2.5

# %% [markdown]
# ## The weight that is not needed
#
# One more look at the weight of a norm. After every norm in LLaMA comes a matrix, and a matrix can multiply channels
# too. So after training, when nothing moves any more, the norm's weight can be put into the matrix and forgotten.
#
# By hand: a norm with weights [2, 10, -1] hands n to a matrix whose first row is [1, 2, 3]. The first output is 1 ·
# (2 · n₀) + 2 · (10 · n₁) + 3 · (-1 · n₂), and that is what the row [2, 20, -3] makes of n itself.
#
# **Exercise 07.6.** Write `fold_norm`. One line. (torch's `Linear` keeps its matrix as (F, C), a row for each
# output.)

# %% exercise: 07.6

# %% check: 07.6
fold_norm = check("07.6", fold_norm)

# %% [markdown]
# Fold all eight norms inside the blocks of the trained model away. `attention_norm` is read by three matrices,
# `feedforward_norm` by two. If you are right, the loss stays what it was.

# %%
folded = Llama(trained.model.config)
folded.load_state_dict(trained.model.state_dict())
for layer in folded.layers:
    qkv = [layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj]
    gate_up = [layer.feedforward.gate_proj, layer.feedforward.up_proj]
    for norm, readers in ((layer.attention_norm, qkv), (layer.feedforward_norm, gate_up)):
        for linear in readers:
            linear.weight.data = fold_norm(norm.weight.data, linear.weight.data)
        norm.weight.data = torch.ones_like(norm.weight)
loss_folded = evaluate(folded, validation_tokens[:4000], length=256)
print(f"before {loss_with:.3f}, after {loss_folded:.3f}")
assert abs(loss_with - loss_folded) < 1e-4

# %% [markdown]
# Why have it at all? It costs next to nothing, and the released models were trained with it, so whoever runs them
# needs it, folded or not. (Some programs that squeeze models into 4 bits fold it away first.)
#
# ## The package's version
#
# Compare with yours.

# %% show
show("norm.RMSNorm")

# %% show
show("block.Block")

# %% [markdown]
# Two things to notice. `rsqrt` is 1 / sqrt in one step. And `__init__` of the block asks the config for a `head_dim`
# only where it is not C divided by the heads, so that simple attentions, such as the one of chapter 04, fit too.
#
# ## What the LLaMAs do
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 (2024) |
# |---|---|---|---|
# | norm | RMSNorm, on what each sub-layer reads | the same | the same |
# | eps | 1e-6 (65B: 1e-5) | 1e-5 | 1e-5 |
# | blocks | 32, 40, 60, 80 (7B, 13B, 33B, 65B) | 32, 40, 80 (7B, 13B, 70B) | 32, 80, 126 (8B, 70B, 405B) |
# | channels | 4096, 5120, 6656, 8192 | 4096, 5120, 8192 | 4096, 8192, 16384 |
# | norms | 65, 81, 121, 161 | 65, 81, 161 | 65, 161, 253 |
#
# Sources: section 2.2 of the LLaMA paper (arXiv:2302.13971) and of the Llama 2 paper (arXiv:2307.09288); section 3.2
# of The Llama 3 Herd of Models (arXiv:2407.21783), which says that the architecture does not deviate significantly
# from its predecessors; eps is in the files published with the weights. 405B is part of Llama 3.1. Each model has two
# norms per block and one at the end. How many of its numbers are that?

# %%
for name, parameters in (("llama-1-7b", 6.7e9), ("llama-2-70b", 69e9), ("llama-3.1-405b", 405e9)):
    size = PRESETS[name]
    norms = 2 * size.n_layers + 1
    share = norms * size.d_model / parameters
    print(f"{name:15} {norms:3} norms, {norms * size.d_model:>9,} numbers, {share:.4%} of all, eps {size.norm_eps}")

# %% [markdown]
# Four numbers in a hundred thousand, or fewer, and without them the rest cannot be trained.
#
# ## Plug yours in
#
# What passed its check is kept. `my_parts()` puts your norm, your block and what you have from other chapters into a
# model. It should pass the same certificate.

# %% varies
mine = Llama(PRESETS["tiny"], my_parts())
certificate = certify(mine)
print("certified:", certificate.passed)
assert certificate.passed

# %% [markdown]
# ## Further reading
#
# - Layer Normalization. Jimmy Lei Ba, Jamie Ryan Kiros, Geoffrey E. Hinton, 2016.
# - Root Mean Square Layer Normalization. Biao Zhang, Rico Sennrich, 2019.
# - On Layer Normalization in the Transformer Architecture. Ruibin Xiong and others, 2020. Pre- and post-norm, with
#   slopes by layer, as you measured them.
# - Identity Mappings in Deep Residual Networks. Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, 2016. Why the path
#   beside the layers should stay untouched.
# - Understanding the Difficulty of Training Transformers. Liyuan Liu, Xiaodong Liu, Jianfeng Gao, Weizhu Chen, Jiawei
#   Han, 2020.
# - DeepNet: Scaling Transformers to 1,000 Layers. Hongyu Wang and others, 2022. Post-norm, repaired.
# - A Mathematical Framework for Transformer Circuits. Nelson Elhage and others, 2021. The residual stream as a place
#   where layers leave messages for each other.
# - Massive Activations in Large Language Models. Mingjie Sun, Xinlei Chen, J. Zico Kolter, Zhuang Liu, 2024.
#
# Next, chapter 08 takes these parts and rebuilds the transformer of 2017, with an encoder, a decoder and its norms
# after the sub-layers.
