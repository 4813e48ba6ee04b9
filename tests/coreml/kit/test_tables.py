"""One loop runs every table: it computes what mlx_sd computes, whatever the sampler, the checkpoint and the policy."""

import json
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from coreml.kit import loop, tables
from mlx_sd.core.errors import InputError
from mlx_sd.reuse import deepcache
from mlx_sd.reuse.feature_cache import FeatureCache
from mlx_sd.sampling import loop as reference
from mlx_sd.sampling import noise, samplers
from mlx_sd.sampling.scheduler import Scheduler
from tests.support import kit_reader
from tests.support.effort import SAMPLERS, slow_but

SHAPE, STEPS = (4, 4, 8), 7
POLICIES = (None, "3:0", "2:0+forecast1", "2:0+forecast2", "nonuniform:3:0", "at=0,1,5:0", "spectrum:2,,2:0")
EDM = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon", "sigma_data": 0.5}
CONFIGS = {
    "epsilon": {"_class_name": "DDIMScheduler", "clip_sample": False},
    "v_prediction": {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction"},
    "sample": {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "sample"},
    "edm": EDM,
}
CASES = [(sampler, "epsilon") for sampler in samplers.names()]
CASES += [(sampler, config) for sampler in ("euler", "heun", "plms", "unipc") for config in ("v_prediction", "sample")]
CASES.remove(("plms", "sample"))  # which it does not take
CASES += [("euler", "edm"), ("dpmpp_2m", "edm")]


def _unet(x, timestep, deep):
    """(prediction, deep feature) of a function that depends on everything that a UNet depends on."""
    feature = 0.5 * x + timestep / 1000 if deep is None else deep
    return 0.3 * x + 0.4 * np.tanh(feature), feature


def _ours(run, table, seed=5):
    draw = partial(noise.generator("numpy", seed), SHAPE)
    return run(table, draw(), draw, _unet)


def _reader(table):
    def evaluate(x, timestep, deep):
        return _unet(x, timestep, None if deep is None else sum(w * feature for w, feature in deep))

    draw = partial(noise.generator("numpy", 5), SHAPE)
    return kit_reader.run(table, draw(), draw, evaluate)


def _mlx_sd(setting, table):
    """The latents after each evaluation of mlx_sd's own loop and cache."""
    draw = noise.generator("numpy", 5)
    cache = FeatureCache(setting.deepcache, table.log_snr)

    def predict(x, timestep):
        def unet(deep, depth):
            prediction, feature = _unet(np.array(x), timestep, None if deep is None else np.array(deep))
            return mx.array(prediction), mx.array(feature)

        return cache.evaluate(unet)

    first = mx.array(draw(SHAPE))
    steps = reference.evaluate(table, predict, first, lambda: mx.array(draw(SHAPE)))
    return np.stack([np.array(x) for x, _ in steps])


@pytest.mark.parametrize(
    "case", slow_but([(s, "epsilon") for s in SAMPLERS] + [("euler", "edm"), ("plms", "v_prediction")], CASES)
)
def test_one_loop_runs_every_table(case):
    sampler, config = case
    scheduler = Scheduler.from_hf(CONFIGS[config])
    for policy in POLICIES:
        (*_, setting) = tables.choose(scheduler, [sampler], [], [STEPS], [policy] if policy else [], 0)
        table = tables.table_of(setting, scheduler)
        described = json.loads(json.dumps(tables.describe(setting, table), allow_nan=False))
        expected = _mlx_sd(setting, table)
        for trace in (np.stack(list(_ours(loop.run, described))), _reader(described)):
            assert len(trace) == 1 + len(expected)
            for a, b in zip(trace[1:], expected, strict=True):
                assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max(), (sampler, policy)


def test_features_are_dropped_as_soon_as_no_row_uses_them():
    scheduler = Scheduler.from_hf(CONFIGS["epsilon"])
    for policy in POLICIES:
        (*_, setting) = tables.choose(scheduler, ["heun"], [], [STEPS], [policy] if policy else [], 0)
        described = tables.describe(setting, tables.table_of(setting, scheduler))
        stored: set[int] = set()
        for i, row in enumerate(described["rows"]):
            assert {evaluation for evaluation, _ in row["deep"]} <= stored
            stored |= {i} if row["full"] else set()
            stored -= set(row["forget"])
            used_later = {e for later in described["rows"][i + 1 :] for e, _ in later["deep"]}
            assert stored <= used_later
        assert stored == set()


def test_the_names_of_other_programs_and_lists_of_ones_own(tmp_path):
    scheduler = Scheduler.from_hf(CONFIGS["epsilon"])
    (setting,) = tables.choose(scheduler, ["DPM++ 2M Karras"], [], [], [], None)
    assert (setting.sampler, setting.schedule, setting.steps) == ("dpmpp_2m", "karras", 25)
    path = tmp_path / "mine.json"
    path.write_text('{"timesteps": [900, 500, 100]}')
    (setting,) = tables.choose(scheduler, ["euler"], [str(path)], [], [], None)
    assert (setting.steps, setting.name) == (3, "euler-timesteps-3")


WRONG = {
    "an unknown sampler": ((["eular"], [], [], []), "did you mean 'euler'"),
    "an unknown schedule": (([], ["caras"], [], []), "unknown schedule"),
    "a pair that does not go together": ((["plms"], ["karras"], [], []), "plms does not go with karras"),
    "no steps": (([], [], [0], []), "steps must be from 1"),
    "a table twice": ((["euler", "Euler"], [], [], []), "euler-linspace-25 is there twice"),
    "another branch": (([], [], [], ["3:1"]), "cut at branch 0, not 1"),
    "a policy that looks": (([], [], [], ["adaptive:0.1"]), "decides while a picture is made"),
    "a policy that follows the path": (([], [], [], ["sada:4"]), "decides while a picture is made"),
    "no policy": (([], [], [], ["often"]), "--deepcache takes N"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_table_can_say_is_refused(wrong):
    lists, message = WRONG[wrong]
    scheduler = Scheduler.from_hf(CONFIGS["epsilon"])
    with pytest.raises(InputError, match=message):
        tables.choose(scheduler, *lists, 0)


def test_clipped_estimates_and_uncut_unets_are_refused():
    with pytest.raises(InputError, match="clips its estimates"):
        tables.choose(Scheduler.from_hf({"_class_name": "DDIMScheduler"}), ["ddim"], [], [], [], 0)
    with pytest.raises(InputError, match="cut in two"):
        tables.choose(Scheduler.from_hf(CONFIGS["epsilon"]), [], [], [], ["3"], None)


def test_policies_are_those_of_deepcache():
    """A new policy is in the list above, or decides per picture."""
    prefixes = {deepcache.parse(policy).prefix for policy in POLICIES if policy}
    assert prefixes | {"adaptive:", "sada:"} == {policy.prefix for policy in deepcache.POLICIES}
