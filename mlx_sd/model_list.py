"""The models of this machine: embedded, converted into the cache, downloaded from the hub, or in a folder of models.

Configs and headers are read, no weights, and MLX is not needed.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint.network_names import IMAGE_ENCODER, IP_ADAPTER, JSON, NETWORKS, T2I_ADAPTER
from .core.embedded import EMBEDDED
from .core.errors import Failure, InputError
from .core.places import cache_folder, hub_folder, shown
from .core.suggestions import did_you_mean
from .networks.control_config import ControlConfig
from .networks.family import family_of, task_of
from .networks.unet_config import UNetConfig

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library allows
_UNKNOWN = "-"
_ABOUT = ("model.json", JSON, "model_index.json")  # the files that say what a folder holds
_NETWORKS = {"vae": "autoencoder", T2I_ADAPTER: "T2I-Adapter", IP_ADAPTER: "IP-Adapter", IMAGE_ENCODER: "image encoder"}


@dataclass(frozen=True)
class Entry:
    """One model: its name for --model, where it lies, and what its files say."""

    name: str
    place: str  # "embedded", "cache", "hub" or "folder"
    path: Path
    family: str = _UNKNOWN
    size: int = 0  # bytes on disk
    dtype: str = _UNKNOWN
    format: str = _UNKNOWN
    source: str = ""  # what it was converted from

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as a JSON object."""
        return {**self.__dict__, "path": str(self.path)}


def entries(folders: Iterable[Path] = ()) -> list[Entry]:
    """Returns all models: embedded ones, those of the cache and of the hub's, and model folders inside `folders`."""
    return [*_embedded(), *cached(), *_hub(), *(entry for folder in folders for entry in _inside(folder))]


def cached() -> list[Entry]:
    """Returns the models and the networks beside models that were converted into the cache."""
    return [_entry(path.name, "cache", path) for folder in _cache_folders() for path in _folders(folder)]


def at(path: Path) -> Entry:
    """Returns the entry of one folder, whatever it holds."""
    return _entry(str(path), "folder", path)


def remove(entry: Entry) -> None:
    """Removes a model of the cache, whole or not at all; InputError for what lies elsewhere, Failure where it stays."""
    if entry.path.is_symlink() or entry.path.resolve().parent not in [folder.resolve() for folder in _cache_folders()]:
        raise InputError(f"{shown(entry.path)} is not in the cache, {shown(cache_folder())}; remove it yourself")
    try:
        # First under a name that nothing loads, and that a later conversion sweeps away if this is interrupted.
        trash = Path(tempfile.mkdtemp(prefix=f".{entry.path.name}.", suffix=".part", dir=entry.path.parent))
        shutil.rmtree(entry.path.rename(trash / entry.path.name))
        trash.rmdir()
    except OSError as error:
        raise Failure(f"{shown(entry.path)} cannot be removed: {error.strerror}") from None


def choose(name: str) -> Entry:
    """Returns the model of the cache with this name or source; InputError says where a model of another place is."""
    models = cached()
    matches = [entry for entry in models if name in (entry.name, entry.source, str(entry.path))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"{name!r} is converted {len(matches)} times: say {' or '.join(e.name for e in matches)}")
    if name in EMBEDDED:
        raise InputError(f"{name} is a part of mlx-sd and stays; only models of the cache are removed")
    if any(name in (entry.name, str(entry.path)) for entry in _hub()):
        raise InputError(f"{name} is in the hub's cache, which other programs use too: hf cache rm model/{name}")
    if Path(name).exists():
        raise InputError(f"{name} is not in the cache, {shown(cache_folder())}; remove it yourself")
    suggestion = did_you_mean(name, [entry.name for entry in models])
    raise InputError(f"there is no model {name!r} in the cache;{suggestion} mlx-sd models lists them")


def _cache_folders() -> tuple[Path, Path]:
    """The folders of the cache: of models, and of networks beside them, such as adapters."""
    return cache_folder(), cache_folder() / NETWORKS


