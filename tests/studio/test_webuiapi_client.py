"""A client of A1111's API from PyPI, webuiapi, unmodified, with the Studio as its server."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from tests.studio.pictures import png_of
from tests.support.studio import Running, serving

SMALL = {"width": 64, "height": 64, "steps": 1}
EULER = {"steps": 1, "guidance": 7, "sampler": "euler", "schedule": "normal"}  # what "Euler" and cfg_scale 7 are here
IDLE = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("a1111")) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Running) -> Iterator[webuiapi.WebUIApi]:
    api = webuiapi.WebUIApi(baseurl=f"{server.address}/sdapi/v1", sampler="Euler a")
    yield api
    api.session.close()


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_pictures_are_those_of_the_library_and_say_how_they_were_made(api, sd):
    result = api.txt2img(prompt="a lighthouse", negative_prompt="rain", seed=3, n_iter=2, cfg_scale=5, **SMALL)
    options = {"steps": 1, "guidance": 5, "sampler": "euler_ancestral", "schedule": "normal", "eta": 1.0}
    expected = sd.generate("a lighthouse", "rain", seed=3, count=2, width=64, height=64, **options).images
    assert len(result.images) == 2 and all(map(same, result.images, expected))
    assert result.info["all_seeds"] == [3, 4] and result.info["seed"] == 3
    assert result.info["infotexts"] == [picture.info["parameters"] for picture in result.images]
    assert (result.info["sampler_name"], result.info["steps"], result.info["cfg_scale"]) == ("Euler a", 1, 5)
    assert (result.parameters["prompt"], result.parameters["n_iter"]) == ("a lighthouse", 2)


def test_the_older_name_of_a_sampler_carries_its_schedule(api, sd):
    result = api.txt2img(prompt="a", seed=1, sampler_name="DPM++ 2M Karras", **{**SMALL, "steps": 2})
    expected = sd.generate("a", seed=1, sampler="dpmpp_2m", schedule="karras", guidance=7, steps=2, width=64, height=64)
    assert same(result.image, expected.images[0])


def test_an_image_is_changed_as_much_as_the_strength_says(api, sd, image):
    result = api.img2img(
        images=[image], prompt="a", seed=2, denoising_strength=0.5, sampler_name="DDIM", eta=0, **{**SMALL, "steps": 2}
    )
    options = {"strength": 0.5, "steps": 2, "guidance": 7, "sampler": "ddim", "schedule": "leading", "eta": 0}
    assert same(result.image, sd.generate("a", seed=2, image=image, **options).images[0])
    assert result.parameters["init_images"] is None and result.parameters["mask"] is None


def test_the_white_part_of_a_mask_is_painted(api, sd, image):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    options = {"denoising_strength": 1, "mask_blur": 0, "inpaint_full_res": False, "sampler_name": "Euler", **SMALL}
    result = api.img2img(images=[image], mask_image=mask, prompt="a sky", seed=5, **options)
    expected = sd.generate(
        "a sky", seed=5, image=image, mask=mask, strength=1, steps=1, guidance=7, sampler="euler", schedule="normal"
    )
    assert same(result.image, expected.images[0])
    assert np.array_equal(np.asarray(result.image)[32:], np.asarray(image)[32:])
    inverted = api.img2img(images=[image], mask_image=mask, prompt="a sky", seed=5, inpainting_mask_invert=1, **options)
    assert np.array_equal(np.asarray(inverted.image)[:32], np.asarray(image)[:32])


def test_hires_fix_makes_the_picture_larger(api, sd):
    result = api.txt2img(
        prompt="a", seed=1, enable_hr=True, hr_scale=1.5, hr_second_pass_steps=1, sampler_name="Euler", **SMALL
    )
    expected = sd.generate(
        "a", seed=1, hires="1.5:1:0.7", steps=1, guidance=7, sampler="euler", schedule="normal", width=64, height=64
    )
    assert result.image.size == (96, 96) and same(result.image, expected.images[0])


def test_what_a_picture_says_is_read_back(api, server):
    picture = api.txt2img(prompt="a (red:1.2) hat", seed=9, **SMALL).image
    result = api.png_info(picture)
    assert result.info == picture.info["parameters"]
    assert result.parameters["Prompt"] == "a (red:1.2) hat" and result.parameters["Seed"] == "9"
    assert api.png_info(Image.new("RGB", (8, 8))).info == ""
    with pytest.raises(RuntimeError, match="404"):
        api.interrogate(picture)


def test_an_idle_server_says_exactly_nothing(api):
    answer = api.get_progress()
    assert (answer["progress"], answer["eta_relative"], answer["current_image"]) == (0, 0, None)
    state = answer["state"]
    assert state.pop("job_timestamp").isdigit()
    assert state == IDLE
    api.util_wait_for_ready()


def test_the_model_is_chosen_by_its_title_and_options_are_kept(api):
    titles = api.util_get_model_names()
    assert {"tiny", "tiny-classes"} <= {*titles}
    api.util_set_model("tiny-classes")
    assert api.util_get_current_model() == "tiny-classes"
    api.set_options({**api.get_options(), "sd_model_checkpoint": "tiny", "unknown": None})  # as Open WebUI does
    assert api.get_options()["sd_model_checkpoint"] == "tiny"
    api.set_options({"CLIP_stop_at_last_layers": 2})
    assert api.get_options()["CLIP_stop_at_last_layers"] == 2
    api.set_options({"CLIP_stop_at_last_layers": 1})
    assert "there are tiny" in api.set_options({"sd_model_checkpoint": "none such"})["detail"]


def test_settings_of_one_call_are_restored_unless_they_are_to_stay(api):
    calls = {"prompt": "a", "seed": 1, **SMALL}
    changed = {"override_settings": {"CLIP_stop_at_last_layers": 2}}
    result = api.txt2img(**calls, **changed)
    assert result.info["clip_skip"] == 2 and api.get_options()["CLIP_stop_at_last_layers"] == 1
    api.txt2img(**calls, **changed, override_settings_restore_afterwards=False)
    assert api.get_options()["CLIP_stop_at_last_layers"] == 2
    api.set_options({"CLIP_stop_at_last_layers": 1})


def test_pictures_are_saved_where_that_is_asked_for_and_sent_unless_not(api, server):
    folder = server.studio.folder
    before = {*folder.glob("*.png")}
    result = api.txt2img(prompt="a", seed=4, save_images=True, **SMALL)
    (saved,) = {*folder.glob("*.png")} - before
    with Image.open(saved) as picture:
        assert same(picture, result.image)
    assert api.txt2img(prompt="a", seed=4, send_images=False, **SMALL).images == []
    assert len({*folder.glob("*.png")} - before) == 1


def test_every_list_is_there(api, server):
    assert "Euler a" in api.util_get_sampler_names() and "karras" in api.util_get_scheduler_names()
    assert [entry["name"] for entry in api.get_upscalers()][:2] == ["None", "Lanczos"]
    assert {"name": "Latent (bicubic)"} in api.get_latent_upscale_modes()
    assert [entry["name"] for entry in api.get_loras()] == ["tiny-evening", "tiny-four-steps"]
    empty = (api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models)
    assert [ask() for ask in (*empty, api.get_prompt_styles)] == [[]] * 4
    assert api.get_scripts() == {"txt2img": [], "img2img": []} and api.get_cmd_flags() == {}
    embeddings = api.get_embeddings()
    assert (list(embeddings["loaded"]), embeddings["skipped"]) == (["tiny-lilac"], {})
    assert api.refresh_checkpoints() is None
    ram = api.get_memory()["ram"]
    assert ram["used"] > 0 and ram["free"] + ram["used"] == ram["total"]
    networks = server.studio.catalog.control_networks()
    assert [e.name for e in networks if e.place != "cache"] == ["tiny-edges"]  # the cache is of all tests
    assert api.controlnet_model_list() == [e.name for e in networks] and "canny" in api.controlnet_module_list()
    assert str(server.studio.folder) not in json.dumps([api.get_sd_models(), api.get_sd_vae(), api.get_options()])


def test_every_sampler_and_schedule_of_the_lists_is_taken_back(api, server):
    from mlx_sd.studio.routes.a1111.fields import Fields
    from mlx_sd.studio.routes.a1111.solver import settings_of

    for name in api.util_get_sampler_names():
        assert settings_of(Fields({"sampler_name": name}))["sampler"]
    for entry in api.get_schedulers():
        for key in ("name", "label"):
            settings_of(Fields({"sampler_name": "Euler", "scheduler": entry[key]}))


def test_finished_pictures_are_made_larger_without_a_network(api, image):
    larger = api.extra_single_image(image, upscaler_1="Lanczos", upscaling_resize=2).image
    assert same(larger, image.resize((128, 128), Image.Resampling.LANCZOS))
    assert same(api.extra_single_image(image, upscaler_1="None", upscaling_resize=2).image, image)
    fitted = api.extra_batch_images(
        [image, image], upscaler_1="Nearest", resize_mode=1, upscaling_resize_w=96, upscaling_resize_h=32
    )
    assert [picture.size for picture in fitted.images] == [(96, 32)] * 2


def test_control_networks_that_are_not_here_are_refused(api, image):
    unit = webuiapi.ControlNetUnit(image=image, module="canny", model="control_v11p_sd15_canny [d14c016b]")
    with pytest.raises(RuntimeError, match=r"422.*unknown control network .*control_v11p_sd15_canny"):
        api.txt2img(prompt="a", controlnet_units=[unit], alwayson_scripts={}, **SMALL)


@pytest.mark.parametrize(
    ("task", "values", "status"),
    [
        ("txt2img", {"steps": "many"}, 422),
        ("txt2img", {"sampler_name": "Oyler"}, 422),
        ("txt2img", {"alwayson_scripts": {"Dynamic Prompts": {"args": [True]}}}, 422),
        ("txt2img", {"width": 99999}, 422),
        ("txt2img", {"prompt": "<lora:none:1>"}, 422),
        ("img2img", {}, 404),
        ("img2img", {"init_images": ["http://127.0.0.1/a.png"]}, 422),
        ("img2img", {"init_images": ["bm90IGEgcGljdHVyZQ=="]}, 422),
        ("img2img", {"init_images": ["../../secret.png"]}, 422),
        ("extra-single-image", {"image": "file:///etc/passwd"}, 422),
        ("extra-single-image", {"upscaler_1": "ESRGAN"}, 422),
        ("png-info", {"image": ""}, 404),
        ("options", {"sd_vae": "../vae"}, 422),
    ],
)
def test_errors_have_a1111s_shape_in_one_line(server, task, values, status):
    answer = httpx.post(f"{server.address}/sdapi/v1/{task}", json=values)
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error", "detail", "body", "errors"} and body["detail"] and "\n" not in body["detail"]


class _Slow:
    """A call of many steps in a thread."""

    def __init__(self, address: str):
        self.api = webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1")
        self.result: webuiapi.WebUIApiResult | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.result = self.api.txt2img(prompt="slow", seed=1, n_iter=2, width=64, height=64, steps=200)

    def until_step(self, number: int, step: int) -> dict[str, object]:
        """Returns the first progress that is so far."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer: dict[str, object] = self.api.get_progress()
            state = answer["state"]
            if state["job_no"] == number and state["sampling_step"] >= step:
                return answer
            time.sleep(0.02)
        raise AssertionError(answer)


