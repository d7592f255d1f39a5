"""A learner's answer, held at arm's length: the check sees data only, wherever the answer runs.

`Desk` sits beside the answer and does what it is asked; `Answer` is what a check is handed instead of the answer.
Between them is a function from request to reply, both bytes: a call in this process (`here`), or a pipe to another one
(`elsewhere`, with `main` at its far end). Both ways are the same for a check.
"""

import inspect
import io
import linecache
import os
import random
import re
import struct
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from minillama.course.wire import MAX_BYTES, MAX_TREE, Thing, WireError, pack, unpack

MAX_ITEMS = 10_000  # of a generator
MAX_PRINTED = 1_000  # characters of what an answer prints in one call
SETTINGS: dict[str, tuple[Callable, Callable]] = {  # of the whole program; an answer leaves them as they are
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
}


class AnswerRaised(Exception):
    """The answer raised an error: the names of its type and of that type's parents, its message, and where it happened.

    told: the message without the answer's own name in it, to compare with a mistake's, whose name is another.
    """

    def __init__(self, kinds: list[str], message: str, line: str, told: str = ""):
        super().__init__(f"{kinds[0]}: {message}")
        self.kinds, self.message, self.line, self.told = kinds, message, line, told
        self.wanted = ""  # the error that should have been raised

    @property
    def kind(self) -> str:
        return self.kinds[0]

    @property
    def not_attempted(self) -> bool:
        """Is this the stub's own error? torch raises NotImplementedError too, for dtypes that it can't do."""
        return self.kind == "NotImplementedError" and "raise NotImplementedError" in self.line


class AnswerLost(RuntimeError):
    """The process of the answer has ended, or speaks nonsense."""


