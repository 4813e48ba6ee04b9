"""The bound that schedules are optimised for, against data whose paths are known in closed form."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize

from bench.schedules import klub

LOW, HIGH, DEVIATION = 0.03, 15.0, 0.5


def _image(x, t, c=DEVIATION):
    """What a perfect network says of images ~ N(0, c^2)."""
    return np.float32(c * c / (c * c + t * t)) * x


def _covariance(t, s, history="denoised", c=DEVIATION):
    """Of what it says at t and at s on one path, where E x_t x_s = c^2 + min(t, s)^2."""
    t, s = np.asarray(t), np.asarray(s)
    gain = (lambda t: c * c / (c * c + t * t)) if history == "denoised" else (lambda t: t / (c * c + t * t))
    return gain(t) * gain(s) * (c * c + np.minimum(t, s) ** 2)


def _exact(strata, history="denoised"):
    """What `klub.follow` estimates, without its noise: times in the middle of their strata, true products."""
    edges = np.geomspace(LOW, HIGH, strata + 1)
    times = np.sqrt(edges[1:] * edges[:-1])
    products = [_covariance(*np.meshgrid(p, q, indexing="ij"), history) for p, q in ((times, edges), (edges, edges))]
    squares = _covariance(times, times, history)
    return klub.Paths(edges, times, klub.weights(times, LOW, HIGH, history), squares, *products)


def _followed(history="denoised", seed=0, strata=64, dims=20_000):
    images = np.random.default_rng(seed).standard_normal((4, dims)).astype(np.float32) * DEVIATION
    return klub.follow(_image, images, LOW, HIGH, strata, seed, history), dims


def _integral(start, end, c=DEVIATION):
    """One step of first order: int 1 / t^3 E |D_t - D_start|^2 dt, with the paper's lemma 3.3 in closed form."""

    def antiderivative(u):  # of 1 / (2 u^2) (1 / (c^2 + u) - 1 / (c^2 + start^2)) in u = t^2
        return ((math.log((c * c + u) / u) / c**2 - 1 / u) / c**2 + 1 / (u * (c * c + start**2))) / 2

    return c**4 * (antiderivative(start**2) - antiderivative(end**2))


def _nodes(steps, strata):
    return np.linspace(strata, 0, steps + 1).astype(int).tolist()


def test_the_closed_form_is_the_integral():
    def integrand(t):
        return (_covariance(t, t) - 2 * _covariance(t, 2.0) + _covariance(2.0, 2.0)) / t**3

    assert _integral(2.0, 0.3) == pytest.approx(quad(integrand, 0.3, 2.0)[0], rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_estimate_is_the_closed_form_for_gaussian_data(seed):
    paths, dims = _followed(seed=seed, strata=256, dims=5_000)
    nodes = _nodes(10, 256)
    levels = paths.edges[nodes]
    exact = sum(_integral(p, q) for p, q in itertools.pairwise(levels))
    assert klub.bound(paths, nodes, [1] * 10) / dims == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("history", ["denoised", "noise"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_is_estimated_as_the_true_covariance_has_it(history, order):
    orders = [min(order, i + 1) for i in range(8)]
    paths, dims = _followed(history)
    nodes = _nodes(8, 64)
    exact = klub.bound(_exact(1024, history), [16 * n for n in nodes], orders)
    assert klub.bound(paths, nodes, orders) / dims == pytest.approx(exact, rel=0.05)


def test_looking_back_does_not_lower_the_bound_however_fine_the_steps():
    """Paths are rough: what lies between two nodes is no smoother than the line through them is wrong."""
    paths = _exact(960)
    first, second = (klub.bound(paths, _nodes(48, 960), [min(k, i + 1) for i in range(48)]) for k in (1, 2))
    assert first < second < 2 * first


def _swept(paths, nodes, orders, sweeps=60):
    for _ in range(sweeps):
        nodes = klub.sweep(paths, nodes, orders, range(1, len(orders)))
    return nodes


def test_the_optimum_for_gaussian_data_is_found():
    paths, steps = _exact(400), 6
    found = _swept(paths, _nodes(steps, 400), [1] * steps)

    def cost(logs):
        levels = [HIGH, *np.exp(logs), LOW]
        return sum(_integral(p, q) for p, q in itertools.pairwise(levels))

    start = np.log(np.geomspace(HIGH, LOW, steps + 1)[1:-1])
    best = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 20_000, "xatol": 1e-6, "fatol": 1e-10})
    edge = math.log(HIGH / LOW) / 400
    assert np.abs(np.log(paths.edges[found][1:-1]) - best.x).max() < 3 * edge
    assert cost(np.log(paths.edges[found][1:-1])) == pytest.approx(best.fun, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.sets(st.integers(1, 59), min_size=2, max_size=12), st.integers(1, 2))
def test_a_sweep_never_raises_the_bound_and_keeps_the_order_and_the_ends(seed, order, inner, gap):
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((3, 40)).astype(np.float32)
    paths = klub.follow(lambda x, t: np.tanh(x / (1 + t)), images, LOW, HIGH, 60, seed)
    nodes = [60, *sorted(inner, reverse=True), 0]
    orders = [min(order, i + 1) for i in range(len(nodes) - 1)]
    before = klub.bound(paths, nodes, orders)
    after = klub.sweep(paths, nodes, orders, range(1, len(orders)), gap)
    assert klub.bound(paths, after, orders) <= before * (1 + 1e-12)
    assert after[0] == 60 and after[-1] == 0 and all(p > q for p, q in itertools.pairwise(after))


def test_a_sweep_moves_only_what_is_free():
    paths = _exact(80)
    nodes = _nodes(8, 80)
    after = klub.sweep(paths, nodes, [1] * 8, range(1, 8, 2))
    assert after[::2] == nodes[::2] and after != nodes


def test_dividing_keeps_the_nodes_and_halves_the_steps_in_log_t():
    assert klub.divided([8, 4, 0]) == [8, 6, 4, 2, 0]


def test_the_polynomial_is_the_one_through_its_nodes():
    nodes, at = np.array([0.3, 1.0, -0.4]), np.array([0.7, -2.0])
    weights = klub.lagrange(nodes, at)
    for power in range(3):
        assert weights @ nodes**power == pytest.approx(at**power)
    assert klub.lagrange(nodes[:1], at).tolist() == [[1.0], [1.0]]
