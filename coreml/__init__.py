"""The networks of mlx_sd -> Core ML packages, made and checked on any operating system."""

import mlx_sd  # noqa: F401 - before mlx.core, for its BLAS
