"""Time beside the sampling loop of one picture of the embedded checkpoint, of this tree beside another.

The command runs with 1 step and with 11; a tenth of the difference is one step. The run with 1 step without that step
is everything beside the loop: Python, imports, loading, the prompt, the first evaluation's preparation, decoding and
saving. Rounds alternate between the trees, so that both meet the same load of the machine.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import process, results
from ..arguments import add_json, parser
from ..machine import describe
from ..results import Results

FEW, MANY = 1, 11  # steps
_KINDS = ("seconds", "processor_seconds")
_PROMPT = "a red tent in the center on green grass, under a clear day sky"
_CODE = (
    "import runpy, sys; sys.path[0], *sys.argv = sys.argv[1:]; "
    "runpy.run_module('mlx_sd.generate', run_name='__main__', alter_sys=True)"
)
_EXAMPLES = """examples:
  python -m bench startup
  git worktree add ../before 24f2947
  python -m bench startup --before ../before --json bench/results/startup-tiny-cpu.json"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = parser("startup", __doc__, _EXAMPLES)
    p.add_argument("--before", type=Path, metavar="TREE", help="another checkout of this project")
    p.add_argument("--rounds", type=int, default=9, help="runs of each tree, default 9")
    add_json(p)
    arguments = p.parse_args(argv)
    return command.run(
        "bench startup", lambda: results.report(measure(arguments.before, arguments.rounds), arguments.json)
    )


def measure(before: Path | None, rounds: int) -> Results:
    """Returns the rounds of this tree and of `before`, if there is one, and the medians beside the loop."""
    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, not {rounds}")
    trees = {"now": Path(__file__).resolve().parents[2]}
    if before is not None:
        if not (before / "mlx_sd").is_dir():
            raise InputError(f"--before {before}: no checkout of mlx-sd; give the folder that holds mlx_sd")
        trees["before"] = before.resolve()
    with tempfile.TemporaryDirectory() as folder:
        for tree in trees.values():  # converts the checkpoint where that has not been done, and fills the disk's cache
            _run(tree, FEW, folder)
        load = [os.getloadavg()[0]]
        measured = [
            {name: {str(steps): _run(tree, steps, folder) for steps in (FEW, MANY)} for name, tree in trees.items()}
            for _ in range(rounds)
        ]
        load.append(os.getloadavg()[0])
    return {
        "model": "tiny",
        "steps": [FEW, MANY],
        "load_average": load,  # before and after: processes that wanted a core, these included
        "beside_the_loop": {name: _summary([entry[name] for entry in measured]) for name in trees},
        "rounds": measured,
        "machine": describe(),
    }


def _run(tree: Path, steps: int, folder: str) -> dict[str, float]:
    """Runs the command of a tree once."""
    flags = [_PROMPT, "--seed", "0", "--steps", str(steps), "--output", f"{folder}/picture.png"]
    byte_code = ("env", "-u", "PYTHONDONTWRITEBYTECODE")  # of the modules, which an installed package has
    return process.run_command(*byte_code, sys.executable, "-c", _CODE, str(tree), "mlx_sd.generate", *flags)


def _summary(runs: list[dict[str, dict[str, float]]]) -> Results:
    """Returns median, least and most of the seconds beside the loop, and the median of the peak memory."""
    few, many = ([run[str(steps)] for run in runs] for steps in (FEW, MANY))
    summary: Results = {}
    for kind in _KINDS:
        seconds = [a[kind] - (b[kind] - a[kind]) / (MANY - FEW) for a, b in zip(few, many, strict=True)]
        values = statistics.median(seconds), min(seconds), max(seconds)
        summary[kind] = dict(zip(("median", "least", "most"), (round(v, 3) for v in values), strict=True))
    return summary | {"peak_bytes": round(statistics.median(run["peak_bytes"] for run in few))}
