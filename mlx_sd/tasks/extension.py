"""Outpainting: how far a picture goes on beyond the sides of an image."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_EXAMPLE = "left=128,top=64"
_LARGEST = 8192


@dataclass(frozen=True)
class Extension:
    """The pixels that are added at each side of an image."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        numbers = [getattr(self, field.name) for field in fields(self)]
        if not any(numbers) or not all(isinstance(n, int) and 0 <= n <= _LARGEST for n in numbers):
            raise InputError(f"--extend adds 1 to {_LARGEST} pixels at one side or more, for example {_EXAMPLE}")

    def __str__(self) -> str:
        return ",".join(f"{field.name}={n}" for field in fields(self) if (n := getattr(self, field.name)))

    def apply(self, image: Image.Image) -> Image.Image:
        """Returns the image in mode RGBA with transparent margins."""
        from PIL import Image

        width, height = image.width + self.left + self.right, image.height + self.top + self.bottom
        extended = Image.new("RGBA", (width, height))
        extended.paste(image.convert("RGBA"), (self.left, self.top))
        return extended


def parse(value: Any) -> Extension:
    """Reads what `extend=` and `--extend` take: "left=128,top=64", a mapping of sides, or an Extension."""
    if isinstance(value, Extension):
        return value
    if isinstance(value, str):
        parts = [re.fullmatch(r"\s*(left|top|right|bottom)\s*=\s*(\d{1,5})\s*", part) for part in value.split(",")]
        sides = [part[1] for part in parts if part]
        if None in parts or len(set(sides)) < len(sides):
            raise InputError(f"--extend takes sides with pixels, for example {_EXAMPLE}, not {value!r}")
        return Extension(**{part[1]: int(part[2]) for part in parts if part})
    try:
        return Extension(**value)
    except TypeError:
        raise InputError(f"extend takes sides with pixels, for example {_EXAMPLE!r}, not {value!r}") from None
