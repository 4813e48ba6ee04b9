"""Feature extractors: each picture file goes through one once, and an error about a missing package is one line."""

import sys

import numpy as np
import pytest
from PIL import Image

from bench.quality import extractors, scores
from mlx_sd.core.errors import InputError


class Mean:
    """An extractor of mean colours that counts its work."""

    name = "mean"

    def __init__(self):
        self.count = 0

    def pictures(self, pictures):
        self.count += len(pictures)
        return np.stack([np.asarray(picture, np.float32).mean((0, 1)) for picture in pictures])


@pytest.fixture
def paths(tmp_path):
    files = [tmp_path / f"{i:02}.png" for i in range(extractors._BATCH + 3)]
    for i, path in enumerate(files):
        Image.new("RGB", (4 + i % 2, 4), (i, 2 * i, 7)).save(path)
    return files


def test_each_file_goes_through_the_extractor_once(paths, tmp_path):
    extractor = Mean()
    cache = extractors.FeatureCache(tmp_path / "cache")
    features = cache.features(extractor, paths)
    assert np.array_equal(features, [(i, 2 * i, 7) for i in range(len(paths))])
    assert np.array_equal(extractors.FeatureCache(tmp_path / "cache").features(extractor, paths), features)
    assert extractor.count == len(paths)
    fitted, expected = [cache.statistics(extractor, paths) for _ in range(2)], scores.statistics(features)
    assert all(np.array_equal(*pair) for statistics in fitted for pair in zip(statistics, expected, strict=True))
    assert extractor.count == 2 * len(paths)


def test_another_file_in_its_place_or_another_extractor_computes_again(paths, tmp_path):
    extractor, cache = Mean(), extractors.FeatureCache(tmp_path / "cache")
    Image.new("RGB", (4, 4), (8, 8, 8)).save(paths[1], "BMP")  # of one size, whatever it shows
    cache.features(extractor, paths[:2])
    Image.new("RGB", (4, 4), (9, 9, 9)).save(paths[1], "BMP")
    assert np.array_equal(cache.features(extractor, paths[:2]), [(0, 0, 7), (9, 9, 9)])
    extractor.name = "another"
    cache.features(extractor, paths[:2])
    assert extractor.count == 6


def test_greyscale_and_transparency_are_seen_as_rgb(tmp_path):
    Image.new("L", (4, 4), 8).save(tmp_path / "a.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 200)).save(tmp_path / "b.png")
    features = extractors.FeatureCache(tmp_path / "cache").features(Mean(), [tmp_path / "a.png", tmp_path / "b.png"])
    assert np.array_equal(features, [(8, 8, 8), (1, 2, 3)])


def test_a_file_that_is_no_picture_is_one_line_and_nothing_is_stored(paths, tmp_path):
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    with pytest.raises(InputError, match=r"01\.png is not a picture that can be read") as refused:
        extractors.FeatureCache(tmp_path / "cache").features(Mean(), paths)
    assert "\n" not in str(refused.value) and not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("package", "make", "why"),
    [
        ("pytorch_fid", extractors.Inception, "--inception needs pytorch-fid "),
        ("transformers", lambda: extractors.Clip("openai/clip-vit-large-patch14"), "--clip needs transformers "),
    ],
)
def test_an_extractor_that_is_not_installed_is_one_line(package, make, why, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=why) as refused:
        make()
    assert "\n" not in str(refused.value) and "pip install 'mlx-sd[judges]'" in str(refused.value)
