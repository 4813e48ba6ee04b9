"""The command line: python -m mlx_sd.generate "PROMPT"."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core import command
from . import flags

if TYPE_CHECKING:
    from ..ranks.exchange import Ranks

NAME = "mlx_sd.generate"
_RANK = "MLX_RANK"  # the variable by which mlx.launch tells each process its rank


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, or this rank's share of it where mlx.launch has started several; returns the exit code."""
    if _RANK in os.environ:
        return _main_of_rank(list(sys.argv[1:] if argv is None else argv))
    arguments = _arguments(argv)
    from .making import make  # not for --help, and not where Ctrl-C would have to be caught

    def work() -> None:
        """Makes the pictures."""
        if arguments.split is not None:
            from ..split import Split

            Split(arguments.split)  # says that this is one process
        make(arguments, NAME)

    return command.run(NAME, work, quiet=arguments.quiet)


def _main_of_rank(words: Sequence[str]) -> int:
    """Runs the command line together with the other ranks, of which one prints what is wrong with it."""
    from ..ranks import launch

    def work(ranks: "Ranks") -> None:
        """Does this rank's share."""
        arguments = _arguments(words)
        if arguments.split is not None:
            from .making import make
            from .rank_start import check_devices
            from .split import make_together

            check_devices(ranks, arguments.same_device_only, lambda line: warnings.warn(line, stacklevel=2))
            make_together(arguments, ranks, lambda lead: make(arguments, NAME, lead))
        else:
            from .rank_making import make_share

            make_share(arguments, NAME, ranks)

    return command.run(NAME, lambda: launch.run(work, "--keep-going" in words), quiet="--quiet" in words)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = flags.parser(NAME)
    arguments: argparse.Namespace = p.parse_args(argv)
    if arguments.allow_changed and arguments.from_image is None:
        p.error("--allow-changed is about the picture of --from-image; give both")
    return arguments
