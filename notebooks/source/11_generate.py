# %% [markdown]
# # 11 · Generation: from scores to a text
#
# After this chapter you can say why a model that always takes the likeliest token goes in circles and one that draws
# freely talks nonsense, write all the usual cures (temperature, top-k, top-p, min-p, repetition penalty) and say what
# each of them does to real text, write the cache that makes generation several times faster, test a cache so that none
# of its four favourite bugs gets through, and stream a text that stops in the right place.
#
# Reading takes about 100 minutes, the ten exercises about as long again; [Why do we compute that
# again?](#Why-do-we-compute-that-again?) is a good place for a break. Chapter 09 is enough to follow it, and of what
# comes before it: tokens and sampling (01), UTF-8 (02), the causal mask (03), keys, values and their sizes (04), what
# positions are for (06). Chapter 08 may wait.

# %%
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import assets
from minillama.cache import KVCache
from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.generate import check_sampling, generate
from minillama.plots import generate as plots
from minillama.saving import open_checkpoint

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## The same question, again and again
#
# A language model does one thing: it reads tokens and gives a score to each token that may come next. To get a text,
# ask, choose a token, put it behind the others, and ask again. Everything that is interesting is in the word *choose*.
#
# We use the model that comes with the course. It has 1.78 million numbers, knows 65 characters, and has read nine
# tenths of the Shakespeare corpus. The last tenth it has not seen.

# %%
shipped = open_checkpoint(assets.shipped_model())
model, tokenizer = shipped.model, shipped.tokenizer
text = assets.corpus()
seen, unseen = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
print(f"{model.n_parameters:,} numbers, {tokenizer.vocab_size} characters, longest text {model.config.max_len}")

# %% [markdown]
# The first idea that everybody has is to take the likeliest token each time. That is **greedy** decoding. Let it write
# 240 characters. (`generate` is the package's loop. You will write your own below. Temperature 0 means greedy.)

# %%
prompt = torch.tensor([tokenizer.encode("ROMEO:\n")])
greedy = tokenizer.decode(generate(model, prompt, 240, temperature=0.0)[0].tolist())

# %% varies
print(greedy)

# %% [markdown]
# It has read about a million characters of Shakespeare, and it says *the sea of the sea of the sea that she was*. Each
# single step is reasonable. After *the s* the likeliest is some common word with s. But a text made of nothing but
# likely steps comes by the same place again, and from the same place the same way leads on.
#
# How bad is it? We need a number. Take all stretches of 20 characters of a text, and count those that stood in the
# same text before. In good prose that hardly ever happens.

# %%
length = 240
n_texts = 8 if FAST else 32
openings = [unseen[1000 * i : 1000 * i + 16] for i in range(n_texts)]
shakespeare = [unseen[1000 * i + 16 : 1000 * i + 16 + length] for i in range(n_texts)]


def repeated(texts, n=20):
    """The share of stretches of n characters that stood in the same text before."""
    stretches = [[text[i : i + n] for i in range(len(text) - n + 1)] for text in texts]
    return 1 - sum(len(set(pieces)) for pieces in stretches) / sum(map(len, stretches))


# %% [markdown]
# We give the model 16 characters from plays that it does not know, and let it write the next 240. (There are 32 such
# openings in the full run, and 8 in the fast one.) Shakespeare's own 240 characters are there to compare with.
#
# **Predict.** Of all stretches of 20 characters that greedy decoding writes, which share has stood in the same text of
# 240 characters before? Shakespeare is below 0.01.

# %% predict: circles
circles = 0.15  # 0.01, 0.05 or 0.15


# %%
def written(n_new=length, **settings):
    """What the model writes after each opening, with these settings of `generate`."""
    tokens = torch.tensor([tokenizer.encode(opening) for opening in openings])
    out = generate(model, tokens, n_new, generator=torch.Generator().manual_seed(1), **settings)
    return [tokenizer.decode(row[16:].tolist()) for row in out]


greedy_texts = written(temperature=0.0)

# %% reveal: circles
assert 0.11 < repeated(greedy_texts) < 0.22 and repeated(shakespeare) < 0.02
predicted(circles, 0.15)

# %% varies
print(f"greedy {repeated(greedy_texts):.3f}, Shakespeare {repeated(shakespeare):.3f}")

# %% [markdown]
# One stretch in six or seven, and these texts have only begun.
#
# The other idea is to do what the scores say: softmax makes probabilities of them, and we draw, as from the wheel of
# fortune in chapter 01. A second number tells whether that goes well: which share of the words is real? A word is real
# if it occurs in the part of the corpus that the model has read. (The first and the last word of a text may be cut off,
# so they don't count.) And a third number: of all words, how many are different ones?

# %%
known_words = set(re.findall("[a-z]+", seen.lower()))


def real_words(texts):
    words = [word for text in texts for word in re.findall("[a-z]+", text.lower())[1:-1]]
    return sum(word in known_words for word in words) / max(1, len(words))


def variety(texts):
    """Different words, as a share of all words"""
    words = re.findall("[a-z]+", " ".join(texts).lower())
    return len(set(words)) / len(words)


def report(name, texts):
    shares = real_words(texts), repeated(texts), variety(texts)
    print(f"{name:<28} real words {shares[0]:>4.0%}   repeated {shares[1]:>5.1%}   different {shares[2]:>3.0%}")


# %% varies
drawn_texts = written(temperature=1.0)
report("Shakespeare, unseen", shakespeare)
report("greedy", greedy_texts)
report("drawn", drawn_texts)
print("\n" + openings[0] + drawn_texts[0])
assert abs(real_words(drawn_texts) - real_words(shakespeare)) < 0.06 and repeated(drawn_texts) < 0.02

# %% [markdown]
# Drawing is not bad at all: it does not repeat itself, about as many of its words are real as of Shakespeare's, and it
# has at least as many different ones. Greedy decoding gets by with less than half of that. But read what is drawn.
# Every few lines there is a word that is no word, or a sentence that loses its way. Between the two, the one that goes
# in circles and the one that stumbles, is all that this chapter calls *choosing*.
#
# ## Ten words, one temperature
#
# To see what a setting does, take a model so small that it fits into a line. It has ten words, and it is to continue
# *The king is ...* The probabilities sum to 1; check it. The scores are their logarithms, plus 3. (Any number may be
# added to all scores, chapter 03. With 3, some are positive and some negative, as in real models.)

# %%
words = ["asleep", "cheese", "dead", "gone", "good", "green", "here", "hungry", "mad", "old"]
chances = torch.tensor([[0.05, 0.01, 0.30, 0.10, 0.08, 0.02, 0.20, 0.03, 0.15, 0.06]])
logits = chances.log() + 3
for word, p, score in zip(words, chances[0].tolist(), logits[0].tolist(), strict=True):
    print(f"{word:<7} probability {p:.2f}   score {score:5.2f}")

