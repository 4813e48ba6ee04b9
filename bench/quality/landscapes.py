"""The embedded checkpoint's domain: its true pictures and captions, and the small CLIP trained on them.

The CLIP is the one whose text encoder became the checkpoint's.
"""

import random
from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.embedded import TINY

from ..tiny.scenes import Scene, caption, render, sample_scene
from .scores import Features

WEIGHTS = TINY / "clip_image.safetensors"

_SIDE = 128  # pixels a side of the pictures that the CLIP was trained on
_CONVOLUTIONS = 10
_EPS = 1e-5  # of the batch normalisations


class TinyClip:
    """The small CLIP: its image encoder, and the projection of the checkpoint's text encoder to common features."""

    name = "the CLIP of the embedded checkpoint"

    def __init__(self, sd: StableDiffusion):
        """Reads the image encoder; `sd` is the embedded checkpoint."""
        self._sd = sd
        stored = {name: w.astype(mx.float32) for name, w in mx.load(str(WEIGHTS)).items()}  # type: ignore[union-attr]
        self._layers = [_folded(stored, f"image.f.{3 * i}", f"image.f.{3 * i + 1}") for i in range(_CONVOLUTIONS)]
        self._projection, self._bias = stored["image.p.weight"], stored["image.p.bias"]
        self._text = stored["text_projection.weight"]

    def images(self, pixels: mx.array) -> Features:
        """Returns the features (N, 192) of pictures (N, 128, 128, 3) in [-1, 1]."""
        x = pixels
        for i, (weight, bias) in enumerate(self._layers):
            # Group by group: MLX's own grouped convolution takes twice as long on the CPU.
            groups = x.shape[-1] // weight.shape[-1]
            parts = zip(mx.split(x, groups, -1), mx.split(weight, groups), strict=True)
            convolved = [mx.conv2d(part, w, stride=2 - i % 2, padding=1) for part, w in parts]
            x = mx.maximum(mx.concatenate(convolved, -1) + bias, 0)
        x = x.transpose(0, 3, 1, 2).flatten(1)  # in the order of torch, where it was trained
        return np.array(x @ self._projection.T + self._bias)

    def pictures(self, pictures: Sequence[Image.Image]) -> Features:
        """Returns the features (N, 192) of pictures, scaled to 128 pixels a side."""
        scaled = [picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for picture in pictures]
        return self.images(mx.array(np.stack([np.asarray(picture, np.float32) for picture in scaled])) / 127.5 - 1)

    def texts(self, prompts: Sequence[str]) -> Features:
        """Returns the features (N, 192) of prompts, the first 77 tokens of each."""
        ids = mx.array([self._sd.tokenizer.chunks(prompt)[0] for prompt in prompts])
        return np.array(self._sd.model.text_encoders[0](ids).pooled.astype(mx.float32) @ self._text.T)


def _folded(stored: dict[str, mx.array], convolution: str, norm: str) -> tuple[mx.array, mx.array]:
    """Weight (NHWC) and bias of a convolution, with the batch normalisation after it folded in."""
    scale = stored[f"{norm}.weight"] * mx.rsqrt(stored[f"{norm}.running_var"] + _EPS)
    weight = stored[f"{convolution}.weight"].transpose(0, 2, 3, 1) * scale[:, None, None, None]
    bias = (stored[f"{convolution}.bias"] - stored[f"{norm}.running_mean"]) * scale + stored[f"{norm}.bias"]
    return weight, bias


def captions(seeds: Iterable[int]) -> list[str]:
    """Returns a caption of each scene, in the order of `paintings`."""
    return [text for _, text in map(_scene, seeds)]


def paintings(seeds: Iterable[int]) -> mx.array:
    """Paints true pictures (N, 128, 128, 3) in [-1, 1]; seeds below ten million were never trained on."""
    painted = [np.asarray(render(scene), np.float32) for scene, _ in map(_scene, seeds)]
    return mx.array(np.stack(painted)) / 127.5 - 1


def _scene(seed: int) -> tuple[Scene, str]:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    return scene, caption(scene, rng)
