import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minillama.cache import KVCache, LayerCache, LayerRoom, cache_for
from minillama.config import Config
from minillama.llama import Llama

PLANS = pytest.mark.parametrize("plan", [[1] * 7, [4, 1, 1, 1], [3, 4], [2, 1, 3, 1], [7]], ids=str)


@pytest.fixture
def llama():
    """Weights large enough that a mistake shows: fresh ones are nearly 0."""
    llama = Llama(Config(vocab_size=31, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=20, rope_base=50.0))
    for parameter in llama.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return llama.eval().requires_grad_(False)


def in_chunks(llama, tokens, plan, positions=None, mask=None):
    """Logits of a text fed piece by piece, and the cache that is left. mask (B, S): True for real tokens."""
    cache, logits, start = KVCache(llama.config.n_layers), [], 0
    for n in plan:
        end = start + n
        extra = {} if positions is None else {"positions": positions[..., start:end]}
        extra |= {} if mask is None else {"mask": mask[:, None, None, :end]}
        logits.append(llama(tokens[:, start:end], cache=cache, **extra))
        start = end
    return torch.cat(logits, dim=1), cache


def test_a_layer_hands_back_all_keys_and_values_in_order():
    k, v, layer = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4), LayerCache()
    for start, end in [(0, 2), (2, 3), (3, 7)]:
        stored = layer.append(k[:, :, start:end], v[:, :, start:end])
        assert_close(stored, (k[:, :, :end], v[:, :, :end]), atol=0, rtol=0)


def test_an_append_leaves_what_was_handed_out_alone():
    layer, k = LayerCache(), torch.randn(2, 3, 4, 5)
    first = layer.append(k, k)[0]
    layer.append(k + 1, k + 1)
    assert_close(first, k, atol=0, rtol=0)


@PLANS
def test_cached_equals_uncached(plan, llama):
    tokens = torch.randint(31, (2, 7))
    logits, cache = in_chunks(llama, tokens, plan)
    assert_close(logits, llama(tokens), atol=1e-5, rtol=1e-5)
    assert len(cache) == 7


@PLANS
@pytest.mark.parametrize(
    "positions", [torch.arange(5, 12), torch.tensor([[0, 1, 2, 3, 4, 5, 6], [2, 3, 5, 7, 8, 9, 20]])]
)
def test_cached_equals_uncached_at_given_positions(plan, positions, llama):
    tokens = torch.randint(31, (2, 7))
    logits, _ = in_chunks(llama, tokens, plan, positions)
    assert_close(logits, llama(tokens, positions=positions), atol=1e-5, rtol=1e-5)


@PLANS
@pytest.mark.parametrize("side", ["left", "right"])
def test_cached_and_padded_equals_each_sequence_alone(plan, side, llama):
    lengths, pad = [7, 4, 1], 0
    texts = [torch.randint(31, (n,)) for n in lengths]
    tokens, real = torch.full((3, 7), pad), torch.zeros(3, 7, dtype=torch.bool)
    for b, n in enumerate(lengths):
        place = slice(7 - n, None) if side == "left" else slice(n)
        tokens[b, place], real[b, place] = texts[b], True
    positions = (real.cumsum(1) - 1).clamp(min=0)
    logits, _ = in_chunks(llama, tokens, plan, positions, real)
    assert logits.isfinite().all()
    for b, text in enumerate(texts):
        assert_close(logits[b, real[b]], llama(text[None])[0], atol=1e-5, rtol=1e-5)


def test_a_second_text_needs_a_new_cache(llama):
    first, second = torch.randint(31, (2, 1, 4))
    cache = KVCache(2)
    llama(first, cache=cache)
    continued = llama(second, cache=cache)
    assert_close(continued, llama(torch.cat([first, second], dim=1))[:, 4:], atol=1e-5, rtol=1e-5)
    assert_close(llama(second, cache=KVCache(2)), llama(second), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(continued, llama(second), atol=1e-2)


def test_a_cache_counts_its_tokens_and_bytes(llama):
    cache = KVCache(2)
    assert (len(cache), cache.n_bytes) == (0, 0)
    llama(torch.randint(31, (3, 5)), cache=cache)
    layers, kv_heads, head_dim, float32 = 2, 2, 4, 4
    assert (len(cache), cache.n_bytes) == (5, 2 * layers * kv_heads * head_dim * float32 * 3 * 5)


def test_each_layer_has_a_cache_of_its_own(llama):
    cache = KVCache(2)
    llama(torch.randint(31, (1, 3)), cache=cache)
    assert not torch.allclose(cache[0].k, cache[1].k)
    with pytest.raises(IndexError):
        cache[2]


def test_a_cropped_cache_goes_on_as_if_it_had_seen_no_more(llama):
    tokens, other = torch.randint(31, (2, 7)), torch.randint(31, (2, 3))
    _, cache = in_chunks(llama, tokens, [4, 3])
    cache.crop(5)
    assert len(cache) == 5 and cache[1].k.size(2) == cache[1].v.size(2) == 5
    expected = llama(torch.cat([tokens[:, :5], other], dim=1))[:, 5:]
    assert_close(llama(other, cache=cache), expected)


@PLANS
def test_a_cache_with_room_holds_what_a_growing_one_holds(plan, llama):
    tokens, grows, room = torch.randint(31, (2, 7)), KVCache(2), KVCache(2, room=9)
    for piece in tokens.split(plan, dim=1):
        assert_close(llama(piece, cache=room), llama(piece, cache=grows), atol=1e-6, rtol=1e-6)
        assert len(room) == len(grows) and room.n_bytes == grows.n_bytes
    room.crop(3)
    grows.crop(3)
    for cache in (room, grows):
        llama(tokens[:, :2], cache=cache)
    for mine, other in zip(room.layers, grows.layers, strict=True):
        assert_close((mine.k, mine.v), (other.k, other.v), atol=1e-6, rtol=1e-6)


def test_a_cache_with_room_copies_nothing_and_refuses_one_token_too_many():
    layer, k = LayerRoom(5), torch.randn(1, 2, 3, 4)
    first = layer.append(k, k)[0]
    assert layer.append(k[:, :, :2], k[:, :, :2])[0].data_ptr() == first.data_ptr()
    with pytest.raises(ValueError, match=r"6 tokens, but this cache has room=5; make one with more, or crop it"):
        layer.append(k[:, :, :1], k[:, :, :1])
    assert_close(layer.k[:, :, :3], k, atol=0, rtol=0)


def test_a_model_may_ask_for_its_own_kind_of_cache(llama):
    assert isinstance(cache_for(llama)[0], LayerCache)
    llama.new_cache = lambda: KVCache(2, room=3)
    assert isinstance(cache_for(llama)[0], LayerRoom)