# %% [markdown]
# Note the order. It is that of the alphabet, as the tokens of a real model are in some order that has nothing to do
# with what is likely. A filter that works on sorted scores only is a well-known mistake.
#
# The first knob is the **temperature**. Divide all scores by it before softmax. What does dividing by 2 do to two words
# of which one is four times as likely as the other? Their scores differ by ln 4 = 1.39. Divided by 2, they differ by
# 0.69 = ln 2: now the one is twice as likely. Divided by 1/2, they differ by 2.77 = ln 16: sixteen times.
#
# | temperature | scores | 4 to 1 becomes |
# |---|---|---|
# | 1/2 | times 2 | 16 to 1 |
# | 1 | as they are | 4 to 1 |
# | 2 | half | 2 to 1 |
# | nearly 0 | enormous | all to nothing |
#
# In general: dividing scores by t raises probabilities to the power of 1/t (and makes them sum to 1 again). Toward 0
# the best word takes everything, so temperature 0 is *defined* as greedy: no dividing, all to the largest score.
#
# **Exercise 11.1.** Write `tempered`. B is the number of texts in the batch and V the number of tokens: one row of
# scores per text. `logits.argmax(dim=-1, keepdim=True)` gives the place of the largest score of each row, the first one
# if there are several. `zeros.scatter(-1, places, 1.0)` gives a copy of `zeros` with 1.0 at these places.

# %% exercise: 11.1

# %% check: 11.1
tempered = check("11.1", tempered)

# %% [markdown]
# The same ten words at four temperatures. Follow *dead*, at the top, from left to right, and then *cheese*, at the
# bottom: a high temperature takes from the likely and gives to the unlikely. It does not change who is ahead of whom.

# %%
temperatures = {f"temperature {t:g}": tempered(logits, t)[0].tolist() for t in (0.0, 0.5, 1.0, 2.0)}
plots.ten_words("The king is ... what? It depends on the temperature", words, temperatures, nothing="0")
assert temperatures["temperature 2"][1] > 3 * temperatures["temperature 1"][1]
assert temperatures["temperature 0"][2] == 1

# %% [markdown]
# And in real text? Let the model write at many temperatures.

# %%
knob = [0.0, 0.5, 1.0, 1.5, 2.0] if FAST else [0.0, 0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0]
there = {0.0: greedy_texts, 1.0: drawn_texts}
texts_at = {t: there[t] if t in there else written(temperature=t) for t in knob}
lines = {
    "real words": [real_words(texts) for texts in texts_at.values()],
    "repeated": [repeated(texts) for texts in texts_at.values()],
}

# %% [markdown]
# In the figure the blue line is the share of real words, the orange one that of repeated stretches. The thin blue line
# is Shakespeare. See where the two blue lines meet.

# %% varies
plots.by_temperature(knob, lines, {"real words": real_words(shakespeare)})
for t in (0.0, 0.5, 1.0, 2.0):
    report(f"temperature {t:g}", texts_at[t])
assert lines["real words"][-1] < 0.75 < 0.93 < lines["real words"][0]
assert lines["repeated"][0] > 0.08 and max(lines["repeated"][-3:]) < 0.02

# %% [markdown]
# They meet near temperature 1, and that is no accident. In training the model learned to give each character the
# probability that it has. Draws at temperature 1 are its honest opinion of how Shakespeare writes, invented words
# included: he did invent some. Below 1 the text becomes more correct than the original, and poorer: the last column
# says of how many different words it is made. At 2 it falls apart:

# %% varies
for t in (0.5, 2.0):
    print(f"--- temperature {t:g}\n{texts_at[t][0][:150]}\n")

# %% [markdown]
# ## The tail
#
# Why do draws at temperature 1 stumble? Look at *cheese*. It has a probability of 0.01. A text of a hundred words asks
# a hundred times, and the chance that it gets through without such a word is 0.99 to the power of 100.

# %%
print(f"{0.99**100:.2f}")

# %% [markdown]
# So two texts in three have a *cheese* in them, and what is said cannot be unsaid: the model reads its own cheese and
# goes on from there. A real model has not one such word but tens of thousands, each with a probability of nearly
# nothing. Together they are the **tail**. How often do draws from our model come from it?

# %%
unseen_tokens = torch.tensor(tokenizer.encode(unseen))
with torch.no_grad():
    next_probs = model(unseen_tokens[: 16 * 256].view(16, 256)).softmax(dim=-1).flatten(0, 1)  # (4096, 65)
for border in (0.001, 0.01, 0.05):
    in_tail = next_probs[next_probs < border].sum() / len(next_probs)
    print(f"characters with a probability below {border:<5}: {in_tail:.1%} of all draws")
    assert 0.3 * border < in_tail < 5 * border

# %% [markdown]
# About one character in fifty is one that the model itself takes for hardly possible. In a line of 50 characters that
# is one. And there is a second reason to distrust the tail: a model has seen these characters here so rarely that its
# numbers for them are the worst that it has.
#
# So cut the tail off: set the scores of unlikely tokens to minus infinity (e to the power of that is 0), and let
# softmax share out the rest. There are three customs of saying where the tail begins.
#
# ### Top-k: the k best
#
# For the ten words and k = 3, *dead*, *here* and *mad* stay, with 0.30, 0.20 and 0.15. They have 0.65 together, so
# after softmax they have 0.30 / 0.65 = 0.46, 0.31 and 0.23.
#
# What if two tokens share the k-th place? Dropping one of two equals would be an accident of sorting. In this course
# both stay: everything goes that is *smaller than the k-th largest score*. For the scores 1, 5, 3, 3, 0 and k = 2,
# three tokens stay.
#
# **Exercise 11.2.** Write `keep_top_k`, for B rows at once; k is at least 1 and at most V. `logits.topk(k, dim=-1)` has
# `.values`, the k largest of each row, the largest first. `logits.masked_fill(where, -math.inf)` puts minus infinity
# where the condition holds.

# %% exercise: 11.2

# %% check: 11.2
keep_top_k = check("11.2", keep_top_k)

# %% [markdown]
# ### Top-p: as many as it takes
#
# How large should k be? Watch the model read a line. After *questi* it knows what comes; at the beginning of a word it
# does not. One k for both is too large for the first and too small for the second.
#
# **Top-p** (also: *nucleus sampling*) asks for a share instead of a number: keep the most probable tokens, one after
# the other, until they have **reached p together**. For the ten words and p = 0.6:
#
# | word | probability | those ahead of it have | stays? |
# |---|---|---|---|
# | dead | 0.30 | 0 | yes |
# | here | 0.20 | 0.30 | yes, 0.6 is not reached yet |
# | mad | 0.15 | 0.50 | yes: with it the sum **crosses** 0.6 |
# | gone | 0.10 | 0.65 | no |
#
# The third column is all you need: *a token stays if those ahead of it have not reached p*. The token that crosses p
# stays, and so the best one always does, however small p is.
#
# The tools: `probs.sort(dim=-1, descending=True)` gives two tensors, the sorted values and the `order`, that is, the
# place where each of them stood before. `cumsum(dim=-1)` adds up along the row: 0.30, 0.50, 0.65, ... And to bring
# something back from sorted order to the old one, use `scatter`:

# %%
values, order = torch.tensor([[10, 70, 20]]).sort(dim=-1, descending=True)
print("sorted", values[0].tolist(), " they stood at", order[0].tolist())
marked = torch.tensor([[True, False, False]])  # in sorted order: the largest one
print("brought back", torch.zeros(1, 3, dtype=torch.bool).scatter(-1, order, marked)[0].tolist())

