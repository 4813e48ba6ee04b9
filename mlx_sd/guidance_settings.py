"""The settings of a request about guidance beside the prompt's."""

from __future__ import annotations

from dataclasses import dataclass

from .setting import Range, setting


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """Holds the scales of perturbed-attention guidance."""

    pag: float | None = setting(
        None,
        "perturbed-attention guidance, away from what comes out without self-attention; about 3, and then a --guidance "
        "of 3 to 5 (default: none)",
        kind=float,
        range=Range(0),
        metavar="SCALE",
        always_recorded=False,
        aliases="pag-scale",
    )
    pag_adaptive: float | None = setting(
        None,
        "how much the scale of --pag falls with each timestep below 1000 (default 0)",
        kind=float,
        range=Range(0),
        metavar="SCALE",
        always_recorded=False,
        aliases="pag-adaptive-scale",
    )
