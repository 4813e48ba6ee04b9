"""The files of --preview and --animate: an image of each step while the picture is made, and all steps in motion."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from PIL import Image

from ..core.errors import InputError
from ..core.files import atomic_file, check_writable
from ..pipeline import StableDiffusion
from ..preview import Preview, enlarged

_FORMATS = {".png": "PNG", ".gif": "GIF"}
_LONGEST, _SHORTEST, _ALL, _LAST = 200, 20, 3000, 1500  # milliseconds: of a step, of all steps, of the picture itself


class Plan(NamedTuple):
    """The paths of pictures, step images and animations."""

    targets: Sequence[Path]  # of the pictures
    folder: Path | None  # of the step images; None without --preview
    animations: Sequence[Path]  # one for each target; empty without --animate


def plan(targets: Sequence[Path], preview: str | None, animate: str | None) -> Plan:
    """Checks the values of --preview and --animate; "" for `animate` is beside each picture."""
    folder = None if preview is None else Path(preview)
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--preview {folder}: is a file; give a folder")
        check_writable(folder, "--preview")  # made when there is something to put into it
    if animate is None:
        return Plan(targets, folder, ())
    if not animate:
        return Plan(targets, folder, [target.with_name(f"{target.stem}-steps.png") for target in targets])
    path = Path(animate)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"--animate {animate}: give a name that ends in {' or '.join(_FORMATS)}")
    if path.is_dir() or path in targets:
        raise InputError(f"--animate {animate}: {'is a folder' if path.is_dir() else 'is the picture itself'}")
    check_writable(path.parent, "--animate", must_exist=True)
    if len(targets) == 1:
        return Plan(targets, folder, [path])
    return Plan(targets, folder, [path.with_name(f"{path.stem}-{target.stem}{path.suffix}") for target in targets])


class StepImages:
    """Shows the steps of the batch that is being made, and writes the files of a plan."""

    def __init__(self, sd: StableDiffusion, plan: Plan):
        self._plan, self._factor = plan, sd.vae.config.downsampling
        self._preview = Preview(sd) if plan.folder or plan.animations else None
        self._frames: list[list[Image.Image]] = []  # of each picture of the batch, small

    def add(self, first: int, evaluation: int, denoised: mx.array) -> None:
        """Adds the denoised estimates (N, h, w, C) of an evaluation of the targets from `first` on."""
        if self._preview is None:
            return
        if evaluation == 1:
            self._frames = [[] for _ in range(denoised.shape[0])]
        for i, (frames, image) in enumerate(zip(self._frames, self._preview(denoised), strict=True)):
            frames.append(image)
            if self._plan.folder:
                self._plan.folder.mkdir(parents=True, exist_ok=True)
                path = self._plan.folder / f"{self._plan.targets[first + i].stem}-{evaluation:03}.png"
                with atomic_file(path) as f:
                    enlarged(image, self._factor).save(f, format="PNG", compress_level=1)  # fast, hardly larger

    def finish(self, index: int, image: Image.Image) -> dict[str, str]:
        """Writes the animation of the target at `index`, whose picture is `image`; returns its path for the report."""
        if not self._plan.animations:
            return {}
        path = self._plan.animations[index]
        steps = [enlarged(frame, self._factor) for frame in self._frames.pop(0)]
        duration = min(max(_ALL // len(steps), _SHORTEST), _LONGEST) // 10 * 10  # GIF counts in hundredths of a second
        with atomic_file(path) as f:
            steps[0].save(
                f,
                format=_FORMATS[path.suffix.lower()],
                save_all=True,
                append_images=[*steps[1:], image],
                duration=[duration] * len(steps) + [_LAST],
                loop=0,
            )
        return {"animation": str(path)}
