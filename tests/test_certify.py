import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillama.attention import Attention, attend, split_heads
from minillama.block import Block, Parts, PostNormBlock
from minillama.certify import Certificate, certify
from minillama.config import Config
from minillama.feedforward import ReLUFeedForward, SwiGLU
from minillama.llama import Llama
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import LearnedPositions, NoPositions, RoPE, Sinusoidal

CONFIG = Config(vocab_size=31, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, max_len=64)
EVERY_PART = itertools.product(
    (RMSNorm, LayerNorm, nn.RMSNorm), (SwiGLU, ReLUFeedForward), (RoPE, Sinusoidal, LearnedPositions, NoPositions),
    (Block, PostNormBlock), (attend, F.scaled_dot_product_attention),
)  # fmt: skip


@pytest.mark.parametrize(("norm", "feedforward", "position", "block", "how"), EVERY_PART)
def test_every_combination_of_the_packages_own_parts_is_certified(norm, feedforward, position, block, how):
    parts = Parts(norm, feedforward, partial(Attention, attend=how), position, block)
    certificate = certify(Llama(CONFIG, parts))
    claimed = {v.property: v.status for v in certificate.verdicts}
    assert certificate.passed, certificate
    assert claimed.pop("relative in position") == ("passed" if position is RoPE else "not claimed")
    assert set(claimed.values()) == {"passed"} and len(claimed) == 6


class NormOverTime(RMSNorm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.eps) * self.weight


class NormOverEverything(RMSNorm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean((-2, -1), keepdim=True) + self.eps) * self.weight


class NormOverTheBatch(RMSNorm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + self.eps) * self.weight


class CoarseNorm(RMSNorm):
    def forward(self, x):
        return super().forward(x) / (1 - torch.full_like(x, 0.9999)) * 1e-4  # bfloat16 rounds 0.9999 to 1


class LoudNorm(RMSNorm):
    def __init__(self, d_model, eps):
        super().__init__(d_model, eps)
        self.weight.data *= 200


def softmax_over_queries(q, k, v, mask):
    scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(~mask, -1e9)
    return scores.softmax(-2) @ v


def mask_filled_with_zero(q, k, v, mask):
    return (q @ k.mT / q.size(-1) ** 0.5).masked_fill(~mask, 0.0).softmax(-1) @ v


def mask_one_too_wide(q, k, v, mask):
    return attend(q, k, v, mask | mask.roll(1, -1).tril(k.size(-2) - q.size(-2) + 1))


def no_mask(q, k, v, mask):
    return attend(q, k, v)


def top_left_mask(q, k, v, mask):
    return attend(q, k, v, mask & torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).tril())


def own_causal_mask(q, k, v, mask):
    return attend(q, k, v, torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).tril(k.size(-2) - q.size(-2)))


class HeadsNotMovedBack(Attention):
    def forward(self, x, mask=None, rotate=None, cache=None):
        q, k, v = (split_heads(p(x), n) for p, n in ((self.q_proj, 6), (self.k_proj, 2), (self.v_proj, 2)))
        q, k = (rotate(q), rotate(k)) if rotate else (q, k)
        k, v = cache.append(k, v) if cache else (k, v)
        out = attend(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), mask)
        return self.o_proj(out.reshape(x.shape))


class Forgetful(Attention):
    def forward(self, x, mask=None, cache=None, **rest):
        if cache is not None:
            cache.append(*(torch.zeros(x.size(0), 2, x.size(1), 4) for _ in range(2)))
            mask = mask[..., -x.size(1) :]
        return super().forward(x, mask, **rest)


class AppendsTwice(Attention):
    def forward(self, x, mask=None, rotate=None, cache=None):
        if cache is None:
            return super().forward(x, mask, rotate)

        class Twice:
            def append(self, k, v):
                cache.append(k, v)
                k, v = cache.append(k, v)
                return k[:, :, -mask.size(-1) :], v[:, :, -mask.size(-1) :]

        return super().forward(x, mask, rotate, Twice())


class NotOffset(Llama):
    def forward(self, tokens, *, cache=None, positions=None, mask=None):
        positions = torch.arange(tokens.size(1)) if positions is None else positions
        return super().forward(tokens, cache=cache, positions=positions, mask=mask)


class RoPEAndMore(RoPE):
    def add(self, x, positions):
        return x * (1 + positions[..., None] / 10)


