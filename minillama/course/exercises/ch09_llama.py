"""Exercises of chapter 09: the whole LLaMA, its first loss, its costs, its relatives, and a proof about the future."""

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama import llama
from minillama.attention import Attention, causal_mask
from minillama.block import Parts, PostNormBlock
from minillama.cache import KVCache, LayerCache
from minillama.config import PRESETS, Config, RopeScaling
from minillama.course.checks import (
    holds,
    integers,
    pick,
    rand,
    randn,
    refuses,
    same,
    weights,
    with_weights,
)
from minillama.course.exercise import Exercise
from minillama.feedforward import ReLUFeedForward
from minillama.norm import LayerNorm
from minillama.position import Sinusoidal

# 09.1 Llama ---------------------------------------------------------------------------------------------------------

whole = Exercise(
    "09.1",
    llama.Llama,
    given=("_init_weights",),
    hints=(
        "`__init__` makes five things, in this order: embed_tokens, position, layers (an `nn.ModuleList`), norm, "
        "lm_head. Then `self.apply(self._init_weights)`, and last of all the tie, if the config asks for it. Keep "
        "config and parts as well.",
        "In forward, S is the number of keys: T, and with a cache `len(cache)` more. The positions are the last T of "
        "0 to S - 1, unless they are given. `causal_mask(T, S) & mask` takes away and never adds.",
        "`inner` is a dict that goes to every layer as `layer(x, may_look, **inner)`. Put `rotate` into it if "
        "`self.position.rotate` is not None, as `partial(self.position.rotate, positions=positions)`; inside the loop "
        "put in `cache=cache[i]` if there is a cache. Embed, `position.add`, the layers, norm, head.",
    ),
)

SIZES = Config(
    vocab_size=11, d_model=12, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=10, max_len=32, norm_eps=1e-2, rope_base=50.0
)
ONE_LAYER = dataclasses.replace(SIZES, n_layers=1)
TIED = dataclasses.replace(ONE_LAYER, tied=True)
SMALL = dataclasses.replace(SIZES, n_kv_heads=6, n_layers=1)


class PlainAttention(Attention):
    """An attention as in chapter 04, that has never heard of `rotate`, nor of a cache."""

    def forward(self, x, mask=None):
        return super().forward(x, mask)


OTHER_PARTS = Parts(LayerNorm, ReLUFeedForward, PlainAttention, Sinusoidal, PostNormBlock)


class LouderCache(LayerCache):
    """Gives back three times the values, so that it shows whether it was asked."""

    def append(self, k, v):
        k, v = super().append(k, v)
        return k, 3 * v


@dataclass(repr=False)
class Prepared(KVCache):
    """A cache that has seen something already, or is empty. It travels: it is made of tensors, wherever it is used."""

    stored: list  # (k, v) of each layer; None for nothing yet

    def __post_init__(self):
        super().__init__(len(self.stored))
        for layer, seen in enumerate(self.stored):
            if seen is None:
                self.layers[layer] = LouderCache()
            else:
                self.layers[layer].append(*seen)

    def __repr__(self) -> str:
        return f"a cache of {len(self)} tokens"


@cache
def _package(config: Config, parts=Parts()) -> llama.Llama:  # noqa: B008  (frozen)
    """The package's model of these sizes, made once: building takes longer than running, here."""
    return llama.Llama(config, parts).requires_grad_(False)


def _twins(Llama, config: Config, parts=Parts()):  # noqa: B008  (frozen)
    """The learner's model and the package's, with the same weights, large enough for every part to be heard."""
    ours = _package(config, parts)
    loud = {}
    for name, p in ours.named_parameters():
        loud[name] = 0.5 + rand(*p.shape) if p.ndim < 2 else 1.5 * randn(*p.shape) / p.size(-1) ** 0.5
        p.data.copy_(loud[name])
    theirs = Llama(config, parts)
    if config.tied and "embed_tokens.weight" not in weights(theirs):  # one matrix with two names: either will do
        loud["lm_head.weight"] = loud.pop("embed_tokens.weight")
    return with_weights(theirs, loud), ours


def _names_and_shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(w.shape) for name, w in model.items()}


@whole.check("weights with the names and shapes of the plan, nothing tied")
def whole_names(Llama):
    expected = dict(_package(SIZES).named_parameters())
    same(_names_and_shapes(weights(Llama(SIZES))), _names_and_shapes(expected))


@whole.check("tied: one matrix for embedding and head, counted once by n_parameters")
def whole_tied(Llama):
    model = Llama(TIED)
    there = weights(model)
    head, embedding = there.get("lm_head.weight"), there.get("embed_tokens.weight")
    if head is not None and embedding is not None:
        alike = head.shape == embedding.shape and bool((head == embedding).all())
        holds(False, "the head's weight should be the embedding's, the same object", given="a copy" if alike else "two")
    same([model.n_parameters, Llama(SMALL).n_parameters], [_package(TIED).n_parameters, _package(SMALL).n_parameters])


@whole.check("a fresh model: small random matrices (deviation 0.02), norms at 1")
def whole_fresh(Llama):
    def look(w):
        if w.ndim < 2:
            return "all 1" if bool((w == 1).all()) else "not all 1"
        return "small" if 0.01 < w.std().item() < 0.03 else "zero" if not w.any() else "large"

    there = weights(Llama(ONE_LAYER))
    same(
        {name: look(w) for name, w in there.items()},
        {name: "all 1" if w.ndim < 2 else "small" for name, w in there.items()},
    )


@whole.check("logits for two texts of five tokens")
def whole_logits(Llama):
    theirs, ours = _twins(Llama, SIZES)
    tokens = integers(0, 11, 2, 5)
    same(theirs(tokens), ours(tokens), atol=1e-4)


@whole.check("positions that are given, with gaps, and another row for each text")
def whole_positions(Llama):
    theirs, ours = _twins(Llama, ONE_LAYER)
    tokens, positions = integers(0, 11, 2, 4), torch.tensor([[0, 2, 3, 9], [1, 5, 6, 20]])
    same(theirs(tokens, positions=positions), ours(tokens, positions=positions), atol=1e-4)


@whole.check("a mask: padding hidden in one text, one head shut out in the other, and nobody sees the future")
def whole_mask(Llama):
    theirs, ours = _twins(Llama, ONE_LAYER)
    tokens, mask = integers(0, 11, 2, 5), torch.ones(2, 6, 5, 5, dtype=torch.bool)
    mask[0, :, :, :2] = False
    mask[1, 3, 4, 1] = False
    same(theirs(tokens, mask=mask)[:, 2:], ours(tokens, mask=mask)[:, 2:], atol=1e-4)


@whole.check("a cache that holds four tokens, and two more that continue the text")
def whole_cache(Llama):
    theirs, ours = _twins(Llama, SIZES)
    tokens = integers(0, 11, 2, 6)
    seen = KVCache(2)
    ours(tokens[:, :4], cache=seen)
    prepared = Prepared([(layer.k, layer.v) for layer in seen.layers])
    same(theirs(tokens[:, 4:], cache=prepared), ours(tokens)[:, 4:], atol=1e-4)


@whole.check("an empty cache is handed to the layers too (this one says everything three times as loud)")
def whole_empty_cache(Llama):
    theirs, ours = _twins(Llama, ONE_LAYER)
    tokens = integers(0, 11, 2, 3)
    same(theirs(tokens, cache=Prepared([None])), ours(tokens, cache=Prepared([None])), atol=1e-4)


@whole.check("masks that are no bool, or have no four axes, are refused")
def whole_refuses(Llama):
    model, tokens = Llama(SMALL), integers(0, 11, 2, 3)
    for mask in (torch.ones(2, 1, 1, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, 1, 3, dtype=torch.long)):
        refuses(model, tokens, mask=mask)


@whole.check("other parts: LayerNorm, ReLU, an attention that takes x and mask only, waves for positions, post-norm")
def whole_parts(Llama):
    theirs, ours = _twins(Llama, SMALL, OTHER_PARTS)
    tokens = integers(0, 11, 2, 5)
    same(theirs(tokens), ours(tokens), atol=1e-4)


class _Steps(llama.Llama):
    """Llama again, in steps, each of which somebody can get wrong."""

    def forward(self, tokens, *, cache=None, positions=None, mask=None):
        T = tokens.size(1)
        S = T if cache is None else len(cache) + T
        positions = self.places(T, S, positions)
        inner = {"rotate": partial(self.position.rotate, positions=positions)} if self.position.rotate else {}
        x = self.start(tokens, positions)
        return self.end(self.through(x, self.may_look(T, S, mask), inner, cache))

    def places(self, T, S, positions):
        return torch.arange(S - T, S) if positions is None else positions

    def start(self, tokens, positions):
        return self.position.add(self.embed_tokens(tokens), positions)

    def may_look(self, T, S, mask):
        self.fit(mask)
        return causal_mask(T, S) if mask is None else causal_mask(T, S) & mask

    def fit(self, mask):
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
            raise ValueError("mask: expected bool with four axes (B, H, T, S)")

    def through(self, x, may_look, inner, cache):
        for i, layer in enumerate(self.layers):
            x = layer(x, may_look, **inner, **({} if cache is None else {"cache": cache[i]}))
        return x

    def end(self, x):
        return self.lm_head(self.norm(x))


