"""Hugging Face checkpoints -> model folders that mlx_sd loads."""
