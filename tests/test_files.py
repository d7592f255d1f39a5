import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minillama.files import DiskFull, remove_stale_temps, replacing, sha256

OLD, NEW = b"old " * 50, b"new " * 5000
WRITE_HALF = """
import time
with replacing(path) as file:
    file.write(b"x" * 99_999)
    print("half", flush=True)
    time.sleep(30)
"""
posix = pytest.mark.skipif(os.name == "nt", reason="signals and file size limits are for POSIX")


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(OLD)
    return path


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def python(code: str, path: Path) -> subprocess.Popen:
    """Run `code` in another process; `path` and `replacing` are there."""
    start = f"from minillama.files import replacing; path = {str(path)!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_file_is_replaced_when_the_block_ends_well(path):
    with replacing(path) as file:
        file.write(NEW)
        assert path.read_bytes() == OLD  # until the very end
    assert path.read_bytes() == NEW
    assert names(path) == ["weights.bin"]


def test_a_file_that_was_not_there_is_made(tmp_path):
    with replacing(tmp_path / "first") as file:
        file.write(NEW)
    assert (tmp_path / "first").read_bytes() == NEW


def test_the_bytes_are_on_the_disk_before_the_file_takes_its_place_and_the_folder_after(path, monkeypatch):
    steps, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda _: steps.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), replace(*names)))
    with replacing(path) as file:
        file.write(NEW)
    assert steps == ["fsync", "replace", "fsync"] or os.name == "nt"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interruption_keeps_the_old_file_and_leaves_nothing_behind(path, interruption):
    with pytest.raises(interruption), replacing(path) as file:
        file.write(NEW)
        raise interruption
    assert path.read_bytes() == OLD
    assert names(path) == ["weights.bin"]


def test_two_writers_of_one_file_do_not_meet(path):
    with replacing(path) as first, replacing(path) as second:
        first.write(OLD * 2)
        second.write(NEW)
    assert path.read_bytes() == OLD * 2  # the one that ended last, whole


@posix
def test_a_process_killed_while_writing_leaves_the_old_file_and_a_temp_that_is_cleaned(path):
    process = python(WRITE_HALF, path)
    assert process.stdout and process.stdout.readline() == "half\n"
    assert path.read_bytes() == OLD

    assert remove_stale_temps(path.parent) == []  # it is alive
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert path.read_bytes() == OLD
    assert len(names(path)) == 2
    removed = remove_stale_temps(path.parent)
    assert [temp.name.startswith(f".weights.bin.{process.pid}.") for temp in removed] == [True]
    assert names(path) == ["weights.bin"]


@posix
def test_ctrl_c_in_a_real_process_leaves_the_old_file_alone(path):
    process = python(WRITE_HALF, path)
    assert process.stdout and process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert path.read_bytes() == OLD
    assert names(path) == ["weights.bin"]


def test_only_temps_of_dead_processes_are_cleaned(tmp_path):
    dead = python("", tmp_path / "x")
    dead.communicate(timeout=30)
    kept = [
        f".mine.{os.getpid()}.0123abcd.tmp",
        f"no-dot.{dead.pid}.0123abcd.tmp",
        f".other.{dead.pid}.tmp",
        f".other.{dead.pid}.0123abcd.txt",
        "notes.tmp",
    ]
    stale = [f".a.{dead.pid}.0123abcd.tmp", f".b.c.{10**15}.00000000.tmp"]
    for name in kept + stale:
        (tmp_path / name).touch()
    assert [temp.name for temp in remove_stale_temps(tmp_path)] == stale
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


@posix
def test_a_full_disk_keeps_the_old_file_and_says_how_much_is_needed(path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    process = python(limited + "with replacing(path) as file: file.write(b'x' * 5000)", path)
    _, stderr = process.communicate(timeout=30)
    message = stderr.splitlines()[-1]
    assert f"{path}: file size limit reached: needs 5,000 bytes, " in message
    assert "free on the disk; make room" in message
    assert path.read_bytes() == OLD
    assert names(path) == ["weights.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is for Linux")
def test_a_device_without_room_is_called_a_full_disk(path):
    message = r"weights.bin: disk full: needs 12.0 MB, .* free on the disk"
    with (
        pytest.raises(DiskFull, match=message),
        replacing(path, size=12_000_000),
        open("/dev/full", "wb") as full,
    ):
        full.write(b"x")
    assert path.read_bytes() == OLD


def test_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
