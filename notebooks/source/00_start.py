# %% [markdown]
# # 00 · Start: the LLaMA that you will have written
#
# After this chapter you know what you will have built at the end, because you let it write; you know how the exercises
# of this course work and how to read what they tell you; and you can show in a few cells that LLaMA is *not* what many
# popular articles say it is.
#
# Reading takes about 20 minutes without the glossary, the four small exercises about 15. Nothing comes before this
# chapter. You need Python and school algebra.
#
# Run the cells in order, from top to bottom (Shift and Enter runs one).

# %%
import math
import random
import re

import torch
import torch.nn.functional as F

from minillama import assets
from minillama.block import Parts
from minillama.certify import certify
from minillama.chat import Chat
from minillama.checkpoints import load
from minillama.cli import main
from minillama.config import PRESETS, Config
from minillama.course import CheckFailed, check, hint, keep, my_parts, predicted

# %%
from minillama.generate import sample_text
from minillama.llama import Llama
from minillama.norm import LayerNorm, RMSNorm
from minillama.plots import start as plots
from minillama.position import Sinusoidal
from minillama.saving import open_checkpoint
from minillama.seq2seq import Seq2Seq

torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## It speaks
#
# In the folder `data/shakespeare-best` lies a small LLaMA. Somebody trained it on nine plays of Shakespeare, on the
# two cores of an ordinary processor, in 13 minutes. Give it a speaker's name, and it goes on:

# %% varies
shipped = open_checkpoint(assets.shipped_model())
model, tokenizer = shipped.model, shipped.tokenizer
print(sample_text(model, tokenizer, 300, seed=1, prompt="ROMEO:\n"))
n_numbers = sum(weight.numel() for weight in model.parameters())
print(f"\n--- written by {n_numbers:,} numbers")
assert 1_700_000 < n_numbers < 1_800_000

# %% [markdown]
# Change the seed, or the prompt, and run the cell again: another seed, another text. You will not find these verses in
# Shakespeare; the model made them up. It has learned how words are spelled, who answers whom, how long a line of verse
# is. It has not learned to mean anything.
#
# This model is a LLaMA in every part. Llama 3 with its 405 billion numbers is the same program with larger sizes. By
# the end of this course you have written each line of it, and in chapter 13 your program runs a model that other
# people have trained on trillions of words.
#
# ### One letter at a time
#
# How does it write? It reads a text, gives a **score** to each letter that could come next, and from the scores come
# probabilities. One letter is chosen, put at the end of the text, and everything begins again. There is nothing else.
#
# Take *A horse! a horse! my kingdom for a ho*. You would put all your money on `r`. The figure shows the model's eight
# best guesses.


# %%
def scores_after(text):
    tokens = torch.tensor([tokenizer.encode(text)])  # letters as numbers: chapter 01
    return model(tokens)[0, -1].detach()


text = "A horse! a horse! my kingdom for a ho"
best = scores_after(text).softmax(dim=-1).topk(8)  # softmax makes probabilities: chapters 01 and 03
guesses = dict(zip([tokenizer.decode([i]) for i in best.indices.tolist()], best.values.tolist(), strict=True))

# %% [markdown]
# Look at the first three: `r` is ahead by a hair; *hop* and *hol* seem nearly as good to it as *hor*. Do the two
# horses help at all? The line below the figure says what `r` gets with them and without them.

# %%
plots.next_characters("... " + text[-19:], guesses)
letters = tokenizer.decode(range(65))
alone = scores_after(text[-19:]).softmax(dim=-1)[letters.index("r")].item()
print(f"r with the horses: {guesses['r']:.0%}, without: {alone:.0%}")
assert 0.15 < guesses["r"] < 0.35 and guesses["p"] > 0.15 and alone < guesses["r"]

# %% [markdown]
# A little. Looking back is what attention is for (chapter 03), and a small model is not good at it.
#
# ### A larger one answers
#
# SmolLM2 is a LLaMA as well, with 135 million numbers, trained by other people on two trillion tokens, and then on
# conversations. It is not in the repository. `python -m minillama data smollm2` in a terminal fetches it, 93 MB;
# where it is on your machine already, the next cell asks it three questions. The program that runs it is the same as
# above, `minillama/llama.py`, 82 lines; only the numbers are others.

