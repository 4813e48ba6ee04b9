"""Checks of the Macs in a hostfile of MLX's launcher before a long run: mlx-sd hosts HOSTFILE."""
