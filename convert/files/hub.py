"""Downloads from the Hugging Face hub, and what its cache holds when there is no connection."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from threading import Event, Thread

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

from mlx_sd.core import terminal
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.places import free_space

from . import hub_errors
from .hub_errors import UnreachableError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_TIMEOUT = 10  # seconds to wait for the hub's first answer
_INTERVAL = 0.25  # seconds between two counts of what is downloaded
DOWNLOAD = "download"  # the title of a download for an observer
_VOCABULARY, _VOCABULARY_FILES = "openai/clip-vit-large-patch14", ["vocab.json", "merges.txt"]


def is_id(model: str) -> bool:
    """Returns whether a text has the form owner/name and is no file's name."""
    return _HUB_ID.fullmatch(model) is not None and not model.endswith((".safetensors", ".ckpt", ".gguf"))


def download(repository: str, select: Callable[[list[str]], list[str]]) -> tuple[Path, list[str] | None]:
    """Downloads what `select` picks of a repository's files; returns the folder and the picked names or patterns.

    The hub's own cache is used where it holds them. Without a connection the folder is the cache's and the names are
    None. Raises InputError for a repository that is unknown or may not be read, and where there is neither connection
    nor cache; Failure where the disk is full or the download stops, which goes on when it is run again.
    """
    with _quiet():
        try:
            with hub_errors.explained(repository):
                files = _files(repository)
                selected = select(list(files))
        except UnreachableError as error:
            return _cached(repository, str(error)), None
        sizes = {}
        if isinstance(files, Mapping):
            sizes = {name: size for name, size in files.items() if any(fnmatch(name, p) for p in selected)}
            _check_space(repository, sizes)
        try:
            with hub_errors.explained(repository), _observed(repository, sizes):
                return Path(snapshot_download(repository, allow_patterns=selected)), selected
        except UnreachableError as error:
            raise Failure(
                f"the download of {repository} stopped ({error}); run the command again: what is complete is kept"
            ) from None


def vocabulary(checkpoint: str) -> Path:
    """Returns the folder of CLIP's vocabulary, one for every kind of checkpoint, which single files leave out.

    From the hub's cache, or downloaded into it. Raises InputError where there is neither cache nor connection.
    """
    reason = "it lacks them"
    for offline in (True, False):
        try:
            with _quiet(), hub_errors.explained(_VOCABULARY):
                folder = Path(
                    snapshot_download(_VOCABULARY, allow_patterns=_VOCABULARY_FILES, local_files_only=offline)
                )
        except (UnreachableError, InputError) as error:
            reason = str(error)
            continue
        if all((folder / name).is_file() for name in _VOCABULARY_FILES):
            return folder
    raise InputError(
        f"{checkpoint} has no tokenizer and the hub's {_VOCABULARY} cannot be reached ({reason}); convert it with "
        "--tokenizer FOLDER, one with vocab.json and merges.txt, such as any diffusers folder's tokenizer"
    )


def _files(repository: str) -> Mapping[str, int] | list[str]:
    """Returns the sizes of a repository's files in bytes by their names, 0 where the hub does not say."""
    info = HfApi().model_info(repository, timeout=_TIMEOUT, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def _missing(repository: str, sizes: Mapping[str, int]) -> int:
    """Returns how many bytes of a repository's files are still to be downloaded."""
    absent = [name for name in sizes if not isinstance(try_to_load_from_cache(repository, name), str)]
    return sum(sizes[name] for name in absent) - sum(_size(part) for part in _parts(repository))


def _check_space(repository: str, sizes: Mapping[str, int]) -> None:
    """Raises Failure where what is still to be downloaded does not fit on the disk."""
    home = Path(hub_errors.folder())
    missing = _missing(repository, sizes)
    free = free_space(home)
    if missing > free:
        raise Failure(
            f"{repository} takes {missing / 1e9:.1f} GB in {home}, and only {free / 1e9:.1f} GB are free there; free "
            "some space, or set HF_HOME to a folder elsewhere"
        )


@contextmanager
def _observed(repository: str, sizes: Mapping[str, int]) -> Iterator[None]:
    """Tells the observer of `terminal`, where there is one, how many bytes of the files are in the hub's cache.

    They are counted on the disk, which is the same for every version of the client and each way of its downloads.
    """
    tell = terminal.observer()
    total = sum(sizes.values())
    if tell is None or not total:
        yield
        return
    ended = Event()

    def count() -> None:
        """Counts until the download has ended."""
        while not ended.wait(_INTERVAL):
            tell(DOWNLOAD, max(0, min(total, total - _missing(repository, sizes))), total)

    tell(DOWNLOAD, max(0, total - _missing(repository, sizes)), total)
    counter = Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        ended.set()
        counter.join()
    tell(DOWNLOAD, total, total)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it has just been renamed
        return 0


def _parts(repository: str) -> list[Path]:
    """Returns the files of the hub's cache whose download was interrupted."""
    return list((_home(repository) / "blobs").glob("*.incomplete"))


def _home(repository: str) -> Path:
    return Path(hub_errors.folder(), f"models--{repository.replace('/', '--')}")


def _cached(repository: str, reason: str) -> Path:
    """Returns the cache's folder of a repository, or the InputError that says why it is needed.

    The client's own look-up refuses folders that lack files nobody wanted, and in every version the layout is this.
    """
    try:
        folder = _home(repository) / "snapshots" / (_home(repository) / "refs/main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        folder = None
    if folder is None or not folder.is_dir():
        raise InputError(
            f"{repository} is not on this machine and the hub cannot be reached ({reason}); connect once to download "
            "it, or give the path of what you have"
        )
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Shows the client's bars on a terminal alone, and none of its remarks."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    visible = terminal.visible() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if not visible:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not visible:
            enable_progress_bars()
