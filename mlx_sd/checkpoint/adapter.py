"""What `--adapter` takes: a network beside the checkpoint, the image that it sees, and how much."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError
from .image_argument import ImageSource, checked_names, checked_number, divided, recorded_name, without_scale


class Adapter(NamedTuple):
    """A T2I-Adapter and its image.

    model: a diffusers folder, a single file or a hub id. image: a path or a PIL image. scale: factor of its features; 0
    leaves the picture as it is. model_hash, image_hash: of the weights and of the file, in a completed request.
    """

    model: str
    image: ImageSource
    scale: float = 1.0
    model_hash: str | None = None
    image_hash: str | None = None

    @classmethod
    def of(cls, source: Any) -> "Adapter":
        """Reads an entry of `adapters=`: an `Adapter`, a tuple (model, image) or (model, image, scale), or a text."""
        if isinstance(source, str):
            return cls(*divide(source, "--adapter")).checked()
        if not isinstance(source, Sequence) or not 2 <= len(source) <= (5 if isinstance(source, cls) else 3):
            raise InputError(f"adapters= takes (model, image), (model, image, scale) or Adapter(...), not {source!r}")
        return cls(*source).checked()

    def checked(self) -> "Adapter":
        """Returns the entry with paths as text and a float; InputError for values that make no sense."""
        model, image = checked_names(self.model, self.image)
        return self._replace(model=model, image=image, scale=checked_number("scale", self.scale, model))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Adapter":
        """Reads an entry of `adapters` in a picture's metadata."""
        return cls(**{name: record[name] for name in cls._fields if name in record}).checked()

    @property
    def files(self) -> list[tuple[ImageSource, str | None]]:
        """Returns its image with the hash, None where it is not known."""
        return [(self.image, self.image_hash)]

    def without_names(self, name: str) -> "Adapter":
        """Returns the entry with `name` in the place of names of weights and files that hashes tell."""
        model, image = (name if self.model_hash else self.model), (name if self.image_hash else self.image)
        return self._replace(model=model, image=image)

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `adapters` in a picture's metadata; an image in memory has no path."""
        values = self._asdict() | {"image": recorded_name(self.image)}
        return {name: value for name, value in values.items() if value is not None}


def divide(text: str, option: str, form: str = "MODEL:IMAGE[:SCALE]") -> tuple[str, str, float]:
    """Divides MODEL:IMAGE[:SCALE]; a name that exists may have colons. InputError names the option and its form."""
    place, scale = without_scale(text)
    model, image = divided(place)
    if not model or not image:
        raise InputError(f"{option} takes {form}, for example sketch.safetensors:drawing.png:0.8, not {text!r}")
    return model, image, scale


# An entry of `adapters=`
AdapterSource = Adapter | str | tuple[str, ImageSource] | tuple[str, ImageSource, float]
