"""What `--control` takes: a control network, the image that it sees, how much of it, and during which steps."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.files import is_there
from ..core.suggestions import did_you_mean
from .image_argument import (
    NUMBER,
    ImageSource,
    checked_names,
    checked_number,
    divided,
    is_image,
    recorded_name,
    without_scale,
)

# How a control image is made of a photo, by `mlx_sd.tasks.control_image`
MAKERS = ("canny", "scribble", "softedge", "tile", "grey", "inpaint")

# What the images of a union of control networks show -> the number of that mode (ControlNet++, its authors' list)
MODES = {
    "openpose": 0,
    "depth": 1,
    "softedge": 2,
    "scribble": 2,
    "canny": 3,
    "lineart": 3,
    "mlsd": 3,
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
    "inpaint": 7,
}

FORM = "MODEL[@MODE]:[MAKER:]IMAGE[:SCALE[:START-END]]"
_SPAN = re.compile(r"(\d*\.?\d+|\d+\.)-(\d*\.?\d+|\d+\.)")
_RECORDED = ("model", "mode", "image", "maker", "scale", "start", "end", "model_hash", "image_hash")


class Control(NamedTuple):
    """A control network and its image.

    model: a diffusers folder, a converted one, a single file or a hub id. image: a path or a PIL image. scale: factor
    of all that the network adds; 0 leaves the picture as it is. start, end: the share of the steps, from 0 to 1, at
    which it begins and ends. maker: one of `MAKERS`, where the image is a photo that a control image is made of first.
    model_hash, image_hash: of the weights and of the file, in a completed request.
    """

    model: str
    image: ImageSource
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    maker: str | None = None
    mode: str | None = None
    model_hash: str | None = None
    image_hash: str | None = None

    @classmethod
    def of(cls, source: Any) -> "Control":
        """Reads an entry of `controls=`: a `Control`, a tuple (model, image) or (model, image, scale), or a text."""
        if isinstance(source, str):
            return cls.parse(source)
        if isinstance(source, cls):
            return source.checked()
        if not isinstance(source, Sequence) or len(source) not in (2, 3):
            raise InputError(f"controls= takes (model, image), (model, image, scale) or Control(...), not {source!r}")
        return cls(*source).checked()

    def checked(self) -> "Control":
        """Returns the entry with paths as text and numbers as floats; InputError for values that make no sense."""
        name, image = checked_names(self.model, self.image, "a control network")
        scale, start, end = (checked_number(label, getattr(self, label), name) for label in ("scale", "start", "end"))
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"{name} begins at {self.start:g} and ends at {self.end:g} of the steps; give START-END from 0 to 1, "
                "for example 0-0.5"
            )
        if self.maker is not None and self.maker not in MAKERS:
            raise InputError(
                f"no control image is made by {self.maker!r};{did_you_mean(self.maker, MAKERS)} "
                f"there are {', '.join(MAKERS)}"
            )
        if self.mode is not None and self.mode not in MODES:
            raise InputError(
                f"no union of control networks has a mode {self.mode!r};{did_you_mean(self.mode, MODES)} "
                f"there are {', '.join(MODES)}"
            )
        return self._replace(model=name, image=image, scale=scale, start=start, end=end)

    def acts(self, evaluation: int, evaluations: int) -> bool:
        """Tells whether an evaluation, counted from 0, lies within start and end, as diffusers' pipelines decide it."""
        return evaluation / evaluations >= self.start and (evaluation + 1) / evaluations <= self.end

    @classmethod
    def parse(cls, text: str) -> "Control":
        """Reads the text of `--control`, which has the form FORM; names of files may have colons in them."""
        place, span = text, (0.0, 1.0)
        head, _, tail = place.rpartition(":")
        if head and (match := _SPAN.fullmatch(tail)) and not is_image(place):
            place, span = head, (float(match[1]), float(match[2]))
            if not NUMBER.fullmatch(place.rpartition(":")[2]):
                raise InputError(f"--control {text}: the scale stands before START-END, for example :1:0-0.5")
        place, scale = without_scale(place)
        model, source = divided(place)
        if not model or not source:
            raise InputError(f"--control takes {FORM}, for example canny.safetensors:edges.png:0.8, not {text!r}")
        maker, _, image = source.partition(":")
        if not image or maker not in MAKERS or is_there(source):
            maker, image = "", source
        model, image = (os.path.expanduser(name) for name in (model, image))  # noqa: PTH111 - in mid-word no shell does
        model, named_mode = divided_mode(model)
        return cls(model, image, scale, *span, maker or None, named_mode).checked()

    @property
    def files(self) -> list[tuple[ImageSource, str | None]]:
        """Returns its image with the hash, None where it is not known."""
        return [(self.image, self.image_hash)]

    def without_names(self, name: str) -> "Control":
        """Returns the entry with `name` in the place of names of weights and files that hashes tell."""
        model, image = (name if self.model_hash else self.model), (name if self.image_hash else self.image)
        return self._replace(model=model, image=image)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | str) -> "Control":
        """Reads an entry of `controls` in JSON: of a picture's metadata, or a text; InputError for other fields."""
        if isinstance(record, str):
            return cls.parse(record)
        if unknown_fields := sorted(record.keys() - {*_RECORDED}):
            raise InputError(f"a control network has no {unknown_fields[0]!r}; it has {', '.join(_RECORDED)}")
        return cls(**{name: record[name] for name in _RECORDED if record.get(name) is not None}).checked()

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `controls` in a picture's metadata; an image in memory has no path."""
        values = {name: getattr(self, name) for name in _RECORDED} | {"image": recorded_name(self.image)}
        return {name: value for name, value in values.items() if value is not None}


def divided_mode(text: str) -> tuple[str, str | None]:
    """Divides MODEL[@MODE] into the model and the mode; None where there is none, or where a file has the name."""
    model, _, mode = text.rpartition("@")
    return (model, mode) if model and mode in MODES and not is_there(text) else (text, None)


# An entry of `controls=`
ControlSource = Control | str | tuple[str, ImageSource] | tuple[str, ImageSource, float]
