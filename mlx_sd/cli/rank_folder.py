"""The folder of a run by several ranks: which of them see it together, and the journals of what each has made there."""

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from .. import jobs
from ..core.errors import Failure
from ..jobs import Claim
from ..ranks.exchange import Ranks

_PREFIX = ".mlx-sd-run-"
_BEGINNING = 60.0  # seconds after which a folder without ranks is of no run that begins
_PATIENCE = 2.0  # seconds in which interrupted ranks end what they write


class Group(NamedTuple):
    """Ranks that see one folder."""

    ranks: tuple[int, ...]
    locks: bool  # whether the claims of one are seen by the others, which may then make its pictures too

    @property
    def leader(self) -> int:
        """The first of them, which writes what there is one of in their folder."""
        return self.ranks[0]


class RunFolder:
    """A hidden folder among the pictures, while the run lasts: each rank holds a claim in it, and has a journal.

    All ranks make theirs together. Raises Failure where nothing can be written there.
    """

    def __init__(self, folder: Path, ranks: Ranks):
        self._new = [path for path in (folder, *folder.parents) if not path.exists()]  # before any rank makes them
        self.run = ranks.share_text(secrets.token_hex(8))
        self._rank, self._folder = ranks.rank, folder / f"{_PREFIX}{self.run}"
        self._claim: Claim | None = None
        self._journal: TextIO | None = None
        try:
            self._open(folder)
            self.groups = self._groups(ranks)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder, self._folder)
            self._claim = jobs.claim(self._seat(self._rank))
            self._journal = self._path(self._rank).open("a", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise Failure(f"{folder} cannot be written: {error.strerror}") from None

    def _groups(self, ranks: Ranks) -> list[Group]:
        """Returns all groups, in the order of their first ranks; what each rank sees is exchanged."""
        ranks.agree()
        everyone = range(ranks.size)
        visible = [rank for rank in everyone if jobs.owner_of(self._seat(rank)) is not None]
        ranks.agree()
        locks = all(jobs.is_claimed(self._seat(rank)) for rank in visible if rank != ranks.rank)
        views = [json.loads(ranks.share_text(json.dumps([visible, locks]), rank)) for rank in everyone]
        groups: dict[tuple[int, ...], bool] = {}
        for rank in everyone:
            members = tuple(other for other in views[rank][0] if rank in views[other][0])
            alike = members and all(views[other][0] == views[rank][0] for other in members)
            group = members if alike else (rank,)
            groups[group] = groups.get(group, True) and views[rank][1]
        return [Group(members, locks) for members, locks in groups.items()]

    def group_of(self, rank: int) -> Group:
        """Returns the group of a rank."""
        return next(group for group in self.groups if rank in group.ranks)

    def owner(self, rank: int) -> str:
        """Returns the text by which a claim names a rank of this run."""
        return f"{self.run} {rank}"

    def rank_of(self, owner: str | None) -> int | None:
        """Returns the rank of this run that a claim names; None of another run, or of none."""
        run, _, rank = (owner or "").partition(" ")
        return int(rank) if run == self.run and rank.isdecimal() else None

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Adds the record of a picture, by its number in the run, to this rank's journal.

        A disk that is full loses the record: the picture is there.
        """
        if self._journal is not None:
            with suppress(OSError, ValueError):
                self._journal.write(f"{json.dumps([number, record])}\n")
                self._journal.flush()

    def records(self) -> dict[int, dict[str, Any]]:
        """Returns the records of all ranks that write here, by the numbers of pictures."""
        return dict(entry for path in self._journals() for entry in _read(path))

    @property
    def present(self) -> bool:
        """Whether the folder is there still: the rank that reports removes it."""
        return self._folder.is_dir()

    def wait(self) -> None:
        """Waits a little until the other ranks that were interrupted have ended what they write."""
        others = [rank for rank in self.group_of(self._rank).ranks if rank != self._rank]
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and any(jobs.is_claimed(self._seat(rank)) for rank in others):
            time.sleep(0.05)

    def remove(self) -> None:
        """Removes the folder; the ranks that hold claims there notice nothing."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Gives this rank's claim free, and removes what is empty of the folders that this run has made."""
        if self._journal is not None:
            with suppress(OSError):
                self._journal.close()
        if self._claim is not None:
            self._claim.release()
        self._journal = self._claim = None
        for path in (self._folder, *self._new):
            with suppress(OSError):
                path.rmdir()

    def _seat(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}"

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.jsonl"

    def _journals(self) -> list[Path]:
        return sorted(self._folder.glob("rank-*.jsonl"))


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the records of a journal; a last line that a killed process has cut short is left out."""
    try:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in content.splitlines():
        with suppress(ValueError):
            number, record = json.loads(line)
            yield number, record


def _sweep(folder: Path, run: Path) -> None:
    """Removes what runs that were killed have left in a folder."""
    for path in folder.glob(f"{_PREFIX}*"):
        seats = [file.name.removeprefix(".").removesuffix(".claim") for file in path.glob(".rank-*.claim")]
        if path != run and not any(jobs.is_claimed(path / seat) for seat in seats) and (seats or _is_old(path)):
            shutil.rmtree(path, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    """Returns whether a folder is not of a run that begins just now."""
    try:
        return time.time() - folder.stat().st_mtime > _BEGINNING
    except FileNotFoundError:
        return False
