"""What holds at every route of the table, whatever routes there are: the guard, and names that are no paths; a fuzz."""

import asyncio
import gc
import json
import logging
import os
import socket
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlx_sd import metadata
from mlx_sd.studio import making
from mlx_sd.studio.app import application
from mlx_sd.studio.guard.headers import FIXED
from mlx_sd.studio.studio import Settings, Studio
from tests.studio.asgi import HOST, ask_async
from tests.studio.hostile import picture
from tests.studio.requests import CANARY, NAMES, TRICKS, filled, shot, table

JSON = ("content-type", "application/json")
PATIENCE = 0.5  # seconds after which a client of a stream leaves


class Bench:
    """An app in this process, with an event loop that goes on from request to request."""

    def __init__(self, folder: Path, **settings):
        self.folder, self.loop = folder, asyncio.new_event_loop()
        self.studio = Studio(Settings(folder / "data", lora_folder=folder / "loras", **settings))
        self.app = application(self.studio)
        self.routes = table(self.app)

    def ask(self, method, target, headers=(), body=b"", **options):
        """Sends one request; no answer takes longer than a minute."""
        answer = ask_async(self.app, method, target, headers, body, patience=PATIENCE, **options)
        return self.loop.run_until_complete(asyncio.wait_for(answer, 60))


def instant(maker, job):
    """Takes the place of making a picture: writes a small one, with the settings of the request in it."""
    values = job.request.to_json()
    target = maker._studio.folder / (job.target or f"{job.id}.png")
    metadata.save(picture(size=(8, 8)), target, values)
    if job.keep:
        maker._studio.queue.done(job, target=target.name)
    else:
        maker._studio.queue.done(job, target.read_bytes())
        target.unlink()


