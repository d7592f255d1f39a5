# %% [markdown]
# # 04 · Heads: several questions at once
#
# After this chapter you can say what two heads can do that one can't, however wide it is; write the attention layer
# of LLaMA 1, 2 and 3, the one that your own model will use in chapter 09; work out how many gigabytes a conversation
# takes; and turn a trained model into one that takes a third of it, with the damage measured.
#
# Reading takes about 80 minutes, the eight exercises about as long again. Chapter 03 is enough to follow it: queries,
# keys and values, `attend`, the causal mask.

# %%
import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.attention import attend, causal_mask
from minillama.config import PRESETS, Config
from minillama.course import FAST, check, my_parts, predicted, show
from minillama.plots import heads as plots

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## One row of weights
#
# > the cat **sat** on the mat
#
# In chapter 03 the word "sat" asked one question: *who could have sat?* It gave points, the points became weights,
# the weights added up to 1, and what "sat" got was a weighted average of the values (*how furry, how flat*).
#
# But a verb has more than one question. Who sat? And on what? Suppose that the scores are as good as they can be, and
# find both words. The weights still add up to 1, so the two have to share: half on the cat (7, 0), half on the mat
# (0, 7). By hand: ½ · (7, 0) + ½ · (0, 7) = (3.5, 3.5). Now let the mat sit on the cat.

# %%
cat, mat = torch.tensor([7.0, 0.0]), torch.tensor([0.0, 7.0])
print("the cat sat on the mat:", 0.5 * cat + 0.5 * mat)
print("the mat sat on the cat:", 0.5 * mat + 0.5 * cat)

# %% [markdown]
# Two different events, the same two numbers. Whatever comes after this layer, it can't find out any more who sat on
# whom.
#
# Then let the weights be uneven, 5/7 for the one who sits and 2/7 for what is sat on. That is (5, 2) for the cat on
# the mat, and (2, 5) for the mat on the cat. Different at last. But (5, 2) may as well be somebody else: a dog, say,
# rather furry, who lies around rather flat, and is alone.

# %%
dog = torch.tensor([5.0, 2.0])
print("the cat sat on the mat:", 5 / 7 * cat + 2 / 7 * mat)
print("the dog sat           :", 1 * dog)
assert torch.allclose(5 / 7 * cat + 2 / 7 * mat, dog)

# %% [markdown]
# An average of two things looks like a third thing. The way out costs nothing but a second row of weights: one row
# for *who?*, all of it on the cat; another for *on what?*, all of it on the mat. The two averages are not mixed. They
# are put side by side.

# %%
who, on_what = cat, mat
print("the cat sat on the mat:", torch.cat([who, on_what]))
print("the mat sat on the cat:", torch.cat([on_what, who]))

# %% [markdown]
# Each such row of weights, with queries, keys and values of its own, is a **head**. LLaMA 1 with 7 billion parameters
# has 32 of them in every layer, the one with 65 billion has 64.
#
# ## As many answers as heads
#
# That was an example with numbers that we chose. Would a trained head not find a trick? Let us give it every chance.
#
# Eight people, called 0 to 7, each hold a number. Somebody asks for two of them, for example *5 and 2?* The answer is
# their two numbers, in this order. This is "who sat on what" without words: two things to look up at the same time.


# %%
def ask(n_texts, n_questions, generator):
    """Eight numbers per text, who is asked for, and the right answers. -> (B, 8), (B, Q), (B, Q)"""
    numbers = torch.randn(n_texts, 8, generator=generator)
    asked = torch.rand(n_texts, 8, generator=generator).argsort(dim=-1)[:, :n_questions]  # nobody twice
    return numbers, asked, numbers.gather(1, asked)


numbers, asked, answers = ask(1, 2, torch.Generator().manual_seed(1))
print("numbers", numbers, "\nasked for", asked, "\nanswers", answers)

# %% [markdown]
# A head for this task: its keys see the people, its values see their numbers, and its query sees who is asked for. A
# person goes in as eight numbers, a 1 at their own place and 0 everywhere else (`F.one_hot`). The three tables of
# numbers are learned; between them is `attend` from chapter 03.


# %%
class Head(nn.Module):
    def __init__(self, n_questions, width):
        super().__init__()
        self.q_proj = nn.Linear(8 * n_questions, width, bias=False)
        self.k_proj = nn.Linear(8, width, bias=False)
        self.v_proj = nn.Linear(1, width, bias=False)

    def forward(self, numbers, asked):
        q = self.q_proj(F.one_hot(asked, 8).float().flatten(1))  # (B, width)
        k, v = self.k_proj(torch.eye(8)), self.v_proj(numbers[..., None])  # (8, width), (B, 8, width)
        return attend(q[:, None], k, v)[:, 0]  # one query per text: (B, 1, width), and back


# %% [markdown]
# Several of them are a team. All heads together are 32 numbers wide: one head of 32, or two of 16, or four of 8. What
# they found is put side by side, and one last table, `o_proj`, makes the answers out of these 32 numbers.


