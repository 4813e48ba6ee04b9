"""Whatever JSON comes to the two APIs of other programs becomes a request or one line, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.request import SETTINGS
from mlx_sd.studio.models.catalog import Catalog
from mlx_sd.studio.routes.a1111 import extras as a1111_extras
from mlx_sd.studio.routes.a1111.fields import IMG2IMG, TXT2IMG
from mlx_sd.studio.routes.a1111.options import Options
from mlx_sd.studio.routes.a1111.requests import image_to_image, text_to_image
from mlx_sd.studio.routes.openai import requests as openai_requests

CATALOG = Catalog()
OPTIONS = Options(CATALOG, CATALOG.model("tiny"))
UNIT = ("enabled", "image", "mask", "module", "model", "weight", "guidance_start", "control_mode", "resize_mode")
OPTION_NAMES = ("sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers", "randn_source", "samples_format", "other")
OPENAI = (
    *("prompt", "model", "n", "size", "quality", "background", "output_format", "output_compression", "stream"),
    *("partial_images", "style", "user", "scheduler", "clip_stop_at_last_layers", "seeds", *SETTINGS),
)
EXTRAS = ("upscaler_1", "upscaler_2", "upscaling_resize", "upscaling_resize_w", "resize_mode", "gfpgan_visibility")

WORDS = ("", "Euler", "Karras", "Latent", "tiny", "512x512", "true", "-1", "1e400", "nan", "None", "canny", "64")
STYLES = [{"name": "Euler", "prompt": "{prompt}", "negative": ""}]
words = st.sampled_from(WORDS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


def objects(names: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from([*names]), values, max_size=12)


scripts = st.dictionaries(
    st.sampled_from(["controlnet", "ControlNet", "other"]),
    st.fixed_dictionaries({"args": st.lists(objects(UNIT), max_size=2)}) | values,
)


def decode(text: object, field: str) -> Image.Image:
    if not isinstance(text, str):
        raise InputError(f"{field} is no image")
    return Image.new("RGB", (64, 48))


@pytest.mark.slow
@given(objects(TXT2IMG), st.none() | scripts, st.none() | objects(OPTION_NAMES))
def test_any_json_for_txt2img_becomes_settings_or_one_line(call, alwayson, overridden):
    _ends_well(lambda: text_to_image(_joined(call, alwayson, overridden), OPTIONS, STYLES, decode).settings)


@given(objects(IMG2IMG), st.sampled_from([["a"], [3], []]), st.none() | st.just("mask"), st.none() | scripts)
def test_any_json_for_img2img_becomes_settings_or_one_line(call, images, mask, alwayson):
    joined = {**_joined(call, alwayson, None), "init_images": images, **({"mask": mask} if mask else {})}
    _ends_well(lambda: image_to_image(joined, OPTIONS, STYLES, decode).settings)


@given(objects(OPENAI))
def test_any_json_for_openai_becomes_settings_or_one_line(call):
    _ends_well(lambda: openai_requests.generation({"prompt": "a", **call}).settings)


@given(st.dictionaries(st.sampled_from(OPENAI), words | st.text(max_size=8), max_size=12))
def test_any_form_for_openai_becomes_settings_or_one_line(fields):
    _ends_well(lambda: openai_requests.edit(fields).settings)


@given(objects(EXTRAS))
def test_any_json_for_extras_becomes_an_enlargement_or_one_line(call):
    _ends_well(lambda: {"size": a1111_extras.enlargement(call, [], 8192).size(Image.new("RGB", (5, 3)))})


def _joined(call: dict[str, Any], alwayson: Any, overridden: Any) -> dict[str, Any]:
    more = {"alwayson_scripts": alwayson, "override_settings": overridden}
    return {**call, **{name: value for name, value in more.items() if value is not None}}


@pytest.mark.parametrize(
    "call",
    [
        {"styles": [{}]},
        {"styles": [["Euler"]]},
        {"width": 10**9, "height": 10**9},
        {"width": -64, "height": 64},
        {"width": 0, "height": 64},
        {"seed": 10**19},
        {"batch_size": 10**12},
        {"alwayson_scripts": {"controlnet": {"args": [{"model": []}]}}},
        {"alwayson_scripts": {"controlnet": [1, None, [{}]]}},
        {"override_settings": {"sd_model_checkpoint": ["tiny"], "sd_vae": {}}},
    ],
)
def test_what_a_fuzzer_finds_seldom_ends_well_too(call):
    _ends_well(lambda: image_to_image({"init_images": ["a"], **call}, OPTIONS, STYLES, decode).settings)


def _ends_well(read: Any) -> None:
    try:
        settings = read()
    except InputError as error:
        assert str(error) and "\n" not in str(error)[:200]
    else:
        assert all(isinstance(name, str) for name in settings)
        json.dumps(settings, default=str)


def test_the_check_sees_settings_and_errors():
    assert text_to_image({"prompt": "a", "steps": 3}, OPTIONS, STYLES, decode).settings["steps"] == 3
    with pytest.raises(InputError):
        text_to_image({"steps": {}}, OPTIONS, STYLES, decode)