@whole.mistake("""Your layers are in a plain Python list. PyTorch does not look into lists, so their weights are no
    parameters of the model: no optimizer moves them and no file saves them. Use nn.ModuleList.""")
class LayersInAList(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        layers = list(self.layers)
        del self.layers
        self.layers = layers


@whole.mistake("""You made one block and put it into the list n_layers times. All layers are then the same object,
    with the same weights. Call parts.block(config, parts) once for each layer.""")
class OneBlockForAll(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        self.layers = nn.ModuleList([self.layers[0]] * config.n_layers)


@whole.mistake("""You copied the embedding's numbers into the head. They start alike, and after the first training
    step they no longer are. Tying means one object: `self.lm_head.weight = self.embed_tokens.weight`.""")
class CopiedHead(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        if config.tied:
            self.lm_head.weight = nn.Parameter(self.embed_tokens.weight.detach().clone())


@whole.mistake("""You did not tie embedding and head where config.tied asks for it. Llama 3.2 1B has a fifth less to
    store because of it, and its file holds no matrix for the head.""")
class NeverTied(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(dataclasses.replace(config, tied=False), parts)


@whole.mistake("""You tied embedding and head always. Most LLaMAs have two matrices there: tie only if
    config.tied.""")
class AlwaysTied(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(dataclasses.replace(config, tied=True), parts)


@whole.mistake("""You never called `self.apply(self._init_weights)`. PyTorch then starts the embedding with a
    deviation of 1, fifty times too large. With a tied head the first loss is in the tens instead of ln V.""")
class NotInitialized(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not (config.tied and module is self.lm_head):
                module.reset_parameters()


@whole.mistake("""You called `self.apply(self._init_weights)` before the head was there. It reaches only what exists:
    make all modules first.""")
class InitializedTooEarly(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)


@whole.mistake("""You handed the final norm no eps, so it has 1e-5, whatever the config says: norm_eps=... LLaMA 1 7B
    was trained with 1e-6.""")
class FinalNormWithoutEps(_Steps):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        super().__init__(config, parts)
        self.norm = parts.norm(config.d_model)


@whole.mistake("""n_parameters counted a tied matrix twice, since state_dict() lists it under both names.
    parameters() lists it once.""")
class CountedTwice(_Steps):
    @property
    def n_parameters(self):
        return sum(w.numel() for w in self.state_dict().values())


@whole.mistake("""You left out the norm between the last layer and the head. The stream grows from layer to layer,
    and the head was made to read vectors of length 1.""")
class NoFinalNorm(_Steps):
    def end(self, x):
        return self.lm_head(x)


@whole.mistake("""You gave back probabilities. The loss and the samplers apply softmax themselves, and a second
    softmax makes every model nearly undecided. Give back the head's scores as they are.""")
class Probabilities(_Steps):
    def end(self, x):
        return super().end(x).softmax(dim=-1)


@whole.mistake("""Every layer read the embedding, because the loop never put a layer's result back into x. Only the
    last layer counts that way. `x = layer(x, ...)`.""")
class EachLayerReadsTheEmbedding(_Steps):
    def through(self, x, may_look, inner, cache):
        for i, layer in enumerate(self.layers):
            out = layer(x, may_look, **inner, **({} if cache is None else {"cache": cache[i]}))
        return out


@whole.mistake("""You added x to what a layer gives back. A block does its additions itself (chapter 07), and what it
    hands on is the whole stream: `x = layer(x, ...)`.""")
class StreamAddedAgain(_Steps):
    def through(self, x, may_look, inner, cache):
        for i, layer in enumerate(self.layers):
            x = x + layer(x, may_look, **inner, **({} if cache is None else {"cache": cache[i]}))
        return x


@whole.mistake("""You multiplied the embeddings with √C. The transformer of 2017 did, LLaMA does not (and the part
    for waves does it by itself).""")
class ScaledEmbedding(_Steps):
    def start(self, tokens, positions):
        return self.position.add(self.embed_tokens(tokens) * self.config.d_model**0.5, positions)


@whole.mistake("""You never called self.position.add. RoPE adds nothing, so LLaMA does not miss it; with waves or
    learned positions the model would not know the order of its words.""")
class NothingAdded(_Steps):
    def start(self, tokens, positions):
        return self.embed_tokens(tokens)


@whole.mistake("""You let the given mask take the place of the causal one. It must only take away: `causal_mask(T, S)
    & mask`. With your version every padding mask opens the future.""")
class MaskInsteadOfCausal(_Steps):
    def may_look(self, T, S, mask):
        self.fit(mask)
        return causal_mask(T, S) if mask is None else mask


@whole.mistake("""You joined the two masks with `|`: a key is then seen if one of them allows it, and a padding mask
    opens the future. Both must allow it: `causal_mask(T, S) & mask`.""")
class EitherMask(_Steps):
    def may_look(self, T, S, mask):
        self.fit(mask)
        return causal_mask(T, S) if mask is None else causal_mask(T, S) | mask


@whole.mistake("""You used the given mask nowhere. Join it with the causal one: `causal_mask(T, S) & mask`. As it is,
    padding is read as text.""")
class MaskIgnored(_Steps):
    def may_look(self, T, S, mask):
        self.fit(mask)
        return causal_mask(T, S)


@whole.mistake("""There is no causal mask: every token sees the whole text. Such a model's loss falls wonderfully,
    and it can't write.""")
class NoCausalMask(_Steps):
    def may_look(self, T, S, mask):
        self.fit(mask)
        return torch.ones(T, S, dtype=torch.bool) if mask is None else mask


@whole.mistake("""You accept any mask. One of numbers, or with other axes than (B, H, T, S), fits by accident or
    breaks somewhere deep inside. Raise a ValueError that says what came and what was expected.""")
class AnyMask(_Steps):
    def fit(self, mask):
        pass

    def may_look(self, T, S, mask):
        return causal_mask(T, S) if mask is None else causal_mask(T, S) & (mask != 0)


@whole.mistake("""You ignored the positions that were given, and counted 0, 1, 2, ... always. Count only where
    `positions is None`.""")
class PositionsIgnored(_Steps):
    def places(self, T, S, positions):
        return torch.arange(S - T, S)


@whole.mistake("""With a cache your positions begin at 0 again. The new tokens continue a text: they stand at the
    last T of the S places, `torch.arange(S - T, S)`. Short tests without a cache never show it.""")
class PositionsStartAgain(_Steps):
    def places(self, T, S, positions):
        return torch.arange(T) if positions is None else positions


@whole.mistake("""You handed cache[0] to every layer. Each layer has keys and values of its own: cache[i].""")
class OneCacheForAll(_Steps):
    def through(self, x, may_look, inner, cache):
        for layer in self.layers:
            x = layer(x, may_look, **inner, **({} if cache is None else {"cache": cache[0]}))
        return x


@whole.mistake("""You did not hand the cache to the layers. The new tokens can't look at the old ones then. Put
    `cache=cache[i]` into what layer i gets.""")
class CacheNotHandedOn(_Steps):
    def may_look(self, T, S, mask):
        return super().may_look(T, S, mask)[..., -T:] if T < S else super().may_look(T, S, mask)

    def through(self, x, may_look, inner, cache):
        return super().through(x, may_look, inner, None)


@whole.mistake("""You made the causal mask for the new tokens only, T × T. With a cache there are S keys: the mask
    has T rows and S columns, causal_mask(T, S). While a text is read in one piece nobody notices.""")
class SquareMask(_Steps):
    def may_look(self, T, S, mask):
        return super().may_look(T, T, mask)


@whole.mistake("""You made the causal mask for all S tokens, S × S. With a cache only the T new ones ask: the mask has T
    rows and S columns, causal_mask(T, S).""")
class MaskForAll(_Steps):
    def may_look(self, T, S, mask):
        return super().may_look(S, S, mask)


@whole.mistake("""You handed the whole cache to each layer. Layer i gets its own part of it: cache[i].""")
class WholeCacheForAll(_Steps):
    def through(self, x, may_look, inner, cache):
        for layer in self.layers:
            x = layer(x, may_look, **inner, **({} if cache is None else {"cache": cache}))
        return x


@whole.mistake("""You asked `if cache:`. An empty cache has the length 0, and counts as False, so that the first
    piece of a text is stored nowhere. Ask `if cache is not None:`.""")
class EmptyCacheIsFalse(_Steps):
    def forward(self, tokens, *, cache=None, positions=None, mask=None):
        return super().forward(tokens, cache=cache or None, positions=positions, mask=mask)


@whole.mistake("""You handed `rotate` to the layers even if self.position.rotate is None, as it is for waves, learned
    positions and none. Put it into inner only if there is something to call.""")
class AlwaysRotates(_Steps):
    def start(self, tokens, positions):
        partial(self.position.rotate, positions=positions)
        return super().start(tokens, positions)


@whole.mistake("""You handed `rotate=None` to the layers where self.position.rotate is None. An attention that takes no
    `rotate` at all stops there: put the name into inner only if there is something to call.""")
class RotateNone(_Steps):
    def through(self, x, may_look, inner, cache):
        return super().through(x, may_look, {"rotate": None, **inner}, cache)


@whole.alternative("a dict of modules, and the steps in a list")
class WithADict(llama.Llama):
    def forward(self, tokens, *, cache=None, positions=None, mask=None):
        T, past = tokens.shape[1], 0 if cache is None else len(cache)
        if mask is not None and not (mask.dtype is torch.bool and len(mask.shape) == 4):
            raise ValueError(f"no mask of four axes and bool: {mask.shape}")
        positions = past + torch.arange(T) if positions is None else positions
        seen = torch.ones(T, past + T, dtype=torch.bool).tril(past)
        if mask is not None:
            seen = torch.logical_and(seen, mask)
        x = self.position.add(F.embedding(tokens, self.embed_tokens.weight), positions)
        for i in range(self.config.n_layers):
            named: dict[str, Any] = {"mask": seen}
            if self.position.rotate:
                named |= {"rotate": lambda h: self.position.rotate(h, positions)}
            if cache is not None:
                named |= {"cache": cache[i]}
            x = self.layers[i](x, **named)
        return F.linear(self.norm(x), self.lm_head.weight)


@whole.alternative("tied before the weights are drawn, parameters counted by id")
class TiedFirst(llama.Llama):
    def __init__(self, config, parts=Parts()):  # noqa: B008
        nn.Module.__init__(self)
        self.config, self.parts = config, parts
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.tied:
            self.embed_tokens.weight = self.lm_head.weight
        self.norm = parts.norm(config.d_model, eps=config.norm_eps)
        self.layers = nn.ModuleList()
        for _ in range(config.n_layers):
            self.layers.append(parts.block(config, parts))
        self.position: Any = parts.position(config)
        self.apply(self._init_weights)

    @property
    def n_parameters(self):
        return sum({id(p): math.prod(p.shape) for p in self.parameters()}.values())


@whole.alternative("the layers folded over the stream")
class FoldedOver(_Steps):
    def through(self, x, may_look, inner, cache):
        extra = [{} if cache is None else {"cache": cache[i]} for i in range(len(self.layers))]
        return reduce(lambda x, step: step[0](x, may_look, **inner, **step[1]), zip(self.layers, extra, strict=True), x)


# 09.2 expected_first_loss -------------------------------------------------------------------------------------------


def expected_first_loss(vocab_size: int, d_model: int, deviation: float, tied: bool) -> float:
    """Work out the loss in nats with which a small fresh model starts, without building it.

    deviation: of the numbers in embedding and head. The target counts as a token other than the last one, with
    score 0. ln of the average e^score of such a token: d_model * deviation**2 / 2.
    The last token's own score: d_model * deviation if tied; if not, it is a token like all others.
    Computes ln(sum of e^score over the vocabulary), without overflow: deviation 1 and d_model 4096 must do.
    """
    others = d_model * deviation**2 / 2
    own = d_model * deviation if tied else others
    largest = max(own, others)
    return largest + math.log(math.exp(own - largest) + (vocab_size - 1) * math.exp(others - largest))


first_loss = Exercise(
    "09.2",
    expected_first_loss,
    hints=(
        "The sum has vocab_size terms: vocab_size - 1 times e^(d_model * deviation² / 2), and one for the last token's "
        "own score.",
        "e^4096 is too large for Python. As in softmax (03.2), take the largest exponent out of the sum: "
        "ln(e^a + e^b) = m + ln(e^(a - m) + e^(b - m)).",
        "`others = d_model * deviation**2 / 2`, `own = d_model * deviation if tied else others`, then m is the larger "
        "one; `math.exp` of the differences, weights 1 and vocab_size - 1, `math.log`, plus m.",
    ),
)


@first_loss.check("nearly zero weights, tied or not: knowing nothing, ln V")
def first_loss_quiet(expected_first_loss):
    V = pick([11, 65, 32000])
    given = [expected_first_loss(V, 64, 1e-7, tied) for tied in (False, True)]
    same(given, [math.log(V)] * 2, atol=1e-3)


@first_loss.check("V = 65, C = 64, deviation 0.1, tied: own score 6.4, the others 0.32 each")
def first_loss_by_hand(expected_first_loss):
    same(expected_first_loss(65, 64, 0.1, True), math.log(math.exp(6.4) + 64 * math.exp(0.32)), atol=1e-3)


@first_loss.check("the same sizes, not tied")
def first_loss_untied(expected_first_loss):
    same(expected_first_loss(65, 64, 0.1, False), math.log(65) + 0.32, atol=1e-3)


@first_loss.check("a vocabulary of three, where every term counts")
def first_loss_three(expected_first_loss):
    deviation = 0.2 + 0.1 * rand(1).item()
    own, others = 10 * deviation, 10 * deviation**2 / 2
    same(expected_first_loss(3, 10, deviation, True), math.log(math.exp(own) + 2 * math.exp(others)), atol=1e-4)


@first_loss.check("deviation 1, tied, 4,096 channels: no overflow")
def first_loss_large(expected_first_loss):
    same(expected_first_loss(32000, 4096, 1.0, True), 4096.0, atol=1e-3)


def _exponents(d_model, deviation, tied):
    others = d_model * deviation**2 / 2
    return (d_model * deviation if tied else others), others


def _log_sum(own, others, n_others):
    largest = max(own, others)
    return largest + math.log(math.exp(own - largest) + n_others * math.exp(others - largest))


@first_loss.mistake("""e^4096 is more than a float can hold. Take the largest exponent out of the sum, as in softmax:
    m + ln(e^(own - m) + ...).""")
def overflowing(vocab_size, d_model, deviation, tied):
    own, others = _exponents(d_model, deviation, tied)
    return math.log(math.exp(own) + (vocab_size - 1) * math.exp(others))


@first_loss.mistake("""You treated the last token as one like all others, tied or not. With a tied head its score is
    its embedding times itself: d_model * deviation.""")
def tie_forgotten(vocab_size, d_model, deviation, tied):
    return math.log(vocab_size) + d_model * deviation**2 / 2


@first_loss.mistake("""You gave the last token its own score even where nothing is tied. There the head has other
    numbers than the embedding, and the last token is one like all others.""")
def always_tied(vocab_size, d_model, deviation, tied):
    return _log_sum(*_exponents(d_model, deviation, True), vocab_size - 1)


@first_loss.mistake("""Your own score is d_model * deviation². That is the embedding times itself; but the head reads
    the stream after the norm, divided by its length: d_model * deviation.""")
def norm_forgotten(vocab_size, d_model, deviation, tied):
    own = d_model * deviation**2 if tied else d_model * deviation**2 / 2
    return _log_sum(own, d_model * deviation**2 / 2, vocab_size - 1)


@first_loss.mistake("""You counted the last token twice: with vocab_size others and its own term there are vocab_size
    + 1 tokens.""")
def one_too_many(vocab_size, d_model, deviation, tied):
    return _log_sum(*_exponents(d_model, deviation, tied), vocab_size)


@first_loss.mistake("""You gave the other tokens a score of 0. Their average score is 0, but e^score is not 1 on
    average: ups count more than downs. Use d_model * deviation² / 2.""")
def others_at_zero(vocab_size, d_model, deviation, tied):
    return _log_sum(d_model * deviation if tied else 0.0, 0.0, vocab_size - 1)


@first_loss.mistake("""You gave the last token a score of 0 where nothing is tied. It is one like all others there, with
    the same average of e^score: own = d_model * deviation² / 2.""")
def own_at_zero(vocab_size, d_model, deviation, tied):
    return _log_sum(d_model * deviation if tied else 0.0, d_model * deviation**2 / 2, vocab_size - 1)


@first_loss.mistake("""You have tied and not tied the wrong way round. With a tied head the own score is d_model *
    deviation; without, the last token is one like all others.""")
def tie_turned_round(vocab_size, d_model, deviation, tied):
    return _log_sum(*_exponents(d_model, deviation, not tied), vocab_size - 1)


@first_loss.mistake("""You forgot the half: the average of e^score is e^(d²/2), where d² = d_model * deviation² is
    the square of the scores' deviation.""")
def half_forgotten(vocab_size, d_model, deviation, tied):
    others = d_model * deviation**2
    return _log_sum(d_model * deviation if tied else others, others, vocab_size - 1)


@first_loss.mistake("""You gave each other token the score √C * s. That is how far from 0 a score typically is; some
    are above and some below. What counts is the logarithm of the average of e^score: d_model * deviation² / 2.""")
def typical_distance(vocab_size, d_model, deviation, tied):
    others = d_model**0.5 * deviation
    return _log_sum(d_model * deviation if tied else others, others, vocab_size - 1)


@first_loss.mistake("""You took the logarithm with base 2, so this is in bits. A loss is in nats here: math.log.""")
def in_bits(vocab_size, d_model, deviation, tied):
    return _log_sum(*_exponents(d_model, deviation, tied), vocab_size - 1) / math.log(2)


@first_loss.mistake("""What is missing is as large as the last token's own score. Either you took m out of the sum and
    did not put it back: m + ln(...). Or you subtracted the own score as the target's: the target is another token,
    whose score is 0.""")
def own_is_the_target(vocab_size, d_model, deviation, tied):
    own, others = _exponents(d_model, deviation, tied)
    return _log_sum(own, others, vocab_size - 1) - own


@first_loss.alternative("torch.logsumexp over a list of all scores")
def by_logsumexp(vocab_size, d_model, deviation, tied):
    own, others = _exponents(d_model, deviation, tied)
    return torch.tensor([own] + [others] * (vocab_size - 1), dtype=torch.float64).logsumexp(0).item()


@first_loss.alternative("log1p of the smaller part")
def by_log1p(vocab_size, d_model, deviation, tied):
    own, rest = _exponents(d_model, deviation, tied)
    rest += math.log(vocab_size - 1)
    return max(own, rest) + math.log1p(math.exp(-abs(own - rest)))


@first_loss.alternative("two ways, one for each kind of head")
def case_by_case(vocab_size, d_model, deviation, tied):
    plain = math.log(vocab_size) + d_model * deviation**2 / 2
    if not tied:
        return plain
    rest = math.log(vocab_size - 1) + d_model * deviation**2 / 2
    return torch.logaddexp(torch.tensor(d_model * deviation).double(), torch.tensor(rest).double()).item()


# 09.3 count_parameters ----------------------------------------------------------------------------------------------


def count_parameters(config: Config) -> int:
    """Say how many numbers a LLaMA of these sizes has learned, without building it.

    Letters: V vocab_size, C d_model, H n_heads, G n_kv_heads, D head_dim, F d_ff.
    Embedding V * C, and the head V * C more, unless config.tied. In each of n_layers blocks: q_proj and o_proj, each
    C * (H * D); k_proj and v_proj, each C * (G * D); three matrices C * F; two norms of C. One norm of C at the end.
    """
    C, D = config.d_model, config.head_dim
    attention = 2 * C * config.n_heads * D + 2 * C * config.n_kv_heads * D
    block = attention + 3 * C * config.d_ff + 2 * C
    embedding = config.vocab_size * C
    return (embedding if config.tied else 2 * embedding) + config.n_layers * block + C


counting = Exercise(
    "09.3",
    count_parameters,
    hints=(
        "Work from the inside out: one attention, one feed-forward, one block, all blocks; then what stands before and "
        "after them.",
        "k_proj and v_proj have n_kv_heads heads, q_proj and o_proj have n_heads. A head has head_dim numbers, which "
        "is not always d_model / n_heads.",
        "block = 2·C·H·D + 2·C·G·D + 3·C·F + 2·C. In all: n_layers · block + C + V·C, and V·C once more if not tied.",
    ),
)


@counting.check("V = 5, C = 4, one block with two heads of 2, F = 3: 152, as in the table")
def counting_by_hand(count_parameters):
    same(count_parameters(Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=3)), 152)


@counting.check("Llama 2 7B: 6,738,415,616")
def counting_7b(count_parameters):
    same(count_parameters(PRESETS["llama-2-7b"]), 6_738_415_616)


@counting.check("Llama 3 70B, whose 64 heads share 8 key/value heads: 70,553,706,496")
def counting_70b(count_parameters):
    same(count_parameters(PRESETS["llama-3-70b"]), 70_553_706_496)


@counting.check("Llama 3.2 1B, tied: 1,235,814,400")
def counting_tied(count_parameters):
    same(count_parameters(PRESETS["llama-3.2-1b"]), 1_235_814_400)


@counting.check("heads whose width is not d_model / n_heads, several blocks, tied or not")
def counting_wide(count_parameters):
    config = Config(
        vocab_size=7, d_model=6, n_layers=int(integers(2, 5)), n_heads=4, n_kv_heads=2, head_dim=10, d_ff=9,
        tied=pick([True, False]),
    )  # fmt: skip
    with torch.device("meta"):
        same(count_parameters(config), llama.Llama(config).n_parameters)


def _count(config, *, q=None, kv=None, matrices=3, norms=2, last=1, heads=None, bias=0):
    C, D = config.d_model, config.head_dim
    q = config.n_heads * D if q is None else q
    kv = config.n_kv_heads * D if kv is None else kv
    heads = (1 if config.tied else 2) if heads is None else heads
    block = 2 * C * q + 2 * C * kv + matrices * C * config.d_ff + norms * C + bias
    return heads * config.vocab_size * C + config.n_layers * block + last * C


@counting.mistake("""You gave k_proj and v_proj as many heads as q_proj. They have n_kv_heads: in Llama 3 70B 8
    instead of 64.""")
def every_head_has_keys(config):
    return _count(config, kv=config.n_heads * config.head_dim)


@counting.mistake("""You left out o_proj, the matrix that brings the heads back into the stream. It is as large as
    q_proj.""")
def without_o_proj(config):
    return _count(config) - config.n_layers * config.d_model * config.n_heads * config.head_dim


@counting.mistake("""Your feed-forward has two matrices, as in 2017. SwiGLU has three: gate, up and down.""")
def two_matrices(config):
    return _count(config, matrices=2)


@counting.mistake("""You forgot the norm after the last block: C numbers, once.""")
def without_the_last_norm(config):
    return _count(config, last=0)


@counting.mistake("""You counted one norm per block. There are two: one before the attention, one before the
    feed-forward.""")
def one_norm_per_block(config):
    return _count(config, norms=1)


@counting.mistake("""You left out the norms altogether: two of C numbers in each block, and one at the end.""")
def without_norms(config):
    return _count(config, norms=0, last=0)


@counting.mistake("""You counted the head even where it is tied to the embedding. Tied means one matrix for both.""")
def tied_counted_twice(config):
    return _count(config, heads=2)


@counting.mistake("""You counted no head, or took every head as tied. Where config.tied is False, the head has V * C
    numbers of its own.""")
def without_a_head(config):
    return _count(config, heads=1)


@counting.mistake("""You have tied and not tied the wrong way round. Tied means one matrix for both: the V * C of the
    head come on top where config.tied is False.""")
def tie_turned_round_in_counting(config):
    return _count(config, heads=2 if config.tied else 1)


@counting.mistake("""You left out the embedding where it is tied. One matrix does both jobs then, and its V * C numbers
    are counted once.""")
def no_table_if_tied(config):
    return _count(config, heads=0 if config.tied else 2)


@counting.mistake("""You counted the norm at the end once per block. It stands behind the last block: C numbers,
    once.""")
def last_norm_in_each_block(config):
    return _count(config, last=config.n_layers)


@counting.mistake("""You counted one of k_proj and v_proj. There are two, each with C * (n_kv_heads * head_dim)
    numbers.""")
def keys_without_values(config):
    return _count(config) - config.n_layers * config.d_model * config.n_kv_heads * config.head_dim


@counting.mistake("""You took C * C for q_proj and o_proj. Their other side is n_heads * head_dim, and a config may
    give head_dim by itself.""")
def square_q(config):
    return _count(config, q=config.d_model)


@counting.mistake("""You took C * C for all four matrices of the attention, as in 2017. k_proj and v_proj have
    n_kv_heads heads only, and a config may give head_dim by itself.""")
def four_squares(config):
    return _count(config, q=config.d_model, kv=config.d_model)


@counting.mistake("""You took head_dim for d_model / n_heads everywhere. A config may give it by itself: use
    config.head_dim.""")
def head_dim_worked_out(config):
    D = config.d_model // config.n_heads
    return _count(config, q=config.n_heads * D, kv=config.n_kv_heads * D)


@counting.mistake("""You counted one block only. There are n_layers of them, each with weights of its own.""")
def one_block(config):
    return _count(dataclasses.replace(config, n_layers=1))


@counting.mistake("""You gave each matrix a bias. LLaMA's matrices have none.""")
def with_biases(config):
    C, D = config.d_model, config.head_dim
    return _count(config, bias=(config.n_heads + 2 * config.n_kv_heads) * D + C + 2 * config.d_ff + C)


@counting.mistake("""You counted a table of positions. RoPE rotates by angles that are worked out, and learns
    nothing.""")
def with_positions(config):
    return _count(config) + config.max_len * config.d_model


@counting.alternative("build it with one block, where nothing is allocated, and count")
def counted_on_meta(config):
    with torch.device("meta"):
        one = llama.Llama(dataclasses.replace(config, n_layers=1))
    in_a_block = sum(p.numel() for p in one.layers[0].parameters())
    return sum(p.numel() for p in one.parameters()) + (config.n_layers - 1) * in_a_block


@counting.alternative("a list of shapes")
def counted_shapes(config):
    C, H, G, D = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim
    shapes = [(C,), (config.vocab_size, C)] + ([] if config.tied else [(C, config.vocab_size)])
    for _ in range(config.n_layers):
        shapes += [(C, H * D), (C, G * D), (C, G * D), (H * D, C)] + 3 * [(C, config.d_ff)] + 2 * [(C,)]
    return sum(math.prod(shape) for shape in shapes)


@counting.alternative("C taken out of everything")
def counted_per_channel(config):
    per_layer = 2 * config.head_dim * (config.n_heads + config.n_kv_heads) + 3 * config.d_ff + 2
    return config.d_model * (1 + config.n_layers * per_layer + config.vocab_size * (2 - config.tied))


# 09.4 flops_per_token -----------------------------------------------------------------------------------------------


def flops_per_token(config: Config, n_tokens: int) -> int:
    """Say how many operations the last token of a text of n_tokens costs (forward, one token at a time).

    An addition is one operation, a multiplication is one. Every matrix of the blocks and the head: 2 operations per
    number in it. Attention, per block: 4 * n_tokens * n_heads * head_dim (scores, and the average of the values).
    Not counted: looking up the embedding, norms, softmax, SiLU, rotations.
    """
    C, D, F = config.d_model, config.head_dim, config.d_ff
    matrices = 2 * C * config.n_heads * D + 2 * C * config.n_kv_heads * D + 3 * C * F
    attention = 4 * n_tokens * config.n_heads * D
    return config.n_layers * (2 * matrices + attention) + 2 * config.vocab_size * C


flops = Exercise(
    "09.4",
    flops_per_token,
    hints=(
        "Each number of a matrix is used once per token: one multiplication, one addition. So take the matrices of "
        "09.3, without norms and without the embedding, times 2.",
        "The head is multiplied with, tied or not. A tied one shares its numbers with the embedding, not its work.",
        "n_layers · (2 · (2·C·H·D + 2·C·G·D + 3·C·F) + 4 · n_tokens · H · D) + 2 · V · C",
    ),
)

FLOP_SIZES = Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=3)


@flops.check("V = 5, C = 4, one block with two heads of 2, F = 3, a text of 10 tokens: 400")
def flops_by_hand(flops_per_token):
    same(flops_per_token(FLOP_SIZES, 10), 400)


@flops.check("Llama 2 7B, the first token and the 4,096th")
def flops_7b(flops_per_token):
    config = PRESETS["llama-2-7b"]
    same([flops_per_token(config, n) for n in (1, 4096)], [13_214_679_040, 15_361_638_400])


@flops.check("Llama 3 70B, whose heads share keys and values, a text of 1,000 tokens")
def flops_70b(flops_per_token):
    same(flops_per_token(PRESETS["llama-3-70b"], 1000), 141_624_868_864)


@flops.check("Llama 3.2 1B, tied, a text of 1,000 tokens")
def flops_tied(flops_per_token):
    same(flops_per_token(PRESETS["llama-3.2-1b"], 1000), 2_602_565_632)


@flops.check("heads whose width is not d_model / n_heads, several blocks")
def flops_wide(flops_per_token):
    L, n = int(integers(2, 5)), int(integers(3, 50))
    config = Config(vocab_size=7, d_model=6, n_layers=L, n_heads=4, n_kv_heads=2, head_dim=10, d_ff=9)
    same(flops_per_token(config, n), L * (2 * (6 * (40 + 20 + 20 + 9 + 9 + 9) + 40 * 6) + 2 * n * 40 + 2 * n * 40) + 84)


def _flops(config, n_tokens, *, per_weight=2, q=None, kv=None, scores=4, heads=None, vocabularies=1, norms=0):
    C, D, L = config.d_model, config.head_dim, config.n_layers
    q, kv = config.n_heads * D if q is None else q, config.n_kv_heads * D if kv is None else kv
    matrices = 2 * C * q + 2 * C * kv + 3 * C * config.d_ff + norms * 2 * C
    attention = scores * n_tokens * (config.n_heads if heads is None else heads) * D
    return L * (per_weight * matrices + attention) + per_weight * (vocabularies * config.vocab_size * C + norms * C)


@flops.mistake("""You counted one operation per number of a matrix. Each is multiplied and then added to a sum:
    two.""")
def one_operation(config, n_tokens):
    return _flops(config, n_tokens, per_weight=1)


@flops.mistake("""You counted the embedding as a product. Looking up a row is no arithmetic: count the head only.""")
def embedding_counted(config, n_tokens):
    return _flops(config, n_tokens, vocabularies=2)


@flops.mistake("""You counted both embedding and head where they are two, and one where they are tied, as for
    parameters. What costs is the head's product, and there is one in every model.""")
def as_many_as_parameters(config, n_tokens):
    return _flops(config, n_tokens, vocabularies=1 if config.tied else 2)


@flops.mistake("""You took 2 operations for every number of the model. The rows of the embedding are looked up, not
    multiplied with, and the norms are left out here: count the matrices and the head.""")
def two_per_parameter(config, n_tokens):
    return 2 * count_parameters(config) + 4 * n_tokens * config.n_heads * config.head_dim * config.n_layers


@flops.mistake("""You took the rule of thumb, 2 operations per number of the model. Here it is counted: no embedding,
    no norms, and attention grows with n_tokens.""")
def rule_of_thumb(config, n_tokens):
    return 2 * count_parameters(config)


@flops.mistake("""You took the numbers of the whole model without its embedding. The norms are still in it, and where
    the head is tied it went out with the embedding: count the matrices of the blocks, and 2 * V * C for the head.""")
def all_but_the_embedding(config, n_tokens):
    numbers = count_parameters(config) - config.vocab_size * config.d_model
    return 2 * numbers + 4 * n_tokens * config.n_heads * config.head_dim * config.n_layers


@flops.mistake("""You counted the norms of the blocks with the matrices. They are no matrices, and come to very little:
    leave them out.""")
def with_norms(config, n_tokens):
    return _flops(config, n_tokens) + config.n_layers * 4 * config.d_model


@flops.mistake("""You took 4 * n_tokens * C for the attention. The heads together are n_heads * head_dim wide, which
    need not be C.""")
def attention_as_wide_as_the_model(config, n_tokens):
    H, D = config.n_heads, config.head_dim
    return _flops(config, n_tokens) + 4 * n_tokens * config.n_layers * (config.d_model - H * D)


@flops.mistake("""You counted the head once per block. It stands behind the last one: 2 * V * C, once.""")
def a_head_in_each_block(config, n_tokens):
    return _flops(config, n_tokens, vocabularies=config.n_layers)


@flops.mistake("""You left out the head. It is a matrix like the others: 2 * V * C.""")
def head_forgotten(config, n_tokens):
    return _flops(config, n_tokens, vocabularies=0)


@flops.mistake("""You left out the head where it is tied. Tying saves numbers, not work: the product with all V rows
    has to be done all the same.""")
def tied_head_is_free(config, n_tokens):
    return _flops(config, n_tokens, vocabularies=0 if config.tied else 1)


@flops.mistake("""You counted only the matrices. A token also looks at all n_tokens: 4 * n_tokens * H * D in each
    block.""")
def no_attention(config, n_tokens):
    return _flops(config, n_tokens, scores=0)


@flops.mistake("""You counted the scores, and not the average of the values, which costs as much again: 4 * n_tokens
    * H * D.""")
def scores_only(config, n_tokens):
    return _flops(config, n_tokens, scores=2)


@flops.mistake("""You counted attention once for each key/value head. Sharing keys and values saves memory; each of
    the n_heads query heads still works out its own scores.""")
def shared_heads_work_less(config, n_tokens):
    return _flops(config, n_tokens, heads=config.n_kv_heads)


@flops.mistake("""You gave k_proj and v_proj as many heads as q_proj. They have n_kv_heads.""")
def flops_with_all_keys(config, n_tokens):
    return _flops(config, n_tokens, kv=config.n_heads * config.head_dim)


@flops.mistake("""You counted the whole text: n_tokens times everything. Asked for is the last token alone; the
    others were read before.""")
def whole_text(config, n_tokens):
    return n_tokens * _flops(config, n_tokens)


@flops.mistake("""You squared n_tokens. That is what all tokens of a text cost together; one token looks at n_tokens
    keys.""")
def squared(config, n_tokens):
    return _flops(config, n_tokens, scores=4 * n_tokens)


@flops.mistake("""You counted forward and backward, three times the work. Asked for is the forward pass.""")
def with_backward(config, n_tokens):
    return 3 * _flops(config, n_tokens)


@flops.mistake("""You counted attention once, not in each block. Every one of the n_layers blocks looks around.""")
def attention_once(config, n_tokens):
    return _flops(config, n_tokens, scores=0) + 4 * n_tokens * config.n_heads * config.head_dim


@flops.alternative("2 per parameter, from a model without memory, minus what is no product")
def flops_on_meta(config, n_tokens):
    with torch.device("meta"):
        one = llama.Llama(dataclasses.replace(config, n_layers=1))
    block, head = (sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear))
                   for part in (one.layers[0], one.lm_head))  # fmt: skip
    return 2 * head + config.n_layers * (2 * block + 4 * n_tokens * config.n_heads * config.head_dim)


@flops.alternative("product by product")
def flops_by_products(config, n_tokens):
    C, H, G, D = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim
    products = [(C, config.vocab_size)]
    for _ in range(config.n_layers):
        products += [
            (C, H * D),
            (C, G * D),
            (C, G * D),
            (H * D, C),
            (C, config.d_ff),
            (C, config.d_ff),
            (config.d_ff, C),
        ]
        products += H * [(D, n_tokens), (n_tokens, D)] if H < 8 else [(H * D, n_tokens), (n_tokens, H * D)]
    return sum(2 * read * written for read, written in products)


@flops.alternative("from the number of parameters")
def flops_from_parameters(config, n_tokens):
    norms = (2 * config.n_layers + 1) * config.d_model
    unused = 0 if config.tied else config.vocab_size * config.d_model
    attention = 4 * config.n_layers * n_tokens * config.n_heads * config.head_dim
    return 2 * (count_parameters(config) - norms - unused) + attention


# 09.5 config_diff ---------------------------------------------------------------------------------------------------


def config_diff(old: Config, new: Config) -> dict:
    """List the fields in which two configs differ: {"n_layers": (old value, new value), ...}, in a config's order.

    The values are those of config.to_dict(), where rope_scaling is None or a dict.
    """
    before, after = old.to_dict(), new.to_dict()
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


difference = Exercise(
    "09.5",
    config_diff,
    hints=(
        "`old.to_dict()` is a plain dict with all fields. Both configs have the same names.",
        "Go through the names, keep those whose two values are not equal (`!=`), and give back a pair for each.",
        "A dict comprehension: `{name: (before[name], after[name]) for name in before if ...}`.",
    ),
)


@difference.check("Llama 2 7B to Llama 3 8B")
def difference_of_two(config_diff):
    expected = {
        "vocab_size": (32000, 128256), "n_kv_heads": (32, 8), "d_ff": (11008, 14336), "max_len": (4096, 8192),
        "rope_base": (10000.0, 500000.0),
    }  # fmt: skip
    same(config_diff(PRESETS["llama-2-7b"], PRESETS["llama-3-8b"]), expected)


@difference.check("a config and its copy: nothing")
def difference_of_none(config_diff):
    d_model = 6 * int(integers(5, 50))
    same(config_diff(*(Config(vocab_size=100000, d_model=d_model, n_layers=300, n_heads=3) for _ in range(2))), {})


@difference.check("Llama 3.2 1B to Llama 3.1 8B: untied, and another scaling")
def difference_untied(config_diff):
    old, new = PRESETS["llama-3.2-1b"], PRESETS["llama-3.1-8b"]
    found = config_diff(old, new)
    same(found, {name: (old.to_dict()[name], new.to_dict()[name]) for name in
                 ("d_model", "n_layers", "head_dim", "d_ff", "rope_scaling", "tied")})  # fmt: skip


@difference.check("a scaling that was not there before")
def difference_from_none(config_diff):
    factor = float(integers(2, 9))
    old = Config(vocab_size=9, d_model=8, n_layers=2, n_heads=2)
    new = dataclasses.replace(old, rope_scaling=RopeScaling("linear", factor=factor), norm_eps=1e-6)
    same(
        config_diff(old, new), {"norm_eps": (1e-5, 1e-6), "rope_scaling": (None, dataclasses.asdict(new.rope_scaling))}
    )


@difference.check("the same fields in the order of a config")
def difference_in_order(config_diff):
    same(list(config_diff(PRESETS["llama-1-7b"], PRESETS["llama-3.1-405b"])),
         ["vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_len", "norm_eps", "rope_base",
          "rope_scaling"])  # fmt: skip


@difference.mistake("""You gave only the new values. A reader wants to know what it was before: (old value, new
    value).""")
def only_the_new(old, new):
    return {name: pair[1] for name, pair in config_diff(old, new).items()}


@difference.mistake("""Your pairs are the wrong way round: (old value, new value), the first argument's first.""")
def the_wrong_way_round(old, new):
    return {name: pair[::-1] for name, pair in config_diff(old, new).items()}


@difference.mistake("""You listed all fields. Asked for are those that differ.""")
def all_fields(old, new):
    return {name: (value, new.to_dict()[name]) for name, value in old.to_dict().items()}


@difference.mistake("""You listed the fields that are equal. Asked for are those that differ: `!=`.""")
def the_equal_ones(old, new):
    return {name: (value, value) for name, value in old.to_dict().items() if value == new.to_dict()[name]}


@difference.mistake("""You compared with `is not`. That asks whether two values are the same object, and two equal
    large numbers often are not. Compare with `!=`.""")
def compared_with_is(old, new):
    before, after = old.to_dict(), new.to_dict()
    return {name: (before[name], after[name]) for name in before if before[name] is not after[name]}


@difference.mistake("""You passed over fields whose value is empty, None or False, before or after. `if a and b` does
    that. A field that was None and is not any more has changed: ask only whether the two are equal.""")
def passed_over_empty(old, new):
    return {name: pair for name, pair in config_diff(old, new).items() if pair[0] and pair[1]}


@difference.mistake("""You took the fields as attributes, so rope_scaling came as an object. Take them from
    to_dict(), which holds nothing but numbers, text, None and dicts.""")
def attributes(old, new):
    names = [field.name for field in dataclasses.fields(Config)]
    return {n: (getattr(old, n), getattr(new, n)) for n in names if getattr(old, n) != getattr(new, n)}


@difference.mistake("""You sorted the names. Keep the order of a config, sizes first: a dict keeps the order in which
    it was filled.""")
def sorted_names(old, new):
    return dict(sorted(config_diff(old, new).items()))


@difference.alternative("dataclasses.asdict, and a loop")
def by_asdict(old, new):
    found = {}
    for (name, a), (_, b) in zip(dataclasses.asdict(old).items(), dataclasses.asdict(new).items(), strict=True):
        if a != b:
            found[name] = (a, b)
    return found


@difference.alternative("all pairs first, equal ones deleted afterwards")
def by_deleting(old, new):
    pairs = {name: (value, new.to_dict()[name]) for name, value in old.to_dict().items()}
    for name in [name for name, (a, b) in pairs.items() if a == b]:
        del pairs[name]
    return pairs


# 09.6 first_look_ahead ----------------------------------------------------------------------------------------------

TABLE = torch.randn(13, 13, generator=torch.Generator().manual_seed(9))


def looks_at_itself(tokens: Tensor) -> Tensor:
    """Honest: the logits come from the last token alone."""
    return TABLE[tokens]


def averages_the_past(tokens: Tensor) -> Tensor:
    """Honest: each position averages itself and what came before."""
    n = torch.arange(1, tokens.size(1) + 1)[:, None]
    return TABLE[tokens].cumsum(1) / n


def averages_everything(tokens: Tensor) -> Tensor:
    """Every position averages the whole text."""
    return TABLE[tokens] + TABLE[tokens].mean(1, keepdim=True)


def peeks_once(tokens: Tensor) -> Tensor:
    """Position 5 looks at 6."""
    logits = averages_the_past(tokens).clone()
    logits[:, 5:6] += TABLE[tokens[:, 6:7]].sum(1, keepdim=True)
    return logits


def peeks_far(tokens: Tensor) -> Tensor:
    """Position 2 looks at 6, over the heads of 3, 4 and 5."""
    logits = averages_the_past(tokens).clone()
    logits[:, 2:3] += TABLE[tokens[:, 6:7]].sum(1, keepdim=True)
    return logits


def knows_the_end(tokens: Tensor) -> Tensor:
    """All positions from 3 on look at the last token."""
    logits = averages_the_past(tokens).clone()
    logits[:, 3:] += TABLE[tokens[:, -1:]]
    return logits


def peeks_at_the_last_moment(tokens: Tensor) -> Tensor:
    """Only position 7 looks at 8."""
    logits = averages_the_past(tokens).clone()
    logits[:, 7:8] += TABLE[tokens[:, 8:9]].sum(1, keepdim=True)
    return logits


def whispers(tokens: Tensor) -> Tensor:
    """Positions from 4 on look at the next, and add a hundredth of it."""
    logits = averages_the_past(tokens).clone()
    logits[:, 4:-1] += 1e-2 * TABLE[tokens[:, 5:]]
    return logits


def rounds(tokens: Tensor) -> Tensor:
    """Honest: differences of a millionth, as another order of summing makes them."""
    return averages_the_past(tokens) + 1e-6 * TABLE[tokens].mean(1, keepdim=True)


def first_look_ahead(model, vocab_size: int, n_tokens: int) -> int | None:
    """Find the first position of a text whose logits depend on a later token; None if there is none.

    model: a function from tokens (B, T) to logits (B, T, V). Positions count from 0. Try texts of n_tokens tokens, a
    few at once, and change what comes later at random. Differences below 1e-4 are rounding.
    """
    tokens = torch.randint(vocab_size, (8, n_tokens))
    with torch.no_grad():
        logits = model(tokens)
        for position in range(n_tokens - 1):
            later = tokens.clone()
            later[:, position + 1 :] = torch.randint(vocab_size, (8, n_tokens - position - 1))
            if (model(later) - logits)[:, position].abs().max() > 1e-4:
                return position
    return None


proof = Exercise(
    "09.6",
    first_look_ahead,
    hints=(
        "Position p is honest if its logits stay as they are while *everything after p* changes. Which positions do "
        "you have to try? Not the last: nothing comes after it.",
        "For each p: a copy of the tokens (`.clone()`), new random tokens in all places from p + 1 on, the model on "
        "the copy, and the logits at p compared with those before.",
        "`changed[:, p + 1:] = torch.randint(vocab_size, changed[:, p + 1:].shape)`, then `(model(changed) - "
        "logits)[:, p].abs().max() > 1e-4`. Return p at the first one; None after the loop.",
    ),
)


@proof.check("two honest functions: one sees only the last token, one averages the past")
def proof_honest(first_look_ahead):
    same([first_look_ahead(m, 13, 9) for m in (looks_at_itself, averages_the_past)], [None, None])


@proof.check("a function that averages the whole text")
def proof_everything(first_look_ahead):
    same(first_look_ahead(averages_everything, 13, 9), 0)


@proof.check("position 5 looks one token ahead, and no other position does")
def proof_once(first_look_ahead):
    same(first_look_ahead(peeks_once, 13, 9), 5)


@proof.check("position 2 looks four tokens ahead, and at nothing between")
def proof_far(first_look_ahead):
    same(first_look_ahead(peeks_far, 13, 9), 2)


@proof.check("all positions from 3 on look at the last token")
def proof_end(first_look_ahead):
    same(first_look_ahead(knows_the_end, 13, 9), 3)


@proof.check("a text of nine tokens, and only position 7 looks ahead")
def proof_last_moment(first_look_ahead):
    same(first_look_ahead(peeks_at_the_last_moment, 13, 9), 7)


@proof.check("a leak of a hundredth, from position 4 on; and differences of a millionth, which are rounding")
def proof_faint(first_look_ahead):
    same([first_look_ahead(m, 13, 9) for m in (whispers, rounds)], [4, None])


def _moved(model, vocab_size, n_tokens, change, limit=1e-4):
    """For each position: did its logits move when change(tokens, position) was done?"""
    tokens = torch.randint(vocab_size, (16, n_tokens))
    logits, moved = model(tokens), []
    for position in range(n_tokens - 1):
        changed = tokens.clone()
        places = changed[:, change(position)]
        changed[:, change(position)] = (places + torch.randint(1, vocab_size, places.shape)) % vocab_size
        moved.append((model(changed) - logits)[:, position].abs().max().item() > limit)
    return moved


def _first(moved):
    return moved.index(True) if True in moved else None


def _later(position):
    return slice(position + 1, None)


@proof.mistake("""You changed the last token only. A position that looks at the next token, or at any other but the
    last, is not found: change everything that comes later.""")
def changed_the_last(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, lambda position: slice(n_tokens - 1, None)))


@proof.mistake("""You changed the next token only. A leak may jump over it: change everything that comes later.""")
def changed_the_next(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, lambda position: slice(position + 1, position + 2)))


