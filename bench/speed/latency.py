"""Seconds of steps and loops with DeepCache and T-GATE, beside the counted ideal: python -m bench latency.

The loops to be compared advance in turn, one evaluation each, so that all meet the same load of the machine; with
--peer, diffusers' loops take part. Evaluations that cost the same multiplications are of one kind. In a speed-up "by
medians" each evaluation costs the median of its kind, relative to the full step of the same round. The ideal speed-up
is the ratio of multiplications, counted as the loops would run. Weights are random; any device.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten
from tqdm import tqdm

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.networks.counting import Operation

from .. import arguments, results
from ..machine import describe, use
from .baseline import BASELINES, Diffusers
from .loops import MODELS, Bench, Loop, Setting, check, setting
from .operations import timing, totals

_EXAMPLES = """examples:
  python -m bench latency --model tiny
  python -m bench latency --model sd15 --loop 3 --loop 5 --steps 10 --json bench/results/latency-sd15-cpu.json
  python -m bench latency --model sdxl --device gpu --dtype float16 --guided --profile
  python -m bench latency --model sd15 --guided --steps 25 --loop 3 --loop tgate:10 --loop 3/tgate:10
  python -m bench latency --model sd15 --loop 3 --steps 6 --peer diffusers
  python -m bench latency --model sdxl --device gpu --dtype float16 --guided --loop 3 --peer diffusers --compile
  python -m bench latency --model sd15 --guided --control --loop 3 --loop 5 --steps 15
"""
DEFAULT = ("2", "3", "5", "10", "tgate:10", "3/tgate:10")
OWN = "mlx-sd"  # "by" in the results: this project's loops, beside those of BASELINES
_PROFILE_ROUNDS = 3


class Run(NamedTuple):
    """One loop as it was run: by which package, and the multiply-accumulates and seconds of each evaluation."""

    by: str
    loop: Loop
    macs: list[int]
    seconds: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("latency", __doc__, _EXAMPLES)
    p.add_argument("--model", choices=MODELS, default="sd15", help="shapes; the weights are random")
    p.add_argument(
        "--loop",
        action="append",
        default=[],
        metavar="LOOP",
        help="a value of --deepcache, tgate: and a value of --tgate, or both with a slash between; may be repeated, "
        f"beside the full loop (default {' '.join(DEFAULT)})",
    )
    p.add_argument("--steps", type=int, default=50, help="of the sampler")
    p.add_argument("--latents", type=int, metavar="SIDE", help="default: the model's")
    p.add_argument("--batch", type=int, default=1, help="pictures at once")
    p.add_argument("--guided", action="store_true", help="with guidance: twice as many latents through the UNet")
    p.add_argument("--control", action="store_true", help="with a ControlNet, in all loops")
    p.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of weights and activations")
    p.add_argument("--device", choices=("cpu", "gpu"), help="default: MLX's")
    p.add_argument("--peer", choices=BASELINES, help="run this package's loops in turn, on the same shapes")
    p.add_argument("--compile", action="store_true", help="compile the loops of --peer by torch.compile")
    p.add_argument("--profile", action="store_true", help="time a full and each cached step operation by operation")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench latency", lambda: _latency(options))


def _latency(options: argparse.Namespace) -> None:
    use(options.device)
    shared = setting(
        options.model,
        options.steps,
        options.latents,
        options.batch,
        options.guided,
        DTYPES[options.dtype],
        options.control,
    )
    if options.peer and options.control:
        raise InputError(f"the loops of {options.peer} have no ControlNet here; leave out --peer or --control")
    if options.compile and not options.peer:
        raise InputError("--compile is of --peer; give both, or neither")
    loops = [Loop(), *(Loop.parse(text) for text in options.loop or DEFAULT)]
    check(loops, options.model, options.steps)
    baseline = Diffusers(shared, options.compile) if options.peer else None  # before expensive work: it may be missing
    values = measure(shared, loops, baseline, profile=options.profile)
    results.report(values | {"machine": describe()}, options.json)


def measure(
    shared: Setting, loops: Sequence[Loop], baseline: Diffusers | None = None, profile: bool = False
) -> results.Results:
    """Runs the loops in turn, the first being the one to compare with; shows progress on a terminal.

    baseline: runs its own loops in turn with them.
    """
    bench = Bench(shared)
    macs = {loop: bench.macs(loop) for loop in loops}
    mx.reset_peak_memory()
    bench.warm_up()
    runs, advancing = [Run(OWN, loop, macs[loop], []) for loop in loops], [bench.run(loop) for loop in loops]
    if baseline:
        baseline.warm_up()
        supported = [loop for loop in loops if baseline.supports(loop)]
        runs += [Run(BASELINES[0], loop, macs[loop], []) for loop in supported]
        advancing += [baseline.run(loop) for loop in supported]
    for _ in tqdm(range(shared.steps), unit="step", disable=not sys.stderr.isatty()):
        for run, loop in zip(runs, advancing, strict=True):
            clock = time.perf_counter()
            next(loop)
            run.seconds.append(time.perf_counter() - clock)
    weights: Any = tree_flatten(bench.unet.parameters())
    values = {
        "model": shared.model,
        "latents": shared.side,
        "pictures": shared.batch,
        "guided": shared.guided,
        **({"control": True} if shared.control else {}),
        "dtype": str(shared.dtype).rpartition(".")[2],
        "steps": shared.steps,
        **summary(runs),
        "peak_memory_over_weights": round(mx.get_peak_memory() / sum(array.nbytes for _, array in weights), 3),
        "load": [round(load, 2) for load in os.getloadavg()],
    }
    if baseline:
        values["peer"] = baseline.versions()
    if profile:
        values["profile"] = _profile(bench, loops)
    return values


def summary(runs: Sequence[Run]) -> results.Results:
    """Sums up kinds of evaluations, and loops; each loop is compared with the first run by the same package.

    A kind costs the median, over its evaluations, of their seconds divided by those of the first loop in the same
    round: the load of a shared machine changes from round to round.
    """
    first = {run.by: run for run in reversed(runs)}
    kinds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in runs:
        for macs, seconds, full in zip(run.macs, run.seconds, first[run.by].seconds, strict=True):
            kinds.setdefault((run.by, macs), []).append((seconds, seconds / full))
    relative = {kind: statistics.median(ratio for _, ratio in samples) for kind, samples in kinds.items()}
    loops = []
    for run in runs:
        reference = first[run.by]
        ideal = sum(reference.macs) / sum(run.macs)
        typical = sum(relative[run.by, n] for n in reference.macs) / sum(relative[run.by, n] for n in run.macs)
        loops.append(
            {
                "by": run.by,
                "loop": str(run.loop),
                "macs": sum(run.macs),
                "kinds": {str(macs): run.macs.count(macs) for macs in dict.fromkeys(run.macs)},
                "seconds": [round(seconds, 5) for seconds in run.seconds],
                "ideal": round(ideal, 3),
                "speedup": round(sum(reference.seconds) / sum(run.seconds), 3),
                "speedup_by_medians": round(typical, 3),
                "of_ideal": round(typical / ideal, 3),
            }
        )
    spreads = [
        {
            "by": by,
            "macs": macs,
            **spread([seconds for seconds, _ in samples]),
            "relative": round(relative[by, macs], 5),
        }
        for (by, macs), samples in kinds.items()
    ]
    return {"kinds": spreads, "loops": loops}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Returns how many numbers there are, their median, and the smallest and the largest."""
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 5),
        "min": round(ordered[0], 5),
        "max": round(ordered[-1], 5),
    }


