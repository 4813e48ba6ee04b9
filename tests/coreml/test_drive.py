"""The pipeline runs packages as it runs the networks they were made from, and refuses what they cannot do."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from coreml import drive
from mlx_sd import DeepCache, StableDiffusion
from mlx_sd.cli import generate
from mlx_sd.core.errors import InputError
from mlx_sd.networks.family import Family, Task
from tests.support.exports import FORMS, SMALL

# A few steps show that two loops agree; that DeepCache saves little in them is beside the point.
pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning")


@pytest.fixture
def packaged(exported) -> StableDiffusion:
    return StableDiffusion(drive.load(exported("small float32")))


@pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
@pytest.mark.parametrize("name", ("small float32", pytest.param("sdxl float16", marks=pytest.mark.slow)))
def test_the_loop_of_an_app_is_the_loop_of_mlx(name, exported, model):
    sd, packaged = model(FORMS[name][0]), StableDiffusion(drive.load(exported(name)))
    options = {"steps": 6, "guidance": 5.0, "seed": 3, "deepcache": DeepCache(3), "output": "latent"}
    expected, result = (s.generate("a red tent", "a dark sky", **options) for s in (sd, packaged))
    assert result.full == expected.full < result.evaluations
    difference = mx.abs(result.latents - expected.latents).max() / mx.abs(expected.latents).max()
    assert difference.item() <= (1e-3 if "float32" in name else 2e-2)


@pytest.mark.parametrize(
    ("name", "family_name"),
    (("small float32", Family.SD1), pytest.param("sdxl float16", Family.SDXL, marks=pytest.mark.slow)),
)
def test_packages_have_the_family_and_the_task_of_their_model(name, family_name, exported):
    model = drive.load(exported(name))
    assert (model.family, model.task) == (family_name, Task.GENERATION)


def test_pictures_are_encoded_and_decoded_by_packages(packaged, model):
    sd = model(SMALL)
    image = sd.generate("a red tent", steps=1, seed=0).images[0]
    latents = sd.encode(image)
    assert mx.abs(packaged.encode(image) - latents).max().item() < 1e-4
    assert mx.abs(packaged.decode(latents) - sd.decode(latents)).max().item() < 1e-3


@pytest.mark.parametrize("options", ({"guidance": 1.0}, {"count": 3, "batch": 3}), ids=("one row", "six rows"))
def test_batches_may_be_smaller_and_larger_than_the_packages(options, packaged, model):
    results = [
        s.generate("a red tent", steps=2, output="latent", **options, seed=0).latents for s in (model(SMALL), packaged)
    ]
    assert mx.abs(results[1] - results[0]).max().item() < 1e-3


@pytest.mark.slow
def test_functions_of_another_size_drive_the_loop(functions, model):
    sd, packaged = model(SMALL), StableDiffusion(drive.load(functions))
    options = {"steps": 3, "width": 64, "height": 128, "deepcache": DeepCache(2), "output": "latent"}
    expected, latents = (s.generate("a red tent", **options, seed=0).latents for s in (sd, packaged))
    assert mx.abs(latents - expected).max() / mx.abs(expected).max() < 2e-2
    with pytest.raises(InputError, match="64 x 64, 64 x 128"):
        packaged.generate("a red tent", width=128, height=128, seed=0)


@pytest.mark.slow
def test_halves_drive_the_loop_without_deepcache(halves, model):
    sd, packaged = model(SMALL), StableDiffusion(drive.load(halves))
    expected, latents = (s.generate("a tent", steps=2, output="latent", seed=0).latents for s in (sd, packaged))
    assert mx.abs(latents - expected).max().item() < 1e-3
    with pytest.raises(InputError, match="DeepCache branch 0"):
        packaged.generate("a tent", deepcache=DeepCache(2), seed=0)


@pytest.mark.slow
def test_another_branch_and_batch_drive_the_loop(branch_2_batch_1, model):
    sd, packaged = model(SMALL), StableDiffusion(drive.load(branch_2_batch_1))
    options = {"steps": 4, "deepcache": DeepCache(2, 2), "output": "latent"}
    expected, latents = (s.generate("a tent", **options, seed=0).latents for s in (sd, packaged))
    assert mx.abs(latents - expected).max().item() < 1e-3


@pytest.mark.slow
def test_a_picture_comes_out_of_packages(exported, family, tmp_path):
    folder = exported("sd1 float16")
    paths = [tmp_path / "packages.png", tmp_path / "mlx.png", tmp_path / "again.png"]
    arguments = ["a red tent", "--seed", "0", "--steps", "4", "--deepcache", "2", "--output"]
    assert generate.main([*arguments, str(paths[0]), "--coreml", str(folder)]) == 0
    assert generate.main([*arguments, str(paths[1]), "--model", family("sd1").model.name]) == 0
    assert generate.main(["--from-image", str(paths[0]), "--output", str(paths[2])]) == 0
    pixels = [np.asarray(Image.open(path), np.float32) for path in paths]
    assert np.abs(pixels[0] - pixels[1]).max() <= 6
    assert (pixels[0] == pixels[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    (
        (("--dtype", "float16"), "--dtype was decided"),
        (("--model", "tiny"), "--model was decided"),
        (("--width", "128"), "no other size"),
        (("--deepcache", "2:1"), "no DeepCache branch 1"),
        (("--freeu",), "leave out --freeu"),
        (("--deepcache", "adaptive:0.1"), "packages do not show their shallow features"),
        (("--clip-skip", "1"), "clip skip must be from 0 to 0"),
        (("--negative", "word " * 100), "prompt too long"),
    ),
)
def test_a_flag_that_packages_cannot_follow_is_refused(flags, message, exported, tmp_path, capfd):
    folder = exported("sd1 float16")
    assert generate.main(["a tent", "--coreml", str(folder), "--output", str(tmp_path / "x.png"), *flags]) == 2
    assert message in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
