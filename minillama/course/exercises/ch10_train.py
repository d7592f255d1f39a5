"""Exercises of chapter 10: slopes, optimizers, schedule, decay, clipping, accumulation, the step, a snapshot, Muon."""

import copy
import math
import warnings
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import train
from minillama.attention import Attention, attend
from minillama.block import Parts
from minillama.course.checks import driven, integers, pick, rand, randn, refuses, same
from minillama.course.exercise import Exercise
from minillama.norm import RMSNorm
from minillama.train import AdamW, clip_gradients, next_token_loss

# Six runs with something wrong, for the chapter to be found out; arguments of its function `run`. ---------------------


def one_too_far(q, k, v, mask):
    """Attention that looks one place too far ahead."""
    return attend(q, k, v, mask | mask.roll(1, -1).tril(k.size(-2) - q.size(-2) + 1))


class OverAllTokens(RMSNorm):
    """RMSNorm with one mean square for all tokens of a text."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean((-2, -1), keepdim=True) + self.eps) * self.weight


BOXES = {
    "A": {"parts": Parts(attention=partial(Attention, attend=one_too_far))},
    "B": {"without": ("layers",)},
    "C": {"n_text": 1200},
    "D": {"lr": 0.1},
    "E": {"parts": Parts(norm=OverAllTokens)},
    "F": {"clears": False},
}

# 10.1 loss_gradient -------------------------------------------------------------------------------------------------


def loss_gradient(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Work out the slope of the mean loss for every score, without backward().

    Shape: (B, T, V), (B, T) -> (B, T, V). At each place: the probabilities, minus 1 at the target, divided by the
    number of targets that count. Where the target is ignore_index, all slopes are 0, and it does not count.
    """
    counts = targets != ignore_index  # (B, T)
    slopes = logits.softmax(-1)
    slopes[counts, targets[counts]] -= 1
    return slopes * counts[..., None] / counts.sum()


slope_of_loss = Exercise(
    "10.1",
    loss_gradient,
    hints=(
        "Three steps: the probabilities (`logits.softmax(-1)`), 1 taken off at the targets, everything divided. First "
        "write it for targets that all count.",
        "`counts = targets != ignore_index` is True at the places that count. `slopes[counts, targets[counts]] -= 1` "
        "changes one number at each of them.",
        "At the other places all slopes are 0: multiply by `counts[..., None]`, which has shape (B, T, 1). Divide by "
        "`counts.sum()`.",
    ),
)


