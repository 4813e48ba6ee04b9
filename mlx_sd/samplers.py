"""The names that `--sampler` and `sampler=` take."""

from .sampling.samplers import names

__all__ = ["names"]
