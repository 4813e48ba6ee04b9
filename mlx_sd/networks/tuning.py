"""How the operations of the networks compute where there is a choice, and the one place that holds the choice.

Every operation reads `current()`. It is `DEFAULT` but for the evaluations that `TunedUNet` runs: exports, training and
plans of memory are the same whatever a machine has measured. Nothing here needs MLX.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

HEADS = ("kernels", "none", "all")


@dataclass(frozen=True)
class Tuning:
    """One value of each choice; the defaults are those of machines on which nothing was measured."""

    compile_step: bool = False  # the full and the cached step by mx.compile
    conv_in_channels: int = 1  # convolutions of fewer channels are padded with zeros to so many
    attention_heads: str = "kernels"  # on a GPU, heads are padded to the sizes that `ops.head_sizes` has for this name
    piece: int = 1 << 18  # on the CPU, elements of a piece of an activation: a megabyte of float32
    scores: int = 1 << 20  # the same for attention, whose matrix products are faster on larger pieces
    fuse_from: int = 1 << 21  # on the CPU, elements from which a kernel compiled by MLX is used

    def __str__(self) -> str:
        return ",".join(f"{name}={_text(value)}" for name, value in self.changes().items())

    def changes(self) -> dict[str, Any]:
        """Returns the choices whose value is not the default, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


class Coverage(NamedTuple):
    """The evaluations on which a tuning was compared with the default, bit for bit."""

    rows: tuple[int, ...]  # of a batch
    height: int  # of the latents
    width: int
    tokens: int  # of the context, 0 where there is none


class Tuned(NamedTuple):
    """What was measured for one size of pictures of a model on this machine."""

    exact: Tuning  # the fastest that changes no bit, within the coverage
    fastest: Tuning  # the fastest, whatever it changes
    coverage: Coverage


DEFAULT = Tuning()
_current = DEFAULT


def current() -> Tuning:
    """Returns the tuning by which operations compute now."""
    return _current


@contextmanager
def using(tuning: Tuning) -> Iterator[None]:
    """Computes by a tuning while it is open: of operations that are called, whenever MLX evaluates them."""
    global _current
    before, _current = _current, tuning
    try:
        yield
    finally:
        _current = before


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
