"""The networks of Stable Diffusion in MLX: UNet, autoencoder, text encoder. They know nothing of files."""
