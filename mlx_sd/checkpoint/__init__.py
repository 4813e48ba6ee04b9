"""The folder format that `convert` writes, and the record of a loaded model."""
