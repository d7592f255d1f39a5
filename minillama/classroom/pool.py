"""Processes for answers, seen from the grader: a worker for one answer to one exercise, killed when it is done."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from minillama.classroom import worker
from minillama.course.answers import AnswerLost, other_process, read_message, write_message
from minillama.files import scratch_folder

FORKS = sys.platform == "linux"
UNCONFINED = "time limits only"
KEPT = ("PATH", "LD_", "LANG", "LC_", "OPENBLAS_", "MKL_", "OMP_", "MINILLAMA_WORKER_ERRORS")  # no secrets
CALLS = 3  # so many times the time of one call for all calls of a worker


@dataclass(frozen=True)
class Limits:
    """What a worker may use: seconds of the processor, seconds on the clock for one call, memory beyond torch's own."""

    cpu_seconds: int = 20
    call_seconds: float = 60.0
    memory_mib: int = 2048


@dataclass
class Worker:
    """One answer's process: `send` takes a request and gives a reply, or raises AnswerLost.

    held: how it is confined, in words. ended: after the block, "" if it was there until then, or "timeout", or
    "crashed" with the signal or exit code in `how`.
    """

    send: Callable[[bytes], bytes]
    held: str
    ended: str = ""
    how: str = ""


class Pool:
    """A server that forks workers (Linux), or a new process for each (elsewhere). To be closed.

    One worker at a time. confine: False leaves out what keeps answers from files, network and other processes.
    spent: seconds of the processor so far, of each template and its workers.
    Errors: RuntimeError if a process of the grader itself does not start.
    """

    def __init__(self, limits: Limits = Limits(), *, confine: bool = True):
        self.limits, self.confine = limits, confine
        self.folder = scratch_folder("minillama-grading")
        self.templates: dict[Path, socket.socket] = {}
        self.spent: dict[Path, float] = {}
        if FORKS:
            self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
            command = [sys.executable, "-I", worker.__file__, str(theirs.fileno()), *packages]
            environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            with theirs:
                self.server = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
            _message(self.control, "ready")

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_):
        for control in self.templates.values():
            control.close()
        if FORKS:
            self.control.close()
            self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self, tree: Path):
        """Have a process ready that has imported what is in `tree`."""
        if FORKS and tree not in self.templates:
            self.templates[tree], theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                worker.tell(self.control, {"tree": str(tree)}, [theirs.fileno()])
            _message(self.templates[tree], "ready")

    @contextmanager
    def worker(self, tree: Path) -> Iterator[Worker]:
        """A new worker beside the package in `tree`."""
        if not FORKS:
            with self._spawned(tree) as made:
                yield made
            return
        self.prepare(tree)
        control = self.templates[tree]
        ours, theirs = socket.socketpair()
        task = asdict(self.limits) | {"confine": self.confine, "folder": str(self.folder)}
        with ours:
            with theirs:
                worker.tell(control, task, [theirs.fileno()])
            _message(control, "pid")
            ours.settimeout(self.limits.call_seconds)
            line = _Line(ours, self.limits)
            made = Worker(lambda request: line.ask(request, made), _held(ours))
            try:
                yield made
            finally:
                worker.tell(control, {})
                end = _message(control, "ended")
                made.how, _, seconds = end["ended"].partition(", ")
                self.spent[tree] = end["cpu"]
                if made.ended == "crashed" and float(seconds.split()[0]) >= self.limits.cpu_seconds - 1:
                    made.ended = "timeout"

    @contextmanager
    def _spawned(self, tree: Path) -> Iterator[Worker]:
        with other_process(tree) as (process, ask):

            def send(request: bytes) -> bytes:
                watch = threading.Timer(self.limits.call_seconds, process.kill)
                watch.start()
                try:
                    return ask(request)
                except AnswerLost:
                    made.ended = "crashed" if watch.is_alive() else "timeout"
                    raise
                finally:
                    watch.cancel()

            made = Worker(send, UNCONFINED)
            yield made


class _Line:
    """A worker's socket as a file that waits no longer than one call may take, and all calls together."""

    def __init__(self, channel: socket.socket, limits: Limits):
        self.channel, self.limits = channel, limits
        self.left, self.until = CALLS * limits.call_seconds, 0.0

    def ask(self, request: bytes, to: Worker) -> bytes:
        began = time.monotonic()
        self.until = began + min(self.left, self.limits.call_seconds)
        try:
            write_message(self, request)
            return read_message(self)
        except TimeoutError as error:
            to.ended = "timeout"
            raise AnswerLost("it took too long") from error
        except (AnswerLost, OSError) as error:
            to.ended = to.ended or "crashed"
            raise AnswerLost(f"the answer's process has ended ({error})") from error
        finally:
            self.left -= time.monotonic() - began

    def _wait(self):
        self.channel.settimeout(max(self.until - time.monotonic(), 1e-3))

    def write(self, data: bytes):
        self._wait()
        self.channel.sendall(data)  # its timeout is for all of it

    def flush(self):
        pass

    def read(self, size: int = -1) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait()
            piece = self.channel.recv(min(size - len(data), 2**20))
            if not piece:
                break
            data += piece
        return bytes(data)


def _held(channel: socket.socket) -> str:
    """What a new worker says of its confinement, before it runs anything."""
    data = channel.recv(2**16)
    if not data:
        raise RuntimeError("a worker did not start; set MINILLAMA_WORKER_ERRORS=1 to see why")
    return ", ".join(json.loads(data)["held"])


def _message(control: socket.socket, key: str) -> dict:
    """What a process of the grader says, if it says something under this key."""
    message = worker.receive(control)
    if message is None or key not in message[0]:
        raise RuntimeError(f'a process of the grader ended before it said "{key}"; is there enough memory?')
    return message[0]
