"""The comparison of reuse: the costs of configurations, and that nothing is computed twice."""

import json

import numpy as np
import pytest

from bench.quality import blocks, curves, solvers
from bench.quality.curves import Configuration

CONFIGURATIONS = [
    Configuration("DeepCache", "ddim", 50),
    Configuration("DeepCache", "ddim", 50, "5"),
    Configuration("fewer steps", "ddim", 9),
    Configuration("fewer steps", "dpmpp_2m", 9),
    Configuration("all", "dpmpp_2m", 9, "3/tgate:4"),
]


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """Blocks of two pictures, few true ones."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    for name, few in (("TRUE", 6), ("COUNT", 8)):
        monkeypatch.setattr(solvers, name, few)
    drawn = np.random.default_rng(0).standard_normal((8, 192)).astype(np.float32)
    monkeypatch.setattr(solvers.SolverComparison, "_true", lambda self, seeds: drawn[: len(seeds)])
    return curves.ReuseComparison(tmp_path)


def test_every_configuration_is_there_once_and_so_is_its_full_loop():
    compared = [configuration[1:] for configuration in curves.configurations()]
    assert len(set(compared)) == len(compared)
    assert {configuration.full[1:] for configuration in curves.configurations()} <= set(compared)
    loops = {loop for sampler, steps, loop in compared if (sampler, steps) == ("ddim", 50)}
    assert loops >= {"full", "2", "3", "5", "10", "20", "tgate:10"}


def test_a_full_loop_costs_its_evaluations_and_reuse_costs_less(comparison):
    costs = {configuration[1:]: comparison.cost(configuration) for configuration in CONFIGURATIONS}
    assert (costs["ddim", 50, "full"], costs["ddim", 9, "full"], costs["dpmpp_2m", 9, "full"]) == (50, 9, 9)
    # 10 full evaluations and 40 of the outer level, which is a small part of the embedded UNet.
    level = (comparison.cost(Configuration("caching", "ddim", 50, "10")) - 5) / 45
    assert 0.03 < level < 0.15 and costs["ddim", 50, "5"] == pytest.approx(10 + 40 * level, abs=0.01)
    assert 3 < costs["dpmpp_2m", 9, "3/tgate:4"] < 4.5


@pytest.mark.slow  # test_solvers has the same of other blocks
def test_finished_blocks_are_stored_and_results_are_of_them(comparison, monkeypatch):
    compared = [configuration._replace(steps=9) for configuration in CONFIGURATIONS[2:]]
    for configuration in compared:
        comparison.block(configuration, 0)
    monkeypatch.setattr(comparison.sd, "predictor", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(comparison, "cost", lambda configuration: 9.0 if configuration.loop == "full" else 3.5)
    unfinished = Configuration("fewer steps", "ddim", 7)
    values = comparison.results([*compared, unfinished], 2)
    assert [row["steps"] for row in values["ways"]] == [9, 9, 9]
    plain, gated = values["ways"][1:]
    assert (plain["drift_rms"], plain["psnr"]) == (0, None) and gated["drift_rms"] > 0 and 5 < gated["psnr"] < 60
    json.dumps(values)
