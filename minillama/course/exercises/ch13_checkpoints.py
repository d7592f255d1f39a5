"""Exercises of chapter 13: a file's header, its numbers, bfloat16, 4 bits, names, sizes, rows, turns, two runs."""

import array
import io
import json
import math
import re
import struct
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillama import templates
from minillama.checkpoints import gguf, huggingface
from minillama.checkpoints.opened import tensor_shapes, their_names
from minillama.config import Config
from minillama.course.checks import holds, integers, permutation, pick, rand, randn, refuses, same
from minillama.course.exercise import Exercise
from minillama.position import half_to_interleaved, interleaved_to_half

NUMBERS = {torch.float32: "F32", torch.float16: "F16"}


def _file(tensors: dict[str, Tensor], metadata: dict | None = None, fill: int = 0, claim: int = 0) -> bytes:
    """A safetensors file. fill: spaces behind the header; claim: bytes that its length has too many."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": NUMBERS[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode() + b" " * fill
    return struct.pack("<Q", len(text) + claim) + text + data


# 13.1 read_header ---------------------------------------------------------------------------------------------------


def read_header(data: bytes) -> dict[str, tuple[str, list[int], int, int]]:
    """Read the header of a safetensors file. -> {name: (dtype, shape, begin, end)}

    data: the whole file. Its first 8 bytes are a whole number n, little-endian; the next n bytes are the header, JSON
    text. begin and end as the header has them: counted from the first byte behind it. `__metadata__` is left out.
    Errors: ValueError if there are fewer than 8 bytes, or fewer than n behind them.
    """
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n > len(data) - 8:
        raise ValueError(f"{len(data)} bytes, expected 8 and a header of {n:,}; the file is cut off")
    entries = json.loads(data[8 : 8 + n])
    entries.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], *entry["data_offsets"]) for name, entry in entries.items()}


header = Exercise(
    "13.1",
    read_header,
    hints=(
        "Three steps: the number n from the first 8 bytes; is there as much as it says?; then `json.loads` on the n "
        "bytes from byte 8 on.",
        '`int.from_bytes(data[:8], "little")` is n. Behind the first 8 bytes there are `len(data) - 8`. '
        '`entries.pop("__metadata__", None)` takes an entry out, if there is one.',
        'For each name and entry: `entry["dtype"]`, `entry["shape"]`, and the two numbers of '
        '`entry["data_offsets"]`. `(a, b, *two)` is a tuple of four.',
    ),
)


def _entries(tensors: dict[str, Tensor]) -> dict[str, tuple]:
    entries, at = {}, 0
    for name, tensor in tensors.items():
        n = tensor.numel() * tensor.element_size()
        entries[name] = NUMBERS[tensor.dtype], list(tensor.shape), at, at + n
        at += n
    return entries


@header.check("the file of the text: a (2, 2) tensor and three numbers")
def header_of_the_text(read_header):
    tensors = {"table": torch.tensor([[1.0, 2.0], [-0.5, 0.0]]), "norm": torch.ones(3)}
    same(read_header(_file(tensors)), _entries(tensors))


@header.check("a file with notes in it, and spaces at the end of its header")
def header_with_notes(read_header):
    tensors = {"b": randn(3, 2), "a": randn(int(integers(2, 9))).half(), "c": randn(2, 3, 2)}
    notes = {"format": "pt", "note": "{[,]}"}
    same(read_header(_file(tensors, notes, fill=int(integers(1, 7)))), _entries(tensors))


@header.check("a header of more than 255 bytes, so that its length needs a second byte")
def header_long(read_header):
    tensors = {f"layers.{i}.norm.weight": randn(2) for i in range(int(integers(20, 30)))}
    same(read_header(_file(tensors)), _entries(tensors))


@header.check("a file whose tensors hold nothing: the header is all there is")
def header_only(read_header):
    tensors = {"empty": torch.zeros(0, 3)}
    same(read_header(_file(tensors)), _entries(tensors))


@header.check("a length that goes 3 bytes past the end of the file: refused")
def header_cut_off(read_header):
    file = _file({"empty": torch.zeros(0, 3)}, claim=3)
    refuses(read_header, file)


@header.check("a length of 4 GB and a bit, whose first bytes look harmless: refused")
def header_huge(read_header):
    refuses(read_header, _file({"empty": torch.zeros(0, int(integers(2, 9)))}, claim=2**32))


@header.check("a file of 5 bytes: refused")
def header_five_bytes(read_header):
    refuses(read_header, b"\x02\x00\x00{}")


def _listed(entries: dict) -> dict[str, tuple]:
    entries.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], *entry["data_offsets"]) for name, entry in entries.items()}


def _checked(data: bytes, n: int) -> int:
    if len(data) < 8 or n > len(data) - 8:
        raise ValueError("too short")
    return n


@header.mistake("""You took the header's length on trust. The file may be cut off, or lie: compare n with the number of
    bytes that are there, `len(data) - 8`, and raise ValueError. A program that first makes room for what a stranger's
    file claims can be stopped with eight bytes.""")
def length_believed(data):
    n = int.from_bytes(data[:8], "little")
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You compared n with the size of the whole file. The header begins at byte 8, so only `len(data) - 8`
    bytes can belong to it. A header that is up to 8 bytes too long got through.""")
def whole_size_compared(data):
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n > len(data):
        raise ValueError("too short")
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You refuse a header that fills the file to the last byte. Tensors may be empty, and then nothing
    follows it: refuse only if n is larger than `len(data) - 8`.""")
def full_file_refused(data):
    n = int.from_bytes(data[:8], "little")
    if len(data) < 8 or n >= len(data) - 8:
        raise ValueError("too short")
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You read the length from the last byte to the first (big-endian). In this format the small end comes
    first: `int.from_bytes(data[:8], "little")`. Read the other way round, 24 is 1,729,382,256,910,270,464.""")
def big_end_first(data):
    n = int.from_bytes(data[:8], "big")
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You read only 4 of the 8 bytes of the length. As long as headers are small, the other four are 0 and
    nobody sees it; in a file that lies they are not.""")
def four_bytes(data):
    n = _checked(data, int.from_bytes(data[:4], "little"))
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You read only the first byte of the length. It counts up to 255; the header of SmolLM2 would have
    30,000 bytes.""")
def one_byte(data):
    n = _checked(data, data[0])
    return _listed(json.loads(data[8 : 8 + n]))


@header.mistake("""You looked for the header at byte 0, or at byte 4. The first 8 bytes are its length: it begins at
    byte 8.""")
