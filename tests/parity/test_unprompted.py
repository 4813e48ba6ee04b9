"""Models that take no prompt: networks as diffusers saves them, pipelines as diffusers runs them, live."""

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import torch

from convert import __main__ as command
from mlx_sd import StableDiffusion
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.sampling import samplers
from mlx_sd.sampling.scheduler import Scheduler
from tests.parity import test_samplers as stepping
from tests.support import families, reference, reference_unprompted, unprompted
from tests.support.families import distance
from tests.support.unprompted import FAMILIES, UNETS

NETWORK, LATENTS = 1e-5, 1e-3


@pytest.fixture
def saved(tmp_path):
    """saved("ddpm") is that family's folder, its networks as save_pretrained writes them."""

    def save(name, **parts):
        for place, network in (reference_unprompted.modules(name) | parts).items():
            network.save_pretrained(tmp_path / name / place)
        shapes = {
            place: {n: list(v.shape) for n, v in network.state_dict().items()}
            for place, network in reference_unprompted.modules(name).items()
        }
        unprompted.write_folder(name, shapes, tmp_path / f"{name}-rest")
        for file in ("model_index.json", "scheduler/scheduler_config.json"):
            (tmp_path / name / file).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}-rest" / file).replace(tmp_path / name / file)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", UNETS)
def test_every_variation_of_the_network(name, saved, measure):
    network = reference_unprompted.module("unet", UNETS[name])
    unet = StableDiffusion.load(saved("ddpm", unet=network), dtype="float32").unet
    for size in ((8, 8), (4, 12), (16, 4)):
        inputs = unprompted.unet_inputs(UNETS[name], size)
        ours = unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
        measure("UNet2DModel variations", distance(ours, reference_unprompted.unet(network, inputs)), NETWORK)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("name", unprompted.WITHOUT_CONDITION)
def test_pipelines(name, eta, saved, measure):
    folder, own = saved(name), {} if name == "ddpm" else {"eta": eta}
    sd = StableDiffusion.load(folder, dtype="float32")
    for steps in (1, 5, 20):
        theirs = reference_unprompted.pictures(folder, families.SEED, 2, steps, **own)
        made = sd.generate(count=2, batch=2, seed=families.SEED, steps=steps, **own, output="latent")
        measure(f"{name} pipeline, pictures", distance((sd.decode(made.latents) + 1) / 2, theirs), LATENTS)


@pytest.mark.parametrize("guidance", [1.0, 3.0, 7.5])
def test_guidance_by_classes(guidance, saved, measure):
    sd = StableDiffusion.load(saved("classes"), dtype="float32")
    network = reference_unprompted.module("unet", UNETS["classes"])
    made = reference.scheduler(FAMILIES["classes"]["scheduler"])
    theirs = reference_unprompted.guided(network, made, [1, 4], guidance, unprompted.noise(), 20)
    settings = {"latents": mx.array(unprompted.noise()), "batch": 2, "steps": 20, "output": "latent"}
    ours = sd.generate(classes=[1, 4], guidance=guidance, **settings).latents
    measure("classes, guided latents", distance(ours, theirs), LATENTS)


def test_a_class_embedders_context_is_a_prompt_of_one_token(measure):
    """diffusers has no pipeline for it: its UNet, given the same row of the table."""
    config = unprompted.SINGLES["ldm-classes"]["unet"]
    network, unet = reference.module("unet", config), UNet(UNetConfig.from_hf(config))
    inputs = families.unet_inputs(config) | {"context": families.numbers("row", 2, 1, 24)}
    state = network.state_dict()
    from convert.files.diffusers_names import diffusers_name
    from mlx_sd.checkpoint.model_folder import shapes

    weights = []
    for ours, shape in shapes(unet).items():
        array = state[diffusers_name("unet", unet.names, ours)].numpy()
        weights.append((ours, mx.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape)))
    unet.load_weights(weights)
    found = unet(**{key: mx.array(value) for key, value in inputs.items()})[0]
    measure("class-conditional UNet, one token", distance(found, reference.unet(network, inputs)), NETWORK)


@pytest.mark.parametrize("prediction", stepping.PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize(
    "clip",
    [
        {},
        {"clip_sample": False},
        {"clip_sample_range": 0.5},
        {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    ],
    ids=["clipped", "as they are", "clipped to 0.5", "thresholded"],
)
def test_estimates_are_clipped_as_the_scheduler_clips_them(clip, variance, prediction, measure):
    shared = {"beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "num_train_timesteps": 1000}
    for class_name, own in (("DDPMScheduler", {"variance_type": variance}), ("DDIMScheduler", {})):
        config = shared | own | clip | {"_class_name": class_name, "prediction_type": prediction}
        for steps in (1, 7, 20):
            ours = stepping.ours(config, steps=steps)
            theirs = stepping.theirs(reference.scheduler(config), steps)
            measure("DDPM and DDIM, clipped", distance(ours, theirs), stepping.EXACT)
    eta = {"eta": 0.6}
    ours = stepping.ours(config, steps=10, options=eta)
    measure("DDPM and DDIM, clipped", distance(ours, stepping.theirs(reference.scheduler(config), 10, **eta)), 1e-5)


def test_another_sampler_leaves_estimates_as_they_are():
    config = FAMILIES["ddpm"]["scheduler"]
    scheduler = Scheduler.from_hf(config)
    assert samplers.table(scheduler, *samplers.choose(scheduler), 5).clip is not None
    assert samplers.table(scheduler, *samplers.choose(scheduler, "dpmpp_2m"), 5).clip is None


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ldm", "ldm_sr"])
def test_a_round_trip_loads_in_diffusers_with_the_same_arrays(name, saved, tmp_path):
    folder = saved(name)
    assert command.main(["--model", str(folder), "--out", str(tmp_path / "model")]) == 0
    back = tmp_path / "back"
    assert command.main(["--model", str(tmp_path / "model"), "--to", "diffusers", "--out", str(back)]) == 0
    one, two = (diffusers.DiffusionPipeline.from_pretrained(place) for place in (folder, back))
    assert type(one) is type(two)
    assert dict(one.scheduler.config) == dict(two.scheduler.config)
    for place in unprompted.networks(name):
        first, second = (getattr(pipe, place).state_dict() for pipe in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_single_precision_is_off_on_both_sides(saved, measure):
    """Random networks amplify rounding where noise is divided by a small signal: float32 against float64."""
    folder = saved("ddim")
    single = reference_unprompted.pictures(folder, families.SEED, 2, 20)
    double = reference_unprompted.pictures(folder, families.SEED, 2, 20, precise=True)
    sd = StableDiffusion.load(folder, dtype="float32")
    made = sd.generate(count=2, batch=2, seed=families.SEED, steps=20, output="latent")
    ours = (np.array(sd.decode(made.latents)) + 1) / 2
    measure("ddim pipeline in float64, diffusers' float32", distance(single, double), LATENTS)
    measure("ddim pipeline in float64, ours", distance(ours, double), LATENTS)
