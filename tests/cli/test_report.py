"""What a run says: JSON with seconds of each phase, --quiet, --verbose, bars on a terminal."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.support.effort import slow_but

FAST = ("--steps", 4, "--width", 64, "--height", 64, "--seed", 5)
PHASES = ("encode_seconds", "denoise_seconds", "decode_seconds", "save_seconds")


@pytest.mark.parametrize("batch", slow_but([3], [1, 3]))
def test_the_seconds_of_all_pictures_are_the_seconds_of_the_run(run, batch):
    run("a tent", *FAST)  # what happens once in a process
    clock = time.perf_counter()
    out = run("a tent", *FAST, "--count", 5, "--batch", batch, "--json")[1]
    wall = time.perf_counter() - clock
    records = json.loads(out)
    assert [record["batch"] for record in records] == ([1] * 5 if batch == 1 else [3, 3, 3, 2, 2])
    for record in records:
        assert all(record[phase] > 0 for phase in PHASES)
        assert record["seconds"] == pytest.approx(sum(record[phase] for phase in PHASES), abs=1e-3)
        half = (
            record["evaluations"] / 2 * record["step_seconds_median"]
        )  # half of the evaluations take as long, or longer
        assert record["denoise_seconds"] * record["batch"] >= half - 1e-3
        assert record["load_seconds"] == records[0]["load_seconds"] > 0
    total = sum(record["seconds"] for record in records) + records[0]["load_seconds"]
    assert 0.5 * wall < total < wall


def test_decoding_counts(run, monkeypatch):
    """... which it did not: a slow decoder is seen in decode_seconds and in seconds, and nowhere else."""
    from mlx_sd import codec

    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *a: (time.sleep(0.3), decode(*a))[1])
    (record,) = json.loads(run("a tent", *FAST, "--json")[1])
    assert record["decode_seconds"] > 0.3 and record["seconds"] > 0.3
    assert record["load_seconds"] + record["denoise_seconds"] + record["save_seconds"] < record["seconds"] + 0.3


@pytest.mark.slow
def test_quiet_prints_nothing_and_verbose_the_phases(run):
    drawn = FAST[:-2]
    assert run("a tent", *drawn, "--quiet") == (0, "", "")
    code, out, err = run("a tent", *FAST, "--verbose", "--output", "a.png")
    assert (code, out) == (0, "a.png\n")
    assert re.search(r"loaded in [\d.]+ s\n", err)
    assert re.search(r"a\.png: [\d.]+ s \(encode [\d.]+ s, denoise [\d.]+ s, decode [\d.]+ s, save [\d.]+ s\)\n", err)
    assert json.loads(run("a tent", *FAST, "--quiet", "--json")[1])[0]["seed"] == 5
    code, out, err = run("a tent", *FAST, "--quiet", "--sampler", "magic")
    assert (code, out) == (2, "") and "unknown sampler" in err
    code, _, err = run("a tent", "--quiet", "--verbose")
    assert code == 2 and "not allowed with argument" in err


@pytest.mark.slow
def test_warnings_are_quiet_too(run):
    flags = ("a tent", *FAST, "--deepcache", 2)
    assert "DeepCache gains little" in run(*flags)[2]
    assert run(*flags, "--quiet")[2] == ""


def _on_a_terminal(tmp_path, *flags):
    """What the command prints on a terminal, standard output and error."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "mlx_sd.generate", *map(str, flags)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    text = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(parent)
    assert process.wait() == 0
    return text.decode()


@pytest.mark.slow
def test_a_terminal_shows_a_bar_of_the_picture_and_one_of_all(tmp_path):
    text = _on_a_terminal(tmp_path, "a tent", *FAST, "--count", 3, "--output", "p/")
    assert re.search(r"3/3 100%\|.*\| 4/4 \[", text)
    assert re.search(r"all 1/3 +\d+%\|[^|]*\| \[\d+:\d+<\d+:\d+\]", text) and re.search(r"all 3/3 100%", text)
    assert [f"p/a-tent-{seed}.png" in text for seed in (5, 6, 7)] == [True] * 3
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "bars"), [((), True), (("--quiet",), False)])
def test_one_picture_has_one_bar_and_quiet_has_none(tmp_path, flags, bars):
    text = _on_a_terminal(tmp_path, "a tent", *FAST, *flags)
    assert ("1/1 100%" in text) == bars and "all " not in text
