"""Core ML packages and Core AI assets from the networks of mlx_sd: without PyTorch, checked without a Mac."""

import mlx_sd  # noqa: F401 - before mlx.core, for its BLAS