def _embedded() -> Iterator[Entry]:
    for name, folder in EMBEDDED.items():
        yield _entry(name, "embedded", folder)


def _hub() -> Iterator[Entry]:
    """Yields repositories of the hub's cache that hold a diffusers pipeline or a single file of weights."""
    for repository in sorted(hub_folder().glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        snapshots = sorted(repository.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
        if snapshots and (_read(snapshots[-1] / "model_index.json") or [*snapshots[-1].glob("*.safetensors")]):
            yield _entry(name, "hub", snapshots[-1])


def _inside(folder: Path) -> Iterator[Entry]:
    for path in _folders(folder):
        yield _entry(str(path), "folder", path)


def _folders(folder: Path) -> list[Path]:
    """The folders of models, of networks and of diffusers directly inside a folder; nothing where it cannot be read."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return [path for path in paths if any((path / name).is_file() for name in _ABOUT)]
    except OSError:
        return []


def _entry(name: str, place: str, path: Path) -> Entry:
    """Reads what a model's files say; what cannot be read stays unknown."""
    about = _read(path / "model.json") or _read(path / JSON)
    source = about.get("source")
    return Entry(
        name,
        place,
        path,
        family=_family(about or _of_diffusers(path)),
        size=_size(path),
        dtype=_dtype(path, about),
        format=f"mlx-sd {about.get('version', '?')}" if about else _format(path),
        source=str(source.get("model", source.get("name", ""))) if isinstance(source, dict) else "",
    )


def _of_diffusers(path: Path) -> dict[str, Any]:
    """The configs of a diffusers folder in the form of a model.json."""
    pipeline = _read(path / "model_index.json")
    if not pipeline:
        return {}
    parts = {part: path / part for part in pipeline if (path / part / "config.json").is_file()}
    networks = {part: _read(folder / "config.json") for part, folder in parts.items()}
    return {"pipeline": pipeline, "networks": {"vae" if part == "vqvae" else part: c for part, c in networks.items()}}


def _format(path: Path) -> str:
    version = _read(path / "model_index.json").get("_diffusers_version")
    return f"diffusers {version}" if version else _UNKNOWN


def _family(about: Mapping[str, Any]) -> str:
    if "part" in about:
        return _NETWORKS.get(str(about["part"]), _UNKNOWN)
    try:
        networks, pipeline = about["networks"], about["pipeline"]
        if "control" in networks:
            return f"ControlNet for {ControlConfig.from_hf(networks['control']).family.value}"
        unet = UNetConfig.from_hf(networks["unet"], "unet")
        vae = networks.get("vae") or {}
        task = task_of(unet, int(vae.get("latent_channels", unet.out_channels)))
        text = any(part.startswith("text_encoder") for part in networks)
        classes = "class_embedder" in networks or bool(networks["unet"].get("num_class_embeds"))
        score = bool(pipeline.get("requires_aesthetics_score"))
        return family_of(unet, task, text=text, classes=classes, aesthetic_score=score).value
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return _UNKNOWN


def _dtype(path: Path, about: Mapping[str, Any]) -> str:
    """The dtype of the UNet's weights, and its bits where it is quantized."""
    names = (f"{about.get('part', 'unet')}.safetensors", "unet/*.safetensors", "*.safetensors")
    file = next((file for name in names for file in sorted(path.glob(name))), None)
    header = _header(file) if file else {}
    dtypes = [_DTYPES[e["dtype"]] for e in header.values() if isinstance(e, dict) and e.get("dtype") in _DTYPES]
    dtype = max(set(dtypes), key=dtypes.count) if dtypes else _UNKNOWN
    quantization = about.get("quantization") or {}
    bits = quantization.get("unet", {}).get("bits") if isinstance(quantization.get("unet"), dict) else None
    return f"{dtype}, {bits} bits" if bits else dtype


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(length)) if length <= _LONGEST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where the file is missing or damaged: a list must not stop at one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
