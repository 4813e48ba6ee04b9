"""The plan of a training: counted without computing anything, true to the settings, and shown before the first step."""

import json

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from bench import models
from mlx_sd.train import planning, progress_line
from mlx_sd.train.command import main
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.memory import plan as plans
from mlx_sd.train.planning import memory_plan
from mlx_sd.train.progress_line import FIRST_STEPS, speed_line
from mlx_sd.train.run import log
from tests.support.effort import slow_but

WORDS = {"embedding": {"token": "zorb", "like": "tent"}}
PARTS = ("frozen", "learned", "moments", "gradients", "activations", "working")
pytestmark = pytest.mark.filterwarnings("ignore:.*loss.png is not drawn.*:UserWarning")


def plan(kind="lora", size=64, captions=("a zorb",), model="tiny", gpu=None, **values):
    """Returns the plan of a training of the embedded checkpoint."""
    settings = KINDS[kind].settings(model=str(model), **{**WORDS.get(kind, {}), **values})
    return memory_plan(kind, settings, (size, size), captions, gpu=gpu)


@pytest.mark.parametrize("kind", slow_but(["lora", "control"], KINDS))
def test_every_kind_has_a_plan_whose_parts_add_up(kind):
    counted = plan(kind)
    assert sum(getattr(counted, part) for part in PARTS) == counted.peak
    assert counted.learned > 0 and counted.moments >= 2 * counted.learned  # Adam's two means
    assert counted.largest < counted.peak


@pytest.mark.slow
def test_full_size_is_counted_and_not_computed(tmp_path):
    models.write_outline("sd15", tmp_path / "sd15")
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    counted = plan(size=512, model=tmp_path / "sd15", gpu=True)
    assert mx.get_peak_memory() - before < 50e6
    assert counted.frozen == 2 * 859_520_964  # the UNet of SD 1.5 in bfloat16; the encoders have left


@pytest.mark.slow
def test_what_needs_memory_counts():
    usual = plan()
    assert plan(batch=2).activations > 1.5 * usual.activations
    assert plan(size=128).activations > 3 * usual.activations
    assert plan(recompute=True).activations < 0.5 * usual.activations
    assert plan(rank=16).learned == 2 * usual.learned
    assert plan(accumulate=2).peak > usual.peak  # the gradients so far
    assert plan(optimizer="lion").moments < 0.6 * usual.moments
    assert plan(keep_encoders=True).frozen > usual.frozen
    assert plan(quantize="8").frozen < usual.frozen
    assert plan(captions=["a zorb", "a red zorb " * 60]).peak > usual.peak  # two chunks of tokens


@pytest.mark.slow
def test_a_gpu_computes_in_half_precision_and_keeps_scores_of_attention(tmp_path):
    models.write_outline("sd15", tmp_path / "sd15")
    small, large = (plan(size=size, model=tmp_path / "sd15", gpu=True) for size in (256, 512))
    assert small.frozen == large.frozen
    assert large.activations > 5 * small.activations  # four times the pixels, and scores are their square


@pytest.fixture
def data(tmp_path):
    """Two pictures of a zorb, of different sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate(((64, 64), (96, 64))):
        pixels = np.random.RandomState(i).randint(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a zorb")
    return folder


@pytest.mark.slow
def test_the_command_plans_without_training(checkpoint, data, tmp_path, capfd):
    words = ["lora", "--model", str(checkpoint), "--data", str(data), "--resolution", "64"]
    assert main([*words, "--plan"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("a step needs about ") and len(captured.out.splitlines()) == 2
    assert captured.err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"pictures"}
    assert main(words) == 2
    assert "--out is missing" in capfd.readouterr().err


@pytest.mark.slow
def test_plan_and_speed_are_shown_and_logged(checkpoint, data, tmp_path, capfd):
    out = tmp_path / "zorb.safetensors"
    words = ["lora", "--model", str(checkpoint), "--data", str(data), "--resolution", "64", "--out", str(out)]
    assert main([*words, "--steps", str(FIRST_STEPS + 1)]) == 0
    captured = capfd.readouterr()
    assert captured.out.strip() == str(out)
    lines = [line for line in captured.err.splitlines() if "loss.png" not in line]
    assert lines[0].startswith("a step needs about ")
    assert "steps an hour; the last of them is expected at " in lines[-1]
    first, *others = log.read(out.with_name(f"{out.name}-training") / log.NAME)
    parts = [first[f"memory_{part}"] for part in PARTS]
    assert sum(parts) == first["memory_peak"] > 0
    assert not any("memory_peak" in line for line in others)
    assert main([*words, "--steps", str(FIRST_STEPS + 8), "--resume", "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.slow
def test_a_step_that_does_not_fit_names_what_needs_less(checkpoint, data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(plans.memory, "available", lambda: 10**6)
    words = ["lora", "--model", str(checkpoint), "--data", str(data), "--resolution", "64", "--rank", "32"]
    assert main([*words, "--batch", "2", "--steps", "1", "--out", str(tmp_path / "zorb.safetensors")]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "this machine has 1 MB;" in line]
    for remedy in ("--batch 1 --accumulate 2", "--recompute", "a smaller --resolution", "a smaller --rank"):
        assert remedy in line
    assert main([*words, "--recompute", "--plan"]) == 0
    line = capfd.readouterr().out.splitlines()[-1]
    assert "this machine has 1 MB" in line and "--recompute" not in line and "--batch" not in line


@pytest.mark.slow
def test_a_graph_that_mlx_does_not_record_is_no_reason_not_to_train(checkpoint, data, tmp_path, capfd, monkeypatch):
    def fail(*_, **__):
        """Fails as MLX does."""
        raise ValueError("[export_function] Unable to get state for primitive Unknown")

    monkeypatch.setattr(planning, "gradients_peak", fail)
    out = tmp_path / "zorb.safetensors"
    words = ["lora", "--model", str(checkpoint), "--data", str(data), "--resolution", "64", "--out", str(out)]
    assert main([*words, "--steps", "1"]) == 0
    assert "the memory of a step is not known" in capfd.readouterr().err
    assert main([*words, "--plan"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "the memory of a step is not known" in line


def test_speed_is_a_mean_and_the_end_a_time_of_day():
    now = 1_750_000_000.0
    line = speed_line([1.0, 3.0], 10, now)
    clock = progress_line.time.strftime("%H:%M", progress_line.time.localtime(now + 20))
    assert line == f"1,800 steps an hour; the last of them is expected at {clock}"
    assert "-" in speed_line([3600.0], 48, now)  # a date, where it is not within a day


@pytest.mark.slow
def test_numbers_of_a_plan_are_json():
    counted = plan()
    assert json.loads(json.dumps(counted.numbers()))["memory_peak"] == counted.peak
