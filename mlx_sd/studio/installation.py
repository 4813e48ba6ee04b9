"""Installs models from the hub, one after the other, each in a process of its own that ends with the server."""

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import Failure, InputError
from .catalog import Catalog
from .events import Events

# The hub's own rule for the two names; nothing else is taken: no revision, no address, no path.
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"{_WORD}/{_WORD}")
_FILES = (".safetensors", ".ckpt", ".bin", ".pt", ".gguf", ".git", ".ipc")
_QUEUE = 8  # installations that may wait
_KEPT = 20  # installations that have ended and are still listed
_PATIENCE = 5.0  # seconds after which a process that does not end is killed
_INTERVAL = 0.2  # seconds between two events about the same stage
_ENDS = ("done", "failed", "cancelled")


@dataclass
class Installation:
    """One model that is being installed, or was. done and total are bytes of the stage that `state` names."""

    id: str
    hub: str
    state: str = "queued"  # "downloading", "converting", "done", "failed" or "cancelled"
    done: int = 0
    total: int = 0
    error: str | None = None
    created: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns what clients see of it."""
        return dict(self.__dict__)


def check_hub_id(text: object) -> str:
    """Returns a hub id, owner/name; InputError for every other value, addresses, revisions and paths among them."""
    valid = isinstance(text, str) and _HUB_ID.fullmatch(text) and ".." not in text and "--" not in text
    if not valid or not isinstance(text, str) or text.lower().endswith(_FILES):
        raise InputError(
            f"a model of the hub is named owner/name, without an address, a revision or a file, not {str(text)[:100]!r}"
        )
    return text


class Installer:
    """Installs what is submitted, one after the other; for any thread."""

    def __init__(self, events: Events, catalog: Catalog):
        self._events, self._catalog = events, catalog
        self._lock = threading.Lock()
        self._entries: dict[str, Installation] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, hub: object) -> Installation:
        """Queues a model by its hub id; InputError for another text, Failure where too many wait.

        A model that is queued or being installed already is not queued twice.
        """
        repository = check_hub_id(hub)
        with self._lock:
            pending = [entry for entry in self._entries.values() if entry.state not in _ENDS]
            if same := next((entry for entry in pending if entry.hub == repository), None):
                return same
            if len(pending) > _QUEUE or self._closed:
                raise Failure(f"{len(pending)} models wait to be installed already; wait for one of them")
            entry = Installation(secrets.token_hex(8), repository, created=time.time())
            self._entries[entry.id] = entry
            for old in [e.id for e in self._entries.values() if e.state in _ENDS][:-_KEPT]:
                del self._entries[old]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="installation", daemon=True)
                self._thread.start()
        self._publish(entry)
        return entry

    def listing(self) -> list[Installation]:
        """Returns the installations, the first submitted first; those that have ended stay for a while."""
        with self._lock:
            return list(self._entries.values())

    def cancel(self, id: str) -> Installation | None:
        """Ends an installation; of one that has ended it is forgotten. None where there is none of this id."""
        with self._lock:
            entry = self._entries.get(id)
            if entry is None:
                return None
            if entry.state in _ENDS:
                del self._entries[id]
                return entry
            running = entry.state != "queued"
            entry.state = "cancelled"
            process = self._process if running else None
        self._publish(entry)
        if process is not None:
            _end(process)
        return entry

    def close(self) -> None:
        """Ends the installation in work and those that wait, with the server; returns at once."""
        with self._lock:
            self._closed = True
            for entry in self._entries.values():
                if entry.state not in _ENDS:
                    entry.state = "cancelled"
            process = self._process
        if process is not None:
            _end(process)

    def join(self, seconds: float) -> None:
        """Waits for the end of the process after `close`; after so many seconds it is killed."""
        process, thread = self._process, self._thread
        if thread is not None:
            thread.join(seconds)
        if process is not None:
            process.kill()

    def _run(self) -> None:
        """Installs until nothing waits."""
        while True:
            with self._lock:
                entry = next((e for e in self._entries.values() if e.state == "queued"), None)
                if entry is None or self._closed:
                    self._thread = None
                    return
                entry.state = "downloading"
                try:
                    self._process = process = _started(entry.hub)
                except OSError as error:
                    entry.state, entry.error = "failed", f"no process can be started: {error.strerror}"
                    continue
            self._publish(entry)
            last = self._follow(entry, process)
            process.wait()
            installed = "installed" in last
            if installed:
                self._catalog.rescan()
                self._events.publish({"type": "models"})
            with self._lock:
                self._process = None
                if entry.state not in _ENDS:
                    entry.state = "done" if installed else "failed"
                    entry.error = None if installed else last.get("error") or _silent(entry, process)
            self._publish(entry)

    def _follow(self, entry: Installation, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        """Reads what a process says until it ends, and publishes it; returns its last answer."""
        last: dict[str, Any] = {}
        published = 0.0
        assert process.stdout is not None and process.stdin is not None
        with process.stdout, process.stdin:
            for line in process.stdout:
                try:
                    last = json.loads(line)
                except ValueError:
                    continue
                if "stage" not in last:
                    continue
                with self._lock:
                    if entry.state in _ENDS:
                        continue
                    changed = entry.state != last["stage"]
                    entry.state, entry.done, entry.total = last["stage"], last["done"], last["total"]
                if changed or entry.done == entry.total or time.monotonic() - published >= _INTERVAL:
                    published = time.monotonic()
                    self._publish(entry)
        return last

    def _publish(self, entry: Installation) -> None:
        self._events.publish({"type": "installation", **entry.to_json()})


def _started(repository: str) -> "subprocess.Popen[bytes]":
    """Starts the process of an installation, which finds our packages where this one did."""
    root = Path(__file__).parent.parent.parent
    places = [str(root), *(place for place in sys.path if place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", f"{__package__}.installing", repository]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=root, env=environment, start_new_session=True
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks a process to end, and kills it later where it does not."""
    with suppress(ProcessLookupError):
        process.terminate()
    timer = threading.Timer(_PATIENCE, process.kill)  # which does nothing where it has ended
    timer.daemon = True
    timer.start()


def _silent(entry: Installation, process: "subprocess.Popen[bytes]") -> str:
    """Returns the line for a process that ended without a word."""
    return (
        f"the installation of {entry.hub} ended unexpectedly (code {process.returncode}), perhaps for want of memory; "
        "nothing was installed, and a second try goes on with what is downloaded"
    )
