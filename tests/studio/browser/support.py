"""A Studio in a process of its own, and Chromium that may talk to it alone."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from mlx_sd import metadata
from mlx_sd.request import Request

ROOT = Path(__file__).parents[3]
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PATIENCE = 90_000  # milliseconds, on a machine that does other things
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_ADDRESS = re.compile(r"(http://\S+)")


def chromium_path() -> str | None:
    """Returns the installed Chromium, None where there is none; MLX_SD_CHROMIUM names another one."""
    return os.environ.get("MLX_SD_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def studio(folder: Path, *arguments: str, port: int = 0) -> Iterator[str]:
    """Starts a Studio on a data folder and yields its address; ends it as a user does, by SIGTERM."""
    command = [sys.executable, "-m", "mlx_sd.studio", "--port", str(port), "--no-browser", "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = _ADDRESS.search(line)
            assert match, line + process.stdout.read()
            yield match[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def expect(subject):
    """Returns Playwright's assertions about a part of a page; the tests are collected without Playwright too."""
    from playwright.sync_api import expect as assertions

    return assertions(subject)


def is_ours(url: str) -> bool:
    """Returns whether an address stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or parts.hostname in LOOPBACK


class Watch:
    """Holds a page on this machine, and lists what it should not do."""

    def __init__(self, page):
        self.outside, self.problems = [], []
        page.set_default_timeout(PATIENCE)
        page.route("**/*", self._pass)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._listen)

    def _pass(self, route):
        if is_ours(route.request.url):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def _listen(self, message):
        # A refused request is listed too; those that a test provokes are answers, not mistakes of the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)


def opened(page, address, form=None, view="create"):
    """Opens a view of the page, with a form that is filled in where none was kept, and waits until it is ready."""
    values = {"steps": 3, "width": 64, "height": 64, "seed": 1} if form is None else form
    script = "(values) => { if (!localStorage.getItem('mlx-sd-form')) localStorage.setItem('mlx-sd-form', values) }"
    page.add_init_script(f"({script})({json.dumps(json.dumps(values))})")
    page.goto(f"{address}#{view}" if "#" not in address else address)
    page.wait_for_selector("body.ready")
    page.wait_for_selector('#connection[data-state="open"]')
    return page


def generate(page, prompt="a red tent on green grass"):
    """Makes a picture and returns the name of its file."""
    before = page.evaluate("document.querySelector('.recent-tile')?.dataset.name ?? ''")
    page.fill("#prompt-field", prompt)
    page.get_by_role("button", name="Generate", exact=True).click()
    newest = page.locator(f'.recent-tile:first-child:not([data-name="{before}"])')
    try:
        newest.wait_for()
        page.wait_for_selector('#stage[data-mode="done"] .stage-image.ready')
    except Exception as error:
        raise AssertionError(f"no new picture after {before!r}: {_state(page)}") from error
    return newest.get_attribute("data-name")


def _state(page) -> str:
    """Returns what the page shows and what the server says of its jobs, for a test that waited in vain."""
    parts = {
        "connection": page.evaluate("document.querySelector('#connection').dataset.state"),
        "stage": page.evaluate("document.querySelector('#stage').dataset.mode"),
        "text": page.inner_text("body")[:2000],
        "pictures": page.evaluate("[...document.querySelectorAll('.recent-tile')].map((tile) => tile.dataset.name)"),
        "invalid": page.evaluate("[...document.querySelectorAll(':invalid')].map((part) => part.outerHTML)"),
        "jobs": page.evaluate("fetch('/api/jobs').then((answer) => answer.text())"),
    }
    return json.dumps(parts, indent=2)


def png(path, size=(64, 64), colour=(200, 40, 30), settings=None):
    """Writes a picture of one colour, with settings as ours have them where they are given."""
    values = None if settings is None else Request(**settings).to_json()
    metadata.save(Image.new("RGB", size, colour), path, values)
    return path


DROP = """
({ target, bytes, name, type }) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector(target).dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}
"""


def drop(page, path, target="#stage"):
    """Drops a file on an element of the page, as from a file manager."""
    values = {"target": target, "bytes": base64.b64encode(path.read_bytes()).decode(), "name": path.name}
    page.evaluate(DROP, {**values, "type": "image/png"})
