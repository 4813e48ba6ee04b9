"""Images of A1111's clients: fitted to the picture's size, masks, and masked content."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageOps

STRETCH, CROP, FILL, LATENT = range(4)  # A1111's resize_mode
_HALF = 128  # of the alpha of a mask, in A1111: above it, the picture is painted


def fitted(image: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """Returns an image at (width, height), as A1111's resize_mode says: stretched, cropped, or its edges continued."""
    if image.size == size or 0 in image.size:
        return image
    if mode == STRETCH:
        return image.resize(size, Image.Resampling.LANCZOS)
    if mode == CROP:
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    inner = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    filled = Image.new(inner.mode, size)
    # The outermost rows or columns continue to the sides.
    for box, place in (
        ((0, 0, inner.width, 1), (left, 0, left + inner.width, top)),
        ((0, inner.height - 1, inner.width, inner.height), (left, top + inner.height, left + inner.width, size[1])),
        ((0, 0, 1, inner.height), (0, top, left, top + inner.height)),
        ((inner.width - 1, 0, inner.width, inner.height), (left + inner.width, top, size[0], top + inner.height)),
    ):
        wide, high = place[2] - place[0], place[3] - place[1]
        if wide > 0 and high > 0:
            filled.paste(inner.crop(box).resize((wide, high)), place)
    filled.paste(inner, (left, top))
    return filled


def mask_of(image: Image.Image, invert: bool) -> Image.Image:
    """Returns a mask in mode L, white where to paint, of a client's: its alpha where it has one, else its grey."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        mask = image.getchannel("A").point(lambda value: 255 if value > _HALF else 0)
    else:
        mask = image.convert("L")
    return ImageChops.invert(mask) if invert else mask


def without_masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Returns the image with colours continued into the masked part from around it: A1111's masked content "fill"."""
    from ....tasks.images import inpainted

    if mask.size != image.size:
        mask = mask.resize(image.size, Image.Resampling.LANCZOS)
    visible = image.convert("RGB")
    visible.putalpha(mask.point(lambda value: 0 if value >= _HALF else 255))
    return inpainted(visible)
