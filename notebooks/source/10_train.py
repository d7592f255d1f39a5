# %% [markdown]
# # 10 · Training: from slopes to a model that writes
#
# After this chapter you can work out the slope of the loss on paper, write the optimizer that trained every LLaMA, say
# what warm-up, decay, clipping and accumulation are for and measure whether they help, look at a loss curve without
# being fooled by it, stop a run and go on bit for bit, and train your own LLaMA on Shakespeare.
#
# Reading takes about two hours, the ten exercises about two and a half. That is a lot for one day; the headings are
# good places to stop. Chapter 01 is enough for the first half (the loss in nats, slopes, `backward()`), chapter 09 for
# the whole.

# %%
import copy
import csv
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.plots import train as plots
from minillama.train import next_token_loss

torch.set_printoptions(precision=3, sci_mode=False)

# %%
import shutil
import tempfile

from minillama import assets
from minillama.block import Parts
from minillama.certify import certify
from minillama.config import Config
from minillama.course.exercises.ch10_train import BOXES
from minillama.data import Batches, split
from minillama.generate import sample_text
from minillama.llama import Llama

# %%
from minillama.loop import train
from minillama.position import Sinusoidal
from minillama.recipe import find_recipe
from minillama.records import read_metrics
from minillama.saving import open_checkpoint
from minillama.tokenizer import CharTokenizer
from minillama.train import evaluate

# %% [markdown]
# The text, as in chapter 01: nine tenths to train on, the last tenth in the drawer. And the model of most experiments
# here, a small LLaMA of two blocks. Its first loss must be near ln 65 = 4.17 (chapter 09).

# %%
text = assets.corpus()
tokenizer = CharTokenizer.train(text)
train_tokens, validation_tokens = split(torch.tensor(tokenizer.encode(text)))
batches = Batches(train_tokens, batch_size=12, length=64, seed=0)
small = Config(vocab_size=65, d_model=48, n_layers=2, n_heads=3, d_ff=128, max_len=64, tied=True)

LLAMA = Parts()


def fresh(seed=0, parts=LLAMA):
    torch.manual_seed(seed)
    return Llama(small, parts)


tokens, targets = batches(0)
first_loss = next_token_loss(fresh()(tokens), targets).item()
print(f"{fresh().n_parameters:,} numbers to learn, first loss {first_loss:.1f}")

# %% [markdown]
# ## What a surprise does to the scores
#
# Three scores, and the second token came. By hand, with scores that divide well: ln 6, ln 3 and 0. The powers of e are
# 6, 3 and 1, their sum is 10, and the probabilities are 0.6, 0.3 and 0.1. The surprise is -ln 0.3 = 1.204 nats.
#
# What happens to the surprise if a score is raised a little? The surprise is *the logarithm of the sum of the powers,
# minus the score of the true token*. So a score has two ways in:
#
# - Through the sum. Two rules about slopes: the slope of eˢ is eˢ, and the slope of ln z is 1/z. Raise the first score
#   by a small d: its power grows by 6 · d, and so does the sum; the logarithm of the sum grows by 6 · d / 10. The slope
#   is 0.6. It is the probability itself.
# - Directly, if it is the score of the true token: the slope is -1.
#
# | | token 0 | token 1, the true one | token 2 |
# |---|---|---|---|
# | probability | 0.6 | 0.3 | 0.1 |
# | minus 1 if true | 0.6 | 0.3 - 1 = -0.7 | 0.1 |
#
# In chapter 01 you measured this. Now you know why: **the slope of the surprise is the probabilities, minus 1 at the
# true token.** The three add up to 0: what is pushed up in one place is taken from the others.

# %%
scores = torch.tensor([math.log(6), math.log(3), 0.0], requires_grad=True)
surprise = F.cross_entropy(scores, torch.tensor(1))
surprise.backward()
print(f"surprise {surprise.item():.3f}, slopes", scores.grad)

# %% [markdown]
# See what that means for a whole vocabulary. The text says "To be, or not to b", and an "e" follows. Below are the
# slopes of the 65 scores, first in a fresh model, then in the shipped one, which has been trained. Every bar is how
# hard this one place pulls at one score. Look at the orange bar, and at what is left of all others.

# %%
shipped = open_checkpoint(assets.shipped_model()).model
line = torch.tensor([tokenizer.encode("To be, or not to b")])
e, slopes = tokenizer.encode("e")[0], {}
with torch.no_grad():
    for name, model in {"a fresh model": fresh(), "the shipped one": shipped}.items():
        p = model(line)[0, -1].softmax(-1)
        p[e] -= 1
        slopes[name] = p.tolist()
plots.pulls(sorted(set(text)), slopes, target="e")
assert slopes["a fresh model"][e] < -0.95 and slopes["the shipped one"][e] > -0.2

# %% [markdown]
# The fresh model is pulled nearly as hard as possible. The trained one has little to learn from this place: it knew.
# So a training run learns less and less from most of its text. What still pulls are the surprises.
#
# A batch has many places, and its loss is their mean. So each place has its share in the slope: divide by the number
# of places that count. (Targets of -100 don't count; they are padding, or text that is not to be learned.)
#
# **Exercise 10.1.** Write `loss_gradient`: the slope of the mean loss for all scores of a batch, without `backward()`.
# ("Gradient" is the usual word for all slopes together.) `slopes[places, tokens] -= 1` takes 1 off at each of these
# places and tokens; `counts[..., None]` gives `counts` one axis more, at the end.

# %% exercise: 10.1

# %% check: 10.1
loss_gradient = check("10.1", loss_gradient)

# %% [markdown]
# From here on, `backward()` goes through the layers, from the scores back to every weight. What comes out for each
# weight is one number: if you were larger, how much larger would the loss be? This chapter is about what to do with
# that number.
#
# ## Down the valley
#
# The plainest thing to do is a step against the slope, by a **learning rate** lr: *w = w - lr · slope*. It has a name,
# gradient descent. With a small random batch for each step instead of all the text it is called SGD, **stochastic
# gradient descent**.
#
# To see what is wrong with it, take a loss with two weights, a and b: (a² + 25 b²) / 2. It is a long narrow valley
# with its bottom at (0, 0). The slope for a is a, the slope for b is 25 · b. Start at a = 10, b = 2 with lr = 0.1:
#
# - a: 10 - 0.1 · 10 = 9, then 8.1, then 7.29. Good, and a bit slow.
# - b: 2 - 0.1 · 50 = -3.
#
# **Predict.** How far from the bottom is b after ten steps: 0, 2 or 115?

# %% predict: b_after
b_after = 115  # 0, 2 or 115

# %% reveal: b_after
a, b = 10.0, 2.0
for _ in range(10):
    a, b = a - 0.1 * a, b - 0.1 * 25 * b
print(f"a = {a:.2f}, b = {b:.0f}")
predicted(b_after, round(abs(b)), within=1.02)

# %% [markdown]
# Each step multiplies b by 1 - 2.5 = -1.5. It jumps over the valley and lands higher on the other side. The steepest
# direction allows a rate of less than 2/25 = 0.08, and in the flat one a rate of 0.08 is slow. In a model with millions
# of weights some directions are thousands of times as steep as others.
#
# ### Momentum
#
# Let the weight roll. It has a velocity; each slope adds to it, and a part of it, say a tenth, is lost at every step:
#
# *velocity = 0.9 · velocity + slope*, then *w = w - lr · velocity*
#
# In the flat direction the slopes agree from step to step, and they add up: 1, 1.9, 2.71, ... up to 10 times the slope.
# In the steep one they point to the left, to the right, to the left, and cancel. By hand, slopes 4 and then -4: the
# velocity is 4, then 3.6 - 4 = -0.4.
#
# **Exercise 10.2.** Write `momentum_step`.

# %% exercise: 10.2

# %% check: 10.2
momentum_step = check("10.2", momentum_step)

# %% [markdown]
# PyTorch's `SGD` has it built in. The same three steps with both:

# %%
weight, velocity = torch.tensor([10.0, 2.0]), torch.zeros(2)
theirs = nn.Parameter(weight.clone())
optimizer = torch.optim.SGD([theirs], lr=0.03, momentum=0.8)
steep = torch.tensor([1.0, 25.0])
for _ in range(3):
    weight, velocity = momentum_step(weight, steep * weight, velocity, lr=0.03, momentum=0.8)
    theirs.grad = steep * theirs.detach()
    optimizer.step()