def test_progress_grows_from_a_hundredth_and_an_interrupted_call_ends_with_what_is_done(tmp_path: Path):
    with serving(tmp_path) as (address, studio):
        slow = _Slow(address)
        answer = slow.until_step(0, 2)
        state = answer["state"]
        assert 0.01 <= answer["progress"] <= 1 and answer["eta_relative"] > 0
        assert (state["job_count"], state["sampling_steps"], state["job"]) == (2, 200, "scripts_txt2img")
        expected = 0.01 + state["sampling_step"] / 400
        assert answer["progress"] == pytest.approx(expected)
        preview = answer["current_image"]
        if preview is not None:
            with Image.open(io.BytesIO(base64.b64decode(preview))) as picture:
                assert picture.size == (8, 8)
        assert httpx.get(f"{address}/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
        assert slow.api.skip() == {}
        slow.until_step(1, 1)
        assert slow.api.interrupt() == {}
        slow.thread.join(60)
        assert slow.result is not None and slow.result.images == []
        state = slow.api.get_progress()["state"]
        assert state["interrupted"] and state["skipped"] and state["job_count"] == 0
        assert studio.queue.running is None or studio.queue.running.stop.is_set()
        slow.api.session.close()


def test_a_client_interrupts_its_own_call_and_never_one_of_another(tmp_path: Path):
    with serving(tmp_path) as (address, _):
        other = {"user-agent": "another"}
        small = {"prompt": "a", **SMALL}
        assert httpx.post(f"{address}/sdapi/v1/txt2img", json=small, headers=other, timeout=60).status_code == 200
        slow = _Slow(address)
        slow.until_step(0, 1)
        httpx.post(f"{address}/sdapi/v1/interrupt", headers=other)
        assert httpx.get(f"{address}/sdapi/v1/progress", headers=other).json()["progress"] == 0
        assert slow.api.get_progress()["progress"] > 0
        httpx.post(f"{address}/sdapi/v1/interrupt", headers={"user-agent": "a third, without a call of its own"})
        slow.thread.join(60)
        assert slow.result is not None and slow.result.images == []
        slow.api.session.close()


def test_a_picture_in_base64_may_be_a_data_url_or_not(server, image):
    encoded = base64.b64encode(png_of(image)).decode()
    for text in (encoded, f"data:image/png;base64,{encoded}"):
        values = {"init_images": [text], "steps": 2, "denoising_strength": 0.5, "seed": 1}
        answer = httpx.post(f"{server.address}/sdapi/v1/img2img", json=values, timeout=60)
        assert answer.status_code == 200 and not answer.json()["images"][0].startswith("data:")