@proof.mistake("""You changed the token at the position itself as well. Its logits must depend on that: begin one
    place later. As it is, every honest model is a cheat.""")
def changed_itself(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, lambda position: slice(position, None)))


@proof.mistake("""You changed tokens *before* the position, and found that it looks back. It may. Change those that
    come after it.""")
def changed_the_past(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, lambda position: slice(0, position)))


@proof.mistake("""You never made a copy. `changed = tokens` is the same tensor under another name, so that the
    changes pile up, and soon a position's own token is another one. Use tokens.clone().""")
def changed_without_a_copy(model, vocab_size, n_tokens):
    tokens = torch.randint(vocab_size, (16, n_tokens))
    logits = model(tokens).clone()
    for position in range(n_tokens - 1):
        tokens[:, position + 1 :] = torch.randint(vocab_size, (16, n_tokens - position - 1))
        if (model(tokens) - logits)[:, position].abs().max() > 1e-4:
            return position
    return None


@proof.mistake(
    """You gave the place of the first token that is seen too early. Asked for is the position that looks."""
)
def what_is_seen(model, vocab_size, n_tokens):
    tokens = torch.randint(vocab_size, (16, n_tokens))
    logits = model(tokens)
    for t in range(1, n_tokens):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1 + torch.randint(vocab_size - 1, (16,))) % vocab_size
        if (model(changed) - logits)[:, :t].abs().max() > 1e-4:
            return t
    return None


