"""The command mlx-sd tune: measures the choices of this machine, and keeps what is faster."""