print("yours  ", weight)
print("PyTorch", theirs.detach())
assert torch.allclose(weight, theirs.detach())

# %% [markdown]
# ### Adam: each weight its own length of step
#
# Momentum still has one rate for all weights. How different are their slopes? Here is a small LLaMA after 30 steps of
# training, the typical slope (square, average, root) of some of its weights:

# %% varies
model = fresh()
descent = torch.optim.SGD(model.parameters(), lr=0.3)
for step in range(30):
    x, y = batches(step)
    model.zero_grad()
    next_token_loss(model(x), y).backward()
    descent.step()
rows = {f"the row of {c!r} in the embedding": model.embed_tokens.weight.grad[tokenizer.encode(c)[0]] for c in "eZ"}
rows["q_proj of block 0"] = model.layers[0].attention.q_proj.weight.grad
rows["down_proj of block 1"] = model.layers[1].feedforward.down_proj.weight.grad
typical = {name: slope.pow(2).mean().sqrt().item() for name, slope in rows.items()}
for name, size in typical.items():
    print(f"{name:34} {size:.1e}")
assert max(typical.values()) > 20 * min(typical.values())

# %% [markdown]
# A rate that suits one of them does not suit another. **Adam** (2015) gives every weight its own length of step. For
# each weight it keeps two running means: m, of its slopes, as in momentum, and v, of the *squares* of its slopes. The
# root of v says how large its slopes have been lately, whatever their signs. The step is lr · m / √v.
#
# By hand. The betas say how slowly the means move: β₁ = 0.9 for m, β₂ = 0.95 for v. A weight has the slope 4 in the
# first step:
#
# - m = 0.9 · 0 + 0.1 · 4 = 0.4
# - v = 0.95 · 0 + 0.05 · 16 = 0.8
#
# Both are too small, since they started from 0. That can be put right exactly: the shares given out so far add up to
# 1 - 0.9 = 0.1 for m, and to 1 - 0.95 = 0.05 for v. After t steps they add up to 1 - β to the power of t. Divide:
#
# - corrected m = 0.4 / 0.1 = 4
# - corrected v = 0.8 / 0.05 = 16
# - step: lr · 4 / √16 = lr
#
# **Predict.** Two weights, with the slopes 4 and -0.02, the learning rate is 0.1. How far does the *second* one move
# in the first step: 0.0005, 0.002 or 0.1?

# %% predict: second
second = 0.1  # 0.0005, 0.002 or 0.1

# %% reveal: second
pair = nn.Parameter(torch.tensor([1.0, 2.0]))
optimizer = torch.optim.AdamW([pair], lr=0.1, weight_decay=0.0)
pair.grad = torch.tensor([4.0, -0.02])
optimizer.step()
print("before [1, 2], after", pair.detach())
predicted(second, round(abs(pair[1].item() - 2), 4), within=1.01)

# %% [markdown]
# As far as the first one: by 0.1. The size of a slope cancels, its sign stays. So lr has a new meaning: **it is about
# how far a weight moves in a step**, for every weight.
#
# In the second step, see what happens if slopes agree, and if they don't. Slope 4 again: m and v, corrected, are 4 and
# 16 as before, and the step is lr. Slope -4 instead:
#
# - m = 0.9 · 0.4 - 0.1 · 4 = -0.04, corrected by 1 - 0.9² = 0.19: -0.21
# - v = 0.95 · 0.8 + 0.05 · 16 = 1.56, corrected by 1 - 0.95² = 0.0975: 16
# - step: lr · 0.21 / 4 = 0.05 · lr
#
# A weight whose slopes contradict each other hardly moves. Two details:
#
# - A weight that never had a slope has m = 0 and v = 0, and 0 / 0 is no number. So a tiny eps, 10⁻⁸, is added to √v.
# - **Weight decay.** Each step also shrinks the weight: *w = w · (1 - lr · decay)*. No weight should be large without
#   need. (Which weights, and how much: see below.)
#
# The W in **AdamW** (2019) says where the decay stands. The old way was to add decay · w to the *slope*. Watch what
# Adam makes of it: w = 2, decay 0.1, slope 4. The slope becomes 4.2, and the first step is lr · 4.2 / √(4.2²) = lr.
# The decay has vanished. For weights with large slopes it always nearly does, since everything in the slope is divided
# by √v. So AdamW shrinks the weight itself, before the step.
#
# ### Write it
#
# A PyTorch optimizer holds **groups** of weights. A group is a dict: its weights under "params", and its own `lr`,
# `betas`, `eps` and `weight_decay`. For each weight there is a dict `state`, empty at first, in which the optimizer
# keeps what it has to remember. `__init__` and `step` are given. `step` calls `_update(weight, group, state)` for every
# weight that has slopes, and in there nothing is recorded for `backward()` (that is what `torch.no_grad` is for). A
# "closure" is a function that works out the loss again; few optimizers need one.
#
# The weight must be changed *in place*, since the model has to notice: `weight.mul_(2)` multiplies it, `weight.sub_(x)`
# takes x off. `weight.grad` has its slopes.
#
# **Exercise 10.3.** Write `_update` of `AdamW`: count the step, move the two means, correct them, shrink the weight,
# move it. Keep the uncorrected means in the state, with a step count *of this weight*.

# %% exercise: 10.3

# %% check: 10.3
AdamW = check("10.3", AdamW)

# %% [markdown]
# Yours beside PyTorch's, over 20 steps with random slopes:

# %%
torch.manual_seed(0)
start = torch.randn(4, 3)
both = [nn.Parameter(start.clone()) for _ in range(2)]
options = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1}
pair = [AdamW([both[0]], **options), torch.optim.AdamW([both[1]], **options)]
for _ in range(20):
    slope = torch.randn(4, 3)
    for parameter, optimizer in zip(both, pair, strict=True):
        parameter.grad = slope.clone()
        optimizer.step()
difference = (both[0] - both[1]).abs().max().item()
print(f"largest difference below 0.000001: {difference < 1e-6}")
assert difference < 1e-6

# %% [markdown]
# ### Three ways down
#
# First in the valley, 30 steps each from (10, 2), each with a rate that suits it.


# %%
def path(make_optimizer, steps=30):
    place = nn.Parameter(torch.tensor([10.0, 2.0]))
    optimizer, places = make_optimizer([place]), [(10.0, 2.0)]
    for _ in range(steps):
        place.grad = steep * place.detach()
        optimizer.step()
        places.append(tuple(place.tolist()))
    return places


paths = {"SGD": path(lambda p: torch.optim.SGD(p, lr=0.07))}
paths["momentum"] = path(lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8))
paths["Adam"] = path(lambda p: AdamW(p, lr=1.0, weight_decay=0.0))

# %% [markdown]
# SGD jumps from wall to wall: b needs a small rate, a would need a large one. Momentum runs along the valley and swings
# through. Adam begins with a step of the same length in both directions, as if the valley were round. (The figures
# are stretched upwards, or there would be little to see: the valley is five times as long as it is wide.)

# %%
height = lambda a, b: (a * a + 25 * b * b) / 2  # noqa: E731
plots.valley(paths, height)
assert height(*paths["momentum"][-1]) < height(*paths["SGD"][-1]) < 1
assert abs((10 - paths["Adam"][1][0]) - (2 - paths["Adam"][1][1])) < 1e-4

# %% [markdown]
# In this valley momentum does best. It has two weights, and somebody who tuned the rate. Now the small LLaMA: the same
# start, the same batches, the same number of steps. The rates were found by trying four for each.


# %%
def descend(model, optimizer, steps):
    """Train without any of the tricks below. -> the losses"""
    losses = []
    for step in range(steps):
        x, y = batches(step)
        loss = next_token_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()]
    return losses


def smooth(losses, n=10):
    return [sum(losses[max(0, i - n + 1) : i + 1]) / len(losses[max(0, i - n + 1) : i + 1]) for i in range(len(losses))]


