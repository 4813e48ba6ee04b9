"""A tiny autoencoder (TAESD) takes the place of any other: from every form, for encoding, decoding and previews."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import __main__ as convert
from mlx_sd import InputError, Preview, StableDiffusion
from mlx_sd.checkpoint import tiny_vaes
from mlx_sd.checkpoint.model_folder import build, shapes
from mlx_sd.codec import to_image
from mlx_sd.networks.tiny_autoencoder import TinyAutoencoder
from tests.support import autoencoders, families, unprompted

PROMPT = families.PROMPT


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """A tiny autoencoder as a diffusers folder."""
    return autoencoders.write_folder(tmp_path_factory.mktemp("taesd") / "mine")


@pytest.fixture(scope="module")
def with_taesd(original, taesd):
    return StableDiffusion.load(original, dtype="float32", vae=taesd)


def test_the_defaults_are_taesd_s():
    network = build("vae", {"_class_name": "AutoencoderTiny"}, "here")
    assert sum(int(np.prod(shape)) for shape in shapes(network).values()) == 2_445_063
    assert network.config.downsampling == 8 and network.config.scaling_factor == 1


def test_every_form_gives_the_same_network(original, with_taesd, tmp_path):
    latents = mx.array(families.small_latents())
    pixels = np.array(with_taesd.decode(latents))
    arrays = autoencoders.weights(autoencoders.config())
    save_file(arrays, tmp_path / "one.safetensors")
    decoder = autoencoders.write_originals(tmp_path / "author")
    sides = {
        f"taesd_{side}.{name}": array
        for side in ("encoder", "decoder")
        for name, array in load_file(tmp_path / "author" / f"taesd_{side}.safetensors").items()
    }
    save_file(sides, tmp_path / "sides.safetensors")
    for file in (
        tmp_path / "one.safetensors",
        decoder,
        decoder.with_name("taesd_encoder.safetensors"),
        tmp_path / "sides.safetensors",
    ):
        other = StableDiffusion.load(original, dtype="float32", vae=file)
        assert isinstance(other.vae, TinyAutoencoder)
        assert np.array_equal(np.array(other.decode(latents)), pixels), file
        assert np.array_equal(
            np.array(other.encode(to_image(mx.array(pixels[0])))),
            np.array(with_taesd.encode(to_image(mx.array(pixels[0])))),
        )


def test_it_is_converted_into_a_folder_and_back(original, taesd, with_taesd, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    assert convert.main(["--model", str(original), "--vae", str(taesd), "--out", str(out)]) == 0
    latents = mx.array(families.small_latents())
    again = StableDiffusion.load(out, dtype="float32")
    assert np.array_equal(np.array(again.decode(latents)), np.array(with_taesd.decode(latents)))
    assert convert.main(["--model", str(out), "--to", "diffusers", "--out", str(back)]) == 0
    assert json.loads((back / "vae/config.json").read_text())["_class_name"] == "AutoencoderTiny"
    before, now = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (taesd, back / "vae"))
    assert before.keys() == now.keys() and all(np.array_equal(before[name], now[name]) for name in before)


def test_it_decodes_pictures_and_changes_no_latents(family, with_taesd):
    settings = {"steps": 2, "seed": 1, "width": 64, "height": 64}
    plain, tiny = (sd.generate(PROMPT, **settings) for sd in (family("sd1"), with_taesd))
    assert np.array_equal(np.array(plain.latents), np.array(tiny.latents))
    assert np.array(plain.images[0]).tolist() != np.array(tiny.images[0]).tolist()
    assert tiny.requests[0].vae == str(with_taesd.model.vae_name) and tiny.requests[0].vae_hash
    assert plain.requests[0].vae is None


def test_it_encodes_images_without_drawing_noise(with_taesd):
    """So that the noise of the sampler is the first of the stream, as in diffusers."""
    image = to_image(mx.array(np.clip(families.numbers("picture", 64, 64, 3) / 2, -1, 1)))
    result = with_taesd.generate(PROMPT, image=image, strength=1.0, steps=1, seed=0, output="latent", sampler="ddim")
    latents = with_taesd.encode(image)
    noise = mx.array(np.random.RandomState(0).standard_normal((4, 8, 8)).astype(np.float32).transpose(1, 2, 0)[None])
    start = with_taesd.generate(
        PROMPT, image=image, strength=1.0, steps=1, latents=noise, output="latent", sampler="ddim", seed=0
    )
    assert np.array_equal(np.array(result.latents), np.array(start.latents))
    mean, log_variance = with_taesd.vae.encode(mx.zeros((1, 64, 64, 3)))
    assert mean.shape == latents.shape and np.isneginf(np.array(log_variance)).all()


def test_tiles_of_few_pixels_of_overlap_hardly_show(with_taesd):
    latents = mx.array(families.numbers("large", 1, 24, 24, 4))
    untiled, tiled = (np.array(with_taesd.decode(latents, tile)) for tile in (0, 128))
    assert np.abs(untiled - tiled).mean() < 0.05 * np.abs(untiled).mean()


def test_a_preview_by_it_is_its_picture(with_taesd, taesd, family):
    estimates = mx.array(families.numbers("estimates", 2, 6, 5, 4))
    images = Preview(family("sd1"), method=str(taesd))(estimates)
    expected = [to_image(pixels) for pixels in with_taesd.decode(estimates)]
    assert [np.array(image).tolist() for image in images] == [np.array(image).tolist() for image in expected]
    assert images[0].size == (40, 48)
    assert Preview(family("sd1"), "bicubic", str(taesd))(estimates)[0].size == (40, 48)


def test_step_images_and_animations_take_it(run, taesd, tmp_path):
    flags = ("--steps", 2, "--size", "64x64", "--seed", 0, "--preview", "steps", "--animate", "--output", "a.png")
    small = autoencoders.write_folder(tmp_path / "small", autoencoders.config(stages=4))
    code, _, err = run("a tent", *flags, "--preview-method", small)
    assert code == 0, err
    assert len(list((tmp_path / "steps").iterdir())) == 2 and (tmp_path / "a-steps.png").is_file()


WRONG = {
    "of another family": ("sd1", "taesdxl", "the latents of taesdxl are of another family.*give --vae taesd"),
    "of another family, SDXL": ("sdxl", "taesd", "this model is SDXL; give --vae taesdxl"),
    "not there": ("sd1", "nowhere.safetensors", "nowhere.safetensors cannot be read: No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_is_one_line(name, family):
    model, vae, words = WRONG[name]
    with pytest.raises(InputError, match=words) as error:
        StableDiffusion.load(family(model).model.folder, dtype="float32", vae=vae)
    assert "\n" not in str(error.value)


def test_one_side_alone_is_one_line(original, tmp_path):
    decoder = autoencoders.write_originals(tmp_path)
    (tmp_path / "taesd_encoder.safetensors").unlink()
    with pytest.raises(InputError, match=r"the decoder of a tiny autoencoder alone; put its encoder, taesd_encoder"):
        StableDiffusion.load(original, vae=decoder)
    shutil.move(decoder, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="put its encoder beside it"):
        StableDiffusion.load(original, vae=tmp_path / "mine.safetensors")


def test_weights_that_are_missing_or_too_many_are_named(original, tmp_path):
    arrays = autoencoders.weights(autoencoders.config())
    for change, words in (
        (lambda a: a.pop("decoder.layers.3.conv.2.bias"), r"1 missing \(decoder.layers.3.conv.2.bias\)"),
        (lambda a: a.update({"decoder.layers.3.conv.9.bias": np.zeros(8, np.float32)}), "is of no layer"),
    ):
        wrong = dict(arrays)
        change(wrong)
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(InputError, match=words):
            StableDiffusion.load(original, vae=tmp_path / "wrong.safetensors")


def test_latents_of_another_size_are_refused(original, tmp_path):
    other = autoencoders.write_folder(tmp_path / "other", autoencoders.config(stages=3))
    with pytest.raises(InputError, match="4 channels and 4 pixels a side; this model's have 4 and 8"):
        StableDiffusion.load(original, vae=other)


def test_a_field_that_is_not_supported_is_named():
    for field, value in (("act_fn", "silu"), ("upsampling_scaling_factor", 4), ("upsample_fn", "bilinear")):
        with pytest.raises(InputError, match=f"here: {field} = {value!r} is not supported"):
            build("vae", autoencoders.config(**{field: value}), "here")
    with pytest.raises(InputError, match="one width for all stages"):
        build("vae", autoencoders.config(encoder_block_out_channels=[8, 8, 8, 16]), "here")


def test_names_mean_repositories_of_the_hub_and_offline_they_are_one_line(original, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="madebyollin/taesd is not on this machine and the hub cannot be") as error:
        StableDiffusion.load(original, vae="taesd")
    assert "\n" not in str(error.value)
    assert tiny_vaes.REPOSITORIES == {"taesd": "madebyollin/taesd", "taesdxl": "madebyollin/taesdxl"}


def test_a_model_on_pixels_has_none_to_replace(tmp_path, taesd):
    folder = unprompted.write_folder("ddpm", unprompted.shapes()["ddpm"], tmp_path / "ddpm", flat=True)
    with pytest.raises(InputError, match="works on pixels"):
        StableDiffusion.load(folder, vae=taesd)
