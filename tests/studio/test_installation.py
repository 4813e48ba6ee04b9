"""Models of the hub are installed by a process of their own: whole or not at all, and never by a path."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_sd import model_list
from mlx_sd.core.embedded import EMBEDDED
from mlx_sd.core.errors import InputError
from mlx_sd.studio.jobs.job import API, Origin
from mlx_sd.studio.models.catalog import Catalog
from mlx_sd.studio.models.installation import Installer, check_hub_id
from tests.studio.galleries import Caller, Heard, studio
from tests.support import hub_server

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the embedded checkpoint as owner/name, for processes that are started; the cache is empty."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with hub_server.serve(EMBEDDED["tiny"]) as running:
        for name, value in {
            "HF_ENDPOINT": running.endpoint,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "MLX_SD_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def installer():
    heard = Heard()
    opened = Installer(heard, Catalog())
    opened.heard = heard.events
    yield opened
    opened.close()
    opened.join(5)


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(entry):
    wait_until(lambda: entry.state in ("done", "failed", "cancelled"))
    return entry


def cached(tmp_path):
    folder = tmp_path / "cache"
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize("text", ("owner/name", "stabilityai/stable-diffusion-2-1", "a/b", "a_b/c.d-e", "0/1"))
def test_hub_ids_are_taken(text):
    assert check_hub_id(text) == text


@pytest.mark.parametrize(
    "text",
    (
        *("owner", "owner/name/file", "/etc/passwd", "../x", "x/..", "./x", "x/.", "~/x", "a//b", "a/b@main", "a/b:c"),
        *(
            "https://huggingface.co/a/b",
            "a/b?x",
            "a/b#c",
            "a/b c",
            "a/b\n",
            "a/b\0",
            "a\\b",
            "a/b.safetensors",
            "a/b.git",
        ),
        *("a/b.ckpt", "-a/b", "a/--b", "a/b--c", "é/b", "a/" + "b" * 200, "", "a/", "/b", None, 7, ["a/b"], {"a": "b"}),
    ),
)
def test_everything_else_is_refused_in_one_line(text, installer):
    with pytest.raises(InputError, match="a model of the hub is named owner/name"):
        installer.submit(text)
    assert installer.listing() == [] and installer._thread is None


@pytest.mark.slow
def test_a_model_is_downloaded_converted_and_listed_with_progress(hub, installer, tmp_path):
    entry = installer.submit("owner/name")
    assert installer.submit("owner/name") is entry  # not twice
    assert ended(entry).state == "done", entry.error
    wait_until(lambda: installer.heard[-1].get("state") == "done")
    (model,) = model_list.cached()
    assert model.source == "owner/name" and (model.path / "model.json").is_file()
    events = [event for event in installer.heard if event["type"] == "installation"]
    states = [event["state"] for event in events]
    assert list(dict.fromkeys(states)) == ["queued", "downloading", "converting", "done"]
    for state in ("downloading", "converting"):
        counts = [event["done"] for event in events if event["state"] == state and event["total"]]
        totals = {event["total"] for event in events if event["state"] == state and event["total"]}
        assert counts == sorted(counts) and {counts[-1]} == totals
    assert {"type": "models"} in installer.heard


@pytest.mark.parametrize(
    ("trouble", "words"),
    (("unknown", "neither a folder here nor a repository"), ("gated", "asks you to accept its licence")),
)
def test_trouble_with_the_hub_is_one_line_and_nothing_is_installed(hub, installer, tmp_path, trouble, words):
    hub.trouble = trouble
    entry = ended(installer.submit("owner/name"))
    assert entry.state == "failed" and words in entry.error and "\n" not in entry.error
    assert cached(tmp_path) == []


def test_pickles_are_not_even_downloaded(hub, installer, tmp_path):
    parts = ("unet", "vae", "text_encoder", "tokenizer")
    index = json.dumps({part: ["diffusers", "Some"] for part in parts}).encode()
    hub.files = {"model_index.json": index} | {f"{part}/config.json": b"{}" for part in parts}
    hub.files |= {f"{part}/diffusion_pytorch_model.bin": b"\x80\x02" for part in parts}
    entry = ended(installer.submit("owner/name"))
    assert entry.state == "failed" and cached(tmp_path) == []
    assert str(tmp_path) not in entry.error and "owner/name" in entry.error
    assert not any(path.endswith(".bin") for _, path, _ in hub.requests)


def test_a_model_that_does_not_fit_on_the_disk_is_not_downloaded(hub, installer, tmp_path):
    hub.sizes = dict.fromkeys(hub.files, 10**15)
    entry = ended(installer.submit("owner/name"))
    assert entry.state == "failed" and "are free" in entry.error and cached(tmp_path) == []


def test_a_path_of_the_server_is_no_model(hub, installer, tmp_path, monkeypatch):
    """Even where the current folder has one of this name."""
    (tmp_path / "here/owner").mkdir(parents=True)
    (tmp_path / "here/owner/name").symlink_to(EMBEDDED["tiny"])
    monkeypatch.chdir(tmp_path / "here")
    hub.trouble = "unknown"
    assert ended(installer.submit("owner/name")).state == "failed"
    assert cached(tmp_path) == []


def test_cancelled_it_ends_at_once_and_the_next_begins(hub, installer, tmp_path):
    hub.file_trouble = "silent"
    first, second = installer.submit("owner/name"), installer.submit("owner/other")
    wait_until(lambda: first.state == "downloading" and installer._process is not None)
    process = installer._process
    third = installer.submit("owner/third")
    assert installer.cancel(third.id).state == "cancelled"
    hub.trouble = "unknown"
    clock = time.monotonic()
    assert installer.cancel(first.id).state == "cancelled"
    process.wait(10)
    assert time.monotonic() - clock < 6
    assert ended(second).state == "failed" and first.state == third.state == "cancelled"
    assert cached(tmp_path) == []
    assert installer.cancel(first.id) is first and first not in installer.listing()  # forgotten
    assert installer.cancel("0" * 16) is None


def test_at_most_some_wait(installer, monkeypatch):
    monkeypatch.setattr(installer, "_run", lambda: None)
    for number in range(9):
        installer.submit(f"owner/n{number}")
    with pytest.raises(RuntimeError, match="9 models wait"):
        installer.submit("owner/more")


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL))
def test_the_process_ends_with_the_server_however_that_ends(hub, number, tmp_path):
    hub.file_trouble = "silent"
    code = (
        "import sys, time; from mlx_sd.studio.models.installation import Installer\n"
        "from types import SimpleNamespace as N\n"
        "i = Installer(N(publish=lambda e: None), None); i.submit('owner/name');"
        "\nwhile not i._process: time.sleep(0.01)\nprint(i._process.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as server:
        child = int(server.stdout.readline())
        assert running(child)
        server.send_signal(number)
        server.wait()
    wait_until(lambda: not running(child), 30)
    assert cached(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("share", (0.2, 0.6))
def test_ended_while_it_converts_it_leaves_nothing(share, hub, installer, tmp_path, monkeypatch):
    """The conversion is slowed down, so that the end surely comes in the middle."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import time\nfrom mlx_sd.core import terminal\nbefore = terminal.observed\n"
        "def observed(tell):\n    def slowly(title, done, total):\n        tell(title, done, total)\n"
        f"        if title == 'convert' and done > {share} * total:\n            time.sleep(60)\n"
        "    return before(slowly)\nterminal.observed = observed\n"
    )
    monkeypatch.syspath_prepend(slow)
    entry = installer.submit("owner/name")
    wait_until(lambda: entry.state in ("converting", "failed"))
    wait_until(lambda: any(name.endswith(".part") for name in cached(tmp_path)))
    time.sleep(share)
    process = installer._process
    installer.cancel(entry.id)
    process.wait(20)
    assert cached(tmp_path) == []


