"""Reads checkpoints from diffusers folders, single files and the hub into one record: configs and unread tensors."""
