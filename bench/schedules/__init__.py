"""Optimised schedules of few steps (Align Your Steps), and the files that hold them."""
