"""What calls of OpenAI's Images API ask for, in the words of our requests."""

import pytest

from mlx_sd.request import SETTINGS
from mlx_sd.studio.routes import setting_names
from mlx_sd.studio.routes.openai.requests import edit, generation
from mlx_sd.studio.routes.request_error import RequestError


def test_a_size_is_a_width_and_a_height_and_auto_is_neither():
    assert generation({"prompt": "a", "size": "512x768"}).settings == {"prompt": "a", "width": 512, "height": 768}
    assert generation({"prompt": "a", "size": "auto"}).settings == {"prompt": "a"}


def test_own_settings_are_taken_by_our_names_and_by_those_of_other_programs():
    own = {"seed": 3, "num_inference_steps": 9, "guidance_scale": 4.5, "negative_prompt": "b", "sampler_name": "DDIM"}
    settings = generation({"prompt": "a", **own}).settings
    assert settings == {"prompt": "a", "seed": 3, "steps": 9, "guidance": 4.5, "negative": "b", "sampler": "DDIM"}
    assert generation({"prompt": "a", "scheduler": "karras"}).settings == {"prompt": "a", "schedule": "karras"}
    assert generation({"prompt": "a", "scheduler": "euler"}).settings == {"prompt": "a", "sampler": "euler"}
    assert generation({"prompt": "a", "clip_stop_at_last_layers": 2}).settings == {"prompt": "a", "clip_skip": 1}


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if not setting.hidden])
def test_every_setting_of_a_request_can_be_said_by_its_key_in_json(name):
    assert setting_names.read({setting_names.key_of(name): "x"}) == {setting_names.key_of(name): "x"}


def test_all_fields_of_openai_pass_and_those_without_an_equal_are_listed():
    service = {"user": "u", "moderation": "low", "response_format": "url", "safety_identifier": "s", "quality": "auto"}
    order = generation({"prompt": "a", **service, "style": "vivid", "background": "opaque", "stream": None})
    assert (order.settings, order.ignored, order.stream) == ({"prompt": "a"}, ("style",), False)


def test_the_models_of_openai_are_the_default_model_and_others_are_named():
    for name in ("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-2.5-flare"):
        assert "model" not in generation({"prompt": "a", "model": name}).settings
    assert generation({"prompt": "a", "model": "tiny"}).settings["model"] == "tiny"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a" * 32_001}, "prompt"),
        ({"prompt": "a", "n": 11}, "n"),
        ({"prompt": "a", "n": True}, "n"),
        ({"prompt": "a", "n": 1.5}, "n"),
        ({"prompt": "a", "size": "large"}, "size"),
        ({"prompt": "a", "size": "64x64", "width": 64}, "size"),
        ({"prompt": "a", "output_format": "svg"}, "output_format"),
        ({"prompt": "a", "output_format": ["png"]}, "output_format"),
        ({"prompt": "a", "output_compression": 101}, "output_compression"),
        ({"prompt": "a", "background": "transparent"}, "background"),
        ({"prompt": "a", "partial_images": 4}, "partial_images"),
        ({"prompt": "a", "stream": "perhaps"}, "stream"),
        ({"prompt": "a", "model": 3}, "model"),
        ({"prompt": "a", "stepz": 3}, "stepz"),
        ({"prompt": "a", "steps": 3, "num_inference_steps": 3}, "num_inference_steps"),
        ({"prompt": "a", "subseed": 3}, "subseed"),
        ({"prompt": "a", "clip_stop_at_last_layers": 0}, "clip_stop_at_last_layers"),
        ({"prompt": "a", "scheduler": "[karras"}, "scheduler"),
        ({"prompt": "a", "scheduler": {"name": 1}}, "scheduler"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_with_its_field(values, field):
    with pytest.raises(RequestError) as caught:
        generation(values)
    assert (caught.value.status, caught.value.field) == (400, field)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_spelled_wrong_gets_the_right_one():
    with pytest.raises(RequestError, match="did you mean 'steps'"):
        generation({"prompt": "a", "step": 3})


def test_the_texts_of_a_form_become_what_the_settings_are():
    fields = {"prompt": "a", "n": "2", "stream": "true", "partial_images": "1", "seed": "7", "strength": "0.5"}
    order = edit({**fields, "only_masked": "true", "size": "64x64", "user": "", "loras": '[{"id": "x", "scale": 1}]'})
    assert (order.count, order.stream, order.partial_images) == (2, True, 1)
    expected = {"seed": 7, "strength": 0.5, "only_masked": True, "loras": [{"id": "x", "scale": 1}]}
    assert order.settings == {"prompt": "a", "width": 64, "height": 64, **expected}


@pytest.mark.parametrize("fields", [{"seed": "many"}, {"only_masked": "perhaps"}, {"n": "two"}, {"loras": "[1,"}])
def test_a_text_of_a_form_that_is_none_of_these_is_refused(fields):
    with pytest.raises(RequestError) as caught:
        edit({"prompt": "a", **fields})
    assert caught.value.field in fields
