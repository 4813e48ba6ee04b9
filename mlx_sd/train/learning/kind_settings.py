"""The settings of each kind of training, beside those that all share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError
from ...setting import Range, setting
from . import consistency, low_rank
from .settings import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, TrainSettings

STUDENTS = ("lora", "full")

# Of pruning: what channels are scored by, what the share to remove is of, and BK-SDM's shapes.
SCORES, COSTS, SHAPES = ("taylor", "magnitude", "random"), ("macs", "parameters"), ("base", "small", "tiny")


@dataclass(frozen=True, kw_only=True)
class LoraSettings(TrainSettings):
    """Settings of low-rank adapters."""

    rank: int = setting(
        8,
        "of the adapters; large ones learn more and are larger files",
        kind=int,
        range=COUNT,
        aliases="network-dim lora-rank dim",
        group="kind",
    )
    alpha: float | None = setting(
        None,
        "scale of the adapters over their rank (default: the rank; kohya's is 1, with rates that fit it)",
        kind=float,
        range=POSITIVE,
        aliases="network-alpha lora-alpha",
        group="kind",
    )
    targets: str = setting(
        "attention",
        "layers with an adapter: of attentions, of whole transformers, or all with the convolutions",
        choices=low_rank.TARGETS,
        group="kind",
    )
    text_rate: float | None = setting(
        None,
        "learning rate of adapters in the text encoders (default: these are not trained)",
        kind=float,
        range=POSITIVE,
        aliases="text-encoder-lr",
        group="kind",
    )
    prior_weight: float = setting(
        1.0,
        "of class pictures, which keep the class what it was (folder reg/ in the data)",
        kind=float,
        range=NOT_NEGATIVE,
        aliases="prior-loss-weight",
        group="kind",
    )
    quantize: str | None = setting(None, "the base in 4 or 8 bits while training", metavar="BITS[:GROUP]", group="kind")


@dataclass(frozen=True, kw_only=True)
class UNetSettings(TrainSettings):
    """Settings of a whole UNet."""

    scratch: bool = setting(False, "begin with random weights, in the model's shape", kind=bool, group="kind")
    average: float | None = setting(
        None,
        "decay of averaged weights, which are what is written; 0.9999 is usual",
        kind=float,
        range=Range(0, 1, open_minimum=True, open_maximum=True),
        aliases="ema ema-decay use-ema",
        group="kind",
    )


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(TrainSettings):
    """Settings of a textual inversion."""

    token: str = setting(
        "", "the new word, as captions and prompts have it", aliases="placeholder-token", group="kind", empty=True
    )
    like: str = setting(
        "", "a word of the vocabulary that it begins as", aliases="initializer-token", group="kind", empty=True
    )
    vectors: int = setting(
        1, "tokens that it takes the place of", kind=int, range=Range(1, 32), aliases="num-vectors", group="kind"
    )


@dataclass(frozen=True, kw_only=True)
class ControlSettings(TrainSettings):
    """Settings of a control network."""

    images: str = setting(
        "conditioning_images",
        "folder in the data of the control images, with the pictures' names",
        metavar="DIR",
        group="kind",
    )
    rank: int | None = setting(
        None,
        "of adapters beside the copy of the base's layers: a small file, a Control-LoRA (default: all weights learn)",
        kind=int,
        range=COUNT,
        aliases="network-dim lora-rank dim",
        group="kind",
    )


def parse_guidance(value: Any) -> tuple[float, float]:
    """Returns (lowest, highest) scale of 7.5, "7.5" or "5:9"; InputError for anything else, or below 1."""
    parts = value if isinstance(value, (tuple, list)) else str(value).split(":")
    try:
        scales = [float(part) for part in parts]
    except (TypeError, ValueError):
        scales = []
    if len(scales) not in (1, 2) or not all(scale in Range(1) for scale in scales) or scales[0] > scales[-1]:
        raise InputError(f"guidance must be a number from 1 up, or two as 5:9, the lower one first, not {value!r}")
    return scales[0], scales[-1]


_LCM_GUIDANCE = "say --guidance LOWEST:HIGHEST, in generate's convention, where LCM's scale of {value} is one more"


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings):
    """Settings of a student that makes pictures in a few steps, without guidance."""

    method: str = setting(
        "tcd",
        "what the student learns: tcd for the sampler tcd, lcm for lcm",
        choices=consistency.METHODS,
        group="kind",
    )
    student: str = setting(
        "lora", "what learns: adapters beside the teacher's layers, or a whole UNet", choices=STUDENTS, group="kind"
    )
    rank: int = setting(
        64,
        "of the adapters, at most the width of their layers",
        kind=int,
        range=COUNT,
        aliases="network-dim lora-rank dim",
        group="kind",
    )
    alpha: float | None = setting(
        None,
        "scale of the adapters over their rank (default: the rank)",
        kind=float,
        range=POSITIVE,
        aliases="network-alpha lora-alpha",
        group="kind",
    )
    targets: str = setting(
        "all",
        "layers with an adapter: of attentions, of whole transformers, or all with the convolutions",
        choices=low_rank.TARGETS,
        group="kind",
    )
    guidance: tuple[float, float] | None = setting(
        None,
        "of the teacher, u + SCALE (c - u) as generate's --guidance; two numbers, 5:9, are drawn between for each "
        "picture (default: as generate)",
        kind=object,
        parse=parse_guidance,
        to_json=lambda value: value and list(value),
        metavar="SCALE[:SCALE]",
        aliases="guidance-scale cfg cfg-scale",
        false_friends=dict.fromkeys(("w-min", "w-max"), _LCM_GUIDANCE),
        group="kind",
    )
    solver_steps: int = setting(
        50,
        "of the teacher's solver, between whose timesteps the student learns to jump",
        kind=int,
        range=COUNT,
        aliases="num-ddim-timesteps",
        group="kind",
    )
    widen: float = setting(
        0.0,
        "share of the steps over which tcd's jumps grow from one step of the solver to all lengths",
        kind=float,
        range=SHARE,
        group="kind",
    )
    huber: float | None = setting(
        None,
        "c of the pseudo-Huber loss; 0.001 is usual (default: squares)",
        kind=float,
        range=POSITIVE,
        aliases="huber-c",
        group="kind",
    )
    average: float | None = setting(
        None,
        "decay of the averaged student that targets are made with (default: 0.95 for a whole UNet, none for adapters)",
        kind=float,
        range=Range(0, 1, open_minimum=True, open_maximum=True),
        aliases="ema ema-decay",
        group="kind",
    )


@dataclass(frozen=True, kw_only=True)
class PruneSettings(UNetSettings):
    """Settings of a smaller UNet, which is cut out of the model's and then trained as a whole one."""

    remove: float = setting(
        0.3,
        "share of the cost to remove",
        kind=float,
        range=Range(0, 0.95, open_minimum=True),
        aliases="pruning-ratio prune-ratio sparsity",
        group="kind",
    )
    cost: str = setting(
        "macs", "what the share is of: multiplications of one evaluation, or weights", choices=COSTS, group="kind"
    )
    score: str = setting(
        "taylor",
        "by which channels are removed: what the loss would change (Diff-Pruning), or for comparison their weights' "
        "size, or chance",
        choices=SCORES,
        aliases="pruner",
        group="kind",
    )
    threshold: float = setting(
        0.05,
        "timesteps whose loss is below this share of the largest do not count",
        kind=float,
        range=SHARE,
        aliases="thr",
        group="kind",
    )
    score_timesteps: int = setting(
        32, "timesteps that channels are scored at", kind=int, range=Range(1, 1000), group="kind"
    )
    score_batches: int = setting(4, "micro-batches that channels are scored on", kind=int, range=COUNT, group="kind")
    shape: str | None = setting(
        None,
        "leave out whole blocks instead, as BK-SDM does: base, small (no middle) or tiny (a level less)",
        choices=SHAPES,
        group="kind",
    )
