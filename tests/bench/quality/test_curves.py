"""The bench of reuse: what ways cost, what they are compared with, and that nothing is computed twice."""

import json

import numpy as np
import pytest

from bench.quality import curves, solvers
from bench.quality.curves import Way

WAYS = [
    Way("DeepCache", "ddim", 50),
    Way("DeepCache", "ddim", 50, "5"),
    Way("fewer steps", "ddim", 9),
    Way("fewer steps", "dpmpp_2m", 9),
    Way("all", "dpmpp_2m", 9, "3/tgate:4"),
]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Blocks of two pictures, few true ones."""
    for module in (solvers, curves):
        monkeypatch.setattr(module, "BLOCK", 2)
    for name, few in (("TRUE", 6), ("OTHER", 8)):
        monkeypatch.setattr(solvers, name, few)
    drawn = np.random.default_rng(0).standard_normal((8, 192)).astype(np.float32)
    monkeypatch.setattr(solvers.Bench, "_true", lambda self, seeds: drawn[: len(seeds)])
    return curves.Bench(tmp_path)


def test_ways_are_told_apart_and_what_each_is_compared_with_is_among_them():
    every = curves.ways()
    assert len({way[1:] for way in every}) == len(every)
    assert {way.whole[1:] for way in every} - {way[1:] for way in every} <= set()
    assert {w.loop for w in every if w[1:3] == ("ddim", 50)} >= {"full", "2", "3", "5", "10", "20", "tgate:10"}


def test_a_way_without_reuse_costs_its_evaluations_and_reuse_costs_less(bench):
    costs = {way[1:]: bench.cost(way) for way in WAYS}
    assert (costs["ddim", 50, "full"], costs["ddim", 9, "full"], costs["dpmpp_2m", 9, "full"]) == (50, 9, 9)
    # 10 full evaluations and 40 of the outer level, which is 4.8% of the embedded UNet.
    assert costs["ddim", 50, "5"] == pytest.approx(10 + 40 * 0.0476, abs=0.02)
    assert 3 < costs["dpmpp_2m", 9, "3/tgate:4"] < 4.5


def test_what_is_computed_is_kept_and_sections_are_written_of_it(bench, monkeypatch, tmp_path):
    ways = [way._replace(steps=min(way.steps, 9)) for way in WAYS[2:]]
    for way in ways:
        bench.cell(way, 0)
    monkeypatch.setattr(bench.world.sd, "predictor", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(bench, "cost", lambda way: 9.0 if way.loop == "full" else 3.5)
    found = bench.results([*ways, Way("fewer steps", "ddim", 7)], 2)  # the last is not there yet
    assert [way["steps"] for way in found["ways"]] == [9, 9, 9]
    plain, gated = found["ways"][1:]
    assert (plain["drift_rms"], plain["psnr"]) == (0, None) and gated["drift_rms"] > 0 and 5 < gated["psnr"] < 60
    json.dumps(found)
