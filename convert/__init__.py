"""Hugging Face checkpoints -> model folders that mlx_sd loads."""

import mlx_sd  # noqa: F401 - before mlx.core, for its BLAS
