"""The Python client: pictures are asked for, waited for, fetched and found again; errors are the library's own."""

import threading

import numpy as np
import pytest
from PIL import Image

from mlx_sd import StableDiffusion, sheet
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.request import Request
from mlx_sd.studio import Client
from tests.studio import small_pictures as pictures
from tests.support.studio import SMALL, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with its worker; its picture folder is `server.studio.folder`."""
    with serving(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture
def client(server):
    return Client(server.address)


@pytest.mark.slow
def test_a_picture_is_asked_for_waited_for_fetched_and_found(client, server, tmp_path):
    (job,) = client.submit(SMALL)
    ended = client.wait(job["id"], 100)
    (tmp_path / "a.png").write_bytes(client.picture(ended["target"]))
    expected = StableDiffusion.load("tiny").generate(**SMALL).images[0]
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(expected)).all()
    assert ended["target"] in [picture["name"] for picture in client.gallery("tent seed:1")]
    request = client.details(ended["target"])["request"]
    (again,) = client.submit(request)
    copy = client.wait(again["id"], 100)["target"]
    assert copy != ended["target"] and client.picture(copy) == client.picture(ended["target"])


@pytest.mark.slow
def test_a_grid_becomes_one_sheet_when_its_last_picture_is_there(client, server):
    heard = []

    def listen():
        for event in client.events(100):
            heard.append(event)
            if event["type"] == "gallery" and "grid" in event.get("added", ""):
                return

    listener = threading.Thread(target=listen)
    listener.start()
    grid = {"x": {"setting": "steps", "values": [1, 2]}, "y": {"setting": "replace", "values": ["red", "blue"]}}
    jobs = client.submit({**SMALL, "seed": 3}, grid=grid)
    assert len(jobs) == 4 and len({job["group"] for job in jobs}) == 1
    targets = [client.wait(job["id"], 100)["target"] for job in jobs]
    listener.join(60)
    assert not listener.is_alive()
    (name,) = [event["added"] for event in heard if event["type"] == "gallery" and "grid" in event["added"]]
    assert sheet.is_sheet(server.studio.folder / name)
    prompts = [client.details(target)["request"]["prompt"] for target in targets]
    assert sorted(prompts) == ["a blue tent", "a blue tent", "a red tent", "a red tent"]
    assert not list((server.studio.hidden / "grids").iterdir())


@pytest.mark.parametrize(
    ("grid", "words"),
    (
        ({"x": {"setting": "stepz", "values": [1]}}, "did you mean"),
        ({"x": {"setting": "steps", "values": [1, -1]}}, "steps -1"),
        ({"x": {"setting": "replace", "values": ["house", "tree"]}}, "nothing to replace"),
        ({"x": {"setting": "steps", "values": []}}, "1 to 32 values"),
        ({"x": {"setting": "model", "values": ["/etc/passwd"]}}, "model"),
        ({"x": {"setting": "steps", "values": [1]}, "y": {"setting": "steps", "values": [2]}}, "both sides"),
        ({"z": 1}, "a grid is"),
    ),
)
def test_a_grid_that_makes_no_sense_is_one_line_and_makes_nothing(client, server, grid, words):
    before = client.state()["jobs"]
    with pytest.raises(InputError, match=words):
        client.submit(SMALL, grid=grid)
    assert client.state()["jobs"] == before


def test_a_job_is_cancelled(client):
    jobs = client.submit({**SMALL, "steps": 500}, count=2)
    for job in reversed(jobs):
        client.cancel(job["id"])
    for job in jobs:
        with pytest.raises(Failure, match="cancelled"):
            client.wait(job["id"], 100)


def test_the_gallery_goes_on_through_all_pages(client, server):
    for number in range(130):
        pictures.write(server.studio.folder / f"many-{number}.png", {"prompt": "many"})
    names = [picture["name"] for picture in client.gallery("prompt:many")]
    assert len(names) == len({*names}) == 130


@pytest.mark.parametrize(
    ("call", "error", "words"),
    (
        (lambda c: c.submit({"steps": -1}), InputError, "steps"),
        (lambda c: c.picture("none.png"), InputError, "no picture"),
        (lambda c: c.job("none"), InputError, "no such job"),
        (lambda c: Client("http://127.0.0.1:1").state(), Failure, "cannot be reached"),
        (lambda c: Client("nonsense").state(), InputError, "is no address"),
    ),
)
def test_errors_are_one_line_of_the_librarys_own(client, call, error, words):
    with pytest.raises(error, match=words) as raised:
        call(client)
    assert "\n" not in str(raised.value)


def test_the_request_that_pictures_record_is_one_of_ours(client, server):
    (job,) = client.submit({**SMALL, "seed": 11})
    request = client.details(client.wait(job["id"], 100)["target"])["request"]
    assert Request.from_json(request, "here").seed == 11
