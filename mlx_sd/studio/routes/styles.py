"""The named styles, as other programs may use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..studio import Studio


def styles_of(studio: Studio) -> list[Mapping[str, Any]]:
    """Returns the named styles of the data folder, each with name, prompt and negative; none where there is no file."""
    try:
        entries = json.loads((studio.hidden / "styles.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return (
        [entry for entry in entries if isinstance(entry, dict) and "name" in entry] if isinstance(entries, list) else []
    )
