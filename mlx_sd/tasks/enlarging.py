"""Latents made larger by interpolation, as PyTorch does it."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


def nearest(size: int, target: int) -> Weights:
    """Returns weights (target, size): of the cell in which a pixel's corner lies."""
    return _picking(np.floor(np.arange(target) * size / target), size)


def nearest_exact(size: int, target: int) -> Weights:
    """Returns weights (target, size): of the cell in which a pixel's centre lies."""
    return _picking(np.floor((np.arange(target) + 0.5) * size / target), size)


def bilinear(size: int, target: int) -> Weights:
    """Returns weights (target, size): linear between the centres of two cells."""
    return _interpolating(size, target, 1, lambda x: np.maximum(0, 1 - np.abs(x)))


def bicubic(size: int, target: int) -> Weights:
    """Returns weights (target, size): cubic through four cells, a = -0.75 (Keys 1981)."""
    return _interpolating(size, target, 2, lambda x: _cubic(np.abs(x), -0.75))


def bicubic_antialiased(size: int, target: int) -> Weights:
    """Returns weights (target, size): cubic through four cells, a = -0.5; what lies outside takes no part."""
    return _interpolating(size, target, 2, lambda x: _cubic(np.abs(x), -0.5), clamps=False)


# The names of A1111's upscalers, Latent (bilinear) and so on.
MODES: dict[str, Callable[[int, int], Weights]] = {
    "latent": bilinear,
    "latent-antialiased": bilinear,  # what is made larger has no finer detail to be smoothed
    "latent-bicubic": bicubic,
    "latent-bicubic-antialiased": bicubic_antialiased,
    "latent-nearest": nearest,
    "latent-nearest-exact": nearest_exact,
}


def enlarge(latents: mx.array, size: tuple[int, int], mode: str) -> mx.array:
    """Returns latents (N, h, w, C) in another size (height, width), not smaller, by one of MODES; float32."""
    height, width = (
        mx.array(MODES[mode](before, after)) for before, after in zip(latents.shape[1:3], size, strict=True)
    )
    return mx.einsum("yh,nhwc,xw->nyxc", height, latents.astype(mx.float32), width)


def _picking(places: NDArray[np.floating], size: int) -> Weights:
    weights: Weights = np.eye(size, dtype=np.float32)[np.clip(places.astype(int), 0, size - 1)]
    return weights


def _interpolating(
    size: int,
    target: int,
    reach: int,
    kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    clamps: bool = True,
) -> Weights:
    """Returns weights of the cells within `reach` of each pixel's centre; outside of the image is its edge."""
    centres = (np.arange(target) + 0.5) * size / target - 0.5
    weights = np.zeros((target, size))
    first = np.floor(centres).astype(int) - reach + 1
    for offset in range(2 * reach):
        cells = first + offset
        inside = clamps | ((cells >= 0) & (cells < size))
        np.add.at(weights, (np.arange(target), np.clip(cells, 0, size - 1)), inside * kernel(centres - cells))
    normalized: Weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return normalized


def _cubic(x: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
