"""Exercises of chapter 05: the block of 2017, dead units, GELU, SiLU, SwiGLU, its width, parameters by part."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import feedforward
from minillama.config import PRESETS, Config
from minillama.course.checks import (
    gradients,
    integers,
    permutation,
    pick,
    randn,
    same,
    with_random_weights,
    with_weights,
)
from minillama.course.exercise import Exercise

# 05.1 ReLUFeedForward ------------------------------------------------------------------------------------------------

relu_block = Exercise(
    "05.1",
    feedforward.ReLUFeedForward,
    hints=(
        "Three steps, one after the other: widen with `self.up_proj`, cut off below zero, narrow with "
        "`self.down_proj`.",
        "`F.relu` cuts off. It stands between the two matrices and nowhere else: what comes out of `down_proj` may be "
        "negative.",
        "`self.down_proj(F.relu(...))`, and in place of the dots `self.up_proj(x)`. No `x +` in front: the block only "
        "says what is to be added.",
    ),
)


def _not_good(block):
    """The two units of the text: "not good" writes -2, "not bad" writes +2, both into channel 1."""
    return with_weights(
        block,
        {
            "up_proj.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
            "up_proj.bias": torch.tensor([-1.0, -1.0]),
            "down_proj.weight": torch.tensor([[0.0, 0.0], [-2.0, 2.0]]),
            "down_proj.bias": torch.zeros(2),
        },
    )


@relu_block.check("the two units of the text, for good, bad, not good and not bad")
def relu_on_paper(ReLUFeedForward):
    block = _not_good(ReLUFeedForward(2, 2))
    x = torch.tensor([[[0.0, 1], [0, -1], [1, 1], [1, -1]]])
    same(block(x), torch.tensor([[[0.0, 0], [0, 0], [0, -2], [0, 2]]]))


@relu_block.check("random tokens and random weights")
def relu_random(ReLUFeedForward):
    block = with_random_weights(ReLUFeedForward(4, 7))
    x = randn(2, 3, 4)
    up, down = block.up_proj, block.down_proj
    same(block(x), F.linear(F.linear(x, up.weight, up.bias).clamp(min=0), down.weight, down.bias), atol=1e-4)


@relu_block.check("without biases, a token of zeros among others")
def relu_no_bias(ReLUFeedForward):
    block = with_random_weights(ReLUFeedForward(5, 6, bias=False))
    x = randn(2, 3, 5)
    x[0, 1] = 0
    same(block(x), (x @ block.up_proj.weight.mT).clamp(min=0) @ block.down_proj.weight.mT, atol=1e-4)


@relu_block.check("slopes that come back through units that are on, and through no others")
def relu_slopes(ReLUFeedForward):
    block = with_random_weights(ReLUFeedForward(4, 7))
    x = randn(2, 3, 4)
    found = gradients(block, x)
    leaf = x.clone().requires_grad_()
    up, down = (torch.nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((4, 7), (7, 4)))
    up.weight.data, up.bias.data = block.up_proj.weight, block.up_proj.bias
    down.weight.data, down.bias.data = block.down_proj.weight, block.down_proj.bias
    (down(F.relu(up(leaf))) * found["out_gradient"]).sum().backward()
    same(found["inputs"][0], leaf.grad, atol=1e-4)


@relu_block.mistake("""You put a second ReLU around the outside. Then the block can add to the stream and never take
    away: "not good" stays good. ReLU stands between the two matrices, and only there.""")
class SecondReLU(feedforward.ReLUFeedForward):
    def forward(self, x):
        return F.relu(self.down_proj(F.relu(self.up_proj(x))))


@relu_block.mistake("""You left out the ReLU. Two matrices one after the other are one matrix, however wide it is in the
    middle: cut off below zero between them.""")
class NoReLU(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(self.up_proj(x))


@relu_block.mistake("""You put the ReLU behind the second matrix. Between the two nothing is cut off, so together they
    are one matrix, and what comes out can't be negative. It belongs in the middle: down(relu(up(x))).""")
class ReLUAtTheEnd(feedforward.ReLUFeedForward):
    def forward(self, x):
        return F.relu(self.down_proj(self.up_proj(x)))


@relu_block.mistake("""You cut off x itself, before the first matrix. That throws away whatever a token says with a
    negative number. First widen, then cut off.""")
