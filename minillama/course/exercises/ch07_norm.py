"""Exercises of chapter 07: LayerNorm, its backward, RMSNorm, the block, a broken block, a norm folded away."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import attention, block, norm
from minillama.attention import causal_mask
from minillama.block import Block, Parts, PostNormBlock
from minillama.config import Config
from minillama.course.checks import (
    gradients,
    rand,
    randn,
    same,
    with_random_weights,
    with_weights,
)
from minillama.course.exercise import Exercise
from minillama.feedforward import ReLUFeedForward
from minillama.position import apply_rope

# 07.1 LayerNorm -----------------------------------------------------------------------------------------------------

layernorm = Exercise(
    "07.1",
    norm.LayerNorm,
    hints=(
        "One token needs two numbers, its mean and its variance, from its own channels and nobody else's: "
        "`mean(-1, keepdim=True)` gives one number per token, in a shape that can be subtracted.",
        "Three steps: subtract the mean; divide by the root of (the mean of the squares + eps); times weight, plus "
        "bias. Start from `x.float()`, and go back with `.to(x.dtype)` before the weight.",
        "`centred = wide - wide.mean(-1, keepdim=True)`, then `centred.pow(2).mean(-1, keepdim=True)` is the "
        "variance. `torch.rsqrt(z)` is 1 / sqrt(z).",
    ),
)


@layernorm.check("two tokens that can be done by hand: [9, 7, 15, 1] and [1, 0, 0, 0]")
def layernorm_by_hand(LayerNorm):
    ln = with_weights(LayerNorm(4), {"weight": torch.ones(4), "bias": torch.tensor([0.0, 0, 0, 10])})
    x = torch.tensor([[[9.0, 7, 15, 1], [1, 0, 0, 0]]])
    expected = torch.tensor([[[0.2, -0.2, 1.4, 8.6], [1.732, -0.5773, -0.5773, 9.4227]]])
    same(ln(x), expected, atol=1e-3)


@layernorm.check("tokens of usual size, with a weight and a bias per channel")
def layernorm_usual(LayerNorm):
    ln = with_random_weights(LayerNorm(8))
    x = 3 * randn(2, 3, 8) + 1.5
    same(ln(x), F.layer_norm(x, (8,), ln.weight, ln.bias), atol=1e-4)


@layernorm.check("tokens so small that eps shows")
def layernorm_tiny(LayerNorm):
    ln = with_random_weights(LayerNorm(8))
    x = 2e-3 * randn(2, 3, 8)
    same(ln(x), F.layer_norm(x, (8,), ln.weight, ln.bias, eps=1e-5))


@layernorm.check("another eps than the usual one")
def layernorm_own_eps(LayerNorm):
    ln = with_random_weights(LayerNorm(8, eps=0.3))
    x = randn(2, 3, 8)
    same(ln(x), F.layer_norm(x, (8,), ln.weight, ln.bias, eps=0.3))


@layernorm.check("a token whose channels are all alike")
def layernorm_constant(LayerNorm):
    ln = with_random_weights(LayerNorm(8))
    x = torch.full((1, 2, 8), 7.0)
    same(ln(x), ln.bias.expand(1, 2, 8).clone())


@layernorm.check("float16 numbers in the hundreds: no overflow, and float16 comes back")
def layernorm_half(LayerNorm):
    ln = with_random_weights(LayerNorm(8)).half()
    x = (300 * randn(2, 3, 8)).half()
    expected = F.layer_norm(x.double(), (8,), ln.weight.double(), ln.bias.double(), eps=1e-5).half()
    same(ln(x), expected, atol=5e-3, rtol=5e-3)


@layernorm.check("slopes that flow back through the mean and the standard deviation")
def layernorm_slopes(LayerNorm):
    ln = with_random_weights(LayerNorm(8))
    x = randn(2, 3, 8)
    found = gradients(ln, x)
    leaf = x.clone().requires_grad_()
    (F.layer_norm(leaf, (8,), ln.weight.detach(), ln.bias.detach()) * found["out_gradient"]).sum().backward()
    same(found["inputs"][0], leaf.grad, atol=1e-4)


@layernorm.mistake("""You used torch.std, which divides by C - 1, and you added eps to the deviation. LayerNorm divides
    by C (`correction=0`, or a mean of squares), and eps goes under the root, to the variance.""")
class StdPlusEps(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        wide = (wide - wide.mean(-1, keepdim=True)) / (wide.std(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You added eps to the standard deviation. It belongs under the root, to the variance: sqrt(var +
    eps). For ordinary tokens nobody sees the difference; for small ones the outputs are too large.""")
class EpsOutsideTheRoot(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        deviation = wide.var(-1, keepdim=True, correction=0).sqrt() + self.eps
        return ((wide - wide.mean(-1, keepdim=True)) / deviation).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""Your variance divides by C - 1, torch.var's default. LayerNorm divides by C: pass
    `correction=0`, or take the mean of the squares. With 4 channels that is 13 % off, with 4096 channels no loss
    curve would tell you.""")
class VarianceOfASample(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.var(-1, keepdim=True) + self.eps)
        return ((wide - wide.mean(-1, keepdim=True)) * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You took the root twice: torch.std is already a root. Take the root of (variance + eps), once.""")
