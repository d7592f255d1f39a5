"""The processes in which answers run: a server that has torch ready, a template per exercise, a worker per answer.

Run as a program, `python -I worker.py FD FOLDER ...`. It imports nothing of minillama before a template is asked for: a
template puts a tree without the solution (strip.py) at the head of `sys.path`, and its workers never had any other.
Each talks JSON over its control socket; a worker's own socket carries the wire of `course/answers.py`.

What confines a worker, as far as the system has it: limits (time, memory, files), an environment and a folder of its
own, Landlock (Linux 5.13: no file but the libraries', the tree's and its own; no TCP; no signals to others),
namespaces (no network, no process but its own), and a filter of system calls (no socket of any kind). Whatever a worker
started is killed with it.
"""

import ctypes
import gc
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

if sys.platform == "linux":  # the grader imports this file elsewhere too, and starts no server there
    import resource

    LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
NEW_USER, NEW_NET, NEW_PID, NEW_IPC, NEW_MOUNT = 0x10000000, 0x40000000, 0x20000000, 0x08000000, 0x00020000
PRIVATE = 1 << 18 | 1 << 14  # mounts made here are seen here only
MIB = 2**20


def receive(channel: socket.socket, n_fds: int = 0) -> tuple[dict, list[int]] | None:
    """The next message of a control socket, and the descriptors that came with it; None at its end."""
    data, fds, _, _ = socket.recv_fds(channel, 2**20, n_fds)
    return (json.loads(data), fds) if data else None


def tell(channel: socket.socket, message: dict, fds: list[int] = ()):  # type: ignore[assignment]
    socket.send_fds(channel, [json.dumps(message).encode()], list(fds))


def serve(control: socket.socket):
    """The server: import torch once, then fork a template for each tree that is asked for."""
    import numpy  # noqa: F401
    import torch

    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.zeros(4, 4))  # what torch imports or sets up when first used, it does here
    (weight @ torch.randn(4, 4)).sum().backward()
    torch.optim.SGD([weight], lr=0.1).step()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # templates end when the grader closes their sockets
    tell(control, {"ready": True})
    while message := receive(control, 1):
        task, (fd,) = message
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _leave(template, socket.socket(fileno=fd), Path(task["tree"]))
        os.close(fd)


def template(control: socket.socket, tree: Path):
    """One exercise: import the package without its solution, then fork a worker for each answer, one at a time."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a worker leaves behind becomes a child of this process
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
    sys.path.insert(0, str(tree))
    import minillama.course.answers

    assert Path(minillama.__file__).is_relative_to(tree), f"{minillama.__file__} is not in {tree}"
    readable = [*_libraries(), str(tree)]
    gc.freeze()  # workers share these pages
    tell(control, {"ready": True})
    while message := receive(control, 1):
        task, (fd,) = message
        folder = tempfile.mkdtemp(prefix="worker-", dir=task["folder"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            control.close()
            _leave(_watch, fd, writing, folder, readable, task)
        os.close(fd)
        os.close(writing)
        with open(reading, "rb") as pipe:
            pid = int(pipe.readline() or 0)
            tell(control, {"pid": pid})
            if receive(control) is None:  # the grader is gone
                _kill_below()
                break
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL) if pid else None
            status = pipe.readline().decode().strip()
        _kill_below()
        shutil.rmtree(folder, ignore_errors=True)
        used = os.times()
        tell(control, {"ended": status or "killed, 0 s", "cpu": sum(used[:4])})
    _kill_below()


def _watch(fd: int, writing: int, folder: str, readable: list[str], task: dict):
    """Between template and worker: enters new namespaces, of which the worker is the first process."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    spaces = _new_namespaces(folder) if task["confine"] else []
    child = os.fork()
    if child == 0:
        os.close(writing)
        _leave(_work, socket.socket(fileno=fd), folder, readable, task, spaces)
    os.close(fd)
    os.write(writing, f"{child}\n".encode())
    _, status, used = os.wait4(child, 0)
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    os.write(writing, f"{how}, {used.ru_utime + used.ru_stime:.2f} s\n".encode())


def _leave(function, *args):
    """Run the rest of a forked process, and end it whatever happens: it must not go on as its parent."""
    try:
        function(*args)
    except BaseException:
        if "MINILLAMA_WORKER_ERRORS" in os.environ:
            import traceback

            traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _kill_below():
    """Kill all children of this process, and those that become its children meanwhile, until there are none."""
    for _ in range(10_000):
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        for pid in children.read_text().split() if children.exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return