# %%
n_steps = 40 if FAST else 300
ways = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
    "AdamW": lambda p: AdamW(p, lr=3e-3),
}
curves = {}
for name, make in ways.items():
    model = fresh()
    curves[name] = smooth(descend(model, make(model.parameters()), n_steps))

# %% [markdown]
# Each point is the average of the last ten steps. See, in the full run, what momentum gains over SGD, and what Adam
# gains on top.

# %% varies
plots.losses("Which optimizer goes down fastest?", curves)
for name, curve in curves.items():
    print(f"{name:10} {curve[-1]:.2f}")
assert curves["AdamW"][-1] < curves["SGD"][-1] - (0 if FAST else 0.2)

# %% [markdown]
# (With a small LLaMA 300 steps are a short run, so these are differences in the first minute of a life.) Every LLaMA
# was trained with AdamW. It has a price: two more numbers for each weight. The 65 billion weights of the largest
# LLaMA 1 take 260 billion bytes in float32, and m and v 520 billion more.

# %% [markdown]
# ## How large a step, and when?
#
# Two worries about one fixed rate.
#
# *At the start* m and v are means of very few slopes, and the weights are random: a full step goes far in a direction
# that nobody has checked. So begin small, and rise to the peak in a straight line: the **warm-up** (chapter 07 needed
# one for post-norm).
#
# *At the end* each batch pulls a little elsewhere. With steps of a fixed length a weight never comes to rest. So let
# the rate go down, in a straight line or along a **cosine**: half a turn of it, from 1 to -1, moved up and halved so
# that it goes from 1 to 0. It leaves the peak gently, and arrives gently.
#
# By hand: peak 8, a warm-up of 4 steps, 20 steps in all, down to 0. Steps count from 0.
#
# | step | | rate |
# |---|---|---|
# | 0 | the first of 4 parts: the first step must move already | 2 |
# | 1, 2, 3 | | 4, 6, 8 |
# | 4 | the warm-up is over, progress 0 of 16 | 8 |
# | 12 | progress 8/16 = 0.5, cos(π/2) = 0, (1 + 0)/2 = 0.5 | 4 |
# | 20 and later | progress 1, cos(π) = -1 | 0 |
#
# Often the rate does not go to 0 but to a **floor**, a tenth of the peak in LLaMA. Then it is the way *from peak to
# floor* that is multiplied: floor + (peak - floor) · what is left.
#
# **Exercise 10.4.** Write `learning_rate`. The `*` in its signature means that what follows must be given by name. A
# run without warm-up, and one that is all warm-up, must work too.

# %% exercise: 10.4

# %% check: 10.4
learning_rate = check("10.4", learning_rate)

# %% [markdown]
# Does going down help? First where it is easy to see: one weight in the valley w²/2, whose slope is w plus noise as
# large as 1, since every batch says something else. 400 weights start at 10.

# %%
n = 200
rates = {
    "fixed": [0.3] * n,
    "cosine": [learning_rate(step, peak=0.3, warmup_steps=20, total_steps=n) for step in range(n)],
    "linear": [learning_rate(step, peak=0.3, warmup_steps=20, total_steps=n, shape="linear") for step in range(n)],
}
distances = {}
for name, schedule in rates.items():
    torch.manual_seed(0)
    w, distances[name] = torch.full((400,), 10.0), []
    for rate in schedule:
        w = w - rate * (w + torch.randn(400))
        distances[name] += [w.pow(2).mean().sqrt().item()]

# %% [markdown]
# On the right, the fixed rate arrives early and then stays where it is, about 0.4 from the bottom: each step throws it
# about as far as the valley pulls it back. The others let go of the noise.

# %%
plots.schedules(rates, distances)
assert 0.3 < distances["fixed"][-1] < 0.6 and distances["cosine"][-1] < 0.15 and distances["linear"][-1] < 0.15

# %% [markdown]
# That is the argument. Whether it holds for *our* model is a question for a measurement, and we come to it when the
# training step is complete.
#
# ## What decays, and how fast?
#
# A weight without slopes is multiplied by 1 - lr · decay at each step. With LLaMA 1's numbers, a peak rate of 3 · 10⁻⁴
# and a decay of 0.1, that is 0.99997. How long until half of it is left?

# %%
halving = math.log(0.5) / math.log(1 - 3e-4 * 0.1)
print(f"{halving:,.0f} steps")

# %% [markdown]
# Some twenty thousand steps, of about 250,000 in a run over a trillion tokens. Decay is slow forgetting: what is not
# confirmed fades.
#
# Which weights? A matrix mixes numbers, and smaller entries make it a milder mixture. The scale of a norm is something
# else: 1 means "leave the channel as it is", and 0 means "switch it off". Pulling it to 0 is no simplicity. The same
# holds for biases. So the rule is: **what has two axes or more decays, vectors and single numbers don't.**
#
# Two more things. A tied matrix (chapter 09) must not be listed twice. And a weight may be frozen, that is, its
# `requires_grad` is False: it is not trained at all, and belongs in no group. `p.ndim` is the number of axes.
#
# **Exercise 10.5.** Write `decay_groups`. It gives a list of two groups, dicts with "params" and "weight_decay".

# %% exercise: 10.5

# %% check: 10.5
decay_groups = check("10.5", decay_groups)

# %%
for group in decay_groups(fresh(), weight_decay=0.1):
    shapes = sorted({tuple(p.shape) for p in group["params"]})
    print(f"decay {group['weight_decay']}: {len(group['params'])} weights of shapes {shapes}")

# %% [markdown]
# ## When a slope is far too long
#
# Now and then a batch is bad: a page of hexadecimal numbers, a table of bank codes, a broken file. Its slopes are ten
# or a hundred times as long as usual, and one step along them undoes the work of a thousand. So their length is
# limited. What is the length of *all* slopes? Two weights, with the slopes (3, 4) and (12). Pythagoras: the first is
# √(3² + 4²) = 5 long, both together √(3² + 4² + 12²) = 13. If 6.5 is the limit, everything is multiplied by 6.5/13 =
# 0.5:
#
# | | (3, 4) | (12) | length of all |
# |---|---|---|---|
# | one factor for all | (1.5, 2) | (6) | 6.5 |
# | each by itself | (3, 4) | (6.5) | 8.2 |
#
# The second row has another direction: it believes the first weight twice as much as the first row does. So it is one
# length, and one factor, and never a factor above 1. That is **clipping**. The length before clipping is worth
# logging, for it is the first to say that something is wrong.
#
# **Exercise 10.6.** Write `clip_gradients`. The slopes are in `p.grad`, and may be None for a weight that had none;
# change them in place. An `Iterable` is anything that a `for` can go through; it may be a generator, as
# `model.parameters()` is, and then only once. A tensor has `.norm()`, its length. Mind the 0: without any slopes
# the length is 0.

# %% exercise: 10.6

# %% check: 10.6
clip_gradients = check("10.6", clip_gradients)

# %% [markdown]
# ## A batch that does not fit
#
# Llama 3's largest batches have 16 million tokens. Nobody's memory holds what a forward pass over them leaves behind.
# But slopes *add up*: `backward()` adds to what is in `.grad`. So a batch may come in pieces, and one step is made when
# all pieces have added their slopes. That is **accumulation**.
#
# The trap is in the mean. Piece one has 3 tokens with a mean loss of 2.0, piece two has 1 token with 4.0.
#
# What is the mean loss of the batch?

# %%
print(f"{3 * 2.0 + 1 * 4.0:.0f} nats over {3 + 1} tokens: {(3 * 2.0 + 1 * 4.0) / (3 + 1)}")

# %% [markdown]
# Ten nats over four tokens. Whoever averages the two means says 3.0, and gives the one token of the small piece as
# much weight as three others. In 2024 it was found that widely used training libraries had done so for years, wherever
# texts have different lengths. Each piece has to count with its share: 3/4 and 1/4.
#
# **Exercise 10.7.** Write `accumulate`. At the beginning the weights have no slopes. A target of -100 does not count.
# Go forward and back with each piece before the next one; otherwise everything stays in memory, and nothing is won.

# %% exercise: 10.7

# %% check: 10.7
accumulate = check("10.7", accumulate)

