"""Seconds of training steps: both sides take turns, and the first turn is not counted."""

import json
from types import SimpleNamespace

import pytest

from bench.speed import learning


def test_ratios_are_of_steps_of_one_turn(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(learning, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(seconds):
        """Returns a step that takes this long by the clock; the first one takes longer."""
        left = iter([100.0, *seconds])

        def take():
            """Moves the clock on."""
            now[0] += next(left)

        return take

    row = learning.compare("unet", step([1, 2, 4]), step([2, 2, 2]), 3)
    assert row["seconds"]["mlx-sd"]["median"] == 2 and row["seconds"]["diffusers"]["max"] == 2
    assert row["ratio"] == {"count": 3, "median": 1.0, "min": 0.5, "max": 2.0}


def test_a_training_step_is_timed(tmp_path):
    file = tmp_path / "learning.json"
    words = ["--kind", "lora", "--resolution", "128", "--batch", "1", "--steps", "1", "--json", str(file)]
    assert learning.main(words) == 0
    (row,) = json.loads(file.read_text("utf-8"))["kinds"]
    assert row["kind"] == "lora" and row["seconds"]["mlx-sd"]["median"] > 0 and "ratio" not in row


@pytest.mark.parametrize("word", ["--batch", "--steps", "--rank"])
def test_numbers_below_one_are_refused(word, capsys):
    assert learning.main([word, "0"]) == 2
    assert word in capsys.readouterr().err
