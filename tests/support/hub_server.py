"""A hub on this machine: one repository behind HTTP, and everything that can go wrong with it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

COMMIT = "1" * 40
_ERRORS = {  # trouble -> status, error code
    "gated": (403, "GatedRepo"),
    "no token": (401, "GatedRepo"),
    "unknown": (404, "RepoNotFound"),
    "refused": (403, None),
    "busy": (429, None),
    "broken": (500, None),
}


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the repository owner/name; `trouble` and `file_trouble` say what goes wrong.

    trouble: of every request. file_trouble: of the downloads alone, the list of files is given.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.trouble: str | None = None
        self.file_trouble: str | None = None
        self.sizes: dict[str, int] = {}  # that are claimed
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range

    @property
    def endpoint(self) -> str:
        """The address that takes the place of huggingface.co."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients are meant to go away."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.server
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        is_file = "/resolve/" in self.path
        trouble = hub.trouble or (hub.file_trouble if is_file else None)
        if trouble in _ERRORS:
            status, code = _ERRORS[trouble]
            self._send(status, b"{}", {"X-Error-Code": code} if code else {}, body)
        elif trouble == "silent":
            threading.Event().wait(3)
            self.close_connection = True
        elif is_file:
            self._file(self.path.split("/resolve/")[1].partition("/")[2], body, trouble)
        elif "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _digest(content)[:40]}
                for name, content in hub.files.items()
            ]
            self._send(200, json.dumps(entries).encode(), {}, body)
        else:
            siblings = [
                {"rfilename": name, "size": hub.sizes.get(name, len(content)), "blobId": _digest(content)[:40]}
                for name, content in hub.files.items()
            ]
            record = {"_id": "1", "id": "owner/name", "modelId": "owner/name", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(record).encode(), {}, body)

    def _file(self, name: str, body: bool, trouble: str | None) -> None:
        content = self.server.files[name]
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{_digest(content)[:40]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        rest = content[begin:]
        if trouble == "half" and body and len(rest) > 1000:
            self._send(206 if begin else 200, rest, headers, False)
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
        else:
            self._send(206 if begin else 200, rest, headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, Any], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Runs a hub with the files of a folder while the block runs."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextmanager
def alone(folder: Path, home: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Runs a hub with the files of a folder that this process takes for the only one, without token, proxy or cache."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        patch.delenv(name, raising=False)
    constants = huggingface_hub.constants
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its tries
    with serve(folder) as running:
        patch.setattr(constants, "ENDPOINT", running.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield running
