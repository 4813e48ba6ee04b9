"""The command `python -m mlx_sd.generate`, whose code is in `mlx_sd.cli`."""
