"""Policies are compared with the uncached run, and rules with evenly spaced lists of as many full evaluations."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import results
from bench.quality import policies
from mlx_sd import SADA, Spectrum
from mlx_sd.reuse.deepcache import parse


@given(st.integers(1, 60), st.integers(0, 60))
def test_a_list_of_that_many_evaluations_is_as_even_as_can_be(full, cached):
    evaluations = full + cached
    listed = [*policies.even(full, evaluations, 0, 0).full_evaluations(evaluations), evaluations]
    gaps = [b - a for a, b in pairwise(listed)]
    assert listed[0] == 0 and len(gaps) == full and sum(gaps) == evaluations and max(gaps) - min(gaps) <= 1


@pytest.mark.slow
def test_every_policy_is_measured_and_each_rule_beside_lists_of_as_many(tmp_path, monkeypatch):
    monkeypatch.setattr(policies, "STEPS", (8,))
    monkeypatch.setattr(policies, "INTERVALS", (2,))
    monkeypatch.setattr(policies, "RULES", (Spectrum(2, first=2), SADA(2, end=0.8)))
    file = tmp_path / "policies.json"
    assert policies.main(["--json", str(file)]) == 0
    measured = results.read(file)
    assert {run["full"] for run in measured["runs"] if not run["policy"].startswith("adaptive")} == {4.0}
    for row in measured["rules"]:
        assert parse(row["policy"]).prefix in ("spectrum:", "sada:") and len(row["rms"]) == 3
        assert [parse(run["policy"]).forecast for run in row["even"]] == [0, 1]
        assert {run["full"] for run in row["even"]} == {round(row["full"])} and 0 < row["full"] < 8
