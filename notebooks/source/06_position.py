# %% [markdown]
# # 06 · Position: who stands where
#
# After this chapter you can prove that attention does not know the order of words, write the rotation that every LLaMA
# uses instead (RoPE), mend a checkpoint that talks nonsense although every number in it is right, and let a model read
# four times as far as it was trained, without training it.
#
# Reading takes about 90 minutes, the eight exercises about as long again; [Two layouts](#Two-layouts) is a good place
# for a break. Chapter 04 is enough to follow it: queries, keys and values, heads, the causal mask. What sine and cosine
# are is explained here.

# %%
import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import position
from minillama.attention import attend, causal_mask
from minillama.course import FAST, check, my_parts, predicted, show
from minillama.plots import position as plots
from minillama.position import NoPositions, cos_sin, linear_scaling  # the solutions use them

# %% [markdown]
# ## A bag of words
#
# > dog bites man
# >
# > man bites dog
#
# Three words, twice, and only one of the two makes the news. Give each word a vector of four random numbers, make
# queries, keys and values of it with three random tables, and run attention over both sentences. There is no mask for
# now: each word sees the whole sentence.

# %%
torch.manual_seed(1)
vectors = {word: 2 * torch.randn(4) for word in ("dog", "bites", "man")}
q_proj, k_proj, v_proj = (nn.Linear(4, 4, bias=False).requires_grad_(False) for _ in range(3))


def attention(sentence, mask=None):
    """-> what each word gets, (T, 4)"""
    x = torch.stack([vectors[word] for word in sentence.split()])
    return attend(q_proj(x), k_proj(x), v_proj(x), mask)


# %% [markdown]
# **Predict.** Compare each word with itself: what "dog" gets in the first sentence with what "dog" gets in the second,
# and so on. For how many of the three words is it something else?

# %% predict: changed
changed = 0  # 0, 1, 2 or 3

# %% reveal: changed
first, second = attention("dog bites man"), attention("man bites dog")
for i, word in enumerate(("dog", "bites", "man")):
    print(f"{word:<6}", [round(x, 3) for x in first[i].tolist()], [round(x, 3) for x in second[2 - i].tolist()])
n_changed = sum(not torch.allclose(first[i], second[2 - i], atol=1e-5) for i in range(3))
predicted(changed, n_changed)

# %% [markdown]
# None. The dog does not know whether it bites or is bitten. The score of a query and a key is made of these two and of
# nothing else; softmax gives each word its share; and a sum does not ask in which order it is added up. Attention sees
# a **bag of words**.
#
# Here is who looks at whom in the two sentences. Look for the numbers of "dog" on the left, and find them on the right:
# the same nine numbers, with rows and columns moved together with their words.


# %%
def weights(sentence):
    x = torch.stack([vectors[word] for word in sentence.split()])
    return (q_proj(x) @ k_proj(x).T / math.sqrt(4)).softmax(dim=-1)


sentences = ("dog bites man", "man bites dog")
plots.two_orders({sentence: weights(sentence) for sentence in sentences}, "Who looks at whom, in either order?")
assert torch.allclose(weights(sentences[1]), weights(sentences[0]).flip(0, 1), atol=1e-6)

# %% [markdown]
# "But LLaMA has a causal mask," you may say, "and a mask has an order." True. In the cell below, the causal mask is on.
# "bites" now gets something else in the second sentence, since it sees another word before it. But look at "man" in the
# last row, at the end of "dog bites man" and of "bites dog man":

# %%
mask = causal_mask(3)
for word, *pair in (("bites", "dog bites man", "man bites dog"), ("man", "dog bites man", "bites dog man")):
    one, other = (attention(sentence, mask)[sentence.split().index(word)] for sentence in pair)
    difference = (one - other).abs().max().item()
    print(f"'{word}' in '{pair[0]}' and in '{pair[1]}': results differ by {difference:.2f}")
assert difference < 1e-5

# %% [markdown]
# It can't tell what came first, "dog" or "bites". The mask says who came before me. It does not say who of them stood
# where. (A stack of layers can find out a little: it may count how many came before each.)
#
# So each word has to carry a sign of its place. Chapter 03 has measured what is lost without. Now for the sign.
#
# ## Three ways to say where
#
# The first idea everybody has: add the number of the place to the word's vector. Look at what that does to "dog" and
# "man". To compare two vectors, take their product divided by both lengths: 1 means that they point the same way, 0
# that they have nothing in common, -1 that they are opposite.

# %%
dog, man = vectors["dog"], vectors["man"]
for place in (0, 5, 500):
    alike = F.cosine_similarity(dog + place, man + place, dim=0).item()
    print(f"at place {place:>3}: dog and man are alike by {alike:.3f}")
assert alike > 0.99

# %% [markdown]
# At place 500 the word has drowned in its number. Dividing the number by the length of the text, so that it stays below
# 1, makes it no better: "one place further" is then a step of 1/10 in a short text and of 1/1000 in a long one. What we
# want is a sign that
#
# - is never large,
# - differs from place to place,
# - and looks the same step for the same distance, early and late in the text.
#
# ### Waves
#
# Count in binary, and look at the digits.

# %%
for place in range(8):
    print(place, f"{place:03b}")

# %% [markdown]
# The last digit changes with every step, the one before with every second step, the first with every fourth. No digit
# is ever larger than 1, and no two rows are alike. The transformer of 2017 does the same with smooth digits: waves,
# some fast, some slow.
#
# What a wave is, by a hand that turns round. Its length is 1, and its **angle** is the way that its tip has walked
# along the circle. That unit is called **radian**: a quarter turn is π/2 = 1.57, a whole turn 2π = 6.28. The
# **cosine** of the angle says how far to the right the tip is, the **sine** how far up. Python knows both.

# %%
for name, angle in (("start", 0.0), ("a quarter turn", math.pi / 2), ("half a turn", math.pi), ("one radian", 1.0)):
    print(f"{name:<14} angle {angle:.2f}: {math.cos(angle):5.2f} to the right, {math.sin(angle):5.2f} up")

