"""Sampling loops with and without reuse, and a UNet with random weights that runs them, for bench latency."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_sd.checkpoint.control import Control
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.condition_rows import Conditions
from mlx_sd.controller import Branch, Controller
from mlx_sd.core.embedded import TINY
from mlx_sd.core.errors import InputError
from mlx_sd.networks.blocks import apply_attention
from mlx_sd.networks.control import ControlNet
from mlx_sd.networks.control_config import ControlConfig
from mlx_sd.networks.counting import counting
from mlx_sd.networks.layers import Attention
from mlx_sd.networks.unet import UNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.predictor import Predictor
from mlx_sd.reuse import deepcache, tgate
from mlx_sd.reuse.policy import Policy
from mlx_sd.reuse.tgate import TGate
from mlx_sd.sampling import samplers
from mlx_sd.sampling.loop import evaluate
from mlx_sd.sampling.scheduler import Scheduler

from ..models import UNETS, Config

TOKENS, GUIDANCE = 77, 7.5
_TGATE = "tgate:"  # how the T-GATE part of a loop begins in text
SCHEDULER: Config = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULER |= {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}

MODELS = ("tiny", *UNETS)


def config(model: str) -> Config:
    """Returns the UNet's config of one of MODELS, as Hugging Face writes it."""
    if model == "tiny":
        values: Config = json.loads((TINY / "unet" / "config.json").read_text(encoding="utf-8"))
        return values
    return UNETS[model]


class Loop(NamedTuple):
    """Names what a sampling loop reuses from step to step: DeepCache, T-GATE, both or nothing."""

    deepcache: Policy | None = None
    tgate: TGate | None = None

    @classmethod
    def parse(cls, text: str) -> "Loop":
        """Reads "full"; what --deepcache takes; "tgate:" and what --tgate takes; or both, as "3/tgate:10"."""
        if text == "full":
            return cls()
        parts = text.split("/")
        gates = [part.removeprefix(_TGATE) for part in parts if part.startswith(_TGATE)]
        policies = [part for part in parts if not part.startswith(_TGATE)]
        if len(gates) > 1 or len(policies) > 1:
            raise InputError(f"a loop is full, DEEPCACHE, {_TGATE}GATE or DEEPCACHE/{_TGATE}GATE, not {text!r}")
        return cls(deepcache.parse(policies[0]) if policies else None, tgate.parse(gates[0]) if gates else None)

    def __str__(self) -> str:
        parts = [str(self.deepcache)] * bool(self.deepcache) + [f"{_TGATE}{self.tgate}"] * bool(self.tgate)
        return "/".join(parts) or "full"

    @property
    def flags(self) -> str:
        """Returns the loop as flags of `python -m mlx_sd.generate`."""
        return " ".join(f"--{name} {value}" for name, value in self._asdict().items() if value)


class Setting(NamedTuple):
    """Holds what all loops of a comparison share."""

    model: str
    steps: int
    side: int  # height and width of the latents
    batch: int  # images; with guidance, twice as many latents pass the UNet
    guided: bool
    dtype: mx.Dtype
    control: bool = False  # with a ControlNet

    @property
    def rows(self) -> int:
        """Returns how many latents pass the UNet at once."""
        return self.batch * (2 if self.guided else 1)


class Cost(NamedTuple):
    """What an evaluation of the UNet costs: multiply-accumulates, bytes read and written, and operations."""

    macs: int
    bytes: int
    operations: int


