"""What `--ip-adapter` takes: an IP-Adapter, the images that it takes as a prompt, how much of them, and where."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import InputError
from .adapter import divide
from .image_argument import ImageSource, checked_names, checked_number, recorded_name

Blocks = tuple[tuple[str, tuple[float, ...]], ...]


class ImagePrompt(NamedTuple):
    """An IP-Adapter and its images.

    model: a single file, or OWNER/NAME/PATH.safetensors on the hub. images: paths or PIL images, taken together. scale:
    a number, or by block of the UNet as diffusers has it, {"down": {"block_2": [0, 1]}, "up": 0.5, "mid": 0}, where a
    block that is not named has 0. mask: white where the images act. blocks: that mapping, flat, beside a number.
    model_hash, image_hashes: of the weights, the image encoder's too, and of the files, in a completed request.
    """

    model: str
    images: Any  # one or several; a tuple once it is checked
    scale: Any = 1.0
    mask: ImageSource | None = None
    blocks: Blocks = ()
    model_hash: str | None = None
    image_hashes: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, source: Any) -> "ImagePrompt":
        """Reads an entry of `ip_adapters=`: an `ImagePrompt`, (model, images[, scale[, mask]]), or a text."""
        if isinstance(source, str):
            return cls.parse(source)
        limit = len(cls._fields) if isinstance(source, cls) else 4
        if not isinstance(source, Sequence) or not 2 <= len(source) <= limit:
            raise InputError(
                f"ip_adapters= takes (model, images), (model, images, scale), (model, images, scale, mask) or "
                f"ImagePrompt(...), not {source!r}"
            )
        return cls(*source).checked()

    @classmethod
    def parse(cls, text: str) -> "ImagePrompt":
        """Reads the text of `--ip-adapter`, MODEL:IMAGE[,IMAGE][:SCALE]; a name that exists may have commas."""
        model, image, scale = divide(text, "--ip-adapter")
        sources = [image] if Path(image).exists() else image.split(",")
        return cls(model, tuple(sources), scale).checked()

    def checked(self) -> "ImagePrompt":
        """Returns the entry with paths as text and numbers as floats; InputError for values that make no sense."""
        several = isinstance(self.images, (list, tuple))
        sources = list(self.images) if several else [self.images]
        if not sources:
            raise InputError(f"{self.model!s} has no image; give one or several")
        model = checked_names(self.model, sources[0])[0]
        opened = tuple(checked_names(self.model, source)[1] for source in sources)
        mask = None if self.mask is None else checked_names(self.model, self.mask)[1]
        scale, blocks = self.scale, self.blocks
        if isinstance(self.scale, Mapping):
            scale, blocks = 1.0, _flat(self.scale, model)
        return self._replace(
            model=model, images=opened, mask=mask, scale=checked_number("scale", scale, model), blocks=blocks
        )

    @property
    def files(self) -> list[tuple[ImageSource, str | None]]:
        """Returns its images with their hashes, None where one is not known."""
        return list(zip(self.images, self.image_hashes or (None,) * len(self.images), strict=True))

    def without_names(self, name: str) -> "ImagePrompt":
        """Returns the entry with `name` in the place of names of weights and files that hashes tell."""
        named = [name if digest else source for source, digest in self.files]
        return self._replace(model=name if self.model_hash else self.model, images=tuple(named))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ImagePrompt":
        """Reads an entry of `ip_adapters` in a picture's metadata."""
        values = {name: record[name] for name in cls._fields if name in record}
        blocks = tuple((place, tuple(map(float, numbers))) for place, numbers in record.get("blocks", {}).items())
        digests = tuple(record.get("image_hashes", ()))
        return cls(**(values | {"blocks": blocks, "image_hashes": digests})).checked()

    def to_record(self) -> dict[str, Any]:
        """Returns the entry of `ip_adapters` in a picture's metadata; images in memory have no paths."""
        record: dict[str, Any] = {"model": self.model, "images": [recorded_name(source) for source in self.images]}
        record["scale"] = self.scale
        if self.mask is not None:
            record["mask"] = recorded_name(self.mask)
        if self.blocks:
            record["blocks"] = {place: list(numbers) for place, numbers in self.blocks}
        if self.model_hash:
            record |= {"model_hash": self.model_hash, "image_hashes": list(self.image_hashes)}
        return record


def _flat(scales: Mapping[str, Any], model: str, prefix: str = "") -> Blocks:
    """Returns scales by place, flat: {"down": {"block_2": [0, 1]}} is (("down.block_2", (0.0, 1.0)),)."""
    places: list[tuple[str, tuple[float, ...]]] = []
    for name, entry in scales.items():
        place = f"{prefix}{name}"
        if isinstance(entry, Mapping):
            places += _flat(entry, model, f"{place}.")
            continue
        numbers = entry if isinstance(entry, (list, tuple)) else [entry]
        places.append((place, tuple(checked_number(f"scale of {place}", number, model) for number in numbers)))
    return tuple(places)


# An entry of `ip_adapters=`
ImagePromptSource = ImagePrompt | str | tuple[Any, ...]
