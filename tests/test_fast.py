from functools import partial

import pytest
import torch
from torch.testing import assert_close

from minillama import devices
from minillama.attention import Attention
from minillama.block import Parts, PostNormBlock
from minillama.cache import KVCache
from minillama.certify import certify
from minillama.config import RopeScaling
from minillama.fast import FastLlama
from minillama.feedforward import ReLUFeedForward, SwiGLU
from minillama.generate import generate, last_logits, pad_left
from minillama.norm import LayerNorm, RMSNorm
from minillama.position import Sinusoidal
from minillama.quantize import n_bytes
from minillama.speculative import stream_drafted
from tests.test_quantize import ROUNDED, llama, relative

SCALED = {"rope_scaling": RopeScaling("llama3", 8.0, original_max_len=16)}
needs_a_compiler = pytest.mark.skipif(devices.compiler() is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.parametrize("changes", [
    {}, {"tied": True}, {"n_kv_heads": 1}, {"n_kv_heads": 4}, {"head_dim": 32}, {"rope_base": 50.0}, {"norm_eps": 0.1},
    SCALED,
], ids=str)  # fmt: skip
def test_in_float32_it_computes_what_the_llama_computes(changes):
    model, tokens = llama(**changes), torch.randint(51, (3, 20))
    assert_close(FastLlama(model, "float32", compiled=False)(tokens), model(tokens), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", ROUNDED)
def test_in_fewer_bits_it_says_nearly_the_same(weights):
    model, tokens = llama(tied=True), torch.randint(51, (2, 20))
    fast = FastLlama(model, weights, compiled=False)
    assert relative(fast(tokens), model(tokens)) <= ROUNDED[weights] + 1e-5
    assert n_bytes(fast) <= 1.01 * n_bytes(model)


@pytest.mark.parametrize("plan", [[1] * 7, [4, 1, 1, 1], [3, 4], [2, 1, 3, 1]], ids=str)
def test_piece_by_piece_it_says_what_it_says_at_once(plan):
    fast, tokens = FastLlama(llama(), "float32", compiled=False), torch.randint(51, (2, 7))
    cache, pieces = fast.new_cache(), tokens.split(plan, dim=1)
    given = torch.cat([fast(piece, cache=cache) for piece in pieces], dim=1)
    assert_close(given, fast(tokens), atol=1e-4, rtol=1e-4)


@needs_a_compiler
@pytest.mark.slow
def test_compiled_it_writes_what_it_writes_uncompiled():
    model, tokens = llama(tied=True), torch.randint(51, (1, 5))
    for weights in ("float32", "int8", "int4"):
        plain, fast = FastLlama(model, weights, compiled=False), FastLlama(model, weights, compiled=True)
        caches = plain.new_cache(), fast.new_cache()
        plain(tokens, cache=caches[0]), fast(tokens, cache=caches[1])
        for token in torch.randint(51, (6, 1, 1)):
            assert_close(fast(token, cache=caches[1]), plain(token, cache=caches[0]), atol=0.02, rtol=0.02)


def test_generate_prompts_of_different_lengths_certify_and_drafts_take_it():
    model = llama()
    fast = FastLlama(model, "float32", compiled=False)
    tokens, mask = pad_left([[5, 6, 7, 8], [9, 10]])
    expected = generate(model, tokens, 20, temperature=0, mask=mask)
    assert torch.equal(generate(fast, tokens, 20, temperature=0, mask=mask), expected)
    drafted = torch.cat(list(stream_drafted(fast, tokens[:1], 20, temperature=0)))
    assert torch.equal(drafted, expected[0, 4:])
    assert certify(lambda tokens: fast(tokens), vocab_size=51).passed


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_scores_behind_the_last_token_alone_are_those_of_all(weights):
    fast, tokens = FastLlama(llama(), weights, compiled=False), torch.randint(51, (2, 9))
    caches = [fast.new_cache(), fast.new_cache()]
    for piece in (tokens[:, :6], tokens[:, 6:8], tokens[:, 8:]):
        last = last_logits(fast, piece, cache=caches[0])
        assert_close(last, fast(piece, cache=caches[1])[:, -1], atol=1e-4, rtol=1e-4)
    assert fast.last_logits(tokens).shape == (2, 1, 51) and last_logits(llama(), tokens).shape == (2, 51)


def test_parts_of_a_learner_with_the_same_names_are_fine():
    class Mine(RMSNorm):
        pass

    class MyFeedForward(SwiGLU):
        pass

    parts = Parts(norm=Mine, feedforward=MyFeedForward, attention=partial(Attention, bias=False))
    model, tokens = llama(parts), torch.randint(51, (1, 9))
    assert_close(FastLlama(model, "float32", compiled=False)(tokens), model(tokens), atol=2e-4, rtol=1e-4)


class Doubled(RMSNorm):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("parts, text", [
    (Parts(norm=LayerNorm), "attention_norm.bias"), (Parts(norm=Doubled), "computes something else"),
    (Parts(feedforward=partial(ReLUFeedForward, bias=False)), "gate_proj"), (Parts(position=Sinusoidal), "positions"),
    (Parts(block=PostNormBlock), "computes something else"),
    (Parts(attention=partial(Attention, bias=True)), "has a bias"),
])  # fmt: skip
def test_what_is_no_plain_llama_is_refused(parts, text):
    with pytest.raises(ValueError, match=text):
        FastLlama(llama(parts), "int8", compiled=False)


def test_a_cache_of_another_kind_is_refused_and_so_is_a_text_longer_than_the_room():
    fast = FastLlama(llama(), "int8", compiled=False)
    with pytest.raises(ValueError, match=r"use model.new_cache\(\)"):
        fast(torch.ones(1, 2, dtype=torch.long), cache=KVCache(2))
    with pytest.raises(ValueError, match="5 tokens, but this cache has room=4"):
        fast(torch.ones(1, 5, dtype=torch.long), cache=fast.new_cache(room=4))
