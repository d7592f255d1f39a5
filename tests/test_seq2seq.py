import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minillama import beam
from minillama.attention import Attention, causal_mask
from minillama.block import Block, Parts
from minillama.config import Config
from minillama.decode import beam_search, greedy
from minillama.grammar import held_out, sentences
from minillama.norm import RMSNorm
from minillama.position import LearnedPositions, RoPE
from minillama.seq2seq import VASWANI, DecoderBlock, Seq2Seq, pad_right, teacher_forcing
from minillama.train import next_token_loss
from minillama.translate import exact_match, train_translation, translate, translation_loss

CONFIG = Config(vocab_size=11, d_model=12, n_layers=2, n_heads=6, d_ff=7, norm_eps=1e-3)
BOS, EOS, PAD = 1, 2, 0
close = partial(assert_close, atol=1e-5, rtol=1e-5)


def shaken(model):
    """Every weight random and large, norms and biases too, so that nothing is ones or zeros by luck."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return model


def example():
    """B=2, S=5, T=3; the first source has two pads, the second target one."""
    source = torch.tensor([[5, 7, 9, 0, 0], [3, 4, 10, 8, 6]])
    return source, torch.tensor([[1, 7, 8], [1, 9, 0]]), source != PAD


# Equality with torch: our names to theirs, where q, k and v are one matrix.
ENCODER = {
    "attention.o_proj": "self_attn.out_proj", "attention_norm": "norm1",
    "feedforward.up_proj": "linear1", "feedforward.down_proj": "linear2", "feedforward_norm": "norm2",
}  # fmt: skip
DECODER = ENCODER | {
    "cross_attention.o_proj": "multihead_attn.out_proj", "cross_attention_norm": "norm2", "feedforward_norm": "norm3",
}  # fmt: skip


def torchs_layer(tensors, renames):
    """One layer's weights (or gradients) under torch's names."""
    theirs = {}
    for name, tensor in tensors.items():
        part, kind = name.rsplit(".", 1)
        if part in renames:
            theirs[f"{renames[part]}.{kind}"] = tensor
        elif part.endswith("q_proj"):
            packed = torch.cat([tensors[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            theirs[f"{'self_attn' if part.startswith('attention') else 'multihead_attn'}.in_proj_{kind}"] = packed
    return theirs


def torchs_names(tensors):
    """A Seq2Seq's weights (or gradients), but for the embedding and the output, as nn.Transformer names them."""
    theirs = {}
    for stack, renames in (("encoder", ENCODER), ("decoder", DECODER)):
        for i in range(CONFIG.n_layers):
            prefix = f"{stack}.{i}."
            layer = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            theirs |= {f"{stack}.layers.{i}.{name}": t for name, t in torchs_layer(layer, renames).items()}
        for kind in ("weight", "bias"):
            if f"{stack}_norm.{kind}" in tensors:
                theirs[f"{stack}.norm.{kind}"] = tensors[f"{stack}_norm.{kind}"]
    return theirs