class Bench:
    """Runs loops of one setting on a UNet with random weights, all from the same noise."""

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
        context = mx.random.normal((rows, TOKENS, _context_width(c))).astype(setting.dtype)
        self._conditions = Conditions(context, _size_conditions(c, rows), setting.guided)
        self._controls = [_control(setting)] if setting.control else []
        mx.eval(self._noise, self._conditions.context, self._conditions.keywords)

    def run(self, loop: Loop) -> Iterator[Any]:
        """Runs the loop and yields after each evaluation of the UNet."""
        features, attention = tgate.caches(loop.deepcache, loop.tgate, self.table.log_snr, guided=self.setting.guided)
        control = Controller(self._controls, self.setting.steps) if self._controls else None
        predict = Predictor(self.unet, self._conditions, GUIDANCE, features, tgate=attention, control=control)
        return evaluate(self.table, predict, self._noise, lambda: self._noise)

    def warm_up(self) -> None:
        """Fills the weights and runs the UNet once, so that no loop pays for first-time work."""
        mx.eval(self.unet.parameters())
        mx.eval(self.step(1))

    def step(self, depth: int, deep: mx.array | None = None) -> tuple[mx.array, mx.array]:
        """Returns (prediction, deep) of one pass of the UNet at timestep 500, not yet computed."""
        x = mx.concatenate([self._noise] * (2 if self.setting.guided else 1)).astype(self.setting.dtype)
        inputs = self._conditions
        return self.unet(x, mx.array(500.0), inputs.context, **inputs.keywords, deep=deep, depth=depth)

    def attended(self) -> list[int]:
        """Counts the bytes that each layer of cross-attention returns, which T-GATE keeps; nothing is computed."""
        sizes: list[int] = []

        def attend(layer: Attention, x: mx.array, context: mx.array) -> mx.array:
            """Computes an attention, and counts it where it is one to the prompt."""
            output = apply_attention(layer, x, context)
            if context is not x:
                sizes.append(output.nbytes)
            return output

        x = mx.concatenate([self._noise] * (2 if self.setting.guided else 1)).astype(self.setting.dtype)
        inputs = self._conditions
        with counting(self.unet):
            self.unet(x, mx.array(500.0), inputs.context, **inputs.keywords, depth=1, attend=attend)
        return sizes

    def costs(self, loop: Loop) -> list[Cost]:
        """Counts what each evaluation of a loop costs, without computing it.

        Raises InputError for a policy that decides per image.
        """
        if loop.deepcache and loop.deepcache.decides_per_image:
            raise InputError(f"what {loop} computes depends on the pictures, and cannot be counted beforehand")
        with counting(self.unet) as operations:
            ends = [len(operations) for _ in self.run(loop)]
        parts = [operations[a:b] for a, b in pairwise([0, *ends])]
        return [Cost(sum(o.macs for o in part), sum(o.bytes for o in part), len(part)) for part in parts]

    def macs(self, loop: Loop) -> list[int]:
        """Counts the multiply-accumulates of each evaluation of a loop, without computing it."""
        return [cost.macs for cost in self.costs(loop)]


def setting(
    model: str,
    steps: int,
    side: int | None = None,
    batch: int = 1,
    guided: bool = False,
    dtype: mx.Dtype = mx.float32,
    control: bool = False,
) -> Setting:
    """Returns a setting of a model, by default at the size it was trained at.

    Raises InputError for a side that the UNet cannot halve often enough, for fewer than one step or image, and for a
    model that has no ControlNets.
    """
    unet = UNetConfig.from_hf(config(model))
    side = unet.sample_size if side is None else side
    if side < unet.downsampling or side % unet.downsampling:
        raise InputError(f"latents of {model} have a side that is a multiple of {unet.downsampling}, not {side}")
    if steps < 1 or batch < 1:
        raise InputError(f"steps and batch must be at least 1, not {steps} and {batch}")
    if control and model == "tiny":
        raise InputError("there is no ControlNet for tiny; leave --control out, or choose another --model")
    return Setting(model, steps, side, batch, guided, dtype, control)


def check(loops: Sequence[Loop], model: str, steps: int) -> None:
    """Raises InputError for a branch that the model's UNet does not have, and a gate that so few steps do not reach."""
    unet: Any = build("unet", config(model), model)
    for loop in loops:
        if loop.deepcache and loop.deepcache.branch not in unet.branches:
            raise InputError(f"there is no branch {loop.deepcache.branch} in {model}; it has 0 to {unet.branches[-1]}")
        if loop.tgate:
            loop.tgate.check(steps)


def _control(setting: Setting) -> Branch:
    """A ControlNet with random weights for the setting's UNet, and the embedded image that it sees."""
    values = {name: value for name, value in config(setting.model).items() if name not in ("up_block_types",)}
    network = ControlNet(ControlConfig.from_hf(values, setting.model))
    network.set_dtype(setting.dtype)
    side = setting.side * network.config.downsampling
    image = network.embed(mx.random.uniform(shape=(1, side, side, network.config.image_channels)))
    mx.eval(network.parameters(), image)
    return Branch(Control("control", "image"), network, image)


def _context_width(c: UNetConfig) -> int:
    return max(block.context for block in c.down)


def _size_conditions(c: UNetConfig, rows: int) -> dict[str, Any]:
    if c.added_time_dims is None:
        return {}
    pooled = c.added_inputs - 6 * c.added_time_dims
    return {"time_ids": mx.full((rows, 6), 1024.0), "text_embeds": mx.random.normal((rows, pooled))}
