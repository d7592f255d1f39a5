# %% [markdown]
# # 12 · Fast: where the time goes, and how to spend less of it
#
# After this chapter you can say, before you run a model, about how many tokens per second it can write on your machine
# and what stands in its way; compute attention without ever having the table of scores; store a weight in 8 or 4 bits
# and measure what that costs; and let a model check guesses instead of writing word by word, with a proof that the text
# is drawn from the same probabilities as before.
#
# Reading takes about 110 minutes, the ten exercises about as long again; [Fewer bytes per
# number](#Fewer-bytes-per-number) is a good place for a break. Chapter 09 is enough to follow it, if you take one thing
# from chapter 11: a model that writes keeps the keys and values of old tokens in a cache, so that each step reads one
# new token. From chapter 03 you need softmax and its largest score.
#
# Two cores and no graphics card are enough. Wherever the text says that something is faster, the cell below it runs
# both, taking turns, on *your* machine. Your numbers will differ from those that are printed here.

# %%
import copy
import math
import os
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.attention import attend, causal_mask
from minillama.cache import KVCache
from minillama.config import PRESETS, Config
from minillama.course import FAST, check, hint, my_parts, predicted, show
from minillama.plots import fast as plots
from minillama.quantize import GROUP_SIZE, quantize

torch.set_printoptions(precision=4, sci_mode=False)

# %%
from minillama import assets, checkpoints, devices
from minillama.data import Batches, split
from minillama.info import costs
from minillama.llama import Llama
from minillama.saving import open_checkpoint
from minillama.train import evaluate, next_token_loss

os.environ["KINETO_LOG_LEVEL"] = "99"  # torch's profiler would report to the terminal
shipped = open_checkpoint(assets.shipped_model())
tokenizer, text = shipped.tokenizer, assets.corpus()
train_tokens, validation_tokens = split(torch.tensor(tokenizer.encode(text)))

# %% [markdown]
# The model for most of this chapter is the shipped one: four blocks, 1.8 million numbers, trained on Shakespeare's
# characters. It gets your own parts, as far as you have them.

# %% varies
parts = my_parts()
model = Llama(shipped.model.config, parts)
model.load_state_dict(shipped.model.state_dict())
model.eval()
print(f"\n{model.n_parameters:,} numbers")

# %% [markdown]
# ## Reading is quick, writing is slow
#
# A text of 200 characters goes through the model. If it is there already, as a prompt, all of it goes through at once.
# If the model writes it, each character has to be known before the next can be asked for: 200 calls, one character
# each. With a cache, both ways multiply each token with the same weights and give the same scores.


# %%
@torch.no_grad()
def one_by_one(model, tokens):
    """-> the logits of each token, (B, T, V), from T calls with one token each"""
    cache = KVCache(model.config.n_layers)
    return torch.cat([model(tokens[:, i : i + 1], cache=cache) for i in range(tokens.size(1))], dim=1)


@torch.no_grad()
def at_once(model, tokens):
    return model(tokens)


tokens = validation_tokens[None, :200]
print(f"logits differ by at most {(one_by_one(model, tokens) - at_once(model, tokens)).abs().max():.3f}")
assert torch.allclose(one_by_one(model, tokens), at_once(model, tokens), atol=1e-2)

# %% [markdown]
# How long does each take? A computer does other things besides, so a single measurement says little. We let both run in
# turns, a few rounds, and take the shortest time of each: other programs can only make it longer.


# %%
def taking_turns(sides, rounds=5):
    """Run functions in turns. -> {name: its shortest time, in seconds}"""
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in seconds.items()}


# %% varies
ways = {"at once": partial(at_once, model, tokens), "one by one": partial(one_by_one, model, tokens)}
seconds = taking_turns(ways, rounds=3)
for name, t in seconds.items():
    print(f"{name:<10} {1e6 * t / 200:>6.0f} microseconds per character")
print(f"one by one takes {seconds['one by one'] / seconds['at once']:.0f} times as long")

# %% [markdown]
# The same products, the same result, and many times the time. To find out where it goes, ask `torch.profiler`. It
# writes down each operation that PyTorch carries out and how long it took. (Writing it down takes time as well, so that
# small operations look longer than they are.) `aten` is the name of PyTorch's library of operations: `aten::mm` is a
# product of two matrices, `aten::bmm` many of them at once, `aten::cat` joins tensors.

# %%
from torch.profiler import profile


@torch.no_grad()
def profiled(run):
    """-> [(operation, how often, share of the time without what it calls)], the largest first; the fastest of 9 runs"""
    watches = []
    for _ in range(9):
        with profile() as watched:
            run()
        watches.append(watched.key_averages())
    totals = [sum(row.self_cpu_time_total for row in rows) for rows in watches]
    fastest = totals.index(min(totals))
    shares = [(row.key, row.count, row.self_cpu_time_total / totals[fastest]) for row in watches[fastest]]
    return sorted(shares, key=lambda row: -row[2])


# %%
def after_prompt(model, n):
    """A function that reads one more token after a prompt of n, again and again."""
    cache = KVCache(model.config.n_layers)
    prompt = torch.arange(n)[None] % model.config.vocab_size
    with torch.no_grad():
        model(prompt, cache=cache)

    def one_step(n_new=1):
        cache.crop(n)
        return model(prompt[:, :n_new], cache=cache)

    return one_step


# %% [markdown]
# (`cache.crop(n)` forgets all but the first n tokens, so that the same step can run again.) The five largest
# operations, for one step of writing and for one prompt of 200:

# %% varies
profiles = {
    "shipped model,\none step": profiled(after_prompt(model, 200)),
    "shipped model,\nprompt of 200": profiled(partial(at_once, model, tokens)),
}
for name, rows in profiles.items():
    print(f"{' '.join(name.split())}: {sum(count for _, count, _ in rows)} operations")
    for key, count, share in rows[:5]:
        print(f"    {key:<24} {count:>4} times {share:>6.1%}")
assert all(sum(count for _, count, _ in rows) > 200 for rows in profiles.values())

# %% [markdown]
# About a thousand operations in each, about as many for one token as for 200. That is one half of the answer: **each
# operation has a price of its own**, for Python to name it and PyTorch to look it up, however little it does. A prompt
# pays it once for 200 tokens; a step of writing pays it for one.
#
# The other half shows in a larger model. SmolLM2 has 135 million numbers, 75 times as many. If its file is on this
# machine, the next cell profiles it too. If not, it says so, and all goes on with the small model. (The same under
# `MINILLAMA_FAST=1`.)

# %% varies
smol_file = assets.data_dir() / assets.ASSETS["smollm2"].filename
smol = checkpoints.load("smollm2") if smol_file.exists() and not FAST else None
if smol is None:
    print("without SmolLM2; python -m minillama data smollm2 gets it, 93 MB")
else:
    profiles["SmolLM2,\none step"] = profiled(after_prompt(smol.model, 200))
    profiles["SmolLM2,\nprompt of 200"] = profiled(partial(at_once, smol.model, torch.arange(200)[None]))
    for key, count, share in profiles["SmolLM2,\none step"][:5]:
        print(f"    {key:<24} {count:>4} times {share:>6.1%}")

# %% [markdown]
# The figure sorts all operations into three kinds. In the small model, a good part of a step goes into everything but
# the products. In SmolLM2, where it is there, the products take most of the time.

# %% varies
PRODUCTS, MOVES = {"aten::mm", "aten::bmm", "aten::addmm"}, {"aten::cat", "aten::copy_", "aten::index_select"}
kinds = {}
for name, rows in profiles.items():
    products = sum(share for key, _, share in rows if key in PRODUCTS)
    moves = sum(share for key, _, share in rows if key in MOVES)
    kinds[name] = {"products": products, "copying": moves, "all other operations": 1 - products - moves}
plots.where_time_goes(kinds)
assert all(abs(sum(shares.values()) - 1) < 1e-6 for shares in kinds.values())