# %% varies
file = assets.data_dir() / assets.ASSETS["smollm2"].filename
questions = ["What is the capital of France?", "And of Japan?", "What is 7 times 8?"]
if file.exists():
    chat = Chat(load(file), max_tokens=30)
    for question in questions:
        print(f"you:     {question}\nSmolLM2: {chat.ask(question)}\n")
    assert type(chat.model) is type(model)  # both are Llama
else:
    print("SmolLM2 is not on this machine; go on without it, or: python -m minillama data smollm2")

# %% [markdown]
# When this page was made it knew both capitals. It took *And of Japan?* for what it was, a question about capitals,
# since the whole conversation is the text that it continues. And it told us that 7 times 8 is 64, as calmly as it had
# told us about Paris. It says what is likely to be said, and knows nothing of right and wrong. In chapter 13 it runs
# on the parts that you write.

# %% [markdown]
# ## The map
#
# The figure shows the whole model, from the text below to the next letter above, and which chapter builds which part.
# You do not have to understand the words yet. Look for the frame in the middle: what is inside of it is all that
# repeats, 4 times in the model above, 126 times in the largest LLaMA.

# %%
builds = {"tokenizer": "01 02", "embedding": "09", "norm": "07", "attention": "03 04", "feed-forward": "05"}
builds |= {"positions": "06", "block": "07", "scores": "09", "sampling": "11", "loss": "01", "training": "10"}
builds |= {"proof": "09", "speed": "12", "real checkpoints": "13", "encoder-decoder": "08"}
plots.map_of_the_course(builds, before="my kingdom for a ho", after="r")
assert {chapter for chapters in builds.values() for chapter in chapters.split()} == {f"{i:02}" for i in range(1, 14)}

# %% [markdown]
# | chapter | you build |
# |---|---|
# | 00 start | (this one) |
# | [01 text](01_text.ipynb) | letters as numbers, the loss, the simplest language model: counts of letter pairs |
# | [02 tokenizer](02_tokenizer.ipynb) | tokens that are pieces of words: byte pair encoding |
# | [03 attention](03_attention.ipynb) | a token looks at other tokens |
# | [04 heads](04_heads.ipynb) | many small attentions side by side |
# | [05 feedforward](05_feedforward.ipynb) | a token thinks for itself: ReLU, SwiGLU |
# | [06 position](06_position.ipynb) | who stands where: waves, and rotation |
# | [07 norm](07_norm.ipynb) | numbers that neither explode nor vanish; the block |
# | [08 seq2seq](08_seq2seq.ipynb) | the transformer of 2017, with an encoder; it translates |
# | [09 llama](09_llama.ipynb) | everything put together, and proven |
# | [10 train](10_train.ipynb) | how the numbers are found |
# | [11 generate](11_generate.ipynb) | how it writes, and what it need not compute again |
# | [12 fast](12_fast.ipynb) | fewer bits, more speed |
# | [13 checkpoints](13_checkpoints.ipynb) | a real model on your code |
#
# Chapters build on each other; each says at its top which one is enough to follow it.
#
# ## Your first exercise
#
# An exercise is a cell with a name, a docstring and the line `raise NotImplementedError("your turn")`. The docstring
# is the task. Replace that one line by your own code, run the cell, then run the check below it. This one is as easy
# as it looks.
#
# **Exercise 00.1.** Write `double`.

# %% exercise: 00.1

# %% check: 00.1
double = check("00.1", double)

# %% [markdown]
# You see one of three things:
#
# - `✓` and the points: right.
# - `○ not attempted`: the line `raise NotImplementedError` is still there. The check then lends you the course's own
#   version, so that the cells below run all the same. You can leave out any exercise.
# - `✗` and a message. Run All stops there.
#
# You should see a `✗` once before it is meant seriously. The next cell hands in a wrong answer. (`try` and `except`
# catch the message and print it, so that nothing stops. `seed=3` makes the check draw the same inputs each time;
# without it they are new in each run.)


# %%
def try_out(id, answer):
    try:
        check(id, answer, seed=3)
    except CheckFailed as failed:
        print(failed)


def squared(x):
    return x * x


try_out("00.1", squared)

