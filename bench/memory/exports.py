"""Time and memory of both formats of an export, and the errors of assets in Apple's runtime: python -m bench exports.

--model sd15, sd21 and sdxl are those shapes with random float16 weights, written into the system's temporary folder,
which needs 10 GB for SD 1.5 and 15 GB for SDXL. Each export of all networks runs in processes of its own; the peak is
that of the largest of them. The forms take turns, so that all meet the same load of the machine: both formats as they
are without options, and Core ML with --unet chunks, because its default writes the UNet twice. --check exports float32
assets of a batch of one at a size, and compares every function with MLX in Apple's CPU runtime.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coreml import asset_checks
from coreml.coreai import availability
from coreml.export import export
from coreml.plan import FORMATS, UNETS, defaults
from mlx_sd.core import command
from mlx_sd.core.errors import InputError

from .. import arguments, models, process, results
from ..machine import describe

FORMS = ("coreml", "coreml:chunks", "coreai")
_DTYPE = "float16"  # of the random weights, and of the exports that are measured
_EXAMPLES = """examples:
  python -m bench exports --model sd15 --json bench/results/exports-sd15-cpu.json
  python -m bench exports --model sd15 --repeat 0 --check 512 --only unet --json bench/results/assets-sd15-cpu.json
  python -m bench exports --model sdxl --format coreai --repeat 1 --json bench/results/exports-sdxl-cpu.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("exports", __doc__, _EXAMPLES)
    shapes = ", ".join(models.NAMES)
    p.add_argument(
        "--model", default="tiny", help=f"{shapes} with random weights, or as python -m coreml takes it (default tiny)"
    )
    p.add_argument(
        "--format",
        default=",".join(FORMS),
        metavar="NAME,...",
        help="in turns; after a colon the value of --unet (default %(default)s)",
    )
    p.add_argument("--repeat", type=int, default=2, metavar="N", help="how often each is measured (default 2)")
    p.add_argument("--check", type=int, metavar="SIDE", help="pixels along both sides of the assets that are run")
    p.add_argument("--only", metavar="NAME,...", help="assets that --check runs, such as unet (default: all)")
    arguments.add_json(p)
    options = p.parse_args(argv)
    return command.run("bench exports", lambda: _exports(options))


def _exports(options: argparse.Namespace) -> None:
    availability.check()
    forms = options.format.split(",")
    for form in forms:
        name, _, unets = form.partition(":")
        if name not in FORMATS or (unets and unets not in UNETS):
            raise InputError(f"there is no form {form!r}; there are {', '.join(FORMATS)}, with :{', :'.join(UNETS)}")
    if options.only and not options.check:
        raise InputError("--only is of --check SIDE; give both, or neither")
    values: results.Results = {
        "settings": {
            "model": models.NAMES.get(options.model, options.model),
            "weights": "random" if options.model in models.NAMES else "of the checkpoint",
            "dtype": _DTYPE,
            "batch": 2,
            "attention": {name: defaults(name).attention for name in FORMATS},
        },
        "runs": {form: [] for form in forms},
        "machine": describe() | {name: version(name) for name in ("coremltools", availability.DISTRIBUTION)},
    }
    random = options.model in models.NAMES
    with models.temporary(options.model, _DTYPE) if random else nullcontext(options.model) as model:
        for _ in range(options.repeat):
            for form in forms:
                values["runs"][form].append(measure(str(model), form))
                print(f"{form}: {values['runs'][form][-1]}", file=sys.stderr, flush=True)
                if options.json:  # at once, for the next may take long
                    results.write(options.json, values)
        if options.repeat and "coreai" in forms and len(forms) > 1:
            seconds = {form: statistics.median(run["seconds"] for run in runs) for form, runs in values["runs"].items()}
            reference = seconds.pop("coreai")
            values["coreai_over"] = {form: round(reference / other, 3) for form, other in seconds.items()}
        if options.check:
            names = options.only.split(",") if options.only else []
            values["check"] = check(str(model), options.check, names)
    results.report(values, options.json)


def measure(model: str, form: str) -> dict[str, Any]:
    """Exports all networks in float16; returns seconds, peak bytes of the largest process, and bytes written.

    form: a format, and after a colon the value of --unet.
    """
    format, _, unets = form.partition(":")
    flags = ["--model", model, "--format", format, *(["--unet", unets] if unets else [])]
    with tempfile.TemporaryDirectory() as home:
        out = Path(home, "out")
        usage = process.run_command(sys.executable, "-m", "coreml", *flags, "--out", str(out))
        return usage | {"bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file())}


def check(model: str, side: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """Runs float32 assets of square pictures and a batch of one in Apple's runtime, and compares them with MLX.

    names: of the assets to run, in any case; none is all. Returns the error of each output, relative to its largest
    number, and the seconds of all. Raises InputError for a name that no asset has.
    """
    options = replace(defaults("coreai"), dtype="float32", sizes=((side, side),), batch=1)
    with tempfile.TemporaryDirectory() as home:
        out = Path(home, "out")
        export(model, out, options, report=lambda line: None)
        content, paths = asset_checks.content_of(out)
        by_name = {name.lower(): name for name in paths}
        for name in names:
            if name.lower() not in by_name:
                raise InputError(f"there is no asset {name!r}; there are {', '.join(paths)}")
        selected = {by_name[name.lower()]: paths[by_name[name.lower()]] for name in names} or paths
        clock, errors = time.perf_counter(), {}
        for c in asset_checks.run(content, selected, model, True, lambda line: print(line, file=sys.stderr)):
            errors[f"{c.package}.{c.function}.{c.output}"] = c.error
            print(f"{c.package}:{c.function} {c.output}: {c.error:.2g}", file=sys.stderr, flush=True)
        settings = {"side": side, "dtype": options.dtype, "batch": options.batch, "attention": options.attention}
        seconds = round(time.perf_counter() - clock, 1)
    return settings | {"errors": errors, "largest": max(errors.values()), "seconds": seconds}
