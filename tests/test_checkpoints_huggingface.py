"""Folders of Hugging Face's: what is opened computes what Transformers computes; what is no Llama is refused."""

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.block import Parts
from minillama.checkpoints import inspect, load, opened, pickled
from minillama.checkpoints.huggingface import FOREIGN_FIELDS
from minillama.position import RoPE, rotate_pairs
from tests.tiny_checkpoints import LLAMA_3, SIZES, VARIANTS, difference, random_model

pytest.importorskip("transformers")
LARGE = 10**12


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_logits_of_transformers(variant, tmp_path):
    theirs = random_model(variant)
    theirs.save_pretrained(tmp_path)
    assert difference(load(tmp_path).model, theirs) <= 1e-5


@pytest.mark.parametrize("variant", ["grouped", "smollm2"])
def test_many_shards_are_one_model(variant, tmp_path):
    theirs = random_model(variant)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) >= 3
    assert difference(load(tmp_path).model, theirs) <= 1e-5


def save_old(model, folder: Path, rope_key: str, rope: dict | None, shards: int = 1):
    """As Transformers 4 and 3 did: pytorch_model.bin, rope_theta beside rope_scaling, tables of RoPE in the file."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    weights = dict(model.state_dict()) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    names = sorted(weights)
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        files = {name: f"pytorch_model-{i % shards:05}.bin" for i, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: weights[name].clone() for name in names if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    fields = json.loads((folder / "config.json").read_text())
    settings = fields.pop("rope_parameters")
    fields["rope_theta"] = settings.pop("rope_theta")
    fields["rope_scaling"] = None
    if rope is not None:
        del settings["rope_type"]
        fields["rope_scaling"] = {rope_key: rope["rope_type"]} | settings
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("variant", ["llama-3", "llama-3.1", "linear"])
def test_old_files_and_old_spellings_of_rope_are_understood(variant, key, shards, tmp_path):
    theirs = random_model(variant)
    rope = VARIANTS[variant][1]["rope_parameters"]
    save_old(theirs, tmp_path, key, None if rope["rope_type"] == "default" else rope, shards)
    assert difference(load(tmp_path).model, theirs) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_stay_what_they_are_unless_another_dtype_is_asked_for(dtype, tmp_path):
    transformers = pytest.importorskip("transformers")
    random_model("llama-3.1").to(dtype).save_pretrained(tmp_path)
    ours = load(tmp_path).model
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager")
    assert difference(ours, theirs) <= {torch.bfloat16: 1e-5, torch.float16: 1e-2}[dtype]  # logits of about 10
    wide = load(tmp_path, dtype=torch.float32).model
    assert difference(wide, transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)) <= 1e-5


def folder_of(tmp_path, variant="grouped", **fields) -> Path:
    """A checkpoint, and some fields of its config.json changed."""
    random_model(variant).save_pretrained(tmp_path)
    change(tmp_path, **fields)
    return tmp_path


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_output_layer_in_the_file_is_used_though_the_config_says_tied(tmp_path):
    transformers = pytest.importorskip("transformers")
    loaded = load(folder_of(tmp_path, tie_word_embeddings=True))
    assert loaded.model.lm_head.weight is not loaded.model.embed_tokens.weight
    assert "that one is used" in loaded.notes[0]
    assert difference(loaded.model, transformers.LlamaForCausalLM.from_pretrained(tmp_path)) <= 1e-5


def test_a_tied_model_has_one_matrix_even_where_the_file_has_it_twice(tmp_path):
    random_model("smollm2").save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    model = load(tmp_path).model
    assert model.lm_head.weight is model.embed_tokens.weight
    assert load(tmp_path).notes == ()


def test_a_sliding_window_limits_the_texts(tmp_path):
    theirs = random_model("mistral", sliding_window=100)
    theirs.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config.max_len == 100 and "sliding_window=100" in loaded.notes[0]
    x = torch.randint(61, (1, 100))
    assert (loaded.model(x) - theirs(x).logits).abs().max() <= 1e-5


def test_weights_are_mapped_and_training_them_does_not_change_the_file(tmp_path):
    path = folder_of(tmp_path) / "model.safetensors"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    model = load(tmp_path).model
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    first = model.lm_head.weight.clone()
    model(torch.ones(1, 3, dtype=torch.long)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(first, model.lm_head.weight)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


class MyNorm(torch.nn.Module):
    """A learner's: with a table that is no weight, which must not be left without memory."""

    def __init__(self, d_model, eps):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(d_model))
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.eps = eps * torch.ones(1)

    def forward(self, x):
        return self.one * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def test_a_learners_parts_run_with_real_weights(tmp_path):
    theirs = random_model("all biased")
    theirs.save_pretrained(tmp_path)
    assert difference(load(tmp_path, parts=Parts(norm=MyNorm)).model, theirs) <= 1e-5


