"""Lowering as it is measured, at a size that takes no time, and the processes of measurements."""

import pytest

from bench import process
from bench.memory import lowering
from mlx_sd.core.errors import Failure
from mlx_sd.core.files import tensors
from tests.support.families import UNETS


def test_what_is_lowered_is_what_is_described(tmp_path):
    file = tmp_path / "weights.safetensors"
    lowering.write(UNETS["plain_middle"], str(file))
    kinds = ("full", "shallow")
    usage = lowering.lower(UNETS["plain_middle"], str(file), "original", kinds, str(tmp_path))
    assert tuple(usage["seconds"]) == tuple(usage["processor_seconds"]) == kinds
    full, shallow = (lowering.describe_package(tmp_path / f"{kind}.mlpackage") for kind in kinds)
    assert full["bytes"] > sum(t.end - t.start for t in tensors(file)) > shallow["bytes"]
    assert full["operations"] > shallow["operations"]
    for package in (full, shallow):
        assert sum(package["kinds"].values()) == package["operations"]
        assert (package["transposes"], package["rank"]) == (0, 4)


def test_a_measured_process_reports_its_own_peak():
    small, large = (process.run(f"x = b'1' * {size}; print(len(x))") for size in (10**6, 3 * 10**8))
    assert (small.output, large.output) == ("1000000", "300000000")
    assert 2.5e8 < large.peak_bytes - small.peak_bytes < 4e8


def test_a_measured_process_that_fails_is_one_line():
    with pytest.raises(Failure, match=r"ZeroDivisionError: division by zero$"):
        process.run("1 / 0")
