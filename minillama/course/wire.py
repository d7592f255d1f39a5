"""Data as bytes and back, for answers that run in another process. No pickle: nothing that is read here can run code.

A message is a JSON tree, then the raw bytes of its tensors, in the order in which the tree names them. Numbers, text,
bytes, None, lists, tuples, dicts, sets, tensors and arrays travel as they are; classes and functions only by name, and
only those of minillama and torch.nn; a random generator as its seed; an object that stays where it is as a `Thing`.
"""

import base64
import dataclasses
import importlib
import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MAX_BYTES = 64 * 2**20
MAX_TREE = 16 * 2**20  # of these, for all that is not in tensors
MAX_DEPTH = 20
SAME_HASH = 100  # so many items of a set may have the same hash
PLAIN = frozenset([int, float, bool, type(None)])  # what JSON holds as it is
UNHASHABLE = (list, dict, set, bytearray, torch.Tensor, np.ndarray)
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float8_e4m3fn float8_e5m2 "
        "float16 bfloat16 float32 float64 complex64 complex128"
    ).split()
}


class WireError(ValueError):
    """Something that can't travel, or bytes that are no message."""


@dataclass(frozen=True)
class Thing:
    """An object that stays in the process that made it: its number there, and what it is ("a function")."""

    number: int
    kind: str


def pack(value: Any, keep: Callable[[Any, str], Thing] | None = None) -> bytes:
    """Turn data into bytes. keep: makes a Thing of what can't travel, for readers who don't look up names.

    Errors: WireError that names what can't travel, or says that it is too much.
    """
    writer = _Writer(keep)
    try:
        tree = json.dumps(writer.tree(value)).encode()
    except WireError:
        raise
    except Exception as error:  # a learner's own kind of list may do anything
        raise WireError(f"{kind_of(value)} that can't be looked at ({type(error).__name__})") from error
    if len(tree) > MAX_TREE:
        raise WireError(f"a value of more than {MAX_TREE // 2**20} MiB")
    return struct.pack("<I", len(tree)) + tree + bytes(writer.data)


def unpack(data: bytes, *, trusted: bool = False) -> Any:
    """Turn bytes back into data. Names of classes and functions are looked up only if `trusted`.

    Errors: WireError that says what is wrong with the bytes.
    """
    try:
        (length,) = struct.unpack_from("<I", data)
        if len(data) > MAX_BYTES + MAX_TREE + 4 or length > MAX_TREE:
            raise WireError(f"a message of {len(data):,} bytes, {length:,} of them no tensors")
        reader = _Reader(memoryview(data)[4 + length :], trusted)
        value = reader.value(json.loads(data[4 : 4 + length]))
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"no message: {error!r}") from error
    if reader.data:
        raise WireError(f"{len(reader.data):,} bytes too many")
    return value


def kind_of(value: Any) -> str:
    """What a learner calls it. Types that are the same to a learner have one name: int and float are numbers."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_quantized and not value.is_meta:
            return "a tensor"
        return f"a {'quantized' if value.is_quantized else 'meta' if value.is_meta else 'sparse'} tensor"
    for kinds, name in (
        (int | float, "a number"), (str, "text"), (bytes | bytearray, "bytes"), (dict, "a dict"), (list, "a list"),
        (tuple, "a tuple"), (set | frozenset, "a set"), (np.ndarray, "a numpy array"), (Iterator, "a generator"),
        (type, "a class"),
    ):  # fmt: skip
        if isinstance(value, kinds):
            return name
    if callable(value) and not isinstance(value, torch.nn.Module):
        return "a function"
    return f"an object of class {type(value).__name__}"


class _Writer:
    """The tree of a value, and beside it the bytes of its tensors."""

    def __init__(self, keep: Callable[[Any, str], Thing] | None):
        self.keep, self.data, self.room = keep, bytearray(), MAX_TREE

    def tree(self, value: Any, depth: int = 0) -> Any:
        self.room -= 64 + (len(value) if isinstance(value, str | bytes | bytearray) else 0)
        if self.room < 0:
            raise WireError(f"a value of more than {MAX_TREE // 2**20} MiB")
        if depth > MAX_DEPTH:
            raise WireError(f"lists in lists, more than {MAX_DEPTH} deep")
        inner = lambda x: self.tree(x, depth + 1)  # noqa: E731
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= 10_000 else self.unable(value, "a number of over 3,000 digits")
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, np.ndarray):
            self.fits(value.nbytes)
            plain = value.dtype.name in DTYPES
            return {"array": inner(torch.from_numpy(value.copy(order="C")))} if plain else self.unable(value)
        if isinstance(value, bytes | bytearray):
            return {"bytes": base64.b64encode(value).decode()}
        for kind in (list, tuple, set, frozenset):
            if type(value) is kind and PLAIN.issuperset(map(type, value)):  # long lists of numbers are many
                self.room -= 8 * len(value)
                return {kind.__name__: list(value)}
            if isinstance(value, kind):
                if issubclass(kind, set | frozenset) and any(isinstance(item, UNHASHABLE) for item in value):
                    return self.unable(value)
                return {kind.__name__: [inner(x) for x in value]}
        if isinstance(value, dict):
            if any(isinstance(key, UNHASHABLE) for key in value):  # of a class of its own, that says it has a hash
                return self.unable(value)
            return {"dict": [[inner(key), inner(x)] for key, x in value.items()]}
        if isinstance(value, Thing):
            return {"thing": [value.number, value.kind]}
        if isinstance(value, torch.dtype) and _dtype_name(value) in DTYPES:
            return {"dtype": _dtype_name(value)}
        if isinstance(value, torch.Generator):
            return {"generator": value.initial_seed()}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if self.keep:
            return self.unable(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            return {"made": _reference(type(value)), "with": inner(fields)}
        return {"name": _reference(value)}

    def tensor(self, value: torch.Tensor) -> Any:
        if kind_of(value) != "a tensor" or _dtype_name(value.dtype) not in DTYPES or value.ndim > MAX_DEPTH:
            return self.unable(value)
        if not value.numel() and math.prod(size or 1 for size in value.shape) > MAX_BYTES:
            return self.unable(value, "a tensor of very many rows without numbers")
        self.fits(value.numel() * value.dtype.itemsize)  # before anything is copied: it may be one number, expanded
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        if flat.numel():
            self.data += flat.view(torch.uint8).numpy().tobytes()
        return {"tensor": list(value.shape), "dtype": _dtype_name(value.dtype), "grad": value.requires_grad}

    def fits(self, n_bytes: int):
        if len(self.data) + n_bytes > MAX_BYTES:
            raise WireError(f"a value of more than {MAX_BYTES // 2**20} MiB")

    def unable(self, value: Any, kind: str = "") -> Any:
        """The Thing that goes in place of what can't travel."""
        kind = kind or kind_of(value)
        if self.keep is None:
            raise WireError(f"{kind} can't travel: only data, and names from minillama and torch.nn")
        return self.tree(self.keep(value, kind))


