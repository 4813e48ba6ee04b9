"""Training in MLX: LoRAs, embeddings, networks, ControlNets and distilled students."""