# %% [markdown]
# **Exercise 11.3.** Write `keep_top_p`. Scores come in, scores go out; p is above 0 and at most 1, and with 1 all stay
# (but for those too small to change a sum). Some scores may be minus infinity already, since another filter was there
# before: their probability is 0, and they stay out.

# %% exercise: 11.3

# %% check: 11.3
keep_top_p = check("11.3", keep_top_p)

# %% [markdown]
# Here is how many characters top-p with p = 0.9 leaves at each place of a famous line. Look at the beginnings of words
# (they stand after a ␣) and at their ends. The dashed line is what top-k with k = 5 leaves, at every place.

# %%
line = "To be, or not to be: that is the question"
with torch.no_grad():
    line_logits = model(torch.tensor([tokenizer.encode("\n" + line)]))[0, :-1]  # the scores for each character of it
n_kept = keep_top_p(line_logits, 0.9).isfinite().sum(dim=-1).tolist()
plots.kept_along(line, n_kept, 5, 65, "How many characters does top-p (p = 0.9) leave?")
assert max(n_kept) > 12 and min(n_kept) == 1 and n_kept[line.index("tion") + 3] <= 2

# %% [markdown]
# At the start of a word thirteen or more letters are possible, up to twenty-one, and where a word can end in one way
# only, a single one is left. k = 5 would forbid most of the beginnings, and still let four wrong letters in at the
# ends.
#
# ### Min-p: not much less than the best
#
# A third way, simpler than both: keep what is **at least min_p times as probable as the best token**. For the ten words
# the best has 0.30. With min_p = 0.25 the border is 0.25 · 0.30 = 0.075, and five words stay: *dead*, *here*, *mad*,
# *gone* and *good*, which has 0.08. Where the best token has 0.99, the border is 0.25, and no other can reach it. No
# sorting is needed.
#
# **Exercise 11.4.** Write `keep_min_p`. `x.amax(dim=-1, keepdim=True)` is the largest number of each row, as a column.

# %% exercise: 11.4

# %% check: 11.4
keep_min_p = check("11.4", keep_min_p)

# %% [markdown]
# All three, beside the words as they are. What is left has more than before, since it shares out what the tail had.

# %%
filters = {
    "as they are": logits,
    "top-k, k = 3": keep_top_k(logits, 3),
    "top-p, p = 0.9": keep_top_p(logits, 0.9),
    "min-p, 0.25": keep_min_p(logits, 0.25),
}
plots.ten_words(
    "Where does the tail begin?", words, {name: tempered(x, 1.0)[0].tolist() for name, x in filters.items()}
)
assert [int(x.isfinite().sum()) for x in filters.values()] == [10, 3, 7, 5]

# %% [markdown]
# ### The whole, in the right order
#
# Settings are used together: *temperature 0.8, top-p 0.95*. Does it matter which comes first? By hand, with temperature
# 2 and p = 0.7. At temperature 1 it takes four words to reach 0.7 (0.30 + 0.20 + 0.15 + 0.10). Temperature 2 makes the
# ten words more alike, and then it takes more:

# %%
flat = tempered(logits, 2.0)
print("at temperature 2:", [round(p, 2) for p in flat.sort(descending=True).values[0].tolist()])
print("words left, top-p first:      ", int(keep_top_p(logits, 0.7).isfinite().sum()))
print("words left, temperature first:", int(keep_top_p(logits / 2, 0.7).isfinite().sum()))
assert keep_top_p(logits / 2, 0.7).isfinite().sum() == 6

# %% [markdown]
# It matters. The package's order is: temperature, top-k, top-p, min-p, softmax. (Hugging Face does it in this order,
# too. Other programs differ, and then the same settings mean another thing.)
#
# Two more things that a sampler for real models needs.
#
# - **What it refuses.** A top_p of 0, a temperature of -1: a slip of the pen. `check_sampling(temperature=...,
#   top_k=..., top_p=..., min_p=...)` is given, and raises a ValueError that says what is wrong. Scores that hold NaN
#   must raise a ValueError, too, at every temperature, or a broken model writes nonsense and nobody knows why. So must
#   a row in which all scores are minus infinity. (Where only some are, these tokens were ruled out before, and all is
#   well.)
# - **In which type it computes.** Real models run in half precision. A float16 ends at 65,504 (chapter 07), and 500
#   divided by a temperature of 0.001 is more. So go to `logits.float()` first. Then subtract the best score of each
#   row: the differences are 0 or less, and the worst that a division makes of them is minus infinity, which is right.
#
# **Exercise 11.5.** Write `sampling_probs`, with your `keep_top_k`, `keep_top_p` and `keep_min_p`. None means: without
# this filter. A top_k above V keeps all. And temperature 0 is greedy, whatever the filters are. `logits.max(dim=-1,
# keepdim=True)` has `.values` and `.indices`; NaN counts as the largest there. `x.isfinite()` is False for NaN and for
# both infinities.

# %% exercise: 11.5

# %% check: 11.5
sampling_probs = check("11.5", sampling_probs)

# %% [markdown]
# What do the settings do to real text? All of it is drawn with the same seed.

