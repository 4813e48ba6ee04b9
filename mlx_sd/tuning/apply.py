"""How a loaded model uses what was measured on its machine: nothing without a measurement, and no bit by itself."""

import warnings
from collections.abc import Mapping

from ..checkpoint.model import Model
from ..core.errors import InputError
from ..networks.tuned_unet import TunedUNet
from ..networks.tuning import DEFAULT, Tuned
from ..networks.unet import UNet
from . import record
from .choices import CHOICES, MEASURED, OFF, parse_tuning
from .measure import tunings

Size = tuple[int, int]  # width and height in pixels


def measured(model: Model) -> Mapping[Size, Tuned]:
    """Returns what was measured for a model on this machine, by size; a file that is damaged is one warning."""
    try:
        entries = record.read(record.path())
    except InputError as error:
        warnings.warn(str(error), stacklevel=1)  # of this line, so that Python shows it once
        return {}
    key = record.model_key(model) if entries else {}
    return {entry.size: tuned_of(entry) for entry in entries if entry.key == record.sized(key, *entry.size)}


def tuned_of(entry: record.Entry) -> Tuned:
    """Returns what follows from an entry."""
    exact, fastest = tunings(entry.findings, CHOICES)
    return Tuned(exact, fastest, entry.coverage)


def tuned_unet(model: Model, tuning: str | None, size: Size) -> TunedUNet | UNet:
    """Returns the UNet as a completed request calls it: tuned as the request says, or where that changes no bit."""
    if tuning is not None and tuning != OFF:
        return TunedUNet(model.unet, parse_tuning(tuning), compiled=model.compiled_steps)
    tuned = model.tunings.get(size)
    if tuning == OFF or tuned is None or tuned.exact == DEFAULT:
        return model.unet
    return TunedUNet(model.unet, tuned.exact, tuned.coverage, model.compiled_steps)


def completed(model: Model, tuning: str | None, size: Size) -> str | None:
    """Returns a request's tuning with the values that were measured in the place of "measured".

    None where these change no bit, as without it. InputError where nothing was measured for the size.
    """
    if tuning != MEASURED:
        return tuning
    width, height = size
    if (tuned := model.tunings.get(size)) is None:
        raise InputError(
            f"nothing was measured for pictures of {width} x {height} of this model on this machine; "
            f"mlx-sd tune --model {model.name} --size {width}x{height} does that"
        )
    return None if tuned.fastest == tuned.exact else str(tuned.fastest)


def words(model: Model, tuning: str | None, size: Size) -> str:
    """Returns one line about the tuning that a completed request is made with."""
    if tuning == OFF:
        return "tuned choices: off"
    if tuning is not None:
        return f"tuned choices: {tuning}, as the request says"
    tuned = model.tunings.get(size)
    if tuned is None:
        return f"tuned choices: none, nothing was measured for {size[0]} x {size[1]}"
    exact = str(tuned.exact) or "none is faster"
    others = f"; --tuning measured is faster, and changes last digits: {tuned.fastest}"
    return f"tuned choices: {exact}, bit for bit the same{others if tuned.fastest != tuned.exact else ''}"
