"""Bodies are bounded in size, time and number; answers have their headers; errors that nobody named are one line."""

import asyncio
import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.studio.guard import Guard, Policy, problems
from mlx_sd.studio.guard.headers import FIXED
from tests.studio.asgi import HOST, ask, ask_async, scope_of

JSON = {"content-type": "application/json"}
CHUNKED = {**JSON, "transfer-encoding": "chunked"}


class FieldError(InputError):
    """An error at a field, as `mlx_sd.studio.requests.submission` has it."""

    field = "width"


class QueueFull(Failure):
    """An error that says when to try again, as the queue has it."""

    retry_after = 7


async def count(request: Request) -> Response:
    return JSONResponse({"size": len(await request.body())})


async def fail(request: Request) -> Response:
    errors = {
        "http": HTTPException(404),
        "input": InputError("the width\nis wrong"),
        "field": FieldError("width must be 8"),
        "full": QueueFull("32 jobs wait"),
        "failure": Failure("the disk is full"),
        "key": KeyError("secret"),
        "recursion": RecursionError("too deep"),
        "memory": MemoryError(),
    }
    raise errors[request.path_params["kind"]]


async def break_off(request: Request) -> Response:
    async def pieces():
        yield b"one"
        raise ValueError("two")

    return StreamingResponse(pieces())


async def shared(request: Request) -> Response:
    headers = {"access-control-allow-origin": "*", "set-cookie": "a=b", "server": "x", "content-security-policy": "x"}
    return Response("x", headers=headers)


async def stored(request: Request) -> Response:
    return Response("x", headers={"cache-control": "private, max-age=60"})


def guarded(**policy):
    routes = [
        *(Route(path, count, methods=["POST"]) for path in ("/api/jobs", "/api/images", "/v1/images/generations")),
        *(Route(f"{prefix}/fail/{{kind}}", fail) for prefix in ("/api", "/v1", "/sdapi/v1")),
        Route("/api/break", break_off),
        Route("/api/shared", shared),
        Route("/api/stored", stored),
        Route("/", shared),
    ]
    guard = Middleware(Guard, policy=Policy(**policy))
    return Starlette(routes=routes, middleware=[guard], exception_handlers=problems.handlers())


@pytest.mark.slow
@pytest.mark.parametrize("path, limit", [("/api/jobs", 1 << 20), ("/v1/images/generations", 48 << 20)])
def test_a_body_without_a_length_is_read_to_its_limit_and_no_further(path, limit):
    pieces = [bytes(1 << 18)] * (limit >> 18)
    fits = ask(guarded(), "POST", path, CHUNKED, pieces)
    assert (fits.status, json.loads(fits.body)) == (200, {"size": limit})
    assert ask(guarded(), "POST", path, CHUNKED, [*pieces, b"x"]).status == 413


@pytest.mark.slow
def test_a_body_that_is_longer_than_it_says_is_counted():
    answer = ask(guarded(), "POST", "/api/jobs", {**JSON, "content-length": "10"}, [bytes(1 << 20), b"x"])
    assert answer.status == 413 and "1 MiB" in json.dumps(json.loads(answer.body))


@pytest.mark.parametrize("policy", [{"idle_seconds": 0.05}, {"body_seconds": 0.05}])
def test_a_body_that_does_not_come_is_not_waited_for(policy):
    async def stalled():
        app = guarded(**policy)
        sent = []

        async def receive():
            """Never gives anything."""
            await asyncio.Event().wait()

        async def send(message):
            """Notes the answer."""
            sent.append(message)

        scope = scope_of("POST", "/api/jobs", {"host": HOST, **JSON, "content-length": "9"}.items())
        await asyncio.wait_for(app(scope, receive, send), 5)
        return sent

    messages = asyncio.run(stalled())
    assert messages[0]["status"] == 408
    assert (b"connection", b"close") in messages[0]["headers"]


@pytest.mark.slow
def test_drops_that_come_in_time_do_not_outlast_the_deadline_of_the_whole_body():
    async def dripping():
        app, statuses = guarded(body_seconds=0.2, idle_seconds=0.1), []

        async def receive():
            """Gives a byte at a time, without an end."""
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message):
            """Notes the status."""
            statuses.append(message.get("status"))

        scope = scope_of("POST", "/api/jobs", {"host": HOST, **JSON, "content-length": "99"}.items())
        await asyncio.wait_for(app(scope, receive, send), 5)
        return statuses[0]

    assert asyncio.run(dripping()) == 408


def test_all_bodies_together_are_bounded_and_those_that_have_come_do_not_count():
    async def together():
        app = guarded(bytes_in_flight=1 << 20)
        half = [bytes(600 << 10)]
        first = await ask_async(app, "POST", "/api/images", {"content-type": "image/png"}, half)
        second = await ask_async(app, "POST", "/api/images", {"content-type": "image/png"}, half)
        too_much = await ask_async(app, "POST", "/api/images", {"content-type": "image/png"}, [*half, *half, b"x"])
        third = await ask_async(app, "POST", "/api/images", {"content-type": "image/png"}, half)
        return [answer.status for answer in (first, second, too_much, third)], too_much.headers

    statuses, headers = asyncio.run(together())
    assert statuses == [200, 200, 503, 200] and headers["retry-after"] == "2"


