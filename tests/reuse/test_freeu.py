"""FreeU: what it does where skips are joined, against Fourier transforms; nothing else changes."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import DeepCache, FreeU
from mlx_sd.core.errors import InputError
from mlx_sd.networks.family import Family
from mlx_sd.reuse.freeu import PUBLISHED, parse, scale_lowest_frequencies
from tests.reuse.test_cached_passes import BRANCHES, SHAPES, inputs
from tests.support import families
from tests.support.effort import slow_but

FACTOR = st.floats(0, 3)


def filtered(z: np.ndarray, s: float) -> np.ndarray:
    """The authors' filter: after a shift of the transform, a box of 2 around its middle, times s."""
    _, h, w, _ = z.shape
    f = np.fft.fftshift(np.fft.fftn(z, axes=(1, 2)), axes=(1, 2))
    f[:, max(h // 2 - 1, 0) : h // 2 + 1, max(w // 2 - 1, 0) : w // 2 + 1] *= s
    return np.fft.ifftn(np.fft.ifftshift(f, axes=(1, 2)), axes=(1, 2)).real


@given(st.integers(1, 17), st.integers(1, 17), FACTOR, st.integers(0, 99))
def test_matrices_are_the_fourier_filter_at_every_size(height, width, s, seed):
    z = np.random.default_rng(seed).standard_normal((2, height, width, 3))
    assert np.abs(np.array(scale_lowest_frequencies(mx.array(z.astype(np.float32)), s)) - filtered(z, s)).max() < 1e-5


def test_the_lowest_frequencies_are_scaled_and_no_others():
    wave = np.cos(2 * np.pi * 3 * np.arange(12) / 12)[None, :, None, None] * np.ones((1, 12, 12, 2))
    assert np.abs(np.array(scale_lowest_frequencies(mx.array(wave.astype(np.float32)), 0.2)) - wave).max() < 1e-5
    flat = mx.full((1, 12, 8, 2), 5.0)
    assert np.abs(np.array(scale_lowest_frequencies(flat, 0.2)) - 1.0).max() < 1e-5
    assert scale_lowest_frequencies(flat.astype(mx.float16), 0.2).dtype == mx.float16


def test_the_original_form_is_the_papers_formula(family):
    """At the widest features b1 and s1, at the next b2 and s2, at others nothing."""
    config = family("sd1").unet.config
    widths = sorted({block.channels for block in config.up}, reverse=True)
    join = FreeU(1.5, 1.6, 0.9, 0.2).join(config)
    draw = np.random.default_rng(0)
    for i, width in enumerate([*widths, 2 * widths[0]]):
        x, skip = draw.standard_normal((2, 5, 7, width)), draw.standard_normal((2, 5, 7, 6))
        found = np.array(join(mx.array(x.astype(np.float32)), mx.array(skip.astype(np.float32)), 0))
        b, s = ((1.5, 0.9), (1.6, 0.2))[i] if i < min(2, len(widths)) else (1.0, 1.0)
        mean = x.mean(axis=-1, keepdims=True)
        low, high = mean.min(axis=(1, 2), keepdims=True), mean.max(axis=(1, 2), keepdims=True)
        x[..., : width // 2] *= (b - 1) * (mean - low) / (high - low) + 1
        assert np.abs(found - np.concatenate([x, filtered(skip, s)], axis=-1)).max() < 1e-5


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
@pytest.mark.parametrize("form", ["structure", "constant"])
def test_factors_of_one_change_nothing_and_others_do(name, form, family):
    unet, given_ = family(name).unet, inputs(name, 8, 6, 2)
    plain = np.array(unet(**given_)[0])
    ones = unet(**given_, join=FreeU(1, 1, 1, 1, form).join(unet.config))[0]
    assert families.distance(ones, plain) < 1e-5
    for factors in ((1.5, 1, 1, 1), (1, 1.5, 1, 1), (1, 1, 0.5, 1), (1, 1, 1, 0.5)):
        assert families.distance(unet(**given_, join=FreeU(*factors, form).join(unet.config))[0], plain) > 1e-4


@pytest.mark.parametrize("name", slow_but(["sd1"], SHAPES))
@pytest.mark.parametrize("form", slow_but(["structure"], ["structure", "constant"]))
def test_cached_is_full_bit_for_bit_with_freeu_at_every_branch(name, form, family):
    """What is kept is kept from before FreeU: used twice, it is the same."""
    unet, given_ = family(name).unet, inputs(name, 8, 6, 2)
    join = FreeU(1.5, 1.6, 0.9, 0.2, form).join(unet.config)
    plain, _ = unet(**given_, join=join)
    for branch in range(BRANCHES[name]):
        full, deep = unet(**given_, depth=branch + 1, join=join)
        for _ in range(2):
            cached, deep = unet(**given_, deep=deep, depth=branch + 1, join=join)
            assert mx.array_equal(cached, plain) and mx.array_equal(full, plain), f"branch {branch}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
def test_a_picture_with_deepcache_and_freeu_at_interval_one_is_that_with_freeu(family):
    sd, how = family("sd1"), {"steps": 3, "output": "latent", "freeu": FreeU()}
    alone = sd.generate("a tent", **how, seed=0)
    assert mx.array_equal(sd.generate("a tent", deepcache=DeepCache(1, 7), **how, seed=0).latents, alone.latents)
    assert not mx.array_equal(sd.generate("a tent", **how | {"freeu": None}, seed=0).latents, alone.latents)
    assert alone.requests[0].freeu == FreeU(1.5, 1.6, 0.9, 0.2)


@pytest.mark.parametrize("checkpoint", PUBLISHED)
def test_every_family_of_latents_has_published_factors_and_set_ones_stay(checkpoint):
    assert set(PUBLISHED) == set(Family) - {Family.TOKENS}
    assert FreeU(form="constant").for_family(checkpoint) == FreeU(*PUBLISHED[checkpoint], "constant")
    assert FreeU(1, 2, 3, 4).for_family(checkpoint) == FreeU(1, 2, 3, 4)


def test_published_factors_are_those_of_the_checkpoint_s_family(family):
    result = family("sdxl").generate("a tent", steps=1, output="latent", freeu=FreeU(), seed=0)
    assert str(result.requests[0].freeu) == "structure:1.3,1.4,0.9,0.2"


def test_true_and_the_bare_flag_are_published_factors_and_false_is_none():
    assert parse(True) == parse("") == FreeU()
    assert parse(False) is parse(None) is None
    assert parse("1.5,1.6,0.9,0.2") == FreeU(1.5, 1.6, 0.9, 0.2)
    assert parse(factors := FreeU(form="constant")) is factors


@given(st.none() | st.tuples(FACTOR, FACTOR, FACTOR, FACTOR), st.sampled_from(["structure", "constant"]))
def test_freeu_prints_as_what_it_takes(factors, form):
    freeu = FreeU(*factors or (None,) * 4, form)
    assert parse(str(freeu)) == freeu


@pytest.mark.parametrize("text", ["1", "1,2,3", "a,b,c,d", "nan,1,1,1", "-1,1,1,1", "other:1,1,1,1", "a tent", 1.5])
def test_nonsense_is_refused(text):
    with pytest.raises(InputError):
        parse(text)
