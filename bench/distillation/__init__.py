"""Caching beside pruning and distillation: the trainings, and what they are compared by."""
