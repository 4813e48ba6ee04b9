"""Measurements of the product: speed, memory and picture quality."""