# %%
tokens, targets = batches(0)
targets = targets.clone()
targets[:5, 10:] = -100  # five texts that end early
whole_batch, in_pieces = fresh(), fresh()
loss = next_token_loss(whole_batch(tokens), targets)
loss.backward()
total = accumulate(in_pieces, [(tokens[:5], targets[:5]), (tokens[5:7], targets[5:7]), (tokens[7:], targets[7:])])
pairs = zip(whole_batch.parameters(), in_pieces.parameters(), strict=True)
difference = max((p.grad - q.grad).abs().max().item() for p, q in pairs)
print(f"loss {loss.item():.3f} and {total:.3f}, the same slopes: {difference < 1e-5}")
assert difference < 1e-5 and abs(loss.item() - total) < 1e-4

# %% [markdown]
# ## The training step
#
# All of it together. A step has five parts: the loss; clear the old slopes; work out the new ones; clip them; move. The
# order matters, and what is bad about a wrong order is that the loss falls all the same.
#
# **Exercise 10.8.** Write `train_steps`: a step for each batch. The tools: `next_token_loss`, `optimizer.zero_grad()`,
# `loss.backward()`, `clip_gradients`, `optimizer.step()`; `.item()` makes a number of a tensor with one number in it.

# %% exercise: 10.8

# %% check: 10.8
train_steps = check("10.8", train_steps)

# %% [markdown]
# Now we can measure what was claimed. `fit` makes one such step after the other, and sets the rate before each: a
# schedule from 0 to 1, times the peak of the optimizer. It can also spoil a step, by making its slopes a hundred times
# too long, as a bad batch would.


# %%
def fit(model, optimizer, steps, schedule=None, max_norm=1.0, seed=0, spoiled=None):
    """Train. schedule(step): what to multiply the peak with. -> the losses"""
    peaks = [group["lr"] for group in optimizer.param_groups]
    order, losses = Batches(train_tokens, 12, 64, seed), []
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (schedule(step) if schedule else 1.0)
        loss = next_token_loss(model(order(step)[0]), order(step)[1])
        optimizer.zero_grad()
        (100 * loss if step == spoiled else loss).backward()
        clip_gradients(model.parameters(), max_norm=max_norm)
        optimizer.step()
        losses += [loss.item()]
    return losses


# %% [markdown]
# First the bad batch, in the middle of a run. The limit is 1, as in every LLaMA; "not clipped" has a limit so high that
# it is never reached.

# %%
middle = n_steps // 2
curves = {}
for name, limit, spoiled in (
    ("no bad batch", 1.0, None),
    ("bad, clipped", 1.0, middle),
    ("bad, not clipped", 1e9, middle),
):
    model = fresh()
    curves[name] = smooth(fit(model, AdamW(model.parameters(), lr=4e-3), n_steps, None, limit, spoiled=spoiled))

# %% [markdown]
# Two of the three lines can hardly be told apart. The third one climbs for a while after the bad batch, and has not
# made up for it when the full run ends. (It is also a little behind before: at the start slopes are long, and clipping
# helps there too.)

# %% varies
plots.losses("What does one bad batch do?", curves, mark=(middle, "the bad batch"))
for name, curve in curves.items():
    print(f"{name:18} {curve[-1]:.2f}")
assert abs(curves["bad, clipped"][-1] - curves["no bad batch"][-1]) < 0.05
assert FAST or curves["bad, not clipped"][-1] > curves["bad, clipped"][-1] + 0.05

# %% [markdown]
# Adam divides by √v, so why is it hurt? One bad slope of 100 enters m with a tenth, 10, and v with a twentieth of its
# square, 500, whose root is 22. m forgets by a tenth at each step, √v by a fortieth. So for ten steps or more the
# weights are carried in the direction of the bad batch, and after that √v is still so large that all steps are short.
#
# Now the schedule. Two rates, 0.004, which suits this model, and 0.02, which is too high for it; fixed, and with a
# warm-up and a cosine. Measured on text that none of them has seen; two seeds.


# %%
def score(model, n_tokens=2049 if FAST else 8193):
    return evaluate(model, validation_tokens[:n_tokens], length=64)


def scheduled(step):
    return learning_rate(step, peak=1.0, warmup_steps=20, total_steps=n_steps)


# %% varies
fixed_or_not = {}
for lr in (4e-3, 2e-2):
    for name, schedule in {"fixed": None, "warm-up and cosine": scheduled}.items():
        fixed_or_not[lr, name] = []
        for seed in (0,) if FAST else (0, 1):
            model = fresh(seed)
            fit(model, AdamW(model.parameters(), lr=lr), n_steps, schedule, seed=seed)
            fixed_or_not[lr, name] += [score(model)]
        print(f"lr {lr}, {name:20}", ", ".join(f"{loss:.2f}" for loss in fixed_or_not[lr, name]))
assert FAST or min(fixed_or_not[4e-3, "fixed"]) < min(fixed_or_not[2e-2, "fixed"])

# %% [markdown]
# Did you expect the schedule to win? In the full run, at the rate that suits the model, the fixed rate is not worse:
# it is a little better. Only at the rate that is too high does the schedule help. A model that has had 300 steps is far
# from any bottom, and going slower only takes it less far. And look at Adam's own formula: where slopes contradict each
# other, m gets small, √v does not, and the steps get shorter by themselves.
#
# So is the cosine a superstition? No: LLaMA trains for hundreds of thousands of steps. And at the end of this chapter
# you meet an optimizer whose steps do *not* get shorter by themselves, and there the schedule is worth a lot in 300
# steps too. But note what we did: an argument, then a measurement that did not agree, then a better argument.

# %% [markdown]
# ## Half the bits
#
# A float32 has 32 bits: one for the sign, 8 for the size (the exponent, which says where the point is), 23 for the
# digits. A product of two matrices in a type with half the bits takes half the memory, and on most accelerators less
# than half the time. There are two such types.

# %% [markdown]
# The figure counts what each type spends its bits on. Compare the middle row with the others: it keeps digits, and
# saves on size.

# %%
kinds = {"float32": (1, 8, 23), "float16": (1, 5, 10), "bfloat16": (1, 8, 7)}
plots.kinds_of_numbers(kinds)
for name, bits in kinds.items():
    info = torch.finfo(getattr(torch, name))
    print(f"{name:9} largest {info.max:.1e}, smallest step after 1: {info.eps:.1e}, smallest normal {info.tiny:.0e}")
    assert info.eps == 2 ** -bits[2] and sum(bits) == info.bits

# %% [markdown]
# float16 ends at 65,504, and slopes below about 3 · 10⁻⁸ become 0 in it. bfloat16 has the range of float32, so that
# nothing overflows, and two or three decimal digits. For a product that is a sum of thousands of terms, this is
# enough: the errors have random signs. For one thing it is not.
#
# **Predict.** A weight of 1 in bfloat16. A thousand times 0.003 is added to it. What is it then: 1, 2 or 4?

# %% predict: creeping
creeping = 1  # 1, 2 or 4

