"""What is installed: models, LoRAs and the rest, by ids that clients use. Paths stay inside the server."""

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ... import model_list
from ...checkpoint.tiny_vaes import REPOSITORIES
from ...core.embedded import CONTROLS, EMBEDDED, EMBEDDINGS, LORAS
from ...core.errors import InputError
from ...core.places import hub_folder
from ...core.suggestions import unknown
from ...networks.family import Family

_WEIGHTS = ".safetensors"
_MOST_FILES = 10_000  # of a folder of LoRAs or embeddings
_CONTROL, _ADAPTER, _IMAGE_PROMPT = "ControlNet", "T2I-Adapter", "IP-Adapter"
_VAE, _ENCODER = "autoencoder", "image encoder"
# Classes in a config.json -> what the folder is, where no model_index.json or model.json says it.
_CLASSES = {
    "ControlNetModel": _CONTROL,
    "ControlNetUnionModel": _CONTROL,
    "T2IAdapter": _ADAPTER,
    "MultiAdapter": _ADAPTER,
    "AutoencoderKL": _VAE,
    "AutoencoderTiny": _VAE,
    "CLIPVisionModelWithProjection": _ENCODER,
}
_BESIDE = (_CONTROL, _ADAPTER, _IMAGE_PROMPT, _VAE, _ENCODER)  # families that are no models


