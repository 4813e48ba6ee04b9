"""Pictures with control networks: in Python, on the command line, in metadata, together with others, and refused."""

import json

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mlx_sd import Control, InputError, memory, metadata
from mlx_sd.tasks import control_image
from tests.support import controls, turns
from tests.support.effort import slow_but

SETTINGS = {"seed": 1, "steps": 4, "output": "latent", "guidance": 5.0}
PROMPT = "a red tent"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return controls.write_folder(tmp_path_factory.mktemp("networks") / "edges", controls.config("sd1"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return controls.write_folder(tmp_path_factory.mktemp("networks") / "xl", controls.config("sdxl"))


def change(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max() / mx.abs(b).max())


@pytest.mark.slow
def test_every_form_of_an_entry_means_the_same(network, family, tmp_path):
    sd, image = family("sd1"), controls.image()
    image.save(tmp_path / "a.png")
    plain = sd.generate(PROMPT, **SETTINGS).latents
    first = sd.generate(PROMPT, controls=[(network, image, 0.5)], **SETTINGS).latents
    assert change(first, plain) >= 0.1
    for entry in (
        (str(network), tmp_path / "a.png", 0.5),
        f"{network}:{tmp_path / 'a.png'}:0.5",
        Control(str(network), image, 0.5),
    ):
        assert mx.array_equal(sd.generate(PROMPT, controls=[entry], **SETTINGS).latents, first)


def test_a_scale_of_zero_is_no_control_bit_for_bit(network, family):
    sd = family("sd1")
    plain = sd.generate(PROMPT, **SETTINGS).latents
    assert mx.array_equal(sd.generate(PROMPT, controls=[(network, controls.image(), 0)], **SETTINGS).latents, plain)


TOGETHER = {
    "deepcache": {"deepcache": 2, "steps": 9},
    "deeper": {"deepcache": "2:3+forecast1", "steps": 9},
    "adaptive": {"deepcache": "adaptive:0.3", "steps": 9},
    "tgate": {"tgate": 2},
    "tgate and deepcache": {"tgate": 2, "deepcache": 2, "steps": 9},
    "freeu": {"freeu": True},
    "image to image": {"image": controls.image("photo"), "strength": 0.7},
    "painting": {"image": controls.image("photo"), "mask": Image.linear_gradient("L").resize((64, 64))},
    "guess mode": {"guess_mode": True},
    "no guidance": {"guidance": 1.0},
    "two": {"sampler": "heun"},
}


@pytest.mark.parametrize("name", slow_but(["tgate and deepcache"], list(TOGETHER)))
def test_it_works_together_with(name, network, family):
    sd, settings = family("sd1"), SETTINGS | TOGETHER[name]
    plain = sd.generate(PROMPT, **({**settings, "guess_mode": None})).latents
    result = sd.generate(PROMPT, controls=[(network, controls.image())], **settings)
    assert change(result.latents, plain) >= 0.05
    assert mx.isfinite(result.latents).all()


@pytest.mark.slow
def test_a_batch_is_its_pictures_one_by_one(network, family):
    sd, entry = family("sd1"), [(network, controls.image())]
    one_by_one = sd.generate(PROMPT, controls=entry, count=2, **SETTINGS).latents
    together = sd.generate(PROMPT, controls=entry, count=2, batch=2, **SETTINGS).latents
    assert change(together, one_by_one) < 1e-4


@pytest.mark.slow
def test_tiles_see_their_part_of_the_image(network, family):
    """A picture of one tile is that without tiles; with several, the control image acts in each of them."""
    sd, image = family("sd1"), controls.image(size=(192, 128))
    settings = SETTINGS | {"width": 192, "height": 128}
    tiled = sd.generate(PROMPT, controls=[(network, image)], denoise_tile=16, **settings).latents
    plain = sd.generate(PROMPT, denoise_tile=16, **settings).latents
    parts = np.abs(np.asarray(tiled - plain)).max(axis=(0, 3)).reshape(2, 8, 3, 8).max(axis=(1, 3))
    assert (parts >= 0.1 * float(mx.abs(plain).max())).all()
    untiled = sd.generate(PROMPT, controls=[(network, image)], denoise_tile=24, **settings).latents
    assert mx.array_equal(untiled, sd.generate(PROMPT, controls=[(network, image)], **settings).latents)


@pytest.mark.slow
def test_without_a_size_the_picture_has_the_image_s_shape(network, family):
    sd = family("sd1")
    result = sd.generate(PROMPT, controls=[(network, controls.image(size=(128, 64)))], **SETTINGS)
    assert (result.requests[0].width, result.requests[0].height) == (88, 48)  # of the area 64 x 64, in latents
    square = sd.generate(PROMPT, controls=[(network, controls.image(size=(96, 96)))], **SETTINGS)
    assert (square.requests[0].width, square.requests[0].height) == (64, 64)


REFUSED = {
    "family": (lambda n, f, home: [(f, controls.image())], "is for SDXL, and"),
    "no network": (lambda n, f, home: [(home, controls.image())], "is no ControlNet"),
    "no file": (lambda n, f, home: [(n / "nowhere", controls.image())], "does not exist"),
    "no image": (lambda n, f, home: [(n, "nowhere.png")], "nowhere.png does not exist"),
    "shape": (lambda n, f, home: [(n, controls.image(size=(128, 64)))], "is not the shape of a picture of 64 x 64"),
    "scale": (lambda n, f, home: [(n, controls.image(), float("nan"))], "the scale of"),
    "span": (lambda n, f, home: [Control(str(n), controls.image(), 1, 0.8, 0.2)], "give START-END from 0 to 1"),
    "nowhere": (lambda n, f, home: [Control(str(n), controls.image(), 1, 0.5, 0.51)], "acts at none of 4 evaluations"),
    "maker": (lambda n, f, home: [Control(str(n), controls.image(), maker="cany")], "did you mean 'canny'?"),
    "inpaint": (lambda n, f, home: [Control(str(n), controls.image(), maker="inpaint")], "shows nothing to paint"),
    "mode": (lambda n, f, home: [Control(str(n), controls.image(), mode="depth")], "has no modes; leave @depth out"),
    "form": (lambda n, f, home: [("model",)], "controls= takes (model, image)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line(name, network, foreign, family):
    sd = family("sd1")
    entries, words = REFUSED[name]
    with pytest.raises(InputError) as error:
        settings = SETTINGS | {"sampler": "euler", "width": 64, "height": 64}
        sd.generate(PROMPT, controls=entries(network, foreign, sd.model.folder), **settings)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_union_wants_to_know_what_its_image_shows(family, tmp_path):
    sd, image = family("sdxl"), controls.image()
    union = controls.write_folder(tmp_path / "union", controls.union())
    for entry, words in (
        (Control(str(union), image), "say which, as"),
        (Control(str(union), image, mode="tile"), "shows one of openpose, depth"),
        (Control(str(union), image, maker="tile"), "shows one of openpose, depth"),
        (Control(str(union), image, mode="dept"), "did you mean 'depth'?"),
    ):
        with pytest.raises(InputError) as error:
            sd.generate(PROMPT, controls=[entry], **SETTINGS)
        assert words in str(error.value)
    by_maker = sd.generate(PROMPT, controls=[Control(str(union), image, maker="canny")], **SETTINGS).latents
    said = sd.generate(PROMPT, controls=[Control(str(union), image, mode="depth")], **SETTINGS).latents
    assert change(said, by_maker) > 0.01


def test_what_cannot_go_together_is_refused_by_name(network, family):
    sd, entry = family("sd1"), [(network, controls.image())]
    photo = controls.image("photo")
    with pytest.raises(InputError, match="--only-masked"):
        mask = Image.linear_gradient("L").resize((64, 64))
        sd.generate(PROMPT, controls=entry, image=photo, mask=mask, only_masked=True, **SETTINGS)
    with pytest.raises(InputError, match="guess mode is of control networks"):
        sd.generate(PROMPT, guess_mode=True, **SETTINGS)


@pytest.mark.slow
def test_a_union_sees_its_images_in_one_pass(family, tmp_path):
    sd, folder = family("sdxl"), controls.write_folder(tmp_path / "union", controls.union())
    entries = [
        Control(f"{folder}", controls.image(name), 0.8, mode=mode)
        for name, mode in (("control", "depth"), ("another", "canny"))
    ]
    settings = {**SETTINGS, "steps": 9, "deepcache": 3}
    together, reversed_, alone, apart = (
        sd.generate(PROMPT, controls=listed, **settings).latents
        for listed in (entries, entries[::-1], entries[:1], [entries[0], entries[1]._replace(start=0.05)])
    )
    assert mx.array_equal(together, reversed_)
    assert change(together, alone) >= 0.05 and change(together, apart) >= 0.01


def test_networks_that_do_not_fit_into_memory_are_refused_before_they_are_read(network, family, monkeypatch):
    sd = family("sd1")
    present = memory.needed(sd.model, 64, 64)
    monkeypatch.setattr(memory, "available", lambda: present + 1000)
    sd.generate(PROMPT, **SETTINGS)
    with pytest.raises(InputError, match="GB of memory"):
        sd.generate(PROMPT, controls=[(network, controls.image())] * 10, **SETTINGS)


def test_painted_pixels_are_minus_one_in_the_image_of_an_inpainting_network():
    photo, mask = controls.image("photo"), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    pixels = np.asarray(control_image.pixels(photo, "inpaint", (64, 64), mask))[0]
    assert (pixels[:, :32] == -1).all() and (pixels[:, 32:] >= 0).all() and pixels.max() <= 1
    transparent = photo.convert("RGBA")
    transparent.putalpha(mask.point(lambda value: 255 - value))
    assert np.array_equal(np.asarray(control_image.pixels(transparent, "inpaint", (64, 64)))[0, :, 32:], pixels[:, 32:])


PARSED = {
    "m:i.png": ("m", "i.png", 1.0, 0.0, 1.0, None),
    "owner/name:i.png:0.5": ("owner/name", "i.png", 0.5, 0.0, 1.0, None),
    "m:canny:i.png:2": ("m", "i.png", 2.0, 0.0, 1.0, "canny"),
    "m.safetensors:i.png:.5:0-.5": ("m.safetensors", "i.png", 0.5, 0.0, 0.5, None),
    "m:tile:i.png:1:0.25-1": ("m", "i.png", 1.0, 0.25, 1.0, "tile"),
    "m@depth:i.png:0.5": ("m", "i.png", 0.5, 0.0, 1.0, None, "depth"),
    "m@nobody:i.png": ("m@nobody", "i.png", 1.0, 0.0, 1.0, None, None),
}


@pytest.mark.parametrize("text", PARSED)
def test_the_text_of_an_entry(text):
    control = Control.parse(text)
    assert control[: len(PARSED[text])] == PARSED[text]
    assert Control.from_record(control.to_record()) == control


def test_files_may_have_colons_and_numbers_in_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    controls.image().save(tmp_path / "a:0.5", "PNG")
    (tmp_path / "m:x").mkdir()
    assert Control.parse("m:x:a:0.5")[:3] == ("m:x", "a:0.5", 1.0)
    assert Control.parse("m:x:a:0.5:2")[:3] == ("m:x", "a:0.5", 2.0)


@pytest.fixture
def place(network, original, tmp_path, monkeypatch):
    """A folder with a photo, links to a model and a control network, and its commands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd1").symlink_to(original)
    controls.image().save(tmp_path / "edges.png")
    (tmp_path / "net").mkdir()
    for file in network.iterdir():
        (tmp_path / "net" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def pixels_of(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


COMMAND = "mlx-sd 'a red tent' --model sd1 --steps 3 --size 64x64 --seed 4 --quiet "


@pytest.mark.slow
def test_on_the_command_line_it_is_recorded_and_made_again(place):
    assert turns.run(COMMAND + "--output plain.png").code == 0
    outcome = turns.run(COMMAND + "--control net:canny:edges.png:0.8:0-0.7 --output a.png")
    assert outcome.code == 0, outcome
    (record,) = metadata.read(place / "a.png")["controls"]
    assert record.keys() == {"model", "image", "maker", "scale", "start", "end", "model_hash", "image_hash"}
    assert (record["model"], record["maker"], record["scale"], record["end"]) == ("net", "canny", 0.8, 0.7)
    assert "controls" not in metadata.read(place / "plain.png")
    plain, first = pixels_of(place / "plain.png"), pixels_of(place / "a.png")
    assert np.abs(first - plain).max() > 10
    with Image.open(place / "a.png") as picture:
        assert 'ControlNet 0: "Module: canny, Model: net [' in picture.info["parameters"]
    assert turns.run("mlx-sd --from-image a.png --quiet --output b.png").code == 0
    assert np.array_equal(pixels_of(place / "b.png"), first)


@pytest.mark.slow
def test_another_image_or_network_is_noticed_when_a_picture_is_made_again(place):
    assert turns.run(COMMAND + "--control net:edges.png --output a.png").code == 0
    controls.image("another").save(place / "edges.png")
    outcome = turns.run("mlx-sd --from-image a.png --output b.png")
    assert outcome.code == 2 and "edges.png is not the file that the picture was made with" in outcome.err
    weights = controls.weights(controls.config("sd1"), "another")
    save_file(weights, place / "net" / "diffusion_pytorch_model.safetensors")
    outcome = turns.run("mlx-sd --from-image a.png --output b.png")
    assert "net is not the control network that the picture was made with" in outcome.err
    (place / "edges.png").unlink()
    outcome = turns.run("mlx-sd --from-image a.png --output b.png")
    assert outcome.code == 2 and "edges.png is no longer there" in outcome.err
    assert not (place / "b.png").exists()


def test_another_family_is_refused_before_the_model_is_read(place, foreign, monkeypatch):
    monkeypatch.setattr("mlx_sd.cli.models.StableDiffusion.load", lambda *_, **__: pytest.fail("it was read"))
    outcome = turns.run(COMMAND + f"--control {foreign}:edges.png --output a.png")
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "is for SDXL, and sd1 is Stable" in outcome.err


def test_the_json_of_a_run_has_the_controls(place):
    outcome = turns.run(COMMAND.replace("--quiet", "") + "--control net:edges.png --json --output a.png")
    (record,) = json.loads(outcome.out)
    assert record["controls"][0]["model_hash"]