# %% [markdown]
# And yet a step of SmolLM2 is slow as well, for its products. Why does a product for one token take so long, when 200
# tokens at once take far less than 200 times as long?
#
# ## Two limits
#
# Take one product: x has one row of 4 numbers, the matrix has 4 × 3. By hand:
#
# - **Operations.** 3 results, each a sum of 4 products: 12 times a multiplication and an addition, which is 24.
# - **Bytes.** The processor has only little memory of its own. All numbers come from the large memory outside, and the
#   results go back there: 4 + 12 + 3 = 19 numbers, at 4 bytes each 76 bytes.
#
# So there are 24 / 76 = 0.3 operations for each byte that is moved. With 100 rows it is 2400 operations and 400, 12 and
# 300 numbers, 2848 bytes: 0.8 per byte, and the larger the matrix, the more. The matrix is moved once, and serves all
# rows. This number, operations per byte, is called **arithmetic intensity**.
#
# A machine has a limit for each of the two: so many operations per second, and so many bytes per second (its
# **bandwidth**). It calculates and moves at the same time, so *the slower of the two decides*. Suppose it does 100
# operations and moves 10 bytes per second. The product with one row needs 0.24 seconds for calculating and 7.6 for
# moving: 7.6 seconds. It waits for memory.
#
# **Predict.** Llama 2 with 7 billion numbers, 2 bytes each, writes on a laptop whose memory moves 50 GB per second.
# Each token needs every weight once. How many tokens per second can it write at most, however fast the processor is?

# %% predict: ceiling
ceiling = 4  # 4, 40 or 400

# %% [markdown]
# **Exercise 12.1.** Write `roofline` (why it is called that, the next figure shows). It answers for any sizes, and in
# numbers of any width: 16-bit numbers take 2 bytes.

# %% exercise: 12.1

# %% check: 12.1
roofline = check("12.1", roofline)

# %% reveal: ceiling
n_weights = costs(PRESETS["llama-2-7b"]).n_parameters
bytes_per_token = 2 * n_weights
print(f"{n_weights:,} weights, {bytes_per_token / 1e9:.1f} GB: at most {50e9 / bytes_per_token:.1f} tokens per second")
predicted(ceiling, round(50e9 / bytes_per_token))

# %% [markdown]
# Four. A processor ten times as fast would write four, too. This one division, *bandwidth divided by bytes*, is the
# first thing to work out about any model on any machine.
#
# ### Your machine
#
# Measure both limits. The bandwidth: add up a tensor that is much larger than the processor's own memory, and divide
# its bytes by the time. The operations: a product of two matrices of 1024 × 1024, in which each number is used 1024
# times.

# %%
large, square = torch.ones((16 if FAST else 64) * 2**20), torch.randn(1024, 1024)
with torch.no_grad():
    limits = taking_turns({"bytes": large.sum, "operations": partial(torch.mm, square, square)}, rounds=7)
bandwidth, flops = 4 * large.numel() / limits["bytes"], 2 * 1024**3 / limits["operations"]

# %% varies
print(f"{bandwidth / 1e9:.0f} GB per second, {flops / 1e9:.0f} billion operations per second")
print(f"balanced at {flops / bandwidth:.1f} operations per byte, with {torch.get_num_threads()} thread(s)")
assert bandwidth > 0 and flops > 0

# %% [markdown]
# Now a real matrix of 4096 × 4096, as in LLaMA 7B, and x with 1 to 256 rows: a step of writing at one end,
# a prompt at the other.

# %%
matrix, points = torch.randn(4096, 4096), []
for n_rows in (1, 4, 16, 64) if FAST else (1, 2, 4, 8, 16, 64, 256):
    x = torch.randn(n_rows, 4096)
    with torch.no_grad():
        (t,) = taking_turns({"product": partial(F.linear, x, matrix)}, rounds=3 if FAST else 5).values()
    intensity, bound = roofline(n_rows, 4096, 4096, 4, flops, bandwidth)
    points.append((n_rows, intensity, 2 * n_rows * 4096**2 / t, t, bound))

# %% [markdown]
# Both limits as lines, and what was measured as points. Look at how far the points climb, and whether they stop.

# %% varies
labels = [(f"{n} row{'s' * (n > 1)}", intensity, rate) for n, intensity, rate, _, _ in points]
plots.roofs(flops, bandwidth, labels, "measured: x times a matrix of 4096 × 4096")
for n, intensity, _, t, bound in points:
    print(f"rows {n:>3}: {intensity:>5.1f} operations per byte: {1e3 * t:>6.1f} ms, at least {1e3 * bound:>6.1f}")
assert points[0][1] < 0.6 and points[-1][1] > 30

# %% [markdown]
# The two lines look like the side of a house, and the figure is called a **roofline** (Williams and others, 2009).
# Under the sloped roof, memory decides; under the flat one, the processor. Points may stay below a roof, and with a
# bandwidth measured by one kind of reading some may touch it.
#
# **One row is far on the left: half an operation per byte, at 4 bytes a number.** A step of writing has this intensity
# in every product with a weight matrix, in every model (at 2 bytes a number: one operation per byte). There are three
# ways out, and the rest of the chapter is about them:
#
# - move fewer bytes: numbers of 2 bytes, 1 byte, half a byte;
# - do more rows at once: several texts side by side, or several tokens of one text;
# - and for small models, name fewer operations: let a compiler make one of many.
#
# ### The cache is read, too
#
# Weights are not all that a step reads. Each new token also looks at the keys and values of all old ones. Chapter 04
# counted them for one token: 2 · layers · key/value heads · D numbers. For Llama 2 7B in 16 bits, that is 524,288 bytes
# per token of text.
#
# A server writes many texts at once. The weights then are read once *for all texts* (that is what makes it worth
# while), but each text has a cache of its own. By hand: a model of 3 layers, 2 key/value heads of D = 4, so 2 · 3 · 2 ·
# 4 = 48 numbers per token. With 100 weights, and one text of 4 tokens, in 16 bits: 200 bytes of weights and 4 · 48 ·
# 2 = 384 bytes of cache. With ten texts: 200 and 3840.
#
# **Exercise 12.2.** Write `step_bytes`. A `config` has the fields `n_layers`, `n_kv_heads` and `head_dim`, among
# others.

# %% exercise: 12.2

# %% check: 12.2
step_bytes = check("12.2", step_bytes)

# %% [markdown]
# Llama 2 7B has 32 key/value heads, Llama 3 8B has 8 for as many query heads (grouped-query attention, chapter 04). In
# the figure, follow the two lines of a single text first, where the weights are most of it. Then the two lines of 32
# texts at once. There the caches overtake the weights, and four times fewer heads are four times fewer bytes
# of them.

# %%
lengths, served = [2**n for n in range(7, 14)], {}
for name in ("llama-2-7b", "llama-3-8b"):
    for n_texts in (1, 32):
        n = costs(PRESETS[name]).n_parameters
        gigabytes = [step_bytes(PRESETS[name], n, length, n_texts) / 1e9 for length in lengths]
        served[f"{'Llama ' + name[6:].upper().replace('-', ' ')}, {n_texts} text{'s' * (n_texts > 1)}"] = gigabytes
plots.bytes_by_length(lengths, served, "How many bytes are read to write one more token of each text?")
assert served["Llama 2 7B, 32 texts"][-1] > 2.5 * served["Llama 3 8B, 32 texts"][-1]

# %% [markdown]
# ## Attention without the table
#
# The scores are read and written as well. Attention, as you wrote it, makes a table of T × T scores, a second one of
# powers, a third one of weights. For a text of 131,072 tokens (the longest of Llama 3.1), one such table has 17 billion
# numbers, and there is one for each head of each layer. They don't fit, and on a graphics card moving them would take
# longer than computing them.
#
# Do we need the table? Softmax does: it divides by the sum of a whole row, and it subtracts the largest score of the
# row, so that nothing overflows (chapter 03). It seems that we must have seen the last score before we can use the
# first.
#
# ### A sum that can be corrected
#
# Take scores whose powers are easy, the logarithms of 1, 2, 8 and 2, in two blocks. (e^(ln 8) = 8.)
#
# - First block, ln 1 and ln 2. The largest is ln 2. Relative to it the powers are 1/2 and 1. Sum so far: 1.5.
# - Second block, ln 8 and ln 2. Now ln 8 is the largest. Relative to it, this block gives 1 and 1/4: 1.25. And the old
#   sum? It was made relative to ln 2, and should have been relative to ln 8. Every term in it is too large, by the same
#   factor: 8/2 = 4. So it becomes 1.5 / 4 = 0.375, and the new sum is 0.375 + 1.25 = 1.625.
#
# Check: (1 + 2 + 8 + 2) / 8 = 1.625. In general e^(s - new) = e^(s - old) · e^(old - new), so the old sum is multiplied
# by **e^(old - new)**. If the largest did not change, that is e⁰ = 1. And at the very start, with no score seen, let
# the largest be minus infinity: e^(-infinity) = 0, and the empty sum stays 0. (`-math.inf - 3.0` is `-inf`, and
# `math.exp(-math.inf)` is 0.0.)
#
# **Exercise 12.3.** Write `running_sum`. `scores.max().item()` is the largest of a tensor as a plain number, and
# `torch.cat` is not needed.

