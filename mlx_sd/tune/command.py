"""The command mlx-sd tune: measures what is faster on this machine, for one model and size of pictures."""

import argparse
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..core import command, terminal
from ..core.errors import Failure, InputError, Interrupted
from ..core.parser import Parser, program
from ..core.places import shown
from ..request import DTYPES, MODEL
from ..spellings import parse_size
from ..tuning.choices import CHOICES, VARIABLES, applicable, named

if TYPE_CHECKING:
    from ..tuning.record import Entry
    from .meter import UNetMeter

NAME = "mlx_sd.tune"
_MINUTES = 5.0

_EXAMPLES = """choices:
{choices}

examples:
  {program}
  {program} --model models/sd15 --size 512x768 --minutes 10
  {program} --model models/sd15 --choices compile_step,conv_in_channels
  {program} --show

Pictures use by themselves what is faster and changes no bit. What changes last digits is used with
--tuning measured of generate alone, and recorded in the picture. Ctrl-C keeps what is measured, and the same command
goes on with it.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    width = max(len(choice.name) for choice in CHOICES)
    p = Parser(
        prog=program(NAME),
        description="Measure on this machine which ways to compute a model are faster, in a few minutes, and use those "
        "from now on.",
        epilog=_EXAMPLES.format(
            program=program(NAME),
            choices="\n".join(f"  {choice.name:{width}}  {choice.summary}" for choice in CHOICES),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", metavar="MODEL", help="as --model of generate (default: the embedded checkpoint)")
    p.add_argument("--size", type=_size, metavar="WxH", help="of the pictures in pixels (default: the checkpoint's)")
    p.add_argument("--dtype", choices=DTYPES, help="as --dtype of generate")
    p.add_argument("--quantize", metavar="BITS[:GROUP]", help="as --quantize of generate")
    p.add_argument(
        "--minutes", type=float, metavar="N", help=f"after which no round begins (default {_MINUTES:g}); more go on"
    )
    p.add_argument("--choices", type=_names, metavar="NAME,...", help="measure these alone (default: all)")
    p.add_argument("--json", action="store_true", help="print what was measured as JSON")
    p.add_argument("--show", action="store_true", help="print what was measured on this machine before, and no more")
    p.add_argument("--forget", action="store_true", help="remove all that was measured")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = parser()
    arguments = p.parse_args(argv)
    measuring = ("model", "size", "dtype", "quantize", "minutes", "choices")
    surplus = [f"--{name}" for name in measuring if getattr(arguments, name) is not None]
    if arguments.show and arguments.forget:
        p.error("--show and --forget do not go together")
    if (arguments.show or arguments.forget) and surplus:
        p.error(f"{surplus[0]} is about measuring; leave it out with --{'show' if arguments.show else 'forget'}")
    if arguments.minutes is not None and not (math.isfinite(arguments.minutes) and arguments.minutes > 0):
        p.error(f"--minutes must be above 0, not {arguments.minutes:g}")
    work = _forget if arguments.forget else _show if arguments.show else _tune
    return command.run("mlx-sd tune", lambda: work(arguments))


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> list[str]:
    try:
        return [choice.name for choice in named([name.strip() for name in text.split(",")])]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _forget(_arguments: argparse.Namespace) -> None:
    from ..tuning import record

    file = record.path()
    print(f"{shown(file)} is removed" if record.remove(file) else "nothing was measured yet")


def _show(arguments: argparse.Namespace) -> None:
    from ..tuning import record

    _print(arguments, record.of_this_machine(record.read(record.path())))


def _print(arguments: argparse.Namespace, entries: Sequence["Entry"]) -> None:
    from ..tuning.report import describe, lines_of

    if arguments.json:
        print(json.dumps([describe(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        key = entry.key
        print(f"{key['family']}, {key['width']} x {key['height']}, {key['dtype']}, on {key['chip']}, MLX {key['mlx']}")
        print("\n".join(f"  {line}" for line in lines_of(entry)))
    if not entries:
        print("nothing was measured on this machine with these versions; mlx-sd tune does that", file=sys.stderr)


def _tune(arguments: argparse.Namespace) -> None:
    """Measures until all is decided or the minutes are over, and prints what follows."""
    from ..completion import complete
    from ..core.files import check_writable
    from ..load import outline
    from ..pipeline import StableDiffusion
    from ..tuning import record
    from .meter import UNetMeter, request_for

    file = record.path()
    before = record.read(file)  # and what is wrong with it or with the size is said before a model is loaded
    check_writable(file.parent, "the cache")
    name, size = arguments.model or MODEL, arguments.size or (None, None)
    if (sketch := outline(name)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            complete(sketch, request_for(sketch, *size))
    sd = StableDiffusion.load(name, arguments.dtype, quantize=arguments.quantize)
    meter = UNetMeter(sd, request_for(sd.model, *size))
    key = record.key_of(sd.model, *meter.size)
    entry = next((former for former in before if former.key == key), record.Entry(key, meter.coverage))
    try:
        with _no_kernels():
            decided = _measure(arguments, entry, meter, lambda: record.write(file, entry))
    except KeyboardInterrupt:
        raise Interrupted(f"what is measured is in {shown(file)}; the same command goes on") from None
    except RuntimeError as error:
        raise Failure(
            f"MLX cannot run this model here: {str(error).splitlines()[0] if str(error) else error}"
        ) from None
    finally:
        _clear()
    _print(arguments, [entry])
    if not decided:
        print("the minutes are over; the same command goes on", file=sys.stderr)


def _measure(arguments: argparse.Namespace, entry: "Entry", meter: "UNetMeter", save: Callable[[], None]) -> bool:
    """Measures the choices of an entry, and then the variables of the environment; returns whether all are decided."""
    from ..tuning import measure
    from . import environment

    device = "gpu" if str(entry.key["chip"]).endswith("(gpu)") else "cpu"
    choices = applicable(CHOICES, device, meter.shapes())
    measured = arguments.choices or [choice.name for choice in choices]
    if unused := set(measured) - {choice.name for choice in choices}:
        raise InputError(f"{', '.join(sorted(unused))} changes nothing for this model and size on this device")
    version = str(entry.key["mlx"])
    variables = [v for v in VARIABLES if v.applies(device, version, os.environ) and not arguments.choices]
    seconds = 60 * (arguments.minutes or _MINUTES)
    end, parts = time.monotonic() + seconds, len(measured) + len(variables)
    decided = measure.tune(
        entry.findings,
        choices,
        meter,
        measured=measured,
        clock=time.monotonic,
        seconds=seconds * len(measured) / parts,
        save=save,
        progress=_progress,
    )
    exact, _ = measure.tunings(entry.findings, choices)
    width, height = meter.size
    settings = {
        "model": arguments.model or MODEL,
        "dtype": str(entry.key["dtype"]),
        "quantize": arguments.quantize,
        "width": width,
        "height": height,
        "tuning": str(exact),
    }
    for variable in variables if decided else ():
        finding = environment.finding_of(entry.findings, variable, exact)
        environment.measure_variable(
            finding, variable, meter, exact, settings, lambda _: time.monotonic() >= end, save, _progress
        )
        decided = decided and finding.decided
    return decided


@contextmanager
def _no_kernels() -> Iterator[None]:
    """Hides the kernels that MLX compiled for the CPU before, so that what the first call costs is measured in full.

    MLX keeps them in the folder for temporary files, which the system empties.
    """
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="mlx-sd-tune-") as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def _progress(choice: str, rounds: int) -> None:
    from ..tuning.measure import MOST

    if terminal.visible():
        print(f"\r\033[K{choice}: round {rounds + 1} of at most {MOST}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if terminal.visible():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
