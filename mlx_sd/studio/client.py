"""A small client of a running Studio, for scripts and tests; it needs Python's own library alone.

from mlx_sd.studio import Client

client = Client("http://127.0.0.1:7860")
(job,) = client.submit({"prompt": "a red tent", "steps": 20})
Path("tent.png").write_bytes(client.picture(client.wait(job["id"])["target"]))
"""

import json
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

from ..core.errors import Failure, InputError

_ENDS = ("done", "failed", "cancelled")
_POLL = 0.25  # seconds between two looks at a job
_INPUT = (400, 404, 409, 413, 415, 422)  # codes of answers for which the request is to blame
_OPENER = build_opener(ProxyHandler({}))  # the server is on this machine or named by its address


class Client:
    """Talks to one server; InputError for what it refuses, Failure where it cannot be reached or is too busy."""

    def __init__(self, address: str = "http://127.0.0.1:7860", token: str | None = None, timeout: float = 30.0):
        """address: as the server prints it, without the part behind #, which is the token."""
        base, _, fragment = address.partition("#")
        self._base, self._timeout = base.rstrip("/"), timeout
        self._token = token or fragment.removeprefix("token=") or None

    def submit(
        self,
        request: Mapping[str, Any],
        count: int = 1,
        grid: Mapping[str, Any] | None = None,
        keep: bool = True,
    ) -> list[dict[str, Any]]:
        """Asks for pictures, and returns their jobs, which have ids.

        request: settings by the names of `Request.to_json`, with ids of the catalogue for models and LoRAs. count:
        pictures with seeds one after the other. grid: {"x": {"setting", "values"}, "y": ...}. keep: whether they are
        saved in the gallery.
        """
        body: dict[str, Any] = {"request": dict(request), "count": count, "keep": keep}
        if grid is not None:
            body["grid"] = dict(grid)
        jobs: list[dict[str, Any]] = self._json("POST", "/api/jobs", body)["jobs"]
        return jobs

    def wait(self, id: str, seconds: float | None = None) -> dict[str, Any]:
        """Waits until a job has ended, and returns it; `target` is the picture's name in the gallery.

        Raises Failure where the picture was not made, and where it takes more than so many seconds.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while (job := self.job(id))["state"] not in _ENDS:
            if end is not None and time.monotonic() >= end:
                raise Failure(f"the picture is not there after {seconds:g} seconds; the job goes on, or cancel it")
            time.sleep(_POLL)
        if job["state"] != "done":
            message = job["error"]["message"] if job["error"] else f"the job was {job['state']}"
            raise Failure(message)
        return job

    def job(self, id: str) -> dict[str, Any]:
        """Returns a job as it is now."""
        job: dict[str, Any] = self._json("GET", f"/api/jobs/{quote(id, safe='')}")["job"]
        return job

    def cancel(self, id: str) -> None:
        """Ends a job, at its next evaluation where it is being made; forgets one that has ended."""
        self._json("DELETE", f"/api/jobs/{quote(id, safe='')}")

    def picture(self, name: str) -> bytes:
        """Returns the file of a picture of the gallery."""
        with self._open("GET", f"/api/gallery/{quote(name, safe='')}/picture") as answer:
            return answer.read()

    def details(self, name: str) -> dict[str, Any]:
        """Returns all that a picture of the gallery says; its `request` can be submitted again."""
        details: dict[str, Any] = self._json("GET", f"/api/gallery/{quote(name, safe='')}")
        return details

    def gallery(self, search: str = "") -> Iterator[dict[str, Any]]:
        """Yields the pictures of the gallery, the newest first, that match a search."""
        after: str | None = None
        while True:
            query = {"search": search} | ({} if after is None else {"after": after})
            page = self._json("GET", f"/api/gallery?{urlencode(query)}")
            yield from page["pictures"]
            after = page["next"]
            if after is None:
                return

    def state(self) -> dict[str, Any]:
        """Returns what the server can do: settings, samplers, limits, and what is installed."""
        return self._json("GET", "/api/state")

    def events(self, timeout: float = 60.0) -> Iterator[dict[str, Any]]:
        """Yields what happens from now on, until the server ends; Failure after so many seconds without a word."""
        with self._open("GET", "/api/events", timeout=timeout) as answer:
            try:
                for line in answer:
                    if line.startswith(b"data:"):
                        yield json.loads(line[5:])
            except (OSError, HTTPException) as error:
                raise Failure(f"the events of {self._base} stopped: {error}") from None

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        with self._open(method, path, body) as answer:
            try:
                value = json.loads(answer.read())
            except (OSError, HTTPException, ValueError):
                value = None
        if not isinstance(value, dict):
            raise Failure(f"{self._base} does not answer as a Studio does; check the address")
        return value

    def _open(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> HTTPResponse:
        """Sends a request and returns the answer, whose body is still to be read."""
        try:
            request = Request(self._base + path, method=method)
        except ValueError:
            raise InputError(f"{self._base!r} is no address; give one such as http://127.0.0.1:7860") from None
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            answer: HTTPResponse = _OPENER.open(request, timeout=timeout or self._timeout)
        except HTTPError as error:
            with error:
                message = _message(error)
            raise (InputError if error.code in _INPUT else Failure)(message) from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Failure(f"{self._base} cannot be reached ({reason}); start it with mlx-sd studio") from None
        return answer


def _message(error: HTTPError) -> str:
    """Returns the one line of an error's answer."""
    try:
        message = json.loads(error.read())["error"]["message"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        message = None
    return message if isinstance(message, str) else f"the server answers {error.code} {error.reason}"
