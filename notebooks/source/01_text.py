# %% [markdown]
# # 01 · Text: guessing the next character
#
# After this chapter you can turn a text into numbers and back, build a language model out of nothing but counting, let
# it write, and say in bits how good it is. You will also know two traps that make a bad model look wonderful, and the
# way out of each. Plan two hours, half of them for the eight exercises. Chapter 00 is enough to follow it; you need
# Python and school algebra, and tensors are explained where they come up.
#
# **How the exercises work.** An exercise cell holds a name and a docstring, and the docstring is the task: replace the
# line `raise NotImplementedError` by your own, run the cell, then run the check below it. The check calls what you
# wrote on fresh random inputs and, where something is wrong, says what it is. If you leave an exercise out, the cells
# after it use the package's version, so nothing breaks; three hints are folded below each check.

# %%
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor

from minillama import assets, data, train
from minillama.config import PRESETS
from minillama.course import FAST, check, predicted, show
from minillama.data import check_length  # the solution of exercise 01.7 uses it
from minillama.plots import text as plots

# %% [markdown]
# ## A text is a row of numbers
#
# This is all that the models of this course will know of the world for a while: nine plays of Shakespeare. The first
# call fetches the file, which may take some seconds, and checks it byte for byte; later calls read it from `data/`.

# %%
text = assets.corpus(report=lambda line: None)
print(f"{len(text):,} characters\n")
print(text[:148])

# %% [markdown]
# A model calculates, so these characters have to become numbers. Which characters are there?

# %%
characters = sorted(set(text))
print(len(characters), "different ones:", repr("".join(characters)))
print("some rare ones:", {character: text.count(character) for character in "$&3Xq"})

# %% [markdown]
# There are 65. The first one, `\n`, is the end of a line; then the space, some punctuation, one digit, capitals, small
# letters. (The `$` occurs once. It is a typing error in the file.) So each character can have a number from 0 to 64.
#
# `set` keeps each character once, and `sorted` puts them in order. Is the sorting needed? We start Python four times
# and ask for the same set of four letters.

# %% varies
orders = []
for seed in "1234":
    program = [sys.executable, "-c", "print(list(set('hello')))"]
    done = subprocess.run(program, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True)
    orders.append(done.stdout.strip())
print("\n".join(orders))
assert len(set(orders)) > 1

# %% [markdown]
# The same program on the same text, and other orders: a set has none, and Python mixes it anew each time it starts.
# (We chose the mixing with a seed, so that you can see it; without one it is random.) If these places were the numbers
# of the letters, the model that you train today would speak gibberish tomorrow, because the numbers inside it would
# stand for other letters. There would be no error message. So: sort.
#
# By hand, for a text that is only "hello": the characters in order are e, h, l, o; their numbers are 0, 1, 2, 3. The
# word "hole" is then 1, 3, 2, 0, and the numbers 1, 0, 2, 2, 3 read "hello".
#
# One trap is waiting on the way back. Which letter is number -1?

# %%
letters = ["e", "h", "l", "o"]
print(letters[-1])

# %% [markdown]
# None should be, but Python counts -1 from the end of a list and gives the last letter. A wrong number would come back
# as text, in silence.
#
# **Exercise 01.1.** Write `CharacterTokenizer`. Its methods are a few lines each; the check also calls it with
# characters and numbers that it can't know.

# %% exercise: 01.1

# %% check: 01.1
CharacterTokenizer = check("01.1", CharacterTokenizer)

# %%
tokenizer = CharacterTokenizer(text)
print(tokenizer.encode("To be"), tokenizer.decode([32, 53, 1, 40, 43]))

# %% [markdown]
# Now the words for what you have. The numbers are **tokens**; each is the **id** of an entry in a list of everything
# that can occur, the **vocabulary**; what translates in both directions is a **tokenizer**. V is the size of the
# vocabulary, here 65. In chapter 02 tokens become pieces of words, and V becomes thousands; the rest of this chapter
# stays as it is.
#
# The package's version, which later chapters use, does the same and more. It is made from the characters, not from the
# text (`CharTokenizer.train(text)` collects them); it says which character it did not know, and where; and it can be
# written into a file beside the model (`to_dict`), because a model without its tokenizer is a heap of numbers.

# %% show
show("tokenizer.CharTokenizer")

# %% [markdown]
# ### Tensors
#
# A list of a million Python numbers is slow to calculate with. PyTorch keeps numbers in **tensors**: grids in which
# all numbers have one type. The sizes of the grid are its **shape**.

# %%
tokens = torch.tensor(tokenizer.encode(text))
print("shape", tuple(tokens.shape), " type", tokens.dtype)
print(tokens[:14])
print(repr(tokenizer.decode(tokens[:14].tolist())))

# %% [markdown]
# This grid has a single axis, with 1,115,394 places; `(1115394,)` is how Python writes one number with nothing beside
# it. The type is int64, whole numbers of 64 bits. Slices work as in lists: `tokens[:14]` is the first fourteen.
# `.tolist()` makes ordinary Python numbers again, and `.item()` does that for a single one.
#
# Before any model, a look at the material. The figure shows how often each character occurs: every sixth or seventh
# character is a space, and the right half of the figure is nearly empty. If you had to guess the next character and
# could not look at the text, you would say "space" each time.

# %%
shares = {character: n / len(text) for character, n in Counter(text).items()}
plots.character_shares(shares)
assert max(shares, key=shares.get) == " " and 1 / 7 < shares[" "] < 1 / 6

