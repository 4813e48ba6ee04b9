"""Frechet distance and CLIP score, against their definitions and against what they are to tell apart."""

import mlx.core as mx
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import quality
from mlx_sd import StableDiffusion

SEEDS = range(24)


@pytest.fixture(scope="module")
def scorer():
    return quality.Scorer()


@pytest.fixture(scope="module")
def features(scorer):
    return scorer.images(quality.paintings(SEEDS))


@pytest.fixture(scope="module")
def texts(scorer):
    return scorer.texts(StableDiffusion.load("tiny", "float32"), quality.captions(SEEDS))


def _gaussian(seed, dims=12, rank=None):
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((dims, rank or dims))
    return quality.Statistics(generator.standard_normal(dims), factor @ factor.T)


def test_the_distance_of_one_dimensional_gaussians_is_that_of_means_and_deviations():
    p, q = (quality.Statistics(np.array([m]), np.array([[s * s]])) for m, s in ((1.0, 2.0), (4.0, 0.5)))
    assert quality.frechet(p, q) == pytest.approx((4 - 1) ** 2 + (2 - 0.5) ** 2)


def test_covariances_that_commute_differ_by_their_deviations():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    p, q = (
        quality.Statistics(np.zeros(3), rotation @ np.diag(np.square(deviations)) @ rotation.T)
        for deviations in ([1.0, 2.0, 3.0], [2.0, 0.0, 3.5])
    )
    assert quality.frechet(p, q) == pytest.approx(1 + 4 + 0.25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([12, 30]))
def test_the_distance_is_the_definitions(seed, rank):
    p, q = _gaussian(seed, rank=rank), _gaussian(seed + 1, rank=rank)
    root = scipy.linalg.sqrtm(p.covariance @ q.covariance)
    defined = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance + q.covariance - 2 * root.real)
    assert quality.frechet(p, q) == pytest.approx(defined, rel=1e-6)
    assert quality.frechet(q, p) == pytest.approx(defined, rel=1e-6)


def test_the_distance_to_itself_is_zero_even_of_few_pictures(features):
    few = quality.statistics(features[:5])  # of rank 4
    assert quality.frechet(few, few) < 1e-3 * np.trace(few.covariance)


def test_true_pictures_are_nearer_to_true_ones_than_spoilt_ones_are(scorer, features):
    true = quality.statistics(features[:12])
    pixels = quality.paintings(SEEDS[12:])
    grey = mx.broadcast_to(pixels.mean(axis=-1, keepdims=True), pixels.shape)
    noisy = pixels + 0.5 * mx.random.normal(pixels.shape, key=mx.random.key(0))
    features = [scorer.images(x) for x in (pixels, grey, noisy)]
    good, *spoilt = (quality.frechet(quality.statistics(f), true) for f in features)
    assert all(good < 0.9 * distance for distance in spoilt), (good, spoilt)


def test_each_picture_is_told_from_all_others_by_its_caption(features, texts):
    cosines = (features @ texts.T) / np.outer(np.linalg.norm(features, axis=1), np.linalg.norm(texts, axis=1))
    assert (cosines.argmax(1) == np.arange(len(cosines))).mean() > 0.9
    assert quality.clip_score(features, texts) == pytest.approx(100 * np.diagonal(cosines).mean(), rel=1e-5)
    assert quality.clip_score(features, texts) > 80
    assert abs(quality.clip_score(features, np.roll(texts, 1, 0))) < 40


def test_features_do_not_depend_on_what_goes_through_together(scorer, features):
    assert scorer.images(quality.paintings([3]))[0] == pytest.approx(features[3], abs=1e-4)


def test_paintings_fill_the_range_of_decoded_pictures():
    pixels = np.array(quality.paintings(range(4)))
    assert pixels.shape == (4, 128, 128, 3) and -1 <= pixels.min() < -0.5 and 0.5 < pixels.max() <= 1