def _slope_by_torch(logits: Tensor, targets: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    F.cross_entropy(leaf.flatten(0, -2), targets.flatten()).backward()
    assert leaf.grad is not None
    return leaf.grad


@slope_of_loss.check("one place, the scores ln 6, ln 3 and ln 1, the second one true")
def slope_by_hand(loss_gradient):
    logits = torch.tensor([[[math.log(6), math.log(3), 0.0]]])
    same(loss_gradient(logits, torch.tensor([[1]])), torch.tensor([[[0.6, -0.7, 0.1]]]))


@slope_of_loss.check("two texts of three places, all of which count")
def slope_of_a_batch(loss_gradient):
    logits, targets = 2 * randn(2, 3, 5), integers(0, 5, 2, 3)
    same(loss_gradient(logits, targets), _slope_by_torch(logits, targets))


@slope_of_loss.check("two texts, one of which has only one target that counts")
def slope_with_padding(loss_gradient):
    logits, targets = 2 * randn(2, 4, 5), integers(0, 5, 2, 4)
    targets[1, 1:] = -100
    same(loss_gradient(logits, targets), _slope_by_torch(logits, targets))


@slope_of_loss.check("scores in the hundreds")
def slope_of_large_scores(loss_gradient):
    logits, targets = 500 * randn(2, 3, 5), integers(0, 5, 2, 3)
    same(loss_gradient(logits, targets), _slope_by_torch(logits, targets))


@slope_of_loss.check("another ignore_index, which is a token too")
def slope_other_index(loss_gradient):
    logits, targets = randn(2, 3, 5), integers(1, 5, 2, 3)
    targets[0, 1] = 0
    expected = _slope_by_torch(logits, targets.masked_fill(targets == 0, -100))
    same(loss_gradient(logits, targets, ignore_index=0), expected)


def _pulls(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities minus 1 at the targets, 0 where nothing counts; and what counts."""
    counts = targets != ignore_index
    hot = F.one_hot(targets.where(counts, 0), logits.size(-1))
    return (logits.softmax(-1) - hot) * counts[..., None], counts


@slope_of_loss.mistake("""You did not divide. The loss is a mean, so each place has its share of the slope: divide
    by the number of targets that count. Without it, a batch twice as large makes steps twice as large.""")
def not_divided(logits, targets, ignore_index=-100):
    return _pulls(logits, targets, ignore_index)[0]


@slope_of_loss.mistake("""You divided by all places, also by those that don't count. Divide by `counts.sum()`; with
    much padding in a batch its slopes would be too small.""")
def divided_by_all(logits, targets, ignore_index=-100):
    return _pulls(logits, targets, ignore_index)[0] / targets.numel()


@slope_of_loss.mistake("""You divided by the number of texts. The mean is taken over all places that count, in all
    texts together: `counts.sum()`.""")
def divided_by_texts(logits, targets, ignore_index=-100):
    return _pulls(logits, targets, ignore_index)[0] / len(targets)


@slope_of_loss.mistake("""You divided by the number of all scores (`mean()` over everything). The mean is taken over
    places; at one place, all V slopes belong to the same surprise.""")
def divided_by_scores(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return pulls / counts.sum() / logits.size(-1)


@slope_of_loss.mistake("""You divided each text by its own number of targets, and then by the number of texts. A
    token of a short text then counts more than a token of a long one. One number for all: `counts.sum()`.""")
def mean_of_means(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return pulls / counts.sum(dim=1)[:, None, None] / len(targets)


@slope_of_loss.mistake("""The signs are turned round: 1 at the target minus the probabilities. That is the direction
    in which training moves the scores; the slope, which says what raising a score does to the loss, is the
    opposite.""")
def downhill(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return -pulls / counts.sum()


@slope_of_loss.mistake("""At places that don't count you left the probabilities as slopes. Nothing is to be learned
    there: all slopes must be 0, or the model is trained to find every token unlikely after padding.""")
def ignored_places_pull(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return (pulls + logits.softmax(-1) * ~counts[..., None]) / counts.sum()


@slope_of_loss.mistake("""You changed the scores of the targets only. The others have a slope too: their own
    probability. Raising them takes probability from the target.""")
def targets_only(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return pulls.clamp(max=0) / counts.sum()


@slope_of_loss.mistake("""You left out the -1 at the targets. All slopes are then positive, and every score would
    sink, the right ones too.""")
def no_target(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    return logits.softmax(-1) * counts[..., None] / counts.sum()


@slope_of_loss.mistake("""You took 1 off at the target of every place in *all* places: `slopes[..., targets]`. Each
    place has one target: `slopes[counts, targets[counts]]` pairs them.""")
def all_targets_everywhere(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    slopes = logits.softmax(-1)
    slopes[..., targets[counts]] -= 1
    return slopes * counts[..., None] / counts.sum()


@slope_of_loss.mistake("""You took the softmax along the text (dim=1). The shares are shares of the V tokens at one
    place: the last axis, -1.""")
def softmax_over_places(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return (pulls - (logits.softmax(-1) - logits.softmax(1)) * counts[..., None]) / counts.sum()


@slope_of_loss.mistake("""You took 1 off the scores themselves. First make probabilities of them:
    `logits.softmax(-1)`.""")
def scores_for_shares(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return (pulls - (logits.softmax(-1) - logits) * counts[..., None]) / counts.sum()


@slope_of_loss.mistake("""You used log_softmax. The slope is made of the probabilities themselves: softmax.""")
def with_logarithms(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    return (pulls - (logits.softmax(-1) - logits.log_softmax(-1)) * counts[..., None]) / counts.sum()


@slope_of_loss.mistake("""You took e to the power of the scores and divided by the sum. e⁵⁰⁰ is more than a
    computer's number can hold, and infinity / infinity is NaN. `softmax` takes the largest score off first (chapter
    03).""")
def plain_powers(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, ignore_index)
    shares = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return (pulls + (shares - logits.softmax(-1)) * counts[..., None]) / counts.sum()


@slope_of_loss.mistake("""You wrote -100 (or "less than 0") into the function. Use ignore_index: chapter 08 and
    others mark padding with numbers of their own.""")
def fixed_index(logits, targets, ignore_index=-100):
    pulls, counts = _pulls(logits, targets, -100)
    return pulls / counts.sum()


@slope_of_loss.mistake("""`F.one_hot` can't do the target -100: it is no token. Put some token there first
    (`targets.where(counts, 0)`), and set the slopes of those places to 0 afterwards.""")
def one_hot_of_padding(logits, targets, ignore_index=-100):
    counts = targets != ignore_index
    return (logits.softmax(-1) - F.one_hot(targets, logits.size(-1))) * counts[..., None] / counts.sum()


@slope_of_loss.alternative("backward() of torch's loss")
def slope_from_torch(logits, targets, ignore_index=-100):
    leaf = logits.detach().clone().requires_grad_()
    loss = F.cross_entropy(leaf.transpose(1, 2), targets, ignore_index=ignore_index)
    return torch.autograd.grad(loss, leaf)[0]


@slope_of_loss.alternative("place by place, in loops")
def slope_in_loops(logits, targets, ignore_index=-100):
    slopes = torch.zeros_like(logits)
    n = sum(int(target) != ignore_index for text in targets for target in text)
    for b, text in enumerate(targets.tolist()):
        for t, target in enumerate(text):
            if target != ignore_index:
                powers = (logits[b, t] - logits[b, t].max()).exp()
                slopes[b, t] = powers / powers.sum() / n
                slopes[b, t, target] -= 1 / n
    return slopes


@slope_of_loss.alternative("the table of ones, scattered")
def slope_scattered(logits, targets, ignore_index=-100):
    real = (targets != ignore_index).to(logits)
    ones = torch.zeros_like(logits).scatter(-1, targets.clamp(min=0)[..., None], 1.0)
    return torch.einsum("btv,bt->btv", logits.softmax(-1) - ones, real / real.sum())


# 10.2 momentum_step -------------------------------------------------------------------------------------------------


def momentum_step(weight: Tensor, slope: Tensor, velocity: Tensor, lr: float, momentum: float) -> tuple[Tensor, Tensor]:
    """Take one step of gradient descent with momentum; give the new weight and the new velocity.

    Shape: all the same. Computes velocity = momentum * velocity + slope; weight = weight - lr * velocity.
    """
    velocity = momentum * velocity + slope
    return weight - lr * velocity, velocity


rolling = Exercise(
    "10.2",
    momentum_step,
    hints=(
        "Two lines, in this order: first the velocity, then the weight. The docstring has both.",
        "The weight moves with the *new* velocity. Make new tensors: `velocity = momentum * velocity + slope`, and no "
        "`*=`, which would change the one that you were given.",
        "`return weight - lr * velocity, velocity`, after the line of the hint before.",
    ),
)


@rolling.check("from rest: the weights 1 and 2, the slopes 4 and -2, lr 0.1, momentum 0.9")
def rolling_from_rest(momentum_step):
    given = momentum_step(torch.tensor([1.0, 2.0]), torch.tensor([4.0, -2.0]), torch.zeros(2), 0.1, 0.9)
    same(given, (torch.tensor([0.6, 2.2]), torch.tensor([4.0, -2.0])))


@rolling.check("already rolling: velocity 10, slope -1")
def rolling_on(momentum_step):
    given = momentum_step(torch.tensor([5.0]), torch.tensor([-1.0]), torch.tensor([10.0]), 0.1, 0.5)
    same(given, (torch.tensor([4.6]), torch.tensor([4.0])))


@rolling.check("four steps with slopes of both signs, and a learning rate that changes on the way")
def rolling_like_torch(momentum_step):
    start, slopes, rates = randn(2, 3), randn(4, 2, 3), (0.5, 0.1, 0.3, 0.2)
    weight, velocity = start, torch.zeros(2, 3)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([theirs], lr=1.0, momentum=0.8)
    for slope, lr in zip(slopes, rates, strict=True):
        weight, velocity = momentum_step(weight, slope, velocity, lr, 0.8)
        optimizer.param_groups[0]["lr"], theirs.grad = lr, slope.clone()
        optimizer.step()
    same([weight, velocity], [theirs.detach(), optimizer.state[theirs]["momentum_buffer"]])


@rolling.check("without momentum it is plain gradient descent")
def rolling_without(momentum_step):
    weight, slope = randn(5), randn(5)
    same(momentum_step(weight, slope, randn(5), 0.2, 0.0), (weight - 0.2 * slope, slope))


@rolling.mistake("""You took a mean of old velocity and slope, with the factors momentum and 1 - momentum. Adam does
    so. Here the slope counts in full, which makes long runs of equal slopes up to ten times as fast with momentum
    0.9.""")
def rolling_mean(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + (1 - momentum) * slope
    return weight - lr * velocity, velocity


@rolling.mistake("""You kept the part of the velocity that should be lost: 1 - momentum. With momentum 0.9, nine
    tenths of the old velocity stay: `momentum * velocity + slope`.""")
def rolling_briefly(weight, slope, velocity, lr, momentum):
    velocity = (1 - momentum) * velocity + slope
    return weight - lr * velocity, velocity


@rolling.mistake("""You moved the weight with the old velocity. First work out the new one; from rest, your first
    step goes nowhere.""")
def rolling_late(weight, slope, velocity, lr, momentum):
    return weight - lr * velocity, momentum * velocity + slope


@rolling.mistake("""You gave back the old velocity. It has to be remembered for the next step, or there is no
    momentum at all.""")
def rolling_forgets(weight, slope, velocity, lr, momentum):
    return weight - lr * (momentum * velocity + slope), velocity


@rolling.mistake("""You put the learning rate into the velocity. The weight moves alike as long as lr is the same
    all the time; with a schedule, the old steps go on at their old rate. Multiply by lr when the weight moves.""")
def rolling_with_rate(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + lr * slope
    return weight - velocity, velocity


@rolling.mistake("""You went uphill: the weight moves *against* the velocity, with a minus.""")
def rolling_uphill(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + slope
    return weight + lr * velocity, velocity


@rolling.mistake("""You took the slope off the velocity. Then the velocity points downhill, and the weight goes
    uphill with it: `momentum * velocity + slope`.""")
def rolling_backwards(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity - slope
    return weight - lr * velocity, velocity


@rolling.mistake("""You forgot the learning rate: weight - lr * velocity.""")
def rolling_without_rate(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + slope
    return weight - velocity, velocity


@rolling.mistake("""You multiplied the slope with the momentum as well: momentum * (velocity + slope). Only what is
    left of the old velocity is multiplied.""")
def rolling_slowed(weight, slope, velocity, lr, momentum):
    velocity = momentum * (velocity + slope)
    return weight - lr * velocity, velocity


@rolling.mistake("""You went a step further along the new velocity (Nesterov's version). That is a good optimizer
    too, and another one than asked for: weight - lr * velocity.""")
def rolling_ahead(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + slope
    return weight - lr * (slope + momentum * velocity), velocity


@rolling.mistake("""You gave back the velocity first. Asked for: the new weight, then the new velocity.""")
def rolling_swapped(weight, slope, velocity, lr, momentum):
    velocity = momentum * velocity + slope
    return velocity, weight - lr * velocity


@rolling.mistake("""There is no momentum in it: the weight moves by the slope alone. Add what is left of the old
    velocity.""")
def not_rolling(weight, slope, velocity, lr, momentum):
    return weight - lr * slope, slope


@rolling.alternative("torch's own optimizer")
def rolling_by_torch(weight, slope, velocity, lr, momentum):
    parameter = nn.Parameter(weight.clone())
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=momentum)
    optimizer.state[parameter]["momentum_buffer"] = velocity.clone()
    parameter.grad = slope.clone()
    optimizer.step()
    return parameter.detach(), optimizer.state[parameter]["momentum_buffer"] if momentum else slope.clone()


@rolling.alternative("number by number")
def rolling_in_loops(weight, slope, velocity, lr, momentum):
    speeds = [momentum * v + s for v, s in zip(velocity.flatten().tolist(), slope.flatten().tolist(), strict=True)]
    moved = [w - lr * v for w, v in zip(weight.flatten().tolist(), speeds, strict=True)]
    return torch.tensor(moved).view(weight.shape), torch.tensor(speeds).view(weight.shape)


@rolling.alternative("torch.add, in place on a copy")
def rolling_in_place(weight, slope, velocity, lr, momentum):
    velocity = velocity.clone().mul_(momentum).add_(slope)
    return torch.add(weight, velocity, alpha=-lr), velocity


# 10.3 AdamW ---------------------------------------------------------------------------------------------------------

adamw = Exercise(
    "10.3",
    train.AdamW,
    given=("__init__", "step"),
    hints=(
        "First time: `if not state:` fill it with a step count 0 and two tensors of zeros like the weight. Then count "
        "the step, move m and v a little towards the slope and its square, and correct both.",
        "`state['m'] = beta1 * state['m'] + (1 - beta1) * weight.grad`, and v with beta2 and the square. The corrected "
        "m is `state['m'] / (1 - beta1 ** state['step'])`; leave what is in the state uncorrected.",
        "Then two lines that change the weight in place: `weight.mul_(1 - lr * group['weight_decay'])` and "
        "`weight.sub_(lr * m / (v.sqrt() + group['eps']))`, with the corrected m and v.",
    ),
)


def weights_after_steps(Optimizer, values: list[Tensor], slopes: list[list], **options) -> list[list[Tensor]]:
    """Let an optimizer make steps with these slopes, one list of them per step. -> the weights after each step"""
    weights = [nn.Parameter(value.clone()) for value in values]
    optimizer = Optimizer(weights, **options)
    after = []
    for step in slopes:
        for weight, slope in zip(weights, step, strict=True):
            weight.grad = None if slope is None else slope.clone()
        optimizer.step()
        after.append([weight.detach().clone() for weight in weights])
    return after


def weights_in_two_groups(Optimizer, values: list[Tensor], slopes: list[list[Tensor]], second: dict) -> list[Tensor]:
    """The same with two groups, the second one with options of its own, and a rate that is halved after each step."""
    weights = [nn.Parameter(value.clone()) for value in values]
    optimizer = Optimizer([{"params": weights[:1]}, {"params": weights[1:], **second}], lr=0.2)
    for step in slopes:
        for weight, slope in zip(weights, step, strict=True):
            weight.grad = slope.clone()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] /= 2
    return [weight.detach().clone() for weight in weights]


def _as_torch_does(AdamW, values, slopes, **options):
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1} | options
    expected = weights_after_steps(torch.optim.AdamW, values, slopes, **options)
    same(driven(AdamW, weights_after_steps, values, slopes, **options), expected)


@adamw.check("the first step: weights 1, 2 and 3, slopes 4, -0.02 and 0, lr 0.1, no decay")
def adamw_first_step(AdamW):
    values, slopes = [torch.tensor([1.0, 2.0, 3.0])], [[torch.tensor([4.0, -0.02, 0.0])]]
    given = driven(AdamW, weights_after_steps, values, slopes, lr=0.1, weight_decay=0.0)
    same(given, [[torch.tensor([0.9, 2.1, 3.0])]])


@adamw.check("slopes of 0: nothing but decay, lr 0.5 and weight_decay 0.5")
def adamw_decay_alone(AdamW):
    values, slopes = [torch.tensor([8.0, -4.0])], [[torch.zeros(2)], [torch.zeros(2)]]
    given = driven(AdamW, weights_after_steps, values, slopes, lr=0.5, weight_decay=0.5)
    same(given, [[torch.tensor([6.0, -3.0])], [torch.tensor([4.5, -2.25])]])


@adamw.check("four steps with slopes that change their signs, two weights of different shapes")
def adamw_four_steps(AdamW):
    values = [randn(2, 3), randn(4)]
    slopes = [[randn(2, 3), randn(4)] for _ in range(4)]
    _as_torch_does(AdamW, values, slopes, lr=0.05)


@adamw.check("other betas, and a large learning rate with much decay")
def adamw_other_betas(AdamW):
    slopes = [[randn(3)] for _ in range(3)]
    _as_torch_does(AdamW, [2 * randn(3)], slopes, lr=0.5, betas=(0.6, 0.7), weight_decay=0.5)


@adamw.check("slopes so small that eps shows, and another eps")
def adamw_eps(AdamW):
    slopes = [[1e-8 * (0.5 + rand(3))] for _ in range(3)]
    _as_torch_does(AdamW, [randn(3)], slopes, lr=0.1, weight_decay=0.0)
    _as_torch_does(AdamW, [randn(3)], [[randn(3)] for _ in range(2)], lr=0.1, eps=0.5)


@adamw.check("a weight whose first slope comes later than that of the other one")
def adamw_late(AdamW):
    slopes = [[randn(2), None], [randn(2), randn(3)], [randn(2), randn(3)]]
    _as_torch_does(AdamW, [randn(2), randn(3)], slopes, lr=0.1, weight_decay=0.0)


@adamw.check("two groups, one without decay and with betas of its own, and a rate that changes between steps")
def adamw_groups(AdamW):
    values, slopes = [randn(2), randn(3)], [[randn(2), randn(3)] for _ in range(3)]
    second = {"weight_decay": 0.0, "betas": (0.5, 0.8)}
    same(
        driven(AdamW, weights_in_two_groups, values, slopes, second),
        weights_in_two_groups(train.AdamW, values, slopes, second),
    )


class _Adam(train.AdamW):
    """AdamW again, in steps, each of which somebody can get wrong."""

    def _update(self, weight, group, state):
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        state["step"] += 1
        slope, (beta1, beta2) = self.slope(weight, group), group["betas"]
        state["m"] = beta1 * state["m"] + (1 - beta1) * slope
        state["v"] = beta2 * state["v"] + (1 - beta2) * self.square(slope, state)
        self.move(weight, group, *self.corrected(group, state))

    def slope(self, weight, group):
        return weight.grad

    def square(self, slope, state):
        return slope.square()

    def corrected(self, group, state):
        beta1, beta2 = group["betas"]
        return state["m"] / (1 - beta1 ** state["step"]), state["v"] / (1 - beta2 ** state["step"])

    def move(self, weight, group, m, v):
        weight.mul_(self.left(group))
        weight.sub_(group["lr"] * self.direction(group, m, v))

    def left(self, group):
        return 1 - group["lr"] * group["weight_decay"]

    def direction(self, group, m, v):
        return m / (v.sqrt() + group["eps"])


@adamw.mistake("""You did not correct m and v for starting at 0. After one step m is only a tenth of the slope and
    the root of v only a fifth of its size, so the first steps have the wrong length: divide by 1 - beta **
    step.""")
class NotCorrected(_Adam):
    def corrected(self, group, state):
        return state["m"], state["v"]


@adamw.mistake("""You corrected m and not v. Both start at 0: v is too small at first, and your first steps are more
    than four times too long.""")
class OnlyMCorrected(_Adam):
    def corrected(self, group, state):
        return super().corrected(group, state)[0], state["v"]


@adamw.mistake("""You put the corrected m and v back into the state. The next step then corrects what has been
    corrected before. Keep the uncorrected ones.""")
class CorrectedInPlace(_Adam):
    def corrected(self, group, state):
        state["m"], state["v"] = super().corrected(group, state)
        return state["m"], state["v"]


@adamw.mistake("""Your step count stays at 1, so the correction never fades: from the second step on the steps are
    wrong. Add 1 to state["step"] each time.""")
class AlwaysTheFirstStep(_Adam):
    def corrected(self, group, state):
        state["step"] = 1
        return super().corrected(group, state)


@adamw.mistake("""You corrected with beta * step. The shares given out after t steps add up to 1 - beta to the
    *power* of t: `beta ** step`.""")
class TimesForPower(_Adam):
    def corrected(self, group, state):
        t, (beta1, beta2) = state["step"], group["betas"]
        return state["m"] / (1 - beta1 * t), state["v"] / (1 - beta2 * t)


@adamw.mistake("""You counted the step after you used the count. 1 - beta ** 0 is 0, and the first step divides by
    it: NaN. Add 1 first.""")
class CountedTooLate(_Adam):
    def corrected(self, group, state):
        state["step"] -= 1
        corrected = super().corrected(group, state)
        state["step"] += 1
        return corrected


@adamw.mistake("""One step count serves all weights of the group, so with two weights it runs twice as fast. Each
    weight has its own count, in its own state.""")
class OneCountForAll(_Adam):
    def corrected(self, group, state):
        group["count"] = group.get("count", 0) + 1
        return super().corrected(group, {**state, "step": group["count"]})


@adamw.mistake("""One step count, in the optimizer, serves all its weights, so with two weights it runs twice as
    fast. Each weight has its own count, in its own state.""")
class OneCountInSelf(_Adam):
    def corrected(self, group, state):
        self.count = getattr(self, "count", 0) + 1
        return super().corrected(group, {**state, "step": self.count})


@adamw.mistake("""eps stands inside the root: sqrt(v + eps). It belongs behind it: sqrt(v) + eps. With eps = 1e-8
    inside the root, slopes below one ten-thousandth hardly move anything.""")
class EpsInsideTheRoot(_Adam):
    def direction(self, group, m, v):
        return m / (v + group["eps"]).sqrt()


@adamw.mistake("""You added eps to the root of the uncorrected v, and corrected afterwards (some programs do). Here
    eps is added to the root of the corrected v.""")
class EpsBeforeTheCorrection(_Adam):
    def corrected(self, group, state):
        correction = 1 - group["betas"][1] ** state["step"]
        root = (state["v"].sqrt() + group["eps"]) / correction**0.5
        return super().corrected(group, state)[0], (root - group["eps"]).square()


@adamw.mistake("""There is no eps. Where a slope is 0 you divide 0 by 0, and one NaN is enough to lose the run:
    sqrt(v) + eps.""")
class NoEps(_Adam):
    def direction(self, group, m, v):
        return m / v.sqrt()


@adamw.mistake("""You left out the root: m / v instead of m / sqrt(v). v is a mean of squares. Your steps are long
    where slopes are small, and the other way round.""")
class NoRoot(_Adam):
    def direction(self, group, m, v):
        return m / (v + group["eps"])


@adamw.mistake("""v is a running mean of the *squared* slopes. Yours is one of slopes without their signs.""")
class NotSquared(_Adam):
    def square(self, slope, state):
        return slope.abs()


@adamw.mistake("""You squared m for v. v is a running mean of the squares of the slopes themselves.""")
class SquareOfM(_Adam):
    def square(self, slope, state):
        return state["m"].square()


@adamw.mistake("""You exchanged the betas. The first one, 0.9, is for m, the running mean of the slopes; the second
    one for v, the running mean of their squares.""")
class BetasExchanged(_Adam):
    def _update(self, weight, group, state):
        super()._update(weight, group | {"betas": group["betas"][::-1]}, state)


@adamw.mistake("""Your numbers 0.9 and 0.95 are written into the formula. Use group["betas"]; groups may have their
    own.""")
class FixedBetas(_Adam):
    def _update(self, weight, group, state):
        super()._update(weight, group | {"betas": (0.9, 0.95)}, state)


@adamw.mistake("""You moved along the slope of this step. What is divided by sqrt(v) is m, the mean of the last
    ones; without it single batches throw the weights about.""")
class NoMomentum(_Adam):
    def corrected(self, group, state):
        return self.now, super().corrected(group, state)[1]

    def slope(self, weight, group):
        self.now = weight.grad
        return weight.grad


@adamw.mistake("""Your m and v start again at 0 in every step. Keep them in `state`, which is the same dict each
    time for the same weight.""")
class NothingKept(_Adam):
    def _update(self, weight, group, state):
        super()._update(weight, group, {})


@adamw.mistake("""You worked out new means and did not put them back: in the next step `state["m"]` and
    `state["v"]` are still 0. Assign to them, or change them in place.""")
class NotPutBack(_Adam):
    def _update(self, weight, group, state):
        if not state:
            state["step"] = 0
        zeros = {"m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        passing = {**state, **zeros}
        super()._update(weight, group, passing)
        state["step"] = passing["step"]


@adamw.mistake("""You added the new slope and its square in full. m and v are means: what is new comes in with the
    factor 1 - beta, what is old stays with the factor beta.""")
class SumsForMeans(_Adam):
    def corrected(self, group, state):
        m, v = super().corrected(group, state)
        beta1, beta2 = group["betas"]
        return m / (1 - beta1), v / (1 - beta2)


@adamw.mistake("""You added weight_decay * weight to the slope. That is Adam with L2, not AdamW: the decay then goes
    through m and is divided by sqrt(v), and weights with large slopes hardly decay. Shrink the weight itself.""")
class DecayInTheSlope(_Adam):
    def slope(self, weight, group):
        return weight.grad + group["weight_decay"] * weight

    def left(self, group):
        return 1.0


@adamw.mistake("""You added the decay to m before you divided by sqrt(v). Weights with large slopes then hardly
    decay. The decay stands outside: weight * (1 - lr * weight_decay).""")
class DecayDivided(_Adam):
    def move(self, weight, group, m, v):
        weight.sub_(group["lr"] * self.direction(group, m + group["weight_decay"] * weight, v))


@adamw.mistake("""Your decay does not know the learning rate: weight * (1 - weight_decay). With 0.1 each step would
    take a tenth of every weight. Multiply by lr: 1 - lr * weight_decay.""")
class DecayWithoutRate(_Adam):
    def left(self, group):
        return 1 - group["weight_decay"]


@adamw.mistake("""You let the weight decay after its step, so that the step itself is shrunk as well. First shrink,
    then move.""")
class DecayAfterwards(_Adam):
    def move(self, weight, group, m, v):
        weight.sub_(group["lr"] * self.direction(group, m, v))
        weight.mul_(self.left(group))


@adamw.mistake("""There is no decay. That is Adam; the W stands for the decay: weight * (1 - lr * weight_decay).""")
class NoDecay(_Adam):
    def left(self, group):
        return 1.0


@adamw.mistake("""You went uphill: the weight moves against m. Take the step off.""")
class Uphill(_Adam):
    def direction(self, group, m, v):
        return -super().direction(group, m, v)


@adamw.mistake("""The weights did not move. `weight = weight - ...` makes a new tensor and gives it the same name;
    the one in the model stays as it was. Change it in place: `weight.sub_(...)`, `weight.mul_(...)`.""")
class NewTensors(_Adam):
    def move(self, weight, group, m, v):
        super().move(weight.clone(), group, m, v)


@adamw.mistake("""Every weight uses lr, eps and decay of the optimizer's defaults. A group may have its own, and a
    schedule changes the lr of the groups: read them from `group`.""")
class DefaultsOnly(_Adam):
    def move(self, weight, group, m, v):
        super().move(weight, self.defaults, m, v)


@adamw.alternative("torch's own, with these defaults")
class BorrowedAdamW(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


@adamw.alternative("in place, with addcmul and addcdiv")
class AdamWInPlace(train.AdamW):
    def _update(self, weight, group, state):
        assert weight.grad is not None
        state.setdefault("t", 0)
        m, v = (state.setdefault(name, torch.zeros_like(weight)) for name in "mv")
        state["t"] += 1
        (beta1, beta2), lr = group["betas"], group["lr"]
        m.mul_(beta1).add_(weight.grad, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        weight.add_(weight, alpha=-lr * group["weight_decay"])
        root = v.sqrt().div_((1 - beta2 ** state["t"]) ** 0.5).add_(group["eps"])
        weight.addcdiv_(m, root, value=-lr / (1 - beta1 ** state["t"]))


@adamw.alternative("means in float64 that are weighted sums of all slopes so far")
class AdamWFromHistory(train.AdamW):
    def _update(self, weight, group, state):
        assert weight.grad is not None
        slopes = state.setdefault("slopes", [])
        slopes.append(weight.grad.double())
        means = []
        for beta, power in zip(group["betas"], (1, 2), strict=True):
            shares = [beta ** (len(slopes) - 1 - i) for i in range(len(slopes))]
            means.append(sum(share * s**power for share, s in zip(shares, slopes, strict=True)) / sum(shares))
        step = group["weight_decay"] * weight.double() + means[0] / (means[1].sqrt() + group["eps"])
        weight.copy_(weight.double() - group["lr"] * step)


# 10.4 learning_rate -------------------------------------------------------------------------------------------------

schedule = Exercise(
    "10.4",
    train.learning_rate,
    hints=(
        "Three cases: still warming up; past the end; between. Refuse unknown shapes first. In the warm-up, step 0 "
        "gets the first of warmup_steps equal parts of the peak.",
        "Between, `progress = (step - warmup_steps) / (total_steps - warmup_steps)` goes from 0 to 1 (`min(1.0, ...)` "
        "keeps it there; `max(1, ...)` below the line keeps you from dividing by 0). How much is left of the way from "
        "floor to peak: `1 - progress`, or half of 1 + cos(π · progress).",
        "`return floor + (peak - floor) * left`, and in the warm-up `peak * (step + 1) / warmup_steps`.",
    ),
)


def _rates(learning_rate, steps, **options):
    return [learning_rate(step, **options) for step in steps]


@schedule.check("the warm-up: 4 steps to a peak of 8, the first one moves")
def schedule_warmup(learning_rate):
    same(_rates(learning_rate, range(5), peak=8.0, warmup_steps=4, total_steps=20), [2.0, 4.0, 6.0, 8.0, 8.0])


@schedule.check("the cosine, from a peak of 10 down to a floor of 2: a third of the way, half, two thirds")
def schedule_cosine(learning_rate):
    rates = _rates(learning_rate, (10, 40, 55, 70), peak=10.0, warmup_steps=10, total_steps=100, floor=2.0)
    same(rates, [10.0, 8.0, 6.0, 4.0])


@schedule.check("the straight line, with a floor")
def schedule_linear(learning_rate):
    options = {"peak": 9.0, "warmup_steps": 3, "total_steps": 11, "floor": 1.0, "shape": "linear"}
    same(_rates(learning_rate, (2, 3, 5, 9, 10), **options), [9.0, 9.0, 7.0, 3.0, 2.0])


@schedule.check("the last step and later ones run at the floor, for both shapes")
def schedule_end(learning_rate):
    options = {"peak": 5.0, "warmup_steps": 2, "total_steps": 8, "floor": 0.5}
    for shape in ("cosine", "linear"):
        same(_rates(learning_rate, (8, 9, 15), **options, shape=shape), [0.5, 0.5, 0.5])


@schedule.check("no warm-up at all, and one that is as long as the run")
def schedule_edges(learning_rate):
    same(_rates(learning_rate, (0, 2, 4), peak=3.0, warmup_steps=0, total_steps=4), [3.0, 1.5, 0.0])
    same(_rates(learning_rate, (0, 3), peak=4.0, warmup_steps=4, total_steps=4), [1.0, 4.0])


@schedule.check("random sizes, every step of the run")
def schedule_whole(learning_rate):
    warmup, total = int(integers(2, 6)), int(integers(12, 20))
    options = {"peak": 0.5 + rand(1).item(), "warmup_steps": warmup, "total_steps": total, "floor": 0.1}
    shape = pick(("cosine", "linear"))
    given = _rates(learning_rate, range(total + 2), **options, shape=shape)
    same(given, _rates(train.learning_rate, range(total + 2), **options, shape=shape))


@schedule.check("a shape that nobody knows is refused, after the warm-up")
def schedule_refuses(learning_rate):
    refuses(learning_rate, 5, peak=1.0, warmup_steps=2, total_steps=6, shape="")


@schedule.check("and in step 0 already")
def schedule_refuses_at_once(learning_rate):
    refuses(learning_rate, 0, peak=1.0, warmup_steps=2, total_steps=6, shape="cosin")


def _schedule(step, peak, warmup_steps, total_steps, floor, shape, up=None, left=None, progress=None, all_checked=True):
    """The right schedule, but for what is handed in."""
    if all_checked and shape not in ("cosine", "linear"):
        raise ValueError("shape")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps if up is None else up
    if progress is None:
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if left is None:
        left = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return floor + (peak - floor) * left


@schedule.mistake("""Your first step has the learning rate 0: the batch is read, and nothing moves. Step 0 is the
    first of warmup_steps equal parts: (step + 1) / warmup_steps.""")
def first_step_wasted(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    up = peak * step / max(1, warmup_steps)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, up=up)


@schedule.mistake("""Your warm-up has warmup_steps + 1 parts. Some programs do that too; the docstring's example
    says what is wanted here: with 2 steps of warm-up the rates are 0.5, 1.0.""")
def one_part_more(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    up = peak * (step + 1) / (warmup_steps + 1)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, up=up)


@schedule.mistake("""Your warm-up is one step too long (`<=`), and in that step the rate is above the peak. Step
    warmup_steps is the first one after it: `step < warmup_steps`.""")
def one_step_more(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    if step == warmup_steps and shape in ("cosine", "linear"):
        return peak * (step + 1) / warmup_steps
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape)


@schedule.mistake("""Your warm-up starts at the floor. It rises in a straight line from 0: peak * (step + 1) /
    warmup_steps. The floor is for the end.""")
def from_the_floor(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    up = floor + (peak - floor) * (step + 1) / max(1, warmup_steps)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, up=up)


@schedule.mistake("""There is no warm-up: the first steps run at the peak. That is where the running means of Adam
    know least.""")
def no_warmup(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, up=peak)


@schedule.mistake("""Your way down ends at 0 and is cut off at the floor: max(floor, ...). Then the middle is too
    low and the end is flat. Go down *to* the floor: floor + (peak - floor) * what is left.""")
def cut_off(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return max(floor, _schedule(step, peak, warmup_steps, total_steps, 0.0, shape)) if step >= warmup_steps else (
        _schedule(step, peak, warmup_steps, total_steps, floor, shape)
    )  # fmt: skip


@schedule.mistake("""You ignored the floor: your schedule ends at 0.""")
def no_floor(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return _schedule(step, peak, warmup_steps, total_steps, 0.0, shape)


@schedule.mistake("""You added the floor to a whole schedule from peak to 0, so it starts at peak + floor. The way
    down is peak - floor long.""")
def floor_on_top(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    down = _schedule(step, peak, warmup_steps, total_steps, 0.0, shape)
    return down + floor if step >= warmup_steps else down


@schedule.mistake("""The way down starts at step 0 for you: step / total_steps. When the warm-up ends, part of it is
    already gone, and the rate jumps. Progress is counted from the end of the warm-up.""")
def progress_from_the_start(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, progress=min(1.0, step / total_steps))


@schedule.mistake("""You divided by total_steps, but the way down has only total_steps - warmup_steps steps. Yours
    does not arrive at the floor in time.""")
def too_long(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = min(1.0, (step - warmup_steps) / total_steps)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, progress=progress)


@schedule.mistake("""You divided by total_steps, but the way down has only total_steps - warmup_steps steps. When
    the run ends yours is not at the floor yet, and falls the rest of the way at once.""")
def too_long_and_cut(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = (step - warmup_steps) / total_steps if step < total_steps else 1.0
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, progress=progress)


@schedule.mistake(
    """There is no π in your cosine. cos(1) is 0.54; it takes cos(π) to get to -1, and so to the
    floor."""
)
def no_pi(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = None if shape == "linear" else (1 + math.cos(progress)) / 2
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, left=left)


@schedule.mistake("""You did not halve: 1 + cos(π · progress) goes from 2 to 0, and your way down begins at twice the
    peak (less the floor). Divide by 2.""")
def not_halved(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = None if shape == "linear" else 1 + math.cos(math.pi * progress)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, left=left)


@schedule.mistake("""You took the cosine as it is, from 1 to -1. From the middle on your rates are below the floor. Move
    it up and halve it: (1 + cos(π · progress)) / 2.""")
def cosine_as_it_is(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    left = 0.0 if progress >= 1 and total_steps > warmup_steps else math.cos(math.pi * progress)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, left=None if shape == "linear" else left)


@schedule.mistake("""Your cosine goes down a quarter of a turn: cos(π / 2 · progress). That leaves the peak gently
    and arrives at full speed. Half a turn, moved up and halved, is gentle at both ends: (1 + cos(π · progress)) /
    2.""")
def quarter_turn(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = None if shape == "linear" else math.cos(math.pi / 2 * progress)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, left=left)


@schedule.mistake("""After total_steps your rate goes on: the cosine comes up again, the line goes below the floor.
    Keep progress at 1 at most.""")
def beyond_the_end(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, progress=progress)


@schedule.mistake("""Every shape is a cosine for you. With shape="linear" what is left is 1 - progress.""")
def cosine_always(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    if shape not in ("cosine", "linear"):
        raise ValueError("shape")
    return _schedule(step, peak, warmup_steps, total_steps, floor, "cosine")


@schedule.mistake("""Every shape is a straight line for you. With shape="cosine", which is the default, what is left is
    (1 + cos(π · progress)) / 2.""")
def linear_always(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    if shape not in ("cosine", "linear"):
        raise ValueError("shape")
    return _schedule(step, peak, warmup_steps, total_steps, floor, "linear")


@schedule.mistake("""You took the two shapes for each other: the cosine is (1 + cos(π · progress)) / 2, the straight
    line is 1 - progress.""")
def shapes_exchanged(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    other = {"cosine": "linear", "linear": "cosine"}.get(shape, shape)
    return _schedule(step, peak, warmup_steps, total_steps, floor, other)


@schedule.mistake("""A shape that you don't know gets some schedule all the same. A slip such as "cosin" then costs
    a whole run: `raise ValueError(...)`.""")
def any_shape(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, all_checked=False)


@schedule.mistake("""You look at the shape only after the warm-up. A wrong one should be refused in step 0, not
    after two thousand steps.""")
def refused_late(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, all_checked=step >= warmup_steps)


@schedule.mistake("""With a warm-up as long as the run you divide by total_steps - warmup_steps, which is 0. Take
    max(1, ...) below the line.""")
def nothing_left(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return _schedule(step, peak, warmup_steps, total_steps, floor, shape, progress=progress)


@schedule.alternative("case by case")
def schedule_by_cases(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    match shape:
        case "cosine" | "linear":
            pass
        case _:
            raise ValueError(f"no shape {shape}")
    if warmup_steps > step:
        return (step + 1) * (peak / warmup_steps)
    if step >= total_steps > warmup_steps:
        return floor
    x = (step - warmup_steps) / ((total_steps - warmup_steps) or 1)
    if shape == "cosine":
        return (peak + floor) / 2 + (peak - floor) / 2 * math.cos(math.pi * x)
    return peak + (floor - peak) * x


@schedule.alternative("a square of a cosine, with torch")
def schedule_by_torch(step, *, peak, warmup_steps, total_steps, floor=0.0, shape="cosine"):
    shapes = {"cosine": lambda x: torch.cos(math.pi / 2 * x) ** 2, "linear": lambda x: 1 - x}
    if shape not in shapes:
        raise ValueError(shape)
    if step < warmup_steps:
        return torch.linspace(peak / warmup_steps, peak, warmup_steps, dtype=torch.float64)[step].item()
    way = torch.tensor((step - warmup_steps) / max(1, total_steps - warmup_steps), dtype=torch.float64).clamp(0, 1)
    return torch.lerp(torch.tensor(floor, dtype=torch.float64), torch.tensor(peak).double(), shapes[shape](way)).item()


# 10.5 decay_groups --------------------------------------------------------------------------------------------------

groups = Exercise(
    "10.5",
    train.decay_groups,
    hints=(
        "`model.parameters()` gives each weight once, also one that is used in two places. Leave out those with "
        "`requires_grad` False.",
        "What tells a matrix from a norm or a bias is the number of its axes: `p.ndim >= 2`. Names don't help: an "
        "RMSNorm's scale is called `weight` too.",
        'Two lists, then `[{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": '
        "0.0}]`.",
    ),
)


@dataclass(eq=False, repr=False)
class Mixed(nn.Module):
    """A model with everything that can be sorted wrongly. It travels: it is made where it is used."""

    tied: bool = True
    frozen: bool = False

    def __post_init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.norm = RMSNorm(4)
        self.up = nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.filter = nn.Parameter(torch.ones(2, 3, 4))
        self.lm_head = nn.Linear(4, 5, bias=False)
        if self.tied:
            self.lm_head.weight = self.embed_tokens.weight
        if self.frozen:
            self.up.requires_grad_(False)

    def __repr__(self) -> str:
        return "a small model, " + ", ".join(
            ["embedding and head tied" if self.tied else "two matrices", *["`up` frozen"] * self.frozen]
        )


def names_in_groups(decay_groups, model: nn.Module, weight_decay: float) -> list[tuple[float, list[str]]]:
    """For each group: its weight decay, and the names of the model's weights that are in it, the most decay first."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = []
    for group in decay_groups(model, weight_decay):
        inside = sorted(names.get(id(p), "not of the model") for p in group["params"])
        found.append((group.get("weight_decay", "none given"), inside))
    return sorted(found, key=lambda pair: (-1.0 if isinstance(pair[0], str) else -pair[0], pair[1]))


MATRICES = ["embed_tokens.weight", "filter", "up.weight"]
VECTORS = ["norm.weight", "scale", "up.bias"]


@groups.check("embedding, norm, a layer with a bias, a single number; the head tied to the embedding")
def groups_tied(decay_groups):
    same(driven(decay_groups, names_in_groups, Mixed(), 0.1), [(0.1, MATRICES), (0.0, VECTORS)])


@groups.check("head and embedding are two matrices, another weight_decay")
def groups_untied(decay_groups):
    expected = [(0.3, sorted([*MATRICES, "lm_head.weight"])), (0.0, VECTORS)]
    same(driven(decay_groups, names_in_groups, Mixed(tied=False), 0.3), expected)


@groups.check("one layer is frozen: its weights are not to be trained")
def groups_frozen(decay_groups):
    expected = [(0.2, ["embed_tokens.weight", "filter"]), (0.0, ["norm.weight", "scale"])]
    same(driven(decay_groups, names_in_groups, Mixed(frozen=True), 0.2), expected)


@groups.check("an optimizer takes them as they are, and a step shrinks the matrices alone")
def groups_in_use(decay_groups):
    same(driven(decay_groups, shrunk_by_a_step, Mixed(), 0.5), sorted(MATRICES))


def shrunk_by_a_step(decay_groups, model: nn.Module, weight_decay: float) -> list[str]:
    """The names of the weights that one step with slopes of 0 changes. The optimizer's own decay is 0.25."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a weight that is there twice
        optimizer = torch.optim.AdamW(decay_groups(model, weight_decay), lr=0.1, weight_decay=0.25)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    return sorted(name for name, p in model.named_parameters() if not torch.equal(p, before[name]))


def _two(decaying, others, weight_decay) -> list[dict]:
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _trained(model) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@groups.mistake("""Everything decays. The scales of the norms should stay near 1, and biases where they are needed;
    decay pulls them to 0. Only weights with two axes or more decay.""")
def all_decay(model, weight_decay):
    return _two(_trained(model), [], weight_decay)


@groups.mistake("""You left out biases only, by their names. The scale of a norm is called `weight` and decays in
    your version. Go by the number of axes, `p.ndim >= 2`, not by names.""")
def by_the_name_bias(model, weight_decay):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return _two([p for n, p in named if "bias" not in n], [p for n, p in named if "bias" in n], weight_decay)


@groups.mistake("""You took what is called `weight`. The scale of a norm is called so too, and a matrix may have
    another name. Go by the number of axes, `p.ndim >= 2`, not by names.""")
def by_the_name_weight(model, weight_decay):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return _two([p for n, p in named if "weight" in n], [p for n, p in named if "weight" not in n], weight_decay)


@groups.mistake("""You left out what is called norm or bias. Other vectors and single numbers have other names and
    decay in your version. Go by the number of axes, `p.ndim >= 2`.""")
def by_two_names(model, weight_decay):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [p for name, p in named if "bias" in name or "norm" in name]
    return _two([p for _, p in named if all(p is not s for s in spared)], spared, weight_decay)


@groups.mistake("""You exchanged the groups: norms and biases decay, and the matrices don't.""")
def groups_exchanged(model, weight_decay):
    weights = _trained(model)
    return _two([p for p in weights if p.ndim < 2], [p for p in weights if p.ndim >= 2], weight_decay)


@groups.mistake("""You took exactly two axes for a matrix. Weights with three axes or more (of convolutions, or of
    heads that are stored apart) decay as well: `p.ndim >= 2`.""")
def exactly_two_axes(model, weight_decay):
    weights = _trained(model)
    return _two([p for p in weights if p.ndim == 2], [p for p in weights if p.ndim != 2], weight_decay)


@groups.mistake("""A frozen weight (requires_grad False) is in your groups. It is not to be trained: leave it
    out.""")
def frozen_too(model, weight_decay):
    weights = list(model.parameters())
    return _two([p for p in weights if p.ndim >= 2], [p for p in weights if p.ndim < 2], weight_decay)


@groups.mistake("""The tied matrix is in your list twice, under its two names; an optimizer would move it twice.
    `model.parameters()` lists every weight once.""")
def tied_twice(model, weight_decay):
    weights = [p for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    return _two([p for p in weights if p.ndim >= 2], [p for p in weights if p.ndim < 2], weight_decay)


@groups.mistake("""You gave back only the group that decays. What is in no group is not trained at all: norms and
    biases would stay as they are.""")
def one_group(model, weight_decay):
    return [{"params": [p for p in _trained(model) if p.ndim >= 2], "weight_decay": weight_decay}]


@groups.mistake("""Your second group does not say `weight_decay`, so it gets the optimizer's own, which is seldom 0.
    Say "weight_decay": 0.0.""")
def second_says_nothing(model, weight_decay):
    weights = _trained(model)
    return [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim < 2]},
    ]


@groups.mistake("""You wrote 0.1 into the function; use the argument weight_decay.""")
def fixed_decay(model, weight_decay):
    return train.decay_groups(model, 0.1)


@groups.mistake("""You left out the embedding. Some programs do (minGPT was one), and it is a defensible choice;
    here, as the docstring has it, every matrix decays.""")
def embedding_left_out(model, weight_decay):
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights = _trained(model)
    decaying = [p for p in weights if p.ndim >= 2 and id(p) not in tables]
    return _two(decaying, [p for p in weights if all(p is not d for d in decaying)], weight_decay)


@groups.mistake("""Only the weights of nn.Linear decay in your version. Embeddings and other matrices do as well: go
    by `p.ndim >= 2`.""")
def linear_only(model, weight_decay):
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and not hasattr(m, "num_embeddings")}
    linear -= {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights = _trained(model)
    kept_apart = [p for p in weights if id(p) in linear]
    return _two(kept_apart, [p for p in weights if p.ndim < 2], weight_decay)


@groups.mistake("""Your groups hold copies (`.data`, `.detach()`, `.clone()`). The optimizer must get the weights
    themselves, or it trains tensors that the model does not know.""")
def copies(model, weight_decay):
    weights = [p.detach().clone().requires_grad_() for p in _trained(model)]
    return _two([p for p in weights if p.ndim >= 2], [p for p in weights if p.ndim < 2], weight_decay)


@groups.mistake("""Your groups hold names. An optimizer needs the weights: `for name, p in model.named_parameters()`
    gives both, and p is wanted.""")
def only_names(model, weight_decay):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return _two([n for n, p in named if p.ndim >= 2], [n for n, p in named if p.ndim < 2], weight_decay)


@groups.alternative("one loop, two lists")
def groups_in_a_loop(model, weight_decay):
    matrices, rest = [], []
    for _, p in model.named_parameters():
        if p.requires_grad:
            (matrices if len(p.shape) > 1 else rest).append(p)
    return [dict(params=rest, weight_decay=0.0), dict(params=matrices, weight_decay=weight_decay)]


@groups.alternative("by what they are: vectors in norms and biases apart")
def groups_by_module(model, weight_decay):
    seen: dict[int, Tensor] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if p.requires_grad:
                seen[id(p)] = p
    matrices = list(filter(lambda p: p.dim() not in (0, 1), seen.values()))
    others = [p for p in seen.values() if p.dim() in (0, 1)]
    return [{"weight_decay": weight_decay, "params": matrices}, {"weight_decay": 0.0, "params": others}]


# 10.6 clip_gradients ------------------------------------------------------------------------------------------------

clip = Exercise(
    "10.6",
    train.clip_gradients,
    hints=(
        "First make a list of all gradients that are there: `[p.grad for p in parameters if p.grad is not None]`. "
        "`parameters` may be a generator, which can be gone through only once.",
        "One length for all: the root of the sum of all squares, over all gradients together. If it is more than "
        "max_norm, multiply every gradient in place by max_norm / length: `g.mul_(factor)`.",
        "`norm = torch.stack([g.norm() for g in gradients]).norm()`, `factor = (max_norm / (norm + "
        "1e-6)).clamp(max=1.0)`. With no gradients at all the length is `torch.tensor(0.0)`. Give back norm.",
    ),
)


def after_clipping(clip_gradients, slopes: list, max_norm: float, as_list: bool = False) -> dict:
    """Clip these slopes (None for a weight without). -> what came back, and slopes and weights as they are then"""
    weights = [nn.Parameter(torch.ones(2) if s is None else torch.ones_like(s)) for s in slopes]
    for weight, slope in zip(weights, slopes, strict=True):
        weight.grad = None if slope is None else slope.clone()
    norm = clip_gradients(weights if as_list else (weight for weight in weights), max_norm)
    return {
        "returned": float(norm),
        "gradients": [weight.grad for weight in weights],
        "weights": [weight.detach() for weight in weights],
    }


def _clipped(clip_gradients, slopes, max_norm, norm, expected, as_list=False):
    ones = [torch.ones(2) if s is None else torch.ones_like(s) for s in slopes]
    found = driven(clip_gradients, after_clipping, slopes, max_norm, as_list)
    same(found, {"returned": norm, "gradients": expected, "weights": ones})


@clip.check("a list of two weights, with the gradients (3, 4) and (12), together 13 long, clipped to 6.5")
def clip_thirteen(clip_gradients):
    slopes = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]
    _clipped(clip_gradients, slopes, 6.5, 13.0, [torch.tensor([1.5, 2.0]), torch.tensor([[6.0]])], as_list=True)


