"""Schedules of the user's own in JSON files: `--schedule steps.json`."""

import json
from pathlib import Path

from .core.errors import InputError
from .sampling.schedules import LISTS


def read_schedule(path: Path) -> str:
    """Reads a JSON file with timesteps or sigmas; returns "timesteps=..." or "sigmas=...", as `schedule=` takes it.

    Raises InputError where the file cannot be read or holds neither, or both.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    kinds = [kind for kind in LISTS if isinstance(content, dict) and isinstance(content.get(kind), list)]
    if len(kinds) != 1:
        raise InputError(f'{path} must hold either {{"timesteps": [...]}} or {{"sigmas": [...]}}')
    return f"{kinds[0]}={','.join(map(str, content[kinds[0]]))}"
