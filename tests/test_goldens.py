"""Networks, samplers and DeepCache against what diffusers and the authors' DeepCache computed (make_goldens.py)."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd import DeepCache, StableDiffusion
from tests.conftest import GOLDENS
from tests.support import families, upscalers
from tests.support.effort import slow_but
from tests.support.families import FAMILIES, UNETS, distance

NETWORK, LATENTS = 1e-5, 1e-3


@pytest.fixture(scope="module")
def golden():
    files = {name: np.load(GOLDENS / f"{name}.npz") for name in (*FAMILIES, "unets")}

    def get(family: str, name: str) -> np.ndarray:
        assert name in files[family], f"no golden of {name} for {family}: run `python -m tests.make_goldens`"
        return files[family][name]

    return get


def arrays(inputs: dict[str, np.ndarray]) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in inputs.items()}


def latents(sd: StableDiffusion, name: str, **settings) -> mx.array:
    return sd.generate(
        families.PROMPT,
        families.NEGATIVE,
        seed=families.SEED,
        steps=families.STEPS,
        guidance=families.GUIDANCE,
        latents=mx.array(families.noise()),
        channels=mx.array(families.beside()) if name == "inpaint9" else None,
        output="latent",
        **settings,
    ).latents


@pytest.mark.parametrize("name", FAMILIES)
def test_text_encoders_agree(name, family, golden):
    sd = family(name)
    for i, encoder in enumerate(sd.model.text_encoders):
        part = "text_encoder_2" if i else "text_encoder"
        ids = golden(name, f"{part}/ids")
        assert [sd.model.tokenizers[i].chunks(text)[0] for text in (families.PROMPT, "")] == ids.tolist()
        encoded = encoder(mx.array(ids))
        assert distance(encoded.hidden[-2], golden(name, f"{part}/hidden")) <= NETWORK
        assert distance(encoded.last, golden(name, f"{part}/last")) <= NETWORK
        assert distance(encoded.pooled, golden(name, f"{part}/pooled")) <= NETWORK


@pytest.mark.parametrize("name", FAMILIES)
def test_unets_agree(name, family, golden):
    inputs = families.unet_inputs(FAMILIES[name]["unet"])
    assert distance(family(name).unet(**arrays(inputs))[0], golden(name, "unet")) <= NETWORK


@pytest.mark.parametrize("name", FAMILIES)
def test_vaes_agree(name, family, golden):
    vae = family(name).vae
    mean, log_variance = vae.encode(mx.array(families.image()))
    assert distance(mean, golden(name, "vae/mean")) <= NETWORK
    assert distance(log_variance, golden(name, "vae/log_variance")) <= NETWORK
    assert distance(vae.decode(mx.array(families.small_latents())), golden(name, "vae/image")) <= NETWORK


@pytest.mark.parametrize("name", slow_but(["refiner", "ssd1b"], UNETS))
def test_every_variation_of_the_unet_agrees_at_even_and_odd_sizes(name, shapes, golden, tmp_path):
    folder = families.write_folder("sd1", shapes["sd1"] | {"unet": shapes["unets"][name]}, tmp_path / name, unet=name)
    if name == "upscaler":
        upscalers.write_low_res(folder)
    unet = StableDiffusion.load(folder, dtype="float32").unet
    assert distance(unet(**arrays(families.unet_inputs(UNETS[name])))[0], golden("unets", name)) <= NETWORK
    odd = unet(**arrays(families.unet_inputs(UNETS[name], (5, 7))))[0]
    assert distance(odd, golden("unets", f"{name}/odd")) <= NETWORK


def cases(of: Callable[[str], list[tuple]], first: Callable[[tuple], bool]) -> list:
    """Every family's cases, of which all are slow but those that `first` picks: a loop of twenty steps for each."""
    every = [(name, *case) for name in FAMILIES for case in of(name)]
    return [case if first(case) else pytest.param(*case, marks=pytest.mark.slow) for case in every]


# `make test` holds a checkpoint's own sampler in every family, and fresh noise in the first.
QUICK = {"sd1": ("dpmpp_2m_sde",), "sd2v": ("ddim",), "sdxl": ("euler",), "inpaint9": ("dpmpp_2m",)}


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"), cases(families.sampled, lambda c: c[1] in QUICK[c[0]] and c[2] is None)
)
def test_twenty_guided_steps_end_where_diffusers_does(name, sampler, schedule, family, golden):
    ours = latents(family(name), name, sampler=sampler, schedule=schedule)
    assert distance(ours, golden(name, f"latents/{sampler}/{schedule}")) <= LATENTS


@pytest.mark.parametrize(
    ("name", "sampler", "interval", "branch"), cases(families.cached, lambda c: c[3] == 1 and c[0] in ("sd1", "sdxl"))
)
def test_cached_steps_end_where_the_authors_deepcache_does(name, sampler, interval, branch, family, golden):
    ours = latents(family(name), name, sampler=sampler, deepcache=DeepCache(interval, branch))
    assert distance(ours, golden(name, f"deepcache/{sampler}/{interval}:{branch}")) <= LATENTS
