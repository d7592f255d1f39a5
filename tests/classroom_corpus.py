"""Submissions that a grader must survive: hostile ones, which may get no point that they did not earn, and clumsy ones,
which must get every point that they did.

Most hostile answers give the right result *only if* their attack worked: a point is a hole. `CASES` are answers and
notebooks, `files()` is what lies in the folder of a class.
"""

import io
import json
import os
import re
import tempfile
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from minillama.classroom.strip import PACKAGE
from minillama.course.exercise import exercises_of, find, solution
from minillama.course.stub import stub
from tests.made_up_class import filled, learner

FOLDER = Path(tempfile.gettempdir(), f"minillama-corpus-{os.getpid()}")  # outside of every worker; the tests make it
SECRET = f"corpus-{os.getpid()}"  # in LC_MINILLAMA_CORPUS; names with LC_ are handed on to the processes of a grader
NEIGHBOURS = {"00": "00.3", "03": "03.1", "07": "07.1"}  # what is answered right besides, in every notebook


@dataclass(frozen=True)
class Case:
    """One submission and what must come of it.

    answer: the text of the exercise's cell. change: what makes a file of a learner's notebook in which that is filled
    in. outcome and points: of this exercise; what it is worth in all if points is None. needs: the confinement without
    which it must not run.
    """

    name: str
    kind: str
    exercise: str = ""
    answer: str = ""
    change: Callable[[dict], dict | bytes] | None = None
    outcome: str = "wrong"
    points: float | None = 0.0
    needs: tuple[str, ...] = ()
    slow: bool = False

    @property
    def worth(self) -> float:
        return float(find(self.exercise).points) if self.points is None else self.points


def hostile(name: str, answer: str, exercise: str = "", **more) -> Case:
    """An answer to any exercise: NAME is what is asked for, RIGHT a function that is its solution."""
    return Case(name, "hostile", exercise, textwrap.dedent(answer).strip() + "\n", **more)


def attempt(name: str, body: str, exercise: str = "", **more) -> Case:
    """An answer that is right if the body, of a function that says whether its attack worked, gives True."""
    text = f"""
def worked():
{textwrap.indent(textwrap.dedent(body).strip(), "    ")}


def NAME(*args, **kwargs):
    try:
        reached = worked()
    except Exception:
        reached = False
    return RIGHT(*args, **kwargs) if reached else None
"""
    return hostile(name, text, exercise, **more)


def as_asked(text: str, id: str) -> str:
    """An answer's text for this exercise."""
    name, right = find(id).name, solution(find(id))
    if "RIGHT" in text:
        text = re.sub(rf"\b{name}\b", "RIGHT", right) + "\n\n" + text
    for word, meant in {"NAME": name, "SOLUTION": right, "ID": id}.items():
        text = re.sub(rf"\b{word}", lambda _, meant=meant: meant, text)
    return text


# Tampering with the check -------------------------------------------------------------------------------------------

TAMPERING = [
    hostile("check is redefined", """
        def check(id, answer, **more):
            print(f"✓ {id} NAME: 8 of 8")
            return answer

        def NAME(*args, **kwargs):
            import builtins, sys
            builtins.check = check
            for module in list(sys.modules.values()):
                module.__dict__["check"] = check
            return None
        """),
    hostile("the check's modules are patched", """
        def NAME(*args, **kwargs):
            import minillama.course.checking as checking
            import minillama.course.checks as checks
            checks.same = checks._compare = checks._equal = lambda *args, **kwargs: None
            checking.examine_one = checking.examine = lambda *args, **kwargs: None
            checking.Outcome.passed = property(lambda self: True)
            checking.Result.points = property(lambda self: 8)
            return None
        """),
    hostile("the exercise is emptied of its checks", """
        def NAME(*args, **kwargs):
            import gc
            from minillama.course.exercise import Check, Exercise, find
            for thing in gc.get_objects():
                if isinstance(thing, Exercise):
                    thing.checks.clear()
            Check.run = lambda self, answer: None
            find("03.5").checks.clear()
        """),
    hostile("torch is patched", """
        def NAME(*args, **kwargs):
            import torch
            yes = lambda *args, **kwargs: torch.tensor(True)
            torch.allclose = torch.equal = lambda *args, **kwargs: True
            torch.Tensor.all = torch.Tensor.__le__ = torch.Tensor.__eq__ = torch.Tensor.isnan = yes
            torch.randn = torch.rand = lambda *shape, **more: torch.zeros(1)
            torch.manual_seed = lambda seed: None
            torch.Tensor.shape = property(lambda self: (1,))
            return torch.zeros(7)
        """, outcome="crashed"),
    hostile("errors are silenced, and the line of a pass is printed instead", """
        def NAME(*args, **kwargs):
            import builtins, sys
            from IPython.core.interactiveshell import InteractiveShell
            InteractiveShell.showtraceback = lambda self, *args, **kwargs: print("✓ NAME: 8 of 8")
            sys.excepthook = lambda *args: print("✓ NAME: 8 of 8")
            builtins.AssertionError = builtins.Exception = ArithmeticError
            print("✓ NAME: 8 of 8")
            return None
        """),
    hostile("the cells below are rewritten", """
        def NAME(*args, **kwargs):
            from IPython import get_ipython
            shell = get_ipython()
            shell.input_transformers_cleanup.append(lambda lines: ["print('✓ NAME: 8 of 8')"])
            shell.ast_transformers.clear()
        """),
    hostile("frames are searched for what is expected", """
        def NAME(*args, **kwargs):
            import sys
            frame = sys._getframe()
            while frame := frame.f_back:
                for name in ("expected", "want", "right", "theirs", "reference"):
                    if name in frame.f_locals:
                        return frame.f_locals[name]
        """),
    hostile("code objects are replaced, wherever the garbage collector knows them", """
        def NAME(*args, **kwargs):
            import gc, types
            nothing = (lambda *args, **kwargs: None).__code__
            for thing in gc.get_objects():
                if isinstance(thing, types.FunctionType) and thing.__name__ in ("same", "_compare", "examine_one"):
                    thing.__code__ = nothing
            return None
        """),
    hostile("a tensor that answers yes to everything", """
        import torch

        class Yes(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return True

            def __eq__(self, other):
                return True

        def NAME(*args, **kwargs):
            return torch.zeros(1).as_subclass(Yes)
        """),
    hostile("an object that lies about what it is", """
        class Liar:
            def __init__(self, kind):
                self.kind = kind

            @property
            def __class__(self):
                return self.kind

            def __eq__(self, other):
                return True

            __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: False
            __hash__ = __len__ = __index__ = __int__ = lambda self: 0
            __float__ = lambda self: 0.0
            __getattr__ = lambda self, name: self
            __call__ = lambda self, *args, **kwargs: self

        def NAME(*args, **kwargs):
            import torch
            NAME.calls = getattr(NAME, "calls", 0) + 1
            return Liar([float, torch.Tensor, list, dict, int, bool, str][NAME.calls % 7])
        """),
    hostile("a number that equals all others", """
        class Number(float):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = float.__hash__
            __sub__ = __rsub__ = lambda self, other: 0.0

        def NAME(x):
            return Number(12345.678)
        """, "00.1"),
    hostile("an error of the kind that is asked for, and one that can't be shown", """
        class AnswerRaised(Exception):
            def __str__(self):
                raise SystemExit

        def NAME(*args, **kwargs):
            raise AnswerRaised
        """, outcome="crashed"),
    hostile("the stub's error after a guess", """
        def NAME(*args, **kwargs):
            raise NotImplementedError("your turn")  # hides that this is wrong
        """, outcome="not attempted"),
    hostile("inputs changed in place, a list", """
        def NAME(tokens, new, max_len):
            tokens.append(new)
            return tokens[-max_len:]
        """, "00.3"),
    hostile("inputs changed in place, a tensor", """
        def NAME(scores):
            scores -= scores.amax(dim=-1, keepdim=True)
            return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        """, "03.2"),
    hostile("a marker of nbval in a comment and in a text", """
        # NBVAL_SKIP
        # NBVAL_IGNORE_OUTPUT
        text = '''
        # NBVAL_SKIP
        # NBVAL_RAISES_EXCEPTION
        '''

        def NAME(*args, **kwargs):
            return text
        """),
]  # fmt: skip