@contextmanager
def working(folder: Path, monkeypatch, **settings):
    """A Studio whose worker makes pictures at once; nothing reaches another machine."""
    outside = []
    connect = socket.socket.connect

    def local(self, address):
        """Refuses what leads out of this machine, as it is without a network."""
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1")):
            outside.append(address)
            raise OSError(101, "Network is unreachable")
        return connect(self, address)

    def lookup(host, *_arguments, **_options):
        """Refuses to look names up."""
        outside.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(making.Maker, "make", instant)
    for path in ("canary.png", "data/.studio/canary.png", "loras/canary.safetensors.txt", "canary"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(CANARY)
    bench = Bench(folder, **settings)
    bench.studio.start()
    try:
        yield bench, outside
    finally:
        bench.studio.stop(60)
        bench.loop.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, working(tmp_path_factory.mktemp("all"), patch) as (bench, outside):
        yield bench
        assert outside == []


def test_the_table_has_the_routes_of_this_part(bench):
    assert {("POST", "/api/images"), ("GET", "/api/images/{id}"), ("POST", "/api/read")} <= {*bench.routes}


def kind_of(path: str) -> str:
    return "image/png" if path in ("/api/images", "/api/read") else JSON[1]


ATTACKS = {
    "DNS rebinding": (421, [], "evil.example"),
    "another origin": (403, [("origin", "http://evil.example")], HOST),
    "the null origin": (403, [("origin", "null")], HOST),
    "another site": (403, [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], HOST),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_route_answers_another_site(bench, attack):
    status, headers, host = ATTACKS[attack]
    for method, path in bench.routes:
        target = filled(path, lambda: "a")
        assert bench.ask(method, target, headers, host=host).status == status, (method, path)


def test_no_route_takes_what_a_form_of_another_site_may_send(bench):
    for method, path in bench.routes:
        if method not in ("POST", "PUT"):
            continue
        for kind in ("text/plain", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8"):
            answer = bench.ask(method, filled(path, lambda: "a"), [("content-type", kind)], b'{"request": {}}')
            assert answer.status == 415, (method, path)


def test_no_route_but_the_page_answers_without_the_token(tmp_path):
    bench = Bench(tmp_path, token="a-token-of-many-letters")
    try:
        for method, path in bench.routes:
            if not path.startswith("/page/") and path not in ("/", "/favicon.ico"):
                assert bench.ask(method, filled(path, lambda: "a")).status == 401, (method, path)
    finally:
        bench.studio.stop()
        bench.loop.close()


def checked(answer, shot):
    """Raises AssertionError where an answer is what no answer may be."""
    text = answer.body.decode("utf-8", "replace")
    assert 200 <= answer.status < 500, (answer.status, text[:300], shot)
    assert CANARY not in text and "Traceback" not in text and "root:" not in text, shot
    assert {name: answer.headers.get(name) for name in FIXED} == FIXED, shot
    assert not any(name.startswith("access-control") for name in answer.headers)
    if answer.status >= 400 and shot[0] != "HEAD":
        assert answer.headers["content-type"] == "application/json", (shot, text)
        assert isinstance(json.loads(text), dict) and "\n" not in text and len(text) < 3000, (text, shot)
    if answer.headers.get("content-type", "").startswith("image/"):
        assert answer.headers["content-type"] in ("image/png", "image/jpeg", "image/webp", "image/svg+xml")


@pytest.mark.parametrize("place", ["path", "values"])
def test_no_name_of_a_client_reaches_a_file(bench, place):
    for method, path in bench.routes:
        if place == "path" and "{" in path:
            for trick in TRICKS:
                checked(bench.ask(method, filled(path, lambda trick=trick: trick)), (method, path, trick))
        elif place == "values" and method in ("POST", "PUT") and kind_of(path) == JSON[1] and path != "/api/models":
            for i, name in enumerate(NAMES):
                keys = ("model", "init_image", "vae", "loras", "mask", "schedule", "image", "name")
                values = {keys[i % len(keys)]: name, keys[(i + 3) % len(keys)]: [name], "prompt": name, "order": [name]}
                body = json.dumps({"request": values, "client": name} | values).encode()
                checked(bench.ask(method, filled(path, lambda: "a"), [JSON], body), (method, path, name))
    canary = [path.read_text() for path in bench.folder.rglob("canary*") if path.is_file()]
    assert canary == [CANARY] * len(canary) and len(canary) == 4


class _Collector(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record):
        """Keeps what was logged, a traceback included."""
        details = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.lines.append(record.getMessage() + details)


@contextmanager
def collecting():
    """Collects warnings and errors of all loggers."""
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        yield collector.lines
    finally:
        logging.getLogger().removeHandler(collector)


def fuzzed(bench: Bench, seeds) -> dict[int, int]:
    """Sends requests that no client would send; returns how many answers had which status."""
    counts: dict[int, int] = {}
    for seed in seeds:
        jobs = [job.id for job in bench.studio.queue.listing()[-5:]]
        uploads = [path.stem for path in list((bench.folder / "data/.studio/uploads").glob("*.png"))[:5]]
        pictures = [path.name for path in list((bench.folder / "data").glob("*.png"))[:5]]
        request = shot(seed, bench.routes, [*jobs, *uploads, *pictures, "tiny"])
        if request.pattern == "/api/models" and request.method == "POST":
            continue  # asks the hub, by its own rules
        answer = bench.ask(request.method, request.target, request.headers, request.body)
        checked(answer, request)
        counts[answer.status] = counts.get(answer.status, 0) + 1
    return counts


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()]) if Path("/proc/self/fd").exists() else 0


def resident() -> int:
    """Returns the bytes of memory of this process, 0 where nothing tells them."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def test_requests_that_no_client_would_send_are_answered_in_order(bench):
    with collecting() as lines:
        counts = fuzzed(bench, range(100))
    assert lines == []
    assert {200, 400} <= counts.keys()


@pytest.mark.proof
def test_five_thousand_requests_leave_no_error_no_traceback_and_no_growth(tmp_path, monkeypatch, proof):
    count = proof.count(5000)
    with working(tmp_path, monkeypatch) as (bench, outside), collecting() as lines:
        fuzzed(bench, range(-len(bench.routes) * 20, 0))
        gc.collect()
        before = descriptors(), threading.active_count(), resident()
        counts = fuzzed(bench, range(count))
        gc.collect()
        after = descriptors(), threading.active_count(), resident()
        assert len(asyncio.all_tasks(bench.loop)) == 0
    assert lines == [] and outside == []
    assert after[0] <= before[0] + 4 and after[1] <= before[1] + 8
    growth = after[2] - before[2]
    assert growth < 64 << 20
    proof.record(
        requests=count,
        statuses={str(status): number for status, number in sorted(counts.items())},
        routes=len(bench.routes),
        growth_mb=round(growth / 2**20, 1),
        descriptors=after[0] - before[0],
    )
