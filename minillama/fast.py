"""A Llama made for speed: fused matrices in few bits, a cache that is never copied, one compiled block. Chapter 12.

It computes what llama.py computes, with the same weights up to their rounding, and is used in its place: in generate,
in Chat, with drafts. What it gives up is that it can be taken apart: no parts, no training.
"""

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import devices
from minillama.attention import causal_mask, merge_heads, repeat_kv, split_heads
from minillama.cache import KVCache, LayerRoom
from minillama.checkpoints.opened import tensor_shapes
from minillama.config import Config
from minillama.position import RoPE, cos_sin, rotate_pairs
from minillama.quantize import FORMATS, check_format, pack_outer


class FastLlama(nn.Module):
    """A plain Llama, of whoever's parts, with its weights in "int4", "int8", "bfloat16" or "float32", to write with.

    Shape, positions, mask and errors as in Llama. cache: one that `new_cache` made.
    compiled: let torch.compile make one block, which all layers use, for steps of one token; the first two of them then
    take some seconds. Default: where there is a C++ compiler.
    Errors: ValueError if the model has a bias, or does not compute what a Llama computes.
    """

    def __init__(self, model: Any, weights: str = "int4", *, compiled: bool | None = None):
        super().__init__()
        check_format(weights, model)
        _check_plain(model)
        self.config, self.weights = model.config, weights
        self.cache_dtype = torch.float32 if weights == "float32" else torch.bfloat16
        self.frequencies = RoPE(model.config).frequencies()
        self.layers = nn.ModuleList(FastBlock(layer, model.config, FORMATS[weights]) for layer in model.layers)
        self.norm = _fixed(model.norm.weight)
        self.embed_tokens, self.lm_head = pack_outer(model, weights)
        self.eval()
        compiled = devices.compiler() is not None if compiled is None else compiled
        self.one_token: Any = FastBlock.forward
        if compiled:  # each FastLlama by itself: torch compiles one function for at most eight kinds of inputs
            self.one_token = torch.compile(FastBlock.forward, isolate_recompiles=True)  # type: ignore[call-overload]

    def new_cache(self, room: int | None = None) -> KVCache:
        """An empty cache with room for so many tokens; default: the longest text."""
        return KVCache(self.config.n_layers, room=room or self.config.max_len)

    @torch.no_grad()
    def forward(self, tokens: Tensor, **where) -> Tensor:
        return self.lm_head(rms_norm(self._read(tokens, **where), self.norm, self.config.norm_eps))

    @torch.no_grad()
    def last_logits(self, tokens: Tensor, **where) -> Tensor:
        """The scores behind the last token only, (B, 1, V): a prompt needs no others, and each costs a product."""
        x = self._read(tokens, **where)[:, -1:]
        return self.lm_head(rms_norm(x, self.norm, self.config.norm_eps))

    def _read(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """What the blocks make of the tokens, (B, T, C)."""
        B, T = tokens.shape
        cache = self.new_cache(room=T) if cache is None else cache
        rooms = [room for room in cache.layers if isinstance(room, LayerRoom)]
        if len(rooms) != len(self.layers):
            raise ValueError("this cache grows, and a FastLlama writes into one that has room; use model.new_cache()")
        start = len(cache)
        if positions is None:
            positions = torch.arange(start, start + T, device=tokens.device)
        may_look = mask
        if T > 1 and (start or mask is not None):  # else the plain triangle, or a single row of nothing but True
            may_look = causal_mask(T, start + T, device=tokens.device)
            may_look = may_look if mask is None else may_look & mask
        cos, sin = cos_sin(positions, self.frequencies)
        run: Any = self.one_token if T == 1 and mask is None else FastBlock.forward
        x = self.embed_tokens(tokens)  # (B, T, C)
        new = x.new_empty(B, self.config.n_kv_heads, T, self.config.head_dim, dtype=self.cache_dtype)
        for layer, room in zip(self.layers, rooms, strict=True):
            x = run(layer, x, cos, sin, may_look, *room.take(new), start)
            room.holds(start + T)
        return x


class FastBlock(nn.Module):
    """A layer of a Llama: one product for q, k and v, one for gate and up; float32 between the products.

    Shape: x (B, T, C) -> (B, T, C). cos, sin: as rotate_pairs takes them. mask: (B, H, T, S); None for one token, which
    may look everywhere, and for a text from its beginning, with the causal mask. k_room, v_room: (B, G, room, D), where
    the keys and values of this layer are kept; the new ones are written to the places from `start` on.
    """

    def __init__(self, block: Any, config: Config, pack):
        super().__init__()
        attention, feedforward = block.attention, block.feedforward
        self.n_heads, self.n_kv_heads, self.eps = config.n_heads, config.n_kv_heads, config.norm_eps
        self.attention_norm = _fixed(block.attention_norm.weight)
        self.qkv_proj = pack(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]))
        self.o_proj = pack(attention.o_proj.weight)
        self.feedforward_norm = _fixed(block.feedforward_norm.weight)
        self.gate_up_proj = pack(torch.cat([feedforward.gate_proj.weight, feedforward.up_proj.weight]))
        self.down_proj = pack(feedforward.down_proj.weight)

    def forward(self, x, cos, sin, mask, k_room, v_room, start: int) -> Tensor:
        H, G, end = self.n_heads, self.n_kv_heads, start + x.size(1)
        heads = split_heads(self.qkv_proj(rms_norm(x, self.attention_norm, self.eps)), H + 2 * G)  # (B, H + 2G, T, D)
        q, k, v = heads.split([H, G, G], dim=1)
        k_room[:, :, start:end], v_room[:, :, start:end] = rotate_pairs(k, cos, sin), v
        attend = attend_one if x.size(1) == 1 and mask is None else attend_many
        out = attend(rotate_pairs(q, cos, sin), k_room[:, :, :end], v_room[:, :, :end], mask)
        x = x + self.o_proj(merge_heads(out))
        gate, up = self.gate_up_proj(rms_norm(x, self.feedforward_norm, self.eps)).chunk(2, dim=-1)
        return x + self.down_proj(F.silu(gate) * up)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What RMSNorm computes, of float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def attend_one(q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    """Attention of one query in each head, written as sums, of which a compiler makes one loop.

    Shape: (B, H, 1, D), (B, G, S, D) twice -> (B, H, 1, D). The query heads that share keys stand in an axis of their
    own, so that no key is repeated.
    """
    B, H, _, D = q.shape
    q = q.view(B, k.size(1), -1, 1, D)  # (B, G, H / G, 1, D)
    scores = (q * k.float().unsqueeze(2)).sum(-1) * D**-0.5  # (B, G, H / G, S)
    return (scores.softmax(-1).unsqueeze(-1) * v.float().unsqueeze(2)).sum(3).view(B, H, 1, D)


def attend_many(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by torch's own kernel, causal without a mask. (B, H, T, D), (B, G, S, D) twice -> (B, H, T, D)"""
    n_repeats = q.size(1) // k.size(1)
    k, v = repeat_kv(k, n_repeats), repeat_kv(v, n_repeats)
    return F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask, is_causal=mask is None).to(q.dtype)


def _fixed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().float(), requires_grad=False)


