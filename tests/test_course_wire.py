"""The wire between a check and an answer: data there and back, nothing else, and nothing that a bad message can do."""

import json
import math
import os
import struct
import sys
import time
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillama.block import Parts
from minillama.config import Config
from minillama.course import answers, wire
from minillama.course.answers import Answer, AnswerLost, AnswerRaised, elsewhere, here, run, start
from minillama.course.wire import Thing, WireError, pack, unpack
from minillama.norm import RMSNorm

SETTING = "torch's default dtype"
fast = settings(max_examples=80, deadline=None, derandomize=True)


def equal(a, b):
    """The same type and the same bits, NaN and -0.0 included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [x.detach().contiguous().reshape(-1) for x in (a, b)]
        same_bits = not a.numel() or torch.equal(*(x.view(torch.uint8) for x in bits))
        return a.shape == b.shape and a.dtype == b.dtype and a.requires_grad == b.requires_grad and same_bits
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return equal(list(a.items()), list(b.items()))
    return a == b


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = wire.DTYPES[draw(st.sampled_from(sorted(wire.DTYPES)))]
    bits = draw(st.binary(min_size=math.prod(shape) * dtype.itemsize, max_size=math.prod(shape) * dtype.itemsize))
    if not bits:
        return torch.empty(shape, dtype=dtype)
    raw = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
    tensor = (raw > 127 if dtype == torch.bool else raw.view(dtype)).reshape(shape)
    grad = dtype.is_floating_point or dtype.is_complex
    return tensor.requires_grad_() if grad and draw(st.booleans()) else tensor


def arrays():
    kinds = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool", "complex64"]
    return st.builds(lambda kind, shape: np.arange(math.prod(shape)).reshape(shape).astype(kind),
                     st.sampled_from(kinds), st.lists(st.integers(0, 3), max_size=2))  # fmt: skip


characters = st.text(st.characters(codec=None, categories=None), max_size=8)  # halves of characters too
keys = st.recursive(
    st.none() | st.booleans() | st.integers() | characters | st.binary(max_size=4) | st.floats(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
leaves = (
    keys | st.floats() | st.integers(-(10**3000), 10**3000) | tensors() | arrays() | st.just(torch.bfloat16)
    | st.sets(keys, max_size=3) | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
    | st.builds(Thing, st.integers(0, 99), st.text(max_size=5))
)  # fmt: skip
data = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@fast
@given(data)
def test_what_was_packed_comes_back_the_same(value):
    assert equal(unpack(pack(value)), value)
    assert equal(unpack(pack(value, keep=lambda x, kind: Thing(0, kind))), value)  # as a reply


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0, 10**3000, "\ud800", "é\0", ()])
def test_unusual_values_come_back_the_same(value):
    assert equal(unpack(pack(value)), value)


def test_numpy_numbers_and_subclasses_arrive_as_what_they_are_made_of():
    class Mine(list):
        pass

    values = [np.float32(0.5), np.int64(3), np.bool_(True), Mine([1]), bytearray(b"ab"), torch.Size([2, 3])]
    assert equal(unpack(pack(values)), [0.5, 3, True, [1], b"ab", (2, 3)])
    assert equal(unpack(pack(torch.nn.Parameter(torch.ones(2)))), torch.ones(2, requires_grad=True))


def test_views_conjugates_and_expanded_tensors_arrive_as_they_look():
    x = torch.arange(6.0).reshape(2, 3)
    z = torch.tensor([1 + 2j, 3 - 1j])
    looks = [x.T, x[:, ::2], torch.ones(1).expand(3, 4), z.conj(), z.conj().imag, x.flip(1)]
    for look in looks:
        assert torch.equal(unpack(pack(look)), look)
    turned = np.arange(6).reshape(2, 3).T[::-1]
    assert equal(unpack(pack(turned)), np.ascontiguousarray(turned))


def test_a_generator_travels_as_its_seed():
    mine = torch.Generator().manual_seed(42)
    theirs = unpack(pack(mine))
    assert torch.equal(torch.rand(3, generator=theirs), torch.rand(3, generator=mine))


CANT_TRAVEL = {
    "a lambda": lambda x: x,
    "a class of a test": Config.__class__.__call__,
    "a module": RMSNorm(3),
    "an object": object(),
    "another package's function": json.dumps,
    "a function that torch imported": os.system,
    "a function that reads files": torch.load,
    "a sparse tensor": torch.eye(2).to_sparse(),
    "a tensor without numbers": torch.ones(2, device="meta"),
    "text in an array": np.array(["a"]),
    "objects in an array": np.array([object()]),
    "a complex number": 1j,
    "too large a tensor": torch.ones(1).expand(2**40),
    "too large an array": np.broadcast_to(np.float64(0), (2**33,)),
    "too much text": "x" * (wire.MAX_TREE + 1),
    "too many items": [[0] * 1000] * 3000,
    "too large a number": 1 << 10_001,
    "deep lists": eval("[" * 30 + "]" * 30),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_cannot_travel():
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(WireError, match="a quantized tensor"):
        pack(quantized)


@pytest.mark.parametrize("what", CANT_TRAVEL)
def test_what_cannot_travel_is_refused_without_being_copied(what):
    tracemalloc.start()
    with pytest.raises(WireError):
        pack(CANT_TRAVEL[what])
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_lists_that_hold_themselves_and_lists_that_double_are_refused_soon():
    endless: list = []
    endless += [endless, endless]
    doubling: list = [0]
    for _ in range(19):
        doubling = [doubling] * 30
    begun = time.process_time()
    for value in (endless, doubling, {"a": endless}):
        with pytest.raises(WireError):
            pack(value)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("value", [
    RMSNorm, torch.nn.functional.softmax, torch.nn.functional.scaled_dot_product_attention, torch.nn.Linear,
    Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, d_ff=3), Parts(norm=torch.nn.LayerNorm),
])  # fmt: skip
def test_names_travel_from_the_check_and_never_back(value):
    assert unpack(pack(value), trusted=True) == value
    with pytest.raises(WireError):
        unpack(pack(value))


def message(tree, data=b""):
    text = json.dumps(tree).encode()
    return struct.pack("<I", len(text)) + text + data


@pytest.mark.parametrize("tree", [
    {"name": "os:system"}, {"name": "torch.nn.functional:torch.os.system"}, {"name": "torch:load"},
    {"name": "torch.nn:init"}, {"name": "minillama.norm:torch"},
    {"name": "torch.nn:Linear.forward.__globals__"}, {"name": "minillama.course.wire:json.dumps"},
    {"name": "builtins:eval"}, {"made": "torch.serialization:load", "with": {"dict": [["f", "x"]]}},
    {"made": "torch.nn.modules.linear:Linear", "with": {"dict": [["in_features", 1], ["out_features", 1]]}},
])  # fmt: skip
def test_even_the_check_can_name_only_what_belongs_to_minillama_and_torch(tree):
    with pytest.raises(WireError):
        unpack(message(tree), trusted=True)


@pytest.mark.parametrize("tree", [
    {"name": "minillama.norm:RMSNorm"}, {"made": "minillama.config:Config", "with": {}}, {"dtype": "nn"},
    {"dtype": "_dynamo"}, {"tensor": [], "dtype": "os", "grad": False},
])  # fmt: skip
def test_names_from_an_answer_are_not_even_looked_at(tree, monkeypatch):
    monkeypatch.setattr(wire, "_find", lambda *_: pytest.fail("looked up"))
    monkeypatch.setattr(torch, "__getattr__", lambda *_: pytest.fail("looked up"), raising=False)
    with pytest.raises(WireError):
        unpack(message(tree))


FLOATS = {"dtype": "float32", "grad": False}


@pytest.mark.parametrize("bad", [
    b"", b"\0", b"\xff\xff\xff\xff", message([1]), message({}), message({"list": 5}), message({"bytes": "é"}),
    message({"tensor": [3], **FLOATS}, bytes(11)), message({"tensor": [3], **FLOATS}, bytes(13)), message(1, b"x"),
    message({"tensor": [2**39, 2**39], **FLOATS}), message({"tensor": [-1], **FLOATS}, bytes(4)),
    message({"tensor": [True], **FLOATS}, bytes(4)), message({"tensor": [2**63, 0], **FLOATS}),
    message({"tensor": [2**39, 2**39, 2**39, 0], **FLOATS}), message({"tensor": [0] * 1000, **FLOATS}),
    message({"tensor": "abc", **FLOATS}), message({"tensor": [1], "dtype": "qint8", "grad": False}, b"x"),
    message({"tensor": [1], "dtype": "int8", "grad": True}, b"x"), message({"array": 5}),
    message({"array": {"tensor": [1], "dtype": "bfloat16", "grad": False}}, b"xx"), message({"thing": ["0", "x"]}),
    message({"thing": [0]}), message({"generator": "x"}), message({"generator": 10**30}), message({"range": [1, 2, 0]}),
    message({"set": [{"list": []}]}), message({"dict": [[1]]}), message({"dict": [[{"list": []}, 1]]}),
    message({"dtype": []}), struct.pack("<I", 5000) + b"1" * 5000, struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc",
    struct.pack("<I", 100_000) + b"[" * 100_000,
    message(eval('{"list": [' * 30 + "]}" * 30)),
])  # fmt: skip
def test_a_malformed_message_is_refused(bad):
    for trusted in (False, True):
        with pytest.raises(WireError):
            unpack(bad, trusted=trusted)


def test_the_same_bytes_are_not_read_twice():
    tensor = {"tensor": [250_000], **FLOATS}
    with pytest.raises(WireError):  # a small message that would become a gigabyte
        unpack(message({"list": [tensor] * 1000}, bytes(1_000_000)))


def test_a_bool_is_true_or_false_whatever_its_byte():
    given = unpack(message({"tensor": [3], "dtype": "bool", "grad": False}, b"\0\1\2"))
    assert given.view(torch.uint8).tolist() == [0, 1, 1]


def test_a_message_is_only_as_large_as_may_be(monkeypatch):
    monkeypatch.setattr(wire, "MAX_TREE", 1000)
    with pytest.raises(WireError, match="a value of more than"):
        pack([0.123456789012345] * 100)  # few numbers of many digits
    with pytest.raises(WireError, match="a message of"):
        unpack(message({"list": [0.123456789012345] * 100}))


def test_a_tensor_without_its_bytes_is_told():
    with pytest.raises(WireError, match="a tensor of 12 bytes, 11 are there"):
        unpack(message({"tensor": [3], **FLOATS}, bytes(11)))


EXAMPLE = pack({
    "value": [torch.randn(2, 3), (1, 2.5, "é"), {(1, 2): torch.ones(3, dtype=torch.bool)}, b"xyz", range(5)],
    "raised": None, "thing": Thing(3, "a function"), "array": np.arange(4), "dtype": torch.float16,
})  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_messages_raise_wire_errors_and_take_no_more_memory_than_they_have(choose):
    damaged = bytearray(EXAMPLE)
    for _ in range(choose.draw(st.integers(1, 4))):
        place = choose.draw(st.integers(0, len(damaged) - 1))
        match choose.draw(st.sampled_from(["flip", "cut", "insert", "digits"])):
            case "flip":
                damaged[place] ^= 1 << choose.draw(st.integers(0, 7))
            case "cut":
                del damaged[place : place + choose.draw(st.integers(1, 9))]
            case "insert":
                damaged[place:place] = choose.draw(st.sampled_from([b"9", b"[", b"{", b'"', b"-", b"0,", b"\xff"]))
            case "digits":
                damaged[place:place] = b"9" * choose.draw(st.integers(1, 30))
        damaged = damaged or bytearray(b"0")
    tracemalloc.start()
    with suppress(WireError):
        unpack(bytes(damaged))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@fast
@given(st.binary(max_size=60))
def test_random_bytes_raise_wire_errors(noise):
    with pytest.raises(WireError):
        unpack(noise + b"\xff")


# Answers, here and in another process ---------------------------------------------------------------------------------

SOURCE = '''
import os, random, sys, torch, numpy

def Answer(what, *args, **kwargs):
    return globals()[what](*args, **kwargs)

def double(x): return 2 * x
def forever():
    while True: yield torch.ones(1)
def end(): os._exit(0)
def leave(): sys.exit("bye")
def deep(n=0): return deep(n + 1)
def fail(x):
    y = x + 1
    raise KeyError(y)
def mute():
    class Mute(Exception):
        def __str__(self): raise ValueError
    raise Mute
def todo(): raise NotImplementedError
def no_kernel(x): return x.softmax(0)
def function(): return double
def config():
    from minillama.config import Config
    return Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, d_ff=3), {torch.nn.Linear: 1}, {double}
def sparse(): return [torch.eye(2).to_sparse()]
def expanded(): return torch.ones(1).expand(2**40)
def nested():
    x = []
    for _ in range(50): x = [x]
    return x
def shout(): print("x" * 10_000)
def noise(): return os.write(1, b"noise")
def draws(): return torch.rand(2), random.random(), float(numpy.random.rand())
def change(x, y=None): x[0] = 9.0
def settings():
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.set_num_threads(3)
def deterministic(): torch.use_deterministic_algorithms(True)
class Counter:
    n = 0
    def __init__(self, start): self.n = start
    def add(self, k): self.n += k; return self.n
def linear(*sizes): return torch.nn.Linear(*sizes)
'''  # fmt: skip


@pytest.fixture(scope="module")
def worker():
    with elsewhere(SOURCE, "Answer") as send:
        yield send


@pytest.fixture(params=["here", "elsewhere"])
def answer(request):
    """The answer of SOURCE, in this process or in another one: a check can't tell."""
    name = "<answer>"
    if request.param == "here":
        return Answer(here(run(SOURCE, "Answer", name)), name="Answer", seed=5)
    return Answer(request.getfixturevalue("worker"), name="Answer", seed=5)


