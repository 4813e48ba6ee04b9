"""Writes model folders for mlx_sd, and diffusers folders from them."""