@clip.check("the same, and max_norm 20: nothing to clip")
def clip_nothing(clip_gradients):
    slopes = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]
    _clipped(clip_gradients, slopes, 20.0, 13.0, slopes)


@clip.check("gradients below 1 whose squares are smaller still, max_norm 0.5")
def clip_small(clip_gradients):
    slopes = [torch.tensor([0.36, 0.0]), torch.tensor([0.48])]
    _clipped(clip_gradients, slopes, 0.5, 0.6, [torch.tensor([0.3, 0.0]), torch.tensor([0.4])])


@clip.check("a generator of three weights of different shapes and sizes, one of them without a gradient")
def clip_random(clip_gradients):
    slopes = [randn(2, 3), None, 10 * randn(4)]
    norm = torch.cat([slopes[0].flatten(), slopes[2]]).norm().item()
    expected = [None if s is None else s / norm for s in slopes]
    _clipped(clip_gradients, slopes, 1.0, norm, expected)


@clip.check("all gradients are 0")
def clip_zeros(clip_gradients):
    _clipped(clip_gradients, [torch.zeros(2), torch.zeros(3)], 1.0, 0.0, [torch.zeros(2), torch.zeros(3)])


@clip.check("no weight has a gradient")
def clip_none(clip_gradients):
    _clipped(clip_gradients, [None, None], 1.0, 0.0, [None, None])


