"""The journal: accepted jobs and their states on disk, so that a server that dies loses none of them."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from ...core.errors import Failure

VERSION = 1  # of the table; a journal of another version is set aside
KEPT_ENDED = 1000  # jobs that have ended and are still listed; older ones are forgotten

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    turn INTEGER NOT NULL,
    kind TEXT NOT NULL,
    client TEXT NOT NULL,
    grouping TEXT NOT NULL,
    keep INTEGER NOT NULL,
    target TEXT,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    field TEXT,
    created REAL NOT NULL,
    started REAL,
    ended REAL
)
"""
OPEN = ("queued", "running")  # states of jobs that have not ended


@dataclass(frozen=True)
class Entry:
    """One job as the journal has it; request: the JSON object of a `Request`."""

    id: str
    turn: int
    kind: str
    client: str
    grouping: str
    keep: bool
    target: str | None
    request: dict[str, Any]
    state: str
    error: str | None
    field: str | None
    created: float
    started: float | None
    ended: float | None


_COLUMNS = tuple(field.name for field in fields(Entry))


class Journal:
    """Jobs in an SQLite file; every method is whole on disk when it returns, and may be called from any thread."""

    def __init__(self, path: Path):
        """Opens the journal or begins a new one.

        remark: a line about a damaged file that was set aside, or None. Raises Failure where the file cannot be
        written.
        """
        self._lock = threading.Lock()
        self.path = path
        self.remark: str | None = None
        try:
            self._connection = _opened(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damaged(error):
                raise Failure(f"the journal {path} cannot be opened: {error}") from None
            aside = _set_aside(path)
            self.remark = (
                f"the journal {path.name} is damaged ({error}); it is {aside.name} now, and its jobs are forgotten"
            )
            try:
                self._connection = _opened(path)
            except sqlite3.Error as second:
                raise Failure(f"the journal {path} cannot be written: {second}") from None

    def add(self, entries: Sequence[Entry]) -> None:
        """Writes jobs, all or none."""
        row = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
        self._write(row, [_values(entry) for entry in entries])

    def update(
        self,
        id: str,
        state: str,
        *,
        error: str | None = None,
        field: str | None = None,
        started: float | None = None,
        ended: float | None = None,
        target: str | None = None,
    ) -> None:
        """Writes the state of a job; a target of None leaves the one that it has."""
        statement = "UPDATE jobs SET state=?, error=?, field=?, started=?, ended=?, target=coalesce(?, target)"
        self._write(f"{statement} WHERE id=?", [(state, error, field, started, ended, target, id)])

    def order(self, turns: Iterable[tuple[str, int]]) -> None:
        """Writes the turns of jobs, which decide their order."""
        self._write("UPDATE jobs SET turn=? WHERE id=?", [(turn, id) for id, turn in turns])

    def remove(self, ids: Iterable[str]) -> None:
        """Forgets jobs by their ids."""
        self._write("DELETE FROM jobs WHERE id=?", [(id,) for id in ids])

    def entries(self) -> list[Entry]:
        """Returns all jobs in the order of their turns; those with a request that cannot be read are left out."""
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM jobs ORDER BY turn, created, rowid"
            ).fetchall()
        entries = []
        for row in rows:
            with suppress(ValueError, TypeError):
                entries.append(_entry(row))
        return entries

    def trim(self, number: int = KEPT_ENDED) -> None:
        """Forgets all but the last `number` of the jobs that have ended."""
        places = ", ".join("?" * len(OPEN))
        ended = f"SELECT id FROM jobs WHERE state NOT IN ({places}) ORDER BY ended DESC, rowid DESC LIMIT -1 OFFSET ?"
        self._write(f"DELETE FROM jobs WHERE id IN ({ended})", [(*OPEN, number)])

    def close(self) -> None:
        """Closes the file; the journal is one file then."""
        with self._lock:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        try:
            with self._lock, self._connection:
                self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise Failure(f"the journal {self.path} cannot be written: {error}") from None


def _opened(path: Path) -> sqlite3.Connection:
    """Opens the file and checks it; DatabaseError where it is damaged or of another version."""
    connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # on disk before a job counts as accepted
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(str(verdict).splitlines()[0])
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"it is of version {version}, and this is version {VERSION}")
        with connection:
            connection.execute(_TABLE)
            connection.execute("CREATE INDEX IF NOT EXISTS by_end ON jobs (ended)")
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs LIMIT 1").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_damaged(error: sqlite3.OperationalError) -> bool:
    """Returns whether an error is about what the file holds, and not about the disk or its permissions."""
    return any(words in str(error) for words in ("no such column", "malformed", "not a database"))


def _set_aside(path: Path) -> Path:
    """Renames a damaged journal, with the files beside it, to a name that is free."""
    for number in count(1):
        aside = path.with_name(f"{path.stem}.damaged{'' if number == 1 else f'-{number}'}{path.suffix}")
        if not aside.exists():
            break
    try:
        for suffix in ("-wal", "-shm"):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        return path.rename(aside)
    except OSError as error:
        raise Failure(f"the journal {path} is damaged and cannot be renamed: {error.strerror}") from None


def _values(entry: Entry) -> tuple[Any, ...]:
    values = {name: getattr(entry, name) for name in _COLUMNS}
    return tuple((values | {"request": json.dumps(entry.request), "keep": int(entry.keep)}).values())


def _entry(row: Sequence[Any]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    request = json.loads(values["request"])
    if not isinstance(request, dict):
        raise ValueError("the request of a job is no JSON object")
    return Entry(**(values | {"request": request, "keep": bool(values["keep"])}))
