"""What the server answers, by subject; the table that joins them is in `mlx_sd.studio.server.app`."""
