"""Files of prompts, one a line."""

from pathlib import Path

from mlx_sd.core.errors import InputError


def read(path: Path) -> list[str]:
    """The lines that are not empty; InputError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file with one prompt a line") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8 text") from None
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{path} is empty; give one prompt a line")
    return found