class RootOfTheDeviation(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        deviation = wide.std(-1, keepdim=True, correction=0)
        scale = torch.rsqrt(deviation + self.eps)
        return ((wide - wide.mean(-1, keepdim=True)) * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You divided by the variance. Divide by its root, the standard deviation: a token that is ten
    times as large must come out the same, and yours comes out ten times as small.""")
class NoRoot(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        return (centred / (centred.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You took mean and variance over the tokens (dim=1). Take them over the channels of each token
    (dim=-1). With your version a token is changed by the tokens after it: the model sees the future.""")
class OverTheTokens(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        centred = wide - wide.mean(1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return (centred * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You took mean and variance over the batch (dim=0): that is batch normalization. Take them over
    the channels (dim=-1), so that a text does not depend on which other texts happen to be in its batch.""")
class OverTheBatch(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        centred = wide - wide.mean(0, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(0, keepdim=True) + self.eps)
        return (centred * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You took one mean and one variance for all tokens of a text together. Each token needs its own
    two numbers: average over the last axis only (dim=-1).""")
class OverTokensAndChannels(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        centred = wide - wide.mean((-2, -1), keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean((-2, -1), keepdim=True) + self.eps)
        return (centred * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You divided by the standard deviation and never subtracted the mean. First shift each token to
    mean 0, then divide.""")
class NeverCentred(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.var(-1, keepdim=True, correction=0) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You squared x instead of x - mean. That is RMSNorm (exercise 07.3) with the mean taken off the
    result: subtract the mean first, and use the centred numbers for the squares as well.""")
class SquaresNotCentred(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return ((wide - wide.mean(-1, keepdim=True)) * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You added the bias before you multiplied with the weight. First times weight, then plus bias.""")
class BiasFirst(norm.LayerNorm):
    def forward(self, x):
        plain = F.layer_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)
        return (plain + self.bias) * self.weight


@layernorm.mistake("""You left out weight and bias. They start at 1 and 0, where nobody misses them; training moves
    them.""")
class NoWeightNoBias(norm.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


@layernorm.mistake("""You wrote 1e-5 into the formula. Use self.eps: LLaMA 1 was made with 1e-6, and a model runs as it
    was trained only with its own eps.""")
class FixedEps(norm.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.float(), x.shape[-1:], eps=1e-5).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You left out eps. A token whose channels are all alike has variance 0, and 0 / 0 is NaN. One NaN
    in one token, and a training step later all weights are NaN.""")
class NoEps(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True))
        return (centred * scale).to(x.dtype) * self.weight + self.bias


@layernorm.mistake("""You squared in float16, which ends at 65,504: 300 * 300 is already infinity, and 1 / infinity is
    0. The token vanishes without a message. Go to float32 first: `wide = x.float()`.""")
class SquaredInHalf(norm.LayerNorm):
    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps)
        return centred * scale * self.weight + self.bias


@layernorm.mistake("""You computed in float32 and stayed there. Go back with `.to(x.dtype)`, or the rest of the network
    runs in float32 from here on, at twice the memory, and nothing tells you.""")
class StaysInFloat32(norm.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.eps) * self.weight + self.bias


@layernorm.mistake("""You cut mean and standard deviation off from the slopes (no_grad, detach or item). They depend on
    x, and the slope of the loss has to flow through them too: leave them in the computation.""")
class Detached(norm.LayerNorm):
    def forward(self, x):
        wide = x.float()
        mean, variance = wide.mean(-1, keepdim=True), wide.var(-1, keepdim=True, correction=0)
        out = (wide - mean.detach()) * torch.rsqrt(variance + self.eps).detach()
        return out.to(x.dtype) * self.weight + self.bias


@layernorm.alternative("torch's own")
class LayerNormBorrowed(nn.LayerNorm):
    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)


@layernorm.alternative("the mean of the squares minus the square of the mean")
class TwoMoments(norm.LayerNorm):
    def forward(self, x):
        wide = x.double()
        mean = wide.mean(-1, keepdim=True)
        variance = (wide.pow(2).mean(-1, keepdim=True) - mean.pow(2)).clamp(min=0)
        return ((wide - mean) / (variance + self.eps).sqrt()).to(x.dtype) * self.weight + self.bias


@layernorm.alternative("token by token, in loops")
class TokenByToken(norm.LayerNorm):
    def forward(self, x):
        rows = []
        for token in x.reshape(-1, x.size(-1)).float():
            centred = token - token.sum() / len(token)
            deviation = (centred @ centred / len(token) + self.eps) ** 0.5
            rows.append((centred / deviation) * self.weight.float() + self.bias.float())
        return torch.stack(rows).view(x.shape).to(x.dtype)


# 07.2 layer_norm_backward -------------------------------------------------------------------------------------------


def layer_norm_backward(x: Tensor, grad_out: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the slopes at LayerNorm's output into the slopes at its input, its weight and its bias.

    Shape: x, grad_out (B, T, C), weight (C,) -> grad_x (B, T, C), grad_weight (C,), grad_bias (C,)
    grad_out[b, t, i] is the slope of the score in output i of token t: how much the score changes per unit of it.
    With x_hat = (x - mean) / std and std = sqrt(var + eps), the output is x_hat * weight + bias. Computes
    grad_x = (g - mean(g) - x_hat * mean(g * x_hat)) / std, where g = grad_out * weight and mean is over the channels.
    grad_weight and grad_bias add up what all tokens of the batch say.
    """
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    x_hat = centred / std
    g = grad_out * weight
    through_std = x_hat * (g * x_hat).mean(-1, keepdim=True)
    grad_x = (g - g.mean(-1, keepdim=True) - through_std) / std
    return grad_x, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


backward = Exercise(
    "07.2",
    layer_norm_backward,
    hints=(
        "Begin as the forward pass does: `centred`, `std`, `x_hat`, each with `keepdim=True`. The bias is the easiest: "
        "its slope in one token is grad_out, and all tokens of the batch use the same bias.",
        "The output is x_hat * weight + bias. So the slope in x_hat is `g = grad_out * weight`, and the slope in the "
        "weight is grad_out * x_hat, added up over batch and tokens: `.sum((0, 1))`.",
        "Three routes lead from x to x_hat: itself `g`, the mean `- g.mean(-1, keepdim=True)`, the deviation "
        "`- x_hat * (g * x_hat).mean(-1, keepdim=True)`. Add them, and divide by std.",
    ),
)


def _slopes(x: Tensor, grad_out: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """What torch's own backward says."""
    leaves = [x.clone(), weight.clone(), torch.zeros_like(weight)]
    for leaf in leaves:
        leaf.requires_grad_()
    out = F.layer_norm(leaves[0], weight.shape, leaves[1], leaves[2], eps=eps)
    grad_x, grad_weight, grad_bias = torch.autograd.grad(out, leaves, grad_out)
    return grad_x, grad_weight, grad_bias


@backward.check("the token done by hand: [9, 7, 15, 1], and a score that is output 0")
def backward_by_hand(layer_norm_backward):
    x, grad_out = torch.tensor([[[9.0, 7, 15, 1]]]), torch.tensor([[[1.0, 0, 0, 0]]])
    expected = (
        torch.tensor([[[0.148, -0.048, -0.064, -0.036]]]),
        torch.tensor([0.2, 0, 0, 0]),
        torch.tensor([1.0, 0, 0, 0]),
    )
    same(layer_norm_backward(x, grad_out, torch.ones(4), 1e-12), expected)


@backward.check("the slope of the bias, over all tokens of a batch")
def backward_bias(layer_norm_backward):
    x, grad_out, weight = 2 * randn(2, 3, 8), randn(2, 3, 8), 0.5 + rand(8)
    same(layer_norm_backward(x, grad_out, weight, 1e-5)[2], _slopes(x, grad_out, weight, 1e-5)[2])


@backward.check("the slope of the weight, over all tokens of a batch")
def backward_weight(layer_norm_backward):
    x, grad_out, weight = 2 * randn(2, 3, 8) + 1, randn(2, 3, 8), 0.5 + rand(8)
    same(layer_norm_backward(x, grad_out, weight, 1e-5)[1], _slopes(x, grad_out, weight, 1e-5)[1], atol=1e-4)


@backward.check("the slope of x, with a weight per channel")
def backward_x(layer_norm_backward):
    x, grad_out, weight = 2 * randn(2, 3, 8) + 1, randn(2, 3, 8), 0.5 + rand(8)
    same(layer_norm_backward(x, grad_out, weight, 1e-5)[0], _slopes(x, grad_out, weight, 1e-5)[0], atol=1e-4)


@backward.check("an eps so large that it shows in every slope")
def backward_large_eps(layer_norm_backward):
    x, grad_out, weight = randn(2, 3, 8), randn(2, 3, 8), 0.5 + rand(8)
    same(layer_norm_backward(x, grad_out, weight, 0.7), _slopes(x, grad_out, weight, 0.7), atol=1e-4)


def _forward(x, eps, over=-1):
    """What every version begins with: x_hat and std."""
    centred = x - x.mean(over, keepdim=True)
    std = (centred.pow(2).mean(over, keepdim=True) + eps).sqrt()
    return centred / std, std


def _grad_x(g, x_hat, std):
    return (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) / std


@backward.mistake("""You divided by std and stopped, as if mean and deviation stood still while x moves. They move with
    it: subtract mean(g) and x_hat * mean(g * x_hat) as well.""")
def only_the_direct_route(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return grad_out * weight / std, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You left out the route through the mean: subtract mean(g) too. Look at a sum: add 1 to all
    channels of a token and LayerNorm gives the same, so the slopes of a token must add up to 0. Yours do not.""")
def without_the_mean(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    grad_x = (g - x_hat * (g * x_hat).mean(-1, keepdim=True)) / std
    return grad_x, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You left out the route through the standard deviation: subtract x_hat * mean(g * x_hat) too.
    Without it the slopes ask for longer tokens, which LayerNorm then shortens again.""")
def without_the_deviation(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    grad_x = (g - g.mean(-1, keepdim=True)) / std
    return grad_x, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You added the routes through mean and deviation. Both pull the other way: when the mean goes up,
    the outputs go down. Subtract them.""")
def wrong_signs(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    grad_x = (g + g.mean(-1, keepdim=True) + x_hat * (g * x_hat).mean(-1, keepdim=True)) / std
    return grad_x, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You took the means over the whole batch. Each token has its own mean and deviation, and its slopes
    come back through these alone: average over the last axis, with keepdim=True.""")
def means_over_everything(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    return (g - g.mean() - x_hat * (g * x_hat).mean()) / std, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You left the weight out of grad_x. The output is x_hat * weight, so the slope in x_hat is g =
    grad_out * weight, and g is what the three routes carry back.""")
def weight_forgotten(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return _grad_x(grad_out, x_hat, std), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You multiplied with the weight after the means were taken. It differs from channel to channel, so
    it has to be inside them: begin with g = grad_out * weight.""")
def weight_too_late(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return weight * _grad_x(grad_out, x_hat, std), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You used g = grad_out * weight for the slope of the weight. The output is x_hat * weight + bias:
    one unit more of weight is x_hat more of output. So it is grad_out * x_hat, and the weight itself is not in it.""")
def weight_in_its_own_slope(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    return _grad_x(g, x_hat, std), (g * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You used x for the slope of the weight. What the weight multiplies is x_hat, the normalized token:
    grad_out * x_hat, added up over the tokens.""")
def weight_slope_from_x(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return _grad_x(grad_out * weight, x_hat, std), (grad_out * x).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You averaged the slopes of weight and bias over the tokens. Add them up: all tokens use the same
    weight, and each of them pulls at it. (If the score is an average, grad_out knows that already.)""")
def averaged_over_tokens(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return _grad_x(grad_out * weight, x_hat, std), (grad_out * x_hat).mean((0, 1)), grad_out.mean((0, 1))


@backward.mistake("""You added the slopes of weight and bias over the batch and kept the tokens apart. There is one
    weight per channel, for all tokens of all texts: `.sum((0, 1))`, which leaves the shape (C,).""")
def summed_over_the_batch_only(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return _grad_x(grad_out * weight, x_hat, std), (grad_out * x_hat).sum(0), grad_out.sum(0)


@backward.mistake("""You summed over the channels where a mean belongs. The mean of x moves by 1/C of a nudge, the
    deviation by x_hat/C of it: both routes carry a 1/C.""")
def sums_for_means(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    g = grad_out * weight
    grad_x = (g - g.sum(-1, keepdim=True) - x_hat * (g * x_hat).sum(-1, keepdim=True)) / std
    return grad_x, (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You did not divide grad_x by std. Stretch x to twice its size, and a nudge of 1 is half as much to
    the normalized token: the slope shrinks as std grows.""")
def not_divided(x, grad_out, weight, eps):
    x_hat, _ = _forward(x, eps)
    return _grad_x(grad_out * weight, x_hat, 1.0), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You multiplied by x - mean where the formula has x_hat. The route through the deviation needs the
    normalized token both times: x_hat * mean(g * x_hat).""")
def centred_for_normalized(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    return _grad_x(grad_out * weight, x_hat * std, std), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""You left eps out of std. The forward pass divided by sqrt(var + eps); its slopes need the same
    number.""")
def eps_forgotten(x, grad_out, weight, eps):
    x_hat, std = _forward(x, 0.0)
    return _grad_x(grad_out * weight, x_hat, std), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.mistake("""Your standard deviation divides by C - 1 (torch's default). LayerNorm's divides by C: pass
    `correction=0`, or take the root of the mean of the squares.""")
def deviation_of_a_sample(x, grad_out, weight, eps):
    std = (x.var(-1, keepdim=True) + eps).sqrt()
    x_hat = (x - x.mean(-1, keepdim=True)) / std
    return _grad_x(grad_out * weight, x_hat, std), (grad_out * x_hat).sum((0, 1)), grad_out.sum((0, 1))


@backward.alternative("torch follows the slopes")
def backward_borrowed(x, grad_out, weight, eps):
    x, weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    bias = torch.zeros_like(weight, requires_grad=True)
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    return torch.autograd.grad(out, (x, weight, bias), grad_out)


@backward.alternative("with the whole table of slopes of each token, C by C")
def backward_with_the_table(x, grad_out, weight, eps):
    x_hat, std = _forward(x, eps)
    C = x.size(-1)
    table = (torch.eye(C) - 1 / C - torch.einsum("bti,btj->btij", x_hat, x_hat) / C) / std[..., None]
    grad_x = torch.einsum("btij,btj->bti", table, grad_out * weight)
    return grad_x, torch.einsum("bti,bti->i", grad_out, x_hat), torch.einsum("bti->i", grad_out)


@backward.alternative("route by route, through the variance and then the mean")
def backward_route_by_route(x, grad_out, weight, eps):
    C = x.size(-1)
    centred = x - x.sum(-1, keepdim=True) / C
    inverse = ((centred * centred).sum(-1, keepdim=True) / C + eps) ** -0.5
    g = grad_out * weight
    grad_var = -0.5 * inverse**3 * (g * centred).sum(-1, keepdim=True)
    grad_centred = g * inverse + 2 / C * centred * grad_var
    grad_x = grad_centred - grad_centred.sum(-1, keepdim=True) / C
    both = [(grad_out * centred * inverse).flatten(0, 1), grad_out.flatten(0, 1)]
    return grad_x, both[0].sum(0), both[1].sum(0)


# 07.3 RMSNorm -------------------------------------------------------------------------------------------------------

rmsnorm = Exercise(
    "07.3",
    norm.RMSNorm,
    hints=(
        "It is LayerNorm with things left out: no mean is subtracted, no bias is added.",
        "Square, average over the last axis with `keepdim=True`, add eps, take the root, divide. All of it on "
        "`x.float()`; then back with `.to(x.dtype)`, and times the weight.",
        "`wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)` is the normalized token.",
    ),
)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The oracle, in float64."""
    wide = x.double()
    return (F.rms_norm(wide, wide.shape[-1:], eps=eps) * weight.double()).to(x.dtype)


@rmsnorm.check("two tokens that can be done by hand: [1, 7, 5, 5] and [3, -4, 0, 0], weight [0.5, 1, 2, -1]")
def rmsnorm_by_hand(RMSNorm):
    rms_norm = with_weights(RMSNorm(4), {"weight": torch.tensor([0.5, 1, 2, -1])})
    expected = torch.tensor([[[0.1, 1.4, 2, -1], [0.6, -1.6, 0, 0]]])
    same(rms_norm(torch.tensor([[[1.0, 7, 5, 5], [3, -4, 0, 0]]])), expected, atol=1e-4)


@rmsnorm.check("tokens of usual size, with a mean that is not 0")
def rmsnorm_usual(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8))
    x = 2 * randn(2, 3, 8) + 1
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 1e-5), atol=1e-4)


@rmsnorm.check("tokens so small that eps shows")
def rmsnorm_tiny(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8))
    x = 1e-3 * randn(2, 3, 8)
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 1e-5))


@rmsnorm.check("another eps than the usual one")
def rmsnorm_own_eps(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8, eps=0.3))
    x = randn(2, 3, 8)
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 0.3))


@rmsnorm.check("a token of zeros, such as a padding token may be")
def rmsnorm_zeros(RMSNorm):
    x = randn(1, 3, 8)
    x[0, 1] = 0
    rms_norm = with_random_weights(RMSNorm(8))
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 1e-5), atol=1e-4)


@rmsnorm.check("float16 numbers around 300: no overflow, and float16 comes back")
def rmsnorm_half(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8)).half()
    x = (300 * (1 + 0.3 * randn(2, 3, 8))).half()
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 1e-5), atol=5e-3, rtol=5e-3)


@rmsnorm.check("bfloat16 in, bfloat16 out")
def rmsnorm_bfloat16(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8)).bfloat16()
    x = (2 * randn(2, 3, 8) + 1).bfloat16()
    same(rms_norm(x), _rms_norm(x, rms_norm.weight, 1e-5), atol=3e-2, rtol=3e-2)


@rmsnorm.check("slopes that flow back through the root mean square")
def rmsnorm_slopes(RMSNorm):
    rms_norm = with_random_weights(RMSNorm(8))
    x = randn(2, 3, 8)
    found = gradients(rms_norm, x)
    leaf = x.clone().requires_grad_()
    (F.rms_norm(leaf, (8,), rms_norm.weight.detach(), 1e-5) * found["out_gradient"]).sum().backward()
    same(found["inputs"][0], leaf.grad, atol=1e-4)


@rmsnorm.mistake("""You subtracted the mean first: that is LayerNorm. RMSNorm leaves the mean where it is, and only
    divides.""")
class MeanSubtracted(norm.RMSNorm):
    def forward(self, x):
        return super().forward(x - x.mean(-1, keepdim=True))


@rmsnorm.mistake("""You divided by the standard deviation (torch.var or torch.std), which looks at x - mean. RMSNorm
    squares x as it is: x.pow(2).mean(-1).""")
class Variance(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.var(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You divided all tokens of a text by one number (mean over tokens and channels). Each token needs
    its own: average over the last axis only. A token that can feel the size of a later one sees the future.""")
class OneNumberForAllTokens(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean((-2, -1), keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You averaged over the tokens (dim=1). Average over the channels (dim=-1): a token must not know its
    neighbours here. With this mistake a model sees the future, and its loss looks wonderful.""")
class AcrossTokens(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You multiplied with 1 + weight. That is Gemma's RMSNorm, whose weights start at 0. LLaMA's start at
    1 and multiply as they are.""")
class OnePlusWeight(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * (1 + self.weight)


@rmsnorm.mistake("""You left out the weight. It starts at 1, where nobody misses it; in a trained model it is not 1.""")
class NoWeight(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


@rmsnorm.mistake("""You multiplied with the weight before you divided, so that the weight is normalized away again.
    First the token, then the weight.""")
class WeightFirst(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm((x * self.weight).float(), x.shape[-1:], eps=self.eps).to(x.dtype)


@rmsnorm.mistake("""You left out eps. A token of zeros is then 0 / 0, which is NaN, and small tokens come out as long
    as large ones.""")
class WithoutEps(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True))).to(x.dtype) * self.weight


@rmsnorm.mistake("""You used torch's function without handing it eps. Its own default is another one (1.2e-7 for
    float32): pass self.eps.""")
class TorchsOwnEps(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight)


@rmsnorm.mistake("""You added eps after the root. Add it to the mean of the squares, inside the root: that makes the
    smallest divisor sqrt(1e-5), 0.003, instead of 0.00001.""")
class EpsAfterTheRoot(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You used eps as a floor (clamp or max). Add it: sqrt(mean + eps). The two agree for large tokens
    and for zeros, and differ between.""")
class EpsAsAFloor(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        mean = wide.pow(2).mean(-1, keepdim=True).clamp(min=self.eps)
        return (wide * torch.rsqrt(mean)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You wrote 1e-5 into the formula. Use self.eps: LLaMA 1 was made with 1e-6, LLaMA 2 and 3 with
    1e-5.""")
class EpsWrittenIn(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], eps=1e-5).to(x.dtype) * self.weight


@rmsnorm.mistake("""You divided by the length of the vector as geometry has it (F.normalize or x.norm). RMSNorm
    divides by the root of the *mean* square: otherwise the outputs are sqrt(C) times too small, 64 times with 4096
    channels.""")
class LengthOne(norm.RMSNorm):
    def forward(self, x):
        return F.normalize(x.float(), dim=-1).to(x.dtype) * self.weight


@rmsnorm.mistake("""You averaged the sizes of the numbers, without squares. It has to be the root of the mean square:
    for [3, -4, 0, 0] that is 2.5, while the mean size is 1.75.""")
class MeanSize(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide / (wide.abs().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You added up the squares and did not divide by C. Take their mean: otherwise the outputs are
    sqrt(C) times too small, 64 times in a model of 4096 channels.""")
class SumForMean(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You divided by the mean square. Take its root: a token ten times as large has to come out the
    same.""")
class RootForgotten(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        return (wide / (wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


@rmsnorm.mistake("""You squared in float16, where everything above 65,504 is infinity: 300 * 300 is too much, 1 /
    infinity is 0, and the token is gone without a message. Go to float32 first: x.float().""")
class InItsOwnPrecision(norm.RMSNorm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


@rmsnorm.mistake("""You gave back float32 for a bfloat16 input. Convert back with `.to(x.dtype)`: otherwise everything
    after this norm silently runs in float32, with twice the memory.""")
class BackInFloat32(norm.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps) * self.weight


@rmsnorm.mistake("""You cut the root mean square off from the slopes (no_grad, detach or item). It depends on x too;
    leave it in the computation, or training follows slopes that are not there.""")
class RootDetached(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps).detach()
        return (wide * scale).to(x.dtype) * self.weight


@rmsnorm.alternative("torch's own")
class RMSNormBorrowed(nn.RMSNorm):
    def __init__(self, d_model, eps=1e-5):
        super().__init__(d_model, eps)


@rmsnorm.alternative("einsum for the sum of squares, a division, the weight still in float32")
class WithEinsum(norm.RMSNorm):
    def forward(self, x):
        wide = x.float()
        squares = torch.einsum("...c,...c->...", wide, wide)[..., None]
        return (wide / torch.sqrt(squares / x.size(-1) + self.eps) * self.weight.float()).to(x.dtype)


@rmsnorm.alternative("from the length of the vector: one divisor per token, in a loop")
class FromTheLength(norm.RMSNorm):
    def forward(self, x):
        out = torch.empty_like(x)
        for b, text in enumerate(x):
            for t, token in enumerate(text):
                length = torch.linalg.vector_norm(token.double())
                rms = (length**2 / len(token) + self.eps) ** 0.5
                out[b, t] = (token.double() / rms).to(x.dtype) * self.weight
        return out


# 07.4 Block ---------------------------------------------------------------------------------------------------------

prenorm = Exercise(
    "07.4",
    block.Block,
    hints=(
        "Two lines, one for each sub-layer. Each has the shape: what was there, plus what the sub-layer says about a "
        "normalized copy of it.",
        "`self.attention(..., mask, **inner)` reads `self.attention_norm(x)`, and its result is added to x, not to the "
        "normalized copy. The second line does the same to the result of the first.",
        "`h = x + self.attention(self.attention_norm(x), mask, **inner)`, and then the same with feedforward_norm and "
        "feedforward on h.",
    ),
)

SIZES = Config(vocab_size=7, d_model=12, n_layers=1, n_heads=6, n_kv_heads=2, d_ff=20)


def rotated(x: Tensor) -> Tensor:
    """The rotation of chapter 06, for tokens at positions 0, 1, 2, ..."""
    return apply_rope(x, torch.arange(x.size(-2)))


def _drawn_weights(parts: Parts, silent: tuple[str, ...]) -> dict[str, Tensor]:
    """Random weights for a block; those whose name holds one of the words in `silent` are 0."""
    shapes = {name: weight.shape for name, weight in sorted(Block(SIZES, parts).state_dict().items())}
    drawn = {}
    for name, shape in shapes.items():
        matrix, signs = 0.4 * randn(*shape), torch.where(rand(*shape) < 0.5, -1.0, 1.0)
        drawn[name] = matrix if len(shape) > 1 else signs * (0.5 + rand(*shape))
        if any(word in name for word in silent):
            drawn[name] = torch.zeros(shape)
    return drawn


def _compare_block(Block, parts: Parts, silent: tuple[str, ...] = (), mask=None, **inner):
    weights = _drawn_weights(parts, silent)
    mine = with_weights(Block(SIZES, parts), weights)
    x = 2 * randn(2, 5, 12) + 0.5
    same(mine(x, mask, **inner), _block_output(x, weights, parts, mask, inner), atol=1e-3, rtol=1e-4)


def _block_output(x: Tensor, weights: dict[str, Tensor], parts: Parts, mask, inner) -> Tensor:
    """The oracle: torch's own norms, the parts of chapters 04 and 05."""
    looks, thinks = attention.Attention(12, 6, 2), parts.feedforward(12, 20)
    for part, name in ((looks, "attention."), (thinks, "feedforward.")):
        part.load_state_dict({k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)})

    def normalized(x, name):
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        return F.rms_norm(x, (12,), weight, 1e-5) if bias is None else F.layer_norm(x, (12,), weight, bias, 1e-5)

    with torch.no_grad():
        after_looking = x + looks(normalized(x, "attention_norm"), mask, **inner)
        return after_looking + thinks(normalized(after_looking, "feedforward_norm"))


@prenorm.check("with two sub-layers that say nothing, x comes out untouched")
def block_is_identity(Block):
    _compare_block(Block, Parts(), silent=("o_proj", "down_proj"))


@prenorm.check("the attention speaks, the feed-forward is silent")
def block_attention_only(Block):
    _compare_block(Block, Parts(), silent=("down_proj",))


@prenorm.check("the feed-forward speaks, the attention is silent")
def block_feedforward_only(Block):
    _compare_block(Block, Parts(), silent=("o_proj",))


@prenorm.check("both speak, and the two norms have different weights")
def block_both(Block):
    _compare_block(Block, Parts())


@prenorm.check("a causal mask")
def block_mask(Block):
    _compare_block(Block, Parts(), mask=causal_mask(5))


@prenorm.check("a rotation for q and k, handed on to the attention")
def block_rotation(Block):
    _compare_block(Block, Parts(), mask=causal_mask(5), rotate=rotated)


@prenorm.check("other parts: LayerNorm and a ReLU feed-forward")
def block_other_parts(Block):
    _compare_block(Block, Parts(norm=norm.LayerNorm, feedforward=ReLUFeedForward), mask=causal_mask(5))


@prenorm.mistake("""You normalized after adding: norm(x + sublayer(x)). That is post-norm, the block of 2017. LLaMA
    normalizes what a sub-layer reads, x + sublayer(norm(x)), so that x itself goes through the block untouched.""")
class PostNorm(block.Block):
    def forward(self, x, mask=None, **inner):
        x = self.attention_norm(x + self.attention(x, mask, **inner))
        return self.feedforward_norm(x + self.feedforward(x))


@prenorm.mistake("""You added the attention's result to the normalized copy. Add it to x: the copy is only for reading.
    With four layers such a model trains well; with twelve it learns nothing (measured at the end of this chapter).""")
class AddedToTheFirstCopy(block.Block):
    def forward(self, x, mask=None, **inner):
        x = self.attention_norm(x)
        x = x + self.attention(x, mask, **inner)
        return x + self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""You added the feed-forward's result to the normalized copy. Add it to what came out of the first
    line; the copy is only for reading.""")
class AddedToTheSecondCopy(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        x = self.feedforward_norm(x)
        return x + self.feedforward(x)


@prenorm.mistake("""In both lines you added to the normalized copy. Give the copy a name of its own, or none: the
    stream x must not be overwritten by its norm.""")
class AddedToBothCopies(block.Block):
    def forward(self, x, mask=None, **inner):
        x = self.attention_norm(x)
        x = x + self.attention(x, mask, **inner)
        x = self.feedforward_norm(x)
        return x + self.feedforward(x)


@prenorm.mistake("""You used attention_norm for both sub-layers. The feed-forward has its own, feedforward_norm, with
    weights of its own. Both start at 1, so that nobody sees it before training, or before real weights are loaded.""")
class OneNormForBoth(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        return x + self.feedforward(self.attention_norm(x))


@prenorm.mistake("""You exchanged the two norms. attention_norm is for what the attention reads, feedforward_norm for
    what the feed-forward reads.""")
class NormsExchanged(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.feedforward_norm(x), mask, **inner)
        return x + self.feedforward(self.attention_norm(x))


@prenorm.mistake("""Your second line adds to the x that came in, not to the result of the first line. What the
    attention found is then lost from the stream: only the feed-forward gets to see it.""")
class AttentionLost(block.Block):
    def forward(self, x, mask=None, **inner):
        h = x + self.attention(self.attention_norm(x), mask, **inner)
        return x + self.feedforward(self.feedforward_norm(h))


@prenorm.mistake("""Both sub-layers read x: they stand side by side, as in GPT-J or PaLM. In LLaMA the feed-forward
    comes after the attention, and reads what the attention has already added.""")
class SideBySide(block.Block):
    def forward(self, x, mask=None, **inner):
        looked = self.attention(self.attention_norm(x), mask, **inner)
        return x + looked + self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""You normalized what the sub-layers say: x + norm(sublayer(x)). Normalize what they read: x +
    sublayer(norm(x)). (OLMo 2 does it your way, so it is no nonsense, but it is not LLaMA.)""")
class NormOnTheOutput(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention_norm(self.attention(x, mask, **inner))
        return x + self.feedforward_norm(self.feedforward(x))


@prenorm.mistake("""You left out the norms. Each sub-layer reads a normalized copy: attention_norm(x) and
    feedforward_norm(x).""")
class WithoutNorms(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(x, mask, **inner)
        return x + self.feedforward(x)


@prenorm.mistake("""Your feed-forward reads the stream itself. It has to read a normalized copy, as the attention does:
    feedforward_norm stands between them.""")
class FeedForwardUnnormalized(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        return x + self.feedforward(x)


@prenorm.mistake("""Your attention reads the stream itself. It has to read a normalized copy: attention_norm stands
    between them.""")
class AttentionUnnormalized(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(x, mask, **inner)
        return x + self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""Nothing is added to x: you handed on only what the sub-layers say. Add x each time, or a token
    forgets in every layer what it was.""")
class NothingAdded(block.Block):
    def forward(self, x, mask=None, **inner):
        x = self.attention(self.attention_norm(x), mask, **inner)
        return self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""Your second line lacks the addition: it hands on the feed-forward's result alone. Add what came out
    of the first line.""")
class SecondAdditionMissing(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        return self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""You did the feed-forward first. In LLaMA a token first looks around, then thinks about it.""")
class FeedForwardFirst(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.feedforward(self.feedforward_norm(x))
        return x + self.attention(self.attention_norm(x), mask, **inner)


@prenorm.mistake("""The mask did not reach the attention. Hand it on, `self.attention(..., mask, **inner)`, or every
    token sees the future, and the loss looks wonderful.""")
class MaskForgotten(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), None, **inner)
        return x + self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""`inner` did not reach the attention. It holds what only the attention understands, such as the
    rotation of chapter 06; without it the model does not know in which order its tokens stand.""")
class InnerForgotten(block.Block):
    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feedforward(self.feedforward_norm(x))


@prenorm.mistake("""You changed x in place (+=), and x belongs to whoever called. Make something new: x = x + ...""")
class InPlace(block.Block):
    def forward(self, x, mask=None, **inner):
        x += self.attention(self.attention_norm(x), mask, **inner).detach()
        x += self.feedforward(self.feedforward_norm(x)).detach()
        return x


@prenorm.alternative("one loop over the two sub-layers")
class InALoop(block.Block):
    def forward(self, x, mask=None, **inner):
        looks = (self.attention_norm, lambda h: self.attention(h, mask, **inner))
        for norm_of, sublayer in (looks, (self.feedforward_norm, self.feedforward)):
            x = torch.add(x, sublayer(norm_of(x)))
        return x


@prenorm.alternative("three contributions, added at the end")
class ThreeContributions(block.Block):
    def forward(self, x, mask=None, **inner):
        said = self.attention(self.attention_norm(x), mask=mask, **inner)
        thought = self.feedforward(self.feedforward_norm(x + said))
        return torch.stack([x, said, thought]).sum(0)


@prenorm.alternative("in float64 inside the additions")
class AddedInDouble(block.Block):
    def forward(self, x, mask=None, **inner):
        stream = x.double()
        stream = stream + self.attention(self.attention_norm(stream.to(x.dtype)), mask, **inner).double()
        stream = stream + self.feedforward(self.feedforward_norm(stream.to(x.dtype))).double()
        return stream.to(x.dtype)


# 07.5 find_the_broken -----------------------------------------------------------------------------------------------


class Suspect(Block):
    """A healthy block, with norm weights such as training leaves behind: anything but 1."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__(config, parts)
        with torch.no_grad():
            for norm_weight in (self.attention_norm.weight, self.feedforward_norm.weight):
                norm_weight.uniform_(0.4, 0.8)


class SuspectA(Suspect):
    def forward(self, x, mask=None, **inner):
        heard = self.attention(self.attention_norm(x), mask, **inner)
        x = x + heard
        thought = self.feedforward(self.feedforward_norm(x))
        return x + thought


class SuspectB(Suspect):
    def forward(self, x, mask=None, **inner):
        for norm_of, sublayer in ((self.attention_norm, self._look), (self.feedforward_norm, self._think)):
            x = x + sublayer(norm_of(x), mask, inner)
        return x

    def _look(self, h, mask, inner):
        return self.attention(h, mask, **inner)

    def _think(self, h, mask, inner):
        return self.feedforward(h)


class SuspectC(Suspect):
    def forward(self, x, mask=None, **inner):
        both = self.attention(self.attention_norm(x), mask, **inner) + self.feedforward(self.feedforward_norm(x))
        return x + both


class SuspectD(Suspect):
    def forward(self, x, mask=None, **inner):
        x = self.attention_norm(x)
        x = x + self.attention(x, mask, **inner)
        return x + self.feedforward(self.feedforward_norm(x))


class SuspectE(Suspect):
    def forward(self, x, mask=None, **inner):
        h = self.attention_norm(x)
        x = x + self.attention(h, mask, **inner)
        h = self.feedforward_norm(x)
        return x + self.feedforward(h)


SUSPECTS = [SuspectA, SuspectB, SuspectC, SuspectD, SuspectE]


class SecondCopy(Suspect):
    """Broken: the feed-forward's result is added to the normalized copy."""

    def forward(self, x, mask=None, **inner):
        x = x + self.attention(self.attention_norm(x), mask, **inner)
        h = self.feedforward_norm(x)
        return h + self.feedforward(h)


class FreshCopy(Block):
    """Broken like SuspectD, with norm weights that are still 1."""

    forward = SuspectD.forward


class FreshPostNorm(PostNormBlock):
    """Broken, in its own way: it normalizes the stream itself, with norm weights that are still 1."""


class WithABias(Suspect):
    """Broken: a post-norm block whose norms are LayerNorms with a bias."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__(config, Parts(norm=norm.LayerNorm))
        with torch.no_grad():
            for norm_bias in (self.attention_norm.bias, self.feedforward_norm.bias):
                norm_bias.uniform_(0.5, 1.5)

    forward = PostNormBlock.forward


class QuietAttention(Suspect):
    """Healthy: its attention starts silent, as some recipes have it."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__(config, parts)
        nn.init.zeros_(self.attention.o_proj.weight)


class QuietFeedForward(Suspect):
    """Healthy: its feed-forward starts silent."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__(config, parts)
        nn.init.zeros_(self.feedforward.down_proj.weight)


class Loud(Suspect):
    """Healthy: its sub-layers say so much that x is hard to hear beside them."""

    def __init__(self, config: Config, parts: Parts):
        super().__init__(config, parts)
        with torch.no_grad():
            for matrix in (self.attention.o_proj.weight, self.feedforward.down_proj.weight):
                matrix.mul_(30)


class NormsOnTheOutputs(Suspect):
    """Healthy in this respect: the norms stand on what is added, and x is handed on as it is."""

    forward = NormOnTheOutput.forward


def find_the_broken(suspects: list, config: Config) -> list[int]:
    """Say which blocks do not hand on x as it came in: their positions in the list, counted from 0, in order.

    suspects: classes, each built with suspect(config, Parts()) and called as block(x), where x has any shape (B, T, C)
    you like and C is config.d_model. In all of them the last matrix of the attention is block.attention.o_proj.weight,
    and that of the feed-forward is block.feedforward.down_proj.weight.
    A healthy block returns x plus what its sub-layers say. A broken one returns something else plus what they say.
    The weights are those of a trained or of a fresh block: the norms' weights may or may not be 1.
    """
    broken = []
    for position, suspect in enumerate(suspects):
        silent = suspect(config, Parts())
        x = 3 * torch.randn(2, 5, config.d_model)
        with torch.no_grad():
            silent.attention.o_proj.weight.zero_()
            silent.feedforward.down_proj.weight.zero_()
            unchanged = torch.allclose(silent(x), x)
        if not unchanged:
            broken.append(position)
    return broken


detective = Exercise(
    "07.5",
    find_the_broken,
    hints=(
        "What a block returns is a sum, and the sub-layers' share drowns what you want to see. How can you make both "
        "sub-layers say nothing?",
        "With `o_proj.weight` and `down_proj.weight` at zero, both sub-layers return zeros. A healthy block then "
        "returns x. Which x would look the same before and after a norm? Do not take that one.",
        "For each suspect: build it; under `torch.no_grad()` call `.zero_()` on both weights; draw "
        "`x = 3 * torch.randn(2, 5, config.d_model)`; if `torch.allclose(block(x), x)` is False, it is broken.",
    ),
)


@detective.check("the five suspects of this chapter")
def detective_five(find_the_broken):
    same(find_the_broken(SUSPECTS, SIZES), [3])


@detective.check("two broken blocks between two healthy ones")
def detective_two(find_the_broken):
    same(find_the_broken([SecondCopy, SuspectA, SuspectD, SuspectB], SIZES), [0, 2])


@detective.check("fresh blocks, whose norm weights are still 1, and the block of 2017")
def detective_fresh(find_the_broken):
    same(find_the_broken([Block, FreshCopy, FreshPostNorm], SIZES), [1, 2])


@detective.check("norms with a bias, and blocks with one sub-layer silent from the start")
def detective_quiet(find_the_broken):
    same(find_the_broken([QuietAttention, WithABias, QuietFeedForward], SIZES), [1])


@detective.check("healthy blocks only, one of them loud, one with its norms elsewhere")
def detective_healthy(find_the_broken):
    same(find_the_broken([Loud, SuspectC, NormsOnTheOutputs], SIZES), [])


def _silence(block, *, attention=True, feedforward=True):
    with torch.no_grad():
        if attention:
            block.attention.o_proj.weight.zero_()
        if feedforward:
            block.feedforward.down_proj.weight.zero_()
    return block


def _changed(block, x) -> bool:
    with torch.no_grad():
        return not torch.allclose(block(x), x, atol=1e-5)


def _positions(suspects, is_broken) -> list[int]:
    return [position for position, suspect in enumerate(suspects) if is_broken(suspect)]


@detective.mistake("""You compared block(x) with x while the sub-layers still speak. Every block changes x then, the
    healthy ones too. Make both sub-layers silent first.""")
def nobody_silenced(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: _changed(suspect(config, Parts()), x))


@detective.mistake("""You silenced the attention and let the feed-forward speak. Set feedforward.down_proj.weight to
    zero too.""")
def feedforward_still_speaks(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: _changed(_silence(suspect(config, Parts()), feedforward=False), x))


@detective.mistake("""You silenced the feed-forward and let the attention speak. Set attention.o_proj.weight to zero
    too.""")
def attention_still_speaks(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: _changed(_silence(suspect(config, Parts()), attention=False), x))


@detective.mistake("""You looked at shapes only. Every block gives back (B, T, C), the broken ones too: compare the
    numbers.""")
def shapes_only(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: suspect(config, Parts())(x).shape != x.shape)


@detective.mistake("""Your test token is all ones. Its root mean square is 1 already, so that a norm with weight 1
    leaves it as it is, and a fresh broken block looks healthy. Take a token that a norm would change.""")
def tested_with_ones(suspects, config):
    x = torch.ones(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: _changed(_silence(suspect(config, Parts())), x))


@detective.mistake("""Your test token is all zeros, and RMSNorm makes zeros of zeros, broken or not. Take a token that
    a norm would change.""")
def tested_with_zeros(suspects, config):
    x = torch.zeros(2, 5, config.d_model)
    return _positions(suspects, lambda suspect: _changed(_silence(suspect(config, Parts())), x))


@detective.mistake("""You looked for outputs whose root mean square is 1. A norm gives that only while its weights are
    1; in a trained block they are not. Compare with x itself.""")
def looked_for_length_one(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)

    def is_broken(suspect):
        out = _silence(suspect(config, Parts()))(x)
        return bool(((out.pow(2).mean(-1).sqrt() - 1).abs() < 1e-3).all())

    return _positions(suspects, is_broken)


@detective.mistake("""You compared with what LLaMA's Block returns for the same weights. A block may be another one and
    still be healthy: the question is whether it hands on x, not whether it is LLaMA's.""")
def compared_with_block(suspects, config):
    x = 3 * torch.randn(2, 5, config.d_model)

    def is_broken(suspect):
        block, llama = suspect(config, Parts()), Block(config, Parts())
        llama.load_state_dict(block.state_dict(), strict=False)
        return not torch.allclose(block(x), llama(x), atol=1e-4)

    return _positions(suspects, is_broken)


@detective.mistake("""You listed the healthy ones. Asked for are the broken ones: those that do not give back x.""")
def the_healthy_ones(suspects, config):
    broken = find_the_broken(suspects, config)
    return [position for position in range(len(suspects)) if position not in broken]


@detective.mistake("""You counted from 1. Positions count from 0, as in enumerate.""")
def counted_from_one(suspects, config):
    return [position + 1 for position in find_the_broken(suspects, config)]


@detective.mistake("""You stopped at the first broken one. There may be more, or none: look at all of them.""")
def only_the_first(suspects, config):
    return find_the_broken(suspects, config)[:1]


@detective.mistake("""You gave a list of True and False. Asked for are the positions of the broken ones.""")
def true_and_false(suspects, config):
    broken = find_the_broken(suspects, config)
    return [position in broken for position in range(len(suspects))]


@detective.alternative("no silence: a million times x drowns whatever the sub-layers say")
def stretched(suspects, config):
    x = torch.randn(2, 5, config.d_model)
    large = 1e6 * x

    def is_broken(suspect):
        with torch.no_grad():
            return not torch.allclose(suspect(config, Parts())(large) / 1e6, x, atol=1e-2)

    return _positions(suspects, is_broken)


@detective.alternative("all matrices zero, and the slopes of the output in x: each must be 1 in its own channel")
def by_slopes(suspects, config):
    def is_broken(suspect):
        block = suspect(config, Parts())
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
        x = torch.randn(1, 1, config.d_model)
        slopes = torch.autograd.functional.jacobian(block, x).view(config.d_model, config.d_model)
        return not torch.allclose(slopes, torch.eye(config.d_model), atol=1e-4)

    return _positions(suspects, is_broken)


@detective.alternative("silent, and a difference of two inputs must come out as it went in")
def by_a_difference(suspects, config):
    broken = []
    for i in range(len(suspects)):
        block = _silence(suspects[i](config, Parts()))
        x, other = 5 * torch.rand(1, 4, config.d_model) + 1, torch.randn(1, 4, config.d_model)
        if (block(x + other) - block(x) - other).abs().max().item() > 1e-3:
            broken += [i]
    return broken


# 07.6 fold_norm -----------------------------------------------------------------------------------------------------


def fold_norm(norm_weight: Tensor, linear_weight: Tensor) -> Tensor:
    """Put a norm's scales into the matrix that reads its output, so that the norm needs no weight of its own.

    Shape: norm_weight (C,), linear_weight (F, C) -> (F, C), a new matrix; what you are given stays as it is.
    For every vector n, new_matrix @ n must be linear_weight @ (norm_weight * n).
    """
    return linear_weight * norm_weight


fold = Exercise(
    "07.6",
    fold_norm,
    hints=(
        "Row f of the matrix makes output f: the sum over c of linear_weight[f, c] * (norm_weight[c] * n[c]). Which "
        "number of the matrix meets norm_weight[c]?",
        "Column c of the matrix is what meets channel c. So column c has to be multiplied with norm_weight[c].",
        "(F, C) times (C,) lines up the last axes: each row is multiplied with norm_weight. One multiplication, and no "
        "loop.",
    ),
)


@fold.check("numbers to do by hand: scales [2, 10, -1] and two rows")
def fold_by_hand(fold_norm):
    scales, matrix = torch.tensor([2.0, 10, -1]), torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    same(fold_norm(scales, matrix), torch.tensor([[2.0, 20, -3], [8, 50, -6]]))


@fold.check("a square matrix")
def fold_square(fold_norm):
    scales, matrix = 0.5 + rand(5), randn(5, 5)
    same(fold_norm(scales, matrix), torch.einsum("c,fc->fc", scales, matrix))


@fold.check("the same outputs as norm and matrix one after the other")
def fold_keeps_outputs(fold_norm):
    scales, matrix, tokens = 0.5 + rand(4), randn(6, 4), randn(3, 4)
    folded = fold_norm(scales, matrix)
    same(folded.shape, matrix.shape)
    same(F.linear(tokens, folded), F.linear(tokens * scales, matrix), atol=1e-4)


@fold.check("a norm that has closed a channel: scale 0")
def fold_zero(fold_norm):
    scales, matrix = torch.tensor([0.0, 3, 0.5]), 2 + rand(4, 3)
    same(fold_norm(scales, matrix), torch.stack([torch.zeros(4), 3 * matrix[:, 1], 0.5 * matrix[:, 2]], dim=1))


@fold.mistake("""You multiplied row f with scale f. The scales belong to what the matrix reads, and that is its
    columns: column c with scale c. (With a square matrix nothing warns you.)""")
def rows_scaled(norm_weight, linear_weight):
    return norm_weight[:, None] * linear_weight


@fold.mistake("""You changed the matrix that you were given (*=). Make a new one: whoever called may still need the old
    one, and folding the same norm twice is a bug that is hard to find.""")
def folded_in_place(norm_weight, linear_weight):
    linear_weight *= norm_weight
    return linear_weight


@fold.mistake("""You divided by the scales. The vector gets multiplied with them before it meets the matrix, so the
    matrix has to multiply too.""")
def divided(norm_weight, linear_weight):
    return linear_weight / norm_weight


@fold.mistake("""You multiplied matrix and scales as matrices (@), which adds up over the channels and leaves a vector.
    The channels must stay apart: multiply number by number (*).""")
def as_a_product(norm_weight, linear_weight):
    return linear_weight @ norm_weight


@fold.mistake("""Your result lies on its side, (C, F). torch's Linear keeps a row per output: give back (F, C).""")
def transposed(norm_weight, linear_weight):
    return (linear_weight * norm_weight).T


@fold.mistake("""You multiplied the whole matrix with the average scale. Each channel has a scale of its own: column c
    with scale c.""")
def one_scale_for_all(norm_weight, linear_weight):
    return linear_weight * norm_weight.mean()


@fold.alternative("a matrix product with a diagonal matrix")
def fold_with_a_diagonal(norm_weight, linear_weight):
    return linear_weight @ torch.diag(norm_weight)


@fold.alternative("einsum")
def fold_with_einsum(norm_weight, linear_weight):
    return torch.einsum("fc,c->fc", linear_weight, norm_weight)


@fold.alternative("column by column")
def fold_by_columns(norm_weight, linear_weight):
    columns = [linear_weight[:, c] * norm_weight[c] for c in range(len(norm_weight))]
    return torch.stack(columns, dim=1)