def _length(slopes) -> Tensor:
    return torch.stack([s.norm() for s in slopes]).norm() if slopes else torch.tensor(0.0)


def _shrink(slopes, factor):
    for s in slopes:
        s.mul_(factor)


def _there(parameters) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


@clip.mistake("""You clipped each gradient by itself. Then large ones shrink and small ones don't, and the direction
    of the step changes. One length for all of them together, one factor for all.""")
def each_alone(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes)
    for s in slopes:
        s.mul_((max_norm / (s.norm() + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""You cut off single numbers at -max_norm and max_norm (clamp). That changes the direction. Multiply
    all gradients by one factor.""")
def numbers_cut_off(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes)
    for s in slopes:
        s.clamp_(-max_norm, max_norm)
    return norm


@clip.mistake("""You also make short gradients longer. Where the length is below max_norm nothing is to be done: a
    factor of 1 at most.""")
def always_max_norm(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes)
    _shrink(slopes, max_norm / (norm + 1e-6))
    return norm


@clip.mistake("""You also make short gradients longer, and where all are 0 you divide by 0. Where the length is
    below max_norm nothing is to be done: a factor of 1 at most.""")
def always_max_norm_unguarded(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes)
    _shrink(slopes, max_norm / norm)
    return norm


@clip.mistake("""You added up the lengths of the gradients. The length of all together is the root of the sum of
    *squares*: 5 and 12 make 13, not 17.""")
def sum_of_lengths(parameters, max_norm):
    slopes = _there(parameters)
    norm = sum((s.norm() for s in slopes), torch.tensor(0.0))
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""You forgot the root: the sum of squares is 169, the length is 13.""")
def no_root(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes).square()
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake(
    """You took the largest single number for the length. The length is the root of the sum of all
    squares."""
)
def largest_number(parameters, max_norm):
    slopes = _there(parameters)
    norm = max((s.abs().max() for s in slopes), default=torch.tensor(0.0))
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""You took the length of the longest gradient. The length of all together is the root of the sum of
    the squares of all numbers.""")
def longest_gradient(parameters, max_norm):
    slopes = _there(parameters)
    norm = max((s.norm() for s in slopes), default=torch.tensor(0.0))
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""You gave back the length after clipping. Asked for: the one before. It belongs in the log; a run
    that gets into trouble shows there first.""")
def length_afterwards(parameters, max_norm):
    slopes = _there(parameters)
    _shrink(slopes, (max_norm / (_length(slopes) + 1e-6)).clamp(max=1.0))
    return _length(slopes)


@clip.mistake("""`parameters` may be a generator, as `model.parameters()` is, and you went through it twice: the
    second time it is empty, and the gradients stay as long as they were. Make a list first.""")
def gone_through_twice(parameters, max_norm):
    norm = _length(_there(parameters))
    _shrink(_there(parameters), (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""The gradients are as long as before, in a list too. `g = g * factor` makes a new tensor and gives it
    the same name; p.grad stays as it was. Change it in place: `g.mul_(factor)`.""")
def shrunk_aside(parameters, max_norm):
    return _length(_there(parameters))


@clip.mistake("""You multiplied the weights. What is to be shrunk is their gradients, p.grad.""")
def weights_shrunk(parameters, max_norm):
    weights = list(parameters)
    norm = _length(_there(weights))
    _shrink([w.data for w in weights], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""Your factor is upside down: length / max_norm. It must be max_norm / length, less than 1 where
    there is something to clip.""")
def upside_down(parameters, max_norm):
    slopes = _there(parameters)
    norm = _length(slopes)
    if norm > max_norm:
        _shrink(slopes, norm / max_norm)
    return norm


@clip.mistake("""A weight without a gradient has `p.grad` None. Leave such weights out.""")
def none_forgotten(parameters, max_norm):
    slopes = [p.grad for p in parameters]
    norm = torch.stack([s.norm() for s in slopes]).norm()
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""Without any gradients there is nothing to stack. The length is then 0: `torch.tensor(0.0)`.""")
def nothing_to_stack(parameters, max_norm):
    slopes = _there(parameters)
    norm = torch.stack([s.norm() for s in slopes]).norm()
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.mistake("""You divided the lengths' mean square by their number before you took the root (or took a mean).
    Nothing is averaged: the root of the sum of all squares.""")
def mean_of_squares(parameters, max_norm):
    slopes = _there(parameters)
    norm = torch.cat([s.flatten() for s in slopes]).square().mean().sqrt() if slopes else torch.tensor(0.0)
    _shrink(slopes, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@clip.alternative("torch's own")
def clip_by_torch(parameters, max_norm):
    return nn.utils.clip_grad_norm_(parameters, max_norm)


@clip.alternative("all numbers in one row")
def clip_in_a_row(parameters, max_norm):
    parameters = [p for p in parameters if p.grad is not None]
    row = torch.cat([torch.zeros(1), *(p.grad.flatten() for p in parameters)])
    norm = (row @ row).sqrt()
    if norm > max_norm:
        for p in parameters:
            p.grad = p.grad * (max_norm / norm)
    return norm


@clip.alternative("a plain sum of squares")
def clip_with_sums(parameters, max_norm):
    slopes = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum((s.double() ** 2).sum().item() for s in slopes))
    for s in slopes:
        s *= min(1.0, max_norm / norm) if norm else 1.0
    return torch.tensor(norm)


# 10.7 accumulate ----------------------------------------------------------------------------------------------------


def accumulate(model: nn.Module, pieces: list[tuple[Tensor, Tensor]]) -> float:
    """Add up, in the weights' .grad, the slope of the mean loss of a batch that comes in pieces; give that loss.

    pieces: (tokens, targets) of shape (B, T), other sizes in each; targets of -100 do not count. The loss is the mean
    over all targets of all pieces that count, in nats. Each piece is gone through, forward and back, before the next.
    """
    n_targets = [int((targets != -100).sum()) for _, targets in pieces]
    total = 0.0
    for (tokens, targets), n in zip(pieces, n_targets, strict=True):
        loss = next_token_loss(model(tokens), targets) * n / sum(n_targets)
        loss.backward()
        total += loss.item()
    return total


pieces_of_a_batch = Exercise(
    "10.7",
    accumulate,
    hints=(
        "`next_token_loss` gives the mean over the piece's own targets. How large is the piece's share in the mean "
        "over all targets?",
        "Count the targets of all pieces first: `int((targets != -100).sum())` for each. The share of a piece is its "
        "count divided by the sum of all counts.",
        "In the loop: `loss = next_token_loss(model(tokens), targets) * n / total_n`, `loss.backward()`, and add "
        "`loss.item()` to a sum that you give back.",
    ),
)


class Table(nn.Module):
    """The bigram table of chapter 01 as a model, which remembers when it looked forward and when slopes came back."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.events: list[str] = []

    def forward(self, tokens):
        self.events.append("forward")
        scores = self.rows[tokens]
        scores.register_hook(lambda slope: self.events.append("backward"))
        return scores


def slopes_after(accumulate, rows: Tensor, pieces: list) -> dict:
    """Let it go through the pieces with a bigram table of these rows. -> the loss, the table's slopes, what happened"""
    model = Table(rows)
    loss = accumulate(model, pieces)
    return {"loss": loss, "slopes": model.rows.grad, "events": model.events}


def _whole_batch(rows: Tensor, pieces) -> dict:
    leaf = rows.clone().requires_grad_()
    tokens = torch.cat([tokens.flatten() for tokens, _ in pieces])
    targets = torch.cat([targets.flatten() for _, targets in pieces])
    loss = F.cross_entropy(leaf[tokens], targets)
    loss.backward()
    return {"loss": loss.item(), "slopes": leaf.grad}


def _piece(*shape) -> tuple[Tensor, Tensor]:
    return integers(0, 5, *shape), integers(0, 5, *shape)


def _accumulated(accumulate, pieces):
    rows = 2 * randn(5, 5)
    found = driven(accumulate, slopes_after, rows, pieces)
    same({"loss": found["loss"], "slopes": found["slopes"]}, _whole_batch(rows, pieces))


@pieces_of_a_batch.check("two pieces of the same size")
def pieces_alike(accumulate):
    _accumulated(accumulate, [_piece(2, 3), _piece(2, 3)])


@pieces_of_a_batch.check("pieces of 6, 1 and 4 tokens")
def pieces_uneven(accumulate):
    _accumulated(accumulate, [_piece(2, 3), _piece(1, 1), _piece(1, 4)])


@pieces_of_a_batch.check("two pieces with padding, more in one than in the other")
def pieces_padded(accumulate):
    pieces = [_piece(2, 4), _piece(2, 4), _piece(1, 2)]
    pieces[0][1][0, 1:] = -100
    pieces[1][1][1, 3:] = -100
    _accumulated(accumulate, pieces)


@pieces_of_a_batch.check("one piece only")
def pieces_one(accumulate):
    _accumulated(accumulate, [_piece(3, 2)])


@pieces_of_a_batch.check("each piece goes forward and back before the next one is looked at")
def pieces_in_turn(accumulate):
    found = driven(accumulate, slopes_after, randn(5, 5), [_piece(2, 2), _piece(1, 3)])
    same(found["events"], ["forward", "backward"] * 2)


def _count(targets) -> int:
    return int((targets != -100).sum())


def _each_piece(model, pieces, share):
    """Go through the pieces, each with the share that is asked for. -> the sum of the shares' losses"""
    total = 0.0
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets) * share(targets)
        loss.backward()
        total += loss.item()
    return total


@pieces_of_a_batch.mistake("""You divided each piece's mean by the number of pieces. A piece with one token then
    counts as much as one with six. Each piece has the share of its targets: n / all.""")
def pieces_count_alike(model, pieces):
    return _each_piece(model, pieces, lambda targets: 1 / len(pieces))


@pieces_of_a_batch.mistake("""You added up the pieces' means and divided by nothing. With twice as many pieces the
    slopes are twice as long: give each piece its share, n / all.""")
def means_added(model, pieces):
    return _each_piece(model, pieces, lambda targets: 1)


@pieces_of_a_batch.mistake("""You added up all nats and divided by nothing. Asked for is the mean: divide by the
    number of all targets.""")
def nats_added(model, pieces):
    return _each_piece(model, pieces, lambda targets: _count(targets))


@pieces_of_a_batch.mistake("""You weighted each piece by all its places. Padding (-100) is no target and does not
    count: `(targets != -100).sum()`.""")
def padding_counted(model, pieces):
    return _each_piece(model, pieces, lambda targets: targets.numel() / sum(y.numel() for _, y in pieces))


@pieces_of_a_batch.mistake("""You weighted each piece by its number of texts. Texts have different lengths; what
    counts is targets: `(targets != -100).sum()`.""")
def texts_counted(model, pieces):
    return _each_piece(model, pieces, lambda targets: len(targets) / sum(len(y) for _, y in pieces))


@pieces_of_a_batch.mistake("""You cleared the slopes at every piece, so only the last one is left. Adding up is the
    idea: clear them once, before the first piece (here that is done).""")
def cleared_each_time(model, pieces):
    n = sum(_count(targets) for _, targets in pieces)
    total = 0.0
    for tokens, targets in pieces:
        model.zero_grad()
        loss = next_token_loss(model(tokens), targets) * _count(targets) / n
        loss.backward()
        total += loss.item()
    return total


@pieces_of_a_batch.mistake("""You gave back the loss of the last piece. Asked for: the mean over all targets of all
    pieces.""")
def last_loss(model, pieces):
    n = sum(_count(targets) for _, targets in pieces)
    loss = torch.tensor(0.0)
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets)
        (loss * _count(targets) / n).backward()
    return loss.item()


