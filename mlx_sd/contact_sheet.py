"""The contact sheet of a list of pictures: all of them in one picture, small, each with its number in the list."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from .core.files import atomic_file

MARK = "mlx-sd-contact-sheet"  # the text of a PNG that is one
_LONGEST_SIDE = 4096  # pixels of a sheet
_LARGEST_CELL, _SMALLEST_CAPTION = 256, 48  # pixels of a picture's longer side; below the second there are no numbers
_GAP, _TEXT = 4, 14  # pixels
_BACKGROUND, _INK = "white", "black"


def is_contact_sheet(path: Path) -> bool:
    """Returns whether a picture is a contact sheet that `write` wrote."""
    try:
        with Image.open(path) as image:
            return MARK in getattr(image, "text", {})
    except (OSError, SyntaxError, ValueError):
        return False


def write(path: Path, pictures: Sequence[Path]) -> None:
    """Writes the contact sheet of at least one picture: rows from left to right, about as many as columns.

    The same pictures make the same bytes. Raises OSError where one cannot be read, or the sheet not be written.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    side = min(_LARGEST_CELL, _LONGEST_SIDE // columns - _GAP)
    caption = _TEXT + _GAP if side >= _SMALLEST_CAPTION else 0
    side = max(1, min(side, _LONGEST_SIDE // rows - _GAP - caption))
    with Image.open(pictures[0]) as first:
        side = min(side, max(*first.size, _SMALLEST_CAPTION))
    width, height = side + _GAP, side + caption + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for i, picture in enumerate(pictures):
        left, top = _GAP + i % columns * width, _GAP + i // columns * height
        with Image.open(picture) as image:
            image.draft("RGB", (side, side))  # of JPEG, decoded small
            small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        if caption:
            draw.text((left + side / 2, top + side + caption / 2), str(i + 1), _INK, font, anchor="mm")
    info = PngInfo()
    info.add_text(MARK, str(len(pictures)))
    with atomic_file(path) as output:
        sheet.save(output, format="PNG", pnginfo=info)