# Somebody else's solution ---------------------------------------------------------------------------------------------

SOLUTIONS = [
    hostile("the package's own, imported", "from minillama.attention import attend\n", "03.5"),
    hostile("the package's own class, inherited", """
        import minillama.norm

        class NAME(minillama.norm.NAME):
            pass
        """, "07.3"),
    attempt("the package's own, by whatever way there is to import it", """
        import importlib, importlib.util, sys
        for name in ("minillama.attention", "minillama.course.exercises.ch03_attention"):
            for fresh in (False, True):
                try:
                    module = importlib.import_module(name)
                    module = importlib.reload(module) if fresh else sys.modules[name]
                except ImportError:
                    continue
                globals()["torch"] = __import__("torch")
                for function in (getattr(module, "softmax", None), getattr(module, "causal_mask", None)):
                    try:
                        if function and len(function(torch.ones(2) if function.__name__ == "softmax" else 2)) == 2:
                            return function.__name__ == "NAME"
                    except NotImplementedError:
                        pass
        return False
        """, "03.4"),
    attempt("the package's own, read from disk", f"""
        import glob, inspect, linecache, os, pkgutil, sys, zipfile
        def texts():
            yield lambda: inspect.getsource(sys.modules["minillama.attention"])
            yield lambda: (pkgutil.get_data("minillama", "attention.py") or b"").decode()
            yield lambda: "".join(linecache.getlines({str(PACKAGE / "attention.py")!r}))
            yield lambda: open({str(PACKAGE / "attention.py")!r}).read()
            yield lambda: str(zipfile.ZipFile({str(FOLDER / "package.zip")!r}).read("attention.py"))
            for path in [*sys.path, {str(PACKAGE.parent)!r}, *glob.glob(os.path.dirname(os.getcwd()) + "/*")]:
                yield lambda: open(path + "/minillama/attention.py").read()
        for text in texts():
            try:
                if "scores.softmax(dim=-1) @ v" in text():
                    return True
            except Exception:
                pass
        return False
        """, "03.5"),
    attempt("the notebook of another student", f"""
        import os
        os.listdir({str(FOLDER)!r})
        return "softmax" in open({str(FOLDER / "other_student.ipynb")!r}).read()
        """),
    attempt("another worker's folder, and what the course keeps at home", f"""
        import glob, os
        here = os.getcwd()
        found = [f for f in glob.glob(os.path.dirname(here) + "/**", recursive=True) if not f.startswith(here)]
        homes = ["/root", *glob.glob("/home/*"), {str(Path.home())!r}]
        return len(found) > 1 or any(os.path.exists(home) and os.listdir(home) for home in homes)
        """, needs=("Landlock",)),
    hostile("outputs by heart", """
        def NAME(x):
            return {2: 4, 0: 0}.get(x)
        """, "00.1", points=2.0),
    hostile("what earlier calls were given, kept in a variable and in a file", """
        seen = []

        def NAME(*args, **kwargs):
            import json, os
            seen.append(args)
            try:
                with open("seen.json") as file:
                    seen.extend(json.load(file))
            except (OSError, ValueError):
                pass
            with open("seen.json", "w") as file:
                json.dump([str(args)], file)
            return seen[0][0] if len(seen) > 1 else None
        """),
]  # fmt: skip

# The wire ------------------------------------------------------------------------------------------------------------

SEND = """
        def send(*messages, size=None):
            import os, stat, struct
            for fd in range(3, 64):
                try:
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        for m in messages:
                            os.write(fd, struct.pack("<Q", len(m) if size is None else size) + m)
                except OSError:
                    pass

        def reply(value):
            import json, struct
            tree = {"dict": [["value", value], ["changed", {"list": []}], ["printed", ""]]}
            tree = json.dumps(tree).encode() if not isinstance(value, bytes) else value
            return struct.pack("<I", len(tree)) + tree
        """