# %% exercise: 12.3

# %% check: 12.3
running_sum = check("12.3", running_sum)

# %% [markdown]
# The same four scores, one by one, with what is kept after each:

# %%
scores = torch.tensor([1.0, 2.0, 8.0, 2.0]).log()
for n in (1, 2, 3, 4):
    m, total = running_sum(list(scores[:n].split(1)))
    print(f"after {n}: largest ln {math.exp(m):.0f}, sum {total:.3f}, together {math.exp(m) * total:.0f}")
assert abs(total - 1.625) < 1e-5

# %% [markdown]
# The last column is the sum of the powers themselves, 1, 3, 11, 13, as it should be. And yet no power larger than 1 was
# ever computed.
#
# ### And the values with it
#
# What attention gives is a sum as well: each value times its power, and at the end all of it divided by the sum of the
# powers. It can be corrected in the same way. Three keys with the scores ln 1, ln 2, ln 8, and the values 11, 22, 33.
# Directly: (1 · 11 + 2 · 22 + 8 · 33) / (1 + 2 + 8) = 319 / 11 = 29. In two blocks:
#
# | | largest m | total | out |
# |---|---|---|---|
# | block 1: ln 1, ln 2 | ln 2 | 1/2 + 1 = 1.5 | 1/2 · 11 + 1 · 22 = 27.5 |
# | correction: times 2/8 | | 0.375 | 6.875 |
# | block 2: ln 8 | ln 8 | 0.375 + 1 = 1.375 | 6.875 + 1 · 33 = 39.875 |
# | at the end | | | 39.875 / 1.375 = **29** |
#
# That is the heart of FlashAttention: *go through the keys in blocks, keep m, total and out, and correct the last two
# whenever m grows.* The blocks are called **tiles**.
#
# **Exercise 12.4.** Write `tiled_attend`, for all queries at once, each with its own m and total. `torch.maximum(a, b)`
# takes the larger of two tensors, place by place, and `torch.full(shape, -math.inf)` is a tensor full of minus
# infinity. `(*q.shape[:-1], 1)` is the shape of q with 1 in place of its last size: one number per query. A slice that
# goes beyond the end stops there: `k[..., 6:9, :]` of seven keys is one key.

# %% exercise: 12.4

# %% check: 12.4
tiled_attend = check("12.4", tiled_attend)

# %%
torch.manual_seed(0)
q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 100, 8), torch.randn(2, 3, 100, 8)
for block in (1, 7, 64, 1000):
    difference = (tiled_attend(q, k, v, block) - attend(q, k, v)).abs().max().item()
    print(f"blocks of {block:>4}: differs from attend by {difference:.4f} at most")
    assert difference < 1e-5

# %% [markdown]
# It is no approximation. Same result, up to rounding, and at no time more than `block` scores per query.
#
# With blocks of queries too, the room for scores does not grow with the text at all. See the two lines: the whole table
# of one head in `float32`, and one tile of 128 queries × 128 keys.

# %%
lengths = [2**n for n in range(10, 18)]
whole, tile = [4 * T * T for T in lengths], [4 * 128 * 128 for _ in lengths]
plots.score_memory(lengths, whole, tile)
print(f"T = {lengths[-1]:,}: {whole[-1] / 1e9:.1f} GB for one head, or {tile[-1] / 1e3:.0f} kB")
assert whole[-1] == 4 * 131072**2

# %% [markdown]
# With a causal mask there is a second gain. A tile in which every key comes after every query is hidden as a whole: it
# need not be computed. Count them, for a text of 2048 tokens.

# %%
n = 2048 // 128
computed = sum(
    causal_mask(2048)[128 * i : 128 * i + 128, 128 * j : 128 * j + 128].any() for i in range(n) for j in range(n)
)
print(f"{computed} of {n * n} tiles have something to see in them")
assert computed == n * (n + 1) // 2

# %% [markdown]
# Is it faster? Not yours: a loop in Python pays the price of several operations for each tile. To gain from tiles, the
# whole loop must be one program that keeps its tile in the processor's own small memory, or that of the graphics card.
# FlashAttention (Dao and others, 2022) is that for GPUs, and PyTorch has such programs behind
# `F.scaled_dot_product_attention`, **SDPA** for short, on CPUs as well. `is_causal=True` tells it to leave hidden tiles
# out. All three, taking turns, for four heads:

# %% varies
T = 256 if FAST else 1024
q, k, v, mask = *torch.randn(3, 1, 4, T, 64), causal_mask(T)
sides = {
    "attend": partial(attend, q, k, v, mask),
    "SDPA, with a mask": partial(F.scaled_dot_product_attention, q, k, v, mask),
    "SDPA, is_causal": partial(F.scaled_dot_product_attention, q, k, v, is_causal=True),
}
results = {name: run() for name, run in sides.items()}
for name, t in taking_turns(sides).items():
    print(f"{name:<18} {1e3 * t:>6.2f} ms")
assert all(torch.allclose(result, results["attend"], atol=1e-5) for result in results.values())

# %% [markdown]
# ## Fewer bytes per number
#
# ### bfloat16: cut off half
#
# A `float32` is 32 bits, and they have three jobs. 3.1416 is 1.5708 · 2¹. The first bit is the **sign**. The next eight
# are the **exponent**, here 1, stored as 128 so that it can be negative too (0 is stored as 127). The last 23 are the
# **fraction**, 0.5708, in steps of 2⁻²³: the 1 in front of the point is not stored, since it is always there.
#
# `bfloat16` keeps the first 16 of these bits and drops the rest (rounding the last one). `float16`, the other 16-bit
# type, spends its bits differently: five for the exponent, ten for the fraction.


# %%
def digits(x):
    """The bits of a number, as text."""
    whole = {2: torch.int16, 4: torch.int32}[x.element_size()]
    n = 8 * x.element_size()
    return f"{x.view(whole).item() % 2**n:0{n}b}"


types = {"float32": (torch.float32, 8), "bfloat16": (torch.bfloat16, 8), "float16": (torch.float16, 5)}
rows = [(name, digits(torch.tensor(math.pi, dtype=dtype)), n) for name, (dtype, n) in types.items()]

# %% [markdown]
# Compare the first two rows from the left: the same sign, the same exponent, and the fraction cut off after seven bits.

# %%
plots.bits(rows, "How is π stored in 32 and in 16 bits?")
for name, (dtype, _) in types.items():
    print(f"{name:<9} {torch.tensor(math.pi, dtype=dtype).item():.5f}, ends at {torch.finfo(dtype).max:.1e}")
assert rows[1][1][:15] == rows[0][1][:15]

# %% [markdown]
# The exponent has all its eight bits, so `bfloat16` reaches as far as `float32`, and nothing overflows that did not
# before (chapter 07 has seen what `float16` does). The price: seven bits of fraction. Between 2 and 4 there are only
# 128 numbers, one every 1/64.
#
# **Predict.** Start with 0 in `bfloat16`, and add 1 to it, a thousand times. What do you get?

# %% predict: total
total = 256  # 1000, 992 or 256

# %% reveal: total
count = torch.tensor(0.0, dtype=torch.bfloat16)
for _ in range(1000):
    count = count + 1
print("one after the other:", count.item())
print("torch.ones(1000).bfloat16().sum():", torch.ones(1000).bfloat16().sum().item())
predicted(total, int(count))

