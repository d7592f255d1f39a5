import math
import random
from itertools import product

import pytest
import torch
from torch import nn

from minillama.block import Parts
from minillama.config import Config
from minillama.generate import (
    beam_search,
    generate,
    keep_top_p,
    pad_left,
    penalize_repetition,
    sampling_probs,
    stream,
)
from minillama.llama import Llama
from minillama.position import LearnedPositions, RoPE

UNSORTED = torch.tensor([[0.05, 0.5, 0.15, 0.3]])


def probs(logits=None, **settings) -> list[float]:
    """Of one row; by default of logits whose softmax is UNSORTED."""
    return sampling_probs(UNSORTED.log() if logits is None else torch.tensor([logits]), **settings)[0].tolist()


def slow_probs(logits: list[float], temperature, top_k=None, top_p=None, min_p=None) -> list[float]:
    """sampling_probs for one row, with loops, in the order that its docstring promises."""
    weights = {i: math.exp((x - max(logits)) / temperature) for i, x in enumerate(logits)}
    best_first = sorted(weights, key=lambda i: -weights[i])
    if top_k is not None:
        best_first = best_first[:top_k]
    if top_p is not None and top_p < 1:
        total, reached, n_kept = sum(weights[i] for i in best_first), 0.0, 0
        while n_kept < len(best_first) and reached < top_p * total:
            reached += weights[best_first[n_kept]]
            n_kept += 1
        best_first = best_first[:n_kept]
    if min_p is not None:
        best_first = [i for i in best_first if weights[i] >= min_p * weights[best_first[0]]]
    total = sum(weights[i] for i in best_first)
    return [weights[i] / total if i in best_first else 0.0 for i in weights]


@pytest.mark.parametrize("seed", range(40))
def test_sampling_probs_equals_plain_loops_for_any_settings(seed):
    draw = random.Random(seed)
    settings = {
        "temperature": draw.choice([0.3, 0.9, 1.0, 2.5]),
        "top_k": draw.choice([None, 1, 3, 5, 7, 50]),
        "top_p": draw.choice([None, draw.random(), 0.9, 1.0]),
        "min_p": draw.choice([None, draw.random() / 5, 0.0]),
    }
    logits = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
    before = logits.clone()
    result = sampling_probs(logits, **settings)
    expected = torch.tensor([slow_probs(row, **settings) for row in logits.double().tolist()])
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(result > 0, expected > 0)
    torch.testing.assert_close(result.sum(-1), torch.ones(4))
    assert torch.equal(logits, before)  # the caller's scores are left alone


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.05, 0.5, 0.15, 0.3]),
        ({"temperature": 0.5}, [0.0025 / 0.365, 0.25 / 0.365, 0.0225 / 0.365, 0.09 / 0.365]),  # squares
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0.625, 0, 0.375]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 99}, [0.05, 0.5, 0.15, 0.3]),
        ({"top_p": 0.6}, [0, 0.625, 0, 0.375]),  # 0.3 crosses 0.6: it stays
        ({"top_p": 1e-8}, [0, 1, 0, 0]),
        ({"top_p": 1.0}, [0.05, 0.5, 0.15, 0.3]),
        ({"min_p": 0.5}, [0, 0.625, 0, 0.375]),  # half of 0.5 is 0.25
        ({"min_p": 1.0}, [0, 1, 0, 0]),
        ({"min_p": 0.0}, [0.05, 0.5, 0.15, 0.3]),
    ],
)
@pytest.mark.parametrize("shift", [0, -100])  # negative scores: a filter that fills in 0 would let its tokens win
def test_goldens_that_can_be_computed_by_hand(settings, expected, shift):
    logits = (UNSORTED.log() + shift)[0].tolist()
    assert probs(logits, **settings) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("top_p", "n_kept"), [(0.25, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3)])
def test_top_p_stops_at_the_token_that_reaches_it_exactly(top_p, n_kept):
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25]).log()  # exact in float
    assert sum(p > 0 for p in probs(logits.tolist(), top_p=top_p)) == n_kept


def test_top_p_one_keeps_even_the_least_probable_token():
    assert probs([20.0, 0.0, -5.0], top_p=1.0) == probs([20.0, 0.0, -5.0])


