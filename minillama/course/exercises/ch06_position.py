"""Exercises of chapter 06: waves, one hand, many hands, both layouts, longer texts, RoPE as a part."""

import cmath
import math

import torch
from torch import Tensor

from minillama import position
from minillama.config import Config
from minillama.course.checks import integers, pick, rand, randn, same
from minillama.course.exercise import Exercise

# 06.1 ----------------------------------------------------------------------------------------------------------------


def sinusoidal(n_positions: int, d_model: int) -> Tensor:
    """Give each position a row of waves, from fast to slow. d_model is even. -> (T, C), float32

    Row t holds sin(t * speed) in channel 2i and cos of the same angle in channel 2i + 1, for i = 0, 1, ..., C/2 - 1;
    the speed of pair i is 10000**(-2i/C). Positions count from 0.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> sinusoidal(2, 4).round(decimals=3)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8410, 0.5400, 0.0100, 1.0000]])
    """
    speeds = 10000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # (C/2,)
    angles = torch.arange(n_positions)[:, None] * speeds  # (T, C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # sin and cos by turns


waves = Exercise(
    "06.1",
    sinusoidal,
    hints=(
        "Do it in three steps: the speeds (C/2 of them), then all angles (a table, a row per position, a column per "
        "speed), then sin and cos by turns.",
        "`torch.arange(0, d_model, 2)` is 0, 2, 4, ...: that is 2i already. A column of positions, "
        "`torch.arange(n_positions)[:, None]`, times a row of speeds gives the table of angles.",
        "`out = torch.zeros(n_positions, d_model)`, then `out[:, 0::2] = angles.sin()` and `out[:, 1::2] = "
        "angles.cos()`: `0::2` are the channels 0, 2, 4, ..., `1::2` the channels 1, 3, 5, ...",
    ),
)


