"""The tables of truth: parts of captions, and settings compared in pairs."""

import pytest

from bench import results
from bench.quality.truth_judge import Share
from bench.report import truth

MACHINE = dict.fromkeys(("processor", "cores", "system", "device", "mlx", "blas"), "x")


def _values(true):
    names = ("all", "one thing", "two things")
    share = Share(sum(true), len(true)).to_json()
    shares = {"captions": dict.fromkeys(names, share), "kind": {"tent": share}}
    return {"captions": len(true), "true": true, "shares": shares, "machine": MACHINE}


@pytest.fixture
def folder(tmp_path):
    results.write(tmp_path / truth.DEFAULT, _values([1, 1, 1, 0]))
    results.write(tmp_path / truth.OTHERS["`--speed fast`"], _values([1, 0, 0, 1]))
    return tmp_path


def test_settings_are_compared_in_pairs_and_those_not_measured_have_no_row(folder):
    lines = truth.settings(folder).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| the default | 4 | 75.0% (30.1 to 95.4) |")
    assert lines[3].startswith("| `--speed fast` | 4 | 50.0%") and lines[3].endswith("| 2 | 1 |")


def test_each_part_of_captions_has_its_row(folder):
    assert "| kind | tent | 4 | 75.0% (30.1 to 95.4) |" in truth.parts(folder).splitlines()


def test_the_rules_are_said_in_shares(tmp_path):
    changed = {"sky": {"true": 1, "count": 200}, "color": {"true": 3, "count": 200}}
    shares = {"captions": {"all": Share(396, 400).to_json()}}
    results.write(tmp_path / truth.RULES, {"shares": shares, "changed_captions": changed})
    assert "400 captions, 99.0% are called true" in truth.rules(tmp_path)
    assert truth.rules(tmp_path).endswith("one part was changed, 1.0%.")
