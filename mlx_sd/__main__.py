"""Runs the command mlx-sd: python -m mlx_sd."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
