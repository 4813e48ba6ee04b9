"""The command mlx-sd studio: it starts, says where it is, and ends in order."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from mlx_sd.studio import command
from tests.support.studio import ROOT, SMALL, end, start


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "mlx_sd.studio", "--no-browser", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_it_in_five_seconds_with_jobs_running_and_streams_open(tmp_path, number, interruptible):
    server = start(tmp_path)
    with server.client as client:
        answer = client.post("/api/jobs", json={"request": SMALL | {"steps": 900}, "client": "p", "count": 3})
        first = answer.json()["jobs"][0]["id"]
        with client.stream("GET", "/api/events") as events:
            for line in events.iter_lines():
                if '"evaluation": 2' in line:
                    break
            clock = time.monotonic()
            code, errors = end(server, number)
            seconds = time.monotonic() - clock
    assert (code, errors) == (0, "") and seconds < 5
    assert not list(tmp_path.glob("*.png"))
    again = start(tmp_path)
    with again.client as client:
        jobs = {job["id"]: job["state"] for job in client.get("/api/jobs").json()["jobs"]}
        assert len(jobs) == 3 and jobs[first] in ("queued", "running")
    assert end(again, signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_two_servers_do_not_share_a_folder(tmp_path):
    server = start(tmp_path)
    try:
        code, out, error = run("--port", "0", "--folder", tmp_path)
        assert (code, out) == (2, "") and error.count("\n") == 1 and "another server uses the folder" in error
    finally:
        assert end(server, signal.SIGTERM)[0] == 0


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, error = run("--port", port, "--folder", tmp_path)
    assert (code, out) == (2, "") and error.count("\n") == 1 and f"port {port}" in error and "--port" in error


def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys):
    short = tmp_path / "token"
    short.write_text("short")
    (tmp_path / "file").write_text("")
    for arguments, words in (
        (["--port", "70000"], "--port must be from 0 to 65535"),
        (["--queue", "0"], "--queue must be from 1"),
        (["--lora-folder", tmp_path / "missing"], "does not exist"),
        (["--embeddings-folder", tmp_path / "file"], "is no folder"),
        (["--models-folder", tmp_path / "missing"], "does not exist"),
        (["--token-file", short], "at least 16"),
        (["--token-file", tmp_path / "missing"], "cannot be read"),
        (["--folder", tmp_path / "file" / "x", "--port", "0"], "cannot be used"),
        (["--model", "/no/such/model", "--folder", tmp_path / "a", "--port", "0"], "unknown model"),
    ):
        code = command.main([*map(str, arguments), "--no-browser"])
        out, error = capsys.readouterr()
        assert code in (1, 2) and out == "" and error.count("\n") == 1 and words in error, error


def test_without_its_libraries_it_says_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["--no-browser"]) == 2
    assert "pip install 'mlx-sd[studio]'" in capsys.readouterr().err


@pytest.mark.slow
def test_for_other_machines_there_is_a_token_in_the_address(tmp_path):
    code = """
import sys
from mlx_sd.studio import command
from mlx_sd.studio.server import server
server.run = lambda studio, listener, started, grace: (started(), studio.journal.close())
print(studio_main := command.main(["--listen", "--port", "0", "--no-browser", "--folder", sys.argv[1]]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tokens = set()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
        )
        tokens.add(re.search(r"http://[\w.-]+:\d+/#token=([\w-]{32})\s", done.stdout)[1])
    assert len(tokens) == 2


LIBRARIES = "import mlx_sd, mlx.core, numpy, PIL.Image, starlette.applications, starlette.staticfiles, uvicorn"


@pytest.mark.slow
def test_the_page_is_there_before_any_model_is_loaded(tmp_path):
    """CPU seconds until it answers, beside those of its libraries' imports: half a second, where they take a third.

    The limit leaves room for a busy machine.
    """
    before = os.times()
    subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
    after = os.times()
    imports = after.children_user + after.children_system - before.children_user - before.children_system
    server = start(tmp_path)
    with server.client as client:
        client.get("/")
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    end(server, signal.SIGTERM)
    assert seconds < 4 * imports


@pytest.mark.slow
def test_a_server_that_answers_nobody_ends_too(tmp_path):
    server = start(tmp_path)
    assert httpx.get(f"{server.address}/api/nothing").status_code in (403, 404)
    code, errors = end(server, signal.SIGTERM)
    assert (code, errors) == (0, "")
