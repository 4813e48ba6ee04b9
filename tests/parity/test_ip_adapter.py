"""IP-Adapters and their image encoder as diffusers and transformers compute them, and through whole generations."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mlx_sd import StableDiffusion
from mlx_sd.networks.clip_vision import ImageEncoder, VisionConfig
from mlx_sd.networks.ip_adapter import IPAdapter, IPAdapterConfig
from mlx_sd.tasks import clip_image
from tests.support import families, image_prompts, reference
from tests.support.families import FAMILIES, GUIDANCE, NEGATIVE, PROMPT, distance
from tests.support.image_prompts import KINDS, half_mask, pictures

NETWORK, LATENTS, STEPS = 1e-5, 1e-4, 10


@pytest.fixture(scope="module")
def encoder():
    values = {k: v for k, v in image_prompts.ENCODER.items() if k != "architectures"}
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**values))
    state = {name: torch.from_numpy(array) for name, array in image_prompts.encoder_arrays().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    return model.eval()


@pytest.fixture(scope="module")
def place(shapes, family, tmp_path_factory):
    """Diffusers folders of two families, and adapters for them."""
    home = tmp_path_factory.mktemp("ip")
    for name in ("sd1", "sd2v", "sdxl"):
        families.write_folder(name, shapes[name], home / name)
        for kind in KINDS:
            image_prompts.write(home / f"{name}-{kind}.safetensors", kind, family(name).unet)
    return home


def nested(file):
    stored: dict = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(file).items():
        part, _, inside = name.partition(".")
        stored[part][inside] = tensor
    return stored


def loaded(kind, unet):
    """Our adapter and encoder with the weights of the file."""
    from convert.files.diffusers_names import diffusers_name
    from mlx_sd.checkpoint.model_folder import shapes

    arrays = image_prompts.arrays(kind, unet)
    for name in [n for n in arrays if n.endswith("to_kv.weight")]:
        arrays[name.replace("to_kv", "to_k")], arrays[name.replace("to_kv", "to_v")] = np.split(arrays.pop(name), 2)
    networks = []
    for part, network, weights in (
        ("ip_adapter", IPAdapter(IPAdapterConfig.from_hf(image_prompts.config(kind, unet))), arrays),
        ("image_encoder", ImageEncoder(VisionConfig.from_hf(image_prompts.ENCODER)), image_prompts.encoder_arrays()),
    ):
        pairs = []
        for name, shape in shapes(network).items():
            array = weights[diffusers_name(part, network.names, name)]
            pairs.append((name, mx.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array).reshape(shape)))
        network.load_weights(pairs)
        networks.append(network)
    return networks


def test_the_image_encoder(encoder, family, measure):
    _, ours = loaded("base", family("sd1").unet)
    pixels = families.numbers("pixels", 2, 32, 32, 3)
    theirs = encoder(reference.first(pixels), output_hidden_states=True)
    encoded = ours(mx.array(pixels))
    measure("CLIP's image encoder, embedding", distance(encoded.embedding, theirs.image_embeds.numpy()), NETWORK)
    measure("CLIP's image encoder, tokens", distance(encoded.penultimate, theirs.hidden_states[-2].numpy()), NETWORK)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens(kind, encoder, family, modules, place, measure):
    adapter, ours = loaded(kind, family("sd1").unet)
    theirs = modules("sd1")["unet"]._convert_ip_adapter_image_proj_to_diffusers(
        nested(place / f"sd1-{kind}.safetensors")["image_proj"], low_cpu_mem_usage=False
    )
    pixels = families.numbers("pixels", 2, 32, 32, 3)
    encoded = encoder(reference.first(pixels), output_hidden_states=True)
    features = encoded.image_embeds if kind == "base" else encoded.hidden_states[-2]
    measure("IP-Adapter, tokens", distance(adapter.tokens(ours(mx.array(pixels))), theirs(features).numpy()), NETWORK)


INSTANT = {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}}
CASES = {
    "sd1 base": ("sd1", "base", 0.7, 1, False),
    "sd1 plus": ("sd1", "plus", 1.0, 1, False),
    "sd1 full": ("sd1", "full", 0.6, 1, False),
    "sd1 plus, two images": ("sd1", "plus", 0.8, 2, False),
    "sd1 base, masked": ("sd1", "base", 1.0, 1, True),
    "sd1 base, blocks": (
        "sd1",
        "base",
        {"down": 1.0, "mid": 0.5, "up": {"block_1": 1.0, "block_2": [0.0, 1.0, 0.5]}},
        1,
        False,
    ),
    "sd2 base, v-prediction": ("sd2v", "base", 0.8, 1, False),
    "sd2 plus, v-prediction": ("sd2v", "plus", 0.8, 1, False),
    "sdxl plus": ("sdxl", "plus", 0.7, 1, False),
    "sdxl base, style and layout": ("sdxl", "base", INSTANT, 1, False),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_generations(case, encoder, place, measure):
    name, kind, scale, count, masked = CASES[case]
    file = place / f"{name}-{kind}.safetensors"
    pipe = reference.pipeline(place / name)
    pipe.register_modules(image_encoder=encoder)
    pipe.unet._load_ip_adapter_weights([nested(file)], low_cpu_mem_usage=False)
    pipe.set_ip_adapter_scale(scale)
    pipe.scheduler = reference.scheduler(FAMILIES[name]["scheduler"], "ddim")
    side, images = 8 * pipe.vae_scale_factor, pictures(count)
    shown = torch.cat([reference.first(np.array(clip_image.pixels(image, 32))) for image in images])
    mask = half_mask((side, side))
    more = {}
    if masked:
        more["cross_attention_kwargs"] = {
            "ip_adapter_masks": [torch.from_numpy((np.asarray(mask) > 127).astype(np.float32))[None, None]]
        }
    noise = families.noise()
    theirs = reference.last(
        pipe(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            latents=reference.first(noise),
            output_type="latent",
            height=side,
            width=side,
            ip_adapter_image=[shown],
            **more,
        ).images
    )
    sd = StableDiffusion.load(place / name, dtype="float32")
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
    entry = (str(file), images, scale, mask) if masked else (str(file), images, scale)
    ours = sd.generate(PROMPT, NEGATIVE, ip_adapters=[entry], **settings).latents
    measure(f"{STEPS} steps with an IP-Adapter", distance(ours, theirs), LATENTS)
    assert distance(sd.generate(PROMPT, NEGATIVE, **settings).latents, theirs) > 0.1


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (130, 47)])
def test_preprocessing_is_that_of_clip(size, measure):
    from transformers import CLIPImageProcessor

    (picture,) = pictures(1, size)
    values = json.loads(json.dumps({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}))
    theirs = CLIPImageProcessor(**values)(picture, return_tensors="np")["pixel_values"]
    ours = np.array(clip_image.pixels(picture, 32)).transpose(0, 3, 1, 2)
    measure("CLIP's pixels", distance(ours, theirs), 2e-2)  # of pixels of 8 bits
