"""The command mlx-sd hosts: checks a hostfile of MLX's launcher, and each host in it, before a long run."""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core import command, terminal
from ..core.errors import Failure, InputError
from ..core.parser import Parser, program
from . import hostfile
from .survey import Options, survey
from .verdict import Verdict, judge

NAME = "mlx_sd.hosts"
_TITLES = 60  # characters of the line of progress

_EXAMPLES = """examples:
  {program} hosts.json
  {program} hosts.json --model models/sd15 --output /Volumes/pictures/
  {program} hosts.json --json > report.json

The exit code is 0 where a run can start, 1 where a host is not fit, and 2 where the hostfile is wrong.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    p = Parser(
        prog=program(NAME),
        description="Check the hosts of a hostfile of mlx.launch before a long run: ssh without a password, the same "
        "versions and the same model on all, clocks, disks, and the connections of MLX's ring.",
        epilog=_EXAMPLES.format(program=program(NAME)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("hostfile", type=Path, metavar="HOSTFILE", help="the JSON file that mlx.launch --hostfile takes")
    p.add_argument("--model", help="compare this model on all hosts, as --model of the run; nothing is downloaded")
    p.add_argument("--output", metavar="DIR", help="look at the disks of this folder, as --output of the run")
    p.add_argument("--python", default=sys.executable, help="the interpreter on the hosts (default: this one's path)")
    p.add_argument("--cwd", metavar="DIR", help="the folder on the hosts, if they have it (default: this one's path)")
    p.add_argument("--backend", choices=hostfile.BACKENDS, help="default: the hostfile's, or ring")
    p.add_argument("--starting-port", type=int, default=32323, metavar="N", help="of the ring (default 32323)")
    p.add_argument("--connections-per-ip", type=int, default=1, metavar="N", help="of the ring (default 1)")
    p.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for a host to answer (default 10)")
    p.add_argument("--json", action="store_true", help="print all that was seen as JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = parser().parse_args(argv)
    return command.run("mlx-sd hosts", lambda: _check(arguments))


def _check(arguments: argparse.Namespace) -> None:
    for option, value, least in (
        ("--starting-port", arguments.starting_port, 1),
        ("--connections-per-ip", arguments.connections_per_ip, 1),
        ("--timeout", arguments.timeout, 1),
    ):
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{option} must be at least {least}, not {value:g}")
    file = hostfile.read(arguments.hostfile, arguments.backend)
    options = Options(
        arguments.python,
        arguments.cwd or os.getcwd(),  # noqa: PTH109 - as the launcher writes it
        arguments.model,
        arguments.output,
        arguments.starting_port,
        arguments.connections_per_ip,
        arguments.timeout,
    )
    status = _Status()
    try:
        verdicts = judge(survey(file, options, status.show), file.backend)
    finally:
        status.clear()
    if arguments.json:
        report = {
            "backend": file.backend,
            "fit": all(v.fit for v in verdicts),
            "hosts": [v.to_json() for v in verdicts],
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        width = max(len(host.name) for host in file.hosts)
        for verdict in verdicts:
            print(verdict.line(width))
    _conclude(verdicts, arguments)


def _conclude(verdicts: Sequence[Verdict], arguments: argparse.Namespace) -> None:
    """Prints how a run is started; Failure where a host is not fit for one."""
    unfit = [verdict.finding.name for verdict in verdicts if not verdict.fit]
    if unfit:
        count = f"{len(unfit)} of {len(verdicts)} hosts" if len(verdicts) > 1 else "the host"
        raise Failure(f"{count} cannot take part in a run: {', '.join(unfit)}")
    folder = f" --cwd {shlex.quote(arguments.cwd)}" if arguments.cwd else ""
    port = f" --starting-port {arguments.starting_port}" if arguments.starting_port != 32323 else ""
    words = f"mlx.launch --hostfile {shlex.quote(str(arguments.hostfile))}{folder}{port}"
    print(f"a run can start: {words} -- {shlex.quote(arguments.python)} -m mlx_sd.generate ...", file=sys.stderr)


class _Status:
    """One line on a terminal about what is waited for."""

    def __init__(self) -> None:
        self._line = ""

    def show(self, title: str, names: Sequence[str]) -> None:
        """Shows the title and the names, cut to one line."""
        line = f"{title} {', '.join(names)}"
        line = line if len(line) <= _TITLES else f"{line[:_TITLES]}..."
        if terminal.visible() and line != self._line:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            self._line = line

    def clear(self) -> None:
        """Removes the line from the terminal."""
        if self._line:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
