"""The one thread that owns MLX, what it does, and the Studio that holds all parts."""
