"""GGUF in: every type of number as the gguf package reads it, every variant of Llama; what is damaged is refused."""

import json
import math
import struct
import time
from pathlib import Path

import pytest
import torch

from minillama.checkpoints import gguf as ours
from minillama.checkpoints import load
from tests.tiny_checkpoints import LLAMA_3, VARIANTS, difference, interleaved, random_model

RENAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def write(path: Path, model, quantize=None, more=(), drop=()) -> Path:
    """The model of Transformers as the gguf package's own writer writes it. quantize: the name of a type, or None."""
    gguf = pytest.importorskip("gguf")
    config, arch = model.config, "qwen2" if model.config.model_type == "qwen2" else "llama"
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    rope = config.rope_parameters
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        plain = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2).float() / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
        writer.add_uint32("llama.rope.scaling.original_context_length", rope["original_max_position_embeddings"])
    for key, value in dict(more).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}.get(type(value))
        add(key, value) if add else writer.add_array(key, value)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch == "llama" and (".q_proj" in name or ".k_proj" in name):
            heads = config.num_attention_heads if ".q_proj" in name else config.num_key_value_heads
            weight = interleaved(weight, heads)
        for theirs, llama_cpp in RENAMES.items():
            name = name.replace(theirs, llama_cpp)
        if name in drop:
            continue
        data, kind = weight.float().numpy(), gguf.GGMLQuantizationType
        if quantize is None or weight.ndim == 1:
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, kind[quantize]), raw_dtype=kind[quantize])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_logits_of_transformers(variant, tmp_path):
    theirs = random_model(variant)
    loaded = load(write(tmp_path / "model.gguf", theirs))
    assert loaded.format == "gguf" and difference(loaded.model, theirs) <= 1e-5
    scaling = loaded.config.rope_scaling
    assert (scaling and scaling.kind) == (theirs.config.rope_parameters["rope_type"].replace("default", "") or None)


