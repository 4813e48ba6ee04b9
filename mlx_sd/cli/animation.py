"""The files of --preview and --animate: an image of each step while the picture is made, and all steps in motion."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import mlx.core as mx
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ..core.errors import Failure, InputError
from ..core.files import atomic_file, check_writable, is_file, is_folder
from ..pipeline import StableDiffusion

if TYPE_CHECKING:
    from ..preview import Preview

BESIDE = "-steps.png"  # the end of an animation's name beside its picture
_FORMATS = {".png": "PNG", ".gif": "GIF"}
_MARK = "mlx-sd: steps of a picture"  # in each file written here, so that it may be replaced by the next run
_LONGEST, _SHORTEST, _ALL, _LAST = 200, 20, 3000, 1500  # milliseconds: of a step, of all steps, of the picture itself


class Plan(NamedTuple):
    """The paths of step images and animations."""

    folder: Path | None  # of the step images; None without --preview
    animate: str | None  # the value of --animate; "" is beside each picture
    several: bool  # whether the run makes several pictures
    method: str | None = None  # of --preview-method

    @property
    def is_empty(self) -> bool:
        """Whether there are neither step images nor animations."""
        return self.folder is None and self.animate is None

    def animation(self, target: Path) -> Path | None:
        """Returns the animation's path of the picture at `target`; None without --animate."""
        if self.animate is None:
            return None
        if not self.animate:
            return target.with_name(f"{target.stem}{BESIDE}")
        path = Path(self.animate)
        return path.with_name(f"{path.stem}-{target.stem}{path.suffix}") if self.several else path


def plan(preview: str | None, animate: str | None, several: bool, method: str | None = None) -> Plan:
    """Checks the values of --preview, --animate and --preview-method; "" for `animate` is beside each picture."""
    if method is not None and preview is None and animate is None:
        raise InputError("--preview-method is of the images of steps; give --preview FOLDER or --animate too")
    folder = None if preview is None else Path(preview)
    if folder is not None:
        if is_file(folder):
            raise InputError(f"--preview {folder}: is a file; give a folder")
        check_writable(folder, "--preview")  # made when there is something to put into it
    if animate:
        path = Path(animate)
        if path.suffix.lower() not in _FORMATS:
            raise InputError(f"--animate {animate}: give a name that ends in {' or '.join(_FORMATS)}")
        if is_folder(path):
            raise InputError(f"--animate {animate}: is a folder")
        check_writable(path.parent, "--animate", must_exist=True)
    return Plan(folder, animate, several, method)


def check_replaceable(path: Path, option: str) -> None:
    """Raises InputError where a file is at `path` that is neither empty nor a step image or an animation of ours.

    option: what names the path.
    """
    if not os.path.lexists(path) or (is_file(path) and not path.stat().st_size) or _is_ours(path):
        return
    raise InputError(
        f"{option}: {path} exists and is not of an earlier {option}; choose another name, or --overwrite replaces it"
    )


def _is_ours(path: Path) -> bool:
    """Returns whether a file says that it was written here."""
    try:
        with Image.open(path) as image:
            texts = image.info.get("Software"), image.info.get("comment")
            return _MARK in texts or _MARK.encode() in texts
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return False


class StepImages:
    """Shows the steps of the batch that is being made, and writes the files of a plan."""

    def __init__(self, sd: StableDiffusion, plan: Plan):
        self._plan, self._factor = plan, sd.vae.config.downsampling
        self._preview: Preview | None = None
        if not plan.is_empty:
            from .. import preview  # here because few runs need it

            self._preview, self._enlarged = preview.Preview(sd, method=plan.method or preview.LINEAR), preview.enlarged
            if self._preview.full_size:
                self._factor = 1
        self._frames: list[list[Image.Image]] = []  # of each picture of the batch, small

    def add(self, targets: Sequence[Path], evaluation: int, denoised: mx.array) -> None:
        """Adds the denoised estimates (N, h, w, C) of an evaluation of the N pictures of a batch.

        Raises Failure where a step image cannot be written.
        """
        if self._preview is None:
            return
        if evaluation == 1:
            self._frames = [[] for _ in range(denoised.shape[0])]
        for target, frames, image in zip(targets, self._frames, self._preview(denoised), strict=True):
            frames.append(image)
            if self._plan.folder:
                path = self._plan.folder / f"{target.stem}-{evaluation:03}.png"
                with _saved(path) as f:
                    image = self._enlarged(image, self._factor)
                    image.save(f, format="PNG", compress_level=1, pnginfo=_info())  # level 1: fast, hardly larger

    def finish(self, target: Path, image: Image.Image) -> Path | None:
        """Writes the animation of the next picture of the batch, `image`, and returns its path; None without one.

        Raises Failure where it cannot be written.
        """
        path = self._plan.animation(target)
        if path is None:
            return None
        steps = [self._enlarged(frame, self._factor) for frame in self._frames.pop(0)]
        duration = min(max(_ALL // len(steps), _SHORTEST), _LONGEST) // 10 * 10  # GIF counts in hundredths of a second
        with _saved(path) as f:
            steps[0].save(
                f,
                format=_FORMATS[path.suffix.lower()],
                save_all=True,
                append_images=[*steps[1:], image],
                duration=[duration] * len(steps) + [_LAST],
                loop=0,
                pnginfo=_info(),
                comment=_MARK.encode(),
            )
        return path


def _info() -> PngInfo:
    """Returns the text chunk of a PNG that says that it was written here."""
    info = PngInfo()
    info.add_text("Software", _MARK)
    return info


@contextmanager
def _saved(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that is there when the block ends, or Failure says why not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}; nothing is left of it") from None