def from_byte_four(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    return _listed(json.loads(data[4 : 4 + n]))


@header.mistake("""You ended the slice at n. The header begins at byte 8 and has n bytes, so it ends before byte 8 + n:
    `data[8 : 8 + n]`. As it is, its last 8 bytes are missing.""")
def ends_at_n(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    return _listed(json.loads(data[8:n]))


@header.mistake("""You left `__metadata__` among the tensors. It holds notes, such as who wrote the file, and has no
    dtype and no place: take it out first.""")
def notes_as_a_tensor(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    return {name: (e["dtype"], e["shape"], *e["data_offsets"]) for name, e in json.loads(data[8 : 8 + n]).items()}


@header.mistake("""You counted begin and end from the start of the file. Give them as the header has them, from the
    first byte behind it; whoever reads the numbers adds 8 + n then, once.""")
def from_the_start_of_the_file(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    entries = _listed(json.loads(data[8 : 8 + n]))
    return {name: (dtype, shape, 8 + n + b, 8 + n + e) for name, (dtype, shape, b, e) in entries.items()}


@header.mistake("""You gave the number of bytes in place of the end. `data_offsets` holds where a tensor begins and
    where it ends: hand both on as they are.""")
def length_for_end(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    entries = _listed(json.loads(data[8 : 8 + n]))
    return {name: (dtype, shape, b, e - b) for name, (dtype, shape, b, e) in entries.items()}


@header.mistake("""You put begin and end into a list of their own. Four things are asked for, side by side: dtype,
    shape, begin, end. `*entry["data_offsets"]` puts in two.""")
def three_things(data):
    n = _checked(data, int.from_bytes(data[:8], "little"))
    entries = json.loads(data[8 : 8 + n])
    entries.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], e["data_offsets"]) for name, e in entries.items()}


@header.alternative("struct, and a file that is read in order")
def header_with_struct(data):
    file = io.BytesIO(data)
    start = file.read(8)
    if len(start) != 8:
        raise ValueError("no safetensors file")
    (n,) = struct.unpack("<Q", start)
    text = file.read(min(n, len(data)))
    if len(text) != n:
        raise ValueError("cut off")
    found = {}
    for name, entry in json.loads(text.decode("utf-8")).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            found[name] = (entry["dtype"], entry["shape"], begin, end)
    return found


@header.alternative("the length byte by byte, each worth 256 times the one before")
def header_byte_by_byte(data):
    if len(data) < 8:
        raise ValueError("8 bytes at least")
    n = sum(byte * 256**i for i, byte in enumerate(data[:8]))
    if 8 + n > len(data):
        raise ValueError("the header does not fit")
    entries = json.loads(bytes(data[8 + i] for i in range(n)))
    names = [name for name in entries if name != "__metadata__"]
    return {
        name: tuple([entries[name]["dtype"], entries[name]["shape"]] + entries[name]["data_offsets"]) for name in names
    }


# 13.2 read_tensor ---------------------------------------------------------------------------------------------------


def read_tensor(data: bytes, dtype: str, shape: list[int], begin: int, end: int) -> Tensor:
    """Take one tensor out of a safetensors file. -> a tensor of this shape, in the type that the file has it in

    data: the whole file. dtype, shape, begin, end: what read_header says of the tensor; begin and end are counted from
    the first byte behind the header. dtype is "F32" (4 bytes a number) or "F16" (2 bytes); numbers are little-endian,
    row after row.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    kind = {"F32": torch.float32, "F16": torch.float16}[dtype]
    return torch.frombuffer(bytearray(data[start + begin : start + end]), dtype=kind).view(shape)


tensor = Exercise(
    "13.2",
    read_tensor,
    hints=(
        "Where in the file is byte `begin`? Behind the 8 bytes of the length, and behind the header, whose length they "
        "give.",
        "`start = 8 + n`; the tensor's bytes are `data[start + begin : start + end]`. "
        "`torch.frombuffer(bytearray(...), dtype=torch.float32)` makes a row of numbers of them.",
        '`{"F32": torch.float32, "F16": torch.float16}[dtype]` is the type, and `.view(shape)` makes rows and columns '
        "of the row of numbers; the list [] makes a tensor without axes.",
    ),
)


def _with_place(tensors: dict[str, Tensor], name: str, **how) -> tuple:
    return _file(tensors, **how), *_entries(tensors)[name]


@tensor.check("the first tensor of the text's file: [[1, 2], [-0.5, 0]]")
def tensor_of_the_text(read_tensor):
    tensors = {"table": torch.tensor([[1.0, 2.0], [-0.5, 0.0]]), "norm": torch.ones(3)}
    same(read_tensor(*_with_place(tensors, "table")), tensors["table"])


@tensor.check("one in the middle of a file, more columns than rows")
def tensor_in_the_middle(read_tensor):
    tensors = {"a": randn(5), "b": randn(2, 3, 4), "c": randn(7)}
    same(read_tensor(*_with_place(tensors, "b", metadata={"format": "pt"}, fill=3)), tensors["b"])


@tensor.check("float16, in a file that holds float32 too")
def tensor_half(read_tensor):
    tensors = {"a": randn(3, 2), "b": randn(4, 3).half(), "c": randn(2, 2)}
    same(read_tensor(*_with_place(tensors, "b")), tensors["b"])


@tensor.check("the last one, of one row")
def tensor_last(read_tensor):
    tensors = {"a": randn(2, 2), "b": randn(6)}
    same(read_tensor(*_with_place(tensors, "b", fill=1)), tensors["b"])


@tensor.check("a single number, whose shape is []")
def tensor_without_axes(read_tensor):
    tensors = {"a": randn(3), "scale": randn(1)[0], "b": randn(3)}
    same(read_tensor(*_with_place(tensors, "scale")), tensors["scale"])


TYPES = {"F32": torch.float32, "F16": torch.float16}


def _numbers(data: bytes, dtype: str) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=TYPES[dtype])


@tensor.mistake("""You counted begin from the start of the file. It counts from the first byte behind the header: add 8
    (the length) and n (the header). What you read as numbers was the header's text.""")
def from_byte_zero(data, dtype, shape, begin, end):
    return _numbers(data[begin:end], dtype).view(shape)


@tensor.mistake("""You skipped the header but not the 8 bytes before it, which hold its length. All numbers come from 8
    bytes too early.""")
def eight_too_early(data, dtype, shape, begin, end):
    n = int.from_bytes(data[:8], "little")
    return _numbers(data[n + begin : n + end], dtype).view(shape)


@tensor.mistake(
    """You skipped the 8 bytes of the length, but not the header itself: add n, which those 8 bytes give."""
)
def header_not_skipped(data, dtype, shape, begin, end):
    return _numbers(data[8 + begin : 8 + end], dtype).view(shape)


@tensor.mistake("""You read each number from its last byte to its first (big-endian). The small end comes first. Read
    backwards, 1.0 is 4.6e-41: such tiny and huge numbers are the sign of it.""")
def numbers_backwards(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    size = {"F32": 4, "F16": 2}[dtype]
    raw = data[start + begin : start + end]
    turned = b"".join(raw[i : i + size][::-1] for i in range(0, len(raw), size))
    return _numbers(turned, dtype).view(shape)


@tensor.mistake("""You ignored begin, and read from the first byte behind the header on. That is the first tensor's
    place.""")
def always_the_first(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    return _numbers(data[start : start + end - begin], dtype).view(shape)


@tensor.mistake("""You read everything as float32. The dtype says how many bytes a number takes and what they mean: F16
    is torch.float16, 2 bytes.""")
def all_float32(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    return _numbers(data[start + begin : start + end], "F32").view(shape)


@tensor.mistake("""You turned float16 into float32. The values are right, but a model opened like this takes twice the
    memory: give the type that the file has.""")
def widened(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    return _numbers(data[start + begin : start + end], dtype).view(shape).float()


@tensor.mistake("""You gave the numbers in one long row. `.view(shape)` makes rows and columns of them.""")
def in_one_row(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    return _numbers(data[start + begin : start + end], dtype)


@tensor.mistake("""You filled the tensor column by column. The file has it row by row: the last axis runs fastest,
    which is what `.view(shape)` expects.""")
def column_by_column(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    flat = _numbers(data[start + begin : start + end], dtype).view(shape[::-1])
    return flat.permute(*range(flat.ndim)[::-1])


@tensor.mistake("""You read on to the end of the file. The tensor ends at byte `end`; what comes then belongs to the
    next one.""")
def to_the_end(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    return _numbers(data[start + begin :], dtype).view(shape)


@tensor.mistake("""You counted the end from where the tensor begins. Like begin, it counts from the first byte behind
    the header: the tensor's bytes are start + begin to start + end.""")
def end_from_begin(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little") + begin
    return _numbers(data[start : start + end], dtype).view(shape)


@tensor.alternative("number by number, with struct")
def tensor_with_struct(data, dtype, shape, begin, end):
    (n,) = struct.unpack_from("<Q", data)
    letter = {"F32": "f", "F16": "e"}[dtype]
    count = math.prod(shape)
    numbers = struct.unpack_from(f"<{count}{letter}", data, 8 + n + begin)
    return torch.tensor(numbers, dtype={"f": torch.float32, "e": torch.float16}[letter]).reshape(shape)


@tensor.alternative("numpy, with the byte order said")
def tensor_with_numpy(data, dtype, shape, begin, end):
    offset = 8 + int.from_bytes(data[:8], "little") + begin
    numbers = np.frombuffer(data, np.dtype("<f4" if dtype == "F32" else "<f2"), math.prod(shape), offset)
    return torch.from_numpy(numbers.reshape(shape).copy())


@tensor.alternative("the last axis first, slice by slice")
def tensor_nested(data, dtype, shape, begin, end):
    start = 8 + int.from_bytes(data[:8], "little")
    raw = data[start + begin : start + end]
    size = 4 if dtype == "F32" else 2
    pieces = [torch.frombuffer(bytearray(raw[i : i + size]), dtype=TYPES[dtype])[0] for i in range(0, len(raw), size)]
    for length in reversed(shape):
        pieces = [torch.stack(pieces[i : i + length]) for i in range(0, len(pieces), length)]
    return pieces[0]


# 13.3 bfloat16_to_float32 -------------------------------------------------------------------------------------------


def bfloat16_to_float32(data: bytes) -> Tensor:
    """Turn bfloat16 numbers, 2 bytes each, little-endian, into float32. 2 * N bytes -> (N,)

    The two bytes of a bfloat16 are the two upper ones of the float32 of the same value; the two lower ones are 0.
    """
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return torch.frombuffer(wide, dtype=torch.float32)


bfloat16 = Exercise(
    "13.3",
    bfloat16_to_float32,
    hints=(
        "Each number grows from 2 bytes to 4. Little-endian means that the *lower* bytes stand in front: that is where "
        "the two zeros belong.",
        "The bytes of one number: `bytes([0, 0, low, high])`. `bytearray(2 * len(data))` is all zeros, and slices with "
        "steps, such as `wide[3::4] = ...`, fill in every fourth byte.",
        "`wide[3::4]` are the uppermost bytes of all numbers, and `data[1::2]` is what belongs there; `wide[2::4]` and "
        "`data[0::2]` are the other pair. Then `torch.frombuffer(wide, dtype=torch.float32)`.",
    ),
)


def _bfloat16_bytes(x: Tensor) -> bytes:
    return x.bfloat16().view(torch.int16).numpy().tobytes()


def _check_bfloat16(bfloat16_to_float32, x: Tensor):
    same(bfloat16_to_float32(_bfloat16_bytes(x)), x.bfloat16().float(), atol=0.0, rtol=1e-6)


@bfloat16.check("1, -2 and 0.15625, which can be done by hand")
def bfloat16_by_hand(bfloat16_to_float32):
    same(bfloat16_to_float32(bytes([0x80, 0x3F, 0x00, 0xC0, 0x20, 0x3E])), torch.tensor([1.0, -2.0, 0.15625]), atol=0.0)


@bfloat16.check("numbers of usual size, of both signs")
def bfloat16_usual(bfloat16_to_float32):
    _check_bfloat16(bfloat16_to_float32, randn(int(integers(5, 12))))


@bfloat16.check("very large and very small ones, which float16 could not hold")
def bfloat16_range(bfloat16_to_float32):
    _check_bfloat16(bfloat16_to_float32, torch.cat([1e30 * randn(3), 1e-30 * randn(3), torch.tensor([7e4, -3e-6])]))


@bfloat16.check("zero among others")
def bfloat16_zero(bfloat16_to_float32):
    x = randn(5)
    x[int(integers(0, 5))] = 0
    _check_bfloat16(bfloat16_to_float32, x)


@bfloat16.check("a single number")
def bfloat16_single(bfloat16_to_float32):
    _check_bfloat16(bfloat16_to_float32, 10 * rand(1) + 1)


@bfloat16.mistake("""You put the two zeros behind the two bytes. Little-endian numbers begin with their lowest byte, and
    the lowest ones are those that bfloat16 has cut off: the zeros go in front. As it is, sign and exponent are 0, and
    all numbers come out at about 1e-40.""")
def zeros_behind(data):
    wide = bytearray(2 * len(data))
    wide[0::4], wide[1::4] = data[0::2], data[1::2]
    return torch.frombuffer(wide, dtype=torch.float32)


@bfloat16.mistake("""You exchanged the two bytes of each number. The second byte of each pair is the upper one; it has
    the sign and most of the exponent, and belongs at the very end of the four.""")
def pairs_exchanged(data):
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[1::2], data[0::2]
    return torch.frombuffer(wide, dtype=torch.float32)


@bfloat16.mistake("""You read the bytes as float16. That is the other type with two bytes: 5 bits for the exponent and
    10 behind the point, where bfloat16 has 8 and 7. 1.0 would be 1.875.""")
def as_float16(data):
    return torch.frombuffer(bytearray(data), dtype=torch.float16).float()


@bfloat16.mistake("""You read the two bytes as a whole number. They are sign, exponent and what is behind the point, as
    in float32: put two zero bytes in front and let torch read four bytes as float32.""")
def as_whole_numbers(data):
    return torch.frombuffer(bytearray(data), dtype=torch.int16).float()


@bfloat16.mistake("""Your four bytes are in big-endian order, or were read in it. The small end comes first: two zeros,
    then the pair as it stands in the file, read with "<" (little-endian).""")
def read_from_the_other_end(data):
    pairs = [b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2)]
    return torch.tensor([struct.unpack(">f", four)[0] for four in pairs])


@bfloat16.mistake("""You put the zeros in front of the whole row. Each number gets two of its own, in front of its
    pair.""")
def zeros_in_front_of_all(data):
    return torch.frombuffer(bytearray(len(data)) + bytearray(data), dtype=torch.float32)


@bfloat16.mistake("""You moved the bits up, and then turned the whole number into a float. The bits are right; only
    their meaning has to change: `.view(torch.float32)`.""")
def shifted_and_converted(data):
    return (torch.frombuffer(bytearray(data), dtype=torch.int16).int() << 16).float()


@bfloat16.mistake("""You let torch read the bytes, and stopped at bfloat16. Asked for is float32.""")
def stays_bfloat16(data):
    return torch.frombuffer(bytearray(data), dtype=torch.bfloat16)


@bfloat16.mistake("""You treated neighbouring bytes as one float32: four bytes of the file are two numbers here. Half as
    many numbers came out.""")
def four_bytes_each(data):
    return torch.frombuffer(bytearray(data[: len(data) // 4 * 4] or bytes(4)), dtype=torch.float32)


def _by_parts(data: bytes, one: float = 1.0, bias: int = 127, signed: bool = True) -> Tensor:
    numbers = []
    for low, high in zip(data[0::2], data[1::2], strict=True):
        bits = 256 * high + low
        exponent, fraction = bits >> 7 & 255, bits & 127
        size = 2.0 ** (exponent - bias) * (one + fraction / 128) if exponent else 2.0**-126 * fraction / 128
        numbers.append(-size if signed and bits >> 15 else size)
    return torch.tensor(numbers)


@bfloat16.mistake("""You lost the sign, which is the uppermost bit: where it is 1, the number is negative.""")
def sign_lost(data):
    return _by_parts(data, signed=False)


@bfloat16.mistake("""You left out the 1 in front of the point. It is not stored, since it is always there: a number is
    (1 + fraction / 128) times a power of two.""")
def without_the_one(data):
    return _by_parts(data, one=0.0)


@bfloat16.mistake("""Your power of two is off by one: all numbers come out at half their size. The exponent is stored
    127 too high, as in float32, so that 127 means 2 to the power 0.""")
def half_of_it(data):
    return _by_parts(data, bias=128)


@bfloat16.alternative("torch's own bfloat16")
def bfloat16_borrowed(data):
    return torch.frombuffer(bytearray(data), dtype=torch.bfloat16).to(torch.float32)


@bfloat16.alternative("sixteen zeros behind the bits, as a whole number")
def bfloat16_shifted(data):
    codes = array.array("H", data)
    return torch.tensor([struct.unpack("<f", struct.pack("<I", code << 16))[0] for code in codes])


@bfloat16.alternative("sign, exponent and fraction, by hand")
def bfloat16_by_parts(data):
    return _by_parts(data)


# 13.4 unpack_q4_1 ---------------------------------------------------------------------------------------------------


def unpack_q4_1(block: bytes) -> Tensor:
    """The 32 numbers of one block of llama.cpp's Q4_1. 20 bytes -> (32,), float32

    Bytes 0 and 1: a scale, 2 and 3: a minimum, both float16, little-endian. Then 16 bytes with two codes from 0 to 15
    each: byte j has code j in its lower four bits and code j + 16 in its upper four. A number is
    code * scale + minimum.
    """
    scale, minimum = struct.unpack("<ee", block[:4])
    codes = [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
    return torch.tensor([code * scale + minimum for code in codes])


q4_1 = Exercise(
    "13.4",
    unpack_q4_1,
    hints=(
        "First the two numbers that all 32 share. Then all lower halves of the 16 bytes, in order, and after them all "
        "upper halves.",
        '`struct.unpack("<ee", block[:4])` gives two float16 numbers, little-endian. `byte & 15` is the lower half of '
        "a byte, `byte >> 4` the upper one.",
        "`[byte & 15 for byte in block[4:]]` are codes 0 to 15; make codes 16 to 31 in the same way, add the two "
        "lists, and give `torch.tensor([... for code in codes])`.",
    ),
)


def _block(codes: list[int], scale: float, minimum: float) -> bytes:
    packed = bytes(low + 16 * high for low, high in zip(codes[:16], codes[16:], strict=True))
    return struct.pack("<ee", scale, minimum) + packed


def _half(x: float) -> float:
    return struct.unpack("<e", struct.pack("<e", x))[0]


@q4_1.check("the block of the text: scale 0.5, minimum -4, codes 0 to 15 and back")
def q4_1_by_hand(unpack_q4_1):
    codes = [*range(16), *range(15, -1, -1)]
    same(unpack_q4_1(_block(codes, 0.5, -4.0)), torch.tensor([code / 2 - 4 for code in codes]))


@q4_1.check("a block of random codes")
def q4_1_random(unpack_q4_1):
    scale, minimum = _half(0.02 + 0.1 * float(rand(1))), _half(-0.3 - 0.5 * float(rand(1)))
    codes = integers(0, 16, 32).tolist()
    same(unpack_q4_1(_block(codes, scale, minimum)), torch.tensor([code * scale + minimum for code in codes]))


@q4_1.check("a minimum that is positive, and a small scale")
def q4_1_positive(unpack_q4_1):
    scale, minimum = _half(0.003 + 0.002 * float(rand(1))), _half(0.5 + float(rand(1)))
    codes = permutation(16) + permutation(16)
    same(unpack_q4_1(_block(codes, scale, minimum)), torch.tensor([code * scale + minimum for code in codes]))


@q4_1.check("codes that differ only in the second half of the block")
def q4_1_second_half(unpack_q4_1):
    codes = [3] * 16 + permutation(16)
    same(unpack_q4_1(_block(codes, 0.25, 0.0)), torch.tensor([code / 4 for code in codes]))


def _unpacked(block: bytes) -> tuple[float, float, list[int], list[int]]:
    scale, minimum = struct.unpack("<ee", block[:4])
    return scale, minimum, [byte & 15 for byte in block[4:]], [byte >> 4 for byte in block[4:]]


@q4_1.mistake("""You put the two halves of each byte side by side. Byte j holds number j and number j + 16: all lower
    halves come first, then all upper ones. Every number is right, and most stand in another place.""")
def halves_side_by_side(block):
    scale, minimum, low, high = _unpacked(block)
    codes = [code for pair in zip(low, high, strict=True) for code in pair]
    return torch.tensor([code * scale + minimum for code in codes])


@q4_1.mistake("""You put the two halves of each byte side by side, the upper one in front. Byte j holds number j, in its
    lower half, and number j + 16: all lower halves come first, then all upper ones.""")
def halves_as_they_are_read(block):
    scale, minimum, low, high = _unpacked(block)
    codes = [code for pair in zip(high, low, strict=True) for code in pair]
    return torch.tensor([code * scale + minimum for code in codes])


@q4_1.mistake("""You took the upper halves of the bytes first. The lower four bits are numbers 0 to 15.""")
def upper_halves_first(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in high + low])


@q4_1.mistake("""You exchanged scale and minimum. The scale comes first, then the minimum.""")
def minimum_first(block):
    minimum, scale, low, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in low + high])


@q4_1.mistake("""You left out the minimum. A number is code * scale + minimum; without it none can be negative, if the
    scale is positive.""")
def minimum_forgotten(block):
    scale, _, low, high = _unpacked(block)
    return torch.tensor([code * scale for code in low + high])


@q4_1.mistake("""You subtracted the minimum. It is a number like the others, often negative: add it.""")
def minimum_subtracted(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([code * scale - minimum for code in low + high])


@q4_1.mistake("""You added the minimum before you multiplied. The code times the scale, and then plus the minimum.""")
def minimum_inside(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([(code + minimum) * scale for code in low + high])


@q4_1.mistake("""You subtracted 8 from the codes. That is Q4_0, the older relative without a minimum. In Q4_1 the codes
    count up from the minimum.""")
def eight_subtracted(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([(code - 8) * scale + minimum for code in low + high])


@q4_1.mistake("""You did not move the upper half down. `byte & 240` leaves the four upper bits where they are, and
    their code is 16 times too large: `byte >> 4`.""")
def not_moved_down(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in low + [16 * code for code in high]])


@q4_1.mistake("""You took the whole byte for the lower code. `byte & 15` keeps its lower four bits; without it, the
    codes run up to 255.""")
def whole_bytes(block):
    scale, minimum, _, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in [*block[4:], *high]])


@q4_1.mistake("""You read scale and minimum as big-endian numbers. The lower byte comes first: "<ee", with "<".""")
def shared_backwards(block):
    scale, minimum = struct.unpack(">ee", block[:4])
    _, _, low, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in low + high])


@q4_1.mistake("""You read scale and minimum as bfloat16. In this format they are float16 ("e" in struct).""")
def shared_as_bfloat16(block):
    scale, minimum = torch.frombuffer(bytearray(block[:4]), dtype=torch.bfloat16).float().tolist()
    _, _, low, high = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in low + high])


@q4_1.mistake("""You took codes above 7 for negative ones. They run from 0 to 15, without a sign; what is below zero
    comes from the minimum.""")
def codes_with_a_sign(block):
    scale, minimum, low, high = _unpacked(block)
    return torch.tensor([(code - 16 if code > 7 else code) * scale + minimum for code in low + high])


@q4_1.mistake("""You unpacked the lower halves only: 16 numbers came out. Each byte holds two.""")
def one_number_per_byte(block):
    scale, minimum, low, _ = _unpacked(block)
    return torch.tensor([code * scale + minimum for code in low])


@q4_1.mistake("""You unpacked all 20 bytes as codes. The first four are the scale and the minimum: the codes begin with
    byte 4, `block[4:]`.""")
def shared_bytes_as_codes(block):
    scale, minimum = struct.unpack("<ee", block[:4])
    codes = [byte & 15 for byte in block] + [byte >> 4 for byte in block]
    return torch.tensor([code * scale + minimum for code in codes])


@q4_1.alternative("the package's, for many blocks at once")
def q4_1_of_the_package(block):
    return gguf.dequantize_q4_1(torch.tensor(list(block), dtype=torch.uint8)[None])[0]


@q4_1.alternative("division with remainder, number by number")
def q4_1_with_divmod(block):
    scale, minimum = (float(x) for x in np.frombuffer(block, "<f2", 2))
    numbers = torch.empty(32)
    for j in range(16):
        high, low = divmod(block[4 + j], 16)
        numbers[j], numbers[j + 16] = low * scale + minimum, high * scale + minimum
    return numbers


@q4_1.alternative("each byte written out in hexadecimal digits")
def q4_1_with_digits(block):
    scale, minimum = torch.frombuffer(bytearray(block[:4]), dtype=torch.float16).float()
    digits = block[4:].hex()
    codes = torch.tensor([int(digit, 16) for digit in digits[1::2] + digits[0::2]])
    return codes * scale + minimum


# 13.5 compare_names -------------------------------------------------------------------------------------------------


def compare_names(found: list[str], n_layers: int, tied: bool) -> tuple[list[str], list[str]]:
    """Compare the names of a file's tensors with those that a Llama needs, in Hugging Face's spelling.

    -> names that are missing, names that are unknown, each sorted. A tied model needs no lm_head.weight, and may have
    one. Names that end in rotary_emb.inv_freq are passed over: RoPE's table, which old files have.
    """
    inside = ["input_layernorm", "post_attention_layernorm"]
    inside += [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    needed = {f"model.layers.{i}.{part}.weight" for i in range(n_layers) for part in inside}
    needed |= {"model.embed_tokens.weight", "model.norm.weight"} | (set() if tied else {"lm_head.weight"})
    known = needed | {"lm_head.weight"}
    there = {name for name in found if not name.endswith("rotary_emb.inv_freq")}
    return sorted(needed - there), sorted(there - known)


names = Exercise(
    "13.5",
    compare_names,
    hints=(
        "Make the set of all names that are needed. Sets can be subtracted: needed minus found is what is missing, "
        "found minus known is what is unknown.",
        "Nine names for each layer, i from 0 on, and two or three outside. `lm_head.weight` is needed only if the "
        "model is not tied, and known in any case.",
        '`{f"model.layers.{i}.{part}.weight" for i in range(n_layers) for part in inside}`, where `inside` is the list '
        'of nine; `name.endswith("rotary_emb.inv_freq")`; `sorted(a - b)` is a sorted list.',
    ),
)

INSIDE = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def _needed(n_layers: int, tied: bool, first: int = 0, left_out: tuple[str, ...] = ()) -> list[str]:
    outer = ["model.embed_tokens", "model.norm"] + ["lm_head"] * (not tied)
    inner = [f"model.layers.{i}.{part}" for i in range(first, first + n_layers) for part in INSIDE]
    return [f"{name}.weight" for name in outer + inner if not name.endswith(left_out or "nothing")]


def _shuffled(items: list[str]) -> list[str]:
    return [items[i] for i in permutation(len(items))]


@names.check("a file that has all it needs, and no more")
def names_complete(compare_names):
    same(compare_names(_shuffled(_needed(2, tied=False)), 2, False), ([], []))


@names.check("a tied model without an output layer: complete")
def names_tied(compare_names):
    same(compare_names(_shuffled(_needed(2, tied=True)), 2, True), ([], []))


@names.check("a tied model whose file has the output layer all the same: complete")
def names_tied_twice(compare_names):
    same(compare_names(_shuffled(_needed(3, tied=False)), 3, True), ([], []))


@names.check("two matrices, and no output layer: it is missing")
def names_no_head(compare_names):
    same(compare_names(_shuffled(_needed(2, tied=True)), 2, False), (["lm_head.weight"], []))


@names.check("an old file, with RoPE's tables")
def names_old(compare_names):
    tables = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    same(compare_names(_shuffled(_needed(2, tied=False) + tables), 2, False), ([], []))


@names.check("some names are missing, and others are too many")
def names_both(compare_names):
    all_of_them = _shuffled(_needed(2, tied=False))
    left_out, strange = all_of_them[:3], ["model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.router.weight"]
    same(compare_names(_shuffled(all_of_them[3:] + strange), 2, False), (sorted(left_out), strange))


@names.check("a file with one layer more than the config says")
def names_one_more(compare_names):
    too_many = [f"model.layers.2.{part}.weight" for part in INSIDE]
    same(compare_names(_shuffled(_needed(3, tied=False)), 2, False), ([], sorted(too_many)))


def _compared(found, needed, known=()):
    there = {name for name in found if not name.endswith("rotary_emb.inv_freq")}
    return sorted(set(needed) - there), sorted(there - set(needed) - set(known))


@names.mistake("""You ask for lm_head.weight in any case. A tied model has none in its file: its output layer *is* the
    embedding. Half of all small models would be refused.""")
def head_always_needed(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied=False))


@names.mistake("""You never ask for lm_head.weight. If the model is not tied, it can't do without, and a program that
    goes on leaves random numbers in its place.""")
def head_never_needed(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied=True), ["lm_head.weight"])


@names.mistake("""You call lm_head.weight unknown in a tied model. Some files hold the same matrix twice; it is not
    needed, but it is known.""")
def second_head_unknown(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied))


@names.mistake("""You ask for lm_head.weight if the model is tied. It is the other way round: tied means that the
    embedding is used a second time, and that a file can do without.""")
def head_needed_if_tied(found, n_layers, tied):
    return _compared(found, _needed(n_layers, not tied), ["lm_head.weight"])


@names.mistake("""You forgot lm_head.weight: it is needed if the model is not tied, and known in any case.""")
def head_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied=True))


@names.mistake("""You wrote model.lm_head.weight. The head has no `model.` in front; embedding, layers and norm
    have.""")
def head_inside_the_model(found, n_layers, tied):
    needed = [name.replace("lm_head", "model.lm_head") for name in _needed(n_layers, tied)]
    return _compared(found, needed, ["model.lm_head.weight"])


@names.mistake("""You counted the layers from 1. The first one is model.layers.0.""")
def layers_from_one(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, first=1), ["lm_head.weight"])


@names.mistake("""You forgot the two norms of each layer: input_layernorm stands before the attention,
    post_attention_layernorm before the feed-forward.""")
def norms_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("layernorm",)), ["lm_head.weight"])


