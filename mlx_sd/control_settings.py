"""The settings of a request that are about control networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import request_values, spellings
from .setting import setting

if TYPE_CHECKING:
    from .checkpoint.control import Control


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """Holds the control networks of a picture, and how their halves are guided."""

    controls: tuple[Control, ...] = request_values.entries_setting(
        ".checkpoint.control",
        "Control",
        "let a ControlNet (folder, file or hub id) see an image; MAKER (canny, scribble, softedge, tile, grey or "
        "inpaint) makes it of a photo; may be repeated",
        flag="--control",
        metavar="MODEL[@MODE]:[MAKER:]IMAGE[:SCALE[:START-END]]",
        group="control",
        always_recorded=False,
        false_friends=spellings.CONTROL_FLAGS,
    )
    guess_mode: bool | None = setting(
        None,
        "control networks act with the prompt alone, weaker on fine levels, as in guess mode of diffusers",
        kind=bool,
        group="control",
        always_recorded=False,
        aliases="control-guess-mode",
    )
