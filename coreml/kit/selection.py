"""What a kit is to hold, what it has to know of the packages beside it, and how one is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import is_file, read_json

if TYPE_CHECKING:
    from .tables import Setting

FOLDER = "kit"  # in the folder of an export
FORMAT, VERSION = "mlx-sd kit", 1


@dataclass(frozen=True)
class Selection:
    """Which tables a kit has, as the command line says it; `tables.choose` says what each list means."""

    samplers: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    deepcache: tuple[str, ...] = ()

    def settings(self, about: Mapping[str, Any], branch: int | None) -> list[Setting]:
        """Returns the settings of the tables for a model, by its model.json; InputError for what does not fit.

        branch: at which the packages of the UNet are cut, None where they are not. Where no policy is named and they
        are cut, there are tables with interval 3 beside those without a cache.
        """
        from mlx_sd.checkpoint import model_folder  # not for --help
        from mlx_sd.sampling.scheduler import Scheduler

        from .tables import choose

        scheduler = Scheduler.from_hf(model_folder.scheduler_config(about), "scheduler")
        policies = self.deepcache or (() if branch is None else (f"3:{branch}",))
        return choose(scheduler, self.samplers, self.schedules, self.steps, policies, branch)


@dataclass(frozen=True)
class Packages:
    """What a kit has to know about the packages beside it."""

    size: tuple[int, int]  # (width, height) in pixels of the golden picture
    branch: int  # at which the UNet is cut
    dtype: str  # "float32" or "float16"
    compress: str | None
    format: str  # a name in `plan.FORMATS`


def is_kit(folder: Path) -> bool:
    """Returns whether a folder holds a kit that `write` made, of any version."""
    if not is_file(folder / "kit.json"):
        return False
    try:
        return read_json(folder / "kit.json").get("format") == FORMAT
    except InputError:
        return False
