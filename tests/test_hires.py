"""Hires fix: a second pass at a larger size, with caches and noise of its own."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import DeepCache, hires
from mlx_sd.core.errors import InputError
from mlx_sd.hires_setting import IMAGE_MODES, LATENT_MODES
from mlx_sd.metadata.from_a1111 import translate
from mlx_sd.metadata.to_a1111 import HIRES, to_text
from mlx_sd.tasks import enlarging
from tests.support.effort import slow_but

OPTIONS = {"steps": 4, "guidance": 4.0, "seed": 2, "sampler": "euler", "output": "latent"}


@pytest.fixture(params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def sd(request, family):
    return family(request.param)


def latents(sd, prompt="a red tent", **options):
    return np.array(sd.generate(prompt, **{**OPTIONS, **options}).latents)


@pytest.mark.parametrize(
    "mode",
    slow_but(LATENT_MODES[:1], [LATENT_MODES[0], LATENT_MODES[-1], IMAGE_MODES[0], IMAGE_MODES[-1]]),
)
def test_the_second_pass_is_image_to_image_with_the_enlarged_picture(sd, mode):
    first = mx.array(latents(sd))
    factor = sd.vae.config.downsampling
    size = first.shape[2] * 2 * factor, first.shape[1] * 2 * factor
    result = latents(sd, hires="2:3:0.6", hires_mode=mode)
    request = sd.complete(sd.generate("a red tent", **OPTIONS).requests[0].with_values(hires_mode=mode))
    image = hires.enlarged(sd.model, first, request, *size)
    assert result.shape == image.shape == (1, first.shape[1] * 2, first.shape[2] * 2, 4)
    from mlx_sd.completion import table_of
    from mlx_sd.predictor import predictor_of
    from mlx_sd.sampling import loop, noise

    larger = request.with_values(width=size[0], height=size[1], steps=5, strength=0.6, hires_mode=None)
    table = table_of(sd.model, larger)
    assert len(table.rows) == 3  # int(3 / 0.6) steps, of which the last three run
    draw = noise.generator("numpy", 2)
    unit = mx.array(draw((4, *image.shape[1:3])).transpose(1, 2, 0)[None])
    expected = loop.run(table, predictor_of(sd.model, [larger], None, table), unit, lambda: unit, None, image)
    assert np.abs(result - np.array(expected)).max() <= 1e-4 * np.abs(result).max()


@pytest.mark.slow
def test_a_batch_makes_the_pictures_that_each_makes_alone(sd):
    together = latents(sd, ["a", "b"], batch=2, hires=1.5)
    for i, prompt in enumerate("ab"):
        alone = latents(sd, prompt, hires=1.5, seed=2)[0]
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_caches_are_fresh_in_each_pass(sd):
    result = sd.generate("a", **{**OPTIONS, "steps": 10}, hires="2:10:0.5", deepcache=DeepCache(5))
    assert result.evaluations == 20 and result.full == 4
    assert np.isfinite(np.array(result.latents)).all()


def test_callbacks_count_on_over_both_passes(sd):
    seen = []
    sd.generate(
        "a", **OPTIONS, hires="2:3", callback=lambda i, total, denoised: seen.append((i, total, denoised.shape[1]))
    )
    assert [(i, total) for i, total, _ in seen] == [(i, 7) for i in range(1, 8)]
    assert seen[-1][2] == 2 * seen[0][2]


@pytest.mark.slow
def test_prompts_count_on_in_the_second_pass(sd):
    second = {"hires": "2:4:0.7"}
    assert (latents(sd, "a [red:blue:0.5] tent", **second) != latents(sd, "a blue tent", **second)).any()
    plain, first, late = (latents(sd, f"a {text} tent", **second) for text in ("red", "[red:blue:4]", "[red:blue:6]"))
    assert (first != plain).any() and (late != plain).any() and (late != first).any()
    assert (latents(sd, "a [red:blue:8] tent", **second) == plain).all()
    assert (latents(sd, "a [red:blue:1.5] tent", **second) == late).all()


def test_enlarging_keeps_what_is_constant_and_the_mean_of_a_ramp():
    ramp = mx.broadcast_to(mx.arange(8, dtype=mx.float32)[None, None, :, None], (1, 6, 8, 2))
    for mode in enlarging.MODES:
        constant = np.array(enlarging.enlarge(mx.full((1, 6, 8, 2), 3.0), (12, 20), mode))
        assert np.abs(constant - 3).max() < 1e-5
        enlarged = np.array(enlarging.enlarge(ramp, (12, 16), mode))
        assert enlarged.shape == (1, 12, 16, 2)
        assert enlarged.mean() == pytest.approx(3.5, abs=0.02)
    doubled = np.array(enlarging.enlarge(ramp, (6, 16), "latent"))[0, 0, :, 0]
    assert doubled[:4] == pytest.approx([0, 0.25, 0.75, 1.25])  # halves of pixels, the edge repeated


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hires": 2, "schedule": "sigmas=3,1,0"}, "named? one|needs a schedule"),
        ({"hires_mode": "lanczos"}, "give both"),
        ({"hires": "2:4:0.7", "tgate": 4}, "the gate is at evaluation 4"),
    ],
)
def test_what_cannot_be_is_refused_before_work(sd, settings, message):
    with pytest.raises(InputError, match=message):
        sd.generate("a", **{**OPTIONS, "steps": None if "schedule" in settings else 4, **settings})


def test_a1111_knows_the_settings():
    settings = {
        "prompt": "a",
        "prompt_style": "a1111",
        "steps": 4,
        "sampler": "euler",
        "schedule": "karras",
        "guidance": 5.0,
    }
    settings |= {
        "seed": 1,
        "width": 64,
        "height": 64,
        "model": "x",
        "hires": "2:15:0.5",
        "hires_mode": "latent-nearest",
    }
    translated = translate(to_text(settings))
    assert {name: translated.settings[name] for name in ("hires", "hires_mode")} == {
        "hires": "2:15:0.5",
        "hires_mode": "latent-nearest",
    }
    assert set(HIRES) == {*LATENT_MODES, *IMAGE_MODES} and set(LATENT_MODES) == set(enlarging.MODES)
