"""Inner results that are computed again give the same loss bit for bit, the same gradients, and need less memory."""

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
from tests.train.conftest import TEXT

KINDS = {
    "lora": (Lora, LoraSettings, {"targets": "all"}),
    "unet": (WholeUNet, UNetSettings, {}),
    "control": (Control, ControlSettings, {}),
    "control of low rank": (Control, ControlSettings, {"rank": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [*(("sd1", kind) for kind in KINDS), ("sdxl", "lora")])
def test_gradients_are_the_same(kind, family, fresh, micro_batch):
    build, record, options = KINDS[kind]
    results = []
    for recompute in (False, True):
        model = fresh(family)
        objective = Objective.of(model.scheduler)
        learner = build(model, record(recompute=recompute, **options), Captions(model, [TEXT]), objective)
        parameters = tree_flatten(learner.learned.trainable_parameters())
        keys = zip(parameters, mx.random.split(mx.random.key(3), len(parameters)), strict=True)
        moved = [(name, array + 0.1 * mx.random.normal(array.shape, key=key)) for (name, array), key in keys]
        learner.learned.load_weights(moved, strict=False)  # else what begins at zero would hide gradients
        loss, gradients = nn.value_and_grad(learner.learned, learner.loss)(micro_batch(model, objective))
        results.append((loss, dict(tree_flatten(gradients))))
    (loss, plain), (again, recomputed) = results
    assert loss.item() == again.item() and plain.keys() == recomputed.keys()
    largest = max(mx.abs(array).max().item() for array in plain.values())
    for name, array in plain.items():
        assert mx.abs(array - recomputed[name]).max().item() <= 1e-5 * largest, name  # sums in another order


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
    assert 0.3 * peaks[0] < peaks[1] < 0.6 * peaks[0]
