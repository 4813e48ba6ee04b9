"""Grids: axes, the order of the pictures, and the sheet."""

import numpy as np
import pytest
from PIL import Image

from mlx_sd import metadata, sheet
from mlx_sd.cli import grid
from mlx_sd.core.errors import InputError

pytestmark = pytest.mark.usefixtures("tiny_once")
FAST = ("--width", 64, "--height", 64, "--seed", 5)


def values(text):
    return {axis.name: list(axis.values) for axis in grid.parse(text)}


def test_axes_have_values_of_their_settings_kinds():
    assert values("steps=10, 20;sampler=euler,dpmpp_2m;guidance=1,7.5") == {
        "steps": [10, 20],
        "sampler": ["euler", "dpmpp_2m"],
        "guidance": [1.0, 7.5],
    }
    assert values("freeu=none,1.5") == {"freeu": [None, "1.5"]}
    assert values("lora=none,a.safetensors:0.5") == {"lora": [(), ["a.safetensors:0.5"]]}
    assert values('deepcache="at=0,4",3') == {"deepcache": ["at=0,4", "3"]}
    assert values("clip-skip=0,1") == {"clip_skip": [0, 1]}


def test_ranges_are_those_of_a1111():
    assert values("steps=1-5") == {"steps": [1, 2, 3, 4, 5]}
    assert values("steps=1-9 (+4)") == {"steps": [1, 5, 9]}
    assert values("guidance=1-2 (+0.5)") == {"guidance": [1.0, 1.5, 2.0]}
    assert values("guidance=0-1 [5]") == {"guidance": [0, 0.25, 0.5, 0.75, 1]}
    assert values("seed=5-1 (-2)") == {"seed": [5, 3, 1]}
    with pytest.raises(InputError, match="never ends"):
        grid.parse("steps=1-5 (-1)")


def test_axes_that_need_another_model_change_last(tmp_path):
    axes = grid.parse("lora=none,b;seed=1,2;model=x,y")
    places = [cell.places for cell in grid.Grid(axes, tmp_path / "a.png").cells]
    assert len(places) == len(set(places)) == 8
    models = [(model, lora) for lora, _, model in places]
    assert models == sorted(models)  # the model first, then the LoRA, then the seed
    names = [cell.name for cell in grid.Grid(axes, tmp_path / "a.png").cells]
    assert len(set(names)) == 8 and all(name.endswith(".png") for name in names)


@pytest.mark.slow
def test_pictures_of_a_grid_are_those_of_single_commands(run, tmp_path):
    code, out, err = run("a red tent", *FAST, "--grid", "steps=1,2;replace=red,blue", "--output", "sheet.png")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "sheet.png"
    files = sorted((tmp_path / "sheet").iterdir())
    assert [file.name for file in files] == [
        "001-steps-1_replace-red.png",
        "002-steps-2_replace-red.png",
        "003-steps-1_replace-blue.png",
        "004-steps-2_replace-blue.png",
    ]
    assert metadata.read(files[3])["prompt"] == "a blue tent"
    assert run("a blue tent", *FAST, "--steps", 2, "--output", "single.png")[0] == 0
    single = np.asarray(Image.open(tmp_path / "single.png"))
    assert (np.asarray(Image.open(files[3])) == single).all()
    assert contains(np.asarray(Image.open(tmp_path / "sheet.png")), single)


def contains(sheet, picture):
    """Tells whether a sheet shows a picture, pixel by pixel."""
    height, width = picture.shape[:2]
    corners = np.argwhere((sheet[: -height or None, : -width or None] == picture[0, 0]).all(-1))
    return any((sheet[y : y + height, x : x + width] == picture).all() for y, x in corners)


def test_the_same_grid_again_makes_only_what_is_missing(run, tmp_path):
    words = ("a red tent", *FAST, "--grid", "steps=1,2", "--output", "g.png")
    assert run(*words)[0] == 0
    first = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "g").iterdir()}
    (tmp_path / "g" / "002-steps-2.png").unlink()
    code, out, err = run(*words)
    assert code == 0 and "1 of 2 pictures" in err
    assert out.splitlines() == ["g/002-steps-2.png", "g.png"]
    assert (tmp_path / "g" / "001-steps-1.png").stat().st_mtime_ns == first["001-steps-1.png"]


def test_a_sheet_has_room_for_all_and_is_never_too_large(tmp_path):
    axes = grid.parse("steps=1,2,3;seed=1,2;guidance=1,2")
    places = {
        (i, j, k): Image.new("RGB", (300, 200), (10 * i, 20 * j, 30 * k))
        for i in range(3)
        for j in (0, 1)
        for k in (0, 1)
    }
    large = sheet.compose(axes, {**places, **{(i, 0, 0): Image.new("RGB", (9000, 100)) for i in range(3)}})
    assert max(large.size) < 17_000
    shown = np.asarray(sheet.compose(axes, places))
    for (i, j, k), image in places.items():
        assert (shown == image.getpixel((0, 0))).all(-1).any(), (i, j, k)
