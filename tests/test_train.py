import io
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from minillama.block import Parts
from minillama.config import Config
from minillama.llama import Llama
from minillama.norm import LayerNorm
from minillama.train import (
    AdamW,
    bits_per_character,
    clip_gradients,
    decay_groups,
    evaluate,
    learning_rate,
    next_token_loss,
    perplexity,
)

TARGETS = torch.tensor([[3, -100, 0], [-100, -100, 4]])  # ignored ones spread unevenly


def slow_loss(logits, targets, ignore_index=-100) -> float:
    """Minus the log of the softmax at each target that counts, on average, in Python's 64-bit numbers."""
    surprises = []
    for row, target in zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True):
        if target != ignore_index:
            log_total = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
            surprises.append(log_total - row[target])
    return sum(surprises) / len(surprises)


@pytest.mark.parametrize("scale", [1, 500])  # 500: exp alone would overflow
@pytest.mark.parametrize("targets", [TARGETS, TARGETS.clamp(min=1)], ids=["some ignored", "all count"])
def test_the_loss_is_the_mean_surprise_at_the_targets_that_count(scale, targets):
    logits = scale * torch.randn(2, 3, 5)
    loss = next_token_loss(logits, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(slow_loss(logits, targets), rel=1e-5)


def test_any_number_can_mark_a_target_that_does_not_count():
    logits = torch.randn(2, 3, 5)
    loss = next_token_loss(logits, TARGETS.where(TARGETS >= 0, 2), ignore_index=2)
    assert loss.item() == pytest.approx(slow_loss(logits, TARGETS), rel=1e-5)


def test_ignored_targets_have_no_gradient_and_the_others_that_of_their_mean():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    next_token_loss(logits, TARGETS).backward()
    expected = logits.detach().softmax(-1) - nn.functional.one_hot(TARGETS.clamp(min=0), 5)
    torch.testing.assert_close(logits.grad, expected * (TARGETS >= 0)[..., None] / 3)


def test_knowing_nothing_costs_ln_v_and_knowing_all_nothing():
    assert next_token_loss(torch.zeros(2, 3, 5), TARGETS).item() == pytest.approx(math.log(5))
    assert next_token_loss(99.0 * nn.functional.one_hot(TARGETS.clamp(min=0), 5), TARGETS).item() < 1e-6


def test_bfloat16_scores_are_computed_in_float32():
    logits = torch.randn(2, 3, 5).bfloat16()
    loss = next_token_loss(logits, TARGETS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_loss(logits.float(), TARGETS), rel=1e-6)


def test_perplexity_is_the_geometric_mean_of_one_over_the_probabilities():
    probabilities = [0.5, 0.1, 0.02]
    nats = -sum(math.log(p) for p in probabilities)
    assert perplexity(nats, 3) == pytest.approx((1 / math.prod(probabilities)) ** (1 / 3))
    assert perplexity(7 * math.log(65), 7) == pytest.approx(65)


def test_a_hopeless_model_has_infinite_perplexity_not_an_overflow():
    assert perplexity(2000.0, 2) == math.inf


def test_bits_per_character_do_not_depend_on_how_many_tokens_the_text_is_cut_into():
    assert bits_per_character(3 * math.log(2), 3) == pytest.approx(1)
    assert bits_per_character(6 * math.log(8), 9) == pytest.approx(2)  # 6 tokens for 9 characters


SCHEDULE = {"peak": 1e-3, "warmup_steps": 10, "total_steps": 110, "floor": 2e-4}


@pytest.mark.parametrize(
    ("shape", "step", "expected"),
    [
        *((shape, 0, 1e-4) for shape in ("cosine", "linear")),
        *((shape, 4, 5e-4) for shape in ("cosine", "linear")),
        *((shape, 9, 1e-3) for shape in ("cosine", "linear")),
        *((shape, 10, 1e-3) for shape in ("cosine", "linear")),
        ("cosine", 35, 2e-4 + 8e-4 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos 45 degrees
        ("linear", 35, 8e-4),
        *((shape, 60, 6e-4) for shape in ("cosine", "linear")),  # half-way: the mean of peak and floor
        ("cosine", 85, 2e-4 + 8e-4 * (1 - math.sqrt(0.5)) / 2),
        *((shape, 110, 2e-4) for shape in ("cosine", "linear")),
        *((shape, 150, 2e-4) for shape in ("cosine", "linear")),
    ],
)
def test_the_learning_rate_at_steps_that_can_be_computed_by_hand(shape, step, expected):
    assert learning_rate(step, **SCHEDULE, shape=shape) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_learning_rate_goes_up_then_down_without_a_jump(shape):
    rates = [learning_rate(step, **SCHEDULE, shape=shape) for step in range(120)]
    assert rates[:10] == sorted(set(rates[:10]))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == rates[10] == 1e-3
    assert min(rates) > 0
    assert max(abs(after - before) for before, after in pairwise(rates)) < 1.01e-4


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_without_warm_up_the_first_step_runs_at_the_peak_and_without_floor_it_ends_at_zero(shape):
    rates = [learning_rate(s, peak=3.0, warmup_steps=0, total_steps=4, shape=shape) for s in range(6)]
    assert rates[0] == 3
    assert rates[2] == pytest.approx(1.5)
    assert rates[4] == rates[5] == pytest.approx(0, abs=1e-12)


def test_cosine_is_the_shape_by_default():
    assert learning_rate(35, **SCHEDULE) == learning_rate(35, **SCHEDULE, shape="cosine")


@pytest.mark.parametrize("step", [0, 50])  # at once, not when the warm-up is over
def test_an_unknown_shape_is_refused(step):
    with pytest.raises(ValueError, match="shape='square'; expected 'cosine' or 'linear'"):
        learning_rate(step, **SCHEDULE, shape="square")


def with_gradients(*gradients) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameters.append(nn.Parameter(torch.zeros(len(gradient))))
        parameters[-1].grad = torch.tensor(gradient)
    return parameters


def test_gradients_of_3_4_and_12_are_13_long_together():
    parameters = with_gradients([3.0, 4.0], [12.0])
    assert clip_gradients(iter(parameters), max_norm=6.5).item() == pytest.approx(13)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([6.0]))


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_equals_torch(max_norm, dtype):
    ours, theirs = ([nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((2, 3), (4,))] for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape).to(dtype)
        b.grad = a.grad.clone()
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(clip_gradients(ours, max_norm), expected, check_dtype=False, rtol=1e-2, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        assert a.grad.dtype == dtype


@pytest.mark.parametrize(("gradients", "norm"), [([[3.0, 4.0], [12.0]], 13), ([[0.0, 0.0], [0.0]], 0)])
def test_gradients_within_the_limit_stay_as_they_are(gradients, norm):
    parameters = with_gradients(*gradients)
    assert clip_gradients(parameters, max_norm=13.1).item() == pytest.approx(norm)
    assert [p.grad.tolist() for p in parameters] == gradients


def test_parameters_without_a_gradient_are_passed_over():
    assert clip_gradients([nn.Parameter(torch.zeros(3))], max_norm=1.0).item() == 0
    parameters = [nn.Parameter(torch.zeros(3)), *with_gradients([3.0, 4.0])]
    assert clip_gradients(parameters, max_norm=1.0).item() == pytest.approx(5)
    assert parameters[0].grad is None


# A sign that changes, and a gradient so small that eps shows.
GRADIENTS = [
    (torch.tensor([[1.0, -2.0, 1e-9], [0.0, 0.3, 3.0]]), torch.tensor([0.5, -1e-8])),
    (torch.tensor([[-3.0, -1.0, 1e-9], [0.0, 0.1, 3.0]]), torch.tensor([-0.5, 1e-8])),
    (torch.tensor([[2.0, 5.0, -1e-9], [1.0, 0.2, -3.0]]), torch.tensor([0.1, 1e-8])),
    (torch.tensor([[0.0, 1.0, 2e-9], [0.0, 0.7, 0.0]]), torch.tensor([9.0, 0.0])),
]


def start() -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])),
        nn.Parameter(torch.tensor([2.0, -3.0])),
    ]