# %% [markdown]
# Read it line by line: how many points; what was asked for; the call that went wrong; what came back, and what should
# have. After the arrow stands what you did, if the check knows your mistake. It knows because somebody wrote down the
# mistakes that people make, as programs, and yours gave exactly the same results as one of them. If it does not know,
# it says that, instead of guessing. The last line repeats the check with the same inputs.
#
# Change `x * x` in the cell above into `x + 2`, or into `print(2 * x)`, and run it again.
#
# Look at the points once more: 2 of 5. So `x * x` was right twice.
#
# **Predict.** Four wrong answers: `x + 2`, `x * x`, `2**x`, `x**x`. A check that only tries x = 2 lets how many of
# them through?

# %% predict: let_through
let_through = 4  # 0, 1, 2, 3 or 4

# %% reveal: let_through
wrong = {"x + 2": lambda x: x + 2, "x * x": lambda x: x * x, "2**x": lambda x: 2**x, "x**x": lambda x: x**x}
predicted(let_through, sum(answer(2) == 4 for answer in wrong.values()))
for name, answer in wrong.items():
    print(f"{name}   for x = 2: {answer(2)}   for x = 0: {answer(0)}   for x = 7: {answer(7):,}")

# %% [markdown]
# All four. x = 2 feels like a good test, and against these four it is worthless. Many bugs in language models are of
# this kind: on the inputs that somebody tried, the wrong version gives the right numbers, or the training looks fine.
# So a check in this course comes with several inputs, ugly ones among them. When you test your own code, do the same.
#
# Stuck? Three hints are folded below each check, the last one nearly the answer. In code you get them one by one:

# %%
hint("00.1")

# %% [markdown]
# ## The likeliest letter
#
# Now two small pieces that a model needs to write, and a third that counts. First: choose. The model has given scores,
# and the one with the highest score is wanted.
#
# **Exercise 00.2.** Write `likeliest`.

# %% exercise: 00.2

# %% check: 00.2
likeliest = check("00.2", likeliest)

# %% [markdown]
# If you were right at once, here is what others read. `max(scores.values())` gives the highest score, a number. The
# check looks at *what kind of thing* you gave back before it looks at its value, and stops there:


# %%
def highest(scores):
    return max(scores.values())


try_out("00.2", highest)

# %% [markdown]
# Later, when you give back tables of numbers, it goes on in this order: is it a table at all, has it the right sizes,
# is it of the right kind of number, is there a "not a number" in it; and only then, are the values right. Mend the
# first complaint first.
#
# ## A text that grows
#
# The second piece: put the chosen letter at the end of the text. Letters are numbers here, called **tokens**: the 65
# characters of Shakespeare have the numbers 0 to 64. A text is a list of tokens. And a model sees only so many of them
# at once; when there are more, the oldest drop out of its sight. That number is its **context window**. The model
# above has 256, LLaMA 1 has 2,048.
#
# **Exercise 00.3.** Write `with_next`. Remember: `a + b` of two lists is a new list, and `numbers[-3:]` are the last
# three.

# %% exercise: 00.3

# %% check: 00.3
with_next = check("00.3", with_next)

# %% [markdown]
# The answer that comes to mind first:


# %%
def appended(tokens, new, max_len):
    tokens.append(new)
    return tokens[-max_len:]


try_out("00.3", appended)

# %% [markdown]
# Every list that came back was right, and still there are no points. `append` changes the list that was handed in,
# which belongs to somebody else. In a model this is a bug that shows somewhere else, much later: the text that you
# kept for comparison has grown by itself. Checks compare all inputs before and after.
#
# ### Your two pieces write
#
# Here is the whole loop of writing. `choose` picks a token by the scores, `with_next` puts it at the end.


# %%
def write(choose, n=600, max_len=64):
    tokens, written = tokenizer.encode("ROMEO:\n"), []
    for _ in range(n):
        scores = model(torch.tensor([tokens]))[0, -1].tolist()
        new = choose(dict(enumerate(scores)))  # {0: score of token 0, 1: score of token 1, ...}
        tokens = with_next(tokens, new, max_len)
        written.append(new)
    return tokenizer.decode(written)


def different_words(text, n=100):
    return len(set(re.findall("[a-z]+", text.lower())[:n]))


# %% [markdown]
# There are two ways to choose. One is to draw by lot, likely letters more often than others. That is how the text at
# the top of this chapter was made, with a little more caution. (`math.exp` makes weights of scores; chapter 01 says
# why.) How many of the first 100 words that it writes in this way are different ones?


