"""The command line: python -m mlx_sd.generate "PROMPT"."""

from collections.abc import Sequence

from ..core import command
from . import flags

NAME = "mlx_sd.generate"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = flags.parser(NAME)
    arguments = p.parse_args(argv)
    if arguments.allow_changed and arguments.from_image is None:
        p.error("--allow-changed is about the picture of --from-image; give both")
    from .making import make  # not for --help, and not where Ctrl-C would have to be caught

    return command.run(NAME, lambda: make(arguments, NAME), quiet=arguments.quiet)
