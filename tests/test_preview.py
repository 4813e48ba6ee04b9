"""Previews are near to what the decoder shows; they cost a small network, and files hold what was made."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from coreml import drive
from mlx_sd import Preview, StableDiffusion, metadata, preview, preview_network, preview_samples
from mlx_sd.cli import generate
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.networks.vae import Autoencoder
from mlx_sd.preview_network import PreviewNetwork
from tests.conftest import GOLDENS
from tests.support.exports import exported, model  # noqa: F401 - fixtures

LIMIT = 0.06  # RMSE of colours from 0 to 1, at the size of the latents


@pytest.fixture(scope="module")
def tiny():
    return StableDiffusion.load("tiny", "float32")


@pytest.fixture
def hasty(monkeypatch):
    """Fits in no time, and badly."""
    monkeypatch.setattr(preview_network, "_STEPS", 3)
    monkeypatch.setattr(preview_samples, "_PICTURES", 1)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = generate.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return call


def _error(shown, true):
    """The root of the mean squared difference of colours in [-1, 1], as if they were in [0, 1]."""
    return float(np.sqrt(((np.clip(np.array(shown), -1, 1) - np.array(true)) ** 2).mean())) / 2


def _made(sd, prompts, **settings):
    """The latents of pictures, and the pictures themselves at their size."""
    latents = mx.concatenate([sd.generate(p, seed=900, output="latent", **settings).latents for p in prompts])
    return latents, mx.concatenate([preview.pooled(sd.decode(z[None]), 8) for z in latents])


# ------------------------------------------------------------------------------------------------------ the fit


@pytest.mark.slow
@pytest.mark.parametrize("sky", ["clear day", "night", "sunset", "stormy"])
def test_the_fit_of_the_embedded_checkpoint_shows_a_picture_that_it_was_not_fitted_to(sky, tiny):
    """With the network that tests/goldens holds, which the slow test below fits anew."""
    prompt = f"a red tent on green grass, under a {sky} sky"
    latents, true = _made(tiny, [prompt], steps=10, sampler="dpmpp_2m", deepcache=2)
    assert _error(preview.network_of(tiny)(latents), true) < LIMIT


@pytest.mark.slow
def test_a_fit_explains_pictures_that_it_was_not_fitted_to_and_more_than_any_linear_map(tiny):
    prompts = ["a red tent on green grass", "a lighthouse", "a snowman, a night sky", "a pine tree, a sunset sky"]
    latents, true = _made(tiny, prompts)
    network = preview.fit(tiny)
    assert _error(network(latents), true) < LIMIT
    rows = np.concatenate([np.array(latents), np.ones((*latents.shape[:3], 1))], -1).reshape(-1, 5)
    colours = np.array(true).reshape(-1, 3)
    assert _error(network(latents), true) < 0.7 * _error(rows @ np.linalg.lstsq(rows, colours, rcond=None)[0], colours)
    golden = preview.network_of(tiny)
    assert abs(_error(golden(latents), true) - _error(network(latents), true)) < 0.01  # made by this very code


def _decoded(latents):
    """A decoder in small: colours depend on neighbours, on the whole picture, and not linearly."""
    around = (latents + mx.roll(latents, 1, 1) + mx.roll(latents, -1, 2)) / 3
    normal = (around - latents.mean((1, 2), keepdims=True)) / (0.3 + mx.sqrt(latents.var((1, 2), keepdims=True)))
    return mx.tanh(normal[..., :3] * normal[..., 1:4] + normal[..., :3])


@pytest.mark.slow
def test_a_network_learns_what_no_linear_map_can(monkeypatch):
    monkeypatch.setattr(preview_network, "_STEPS", 300)
    keys = [mx.random.key(i) for i in range(3)]
    latents = mx.random.normal((40, 12, 12, 4), key=keys[0]) * mx.random.uniform(0.3, 2, (40, 1, 1, 4), key=keys[1])
    latents = latents + mx.random.normal((40, 1, 1, 4), key=keys[2])
    pairs = [(z[None], _decoded(z[None])) for z in latents]
    network = preview_network.fit(pairs[:32])
    unseen, true = latents[32:], mx.concatenate([colours for _, colours in pairs[32:]])
    rows = np.array(unseen).reshape(-1, 4)
    linear = np.linalg.lstsq(rows, np.array(true).reshape(-1, 3), rcond=None)[0]
    inner = np.s_[:, 1:-1, 1:-1]  # rolled edges have other neighbours
    error = _error(network(unseen)[inner], true[inner])
    assert error < 0.5 * _error((rows @ linear).reshape(true.shape)[inner], true[inner])


@pytest.mark.parametrize("channels", [3, 4, 8, 16, 32, 64])
def test_it_has_fewer_than_ten_thousand_weights_and_is_always_the_same(channels, monkeypatch):
    monkeypatch.setattr(preview_network, "_STEPS", 2)
    latents = mx.random.normal((1, 5, 7, channels), key=mx.random.key(3))
    networks = [preview_network.fit([(latents, latents[..., :3])]) for _ in range(2)]
    first, second = (network.arrays() for network in networks)
    assert sum(array.size for array in first.values()) < 10_000
    assert all(mx.array_equal(first[name], second[name]) for name in first)
    read = PreviewNetwork.from_arrays(first, channels)
    assert mx.array_equal(read(latents), networks[0](latents)) and read(latents).shape == (1, 5, 7, 3)


class Linear(Autoencoder):
    """An autoencoder whose latents are a linear map of the colours of each cell."""

    def __init__(self, **config):
        from mlx_sd.networks.configs import VAEConfig

        given = {"block_out_channels": [8, 8], "latent_channels": 4, "sample_size": 16, **config}
        super().__init__(VAEConfig.from_hf({"norm_num_groups": 4, "layers_per_block": 1, **given}, "vae"))
        self.mixed = np.random.default_rng(3).standard_normal((3, self.config.latent_channels)).astype(np.float32)

    def moments(self, image):
        mean = preview.pooled(image, self.config.downsampling) @ mx.array(self.mixed) + 0.3
        return mx.concatenate([mean, mx.zeros_like(mean)], -1)


def _encodes(vae):
    """As much of a model as is asked for random pictures; it makes none itself."""
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=8))
    return SimpleNamespace(vae=vae, unet=unet, model=SimpleNamespace(sizes=(), vae=vae, text_encoders=()))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scaling_factor": 0.18, "shift_factor": 0.2},
        {"latents_mean": [0.1, -2.0, 3.0, 0.5], "latents_std": [0.5, 2.0, 1.0, 4.0], "scaling_factor": 0.5},
    ],
)
def test_it_is_fitted_to_latents_as_the_unet_has_them(config):
    """Of scaled and shifted ones, that is."""
    vae = Linear(**config)
    first = next(preview_samples.latents(_encodes(vae)))
    pixels = preview_samples.to_pixels(preview_samples.picture(np.random.default_rng(0), 16, 16))
    assert mx.array_equal(first, vae.scale(vae.encode(pixels)[0])) and first.shape == (1, 8, 8, 4)


def test_an_encoder_without_finite_numbers_is_a_failure():
    vae = Linear()
    vae.mixed *= np.nan
    with pytest.raises(Failure, match="not finite"):
        preview.fit(_encodes(vae))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("inpaint9", "sd1", "sd2v", "sdxl")]
)
def test_every_model_contributes_its_own_estimates(name, family, hasty):
    samples = list(preview_samples.latents(family(name)))
    assert len(samples) == 1 + 3 * 8 + 8 and all(mx.isfinite(z).all().item() for z in samples)


# ------------------------------------------------------------------------------------------------- where it is kept


@pytest.fixture
def kept(tiny, tmp_path, monkeypatch):
    """An empty cache, and the file that the preview of the embedded checkpoint will be in."""
    monkeypatch.setenv("MLX_SD_CACHE", str(tmp_path / "cache"))
    return preview.cache_file(tiny.model)


@pytest.fixture
def counted(monkeypatch):
    """The list of fits; each takes no time."""
    fits = []

    def fit(sd, check):
        fits.append(sd)
        latents = mx.zeros((1, 2, 2, sd.vae.config.latent_channels))
        return preview_network.fit([(latents, latents[..., :3])])

    monkeypatch.setattr(preview_network, "_STEPS", 1)
    monkeypatch.setattr(preview, "fit", fit)
    return fits


def test_the_first_preview_keeps_the_network_and_the_next_reads_it(tiny, kept, counted):
    Preview(tiny), Preview(tiny)
    assert len(counted) == 1 and [path.name for path in kept.parent.iterdir()] == [kept.name]
    Preview(StableDiffusion.load("tiny", "float32", quantize="8"))  # another UNet, the same VAE
    assert len(counted) == 1


def test_the_embedded_checkpoint_has_its_network_in_the_goldens(tiny):
    """... or the tests would fit it again and again: write it there by `python -m tests.support.previews`."""
    assert (GOLDENS / "previews" / preview.cache_file(tiny.model).name).is_file()


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def _not_finite(file):
    arrays = mx.load(str(file))
    mx.save_safetensors(str(file), arrays | {"mean": arrays["mean"] * np.nan})


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": _truncated,
    "text": lambda file: file.write_text("a preview"),
    "other arrays": lambda file: mx.save_safetensors(str(file), {"mean": mx.zeros(3)}),
    "not finite": _not_finite,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_fitted_anew(name, tiny, kept, counted):
    Preview(tiny)
    DAMAGE[name](kept)
    shown = Preview(tiny)(mx.zeros((1, 2, 2, 4)))
    assert len(counted) == 2 and len(shown) == 1
    Preview(tiny)
    assert len(counted) == (3 if name == "a folder" else 2)  # what the user has put there stays


def test_a_cache_that_cannot_be_written_is_done_without(tiny, kept, counted, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(preview, "atomic_file", refuse)
    Preview(tiny), Preview(tiny)
    assert len(counted) == 2 and not kept.exists()


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(("enlarge", "size"), [(None, (3, 2)), ("nearest", (24, 16)), ("bicubic", (24, 16))])
def test_a_preview_is_a_picture_for_each_estimate(tiny, enlarge, size):
    """Of colours that are clipped, not wrapped, and, where enlarged without smoothing, of equal cells."""
    estimates = mx.array(np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)) * 50
    images = Preview(tiny, enlarge)(estimates)
    assert [(image.mode, image.size) for image in images] == [("RGB", size)] * 2
    wanted = np.clip(np.array(preview.network_of(tiny)(estimates)), -1, 1)
    if enlarge != "bicubic":
        shown = np.stack([np.asarray(image, float) for image in images])[
            :, :: 8 if enlarge else 1, :: 8 if enlarge else 1
        ]
        assert np.abs(shown - (wanted + 1) * 127.5).max() <= 0.51


def test_an_unknown_enlargement_is_named(tiny):
    with pytest.raises(InputError, match="enlarged by nearest or bicubic, or None, not by 'much'"):
        Preview(tiny, "much")


@pytest.mark.slow
def test_a_step_costs_a_small_network_and_no_large_one(tiny, monkeypatch):
    """The decoder runs once for the picture, the encoder never, and the small network once a step."""
    counted = {"decode": 0, "moments": 0, "__call__": 0}
    shown = Preview(tiny)

    def count(owner, name):
        call = getattr(owner, name)

        def counting(*given, **named):
            counted[name] += 1
            return call(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    count(Autoencoder, "decode"), count(Autoencoder, "moments"), count(PreviewNetwork, "__call__")
    seen = []
    tiny.generate("a tent", steps=3, count=2, batch=2, callback=lambda i, n, x: seen.extend(shown(x)))
    assert (len(seen), counted) == (6, {"decode": 2, "moments": 0, "__call__": 3})


# --------------------------------------------------------------------------------------------------- command line


@pytest.mark.slow
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


@pytest.mark.slow
def test_several_animations_are_named_after_their_pictures(run, tmp_path):
    code, _, _ = run("a tent", "--steps", 1, "--seed", 0, "--count", 2, "--output", "p.png", "--animate", "film.gif")
    assert code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film-p-0.gif", "film-p-1.gif", "p-0.png", "p-1.png"]


MISTAKES = {
    "a file": (("--preview", "file.txt"), "--preview file.txt: is a file; give a folder"),
    "in a file": (("--preview", "file.txt/steps"), "cannot be written (Not a directory)"),
    "suffix": (("--animate", "a.mp4"), "--animate a.mp4: give a name that ends in .png or .gif"),
    "no suffix": (("--animate=a",), "--animate a: give a name that ends in .png or .gif"),
    "folder": (("--animate", "folder.gif"), "--animate folder.gif: is a folder"),
    "no folder": (("--animate", "none/a.gif"), "--animate none: cannot be written (No such file"),
    "itself": (("--animate", "p.png", "--output", "p.png"), "--animate p.png: is the picture itself"),
    "settings": (("--preview", "steps", "--sampler", "magic"), "unknown sampler"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, monkeypatch, name):
    """... and is noticed before a map is fitted."""
    monkeypatch.setattr(preview, "Preview", lambda *_: pytest.fail("too late"))
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder.gif").mkdir()
    arguments, message = MISTAKES[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("x", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err
    assert sorted(tmp_path.rglob("*")) == before


# --------------------------------------------------------------------------------------------------------- Core ML


@pytest.mark.slow
def test_packages_are_previewed_through_their_own_encoder_and_decoder(exported, family, hasty, monkeypatch):  # noqa: F811
    """... to what the networks themselves are; packages without a UNet do with random pictures."""
    folder = exported("sd1", dtype="float32", only=("vae",))
    packaged, sd = StableDiffusion(drive.load(folder)), family("sd1")
    (theirs,) = preview_samples.latents(packaged)
    pixels = preview_samples.to_pixels(preview_samples.picture(np.random.default_rng(0), *packaged.model.sizes[0]))
    ours = sd.vae.scale(sd.vae.encode(pixels)[0])
    assert np.abs(np.array(theirs - ours)).max() < 1e-3 * np.abs(np.array(ours)).max()
    assert len(Preview(packaged)(mx.zeros((1, 8, 8, 4)))) == 1
    packaged.vae._packages._content["roles"]["64x64"].pop("vae_encoder")
    preview.cache_file(packaged.model).unlink()
    with pytest.raises(InputError, match="no package for vae_encoder at 64x64; export it"):
        Preview(packaged)