# %% varies
def by_lot(scores):
    return random.choices(list(scores), weights=[math.exp(score) for score in scores.values()])[0]


random.seed(1)
drawn = write(by_lot)
print("different words:", different_words(drawn))
assert different_words(drawn) > 60

# %% [markdown]
# About 80 in most runs; the others are repetitions, of *the* and *and* mostly. The other way to choose is yours,
# `likeliest`: always take the best.
#
# **Predict.** How many of the first 100 words are different ones then?

# %% predict: different
different = 33  # 80, 55 or 33

# %% reveal: different
likely = write(likeliest)
predicted(different, different_words(likely), within=1.1)

# %% [markdown]
# A third, from the same model. Here is the text:

# %%
print(likely)
earlier = likely.find(likely[-64:])
print(f"--- the last 64 letters stood there before, from letter {earlier} on")
assert different_words(likely) < 45 and 0 < earlier < 600 - 64

# %% [markdown]
# The sea of the sea. The likeliest letter is the safe one each time, and safe letters make the text of somebody who
# dares to say nothing. And look at the end. The last 64 letters stood there before, and the model sees no more than
# that, so it must go on as it did then, and come back here again, forever. So one has to draw; how to draw well is
# chapter 11.

# %% [markdown]
# ## How many numbers?
#
# The model that was trained in 13 minutes has 1.8 million numbers, and you hear of models with "7B", seven billion.
# Those are the numbers that training moves. They are called **parameters** or **weights**, and they come in named
# tables. A few of our model's:

# %%
shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
for name in list(shapes)[:9]:
    print(f"{name:36} {shapes[name]}")

# %% [markdown]
# Behind each name stand the sizes of the table, its **shape**. `(65, 192)` is a table (a **matrix**) of 65 rows with
# 192 numbers each; `(192,)` is a single row (a **vector**) of 192 numbers.
#
# **Exercise 00.4.** Write `count_numbers`. `math.prod` multiplies all numbers of a tuple, if you want it.

# %% exercise: 00.4

# %% check: 00.4
count_numbers = check("00.4", count_numbers)

# %% [markdown]
# Again what others read. Whoever expects two sizes everywhere gets stopped by Python, and the check says what Python
# said, and in which line:


# %%
def for_matrices(shapes):
    total = 0
    for sizes in shapes.values():
        total += sizes[0] * sizes[1]
    return total


try_out("00.4", for_matrices)

# %% [markdown]
# Now count for real. `torch.device("meta")` builds a model without its numbers, only names and shapes; so even one
# with 65 billion fits on your machine.


# %%
def shapes_of(name):
    with torch.device("meta"):
        return {weight: tuple(w.shape) for weight, w in Llama(PRESETS[name]).named_parameters()}


for name in ("llama-1-7b", "llama-1-13b", "llama-1-33b", "llama-1-65b"):
    print(f"{name:11} {count_numbers(shapes_of(name)):>14,}")
print(f"{'ours':11} {count_numbers(shapes):>14,}")

# %% [markdown]
# Table 2 of the LLaMA paper says 6.7B, 13.0B, 32.5B and 65.2B. That is what you counted (the last one they cut where
# you would round). Nobody gave you those numbers; they follow from the sizes. The first argument for a program is that
# it agrees with somebody who did not see it.
#
# Where are they all? The figure cuts each model into attention, feed-forward, and the two tables where tokens come in
# and scores go out. It is called a transformer, and people talk about attention, but look which part is the largest.


# %%
def by_part(shapes):
    parts = {"attention": {}, "feed-forward": {}, "tokens in, scores out": {}}
    for name, shape in shapes.items():
        part = "attention" if ".attention." in name else "feed-forward" if ".feedforward." in name else None
        part = "tokens in, scores out" if name.startswith(("embed_tokens", "lm_head")) else part
        if part:  # the norms are left out: less than one number in a thousand
            parts[part][name] = shape
    return {part: count_numbers(weights) for part, weights in parts.items()}


presets = {"LLaMA 1 7B": "llama-1-7b", "Llama 2 70B": "llama-2-70b", "Llama 3 8B": "llama-3-8b"}
models = {"ours": by_part(shapes)} | {name: by_part(shapes_of(preset)) for name, preset in presets.items()}

# %% [markdown]
# About two thirds, or more, are in the feed-forward parts, which chapter 05 builds. In Llama 3 8B the tables of tokens
# take an eighth: its vocabulary has four times as many entries as before.