@names.mistake("""You forgot the second norm of each layer, post_attention_layernorm, which stands before the
    feed-forward.""")
def second_norm_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("post_attention_layernorm",)), ["lm_head.weight"])


@names.mistake("""You forgot the norm at the end of the model, model.norm.weight.""")
def last_norm_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("model.norm",)), ["lm_head.weight"])


@names.mistake("""You forgot the embedding, model.embed_tokens.weight.""")
def embedding_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("embed_tokens",)), ["lm_head.weight"])


@names.mistake("""You forgot o_proj, the last matrix of each attention.""")
def output_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("o_proj",)), ["lm_head.weight"])


@names.mistake("""You forgot gate_proj. The feed-forward of a LLaMA has three matrices: gate, up and down.""")
def gate_forgotten(found, n_layers, tied):
    return _compared(found, _needed(n_layers, tied, left_out=("gate_proj",)), ["lm_head.weight"])


@names.mistake("""You call RoPE's tables unknown. Old files hold them; they are computed anyway and no part of what was
    learned: pass over names that end in rotary_emb.inv_freq.""")
def tables_unknown(found, n_layers, tied):
    needed = set(_needed(n_layers, tied))
    return sorted(needed - set(found)), sorted(set(found) - needed - {"lm_head.weight"})


@names.mistake("""You gave the two lists the other way round: first what is missing, then what is unknown.""")
def other_way_round(found, n_layers, tied):
    missing, unknown = compare_names(found, n_layers, tied)
    return unknown, missing