# %% [markdown]
# ## One tenth goes into a drawer
#
# At the end we want to know how good a model is on text that it has *not* seen. An exam whose questions were read out
# in the lessons measures memory. So before anything is counted, the last tenth of the text goes into a drawer. Nine
# tenths are for **training**, the part in the drawer is for **validation**. Further down you will see what happens to
# people who do this later, or with scissors.
#
# By hand: of ten tokens 0, 1, ..., 9, with a share of 0.2 for validation, 0 to 7 are for training, 8 and 9 for
# validation. One cut, nothing lost, nothing in both, the order kept. (Where the share is no whole number of tokens,
# round as you like.) A share of 0 or 1 would leave one part empty, so it is refused with a `ValueError`.
#
# In docstrings from here on, `(N,) -> (M,), (N - M,)` are shapes: in goes a tensor with one axis of N numbers, out
# come two tensors, with M and N - M numbers. The "windows" in this docstring are short pieces of the text; we come to
# them.
#
# **Exercise 01.2.** Write `split`.

# %% exercise: 01.2

# %% check: 01.2
split = check("01.2", split)

# %%
training, validation = split(tokens)
print(f"{len(training):,} tokens for training, {len(validation):,} for validation")
print("the drawer begins with", repr(tokenizer.decode(validation[:60].tolist())))

# %% [markdown]
# ## Guess what comes next
#
# *A horse! a horse! my kingdom for a ho*
#
# You do not know what comes next, but you would bet on `r`. You would not bet on `z`. If somebody made you, you could
# spread 100 coins over all 65 characters, many on `r`, some on `u` (house? hour?), none or one on most.
#
# Whoever can do that is a **language model**: a text goes in, and for each token of the vocabulary a probability comes
# out, for being the next one. Probabilities are not negative and sum to 1. That is the whole definition, and LLaMA
# with 405 billion parameters fits it as well. Everything it writes, it writes one such guess at a time.
#
# The smallest model worth the name looks at one character only, the last one, and remembers what usually comes after
# it. How it learns that you can do with a pencil. Take "to be or not to be", and collect the pairs of neighbours:

# %%
pairs = Counter(pairwise("to be or not to be"))
print({first + second: n for (first, second), n in pairs.items() if first == "o"})

# %% [markdown]
# After `o` came a space twice, `r` once, `t` once: four times in all. So, in this text, after `o` the probability of a
# space is 2/4, of `r` 1/4, of `t` 1/4, and of everything else 0. A pair of neighbours is called a **bigram**, and that
# was a bigram model.
#
# Written as a table: one row for each first character, one column for each second one, and in each place how often
# that pair occurred. Such a tensor has two axes:

# %%
table = torch.zeros(3, 3, dtype=torch.int64)  # three characters: 0, 1, 2
table[0, 2] = 5  # five times, 2 came after 0
table[0, 1] += 1
print(table)
print("shape", tuple(table.shape), " row 0:", table[0], " one place:", table[0, 2].item())

# %% [markdown]
# `table[0, 2]` is one place: first the row, then the column. `table[0]` is a whole row.
#
# **Exercise 01.3.** Write `count_bigrams`. The check uses a handful of tokens; in the next cell yours gets a million.
# A loop that adds 1 to a tensor, place by place, is right and needs a few seconds for that.

# %% exercise: 01.3

# %% check: 01.3
count_bigrams = check("01.3", count_bigrams)

# %%
counts = count_bigrams(training, tokenizer.vocab_size)
q, u = tokenizer.encode("qu")
print(f"{counts.sum().item():,} pairs; 'q' came {counts[q].sum().item()} times, 'qu' {counts[q, u].item()} times")

# %% [markdown]
# In a million characters, nothing but `u` ever came after `q`.
#
# **Predict.** The table has 65 · 65 = 4,225 places. Which share of them is still zero after a million pairs?

# %% predict: never_seen
never_seen = 0.67  # 0.05, 0.30 or 0.67

# %% reveal: never_seen
predicted(never_seen, round((counts == 0).float().mean().item(), 2), within=1.15)

# %% [markdown]
# Two thirds of all pairs never occurred. (`counts == 0` is a table of True and False; `.float()` makes 1 and 0 of
# them, and the mean of those is the share of True.) Is a pair that never occurred impossible? The drawer knows:

# %%
firsts, seconds = validation[:-1], validation[1:]
new = counts[firsts, seconds] == 0
print(f"{new.sum().item()} of {len(new):,} pairs in the drawer never occurred in training, such as")
examples = zip(firsts[new][:6].tolist(), seconds[new][:6].tolist(), strict=True)
print([tokenizer.decode(pair) for pair in examples])

# %% [markdown]
# That cell did two new things. `counts[firsts, seconds]`, with a tensor of rows and a tensor of columns, looks up one
# place for each pair: 111,539 look-ups without a loop. And `firsts[new]`, with a tensor of True and False, keeps the
# places that are True.
#
# So "never seen" is not "impossible". A model that gives probability 0 to something that then happens has said
# "never", and was wrong 187 times. The oldest remedy: pretend that each pair was seen once more than it was. Nobody
# gets 0, and what was seen often hardly changes. By hand, for two characters:
#
# | counts | one more each | sum of the row | probabilities |
# |---|---|---|---|
# | 0, 2 | 1, 3 | 4 | 0.25, 0.75 |
# | 1, 1 | 2, 2 | 4 | 0.50, 0.50 |
#
# It is called **add-one smoothing**. Add more than one and the probabilities become flatter, add less and they stay
# closer to what was seen.
#
# Now something that is easily got wrong. We divide a table by the sums of its rows, in two ways:

