"""The embedded model of tokens: small, read by its name, and of the world that its captions say."""

import pytest

from bench.quality.truth_judge import judge
from bench.tiny.claims import claims
from mlx_sd import StableDiffusion
from mlx_sd.core.embedded import EMBEDDED
from mlx_sd.request import Request


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny-tokens", "float32")


def test_it_is_small():
    assert 8e6 < sum(file.stat().st_size for file in EMBEDDED["tiny-tokens"].rglob("*") if file.is_file()) <= 10e6


def test_a_picture_has_256_tokens_of_512(sd):
    assert (sd.unet.config.out_channels, sd.unet.config.sample_size) == (512, 16)
    assert sd.complete(Request(prompt="")).sampler == "maskgit"


@pytest.mark.slow
def test_skies_and_grounds_come_true(sd):
    """Of eight captions, at eight calls each; what stands on the ground is measured by bench tokens."""
    chosen = claims()[:8]
    requests = [Request(prompt=claim.caption, seed=i, steps=8) for i, claim in enumerate(chosen)]
    pictures = [image for result in sd.stream(requests, batch=1) for image in result.images]
    verdicts = [judge(picture, claim) for picture, claim in zip(pictures, chosen, strict=True)]
    assert sum(verdict.sky and verdict.ground for verdict in verdicts) >= 7