@pieces_of_a_batch.mistake("""The slopes are right. You gave back the last piece's share of the loss; add up those of
    all pieces.""")
def last_share(model, pieces):
    n, loss = sum(_count(targets) for _, targets in pieces), torch.tensor(0.0)
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets) * _count(targets) / n
        loss.backward()
    return loss.item()


@pieces_of_a_batch.mistake("""The loss that you give back is right, and the slopes are too long: you called backward()
    on each piece's own mean. Multiply the loss by its share first.""")
def only_the_loss_weighted(model, pieces):
    n, total = sum(_count(targets) for _, targets in pieces), 0.0
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets)
        loss.backward()
        total += loss.item() * _count(targets) / n
    return total


@pieces_of_a_batch.mistake("""The slopes are right, and the loss that you give back is a mean of the pieces' means.
    Weight it as you weighted the slopes.""")
def mean_of_losses(model, pieces):
    n, losses = sum(_count(targets) for _, targets in pieces), []
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets)
        (loss * _count(targets) / n).backward()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@pieces_of_a_batch.mistake("""The numbers are right, but you went back only once, at the end. Until then everything
    that all pieces computed on their way stays in memory, and to save that memory is what the pieces are for:
    backward() in the loop.""")
def back_at_the_end(model, pieces):
    n = sum(_count(targets) for _, targets in pieces)
    loss = sum(next_token_loss(model(x), y) * _count(y) / n for x, y in pieces)
    loss.backward()
    return loss.item()


