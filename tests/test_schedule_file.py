"""A schedule file holds timesteps or sigmas, and nothing else passes for one."""

import pytest

from mlx_sd import Request, StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.schedule_file import read_schedule


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", dtype="float32")


def test_a_schedule_file_is_the_list_it_holds(sd, tmp_path):
    file = tmp_path / "steps.json"
    file.write_text('{"timesteps": [999, 500, 20], "about": {"model": "tiny"}}')
    assert read_schedule(file) == "timesteps=999,500,20"
    request = sd.complete(Request(prompt="a tent", sampler="euler", schedule=str(file)))
    assert (request.schedule, request.steps) == ("timesteps=999,500,20", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must hold either"),
        ('{"timesteps": [9], "sigmas": [1, 0]}', "must hold either"),
        ("{", "is not JSON"),
        ('{"sigmas": [1, "x"]}', "sigmas must be numbers"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_schedule_is_refused(sd, tmp_path, content, message):
    file = tmp_path / "s.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        sd.complete(Request(prompt="a tent", sampler="euler", schedule=str(file)))