# %% [markdown]
# Let the hand go on by 1 radian from place to place, and write down the sine and the cosine: that is a fast pair of
# channels. Another hand goes on by 1/100 radian: a slow pair. With C = 4 channels that makes, by hand:
#
# | place t | sin t | cos t | sin t/100 | cos t/100 |
# |---|---|---|---|---|
# | 0 | 0 | 1 | 0 | 1 |
# | 1 | 0.841 | 0.540 | 0.010 | 1.000 |
# | 2 | 0.909 | -0.416 | 0.020 | 1.000 |
#
# In general there are C/2 pairs, i = 0, 1, 2, ..., and the speed of pair i is 10000^(-2i/C) radians per place: from 1
# down to nearly 1/10000, each slower than the one before by the same factor. For C = 4 and i = 1 it is 10000^(-2/4) =
# 1/100, as in the table.
#
# **Exercise 06.1.** Write `sinusoidal`. Tensors have `.sin()` and `.cos()`. A column of T numbers, `x[:, None]`,
# times a row of C/2 numbers is a table (T, C/2), by broadcasting. `torch.arange(0, 8, 2)` is 0, 2, 4, 6, and
# `out[:, 0::2] = ...` writes into the channels 0, 2, 4, ...

# %% exercise: 06.1

# %% check: 06.1
sinusoidal = check("06.1", sinusoidal)

# %% [markdown]
# In the figure each row is the sign of one place. On the left the shades change from row to row: these channels tell
# neighbours apart. On the right they hardly change in sixty rows: these tell the beginning of a text from its end.

# %%
rows = sinusoidal(60, 48)
plots.waves(rows)
assert rows.abs().max() <= 1 and (rows[0] - rows[1])[:2].abs().max() > 0.4 and (rows[0] - rows[59])[-1].abs() < 0.01

# %% [markdown]
# There is something hidden in these rows. Multiply the row of one place by the row of another, and add up, as for a
# score:

# %%
rows = sinusoidal(2000, 48)
for a, b in ((3, 8), (13, 18), (1003, 1008), (3, 9)):
    print(f"rows {a:>4} and {b:>4}, {b - a} apart: product {(rows[a] @ rows[b]).item():.3f}")
assert torch.allclose(rows[3] @ rows[8], rows[1003] @ rows[1008], atol=1e-3)

# %% [markdown]
# The product depends on the *distance* alone. That is no accident. School has a formula for it, cos a · cos b + sin a ·
# sin b = cos(a - b), and each pair of channels is one case of it. Keep that in mind: we come back to it.
#
# The transformer of 2017 multiplies a word's vector by √C, so that the waves do not drown it, and adds the row of its
# place. The package has it as the part `Sinusoidal`.
#
# ### Learned vectors
#
# GPT (2018) made less fuss. Keep a table with a row of C numbers for each place, random at first, and let training find
# the numbers. In the package that is `LearnedPositions`. What can it do at a place for which there is no row?

# %%
from minillama.config import Config

config = Config(vocab_size=10, d_model=8, n_layers=1, n_heads=2, max_len=24)
learned = position.LearnedPositions(config)
try:
    learned.add(torch.zeros(1, 1, 8), torch.tensor([24]))
except ValueError as error:
    print(error)

# %% [markdown]
# A table ends, and a model with it can't read one token more. Nor does row 7 know that row 8 is its neighbour: each has
# to be learned from texts that are long enough to reach it.
#
# ### What adding does to a score
#
# Both ways add something to the word's vector: x + p for the query, y + r for the key, where p and r say where. (The
# tables that make queries and keys change nothing in what follows, so we leave them out.) The score is a product of
# sums, and that has four parts:
#
# (x + p) · (y + r) = x · y + x · r + p · y + p · r
#
# The first is *what* times *what*. The last is *where* times *where*; for waves, it depends on the distance alone. The
# two in the middle multiply what one word **is** by where the other **stands**, which means nothing. They are there all
# the same, and they change when the whole text moves on. Take two words, always two places apart:


# %%
def added_score(query, key, query_place, key_place):
    waves = sinusoidal(2000, 4)
    return ((query + waves[query_place]) @ (key + waves[key_place])).item()


places = ((7, 5), (107, 105), (1007, 1005))
added = [added_score(dog, man, a, b) for a, b in places]
print("scores two apart, waves added:", [round(score, 2) for score in added])
assert max(added) - min(added) > 1

# %% [markdown]
# Three scores for one and the same thing, "the word two places back is man". A model with added positions has to learn
# to cope with that, and at each place anew.
#
# ## RoPE: turn instead of adding
#
# We want a score that is made of the two words and their distance, and of nothing else. A clock can do that.
#
# ### One hand
#
# Let a query be two numbers, x and y. Draw it as a hand, from (0, 0) to (x, y). To say that it stands at place t, add
# nothing: **turn the hand by t radians.** Its length, and with it everything but the direction, stays what it was.
#
# How does one turn a hand? Two cases are easy, if cos and sin are those of the angle:
#
# - (1, 0), which points to the right, goes to (cos, sin): that was the meaning of the two words.
# - (0, 1), which points up, is a quarter turn ahead of it, and goes to (-sin, cos).
#
# Every other hand is x times the first plus y times the second. So (x, y) goes to x · (cos, sin) + y · (-sin, cos).
# For a quarter turn, where cos = 0 and sin = 1, the hand (3, 4) goes to 3 · (0, 1) + 4 · (-1, 0) = (-4, 3). Check the
# length: √(9 + 16) = 5 before, √(16 + 9) = 5 after.
#
# **Exercise 06.2.** Write `rotate`, for one hand and with plain numbers. You need `math.cos` and `math.sin`.

# %% exercise: 06.2

# %% check: 06.2
rotate = check("06.2", rotate)

# %% [markdown]
# Now two hands: a query (3, 4) and a key (2, 1). Their product is 3 · 2 + 4 · 1 = 10. Turn the query by its place, and
# the key by its own place.


# %%
def turned_score(query_place, key_place):
    q, k = rotate(3.0, 4.0, query_place), rotate(2.0, 1.0, key_place)
    return q[0] * k[0] + q[1] * k[1]


for a, b in ((0, 0), (7, 7), (7, 5), (107, 105), (1007, 1005), (7, 6)):
    print(f"query at {a:>4}, key at {b:>4}, {a - b} apart: score {turned_score(a, b):6.3f}")
assert math.isclose(turned_score(7, 5), turned_score(1007, 1005))