def test_an_answer_is_called_and_its_result_is_data(answer):
    x = torch.randn(2, 3)
    assert torch.equal(answer("double", x), 2 * x)
    assert answer("double", x=[1]) == [1, 1]


def test_what_is_no_data_stays_and_can_be_used_further(answer):
    counter = answer("Counter", 5)
    assert repr(counter) == "Answer('Counter', 5)" and counter._kind == "an object of class Counter"
    assert counter.n == 5 and counter.add(2) == 7 and counter.n == 7
    assert answer("function")(4) == 8 and answer("function")._kind == "a function"
    assert answer("double", [answer("Counter", 1)])[1].n == 1


def test_results_that_only_trusted_readers_could_understand_stay_there_too(answer):
    config, classes, functions = answer("config")
    assert config._kind == "an object of class Config" and config.d_model == 4
    assert [key.kind for key in classes] == ["a class"] and [x.kind for x in functions] == ["a function"]


@pytest.mark.parametrize("call, kind", [
    ("sparse", "a sparse tensor"), ("expanded", "a value of more than 64 MiB"),
    ("nested", "lists in lists, more than 20 deep"),
])  # fmt: skip
def test_results_that_cannot_travel_are_named(answer, call, kind):
    given = answer(call)
    assert (given[0] if isinstance(given, list) else given)._kind == kind


