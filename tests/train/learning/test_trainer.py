"""One step of training: averaged, clipped, averaged weights, refused where not finite, and gone on with bit for bit."""

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_sd.core.errors import Failure
from mlx_sd.train.learning import optimizers
from mlx_sd.train.learning.optimizers import OPTIMIZERS, SCHEDULES, Group, GroupedOptimizer
from mlx_sd.train.learning.trainer import Rates, Trainer

BETAS = (0.9, 0.999)


class Line(nn.Module):
    """y = x W + b, the simplest that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = mx.zeros((3, 1)), mx.zeros((1,))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight + self.bias


def data(step: int, count: int = 8) -> tuple[mx.array, mx.array]:
    x = mx.random.normal((count, 3), key=mx.random.key(step))
    return x, x @ mx.array([[1.0], [-2.0], [0.5]]) + 3


def trainer(name: str = "adamw", rate: float = 0.05, **options) -> Trainer:
    line = Line()
    optimizer = options.pop("optimizer", None) or GroupedOptimizer(name, 0.0, BETAS)
    rates = options.pop("rates", Rates(rate, 100))
    return Trainer(line, lambda batch: mx.square(line(batch[0]) - batch[1]).mean(), optimizer, rates, **options)


def weights(trained: Trainer) -> dict[str, mx.array]:
    return dict(tree_flatten(trained.learned.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_the_line(name):
    rate = {"sgd": 0.02, "lion": 0.02}.get(name, 0.1)
    trained = trainer(name, rates=Rates(rate, 300, "linear"))
    first = trained.measure([data(1000)])
    for step in range(300):
        trained.run([data(step)])
    assert trained.measure([data(1000)]) < first / 100


def test_a_step_is_that_of_mlx_s_own_adamw():
    ours, line, theirs = trainer(clip=None), Line(), optim.AdamW(0.05, weight_decay=0.0, bias_correction=True)
    gradient = nn.value_and_grad(line, lambda x, y: mx.square(line(x) - y).mean())
    for step in range(5):
        ours.run([data(step)])
        theirs.update(line, gradient(*data(step))[1])
    assert all(mx.allclose(weights(ours)[k], v, rtol=1e-6).item() for k, v in tree_flatten(line.parameters()))


@given(st.integers(1, 4))
def test_micro_batches_are_one_batch(count):
    together, apart = trainer(), trainer()
    for step in range(3):
        x, y = data(step, 4 * count)
        a = together.run([(x, y)])
        b = apart.run([(x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]) for i in range(count)])
        np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5)
    assert all(mx.allclose(weights(together)[k], v, atol=1e-6).item() for k, v in weights(apart).items())


def test_gradients_are_clipped_together():
    free, clipped = trainer("sgd", clip=None), trainer("sgd", clip=0.5)
    norm = free.run([data(0)]).gradient_norm
    assert clipped.run([data(0)]).gradient_norm == pytest.approx(norm)  # as it was before
    for name, value in weights(free).items():
        assert mx.allclose(weights(clipped)[name], value * 0.5 / norm, rtol=1e-4).item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_from_a_state_is_going_on_bit_for_bit(name):
    first, second = trainer(name, average_decay=0.9), trainer(name, average_decay=0.9)
    for step in range(5):
        first.run([data(step)])
    second.restore(5, {part: {k: mx.array(v) for k, v in arrays.items()} for part, arrays in first.state().items()})
    for step in range(5, 9):
        assert first.run([data(step)]) == second.run([data(step)])
    ours, theirs = first.state(), second.state()
    assert ours.keys() == theirs.keys() == {"weights", "averages", "optimizer"}
    for part, arrays in ours.items():
        assert all(mx.array_equal(theirs[part][k], v).item() for k, v in arrays.items())


def test_averaged_weights_lag_behind_and_arrive():
    trained = trainer("sgd", 0.05, average_decay=0.9)
    for step in range(200):
        trained.run([data(step)])
    average = dict(tree_flatten(trained.averages))
    assert all(mx.allclose(average[k], v, atol=0.05).item() for k, v in weights(trained).items())
    assert any(not mx.array_equal(average[k], v).item() for k, v in weights(trained).items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_anything_changes(value):
    trained = trainer(hint=" (try a smaller one)")
    trained.run([data(0)])
    before = {name: mx.array(array) for name, array in weights(trained).items()}
    with pytest.raises(Failure, match=r"not finite at step 2 \(try a smaller one\)"):
        trained.run([(mx.array([[value, 0, 0]]), mx.zeros((1, 1)))])
    assert trained.step == 1
    assert all(mx.array_equal(before[k], v).item() for k, v in weights(trained).items())


def test_groups_have_rates_of_their_own():
    optimizer = GroupedOptimizer("sgd", 0.0, (0.0, 0.0), [Group("bias", 0.0)])
    trained = trainer(optimizer=optimizer, clip=None)
    trained.run([data(0)])
    assert weights(trained)["bias"].item() == 0 and mx.abs(weights(trained)["weight"]).max().item() > 0


def test_half_precision_computes_and_single_precision_learns():
    """bfloat16 weights would not move by a thousandth of a percent; those that learn do."""
    trained = trainer("sgd", 1e-6, compute_dtype=mx.bfloat16)
    trained.learned.update({"weight": mx.ones((3, 1))})
    seen: list[mx.Dtype] = []
    line = trained.learned
    trained._loss = lambda batch: (seen.append(line.weight.dtype), mx.square(line(batch[0]) - batch[1]).mean())[1]
    trained.run([data(0)])
    assert set(seen) == {mx.bfloat16} and line.weight.dtype == mx.float32
    assert mx.abs(line.weight - 1).max().item() > 0


@given(st.sampled_from(SCHEDULES), st.integers(1, 50), st.integers(0, 20))
def test_the_rate_rises_then_follows_its_schedule(name, steps, warmup):
    rates = [optimizers.rate(name, 2.0, step, steps + warmup, warmup) for step in range(steps + warmup)]
    assert rates[:warmup] == pytest.approx([2.0 * (i + 1) / warmup for i in range(warmup)])
    falling = rates[warmup:]
    assert falling[0] == 2.0 and all(a >= b for a, b in pairwise(falling)) and falling[-1] > 0
    assert (name == "constant") == (len(set(falling)) == 1) or steps == 1


@pytest.mark.parametrize("batches", [1, 3])
def test_a_step_holds_the_gradients_once(batches):
    layers, x = nn.Sequential(*[nn.Linear(256, 256, bias=False) for _ in range(40)]), mx.random.normal((1, 256))

    def loss(scale: mx.array) -> mx.array:
        return mx.square(layers(x * scale)).mean()

    learning = Trainer(layers, loss, GroupedOptimizer("adamw", 0.0, BETAS), Rates(0.01, 10))
    scales = [mx.array(1.0 + i) for i in range(batches)]
    learning.run(scales)
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before, size = mx.get_active_memory(), sum(array.nbytes for _, array in tree_flatten(layers.parameters()))
    learning.run(scales)
    mx.synchronize()
    assert size <= mx.get_peak_memory() - before <= 2.1 * size  # and those that are on their way through the optimizer
