"""A conversion that is killed at any moment leaves nothing that loads: the long form of a test of test_folders.py."""

import pytest

from convert import __main__ as command
from tests.convert.test_folders import bytes_of, killed_at_random_moments
from tests.support import families


@pytest.mark.proof
def test_killed_at_any_moment_it_leaves_nothing_that_loads(proof, shapes, tmp_path):
    original = families.write_folder("sdxl", shapes["sdxl"], tmp_path / "original")
    assert command.main(["--model", str(original), "--out", str(tmp_path / "model")]) == 0
    complete = {name: content for name, content in bytes_of(tmp_path / "model").items() if name != "model.json"}
    (tmp_path / "home").mkdir()
    kills = proof.count(200)
    cut = killed_at_random_moments(original, tmp_path / "home", complete, moments=kills, seed=1)
    assert cut > kills / 2  # most of them half-way
    proof.record(kills=kills, cut_short=cut)
