"""Simulated clusters of Macs, not measurements: python -m bench cluster.

Batches: 1 to 64 Macs make independent pictures. With work stealing, a Mac that is free takes the next job; dealt out,
the r-th of N has every N-th job. Pairs: two Macs share each picture by --split guidance, and exchange one row of
guidance at each evaluation. Seconds of an evaluation are predictions for a chip (bench predict), or medians of bench
latency; connections are assumptions (bench/speed/networks.py). Text encoders and decoders are left out.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import arguments, results
from ..machine import describe
from ..models import UNETS
from .cluster_costs import Picture, measured, predicted
from .cluster_events import MESSAGES, batch, lengths, share
from .loops import Loop
from .networks import NETWORKS, Network
from .predict import chip_name

_EXAMPLES = """examples:
  python -m bench cluster
  python -m bench cluster "M2 Pro" "M1+M4 Max" --model sdxl --loop 3 --jobs 1000
  python -m bench cluster --latency bench/results/latency-tiny-guided-cpu.json --loop 3:0
  python -m bench cluster --json bench/results/cluster.json
"""
CLUSTERS = ("M2 Pro", "M1+M4 Max")
MACS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LOOPS = ("full", "3", "3/tgate:10")
_JOIN = "+"


class Assumptions(NamedTuple):
    """What a simulation assumes beside the costs of a picture."""

    macs: tuple[int, ...] = MACS
    jobs: int = 500
    start: float = 10.0  # seconds until a Mac begins with its first job
    spread: float = 0.05  # relative, of a job's length
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("cluster", __doc__, _EXAMPLES)
    p.add_argument("clusters", nargs="*", metavar="CHIPS", help=f"a chip, or chips in turn (default: {list(CLUSTERS)})")
    p.add_argument("--model", choices=tuple(UNETS), action="append", help="may be repeated (default: sd15, sdxl)")
    p.add_argument("--loop", action="append", metavar="LOOP", help=f"as in latency (default {', '.join(LOOPS)})")
    p.add_argument("--network", choices=tuple(NETWORKS), action="append", help="may be repeated (default: all)")
    p.add_argument("--latency", type=Path, metavar="FILE", help="results of bench latency --guided, for the seconds")
    p.add_argument("--row", type=Path, metavar="FILE", help="with --latency: the same without --guided, for one row")
    p.add_argument("--macs", type=int, nargs="+", default=list(MACS), metavar="N", help="sizes of the clusters")
    p.add_argument("--jobs", type=int, default=500, help="pictures of a batch")
    p.add_argument("--steps", type=int, default=25, help="of the sampler")
    p.add_argument("--start", type=float, default=10.0, help="seconds until a Mac begins: it loads the model")
    p.add_argument("--spread", type=float, default=0.05, help="of the jobs' lengths, relative")
    p.add_argument("--seed", type=int, default=0, help="of the jobs' lengths")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench cluster", lambda: _cluster(options))


def _cluster(options: argparse.Namespace) -> None:
    if options.row and not options.latency:
        raise InputError("--row goes with --latency")
    if options.latency and (options.clusters or options.model):
        raise InputError("--latency has its own machine and model; leave out the chips and --model")
    assumptions = Assumptions(tuple(options.macs), options.jobs, options.start, options.spread, options.seed)
    check(assumptions)
    loops = [Loop.parse(text) for text in options.loop or LOOPS]
    networks = {name: NETWORKS[name] for name in options.network or NETWORKS}
    cases: dict[tuple[str, str, Loop], list[Picture]] = {}  # cluster, model, loop -> the picture on each kind of Mac
    if options.latency:
        model = str(results.read(options.latency)["model"])
        for loop in loops:
            cases["as measured", model, loop] = [measured(options.latency, options.row, loop)]
    else:
        clusters = [[chip_name(chip) for chip in text.split(_JOIN)] for text in options.clusters or CLUSTERS]
        for model in options.model or ("sd15", "sdxl"):
            for loop in loops:
                for chips in clusters:
                    pictures = [predicted(chip, model, loop, options.steps) for chip in chips]
                    cases[f" {_JOIN} ".join(chips), model, loop] = pictures
    values = simulate(cases, networks, assumptions)
    if options.json:
        results.write(options.json, values | {"machine": describe()})
    for line in lines(values):
        print(line)


def check(assumptions: Assumptions) -> None:
    """Raises InputError for clusters without Macs, batches without jobs, and spans of time that are none."""
    if min(assumptions.macs) < 1 or assumptions.jobs < 1:
        raise InputError(f"there must be at least 1 Mac and 1 job, not {min(assumptions.macs)} and {assumptions.jobs}")
    for name in ("start", "spread"):
        value = getattr(assumptions, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"--{name} must be at least 0, not {value:g}")


def simulate(
    cases: dict[tuple[str, str, Loop], list[Picture]], networks: dict[str, Network], assumptions: Assumptions
) -> results.Results:
    """Simulates batches and shared pictures; every row and the whole say that they are a simulation.

    cases: by cluster, model and loop, the picture on each kind of Mac, which stand in turn.
    """
    batches, shared = [], []
    for (cluster, model, loop), kinds in cases.items():
        about = {"simulation": True, "cluster": cluster, "model": model, "loop": str(loop)}
        batches += [about | row for row in _batches(kinds, assumptions)]
        for name, network in networks.items():
            first, second = islice(cycle(kinds), 2)
            pair = share(first, second, network)
            fastest = min(picture.seconds for picture in (first, second))
            shared.append(
                about
                | {
                    "network": name,
                    "alone": round(fastest, 3),
                    "shared": round(pair.seconds, 3),
                    "speedup": round(fastest / pair.seconds, 3),
                    "exchanging": round(pair.exchanging, 4),
                    "evaluations": len(first.sent),
                    "gate": first.gate,
                    "bytes": sum(first.sent),
                    "largest": max(first.sent),
                }
            )
    return {
        "simulation": True,
        "assumptions": {
            **assumptions._asdict(),
            "messages": MESSAGES,
            "networks": {name: network._asdict() for name, network in networks.items()},
        },
        "batches": batches,
        "shared": shared,
    }


def _batches(kinds: Sequence[Picture], assumptions: Assumptions) -> list[results.Results]:
    """Simulates one batch on clusters of each size: stolen and dealt out, and stolen by pairs over Thunderbolt."""
    factors = lengths(assumptions.jobs, assumptions.spread, assumptions.seed)
    alone = sum(factors) * kinds[0].seconds + assumptions.start  # of one Mac, the first of the cluster
    rows = []
    for count in assumptions.macs:
        macs = list(islice(cycle(kinds), count))
        singles = [picture.seconds for picture in macs]
        pairs = [
            share(first, second, NETWORKS["thunderbolt"]).seconds
            for first, second in zip(macs[::2], macs[1::2], strict=False)
        ]
        pairs += singles[-1:] if count % 2 else []
        row: results.Results = {
            "macs": count,
            "ideal": round(sum(kinds[0].seconds / duration for duration in singles), 3),
        }
        for name, workers, stealing in (
            ("stealing", singles, True),
            ("dealing", singles, False),
            ("pairs", pairs, True),
        ):
            done = batch(workers, factors, stealing, assumptions.start)
            row[name] = {
                "seconds": round(done.seconds, 2),
                "pictures_per_minute": round(60 * assumptions.jobs / done.seconds, 3),
                "speedup": round(alone / done.seconds, 3),
                "idle": round(1 - sum(done.busy) / (len(workers) * done.seconds), 4),
            }
        rows.append(row)
    return rows


def lines(values: results.Results) -> list[str]:
    """Describes the largest cluster of each kind, and each shared picture, in one line each."""
    jobs = values["assumptions"]["jobs"]
    text = []
    for row in values["batches"]:
        if row["macs"] == max(values["assumptions"]["macs"]):
            stealing, dealing, pairs = (row[name] for name in ("stealing", "dealing", "pairs"))
            text.append(
                f"simulation: {row['macs']} Macs of {row['cluster']}, {row['model']}, {row['loop']}, {jobs} pictures: "
                f"{stealing['speedup']:.1f} times one Mac with work stealing, {dealing['speedup']:.1f} dealt out, "
                f"{pairs['speedup']:.1f} in pairs that share pictures"
            )
    for row in values["shared"]:
        text.append(
            f"simulation: two Macs of {row['cluster']}, {row['model']}, {row['loop']}, over {row['network']}: a "
            f"picture in {row['shared']:.2f} s, {row['speedup']:.2f} times as fast as one Mac; "
            f"{row['exchanging']:.2f} s of it exchange {row['bytes'] / 1e6:.1f} MB"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
