"""Exercises of chapter 12: rooflines, attention in tiles, weights in 8 and 4 bits, drafts looked up and judged."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama import quantize
from minillama.cache import KVCache
from minillama.config import Config
from minillama.course.checks import holds, integers, permutation, rand, randn, refuses, same
from minillama.course.exercise import Exercise

# 12.1 roofline ------------------------------------------------------------------------------------------------------


def roofline(
    n_rows: int, n_in: int, n_out: int, bytes_per_number: float, flops: float, bandwidth: float
) -> tuple[float, float]:
    """Say how many operations a matrix product does per byte, and how long it takes at least.

    x has n_rows rows of n_in numbers. It is multiplied by a matrix of n_in × n_out numbers, and the result has n_rows
    rows of n_out numbers. A product and the sum it goes into count as 2 operations. x, the matrix and the result go
    through memory once each; every number in them takes bytes_per_number bytes.
    flops: operations per second that the machine can do; bandwidth: bytes per second that it can move. It does both
    at the same time.
    -> (operations per byte, seconds)
    """
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, max(operations / flops, moved / bandwidth)


bound = Exercise(
    "12.1",
    roofline,
    hints=(
        "Each number of the result is a sum of n_in products. How many numbers has the result, and how many "
        "operations is that? Then count the numbers of the three tables.",
        "Two times: operations / flops, and bytes / bandwidth. Calculating and moving go on side by side. So which of"
        " the two times counts?",
        "`operations = 2 * n_rows * n_in * n_out`; `moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows"
        " * n_out)`. The first answer is one divided by the other, the second is the larger of the two times.",
    ),
)


@bound.check("numbers to do by hand: 2 rows, 4 numbers in, 3 out, 4 bytes each, 10 operations and 20 bytes a second")
def roofline_by_hand(roofline):
    same(roofline(2, 4, 3, 4, 10.0, 20.0), (48 / 104, 5.2))


@bound.check("a machine that calculates slowly and moves fast")
def roofline_slow_calculator(roofline):
    same(roofline(5, 7, 3, 2, 3.0, 1e6), (210 / (2 * 71), 70.0))


@bound.check("one token and a large matrix: a step of writing")
def roofline_one_row(roofline):
    n = 1000 + int(integers(0, 1000))
    same(roofline(1, n, 2 * n, 2, 1e11, 2e10), (4 * n * n / (2 * (3 * n + 2 * n * n)), (3 * n + 2 * n * n) / 1e10))


@bound.check("a long prompt and the same kind of matrix")
def roofline_many_rows(roofline):
    n = 1000 + int(integers(0, 1000))
    numbers = 700 * n + 2 * n * n + 700 * 2 * n
    operations = 2 * 700 * n * 2 * n
    same(roofline(700, n, 2 * n, 4, 1e10, 2e10), (operations / (4 * numbers), operations / 1e10))


@bound.check("numbers of half a byte, as in a model with 4-bit weights")
def roofline_half_bytes(roofline):
    same(roofline(3, 8, 16, 0.5, 1000.0, 4.0), (768 / 100, 25.0))


@bound.mistake("""You counted one operation where there are two. Each of the n_in numbers of a sum is multiplied and
    then added: 2 * n_rows * n_in * n_out.""")
def one_operation(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, max(operations / flops, moved / bandwidth)


@bound.mistake("""You added the two times. The machine calculates while it moves, so that the slower of the two
    decides: take the larger time.""")
def times_added(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, operations / flops + moved / bandwidth


@bound.mistake("""You took the shorter of the two times. Both things have to be finished: take the longer one.""")
def shorter_time(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, min(operations / flops, moved / bandwidth)


@bound.mistake("""You counted the bytes of the matrix only. x has to be read too, and the result written. For one row
    nobody would notice; for a long prompt they are a large share.""")
def matrix_only(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * n_in * n_out
    return operations / moved, max(operations / flops, moved / bandwidth)


@bound.mistake("""You left out the result. It is written to memory as well: n_rows * n_out numbers.""")
def result_forgotten(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out)
    return operations / moved, max(operations / flops, moved / bandwidth)


@bound.mistake("""You let the matrix be read again for each row. It goes through memory once, and serves all rows:
    that is why reading a prompt is so much cheaper, per token, than writing.""")
def matrix_for_each_row(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * n_rows * (n_in + n_in * n_out + n_out)
    return operations / moved, max(operations / flops, moved / bandwidth)


@bound.mistake("""You counted numbers and not bytes. Each number takes bytes_per_number bytes; that is what makes
    16-bit numbers faster than 32-bit ones.""")
def numbers_not_bytes(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = n_rows * n_in + n_in * n_out + n_rows * n_out
    return operations / moved, max(operations / flops, moved / bandwidth)


@bound.mistake("""Your first answer is upside down: bytes per operation. Asked for are operations per byte.""")
def upside_down(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return moved / operations, max(operations / flops, moved / bandwidth)


@bound.mistake("""You looked at the bytes only. Where there is much to calculate per byte, as in a long prompt,
    calculating takes longer than moving: compare both times.""")
def bytes_alone(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, moved / bandwidth


@bound.mistake("""You looked at the operations only. A step of writing does few of them, and waits for the bytes of
    the matrix: compare both times.""")
def operations_alone(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations = 2 * n_rows * n_in * n_out
    moved = bytes_per_number * (n_rows * n_in + n_in * n_out + n_rows * n_out)
    return operations / moved, operations / flops


@bound.mistake("""You gave the two answers in the wrong order. First the operations per byte, then the seconds.""")
def seconds_first(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    intensity, seconds = roofline(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth)
    return seconds, intensity


@bound.alternative("the rate that can be reached: the roof, and the slope to its left")
def by_the_roof(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    numbers = n_rows * n_in + n_out * (n_in + n_rows)
    operations = n_rows * n_out * (n_in + n_in)
    intensity = operations / (numbers * bytes_per_number)
    reached = min(flops, intensity * bandwidth)
    return intensity, operations / reached


@bound.alternative("row by row")
def row_by_row(n_rows, n_in, n_out, bytes_per_number, flops, bandwidth):
    operations, moved = 0, n_in * n_out * bytes_per_number
    for _ in range(n_rows):
        operations += 2 * n_in * n_out
        moved += (n_in + n_out) * bytes_per_number
    times = sorted([operations / flops, moved / bandwidth])
    return operations / moved, times[-1]


# 12.2 step_bytes ----------------------------------------------------------------------------------------------------


def step_bytes(
    config: Config, n_weights: int, n_tokens: int, n_texts: int = 1, weight_bits: int = 16, cache_bits: int = 16
) -> float:
    """Count the bytes that are read to write one more token of each text.

    n_texts texts are written side by side, and each is n_tokens long so far. All of them use the same n_weights
    weights, of weight_bits bits each. Each has a cache of its own: a key and a value, head_dim numbers each, for each
    of its tokens, in each layer and each key/value head, cache_bits bits per number. A byte has 8 bits.
    """
    cached_numbers = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return (n_weights * weight_bits + cached_numbers * cache_bits) / 8


step = Exercise(
    "12.2",
    step_bytes,
    hints=(
        "Two sums: the weights, and the caches. Which of them is there once, however many texts there are?",
        "The numbers in the cache of one token of one text: 2 (a key, a value) times layers times key/value heads "
        "times head_dim.",
        "`cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts`, and the answer is"
        " `(n_weights * weight_bits + cached * cache_bits) / 8`.",
    ),
)


def _sizes() -> Config:
    return Config(vocab_size=9, d_model=30, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=4, d_ff=7)


@step.check("a small model by hand: 3 layers, 2 key/value heads of 4 numbers, 100 weights, one text of 4 tokens")
def step_by_hand(step_bytes):
    same(step_bytes(_sizes(), 100, 4), 584)


@step.check("seven texts side by side")
def step_seven_texts(step_bytes):
    n_tokens = 10 + int(integers(0, 50))
    same(step_bytes(_sizes(), 1000, n_tokens, n_texts=7), 2000 + 2 * 48 * 7 * n_tokens)


@step.check("weights of 4 bits, a cache of 16 bits")
def step_four_bits(step_bytes):
    same(step_bytes(_sizes(), 1000, 30, 3, weight_bits=4), 500 + 2 * 48 * 3 * 30)


@step.check("a cache of 8 bits, weights of 32")
def step_small_cache(step_bytes):
    same(step_bytes(_sizes(), 1000, 30, 3, weight_bits=32, cache_bits=8), 4000 + 48 * 3 * 30)


@step.check("a text that has not begun: no tokens yet")
def step_empty(step_bytes):
    n_weights = 8 * int(integers(10, 99))
    same(step_bytes(_sizes(), n_weights, 0, n_texts=5, weight_bits=8), n_weights)


@step.mistake("""You counted a key and a value for each query head. Only the key/value heads are kept, n_kv_heads:
    that is what grouped-query attention is for.""")
def query_heads(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_heads * config.head_dim * n_tokens * n_texts
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""You counted keys or values, and there are both: 2 times as many numbers in the cache.""")
def keys_only(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""You read the weights again for each text. They go through memory once per step and serve all texts;
    only the caches are everybody's own. That is why a server writes many texts side by side.""")
def weights_for_each_text(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens
    return n_texts * (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""You counted one cache for all texts. Each text has keys and values of its own: times n_texts.""")
def one_cache(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""Your answer is in bits. A byte has 8 of them: divide by 8.""")
def in_bits(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return n_weights * weight_bits + cached * cache_bits


@step.mistake("""You gave the cache as many bits per number as the weights. They are two settings: weights of 4 bits
    with a cache of 16 bits are quite usual.""")
def same_bits(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return (n_weights + cached) * weight_bits / 8


@step.mistake("""You counted the cache of one layer. Every layer keeps keys and values of its own: times n_layers.""")
def one_layer(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""You took 16 bits for everything, or forgot to use the two settings: weight_bits and cache_bits say
    how many bits a number takes.""")
def always_sixteen(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return 2 * (n_weights + cached)


@step.mistake("""You turned the bits into whole bytes, with //, before you multiplied. Half a byte then becomes 0:
    weights of 4 bits would cost nothing. Multiply first, and divide by 8 at the end.""")
def bits_to_whole_bytes(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_tokens * n_texts
    return n_weights * (weight_bits // 8) + cached * (cache_bits // 8)


@step.mistake("""You counted d_model numbers for each key/value head. A head keeps head_dim numbers, a small part of
    d_model.""")
def whole_width(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.d_model * n_tokens * n_texts
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.mistake("""You counted the cache of one token per text. The new token looks at all n_tokens before it: times
    n_tokens.""")
def one_token_each(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cached = 2 * config.n_layers * config.n_kv_heads * config.head_dim * n_texts
    return (n_weights * weight_bits + cached * cache_bits) / 8


@step.alternative("a real cache with one token in it, measured")
def by_a_cache(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    cache = KVCache(config.n_layers)
    for layer in cache.layers:
        layer.append(*torch.zeros(2, 1, config.n_kv_heads, 1, config.head_dim, dtype=torch.int8))
    return n_weights * weight_bits / 8 + n_texts * n_tokens * cache.n_bytes * cache_bits / 8


@step.alternative("layer by layer and text by text")
def layer_by_layer(config, n_weights, n_tokens, n_texts=1, weight_bits=16, cache_bits=16):
    bits = n_weights * weight_bits
    for _ in range(n_texts):
        for _ in range(config.n_layers):
            for _ in ("keys", "values"):
                bits += n_tokens * config.n_kv_heads * config.head_dim * cache_bits
    return bits // 8


# 12.3 running_sum ---------------------------------------------------------------------------------------------------


def running_sum(blocks: list[Tensor]) -> tuple[float, float]:
    """Find the largest score m, and the sum of e^(score - m) over all scores, block after block.

    blocks: tensors of scores (n,), one score long at least; look at one after the other, and keep two numbers
    from one to the next.
    -> (m, sum)
    """
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        total = total * math.exp(m - new_m) + (scores - new_m).exp().sum().item()
        m = new_m
    return m, total


running = Exercise(
    "12.3",
    running_sum,
    hints=(
        "The sum so far was made with the old largest score. What has to happen to it when a block brings a larger "
        "one?",
        "e^(score - new) = e^(score - old) · e^(old - new). So every term of the old sum needs the same factor, and "
        "you can multiply the sum once.",
        "Start with `m = -math.inf` and `total = 0.0`. For each block: the new m is the larger of m and the block's "
        "largest; `total = total * math.exp(m - new_m) + (scores - new_m).exp().sum().item()`.",
    ),
)


def _whole(blocks: list[Tensor]) -> tuple[float, float]:
    scores = torch.cat(blocks).double()
    return scores.max().item(), (scores - scores.max()).exp().sum().item()


@running.check("two blocks by hand, powers of 2 in disguise: [0, ln 2] and [ln 8, ln 2]")
def running_by_hand(running_sum):
    ln2 = math.log(2)
    same(running_sum([torch.tensor([0.0, ln2]), torch.tensor([3 * ln2, ln2])]), (3 * ln2, 13 / 8))


@running.check("the largest score comes first, and later blocks are smaller")
def running_falling(running_sum):
    blocks = [3 + rand(3), rand(2), rand(4) - 2]
    same(running_sum(blocks), _whole(blocks))


@running.check("the largest score comes last")
def running_rising(running_sum):
    blocks = [rand(2) - 1, 1 + rand(3), 3 + rand(2)]
    same(running_sum(blocks), _whole(blocks))


@running.check("all scores below zero")
def running_negative(running_sum):
    blocks = [-5 - rand(3), -4 - rand(2), -6 - rand(2)]
    same(running_sum(blocks), _whole(blocks))


@running.check("scores in the hundreds, up and down: nothing may overflow")
def running_large(running_sum):
    blocks = [200 + rand(2), 900 + rand(3), 100 + rand(2), 899 + rand(2)]
    same(running_sum(blocks), _whole(blocks), atol=1e-4, rtol=1e-4)


@running.check("one block only")
def running_one_block(running_sum):
    blocks = [2 * randn(5)]
    same(running_sum(blocks), _whole(blocks))


@running.mistake("""You never corrected the old sum. When a block brings a larger score, the old terms were measured
    against the old one: multiply the sum so far by e^(old m - new m).""")
def never_rescaled(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        m = max(m, scores.max().item())
        total = total + (scores - m).exp().sum().item()
    return m, total


@running.mistake("""You corrected the old sum the wrong way round, with e^(new m - old m). A larger m makes every old
    term smaller: the factor is e^(old m - new m), 1 at most.""")
def rescaled_upwards(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        factor = math.exp(new_m - m) if total else 1.0
        total, m = total * factor + (scores - new_m).exp().sum().item(), new_m
    return m, total


@running.mistake("""You corrected the old sum the wrong way round, with e^(new m - old m). At the start, with m =
    -infinity, that is infinity times 0: not a number. The factor is e^(old m - new m), 0 at the start and 1 at
    most.""")
def rescaled_upwards_from_the_start(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        total = total * math.exp(new_m - m) + (scores - new_m).exp().sum().item()
        m = new_m
    return m, total


@running.mistake("""You did not keep the new m for the next block: with m = -infinity each time, the factor is always
    0, and all blocks before are forgotten. End the loop with `m = new_m`.""")
def new_maximum_not_kept(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        total = total * math.exp(m - new_m) + (scores - new_m).exp().sum().item()
    return new_m, total


@running.mistake("""You measured each block against its own largest score, and m is then that of the last block. m
    must remember all blocks: the larger of the old m and the block's largest.""")
def own_maximum(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = scores.max().item()
        total = total * math.exp(m - new_m) + (scores - new_m).exp().sum().item()
        m = new_m
    return m, total


@running.mistake("""You let m start at 0, so that it can't be below. Start at -math.inf, or with the first block's
    largest score: scores may all be negative.""")
def starts_at_zero(blocks):
    m, total = 0.0, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        total = total * math.exp(m - new_m) + (scores - new_m).exp().sum().item()
        m = new_m
    return m, total


@running.mistake("""You summed e^score and divided by e^m at the end. With scores in the hundreds that is infinite:
    subtract m before you take the power.""")
def subtracts_late(blocks):
    m = max(scores.max().item() for scores in blocks)
    total = sum(scores.exp().sum() for scores in blocks) / torch.tensor(m).exp()
    return m, total.item()


@running.mistake("""You multiplied the new block's sum by the factor too. It is measured against the new m already;
    only the old sum has to be corrected.""")
def both_rescaled(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        factor = math.exp(m - new_m) if total else 1.0
        total = (total + (scores - new_m).exp().sum().item()) * factor
        m = new_m
    return m, total


@running.mistake("""You forgot the blocks before: your sum is that of the last block alone. Add it to the corrected
    old sum.""")
def last_block_alone(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        m = max(m, scores.max().item())
        total = (scores - m).exp().sum().item()
    return m, total


@running.mistake("""You corrected the old sum by the difference of the two largest scores, old m - new m, and not by e
    to the power of it.""")
def no_exponential(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        new_m = max(m, scores.max().item())
        factor = (m - new_m) if total else 0.0
        total, m = total * factor + (scores - new_m).exp().sum().item(), new_m
    return m, total


@running.mistake("""You counted a block as one term, that of its largest score. Every score of the block belongs into
    the sum.""")
def one_term_per_block(blocks):
    m, total = -math.inf, 0.0
    for scores in blocks:
        largest = scores.max().item()
        new_m = max(m, largest)
        total, m = total * math.exp(m - new_m) + math.exp(largest - new_m), new_m
    return m, total


@running.mistake("""You gave the two answers in the wrong order. First the largest score, then the sum.""")
def sum_first(blocks):
    m, total = running_sum(blocks)
    return total, m


@running.alternative("the logarithm of the sum, kept with logaddexp")
def by_logarithms(blocks):
    m = torch.tensor(-math.inf, dtype=torch.float64)
    log_sum = m
    for scores in blocks:
        log_sum = torch.logaddexp(log_sum, scores.double().logsumexp(dim=0))
        m = torch.maximum(m, scores.double().max())
    return m.item(), (log_sum - m).exp().item()


@running.alternative("score by score, with plain numbers")
def score_by_score(blocks):
    m, total = None, 0.0
    for score in (score for scores in blocks for score in scores.tolist()):
        if m is None:
            m, total = score, 1.0
        elif score > m:
            m, total = score, total * math.exp(m - score) + 1.0
        else:
            total += math.exp(score - m)
    return m, total


@running.alternative("each block by itself, then both put on one scale")
def two_scales(blocks):
    pairs = [(scores.max().item(), (scores - scores.max()).exp().sum().item()) for scores in blocks]
    m, total = pairs[0]
    for other_m, other in pairs[1:]:
        top = max(m, other_m)
        total = total * math.exp(m - top) + other * math.exp(other_m - top)
        m = top
    return m, total


# 12.4 tiled_attend --------------------------------------------------------------------------------------------------


def tiled_attend(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    """Compute attention with `block` keys and values at a time, and no table of all scores.

    Shape: (..., T, D), (..., S, D), (..., S, Dv) -> (..., T, Dv). S need not be a multiple of block.
    Computes softmax(q k^T / sqrt(D)) v; every query may look at every key.
    Source: Dao et al. 2022, arXiv:2205.14135 (FlashAttention); to divide once at the end: Dao 2023, arXiv:2307.08691.
    """
    m = torch.full((*q.shape[:-1], 1), -math.inf)  # (..., T, 1)
    total = torch.zeros_like(m)
    out = torch.zeros(*q.shape[:-1], v.size(-1))
    for start in range(0, k.size(-2), block):
        keys, values = k[..., start : start + block, :], v[..., start : start + block, :]
        scores = q @ keys.transpose(-2, -1) / math.sqrt(q.size(-1))  # (..., T, block)
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out = out * correction + powers @ values
        m = new_m
    return out / total


tiled = Exercise(
    "12.4",
    tiled_attend,
    hints=(
        "Keep three things from block to block, for each query: m and total as in 12.3, and out, the sum of the "
        "values so far, each times its power. Divide once, at the end.",
        "One number per query: shape (..., T, 1), so that it fits to (..., T, block) and to (..., T, Dv). "
        "`scores.amax(dim=-1, keepdim=True)` is the largest score of each query in this block.",
        "In the loop, after new_m: `powers = (scores - new_m).exp()`, `correction = (m - new_m).exp()`; then `total ="
        " total * correction + powers.sum(dim=-1, keepdim=True)` and `out = out * correction + powers @ values`.",
    ),
)


@tiled.check("one query by hand, two blocks: scores 0, ln 2, ln 8 and values 11, 22, 33")
def tiled_by_hand(tiled_attend):
    k = torch.tensor([[0.0], [math.log(2)], [math.log(8)]])
    same(tiled_attend(torch.ones(1, 1), k, torch.tensor([[11.0], [22.0], [33.0]]), 2), torch.tensor([[29.0]]))


@tiled.check("texts and heads, three queries, six keys in blocks of two")
def tiled_even(tiled_attend):
    q, k, v = 2 * randn(2, 4, 3, 5), 2 * randn(2, 4, 6, 5), randn(2, 4, 6, 7)
    same(tiled_attend(q, k, v, 2), F.scaled_dot_product_attention(q, k, v))


@tiled.check("seven keys in blocks of three: the last block is shorter")
def tiled_uneven(tiled_attend):
    q, k, v = 2 * randn(4, 5), 2 * randn(7, 5), randn(7, 3)
    same(tiled_attend(q, k, v, 3), F.scaled_dot_product_attention(q, k, v))


@tiled.check("a block larger than the text")
def tiled_one_block(tiled_attend):
    q, k, v = randn(2, 4, 5), randn(2, 3, 5), randn(2, 3, 6)
    same(tiled_attend(q, k, v, 8), F.scaled_dot_product_attention(q, k, v))


@tiled.check("scores in the hundreds, the largest in another block for each query")
def tiled_large(tiled_attend):
    k = 10 * torch.eye(6)[permutation(6)]
    q, v = 100 * torch.eye(6) + randn(6, 6), randn(6, 4)
    same(tiled_attend(q, k, v, 2), F.scaled_dot_product_attention(q, k, v), atol=1e-4)


@tiled.check("three queries: scores in the hundreds, near 0, and hundreds below 0")
def tiled_far_apart(tiled_attend):
    q, k, v = torch.tensor([[400.0], [1.0], [-400.0]]), 1 + rand(5, 1), randn(5, 3)
    same(tiled_attend(q, k, v, 2), F.scaled_dot_product_attention(q, k, v), atol=1e-4)


@tiled.check("equal scores: the plain average of the values, whatever the blocks")
def tiled_average(tiled_attend):
    v = randn(5, 4)
    same(tiled_attend(randn(2, 3), torch.zeros(5, 3), v, 2), v.mean(dim=0).expand(2, 4).clone())


def _tiled(q, k, v, block, *, scale=None, rescale_out=True, rescale_total=True, whole_blocks=False):
    """The solution with one thing in it that can be wrong."""
    m = torch.full((*q.shape[:-1], 1), -math.inf)
    total, out = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.size(-1))
    S = k.size(-2)
    for start in range(0, S - S % block if whole_blocks else S, block):
        keys, values = k[..., start : start + block, :], v[..., start : start + block, :]
        scores = q @ keys.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * (correction if rescale_total else 1) + powers.sum(dim=-1, keepdim=True)
        out = out * (correction if rescale_out else 1) + powers @ values
        m = new_m
    return out / total


@tiled.mistake("""You corrected neither the sum nor the values when a block brought a larger score. Both were made
    with the old m: multiply both by e^(old m - new m).""")
def nothing_corrected(q, k, v, block):
    return _tiled(q, k, v, block, rescale_out=False, rescale_total=False)


@tiled.mistake("""You corrected the sum of powers, and not the values that were collected with them. `out` was made
    with the old m as well: the same factor for both.""")
def values_not_corrected(q, k, v, block):
    return _tiled(q, k, v, block, rescale_out=False)


@tiled.mistake("""You corrected the values, and not the sum of powers. Both were made with the old m: the same factor
    for both.""")
def sum_not_corrected(q, k, v, block):
    return _tiled(q, k, v, block, rescale_total=False)


@tiled.mistake("""You left out the last block, because it is shorter than the others. Go in steps up to the end,
    `range(0, S, block)`: slices stop at the end by themselves.""")
def last_block_left_out(q, k, v, block):
    return _tiled(q, k, v, block, whole_blocks=True)


@tiled.mistake("""You forgot the root: scores are q · k / sqrt(D), as in chapter 03.""")
def no_root(q, k, v, block):
    return _tiled(q, k, v, block, scale=1.0)


@tiled.mistake("""You divided the scores by D and not by its root, sqrt(D).""")
def divided_by_width(q, k, v, block):
    return _tiled(q, k, v, block, scale=1 / q.size(-1))


@tiled.mistake("""You made a softmax of each block, and averaged the blocks. A block in which nothing fits then counts
    as much as the one in which everything does: collect sums over all blocks, and divide once at the end.""")
def average_of_blocks(q, k, v, block):
    outs = [_tiled(q, k[..., s : s + block, :], v[..., s : s + block, :], block) for s in range(0, k.size(-2), block)]
    return sum(outs) / len(outs)


@tiled.mistake("""You made a softmax of each block, and added up what came out. The weights of each block add up to 1,
    so all of them to as many as there are blocks: collect sums over all blocks, and divide once at the end.""")
def sum_of_blocks(q, k, v, block):
    outs = [_tiled(q, k[..., s : s + block, :], v[..., s : s + block, :], block) for s in range(0, k.size(-2), block)]
    return sum(outs)


@tiled.mistake("""You corrected the wrong way round, with e^(new m - old m). At the start, with m = -infinity, that is
    infinity times 0: not a number. A larger m makes old terms smaller: the factor is e^(old m - new m).""")
def corrected_upwards(q, k, v, block):
    m = torch.full((*q.shape[:-1], 1), -math.inf)
    total, out = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.size(-1))
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
        powers, correction = (scores - new_m).exp(), (new_m - m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out, m = out * correction + powers @ v[..., start : start + block, :], new_m
    return out / total


@tiled.mistake("""You never divided by the sum of the powers. Weights have to add up to 1: `out / total`, once, at the
    end.""")
def never_divided(q, k, v, block):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    return (scores - scores.amax(dim=-1, keepdim=True)).exp() @ v


@tiled.mistake("""You divided by the running sum after each block, and again after the next. What is divided already
    is then divided once more: collect first, divide once at the end.""")
def divided_each_time(q, k, v, block):
    m = torch.full((*q.shape[:-1], 1), -math.inf)
    total, out = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.size(-1))
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out, m = (out * correction + powers @ v[..., start : start + block, :]) / total, new_m
    return out


@tiled.mistake("""You took the powers of the scores as they are. e^89 is more than a float32 holds: subtract the
    largest score so far, and correct the sums when it grows.""")
def no_maximum(q, k, v, block):
    total, out = 0.0, 0.0
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        total = total + scores.exp().sum(dim=-1, keepdim=True)
        out = out + scores.exp() @ v[..., start : start + block, :]
    return out / total


@tiled.mistake("""You took the largest score of the block in place of the largest so far. Where the next block is
    lower, the correction e^(old - new) grows without end and overflows: m is the larger of the old m and the
    block's.""")
def maximum_of_the_block(q, k, v, block):
    m = torch.full((*q.shape[:-1], 1), -math.inf)
    total, out = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.size(-1))
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        new_m = scores.amax(dim=-1, keepdim=True)
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out, m = out * correction + powers @ v[..., start : start + block, :], new_m
    return out / total


@tiled.mistake("""You took one largest score for all queries. A query whose scores lie far below it gets powers that
    are all 0, and 0 / 0: give each query its own, `.amax(dim=-1, keepdim=True)`.""")
def one_maximum_for_all(q, k, v, block):
    m, total, out = torch.tensor(-math.inf), 0.0, 0.0
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        new_m = torch.maximum(m, scores.max())
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out, m = out * correction + powers @ v[..., start : start + block, :], new_m
    return out / total


@tiled.mistake("""You let m start at 0. A query whose scores lie far below 0 then gets powers that are all 0, and 0 /
    0: start at minus infinity.""")
def starts_at_nought(q, k, v, block):
    m = torch.zeros(*q.shape[:-1], 1)
    total, out = torch.zeros_like(m), torch.zeros(*q.shape[:-1], v.size(-1))
    for start in range(0, k.size(-2), block):
        scores = q @ k[..., start : start + block, :].transpose(-2, -1) / math.sqrt(q.size(-1))
        new_m = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
        powers, correction = (scores - new_m).exp(), (m - new_m).exp()
        total = total * correction + powers.sum(dim=-1, keepdim=True)
        out, m = out * correction + powers @ v[..., start : start + block, :], new_m
    return out / total


@tiled.alternative("each block's attention by torch's own softmax, joined by the logarithms of their sums")
def joined_by_logarithms(q, k, v, block):
    q, k, v = q.double(), k.double(), v.double()
    outs, logs = [], []
    for keys, values in zip(k.split(block, dim=-2), v.split(block, dim=-2), strict=True):
        scores = torch.einsum("...td,...sd->...ts", q, keys) / q.size(-1) ** 0.5
        outs.append(scores.softmax(dim=-1) @ values)
        logs.append(scores.logsumexp(dim=-1))
    shares = torch.stack(logs).softmax(dim=0)
    return (torch.stack(outs) * shares[..., None]).sum(dim=0).float()


@tiled.alternative("the largest score of every query first, then one pass for the sums")
def two_passes(q, k, v, block):
    scaled = q / math.sqrt(q.size(-1))
    pieces = range(0, k.size(-2), block)
    largest = torch.stack([(scaled @ k[..., s : s + block, :].mT).amax(dim=-1) for s in pieces]).amax(dim=0)
    total, out = 0, 0
    for s in pieces:
        powers = (scaled @ k[..., s : s + block, :].mT - largest[..., None]).exp()
        total, out = total + powers.sum(dim=-1), out + powers @ v[..., s : s + block, :]
    return out / total[..., None]


@tiled.alternative("key by key, each one mixed into the average so far")
def key_by_key(q, k, v, block):
    scaled = q * q.size(-1) ** -0.5
    m = (scaled @ k[..., :1, :].transpose(-2, -1))[..., 0]
    total, out = torch.ones_like(m), v[..., :1, :].expand(*q.shape[:-1], v.size(-1)).clone()
    for s in range(1, k.size(-2)):
        score = (scaled @ k[..., s : s + 1, :].transpose(-2, -1))[..., 0]
        top = torch.maximum(m, score)
        old, new = total * (m - top).exp(), (score - top).exp()
        m, total = top, old + new
        out = out + (new / total)[..., None] * (v[..., s : s + 1, :] - out)
    return out


# 12.5 quantize_int8 -------------------------------------------------------------------------------------------------

int8 = Exercise(
    "12.5",
    quantize.quantize_int8,
    hints=(
        "Each row is by itself: find its largest number, whatever its sign, with `.abs().amax(dim=1)`. That number "
        "becomes 127 or -127.",
        "The scale of a row is its largest number / 127. Divide the row by its scale, and round to the nearest whole "
        "number. What if the row is all zeros?",
        "`weight = weight.float()`; `largest = weight.abs().amax(dim=1)`; `scale = torch.where(largest > 0, largest / "
        "127, 1.0)`; then `(weight / scale[:, None]).round()`, and at the end `.to(torch.int8)`.",
    ),
)


def _restored(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale[:, None]


def _step(largest: Tensor) -> Tensor:
    """1/127 of the largest number of a row, and 1 for a row of zeros."""
    return torch.where(largest > 0, largest / 127, 1.0)


def _within_half_a_step(weight: Tensor, codes: Tensor, scale: Tensor):
    same(tuple(scale.shape), (weight.size(0),))
    restored, half = _restored(codes, scale), 0.501 * weight.abs().amax(dim=1, keepdim=True) / 127
    good = restored.shape == weight.shape and bool(((restored - weight).abs() <= half + 1e-12).all())
    holds(good, "code times scale of its row should be at most half a step away from the weight", given=restored)


@int8.check("two rows by hand: largest number 1.27, and largest number -2.54")
def int8_by_hand(quantize_int8):
    weight = torch.tensor([[0.5, -1.27, 0.02, 0.8], [-2.54, 1.0, 0.0, 0.101]])
    codes, scale = quantize_int8(weight)
    same(codes, torch.tensor([[50, -127, 2, 80], [-127, 50, 0, 5]], dtype=torch.int8))
    same(scale, torch.tensor([0.01, 0.02]))


@int8.check("rows of very different size, in a square matrix")
def int8_rows(quantize_int8):
    weight = (2 * rand(5, 5) - 1) * torch.tensor([0.2, 100.0, 3.0, 1.27, 0.0004])[:, None]
    codes, scale = quantize_int8(weight)
    _within_half_a_step(weight, codes, scale)


@int8.check("a row of zeros between two others: its scale is 1")
def int8_zeros(quantize_int8):
    weight = torch.stack([rand(6), torch.zeros(6), -rand(6)])
    codes, scale = quantize_int8(weight)
    _within_half_a_step(weight, codes, scale)
    same(scale[1].item(), 1.0)


@int8.check("rows in which everything is negative")
def int8_negative(quantize_int8):
    weight = -0.1 - rand(3, 7)
    codes, scale = quantize_int8(weight)
    _within_half_a_step(weight, codes, scale)


@int8.check("minus the weights: minus the codes, with the same scale")
def int8_symmetric(quantize_int8):
    weight = randn(4, 6)
    there, back = quantize_int8(weight), quantize_int8(-weight)
    same(_restored(*back), -_restored(*there))


@int8.check("the largest number of each row comes back as it was")
def int8_extremes(quantize_int8):
    weight = (0.2 * rand(4, 9)).index_fill_(1, torch.tensor([3]), 1.0) * (1 + rand(4, 1))
    codes, scale = quantize_int8(weight)
    same(_restored(codes, scale)[:, 3], weight[:, 3])


@int8.check("a weight in bfloat16: codes and a scale in float32 as if it had been float32")
def int8_half_the_bits(quantize_int8):
    weight = randn(4, 6).bfloat16()
    codes, scale = quantize_int8(weight)
    same(scale, weight.float().abs().amax(dim=1) / 127)
    _within_half_a_step(weight.float(), codes, scale)


@int8.mistake("""You computed in the weight's own dtype. In bfloat16 a scale has two or three digits, and so has the
    quotient that you round: `weight = weight.float()` first.""")
def in_its_own_dtype(weight):
    scale = torch.where(weight.abs().amax(dim=1) > 0, weight.abs().amax(dim=1) / 127, 1.0)
    return (weight / scale[:, None]).round().to(torch.int8), scale


@int8.mistake("""You took one scale per column. What is added up in the product is a row, so a row needs one scale
    that can be applied to its sum: `.amax(dim=1)`.""")
def scale_per_column(weight):
    weight = weight.float()
    scale = _step(weight.abs().amax(dim=0))
    return (weight / scale).round().to(torch.int8), scale


@int8.mistake("""You turned the numbers into int8 without rounding. That cuts off what is behind the point, 2.9
    becomes 2, and the error is up to a whole step: `.round()` first.""")
def cut_off(weight):
    weight = weight.float()
    scale = _step(weight.abs().amax(dim=1))
    return (weight / scale[:, None]).to(torch.int8), scale


@int8.mistake("""You divided by 128. There is no 128 in int8: the largest weight of a row that is positive wraps round
    to -128, the largest error there can be. Divide by 127.""")
def divided_by_128(weight):
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / 128, 1.0)
    return (weight / scale[:, None]).round().to(torch.int32).to(torch.int8), scale


@int8.mistake("""You took the largest number with its sign, `weight.amax`. A row whose largest number is negative then
    has codes below -128, which int8 can't hold: take `weight.abs().amax(dim=1)`.""")
def largest_with_sign(weight):
    weight = weight.float()
    scale = _step(weight.amax(dim=1))
    return (weight / scale[:, None]).round().to(torch.int8), scale


@int8.mistake("""You took one scale for the whole matrix. One large row then ruins all the small ones: give each row
    its own, `.amax(dim=1)`.""")
def one_scale_for_all(weight):
    weight = weight.float()
    scale = _step(weight.abs().max()).expand(weight.size(0)).clone()
    return (weight / scale[:, None]).round().to(torch.int8), scale


@int8.mistake("""You always rounded down (floor, or //). Round to the nearest: `.round()`. Otherwise every weight
    becomes a little smaller, and the errors of a sum add up instead of cancelling.""")
def rounded_down(weight):
    weight = weight.float()
    scale = _step(weight.abs().amax(dim=1))
    return (weight / scale[:, None]).floor().to(torch.int8), scale


@int8.mistake("""Your scale is upside down, 127 / largest. The scale is what a code is multiplied by to get the weight
    back: largest / 127.""")
def scale_upside_down(weight):
    weight = weight.float()
    scale = 1 / _step(weight.abs().amax(dim=1))
    return (weight * scale[:, None]).round().to(torch.int8), scale


@int8.mistake("""Your scale has shape (N, 1). Asked for is (N,), one number per row: leave out keepdim, and write
    `scale[:, None]` where you divide.""")
def scale_as_a_column(weight):
    weight = weight.float()
    scale = _step(weight.abs().amax(dim=1, keepdim=True))
    return (weight / scale).round().to(torch.int8), scale


@int8.mistake("""Your codes are whole numbers, and still stored as float32: four bytes each, and nothing is saved. End
    with `.to(torch.int8)`.""")
def still_float(weight):
    weight = weight.float()
    scale = _step(weight.abs().amax(dim=1))
    return (weight / scale[:, None]).round(), scale


@int8.mistake("""You spread each row from its smallest to its largest number over 0 to 255, in uint8. That needs a
    second number per row, and the zero no longer is zero. Asked for is the symmetric kind: -127 to 127, in int8.""")
def from_smallest_to_largest(weight):
    weight = weight.float()
    low, high = weight.amin(dim=1), weight.amax(dim=1)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    return ((weight - low[:, None]) / scale[:, None]).round().to(torch.uint8), scale


@int8.mistake("""Your steps are twice as wide as they need be: you divided by 63 or 64, and half of the codes are
    never used. The largest number of a row becomes 127.""")
def half_of_the_codes(weight):
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / 63, 1.0)
    return (weight / scale[:, None]).round().to(torch.int8), scale


@int8.mistake("""Your codes are right, and your scale is the largest number of the row. The scale is one step, what a
    code is multiplied by: largest / 127.""")
def largest_as_scale(weight):
    weight = weight.float()
    codes, scale = quantize.quantize_int8(weight)
    return codes, 127 * scale


@int8.mistake("""You left a row of zeros with a scale of 0, or nearly 0, and 0 / 0 is not a number. Give such a row
    the scale 1: `torch.where(largest > 0, largest / 127, 1.0)`.""")
def zeros_forgotten(weight):
    weight = weight.float()
    scale = weight.abs().amax(dim=1) / 127
    return (weight / scale.clamp(min=1e-12)[:, None]).round().to(torch.int8), scale


@int8.alternative("row by row, number by number, with Python's round")
def number_by_number(weight):
    codes = torch.zeros(weight.shape, dtype=torch.int8)
    scale = torch.ones(weight.size(0))
    for n, row in enumerate(weight.tolist()):
        largest = max(abs(number) for number in row)
        if largest > 0:
            scale[n] = largest / 127
            codes[n] = torch.tensor([round(number * 127 / largest) for number in row])
    return codes, scale


@int8.alternative("numpy, with rint and clip")
def with_numpy(weight):
    import numpy as np

    numbers = weight.double().numpy()
    scale = np.abs(numbers).max(axis=1) / 127
    scale[scale == 0] = 1
    codes = np.clip(np.rint(numbers / scale[:, None]), -127, 127).astype(np.int8)
    return torch.from_numpy(codes), torch.from_numpy(scale).float()


@int8.alternative("torch's own quantized tensors")
def by_torch(weight):
    weight = weight.float()
    scale = torch.linalg.vector_norm(weight, ord=math.inf, dim=-1) / 127
    scale = scale.masked_fill(scale == 0, 1.0)
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -127, 127).div(scale[:, None]).round().to(
        torch.int8
    ), scale


# 12.6 int8_linear ---------------------------------------------------------------------------------------------------


def int8_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Multiply with a matrix of int8 codes, and scale afterwards: one multiplication for each number of the result.

    Shape: x (..., K) float32, codes (N, K) int8, scale (N,) -> (..., N) float32
    The same as x times the restored matrix, whose row n is codes[n] * scale[n].
    """
    return x @ codes.float().T * scale


scaled = Exercise(
    "12.6",
    int8_linear,
    hints=(
        "Number n of the result is the sum over k of x[k] * codes[n, k] * scale[n]. What stands in every term of this"
        " sum?",
        "scale[n] can be taken out of the sum. So first x times the codes, as if they were weights, then each number "
        "n of the result times scale[n].",
        "`codes.float().T` has shape (K, N), and x @ that is (..., N). Times scale, of shape (N,), is right by "
        "broadcasting.",
    ),
)


@scaled.check("by hand: x = [1, 2], codes [[10, 20], [-30, 5], [0, 1]], scales 0.1, 0.01 and 2")
def scaled_by_hand(int8_linear):
    codes = torch.tensor([[10, 20], [-30, 5], [0, 1]], dtype=torch.int8)
    same(int8_linear(torch.tensor([1.0, 2.0]), codes, torch.tensor([0.1, 0.01, 2.0])), torch.tensor([5.0, -0.2, 4.0]))


@scaled.check("texts of tokens, large codes")
def scaled_tokens(int8_linear):
    x, codes, scale = randn(2, 3, 6), integers(-127, 128, 5, 6).to(torch.int8), 0.01 + rand(5)
    same(int8_linear(x, codes, scale), F.linear(x, codes.float() * scale[:, None]), atol=1e-3)


@scaled.check("a square matrix")
def scaled_square(int8_linear):
    x, codes, scale = randn(4, 5), integers(-127, 128, 5, 5).to(torch.int8), 0.01 + rand(5)
    same(int8_linear(x, codes, scale), F.linear(x, codes.float() * scale[:, None]), atol=1e-3)


@scaled.check("small numbers of x, such as stand behind a norm")
def scaled_small(int8_linear):
    x, codes, scale = 0.1 * randn(2, 4), integers(-127, 128, 3, 4).to(torch.int8), 0.5 + rand(3)
    same(int8_linear(x, codes, scale), F.linear(x, codes.float() * scale[:, None]), atol=1e-3)


@scaled.mistake("""You multiplied column k with scale k (or x with the scales). Scale n belongs to row n of the codes,
    and so to number n of the result. With a square matrix nothing warns you.""")
def columns_scaled(x, codes, scale):
    return x @ (codes.float() * scale).T


@scaled.mistake("""You forgot the scales: the result is in codes, not in weights.""")
def no_scale(x, codes, scale):
    return x @ codes.float().T


@scaled.mistake("""You divided by the scales. A weight is its code times the scale.""")
def divided_by_scale(x, codes, scale):
    return x @ codes.float().T / scale


@scaled.mistake("""You multiplied the result with `scale[:, None]`. Its last axis has N numbers, one for each scale,
    so `* scale` fits as it is; the other way, scale n belongs to a token.""")
def scale_of_a_token(x, codes, scale):
    return x @ codes.float().T * scale[:, None]


@scaled.mistake("""You forgot to turn the codes (`.T`). A matrix of weights has a row for each number of the result.""")
def codes_not_turned(x, codes, scale):
    return x @ codes.float() * scale


@scaled.mistake("""You turned x into int8 too. That cuts 0.9 down to 0, and sums over 127 wrap round. Only the weights
    are stored in 8 bits here; calculate in float32.""")
def x_in_int8(x, codes, scale):
    return (x.to(torch.int8) @ codes.T).float() * scale


@scaled.mistake("""You applied the scale twice, to the codes and to the result. Once is enough: to the result.""")
def scaled_twice(x, codes, scale):
    return x @ (codes.float() * scale[:, None]).T * scale


@scaled.mistake("""You rounded the result to whole numbers. Only the codes are whole; the result is a sum of weights
    times x.""")
def result_rounded(x, codes, scale):
    return (x @ codes.float().T * scale).round()


@scaled.alternative("the matrix restored first")
def restored_first(x, codes, scale):
    return F.linear(x, codes.to(x.dtype) * scale.unsqueeze(1))


@scaled.alternative("einsum over all three")
def scaled_einsum(x, codes, scale):
    return torch.einsum("...k,nk,n->...n", x, codes.to(x), scale)


@scaled.alternative("one number of the result after the other")
def scaled_loop(x, codes, scale):
    columns = [(x * row.float()).sum(dim=-1) * s for row, s in zip(codes, scale, strict=True)]
    return torch.stack(columns, dim=-1)


# 12.7 quantize_int4 -------------------------------------------------------------------------------------------------

int4 = Exercise(
    "12.7",
    quantize.quantize_int4,
    hints=(
        "Cut each row into groups of neighbours: `weight.view(N, K // group_size, group_size)`. Then everything "
        "happens along the last axis.",
        "Of each group: the smallest number (`amin`) and the largest (`amax`). 16 codes have 15 steps between them, "
        "so a step is (largest - smallest) / 15.",
        "`scale = torch.where(largest > minimum, (largest - minimum) / 15, 1.0)`; `codes = ((groups - minimum[..., "
        "None]) / scale[..., None]).round()`; then `.view(N, K).to(torch.uint8)`.",
    ),
)


def _restored_groups(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    groups = codes.float().view(*scale.shape, -1)
    return (groups * scale[..., None] + minimum[..., None]).view(codes.shape)


def _groups_within_half_a_step(weight: Tensor, group_size: int, codes: Tensor, scale: Tensor, minimum: Tensor):
    N, K = weight.shape
    same([tuple(x.shape) for x in (codes, scale, minimum)], [(N, K), (N, K // group_size), (N, K // group_size)])
    groups = weight.view(N, -1, group_size)
    half = 0.501 * (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
    restored = _restored_groups(codes, scale, minimum)
    good = bool(((restored.view_as(groups) - groups).abs() <= half + 1e-5 * groups.abs()).all())
    holds(good, "code times scale plus minimum should be at most half a step away from the weight", given=restored)


@int4.check("two rows of two groups of four, by hand")
def int4_by_hand(quantize_int4):
    weight = torch.tensor([[0.0, 1.5, 0.3, 0.7, 2.0, -1.0, 0.0, 0.41], [-1.0, 0.5, 0.2, -0.4, 7.0, 7.0, 22.0, 9.2]])
    codes, scale, minimum = quantize_int4(weight, group_size=4)
    expected = torch.tensor([[0, 15, 3, 7, 15, 0, 5, 7], [0, 15, 12, 6, 0, 0, 15, 2]], dtype=torch.uint8)
    same(codes, expected)
    same(scale, torch.tensor([[0.1, 0.2], [0.1, 1.0]]))
    same(minimum, torch.tensor([[0.0, -1.0], [-1.0, 7.0]]))


@int4.check("groups of very different size side by side in a row")
def int4_groups(quantize_int4):
    weight = (randn(3, 4, 5) * torch.tensor([0.01, 1.0, 50.0, 3.0])[:, None]).view(3, 20)
    codes, scale, minimum = quantize_int4(weight, group_size=5)
    _groups_within_half_a_step(weight, 5, codes, scale, minimum)


@int4.check("groups of 32, if nobody says otherwise")
def int4_default(quantize_int4):
    weight = randn(2, 96) * (1 + 9 * rand(2, 1))
    codes, scale, minimum = quantize_int4(weight)
    _groups_within_half_a_step(weight, 32, codes, scale, minimum)


@int4.check("numbers far from zero, all of one sign")
def int4_far_from_zero(quantize_int4):
    weight = torch.cat([100 + rand(3, 6), -20 - rand(3, 6)], dim=1)
    codes, scale, minimum = quantize_int4(weight, group_size=6)
    _groups_within_half_a_step(weight, 6, codes, scale, minimum)


@int4.check("a square matrix, whose rows differ more than its columns")
def int4_square(quantize_int4):
    weight = rand(8, 8) * torch.tensor([1.0, 9, 0.1, 4, 0.01, 70, 2, 30])[:, None]
    codes, scale, minimum = quantize_int4(weight, group_size=4)
    _groups_within_half_a_step(weight, 4, codes, scale, minimum)


@int4.check("a group size that does not divide the rows: a ValueError")
def int4_refuses(quantize_int4):
    refuses(quantize_int4, randn(2, 10), group_size=4)


@int4.check("a group in which all numbers are alike: its scale is 1")
def int4_alike(quantize_int4):
    weight = torch.cat([torch.full((2, 4), 0.7), rand(2, 4)], dim=1)
    codes, scale, minimum = quantize_int4(weight, group_size=4)
    _groups_within_half_a_step(weight, 4, codes, scale, minimum)
    same(scale[:, 0], torch.ones(2))


def _divides(K, group_size):
    if K % group_size:
        raise ValueError(f"rows of {K} numbers do not split into groups of group_size={group_size}")


def _int4(weight, group_size=32, *, steps=15, low=None, high=None, round=torch.round, top=15, groups=None):
    """The solution with one thing in it that can be wrong."""
    N, K = weight.shape
    _divides(K, group_size)
    groups = weight.view(N, K // group_size, group_size) if groups is None else groups
    minimum = groups.amin(dim=-1) if low is None else low(groups)
    maximum = groups.amax(dim=-1) if high is None else high(groups)
    scale = torch.where(maximum > minimum, (maximum - minimum) / steps, 1.0)
    codes = round((groups - minimum[..., None]) / scale[..., None])
    return codes.clamp(0, top).view(N, K).to(torch.uint8), scale, minimum


@int4.mistake("""You found smallest and largest of the whole row and gave all its groups the same scale. Each group
    needs its own two numbers; that is all the point of groups.""")
def one_range_per_row(weight, group_size=32):
    return _int4(
        weight,
        group_size,
        low=lambda groups: groups.amin(dim=(1, 2), keepdim=True)[..., 0].expand(groups.shape[:2]).clone(),
        high=lambda groups: groups.amax(dim=(1, 2), keepdim=True)[..., 0].expand(groups.shape[:2]).clone(),
    )


@int4.mistake("""You divided the range by 16. 16 codes have 15 steps between them: with 16, the largest weight of a
    group would need the code 16, which does not fit into 4 bits.""")
def sixteen_steps(weight, group_size=32):
    return _int4(weight, group_size, steps=16, top=16)


@int4.mistake("""You divided the range by 16 and cut off at 15. 16 codes have 15 steps between them: divide by 15, and
    nothing has to be cut off.""")
def sixteen_steps_cut(weight, group_size=32):
    return _int4(weight, group_size, steps=16)


@int4.mistake("""You did not round: turning into a whole number cuts off what is behind the point, and errors reach a
    whole step. `.round()` first.""")
def int4_cut_off(weight, group_size=32):
    return _int4(weight, group_size, round=torch.trunc)


@int4.mistake("""You did not subtract the minimum before you divided. Code 0 must stand for the smallest number of the
    group: (w - minimum) / scale.""")
def minimum_not_subtracted(weight, group_size=32):
    _, scale, minimum = _int4(weight, group_size)
    groups = weight.view(*scale.shape, group_size)
    codes = (groups / scale[..., None]).round()
    return codes.view(weight.shape).to(torch.uint8), scale, minimum


@int4.mistake("""Your groups are made of every so many-th number of a row, because the two sizes in view stand in the
    wrong order. Neighbours belong together: `view(N, K // group_size, group_size)`.""")
def numbers_far_apart(weight, group_size=32):
    N, K = weight.shape
    _divides(K, group_size)
    groups = weight.view(N, group_size, K // group_size).transpose(1, 2)
    codes, scale, minimum = _int4(weight, group_size, groups=groups.contiguous())
    return codes.view(N, K // group_size, group_size).transpose(1, 2).reshape(N, K), scale, minimum


@int4.mistake("""You made the range symmetric, from -largest to largest. A group whose numbers are all of one sign
    then wastes most of its 16 codes: go from the smallest number to the largest.""")
def symmetric_range(weight, group_size=32):
    return _int4(
        weight,
        group_size,
        low=lambda groups: -groups.abs().amax(dim=-1),
        high=lambda groups: groups.abs().amax(dim=-1),
    )


@int4.mistake("""You started each range at 0 at the latest, so that zero is kept. Here it need not be: from the
    smallest to the largest, wherever they are.""")
def range_with_zero(weight, group_size=32):
    return _int4(
        weight,
        group_size,
        low=lambda groups: groups.amin(dim=-1).clamp(max=0),
        high=lambda groups: groups.amax(dim=-1).clamp(min=0),
    )


@int4.mistake("""Your third answer is not the minimum, it is the code at which the zero would be. Asked for is the
    smallest weight of the group itself, so that w is about code * scale + minimum.""")
def zero_point(weight, group_size=32):
    codes, scale, minimum = _int4(weight, group_size)
    return codes, scale, (-minimum / scale).round()


@int4.mistake("""Your codes are int64, eight bytes each. Asked for is uint8; two of them go into one byte in the next
    exercise.""")
def codes_as_int64(weight, group_size=32):
    codes, scale, minimum = _int4(weight, group_size)
    return codes.long(), scale, minimum


@int4.mistake("""You left it to torch to complain about rows that can't be cut into groups, and it speaks of shapes.
    Check first: `if K % group_size: raise ValueError(...)`, with a message that names both numbers.""")
def torch_complains(weight, group_size=32):
    N, K = weight.shape
    groups = weight.view(N, K // group_size, group_size)
    codes, scale, minimum = _int4(weight, group_size, groups=groups)
    return codes, scale, minimum


@int4.mistake("""You left it to torch to complain, and with -1 in `view` it speaks of shapes and raises a
    RuntimeError. Check first: `if K % group_size: raise ValueError(...)`, with a message that names both numbers.""")
def torch_complains_of_minus_one(weight, group_size=32):
    return _int4(weight, group_size, groups=weight.view(weight.size(0), -1, group_size))


@int4.mistake("""You gave the three answers in another order. First the codes, then the scale, then the minimum.""")
def minimum_before_scale(weight, group_size=32):
    codes, scale, minimum = _int4(weight, group_size)
    return codes, minimum, scale


@int4.mistake("""You left a group of equal numbers with a scale of 0, or nearly 0, and 0 / 0 is not a number. Give
    such a group the scale 1: `torch.where(largest > minimum, (largest - minimum) / 15, 1.0)`.""")
def alike_forgotten(weight, group_size=32):
    codes, scale, minimum = _int4(weight, group_size)
    groups = weight.view(*scale.shape, group_size)
    return codes, (groups.amax(dim=-1) - minimum) / 15, minimum


@int4.mistake("""You always took groups of 32. group_size says how many numbers a group has.""")
def always_32(weight, group_size=32):
    return _int4(weight, min(32, weight.size(1)))


@int4.alternative("group by group, in loops")
def group_by_group(weight, group_size=32):
    N, K = weight.shape
    _divides(K, group_size)
    codes, scales, minima = torch.zeros(N, K, dtype=torch.uint8), [], []
    for n in range(N):
        for start in range(0, K, group_size):
            group = weight[n, start : start + group_size]
            low, step = group.min(), (group.max() - group.min()) / 15
            if step == 0:
                step = torch.tensor(1.0)
            codes[n, start : start + group_size] = ((group - low) / step).round().to(torch.uint8)
            scales.append(step)
            minima.append(low)
    return codes, torch.stack(scales).view(N, -1), torch.stack(minima).view(N, -1)


@int4.alternative("unfold, and the nearest of 16 points of a ruler")
def by_a_ruler(weight, group_size=32):
    if weight.size(1) / group_size != weight.size(1) // group_size:
        raise ValueError(f"{group_size} does not divide {weight.size(1)}")
    groups = weight.unfold(1, group_size, group_size)
    minimum, maximum = groups.aminmax(dim=-1)
    scale = (maximum - minimum) / 15
    scale[maximum == minimum] = 1.0
    ruler = minimum[..., None] + scale[..., None] * torch.arange(16)  # (N, K / g, 16)
    codes = (groups[..., None] - ruler[..., None, :]).abs().argmin(dim=-1)
    return codes.flatten(1).to(torch.uint8), scale, minimum


# 12.8 pack_codes -----------------------------------------------------------------------------------------------------


def pack_codes(codes: Tensor) -> Tensor:
    """Put two 4-bit codes into each byte: neighbours of a row, the left one in the low half.

    Shape: (N, K), uint8, 0 to 15 each, K even -> (N, K / 2), uint8. Byte j of a row holds code 2j in its low 4 bits
    and code 2j + 1 in its high 4 bits. What you are given stays as it is.
    """
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


pack = Exercise(
    "12.8",
    pack_codes,
    hints=(
        "`codes[:, 0::2]` are the columns 0, 2, 4, ..., and `codes[:, 1::2]` are the columns 1, 3, 5, ...",
        "In decimal you put the digits 3 and 7 into one number as 3 + 10 · 7 = 73. A half byte is a digit that goes "
        "up to 15. What takes the place of the 10?",
        "The left one plus 16 times the right one. With bits: `left | (right << 4)`.",
    ),
)


@pack.check("by hand: 3 and 10, 15 and 0, 0 and 15")
def pack_by_hand(pack_codes):
    codes = torch.tensor([[3, 10, 15, 0, 0, 15]], dtype=torch.uint8)
    same(pack_codes(codes), torch.tensor([[163, 15, 240]], dtype=torch.uint8))


@pack.check("several rows")
def pack_rows(pack_codes):
    codes = integers(0, 16, 3, 8).to(torch.uint8)
    wide = codes.long().view(3, 4, 2)
    same(pack_codes(codes), (wide[..., 0] + 16 * wide[..., 1]).to(torch.uint8))


@pack.check("both halves can be read again")
def pack_back(pack_codes):
    codes = integers(0, 16, 4, 6).to(torch.uint8)
    packed = pack_codes(codes)
    same(packed.dtype == torch.uint8 and tuple(packed.shape) == (4, 3), True)
    same(torch.stack([packed % 16, packed // 16], dim=-1).flatten(1), codes)


@pack.check("as many rows as columns")
def pack_square(pack_codes):
    codes = integers(1, 16, 4, 4).to(torch.uint8)
    wide = codes.int()
    same(pack_codes(codes), (wide[:, ::2] + 16 * wide[:, 1::2]).to(torch.uint8))


@pack.mistake("""You put the left code into the high half. Here the left one is in the low half: left + 16 · right.
    Both ways are in use; who reads must know which.""")
def high_half_first(codes):
    return codes[:, 1::2] | (codes[:, 0::2] << 4)


@pack.mistake("""You joined the left half of each row with its right half. Neighbours go together: `codes[:, 0::2]`
    and `codes[:, 1::2]`.""")
def halves_of_the_row(codes):
    half = codes.size(1) // 2
    return codes[:, :half] | (codes[:, half:] << 4)


@pack.mistake("""You added the two codes in the same place. Then 3 and 10 is the same as 10 and 3: move one of them up
    by four bits, `<< 4`, before you join them.""")
def not_moved(codes):
    return codes[:, 0::2] + codes[:, 1::2]


@pack.mistake("""You joined the two codes with |, in the same place. Then 3 and 10 is the same as 10 and 3: move the
    right one up by four bits, `<< 4`, before you join them.""")
def joined_in_place(codes):
    return codes[:, 0::2] | codes[:, 1::2]


@pack.mistake("""You wrote `left + right << 4`. Python adds before it moves, so that the sum was moved up: put `right
    << 4` in parentheses.""")
def sum_moved_up(codes):
    return codes[:, 0::2] + codes[:, 1::2] << 4


@pack.mistake("""You joined the two with &, which keeps only the bits that both have. After moving one of them they
    have none in common: join with |, or with +.""")
def joined_with_and(codes):
    return codes[:, 0::2] & (codes[:, 1::2] << 4)


@pack.mistake("""You multiplied by 15. There are 16 codes, 0 to 15, so the second digit counts 16.""")
def times_fifteen(codes):
    return codes[:, 0::2] + 15 * codes[:, 1::2]


@pack.mistake("""You multiplied by 10, as with decimal digits. These digits go up to 15: times 16.""")
def times_ten(codes):
    return codes[:, 0::2] + 10 * codes[:, 1::2]


@pack.mistake("""Your result has bytes of the right value in a tensor of int64, eight bytes for each of them. Stay in
    uint8.""")
def packed_as_int64(codes):
    return codes[:, 0::2].long() + 16 * codes[:, 1::2].long()


@pack.mistake(
    """You joined two rows instead of two columns. A byte holds two neighbours of one row: `codes[:, 0::2]`."""
)
def rows_joined(codes):
    return codes[0::2] | (codes[1::2] << 4)


@pack.alternative("arithmetic in wide numbers")
def by_arithmetic(codes):
    wide = codes.long()
    return (wide[:, ::2] + wide[:, 1::2] * 16).to(torch.uint8)


@pack.alternative("pairs, times 1 and 16")
def by_pairs(codes):
    pairs = codes.reshape(codes.size(0), -1, 2).int()
    return (pairs * torch.tensor([1, 16])).sum(dim=-1).to(torch.uint8)


@pack.alternative("byte by byte, in Python")
def byte_by_byte(codes):
    rows = []
    for row in codes.tolist():
        rows.append([int(f"{high:04b}{low:04b}", 2) for low, high in zip(row[::2], row[1::2], strict=True)])
    return torch.tensor(rows, dtype=torch.uint8)


# 12.9 look_up_draft -------------------------------------------------------------------------------------------------


def look_up_draft(tokens: list[int], n: int, length: int) -> list[int]:
    """Guess how a text goes on: as it went on the last time that its last n tokens stood there.

    Look for the last n tokens of the text further up in it. Where they stand more than once, take the latest place.
    -> the tokens that follow there, `length` at most (fewer where the text ends first); [] if the last n tokens never
    stood there before, or if the text is not longer than n tokens.
    """
    ending = tokens[-n:]
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == ending:
            return tokens[start + n : start + n + length]
    return []


draft = Exercise(
    "12.9",
    look_up_draft,
    hints=(
        "The last n tokens stand in the text once for sure: at its end. That place does not count, nothing follows "
        "there. Which is the first place to try, if you come from the end?",
        "A piece of n tokens that begins at `start` is `tokens[start : start + n]`. The end itself begins at "
        "len(tokens) - n, so begin one before, and go down to 0.",
        "`for start in range(len(tokens) - n - 1, -1, -1):` compare the piece with `tokens[-n:]`, and return "
        "`tokens[start + n : start + n + length]` at the first hit.",
    ),
)


@draft.check("by hand: 5 6 7 8 9 5 6, the last two tokens, three guesses")
def draft_by_hand(look_up_draft):
    same(look_up_draft([5, 6, 7, 8, 9, 5, 6], 2, 3), [7, 8, 9])


@draft.check("the ending stands there twice: the latest counts")
def draft_latest(look_up_draft):
    same(look_up_draft([1, 2, 30, 31, 1, 2, 40, 41, 9, 1, 2], 2, 2), [40, 41])


@draft.check("the text ends before the guesses are as many as asked for")
def draft_short(look_up_draft):
    same(look_up_draft([3, 4, 8, 3, 4], 2, 10), [8, 3, 4])


@draft.check("a token that repeats: the earlier place may overlap the end")
def draft_overlap(look_up_draft):
    same(look_up_draft([2, 7, 7, 7], 2, 4), [7])


@draft.check("an ending whose last token was there before by itself, first alone, then later than the ending")
def draft_nothing(look_up_draft):
    same([look_up_draft([1, 5, 2, 5, 3, 5], 2, 2), look_up_draft([7, 2, 3, 4, 9, 2, 5, 6, 7, 2], 2, 2)], [[], [3, 4]])


@draft.check("the very beginning of the text fits")
def draft_beginning(look_up_draft):
    token = int(integers(10, 99))
    same(look_up_draft([1, 2, 3, token, 4, 1, 2, 3], 3, 1), [token])


@draft.check("a text that is no longer than n")
def draft_too_short(look_up_draft):
    same([look_up_draft([1, 2], 2, 3), look_up_draft([1, 2], 3, 3)], [[], []])


@draft.mistake("""You took the first place where the ending stands. The latest is the better guess, since a text is
    most like what it was a moment ago: go from the end towards the beginning.""")
def first_place(tokens, n, length):
    for start in range(len(tokens) - n):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : start + n + length]
    return []


@draft.mistake("""You found the ending at the end itself, where nothing follows, and so your draft is always empty.
    Begin one place before it: len(tokens) - n - 1.""")
def finds_itself(tokens, n, length):
    for start in range(len(tokens) - n, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : start + n + length]
    return []


@draft.mistake("""Your draft begins with the n tokens that you looked for. They are written already; the guess is what
    follows them.""")
def with_the_ending(tokens, n, length):
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start : start + n + length]
    return []


@draft.mistake("""Your draft begins at the n tokens that you looked for, `tokens[start : start + length]`. They are
    written already; begin behind them, at start + n.""")
def from_the_ending_on(tokens, n, length):
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start : start + length]
    return []


@draft.mistake("""You wrote `tokens[start + n : length]`. Behind the colon stands the place where a slice ends, and
    not how long it is: start + n + length.""")
def length_as_the_end(tokens, n, length):
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : length]
    return []


@draft.mistake("""If all n tokens are not found, you look for fewer of them. Asked for is the whole ending: if it
    never stood there, the draft is empty.""")
def shorter_endings(tokens, n, length):
    for size in range(n, 0, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                return tokens[start + size : start + size + length]
    return []


@draft.mistake("""You handed over everything that follows. `length` says how many tokens at most: each of them costs
    something, and late ones are seldom right.""")
def everything_that_follows(tokens, n, length):
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n :]
    return []


@draft.mistake("""You compared the last token only. All of the last n have to fit, in their order.""")
def last_token_only(tokens, n, length):
    for start in range(len(tokens) - 2, -1, -1):
        if tokens[start] == tokens[-1]:
            return tokens[start + 1 : start + 1 + length]
    return []


@draft.mistake("""Your search does not get to the very beginning: range stops before its second number. Write -1
    there, so that 0 is still tried.""")
def never_at_the_beginning(tokens, n, length):
    for start in range(len(tokens) - n - 1, 0, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : start + n + length]
    return []


@draft.mistake("""You only looked at pieces that end before the last n tokens begin. The earlier place may overlap the
    end: in 7 7 7 the last two stand one place further up as well.""")
def no_overlap(tokens, n, length):
    for start in range(len(tokens) - 2 * n, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            return tokens[start + n : start + n + length]
    return []


@draft.mistake("""You returned nothing where the text ends before there are `length` guesses. Hand over those that
    there are.""")
def all_or_nothing(tokens, n, length):
    for start in range(len(tokens) - n - 1, -1, -1):
        if tokens[start : start + n] == tokens[-n:]:
            found = tokens[start + n : start + n + length]
            return found if len(found) == length else []
    return []


@draft.mistake("""You returned None where nothing was found. Asked for is an empty list, so that whoever calls need
    not ask.""")
def none_if_nothing(tokens, n, length):
    return look_up_draft(tokens, n, length) or None


@draft.alternative("a dict from every piece of n tokens to where it ends, later ones replacing earlier ones")
def with_a_dict(tokens, n, length):
    follows = {}
    for end in range(n, len(tokens)):
        follows[tuple(tokens[end - n : end])] = end
    end = follows.get(tuple(tokens[-n:]))
    return [] if end is None or len(tokens) <= n else list(tokens[end : end + length])


@draft.alternative("all windows at once, with unfold")
def with_unfold(tokens, n, length):
    if len(tokens) <= n:
        return []
    text = torch.tensor(tokens)
    hits = (text[:-1].unfold(0, n, 1) == text[-n:]).all(dim=1).nonzero().flatten().tolist()
    return text[hits[-1] + n :][:length].tolist() if hits else []


# 12.10 judge --------------------------------------------------------------------------------------------------------


def judge(draft: list[int], q: Tensor, p: Tensor, u: list[float]) -> tuple[int, Tensor]:
    """Decide how many tokens of a draft stay, and what the token after them is to be drawn from.

    draft: K tokens that the guesser proposed. q: (K, V), the probabilities from which it drew each of them.
    p: (K + 1, V), the model's own probabilities: row i is for the place of draft[i], row K for the place after the
    draft. u: K random numbers between 0 and 1.
    In order: draft[i] stays if u[i] is below p / q of this token at this place. At the first one that does not, nothing
    after it stays either, and the next token is drawn from what the guesser gave too little: max(p - q, 0) at this
    place, divided by its sum. If all K stay, the next token is drawn from the last row of p.
    -> (how many stay, (V,) probabilities that add up to 1)
    Source: Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.
    """
    for i, token in enumerate(draft):
        if u[i] >= p[i, token] / q[i, token]:
            rest = (p[i] - q[i]).clamp(min=0)
            return i, rest / rest.sum()
    return len(draft), p[len(draft)]


verdict = Exercise(
    "12.10",
    judge,
    hints=(
        "Go through the draft from the front. There are two ways out: the first token that does not stay, and the end"
        " of the draft.",
        "At place i, with `token = draft[i]`, compare u[i] with p[i, token] / q[i, token]. If it is not below, the "
        "answer is i and the normalized rest of row i.",
        "`rest = (p[i] - q[i]).clamp(min=0)`, and `return i, rest / rest.sum()`. After the loop: `return len(draft), "
        "p[len(draft)]`.",
    ),
)

P = torch.tensor([0.5, 0.3, 0.2])
Q = torch.tensor([0.2, 0.6, 0.2])


def _rows(n: int, V: int) -> Tensor:
    """n rows of probabilities, none of them 0."""
    return (1.5 * randn(n, V)).softmax(dim=-1)


@verdict.check("by hand: p = 0.5, 0.3, 0.2 and q = 0.2, 0.6, 0.2; token 1 with u = 0.4 and with u = 0.6")
def verdict_by_hand(judge):
    p, q = torch.stack([P, torch.tensor([0.1, 0.1, 0.8])]), Q[None]
    same(judge([1], q, p, [0.4]), (1, p[1]))
    same(judge([1], q, p, [0.6]), (0, torch.tensor([1.0, 0.0, 0.0])))


@verdict.check("a token that the model likes better than the guesser stays, whatever u is")
def verdict_liked(judge):
    p, q = torch.stack([P, Q]), Q[None]
    same(judge([0], q, p, [0.9999]), (1, Q))


@verdict.check("the second of three does not stay: the third is not looked at any more")
def verdict_second(judge):
    q, p = _rows(3, 5), _rows(4, 5)
    token = int((q[1] / p[1]).argmax())
    u = [0.0, float(p[1, token] / q[1, token]) + 0.01, 0.0]
    rest = (p[1] - q[1]).clamp(min=0)
    same(judge([2, token, 3], q, p, u), (1, rest / rest.sum()))


@verdict.check("a token that the model rules out, p = 0: it falls, even with u = 0")
def verdict_ruled_out(judge):
    p, q = torch.tensor([[0.0, 0.4, 0.6], [0.2, 0.3, 0.5]]), torch.tensor([[0.7, 0.2, 0.1]])
    same(judge([0], q, p, [0.001]), (0, torch.tensor([0.0, 2 / 7, 5 / 7])))
    same(judge([0], q, p, [0.0]), (0, torch.tensor([0.0, 2 / 7, 5 / 7])))


@verdict.check("guesses that are looked up: q is 1 for the guess, and 0 for all others")
def verdict_looked_up(judge):
    p, draft = _rows(3, 4), integers(0, 4, 2).tolist()
    q = F.one_hot(torch.tensor(draft), 4).float()
    u = [0.9 * float(p[0, draft[0]]), 1.001 * float(p[1, draft[1]])]
    rest = p[1].index_fill(0, torch.tensor(draft[1:]), 0.0)
    same(judge(draft, q, p, u), (1, rest / rest.sum()))


@verdict.check("all four stay, and the model adds one of its own")
def verdict_all(judge):
    q, p = _rows(4, 6), _rows(5, 6)
    draft = integers(0, 6, 4).tolist()
    u = [0.98 * min(1.0, float(p[i, token] / q[i, token])) for i, token in enumerate(draft)]
    same(judge(draft, q, p, u), (4, p[4]))


@verdict.check("no draft at all")
def verdict_empty(judge):
    p = _rows(1, 5)
    same(judge([], torch.zeros(0, 5), p, []), (0, p[0]))


@verdict.check("model and guesser of one mind: everything stays")
def verdict_one_mind(judge):
    p = _rows(4, 5)
    same(judge(integers(0, 5, 3).tolist(), p[:3], p, [0.999, 0.5, 0.99]), (3, p[3]))


def _judge(draft, q, p, u, *, stays=None, rest=None, on=False, extra=None):
    """The solution with one thing in it that can be wrong."""
    stays = stays or (lambda p, q, u: u < p / q)
    rest = rest or (lambda p, q: (p - q).clamp(min=0))
    for i, token in enumerate(draft):
        if not stays(p[i, token], q[i, token], u[i]):
            left = rest(p[i], q[i])
            return i, left / left.sum()
    return (len(draft), p[len(draft)]) if extra is None else extra(draft, p)


@verdict.mistake("""You kept a token if u is above p / q. It is to stay with probability p / q, and u is below a
    number x with probability x: keep it if u < p / q.""")
def above(draft, q, p, u):
    return _judge(draft, q, p, u, stays=lambda p, q, u: u > p / q)


@verdict.mistake("""You kept a token also if u is exactly p / q. torch.rand can give 0, and then a token with p = 0
    stays, which the model never writes: keep it if u is below, u < p / q.""")
def not_above(draft, q, p, u):
    return _judge(draft, q, p, u, stays=lambda p, q, u: u <= p / q)


@verdict.mistake("""You compared u with q / p. Suspicious are tokens that the guesser likes too much, q > p: they stay
    with probability p / q.""")
def ratio_upside_down(draft, q, p, u):
    return _judge(draft, q, p, u, stays=lambda p, q, u: u < q / p)


@verdict.mistake("""You compared u with p alone. The guesser has proposed this token with probability q already;
    keeping it with probability p makes q · p of it. Keep it with probability p / q.""")
def compared_with_p(draft, q, p, u):
    return _judge(draft, q, p, u, stays=lambda p, q, u: u < p)


@verdict.mistake("""You kept a token if the model likes it at least as well as the guesser, and never by chance. Then
    tokens with q > p never come through a draft: keep those with probability p / q, which is what u is for.""")
def never_by_chance(draft, q, p, u):
    return _judge(draft, q, p, u, stays=lambda p, q, u: p >= q)


@verdict.mistake("""After a token that did not stay, you draw from p. What the guesser gave enough already then comes
    too often. Draw from the rest, max(p - q, 0) divided by its sum.""")
def drawn_from_p(draft, q, p, u):
    return _judge(draft, q, p, u, rest=lambda p, q: p)


@verdict.mistake("""After a token that did not stay, you draw from p without that token. Other tokens too may have
    come from the guesser often enough. Draw from the rest, max(p - q, 0) divided by its sum.""")
def p_without_the_fallen(draft, q, p, u):
    kept, probabilities = judge(draft, q, p, u)
    if kept == len(draft):
        return kept, probabilities
    others = p[kept].index_fill(0, torch.tensor(draft[kept]), 0.0)
    return kept, others / others.sum()


@verdict.mistake("""Your rest is q - p. What is missing is what the model wants more than the guesser gave: max(p - q,
    0).""")
def rest_of_the_guesser(draft, q, p, u):
    return _judge(draft, q, p, u, rest=lambda p, q: (q - p).clamp(min=0))


@verdict.mistake("""You did not cut the rest off at 0. p - q is negative where the guesser gave too much, and its sum
    is 0: `.clamp(min=0)` before you divide.""")
def negative_rest(draft, q, p, u):
    return _judge(draft, q, p, u, rest=lambda p, q: p - q)


@verdict.mistake("""You took the size of the difference, |p - q|. Where the guesser gave too much nothing is to be
    added: max(p - q, 0).""")
def size_of_the_difference(draft, q, p, u):
    return _judge(draft, q, p, u, rest=lambda p, q: (p - q).abs())


@verdict.mistake("""You did not divide the rest by its sum. Probabilities add up to 1, and yours to less.""")
def rest_not_normalized(draft, q, p, u):
    for i, token in enumerate(draft):
        if u[i] >= p[i, token] / q[i, token]:
            return i, (p[i] - q[i]).clamp(min=0)
    return len(draft), p[len(draft)]


@verdict.mistake("""You went on after the first token that did not stay, and counted all that would. What comes after
    it was guessed for another text: stop there.""")
def went_on(draft, q, p, u):
    kept = [i for i, token in enumerate(draft) if u[i] < p[i, token] / q[i, token]]
    if len(kept) == len(draft):
        return len(draft), p[len(draft)]
    first = min(set(range(len(draft))) - set(kept))
    rest = (p[first] - q[first]).clamp(min=0)
    return len(kept), rest / rest.sum()


@verdict.mistake("""When all stay, you draw the next token from the row of the last draft token. That place is taken:
    the one after it is row K of p, the last.""")
def row_too_early(draft, q, p, u):
    return _judge(draft, q, p, u, extra=lambda draft, p: (len(draft), p[max(len(draft) - 1, 0)]))


@verdict.mistake("""You counted the extra token of the model among those that stay. The first answer says how many
    tokens of the draft stay: K at most.""")
def counted_one_more(draft, q, p, u):
    kept, probabilities = judge(draft, q, p, u)
    return kept + 1, probabilities


@verdict.mistake("""After a token that did not stay, you took the row of the next place. The token that is drawn now
    takes the place of the one that fell: row i.""")
def row_after_the_fall(draft, q, p, u):
    kept, probabilities = judge(draft, q, p, u)
    if kept == len(draft):
        return kept, probabilities
    rest = (p[kept + 1] - q[kept]).clamp(min=0)
    return kept, rest / rest.sum()


@verdict.mistake("""You kept a token only if it is the model's favourite. That is right for greedy writing; here the
    text is drawn, and a token that is second has to come as often as p says.""")
def favourites_only(draft, q, p, u):
    for i, token in enumerate(draft):
        if token != int(p[i].argmax()):
            rest = (p[i] - q[i]).clamp(min=0)
            return i, rest / rest.sum()
    return len(draft), p[len(draft)]


@verdict.mistake("""You counted the token that did not stay among those that stay. If the first one falls, the answer
    is 0.""")
def counted_the_fallen(draft, q, p, u):
    kept, probabilities = judge(draft, q, p, u)
    return (kept + 1 if kept < len(draft) else kept), probabilities


@verdict.mistake("""You made probabilities of the rest with a softmax. It is one already, but for its size: cut off at
    0, and divide by the sum. A softmax gives something even to tokens of which nothing is missing.""")
def softmax_of_the_rest(draft, q, p, u):
    kept, probabilities = judge(draft, q, p, u)
    return kept, probabilities if kept == len(draft) else (p[kept] - q[kept]).softmax(dim=-1)


@verdict.alternative("all places at once, and the first that fell by cumprod")
def all_at_once(draft, q, p, u):
    K = len(draft)
    places = torch.arange(K)
    tokens = torch.tensor(draft, dtype=torch.long)
    stays = torch.tensor(u, dtype=torch.float) * q[places, tokens] < p[places, tokens]
    kept = int(stays.long().cumprod(dim=0).sum())
    padded = torch.cat([q, torch.zeros(1, p.size(1))])  # nothing was guessed after the draft: the rest is all of p
    return kept, F.normalize(F.relu(p[kept] - padded[kept]), p=1, dim=0)


@verdict.alternative("one after the other, with plain numbers")
def with_plain_numbers(draft, q, p, u):
    kept = 0
    while kept < len(draft):
        row, guess = p[kept].tolist(), q[kept].tolist()
        token = draft[kept]
        if u[kept] < min(1.0, row[token] / guess[token]):
            kept += 1
            continue
        rest = [max(a - b, 0.0) for a, b in zip(row, guess, strict=True)]
        return kept, torch.tensor([x / sum(rest) for x in rest])
    return kept, p[-1].clone()


@verdict.alternative("the rest as p minus what both agree on")
def without_the_overlap(draft, q, p, u):
    agreed = torch.minimum(p[: len(draft)], q)
    for i in range(len(draft)):
        if u[i] * float(q[i][draft[i]]) >= float(p[i][draft[i]]):
            missing = p[i] - agreed[i]
            return i, missing / (1 - agreed[i].sum())
    return len(draft), p[len(draft)]
