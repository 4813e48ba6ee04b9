"""A1111's txt2img and img2img -> the JSON of our requests, and the images that belong to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ....core.suggestions import unknown
from ...models.catalog import ModelEntry
from ...requests.limits import LIMITS
from ..request_error import RequestError
from . import controls as a1111_controls
from . import hires as a1111_hires
from . import images as a1111_images
from . import solver as a1111_solver
from .controls import Decode, Unit
from .fields import Fields
from .options import Options

_PIXELS = 8  # of a latent: A1111 rounds sizes down to whole ones
_ALL_NEW = 1.0  # strength at which nothing of what was under a mask is left
_FILL, _ORIGINAL = 0, 1  # of inpainting_fill; 2 and 3 are latent noise and latent nothing
_STYLE_PLACE = "{prompt}"  # in a style, where the prompt goes


@dataclass
class Order:
    """What a call of A1111's API asks for."""

    settings: dict[str, Any]  # of the pictures, as in `Request.to_json`, without images; models by their ids
    options: Options  # in force for this call
    count: int = 1
    init_image: Image.Image | None = None
    mask: Image.Image | None = None
    controls: Sequence[Unit] = ()
    keep: bool = False
    send: bool = True
    ignored: list[str] = field(default_factory=list)  # what has no equal here


def text_to_image(
    values: Mapping[str, Any], options: Options, styles: Sequence[Mapping[str, Any]], decode: Decode
) -> Order:
    """Returns what the JSON object of txt2img asks for.

    options: the server's. styles: with name, prompt and negative. decode: checks and decodes an image. Raises
    RequestError.
    """
    fields = Fields(values)
    order = _order(fields, options, styles, decode)
    size = order.settings.get("width"), order.settings.get("height")
    first = (size[0], size[1]) if size[0] and size[1] else None
    order.settings |= a1111_hires.settings_of(fields, first, options.catalog.upscalers())
    return order


def image_to_image(
    values: Mapping[str, Any],
    options: Options,
    styles: Sequence[Mapping[str, Any]],
    decode: Decode,
    edits: Callable[[str], bool] = lambda model: False,
) -> Order:
    """Returns what the JSON object of img2img asks for; arguments as of `text_to_image`.

    edits: says of a model, by its id, whether it edits images by instruction; then image_cfg_scale is about it, and
    denoising_strength is not.
    """
    fields = Fields(values)
    images = fields.sequence("init_images")
    if not images:
        raise RequestError("Init image not found", status=404, field="init_images")
    if len(images) > 1:
        raise RequestError(f"init_images: one image is changed at a time, not {len(images)}", field="init_images")
    order = _order(fields, options, styles, decode)
    strength = fields.number("denoising_strength")
    if edits(order.settings["model"]):
        order.settings |= {"image_guidance": guidance} if (guidance := fields.number("image_cfg_scale")) else {}
    elif strength is not None:
        order.settings["strength"] = strength
    if fields.number("initial_noise_multiplier") not in (None, 1.0):
        raise RequestError("initial_noise_multiplier is 1 here; leave it out", field="initial_noise_multiplier")
    _read_images(order, fields, decode(images[0], "init_images"), decode)
    return order


def _order(fields: Fields, options: Options, styles: Sequence[Mapping[str, Any]], decode: Decode) -> Order:
    """Reads what both calls have in common."""
    _refuse_others(fields)
    overridden = options.with_values(fields.mapping("override_settings"))
    order = Order(overridden.settings, overridden, ignored=list(overridden.ignored))
    _read_prompts(order, fields, styles)
    order.settings |= a1111_solver.settings_of(fields)
    order.settings |= {key: value for key, value in _numbers(fields).items() if value is not None}
    order.count = _count(fields)
    order.keep, order.send = fields.truth("save_images"), fields.truth("send_images", True)
    order.settings |= _refiner(fields)
    width, height = order.settings.get("width"), order.settings.get("height")
    size = (width, height) if width and height else None
    scripts = fields.mapping("alwayson_scripts")
    order.controls = a1111_controls.units_of(scripts, options.catalog.control_networks(), decode, size)
    if any(unit.guess_mode for unit in order.controls):
        order.settings["guess_mode"] = True
    return order


def _refuse_others(fields: Fields) -> None:
    """Raises RequestError for what means something in A1111 and is not here."""
    if script := fields.text("script_name"):
        raise RequestError(f"Script {script!r} not found; there are none here", field="script_name")
    if fields.number("subseed_strength"):
        raise RequestError("subseed_strength: there are no variation seeds here; leave it 0", field="subseed_strength")
    if min(fields.number(f"seed_resize_from_{side}") or 0 for side in "wh") > 0:
        raise RequestError("seed_resize_from_w: noise is not resized here; leave it out", field="seed_resize_from_w")
    if fields.truth("restore_faces"):
        raise RequestError("restore_faces: there is no face restorer here; turn it off", field="restore_faces")
    if fields.truth("tiling"):
        raise RequestError("tiling: seamless textures are not made here; turn it off", field="tiling")