@proof.mistake("""You said None as soon as one position was honest. `return None` stands inside your loop; only after
    the loop do you know that there is none.""")
def gave_up_early(model, vocab_size, n_tokens):
    return 0 if _moved(model, vocab_size, n_tokens, _later)[0] else None


@proof.mistake("""You began with position 1. Positions count from 0, and the first one can look ahead too.""")
def began_with_one(model, vocab_size, n_tokens):
    moved = _moved(model, vocab_size, n_tokens, _later)
    return _first([False, *moved[1:]])


@proof.mistake("""You gave False for an honest model. Asked for is None.""")
def false_for_none(model, vocab_size, n_tokens):
    position = _first(_moved(model, vocab_size, n_tokens, _later))
    return False if position is None else position


@proof.mistake("""You counted from 1. Positions count from 0.""")
def counted_from_one(model, vocab_size, n_tokens):
    position = _first(_moved(model, vocab_size, n_tokens, _later))
    return None if position is None else position + 1


@proof.mistake("""You gave the last position that looks ahead. Asked for is the first.""")
def the_last_one(model, vocab_size, n_tokens):
    return max((p for p, moved in enumerate(_moved(model, vocab_size, n_tokens, _later)) if moved), default=None)


@proof.mistake("""You stopped one position too early. The last but one has one token after it, and can look at it:
    range(n_tokens - 1).""")