# %% [markdown]
# From 256 on, numbers in `bfloat16` are 2 apart. 257 lies half-way between 256 and 258, it is rounded to 256, and so on
# for ever. Hence a rule: **store in 16 bits, add up in 32.** PyTorch's own sums and products do so inside, as the
# second number shows. And training keeps the weights themselves in 32 bits, since a step is often less than half of
# 1/128 of a weight (chapter 10).
#
# For *running* a model, it costs next to nothing. Half the bytes, and the loss on text that it has never seen:

# %% varies
seen = validation_tokens[: 4097 if FAST else 20_001]


def weight_bytes(model):
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()  # tied ones count once
    return sum(t.numel() * t.element_size() for t in tensors)


half = copy.deepcopy(model).bfloat16()
losses = {"float32": evaluate(model, seen, 256), "bfloat16": evaluate(half, seen, 256)}
print({name: f"{loss:.3f} nats" for name, loss in losses.items()})
print(f"{weight_bytes(model):,} bytes -> {weight_bytes(half):,}")
assert abs(losses["float32"] - losses["bfloat16"]) < 0.01 and weight_bytes(half) * 2 == weight_bytes(model)

# %% [markdown]
# ### int8: whole numbers and a ruler
#
# 127 steps in each direction, if we let one number say how wide a step is. By hand, a row of four weights:
#
# | weight | 0.5 | -1.27 | 0.02 | 0.8 |
# |---|---|---|---|---|
# | **code**: weight / 0.01, rounded | 50 | -127 | 2 | 80 |
#
# The largest is 1.27, whatever its sign. It becomes code 127 or -127, so one step, the **scale**, is 1.27 / 127 = 0.01.
# To get a weight back, multiply: 50 · 0.01 = 0.5. What lies between two codes is rounded to the nearest, so that the
# error is half a step at most. The codes go into `int8`, a whole number of one byte from -128 to 127. (-128 is not
# used: the two sides are to be alike.)
#
# Every **row** of a matrix gets a scale of its own. Why rows? A row makes one number of the result, and you will see in
# a moment what that is good for.
#
# In code: `weight.abs().amax(dim=1)` is the largest of each row, `.round()` rounds to the nearest, `.to(torch.int8)`
# changes the type and *cuts off* what is behind the point. A row of zeros needs care: 0 / 0 is not a number. Give it
# the scale 1 (`torch.where(a > 0, a / 127, 1.0)` is a / 127 where a is positive, and 1 elsewhere). And `weight` may
# come in `bfloat16`; with `weight.float()` you calculate in 32 bits all the same.
#
# **Exercise 12.5.** Write `quantize_int8`. N is the number of rows, K the number of columns.

# %% exercise: 12.5

# %% check: 12.5
quantize_int8 = check("12.5", quantize_int8)

# %%
codes, scale = quantize_int8(torch.tensor([[0.5, -1.27, 0.02, 0.8], [100.0, -3.0, 0.4, 20.0]]))
print(codes)
print(codes.float() * scale[:, None])

# %% [markdown]
# In the second row, 0.4 comes back as 0.7874, since one step is 0.79: a single large number makes the ruler coarse for
# the whole row. Such a number, far away from all others, is an **outlier**. It ruins its row, and only its row. The
# figure shows twelve weights three times: in a row of their own; in a row with one outlier, 3.0 (it lies outside the
# picture); and in a row of their own while the outlier is in another one. The lines go from a weight to where it ends.

# %%
twelve = torch.tensor([-0.079, -0.066, -0.05, -0.041, -0.022, -0.009, 0.004, 0.015, 0.029, 0.045, 0.061, 0.075])
with_outlier, other = torch.cat([twelve, torch.tensor([3.0])]), torch.cat([twelve, torch.tensor([0.0])])
matrices = {"alone": twelve[None], "with an\noutlier": with_outlier[None],
            "outlier in\nanother row": torch.stack([other, with_outlier])}  # fmt: skip
rulers = []
for name, rows in matrices.items():
    codes, scale = quantize_int8(rows)
    rulers.append((name, twelve.tolist(), (codes.float() * scale[:, None])[0, :12].tolist()))
plots.rulers(rulers, "Where do twelve weights end up in int8?", limit=0.085)
assert len(set(rulers[1][2])) < 9 and len(set(rulers[2][2])) == 12

# %% [markdown]
# ### Multiply first, scale afterwards
#
# If weights are stored as codes, must they be turned back before every product? Number n of the result is a sum: x₀ ·
# c₀ · s + x₁ · c₁ · s + ..., where all c come from row n, and s is the scale of this row. **The same s stands in every
# term.** Take it out of the sum: s · (x₀ · c₀ + x₁ · c₁ + ...). One multiplication per number of the result, and the
# matrix goes through memory as bytes. That is why rows have scales, and not columns.
#
# **Exercise 12.6.** Write `int8_linear`. PyTorch does not multiply `float32` with `int8`, so write `codes.float()`; the
# fast programs behind the package's layer do that number by number, inside the processor.

# %% exercise: 12.6

# %% check: 12.6
int8_linear = check("12.6", int8_linear)

# %% [markdown]
# ### int4: sixteen numbers are enough?
#
# With 4 bits there are 16 codes. That is so few that none should be wasted, and so coarse that one outlier per row
# would be too many. Two changes against int8:
#
# - The ruler goes **from the smallest to the largest**, wherever they are, and no longer from -largest to largest. So
#   it takes two numbers: its beginning, the **minimum**, and the width of a step, the scale.
# - A row is cut into **groups** of 32 neighbours, and each group has a ruler of its own. An outlier now ruins 31
#   others.
#
# By hand, a group of four: 0.0, 1.5, 0.3, 0.7. The minimum is 0.0. From there to 1.5 there are 15 steps *between* 16
# codes, so a step is 1.5 / 15 = 0.1, and the codes are 0, 15, 3, 7. Another group: -1.0, 0.5, 0.2, -0.4. Minimum -1.0,
# step 0.1, codes 0, 15, 12, 6. A weight is **code · scale + minimum**: 12 · 0.1 - 1.0 = 0.2.
#
# If all numbers of a group are alike, the step would be 0: give such a group the scale 1, and its codes are 0. If the
# rows can't be cut into whole groups, raise a ValueError that says so. `view` cuts a row into groups (chapter 04), and
# `groups.aminmax(dim=-1)` gives smallest and largest along the last axis.
#
# **Exercise 12.7.** Write `quantize_int4`. PyTorch has no type of 4 bits; the codes go into `uint8` for now, a whole
# number from 0 to 255. (`GROUP_SIZE` is 32. GGUF is the file format of llama.cpp, chapter 13.)

# %% exercise: 12.7

# %% check: 12.7
quantize_int4 = check("12.7", quantize_int4)

# %% [markdown]
# And how do two codes get into one byte? As two digits get into one number. 3 and 7 make 73, if the second digit counts
# 10: 3 + 10 · 7. A code goes from 0 to 15, so here the second digit counts **16**: codes 3 and 10 make the byte 163,
# which is 3 + 16 · 10. In bits, four for each, 10 is `1010`, 3 is `0011`, and 163 is `1010 0011`. Moving a number up by
# four bits, `x << 4`, is the same as 16 · x, and `a | b` puts together the bits of both.
#
# **Exercise 12.8.** Write `pack_codes`. `codes[:, 0::2]` are columns 0, 2, 4, ...

# %% exercise: 12.8

# %% check: 12.8
pack_codes = check("12.8", pack_codes)

# %%
codes, scale, minimum = quantize_int4(torch.tensor([[0.0, 1.5, 0.3, 0.7, -1.0, 0.5, 0.2, -0.4]]), group_size=4)
packed = pack_codes(codes)
low, high = packed & 15, packed >> 4  # and back: the lower four bits, and the upper four
print(codes.tolist(), "->", packed.tolist(), "->", torch.stack([low, high], dim=-1).flatten(1).tolist())
assert torch.equal(torch.stack([low, high], dim=-1).flatten(1), codes)

# %% [markdown]
# ### How long is a group?
#
# A short group has a fine ruler. But each group stores two numbers of 16 bits: with groups of 32, one more bit per
# weight, so that "4 bits" are 5. With groups of 8 they are 8.
#
# Measure the error by group size, for a matrix of the shipped model, and for the same matrix with one outlier in each
# row, twenty times a typical weight. (The error: the root of the mean square of what changed, divided by that of the
# weights. The outliers themselves don't count.)