# %% reveal: creeping
weights = {name: torch.tensor(1.0, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")}
for name in weights:
    for _ in range(1000):
        weights[name] = weights[name] + 0.003
print({name: round(w.item(), 2) for name, w in weights.items()})
predicted(creeping, int(weights["bfloat16"]))

# %% [markdown]
# The next bfloat16 after 1 is 1.0078. 1.003 lies nearer to 1, and is rounded to 1, a thousand times. And a training
# step is just this: a small number added to a large one. How many weights of our model does a real step leave exactly
# where they were, because it is rounded away?

# %%
stuck = {}
for dtype in (torch.float32, torch.bfloat16):
    model = fresh().to(dtype)
    optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    fit(model, optimizer, 20)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, optimizer, 1, seed=1)
    n_same = sum(int((p == q).sum()) for p, q in zip(before, model.parameters(), strict=True))
    stuck[dtype] = n_same / model.n_parameters
    print(f"{dtype!s:15} more than a quarter of all weights did not move: {stuck[dtype] > 0.25}")
assert stuck[torch.bfloat16] > 0.25 and stuck[torch.float32] < 0.05

# %% [markdown]
# So **mixed precision**: the weights, m and v stay in float32; only the expensive products are done in bfloat16, with
# copies of the weights that are rounded for the occasion. PyTorch calls it `autocast`, and has lists of the operations
# that may lose bits and of those that must not (on a graphics card, softmax and long sums are among the latter).

# %%
model = fresh()
with torch.autocast("cpu", torch.bfloat16):
    embedded = model.embed_tokens(tokens)
    queries = model.layers[0].attention.q_proj(embedded)
    logits = model(tokens)
loss = next_token_loss(logits, targets)
loss.backward()
print("looked up:", embedded.dtype, "  a product:", queries.dtype, "  logits:", logits.dtype)
print("loss:", loss.dtype, "  weights and slopes:", model.lm_head.weight.dtype, model.lm_head.weight.grad.dtype)

# %% [markdown]
# (`next_token_loss` turns the logits into float32 first, so that the powers of e, their sum and its logarithm are not
# rounded again.) Three runs: all in float32, mixed, and with everything in bfloat16, weights included. A rate of
# 0.001, low enough for small steps.


# %%
class Mixed(nn.Module):
    """A model whose products are done in bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(tokens)


# %% varies
precisions = {}
for name, make in {
    "float32": fresh,
    "mixed": lambda: Mixed(fresh()),
    "all bfloat16": lambda: fresh().bfloat16(),
}.items():
    model = make()
    fit(model, AdamW(model.parameters(), lr=1e-3, weight_decay=0.0), n_steps)
    precisions[name] = score(model.float())
    print(f"{name:13} {precisions[name]:.3f}")
assert abs(precisions["mixed"] - precisions["float32"]) < 0.06
assert FAST or precisions["all bfloat16"] > precisions["float32"]

# %% [markdown]
# Mixed is as good as float32, up to differences as another seed would make them. With weights in bfloat16 the model
# learns too, and in the full run a bit less. The smaller the steps get, the worse it becomes, and at the end of a real
# run they are smaller than here by a factor of ten or more.

# %% [markdown]
# ## Six runs
#
# You are handed six runs, A to F, each from the same start on the same text. Something is wrong with each of them. In
# the boxes are:
#
# - a learning rate 25 times too high,
# - slopes that are never cleared,
# - blocks that the optimizer was never given (a plain list instead of an `nn.ModuleList`, say),
# - an attention that looks one place too far ahead,
# - an RMSNorm that takes its mean over all tokens of a text,
# - a training text of 1,200 characters.
#
# `BOXES` has their arguments, and you don't open it yet. Each run also keeps three numbers for later, `probes`.


# %%
def run(lr=4e-3, parts=LLAMA, clears=True, n_text=None, without=()):
    """Train with something broken. -> the model, its losses, and some measurements"""
    model, order, losses = fresh(parts=parts), Batches(train_tokens[:n_text], 12, 64, seed=0), []
    given = [p for name, p in model.named_parameters() if name.split(".")[0] not in without]
    optimizer = AdamW(given, lr=lr, weight_decay=0.0)
    for step in range(n_six):
        before = copy.deepcopy(model) if step == n_six - 1 else None
        loss = next_token_loss(model(order(step)[0]), order(step)[1])
        if clears:
            model.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), max_norm=1.0)
        optimizer.step()
        losses += [loss.item()]
    return model, losses, probes(before, model, order(n_six - 1))


# %%
def least_moved(before, after):
    """The weight that a step moves least: by how much of its size."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return min(((p - q).norm() / p.norm()).item() for p, q in pairs)


def grown(model):
    """How many times as large the weights are, typically, as they were at the start."""
    now, then = (torch.cat([p.flatten() for p in m.layers.parameters() if p.ndim == 2]) for m in (model, fresh()))
    return (now.norm() / then.norm()).item()


def slopes_in_use(before, after, batch):
    """The cosine of the angle between the slopes that were used and the batch's own: 1 if they point alike."""
    before.zero_grad()
    next_token_loss(before(batch[0]), batch[1]).backward()
    own, used = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (before, after))
    return F.cosine_similarity(own, used, dim=0).item()


def probes(before, after, batch):
    slopes = slopes_in_use(before, after, batch)
    return {"moved": least_moved(before, after), "grown": grown(after), "slopes": slopes}


# %%
n_six = 40 if FAST else 400
healthy = run()
boxes = {name: run(**broken) for name, broken in BOXES.items()}

# %% [markdown]
# Here are their curves, and in grey the healthy run. Go through the list above with them, and write down which is
# which.

# %% varies
curves = {name: smooth(losses) for name, (_, losses, _) in boxes.items()}
plots.six_runs(curves, smooth(healthy[1]))
print({name: round(curve[-1], 2) for name, curve in curves.items()}, "healthy", round(smooth(healthy[1])[-1], 2))
assert curves["A"][-1] < smooth(healthy[1])[-1] - 0.3

# %% [markdown]
# In the full run, two look much better than the healthy one. One looks nearly like it, a little slower, as another rate
# might be. Three look bad, and like each other.
#
# **Predict.** On text that no run has seen, which one has the *highest* loss?

# %% predict: worst
worst = "C"  # "A", "B", "C", "D", "E" or "F"

# %% reveal: worst
new_text = {name: score(model, 4097) for name, (model, _, _) in boxes.items()}
predicted(worst, "C" if FAST else max(new_text, key=new_text.get))

# %% varies
for name, loss in new_text.items():
    print(f"{name}: {curves[name][-1]:.2f} in training, {loss:.2f} on new text")
assert FAST or new_text["C"] > math.log(65)

# %% [markdown]
# C learned 1,200 characters by heart. In the full run it is worse on new text than a model that knows nothing, 4.17,
# and its training curve is the second best of all. So probe one: **the loss on text that was not trained on.** It
# finds C. It does not find A: new text helps nobody against a model that looks at the answer.
#
# Probe two is `certify` of chapter 09.

# %%
for name, (model, _, _) in {"healthy": healthy, **boxes}.items():
    print(f"{name:8} {', '.join(certify(model).failed) or 'passed'}")
assert [name for name, (model, _, _) in boxes.items() if not certify(model).passed] == ["A", "E"]

# %% [markdown]
# A and E look into the future. A does so openly. E is the treacherous one: its curve is nearly a healthy one, its loss
# on new text is too, and each of its norms tells every token a little about all later ones.
#
# Left are B, D and F, the three that look alike. They are models without a fault, trained wrongly, and no test of the
# model can find that. Three more probes: **by how much of its size does a step move a weight**, the one that it moves
# least? **How much have the weights grown** since the start? And **do the slopes in use point where those of the batch
# point?** (The cosine of chapter 05: 1 if they do, 0 if they have nothing to do with each other.)

# %% varies
print("         least moved   grown   slopes in use")
for name, (_, _, log) in {"healthy": healthy, **{name: boxes[name] for name in "BDF"}}.items():
    print(f"{name:8} {log['moved']:11.4f} {log['grown']:7.1f} {log['slopes']:14.2f}")
assert boxes["B"][2]["moved"] == 0 < healthy[2]["moved"]
assert boxes["D"][2]["grown"] > 3 * healthy[2]["grown"]
assert boxes["F"][2]["slopes"] < 0.9 < healthy[2]["slopes"]

# %% [markdown]
# Each gives itself away in one column. In B some weights did not move at all. In D they are many times as large as they
# should be: each step throws them further than they can come back. In F the optimizer used slopes that are not those of
# the batch.
#
# Now open the boxes.

# %%
for name, broken in BOXES.items():
    for argument, value in broken.items():
        new = set(value.names().values()) - set(LLAMA.names().values()) if argument == "parts" else value
        print(name, argument, new)

# %% [markdown]
# Six faults, and no curve named one of them. Keep the list:
#
# | probe | finds |
# |---|---|
# | the first loss is ln V | broken start, broken targets (chapter 09) |
# | the loss on new text | learned by heart |
# | a loss that is too good | an alarm: somebody sees the answer |
# | `certify` | what a model must not see |
# | by how much each weight moves | weights left out |
# | how much the weights have grown | rates that are too high |
# | slopes against those of one batch | not cleared, not accumulated rightly, clipped too late |

# %% [markdown]
# ## Learned by heart
#
# C had 1,200 characters. How much text does it take? The same model, the same number of steps, and three amounts of
# text. From time to time the loss on a piece of that text and on new text is measured.


