"""The names that `--schedule` and `schedule=` take."""

from .sampling.schedules import names

__all__ = ["names"]
