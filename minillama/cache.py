"""The key/value cache: what a token's keys and values were does not change, so keep them. Chapter 11."""

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer. `append` adds the new ones and returns all of them."""

    def __init__(self):
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, T, D) twice -> (B, G, S, D) twice, S counts what was there and what came."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v = k, v
        return k, v


class KVCache:
    """One LayerCache per layer; `cache[i]` is layer i's, `len(cache)` the number of tokens seen.

    Hand the same cache to `Llama` for every further piece of one text, and a new one for a new text.
    Memory: 2 * n_layers * n_kv_heads * head_dim * bytes per number, for each token of each sequence.

    >>> cache = KVCache(n_layers=2)
    >>> k, v = cache[0].append(torch.ones(1, 3, 4, 8), torch.ones(1, 3, 4, 8))
    >>> len(cache), cache.n_bytes
    (4, 768)
    """

    def __init__(self, n_layers: int):
        self.layers = [LayerCache() for _ in range(n_layers)]

    def __getitem__(self, layer: int) -> LayerCache:
        return self.layers[layer]

    def __len__(self) -> int:
        k = self.layers[0].k
        return 0 if k is None else k.size(2)

    def crop(self, n_tokens: int):
        """Forget all but the first n_tokens."""
        for layer in self.layers:
            if layer.k is not None and layer.v is not None:
                layer.k, layer.v = layer.k[:, :, :n_tokens], layer.v[:, :, :n_tokens]

    @property
    def n_bytes(self) -> int:
        stored = [t for layer in self.layers for t in (layer.k, layer.v) if t is not None]
        return sum(t.numel() * t.element_size() for t in stored)
