"""The Studio's own routes, over a real connection."""

import json
import threading
import time

import httpx
import pytest

from tests.support.studio import SMALL, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("studio"), queue=4) as server:
        yield server


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def job_of(client, id, *states, seconds=60):
    """Asks until the job is in one of the states, and returns it."""
    limit = time.monotonic() + seconds
    while (job := client.get(f"/api/jobs/{id}").json()["job"])["state"] not in states:
        assert time.monotonic() < limit, job
        time.sleep(0.01)
    return job


def submit(client, **body):
    settings = body.pop("settings", {})
    return client.post("/api/jobs", json={"request": SMALL | settings, "client": "a page"} | body)


def test_a_picture_is_asked_for_and_made(server, client):
    answer = submit(client, count=2)
    assert answer.status_code == 202
    jobs = answer.json()["jobs"]
    assert [job["request"]["seed"] for job in jobs] == [1, 2] and {job["group"] for job in jobs} == {
        answer.json()["group"]
    }
    for job in jobs:
        done = job_of(client, job["id"], "done", "failed")
        assert done["state"] == "done" and (server.studio.folder / done["target"]).stat().st_size
    listed = client.get("/api/jobs").json()["jobs"]
    assert {job["id"] for job in jobs} <= {job["id"] for job in listed}


def test_wrong_input_is_one_line_at_its_field(client):
    for body, field in (
        ({"request": {"prompt": "x", "steps": 0}}, "steps"),
        ({"request": {"prompt": "x", "model": "/etc/passwd"}}, "model"),
        ({"request": SMALL, "count": 0}, "count"),
        ({"request": "x"}, None),
        ({}, None),
    ):
        answer = client.post("/api/jobs", json=body)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["field"] == field and "\n" not in error["message"]
    for content in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
        answer = client.post("/api/jobs", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_full_queue_says_when_to_come_back(server, client):
    (blocking,) = submit(client, settings={"steps": 900}).json()["jobs"]
    job_of(client, blocking["id"], "running")
    waiting = submit(client, count=4).json()["jobs"]
    answer = submit(client)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    assert submit(client, count=5).status_code == 400  # never fits
    for job in [*waiting, blocking]:
        assert client.delete(f"/api/jobs/{job['id']}").status_code == 200
    job_of(client, blocking["id"], "cancelled")


@pytest.mark.slow
def test_waiting_jobs_are_put_into_another_order_and_taken_out(client):
    (blocking,) = submit(client, settings={"steps": 900}).json()["jobs"]
    job_of(client, blocking["id"], "running")
    ids = [job["id"] for job in submit(client, count=3).json()["jobs"]]
    assert client.post("/api/jobs/order", json={"order": ids[::-1]}).json()["order"] == ids[::-1]
    assert client.delete(f"/api/jobs/{ids[1]}").json()["job"]["state"] == "cancelled"
    assert client.get("/api/state").json()["queue"] == [ids[2], ids[0]]
    assert client.post("/api/jobs/order", json={"order": "x"}).status_code == 400
    client.delete(f"/api/jobs/{blocking['id']}")
    assert job_of(client, ids[0], "done")


def test_a_job_that_ended_is_forgotten(client):
    (job,) = submit(client).json()["jobs"]
    job_of(client, job["id"], "done")
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 200
    assert client.get(f"/api/jobs/{job['id']}").status_code == 404
    assert client.delete("/api/jobs/unknown").status_code == 404


@pytest.mark.slow
def test_events_come_as_they_happen(server, client):
    received = []

    def listen():
        with client.stream("GET", "/api/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    received.append(json.loads(line[6:]))
                    done = any(event.get("job", {}).get("state") == "done" for event in received)
                    if done and any(event["type"] == "gallery" for event in received):  # in either order
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    while not server.studio.events.listeners:
        time.sleep(0.01)
    with httpx.Client(base_url=server.address) as other:
        (job,) = submit(other, settings={"steps": 6}).json()["jobs"]
    thread.join(60)
    own = [event["job"]["state"] for event in received if event["type"] == "job" and event["job"]["id"] == job["id"]]
    assert (own[0], own[-1]) == ("queued", "done")
    assert "queue" in {event["type"] for event in received}
    limit = time.monotonic() + 20
    while server.studio.events.listeners:  # who goes is forgotten
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_request_is_checked_before_it_is_made(client):
    checked = client.post("/api/check", json={"request": SMALL | {"prompt": "a (red:1.5) tent", "steps": 9}}).json()
    assert checked["errors"] == []
    (chunk,) = checked["prompt"]["chunks"]
    assert [(token["text"], token["weight"]) for token in chunk["tokens"]] == [("a", 1), ("red", 1.5), ("tent", 1)]
    assert chunk["length"] == 3 and chunk["room"] == 75
    cost = checked["cost"]
    assert cost["evaluations"] == cost["full"] == 9 and cost["macs"] == cost["macs_plain"] and cost["share"] == 1
    assert checked["completed"]["guidance"] == 3.0
    cached = client.post("/api/check", json={"request": SMALL | {"steps": 9, "deepcache": "3"}}).json()["cost"]
    assert cached["full"] == 3 and cached["macs_plain"] == cost["macs"] and cached["share"] < 0.5
    fast = client.post("/api/check", json={"request": {"prompt": "x", "speed": "fast"}}).json()["cost"]
    assert "fewer multiplications" in fast["evidence"] and fast["share"] < 0.3


def test_all_mistakes_of_a_request_are_said_together(client):
    values = {"prompt": "a tent", "steps": 0, "model": "../x", "sampler": "nothing"}
    checked = client.post("/api/check", json={"request": values}).json()
    assert {error["field"] for error in checked["errors"]} >= {"steps", "model"}
    assert checked["prompt"]["chunks"][0]["length"] == 2 and checked["cost"] is None
    wide = client.post("/api/check", json={"request": {"prompt": "x", "width": 68}}).json()
    assert [error["field"] for error in wide["errors"]] == ["width"]


def test_the_state_describes_every_setting(client):
    state = client.get("/api/state").json()
    settings = {setting["name"]: setting for setting in state["settings"]}
    assert settings["steps"]["range"] == {
        "minimum": 1,
        "maximum": None,
        "open_minimum": False,
        "open_maximum": False,
    }
    assert settings["dtype"]["choices"] == ["float16", "bfloat16", "float32"] and "coreml" not in settings
    assert state["limits"]["queue"] == 4 and "euler" in state["samplers"] and "karras" in state["schedules"]
    assert "dndm" in state["token_samplers"] and "linear" in state["token_schedules"]
    tokens = {model["id"]: model["tokens"] for model in state["catalogue"]["models"]}
    assert (tokens["tiny"], tokens["tiny-tokens"]) == (False, True)
    assert state["presets"]["embedded"]["fast"]["evidence"]
    assert state["catalogue"]["models"][0]["id"] == "tiny" == state["default_model"]
    assert '"/' not in json.dumps(state["catalogue"])  # no paths; names of the hub have a slash inside


def test_styles_are_kept(client):
    assert client.get("/api/styles").json() == {"styles": []}
    styles = [{"name": "night", "prompt": "at night, {prompt}", "negative": ""}]
    assert client.put("/api/styles", json={"styles": styles}).json() == {"styles": styles}
    assert client.get("/api/styles").json() == {"styles": styles}
    for wrong in (None, [1], [{"name": ""}], [{"name": "a", "prompt": 1}], styles * 2, styles * 501):
        assert client.put("/api/styles", json={"styles": wrong}).status_code == 400
    assert client.get("/api/styles").json() == {"styles": styles}


def test_unknown_addresses_and_methods_are_errors_in_json(client):
    for method, path, status in (
        ("GET", "/api/nothing", 404),
        ("DELETE", "/api/jobs", 405),
        ("PUT", "/api/state", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["field"] is None


@pytest.mark.slow
def test_fifty_clients_that_go_leave_the_worker_idle(server, client):
    """A tenth of it in `make test`: event streams that are cut off, and jobs that are cancelled while they run."""
    for _ in range(5):
        with httpx.Client(base_url=server.address, timeout=60) as other:
            (job,) = submit(other, settings={"steps": 900}).json()["jobs"]
            with other.stream("GET", "/api/events") as answer:
                next(answer.iter_lines())
            job_of(other, job["id"], "running")
            other.delete(f"/api/jobs/{job['id']}")
        job_of(client, job["id"], "cancelled")
    assert server.studio.queue.running is None
