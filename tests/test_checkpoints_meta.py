"""Meta's folders and llama2.c's files: slices are joined, RoPE's order of rows is changed, damage is refused."""

import hashlib
import json
import struct
import time
from pathlib import Path

import pytest
import torch

from minillama.checkpoints import load
from minillama.position import RoPE
from tests.tiny_checkpoints import difference, interleaved, random_model

pytest.importorskip("transformers")
SHARED = Path(__file__).parents[2] / "shared" / "data"
RENAMES = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.": "",
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def meta_weights(model) -> dict[str, torch.Tensor]:
    weights = {}
    for name, weight in model.state_dict().items():
        for theirs, metas in RENAMES.items():
            name = name.replace(theirs, metas)
        if ".wq" in name or ".wk" in name:
            heads = model.config.num_attention_heads if ".wq" in name else model.config.num_key_value_heads
            weight = interleaved(weight, heads)
        weights[name] = weight.clone()
    return weights


def write_meta(folder: Path, model, n_shards=1, embedding_axis=1, vocab_size=-1, dtype=None, **more) -> Path:
    """The model as Meta would have saved it, split over n_shards files."""
    config = model.config
    params = dict(
        dim=config.hidden_size, n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads, norm_eps=config.rms_norm_eps, vocab_size=vocab_size,
        rope_theta=config.rope_parameters["rope_theta"], multiple_of=256,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params | more))
    shards = [{} for _ in range(n_shards)]
    for name, weight in meta_weights(model).items():
        axis = embedding_axis if "tok_emb" in name else 1 if name.split(".")[-2] in ("wo", "w2") else 0
        parts = [weight] * n_shards if "norm" in name else weight.chunk(n_shards, dim=axis)
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.to(dtype or part.dtype, copy=True)
    for i, shard in enumerate(shards):
        torch.save(shard | {"rope.freqs": torch.ones(2)}, folder / f"consolidated.{i:02}.pth")
    return folder


