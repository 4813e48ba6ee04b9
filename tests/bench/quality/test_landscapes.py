"""The embedded checkpoint's true pictures, and the CLIP trained on them."""

import mlx.core as mx
import numpy as np
import pytest

from bench.quality import landscapes, scores
from mlx_sd.codec import to_image

SEEDS = range(24)


@pytest.fixture(scope="module")
def clip():
    return landscapes.TinyClip()


@pytest.fixture(scope="module")
def features(clip):
    return clip.images(landscapes.paintings(SEEDS))


@pytest.fixture(scope="module")
def texts(clip):
    return clip.texts(landscapes.captions(SEEDS))


@pytest.mark.slow
def test_true_pictures_are_nearer_to_true_ones_than_spoilt_ones_are(clip, features):
    true = scores.statistics(features[:12])
    pixels = landscapes.paintings(SEEDS[12:])
    grey = mx.broadcast_to(pixels.mean(axis=-1, keepdims=True), pixels.shape)
    noisy = pixels + 0.5 * mx.random.normal(pixels.shape, key=mx.random.key(0))
    features = [clip.images(x) for x in (pixels, grey, noisy)]
    good, *spoilt = (scores.frechet(scores.statistics(f), true) for f in features)
    assert all(good < 0.9 * distance for distance in spoilt), (good, spoilt)


def test_each_picture_is_told_from_all_others_by_its_caption(features, texts):
    cosines = (features @ texts.T) / np.outer(np.linalg.norm(features, axis=1), np.linalg.norm(texts, axis=1))
    assert (cosines.argmax(1) == np.arange(len(cosines))).mean() > 0.9
    assert scores.clip_score(features, texts) == pytest.approx(100 * np.diagonal(cosines).mean(), rel=1e-5)
    assert scores.clip_score(features, texts) > 80
    assert scores.clip_score(features, np.roll(texts, 1, 0)) < 40


def test_features_do_not_depend_on_what_goes_through_together(clip, features):
    assert clip.images(landscapes.paintings([3]))[0] == pytest.approx(features[3], abs=1e-4)


def test_files_are_seen_as_the_pixels_they_hold(clip, features):
    pictures = [to_image(pixels) for pixels in landscapes.paintings(SEEDS[:2])]
    assert clip.pictures(pictures) == pytest.approx(features[:2], abs=1e-3)
    larger = [picture.resize((256, 192)) for picture in pictures]
    assert scores.clip_score(clip.pictures(larger), features[:2]) > 90


def test_paintings_fill_the_range_of_decoded_pictures():
    pixels = np.array(landscapes.paintings(range(4)))
    assert pixels.shape == (4, 128, 128, 3) and -1 <= pixels.min() < -0.5 and 0.5 < pixels.max() <= 1
