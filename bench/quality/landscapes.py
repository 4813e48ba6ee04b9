"""The embedded checkpoint's domain: its true pictures and captions, and the small CLIP that judges pictures of it.

The CLIP was trained on true pictures. It stays the same whatever the checkpoint becomes, so that results compare.
"""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from convert.files.diffusers_names import diffusers_name
from mlx_sd.checkpoint.model_folder import shapes
from mlx_sd.networks.clip import TextEncoder
from mlx_sd.networks.configs import TextConfig
from mlx_sd.prompts.tokenizer import Tokenizer

from ..tiny.scenes import Scene, caption, render, sample_scene
from . import blocks
from .scores import Features

JUDGE = Path(__file__).parent / "judge"
WEIGHTS = JUDGE / "clip_image.safetensors"

FIRST_TRUE, FIRST_OTHER = 1_000_000, 2_000_000  # seeds of true pictures to compare with, and of others
_SIDE = 128  # pixels a side of the pictures that the CLIP was trained on
_CONVOLUTIONS = 10
_EPS = 1e-5  # of the batch normalisations


class TinyClip:
    """The small CLIP: its image encoder, its text encoder, and their projections to common features."""

    name = "the CLIP of the embedded checkpoint"

    def __init__(self) -> None:
        """Reads both encoders."""
        self._tokenizer = Tokenizer.load(JUDGE / "tokenizer")
        self._text_encoder = _text_encoder(JUDGE / "text_encoder")
        stored = {name: w.astype(mx.float32) for name, w in mx.load(str(WEIGHTS)).items()}  # type: ignore[union-attr]
        self._layers = [_folded(stored, f"image.f.{3 * i}", f"image.f.{3 * i + 1}") for i in range(_CONVOLUTIONS)]
        self._projection, self._bias = stored["image.p.weight"], stored["image.p.bias"]
        self._text = stored["text_projection.weight"]

    def images(self, pixels: mx.array) -> Features:
        """Returns the features (N, 192) of pictures (N, s, s, 3) in [-1, 1], s a multiple of 128: of block means."""
        count, side = pixels.shape[:2]
        blocks = pixels.reshape(count, _SIDE, side // _SIDE, _SIDE, side // _SIDE, 3)
        x = blocks.mean((2, 4))
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
        ids = mx.array([self._tokenizer.chunks(prompt)[0] for prompt in prompts])
        return np.array(self._text_encoder(ids).pooled @ self._text.T)


def _text_encoder(folder: Path) -> TextEncoder:
    """Loads a text encoder of transformers, in float32."""
    network = TextEncoder(TextConfig.from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    stored = mx.load(str(folder / "model.safetensors"))
    assert isinstance(stored, dict)
    names = {name: diffusers_name("text_encoder", network.names, name) for name in shapes(network)}
    network.load_weights([(name, stored[source].astype(mx.float32)) for name, source in names.items()])
    mx.eval(network.parameters())
    return network


def _folded(stored: dict[str, mx.array], convolution: str, norm: str) -> tuple[mx.array, mx.array]:
    """Weight (NHWC) and bias of a convolution, with the batch normalisation after it folded in."""
    scale = stored[f"{norm}.weight"] * mx.rsqrt(stored[f"{norm}.running_var"] + _EPS)
    weight = stored[f"{convolution}.weight"].transpose(0, 2, 3, 1) * scale[:, None, None, None]
    bias = (stored[f"{convolution}.bias"] - stored[f"{norm}.running_mean"]) * scale + stored[f"{norm}.bias"]
    return weight, bias


def captions(seeds: Iterable[int]) -> list[str]:
    """Returns a caption of each scene, in the order of `paintings`."""
    return [text for _, text in map(_scene, seeds)]


def paintings(seeds: Iterable[int], side: int = _SIDE) -> mx.array:
    """Paints true pictures (N, side, side, 3) in [-1, 1]; seeds below ten million were never trained on."""
    painted = [np.asarray(render(scene, side), np.float32) for scene, _ in map(_scene, seeds)]
    return mx.array(np.stack(painted)) / 127.5 - 1


def true_features(clip: TinyClip, seeds: range, side: int) -> Features:
    """Returns the features of true pictures, side pixels a side, which are painted a block at a time."""
    return np.concatenate([clip.images(paintings(part, side)) for part in blocks.parts(seeds)])


def _scene(seed: int) -> tuple[Scene, str]:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    return scene, caption(scene, rng)
