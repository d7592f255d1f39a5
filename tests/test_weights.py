import json
import math
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minillama import weights
from minillama.config import Config
from minillama.llama import Llama
from minillama.weights import load_weights, read_weights, weights_to_save

HEAD, LAST = "lm_head.weight", "norm.weight"  # (5, 4) and (4,)


def llama(tied=False) -> Llama:
    model = Llama(Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=3, tied=tied))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def valid(tied=False) -> dict[str, torch.Tensor]:
    """What another model of the same sizes holds, each tensor once."""
    state = {name: tensor.clone() for name, tensor in llama(tied).state_dict().items()}
    if tied:
        del state[HEAD]
    return state


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


def build(header, data: bytes) -> bytes:
    """A file of this header, which is bytes or something that JSON can hold."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def valid_file() -> tuple[dict, bytes]:
    """-> header, data"""
    content = safetensors.torch.save(valid())
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@contextmanager
def refused(path, *words):
    """Loading fails at once, with a message that begins with the file and holds these words; the model stays."""
    yield
    model = llama()
    before, start = {name: t.clone() for name, t in model.state_dict().items()}, time.monotonic()
    with pytest.raises(ValueError) as error:
        load_weights(model, path)
    assert time.monotonic() - start < 1
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 2000
    for word in words:
        assert word in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_from_its_file_a_tied_weight_stored_once(path, tied):
    model, other = llama(tied), llama(tied)
    safetensors.torch.save_file(weights_to_save(model), path)
    stored = safetensors.torch.load_file(path)
    assert set(stored) == set(model.state_dict()) - ({HEAD} if tied else set())
    load_weights(other, path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())
    assert (other.lm_head.weight is other.embed_tokens.weight) is tied
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in other.parameters())


def test_read_weights_gives_what_safetensors_gives(path):
    tensors = {
        "a": torch.randn(2, 3),
        "b": torch.randn(4).bfloat16(),
        "none": torch.zeros(0, 5),
        "c": torch.tensor(3),
    }
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    found = read_weights(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_floating_point_numbers_are_converted_without_a_word(path, dtype, capsys):
    tensors = {name: tensor.to(dtype) for name, tensor in valid().items()}
    safetensors.torch.save_file(tensors, path)
    model = llama()
    load_weights(model, path)
    assert all(torch.equal(t, tensors[name].float()) for name, t in model.state_dict().items())
    assert capsys.readouterr().out == ""


def test_eight_bit_floating_point_numbers_are_converted_or_refused_by_name(path):
    safetensors.torch.save_file(valid() | {HEAD: torch.ones(5, 4).to(torch.float8_e4m3fn)}, path)
    model = llama()
    try:
        load_weights(model, path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: tensor '{HEAD}'")
    else:
        assert model.lm_head.weight.tolist() == [[1.0] * 4] * 5


def test_float64_is_loaded_and_said(path, capsys):
    tensors = valid() | {HEAD: torch.full((5, 4), 1 / 3, dtype=torch.float64)}
    safetensors.torch.save_file(tensors, path)
    model = llama()
    load_weights(model, path)
    assert torch.equal(model.lm_head.weight, torch.full((5, 4), 1 / 3))
    said = capsys.readouterr().out
    assert said.startswith(f"{path}: 1 tensors hold float64 numbers")
    assert HEAD in said


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_whole_numbers_are_no_weights(path, dtype):
    with refused(path, f"tensor '{HEAD}'", str(dtype), "expected floating-point numbers"):
        safetensors.torch.save_file(valid() | {HEAD: torch.ones(5, 4).to(dtype)}, path)


def test_buffers_that_are_no_floating_point_numbers_or_not_finite_load_as_they_were_saved(path):
    class Masked(nn.Linear):
        """A part as many people write it: the causal mask is kept with the weights."""

        def __init__(self):
            super().__init__(3, 2)
            self.register_buffer("mask", torch.ones(2, 2).tril().bool())
            self.register_buffer("bias_mask", torch.full((2, 2), -math.inf).triu(1))

    model, other = Masked(), Masked()
    other.mask.zero_()
    safetensors.torch.save_file(weights_to_save(model), path)
    load_weights(other, path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_with_tensor_count_and_place_unless_allowed(path, bad):
    tensors = valid()
    tensors[HEAD][[1, 3, 3], [2, 0, 3]] = bad
    with refused(path, f"tensor '{HEAD}'", "3 NaN or infinite", "[1, 2]", "allow_nonfinite=True"):
        safetensors.torch.save_file(tensors, path)
    model = llama()
    load_weights(model, path, allow_nonfinite=True)
    assert (~model.lm_head.weight.isfinite()).sum() == 3


def test_a_number_too_large_for_the_model_is_not_finite_either(path):
    tensors = valid() | {LAST: torch.tensor([1.0, 1e300, 2.0, 3.0], dtype=torch.float64)}
    with refused(path, f"tensor '{LAST}'", "1 ", "[1]"):
        safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 5), "has shape (4, 5), the model expects (5, 4); transposed?"),
        ((5, 6), "has shape (5, 6), the model expects (5, 4)"),
        ((20,), "has shape (20,), the model expects (5, 4)"),
        ((5, 4, 1), "has shape (5, 4, 1), the model expects (5, 4)"),
    ],
)
def test_another_shape_is_refused_with_both(path, shape, words):
    with refused(path, f"tensor '{HEAD}' {words}"):
        safetensors.torch.save_file(valid() | {HEAD: torch.ones(shape)}, path)


def test_transposed_is_only_guessed_where_it_fits(path):
    safetensors.torch.save_file(valid() | {HEAD: torch.ones(5, 6)}, path)
    with pytest.raises(ValueError) as error:
        load_weights(llama(), path)
    assert "transposed?" not in str(error.value)


def test_all_missing_and_unknown_tensors_are_listed_each_with_the_closest_name(path):
    tensors = valid()
    tensors["model.norm.weigth"] = tensors.pop(LAST)
    del tensors["embed_tokens.weight"]
    tensors["rotary.inv_freq"] = torch.ones(2)
    words = [
        "check that config and weights belong together",
        f"missing: {LAST} (is it model.norm.weigth?)",
        "missing: embed_tokens.weight\n",
        "unknown: model.norm.weigth",
        "unknown: rotary.inv_freq",
    ]
    with refused(path, *words):
        safetensors.torch.save_file(tensors, path)


def test_an_untied_model_does_not_make_up_its_output_layer(path):
    with refused(path, f"missing: {HEAD}"):
        safetensors.torch.save_file(valid(tied=True), path)


def test_a_tied_model_takes_both_of_its_names_only_if_they_hold_the_same(path):
    tensors, model = valid(tied=True), llama(tied=True)
    safetensors.torch.save_file(tensors | {HEAD: tensors["embed_tokens.weight"].clone()}, path)
    load_weights(model, path)
    assert torch.equal(model.lm_head.weight, tensors["embed_tokens.weight"])
    safetensors.torch.save_file(tensors | {HEAD: torch.ones(5, 4)}, path)
    with pytest.raises(ValueError, match=HEAD) as error:
        load_weights(model, path)
    assert str(error.value).startswith(f"{path}: ")
    assert torch.equal(model.embed_tokens.weight, tensors["embed_tokens.weight"])


HEADER, DATA = valid_file()
WHOLE = build(HEADER, DATA)
BEGIN, END = HEADER[HEAD]["data_offsets"]


def changed(**fields) -> bytes:
    """The valid file, with these fields of one tensor changed in its header."""
    return build(HEADER | {HEAD: HEADER[HEAD] | fields}, DATA)


def without(field: str) -> bytes:
    return build(HEADER | {HEAD: {k: v for k, v in HEADER[HEAD].items() if k != field}}, DATA)


NOT_A_FILE = "not a safetensors file"
DAMAGED = {
    "0 bytes": (b"", ["0 bytes, expected a safetensors file", "download"]),
    "7 bytes": (WHOLE[:7], ["7 bytes, expected a safetensors file", "download"]),
    "one byte missing": (WHOLE[:-1], ["tensor '", f"{len(DATA) - 1:,}", f"{len(DATA):,}", "download"]),
    "cut in the middle of the data": (WHOLE[: -len(DATA) // 2], ["tensor '", "are given", "download"]),
    "cut in the header": (WHOLE[:200], [f"the file has {200:,}", "cut off"]),
    "one byte too many": (
        WHOLE + b"\0",
        [f"{len(DATA) + 1:,} bytes of weights, expected {len(DATA):,}", "download"],
    ),
    "header of 2**63 bytes": ((2**63).to_bytes(8, "little") + b"{}", [f"{2**63:,} bytes", "the file has 10"]),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", [f"{2**64 - 1:,} bytes", "the file has 10"]),
    "header of 101 MB": (
        (101_000_000).to_bytes(8, "little") + b"{}",
        ["101,000,000 bytes", "the file has 10"],
    ),
    "header one byte longer than the file": (
        (3).to_bytes(8, "little") + b"{}",
        ["3 bytes", "the file has 10"],
    ),
    "header not UTF-8": (build(b'{"\xff": 1}', b""), [NOT_A_FILE, "utf-8"]),
    "header not JSON": (build(b'{"a": ', b""), [NOT_A_FILE]),
    "header empty": (build(b"", b""), [NOT_A_FILE]),
    "header a list": (build([1, 2], b""), [NOT_A_FILE, "not a JSON object"]),
    "header nested without end": (build(b'{"a":' * 50_000, b""), [NOT_A_FILE]),
    "web page": (b"<!DOCTYPE html><html>404</html>", ["a web page, not weights", "download it again"]),
    "web page in small letters": (b"\n<html><body>Sign in</body>", ["a web page, not weights"]),
    "short web page": (b"<html>", ["a web page, not weights"]),
    "shape too small": (
        changed(shape=[5, 3]),
        [f"tensor '{HEAD}'", "[5, 3]", "60 bytes", f"{BEGIN:,} to {END:,}"],
    ),
    "shape too large": (changed(shape=[5, 400]), [f"tensor '{HEAD}'", "8,000 bytes"]),
    "shape of 2**80 numbers": (changed(shape=[2**40, 2**40]), [f"tensor '{HEAD}'", f"{2**82:,} bytes"]),
    "shape with 4000 digits": (changed(shape=[10**4000, 10**4000]), [f"tensor '{HEAD}'"]),
    "shape with 100,000 axes": (changed(shape=[2**62] * 100_000), [f"tensor '{HEAD}'"]),
    "negative axis": (changed(shape=[-5, -4]), [f"tensor '{HEAD}'", "[-5, -4]", "whole numbers from 0 on"]),
    "half an axis": (changed(shape=[5.0, 4]), [f"tensor '{HEAD}'", "whole numbers"]),
    "shape a text": (changed(shape="54"), [f"tensor '{HEAD}'", "whole numbers"]),
    "bytes behind the end": (
        changed(data_offsets=[len(DATA), len(DATA) + 80]),
        [f"tensor '{HEAD}'", f"{len(DATA):,} to {len(DATA) + 80:,} of {len(DATA):,}"],
    ),
    "bytes backwards": (changed(data_offsets=[END, BEGIN]), [f"tensor '{HEAD}'", f"{END:,} to {BEGIN:,}"]),
    "three offsets": (
        changed(data_offsets=[BEGIN, END, END]),
        [f"tensor '{HEAD}'", "expected dtype, shape and"],
    ),
    "bytes of another tensor": (changed(data_offsets=[0, 80]), []),
    "unknown dtype": (changed(dtype="F33"), [f"tensor '{HEAD}'", "dtype 'F33', expected one of F64, F32"]),
    "dtype of another size": (changed(dtype="F16"), [f"tensor '{HEAD}'", "of F16 takes 40 bytes"]),
    "dtype a list": (changed(dtype=["F32"]), [f"tensor '{HEAD}'", "dtype ['F32'], expected one of"]),
    "no shape": (without("shape"), [f"tensor '{HEAD}'", "expected dtype, shape and data_offsets"]),
    "no dtype": (without("dtype"), [f"tensor '{HEAD}'", "expected dtype, shape and data_offsets"]),
    "entry a number": (build(HEADER | {HEAD: 7}, DATA), [f"tensor '{HEAD}'", "found 7"]),
    "duplicate name": (
        build(json.dumps(HEADER).replace(f'"{LAST}"', f'"{HEAD}"').encode(), DATA),
        [NOT_A_FILE, f"'{HEAD}' stands in its header 2 times, expected once"],
    ),
    "a tensor no header speaks of": (
        build({name: entry for name, entry in HEADER.items() if name != HEAD}, DATA),
        [f"{len(DATA):,} bytes of weights, expected {len(DATA) - 80:,}"],
    ),
    "no tensor": (build({}, b""), [f"missing: {HEAD}"]),
}


def test_the_file_that_gets_damaged_below_is_whole(path):
    path.write_bytes(WHOLE)
    load_weights(llama(), path)


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_by_name_before_anything_is_changed(path, damage):
    content, words = DAMAGED[damage]
    with refused(path, *words):
        path.write_bytes(content)


def test_a_header_beyond_the_formats_limit_is_not_read(path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_HEADER", 100)
    with refused(path, "its header should have"):
        path.write_bytes(WHOLE)


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_weights(llama(), path)


def test_a_tensor_is_not_a_path(path):
    with refused(path, "unknown: ../../etc/x"):
        safetensors.torch.save_file(valid() | {"../../etc/x": torch.ones(2)}, path)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def loads_whole_or_not_at_all(path: Path, content: bytes):
    path.write_bytes(content)
    model = llama()
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    before = {name: t.clone() for name, t in model.state_dict().items()}
    try:
        load_weights(model, path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    else:
        assert {name: t.shape for name, t in model.state_dict().items()} == shapes
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_with_a_few_wrong_bytes_loads_finite_weights_or_is_refused(fuzzed, changes):
    content = bytearray(WHOLE)
    for position, byte in changes:
        content[position] = byte
    loads_whole_or_not_at_all(fuzzed, bytes(content))


@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=9))
def test_a_file_with_a_piece_cut_out_or_put_in_loads_finite_weights_or_is_refused(fuzzed, start, end, new):
    loads_whole_or_not_at_all(fuzzed, WHOLE[:start] + new + WHOLE[end:])


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(list(weights.BYTES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(HEADER)), st.sampled_from(["dtype", "shape", "data_offsets", "new", None]), ANY_JSON)
def test_a_header_with_any_other_json_in_it_loads_finite_weights_or_is_refused(fuzzed, name, field, value):
    entry = value if field is None else HEADER[name] | {field: value}
    loads_whole_or_not_at_all(fuzzed, build(HEADER | {name: entry}, DATA))
