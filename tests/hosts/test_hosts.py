"""mlx-sd hosts over a program in ssh's place: every way a host can be wrong has one line that names it."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mlx_sd
from mlx_sd.core import terminal
from mlx_sd.core.embedded import EMBEDDED
from mlx_sd.hosts import command, survey
from tests.support import fake_ssh, hub_server

ROOT = Path(mlx_sd.__file__).parent.parent

# Names of hosts -> the line about each
LINES = {
    "fine": r"ready   .+ \((cpu|gpu)\), [\d.]+ GB; mlx-sd [\d.]+, MLX [\d.]+, Python [\d.]+; clock [+-]0\.\d{3} s "
    r"\(within 0\.\d{3}\); [\d.]+ [GM]B free; answers in [\d.]+ ms",
    "noisy": r"ready   .+; note: its shell prints 'Welcome to noisy' at login, which MLX's launcher mixes into .+",
    "no-folder": r"ready   .+; note: it has not this folder, so that its rank starts in .+: give full paths, or --cwd",
    "older": r"NOT FIT  it has mlx-sd 0\.0\.9, and fine [\d.]+; install the same on both",
    "other-mlx": r"NOT FIT  it has MLX [\d.]+\.9, and fine [\d.]+; install the same on both",
    "hour": r"NOT FIT  its clock is 3600 s ahead of fine's; set both by network time",
    "no-mlx": r"NOT FIT  a part of mlx-sd is missing for .+ \(import of mlx\.core halted; None in .+\); in a .+",
    "no-module": r"NOT FIT  mlx-sd is not installed for .+; in a checkout of this version there: .+ -m pip .+",
    "no-python": r"NOT FIT  there is no .+ that runs; --python names the interpreter, by the path .+",
    "hangs": r"NOT FIT  it does not answer in 4 s",
    "crashes": r"NOT FIT  the check failed there: Killed: 9",
    "babbles": r"NOT FIT  it answers 'what\?', which is no answer",
    "newer": r"NOT FIT  its mlx-sd is 9\.0 and answers otherwise; in a checkout of this version there: .+",
    "password": r"NOT FIT  ssh asks for a password; put your key there with ssh-copy-id password",
    "keys": r"NOT FIT  ssh asks for a password; put your key there with ssh-copy-id keys",
    "unknown-key": r"NOT FIT  its host key is unknown here; run ssh unknown-key once and confirm it",
    "changed-key": r"NOT FIT  its host key has changed; if that is right, ssh-keygen -R changed-key",
    "refused": r"NOT FIT  it refuses ssh; on a Mac, switch on Remote Login in System Settings, General, Sharing",
    "asleep": r"NOT FIT  it does not answer; it is off, asleep, or in another network",
    "elsewhere": r"NOT FIT  it does not answer; it is off, asleep, or in another network",
    "nobody": r"NOT FIT  there is no host of this name, in the network or in ~/\.ssh/config",
}


@pytest.fixture(autouse=True)
def ssh(tmp_path, monkeypatch):
    """A program in ssh's place, in an empty folder, which finds this checkout as the hosts' mlx-sd."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "bin").mkdir()
    fake_ssh.install(tmp_path / "bin", monkeypatch)


@pytest.fixture
def check(tmp_path, capsys):
    """check(hosts, *options) -> (exit code, lines, stderr); hosts: of a hostfile, or names."""

    def call(hosts, *options):
        hosts = [{"ssh": host} if isinstance(host, str) else host for host in hosts]
        (tmp_path / "hosts.json").write_text(json.dumps(hosts))
        code = command.main(["hosts.json", *options])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return call


@pytest.mark.slow
def test_every_fault_of_a_host_has_one_line(check):
    code, lines, err = check(LINES, "--backend", "mpi", "--timeout", "4", "--output", "pictures")
    assert code == 1
    assert err.startswith("mlx-sd hosts: 18 of 21 hosts cannot take part in a run: older, other-mlx, hour, ")
    width = max(map(len, LINES))
    for line, (name, pattern) in zip(lines, LINES.items(), strict=True):
        assert re.fullmatch(f"{name:{width}}  {pattern}", line), line
    assert not Path("pictures").exists()


@pytest.mark.parametrize("name", fake_ssh.REFUSALS)
def test_a_host_that_ssh_cannot_reach_is_named_at_once(check, name):
    clock = time.monotonic()
    code, lines, _ = check([name], "--backend", "mpi")
    assert code == 1 and len(lines) == 1 and lines[0].startswith(f"{name}  NOT FIT  ")
    assert time.monotonic() - clock < 5


@pytest.mark.slow
def test_a_host_that_is_silent_is_named_within_ten_seconds(check):
    clock = time.monotonic()
    assert survey.Options("python", ".").patience <= 10
    code, [line], err = check(["hangs"], "--backend", "mpi", "--timeout", "1")
    assert code == 1 and line == "hangs  NOT FIT  it does not answer in 1 s"
    assert err == "mlx-sd hosts: the host cannot take part in a run: hangs\n"
    assert time.monotonic() - clock < 4