# %%
def two_losses(text, every):
    model, order = fresh(), Batches(text, 12, 64, seed=0)
    optimizer, seen, new = AdamW(model.parameters(), lr=4e-3, weight_decay=0.0), [], []
    for part in range(10):
        train_steps(model, optimizer, [order(part * every + i) for i in range(every)], max_norm=1.0)
        seen += [evaluate(model, text[:1000], 64)]
        new += [score(model, 2049)]
    return seen, new


every = 4 if FAST else 60
amounts = {f"{n:,} characters": n for n in (1_200, 30_000, len(train_tokens))}
curves = {name: two_losses(train_tokens[:n], every) for name, n in amounts.items()}

# %% [markdown]
# Each panel has the same model and the same number of steps. Follow the gap between the two lines from left to right;
# the dotted line is knowing nothing.

# %% varies
plots.by_heart(curves, every, math.log(65))
for name, (seen, new) in curves.items():
    print(f"{name:22} seen {seen[-1]:.2f}, new {new[-1]:.2f}, new at its best {min(new):.2f}")
few, _, all_of_it = curves.values()
assert FAST or (few[1][-1] > min(few[1]) + 0.5 and abs(all_of_it[1][-1] - all_of_it[0][-1]) < 0.3)

# %% [markdown]
# In the full run, on the left the loss on new text is lowest at the first measurement, and from there on everything
# that is learned is learned by heart. In the middle the two part slowly. If all you have is that much text, stop
# where the loss on new text is lowest, or make learning by heart harder: dropout, which switches off random parts in
# training, a smaller model, more decay. On the right there is nothing to stop: the model meets most of its text for
# the first time. LLaMA's case is the right one: LLaMA 1 saw most of its text once (only Wikipedia and books about
# twice).

# %% [markdown]
# ## Stop, and go on as if nothing had happened
#
# Runs stop: the power fails, the lid is closed, the rented machine is taken back. What has to be saved so that the run
# can go on? The weights. What else?
#
# - **The optimizer**: m, v and the step counts. Without them AdamW starts anew, and its first steps go by a full lr in
#   the direction that one batch likes. A bump in the loss curve, after each restart.
# - **The step**: the schedule and the order of the data depend on it.
# - **Random numbers**, if any are drawn, as in dropout. Our loop draws them anew for every step, from the seed and the
#   number of the step, and so has nothing to save.
#
# `model.state_dict()` is a dict of all weights by name, `optimizer.state_dict()` a dict with everything it remembers,
# its groups with their rates included. Both have a partner, `load_state_dict(...)`.
#
# There is a trap, and it has ruined many a "best model so far". The tensors in these dicts are no copies: they are the
# model's own.

# %%
model = fresh()
best = model.state_dict()
print(f"kept: {best['norm.weight'][0].item()}", end=", ")
with torch.no_grad():
    model.norm.weight += 1  # stands for a training step
print(f"a step later it is {best['norm.weight'][0].item()}")

# %% [markdown]
# `copy.deepcopy(x)` copies a dict with everything in it. And `load_state_dict` has the same trap on the way back: a
# model copies what it is given, an optimizer may go on with the very tensors that it gets.
#
# **Exercise 10.9.** Write `Snapshot`: taken between two steps, restored any number of times. `step` is the number of
# steps done, and `restore` gives it back.

# %% exercise: 10.9

# %% check: 10.9
Snapshot = check("10.9", Snapshot)

# %% [markdown]
# Twenty steps at once, and ten, a pause, and ten more in a new model with a new optimizer: every weight must be the
# same, to the last bit. With the weights alone it is not.

# %%
order = [batches(step) for step in range(20)]
ends = {}
for name in ("in one go", "with a pause", "weights alone"):
    model = fresh()
    optimizer = AdamW(model.parameters(), lr=4e-3)
    train_steps(model, optimizer, order[:10], max_norm=1.0)
    if name != "in one go":
        saved, kept = Snapshot(model, optimizer, 10), copy.deepcopy(model.state_dict())
        model = fresh(seed=5)
        optimizer = AdamW(model.parameters(), lr=4e-3)
        model.load_state_dict(kept) if name == "weights alone" else saved.restore(model, optimizer)
    train_steps(model, optimizer, order[10:], max_norm=1.0)
    ends[name] = model.lm_head.weight.detach()

# %%
same = {name: torch.equal(weight, ends["in one go"]) for name, weight in ends.items()}
print(same)
assert same == {"in one go": True, "with a pause": True, "weights alone": False}

# %% [markdown]
# ### On disk
#
# The package's loop, `minillama.loop.train`, does this with files. A **recipe** says everything that decides what a run
# computes: sizes, steps, rates, seed. Here is a short one: 60 steps, three checkpoints, of which the two newest are
# kept.

# %%
recipe = find_recipe("shakespeare-taste").but(
    name="a short run", d_model=32, n_layers=2, d_ff=88, length=32, steps=60, evaluations=3, precision="fp32"
)
folder = Path(tempfile.mkdtemp())
finished = train(recipe, text, out=folder, device="cpu", progress=False, report=lambda line: None)
weights = {name: w.clone() for name, w in finished.model.state_dict().items()}
for path in sorted(folder.iterdir()):
    inside = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    print(path.name, *(f"\n    {name}" for name in inside))

# %% [markdown]
# `model.safetensors` has the weights, `training.pth` the optimizers, `training.json` the recipe and the step, and
# `manifest.json` is written last, with a checksum of each other file: a checkpoint without it was interrupted, and does
# not count. Now the accident: the last checkpoint is lost. The same command goes on from the one before.

# %%
shutil.rmtree(folder / "step-0000060")
said = []
again = train(recipe, text, out=folder, device="cpu", progress=False, report=said.append)
print(said[0].split("/")[-1])
same = all(torch.equal(w, weights[name]) for name, w in again.model.state_dict().items())
print(f"every weight the same, bit for bit: {same}")
assert same

# %% [markdown]
# (Bit for bit on the same machine, with the same number of threads. Another machine adds up in another order, and the
# last digits differ.)
#
# ### What a log must say
#
# The folder also has `metrics.csv`, a row per step or per few steps: enough to draw every loss curve of this
# chapter.

# %% varies
metrics = read_metrics(folder / "metrics.csv")
print(", ".join(metrics[0]))
for row in metrics[19::20]:
    print(*(f"{row[name]:.5g}" for name in row), sep=", ")
assert len(metrics) == 60 and row["tokens"] == 60 * 12 * 32
shutil.rmtree(folder)

# %% [markdown]
# A good log answers, a year later: What was run (the recipe, the code's version)? On which data (a checksum of the
# text)? With which seed? How many tokens, not only how many steps, so that runs with other batches can be compared?
# What was the loss *on new text*? What was the length of the slopes before clipping? And on which machine, with which
# versions? Our runs keep the first and last in `training.json`.

# %% [markdown]
# ## Your LLaMA learns to write
#
# Your parts, as far as you have them, with the recipe `shakespeare-taste`: 155,136 numbers, 700 steps.

# %% varies
parts = my_parts()

# %% [markdown]
# The recipe uses Muon, which comes below. We take AdamW, yours, with warm-up and cosine.

# %%
taste = find_recipe("shakespeare-taste")
torch.manual_seed(0)
mine = Llama(taste.config(tokenizer.vocab_size), parts)
n_mine = 40 if FAST else taste.steps
optimizer = AdamW(decay_groups(mine, weight_decay=0.1), lr=6e-3)
losses = fit(mine, optimizer, n_mine, partial(learning_rate, peak=1.0, warmup_steps=30, total_steps=n_mine, floor=0.1))

# %% varies
print(f"{mine.n_parameters:,} numbers, {score(mine):.2f} nats per character on new text\n")
for line in sample_text(mine, tokenizer, 300, seed=1, prompt="ROMEO:\n").splitlines():
    print(line[:90])
assert certify(mine).passed and score(mine) < (3.3 if FAST else 2.1)

# %% [markdown]
# In the full run: words, speakers, lines, with *your* AdamW, your schedule, your clipping, and your parts. The recipes
# `shakespeare-quick` and `shakespeare-best` take three and fifteen minutes and write better:
# `python -m minillama train shakespeare-quick`.