@pytest.mark.slow
def test_routes_install_list_and_remove(hub, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    with studio(folder) as opened:
        caller = Caller(opened)

        def call(method, path, **options):
            answer = caller(method, path, **options)
            return answer.status_code, answer.json()

        assert call("POST", "/api/models", json={"hub": "../x"})[0] == 400
        status, answer = call("POST", "/api/models", json={"hub": "owner/name"})
        assert status == 202
        entry = next(e for e in opened.installer.listing() if e.id == answer["installation"]["id"])
        assert ended(entry).state == "done", entry.error
        wait_until(lambda: any(model.place == "cache" for model in opened.catalog.models()))
        (model,) = (m for m in call("GET", "/api/models")[1]["installed"]["models"] if m["place"] == "cache")
        jobs = opened.submit({"model": model["id"], "prompt": "x", "steps": 1}, Origin(API, "test"), keep=False)
        assert call("DELETE", f"/api/models/{model['id']}")[0] == 409  # a job needs it
        opened.queue.remove(jobs[0].id)
        opened.worker._model.loaded = model["id"]
        assert call("DELETE", f"/api/models/{model['id']}")[0] == 409  # it is loaded
        opened.worker._model.loaded = None
        assert call("DELETE", "/api/models/tiny")[0] == 400
        assert call("DELETE", f"/api/models/{model['id']}") == (200, {"removed": model["id"]})
        assert model_list.cached() == [] and call("DELETE", f"/api/models/{model['id']}")[0] == 404
        assert call("DELETE", f"/api/installations/{entry.id}")[0] == 200
        assert call("GET", "/api/models")[1]["installations"] == []
