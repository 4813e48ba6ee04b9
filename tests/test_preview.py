"""Previews are the nearest linear map to what the decoder shows; they cost no network, and files hold what was made."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from bench.quality.landscapes import paintings
from coreml import drive
from mlx_sd import Preview, StableDiffusion, metadata, preview
from mlx_sd.cli import animation, generate
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.networks.vae import Autoencoder
from tests.support.exports import exported, model  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def tiny():
    return StableDiffusion.load("tiny", "float32")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = generate.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def _pooled(pixels, factor):
    n, height, width, _ = pixels.shape
    return np.array(pixels).reshape(n, height // factor, factor, width // factor, factor, 3).mean((2, 4))


def _explained(shown, true):
    """R^2: which share of the variance of colours is explained."""
    return 1 - ((shown - true) ** 2).sum() / ((true - true.mean((0, 1, 2))) ** 2).sum()


def _latents(vae, pixels):
    return np.array(vae.scale(vae.encode(pixels)[0]))


# ------------------------------------------------------------------------------------------------------ the map


@pytest.mark.slow
def test_it_explains_pictures_that_it_was_not_fitted_to(tiny):
    """On paintings of the embedded world, nearly as much as the best linear map for that very world does."""
    pixels = paintings(range(24))
    z, true = _latents(tiny.vae, pixels), _pooled(pixels, 8)
    table = preview.fit(tiny.vae)
    ones = np.concatenate([z, np.ones((*z.shape[:3], 1))], -1)
    best = np.linalg.lstsq(ones.reshape(-1, 5), true.reshape(-1, 3), rcond=None)[0]
    assert _explained(ones @ table, true) > 0.8
    assert _explained(ones @ table, true) > _explained(ones @ best, true) - 0.06


class Linear(Autoencoder):
    """An autoencoder whose latents are a linear map of the colours of each cell, so that previews can be exact."""

    def __init__(self, **config):
        from mlx_sd.networks.configs import VAEConfig

        given = {"block_out_channels": [8, 8], "latent_channels": 4, "sample_size": 16, **config}
        super().__init__(VAEConfig.from_hf({"norm_num_groups": 4, "layers_per_block": 1, **given}, "vae"))
        self.mixed = np.random.default_rng(3).standard_normal((3, self.config.latent_channels)).astype(np.float32)

    def moments(self, image):
        factor = self.config.downsampling
        n, height, width, _ = image.shape
        cells = image.reshape(n, height // factor, factor, width // factor, factor, 3).mean((2, 4))
        mean = cells @ mx.array(self.mixed) + 0.3
        return mx.concatenate([mean, mx.zeros_like(mean)], -1)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scaling_factor": 0.18, "shift_factor": 0.2},
        {"latent_channels": 16},
        {"latents_mean": [0.1, -2.0, 3.0, 0.5], "latents_std": [0.5, 2.0, 1.0, 4.0], "scaling_factor": 0.5},
    ],
)
def test_the_map_is_of_the_latents_that_the_unet_has(config):
    """Of scaled and shifted ones, that is: where colours are a linear function of them, it is found exactly."""
    vae = Linear(**config)
    pixels = mx.array(np.random.default_rng(5).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32))
    z = _latents(vae, pixels)
    table = preview.fit(vae)
    assert np.abs(z @ table[:-1] + table[-1] - _pooled(pixels, 2)).max() < 1e-4


def test_a_fit_is_the_same_each_time(tiny):
    assert (preview.fit(tiny.vae) == preview.fit(tiny.vae)).all()


def test_an_encoder_without_finite_numbers_is_a_failure():
    vae = Linear()
    vae.mixed *= np.nan
    with pytest.raises(Failure, match="not finite"):
        preview.fit(vae)


# ------------------------------------------------------------------------------------------------- where it is kept


@pytest.fixture
def converted(tiny, tmp_path):
    """A model folder of our own that knows no map yet."""
    folder = shutil.copytree(tiny.model.folder, tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    about.pop("preview", None)
    (folder / "model.json").write_text(json.dumps(about))
    return folder


def _told(folder):
    return json.loads((folder / "model.json").read_text())


def test_the_first_preview_stores_the_map_and_the_next_reads_it(converted, monkeypatch):
    before = _told(converted)
    first = preview.colour_map(StableDiffusion.load(converted, "float32").model)
    assert _told(converted) == before | {"preview": first.tolist()}
    assert sorted(p.name for p in converted.iterdir() if p.name.startswith(".")) == []
    monkeypatch.setattr(preview, "fit", lambda *_: pytest.fail("fitted twice"))
    again = StableDiffusion.load(converted, "float32")
    assert (preview.colour_map(again.model) == first).all()
    assert again.model.hash == StableDiffusion.load("tiny", "float32").model.hash  # a map changes no picture


def test_a_folder_that_cannot_be_written_or_is_of_another_version_is_left_alone(converted, monkeypatch):
    sd = StableDiffusion.load(converted, "float32")
    with monkeypatch.context() as patch:

        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        patch.setattr(preview, "atomic_file", refuse)
        fitted = preview.colour_map(sd.model)
    old = _told(converted) | {"version": 1}
    (converted / "model.json").write_text(json.dumps(old))
    assert (preview.colour_map(sd.model) == fitted).all()
    assert _told(converted) == old


@pytest.mark.parametrize("stored", [[], "red", [[1.0, 2.0, 3.0]] * 4, [[1.0, 2.0]] * 5, [[1.0, 2.0, float("nan")]] * 5])
def test_a_map_that_is_none_is_named(converted, stored):
    (converted / "model.json").write_text(json.dumps(_told(converted) | {"preview": stored}))
    with pytest.raises(InputError, match=r"'preview' is not 5 rows of 3 numbers; remove it"):
        Preview(StableDiffusion.load(converted, "float32"))


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(("enlarge", "size"), [(None, (3, 2)), ("nearest", (24, 16)), ("bicubic", (24, 16))])
def test_a_preview_is_a_picture_for_each_estimate(tiny, enlarge, size):
    """Of colours that are clipped, not wrapped, and, where enlarged without smoothing, of equal cells."""
    estimates = mx.array(np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)) * 50
    images = Preview(tiny, enlarge)(estimates)
    assert [(image.mode, image.size) for image in images] == [("RGB", size)] * 2
    table = preview.colour_map(tiny.model)
    wanted = np.clip(np.array(estimates) @ table[:-1] + table[-1], -1, 1)
    if enlarge != "bicubic":
        shown = np.stack([np.asarray(image, float) for image in images])[
            :, :: 8 if enlarge else 1, :: 8 if enlarge else 1
        ]
        assert np.abs(shown - (wanted + 1) * 127.5).max() <= 0.51


def test_an_unknown_enlargement_is_named(tiny):
    with pytest.raises(InputError, match="enlarged by nearest or bicubic, or None, not by 'much'"):
        Preview(tiny, "much")


def test_a_step_costs_a_matmul_and_no_network(tiny, monkeypatch):
    """The decoder runs once for the picture, the encoder never, and a map is applied once a step."""
    counted = {"decode": 0, "moments": 0, "addmm": 0}
    shown = Preview(tiny)

    def count(owner, name):
        call = getattr(owner, name)

        def counting(*given, **named):
            counted[name] += 1
            return call(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    count(Autoencoder, "decode"), count(Autoencoder, "moments")
    seen = []

    class Ops:
        def __getattr__(self, name):
            return getattr(mx, name)

        def addmm(self, *arrays):
            counted["addmm"] += 1
            return mx.addmm(*arrays)

    monkeypatch.setattr(preview, "mx", Ops())
    tiny.generate("a tent", steps=3, count=2, batch=2, callback=lambda i, n, x: seen.extend(shown(x)), seed=0)
    assert (len(seen), counted) == (6, {"decode": 2, "moments": 0, "addmm": 3})


def test_the_last_preview_looks_like_the_picture(tiny):
    seen = []
    shown = Preview(tiny)
    made = tiny.generate(
        "a red tent on green grass", steps=8, callback=lambda i, n, x: seen.append(shown(x)[0]), seed=0
    )
    true = np.asarray(made.images[0].resize((16, 16), Image.Resampling.BOX), float)
    assert _explained(np.asarray(seen[-1], float)[None], true[None]) > 0.5


# --------------------------------------------------------------------------------------------------- command line


def test_a_folder_gets_each_step_and_animations_end_in_the_picture(run, tmp_path):
    flags = ("--steps", 3, "--seed", 0, "--count", 3, "--batch", 2, "--preview", "new/steps", "--animate", "--json")
    code, out, _ = run("a tent", *flags)
    made = json.loads(out)
    stems = [Path(one["output"]).stem for one in made]
    assert code == 0 and stems == ["a-tent-0", "a-tent-1", "a-tent-2"]
    wanted = {f"{stem}-{step:03}.png" for stem in stems for step in (1, 2, 3)}
    assert {path.name for path in (tmp_path / "new/steps").iterdir()} == wanted
    assert [one["animation"] for one in made] == [f"{stem}-steps.png" for stem in stems]
    for one in made:
        with Image.open(one["output"]) as final, Image.open(one["animation"]) as moving:
            assert (moving.n_frames, moving.size) == (4, final.size)
            for step in range(3):
                moving.seek(step)
                with Image.open(tmp_path / "new/steps" / f"{Path(one['output']).stem}-{step + 1:03}.png") as still:
                    assert (np.asarray(moving.convert("RGB")) == np.asarray(still)).all()
            moving.seek(3)
            assert (np.asarray(moving.convert("RGB")) == np.asarray(final.convert("RGB"))).all()
            assert moving.info["duration"] == 1500
        with pytest.raises(InputError, match="does not say how it was made"):
            metadata.read(Path(one["animation"]))
        assert metadata.read(Path(one["output"]))["steps"] == 3


def test_previews_change_no_picture(run, tmp_path):
    assert run("a tent", "--steps", 2, "--seed", 0, "--output", "a.png")[0] == 0
    assert run("a tent", "--steps", 2, "--seed", 0, "--output", "b.png", "--preview", ".", "--animate", "b.gif")[0] == 0
    with Image.open("a.png") as a, Image.open("b.png") as b, Image.open("b.gif") as moving:
        assert (np.asarray(a) == np.asarray(b)).all()
        assert (moving.format, moving.n_frames) == ("GIF", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b-001.png", "b-002.png", "b.gif", "b.png"]


def test_several_animations_are_named_after_their_pictures(run, tmp_path):
    code, _, _ = run("a tent", "--steps", 1, "--seed", 0, "--count", 2, "--output", "p.png", "--animate", "film.gif")
    assert code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film-p-0.gif", "film-p-1.gif", "p-0.png", "p-1.png"]


MISTAKES = {
    "a file": (("--preview", "file.txt"), "--preview file.txt: is a file; give a folder"),
    "in a file": (("--preview", "file.txt/steps"), "cannot be written (Not a directory)"),
    "suffix": (("--animate", "a.mp4"), "--animate a.mp4: give a name that ends in .png or .gif"),
    "no suffix": (("--animate", "a"), "--animate a: give a name that ends in .png or .gif"),
    "folder": (("--animate", "folder.gif"), "--animate folder.gif: is a folder"),
    "no folder": (("--animate", "none/a.gif"), "--animate none: cannot be written (No such file"),
    "itself": (("--animate", "p.png", "--output", "p.png"), "--animate p.png: is the picture itself"),
    "settings": (("--preview", "steps", "--sampler", "magic"), "unknown sampler"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, name):
    """... and is noticed before a map is fitted."""
    monkeypatch.setattr(animation, "Preview", lambda *_: pytest.fail("too late"))
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder.gif").mkdir()
    arguments, message = MISTAKES[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("x", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before


# --------------------------------------------------------------------------------------------------------- Core ML


def test_packages_are_previewed_through_their_own_encoder(exported, family):  # noqa: F811
    """... to the map that the network itself has at that size."""
    folder = exported("sd1", dtype="float32", only=("vae",))
    packaged, sd = StableDiffusion(drive.load(folder)), family("sd1")
    found = preview.colour_map(packaged.model)
    wanted = preview.fit(sd.vae, packaged.model.sizes[0])
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    z = mx.zeros((1, 8, 8, 4))
    assert len(Preview(packaged)(z)) == 1
    packaged.vae._packages._content["roles"]["64x64"].pop("vae_encoder")
    with pytest.raises(InputError, match="no package for vae_encoder at 64x64; export it"):
        Preview(packaged)