# %%
table = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
print("sums of the rows:", table.sum(dim=-1), tuple(table.sum(dim=-1).shape))
print(table / table.sum(dim=-1))
print(table / table.sum(dim=-1, keepdim=True))

# %% [markdown]
# The sums are 4 and 10 (`dim=-1`: add up along the last axis, which is along the row). The first division is wrong:
# its first row is 1/4 and 3/10, so the *column* of 3 and 5 was divided by 10. The second is right, 1/4 and 3/4.
#
# How does torch divide a (2, 2) table by 2 numbers? It compares the shapes from the right. An axis that is missing, or
# has size 1, is repeated until the sizes agree; that is **broadcasting**. The sums alone have shape (2,), which is a
# *row* of two numbers: it is repeated downwards, and meets the columns. With `keepdim=True` the shape is (2, 1), which
# is a *column*: it is repeated to the right, and each row meets its own sum. Both run without an error. In the wrong
# one, the rows do not sum to 1.
#
# **Exercise 01.4.** Write `bigram_probabilities`.

# %% exercise: 01.4

# %% check: 01.4
bigram_probabilities = check("01.4", bigram_probabilities)

# %% [markdown]
# The figure is your model, all of it, for the small letters, the space and the end of a line. Read it by rows: `q`
# calls for `u`, `v` and `z` for `e`; `d`, `y` and `e` end words; after a line's end, often, another one.

# %%
probabilities = bigram_probabilities(counts)
chosen = "\n abcdefghijklmnopqrstuvwxyz"
ids = torch.tensor(tokenizer.encode(chosen))
plots.bigram_table(probabilities[ids][:, ids], chosen)  # of these 28, the rows, and of the rows the columns
assert torch.allclose(probabilities.sum(dim=-1), torch.ones(65))
assert probabilities[q].argmax() == u and probabilities[q, u] > 0.85

# %% [markdown]
# ## Let it write
#
# A model that guesses can write: take the row of the last character, draw the next one from it, go on from there. To
# draw means: a wheel of fortune with 65 sectors, each as wide as its probability. `torch.multinomial` is that wheel.
# (A generator with a seed makes it stop at the same places each time.)


# %%
def write(table, n, seed=0, start="\n"):
    generator = torch.Generator().manual_seed(seed)
    written = tokenizer.encode(start)
    for _ in range(n):
        drawn = torch.multinomial(table[written[-1]], num_samples=1, generator=generator)
        written.append(drawn.item())
    return tokenizer.decode(written)


# %% [markdown]
# To compare, two tables that know less. In one all 65 characters are equally likely. In the other each character has
# its share of the text, whatever comes before: every row is the same.

# %% varies
nothing = torch.full((65, 65), 1 / 65)
frequencies = (counts.sum(dim=0) / counts.sum()).repeat(65, 1)
for name, table in {"nothing": nothing, "frequencies": frequencies, "bigrams": probabilities}.items():
    print(f"--- {name}:{write(table, 130)}\n")

# %% [markdown]
# The third one has words of the right length, vowels in the right places, a colon after something that looks like a
# name. It knows nothing of words, only which character follows which.
#
# **Predict.** Of the words that it writes, which share are real ones, that occur somewhere in Shakespeare?

# %% predict: real_words
real_words = 0.3  # 0.03, 0.3 or 0.9


# %%
known_words = set(re.findall("[a-z]+", text.lower()))


def share_of_words(written):
    words = re.findall("[a-z]+", written.lower())
    return sum(word in known_words for word in words) / len(words)


# %% reveal: real_words
predicted(real_words, round(share_of_words(write(probabilities, 10_000)), 1), within=1.5)
for name, table in {"nothing": nothing, "frequencies": frequencies}.items():
    print(f"{name}: {share_of_words(write(table, 10_000)):.1f}")

# %% [markdown]
# Nearly a third, more than most people see in it: *he*, *to*, *I*, *my* are easily hit. But look at the comparison. A
# wheel that knows only frequencies hits a fifth, and even the one that knows nothing a tenth. Counting words is a poor
# way of saying how good a model is; we need a better one.
#
# Before that, a question that everybody asks: why draw at all? Why not always take the likeliest character?

# %%
for start in ("T", "A", "q"):
    written = tokenizer.encode(start)
    for _ in range(30):
        written.append(probabilities[written[-1]].argmax().item())
    print(repr(tokenizer.decode(written)))

# %% [markdown]
# Because then it goes in circles. After `t` the likeliest is `h`, then `e`, then a space, then `t`. Large models fall
# into such loops as well (Holtzman and others measured it, see the end of this chapter); chapter 11 is about drawing
# well.

# %% [markdown]
# ## How surprised was it?
#
# A better way: show the model a true text, and look up the probability that it gave to each character that then came.
# A good model gave high ones. All of them multiplied are the probability of the whole text. Let us multiply.

# %%
product, x = 1.0, tokens[:1001].tolist()
for i, (first, second) in enumerate(pairwise(x), 1):
    product *= probabilities[first, second].item()
    if i in (1, 10, 100, 250, 500, 1000):
        print(f"after {i:4} characters: {product:.0e}")

# %% [markdown]
# After 500 characters the product is 0. Not because the text is impossible: the numbers of a computer end near 10⁻³²⁴,
# and whatever is smaller becomes 0. Logarithms help. The logarithm of a product is the sum of the logarithms, ln(a ·
# b) = ln a + ln b, and sums do not vanish. Since the logarithm of a probability is negative (or 0), we change the
# sign:
#
# > **surprise** of something that had probability p = -ln p
#
# The figure shows it. What was certain, p = 1, surprises nobody: 0. Each time p halves, 0.693 is added. A character
# that was one of 65 equally likely ones costs ln 65 = 4.174. And toward p = 0 there is no limit: who said "never" pays
# infinitely.

