"""What `--ip-adapter` takes: an IP-Adapter, the images that it takes as a prompt, how much of them, and where."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError
from ..core.files import is_there
from .adapter import divide
from .image_argument import ImageSource, checked_names, checked_number, is_image, recorded_name

Blocks = tuple[tuple[str, tuple[float, ...]], ...]

# What InstantStyle (Wang et al. 2024) calls them -> the transformers of SDXL that take it from an image, and no others
PRESETS: dict[str, dict[str, dict[str, list[float]]]] = {
    "style": {"up": {"block_0": [0, 1, 0]}},
    "layout": {"down": {"block_2": [0, 1]}},
}
_PRESETS = re.compile(rf"({'|'.join(PRESETS)})(\+({'|'.join(PRESETS)}))*")
_MASK = ":mask="
FORM = "MODEL:IMAGE[,IMAGE][:SCALE][:BLOCKS][:mask=FILE]"


class ImagePrompt(NamedTuple):
    """An IP-Adapter and its images.

    model: a single file, or OWNER/NAME/PATH.safetensors on the hub. images: paths or PIL images, taken together. scale:
    a number, or by block of the UNet as diffusers has it, {"down": {"block_2": [0, 1]}, "up": 0.5, "mid": 0}, where a
    block that is not named has 0; or "style", "layout" or "style+layout", of SDXL. mask: white where the images act.
    blocks: that mapping, flat, beside a number. model_hash, image_hashes, mask_hash: in a completed request, of the
    weights, the image encoder's too, and of the files.
    """

    model: str
    images: Any  # one or several; a tuple once it is checked
    scale: Any = 1.0
    mask: ImageSource | None = None
    blocks: Blocks = ()
    model_hash: str | None = None
    image_hashes: tuple[str | None, ...] = ()
    mask_hash: str | None = None

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
        """Reads the text of `--ip-adapter`, as FORM says; a name that exists may have commas and colons.

        BLOCKS: "style", "layout", "style+layout", or scales by block in JSON, as `scale` has them.
        """
        place, mask = text, None
        if _MASK in text and not is_image(text):
            place, _, mask = text.rpartition(_MASK)
        if mask == "":
            raise InputError(f"--ip-adapter {text}: name a file behind mask=, white where the image acts")
        place, blocks = _without_blocks(place)
        model, image, scale = divide(place, "--ip-adapter", FORM)
        sources = [image] if is_there(image) else image.split(",")
        return cls(model, tuple(sources), scale, mask, blocks).checked()

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
        if isinstance(self.scale, str):
            scale, blocks = 1.0, _preset(self.scale, model)
        if isinstance(self.scale, Mapping):
            scale, blocks = 1.0, _flat(self.scale, model)
        return self._replace(
            model=model, images=opened, mask=mask, scale=checked_number("scale", scale, model), blocks=blocks
        )

    @property
    def files(self) -> list[tuple[ImageSource, str | None]]:
        """Returns its images and its mask with their hashes, None where one is not known."""
        shown = list(zip(self.images, self.image_hashes or (None,) * len(self.images), strict=True))
        return shown if self.mask is None else [*shown, (self.mask, self.mask_hash)]

    def without_names(self, name: str) -> "ImagePrompt":
        """Returns the entry with `name` in the place of names of weights and files that hashes tell."""
        named = [name if digest else source for source, digest in self.files]
        images, mask = named[: len(self.images)], named[len(self.images) :]
        return self._replace(
            model=name if self.model_hash else self.model, images=tuple(images), mask=mask[0] if mask else None
        )

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
        if self.mask_hash:
            record["mask_hash"] = self.mask_hash
        return record


def _without_blocks(text: str) -> tuple[str, Blocks]:
    """Divides MODEL:IMAGE[:SCALE][:BLOCKS] into what stands before the blocks, and the blocks; () without any."""
    start = text.find(":{")
    if start >= 0 and not is_image(text):
        try:
            scales = json.loads(text[start + 1 :])
        except ValueError as error:
            example = json.dumps(PRESETS["style"])
            raise InputError(
                f"--ip-adapter {text}: scales by block are JSON, such as '{example}', and this is none ({error})"
            ) from None
        return text[:start], _flat(scales, text[:start])
    head, _, tail = text.rpartition(":")
    if head and _PRESETS.fullmatch(tail) and not is_image(text):
        return head, _preset(tail, head)
    return text, ()


def _preset(text: str, model: str) -> Blocks:
    """Returns the blocks of "style", "layout" or both, joined by a plus; InputError for other words."""
    if not _PRESETS.fullmatch(text):
        raise InputError(
            f"the scale of {model} is a number, scales by block, style, layout or style+layout, not {text!r}"
        )
    return tuple(entry for name in dict.fromkeys(text.split("+")) for entry in _flat(PRESETS[name], model))


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
