"""The bound of Align Your Steps (KLUB): how far a solver's paths are from those of the exact reverse diffusion.

Sabour, Fidler and Kreis 2024, eq. 10: a solver that replaces the denoiser D(x_t, t) between its nodes by an estimate
from earlier nodes has a Kullback-Leibler divergence of at most

    sum over steps of  int 1 / t^3  E |D(x_t, t) - estimate(t)|^2  dt

where t is k = s / a, x_t = image + t * noise, and all x of one path are of one Brownian motion. The estimate is the
polynomial in log t through D at the last nodes, one node for a solver of first order. Solvers that do the same with
the noise e = (x_t - D) / t have e for D and 1 / t for 1 / t^3, by the same theorem.

t is drawn evenly in log t, one from each of many strata: for Gaussian data that is how the integrand of small steps is
spread below the data's deviation. The paper draws it anew for each pair of nodes; here one set of paths and times
serves every schedule whose nodes lie on edges of strata, and only products of the network's outputs are stored.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Denoiser = Callable[[NDArray[np.float32], float], NDArray[np.float32]]  # (x (P, ...), t) -> images of its shape


class Paths(NamedTuple):
    """Products of the network's outputs along paths: at `times`, one in each stratum between `edges`, and at the edges.

    A product of two outputs is the mean over paths of the sum over dimensions.
    """

    edges: Floats  # (M + 1,), rising, even in their logarithm
    times: Floats  # (M,)
    weights: Floats  # (M,), of the squared error at the times
    squares: Floats  # (M,), |time|^2
    time_edge: Floats  # (M, M + 1), time * edge
    edge_edge: Floats  # (M + 1, M + 1), edge * edge


def follow(
    denoise: Denoiser,
    images: NDArray[np.float32],
    low: float,
    high: float,
    strata: int,
    seed: int,
    history: str = "denoised",
) -> Paths:
    """Calls the network 2 M + 1 times along one path from each of images (P, ...), from level `low` to `high`.

    history: "denoised" or "noise", the estimates that the solver interpolates.
    """
    rng = np.random.default_rng(seed)
    edges = np.geomspace(low, high, strata + 1)
    times = edges[:-1] * (edges[1:] / edges[:-1]) ** rng.random(strata)
    levels = np.empty(2 * strata + 1)
    levels[::2], levels[1::2] = edges, times
    x, previous, outputs = images, 0.0, []
    for level in levels:
        spread = np.sqrt(level**2 - previous**2)
        x, previous = x + (spread * rng.standard_normal(x.shape)).astype(np.float32), level
        image = denoise(x, float(level))
        outputs.append((image if history == "denoised" else (x - image) / level).reshape(-1))
    stacked = np.stack(outputs).astype(np.float64)
    products = stacked @ stacked.T / len(images)
    at_edges, at_times = products[::2], products[1::2]
    return Paths(
        edges,
        times,
        weights(times, low, high, history),
        np.diagonal(at_times[:, 1::2]).copy(),
        at_times[:, ::2].copy(),
        at_edges[:, ::2].copy(),
    )


def weights(times: Floats, low: float, high: float, history: str = "denoised") -> Floats:
    """Returns the weights of squared errors at `times`: the bound's weight over the density of the times."""
    density = 1 / (times * np.log(high / low))
    return np.asarray(times ** (-3 if history == "denoised" else -1) / (density * len(times)))


def bound(paths: Paths, nodes: Sequence[int], orders: Sequence[int]) -> float:
    """Estimates the bound of a schedule: `nodes` are edges, falling to 0; `orders` the nodes of each step."""
    return sum(_step(paths, nodes, orders, i) for i in range(len(orders)))


def _step(paths: Paths, nodes: Sequence[int], orders: Sequence[int], i: int) -> float:
    inside = slice(nodes[i + 1], nodes[i])
    back = np.array(nodes[i + 1 - orders[i] : i + 1])
    w = lagrange(np.log(paths.edges[back]), np.log(paths.times[inside]))
    errors = paths.squares[inside] - 2 * np.sum(w * paths.time_edge[inside][:, back], 1)
    errors += np.einsum("mi,ij,mj->m", w, paths.edge_edge[np.ix_(back, back)], w)
    return float(np.sum(paths.weights[inside] * errors))


def lagrange(nodes: Floats, at: Floats) -> Floats:
    """Returns the weights (len(at), len(nodes)) of the values at nodes in their interpolating polynomial."""
    columns = [np.prod([(at - q) / (p - q) for q in nodes if q != p], axis=0) for p in nodes]
    return np.stack([np.broadcast_to(column, at.shape) for column in columns], 1)


def sweep(
    paths: Paths, nodes: Sequence[int], orders: Sequence[int], free: Sequence[int], gap: int = 1, reach: int = 5
) -> list[int]:
    """Moves each free node in turn to where the bound is least, at most `reach` edges away (the paper's algorithm 1).

    At least `gap` edges stay between neighbours. The bound never rises, since a node may stay where it is.
    """
    places = list(nodes)
    for i in free:
        affected = range(i - 1, min(i + max(orders), len(orders)))  # steps that end at it, or look back on it

        def cost(place: int, i: int = i, affected: range = affected) -> float:
            """Sums the bound of the affected steps with node i at a place."""
            moved = [*places[:i], place, *places[i + 1 :]]
            return sum(_step(paths, moved, orders, step) for step in affected)

        lowest, highest = places[i + 1] + gap, places[i - 1] - gap
        candidates = range(max(lowest, places[i] - reach), min(highest, places[i] + reach) + 1)
        places[i] = min([places[i], *candidates], key=cost)
    return places


def divided(nodes: Sequence[int]) -> list[int]:
    """Returns the nodes of twice as many steps, with one in the middle of each in log t."""
    return [place for p, q in pairwise(nodes) for place in (p, (p + q) // 2)] + [nodes[-1]]