@dataclass(frozen=True)
class ModelEntry:
    """Something installed. source: what a `Request` names it by; path and source are never sent to a client."""

    id: str  # stable, and safe in URLs
    title: str
    name: str
    path: Path
    source: str
    family: str = ""
    size: int = 0  # bytes on disk
    sha256: str | None = None  # of the file that it comes from, where that is known
    removable: bool = False
    place: str = ""  # "embedded", "cache", "hub", "folder" or "file"

    @property
    def recorded(self) -> str:
        """Returns the name under which pictures record it, as the command line would."""
        return self.name if self.place == "hub" else self.source

    @property
    def tokens(self) -> bool:
        """Tells whether its pictures are tokens, which have samplers and schedules of their own."""
        return self.family == Family.TOKENS.value

    def to_json(self) -> dict[str, Any]:
        """Returns what clients are told of it."""
        names = ("id", "title", "name", "family", "size", "sha256", "removable", "place", "tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class _Scan:
    """One look at all folders."""

    networks: tuple[ModelEntry, ...]
    loras: tuple[ModelEntry, ...]
    embeddings: tuple[ModelEntry, ...]


class Catalog:
    """The table of what is installed; it is scanned at first use, and again by `rescan`. For any thread."""

    def __init__(
        self,
        model_folders: Sequence[Path] = (),
        lora_folder: Path | None = None,
        embeddings_folder: Path | None = None,
        models: Sequence[str] = (),
    ):
        """model_folders: with models in them. models: others, by paths or hub ids, as `--model` names them."""
        self._model_folders, self._models = tuple(model_folders), tuple(models)
        self.lora_folder, self.embeddings_folder = lora_folder, embeddings_folder
        self._lock = threading.Lock()
        self._scan: _Scan | None = None

    def rescan(self) -> None:
        """Looks at the folders again."""
        scan = _Scan(
            _distinct(self._networks()),
            _distinct([*_embedded(LORAS), *_files(self.lora_folder, "lora")]),
            _distinct([*_embedded(EMBEDDINGS), *_files(self.embeddings_folder, "embedding")]),
        )
        with self._lock:
            self._scan = scan

    def networks(self) -> list[ModelEntry]:
        """Returns all checkpoints, and the networks beside them."""
        return list(self._current.networks)

    def models(self) -> list[ModelEntry]:
        """Returns the checkpoints that make pictures, the embedded ones first."""
        return [entry for entry in self.networks() if not entry.family.startswith(_BESIDE)]

    def loras(self) -> list[ModelEntry]:
        """Returns the adapters of the folder of LoRAs, and below it."""
        return list(self._current.loras)

    def embeddings(self) -> list[ModelEntry]:
        """Returns the textual inversions of their folder, and below it."""
        return list(self._current.embeddings)

    def control_networks(self) -> list[ModelEntry]:
        """Returns the ControlNets that are installed."""
        return self._of_family(_CONTROL)

    def adapters(self) -> list[ModelEntry]:
        """Returns the T2I-Adapters that are installed."""
        return self._of_family(_ADAPTER)

    def image_prompts(self) -> list[ModelEntry]:
        """Returns the IP-Adapters that are installed."""
        return self._of_family(_IMAGE_PROMPT)

    def image_encoders(self) -> list[ModelEntry]:
        """Returns the image encoders of IP-Adapters."""
        return self._of_family(_ENCODER)

    def vaes(self) -> list[ModelEntry]:
        """Returns the autoencoders that can take the place of a model's own."""
        return self._of_family(_VAE)

    def upscalers(self) -> list[ModelEntry]:
        """Returns the checkpoints that enlarge pictures four times."""
        return self._of_family(Family.UPSCALER.value)

    def refiners(self) -> list[ModelEntry]:
        """Returns the checkpoints that go on where SDXL stops."""
        return self._of_family(Family.REFINER.value)

    def model(self, name: str) -> ModelEntry:
        """Returns the model with an id, a title or a name; InputError for one that is not there."""
        return chosen_entry("model", name, self.models())

    def title_of(self, source: str, noun: str = "") -> str:
        """Returns the id of what a request names by a source; a source that is gone has a name without a path."""
        scan = self._current
        for entry in (*scan.networks, *scan.loras, *scan.embeddings):
            if source in (entry.source, entry.recorded):
                return entry.id
        return Path(source).name or noun

    def recorded(self, source: str) -> str:
        """Returns the name under which pictures record a source: of a repository of the hub its id, else itself."""
        return next((entry.recorded for entry in self._current.networks if entry.source == source), source)

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """Returns all that is installed, by its kind."""
        kinds = {
            "models": self.models(),
            "loras": self.loras(),
            "embeddings": self.embeddings(),
            "control_networks": self.control_networks(),
            "adapters": self.adapters(),
            "image_prompts": self.image_prompts(),
            "image_encoders": self.image_encoders(),
            "vaes": self.vaes(),
            "upscalers": self.upscalers(),
            "refiners": self.refiners(),
        }
        return {kind: [entry.to_json() for entry in entries] for kind, entries in kinds.items()}

    @property
    def _current(self) -> _Scan:
        if self._scan is None:
            self.rescan()
        scan = self._scan
        assert scan is not None
        return scan

    def _of_family(self, family: str) -> list[ModelEntry]:
        return [entry for entry in self._current.networks if entry.family.startswith(family)]

    def _networks(self) -> Iterator[ModelEntry]:
        """Yields models and the networks beside them."""
        for entry in model_list.entries(self._model_folders):
            if entry.source not in EMBEDDED:  # converted from what is listed already
                yield _model_entry(entry)
        for control in _embedded(CONTROLS):
            yield replace(control, family=f"{_CONTROL} for {Family.SD1.value}")
        for name, repository in REPOSITORIES.items():
            path = hub_folder() / f"models--{repository.replace('/', '--')}"
            if path.is_dir():  # nothing is downloaded because a client names it
                yield ModelEntry(name, name, name, path, name, family=_VAE, place="hub")
        for folder in self._model_folders:
            yield from _files(folder, "file", below=False)
        for name in self._models:
            path = Path(name).expanduser()
            if path.is_dir():
                yield _model_entry(model_list.at(path))
            elif path.is_file():
                yield _entry(path.name.removesuffix(_WEIGHTS), path, str(path), "file")


def chosen_entry(noun: str, name: str, entries: Iterable[ModelEntry]) -> ModelEntry:
    """Returns the entry with an id, a title or a name; InputError for a name that none has, or several.

    Names are compared, and never opened as paths.
    """
    listed = list(entries)
    for attribute in ("id", "title", "name"):
        matches = [entry for entry in listed if getattr(entry, attribute) == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(
                f"{noun} {name!r} is there {len(matches)} times: {', '.join(entry.id for entry in matches)}"
            )
    if not listed:
        raise InputError(f"there is no {noun} {name[:100]!r}: none is installed")
    raise unknown(noun, name[:100], [entry.id for entry in listed])


def _model_entry(entry: model_list.Entry) -> ModelEntry:
    """Returns the entry of what `model_list` has found; hub ids name their snapshots, so that nothing is downloaded."""
    title = entry.name if entry.place != "folder" else entry.path.name
    family = entry.family
    if family == "-":
        family = _CLASSES.get(str(_json(entry.path / "config.json").get("_class_name", "")), "")
    source = entry.name if entry.place == "embedded" else str(entry.path)
    about = _json(entry.path / "model.json").get("source")
    digest = about.get("sha256") if isinstance(about, dict) else None
    return ModelEntry(
        _id(title, "" if entry.place == "embedded" else source),
        title,
        title,
        entry.path,
        source,
        family=family,
        size=entry.size,
        sha256=digest if isinstance(digest, str) else None,
        removable=entry.place == "cache",
        place=entry.place,
    )


def _files(folder: Path | None, place: str, below: bool = True) -> Iterator[ModelEntry]:
    """Yields the safetensors files of a folder, and below it; nothing where it cannot be read."""
    if folder is None:
        return
    try:
        paths = sorted(folder.rglob(f"*{_WEIGHTS}") if below else folder.glob(f"*{_WEIGHTS}"))[:_MOST_FILES]
    except OSError:
        return
    for path in paths:
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(folder).as_posix().removesuffix(_WEIGHTS)
            yield _entry(name, path, str(path), place)


def _embedded(parts: Mapping[str, Path]) -> Iterator[ModelEntry]:
    """Yields the adapters of the embedded checkpoint that are a part of this package."""
    for name, path in parts.items():
        entry = _entry(name.replace("/", "-"), path, name, "embedded")  # nobody's own file need give way to it
        yield replace(entry, id=entry.name)


def _entry(name: str, path: Path, source: str, place: str) -> ModelEntry:
    size = path.stat().st_size if path.is_file() else 0
    return ModelEntry(_id(name, source), name, name, path, source, size=size, place=place)


def _id(name: str, source: str) -> str:
    """Returns an id of letters, digits, dots, dashes and underscores; a part of a hash tells equal names apart."""
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "model"
    return f"{word}-{hashlib.sha256(source.encode()).hexdigest()[:8]}" if source else word


def _distinct(entries: Iterable[ModelEntry]) -> tuple[ModelEntry, ...]:
    """Returns the entries, of those with one source the first."""
    by_source: dict[str, ModelEntry] = {}
    for entry in entries:
        by_source.setdefault(entry.source, entry)
    return tuple(by_source.values())


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
