"""Time and memory of both formats of an export, and the errors of assets in Apple's runtime: python -m bench exports.

Each export of all networks runs in processes of its own; the peak is that of the largest of them. The formats take
turns, so that both meet the same load of the machine. --check exports float32 assets at a size, and compares every
function with MLX in Apple's CPU runtime.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coreml import asset_checks
from coreml.coreai import availability
from coreml.export import export
from coreml.plan import FORMATS, defaults
from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import arguments, process, results
from ..machine import describe

_EXAMPLES = """examples:
  python -m bench exports --model sd15 --json bench/results/exports-sd15-cpu.json
  python -m bench exports --model sd15 --repeat 0 --check 512 --json bench/results/assets-sd15-cpu.json
  python -m bench exports --model sdxl --format coreai --repeat 1 --json bench/results/exports-sdxl-cpu.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("exports", __doc__, _EXAMPLES)
    p.add_argument("--model", default="tiny", help="as python -m coreml takes it (default: the embedded model)")
    p.add_argument("--format", default=",".join(FORMATS), metavar="NAME,...", help="default both, in turns")
    p.add_argument("--repeat", type=int, default=2, metavar="N", help="how often each is measured (default 2)")
    p.add_argument("--check", type=int, metavar="SIDE", help="pixels along both sides of the assets that are run")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench exports", lambda: _exports(options))


def _exports(options: argparse.Namespace) -> None:
    availability.check()
    formats = options.format.split(",")
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    values: results.Results = {
        "settings": {"model": options.model, "dtype": "float16", "batch": 2},
        "runs": {name: [] for name in formats},
        "machine": describe() | {name: version(name) for name in ("coremltools", availability.DISTRIBUTION)},
    }
    for _ in range(options.repeat):
        for name in formats:
            values["runs"][name].append(measure(options.model, name))
            print(f"{name}: {values['runs'][name][-1]}", file=sys.stderr, flush=True)
            if options.json:  # at once, for the next may take long
                results.write(options.json, values)
    if options.repeat and len(formats) == len(FORMATS):
        coreml, coreai = (statistics.median(run["seconds"] for run in values["runs"][name]) for name in FORMATS)
        values["coreai_over_coreml"] = round(coreai / coreml, 3)
    if options.check:
        values["check"] = {"side": options.check, "dtype": "float32"} | check(options.model, options.check)
    results.report(values, options.json)


def measure(model: str, format: str) -> dict[str, Any]:
    """Exports all networks in float16; returns seconds, peak bytes of the largest process, and bytes written."""
    with tempfile.TemporaryDirectory() as home:
        out = Path(home, "out")
        usage = process.run_command(
            sys.executable, "-m", "coreml", "--model", model, "--format", format, "--out", str(out)
        )
        return usage | {"bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file())}


def check(model: str, side: int) -> dict[str, Any]:
    """Runs float32 assets of square pictures in Apple's runtime; returns the error of each output, relative to MLX."""
    options = replace(defaults("coreai"), dtype="float32", sizes=((side, side),))
    with tempfile.TemporaryDirectory() as home:
        out = Path(home, "out")
        export(model, out, options, report=lambda line: None)
        content, paths = asset_checks.content_of(out)
        checks = asset_checks.run(content, paths, model, True, lambda line: print(line, file=sys.stderr, flush=True))
        errors = {f"{c.package}.{c.function}.{c.output}": c.error for c in checks}
    return {"errors": errors, "largest": max(errors.values())}