class MyRoPE(RoPE):
    """A learner's, with its angles in a table."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("angles", torch.outer(torch.arange(config.max_len), self.frequencies()), persistent=False)

    def rotate(self, x, positions):
        return rotate_pairs(x, self.angles[positions].cos(), self.angles[positions].sin())


def test_a_learners_table_of_angles_is_there(tmp_path):
    theirs = random_model("llama-3.1")
    theirs.save_pretrained(tmp_path)
    assert difference(load(tmp_path, parts=Parts(position=MyRoPE)).model, theirs) <= 1e-5


def test_parts_that_need_other_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"for these parts: (.|\n)*missing: layers.0.attention_norm.bias"):
        load(folder_of(tmp_path), parts=Parts(norm=torch.nn.LayerNorm))


def test_parts_that_cannot_have_a_bias_are_told_so(tmp_path):
    def attention(d_model, n_heads, n_kv_heads):
        return None

    with pytest.raises(ValueError, match="this checkpoint has biases"):
        load(folder_of(tmp_path, "biased attention"), parts=Parts(attention=attention))


def refused(folder, *words, error=ValueError, **options):
    start = time.monotonic()
    with pytest.raises(error) as caught:
        load(folder, **options)
    assert time.monotonic() - start < 1
    message = str(caught.value)
    assert str(folder) in message and len(message) < 6000
    for word in words:
        assert word in message, message


FIELDS = {
    "no type": (dict(model_type=None), ["model_type='None'", "llama, mistral, qwen2"]),
    "gemma": (dict(model_type="gemma"), ["model_type='gemma'", "plain Llamas only"]),
    "yarn": (dict(rope_parameters={"rope_type": "yarn", "factor": 4.0}), ["rope_type='yarn'"]),
    "dynamic": (dict(rope_parameters=None, rope_scaling={"type": "dynamic", "factor": 2.0}), ["rope_type='dynamic'"]),
    "longrope": (dict(rope_parameters={"rope_type": "longrope"}), ["rope_type='longrope'"]),
    "rope per layer": (dict(rope_parameters={"full_attention": {"rope_type": "default"}}), ["one set of numbers"]),
    "partial": (dict(partial_rotary_factor=0.5), ["partial_rotary_factor=0.5"]),
    "partial, new": (dict(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}), ["partial_rotary"]),
    "relu": (dict(hidden_act="relu"), ["hidden_act=relu", "'silu'"]),
    "quantized": (dict(quantization_config={"quant_method": "gptq"}), ["quantization_config", "gptq"]),
    "experts": (dict(num_local_experts=8), ["num_local_experts=8"]),
    "no positions": (dict(no_rope_layers=[1, 0]), ["no_rope_layers"]),
    "other layers": (dict(layer_types=["full_attention", "chunked_attention"]), ["layer_types", "chunked_attention"]),
    "no factor": (dict(rope_parameters={"rope_type": "linear"}), ["without factor"]),
    "no number": (dict(rope_parameters=LLAMA_3 | {"factor": "8"}), ["factor='8'"]),
    "heads": (dict(num_attention_heads=5, head_dim=None), ["hidden_size=24", "num_attention_heads=5", "head_dim"]),
    "kv heads": (dict(num_key_value_heads=4), ["num_attention_heads=6", "num_key_value_heads=4"]),
    "negative": (dict(hidden_size=-8), ["hidden_size=-8"]),
    "text": (dict(hidden_size="64"), ["hidden_size='64'"]),
    "half a layer": (dict(num_hidden_layers=1.5), ["num_hidden_layers=1.5"]),
    "no layers": (dict(num_hidden_layers=None), ["'num_hidden_layers' is missing"]),
    "huge": (dict(vocab_size=LARGE), [f"vocab_size={LARGE}"]),
    "NaN": (dict(rms_norm_eps=float("nan")), ["rms_norm_eps=nan"]),
    "many layers": (dict(num_hidden_layers=1024), ["21 tensors, expected 9219 for 1024 layers"]),
    "another size": (dict(intermediate_size=41), ["mlp.down_proj.weight", "(24, 40)", "(24, 41)"]),
    "more words": (dict(vocab_size=64), ["lm_head.weight", "(61, 24)", "(64, 24)"]),
    "a bias that is not there": (dict(attention_bias=True), ["missing: model.layers.0.self_attn.k_proj.bias"]),
    "stop": (dict(eos_token_id="</s>"), ["eos_token_id"]),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_config_that_is_no_llamas_is_refused_by_field(name, tmp_path):
    fields, words = FIELDS[name]
    folder = folder_of(tmp_path, **fields)
    (folder / "generation_config.json").unlink()
    refused(folder, *words)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LLAMA_3, "type"]), inner, max_size=4),
    max_leaves=6,
)
ANY_FIELD = st.sampled_from(
    [*SIZES, "model_type", "rope_parameters", "rope_scaling", "rope_theta", "head_dim", "layer_types", "sliding_window",
     "attention_bias", "mlp_bias", *FOREIGN_FIELDS]
)  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    folder = folder_of(tmp_path_factory.mktemp("fuzz"))
    (folder / "generation_config.json").unlink()
    return folder


@given(st.dictionaries(ANY_FIELD, ANY_JSON, min_size=1, max_size=3))
def test_a_config_with_any_other_json_in_it_is_opened_or_refused_by_name(fuzzed, fields):
    path = fuzzed / "config.json"
    before = path.read_text()
    try:
        change(fuzzed, **fields)
        inspect(fuzzed)
    except ValueError as error:
        assert str(fuzzed) in str(error)
    finally:
        path.write_text(before)


def test_a_bias_that_the_config_does_not_speak_of_is_refused(tmp_path):
    refused(
        folder_of(tmp_path, "biased attention", attention_bias=False), "unknown: model.layers.0.self_attn.k_proj.bias"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("model.norm.weight", None, "missing: model.norm.weight"),
        ("lm_head.weight", None, "missing: lm_head.weight"),
        ("model.norm.weight", "model.nrom.weight", "is it model.nrom.weight?"),
        (None, "model.layers.0.self_attn.q_norm.weight", "normalized queries"),
        (None, "model.layers.0.mlp.experts.0.weight", "mixture of experts"),
        (None, "model.layers.0.self_attn.qkv_proj.weight", "fused"),
        (None, "base_model.layers.0.lora_A.weight", "LoRA"),
        (None, "extra", "unknown: extra"),
    ],
)
def test_missing_and_foreign_tensors_are_refused_by_name(old, new, words, tmp_path):
    path = folder_of(tmp_path) / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    tensor = weights.pop(old) if old else torch.ones(1)
    safetensors.torch.save_file(weights | ({new: tensor} if new else {}), path)
    refused(tmp_path, words)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_unless_asked_for(bad, dtype, tmp_path):
    path = folder_of(tmp_path) / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in safetensors.torch.load_file(path).items()}
    weights["model.layers.1.mlp.up_proj.weight"][7, 3] = bad
    safetensors.torch.save_file(weights, path)
    refused(tmp_path, "model.layers.1.mlp.up_proj.weight", "1 NaN", "[7, 3]", "allow_nonfinite")
    assert not load(tmp_path, allow_nonfinite=True).model.layers[1].feedforward.up_proj.weight.isfinite().all()


def test_a_number_that_the_wanted_dtype_cannot_hold_is_refused(tmp_path):
    path = folder_of(tmp_path) / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["model.norm.weight"][3] = 1e30
    safetensors.torch.save_file(weights, path)
    refused(tmp_path, "model.norm.weight", dtype=torch.float16)


def test_whole_numbers_are_no_weights(tmp_path):
    path = folder_of(tmp_path) / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["model.norm.weight"] = torch.ones(24, dtype=torch.int8)
    safetensors.torch.save_file(weights, path)
    refused(tmp_path, "model.norm.weight", "torch.int8")


def sharded(tmp_path) -> tuple[Path, dict]:
    random_model("grouped").save_pretrained(tmp_path, max_shard_size="10KB")
    index = tmp_path / "model.safetensors.index.json"
    return index, json.loads(index.read_text())["weight_map"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a\\b", "..", "", 7, None])
def test_a_shard_is_a_plain_file_name(name, tmp_path):
    index, weight_map = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map | {"model.norm.weight": name}}))
    refused(
        tmp_path, *(["not a plain file name"] if isinstance(name, str) else []), error=(ValueError, FileNotFoundError)
    )


def test_a_missing_shard_is_named(tmp_path):
    index, weight_map = sharded(tmp_path)
    (tmp_path / weight_map["model.norm.weight"]).unlink()
    refused(tmp_path, weight_map["model.norm.weight"], "download it too", error=FileNotFoundError)


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path):
    index, weight_map = sharded(tmp_path)
    other = next(file for file in weight_map.values() if file != weight_map["model.norm.weight"])
    index.write_text(json.dumps({"weight_map": weight_map | {"model.norm.weight": other}}))
    refused(tmp_path, other, "'model.norm.weight' is missing")


def test_a_tensor_in_two_shards_is_named(tmp_path):
    index, weight_map = sharded(tmp_path)
    other = next(file for file in weight_map.values() if file != weight_map["model.norm.weight"])
    weights = safetensors.torch.load_file(tmp_path / other)
    safetensors.torch.save_file(weights | {"model.norm.weight": torch.ones(24)}, tmp_path / other)
    refused(tmp_path, "'model.norm.weight' is in", "expected once")


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused_but_not_one_into_the_hubs_cache(tmp_path):
    folder = tmp_path / "snapshots" / "abc"
    _, weight_map = sharded(folder)
    shard = folder / weight_map["model.norm.weight"]
    (tmp_path / "blobs").mkdir()
    blob = shard.rename(tmp_path / "blobs" / "0123")
    shard.symlink_to(blob)
    load(folder)
    elsewhere = blob.rename(tmp_path / "elsewhere")
    shard.unlink()
    shard.symlink_to(elsewhere)
    refused(folder, "a link to")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(text, tmp_path):
    index, _ = sharded(tmp_path)
    index.write_text(text)
    refused(tmp_path, index.name)


def test_a_huge_json_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "MAX_JSON", 100)
    refused(folder_of(tmp_path), "config.json", "expected at most 100")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\0", "<html>"])
def test_a_config_that_is_no_json_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, "config.json")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


PICKLES = {
    "bomb": lambda path: torch.save({"model.norm.weight": Bomb()}, path),
    "stride 0": lambda path: torch.save({"model.norm.weight": torch.ones(1).expand(10**9)}, path),
    "sparse": lambda path: torch.save({"model.norm.weight": torch.ones(3).to_sparse()}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "nothing": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html>404</html>"),
    "noise": lambda path: path.write_bytes(os.urandom(3000)),
    "old format": lambda path: torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False),
    "a pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
}


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_never_run_and_a_bad_one_is_refused(name, forced, tmp_path, monkeypatch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    PICKLES[name](tmp_path / "pytorch_model.bin")
    refused(tmp_path, "pytorch_model.bin")
    assert not (tmp_path / "exploded").exists()


def test_a_zip_that_would_become_larger_than_its_file_is_refused(tmp_path):
    save_old(random_model("grouped"), tmp_path, "type", None)
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content + bytes(10_000_000 * name.endswith("/0")))
    refused(tmp_path, "compressed, expected tensors stored as they are")


def test_a_pickle_with_endless_instructions_is_refused(tmp_path, monkeypatch):
    save_old(random_model("grouped"), tmp_path, "type", None)
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 1000)
    refused(tmp_path, "more than 1,000 bytes of instructions")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, -1])
def test_a_pickle_that_is_cut_off_is_refused(keep, tmp_path):
    save_old(random_model("grouped"), tmp_path, "type", None)
    path = tmp_path / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if keep == -1 else content[: int(keep * len(content))])
    refused(tmp_path, "pytorch_model.bin")


def test_a_folder_without_weights_and_a_path_without_anything_are_named(tmp_path):
    (folder_of(tmp_path) / "model.safetensors").unlink()
    refused(tmp_path, "neither model.safetensors", error=FileNotFoundError)
    refused(tmp_path / "nothing", "no such file", error=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither config.json", error=FileNotFoundError)


def test_stop_tokens_and_template_come_from_where_transformers_writes_them(tmp_path):
    folder = folder_of(tmp_path, eos_token_id=3)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "{{x}}"}]})
    )
    loaded = load(folder)
    assert loaded.stop_tokens == (5, 6) and loaded.chat_template == "{{x}}"
    assert loaded.tokenizer is None and "no tokenizer" in loaded.no_tokenizer
    (folder / "generation_config.json").unlink()
    (folder / "chat_template.jinja").write_text("{{y}}")
    loaded = load(folder)
    assert loaded.stop_tokens == (3,) and loaded.chat_template == "{{y}}"


def test_max_len_can_be_lowered_and_not_raised(tmp_path):
    assert load(folder_of(tmp_path), max_len=99).config.max_len == 99
    with pytest.raises(ValueError, match="max_len=257"):
        load(tmp_path, max_len=257)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype, tmp_path):
    random_model("llama-3.1").save_pretrained(tmp_path)
    here, there = load(tmp_path, dtype=dtype).model, load(tmp_path, dtype=dtype, device="cuda").model
    assert {p.device.type for p in there.parameters()} == {"cuda"} and {p.dtype for p in there.parameters()} == {dtype}
    x = torch.randint(61, (2, 100))
    limit = 1e-4 if dtype == torch.float32 else 0.5
    assert (here(x) - there(x.cuda()).cpu()).abs().max() <= limit


MEASURE = """
import sys, torch
sys.path.insert(0, {root!r})
from minillama.checkpoints import load
def rss(kind):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
def forward(model):
    with torch.no_grad():
        model(torch.ones(1, 4, dtype=torch.long))
