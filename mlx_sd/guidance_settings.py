"""The settings of a request about which steps are guided, other guidance, and a second pass at a larger size."""

# ruff: noqa: RUF009 - `setting` is our `dataclasses.field`
from __future__ import annotations

from dataclasses import dataclass

from .hires_setting import STRENGTH, Hires, parse, parse_mode
from .reuse.guided_steps import FORM, Interval, parse_interval
from .setting import Range, setting


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """Holds which steps are guided, the scales of perturbed-attention guidance, and the second pass of hires fix."""

    guidance_interval: Interval | None = setting(
        None,
        "guide this share of the steps alone, such as 0-0.6; each of the others costs half (default: all)",
        kind=object,
        parse=parse_interval,
        to_json=str,
        metavar=FORM,
        always_recorded=False,
        aliases="cfg-interval guidance-range",
        false_friends={
            "skip-early-cond": "say which share of the steps is guided: --guidance-interval {value}-1",
            "s-min-uncond": "say which share of the steps is guided: --guidance-interval 0-0.6",
        },
    )
    adaptive_guidance: float | None = setting(
        None,
        "end guidance once the predictions with and without the prompt have a cosine above this, such as 0.99; each "
        "step from there on costs half (default: never)",
        kind=float,
        range=Range(0, 1),
        metavar="COSINE",
        always_recorded=False,
        aliases="adaptive-cfg adaptive-guidance-threshold",
    )
    unconditional_refresh: int | None = setting(
        None,
        "predict without the prompt at every R-th full evaluation alone, and keep the difference that the prompt makes "
        "for the others, which cost half (default: at each)",
        kind=int,
        range=Range(1),
        metavar="R",
        always_recorded=False,
        aliases="unconditional-interval uncond-refresh uncond-interval",
    )
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
    hires: Hires | None = setting(
        None,
        "hires fix: enlarge the picture by SCALE and go on with it, in STEPS (default: as before) of strength STRENGTH "
        f"(default {STRENGTH:g})",
        kind=object,
        parse=parse,
        to_json=str,
        metavar="SCALE[:STEPS[:STRENGTH]]",
        always_recorded=False,
        aliases="hr-scale hires-scale hires-upscale hires-fix",
        false_friends={"enable-hr": "say how much larger: --hires 2"},
    )
    hires_mode: str | None = setting(
        None,
        "how it is enlarged: latent, latent-bicubic, latent-nearest, latent-nearest-exact, latent-antialiased or "
        "latent-bicubic-antialiased; as a picture by lanczos; or by an x4 upscaler: a folder, a file or a hub id "
        "(default latent)",
        kind=object,
        parse=parse_mode,
        metavar="MODE",
        always_recorded=False,
        aliases="hr-upscaler hires-upscaler",
    )
    hires_hash: str | None = setting(
        None, "of the weights of --hires-mode's upscaler", hidden=True, always_recorded=False
    )