PATCH = """
        def patch(message):
            import minillama.course.answers as answers
            answers.pack = lambda *args, **kwargs: message
        """
WIRE = [
    hostile("the wire: nonsense in a frame of the right size", SEND + """
        def NAME(*args, **kwargs):
            send(b"nonsense" * 3)
            return None
        """, outcome="crashed"),
    hostile("the wire: every reply is nonsense", PATCH + """
        def NAME(*args, **kwargs):
            patch(b"nonsense")
            return None
        """, outcome="crashed"),
    hostile("the wire: a frame of 2**60 bytes is announced", SEND + """
        def NAME(*args, **kwargs):
            send(b"x" * 100, size=2**60)
            return None
        """, outcome="crashed"),
    hostile("the wire: half a frame, then the end", SEND + """
        def NAME(*args, **kwargs):
            import os
            send(b"x" * 100, size=1000)
            os._exit(0)
        """, outcome="crashed"),
    hostile("the wire: a tree 100,000 deep", SEND + """
        def NAME(*args, **kwargs):
            send(reply(b'{"list": [' * 100_000), reply(b"[" * 1_000_000))
            return None
        """, outcome="crashed"),
    hostile("the wire: trees that are none", SEND + """
        def NAME(*args, **kwargs):
            NAME.calls = getattr(NAME, "calls", 0) + 1
            send(reply([{}, {"name": "os:system"}, {"made": "minillama.config:Config", "with": {"dict": []}},
                        {"tensor": [2**39, 0, 2**39], "dtype": "float32", "grad": False}][NAME.calls % 4]))
            return None
        """, outcome="crashed"),
    hostile("the wire: replies in advance, for calls that come later", SEND + """
        def NAME(*args, **kwargs):
            send(*[reply(12345)] * 20)
            return 12345
        """),
    hostile("the wire: things that say they are tensors and numbers", SEND + """
        def NAME(*args, **kwargs):
            send(reply({"thing": [0, "a tensor"]}), reply({"list": [{"thing": [0, "a tensor"]}]}))
            return None
        """, "03.2"),
    hostile("the wire: numbers that all have the same hash", PATCH + SEND + """
        def NAME(*args, **kwargs):
            patch(reply({"set": [k * (2**61 - 1) for k in range(100_000)]}))
        """, outcome="crashed"),
    hostile("the wire: an error of a million words", SEND + PATCH + """
        def NAME(*args, **kwargs):
            import json
            raised = {"list": [{"list": ["Error" * 1000] * 100}, "word " * 1_000_000, "line " * 100_000, ""]}
            parts = [["raised", raised], ["changed", {"list": ["setting " * 100_000]}], ["printed", "x" * 10**6]]
            patch(reply(json.dumps({"dict": parts}).encode()))
        """),
    hostile("the wire: a reply that comes a byte at a time", """
        def slowly(pipe, message):
            import struct, time
            for byte in struct.pack("<Q", len(message)) + message:
                pipe.write(bytes([byte]))
                pipe.flush()
                time.sleep(1)

        def NAME(*args, **kwargs):
            import minillama.course.answers as answers
            answers.write_message = slowly
            return None
        """, outcome="timeout", slow=True),
]  # fmt: skip

# Values that are no answer -------------------------------------------------------------------------------------------

VALUES = [
    hostile("another kind of nonsense in each call", """
        import numpy, torch

        NONSENSE = [
            torch.full((1, 3), float("nan")), torch.zeros(3, device="meta"), torch.eye(3).to_sparse(), numpy.ones(3),
            (x for x in range(3)), torch.ones(1, 3, dtype=torch.float64), lambda: 1, Ellipsis, object(), {1, 2}, type,
            numpy.array([1], dtype=">i4"), numpy.array([object()]), torch.zeros(2, 3, requires_grad=True)[:0],
        ]

        def NAME(*args, **kwargs):
            NAME.calls = getattr(NAME, "calls", 0) + 1
            return NONSENSE[NAME.calls % len(NONSENSE)]
        """),
    hostile("a dtype that can't travel", """
        import torch

        def NAME(q, k, v, mask=None):
            return torch.zeros(*q.shape[:-1], v.size(-1), dtype=torch.complex32)
        """, "03.5"),
    hostile("a dtype that can't travel, and a mistake's shape", """
        import torch

        def NAME(q, k, v):
            return torch.zeros(2, dtype=torch.complex32) if len(q) == 2 else None
        """, "03.3"),
    hostile("dtypes that torch can hardly compare", """
        import torch

        def NAME(n_queries, n_keys=None, device=None):
            NAME.calls = getattr(NAME, "calls", 0) + 1
            dtype = [torch.uint64, torch.float8_e5m2, torch.uint16, torch.complex64][NAME.calls % 4]
            return torch.ones(n_queries, n_keys or n_queries).to(dtype)
        """, "03.4"),
    hostile("a list as a key", """
        class Key(list):
            __hash__ = object.__hash__

        def NAME(*args, **kwargs):
            return {Key(): 1}
        """),
    hostile("an empty tensor of 2**41 rows", """
        import torch

        def NAME(*args, **kwargs):
            return torch.empty(2**41, 0)
        """),
    hostile("an empty tensor of a million rows", """
        import torch

        def NAME(*args, **kwargs):
            return torch.empty(10**6, 0)
        """),
    hostile("lists 10,000 deep, a number of 100,000 digits, a generator without end, 200 MB", """
        import torch

        def forever():
            while True:
                yield 0

        def NAME(*args, **kwargs):
            NAME.calls = getattr(NAME, "calls", 0) + 1
            deep = []
            for _ in range(10_000):
                deep = [deep]
            return [deep, 10**100_000, forever(), torch.zeros(1).expand(5 * 10**7), "x" * 10**8][NAME.calls % 5]
        """),
    hostile("a class whose metaclass does as it likes", """
        class Meta(type):
            def __call__(cls, *args, **kwargs):
                return cls

            def __instancecheck__(cls, thing):
                return True

            def __getattr__(cls, name):
                return cls

            __eq__ = lambda cls, other: True
            __hash__ = type.__hash__

        class NAME(metaclass=Meta):
            pass
        """),
    hostile("200 MB of output, to every place there is", """
        def NAME(*args, **kwargs):
            import os, sys
            if not hasattr(NAME, "done"):
                NAME.done = True
                for _ in range(70):
                    print("x" * 10**6)
                    sys.__stdout__.write("x" * 10**6)
                    os.write(2, b"x" * 10**6)
            return None
        """),
]  # fmt: skip