# %%
class Team(nn.Module):
    def __init__(self, n_heads, n_questions):
        super().__init__()
        self.heads = nn.ModuleList(Head(n_questions, 32 // n_heads) for _ in range(n_heads))
        self.o_proj = nn.Linear(32, n_questions, bias=False)

    def forward(self, numbers, asked):
        return self.o_proj(torch.cat([head(numbers, asked) for head in self.heads], dim=-1))


# %% [markdown]
# Training: ask, compare, correct, some hundred times. The error is the mean of the squared differences. It is 0 if
# every answer is right, and 1 for somebody who always answers 0, since the numbers have a mean square of 1.


# %%
def trained(n_heads, n_questions, steps=200 if FAST else 500):
    """Train a team. -> the team, its error on questions that it has not seen"""
    torch.manual_seed(0)
    generator, team = torch.Generator().manual_seed(0), Team(n_heads, n_questions)
    optimizer = torch.optim.AdamW(team.parameters(), lr=0.02, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        numbers, asked, answers = ask(256, n_questions, generator)
        loss = (team(numbers, asked) - answers).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    numbers, asked, answers = ask(10_000, n_questions, torch.Generator().manual_seed(1))
    return team, (team(numbers, asked) - answers).square().mean().item()


# %% [markdown]
# **Predict.** Two questions, one head, 32 numbers wide. Two numbers are to come through, and there is room for 32.
# Which error is left after training: none (0.0), a quarter (0.25), or half of everything (0.5)?

# %% predict: left
left = 0.5  # 0.0, 0.25 or 0.5

# %% reveal: left
_, one_head = trained(n_heads=1, n_questions=2)
two_heads_team, two_heads = trained(n_heads=2, n_questions=2)
print(f"one head of 32 numbers:  {one_head:.1f}\ntwo heads of 16 numbers: {two_heads:.1f}")
predicted(left, round(one_head, 1))
assert abs(one_head - 0.5) < 0.05 and two_heads < 0.03

# %% [markdown]
# The wide head fails, and the two narrow ones do it. On paper you can see that it had no chance. Say that 5 has the
# number a, and 2 has b. The head gives weights w and 1 - w, and out comes **one** number, w·a + (1 - w)·b. (It is
# written 32 times, each time multiplied by something; that does not make it more.) Both answers have to be made from
# it:
#
# - With w = 1 it is a. The first answer is right, and nothing is known of the second: errors 0 and 1, on average ½.
# - With w = ½ it is (a + b)/2, the same for both answers. Each is wrong by (a - b)/2, and the mean of its square is
#   ½.
#
# It is ½ either way, and for every w in between. Two heads bring two numbers, and H heads bring H. With Q questions,
# H of them get their answer and the others get nothing: the error is 1 - H/Q. So much for theory; now train all
# combinations.

# %%
questions = (1, 2, 3, 4)
errors = {n_heads: [trained(n_heads, Q)[1] for Q in questions] for n_heads in (1, 2, 4)}
theory = {n_heads: [max(0.0, 1 - n_heads / Q) for Q in questions] for n_heads in errors}

# %% [markdown]
# The dots are measured, the lines are 1 - H/Q. The blue line leaves the bottom at two questions, the orange one at
# three, the green one never: each time as soon as there are more questions than heads.

# %%
plots.errors_by_questions(errors, theory)
assert all(abs(error - 1 + min(1, H / Q)) < 0.05 for H in errors for error, Q in zip(errors[H], questions, strict=True))

# %% [markdown]
# What this shows, and what it does not. In this task keys do not see the numbers, and there is a single layer; that
# is what makes the proof so short. A real model has many layers, and what a head did not get in one layer, it may get
# in the next. But per token and layer it stays true: **a head brings one average**, and more heads bring more.
#
# ## All heads in one product
#
# A model with 64 heads does not keep a list of 64 small objects. Look at the two heads of our team: each has a table
# that makes 16 numbers for its query. Put one table below the other, and one product makes all 32 numbers, the 16 of
# the first head and then the 16 of the second.

# %%
two_tables = [head.q_proj.weight for head in two_heads_team.heads]  # a Linear keeps its table as (out, in)
one_table = torch.cat(two_tables)  # one below the other
x = torch.randn(5, 16)
apart = torch.cat([x @ table.T for table in two_tables], dim=-1)
print([tuple(table.shape) for table in two_tables], "->", tuple(one_table.shape))
print("the same numbers:", torch.allclose(x @ one_table.T, apart, atol=1e-5))

# %% [markdown]
# So a layer with H heads has *one* `q_proj`, and makes one vector of C numbers per token. What is left to do is to
# cut it: the first D = C / H numbers are for head 0, the next D for head 1, and so on. The same for keys and values.
#
# Cutting sounds harmless. It is where most people go wrong. Take three tokens of four numbers each, and two heads.
# The numbers say where they are from: 23 is token 2, channel 3.

# %%
tokens = ["the", "cat", "sat"]
x = torch.tensor([[[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]]])  # B = 1, T = 3, C = 4
print(tuple(x.shape))

# %% [markdown]
# `attend` works on the last two axes, which must be tokens and numbers: (T, D). Everything in front it leaves alone.
# So the heads have to stand in front, in the shape (B, H, T, D), here (1, 2, 3, 2). Two tools change shapes:
#
# - `x.view(...)` keeps the numbers in their order and fills another shape with them, row by row. One of the sizes may
#   be -1, *whatever fits*.
# - `x.transpose(1, 2)` exchanges two axes: what was at [b, i, j] is now at [b, j, i].

# %%
six = torch.arange(6)
print(six.view(2, 3).tolist())  # filled row by row
print(six.view(2, 3).transpose(0, 1).tolist())  # rows become columns
print(six.view(3, 2).tolist())  # the same shape as before it, other contents

# %% [markdown]
# Look at the last two lines: the same shape, (3, 2), and different contents. Now the tempting way to cut the heads: a
# single `view` into the shape that we need. In the figure, a colour is a token. On the left is what `view(1, 2, 3, 2)`
# makes, on the right what we want: each head sees all three tokens, and two numbers of each.

# %%
tempting = x.view(1, 2, 3, 2)[0]
wanted = torch.stack([x[0, :, :2], x[0, :, 2:]])  # by hand: channels 1 and 2 of every token, then 3 and 4
plots.who_gets_what({"One view: whose numbers?": tempting, "What should each head get?": wanted}, tokens)
assert tempting.shape == wanted.shape and not torch.equal(tempting, wanted)

# %% [markdown]
# On the left, head 0 believes that it sees three tokens. In truth it sees "the" twice and half of "cat", and "sat" is
# all in head 1. The shape is right, there is no error, and such a model even trains, a little worse. And no mask helps:
# the first row of head 1 is "cat". Put side by side with the first row of head 0, it tells "the" what comes next.
#
# **Exercise 04.1.** Write `split_heads`. Take the two tools in the right order. B is the number of texts, T of
# tokens, C of numbers per token, H of heads, and D = C / H.

# %% exercise: 04.1

# %% check: 04.1
split_heads = check("04.1", split_heads)

# %%
print(split_heads(x, 2)[0])
assert torch.equal(split_heads(x, 2)[0], wanted)

# %% [markdown]
# After `attend`, each head has made (T, D) out of (T, D), and we want one vector of C = H · D numbers per token again:
# the pieces of a token side by side, head 0 first.
#
# One more thing to know about `transpose`. It moves no number in memory; it only notes that the axes are to be read
# the other way round. `view`, on the other hand, reads memory as it lies, and refuses:

# %%
try:
    six.view(2, 3).transpose(0, 1).view(6)
except RuntimeError as error:
    print(str(error).split(" (")[0])
print(six.view(2, 3).transpose(0, 1).reshape(6))

# %% [markdown]
# `reshape` does what `view` does, and copies the numbers first where that is needed.
#
# **Exercise 04.2.** Write `merge_heads`, the way back.

# %% exercise: 04.2

# %% check: 04.2
merge_heads = check("04.2", merge_heads)

# %%
assert torch.equal(merge_heads(split_heads(x, 2)), x)
print("there and back:", merge_heads(split_heads(x, 2))[0].tolist())

# %% [markdown]
# ## Multi-head attention
#
# Now the whole layer. What comes in are the tokens of a text, x, with the shape (B, T, C); the same shape goes out.
#
# | step | shape |
# |---|---|
# | three tables make queries, keys and values | (B, T, C), three times |
# | cut them into heads | (B, H, T, D), three times |
# | each head attends for itself | (B, H, T, D) |
# | put the heads side by side | (B, T, C) |
# | one more table, `o_proj`, mixes what they found | (B, T, C) |
#
# The mask says which token may look at which, for all heads alike. A causal mask has the shape (T, T), and is
# broadcast over texts and heads: PyTorch uses the same one for each. A padding mask is another one for each text,
# with the shape (B, 1, 1, T): the 1s stand for *all heads* and *all queries*. In both cases you hand it to `attend`
# as it is.
#
# The scores are divided by the root of the width of what is multiplied, and that is now D, not C. `attend` takes it
# from the last axis of q.
#
# **Exercise 04.3.** Write `forward` of `MultiHeadAttention`. `__init__` is given: it makes the four tables. You have
# everything else: `split_heads`, `attend`, `merge_heads`.

# %% exercise: 04.3

# %% check: 04.3
MultiHeadAttention = check("04.3", MultiHeadAttention)

# %% [markdown]
# PyTorch has this layer as well. It keeps the tables of queries, keys and values in one, one below the other, and in
# its mask True means *hidden*. With your numbers in it, it gives your result.

# %%
mine, theirs = MultiHeadAttention(12, 3), nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
theirs.in_proj_weight.data = torch.cat([mine.q_proj.weight, mine.k_proj.weight, mine.v_proj.weight])
theirs.out_proj.weight = mine.o_proj.weight
x = torch.randn(2, 5, 12)
their_result, _ = theirs(x, x, x, attn_mask=~causal_mask(5))
print("the same as torch.nn.MultiheadAttention:", torch.allclose(mine(x, causal_mask(5)), their_result, atol=1e-5))
assert torch.allclose(mine(x, causal_mask(5)), their_result, atol=1e-5)

# %% [markdown]
# What do 16 heads cost, compared to one? The tables are as large as before, since the heads share the width: each is
# a sixteenth as wide. The scores are 16 times as many, and each takes a sixteenth of the multiplications.

# %%
for n_heads in (1, 4, 16):
    layer, T, D = MultiHeadAttention(64, n_heads), 100, 64 // n_heads
    n_numbers = sum(p.numel() for p in layer.parameters())
    print(f"{n_heads:>2} heads: {n_numbers:,} numbers to learn, {2 * n_heads * T * T * D:,} multiplications in attend")
    assert n_numbers == 4 * 64 * 64

# %% [markdown]
# More heads are free, then. Why not 64 heads of one number each? Because a head of one number can hardly say what it
# looks for: its query is a single number, and so is each key. The paper of 2017 tried it out with translation: one
# head was worst (24.9 points), 8 and 16 heads were best (25.8), and 32 heads of 16 numbers each fell off again (25.4).
# (Vaswani et al. 2017, table 3, rows A. The points are BLEU; more is better.) LLaMA gives a head 128 numbers,
# in every size from 7 to 405 billion parameters, and adds heads as the model gets wider.
#
# ## A sum over heads
#
# *Side by side, then a table* hides something simple. Take two heads that found one number each, 3 and 5, and an
# `o_proj` with the rows (1, 2) and (4, 10). By hand:
#
# | | | |
# |---|---|---|
# | side by side, then the table | (1·3 + 2·5, 4·3 + 10·5) | (13, 62) |
# | only head 0, only the first column | (1·3, 4·3) | (3, 12) |
# | only head 1, only the second column | (2·5, 10·5) | (10, 50) |
#
# And (3, 12) + (10, 50) = (13, 62). The table's *columns* belong to the heads: D columns for each. What the layer
# gives is a **sum over heads**, and each head adds its own term without knowing the others.
#
# **Exercise 04.4.** Write `contributions`, the terms of this sum, one for each head. `weight` is `o_proj.weight`. A
# `nn.Linear` computes `x @ weight.T`, so its weight has the shape (out, in): C rows, one for each number that comes
# out, and H · D columns, one for each number that goes in.

# %% exercise: 04.4

# %% check: 04.4
contributions = check("04.4", contributions)

# %% [markdown]
# With the numbers from above, and then with the layer `mine`: the terms add up to what the layer gave.

# %%
print(contributions(torch.tensor([[[[3.0]], [[5.0]]]]), torch.tensor([[1.0, 2.0], [4.0, 10.0]]))[0, :, 0])
q, k, v = (split_heads(project(x), 3) for project in (mine.q_proj, mine.k_proj, mine.v_proj))
terms = contributions(attend(q, k, v, causal_mask(5)), mine.o_proj.weight)
print(tuple(terms.shape), "sum equals the layer:", torch.allclose(terms.sum(dim=1), mine(x, causal_mask(5)), atol=1e-5))
assert torch.allclose(terms.sum(dim=1), mine(x, causal_mask(5)), atol=1e-5)

# %% [markdown]
# ### What heads look at
#
# If a layer is a sum, its terms can be looked at one by one, and taken away one by one. We do both with a model that
# has learned something: the one that ships with the course, a LLaMA of 1.8 million parameters with 4 layers of 3
# heads, trained on Shakespeare, character by character.

# %%
from minillama.assets import corpus, shipped_model
from minillama.data import Batches, split
from minillama.saving import open_checkpoint
from minillama.train import evaluate, next_token_loss

shipped = open_checkpoint(shipped_model())
model, tokenizer = shipped.model, shipped.tokenizer
training, validation = split(torch.tensor(tokenizer.encode(corpus(report=lambda line: None))))
print(model.config.n_layers, "layers,", model.config.n_heads, "heads of", model.config.head_dim, "numbers")

# %% [markdown]
# To read the weights, put ones on the diagonal in place of the values, as in chapter 03: what `attend` gives then are
# the weights.


# %%
def weights_while_reading(tokens):
    """Let the model read tokens (B, T). -> the weights of its heads, a tensor (B, H, T, T) per layer"""
    seen = []

    def watching(q, k, v, mask):
        seen.append(attend(q, k, torch.eye(k.size(-2)), mask))
        return attend(q, k, v, mask)

    watched = copy.deepcopy(model)
    for layer in watched.layers:
        layer.attention.attend = watching
    with torch.no_grad():
        watched(tokens)
    return seen


# %% [markdown]
# The three heads of the second layer (layer 1), while they read our sentence. Each row is a character that looks
# back. Head 0 looks at the beginning of its own word, at the space or at the first letter. Head 1 often looks at the
# end of the word before. Head 2 looks far back, here most of all at the very first character.

# %%
sentence = "The cat sat on the mat"
maps = weights_while_reading(torch.tensor([tokenizer.encode(sentence)]))[1][0]
characters = [character.replace(" ", "␣") for character in sentence]
title = "Three heads of one layer: do they look at the same characters?"
plots.attention_maps({f"head {h}": maps[h] for h in range(3)}, characters, title)
assert maps[0, 19, 18] > 0.5 and maps[1, 20, 17] > 0.5 and maps[2, 17, 0] > 0.5  # m to ␣, a to e, e to T

# %% [markdown]
# One sentence proves little. So, over 2,048 characters of text that the model has not been trained on: which share of
# its attention does a head spend on the current word (with the space in front of it), on the word before, and
# further back?

# %%
tokens = validation[:2048].view(8, 256)
starts_word = torch.isin(tokens, torch.tensor(tokenizer.encode(" \n")))
number = starts_word.cumsum(dim=-1)  # of the word that a character belongs to
back = number[:, :, None] - number[:, None, :]  # (B, T, S): how many words back is the key?
for h, weights in enumerate(weights_while_reading(tokens)[1].unbind(dim=1)):
    shares = [(weights * (back == n)).sum(dim=-1)[:, 40:].mean() for n in (0, 1)]
    print(f"head {h}: this word {shares[0]:.2f}, the one before {shares[1]:.2f}, further back {1 - sum(shares):.2f}")

# %% [markdown]
# Three heads, three questions: *where in the word am I? what was the last word? what was all that about?* (The
# questions are our reading; measured are the shares.) Nobody assigned them. The heads started as random numbers, and
# since each adds its own term to the sum, it pays to add what the others do not.
#
# ### What the model loses without a head
#
# Now take heads away. Head h reaches the model through its D columns of `o_proj` only. Set them to zero, and it adds
# zeros. The model has 4 · 3 = 12 heads; we take away one at a time, and put it back before the next.
#
# **Predict.** Of these twelve heads, how many cost the model more than 0.2 nats per character when they are missing?
# (For comparison: the loss is about 1.3. Guessing blindly has 4.17, counting letters about 3.3.)

# %% predict: costly
costly = 1  # 1, 6 or 12


# %%
def silence(model, layer, head):
    """A copy of the model without this head."""
    model = copy.deepcopy(model)
    D = model.config.head_dim
    model.layers[layer].attention.o_proj.weight.data[:, head * D : (head + 1) * D] = 0
    return model


some_text = validation[: 2 * 1024 + 1 if FAST else 8 * 1024 + 1]
loss = evaluate(model, some_text, 256)
without_one = [[evaluate(silence(model, layer, h), some_text, 256) for h in range(3)] for layer in range(4)]
costs = torch.tensor(without_one) - loss

# %% [markdown]
# The bars are what the loss goes up by. All heads of the last three layers have low bars, below 0.1 nats. One bar
# stands out.

# %% reveal: costly
plots.loss_without_each_head(costs)
predicted(costly, int((costs > 0.2).sum()))
assert costs.argmax() == 2 and costs.max() > 0.7 and (costs > 0.2).sum() == 1

# %% [markdown]
# A single head, the last one of the first layer, costs about 1 nat, and the other eleven, added up, about 0.4. What
# does it look at? On the same 2,048 characters as before:

# %%
weights = weights_while_reading(tokens)[0][:, 2]
one_back, two_back = (weights.diagonal(-n, -2, -1)[:, 40:].mean() for n in (1, 2))
print(f"on the character before: {one_back:.2f}, on the one before that: {two_back:.2f}")
assert one_back + two_back > 0.5

# %% [markdown]
# At the two neighbours to the left, with more than half of its attention. It tells the rest of the model what stands
# next to what, and without that the later layers have little to work with. The others are hardly missed.
#
# It would be wrong to conclude that they do nothing. Take away all eleven at once:

# %% varies
without = model
for layer, h in [(layer, h) for layer in range(4) for h in range(3) if (layer, h) != (0, 2)]:
    without = silence(without, layer, h)
together = evaluate(without, some_text, 256) - loss
print(f"one at a time, added up: {costs.sum() - costs.max():.2f} nats;  all at once: {together:.2f} nats")
assert together > 2 * (costs.sum() - costs.max())

# %% [markdown]
# All at once they cost about three times what they cost one by one. Heads can stand in for each other, as colleagues
# do: one is ill and nobody notices, eleven are ill and the shop is closed. The same was found in large translation
# models, where most heads can be taken away one at a time after training (Michel, Levy and Neubig 2019), and a few
# have jobs that can be named, such as looking at the neighbour (Voita et al. 2019).
#
# ## What a model has to remember
#
# A language model writes one token at a time. For each new token, every layer attends: the new query meets the keys
# of **all tokens so far**. Must those keys be computed again each time? Let four tokens be there, and a fifth one
# come.

# %%
x = torch.randn(1, 5, 12)
keys_of_four, keys_of_five = split_heads(mine.k_proj(x[:, :4]), 3), split_heads(mine.k_proj(x), 3)
print("the first four keys are what they were:", torch.allclose(keys_of_four, keys_of_five[:, :, :4], atol=1e-6))

# %% [markdown]
# Nothing changed. A key is made from its own token. In deeper layers that token has looked around, but under a causal
# mask only backwards, so a later token can't change it there either. So a model that writes keeps the keys and values
# of all layers, and adds one of each per token. This store is the **cache** (KV cache: keys and values). Chapter 11
# writes with it; here is what one layer of it does. `append` takes the new ones, and gives back all.

# %%
from minillama.cache import LayerCache

cache = LayerCache()
for new in x.split([3, 1, 1], dim=1):  # three tokens at first, then one, then another one
    q, k, v = (split_heads(project(new), 3) for project in (mine.q_proj, mine.k_proj, mine.v_proj))
    all_k, all_v = cache.append(k, v)
    print(f"{new.size(1)} new, keys and values kept: {tuple(all_k.shape)}")
last = mine.o_proj(merge_heads(attend(q, all_k, all_v)))  # only the newest token asks, and may look at everything
assert torch.allclose(last, mine(x, causal_mask(5))[:, 4:], atol=1e-5)

# %% [markdown]
# The result for the newest token is what the whole layer gives for it, without computing the others again. The price
# is memory. How much?
#
# **Predict.** Llama 2 with 7 billion parameters has 32 layers, and in each of them 32 heads of 128 numbers. A number
# takes 2 bytes. How many bytes must be kept for *one* token, which is about four letters of text?

# %% predict: one_token
one_token = 524_288  # 1_024, 16_384 or 524_288

# %% [markdown]
# **Exercise 04.5.** Write `cache_bytes`, and find out. `config` holds the sizes of a model; `config.n_layers` is the
# number of its layers. Two of its fields may surprise you. `n_kv_heads` is how many heads of *keys and values* there
# are. Up to here it is the same as `n_heads`, the heads of the queries, but the next section changes that, so count
# what is kept. And `head_dim`, our D, is nearly always d_model / n_heads (`d_model` is our C), but a model may choose
# another one.

# %% exercise: 04.5

# %% check: 04.5
cache_bytes = check("04.5", cache_bytes)

# %% reveal: one_token
llama_2 = PRESETS["llama-2-7b"]
predicted(one_token, cache_bytes(llama_2, n_tokens=1))
print(f"one text of 4,096 tokens:  {cache_bytes(llama_2, n_tokens=4096) / 1e9:.1f} GB")
print(f"ten texts of 4,096 tokens: {cache_bytes(llama_2, n_tokens=4096, n_sequences=10) / 1e9:.1f} GB")
print(f"the model itself:          {2 * 6_738_415_616 / 1e9:.1f} GB")

# %% [markdown]
# Half a megabyte for four letters. Seven conversations of full length need more memory than the model itself. And it
# is not only a matter of space: for each new token, all of it has to be read once. When a model writes, a graphics card
# spends its time on reading memory, not on multiplying (Shazeer 2019).
#
# ## Fewer keys and values
#
# In the formula there is one factor that looks as if one could do with less: the heads. Queries are not kept, they are
# used once. So keep all query heads, and let several of them **share** one head of keys and values:
#
# - **Multi-head attention** (MHA): each query head has its own keys and values.
# - **Multi-query attention** (MQA): all share a single one (Shazeer 2019).
# - **Grouped-query attention** (GQA): something between; H query heads form G groups, and each group shares one
#   (Ainslie et al. 2023).
#
# In the figure, above are the query heads, below the key/value heads that they read. In the middle panel, query heads
# 0 to 3 look at the same keys. They still have different queries, so they still make different rows of weights.

# %%
groups = {"MHA: each its own?": 8, "GQA: one for four?": 2, "MQA: one for all?": 1}
plots.sharing(8, groups)
assert all(8 % n == 0 for n in groups.values())

# %% [markdown]
# Does the argument from the beginning still hold: as many answers as heads? Yes. It was about rows of weights and
# what they bring, and there are as many of those as query heads.
#
# `attend` wants as many heads of keys as of queries. The easiest way there is to repeat: with two key/value heads a
# and b, and six query heads, hand it a, a, a, b, b, b. In numbers, query head h reads key/value head h // 3. Which
# order is a convention, and every LLaMA checkpoint relies on this one: heads that stand *together* share.
#
# **Exercise 04.6.** Write `repeat_kv`. G is the number of key/value heads, and S the number of keys: with a cache
# there are more of them than queries.

# %% exercise: 04.6

# %% check: 04.6
repeat_kv = check("04.6", repeat_kv)

# %%
two_heads = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)  # one text, two heads, one key, one number
print(repeat_kv(two_heads, 3).flatten().tolist())

# %% [markdown]
# What does sharing save? Compare models of nearly the same size: LLaMA 1 with 65 billion parameters has 64 heads of
# keys and values in each layer, Llama 2 with 70 billion has 8 of them for 64 heads of queries. For the third line we
# change one number in the config of Llama 2: one key/value head for all.

# %%
big_1, big_2 = PRESETS["llama-1-65b"], PRESETS["llama-2-70b"]
versions = {
    f"LLaMA 1 65B\n{big_1.n_kv_heads} key/value heads": big_1,
    f"Llama 2 70B\n{big_2.n_kv_heads} key/value heads": big_2,
    "Llama 2 70B\nif it had 1": replace(big_2, n_kv_heads=1),
}
tokens_kept = [1000 * 2**n for n in range(14)]
gigabytes = {name: [cache_bytes(config, n) / 1e9 for n in tokens_kept] for name, config in versions.items()}

# %% [markdown]
# All three lines rise alike: the cache is proportional to the number of tokens. The horizontal line is the weights of
# Llama 2 70B. The blue line crosses it at some fifty thousand tokens, which is 26 texts of 2,048, the longest that
# LLaMA 1 can read. The orange line crosses it eight times further to the right.

# %%
plots.cache_against_weights(tokens_kept, gigabytes, 2 * 68.98, "the weights of Llama 2 70B: 138 GB")
assert cache_bytes(big_1, 2048) == 8 * cache_bytes(big_2, 2048) and 25 < 138e9 / cache_bytes(big_1, 2048) < 27

# %% [markdown]
# ## The attention layer of every LLaMA
#
# Now the layer that the rest of the course uses, and that will be in your own model. It is `MultiHeadAttention` with
# fewer key/value heads, and with places where other things plug in. Some of these things come in later chapters, but
# what they *do* to this layer is quickly said:
#
# - **n_kv_heads**: keys and values are cut into so many heads, and repeated so that every query head has its own.
#   `k_proj` and `v_proj` are narrower accordingly.
# - **rotate** (chapter 06): a function, or None. It marks vectors with the place where their token stands, and
#   returns the same shape that it got. It works on one head's numbers at a time, and it is made for what gets
#   *compared*: queries and keys. Values are not compared.
# - **cache** (chapter 11): an object as above, or None. `cache.append(k, v)` takes the new keys and values and gives
#   back the pair of everything that it now holds. A key goes in once, finished, with its place marked; and the cache
#   should hold as little as possible.
# - **context** (chapter 08): another text, or None. If it is there, x asks and the context answers, as in the
#   cross-attention of chapter 03. Here it may be shorter or longer than x.
# - **attend**: the function that does the averaging. Use `self.attend`, not `attend`, so that somebody can plug in a
#   faster one. It is called with four things in this order: q, k, v, mask.
# - **mask**: as before, handed on as it is. Its last axis counts all keys, those from the cache as well.
#
# **Exercise 04.7.** Write `forward` of `Attention`. What has to be done first, and what afterwards: rotate or append?
# append or repeat? The sentences above say it. (In the annotation, `attend: Callable[..., Tensor]` means: a function
# that returns a tensor.)

# %% exercise: 04.7

# %% check: 04.7
Attention = check("04.7", Attention)

# %% [markdown]
# Three tests of your own. With as many key/value heads as query heads, it is the layer that you had. Token by token
# with a cache, it gives the same as all at once. And with PyTorch's fast function in it, it gives the same again.

# %%
same_as_before = Attention(12, 3)
same_as_before.load_state_dict(mine.state_dict())
print("as before:     ", torch.allclose(same_as_before(x, causal_mask(5)), mine(x, causal_mask(5)), atol=1e-5))
layer, cache = Attention(12, 6, n_kv_heads=2), LayerCache()
one_by_one = torch.cat([layer(token, cache=cache) for token in x.split(1, dim=1)], dim=1)
print("one by one:    ", torch.allclose(one_by_one, layer(x, causal_mask(5)), atol=1e-5))
fast = Attention(12, 6, n_kv_heads=2, attend=F.scaled_dot_product_attention)
fast.load_state_dict(layer.state_dict())
print("torch's attend:", torch.allclose(fast(x, causal_mask(5)), layer(x, causal_mask(5)), atol=1e-5))
print("kept per token:", cache.k[0, :, 0].numel() + cache.v[0, :, 0].numel(), "numbers, with 6 heads it would be 24")

# %% [markdown]
# The package's version:

# %% show
show("attention.Attention")

# %% [markdown]
# Now plug it in. `my_parts()` collects what you have passed so far, your `Attention` (and your `attend`, if you did
# chapter 03), and takes the package's for the rest. The shipped model is opened with these parts: the numbers that it
# has learned, running through your code. If there were a mistake left in it, the model would not spell.

# %% varies
from minillama.generate import sample_text

parts = my_parts()
yours = open_checkpoint(shipped_model(), parts=parts, other_parts=True).model
line = tokenizer.encode("What light through yonder")
with torch.no_grad():
    difference = (yours(torch.tensor([line])) - model(torch.tensor([line]))).abs().max()
print(f"\nlargest difference to the package's model: {difference:.4f}\n")
print(sample_text(yours, tokenizer, n_new=60, seed=6, prompt="What light through yonder", temperature=0.5))
assert difference < 1e-3

# %% [markdown]
# ## From many heads to few
#
# A model that was trained with as many key/value heads as query heads is expensive to use. Can one turn it into a
# cheaper one, without training anew? Ainslie et al. did: make the new key/value head of each group the **average** of
# its old ones, then train a little more. (With 5 % of the first training, their models were nearly as good as before.)
#
# What is averaged are weights. `k_proj.weight` has one row for each number that comes out: the first D rows make the
# keys of head 0, the next D rows those of head 1. By hand, for two heads with D = 2, C = 1, and the rows 1, 2 for
# head 0 and 5, 8 for head 1: the new head has the rows (1 + 5)/2 = 3 and (2 + 8)/2 = 5.
#
# **Exercise 04.8.** Write `average_heads`. It takes the weight of `k_proj` or of `v_proj`, and gives back one with
# fewer rows.

# %% exercise: 04.8

# %% check: 04.8
average_heads = check("04.8", average_heads)

# %% [markdown]
# The shipped model has 3 heads in each layer. We give it one key/value head instead of three: a third of the cache.
# Queries, the output tables and everything else stay as they are.


# %%
from minillama.llama import Llama


def with_one_kv_head(make):
    """The shipped model, the weights of its k_proj and v_proj replaced by what `make` makes of them."""
    changed = model.state_dict()
    for name, weight in changed.items():
        if "k_proj" in name or "v_proj" in name:
            changed[name] = make(weight)
    cheaper = Llama(replace(model.config, n_kv_heads=1))
    cheaper.load_state_dict(changed)
    return cheaper


ways = {
    "the average": lambda weight: average_heads(weight, n_kv_heads=1, head_dim=64),
    "the first head": lambda weight: weight[:64],
    "random": lambda weight: weight.std() * torch.randn(64, 192, generator=torch.Generator().manual_seed(0)),
}

# %% [markdown]
# "The first head" keeps head 0 and throws the other two away. "Random" throws all three away; it is there to compare.
#
# **Predict.** Before, the loss on new text is about 1.3 nats per character. What is it directly after averaging,
# without any training? (Counting letters has 3.3; guessing blindly has 4.17.)

# %% predict: after
after = 3.6  # 1.4, 2.2 or 3.6

# %% reveal: after
new_text = validation[: 8 * 1024 + 1]
print(f"before: {evaluate(model, new_text, 256):.1f} nats")
damaged = evaluate(with_one_kv_head(ways["the average"]), new_text, 256)
predicted(after, round(damaged, 1), within=1.1)
assert 3.4 < damaged < 3.9

# %% [markdown]
# Worse than counting letters: the model is sure of itself, and wrong. The reason is what you have
# seen above: heads do different things, and nobody made them agree on which of their 64 numbers means what. Number 7
# of one head has nothing to do with number 7 of another. The average of three different questions is no question. It
# is the (3.5, 3.5) from the beginning, in another place.
#
# But the rest of the model is still there, and may find its way again. Train it on, in small batches, and compare with
# the other two ways, and with the same training of a model that was not changed at all.


# %%
def losses_while_training(model, evaluate_after, length=128):
    """Train the model on. -> its validation loss after these numbers of steps"""
    found, batches = [], Batches(training, batch_size=4 if FAST else 8, length=length, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(evaluate_after[-1] + 1):
        if step in evaluate_after:
            found.append(evaluate(model, some_text, 256))
        optimizer.param_groups[0]["lr"] = 0.001 * min(1, (step + 1) / 5) * (1 - step / evaluate_after[-1])
        tokens, targets = batches(step)
        loss = next_token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


# %% varies
steps = (0, 5, 15) if FAST else (0, 5, 10, 20, 40, 80, 120)
curves = {name: losses_while_training(with_one_kv_head(make), steps) for name, make in ways.items()}
curves["nothing changed"] = losses_while_training(copy.deepcopy(model), steps)
for name, losses in curves.items():
    print(f"{name:<16}" + "".join(f"{loss:>7.2f}" for loss in losses))

# %% [markdown]
# At step 0 the average is *worse* than keeping the first head. After ten steps it has overtaken it, and at the end it
# is far ahead: it holds something of all three heads, and training can sort it out. Random weights are last. That
# is the order that Ainslie et al. found too. The last line shows what this short training does to a healthy model:
# at first a little harm, since its steps are large for a model that is finished, and then nothing much.

# %%
plots.repair(steps, curves, before=loss)
assert curves["the first head"][0] < curves["the average"][0] < curves["random"][0]
assert curves["the average"][-1] < curves["the first head"][-1] < curves["random"][-1]
assert FAST or curves["the average"][-1] < loss + 0.25

# %% [markdown]
# So: a third of the cache, for a training of about one percent of the first one, and the model is back within about
# 0.15 nats of where it was. More training brings it closer. Whether that is a good bargain depends on what memory
# costs you. Llama 3 was trained with few key/value heads from the start.
#
# ## What LLaMA 1, 2 and 3 do
#
# Your `cache_bytes`, for the models as they were published. (1 KiB is 1,024 bytes.)

# %%
names = ("llama-1-7b", "llama-1-65b", "llama-2-7b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "llama-3.1-405b")
for name in names:
    config = PRESETS[name]
    sizes = f"{config.n_layers:>3} layers, {config.n_heads:>3} query heads, {config.n_kv_heads:>2} key/value heads"
    print(f"{name:<14} {sizes}: {cache_bytes(config, n_tokens=1) / 1024:>5,.0f} KiB per token")
assert cache_bytes(PRESETS["llama-3.1-405b"], 1) < cache_bytes(PRESETS["llama-1-7b"], 1)

# %% [markdown]
# The model with 405 billion parameters keeps *less* per token than the first one with 7 billion.
#
# | | LLaMA 1 | Llama 2 | Llama 3 and 3.1 |
# |---|---|---|---|
# | attention | multi-head, all sizes | 7B and 13B multi-head; 70B grouped | grouped, all sizes |
# | query heads H | 32 (7B), 40 (13B), 52 (33B), 64 (65B) | 32, 40, 64 | 32 (8B), 64 (70B), 128 (405B) |
# | key/value heads G | as many as H | 32, 40, **8** | **8** |
# | numbers per head D | 128 | 128 | 128 |
# | longest text, tokens | 2,048 | 4,096 | 8,192 (3), 131,072 (3.1) |
# | one longest text in the cache | 1.1 GB (7B) | 2.1 GB (7B), 1.3 GB (70B) | 1.1 GB (3, 8B), 17.2 GB (3.1, 8B) |
# | biases in the four tables | none | none | none |
# | source | arXiv:2302.13971 | arXiv:2307.09288 | arXiv:2407.21783 |
#
# The sources are the papers *LLaMA* (Touvron et al. 2023), *Llama 2* (Touvron et al. 2023) and *The Llama 3 Herd of
# Models* (Grattafiori et al. 2024). The row of the longest text, computed:

# %%
for name in ("llama-1-7b", "llama-2-7b", "llama-2-70b", "llama-3-8b", "llama-3.1-8b"):
    config = PRESETS[name]
    print(f"{name:<13} {config.max_len:>7,} tokens: {cache_bytes(config, config.max_len) / 1e9:>4.1f} GB")
    assert config.head_dim == 128

# %% [markdown]
# ## What stays
#
# - A row of weights brings one average. H heads bring H of them, at the price of one.
# - Cut first, exchange axes afterwards; on the way back the other way round. Every other order has the right shape and
#   the wrong numbers.
# - A layer's output is a sum over heads. One head may matter more than all others, and heads stand in for each other.
# - Keys and values of old tokens never change, so they are kept: 2 · layers · G · D numbers per token.
# - Sharing keys and values among query heads makes that smaller. Doing it to a trained model destroys it first; a
#   little training brings most of it back.
#
# Something to try: give the heads of the first task a `width` of 256 instead of 32, and see the error stay at 0.5. Or
# let their keys see the numbers too. The proof no longer holds then. Does training find a trick?
#
# ## Further reading
#
# - *Attention Is All You Need*, Vaswani et al., 2017. Section 3.2.2 has multi-head attention; table 3, rows A, one
#   head against 32.
# - *Fast Transformer Decoding: One Write-Head is All You Need*, Shazeer, 2019. Multi-query attention, and why reading
#   memory is what counts.
# - *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, Ainslie et al., 2023.
#   Groups, and the averaging that you have measured.
# - *Are Sixteen Heads Really Better than One?*, Michel, Levy and Neubig, 2019.
# - *Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can Be Pruned*, Voita et al.,
#   2019.
# - *A Mathematical Framework for Transformer Circuits*, Elhage et al., 2021. Takes the sum over heads seriously, and
#   goes on from there.
#
# Heads carry things from token to token, but they only average; in chapter 05 each token starts to think about what
# it has got.