# %% [markdown]
# ## What is each part worth?
#
# This course has told you that LLaMA has SwiGLU where others have ReLU, RMSNorm instead of LayerNorm, RoPE instead of
# waves, pre-norm instead of post-norm. What is each of them worth? Take one away at a time and train again: that is
# called an **ablation**. To be fair, the number of weights, the tokens, their order and the seeds must be the same, and
# since every seed ends somewhere else, one run is no run.
#
# The script `benchmarks/ablations.py` did that: models of the size of `shakespeare-taste`, 700 steps of 768 tokens,
# three seeds for each variant. Each variant got the learning rate that was best for it, of three or four that were
# tried on the first seed: a rate that was tuned for one model is no fair judge of another. It wrote
# `data/ablations.csv`, and `python benchmarks/ablations.py --again` does it all anew, in some ten minutes on one
# core. The table: the mean of the three seeds, and from where to where they reach.

# %%
with open(assets.shipped_model().parent / "ablations.csv", newline="") as file:
    rows = list(csv.DictReader(file))
labels = {"llama": "LLaMA (with Muon)", "relu": "ReLU for SwiGLU", "layernorm": "LayerNorm for RMSNorm",
          "sinusoidal": "waves for RoPE", "postnorm": "post-norm for pre-norm", "adamw": "AdamW for Muon"}  # fmt: skip
results = {variant: [float(row["loss"]) for row in rows if row["variant"] == variant] for variant in labels}

# %%
base = sum(results["llama"]) / len(results["llama"])
print(f"{'':24}seeds  parameters   tokens   loss    from    to      difference")
for variant, found in results.items():
    row = next(row for row in rows if row["variant"] == variant)
    mean = sum(found) / len(found)
    print(f"{labels[variant]:24}{len(found):>5} {int(row['parameters']):>11,} {int(row['tokens']):>8,}  {mean:.3f}"
          f"   {min(found):.3f}   {max(found):.3f}  {mean - base:+.3f}")  # fmt: skip

# %% [markdown]
# In the figure each dot is a run; the grey band reaches from the best to the worst seed of LLaMA. A variant whose dots
# lie in the band or around it differs by no more than seeds do.

# %%
plots.ablations(results, labels, baseline="llama")
apart = [variant for variant in results if min(results[variant]) > max(results["llama"]) + 0.03]
assert apart == ["sinusoidal", "adamw"] and all(len(found) == 3 for found in results.values())

# %% [markdown]
# Read it slowly, for it is not what the parts' fame would suggest:
#
# - **ReLU, LayerNorm, post-norm: no difference seen here.** Their seeds reach into LLaMA's band. (LayerNorm has 448
#   numbers more, its biases.)
# - **Waves for RoPE cost about 0.1 nats**, several times what seeds differ by.
# - **AdamW for Muon costs more than that.** The optimizer is no part of the model, and here it is worth more than any
#   part.
#
# And the rates? They matter. The notes at the top of the script say what was tried, on the first seed: at a rate of
# 0.012 post-norm and LLaMA both end at 1.823; at 0.006 LLaMA ends at 1.811 and post-norm at 1.901. Whoever compares at
# the one rate that suits his favourite finds the difference he was looking for.
#
# This is a model of three blocks and 64 channels, trained for half a minute on Shakespeare. It can't say what is true
# at 70 billion numbers: post-norm is no trouble in three blocks, and was in twelve (chapter 07). And three seeds that
# agree don't prove that there is no difference of 0.005. What it says is: *at this size, seen from here, these three
# don't matter.* Whoever claims more needs more runs.
#
# Don't take it on trust. A tiny piece of it, now: LLaMA against waves for RoPE, smaller, shorter, with AdamW, at one
# rate for both; in the full run with two seeds.

# %% varies
short = {}
for name, with_parts in {"llama": LLAMA, "waves": Parts(position=Sinusoidal)}.items():
    short[name] = []
    for seed in (0,) if FAST else (0, 1):
        model = fresh(seed, with_parts)
        fit(model, AdamW(model.parameters(), lr=4e-3), n_steps, scheduled, seed=seed)
        short[name] += [score(model)]
    print(f"{name:8}", ", ".join(f"{loss:.2f}" for loss in short[name]))
assert FAST or min(short["waves"]) > max(short["llama"])

# %% [markdown]
# ## For the curious: Muon
#
# What is this optimizer that is worth more than RoPE? AdamW looks at each number of a weight by itself. But most
# weights are *matrices*, and a matrix does something as a whole: it takes a vector in, and gives a vector out.
#
# Look at a simple one, with 3 and 4 on its diagonal. It stretches the first direction by 3 and the second by 4:
#
# $$\begin{pmatrix} 3 & 0 \\ 0 & 4 \end{pmatrix} \begin{pmatrix} 1 \\ 0 \end{pmatrix} =
# \begin{pmatrix} 3 \\ 0 \end{pmatrix}, \qquad
# \begin{pmatrix} 3 & 0 \\ 0 & 4 \end{pmatrix} \begin{pmatrix} 0 \\ 1 \end{pmatrix} =
# \begin{pmatrix} 0 \\ 4 \end{pmatrix}$$
#
# Every matrix is like that, once the directions are chosen well: it turns the space, stretches along the axes, and
# turns again. The stretches, 3 and 4 here, are its **singular values**. PyTorch finds them (`torch.linalg.svdvals`).
# What are those of the slopes of a real matrix?

# %% varies
model = fresh()
fit(model, AdamW(model.parameters(), lr=4e-3), 100)
model.zero_grad()
next_token_loss(model(batches(100)[0]), batches(100)[1]).backward()
slope = model.layers[0].feedforward.up_proj.weight.grad
stretches = torch.linalg.svdvals(slope) / slope.norm()
print(f"{len(stretches)} stretches, for slopes of length 1; the largest five:")
print([f"{s:.2f}" for s in stretches[:5].tolist()], "and the middle one", f"{stretches[24]:.3f}")
assert stretches[0] > 0.5 and stretches[24] < 0.05

# %% [markdown]
# A few directions have nearly everything, and the step goes there. Half of the others have next to nothing, and are
# hardly learned, though there may be something rare and useful in them. **Muon** (2024) gives every direction the same:
# it keeps the turns of the slopes (of their running mean, as in momentum) and replaces all stretches by about 1. That
# is called making the matrix **orthogonal**.
#
# One could work out the turns and the stretches and put the matrix together again. That is slow. There is a trick with
# products alone. Take X, and multiply X Xᵀ X (Xᵀ is X with rows and columns swapped). For the diagonal matrix with 0.6
# and 0.8, that is 0.6³ and 0.8³ on the diagonal. It is so in general: turn, stretch, and turn back cancel in Xᵀ X, and
# what remains is a matrix with the same turns whose stretches are cubes. In the same way X Xᵀ X Xᵀ X has the fifth
# powers. So any sum *a · X + b · X Xᵀ X + c · X Xᵀ X Xᵀ X* changes each stretch s into a · s + b · s³ + c · s⁵, without
# anybody knowing the stretches. With a = 3.4445, b = -4.7750, c = 2.0315:
#
# - 0.6 becomes 2.0667 - 1.0314 + 0.1580 = 1.1933
# - 0.8 becomes 2.7556 - 2.4448 + 0.6657 = 0.9765
# - 0.01 becomes 0.034, and then 0.118, and 0.40: three and a half times as much each time, as long as it is small
#
# Five such steps bring almost everything near 1. This is **Newton and Schulz's iteration**, with numbers that Keller
# Jordan tuned: not exact at the end, but fast at the beginning. It needs stretches of at most 1 to start with. So the
# matrix is divided by its length first, the root of the sum of all squares; the largest stretch is never more than
# that. (What is smaller than about 0.005 is not all the way up after five steps.)
#
# **Exercise 10.10.** Write `orthogonalize`. With A = X Xᵀ, the sum above is a · X + (b · A + c · A A) X.

# %% exercise: 10.10

# %% check: 10.10
orthogonalize = check("10.10", orthogonalize)

# %%
print(orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), steps=1))
evened = torch.linalg.svdvals(orthogonalize(slope))
print("of 48 stretches, more than 30 are between 0.6 and 1.3:", ((evened > 0.6) & (evened < 1.3)).sum().item() > 30)

