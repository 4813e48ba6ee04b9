"""Runs the command line: python -m mlx_sd.studio."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
