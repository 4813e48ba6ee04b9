"""Sample pictures of a run: a PNG for each step and prompt, and one sheet of them all."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFont

from ... import sheet
from ...core.files import atomic_file
from ...grid import Axis
from . import durable

FOLDER, SHEET = "samples", "contact-sheet.png"
ROWS = 20  # of the sheet; of more steps some are shown, evenly chosen
_SIDE = 256  # pixels of the longer side of a picture on the sheet
_LABEL = 18  # pixels of a letter, as the sheet draws them
_NAME = re.compile(r"step-(\d{6,})-(\d+)\.png")
_ADVICE = "free some space, and go on with --resume"


class Samples:
    """The sample pictures in the folder of a run, which goes on after a step."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        """Removes the pictures of steps after `step`, which will be made again, and the traces of a killed process."""
        self.folder, self.sheet = folder / FOLDER, folder / SHEET
        self._small: dict[tuple[int, int], Image.Image] = {}  # pictures of the sheet by step and column
        with durable.one_line(self.folder, _ADVICE):
            self.folder.mkdir(exist_ok=True)
            durable.sweep(self.folder)
            for (number, _), path in self._files().items():
                if number > step:
                    path.unlink()

    def write(self, step: int, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Path]:
        """Writes the pictures of a step, one for each prompt, and the sheet anew; returns the paths of the pictures.

        The sheet has a row for each step and a column for each prompt. Failure where the disk is full.
        """
        paths = []
        with durable.one_line(self.folder, _ADVICE):
            for column, picture in enumerate(pictures):
                paths.append(self.folder / f"step-{step:06d}-{column}.png")
                with atomic_file(paths[-1]) as file:
                    picture.save(file, format="PNG")
                self._small.pop((step, column), None)
            composed = self._composed(prompts)
            with atomic_file(self.sheet) as file:
                composed.save(file, format="PNG")
        return paths

    def _files(self) -> dict[tuple[int, int], Path]:
        """The pictures that there are, by step and column."""
        matches = {path: _NAME.fullmatch(path.name) for path in sorted(self.folder.iterdir())}
        return {(int(match[1]), int(match[2])): path for path, match in matches.items() if match}

    def _composed(self, prompts: Sequence[str]) -> Image.Image:
        files = self._files()
        rows = evenly(sorted({step for step, _ in files}), ROWS)
        places = {(step, column) for step in rows for column in range(len(prompts))}
        self._small = {place: small for place, small in self._small.items() if place in places}
        for place in places - self._small.keys():
            if place in files and (small := _small(files[place])):
                self._small[place] = small
        width = max((small.width for small in self._small.values()), default=_SIDE)
        labels = tuple(_shortened(prompt, width) for prompt in prompts)
        axes = (Axis("prompt", None, labels, labels), Axis("step", None, tuple(f"step {s}" for s in rows), tuple(rows)))
        images: dict[tuple[int, ...], Image.Image] = {
            (column, rows.index(step)): small for (step, column), small in self._small.items()
        }
        return sheet.compose(axes, images)


def evenly(steps: Sequence[int], number: int) -> list[int]:
    """Returns at most `number` of the steps, from 2 up: the first, the last, and others evenly between them."""
    if len(steps) <= number:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (number - 1))] for i in range(number)]


def _small(path: Path) -> Image.Image | None:
    """A picture in the size of the sheet; small ones are enlarged by whole numbers. None where it is damaged."""
    try:
        with Image.open(path) as picture:
            image: Image.Image = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    longer = max(image.size)
    if longer <= _SIDE:
        times = _SIDE // longer
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = max(1, round(image.width * _SIDE / longer)), max(1, round(image.height * _SIDE / longer))
    return image.resize(size, Image.Resampling.LANCZOS)


def _shortened(prompt: str, width: int) -> str:
    """A prompt that fits into a number of pixels: its middle is left out, since prompts often begin alike."""
    font = ImageFont.load_default(_LABEL)
    text = " ".join(prompt.split())
    short, length = text, len(text)
    while font.getlength(short) > width and length > 2:
        length -= 1
        half = length // 2
        short = f"{text[: length - half].rstrip()}…{text[len(text) - half :].lstrip()}"
    return short