def _profile(bench: Bench, loops: Sequence[Loop]) -> list[results.Results]:
    """Times a full step, and a cached one at each branch, operation by operation."""
    steps: list[results.Results] = []
    for branch in sorted({loop.deepcache.branch for loop in loops if loop.deepcache}):
        deep = bench.step(branch + 1)[1]
        mx.eval(deep)
        if not steps:
            steps.append(_totals("full", _fastest(bench, branch + 1, None)))
        steps.append(_totals(f"branch {branch}", _fastest(bench, branch + 1, deep)))
    return steps


def _fastest(bench: Bench, depth: int, deep: mx.array | None) -> list[Operation]:
    """The operations of a step, each with the least of its seconds in a few rounds."""
    rounds = []
    for _ in range(_PROFILE_ROUNDS):
        with timing(bench.unet) as timed:
            mx.eval(bench.step(depth, deep))
        rounds.append(timed)
    repeats = zip(*rounds, strict=True)
    return [repeat[0]._replace(seconds=min(o.seconds for o in repeat)) for repeat in repeats]


def _totals(step: str, timed: Sequence[Operation]) -> results.Results:
    def rows(key: Callable[[Operation], str]) -> results.Results:
        """Sums up operations that have the same key."""
        return {
            name: {"seconds": round(o.seconds, 5), "macs": o.macs, "bytes": o.bytes}
            for name, o in totals(timed, key).items()
        }

    return {"step": step, "operations": rows(lambda o: o.op), "levels": rows(lambda o: o.level)}


if __name__ == "__main__":
    sys.exit(main())
