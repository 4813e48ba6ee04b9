"""The worker: the pictures of the command line, cancelled between two evaluations, with one model in memory."""

import asyncio
import gc
import shutil
import threading
import time
import weakref

import pytest
from PIL import Image

from mlx_sd import metadata, preview
from mlx_sd.core.embedded import TINY
from mlx_sd.studio.jobs.job import State
from mlx_sd.studio.work import worker
from tests.support.effort import slow_but
from tests.support.studio import API, PAGE, SMALL, studio


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    with studio(tmp_path_factory.mktemp("studio"), model_folders=(models,)) as server:
        yield server


def ended(server, jobs, seconds=60):
    """Waits until jobs have ended, and returns them."""
    limit = time.monotonic() + seconds
    while not all(job.state.is_end for job in jobs):
        assert time.monotonic() < limit, [job.to_json() for job in jobs]
        time.sleep(0.005)
    return jobs


def submitted(server, origin=API, keep=False, count=1, **settings):
    return server.submit(SMALL | settings, origin, keep=keep, count=count)


SAME = {
    "a seed": ({}, []),
    "a negative prompt": ({"negative": "grey", "guidance": 4.0}, ["--negative", "grey", "--guidance", "4"]),
    "weights": ({"prompt": "a (red:1.3) tent"}, None),
    "a sampler": ({"sampler": "Euler a", "schedule": "karras"}, ["--sampler", "Euler a", "--schedule", "karras"]),
    "reuse": ({"steps": 9, "deepcache": "3"}, ["--deepcache", "3"]),
    "hires": ({"hires": "2"}, ["--hires", "2"]),
}


@pytest.mark.parametrize("case", slow_but(["a seed", "reuse"], SAME))
def test_a_picture_has_the_bytes_of_the_command_lines(server, run, tmp_path, case):
    settings, flags = SAME[case]
    values = SMALL | settings
    (kept,), (sent,) = (server.submit(values, API, keep=keep) for keep in (True, False))
    code, _, error = run(
        values["prompt"],
        *("--steps", values["steps"], "--size", "64x64", "--seed", "1", "--output", "own.png"),
        *(flags or []),
    )
    assert code == 0, error
    ended(server, [kept, sent])
    assert (kept.error, sent.error) == (None, None)
    expected = (tmp_path / "own.png").read_bytes()
    assert (server.folder / kept.target).read_bytes() == expected
    assert server.queue.take_result(sent) == expected


def test_with_little_memory_a_picture_has_the_same_bytes(server, tmp_path):
    (expected,) = ended(server, submitted(server))
    with studio(tmp_path, low_memory=True) as small:
        (job,) = ended(small, submitted(small))
        assert small.queue.take_result(job) == server.queue.take_result(expected)
        networks = small.worker.call(lambda maker: maker.model(job.request)[0].model.low_memory.networks).result(60)
    assert networks == {"unet", "vae", "text_encoder"}


def test_several_pictures_have_seeds_one_after_the_other(server):
    jobs = ended(server, submitted(server, keep=True, count=3, seed=7))
    assert [metadata.read(server.folder / job.target)["seed"] for job in jobs] == [7, 8, 9]


def test_a_running_job_ends_within_one_evaluation_of_its_cancelling(server):
    (job,) = submitted(server, steps=900)
    while job.evaluation < 3:
        time.sleep(0.001)
    before = job.evaluation
    server.queue.cancel(job.id)
    ended(server, [job])
    assert job.state is State.CANCELLED and job.evaluation <= before + 2  # one in progress, one as it was counted


def test_what_is_wrong_with_a_request_is_said_at_its_field(server):
    for field, value, words in (
        ("width", 68, "width must be a positive multiple of"),
        ("tgate", 50, "the gate is at evaluation"),
        ("clip_skip", 90, "clip skip must be"),
    ):
        (job,) = ended(server, submitted(server, **{field: value}))
        assert job.state is State.FAILED and job.error.startswith(words) and "\n" not in job.error
        assert job.field in (field, None) and (job.field == field) is (field != "tgate")


def test_a_job_that_fails_does_not_end_the_worker(server):
    failing, good = submitted(server, width=68), submitted(server)
    ended(server, [*failing, *good])
    assert good[0].state is State.DONE


def test_a_name_that_is_taken_is_not_replaced(server):
    (job,) = submitted(server, keep=True, steps=20)  # still waiting or running
    (server.folder / job.target).write_bytes(b"somebody's own")
    first = job.target
    ended(server, [job])
    if job.target != first:  # the file was there before the picture
        assert metadata.read(server.folder / job.target)["steps"] == 20
        assert (server.folder / first).read_bytes() == b"somebody's own"


@pytest.mark.slow
def test_only_one_model_is_in_memory(server, tmp_path):
    models = server.settings.model_folders[0]
    shutil.copytree(TINY, models / "other")
    server.catalog.rescan()
    ended(server, submitted(server))
    first = server.worker.call(lambda maker: weakref.ref(maker._loaded[0].unet)).result(10)
    assert first() is not None
    other = next(entry.id for entry in server.catalog.models() if entry.name == "other")
    (job,) = ended(server, submitted(server, model=other))
    assert job.error is None and server.worker.model == other
    gc.collect()
    assert first() is None
    ended(server, submitted(server))
    assert server.worker.model == "tiny"


