"""Seconds of steps and loops with what they reuse, beside the counted ideal, on any device: python -m bench latency.

The loops to be compared advance in turn, one evaluation each, so that whatever else the machine does falls on all; so
does a peer's. Evaluations that cost the same multiplications are of one kind, and "by medians" each costs its kind's
median, over the full step of the same round. The ideal is the ratio of multiplications, counted as the loops would run.
Weights are random.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten
from tqdm import tqdm

from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.core import command

from .. import results
from ..machine import describe, use
from .baseline import PEERS, Diffusers
from .loops import MODELS, Bench, Loop, Setting, check, setting
from .operations import Operation, timing, totals

_EXAMPLES = """examples:
  python -m bench latency --model tiny
  python -m bench latency --model sd15 --loop 3 --loop 5 --steps 10 --json bench/results/latency-sd15-cpu.json
  python -m bench latency --model sdxl --device gpu --dtype float16 --guided --profile
  python -m bench latency --model sd15 --guided --steps 25 --loop 3 --loop tgate:10 --loop 3/tgate:10
  python -m bench latency --model sd15 --loop 3 --steps 6 --peer diffusers
"""
DEFAULT = ("2", "3", "5", "10", "tgate:10", "3/tgate:10")
OURS = "mlx-sd"
_ROUNDS = 3  # of a profile


class Run(NamedTuple):
    """One loop as it was run: whose it is, and of each evaluation the multiply-accumulates and seconds."""

    by: str
    loop: Loop
    macs: list[int]
    seconds: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = command.Parser(
        prog="python -m bench latency",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", choices=MODELS, default="sd15", help="shapes; the weights are random")
    p.add_argument(
        "--loop",
        action="append",
        default=[],
        metavar="LOOP",
        help="what --deepcache takes, tgate: and what --tgate takes, or both with a slash between, as often as wanted, "
        f"beside the full loop (default {' '.join(DEFAULT)})",
    )
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--latents", type=int, metavar="SIDE", help="default: the model's")
    p.add_argument("--batch", type=int, default=1, help="pictures at once")
    p.add_argument("--guided", action="store_true", help="with guidance: twice as many latents through the UNet")
    p.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    p.add_argument("--device", choices=("cpu", "gpu"), help="default: MLX's")
    p.add_argument("--peer", choices=PEERS, help="run it in turn with ours, on the same shapes")
    p.add_argument("--profile", action="store_true", help="time a full and each cached step operation by operation")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = p.parse_args(argv)
    return command.run("bench latency", lambda: _latency(arguments))


def _latency(arguments: argparse.Namespace) -> None:
    use(arguments.device)
    chosen = setting(
        arguments.model,
        arguments.steps,
        arguments.latents,
        arguments.batch,
        arguments.guided,
        DTYPES[arguments.dtype],
    )
    loops = [Loop(), *(Loop.parse(text) for text in arguments.loop or DEFAULT)]
    check(loops, arguments.model, arguments.steps)
    found = measure(chosen, loops, peer=arguments.peer is not None, profile=arguments.profile)
    results.report(found | {"machine": describe()}, arguments.json)


def measure(chosen: Setting, loops: Sequence[Loop], peer: bool = False, profile: bool = False) -> results.Results:
    """Runs the loops in turn; the first is the one to compare with. Progress on a terminal."""
    theirs = Diffusers(chosen) if peer else None  # before expensive work: it may be missing
    bench = Bench(chosen)
    macs = {loop: bench.macs(loop) for loop in loops}
    mx.reset_peak_memory()
    bench.warm_up()
    runs, advancing = [Run(OURS, loop, macs[loop], []) for loop in loops], [bench.run(loop) for loop in loops]
    if theirs:
        theirs.warm_up()
        shared = [loop for loop in loops if theirs.runs(loop)]
        runs += [Run(PEERS[0], loop, macs[loop], []) for loop in shared]
        advancing += [theirs.run(loop) for loop in shared]
    for _ in tqdm(range(chosen.steps), unit="step", disable=not sys.stderr.isatty()):
        for run, loop in zip(runs, advancing, strict=True):
            clock = time.perf_counter()
            next(loop)
            run.seconds.append(time.perf_counter() - clock)
    weights: Any = tree_flatten(bench.unet.parameters())
    found = {
        "model": chosen.model,
        "latents": chosen.side,
        "pictures": chosen.batch,
        "guided": chosen.guided,
        "dtype": str(chosen.dtype).rpartition(".")[2],
        "steps": chosen.steps,
        **summary(runs),
        "peak_memory_over_weights": round(mx.get_peak_memory() / sum(array.nbytes for _, array in weights), 3),
        "load": [round(load, 2) for load in os.getloadavg()],
    }
    if theirs:
        found["peer"] = theirs.versions()
    if profile:
        found["profile"] = _profile(bench, loops)
    return found


def summary(runs: Sequence[Run]) -> results.Results:
    """Kinds of evaluations, and loops in them; each loop is compared with the first of the same maker.

    A kind costs the median of what its evaluations took over what the first loop's took in the same round, for a
    machine that others use is not the same from round to round.
    """
    first = {run.by: run for run in reversed(runs)}
    kinds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in runs:
        for macs, seconds, full in zip(run.macs, run.seconds, first[run.by].seconds, strict=True):
            kinds.setdefault((run.by, macs), []).append((seconds, seconds / full))
    relative = {kind: statistics.median(ratio for _, ratio in told) for kind, told in kinds.items()}
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
        {"by": by, "macs": macs, **_spread([seconds for seconds, _ in told]), "relative": round(relative[by, macs], 5)}
        for (by, macs), told in kinds.items()
    ]
    return {"kinds": spreads, "loops": loops}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 5),
        "min": round(ordered[0], 5),
        "max": round(ordered[-1], 5),
    }


def _profile(bench: Bench, loops: Sequence[Loop]) -> list[results.Results]:
    """A full step, and a cached one at each branch, operation by operation."""
    found: list[results.Results] = []
    for branch in sorted({loop.deepcache.branch for loop in loops if loop.deepcache}):
        deep = bench.step(branch + 1)[1]
        mx.eval(deep)
        if not found:
            found.append(_told("full", _least(bench, branch + 1, None)))
        found.append(_told(f"branch {branch}", _least(bench, branch + 1, deep)))
    return found


def _least(bench: Bench, depth: int, deep: mx.array | None) -> list[Operation]:
    """The operations of a step, each with the least of its seconds in a few of them."""
    rounds = []
    for _ in range(_ROUNDS):
        with timing(bench.unet) as timed:
            mx.eval(bench.step(depth, deep))
        rounds.append(timed)
    return [same[0]._replace(seconds=min(o.seconds for o in same)) for same in zip(*rounds, strict=True)]


def _told(step: str, timed: Sequence[Operation]) -> results.Results:
    def rows(key: Callable[[Operation], str]) -> results.Results:
        return {
            name: {"seconds": round(o.seconds, 5), "macs": o.macs, "bytes": o.bytes}
            for name, o in totals(timed, key).items()
        }

    return {"step": step, "operations": rows(lambda o: o.op), "levels": rows(lambda o: o.level)}


if __name__ == "__main__":
    sys.exit(main())