# %%
trained = model.layers[0].feedforward.gate_proj.weight.detach()
sizes, spiked = (8, 16, 32, 64, 192), trained.clone()
spiked[:, 7] = 20 * trained.std()


def error(weight, group_size):
    codes, scale, minimum = quantize_int4(weight, group_size)
    restored = (codes.float().view(*scale.shape, -1) * scale[..., None] + minimum[..., None]).view(weight.shape)
    others = torch.arange(weight.size(1)) != 7
    return ((restored - weight)[:, others].pow(2).mean() / weight[:, others].pow(2).mean()).sqrt().item()


# %% [markdown]
# Both lines fall to the left, where groups are short. See how much more there is to gain with outliers.

# %%
errors = {"as trained": [error(trained, g) for g in sizes], "with outliers": [error(spiked, g) for g in sizes]}
names = [*sizes[:-1], "a row:\n192"]
plots.error_by_group(names, errors, [4 + 32 / g for g in sizes])
assert errors["as trained"][0] < errors["as trained"][-1] < errors["with outliers"][-1] / 2

# %% [markdown]
# ### What does the model say to it?
#
# With groups of 32, a weight of this matrix is off by about 8 % of a typical weight. All weights of all blocks are
# moved like that, at random, in a model whose training took care to put them where they are.
#
# **Predict.** The loss on text that it has not seen is between 1.2 and 1.4 nats here. By how much does it rise when all
# blocks go to 4 bits: by less than 1 %, by about 10 %, or does it double?

# %% predict: rise
rise = "less than 1 %"  # "less than 1 %", "about 10 %" or "it doubles"

# %% [markdown]
# The package's `quantize.quantize` makes a copy of a model with all its linear layers replaced. They use PyTorch's own
# programs for products with `int8` and `int4` weights, and store scales in `bfloat16`. Embedding and output layer stay
# at 8 bits: 4 would cost more accuracy there than in all other layers together.

# %%
small, measured = {"float32": model}, {}
for name in ("bfloat16", "int8", "int4"):
    small[name] = quantize(model, name)
for name, m in small.items():
    measured[name] = (weight_bytes(m), evaluate(m, seen, 256))

# %% reveal: rise
ratio = measured["int4"][1] / measured["float32"][1]
print(f"loss in 4 bits / loss in 32 bits: {ratio:.2f}")
predicted(rise, "less than 1 %" if ratio < 1.01 else "about 10 %" if ratio < 1.5 else "it doubles")

# %% varies
for name, (n_bytes, loss) in measured.items():
    print(f"{name:<9} {n_bytes / 1e6:.1f} MB   perplexity {math.exp(loss):.2f}")
assert ratio < 1.01 and measured["int8"][0] < measured["bfloat16"][0] < measured["float32"][0]
assert all(abs(loss - measured["float32"][1]) < 0.01 for _, loss in measured.values())

# %% [markdown]
# Why does it not mind? Each number of a result is a sum of some two hundred terms. Rounding pushes each term up or
# down, at random, and the pushes largely cancel: a sum of 200 random pushes is only √200 = 14 times one of them (the
# walk of chapter 03), while the sum itself is made of terms that training has made to agree. That is also why *rounding
# down* would be so bad: pushes that all go the same way don't cancel.
#
# How far can it go? The same ruler with 8, 4 and 2 codes: 3, 2 and 1 bits.


# %%
def rounded(weight, bits, group_size=32):
    """What is left of a weight in so many bits: from the smallest to the largest of each group."""
    groups = weight.view(weight.size(0), -1, group_size)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    return (((groups - low) / scale).round() * scale + low).view(weight.shape)


@torch.no_grad()
def with_rounded_blocks(model, bits):
    model = copy.deepcopy(model)
    for layer in model.layers.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(rounded(layer.weight, bits))
    return model


# %% varies
coarse = {bits: evaluate(with_rounded_blocks(model, bits), seen, 256) for bits in (4, 3, 2, 1)}
for bits, loss in coarse.items():
    print(f"{bits} bits, 2^{bits} = {2**bits:>2} codes: perplexity {math.exp(loss):>6.2f}")
assert coarse[4] < coarse[3] + 0.01 and coarse[2] > coarse[3] + 0.05 and coarse[1] > coarse[2] + 0.3

# %% [markdown]
# Down to 3 bits there is little to see. With 2 bits the model stumbles, and with one bit it is lost. Four different
# numbers per group are too few, *if the model was trained without knowing*.
#
# ### Train it with the rounding
#
# So let it know. In each training step, the product uses the rounded weight, and the loss says what is wrong *with
# that*. But rounding has no slope: move a weight by a little, and its code stays. The slope is 0 nearly everywhere, and
# training would stand still. The trick is to pretend: forward use the rounded weight; backward act as if rounding had
# not been there. `w + (rounded(w) - w).detach()` has the value of rounded(w), and, since `detach` cuts off the slope of
# what is in the parentheses, the slope of w. (That is called a straight-through estimator; Bengio and others, 2013.)
# The weight w itself stays in 32 bits and collects small steps, until one day its code changes.

# %%
from torch.nn.utils import parametrize


class TwoBits(nn.Module):
    def forward(self, weight):
        return weight + (rounded(weight, 2) - weight).detach()


def with_rounding(model):
    """The same model; all products of its blocks use weights rounded to 2 bits from now on."""
    for layer in list(model.layers.modules()):
        if isinstance(layer, nn.Linear):
            parametrize.register_parametrization(layer, "weight", TwoBits())
    return model


# %% [markdown]
# Two copies of the shipped model are trained on, with the same texts and steps. One learns as always, and is rounded at
# the end. The other is rounded from the start. (The full run takes a minute or two.)


