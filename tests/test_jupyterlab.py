"""The notebooks in a real JupyterLab, in a real browser: what a reader sees after Run All.

The worked editions run in the nightly tests. Needs Debian's chromium (apt-get install chromium) and Playwright
(requirements-dev.txt); skipped where one is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from minillama.course.exercise import find

pytestmark = pytest.mark.slow
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
EVERY_NOTEBOOK = [
    pytest.param(name, marks=[pytest.mark.nightly] * name.startswith("solutions"))
    for name in sorted(str(path.relative_to(NOTEBOOKS)) for path in NOTEBOOKS.rglob("[0-9][0-9]_*.ipynb"))
]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # or cells out of sight are not on the page
}
PATIENCE = 240  # seconds; a chapter takes 30 on two cores that nobody else uses
PROMPTS = "prompts => prompts.map(prompt => prompt.textContent.trim())"
IMAGES = "images => images.map(image => [image.naturalWidth, image.naturalHeight, image.clientWidth])"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab with our settings and nobody else's, and a browser. Nothing in the repository is written."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install -r requirements-dev.txt")
    if BROWSER is None:
        pytest.skip("no browser: apt-get install chromium")
    home = tmp_path_factory.mktemp("jupyterlab")
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python",
              "display_name": "This Python"}  # fmt: skip
    for file, content in (("settings/overrides.json", SETTINGS), ("data/kernels/python3/kernel.json", kernel)):
        (home / file).parent.mkdir(parents=True)
        (home / file).write_text(json.dumps(content))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "MINILLAMA_GRADING", "XDG_"))}
    environment |= {f"JUPYTER_{name.upper()}_DIR": str(home / name) for name in ("config", "data", "runtime")}
    environment |= {
        "JUPYTER_PREFER_ENV_PATH": "0",  # the kernel above, not one that the environment has
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "MINILLAMA_FAST": "1",
        "MINILLAMA_PARTS": "parts",  # beside the notebook: what a worked edition keeps is not the learner's
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
               f"--ServerApp.root_dir={home / 'root'}", f"--LabApp.app_settings_dir={home / 'settings'}",
               f"--LabApp.workspaces_dir={home / 'workspaces'}"]  # fmt: skip
    (home / "root" / "solutions").mkdir(parents=True)
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        answering = _address(server, home)
        with playwright.sync_playwright() as driver:
            options = ["--disable-gpu", "--no-proxy-server"]
            browser = driver.chromium.launch(executable_path=BROWSER, args=options)
            yield SimpleNamespace(root=home / "root", browser=browser, **answering)
            browser.close()
    finally:
        server.terminate()  # and it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _address(server, home):
    """url and token, from the file that the server writes when it has found a free port and listens."""
    for _ in range(PATIENCE * 5):
        for file in (home / "runtime").glob("jpserver-*.json"):
            if file.stat().st_size:
                found = json.loads(file.read_text())
                return {"url": found["url"], "token": found["token"]}
        if server.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{(home / 'log').read_text()}")


@contextmanager
def opened(lab, book, name, tmp_path):
    """A page of the browser with this notebook, its kernel idle; a screenshot in tmp_path of what failed."""
    for cell in code_cells(book):
        cell["execution_count"] = None  # so that a number is of this run
    path = lab.root / name
    path.write_text(json.dumps(book))
    context = lab.browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(60_000)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(error))
    try:
        page.goto(f"{lab.url}lab/tree/{name}?reset&token={lab.token}")
        page.get_by_text("This Python | Idle").wait_for()
        yield page
        assert errors == []
    except BaseException:
        picture = tmp_path / f"{path.stem}.png"
        screenshot(page, picture)
        print(f"screenshot: {picture}")
        raise
    finally:
        token = {"Authorization": f"token {lab.token}"}
        for kernel in page.request.get(f"{lab.url}api/kernels", headers=token).json():
            page.request.delete(f"{lab.url}api/kernels/{kernel['id']}", headers=token)
        context.close()


def run_all(page, lab, name):
    """Run > Run All Cells, wait for the end or an error, save. -> the notebook as it was saved"""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    deadline, ended = time.monotonic() + PATIENCE, 0
    while ended < 2:  # twice, half a second apart
        page.wait_for_timeout(500)
        prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt").evaluate_all(PROMPTS)
        ended = ended + 1 if "[*]:" not in prompts and any(p.strip("[]: ").isdigit() for p in prompts) else 0
        assert time.monotonic() < deadline, f"{name}: not done after {PATIENCE} s; the prompts are {prompts}"
    page.get_by_text("This Python | Idle").wait_for()
    with page.expect_response(lambda response: response.request.method == "PUT" and "/api/contents/" in response.url):
        page.keyboard.press("Control+s")
    return json.loads((lab.root / name).read_text())


def errors_seen(page):
    """What stands on the page on red ground: errors, and what went to stderr."""
    return page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()


def images_seen(page):
    """[natural width, natural height, width on the page] of each image in an output."""
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    return page.locator(".jp-OutputArea-output img").evaluate_all(IMAGES)


def screenshot(page, path):
    """The whole notebook: the window is made as high as it."""
    heights = page.locator(".jp-WindowedPanel-outer").evaluate_all("panels => panels.map(panel => panel.scrollHeight)")
    page.set_viewport_size({"width": 1400, "height": min(16_000, max([800, *heights]) + 200)})
    page.wait_for_timeout(500)
    page.screenshot(path=path, timeout=60_000)


def read(name):
    return json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))


def code_cells(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def outputs(cells):
    return [output for cell in cells for output in cell["outputs"]]


def n_images(book):
    kinds = [kind for output in outputs(code_cells(book)) for kind in output.get("data", {})]
    return sum(kind.startswith("image/") for kind in kinds)


def text(outputs):
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.parametrize("name", EVERY_NOTEBOOK)
def test_a_notebook_runs_in_jupyterlab(lab, name, tmp_path):
    book = read(name)
    with opened(lab, book, name, tmp_path) as page:
        assert len(images_seen(page)) == n_images(book), "as it is stored, before it runs"
        saved = run_all(page, lab, name)
        cells, images = code_cells(saved), images_seen(page)
        assert [o for o in outputs(cells) if o["output_type"] == "error"] == []
        assert [error for error in errors_seen(page) if "font cache" not in error] == []  # matplotlib's, in a new home
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert len(images) == n_images(saved) == n_images(read(f"solutions/{Path(name).name}"))
        assert all(all(size > 100 for size in image) for image in images), images
        for cell in cells:
            if cell["metadata"].get("minillama", {}).get("role") == "check":
                exercise = find(cell["metadata"]["minillama"]["exercise"])
                mark = "✓" if name.startswith("solutions") else "○"
                assert text(cell["outputs"]).startswith(f"{mark} {exercise.id} {exercise.name}: "), cell["id"]
                assert ("not attempted" in text(cell["outputs"])) == (mark == "○")


def test_run_all_stops_at_a_wrong_attempt_with_the_diagnosis_and_no_traceback(lab, tmp_path):
    book = read("07_norm.ipynb")
    attempt = next(cell for cell in book["cells"] if cell["metadata"].get("minillama", {}).get("role") == "exercise")
    exercise = find(attempt["metadata"]["minillama"]["exercise"])
    mistake = f'find("{exercise.id}").mistakes[0].answer'
    attempt["source"] = f"from minillama.course.exercise import find\n{exercise.name} = {mistake}"
    with opened(lab, book, "wrong.ipynb", tmp_path) as page:
        cells = code_cells(run_all(page, lab, "wrong.ipynb"))
        stopped = next(i for i, cell in enumerate(cells) if cell["id"] == f"check-{exercise.id.replace('.', '-')}")
        ran = [cell["execution_count"] is not None for cell in cells]
        assert all(ran[: stopped + 1]) and not any(ran[stopped + 1 :])
        assert [output["output_type"] for output in outputs(cells[: stopped + 1])][-1] == "error"
        message = errors_seen(page)[-1]
        assert message.startswith(f"✗ {exercise.id} {exercise.name}: ") and "asked for:" in message
        assert f"→ {exercise.mistakes[0].text}" in " ".join(message.split())
        assert not any(word in message for word in ("Traceback", "Cell In", "CheckFailed", "File "))
