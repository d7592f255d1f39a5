"""What training is made of: a loss, a step against its gradient, a schedule. Chapter 10. The loop is in loop.py."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.data import windows
from minillama.llama import Llama
from minillama.recipe import Recipe


def next_token_loss(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """How surprised the model is by the true next tokens, on average, in nats per token.

    Shape: (B, T, V), (B, T) -> (). targets[b, t] is the token after tokens[b, t]: shifted by the data, not here.
    Targets equal to ignore_index do not count.

    >>> next_token_loss(torch.zeros(1, 2, 5), torch.tensor([[3, -100]]))  # no idea about 5 tokens: ln 5
    tensor(1.6094)
    """
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=ignore_index)


def perplexity(total_nats: float, n_tokens: int) -> float:
    """Among how many equally likely tokens the model is as unsure as this: exp(total nats / tokens).

    >>> round(perplexity(10 * math.log(65), 10), 6)
    65.0
    """
    nats = total_nats / n_tokens
    return math.exp(nats) if nats < 709 else math.inf  # e**710 is too large for a float


def bits_per_character(total_nats: float, n_characters: int) -> float:
    """Bits needed, on average, to tell which character comes: comparable between tokenizers, unlike the loss.

    >>> bits_per_character(10 * math.log(4), 10)
    2.0
    """
    return total_nats / n_characters / math.log(2)


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0, shape: str = "cosine"
) -> float:
    """Learning rate of a step: up in a straight line, then down to floor along a cosine or a straight line.

    step counts from 0; the first step already moves, step warmup_steps runs at the peak, total_steps and later at
    floor.
    Errors: ValueError for another shape than "cosine" and "linear".

    >>> [learning_rate(s, peak=1.0, warmup_steps=2, total_steps=6, shape="linear") for s in (0, 1, 2, 4, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if shape not in ("cosine", "linear"):
        raise ValueError(f"shape={shape!r}; expected 'cosine' or 'linear'")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return floor + (peak - floor) * left


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Shrink all gradients by one factor, if together they are longer than max_norm; return their length before.

    The length is the root of the sum of all squares, over all parameters together: the direction stays.
    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.float().norm() for g in gradients]).norm() if gradients else torch.tensor(0.0)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.to(g.dtype))
    return norm


class AdamW(torch.optim.Optimizer):
    """Move each weight by about lr, in the direction its gradient has pointed lately; shrink it a little as well.

    Keeps two running means per weight, of the gradient (m) and of its square (v), both corrected for starting at 0.
    Computes w = w * (1 - lr * weight_decay) - lr * m / (sqrt(v) + eps).
    Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101 (the decay).
    """

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.1):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group, self.state[weight])
        return loss

    def _update(self, weight: Tensor, group: dict, state: dict):
        assert weight.grad is not None
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
        state["step"] += 1
        lr, (beta1, beta2) = group["lr"], group["betas"]
        state["m"].lerp_(weight.grad, 1 - beta1)
        state["v"].lerp_(weight.grad.square(), 1 - beta2)
        m = state["m"] / (1 - beta1 ** state["step"])
        v = state["v"] / (1 - beta2 ** state["step"])
        weight.mul_(1 - lr * group["weight_decay"])
        weight.sub_(lr * m / (v.sqrt() + group["eps"]))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Sort parameters into those that decay (matrices) and those that do not (norms, biases), each once.

    -> two parameter groups, as every torch optimizer takes them.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]  # a tied weight appears once
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers; under "muon", Muon for the matrices inside the blocks and AdamW for everything else.

    Source of Muon: Jordan et al. 2024 (a public post); its learning rate is scaled to AdamW's as in Liu et al. 2025,
    arXiv:2502.16982.
    """
    groups = decay_groups(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return [AdamW(groups, lr=recipe.lr)]
    if recipe.optimizer == "torch-adamw":
        return [torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95))]
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]
    for group in groups:
        group["params"] = [p for p in group["params"] if all(p is not matrix for matrix in hidden)]
    muon = torch.optim.Muon(hidden, lr=recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, AdamW(groups, lr=recipe.embedding_lr or recipe.lr)]


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, length: int, batch_size: int = 16) -> float:
    """Loss over a whole text, in nats per token: windows side by side, every token but the first predicted once.

    The model is put into eval mode and left as it was; no random number is drawn.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected at least 1")
    whole = [pair for pair in windows(tokens, length) if len(pair[0]) == length]
    batches = [whole[i : i + batch_size] for i in range(0, len(whole), batch_size)]
    batches += [[pair] for pair in windows(tokens, length) if len(pair[0]) < length]  # the last one, if it is shorter
    device, total_nats, was_training = next(model.parameters()).device, 0.0, model.training
    model.eval()
    try:
        for batch in batches:
            x, y = (torch.stack(side).to(device) for side in zip(*batch, strict=True))
            total_nats += next_token_loss(model(x), y).item() * y.numel()
    finally:
        model.train(was_training)
    return total_nats / (len(tokens) - 1)