def take_steps(optimizer, parameters, gradients):
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1},
        {
            "lr": 0.5,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.5,
        },  # the order of decay and step shows
        {"lr": 0.1, "betas": (0.6, 0.99), "eps": 1e-3, "weight_decay": 0.0},
        {"lr": 0.1, "betas": (0.0, 0.5), "eps": 1e-8, "weight_decay": 2.0},
    ],
)
def test_adamw_equals_torch_after_each_of_several_steps(settings):
    ours, theirs = start(), start()
    our_adamw, their_adamw = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for gradients in GRADIENTS:
        take_steps(our_adamw, ours, [gradients])
        take_steps(their_adamw, theirs, [gradients])
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-8)


def test_the_defaults_are_those_of_llama():
    ours, theirs = start(), start()
    take_steps(AdamW(ours), ours, GRADIENTS)
    expected = torch.optim.AdamW(theirs, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    take_steps(expected, theirs, GRADIENTS)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-8)


def test_the_first_step_is_lr_long_and_decay_alone_shrinks_by_lr_times_decay():
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 4.0]))
    take_steps(AdamW([weight], lr=0.1, weight_decay=0.5), [weight], [[torch.tensor([7.0, -0.01, 0.0])]])
    torch.testing.assert_close(weight.data, torch.tensor([0.95 - 0.1, -1.9 + 0.1, 3.8]))


def test_each_group_has_its_own_settings_and_a_schedule_may_change_them():
    ours, theirs = start(), start()
    optimizers = []
    for kind, (matrix, vector) in ((AdamW, ours), (torch.optim.AdamW, theirs)):
        groups = [
            {"params": [matrix], "weight_decay": 0.5},
            {"params": [vector], "lr": 0.2, "weight_decay": 0.0},
        ]
        optimizers.append(kind(groups, lr=0.1, betas=(0.9, 0.95)))
    for i, step in enumerate(GRADIENTS):
        for optimizer, parameters in zip(optimizers, (ours, theirs), strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            take_steps(optimizer, parameters, [step])
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-8)