@names.mistake("""You list only what is missing. What the file has too many is as telling: a q_norm means that this is
    another kind of model.""")
def nothing_unknown(found, n_layers, tied):
    return compare_names(found, n_layers, tied)[0], []


@names.mistake("""You list only what is unknown. What is missing would be left random.""")
def nothing_missing(found, n_layers, tied):
    return [], compare_names(found, n_layers, tied)[1]


@names.mistake("""You left out the `.weight` at the end of the names. Each tensor's name ends with it.""")
def no_weight_at_the_end(found, n_layers, tied):
    needed = [name.removesuffix(".weight") for name in _needed(n_layers, tied)]
    return _compared(found, needed, ["lm_head"])


@names.alternative("lists, one name at a time")
def names_in_lists(found, n_layers, tied):
    needed = ["model.embed_tokens.weight", "model.norm.weight"]
    for i in range(n_layers):
        for part in INSIDE:
            needed.append(f"model.layers.{i}.{part}.weight")
    if not tied:
        needed.append("lm_head.weight")
    missing = [name for name in needed if name not in found]
    unknown = [
        name for name in found
        if name not in needed and name != "lm_head.weight" and not name.endswith("rotary_emb.inv_freq")
    ]  # fmt: skip
    return sorted(missing), sorted(unknown)