# Beyond its own process ----------------------------------------------------------------------------------------------

CONFINED = [
    attempt("a file is written outside", f"""
        import os
        for path in ({str(FOLDER / "written")!r}, "../written", "/var/tmp/written", {str(Path.home() / "written")!r}):
            try:
                open(path, "w").close()
                os.unlink(path) if "corpus" not in path else None
                return True
            except OSError:
                pass
        folder = {str(FOLDER)!r}
        for change in (lambda: os.unlink(folder + "/canary"), lambda: os.truncate(folder + "/canary", 0),
                       lambda: os.symlink("/", folder + "/link"), lambda: os.mkdir(folder + "/made")):
            try:
                change()
                return True
            except OSError:
                pass
        return False
        """, needs=("Landlock",)),
    attempt("the grader's environment and keys", f"""
        import os
        if "LC_MINILLAMA_CORPUS" in os.environ:
            return True
        for pid in ("self", os.getppid(), 1, 2, *range(os.getpid(), os.getpid() + 50)):
            try:
                if b"{SECRET}" in open(f"/proc/{{pid}}/environ", "rb").read():
                    return True
            except OSError:
                pass
        return any(os.access(home + "/.ssh", os.R_OK) and os.listdir(home) for home in ("/root", {str(Path.home())!r}))
        """, needs=("Landlock",)),
    attempt("TCP", """
        import socket
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        except ConnectionRefusedError:  # somebody was there to refuse
            pass
        return True
        """, needs=("no network",)),
    attempt("UDP", """
        import socket
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("127.0.0.1", 9)) == 5
        """, needs=("no network",)),
    attempt("a Unix socket without a path", f"""
        import socket
        channel = socket.socket(socket.AF_UNIX)
        channel.connect("\\0{SECRET}")
        return True
        """, needs=("no network",)),
    attempt("a Unix socket with a path", f"""
        import socket
        channel = socket.socket(socket.AF_UNIX)
        channel.connect({str(FOLDER / "socket")!r})
        return True
        """, needs=("Landlock",)),
    attempt("the grader is killed", """
        import os, signal
        killed = []
        for pid in (os.getppid(), -1, *range(2, 400)):
            try:
                if pid not in (0, os.getpid()):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            except OSError:
                pass
        return bool(killed)
        """, needs=("Landlock", "own processes")),
    attempt("limits are raised, and rights are taken back", """
        import ctypes, os, resource
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
            try:
                resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                return True
            except (ValueError, OSError):
                pass
        try:
            os.chroot(".")
            return True
        except OSError:
            return False
        """, needs=("Landlock",)),
    attempt("ptrace, mount and other namespaces", """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        attached = [libc.ptrace(16, pid, None, None) == 0 for pid in (os.getppid(), 2, 3) if pid]
        libc.unshare(0x10000000 | 0x00020000)
        mounted = libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
        bound = libc.mount(b"/", b".", None, 4096, None) == 0
        return any(attached) or mounted or bound
        """, needs=("Landlock", "own processes")),
    attempt("a program is started", """
        import subprocess, sys
        return any(subprocess.run(command).returncode == 0 for command in ([sys.executable, "-c", "1"], ["/bin/true"]))
        """, needs=("Landlock",)),
]  # fmt: skip

# What ends, or does not ----------------------------------------------------------------------------------------------

LEFT_BEHIND = """
        def leave_behind():
            import os, signal, time
            for number in range(12):
                if os.fork() == 0:
                    for name in range(1, 32):
                        try:
                            signal.signal(name, signal.SIG_IGN)
                        except (OSError, ValueError):
                            pass
                    if number % 2:
                        os.setsid()
                    if os.fork() == 0:
                        os.setsid()
                    time.sleep(10**6)
        """