# %% [markdown]
# On the left what one step and five steps make of a number between 0 and 1. On the right the stretches of the real
# slopes, before and after. Look at the right half of each line on the right.

# %%
values = {"before": stretches.tolist(), "after": evened.tolist()}
plots.singular_values(values, lambda s: 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5, steps=5)
assert evened[24] > 0.6 and stretches[24] < 0.05

# %% [markdown]
# In the model, Muon is for the matrices inside the blocks. Embedding and head are no such matrices (each row belongs
# to one token), and norms are no matrices at all: they stay with AdamW. The numbers of an orthogonal matrix have
# another size than those of Adam's direction, which are near 1 or below; so Muon's are multiplied by 0.2 · √(the
# longer side), and then the learning rates can be compared (Liu and others, 2025). This is how the package builds
# both, and the class below makes the two look like one.

# %% show
show("train.build_optimizers")


# %%
class Both:
    """Muon for the matrices inside the blocks, AdamW for the rest, called like one optimizer."""

    def __init__(self, model, lr):
        inside = [p for p in model.layers.parameters() if p.ndim == 2]
        rest = [p for p in model.parameters() if all(p is not matrix for matrix in inside)]
        muon = torch.optim.Muon(inside, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.two = [muon, AdamW(rest, lr=lr, weight_decay=0.0)]
        self.param_groups = [group for optimizer in self.two for group in optimizer.param_groups]

    def zero_grad(self):
        [optimizer.zero_grad() for optimizer in self.two]

    def step(self):
        [optimizer.step() for optimizer in self.two]


# %% [markdown]
# To be fair, both get the same peak rates (four in the full run), a warm-up, and then what suits them: AdamW the fixed
# rate that was better above, Muon a straight line down to 0. In the full run there are two seeds.


# %%
def straight_down(step):
    return learning_rate(step, peak=1.0, warmup_steps=20, total_steps=n_steps, shape="linear")


def then_fixed(step):
    return min(1.0, (step + 1) / 20)


def trained_with(optimizer, seed, lr, schedule=None):
    make, usual = ways_to_train[optimizer]
    model = fresh(seed)
    losses = fit(model, make(model, lr), n_steps, schedule or usual, seed=seed)
    return score(model), losses


# %%
ways_to_train = {
    "AdamW": (lambda model, lr: AdamW(model.parameters(), lr=lr, weight_decay=0.0), then_fixed),
    "Muon": (Both, straight_down),
}
peaks, seeds = ((0.003, 0.03), (0,)) if FAST else ((0.001, 0.003, 0.01, 0.03), (0, 1))
by_rate = {name: [[trained_with(name, seed, lr)[0] for seed in seeds] for lr in peaks] for name in ways_to_train}

# %% [markdown]
# A dot is a run, a line goes through the means. Compare the lowest points of the two lines.

# %% varies
plots.by_rate(peaks, by_rate)
means = {name: [sum(row) / len(row) for row in rows] for name, rows in by_rate.items()}
for name, row in means.items():
    print(f"{name:6}", ", ".join(f"{lr}: {loss:.2f}" for lr, loss in zip(peaks, row, strict=True)))
assert FAST or min(means["Muon"]) < min(means["AdamW"]) - 0.08

# %% [markdown]
# In the full run Muon ends lower, by much more than seeds differ, each at its best rate of the four. (Muon's is the
# largest one tried, so there may be more in it.) What does that buy? Count the steps until Muon is where AdamW arrives
# at the end, and weigh them with the time a step takes: five times three products of matrices are not free.

# %% varies
best = {name: peaks[row.index(min(row))] for name, row in means.items()}
ways, seconds = {}, {}
for name, lr in best.items():
    began = time.perf_counter()
    ways[name] = smooth(trained_with(name, 0, lr)[1])
    seconds[name] = time.perf_counter() - began
goal = ways["AdamW"][-1]
needed = next((i + 1 for i, loss in enumerate(ways["Muon"]) if loss <= goal), n_steps)
plots.losses("When is Muon where AdamW arrives?", ways, mark=(needed, f"step {needed}"))
print(f"the whole run: AdamW {seconds['AdamW']:.1f} s, Muon {seconds['Muon']:.1f} s")
assert FAST or needed < 0.8 * n_steps

# %% [markdown]
# A step with Muon takes more time; the line above says how much it was here. The larger the batch, the less that
# counts: these products are made once per step, and not once per token.
#
# And the schedule? For AdamW a fixed rate was no worse. An orthogonal step has the same length whatever happens, and
# can't get shorter by itself. Each at its best rate, both ways:

# %% varies
both_ways = {}
for name, lr in best.items():
    both_ways[name] = [trained_with(name, 0, lr, schedule)[0] for schedule in (then_fixed, straight_down)]
    print(f"{name:6} fixed rate {both_ways[name][0]:.2f}, straight down {both_ways[name][1]:.2f}")
assert FAST or both_ways["Muon"][1] < both_ways["Muon"][0] - 0.03

# %% [markdown]
# There it is: in the full run going down is worth a lot to Muon, and nothing to AdamW. Whether a trick helps depends
# on what it is combined with. That holds for most of what one reads about training.
#
# ## The package's version
#
# Compare with yours.

# %% show
show("train.AdamW")

# %% show
show("train.clip_gradients")

# %% [markdown]
# ## What the LLaMAs do
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 (2024), 405B if not said otherwise |
# |---|---|---|---|
# | optimizer | AdamW | AdamW | AdamW |
# | β₁, β₂ | 0.9, 0.95 | 0.9, 0.95, eps 10⁻⁵ | not stated |
# | peak rate, small models | 0.0003 (7B, 13B) | 0.0003 (7B, 13B) | 0.0003 (8B) |
# | peak rate, large models | 0.00015 (33B, 65B) | 0.00015 (34B, 70B) | 0.00015 (70B), 0.00008 (405B) |
# | warm-up | 2,000 steps | 2,000 steps | 8,000 steps |
# | then | cosine to a tenth of the peak | cosine to a tenth of the peak | cosine to a hundredth, 1.2 million steps |
# | weight decay | 0.1 | 0.1 | not stated |
# | clipped to | 1.0 | 1.0 | not stated |
# | tokens per batch | 4 million | 4 million | 4, then 8, then 16 million |
# | tokens in all | 1.0 T (7B, 13B), 1.4 T | 2.0 T | 15.6 T |
#
# Sources: LLaMA (arXiv:2302.13971), table 2 and section 2.3; Llama 2 (arXiv:2307.09288), section 2.2; The Llama 3 Herd
# of Models (arXiv:2407.21783), table 3 and section 3.4.1. T is a trillion. Llama 3 computes in bfloat16, and adds up
# slopes over pieces of a batch in float32 (section 3.3.2): the same caution as in this chapter, at another scale.
#
# The first step has the rate of one part in 2,000: 1.5 · 10⁻⁷ for LLaMA 7B. With your function:

# %%
for step in (0, 1_999, 125_000, 250_000):
    rate = learning_rate(step, peak=3e-4, warmup_steps=2_000, total_steps=250_000, floor=3e-5)
    print(f"LLaMA 7B, step {step:>7,}: {rate:.2e}")

# %% [markdown]
# ## Further reading
#
# - Adam: A Method for Stochastic Optimization. Diederik Kingma, Jimmy Ba, 2015. Algorithm 1 is your `_update`.
# - Decoupled Weight Decay Regularization. Ilya Loshchilov, Frank Hutter, 2019. AdamW.
# - SGDR: Stochastic Gradient Descent with Warm Restarts. Ilya Loshchilov, Frank Hutter, 2017. The cosine.
# - On the difficulty of training recurrent neural networks. Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, 2013.
#   Clipping, and why slopes get too long.
# - Mixed Precision Training. Paulius Micikevicius and others, 2018.
# - Muon: An optimizer for hidden layers in neural networks. Keller Jordan and others, 2024 (a public post).
# - Muon is Scalable for LLM Training. Jingyuan Liu and others, 2025.
# - The Llama 3 Herd of Models. Aaron Grattafiori and others, 2024. Section 3.3.4 tells what stopped a run on 16,384
#   GPUs, 466 times in 54 days.
#
# Next, chapter 11 lets the trained model speak: how a token is chosen from probabilities, and how a text is written
# without computing everything again for each word.