def stopped_too_early(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, _later)[:-1])


@proof.mistake("""Your tolerance hides small leaks. A hundredth of the truth is enough for training to find it: take
    1e-4.""")
def too_tolerant(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, _later, limit=0.3))


@proof.mistake("""You asked for exact equality. Sums in another order differ in the last digits, and an honest model
    is called a cheat: allow differences up to 1e-4.""")
def not_tolerant(model, vocab_size, n_tokens):
    return _first(_moved(model, vocab_size, n_tokens, _later, limit=0.0))


@proof.mistake("""You looked at the last position only. It has no future, and is always honest: look at every
    position but that one.""")
def looked_at_the_last(model, vocab_size, n_tokens):
    return None


@proof.mistake("""You gave -1 for an honest model. Asked for is None.""")
def minus_one(model, vocab_size, n_tokens):
    position = _first(_moved(model, vocab_size, n_tokens, _later))
    return -1 if position is None else position


@proof.mistake("""You gave True or False. Asked for is the position, so that one knows where to look for the bug.""")
def yes_or_no(model, vocab_size, n_tokens):
    return any(_moved(model, vocab_size, n_tokens, _later))


@proof.alternative("cut the text off, instead of changing it")
def by_cutting(model, vocab_size, n_tokens):
    tokens = torch.randint(vocab_size, (32, n_tokens))
    whole_text = model(tokens)
    for position in range(n_tokens):
        alone = model(tokens[:, : position + 1])[:, -1]
        if not torch.allclose(alone, whole_text[:, position], atol=1e-4, rtol=0):
            return position
    return None