# %%
plots.surprise_curve({"one of 65": 1 / 65, "one of 10": 1 / 10, "heads or tails": 1 / 2, "certain": 1.0})
assert round(math.log(65), 3) == 4.174 and round(math.log(2), 3) == 0.693

# %% [markdown]
# The unit is the **nat** (natural logarithm). Two other units say the same thing:
#
# - in **bits**, the logarithm to base 2: how many yes-or-no questions it takes to find out. One of eight doors: is it
#   among the left four? Among the left two of those? Is it the left one? Three questions, 3 bits. One bit is ln 2 =
#   0.693 nats.
# - as **perplexity**, e to the power of the mean surprise: as unsure as among that many equally likely characters.

# %%
print("probability   nats   bits   perplexity")
for name, p in {"1": 1, "1/2": 1 / 2, "1/8": 1 / 8, "1/65": 1 / 65}.items():
    nats = abs(math.log(p))
    bits = train.bits_per_character(total_nats=nats, n_characters=1)
    print(f"{name:>11} {nats:6.3f} {bits:6.3f} {train.perplexity(total_nats=nats, n_tokens=1):12.1f}")

# %% [markdown]
# So 4.174 nats, 6.022 bits and a perplexity of 65 are three names for knowing nothing about our 65 characters. Any
# model has to be better than that, and training that begins far above it has begun with a fault. Remember 4.174.
#
# The score of a model is its mean surprise over a text. The next figure shows the summands for a line that is in none
# of our nine plays. Each bar is the surprise at one character. Short bars: the `u` after `q`, the space after a comma.
# Hatched bars, higher than knowing nothing: a colon after `e`, and the `q`, which hardly ever begins a word.

# %%
line = "To be, or not to be: that is the question"
seen = torch.tensor(tokenizer.encode("\n" + line))
nats = -probabilities[seen[:-1], seen[1:]].log()
plots.surprise_along(line, nats.tolist(), nothing=math.log(65))
assert line not in text and nats.argmax() == line.index("q") and nats.argmin() == line.index("q") + 1

# %% [markdown]
# Now all three models, on the text that was counted and on the text in the drawer.


# %%
def score(table, tokens):
    """Mean surprise in nats per character."""
    return -table[tokens[:-1], tokens[1:]].log().mean().item()


scores = {"knowing nothing": nothing, "frequencies": frequencies, "bigrams": probabilities}
print(f"{'':<16} training  validation   bits  perplexity (both of validation)")
for name, table in scores.items():
    nats = score(table, validation)
    bits, among = train.bits_per_character(nats, 1), train.perplexity(nats, 1)
    print(f"{name:<16} {score(table, training):8.3f} {nats:11.3f} {bits:6.2f} {among:11.1f}")

# %% [markdown]
# One look back is worth 0.87 nats: from being unsure among 28 characters down to 12. Both parts score alike, so what
# was counted holds for text that was not counted. A page of samples would not have told you that.
#
# And without the smoothing? One argument of your function turns it off.

# %%
print(f"training   {score(bigram_probabilities(counts, extra=0.0), training):.3f}")
print(f"validation {score(bigram_probabilities(counts, extra=0.0), validation):.3f}")

# %% [markdown]
# On the training text it is as good as before. In the drawer there are 187 pairs that had probability 0, and one is
# enough for infinity.
#
# ### A mean of means
#
# Long texts do not fit into memory at once and are scored in **batches**, some tokens at a time. The last batch is
# what is left over, and mostly smaller. Suppose batch one has 3 tokens with a mean of 1 nat, and batch two 1 token
# with 5 nats. How surprised was the model per token?
#
# There were 3 · 1 + 1 · 5 = 8 nats for 4 tokens, which makes 2 nats per token and a perplexity of e² = 7.39. The mean
# of the two means is 3, with a perplexity of 20.1: there the lonely token of batch two weighs as much as three others.
# (In 2024 the same mistake was found in the training code of a widely used library, where batches counted alike
# however many tokens they had.)
#
# **Exercise 01.5.** Write `perplexity_of_batches`.

# %% exercise: 01.5

# %% check: 01.5
perplexity_of_batches = check("01.5", perplexity_of_batches)

# %% [markdown]
# The package's version takes the two totals, so that nobody can hand it means:

# %% show
show("train.perplexity")

# %% [markdown]
# ## Look back further
#
# One character is little to go by. Why not the last two, or eight? The counting stays the same: for each context of n
# characters, what came next. A grid will not do (65⁸ = 3 · 10¹⁴ rows), but a `Counter` keeps only what occurs.
# `pieces` counts contexts together with their next character, `contexts` the contexts alone.


# %%
def count_contexts(texts, n):
    pieces, contexts = Counter(), Counter()
    for part in texts:
        pieces.update(part[i : i + n + 1] for i in range(len(part) - n))
    for piece, n_times in pieces.items():
        contexts[piece[:-1]] += n_times
    return pieces, contexts


def bits_of(tested, pieces, contexts, extra=0.01):
    total = 0.0
    for piece, n_times in tested.items():
        p = (pieces[piece] + extra) / (contexts[piece[:-1]] + 65 * extra)
        total -= n_times * math.log2(p)
    return total / tested.total()


# %% [markdown]
# (The smoothing adds 0.01 and no longer 1: a context that was seen three times would drown in 65 extra counts.)
#
# **Predict.** The bigrams need 3.58 bits per character in the drawer (3.59 with the new smoothing). How many bits does
# the table need that looks at the last *eight* characters?

