"""How each part of a landscape is drawn: one small function per part, back to front, on one square canvas."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

CANVAS = 256  # pixels of the shorter side while drawing; a picture is scaled from it, which smooths the edges
SIDES = {"left": 0.22, "center": 0.5, "right": 0.78}  # where things stand, in canvas widths

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
COLORS: dict[str, Color] = {
    "red": (214, 48, 44),
    "blue": (44, 92, 214),
    "yellow": (246, 206, 50),
    "green": (40, 150, 84),
    "purple": (140, 64, 176),
    "orange": (242, 130, 34),
    "white": (248, 248, 248),
    "pink": (246, 140, 178),
}
GROUND_COLORS: dict[str, Color] = {
    "meadow": (96, 176, 74),
    "desert": (232, 198, 120),
    "sea": (36, 104, 170),
    "snow": (238, 243, 250),
}

# How much of the sky's tint reaches a part, from 0 (glows by itself) to 1 (the ground).
THING_TINT = 0.6
BALLOON_TINT = 0.5
LAMPS_ON = 0.4  # skies darker than this light the windows


def mix(a: Color, b: Color, t: float) -> Color:
    """Returns the colour a share `t` of the distance from `a` to `b`, rounded down."""
    red, green, blue = (int(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Sky:
    """The colours of a sky, and the tint of its light."""

    top: Color
    horizon: Color
    tint: Color = BLACK
    darkness: float = 0.0
    sun: Color = (255, 226, 90)
    clouds: Color | None = None  # None: white, tinted

    def shade(self, color: Color, strength: float = 1.0) -> Color:
        """Returns `color` in this light."""
        return mix(color, self.tint, self.darkness * strength)


SKIES = {
    "day": Sky((86, 160, 235), (205, 232, 250)),
    "sunset": Sky((96, 62, 140), (250, 150, 84), (90, 40, 70), 0.22, sun=(255, 196, 80)),
    "night": Sky((8, 10, 36), (40, 52, 104), (6, 10, 34), 0.58),
    "stormy": Sky((70, 78, 92), (150, 158, 168), (60, 64, 72), 0.3, clouds=(150, 154, 160)),
}


@dataclass(frozen=True)
class Brush:
    """Draws in the units of one object, each `scale` pixels: it stands at (0, 0) and v points down."""

    pen: ImageDraw.ImageDraw
    sky: Sky
    x: float
    y: float
    scale: float

    def at(self, u: float, v: float) -> Point:
        """Returns the canvas point of (u, v)."""
        return self.x + u * self.scale, self.y + v * self.scale

    def shade(self, color: Color, strength: float = THING_TINT) -> Color:
        """Returns `color` in the light of the scene."""
        return self.sky.shade(color, strength)

    def polygon(self, fill: Color, *points: Point) -> None:
        """Fill the polygon of `points`."""
        self.pen.polygon([self.at(u, v) for u, v in points], fill=fill)

    def rectangle(self, fill: Color, u0: float, v0: float, u1: float, v1: float) -> None:
        """Fill the box from (u0, v0) to (u1, v1)."""
        self.pen.rectangle((*self.at(u0, v0), *self.at(u1, v1)), fill=fill)

    def pill(self, fill: Color, radius: int, u0: float, v0: float, u1: float, v1: float) -> None:
        """Fill a box whose corners are rounded by `radius` pixels."""
        self.pen.rounded_rectangle((*self.at(u0, v0), *self.at(u1, v1)), radius, fill=fill)

    def ellipse(self, fill: Color, u0: float, v0: float, u1: float, v1: float) -> None:
        """Fill the ellipse inside a box."""
        self.pen.ellipse((*self.at(u0, v0), *self.at(u1, v1)), fill=fill)

    def disc(self, fill: Color, u: float, v: float, radius: float, outline: Color | None = None) -> None:
        """Fill a disc around (u, v)."""
        corners = (*self.at(u - radius, v - radius), *self.at(u + radius, v + radius))
        self.pen.ellipse(corners, fill=fill, outline=outline)

    def line(self, fill: Color, width: int, *points: Point) -> None:
        """Draw a line, `width` pixels wide, through `points`."""
        self.pen.line([self.at(u, v) for u, v in points], fill=fill, width=width)


class Canvas:
    """A picture in the making, begun with sky above the horizon and ground below."""

    def __init__(self, sky: Sky, ground: str, rng: random.Random, width: int = CANVAS, height: int = CANVAS) -> None:
        self.sky = sky
        self.rng = rng
        self.width, self.height = width, height
        self.horizon = int(height * rng.uniform(0.60, 0.68))
        self.soil = sky.shade(GROUND_COLORS[ground])
        self.image = Image.new("RGB", (width, height))
        top, bottom = np.array(sky.top), np.array(sky.horizon)
        self._fill_rows(0, top + (bottom - top) * np.linspace(0, 1, self.horizon)[:, None])
        self.lay_ground()
        self.pen = ImageDraw.Draw(self.image)

    def lay_ground(self) -> None:
        """Cover all below the horizon with bare ground, darker towards the viewer."""
        fade = np.linspace(1.0, 0.82, self.height - self.horizon)[:, None]
        self._fill_rows(self.horizon, np.array(self.soil) * fade)

    def brush(self, x: float, y: float, scale: float = 1.0) -> Brush:
        """Returns a brush for an object that stands at (x, y)."""
        return Brush(self.pen, self.sky, x, y, scale)

    def _fill_rows(self, first: int, rows: np.ndarray) -> None:
        pixels = np.repeat(rows.astype(np.uint8)[:, None, :], self.width, axis=1)
        self.image.paste(Image.fromarray(pixels), (0, first))


# In the sky


def stars(canvas: Canvas) -> None:
    """Scatter stars over the upper nine tenths of the sky."""
    for _ in range(26):
        x, y = canvas.rng.randrange(canvas.width), canvas.rng.randrange(int(canvas.horizon * 0.9))
        canvas.brush(x, y).disc((240, 240, 220), 0, 0, canvas.rng.choice((1, 1, 2)))


def sun(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Draws a disc in rings of glow that fade into the sky behind it."""
    sky, brush = canvas.sky, canvas.brush(x, y)
    behind = mix(sky.top, sky.horizon, y / canvas.horizon)
    for ring in (4, 3, 2, 1):
        brush.disc(mix(sky.sun, behind, 0.35 + 0.15 * ring), 0, 0, radius + 3 * ring)
    brush.disc(sky.sun, 0, 0, radius)


