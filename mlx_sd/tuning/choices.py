"""The choices that a machine can make about itself, as a table, and tunings as text. Nothing here needs MLX."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.suggestions import unknown
from ..networks.tuning import DEFAULT, HEADS, Tuning

WINOGRAD = "MLX_CONV_WINOGRAD_WORKING_SET"  # bytes, read by MLX newer than 0.32.1 on Metal
OFF, MEASURED = "off", "measured"
FORM = f"{MEASURED}|{OFF}|NAME=VALUE,..."
_SMALLEST, _LARGEST = 1 << 10, 1 << 40  # of sizes that are no few values


class Shapes(NamedTuple):
    """Shapes inside one evaluation of a model, by which it is seen whether a choice changes anything."""

    activation: int  # elements of the largest activation
    scores: int  # elements of the largest matrix of scores
    heads: tuple[int, ...]  # sizes of heads
    channels: int  # the fewest that a convolution takes


class Choice(NamedTuple):
    """One choice: a field of `Tuning`, the values that are measured, and where it changes anything."""

    name: str
    values: tuple[Any, ...]  # the default first
    devices: tuple[str, ...]
    summary: str
    matters: Callable[[Shapes, Any], bool]  # whether a value computes otherwise than the default


CHOICES: tuple[Choice, ...] = (
    Choice(
        "compile_step",
        (False, True),
        ("cpu", "gpu"),
        "the full and the cached step of the UNet by mx.compile",
        lambda shapes, value: True,
    ),
    Choice(
        "conv_in_channels",
        (1, 16),
        ("cpu", "gpu"),
        "the channels of the first convolution padded with zeros to 16, as Metal's fast paths want",
        lambda shapes, value: shapes.channels < value,
    ),
    Choice(
        "attention_heads",
        HEADS,
        ("gpu",),
        "heads padded to the sizes with a fused kernel: those that MLX chooses, none, or also 192 and 256",
        lambda shapes, value: value == "none" or any(dim > 128 for dim in shapes.heads),
    ),
    Choice(
        "piece",
        (1 << 18, 1 << 16, 1 << 20),
        ("cpu",),
        "elements of an activation that are computed at once",
        lambda shapes, value: shapes.activation > min(value, DEFAULT.piece),
    ),
    Choice(
        "scores",
        (1 << 20, 1 << 18, 1 << 22),
        ("cpu",),
        "elements of attention's scores that are computed at once",
        lambda shapes, value: shapes.scores > min(value, DEFAULT.scores),
    ),
    Choice(
        "fuse_from",
        (1 << 21, 1 << 19, 1 << 40),
        ("cpu",),
        "elements from which activations are one compiled kernel",
        lambda shapes, value: max(shapes.activation, shapes.scores) >= min(value, DEFAULT.fuse_from),
    ),
)


class Variable(NamedTuple):
    """One choice that MLX reads from the environment in which a process begins; a user sets it, nothing else does."""

    name: str
    value: str  # that is compared with none
    devices: tuple[str, ...]
    above: tuple[int, ...]  # the last version of MLX that does not read it
    summary: str

    def applies(self, device: str, version: str, environment: Mapping[str, str]) -> bool:
        """Returns whether it can be measured: on this device, by this version of MLX, where nobody has set it."""
        number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        return device in self.devices and number > self.above and self.name not in environment


VARIABLES: tuple[Variable, ...] = (
    Variable(
        WINOGRAD,
        str(1 << 30),
        ("gpu",),
        (0, 32, 1),
        "bytes that Winograd convolutions may use on Metal",
    ),
)
BY_NAME: Mapping[str, Choice] = {choice.name: choice for choice in CHOICES}


def text_of(value: Any) -> str:
    """Returns the value of a choice as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_tuning(text: str) -> Tuning:
    """Reads "NAME=VALUE,..."; InputError names the part that is no value of a choice."""
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals:
            raise InputError(f"--tuning takes {FORM}, for example compile_step=true, not {text!r}")
        if name not in BY_NAME:
            raise unknown("choice of --tuning", name, list(BY_NAME))
        if name in values:
            raise InputError(f"--tuning says {name} twice")
        values[name] = _value(BY_NAME[name], value)
    return Tuning(**values)


def parse(value: Any) -> str:
    """Returns the value of a request's field: "off", "measured", or a tuning in its canonical text."""
    if isinstance(value, str) and value in (OFF, MEASURED):
        return value
    tuning = value if isinstance(value, Tuning) else None
    if tuning is None:
        if not isinstance(value, str):
            raise InputError(f"--tuning takes {FORM}, not {value!r}")
        tuning = parse_tuning(value)
    return str(tuning) or OFF


def named(names: Sequence[str]) -> list[Choice]:
    """Returns the choices with these names, in the order of the table; all without names. InputError for others."""
    for name in names:
        if name not in BY_NAME:
            raise unknown("choice", name, list(BY_NAME))
    return [choice for choice in CHOICES if not names or choice.name in names]


def applicable(choices: Sequence[Choice], device: str, shapes: Shapes) -> list[Choice]:
    """Returns the choices that change anything on a device and for these shapes, with the values that do."""
    return [
        choice._replace(values=(choice.values[0], *values))
        for choice in choices
        if device in choice.devices
        and (values := tuple(value for value in choice.values[1:] if choice.matters(shapes, value)))
    ]


def _value(choice: Choice, text: str) -> Any:
    """Reads a value of a choice: one of its few, or any size."""
    default = choice.values[0]
    by_text = {text_of(value): value for value in choice.values}
    if text.lower() in by_text:
        return by_text[text.lower()]
    sizes = isinstance(default, int) and default >= _SMALLEST
    if sizes and text.isascii() and text.isdecimal() and len(text) < 20 and _SMALLEST <= int(text) <= _LARGEST:
        return int(text)
    kinds = f"a whole number from {_SMALLEST} to {_LARGEST}" if sizes else " or ".join(by_text)
    raise InputError(f"--tuning {choice.name} is {kinds}, not {text!r}")