# %% predict: eight_back
eight_back = 4.5  # 1.0, 2.5 or 4.5

# %% reveal: eight_back
train_text, validation_text = text[: len(training)], text[len(training) :]
lengths, bits = (0, 1, 2, 3, 4, 6, 8), {"training": [], "validation": []}
for n in lengths:
    pieces, contexts = count_contexts([train_text], n)
    unseen_pieces, _ = count_contexts([validation_text], n)
    bits["training"].append(bits_of(pieces, pieces, contexts))
    bits["validation"].append(bits_of(unseen_pieces, pieces, contexts))
    print(f"{n} back: {len(contexts):8,} contexts, {bits['training'][-1]:.2f} and {bits['validation'][-1]:.2f} bits")
predicted(eight_back, round(bits["validation"][-1], 1), within=1.1)

# %% [markdown]
# On the training text, the further back the better: less than one bit. In the drawer four characters are best, and
# eight are worse than one. The figure shows how the two part. What went wrong at eight? Look at how many contexts of
# the drawer the table has ever seen.

# %%
known = [validation_text[i : i + 8] in contexts for i in range(len(validation_text) - 8)]
plots.bits_by_context(lengths, bits["training"], bits["validation"], nothing=math.log2(65))
print(f"{sum(known) / len(known):.0%} of the contexts in the drawer were seen in training")
assert min(bits["validation"]) == bits["validation"][4] and bits["validation"][-1] > bits["validation"][1]

# %% [markdown]
# Half. At the other places the table stands before eight characters that it has never seen together, and knows
# nothing, not even that `e` is more frequent than `z`. It has learned the plays by heart, and not how they are made.
# To be good on what one has seen and bad on what one has not is called **overfitting**; the gap between the two curves
# is its measure.
#
# This is where tables end. "The king is" and "The queen is" have different rows, so what one of them taught is lost
# for the other. A network that finds out what contexts have in common is what the rest of this course builds.
#
# ### The trap with the scissors
#
# The table with eight characters looks bad because we were honest. Here is a way of not being honest that is found
# again and again in real code: cut the text into windows first, *then* shuffle them, and put a tenth of the windows
# into the drawer. Our windows are 64 characters long, and one begins every 32 characters.

# %%
windows = [text[start : start + 64] for start in range(0, len(text) - 64, 32)]
random.Random(0).shuffle(windows)
n_validation = len(windows) // 10
drawer, rest = windows[:n_validation], windows[n_validation:]
print(f"{len(rest):,} windows for training, {len(drawer):,} in the drawer")

# %% [markdown]
# **Predict.** The same table, eight characters back, 4.5 bits in an honest drawer. And in this one?

# %% predict: in_this_drawer
in_this_drawer = 1.8  # 4.5, 3.0 or 1.8

# %% reveal: in_this_drawer
for n, honest in ((1, bits["validation"][1]), (8, bits["validation"][-1])):
    leaking = bits_of(count_contexts(drawer, n)[0], *count_contexts(rest, n))
    print(f"{n} back: {leaking:.2f} bits with the scissors, {honest:.2f} honestly")
halves = {half for window in rest for half in (window[:32], window[32:])}
overlapping = sum(window[:32] in halves or window[32:] in halves for window in drawer) / len(drawer)
print(f"{overlapping:.0%} of the windows in the drawer share half their text with a training window")
predicted(in_this_drawer, round(leaking, 1), within=1.1)

# %% [markdown]
# The worst of our tables has become the best model of the chapter. It seems to be better than the LLaMA that you train
# in chapter 10, which needs 2.08 bits. It has learned nothing new: nearly every window of the drawer shares half its
# text with a window that was counted, and a table that knows the plays by heart recites that half. The bigrams gain
# next to nothing, because they can't recite. So the trap rewards exactly those models that memorize best, and large
# networks memorize a lot. Three rules:
#
# 1. Cut first, make windows afterwards, each part by itself.
# 2. Where the order has a meaning, the validation part is one piece, and the last.
# 3. A score that is much better than expected is an alarm, not a success.

# %% [markdown]
# ## Windows
#
# A network is not trained on a million characters at once, but on short pieces: **windows**. For each token of a
# window it has to guess the next one. So a window comes with its **targets**, the same piece of text, one token later.
# Seven tokens, windows of three:

# %%
small = torch.arange(10, 17)
x, y = small[0:3], small[1:4]
print("text", small.tolist(), " window", x.tolist(), " targets", y.tolist())
for i in range(3):
    print(f"seen {x[: i + 1].tolist()}, to guess: {y[i].item()}")

# %% [markdown]
# One window of three tokens holds three questions. And nobody had to write the answers: each token of the text is the
# answer to the question before it. (Our bigrams look at the last token only. From chapter 03 on, models use all of
# what is printed as "seen".)
#
# Where may a window start? Let us try places that are too far on, or before the beginning.

# %%
for start in (3, 4, 5, -1):
    x, y = small[start : start + 3], small[start + 1 : start + 4]
    print(f"start {start:2}: window {x.tolist()}, targets {y.tolist()}")

# %% [markdown]
# Python does not complain about any of them. From start 4 on a target is missing, then a token as well; start -1,
# which for Python is the last place, gives an empty window and targets from the beginning of the text. The figure
# shows which windows fit. The last box of the last row holds a question mark: the window with start 4 fits, its last
# target does not.

# %%
plots.windows("to be o", length=3, starts=[0, 1, 3, 4])
assert len("to be o"[4:7]) == 3 and len("to be o"[5:8]) == 2

