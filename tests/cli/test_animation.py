"""Step images and animations replace earlier ones and nothing else."""

from pathlib import Path

import pytest

from mlx_sd import preview
from tests.support.effort import slow_but

pytestmark = pytest.mark.usefixtures("tiny_once")

PICTURE = ("a tent", "--steps", 2, "--width", 32, "--height", 32, "--seed", 5, "--output", "a.png")
FILES = {
    ("--preview", "steps"): "steps/a-001.png",
    ("--animate",): "a-steps.png",
    ("--animate", "film.gif"): "film.gif",
    ("--animate", "film.png"): "film.png",
}


@pytest.fixture(autouse=True)
def quick_preview(monkeypatch):
    """Step images without the network that the first preview of a VAE fits."""
    from PIL import Image

    class Quick:
        full_size = False

        def __init__(self, sd, **options):
            pass

        def __call__(self, x):
            return [Image.new("RGB", (4, 4))] * x.shape[0]

    monkeypatch.setattr(preview, "Preview", Quick)


@pytest.mark.parametrize("options", slow_but([("--preview", "steps"), ("--animate", "film.gif")], FILES))
def test_a_file_of_the_users_is_kept_and_an_earlier_one_of_ours_replaced(run, options):
    file = Path(FILES[options])
    assert run(*PICTURE, *options)[0] == 0
    assert run(*PICTURE, *options)[0] == 0  # its own
    file.write_text("mine")
    Path("a.png").unlink()
    code, out, err = run(*PICTURE, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{options[0]}: {file} exists and is not of an earlier {options[0]}" in err and "--overwrite" in err
    assert file.read_text() == "mine" and not Path("a.png").exists()
    assert run(*PICTURE, *options, "--overwrite")[0] == 0 and file.read_bytes() != b"mine"


@pytest.mark.slow
def test_a_picture_is_no_animation_and_an_empty_file_is_replaced(run):
    assert run(*PICTURE)[0] == 0
    picture = Path("a.png").read_bytes()
    assert run(*PICTURE[:-1], "b.png", "--animate", "a.png")[0] == 2
    assert Path("a.png").read_bytes() == picture
    Path("empty.gif").touch()
    assert run(*PICTURE[:-1], "b.png", "--animate", "empty.gif")[0] == 0 and Path("empty.gif").stat().st_size


@pytest.mark.slow
def test_a_run_that_is_complete_leaves_files_in_the_place_of_its_animations_alone(run):
    several = (*PICTURE[:-1], "p/", "--count", 2, "--animate")
    assert run(*several)[0] == 0
    Path("p/a-tent-5-steps.png").write_text("mine")
    assert run(*several)[0] == 0 and Path("p/a-tent-5-steps.png").read_text() == "mine"
