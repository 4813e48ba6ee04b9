"""Seconds and multiplications: sampling loops, single operations, and predictions for chips not at hand."""