def test_top_p_keeps_the_best_token_of_each_row_even_for_a_p_of_zero():
    kept = keep_top_p(torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0]]), 0.0)
    assert kept.isfinite().tolist() == [[False, True, False], [True, False, False]]


def test_top_p_measures_the_probabilities_after_temperature():
    # at temperature 2 they are about 0.12, 0.38, 0.21, 0.29: the best two no longer reach 0.7
    assert [p > 0 for p in probs(temperature=2.0, top_p=0.7)] == [False, True, True, True]
    assert [p > 0 for p in probs(temperature=1.0, top_p=0.7)] == [False, True, False, True]


def test_top_p_measures_what_top_k_has_left_and_min_p_comes_last():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().tolist()
    assert probs(logits, top_k=2, top_p=0.5) == [1, 0, 0, 0]  # 0.4 of 0.7 is more than half
    assert [p > 0 for p in probs(logits, top_p=0.5, min_p=0.6)] == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_temperature_zero_takes_one_of_the_best_also_in_half_precision(dtype):
    logits = torch.tensor([[1.0, 3.0, 3.0], [-2.0, -9.0, -2.0], [60000.0, 0.0, -60000.0]], dtype=dtype)
    result = sampling_probs(logits, temperature=0)
    assert sorted(result[0].tolist()) == sorted(result[1].tolist()) == [0, 0, 1]
    assert result[0, 0] == result[1, 1] == 0
    assert result[2].tolist() == [1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-50, 5e-324])
def test_a_tiny_temperature_is_as_good_as_zero(temperature):
    assert probs([1.0, 2.0, 2.5], temperature=temperature) == [0, 0, 1]


def test_half_precision_scores_are_computed_in_float32():
    logits = torch.tensor([[60000.0, 59968.0, -60000.0]], dtype=torch.float16)  # / 0.5 is beyond float16
    result = sampling_probs(logits, temperature=16.0)
    assert result.dtype == torch.float32
    assert result[0].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0], rel=1e-5)
    assert sampling_probs(logits, temperature=0.5).isfinite().all()


def test_a_token_that_is_ruled_out_stays_out():
    assert probs([-math.inf, 0.0, 0.0], top_k=3, top_p=1.0, min_p=0.0) == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    "row", [[math.nan, 1.0, 2.0], [-math.inf] * 3, [1.0, math.inf, 2.0]], ids=["NaN", "no token", "infinite"]
)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_scores_that_say_nothing_are_refused(row, temperature):
    logits = torch.tensor([[1.0, 2.0, 3.0], row])
    with pytest.raises(ValueError, match="the scores of a row hold NaN or infinity, or rule out every token"):
        sampling_probs(logits, temperature=temperature)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -1, "0 or more"),
        ("temperature", math.nan, "0 or more"),
        ("temperature", math.inf, "0 or more"),
        ("top_k", 0, "a whole number, at least 1"),
        ("top_k", -3, "a whole number, at least 1"),
        ("top_k", 2.5, "a whole number, at least 1"),
        ("top_p", 0, "above 0, at most 1"),
        ("top_p", -0.1, "above 0, at most 1"),
        ("top_p", 1.01, "above 0, at most 1"),
        ("top_p", math.nan, "above 0, at most 1"),
        ("min_p", -0.1, "0 to 1"),
        ("min_p", 1.1, "0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("repetition_penalty", math.inf, "above 0"),
        ("repetition_penalty", math.nan, "above 0"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name}={value}; expected {expected}"):
        generate(Successor(), torch.tensor([[1]]), 1, **{name: value})


def test_the_penalty_lowers_seen_tokens_whatever_their_sign_and_once_only():
    logits = torch.tensor([[2.0, -2.0, 4.0, -4.0, 0.0], [6.0, 5.0, 4.0, 3.0, 2.0]])
    tokens = torch.tensor([[0, 3, 3], [1, 1, 1]])
    expected = [[1.0, -2.0, 4.0, -8.0, 0.0], [6.0, 2.5, 4.0, 3.0, 2.0]]
    assert penalize_repetition(logits, tokens, 2.0).tolist() == expected
    assert torch.equal(penalize_repetition(logits, tokens, 1.0), logits)
    assert logits[0, 0] == 2  # unchanged


class Toy(nn.Module):
    """A model of few words: `answer(window)` is its next token. It refuses windows longer than max_len."""

    config = Config(vocab_size=7, d_model=2, n_layers=1, n_heads=1, max_len=4)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.modes, self.windows = [], []

    def forward(self, tokens, **_):
        assert tokens.size(1) <= self.config.max_len
        self.modes.append(self.training)
        self.windows.append(tokens.tolist())
        answers = self.answer(tokens)[:, None].expand(tokens.shape)
        return 9 * self.weight * nn.functional.one_hot(answers, 7).float()


class Successor(Toy):
    """... 4, 5, 6, 0, 1, 2, ..."""

    def answer(self, tokens):
        return (tokens[:, -1] + 1) % 7


class Sum(Toy):
    """Everything in sight matters, and so does the mode."""

    def answer(self, tokens):
        return (tokens.sum(1) + self.training) % 7


class Broken(Toy):
    def answer(self, tokens):
        raise RuntimeError("broken")


def llama(**parts) -> Llama:
    """Random weights, so large that no two tokens are nearly as good."""
    config = Config(vocab_size=11, d_model=8, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=12, max_len=7)
    model, generator = Llama(config, Parts(**parts)), torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.8, generator=generator)
    return model


