"""The networks in MLX: UNet, autoencoder, text encoder and class embedder. They read and write no files."""