@proof.alternative("each token by itself, and a table of who saw what")
def by_a_table(model, vocab_size, n_tokens):
    tokens = torch.randint(vocab_size, (16, n_tokens))
    saw = torch.zeros(n_tokens, n_tokens)
    for t in range(n_tokens):
        changed = tokens.clone()
        changed[:, t] = (tokens[:, t] + 1) % vocab_size
        saw[:, t] = (model(changed) - model(tokens)).abs().amax((0, 2))
    too_early = (saw.triu(1) > 1e-4).any(dim=1)
    return int(too_early.nonzero()[0]) if too_early.any() else None


@proof.alternative("all changes in one batch")
def in_one_batch(model, vocab_size, n_tokens):
    tokens = torch.randint(vocab_size, (n_tokens,))
    others = torch.stack([(tokens + shift) % vocab_size for shift in range(1, 6)])
    last_kept = torch.arange(n_tokens)[:, None]
    batch = torch.where(torch.arange(n_tokens) <= last_kept, tokens, others[:, None])  # (5, T, T)
    logits = model(batch.flatten(0, 1)).unflatten(0, (5, n_tokens))
    moved = (logits - model(tokens[None])).abs().amax((0, 3)).diagonal() > 1e-4
    return next((p for p in range(n_tokens) if moved[p]), None)