# %% varies
settings = [{"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}]
settings += [{"temperature": 1.5, "top_p": 0.9}, {"temperature": 1.5, "min_p": 0.1}]
texts_with = {"as it is": drawn_texts, "temperature 1.5": texts_at[1.5]}
for setting in settings:
    name = ", ".join(f"{key} {value}" for key, value in setting.items())
    texts_with[name] = written(**setting)
report("Shakespeare, unseen", shakespeare)
for name in sorted(texts_with, key=lambda name: "1.5" in name):
    report(name, texts_with[name])
assert real_words(texts_with["top_p 0.9"]) > real_words(drawn_texts) - 0.02
assert real_words(texts_with["temperature 1.5, min_p 0.1"]) > real_words(texts_at[1.5]) + 0.05

# %% [markdown]
# Each of the three filters raises the share of real words above Shakespeare's own, and none brings the circles back.
# The last three lines show best what filters are for: at temperature 1.5 about every fifth word is broken, and a filter
# mends most of that. It allows for more variety at the beginnings of words and forbids nonsense within them.
#
# Which setting is the best? That depends on what the text is for. Somebody who wants code or the answer to a sum wants
# the likeliest text, and takes a low temperature. Somebody who wants a story does not.
#
# ## Do not repeat yourself
#
# Against circles there is a direct remedy: lower the score of every token that was there already. This **repetition
# penalty** divides the score by, say, 1.3. But look at a negative score. -2 / 1.3 is -1.54, which is *more* than -2:
# the token gets likelier! So negative scores are multiplied: -2 · 1.3 = -2.6. (The paper that proposed the penalty
# always divides; that was mended later, in the programs.)
#
# By hand, penalty 2, scores 3, 1, -1, -2, and the second and the last token were there: 3, 0.5, -1, -4.
#
# A token that was there five times is punished once, as if it had been there once. A penalty below 1 is a reward, by
# the same rule: the sign of the score says whether to divide or to multiply, and the token gets likelier.
#
# **Exercise 11.6.** Write `penalize_repetition`. `tokens`, (B, T), are the texts so far, one row for each row of
# scores. `logits.gather(-1, tokens)` looks up the scores of these tokens, (B, T). `logits.scatter(-1, tokens, new)`
# gives a copy with new numbers, (B, T), at these places. `torch.where(condition, a, b)` chooses place by place.

# %% exercise: 11.6

# %% check: 11.6
penalize_repetition = check("11.6", penalize_repetition)

# %% varies
penalized_texts = written(temperature=0.0, repetition_penalty=1.3)
report("greedy", greedy_texts)
report("greedy, penalty 1.3", penalized_texts)
print("\n" + openings[0] + penalized_texts[0][:160])
assert repeated(penalized_texts) < 0.6 * repeated(greedy_texts)

# %% [markdown]
# Fewer circles, and greedy decoding becomes bearable. But think about what is punished here: characters. After a line
# or two nearly every letter has been there, the space and the e among them, and all are punished alike, except for the
# rare ones that have not had their turn. With words for tokens it is *the* and *is* and the comma that are punished.
# Nor is there a good reason for the rule itself: the zero of the scores means nothing, since one may add 3 to all of
# them (as we did) without changing a probability. It is not so with this penalty. In the figure *dead* and *here* were
# there before. In the middle they get a little less. On the right 20 was added to all scores, which should not matter,
# and they are gone.

# %%
said = torch.tensor([[2, 6]])  # dead and here were there
shifted = {"as they are": logits.softmax(dim=-1)[0].tolist()}
for shift in (0, 20):
    after = penalize_repetition(logits + shift, said, 1.3).softmax(dim=-1)
    shifted[f"penalty 1.3, scores + {shift}"] = after[0].tolist()
plots.ten_words("What becomes of two words that were there?", words, shifted)
assert shifted["penalty 1.3, scores + 20"][2] < 0.01 < 0.2 < shifted["penalty 1.3, scores + 0"][2]

# %% [markdown]
# It is a crutch. It is in every program, and now you know why it helps and why it limps.
#
# ## The likeliest text is dull
#
# Greedy decoding takes the likeliest *token*. Perhaps the trouble is only that it never looks ahead, and the likeliest
# *text* would be fine? Chapter 08 has **beam search**: follow several texts at the same time, and keep those whose
# probability as a whole is the highest. For a translation, that is what one wants.
#
# To compare texts by their probability, use the model's surprise: minus the logarithm of the probability that it gave
# to each character, on average (chapter 01). The greedy texts cost it about 0.7 nats per character. These are its own
# words. Shakespeare's next words it has never seen.
#
# **Predict.** How surprised is the model by Shakespeare's own continuation?

# %% predict: surprised
surprised = 1.2  # 0.4, 0.7 or 1.2 nats per character


# %%
@torch.no_grad()
def surprise(opening, continuation):
    """Nats for each character of the continuation"""
    tokens = torch.tensor([tokenizer.encode(opening + continuation)])
    log_probs = model(tokens[:, :-1]).log_softmax(dim=-1)
    nats = -log_probs.gather(-1, tokens[:, 1:, None])[0, :, 0]
    return nats[len(opening) - 1 :].tolist()


def mean_surprise(texts, n):
    costs = [surprise(opening, text[:n]) for opening, text in zip(openings, texts, strict=False)]
    return sum(map(sum, costs)) / sum(map(len, costs))


# %% reveal: surprised
by_shakespeare = mean_surprise(shakespeare, 200)
assert 1.05 < by_shakespeare < 1.4
predicted(surprised, 1.2)

# %% varies
for name, texts in {"Shakespeare": shakespeare, "drawn": drawn_texts, "greedy": greedy_texts}.items():
    print(f"{name:<12} {mean_surprise(texts, 200):.2f} nats per character")
assert by_shakespeare > mean_surprise(greedy_texts, 200) + 0.2

# %% [markdown]
# Good text is *not* text that surprises little. Shakespeare surprises the model far more than its own babble, and what
# it draws surprises it about as much as Shakespeare does. Now the beam, which looks for the least surprise.

# %%
from minillama.generate import beam_search

n_beams = 2 if FAST else 6
starts = torch.tensor([tokenizer.encode(opening) for opening in openings[:n_beams]])
found, _ = beam_search(model, starts, 60, width=4)
beam_texts = [tokenizer.decode(row[0, 16:].tolist()) for row in found]

# %% varies
for opening, best in list(zip(openings, beam_texts, strict=False))[:2]:
    print(opening + best, "\n---")
to_compare = {"beam of 4": beam_texts, "greedy": greedy_texts, "drawn": drawn_texts, "Shakespeare": shakespeare}
costs = {name: mean_surprise(texts[:n_beams], 60) for name, texts in to_compare.items()}
print({name: round(nats, 2) for name, nats in costs.items()})
assert costs["beam of 4"] < costs["greedy"] < costs["Shakespeare"]

# %% [markdown]
# The better the search, the duller the text: *my lord*, and again *my lord*. Holtzman and others found this for large
# models in 2019, and called it *neural text degeneration*. People don't say what is likely, since what is likely need
# not be said.
#
# The figure shows one opening with three continuations, character by character. Look at the tall bars. In the text of
# the beam none reaches 3 nats. In the other two there are some that do, most of them in the first letters of a
# word, where something new is said.

# %%
chosen = {"beam of 4": beam_texts[0], "drawn": drawn_texts[0][:60], "Shakespeare": shakespeare[0][:60]}
along = {name: (best, surprise(openings[0], best)) for name, best in chosen.items()}
plots.surprise_along(along)
assert max(along["beam of 4"][1]) < 3 < 4 < min(max(along[name][1]) for name in ("drawn", "Shakespeare"))

# %% [markdown]
# So beam search is for tasks with a right answer, and open-ended text is drawn.
#
# ## What filters can't do
#
# If a filter makes the words real, do we need the long training? Train a small model for a while, and let it write from
# time to time, in three ways: as it is, with top-p at 0.7, and greedily. (In full mode 1,000 steps, about half a
# minute; 60 in the fast one.)

# %%
from minillama.config import PRESETS
from minillama.data import Batches
from minillama.llama import Llama
from minillama.train import AdamW, evaluate, next_token_loss

seen_tokens = torch.tensor(tokenizer.encode(seen))
batches = Batches(seen_tokens, batch_size=16, length=64, seed=0)
ways = {"as it is": {}, "top-p 0.7": {"top_p": 0.7}, "greedy": {"temperature": 0.0}}
looks = (0, 20, 60) if FAST else (0, 50, 100, 200, 400, 700, 1000)
many = unseen_tokens[: 64 * 200].view(64, 200)[:, :16]


def look(small):
    generator = torch.Generator().manual_seed(0)
    texts = {way: generate(small, many, 48, generator=generator, **setting) for way, setting in ways.items()}
    return {way: [tokenizer.decode(row[16:].tolist()) for row in rows] for way, rows in texts.items()}


# %%
torch.manual_seed(0)
small = Llama(PRESETS["tiny"])
optimizer = AdamW(small.parameters(), lr=5e-3, weight_decay=0.0)
small_texts, losses = {}, {}
for step in range(looks[-1] + 1):
    if step in looks:
        small_texts[step] = look(small)
        losses[step] = evaluate(small, unseen_tokens[:8193], length=64)
    tokens, targets = batches(step)
    optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20)
    loss = next_token_loss(small(tokens), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# Look at the distance between the two lower lines of the figure, *as it is* and *top-p 0.7*: that is what the filter
# buys. And look at how soon the line of *greedy* is at the top.

# %% varies
shares = {way: [real_words(small_texts[step][way]) for step in looks] for way in ways}
plots.share_by_step("Does a filter replace training?", list(looks), shares, "real words")
for step in looks:
    print(
        f"step {step:>4}: loss {losses[step]:.2f}", *(f"  {way} {shares[way][looks.index(step)]:.0%}" for way in ways)
    )
print("\ngreedy, after", looks[-1], "steps:", repr(small_texts[looks[-1]]["greedy"][0]))
assert shares["top-p 0.7"][-1] > shares["as it is"][-1]

# %% [markdown]
# In the full run, top-p gives a model of 400 steps about as many real words as one of 1,000 steps has without it. That
# looks like a bargain. But the loss is the same with or without a filter: a filter adds nothing to what the model
# knows. And see what the measure takes for perfect after few steps: greedy text, all of whose words are real, since it
# says *the* and *the* and *the*. A share of real words is easily fooled. So is whoever judges a model by a page of text
# that somebody has sampled with care.
#
# ## Why do we compute that again?
#
# So far for *choosing*. Now for the question that comes before it. To get the scores of the next token, the model reads
# the whole text. Then one token is added, and it reads the whole text again, with one token more. And again.
#
# **Predict.** A model writes 256 tokens, beginning with a text of one. How many tokens does it read in all, if it reads
# the whole text each time?

# %% predict: readings
readings = 32_896  # 256, 2_560 or 32_896

# %% reveal: readings
n_read = sum(range(1, 257))
print("1 + 2 + 3 + ... + 256 =", f"{n_read:,}")
predicted(readings, n_read)

# %% [markdown]
# 128 times as many as there are. And nearly all of it has been computed before, with the same result: a token looks
# only backwards, so nothing in it changes when a later one comes (chapter 04 showed it for the keys). What does the
# *new* token need of the old ones? Their keys, to compare its query with, and their values, to average. Nothing else:
# nobody will ask for their queries or their outputs again. So keep the keys and values of each layer, and read only the
# new token. That is the **KV cache**.
#
# Count the multiplications for the shipped model. Each number of each matrix is used once per token that is read
# (chapter 09), and a query that meets S keys costs S · C for the scores and S · C for the average, in each layer.


# %%
def multiplications(config, n_tokens, n_keys):
    """Read n_tokens of a text that is then n_keys long."""
    C, L = config.d_model, config.n_layers
    matrices = L * (4 * C * C + 3 * C * config.d_ff) + config.vocab_size * C
    return n_tokens * (matrices + L * 2 * n_keys * C)


again = sum(multiplications(model.config, n, n) for n in range(1, 257))
cached = sum(multiplications(model.config, 1, n) for n in range(1, 257))
print(f"reading all again: {again / 1e9:5.1f} billion multiplications")
print(f"with a cache:      {cached / 1e9:5.1f} billion")
print(f"{again / cached:.0f} times less work")
assert 120 < again / cached < 150

# %% [markdown]
# And on the clock? `stream` is the package's loop, token by token; it can do it either way.

# %% varies
from minillama.generate import stream


def seconds_until(use_cache):
    """When each of 240 characters was written."""
    began, times = time.perf_counter(), []
    for _ in stream(model, prompt, 240, temperature=0.0, use_cache=use_cache):
        times.append(time.perf_counter() - began)
    return times


clock = {"all again": seconds_until(use_cache=False), "with a cache": seconds_until(use_cache=True)}

# %% [markdown]
# Without a cache the line bends upwards: each character takes longer than the one before. With a cache it is straight.

# %% varies
plots.time_to_write(clock)
faster = clock["all again"][-1] / clock["with a cache"][-1]
print(f"{faster:.0f} times faster")
assert [len(times) for times in clock.values()] == [240, 240]

# %% [markdown]
# A hundred times less work, and several times faster. Where has the rest gone? Find out how fast this machine
# multiplies when it does nothing else, and compare.

# %% varies
square, best = torch.randn(512, 512), math.inf
for _ in range(7):
    began = time.perf_counter()
    square @ square
    best = min(best, time.perf_counter() - began)
pure = {"all again": again * best / 512**3, "with a cache": cached * best / 512**3}
for name, seconds in pure.items():
    print(f"{name:<13} {clock[name][-1]:5.2f} s on the clock, of which multiplying takes {seconds:5.2f} s")
assert pure["all again"] > 120 * pure["with a cache"]

# %% [markdown]
# (The two counts are for 256 tokens and the clock is for 240, so don't take it to the last digit.) With a cache,
# multiplying is nearly for nothing. What takes the time is everything else: fetching each matrix from memory for the
# sake of a single token, and the many small calls from Python. Chapter 12 finds out how much of that can be got back.
#
# ### The cache of one layer
#
# Attention hands the keys and values of the new tokens to the cache and gets back those of all tokens, in the shapes
# (B, G, T, D) and (B, G, S, D): B texts, G key/value heads, T new tokens, S tokens in all, D numbers each. The new ones
# stand **behind** the old ones. By hand, for one text with one head and D = 1:
#
# | call | comes | is kept and given back |
# |---|---|---|
# | first, the prompt | 5, 6, 7 | 5, 6, 7 |
# | second | 8 | 5, 6, 7, 8 |
# | third | 9, 10 | 5, 6, 7, 8, 9, 10 |
#
# **Exercise 11.7.** Write `append` and `n_tokens` of `LayerCache`; `__init__` is given. (A property is called without
# parentheses: `cache.n_tokens`.) `torch.cat([a, b], dim=...)` joins two tensors along an axis.

# %% exercise: 11.7

# %% check: 11.7
LayerCache = check("11.7", LayerCache)

# %% [markdown]
# A model has one of these for each layer. That makes a cache for the whole model, in seven lines. Llama asks it for two
# things: `cache[i]`, the part of layer i, and `len(cache)`, to know at which position the new tokens stand.


# %%
class Cache:
    def __init__(self, n_layers, layer=LayerCache):
        self.layers = [layer() for _ in range(n_layers)]

    def __getitem__(self, i):
        return self.layers[i]

    def __len__(self):
        return self.layers[0].n_tokens


cache = Cache(model.config.n_layers)
tokens = torch.tensor([tokenizer.encode("But soft, what light")])
with torch.no_grad():
    in_pieces = torch.cat([model(piece, cache=cache) for piece in tokens.split([8, 1, 1, 10], dim=1)], dim=1)
    largest = (in_pieces - model(tokens)).abs().max().item()
print(f"{len(cache)} tokens in the cache; largest difference to the text read at once: {largest:.4f}")
assert largest < 1e-3

# %% [markdown]
# ### What it costs
#
# Memory. For each token, each layer keeps a key and a value of G · D numbers. You wrote the formula in chapter 04:
# 2 · layers · G · D numbers per token. In 16 bits, for real LLaMAs, and for as many conversations of full length as fit
# beside the weights on a card of 80 GB:

# %%
from minillama.info import costs

for name in ("llama-1-65b", "llama-2-7b", "llama-2-70b", "llama-3-8b", "llama-3.1-8b"):
    config = PRESETS[name]
    per_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2  # the last 2: bytes per number
    full, weights = per_token * config.max_len / 1e9, 2 * costs(config).n_parameters / 1e9
    fit = max(0, int((80 - weights) / full))
    print(f"{name:<13} {per_token / 1024:>5,.0f} KiB per token, {full:4.1f} GB for {config.max_len:>7,}; "
          f"weights {weights:5.1f} GB: {fit:>2} fit")  # fmt: skip
assert 2 * 32 * 8 * 128 * 2 == 128 * 1024  # Llama 3 8B: 32 layers, 8 key/value heads, 128 numbers

# %% [markdown]
# Llama 2 70B has ten times the numbers of the 7B, and keeps *less* per token, because its 64 query heads share 8
# key/value heads (chapter 04). Llama 3 8B does that too and comes down to 128 KiB. (Two models in this list don't fit
# on one such card, even without a cache.)
#
# ## Four broken caches
#
# A cache is a promise: it changes how much is computed and nothing of the result. It is easy to break. Here are four
# ways that people do break it. The right way, for T new tokens that make S in all: a mask of T rows and S columns,
# `causal_mask(T, S)`.
#
# - **No mask.** "The new token is the last one, so it may see everything."
# - **A square mask.** T × T, as without a cache, laid over the first T of the S keys. The others are open to all.
# - **A mask only while the cache is empty.** For the prompt yes, afterwards no.
# - **In front.** The cache gives back new keys before the old ones. "Attention does not care about order."

# %%
from minillama.attention import Attention, attend, causal_mask
from minillama.block import Parts


def no_mask(q, k, v, mask):
    return attend(q, k, v)


def square_mask(q, k, v, mask):
    T, S = q.size(-2), k.size(-2)
    square = torch.ones(T, S, dtype=torch.bool)
    square[:, :T] = causal_mask(T)
    return attend(q, k, v, square)


def mask_while_empty(q, k, v, mask):
    return attend(q, k, v, mask if q.size(-2) == k.size(-2) else None)


class InFront(LayerCache):
    def append(self, k, v):
        return tuple(x.roll(k.size(2), dims=2) for x in super().append(k, v))  # the last ones become the first


# %% [markdown]
# Each goes into the shipped model, with the weights as they are. First the test that everybody writes: read a text
# token by token with the cache, and compare with reading it at once by the right model.
#
# **Predict.** How many of the four does this test find out?

# %% predict: noticed
noticed = 0  # 0, 1, 2, 3 or 4


# %%
def with_attend(how):
    other = Llama(model.config, Parts(attention=partial(Attention, attend=how)))
    other.load_state_dict(model.state_dict())
    return other.eval()


suspects = {"right": (model, LayerCache), "no mask": (with_attend(no_mask), LayerCache),
            "square mask": (with_attend(square_mask), LayerCache),
            "mask while empty": (with_attend(mask_while_empty), LayerCache), "in front": (model, InFront)}  # fmt: skip


# %%
@torch.no_grad()
def off_by(suspect, plan):
    """The largest difference of a probability, if the text comes in pieces of these sizes."""
    suspect_model, layer = suspects[suspect]
    pieces, cache = tokens.split(plan, dim=1), Cache(model.config.n_layers, layer)
    out = torch.cat([suspect_model(piece, cache=cache) for piece in pieces], dim=1)
    return (out.softmax(dim=-1) - model(tokens).softmax(dim=-1)).abs().max().item()


# %% reveal: noticed
for suspect in suspects:
    print(f"{suspect:<17} one by one: off by {off_by(suspect, [1] * 20):.3f}")
n_noticed = sum(off_by(suspect, [1] * 20) > 1e-3 for suspect in suspects)
predicted(noticed, n_noticed)

# %% [markdown]
# None! With a single new token, the right mask is one row of nothing but True. No mask is the same as that. A 1 × 1
# square hides nothing. And an average does not ask in which order its keys stand (their places are in the keys
# themselves, since RoPE has turned them). The test can't see what it never does: let two new tokens come at once.

# %%
plans = {"one by one": [1] * 20, "at once": [20], "prompt, then one by one": [8] + [1] * 12, "uneven": [8, 5, 7]}
print(" " * 17 + "  ".join(plans))
off = {suspect: {name: off_by(suspect, plan) for name, plan in plans.items()} for suspect in suspects}
for suspect, row in off.items():
    print(f"{suspect:<17}" + "  ".join(f"{x:>{len(name)}.3f}" for name, x in row.items()))
assert max(off["right"].values()) < 1e-3 and all(off[name]["uneven"] > 0.01 for name in list(off)[1:])
assert max(off[name]["prompt, then one by one"] for name in list(off)[2:]) < 1e-3

# %% [markdown]
# Three of the four pass everything that a usual generation does: a prompt at once, then token by token. All are found
# out by **uneven pieces**. And pieces do come: in a chat, the second question is a piece of several tokens on a cache
# that is not empty; long prompts are read in pieces to save memory; and in chapter 12 several tokens are guessed at
# once and then checked in one go. That is where these bugs come out, months later.
#
# The figure shows what the new tokens *s*, *o* and *f* look at when *B*, *u*, *t* and a space are in the cache. Blue is
# right. Orange is seen and must not be: a look into the future. A cross is not seen and should be. Only the last row,
# *f*, is right in all four: it is the only kind of row that a test with single tokens ever sees.

# %%
old, new = ["B", "u", "t", "␣"], ["s", "o", "f"]
everything = torch.ones(3, 7, dtype=torch.bool)
square = everything.clone()
square[:, :3] = causal_mask(3)
panels = {"right": causal_mask(3, 7), "no mask, or only while empty": everything, "square mask": square}
panels = {name: (table.tolist(), [*old, *new]) for name, table in panels.items()}
panels["in front"] = (causal_mask(3, 7).tolist(), [*new, *old])  # the right mask on keys in the wrong order
may_see = {name: [*old, *new[: i + 1]] for i, name in enumerate(new)}
plots.who_is_seen(panels, may_see, "Whom do three new tokens see?")
assert panels["right"][0][0] == [True] * 5 + [False] * 2 and panels["in front"][0][0][1]  # s sees o

# %% [markdown]
# `certify`, from chapter 09, reads in uneven pieces as well. It brings its own cache, so it can judge the first three:

# %%
from minillama.certify import certify

for suspect in ("right", "no mask", "square mask", "mask while empty"):
    print(f"{suspect:<17} failed:", ", ".join(certify(suspects[suspect][0]).failed) or "nothing")

# %% [markdown]
# ## The loop
#
# Now put it together: the model with its cache, a way to choose, and an end. How does a text end? There are three ways,
# and a program needs at least two of them.
#
# - **A stop token.** Models that were trained on whole documents or dialogues have a token for the end, and say it.
#   There may be several: in Llama 3 one ends a document and another one an answer.
# - **A number.** A model may never say it.
# - **A stop string.** We come to that below.
#
# In a batch, texts end at different times. One that has ended waits, and repeats its stop token while the others go on.
# And a stop token in the *prompt* ends nothing: the prompt of a chat is full of ends of earlier answers.
#
# The loop does not know how to choose. It is handed a function for that, from scores (B, V) to tokens (B,). Nor does it
# need slopes: `@torch.no_grad()` above the function says so, and saves the memory that training would need.
#
# `model(new, cache=cache)` reads `new`, which is the whole prompt the first time and then one token per text; it adds
# keys and values to the cache by itself, and gives scores for each token that it has read, (B, T', V). Those for the
# *next* token are the last: `[:, -1]`. To make the cache, use `KVCache(n_layers)`, the package's version of `Cache`.
#
# **Exercise 11.8.** Write `write`. `torch.isin(a, b)` asks for each entry of a whether it is one of b. To compare with
# an empty list of stop tokens as well, make `torch.tensor(list(stop), dtype=torch.int64)` of it.

# %% exercise: 11.8

# %% check: 11.8
write = check("11.8", write)

# %% [markdown]
# Greedy first, to compare with the package's loop. Then with your own `sampling_probs` for choosing, and with the end
# of a line as the stop token: each text of the batch stops after its first line.


# %%
def draw(seed, **sampling):
    generator = torch.Generator().manual_seed(seed)
    return lambda logits: torch.multinomial(sampling_probs(logits, **sampling), 1, generator=generator)[:, 0]


starts = torch.tensor([tokenizer.encode(opening) for opening in openings[:5]])
mine = write(model, starts, 100, draw(0, temperature=0))
print("as the package's:", torch.equal(mine, generate(model, starts, 100, temperature=0.0)))
assert torch.equal(mine, generate(model, starts, 100, temperature=0.0))

# %% [markdown]
# The first number of each line below is how often the stop token stands there: the text that ended last has one, and
# those that had to wait for it have more.

# %% varies
end_of_line = tokenizer.encode("\n")
for row in write(model, starts, 200, draw(4, temperature=0.9, min_p=0.05), stop=end_of_line)[:, 16:]:
    line = tokenizer.decode(row.tolist())
    print(f"{line.count(chr(10)):>3} times the end of a line, after {line.rstrip()!r}")

# %% [markdown]
# A limit remains: with a cache, the text may not become longer than what the model was trained on, here 256 tokens. The
# package's `generate` then lets go of the oldest tokens and reads the last 256 again for every token, without a cache,
# because with the oldest token gone, all others change.
#
# ## Prompts of different lengths
#
# A server answers many people at once. Their prompts have different lengths, and a batch is a rectangle. In chapter 08
# we filled up at the end. Here that would be a nuisance: the next token of each text belongs in the next column, and
# the scores are read from the last one. So for writing, fill up **in front**: all texts end in the same column.

# %%
from minillama.generate import pad_left

people = ["ROMEO:\n", "O", "What light through yonder"]
padded, mask = pad_left([tokenizer.encode(prompt) for prompt in people])
for row, real in zip(padded.tolist(), mask.int().tolist(), strict=True):
    print(repr(tokenizer.decode(row)[-25:]).rjust(29), "  real:", "".join(map(str, real)))

# %% [markdown]
# (The padding is token 0, which happens to be the line feed. It may be any token, since nobody is to look at it.)
#
# Two things must be said to the model. The **mask**: nobody may look at padding. And the **positions**: the first real
# token of a text stands at 0, wherever its column is. Otherwise an answer would depend on how long the prompts of other
# people are.
#
# By hand: the mask 0, 0, 1, 1 gives the positions ?, ?, 0, 1. What about the question marks? Nobody looks there, but
# there must be something that the model can work with. -1 is not: a model with a table of positions (chapter 06) would
# look for row -1.
#
# **Exercise 11.9.** Write `positions_of`. True counts as 1 and False as 0: `mask.cumsum(dim=-1)` counts along the row.
# `x.clamp(min=0)` replaces what is below 0 by 0.

# %% exercise: 11.9

# %% check: 11.9
positions_of = check("11.9", positions_of)

# %% [markdown]
# Now leave things out, and see by how much the probabilities of the next character move, compared with each prompt read
# alone. Two models: the shipped one, which has RoPE, and one with random weights and learned positions, from chapter
# 06.


# %%
from minillama.config import Config
from minillama.position import LearnedPositions

torch.manual_seed(0)
learned = Llama(Config(vocab_size=65, d_model=32, n_layers=2, n_heads=2, max_len=64), Parts(position=LearnedPositions))
for weight in learned.parameters():
    nn.init.normal_(weight, std=0.5)
rows = mask[:, None, None, :]  # (B, 1, 1, T), the shape that Llama wants
ways_to_pad = {"mask and positions": {"mask": rows, "positions": positions_of(mask)}, "no mask": {},
               "positions from the edge": {"mask": rows}}  # fmt: skip

# %%
with torch.no_grad():
    for name, one in {"RoPE": model, "learned positions": learned.eval()}.items():
        alone = [one(torch.tensor([tokenizer.encode(prompt)]))[0, -1].softmax(dim=-1) for prompt in people]
        for way, arguments in ways_to_pad.items():
            together = one(padded, **arguments)[:, -1].softmax(dim=-1)
            moved = (together - torch.stack(alone)).abs().amax(dim=-1)
            print(f"{name:<18} {way:<24} moved by", [f"{x:.2f}" for x in moved.tolist()])
            assert (moved.max() < 1e-3) == (way == "mask and positions" or (name, way[:4]) == ("RoPE", "posi"))

# %% [markdown]
# The longest prompt, the last one, never notices anything: it has no padding. Without a mask the short ones are read
# with 18 and 24 line feeds in front. And positions from the edge? With learned positions they spoil the answer; with
# RoPE they don't, because RoPE knows only *differences* of positions, and these are right. So whoever tests with RoPE
# only will not find the mistake. Count real tokens, and it is right for every model.
#
# ## A stop string
#
# Our model has no token for the end. But in these plays a speech ends with an empty line, which is the string "\\n\\n":
# two tokens for this model. For another tokenizer it may be one token, or a part of one. So it has to be looked for in
# the *text*. And there is a catch, if the text is shown while it comes. At the first line feed nobody can know whether
# a second one follows. If it is shown at once and the second one comes, it is too late: what is on the screen cannot be
# taken back.
#
# So: **hold back what may be the beginning of the stop string**, and nothing else. By hand, with the stop string *END*:
#
# | piece | shown | held back |
# |---|---|---|
# | "on" | "on" | |
# | "e E" | "e " | "E" |
# | "N" | | "EN" |
# | "GLISH" | "ENGLISH" | |
# | "xE" | "x" | "E" |
# | "ND. And" | | it has stopped |
#
# Had the text ended after "xE", then the "E" would still have to be shown.
#
# A trap: the stop string *aab* and the text *aaab*, character by character. After "aa" both are held back. The third a
# does not fit. Is it all to be thrown out, and one begins anew? No: the last two of the three may still begin an *aab*,
# and they do.
#
# **Exercise 11.10.** Write `add` and `end` of `UntilStop`; `__init__` is given. When the stop string has come, set
# `self.stopped` to True. `text.partition(stop)` cuts a text at the first place where stop stands, and gives the three
# parts *before*, *stop* and *after*; if it is nowhere, the last two are empty. `text.endswith("E")` and `stop[:n]`, its
# first n characters, may help.

# %% exercise: 11.10

# %% check: 11.10
UntilStop = check("11.10", UntilStop)

# %% [markdown]
# One speech, streamed: the text is printed while the model writes, and ends where the speech ends. (In a terminal you
# would see it coming, letter by letter.)

# %% varies
until = UntilStop("\n\n")
print("ROMEO:")
for new_token in stream(model, prompt, 240, temperature=0.8, generator=torch.Generator().manual_seed(3)):
    print(until.add(tokenizer.decode(new_token.tolist())), end="", flush=True)
    if until.stopped:
        break
print(until.end(), "\n(stopped)" if until.stopped else "\n(240 characters, no end)")

# %% [markdown]
# ## Characters in pieces
#
# With characters for tokens, each token can be shown when it comes. Real models have bytes for tokens, or pieces of
# several bytes (chapter 02). In UTF-8, é has two bytes and 中 has three. Such a character may come in two tokens, and
# the first one alone is no text.

# %%
from minillama.tokenizer import BytePairTokenizer, TextStream

byte_pairs = BytePairTokenizer.train(seen[:20_000], 300)
ids = byte_pairs.encode("the café 中")
one_by_one = [byte_pairs.decode([i]) for i in ids]
print(len(ids), "tokens, decoded one by one:", one_by_one)
print("joined:", repr("".join(one_by_one)), " all at once:", repr(byte_pairs.decode(ids)))
assert "".join(one_by_one).count("\ufffd") == 5

# %% [markdown]
# Five times � ("here was something that is no character"): two for the halves of é, three for the thirds of 中. You may
# have seen it in the answers of a chat program. The cure is the same as for the stop string: hold back what is not
# finished. `TextStream` does it, with Python's own decoder, which knows from the first byte of a character how many
# will follow.

# %%
pieces = TextStream(byte_pairs)
shown = [pieces.add(i) for i in ids]
print(shown, repr(pieces.end()))
assert "".join(shown) == "the café 中"

# %% show
show("tokenizer.TextStream")

# %% [markdown]
# In a chat program both stand in a row: tokens go into `TextStream`, what comes out goes into `UntilStop`, and what
# comes out of that goes to the screen. And if a text is cut off in the middle of a character, `end` gives a � for it:

# %%
pieces = TextStream(byte_pairs)
print([pieces.add(i) for i in ids[:-1]], repr(pieces.end()))

# %% [markdown]
# ## The package's version
#
# `generate.stream` is the loop. Compare it with yours: it has no `choose`, but the settings themselves; it lets go of
# old tokens when the text becomes too long for the model; and it knows masks.

# %% show
show("generate.stream")

# %% show
show("cache.KVCache")

# %% [markdown]
# ## What LLaMA 1, 2 and 3 do here
#
# | | LLaMA (2023) | Llama 2 (2023) | Llama 3 and 3.1 (2024) |
# |---|---|---|---|
# | key/value heads | as many as query heads | the same; 70B: 8 | 8 in all sizes |
# | cache per token, 16 bits | 7B: 512 KiB; 65B: 2,560 KiB | 7B: 512 KiB; 70B: 320 KiB | 8B: 128 KiB; 70B: 320 KiB |
# | longest text | 2,048 tokens | 4,096 | 8,192; 3.1: 131,072 |
# | end of a text | one token | one token | one for documents, one for turns of a dialogue; 3.1: one more, for tools |
# | settings that come with the chat model | no chat model | temperature 0.6, top-p 0.9 | temperature 0.6, top-p 0.9 |
# | code, one try | temperature 0.1 | temperature 0.1, top-p 0.95 | |
# | code, 80 or 100 tries, one must be right | temperature 0.8 | temperature 0.8, top-p 0.95 | |
#
# Sources: [LLaMA](https://arxiv.org/abs/2302.13971), table 2 and the section on code generation; [Llama
# 2](https://arxiv.org/abs/2307.09288), section 2.2 and the appendix; [The Llama 3 Herd of
# Models](https://arxiv.org/abs/2407.21783), section 3.2; the `config.json` and `generation_config.json` published with
# the models. The cache is worked out from the sizes, as above.
#
# Read the two lines on code again. Who has one try takes the likeliest, nearly greedily. Who has a hundred tries, of
# which a test picks the right one, wants them to differ. The Llama 2 paper found the same when it drew many answers to
# pick the best by a reward model (section 3.2.3): a higher temperature paid.
#
# ## Your parts, speaking
#
# A model of your own parts, as far as you have them, with the weights of the shipped one; your cache under it, your
# loop, your sampler and your stop.

# %% varies
yours = open_checkpoint(assets.shipped_model(), parts=my_parts(), other_parts=True).model.eval()
until, chosen = UntilStop("\n\n"), draw(7, temperature=0.8, top_p=0.95)
with torch.no_grad():
    cache, new, speech = Cache(yours.config.n_layers), prompt, ""
    while len(cache) < 200 and not until.stopped:
        new = chosen(yours(new, cache=cache)[:, -1])[:, None]
        speech += until.add(tokenizer.decode(new[0].tolist()))
print("\nROMEO:\n" + speech + until.end())
assert len(cache) > 6 and "\n\n" not in speech

# %% [markdown]
# ## What you have now
#
# - A model gives scores. What the text is like is decided by how you choose, as much as by the model.
# - Greedy goes in circles, free draws stumble in the tail. Temperature, top-k, top-p and min-p stand between them. The
#   order matters, and ties and edges are where the mistakes live.
# - The likeliest text is dull. Search for it where there is one right answer, and nowhere else.
# - A filter hides what a model can't do. The loss does not see it.
# - Keys and values of old tokens never change, so keep them. Test a cache with uneven pieces; token by token it is
#   right even if it is wrong.
# - In a batch: padding in front, a mask, and positions that count real tokens.
# - Hold back what is not finished, be it a character or a stop string.
#
# ## Further reading
#
# - *The Curious Case of Neural Text Degeneration*, Holtzman, Buys, Du, Forbes and Choi, 2019. Circles, the tail, and
#   top-p. Their figure of the surprise along a text is the model of ours.
# - *Hierarchical Neural Story Generation*, Fan, Lewis and Dauphin, 2018. Top-k.
# - *Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs*, Nguyen and others, 2024.
# - *CTRL: A Conditional Transformer Language Model for Controllable Generation*, Keskar, McCann, Varshney, Xiong and
#   Socher, 2019. The repetition penalty, section 4.1.
# - *Fast Transformer Decoding: One Write-Head is All You Need*, Shazeer, 2019. Why reading the cache takes the time.
# - *Efficient Memory Management for Large Language Model Serving with PagedAttention*, Kwon and others, 2023. A cache
#   for many texts at once that wastes no memory.
#
# Next, in chapter 12, the same text comes several times faster: where the time goes, smaller numbers, and guessing
# several tokens at once.
