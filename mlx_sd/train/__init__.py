"""The trainer: LoRAs, embeddings and whole networks, in MLX alone, from the networks that make pictures."""
