"""GGUF, the files of llama.cpp: what is known of a model, a list of its tensors, and their numbers, often 4 bits each.

The layout is that of the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAGIC = b"GGUF"
# Types of values: how struct reads them. 8 is text and 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
MAX_ELEMENTS = 2**22  # in all arrays together; Llama 3 has fewer than 2**20
MAX_TENSORS, MAX_AXES, MAX_KEYS = 2**15, 4, 2**14


@dataclass(frozen=True)
class Quantization:
    """How a type stores numbers: so many in a block of so many bytes. `plain` is torch's type, where it has one."""

    name: str
    numbers: int
    n_bytes: int
    plain: torch.dtype | None = None


TYPES = {
    0: Quantization("F32", 1, 4, torch.float32),
    1: Quantization("F16", 1, 2, torch.float16),
    30: Quantization("BF16", 1, 2, torch.bfloat16),
    2: Quantization("Q4_0", 32, 18),
    3: Quantization("Q4_1", 32, 20),
    8: Quantization("Q8_0", 32, 34),
    # These need the package gguf.
    6: Quantization("Q5_0", 32, 22),
    7: Quantization("Q5_1", 32, 24),
    10: Quantization("Q2_K", 256, 84),
    11: Quantization("Q3_K", 256, 110),
    12: Quantization("Q4_K", 256, 144),
    13: Quantization("Q5_K", 256, 176),
    14: Quantization("Q6_K", 256, 210),
}
OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
PLAIN = {type.plain: number for number, type in TYPES.items() if type.plain}
ALIGNMENT = 32  # of what is written here
REPAIR = "download it again"


@dataclass(frozen=True)
class Entry:
    """One tensor as the file lists it. shape: as torch has it, the reverse of the file's; offset: in the file."""

    name: str
    shape: tuple[int, ...]
    type: Quantization
    offset: int

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) // self.type.numbers * self.type.n_bytes


