"""Exercises of chapter 08: padding, teacher forcing, cross-attention, a decoder's layer, and how it writes."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import seq2seq
from minillama.attention import Attention, attend, causal_mask
from minillama.block import Parts, PostNormBlock
from minillama.config import Config
from minillama.course.checks import integers, permutation, pick, rand, randn, same, with_weights
from minillama.course.exercise import Exercise
from minillama.feedforward import ReLUFeedForward
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import apply_rope

# 08.1 pad_right -----------------------------------------------------------------------------------------------------

padding = Exercise(
    "08.1",
    seq2seq.pad_right,
    hints=(
        "How long does the longest sequence get? Each of the others needs that many tokens, too. How many pads is "
        "that, for a sequence of length n?",
        "Build two lists of lists: `[*sequence, pad, pad, ...]` and `[True, True, ..., False, False, ...]`, all of "
        "one length. `[pad] * 3` is a list of three pads.",
        "With `longest = max(len(s) for s in sequences)`: the rows are `[*s] + [pad] * (longest - len(s))`, the rows "
        "of the mask `[True] * len(s) + [False] * (longest - len(s))`. `torch.tensor(...)` around both.",
    ),
)


def _sentences(*lengths: int, low: int = 3, high: int = 50) -> list[list[int]]:
    return [integers(low, high, n).tolist() for n in lengths]


@padding.check("two sentences, [5, 6, 7] and [8], with pad=0")
def pad_by_hand(pad_right):
    tokens, mask = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]])
    same(pad_right([[5, 6, 7], [8]], 0), (tokens, mask))


@padding.check("four sentences of different lengths, with another pad")
def pad_four(pad_right):
    lengths = [2 + n for n in permutation(4)]
    rows, pad = _sentences(*lengths), pick([1, 2, 60])
    longest = max(lengths)
    tokens = torch.full((4, longest), pad)
    mask = torch.zeros(4, longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    same(pad_right(rows, pad), (tokens, mask))


@padding.check("a sentence that holds the pad token itself, as a word")
def pad_as_a_word(pad_right):
    pad = int(integers(3, 9))
    tokens = torch.tensor([[4, pad, 5, pad], [pad, 6, pad, pad]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    same(pad_right([[4, pad, 5, pad], [pad, 6]], pad), (tokens, mask))


@padding.check("sentences of one length, which need no padding")
def pad_nothing(pad_right):
    rows = _sentences(3, 3)
    same(pad_right(rows, 0), (torch.tensor(rows), torch.ones(2, 3, dtype=torch.bool)))


def _padded(sequences, pad, longest):
    return torch.tensor([[*row[:longest], *[pad] * (longest - len(row))] for row in sequences])


def _real(sequences, longest):
    return torch.tensor([[i < len(row) for i in range(longest)] for row in sequences])


@padding.mistake("""You put the pads in front. Put them behind: the sentences have to begin at the same place, since
    place 0 of a target is where its first word is learned, and positions are counted from there.""")
def padded_in_front(sequences, pad):
    longest = max(map(len, sequences))
    tokens = torch.tensor([[*[pad] * (longest - len(row)), *row] for row in sequences])
    return tokens, torch.tensor([[i >= longest - len(row) for i in range(longest)] for row in sequences])


@padding.mistake("""Your mask is True where padding is. In this course True means "may look", so it is True where a
    token is real. (torch's key_padding_mask is the other way round: many a model has looked at its padding only.)""")
def mask_upside_down(sequences, pad):
    tokens, mask = seq2seq.pad_right(sequences, pad)
    return tokens, ~mask


@padding.mistake("""You made the mask by comparing tokens with pad. A sentence may hold that token as well, and then a
    real word is hidden. Many models have no token to spare and pad with <eos>. Use the lengths.""")
def mask_by_comparing(sequences, pad):
    tokens, _ = seq2seq.pad_right(sequences, pad)
    return tokens, tokens != pad


@padding.mistake("""Your mask is made of numbers, 1 and 0. Give True and False: added to scores or indexed with, 1 and
    0 mean something else.""")
def mask_of_numbers(sequences, pad):
    tokens, mask = seq2seq.pad_right(sequences, pad)
    return tokens, mask.long()


@padding.mistake("""You filled up with 0, whatever pad is. In another vocabulary 0 is a word: use the argument.""")
def always_zero(sequences, pad):
    return seq2seq.pad_right(sequences, 0)


@padding.mistake("""You cut all sentences to the shortest one. Nothing may be lost: make the short ones longer.""")
def cut_to_the_shortest(sequences, pad):
    shortest = min(map(len, sequences))
    tokens = torch.tensor([list(row[:shortest]) for row in sequences])
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


@padding.mistake("""Your mask is True everywhere, padding included. It has to be False behind the end of a sentence, or
    the model reads the padding as if somebody had said it.""")
def mask_of_ones(sequences, pad):
    tokens, mask = seq2seq.pad_right(sequences, pad)
    return tokens, torch.ones_like(mask)


@padding.mistake("""Your tokens are floats (torch.zeros and torch.full of a float make them). Tokens are whole numbers,
    int64: an embedding refuses anything else.""")
def tokens_as_floats(sequences, pad):
    tokens, mask = seq2seq.pad_right(sequences, pad)
    return tokens.float(), mask


@padding.mistake("""You gave the tokens only. Give two tensors: the tokens, and the mask that says which are real.""")
def no_mask(sequences, pad):
    return seq2seq.pad_right(sequences, pad)[0]


@padding.mistake("""Your rows are one token longer than the longest sentence. It needs no pad at all.""")
def one_too_many(sequences, pad):
    longest = max(map(len, sequences)) + 1
    return _padded(sequences, pad, longest), _real(sequences, longest)


@padding.alternative("plain lists")
def pad_with_lists(sequences, pad):
    longest = max(len(row) for row in sequences)
    return _padded(sequences, pad, longest), _real(sequences, longest)


@padding.alternative("one tensor of pads, written into")
def pad_by_writing(sequences, pad):
    tokens = torch.full((len(sequences), max(map(len, sequences))), pad, dtype=torch.int64)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, row in enumerate(sequences):
        tokens[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = True
    return tokens, mask


@padding.alternative("lengths compared with places")
def pad_by_lengths(sequences, pad):
    lengths = torch.tensor([len(row) for row in sequences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(mask.shape, pad)
    tokens[mask] = torch.cat([torch.tensor(row) for row in sequences])
    return tokens, mask


# 08.2 teacher_forcing -----------------------------------------------------------------------------------------------

forcing = Exercise(
    "08.2",
    seq2seq.teacher_forcing,
    hints=(
        "Write the two rows for the sentence [7, 8] below each other, with bos=1 and eos=2. Above stands what has been "
        "read last, below what comes next. Both rows have three places.",
        "Inputs: bos and the sentence. Labels: the sentence and eos. `pad_right` lines up each of the two lists of "
        "rows; its mask is not needed here.",
        "`inputs, _ = pad_right([[bos, *target] for target in targets], pad)`. The labels are made in the same way "
        "from `[*target, eos]`, with -100 instead of pad.",
    ),
)


def _expected(targets, bos, eos, pad):
    width = 1 + max(map(len, targets))
    inputs, labels = torch.full((len(targets), width), pad), torch.full((len(targets), width), -100)
    for i, target in enumerate(targets):
        inputs[i, : 1 + len(target)] = torch.tensor([bos, *target])
        labels[i, : 1 + len(target)] = torch.tensor([*target, eos])
    return inputs, labels


@forcing.check("two sentences, [7, 8] and [9], with bos=1, eos=2, pad=0")
def forcing_by_hand(teacher_forcing):
    inputs, labels = torch.tensor([[1, 7, 8], [1, 9, 0]]), torch.tensor([[7, 8, 2], [9, 2, -100]])
    same(teacher_forcing([[7, 8], [9]], bos=1, eos=2, pad=0), (inputs, labels))


@forcing.check("one sentence, without any padding")
def forcing_one(teacher_forcing):
    targets = _sentences(4)
    same(teacher_forcing(targets, bos=1, eos=2, pad=0), _expected(targets, 1, 2, 0))


@forcing.check("four sentences of different lengths, and other signs")
def forcing_four(teacher_forcing):
    targets = _sentences(*[1 + 2 * n for n in permutation(4)])
    same(teacher_forcing(targets, bos=51, eos=50, pad=52), _expected(targets, 51, 50, 52))


@forcing.check("pad and eos are the same token")
def forcing_pad_is_eos(teacher_forcing):
    targets = _sentences(3, 1)
    same(teacher_forcing(targets, bos=1, eos=2, pad=2), _expected(targets, 1, 2, 2))


@forcing.check("a sentence without words, which only has to end")
def forcing_empty(teacher_forcing):
    targets = _sentences(2, 0)
    same(teacher_forcing(targets, bos=1, eos=2, pad=0), _expected(targets, 1, 2, 0))


def _rows(rows, fill):
    return seq2seq.pad_right(rows, fill)[0]


@forcing.mistake("""Your labels are the inputs themselves. The decoder has then only to repeat the token in front of
    it. The loss falls to 0, and what is learned is no translation. Move the labels one place: the token after it.""")
def labels_not_moved(targets, *, bos, eos, pad):
    rows = [[bos, *target] for target in targets]
    return _rows(rows, pad), _rows(rows, -100)


@forcing.mistake("""Your labels have pad where there is nothing to say. Put -100 there, which the loss does not count.
    Otherwise the model is trained to write padding, and in a mixed batch that may be most of what it is trained on.""")
def labels_with_pads(targets, *, bos, eos, pad):
    return _rows([[bos, *t] for t in targets], pad), _rows([[*t, eos] for t in targets], pad)


@forcing.mistake("""Your labels end with the last word: eos is missing. Then nobody teaches the model to stop, and it
    writes until it is cut off. Inputs: bos and the sentence; labels: the sentence and eos.""")
def never_told_to_stop(targets, *, bos, eos, pad):
    return _rows([[bos, *t][: len(t)] for t in targets], pad), _rows([list(t) for t in targets], -100)


@forcing.mistake("""You made both rows whole, and your inputs hold eos. What comes after eos? Nothing. Leave it out:
    the last token that is read is the last word.""")
def reads_the_end(targets, *, bos, eos, pad):
    return _rows([[bos, *t, eos] for t in targets], pad), _rows([[*t, eos, -100] for t in targets], -100)


@forcing.mistake("""You hid every label that equals pad. If pad is the same token as eos, as in many models, the end of
    each sentence is hidden too, and the model never learns to stop. Fill up with -100 instead of replacing.""")
def hidden_where_pad(targets, *, bos, eos, pad):
    inputs, labels = labels_with_pads(targets, bos=bos, eos=eos, pad=pad)
    return inputs, labels.masked_fill(labels == pad, -100)


@forcing.mistake("""You hid eos in the labels. It is no padding: it is the model's word for "I have finished", and has
    to be learned like any other.""")
def the_end_hidden(targets, *, bos, eos, pad):
    inputs, labels = _expected(targets, bos, eos, pad)
    return inputs, labels.masked_fill(labels == eos, -100)


@forcing.mistake("""You moved in the wrong direction: your decoder reads a token and shall say the one before it.
    Inputs start with bos, labels end with eos.""")
def moved_backwards(targets, *, bos, eos, pad):
    return _rows([[*t, eos] for t in targets], pad), _rows([[bos, *t] for t in targets], -100)


@forcing.mistake("""You gave labels and inputs in the wrong order: inputs first.""")
def in_the_wrong_order(targets, *, bos, eos, pad):
    inputs, labels = _expected(targets, bos, eos, pad)
    return labels, inputs


@forcing.mistake("""Your inputs are filled up with -100. An embedding has no row -100, and the model stops with an
    error. -100 is for labels; inputs get pad.""")
def inputs_with_minus_100(targets, *, bos, eos, pad):
    return _rows([[bos, *t] for t in targets], -100), _rows([[*t, eos] for t in targets], -100)


@forcing.mistake("""You moved the labels twice: your decoder shall say the token after the next. Label and input
    belong together like this: bos and the first word, the first word and the second one.""")
def moved_twice(targets, *, bos, eos, pad):
    inputs, labels = _expected(targets, bos, eos, pad)
    return inputs, torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)


@forcing.mistake("""bos is missing. Without it the decoder has nothing to read before the first word, and can't learn
    to say that one.""")
def without_a_beginning(targets, *, bos, eos, pad):
    return _rows([list(t) for t in targets], pad), _rows([[*t[1:], eos] if t else [] for t in targets], -100)


@forcing.mistake("""You padded bos, sentence and eos together and cut off the last column. Only the longest sentence
    ends there: in the shorter ones eos stays in the inputs. Cut each sentence before you pad, [bos, *t] and [*t,
    eos].""")
def cut_after_padding(targets, *, bos, eos, pad):
    rows = _rows([[bos, *t, eos] for t in targets], pad)
    return rows[:, :-1], _rows([[*t, eos] for t in targets], -100)


@forcing.mistake("""Your inputs hold eos, and so they are one token longer than your labels. After eos nothing is to be
    said: the last token that is read is the last word.""")
def reads_the_end_and_says_nothing(targets, *, bos, eos, pad):
    return _rows([[bos, *t, eos] for t in targets], pad), _rows([[*t, eos] for t in targets], -100)


@forcing.alternative("one row of bos, sentence and eos, cut at either end")
def forcing_by_cutting(targets, *, bos, eos, pad):
    whole = _rows([[bos, *target, eos] for target in targets], -100)
    lengths = torch.tensor([1 + len(target) for target in targets])
    inputs = torch.where(torch.arange(whole.size(1) - 1) < lengths[:, None], whole[:, :-1], pad)
    return inputs, whole[:, 1:].clone()


@forcing.alternative("labels from inputs: all but the first token, then eos where the sentence ends")
def forcing_from_inputs(targets, *, bos, eos, pad):
    longest = 1 + max(len(target) for target in targets)
    inputs = torch.tensor([[bos, *target] + [pad] * (longest - 1 - len(target)) for target in targets])
    labels = torch.full(inputs.shape, -100)
    for i, target in enumerate(targets):
        labels[i, : len(target)] = inputs[i, 1 : 1 + len(target)]
        labels[i, len(target)] = eos
    return inputs, labels


@forcing.alternative("token by token")
def forcing_token_by_token(targets, *, bos, eos, pad):
    longest, inputs, labels = max(map(len, targets)), [], []
    for target in targets:
        read, said = [bos], []
        for token in target:
            said.append(token)
            read.append(token)
        said.append(eos)
        while len(read) <= longest:
            read.append(pad)
            said.append(-100)
        inputs.append(read)
        labels.append(said)
    return torch.tensor(inputs), torch.tensor(labels)


# 08.3 cross_attention -----------------------------------------------------------------------------------------------


def cross_attention(
    x: Tensor, encoded: Tensor, real: Tensor, q_weight: Tensor, k_weight: Tensor, v_weight: Tensor
) -> Tensor:
    """Let each target token take in what it needs of the source (one head, without the last matrix).

    Shape: x (B, T, C) from the decoder, encoded (B, S, C) from the encoder, real (B, S) bool, True where a source token
    is no padding; the weights (D, C) each -> (B, T, D)
    Queries are x @ q_weight.T. Keys and values come from the source, made in the same way. Each target token may look
    at all real source tokens, and at no padding.
    """
    q, k, v = x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T
    return attend(q, k, v, real[:, None, :])


crossing = Exercise(
    "08.3",
    cross_attention,
    hints=(
        "Three products, then `attend(q, k, v, mask)` of chapter 03. Which two of q, k and v are made of `encoded`?",
        "The scores have shape (B, T, S): a row per target token, a column per source token. A mask that hides "
        "columns, for all rows alike, has shape (B, 1, S).",
        "`real[:, None, :]` is that mask: None puts in an axis of length 1. q is made of `x`, k and v of `encoded`.",
    ),
)


def _crossing_inputs(B: int, T: int, S: int, C: int, D: int):
    weights = [randn(D, C) for _ in range(3)]
    return randn(B, T, C), randn(B, S, C), *weights


def _crossed(x, encoded, real, q_weight, k_weight, v_weight):
    q, k, v = (F.linear(a, weight) for a, weight in ((x, q_weight), (encoded, k_weight), (encoded, v_weight)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, :])


def _compare_crossing(cross_attention, B, T, S, C, D, real):
    x, encoded, *weights = _crossing_inputs(B, T, S, C, D)
    same(cross_attention(x, encoded, real, *weights), _crossed(x, encoded, real, *weights), atol=1e-4)


def _real_tokens(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@crossing.check("one target token, two source tokens, numbers to do by hand")
def crossing_by_hand(cross_attention):
    x, encoded = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[math.log(3), 6.0], [0.0, 2.0]]])
    q_weight, v_weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    real = torch.tensor([[True, True]])  # scores ln 3 and 0, weights 3/4 and 1/4, values 6 and 2
    same(cross_attention(x, encoded, real, q_weight, q_weight, v_weight), torch.tensor([[[5.0]]]))


@crossing.check("three target tokens, five source tokens, nothing padded")
def crossing_all_real(cross_attention):
    _compare_crossing(cross_attention, 2, 3, 5, 4, 6, _real_tokens(5, 5))


@crossing.check("sources of 5 and 2 tokens, the second one padded")
def crossing_padded(cross_attention):
    _compare_crossing(cross_attention, 2, 3, 5, 4, 6, _real_tokens(5, 2))


@crossing.check("as many target tokens as source tokens")
def crossing_square(cross_attention):
    _compare_crossing(cross_attention, 2, 4, 4, 3, 5, _real_tokens(4, 4))


@crossing.check("as many texts as target tokens, one source shorter")
def crossing_as_many_texts(cross_attention):
    _compare_crossing(cross_attention, 3, 3, 5, 4, 6, _real_tokens(5, 3, 4))


@crossing.check("square weights")
def crossing_square_weights(cross_attention):
    _compare_crossing(cross_attention, 2, 3, 4, 5, 5, _real_tokens(4, 3))


def _cross(q, k, v, real):
    return attend(q, k, v, real[:, None, :])


@crossing.mistake("""You did not use `real`: your target tokens look at the padding too. A sentence is then translated
    differently when a longer one happens to be in the same batch.""")
def padding_seen(x, encoded, real, q_weight, k_weight, v_weight):
    return attend(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T)


@crossing.mistake("""You put a causal mask on it. The source has been said, all of it, before the first target word is
    written: each target token may look at every real source token. With your mask word 1 sees only source word 1.""")
def causal_over_the_source(x, encoded, real, q_weight, k_weight, v_weight):
    past = torch.ones(x.size(1), encoded.size(1), dtype=torch.bool).tril()
    return attend(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T, real[:, None, :] & past)


@crossing.mistake("""Your keys come from the decoder. Keys and values belong together, one of each per source token:
    both come from `encoded`. Where the lengths differ, it does not even fit.""")
def keys_from_the_decoder(x, encoded, real, q_weight, k_weight, v_weight):
    return _cross(x @ q_weight.T, x @ k_weight.T, encoded @ v_weight.T, real)


@crossing.mistake("""Your values come from the decoder. What is found must come from the source, or nothing of it ever
    gets into the target: keys and values both come from `encoded`.""")
def values_from_the_decoder(x, encoded, real, q_weight, k_weight, v_weight):
    return _cross(x @ q_weight.T, encoded @ k_weight.T, x @ v_weight.T, real)


@crossing.mistake("""Queries, keys and values all come from the decoder: that is self-attention. Keys and values come
    from `encoded`.""")
def only_the_decoder(x, encoded, real, q_weight, k_weight, v_weight):
    return _cross(x @ q_weight.T, x @ k_weight.T, x @ v_weight.T, real)


@crossing.mistake("""The roles are exchanged: your source asks, and the target is looked at. The decoder is the one that
    wants to know something, so queries come from x, keys and values from `encoded`. The result has T rows.""")
def the_source_asks(x, encoded, real, q_weight, k_weight, v_weight):
    return attend(encoded @ q_weight.T, x @ k_weight.T, x @ v_weight.T)


@crossing.mistake("""Your mask is upside down: padding is looked at, and real words are hidden. True means "may look",
    and `real` is True where a token is real, so it can be used as it is.""")
def looks_at_padding_only(x, encoded, real, q_weight, k_weight, v_weight):
    return _cross(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T, ~real)


@crossing.mistake("""You gave attend the mask as it is, (B, S). It is lined up from the right, so that its rows, which
    belong to texts, meet rows that belong to target tokens. `real[:, None, :]` has the shape (B, 1, S).""")
def mask_without_an_axis(x, encoded, real, q_weight, k_weight, v_weight):
    return attend(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T, real)


@crossing.mistake("""Your mask has the shape (B, S, 1): it hides rows, that is, those who ask. The source tokens are the
    columns of the scores: (B, 1, S).""")
def mask_on_the_rows(x, encoded, real, q_weight, k_weight, v_weight):
    return attend(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T, real[:, :, None])


@crossing.mistake("""You multiplied with the weights as they are, without .T. They are stored as (D, C), a row for each
    new number. If D = C nothing warns you, and the result is another one.""")
def weights_not_turned(x, encoded, real, q_weight, k_weight, v_weight):
    return _cross(x @ q_weight, encoded @ k_weight, encoded @ v_weight, real)


@crossing.mistake("""You set the padded places to zero and left them in. A score of 0 is still a score, e^0 = 1, and
    takes its share. Hide them with a mask.""")
def padding_zeroed(x, encoded, real, q_weight, k_weight, v_weight):
    encoded = encoded * real[:, :, None]
    return attend(x @ q_weight.T, encoded @ k_weight.T, encoded @ v_weight.T)


@crossing.mistake("""You forgot to divide the scores by the root of D. `attend` of chapter 03 does it for you.""")
def without_the_root(x, encoded, real, q_weight, k_weight, v_weight):
    scores = (x @ q_weight.T) @ (encoded @ k_weight.T).mT
    return scores.masked_fill(~real[:, None, :], -math.inf).softmax(dim=-1) @ (encoded @ v_weight.T)


@crossing.alternative("torch's own")
def crossing_of_torch(x, encoded, real, q_weight, k_weight, v_weight):
    return _crossed(x, encoded, real, q_weight, k_weight, v_weight)


@crossing.alternative("einsum and a softmax by hand")
def crossing_by_einsum(x, encoded, real, q_weight, k_weight, v_weight):
    q, k = torch.einsum("btc,dc->btd", x, q_weight), torch.einsum("bsc,dc->bsd", encoded, k_weight)
    scores = torch.einsum("btd,bsd->bts", q, k) / math.sqrt(len(q_weight))
    weights = scores.masked_fill(~real[:, None], -math.inf).softmax(dim=-1)
    return torch.einsum("bts,bsc,dc->btd", weights, encoded, v_weight)


@crossing.alternative("text by text, with the padding cut off instead of hidden")
def crossing_by_cutting(x, encoded, real, q_weight, k_weight, v_weight):
    rows = []
    for text, source, keep in zip(x, encoded, real, strict=True):
        source = source[keep]
        rows.append(attend(text @ q_weight.T, source @ k_weight.T, source @ v_weight.T))
    return torch.stack(rows)


# 08.4 DecoderBlock --------------------------------------------------------------------------------------------------

decoder_block = Exercise(
    "08.4",
    seq2seq.DecoderBlock,
    hints=(
        "Three lines of the same form: x = norm(x + sublayer(x)). Which of the three sub-layers gets `mask`, which one "
        "gets `source_mask` and `encoded`, and which one gets neither?",
        "`self.attention(x, mask, **inner)` looks at the target. `self.cross_attention(x, source_mask, "
        "context=encoded)` looks at the source. Each sub-layer has a norm of its own.",
        "`x = self.attention_norm(x + self.attention(x, mask, **inner))`; then the same with cross_attention_norm and "
        "cross_attention; return the same with feedforward_norm and feedforward.",
    ),
)

SIZES = Config(vocab_size=7, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, d_ff=20)
YEAR_2017 = Parts(norm=LayerNorm, feedforward=ReLUFeedForward, block=PostNormBlock)
LOOKS, CROSSES, THINKS = "attention.o_proj", "cross_attention.o_proj", "feedforward.down_proj"


def rotated(x: Tensor) -> Tensor:
    """The rotation of chapter 06, for tokens at positions 0, 1, 2, ..."""
    return apply_rope(x, torch.arange(x.size(-2)))


@cache
def _shapes(parts: Parts) -> list[tuple[str, torch.Size]]:
    return sorted((name, weight.shape) for name, weight in seq2seq.DecoderBlock(SIZES, parts).named_parameters())


def _drawn_weights(parts: Parts, silent: Sequence[str]) -> dict[str, Tensor]:
    """Random weights for a block; those of the sub-layers in `silent` end in zeros."""
    drawn = {}
    for name, shape in _shapes(parts):
        signs = torch.where(rand(*shape) < 0.5, -1.0, 1.0)
        drawn[name] = 0.4 * randn(*shape) if len(shape) > 1 else signs * (0.5 + rand(*shape))
        if any(name.startswith(sublayer) for sublayer in silent):
            drawn[name] = torch.zeros(shape)
    return drawn


@cache
def _sublayers(parts: Parts) -> tuple[Attention, Attention, nn.Module]:
    return Attention(12, 6, 2), Attention(12, 6, 2), parts.feedforward(12, 20)


def _compare_decoder(DecoderBlock, silent=(), mask=None, source_mask=None, parts=YEAR_2017, S=5, **inner):
    drawn = _drawn_weights(parts, silent)
    mine = with_weights(DecoderBlock(SIZES, parts), drawn)
    x, encoded = randn(2, 3, 12) + 0.5, randn(2, S, 12)
    out = mine(x, encoded, mask, source_mask, **inner)
    same(out, _decoder_output(x, encoded, drawn, parts, mask, source_mask, inner), atol=1e-3, rtol=1e-4)


def _decoder_output(x, encoded, drawn, parts, mask, source_mask, inner) -> Tensor:
    """The oracle: torch's own norms, the parts of chapters 04 and 05."""
    looks, crosses, thinks = _sublayers(parts)
    for part, name in ((looks, "attention."), (crosses, "cross_attention."), (thinks, "feedforward.")):
        part.load_state_dict({k.removeprefix(name): v for k, v in drawn.items() if k.startswith(name)})

    def normalized(x, name):
        weight, bias = drawn[f"{name}.weight"], drawn.get(f"{name}.bias")
        return F.rms_norm(x, (12,), weight, 1e-5) if bias is None else F.layer_norm(x, (12,), weight, bias, 1e-5)

    with torch.no_grad():
        a = normalized(x + looks(x, mask, **inner), "attention_norm")
        b = normalized(a + crosses(a, source_mask, context=encoded), "cross_attention_norm")
        return normalized(b + thinks(b), "feedforward_norm")


def _source_mask() -> Tensor:
    return _real_tokens(5, 3)[:, None, None, :]


@decoder_block.check("only the self-attention speaks")
def decoder_looks(DecoderBlock):
    _compare_decoder(DecoderBlock, silent=(CROSSES, THINKS))


@decoder_block.check("only the cross-attention speaks")
def decoder_crosses(DecoderBlock):
    _compare_decoder(DecoderBlock, silent=(LOOKS, THINKS))


@decoder_block.check("all three speak")
def decoder_all(DecoderBlock):
    _compare_decoder(DecoderBlock)


@decoder_block.check("a causal mask for the target, and padding in a source")
def decoder_masks(DecoderBlock):
    _compare_decoder(DecoderBlock, mask=causal_mask(3), source_mask=_source_mask())


@decoder_block.check("as many source tokens as target tokens, a causal mask for the target")
def decoder_square(DecoderBlock):
    _compare_decoder(DecoderBlock, mask=causal_mask(3), S=3)


@decoder_block.check("other parts (RMSNorm), and a rotation for the self-attention")
def decoder_rotation(DecoderBlock):
    _compare_decoder(DecoderBlock, parts=Parts(norm=RMSNorm), mask=causal_mask(3), rotate=rotated)


@decoder_block.mistake("""You normalized what the sub-layers read, as LLaMA does (pre-norm). Here it is 2017: add first,
    then normalize, norm(x + sublayer(x)).""")
class PreNorm(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        x = x + self.cross_attention(self.cross_attention_norm(x), source_mask, context=encoded)
        return x + self.feedforward(self.feedforward_norm(x))


@decoder_block.mistake("""You looked at the source first, and at the target afterwards. The order of the paper is: what
    have I written, what does the source say, think.""")
class SourceFirst(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You forgot `context=encoded`. Without it the cross-attention takes keys and values from x: a
    second self-attention, and the decoder never hears of the source. It will still write fluent sentences, about
    something else.""")
class SourceForgotten(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You gave the causal mask to the cross-attention. It is for the target, whose later words are
    not written yet; the source is all there. Give it `source_mask`.""")
class CausalForTheSource(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""`source_mask` did not reach the cross-attention, so that padding in the source is read as
    words.""")
class SourceMaskForgotten(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, None, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""`mask` did not reach the self-attention. In training the target stands there whole, so each
    token sees the one that it shall say. The loss looks wonderful.""")
class MaskForgotten(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, None, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You exchanged the two masks. `mask` is for the self-attention, `source_mask` for the
    cross-attention.""")
class MasksExchanged(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, source_mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""`inner` did not reach the self-attention. It holds what only that one understands, such as the
    rotation of chapter 06.""")
class InnerForgotten(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You gave `inner` to the cross-attention as well. Place 3 of the target and place 3 of the
    source have nothing to do with each other: the rotation is for the self-attention only.""")
class InnerForBoth(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded, **inner))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You used attention_norm twice. Each sub-layer has its own norm, with weights of its own; the
    second one is cross_attention_norm.""")
class OneNormForBoth(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""In the second line x is not added. What the decoder has written so far is then lost, and only
    what it found in the source goes on.""")
class CrossWithoutAdding(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""Your cross-attention asks with the x that came in. It should ask with what came out of the
    first line: only that knows what has been written so far.""")
class AsksTooEarly(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        a = self.attention_norm(x + self.attention(x, mask, **inner))
        b = self.cross_attention_norm(a + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(b + self.feedforward(b))


@decoder_block.mistake("""You exchanged the roles in the cross-attention: the source asks and the target is looked at.
    The first argument asks; `context` is what is looked at.""")
class SourceAsks(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(encoded, source_mask, context=x))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.mistake("""You left out the feed-forward at the end. Without it a layer only moves things around.""")
class WithoutThinking(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        return self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))


@decoder_block.mistake("""You add the first x in all three lines. What is added is what the line before gave: a in the
    second line, b in the third.""")
class AddsTheFirst(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        a = self.attention_norm(x + self.attention(x, mask, **inner))
        b = self.cross_attention_norm(x + self.cross_attention(a, source_mask, context=encoded))
        return self.feedforward_norm(x + self.feedforward(b))


@decoder_block.mistake("""You normalize what the sub-layer gives, and add afterwards. Here the *sum* is normalized:
    norm(x + sublayer(x)).""")
class NormOfTheSublayer(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = x + self.attention_norm(self.attention(x, mask, **inner))
        x = x + self.cross_attention_norm(self.cross_attention(x, source_mask, context=encoded))
        return x + self.feedforward_norm(self.feedforward(x))


@decoder_block.mistake("""In the third line nothing is added: norm(b + feedforward(b)), as in the two lines above.""")
class ThinkingWithoutAdding(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, source_mask, context=encoded))
        return self.feedforward_norm(self.feedforward(x))


@decoder_block.mistake("""You gave `encoded` in the place of the mask: that is the second argument of an attention. Name
    it: cross_attention(a, source_mask, context=encoded).""")
class SourceAsAMask(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        x = self.cross_attention_norm(x + self.cross_attention(x, encoded, source_mask))
        return self.feedforward_norm(x + self.feedforward(x))


@decoder_block.alternative("one loop over the three sub-layers")
class InALoop(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        for sublayer, norm in (
            (lambda x: self.attention(x, mask, **inner), self.attention_norm),
            (lambda x: self.cross_attention(x, source_mask, context=encoded), self.cross_attention_norm),
            (self.feedforward, self.feedforward_norm),
        ):
            x = norm(torch.add(x, sublayer(x)))
        return x


@decoder_block.alternative("the block of 2017 around a cross-attention in the middle")
class AroundTheMiddle(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        written = self.attention(x=x, mask=mask, **inner)
        a = self.attention_norm(x.double().add(written.double()).to(x.dtype))
        found = self.cross_attention(x=a, context=encoded, mask=source_mask)
        b = self.cross_attention_norm(torch.stack([a, found]).sum(0))
        return self.feedforward_norm(b + self.feedforward(b))


@decoder_block.alternative("the cross-attention text by text, without padding")
class TextByText(seq2seq.DecoderBlock):
    def forward(self, x, encoded, mask=None, source_mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        found = []
        for i in range(len(x)):
            keep = slice(None) if source_mask is None else source_mask[i, 0, 0]
            found.append(self.cross_attention(x[i : i + 1], context=encoded[i, keep][None]))
        x = self.cross_attention_norm(x + torch.cat(found))
        return self.feedforward_norm(x + self.feedforward(x))


# 08.5 write_greedily ------------------------------------------------------------------------------------------------


def write_greedily(next_logits: Callable[[Tensor], Tensor], tokens: Tensor, n_new: int, eos: int) -> Tensor:
    """Write on, always with the most likely next token, until every text has ended.

    Shape: tokens (B, T) -> (B, T + n), n <= n_new: what you were given, and what was written.
    next_logits: called with all tokens so far, (B, T'), gives the scores of the next token, (B, V).
    A text has ended when eos has been written. (An eos among the tokens that you were given is no end.) While others go
    on, a text that has ended gets eos again and again; when all have ended, or after n_new tokens, you stop.
    """
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        new = next_logits(tokens).argmax(dim=-1).masked_fill(ended, eos)  # (B,)
        tokens, ended = torch.cat([tokens, new[:, None]], dim=1), ended | (new == eos)
        if ended.all():
            break
    return tokens


greedy = Exercise(
    "08.5",
    write_greedily,
    hints=(
        "A loop of at most n_new rounds. In each: ask for scores, take the best token of each row, put it at the end. "
        "What do you have to remember about each text from round to round?",
        "`scores.argmax(dim=-1)` gives (B,). Remember who has ended in a bool tensor of B entries, all False at the "
        "start. Where it is True, replace the new token by eos. `torch.cat([tokens, new[:, None]], dim=1)` appends.",
        "`new = next_logits(tokens).argmax(dim=-1).masked_fill(ended, eos)`, append it, `ended = ended | (new == eos)`,"
        " and `break` if `ended.all()`.",
    ),
)

V = 7  # 0 is the end


def _scores(best: Tensor) -> Tensor:
    """Negative scores with the best one at `best`. (B,) -> (B, V)"""
    return -1.0 - (torch.arange(V) - best[:, None]).abs().float()


def counting(tokens: Tensor) -> Tensor:
    """A toy model: after 3 comes 4, and after 6 the end."""
    return _scores((tokens[:, -1] + 1) % V)


def adding(tokens: Tensor) -> Tensor:
    """A toy model that needs the whole text: next is the sum of all tokens and of their number, without sevens."""
    return _scores((tokens.sum(dim=1) + tokens.size(1)) % V)


def talkative(tokens: Tensor) -> Tensor:
    """A toy model that never ends."""
    return _scores(tokens[:, -1] % (V - 1) + 1)


def _written(model, tokens, n_new: int, eos: int) -> Tensor:
    """Text by text, in plain Python."""
    rows = []
    for row in tokens.tolist():
        new = []
        while len(new) < n_new and eos not in new:
            scores = model(torch.tensor([row + new]))[0].tolist()
            new.append(scores.index(max(scores)))
        rows.append((row, new))
    longest = max(len(new) for _, new in rows)
    return torch.tensor([row + new + [eos] * (longest - len(new)) for row, new in rows])


def _compare_writing(write_greedily, model, tokens, n_new, eos=0):
    same(write_greedily(model, tokens, n_new, eos), _written(model, tokens, n_new, eos))


@greedy.check("a model that counts up to 6 and ends, from 3 on")
def greedy_counts(write_greedily):
    same(write_greedily(counting, torch.tensor([[3]]), 9, 0), torch.tensor([[3, 4, 5, 6, 0]]))


@greedy.check("three texts that end at different times")
def greedy_three(write_greedily):
    starts = 1 + torch.tensor(permutation(5)[:3])
    _compare_writing(write_greedily, counting, torch.stack([integers(1, V, 3), starts], dim=1), 12)


@greedy.check("a model whose next token depends on the whole text")
def greedy_whole(write_greedily):
    _compare_writing(write_greedily, adding, integers(1, V, 2, 4), 9)


@greedy.check("a model that does not end: n_new tokens are written")
def greedy_endless(write_greedily):
    _compare_writing(write_greedily, talkative, integers(1, V, 2, 3), 4)


@greedy.check("texts that begin with eos, as where bos and eos are one token")
def greedy_begins_with_eos(write_greedily):
    _compare_writing(write_greedily, counting, torch.tensor([[0], [0]]), 12)


@greedy.check("another token for the end")
def greedy_other_end(write_greedily):
    _compare_writing(write_greedily, counting, torch.tensor([[1, 5], [5, 1]]), 12, eos=int(integers(3, 5)))


def _each_round(next_logits, tokens, n_new, eos, *, begin=None, stop=torch.all, fill=None, read=lambda t: t):
    """The loop, with one thing about it changed."""
    ended = torch.zeros(len(tokens), dtype=torch.bool) if begin is None else begin(tokens)
    for _ in range(n_new):
        new = next_logits(read(tokens)).argmax(dim=-1)
        new = new.masked_fill(ended, eos if fill is None else fill)
        tokens, ended = torch.cat([tokens, new[:, None]], dim=1), ended | (new == eos)
        if stop(ended):
            break
    return tokens


@greedy.mistake("""You stopped when the first text had ended. The others are not finished: stop when all have.""")
def stops_with_the_first(next_logits, tokens, n_new, eos):
    return _each_round(next_logits, tokens, n_new, eos, stop=torch.any)


@greedy.mistake("""You never stop before n_new. When all texts have ended there is nothing left to do.""")
def never_stops(next_logits, tokens, n_new, eos):
    return _each_round(next_logits, tokens, n_new, eos, stop=lambda ended: False)


@greedy.mistake("""Your texts go on after their eos while others are being written. Remember who has ended, and give
    these eos again: what a model says after its end means nothing.""")
def goes_on_after_the_end(next_logits, tokens, n_new, eos):
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        new = next_logits(tokens).argmax(dim=-1)
        tokens, ended = torch.cat([tokens, new[:, None]], dim=1), ended | (new == eos)
        if ended.all():
            break
    return tokens


@greedy.mistake("""You stopped only in a round in which all texts say eos at once. They end at different times, and
    need not say it twice: remember who has ended.""")
def all_at_once(next_logits, tokens, n_new, eos):
    for _ in range(n_new):
        new = next_logits(tokens).argmax(dim=-1)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
        if (new == eos).all():
            break
    return tokens


@greedy.mistake("""You showed the model only the last token. It has to see everything so far, each time, or it forgets
    what it has been writing about.""")
def shows_the_last_only(next_logits, tokens, n_new, eos):
    return _each_round(next_logits, tokens, n_new, eos, read=lambda tokens: tokens[:, -1:])


@greedy.mistake("""You showed the model what you were given, and not what it has written since. It then says the same
    token again and again.""")
def shows_the_start_only(next_logits, tokens, n_new, eos):
    start = tokens
    return _each_round(next_logits, tokens, n_new, eos, read=lambda tokens: start)


@greedy.mistake("""You counted an eos among the tokens that you were given as an end. Only one that has been written
    counts: in many models the text begins with the same sign that ends it.""")
def ended_before_it_began(next_logits, tokens, n_new, eos):
    return _each_round(next_logits, tokens, n_new, eos, begin=lambda tokens: (tokens == eos).any(dim=1))


@greedy.mistake("""You stop when there is an eos in every text, and meanwhile texts go on after their own. Remember
    who has ended *by writing eos*, in a tensor of B bools, and give those eos again.""")
def looks_for_an_end_anywhere(next_logits, tokens, n_new, eos):
    for _ in range(n_new):
        tokens = torch.cat([tokens, next_logits(tokens).argmax(dim=-1, keepdim=True)], dim=1)
        if (tokens == eos).any(dim=1).all():
            break
    return tokens


@greedy.mistake("""You gave only what was written. Give the tokens that you were given as well, in front of it.""")
def without_the_start(next_logits, tokens, n_new, eos):
    return write_greedily(next_logits, tokens, n_new, eos)[:, tokens.size(1) :]


@greedy.mistake("""The last eos is missing: you stopped before you wrote it. It belongs to the text, it is how one sees
    that it was finished and not cut off.""")
def end_not_written(next_logits, tokens, n_new, eos):
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n_new):
        new = next_logits(tokens).argmax(dim=-1).masked_fill(ended, eos)
        ended = ended | (new == eos)
        if ended.all():
            break
        tokens = torch.cat([tokens, new[:, None]], dim=1)
    return tokens


@greedy.mistake("""You took the least likely token: argmin. The highest score is the most likely: argmax.""")
def the_least_likely(next_logits, tokens, n_new, eos):
    return _each_round(lambda tokens: -next_logits(tokens), tokens, n_new, eos)


@greedy.mistake("""You filled up ended texts with 0. Fill up with eos, whatever number that is.""")
def filled_with_zero(next_logits, tokens, n_new, eos):
    return _each_round(next_logits, tokens, n_new, eos, fill=0)


@greedy.mistake("""You wrote one token more than n_new: the loop runs n_new times, and each round writes one.""")
def one_more(next_logits, tokens, n_new, eos):
    return write_greedily(next_logits, tokens, n_new + 1, eos)


@greedy.mistake("""You look for eos in `tokens`, and there it may stand from the beginning: for you such a text has
    ended before a word is written. Keep a tensor of B bools, all False at first, and look at the new tokens only.""")
def an_end_from_the_start(next_logits, tokens, n_new, eos):
    for _ in range(n_new):
        ended = (tokens == eos).any(dim=1)
        if ended.all():
            break
        new = next_logits(tokens).argmax(dim=-1).masked_fill(ended, eos)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
    return tokens


@greedy.mistake("""You took [:, -1] of the scores. `next_logits` gives those of the next token alone, (B, V), so [:, -1]
    is the score of the last word of the vocabulary. Take argmax of the whole.""")
def last_place_twice(next_logits, tokens, n_new, eos):
    return _each_round(lambda tokens: next_logits(tokens)[:, -1], tokens, n_new, eos)


@greedy.alternative("text by text, in plain Python")
def greedy_text_by_text(next_logits, tokens, n_new, eos):
    return _written(next_logits, tokens, n_new, eos)


@greedy.alternative("write n_new tokens, then tidy up")
def greedy_tidied_up(next_logits, tokens, n_new, eos):
    T = tokens.size(1)
    for _ in range(n_new):
        tokens = torch.cat([tokens, next_logits(tokens).argmax(dim=-1, keepdim=True)], dim=1)
    new = tokens[:, T:]
    after = ((new == eos).cumsum(dim=1) - (new == eos).long()) > 0  # an eos stands before it
    new = torch.where(after, eos, new)
    unfinished = int((~after).any(dim=0).sum())
    return torch.cat([tokens[:, :T], new[:, :unfinished]], dim=1)


@greedy.alternative("topk, and a while loop")
def greedy_with_topk(next_logits, tokens, n_new, eos):
    columns, ended = [*tokens.T], torch.full((len(tokens),), False)
    while n_new > 0 and not bool(ended.all()):
        best = next_logits(torch.stack(columns, dim=1)).topk(1, dim=1).indices.squeeze(1)
        columns.append(torch.where(ended, torch.full_like(best, eos), best))
        ended = torch.logical_or(ended, columns[-1].eq(eos))
        n_new -= 1
    return torch.stack(columns, dim=1)


# 08.6 search_beam ---------------------------------------------------------------------------------------------------


def search_beam(
    next_log_probs: Callable[[list[int]], list[float]], start: list[int], n_new: int, width: int, eos: int
) -> list[tuple[float, list[int]]]:
    """Write on from `start`, following the `width` best texts at the same time.

    -> a list of (log-probability, tokens), best first

    next_log_probs: called with a list of tokens, gives for every token of the vocabulary the logarithm of its
    probability to come next (in nats): a list of V numbers.
    A text's log-probability is the sum over the tokens that were written. In each of at most n_new rounds, every text
    is continued with every token, and of all continuations together the `width` best are kept (all, if there are
    fewer). A text whose last written token is eos is not continued; it stays among the others as it is, and keeps its
    place only while it is one of the best. If all texts have ended, you stop.

    >>> search_beam(lambda tokens: [math.log(0.25), math.log(0.75)], [1], n_new=2, width=1, eos=0)[0][1]
    [1, 1, 1]
    """
    texts = [(0.0, list(start))]
    for _ in range(n_new):
        candidates = []
        for total, tokens in texts:
            if len(tokens) > len(start) and tokens[-1] == eos:
                candidates.append((total, tokens))
            else:
                log_probs = next_log_probs(tokens)
                candidates += [(total + log_prob, [*tokens, token]) for token, log_prob in enumerate(log_probs)]
        texts = sorted(candidates, key=lambda text: -text[0])[:width]
        if all(len(tokens) > len(start) and tokens[-1] == eos for _, tokens in texts):
            break
    return texts


beam = Exercise(
    "08.6",
    search_beam,
    hints=(
        "Begin with one text, `(0.0, start)`. In each round make one long list of candidates out of all texts, then "
        "keep the `width` best of the list. What do you put into the list for a text that has ended?",
        "For a text that goes on: `for token, log_prob in enumerate(next_log_probs(tokens))`, and each candidate is "
        "`(total + log_prob, tokens + [token])`. For one that has ended: the text as it is.",
        "`candidates.sort(key=lambda text: text[0], reverse=True)` and `texts = candidates[:width]`. Ended is "
        "`len(tokens) > len(start) and tokens[-1] == eos`; stop when that is true of all.",
    ),
)


def fork(tokens: list[int]) -> list[float]:
    """The example of the chapter: 0 is the end; 1 looks better at first, 2 turns out to be."""
    shares = {(): [0.001, 0.6, 0.399], (1,): [0.4, 0.3, 0.3], (2,): [0.9, 0.05, 0.05]}
    return [math.log(p) for p in shares.get(tuple(tokens[1:]), [0.5, 0.3, 0.2])]


def murmuring(tokens: list[int]) -> list[float]:
    """A toy model of four tokens that has its own opinion about each text."""
    seed = sum((i + 1) * (token + 3) ** 3 for i, token in enumerate(tokens))
    return (1.5 * torch.randn(4, generator=torch.Generator().manual_seed(seed))).log_softmax(dim=0).tolist()


def shy(tokens: list[int]) -> list[float]:
    """A toy model that likes to stop, and is quite sure of what it says once it has gone on."""
    first = len(tokens) == 1
    return [math.log(p) for p in ([0.4, 0.35, 0.25] if first else [0.04, 0.03, 0.93])]


def _all_texts(model, start, n_new, eos) -> list[tuple[float, list[int]]]:
    """Every text there is, with its log-probability."""
    if n_new == 0 or (len(start) > 1 and start[-1] == eos):
        return [(0.0, list(start))]
    return [
        (log_prob + total, text)
        for token, log_prob in enumerate(model(start))
        for total, text in _all_texts(model, [*start, token], n_new - 1, eos)
    ]


def _best(texts, width):
    return sorted(texts, key=lambda text: text[0], reverse=True)[:width]


def hopeful(tokens: list[int]) -> list[float]:
    """A toy model whose third choice turns out well, if one waits for it."""
    shares = {(): [0.4, 0.35, 0.25], (1,): [0.1, 0.47, 0.43], (1, 2): [0.98, 0.01, 0.01]}
    return [math.log(p) for p in shares.get(tuple(tokens[1:]), [0.3, 0.36, 0.34])]


@beam.check("the example of the chapter, width 2")
def beam_fork(search_beam):
    first, second = (0.399 * 0.9, [7, 2, 0]), (0.6 * 0.4, [7, 1, 0])
    same(search_beam(fork, [7], 4, 2, 0), [(math.log(p), tokens) for p, tokens in (first, second)])


@beam.check("the same with width 1, which is greedy")
def beam_one(search_beam):
    same(search_beam(fork, [7], 4, 1, 0), [(math.log(0.6 * 0.4), [7, 1, 0])])


@beam.check("a beam so wide that nothing is thrown away")
def beam_wide(search_beam):
    start = [int(integers(0, 100))]
    same(search_beam(murmuring, start, 3, 64, 0), _best(_all_texts(murmuring, start, 3, 0), 64), atol=1e-4)


@beam.check("a model that would like to stop at once, width 2, three tokens at most")
def beam_shy(search_beam):
    texts = [(math.log(0.4), [7, 0]), (math.log(0.35 * 0.93 * 0.93), [7, 1, 2, 2])]
    same(search_beam(shy, [7], 3, 2, 0), texts)


@beam.check("six tokens of a model with four, width 3")
def beam_narrow(search_beam):
    start = [int(integers(0, 100)), int(integers(1, 4))]
    same(search_beam(murmuring, start, 6, 3, 0), _reference_beam(murmuring, start, 6, 3, 0), atol=1e-4)


@beam.check("width 2, and one of the two places is taken by a text that has ended")
def beam_place_taken(search_beam):
    same(search_beam(hopeful, [7], 3, 2, 0), _reference_beam(hopeful, [7], 3, 2, 0))


@beam.check("a start that ends in eos, as where bos and eos are one token")
def beam_begins_with_eos(search_beam):
    same(search_beam(fork, [0], 4, 2, 0), [(math.log(0.399 * 0.9), [0, 2, 0]), (math.log(0.6 * 0.4), [0, 1, 0])])


def _reference_beam(model, start, n_new, width, eos):
    """By the definition, with texts as tuples: of all continuations the best."""
    best = {tuple(start): 0.0}
    for _ in range(n_new):
        following = {}
        for tokens, total in best.items():
            ended = len(tokens) > len(start) and tokens[-1] == eos
            for token, log_prob in enumerate([0.0] if ended else model(list(tokens))):
                following[tokens if ended else (*tokens, token)] = total + log_prob
        if following.keys() == best.keys():
            break
        best = dict(sorted(following.items(), key=lambda item: -item[1])[:width])
    return [(total, list(tokens)) for tokens, total in best.items()]


def _search(next_log_probs, start, n_new, width, eos, *, join=None, choose=None, ended=None, stop=all):
    """Beam search with one thing about it changed."""
    join = join or (lambda total, log_prob: total + log_prob)
    choose = choose or (lambda candidates: _best(candidates, width))
    ended = ended or (lambda tokens: len(tokens) > len(start) and tokens[-1] == eos)
    texts = [(0.0, list(start))]
    for _ in range(n_new):
        candidates = []
        for total, tokens in texts:
            going_on = [] if ended(tokens) else enumerate(next_log_probs(tokens))
            candidates += [(total, tokens)] if ended(tokens) else []
            candidates += [(join(total, log_prob), [*tokens, token]) for token, log_prob in going_on]
        texts = choose(candidates)
        if stop(ended(tokens) for _, tokens in texts):
            break
    return texts


@beam.mistake("""You rank texts by their last token alone. A text's log-probability is the sum over all that was
    written: total + log_prob.""")
def last_token_only(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, join=lambda total, log_prob: log_prob)


@beam.mistake("""You added probabilities. Probabilities of one token after the other are multiplied, and their
    logarithms added: leave the logarithms as they are.""")
def probabilities_added(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, join=lambda total, log_prob: total + math.exp(log_prob))


@beam.mistake("""You kept the worst ones: log-probabilities are negative, and the best is nearest to 0. Sort from the
    largest to the smallest.""")
def the_worst_kept(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, choose=lambda texts: sorted(texts)[:width])


@beam.mistake("""You kept `width` texts after the first token, and from then on only the best continuation of each.
    Then they never compete. Put all continuations of all texts into one list, and keep the best of that.""")
def each_on_its_own(next_log_probs, start, n_new, width, eos):
    def choose(candidates):
        kept, parents = [], {}
        for text in _best(candidates, len(candidates)):
            parent = tuple(text[1][:-1])
            parents[parent] = parents.get(parent, 0) + 1
            if parents[parent] == 1 or len(text[1]) == len(start) + 1:
                kept.append(text)
        return kept[:width]

    return _search(next_log_probs, start, n_new, width, eos, choose=choose)


@beam.mistake("""You kept the `width` best continuations of *each* text, so that their number multiplies in each round.
    Keep `width` in all.""")
def width_for_each(next_log_probs, start, n_new, width, eos):
    texts = [(0.0, list(start))]
    for _ in range(n_new):
        grown = []
        for total, tokens in texts:
            if len(tokens) > len(start) and tokens[-1] == eos:
                grown.append((total, tokens))
            else:
                following = [(total + p, [*tokens, token]) for token, p in enumerate(next_log_probs(tokens))]
                grown += _best(following, width)
        texts = grown
    return _best(texts, len(texts))


@beam.mistake("""You continued texts that have ended. What comes after eos means nothing, and it makes every finished
    text less likely than it is. Put it into the list of candidates as it is.""")
def ended_ones_go_on(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, ended=lambda tokens: False)


@beam.mistake("""You dropped texts when they ended, so that the finished ones are missing in the result. They stay
    among the candidates as they are.""")
def ended_ones_dropped(next_log_probs, start, n_new, width, eos):
    texts = [(0.0, list(start))]
    for _ in range(n_new):
        alive = [text for text in texts if len(text[1]) == len(start) or text[1][-1] != eos]
        if not alive:
            break
        following = [(t + p, [*tokens, new]) for t, tokens in alive for new, p in enumerate(next_log_probs(tokens))]
        texts = _best(following, width)
    return texts


@beam.mistake(
    """You stopped when the first text had ended. A better one may still be on its way: stop when all have."""
)
def stops_at_the_first(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, stop=any)


@beam.mistake("""You put ended texts aside, so that they take no place in the beam, and `width` others go on. Many
    programs do it like that. Here an ended text stays one of the `width`, and competes for its place.""")
def ended_ones_put_aside(next_log_probs, start, n_new, width, eos):
    texts, aside = [(0.0, list(start))], []
    for _ in range(n_new):
        following = [(t + p, [*tokens, new]) for t, tokens in texts for new, p in enumerate(next_log_probs(tokens))]
        best = _best(following, width)
        aside += [text for text in best if text[1][-1] == eos]
        texts = [text for text in best if text[1][-1] != eos]
        if not texts:
            break
    return _best(aside + texts, width)


@beam.mistake("""You counted an eos in `start` as the end of the text. Only what has been written counts.""")
def ended_at_the_start(next_log_probs, start, n_new, width, eos):
    return _search(next_log_probs, start, n_new, width, eos, ended=lambda tokens: tokens[-1] == eos)


@beam.mistake("""You divided by the number of tokens. That is a way to give long texts a chance, and the text below
    speaks about it; here the plain sum is asked for.""")
def divided_by_length(next_log_probs, start, n_new, width, eos):
    texts = _search(
        next_log_probs, start, n_new, width, eos,
        choose=lambda candidates: sorted(candidates, key=lambda t: -t[0] / (len(t[1]) - len(start)))[:width],
    )  # fmt: skip
    return [(total / (len(tokens) - len(start)), tokens) for total, tokens in texts]


@beam.mistake("""You gave the best text only. Give all that are left in the beam, best first, each with its
    log-probability.""")
def only_the_best(next_log_probs, start, n_new, width, eos):
    return search_beam(next_log_probs, start, n_new, width, eos)[:1]


@beam.mistake("""You left `start` out of the texts. Give it as well, in front of what was written.""")
def start_left_out(next_log_probs, start, n_new, width, eos):
    texts = search_beam(next_log_probs, start, n_new, width, eos)
    return [(total, tokens[len(start) :]) for total, tokens in texts]


@beam.mistake("""Your pairs are the wrong way round: the log-probability first, then the tokens.""")
def pairs_the_wrong_way_round(next_log_probs, start, n_new, width, eos):
    return [(tokens, total) for total, tokens in search_beam(next_log_probs, start, n_new, width, eos)]


@beam.alternative("a dictionary of tuples")
def beam_in_a_dictionary(next_log_probs, start, n_new, width, eos):
    return _reference_beam(next_log_probs, start, n_new, width, eos)


@beam.alternative("finished and unfinished texts in two lists")
def beam_in_two_lists(next_log_probs, start, n_new, width, eos):
    going_on, finished = [(0.0, list(start))], []
    for _ in range(n_new):
        if not going_on:
            break
        following = [(t + p, [*tokens, new]) for t, tokens in going_on for new, p in enumerate(next_log_probs(tokens))]
        best = sorted(finished + following, key=lambda text: text[0])[::-1][:width]
        finished = [text for text in best if len(text[1]) > len(start) and text[1][-1] == eos]
        going_on = [text for text in best if text not in finished]
    return sorted(finished + going_on, key=lambda text: text[0], reverse=True)


@beam.alternative("a table of totals and torch's topk")
def beam_with_topk(next_log_probs, start, n_new, width, eos):
    texts, totals = [list(start)], torch.zeros(1, dtype=torch.float64)
    for _ in range(n_new):
        rows, places = [], []
        for text, total in zip(texts, totals, strict=True):
            if len(text) > len(start) and text[-1] == eos:
                rows.append(total[None])
                places.append(text)
            else:
                rows.append(total + torch.tensor(next_log_probs(text), dtype=torch.float64))
                places += [[*text, token] for token in range(len(rows[-1]))]
        totals, best = torch.cat(rows).topk(min(width, len(places)))
        texts = [places[i] for i in best.tolist()]
        if all(len(text) > len(start) and text[-1] == eos for text in texts):
            break
    return list(zip(totals.tolist(), texts, strict=True))


# 08.7 chrf ----------------------------------------------------------------------------------------------------------


def chrf(said: str, expected: str, longest: int = 6, beta: float = 2.0) -> float:
    """How much of the characters two texts have in common, 0 to 100: the character n-gram F-score.

    Spaces are left out. For n = 1 to `longest`, count all pieces of n characters in each text (a piece that stands
    there twice counts twice). A piece is found as often as it stands in both texts.
    precision: found / pieces of `said`; recall: found / pieces of `expected`. Lengths n for which one of the texts has
    no piece at all are left out; over the others, precision P and recall R are averaged (0 if there are none). The
    score is 100 * (1 + beta**2) * P * R / (beta**2 * P + R), and 0 if P and R are 0.
    Source: Popović 2015, chrF: character n-gram F-score for automatic MT evaluation.

    >>> round(chrf("le chat noir", "le chat"), 1)
    79.5
    """
    precisions, recalls = [], []
    texts = said.replace(" ", ""), expected.replace(" ", "")
    for n in range(1, longest + 1):
        mine, right = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts)
        if mine and right:
            found = (mine & right).total()
            precisions.append(found / mine.total())
            recalls.append(found / right.total())
    if not any(precisions):
        return 0.0
    P, R = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * P * R / (beta**2 * P + R)


score = Exercise(
    "08.7",
    chrf,
    hints=(
        "The pieces of length n: `[text[i : i + n] for i in range(len(text) - n + 1)]`. `Counter(pieces)` says how "
        "often each is there; how often do \"aa\" and \"aaa\" have the piece \"a\" in common?",
        "`Counter(...) & Counter(...)` keeps the smaller count of each piece, and `.total()` adds all counts up. "
        "Collect precision and recall for each n in two lists; an empty Counter is False.",
        "`found = (mine & right).total()`, precision `found / mine.total()`, recall `found / right.total()`, for each "
        "n where both Counters hold something. Average each list; if anything was found, use the formula.",
    ),
)  # fmt: skip

SENTENCES = (
    "Le petit chat noir a dormi sous la table.",
    "Les petits chats noirs ont dormi sous les tables.",
    "La souris s'est cachée dans la boîte verte.",
    "Le garçon a trouvé trois pommes rouges.",
)


def _by_hand(said: str, expected: str, longest: int = 6, beta: float = 2.0) -> float:
    """The definition once more, each piece crossed out where it is found."""
    texts = ["".join(text.split(" ")) for text in (said, expected)]
    shares = []
    for n in range(1, min(longest, *map(len, texts)) + 1):
        mine, right = ([text[i : i + n] for i in range(len(text) - n + 1)] for text in texts)
        left, found = list(right), 0
        for piece in mine:
            if piece in left:
                left.remove(piece)
                found += 1
        shares.append((found / len(mine), found / len(right)))
    P, R = (sum(column) / len(shares) for column in zip(*shares, strict=True)) if shares else (0.0, 0.0)
    return 100 * (1 + beta**2) * P * R / (beta**2 * P + R) if P + R else 0.0


@score.check("aab and abb, pieces of up to 2 characters, by hand")
def score_by_hand(chrf):
    same(chrf("aab", "abb", 2), 100 * (2 / 3 + 1 / 2) / 2, atol=1e-3)  # found: a, b of 3; ab of 2


@score.check("a sentence and itself")
def score_itself(chrf):
    sentence = pick(SENTENCES)
    same(chrf(sentence, sentence), 100.0, atol=1e-3)


@score.check("two sentences that are nearly the same")
def score_near(chrf):
    same(chrf(SENTENCES[0], SENTENCES[1]), _by_hand(SENTENCES[0], SENTENCES[1]), atol=1e-3)


@score.check("half a sentence: all that was said is right, and half is missing")
def score_half(chrf):
    sentence = pick(SENTENCES)
    half = sentence[: len(sentence) // 2]
    same(chrf(half, sentence), _by_hand(half, sentence), atol=1e-3)


@score.check("one word again and again, and another beta")
def score_again(chrf):
    said = " ".join(["le", "chat"] + ["noir"] * int(integers(3, 6)))
    same(chrf(said, "le chat noir", 4, 1.0), _by_hand(said, "le chat noir", 4, 1.0), atol=1e-3)


@score.check("Chinese, and shorter than six characters")
def score_chinese(chrf):
    same(chrf("狗睡了。", "猫睡了。"), _by_hand("狗睡了。", "猫睡了。"), atol=1e-3)


@score.check("nothing in common, and nothing said at all")
def score_nothing(chrf):
    same([chrf("abc", "xyz"), chrf("", "abc")], [0.0, 0.0])


def _shares(said, expected, longest, *, pieces=None, common=None):
    """Precision and recall for each n, with one thing about it changed."""
    if pieces is None:
        said, expected = said.replace(" ", ""), expected.replace(" ", "")
    pieces = pieces or (lambda text, n: [text[i : i + n] for i in range(len(text) - n + 1)])
    common = common or (lambda mine, right: (Counter(mine) & Counter(right)).total())
    rows = []
    for n in range(1, longest + 1):
        mine, right = pieces(said, n), pieces(expected, n)
        if mine and right:
            rows.append((common(mine, right) / len(mine), common(right, mine) / len(right)))
    return rows


def _score(rows, beta, n=None):
    n = n or len(rows)
    P, R = (sum(row[i] for row in rows) / n if rows else 0.0 for i in (0, 1))
    return 100 * (1 + beta**2) * P * R / (beta**2 * P + R) if P + R else 0.0


@score.mistake("""You left the spaces in. A space is the easiest character to get right: leave it out of both texts
    before you count.""")
def spaces_counted(said, expected, longest=6, beta=2.0):
    pieces = lambda text, n: [text[i : i + n] for i in range(len(text) - n + 1)]  # noqa: E731
    return _score(_shares(said, expected, longest, pieces=pieces), beta)


@score.mistake("""You asked of each piece only whether it stands in the other text. Then a word that is said five times
    is right five times. It is found as often as it stands in *both*: the smaller of the two counts.""")
def counted_too_often(said, expected, longest=6, beta=2.0):
    common = lambda mine, right: sum(piece in right for piece in mine)  # noqa: E731
    return _score(_shares(said, expected, longest, common=common), beta)


@score.mistake("""You made sets of pieces, and a set holds each piece once. A piece that stands there twice counts
    twice: use a Counter.""")
def sets_of_pieces(said, expected, longest=6, beta=2.0):
    said, expected = said.replace(" ", ""), expected.replace(" ", "")
    pieces = lambda text, n: {text[i : i + n] for i in range(len(text) - n + 1)}  # noqa: E731
    return _score(_shares(said, expected, longest, pieces=pieces, common=lambda a, b: len(a & b)), beta)


@score.mistake("""Precision and recall have changed places in the formula: below the line beta**2 stands with P. With
    beta = 2 recall counts more, so that a translation that leaves things out does not look good.""")
def places_exchanged(said, expected, longest=6, beta=2.0):
    return _score([(recall, precision) for precision, recall in _shares(said, expected, longest)], beta)


@score.mistake("""You left beta at 1: 2 * P * R / (P + R) counts precision and recall alike. Put beta**2 in, above and
    below the line.""")
def without_beta(said, expected, longest=6, beta=2.0):
    return _score(_shares(said, expected, longest), 1.0)


@score.mistake("""You wrote beta where beta**2 belongs.""")
def beta_not_squared(said, expected, longest=6, beta=2.0):
    return _score(_shares(said, expected, longest), beta**0.5)


@score.mistake("""You computed a score for each n and averaged the scores. Average the precisions and the recalls first,
    then put the two averages into the formula once.""")
def scores_averaged(said, expected, longest=6, beta=2.0):
    scores = [_score([row], beta) for row in _shares(said, expected, longest)]
    return sum(scores) / len(scores) if scores else 0.0


@score.mistake("""You always divided by `longest`. A text of four characters has no piece of five: lengths for which one
    of the texts has no piece are left out of the average.""")
def always_divided_by_six(said, expected, longest=6, beta=2.0):
    return _score(_shares(said, expected, longest), beta, n=longest)


@score.mistake("""You compared pieces of exactly `longest` characters. All lengths from 1 to `longest` count.""")
def longest_only(said, expected, longest=6, beta=2.0):
    return _score([row for row in _shares(said, expected, longest)][longest - 1 :], beta)


@score.mistake("""You compared words. chrF compares pieces of characters, so that a wrong ending costs a little and not
    the whole word.""")
def words_compared(said, expected, longest=6, beta=2.0):
    pieces = lambda text, n: [tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1)]  # noqa: E731
    return _score(_shares(said, expected, longest, pieces=pieces), beta)


@score.mistake("""Your score goes from 0 to 1. Multiply it by 100.""")
def from_0_to_1(said, expected, longest=6, beta=2.0):
    return chrf(said, expected, longest, beta) / 100


@score.mistake("""You lost the last piece of each length. A text of L characters has L - n + 1 pieces of length n.""")
def last_piece_lost(said, expected, longest=6, beta=2.0):
    said, expected = said.replace(" ", ""), expected.replace(" ", "")
    return _score(_shares(said, expected, longest, pieces=lambda s, n: [s[i : i + n] for i in range(len(s) - n)]), beta)


@score.mistake("""You counted how many *different* pieces the two texts share, and divided by all pieces. A piece that
    stands there twice counts twice: (mine & right).total(), not len(mine & right).""")
def different_pieces_found(said, expected, longest=6, beta=2.0):
    precisions, recalls = [], []
    mine, right = said.replace(" ", ""), expected.replace(" ", "")
    for n in range(1, longest + 1):
        a, b = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (mine, right))
        if a and b:
            precisions.append(len(a & b) / a.total())
            recalls.append(len(a & b) / b.total())
    P, R = (sum(shares) / len(shares) if shares else 0.0 for shares in (precisions, recalls))
    return 100 * (1 + beta**2) * P * R / (beta**2 * P + R) if P and R else 0.0


@score.alternative("pieces crossed out one by one")
def score_by_crossing_out(said, expected, longest=6, beta=2.0):
    return _by_hand(said, expected, longest, beta)


@score.alternative("dictionaries, and an F-score from two numbers")
def score_with_dictionaries(said, expected, longest=6, beta=2.0):
    said, expected = ("".join(c for c in text if c != " ") for text in (said, expected))
    P = R = n_lengths = 0.0
    for n in range(1, longest + 1):
        counts = [{}, {}]
        for text, count in zip((said, expected), counts, strict=True):
            for i in range(len(text) - n + 1):
                count[text[i : i + n]] = count.get(text[i : i + n], 0) + 1
        if not all(counts):
            break
        found = sum(min(times, counts[1].get(piece, 0)) for piece, times in counts[0].items())
        P, R, n_lengths = P + found / sum(counts[0].values()), R + found / sum(counts[1].values()), n_lengths + 1
    return 100 * (1 + beta**2) / (beta**2 * n_lengths / R + n_lengths / P) if P and R else 0.0


@score.alternative("all pieces of all lengths in one go")
def score_in_one_go(said, expected, longest=6, beta=2.0):
    rows = _shares(said, expected, longest)
    if not rows:
        return 0.0
    P, R = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    return 0.0 if P == 0 or R == 0 else 100 * (1 + beta * beta) / (beta * beta / R + 1 / P)


# 08.8 one_line ------------------------------------------------------------------------------------------------------


def one_line(source: list[int], target: list[int], sep: int, eos: int) -> tuple[list[int], list[int]]:
    """Write a sentence and its translation in one line, for a model that has no encoder.

    -> tokens: the source, sep, the target. labels: of the same length, labels[i] is what the model shall say after
    having read tokens[i]: the words of the target and then eos. Everywhere else -100: the source is given, and need not
    be learned.

    >>> one_line([5, 6], [7, 8], sep=1, eos=2)[0]
    [5, 6, 1, 7, 8]
    """
    return [*source, sep, *target], [-100] * len(source) + [*target, eos]


line = Exercise(
    "08.8",
    one_line,
    hints=(
        "Write the tokens side by side, and under each what shall be said next. Under which token stands the first "
        "word of the target?",
        "Under sep: when that has been read, the translation begins. Under the last word stands eos. How many -100 are "
        "in front?",
        "As many as the source has tokens: `[-100] * len(source)`, then the target, then eos.",
    ),
)


def _lined_up(source, target, sep, eos):
    whole = [*source, sep, *target, eos]
    return whole[:-1], [whole[i + 1] if i >= len(source) else -100 for i in range(len(whole) - 1)]


@line.check("source [5, 6, 7], target [8, 9], sep=1, eos=2")
def line_by_hand(one_line):
    same(one_line([5, 6, 7], [8, 9], 1, 2), ([5, 6, 7, 1, 8, 9], [-100, -100, -100, 8, 9, 2]))


@line.check("a target longer than its source, other signs")
def line_longer(one_line):
    source, target = _sentences(2, 5)
    same(one_line(source, target, 51, 52), _lined_up(source, target, 51, 52))


@line.check("one word for one word")
def line_one_word(one_line):
    source, target = _sentences(1, 1)
    same(one_line(source, target, 1, 2), _lined_up(source, target, 1, 2))


@line.check("sep and eos are the same token")
def line_same_sign(one_line):
    source, target = _sentences(4, 3)
    same(one_line(source, target, 2, 2), _lined_up(source, target, 2, 2))


def _labelled(source, target, sep, labels):
    return [*source, sep, *target], labels


@line.mistake("""Your labels are not moved: under each word of the target stands the word itself. The model would learn
    to repeat what it has read. Under a token stands the one after it.""")
def line_not_moved(source, target, sep, eos):
    return _labelled(source, target, sep, [-100] * (len(source) + 1) + list(target))


@line.mistake("""You hid the label under sep. There the first word of the translation is learned; without it the model
    never learns how to begin.""")
def first_word_hidden(source, target, sep, eos):
    return _labelled(source, target, sep, [-100] * (len(source) + 1) + [*target[1:], eos])


@line.mistake("""eos is missing in the labels, so the model never learns to stop. Under the last word of the target
    stands eos.""")
def line_without_end(source, target, sep, eos):
    return _labelled(source, target, sep, [-100] * len(source) + [*target, -100])


@line.mistake("""You gave the words of the source as labels too. That is not wrong for a model that shall also write
    English, but here the source is given: hide it with -100, or half of the training goes into guessing it.""")
def source_learned_too(source, target, sep, eos):
    return _labelled(source, target, sep, [*source[1:], sep, *target, eos])


@line.mistake("""You want sep to be learned, too: it stands under the last word of the source. It is given, like the
    source. Hide as many labels as the source has tokens.""")
def sep_learned_too(source, target, sep, eos):
    return _labelled(source, target, sep, [-100] * (len(source) - 1) + [sep, *target, eos])


@line.mistake("""sep is missing. Without a sign between them the model can't know where the source ends and where it
    is its turn.""")
def without_a_sign(source, target, sep, eos):
    return [*source, *target], [-100] * (len(source) - 1) + [*target, eos]


@line.mistake("""Your tokens hold eos. After it nothing is to be said, so it need not be read: it belongs into the
    labels only.""")
def line_reads_the_end(source, target, sep, eos):
    return [*source, sep, *target, eos], [-100] * len(source) + [*target, eos, -100]


@line.mistake("""You gave labels for the target only, so the two lists have different lengths. Each token needs a
    label, and where nothing is to be learned it is -100.""")
def labels_too_short(source, target, sep, eos):
    return _labelled(source, target, sep, [*target, eos])


@line.mistake("""You moved the labels twice: under sep stands the second word of the target. Under sep belongs the
    first.""")
def line_moved_twice(source, target, sep, eos):
    return _labelled(source, target, sep, [-100] * len(source) + [*target[1:], eos, -100])


@line.alternative("the whole line, cut at either end, and hidden by position")
def line_by_cutting(source, target, sep, eos):
    return _lined_up(source, target, sep, eos)


@line.alternative("token by token")
def line_token_by_token(source, target, sep, eos):
    tokens, labels = [], []
    for token in source:
        tokens.append(token)
        labels.append(-100)
    for token, following in zip([sep, *target], [*target, eos], strict=True):
        tokens.append(token)
        labels.append(following)
    return tokens, labels


@line.alternative("tensors, and back to lists")
def line_with_tensors(source, target, sep, eos):
    whole = torch.tensor([*source, sep, *target, eos])
    labels = whole[1:].clone()
    labels[: len(source)] = -100
    return whole[:-1].tolist(), labels.tolist()
