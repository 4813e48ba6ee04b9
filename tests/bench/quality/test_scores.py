"""Frechet distance, CLIP and Inception Score, against their definitions and against what they are to tell apart."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality import scores


def _gaussian(seed, dims=12, rank=None):
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((dims, rank or dims))
    return scores.Statistics(generator.standard_normal(dims), factor @ factor.T)


def test_the_distance_of_one_dimensional_gaussians_is_that_of_means_and_deviations():
    p, q = (scores.Statistics(np.array([m]), np.array([[s * s]])) for m, s in ((1.0, 2.0), (4.0, 0.5)))
    assert scores.frechet(p, q) == pytest.approx((4 - 1) ** 2 + (2 - 0.5) ** 2)


def test_covariances_that_commute_differ_by_their_deviations():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    p, q = (
        scores.Statistics(np.zeros(3), rotation @ np.diag(np.square(deviations)) @ rotation.T)
        for deviations in ([1.0, 2.0, 3.0], [2.0, 0.0, 3.5])
    )
    assert scores.frechet(p, q) == pytest.approx(1 + 4 + 0.25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([12, 30]))
def test_the_distance_is_the_definitions(seed, rank):
    p, q = _gaussian(seed, rank=rank), _gaussian(seed + 1, rank=rank)
    root = scipy.linalg.sqrtm(p.covariance @ q.covariance)
    defined = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance + q.covariance - 2 * root.real)
    assert scores.frechet(p, q) == pytest.approx(defined, rel=1e-6)
    assert scores.frechet(q, p) == pytest.approx(defined, rel=1e-6)


def test_the_distance_to_itself_is_zero_even_of_few_pictures():
    few = scores.statistics(np.random.default_rng(0).standard_normal((5, 12)))  # of rank 4
    assert scores.frechet(few, few) < 1e-3 * np.trace(few.covariance)


def test_the_clip_score_is_the_mean_cosine_and_never_negative():
    one, other = np.array([[3.0, 0], [0, 2]]), np.array([[1.0, 0], [1, 1]])
    assert scores.clip_score(one, other) == pytest.approx(50 * (1 + 2**-0.5))
    assert scores.clip_score(one, -other) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 5))
def test_a_judge_that_is_never_sure_and_one_that_says_always_the_same_score_one(classes, splits):
    assert scores.inception_score(np.full((20, classes), 1 / classes), splits) == pytest.approx((1, 0))
    assert scores.inception_score(np.eye(classes)[[1] * 20], splits) == pytest.approx((1, 0))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5))
def test_sure_of_every_class_scores_as_many_as_there_are(classes, splits):
    assert scores.inception_score(np.tile(np.eye(classes), (splits, 1)), splits) == pytest.approx((classes, 0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_inception_score_is_between_one_and_the_number_of_classes(seed):
    said = np.random.default_rng(seed).dirichlet([0.1] * 7, 30)
    mean, deviation = scores.inception_score(said)
    assert 1 <= mean <= 7 and deviation >= 0
    whole, _ = scores.inception_score(said, 1)
    entropy = scipy.stats.entropy
    assert whole == pytest.approx(np.exp(entropy(said.mean(0)) - entropy(said, axis=1).mean()))  # mutual information


def test_splits_are_scored_apart():
    same, every = np.eye(4)[[0] * 4], np.eye(4)
    assert scores.inception_score(np.concatenate([same, every]), 2) == pytest.approx((2.5, 1.5))
    with pytest.raises(ValueError, match="10 splits of 9"):
        scores.inception_score(np.full((9, 2), 0.5))
