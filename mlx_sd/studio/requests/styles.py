"""Named styles: pieces of prompts that a user keeps, in one small JSON file."""

import json
import threading
from pathlib import Path
from typing import Any

from ...core.errors import Failure
from ...core.files import atomic_file
from .limits import LIMITS
from .submission import FieldError

_MOST = 500
_PARTS = ("name", "prompt", "negative")


class Styles:
    """The styles of one data folder, for any thread."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()

    def listing(self) -> list[dict[str, str]]:
        """Returns the styles in their order; none where the file is missing or damaged."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return _checked(values)
        except (OSError, ValueError, RecursionError):
            return []

    def replace(self, values: Any) -> None:
        """Writes the styles, in place of all that were there; FieldError where one makes no sense."""
        styles = _checked(values)
        try:
            with self._lock, atomic_file(self._path) as file:
                file.write(json.dumps(styles, ensure_ascii=False, indent=1).encode())
        except OSError as error:
            raise Failure(f"the styles cannot be written: {error.strerror}") from None


def _checked(values: Any) -> list[dict[str, str]]:
    if not isinstance(values, list) or len(values) > _MOST:
        raise FieldError(f"styles are a list of at most {_MOST} objects with {', '.join(_PARTS)}", "styles")
    styles: list[dict[str, str]] = []
    for value in values:
        if not isinstance(value, dict) or not all(isinstance(value.get(part, ""), str) for part in _PARTS):
            raise FieldError(f"a style is an object with the texts {', '.join(_PARTS)}", "styles")
        style = {part: value.get(part, "") for part in _PARTS}
        try:
            json.dumps(style, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FieldError("a style holds characters that are no Unicode text", "styles") from None
        if not style["name"].strip() or any(len(text) > LIMITS.text for text in style.values()):
            raise FieldError(f"a style has a name, and texts of at most {LIMITS.text} characters", "styles")
        styles.append(style)
    names = [style["name"] for style in styles]
    if len({*names}) < len(names):
        raise FieldError("two styles have one name; give one of them another", "styles")
    return styles
