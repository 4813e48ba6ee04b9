"""Judges of picture files: each file is looked at once, and what is missing is one line."""

import sys

import numpy as np
import pytest
from PIL import Image

from bench.quality import extractors, scores
from mlx_sd.core.errors import InputError


class Mean:
    """A judge of mean colours that counts its work."""

    name = "mean"

    def __init__(self):
        self.seen = 0

    def pictures(self, pictures):
        self.seen += len(pictures)
        return np.stack([np.asarray(picture, np.float32).mean((0, 1)) for picture in pictures])


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{i:02}.png" for i in range(extractors._BATCH + 3)]
    for i, path in enumerate(found):
        Image.new("RGB", (4 + i % 2, 4), (i, 2 * i, 7)).save(path)
    return found


def test_each_file_is_looked_at_once(paths, tmp_path):
    judge = Mean()
    judged = extractors.Judged(tmp_path / "judged")
    features = judged.features(judge, paths)
    assert np.array_equal(features, [(i, 2 * i, 7) for i in range(len(paths))])
    assert np.array_equal(extractors.Judged(tmp_path / "judged").features(judge, paths), features)
    assert judge.seen == len(paths)
    fitted, known = [judged.statistics(judge, paths) for _ in range(2)], scores.statistics(features)
    assert all(np.array_equal(one, other) for got in fitted for one, other in zip(got, known, strict=True))
    assert judge.seen == 2 * len(paths)


def test_another_file_in_its_place_or_another_judge_looks_again(paths, tmp_path):
    judge, judged = Mean(), extractors.Judged(tmp_path / "judged")
    Image.new("RGB", (4, 4), (8, 8, 8)).save(paths[1], "BMP")  # of one size, whatever it shows
    judged.features(judge, paths[:2])
    Image.new("RGB", (4, 4), (9, 9, 9)).save(paths[1], "BMP")
    assert np.array_equal(judged.features(judge, paths[:2]), [(0, 0, 7), (9, 9, 9)])
    judge.name = "another"
    judged.features(judge, paths[:2])
    assert judge.seen == 6


def test_greyscale_and_transparency_are_seen_as_rgb(tmp_path):
    Image.new("L", (4, 4), 8).save(tmp_path / "a.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 200)).save(tmp_path / "b.png")
    found = extractors.Judged(tmp_path / "judged").features(Mean(), [tmp_path / "a.png", tmp_path / "b.png"])
    assert np.array_equal(found, [(8, 8, 8), (1, 2, 3)])


def test_what_is_no_picture_is_one_line_and_nothing_is_kept(paths, tmp_path):
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    with pytest.raises(InputError, match=r"01\.png is not a picture that can be read") as refused:
        extractors.Judged(tmp_path / "judged").features(Mean(), paths)
    assert "\n" not in str(refused.value) and not list((tmp_path / "judged").iterdir())


@pytest.mark.parametrize(
    ("package", "make", "why"),
    [
        ("pytorch_fid", extractors.Inception, "--inception needs pytorch-fid "),
        ("transformers", lambda: extractors.Clip("openai/clip-vit-large-patch14"), "--clip needs transformers "),
    ],
)
def test_a_judge_that_is_not_installed_is_one_line(package, make, why, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=why) as refused:
        make()
    assert "\n" not in str(refused.value) and "pip install 'mlx-sd[judges]'" in str(refused.value)