@pytest.mark.parametrize("final_norms", [True, False])
def test_seq2seq_equals_torchs_transformer_in_values_and_gradients(final_norms):
    ours = shaken(Seq2Seq(CONFIG))
    theirs = nn.Transformer(*(12, 6, 2, 2, 7), dropout=0.0, layer_norm_eps=1e-3, batch_first=True, norm_first=False)
    if not final_norms:  # the paper's: no norm after the last layer
        ours.encoder_norm = ours.decoder_norm = nn.Identity()
        theirs.encoder.norm = theirs.decoder.norm = None
    theirs.load_state_dict(torchs_names(ours.state_dict()))
    source, target, mask = example()
    with torch.no_grad():  # positions written out once more
        angles = torch.arange(5)[:, None] / 10000 ** (torch.arange(0, 12, 2) / 12)
        waves = torch.stack([angles.sin(), angles.cos()], -1).view(5, 12)
    x, y = (ours.embed_tokens(t).detach() * 12**0.5 + waves[: t.size(1)] for t in (source, target))
    hidden = theirs(
        x, y, tgt_mask=~causal_mask(3), src_key_padding_mask=~mask, memory_key_padding_mask=~mask
    )  # torch's True means "may not look"
    expected = hidden @ ours.lm_head.weight.detach().T
    logits = ours(source, target, mask)
    assert logits.shape == (2, 3, 11)
    close(logits, expected)
    for out in (logits, expected):
        out.sin().sum().backward()
    gradients = torchs_names({name: p.grad for name, p in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        close(gradients[name], parameter.grad)


def test_a_decoder_block_equals_torchs_layer_in_values_and_gradients(same):
    ours = shaken(DecoderBlock(CONFIG, VASWANI))
    theirs = nn.TransformerDecoderLayer(*(12, 6, 7), dropout=0.0, layer_norm_eps=1e-3, batch_first=True)
    theirs.load_state_dict(torchs_layer(ours.state_dict(), DECODER))
    mask = example()[2]
    same(
        lambda x, encoded: ours(x, encoded, causal_mask(3), mask[:, None, None, :]),
        lambda x, encoded: theirs(x, encoded, tgt_mask=~causal_mask(3), memory_key_padding_mask=~mask),
        *(torch.randn(2, 3, 12), torch.randn(2, 5, 12)),
        atol=1e-5,
        rtol=1e-5,
    )
    gradients = torchs_layer({name: p.grad for name, p in ours.named_parameters()}, DECODER)
    for name, parameter in theirs.named_parameters():
        close(gradients[name], parameter.grad)


def test_the_cross_attention_asks_from_the_decoder_and_takes_from_the_encoder():
    block = shaken(DecoderBlock(CONFIG, VASWANI))
    x, encoded, seen = torch.randn(2, 3, 12), torch.randn(2, 5, 12), {}
    for name in "qkv":
        hook = partial(lambda name, module, inputs, output: seen.update({name: inputs[0]}), name)
        getattr(block.cross_attention, f"{name}_proj").register_forward_hook(hook)
    block(x, encoded, causal_mask(3))
    close(seen["q"], block.attention_norm(x + block.attention(x, causal_mask(3))))
    assert seen["k"] is encoded and seen["v"] is encoded


def test_every_target_token_sees_every_real_source_token():
    model, (source, target, mask) = shaken(Seq2Seq(CONFIG)), example()
    encoded = model.encode(source, mask).detach().requires_grad_()
    for t in range(3):
        encoded.grad = None
        model.decode(target, encoded, mask)[:, t].sin().sum().backward()
        assert ((encoded.grad != 0).any(dim=-1) == mask).all()  # and no padding


def test_every_source_token_sees_every_other_one_both_ways():
    model, (source, _, _) = shaken(Seq2Seq(CONFIG)), example()
    before = model.encode(source)
    for s in range(5):
        changed = source.clone()
        changed[:, s] = 1
        assert ((model.encode(changed) - before).abs().amax(dim=-1) > 1e-6).all()


def test_what_lies_under_the_source_padding_changes_nothing():
    model, (source, target, mask) = shaken(Seq2Seq(CONFIG)), example()
    before, encoded = model(source, target, mask), model.encode(source, mask)
    source[0, 3:] = torch.tensor([6, 2])
    assert_close(model(source, target, mask), before, atol=0, rtol=0)
    assert_close(model.encode(source, mask)[mask], encoded[mask], atol=0, rtol=0)
    assert (model(source, target) - before)[0].abs().max() > 1e-3  # without the mask it would


def test_a_padded_source_gives_what_it_gives_alone():
    model, (source, target, mask) = shaken(Seq2Seq(CONFIG)), example()
    together = model(source, target, mask)
    close(together[:1], model(source[:1, :3], target[:1]))
    close(together[1:], model(source[1:], target[1:]))


def test_the_decoder_does_not_see_the_future_nor_its_padding():
    model, (source, target, mask) = shaken(Seq2Seq(CONFIG)), example()
    before = model(source, target, mask)
    changed = target.clone()
    changed[:, 2] = torch.tensor([4, 5])  # the last one: a token in the first row, a pad in the second
    after = model(source, changed, mask)
    assert_close(after[:, :2], before[:, :2], atol=0, rtol=0)
    assert ((after - before)[:, 2].abs().amax(dim=-1) > 1e-3).all()


def test_the_rows_of_a_batch_do_not_touch():
    model, (source, target, mask) = shaken(Seq2Seq(CONFIG)), example()
    before = model(source, target, mask)
    source[1], target[1] = 5, 6
    assert_close(model(source, target, mask)[0], before[0], atol=0, rtol=0)


def test_embedding_and_output_can_be_one_matrix():
    model = Seq2Seq(Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, d_ff=7, tied=True))
    assert model.lm_head.weight is model.embed_tokens.weight
    assert model.n_parameters == sum(p.numel() for p in set(model.parameters()))


@pytest.mark.parametrize(
    "parts", [VASWANI, Parts(), Parts(norm=RMSNorm, position=LearnedPositions, block=Block), Parts(position=RoPE)]
)
def test_order_counts_on_both_sides_with_any_parts(parts):
    config = Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, d_ff=7, max_len=8)
    model, (source, target, _) = shaken(Seq2Seq(config, parts)), example()
    before = model(source, target)
    assert ((model(source.flip(1), target) - before)[1].abs() > 1e-6).any()
    swapped = torch.tensor([[7, 1, 8], [9, 1, 0]])
    assert ((model(source, swapped) - before)[:, 2].abs() > 1e-6).any()


