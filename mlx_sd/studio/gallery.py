"""The gallery: the picture files of the data folder, newest first. The files are all there is.

What is read from them is remembered in a file beside, which may be deleted at any time. Everything that reads the
folder runs in one thread of its own, which is not the one of MLX.
"""

import asyncio
import base64
import json
import os
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import InputError
from ..metadata import picture_file
from . import picture_record
from .events import Events
from .gallery_search import Search
from .picture_record import Record
from .record_store import RecordStore

T = TypeVar("T")
Key = tuple[int, str]

MOST = 200  # pictures of one answer
_FRESH = 1.0  # seconds during which a folder that looks the same is not read again
_RACY = 2_000_000_000  # nanoseconds: a change so short before a scan may not have changed the folder's time
_MOST_EVENTS = 50  # changes that are announced one by one


class Gallery:
    """The pictures directly in a folder; `find` and `path` may be called in any thread, the rest runs in its own."""

    def __init__(self, folder: Path, hidden: Path, events: Events | None = None):
        """hidden: the folder for the index. Nothing is read before `start`, or before the first use."""
        self.folder, self._events = folder, events
        self._executor = ThreadPoolExecutor(1, "gallery")
        self._store = RecordStore(hidden / "index.sqlite")
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._keys: list[Key] = []  # ascending
        self._generation = 0  # of the table; it grows with each change
        self._result: tuple[int, str, list[Key]] = (-1, "", [])  # of the last search
        self._loaded, self._scanned, self._folder_mtime = False, 0.0, 0
        self._scan_began = 0
        self._closing = threading.Event()

    def start(self) -> None:
        """Begins to read the folder, in the background."""
        self.submit(self.refresh)

    def close(self) -> None:
        """Ends the thread, after what it does at the moment."""
        self._closing.set()
        with suppress(RuntimeError):
            self._executor.submit(self._store.close)
        self._executor.shutdown(cancel_futures=False)

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Runs a function in the gallery's thread; returns its future result."""
        return self._executor.submit(function, *arguments)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function in the gallery's thread and waits for it in the event loop."""
        return await asyncio.wrap_future(self.submit(function, *arguments))

    def add(self, name: str) -> None:
        """Takes a new picture into the gallery and announces it, in the background; for any thread."""
        with suppress(RuntimeError):  # the server ends: the next start finds it
            self._executor.submit(self.update, name)

    def path(self, name: str) -> Path | None:
        """Returns the file of a picture of the gallery; None for every other text, which is not used as a path."""
        record = self.find(name)
        return None if record is None else self.folder / record.name

    def find(self, name: str) -> Record | None:
        """Returns what is known of a picture; None where there is none of this name."""
        with self._lock:
            return self._records.get(name)

    def __len__(self) -> int:
        return len(self._records)

    # ------------------------------------------------------------------------------- in the gallery's thread

    def page(self, after: str | None, limit: int, search: str) -> dict[str, Any]:
        """Returns pictures newest first, behind the place `after` of an earlier answer; InputError for another text.

        Pictures that come in between move nothing: none is listed twice and none is left out. `total` counts all that
        match; `next` is the place for the pictures that follow, None at the end.
        """
        place = None if after is None else _place(after)
        if place is None:
            self._look()
        keys = self._matching(search)
        end = len(keys) if place is None else bisect_left(keys, place)
        limit = max(1, min(limit, MOST))
        begin = max(0, end - limit)
        with self._lock:
            records = [self._records[name] for _, name in reversed(keys[begin:end]) if name in self._records]
        return {
            "pictures": [record.to_json() for record in records],
            "total": len(keys),
            "next": _text(keys[begin]) if begin else None,
        }

    def refresh(self) -> int:
        """Compares the folder with the table and reads what is new or has changed; returns the number of changes."""
        self._load()
        self._scan_began = time.time_ns()
        statuses: dict[str, os.stat_result] = {}
        with suppress(OSError), os.scandir(self.folder) as entries:
            self._folder_mtime = self.folder.stat().st_mtime_ns
            for entry in entries:
                if picture_record.is_name(entry.name):
                    with suppress(OSError):  # it has gone in between
                        statuses[entry.name] = entry.stat(follow_symlinks=False)
        files = {name: status for name, status in statuses.items() if picture_record.is_picture(status)}
        added = []
        for name, status in files.items():
            old = self._records.get(name)
            if old is None or old[1:3] != (status.st_mtime_ns, status.st_size):
                if self._closing.is_set():
                    break  # the next start goes on
                added.append(picture_record.read(self.folder, name, status))
        removed = [name for name in self._records if name not in files]
        self._change(added, removed)
        self._scanned = time.monotonic()
        return len(added) + len(removed)

    def update(self, name: str) -> Record | None:
        """Looks at one file again; returns its record, None where it is no picture any more."""
        self._load()
        old = self._records.get(name)
        try:
            status = (self.folder / name).lstat() if picture_record.is_name(name) and Path(name).name == name else None
        except OSError:
            status = None
        if status is None or not picture_record.is_picture(status):
            self._change([], [name] if old else [])
            return None
        if old is None or old[1:3] != (status.st_mtime_ns, status.st_size):
            self._change([picture_record.read(self.folder, name, status)], [])
        return self._records.get(name)

    def texts(self, name: str) -> dict[str, str]:
        """Returns the texts in a picture of the gallery; {} where they cannot be read."""
        try:
            return picture_file.read_header(self.folder / name).texts
        except InputError:
            return {}

    def _look(self) -> None:
        """Reads the folder again, unless it was read just now and has not changed since."""
        with suppress(OSError):
            mtime = self.folder.stat().st_mtime_ns
            fresh = time.monotonic() - self._scanned < _FRESH
            if self._loaded and fresh and mtime == self._folder_mtime and mtime < self._scan_began - _RACY:
                return
        self.refresh()

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            records = self._store.read()
            with self._lock:
                self._records = {record.name: record for record in records}
                self._keys = sorted(record.key for record in records)

    def _change(self, added: list[Record], removed: list[str]) -> None:
        """Puts records into the table and takes others out, remembers that and announces it."""
        if not (added or removed):
            return
        stale = {self._records[name].key for name in (*removed, *(r.name for r in added)) if name in self._records}
        with self._lock:
            for name in removed:
                del self._records[name]
            self._records.update((record.name, record) for record in added)
            if len(added) + len(stale) <= _MOST_EVENTS:
                for key in stale:
                    del self._keys[bisect_left(self._keys, key)]
                for record in added:
                    insort(self._keys, record.key)
            else:
                self._keys = sorted(record.key for record in self._records.values())
            self._generation += 1
        self._store.write(added, removed)
        if self._events is None:
            return
        if len(added) + len(removed) > _MOST_EVENTS:
            self._events.publish({"type": "gallery", "changed": len(added) + len(removed)})
            return
        for record in added:
            self._events.publish({"type": "gallery", "added": record.name})
        for name in removed:
            self._events.publish({"type": "gallery", "removed": name})

    def _matching(self, text: str) -> list[Key]:
        """Returns the places of the pictures that a search finds, ascending; the last result is kept for its pages."""
        if not text.strip():
            return self._keys
        generation, last, keys = self._result
        if (generation, last) != (self._generation, text):
            search = Search(text)
            keys = [key for key in self._keys if search.matches(self._records[key[1]])]
            self._result = (self._generation, text, keys)
        return keys


def _text(key: Key) -> str:
    """Returns a place as clients get it."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _place(text: str) -> Key:
    """Returns the place of a text that `_text` has written; InputError for any other."""
    try:
        mtime, name = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        if isinstance(mtime, int) and not isinstance(mtime, bool) and isinstance(name, str):
            return mtime, name
    except (ValueError, TypeError, RecursionError):
        pass
    raise InputError('"after" is the "next" of an earlier answer, and nothing else; leave it out for the newest')
