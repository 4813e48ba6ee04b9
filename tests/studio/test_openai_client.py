"""OpenAI's own Python client, unmodified, with the Studio as its server."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from mlx_sd.metadata import picture_file
from mlx_sd.studio.work.studio import Studio
from tests.studio.pictures import pixels, png_of
from tests.support.studio import Running, serving

SMALL = {"steps": 1, "sampler": "euler"}
SIZE = "64x64"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("openai"), queue=4) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0) as client:
        yield client


def content(b64_json: str | None) -> bytes:
    return base64.b64decode(b64_json or "", validate=True)


def test_models_are_listed_and_each_is_found(client):
    names = [model.id for model in client.models.list().data]
    assert "tiny" in names
    assert client.models.retrieve("tiny").object == "model"
    assert client.models.retrieve("dall-e-3").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("tinny")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.slow
def test_pictures_are_those_of_the_library_and_n_of_them_are_a_group_of_seeds(client, sd):
    options = {**SMALL, "seed": 5, "negative_prompt": "rain"}
    answer = client.images.generate(model="gpt-image-1", prompt="a lighthouse", n=2, size=SIZE, extra_body=options)
    expected = sd.generate("a lighthouse", "rain", seed=5, count=2, steps=1, sampler="euler", width=64, height=64)
    assert answer.data is not None and len(answer.data) == 2
    for picture, original in zip(answer.data, expected.images, strict=True):
        assert np.array_equal(pixels(content(picture.b64_json)), np.asarray(original))
    assert (answer.size, answer.output_format, answer.background) == (SIZE, "png", "opaque")
    assert [picture.model_extra["seed"] for picture in answer.data] == [5, 6]
    tokens = len(sd.tokenizer.ids("a lighthouse"))
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.total_tokens, answer.usage.output_tokens) == (tokens, tokens, 0)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_picture_of_another_format_holds_its_settings(client, format):
    raw = client.images.with_raw_response.generate(
        prompt="a boat", size=SIZE, output_format=format, output_compression=60, extra_body={**SMALL, "seed": 1}
    )
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json"
    data = content(raw.parse().data[0].b64_json)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format or "").lower() == format
    assert '"seed": 1' in picture_file.read(io.BytesIO(data), "it")[picture_file.SETTINGS]


def test_a_stream_has_partial_images_in_their_order_and_then_the_picture(client, sd):
    events = [
        *client.images.generate(
            prompt="a bird", size=SIZE, stream=True, partial_images=1, extra_body={"steps": 3, "seed": 2}
        )
    ]
    assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert events[0].partial_image_index == 0
    assert pixels(content(events[0].b64_json)).shape == (64, 64, 3)
    expected = sd.generate("a bird", seed=2, steps=3, width=64, height=64).images[0]
    assert np.array_equal(pixels(content(events[1].b64_json)), np.asarray(expected))
    assert events[1].usage.input_tokens == len(sd.tokenizer.ids("a bird"))
    assert {event.size for event in events} == {SIZE}


def test_an_edit_changes_what_is_transparent_in_the_mask(client, sd, image):
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 32))
    answer = client.images.edit(
        image=("a.png", png_of(image)),
        mask=("m.png", png_of(mask)),
        prompt="a sky",
        n=1,
        extra_body={**SMALL, "seed": 3},
    )
    white = mask.getchannel("A").point(lambda value: 255 - value)
    expected = sd.generate("a sky", seed=3, image=image, mask=white, steps=1, sampler="euler").images[0]
    edited = pixels(content(answer.data[0].b64_json))
    assert np.array_equal(edited, np.asarray(expected))
    assert np.array_equal(edited[32:], np.asarray(image)[32:])


def test_several_images_may_come_of_which_the_first_is_edited_and_the_others_are_listed(client, sd, image):
    files = [("a.png", png_of(image)), ("b.png", png_of(Image.new("RGB", (64, 64))))]
    options = {"steps": 2, "seed": 1, "strength": 0.5}
    events = [*client.images.edit(image=files, prompt="a sea", stream=True, extra_body=options)]
    assert [event.type for event in events] == ["image_edit.completed"]
    expected = sd.generate("a sea", image=image, **options).images[0]
    assert np.array_equal(pixels(content(events[0].b64_json)), np.asarray(expected))
    assert events[0].model_extra["ignored"] == ["image 2"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_variation_resembles_an_image(client, sd, image):
    answer = client.images.create_variation(
        image=("a.png", png_of(image)), n=1, size=SIZE, extra_body={"steps": "2", "seed": "4"}
    )
    expected = sd.generate("", seed=4, image=image, strength=0.6, steps=2, width=64, height=64).images[0]
    assert np.array_equal(pixels(content(answer.data[0].b64_json)), np.asarray(expected))


@pytest.mark.slow
def test_the_asynchronous_client_gets_the_same_pictures(server, client):
    options = {**SMALL, "seed": 8}

    async def ask() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="x") as asynchronous:
            calls = (asynchronous.images.generate(prompt=text, size=SIZE, extra_body=options) for text in ("a", "b"))
            return [content(answer.data[0].b64_json) for answer in await asyncio.gather(*calls)]

    pictures = asyncio.run(ask())
    for text, picture in zip(("a", "b"), pictures, strict=True):
        answer = client.images.generate(prompt=text, size=SIZE, extra_body=options)
        assert np.array_equal(pixels(content(answer.data[0].b64_json)), pixels(picture))


@pytest.mark.parametrize(
    ("options", "error", "field", "code"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model", "model_not_found"),
        ({"size": "100x100"}, openai.BadRequestError, None, "generation_failed"),
        ({"size": "9000x64"}, openai.BadRequestError, "width", None),
        ({"extra_body": {"sampler": "oyler"}}, openai.BadRequestError, None, None),
        ({"extra_body": {"init_image": "/etc/passwd"}}, openai.BadRequestError, "init_image", None),
        ({"extra_body": {"hat": 1}}, openai.BadRequestError, "hat", "unknown_parameter"),
        ({"output_format": "svg"}, openai.BadRequestError, "output_format", "invalid_value"),
    ],
)
def test_errors_have_openais_shape_and_name_the_field(client, options, error, field, code):
    with pytest.raises(error) as caught:
        client.images.generate(prompt="a", **options)
    body = caught.value.body
    assert body["code"] == code and (field is None or body["param"] == field)
    assert "\n" not in body["message"]


def test_a_file_that_is_no_picture_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=("a.png", b"<svg/>"), prompt="a")
    assert (caught.value.param, caught.value.code) == ("image", "invalid_image")


def test_an_error_inside_a_stream_is_raised_by_the_client(client):
    with pytest.raises(openai.APIError, match="multiple of 8"):
        [*client.images.generate(prompt="a", size="100x100", stream=True, extra_body=SMALL)]


class _Held:
    """A queue that is held up by a job that goes on until it is cancelled."""

    def __init__(self, studio: Studio):
        self.studio = studio

    def ask(self, address: str, count: int, stream: bool = False) -> threading.Thread:
        """Starts a client that asks for pictures of 1000 steps and gives up after its time."""

        def run() -> None:
            with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=1.5) as client:
                try:
                    answer = client.images.generate(
                        prompt="slow", n=count, size=SIZE, stream=stream, extra_body={"steps": 1000}
                    )
                    for _ in answer if stream else ():
                        pass
                except openai.APITimeoutError:
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait(self, states: set[str], count: int) -> None:
        """Waits until so many of the slow jobs are in one of these states."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            jobs = [job for job in self.studio.queue.listing() if job.request.prompt == "slow"]
            if sum(job.state.value in states for job in jobs) == count:
                return
            time.sleep(0.05)
        raise AssertionError([job.to_json()["state"] for job in self.studio.queue.listing()])


@pytest.mark.parametrize("stream", [False, True], ids=["waiting", "stream"])
def test_the_jobs_of_a_client_that_goes_away_are_cancelled(tmp_path: Path, stream):
    with serving(tmp_path) as (address, studio):
        held = _Held(studio)
        thread = held.ask(address, 2, stream)
        held.wait({"queued", "running"}, 2)
        thread.join()
        held.wait({"cancelled"}, 2)


@pytest.mark.slow
def test_a_full_queue_is_429_with_a_time_and_the_client_tries_again(tmp_path: Path):
    with serving(tmp_path, queue=1) as (address, studio):
        held = _Held(studio)
        first = held.ask(address, 1)
        held.wait({"running"}, 1)
        second = held.ask(address, 1)
        held.wait({"running", "queued"}, 2)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                client.images.generate(prompt="a", size=SIZE, extra_body=SMALL)
            assert caught.value.code == "queue_full"
            assert int(caught.value.response.headers["retry-after"]) >= 1
        first.join()
        second.join()
        held.wait({"cancelled"}, 2)