# %%
plots.where_the_numbers_are(models)
for parts in models.values():
    assert parts["feed-forward"] > 0.6 * sum(parts.values())

# %% [markdown]
# ## What is kept
#
# A right answer is written as text into the folder `my_parts` of the repository (or the one that the variable
# `MINILLAMA_PARTS` names). It is yours, and you can read it. Your points are there too, in `progress.txt`; in a
# terminal, `python -m minillama progress` shows the whole course. Here is this chapter's part of it:

# %% varies
print(keep.progress().split("\n\n")[0])
print("\nA LLaMA made of my parts:")
mine = Llama(PRESETS["tiny"], my_parts())

# %% [markdown]
# `✓` is passed, `✗` tried (the wrong answers above were counted as tries, if you had no right one yet), `○` open. The
# five lines below are the five parts of a LLaMA. `my_parts()` puts yours in wherever you have one, and the course's
# own for the rest. At the beginning all five are the course's; after chapters 03 to 07 all five can be yours. Run the
# cell again then.
#
# Three rules make this work:
#
# - Everything that an answer needs stands in its own cell, helper functions too.
# - What the docstring asks for is what is checked. How you do it is up to you: loops are as good as formulas.
# - Nothing you can do breaks the course. Edit cells, rerun them, delete `my_parts` to begin anew.
#
# Some chapters train small models, for minutes. On a slow machine set the variable `MINILLAMA_FAST=1` before you start
# Jupyter: the trainings get shorter, and some results rougher.
#
# ### Is everything there?
#
# `doctor` looks at your machine. If something is missing it says what for, and how to get it. You need no graphics
# card.

# %% varies
assert main(["doctor"]) == 0

# %% [markdown]
# ## What articles get wrong
#
# Search for "LLaMA architecture explained", and you find articles that draw an encoder and a decoder, ReLU, LayerNorm
# after each sub-layer, and waves added to the embeddings. That is a good picture of the transformer that was published
# in 2017. LLaMA came six years later, and shares with it the idea of attention and few of the details. Do not trust
# this table more than you trust those articles: each line says where it is shown, here and in which chapter.
#
# | | often read | what is so | shown here | chapter |
# |---|---|---|---|---|
# | 1 | LLaMA is an encoder-decoder model | one stack of blocks, no encoder | by name, by effect | 08, 09 |
# | 2 | it reads the text in both directions | no token sees a later one | by effect | 03 |
# | 3 | the text is packed into one vector of fixed length | one vector per token, all the way | by shape | 08 |
# | 4 | its feed-forward layers use ReLU | SwiGLU: SiLU, and a product | by name, by number | 05 |
# | 5 | ... and are 4 times as wide as the model | 2.7 times in the 7B | by number | 05 |
# | 6 | it uses LayerNorm | RMSNorm: no mean is subtracted, no bias | by name, by effect | 07 |
# | 7 | ... after each sub-layer | before each sub-layer | in the map | 07 |
# | 8 | waves are added to the embeddings | nothing is added; queries and keys are turned | by effect | 06 |
# | 9 | its layers have biases | none has | by name | 09 |
# | 10 | all LLaMAs share keys among heads (GQA) | not LLaMA 1, not Llama 2 7B and 13B | by number | 04 |
# | 11 | it always says what is likeliest | it can; then it talks of the sea | measured above | 11 |
# | 12 | the loss goes down, so the code is right | a loss can fall *because* of a bug | not here | 03, 07, 08, 09 |
#
# ### By name
#
# Print a model and PyTorch lists its parts:

# %%
print(Llama(PRESETS["tiny"]))

# %% [markdown]
# One way through, from `embed_tokens` to `lm_head`, and a block that repeats (three times in this tiny one). Beside it
# the package has the model of 2017, built in chapter 08 from the same kind of parts. Count some words in both lists:

# %%
torch.manual_seed(0)
config = Config(vocab_size=65, d_model=64, n_layers=2, n_heads=2, d_ff=256)
ancestor = Seq2Seq(config).eval()  # random numbers, untrained
print("                 LLaMA  2017")
for word in ("encoder", "cross_attention", "LayerNorm", "ReLU", "Sinusoidal", "bias=True"):
    counts = [str(llama).count(word) for llama in (Llama(PRESETS["tiny"]), ancestor)]
    print(f"{word:16} {counts[0]:5} {counts[1]:5}")
    assert counts[0] == 0 < counts[1]