# %% [markdown]
# **Exercise 01.6.** Write `legal_starts`: all places where a window may start. It is one line, and the line that most
# people get wrong by one.

# %% exercise: 01.6

# %% check: 01.6
legal_starts = check("01.6", legal_starts)

# %% [markdown]
# **Exercise 01.7.** Write `window`, and let it refuse what Python's slices do not: a `ValueError` for every `start`
# that is not legal, also for negative ones. T in the docstring is `length`. (The package's version calls
# `check_length` first, a helper that refuses a text too short for a single window and says how long it would have to
# be. You need not.)

# %% exercise: 01.7

# %% check: 01.7
window = check("01.7", window)

# %%
x, y = window(training, 0, 24)
print(repr(tokenizer.decode(x.tolist())), "->", repr(tokenizer.decode(y.tolist())))
print(f"{len(legal_starts(len(training), 64)):,} windows of 64 tokens can be cut from the training text")

# %% [markdown]
# Several windows that are trained on together are a **batch**: stacked, they make a tensor of shape (B, T), B windows
# of T tokens. Drawing legal starts at random would do. The package is more thorough: it lays windows side by side from
# a random start and shuffles them, so that every token comes once before any comes twice.

# %% show
show("data.Batches")

# %% varies
batches = data.Batches(training, batch_size=3, length=20, seed=0)
x, y = batches(step=0)
print("shape", tuple(x.shape))
for row_x, row_y in zip(x, y, strict=True):
    print(repr(tokenizer.decode(row_x.tolist())), "->", repr(tokenizer.decode(row_y.tolist())))
assert torch.equal(x[:, 1:], y[:, :-1])

# %% [markdown]
# ## The same table, learned
#
# Counting found the table in a moment. But what would one count to find the billion numbers in a network? They are
# found in another way: begin with knowing nothing, be shown windows, and be corrected a little by each surprise. We do
# this with the bigram table first, because here we know where it has to arrive.
#
# ### Scores instead of probabilities
#
# What is corrected must stay a probability: positive, with sum 1. That is hard to keep to. So the model gives
# **scores**, any numbers at all, which are made into probabilities afterwards: e to the power of each (now all are
# positive), divided by the sum. By hand, for the scores 2, 1 and 0: e² = 7.389, e¹ = 2.718, e⁰ = 1, together 11.107,
# so 0.665, 0.245 and 0.090.

# %%
scores = torch.tensor([2.0, 1.0, 0.0])
print("e to the power of each:", scores.exp())
print("divided by the sum:    ", scores.exp() / scores.exp().sum())
print("softmax:               ", scores.softmax(dim=-1))
print("log_softmax:           ", scores.log_softmax(dim=-1))

# %% [markdown]
# The recipe is called **softmax**, and scores that are meant for it are called **logits**. One score more by 1 makes
# its character e = 2.718 times likelier compared with the others; the same number added to all scores changes nothing.
#
# The last line is the logarithm of the line before it, what we need for the surprise: with true token 1, the surprise
# is 1.408 nats. Look closer: it is each score minus 2.408, and 2.408 is ln 11.107. Why does torch have a function of
# its own for that?

# %%
scores = torch.tensor([1000.0, 0.0])
print(scores.exp(), scores.exp() / scores.exp().sum())
print(scores.softmax(dim=-1).log(), scores.log_softmax(dim=-1))

# %% [markdown]
# Because e¹⁰⁰⁰ is too large for a computer's number: infinity, and infinity divided by infinity is nan, "not a
# number". `softmax` avoids that (chapter 03 shows how), but gives exactly 0 for the second character, and the
# logarithm of 0 is minus infinity. `log_softmax` never goes through the probability and gets it right: -1000.
#
# ### The loss
#
# A batch of scores has shape (B, T, V): B windows, T places in each, V scores at each place. A table gives them by
# looking up, at each place, the row of its token: `table[x]` with x of shape (B, T) has shape (B, T, V). With two
# places and three characters, the surprise is found like this:

# %%
logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])  # two places, three scores each
targets = torch.tensor([1, 2])  # what really came
log_probs = logits.log_softmax(dim=-1)
print(log_probs)
print("of the true ones:", log_probs[torch.arange(2), targets], " mean surprise:", -log_probs[[0, 1], targets].mean())

# %% [markdown]
# `torch.arange(2)` is 0, 1: from row 0 it takes column 1, from row 1 column 2. The second place knows nothing about
# three characters, and pays ln 3 = 1.099.
#
# One thing more. Texts that are shorter than the others in a batch are filled up, and where the filling is there is
# nothing to guess. Such targets are marked with a number that is no token, -100 by an old convention of PyTorch, and
# must not count: not among the nats, and not among the tokens by which the nats are divided. You know how to keep only
# some places:

# %%
targets = torch.tensor([[1, 2, -100], [0, -100, -100]])
is_token = targets != -100
print(is_token)
print(targets[is_token], torch.zeros(2, 3, 5)[is_token].shape)

# %% [markdown]
# The three places that count, of both texts, one after the other; and of logits with shape (2, 3, 5) their three rows.
#
# **Exercise 01.8.** Write `next_token_loss`. No loop over the places: below it gets 4,096 of them at a time. And no
# `.item()` or `.tolist()` on the way: torch has to remember how the loss came out of the logits, because the next
# section asks it for the way back. Leave `torch.nn.functional.cross_entropy`, which does it all, in its box for today.
# `-> ()` is the shape of a single number that is still a tensor.

# %% exercise: 01.8

# %% check: 01.8
next_token_loss = check("01.8", next_token_loss)

