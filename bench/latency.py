"""How much DeepCache saves of a full-size UNet's loop: python -m bench.latency.

The loops to be compared advance in turn, one evaluation each, so that whatever else the machine does falls on all.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_sd import command, samplers
from mlx_sd.denoise import Predictor
from mlx_sd.load import DTYPES, shapes
from mlx_sd.reuse import DeepCache, Reuse
from mlx_sd.scheduler import Scheduler
from mlx_sd.unet import UNet
from mlx_sd.unet_config import UNetConfig

from .cases import UNETS
from .machine import describe

_EXAMPLES = """examples:
  python -m bench.latency --model sd15 --interval 3 --interval 5 --json bench/results/latency.json
"""
_SCHEDULER = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
_SCHEDULER |= {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench.latency",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", choices=tuple(UNETS), default="sd15", help="shapes; the weights are random")
    p.add_argument("--interval", type=int, action="append", metavar="N", help="DeepCache intervals (default 3 and 5)")
    p.add_argument("--branch", type=int, default=0)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--latents", type=int, help="side of the latents (default: the model's)")
    p.add_argument("--batch", type=int, default=1, help="latents through the UNet at once, 2 is one guided picture")
    p.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    return command.run("bench.latency", lambda: _latency(arguments))


def _latency(arguments: argparse.Namespace) -> None:
    config = UNetConfig.from_hf(UNETS[arguments.model])
    side = arguments.latents or config.sample_size
    unet = _random_unet(config, DTYPES[arguments.dtype])
    policies = [DeepCache(1, arguments.branch)]
    policies += [DeepCache(n, arguments.branch) for n in arguments.interval or (3, 5)]
    results = {
        "model": arguments.model,
        "latents": side,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "steps": arguments.steps,
        **measure(unet, policies, arguments.steps, side, arguments.batch),
        "machine": describe(),
    }
    text = json.dumps(results, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


def measure(unet: UNet, policies: Sequence[DeepCache], steps: int, side: int, batch: int) -> dict[str, Any]:
    """Seconds of each policy's loop, evaluation by evaluation in turn; the first policy is the one to compare with."""
    config, dtype = unet.config, unet.conv.weight.dtype
    scheduler = Scheduler.from_hf(_SCHEDULER)
    table = samplers.table(scheduler, *samplers.choose(scheduler), steps)
    noise = mx.random.normal((batch, side, side, config.in_channels))
    context = mx.random.normal((batch, 77, config.down[-1].context)).astype(dtype)
    extra: Any = _extra(config, batch)
    mx.eval(noise, context, extra)
    loops, seconds = [], [[] for _ in policies]  # type: ignore[var-annotated]
    for policy in policies:
        predict = Predictor(unet, context, extra, None, None, 0.0, Reuse(policy, table.log_snr))
        loops.append(samplers.evaluate(table, predict, noise, lambda: noise))
    mx.eval(unet(noise, mx.array(0.0), context, **extra))  # so that nobody pays for first-time work
    for _ in tqdm(range(steps), unit="step", disable=not sys.stderr.isatty()):
        for loop, spent in zip(loops, seconds, strict=True):
            clock = time.perf_counter()
            next(loop)
            spent.append(time.perf_counter() - clock)
    return {
        "loops": [_summary(policy, spent, seconds[0]) for policy, spent in zip(policies, seconds, strict=True)],
        "peak_memory_over_weights": round(mx.get_peak_memory() / _bytes(unet), 3),
    }


def _summary(policy: DeepCache, spent: list[float], reference: list[float]) -> dict[str, Any]:
    full = [s for i, s in enumerate(spent) if i in policy.due(len(spent))]
    shallow = [s for i, s in enumerate(spent) if i not in policy.due(len(spent))]
    return {
        "deepcache": str(policy),
        "seconds": round(sum(spent), 3),
        "speedup": round(sum(reference) / sum(spent), 3),
        "speedup_by_medians": round(_by_medians(reference, []) / _by_medians(full, shallow), 3),
        "full_step": _spread(full),
        "shallow_step": _spread(shallow) if shallow else None,
    }


def _by_medians(full: list[float], shallow: list[float]) -> float:
    # Seconds of a loop if every step took its kind's median: less at the mercy of what else the machine does.
    return sum(len(kind) * statistics.median(kind) for kind in (full, shallow) if kind)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 4),
        "min": round(ordered[0], 4),
        "max": round(ordered[-1], 4),
    }


def _random_unet(config: UNetConfig, dtype: mx.Dtype) -> UNet:
    mx.random.seed(0)
    unet = UNet(config)
    unet.set_dtype(dtype)
    mx.eval(unet.parameters())
    return unet


def _extra(config: UNetConfig, batch: int) -> dict[str, mx.array]:
    if config.added_time_dims is None:
        return {}
    sizes = mx.full((batch, 6), 1024.0)
    return {
        "time_ids": sizes,
        "text_embeds": mx.random.normal((batch, config.added_inputs - 6 * config.added_time_dims)),
    }


def _bytes(unet: UNet) -> int:
    return sum(math.prod(shape) for shape in shapes(unet).values()) * unet.conv.weight.dtype.size


if __name__ == "__main__":
    sys.exit(main())
