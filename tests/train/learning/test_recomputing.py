"""Inner results that are computed again give the same gradients, bit for bit, and need less memory."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_sd.train.kinds.control import Control
from mlx_sd.train.kinds.lora import Lora
from mlx_sd.train.kinds.unet import WholeUNet
from mlx_sd.train.learning.examples import Captions
from mlx_sd.train.learning.kind_settings import ControlSettings, LoraSettings, UNetSettings
from mlx_sd.train.learning.objective import Objective
from tests.support.effort import slow_but
from tests.train.conftest import TEXT

KINDS = {"lora": (Lora, LoraSettings), "unet": (WholeUNet, UNetSettings), "control": (Control, ControlSettings)}


@pytest.mark.parametrize("kind", slow_but(["lora"], KINDS))
@pytest.mark.parametrize("family", slow_but(["sd1"], ["sd1", "sdxl"]))
def test_gradients_are_the_same(kind, family, fresh, micro_batch):
    build, record = KINDS[kind]
    results = []
    for recompute in (False, True):
        model = fresh(family)
        objective = Objective.of(model.scheduler)
        options = {"targets": "all"} if kind == "lora" else {}
        learner = build(model, record(recompute=recompute, **options), Captions(model, [TEXT]), objective)
        if kind == "lora":  # else only `up` would have a gradient
            for adapter in learner.learned.by_layer.values():
                adapter.up = mx.random.normal(adapter.up.shape, key=mx.random.key(3)) * 0.1
        loss, gradients = nn.value_and_grad(learner.learned, learner.loss)(micro_batch(model, objective))
        results.append((loss, dict(tree_flatten(gradients))))
    (loss, plain), (again, recomputed) = results
    assert loss.item() == again.item() and plain.keys() == recomputed.keys()
    largest = max(mx.abs(array).max().item() for array in plain.values())
    for name, array in plain.items():
        assert mx.abs(array - recomputed[name]).max().item() <= 1e-6 * largest, name


@pytest.mark.slow
def test_it_needs_less_memory(fresh, micro_batch):
    peaks = []
    for recompute in (False, True):
        model = fresh("sd1")
        objective = Objective.of(model.scheduler)
        learner = Lora(model, LoraSettings(recompute=recompute), Captions(model, [TEXT]), objective)
        batch = micro_batch(model, objective, count=32)
        gradient = nn.value_and_grad(learner.learned, learner.loss)
        mx.eval(gradient(batch))
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(gradient(batch))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.8 * peaks[0]
