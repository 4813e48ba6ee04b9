"""The time beside the loop is what a run takes without its steps."""

import pytest

from bench.speed import startup
from mlx_sd.core.errors import InputError


def test_the_time_beside_the_loop_is_that_of_no_steps(monkeypatch):
    def run(tree, steps, folder):
        return {"seconds": 0.75 + 0.2 * steps, "processor_seconds": 0.5 + 0.3 * steps, "peak_bytes": 10**8}

    monkeypatch.setattr(startup, "_run", run)
    summary = startup.measure(None, 3)["beside_the_loop"]["now"]
    assert summary["seconds"] == {"median": 0.75, "least": 0.75, "most": 0.75}
    assert summary["processor_seconds"]["median"] == 0.5 and summary["peak_bytes"] == 10**8


def test_wrong_arguments_are_refused_before_any_run(tmp_path):
    with pytest.raises(InputError, match="--rounds must be at least 1, not 0"):
        startup.measure(None, 0)
    with pytest.raises(InputError, match="no checkout of mlx-sd"):
        startup.measure(tmp_path, 1)
