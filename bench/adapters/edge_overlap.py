"""How far the edges of two pictures agree, within a pixel."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

_NEAR = np.ones((3, 3), bool)  # a pixel and its eight neighbours


def intersection_over_union(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Returns the IoU of two edge images (H, W), 0 to 1, with a tolerance of one pixel.

    A pixel of one image agrees where the other has an edge at most one pixel away, diagonals included. The intersection
    is the mean of the pixels of both that agree; the union is that and the pixels of both that do not. 1 for two images
    without edges.
    """
    near_second, near_first = binary_dilation(second, _NEAR), binary_dilation(first, _NEAR)
    agreeing = (np.count_nonzero(first & near_second) + np.count_nonzero(second & near_first)) / 2
    alone = np.count_nonzero(first & ~near_second) + np.count_nonzero(second & ~near_first)
    union = agreeing + alone
    return float(agreeing / union) if union else 1.0
