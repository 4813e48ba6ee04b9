"""Seeds of pictures: their range, and how one is drawn where the user names none."""

import secrets
from typing import Any

from .core.errors import InputError

HIGHEST = 2**32 - 1
RANDOM = -1  # as other programs write it


def parse(value: Any) -> int | None:
    """Returns the seed, None for -1, which is a random one; InputError where it is no whole number or out of range."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"seed must be a whole number, not {value!r}")
    seed = int(value)
    if not RANDOM <= seed <= HIGHEST:
        raise InputError(f"seed must be from 0 to {HIGHEST}, or -1 for a random one, not {seed}")
    return None if seed == RANDOM else seed


def draw(count: int = 1) -> int:
    """Returns a random seed from which on there are `count` seeds in range."""
    return secrets.randbelow(max(HIGHEST + 2 - count, 1))
