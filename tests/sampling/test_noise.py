"""One seed means the noise of PyTorch here too; tests/parity/test_noise.py compares with PyTorch itself."""

import hashlib

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import Request, StableDiffusion
from mlx_sd.sampling import noise
from mlx_sd.sampling.names import GENERATORS

LATENTS = (4, 64, 64)

# The first numbers of latents of SD 1.x, for each generator and seed.
FIRST = {
    ("numpy", 42): [0.49671415, -0.1382643, 0.64768854, 1.52302986],
    ("torch", 0): [-1.12583983, -1.15236020, -0.25057858, -0.43387884],
    ("torch", 42): [1.92691529, 1.48728406, 0.90071720, -2.10552096],
    ("cuda", 0): [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
    ("cuda", 42): [0.1940, 2.1614, -0.1721, 0.8491],
}


@pytest.mark.parametrize("case", FIRST)
def test_the_first_numbers_are_those_of_the_other_program(case):
    name, seed = case
    first = noise.generator(name, seed)(LATENTS).reshape(-1)[:4]
    assert first == pytest.approx(FIRST[case], abs=5e-5 if case == ("cuda", 42) else 1e-6)


def test_few_numbers_of_torch_come_from_its_other_formula():
    assert noise.generator("torch", 42)((4,)) == pytest.approx([0.33669037, 0.12880941, 0.23446237, 0.23033303])


def test_philox_has_the_words_of_its_authors():
    """The known answers of Random123 (kat_vectors, philox4x32 10)."""
    counters = [[0] * 4, [0xFFFFFFFF] * 4, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]]
    seeds = [0, 0xFFFFFFFFFFFFFFFF, 0x299F31D0A4093822]
    words = [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]
    for counter, seed, expected in zip(counters, seeds, words, strict=True):
        assert noise.philox(np.array([counter], np.uint32).T, seed)[:, 0].tolist() == expected


def test_all_latents_of_philox_are_as_they_were():
    draw = noise.generator("cuda", 0)
    drawn = [draw(LATENTS).astype(np.float64).round(5) + 0.0 for _ in range(2)]
    assert [hashlib.sha256(d.tobytes()).hexdigest()[:16] for d in drawn] == ["32a5e8a8fb24ccd9", "f9e4236ba58ba4f3"]


@pytest.mark.parametrize("name", GENERATORS)
def test_noise_is_normal_and_every_array_is_another(name):
    draw = noise.generator(name, 7)
    first, second = draw(LATENTS), draw(LATENTS)
    for drawn in (first, second):
        assert drawn.dtype == np.float32 and drawn.shape == LATENTS
        assert abs(drawn.mean()) < 0.04 and abs(drawn.std() - 1) < 0.03
    assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < 0.04
    assert (noise.generator(name, 7)(LATENTS) == first).all()
    assert (noise.generator(name, 8)(LATENTS) != first).any()


def test_pictures_are_of_the_generator_that_the_request_names():
    sd = StableDiffusion.load("tiny", dtype="float32")
    settings = {"steps": 1, "width": 64, "height": 64, "output": "latent", "guidance": 1, "seed": 5}
    latents = {name: sd.generate("a tent", rng=name, **settings).latents for name in GENERATORS}
    for name in GENERATORS:  # what the request names is what `latents` can say as well
        unit = mx.array(noise.generator(name, 5)((4, 8, 8)).transpose(1, 2, 0)[None])
        assert (sd.generate("a tent", latents=unit, **settings).latents == latents[name]).all().item(), name
    assert (latents["torch"] != latents["cuda"]).any().item()
    assert sd.complete(Request(prompt="a tent")).rng == "numpy"


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("torch", {"sampler": "euler_ancestral"}),
        pytest.param("cuda", {"sampler": "edm", "order": 1, "s_churn": 5.0}, marks=pytest.mark.slow),
    ],
)
def test_each_picture_has_a_stream_of_its_own_seed(name, sampler):
    """... whatever the batch, the fresh noise of every step and churn included."""
    sd = StableDiffusion.load("tiny", dtype="float32")
    settings = {"steps": 3, "width": 64, "height": 64, "rng": name, "output": "latent", **sampler}
    together = sd.generate("a tent", count=2, batch=2, seed=5, **settings).latents
    apart = sd.generate("a tent", seed=6, **settings).latents
    assert mx.allclose(together[1], apart[0], atol=1e-4).item()