def _work(channel: socket.socket, folder: str, readable: list[str], task: dict, spaces: list[str]):
    """The worker: confine itself, say how well that went, and answer requests until there are no more."""
    from minillama.course.answers import converse

    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    for name in list(os.environ):
        del os.environ[name]
    os.environ |= {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": os.defpath,
        "CUDA_VISIBLE_DEVICES": "",
        "LC_ALL": "C.UTF-8",
    }
    tempfile.tempdir = None
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, 1024)
    held = ["limits", *spaces]
    _limit(task)
    if task["confine"]:
        landlock = _landlock(folder, readable)
        held += [landlock] if landlock else []
        _drop_capabilities()
        held += ["few system calls"] if _no_system_calls() else []
    tell(channel, {"held": held})
    converse(channel.makefile("rb"), channel.makefile("wb"))


def _limit(task: dict):
    memory = _address_space() + task["memory_mib"] * MIB
    for limit, value in {
        resource.RLIMIT_CPU: task["cpu_seconds"],
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 16 * MIB,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 256,
    }.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _address_space() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 2**30


def _new_namespaces(folder: str) -> list[str]:
    """Leave the network and the processes of others, and bound what the folder holds. -> what worked"""
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(NEW_MOUNT) != 0:  # who is not root needs a user namespace first
        if LIBC.unshare(NEW_USER | NEW_MOUNT) != 0:
            return []
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with suppress(OSError):
                Path("/proc/self", file).write_text(text)
    if LIBC.mount(b"none", b"/", None, PRIVATE, None) == 0:
        LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=64m,nr_inodes=4k,mode=700")
    return [name for name, flag in (("no network", NEW_NET), ("own processes", NEW_PID), ("own memory", NEW_IPC))
            if LIBC.unshare(flag) == 0]  # fmt: skip


def _drop_capabilities():
    """A root's process loses root's rights over files, devices and other processes."""
    header, empty = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    LIBC.capset(header, empty)


# Calls of the kernel that an answer has no business with: sockets, other processes' memory, namespaces, mounts, ...
REFUSED = {
    "x86_64": (0xC000003E, (41, 42, 49, 101, 165, 166, 155, 250, 272, 298, 308, 310, 311, 321, 323, 425, 438, 442)),
    "aarch64": (0xC00000B7, (198, 203, 200, 117, 40, 39, 41, 219, 97, 241, 268, 270, 271, 280, 282, 425, 438, 442)),
}


def _no_system_calls() -> bool:
    """Refuse REFUSED with "operation not permitted", by a seccomp filter. -> whether that holds"""
    if os.uname().machine not in REFUSED:
        return False
    architecture, numbers = REFUSED[os.uname().machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # of the kernel's filter machine
    allow, refuse = 0x7FFF0000, 0x00050001
    n = len(numbers)
    program = [(load, 0, 0, 4), (equal, 0, n + 3, architecture), (load, 0, 0, 0), (at_least, n + 1, 0, 0x40000000)]
    program += [(equal, n - i, 0, number) for i, number in enumerate(numbers)]
    program += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return LIBC.prctl(PR_SET_SECCOMP, 2, header, 0, 0) == 0


# Landlock, as in Linux's include/uapi/linux/landlock.h
READ = 1 << 2 | 1 << 3  # files, folders; not EXECUTE: no program is started
ALL_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
OF_A_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # rights that make sense for what is no folder


def _landlock(folder: str, readable: list[str]) -> str:
    """Let this process read what it needs, write its own folder, and reach nobody. -> what holds, "" if nothing"""
    abi = LIBC.syscall(444, None, 0, 1)
    if abi < 1:
        return ""
    everything = ALL_FILES[min(abi, 5)]
    handled = struct.pack("QQQ", everything, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    ruleset = LIBC.syscall(444, handled, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    if ruleset < 0:
        return ""
    rights = {path: READ for path in readable} | {folder: everything & ~1, os.devnull: READ | 1 << 1}
    for path, allowed in rights.items():
        with suppress(OSError):
            fd = os.open(path, os.O_PATH)
            allowed &= everything if os.path.isdir(path) else everything & OF_A_FILE
            LIBC.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, fd), 0)
            os.close(fd)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return f"Landlock {abi}" if LIBC.syscall(446, ruleset, 0) == 0 else ""


def _libraries() -> list[str]:
    """What Python and torch may read: the standard library and all packages but minillama, wherever it is installed."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    shared = {os.path.realpath(folder) for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")}
    inside = [
        os.path.join(folder, name)
        for folder in [os.path.dirname(os.__file__), *packages, *shared]
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if "minillama" not in name and not name.endswith((".pth", "-packages"))
        if folder not in shared or not name.startswith("python")
    ]
    return [*inside, "/etc/ld.so.cache", "/dev/urandom", "/proc/cpuinfo", "/sys/devices/system/cpu"]


if __name__ == "__main__":
    sys.path += sys.argv[2:]  # where the grader has its packages from, if this Python does not know
    serve(socket.socket(fileno=int(sys.argv[1])))
