"""Rules on pixels: whether a picture of the embedded world shows what its caption says.

A thing is searched for with templates of every kind and colour, painted by the world's own functions in the light of
the picture's sky. At each side the template that explains the most pixels, against the colours to the left and right
of it, is the thing that stands there. A caption's thing is true where that template has its kind and its colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.fft import irfft2, next_fast_len, rfft2

from ..tiny.painting import (
    BALLOON_TINT,
    BODY_RADII,
    CANVAS,
    COLORS,
    GROUND_COLORS,
    SIDES,
    SKIES,
    THING_TINT,
    Brush,
    Color,
    balloon,
)
from ..tiny.things import COLOURLESS, THINGS

SIDE = 128  # pixels of the shorter side at which pictures are judged; rows and columns below are of squares
_SCALES = (0.9, 1.0, 1.15)  # of things, as scenes draw them
_REACH = 8  # pixels from the middle of a side within which a thing stands; scenes move things by 5
_THING_ROWS = slice(92, 118)  # of a thing's foot; scenes draw 98 to 113
_BALLOON_ROWS = slice(26, 50)  # of the middle of its envelope; scenes draw 33 to 44
_BODY_ROWS = slice(12, 40)  # of the middle of the sun or moon; scenes draw 19 to 33
_FLANK, _GAP = 5, 2  # pixels to the left and right that count as background, and between them and the silhouette
_DISTANCE = 55.0  # mean distance in RGB between a picture and a template that explains it, at most
_EXPLAINED = 0.35  # share of the difference from the background that a template explains, at least
_SKY_ROWS, _GROUND_ROWS = slice(2, 40), slice(116, 127)
_BACKGROUND = 70.0  # mean distance in RGB of a sky or a ground from the nearest that the world knows, at most

Pixels = NDArray[np.float32]
Palette = tuple[tuple[str, Color], ...]  # colours by name, in a form that caches take


@dataclass(frozen=True)
class Template:
    """A thing in one size, linear in its colour: its pixels are fixed + weight * colour, where the mask is True."""

    kind: str
    colors: Mapping[str | None, NDArray[np.float32]]  # name -> RGB in the light of a sky; {None: ...} for one colour
    fixed: Pixels  # (h, w, 3)
    weight: NDArray[np.float32]  # (h, w)
    mask: NDArray[np.bool_]  # (h, w)
    foot: tuple[int, int]  # row and column of the point that stands on the ground, or of its middle

    def pixels(self, color: str | None) -> Pixels:
        """Returns the template in one of its colours, (h, w, 3)."""
        return self.fixed + self.weight[..., None] * self.colors[color]


@dataclass(frozen=True)
class Match:
    """The template that explains one side of a picture best."""

    kind: str
    color: str | None
    explained: float  # sum over its pixels of how much nearer the template is than the background, in RGB distance
    share: float  # of the difference from the background
    distance: float  # mean distance between picture and template in RGB

    @property
    def sure(self) -> bool:
        """Whether the template explains the pixels well enough to say that the thing is there."""
        return self.distance <= _DISTANCE and self.share >= _EXPLAINED


def pixels_of(picture: Image.Image) -> Pixels:
    """Returns a picture as (h, w, 3) in 0 to 255, its shorter side 128."""
    shorter = min(picture.size)
    size = picture.width * SIDE // shorter, picture.height * SIDE // shorter
    scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return np.asarray(scaled, np.float32)


def sky_of(pixels: Pixels) -> str | None:
    """Returns the sky of a picture, by the median of its upper rows; None where it is like none."""
    height = len(pixels)
    band = _rows(_SKY_ROWS, height)
    rows = np.median(pixels[band], axis=1)
    place = (np.arange(height)[band, None] + 0.5) / (0.64 * height)
    colors = {name: np.array(sky.top) + (np.array(sky.horizon) - sky.top) * place for name, sky in SKIES.items()}
    return _nearest(rows, colors)


def ground_of(pixels: Pixels, sky: str) -> str | None:
    """Returns the ground of a picture in the light of a sky, by the median of its lowest rows; None where like none."""
    rows = np.median(pixels[_rows(_GROUND_ROWS, len(pixels))], axis=1)
    shaded = {name: np.array(SKIES[sky].shade(color)) * 0.83 for name, color in GROUND_COLORS.items()}
    return _nearest(rows, {name: np.broadcast_to(color, rows.shape) for name, color in shaded.items()})


def thing_at(pixels: Pixels, sky: str, side: str, palette: Mapping[str, Color] = COLORS) -> Match:
    """Returns the thing on the ground that explains a side of the picture best.

    palette: the colours that it may have, by name; those of the world are what results are measured with.
    """
    return _best(pixels, _things(sky, tuple(palette.items())), _window(pixels, side, _THING_ROWS))


def balloon_at(pixels: Pixels, sky: str, side: str, palette: Mapping[str, Color] = COLORS) -> Match:
    """Returns the balloon that explains a side of the sky best; no other thing is drawn there. palette: as there."""
    return _best(pixels, _balloons(sky, tuple(palette.items())), _window(pixels, side, _BALLOON_ROWS))


def body_at(pixels: Pixels, sky: str, side: str) -> Match:
    """Returns the sun or moon, whose colour is its size, that explains a side of the sky best."""
    return _best(pixels, _bodies(sky), _window(pixels, side, _BODY_ROWS))


def _nearest(rows: NDArray[np.floating], colors: Mapping[str, NDArray[np.floating]]) -> str | None:
    distances = {name: float(np.linalg.norm(rows - color, axis=-1).mean()) for name, color in colors.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= _BACKGROUND else None


def _rows(rows: slice, height: int) -> slice:
    """Returns rows of a square as those of a picture of another height."""
    return slice(rows.start * height // SIDE, rows.stop * height // SIDE)


def _window(pixels: Pixels, side: str, rows: slice) -> tuple[slice, slice]:
    column = round(SIDES[side] * pixels.shape[1])
    return _rows(rows, len(pixels)), slice(column - _REACH, column + _REACH + 1)


def _best(pixels: Pixels, templates: Iterable[Template], window: tuple[slice, slice]) -> Match:
    """Returns the match that explains most, of every kind and colour where it fits best, its foot in the window."""
    fits: dict[tuple[str, str | None], tuple[float, Template, tuple[int, int]]] = {}
    for template in templates:
        for color, (cost, place) in _places(pixels, template, window).items():
            key = template.kind, color
            if key not in fits or cost < fits[key][0]:
                fits[key] = cost, template, place
    matches = [_match(pixels, template, color, place) for (_, color), (_, template, place) in fits.items()]
    return max(matches, key=lambda match: match.explained)


def _places(
    pixels: Pixels, template: Template, window: tuple[slice, slice]
) -> dict[str | None, tuple[float, tuple[int, int]]]:
    """Returns, for each colour, the mean squared distance and the foot at the place of the window that fits best.

    The sum over the mask of |p - t|^2 is that of |p|^2 - 2 p t + |t|^2: correlations over all places at once.
    """
    (height, width), (down, right) = template.mask.shape, template.foot
    last_row, last_column = pixels.shape[0] - 1, pixels.shape[1] - 1
    rows, columns = np.arange(last_row + 1)[window[0]] - down, np.arange(last_column + 1)[window[1]] - right
    area = pixels[
        np.clip(np.arange(rows[0], rows[-1] + height), 0, last_row)[:, None],
        np.clip(np.arange(columns[0], columns[-1] + width), 0, last_column),
    ]
    mask = template.mask.astype(np.float32)
    kernels = [mask, *(mask * template.fixed[..., c] for c in range(3)), mask * template.weight]
    shape = [next_fast_len(n, real=True) for n in area.shape[:2]]
    images = rfft2(np.stack([(area**2).sum(-1), *area.transpose(2, 0, 1)]), shape)
    spectra = np.conj(rfft2(np.stack(kernels), shape))
    products = np.stack(
        [
            images[0] * spectra[0],
            sum(images[1 + c] * spectra[1 + c] for c in range(3)),
            *(images[1 + c] * spectra[4] for c in range(3)),
        ]
    )
    power, fixed, *weighted = irfft2(products, shape)[:, : len(rows), : len(columns)]
    fits: dict[str | None, tuple[float, tuple[int, int]]] = {}
    for color, rgb in template.colors.items():
        cross = fixed + sum(value * part for value, part in zip(rgb, weighted, strict=True))
        constant = (template.pixels(color)[template.mask] ** 2).sum()
        cost = (power - 2 * cross + constant) / mask.sum()
        r, c = np.unravel_index(int(cost.argmin()), cost.shape)
        fits[color] = float(cost[r, c]), (int(rows[r] + down), int(columns[c] + right))
    return fits


def _match(pixels: Pixels, template: Template, color: str | None, place: tuple[int, int]) -> Match:
    """Compares the pixels at a place with a template and with the colours beside its silhouette, row by row."""
    height, width = template.mask.shape
    top, left = place[0] - template.foot[0], place[1] - template.foot[1]
    margin = _FLANK + _GAP
    rows = np.clip(np.arange(top, top + height), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left - margin, left + width + margin), 0, pixels.shape[1] - 1)
    patch = pixels[rows[:, None], columns]
    here, mask = patch[:, margin:-margin], template.mask
    first = mask.argmax(1)  # of each row's silhouette, in the patch without its margin
    last = width - 1 - mask[:, ::-1].argmax(1)
    steps = np.arange(_FLANK)
    flanks = np.concatenate([first[:, None] + steps, last[:, None] + margin + _GAP + 1 + steps], axis=1)
    background = np.median(patch[np.arange(height)[:, None], flanks], axis=1)
    from_background = np.linalg.norm(here - background[:, None], axis=-1)[mask]
    from_template = np.linalg.norm(here - template.pixels(color), axis=-1)[mask]
    explained = float((from_background - from_template).sum())
    share = explained / max(float(from_background.sum()), 1e-6)
    return Match(template.kind, color, explained, share, float(from_template.mean()))


def _colors(sky: str, tint: float, palette: Palette) -> dict[str | None, NDArray[np.float32]]:
    """Returns colours in the light of a sky, of which a share `tint` reaches the thing."""
    return {name: np.array(SKIES[sky].shade(color, tint), np.float32) for name, color in palette}


@cache
def _things(sky: str, palette: Palette) -> tuple[Template, ...]:
    colors = _colors(sky, THING_TINT, palette)
    plain: dict[str | None, NDArray[np.float32]] = {None: np.zeros(3, np.float32)}
    return tuple(
        _template(kind, plain if kind in COLOURLESS else colors, sky, scale, draw)
        for kind, draw in THINGS.items()
        for scale in _SCALES
    )


@cache
def _balloons(sky: str, palette: Palette) -> tuple[Template, ...]:
    return (_template("balloon", _colors(sky, BALLOON_TINT, palette), sky, 1.0, balloon),)


@cache
def _bodies(sky: str) -> tuple[Template, ...]:
    plain: dict[str | None, NDArray[np.float32]]
    templates = []
    for kind, color in (("sun", SKIES[sky].sun), ("moon", (236, 236, 222))):
        for size, radius in BODY_RADII.items():
            plain = {size: np.array(color, np.float32)}
            templates.append(_template(kind, plain, sky, radius, lambda brush, color: brush.disc(color, 0, 0, 1)))
    return tuple(templates)


def _template(
    kind: str,
    colors: Mapping[str | None, NDArray[np.float32]],
    sky: str,
    scale: float,
    draw: Callable[[Brush, Color], None],
) -> Template:
    """Paints a thing in black and in white on two backgrounds, which gives its mask and its share of colour."""
    painted = {}
    for ground in (0, 255):
        for color in (0, 255):
            image = Image.new("RGB", (CANVAS, CANVAS), (ground,) * 3)
            brush = Brush(ImageDraw.Draw(image), SKIES[sky], CANVAS / 2, CANVAS * 0.6, scale)
            draw(brush, (color,) * 3)
            painted[ground, color] = pixels_of(image)
    transparent = np.abs(painted[255, 0] - painted[0, 0]).max(-1) / 255
    mask = transparent < 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    fixed, weight = painted[0, 0][box], ((painted[0, 255] - painted[0, 0]) / 255).mean(-1)[box]
    foot = round(SIDE * 0.6) - int(rows[0]), SIDE // 2 - int(columns[0])
    return Template(kind, colors, fixed, weight, mask[box], foot)