def free_port():
    """Returns the first of two ports that are free."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        return first.getsockname()[1]


def addresses_of_loopback(count):
    """Returns that many addresses of this machine, of which Macs have one alone."""
    for i in range(1, count + 1):
        with socket.socket() as trial:
            try:
                trial.bind((f"127.0.0.{i}", 0))
            except OSError:
                pytest.skip("this machine has one loopback address alone")
    return [f"127.0.0.{i}" for i in range(1, count + 1)]


def test_a_ring_of_two_is_tried_out_and_the_command_to_start_is_printed(check):
    one, two = addresses_of_loopback(2)
    port = str(free_port())
    hosts = [{"ssh": "127.0.0.1", "ips": [one]}, {"ssh": "fine", "ips": [two]}]
    code, lines, err = check(hosts, "--starting-port", port)
    assert code == 0
    for line, before in zip(lines, ("fine", "127.0.0.1"), strict=True):
        assert re.search(rf"  ready   .+; [\d.]+ ms and [\d.]+ [GM]B/s from {re.escape(before)}$", line)
    python = shlex.quote(sys.executable)
    start = f"mlx.launch --hostfile hosts.json --starting-port {port} -- {python} -m mlx_sd.generate ..."
    assert err == f"a run can start: {start}\n"


@pytest.mark.slow
def test_a_taken_port_and_a_foreign_address_are_named(check):
    one, two = addresses_of_loopback(2)
    with socket.socket() as taken:
        taken.bind((two, 0))
        taken.listen()
        port = taken.getsockname()[1]
        hosts = [{"ssh": "127.0.0.1", "ips": ["192.0.2.1"]}, {"ssh": "fine", "ips": [two]}]
        code, lines, _ = check(hosts, "--starting-port", str(port - 1))
    assert code == 1 and one
    assert lines[0].endswith("NOT FIT  192.0.2.1 is no address of it; the hostfile has others, or the cable is out")
    assert lines[1].endswith(
        f"NOT FIT  port {port} at {two} is taken by another program, or an earlier run; choose another --starting-port"
    )


@pytest.mark.slow
def test_another_model_at_the_same_path_is_named(check, tmp_path, monkeypatch):
    for folder, digest in (("here", "a" * 64), ("there", "b" * 64)):
        (tmp_path / folder / "m").mkdir(parents=True)
        about = {"format": "mlx-sd", "version": 3, "networks": {"unet": {}}, "source": {"sha256": {"x": digest}}}
        (tmp_path / folder / "m" / "model.json").write_text(json.dumps(about))
    os.replace(tmp_path / "here" / "m", tmp_path / "m")  # noqa: PTH105
    (tmp_path / "bin" / "hosts" / "other.sh").write_text(f'command=${{command//"{tmp_path}"/"{tmp_path}/there"}}\n')
    (tmp_path / "bin" / "hosts" / "without.sh").write_text(f'command=${{command//"{tmp_path}"/"{tmp_path}/bin"}}\n')
    code, lines, _ = check(["fine", "other", "without"], "--backend", "mpi", "--model", "m")
    assert code == 1
    assert re.search(r"  ready   .*; model [0-9a-f]{12}; ", lines[0])
    assert re.search(r"NOT FIT  its model is another: m has hash [0-9a-f]{12}, fine's [0-9a-f]{12}; copy", lines[1])
    assert re.search(r"NOT FIT  m does not exist", lines[2])


@pytest.mark.slow
def test_a_model_of_the_hub_is_looked_up_and_never_downloaded(check, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with hub_server.serve(EMBEDDED["tiny"]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        code, [line], _ = check(["fine"], "--backend", "mpi", "--model", "nobody/nothing")
        assert hub.requests == []
    assert code == 1
    assert line.endswith("NOT FIT  nobody/nothing is not downloaded, or not whole; make one picture with it first")


@pytest.mark.slow
def test_json_has_what_was_seen(check):
    code, lines, err = check(["fine", "refused"], "--backend", "mpi", "--json", "--model", "tiny")
    report = json.loads("\n".join(lines))
    assert code == 1 and err.count("\n") == 1
    assert report["fit"] is False and report["backend"] == "mpi"
    fine, refused = report["hosts"]
    assert fine["fit"] and fine["problems"] == [] and fine["host"] == "fine" and fine["rank"] == 0
    assert fine["mlx_sd"] == mlx_sd.__version__ and abs(fine["clock"]) <= fine["clock_error"] + 0.01
    assert fine["model"]["hash"] and fine["in_folder"] is True
    assert refused == {
        "host": "refused",
        "rank": 1,
        "fit": False,
        "problems": refused["problems"],
        "notes": [],
        "links": [],
    }


def test_a_wrong_hostfile_or_option_ends_with_2_before_anything_is_asked(check, capsys):
    assert check([])[0] == 2
    assert command.main(["missing.json"]) == 2
    assert capsys.readouterr().err == "mlx-sd hosts: missing.json does not exist\n"
    code, lines, err = check([{"ssh": "fine", "ips": ["127.0.0.1"]}], "--starting-port", "70000")
    assert (code, lines) == (2, []) and "needs the ports 70000 to 70000, and the last port is 65535" in err
    for option in ("--starting-port", "--connections-per-ip", "--timeout"):
        code, lines, err = check(["fine"], "--backend", "mpi", option, "0")
        assert (code, lines, err) == (2, [], f"mlx-sd hosts: {option} must be at least 1, not 0\n")


@pytest.mark.slow
def test_a_terminal_shows_whom_it_waits_for_and_a_pipe_nothing(check, monkeypatch):
    monkeypatch.setattr(terminal, "visible", lambda: True)
    _, _, err = check(["fine", "hangs"], "--backend", "mpi", "--timeout", "2")
    assert "\r\033[Kasking fine, hangs\r\033[Kasking hangs\r\033[K" in err


def test_there_must_be_an_ssh(check, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, lines, err = check(["fine"], "--backend", "mpi")
    assert (code, lines) == (2, []) and err.startswith("mlx-sd hosts: ssh is not installed on this machine")


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_no_process(tmp_path, interruptible):
    (tmp_path / "hosts.json").write_text('[{"ssh": "hangs"}, {"ssh": "fine"}]')
    words = [sys.executable, "-m", "mlx_sd.hosts", "hosts.json", "--backend", "mpi", "--timeout", "60"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "\nmlx-sd hosts: interrupted\n")
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
