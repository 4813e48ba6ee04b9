"""The settings of a request about networks beside the checkpoint's own: another autoencoder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .setting import setting


def _path(value: Any) -> str:
    """Returns a path as text."""
    return os.fspath(value)


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Holds what is put beside or in the place of a checkpoint's networks; None is the checkpoint alone."""

    vae: str | None = setting(
        None,
        "another autoencoder, for encoding and decoding: taesd (SD 1 and 2) or taesdxl, small and fast; a file, a "
        "folder or a hub id",
        kind=object,
        parse=_path,
        always_recorded=False,
        metavar="NAME",
        aliases="vae-path vae-name vae-file sd-vae vae-decoder taesd",
    )
    vae_hash: str | None = setting(None, "of that autoencoder's weights", hidden=True, always_recorded=False)