# %% [markdown]
# ### By effect
#
# A name proves little: anybody can call anything anything. Look at what the models do. The text is *To be, or not to
# be*, 19 letters. Change the last `e` into a `y`, and see at how many of the 18 places *before* it the scores change.
#
# In the LLaMA, line 2 of the table says, it must be none. The encoder-decoder gets the text on both sides, as articles
# draw it. Its decoder, which gives the scores, is built like the LLaMA in this respect: no place may look at a later
# letter.
#
# **Predict.** At how many of the 18 earlier places do the *encoder-decoder's* scores change?

# %% predict: moved_places
moved_places = 18  # 0, 1 or 18


# %% reveal: moved_places
def movement(scores, others):  # the largest change at each place, in standard deviations of the scores
    return ((scores - others).abs().amax(dim=-1)[0] / scores.std()).tolist()


before, after = (torch.tensor([tokenizer.encode("To be, or not to b" + last)]) for last in "ey")
with torch.no_grad():
    moved = {"LLaMA": movement(model(before), model(after))}
    moved["Encoder-decoder"] = movement(ancestor(before, before), ancestor(after, after))
predicted(moved_places, sum(move > 1e-4 for move in moved["Encoder-decoder"][:18]))

# %% [markdown]
# All of them. The decoder itself does not look ahead. But the encoder reads the whole text, the last letter included,
# and the decoder asks the encoder at every place. The figure shows both models; in the upper half, the zeros are
# measured.

# %%
plots.who_notices("To be, or not to be", moved)
assert max(moved["LLaMA"][:18]) < 1e-4 < 0.01 < min(moved["Encoder-decoder"])

# %% [markdown]
# For *translation* that is right: the sentence to be translated is there, all of it, and may be read in both
# directions. But a language model is asked at each place for the next letter, and this one has read it already. Train
# it that way, and its loss falls to almost nothing, because it copies. Then let it write, where no next letter is
# there to be copied, and it writes noise. Chapter 08 does exactly this, and takes the encoder away again. What is left
# is LLaMA.
#
# Such bugs are why the package has `certify`. It takes any model, changes what must not matter, and looks whether
# anything moves:

# %%
certificate = certify(model)
for verdict in certificate.verdicts[:5]:
    print(f"{verdict.property:24} {verdict.status:8} {verdict.found}")
assert certificate.passed

# %% [markdown]
# ### By shape and by number
#
# Lines 3, 4, 5 and 10 of the table. A vector of fixed length for a whole text was what *recurrent* networks had,
# before 2017, and it was their trouble. Here three letters give three rows of scores, thirty give thirty. SiLU is `z`
# times a number between 0 and 1, and unlike ReLU it lets something negative through.

# %%
for n in (3, 30):
    print(f"{n:2} letters in, scores of shape {tuple(model(torch.zeros(1, n, dtype=torch.int64)).shape)} out")
z = torch.tensor([-1.0])
print(f"ReLU(-1) = {F.relu(z).item():.2f}, SiLU(-1) = {F.silu(z).item():.2f}")
for name in ("llama-1-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b"):
    size = PRESETS[name]
    wider = size.d_ff / size.d_model
    print(f"{name:11}  width times {wider:.2f}   {size.n_heads} heads share {size.n_kv_heads} sets of keys and values")

# %% [markdown]
# Line 6: take four numbers, and add 100 to each. LayerNorm subtracts their mean first, so it can't notice. RMSNorm
# does not, and does notice. Line 8: tell the model that the text stands 21 places further on. If positions were added
# to the embeddings, all scores would move. They stay, because LLaMA's attention only knows how far two tokens are
# *apart*. Beside it the same LLaMA with waves added, untrained.

# %%
x = torch.tensor([[[1.0, 3.0, -2.0, 0.0]]])
for norm in (LayerNorm(4), RMSNorm(4)):
    print(f"{type(norm).__name__:10}", *(norm(x + more)[0, 0].detach() for more in (0, 100)))
torch.manual_seed(0)
waves = Llama(model.config, Parts(position=Sinusoidal)).eval()
with torch.no_grad():
    for name, llama in (("LLaMA", model), ("with waves", waves)):
        shifted = llama(before, positions=torch.arange(21, 21 + 19))
        print(f"{name:10} scores move by {max(movement(llama(before), shifted)):.2f} standard deviations")

