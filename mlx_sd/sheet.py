"""The sheet of a grid: pictures in rows and columns, with labels."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from .core.files import atomic_file
from .grid import Axis

MARK = "mlx-sd-grid"  # the text of a PNG that is a sheet
_LONGEST_SIDE = 16_384  # pixels of a sheet; larger ones show their pictures smaller
_GAP, _MARGIN, _TEXT = 4, 8, 18  # pixels
_BACKGROUND, _INK, _MISSING = "white", "black", "lightgray"


def is_sheet(path: Path) -> bool:
    """Returns whether a picture is a sheet that `write` wrote."""
    try:
        with Image.open(path) as image:
            return MARK in getattr(image, "text", {})
    except (OSError, SyntaxError, ValueError):
        return False


def write(path: Path, axes: Sequence[Axis], pictures: Mapping[tuple[int, ...], Path]) -> list[tuple[int, ...]]:
    """Writes the sheet of pictures by their places along the axes; returns the places of those that are missing."""
    images: dict[tuple[int, ...], Image.Image] = {}
    missing = []
    for places, file in pictures.items():
        try:
            with Image.open(file) as image:
                images[places] = image.convert("RGB")
        except OSError:
            missing.append(places)
    sheet = compose(axes, images)
    info = PngInfo()
    info.add_itxt(MARK, json.dumps({axis.name: list(axis.texts) for axis in axes}, ensure_ascii=False))
    with atomic_file(path) as output:
        sheet.save(output, format="PNG", pnginfo=info)
    return missing


def compose(axes: Sequence[Axis], images: Mapping[tuple[int, ...], Image.Image]) -> Image.Image:
    """Returns the sheet: the first axis across, the second down, a block below for each combination of the others."""
    font = ImageFont.load_default(_TEXT)
    across, down, others = axes[0], axes[1] if len(axes) > 1 else None, axes[2:]
    rows = down.texts if down else ("",)
    blocks = list(product(*(range(len(axis.texts)) for axis in others)))
    left = max((_width(font, _label(down, i)) for i in range(len(rows))), default=0) + _MARGIN if down else _MARGIN
    header = _TEXT + 2 * _MARGIN
    cell_width, cell_height = _cell(images, len(across.texts), len(rows) * len(blocks))
    cell_width = max(cell_width, max(_width(font, _label(across, i)) for i in range(len(across.texts))))
    block_height = header + len(rows) * (cell_height + _GAP) + (header if others else 0)
    size = left + len(across.texts) * (cell_width + _GAP) + _MARGIN, len(blocks) * block_height + _MARGIN
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for b, block in enumerate(blocks):
        top = b * block_height
        if others:
            title = ", ".join(_label(axis, i) for axis, i in zip(others, block, strict=True))
            draw.text((_MARGIN, top + _MARGIN), title, _INK, font)
            top += header
        for i in range(len(across.texts)):
            x = left + i * (cell_width + _GAP)
            draw.text((x + cell_width / 2, top + header / 2), _label(across, i), _INK, font, anchor="mm")
            for j in range(len(rows)):
                y = top + header + j * (cell_height + _GAP)
                if down and i == 0:
                    draw.text((_MARGIN, y + cell_height / 2), _label(down, j), _INK, font, anchor="lm")
                image = images.get((i, *((j,) if down else ()), *block))
                if image is None:
                    draw.rectangle((x, y, x + cell_width, y + cell_height), _MISSING)
                    continue
                shown = _fitted(image, cell_width, cell_height)
                offset = (cell_width - shown.width) // 2, (cell_height - shown.height) // 2
                sheet.paste(shown, (x + offset[0], y + offset[1]))
    return sheet


def _cell(images: Mapping[tuple[int, ...], Image.Image], columns: int, rows: int) -> tuple[int, int]:
    """Returns the size of a cell: that of the largest picture, or less where the sheet would be too large."""
    width = max((image.width for image in images.values()), default=64)
    height = max((image.height for image in images.values()), default=64)
    scale = min(1.0, _LONGEST_SIDE / (columns * width), _LONGEST_SIDE / (rows * height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / image.width, height / image.height, 1.0)
    if scale == 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _label(axis: Axis | None, place: int) -> str:
    if axis is None:
        return ""
    text = axis.texts[place]
    return text if axis.field is None else f"{axis.name} {text[:60]}"


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return int(font.getlength(text)) + _MARGIN
