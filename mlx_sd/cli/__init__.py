"""The command line `python -m mlx_sd.generate`."""
