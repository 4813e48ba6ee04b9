"""The Studio's parts in one object, which routes get as `request.app.state.studio`."""

import fcntl
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Failure, InputError
from ...core.version import VERSION
from ...request import MODEL, Request
from ..jobs.events import Events
from ..jobs.job import Origin, StudioJob
from ..jobs.job_queue import BOUND, JobQueue
from ..jobs.journal import Journal
from ..models.catalog import Catalog, ModelEntry
from ..models.installation import Installer
from ..pictures.gallery import Gallery
from ..pictures.thumbnails import Thumbnails
from ..pictures.trash import Trash
from ..pictures.uploads import Uploads, used_by
from ..requests import submission
from ..requests.limits import LIMITS, Limits
from ..requests.shown import shown_request
from ..requests.styles import Styles
from .sheets import Sheets
from .worker import Worker

HIDDEN = ".studio"  # the folder in the data folder that has everything but the pictures


@dataclass(frozen=True)
class Settings:
    """How the server was started."""

    folder: Path
    queue: int = BOUND  # jobs that may wait
    model: str | None = None  # the default model: a path, a hub id or an id of the catalogue
    model_folders: tuple[Path, ...] = ()
    lora_folder: Path | None = None
    embeddings_folder: Path | None = None
    token: str | None = None  # needed by every request, where it is not None
    host: str = "127.0.0.1"  # the address that is listened on
    port: int = 0
    low_memory: bool = False  # as of `StableDiffusion.load`
    limits: Limits = LIMITS
    version: str = VERSION


class Studio:
    """Queue, worker, events, catalogue and the folder of pictures of one server."""

    def __init__(self, settings: Settings):
        """Opens the data folder; InputError where another server uses it, Failure where it cannot be written."""
        self.settings, self.folder, self.low_memory = settings, settings.folder, settings.low_memory
        self.hidden = self.folder / HIDDEN
        self._lock = _claimed(self.folder, self.hidden)
        self.events = Events()
        self.catalog = Catalog(
            settings.model_folders,
            settings.lora_folder,
            settings.embeddings_folder,
            () if settings.model is None else (settings.model,),
        )
        self.journal = Journal(self.hidden / "journal.sqlite")
        self.sheets = Sheets(self)
        self.queue = JobQueue(
            self.journal, self.events, settings.queue, name=file_name, show=self.show, ended=self.sheets.ended
        )
        self.uploads = Uploads(self.hidden / "uploads", self.uploads_in_use)
        self.gallery = Gallery(self.folder, self.hidden, self.events)
        self.thumbnails, self.trash = Thumbnails(self.hidden / "thumbnails"), Trash(self.folder)
        self.installer = Installer(self.events, self.catalog)
        self.styles = Styles(self.hidden / "styles.json")
        self.worker = Worker(self)

    @property
    def remark(self) -> str | None:
        """A line about the start that the user should see, or None."""
        return self.journal.remark

    @property
    def default_model(self) -> ModelEntry:
        """The model of requests that name none."""
        name = self.settings.model
        if name is None:
            return self.catalog.model(MODEL)
        sources = [entry for entry in self.catalog.models() if entry.source == name]
        return sources[0] if sources else self.catalog.model(name)

    def start(self) -> int:
        """Takes over the jobs of an earlier start, and starts the worker; returns how many jobs go on."""
        resumed = self.queue.restore()
        _sweep(self.folder, {job.target for job in self.queue.listing() if job.target and not job.state.is_end})
        self.worker.start()
        self.gallery.start()
        self.sheets.start()
        return resumed

    def begin_stop(self) -> None:
        """Ends what clients wait for and stops the worker at its next evaluation; returns at once."""
        self.worker.stop()
        self.installer.close()
        self.queue.close()
        self.events.close()

    def stop(self, seconds: float = 2.0) -> bool:
        """Stops the worker and closes the journal; False where the worker did not end within so many seconds."""
        self.begin_stop()
        ended = self.worker.join(seconds)
        self.installer.join(1.0)
        self.gallery.close()
        self.thumbnails.close()
        self.journal.close()
        os.close(self._lock)
        return ended

    def submit(
        self, values: Mapping[str, Any], origin: Origin, *, keep: bool, count: int = 1, group: str | None = None
    ) -> list[StudioJob]:
        """Accepts the pictures of a client's JSON object; raises FieldError, QueueFull and Failure."""
        request = submission.read_request(self, values)
        return self.queue.submit(submission.pictures(request, count), origin, keep=keep, group=group)

    def uploads_in_use(self) -> set[str]:
        """Returns the ids of the pictures that jobs still need."""
        return used_by(job.request for job in self.queue.listing() if not job.state.is_end)

    def picture(self, name: str) -> Path:
        """Returns the file of a picture that a client names, "upload:ID" or "gallery:NAME"; InputError otherwise."""
        for prefix, store in ((submission.UPLOAD, self.uploads), (submission.GALLERY, self.gallery)):
            if name.startswith(prefix) and store is not None:
                path: Path | None = store.path(name.removeprefix(prefix))
                if path is None:
                    raise InputError(f"there is no picture {name[:100]!r}; send it again")
                return path
        raise InputError(f"an image is given as upload:ID or gallery:NAME, not {name[:100]!r}")

    def picture_name(self, path: str) -> str:
        """Returns the name by which clients know a picture file of the data folder; without a path where it is none."""
        file = Path(path)
        if file.parent == self.folder:
            return f"{submission.GALLERY}{file.name}"
        if file.is_relative_to(self.hidden):
            return f"{submission.UPLOAD}{file.stem}"
        return file.name

    def show(self, request: Request) -> dict[str, Any]:
        """Returns a request as clients see it, without paths."""
        return shown_request(self, request)


def file_name(request: Request, id: str) -> str:
    """Returns the name of a new picture's file: when it was asked for, its seed, and a part of the job's id."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{request.seed}-{id[:8]}.png"


def _sweep(folder: Path, targets: set[str]) -> None:
    """Removes the temporary files that a server which was killed has left beside the pictures of its jobs."""
    for path in folder.iterdir() if targets else ():
        name, _, suffix = path.name.removeprefix(".").rpartition(".")
        if path.name.startswith(".") and suffix and name in targets:
            with suppress(OSError):
                path.unlink()


def _claimed(folder: Path, hidden: Path) -> int:
    """Makes the data folder where it is missing, and locks it for this process; returns the lock's handle."""
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        handle = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failure(f"the folder {folder} cannot be used: {error.strerror}; name another one with --folder") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"another server uses the folder {folder}; stop it, or name another folder with --folder"
        ) from None
    except OSError:  # a file system without locks
        pass
    return handle