def quantized(theirs, quantize):
    """The same model with the numbers that are left of it."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[quantize]
    with torch.no_grad():
        for name, weight in theirs.state_dict().items():
            if weight.ndim == 2:
                heads = {"q": theirs.config.num_attention_heads, "k": theirs.config.num_key_value_heads}
                key = name.split("self_attn.")[-1][0] if "self_attn" in name else ""
                rows = torch.arange(len(weight))[:, None]
                rows = interleaved(rows, heads[key])[:, 0] if key in heads else rows[:, 0]
                left = gguf.quants.dequantize(gguf.quants.quantize(weight[rows].numpy(), kind), kind)
                weight[rows] = torch.from_numpy(left)
    return theirs


@pytest.mark.parametrize("quantize", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("variant", ["grouped", "llama-3.2"])
def test_every_type_of_number_is_read_as_the_gguf_package_reads_it(quantize, variant, tmp_path):
    theirs = random_model(variant, hidden_size=96, intermediate_size=64, initializer_range=0.08)
    path = write(tmp_path / "model.gguf", theirs, quantize)
    loaded = load(path, dtype=torch.float32)
    assert load(path).model.norm.weight.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(
        quantize, torch.float32
    )
    assert difference(loaded.model, quantized(theirs, quantize)) <= 1e-5


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_left_to_the_gguf_package(kind, monkeypatch):
    gguf = pytest.importorskip("gguf")
    type = next(type for type in ours.TYPES.values() if type.name == kind)
    blocks = torch.randint(256, (6, type.n_bytes), dtype=torch.uint8)
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind]))
    entry = ours.Entry("x", (3, 512), type, 0)
    found = ours.read_tensor(bytearray(blocks.numpy().tobytes()), entry)
    torch.testing.assert_close(found, expected.view(3, 512), rtol=0, atol=0, equal_nan=True)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=f"'x': type {kind} needs the package gguf; pip install gguf"):
        ours.read_tensor(bytearray(blocks.numpy().tobytes()), entry)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_our_own_dequantization_is_bit_for_bit_that_of_the_gguf_package(kind):
    gguf = pytest.importorskip("gguf")
    n_bytes = next(type for type in ours.TYPES.values() if type.name == kind).n_bytes
    blocks = torch.randint(256, (500, n_bytes), dtype=torch.uint8)
    blocks[:, 1] &= 0x3B  # scales that are finite
    blocks[:, 3] &= 0x3B
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind]))
    assert torch.equal(ours.DEQUANTIZE[kind](blocks), expected.view(500, 32))


def test_plain_numbers_stay_in_the_file_and_are_not_written_to_it(tmp_path):
    path = write(tmp_path / "model.gguf", random_model("grouped"))
    before = path.read_bytes()
    model = load(path).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before


def test_what_the_file_says_of_talking_is_handed_on(tmp_path):
    more = {
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 4, "tokenizer.chat_template": "{{x}}",
        "tokenizer.ggml.tokens": ["a", "b", "</s>", "<|im_end|>", "d"], "tokenizer.ggml.token_type": [1, 1, 3, 3, 1],
    }  # fmt: skip
    loaded = load(write(tmp_path / "model.gguf", random_model("grouped"), more=more))
    assert loaded.stop_tokens == (2, 3, 4) and loaded.chat_template == "{{x}}"
    assert loaded.tokenizer is None
    assert loaded.no_tokenizer.startswith(f"{tmp_path / 'model.gguf'}: tokenizer.ggml.model: ")


# --- What is refused ------------------------------------------------------------------------------------------------


def refused(path, *words, error=ValueError):
    start = time.monotonic()
    with pytest.raises(error) as caught:
        load(path)
    assert time.monotonic() - start < 1
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message, message
    assert len(message) < 3000


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"llama.expert_count": 8}, ["llama.expert_count=8"]),
        ({"llama.rope.scaling.type": "yarn"}, ["rope.scaling.type='yarn'"]),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": math.nan}, ["factor=nan"]),
        ({"llama.logit_scale": 2.0}, ["llama.logit_scale=2.0"]),
        ({"tokenizer.ggml.eos_token_id": "x"}, ["eos_token_id"]),
        ({"general.alignment": 31}, ["general.alignment=31"]),
    ],
)
def test_metadata_that_is_no_llamas_is_refused_by_key(more, words, tmp_path):
    refused(write(tmp_path / "model.gguf", random_model("grouped"), more=more), *words)


@pytest.mark.parametrize(
    ("drop", "words"),
    [("blk.1.attn_k.weight", "missing: blk.1.attn_k.weight"), ("token_embd.weight", "vocab_size")],
)
def test_a_missing_tensor_is_refused_by_its_name_in_the_file(drop, words, tmp_path):
    refused(write(tmp_path / "model.gguf", random_model("grouped"), drop=[drop]), words)


def test_rope_factors_of_another_scaling_are_refused(tmp_path):
    theirs = random_model("llama-3.1", head_dim=16, rope_parameters=LLAMA_3 | dict(low_freq_factor=2.0))
    refused(write(tmp_path / "model.gguf", theirs), "rope_freqs.weight", "Llama 3.1's")


class Damage:
    """The bytes of a GGUF file, written by hand."""

    def __init__(self):
        self.keys = [
            (b"general.architecture", 8, self.text(b"llama")), *(
                (b"llama." + key, 4, struct.pack("<I", value)) for key, value in (
                    (b"context_length", 64), (b"embedding_length", 8), (b"block_count", 1),
                    (b"feed_forward_length", 12), (b"attention.head_count", 2), (b"attention.head_count_kv", 1),
                )
            ),
        ]  # fmt: skip
        shapes = dict(
            attn_norm=[8], attn_q=[8, 8], attn_k=[8, 4], attn_v=[8, 4], attn_output=[8, 8], ffn_norm=[8],
            ffn_gate=[8, 12], ffn_up=[8, 12], ffn_down=[12, 8],
        )  # fmt: skip
        self.tensors, self.offset = [], 0
        for name, shape in [
            ("token_embd", [8, 16]),
            ("output_norm", [8]),
            *((f"blk.0.{name}", shape) for name, shape in shapes.items()),
        ]:
            self.tensors.append([f"{name}.weight".encode(), shape, 0, self.offset])
            self.offset += -(-4 * math.prod(shape) // 32) * 32
        self.magic, self.version, self.n_tensors, self.n_keys = b"GGUF", 3, None, None

    @staticmethod
    def text(data: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(data) if length is None else length) + data

    def write(self, path: Path) -> Path:
        content = self.magic + struct.pack("<I", self.version)
        counts = [
            x if y is None else y for x, y in ((len(self.tensors), self.n_tensors), (len(self.keys), self.n_keys))
        ]
        content += struct.pack("<QQ", *counts)
        for key, kind, value in self.keys:
            content += self.text(key) + struct.pack("<I", kind) + value
        for name, shape, kind, offset in self.tensors:
            content += (
                self.text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
            )
        content += bytes(-len(content) % 32) + bytes(self.offset)
        path.write_bytes(content)
        return path


def key(name: bytes, kind: int, value: bytes):
    return lambda file: file.keys.append((name, kind, value))


def array(inner: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", inner, count) + data


def tensor(**changes):
    def change(file):
        for name, value in changes.items():
            file.tensors[-1][dict(name=0, shape=1, type=2, offset=3)[name]] = value

    return change


def setting(**fields):
    return lambda file: vars(file).update(fields)


LAST = "blk.0.ffn_down.weight"
DAMAGED = {
    "magic": (setting(magic=b"GGML"), ["b'GGML'", "expected a GGUF file"]),
    "version 1": (setting(version=1), ["version 1", "expected version 2 or 3"]),
    "version 4": (setting(version=4), ["version 4"]),
    "big-endian": (setting(version=3 << 24), ["big-endian"]),
    "2**63 tensors": (setting(n_tensors=2**63), [f"{2**63:,} tensors"]),
    "2**40 keys": (setting(n_keys=2**40), [f"{2**40:,} keys"]),
    "more tensors than there are": (setting(n_tensors=2**14), ["tensor ''"]),
    "more keys than there are": (setting(n_keys=2**13), ["are left"]),
    "array of 2**50 bytes": (key(b"x", 9, array(0, 2**50)), ["key 'x'", f"{2**50:,} elements"]),
    "array of 2**64 - 1 texts": (key(b"x", 9, array(8, 2**64 - 1)), ["key 'x'", "elements"]),
    "array of arrays": (key(b"x", 9, array(9, 1, array(9, 1))), ["array of type 9"]),
    "array of type 77": (key(b"x", 9, array(77, 1)), ["array of type 77"]),
    "value of type 13": (key(b"x", 13, b""), ["a value of type 13"]),
    "text of 2**64 - 1 bytes": (key(b"x", 8, Damage.text(b"", 2**64 - 1)), ["key 'x'", "are left"]),
    "key twice": (key(b"general.architecture", 8, Damage.text(b"llama")), ["'general.architecture' is there twice"]),
    "alignment 0": (key(b"general.alignment", 4, struct.pack("<I", 0)), ["general.alignment=0"]),
    "alignment 2**31": (key(b"general.alignment", 4, struct.pack("<I", 2**31)), ["general.alignment"]),
    "alignment a text": (key(b"general.alignment", 8, Damage.text(b"32")), ["general.alignment=32"]),
    "tensor twice": (tensor(name=b"token_embd.weight"), ["'token_embd.weight' is listed 2 times"]),
    "no axes": (tensor(shape=[]), [LAST, "0 axes"]),
    "odd rope factors": (tensor(name=b"rope_freqs.weight", shape=[32], type=8), ["rope_freqs.weight", "shape (32,)"]),
    "9 axes": (tensor(shape=[1] * 9), [LAST, "9 axes"]),
    "shape of 2**126 numbers": (tensor(shape=[2**63, 2**63]), [LAST, "but the file has"]),
    "shape with a 0": (tensor(shape=[12, 0]), [LAST, "shape (0, 12)"]),
    "another shape": (tensor(shape=[12, 4]), [LAST, "(4, 12)", "(8, 12)"]),
    "type IQ1_S": (tensor(type=19), [LAST, "type IQ1_S", "expected one of F32"]),
    "type 999": (tensor(type=999), [LAST, "type number 999"]),
    "half a block": (tensor(type=8), [LAST, "multiple of 32"]),
    "offset behind the end": (tensor(offset=2**40), [LAST, "but the file has"]),
    "offset 2**64 - 32": (tensor(offset=2**64 - 32), [LAST, "but the file has"]),
    "crooked offset": (tensor(offset=7), [LAST, "multiple of 32"]),
    "two in one place": (tensor(offset=0), ["where tensor", "is too"]),
    "foreign tensor": (tensor(name=b"blk.0.attn_q_norm.weight"), ["blk.0.attn_q_norm.weight", "normalized queries"]),
    "experts": (tensor(name=b"blk.0.ffn_down_exps.weight"), ["mixture of experts"]),
    "unknown tensor": (tensor(name=b"blk.0.ffn_dwon.weight"), [f"missing: {LAST} (is it blk.0.ffn_dwon.weight?)"]),
    "name that is no text": (tensor(name=b"\xff\xfe"), ["missing"]),
    "no architecture": (lambda file: file.keys.pop(0), ["general.architecture='None'"]),
    "no sizes": (lambda file: file.keys.pop(2), ["'llama.embedding_length' is missing"]),
    "2**31 layers": (
        lambda file: file.keys.insert(0, (b"llama.block_count", 4, struct.pack("<I", 2**31))) or file.keys.pop(4),
        ["llama.block_count=2147483648"],
    ),
}  # fmt: skip


def test_the_file_that_gets_damaged_below_is_whole(tmp_path):
    assert load(Damage().write(tmp_path / "model.gguf")).config.d_ff == 12


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_with_its_name_and_the_place(name, tmp_path):
    change, words = DAMAGED[name]
    file = Damage()
    change(file)
    refused(file.write(tmp_path / "model.gguf"), *words)


@pytest.mark.parametrize("keep", [0, 4, 23, 24, 100, 500, 700, -1])
def test_a_file_that_is_cut_off_is_refused(keep, tmp_path):
    path = Damage().write(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    refused(path)


def test_a_web_page_is_called_one(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_text("<!DOCTYPE html><html>not found</html>")
    refused(path, "a web page")


def test_any_wrong_byte_in_the_header_gives_a_model_or_a_refusal(tmp_path):
    path = Damage().write(tmp_path / "model.gguf")
    content = path.read_bytes()
    end = content.rindex(b"ffn_down") + 60
    generator = torch.Generator().manual_seed(3)
    for _ in range(300):
        place, byte = (int(torch.randint(n, (1,), generator=generator)) for n in (end, 256))
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        try:
            load(path)
        except ValueError as error:
            assert str(path) in str(error), (place, byte, error)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad, tmp_path):
    theirs = random_model("grouped")
    with torch.no_grad():
        theirs.model.layers[1].mlp.up_proj.weight[2, 3] = bad
    refused(write(tmp_path / "model.gguf", theirs), "blk.1.ffn_up.weight", "1 NaN", "[2, 3]")


def test_the_header_of_a_large_vocabulary_is_read_in_no_time(tmp_path):
    file = Damage()
    tokens = b"".join(Damage.text(f"token {i}".encode()) for i in range(50_000))
    file.keys.append((b"tokenizer.ggml.tokens", 9, array(8, 50_000, tokens)))
    path = file.write(tmp_path / "model.gguf")
    start = time.monotonic()
    metadata, _, _ = ours.read_header(path)
    assert time.monotonic() - start < 1 and metadata["tokenizer.ggml.tokens"][-1] == "token 49999"
    assert json.dumps(metadata)


def test_text_that_is_no_utf8_comes_through(tmp_path):
    file = Damage()
    file.keys.append((b"tokenizer.ggml.tokens", 9, array(8, 1, Damage.text(b"\xffA"))))
    metadata, _, _ = ours.read_header(file.write(tmp_path / "model.gguf"))
    assert metadata["tokenizer.ggml.tokens"][0].encode("utf-8", "surrogateescape") == b"\xffA"