def one_by_one(model, tokens, n_new, choose):
    """Generation as one would write it down: look at the last max_len tokens, choose, append."""
    with torch.no_grad():
        for _ in range(n_new):
            logits = model(tokens[:, -model.config.max_len :])[:, -1]
            tokens = torch.cat([tokens, choose(logits)], dim=1)
    return tokens


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("length", [1, 3, 7, 9])  # 9: the prompt alone is longer than max_len
def test_greedy_text_is_the_plain_loops_with_and_without_a_cache_also_past_max_len(length, use_cache):
    model = llama()
    tokens = torch.randint(11, (2, length), generator=torch.Generator().manual_seed(length))
    expected = one_by_one(model, tokens, 10, lambda logits: logits.argmax(-1, keepdim=True))
    assert generate(model, tokens, 10, temperature=0, use_cache=use_cache).tolist() == expected.tolist()
    assert len(set(expected[:, length:].flatten().tolist())) > 2  # not one token again and again


@pytest.mark.parametrize("use_cache", [True, False])
def test_sampled_text_is_the_plain_loops_with_the_same_seed(use_cache):
    model, tokens = llama(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    same, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    expected = one_by_one(model, tokens, 12, lambda x: torch.multinomial(x.div(1.5).softmax(-1), 1, generator=other))
    result = generate(model, tokens, 12, temperature=1.5, generator=same, use_cache=use_cache)
    assert result.tolist() == expected.tolist()


def test_a_seed_gives_the_same_text_again_and_leaves_the_worlds_random_numbers_alone():
    model, tokens = llama(), torch.tensor([[1, 2]])
    before = torch.get_rng_state()
    texts = [generate(model, tokens, 12, generator=torch.Generator().manual_seed(s)).tolist() for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_every_sampling_setting_reaches_the_sampler():
    model, tokens = llama(), torch.tensor([[1, 2]])
    greedy = generate(model, tokens, 8, temperature=0).tolist()
    for setting in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1e-6}):
        assert generate(model, tokens, 8, **setting).tolist() == greedy
    no_repeats = generate(model, tokens, 8, temperature=0, repetition_penalty=1e9)[0].tolist()
    assert len(set(no_repeats)) == len(no_repeats) == 10
    assert no_repeats != greedy[0]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 3.0])
@pytest.mark.parametrize("position", [RoPE, LearnedPositions])  # RoPE would forgive positions that are all off by one
def test_prompts_of_different_lengths_in_one_batch_give_what_each_gives_alone(use_cache, penalty, position):
    model = llama(position=position)
    settings = {"temperature": 0, "repetition_penalty": penalty, "use_cache": use_cache}
    prompts, n_new = [[3], [1, 2, 7, 4, 5], [6, 8, 10]], 9  # past max_len
    alone = [generate(model, torch.tensor([prompt]), n_new, **settings)[0].tolist() for prompt in prompts]
    tokens, mask = pad_left(prompts, pad=alone[0][1])  # the padding is a token that would come next
    together = generate(model, tokens, n_new, mask=mask, **settings)
    assert [row[-n_new:] for row in together.tolist()] == [row[-n_new:] for row in alone]


