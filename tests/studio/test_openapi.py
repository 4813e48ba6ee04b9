"""openapi.json says what the routes are: all of them and no more, and their real answers are of its schemas."""

import json
from pathlib import Path

import jsonschema_rs as jsonschema
import pytest

import mlx_sd.studio
from mlx_sd.studio.jobs.job import PAGE, Origin
from mlx_sd.studio.server.app import routes
from tests.studio import small_pictures as pictures
from tests.studio.galleries import Caller, studio

FILE = Path(mlx_sd.studio.__file__).parent / "openapi.json"
DOCUMENT = json.loads(FILE.read_text(encoding="utf-8"))
METHODS = ("get", "post", "put", "delete")
STYLE = {"name": "oil", "prompt": "oil painting", "negative": ""}


def described():
    """Each operation: its path and method."""
    return {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}


def test_the_description_has_every_route_and_no_other():
    table = {
        (route.path, method.lower())
        for route in routes()
        if route.path.startswith("/api/")
        for method in route.methods
        if method != "HEAD"
    }
    assert described() == table


def test_every_parameter_of_a_path_is_described_and_every_reference_is_there():
    names = set()
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert method in METHODS and operation["operationId"] not in names
            names.add(operation["operationId"])
            inside = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert inside == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path

    def references(value):
        if isinstance(value, dict):
            yield from (v for k, v in value.items() if k == "$ref")
            yield from (r for inner in value.values() for r in references(inner))
        elif isinstance(value, list):
            yield from (r for inner in value for r in references(inner))

    for reference in references(DOCUMENT):
        place = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def validator(schema):
    """A validator of a schema that may refer to the others."""
    resolved = json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
    definitions = json.loads(json.dumps(DOCUMENT["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/"))
    return jsonschema.Draft202012Validator({**resolved, "$defs": definitions})


def check(path, method, answer):
    """Checks a real answer: its status is described, and its body of the type and the schema."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    response = responses.get(str(answer.status_code), responses["default"])
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
        assert answer.status_code >= 400
    if answer.status_code == 304:
        return
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"], (path, method, answer.status_code, kind)
    if kind == "application/json":
        validator(response["content"][kind]["schema"]).validate(answer.json())


@pytest.fixture
def opened(tmp_path):
    with studio(tmp_path) as running:
        yield running


def test_real_answers_are_as_described(opened, tmp_path):
    """One call of every operation that needs no worker, and its mistakes."""
    pictures.write(tmp_path / "a.png", {"prompt": "a tent", "seed": 1, "model": "/models/gone"})
    pictures.write(tmp_path / "b.png", {"prompt": "a tent", "seed": 2})
    call = Caller(opened)
    request = {"prompt": "a red tent", "steps": 2, "width": 64, "height": 64}
    origin = Origin(PAGE, "me")
    job = opened.submit(request, origin, keep=True)[0].id
    png = {"Content-Type": "image/png"}
    tag = call("GET", "/api/gallery/a.png/picture") if call("GET", "/api/gallery").status_code == 200 else None
    calls = [
        ("get", "/api/state", "/api/state", {}, 200),
        ("get", "/api/openapi.json", "/api/openapi.json", {}, 200),
        ("get", "/api/jobs", "/api/jobs", {}, 200),
        ("post", "/api/jobs", "/api/jobs", {"json": {"request": request, "count": 2, "client": "me"}}, 202),
        ("post", "/api/jobs", "/api/jobs", {"json": {"request": {**request, "steps": -1}}}, 400),
        ("post", "/api/jobs", "/api/jobs", {"json": {"request": request, "count": 40}}, 400),
        ("post", "/api/jobs", "/api/jobs", {"json": {"request": request, "count": 31}}, 429),
        ("post", "/api/jobs", "/api/jobs", {"json": {"request": request, "grid": {"x": 1}}}, 400),
        (
            *("post", "/api/jobs", "/api/jobs"),
            {"json": {"request": request, "grid": {"x": {"setting": "steps", "values": [1, 2]}}}},
            202,
        ),
        ("post", "/api/jobs/order", "/api/jobs/order", {"json": {"order": [job]}}, 200),
        ("post", "/api/jobs/order", "/api/jobs/order", {"json": {"order": 1}}, 400),
        ("get", "/api/jobs/{id}", f"/api/jobs/{job}", {}, 200),
        ("delete", "/api/jobs/{id}", f"/api/jobs/{job}", {}, 200),
        ("get", "/api/jobs/{id}", "/api/jobs/none", {}, 404),
        ("post", "/api/check", "/api/check", {"json": {"request": {**request, "steps": -1}}}, 200),
        ("post", "/api/check", "/api/check", {"json": {}}, 400),
        ("get", "/api/styles", "/api/styles", {}, 200),
        ("put", "/api/styles", "/api/styles", {"json": {"styles": [STYLE]}}, 200),
        ("put", "/api/styles", "/api/styles", {"json": {"styles": [1]}}, 400),
        ("post", "/api/read", "/api/read", {"body": (tmp_path / "b.png").read_bytes(), "headers": png}, 200),
        ("post", "/api/read", "/api/read", {"body": b"x", "headers": png}, 400),
        ("get", "/api/images/{id}", "/api/images/none", {}, 404),
        ("get", "/api/gallery", "/api/gallery?limit=1&search=tent", {}, 200),
        ("get", "/api/gallery", "/api/gallery?limit=0", {}, 400),
        ("get", "/api/gallery/compare", "/api/gallery/compare?a=a.png&b=b.png", {}, 200),
        ("get", "/api/gallery/compare", "/api/gallery/compare", {}, 404),
        ("get", "/api/gallery/{name}", "/api/gallery/a.png", {}, 200),
        ("get", "/api/gallery/{name}/picture", "/api/gallery/a.png/picture", {}, 200),
        (
            *("get", "/api/gallery/{name}/picture", "/api/gallery/a.png/picture"),
            {"headers": {"If-None-Match": tag.headers["etag"]}},
            304,
        ),
        ("get", "/api/gallery/{name}/thumbnail", "/api/gallery/a.png/thumbnail", {}, 200),
        ("delete", "/api/gallery/{name}", "/api/gallery/a.png", {}, 200),
        ("delete", "/api/gallery/{name}", "/api/gallery/a.png", {}, 404),
        ("get", "/api/trash", "/api/trash", {}, 200),
        ("get", "/api/trash/{name}/thumbnail", "/api/trash/a.png/thumbnail", {}, 200),
        ("post", "/api/trash/{name}", "/api/trash/a.png", {}, 200),
        ("post", "/api/trash/{name}", "/api/trash/a.png", {}, 404),
        ("delete", "/api/trash", "/api/trash", {}, 200),
        ("get", "/api/models", "/api/models", {}, 200),
        ("post", "/api/models", "/api/models", {"json": {"hub": "../x"}}, 400),
        ("post", "/api/models/rescan", "/api/models/rescan", {}, 200),
        ("delete", "/api/models/{id}", "/api/models/none", {}, 404),
        ("delete", "/api/models/{id}", "/api/models/tiny", {}, 400),
        ("delete", "/api/installations/{id}", "/api/installations/none", {}, 404),
    ]
    for method, path, target, content, status in calls:
        answer = call(method.upper(), target, **content)
        assert answer.status_code == status, (method, target, answer.status_code, answer.text[:200])
        check(path, method, answer)
    untested = {("/api/events", "get"), ("/api/images", "post")}  # a stream; and what decodes pictures
    assert {(path, method) for method, path, *_ in calls} | untested == described()


def test_every_event_is_as_described(opened, tmp_path):
    """Those that need no worker; the others' shapes are checked where they are made."""
    events = []
    opened.events.publish = events.append
    opened.submit({"prompt": "x"}, Origin(PAGE, "me"), keep=True)
    opened.queue.remove(opened.queue.order[0])
    opened.queue.remove(opened.queue.listing()[0].id)
    for number in range(60):
        pictures.write(tmp_path / f"{number}.png")
    opened.gallery.submit(opened.gallery.refresh).result(20)
    opened.gallery.submit(opened.gallery.update, "0.png").result(20)
    (tmp_path / "0.png").unlink()
    pictures.write(tmp_path / "new.png")
    opened.gallery.submit(opened.gallery.refresh).result(20)
    Caller(opened)("POST", "/api/models/rescan")
    opened.installer._run = lambda: None
    opened.installer.submit("owner/name")
    shape = validator(DOCUMENT["components"]["schemas"]["Event"])
    for event in events:
        shape.validate(event)
    assert {event["type"] for event in events} == {"job", "queue", "gallery", "models", "installation"}
    assert {key for event in events if event["type"] == "gallery" for key in event} >= {"added", "removed", "changed"}
    assert not shape.is_valid({"type": "gallery"}) and not shape.is_valid({"type": "job", "job": {}})