def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened():
    ours, again = start(), start()
    optimizer, resumed = AdamW(ours, lr=0.1), AdamW(again, lr=0.7)
    take_steps(optimizer, ours, GRADIENTS[:2])
    file = io.BytesIO()
    torch.save({"weights": ours, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for parameter, weight in zip(again, saved["weights"], strict=True):
        parameter.data.copy_(weight)
    resumed.load_state_dict(saved["optimizer"])
    take_steps(optimizer, ours, GRADIENTS[2:])
    take_steps(resumed, again, GRADIENTS[2:])
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def test_a_weight_without_gradient_does_not_move_and_does_not_decay():
    weight, still = start()
    optimizer = AdamW([weight, still], lr=0.1, weight_decay=0.5)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert still.tolist() == [2, -3]
    assert still not in optimizer.state


def test_step_calls_its_closure_with_gradients_on_and_returns_the_loss():
    weight = nn.Parameter(torch.tensor([1.0]))

    def closure():
        loss = (weight * 3).sum()
        loss.backward()
        return loss

    assert AdamW([weight], lr=0.1, weight_decay=0.0).step(closure).item() == 3
    assert weight.item() == pytest.approx(0.9)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("norm", [LayerNorm, Parts().norm])
def test_matrices_decay_norms_and_biases_do_not_and_each_parameter_is_there_once(tied, norm):
    config = Config(vocab_size=7, d_model=4, n_layers=2, n_heads=2, d_ff=3, tied=tied)
    model = Llama(config, Parts(norm=norm))
    model.extra = nn.Linear(3, 2)
    model.extra.requires_grad_(True)
    model.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    decayed, kept = decay_groups(model, weight_decay=0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sorted_in = {names[id(p)]: p in set(decayed["params"]) for p in decayed["params"] + kept["params"]}
    assert len(decayed["params"]) + len(kept["params"]) == len(sorted_in) == len(names) - 1  # all but the frozen one
    assert sorted_in == {name: "norm" not in name and "bias" not in name for name in names.values() if name != "frozen"}
    AdamW([decayed, kept])  # torch refuses a parameter in two groups


class Dropping(nn.Module):
    """Scores that depend on the last token only, so that windows cannot matter; in train mode they are noisy."""

    def __init__(self):
        super().__init__()
        self.scores, self.noise = nn.Embedding(5, 5), nn.Dropout(0.5)
        self.shapes = []

    def forward(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        return self.noise(self.scores(tokens))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("n", [23, 21, 4, 2])  # with windows of 4: the last has 2, 4, 3, 1
def test_evaluate_is_the_loss_over_the_whole_text_whatever_the_batches(n, batch_size):
    model, text = Dropping(), torch.randint(5, (n,))
    expected = slow_loss(model.scores(text[:-1]), text[1:])
    assert evaluate(model, text, length=4, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)
    assert max(b for b, _ in model.shapes) <= batch_size
    assert sum(b * t for b, t in model.shapes) == n - 1


def test_evaluate_equals_one_window_after_the_other_for_a_model_that_looks_back():
    model = Llama(Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, d_ff=3, max_len=4))
    nn.init.normal_(model.lm_head.weight)
    text, nats = torch.randint(5, (15,)), 0.0
    for begin, end in ((0, 4), (4, 8), (8, 12), (12, 14)):
        logits = model(text[None, begin:end])
        nats += slow_loss(logits, text[None, begin + 1 : end + 1]) * (end - begin)
    assert evaluate(model, text, length=4) == pytest.approx(nats / 14, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_mode_gradients_and_random_numbers_as_they_were(training):
    model, text = Dropping().train(training), torch.randint(5, (23,))
    before = torch.get_rng_state()
    assert evaluate(model, text, length=4) == evaluate(model, text, length=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training is training
    assert model.noise.training is training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_evaluate_restores_the_mode_when_something_goes_wrong():
    model = Dropping().train()
    with pytest.raises(IndexError):
        evaluate(model, torch.tensor([1, 2, 99, 3]), length=2)  # 99 is no token of this model
    assert model.training


@pytest.mark.parametrize("length", [0, -1])
def test_evaluate_refuses_windows_that_hold_nothing(length):
    with pytest.raises(ValueError, match=f"length={length}; expected at least 1"):
        evaluate(Dropping(), torch.arange(5), length=length)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_evaluate_refuses_batches_that_hold_nothing(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        evaluate(Dropping(), torch.tensor([1, 2, 3]), length=1, batch_size=batch_size)


def test_evaluate_refuses_a_text_with_nothing_to_predict():
    with pytest.raises(ValueError, match="1 tokens; .* need at least 2"):
        evaluate(Dropping(), torch.tensor([3]), length=4)