# %% [markdown]
# What is *right* in such articles? That tokens look at other tokens, that many heads do it side by side, that what a
# block says is added to what was there. All this was so in 2017 and is so now.
#
# ## What LLaMA 1, 2 and 3 are
#
# | | ours | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3 (2024) |
# |---|---|---|---|---|
# | kind | decoder only | decoder only | decoder only | decoder only |
# | parameters | 1.8 million | 7, 13, 33, 65 billion | 7, 13, 70 billion | 8, 70, 405 billion |
# | blocks | 4 | 32, 40, 60, 80 | 32, 40, 80 | 32, 80, 126 |
# | numbers per token | 192 | 4096, 5120, 6656, 8192 | 4096, 5120, 8192 | 4096, 8192, 16384 |
# | vocabulary | 65 letters | 32,000 pieces | 32,000 pieces | 128,256 pieces |
# | context window | 256 | 2,048 | 4,096 | 8,192 (3.1: 131,072) |
# | feed-forward | SwiGLU | SwiGLU | SwiGLU | SwiGLU |
# | norm | RMSNorm, before | RMSNorm, before | RMSNorm, before | RMSNorm, before |
# | positions | RoPE | RoPE | RoPE | RoPE, base 500,000 |
# | heads share keys | no | no | in the 70B | yes |
# | tokens read in training | 14 million | 1.0 or 1.4 trillion | 2.0 trillion | about 15 trillion |
#
# Sources: Touvron and others 2023, arXiv:2302.13971, section 2; Touvron and others 2023, arXiv:2307.09288, section 2;
# Llama Team 2024, arXiv:2407.21783, section 3. 405B came with Llama 3.1. Ours: `data/shakespeare-best`.

# %%
sizes = {"ours": model.config} | {name: PRESETS[name] for name in ("llama-1-65b", "llama-2-70b", "llama-3.1-405b")}
print("model            blocks  numbers per token  heads  keys shared by  vocabulary   window")
for name, size in sizes.items():
    shared = size.n_heads // size.n_kv_heads
    print(f"{name:16} {size.n_layers:6} {size.d_model:18,} {size.n_heads:6} {shared:15} {size.vocab_size:11,} ", end="")
    print(f"{size.max_len:8,}")