# %% [markdown]
# At the same place, 10, as before. Two apart, one score, wherever the two stand; one apart, another one. The reason:
# the product of two hands is *length times length times the cosine of the angle between them*. (Write each hand as its
# length times the cosine and the sine of its angle, and the school formula from above is the proof.) Turn both by the
# same angle, and none of the three changes. Turn the query by 7 and the key by 5, and the angle
# between them has grown by 2. Moved on to 1007 and 1005, it has still grown by 2.
#
# That is the whole idea of **RoPE**, rotary position embedding (Su and others, 2021): *turn queries and keys by their
# place, and the score knows the distance.* Values are not turned. They are what is handed over, and that should not
# depend on where it was found.
#
# ### Many hands
#
# One hand is not enough, and a clock shows why. After 6.28 places it has gone round once. Which distances look like no
# distance at all?

# %%
alike = [d for d in range(1, 200) if math.cos(d) > 0.999]
print("nearly the same angle as at distance 0:", alike)

# %% [markdown]
# With the one hand, the word 44 places back looks like the word itself. So a clock has hands of different speeds. The
# query of a LLaMA head has D = 128 numbers: 64 hands. Their speeds are those of the waves, base^(-2i/D) radians per
# place, for i = 0, 1, ..., D/2 - 1, and the **base** is usually 10000.
#
# By hand, for D = 8 and base 16: 16^0 = 1, then 16^(-2/8) = 1/2, then 1/4, then 1/8.
#
# **Exercise 06.3.** Write `rope_frequencies`. Other names for "speed" are *frequency* and *angle per position*; the
# `-> (D/2,)` is the shape of what comes out.

# %% exercise: 06.3

# %% check: 06.3
rope_frequencies = check("06.3", rope_frequencies)

# %% [markdown]
# The figure shows one query of eight numbers as four hands (base 16), standing at places 0 to 12. The fast hand in the
# top row goes round twice; follow the slow one in the bottom row: 12 places take it a quarter of the way round, and
# no two columns are alike.

# %%
speeds = rope_frequencies(8, base=16.0)
angles = torch.arange(13)[:, None] * speeds
plots.hands(angles)
assert angles[-1, 0] > 1.9 * 2 * math.pi and angles[-1, 3] < 0.25 * 2 * math.pi

# %% [markdown]
# ### Which two channels make one hand
#
# A query is a row of D numbers. Which two of them are a hand? There are two conventions, and the figure shows both.
# Hugging Face and this course take the upper one, **half-split**: channel i and channel i + D/2. Meta's own code takes
# the lower one, **interleaved**: neighbours, channels 2i and 2i + 1. In what follows, half-split, until we get to the
# day on which somebody mixes them up.

# %%
half = [(i, i + 4) for i in range(4)]
neighbours = [(2 * i, 2 * i + 1) for i in range(4)]
plots.layouts({"half-split": half, "interleaved": neighbours})
assert sorted(sum(half, ())) == sorted(sum(neighbours, ())) == list(range(8))

# %% [markdown]
# By hand, D = 4: the query (3, 2, 4, 5) holds the hands (3, 4) and (2, 5). A quarter turn of hand 0, while hand 1
# stays: (3, 4) goes to (-4, 3), so the query becomes (-4, 2, 3, 5).
#
# Now for all tokens, heads and sequences at once. `x.chunk(2, dim=-1)` cuts the last axis into a left and a right
# half; then hand i is `left[..., i]` and `right[..., i]`, and what you wrote in 06.2 works on whole halves. The
# cosines come as a table (T, D/2), a row per place and a column per hand. Broadcasting compares shapes from the
# right:
#
# | | B | H | T | D/2 | |
# |---|---|---|---|---|---|
# | a half of x | 2 | 3 | 5 | 4 | |
# | cos, the same places for all sequences | | | 5 | 4 | fits |
# | cos, a row of places per sequence | | 2 | 5 | 4 | 2 meets 3 heads: does not fit |
# | the same with an axis put in: `cos.unsqueeze(1)` | 2 | 1 | 5 | 4 | fits |
#
# The third line happens when sequences of different lengths are in one batch: the shorter ones are filled up at the
# front, and their first real token stands at place 0 all the same. (Where x has no axis for heads, (B, T, D), nothing
# needs to be put in.)
#
# One more promise: **what comes out has the type of x.** Large models compute in `bfloat16`, numbers with half as
# many bits, while cosines are computed in `float32`; and `float32` times `bfloat16` is `float32`. `cos.to(x.dtype)`
# makes one type of both.
#
# **Exercise 06.4.** Write `rotate_pairs`. You are given cos and sin.

# %% exercise: 06.4

# %% check: 06.4
rotate_pairs = check("06.4", rotate_pairs)

# %%
quarter_turn, stay = (0.0, 1.0), (1.0, 0.0)  # cos and sin of each
cos, sin = torch.tensor([quarter_turn, stay]).T
print(rotate_pairs(torch.tensor([[3.0, 2.0, 4.0, 5.0]]), cos[None], sin[None]))

# %% [markdown]
# ### Angles, and a type that can't count
#
# Where do the cosines come from? Place times speed is the angle, for each place and each hand; then cos and sin of that
# table. `cos_sin`, from the package, does it. For the places 0, 1 and 2 and the speeds 1 and 1/10:

# %%
cos, sin = cos_sin(torch.arange(3), rope_frequencies(4, base=100.0))
print("cos", [[round(c, 3) for c in row] for row in cos.tolist()])
print("sin", [[round(s, 3) for s in row] for row in sin.tolist()])

# %% [markdown]
# `cos_sin` computes in `float32`, whatever the model computes in. Why it insists on that, you see when you count in
# `bfloat16`:

# %%
print(torch.arange(254, 264).bfloat16().tolist())

# %% [markdown]
# `bfloat16` keeps eight binary digits. Up to 256 it counts correctly; from there on it knows every second number
# only, from 512 on every fourth. Neighbours then stand at one and the same place. Well-known libraries have had this
# bug (pull request 29285 mended it in Hugging Face's transformers). Further down you will see what it does to a
# model.
#
# **Exercise 06.5.** Write `apply_rope`: the speeds, the angles, the turn. You have all three. Speeds belong to the
# channels of one head, `x.size(-1)`, not to the whole width of the model: RoPE comes after the heads are split, so that
# each head has fast hands and slow ones.

# %% exercise: 06.5

# %% check: 06.5
apply_rope = check("06.5", apply_rope)

# %% [markdown]
# The package's version of the two functions behind it. `rotate_pairs` puts in as many axes as are missing; otherwise it
# should look like yours.

# %% show
show("position.rotate_pairs")

# %% show
show("position.cos_sin")

