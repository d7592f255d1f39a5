"""LLaMA: embed, run through the blocks, normalize, score every possible next token. Chapter 09."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minillama.attention import causal_mask
from minillama.block import Parts
from minillama.cache import KVCache
from minillama.config import Config


class Llama(nn.Module):
    """A decoder-only language model, made of any Parts.

    Shape: tokens (B, T), whole numbers below vocab_size -> logits (B, T, V); logits[:, t] scores the token after
    tokens[:, t].
    cache: a KVCache; `tokens` then continue the text the cache has seen.
    positions: (T,) or (B, T); by default 0, 1, 2, ... after what the cache holds.
    mask: bool, with four axes that broadcast to (B, H, T, S), True means "may look"; it takes away from the causal
    mask, never adds. S counts what the cache holds as well. To hide padding, (tokens != pad)[:, None, None, :].
    Errors: ValueError for a mask of another kind.
    Source: Touvron et al. 2023, arXiv:2302.13971.

    >>> llama = Llama(Config(vocab_size=65, d_model=8, n_layers=1, n_heads=2, d_ff=12))
    >>> llama(torch.tensor([[1, 2, 3]])).shape, llama.n_parameters
    (torch.Size([1, 3, 65]), 1608)
    """

    def __init__(self, config: Config, parts: Parts = Parts()):  # noqa: B008  (frozen)
        super().__init__()
        self.config, self.parts = config, parts
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.position: Any = parts.position(config)
        self.layers = nn.ModuleList(parts.block(config, parts) for _ in range(config.n_layers))
        self.norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def _init_weights(self, module: nn.Module):
        """Small random matrices, so that the first guess is close to "all tokens alike", a loss of ln V."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def n_parameters(self) -> int:
        """Numbers to learn; tied ones count once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        B, T = tokens.shape
        S = T if cache is None else len(cache) + T
        if positions is None:
            positions = torch.arange(S - T, S, device=tokens.device)
        may_look = causal_mask(T, S, device=tokens.device)
        if mask is not None:
            if mask.dtype != torch.bool or mask.ndim != 4:
                shape = tuple(mask.shape)
                raise ValueError(f"mask: {mask.dtype} of shape {shape}, expected bool with four axes (B, H, T, S)")
            may_look = may_look & mask
        inner: dict[str, Any] = {}
        if self.position.rotate is not None:
            inner["rotate"] = partial(self.position.rotate, positions=positions)
        x = self.position.add(self.embed_tokens(tokens), positions)  # (B, T, C)
        for i, layer in enumerate(self.layers):
            if cache is not None:
                inner["cache"] = cache[i]
            x = layer(x, may_look, **inner)
        return self.lm_head(self.norm(x))