def test_pad_left_lines_prompts_up_at_their_ends():
    tokens, mask = pad_left([[1, 2], [3, 4, 5, 6], [7]], pad=9)
    assert tokens.tolist() == [[9, 9, 1, 2], [3, 4, 5, 6], [9, 9, 9, 7]]
    assert mask.tolist() == [[False, False, True, True], [True] * 4, [False, False, False, True]]


@pytest.mark.parametrize("prompts", [[], [[]], [[1, 2], []]], ids=str)
def test_pad_left_refuses_an_empty_prompt(prompts):
    with pytest.raises(ValueError, match="prompt"):
        pad_left(prompts)


def test_a_sequence_that_has_ended_repeats_its_stop_token_until_all_have():
    tokens = torch.tensor([[1], [3], [4]])
    assert generate(Successor(), tokens, 6, stop=[5]).tolist() == [
        [1, 2, 3, 4, 5],
        [3, 4, 5, 5, 5],
        [4, 5, 5, 5, 5],
    ]


def test_any_of_the_stop_tokens_ends_a_sequence_but_one_in_the_prompt_does_not():
    tokens = torch.tensor([[5, 1], [2, 5]])
    assert generate(Successor(), tokens, 6, stop=[5, 3]).tolist() == [
        [5, 1, 2, 3, 3, 3, 3],
        [2, 5, 6, 0, 1, 2, 3],
    ]


def test_without_stop_tokens_exactly_n_new_tokens_come():
    assert generate(Successor(), torch.tensor([[5]]), 4).tolist() == [[5, 6, 0, 1, 2]]
    assert generate(Successor(), torch.tensor([[5]]), 2, stop=[3]).tolist() == [[5, 6, 0]]


@pytest.mark.parametrize("length", [2, 6])
def test_the_model_sees_its_last_max_len_tokens_never_more(length):
    text = [1, 2, 3, 5, 4, 6][:length]
    expected = list(text)
    for _ in range(5):
        expected.append(sum(expected[-4:]) % 7)
    assert generate(Sum(), torch.tensor([text]), 5).tolist() == [expected]


@pytest.mark.parametrize("n_new", [0, 3])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_writes_in_eval_mode_and_is_left_as_it_was(training, n_new):
    model = Sum().train(training)
    prompt = torch.tensor([[1, 2]])
    result = generate(model, prompt, n_new)
    assert model.training is training
    assert not any(model.modes)
    assert result.shape == (1, 2 + n_new)
    assert not result.requires_grad
    assert prompt.tolist() == [[1, 2]] == result[:, :2].tolist()
    assert model.weight.grad is None


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_when_something_goes_wrong(training):
    model = Broken().train(training)
    with pytest.raises(RuntimeError, match="broken"):
        generate(model, torch.tensor([[1]]), 3)
    assert model.training is training


def test_a_stream_that_is_not_read_to_its_end_leaves_the_model_as_it_was():
    model = Successor().train()
    tokens = stream(model, torch.tensor([[2]]), 5)
    assert [next(tokens).tolist(), next(tokens).tolist()] == [[3], [4]]
    assert len(model.windows) == 2  # it does not run ahead
    assert torch.is_grad_enabled()
    tokens.close()
    assert model.training


def test_no_graph_is_kept_while_tokens_come():
    class Graph(Successor):
        def forward(self, tokens, **rest):
            self.graph = super().forward(tokens, **rest)
            return self.graph

    model = Graph()
    generate(model, torch.tensor([[2]]), 2)
    assert not model.graph.requires_grad


def test_stream_gives_the_tokens_that_generate_gives():
    model, tokens = llama(), torch.tensor([[1, 2], [3, 4]])
    settings = {"temperature": 1.3, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    whole = generate(model, tokens, 9, generator=torch.Generator().manual_seed(0), **settings)
    pieces = list(stream(model, tokens, 9, generator=torch.Generator().manual_seed(0), **settings))
    assert torch.equal(torch.stack(pieces, dim=1), whole[:, 2:])


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.zeros(2, 0), r"the prompt is empty; give it at least one token, such as .*start token"),
        (torch.zeros(0, 3), r"the prompt has shape \(0, 3\); expected \(B, T\)"),
        (torch.tensor([1, 2]), r"the prompt has shape \(2,\); expected \(B, T\)"),
        (torch.tensor([[0, 7]]), "token 7, but the model knows 0 to 6; use the tokenizer"),
        (torch.tensor([[0, 3], [-1, 2]]), "token -1, but the model knows 0 to 6; use the tokenizer"),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_refused(tokens, words):
    with pytest.raises(ValueError, match=words):
        generate(Successor(), tokens, 3)


