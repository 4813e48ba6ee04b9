"""Data parallel training: processes that each learn from a share of every step's pictures."""