@pytest.mark.parametrize("n_shards", [1, 2, 4])
@pytest.mark.parametrize("embedding_axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_are_joined_whichever_way_the_embedding_is_split(n_shards, embedding_axis, dtype, tmp_path):
    sizes = dict(vocab_size=64, hidden_size=32, num_attention_heads=8, num_key_value_heads=4)
    theirs = random_model("llama-3", **sizes)
    with torch.no_grad():
        for parameter in theirs.parameters():  # not theirs.to(dtype), which would round RoPE's table too
            parameter.copy_(parameter.to(dtype))
    loaded = load(write_meta(tmp_path, theirs, n_shards, embedding_axis, dtype=dtype), dtype=torch.float32)
    assert loaded.config.max_len == 8192 and "max_len" in loaded.notes[0]
    assert difference(loaded.model, theirs) <= 1e-5


@pytest.mark.parametrize("variant", ["llama-1", "grouped", "smollm2"])
def test_one_file_of_every_kind(variant, tmp_path):
    theirs = random_model(variant, tie_word_embeddings=False)
    assert difference(load(write_meta(tmp_path, theirs, vocab_size=61)).model, theirs) <= 1e-5


@pytest.mark.parametrize(("given", "factor"), [(None, 32.0), (8.0, 8.0)])
def test_the_factor_of_scaled_rope_is_guessed_and_said_or_given(given, factor, tmp_path):
    scaling = dict(
        rope_type="llama3", rope_theta=50.0, factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )  # fmt: skip
    theirs = random_model("llama-3.1", head_dim=16, num_attention_heads=2, num_key_value_heads=1, hidden_size=32,
                          rope_parameters=scaling)  # fmt: skip
    write_meta(tmp_path, theirs, use_scaled_rope=True, rope_theta=50.0)
    loaded = load(tmp_path, rope_factor=given, max_len=500)
    assert loaded.config.rope_scaling.factor == factor and loaded.config.max_len == 500
    assert any("rope_factor" in note for note in loaded.notes) is (given is None)
    assert difference(loaded.model, theirs) <= 1e-5
    assert loaded.model.position.frequencies().tolist() == pytest.approx(theirs.model.rotary_emb.inv_freq.tolist())


def test_scores_are_those_of_metas_own_formula_in_complex_numbers(tmp_path):
    theirs = random_model("llama-3", num_hidden_layers=1)
    attention = load(write_meta(tmp_path, theirs)).model.layers[0].attention
    weights, (T, D) = meta_weights(theirs), (20, 4)
    x = torch.randn(1, T, 24)
    turn = torch.polar(torch.ones(T, D // 2), torch.outer(torch.arange(T), 500000.0 ** -(torch.arange(0, D, 2) / D)))

    def metas(name, heads):
        pairs = torch.view_as_complex((x @ weights[f"layers.0.attention.{name}.weight"].T).view(1, T, heads, D // 2, 2))
        return torch.view_as_real(pairs * turn[:, None]).flatten(-2)[0, :, :1]  # the first head

    class Sizes:
        head_dim, rope_base, rope_scaling = D, 500000.0, None

    def ours(projection, heads):
        return RoPE(Sizes).rotate(projection(x).view(1, T, heads, D).transpose(1, 2), torch.arange(T))[0, :1]

    q, k = ours(attention.q_proj, 6), ours(attention.k_proj, 2)
    expected = torch.einsum("qhd,khd->hqk", metas("wq", 6), metas("wk", 2))
    torch.testing.assert_close(q @ k.transpose(-1, -2), expected, atol=1e-5, rtol=1e-5)


def refused(path, *words, error=(ValueError, FileNotFoundError), name=None):
    start = time.monotonic()
    with pytest.raises(error) as caught:
        load(path)
    assert time.monotonic() - start < 1
    for word in (str(name or path), *words):
        assert word in str(caught.value), str(caught.value)


def change_shard(folder: Path, i: int, **tensors):
    path = folder / f"consolidated.{i:02}.pth"
    weights = torch.load(path, weights_only=True) | tensors
    torch.save({name: weight for name, weight in weights.items() if weight is not None}, path)


@pytest.fixture
def two(tmp_path) -> Path:
    sizes = dict(vocab_size=64, hidden_size=32, num_attention_heads=8, num_key_value_heads=4)
    return write_meta(tmp_path, random_model("llama-3", **sizes), 2)


def test_a_missing_file_is_named(two):
    (two / "consolidated.00.pth").unlink()
    refused(two, "consolidated.00.pth", "download all")
    (two / "consolidated.01.pth").unlink()
    refused(two, "consolidated.00.pth", "download all")


def test_half_of_a_model_is_refused(two):
    (two / "consolidated.01.pth").unlink()
    refused(two, "has shape")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (None, "'norm.weight' is not in every file"),
        (torch.zeros(32), "'norm.weight' should be the same in every file"),
        (torch.ones(31), "another shape or type"),
        (torch.ones(32).half(), "another shape or type"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(two, tensor, words):
    change_shard(two, 1, **{"norm.weight": tensor})
    refused(two, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(dim="32"), ["dim='32'"]),
        (dict(dim=None), ["'dim' is missing"]),
        (dict(n_heads=0), ["n_heads=0"]),
        (dict(n_layers=3), ["missing: layers.2.attention.wk.weight"]),
        (dict(n_layers=10**9), ["n_layers=1000000000"]),
        (dict(rope_theta=-1.0), ["rope_theta=-1.0"]),
        (dict(vocab_size=65), ["tok_embeddings.weight", "(65, 32)"]),
        (dict(n_kv_heads=2), ["layers.0.attention.wk.weight", "(16, 32)"]),  # as if replicated over files
    ],
)
def test_params_that_do_not_fit_are_refused_by_field(two, fields, words):
    params = json.loads((two / "params.json").read_text())
    (two / "params.json").write_text(json.dumps(params | fields))
    refused(two, *words)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_a_damaged_file_is_refused(two, content):
    (two / "consolidated.01.pth").write_bytes(content)
    refused(two, "consolidated.01.pth")


# --- llama2.c -------------------------------------------------------------------------------------------------------

ORDER = [
    "tok_embeddings", "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "norm",
]  # fmt: skip


def write_llama2c(path: Path, model, header=None, tied=False) -> Path:
    config, weights = model.config, meta_weights(model)
    sizes = [
        config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.vocab_size * (1 if tied else -1), config.max_position_embeddings,
    ]  # fmt: skip
    content = struct.pack("<7i", *(header or sizes))
    for kind in ORDER:
        names = [
            name for name in (f"{kind}.weight", *(f"layers.{i}.{kind}.weight" for i in range(2))) if name in weights
        ]
        for name in names:
            content += weights[name].numpy().tobytes()
    content += bytes(4 * config.max_position_embeddings * config.hidden_size // config.num_attention_heads)
    if not tied:
        content += weights["output.weight"].numpy().tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("variant", ["llama-1", "grouped", "smollm2"])
@pytest.mark.parametrize("tied", [True, False])
def test_llama2c_files_of_every_kind(variant, tied, tmp_path):
    theirs = random_model(variant, tie_word_embeddings=tied, rms_norm_eps=1e-5)
    path = write_llama2c(tmp_path / "model.bin", theirs, tied=tied)
    before = path.read_bytes()
    loaded = load(path)
    assert loaded.config.tied is tied and loaded.format == "llama2.c"
    assert difference(loaded.model, theirs) <= 1e-5
    with torch.no_grad():
        loaded.model.embed_tokens.weight.zero_()
    assert path.read_bytes() == before  # mapped, but the file is not written to


GOOD = [24, 40, 2, 6, 2, -61, 256]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([-24, *GOOD[1:]], ["dim=-24"]),
        ([24, 40, 2**31 - 1, *GOOD[3:]], ["n_layers=2147483647"]),
        ([24, 40, 1024, *GOOD[3:]], ["bytes", "for these sizes"]),
        ([24, 40, 2, 7, 2, -61, 256], ["dim=24", "n_heads=7"]),
        ([24, 40, 2, 6, 4, -61, 256], ["n_kv_heads=4"]),
        ([24, 40, 2, 6, 2, 0, 256], ["vocab_size=0"]),
        ([24, 40, 2, 6, 2, -61, 2**31 - 1], ["seq_len"]),
        ([24, 41, *GOOD[2:]], ["bytes", "download it again"]),
        ([0x616B3432, 1, *GOOD[2:]], ["version 1", "export it again"]),
    ],
)
def test_llama2c_headers_that_do_not_fit_are_refused(header, words, tmp_path):
    refused(write_llama2c(tmp_path / "model.bin", random_model("grouped"), header), *words)


def test_llama2c_files_that_are_cut_off_or_too_long_are_refused(tmp_path):
    path = write_llama2c(tmp_path / "model.bin", random_model("grouped"))
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", content[:28], content[:27], b""):
        path.write_bytes(damaged)
        refused(path, f"{len(damaged):,} bytes")
    path.write_bytes(b"<html>not found, sorry</html>" * 10)
    refused(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_llama2c_weights_that_are_not_finite_are_refused_by_name(bad, tmp_path):
    theirs = random_model("grouped")
    with torch.no_grad():
        theirs.model.layers[1].self_attn.k_proj.weight[2, 3] = bad
    refused(write_llama2c(tmp_path / "model.bin", theirs), "layers.1.attention.k_proj.weight", "1 NaN")


@pytest.mark.skipif(not (SHARED / "stories260K.bin").is_file(), reason=f"needs {SHARED}/stories260K.bin")
def test_stories260k_tells_llama2cs_story():
    from minillama.generate import generate

    loaded = load(SHARED / "stories260K.bin")
    assert loaded.tokenizer is not None, loaded.no_tokenizer
    tokens = generate(loaded.model, torch.tensor([[1]]), 200, temperature=0, stop=loaded.stop_tokens)[0, 1:].tolist()
    story = loaded.tokenizer.decode(tokens).strip()
    assert story.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
    assert story.endswith("Lily didn't want to help her mom, so she")
    # llama2.c's test_all.py, expected_stdout
    assert (
        hashlib.sha256(story.encode()).hexdigest() == "beeb5cb46785efee81a8545300b31e396b595e5ce6f3b77db201545501981d14"
    )
