"""The baseline of bench latency: compiled loops make what plain ones make, and a GPU is asked for where MLX has one."""

from functools import partial

import numpy as np
import pytest
import torch

from bench.speed import baseline, latency
from bench.speed.loops import Loop, setting
from mlx_sd.core.errors import InputError

LOOPS = ("full", "2", "3:1")


def _latents(runner, text):
    *_, last = runner.run(Loop.parse(text))
    return last.numpy()


def test_compiled_loops_make_the_latents_of_plain_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # which needs no C++ compiler
    shared = setting("tiny", 5, side=8, guided=True)
    plain, compiled = baseline.Diffusers(shared), baseline.Diffusers(shared, compiled=True)
    results = {text: (_latents(plain, text), _latents(compiled, text)) for text in LOOPS}
    for one, other in results.values():
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()
    assert np.abs(results["full"][0] - results["3:1"][0]).max() > 1e-3  # the cache is used
    assert compiled.versions()["compiled"] and not plain.versions()["compiled"]


def test_both_loops_are_measured_in_turn():
    shared = setting("tiny", 2, side=8)
    loops = [Loop(), Loop.parse("2")]
    values = latency.measure(shared, loops, baseline.Diffusers(shared))
    assert [(loop["by"], loop["loop"]) for loop in values["loops"]] == [
        *((latency.OWN, str(loop)) for loop in loops),
        *(("diffusers", str(loop)) for loop in loops),
    ]
    assert values["peer"]["device"] == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps", None])
def test_the_device_of_pytorch_is_a_gpu_where_that_of_mlx_is_one(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: device == "mps")
    assert baseline._device(torch) == "cpu"
    monkeypatch.setattr(baseline.mx, "default_device", lambda: baseline.mx.gpu)
    if device:
        assert baseline._device(torch) == device
    else:
        with pytest.raises(InputError, match="add --device cpu"):
            baseline._device(torch)
