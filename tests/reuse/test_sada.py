"""SADA as a policy: which evaluations the path of the latents makes full, counted by hand."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import SADA, At
from mlx_sd.completion import table_of
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.reuse.deepcache import parse
from mlx_sd.reuse.feature_cache import FeatureCache
from mlx_sd.reuse.sada import Steadiness
from mlx_sd.sampling import loop, samplers
from tests.reuse.test_feature_cache import generate
from tests.support import families, loops
from tests.support.effort import SAMPLERS, slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
POLICIES = st.builds(
    lambda most, shares, settled, branch, forecast: SADA(most, *shares, settled, branch, forecast),
    st.integers(1, 9),
    SHARES,
    st.floats(0, 1),
    st.integers(0, 11),
    st.integers(0, 2),
)


class Path:
    """A generation with a policy: its latents, predictions, and which evaluations were full."""

    def __init__(self, sd, **settings):
        request = loops.completed(sd, **settings)
        self.table = table_of(sd.model, request)
        self.latents, self.predictions, self.full = [], [], []
        predictor = predictor_of(sd.model, [request], table=self.table)

        def predict(x, timestep):
            before = predictor.full
            prediction = predictor(x, timestep)
            self.latents.append(np.array(x, np.float64))
            self.predictions.append(np.array(prediction, np.float64))
            self.full.append(predictor.full > before)
            return prediction

        noise = mx.array(families.noise())
        self.end = loop.run(self.table, predict, noise, lambda: noise)

    @property
    def listed(self) -> tuple[int, ...]:
        """The full evaluations."""
        return tuple(i for i, full in enumerate(self.full) if full)


def products(path) -> list[float]:
    """The criterion at each evaluation from the fourth on, of a sampler with one evaluation a step, by NumPy alone."""
    rows = path.table.rows
    times, signals = [row.timestep for row in rows], [row.level.signal for row in rows]
    beta = np.gradient(-2 * np.log(signals), times)
    drifts = [
        beta[i] / 2 * (path.predictions[i] / rows[i].level.noise - path.latents[i])
        for i in range(len(path.predictions))
    ]
    values = []
    for i in range(3, len(rows)):
        f0, f1, f2 = drifts[i - 1], drifts[i - 2], drifts[i - 3]
        foreseen = path.latents[i - 1] - (times[i - 1] - times[i]) * (5 / 8 * f0 + 3 / 4 * f1 - 3 / 8 * f2)
        values.append(float(((path.latents[i] - foreseen) * (f0 - 2 * f1 + f2)).mean()))
    return values


@pytest.mark.parametrize("most", [1, 4])
def test_an_evaluation_is_cached_where_the_published_criterion_holds(most, family):
    """Before the policy is settled, at most so many in a row."""
    path = Path(family("sd1"), steps=16, deepcache=SADA(most, 0.0, 1.0, 1.0))
    cached, expected = 0, [True] * 3
    for value in products(path):
        expected.append(cached >= most or value > 0)
        cached = 0 if expected[-1] else cached + 1
    assert path.full == expected and not all(path.full[3:])


def test_after_it_is_settled_every_fourth_is_full_whatever_the_path(family):
    path = Path(family("sd1"), steps=16, deepcache=SADA(4, 0.0, 1.0, 0.5))
    settled = path.full[8:]
    first = settled.index(True)
    assert first <= 3 and [i for i, full in enumerate(settled) if full] == [*range(first, 8, 4)]


@given(POLICIES, st.integers(0, 60))
def test_the_start_and_the_end_are_full_for_any_image(policy, evaluations):
    full = policy.full_evaluations(evaluations)
    start, end = int(policy.start * evaluations + 1e-9), int(policy.end * evaluations + 1e-9)
    assert {*full} == {i for i in range(evaluations) if i < max(3, start) or i >= end}
    assert policy.decides_per_image and policy.follows_path


def test_the_defaults_are_the_authors_for_50_steps():
    assert SADA().full_evaluations(50) == [*range(10), 47, 48, 49]


@given(POLICIES)
def test_it_prints_as_what_deepcache_takes(policy):
    assert parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("sada:4", SADA()),
        ("sada:2,,0.9:1", SADA(2, end=0.9, branch=1)),
        ("sada:3,0,1,1+forecast1", SADA(3, 0, 1, 1, 0, 1)),
    ],
)
def test_text_is_read_as_the_numbers_it_names(text, policy):
    assert parse(text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sada:0", "SADA caches at least 1 evaluation in a row, not 0"),
        ("sada:4,0.9,0.2", "SADA's shares must be from 0 to 1, START before END"),
        ("sada:4,0,1,2", "SADA's shares must be from 0 to 1"),
        ("sada:4,nan", "SADA's shares must be from 0 to 1"),
        ("sada:4,0,1,1,1", "takes N or N:BRANCH"),
        ("sado:4", r"did you mean sada:4\?"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


def test_a_straight_path_is_steady_and_one_that_bends_its_own_way_is_not():
    """With a constant drift nothing is left to foresee; an error along the second difference is what is refreshed."""
    table = samplers.table(families_scheduler(), "ddim", "leading", samplers.Options(), 8)
    steadiness = Steadiness(table, 4, 99)
    shape = (1, 2, 2, 4)
    times = [row.timestep for row in table.rows]

    def note(drifts, place):
        steadiness._drifts.clear()
        steadiness._drifts.extend(np.full(shape, drift) for drift in drifts)
        steadiness._place, steadiness._evaluation = np.full(shape, place), 2

    duration = times[2] - times[3]
    note((2.0, 2.0, 2.0), 1.0)
    assert steadiness.is_steady(3, np.full(shape, 1 - 2 * duration))
    note((4.0, 2.0, 1.0), 1.0)  # the second difference is 1
    foreseen = 1 - duration * (5 / 8 * 4 + 3 / 4 * 2 - 3 / 8)
    assert steadiness.is_steady(3, np.full(shape, foreseen - 1e-3))
    assert not steadiness.is_steady(3, np.full(shape, foreseen + 1e-3))


def families_scheduler():
    from mlx_sd.sampling.scheduler import Scheduler

    return Scheduler.from_hf({"_class_name": "DDIMScheduler", "clip_sample": False})


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s"])
def test_the_evaluations_of_a_step_are_all_full_or_all_cached(sampler, family):
    path = Path(family("sd1"), steps=9, sampler=sampler, deepcache=SADA(2, 0.0, 1.0, 1.0))
    steps = path.table.steps
    by_step = {step: {full for full, number in zip(path.full, steps, strict=True) if number == step} for step in steps}
    fixed = {steps[i] for i in range(3)}  # the first three evaluations are full, and may be a part of a step
    assert all(len(kinds) == 1 for step, kinds in by_step.items() if step not in fixed)
    assert not all(path.full)


def test_a_generation_is_that_of_its_list_of_full_evaluations(family):
    sd = family("sd1")
    path = Path(sd, steps=12, deepcache=SADA(3, 0.0, 1.0, 0.7, 1, 1))
    assert 3 < len(path.listed) < 12
    assert mx.array_equal(Path(sd, steps=12, deepcache=At(path.listed, 1, 1)).end, path.end)


def test_where_all_is_start_nothing_is_cached(family):
    plain, same = (generate(family("sd1"), steps=5, deepcache=policy) for policy in (None, SADA(4, 1.0, 1.0)))
    assert mx.array_equal(plain.latents, same.latents) and same.full == same.evaluations


@pytest.mark.parametrize("kind", slow_but(["sd2v"], ["sd1", "sd2v"]))
def test_pictures_of_a_batch_decide_each_for_themselves(kind, family):
    settings = {"steps": 8, "deepcache": SADA(3, 0.0, 1.0, 1.0), "seed": 5}
    together = generate(family(kind), count=2, batch=2, **settings)
    for i in range(2):
        alone = generate(family(kind), **settings | {"seed": 5 + i})
        assert mx.array_equal(alone.latents[0], together.latents[i])


def test_its_cost_is_that_of_the_picture_and_not_counted(family):
    assert cost_of(family("sd1").model, Request(prompt="a", steps=12, deepcache="sada:4")) is None


def test_without_a_path_the_fixed_evaluations_alone_are_full():
    """As for those who run the cache by hand, who have no latents to look at."""
    cache = FeatureCache(SADA(), [float(i) for i in range(50)])
    for level in range(50):
        cache.evaluate(lambda deep, depth, level=level: (mx.zeros(()), mx.array(level) if deep is None else deep))
    assert cache.full == len(SADA().full_evaluations(50))


@pytest.mark.parametrize("sampler", slow_but(["unipc", "euler_ancestral"], SAMPLERS))
def test_it_goes_with_every_sampler(sampler, family):
    result = generate(family("sd1"), steps=6, sampler=sampler, deepcache=SADA(2, 0.0, 1.0, 1.0))
    assert math.isfinite(mx.abs(result.latents).max().item())