@pieces_of_a_batch.mistake("""You never called backward(): there are no slopes.""")
def never_back(model, pieces):
    n = sum(_count(targets) for _, targets in pieces)
    return sum(next_token_loss(model(x), y).item() * _count(y) / n for x, y in pieces)


@pieces_of_a_batch.mistake("""You gave back a tensor, and unless it was detached it drags the whole computation
    along. Asked for is a number: `.item()` makes one of it.""")
def tensor_back(model, pieces):
    n, total = sum(_count(targets) for _, targets in pieces), torch.tensor(0.0)
    for tokens, targets in pieces:
        loss = next_token_loss(model(tokens), targets) * _count(targets) / n
        loss.backward()
        total = total + loss
    return total


@pieces_of_a_batch.alternative("sums of nats, divided by all targets")
def accumulate_sums(model, pieces):
    n = sum(_count(targets) for _, targets in pieces)
    nats = 0.0
    for tokens, targets in pieces:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")
        (loss / n).backward()
        nats += loss.item()
    return nats / n


@pieces_of_a_batch.alternative("means added up, the slopes put right at the end")
def accumulate_then_divide(model, pieces):
    counts, nats = [], 0.0
    for tokens, targets in pieces:
        counts.append(int(targets.ne(-100).sum()))
        loss = next_token_loss(model(tokens), targets) * counts[-1]
        loss.backward()
        nats += loss.item()
    for p in model.parameters():
        p.grad /= sum(counts)
    return nats / sum(counts)