def test_a_model_full_of_nan_is_noticed_at_the_first_token():
    model = llama()
    nn.init.constant_(model.norm.weight, math.nan)
    with pytest.raises(ValueError, match="hold NaN"):
        generate(model, torch.tensor([[1, 2]]), 3)


@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
@pytest.mark.parametrize("stop", [(), (2,), (0, 2)])
def test_a_beam_that_holds_everything_is_exhaustive_search(stop, length_penalty):
    config = Config(vocab_size=4, d_model=6, n_layers=1, n_heads=3, d_ff=5, max_len=3)  # the text grows past max_len
    model, prompt, everything = Llama(config), [3, 2], {}
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    for long in product(range(4), repeat=4):
        ends = [i for i, token in enumerate(long) if token in stop]
        said = long[: ends[0] + 1] if ends else long
        text, total = list(prompt), 0.0
        for token in said:
            total += model(torch.tensor([text[-3:]])).log_softmax(-1)[0, -1, token].item()
            text.append(token)
        everything[said] = total / ((5 + len(said)) / 6) ** length_penalty
    ranked = sorted(everything.items(), key=lambda item: -item[1])
    found, scores = beam_search(model, torch.tensor([prompt]), 4, width=256, stop=stop, length_penalty=length_penalty)
    assert found.shape == (1, 256, 6) and scores[0, len(ranked) :].isneginf().all()
    for row, (said, score) in enumerate(ranked):
        assert found[0, row].tolist() == [*prompt, *said, *[said[-1]] * (4 - len(said))]
        assert scores[0, row].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("stop", [(), (7,), (3, 5, 7)])
def test_a_beam_of_width_1_is_greedy(stop):
    model, prompts = llama(), torch.tensor([[1, 2, 3], [4, 5, 6], [8, 8, 1]])
    found, scores = beam_search(model, prompts, 12, width=1, stop=stop)
    assert found.shape[:2] == scores.shape == (3, 1)
    assert found[:, 0].tolist() == generate(model, prompts, 12, temperature=0, stop=stop).tolist()


def test_each_prompt_of_a_batch_has_a_beam_of_its_own():
    model, prompts = llama(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    found, scores = beam_search(model, prompts, 6)
    assert found.shape == (2, 4, 9) and scores.shape == (2, 4) and (scores.diff(dim=1) <= 0).all()
    for b in range(2):
        alone, score = beam_search(model, prompts[b : b + 1], 6, width=4, length_penalty=0.6)
        assert alone[0].tolist() == found[b].tolist()
        torch.testing.assert_close(score[0], scores[b])


@pytest.mark.parametrize("training", [True, False])
def test_a_beam_is_searched_in_eval_mode_and_the_model_left_as_it_was(training):
    model = Sum().train(training)
    found, scores = beam_search(model, torch.tensor([[1, 2]]), 3, width=2)
    assert model.training is training and not any(model.modes)
    assert found[0, 0].tolist() == [1, 2, 3, 6, 5] and not scores.requires_grad  # the last four count
    broken = Broken().train(training)
    with pytest.raises(RuntimeError, match="broken"):
        beam_search(broken, torch.tensor([[1]]), 3)
    assert broken.training is training


@pytest.mark.parametrize(
    ("tokens", "settings", "words"),
    [
        ([[0, 7]], {}, "token 7, but the model knows 0 to 6"),
        ([[]], {}, "the prompt is empty"),
        ([[1]], {"width": 0}, "width: 0, expected a whole number, at least 1"),
        ([[1]], {"length_penalty": -1.0}, "length_penalty: -1.0, expected 0 or more"),
    ],
)
def test_a_beam_that_cannot_be_searched_is_refused(tokens, settings, words):
    with pytest.raises(ValueError, match=words):
        beam_search(Successor(), torch.tensor(tokens), 3, **settings)