@names.alternative("from the package's own list of tensors")
def names_from_the_package(found, n_layers, tied):
    config = Config(vocab_size=5, d_model=4, n_layers=n_layers, n_heads=2, d_ff=3, tied=tied)
    theirs = their_names(n_layers, "huggingface")
    needed = {theirs[name.removesuffix(".weight")] + ".weight" for name in tensor_shapes(config)}
    there = set(found) - {name for name in found if name.endswith("inv_freq")}
    return sorted(needed - there), sorted(there - needed - {"lm_head.weight"})


@names.alternative("a pattern for what is known, and a count of what was seen")
def names_by_pattern(found, n_layers, tied):
    inner = "|".join(map(re.escape, INSIDE))
    pattern = re.compile(rf"model\.(embed_tokens|norm|layers\.(\d+)\.({inner}))\.weight|lm_head\.weight")
    unknown, seen = [], set()
    for name in found:
        match = pattern.fullmatch(name)
        if match and (match[2] is None or int(match[2]) < n_layers):
            seen.add(name)
        elif not name.endswith("rotary_emb.inv_freq"):
            unknown.append(name)
    return sorted(name for name in _needed(n_layers, tied) if name not in seen), sorted(unknown)


# 13.6 read_sizes ----------------------------------------------------------------------------------------------------