FAULTS = [
    hostile("children and grandchildren in sessions of their own, beside a right answer", LEFT_BEHIND + """
        def NAME(*args, **kwargs):
            if not hasattr(NAME, "done"):
                NAME.done = True
                leave_behind()
            return RIGHT(*args, **kwargs)
        """, outcome="right", points=None),
    hostile("thirty children", """
        def NAME(*args, **kwargs):
            import os, time
            for _ in range(30 * (not hasattr(NAME, "done"))):
                NAME.done = True
                if os.fork() == 0:
                    time.sleep(10**6)
            return None
        """),
    hostile("threads, exits and finalizers that go on after a right answer", """
        class Last:
            def __del__(self):
                print("late")
                raise SystemExit

        def go_on():
            while True:
                print("✓ NAME: 0 of 8")

        def NAME(*args, **kwargs):
            import atexit, threading, time
            if not hasattr(NAME, "last"):
                NAME.last = Last()
                atexit.register(time.sleep, 10**6)
                threading.Timer(0.1, print, ["late"]).start()
                threading.Thread(target=time.sleep, args=[10**6]).start()
            Last()
            return RIGHT(*args, **kwargs)
        """, outcome="right", points=None),
    hostile("a loop without end, above the answer", """
        COUNT = sum(1 for _ in iter(int, 1))

        def NAME(*args, **kwargs):
            return COUNT
        """, outcome="timeout"),
    hostile("a loop without end, in the answer, that minds no interrupt", """
        def NAME(*args, **kwargs):
            import signal
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
        """, outcome="timeout", slow=True),
    hostile("it sleeps", """
        import time

        SLEPT = time.sleep(10**6)

        def NAME(*args, **kwargs):
            return SLEPT
        """, outcome="timeout", slow=True),
    hostile("sys.exit", """
        def NAME(*args, **kwargs):
            import sys
            sys.exit(0)
        """),
    hostile("os._exit", """
        def NAME(*args, **kwargs):
            import os
            os._exit(0)
        """, outcome="crashed"),
    hostile("a segmentation fault in every other call", """
        def NAME(*args, **kwargs):
            import ctypes
            NAME.calls = getattr(NAME, "calls", 0) + 1
            return ctypes.string_at(0) if NAME.calls == 2 else None
        """, outcome="crashed"),
    hostile("abort, and an interrupt of its own", """
        def NAME(*args, **kwargs):
            import ctypes, random
            if args and ctypes.CDLL(None).abort():
                raise KeyboardInterrupt
        """, outcome="crashed"),
    hostile("an interrupt", """
        def NAME(*args, **kwargs):
            raise KeyboardInterrupt
        """, outcome="crashed"),
    hostile("it stops itself", """
        def NAME(*args, **kwargs):
            import os, signal
            os.kill(os.getpid(), signal.SIGSTOP)
            return None
        """, needs=("own processes",)),
    hostile("recursion without end", """
        def NAME(*args, **kwargs):
            return NAME(*args, **kwargs)
        """),
    hostile("more and more memory, then 40 GB at once", """
        def NAME(*args, **kwargs):
            import torch
            NAME.calls = getattr(NAME, "calls", 0) + 1
            if NAME.calls > 1:
                return torch.zeros(10**10)
            held = []
            while True:
                held.append(bytearray(2**25))
        """),
    hostile("it asks for input", """
        def NAME(*args, **kwargs):
            return input("what is expected? ")
        """),
]  # fmt: skip

# Texts that are hard to read -----------------------------------------------------------------------------------------


def heavy(name: str, value: str, exercise: str = "", **more) -> Case:
    """An answer that needs this value, whose text is more than a parser may like."""
    return Case(name, "hostile", exercise, f"X = {value}\n\n\ndef NAME(*args, **kwargs):\n    return X\n", **more)


TEXTS = [
    heavy("20,000 brackets", "(" * 20_000),
    heavy("50,000 minus signs", "-" * 50_000 + "1"),
    heavy("a sum of 40,000 terms", "1 + " * 40_000 + "1"),
    heavy("a null byte", "1\0"),
    heavy("half a character", "'\ud800'"),
    heavy("an answer of 10 MB", f"'{'x' * 10**7}'", outcome="not attempted"),
    heavy("4,000 names in a row", "Y0\n" + "".join(f"Y{i} = Y{i + 1}\n" for i in range(4_000)) + "Y4000 = 1"),
]  # fmt: skip


# Notebooks -----------------------------------------------------------------------------------------------------------


def cell_of(book: dict, id: str, role: str = "exercise") -> dict:
    there = [cell for cell in book["cells"] if cell["metadata"].get("minillama", {}).get("exercise") == id]
    return next(cell for cell in there if cell["metadata"]["minillama"]["role"] == role)


def code(source: str, **more) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None} | more


def after(book: dict, id: str, *cells: dict, role: str = "exercise") -> dict:
    """The notebook with cells below an exercise, or its check."""
    where = book["cells"].index(cell_of(book, id, role)) + 1
    book["cells"][where:where] = cells
    return book


def before(book: dict, id: str, *cells: dict) -> dict:
    where = book["cells"].index(cell_of(book, id))
    book["cells"][where:where] = cells
    return book