# 09.7 hugging_face_name ---------------------------------------------------------------------------------------------


def hugging_face_name(name: str) -> str:
    """Translate a weight's name in minillama's Llama into its name in Hugging Face's LlamaForCausalLM.

    attention_norm is input_layernorm there, feedforward_norm is post_attention_layernorm, attention is self_attn,
    feedforward is mlp. All names but lm_head.weight begin with "model.". The rest of a name stays as it is.
    """
    renames = {
        "attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm",
        "attention.": "self_attn.", "feedforward.": "mlp.",
    }  # fmt: skip
    for ours, theirs in renames.items():
        name = name.replace(ours, theirs)
    return name if name.startswith("lm_head") else f"model.{name}"


renaming = Exercise(
    "09.7",
    hugging_face_name,
    hints=(
        "`name.replace(old, new)` replaces wherever `old` occurs. Where does the word attention occur, in our names "
        "and in theirs?",
        "Replace the two norms, and the other two with their dots: `attention.` and `feedforward.`. A dot makes the "
        "difference between attention.q_proj and attention_norm.",
        "Four replacements: attention_norm, feedforward_norm, then `attention.` -> `self_attn.`, `feedforward.` -> "
        "`mlp.`; then `model.` in front, unless the name begins with lm_head.",
    ),
)