def test_what_the_worker_is_called_with_runs_in_its_thread_also_during_a_job(server):
    (job,) = submitted(server, steps=900)
    while job.evaluation < 2:
        time.sleep(0.001)
    name = server.worker.call(lambda maker: threading.current_thread().name).result(10)
    assert name == "mlx" and job.state is State.RUNNING
    server.queue.cancel(job.id)
    ended(server, [job])


def test_an_error_in_such_a_call_is_the_callers(server):
    def broken(maker):
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        server.worker.call(broken).result(10)
    assert server.worker.call(lambda maker: 3).result(10) == 3


@pytest.mark.slow
def test_previews_are_made_for_those_who_look_and_for_nobody_else(server):
    (unseen,) = ended(server, submitted(server, steps=20))
    assert unseen.preview is None

    async def watch():
        events = server.events.subscribe()
        (job,) = submitted(server, steps=30)
        await server.queue.finished(job.id)
        events.close()
        return job, [event async for event in events]

    job, events = asyncio.run(watch())
    previews = [event for event in events if event["type"] == "preview"]
    assert previews and job.preview[:2] == b"\xff\xd8"
    own = [event["job"] for event in events if event["type"] == "job" and event["job"]["id"] == job.id]
    states = [values["state"] for values in own]
    assert states[0] == "queued" and states[-1] == "done" and {*states[1:-1]} == {"running"}
    assert any(values["seconds_left"] is not None for values in own)


def test_kept_pictures_are_announced(server):
    async def watch():
        events = server.events.subscribe()
        (job,) = submitted(server, keep=True)
        await server.queue.finished(job.id)
        await server.gallery.run(int)  # its thread announces pictures one after the other
        events.close()
        return job, [event async for event in events]

    job, events = asyncio.run(watch())
    assert {"type": "gallery", "added": job.target} in events


@pytest.mark.slow
def test_at_a_stop_jobs_of_the_page_stay_and_are_made_at_the_next_start_with_the_same_bytes(tmp_path):
    with studio(tmp_path / "a") as server:
        (whole_job,) = ended(server, submitted(server, PAGE, keep=True, steps=20))
        expected = (server.folder / whole_job.target).read_bytes()
        (mine,) = submitted(server, PAGE, keep=True, steps=20)
        while mine.evaluation < 1:
            time.sleep(0.001)
        (theirs,) = submitted(server, API, steps=20)
    assert mine.state is State.QUEUED and theirs.state is State.FAILED
    assert [path.name for path in (tmp_path / "a").glob("*.png")] == [whole_job.target]
    with studio(tmp_path / "a") as server:
        (again,) = ended(server, [server.queue.get(mine.id)])
        assert again.error is None and (server.folder / mine.target).read_bytes() == expected
        assert server.queue.get(theirs.id).state is State.FAILED


def test_a_picture_that_was_saved_before_the_server_died_is_not_made_again(tmp_path):
    with studio(tmp_path / "a") as server:
        (job,) = ended(server, submitted(server, PAGE, keep=True))
        file = server.folder / job.target
        before = file.stat().st_mtime_ns
        server.journal._write("UPDATE jobs SET state='running', ended=NULL", [()])
    with studio(tmp_path / "a") as server:
        (again,) = ended(server, [server.queue.get(job.id)])
        assert again.state is State.DONE and again.evaluations == 0 and file.stat().st_mtime_ns == before


def test_a_damaged_picture_is_made_again_beside_it(tmp_path):
    with studio(tmp_path / "a") as server:
        (job,) = ended(server, submitted(server, PAGE, keep=True))
        file = server.folder / job.target
        content = file.read_bytes()
        file.write_bytes(content[: len(content) - 60])
        server.journal._write("UPDATE jobs SET state='running', ended=NULL", [()])
    with studio(tmp_path / "a") as server:
        (again,) = ended(server, [server.queue.get(job.id)])
        assert again.state is State.DONE and again.target != job.target
        with Image.open(server.folder / again.target) as image:
            image.load()


def test_what_a_killed_server_was_writing_is_removed_at_the_next_start(tmp_path):
    with studio(tmp_path / "a") as server:
        (job,) = submitted(server, PAGE, keep=True, steps=200)
        while job.evaluation < 1:
            time.sleep(0.001)
    left, foreign = tmp_path / "a" / f".{job.target}.abcd1234", tmp_path / "a" / ".other.png.abcd1234"
    for file in (left, foreign):
        file.write_bytes(b"half")
    with studio(tmp_path / "a") as server:
        assert not left.exists() and foreign.exists()
        server.queue.cancel(job.id)


def test_the_network_of_previews_is_fitted_after_a_picture_and_makes_way_for_the_next_job(tmp_path, monkeypatch):
    begun, answered = threading.Event(), []

    def slow_fit(sd, check):
        begun.set()
        while True:  # until `check` raises
            check()
            time.sleep(0.001)

    monkeypatch.setattr(preview, "cached_network", lambda sd: None)
    monkeypatch.setattr(preview, "network_of", slow_fit)
    monkeypatch.setattr(worker, "_PAUSE", 0.05)
    with studio(tmp_path / "a") as server:
        server.worker.call(lambda maker: None).result(60)
        time.sleep(0.3)
        assert not begun.is_set()  # not before the first picture
        ended(server, submitted(server))
        assert begun.wait(10)
        answered.append(server.worker.call(lambda maker: 3).result(10))  # during the fit
        (job,) = ended(server, submitted(server))
        assert job.state is State.DONE and answered == [3]
