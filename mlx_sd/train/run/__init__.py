"""The folder of a training run: its lock, settings, checkpoints, log, plot and sample pictures."""
