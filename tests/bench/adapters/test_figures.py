"""Figures and their intervals, and the overlap of edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.adapters import figures
from bench.adapters.edge_overlap import intersection_over_union

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)


def image(*pixels, side=12):
    edges = np.zeros((side, side), bool)
    for row, column in pixels:
        edges[row, column] = True
    return edges


IMAGES = st.builds(lambda pixels: image(*pixels), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11))))


@given(NUMBERS)
def test_a_median_lies_in_its_interval(numbers):
    figure = figures.median(numbers)
    order = [figure[name] for name in ("smallest", "low", "median", "high", "largest")]
    assert order == sorted(order) and figure["count"] == len(numbers)
    assert (order[0], order[-1]) == (round(min(numbers), 4), round(max(numbers), 4))


@pytest.mark.parametrize("count", [7, 20, 60])
def test_the_interval_of_a_median_holds_the_true_one_in_95_of_100_cases(count):
    drawn = np.random.default_rng(count).standard_normal((2000, count))
    held = [f["low"] <= 0 <= f["high"] for f in map(figures.median, drawn)]
    assert 0.93 < np.mean(held) < 0.99


def test_an_interval_lies_above_another_or_they_overlap():
    low, middle, high = (figures.share([True] * true + [False] * (50 - true)) for true in (2, 4, 40))
    assert figures.above(high, low) and not figures.above(low, high) and not figures.above(middle, low)
    assert figures.overlap(low, middle) and figures.overlap(middle, low)
    assert not figures.overlap(low, high) and not figures.overlap(high, low)


@given(IMAGES, IMAGES)
def test_overlap_is_symmetric_and_a_share(first, second):
    overlap = intersection_over_union(first, second)
    assert 0 <= overlap <= 1 and overlap == intersection_over_union(second, first)
    assert intersection_over_union(first, first) == 1


def test_edges_within_a_pixel_agree_and_others_do_not():
    diagonal = image(*((i, i) for i in range(2, 9)))
    assert intersection_over_union(diagonal, np.roll(diagonal, (1, 1), (0, 1))) == 1
    column, far = image(*((i, 2) for i in range(12))), image(*((i, 4) for i in range(12)))
    assert intersection_over_union(column, np.roll(column, 1, 1)) == 1
    assert intersection_over_union(column, far) == 0
    assert intersection_over_union(column, image()) == 0 and intersection_over_union(image(), image()) == 1
    assert intersection_over_union(column, column | far) == pytest.approx(12 / 24)
