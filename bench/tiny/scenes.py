"""Procedural captioned landscapes: the domain that the embedded checkpoint was trained on.

A scene is drawn by lot, then painted and described. The checkpoint knows exactly these pictures and words,
and quality is measured against fresh ones, so each draw from a generator below is part of the domain: adding,
dropping or moving one changes every scene after it. A hash in the tests pins them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from .painting import (
    BALLOON_TINT,
    BODIES,
    BODY_RADII,
    CANVAS,
    COLORS,
    MOUNTAINS,
    SIDES,
    SKIES,
    TEXTURES,
    THING_TINT,
    Canvas,
    Color,
    balloon,
    cloud,
    stars,
)
from .things import THINGS, rock


@dataclass(frozen=True)
class Thing:
    """An object on the ground; pines and cacti stay green whatever their `color`."""

    kind: str
    color: str
    side: str
    scale: float


@dataclass(frozen=True)
class Balloon:
    """A hot-air balloon in the sky."""

    color: str
    side: str


@dataclass(frozen=True)
class Scene:
    """The parts of a picture; `seed` fixes details that captions never mention."""

    sky: str
    ground: str
    mountains: str | None
    clouds: int
    body: str | None
    body_side: str
    body_size: str
    things: tuple[Thing, ...]
    balloon: Balloon | None
    seed: int


@dataclass(frozen=True)
class Ground:
    """How a caption names a ground, and what may stand on it."""

    phrases: tuple[str, ...]
    preposition: str
    kinds: tuple[str, ...]


GROUNDS = {
    "meadow": Ground(
        ("a green meadow", "green grass"), "on", ("house", "pine tree", "round tree", "tent", "lighthouse")
    ),
    "desert": Ground(("a sandy desert", "a yellow desert"), "in", ("cactus", "tent", "house")),
    "sea": Ground(("the blue sea", "a calm sea"), "on", ("sailboat", "lighthouse")),
    "snow": Ground(("white snow", "a snowy field"), "on", ("snowman", "pine tree", "house", "tent")),
}
SKY_PHRASES = {
    "day": ("a blue day sky", "a clear day sky", "a bright blue sky"),
    "sunset": ("a sunset sky", "an orange sunset sky"),
    "night": ("a night sky", "a dark starry night sky"),
    "stormy": ("a stormy sky", "a grey stormy sky"),
}
THING_PHRASES = {
    "house": ("a house with a {color} roof", "a {color} roofed house"),
    "pine tree": ("a pine tree",),
    "round tree": ("a {color} tree", "a round {color} tree"),
    "tent": ("a {color} tent",),
    "lighthouse": ("a {color} lighthouse", "a {color} and white lighthouse"),
    "sailboat": ("a {color} sailboat", "a sailboat with {color} sails"),
    "cactus": ("a cactus", "a green cactus"),
    "snowman": ("a snowman with a {color} scarf", "a snowman"),
}
LABELS = (*THING_PHRASES, "balloon")  # classes, by number
SIDE_PHRASES = {"left": "on the left", "center": "in the center", "right": "on the right"}
OPENINGS = ("", "", "", "a picture of ", "an illustration of ")

# Repeated entries are likelier.
SKY_BODIES: dict[str, tuple[str | None, ...]] = {
    "day": ("sun", None),
    "sunset": ("sun", "moon", None),
    "night": ("moon", "moon", None),
    "stormy": (None,),
}
CLOUD_COUNTS = (0, 0, 2, 3)
BODY_HEIGHTS = 0.15, 0.26  # of the middle of the sun or the moon, in canvas heights from the top
BODY_WANDER = 10  # how far its middle may stand from that of its side
THING_COUNTS = (0, 1, 1, 1, 2)
BALLOON_CHANCE = 0.22


def sample_scene(rng: random.Random) -> Scene:
    """Draw one scene by lot from `rng`."""
    sky, ground = rng.choice(tuple(SKIES)), rng.choice(tuple(GROUNDS))
    mountains = rng.choice((*MOUNTAINS, None))
    clouds = 0 if sky == "night" else rng.choice(CLOUD_COUNTS)
    body = rng.choice(SKY_BODIES[sky])
    body_side, body_size = rng.choice(tuple(SIDES)), rng.choice(tuple(BODY_RADII))
    count = rng.choice(THING_COUNTS)
    free_sides = list(SIDES)
    rng.shuffle(free_sides)
    things = tuple(_sample_thing(rng, ground, free_sides.pop()) for _ in range(count))
    has_balloon = rng.random() < BALLOON_CHANCE and sky != "stormy"
    drifter = Balloon(rng.choice(tuple(COLORS)), rng.choice(tuple(SIDES))) if has_balloon else None
    if drifter and body and drifter.side == body_side:
        drifter = None  # it would hide the sun or the moon
    seed = rng.getrandbits(32)
    return Scene(sky, ground, mountains, clouds, body, body_side, body_size, things, drifter, seed)


def _sample_thing(rng: random.Random, ground: str, side: str) -> Thing:
    kind, color = rng.choice(GROUNDS[ground].kinds), rng.choice(tuple(COLORS))
    return Thing(kind, color, side, rng.uniform(0.9, 1.15))


def render(
    scene: Scene, width: int = 256, height: int | None = None, colors: Mapping[str, Color] = COLORS
) -> Image.Image:
    """Paint `scene` as an RGB picture, always the same for the same scene.

    width, height: pixels; without a height the picture is square. Things keep their size beside the shorter side.
    colors: of things and balloons by name, where a scene has others than the world's.
    """
    height = width if height is None else height
    shorter = min(width, height)
    rng, sky = random.Random(scene.seed), SKIES[scene.sky]
    canvas = Canvas(sky, scene.ground, rng, width * CANVAS // shorter, height * CANVAS // shorter)
    if scene.sky == "night":
        stars(canvas)
    if scene.body:
        x = SIDES[scene.body_side] * canvas.width + rng.uniform(-BODY_WANDER, BODY_WANDER)
        y = rng.uniform(*BODY_HEIGHTS) * canvas.height
        BODIES[scene.body](canvas, x, y, BODY_RADII[scene.body_size])
    for _ in range(scene.clouds):
        cloud(canvas)
    if scene.mountains:
        MOUNTAINS[scene.mountains](canvas)
    if scene.ground in TEXTURES:
        TEXTURES[scene.ground](canvas)
    if scene.balloon:
        x, y = SIDES[scene.balloon.side] * canvas.width + rng.uniform(-8, 8), rng.uniform(0.26, 0.34) * canvas.height
        balloon(canvas.brush(x, y), sky.shade(colors[scene.balloon.color], BALLOON_TINT))
    for thing in scene.things:
        x = SIDES[thing.side] * canvas.width + rng.uniform(-10, 10)
        y = canvas.horizon + rng.uniform(0.42, 0.62) * (canvas.height - canvas.horizon)
        brush = canvas.brush(x, y, thing.scale)
        THINGS[thing.kind](brush, sky.shade(colors[thing.color], THING_TINT))
        if thing.kind == "lighthouse" and scene.ground == "sea":
            rock(brush)
    return canvas.image.resize((width, height), Image.Resampling.LANCZOS)


def caption(scene: Scene, rng: random.Random) -> str:
    """Describe `scene` in words drawn from `rng`: all true, but any part, or even all, may be left out."""
    ground = GROUNDS[scene.ground]
    head = " and ".join(_describe(thing, rng) for thing in scene.things)
    place, sky = rng.choice(ground.phrases), rng.choice(SKY_PHRASES[scene.sky])
    if rng.random() < 0.9:
        head = f"{head} {ground.preposition} {place}" if head else place
    backdrop = _describe_backdrop(scene, rng)
    if rng.random() < 0.35:
        rng.shuffle(backdrop)
    if rng.random() < 0.92:
        backdrop.append("under " + sky if rng.random() < 0.7 else sky)
    text = ", ".join([head, *backdrop] if head else backdrop)
    return rng.choice(OPENINGS) + text


def label(scene: Scene) -> int | None:
    """Returns the class of a scene with exactly one thing, a balloon being one; None for any other scene."""
    kinds = [thing.kind for thing in scene.things] + ["balloon"] * (scene.balloon is not None)
    return LABELS.index(kinds[0]) if len(kinds) == 1 else None


def _describe(thing: Thing, rng: random.Random) -> str:
    phrase = rng.choice(THING_PHRASES[thing.kind]).format(color=thing.color)
    return phrase + _side(thing.side, 0.75, rng)


def _describe_backdrop(scene: Scene, rng: random.Random) -> list[str]:
    parts = []
    if scene.mountains and rng.random() < 0.85:
        parts.append(rng.choice(("", "with ")) + scene.mountains + rng.choice(("", " behind")))
    if scene.body and rng.random() < 0.9:
        parts.append(f"a {scene.body_size} {scene.body}" + _side(scene.body_side, 0.7, rng))
    if scene.clouds and rng.random() < 0.8:
        parts.append(rng.choice(("white clouds", "clouds")))
    if scene.balloon:
        parts.append(f"a {scene.balloon.color} balloon" + _side(scene.balloon.side, 0.6, rng))
    return parts


def _side(side: str, chance: float, rng: random.Random) -> str:
    return " " + SIDE_PHRASES[side] if rng.random() < chance else ""
