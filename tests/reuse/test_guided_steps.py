"""Guidance of some steps alone: what is not guided sees the prompt alone, and is what it is without guidance."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import DeepCache
from mlx_sd.completion import table_of
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.reuse.guided_steps import Interval, parse_interval
from mlx_sd.sampling import loop
from tests.support import families, loops
from tests.support.effort import SAMPLERS, slow_but, slow_rows_but
from tests.support.loops import latents_of

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

STEPS = 6
OPTIONS = {"steps": STEPS, "sampler": "ddim", "guidance": 4.0, "seed": 2, "output": "latent"}


def rows_of_unet(sd, monkeypatch, run) -> list[int]:
    """Returns the number of rows of each call of the UNet while something runs."""
    rows, original = [], type(sd.unet).__call__

    def call(unet, x, *arguments, **inputs):
        rows.append(x.shape[0])
        return original(unet, x, *arguments, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(type(sd.unet), "__call__", call)
        run()
    return rows


def completed(sd, **settings):
    return loops.completed(sd, **{"steps": STEPS} | settings)


def cosines(sd, request) -> list[float]:
    """Computes the cosine of the two estimates of the noise at each step of a guided loop, by NumPy alone."""
    table, values = table_of(sd.model, request), []
    guided, plain = predictor_of(sd.model, [request]), predictor_of(sd.model, [request.with_values(guidance=1.0)])

    def predict(x, timestep):
        signal, noise = table.rows[len(values)].level
        both, conditional = (np.array(predictor(x, timestep), np.float64) for predictor in (guided, plain))
        unconditional = conditional - (both - conditional) / (request.guidance - 1)
        pair = [unconditional, conditional]
        if sd.model.scheduler.prediction_type == "v_prediction":
            pair = [noise * np.array(x, np.float64) + signal * output for output in pair]
        a, b = (output.ravel() for output in pair)
        values.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        return mx.array(both.astype(np.float32))

    latents = mx.array(families.noise())
    loop.run(table, predict, latents, lambda: latents)
    return values


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_steps_outside_the_interval_cost_half(sampler, family, monkeypatch):
    sd = family("sd1")
    request = completed(sd, sampler=sampler, guidance_interval="0.3-0.7")
    rows = rows_of_unet(sd, monkeypatch, lambda: latents_of(sd, request))
    steps = table_of(sd.model, request).steps
    first, last = (int(share * max(steps) + 1e-9) for share in (0.3, 0.7))
    assert rows == [2 if first < step <= last else 1 for step in steps]


@pytest.mark.parametrize(
    ("name", "interval"),
    slow_rows_but(
        [("sd1", Interval(0.3, 0.7))],
        [("sd1", Interval(0.3, 0.7)), ("sd2v", Interval(0, 0.5)), ("sdxl", Interval(0.5, 1))],
    ),
    ids=str,
)
def test_a_step_is_the_guided_or_the_unguided_one_bit_for_bit(name, interval, family):
    sd = family(name)
    request = completed(sd, guidance_interval=interval)
    table, steps = table_of(sd.model, request), iter(range(1, STEPS + 1))
    guided = predictor_of(sd.model, [completed(sd)])
    plain = predictor_of(sd.model, [completed(sd, guidance=1.0)])

    def by_hand(x, timestep):
        return (guided if interval.acts(next(steps), STEPS) else plain)(x, timestep)

    noise = mx.array(families.noise())
    expected = loop.run(table, by_hand, noise, lambda: noise)
    actual = loop.run(table, predictor_of(sd.model, [request], table=table), noise, lambda: noise)
    assert mx.array_equal(actual, expected)


@pytest.mark.parametrize("name", slow_but(["sd2v"], ["sd1", "sd2v"]))
def test_adaptive_guidance_ends_after_the_first_cosine_above_its_limit(name, family, monkeypatch):
    sd = family(name)
    values = cosines(sd, completed(sd))
    assert len(set(values)) == STEPS and 0 < min(values) < max(values) < 1
    limits = [0.0, *(value - 1e-4 for value in values)]
    for limit in limits:
        request = completed(sd, adaptive_guidance=limit)
        rows = rows_of_unet(sd, monkeypatch, partial(latents_of, sd, request))
        last = next(i for i, value in enumerate(values) if value > limit)
        assert rows == [2] * (last + 1) + [1] * (STEPS - 1 - last)


@pytest.mark.parametrize(
    ("settings", "cache"),
    [({"adaptive_guidance": 1.0}, DeepCache(3, forecast=1)), ({"guidance_interval": "0-1"}, None)],
    ids=str,
)
def test_what_ends_nothing_changes_nothing(settings, cache, family):
    sd = family("sd1")
    plain, same = (latents_of(sd, completed(sd, deepcache=cache, **more)) for more in ({}, settings))
    assert mx.array_equal(plain, same)


@pytest.mark.parametrize("settings", [{"guidance_interval": "0-0.34"}, {"adaptive_guidance": 0.0}], ids=str)
def test_with_deepcache_the_unet_is_whole_where_guidance_ends(settings, family):
    sd = family("sd1")
    predictor = predictor_of(sd.model, [completed(sd, deepcache=DeepCache(6), **settings)])
    noise = mx.array(families.noise())
    loop.run(table_of(sd.model, completed(sd)), predictor, noise, lambda: noise)
    assert predictor.full == 2


@pytest.mark.parametrize("interval", ["0-0.5", "0.3-0.7"])
def test_a_cached_pass_equals_a_full_one_at_interval_1(interval, family):
    sd = family("sd1")
    plain, cached = (
        latents_of(sd, completed(sd, guidance_interval=interval, deepcache=c)) for c in (None, DeepCache(1))
    )
    assert mx.array_equal(plain, cached)


@pytest.mark.slow
def test_a_batch_makes_the_pictures_that_each_makes_alone(family):
    sd, prompts = family("sd1"), ["a red tent", "a blue house"]
    for settings in ({"guidance_interval": "0-0.5"}, {"adaptive_guidance": 0.5}):
        together = np.array(sd.generate(prompts, batch=2, **OPTIONS, **settings).latents)
        for i, prompt in enumerate(prompts):
            alone = np.array(sd.generate(prompt, **OPTIONS, **settings).latents)[0]
            assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_the_count_halves_with_each_step_that_is_not_guided(family):
    model = family("sd1").model
    full, half, none = (
        cost_of(model, Request(prompt="a", steps=4, sampler="ddim", **settings)).macs
        for settings in ({}, {"guidance_interval": "0-0.5"}, {"guidance": 1.0})
    )
    assert 2 * half == full + none
    assert cost_of(model, Request(prompt="a", adaptive_guidance=0.9)) is None


@given(st.floats(0, 0.98), st.floats(0.01, 1))
def test_an_interval_is_read_as_it_is_written(start, length):
    interval = Interval(start, max(start + 0.01, min(1.0, start + length)))
    assert parse_interval(str(interval)) == interval
    assert parse_interval([interval.start, interval.end]) == interval


@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 60))
def test_an_interval_of_whole_steps_guides_just_these(steps, first, last):
    first, last = min(first, steps - 1), min(last, steps)
    if first < last:
        interval = Interval(first / steps, last / steps)
        acts = [interval.acts(step, steps) for step in range(1, steps + 1)]
        assert not interval.is_empty(steps)
        assert acts == [first < step <= last for step in range(1, steps + 1)]


@pytest.mark.parametrize("value", ["0.6", "0.6-0.2", "-1-1", "0-2", "a-b", (0,), (0, 1, 2), (True, 1), 0.5, "0-0"])
def test_what_is_no_interval_is_refused_by_name(value):
    with pytest.raises(InputError, match=r"guidance.interval"):
        parse_interval(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": 1.0, "guidance_interval": "0-0.5"}, "--guidance-interval says which steps are guided"),
        ({"guidance": 1.0, "adaptive_guidance": 0.9}, "--adaptive-guidance says which steps are guided"),
        ({"tgate": 2, "guidance_interval": "0-0.5"}, "leave --tgate or --guidance-interval out"),
        ({"prompt": "a AND b", "adaptive_guidance": 0.5}, "AND weighs"),
        ({"steps": 2, "guidance_interval": "0.1-0.3"}, "none of 2 steps lies from 0.1 to 0.3"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message, family):
    prompt, settings = settings.get("prompt", "a"), {k: v for k, v in settings.items() if k != "prompt"}
    with pytest.raises(InputError, match=message):
        family("sd1").generate(prompt, **OPTIONS | settings)
