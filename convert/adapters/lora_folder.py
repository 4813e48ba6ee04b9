"""The folder that LoRAs are kept in: named once, its files are then given by their names alone."""

import os
from pathlib import Path

from mlx_sd.core.errors import InputError
from mlx_sd.core.suggestions import did_you_mean

from ..files.refusals import first

VARIABLE = "MLX_SD_LORAS"
_SUFFIX = ".safetensors"


def lora_folder(option: str | os.PathLike[str] | None = None) -> Path | None:
    """Returns the folder of the option --lora-folder, or else of MLX_SD_LORAS; None where neither names one.

    Raises InputError for a folder that does not exist.
    """
    name = option or os.environ.get(VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        source = "--lora-folder" if option else VARIABLE
        raise InputError(f"{source} {folder}: {'is no folder' if folder.exists() else 'does not exist'}")
    return folder


def find(name: str, folder: Path) -> Path | None:
    """Returns the file in a folder, or below it, with this name, with or without its suffix and in any case.

    name: may begin with the folder that the file lies in. Raises InputError where several files fit.
    """
    for path in (folder / name, folder / f"{name}{_SUFFIX}"):
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            return path
    word = name.lower().removesuffix(_SUFFIX)
    matches = [path for path in _files(folder) if _name(path, folder).lower() == word or path.stem.lower() == word]
    if len(matches) > 1:
        raise InputError(
            f"LoRA {name} is there {len(matches)} times: {first([_name(path, folder) for path in matches])}"
        )
    return matches[0] if matches else None


def absent(name: str, folder: Path | None) -> InputError:
    """Returns the error for a LoRA that is neither a file nor in the folder; it names those most alike."""
    path, suffix, surplus = name.partition(_SUFFIX)
    if surplus and Path(f"{path}{suffix}").expanduser().is_file():
        return InputError(
            f"LoRA {name} does not exist, and {path}{suffix} does: --lora {path}{suffix}:SCALE, with a number behind "
            "the colon, once for each LoRA"
        )
    if folder is None:
        hint = f"; to give it by its name, say where it lies: --lora-folder DIR or {VARIABLE}"
        return InputError(f"LoRA {name} does not exist{hint if Path(name).name == name else ''}")
    names = sorted(path.stem for path in _files(folder))
    content = f"there are {first(names, 8)}" if names else "it holds no .safetensors file"
    suggestion = did_you_mean(name.removesuffix(_SUFFIX), names)
    return InputError(f"LoRA {name} does not exist, here or in {folder};{suggestion} {content}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{_SUFFIX}") if path.is_file())


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix().removesuffix(_SUFFIX)
