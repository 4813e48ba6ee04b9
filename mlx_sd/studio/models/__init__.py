"""The models that clients may name, and their installation from the hub."""