class ReLUOnTheInput(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(self.up_proj(F.relu(x)))


@relu_block.mistake("""You cut off x itself as well, before the first matrix. ReLU stands between the two matrices, and
    only there: a token may say things with negative numbers.""")
class ReLUOnTheInputToo(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(F.relu(self.up_proj(F.relu(x))))


@relu_block.mistake("""You added x. The block says only what is to be added; the addition is done outside, by the layer
    that the block is part of. With yours x would be counted twice.""")
class AddsItself(feedforward.ReLUFeedForward):
    def forward(self, x):
        return x + self.down_proj(F.relu(self.up_proj(x)))


@relu_block.mistake("""You took the absolute value. A unit that is below zero must say nothing (0); yours speaks up as
    loudly as one above zero.""")
class AbsoluteValue(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(self.up_proj(x).abs())


@relu_block.mistake("""Your units let a little through below zero (a "leaky" ReLU). The one of 2017 lets nothing
    through: max(0, z).""")
class Leaky(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(F.leaky_relu(self.up_proj(x)))


@relu_block.mistake("""You used GELU. GPT-2 does; the block asked for here is older, and cuts off sharply: F.relu.""")
class WithGELU(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(F.gelu(self.up_proj(x)))


@relu_block.mistake("""You turned units into 0 and 1: on or off. A unit that is on hands on its value, max(0, z);
    besides, a step has slope 0 everywhere, and nothing could be learned through it.""")
class StepsOnly(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj((self.up_proj(x) > 0).to(x.dtype))


@relu_block.mistake("""You kept what is below zero and cut off the rest. max(0, z), not min(0, z).""")
class WrongSide(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(self.up_proj(x).clamp(max=0))


@relu_block.mistake("""You turned the values of the units into shares that add up to 1 (softmax). That is what attention
    does with tokens. Here every unit decides by itself: max(0, z).""")
class SoftmaxOverUnits(feedforward.ReLUFeedForward):
    def forward(self, x):
        return self.down_proj(self.up_proj(x).softmax(dim=-1))


@relu_block.mistake("""You left out the biases: call the two layers, self.up_proj(...) and self.down_proj(...), which
    know their own. Without a bias a unit can't say "only above 1".""")
class NoBiases(feedforward.ReLUFeedForward):
    def forward(self, x):
        return F.relu(x @ self.up_proj.weight.mT) @ self.down_proj.weight.mT


@relu_block.alternative("token by token and unit by unit, in loops")
class UnitByUnit(feedforward.ReLUFeedForward):
    def forward(self, x):
        out = []
        for token in x.flatten(0, 1):
            total = torch.zeros(x.size(-1)) if self.down_proj.bias is None else self.down_proj.bias
            for j in range(self.up_proj.out_features):
                z = self.up_proj.weight[j] @ token
                if self.up_proj.bias is not None:
                    z = z + self.up_proj.bias[j]
                if z > 0:
                    total = total + z * self.down_proj.weight[:, j]
            out.append(total)
        return torch.stack(out).view(x.shape)


@relu_block.alternative("einsum and maximum")
class WithEinsum(feedforward.ReLUFeedForward):
    def forward(self, x):
        z = torch.einsum("btc,fc->btf", x, self.up_proj.weight)
        z = z if self.up_proj.bias is None else z + self.up_proj.bias
        out = torch.einsum("btf,cf->btc", torch.maximum(z, torch.zeros(())), self.down_proj.weight)
        return out if self.down_proj.bias is None else out + self.down_proj.bias


@relu_block.alternative("max(0, z) as (z + |z|) / 2")
class HalfOfTheSum(feedforward.ReLUFeedForward):
    def forward(self, x):
        z = self.up_proj(x)
        return self.down_proj((z + z.abs()) / 2)


# 05.2 count_dead -----------------------------------------------------------------------------------------------------


def count_dead(z: Tensor) -> int:
    """Count the units of a ReLU layer that not a single token switches on. (B, T, F) -> a whole number

    z: the values of F units for B texts of T tokens, before ReLU. A unit is on where its value is above 0; at 0 and
    below it is off.
    """
    return int((z <= 0).all(dim=1).all(dim=0).sum())


dead = Exercise(
    "05.2",
    count_dead,
    hints=(
        "First decide for each unit and each token whether the unit is off there: a table of True and False of the "
        "shape (B, T, F). `z <= 0` is that table.",
        'A unit is dead if it is off for all tokens of all texts. `.all(dim=0)` asks "all?" along the texts; '
        "`z.flatten(0, 1)` makes one long axis of texts and tokens.",
        "`(z <= 0).flatten(0, 1).all(dim=0)` has the shape (F,). `.sum().item()` counts the True ones and makes a "
        "Python number of it.",
    ),
)


def _units(B, T, n_dead, n_busy, n_rare):
    """Values of three kinds of units, mixed: never on; on half of the time; on for one single token."""
    busy = randn(B, T, n_busy)
    busy[0, 0], busy[-1, -1] = 1.0, -1.0
    never, rare = -randn(B, T, n_dead).abs() - 0.1, -randn(B, T, n_rare).abs() - 0.1
    for j in range(n_rare):
        rare[int(integers(0, B)), int(integers(0, T - 1)), j] = 0.3
    return torch.cat([never, busy, rare], dim=-1)[..., permutation(n_dead + n_busy + n_rare)]


@dead.check("one text of two tokens, three units: one dead, one always on, one now and then")
def dead_on_paper(count_dead):
    same(count_dead(torch.tensor([[[-1.0, 2.0, -3.0], [-0.5, 1.0, 4.0]]])), 1)


@dead.check("units that are on for a single token only: they are alive")
def dead_rare(count_dead):
    same(count_dead(_units(3, 5, 4, 6, 7)), 4)


@dead.check("units that are dead in one text and alive in another")
def dead_per_text(count_dead):
    z = _units(3, 4, 5, 2, 0)
    z[:, :, :7][1:] = -1.0  # only the first text has anything to say
    same(count_dead(z), 5)


@dead.check("values of exactly 0: a unit that never gets above it is off")
def dead_zero(count_dead):
    z = torch.cat([_units(2, 3, 3, 4, 2), torch.zeros(2, 3, 5)], dim=-1)
    z[1, 2, -1] = -1.0
    same(count_dead(z), 8)


@dead.check("units whose values cancel: their sum is below 0 or exactly 0, and they are alive")
def dead_sums(count_dead):
    z = _units(2, 3, 2, 3, 0)
    cancelling = torch.tensor([[2.0, -1, -1], [3.0, -2, -1]])[..., None].repeat(1, 1, 4)
    strongly_negative = torch.tensor([[1.0, -9, -9], [-9.0, -9, 1]])[..., None].repeat(1, 1, 6)
    same(count_dead(torch.cat([z, cancelling, strongly_negative], dim=-1)), 2)


@dead.check("nothing dead, and everything dead")
def dead_extremes(count_dead):
    same([count_dead(randn(2, 3, 5).abs() + 0.1), count_dead(-randn(2, 3, 5).abs() - 0.1)], [0, 5])


@dead.mistake("""You counted units that are off for at least one token. Nearly every unit is. Dead means off for all of
    them: `.all`, not `.any`.""")
def off_at_least_once(z):
    return int((z <= 0).flatten(0, 1).any(dim=0).sum())


@dead.mistake("""You counted tokens for which no unit is on. The question is about units: keep the last axis, and ask
    "all?" along texts and tokens.""")
def silent_tokens(z):
    return int((z <= 0).all(dim=-1).sum())


@dead.mistake(
    """You counted every single value that is off. Each unit counts once, and only if it is off for all
    tokens."""
)
def values_that_are_off(z):
    return int((z <= 0).sum())


@dead.mistake("""You asked in each text by itself and added up the answers. A unit that is silent in one text may be
    needed in the next: dead means silent in all texts.""")
def per_text_added_up(z):
    return int((z <= 0).all(dim=1).sum())


@dead.mistake("""You asked along the texts only (axis 0), and counted every place at which a unit is off in all texts.
    The tokens (axis 1) belong to the question as well: a unit counts once.""")
def per_place_added_up(z):
    return int((z <= 0).all(dim=0).sum())


@dead.mistake("""You asked twice, and the second time along the wrong axis. After `.all(dim=0)` the texts are gone and
    the shape is (T, F): the tokens are axis 0 now.""")
def units_for_tokens(z):
    return int((z <= 0).all(dim=0).all(dim=1).sum())


@dead.mistake("""You looked at the average (or the sum) of a unit's values. A unit that is far below zero most of the
    time and above it once is alive; ask whether any value is above 0.""")
def average_below_zero(z):
    return int((z.flatten(0, 1).mean(dim=0) <= 0).sum())


@dead.mistake("""You took 0 for on. ReLU gives 0 for 0, and its slope there is 0 in PyTorch: off is `z <= 0`.""")
def zero_is_on(z):
    return int((z < 0).flatten(0, 1).all(dim=0).sum())


@dead.mistake("""You looked for values that are exactly 0. z are the values before ReLU: a unit that is off has z <= 0,
    mostly far below.""")
def exactly_zero(z):
    return int((z == 0).flatten(0, 1).all(dim=0).sum())


@dead.mistake("""You counted the units that are alive.""")
def counted_the_living(z):
    return int((z > 0).flatten(0, 1).any(dim=0).sum())


@dead.mistake("""You looked at the last token of each text only. The unit may have been on before: take all tokens.""")
def last_token_only(z):
    return int((z[:, -1] <= 0).all(dim=0).sum())


@dead.mistake("""You looked at the first text only. Ask along both axes, the texts (0) and the tokens (1).""")
def first_text_only(z):
    return int((z[0] <= 0).all(dim=0).sum())


@dead.alternative("the largest value of each unit")
def by_the_largest(z):
    return (z.amax(dim=(0, 1)) <= 0).sum().item()


@dead.alternative("unit by unit, in a loop")
def unit_by_unit(z):
    n_dead = 0
    for j in range(z.size(-1)):
        if not any(value > 0 for value in z[..., j].flatten().tolist()):
            n_dead += 1
    return n_dead


@dead.alternative("after ReLU: nothing left to add up")
def after_relu(z):
    return z.size(-1) - int(torch.count_nonzero(z.relu().sum(dim=(0, 1))))


# 05.3 gelu -----------------------------------------------------------------------------------------------------------


def gelu(x: Tensor, tanh: bool = False) -> Tensor:
    """Let each number through in proportion to the share of normal numbers below it. Any shape -> the same

    Exact:      x * (1 + erf(x / sqrt(2))) / 2
    tanh=True:  x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2, which GPT-2 uses.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    if tanh:
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


gelu_exercise = Exercise(
    "05.3",
    gelu,
    hints=(
        "Both formulas stand in the docstring; they differ in what is added to the 1. `torch.erf` and `torch.tanh` "
        "work number by number, `math.sqrt` is for plain numbers.",
        "`if tanh:` return the one, otherwise the other. The share is between 0 and 1: (1 + something between -1 and "
        "1) / 2. It is multiplied by x at the end.",
        "`x * (1 + torch.erf(x / math.sqrt(2))) / 2`; and in the other one `torch.tanh(math.sqrt(2 / math.pi) * (x + "
        "0.044715 * x**3))` in place of the erf.",
    ),
)


@gelu_exercise.check("-1, 0 and 1, with the shares from the text: 16 %, 50 %, 84 %")
def gelu_on_paper(gelu):
    same(gelu(torch.tensor([-1.0, 0, 1])), torch.tensor([-0.1587, 0, 0.8413]), atol=1e-4)


@gelu_exercise.check("the exact version, of random numbers with three axes")
def gelu_exact(gelu):
    x = 2 * randn(2, 3, 5)
    same(gelu(x), F.gelu(x), atol=5e-6)


@gelu_exercise.check("the tanh version: not the same to the last digit")
def gelu_tanh(gelu):
    x = torch.cat([2 * randn(7), torch.tensor([-2.3, 0.5, 2.3])])
    same(gelu(x, tanh=True), F.gelu(x, approximate="tanh"), atol=5e-6)


@gelu_exercise.check("numbers far from 0, in both versions")
def gelu_far_out(gelu):
    x = torch.tensor([-50.0, -8, 8, 50])
    same([gelu(x), gelu(x, tanh=True)], [torch.tensor([0.0, 0, 8, 50])] * 2, atol=1e-4)


@gelu_exercise.check("its slopes, below zero as well")
def gelu_slopes(gelu):
    x = randn(6)
    found = gradients(gelu, x)
    leaf = x.clone().requires_grad_()
    (F.gelu(leaf) * found["out_gradient"]).sum().backward()
    same(found["inputs"][0], leaf.grad, atol=1e-5)


def _tanh_share(x, scale=(2 / math.pi) ** 0.5, cube=0.044715):
    return (1 + torch.tanh(scale * (x + cube * x**3))) / 2


def _erf_share(x):
    return (1 + torch.erf(x / math.sqrt(2))) / 2


@gelu_exercise.mistake("""You gave back the share alone. It says how much of x is let through: multiply it by x.""")
def share_only(x, tanh=False):
    return _tanh_share(x) if tanh else _erf_share(x)


@gelu_exercise.mistake("""You wrote erf(x). What you want is erf(x / sqrt(2)): erf is defined for normal numbers with a
    spread of 1/sqrt(2), and the root turns that into 1.""")
def no_root_of_two(x, tanh=False):
    return x * _tanh_share(x) if tanh else x * (1 + torch.erf(x)) / 2


@gelu_exercise.mistake("""You divided by 2 inside erf where the root of 2 belongs: erf(x / sqrt(2)).""")
def half_inside(x, tanh=False):
    return x * _tanh_share(x) if tanh else x * (1 + torch.erf(x / 2)) / 2


@gelu_exercise.mistake("""You forgot to halve: 1 + erf lies between 0 and 2, a share between 0 and 1. Yours lets large
    numbers through twice as large.""")
def not_halved(x, tanh=False):
    return 2 * x * (_tanh_share(x) if tanh else _erf_share(x))


@gelu_exercise.mistake("""You left out the 1: erf runs from -1 to 1, and (1 + erf) / 2 from 0 to 1. Without the 1 your
    function is the same on both sides of zero, and nothing is switched off.""")
def no_one(x, tanh=False):
    share = _tanh_share(x) if tanh else _erf_share(x)
    return x * (share - 0.5)


@gelu_exercise.mistake("""You give the exact version both times. With tanh=True the other formula is wanted: a model
    that was trained with the one gives slightly different numbers with the other.""")
def always_exact(x, tanh=False):
    return x * _erf_share(x)


@gelu_exercise.mistake("""You give the tanh version both times. Without tanh=True the exact one is wanted, with
    torch.erf. They differ by a few ten-thousandths, too little to see in a loss, enough to see in a comparison.""")
def always_tanh(x, tanh=False):
    return x * _tanh_share(x)


@gelu_exercise.mistake("""You have the two versions the wrong way round: tanh=True means the formula with tanh.""")
def the_wrong_way_round(x, tanh=False):
    return x * (_erf_share(x) if tanh else _tanh_share(x))


@gelu_exercise.mistake("""You used 2 / pi in the tanh version. It is the root of it: math.sqrt(2 / math.pi).""")
def no_root_of_pi(x, tanh=False):
    return x * (_tanh_share(x, 2 / math.pi) if tanh else _erf_share(x))


@gelu_exercise.mistake("""You left out the cube in the tanh version: inside the brackets stands x + 0.044715 * x**3.""")
def no_cube(x, tanh=False):
    return x * (_tanh_share(x, cube=0.0) if tanh else _erf_share(x))


@gelu_exercise.mistake("""You squared where the tanh version has a cube: x + 0.044715 * x**3. A square makes the two
    sides of zero unlike.""")
def square_for_cube(x, tanh=False):
    if not tanh:
        return x * _erf_share(x)
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2))) / 2


@gelu_exercise.mistake("""You put x**3 outside the brackets in the tanh version. The root multiplies the whole sum, x +
    0.044715 * x**3.""")
def cube_outside(x, tanh=False):
    if not tanh:
        return x * _erf_share(x)
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3)) / 2


@gelu_exercise.mistake("""You used x * sigmoid(1.702 * x), a third version, which some models (CLIP, for one) have. It
    is off by up to two hundredths. Use erf, and with tanh=True the formula with tanh.""")
def the_quick_one(x, tanh=False):
    return x * torch.sigmoid(1.702 * x)


@gelu_exercise.mistake("""That is SiLU, x * sigmoid(x), which comes later in this chapter. GELU has another share: that
    of the normal numbers below x.""")
def the_logistic_one(x, tanh=False):
    return x * torch.sigmoid(x)


@gelu_exercise.mistake("""That is ReLU. GELU goes over from off to on gradually.""")
def cut_off_sharply(x, tanh=False):
    return x.clamp(min=0)


@gelu_exercise.alternative("torch's own")
def torchs_gelu(x, tanh=False):
    return F.gelu(x, approximate="tanh" if tanh else "none")


@gelu_exercise.alternative("the normal distribution, and tanh as a sigmoid of twice the number")
def by_the_distribution(x, tanh=False):
    if tanh:
        return x * torch.sigmoid(2 * (2 / math.pi) ** 0.5 * x * (1 + 0.044715 * x * x))
    return x * torch.distributions.Normal(0.0, 1.0).cdf(x)


@gelu_exercise.alternative("number by number, in float64")
def number_by_number(x, tanh=False):
    if x.requires_grad or torch.is_grad_enabled():
        return torchs_gelu(x, tanh)
    out = []
    for z in x.flatten().tolist():
        inner = math.tanh((2 / math.pi) ** 0.5 * (z + 0.044715 * z**3)) if tanh else math.erf(z / 2**0.5)
        out.append(0.5 * z * (1 + inner))
    return torch.tensor(out).view(x.shape)


# 05.4 silu -----------------------------------------------------------------------------------------------------------


def silu(x: Tensor) -> Tensor:
    """Multiply each number by its sigmoid: x / (1 + e^-x). Any shape -> the same

    Value and slope are numbers, never NaN or infinity, for every x, also for 100 and -100.

    Also called swish. Source: Elfwing, Uchibe and Doya 2017, arXiv:1702.03118.
    """
    return x * torch.sigmoid(x)


silu_exercise = Exercise(
    "05.4",
    silu,
    hints=(
        "The formula can be written down as it stands, and gives the right values. But look at the slope for x = -100: "
        "e^100 is too large for a float32.",
        "Write it as a product, x times sigmoid(x), with a sigmoid that does not overflow.",
        "`torch.sigmoid(x)` takes care of both ends. Multiply it by x.",
    ),
)


@silu_exercise.check("0, ln 3 and -ln 3, whose sigmoids are 1/2, 3/4 and 1/4")
def silu_on_paper(silu):
    same(silu(torch.tensor([0.0, math.log(3), -math.log(3)])), torch.tensor([0.0, 0.823959, -0.274653]))


@silu_exercise.check("random numbers with three axes")
def silu_random(silu):
    x = 3 * randn(2, 3, 5)
    same(silu(x), F.silu(x))


@silu_exercise.check("100 and -100: no overflow")
def silu_far_out(silu):
    same(silu(torch.tensor([[100.0, -100.0]])), torch.tensor([[100.0, 0.0]]))


@silu_exercise.check("its slopes near zero")
def silu_slopes(silu):
    x = randn(5)
    found = gradients(silu, x)
    sigmoid = torch.sigmoid(x)
    same(found["inputs"][0], found["out_gradient"] * sigmoid * (1 + x * (1 - sigmoid)))


@silu_exercise.check("its slopes far out, at 100 and -100")
def silu_slopes_far_out(silu):
    found = gradients(silu, torch.tensor([100.0, -100.0]))
    same(found["inputs"][0], found["out_gradient"] * torch.tensor([1.0, 0.0]))


@silu_exercise.mistake("""Your values are right, and so is your slope, except far below zero, where it is NaN: e^-x
    overflows at x = -89, and the way back multiplies infinity by 0. Use torch.sigmoid, which has both sides in mind. In
    training, one such number in one token is the end of all weights.""")
def as_it_stands(x):
    return x / (1 + torch.exp(-x))


@silu_exercise.mistake("""You multiplied e^x / (1 + e^x). For large x that is infinity divided by infinity, NaN. Use
    torch.sigmoid, which has both sides in mind.""")
def other_way_round(x):
    return x * torch.exp(x) / (1 + torch.exp(x))


@silu_exercise.mistake("""You chose between two formulas with torch.where. It computes both for every number, and on the
    way back the NaN of the one that was not chosen comes through all the same. Use torch.sigmoid.""")
def with_where(x):
    return torch.where(x > 0, x / (1 + torch.exp(-x)), x * torch.exp(x) / (1 + torch.exp(x)))


@silu_exercise.mistake("""You gave back the sigmoid alone: it says how much of x is let through. Multiply it by x.""")
def sigmoid_only(x):
    return torch.sigmoid(x)


@silu_exercise.mistake("""You have the sign in the exponent wrong: x / (1 + e^x) lets negative numbers through and stops
    the positive ones. It is e^-x.""")
def wrong_sign(x):
    return x * torch.sigmoid(-x)


@silu_exercise.mistake(
    """You used tanh for the share. It runs from -1 to 1, and a share from 0 to 1: take
    torch.sigmoid."""
)
def tanh_for_sigmoid(x):
    return x * torch.tanh(x)


@silu_exercise.mistake("""That is softplus, ln(1 + e^x): smooth as well, but never below zero. SiLU is x times its
    sigmoid.""")
def softplus(x):
    return F.softplus(x)


@silu_exercise.mistake("""That is GELU. The two look alike, and are 0.2 apart at some places: SiLU takes the sigmoid as
    the share.""")
def gelu_again(x):
    return F.gelu(x)


@silu_exercise.mistake("""That is ReLU. SiLU goes over from off to on gradually.""")
def relu_again(x):
    return x.clamp(min=0)


@silu_exercise.mistake("""You took the sigmoid along an axis (softmax), so that the numbers of a row share 1 among them.
    Each number decides by itself: torch.sigmoid.""")
def softmax_for_sigmoid(x):
    return x * x.softmax(dim=-1)


@silu_exercise.mistake("""You multiplied by 1.702 inside the sigmoid. That is a copy of GELU; SiLU has no such
    factor.""")
def with_a_factor(x):
    return x * torch.sigmoid(1.702 * x)


@silu_exercise.alternative("torch's own")
def torchs_silu(x):
    return F.silu(x)


@silu_exercise.alternative("the sigmoid as a tanh")
def with_tanh(x):
    return x * (1 + torch.tanh(x / 2)) / 2


@silu_exercise.alternative("through the logarithm of the sigmoid")
def through_the_logarithm(x):
    return x * F.logsigmoid(x).exp()


# 05.5 SwiGLU ---------------------------------------------------------------------------------------------------------

swiglu = Exercise(
    "05.5",
    feedforward.SwiGLU,
    hints=(
        "Two matrices read the same x: `self.gate_proj(x)` and `self.up_proj(x)`, both (B, T, F). Only one of them "
        "goes through SiLU.",
        "SiLU is for the gate. Then multiply the two, number by number, with `*`.",
        "`gate = F.silu(self.gate_proj(x))`, then `self.down_proj(...)` of `gate` times `self.up_proj(x)`.",
    ),
)


def _swiglu(x, block, act=F.silu):
    gate, up, down = block.gate_proj.weight, block.up_proj.weight, block.down_proj.weight
    return (act(x @ gate.mT) * (x @ up.mT)) @ down.mT


@swiglu.check("the two units of the text, that turn the sign of any number after a not")
def swiglu_on_paper(SwiGLU):
    block = with_weights(
        SwiGLU(2, 2),
        {
            "gate_proj.weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),
            "up_proj.weight": torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
            "down_proj.weight": torch.tensor([[0.0, 0.0], [-2.0, 2.0]]),
        },
    )
    same(block(torch.tensor([[[0.0, 3], [1, 3], [1, -2]]])), torch.tensor([[[0.0, 0], [0, -6], [0, 4]]]))


@swiglu.check("random tokens and random weights")
def swiglu_random(SwiGLU):
    block = with_random_weights(SwiGLU(4, 7))
    x = randn(2, 3, 4)
    same(block(x), _swiglu(x, block), atol=1e-4)


@swiglu.check("one unit whose gate is shut (-100), whatever the other side says")
def swiglu_shut(SwiGLU):
    block = with_weights(
        SwiGLU(2, 1),
        {
            "gate_proj.weight": torch.tensor([[-100.0, 0.0]]),
            "up_proj.weight": torch.tensor([[0.0, 1.0]]),
            "down_proj.weight": torch.tensor([[1.0], [3.0]]),
        },
    )
    same(block(torch.tensor([[[1.0, 5.0], [1.0, -5.0]]])), torch.zeros(1, 2, 2))


@swiglu.check("one unit whose gate is open (3) and whose other side says -2")
def swiglu_negative(SwiGLU):
    block = with_weights(
        SwiGLU(2, 1),
        {
            "gate_proj.weight": torch.tensor([[3.0, 0.0]]),
            "up_proj.weight": torch.tensor([[0.0, -2.0]]),
            "down_proj.weight": torch.tensor([[1.0], [0.5]]),
        },
    )
    out = 3 / (1 + math.exp(-3)) * -2
    same(block(torch.tensor([[[1.0, 1.0]]])), torch.tensor([[[out, out / 2]]]))


@swiglu.check("with biases, for whoever asks for them")
def swiglu_bias(SwiGLU):
    block = with_random_weights(SwiGLU(4, 5, bias=True))
    x = randn(2, 3, 4)
    gate, up = (F.linear(x, part.weight, part.bias) for part in (block.gate_proj, block.up_proj))
    same(block(x), F.linear(gate * gate.sigmoid() * up, block.down_proj.weight, block.down_proj.bias), atol=1e-4)


@swiglu.check("slopes that come back through both sides")
def swiglu_slopes(SwiGLU):
    block = with_random_weights(SwiGLU(3, 5))
    x = randn(2, 4, 3)
    found = gradients(block, x)
    leaf = x.clone().requires_grad_()
    (_swiglu(leaf, block) * found["out_gradient"]).sum().backward()
    same(found["inputs"][0], leaf.grad, atol=1e-4)


@swiglu.mistake("""You put SiLU on the other side. It belongs on the gate: silu(gate_proj(x)) * up_proj(x). In a model
    that you train yourself the two are only names; the weights of a real LLaMA would mean something else.""")
class SiLUOnUp(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(self.gate_proj(x) * F.silu(self.up_proj(x)))


@swiglu.mistake("""You put SiLU around the product. Multiply after it: silu(gate) * up. Where gate and up are both
    negative, yours is wide open instead of nearly shut. No loss curve would tell you.""")
class SiLUAroundTheProduct(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x) * self.up_proj(x)))


@swiglu.mistake("""You used the sigmoid for the gate. That is GLU, of 2016. The gate of SwiGLU is SiLU, z * sigmoid(z),
    which can open further than 1.""")
class PlainGLU(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))


@swiglu.mistake("""You took the sigmoid of the up side, and multiplied the gate by it. SiLU is of the gate alone: gate *
    sigmoid(gate), and then times up.""")
class SigmoidOfUp(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(self.gate_proj(x) * torch.sigmoid(self.up_proj(x)))


@swiglu.mistake("""You used GELU for the gate. That is GEGLU, which Google's models have. LLaMA's gate is SiLU.""")
class GateGELU(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))


@swiglu.mistake("""You used ReLU for the gate. That is ReGLU. LLaMA's gate is SiLU.""")
class GateReLU(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.relu(self.gate_proj(x)) * self.up_proj(x))


@swiglu.mistake("""You multiplied the two sides as they are. Without SiLU on the gate a negative gate does not shut: it
    turns the sign.""")
class NoActivation(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))


@swiglu.mistake("""You added the two sides. A gate multiplies: at 0 it lets nothing through, whatever the other side
    says. A sum lets everything through.""")
class AddedSides(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) + self.up_proj(x))


@swiglu.mistake("""You put SiLU on both sides. The other side says what is written, and may well say something negative:
    leave up_proj(x) as it is.""")
class SiLUOnBoth(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * F.silu(self.up_proj(x)))


@swiglu.mistake(
    """You did not use up_proj at all. silu(gate) says how much; multiply it by what is to be written,
    up_proj(x)."""
)
class UpNotUsed(feedforward.SwiGLU):
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)))


@swiglu.mistake("""You used the gate on both sides: silu(gate) * gate. The other side has a matrix of its own,
    up_proj.""")
class GateTwice(feedforward.SwiGLU):
    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(F.silu(gate) * gate)


@swiglu.mistake("""You forgot down_proj. What you give back is d_ff wide and can't be added to x.""")
class NoDown(feedforward.SwiGLU):
    def forward(self, x):
        return F.silu(self.gate_proj(x)) * self.up_proj(x)


@swiglu.mistake("""You added x. The block says only what is to be added; the layer around it does the addition.""")
class SwiGLUAddsItself(feedforward.SwiGLU):
    def forward(self, x):
        return x + super().forward(x)


@swiglu.mistake("""You cut off (ReLU) or gated once more behind down_proj. What comes out of it is final: it may be
    negative, so that the block can take something away.""")
class ActivationAtTheEnd(feedforward.SwiGLU):
    def forward(self, x):
        return F.relu(super().forward(x))


@swiglu.alternative("one matrix for both sides, cut in two afterwards")
class Fused(feedforward.SwiGLU):
    def forward(self, x):
        both = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        sides = x @ both.mT
        if self.gate_proj.bias is not None:
            sides = sides + torch.cat([self.gate_proj.bias, self.up_proj.bias])
        gate, up = sides.chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


@swiglu.alternative("einsum, and SiLU as a quotient of tanh")
class SwiGLUEinsum(feedforward.SwiGLU):
    def forward(self, x):
        gate, up = (torch.einsum("...c,fc->...f", x, part.weight) for part in (self.gate_proj, self.up_proj))
        if self.gate_proj.bias is not None:
            gate, up = gate + self.gate_proj.bias, up + self.up_proj.bias
        out = torch.einsum("...f,cf->...c", gate * (0.5 + 0.5 * torch.tanh(gate / 2)) * up, self.down_proj.weight)
        return out if self.down_proj.bias is None else out + self.down_proj.bias


@swiglu.alternative("unit by unit: what each one writes, added up")
class SwiGLUUnitByUnit(feedforward.SwiGLU):
    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        total = torch.zeros_like(x) if self.down_proj.bias is None else self.down_proj.bias.expand_as(x)
        for j in range(gate.size(-1)):
            strength = gate[..., j] * torch.sigmoid(gate[..., j]) * up[..., j]
            total = total + strength[..., None] * self.down_proj.weight[:, j]
        return total


# 05.6 swiglu_d_ff ----------------------------------------------------------------------------------------------------

width = Exercise(
    "05.6",
    feedforward.swiglu_d_ff,
    hints=(
        "In this order: two thirds of 4 * d_model; times the multiplier, if there is one; up to the next multiple. "
        "Only the last step rounds up.",
        "`int(...)` cuts off what is behind the point. How many times does multiple_of fit in, rounded up? "
        "`math.ceil(width / multiple_of)` times.",
        "`width = int(2 * 4 * d_model / 3)`; with a multiplier `width = int(multiplier * width)`; and then multiple_of "
        "times `math.ceil(width / multiple_of)`.",
    ),
)


@width.check("LLaMA 1 and 2: 7B, 13B, 33B and 65B")
def width_llama_1(swiglu_d_ff):
    same([swiglu_d_ff(C) for C in (4096, 5120, 6656, 8192)], [11008, 13824, 17920, 22016])


@width.check("Llama 2 70B, with the multiplier 1.3 and multiples of 4096")
def width_llama_2_70b(swiglu_d_ff):
    same(swiglu_d_ff(8192, multiple_of=4096, multiplier=1.3), 28672)


@width.check("Llama 3 8B, 3.1 405B and 3.2 1B")
def width_llama_3(swiglu_d_ff):
    given = [swiglu_d_ff(4096, 1024, 1.3), swiglu_d_ff(16384, 4096, 1.2), swiglu_d_ff(2048, 256, 1.5)]
    same(given, [14336, 53248, 8192])


@width.check("widths that are a multiple already: they stay")
def width_exact(swiglu_d_ff):
    same([swiglu_d_ff(96), swiglu_d_ff(768), swiglu_d_ff(3072), swiglu_d_ff(48, 32)], [256, 2048, 8192, 128])


@width.check("small models, and multiples of 8")
def width_small(swiglu_d_ff):
    C = 8 * int(integers(3, 40))
    same([swiglu_d_ff(8), swiglu_d_ff(C, multiple_of=8)], [256, 8 * math.ceil(C / 3)])


def _up(width, multiple_of):
    return multiple_of * math.ceil(width / multiple_of)


@width.mistake("""You rounded down. Round up: the block must not become narrower than the rule says, and for small
    models yours has no units at all.""")
def rounded_down(d_model, multiple_of=256, multiplier=None):
    return int((multiplier or 1) * int(8 * d_model / 3)) // multiple_of * multiple_of


@width.mistake("""You rounded to the nearest multiple. The rule rounds up, also where the next one below is closer.""")
def rounded_to_nearest(d_model, multiple_of=256, multiplier=None):
    return round(int((multiplier or 1) * int(8 * d_model / 3)) / multiple_of) * multiple_of


@width.mistake("""You always go to the next multiple. A width that is one already must stay: 768 gives 2048, not
    2304.""")
def always_one_more(d_model, multiple_of=256, multiplier=None):
    return (int((multiplier or 1) * int(8 * d_model / 3)) // multiple_of + 1) * multiple_of


@width.mistake("""You left out the two thirds. With three matrices instead of two, 4 * d_model makes the block half as
    large again: take 2/3 of it first.""")
def no_two_thirds(d_model, multiple_of=256, multiplier=None):
    return _up(int((multiplier or 1) * 4 * d_model), multiple_of)


@width.mistake("""You took two thirds of d_model. It is two thirds of four times d_model: the block widens.""")
def no_four(d_model, multiple_of=256, multiplier=None):
    return _up(int((multiplier or 1) * int(2 * d_model / 3)), multiple_of)


@width.mistake("""You stretched after you rounded, so that the result is no multiple any more. First the multiplier,
    then round up.""")
def stretched_afterwards(d_model, multiple_of=256, multiplier=None):
    return int((multiplier or 1) * _up(int(8 * d_model / 3), multiple_of))


@width.mistake("""You rounded up twice, before and after the multiplier. Only once, at the end: otherwise the first
    rounding is stretched too.""")
def rounded_twice(d_model, multiple_of=256, multiplier=None):
    return _up(int((multiplier or 1) * _up(int(8 * d_model / 3), multiple_of)), multiple_of)


@width.mistake("""You did not use the multiplier. Where it is given, it stretches the width before rounding; that is
    how 70B comes to 28672.""")
def multiplier_not_used(d_model, multiple_of=256, multiplier=None):
    return _up(int(8 * d_model / 3), multiple_of)


@width.mistake("""You wrote 256 into the formula. Use multiple_of: Llama 2 70B rounds to multiples of 4096.""")
def fixed_multiple(d_model, multiple_of=256, multiplier=None):
    return _up(int((multiplier or 1) * int(8 * d_model / 3)), 256)


@width.mistake("""You did not round up to a multiple. 10922, the two thirds for d_model = 4096, is an awkward width for
    hardware, and LLaMA does not have it.""")
def not_rounded(d_model, multiple_of=256, multiplier=None):
    return int((multiplier or 1) * int(8 * d_model / 3))


@width.mistake("""You gave how many times multiple_of fits in, rounded up. The width is that many times multiple_of: 43
    · 256 = 11008.""")
def number_of_tiles(d_model, multiple_of=256, multiplier=None):
    return _up(int((multiplier or 1) * int(8 * d_model / 3)), multiple_of) // multiple_of


@width.mistake("""You rounded up where the rule cuts off: two thirds of 4 * d_model, and what the multiplier makes of
    it, are cut off with int(...). Only the last step rounds up.""")
def never_cut_off(d_model, multiple_of=256, multiplier=None):
    return _up(math.ceil((multiplier or 1) * math.ceil(8 * d_model / 3)), multiple_of)


@width.mistake("""You multiplied d_model by the multiplier instead of the 4. It stretches two thirds of 4 * d_model, it
    does not replace anything.""")
def multiplier_for_four(d_model, multiple_of=256, multiplier=None):
    return _up(int(2 * (4 if multiplier is None else multiplier) * d_model / 3), multiple_of)


@width.alternative("whole numbers only, until the multiplier")
def whole_numbers(d_model, multiple_of=256, multiplier=None):
    width = 8 * d_model // 3
    if multiplier is not None:
        width = math.floor(width * multiplier)
    return -(-width // multiple_of) * multiple_of


@width.alternative("counting up")
def counting_up(d_model, multiple_of=256, multiplier=None):
    wanted = int((multiplier or 1.0) * int(2 / 3 * 4 * d_model))
    width = 0
    while width < wanted:
        width += multiple_of
    return width


@width.alternative("as in Meta's code")
def as_in_metas_code(d_model, multiple_of=256, multiplier=None):
    hidden_dim = int(2 * (4 * d_model) / 3)
    if multiplier is not None:
        hidden_dim = int(multiplier * hidden_dim)
    return multiple_of * ((hidden_dim + multiple_of - 1) // multiple_of)


# 05.7 parameters_by_part ---------------------------------------------------------------------------------------------


def parameters_by_part(config: Config) -> dict[str, int]:
    """Count the numbers that a LLaMA of these sizes has to learn, all its layers together, part by part.

    Gives back a dict with five keys: "embedding", "attention", "feedforward", "norms", "output".
    Per layer: attention has q_proj, k_proj, v_proj, o_proj; feedforward is a SwiGLU; there are two norms of d_model
    numbers each. After the last layer comes one more norm. No biases. A tied output layer has no numbers of its own.
    """
    C, L, V = config.d_model, config.n_layers, config.vocab_size
    d_queries, d_keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "embedding": V * C,
        "attention": L * (2 * C * d_queries + 2 * C * d_keys),
        "feedforward": L * 3 * C * config.d_ff,
        "norms": (2 * L + 1) * C,
        "output": 0 if config.tied else V * C,
    }


parts = Exercise(
    "05.7",
    parameters_by_part,
    hints=(
        "A matrix that makes n numbers out of m has n * m entries. Write down for each matrix of a layer what goes in "
        "and what comes out, then multiply by config.n_layers.",
        "q_proj makes n_heads * head_dim numbers out of C, o_proj goes back; k_proj and v_proj make n_kv_heads * "
        "head_dim each. The three matrices of SwiGLU have C * d_ff each. The embedding has a row of C for each token.",
        "attention: `L * (2 * C * n_heads * head_dim + 2 * C * n_kv_heads * head_dim)`; feedforward: `L * 3 * C * "
        "d_ff`; norms: `(2 * L + 1) * C`; output: 0 if `config.tied`, else as many as the embedding.",
    ),
)


def _counted(config):
    """By adding up shapes, matrix by matrix."""
    C, q, kv = config.d_model, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    layer = {
        "attention": [(q, C), (kv, C), (kv, C), (C, q)],
        "feedforward": [(config.d_ff, C), (config.d_ff, C), (C, config.d_ff)],
        "norms": [(C,), (C,)],
    }
    counts = {name: config.n_layers * sum(map(math.prod, shapes)) for name, shapes in layer.items()}
    counts["norms"] += C
    counts["embedding"] = config.vocab_size * C
    counts["output"] = 0 if config.tied else config.vocab_size * C
    return counts


def _small(**sizes):
    """A config in which all sizes are different, and a little different every time."""
    base = dict(vocab_size=50 + int(integers(0, 9)), d_model=24, n_layers=3, n_heads=4, d_ff=70 + int(integers(0, 9)))
    return Config(**{**base, **sizes})


@parts.check("Llama 2 7B, whose total is in the papers: 6.7 billion")
def parts_7b(parameters_by_part):
    given = parameters_by_part(PRESETS["llama-2-7b"])
    same(given, _counted(PRESETS["llama-2-7b"]))


@parts.check("fewer key/value heads than query heads (Llama 2 70B)")
def parts_70b(parameters_by_part):
    same(parameters_by_part(PRESETS["llama-2-70b"]), _counted(PRESETS["llama-2-70b"]))


@parts.check("an output layer that is tied to the embedding (Llama 3.2 1B)")
def parts_tied(parameters_by_part):
    same(parameters_by_part(PRESETS["llama-3.2-1b"]), _counted(PRESETS["llama-3.2-1b"]))


@parts.check("a head_dim that is not d_model / n_heads")
def parts_head_dim(parameters_by_part):
    config = _small(n_kv_heads=pick([1, 2]), head_dim=10)
    same(parameters_by_part(config), _counted(config))


@parts.check("a model of one layer")
def parts_one_layer(parameters_by_part):
    config = _small(n_layers=1)
    same(parameters_by_part(config), _counted(config))


def _but(config, **changed):
    return {**_counted(config), **changed}


@parts.mistake("""You counted two matrices in the feed-forward block. That was 2017: SwiGLU has three, gate, up and
    down.""")
def two_matrices(config):
    return _but(config, feedforward=2 * config.n_layers * config.d_model * config.d_ff)


@parts.mistake("""You counted k_proj and v_proj as large as q_proj. With grouped queries (chapter 04) they make only
    n_kv_heads * head_dim numbers.""")
def no_grouped_queries(config):
    return _but(config, attention=4 * config.n_layers * config.d_model * config.n_heads * config.head_dim)


@parts.mistake("""You worked out the width of a head as d_model / n_heads. A config may give it by itself: use
    config.head_dim.""")
def head_dim_worked_out(config):
    C, D = config.d_model, config.d_model // config.n_heads
    return _but(config, attention=config.n_layers * 2 * C * D * (config.n_heads + config.n_kv_heads))


@parts.mistake("""You counted one of k_proj and v_proj. There are two, one for the keys and one for the values.""")
def keys_without_values(config):
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return _but(config, attention=config.n_layers * config.d_model * (2 * q + kv))


@parts.mistake("""You have tied and not tied the wrong way round. Tied means that the output layer has no numbers of its
    own: 0 if config.tied.""")
def tied_turned_round(config):
    return _but(config, output=config.vocab_size * config.d_model if config.tied else 0)


@parts.mistake("""You counted three norms per layer. The third one stands behind the last layer only: 2 per layer and
    one more.""")
def three_norms_per_layer(config):
    return _but(config, norms=3 * config.n_layers * config.d_model)


@parts.mistake("""You counted q_proj and o_proj as d_model * d_model. q_proj makes n_heads * head_dim numbers, and
    config.head_dim need not be d_model / n_heads.""")
def queries_as_wide_as_the_model(config):
    C, d_keys = config.d_model, config.n_kv_heads * config.head_dim
    return _but(config, attention=config.n_layers * (2 * C * C + 2 * C * d_keys))


@parts.mistake("""You counted all four matrices of the attention as d_model * d_model. q_proj makes n_heads * head_dim
    numbers, k_proj and v_proj make n_kv_heads * head_dim each.""")
def four_squares(config):
    return _but(config, attention=4 * config.n_layers * config.d_model**2)


@parts.mistake("""You counted as for LLaMA 1: four matrices of d_model * d_model, and an output layer of its own. In
    others k_proj and v_proj are smaller (n_kv_heads * head_dim), and a tied output layer has no numbers.""")
def as_for_llama_1(config):
    C = config.d_model
    return _but(config, attention=4 * config.n_layers * C**2, output=config.vocab_size * C)


@parts.mistake("""You forgot o_proj, the fourth matrix of the attention: it mixes what the heads found.""")
def no_o_proj(config):
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return _but(config, attention=config.n_layers * config.d_model * (q + 2 * kv))


@parts.mistake("""You counted a single layer. Every layer has matrices and norms of its own: multiply by
    config.n_layers.""")
def one_layer(config):
    counts = _counted(config)
    C, L = config.d_model, config.n_layers
    return {
        **counts,
        "attention": counts["attention"] // L,
        "feedforward": counts["feedforward"] // L,
        "norms": 3 * C,
    }


@parts.mistake("""You counted the output layer although it is tied. Tied means that it uses the numbers of the embedding
    and has none of its own.""")
def output_always(config):
    return _but(config, output=config.vocab_size * config.d_model)


@parts.mistake("""You left out the output layer. Where config.tied is False it has as many numbers as the embedding.""")
def output_never(config):
    return _but(config, output=0)


@parts.mistake("""You forgot the norm after the last layer: 2 per layer and one more.""")
def no_last_norm(config):
    return _but(config, norms=2 * config.n_layers * config.d_model)


@parts.mistake("""You counted one norm per layer. There are two, one in front of the attention and one in front of the
    feed-forward block.""")
def one_norm_per_layer(config):
    return _but(config, norms=(config.n_layers + 1) * config.d_model)


@parts.mistake("""You counted biases. No LLaMA has any in these matrices.""")
def with_biases(config):
    counts = _counted(config)
    C, L, D = config.d_model, config.n_layers, config.head_dim
    return {
        **counts,
        "attention": counts["attention"] + L * (config.n_heads * D + 2 * config.n_kv_heads * D + C),
        "feedforward": counts["feedforward"] + L * (2 * config.d_ff + C),
    }


@parts.mistake("""You counted norms with a weight and a bias. LLaMA's norms have a weight only: d_model numbers
    each.""")
def norms_with_biases(config):
    return _but(config, norms=2 * (2 * config.n_layers + 1) * config.d_model)


@parts.alternative("shape by shape")
def shape_by_shape(config):
    return _counted(config)


@parts.alternative("layer after layer, in a loop")
def layer_after_layer(config):
    counts = {"embedding": config.vocab_size * config.d_model, "attention": 0, "feedforward": 0, "norms": 0}
    for _ in range(config.n_layers):
        for heads in (config.n_heads, config.n_kv_heads):
            counts["attention"] += 2 * heads * config.head_dim * config.d_model
        counts["feedforward"] += config.d_model * config.d_ff * 3
        counts["norms"] += 2 * config.d_model
    counts["norms"] += config.d_model
    return {**counts, "output": counts["embedding"] * (not config.tied)}


@parts.alternative("a model without numbers, counted")
def on_the_meta_device(config):
    from minillama.llama import Llama

    if config.d_model > 100:  # an hour for 50 seeds of 80 layers
        return _counted(config)
    with torch.device("meta"):
        model = Llama(config)
    counts = dict.fromkeys(("embedding", "attention", "feedforward", "norms", "output"), 0)
    places = {"embed": "embedding", "norm": "norms", "attention": "attention", "feedforward": "feedforward"}
    for name, weight in model.named_parameters():
        place = next((part for key, part in places.items() if key in name.replace("attention_norm", "norm")
                      .replace("feedforward_norm", "norm")), "output")  # fmt: skip
        counts[place] += weight.numel()
    return counts
