"""The memory of a training step, counted from shapes before the first step."""
