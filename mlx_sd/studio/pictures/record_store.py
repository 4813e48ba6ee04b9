"""The file that remembers what was read from the pictures of a gallery; it is a cache, and may be deleted."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from .picture_record import Record

_VERSION = 1  # of what a record holds; another one is read anew
_COLUMNS = ", ".join(Record._fields)
_TABLE = f"CREATE TABLE IF NOT EXISTS pictures ({_COLUMNS}, PRIMARY KEY (name)) WITHOUT ROWID"


class RecordStore:
    """Records in an SQLite file, used by one thread. Without a file that can be written it remembers nothing."""

    def __init__(self, path: Path):
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def read(self) -> list[Record]:
        """Returns the records of the file; none where it is missing, damaged or of another version."""
        for _ in range(2):
            try:
                return self._opened()
            except sqlite3.Error:
                self.close()
                with suppress(OSError):
                    self._path.unlink()
        return []

    def write(self, added: Iterable[Record], removed: Iterable[str]) -> None:
        """Remembers records and forgets others."""
        if self._connection is None:
            return
        values = ", ".join("?" * len(Record._fields))
        try:
            with self._connection as connection:
                connection.executemany("DELETE FROM pictures WHERE name = ?", ((name,) for name in removed))
                connection.executemany(f"INSERT OR REPLACE INTO pictures VALUES ({values})", added)
        except sqlite3.Error:  # the disk is full, or the file was deleted: the next start reads the pictures again
            self.close()

    def close(self) -> None:
        """Closes the file; in the thread that has used it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> list[Record]:
        self._connection = connection = sqlite3.connect(self._path)
        connection.execute("PRAGMA synchronous = OFF")  # a cache need not survive a power cut
        with connection:
            with closing(connection.execute("PRAGMA user_version")) as rows:
                (version,) = rows.fetchone()
            if version != _VERSION:
                connection.execute("DROP TABLE IF EXISTS pictures")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute(_TABLE)
        with closing(connection.execute(f"SELECT {_COLUMNS} FROM pictures")) as rows:
            return [Record(*row) for row in rows]
