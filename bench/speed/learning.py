"""Seconds of a training step of a UNet, beside diffusers' in PyTorch: python -m bench learning.

A step is the mean squared error of one micro-batch, its gradients, their clipping, and AdamW; captions and latents are
encoded before it in every training, and are not a part of it. Weights are random. The two take steps in turn.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.learning.settings import parse_size
from mlx_sd.train.planning import prepare

from .. import arguments, models, results
from ..machine import describe
from ..models import FULL_SIZES
from .baseline import BASELINES, conditions, packages
from .latency import spread
from .loops import MODELS, config

Step = Callable[[], object]  # takes one step of a training
KINDS_COMPARED = ("unet", "lora")
OWN = "mlx-sd"
CAPTION = "a red tent on green grass"
_EXAMPLES = """examples:
  python -m bench learning --peer diffusers
  python -m bench learning --model sd15 --kind lora --resolution 256 --batch 1 --steps 3 --peer diffusers"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("learning", __doc__, _EXAMPLES)
    p.add_argument("--model", choices=MODELS, default="tiny", help="of random weights")
    p.add_argument("--kind", choices=KINDS_COMPARED, action="append", help="of training (default: each)")
    p.add_argument("--resolution", type=parse_size, metavar="SIZE", help="default: the model's")
    p.add_argument("--batch", type=int, default=4, help="pictures of a step, default 4")
    p.add_argument("--rank", type=int, default=8, help="of a LoRA of attentions, default 8")
    p.add_argument("--steps", type=int, default=7, help="of each, after one that warms up; default 7")
    p.add_argument("--peer", choices=BASELINES, help="take its steps in turn")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench learning", lambda: _learning(options))


def _learning(options: argparse.Namespace) -> None:
    for name in ("batch", "rank", "steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(options, name)}")
    size = options.resolution or FULL_SIZES.get(options.model, (256, 256))
    kinds = tuple(dict.fromkeys(options.kind or KINDS_COMPARED))
    peers = {kind: _Diffusers(options, kind, size).step for kind in kinds} if options.peer else {}
    with tempfile.TemporaryDirectory() as home:
        model = options.model
        if model in models.NAMES:
            model = str(Path(home, model))
            models.write_outline(options.model, Path(model))
        rows = [compare(kind, _own(kind, model, options, size), peers.get(kind), options.steps) for kind in kinds]
    values = {"model": options.model, "size": list(size), "batch": options.batch, "rank": options.rank}
    versions = {OWN: describe()["mlx_sd"]} | (_Diffusers.versions() if options.peer else {})
    values |= {"dtype": "float32", "steps": options.steps, "versions": versions}
    results.report({**values, "kinds": rows, "machine": describe()}, options.json)


def compare(kind: str, trainer: Step, peer: Step | None, steps: int) -> results.Results:
    """Times steps of both in turn, after one of each that is not counted. peer: None where there is none.

    ratio: the peer's seconds over ours, of the two steps of each turn.
    """
    runs = {OWN: trainer} | ({BASELINES[0]: peer} if peer else {})
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in tqdm(range(steps + 1), desc=kind, unit="step", disable=not sys.stderr.isatty()):
        for name, step in runs.items():
            clock = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - clock)
    row: results.Results = {"kind": kind, "seconds": {name: spread(values) for name, values in seconds.items()}}
    if peer:
        row["ratio"] = spread([b / a for a, b in zip(seconds[OWN], seconds[BASELINES[0]], strict=True)])
    return row


def _own(kind: str, model: str, options: argparse.Namespace, size: tuple[int, int]) -> Step:
    """Returns what takes a step of our own trainer."""
    words: dict[str, Any] = {"model": model, "batch": options.batch, "steps": options.steps + 1, "dtype": "float32"}
    if kind == "lora":
        words["rank"] = options.rank
    prepared = prepare(kind, KINDS[kind].settings(**words), size, [CAPTION], False, "float32")
    mx.eval([network.parameters() for network in prepared.resident], prepared.trainer.learned.parameters())
    mx.eval(prepared.trainer.optimizer.state)
    return lambda: prepared.trainer.run([prepared.batch])


class _Diffusers:
    """The same step of diffusers' UNet, with PEFT's adapters where a LoRA learns."""

    def __init__(self, options: argparse.Namespace, kind: str, size: tuple[int, int]):
        """Builds the UNet; InputError where a package is missing."""
        torch, diffusers, peft = packages("peft")
        self._torch = torch
        self._unet = diffusers.UNet2DConditionModel.from_config(config(options.model)).train()
        if kind == "lora":
            self._unet.requires_grad_(False)
            names = ["to_q", "to_k", "to_v", "to_out.0"]
            self._unet.add_adapter(peft.LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=names))
        self._learned = [parameter for parameter in self._unet.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learned, lr=1e-5)
        c, batch = self._unet.config, options.batch
        width, height = size[0] // 8, size[1] // 8
        self._x, self._target = torch.randn(2, batch, c.in_channels, height, width)
        self._t = torch.randint(1000, (batch,))
        self._context, self._added = conditions(torch, c, batch)

    @staticmethod
    def versions() -> dict[str, str]:
        """Returns the versions of the packages."""
        return {name: version(name) for name in ("diffusers", "torch", "peft")}

    def step(self) -> None:
        """Takes a step."""
        y = self._unet(self._x, self._t, self._context, added_cond_kwargs=self._added, return_dict=False)[0]
        self._torch.nn.functional.mse_loss(y, self._target).backward()
        self._torch.nn.utils.clip_grad_norm_(self._learned, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


if __name__ == "__main__":
    sys.exit(main())