def test_an_endless_generator_is_read_for_a_while(answer):
    assert len(answer("forever")) == answers.MAX_ITEMS


@pytest.mark.parametrize("call, kind, text", [
    ("leave", "SystemExit", "bye"), ("deep", "RecursionError", "maximum recursion"), ("mute", "Mute", "can't be shown"),
    ("todo", "NotImplementedError", ""), ("nothing", "KeyError", "nothing"),
])  # fmt: skip
def test_errors_of_an_answer_are_told_not_raised(answer, call, kind, text):
    with pytest.raises(AnswerRaised) as raised:
        answer(call)
    assert raised.value.kind == kind and text in raised.value.message
    assert answer("double", 1) == 2  # and it goes on


def test_an_error_comes_with_its_parents_and_the_line_of_the_answer(answer):
    with pytest.raises(AnswerRaised) as raised:
        answer("fail", 3)
    assert raised.value.kinds[:3] == ["KeyError", "LookupError", "Exception"]
    assert raised.value.line == "line 15: raise KeyError(y)"
    with pytest.raises(AnswerRaised) as raised:
        answer("double")
    assert raised.value.line == "line 5: return globals()[what](*args, **kwargs)"


def test_a_dtype_that_torch_cannot_do_is_no_missing_answer(answer):
    with pytest.raises(AnswerRaised) as raised:
        answer("no_kernel", torch.arange(3))
    assert raised.value.kind == "NotImplementedError" and not raised.value.not_attempted
    with pytest.raises(AnswerRaised) as raised:
        answer("todo")
    assert raised.value.not_attempted