def test_a_part_of_ones_own_goes_into_both_stacks():
    class Mine(Attention):
        pass

    class MyDecoderBlock(DecoderBlock):
        pass

    model = Seq2Seq(CONFIG, Parts(attention=Mine), decoder_block=MyDecoderBlock)
    assert sum(isinstance(module, Mine) for module in model.modules()) == 2 + 2 * 2
    assert sum(isinstance(module, MyDecoderBlock) for module in model.modules()) == 2


def test_attention_is_told_a_head_width_of_its_own():
    config = Config(vocab_size=11, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, head_dim=5, d_ff=7)
    assert DecoderBlock(config, VASWANI).cross_attention.k_proj.weight.shape == (10, 12)


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 5), torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 1, 1, 5, dtype=torch.bool)]
)
def test_a_mask_that_is_not_bool_or_has_another_shape_is_refused(mask):
    source, target, _ = example()
    with pytest.raises(ValueError, match=r"source_mask: .*, expected bool \(2, 5\), True where a token is real"):
        Seq2Seq(CONFIG)(source, target, mask)


def test_batches_of_different_sizes_are_refused():
    source, target, mask = example()
    with pytest.raises(ValueError, match="target: 1 rows, expected 2"):
        Seq2Seq(CONFIG)(source, target[:1], mask)


# Teacher forcing


def test_teacher_forcing_shifts_by_one_supervises_eos_and_no_padding():
    inputs, labels = teacher_forcing([[7, 8], [9], []], bos=BOS, eos=EOS, pad=PAD)
    assert inputs.tolist() == [[1, 7, 8], [1, 9, 0], [1, 0, 0]]
    assert labels.tolist() == [[7, 8, 2], [9, 2, -100], [2, -100, -100]]


@pytest.mark.parametrize(("bos", "pad"), [(1, 2), (2, 2), (2, 0)])
def test_teacher_forcing_learns_to_stop_even_if_padding_and_eos_are_one_token(bos, pad):
    inputs, labels = teacher_forcing([[7, 8], [9]], bos=bos, eos=2, pad=pad)
    assert inputs.tolist() == [[bos, 7, 8], [bos, 9, pad]]
    assert labels.tolist() == [[7, 8, 2], [9, 2, -100]]


def test_the_loss_of_a_padded_batch_is_the_mean_over_all_real_tokens():
    model = shaken(Seq2Seq(CONFIG))
    sources, targets = [[5, 7, 9], [3, 4, 10, 8, 6]], [[7, 8, 9, 10], [9]]
    source, mask = pad_right(sources, PAD)
    inputs, labels = teacher_forcing(targets, bos=BOS, eos=EOS, pad=PAD)
    together = next_token_loss(model(source, inputs, mask), labels)
    nats = 0.0
    for s, t in zip(sources, targets, strict=True):
        log_probs = model(torch.tensor([s]), torch.tensor([[BOS, *t]])).log_softmax(-1)[0]
        nats -= sum(log_probs[i, token].item() for i, token in enumerate([*t, EOS]))
    assert together.item() == pytest.approx(nats / 7, rel=1e-5)


# Greedy decoding and beam search


