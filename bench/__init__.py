"""Measurements, and the recipe of the embedded checkpoint."""

import mlx_sd  # noqa: F401 - before mlx.core, for its BLAS
