"""Scores of pictures from their features: Frechet distance, CLIP score, Inception Score."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

Features = NDArray[np.float32]  # (N, D), not normalised

SPLITS = 10  # of the pictures, for the Inception Score


class Statistics(NamedTuple):
    """A Gaussian fitted to features: mean (D,) and covariance (D, D)."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def statistics(features: NDArray[np.floating]) -> Statistics:
    """Fits the Gaussian with the mean and the unbiased covariance of features (N, D), N at least 2."""
    wide = features.astype(np.float64)
    return Statistics(wide.mean(0), np.atleast_2d(np.cov(wide, rowvar=False)))


def frechet(p: Statistics, q: Statistics) -> float:
    """Returns the squared Frechet distance of two Gaussians (Dowson and Landau 1982), as FID reports it.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the root's trace from the symmetric C1^(1/2) C2 C1^(1/2).
    """
    values, vectors = np.linalg.eigh(p.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ q.covariance @ root), 0)).sum()
    squared = np.sum((p.mean - q.mean) ** 2) + np.trace(p.covariance) + np.trace(q.covariance) - 2 * cross
    return max(float(squared), 0.0)


def clip_score(images: Features, texts: Features) -> float:
    """Returns 100 times the mean cosine between features of pictures and of their prompts, row by row, at least 0."""
    cosines = np.sum(images * texts, 1) / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1))
    return max(100 * float(cosines.mean()), 0.0)


def inception_score(probabilities: NDArray[np.floating], splits: int = SPLITS) -> tuple[float, float]:
    """Returns exp E KL(p(y|x) || p(y)) (Salimans et al. 2016): mean and deviation over splits of probabilities (N, K).

    ValueError for fewer pictures than splits.
    """
    if len(probabilities) < splits:
        raise ValueError(f"{splits} splits of {len(probabilities)} pictures")
    parts = np.array_split(probabilities.astype(np.float64), splits)
    scores = [np.exp(rel_entr(part, part.mean(0)).sum(1).mean()) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))