def _read_prompts(order: Order, fields: Fields, styles: Sequence[Mapping[str, Any]]) -> None:
    """Reads both prompts with their styles, and the embeddings that they use; LoRAs stay in the prompt."""
    prompts = {"prompt": fields.text("prompt"), "negative": fields.text("negative_prompt")}
    named = {str(style["name"]): style for style in styles}
    for name in fields.sequence("styles"):
        if name in ("", "None"):
            continue
        if not isinstance(name, str) or name not in named:
            raise RequestError(str(unknown("style", str(name), named)), field="styles")
        prompts = {key: _styled(text, str(named[name].get(key) or "")) for key, text in prompts.items()}
    order.settings["prompt"] = prompts["prompt"]
    if prompts["negative"]:
        order.settings["negative"] = prompts["negative"]
    if embeddings := _embeddings(" ".join(prompts.values()), order.options.catalog.embeddings()):
        order.settings["embeddings"] = embeddings


def _embeddings(text: str, entries: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    """Returns the embeddings that a text uses: in A1111, each of the folder's is used by its name alone."""
    words = {entry.id: entry.name.rpartition("/")[2] for entry in entries}
    return [{"id": id} for id, word in words.items() if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]


def _styled(text: str, style: str) -> str:
    """Returns a prompt with a style: in its place in the style, else in front of it."""
    if _STYLE_PLACE in style:
        return style.replace(_STYLE_PLACE, text)
    return ", ".join(part for part in (text.strip(), style.strip()) if part)


def _numbers(fields: Fields) -> dict[str, Any]:
    sides = {side: fields.integer(side) for side in ("width", "height")}
    for name, side in sides.items():  # before images are brought to this size
        if side is not None and not _PIXELS <= side <= LIMITS.side:
            raise RequestError(f"{name} must be from {_PIXELS} to {LIMITS.side}, not {side}", field=name)
    if (sides["width"] or 1) * (sides["height"] or 1) > LIMITS.pixels:
        message = f"a picture has at most {LIMITS.pixels} pixels here; make it smaller, and larger with hires fix"
        raise RequestError(message, field="width")
    return {
        "seed": fields.integer("seed"),
        "steps": fields.integer("steps"),
        "guidance": fields.number("cfg_scale"),
        **{side: None if value is None else value // _PIXELS * _PIXELS for side, value in sides.items()},
    }


def _count(fields: Fields) -> int:
    """Returns how many pictures are asked for, in batches or one after the other."""
    count = 1
    for name in ("batch_size", "n_iter"):
        number = fields.integer(name)
        if number is not None and number < 1:
            raise RequestError(f"{name} must be at least 1, not {number}", field=name)
        count *= number or 1
    return count


def _refiner(fields: Fields) -> dict[str, Any]:
    name, switch = fields.text("refiner_checkpoint"), fields.number("refiner_switch_at")
    if not name or name == "None" or (switch is not None and switch >= 1):
        return {}
    return {"refiner": name} if switch is None else {"refiner": name, "refine_at": switch}


def _read_images(order: Order, fields: Fields, image: Image.Image, decode: Decode) -> None:
    """Reads the image to begin with and its mask, brought to the picture's size as resize_mode says."""
    mode = fields.integer("resize_mode") or 0
    if mode not in (a1111_images.STRETCH, a1111_images.CROP, a1111_images.FILL):
        message = f"resize_mode must be 0, 1 or 2, not {mode}; the others resize latents, which is not done here"
        raise RequestError(message, field="resize_mode")
    mask = None
    if "mask" in fields:
        mask = a1111_images.mask_of(decode(fields.get("mask"), "mask"), fields.truth("inpainting_mask_invert"))
        if mask.size != image.size:
            mask = mask.resize(image.size, Image.Resampling.LANCZOS)
        image = _read_mask(order, fields, image, mask)
    width, height = order.settings.get("width"), order.settings.get("height")
    if width and height and not order.settings.get("only_masked"):
        image = a1111_images.fitted(image, (width, height), mode)
        mask = None if mask is None else a1111_images.fitted(mask, (width, height), mode)
    order.init_image, order.mask = image, mask


def _read_mask(order: Order, fields: Fields, image: Image.Image, mask: Image.Image) -> Image.Image:
    """Reads the settings about a mask; returns the image with the masked content that they ask for."""
    blurs = {fields.number(name) for name in ("mask_blur", "mask_blur_x", "mask_blur_y")} - {None}
    blur = fields.number("mask_blur")
    if blur is None and len(blurs) > 1:
        raise RequestError("mask_blur_x and mask_blur_y must be the same here", field="mask_blur_x")
    if blur is None and blurs:
        blur = blurs.pop()
    if blur is not None:
        order.settings["mask_blur"] = blur
    if fields.truth("inpaint_full_res"):
        order.settings["only_masked"] = True
        if (padding := fields.integer("inpaint_full_res_padding")) is not None:
            order.settings["padding"] = padding
    content = fields.integer("inpainting_fill") or _FILL
    if order.settings.get("strength", _ALL_NEW) == _ALL_NEW or content == _ORIGINAL:
        return image
    if content != _FILL:
        message = "inpainting_fill must be 0 (fill) or 1 (original) here, unless denoising_strength is 1"
        raise RequestError(f"{message}, which is latent noise", field="inpainting_fill")
    return a1111_images.without_masked(image, mask)