@torch.no_grad()
def _check_plain(model: Any):
    """Raise ValueError unless the model has a Llama's weights, and its first block computes what a Llama's does."""
    tied = model.lm_head.weight is model.embed_tokens.weight
    names = {name for name in model.state_dict() if not (tied and name.startswith("lm_head"))}
    other = sorted(names ^ set(tensor_shapes(model.config)))
    if other or model.position.rotate is None:
        raise ValueError(f"only a plain Llama can be made fast; another one's: {', '.join(other[:5]) or 'positions'}")
    config, block = model.config, copy.deepcopy(model.layers[0]).float()
    positions, mask = torch.arange(5), causal_mask(5)
    x = torch.randn(1, 5, config.d_model, generator=torch.Generator().manual_seed(0))
    rooms = [torch.empty(1, config.n_kv_heads, 5, config.head_dim) for _ in "kv"]
    angles = cos_sin(positions, RoPE(config).frequencies())
    given = FastBlock(block.cpu(), config, FORMATS["float32"])(x, *angles, mask, *rooms, 0)
    expected = block(x, mask, rotate=partial(model.position.rotate, positions=positions))
    if not torch.allclose(given, expected, atol=1e-3 * float(expected.abs().max())):
        raise ValueError("only a plain Llama can be made fast; a block of this one computes something else")
