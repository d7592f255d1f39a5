"""Files that are never half written. A reader finds the old file or the new one, whatever happens."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file size limit reached",
}
_TEMP = re.compile(r"\..+\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


class DiskFull(OSError):
    """There is no room for the file that was being written; the old one is as it was."""


@contextmanager
def replacing(path: str | Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Give a new binary file (read and write) that becomes `path` when the block ends well.

    The bytes go to `.NAME.PID.RANDOM.tmp` in the same folder, are forced to the disk, and then take
    the place of `path` in one step. If anything interrupts the block, Ctrl-C included, that file is
    deleted and the old one stays; after a kill only the temp file is left (`remove_stale_temps`).
    `size`, in bytes, is only for the message of DiskFull. Errors: DiskFull, or what the block raises.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "notes.txt")
    >>> with replacing(path) as file:
    ...     _ = file.write(b"all or nothing")
    >>> path.read_text()
    'all or nothing'
    """
    path = Path(path)
    temp = _temp_name(path)
    written = 0
    try:
        with open(temp, "x+b") as file:
            try:
                yield file
            finally:
                written = file.tell()  # before close: it may fail on a full disk, and then nobody knows
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException as error:
        with suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError) and error.errno in _FULL:
            needed, free = megabytes(max(written, size or 0)), megabytes(shutil.disk_usage(path.parent).free)
            raise DiskFull(
                f"{path}: {_FULL[error.errno]}: needs {needed}, {free} free on the disk; "
                "make room and try again, nothing was changed"
            ) from error
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Give a new folder to fill, that becomes `folder` when the block ends well, in place of an earlier one.

    The same promise as `replacing` makes for a file, but for the moment between two renames if there was an earlier
    folder: a kill right then leaves neither under its name.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (_temp_name(folder) for _ in range(2))
    new.mkdir()
    try:
        yield new
        _sync_folder(new)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def scratch_folder(name: str) -> Path:
    """Make a folder of this user's in the system's temporary one, for the caller to delete.

    Those that killed processes left there are deleted first (`remove_stale_temps`).
    """
    there = Path(tempfile.gettempdir())
    remove_stale_temps(there)
    folder = _temp_name(there / name)
    folder.mkdir(mode=0o700)
    return folder


def remove_stale_temps(folder: str | Path) -> list[Path]:
    """Delete the temp files and folders that killed processes of this machine left in `folder`, and list them.

    Only names that `replacing` and `replacing_folder` make are looked at, and only if their process is no longer there.
    """
    removed = []
    for temp in sorted(Path(folder).glob(".*.tmp")):
        name = _TEMP.fullmatch(temp.name)
        if name and not _is_running(int(name["pid"])):
            with suppress(OSError):  # in use (Windows), not ours to delete, or another process was faster
                shutil.rmtree(temp) if temp.is_dir() else temp.unlink()
                removed.append(temp)
    return removed


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(n_bytes: int) -> str:
    """Bytes for a reader: '12.3 MB', and below 100 kB '1,549 bytes'."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 100_000 else f"{n_bytes:,} bytes"


def _temp_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return False  # os.kill would end it there; but a file in use cannot be deleted there either
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open a folder; the file itself is on the disk already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
