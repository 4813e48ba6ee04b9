"""The trainer: adapters, embeddings, networks and control networks learned from pictures, in MLX alone."""