def read_sizes(fields: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a Llama, from the content of its config.json. -> under the names of this course

    Keys: d_model, n_layers, n_heads, n_kv_heads, head_dim, norm_eps, rope_base, tied. What is missing or None has
    Hugging Face's default: as many key/value heads as query heads, head_dim d_model // n_heads, norm_eps 1e-6,
    rope_base 10000.0, not tied. RoPE's settings are in rope_parameters, or, in older files, in rope_theta and
    rope_scaling.
    Errors: ValueError if rope_type (in older files: type) is there and is not "default".
    """
    settings = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind != "default":
        raise ValueError(f"RoPE of type {kind!r}, expected default")
    heads = fields["num_attention_heads"]
    return {
        "d_model": fields["hidden_size"],
        "n_layers": fields["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": fields.get("num_key_value_heads") or heads,
        "head_dim": fields.get("head_dim") or fields["hidden_size"] // heads,
        "norm_eps": fields.get("rms_norm_eps") or 1e-6,
        "rope_base": settings.get("rope_theta") or fields.get("rope_theta") or 10000.0,
        "tied": bool(fields.get("tie_word_embeddings")),
    }


sizes = Exercise(
    "13.6",
    read_sizes,
    hints=(
        "Begin with RoPE: one dict of settings, wherever it is, or an empty one. Is there a type in it that you can't "
        "do? Then the rest, field by field.",
        '`a or b` is b if a is missing (None), so `fields.get("head_dim") or ...` covers a missing field and null. '
        '`fields.get("rope_parameters") or fields.get("rope_scaling") or {}` is the dict of settings.',
        'The base: `settings.get("rope_theta") or fields.get("rope_theta") or 10000.0`. The type: rope_type, or '
        'type, or "default". `bool(None)` is False.',
    ),
)

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 128}
EXPECTED = {
    "d_model": 48, "n_layers": 3, "n_heads": 6, "n_kv_heads": 6, "head_dim": 8, "norm_eps": 1e-6, "rope_base": 10000.0,
    "tied": False,
}  # fmt: skip


def _number(low: float, high: float) -> float:
    return low + (high - low) * round(float(rand(1)), 3)


@sizes.check("SmolLM2's own, as version 4 of Transformers wrote it")
def sizes_of_smollm2(read_sizes):
    fields = {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "rms_norm_eps": 1e-5, "rope_theta": 100000, "rope_scaling": None,
        "tie_word_embeddings": True, "vocab_size": 49152,
    }  # fmt: skip
    expected = {
        "d_model": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64, "norm_eps": 1e-5,
        "rope_base": 100000.0, "tied": True,
    }  # fmt: skip
    same(_floats(read_sizes(fields)), expected, atol=1e-12)


def _floats(found):
    """The two that are floats, whatever kind of number a file had."""
    if not isinstance(found, dict):
        return found
    return {key: float(x) if key in ("norm_eps", "rope_base") and type(x) is int else x for key, x in found.items()}


@sizes.check("an old file, with nothing in it but the sizes: all the defaults")
def sizes_defaults(read_sizes):
    same(_floats(read_sizes({**SIZES})), EXPECTED, atol=1e-12)


@sizes.check("version 5: the base is in rope_parameters")
def sizes_version_5(read_sizes):
    base, eps = _number(1e5, 9e5), _number(1e-5, 9e-5)
    fields = SIZES | {"rope_parameters": {"rope_theta": base, "rope_type": "default"}, "rms_norm_eps": eps,
                      "num_key_value_heads": 2, "tie_word_embeddings": False}  # fmt: skip
    same(_floats(read_sizes(fields)), EXPECTED | {"rope_base": base, "norm_eps": eps, "n_kv_heads": 2}, atol=1e-12)


@sizes.check("heads whose width is given, and is not d_model / n_heads")
def sizes_head_dim(read_sizes):
    fields = SIZES | {"head_dim": pick([10, 12, 16]), "num_key_value_heads": 3, "rope_theta": _number(2e4, 9e4)}
    expected = EXPECTED | {"head_dim": fields["head_dim"], "n_kv_heads": 3, "rope_base": fields["rope_theta"]}
    same(_floats(read_sizes(fields)), expected, atol=1e-12)


@sizes.check("fields that are there and hold null")
def sizes_null(read_sizes):
    names = ("head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
             "tie_word_embeddings")  # fmt: skip
    same(_floats(read_sizes(SIZES | dict.fromkeys(names))), EXPECTED, atol=1e-12)


@sizes.check("a whole number for head_dim")
def sizes_whole(read_sizes):
    heads = int(integers(2, 9))
    found = read_sizes(SIZES | {"num_attention_heads": heads, "hidden_size": 16 * heads})["head_dim"]
    holds(type(found) is int, "head_dim should have been a whole number, such as 16, and not 16.0", given=found)
    same(found, 16)


@sizes.check("scaled RoPE, as version 5 spells it: refused")
def sizes_scaled(read_sizes):
    settings = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0}
    refuses(read_sizes, SIZES | {"rope_parameters": settings})


@sizes.check("scaled RoPE, as older files spell it: refused")
def sizes_scaled_old(read_sizes):
    refuses(read_sizes, SIZES | {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}})


@sizes.check("scaled RoPE, as files in between spell it: refused")
def sizes_scaled_between(read_sizes):
    settings = {"rope_type": "llama3", "factor": 32.0}
    refuses(read_sizes, SIZES | {"rope_theta": 500000.0, "rope_scaling": settings})


def _sizes(fields, **other) -> dict[str, Any]:
    return read_sizes(fields) | other


@sizes.mistake("""You looked for the base in rope_theta only. Version 5 of Transformers writes it into rope_parameters,
    and your model then runs with 10000. In short texts nobody notices.""")
def base_of_version_4(fields):
    return _sizes(fields, rope_base=fields.get("rope_theta") or 10000.0)


@sizes.mistake("""You looked for the base in rope_parameters only. Until version 4, Transformers wrote it as rope_theta
    beside the other fields, and most files are that old.""")
def base_of_version_5(fields):
    return _sizes(fields, rope_base=(fields.get("rope_parameters") or {}).get("rope_theta") or 10000.0)


@sizes.mistake("""You computed head_dim as d_model // n_heads, always. Some models give it: Mistral Nemo has 32 heads of
    128, and a d_model of 5120.""")
def head_dim_computed(fields):
    return _sizes(fields, head_dim=fields["hidden_size"] // fields["num_attention_heads"])


@sizes.mistake("""You divided with `/`, which gives 8.0. A number of rows has to be whole: `//`.""")
def head_dim_with_a_point(fields):
    return _sizes(fields, head_dim=fields.get("head_dim") or fields["hidden_size"] / fields["num_attention_heads"])


@sizes.mistake("""You divided d_model by the number of key/value heads. head_dim is d_model // n_heads, by the query
    heads.""")
def head_dim_of_the_keys(fields):
    found = read_sizes(fields)
    return found | {"head_dim": fields.get("head_dim") or fields["hidden_size"] // found["n_kv_heads"]}


@sizes.mistake("""You gave as many key/value heads as query heads, always. Where num_key_value_heads is there, it
    counts.""")
def all_heads_alike(fields):
    return _sizes(fields, n_kv_heads=fields["num_attention_heads"])


@sizes.mistake("""Your default for key/value heads is 1. A file that does not name them comes from a time before they
    could be fewer: as many as query heads.""")
def one_kv_head(fields):
    return _sizes(fields, n_kv_heads=fields.get("num_key_value_heads") or 1)


@sizes.mistake("""Your default for norm_eps is 1e-5. Hugging Face's is 1e-6, LLaMA 1's; a file that leaves it out means
    that.""")
def other_eps(fields):
    return _sizes(fields, norm_eps=fields.get("rms_norm_eps") or 1e-5)


@sizes.mistake("""You ignored rms_norm_eps. Where it is given, it counts: LLaMA 1 has 1e-6, Llama 2 has 1e-5.""")
def eps_ignored(fields):
    return _sizes(fields, norm_eps=1e-6)


@sizes.mistake("""You took it for tied where the file says nothing. Llama's default is two matrices.""")
def tied_by_default(fields):
    tied = fields.get("tie_word_embeddings")
    return _sizes(fields, tied=True if tied is None else tied)


@sizes.mistake("""You never say that it is tied. tie_word_embeddings decides whether there is an output layer in the
    file at all.""")
def never_tied(fields):
    return _sizes(fields, tied=False)


@sizes.mistake("""You used `fields.get(name, default)`. That gives the default if the name is missing, and None if it is
    there and null, as many files have it: `fields.get(name) or default`.""")
def null_is_no_default(fields):
    found = read_sizes(fields)
    names = {"n_kv_heads": "num_key_value_heads", "head_dim": "head_dim", "norm_eps": "rms_norm_eps"}
    return found | {ours: fields.get(theirs, found[ours]) for ours, theirs in names.items()}


@sizes.mistake("""You used `fields.get(name, default)` everywhere. That gives the default if the name is missing, and
    None if it is there and null, as many files have it: `fields.get(name) or default`, and `bool(...)` for tied.""")
def null_is_no_default_anywhere(fields):
    found = read_sizes(fields)
    names = {"n_kv_heads": "num_key_value_heads", "head_dim": "head_dim", "norm_eps": "rms_norm_eps",
             "tied": "tie_word_embeddings"}  # fmt: skip
    settings = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    base = settings.get("rope_theta", fields.get("rope_theta", 10000.0))
    return found | {"rope_base": base} | {ours: fields.get(theirs, found[ours]) for ours, theirs in names.items()}


@sizes.mistake("""You ignored the type of RoPE. A model with another type turns its queries and keys by other angles;
    opened as if it were none, it fails where texts get long, without a word. Refuse what you can't do.""")
def scaling_ignored(fields):
    settings = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    plain = {key: value for key, value in fields.items() if key not in ("rope_parameters", "rope_scaling")}
    base = settings.get("rope_theta") or fields.get("rope_theta") or 10000.0
    return read_sizes(plain | {"rope_theta": base})


@sizes.mistake("""You looked only for rope_type. Older files call it type: a model with linear scaling got through.""")
def only_the_new_word(fields):
    settings = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    settings.pop("type", None)
    return read_sizes({**fields, "rope_parameters": settings})


@sizes.mistake("""You looked for a type in rope_parameters only. Older files have it in rope_scaling: a scaled model got
    through.""")
def only_the_new_place(fields):
    return read_sizes({key: value for key, value in fields.items() if key != "rope_scaling"})


@sizes.mistake("""You looked for a type in rope_scaling only. Version 5 of Transformers has it in rope_parameters: a
    scaled model got through.""")
def only_the_old_place(fields):
    plain = {"rope_type": "default", "type": "default"}
    settings = fields.get("rope_parameters")
    return read_sizes(fields | {"rope_parameters": settings | plain} if settings else fields)


@sizes.alternative("the package's reader, through its Config")
def sizes_of_the_package(fields):
    whole = {"model_type": "llama", "vocab_size": 100} | {k: v for k, v in fields.items() if v is not None}
    config, _ = huggingface.read_config(Path("config.json"), whole)
    if config.rope_scaling is not None:
        raise ValueError("scaled RoPE")
    return {name: getattr(config, name) for name in EXPECTED}


@sizes.alternative("defaults first, and what the file says over them")
def sizes_over_defaults(fields):
    there = {key: value for key, value in fields.items() if value is not None}
    settings = there.get("rope_scaling", {}) | there.get("rope_parameters", {})
    if not {settings.get("rope_type", "default"), settings.get("type", "default")} <= {"default"}:
        raise ValueError("not a plain RoPE")
    heads = there["num_attention_heads"]
    defaults = {"num_key_value_heads": heads, "head_dim": there["hidden_size"] // heads, "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0, "tie_word_embeddings": False}  # fmt: skip
    whole = defaults | there | {k: v for k, v in settings.items() if k == "rope_theta"}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "rms_norm_eps", "rope_theta", "tie_word_embeddings")  # fmt: skip
    return dict(zip(EXPECTED, (whole[name] for name in names), strict=True))


# 13.7 to_half_split -------------------------------------------------------------------------------------------------


def to_half_split(name: str, weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    """Bring one tensor of a GGUF file of a Llama into the order of this course.

    name: as in the file, such as "blk.3.attn_q.weight"; biases end in ".bias". The rows of attn_q and attn_k go, head
    by head, from interleaved to half-split, as interleaved_to_half does it; attn_q has n_heads heads, attn_k has
    n_kv_heads. All other tensors stay as they are.
    """
    heads = {"attn_q": n_heads, "attn_k": n_kv_heads}
    part = name.split(".")[-2]
    return interleaved_to_half(weight, heads[part]) if part in heads else weight


rows = Exercise(
    "13.7",
    to_half_split,
    hints=(
        "Which tensors are turned by RoPE? Queries and keys, and nothing else. How many heads does each of the two "
        "have?",
        '`name.split(".")` cuts the name at its points: the second from the end says what it is. '
        "`interleaved_to_half(weight, n)` moves rows and takes care of biases too.",
        'Three cases: "attn_q" with n_heads, "attn_k" with n_kv_heads, everything else unchanged.',
    ),
)

H, G, D = 6, 3, 8


def _oracle(weight: Tensor, n_heads: int) -> Tensor:
    order = [h * D + r for h in range(n_heads) for r in (0, 2, 4, 6, 1, 3, 5, 7)]
    return weight[order]


@rows.check("queries: 6 heads of 8 rows")
def rows_of_queries(to_half_split):
    weight = randn(H * D, 5)
    same(to_half_split(f"blk.{pick(range(9))}.attn_q.weight", weight, H, G), _oracle(weight, H))


@rows.check("keys: 3 heads of 8 rows")
def rows_of_keys(to_half_split):
    weight = randn(G * D, 5)
    same(to_half_split(f"blk.{pick(range(9))}.attn_k.weight", weight, H, G), _oracle(weight, G))


@rows.check("values and the attention's output, which are not turned")
def rows_of_values(to_half_split):
    for part, n_rows in (("attn_v", G * D), ("attn_output", 4 * D)):
        weight = randn(n_rows, H * D)
        same(to_half_split(f"blk.2.{part}.weight", weight, H, G), weight)


@rows.check("biases of queries and keys, which have rows and no columns")
def rows_of_biases(to_half_split):
    for part, n_heads in (("attn_q", H), ("attn_k", G)):
        bias = randn(n_heads * D)
        same(to_half_split(f"blk.0.{part}.bias", bias, H, G), _oracle(bias, n_heads))


@rows.check("embedding, norms and feed-forward")
def rows_of_others(to_half_split):
    for name, shape in (("token_embd.weight", (24, 5)), ("blk.1.attn_norm.weight", (48,)),
                        ("output_norm.weight", (48,)), ("blk.1.ffn_up.weight", (48, 6))):  # fmt: skip
        tensor = randn(*shape)
        same(to_half_split(name, tensor, H, G), tensor)


def _part(name: str) -> str:
    return name.split(".")[-2]


@rows.mistake("""You used the number of query heads for the keys. attn_k has n_kv_heads. In a model with as many of both
    nobody would notice; with fewer key/value heads, rows of half a head are moved as if they were a whole one.""")
def query_heads_for_keys(name, weight, n_heads, n_kv_heads):
    return interleaved_to_half(weight, n_heads) if _part(name) in ("attn_q", "attn_k") else weight


@rows.mistake("""You used the number of key/value heads for the queries. attn_q has n_heads.""")
def key_heads_for_queries(name, weight, n_heads, n_kv_heads):
    return interleaved_to_half(weight, n_kv_heads) if _part(name) in ("attn_q", "attn_k") else weight


@rows.mistake("""You exchanged the two numbers of heads: attn_q has n_heads, attn_k has n_kv_heads.""")
def heads_exchanged(name, weight, n_heads, n_kv_heads):
    heads = {"attn_q": n_kv_heads, "attn_k": n_heads}
    return interleaved_to_half(weight, heads[_part(name)]) if _part(name) in heads else weight


@rows.mistake("""You moved the values' rows too. RoPE turns queries and keys; values are handed over as they are, and
    o_proj reads them in that order.""")
def values_too(name, weight, n_heads, n_kv_heads):
    heads = {"attn_q": n_heads, "attn_k": n_kv_heads, "attn_v": n_kv_heads}
    return interleaved_to_half(weight, heads[_part(name)]) if _part(name) in heads else weight


@rows.mistake("""You moved the rows of everything that begins with attn_: attn_output and attn_norm are not turned by
    RoPE, nor are the values. Only attn_q and attn_k.""")
def all_of_attention(name, weight, n_heads, n_kv_heads):
    if "attn_" not in name:
        return weight
    return interleaved_to_half(weight, n_kv_heads if _part(name) in ("attn_k", "attn_v") else n_heads)


@rows.mistake("""You went in the wrong direction, from half-split to interleaved. The file is interleaved; the new order
    of a head's rows is 0, 2, 4, 6, 1, 3, 5, 7.""")
def wrong_direction(name, weight, n_heads, n_kv_heads):
    heads = {"attn_q": n_heads, "attn_k": n_kv_heads}
    return half_to_interleaved(weight, heads[_part(name)]) if _part(name) in heads else weight


@rows.mistake("""You moved the rows as if all heads were a single one. Each head's rows stay together.""")
def as_one_head(name, weight, n_heads, n_kv_heads):
    return interleaved_to_half(weight, 1) if _part(name) in ("attn_q", "attn_k") else weight


@rows.mistake("""You handed over how many rows a head has. `interleaved_to_half(weight, n)` asks for the number of
    heads.""")
def rows_for_heads(name, weight, n_heads, n_kv_heads):
    heads = {"attn_q": n_heads, "attn_k": n_kv_heads}
    return interleaved_to_half(weight, len(weight) // heads[_part(name)]) if _part(name) in heads else weight


@rows.mistake("""You left the keys as they are. Query and key have to be moved alike, or nothing fits any more.""")
def queries_only(name, weight, n_heads, n_kv_heads):
    return interleaved_to_half(weight, n_heads) if _part(name) == "attn_q" else weight


@rows.mistake("""You left the queries as they are. Query and key have to be moved alike, or nothing fits any more.""")
def keys_only(name, weight, n_heads, n_kv_heads):
    return interleaved_to_half(weight, n_kv_heads) if _part(name) == "attn_k" else weight


@rows.mistake("""You left the biases where they are. A bias is added to the row of its channel, so it moves along
    (Qwen2 has such biases).""")
def biases_stay(name, weight, n_heads, n_kv_heads):
    return to_half_split(name, weight, n_heads, n_kv_heads) if weight.ndim == 2 else weight


@rows.mistake("""You changed nothing: all shapes fit without it, and the model talks nonsense. (If you look for a name:
    in a GGUF file it is attn_q or attn_k, and `.weight` or `.bias` comes after it.)""")
def nothing_moved(name, weight, n_heads, n_kv_heads):
    return weight


@rows.alternative("even rows, then odd rows, head by head")
def rows_in_a_loop(name, weight, n_heads, n_kv_heads):
    if ".attn_q." not in name and ".attn_k." not in name:
        return weight
    heads = weight.chunk(n_heads if ".attn_q." in name else n_kv_heads)
    return torch.cat([torch.cat([head[0::2], head[1::2]]) for head in heads])


@rows.alternative("axes named and exchanged")
def rows_with_einsum(name, weight, n_heads, n_kv_heads):
    match re.fullmatch(r"blk\.\d+\.(attn_[qk])\.\w+", name):
        case None:
            return weight
        case found:
            n = n_heads if found[1] == "attn_q" else n_kv_heads
            return torch.einsum("hpi...->hip...", weight.unflatten(0, (n, -1, 2))).reshape(weight.shape)


@rows.alternative("a list of row numbers")
def rows_by_number(name, weight, n_heads, n_kv_heads):
    n = n_heads if ".attn_q." in name else n_kv_heads if ".attn_k." in name else None
    if n is None:
        return weight
    d = len(weight) // n
    order = [h * d + 2 * (r % (d // 2)) + r // (d // 2) for h in range(n) for r in range(d)]
    return weight[torch.tensor(order)]


# 13.8 chat_text -----------------------------------------------------------------------------------------------------


def chat_text(messages: list[dict[str, str]], default_system: str) -> str:
    """The text that a chat model continues, in ChatML.

    messages: {"role": ..., "content": ...}, in order; roles are system, user and assistant. Each becomes a turn:
    <|im_start|>, the role, a line feed, the content, <|im_end|>, a line feed. If the first message is not the system's,
    or if there is no message at all, a turn of the system with default_system comes first. The text ends with the
    beginning of the assistant's turn.
    """
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default_system}, *messages]
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


chat = Exercise(
    "13.8",
    chat_text,
    hints=(
        "First the list of messages: does it need a system's message in front? Then a text per message, one after the "
        "other. Then the beginning of the answer.",
        '`[{"role": "system", "content": default_system}, *messages]` is a new list with one message more. Don\'t '
        "use `messages.insert`: it would change the caller's list.",
        'A turn is `<|im_start|>`, role, `\\n`, content, `<|im_end|>`, `\\n`; `"".join(turns)` puts them one after the '
        "other; the end is `<|im_start|>assistant\\n`, with its line feed.",
    ),
)

WORDS = ("river", "seven", "cold", "tea", "bridge", "loud")


def _message(role: str) -> dict[str, str]:
    return {"role": role, "content": " ".join(pick(WORDS) for _ in range(int(integers(2, 5))))}


def _chatml(messages: list[dict[str, str]], default: str) -> str:
    first = [] if messages and messages[0]["role"] == "system" else [{"role": "system", "content": default}]
    return templates.chatml([*first, *messages])


@chat.check("one question, and no system's message")
def chat_one_question(chat_text):
    expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    same(chat_text([{"role": "user", "content": "Hi"}], "Be kind."), expected)


@chat.check("a conversation of five turns")
def chat_five_turns(chat_text):
    messages = [_message(role) for role in ("user", "assistant", "user", "assistant", "user")]
    same(chat_text(messages, "Be brief."), _chatml(messages, "Be brief."))


@chat.check("the system's message is there: the default stays out")
def chat_own_system(chat_text):
    messages = [_message("system"), _message("user")]
    same(chat_text(messages, "Be brief."), _chatml(messages, "Be brief."))


@chat.check("a system's message in the middle is a turn like any other")
def chat_late_system(chat_text):
    messages = [_message("user"), _message("assistant"), _message("system"), _message("user")]
    same(chat_text(messages, "Be brief."), _chatml(messages, "Be brief."))


@chat.check("spaces and line feeds around what is said stay")
def chat_spaces(chat_text):
    messages = [{"role": "user", "content": "\n  def f(x):\n      return x\n"}, _message("assistant"), _message("user")]
    same(chat_text(messages, "Be brief."), _chatml(messages, "Be brief."))


@chat.check("no message at all: only the system's, and the beginning of an answer")
def chat_nothing_said(chat_text):
    same(chat_text([], "Be brief."), _chatml([], "Be brief."))


def _rendered(
    messages, default, turn="<|im_start|>{role}\n{content}<|im_end|>\n", end="<|im_start|>assistant\n"
) -> str:
    if not messages or messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default}, *messages]
    return "".join(turn.format(**message) for message in messages) + end


@chat.mistake("""You left out the beginning of the answer. Without `<|im_start|>assistant\\n` at the end the model does
    not know that it is its turn: it goes on with another question of the user's.""")
def no_beginning(messages, default_system):
    return _rendered(messages, default_system, end="")


@chat.mistake("""You left out the line feed after the last `assistant`. The model was trained with it there; without, it
    has to write it first, and small models stumble over less.""")
def no_last_line_feed(messages, default_system):
    return _rendered(messages, default_system, end="<|im_start|>assistant")


@chat.mistake("""You closed the assistant's turn with <|im_end|>. It has only begun: what comes next is the answer.""")
def answer_closed(messages, default_system):
    return _rendered(messages, default_system, end="<|im_start|>assistant\n<|im_end|>\n")


@chat.mistake("""You left out the line feed after <|im_end|>. It belongs to each turn.""")
def turns_without_line_feed(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>{role}\n{content}<|im_end|>")


@chat.mistake("""You put line feeds between the turns only, so that the last turn has none after its <|im_end|>. It
    belongs to each turn, the last one too.""")
def last_turn_without_line_feed(messages, default_system):
    return _rendered(messages, default_system, end="").removesuffix("\n") + "<|im_start|>assistant\n"


@chat.mistake("""You left out the line feed between the role and what is said.""")
def role_and_content_joined(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>{role}{content}<|im_end|>\n")


@chat.mistake("""You put a space between the role and what is said, where a line feed belongs.""")
def space_for_line_feed(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>{role} {content}<|im_end|>\n")


@chat.mistake("""You forgot <|im_end|>. It is the token at which the model learned to stop.""")
def turns_not_closed(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>{role}\n{content}\n")


@chat.mistake("""You put a line feed between what is said and <|im_end|>. The mark follows directly, and the line feed
    comes after it.""")
def line_feed_before_the_end(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>{role}\n{content}\n<|im_end|>\n")


@chat.mistake("""You left out the role. Who speaks is all that the model has to go by.""")
def no_role(messages, default_system):
    return _rendered(messages, default_system, turn="<|im_start|>\n{content}<|im_end|>\n")


@chat.mistake("""You wrote `user` for every message. The role stands in the message.""")
def all_users(messages, default_system):
    system = [] if messages and messages[0]["role"] == "system" else [{"role": "system", "content": default_system}]
    users = [message if message["role"] == "system" else message | {"role": "user"} for message in messages]
    return templates.chatml([*system, *users])


@chat.mistake("""You left out the default system's message. SmolLM2 was trained with one in front of everything.""")
def no_default(messages, default_system):
    return templates.chatml(messages)


@chat.mistake("""You put the default in front of a system's message that is there already. Two of them, and the second
    one contradicts the first.""")
def always_the_default(messages, default_system):
    return templates.chatml([{"role": "system", "content": default_system}, *messages])


@chat.mistake("""You looked for a system's message anywhere in the conversation. What counts is the first message: if it
    is not the system's, the default goes before it.""")
def system_anywhere(messages, default_system):
    if any(message["role"] == "system" for message in messages):
        return templates.chatml(messages)
    return templates.chatml([{"role": "system", "content": default_system}, *messages])


@chat.mistake("""You looked at the first message without asking whether there is one. The list may be empty: `if not
    messages or messages[0]["role"] != "system"`.""")
def first_of_none(messages, default_system):
    if messages[0]["role"] == "system":
        return templates.chatml(messages)
    return templates.chatml([{"role": "system", "content": default_system}, *messages])


@chat.mistake("""You stripped spaces and line feeds from what is said (Llama's templates do that). ChatML leaves them:
    for code the spaces in front matter.""")
def stripped(messages, default_system):
    return _rendered([message | {"content": message["content"].strip()} for message in messages], default_system)


@chat.mistake("""You put the default system's message last, in front of the answer. It goes before everything.""")
def default_last(messages, default_system):
    if messages and messages[0]["role"] == "system":
        return templates.chatml(messages)
    return templates.chatml([*messages, {"role": "system", "content": default_system}])


@chat.alternative("the package's chatml, and the default")
def chat_of_the_package(messages, default_system):
    return _chatml(messages, default_system)


@chat.alternative("piece by piece, in a loop")
def chat_piece_by_piece(messages, default_system):
    text = ""
    if [message["role"] for message in messages[:1]] != ["system"]:
        text += "<|im_start|>system\n" + default_system + "<|im_end|>\n"
    for message in messages:
        text += "<|im_start|>" + message["role"] + "\n"
        text += message["content"]
        text += "<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    return text


@chat.alternative("roles and contents as lists, joined by what lies between turns")
def chat_joined(messages, default_system):
    said = [(message["role"], message["content"]) for message in messages]
    if not said or said[0][0] != "system":
        said.insert(0, ("system", default_system))
    blocks = ["\n".join(pair) for pair in said] + ["assistant\n"]
    return "<|im_start|>" + "<|im_end|>\n<|im_start|>".join(blocks)


# 13.9 first_difference ----------------------------------------------------------------------------------------------


def first_difference(one: list[int], other: list[int]) -> int | None:
    """Where two runs part: the place, counted from 0, of the first token that is not the same. None if there is none.

    If one run stops where the other goes on, they part at the place of the first token that only one of them has.
    """
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return None if len(one) == len(other) else min(len(one), len(other))


runs = Exercise(
    "13.9",
    first_difference,
    hints=(
        "Walk through both at once, and stop at the first pair that differs. What is left to look at when the shorter "
        "one ends?",
        "`enumerate(zip(one, other))` gives 0, 1, 2, ... with pairs, as far as the shorter list goes. "
        "Behind the loop all of those were equal: now only the lengths can differ.",
        "Behind the loop: None if the lengths are equal, else the length of the shorter one. (0 is a place, and "
        "Python counts it as False: don't write `or None`.)",
    ),
)


def _run(n: int) -> list[int]:
    return integers(0, 49152, n).tolist()


@runs.check("the two runs of the text")
def runs_of_the_text(first_difference):
    same(first_difference([504, 4235, 282, 4649, 314], [504, 4235, 282, 9625, 314]), 3)


@runs.check("two equal runs")
def runs_equal(first_difference):
    run = _run(int(integers(3, 9)))
    same(first_difference(run, list(run)), None)


@runs.check("they part at the first token already")
def runs_at_once(first_difference):
    run = _run(4)
    same(first_difference([run[0] + 1, *run[1:]], run), 0)


@runs.check("several tokens differ")
def runs_several(first_difference):
    run = _run(8)
    other = [token + 1 if i in (2, 3, 6) else token for i, token in enumerate(run)]
    same(first_difference(run, other), 2)


@runs.check("two tokens differ, and one run goes on for longer")
def runs_both(first_difference):
    run = _run(7)
    other = [token + 1 if i in (1, 4) else token for i, token in enumerate(run)]
    same(first_difference(run[:6], other), 1)


@runs.check("one stops earlier than the other")
def runs_shorter(first_difference):
    run = _run(6)
    same(first_difference(run[:4], run), 4)


@runs.check("the other one stops earlier")
def runs_longer(first_difference):
    run = _run(7)
    same(first_difference(run, run[:5]), 5)


@runs.check("the same tokens in another order")
def runs_reordered(first_difference):
    run = [5, 6, 7, 8]
    same(first_difference(run, [5, 7, 6, 8]), 1)


@runs.check("tokens that occur more than once")
def runs_repeated(first_difference):
    a, b, c = permutation(9)[:3]
    same(first_difference([a, b, a, b, a], [a, b, a, c, a]), 3)
    same(first_difference([a, b, a, c, a], [a, b, a, b, a]), 3)


@runs.check("one of them is empty")
def runs_empty(first_difference):
    same(first_difference([], _run(3)), 0)
    same(first_difference([], []), None)


@runs.mistake("""You compared only as far as the shorter run goes. If one of them stops, and the other goes on, they are
    not the same: that is how a forgotten stop token looks.""")
def as_far_as_the_shorter(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


@runs.mistake("""You walked along the first run only. If the other one is shorter, there is nothing to compare with
    (IndexError), and if it is longer, you don't see its rest.""")
def along_the_first(one, other):
    for i in range(len(one)):
        if one[i] != other[i]:
            return i
    return None


@runs.mistake("""You walked on to the end of the longer run, where the shorter one has nothing to compare with
    (IndexError). Walk to the end of the shorter one, and then look at the lengths.""")
def along_the_longer(one, other):
    for i in range(max(len(one), len(other))):
        if one[i] != other[i]:
            return i
    return None


@runs.mistake("""You decided after the first pair: `return None` stands inside the loop. Only when no pair differs, so
    behind the loop, is there something to say about the whole.""")
def after_the_first_pair(one, other):
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        return i if a != b else None


@runs.mistake("""You looked up where the token stands, with `index`. That gives the first place where it occurs, and a
    token may have occurred before. `enumerate` counts along.""")
def place_looked_up(one, other):
    for a, b in zip(one, other, strict=False):
        if a != b:
            return one.index(a)
    return first_if_longer(one, other)


@runs.mistake("""You gave the length of the first run where one of them stops. They part where the shorter one ends,
    whichever that is: `min(len(one), len(other))`.""")
def length_of_the_first(one, other):
    place = first_difference(one, other)
    return len(one) if place == min(len(one), len(other)) else place


@runs.mistake("""Where one run stops you are one place too early. If the shorter one has 4 tokens, their places are 0 to
    3, and place 4 is the first that only one of them has.""")
def one_too_early(one, other):
    place = first_difference(one, other)
    return place - 1 if place == min(len(one), len(other)) else place


@runs.mistake("""You counted from 1. The first token stands at place 0, as everywhere in this course.""")
def counted_from_one(one, other):
    place = first_difference(one, other)
    return None if place is None else place + 1


@runs.mistake("""You gave -1 for two equal runs. Asked for is None: -1 is a place too, that of the last token.""")
def minus_one(one, other):
    place = first_difference(one, other)
    return -1 if place is None else place


@runs.mistake("""You gave the length where nothing differs. Asked for is None, so that nobody takes it for a place.""")
def length_for_none(one, other):
    place = first_difference(one, other)
    return len(one) if place is None else place


@runs.mistake("""Your 0 became None. 0 is a place, and Python counts it as False, so `place or None` loses it. Compare
    with None, or return from the loop.""")
def zero_lost(one, other):
    return first_difference(one, other) or None


@runs.mistake("""You gave the last difference. After the first one all others follow from it: each token is written in
    view of those before.""")
def last_difference(one, other):
    pairs = list(zip_longest(one, other))
    return next((i for i in range(len(pairs) - 1, -1, -1) if pairs[i][0] != pairs[i][1]), None)


@runs.mistake("""You counted how many tokens differ. Asked for is the place of the first one.""")
def how_many(one, other):
    return sum(a != b for a, b in zip_longest(one, other)) or None


@runs.mistake("""You asked whether a token occurs in the other run at all. Compare place by place: the same tokens in
    another order are another text.""")
def order_ignored(one, other):
    return next((i for i, a in enumerate(one) if a not in other), first_if_longer(one, other))


def first_if_longer(one, other):
    return None if len(one) == len(other) else min(len(one), len(other))


@runs.mistake("""You gave the tokens that differ, or one of them. Asked for is their place.""")
def the_token(one, other):
    return next((a for a, b in zip_longest(one, other) if a != b), None)


@runs.mistake("""You compared the lengths first, and gave the shorter one's wherever they differ. The runs may part
    earlier than that. Look at the tokens first.""")
def lengths_first(one, other):
    if len(one) != len(other):
        return min(len(one), len(other))
    return next((i for i in range(len(one)) if one[i] != other[i]), None)


@runs.alternative("zip_longest, with a filler that is no token")
def runs_filled_up(one, other):
    return next((i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b), None)


@runs.alternative("beginnings that get longer")
def runs_by_beginnings(one, other):
    if one == other:
        return None
    n = 0
    while one[: n + 1] == other[: n + 1]:
        n += 1
    return n


@runs.alternative("a tensor of comparisons")
def runs_with_torch(one, other):
    n = min(len(one), len(other))
    different = (torch.tensor(one[:n], dtype=torch.long) != torch.tensor(other[:n], dtype=torch.long)).nonzero()
    if len(different):
        return int(different[0])
    return n if len(one) != len(other) else None
