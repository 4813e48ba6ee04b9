"""How good pictures of the embedded checkpoint's world are: Frechet distance to true ones, CLIP score with prompts.

Features are those of the small CLIP that trained the checkpoint's text encoder. Distances between few pictures are
biased upwards: they compare only at one number of pictures, and above the floor that as many true ones set.
"""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_sd import StableDiffusion
from mlx_sd.load import TINY

from .tiny.scenes import Scene, caption, render, sample_scene

Features = NDArray[np.float32]  # (N, 192), not normalised

WEIGHTS = TINY / "clip_image.safetensors"

_CONVOLUTIONS = 10
_EPS = 1e-5  # of the batch normalisations


class Statistics(NamedTuple):
    """A Gaussian fitted to features."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class Scorer:
    """The image half of that CLIP, and what joins it to the checkpoint's text encoder."""

    def __init__(self) -> None:
        stored = {name: w.astype(mx.float32) for name, w in mx.load(str(WEIGHTS)).items()}  # type: ignore[union-attr]
        self._layers = [_folded(stored, f"image.f.{3 * i}", f"image.f.{3 * i + 1}") for i in range(_CONVOLUTIONS)]
        self._projection, self._bias = stored["image.p.weight"], stored["image.p.bias"]
        self._text = stored["text_projection.weight"]

    def images(self, pixels: mx.array) -> Features:
        """Features of pictures (N, 128, 128, 3) in [-1, 1]."""
        x = pixels
        for i, (weight, bias) in enumerate(self._layers):
            # Group by group: MLX's own grouped convolution takes twice as long on the CPU.
            groups = x.shape[-1] // weight.shape[-1]
            parts = zip(mx.split(x, groups, -1), mx.split(weight, groups), strict=True)
            convolved = [mx.conv2d(part, w, stride=2 - i % 2, padding=1) for part, w in parts]
            x = mx.maximum(mx.concatenate(convolved, -1) + bias, 0)
        x = x.transpose(0, 3, 1, 2).flatten(1)  # in the order of torch, where it was trained
        return np.array(x @ self._projection.T + self._bias)

    def texts(self, sd: StableDiffusion, prompts: Sequence[str]) -> Features:
        """Features of prompts, the first 77 tokens of each, from the embedded checkpoint `sd`."""
        ids = mx.array([sd.tokenizer.chunks(prompt)[0] for prompt in prompts])
        return np.array(sd.model.text_encoders[0](ids).pooled.astype(mx.float32) @ self._text.T)


def _folded(stored: dict[str, mx.array], convolution: str, norm: str) -> tuple[mx.array, mx.array]:
    """Weight (NHWC) and bias of a convolution with the batch normalisation after it."""
    scale = stored[f"{norm}.weight"] * mx.rsqrt(stored[f"{norm}.running_var"] + _EPS)
    weight = stored[f"{convolution}.weight"].transpose(0, 2, 3, 1) * scale[:, None, None, None]
    bias = (stored[f"{convolution}.bias"] - stored[f"{norm}.running_mean"]) * scale + stored[f"{norm}.bias"]
    return weight, bias


def statistics(features: NDArray[np.floating]) -> Statistics:
    """The Gaussian with the mean and the unbiased covariance of features (N, D), N at least 2."""
    wide = features.astype(np.float64)
    return Statistics(wide.mean(0), np.atleast_2d(np.cov(wide, rowvar=False)))


def frechet(p: Statistics, q: Statistics) -> float:
    """The squared Frechet distance of two Gaussians (Dowson and Landau 1982), as FID reports it.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the root's trace from the symmetric C1^(1/2) C2 C1^(1/2).
    """
    values, vectors = np.linalg.eigh(p.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ q.covariance @ root), 0)).sum()
    squared = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance) + np.trace(q.covariance) - 2 * cross
    return max(float(squared), 0.0)


def clip_score(images: Features, texts: Features) -> float:
    """100 times the mean cosine between the features of pictures and of their prompts, row by row."""
    cosines = np.sum(images * texts, 1) / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1))
    return 100 * float(cosines.mean())


# ---------------------------------------------------------------------------------------------- the true world


def captions(seeds: Iterable[int]) -> list[str]:
    """A caption of each scene that `paintings` shows."""
    return [text for _, text in map(_scene, seeds)]


def paintings(seeds: Iterable[int]) -> mx.array:
    """True pictures (N, 128, 128, 3) in [-1, 1]; seeds below ten million were never trained on."""
    painted = [np.asarray(render(scene), np.float32) for scene, _ in map(_scene, seeds)]
    return mx.array(np.stack(painted)) / 127.5 - 1


def _scene(seed: int) -> tuple[Scene, str]:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    return scene, caption(scene, rng)
