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


class LayerRoom(LayerCache):
    """A LayerCache that takes the room for all tokens at once: nothing that is there is copied again.

    What `append` gives are views of the room: after a crop, later tokens overwrite what they show.
    Errors: ValueError if more than `room` tokens come.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.whole: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = (0 if self.k is None else self.k.size(2)) + k.size(2)
        for room, new in zip(self.take(k), (k, v), strict=True):
            room[:, :, end - k.size(2) : end] = new
        return self.holds(end)

    def take(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """The whole room, (B, G, room, D) twice, for as many sequences as `new`, (B, G, T, D), has."""
        if self.whole is None:
            B, G, _, D = new.shape
            self.whole = new.new_empty(B, G, self.room, D), new.new_empty(B, G, self.room, D)
        n_tokens = (0 if self.k is None else self.k.size(2)) + new.size(2)
        if n_tokens > self.room:
            raise ValueError(f"{n_tokens} tokens, but this cache has room={self.room}; make one with more, or crop it")
        return self.whole

    def holds(self, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Say that the first n_tokens places are written; -> those, (B, G, n_tokens, D) twice."""
        assert self.whole is not None
        self.k, self.v = (x[:, :, :n_tokens] for x in self.whole)
        return self.k, self.v


class KVCache:
    """One LayerCache per layer; `cache[i]` is layer i's, `len(cache)` the number of tokens seen.

    Hand the same cache to `Llama` for every further piece of one text, and a new one for a new text.
    room: take the memory for so many tokens at the first one, instead of growing by copying (LayerRoom).
    Memory: 2 * n_layers * n_kv_heads * head_dim * bytes per number, for each token of each sequence.

    >>> cache = KVCache(n_layers=2)
    >>> k, v = cache[0].append(torch.ones(1, 3, 4, 8), torch.ones(1, 3, 4, 8))
    >>> len(cache), cache.n_bytes
    (4, 768)
    """

    def __init__(self, n_layers: int, room: int | None = None):
        self.layers = [LayerCache() if room is None else LayerRoom(room) for _ in range(n_layers)]

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


def cache_for(model) -> KVCache:
    """An empty cache of the kind that the model asks for, by a method `new_cache`, or else one that grows."""
    return model.new_cache() if hasattr(model, "new_cache") else KVCache(model.config.n_layers)