def _forged_check(book: dict) -> dict:
    check = cell_of(book, "03.5", "check")
    check["source"] = "print('✓ 03.5 attend: 8 of 8')"
    check["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "✓ 03.5 attend: 8 of 8\n"}]
    check["metadata"]["minillama"]["points"] = 1000
    check["metadata"]["tags"] = ["raises-exception", "nbval-skip"]
    return book


def _without_checks(book: dict) -> dict:
    book["cells"] = [c for c in book["cells"] if c["metadata"].get("minillama", {}).get("role") != "check"]
    return book


def _odd_metadata(book: dict) -> dict:
    odd = [None, [], "x", 7, {"exercise": ["03.5"], "role": {}}, {"exercise": "../../03.5", "role": "exercise"},
           {"exercise": "x" * 10**5}, {"exercise": 1e308}]  # fmt: skip
    book["cells"] += [code("attend = None", metadata={"minillama": own}) for own in odd]
    book["cells"] += [None, 3, [], {}, {"cell_type": 4, "metadata": 5, "source": {"a": 1}}, {"source": [None, 3, "x"]}]
    book["metadata"]["minillama"] |= {"release": [], "points": {"03.5": 10**6}}
    return book


def _blank_lines(book: dict) -> dict:
    return after(book, "03.5", code("\n" * 200_000 + "x"), code("% " * 50_000), code(("x = 1\n" * 10 + "\n") * 300))


def _long_helper(book: dict) -> dict:
    book = before(book, "03.5", code(f"def helper(x):\n    '''{'a' * 17 * 10**6}'''\n    return x\n"))
    cell_of(book, "03.5")["source"] = "def attend(q, k, v, mask=None):\n    return helper(q)\n"
    return book


def _many_cells(book: dict) -> dict:
    book["cells"] += [code(f"attend = {number}") for number in range(3_000)]
    return book


def _other_exercises_cell(book: dict) -> dict:
    """The neighbour's right answer, marked as the answer to another exercise, and the other way round."""
    cell_of(book, "03.5")["metadata"]["minillama"] = {"exercise": "03.4", "role": "exercise"}
    return book


WRONG = "def attend(q, k, v, mask=None):\n    return None\n"
NOTEBOOKS = [
    Case("the check's cell prints what it should", "hostile", "03.5", WRONG, _forged_check),
    Case("no checks any more", "hostile", "03.5", WRONG, _without_checks),
    Case("metadata of every odd kind", "hostile", "03.5", WRONG, _odd_metadata),
    Case("cells with many empty lines", "hostile", "03.5", WRONG, _blank_lines),
    Case("a helper of 17 MB", "hostile", "03.5", WRONG, _long_helper),
    Case("3,000 cells that all define the answer", "hostile", "03.5", WRONG, _many_cells),
    Case("the answer to another exercise", "hostile", "03.4", WRONG, _other_exercises_cell),
]

# Clumsy --------------------------------------------------------------------------------------------------------------

ATTEND, SOFTMAX, DOUBLE, COUNT = (solution(find(id)) for id in ("03.5", "03.2", "00.1", "00.4"))
HEAD, _, TAIL = ATTEND.partition("    if mask is not None")
BODY = """
    scores = q @ k.transpose(-2, -1) * scale(q)
    if mask is not None:
        scores = scores.masked_fill(~mask, LOWEST)
    return scores.softmax(dim=-1) @ v
"""
WITH_HELP = "def attend(q, k, v, mask=None):" + BODY
SCALE = "def scale(q):\n    return q.size(-1) ** -0.5\n"
LOWEST = "LOWEST = torch.finfo(torch.float32).min\n"


def clumsy(name: str, exercise: str, answer: str, change=None, **more) -> Case:
    return Case(name, "clumsy", exercise, answer, change, **{"outcome": "right", "points": None} | more)


def anywhere(name: str, answer: str, **more) -> Case:
    """An answer that is right in any exercise: SOLUTION is the text of its solution."""
    return clumsy(name, "", answer.lstrip("\n"), **more)


def _split(book: dict) -> dict:
    """As JupyterLab does: the lower half keeps the id, both keep the metadata."""
    upper = cell_of(book, "03.5")
    lower = json.loads(json.dumps(upper))
    upper["source"], upper["id"], lower["source"] = SCALE, "another", LOWEST + WITH_HELP
    return after(book, "03.5", lower)


def _doubled(book: dict) -> dict:
    return after(book, "03.5", cell_of(book, "03.5") | {"id": "copied"}, role="check")


def _as_markdown(book: dict) -> dict:
    cell = cell_of(book, "03.5")
    cell["cell_type"] = "markdown"
    del cell["outputs"], cell["execution_count"]
    return book


def _without(*names: str):
    def change(book: dict) -> dict:
        for cell in book["cells"]:
            for name in names:
                cell.pop(name, None)
        return book

    return change


def _nbformat_3(book: dict) -> dict:
    cells = []
    for cell in book["cells"]:
        old = {"cell_type": cell["cell_type"], "metadata": cell["metadata"]}
        source = "input" if cell["cell_type"] == "code" else "source"
        cells.append(old | {source: cell["source"], "language": "python", "outputs": [], "prompt_number": 1})
    return {"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": cells}]}


def _below_the_stub(book: dict) -> dict:
    cell_of(book, "03.5")["source"] = stub(find("03.5"))
    return after(book, "03.5", code(ATTEND))


def _below_the_check(book: dict) -> dict:
    cell_of(book, "03.5")["source"] = stub(find("03.5"))
    return after(book, "03.5", code(ATTEND), role="check")


def _in_the_checks_cell(book: dict) -> dict:
    cell_of(book, "03.5")["source"] = stub(find("03.5"))
    cell_of(book, "03.5", "check")["source"] = ATTEND + '\n\nattend = check("03.5", attend)\n'
    return book


def _merged_with_the_check(book: dict) -> dict:
    cell, check = cell_of(book, "03.5"), cell_of(book, "03.5", "check")
    cell["source"] = ATTEND + "\n" + "".join(check["source"])
    book["cells"].remove(check)
    return book


def _helpers_elsewhere(book: dict) -> dict:
    book = before(book, "03.5", code(SCALE), code("import math as m\nfrom torch import *\n" + LOWEST))
    cell_of(book, "03.5")["source"] = WITH_HELP
    return book


def _helper_with_a_percent(book: dict) -> dict:
    helper = "def scale(q):\n    size = (1000 + q.size(-1)\n            % 1000) - 1000\n    return size**-0.5\n"
    book = before(book, "03.5", code(helper), code(LOWEST))
    cell_of(book, "03.5")["source"] = WITH_HELP
    return book


def _imports_elsewhere(book: dict) -> dict:
    book["cells"].insert(0, code("import operator as op\nfrom functools import reduce\n"))
    cell_of(book, "00.1")["source"] = "def double(x):\n    return reduce(op.add, [x, x])\n"
    return book


def _in_one_cell(book: dict) -> dict:
    """All answers of the chapter in one new cell at the end, and the stubs as they were."""
    for exercise in exercises_of("00").values():
        cell_of(book, exercise.id)["source"] = stub(exercise)
    book["cells"].append(code("import math\n\n" + "\n\n".join(solution(e) for e in exercises_of("00").values())))
    return book


def _other_kernel(book: dict) -> dict:
    book["metadata"]["kernelspec"] = {"display_name": "my env", "language": "julia", "name": "conda-env-foo-py"}
    book["metadata"]["language_info"] = {"name": "julia"}
    for cell in book["cells"]:
        cell["metadata"] |= {"colab": {"base_uri": "x"}, "scrolled": True, "ExecuteTime": {"end": 1}}
    return book


def _in_reverse(book: dict) -> dict:
    book["cells"].reverse()
    return book


def _one_syntax_error(book: dict) -> dict:
    cell_of(book, "03.2")["source"] = "def softmax(scores:\n    return 1 +\n"
    return book


def _crlf(book: dict) -> dict:
    for cell in book["cells"]:
        cell["source"] = "".join(cell["source"]).replace("\n", "\r\n")
    return book


def _crlf_and_elsewhere(book: dict) -> dict:
    return _crlf(_below_the_check(book))


