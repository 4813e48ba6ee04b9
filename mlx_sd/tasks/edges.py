"""Edges of a photo, as control networks for edges and scribbles were trained to see them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int32]
Floats = NDArray[np.floating[Any]]

LOW, HIGH = 100, 200  # thresholds of the gradient, as in the annotators of ControlNet's authors
_TANGENT = int(0.4142135623730950488 * (1 << 15) + 0.5)  # of 22.5 degrees, in fixed point as OpenCV has it
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)


def grey(pixels: Bytes) -> Floats:
    """Returns the brightness (H, W), float32 from 0 to 255, of pixels (H, W, 3)."""
    # In float64, rounded once: in float32 the last columns, which processors sum otherwise, differ in their last bit.
    brightness: Floats = (pixels.astype(np.float64) @ _LUMA.astype(np.float64)).astype(np.float32)
    return brightness


def canny(pixels: Bytes, low: int = LOW, high: int = HIGH) -> Bytes:
    """Returns edges one pixel wide (H, W), 255 or 0, of pixels (H, W, C): Canny 1986, computed as OpenCV does.

    The gradient is Sobel's, of the channel where it is largest, its size the sum of both parts. A pixel that is larger
    than its neighbours across the edge is kept above `high`, and above `low` where it touches one that is kept.
    """
    from scipy import ndimage  # here because SciPy takes long to import

    dx, dy = _gradient(pixels)
    size = np.abs(dx) + np.abs(dy)
    largest = size.argmax(axis=-1)[..., None]
    dx, dy, size = (np.take_along_axis(a, largest, axis=-1)[..., 0] for a in (dx, dy, size))
    candidates = _thinned(dx, dy, size) & (size > low)
    regions, count = ndimage.label(candidates, np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[np.unique(regions[candidates & (size > high)])] = True
    return np.where(strong[regions], 255, 0).astype(np.uint8)


def soft(pixels: Bytes) -> Bytes:
    """Returns soft edges (H, W), 0 to 255: the root of the gradient of the smoothed brightness, the strongest white."""
    from scipy import ndimage  # here because SciPy takes long to import

    smooth = ndimage.gaussian_filter(grey(pixels), 1.5, mode="nearest")
    gradient = np.hypot(ndimage.sobel(smooth, 0, mode="nearest"), ndimage.sobel(smooth, 1, mode="nearest"))
    strongest = max(float(np.percentile(gradient, 99.5)), 1.0)
    shades: Bytes = (255 * np.sqrt(np.clip(gradient / strongest, 0, 1))).round().astype(np.uint8)
    return shades


def scribble(pixels: Bytes, threshold: int = 32) -> Bytes:
    """Returns strokes (H, W), 255 or 0: where a picture is darker than its surroundings (Winnemoeller et al. 2012).

    The darkest channel decides by the difference of two Gaussians, of widths 0.5 and 5 pixels; threshold: from 0 to
    255, more leaves fewer strokes.
    """
    from scipy import ndimage  # here because SciPy takes long to import

    floats = pixels.astype(np.float32)
    fine, coarse = (ndimage.gaussian_filter(floats, (width, width, 0), mode="mirror") for width in (0.5, 5.0))
    darker = np.clip((coarse - fine).min(axis=-1), 0, 255).astype(np.uint8)
    return np.where(2 * darker.astype(int) > threshold, 255, 0).astype(np.uint8)


def _gradient(pixels: Bytes) -> tuple[Integers, Integers]:
    """Sobel's differences (H, W, C) to the right and down; pixels outside repeat the edge."""
    padded = np.pad(pixels.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    right = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    return right[:-2] + 2 * right[1:-1] + right[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]


def _thinned(dx: Integers, dy: Integers, size: Integers) -> NDArray[np.bool_]:
    """Where a pixel's gradient is larger than that of its two neighbours across the edge."""
    around = np.pad(size, 1)

    def at(row: int, column: int) -> Integers:
        """Returns the gradient's size at a neighbour, 0 outside the picture."""
        height, width = size.shape
        neighbour: Integers = around[1 + row : 1 + row + height, 1 + column : 1 + column + width]
        return neighbour

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat, steep = x * _TANGENT, x * _TANGENT + (x << 16)
    horizontal = (size > at(0, -1)) & (size >= at(0, 1))
    vertical = (size > at(-1, 0)) & (size >= at(1, 0))
    rising = (dx ^ dy) < 0
    diagonal = np.where(rising, (size > at(-1, 1)) & (size > at(1, -1)), (size > at(-1, -1)) & (size > at(1, 1)))
    return np.where(y < flat, horizontal, np.where(y > steep, vertical, diagonal))
