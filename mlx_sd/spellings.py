"""What options of other tools mean here: where their value is said in other words, and where the meaning differs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .core.errors import InputError
from .sampling import names

COUNT_ALIASES = "num-images num-images-per-prompt n-images image-count"

# The ways out of options that mean something else here, or nothing. {value} is theirs.
COUNT = "here --count is how many pictures, --batch how many of them go through the UNet together: --count {value}"
_ONE_SEED = "there is one seed, a number: --seed N"
_SEEDS = "--seed is that of the first picture, and --count N takes the next seeds for the others"
_PARTS = "convert the model with it: python -m convert --model M --text-encoder PATH --out DIR"
_DEVICE = "there is nothing to choose: MLX takes the GPU where there is one"
COMPUTE_UNIT = "compute units are of Apple's systems; --coreml FOLDER computes packages anywhere, to check them"
_CONTROL = "a control network and its image are one option: --control MODEL:IMAGE, or MODEL:IMAGE:SCALE:START-END"
CONTROL_FLAGS = dict.fromkeys(
    (
        "controlnet",
        "control-net",
        "controlnet-model",
        "controlnet-path",
        "control-image",
        "controlnet-image-path",
        "controlnet-strength",
        "controlnet-scale",
        "controlnet-conditioning-scale",
        "control-strength",
        "control-guidance-start",
        "control-guidance-end",
    ),
    _CONTROL,
)
IMAGE_STRENGTH = "in mflux it is how much of the image stays; here --strength is how much changes, 1 - {value}"
INVERTED = "--mask paints where its image is white; invert the image in any editor"
LORA_PATHS = "say --lora PATH:SCALE once for each, for example --lora {value}:0.8"
LORA_SCALES = "the scale stands behind the path, --lora PATH:{value}, once for each"
_LESS_MEMORY = "for less memory say --low-memory; --denoise-tile LATENTS runs the UNet in tiles too"
_TILES = "the decoder's tiles are --tile PIXELS, the UNet's --denoise-tile LATENTS"
TILE_FLAGS = {
    "tiling": "seamless textures are not made here; --tile and --denoise-tile are about memory",
    **dict.fromkeys(("vae-tiling", "enable-vae-tiling", "vae-tile-size", "tile-size", "tiled-vae"), _TILES),
    **dict.fromkeys(("enable-attention-slicing", "attention-slicing"), _LESS_MEMORY),
}
SEED_FLAGS = {"seeds": _SEEDS, "auto-seeds": _SEEDS, "subseed": _ONE_SEED, "generator": _ONE_SEED}
MODEL_FLAGS = {"text-encoder": _PARTS, "device": _DEVICE}
DTYPE_VALUES = {
    **dict.fromkeys(("fp16", "f16", "half", "torch.float16"), "float16"),
    **dict.fromkeys(("bf16", "torch.bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp32", "f32", "float", "full", "torch.float32"), "float32"),
}
DTYPE_FLAGS = {
    **dict.fromkeys(("fp16", "half", "float16"), "say --dtype float16"),
    **dict.fromkeys(("no-half", "no-half-vae", "fp32", "float32"), "say --dtype float32"),
    **dict.fromkeys(("bf16", "bfloat16"), "say --dtype bfloat16"),
}

SAMPLER_FLAGS = {
    "plms": "say --sampler plms",
    "ddim": "say --sampler ddim",
    "dpm-solver": "say --sampler dpmpp_2m",
}
SCHEDULE_FLAGS = {
    f"use-{name}-sigmas": f"say --schedule diffusers_{name}" for name in ("karras", "exponential", "beta")
}

RATIO = dict.fromkeys(("aspect-ratio", "ar"), "say the size in pixels: --size WIDTHxHEIGHT, for example 512x768")
_SIZE = re.compile(r"\s*(\d+)\s*[xX*,\u00d7]\s*(\d+)\s*")


def parse_size(text: str) -> tuple[int, int]:
    """Returns width and height of "512x768", also with X, *, a comma or a multiplication sign between; InputError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise InputError(f"a size is WIDTHxHEIGHT in pixels, for example 512x768, not {text!r}")
    return int(match[1]), int(match[2])


def count_words(value: str) -> Sequence[str]:
    """Returns --count for a number; text after -n is what stable-diffusion.cpp steers away from: InputError."""
    if re.fullmatch(r"[-+]?\d+", value):
        return [f"--count={value}"]
    raise InputError(f"-n is how many pictures, not {value!r}; what to steer away from is --negative {value!r}")


def folder_words(value: str) -> Sequence[str]:
    """Returns --output with the folder of an --outdir, which need not exist."""
    return [f"--output={value.rstrip('/')}/" if value else "--output="]


def clip_words(value: str) -> Sequence[str]:
    """Returns --clip-skip for "stop at the last layers": 1 (ComfyUI: -1) leaves out none, 2 leaves out one."""
    if not re.fullmatch(r"-?[1-9]\d*", value):
        raise InputError(f"the last layers to stop at are counted from 1 (or -1), not {value!r}; or type --clip-skip")
    return [f"--clip-skip={abs(int(value)) - 1}"]


def scheduler_words(value: str) -> Sequence[str]:
    """Returns --schedule for ComfyUI's schedulers, such as karras, and --sampler for diffusers', which are solvers."""
    return [f"--{'sampler' if names.is_sampler(value) else 'schedule'}={value}"]