def test_the_line_of_an_error_is_the_learners_not_that_of_the_packages_part_they_called():
    source = "from minillama.norm import RMSNorm\ndef f(x):\n    return RMSNorm(3)(x)\n"
    with pytest.raises(AnswerRaised) as raised:
        Answer(here(run(source, "f")), name="f")("no tensor")
    assert raised.value.line == "line 3: return RMSNorm(3)(x)"


def test_what_is_told_of_an_error_does_not_hold_the_answers_name():
    told = []
    for name in ("attend", "without_mask"):
        with pytest.raises(AnswerRaised) as raised:
            Answer(here(run(f"def {name}(x): pass", name)), name="attend")()
        assert name in raised.value.message
        told.append(raised.value.told)
    assert told[0] == told[1]


def test_an_interrupt_goes_through():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Answer(here(stop), name="stop")()


def test_changed_inputs_are_seen_and_stay_as_they_were(answer):
    log = answer._log
    x, y = torch.zeros(3), torch.zeros(2)
    answer("change", x, y=y)
    answer("double", x)
    assert torch.equal(x, torch.zeros(3)) and [call.changed for call in log] == [[1], []]


def test_settings_of_the_whole_program_are_put_back_and_named(answer):
    n_threads = torch.get_num_threads()
    answer("settings")
    assert answer._log[-1].changed == [
        "torch's default dtype", "whether torch records gradients", "torch's number of threads"
    ]  # fmt: skip
    assert (
        torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled() and torch.get_num_threads() == n_threads
    )
    answer("double", 1)
    assert answer._log[-1].changed == []