def moon(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Draws a pale disc with three craters."""
    brush = canvas.brush(x, y, radius)
    brush.disc((236, 236, 222), 0, 0, 1)
    for u, v, size in ((-0.35, -0.2, 0.2), (0.3, 0.25, 0.16), (0.1, -0.45, 0.12)):
        brush.disc((206, 206, 196), u, v, size)


def cloud(canvas: Canvas) -> None:
    """Draws three flat puffs side by side, anywhere in the sky."""
    rng = canvas.rng
    x, y, width = rng.uniform(0.1, 0.9) * canvas.width, rng.uniform(0.12, 0.42) * canvas.height, rng.uniform(22, 36)
    color = canvas.sky.clouds or canvas.sky.shade((250, 250, 252), 0.7)
    brush = canvas.brush(x, y, width)
    for u, v, size in ((-0.8, 0.1, 0.5), (0, -0.15, 0.68), (0.8, 0.1, 0.5)):
        brush.ellipse(color, u - size, v - size * 0.6, u + size, v + size * 0.6)


def balloon(brush: Brush, color: Color) -> None:
    """Draws a hot-air balloon with one pale stripe; (0, 0) is the middle of its envelope."""
    brush.ellipse(color, -24, -28, 24, 24)
    brush.ellipse(mix(color, WHITE, 0.35), -8, -28, 8, 24)
    for side in (-1, 1):
        brush.line((60, 40, 30), 2, (12 * side, 20), (6 * side, 36))
    brush.rectangle(brush.shade((120, 80, 50)), -7, 35, 7, 45)


# On the horizon


def snowy_mountains(canvas: Canvas) -> None:
    """Draws grey peaks under snow."""
    _peaks(canvas, (120, 130, 150), snow=canvas.sky.shade((248, 250, 255), 0.6))


def rocky_mountains(canvas: Canvas) -> None:
    """Draws brown peaks without snow."""
    _peaks(canvas, (122, 104, 92), snow=None)


def _peaks(canvas: Canvas, rock: Color, snow: Color | None) -> None:
    rng, base = canvas.rng, canvas.sky.shade(rock, 0.8)
    places = [(j + 0.5 + rng.uniform(-0.25, 0.25)) * canvas.width / 3 for j in range(3)]
    rng.shuffle(places)  # so that any of the three may stand in front
    for j, x in enumerate(places):
        w, h = rng.uniform(56, 84), rng.uniform(56, 92)
        peak = canvas.brush(x, canvas.horizon)
        peak.polygon(mix(base, canvas.sky.horizon, 0.10 * j), (-w, 0), (0, -h), (w, 0))
        if snow:
            t = 0.38  # share of the height under snow; its lower edge is a zigzag
            left = ((-w * t, -h * (1 - t)), (-w * t * 0.4, -h * (1 - t * 0.75)))
            right = ((w * t * 0.4, -h * (1 - t * 0.75)), (w * t, -h * (1 - t)))
            peak.polygon(snow, (0, -h), *left, (0, -h * (1 - t * 1.05)), *right)


def green_hills(canvas: Canvas) -> None:
    """Draws three round green hills."""
    rng, base = canvas.rng, canvas.sky.shade((66, 130, 66), 0.8)
    for j in range(3):
        x = (j + 0.5 + rng.uniform(-0.2, 0.2)) * canvas.width / 3
        w, h = rng.uniform(70, 100), rng.uniform(34, 56)
        color = mix(base, canvas.sky.horizon, 0.12 * (j % 2))
        canvas.brush(x, canvas.horizon).ellipse(color, -w, -h, w, h)
    canvas.lay_ground()  # hides the lower halves


# On the ground


def waves(canvas: Canvas) -> None:
    """Draws short pale strokes on the water."""
    rng, color = canvas.rng, mix(canvas.soil, WHITE, 0.35)
    for _ in range(16):
        x, y = rng.randrange(canvas.width), rng.randrange(canvas.horizon + 6, canvas.height - 4)
        canvas.brush(x, y).line(color, 2, (0, 0), (rng.randrange(8, 22), 0))


def grass(canvas: Canvas) -> None:
    """Draws dark blades that lean to the right."""
    rng, color = canvas.rng, mix(canvas.soil, (20, 70, 20), 0.4)
    for _ in range(24):
        x, y = rng.randrange(canvas.width), rng.randrange(canvas.horizon + 8, canvas.height - 4)
        canvas.brush(x, y).line(color, 2, (0, 0), (2, -6))


def dunes(canvas: Canvas) -> None:
    """Draws three flat arcs of sand."""
    rng, color = canvas.rng, mix(canvas.soil, (150, 100, 40), 0.35)
    for _ in range(3):
        y, x = rng.randrange(canvas.horizon + 14, canvas.height - 10), rng.randrange(-40, canvas.width - 60)
        canvas.pen.arc((x, y, x + 130, y + 26), 200, 340, fill=color, width=3)


BODIES: dict[str, Callable[[Canvas, float, float, float], None]] = {"sun": sun, "moon": moon}
BODY_RADII = {"small": 14, "large": 30}
MOUNTAINS: dict[str, Callable[[Canvas], None]] = {
    "snowy mountains": snowy_mountains,
    "rocky mountains": rocky_mountains,
    "green hills": green_hills,
}
TEXTURES: dict[str, Callable[[Canvas], None]] = {
    "sea": waves,
    "meadow": grass,
    "desert": dunes,
}  # snow is bare