# %% [markdown]
# ## Only the distance, proven
#
# The two words of before, two places apart, early and late in the text, now turned:


# %%
def rope_score(query, key, query_place, key_place):
    q = apply_rope(query[None], torch.tensor([query_place]))
    k = apply_rope(key[None], torch.tensor([key_place]))
    return (q @ k.T).item()


turned = [rope_score(dog, man, a, b) for a, b in places]
print("scores two apart, waves added:", [round(score, 2) for score in added])
print("scores two apart, turned:     ", [round(score, 2) for score in turned])
assert max(turned) - min(turned) < 1e-3

# %% [markdown]
# Once more with the width of a real head: a query of 64 ones and a key of 64 ones, at distances up to 120. Three curves
# are drawn, for a query at place 200, 2,000 and 20,000. They lie on top of each other.

# %%
ones, distances = torch.ones(64), range(121)
scores = {}
for place in (200, 2_000, 20_000):
    scores[f"query at {place:,}"] = [rope_score(ones, ones, place, place - d) / math.sqrt(64) for d in distances]
plots.scores_by_distance(distances, scores)
assert max(abs(a - b) for a, b in zip(*list(scores.values())[::2], strict=True)) < 0.01

# %% [markdown]
# The curve also falls. Two vectors that are alike have their best score side by side, where all their hands agree;
# further apart the fast hands point anywhere, and only the slow ones still agree. That is no law, though. Turn the
# query back by three places beforehand, which is a thing that `q_proj` can learn, and the best score is somewhere
# else:

# %%
turned_back = apply_rope(ones[None], torch.tensor([-3]))[0]
best = max(distances, key=lambda d: rope_score(turned_back, ones, 200, 200 - d))
print("best score at distance", best)

# %% [markdown]
# So a head can look for "the token three places back", whatever that token is. We train one to do so below.
#
# ### A whole model
#
# The model that ships with this course learned Shakespeare in windows of 256 characters. It has only ever seen the
# places 0 to 255. What if we tell it that its text stands at places 1000 to 1255? Here are the model, validation text
# it has never seen, and a function that measures the loss place by place.

# %%
from minillama.assets import corpus, shipped_model
from minillama.data import Batches, split
from minillama.saving import open_checkpoint

shipped = open_checkpoint(shipped_model())
model, tokenizer = shipped.model, shipped.tokenizer
training, validation = split(torch.tensor(tokenizer.encode(corpus(report=lambda line: None))))
print(f"{model.n_parameters:,} parameters, {model.config.n_heads} heads of D = {model.config.head_dim}")


# %%
@torch.no_grad()
def loss_by_place(model, positions, n_texts=32):
    """Mean loss, in nats, at each place of some texts as long as `positions`, told to stand there. -> (T,)"""
    T = len(positions)
    tokens = validation[: n_texts * T].view(n_texts, T)
    targets = validation[1 : n_texts * T + 1].view(n_texts, T)
    losses = []
    for x, y in zip(tokens.split(4), targets.split(4), strict=True):
        logits = model(x, positions=positions)
        losses.append(F.cross_entropy(logits.transpose(1, 2), y, reduction="none"))
    return torch.cat(losses).mean(dim=0)


here = torch.arange(256)
usual = loss_by_place(model, here).mean()
print(f"at places 0 to 255: {usual:.2f} nats per character")

# %% [markdown]
# **Predict.** The same text, the same weights, at places 1000 to 1255, where the model has never been. The loss? (A
# model that knows nothing has ln 65 = 4.17.)

# %% predict: shifted
shifted = 1.26  # 1.26, 2.0 or 4.17

# %% reveal: shifted
for start in (1_000, 100_000):
    loss = loss_by_place(model, here + start).mean().item()
    print(f"places {start:>7,} to {start + 255:>7,}: {loss:.2f}")
predicted(shifted, round(loss, 2), within=1.05)

# %% [markdown]
# It does not notice. Every score in every head of every layer depends on distances, and those are the same. `certify`
# (chapter 03) tests it on any model, one that you trained or one that you only just made: it moves a text on by 21
# places and looks whether any logit moves.

# %%
from minillama.block import Parts
from minillama.certify import certify
from minillama.llama import Llama

small = Config(vocab_size=10, d_model=16, n_layers=2, n_heads=2, d_ff=24, max_len=64)
for part in (position.RoPE, position.Sinusoidal, position.LearnedPositions):
    verdicts = certify(Llama(small, Parts(position=part))).verdicts
    relative = next(verdict for verdict in verdicts if verdict.property == "relative in position")
    print(f"{part.__name__:<17} {relative.status:<12} {relative.found}")

# %% [markdown]
# And the type that can't count? Give the shipped model places that went through `bfloat16`.

# %%
for start in (0, 200, 1_000):
    loss = loss_by_place(model, (here + start).bfloat16()).mean().item()
    print(f"places {start:>5,} to {start + 255:>5,}, counted in bfloat16: {loss:.2f}")
assert loss > 2.5

# %% [markdown]
# Up to 255 nothing is to be seen, so every short test passes. Then it goes wrong, and the further on, the worse. No
# error, no NaN. Remember this pattern.
#
# ## Does it help?
#
# Chapter 03 trained on Shakespeare with positions and without. Here is a game in which nothing *but* position counts: a
# text of random digits, and at each place the question *which digit stood three places back?* Knowing nothing costs
# ln 10 = 2.30 nats, knowing the answer 0. The model is a LLaMA of a single layer. It trains on texts of 24 digits; then
# it is asked about texts of 96.

# %%
from minillama.train import evaluate, next_token_loss


def digits(n_texts, length, generator):
    """-> texts (B, T), and for each digit the one three places before it; -100 (no question) for the first three"""
    x = torch.randint(10, (n_texts, length), generator=generator)
    return x, torch.cat([torch.full((n_texts, 3), -100), x[:, :-3]], dim=1)


print(*(t.tolist() for t in digits(1, 8, torch.Generator().manual_seed(0))), sep="\n")


