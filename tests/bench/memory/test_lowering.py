"""The bench of lowering, at a size that takes no time, and the processes in which it measures."""

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
    took = lowering.lower(UNETS["plain_middle"], str(file), "original", kinds, str(tmp_path))
    assert tuple(took["seconds"]) == tuple(took["processor_seconds"]) == kinds
    full, shallow = (lowering.describe_package(tmp_path / f"{kind}.mlpackage") for kind in kinds)
    assert full["bytes"] > sum(t.end - t.start for t in tensors(file)) > shallow["bytes"]
    assert full["operations"] > shallow["operations"]
    for told in (full, shallow):
        assert sum(told["kinds"].values()) == told["operations"]
        assert (told["transposes"], told["rank"]) == (0, 4)


def test_a_stage_tells_the_peak_of_its_own_process():
    small, large = (process.run(f"x = b'1' * {size}; print(len(x))") for size in (10**6, 3 * 10**8))
    assert (small.output, large.output) == ("1000000", "300000000")
    assert 2.5e8 < large.peak_bytes - small.peak_bytes < 4e8


def test_a_stage_that_fails_says_why():
    with pytest.raises(Failure, match=r"ZeroDivisionError: division by zero$"):
        process.run("1 / 0")
