"""Sampling loops to be compared, and our UNet to run them: what bench.latency measures."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_sd.checkpoint.model_folder import TINY, build
from mlx_sd.conditions import Conditions
from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.predictor import Predictor
from mlx_sd.reuse import deepcache as reuse
from mlx_sd.reuse.deepcache import Policy, Reuse
from mlx_sd.reuse.tgate import Gate, TGate
from mlx_sd.sampling import samplers
from mlx_sd.sampling.loop import evaluate
from mlx_sd.sampling.scheduler import Scheduler

from ..models import UNETS, Config
from .operations import counting

TOKENS, GUIDANCE = 77, 7.5
_TGATE = "tgate:"
SCHEDULER: Config = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULER |= {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}

MODELS = ("tiny", *UNETS)


def config(model: str) -> Config:
    """The UNet's config of one of MODELS."""
    if model == "tiny":
        found: Config = json.loads((TINY / "unet" / "config.json").read_text(encoding="utf-8"))
        return found
    return UNETS[model]


class Loop(NamedTuple):
    """What a loop reuses from step to step."""

    deepcache: Policy | None = None
    tgate: TGate | None = None

    @classmethod
    def parse(cls, text: str) -> "Loop":
        """Reads "full", what --deepcache takes, "tgate:" and what --tgate takes, or "3/tgate:10", which is both."""
        if text == "full":
            return cls()
        parts = text.split("/")
        gates = [part.removeprefix(_TGATE) for part in parts if part.startswith(_TGATE)]
        policies = [part for part in parts if not part.startswith(_TGATE)]
        if len(gates) > 1 or len(policies) > 1:
            raise InputError(f"a loop is full, DEEPCACHE, {_TGATE}GATE or DEEPCACHE/{_TGATE}GATE, not {text!r}")
        return cls(reuse.parse(policies[0]) if policies else None, TGate.parse(gates[0]) if gates else None)

    def __str__(self) -> str:
        parts = [str(self.deepcache)] * bool(self.deepcache) + [f"{_TGATE}{self.tgate}"] * bool(self.tgate)
        return "/".join(parts) or "full"

    @property
    def flags(self) -> str:
        """As the command line of pictures takes it."""
        return " ".join(f"--{name} {value}" for name, value in self._asdict().items() if value)


class Setting(NamedTuple):
    """What all loops of a comparison share."""

    model: str
    steps: int
    side: int  # of the latents
    batch: int  # pictures; with guidance, twice as many latents go through the UNet
    guided: bool
    dtype: mx.Dtype

    @property
    def rows(self) -> int:
        """Latents through the UNet at once."""
        return self.batch * (2 if self.guided else 1)


class Bench:
    """Our UNet with random weights, to run loops of one setting from the same noise."""

    def __init__(self, setting: Setting):
        mx.random.seed(0)
        unet: Any = build("unet", config(setting.model), setting.model)
        unet.set_dtype(setting.dtype)
        self.unet: UNet = unet
        self.setting = setting
        scheduler = Scheduler.from_hf(SCHEDULER)
        self.table = samplers.table(scheduler, *samplers.choose(scheduler), setting.steps)
        c, rows = self.unet.config, setting.rows
        self._noise = mx.random.normal((setting.batch, setting.side, setting.side, c.in_channels))
        context = mx.random.normal((rows, TOKENS, _context(c))).astype(setting.dtype)
        self._conditions = Conditions(context, _extra(c, rows), setting.guided)
        mx.eval(self._noise, self._conditions.context, self._conditions.extra)

    def run(self, loop: Loop) -> Iterator[Any]:
        """The loop, one evaluation of the UNet at a time."""
        levels, tgate = self.table.log_snr, loop.tgate
        predict = Predictor(
            self.unet,
            self._conditions,
            GUIDANCE,
            Reuse(loop.deepcache, levels, tgate.gate_step if tgate else None),
            gate=Gate(tgate, self.setting.guided, loop.deepcache is not None) if tgate else None,
        )
        return evaluate(self.table, predict, self._noise, lambda: self._noise)

    def warm_up(self) -> None:
        """Fills the weights and runs the UNet once, so that no loop pays for first-time work."""
        mx.eval(self.unet.parameters())
        mx.eval(self.step(1))

    def step(self, depth: int, deep: mx.array | None = None) -> tuple[mx.array, mx.array]:
        """One pass of the UNet at one time, not yet computed: (prediction, deep)."""
        x = mx.concatenate([self._noise] * (2 if self.setting.guided else 1)).astype(self.setting.dtype)
        context, extra, _ = self._conditions
        return self.unet(x, mx.array(500.0), context, **extra, deep=deep, depth=depth)

    def costs(self, loop: Loop) -> list[tuple[int, int]]:
        """Multiply-accumulates and bytes moved of each evaluation of a loop, gone through without computing."""
        if loop.deepcache and loop.deepcache.threshold < inf:
            raise InputError(f"what {loop} computes depends on the pictures, and cannot be counted beforehand")
        with counting(self.unet) as operations:
            ends = [len(operations) for _ in self.run(loop)]
        parts = [operations[a:b] for a, b in pairwise([0, *ends])]
        return [(sum(o.macs for o in part), sum(o.bytes for o in part)) for part in parts]

    def macs(self, loop: Loop) -> list[int]:
        """Multiply-accumulates alone."""
        return [macs for macs, _ in self.costs(loop)]


def setting(
    model: str, steps: int, side: int | None = None, batch: int = 1, guided: bool = False, dtype: mx.Dtype = mx.float32
) -> Setting:
    """A setting of a model, by default at its own size; InputError for numbers that make no sense."""
    own = UNetConfig.from_hf(config(model))
    multiple = own.downsampling
    chosen = Setting(model, steps, own.sample_size if side is None else side, batch, guided, dtype)
    if chosen.side < multiple or chosen.side % multiple:
        raise InputError(f"latents of {model} have a side that is a multiple of {multiple}, not {chosen.side}")
    if steps < 1 or batch < 1:
        raise InputError(f"steps and batch must be at least 1, not {steps} and {batch}")
    return chosen


def check(loops: Sequence[Loop], model: str, steps: int) -> None:
    """InputError for a branch that a model's UNet does not have, or a gate that so few steps do not reach."""
    unet: Any = build("unet", config(model), model)
    for loop in loops:
        if loop.deepcache and loop.deepcache.branch not in unet.branches:
            raise InputError(f"there is no branch {loop.deepcache.branch} in {model}; it has 0 to {unet.branches[-1]}")
        if loop.tgate:
            loop.tgate.check(steps)


def _context(c: UNetConfig) -> int:
    return max(block.context for block in c.down)


def _extra(c: UNetConfig, rows: int) -> dict[str, Any]:
    if c.added_time_dims is None:
        return {}
    pooled = c.added_inputs - 6 * c.added_time_dims
    return {"time_ids": mx.full((rows, 6), 1024.0), "text_embeds": mx.random.normal((rows, pooled))}
