"""Tiny autoencoders as diffusers' AutoencoderTiny computes and saves them, and image to image with one."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionImg2ImgPipeline

from mlx_sd import StableDiffusion
from tests.parity import test_tasks
from tests.support import autoencoders, families, reference
from tests.support.families import distance

NETWORK, LATENTS = 1e-5, 1e-4
SIZES = ((32, 48), (64, 64), (40, 24))


@pytest.fixture(scope="module")
def network():
    network = AutoencoderTiny.from_config(autoencoders.config())
    state = {name: torch.from_numpy(array) for name, array in autoencoders.weights(autoencoders.config()).items()}
    network.load_state_dict(state)  # strictly: our names are diffusers'
    return network.eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("taesd") / "saved"
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sd(original, folder):
    return StableDiffusion.load(original, dtype="float32", vae=folder)


@pytest.mark.parametrize("size", SIZES)
def test_encoder_and_decoder(size, network, sd, measure):
    height, width = size
    image = np.clip(families.numbers("picture", 2, height, width, 3), -1, 1)
    theirs = reference.last(network.encode(reference.first(image)).latents)
    measure("tiny autoencoder, encode", distance(sd.vae.encode(mx.array(image))[0], theirs), NETWORK)
    z = 3 * families.numbers("latents", 2, height // 8, width // 8, 4)
    theirs = reference.last(network.decode(reference.first(z)).sample)
    measure("tiny autoencoder, decode", distance(sd.vae.decode(mx.array(z)), theirs), NETWORK)


def test_full_size(measure):
    torch.manual_seed(0)
    full = AutoencoderTiny().eval()
    from convert.files.diffusers_names import diffusers_name
    from mlx_sd.checkpoint.model_folder import build, shapes

    ours, state = build("vae", {"_class_name": "AutoencoderTiny"}, "here"), full.state_dict()
    names = {name: diffusers_name("vae", ours.names, name) for name in shapes(ours)}
    assert sorted(names.values()) == sorted(state)
    arrays = {
        n: mx.array(reference.last(state[d]) if state[d].ndim == 4 else state[d].numpy()) for n, d in names.items()
    }
    ours.load_weights(list(arrays.items()))
    z = families.numbers("latents", 1, 8, 8, 4)
    theirs = reference.last(full.decode(reference.first(z)).sample)
    measure("tiny autoencoder, decode, full size", distance(ours.decode(mx.array(z)), theirs), NETWORK)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_image_to_image_with_it(strength, network, original, sd, measure):
    pipe = test_tasks.pipeline(StableDiffusionImg2ImgPipeline, original, "sd1", "ddim")
    image = test_tasks.picture()
    with_kl = test_tasks.theirs(pipe, image, strength=strength)
    pipe.vae = network
    theirs = test_tasks.theirs(pipe, image, strength=strength)
    ours = test_tasks.ours(sd, image, strength=strength, sampler="ddim")
    measure("image to image, tiny autoencoder", distance(ours, theirs), LATENTS)
    assert strength == 1.0 or distance(with_kl, theirs) > 0.1
