"""The sample pictures of a run, and their sheet."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from mlx_sd.core.errors import Failure
from mlx_sd.train.run import samples
from mlx_sd.train.run.samples import Samples
from tests.train.run.records import opened

PROMPTS = ["a red tent", "a photo of sks dog on a beach at dusk"]
COLOURS = ["red", "blue"]


def _pictures(size=(32, 32)):
    return [Image.new("RGB", size, colour) for colour in COLOURS]


def _sheet(folder):
    with Image.open(folder / "contact-sheet.png") as image:
        return image.convert("RGB")


def _colours(image):
    return {colour for _, colour in image.getcolors(1 << 20)}


def test_each_picture_is_a_file_and_all_are_on_the_sheet(tmp_path):
    writer = Samples(tmp_path)
    paths = writer.write(100, _pictures(), PROMPTS)
    assert [str(p.relative_to(tmp_path)) for p in paths] == ["samples/step-000100-0.png", "samples/step-000100-1.png"]
    with Image.open(paths[1]) as image:
        assert image.size == (32, 32) and _colours(image) == {(0, 0, 255)}
    one = _sheet(tmp_path)
    assert {(255, 0, 0), (0, 0, 255)} <= _colours(one)
    writer.write(200, _pictures(), PROMPTS)
    two = _sheet(tmp_path)
    assert two.width == one.width and two.height - one.height == 256 + 4  # a row more
    assert two.width < 2 * (256 + 4) + 150  # small pictures are enlarged, and long prompts do not widen the sheet


def test_pictures_of_a_sheet_are_enlarged_by_whole_numbers_and_shrunk_to_256(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)
    writer = Samples(tmp_path)
    paths = writer.write(1, [Image.fromarray(noise), Image.new("RGB", (1024, 512))], PROMPTS)
    small = samples._small(paths[0])
    assert np.array_equal(np.asarray(small), noise.repeat(2, 0).repeat(2, 1))
    assert samples._small(paths[1]).size == (256, 128)


def test_the_sheet_of_a_resumed_run_equals_that_of_an_uninterrupted_one(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = Samples(tmp_path / "whole")
    for step in (1, 2, 3):
        whole.write(step, _pictures(), PROMPTS)
    parts = Samples(tmp_path / "parts")
    for step in (1, 2, 3, 4):
        parts.write(step, _pictures((40, 20)) if step > 2 else _pictures(), PROMPTS)
    (tmp_path / "parts" / "samples" / ".step-000005-0.png.abcd_123").write_bytes(b"12")
    parts = Samples(tmp_path / "parts", step=2)
    assert len(list((tmp_path / "parts" / "samples").iterdir())) == 4
    parts.write(3, _pictures(), PROMPTS)
    assert _sheet(tmp_path / "parts").tobytes() == _sheet(tmp_path / "whole").tobytes()


def test_a_sheet_has_at_most_20_rows_evenly_between_the_first_and_the_last():
    assert samples.evenly([5, 6], 20) == [5, 6] and samples.evenly([], 20) == []
    for count in (20, 21, 39, 40, 1000):
        steps = [10 * i for i in range(count)]
        rows = samples.evenly(steps, 20)
        gaps = np.diff(rows)
        assert len(rows) == 20 and rows[0] == 0 and rows[-1] == steps[-1]
        assert gaps.min() >= 10 and gaps.max() - gaps.min() <= 10


def test_long_runs_keep_a_small_sheet(tmp_path):
    writer = Samples(tmp_path)
    for step in range(samples.ROWS + 5):
        writer.write(step, [Image.new("RGB", (8, 8))], ["p"])
    assert _sheet(tmp_path).height < (samples.ROWS + 1) * 260


def test_a_damaged_picture_is_a_gap_in_the_sheet(tmp_path):
    Samples(tmp_path).write(1, _pictures(), PROMPTS)
    (tmp_path / "samples" / "step-000001-0.png").write_bytes(b"no picture")
    Samples(tmp_path, 1).write(2, _pictures(), PROMPTS)
    assert (211, 211, 211) in _colours(_sheet(tmp_path))


def test_prompts_are_shortened_in_their_middle():
    width = 256
    short = samples._shortened("a photo of sks dog on a beach,\n at dusk, with a red ball and many clouds", width)
    assert short.startswith("a photo of") and short.endswith("clouds") and "…" in short and "\n" not in short
    assert samples._shortened("a red tent", width) == "a red tent" and samples._shortened("", width) == ""


def test_a_full_disk_is_one_line_and_no_partial_picture(tmp_path, monkeypatch):
    with opened(tmp_path) as run:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(Failure, match="samples cannot be written: No space left on device; free some space"):
            run.samples.write(1, _pictures(), PROMPTS)
        assert not list((tmp_path / "samples").iterdir())