forward(load({small!r}).model)  # what torch itself takes, once, is not counted
before = rss("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # forget the peak
model = load({folder!r}).model
loaded = rss("VmHWM")
forward(model)
print(loaded - before, rss("VmHWM") - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory the Linux way")
def test_loading_and_a_forward_pass_take_no_more_memory_than_the_file(tmp_path):
    megabytes = int(os.environ.get("MINILLAMA_TEST_MB", "500"))
    write_large(tmp_path / "large", megabytes)
    random_model("grouped").bfloat16().save_pretrained(tmp_path / "small")
    code = MEASURE.format(
        root=str(Path(__file__).parents[1]), folder=str(tmp_path / "large"), small=str(tmp_path / "small")
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    loaded, after, weights = map(int, result.stdout.split())
    print(f"{weights / 1e6:.0f} MB of weights: {loaded / weights:.3f} x while loading, {after / weights:.3f} x after")
    assert weights > 0.9e6 * megabytes
    assert after <= 1.05 * weights


def write_large(folder: Path, megabytes: int):
    """A sharded checkpoint in bfloat16 of about that size, written shard by shard."""
    folder.mkdir()
    C, n_layers = 1024, max(1, round(megabytes * 1e6 / 2 / (4 * 1024**2 + 3 * 1024 * 4096)) - 2)
    fields = dict(
        model_type="llama", vocab_size=16000, hidden_size=C, intermediate_size=4096, num_hidden_layers=n_layers
    )
    (folder / "config.json").write_text(json.dumps(fields | dict(num_attention_heads=16)))
    shapes = {"model.embed_tokens.weight": (16000, C), "lm_head.weight": (16000, C), "model.norm.weight": (C,)}
    for i in range(n_layers):
        for part in "qkvo":
            shapes[f"model.layers.{i}.self_attn.{part}_proj.weight"] = (C, C)
        shapes[f"model.layers.{i}.mlp.gate_proj.weight"] = shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (4096, C)
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (C, 4096)
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (C,)
        shapes[f"model.layers.{i}.post_attention_layernorm.weight"] = (C,)
    names, weight_map = list(shapes), {}
    for shard, start in enumerate(range(0, len(names), 60)):
        file = f"model-{shard:05}.safetensors"
        weights = {name: torch.full(shapes[name], 0.01, dtype=torch.bfloat16) for name in names[start : start + 60]}
        safetensors.torch.save_file(weights, folder / file)
        weight_map |= dict.fromkeys(weights, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
