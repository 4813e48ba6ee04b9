"""A training that is killed at any moment and gone on with ends with the weights of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
KILLS = 20
STEPS = ["--steps", "24", "--save-every", "3", "--validate-every", "6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.RandomState(i).randint(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}", encoding="utf-8")
    return folder


@pytest.fixture
def begin(checkpoint, data) -> Callable[..., "subprocess.Popen[bytes]"]:
    """begin(out, "--resume") is a process that trains a LoRA."""

    def start(out: Path, *options: str) -> "subprocess.Popen[bytes]":
        words = ["--model", str(checkpoint), "--data", str(data), "--out", str(out), "--resolution", "64", "--flip"]
        command = [sys.executable, "-m", "mlx_sd.train", "lora", *words, *options]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return start


def same(first: Path, second: Path) -> bool:
    a, b = (mx.load(str(path)) for path in (first, second))
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]).item() for name in a)


def killed_and_gone_on_with(begin: Callable, folder: Path, kills: int, longest: float) -> tuple[Path, int]:
    """Trains with so many kills at random moments; returns the result and how many processes there were."""
    out, rng, processes = folder / "killed.safetensors", random.Random(kills), 0
    settings = folder / "killed.safetensors-training" / "settings.json"
    while kills or not out.exists():
        process = begin(out, "--resume") if settings.exists() else begin(out, *STEPS)
        processes += 1
        if kills:
            time.sleep(rng.uniform(0.2, 0.6) * longest)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills -= 1
        error = process.communicate()[1].decode()
        assert process.returncode in (0, -signal.SIGKILL), error
        if kills and out.exists():  # begun again, so that the other kills have something to kill
            out.rename(folder / f"ended-{processes}.safetensors")
            (settings.parent).rename(folder / f"ended-{processes}")
    return out, processes


@pytest.mark.proof
def test_a_training_killed_at_any_moment_ends_with_the_same_weights(begin, tmp_path, proof):
    start = time.monotonic()
    whole = tmp_path / "whole.safetensors"
    process = begin(whole, *STEPS)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    longest = time.monotonic() - start
    kills = proof.count(KILLS)
    out, processes = killed_and_gone_on_with(begin, tmp_path, kills, longest)
    results = [out, *tmp_path.glob("ended-*.safetensors")]
    assert all(same(path, whole) for path in results)
    proof.record(kills=kills, processes=processes, results=len(results), equal=len(results))