@pieces_of_a_batch.alternative("with torch.autograd.grad")
def accumulate_with_grad(model, pieces):
    weights, nats, n = list(model.parameters()), 0.0, sum(_count(y) for _, y in pieces)
    for tokens, targets in pieces:
        loss = -model(tokens).log_softmax(-1)[targets != -100, targets[targets != -100]].sum() / n
        for p, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad = slope if p.grad is None else p.grad + slope
        nats += loss.item()
    return nats


# 10.8 train_steps ---------------------------------------------------------------------------------------------------


def train_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]], max_norm: float
) -> list[float]:
    """Make one training step per batch, its gradient clipped to max_norm; give the losses, in nats.

    The loss of a step is that of its batch before the step. Slopes that were there before do not count.
    """
    losses = []
    for tokens, targets in batches:
        loss = next_token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


steps = Exercise(
    "10.8",
    train_steps,
    hints=(
        "For each batch, five things in order: the loss; clear the old slopes; the new slopes; clip; step.",
        "`optimizer.zero_grad()`, `loss.backward()`, `clip_gradients(model.parameters(), max_norm)`, "
        "`optimizer.step()`.",
        "The list holds numbers: `losses.append(loss.item())`. `loss = next_token_loss(model(tokens), targets)` stands "
        "first.",
    ),
)


def table_after_steps(train_steps, rows: Tensor, batches: list, max_norm: float, old: bool = False) -> dict:
    """Train a bigram table of these rows with plain gradient descent. old: there are slopes from before.

    -> the losses, and the table afterwards
    """
    model = Table(rows)
    if old:
        model.rows.grad = torch.ones_like(model.rows)
    losses = train_steps(model, torch.optim.SGD(model.parameters(), lr=0.5), batches, max_norm)
    return {"losses": losses, "table": model.rows.detach()}


def _right_steps(rows: Tensor, batches: list, max_norm: float) -> dict:
    """Worked out with the formula of 10.1."""
    rows, losses = rows.clone(), []
    for tokens, targets in batches:
        logits = rows[tokens]
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item())
        slope = torch.zeros_like(rows).index_add(
            0, tokens.flatten(), _slope_by_torch(logits, targets).flatten(0, 1)
        )  # fmt: skip
        rows = rows - 0.5 * slope * min(1.0, max_norm / (slope.norm().item() + 1e-6))
    return {"losses": losses, "table": rows}


def _steps_are_right(train_steps, n: int, max_norm: float, old: bool = False):
    rows, batches = 2 * randn(5, 5), [_piece(2, 4) for _ in range(n)]
    same(driven(train_steps, table_after_steps, rows, batches, max_norm, old), _right_steps(rows, batches, max_norm))


@steps.check("three batches, nothing to clip")
def steps_plain(train_steps):
    _steps_are_right(train_steps, 3, 100.0)


@steps.check("three batches, every gradient longer than max_norm")
def steps_clipped(train_steps):
    _steps_are_right(train_steps, 3, 0.05)


@steps.check("one batch")
def steps_one(train_steps):
    _steps_are_right(train_steps, 1, 100.0)


@steps.check("slopes from before are still there, and do not count")
def steps_old_slopes(train_steps):
    _steps_are_right(train_steps, 2, 0.1, old=True)


@steps.mistake("""There is no zero_grad(). backward() adds to the slopes that are there, so each step goes along the
    sum of all slopes so far. The loss still falls, for a while.""")