class Desk:
    """Holds an answer and what it made, and does what requests say. Its replies are data."""

    def __init__(self, answer: Any):
        self.things = [answer]

    def __call__(self, request: bytes) -> bytes:
        task = unpack(request, trusted=True)
        args, kwargs = self._fetch(task.get("args", ())), self._fetch(task.get("kwargs", {}))
        before = [_packed(x) for x in (*args, *kwargs.values())]
        settings = {name: get() for name, (get, _) in SETTINGS.items()}
        printed = _Paper()
        reply: dict[str, Any] = {}
        if task["do"] in ("call", "gradients", "drive", "new"):
            _seed(task["seed"])
        try:
            with redirect_stdout(printed):
                reply["value"] = self._do(task, args, kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: an answer that calls exit() ends itself only
            reply["raised"] = self._told(error)
        after = [_packed(x) for x in (*args, *kwargs.values())]
        changed: list[int | str] = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        for name, value in settings.items():
            if SETTINGS[name][0]() != value:
                SETTINGS[name][1](value)
                changed.append(name)
        reply |= {"changed": changed, "printed": printed.text}
        try:
            return pack(reply, self._keep)
        except WireError as error:
            return pack(reply | {"value": Thing(-1, str(error))})

    def _do(self, task: dict, args: tuple, kwargs: dict) -> Any:
        if task["do"] == "new":
            self.things = [run(task["source"], task["name"], before=task["before"])]
            return None
        thing = self.things[task["thing"]]
        for name in task["path"]:
            thing = getattr(thing, name)
        match task["do"]:
            case "get":
                return thing
            case "call":
                result = thing(*args, **kwargs)
                return list(islice(result, MAX_ITEMS)) if isinstance(result, Iterator) else result
            case "gradients":
                return _gradients(thing, args, kwargs)
            case "drive":
                return task["driver"](thing, *args, **kwargs)
            case "weights":
                return {name: p.detach() for name, p in _parameters(thing).items()}
            case "load":
                for name, parameter in _parameters(thing).items():
                    parameter.data.copy_(args[0][name])
        return None

    def _fetch(self, value: Any) -> Any:
        """Put back the things that only have a number on the way."""
        if isinstance(value, Thing):
            return self.things[value.number]
        if isinstance(value, tuple | list):
            return type(value)(self._fetch(x) for x in value)
        if isinstance(value, dict):
            return {key: self._fetch(x) for key, x in value.items()}
        return value

    def _keep(self, value: Any, kind: str) -> Thing:
        self.things.append(value)
        return Thing(len(self.things) - 1, kind)

    def _told(self, error: BaseException) -> list:
        """Names of the error's type and its parents, message, line, and the message without the answer's name."""
        message = "(an error whose message can't be shown)"
        with suppress(Exception):
            message = str(error)[:500]
        name = getattr(self.things[0], "__name__", None) or "<no name>"
        kinds = [cls.__name__[:100] for cls in type(error).__mro__ if cls not in (object, BaseException)]
        return [kinds, message, _line_of(error), re.sub(rf"\b{re.escape(name)}\b", "", message)]


class _Paper(io.TextIOBase):
    """Takes what is printed, and remembers the beginning."""

    text = ""

    def write(self, text: str) -> int:
        self.text += text[: MAX_PRINTED - len(self.text)]
        return len(text)


def _seed(seed: int):
    """The same random numbers in each call, and not those of the check's inputs."""
    seed += 2**31
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would change a GPU's generator as well
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _packed(value: Any) -> bytes:
    """What an argument looks like, to see later whether it was changed; b"" for what only has a number on the way."""
    try:
        return pack(value)
    except WireError:
        return b""


def _parameters(thing: Any) -> dict[str, nn.Parameter]:
    return dict(thing.named_parameters()) if isinstance(thing, nn.Module) else {}


def _gradients(function: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Run function(*args), and follow (out * random).sum() back to the inputs and the weights."""
    *inputs, out_gradient = args
    inputs = [x.detach().clone().requires_grad_() if _floating(x) else x for x in inputs]
    parameters = _parameters(function)
    for parameter in parameters.values():
        parameter.grad = None
    out = function(*inputs, **kwargs)
    if not isinstance(out, Tensor) or out.shape != out_gradient.shape or not out.requires_grad:
        return {"out": out, "inputs": [None] * len(inputs), "weights": {}}
    (out * out_gradient).sum().backward()
    return {
        "out": out.detach(),
        "inputs": [x.grad if _floating(x) else None for x in inputs],
        "weights": {name: p.grad for name, p in parameters.items()},
    }


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _line_of(error: BaseException) -> str:
    """The last line of the learner's own that was running: 'line 4: scores = q @ k'"""
    others = (str(Path(__file__).parents[1]) + os.sep, sys.base_prefix + os.sep)
    exercises = os.path.join("course", "exercises")  # where mistakes stand
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    own = [frame for frame in frames if not frame.filename.startswith(others)]
    for frame in reversed(own or [frame for frame in frames if exercises in frame.filename]):
        if frame.line:
            return f"line {frame.lineno}: {frame.line[:200]}"
    return ""


@dataclass
class Call:
    """One call of the answer, for the message."""

    name: str
    args: tuple
    kwargs: dict
    path: tuple = ()  # of the method, ("encode",)
    made: bool = False  # was this called on something that the answer made, not on the answer itself?
    driver: Callable | None = None  # what was called, with the answer before args
    gave: Any = None
    changed: list = field(default_factory=list)  # numbers of arguments, names of settings
    printed: str = ""


class Answer:
    """What a check is handed instead of the learner's answer: call it, call its methods, read its weights.

    Errors: AnswerRaised with the answer's own error.
    """

    def __init__(self, send: Callable[[bytes], bytes], *, name: str, seed=0, thing=0, kind="", path=(), log=None):
        self._send, self._name, self._seed, self._thing, self._kind, self._path = send, name, seed, thing, kind, path
        self._log: list[Call] = [] if log is None else log

    def __call__(self, *args, **kwargs):
        return self._ask("call", *args, **kwargs)

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        there = Answer(self._send, name=f"{self._name}.{name}", seed=self._seed, thing=self._thing,
                       path=(*self._path, name), log=self._log)  # fmt: skip
        value = there._ask("get")
        if not isinstance(value, Answer):
            return value
        there._kind = value._kind
        return there

    def __repr__(self) -> str:
        return self._name

    def _ask(self, do: str, *args, driver: Callable | None = None, **kwargs):
        task = {"do": do, "thing": self._thing, "path": self._path, "seed": self._seed, "driver": driver,
                "args": _numbered(args), "kwargs": _numbered(kwargs)}  # fmt: skip
        try:
            request = pack(task)
        except WireError as error:  # of the check, not of the learner
            raise TypeError(f"{self._name} was called with something that can't travel: {error}") from error
        name = driver.__name__ if driver else self._name
        call = Call(name, args[: len(args) - (do == "gradients")], kwargs, self._path, self._thing != 0, driver)
        if do in ("call", "gradients", "drive"):
            self._log.append(call)
        value, raised, call.changed, call.printed = _opened(self._send(request))
        if raised:
            raise raised
        call.gave = self._received(value, call)
        return call.gave

    def _received(self, value: Any, call: Call) -> Any:
        if isinstance(value, Thing):
            arguments = [*map(short, call.args), *(f"{key}={short(x)}" for key, x in call.kwargs.items())]
            name = f"{call.name}({', '.join(arguments)})"
            return Answer(self._send, name=name, seed=self._seed, thing=value.number, kind=value.kind, log=self._log)
        if isinstance(value, tuple | list):
            return type(value)([self._received(x, call) for x in value])
        if isinstance(value, dict):
            return {key: self._received(x, call) for key, x in value.items()}
        return value


def _opened(message: bytes) -> tuple[Any, AnswerRaised | None, list, str]:
    """What a reply says: the value, the error, what was changed, what was printed. Errors: AnswerLost if it is none."""
    try:
        reply = unpack(message)
        changed = [x for x in reply["changed"] if isinstance(x, int) or x in SETTINGS]
        printed = str(reply["printed"])[:MAX_PRINTED]
        if "raised" not in reply:
            return reply["value"], None, changed, printed
        kinds, text, line, told = reply["raised"]
        raised = AnswerRaised(
            [str(kind)[:100] for kind in kinds[:20]], str(text)[:500], str(line)[:250], str(told)[:500]
        )
        return None, raised, changed, printed
    except (WireError, LookupError, TypeError, ValueError) as error:
        raise AnswerLost(f"the answer's process sent {error}") from error


def _numbered(value: Any) -> Any:
    if isinstance(value, Answer):
        return Thing(value._thing, value._kind)
    if isinstance(value, tuple | list):
        return type(value)(_numbered(x) for x in value)
    if isinstance(value, dict):
        return {key: _numbered(x) for key, x in value.items()}
    return value


def short(value: Any) -> str:
    """A value in a few words, to name a call: 8, 'abc', tensor (2, 3, 8), [tensor (3,), tensor (2, 4)]"""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    if type(value) in (list, tuple):
        text = ", ".join(map(short, value[:20]))
        text = f"[{text}]" if isinstance(value, list) else f"({text}{',' * (len(value) == 1)})"
    elif type(value) is dict:
        text = f"{{{', '.join(f'{key!r}: {short(x)}' for key, x in list(value.items())[:20])}}}"
    else:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def here(answer: Any) -> Callable[[bytes], bytes]:
    """Answer in this process."""
    return Desk(answer)


@contextmanager
def elsewhere(source: str, name: str) -> Iterator[Callable[[bytes], bytes]]:
    """Answer in a new process that runs `source` and then answers for what it calls `name`.

    Errors: AnswerRaised if the source fails; AnswerLost if the process ends. There is no limit of time.
    """
    with other_process() as (_, send):
        start(send, source, name)
        yield send


@contextmanager
def other_process(tree: Path | None = None) -> Iterator[tuple[subprocess.Popen, Callable[[bytes], bytes]]]:
    """A new process, and the function that sends requests to it. tree: a folder with the minillama that it imports."""
    path = f"import sys; sys.path.insert(0, {str(tree)!r}); " if tree else ""
    command = [sys.executable, "-c", f"{path}from minillama.course.answers import main; main()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    requests, replies = process.stdin, process.stdout
    assert requests and replies

    def send(request: bytes) -> bytes:
        write_message(requests, request)
        return read_message(replies)

    try:
        yield process, send
    finally:
        process.kill()
        process.wait()
        for pipe in (requests, replies):
            with suppress(OSError):  # a request that nobody read any more
                pipe.close()


def start(send: Callable[[bytes], bytes], source: str, name: str, before: Sequence[str] = ()):
    """Let the process at the other end run `source` and answer for `name`, in place of what it answered for before.

    before: texts that run first, in the same namespace. Errors: AnswerRaised.
    """
    task = {"do": "new", "source": source, "name": name, "before": list(before), "seed": 0}
    _, raised, *_ = _opened(send(pack(task)))
    if raised:
        raise raised


def write_message(pipe: Any, message: bytes):
    try:
        pipe.write(struct.pack("<Q", len(message)) + message)
        pipe.flush()
    except (OSError, ValueError) as error:
        raise AnswerLost("the answer's process has ended") from error


def read_message(pipe: Any) -> bytes:
    head = pipe.read(8)
    if len(head) < 8:
        raise AnswerLost("the answer's process has ended")
    (length,) = struct.unpack("<Q", head)
    if length > MAX_BYTES + MAX_TREE + 4:
        raise AnswerLost(f"the answer's process announces {length:,} bytes")
    return pipe.read(length)


def main():
    """The far end of `elsewhere`: requests on stdin, replies on stdout; what the answer prints goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    torch.set_num_threads(1)
    converse(requests, replies)


def converse(requests: IO[bytes], replies: IO[bytes]):
    """Answer requests until there are no more."""
    desk = Desk(None)
    with suppress(AnswerLost):
        while True:
            write_message(replies, desk(read_message(requests)))


def run(source: str, name: str, filename: str = "<answer>", module: str = "answer", before: Sequence[str] = ()) -> Any:
    """Run source text of its own and give what it calls `name`. Its lines are known to tracebacks and to `inspect`.

    before: texts that run first, in the same namespace.
    """
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules.setdefault(module, types.ModuleType(module))  # dataclasses look for the module of a class
    namespace: dict[str, Any] = {"__name__": module}
    for text in before:
        exec(compile(text, "<before>", "exec"), namespace)
    exec(compile(source, filename, "exec"), namespace)
    if name not in namespace:
        raise NameError(f"{name} is not defined")
    return namespace[name]
