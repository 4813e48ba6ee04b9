"""The recipe of the embedded checkpoint: its drawn world and the training stages."""