def never_cleared(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        loss = next_token_loss(model(tokens), targets)
        loss.backward()
        clip_gradients(model.parameters(), max_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


@steps.mistake(
    """You cleared the slopes once, before the first batch. backward() adds, so clear them at every
    batch."""
)
def cleared_once(model, optimizer, batches, max_norm):
    optimizer.zero_grad()
    return never_cleared(model, optimizer, batches, max_norm)


@steps.mistake("""You cleared the slopes after each step only. Those that were there before the first batch go into
    the first step: clear before backward().""")
def cleared_afterwards(model, optimizer, batches, max_norm):
    losses = []
    for batch in batches:
        losses += never_cleared(model, optimizer, [batch], max_norm)
        optimizer.zero_grad()
    return losses


@steps.mistake("""Your steps were made with slopes longer than max_norm. Clip to max_norm between backward() and
    step(): before backward() there is nothing to clip, and after step() it is too late.""")
def clipped_too_late(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        loss = next_token_loss(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_gradients(model.parameters(), max_norm)
        losses.append(loss.item())
    return losses


@steps.mistake("""The weights never moved. Either there is no optimizer.step(), or the slopes are cleared between
    backward() and step(), which then finds nothing.""")
def cleared_too_late(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        loss = next_token_loss(model(tokens), targets)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return losses


@steps.mistake("""You stepped before backward(): each step goes along the slopes of the batch before.""")
def stepped_too_early(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        loss = next_token_loss(model(tokens), targets)
        optimizer.step()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), max_norm)
        losses.append(loss.item())
    return losses


@steps.mistake("""You added up the losses of all batches and made one step. That is a larger batch; asked for is a
    step per batch, each from where the one before has led.""")
def one_step(model, optimizer, batches, max_norm):
    losses = [next_token_loss(model(tokens), targets) for tokens, targets in batches]
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    clip_gradients(model.parameters(), max_norm)
    optimizer.step()
    return [loss.item() for loss in losses]


@steps.mistake("""Your losses were measured after the step. On the batch that it has just learned from a model looks
    better than it is, and it costs a forward pass more.""")
def losses_afterwards(model, optimizer, batches, max_norm):
    losses = []
    for batch in batches:
        never_cleared(model, optimizer, [batch], max_norm) if optimizer.zero_grad() is None else None
        losses.append(next_token_loss(model(batch[0]), batch[1]).item())
    return losses


@steps.mistake("""Your list holds tensors. Each of them drags the whole computation of its step along, and after
    some thousand steps the memory is full: `.item()` makes a number.""")
def tensors_kept(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        losses.append(next_token_loss(model(tokens), targets))
        optimizer.zero_grad()
        losses[-1].backward()
        clip_gradients(model.parameters(), max_norm)
        optimizer.step()
    return losses


@steps.mistake("""You gave back only the last loss. Asked for: a list, one for each batch.""")
def one_loss(model, optimizer, batches, max_norm):
    return train_steps(model, optimizer, batches, max_norm)[-1]


@steps.alternative("cleared by hand, clipped by torch")
def steps_by_hand(model, optimizer, batches, max_norm):
    losses = []
    for tokens, targets in batches:
        for p in model.parameters():
            p.grad = None
        loss = F.cross_entropy(model(tokens).transpose(1, 2), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        losses.append(float(loss))
    return losses


@steps.alternative("cleared before the loop and after each step")
def steps_cleared_behind(model, optimizer, batches, max_norm):
    optimizer.zero_grad(set_to_none=False)
    losses = []
    for batch in batches:
        losses += never_cleared(model, optimizer, [batch], max_norm)
        optimizer.zero_grad(set_to_none=False)
    return losses


@steps.alternative("slopes from torch.autograd.grad")
def steps_without_backward(model, optimizer, batches, max_norm):
    def step(tokens, targets):
        weights = list(model.parameters())
        loss = next_token_loss(model(tokens), targets)
        for p, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p.grad = slope
        clip_gradients(weights, max_norm)
        optimizer.step()
        return loss.item()

    return [step(tokens, targets) for tokens, targets in batches]


# 10.9 Snapshot ------------------------------------------------------------------------------------------------------


class Snapshot:
    """Everything that a training run needs to go on as if nothing had happened: weights, optimizer, step.

    What is done to model and optimizer later does not change it, and it can be restored as often as one likes.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int):
        state = {"weights": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        self.state = copy.deepcopy(state)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put model and optimizer into the state of then; give the step."""
        state = copy.deepcopy(self.state)
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        return state["step"]


snapshot = Exercise(
    "10.9",
    Snapshot,
    given=(),
    hints=(
        "`model.state_dict()` and `optimizer.state_dict()` are dicts of tensors, and both have a partner, "
        "`load_state_dict`.",
        "The tensors in such a dict are the model's own, which the next step changes. `copy.deepcopy(...)` copies a "
        "dict with all that is in it.",
        "Copy when you take the snapshot, and copy again when you restore: the optimizer goes on with the very tensors "
        "that it is given.",
    ),
)


def _new_run(rows: Tensor, lr: float = 0.1):
    model = Table(rows)
    return model, AdamW(model.parameters(), lr=lr)


def went_on(Snapshot, rows: Tensor, batches: list, at: int, others: Tensor | None = None, times: int = 1) -> dict:
    """Train a table, take a snapshot after step `at`, train to the end, restore and train to the end again.

    others: restore into a new model with these rows, and a new optimizer. times: how often to restore.
    -> the step that restore gave, the table right after restoring, and the table at the end
    """
    model, optimizer = _new_run(rows)
    train_steps(model, optimizer, batches[:at], 100.0)
    saved = Snapshot(model, optimizer, at)
    train_steps(model, optimizer, batches[at:], 100.0)
    found = {}
    for _ in range(times):
        if others is not None:
            model, optimizer = _new_run(others, lr=0.7)
        step = saved.restore(model, optimizer)
        found = {"step": step, "restored": model.rows.detach().clone()}
        train_steps(model, optimizer, batches[at:], 100.0)
        found["in the end"] = model.rows.detach().clone()
    return found


def _goes_on(Snapshot, at: int, n: int = 5, **options):
    rows, batches = 2 * randn(5, 5), [_piece(2, 4) for _ in range(n)]
    model, optimizer = _new_run(rows)
    train_steps(model, optimizer, batches[:at], 100.0)
    restored = model.rows.detach().clone()
    train_steps(model, optimizer, batches[at:], 100.0)
    expected = {"step": at, "restored": restored, "in the end": model.rows.detach()}
    same(driven(Snapshot, went_on, rows, batches, at, **options), expected, atol=1e-6)


@snapshot.check("five steps, a snapshot after the second, back to it and on to the end")
def snapshot_same_objects(Snapshot):
    _goes_on(Snapshot, 2)


@snapshot.check("restored into a new model and a new optimizer, which has another learning rate")
def snapshot_new_objects(Snapshot):
    _goes_on(Snapshot, 3, others=randn(5, 5))


@snapshot.check("the same snapshot restored twice, with steps in between")
def snapshot_twice(Snapshot):
    _goes_on(Snapshot, 2, others=randn(5, 5), times=2)


@snapshot.check("taken before the first step, when the optimizer knows nothing yet")
def snapshot_at_the_start(Snapshot):
    _goes_on(Snapshot, 0, n=3)


class _Snap(Snapshot):
    """Snapshot again, in steps, each of which somebody can get wrong."""

    def __init__(self, model, optimizer, step):
        self.state = self.kept({"weights": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})

    def kept(self, state):
        return copy.deepcopy(state)

    def restore(self, model, optimizer):
        state = self.opened()
        model.load_state_dict(state["weights"])
        self.prepare(optimizer, state["optimizer"])
        return state["step"]

    def opened(self):
        return copy.deepcopy(self.state)

    def prepare(self, optimizer, state):
        optimizer.load_state_dict(state)


@snapshot.mistake("""What you kept are the model's own tensors, and every later step changes them: your snapshot
    shows the present, not the past. state_dict() copies nothing, and `dict(...)`, `.copy()` and `copy.copy` copy
    the dict without the tensors in it. `copy.deepcopy(...)`.""")
class NotCopied(_Snap):
    def kept(self, state):
        return state

    def opened(self):
        return self.state


@snapshot.mistake("""You copied the weights and not the optimizer's state. Its means m and v go on changing after
    the snapshot, and what you restore is half past and half present.""")
class OptimizerNotCopied(_Snap):
    def kept(self, state):
        return {**copy.deepcopy({k: v for k, v in state.items() if k != "optimizer"}), "optimizer": state["optimizer"]}

    def opened(self):
        return self.state


@snapshot.mistake("""You restored without copying. load_state_dict of an optimizer goes on with the very tensors
    that it gets, so the steps after restoring change your snapshot, and the second time it is no longer what it
    was.""")
class RestoredWithoutCopy(_Snap):
    def opened(self):
        return self.state


@snapshot.mistake("""You copied when you restored, and not when the snapshot was taken. By then the tensors had been
    trained on: your snapshot shows the present. Copy in `__init__`, and once more in `restore`.""")
class CopiedTooLate(_Snap):
    def kept(self, state):
        return state


@snapshot.mistake("""restore changes nothing. `model = ...` gives a name inside restore a new value; the model and
    the optimizer outside stay as they are. Put the state into them with `load_state_dict(...)`.""")
class NothingRestored(_Snap):
    def restore(self, model, optimizer):
        return self.state["step"]


@snapshot.mistake("""You forgot the optimizer. Its means start again at 0, or are those of a later step, and the run
    does not go on as it would have: a bump in the loss curve after every restart.""")
class WeightsOnly(_Snap):
    def prepare(self, optimizer, state):
        pass


@snapshot.mistake("""You restored the optimizer and not the weights.""")
class OptimizerOnly(_Snap):
    def restore(self, model, optimizer):
        optimizer.load_state_dict(self.opened()["optimizer"])
        return self.state["step"]


@snapshot.mistake("""restore gives back nothing. It must give the step: without it the schedule and the data start
    again from the beginning.""")
class NoStep(_Snap):
    def restore(self, model, optimizer):
        super().restore(model, optimizer)


@snapshot.mistake("""restore gives 0, whatever the step was. Keep the step: schedule and data depend on it.""")
class StepZero(_Snap):
    def restore(self, model, optimizer):
        return 0 * super().restore(model, optimizer)


@snapshot.mistake("""restore gives the step after. The snapshot was taken when `step` steps were done, and the next
    one to do has that number: steps count from 0. Yours skips a batch.""")
class StepAfter(_Snap):
    def restore(self, model, optimizer):
        return 1 + super().restore(model, optimizer)


@snapshot.mistake("""You kept the means of the optimizer and not its settings. A new optimizer then goes on with a
    learning rate of its own. Take the whole state_dict().""")
class WithoutSettings(_Snap):
    def prepare(self, optimizer, state):
        optimizer.load_state_dict({**state, "param_groups": optimizer.state_dict()["param_groups"]})


@snapshot.mistake("""You kept the objects themselves. They are trained on, and there is no past in them. Keep copies
    of their state_dict().""")
class ObjectsKept(Snapshot):
    def __init__(self, model, optimizer, step):
        self.model, self.optimizer, self.step = model, optimizer, step

    def restore(self, model, optimizer):
        model.load_state_dict(self.model.state_dict())
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return self.step


@snapshot.alternative("bytes, as in a file")
class AsBytes:
    def __init__(self, model, optimizer, step):
        import io

        buffer = io.BytesIO()
        torch.save([model.state_dict(), optimizer.state_dict(), step], buffer)
        self.content = buffer.getvalue()

    def restore(self, model, optimizer):
        import io

        weights, state, step = torch.load(io.BytesIO(self.content), weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        return step


@snapshot.alternative("tensors cloned one by one")
class ClonedOneByOne:
    def __init__(self, model, optimizer, step):
        self.weights = [p.detach().clone() for p in model.parameters()]
        self.means = [{k: self.copy(x) for k, x in optimizer.state[p].items()} for p in model.parameters()]
        self.groups = [{k: x for k, x in group.items() if k != "params"} for group in optimizer.param_groups]
        self.step = step

    @staticmethod
    def copy(x):
        return x.clone() if isinstance(x, Tensor) else x

    def restore(self, model, optimizer):
        for p, weight, means in zip(model.parameters(), self.weights, self.means, strict=True):
            p.data = weight.clone()
            optimizer.state[p] = {k: self.copy(x) for k, x in means.items()}
        for group, saved in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(saved)
        return self.step


# 10.10 orthogonalize ------------------------------------------------------------------------------------------------


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of a matrix near 1, by Newton and Schulz's iteration as Muon uses it.

    Shape: (M, N) -> (M, N). First X = matrix / (length + 1e-7), the length being the root of the sum of all squares.
    Then, `steps` times: A = X Xᵀ; X = 3.4445 X + (-4.7750 A + 2.0315 A A) X.
    Source: Jordan et al. 2024 (a public post on Muon).
    """
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


newton = Exercise(
    "10.10",
    orthogonalize,
    hints=(
        "`matrix.norm()` is the length. `X.T` is X with rows and columns swapped, `@` multiplies matrices.",
        "In the loop, two lines: `A = X @ X.T`, then the new X. Mind the brackets: the sum of both terms with A is "
        "multiplied by X.",
        "`X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X`, `steps` times; give X back.",
    ),
)


def _by_singular_values(matrix: Tensor, steps: int) -> Tensor:
    """The same, worked out on the singular values alone, in float64."""
    U, s, Vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / (matrix.double().norm() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return ((U * s) @ Vt).to(matrix.dtype)


@newton.check("3 and 4 on the diagonal, one step")
def newton_by_hand(orthogonalize):
    s = torch.tensor([0.6, 0.8])
    expected = torch.diag(3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5)
    same(orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 1), expected, atol=1e-5)


@newton.check("a wide matrix, five steps")
def newton_wide(orthogonalize):
    matrix = randn(3, 5)
    same(orthogonalize(matrix), _by_singular_values(matrix, 5), atol=1e-4)


@newton.check("a tall matrix of tiny numbers, three steps")
def newton_tall(orthogonalize):
    matrix = 1e-4 * randn(5, 2)
    same(orthogonalize(matrix, 3), _by_singular_values(matrix, 3), atol=1e-4)


@newton.check("no step at all: divided by its length, nothing else")
def newton_no_step(orthogonalize):
    matrix = randn(2, 3)
    same(orthogonalize(matrix, 0), matrix / matrix.norm())


@newton.check("a matrix of zeros stays one")
def newton_zeros(orthogonalize):
    same(orthogonalize(torch.zeros(2, 3)), torch.zeros(2, 3))


def _newton(X, steps, a=3.4445, b=-4.7750, c=2.0315):
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


@newton.mistake("""You did not divide by the length first. The iteration works for singular values of at most 1 or
    so; larger ones explode.""")
def not_shortened(matrix, steps=5):
    return _newton(matrix, steps)


@newton.mistake("""You divided by the sum of all squares. The length is its root.""")
def not_rooted(matrix, steps=5):
    return _newton(matrix / (matrix.square().sum() + 1e-7), steps)


@newton.mistake("""You divided by the largest number. A matrix can stretch by more than its largest number; the root
    of the sum of all squares is always enough.""")
def by_the_largest(matrix, steps=5):
    return _newton(matrix / (matrix.abs().max() + 1e-7), steps)


@newton.mistake("""You divided each row by its own length. One length for the whole matrix; rows of different
    lengths must keep their proportions.""")
def rows_shortened(matrix, steps=5):
    return _newton(matrix / (matrix.norm(dim=1, keepdim=True) + 1e-7), steps)


@newton.mistake("""A matrix of zeros became NaN, 0 divided by 0. Add 1e-7 to the length: an unused weight has slopes
    of 0 everywhere.""")
def no_eps(matrix, steps=5):
    return _newton(matrix / matrix.norm(), steps)


@newton.mistake("""You multiplied number by number (`*`) where matrices are multiplied (`@`).""")
def number_by_number(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X * X
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A * A) * X
    return X


@newton.mistake("""You computed A A with `*` (or `A ** 2`), number by number. It is a product of matrices: `A @
    A`.""")
def squared_number_by_number(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A**2) @ X
    return X


@newton.mistake("""You exchanged the second and the third factor: -4.7750 stands before A, 2.0315 before A A.""")
def factors_exchanged(matrix, steps=5):
    return _newton(matrix / (matrix.norm() + 1e-7), steps, b=2.0315, c=-4.7750)


@newton.mistake("""The sign of the second factor is lost: -4.7750, not 4.7750. It pulls down what is above 1.""")
def sign_lost(matrix, steps=5):
    return _newton(matrix / (matrix.norm() + 1e-7), steps, b=4.7750)


@newton.mistake("""You used the factors 1.5 and -0.5 of the classical iteration. It arrives at 1 exactly, and
    slowly: a singular value of 0.01 needs a dozen steps. Use the three numbers of the docstring.""")
def classical(matrix, steps=5):
    return _newton(matrix / (matrix.norm() + 1e-7), steps, 1.5, -0.5, 0.0)


@newton.mistake("""You did five steps, whatever `steps` says.""")
def always_five(matrix, steps=5):
    return _newton(matrix / (matrix.norm() + 1e-7), 5)


@newton.mistake("""You forgot to multiply by X at the end: (...) @ X. The term in brackets is made of A, which has
    another shape than X unless the matrix is square.""")
def not_times_x(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A)
    return X


@newton.mistake("""Only the last term is multiplied by X in your sum. Mind the brackets: (-4.7750 A + 2.0315 A A)
    X.""")
def brackets_lost(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + -4.7750 * A + 2.0315 * A @ A @ X
    return X


@newton.mistake("""You worked out A once, before the loop. X changes in every step, and A = X Xᵀ with it.""")
def same_product(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    A = X @ X.T
    for _ in range(steps):
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


@newton.mistake("""You made all singular values 1 exactly, with the SVD. Asked for is what five steps of the iteration
    give, which is only near 1 and much faster.""")
def exactly_one(matrix, steps=5):
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vt


@newton.mistake("""You multiplied Xᵀ X, and then X from the right. For X Xᵀ X take A = X Xᵀ and put it to the left
    of X. With a square matrix nobody would have told you.""")
def wrong_side(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        A = X.T @ X
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X


@newton.mistake("""You divided by the length again in every step. It is done once, before the loop.""")
def shortened_each_time(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        X = _newton(X / (X.norm() + 1e-7), 1)
    return X


@newton.alternative("from the other side: X (XᵀX)")
def from_the_other_side(matrix, steps=5):
    X = matrix / (matrix.norm() + 1e-7)
    for _ in range(steps):
        B = X.T @ X
        X = 3.4445 * X - 4.7750 * X @ B + 2.0315 * X @ B @ B
    return X


@newton.alternative("on the singular values themselves")
def on_singular_values(matrix, steps=5):
    return _by_singular_values(matrix, steps)


@newton.alternative("with einsum, the tall ones turned")
def turned(matrix, steps=5):
    tall = matrix.size(0) > matrix.size(1)
    X = matrix.T if tall else matrix
    X = X / (X.square().sum().sqrt() + 1e-7)
    for _ in range(steps):
        A = torch.einsum("ik,jk->ij", X, X)
        B = -4.7750 * A + 2.0315 * torch.einsum("ij,jk->ik", A, A)
        X = 3.4445 * X + torch.einsum("ij,jk->ik", B, X)
    return X.T if tall else X
