"""Tests of pruning: channels, scores, plans, and the weights that are cut."""
