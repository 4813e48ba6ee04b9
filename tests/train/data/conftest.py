"""Folders of training pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path) -> Callable[..., Path]:
    """picture("10_dog/a.png", "a dog") writes a picture, each time of another colour, with its caption file."""
    count = 0

    def write(name: str, caption: str | None = None, size: tuple[int, int] = (80, 70)) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (count, 7 * count % 256, 99)).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return write


@pytest.fixture
def lines(tmp_path) -> Callable[..., Path]:
    """lines("metadata.jsonl", {...}, "text") writes objects as JSON and texts as they are, one a line."""

    def write(name: str, *rows: object) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write
