"""What calls of A1111's API ask for, in the words of our requests."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sd.request import Request
from mlx_sd.studio.models.catalog import Catalog
from mlx_sd.studio.routes.a1111 import images as a1111_images
from mlx_sd.studio.routes.a1111.fields import IMG2IMG, TXT2IMG, echoed
from mlx_sd.studio.routes.a1111.options import Options
from mlx_sd.studio.routes.a1111.requests import image_to_image, text_to_image
from mlx_sd.studio.routes.request_error import RequestError

STYLES = [
    {"name": "ink", "prompt": "ink drawing of {prompt}", "negative": ""},
    {"name": "sharp", "prompt": "sharp", "negative": "blur"},
]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """The options of a server with one control network and one embedding."""
    control = tmp_path / "models" / "canny"
    control.mkdir(parents=True)
    (control / "model_index.json").write_text("{}")
    (control / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    (tmp_path / "words").mkdir()
    header = json.dumps({"emb_params": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "words" / "lighthouses.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    catalog = Catalog([tmp_path / "models"], None, tmp_path / "words")
    return Options(catalog, catalog.model("tiny"))


def decode(text: object, field: str) -> Image.Image:
    """An image by the name of its colour, in the place of base64."""
    if not isinstance(text, str):
        raise RequestError("no image", field=field)
    colour, _, size = text.partition(" ")
    return Image.new("RGB", tuple(map(int, size.split("x"))) if size else (64, 64), colour)


def drawn(options: Options, **values: object) -> dict[str, object]:
    """The settings of txt2img, without the model."""
    settings = dict(text_to_image(values, options, STYLES, decode).settings)
    assert settings.pop("model") == "tiny"
    return settings


def test_a_call_without_fields_is_a_picture_of_an_empty_prompt(options):
    order = text_to_image({}, options, STYLES, decode)
    assert (order.settings, order.count, order.keep) == ({"model": "tiny", "prompt": ""}, 1, False)
    assert text_to_image(dict.fromkeys(TXT2IMG), options, STYLES, decode).settings == order.settings


def test_numbers_and_prompts_keep_their_meaning(options):
    settings = drawn(options, prompt="a", negative_prompt="b", seed=-1, steps=20, cfg_scale="7.5", width=513, height=64)
    numbers = {"seed": -1, "steps": 20, "guidance": 7.5, "width": 512, "height": 64}
    assert settings == {"prompt": "a", "negative": "b", **numbers}


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("Euler a", "automatic", {"sampler": "euler_ancestral", "schedule": "normal"}),
        ("DPM++ 2M Karras", None, {"sampler": "dpmpp_2m", "schedule": "karras"}),
        ("DPM++ 2M", "SGM Uniform", {"sampler": "dpmpp_2m", "schedule": "sgm_uniform"}),
        ("DPM++ 2M", "Automatic", {"sampler": "dpmpp_2m", "schedule": "karras"}),
        ("DDIM", "Karras", {"sampler": "ddim", "schedule": "leading"}),  # has timesteps of its own
        ("", "Karras", {"schedule": "karras"}),
    ],
)
def test_samplers_and_schedulers_have_their_names_in_a1111(options, name, scheduler, expected):
    settings = drawn(options, sampler_name=name or None, scheduler=scheduler)
    assert settings == {"prompt": "", **expected}
    Request(**settings)


def test_sampler_name_wins_over_sampler_index(options):
    assert drawn(options, sampler_name="LMS", sampler_index="Euler")["sampler"] == "lms"
    assert drawn(options, sampler_index="Heun")["sampler"] == "heun"


def test_eta_and_churn_are_of_the_samplers_that_have_them(options):
    assert "eta" not in drawn(options, sampler_name="Euler", eta=1.0)
    assert drawn(options, sampler_name="DDIM", eta=0.5)["eta"] == 0.5
    churned = drawn(options, sampler_name="Heun", s_churn=4, s_tmax=0, s_tmin=0, s_noise=1)
    assert (churned["sampler"], churned["order"], churned["s_churn"]) == ("edm", 2, 4)
    assert "s_tmax" not in churned


def test_batches_and_iterations_are_pictures_of_one_group(options):
    assert text_to_image({"batch_size": 2, "n_iter": 3}, options, STYLES, decode).count == 6


def test_styles_go_around_the_prompt_or_behind_it(options):
    settings = drawn(options, prompt="a cat", negative_prompt="dog", styles=["ink", "sharp", "None"])
    assert (settings["prompt"], settings["negative"]) == ("ink drawing of a cat, sharp", "dog, blur")


def test_an_embedding_is_used_where_a_prompt_says_its_name(options):
    (entry,) = drawn(options, prompt="two (lighthouses:1.2)")["embeddings"]
    assert entry["id"].startswith("lighthouses")
    assert "embeddings" not in drawn(options, prompt="twolighthouses")


def test_hires_fix_is_taken_where_it_is_enabled(options):
    assert "hires" not in drawn(options, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.7)
    settings = drawn(options, enable_hr=True, hr_scale=1.5, hr_second_pass_steps=4, hr_upscaler="Latent (bicubic)")
    assert (settings["hires"], settings["hires_mode"]) == ("1.5:4:0.7", "latent-bicubic")
    target = {"hr_resize_x": 1000, "hr_resize_y": 800, "width": 640, "height": 512}
    settings = drawn(options, enable_hr=True, denoising_strength=0.5, hr_upscaler="Lanczos", **target)
    assert (settings["hires"], settings["hires_mode"]) == ("1.5625::0.5", "lanczos")


def test_options_hold_for_all_calls_and_overridden_ones_for_one(options):
    skipped = options.with_values({"CLIP_stop_at_last_layers": 2, "unknown": 3, "sd_vae": None})
    assert drawn(skipped)["clip_skip"] == 1
    order = text_to_image({"override_settings": {"randn_source": "CPU"}}, skipped, STYLES, decode)
    assert (order.settings["rng"], order.settings["clip_skip"]) == ("torch", 1)
    assert skipped.rng == "numpy"
    assert options.with_values(options.to_json()) == options  # as Open WebUI sends them back


def test_a_setting_without_an_equal_that_a_client_always_sends_is_listed(options):
    order = text_to_image({"override_settings": {"img2img_color_correction": True}}, options, STYLES, decode)
    assert order.ignored == ["img2img_color_correction"]


def test_an_image_is_stretched_cropped_or_filled_to_the_size(options):
    values = {"init_images": ["red 64x32"], "width": 64, "height": 64, "denoising_strength": 0.4}
    for mode in range(3):
        order = image_to_image({**values, "resize_mode": mode}, options, STYLES, decode)
        assert order.init_image is not None and order.init_image.size == (64, 64)
        assert order.init_image.getcolors() == [(64 * 64, (255, 0, 0))]
    assert order.settings["strength"] == 0.4


def test_filling_continues_the_edges():
    image = Image.new("RGB", (4, 2), "red")
    image.paste("blue", (0, 1, 4, 2))
    filled = np.asarray(a1111_images.fitted(image, (4, 8), a1111_images.FILL))
    assert (filled[:4] == (255, 0, 0)).all() and (filled[4:] == (0, 0, 255)).all()


def test_what_is_about_a_mask_counts_with_a_mask_alone(options):
    values = {"init_images": ["red"], "mask_blur": 4, "inpaint_full_res": True, "inpaint_full_res_padding": 8}
    assert image_to_image(values, options, STYLES, decode).settings == {"model": "tiny", "prompt": ""}
    order = image_to_image({**values, "mask": "white"}, options, STYLES, decode)
    about = {"mask_blur": 4.0, "only_masked": True, "padding": 8}
    assert order.settings == {"model": "tiny", "prompt": "", **about}
    assert order.mask is not None and order.mask.getextrema() == (255, 255)
    inverted = image_to_image({**values, "mask": "white", "inpainting_mask_invert": 1}, options, STYLES, decode)
    assert inverted.mask is not None and inverted.mask.getextrema() == (0, 0)


def test_a_mask_with_transparency_is_its_transparency():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((0, 0), (255, 255, 255, 0))
    assert [*np.asarray(a1111_images.mask_of(image, False)).ravel()] == [0, 255]


def test_masked_content_fill_continues_what_is_around_the_mask(options):
    def two_colours(text: object, field: str) -> Image.Image:
        image = Image.new("RGB", (64, 64), "black")
        image.paste("white" if field == "mask" else "red", (0, 0, 32, 64) if field == "mask" else (32, 0, 64, 64))
        return image

    values = {"init_images": ["a"], "mask": "b", "denoising_strength": 0.5}
    filled = image_to_image({**values, "inpainting_fill": 0}, options, STYLES, two_colours).init_image
    assert filled is not None and filled.getpixel((0, 0)) == (255, 0, 0)
    original = image_to_image({**values, "inpainting_fill": 1}, options, STYLES, two_colours).init_image
    assert original is not None and original.getpixel((0, 0)) == (0, 0, 0)


def test_a_unit_of_controlnet_is_a_control_network(options):
    unit = {"image": "red", "module": "canny", "model": "canny [12345678]", "weight": 0.5, "guidance_end": 0.8}
    scripts = {"ControlNet": {"args": [{**unit, "control_mode": 2}, {"enabled": False}]}}
    order = text_to_image({"alwayson_scripts": scripts, "width": 32, "height": 32}, options, STYLES, decode)
    (control,) = order.controls
    (entry,) = [e for e in options.catalog.control_networks() if e.place != "embedded"]
    assert control.settings == {"model": entry.id, "maker": "canny", "scale": 0.5, "end": 0.8}
    assert control.image.size == (32, 32)
    assert order.settings["guess_mode"] is True


@pytest.mark.parametrize("name", ["mask", "mask_image", "effective_region_mask"])
def test_a_mask_of_a_unit_is_refused_and_not_passed_over(options, name):
    unit = {"image": "red", "model": "canny", name: "blue"}
    with pytest.raises(RequestError, match="whole picture") as caught:
        text_to_image({"alwayson_scripts": {"controlnet": {"args": [unit]}}}, options, STYLES, decode)
    assert caught.value.field == f"alwayson_scripts.controlnet.{name}"


def test_scripts_that_ask_for_nothing_pass(options):
    scripts = {"ControlNet": {"args": []}, "ADetailer": {"args": [False]}, "Other": {}}
    assert text_to_image({"alwayson_scripts": scripts}, options, STYLES, decode).controls == []


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sampler_name": "Oyler"}, "sampler_name"),
        ({"sampler_name": "DPM2"}, "sampler_name"),
        ({"sampler_name": "Euler", "scheduler": "Karros"}, "scheduler"),
        ({"sampler_name": "LCM", "scheduler": "Karras"}, "scheduler"),
        ({"steps": "many"}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"prompt": ["a"]}, "prompt"),
        ({"styles": ["none such"]}, "styles"),
        ({"styles": "ink"}, "styles"),
        ({"batch_size": 0}, "batch_size"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"seed_resize_from_w": 64, "seed_resize_from_h": 64}, "seed_resize_from_w"),
        ({"restore_faces": True}, "restore_faces"),
        ({"tiling": True}, "tiling"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "alwayson_scripts"),
        ({"alwayson_scripts": {"controlnet": {"args": [{"model": "pose"}]}}}, "alwayson_scripts.controlnet.model"),
        ({"override_settings": {"sd_model_checkpoint": "../tiny"}}, "sd_model_checkpoint"),
        ({"override_settings": {"sd_vae": "none such"}}, "sd_vae"),
        ({"override_settings": {"CLIP_stop_at_last_layers": "x"}}, "CLIP_stop_at_last_layers"),
        ({"override_settings": {"eta_noise_seed_delta": 31337}}, "eta_noise_seed_delta"),
        ({"override_settings": []}, "override_settings"),
        ({"enable_hr": True, "hr_upscaler": "ESRGAN"}, "hr_upscaler"),
        ({"enable_hr": True, "hr_prompt": "another"}, "hr_prompt"),
        ({"enable_hr": True, "hr_resize_x": 99, "hr_resize_y": 640, "width": 64, "height": 64}, "hr_resize_x"),
        ({"firstphase_width": 64}, "firstphase_width"),
        ({"width": float("inf")}, "width"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line_with_its_field(options, values, field):
    with pytest.raises(RequestError) as caught:
        text_to_image(values, options, STYLES, decode)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field", "status"),
    [
        ({"init_images": None}, "init_images", 404),
        ({"init_images": ["red", "blue"]}, "init_images", 400),
        ({"init_images": ["red"], "resize_mode": 3}, "resize_mode", 400),
        ({"init_images": ["red"], "initial_noise_multiplier": 0.5}, "initial_noise_multiplier", 400),
        (
            {"init_images": ["red"], "mask": "red", "inpainting_fill": 2, "denoising_strength": 0.5},
            "inpainting_fill",
            400,
        ),
        ({"init_images": ["red"], "mask": "red", "mask_blur_x": 2, "mask_blur_y": 3}, "mask_blur_x", 400),
    ],
)
def test_images_that_cannot_be_used_are_refused(options, values, field, status):
    with pytest.raises(RequestError) as caught:
        image_to_image(values, options, STYLES, decode)
    assert (caught.value.field, caught.value.status) == (field, status)


def test_parameters_of_an_answer_hold_no_key_that_a1111_has_not():
    assert echoed({"auth": "user:password", "url": "http://x", "steps": 3}, TXT2IMG) == {**TXT2IMG, "steps": 3}
    assert echoed({"mask": "abc", "seed": None}, IMG2IMG)["seed"] == -1
