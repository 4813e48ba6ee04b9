"""Trains adapters, embeddings and networks of Stable Diffusion."""