@pytest.mark.slow  # torch imports its compiler for this
def test_the_deterministic_mode_is_put_back_and_named():
    answer = Answer(here(run(SOURCE, "Answer")), name="Answer")
    answer("deterministic")
    assert answer._log[-1].changed == ["torch's deterministic mode"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_an_answer_prints_is_remembered_in_part_and_not_shown(answer, capfd):
    answer("shout")
    assert answer._log[-1].printed == "x" * answers.MAX_PRINTED and capfd.readouterr().out == ""


def test_what_an_answer_writes_past_print_is_no_reply(worker):
    assert Answer(worker, name="Answer")("noise") == 5 == Answer(worker, name="Answer")("noise")


def test_endless_printing_takes_no_memory():
    paper = answers._Paper()
    for _ in range(5):
        print("x" * 900, file=paper)
    assert len(paper.text) == answers.MAX_PRINTED


def test_random_numbers_of_an_answer_depend_on_the_seed_alone(answer):
    first, again = answer("draws"), answer("draws")
    other = Answer(answer._send, name="Answer", seed=6)("draws")
    assert equal(first, again)
    assert not torch.equal(first[0], other[0]) and first[1] != other[1] and first[2] != other[2]
    check_draws = torch.rand(2, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(first[0], check_draws)  # a check's inputs are no weights of the answer


def test_weights_are_parameters_by_name_and_can_be_set(answer):
    linear = answer("linear", 2, 1)
    linear._ask("load", {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.tensor([1.0])})
    assert {name: w.tolist() for name, w in linear._ask("weights").items()} == {"weight": [[3.0, 4.0]], "bias": [1.0]}
    assert torch.equal(linear(torch.ones(2)), torch.tensor([8.0]))
    assert not answer._ask("weights")  # a function has none


def test_gradients_of_inputs_and_weights_come_back_each_time_anew(answer):
    linear = answer("linear", 2, 1)
    linear._ask("load", {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.tensor([1.0])})
    for _ in range(2):
        given = linear._ask("gradients", torch.ones(2), torch.tensor([2.0]))
        assert given["inputs"][0].tolist() == [6.0, 8.0] and given["weights"]["weight"].tolist() == [[2.0, 2.0]]
    assert answer("linear", 1, 1)._ask("gradients", torch.ones(1), torch.ones(5))["inputs"] == [None]


def test_what_cannot_travel_there_is_the_checks_own_fault(answer):
    with pytest.raises(TypeError, match="can't travel"):
        answer("double", lambda x: x)


def test_a_process_that_ends_is_an_answer_lost():
    begun = time.monotonic()
    with elsewhere(SOURCE, "Answer") as send:
        answer = Answer(send, name="Answer")
        with pytest.raises(AnswerLost, match="has ended"):
            answer("end")
        for size in (2_000_000, 2, 1):
            with pytest.raises(AnswerLost, match="has ended"):
                answer("double", torch.ones(size))
    assert time.monotonic() - begun < 60


def test_a_process_answers_for_one_source_after_the_other(worker):
    answer = Answer(worker, name="f")
    start(worker, "def f(x): return x + 1", "f")
    assert answer(1) == 2
    for source, kind in (("def g(", "SyntaxError"), ("x = 1", "NameError"), ("import sys\nsys.exit(3)", "SystemExit")):
        with pytest.raises(AnswerRaised) as raised:
            start(worker, source, "f")
        assert raised.value.kind == kind
    assert raised.value.line == "line 2: sys.exit(3)"
    start(worker, SOURCE, "Answer")
    assert Answer(worker, name="Answer")("double", 3) == 6


REPLY = {"value": 1, "changed": [], "printed": ""}


@pytest.mark.parametrize("reply", [
    b"", b"nonsense", pack([]), pack(5), pack(None), pack({}), pack({"value": 1}), pack(REPLY | {"changed": 5}),
    pack(REPLY | {"raised": []}), pack(REPLY | {"raised": [[], "m", "l", "t"]}), pack(REPLY | {"raised": 5}),
    pack(REPLY | {"raised": [5, "m", "l", "t"]}), pack(REPLY | {"raised": ["a"]}), pack(REPLY | {"value": RMSNorm}),
])  # fmt: skip
def test_a_forged_reply_loses_the_answer_and_nothing_else(reply):
    with pytest.raises(AnswerLost):
        Answer(lambda request: reply, name="f")(1)


def test_a_forged_reply_may_say_what_it_likes_of_changes():
    answer = Answer(lambda request: pack(REPLY | {"changed": [-5, "x", SETTING, None, 2.5], "printed": None}), name="f")
    assert answer(1) == 1 and answer._log[-1].changed == [-5, SETTING]


def test_a_forged_error_is_cut_to_what_a_person_reads():
    long = "x" * 10**6
    answer = Answer(lambda request: pack(REPLY | {"raised": [[long] * 5, long, long, long]}), name="f")
    with pytest.raises(AnswerRaised) as raised:
        answer(1)
    error = raised.value
    assert sum(map(len, [*error.kinds, error.message, error.line, error.told])) < 4000


@pytest.mark.parametrize("kind", ["set", "frozenset", "dict"])
def test_many_items_of_one_hash_are_refused(kind):
    items = [k * (2**61 - 1) for k in range(wire.SAME_HASH + 1)]
    tree = {"dict": [[k, 0] for k in items]} if kind == "dict" else {kind: items}
    data = json.dumps(tree).encode()
    with pytest.raises(WireError, match="of the same hash"):
        unpack(struct.pack("<I", len(data)) + data)


@pytest.mark.parametrize("shape", [[2**30, 0], [0, 2**20, 2**20]])
def test_a_tensor_of_nothing_in_very_many_rows_does_not_travel(shape):
    data = json.dumps({"tensor": shape, "dtype": "float32", "grad": False}).encode()
    with pytest.raises(WireError, match="a tensor of shape"):
        unpack(struct.pack("<I", len(data)) + data)
    with pytest.raises(WireError, match="rows without numbers"):
        pack(torch.empty(shape))


def test_what_only_says_that_it_has_a_hash_is_no_key():
    class Key(list):
        __hash__ = object.__hash__

    for value in ({Key(): 1}, {Key()}, frozenset([Key()])):
        with pytest.raises(WireError, match="can't travel"):
            pack(value)


def test_an_announcement_of_too_many_bytes_is_not_believed():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as other:
        other.write(struct.pack("<Q", 2**40))
        other.flush()
        with pytest.raises(AnswerLost, match="announces"):
            answers.read_message(pipe)


def test_source_that_is_run_knows_its_lines_and_may_hold_dataclasses():
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\n"
    )
    made = run(source, "P", "<some file>", "some_module_of_a_test")
    assert made().x == 1 and made.__module__ == "some_module_of_a_test"
    sys.modules.pop("some_module_of_a_test")
