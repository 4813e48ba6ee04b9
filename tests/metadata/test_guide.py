"""The guide's tables of A1111's names are those that are written and read."""

import re
from pathlib import Path

import pytest

from mlx_sd.metadata.a1111_names import labels, solver_of
from mlx_sd.sampling import samplers, schedules

PAGE = (Path(__file__).parent.parent.parent / "docs" / "guide" / "replay.md").read_text(encoding="utf-8")


def _rows(title):
    section = PAGE.partition(f"### {title}\n")[2].partition("\n### ")[0]
    return {
        tuple(re.findall(r"`(\w+)`", ours)): label
        for ours, label in re.findall(r"^\| (`[^|]*) \| (.*) \|$", section, re.M)
    }


def test_every_sampler_is_in_the_guide_under_its_name():
    rows = _rows("Names of samplers")
    assert sorted(name for row in rows for name in row) == sorted(samplers.names())
    for row, label in rows.items():
        for name in row:
            written = labels({"sampler": name, "schedule": "karras"})[0]
            assert label.startswith("none: our names" if written == name else written), name
    assert labels({"sampler": "dpmpp_2m_sde", "schedule": "karras", "kind": "heun"})[0] in rows[("dpmpp_2m_sde",)]
    assert labels({"sampler": "edm", "schedule": "karras", "order": 1})[0] in rows[("edm",)]


def test_every_schedule_is_in_the_guide_under_its_name():
    rows = _rows("Names of schedules")
    named = {name: label for row, label in rows.items() for name in row}
    assert named.keys() == {name for name in schedules.names() if not name.startswith("diffusers_")}
    for name, label in named.items():
        assert label.startswith(labels({"sampler": "euler", "schedule": name})[1]), name


@pytest.mark.parametrize(
    "name", re.findall(r"DPM\S* [\w ]+?(?=,| and)|DPM2|Restart", PAGE.partition("have no equal here")[0][-160:])
)
def test_what_the_guide_says_has_no_equal_has_none(name):
    assert solver_of(name, None).sampler is None
