"""T2I-Adapters as diffusers computes them, alone, in the UNet, and through whole generations."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import (
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
    T2IAdapter,
)

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.networks.t2i_adapter import places
from tests.support import adapters_beside, families, reference
from tests.support.adapters_beside import KINDS
from tests.support.families import FAMILIES, GUIDANCE, NEGATIVE, PROMPT, distance

NETWORK, LATENTS, STEPS = 1e-5, 1e-4, 10


@pytest.fixture(scope="module")
def network():
    def load(kind: str) -> torch.nn.Module:
        adapter = T2IAdapter.from_config(adapters_beside.config(kind))
        arrays = adapters_beside.weights(adapters_beside.config(kind))
        adapter.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return adapter.eval()

    return load


@pytest.fixture(scope="module")
def place(shapes, tmp_path_factory):
    """The diffusers folders of two families and of the adapters."""
    home = tmp_path_factory.mktemp("adapters")
    for family in ("sd1", "sd2v", "sdxl"):
        families.write_folder(family, shapes[family], home / family)
    for kind in KINDS:
        adapters_beside.write_folder(home / kind, kind)
    return home


def ours_of(kind: str):
    values = adapters_beside.config(kind)
    network = build("t2i_adapter", values, kind)
    from convert.files.diffusers_names import diffusers_name
    from mlx_sd.checkpoint.model_folder import shapes

    arrays = adapters_beside.weights(values)
    pairs = []
    for name, shape in shapes(network).items():
        array = arrays[diffusers_name("t2i_adapter", network.names, name)]
        pairs.append((name, mx.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape)))
    network.load_weights(pairs)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_features(kind, network, measure):
    values = adapters_beside.config(kind)
    for size in ((64, 64), (72, 104), (64, 40)):
        image = np.abs(families.numbers("adapter image", 1, *size, values["in_channels"])) % 1
        theirs = network(kind)(reference.first(image))
        ours = ours_of(kind)(mx.array(image))
        for a, b in zip(ours, theirs, strict=True):
            measure("T2I-Adapter, features", distance(a, reference.last(b)), NETWORK)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unet_with_them(kind, network, modules, family, measure):
    name = KINDS[kind][0]
    factor = 2 ** (len(FAMILIES[name]["vae"]["block_out_channels"]) - 1)
    inputs = families.unet_inputs(FAMILIES[name]["unet"], (8, 8))
    image = (
        np.abs(
            families.numbers("adapter image", 1, 8 * factor, 8 * factor, adapters_beside.config(kind)["in_channels"])
        )
        % 1
    )
    unet, their_unet = family(name).unet, modules(name)["unet"]
    values = {key: reference.first(value) for key, value in inputs.items()}
    added = {key: values[key] for key in ("text_embeds", "time_ids") if key in values}

    def theirs(features):
        return reference.last(
            their_unet(
                values["x"],
                values["t"],
                values["context"],
                added_cond_kwargs=added or None,
                down_intrablock_additional_residuals=features,
            ).sample
        )

    features = [f.repeat(2, 1, 1, 1) for f in network(kind)(reference.first(image))]
    expected = theirs([f.clone() for f in features])
    shown = ours_of(kind)(mx.array(image))
    by_stage = dict(zip([stage for stage, *_ in places(unet.config)], shown, strict=False))
    ours, _ = unet(**{key: mx.array(value) for key, value in inputs.items()}, features=by_stage)
    measure("unet with a T2I-Adapter", distance(ours, expected), NETWORK)
    assert distance(theirs(None), expected) > 0.1


CASES = {
    "full": (["full"], [1.0], 1.0),
    "grey, half": (["grey"], [0.5], 1.0),
    "light": (["light"], [1.0], 1.0),
    "two": (["full", "light"], [0.7, 0.4], 1.0),
    "sd2, v-prediction": (["sd2"], [0.8], 1.0),
    "xl": (["xl"], [0.8], 1.0),
    "xl, some steps": (["xl"], [0.8], 0.55),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_generations(case, network, place, measure):
    kinds, scales, factor = CASES[case]
    name = KINDS[kinds[0]][0]
    pipe = reference.pipeline(place / name)
    kind = StableDiffusionXLAdapterPipeline if name == "sdxl" else StableDiffusionAdapterPipeline
    adapters = [network(k) for k in kinds]
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    if name == "sdxl":
        parts["image_encoder"] = None
        parts |= {"feature_extractor": None}
    else:
        parts = parts | {"requires_safety_checker": False}
    adapted = reference.silent(kind(**parts, adapter=adapters[0] if len(adapters) == 1 else MultiAdapter(adapters)))
    adapted.scheduler = reference.scheduler(FAMILIES[name]["scheduler"], "ddim")
    side = 8 * adapted.vae_scale_factor
    modes = ["L" if adapters_beside.config(k)["in_channels"] == 1 else "RGB" for k in kinds]
    pictures = [adapters_beside.picture((side, side), mode) for mode in modes]
    noise = families.noise()
    more = {"adapter_conditioning_factor": factor} if name == "sdxl" else {}

    def theirs(scales):
        return reference.last(
            adapted(
                prompt=PROMPT,
                negative_prompt=NEGATIVE,
                guidance_scale=GUIDANCE,
                num_inference_steps=STEPS,
                latents=reference.first(noise),
                output_type="latent",
                height=side,
                width=side,
                image=pictures[0] if len(pictures) == 1 else pictures,
                adapter_conditioning_scale=scales[0] if len(scales) == 1 else scales,
                **more,
            ).images
        )

    expected = theirs(scales)
    sd = StableDiffusion.load(place / name, dtype="float32")
    entries = [(str(place / k), picture, s) for k, picture, s in zip(kinds, pictures, scales, strict=True)]
    settings = {
        "steps": STEPS,
        "guidance": GUIDANCE,
        "latents": mx.array(noise),
        "output": "latent",
        "sampler": "ddim",
        "width": side,
        "height": side,
        "seed": 0,
    }
    ours = sd.generate(PROMPT, NEGATIVE, adapters=entries, adapter_factor=factor, **settings).latents
    measure(f"{STEPS} steps with a T2I-Adapter", distance(ours, expected), LATENTS)
    plain = sd.generate(PROMPT, NEGATIVE, **settings).latents
    assert distance(plain, expected) > 0.1
