"""The recipe of the embedded checkpoint: its drawn landscapes and the training stages."""
