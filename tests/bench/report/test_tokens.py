"""The tables and the plot of models of tokens: which rows they have, and what is set beside what."""

import numpy as np
import pytest

from bench import results
from bench.report import tokens
from mlx_sd.discrete import calls, schedules

MACHINE = dict.fromkeys(("processor", "cores", "system", "device", "mlx", "blas"), "x")


def _point(sampler, number, *, full=None, schedule=None, deepcache=None, true=8, macs=1e9):
    point = {"sampler": sampler, "steps": number, "schedule": schedule, "deepcache": deepcache, "calls": float(number)}
    truth = {"true": true, "count": 16, "percent": 100 * true / 16, "low": 10.4, "high": 89.6}
    point |= {"full_calls": float(full or number), "macs": int(number * macs), "truth": truth}
    return point | {"frechet": 10.0 + number}


@pytest.fixture
def folder(tmp_path):
    """Results with one point of every sampler, one of them cached, and two of latents."""
    points = [_point(name, 4 + i, schedule="linear") for i, name in enumerate(calls.NAMES)]
    points += [_point(calls.MASKGIT, 40), _point(calls.MASKGIT, 40, full=20, deepcache="2")]
    points += [_point(calls.DNDM, 30, schedule="beta:100,4")]
    size = {"size": 128, "guidance": 3.0}
    size["call_seconds"] = {"median": 0.1, "min": 0.05, "max": 0.2}
    latents = size | {"points": [_point("dpmpp_2m", 2, macs=3e9), _point("dpmpp_2m", 14, macs=3e9)]}
    values = {"images": 16, "true_pictures": 5.0, "through_tokens": _point("", 1), "points": points, "machine": MACHINE}
    values["bits"] = {"per_token": 4.5, "per_channel": 0.02, "codes": 9.0}
    results.write(tmp_path / tokens.FILE, values | size | {"continuous": latents})
    return tmp_path


def test_the_mean_number_of_calls_is_that_of_times_drawn(folder):
    rows = {row.split(" | ")[0]: row for row in tokens.expected_calls(folder).splitlines()[2:]}
    for name in ("linear", "cosine", schedules.BETA):
        shown = float(rows[f"| `{name}`"].split(" | ")[2])
        drawn = [len(calls.calls_of(calls.DNDM, name, 50, 256, np.random.default_rng(i))) for i in range(200)]
        assert np.mean(drawn) == pytest.approx(shown, rel=0.03)


def test_rows_are_in_the_order_of_calls(folder):
    rows = tokens.samplers(folder).splitlines()[2:]
    rows = rows[: rows.index("")]
    numbers = [int(row.split(" | ")[3].split(" ")[0]) for row in rows]
    assert len(rows) == len(calls.NAMES) + 3 and numbers == sorted(numbers)
    assert rows[-1].startswith("| `maskgit`, `--deepcache 2` |") and "| 40 (20 full) | 50% (10 to 90) |" in rows[-1]


def test_latents_stand_below_the_tokens_that_cost_about_as_much(folder):
    rows = tokens.beside_latents(folder).splitlines()[2:6]
    assert [row.split(" | ")[2] for row in rows] == [
        f"{n:.1f} G" for n in (4 + calls.NAMES.index("maskgit"), 6, 40, 42)
    ]
    assert ["latents" in row for row in rows] == [False, True, False, True]


def test_the_plot_has_a_line_of_every_sampler_and_leaves_out_cached_calls(folder):
    pytest.importorskip("matplotlib")
    truth, distance = tokens.by_calls(folder).axes
    labels = {line.get_label() for line in distance.lines if not line.get_label().startswith("_")}
    assert labels == {*calls.NAMES, "dndm, beta:100,4"}
    drawn = sum(len(line.get_xdata()) for line in truth.lines if line.get_label() in labels)
    assert drawn == len(calls.NAMES) + 2
