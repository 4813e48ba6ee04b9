"""UNets that look at no prompt, and autoencoders with a codebook, against what diffusers computed (make_goldens.py)."""

from functools import partial

import mlx.core as mx
import pytest

from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.errors import InputError
from mlx_sd.networks.counting import counting
from tests.support import families, unprompted
from tests.support.effort import slow_but
from tests.support.families import distance
from tests.support.unprompted import UNETS, VQS

NETWORK = 1e-5


@pytest.mark.parametrize("name", UNETS)
def test_unets_agree(name):
    unet = unprompted.network("unet", UNETS[name], "unets", name)
    ours = unet(**unprompted.arrays(unprompted.unet_inputs(UNETS[name])))[0]
    assert distance(ours, unprompted.goldens()[f"unet/{name}"]) <= NETWORK


@pytest.mark.parametrize("name", slow_but(["ddpm", "classes", "no_middle", "centred"], UNETS))
def test_cached_is_full_bit_for_bit_at_every_branch(name):
    unet = unprompted.network("unet", UNETS[name], "unets", name)
    inputs = unprompted.arrays(unprompted.unet_inputs(UNETS[name], (8, 4)))
    plain, _ = unet(**inputs)
    assert len(unet.branches) == 3 * (UNETS[name]["layers_per_block"] + 1)
    for branch in unet.branches:
        full, deep = unet(**inputs, depth=branch + 1)
        cached, _ = unet(**inputs, deep=deep, depth=branch + 1)
        assert mx.array_equal(full, plain), f"branch {branch}"
        assert mx.array_equal(cached, plain), f"branch {branch}"


@pytest.mark.parametrize("name", VQS)
def test_quantized_autoencoders_agree(name):
    vae = unprompted.network("vae", VQS[name], "vqs", name)
    mean, log_variance = vae.encode(mx.array(families.image()))
    assert distance(mean, unprompted.goldens()[f"vq/{name}/latents"]) <= NETWORK
    assert (log_variance == -mx.inf).all()
    assert distance(vae.decode(mean), unprompted.goldens()[f"vq/{name}/image"]) <= NETWORK


def test_what_is_decoded_is_a_row_of_the_codebook():
    vae = unprompted.network("vae", VQS["vq"], "vqs", "vq")
    codes = vae.codebook.weight
    assert mx.array_equal(vae.quantize(codes[None, None]), codes[None, None])
    z = mx.array(families.numbers("z", 1, 3, 5, 3))
    distances = mx.sum((z[..., None, :] - codes) ** 2, axis=-1)
    assert mx.array_equal(vae.quantize(z), codes[mx.argmin(distances, axis=-1)])
    assert mx.array_equal(vae.decode(z), vae.decode(vae.quantize(z)))
    assert mx.array_equal(vae.decode(z), vae.decode_tokens(vae.tokens(z)))
    large = mx.array(families.numbers("large", 1, 24, 40, 3))
    assert mx.array_equal(vae.decode(large, 64), vae.decode_tokens(vae.tokens(large), 64))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"mid_block_scale_factor": 2}, "mid_block_scale_factor = 2"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ("unet", {"down_block_types": ["SkipDownBlock2D"] * 3}, "down_block_types = 'SkipDownBlock2D'"),
        ("unet", {"downsample_type": "fir"}, "downsample_type = 'fir'"),
        ("unet", {"attention_head_dim": 5}, "64 channels do not divide into heads of 5"),
        ("unet", {"_class_name": "UNet1DModel"}, "_class_name = 'UNet1DModel'"),
        ("unet", {"cross_attention_dim": 32}, "cross_attention_dim"),
        ("vae", {"norm_type": "spatial"}, "norm_type = 'spatial'"),
        ("vae", {"_class_name": "AutoencoderDC"}, "_class_name = 'AutoencoderDC'"),
    ],
)
def test_what_no_network_here_does_is_refused_by_name(part, change, message):
    with pytest.raises(InputError, match=message):
        build(part, {"unet": UNETS["ddpm"], "vae": VQS["vq"]}[part] | change, "x")


FULL_SIZE = {
    "DDPM, CIFAR-10": (
        unprompted.unet(
            block_out_channels=[128, 256, 256, 256],
            down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            norm_num_groups=32,
            up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        ),
        32,
        (6.22, 0.49, 1.28, 2.24),
    ),
    "DDPM, LSUN 256": (
        unprompted.unet(
            block_out_channels=[128, 128, 256, 256, 512, 512],
            down_block_types=[*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            norm_num_groups=32,
            up_block_types=["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        ),
        256,
        (248.5, 31.6, 82.1, 132.5),
    ),
    "LDM, ImageNet 256": (
        unprompted.SINGLES["ldm-classes"]["unet"]
        | {
            "block_out_channels": [192, 384, 576, 960],
            "cross_attention_dim": 512,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
        },
        64,
        (104.2, 4.42, 11.5, 20.1),
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_cost_what_deepcache_counts(name):
    """Of a full evaluation and of branches 0, 1 and 2; nothing is computed."""
    config, side, expected = FULL_SIZE[name]
    unet = build("unet", config, name)
    context = {"context": mx.zeros((1, 1, 512))} if unet.config.takes_context else {}
    call = partial(unet, mx.zeros((1, side, side, 3)), mx.array(1.0), **context)
    evaluations = []
    with counting(unet) as full:
        call()
    evaluations.append(full)
    for depth in (1, 2, 3):
        with counting(unet):
            _, deep = call(depth=depth)
        with counting(unet) as cached:
            call(depth=depth, deep=deep)
        evaluations.append(cached)
    for operations, billions in zip(evaluations, expected, strict=True):
        assert abs(sum(o.macs for o in operations) / 1e9 / billions - 1) < 0.01