def _waves_by_hand(n_positions: int, d_model: int) -> Tensor:
    """Number by number, in Python's floats."""
    rows = []
    for t in range(n_positions):
        angles = [t * 10000 ** (-2 * (c // 2) / d_model) for c in range(d_model)]
        rows.append([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)])
    return torch.tensor(rows)


@waves.check("three positions, six channels")
def three_positions(sinusoidal):
    same(sinusoidal(3, 6), _waves_by_hand(3, 6))


@waves.check("0, 1, 0, 1, ... at position 0: every angle is 0")
def position_zero(sinusoidal):
    d_model = pick([4, 8, 10])
    same(sinusoidal(1, d_model), torch.tensor([[0.0, 1.0] * (d_model // 2)]))


@waves.check("many positions and channels", points=2)
def many_positions(sinusoidal):
    n_positions, d_model = pick([17, 23, 31]), pick([12, 16, 64])
    same(sinusoidal(n_positions, d_model), _waves_by_hand(n_positions, d_model))


@waves.check("a single pair of channels")
def a_single_pair(sinusoidal):
    n_positions = pick([5, 7, 9])
    same(sinusoidal(n_positions, 2), _waves_by_hand(n_positions, 2))


def _sin_cos_by_turns(angles: Tensor) -> Tensor:
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _table(n_positions: int, speeds: Tensor, first: int = 0) -> Tensor:
    return torch.arange(first, first + n_positions)[:, None] * speeds


def _speeds(d_model: int) -> Tensor:
    return 10000.0 ** (-torch.arange(0, d_model, 2) / d_model)


@waves.mistake("""Every channel of yours has a speed of its own. A sine and the cosine beside it share one speed: the
    exponent is the same for the channels 2i and 2i + 1. Only as a pair do they say where on the circle a position
    stands.""")
def a_speed_per_channel(n_positions, d_model):
    angles = _table(n_positions, 10000.0 ** (-torch.arange(d_model) / d_model))
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


@waves.mistake("""The waves are right, their order is not: you put all sines first and all cosines behind them. Here
    they go by turns: sin, cos, sin, cos. (Some programs do it your way; a model trained with one can't read the
    other.)""")
def sines_then_cosines(n_positions, d_model):
    angles = _table(n_positions, _speeds(d_model))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@waves.mistake("""You exchanged sine and cosine. The sine comes first: at position 0 the row is 0, 1, 0, 1, ...""")
def cosine_first(n_positions, d_model):
    angles = _table(n_positions, _speeds(d_model))
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)


@waves.mistake("""You forgot the 2 in the exponent: -2i/C, where i counts the pairs. With -i/C the slowest wave still
    goes round every 600 positions, and far positions look alike.""")
def exponent_without_the_two(n_positions, d_model):
    return _sin_cos_by_turns(_table(n_positions, 10000.0 ** (-torch.arange(d_model // 2) / d_model)))


@waves.mistake("""Your speeds fall twice as fast as they should: torch.arange(0, d_model, 2) is 2i already, and you
    doubled it once more, or divided by C/2 instead of C.""")
def exponent_doubled(n_positions, d_model):
    return _sin_cos_by_turns(_table(n_positions, _speeds(d_model) ** 2))


@waves.mistake("""Your waves get faster from pair to pair. The exponent is negative: the first pair is the fastest,
    with speed 1, the last one the slowest.""")
def faster_and_faster(n_positions, d_model):
    return _sin_cos_by_turns(_table(n_positions, 1 / _speeds(d_model)))


@waves.mistake("""Your first row is that of position 1. Positions count from 0, as everything in this course does.""")
def counted_from_one(n_positions, d_model):
    return _sin_cos_by_turns(_table(n_positions, _speeds(d_model), first=1))


@waves.mistake("""You wrote only sines. A sine alone can't tell two places of the circle that are equally high:
    sin(0.5) and sin(2.64) are the same. The cosine beside it can.""")
def only_sines(n_positions, d_model):
    angles = _table(n_positions, _speeds(d_model)).repeat_interleave(2, dim=-1)
    return angles.sin()


@waves.mistake("""Mind what Python calculates first: 10000 ** 2 * i / C is (10000 ** 2) * i / C. Put the exponent into
    brackets. As it is, pair 0 divides by zero.""")
def power_before_product(n_positions, d_model):
    i = torch.arange(d_model // 2)
    return _sin_cos_by_turns(torch.arange(n_positions)[:, None] / (10000**2 * i / d_model))


@waves.mistake("""Your table lies on its side: a row per channel. Asked for is a row per position, (T, C).""")
def on_its_side(n_positions, d_model):
    return _sin_cos_by_turns(_table(n_positions, _speeds(d_model))).T.contiguous()


@waves.alternative("two loops and the math module")
def waves_in_loops(n_positions, d_model):
    out = torch.zeros(n_positions, d_model)
    for t in range(n_positions):
        for i in range(d_model // 2):
            angle = t / 10000 ** (2 * i / d_model)
            out[t, 2 * i], out[t, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return out


@waves.alternative("every second channel, and exp of a logarithm")
def every_second_channel(n_positions, d_model):
    out = torch.zeros(n_positions, d_model)
    place = torch.arange(n_positions).unsqueeze(1).float()
    speed = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
    out[:, 0::2] = torch.sin(place * speed)
    out[:, 1::2] = torch.cos(place * speed)
    return out


@waves.alternative("one formula for all channels: a cosine is a sine, a quarter turn ahead")
def a_quarter_turn_ahead(n_positions, d_model):
    channel = torch.arange(d_model)
    angles = torch.outer(torch.arange(n_positions).float(), 10000.0 ** (-(channel - channel % 2) / d_model))
    return torch.sin(angles + channel % 2 * math.pi / 2)


# 06.2 ----------------------------------------------------------------------------------------------------------------


def rotate(x: float, y: float, angle: float) -> tuple[float, float]:
    """Turn the hand from (0, 0) to (x, y) by `angle` radians, counter-clockwise. -> where its tip is then

    >>> x, y = rotate(3.0, 4.0, math.pi / 2)  # a quarter turn
    >>> round(x, 3), round(y, 3)
    (-4.0, 3.0)
    """
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


one_hand = Exercise(
    "06.2",
    rotate,
    hints=(
        "Where does the hand (1, 0) go? Where (0, 1)? Every hand is x times the first and y times the second.",
        "(1, 0) goes to (cos, sin), and (0, 1) goes to (-sin, cos). Multiply the first by x, the second by y, and add "
        "them, coordinate by coordinate.",
        "`cos, sin = math.cos(angle), math.sin(angle)`; the new x is `x * cos - y * sin`; the new y is built the same "
        "way, from the *old* x and y.",
    ),
)


def _hand() -> tuple[float, float]:
    """None of its numbers near 0, and the two of different length."""
    x, y = (1.0 + rand(2)).tolist()
    return x * pick([1, -1]), (y + 1.5) * pick([1, -1])


@one_hand.check("a quarter turn: (3, 4) goes to (-4, 3)")
def quarter_turn(rotate):
    same(rotate(3.0, 4.0, math.pi / 2), (-4.0, 3.0))


@one_hand.check("no turn at all")
def no_turn(rotate):
    x, y = _hand()
    same(rotate(x, y, 0.0), (x, y))


@one_hand.check("any hand, turned by less than a quarter", points=2)
def any_hand(rotate):
    x, y = _hand()
    angle = 0.3 + rand(1).item()
    turned = complex(x, y) * cmath.exp(1j * angle)
    same(rotate(x, y, angle), (turned.real, turned.imag))


@one_hand.check("a hand turned back, by a negative angle")
def backwards(rotate):
    x, y = _hand()
    angle = -0.3 - rand(1).item()
    turned = complex(x, y) * cmath.exp(1j * angle)
    same(rotate(x, y, angle), (turned.real, turned.imag))


@one_hand.check("more than a whole turn")
def more_than_a_turn(rotate):
    x, y = _hand()
    angle = 7.0 + 3 * rand(1).item()
    turned = complex(x, y) * cmath.exp(1j * angle)
    same(rotate(x, y, angle), (turned.real, turned.imag))


@one_hand.mistake("""You turn clockwise, as a clock does. Here a positive angle turns counter-clockwise, as in
    mathematics: the minus stands before y * sin, in the new x.""")
def clockwise(x, y, angle):
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


@one_hand.mistake("""Your new y is made from the new x. Keep the old x until both are done: compute both before you
    assign either, or give the new ones names of their own.""")
def new_x_too_early(x, y, angle):
    x = x * math.cos(angle) - y * math.sin(angle)
    y = x * math.sin(angle) + y * math.cos(angle)
    return x, y


@one_hand.mistake("""A minus is missing: (0, 1) goes to (-sin, cos), so y * sin is taken away from the new x. As it is,
    the hand gets longer while it turns, and turning must never change a length.""")
def no_minus(x, y, angle):
    return x * math.cos(angle) + y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


@one_hand.mistake("""You exchanged sine and cosine. Test it with the angle 0, where cos is 1 and sin is 0: the hand
    must stay where it is.""")
def sine_for_cosine(x, y, angle):
    return x * math.sin(angle) - y * math.cos(angle), x * math.cos(angle) + y * math.sin(angle)


@one_hand.mistake("""You took the angle for degrees. It is in radians, as math.cos and math.sin expect it: a whole turn
    is 6.28, not 360.""")
def degrees(x, y, angle):
    return rotate(x, y, math.radians(angle))


@one_hand.mistake("""You point the hand *at* the angle, wherever it stood before. Turn it *by* the angle, from where it
    stands: its own direction, which is what the model knows about the token, must not be lost.""")
def points_at_the_angle(x, y, angle):
    length = math.hypot(x, y)
    return length * math.cos(angle), length * math.sin(angle)


@one_hand.mistake("""You stretch x by the cosine and y by the sine, and that is no turn: a quarter turn must carry all
    of x over into y. Each new coordinate needs both old ones.""")
def each_for_itself(x, y, angle):
    return x * math.cos(angle), y * math.sin(angle)


@one_hand.alternative("a product of complex numbers")
def complex_product(x, y, angle):
    turned = complex(x, y) * complex(math.cos(angle), math.sin(angle))
    return turned.real, turned.imag


@one_hand.alternative("length and direction: add the angle to the direction")
def length_and_direction(x, y, angle):
    length, direction = math.hypot(x, y), math.atan2(y, x)
    return length * math.cos(direction + angle), length * math.sin(direction + angle)


@one_hand.alternative("a matrix")
def by_a_matrix(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    return tuple((matrix @ torch.tensor([x, y], dtype=torch.float64)).tolist())


# 06.3 ----------------------------------------------------------------------------------------------------------------

frequencies = Exercise(
    "06.3",
    position.rope_frequencies,
    hints=(
        "Write down i for head_dim=8: 0, 1, 2, 3. Then 2i, then 2i/8. Which call of `torch.arange` gives 2i at once?",
        "`torch.arange(0, head_dim, 2)` is 0, 2, 4, ... Divide it by head_dim, and take the base to the power of "
        "minus that.",
        "`base ** (-torch.arange(0, head_dim, 2) / head_dim)`: a number to the power of a tensor is a tensor.",
    ),
)


def _speeds_by_hand(head_dim: int, base: float) -> Tensor:
    return torch.tensor([base ** (-2 * i / head_dim) for i in range(head_dim // 2)])


@frequencies.check("eight channels, base 16: 1, a half, a quarter, an eighth")
def base_16(rope_frequencies):
    same(rope_frequencies(8, base=16.0), torch.tensor([1.0, 0.5, 0.25, 0.125]), atol=0, rtol=1e-5)


@frequencies.check("another base")
def another_base(rope_frequencies):
    head_dim, base = pick([6, 10, 12]), pick([50.0, 300.0, 7000.0])
    same(rope_frequencies(head_dim, base), _speeds_by_hand(head_dim, base), atol=0, rtol=1e-5)


@frequencies.check("64 channels, and base 10000 if nothing else is said")
def base_10000(rope_frequencies):
    same(rope_frequencies(64), _speeds_by_hand(64, 10000.0), atol=0, rtol=1e-5)


@frequencies.check("Llama 3's: 128 channels, base 500,000")
def llama_3(rope_frequencies):
    same(rope_frequencies(128, base=500000.0), _speeds_by_hand(128, 500000.0), atol=0, rtol=1e-5)


@frequencies.check("a single pair: it turns by one radian per position, whatever the base")
def single_pair(rope_frequencies):
    same(rope_frequencies(2, pick([50.0, 10000.0])), torch.tensor([1.0]))


@frequencies.mistake("""You forgot the 2 in the exponent: base**(-2i/D), where i counts the pairs. With -i/D the
    slowest hand ends at 1/100 instead of 1/10000 and can't tell far places apart. A model trained so does not look
    worse; it only can't share weights with anybody.""")
def without_the_two(head_dim, base=10000.0):
    return base ** (-torch.arange(head_dim // 2) / head_dim)


@frequencies.mistake("""Your hands slow down twice as fast as they should. Either you divided by D/2 instead of D, or
    you doubled torch.arange(0, head_dim, 2), which is 2i already.""")
def divided_by_half(head_dim, base=10000.0):
    return base ** (-torch.arange(0, head_dim, 2) / (head_dim / 2))


@frequencies.mistake("""Your hands get faster and faster. The exponent is negative: the first pair turns by 1 radian
    per position, each later one by less.""")
def positive_exponent(head_dim, base=10000.0):
    return base ** (torch.arange(0, head_dim, 2) / head_dim)


@frequencies.mistake("""You wrote 10000 into the formula, and ignored the argument `base`. Llama 3 has 500,000 there,
    and would be turned by the wrong angles.""")
def always_10000(head_dim, base=10000.0):
    return position.rope_frequencies(head_dim)


@frequencies.mistake("""You give a speed to every channel. Two channels make one hand: D/2 speeds, one per pair, with
    torch.arange(0, head_dim, 2).""")
def one_per_channel(head_dim, base=10000.0):
    return base ** (-torch.arange(head_dim) / head_dim)


@frequencies.mistake("""Your speeds are right, but each is there twice. Asked for is one per pair, D/2 of them. (Other
    programs keep them twice, to multiply whole vectors at once.)""")
def each_twice(head_dim, base=10000.0):
    once = position.rope_frequencies(head_dim, base)
    return torch.cat([once, once])


@frequencies.mistake("""You began with i = 1. The first pair has i = 0, and base**0 = 1: it turns by one radian per
    position.""")
def from_pair_one(head_dim, base=10000.0):
    return base ** (-torch.arange(2, head_dim + 2, 2) / head_dim)


@frequencies.mistake("""All your speeds are 1: `//` cuts off everything behind the point, so that 2i // D is always 0.
    Divide with `/`. As it is, all hands turn together, and every 6.28 positions everything looks the same.""")
def whole_division(head_dim, base=10000.0):
    return 1.0 / base ** (torch.arange(0, head_dim, 2) // head_dim).float()


@frequencies.mistake("""You give how many positions a whole turn takes, 2π / speed. Asked for is the speed itself, in
    radians per position.""")
def positions_per_turn(head_dim, base=10000.0):
    return 2 * math.pi / position.rope_frequencies(head_dim, base)


@frequencies.mistake("""Your speeds fall by equal steps. They fall by equal *factors*: each pair turns by the same
    fraction of the one before it. So the fast hands are close together and the slow ones reach far.""")
def equal_steps(head_dim, base=10000.0):
    return 1 - torch.arange(0, head_dim, 2) / head_dim


@frequencies.mistake("""Mind what Python calculates first: base ** -a / D is (base ** -a) / D. Put the exponent into
    brackets, base ** (-a / D).""")
def power_before_division(head_dim, base=10000.0):
    return base ** -torch.arange(0, head_dim, 2).float() / head_dim


@frequencies.alternative("a list, in Python's floats")
def a_list(head_dim, base=10000.0):
    return torch.tensor([1 / base ** (2 * i / head_dim) for i in range(head_dim // 2)])


@frequencies.alternative("exp of a logarithm")
def by_exp(head_dim, base=10000.0):
    return torch.exp(-math.log(base) / head_dim * torch.arange(0, head_dim, 2))


@frequencies.alternative("each is the one before, slowed down once more")
def step_by_step(head_dim, base=10000.0):
    slower = base ** (-2 / head_dim)
    return torch.full((head_dim // 2,), slower, dtype=torch.float64).cumprod(0).div(slower).float()


# 06.4 ----------------------------------------------------------------------------------------------------------------

pairs = Exercise(
    "06.4",
    position.rotate_pairs,
    hints=(
        "Cut x into its left and its right half, `left, right = x.chunk(2, dim=-1)`: hand i is (left[i], right[i]). "
        "What you wrote in 06.2 works for all of them at once, with left for x and right for y.",
        "Put the two new halves side by side with `torch.cat([...], dim=-1)`. Shapes (T, D/2) fit to (B, H, T, D/2) by "
        "themselves. For (B, T, D/2) put in an axis for the heads: `cos.unsqueeze(1)`, if x has more axes than cos.",
        "First `if cos.ndim == 3 and x.ndim == 4: cos, sin = cos[:, None], sin[:, None]`, then `cos, sin = "
        "cos.to(x.dtype), sin.to(x.dtype)`. The left half becomes `left * cos - right * sin`, the right one `right * "
        "cos + left * sin`.",
    ),
)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """In complex numbers and float64; cos and sin must already fit."""
    left, right = x.double().unflatten(-1, (2, -1)).unbind(-2)
    turned = torch.complex(left, right) * torch.complex(cos.double(), sin.double())
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


@pairs.check("four channels: pair 0 makes a quarter turn, pair 1 stays")
def by_hand(rotate_pairs):
    x = torch.tensor([[3.0, 2.0, 4.0, 5.0]]) + pick([0, 1, 2])
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    expected = torch.stack([-x[:, 2], x[:, 1], x[:, 0], x[:, 3]], dim=-1)
    same(rotate_pairs(x, cos, sin), expected)


@pairs.check("two sequences, three heads, the same positions for both")
def heads(rotate_pairs):
    x, angles = randn(2, 3, 5, 8), 3 * randn(5, 4)
    same(rotate_pairs(x, angles.cos(), angles.sin()), _turn(x, angles.cos(), angles.sin()))


@pairs.check("two sequences, three heads, other positions for each sequence", points=2)
def per_sequence(rotate_pairs):
    x, angles = randn(2, 3, 5, 8), 3 * randn(2, 5, 4)
    expected = torch.stack([_turn(x[b], angles[b].cos(), angles[b].sin()) for b in range(2)])
    same(rotate_pairs(x, angles.cos(), angles.sin()), expected)


@pairs.check("two sequences without an axis for heads, other positions for each")
def without_heads(rotate_pairs):
    x, angles = randn(2, 5, 6), 3 * randn(2, 5, 3)
    same(rotate_pairs(x, angles.cos(), angles.sin()), _turn(x, angles.cos(), angles.sin()))


@pairs.check("bfloat16 in, bfloat16 out, whatever cos and sin are")
def keeps_dtype(rotate_pairs):
    x, angles = randn(2, 3, 5, 8).bfloat16(), 3 * randn(5, 4)
    same(rotate_pairs(x, angles.cos(), angles.sin()), _turn(x, angles.cos(), angles.sin()), atol=6e-2, rtol=2e-2)


def _fitting(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """Left and right half, and cos and sin with an axis for the heads and of the type of x."""
    if cos.ndim == 3 and x.ndim == 4:
        cos, sin = cos[:, None], sin[:, None]
    return *x.chunk(2, dim=-1), cos.to(x.dtype), sin.to(x.dtype)


@pairs.mistake("""You paired neighbours, channels 2i and 2i + 1. That is Meta's layout, and a right one; asked for is
    half-split, where channel i is paired with channel i + D/2. A model with weights for one layout talks nonsense in
    the other.""")
def neighbours(x, cos, sin):
    left, right = x[..., 0::2], x[..., 1::2]
    _, _, cos, sin = _fitting(x, cos, sin)
    return torch.stack([left * cos - right * sin, right * cos + left * sin], dim=-1).flatten(-2)


@pairs.mistake("""You turn the hands clockwise: the minus stands in the new right half instead of the left one. Queries
    and keys turn alike, so a model of your own would learn as well; but no other model's weights would fit.""")
def turned_clockwise(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    return torch.cat([left * cos + right * sin, right * cos - left * sin], dim=-1)


@pairs.mistake("""A minus is missing: right * sin is taken *away* from the new left half. As it is, hands grow and
    shrink while they turn, and scores no longer depend on the distance alone.""")
def minus_missing(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    return torch.cat([left * cos + right * sin, right * cos + left * sin], dim=-1)


@pairs.mistake("""Your right half is made from the *new* left half. Compute both from the old halves before you write
    either of them back.""")
def new_half_too_early(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    left = left * cos - right * sin
    return torch.cat([left, right * cos + left * sin], dim=-1)


@pairs.mistake("""You turned the right pairs, and put them back in the wrong order: left and right by turns. The new
    left half goes to the left, the new right half to the right: torch.cat([...], dim=-1).""")
def put_back_by_turns(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    return torch.stack([left * cos - right * sin, right * cos + left * sin], dim=-1).flatten(-2)


@pairs.mistake("""You exchanged the halves on the way back: the new left half belongs on the left.""")
def halves_exchanged(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    return torch.cat([right * cos + left * sin, left * cos - right * sin], dim=-1)


@pairs.mistake("""You multiply the left half by the cosine and the right half by the sine. That only stretches them.
    Each new half needs both old ones, as in exercise 06.2.""")
def only_stretched(x, cos, sin):
    left, right, cos, sin = _fitting(x, cos, sin)
    return torch.cat([left * cos, right * sin], dim=-1)


@pairs.mistake("""It works as long as all sequences stand at the same positions. With a row of positions per sequence
    cos is (B, T, D/2), and x is (B, H, T, D): put an axis for the heads into cos and sin, cos.unsqueeze(1). Where the
    number of sequences and of heads are equal, nothing complains, and each *head* gets another sequence's
    positions.""")
def no_axis_for_heads(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


@pairs.mistake("""You put an axis for the heads into cos and sin whenever they have three axes. Look at x as well: if
    it is (B, T, D) it has no heads, everything fits as it is, and your extra axis pairs each sequence with the angles
    of each other one.""")
def always_an_axis_for_heads(x, cos, sin):
    if cos.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]
    return no_axis_for_heads(x, cos, sin)


@pairs.mistake("""Everything is right, but bfloat16 goes in and float32 comes out: float32 times bfloat16 is float32.
    Bring cos and sin, or the result, to x.dtype. As it is, the whole model behind it computes in float32 without a
    word, with twice the memory.""")
def float32_comes_out(x, cos, sin):
    wide = x.float()
    return position.rotate_pairs(wide, cos, sin)


@pairs.alternative("complex numbers, as Meta's code has them")
def complex_numbers(x, cos, sin):
    left, right = x.float().chunk(2, dim=-1)
    turn = torch.complex(cos.float(), sin.float())
    if turn.ndim == 3 and x.ndim == 4:
        turn = turn.unsqueeze(1)
    turned = torch.complex(left, right) * turn
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


@pairs.alternative("Hugging Face's way: x * cos + rotate_half(x) * sin")
def rotate_half(x, cos, sin):
    while 2 < cos.ndim < x.ndim:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    left, right = x.chunk(2, dim=-1)
    both = torch.cat([-right, left], dim=-1) * torch.cat([sin, sin], dim=-1) + x * torch.cat([cos, cos], dim=-1)
    return both.to(x.dtype)


@pairs.alternative("a matrix of two rows and two columns for each pair, and einsum")
def by_matrices(x, cos, sin):
    matrices = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).to(x.dtype)  # (2, 2, ..., T, D/2)
    if cos.ndim == 3 and x.ndim == 4:
        matrices = matrices.unsqueeze(3)
    hands = x.unflatten(-1, (2, -1)).movedim(-2, 0)  # (2, ..., T, D/2)
    return torch.einsum("ij...,j...->i...", matrices, hands).movedim(0, -2).flatten(-2)


@pairs.alternative("pair by pair, written into a new tensor")
def pair_by_pair(x, cos, sin):
    out, half = torch.empty_like(x), x.size(-1) // 2
    for i in range(half):
        c, s = cos[..., i], sin[..., i]  # (T,) or (B, T)
        if c.ndim == 2 and x.ndim == 4:
            c, s = c[:, None], s[:, None]
        out[..., i] = x[..., i] * c - x[..., i + half] * s
        out[..., i + half] = x[..., i + half] * c + x[..., i] * s
    return out


# 06.5 ----------------------------------------------------------------------------------------------------------------

rope = Exercise(
    "06.5",
    position.apply_rope,
    hints=(
        "Three steps, and you have all of them: the speeds of the pairs (06.3), the angle of every pair at every "
        "position (`cos_sin`), the turn (06.4).",
        "How many channels has a vector? `x.size(-1)`. The speeds need that number, and the base; `cos_sin` needs the "
        "positions that you were given, and the speeds.",
        "`frequencies = rope_frequencies(x.size(-1), base)`, then `cos, sin = cos_sin(positions, frequencies)`, then "
        "give x, cos and sin to `rotate_pairs`.",
    ),
)

POSITIONS = torch.tensor([3, 4, 5, 6, 9])


def _angles(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """position * base**(-2i/D), in float64. (..., T) -> (..., T, D/2)"""
    exponents = torch.tensor([-2 * i / head_dim for i in range(head_dim // 2)], dtype=torch.float64)
    return positions[..., None].double() * base**exponents


def _roped(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """What is right, by complex numbers in float64. x (B, H, T, D) or fewer axes; positions (T,) or (B, T)."""
    if positions.ndim == 2:
        return torch.stack([_roped(x[b], positions[b], base) for b in range(len(x))])
    angles = _angles(positions, x.size(-1), base)
    return _turn(x, angles.cos(), angles.sin())


@rope.check("eight channels, base 16, position 2: pair 0 turned by 2 radians, pair 3 by a quarter of one")
def golden(apply_rope):
    x, length = torch.zeros(2, 8), 1.0 + rand(1).item()
    x[0, 0] = x[1, 7] = length
    first = [math.cos(2), 0, 0, 0, math.sin(2), 0, 0, 0]
    last = [0, 0, 0, -math.sin(2 / 8), 0, 0, 0, math.cos(2 / 8)]
    same(apply_rope(x, torch.tensor([2, 2]), base=16.0), length * torch.tensor([first, last]))


@rope.check("two sequences, three heads, positions 3, 4, 5, 6 and 9, base 50", points=2)
def several_heads(apply_rope):
    x = randn(2, 3, 5, 8)
    same(apply_rope(x, POSITIONS, 50.0), _roped(x, POSITIONS, 50.0))


@rope.check("base 10000 if nothing else is said")
def usual_base(apply_rope):
    x, positions = randn(2, 3, 5, 10), POSITIONS + pick([0, 10, 20])
    same(apply_rope(x, positions), _roped(x, positions, 10000.0), atol=2e-5)


@rope.check("other positions for each of two sequences")
def positions_per_sequence(apply_rope):
    x, positions = randn(2, 3, 5, 8), torch.stack([POSITIONS, POSITIONS.flip(0) + 7])
    same(apply_rope(x, positions, 50.0), _roped(x, positions, 50.0))


@rope.check("nothing turned at position 0")
def nothing_at_zero(apply_rope):
    x = randn(2, 3, 1, 8)
    same(apply_rope(x, torch.tensor([0]), 50.0), x)


@rope.check("bfloat16 queries at positions 4094 and 4095: angles as exact as in float32")
def far_in_bfloat16(apply_rope):
    x, positions = randn(2, 3, 2, 8).bfloat16(), torch.tensor([4095, 4094])
    same(apply_rope(x, positions), _roped(x, positions, 10000.0), atol=6e-2, rtol=2e-2)


def _with_angles(x: Tensor, angles: Tensor) -> Tensor:
    return position.rotate_pairs(x, angles.cos(), angles.sin())


def _float_angles(positions: Tensor, speeds: Tensor) -> Tensor:
    return positions[..., None].float() * speeds


@rope.mistake("""You paired neighbours, channels 2i and 2i + 1: Meta's layout. It is a right one, but this course, like
    Hugging Face, pairs channel i with channel i + D/2. Weights made for one layout talk nonsense in the other.""")
def meta_layout(x, positions, base=10000.0):
    return position.apply_rope_interleaved(x, positions, base)


@rope.mistake("""You forgot the 2 in the exponent: pair i turns by base**(-2i/D) per position, and i counts the pairs.
    A model trained with your speeds looks no worse. It only can't read anybody else's weights.""")
def forgot_the_two(x, positions, base=10000.0):
    return _with_angles(x, _float_angles(positions, base ** (-torch.arange(x.size(-1) // 2) / x.size(-1))))


@rope.mistake("""Your hands slow down twice as fast: the exponent is -2i/D with D = head_dim, all channels of a head,
    not D/2.""")
def half_the_width(x, positions, base=10000.0):
    return _with_angles(x, _float_angles(positions, position.rope_frequencies(x.size(-1), base) ** 2))


@rope.mistake("""Your hands get faster from pair to pair: the exponent -2i/D is negative. With base 10000 the last hand
    of yours spins thousands of times per position.""")
def faster_from_pair_to_pair(x, positions, base=10000.0):
    return _with_angles(x, _float_angles(positions, 1 / position.rope_frequencies(x.size(-1), base)))


@rope.mistake("""You did not hand on the base, so that it is always 10000. Llama 3 was trained with 500,000.""")
def base_not_handed_on(x, positions, base=10000.0):
    return position.apply_rope(x, positions)


@rope.mistake("""You ignored the positions, and counted 0, 1, 2, ... yourself. When a model writes, it is fed one new
    token at a time (chapter 11): every one of them would stand at position 0, and the text would fall apart.""")
def counted_anew(x, positions, base=10000.0):
    return position.apply_rope(x, torch.arange(x.size(-2)), base)


@rope.mistake("""You count positions from the first one of these tokens. Use them as they are given: a query at 9 and a
    key that was turned long ago, at 3, must come out six apart.""")
def from_the_first(x, positions, base=10000.0):
    return position.apply_rope(x, positions - positions[..., :1], base)


@rope.mistake("""You gave all sequences the positions of the first one. With shape (B, T) each has its own; they differ
    where a batch is padded.""")
def first_row_for_all(x, positions, base=10000.0):
    return position.apply_rope(x, positions[0] if positions.ndim == 2 else positions, base)


@rope.mistake("""You turn clockwise. Queries and keys turn alike, so your own model would not notice; but weights from
    elsewhere would see the whole text in reverse.""")
def the_other_way_round(x, positions, base=10000.0):
    return position.apply_rope(x, -positions, base)


@rope.mistake("""You computed the angles in the type of x. bfloat16 can't count past 256: 4094 and 4095 both become
    4096. Compute position times speed in float32 (`cos_sin` does), and cast the cosine and the sine afterwards.""")
def angles_in_bfloat16(x, positions, base=10000.0):
    return position.apply_rope(x, positions.to(x.dtype), base)


@rope.mistake("""You mixed two layouts: the halves are those of half-split, but your angles stand twice side by side
    (repeat_interleave), as for neighbours. Use torch.cat([angles, angles], dim=-1), or none of the two. As it is, the
    lengths of the vectors change.""")
def mixed_layouts(x, positions, base=10000.0):
    angles = _float_angles(positions, position.rope_frequencies(x.size(-1), base)).repeat_interleave(2, dim=-1)
    if angles.ndim == 3 and x.ndim == 4:
        angles = angles[:, None]
    left, right = x.chunk(2, dim=-1)
    return (x * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()).to(x.dtype)


@rope.mistake("""A minus is missing in the turn: the new left half is left * cos - right * sin. As it is, vectors grow
    and shrink with their position.""")
def lost_minus(x, positions, base=10000.0):
    return minus_missing(x, *position.cos_sin(positions, position.rope_frequencies(x.size(-1), base)))


@rope.mistake("""You took the angles for degrees. Speeds are in radians per position; .cos() and .sin() expect
    radians.""")
def in_degrees(x, positions, base=10000.0):
    angles = _float_angles(positions, position.rope_frequencies(x.size(-1), base))
    return _with_angles(x, torch.deg2rad(angles))


@rope.mistake("""You have the axes (B, T, H, D) in mind, as Meta's code has them. Here the heads come before the
    tokens, (B, H, T, D): position t belongs to the second axis from the right.""")
def tokens_before_heads(x, positions, base=10000.0):
    cos, sin = position.cos_sin(positions, position.rope_frequencies(x.size(-1), base))
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


@rope.mistake("""Everything is right, but bfloat16 goes in and float32 comes out. Give back the type that you were
    given: `.to(x.dtype)`.""")
def wide_result(x, positions, base=10000.0):
    return position.apply_rope(x.float(), positions, base)


@rope.mistake("""You exchanged cosine and sine on the way to the turn. At position 0 nothing may turn: cos is 1 there,
    and sin is 0.""")
def sine_and_cosine_exchanged(x, positions, base=10000.0):
    cos, sin = position.cos_sin(positions, position.rope_frequencies(x.size(-1), base))
    return position.rotate_pairs(x, sin, cos)


@rope.mistake("""You count positions from 1. Use them as they are given; distances would not notice, but at position 0
    nothing may turn.""")
def one_further_on(x, positions, base=10000.0):
    return position.apply_rope(x, positions + 1, base)


@rope.mistake("""You asked for the speeds of D/2 channels, and got D/4 of them. `rope_frequencies` wants the number of
    channels of a head, x.size(-1); it halves that itself.""")
def speeds_of_half_a_head(x, positions, base=10000.0):
    return position.rotate_pairs(x, *position.cos_sin(positions, position.rope_frequencies(x.size(-1) // 2, base)))


@rope.alternative("all in one, by complex numbers")
def all_in_one(x, positions, base=10000.0):
    D = x.size(-1)
    angles = positions.float().unsqueeze(-1) / base ** (torch.arange(0, D, 2) / D)
    turn = torch.polar(torch.ones_like(angles), angles)
    if turn.ndim == 3 and x.ndim == 4:
        turn = turn[:, None]
    turned = torch.view_as_complex(torch.stack(x.float().chunk(2, dim=-1), dim=-1)) * turn
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


@rope.alternative("in float64, with rotate_half")
def in_float64(x, positions, base=10000.0):
    angles = positions.double()[..., None] * torch.tensor(
        [base ** (-2 * i / x.size(-1)) for i in range(x.size(-1) // 2)]
    )
    angles = torch.cat([angles, angles], dim=-1)
    while 2 < angles.ndim < x.ndim:
        angles = angles.unsqueeze(1)
    left, right = x.double().chunk(2, dim=-1)
    return (x.double() * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()).to(x.dtype)


@rope.alternative("token by token, pair by pair, one clock hand at a time")
def hand_by_hand(x, positions, base=10000.0):
    if positions.ndim == 2:
        return torch.stack([hand_by_hand(x[b], positions[b], base) for b in range(len(x))])
    out, half = x.clone(), x.size(-1) // 2
    for t, place in enumerate(positions.tolist()):
        for i in range(half):
            angle = place * base ** (-i / half)
            a, b = x[..., t, i].float(), x[..., t, i + half].float()
            out[..., t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., t, i + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


# 06.6 ----------------------------------------------------------------------------------------------------------------

layouts = Exercise(
    "06.6",
    position.interleaved_to_half,
    hints=(
        "Do one head on paper first. Its rows 0 and 1 are pair 0. Where does half-split want the two, if a head has 8 "
        "rows? And rows 2 and 3?",
        "Per head: first its even rows 0, 2, 4, ..., then its odd rows 1, 3, 5, ... Reshape to (H, D/2, 2, ...): "
        "head, pair, which of the two. Which two axes must change places?",
        "`rows = weight.view(n_heads, -1, 2, *weight.shape[1:])`, exchange the axes 1 and 2 with `.transpose(1, 2)`, "
        "and `.reshape` to `weight.shape`.",
    ),
)


@layouts.check("a single head of eight rows")
def one_head(interleaved_to_half):
    start = pick([0, 10, 20])
    expected = start + torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    same(interleaved_to_half(torch.arange(start, start + 8), 1), expected)


@layouts.check("three heads of eight rows: none leaves its head")
def three_heads(interleaved_to_half):
    rows = torch.arange(24)
    expected = torch.tensor([8 * h + i for h in range(3) for i in (0, 2, 4, 6, 1, 3, 5, 7)])
    same(interleaved_to_half(rows, 3), expected)


@layouts.check("a weight of 24 rows and 5 columns: whole rows move")
def whole_rows(interleaved_to_half):
    weight = randn(24, 5)
    rows = [8 * h + i for h in range(3) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    same(interleaved_to_half(weight, 3), weight[rows])


@layouts.check("the scores between queries and keys as before, now with half-split RoPE", points=2)
def same_scores(interleaved_to_half):
    x, wq, wk = randn(5, 7), randn(24, 7), randn(24, 7)

    def scores(rope, wq, wk):
        q, k = ((x @ w.T).unflatten(-1, (3, 8)).transpose(0, 1) for w in (wq, wk))  # (H, T, D)
        return rope(q, POSITIONS, 50.0) @ rope(k, POSITIONS, 50.0).mT

    reordered = interleaved_to_half(wq, 3), interleaved_to_half(wk, 3)
    given = reordered
    if all(isinstance(w, Tensor) and w.shape == (24, 7) for w in reordered):
        given = scores(position.apply_rope, *reordered)
    same(given, scores(position.apply_rope_interleaved, wq, wk), atol=1e-3, rtol=1e-4)


def _even_then_odd(weight: Tensor) -> Tensor:
    return torch.cat([weight[0::2], weight[1::2]])


@layouts.mistake("""You went the other way, from half-split to interleaved: 0, 4, 1, 5, ... Asked for is even rows
    first, then odd ones: 0, 2, 4, 6, 1, ... With four rows per head both are the same, so it is easily missed. A model
    converted the wrong way talks nonsense twice over.""")
def the_wrong_way(weight, n_heads):
    return position.half_to_interleaved(weight, n_heads)


@layouts.mistake("""You sorted all rows at once, and so mixed the heads. Reorder within each head of D rows: for one
    head alone your code is right.""")
def across_heads(weight, n_heads):
    return _even_then_odd(weight)


@layouts.mistake("""You put the odd rows first. Pair i is (row 2i, row 2i + 1): the even row is the first number of the
    hand, and goes to the left half. As it is, each hand is reflected, and turns the wrong way.""")
def odd_rows_first(weight, n_heads):
    return torch.cat([torch.cat([w[1::2], w[0::2]]) for w in weight.chunk(n_heads)])


@layouts.mistake("""You moved columns. What RoPE turns are the *outputs* of the projection, and those are the rows of
    its weight, (H * D, C). The columns belong to the embedding, whose channels have no layout. (A bias has no second
    axis at all.)""")
def columns_instead(weight, n_heads):
    return torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)


@layouts.mistake("""You reversed the order of the heads, or of the rows within them, as well. Heads stay where they
    are, and pairs keep their order: 0, 2, 4, 6, 1, 3, 5, 7.""")
def reversed_heads(weight, n_heads):
    return torch.cat([_even_then_odd(w) for w in reversed(weight.chunk(n_heads))]).flip(0)


@layouts.mistake("""You took n_heads for the number of channels per head. A head has weight.size(0) / n_heads rows.""")
def heads_for_channels(weight, n_heads):
    n = weight.size(0) // n_heads
    return torch.cat([_even_then_odd(w) for w in weight.chunk(n)])


@layouts.mistake("""Your reshape gives back the rows in the order in which they came: nothing has moved. Exchange two
    axes (transpose) between the two reshapes, or take rows by a list of their numbers.""")
def nothing_moved(weight, n_heads):
    return weight.view(n_heads, -1, 2, *weight.shape[1:]).reshape(weight.shape)


@layouts.mistake("""For a bias your code is right; in a weight you tore the rows apart, because .view(n_heads, -1, 2)
    spreads the columns over the same three axes. Name their axis too: .view(n_heads, -1, 2, *weight.shape[1:]).""")
def torn_rows(weight, n_heads):
    return weight.view(n_heads, -1, 2).transpose(1, 2).reshape(weight.shape)


@layouts.mistake("""You exchanged the axes of the heads and of the pairs: .view(-1, n_heads, 2) takes neighbours for
    members of different heads. The heads come first, since the rows of one head stand together.""")
def pairs_before_heads(weight, n_heads):
    return weight.view(-1, n_heads, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


@layouts.alternative("a list of row numbers")
def row_numbers(weight, n_heads):
    D = weight.size(0) // n_heads
    rows = [h * D + 2 * i + second for h in range(n_heads) for second in (0, 1) for i in range(D // 2)]
    return weight[rows]


@layouts.alternative("head by head, even rows and odd rows by slices")
def head_by_head(weight, n_heads):
    return torch.cat([torch.cat([w[0::2], w[1::2]]) for w in weight.split(weight.size(0) // n_heads)])


@layouts.alternative("into an empty tensor, row by row")
def row_by_row(weight, n_heads):
    out, D = torch.empty_like(weight), weight.size(0) // n_heads
    for row in range(weight.size(0)):
        head, i = divmod(row, D)
        out[head * D + i // 2 + (D // 2 if i % 2 else 0)] = weight[row]
    return out


# 06.7 ----------------------------------------------------------------------------------------------------------------

llama3 = Exercise(
    "06.7",
    position.llama3_scaling,
    hints=(
        "Count turns first: in one position a pair turns by its frequency, in radians; in original_max_len positions "
        "by that many times as much; and a whole turn is 2π.",
        "Make a number between 0 (slow) and 1 (fast) for each pair: 0 at low_freq_factor turns, 1 at high_freq_factor "
        "turns, a straight line between, and `.clamp(0, 1)` beyond both ends.",
        "`turns = original_max_len * frequencies / (2 * math.pi)`, and `fast = ((turns - low) / (high - "
        "low)).clamp(0, 1)`. The result is a mixture: `fast` parts of the old frequency and `1 - fast` parts of the "
        "stretched one, frequency / factor.",
    ),
)

USUAL = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_len=8192)


def _frequencies(turns: list[float], length: int) -> Tensor:
    return torch.tensor([n * 2 * math.pi / length for n in turns])


@llama3.check("pairs that turn 5 times or more in 8192 positions: unchanged")
def fast_pairs(llama3_scaling):
    given = _frequencies([1300.0, 100.0 + 10 * rand(1).item(), 5.0], 8192)
    same(llama3_scaling(given, 8.0, 1.0, 4.0, 8192), given, atol=0, rtol=1e-4)


@llama3.check("pairs that make less than one turn: slower by the factor")
def slow_pairs(llama3_scaling):
    factor = pick([2.0, 8.0, 32.0])
    given = _frequencies([0.9, 0.1 + 0.1 * rand(1).item(), 0.001], 8192)
    same(llama3_scaling(given, factor, 1.0, 4.0, 8192), given / factor, atol=0, rtol=1e-4)


@llama3.check("pairs between: 1, 1.75, 2.5, 3.25 and 4 turns, factor 8", points=2)
def pairs_between(llama3_scaling):
    given = _frequencies([1.0, 1.75, 2.5, 3.25, 4.0], 8192)
    shares = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    same(llama3_scaling(given, 8.0, 1.0, 4.0, 8192), given * (shares + (1 - shares) / 8), atol=0, rtol=1e-4)


@llama3.check("other borders: slow below 2 turns, fast above 10")
def other_borders(llama3_scaling):
    given = _frequencies([1.5, 4.0, 6.0, 9.0, 12.0], 8192)
    shares = torch.tensor([0.0, 0.25, 0.5, 0.875, 1.0])
    same(llama3_scaling(given, 4.0, 2.0, 10.0, 8192), given * (shares + (1 - shares) / 4), atol=0, rtol=1e-4)


@llama3.check("a model that was trained on 256 positions")
def other_length(llama3_scaling):
    length = pick([256, 512])
    given = _frequencies([0.5, 1.75, 3.25, 7.0], length)
    shares = torch.tensor([0.0, 0.25, 0.75, 1.0])
    same(llama3_scaling(given, 8.0, 1.0, 4.0, length), given * (shares + (1 - shares) / 8), atol=0, rtol=1e-4)


def _share(frequencies, low, high, length):
    return (length * frequencies / (2 * math.pi) - low) / (high - low)


def _mixed(frequencies: Tensor, factor: float, share: Tensor) -> Tensor:
    return share * frequencies + (1 - share) * frequencies / factor


@llama3.mistake("""You stretched all pairs alike: that is linear scaling. Leave the fast ones as they are. They tell
    neighbours apart, and with all of them slowed down the model reads every text as if it stood eight times closer
    together.""")
def all_alike(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return frequencies / factor


@llama3.mistake("""You exchanged slow and fast. The *slow* pairs are stretched, the fast ones stay: a pair that never
    made a whole turn in training would otherwise point where it never pointed before.""")
def slow_and_fast_exchanged(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    share = _share(frequencies, low_freq_factor, high_freq_factor, original_max_len).clamp(0, 1)
    return _mixed(frequencies, factor, 1 - share)


@llama3.mistake("""You forgot to clamp. Beyond both borders the straight line goes on, to shares below 0 and above 1,
    and fast pairs get faster than they ever were: .clamp(0, 1).""")
def not_clamped(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return _mixed(frequencies, factor, _share(frequencies, low_freq_factor, high_freq_factor, original_max_len))


@llama3.mistake("""Slow and fast pairs are right, those between are not: you stretch everything below the upper border.
    Between the borders go smoothly from one to the other.""")
def hard_upper_border(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    share = _share(frequencies, low_freq_factor, high_freq_factor, original_max_len) > 1 - 1e-4
    return torch.where(share, frequencies, frequencies / factor)


@llama3.mistake("""Slow and fast pairs are right, those between are not: you leave everything above the lower border as
    it is. Between the borders go smoothly from one to the other.""")
def hard_lower_border(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    share = _share(frequencies, low_freq_factor, high_freq_factor, original_max_len) > 1e-4
    return torch.where(share, frequencies, frequencies / factor)


@llama3.mistake("""You forgot 2π. Length times frequency is an angle in radians; divide it by 2π to have turns. As it
    is, slow pairs count as fast ones.""")
def radians_for_turns(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(
        frequencies, factor, low_freq_factor, high_freq_factor, 2 * math.pi * original_max_len
    )


@llama3.mistake("""You multiplied by the factor where you should divide. Slow pairs must get slower, so that in the
    longer text they come no further than they came before.""")
def multiplied(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(frequencies, 1 / factor, low_freq_factor, high_freq_factor, original_max_len)


@llama3.mistake("""Between the borders you mixed the wrong thing: you divide by a mixture of 1 and the factor. Mix the
    two *frequencies*: fast parts of the old one, 1 - fast parts of the stretched one.""")
def mixed_factors(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    share = _share(frequencies, low_freq_factor, high_freq_factor, original_max_len).clamp(0, 1)
    return frequencies / (share + (1 - share) * factor)


@llama3.mistake("""Between the borders your straight line goes by the length of a turn (positions per turn) instead of
    by the number of turns. Both go from 0 to 1, but not through the same values.""")
def by_wavelength(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    lengths = 2 * math.pi / frequencies
    longest, shortest = original_max_len / low_freq_factor, original_max_len / high_freq_factor
    return _mixed(frequencies, factor, ((longest - lengths) / (longest - shortest)).clamp(0, 1))


@llama3.mistake("""You counted turns in the *new* length, factor times the old one. What counts is what a pair did in
    training: original_max_len positions.""")
def in_the_new_length(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(
        frequencies, factor, low_freq_factor, high_freq_factor, factor * original_max_len
    )  # fmt: skip


@llama3.mistake("""You wrote 8192 into the formula. It is right for Llama 3.1, but the argument is there for other
    models: use original_max_len.""")
def always_8192(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(frequencies, factor, low_freq_factor, high_freq_factor, 8192)


@llama3.mistake("""You wrote the borders 1 and 4 into the formula. Use low_freq_factor and high_freq_factor.""")
def always_one_and_four(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(frequencies, factor, 1.0, 4.0, original_max_len)


@llama3.mistake("""Your straight line begins at 0 turns instead of low_freq_factor turns: (turns - low) / (high - low).
    As it is, slow pairs keep a part of their speed, and in a longer text go further than they ever went.""")
def line_from_zero(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    return position.llama3_scaling(frequencies, factor, 0.0, high_freq_factor, original_max_len)


@llama3.alternative("pair by pair, by wavelengths, as in the code released with Llama 3.1")
def pair_by_pair_as_meta(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    scaled = []
    for frequency in frequencies.tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < original_max_len / high_freq_factor:
            scaled.append(frequency)
        elif wavelength > original_max_len / low_freq_factor:
            scaled.append(frequency / factor)
        else:
            smooth = (original_max_len / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
            scaled.append((1 - smooth) * frequency / factor + smooth * frequency)
    return torch.tensor(scaled)


@llama3.alternative("torch.where, for the three kinds")
def three_kinds(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    turns = original_max_len * frequencies / (2 * math.pi)
    stretched = frequencies / factor
    share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    between = stretched + share * (frequencies - stretched)
    result = torch.where(turns < low_freq_factor, stretched, between)
    return torch.where(turns > high_freq_factor, frequencies, result)


@llama3.alternative("torch.lerp between the two frequencies")
def by_lerp(frequencies, factor, low_freq_factor, high_freq_factor, original_max_len):
    turns = frequencies * (original_max_len / math.tau)
    fast = torch.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0.0, 1.0)
    return torch.lerp(frequencies / factor, frequencies, fast)


# 06.8 ----------------------------------------------------------------------------------------------------------------

part = Exercise(
    "06.8",
    position.RoPE,
    given=("__init__", "frequencies"),
    hints=(
        "`add` has to give x back as it is: RoPE adds nothing. `rotate` has to turn x. With only that your part is "
        "right; the rest is about not computing the same angles again in every layer.",
        "`self.frequencies()` are the speeds, scaled where the config says so; `cos_sin` and `rotate_pairs` do the "
        "rest. In `add`, remember three things in `self.prepared`: the positions, their cosines, their sines.",
        "In `rotate`: `prepared_for, cos, sin = self.prepared`; if `prepared_for is not positions`, compute cos and "
        "sin for these positions; then give x, cos and sin to `rotate_pairs`.",
    ),
)


def _config(**changes) -> Config:
    sizes = dict(vocab_size=11, d_model=24, n_layers=1, n_heads=3, d_ff=5, max_len=10, rope_base=50.0)
    return Config(**(sizes | changes))  # type: ignore[arg-type]


@part.check("add: the embeddings back, unchanged")
def adds_nothing(RoPE):
    x = randn(2, 5, 24)
    same(RoPE(_config()).add(x, POSITIONS), x)


@part.check("rotate, at positions that add was called for before")
def rotates(RoPE):
    rope, q = RoPE(_config()), randn(2, 3, 5, 8)
    rope.add(randn(2, 5, 24), POSITIONS)
    same(rope.rotate(q, POSITIONS), _roped(q, POSITIONS, 50.0))


@part.check("rotate alone, without add before it")
def rotates_alone(RoPE):
    q = randn(2, 3, 5, 8)
    same(RoPE(_config()).rotate(q, POSITIONS), _roped(q, POSITIONS, 50.0))


@part.check("rotate at other positions than those that add was called for")
def other_positions(RoPE):
    rope, q = RoPE(_config()), randn(2, 3, 5, 8)
    rope.add(randn(2, 5, 24), POSITIONS)
    same(rope.rotate(q, POSITIONS + 2), _roped(q, POSITIONS + 2, 50.0))


@part.check("a second text: add and rotate once more, at positions 10 further on")
def second_text(RoPE):
    rope, q = RoPE(_config()), randn(2, 3, 5, 8)
    for shift in (0, 10):
        rope.add(randn(2, 5, 24), POSITIONS + shift)
        turned = rope.rotate(q, POSITIONS + shift)
    same(turned, _roped(q, POSITIONS + 10, 50.0))


@part.check("other positions for each of two sequences")
def a_row_per_sequence(RoPE):
    rope, q, positions = RoPE(_config()), randn(2, 3, 5, 8), integers(0, 30, 2, 5)
    rope.add(randn(2, 5, 24), positions)
    same(rope.rotate(q, positions), _roped(q, positions, 50.0))


@part.check("a config with linear scaling by 4: as if every position were a quarter of what it is")
def scaled(RoPE):
    rope, q = RoPE(_config(rope_scaling=dict(kind="linear", factor=4.0))), randn(2, 3, 5, 8)
    rope.add(randn(2, 5, 24), POSITIONS)
    same(rope.rotate(q, POSITIONS), _roped(q, POSITIONS / 4, 50.0))


@part.check("bfloat16 queries at positions 4094 and 4095")
def exact_in_bfloat16(RoPE):
    rope, q, positions = RoPE(_config(rope_base=10000.0)), randn(2, 3, 2, 8).bfloat16(), torch.tensor([4095, 4094])
    rope.add(randn(2, 2, 24).bfloat16(), positions)
    same(rope.rotate(q, positions), _roped(q, positions, 10000.0), atol=6e-2, rtol=2e-2)


@part.mistake("""`rotate` always takes the angles that `add` prepared, whatever positions it is handed. Compare them
    (`is`) with those the angles were made for, and compute new ones where they differ. Without `add` before it, there
    are no angles at all.""")
class AlwaysThePrepared(position.RoPE):
    def rotate(self, x, positions):
        _, cos, sin = self.prepared
        return position.rotate_pairs(x, cos, sin)


@part.mistake("""You turn the embeddings in `add` as well. RoPE leaves them alone, `return x`: only queries and keys
    are turned, in every layer anew.""")
class TurnsTheEmbeddings(position.RoPE):
    def add(self, x, positions):
        super().add(x, positions)
        return position.apply_rope(x, positions, self.base)


@part.mistake("""`add` gives nothing back. The model goes on with what `add` returns: `return x`.""")
class GivesNothingBack(position.RoPE):
    def add(self, x, positions):
        super().add(x, positions)


@part.mistake("""You add waves to the embeddings and turn the queries, two kinds of positions at once. `add` gives x
    back as it is.""")
class AddsWavesToo(position.RoPE):
    def add(self, x, positions):
        return super().add(x, positions) + position.sinusoidal(1000, x.size(-1))[positions]


@part.mistake(
    """You turn with base 10000, whatever the config says. `self.frequencies()` knows the base and the scaling."""
)
class UsualBase(position.RoPE):
    def add(self, x, positions):
        return x

    def rotate(self, x, positions):
        return position.apply_rope(x, positions)


@part.mistake("""The base is right, the scaling is forgotten: take the speeds from `self.frequencies()`, not from
    `rope_frequencies` itself. Llama 3.1 would be lost beyond its first 8192 tokens.""")
class ForgetsTheScaling(position.RoPE):
    def add(self, x, positions):
        return x

    def rotate(self, x, positions):
        return position.apply_rope(x, positions, self.base)


@part.mistake("""You compute the angles once and keep them for ever. The next text stands at other positions: renew
    them in each call of `add`, and compare in `rotate`.""")
class KeptForEver(position.RoPE):
    def add(self, x, positions):
        if self.prepared[0] is None:
            super().add(x, positions)
        return x

    def rotate(self, x, positions):
        self.add(x, positions)
        return position.rotate_pairs(x, *self.prepared[1:])


@part.mistake("""You ignored the positions, and counted 0, 1, 2, ... yourself. A token that is written later comes
    alone, and would always stand at position 0.""")
class CountsForItself(position.RoPE):
    def rotate(self, x, positions):
        return super().rotate(x, torch.arange(x.size(-2)))


@part.mistake("""You computed the angles in the type of x. bfloat16 can't count past 256; `cos_sin` computes in
    float32, if you give it the positions as they are.""")
class AnglesInTheTypeOfX(position.RoPE):
    def rotate(self, x, positions):
        return super().rotate(x, positions.to(x.dtype))


@part.mistake("""You compare positions with `==`. For tensors that gives True or False for each number, and `if` does
    not know what to do with several of them. `is` asks whether it is the same tensor; `torch.equal` whether all
    numbers are the same.""")
class ComparedWithEquals(position.RoPE):
    def rotate(self, x, positions):
        if self.prepared[0] == positions:
            return position.rotate_pairs(x, *self.prepared[1:])
        return position.rotate_pairs(x, *position.cos_sin(positions, self.frequencies()))


@part.mistake("""Right, as long as `add` comes first. Without it self.prepared holds None three times, and None can't
    be compared with torch.equal: ask `self.prepared[0] is not None` before, or compare with `is`.""")
class NothingToCompareWith(position.RoPE):
    def rotate(self, x, positions):
        if torch.equal(self.prepared[0], positions):
            return position.rotate_pairs(x, *self.prepared[1:])
        return position.rotate_pairs(x, *position.cos_sin(positions, self.frequencies()))


@part.alternative("nothing prepared: the angles anew in each layer")
class NothingPrepared(position.RoPE):
    def add(self, x, positions):
        return x

    def rotate(self, x, positions):
        cos, sin = position.cos_sin(positions, self.frequencies())
        return position.rotate_pairs(x, cos, sin)


@part.alternative("complex numbers, remembered by the positions' values")
class RememberedByValue(position.RoPE):
    def add(self, x, positions):
        self.prepared = positions.clone(), torch.exp(1j * positions[..., None] * self.frequencies())
        return x

    def rotate(self, x, positions):
        if self.prepared[0] is None or not torch.equal(self.prepared[0], positions):
            self.add(x, positions)
        turn = self.prepared[1]
        turn = turn[:, None] if turn.ndim == 3 else turn
        left, right = x.float().chunk(2, dim=-1)
        turned = torch.complex(left, right) * turn
        return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)
