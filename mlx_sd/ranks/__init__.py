"""Processes that MLX's launcher starts together (mlx.launch -n 2 ...): what they exchange, and how they end."""