@renaming.check("the four matrices of an attention")
def renaming_attention(hugging_face_name):
    i = int(integers(0, 80))
    names = [f"{letter}_proj.weight" for letter in "qkvo"]
    given = [hugging_face_name(f"layers.{i}.attention.{name}") for name in names]
    same(given, [f"model.layers.{i}.self_attn.{name}" for name in names])


@renaming.check("the three matrices of a feed-forward")
def renaming_feedforward(hugging_face_name):
    i = int(integers(0, 80))
    names = [f"{word}_proj.weight" for word in ("gate", "up", "down")]
    given = [hugging_face_name(f"layers.{i}.feedforward.{name}") for name in names]
    same(given, [f"model.layers.{i}.mlp.{name}" for name in names])


@renaming.check("the norm before the attention")
def renaming_first_norm(hugging_face_name):
    same(hugging_face_name("layers.10.attention_norm.weight"), "model.layers.10.input_layernorm.weight")


@renaming.check("the norm before the feed-forward")
def renaming_second_norm(hugging_face_name):
    same(hugging_face_name("layers.7.feedforward_norm.weight"), "model.layers.7.post_attention_layernorm.weight")


@renaming.check("the embedding and the norm at the end")
def renaming_ends(hugging_face_name):
    given = [hugging_face_name(name) for name in ("embed_tokens.weight", "norm.weight")]
    same(given, ["model.embed_tokens.weight", "model.norm.weight"])


@renaming.check("the head")
def renaming_head(hugging_face_name):
    same(hugging_face_name("lm_head.weight"), "lm_head.weight")


def _renamed(name, steps, front=True):
    for ours, theirs in steps:
        name = name.replace(ours, theirs)
    return name if name.startswith("lm_head") or not front else f"model.{name}"


_NORMS = [("attention_norm", "input_layernorm"), ("feedforward_norm", "post_attention_layernorm")]
_WITH_DOTS = [("attention.", "self_attn."), ("feedforward.", "mlp.")]


@renaming.mistake("""You replaced the word attention first, and it is also in attention_norm, which became
    self_attn_norm. Replace the norms first, or `attention.` with its dot.""")
def attention_first(name):
    return _renamed(name, [("attention", "self_attn"), ("feedforward", "mlp"), *_NORMS])


@renaming.mistake("""You replaced the norms first, and then the word attention: it is also in their new name,
    post_attention_layernorm, which became post_self_attn_layernorm. Replace `attention.` with its dot.""")
def attention_last(name):
    return _renamed(name, [*_NORMS, ("attention", "self_attn"), ("feedforward", "mlp")])


@renaming.mistake("""You exchanged the two norms. input_layernorm stands at the input of the block, before the
    attention; post_attention_layernorm stands after the attention, before the feed-forward. Both have C numbers, so
    a swapped file loads without a word.""")
def norms_exchanged(name):
    swapped = [("attention_norm", "post_attention_layernorm"), ("feedforward_norm", "input_layernorm")]
    if "feedforward_norm" in name:
        swapped.reverse()
    return _renamed(name, [*swapped, *_WITH_DOTS])


@renaming.mistake("""You put "model." in front of the head as well. There the head stands beside the model: its name
    is lm_head.weight.""")
def model_everywhere(name):
    return "model." + _renamed(name, [*_NORMS, *_WITH_DOTS], front=False)


@renaming.mistake("""You left out "model." in front. All names but lm_head.weight begin with it.""")
def model_nowhere(name):
    return _renamed(name, [*_NORMS, *_WITH_DOTS], front=False)


@renaming.mistake("""You put "model." in front of the layers only. Embedding and final norm belong to the model
    too.""")
def model_for_layers_only(name):
    return _renamed(name, [*_NORMS, *_WITH_DOTS], front=name.startswith("layers"))


@renaming.mistake("""You forgot the norms inside the blocks. They are called input_layernorm and
    post_attention_layernorm.""")
def norms_forgotten(name):
    return _renamed(name, _WITH_DOTS)


@renaming.mistake("""Nothing was replaced. `name.replace(old, new)` gives back a new text and leaves `name` as it is:
    name = name.replace(old, new).""")
def replaced_into_nowhere(name):
    return _renamed(name, [])


@renaming.mistake("""The dot behind "model" is missing: model.layers, not modellayers.""")
def no_dot(name):
    name = _renamed(name, [*_NORMS, *_WITH_DOTS], front=False)
    return name if name.startswith("lm_head") else "model" + name


@renaming.mistake("""You called the attention self_attention. There it is self_attn.""")
def self_attention(name):
    return _renamed(name, [*_NORMS, ("attention.", "self_attention."), ("feedforward.", "mlp.")])


@renaming.mistake(
    """You replaced the word norm wherever it is, in the final norm too. That one is called norm in both."""
)
def every_norm(name):
    steps = [*_NORMS, ("feedforward.", "mlp."), ("attention.", "self_attn.")]
    return _renamed(name, [("norm.weight", "input_layernorm.weight")] if name == "norm.weight" else steps)


@renaming.alternative("by pieces between the dots")
def by_pieces(name):
    words = {"attention": "self_attn", "feedforward": "mlp", "attention_norm": "input_layernorm",
             "feedforward_norm": "post_attention_layernorm"}  # fmt: skip
    pieces = [words.get(piece, piece) for piece in name.split(".")]
    return ".".join(pieces if pieces[0] == "lm_head" else ["model", *pieces])


@renaming.alternative("regular expressions")
def by_patterns(name):
    name = re.sub(r"^(?!lm_head)", "model.", name)
    name = re.sub(r"\battention\b", "self_attn", re.sub(r"\bfeedforward\b", "mlp", name))
    return re.sub(
        r"\bfeedforward_norm\b", "post_attention_layernorm", re.sub(r"\battention_norm\b", "input_layernorm", name)
    )


@renaming.alternative("case by case, with match")
def by_cases(name):
    match name.split(".", 3):
        case ["lm_head", _]:
            return name
        case ["layers", number, part, rest]:
            part = {"attention": "self_attn", "feedforward": "mlp"}.get(part, part)
            part = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}.get(part, part)
            return f"model.layers.{number}.{part}.{rest}"
    return "model." + name