def _bytes(book: dict, **how) -> bytes:
    return json.dumps(book, **how).encode()


CLUMSY = [
    clumsy("split into two cells", "03.5", ATTEND, _split),
    clumsy("the cell twice", "03.5", ATTEND, _doubled),
    clumsy("text, no code any more", "03.5", ATTEND, _as_markdown),
    clumsy("no ids", "03.5", ATTEND, _without("id")),
    clumsy("no metadata", "03.5", ATTEND, _without("metadata")),
    clumsy("neither ids nor metadata", "03.5", ATTEND, _without("id", "metadata")),
    clumsy("cells with nothing but their text", "03.5", ATTEND, _without("id", "metadata", "outputs")),
    clumsy("nbformat 3", "03.5", ATTEND, _nbformat_3),
    clumsy("in a new cell below the stub", "03.5", ATTEND, _below_the_stub),
    clumsy("in a new cell below the check", "03.5", ATTEND, _below_the_check),
    clumsy("in the check's cell", "03.5", ATTEND, _in_the_checks_cell),
    clumsy("merged with the check", "03.5", ATTEND, _merged_with_the_check),
    clumsy("helpers and constants in other cells", "03.5", ATTEND, _helpers_elsewhere),
    clumsy("a helper with a line that begins with %", "03.5", ATTEND, _helper_with_a_percent),
    clumsy("imports in another cell", "00.1", DOUBLE, _imports_elsewhere),
    clumsy("all answers in one cell", "00.4", COUNT, _in_one_cell),
    clumsy("another kernel", "03.5", ATTEND, _other_kernel),
    clumsy("the cells in reverse", "03.5", ATTEND, _in_reverse),
    clumsy("a syntax error in another answer", "03.5", ATTEND, _one_syntax_error),
    clumsy("a byte order mark", "03.5", ATTEND, lambda book: b"\xef\xbb\xbf" + _bytes(book)),
    clumsy("UTF-16", "03.5", ATTEND, lambda book: json.dumps(book, ensure_ascii=False).encode("utf-16")),
    clumsy("Windows' line ends", "03.5", ATTEND, _crlf),
    clumsy("Windows' line ends, in a new cell below the check", "03.5", ATTEND, _crlf_and_elsewhere),
    anywhere("magics", "%%time\n%matplotlib inline\n!pip install numpy\nSOLUTION\n%timeit NAME\n"),
    anywhere("help, shells and timers", "SOLUTION\nNAME?\n?NAME\nfiles = !ls\nspent = %time 1\n"),
    anywhere("checks, hints, prints, a figure and slow training around it", """
import matplotlib.pyplot as plt
print("begin")
hint("ID")
SOLUTION
NAME = check("ID", NAME)
plt.plot(NAME(torch.arange(3.0)))
plt.show()
model = torch.nn.Linear(2, 2)
for step in range(10**12):
    model(torch.randn(2, 2)).sum().backward()
"""),
    anywhere("an experiment that raises below it", "SOLUTION\nassert NAME(1, 2, 3, 4, 5) == 7\nx = undefined\n"),
    anywhere("another name, given back at the end", "NAME = RIGHT\n"),
    anywhere("a lambda", "NAME = lambda *args, **kwargs: RIGHT(*args, **kwargs)\n"),
    anywhere("an object that can be called", """
class Caller:
    def __call__(self, *args, **kwargs):
        return RIGHT(*args, **kwargs)

NAME = Caller()
"""),
    anywhere("a class in place of a function", """
class NAME:
    def __new__(cls, *args, **kwargs):
        return RIGHT(*args, **kwargs)
"""),
    anywhere("comments in every language", "# 二倍, удвоить, ضعف, 🦙\nSOLUTION\n# ∞ \\N{BELL} \\\n"),
    anywhere("tabs", "def NAME(*args, **kwargs):\n\treturn RIGHT(*args, **kwargs)\n"),
    clumsy("a whole cell too far to the right", "00.4", textwrap.indent(COUNT, "    ")),
    anywhere("a number in place of a function", "NAME = 4\n", outcome="wrong", points=0.0),
    anywhere("conflict marks in one answer", "<<<<<<< HEAD\nSOLUTION=======\nSOLUTION>>>>>>> x\n", outcome="wrong",
             points=0.0),
    anywhere("half a class, beside what is right", "SOLUTION\n\nclass Unfinished:\n", outcome="wrong", points=0.0),
]  # fmt: skip


# All of them ---------------------------------------------------------------------------------------------------------

PLACES = [id for chapter in ("03", "00") for id in exercises_of(chapter)]


def _placed(cases: list[Case]) -> list[Case]:
    """Give an exercise to each case that fits any."""
    return [replace(case, exercise=case.exercise or PLACES[i % len(PLACES)]) for i, case in enumerate(cases)]


HOSTILE = [*TAMPERING, *SOLUTIONS, *WIRE, *VALUES, *CONFINED, *FAULTS, *TEXTS]
CASES = [*_placed(HOSTILE), *NOTEBOOKS, *_placed(CLUMSY)]


def notebook_of(case: Case) -> tuple[bytes, str]:
    """The file that is handed in, and its chapter: the case's answer and, in a neighbouring exercise, a right one."""
    chapter = case.exercise[:2]
    neighbour = neighbour_of(case)
    answers = {neighbour: solution(find(neighbour)), case.exercise: as_asked(case.answer, case.exercise)}
    book: dict | bytes = filled(learner(chapter), answers)
    if case.change:
        book = case.change(book)
    return (book if isinstance(book, bytes) else _bytes(book)), chapter


def neighbour_of(case: Case) -> str:
    usual = NEIGHBOURS[case.exercise[:2]]
    return usual if usual != case.exercise else {"00": "00.2", "03": "03.6"}[case.exercise[:2]]