def lively(model):
    """Random too, but without biases, which would let one token win everywhere."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return model


def sources():
    return pad_right([[5, 7, 9], [3, 4, 10, 8, 6], [6]], PAD)


class Copier(nn.Module):
    """Says the source again, with no doubt, then eos, then nonsense."""

    def encode(self, source, source_mask):
        return torch.cat([source.masked_fill(~source_mask, EOS), torch.full((len(source), 9), 4)], dim=1)

    def decode(self, target, encoded, source_mask):
        return nn.functional.one_hot(encoded[:, : target.size(1)], 11).float() * 9


@pytest.mark.parametrize("decode", [greedy, lambda *inputs, **n: beam_search(*inputs, width=2, **n)[0][:, 0]])
def test_a_row_ends_at_eos_or_after_n_new_tokens_and_waits_for_the_others(decode):
    source, mask = pad_right([[5, 7, 9], [3, 4, 10, 8, 6], [6]], PAD)
    source, mask = (nn.functional.pad(x, (0, 1)) for x in (source, mask))  # everybody has room for an eos
    settings = dict(bos=BOS, eos=EOS)
    whole = [[1, 5, 7, 9, 2, 2, 2], [1, 3, 4, 10, 8, 6, 2], [1, 6, 2, 2, 2, 2, 2]]
    assert decode(Copier(), source, mask, n_new=50, **settings).tolist() == whole
    assert decode(Copier(), source, mask, n_new=3, **settings).tolist() == [row[:4] for row in whole]


def test_greedy_takes_the_most_likely_token_each_time():
    for seed in range(5):
        torch.manual_seed(seed)
        model, (source, mask) = lively(Seq2Seq(CONFIG)), sources()
        for row, tokens in enumerate(greedy(model, source, mask, bos=BOS, eos=EOS, n_new=6).tolist()):
            said = tokens[1 : tokens.index(EOS) + 1] if EOS in tokens else tokens[1:]
            logits = model(source[row][mask[row]][None], torch.tensor([[BOS, *said[:-1]]]))
            assert logits.argmax(-1)[0].tolist() == said


@pytest.mark.parametrize("decode", [greedy, partial(beam_search, width=3)])
def test_sources_of_unequal_lengths_are_decoded_as_if_alone(decode):
    settings = dict(bos=BOS, eos=EOS, n_new=5)
    for seed in range(5):
        torch.manual_seed(seed)
        model, (source, mask) = lively(Seq2Seq(CONFIG)), sources()
        together = decode(model, source, mask, **settings)
        for row in range(3):
            alone = decode(model, source[row][mask[row]][None], **settings)
            if decode is not greedy:
                close(together[1][row], alone[1][0])
            ours, theirs = ((x if decode is greedy else x[0][:, 0]).tolist() for x in (together, alone))
            n = len(theirs[0])
            assert ours[row][:n] == theirs[0] and set(ours[row][n:]) <= {EOS}


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_of_width_1_is_greedy(length_penalty):
    for seed in range(10):
        torch.manual_seed(seed)
        model, (source, mask) = lively(Seq2Seq(CONFIG)), sources()
        settings = dict(bos=BOS, eos=EOS, n_new=6)
        found, _ = beam_search(model, source, mask, width=1, length_penalty=length_penalty, **settings)
        assert_close(found[:, 0], greedy(model, source, mask, **settings))


def table(probs):
    """next_logits of a tiny language: what follows a token, whatever was before."""
    return lambda tokens: torch.tensor(probs).log()[tokens[:, -1]]


#           0 eos  1 bos  2     3     4
GARDEN_PATH = [
    [1.00, 0.00, 0.00, 0.00, 0.00],
    [0.00, 0.00, 0.60, 0.40, 0.00],  # from bos: 2 looks better,
    [0.30, 0.00, 0.30, 0.00, 0.40],  # but has no good continuation,
    [0.90, 0.00, 0.00, 0.10, 0.00],  # while 3 ends well
    [0.50, 0.00, 0.50, 0.00, 0.00],
]


def test_a_beam_finds_what_greedy_walks_past():
    start, settings = torch.tensor([[1]]), dict(eos=0, length_penalty=0.0)
    (narrow, low), (wide, high) = (beam.search(table(GARDEN_PATH), start, 4, width=w, **settings) for w in (1, 2))
    assert narrow[0, 0].tolist() == [1, 2, 4, 0]
    assert low.exp().item() == pytest.approx(0.6 * 0.4 * 0.5)
    assert wide[0, 0].tolist()[:3] == [1, 3, 0] and set(wide[0, 0].tolist()[3:]) <= {0}
    assert high[0, 0].exp().item() == pytest.approx(0.4 * 0.9)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 3.0])
def test_a_beam_that_holds_everything_is_exhaustive_search(length_penalty):
    config = Config(vocab_size=4, d_model=12, n_layers=1, n_heads=6, d_ff=7)
    for seed in range(3):
        torch.manual_seed(seed)
        model, source = lively(Seq2Seq(config)), torch.tensor([[3, 1, 0]])
        model.lm_head.weight.data.mul_(0.3)
        everything = {}
        for long in product(range(4), repeat=4):
            said = long[: long.index(EOS) + 1] if EOS in long else long
            log_probs = model(source, torch.tensor([[BOS, *said[:-1]]])).log_softmax(-1)[0]
            total = sum(log_probs[i, token].item() for i, token in enumerate(said))
            everything[said] = total / ((5 + len(said)) / 6) ** length_penalty
        ranked = sorted(everything.items(), key=lambda item: -item[1])
        settings = dict(bos=BOS, eos=EOS, n_new=4, length_penalty=length_penalty)
        found, scores = beam_search(model, source, width=256, **settings)
        for row, (said, score) in enumerate(ranked):
            tokens = found[0, row].tolist()
            assert tuple(tokens[1 : len(said) + 1]) == said and set(tokens[len(said) + 1 :]) <= {EOS}
            assert scores[0, row].item() == pytest.approx(score, abs=1e-4)
        assert len(ranked) == 121 and scores[0, 121:].isneginf().all()  # 3**4 + 3**3 + 3**2 + 3 + 1
        ranks = [len(said) for said, _ in ranked]
        assert ranks != sorted(ranks)  # more than "short ones first"


@pytest.mark.parametrize("width", [2, 3, 5])
def test_scores_are_those_of_the_sequences_and_the_best_comes_first(width):
    for seed in range(5):
        torch.manual_seed(seed)
        model, (source, mask) = lively(Seq2Seq(CONFIG)), sources()
        found, scores = beam_search(model, source, mask, bos=BOS, eos=EOS, n_new=5, width=width)
        assert found.shape[:2] == scores.shape == (3, width) and (scores.diff(dim=1) <= 0).all()
        for row, place in product(range(3), range(width)):
            tokens = found[row, place].tolist()
            said = tokens[1 : tokens.index(EOS) + 1] if EOS in tokens else tokens[1:]
            log_probs = model(source[row : row + 1], torch.tensor([[BOS, *said[:-1]]]), mask[row : row + 1])
            total = sum(log_probs.log_softmax(-1)[0, i, token].item() for i, token in enumerate(said))
            assert scores[row, place].item() == pytest.approx(total / ((5 + len(said)) / 6) ** 0.6, abs=1e-4)


def test_a_length_penalty_gives_longer_sequences_a_chance():
    probs = [[1.0, 0, 0], [0.5, 0, 0.5], [0.2, 0, 0.8]]
    short, long = (
        beam.search(table(probs), torch.tensor([[1]]), 6, width=4, eos=0, length_penalty=penalty)[0][0, 0]
        for penalty in (0.0, 2.0)
    )
    assert short.tolist()[:2] == [1, 0] and long.tolist() == [1, 2, 2, 2, 2, 2, 2]


def test_prompts_of_a_search_stay_in_front_and_rows_belong_to_them():
    prompts, calls = torch.tensor([[1, 3], [1, 2]]), []

    def next_logits(tokens):
        calls.append(tokens)
        return table(GARDEN_PATH)(tokens)

    found, _ = beam.search(next_logits, prompts, 3, width=2, eos=0)
    assert_close(found[:, :, :2], prompts[:, None].expand(2, 2, 2))
    for tokens in calls:
        assert_close(tokens[:, :2], prompts.repeat_interleave(2, dim=0))


def test_a_search_ends_as_soon_as_all_have_ended_even_with_rows_to_spare():
    sure = [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]  # 1 -> 2 -> 0
    found, scores = beam.search(table(sure), torch.tensor([[1]]), 50, width=3, eos=0)
    assert found.shape == (1, 3, 3) and found[0, 0].tolist() == [1, 2, 0]
    assert scores[0].tolist() == [0.0, -math.inf, -math.inf]


def test_decoding_may_start_with_the_token_it_ends_with():
    model, (source, mask) = lively(Seq2Seq(CONFIG)), sources()
    found = greedy(model, source, mask, bos=EOS, eos=EOS, n_new=4)
    assert found.size(1) > 1
    assert found[:, 1].tolist() == model(source, torch.full((3, 1), EOS), mask)[:, 0].argmax(-1).tolist()


@pytest.mark.parametrize("training", [True, False])
def test_decoding_uses_eval_mode_and_leaves_the_model_as_it_was(training):
    model, (source, mask) = Seq2Seq(CONFIG).train(training), sources()
    modes = []
    model.lm_head.register_forward_hook(lambda module, *_: modes.append(module.training))
    for decode in (greedy, beam_search):
        decode(model, source, mask, bos=BOS, eos=EOS, n_new=2)
        assert model.training is training and model.lm_head.training is training
    assert modes and not any(modes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width: 0, expected a whole number, at least 1"),
        ({"width": 1.5}, "width: 1.5, expected a whole number"),
        ({"n_new": 0}, "n_new: 0, expected a whole number"),
        ({"length_penalty": -1}, "length_penalty: -1, expected 0 or more"),
        ({"length_penalty": math.nan}, "length_penalty: nan, expected 0 or more"),
    ],
)
def test_a_search_with_impossible_settings_is_refused(settings, message):
    source, mask = sources()
    with pytest.raises(ValueError, match=message):
        beam_search(Seq2Seq(CONFIG), source, mask, **dict(bos=BOS, eos=EOS, n_new=2) | settings)


def test_a_model_with_a_broken_weight_is_refused():
    model, (source, mask) = Seq2Seq(CONFIG), sources()
    model.lm_head.weight.data[3, 0] = math.nan
    with pytest.raises(ValueError, match="logits: NaN, expected numbers; a weight of the model is NaN"):
        beam_search(model, source, mask, bos=BOS, eos=EOS, n_new=2)


# Translation


def test_a_tiny_model_learns_a_few_sentences_by_heart_and_says_them_in_both_languages():
    losses = []
    model, tokenizer = train_translation(
        250, seed=2, d_model=32, n_layers=1, batch_size=6, n_sentences=6, report=lambda step, loss: losses.append(loss)
    )
    known = sentences(6, seed=2)
    assert len(losses) == 250 and losses[-1] < 0.1
    assert exact_match(model, tokenizer, known) == {"fr": 1.0, "zh": 1.0}
    wrong = [(english, french[:-2] + "e.", chinese) for english, french, chinese in known[:4]]
    assert exact_match(model, tokenizer, wrong + known[:1]) == {"fr": 0.2, "zh": 1.0}
    english = [triple[0] for triple in known]
    for width in (1, 3):
        assert translate(model, tokenizer, english, "fr", width) == [triple[1] for triple in known]
        assert translate(model, tokenizer, english, "zh", width) == [triple[2] for triple in known]
    assert translation_loss(model, tokenizer, known).item() < 0.1


def test_training_is_the_same_again_with_the_same_seed():
    sizes = dict(d_model=16, n_layers=1, batch_size=2, n_sentences=20)
    first, again, other = (train_translation(3, seed=seed, **sizes)[0].state_dict() for seed in (4, 4, 5))
    for name in first:
        assert_close(first[name], again[name], atol=0, rtol=0)
    assert first["lm_head.weight"].shape != other["lm_head.weight"].shape or any(
        not torch.equal(first[name], other[name]) for name in first
    )


@pytest.mark.slow
def test_seq2seq_translates_combinations_it_has_never_seen():
    model, tokenizer = train_translation()
    shares = exact_match(model, tokenizer, held_out(500, seed=77))
    assert min(shares.values()) >= 0.9, shares
    english = ["The cat sat on the mat.", "The cats sat on the mats."]
    french = ["Le chat s'est assis sur le tapis.", "Les chats se sont assis sur les tapis."]
    assert translate(model, tokenizer, english, "fr") == french
    assert translate(model, tokenizer, english, "zh") == ["猫坐在垫子上。"] * 2
