"""`python -m bench quality`: what it measures, that nothing is made twice, and what it refuses."""

import json
import sys

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from bench import results
from bench.quality import quality
from bench.quality.gallery import Gallery
from bench.speed.loops import Loop
from mlx_sd import StableDiffusion
from mlx_sd.request import Request

TEXTS = "a red tent\n\na snowman at night\n"
LOOPS = ("1", "3", "2/tgate:4")
FLAGS = ("--steps", "9", "--guidance", "1", "--width", "32", "--height", "32")


@pytest.fixture(scope="module")
def run(folder):
    """Results, the work folder, and flags to ask for the same again."""
    (folder / "prompts.txt").write_text(TEXTS)
    (folder / "true").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (50 * i, 9, 200 - i)).save(folder / "true" / f"{i}.png")
    flags = ["--prompts", str(folder / "prompts.txt"), *FLAGS, "--count", "2", "--batch", "2"]
    flags += [flag for loop in LOOPS for flag in ("--loop", loop)]
    flags += ["--work", str(folder / "work"), "--reference", str(folder / "true"), "--json", str(folder / "a.json")]
    assert quality.main(flags) == 0
    return results.read(folder / "a.json"), folder / "work", flags


@pytest.mark.slow
def test_a_loop_that_reuses_nothing_does_not_drift_and_others_do(run):
    values, _, _ = run
    assert (values["pictures"], values["reference_pictures"], values["seeds"]) == (4, 3, [0, 1])
    full, same, cached, gated = values["loops"]
    assert [row["loop"] for row in values["loops"]] == ["full", "1:0", "3:0", "2:0/tgate:4,5,1,2"]
    assert "psnr" not in full and "frechet_to_full" not in full and full["frechet_to_reference"] > 0
    assert same["latent_rms"]["max"] == 0 and same["ssim"]["min"] == 1 and same["psnr"]["median"] is None
    assert same["frechet_to_full"] < 1e-2 and same["clip_score"] == full["clip_score"]
    for row in (cached, gated):
        assert row["latent_rms"]["min"] > 0 and row["psnr"]["max"] < 100 and row["ssim"]["max"] < 1
        assert row["frechet_to_full"] > same["frechet_to_full"]
    assert [row["full_evaluations"]["median"] for row in (full, same, cached)] == [9, 9, 3]
    assert all(row["evaluations"] == 9 and row["seconds"]["min"] > 0 for row in values["loops"])


@pytest.mark.slow
def test_errors_are_between_the_stored_pictures(run):
    values, work, _ = run
    (folder,) = (path for path in work.iterdir() if path.name != "features")
    full, cached = (sorted((folder / name).glob("*.png")) for name in ("full", "3-0"))
    assert [path.name for path in full] == [path.name for path in cached] and len(full) == 4
    pairs = [[np.asarray(Image.open(path), np.float64) for path in pair] for pair in zip(full, cached, strict=True)]
    psnr = [10 * np.log10(255**2 / np.mean((one - other) ** 2)) for one, other in pairs]
    assert values["loops"][2]["psnr"]["median"] == pytest.approx(np.median(psnr), abs=1e-4)
    one, other = (np.stack([np.load(path.with_suffix(".npy")) for path in paths]) for paths in (full, cached))
    rms = np.sqrt(np.mean((one - other) ** 2, axis=(1, 2, 3)))
    assert values["loops"][2]["latent_rms"]["max"] == pytest.approx(rms.max(), abs=1e-4)


def test_no_picture_is_made_twice(run, monkeypatch, capsys):
    values, _, flags = run
    monkeypatch.setattr(StableDiffusion, "stream", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(quality.TinyClip, "images", lambda *_: pytest.fail("looked at again"))
    assert quality.main([*flags[:-2]]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["loops"] == values["loops"]


@pytest.mark.slow
def test_pictures_are_those_of_the_pipeline_whatever_the_batch(family, tmp_path):
    sd = family("sd1")
    settings = {"steps": 4, "width": 16, "height": 16}
    gallery = Gallery(sd, ["one", "two"], range(5, 7), tmp_path, 2, Request(**settings))
    assert sum(gallery.make(Loop())) == len(gallery) == 4
    expected = [sd.generate(text, seed=seed, **settings) for seed in (5, 6) for text in ("one", "two")]
    for pixels, latents, result in zip(gallery.pixels(Loop()), gallery.latents(Loop()), expected, strict=True):
        assert latents == pytest.approx(np.array(result.latents[0]), abs=1e-4)
        assert np.abs(pixels.astype(int) - np.asarray(result.images[0])).max() <= 1
    other = Gallery(sd, ["one"], range(5, 6), tmp_path, request=Request(**settings | {"steps": 5}))
    assert not other.paths(Loop())[0].exists()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--prompts", "none.txt"], "none.txt: No such file or directory; give a file with one prompt a line"),
        (["--loop", "fast"], "takes N or N:BRANCH"),
        (["--loop", "3:99"], "there is no DeepCache branch 99"),
        (["--loop", "tgate:30"], "there are only 25"),
        (["--reference", "none"], "--reference none: there is no such folder"),
        (["--reference", "."], "a covariance needs 2 pictures, here are 0"),
        (["--inception", "--count", "4"], "splits, needs at least 10 pictures, not 8; add prompts or raise --count"),
        (["--count", "0"], "must be at least 1, not 0 and 1"),
        (["--work", "prompts.txt"], "--work prompts.txt is not a folder"),
        (["--json", "nowhere/a.json"], "the folder nowhere does not exist"),
        (["--model", "elsewhere", "--reference", "."], "--reference is what the FID is measured to; add --inception"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_any_picture(flags, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(TEXTS)
    monkeypatch.setattr(StableDiffusion, "stream", lambda *_, **__: pytest.fail("began"))
    try:
        code = quality.main(["--prompts", "prompts.txt", *flags])
    except SystemExit as stop:  # argparse's way
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and why in error
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_prompts_and_pictures_that_do_not_suffice_are_refused(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    for text, why in (
        ("", "is empty; give one prompt a line"),
        ("a\nb\na\n", "'a' is there twice; raise --count"),
        ("alone\n", "a covariance needs at least 2 pictures, not 1; add prompts or raise --count"),
    ):
        prompts.write_text(text)
        assert quality.main(["--prompts", str(prompts)]) == 2
        assert why in capsys.readouterr().err


def test_a_device_or_an_extractor_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.txt").write_text(TEXTS)
    flags = ["--prompts", str(tmp_path / "prompts.txt"), "--count", "5"]
    monkeypatch.setitem(sys.modules, "pytorch_fid", None)
    assert quality.main([*flags, "--inception"]) == 2
    assert "pip install 'mlx-sd[judges]'" in capsys.readouterr().err
    monkeypatch.setattr(mx, "is_available", lambda device: False)
    assert quality.main([*flags, "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "bench quality: MLX has no gpu here; leave out --device\n"