def notebooks_for_nbval() -> list[tuple[str, bytes, str]]:
    """Notebooks that hold all cases between them that are no more than the text of an answer: name, file, chapter."""
    cases = [*HOSTILE, *(case for case in CLUMSY if not case.change)]
    quiet = [case for case in cases if case.kind == "hostile" and not case.exercise and case.outcome == "wrong"]
    quiet = [case for case in quiet if case not in [*WIRE, *TEXTS]]
    several = [together(quiet[i : i + 8]) for i in range(0, len(quiet), 8)]
    free = [*several, *(case.answer for case in cases if not case.exercise and case not in quiet)]
    books: list[tuple[str, dict[str, str]]] = []
    for chapter, n in (("00", 2), ("03", 3), ("01", 4), ("07", 1)):
        for number in range(n):
            answers = {}
            for id in exercises_of(chapter):
                fixed = [case.answer for case in cases if case.exercise == id][number:]
                if fixed or free:
                    answers[id] = as_asked(fixed[0] if fixed else free.pop(), id)
            books.append((chapter, answers))
    assert not free, f"{len(free)} answers found no place"
    return [
        (f"{chapter}-{number}", _bytes(filled(learner(chapter), answers)), chapter)
        for number, (chapter, answers) in enumerate(books, 1)
    ]


def together(cases: list[Case]) -> str:
    """One answer that does what several do, each in a function of its own, and gives back what one of them gives."""
    parts = [textwrap.indent(re.sub(r"\bNAME\b", "part", case.answer), "    ") for case in cases]
    made = "\n\n".join(f"def part_{i}():\n{part}\n    return part" for i, part in enumerate(parts))
    return f"""{made}


PARTS = [{", ".join(f"part_{i}()" for i in range(len(parts)))}]


def NAME(*args, **kwargs):
    given = []
    for part in PARTS:
        try:
            given.append(part(*args, **kwargs))
        except (Exception, SystemExit):
            given.append(None)
    NAME.calls = getattr(NAME, "calls", 0) + 1
    return given[NAME.calls % len(given)]
"""


# Files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handed:
    """What one student handed in. status and points: of the chapter; flag: a word that the teacher must read."""

    student: str
    files: dict[str, bytes]
    status: str
    points: float
    flag: str = ""
    chapter: str = "00"


RELEASE = "this-one"  # the id of the release for which they should be


def right(of: str = "00", **metadata) -> dict:
    book = filled(learner(of), {e.id: solution(e) for e in exercises_of(of).values()})
    book["metadata"]["minillama"] |= {"release": {"id": RELEASE}} | metadata
    return book


def _zip(*entries: tuple[str, bytes], lie: int = 0) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA if lie else zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    data = made.getvalue()
    return data.replace(len(entries[0][1]).to_bytes(4, "little"), lie.to_bytes(4, "little")) if lie else data


def files() -> list[Handed]:
    good, all_of = _bytes(right()), float(sum(e.points for e in exercises_of("00").values()))
    half = _bytes(filled(right(), {"00.2": "", "00.3": "", "00.4": ""}))
    unreadable = {
        "empty file": b"",
        "spaces only": b" \n\n ",
        "invalid JSON": good[: len(good) // 2],
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10,
        "merge conflict": good.replace(b'"cells"', b'\n<<<<<<< HEAD\n"cells"\n=======\n"cells"\n>>>>>>> x\n', 1),
        "a list": b"[1, 2, 3]",
        "no cells": b'{"metadata": {}, "nbformat": 4}',
        "deep": b"[" * 10**6,
        "deep dicts": b'{"cells": ' * 10**5,
        "UTF-16 cut off": json.dumps(right()).encode("utf-16")[:-1],
        "21 MB": good + b" " * 21 * 10**6,
        "a number of 10,000 digits": b'{"cells": [], "n": ' + b"9" * 10_000 + b"}",
    }
    made = [
        Handed(f"Unreadable {name}", {"00_start.ipynb": data}, "unreadable", 0.0) for name, data in unreadable.items()
    ]
    for name, chapter in {"list": [], "dict": {}, "number": 0, "no such chapter": "99", "None": None}.items():
        made.append(Handed(f"Chapter {name}", {"00_start.ipynb": _bytes(right(chapter=chapter))}, "ok", all_of))
    old = _bytes(right(release={"id": "older"}))
    again = (("a/00_start.ipynb", half), ("b/00_start.ipynb", good))
    return [
        *made,
        Handed("Right", {"00_start.ipynb": good}, "ok", all_of),
        Handed("Zero cells", {"00_start.ipynb": b'{"cells": [], "metadata": {}, "nbformat": 4}'}, "needs review", 0.0),
        Handed("Wrong chapter", {"00_start.ipynb": _bytes(right("03"))}, "missing", 0.0, "is chapter 03"),
        Handed("Two files", {"00_start (1).ipynb": good, "00_start.ipynb": half}, "ok", all_of, "2 files"),
        Handed("Old release", {"00_start.ipynb": old}, "wrong release", all_of, "older"),
        Handed("In a zip", {"mine.zip": _zip(("deep/in/00_start.ipynb", good))}, "ok", all_of),
        Handed("Leaves the zip", {"mine.zip": _zip(("../../../00_start.ipynb", good))}, "unreadable", 0.0, "leaves"),
        Handed("Absolute in the zip", {"mine.zip": _zip(("/tmp/00_start.ipynb", good))}, "unreadable", 0.0, "leaves"),
        Handed("No zip at all", {"mine.zip": b"PK\3\4" + bytes(100)}, "unreadable", 0.0, "zip"),
        Handed("Zip in a zip", {"mine.zip": _zip(("inner.zip", _zip(*again)))}, "unreadable", 0.0, "within a zip"),
        Handed("Lying zip", {"mine.zip": _zip(("00_start.ipynb", b"\0" * 99_000_123), lie=1_000)}, "unreadable", 0.0),
        Handed("=1+1;@SUM(A1)", {"00_start.ipynb": good}, "ok", all_of),
        Handed("Zoë 李明 <b>x&", {"00_start.ipynb": good}, "ok", all_of),
    ]  # fmt: skip
