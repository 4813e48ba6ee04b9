"""The methods for cheaper pictures that bench distillation compares, and the trainings that some of them need."""

from typing import Any, NamedTuple

STEPS = 25


class Training(NamedTuple):
    """A training of the project's own trainer: a kind of `mlx_sd.train` and its settings, by their names there."""

    kind: str
    settings: dict[str, Any]


class Method(NamedTuple):
    """One method to make a picture: the settings of its request, and the training whose result it uses, if any."""

    name: str
    settings: dict[str, Any]
    training: str | None = None


# Each has the same number of pictures to learn from, and the same number of steps.
TRAININGS = {
    "pruned by 30%": Training("prune", {"remove": 0.3}),
    "pruned by 50%": Training("prune", {"remove": 0.5}),
    "small, from scratch": Training("prune", {"shape": "small", "scratch": True, "rate": 4e-4}),
    "distilled": Training("distill", {"student": "full", "method": "tcd", "widen": 0.5}),
}
_FULL: dict[str, Any] = {"steps": STEPS}
_JUMPS: dict[str, Any] = {"sampler": "tcd", "guidance": 1.0}

METHODS = (
    Method("plain", _FULL),
    *(Method(f"DeepCache {interval}", _FULL | {"deepcache": str(interval)}) for interval in (2, 3, 5, 10)),
    *(Method(f"{steps} steps", {"steps": steps}) for steps in (12, 8, 4)),
    *(Method(name, _FULL, name) for name in ("pruned by 30%", "pruned by 50%", "small, from scratch")),
    *(Method(f"distilled, {steps} steps", _JUMPS | {"steps": steps}, "distilled") for steps in (8, 4, 2)),
)