@pytest.mark.parametrize(
    "kind, status, message, field",
    [
        ("http", 404, "there is nothing at this path", None),
        ("input", 400, "the width is wrong", None),
        ("field", 400, "width must be 8", "width"),
        ("full", 429, "32 jobs wait", None),
        ("failure", 503, "the disk is full", None),
    ],
)
def test_errors_of_ours_have_the_shape_of_their_api(kind, status, message, field, caplog):
    own, openai, a1111 = (ask(guarded(), "GET", f"{api}/fail/{kind}") for api in ("/api", "/v1", "/sdapi/v1"))
    assert {answer.status for answer in (own, openai, a1111)} == {status}
    assert json.loads(own.body) == {"error": {"message": message, "field": field}}
    error = json.loads(openai.body)["error"]
    assert (error["message"], error["param"]) == (message, field) and error.keys() == {
        "message",
        "type",
        "param",
        "code",
    }
    assert json.loads(a1111.body)["detail"] == message
    assert (own.headers.get("retry-after") == "7") == (kind == "full")
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["key", "recursion", "memory"])
def test_an_error_that_nobody_named_is_one_line_in_the_answer_and_in_the_log(kind, caplog):
    caplog.set_level(logging.INFO)
    answer = ask(guarded(), "GET", f"/api/fail/{kind}")
    assert answer.status == 500
    assert b"Traceback" not in answer.body and b"secret" not in answer.body and b"\n" not in answer.body
    (record,) = caplog.records
    assert record.exc_info is None and "\n" not in record.getMessage()
    assert f"/api/fail/{kind}" in record.getMessage() and "test_guard_bodies.py" in record.getMessage()


def test_an_error_in_the_middle_of_an_answer_ends_it_with_one_line(caplog):
    answer = ask(guarded(), "GET", "/api/break")
    assert (answer.status, answer.body) == (200, b"one")
    (record,) = caplog.records
    assert record.exc_info is None and "ValueError: two" in record.getMessage()


def test_a_request_that_the_server_cuts_off_leaves_no_traceback(caplog):
    async def cut():
        async def wait(scope, receive, send):
            """Answers never."""
            await asyncio.Event().wait()

        task = asyncio.ensure_future(ask_async(Guard(wait, Policy())))
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    assert asyncio.run(cut()).status == 0
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "target, status", [("/api/shared", 200), ("/", 200), ("/api/nothing", 404), ("/api/fail/key", 500)]
)
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers_that_bound_a_browser(target, status, host):
    answer = ask(guarded(), "GET", target, host=host)
    assert answer.status == (status if host == "localhost" else 421)
    assert {name: answer.headers[name] for name in FIXED} == FIXED
    assert answer.headers["x-content-type-options"] == "nosniff"
    for word in ("frame-ancestors 'none'", "object-src 'none'", "default-src 'self'", "base-uri 'none'"):
        assert word in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert not answer.headers.keys() & {"server", "set-cookie"}
    assert answer.headers["cache-control"] == ("no-cache" if target == "/" else "no-store")


def test_a_route_may_allow_that_its_answer_is_stored():
    assert ask(guarded(), "GET", "/api/stored").headers["cache-control"] == "private, max-age=60"


def test_a_method_that_a_path_does_not_take_is_405_in_one_line():
    answer = ask(guarded(), "DELETE", "/api/jobs")
    assert (answer.status, answer.message) == (405, "this path does not take this method")


def test_a_refused_head_has_no_body():
    answer = ask(guarded(), "HEAD", "/api/jobs", host="evil.example")
    assert (answer.status, answer.body) == (421, b"")


def test_a_websocket_is_closed():
    async def closing():
        sent = []

        async def send(message):
            """Notes what is sent."""
            sent.append(message)

        await guarded()({"type": "websocket", "path": "/", "headers": []}, None, send)
        return sent

    assert asyncio.run(closing()) == [{"type": "websocket.close", "code": 1008}]


def test_a_client_that_leaves_is_seen_behind_the_guard():
    """`Request.is_disconnected` cancels what it waits for at once, which a waiting time around it would hide."""

    async def leaving():
        states = []

        async def app(scope, receive, send):
            """Reads the body, and then looks whether the client is still there."""
            request = Request(scope, receive)
            await request.body()
            states.append(await request.is_disconnected())
            left.set()
            states.append(await request.is_disconnected())
            await Response("x")(scope, receive, send)

        messages, left = [{"type": "http.request", "body": b"{}", "more_body": False}], asyncio.Event()

        async def receive():
            """Gives the body, then that the client has left."""
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            """Takes the answer."""

        scope = scope_of("POST", "/api/jobs", {"host": HOST, **JSON, "content-length": "2"}.items())
        await Guard(app, Policy())(scope, receive, send)
        return states

    assert asyncio.run(leaving()) == [False, True]
