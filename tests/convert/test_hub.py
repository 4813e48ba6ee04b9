"""The first use of a hub id: whatever goes wrong is one line with the way out, in bounded time."""

import errno
import os
import socket
import subprocess
import sys
import time

import huggingface_hub
import pytest

from convert import __main__ as command
from convert.files import hub as client
from mlx_sd.core.embedded import EMBEDDED
from tests.support import hub_server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the embedded checkpoint as owner/name, an empty cache, no token and no proxy."""
    with hub_server.alone(EMBEDDED["tiny"], tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def convert(tmp_path, capsys):
    """convert() -> (exit code, standard error) of the conversion of owner/name to tmp_path/out."""

    def run():
        code = command.main(["--model", "owner/name", "--out", str(tmp_path / "out")])
        return code, capsys.readouterr().err

    return run


def _refused(convert, tmp_path, code, words):
    actual, err = convert()
    assert (actual, err.count("\n")) == (code, 1) and words in err, err
    assert not (tmp_path / "out").exists()
    return err


def test_it_is_downloaded_converted_and_read_from_the_cache_without_a_connection(hub, convert, tmp_path):
    assert convert()[0] == 0 and (tmp_path / "out/model.json").is_file()
    hub.trouble = "broken"
    (tmp_path / "out").rename(tmp_path / "first")
    assert convert()[0] == 0


# Trouble -> exit code, words of the one line.
EVERYWHERE = {
    "unknown": (2, "owner/name is neither a folder here nor a repository on the hub; check the spelling, or, if it is"),
    "gated": (2, "asks you to accept its licence on the hub: open http"),
    "no token": (2, "/owner/name, then `hf auth login`, or set HF_TOKEN"),
    "refused": (2, "the hub refuses owner/name (403), for there is no token; `hf auth login`"),
    "busy": (1, "the hub has had too many requests from here (429); wait some minutes"),
    "broken": (2, "is not on this machine and the hub cannot be reached (it answers 500); connect once"),
}


@pytest.mark.parametrize("trouble", EVERYWHERE)
def test_trouble_with_the_repository_is_one_line(trouble, hub, convert, tmp_path):
    hub.trouble = trouble
    _refused(convert, tmp_path, *EVERYWHERE[trouble])
    assert len(hub.requests) <= 20  # no storm


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("gated", "asks you to accept its licence on the hub: open http"),
        ("no token", "then `hf auth login`, or set HF_TOKEN"),
        ("refused", "the hub refuses owner/name (403)"),
    ],
)
def test_a_repository_whose_list_is_public_and_whose_files_are_not(trouble, words, hub, convert, tmp_path):
    hub.file_trouble = trouble
    _refused(convert, tmp_path, 2, words)
    assert len(hub.requests) <= 100


def test_with_a_token_the_line_is_about_the_account(hub, convert, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.trouble = "gated"
    assert "hf_secret" not in _refused(convert, tmp_path, 2, "with an account that may read it")
    hub.trouble = "unknown"
    _refused(convert, tmp_path, 2, "if it is private, your token may not read it")


def test_a_download_that_stops_is_resumed_by_the_next_run(hub, convert, tmp_path):
    hub.file_trouble = "half"
    _refused(convert, tmp_path, 1, "the download of owner/name stopped")
    (snapshot,) = tmp_path.glob("cache/models--owner--name/snapshots/*")
    complete = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    hub.trouble = "broken"
    _refused(convert, tmp_path, 2, "the download of owner/name is not complete (")
    hub.trouble = hub.file_trouble = None
    hub.requests.clear()
    assert convert()[0] == 0
    downloads = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert complete and downloads
    assert not complete & {path.partition(f"{hub_server.COMMIT}/")[2] for path in downloads}


def test_a_hub_that_is_silent_is_given_up_in_bounded_time(hub, convert, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_TIMEOUT", 0.3)
    hub.trouble = "silent"
    clock = time.monotonic()
    _refused(convert, tmp_path, 2, "the hub cannot be reached (it does not answer in time)")
    assert time.monotonic() - clock < 10


def _closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_no_connection_and_no_proxy(hub, convert, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    _refused(convert, tmp_path, 2, "the hub cannot be reached (no connection); connect once to download it")


def test_a_proxy_that_fails_is_named_without_its_password(hub, convert, tmp_path, monkeypatch):
    port = _closed_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
    err = _refused(convert, tmp_path, 2, f"cannot be reached (by the proxy 127.0.0.1:{port}; check HTTP_PROXY)")
    assert "secret" not in err


def test_a_disk_without_space_is_noticed_before_and_during_the_download(hub, convert, tmp_path, monkeypatch):
    hub.sizes = {"unet/diffusion_pytorch_model.safetensors": 10**18}
    _refused(convert, tmp_path, 1, "owner/name takes 1000000000.0 GB in ")
    assert not any("/resolve/" in path for _, path, _ in hub.requests)
    hub.sizes = {}

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")

    monkeypatch.setattr(client, "snapshot_download", full)
    _refused(convert, tmp_path, 1, "is full; free some space, or set HF_HOME")


def test_a_cache_that_cannot_be_written_is_named(hub, convert, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "cache/x"))

    monkeypatch.setattr(client, "snapshot_download", refuse)
    _refused(convert, tmp_path, 1, "cannot be written (Permission denied); set HF_HOME")


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [None, "gated", "broken"])
def test_as_a_process_of_its_own(trouble, hub, tmp_path):
    """With HF_ENDPOINT, which the client reads when it is imported."""
    hub.trouble = trouble
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    arguments = ["-m", "convert", "--model", "owner/name", "--out", str(tmp_path / "out")]
    clock = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == (0 if trouble is None else 2), done.stderr
    assert done.stderr.count("\n") == (0 if trouble is None else 1), done.stderr
    assert time.monotonic() - clock < 60
