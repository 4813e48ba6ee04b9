"""Core ML packages from the networks of mlx_sd: lowered without PyTorch on any system, checked without a Mac."""

import mlx_sd  # noqa: F401 - before mlx.core, for its BLAS
