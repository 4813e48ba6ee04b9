"""Structured pruning of UNets: channels are scored, a smaller shape is planned, and the weights are cut to it."""
