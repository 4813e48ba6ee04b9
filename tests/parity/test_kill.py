"""The slow form of a test of tests/test_folders.py: a conversion killed at fifty random moments."""

from convert import __main__ as command
from tests.convert.test_folders import bytes_of, killed_at_random_moments
from tests.support import families


def test_killed_at_fifty_moments_it_leaves_nothing_that_loads(shapes, tmp_path):
    original = families.write_folder("sdxl", shapes["sdxl"], tmp_path / "original")
    assert command.main(["--model", str(original), "--out", str(tmp_path / "model")]) == 0
    wanted = {name: content for name, content in bytes_of(tmp_path / "model").items() if name != "model.json"}
    (tmp_path / "home").mkdir()
    cut = killed_at_random_moments(original, tmp_path / "home", wanted, moments=50, seed=1)
    assert cut > 25  # most of them half-way
