"""Pictures, masks, guidance and what SDXL and latent consistency models take, as Swift's pipeline must have them."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd.conditions import guidance_embedding
from mlx_sd.sampling.denoise import guide
from mlx_sd.tasks import images, painting

# Where the height shrinks more than the width, Pillow may resize columns first, which rounds otherwise.
_SIZES = ((64, 64), (48, 80), (100, 90), (60, 64), (31, 64), (90, 70), (64, 64))


def write(folder: Path) -> None:
    """Writes pictures/pictures.json: inputs and results of each function."""
    home = folder / "pictures"
    home.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(18)
    content = {
        "resized": [_resized(random, *pair) for pair in pairwise(_SIZES)] + [_resized(random, (7, 5), (64, 64))],
        "greys": _greys(random),
        "masks": [_mask(random, size, (64, 64)) for size in ((64, 64), (100, 100), (33, 33))],
        "guided": [
            _guided(random, *case) for case in ((7.5, 0.0, (1.0,)), (3.0, 0.7, (1.0,)), (5.0, 0.2, (0.8, -0.5)))
        ],
        "embedded": [
            {"guidance": scale, "values": np.array(guidance_embedding(scale, width))[0].tolist()}
            for scale, width in ((1.0, 8), (7.5, 256), (1.7, 32))
        ],
        "rounded": _rounded(random),
    }
    (home / "pictures.json").write_text(json.dumps(content), encoding="utf-8")


def _picture(array: np.ndarray) -> dict[str, Any]:
    height, width, channels = (*array.shape, 1)[:3]
    return {"width": width, "height": height, "channels": channels, "bytes": array.ravel().tolist()}


def _resized(random: np.random.Generator, size: tuple[int, int], new: tuple[int, int]) -> Mapping[str, Any]:
    array = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
    array[: size[1] // 2] //= 128  # an edge of black and almost black
    array[: size[1] // 2] *= 255
    return {
        "from": _picture(array),
        "to": _picture(np.asarray(images.fitted(Image.fromarray(array), new))),
    }


def _greys(random: np.random.Generator) -> Mapping[str, Any]:
    array = random.integers(0, 256, (16, 16, 3), np.uint8)
    return {"from": _picture(array), "to": np.asarray(Image.fromarray(array).convert("L")).ravel().tolist()}


def _mask(random: np.random.Generator, image: tuple[int, int], size: tuple[int, int]) -> Mapping[str, Any]:
    """Returns a mask of half an image's size, and what of a picture and of its latents is painted."""
    y, x = np.mgrid[: image[1] // 2, : image[0] // 2]
    distance = np.hypot(x - image[0] / 5, y - image[1] / 4)
    array = np.clip(255 * (image[0] / 6 - distance) / 4 + random.normal(0, 9, distance.shape), 0, 255).astype(np.uint8)
    mask = painting._mask(Image.new("RGB", image), Image.fromarray(array))
    pixels = np.asarray(images.fitted(mask, size)) > 127
    return {
        "mask": _picture(array),
        "image": list(image),
        "size": list(size),
        "original": (np.asarray(mask) // 255).ravel().tolist(),
        "pixels": pixels.astype(int).ravel().tolist(),
        "latents": pixels[::8, ::8].astype(int).ravel().tolist(),
    }


def _guided(random: np.random.Generator, scale: float, rescale: float, weights: tuple[float, ...]) -> Mapping[str, Any]:
    rows = random.standard_normal((1 + len(weights), 4, 8, 8)).astype(np.float32)
    result = np.array(guide(mx.array(rows), scale, rescale, weights))
    return {
        "scale": scale,
        "rescale": rescale,
        "weights": list(weights),
        "rows": rows.ravel().tolist(),
        "values": result.ravel().tolist(),
    }


def _rounded(random: np.random.Generator) -> Mapping[str, Any]:
    """Returns pixels (3, 8, 8), some halfway between two levels, and their bytes, a pixel's colours side by side."""
    pixels = random.uniform(-1.2, 1.2, (3, 8, 8)).astype(np.float32)
    pixels[0] = (np.arange(64).reshape(8, 8) * 4 + 0.5) / 127.5 - 1
    clipped = mx.clip(mx.array(pixels), -1, 1)
    levels = np.array(mx.round((clipped + 1) * 127.5).astype(mx.uint8))
    return {"pixels": pixels.ravel().tolist(), "bytes": levels.transpose(1, 2, 0).ravel().tolist()}