# %% [markdown]
# The package's version is PyTorch's, in one call. `flatten` puts all places of all windows in one long row first.

# %% show
show("train.next_token_loss")

# %% [markdown]
# ### Downhill
#
# How is a score corrected? Raise it a little and see what the loss does. The loss per raise is the **slope** of the
# loss, for this score. Three scores, true token 1:


# %%
def loss_of(scores):
    return next_token_loss(scores.view(1, 1, 3), torch.tensor([[1]]))  # one window, one place, three scores


scores = torch.tensor([2.0, 1.0, 0.0])
for i in range(3):
    raised = scores.clone()
    raised[i] += 0.01
    print(f"score {i} raised by 0.01: slope {(loss_of(raised) - loss_of(scores)).item() / 0.01:+.2f}")

# %% [markdown]
# Score 0 and score 2 make it worse when raised (positive slope), score 1, the true one, makes it better. Compare with
# the probabilities: 0.665, 0.245, 0.090. The slope is the probability itself, and for the true token the probability
# minus 1. Each surprise says by how much every score was wrong.
#
# Torch finds the slopes of all scores at once, exactly, without raising anything. `requires_grad=True` asks it to
# watch, `backward()` works out the slopes, `.grad` holds them (the whole list of slopes is called the **gradient**).
# Then each score takes a step *against* its slope:

# %%
scores = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
loss = loss_of(scores)
loss.backward()
print("slopes:       ", scores.grad)
print("probabilities:", scores.detach().softmax(dim=-1), "and for token 1 that minus 1")
with torch.no_grad():
    scores -= 0.5 * scores.grad  # half the slope, downhill
print(f"surprise before {loss.item():.3f}, after {loss_of(scores).item():.3f}")

# %% [markdown]
# That is all there is to training: look, be surprised, step downhill, again. (`torch.no_grad()`: the step itself is
# not to be watched. `.detach()`: the same numbers, unwatched.)
#
# ### With the last character, and without
#
# Now two tables of scores learn, both from zeros, which is knowing nothing. One looks up the row of the last
# character. The other uses row 0 whatever came before, and can learn frequencies at best. The rest is the same. `rate`
# says how far a step goes; too small is slow, too large jumps over the goal, and 40 and 10 were found by trying.

# %%
batches = data.Batches(training, batch_size=64, length=64, seed=0)


def learn(rows_of, steps, rate):
    table, losses = torch.zeros(65, 65, requires_grad=True), []
    for step in range(steps):
        x, y = batches(step)
        loss = next_token_loss(table[rows_of(x)], y)
        loss.backward()
        with torch.no_grad():
            table -= rate * table.grad
        table.grad = None  # or the next slopes are added to these
        losses.append(loss.item())
    return table.detach().softmax(dim=-1), losses


# %% varies
steps = 200 if FAST else 2000
learned, bigram_losses = learn(lambda x: x, steps, rate=40)
blind, blind_losses = learn(lambda x: 0 * x, steps, rate=10)  # row 0 every time: it gets all slopes, so smaller steps
learned_frequencies = blind[0].repeat(65, 1)
print(f"first loss {bigram_losses[0]:.3f}; after {steps} steps, in the drawer:")
print(f"looks back {score(learned, validation):.3f}, counted {score(probabilities, validation):.3f}")
print(f"is blind   {score(learned_frequencies, validation):.3f}, counted {score(frequencies, validation):.3f}")
assert abs(bigram_losses[0] - math.log(65)) < 1e-4
assert score(learned, validation) < 2.6 < 3.3 < score(learned_frequencies, validation) < 3.4

# %% [markdown]
# The first loss is 4.174, as it has to be. The figure shows both ways down; thin dotted lines are what counting found.
# The blind table is at its line after a few dozen steps and stays there: no training in the world gets it lower,
# because what it does not look at it can't know. The other one goes on to where the bigrams are.

# %%
plots.learning_curves(
    {"looks back": bigram_losses, "blind": blind_losses},
    {"looks back": score(probabilities, training), "blind": score(frequencies, training)},
)
assert sum(blind_losses[-50:]) / 50 - sum(bigram_losses[-50:]) / 50 > 0.6

# %% [markdown]
# The table that nobody counted has found the same thing, with one difference. The counted one keeps a tenth of the row
# of `q` for the 64 characters that never came, because we told it to add one to each. Nobody told the learning table:
# it gives `u` nearly everything, and the longer it learns the more.

# %% varies
print("            counted  learned")
for first, second in ("th", "he", "e ", "qu"):
    a, b = tokenizer.encode(first + second)
    print(f"{first!r} -> {second!r}: {probabilities[a, b]:8.3f} {learned[a, b]:8.3f}")
print("it writes:", repr(write(learned, 80)))
a, b = tokenizer.encode("th")
assert abs(learned[a, b] - probabilities[a, b]) < 0.05

# %% [markdown]
# ### The trap with the targets
#
# The last trap of this chapter is the most expensive one. Somebody forgets to shift the targets: the model is asked
# for the token that it sees. We train the same table with that mistake, and look at its loss.

# %% varies
table = torch.zeros(65, 65, requires_grad=True)
for step in range(200):
    x, y = batches(step)
    loss = next_token_loss(table[x], x)  # y is forgotten
    loss.backward()
    with torch.no_grad():
        table -= 40 * table.grad
    table.grad = None
parrot = table.detach().softmax(dim=-1)
print(f"loss in training {loss.item():.3f}; honestly scored in the drawer {score(parrot, validation):.3f}")
print("it writes:", repr(write(parrot, 40, start="t")))
assert loss.item() < 0.05 and score(parrot, validation) > math.log(65)