# %%
def trained_on(model, n_steps, lr=1e-3):
    batches = Batches(train_tokens, batch_size=8, length=64 if FAST else 128, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 5) * (1 - step / n_steps)
        loss = next_token_loss(model(batches(step)[0]), batches(step)[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


n_steps = 25 if FAST else 160
unaware = with_rounding(trained_on(copy.deepcopy(model), n_steps))
aware = trained_on(with_rounding(copy.deepcopy(model)), n_steps)
after = {"trained on,\nthen rounded": evaluate(unaware, seen, 256), "trained on\nrounded": evaluate(aware, seen, 256)}

# %% [markdown]
# The bars are the loss with 2 bits, so that lower is better; the line is the model with all its 32. Compare the last
# bar with the first, and the one in the middle with both.

# %% varies
plots.two_trainings({"32 bits": measured["float32"][1]}, coarse[2], after)
without, knowing = after.values()
print(f"2 bits: {coarse[2]:.2f} nats; trained on without knowing {without:.2f}, knowing {knowing:.2f}")
assert knowing < coarse[2] - 0.005 and knowing < without - 0.03

# %% [markdown]
# More training *without* the rounding did not help: it sets the weights more finely, and that is what rounding
# destroys. With it, some of what was lost comes back, and the more, the longer one trains. This is **quantization-aware
# training**, and the small models of Llama 3.2 have been published in 4 bits after it.
#
# ## Fewer operations to name
#
# For a small model, bytes are not the trouble: a step takes far longer than its bytes would need. What counts there are
# the many operations that are named one by one. `torch.compile` takes a function, runs it once with stand-ins in
# place of tensors, writes down which operations come, and makes one program of them (in C++ on a CPU), which it
# compiles while you wait. Loops over the same numbers become one loop: for x · 2 + 1, the numbers go through memory
# once and not twice.
#
# You can look at what is written down. The argument `backend` is the function that gets the list; usually it is a
# compiler. Ours counts, and hands the list back as it is. So this cell needs no compiler.


# %%
graphs = []


def count_operations(graph, inputs):
    graphs.append([node.target for node in graph.graph.nodes if node.op in ("call_function", "call_method")])
    return graph.forward


def norm(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


torch.compile(norm, backend=count_operations)(torch.randn(2, 8), torch.ones(8))
print([getattr(target, "__name__", target) for target in graphs[0]])
assert len(graphs) == 1 and len(graphs[0]) >= 5

# %% [markdown]
# Six operations for one norm, four of them passes over all the numbers; after a compiler it is one pass or two.
#
# The package's `fast.FastLlama` is a Llama made for such a compiler. Products that read the same input are joined (q, k
# and v are one product, gate and up another), the cache has its room from the start, so that nothing is copied when a
# token comes, and all layers run **the same compiled block**, each with its own weights. How often is it compiled? Let
# four layers write eight tokens, and count.

# %% varies
from minillama.fast import FastBlock, FastLlama

graphs.clear()
fast = FastLlama(model, "float32", compiled=False)
fast.one_token = torch.compile(FastBlock.forward, backend=count_operations, isolate_recompiles=True)
cache = fast.new_cache(room=32)
fast(tokens[:, :10], cache=cache)
for i in range(8):
    fast(tokens[:, 10 + i : 11 + i], cache=cache)
print(f"{8 * len(fast.layers)} runs of a block, compiled {len(graphs)} times, {len(graphs[0])} operations in it")
assert len(graphs) <= 3 and len(graphs[0]) > 40

# %% [markdown]
# Once for the first length of the cache; then PyTorch notices that the length changes from step to step, and compiles
# once more with the length as a variable. From then on it is used as it is. A compiler takes seconds for that, so it
# pays for long texts, not for one answer.
#
# Now with a real compiler, if this machine has one. `devices.compiler()` says. (With `MINILLAMA_FAST=1` the cell skips
# it too, for it would take too long.) It runs in turns: the model that you have, the package's fast one as it is, and
# the same compiled.


# %% varies
def fast_step(fast, n=100):
    """A function that reads one more token after a prompt of n, as after_prompt."""
    cache, prompt = fast.new_cache(room=n + 16), torch.arange(n)[None] % fast.config.vocab_size
    fast(prompt, cache=cache)
    return lambda: (cache.crop(n), fast(prompt[:, :1], cache=cache))[1]


sides = {"your parts": after_prompt(model, 100), "FastLlama": fast_step(FastLlama(model, "float32", compiled=False))}
if devices.compiler() and not FAST:
    sides["FastLlama, compiled"] = fast_step(FastLlama(model, "float32", compiled=True))

# %% varies
print("C++ compiler:", "found" if devices.compiler() else "none, so nothing is compiled here")
start = time.perf_counter()
results = {name: step()[0, -1] for name, step in sides.items()}
print(f"the first step of each, compiling included: {time.perf_counter() - start:.1f} s\n")
for name, t in taking_turns(sides, rounds=20).items():
    print(f"{name:<20} {1e3 * t:.2f} ms per token")
assert all(torch.allclose(logits, results["your parts"], atol=1e-2) for logits in results.values())

# %% [markdown]
# ### All together, beside the limit
#
# For a larger model, put the ways together: fewer bytes, fewer operations. The cell takes SmolLM2 if it is here, and
# the shipped model otherwise, and it also measures how well each predicts a piece of Shakespeare. With a compiler and
# in the full run, blocks are compiled.


# %%
def step_weights(model):
    """Bytes of the weights that a step reads: all of the layers and of the output layer."""
    parts = [*model.layers, model.lm_head]
    tensors = {id(t): t for part in parts for t in [*part.parameters(), *part.buffers()]}.values()
    return sum(t.numel() * t.element_size() for t in tensors)


assert step_weights(model) <= weight_bytes(model)

# %% varies
large_model = model if smol is None else smol.model
sides = {"plain, float32": after_prompt(large_model, 100)}
limit = {"plain, float32": bandwidth / step_weights(large_model)}
compiled = devices.compiler() is not None and not FAST
sample = seen[:513] if smol is None else torch.tensor(smol.tokenizer.encode(text[-1500:]))
nats = {"plain, float32": evaluate(large_model, sample, 256)}
for name in ("float32", "bfloat16", "int8", "int4"):
    fast = FastLlama(large_model, name, compiled=compiled)
    nats[f"fast, {name}"] = evaluate(fast, sample, 256)
    sides[f"fast, {name}"], limit[f"fast, {name}"] = fast_step(fast), bandwidth / step_weights(fast)
with torch.no_grad():
    seconds = taking_turns(sides, rounds=3 if FAST else 20)
print("SmolLM2" if smol else "the shipped model", "with compiled blocks" if compiled else "not compiled")

# %% [markdown]
# The orange marks are the limit from the beginning of the chapter: bandwidth divided by the bytes of the weights. See
# which bars come near their mark. For the small model none does, since its operations cost more than its bytes.

# %% varies
bars = [(name, 1 / seconds[name], limit[name]) for name in sides]
plots.speeds(bars, bandwidth)
for name, rate, most in bars:
    print(f"{name:<15} {rate:>7.1f} tokens/s, at most {most:>8.1f} by bytes; perplexity {math.exp(nats[name]):.2f}")
assert limit["fast, int4"] > limit["fast, int8"] > limit["fast, bfloat16"] > limit["fast, float32"]

# %% [markdown]
# (Without SmolLM2 the perplexity is that of 512 characters, and its last digits are chance: the table further up is the
# better one.) If SmolLM2 is here: it comes from a file of 4 bits, with groups of 32 and rulers like ours. So int4 finds
# most of its weights where they are already, and may even do better than int8. What 4 bits cost, the shipped model says
# above, which was trained in 32. `python benchmarks/smollm2.py` compares with other people's programs, Transformers and
# llama.cpp.
#
# ## Guess, and let the model check
#
# A step of writing reads all weights for one token. The roofline said that it could read them for several tokens at
# hardly more cost. But which? The next token has to be known before the one after it can be asked for.
#
# Unless somebody **guesses**. Let a cheap guesser propose the next K tokens, a **draft**. The model reads all of them
# *in one call*, as it reads a prompt, and says at each place what it would have written there. Guesses that fit are
# kept, the first wrong one is replaced, and the rest is thrown away. One call of the model, and between one and K + 1
# tokens.
#
# Is one call for several tokens really cheaper than several calls? In turns, after a text of 100, with the larger model
# if it is here:

# %% varies
step = after_prompt(large_model, 100)
seconds = taking_turns({n: partial(step, n) for n in (1, 2, 4, 8, 16)}, rounds=3 if FAST else 9)
for n, t in seconds.items():
    print(f"{n:>2} tokens in one call: {1e3 * t:>6.2f} ms, {1e3 * t / n:>6.2f} ms each")

# %% [markdown]
# With SmolLM2, the jump from 1 to 2 is the largest where this chapter was written: PyTorch has a program of its own for
# one row. From there on a few tokens more cost little. Eight tokens in one call cost far less than eight calls.
#
# ### A guesser that costs nothing
#
# The guesser may be a smaller model. Or nobody at all: many texts repeat themselves. Names come again, code uses the
# same line twice, and who summarizes a text copies from it. So look for the last few tokens further up, and guess that
# it goes on as it went on there. By hand, with the last two tokens:
#
# | 5 | 6 | 7 | 8 | 9 | **5** | **6** |
# |---|---|---|---|---|---|---|
#
# 5 6 stood at the beginning, and 7 8 9 came after it. The draft of three is 7, 8, 9. If the ending stands in several
# places, the latest is the best guess. The place may overlap the end itself: in 2 7 7 7 the last two, 7 7, stand one
# place further up as well, and what follows there is a 7.
#
# **Exercise 12.9.** Write `look_up_draft`. Plain lists of numbers: `tokens[-n:]` are the last n, and two lists can be
# compared with `==`. `range(5, -1, -1)` counts from 5 down to 0.

# %% exercise: 12.9

# %% check: 12.9
look_up_draft = check("12.9", look_up_draft)

# %%
line = "the cat sat on the mat and the dog sat on the "
for n in (4, 7):
    guess = tokenizer.decode(look_up_draft(tokenizer.encode(line), n, 6))
    print(f"the last {n} characters: {line[-n:]!r} -> {guess!r}")
assert guess == "mat an"

# %% [markdown]
# ### When does a guess stay?
#
# If the model always writes its best token (greedy), the answer is easy: a guess stays if it is the best token. But
# texts are drawn at random (chapter 11). "mat" may be right with probability 0.3. Whatever we do with guesses, **each
# token must come with the probability that the model gives it**, or we have a fast bad model.
#
# Three tokens will do to see how. The model wants p, the guesser draws its guess from q:
#
# | | sun | rain | snow |
# |---|---|---|---|
# | model, p | 0.5 | 0.3 | 0.2 |
# | guesser, q | 0.2 | 0.6 | 0.2 |
#
# The guesser says rain too often: 0.6 where 0.3 is right. So keep "rain" only every second time, with probability **p /
# q** = 0.3 / 0.6. It says "sun" too seldom, 0.2. Keep it always; still 0.3 of sun are missing. And "rain" is thrown
# away with 0.6 · 0.5 = 0.3. That is exactly what is missing: **what was taken away in one place fills up the other.**
# When a guess is thrown away, draw from the rest, max(p - q, 0), which here is (0.3, 0, 0), divided by its sum: "sun"
# for sure.
#
# In the figure: grey what the guesser gives, blue what of it stays, orange what is filled up. Blue and orange together
# are p.

# %%
weather, P, Q = ["sun", "rain", "snow"], torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.6, 0.2])
plots.accept_rule(weather, [0.5, 0.3, 0.2], [0.2, 0.6, 0.2])
assert torch.allclose(torch.minimum(P, Q) + (P - Q).clamp(min=0), P)

# %% [markdown]
# And in general? Token x comes out in two ways.
#
# - It was guessed, and stays: q(x) · min(1, p(x) / q(x)) = **min(p(x), q(x))**.
# - Some guess was thrown away, and x was drawn from the rest. Thrown away is, in all, 1 - the sum of all min(p, q). And
#   the sum of the rest before it is divided, the sum of all max(p - q, 0), is the same number, because p = min(p, q) +
#   max(p - q, 0) for each token, and all p add up to 1. So the two cancel, and what remains is **max(p(x) - q(x), 0)**.
#
# Together min(p, q) + max(p - q, 0) = p. Nothing was assumed about q: with a bad guesser it takes longer, but the text
# is the model's.
#
# With a draft of K tokens, go through it from the front, with row i of p and q. As soon as one does not stay, the rest
# of the draft was made for another text: stop there. If all stay, the model has said for free what it wants after them:
# row K. "With probability x" means: take a random number u between 0 and 1, and do it if u < x. (If x is more than 1, u
# is always below.) To keep chance out of your function, the numbers u come as an argument, and the last token is not
# drawn: you hand over what it is to be drawn from.
#
# **Exercise 12.10.** Write `judge`. `p[i, token]` is the number in row i and column token.

# %% exercise: 12.10

# %% check: 12.10
judge = check("12.10", judge)

# %% [markdown]
# The proof, once with exact numbers and your function: every guess that the guesser can make, with its probability,
# staying or not.

# %%
exact, p = torch.zeros(3), torch.stack([P, torch.ones(3) / 3])
for guess in range(3):
    stays = min(1.0, (P[guess] / Q[guess]).item())
    exact[guess] += Q[guess] * stays
    if stays < 1:
        n_kept, rest = judge([guess], Q[None], p, [1.0])  # u = 1: it does not stay
        exact += Q[guess] * (1 - stays) * rest
print({token: round(x, 3) for token, x in zip(weather, exact.tolist(), strict=True)})
assert torch.allclose(exact, P, atol=1e-6)

# %% [markdown]
# And once by drawing, as it really happens: many guesses, many numbers u, and a token for each. Beside `judge` are two
# versions that look reasonable. One draws from p after a wrong guess. The other keeps a guess exactly if the model
# likes it at least as well as the guesser does, and leaves u alone.


# %%
def one_token(version, guess, u):
    """The token that comes out after this guess."""
    if version == "never by chance":
        u = 0.0 if P[guess] >= Q[guess] else 1.0
    n_kept, rest = judge([guess], Q[None], p, [u])
    if n_kept:
        return guess
    return int(torch.multinomial(P if version == "then from p" else rest, 1))


# %% varies
torch.manual_seed(0)
n_draws = 4_000 if FAST else 40_000
guesses, chances = torch.multinomial(Q, n_draws, replacement=True).tolist(), torch.rand(n_draws).tolist()
frequencies = {}
for version in ("judge", "then from p", "never by chance"):
    drawn = [one_token(version, guess, u) for guess, u in zip(guesses, chances, strict=True)]
    frequencies[version] = torch.bincount(torch.tensor(drawn), minlength=3) / n_draws
    print(f"{version:<16}", dict(zip(weather, [round(x, 2) for x in frequencies[version].tolist()], strict=True)))
assert (frequencies["judge"] - P).abs().max() < 0.03 < (frequencies["then from p"] - P).abs().max()
assert (frequencies["never by chance"] - P).abs().max() > 0.1

# %% [markdown]
# The first line is p, up to chance. The other two write other texts than the model would.
#
# ### How many tokens per call?
#
# Say that each guess stays with probability a, and the draft has K. One token comes in any case. A second one comes if
# the first guess stays, a; a third if the second stays too, a²; and so on: 1 + a + a² + ... + a^K.
#
# **Predict.** Four of five guesses stay, a = 0.8, and drafts are K = 4 long. How many tokens per call on average?

# %% predict: per_call
per_call = 3.4  # 1.8, 3.4 or 4.2


# %% reveal: per_call
def expected_tokens(a, K):
    return sum(a**i for i in range(K + 1))


print(" + ".join(f"{0.8**i:.2f}" for i in range(5)), f"= {expected_tokens(0.8, 4):.2f}")
predicted(per_call, expected_tokens(0.8, 4), within=1.05)

# %% [markdown]
# In the figure, see how little the long draft helps while no more than half of the guesses stay.

# %%
shares = [i / 50 for i in range(51)]
per_draft = {f"drafts of {K}": [(a, expected_tokens(a, K)) for a in shares] for K in (2, 4, 8)}
plots.tokens_per_call(per_draft, "How many tokens does one call bring?")
assert expected_tokens(0.5, 8) - expected_tokens(0.5, 4) < 0.1

# %% [markdown]
# ### It writes
#
# All of it together. In each round: look up a draft, read it and what the model has not seen yet in one call, judge,
# draw one token, and cut the cache back to what is sure. `sampling_probs`, from chapter 11, makes probabilities of
# logits; with temperature 0 the best token gets 1. The guesser is sure of itself: q is 1 for its guess and 0 for all
# others.

# %%
from minillama.generate import sampling_probs


@torch.no_grad()
def write_with_drafts(model, text, n_new, temperature, n=3, length=6, seed=0):
    """-> [(token, came from a draft?)], number of calls"""
    generator, cache, written, n_calls = torch.Generator().manual_seed(seed), KVCache(model.config.n_layers), [], 0
    while len(written) < n_new:
        draft = look_up_draft(text, n, min(length, n_new - len(written) - 1))
        logits = model(torch.tensor([text[len(cache) :] + draft]), cache=cache)[0, -len(draft) - 1 :]
        p = sampling_probs(logits, temperature=temperature)
        q = F.one_hot(torch.tensor(draft).long(), p.size(-1)).float()
        n_kept, rest = judge(draft, q, p, torch.rand(len(draft), generator=generator).tolist())
        last = int(torch.multinomial(rest, 1, generator=generator))
        new = [(token, True) for token in draft[:n_kept]] + [(last, False)]
        written, text, n_calls = written + new, text + [token for token, _ in new], n_calls + 1
        cache.crop(len(text) - 1)  # the last token has not been read yet
    return written, n_calls


# %% [markdown]
# Greedily, at temperature 0, this model soon repeats itself (chapter 11). Drawn at temperature 1 it does not. Both, 160
# characters after "ROMEO:":

# %% varies
prompt = tokenizer.encode("ROMEO:\n")
n_new = 60 if FAST else 160
runs = {temperature: write_with_drafts(model, prompt, n_new, temperature) for temperature in (0.0, 1.0)}
for temperature, (written, n_calls) in runs.items():
    from_drafts = sum(guessed for _, guessed in written)
    print(f"temperature {temperature:g}: {n_new} tokens in {n_calls} calls, {n_new / n_calls:.2f} per call, ", end="")
    print(f"{from_drafts} of them guessed")
    assert len(written) == n_new == n_calls + from_drafts
assert runs[0.0][1] < runs[1.0][1]

# %% [markdown]
# The text that repeats itself takes fewer calls; the other one gains next to nothing. Blue is what came from a draft.
# Look where it begins: three characters have to stand there once before it can be looked up.

# %% varies
written = runs[0.0][0]
pieces = [("ROMEO:\n", "prompt")] + [(tokenizer.decode([t]), "kept" if guessed else "own") for t, guessed in written]
plots.drafted_text(pieces, "Temperature 0: which characters were guessed?")
assert any(guessed for _, guessed in written)

# %% [markdown]
# Is it what the model writes without guesses? At temperature 0 it must be the best token at each place, given those
# before. (Sums in another order differ in the last digit, so two tokens that are equally good may change places.)

# %%
with torch.no_grad():
    whole = torch.tensor([prompt + [token for token, _ in written]])
    logits = model(whole[:, :-1])[0, len(prompt) - 1 :]
behind = logits.amax(-1) - logits.gather(-1, whole[0, len(prompt) :, None])[:, 0]
print(f"behind the best token by at most {behind.max():.2f}")
assert behind.max() < 1e-2

# %% [markdown]
# And does it save time? The tokens per call are counted above. What a call costs depends on the model: for the small
# one, a call that reads nine tokens costs clearly more than a step, and many guesses are wrong. For SmolLM2, where it
# is here, such a call cost less than two steps in the table further up. The task below suits guessing: to say a text
# again. Both ways, taking turns:

# %% varies
from minillama.generate import generate
from minillama.speculative import stream_drafted

writer, writer_tokenizer = (model, tokenizer) if smol is None else (smol.model, smol.tokenizer)
sentence = "The old man walked slowly along the river and counted the boats. "
begin = torch.tensor([writer_tokenizer.encode(2 * sentence + "The old man")])
n_new = 12 if FAST else 40
calls = list(stream_drafted(writer, begin, n_new, temperature=0))
print(f"{n_new} tokens in {len(calls)} calls:", repr(writer_tokenizer.decode(torch.cat(calls).tolist())[:60]))
sides = {
    "without drafts": partial(generate, writer, begin, n_new, temperature=0),
    "with drafts": lambda: list(stream_drafted(writer, begin, n_new, temperature=0)),
}
for name, t in taking_turns(sides, rounds=2 if FAST else 3).items():
    print(f"{name:<15} {1e3 * t / n_new:>6.1f} ms per token")

# %% [markdown]
# A text that can't be guessed gains nothing, and pays for the guesses that were read in vain. That is why drafts are
# short, and why servers use small models as guessers, or extra heads of the model itself.
#
# The package's rule is your `judge`, with the random numbers drawn inside:

# %% show
show("speculative.accept")

# %% [markdown]
# And its 8 bits, with your `quantize_int8` before the product and your scale behind it:

# %% show
show("quantize.Int8Linear")

# %% [markdown]
# ## With a graphics card
#
# All of this holds on a GPU, with other numbers. An NVIDIA H100 moves about 3,350 GB per second and does about 990,000
# billion operations per second in `bfloat16` (both from NVIDIA's data sheet of its SXM version). Its balance lies at
# some 300 operations per byte, where yours lies at a few. So a single text, one operation per byte in 16 bits, uses
# less than one percent of what the card can calculate. That is why servers write many texts at once, and why
# FlashAttention, GQA, 4 bits and drafts matter there most.
#
# **No GPU was at hand when this chapter was written, so nothing about one was measured for it.** The next cell measures
# yours, if PyTorch finds one: the same two limits. (A GPU is told what to do and works on its own;
# `torch.cuda.synchronize()` waits until it has finished. Without it you measure how fast Python talks.)


# %% varies
def on_the_gpu(run):
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if torch.cuda.is_available():
    big, wide = torch.ones(2**28, device="cuda"), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    moved = 4 * big.numel() / min(on_the_gpu(big.sum) for _ in range(5))
    done = 2 * 8192**3 / min(on_the_gpu(partial(torch.mm, wide, wide)) for _ in range(5))
    print(f"{moved / 1e9:,.0f} GB and {done / 1e9:,.0f} billion operations per second in bfloat16")
else:
    print("PyTorch finds no CUDA device here: nothing to measure")

# %% [markdown]
# ## What LLaMA 1, 2 and 3 do here
#
# | | LLaMA 1 (2023) | Llama 2 (2023) | Llama 3, 3.1 (2024) | Llama 3.2 (2024) |
# |---|---|---|---|---|
# | sizes | 7B to 65B | 7B to 70B | 8B to 405B | 1B, 3B |
# | table of weights in training | not stored (a) | | | |
# | key/value heads | as many as query heads | 7B, 13B: the same; 70B: 8 of 64 | 8 | 8 |
# | weights published in | 16 bits | 16 bits | 16 bits; 405B also 8 (b) | 16 bits, also 4 (c) |
#
# An empty cell: the source does not say. (a) And the scores that the mask hides were not computed. (b) 8-bit floats
# (FP8) in the feed-forward products, with a scale per row, in all layers but the first and the last. (c) Groups of 32;
# embedding and output layer 8 bits per row; one of two kinds after more training with the rounding.
#
# Sources: [LLaMA](https://arxiv.org/abs/2302.13971), section 2.4; [Llama 2](https://arxiv.org/abs/2307.09288), table 1
# and section 2.2; [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), sections 3.2 and 6; and the model
# cards of Llama 3.2. The 405B does not fit into one server with eight GPUs of 80 GB in 16 bits, and does in 8 (section
# 6). Work it out for all, and with it what an H100 could write at most, one text at a time, if it had room:

# %%
print(f"{'':<15} {'16 bits':>16}   {'8 bits':>16}   {'4 bits':>16}")
for name in ("llama-1-7b", "llama-1-65b", "llama-2-70b", "llama-3-8b", "llama-3.1-405b", "llama-3.2-1b"):
    n = costs(PRESETS[name]).n_parameters
    sizes = {bits: n * bits / 8e9 for bits in (16, 8, 5)}  # 5: 4 bits in groups of 32
    shown = "   ".join(f"{gb:>6.1f} GB, {3350 / gb:>5.0f}/s" for gb in sizes.values())
    print(f"{name:<15} {shown}")
assert costs(PRESETS["llama-3.1-405b"]).weights_bytes > 640e9

# %% [markdown]
# "/s" is tokens per second, by bytes alone.
#
# ## What you have now
#
# - Two limits, bytes and operations. Writing one text is bytes: bandwidth divided by bytes per token is the ceiling.
# - Small models pay for each operation that is named; a compiler makes one of many.
# - Softmax and averages can be corrected while they are collected: attention needs no table.
# - 16 bits store, 32 bits add up. 8 bits per row cost nothing you can see, 4 bits in groups very little; below that,
#   train with the rounding.
# - Guesses can make a model faster, and change nothing in what it says, if min(1, p/q) decides and the rest fills up.
# - Measure both sides, in turns, on your machine.
#
# ## Further reading
#
# - *Roofline: An Insightful Visual Performance Model for Multicore Architectures*, Williams, Waterman and
#   Patterson, 2009.
# - *Online normalizer calculation for softmax*, Milakov and Gimelshein, 2018. The sum that can be corrected.
# - *FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness*, Dao, Fu, Ermon, Rudra and Ré, 2022.
# - *Self-attention Does Not Need O(n²) Memory*, Rabe and Staats, 2021.
# - *LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale*, Dettmers, Lewis, Belkada and Zettlemoyer, 2022.
#   Outliers in large models.
# - *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, Frantar, Ashkboos, Hoefler and
#   Alistarh, 2022. Rounding each weight so that it makes up for the errors of those before.
# - *Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation*, Bengio, Léonard and
#   Courville, 2013. The straight-through estimator.
# - *Fast Inference from Transformers via Speculative Decoding*, Leviathan, Kalman and Matias, 2023, and *Accelerating
#   Large Language Model Decoding with Speculative Sampling*, Chen, Borgeaud, Irving, Lespiau, Sifre and Jumper, 2023.
# - *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, Ainslie, Lee-Thorp, de Jong,
#   Zemlyanskiy, Lebrón and Sanghai, 2023.
#
# Next, in chapter 13, you open the files that such models come in, byte by byte, and run a real one on your own parts.