class _Reader:
    """The value of a tree, with the bytes of its tensors taken from `data`, each once."""

    def __init__(self, data: memoryview, trusted: bool):
        self.data, self.trusted = data, trusted

    def value(self, tree: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise WireError(f"lists in lists, more than {MAX_DEPTH} deep")
        if isinstance(tree, list):
            raise WireError("a bare list in the tree")
        if not isinstance(tree, dict):
            return tree
        inner = lambda x: self.value(x, depth + 1)  # noqa: E731
        kind = next(iter(tree))
        content = tree[kind]
        match kind:
            case "tensor":
                return self.tensor(content, DTYPES[tree["dtype"]], tree["grad"])
            case "array":
                return inner(content).numpy()
            case "bytes":
                return base64.b64decode(content)
            case "list" | "tuple" | "set" | "frozenset":
                items = content if PLAIN.issuperset(map(type, content)) else [inner(item) for item in content]
                if "set" in kind:
                    _distinct(items)
                return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
            case "dict":
                keys = [inner(key) for key, _ in content]
                _distinct(keys)
                return {key: inner(x) for key, (_, x) in zip(keys, content, strict=True)}
            case "thing":
                number, kind = content
                if type(number) is int and isinstance(kind, str):
                    return Thing(number, kind)
            case "dtype":
                return DTYPES[content]
            case "generator":
                return torch.Generator().manual_seed(content)
            case "range":
                return range(*content)
            case "made" if self.trusted:
                cls: Any = _look_up(content)
                if isinstance(cls, type) and dataclasses.is_dataclass(cls):
                    return cls(**inner(tree["with"]))
            case "name" if self.trusted:
                return _look_up(content)
        raise WireError(f"{kind!r} is nothing that may come from here")

    def tensor(self, shape: list[int], dtype: torch.dtype, grad: bool) -> torch.Tensor:
        if len(shape) > MAX_DEPTH or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
            raise WireError("no shape of a tensor")
        if math.prod(size or 1 for size in shape) > MAX_BYTES:
            raise WireError(f"a tensor of shape {tuple(shape)}")
        length = math.prod(shape) * dtype.itemsize
        if length > len(self.data):
            raise WireError(f"a tensor of {length:,} bytes, {len(self.data):,} are there")
        mine, self.data = self.data[:length], self.data[length:]
        if not length:
            return torch.empty(shape, dtype=dtype).requires_grad_(grad)
        raw = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        flat = raw != 0 if dtype == torch.bool else raw.view(dtype)
        return flat.reshape(shape).requires_grad_(grad)


def _distinct(items: list):
    """Errors: WireError if many have the same hash: a set of them would take longer than anybody waits."""
    most = max(Counter(map(hash, items)).values(), default=0)
    if most > SAME_HASH:
        raise WireError(f"{most:,} items of the same hash")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name_of(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"


def _find(reference: str) -> Any:
    module, _, name = reference.partition(":")
    if f"{module}.".startswith(("minillama.", "torch.nn.", "torch._C._nn.")) and "<" not in name:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        return value
    return None


def _reference(value: Any) -> str:
    name = _name_of(value)
    if _find(name) is not value or value is None:
        raise WireError(f"{kind_of(value)} can't travel: only data, and names from minillama and torch.nn")
    return name


def _look_up(reference: str) -> Any:
    """What has this name; nothing that is only imported there, such as torch.nn.functional:os.system."""
    value = _find(reference)
    if value is None or _name_of(value) != reference:
        raise WireError(f"{reference} is no class or function of minillama or torch.nn")
    return value