# %% [markdown]
# The best loss of the chapter, and the worst model: it repeats what it sees, and is worse than knowing nothing.
# Whoever watches only the loss sees a triumph. No loss says what it is a loss *of*; an honest score in the drawer
# does. (Answers can also get in through the model, when it looks at tokens that are still to come. In chapter 09 you
# meet `certify`, which finds that in seconds.) Until then, remember rule 3.

# %% [markdown]
# ## Where we stand
#
# The figure puts all of them on one scale, in the drawer, in bits per character. The last bar is a LLaMA of 1.8
# million parameters that the recipe `shakespeare-best` of this package made from the same nine tenths of the text; its
# score is in its file `training.json`, and `python -m minillama evaluate data/shakespeare-best` measures it again.

# %%
board = {
    "knowing nothing": math.log2(65),
    "frequencies": train.bits_per_character(score(frequencies, validation), 1),
    "bigrams, learned": train.bits_per_character(score(learned, validation), 1),
    "bigrams, counted": train.bits_per_character(score(probabilities, validation), 1),
    "4 characters, counted": bits["validation"][4],
    "a LLaMA, chapter 10": train.bits_per_character(1.444, 1),
}
plots.scoreboard(board)
assert board["a LLaMA, chapter 10"] < board["4 characters, counted"] < board["bigrams, counted"]

# %% [markdown]
# The step from 2.55 to 2.08 looks small, and is what the chapters up to 10 are about. (People? Claude Shannon let some
# of them guess letters, and in 1951 estimated between 0.6 and 1.3 bits per letter, for English written with 26 letters
# and the space. So the scale does not end at 2.)

# %% [markdown]
# ## What LLaMA 1, 2 and 3 do here
#
# The same thing: text, tokens, windows, targets shifted by one, the mean surprise, downhill. The sizes are what
# differs.
#
# | | this chapter | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 (2024) |
# |---|---|---|---|---|
# | tokens trained on | 1.0 million | 1.0 or 1.4 trillion | 2.0 trillion | about 15 trillion |
# | vocabulary V | 65 | 32,000 | 32,000 | 128,256 |
# | knowing nothing, ln V | 4.174 | 10.373 | 10.373 | 11.762 |
# | window T, tokens | 64 | 2,048 | 4,096 | 8,192 |
# | tokens per step, B · T | 4,096 | 4 million | 4 million | 4, 8, 16 million (405B) |
# | loss | next token | next token | next token | next token |
#
# - Tokens: of LLaMA 1, the models with 7 and 13 billion parameters saw 1.0 trillion, those with 33 and 65 billion 1.4
#   trillion. The batches of Llama 3's largest model grew during training.
# - Where they come from: LLaMA 1 lists it, 82 % web pages, 4.5 % each of code, Wikipedia and books, 2.5 % scientific
#   papers, 2 % Stack Exchange. Llama 2 says "publicly available sources" and no more. Llama 3: about 50 % general
#   knowledge, 25 % mathematics and reasoning, 17 % code, 8 % other languages than English.
#
# Sources: Touvron and others 2023, arXiv:2302.13971 (sections 2.1 and 2.2); Touvron and others 2023, arXiv:2307.09288
# (section 2); Llama Team 2024, arXiv:2407.21783 (section 3). Trillion is 10¹². The sizes are in the package too:

# %%
for name in ("tiny", "llama-1-7b", "llama-2-7b", "llama-3-8b"):
    config = PRESETS[name]
    print(f"{name:<11} V = {config.vocab_size:7,}   ln V = {math.log(config.vocab_size):6.3f}   T = {config.max_len:,}")

# %% [markdown]
# Nats per token can't be compared across these columns: a token of Llama 3 is a larger piece of text than one of LLaMA
# 1 (3.94 characters of English on average against 3.17 in Llama 2's vocabulary, says the paper), so it is harder to
# guess and there are fewer of them. Bits per *character* can be compared: divide all nats of a text by all its
# characters, and by ln 2.
#
# And the drawer? With fifteen trillion tokens from the web, nobody can be sure that the exam was not in the lessons.
# The papers of Llama 2 and 3 measure how much of their tests occurred in the training text, and call it
# **contamination**. It is the trap with the scissors, on a larger scale.

# %% [markdown]
# ## Further reading
#
# - Claude E. Shannon: *A Mathematical Theory of Communication* (1948). Surprise, bits, and on a few pages what you did
#   today: English from frequencies, then from pairs, by hand.
# - Claude E. Shannon: *Prediction and Entropy of Printed English* (1951). People guess the next letter.
# - Frederick Jelinek, Robert Mercer, Lalit Bahl, James Baker: *Perplexity: a measure of the difficulty of speech
#   recognition tasks* (1977). Where the word comes from.
# - Stanley Chen, Joshua Goodman: *An Empirical Study of Smoothing Techniques for Language Modeling* (1999). What is
#   better than adding one.
# - Yoshua Bengio, Réjean Ducharme, Pascal Vincent, Christian Jauvin: *A Neural Probabilistic Language Model* (2003).
#   From tables to networks, and why.
# - Ari Holtzman, Jan Buys, Li Du, Maxwell Forbes, Yejin Choi: *The Curious Case of Neural Text Degeneration* (2020).
#   Why the likeliest text goes in circles.
# - Hugo Touvron and others: *LLaMA: Open and Efficient Foundation Language Models* (2023). Section 2 can be read now.
#
# **Next:** chapter 02 makes tokens of whole pieces of words, so that a window of 64 tokens reaches further back.