class Reader:
    """Take numbers and texts from a file one after another; nothing is read that the file can't hold.

    Errors: ValueError that begins with the file.
    """

    def __init__(self, path: Path):
        self.path, self.position, self.n_elements = path, 0, 0
        self.size = path.stat().st_size
        if self.size < 24:
            raise ValueError(f"{path}: {self.size} bytes, expected a GGUF file; {REPAIR}")
        with open(path, "rb") as file:
            # A private copy, page by page: whoever changes a weight does not change the file.
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def bytes(self, n: int, what: str) -> bytes:
        if n > self.size - self.position:
            left = self.size - self.position
            raise ValueError(
                f"{self.path}: {what}: {n:,} bytes, but {left:,} are left; the file is cut off or damaged; {REPAIR}"
            )
        self.position += n
        return self.content[self.position - n : self.position]

    def number(self, kind: str, what: str) -> Any:
        return struct.unpack("<" + kind, self.bytes(struct.calcsize("<" + kind), what))[0]

    def text(self, what: str) -> str:
        return self.bytes(self.number("Q", what), what).decode("utf-8", "surrogateescape")

    def value(self, kind: int, what: str) -> Any:
        """A number, a text, or a list of one of them."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], what)
        if kind == TEXT:
            return self.text(what)
        if kind != ARRAY:
            raise ValueError(f"{self.path}: {what}: a value of type {kind}, expected 0 to 12; {REPAIR}")
        inner, n = self.number("I", what), self.number("Q", what)
        if inner not in NUMBERS and inner != TEXT:
            raise ValueError(f"{self.path}: {what}: an array of type {inner}, expected numbers or texts; {REPAIR}")
        smallest = 8 if inner == TEXT else struct.calcsize("<" + NUMBERS[inner])
        self.n_elements += n
        if n * smallest > self.size - self.position or self.n_elements > MAX_ELEMENTS:
            raise ValueError(
                f"{self.path}: {what}: {n:,} elements, expected at most {MAX_ELEMENTS:,} in all arrays, and no more "
                f"than the file has room for; {REPAIR}"
            )
        if inner == TEXT:
            return [self.text(what) for _ in range(n)]
        return list(struct.unpack(f"<{n}{NUMBERS[inner]}", self.bytes(n * smallest, what)))


def read_header(path: Path) -> tuple[dict[str, Any], list[Entry], mmap.mmap]:
    """What the file says of the model, the list of its tensors, and the file itself, mapped into memory.

    Errors: ValueError that names the file, the key or tensor, what was found and what was expected.
    """
    reader = Reader(path)
    magic, version = reader.bytes(4, "magic"), reader.number("I", "version")
    if magic != MAGIC:
        web_page = magic.lstrip().lower().startswith((b"<!do", b"<htm"))
        raise ValueError(f"{path}: {'a web page' if web_page else repr(magic)}, expected a GGUF file; {REPAIR}")
    if version not in (2, 3):
        hint = "big-endian" if version in (2 << 24, 3 << 24) else f"version {version:,}"
        raise ValueError(f"{path}: GGUF, {hint}, expected version 2 or 3, little-endian; convert it again")
    n_tensors, n_keys = reader.number("Q", "number of tensors"), reader.number("Q", "number of keys")
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
        raise ValueError(
            f"{path}: {n_tensors:,} tensors and {n_keys:,} keys, expected at most {MAX_TENSORS:,} and {MAX_KEYS:,}; "
            f"{REPAIR}"
        )
    metadata: dict[str, Any] = {}
    for i in range(n_keys):
        key = reader.text(f"key {i}")
        if key in metadata:
            raise ValueError(f"{path}: key {key[:80]!r} is there twice, expected once; {REPAIR}")
        metadata[key] = reader.value(reader.number("I", f"key {key[:80]!r}"), f"key {key[:80]!r}")
    listed = [_read_entry(reader, i) for i in range(n_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
        raise ValueError(f"{path}: general.alignment={alignment}, expected a power of two from 8 to 65,536; {REPAIR}")
    start = -(-reader.position // alignment) * alignment
    entries = [Entry(name, shape, type, start + offset) for name, shape, type, offset in listed]
    _check_places(path, entries, alignment, reader.size)
    return metadata, entries, reader.content


def _read_entry(reader: Reader, i: int) -> tuple[str, tuple[int, ...], Quantization, int]:
    name = reader.text(f"name of tensor {i}")
    what = f"tensor {name[:80]!r}"
    n_axes = reader.number("I", what)
    if not 1 <= n_axes <= MAX_AXES:
        raise ValueError(f"{reader.path}: {what}: {n_axes:,} axes, expected 1 to {MAX_AXES}; {REPAIR}")
    shape = tuple(reader.number("Q", what) for _ in range(n_axes))[::-1]
    kind, offset = reader.number("I", what), reader.number("Q", what)
    if kind not in TYPES:
        known = ", ".join(type.name for type in TYPES.values())
        found = OTHER_TYPES.get(kind, f"number {kind}")
        raise ValueError(
            f"{reader.path}: {what}: type {found}, expected one of {known}; use another file of this model"
        )
    type = TYPES[kind]
    if math.prod(shape) == 0 or shape[-1] % type.numbers:
        raise ValueError(
            f"{reader.path}: {what}: shape {shape}, expected rows of a multiple of {type.numbers}; {REPAIR}"
        )
    return name, shape, type, offset


def _check_places(path: Path, entries: list[Entry], alignment: int, size: int):
    """Raise ValueError unless every tensor lies in the file, at a multiple of the alignment, and on no other."""
    name, times = Counter(entry.name for entry in entries).most_common(1)[0] if entries else ("", 0)
    if times > 1:
        raise ValueError(f"{path}: tensor {name[:80]!r} is listed {times} times, expected once; {REPAIR}")
    end, before = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.offset):
        what = f"{path}: tensor {entry.name[:80]!r}: bytes {entry.offset:,} to {entry.offset + entry.n_bytes:,}"
        if entry.offset + entry.n_bytes > size:
            raise ValueError(f"{what}, but the file has {size:,}; it is cut off or damaged; {REPAIR}")
        if entry.offset % alignment:
            raise ValueError(f"{what}, expected to begin at a multiple of {alignment}; {REPAIR}")
        if entry.offset < end:
            raise ValueError(f"{what}, where tensor {before[:80]!r} is too; {REPAIR}")
        end, before = entry.offset + entry.n_bytes, entry.name


def read_tensor(content: mmap.mmap, entry: Entry) -> Tensor:
    """The numbers of a tensor: the file's own memory where they are plain, else computed, in float32.

    Errors: ValueError if the type needs the package gguf, and it is not there.
    """
    if entry.type.plain:
        return torch.frombuffer(
            content, dtype=entry.type.plain, count=math.prod(entry.shape), offset=entry.offset
        ).view(entry.shape)
    raw = torch.frombuffer(content, dtype=torch.uint8, count=entry.n_bytes, offset=entry.offset)
    blocks = raw.view(-1, entry.type.n_bytes)
    if entry.type.name in DEQUANTIZE:
        return DEQUANTIZE[entry.type.name](blocks).view(entry.shape)
    try:
        from gguf import GGMLQuantizationType  # type: ignore[import-not-found]
        from gguf.quants import dequantize  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(
            f"tensor {entry.name!r}: type {entry.type.name} needs the package gguf; pip install gguf, or use a file "
            f"in Q8_0, Q4_0 or Q4_1"
        ) from None
    numbers = dequantize(blocks.numpy(), GGMLQuantizationType[entry.type.name])
    return torch.from_numpy(numbers).view(entry.shape)


def dequantize_q8_0(blocks: Tensor) -> Tensor:
    """A scale in float16, then 32 whole numbers of 8 bits: number * scale. (n, 34) bytes -> (n, 32) float32"""
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks, 0)


def dequantize_q4_0(blocks: Tensor) -> Tensor:
    """A scale in float16, then 32 numbers of 4 bits: (number - 8) * scale. (n, 18) bytes -> (n, 32) float32"""
    return (_nibbles(blocks[:, 2:]) - 8) * _half(blocks, 0)


def dequantize_q4_1(blocks: Tensor) -> Tensor:
    """A scale and a minimum in float16, then 32 numbers of 4 bits: number * scale + minimum. (n, 20) -> (n, 32)"""
    return _nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 that starts at this byte of each block. -> (n, 1) float32"""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """The lower halves of all bytes, then the upper ones. (n, 16) bytes -> (n, 32) float32"""
    return torch.cat([packed & 15, packed >> 4], dim=1).float()


DEQUANTIZE = {"Q8_0": dequantize_q8_0, "Q4_0": dequantize_q4_0, "Q4_1": dequantize_q4_1}


def write_file(file: BinaryIO, metadata: dict[str, Any], tensors: dict[str, tuple]):
    """A GGUF file of version 3. tensors: name -> shape, dtype, a function that gives the tensor."""
    file.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        file.write(_text(key) + _value(value))
    offset = 0
    for name, (shape, dtype, _) in tensors.items():
        file.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        file.write(struct.pack("<IQ", PLAIN[dtype], offset))
        offset += _padded(math.prod(shape) * dtype.itemsize)
    for _, _, read in tensors.values():
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(read().view(torch.uint8).numpy().data)
    file.write(bytes(-file.tell() % ALIGNMENT))


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """A key's value behind the number of its type: whole numbers as uint32, others as float32; lists of int32."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    kind, letter = (6, "f") if isinstance(value[0], float) else (5, "i")
    return struct.pack(f"<IIQ{len(value)}{letter}", 9, kind, len(value), *value)
