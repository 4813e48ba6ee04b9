"""How near a picture is to its reference: PSNR, SSIM and the root mean square error of latents."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from mlx_sd.core.errors import InputError

_SIGMA, _RADIUS = 1.5, 5  # of SSIM's window, 11 pixels a side
_K1, _K2 = 0.01, 0.03


def psnr(image: ArrayLike, reference: ArrayLike, peak: float = 255) -> float:
    """Returns the peak signal-to-noise ratio of arrays of one shape, in decibels; infinite where they are equal."""
    a, b = _pair(image, reference)
    error = float(np.square(a - b).mean())
    return float(20 * np.log10(peak) - 10 * np.log10(error)) if error else np.inf


def ssim(image: ArrayLike, reference: ArrayLike, peak: float = 255) -> float:
    """Returns the structural similarity (Wang et al. 2004) of pictures (H, W) or (H, W, C), at most 1.

    It is the mean over channels and over all places where the Gaussian window lies inside the picture, as in
    scikit-image with gaussian_weights and without use_sample_covariance. InputError for a side under 11 pixels.
    """
    a, b = _pair(image, reference)
    if min(a.shape[:2]) < 2 * _RADIUS + 1:
        raise InputError(f"SSIM's window is {2 * _RADIUS + 1} pixels a side, and a picture only {min(a.shape[:2])}")
    mean_a, mean_b = _blurred(a), _blurred(b)
    variances = _blurred(a * a) - mean_a**2 + _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return float((luminance * structure).mean())


def rms(latents: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Returns the root mean square error (N,) of each of N latents (N, ...)."""
    a, b = _pair(latents, reference)
    return np.asarray(np.sqrt(np.square(a - b).reshape(len(a), -1).mean(1)))


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"arrays that are compared must have one shape, not {a.shape} and {b.shape}")
    return a, b


def _blurred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over the windows that lie inside the picture."""
    inside = slice(_RADIUS, -_RADIUS)
    blurred: NDArray[np.float64] = gaussian_filter(x, _SIGMA, radius=_RADIUS, axes=(0, 1))
    return blurred[inside, inside]