# %%
def play(part, seed=0):
    """Train a small LLaMA with this kind of positions on the game. -> its loss at each of 96 places, but the first 3"""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    player = Llama(Config(10, d_model=32, n_layers=1, n_heads=2, d_ff=64, max_len=96), Parts(position=part))
    optimizer = torch.optim.AdamW(player.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(300):
        x, y = digits(16, 24, generator)
        loss = next_token_loss(player(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = digits(64, 96, generator)
    return F.cross_entropy(player(x).detach().transpose(1, 2), y, reduction="none").mean(dim=0)[3:]


# %% varies
kinds = {"no positions": NoPositions, "waves": position.Sinusoidal, "learned": position.LearnedPositions,
         "RoPE": position.RoPE}  # fmt: skip
games = {name: play(part) for name, part in kinds.items()}
for name, losses in games.items():
    print(f"{name:<12} places 3 to 23: {losses[:21].mean():.2f} nats, places 24 to 95: {losses[21:].mean():.2f}")

# %% [markdown]
# Left of the grey line, in texts as long as in training: without positions the game can't be learned. (The blue line is
# below 2.30 only because a bag of few digits is quickly guessed.) All three kinds of positions play it without a fault.
# Right of the line they part. Learned vectors have rows there that were never trained, and the waves add up to rows
# never seen: both are far *worse* than knowing nothing, which means sure of themselves and wrong. RoPE plays on.

# %%
means = {name: losses.view(-1, 3).mean(dim=1).tolist() for name, losses in games.items()}
title = "Which digit stood three places back?"
plots.loss_by_position(means, 3, 24, title, "digit", nothing=math.log(10), first=3)
assert games["no positions"][:21].mean() > 1.5 and games["RoPE"][:21].mean() < 0.3
assert min(games["waves"][21:].mean(), games["learned"][21:].mean()) > math.log(10)

# %% [markdown]
# Three places back is three places back, at 10 as at 90. Too good to be true? Play again, from other random beginnings.

# %% varies
for seed in range(2 if FAST else 5):
    losses = play(position.RoPE, seed)
    parts = [losses[a:b].mean().item() for a, b in ((0, 21), (21, 45), (45, 93))]
    print(f"RoPE, beginning {seed}:", "   ".join(f"{loss:.2f}" for loss in parts))
    assert parts[0] < 0.5

# %% [markdown]
# (The columns: places 3 to 23, 24 to 47, 48 to 95. In full mode there are five rows.) Within the trained length every
# one of them plays well. Beyond it, some do and some don't. That RoPE knows only distances does not mean that every
# distance works: in a text of 96 digits there are digits 90 places back, no such distance occurred in training, and
# nothing has taught these models to look away from there. Hold on to this, too.
#
# And Shakespeare? Four small LLaMAs of two layers, alike but for their positions (in full mode this takes about a
# minute).


# %%
def read_shakespeare(part):
    """Train a small LLaMA on Shakespeare. -> its loss on validation text, in nats per character"""
    torch.manual_seed(0)
    reader = Llama(Config(65, d_model=64, n_layers=2, n_heads=2, d_ff=176, max_len=64, tied=True), Parts(position=part))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=0.004, weight_decay=0.0)
    batches = Batches(training, batch_size=16, length=64, seed=0)
    for step in range(60 if FAST else 600):
        x, y = batches(step)
        loss = next_token_loss(reader(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return evaluate(reader, validation[:16_385], length=64)


# %% varies
read = {name: read_shakespeare(part) for name, part in kinds.items()}
for name, loss in read.items():
    print(f"{name:<12} {loss:.2f} nats per character")
assert read["RoPE"] < min(read.values()) + 0.1
assert FAST or max(read["RoPE"], read["waves"]) < min(read["learned"], read["no positions"]) - 0.1

# %% [markdown]
# RoPE is first, the waves are not far behind. (Other beginnings move each of these numbers by some hundredths, and
# RoPE stayed first in the three that we tried.) But look at the learned vectors: after 600 steps they are as good as
# nothing. Each place has to find out for itself what "the character before me" is, and has seen too little for that.
#
# ## Two layouts
#
# RoPE has two conventions for which channels are a hand. Neither is better; you may check that the game does not care.
# The class below is RoPE with neighbours for hands.


# %%
class Interleaved(position.RoPE):
    def rotate(self, x, positions):
        return position.apply_rope_interleaved(x, positions, self.base)


# %% varies
for name, part in (("half-split", position.RoPE), ("interleaved", Interleaved)):
    losses = play(part)
    print(f"{name:<12} {losses[:21].mean():.2f} nats")
    assert losses[:21].mean() < 0.3

# %% [markdown]
# Trained with one, a model has arranged the rows of its `q_proj` and `k_proj` so that what shall turn together *is*
# together. Meta trains with neighbours. This course and Hugging Face turn halves.
#
# Suppose now that the shipped model came from Meta: the same numbers, but with the rows of `q_proj` and `k_proj` as an
# interleaved model has them. Somebody loads that file into our half-split LLaMA. All shapes fit, and nothing complains:
# 1,783,680 numbers, each of them right, some of them in another place.


# %%
def reordered(model, reorder):
    """A copy of the model in which `reorder` has moved the rows of all q_proj and k_proj."""
    other = copy.deepcopy(model)
    for layer in other.layers:
        attention = layer.attention
        attention.q_proj.weight.data = reorder(attention.q_proj.weight.data, attention.n_heads)
        attention.k_proj.weight.data = reorder(attention.k_proj.weight.data, attention.n_kv_heads)
    return other


from_meta = reordered(model, position.half_to_interleaved)

# %% [markdown]
# **Predict.** What is its loss? To compare: rightly loaded 1.26; a table that knows nothing but how frequent each
# character is, about 3.3; knowing nothing 4.17.

# %% predict: other_layout
other_layout = 3.7  # 1.3, 2.2, 3.0 or 3.7

# %% reveal: other_layout
loss = loss_by_place(from_meta, here).mean().item()
frequency = torch.bincount(training, minlength=65) / len(training)
print(f"only frequencies: {-frequency[validation[: 32 * 256]].log().mean():.2f}")
predicted(other_layout, round(loss, 1), within=1.05)
assert 3.4 < loss < 4.17

# %% [markdown]
# Worse than counting letters. A model with 1.8 million right numbers does worse than a table with 65. It speaks like
# this:

# %% varies
from minillama.generate import sample_text

print("RIGHT:", sample_text(model, tokenizer, 120, seed=1, prompt="ROMEO:\n"), sep="\n")
print("\nOTHER LAYOUT:", sample_text(from_meta, tokenizer, 120, seed=1, prompt="ROMEO:\n"), sep="\n")

# %% [markdown]
# What happened? In a head of eight channels, half-split turns channels 0 and 4 together. In Meta's file, row 0 is the
# first number of hand 0, and row 4 the first number of hand *2*. Numbers that never belonged together are turned as if
# they were one hand, and most of them at the speed of another.
#
# And why are there words, almost? Look at what a wrong pairing leaves intact: the score at distance 0. Query and key
# are moved alike and turned alike, so side by side they still fit. The further apart, the less.

# %%
torch.manual_seed(0)
q, k = torch.randn(2, 8)
rows = position.half_to_interleaved(torch.arange(8), 1)
for distance in (0, 1, 5, 20):
    right, wrong = rope_score(q, k, distance, 0), rope_score(q[rows], k[rows], distance, 0)
    print(f"distance {distance:>2}: score {right:5.2f}, in the other layout {wrong:5.2f}")

# %% [markdown]
# The repair is to move the rows back, when the file is read. Rows, because a row of a weight (H · D, C) makes one
# output channel, and the outputs are what is turned. By hand, for one head of eight rows:
#
# | | hand 0 | hand 1 | hand 2 | hand 3 |
# |---|---|---|---|---|
# | rows in the interleaved file | 0, 1 | 2, 3 | 4, 5 | 6, 7 |
# | places in half-split | 0, 4 | 1, 5 | 2, 6 | 3, 7 |
#
# So the new order is: row 0, then row 2, 4, 6, then row 1, 3, 5, 7. Each head by itself. (With heads of four rows it
# would be 0, 2, 1, 3, and doing it twice would undo it. Whoever tests a conversion with D = 4 can't see whether it goes
# the right way.) A bias has rows and no columns, (H · D,), and moves along.
#
# `rows.view(n_heads, -1, 2)` is the same tensor with other axes (-1: as many as it takes); `.transpose(1, 2)`
# exchanges two of them; `.reshape(shape)` writes the numbers down anew in that order. The columns of a weight have to
# stay together, so name their axis too: `*weight.shape[1:]` at the end of the list stands for all further axes, of
# which a bias has none. A list of row numbers does it as well: `weight[[0, 2, 1, 3]]`.
#
# **Exercise 06.6.** Write `interleaved_to_half`.

# %% exercise: 06.6

# %% check: 06.6
interleaved_to_half = check("06.6", interleaved_to_half)

# %% varies
mended = reordered(from_meta, interleaved_to_half)
loss = loss_by_place(mended, here).mean()
print(f"{loss:.2f} nats", sample_text(mended, tokenizer, 90, seed=1, prompt="ROMEO:\n"))
assert abs(loss - usual) < 1e-4

# %% [markdown]
# Same loss, same speech. Every program that reads Meta's files into Hugging Face's layout has to do this; chapter 13
# does it with real ones. For `k_proj` in a model with fewer key/value heads, mind the number: it is `n_kv_heads`.
# `v_proj` and `o_proj` stay as they are, since values are not turned.
#
# ## Reading further than it was trained
#
# RoPE has no table that ends. The shipped model knows distances, not places, and felt nothing at place 100,000. So
# nothing should keep it from reading a text of 1,024 characters, four times as long as its windows in training.
#
# **Predict.** What is its loss on the characters 768 to 1023?

# %% predict: far
far = 3.7  # 1.3, 2.0 or 3.7

# %% reveal: far
long = torch.arange(1024)
plain = loss_by_place(model, long, n_texts=8)
for quarter in plain.split(256):
    print(f"{quarter.mean():.1f}", end=" ")
print("nats in the first, second, third and last quarter")
predicted(far, round(plain[768:].mean().item(), 1), within=1.1)

# %% [markdown]
# Relative positions, and yet it falls off a cliff. The figure shows the loss along the text. Up to the grey line, where
# its windows ended, all is well, and for some fifty characters more. Then it goes up steeply.

# %%
plots.loss_by_position({"as trained": plain.view(-1, 32).mean(dim=1).tolist()}, 32, 256,
                       "How far can it read?", "character", nothing=math.log(65))  # fmt: skip
assert plain[:256].mean() < 1.6 and plain[512:].mean() > 3

# %% [markdown]
# What is new there? Not the places; we have seen that those do not matter. New are the **distances**: beyond 255 they
# never occurred in training. But the fast hand has gone round 41 times within 256 places, and has pointed in every
# direction. It can't be surprised. Count the turns of all 32 hands, 256 places times speed, divided by 2π:

# %%
speeds = rope_frequencies(64)
in_training = 256 * speeds / (2 * math.pi)
print("turns in training:", [round(n, 1) for n in in_training.tolist()[::4]], "(every fourth pair)")
slow = in_training < 1
print(f"{slow.sum()} of 32 pairs never went round once")

# %% [markdown]
# The orange pairs in the figure are under suspicion: in training they only ever used a part of their circle. At
# distance 600 they point where they never pointed before, and no weight has learned what that means.

# %%
plots.turns(in_training, 256)
assert 40 < in_training[0] < 41 and slow.sum() == 19

# %% [markdown]
# A suspicion can be tested. Take the same model and slow down *only the suspects*, four times, so that in 1,024 places
# they come no further than they came in 256. Then, for comparison, slow down *only the others*.


# %%
def turned_by(speeds):
    """The shipped model, its weights as they are, but with hands of these speeds."""
    other = copy.deepcopy(model)
    other.position.frequencies = lambda: speeds
    return other


n_texts = 4 if FAST else 16
of = {"as trained": loss_by_place(model, long, n_texts)}
of["slow ones slower"] = loss_by_place(turned_by(torch.where(slow, speeds / 4, speeds)), long, n_texts)
of["fast ones slower"] = loss_by_place(turned_by(torch.where(slow, speeds, speeds / 4)), long, n_texts)

# %% varies
for name, losses in of.items():
    print(f"{name:<17}", " ".join(f"{quarter.mean():.2f}" for quarter in losses.split(256)))
assert of["slow ones slower"].mean() < 1.7 and of["fast ones slower"].mean() > 3

# %% [markdown]
# The four columns are the quarters of the text. Slowing down the suspects, and nothing else, cures the model: no
# weight was touched, no step was trained, and it reads four times as far. Slowing down the fast hands ruins even the
# beginning, because these tell neighbours from each other.
#
# ### Three recipes
#
# How people came to this, in 2023 and 2024, is a story in three steps. The first was **linear scaling** (Chen and
# others): divide all speeds by the factor, slow and fast alike. Position 1000 is then turned like position 250, which
# was seen in training; but neighbours are a quarter of a step apart, which never was. The figures above tell you what
# to expect.

# %% varies
linear = turned_by(position.linear_scaling(speeds, 4.0))
of["linear"] = loss_by_place(linear, long, n_texts)
print("linear:", " ".join(f"{quarter.mean():.2f}" for quarter in of["linear"].split(256)))
assert of["linear"].mean() > 3.4

# %% [markdown]
# Bad from the first character on. That is why the paper trains the model a little after the change: it has to get
# used to closer neighbours. A few steps are enough to see that it can (full mode: 40 steps, about a minute).

# %% varies
optimizer = torch.optim.AdamW(linear.parameters(), lr=0.001, weight_decay=0.0)
batches = Batches(training, batch_size=2, length=1024, seed=0)
for step in range(2 if FAST else 40):
    x, y = batches(step)
    loss = next_token_loss(linear(x), y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(linear.parameters(), 1.0)
    optimizer.step()
after = loss_by_place(linear, long, n_texts)
print("linear, a little trained:", " ".join(f"{quarter.mean():.2f}" for quarter in after.split(256)))
assert after.mean() < of["linear"].mean() - (0.1 if FAST else 1.5)

# %% [markdown]
# The second recipe came from a public post by a user called bloc97, under the name **NTK-aware scaling**: leave the
# speeds alone, and change the *base* they are made from. Pair 0 has speed base^0 = 1 for every base, so the fastest
# hand stays as it is. For the slowest, i = D/2 - 1, the exponent is -(D - 2)/D, and we want it slower by the factor:
#
# new^(-(D - 2)/D) = base^(-(D - 2)/D) / factor, so new = base · factor^(D / (D - 2))
#
# For D = 64 and factor 4 that is 10000 · 4^(64/62). The hands between slow down by something between 1 and 4.

# %% varies
new_base = position.ntk_base(10000.0, head_dim=64, factor=4.0)
of["NTK-aware"] = loss_by_place(turned_by(rope_frequencies(64, new_base)), long, n_texts)
print(f"base {new_base:,.0f}:", " ".join(f"{quarter.mean():.2f}" for quarter in of["NTK-aware"].split(256)))
assert of["NTK-aware"][:512].mean() < 1.8

# %% [markdown]
# Good for half of the text and more, without any training. Then it falls off: the pairs just below one turn, which were
# under suspicion too, were slowed down by much less than 4.
#
# The third recipe is close to our own test of the suspects. Llama 3.1 does it like this, with a smooth passage where we
# had a hard border:
#
# - a pair that turned **fewer than 1** time in the old length is slow: divide its speed by the factor;
# - a pair that turned **more than 4** times is fast: leave it;
# - between them go in a straight line from one to the other: at 2.5 turns, half way, take half of the old speed plus
#   half of the divided one.
#
# 1 and 4 are `low_freq_factor` and `high_freq_factor`, the old length is `original_max_len`. By hand, factor 8, for a
# pair with 1.75 turns: it is (1.75 - 1) / (4 - 1) = 0.25 fast. Its speed is 0.25 of the old one plus 0.75 of an
# eighth of it: 0.34 of the old speed. `x.clamp(0, 1)` replaces what is below 0 by 0, and what is above 1 by 1.
#
# **Exercise 06.7.** Write `llama3_scaling`. You are given the frequencies, in radians per position.

# %% exercise: 06.7

# %% check: 06.7
llama3_scaling = check("06.7", llama3_scaling)

# %% [markdown]
# The figure shows by how much each recipe slows down each pair of our model. Linear scaling does not spare anyone,
# Llama 3 spares the fast ones and slows the slow ones down in full, and NTK-aware scaling goes up slowly from 1 to 4.

# %%
scaled = {"linear": position.linear_scaling(speeds, 4.0), "NTK-aware": rope_frequencies(64, new_base),
          "Llama 3": llama3_scaling(speeds, 4.0, 1.0, 4.0, original_max_len=256)}  # fmt: skip
plots.slowed_down({name: speeds / slower for name, slower in scaled.items()})
assert torch.allclose(scaled["Llama 3"][:8], speeds[:8]) and torch.allclose(scaled["Llama 3"][-18:] * 4, speeds[-18:])

# %% [markdown]
# And what they do to the loss, all without any training. The line to look at is that of Llama 3: over the whole text it
# stays where a model within its trained length is.

# %%
of["Llama 3"] = loss_by_place(turned_by(scaled["Llama 3"]), long, n_texts)
chosen = ("as trained", "linear", "NTK-aware", "Llama 3")
means = {name: of[name].view(-1, 64).mean(dim=1).tolist() for name in chosen}
plots.loss_by_position(means, 64, 256, "How far can it read with other speeds?", "character", nothing=math.log(65))
assert of["Llama 3"].mean() < 1.7 and of["as trained"][512:].mean() > 3

# %% varies
for name in chosen:
    print(f"{name:<11}", " ".join(f"{quarter.mean():.2f}" for quarter in of[name].split(256)))
in_pieces = loss_by_place(model, here, 4 * n_texts).mean()
print(f"\nthe whole text: as Llama 3 {of['Llama 3'].mean():.2f}, in pieces of 256, as trained: {in_pieces:.2f}")
assert abs(in_pieces - of["Llama 3"].mean()) < 0.3

# %% [markdown]
# The last line keeps us modest. The same characters, read in four separate pieces by the model as it was trained,
# cost no more. Ours now *can* look 900 characters back; it has never had a reason to, and gains nothing from it. To
# use what is far, a model has to be trained on long texts. Meta did that with Llama 3.1.
#
# ## What LLaMA 1, 2 and 3 do here
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 (2024) | Llama 3.1 (2024) | Llama 3.2, 1B and 3B |
# |---|---|---|---|---|---|
# | positions | RoPE, in every layer | the same | the same | the same | the same |
# | base | 10,000 | 10,000 | 500,000 | 500,000 | 500,000 |
# | D, numbers per head | 128 | 128 | 128 | 128 | 64 and 128 |
# | longest text | 2,048 | 4,096 | 8,192 | 131,072 | 131,072 |
# | scaling | none | none | none | as in 06.7, factor 8 | as in 06.7, factor 32 |
#
# Sources: [LLaMA](https://arxiv.org/abs/2302.13971), section 2.2 (RoPE instead of absolute positions); [Llama
# 2](https://arxiv.org/abs/2307.09288), section 2.2 (the longer context); [The Llama 3 Herd of
# Models](https://arxiv.org/abs/2407.21783), sections 3.2 (base 500,000) and 3.4.2 (from 8K to 128K in six stages, on
# about 800 billion tokens); the `config.json` and `params.json` of the models for the rest. In Meta's own files the
# layout is interleaved, in Hugging Face's half-split.
#
# A larger base makes the slow hands slower. Why did Llama 3 want that? Count the turns again, with the real sizes.

# %%
from minillama.config import PRESETS

for name in ("llama-1-7b", "llama-2-7b", "llama-3-8b", "llama-3.1-8b", "llama-3.2-1b"):
    llama = PRESETS[name]
    speeds_of = position.RoPE(llama).frequencies()
    n_turns = llama.max_len * speeds_of / (2 * math.pi)
    once_round = 2 * math.pi / speeds_of[-1].item()
    print(f"{name:<13} {llama.max_len:>7,} positions; slowest hand once round in {once_round:>10,.0f}; "
          f"{(n_turns < 1).sum()} of {len(n_turns)} never go round")  # fmt: skip

# %% [markdown]
# With base 10,000 the slowest hand is round after 54,410 places. In a text of 131,072 it would come by the same place
# more than twice, and far would look like near. With base 500,000 no such thing happens for millions of places. And
# the factor 8: at place 131,072 the slow hands of Llama 3.1 stand where those of Llama 3 stood at 131,072 / 8 =
# 16,384. That is still twice as far as Llama 3 ever read; the rest is training.
#
# ## RoPE as a part of a model
#
# One thing is missing. A model of 32 layers turns queries and keys in each of them, always by the same angles. To
# compute these 32 times would be a waste. So the package's part computes them once:
#
# - `add(x, positions)` is called once, on the embeddings, before the first layer. (That is where `Sinusoidal` adds its
#   waves.) RoPE adds nothing: it gives x back as it is, and *prepares* the cosines and sines of these positions.
# - `rotate(x, positions)` is called in each layer, on queries (B, H, T, D) and on keys. It takes what is prepared, if
#   that was prepared for *these* positions, and otherwise computes what it needs. So it is right whatever it is
#   called with.
#
# `self.prepared` has room for three things: positions, cosines, sines; at first all are None. `a is b` asks whether two
# names stand for one and the same object, which takes no time, while comparing numbers would.
#
# **Exercise 06.8.** Write `add` and `rotate` of `RoPE`. `__init__` and `frequencies` are given; the latter uses what
# you wrote in 06.3 and 06.7. (`NoPositions` is an `nn.Module` that adds and rotates nothing.) A version that prepares
# nothing and computes the angles in each call is right as well, and a good first step.

# %% exercise: 06.8

# %% check: 06.8
RoPE = check("06.8", RoPE)

# %% [markdown]
# Plug it in. The shipped model was made with the package's RoPE; `other_parts=True` says that we know what we are
# doing. If your part computes the same, the loss is the same.

# %%
mine = open_checkpoint(shipped_model(), parts=Parts(position=RoPE), other_parts=True).model
loss = loss_by_place(mine, here).mean()
print(f"with your RoPE: {loss:.2f} nats per character")
assert abs(loss - usual) < 1e-4

# %% [markdown]
# And stretched, with the scaling in the config, as Llama 3.1 has it there: the model now reads 1,024 characters through
# functions that you wrote.

# %%
from minillama.config import RopeScaling

mine.position.scaling = RopeScaling("llama3", factor=4.0, original_max_len=256)
stretched = loss_by_place(mine, long, n_texts)
print("1,024 characters:", "below" if stretched.mean() < 1.7 else "above", "1.7 nats")
assert torch.allclose(stretched, of["Llama 3"], atol=1e-3)

# %% [markdown]
# `my_parts()` puts your part into a fresh model, beside what you have from the other chapters, and `certify` has the
# last word.

# %%
torch.manual_seed(0)
certificate = certify(Llama(small, my_parts()))
print("relative in position:", "relative in position" not in certificate.failed)
assert "relative in position" not in certificate.failed

# %% [markdown]
# ## When something is wrong
#
# | what you see | what it is, most of the time | measured in |
# |---|---|---|
# | nonsense from the start, loss near that of letter frequencies, no error | the other layout | Two layouts |
# | good up to the trained length, then noise | angles that training never saw | Reading further |
# | good up to 256, then worse and worse, in bfloat16 only | angles computed in bfloat16 | A whole model |
# | bad everywhere after "stretching" | fast hands slowed down as well | Three recipes |
# | trains as well as ever, but nobody's weights fit | another exponent, direction or pairing | 06.3 to 06.5 |
# | good in training, falls apart when it writes token by token | every new token stands at place 0 | 06.5 |
#
# ## What you have now
#
# - Attention sees a bag of words. Position has to be told.
# - Adding a sign mixes what and where; turning queries and keys leaves a score of what, what and the distance.
# - A hand per pair of channels, from fast to slow: base^(-2i/D).
# - Half-split and interleaved are equally good, and not the same. Moving rows of `q_proj` and `k_proj` makes one of the
#   other.
# - Relative is not endless. What breaks a longer text are hands that point where they never pointed. Slow those down,
#   and only those.
#
# ## Further reading
#
# - *Attention Is All You Need*, Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin, 2017.
#   Section 3.5 has the waves, and the sentence in which the authors hope that a model can learn distances from them.
# - *RoFormer: Enhanced Transformer with Rotary Position Embedding*, Su, Lu, Pan, Murtadha, Wen and Liu, 2021. RoPE.
# - *Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation*, Press, Smith and Lewis,
#   2021. Neither adding nor turning: a penalty on the score, by distance.
# - *Transformer Language Models without Positional Encodings Still Learn Positional Information*, Haviv, Ram, Press,
#   Izsak and Levy, 2022.
# - *Extending Context Window of Large Language Models via Positional Interpolation*, Chen, Wong, Chen and Tian, 2023.
#   Linear scaling.
# - *YaRN: Efficient Context Window Extension of Large Language Models*, Peng, Quesnelle, Fan and Shippole, 2023. Also
#   tells the story of NTK-aware scaling, and sorts pairs by their turns, as Llama 3.1 does.
# - *Effective Long-Context Scaling of Foundation Models*, Xiong and others, 2023. Why a base of 500,000.
#
# Next, in chapter 07, the question is why a stack of forty such layers does not blow up: normalization, and the block.