# %% [markdown]
# Read the first table by rows: from left to right the number of parameters grows 200,000 times, and the words hardly
# change. That is why one can learn the whole of it on a small machine.
#
# ## The words
#
# Where a term is built is the last column; a term with two chapters comes back. No need to learn them now: each is
# explained where it comes up. The Chinese terms are those of textbooks and documentation; where two are in use, both
# are given. 中文术语以教科书与文档的通行译法为准。
#
# ### Text and tokens
#
# | English | 中文 | in short | chapter |
# |---|---|---|---|
# | token | 词元 (标记) | piece of text that has a number | 01, 02 |
# | tokenizer | 分词器 | text to tokens and back | 01, 02 |
# | vocabulary | 词表 | all tokens there are | 01 |
# | corpus | 语料库 | the text that is learned from | 01 |
# | language model | 语言模型 | gives the next token a probability | 01 |
# | large language model (LLM) | 大语言模型 | the same, with billions of parameters | 09, 13 |
# | bigram | 二元语法 | two tokens side by side | 01 |
# | byte pair encoding (BPE) | 字节对编码 | makes tokens of frequent pairs | 02 |
# | context window | 上下文窗口 | as many tokens as a model sees | 00, 01 |
# | prompt | 提示 (提示词) | the text that is to be continued | 00 |
# | batch | 批次 (批量) | several texts at a time | 01 |
#
# ### The model
#
# | English | 中文 | in short | chapter |
# |---|---|---|---|
# | tensor | 张量 | numbers in a grid | 01 |
# | broadcasting | 广播 | small tensors are repeated to fit | 01 |
# | parameter, weight | 参数, 权重 | a number that training moves | 00, 01 |
# | embedding | 嵌入 | the vector of a token | 09 |
# | logits | logits (未归一化分数) | scores, before softmax | 01 |
# | softmax | softmax (归一化指数函数) | makes probabilities of scores | 01, 03 |
# | attention | 注意力 | an average with chosen weights | 03 |
# | self-attention | 自注意力 | tokens look at their own text | 03 |
# | cross-attention | 交叉注意力 | tokens look at another text | 03, 08 |
# | query, key, value | 查询, 键, 值 | what is sought, found by, given | 03 |
# | causal mask | 因果掩码 | hides later tokens | 03 |
# | multi-head attention | 多头注意力 | several attentions side by side | 04 |
# | grouped-query attention (GQA) | 分组查询注意力 | heads that share keys and values | 04 |
# | feed-forward network | 前馈网络 | each token thinks for itself | 05 |
# | activation function | 激活函数 | ReLU, GELU, SiLU | 05 |
# | position encoding | 位置编码 | says where a token stands | 06 |
# | rotary position embedding (RoPE) | 旋转位置编码 | turns queries and keys | 06 |
# | layer normalization | 层归一化 (层规范化) | mean 0, size 1 for each token | 07 |
# | RMS normalization | 均方根归一化 | size 1 only | 07 |
# | residual connection | 残差连接 | adds to what was there | 07 |
# | pre-norm | 前置归一化 | norm before the sub-layer | 07 |
# | transformer | Transformer (通常不译) | attention and feed-forward, stacked | 07, 08 |
# | encoder | 编码器 | reads in both directions | 08 |
# | decoder | 解码器 | writes from left to right | 08 |
# | decoder-only | 仅解码器 | no encoder: LLaMA | 09 |
#
# ### Training
#
# | English | 中文 | in short | chapter |
# |---|---|---|---|
# | loss | 损失 | how surprised the model is | 01 |
# | cross-entropy | 交叉熵 | the loss of language models | 01 |
# | perplexity | 困惑度 | e to the power of the loss | 01 |
# | training set, validation set | 训练集, 验证集 | text to learn from, text to test on | 01 |
# | overfitting | 过拟合 | learned by heart, not understood | 01, 10 |
# | gradient | 梯度 | the slopes of the loss | 01, 07 |
# | backpropagation | 反向传播 | finds all slopes at once | 07 |
# | optimizer | 优化器 | moves the weights | 10 |
# | learning rate | 学习率 | how far they move | 10 |
# | warm-up | 学习率预热 | begin with small steps | 07, 10 |
# | weight decay | 权重衰减 | pull weights towards 0 | 10 |
# | gradient clipping | 梯度裁剪 | shorten slopes that are too long | 10 |
# | teacher forcing | 教师强制 (强制教学) | learn on the right beginning | 08 |
# | pre-training | 预训练 | the first, long training | 10 |
# | fine-tuning | 微调 | a short one for a purpose | 13 |
# | checkpoint | 检查点 | a trained model as files | 13 |
#
# ### Writing, and speed
#
# | English | 中文 | in short | chapter |
# |---|---|---|---|
# | autoregressive | 自回归 | each token from those before | 00, 11 |
# | greedy decoding | 贪心解码 | always the likeliest | 00, 11 |
# | sampling | 采样 | draw by lot | 01, 11 |
# | temperature | 温度 | how daring | 11 |
# | beam search | 束搜索 | several beginnings at a time | 08 |
# | KV cache | 键值缓存 | don't compute keys, values twice | 04, 11 |
# | quantization | 量化 | fewer bits for each number | 12 |
# | speculative decoding | 推测解码 | a small model guesses ahead | 12 |

# %% [markdown]
# ## Further reading
#
# - *Attention Is All You Need*. Ashish Vaswani and others, 2017. The transformer that the articles describe.
# - *LLaMA: Open and Efficient Foundation Language Models*. Hugo Touvron and others, 2023. Section 2.2 is half a page
#   long, and names what was changed.
# - *Llama 2: Open Foundation and Fine-Tuned Chat Models*. Hugo Touvron and others, 2023.
# - *The Llama 3 Herd of Models*. Llama Team, AI @ Meta, 2024.
# - *The Unreasonable Effectiveness of Recurrent Neural Networks*. Andrej Karpathy, 2015. Shakespeare, letter by
#   letter, before there were transformers; our text comes from there.
# - *The Curious Case of Neural Text Degeneration*. Ari Holtzman and others, 2020. Why the likeliest text goes in
#   circles.
#
# **Next:** chapter 01 turns text into numbers and builds the smallest language model there is.