class RoPEThatCountsItself(RoPE):
    def rotate(self, x, positions):
        return super().rotate(x, torch.arange(x.size(-2)))


class NoRoom(Attention):
    def forward(self, x, mask=None, rotate=None):
        return super().forward(x, mask, rotate)


def through(how):
    return Parts(attention=partial(Attention, attend=how))


BROKEN = {
    "normalization over time": (Parts(norm=NormOverTime), "causal"),
    "normalization over everything": (Parts(norm=NormOverEverything), "causal"),
    "normalization over the batch": (Parts(norm=NormOverTheBatch), "sequences do not touch"),
    "softmax over queries": (through(softmax_over_queries), "causal"),
    "mask filled with 0": (through(mask_filled_with_zero), "causal"),
    "mask one too wide": (through(mask_one_too_wide), "causal"),
    "an encoder used as a language model": (through(no_mask), "causal"),
    "mask aligned to the top left": (through(top_left_mask), "cached equals uncached"),
    "padding mask ignored": (through(own_causal_mask), "padding ignored"),
    "heads not moved back": (Parts(attention=HeadsNotMovedBack), "causal"),
    "cache that forgets": (Parts(attention=Forgetful), "cached equals uncached"),
    "cache filled twice": (Parts(attention=AppendsTwice), "cached equals uncached"),
    "attention without room for a cache": (Parts(attention=NoRoom), "cached equals uncached"),
    "rotary and absolute positions": (Parts(position=RoPEAndMore), "relative in position"),
    "positions ignored": (Parts(position=RoPEThatCountsItself), "relative in position"),
    "too coarse for bfloat16": (Parts(norm=CoarseNorm), "finite in bfloat16"),
    "far too sure at first": (Parts(norm=LoudNorm), "first loss near ln V"),
}


@pytest.mark.parametrize(("parts", "property"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_fails_by_the_name_of_the_property(parts, property):
    certificate = certify(Llama(CONFIG, parts))
    assert property in certificate.failed, certificate
    assert not certificate.passed and f"NOT CERTIFIED: {', '.join(certificate.failed)}" in str(certificate)


def test_positions_that_start_again_with_every_piece_fail_as_cached():
    assert certify(NotOffset(CONFIG)).failed == ["cached equals uncached"]


def test_a_plain_function_is_tested_for_what_it_can_have():
    model = Llama(CONFIG).eval()
    claimed = {v.property: v.status for v in certify(lambda tokens: model(tokens), vocab_size=31).verdicts}
    assert claimed["causal"] == claimed["sequences do not touch"] == "passed"
    assert set(claimed.values()) == {"passed", "not claimed"}


def test_an_encoder_as_a_plain_function_is_not_causal():
    embed, head = nn.Embedding(31, 24), nn.Linear(24, 31)
    layer = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, dropout=0.0)
    assert certify(lambda tokens: head(layer(embed(tokens))), vocab_size=31).failed == ["causal"]
    with pytest.raises(ValueError, match="vocab_size"):
        certify(lambda tokens: head(layer(embed(tokens))))


def test_a_leak_that_only_the_weights_open_is_found_too():
    class Leaking(Attention):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            self.peek = nn.Parameter(torch.zeros(1))

        def forward(self, x, *rest, **inner):
            return super().forward(x, *rest, **inner) + self.peek.clamp(min=5.0).sub(5.0) * x.mean(1, keepdim=True)

    model = Llama(CONFIG, Parts(attention=Leaking))
    assert "causal" not in certify(model).failed
    model.layers[1].attention.peek.data.fill_(9.0)  # as if training had found it
    assert "causal" in certify(model).failed


def test_certifying_changes_neither_the_model_nor_the_random_numbers():
    model = Llama(CONFIG).train()
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = certify(model), certify(model)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert str(first) == str(second) and isinstance(first, Certificate)


def test_a_certificate_goes_into_json():
    import json

    fields = json.loads(json.dumps(certify(Llama(CONFIG)).to_dict()))
    assert fields["certified"] is True and fields["verdicts"][0] == {
        "property": "causal", "status": "passed", "found": "no logit moves when a later token changes",
    }  # fmt: skip


def test_short_models_are_certified_too():
    for max_len in (1, 2, 3):
        parts = Parts(position=LearnedPositions)
        assert certify(Llama(Config(5, 6, 1, 2, d_ff=8, max_len=max_len), parts)).passed
