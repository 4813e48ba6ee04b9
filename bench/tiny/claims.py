"""The 500 captions of the truth measure, what each of them claims, and true pictures of them.

They are drawn once, by lot, from seeds that training never uses; `held_out` lists the texts, which training skips.
A hash in the tests pins them: results of different versions are comparable because the captions are the same.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image

from .painting import BODY_RADII, COLORS, MOUNTAINS, SIDES, SKIES
from .scenes import (
    GROUNDS,
    SIDE_PHRASES,
    SKY_BODIES,
    SKY_PHRASES,
    THING_PHRASES,
    Balloon,
    Scene,
    Thing,
    render,
)
from .things import COLOURLESS

COUNT = 500
_SEED = 7_000_000  # of the first caption; training draws scenes from seeds of ten million up
_BALLOON = "balloon"
# Captions of a round, one a line: how many things, balloons among them, and whether the sun or the moon is named.
_ROUND = (
    (1, False),
    (2, False),
    (1, True),
    (1, False),
    (2, False),
    (0, True),
    (1, False),
    (2, True),
    (1, False),
    (1, True),
)
_SIDE_STATED = 0.85  # of things; elsewhere any side will do


@dataclass(frozen=True)
class ThingClaim:
    """A thing that a caption names; a colour or a side that it leaves open is None."""

    kind: str
    color: str | None
    side: str | None


@dataclass(frozen=True)
class Claim:
    """What one caption says, and a scene that is true to it."""

    caption: str
    sky: str
    ground: str
    things: tuple[ThingClaim, ...]  # balloons among them
    body: tuple[str, str, str] | None  # (sun or moon, small or large, side)
    scene: Scene

    def true_picture(self, width: int, height: int | None = None) -> Image.Image:
        """Paints a picture to which the caption is true. width, height: pixels; a square without a height."""
        return render(self.scene, width, height)


@cache
def claims() -> tuple[Claim, ...]:
    """Returns the 500 claims, always the same; any first N of them hold all kinds in about equal numbers."""
    drawn: dict[str, Claim] = {}
    for index in range(COUNT):
        again = itertools.count()
        while (claim := _claim(index, next(again))).caption in drawn:
            pass
        drawn[claim.caption] = claim
    return tuple(drawn.values())


@cache
def held_out() -> frozenset[str]:
    """Returns the captions, which no training may use."""
    return frozenset(claim.caption for claim in claims())


def _claim(index: int, attempt: int) -> Claim:
    """Draws one claim; another one at each attempt, for captions that were drawn before."""
    rng = random.Random(_SEED + index + COUNT * attempt)
    count, with_body = _ROUND[index % len(_ROUND)]
    sky = rng.choice([name for name in SKIES if not with_body or any(SKY_BODIES[name])])
    kinds = [rng.choice((*THING_PHRASES, _BALLOON)) for _ in range(min(count, 1))]
    if kinds and index % len(_ROUND) in (0, 3):  # each kind in turn, where one thing stands alone
        kinds = [(*THING_PHRASES, _BALLOON)[(index // len(_ROUND) * 2 + (index % len(_ROUND) == 3)) % 9]]
    if _BALLOON in kinds and sky == "stormy":
        sky = "day"  # no balloon flies in a storm
    ground = rng.choice(
        [name for name, ground in GROUNDS.items() if kinds in ([], [_BALLOON]) or kinds[0] in ground.kinds]
    )
    if count == 2:
        choices = [*GROUNDS[ground].kinds, *([] if _BALLOON in kinds or sky == "stormy" else [_BALLOON])]
        kinds.append(rng.choice(choices))
    sides = list(SIDES)
    rng.shuffle(sides)
    body = None
    if with_body:
        kind = rng.choice([body for body in SKY_BODIES[sky] if body])
        free = [side for side in SIDES if _BALLOON not in kinds or side != sides[kinds.index(_BALLOON)]]
        body = (kind, rng.choice(tuple(BODY_RADII)), rng.choice(free))
    things = [(kind, rng.choice(tuple(COLORS)), side) for kind, side in zip(kinds, sides, strict=False)]
    mountains = rng.choice((*MOUNTAINS, None, None))
    flying = [Balloon(color, side) for kind, color, side in things if kind == _BALLOON]
    scene = Scene(
        sky=sky,
        ground=ground,
        mountains=mountains,
        clouds=0,  # they hide what is to be judged
        body=body[0] if body else None,
        body_side=body[2] if body else "left",
        body_size=body[1] if body else "small",
        things=tuple(Thing(k, color, side, rng.uniform(0.9, 1.15)) for k, color, side in things if k != _BALLOON),
        balloon=flying[0] if flying else None,
        seed=rng.getrandbits(32),
    )
    return _described(scene, things, body, rng)


def _described(
    scene: Scene, things: list[tuple[str, str, str]], body: tuple[str, str, str] | None, rng: random.Random
) -> Claim:
    """Writes the caption in the words and the order of the world's own, and keeps what it says."""
    ground = GROUNDS[scene.ground]
    named_things: list[ThingClaim] = []
    heads: list[str] = []
    backdrop: list[str] = []
    for kind, color, side in things:
        phrase = "a {color} balloon" if kind == _BALLOON else rng.choice(THING_PHRASES[kind])
        with_side = rng.random() < _SIDE_STATED
        text = phrase.format(color=color) + (f" {SIDE_PHRASES[side]}" if with_side else "")
        (backdrop if kind == _BALLOON else heads).append(text)
        named = color if "{color}" in phrase and kind not in COLOURLESS else None
        named_things.append(ThingClaim(kind, named, side if with_side else None))
    place = rng.choice(ground.phrases)
    head = f"{' and '.join(heads)} {ground.preposition} {place}" if heads else place
    if scene.mountains and rng.random() < 0.5:
        backdrop.insert(0, scene.mountains)
    if body:
        backdrop.append(f"a {body[1]} {body[0]} {SIDE_PHRASES[body[2]]}")
    caption = ", ".join([head, *backdrop, f"under {rng.choice(SKY_PHRASES[scene.sky])}"])
    return Claim(caption, scene.sky, scene.ground, tuple(named_things), body, scene)


def swapped(claim: Claim, index: int) -> tuple[str, Claim]:
    """Returns the part that is changed and the claim with it: kind, color, side, sky, ground, or the body's size.

    The picture of the claim is false to the changed one. index: chooses among what the claim holds.
    """
    rng = random.Random(index)
    parts = ["sky", "ground"]
    if claim.things:
        parts += ["kind"]
        parts += ["color"] if any(thing.color for thing in claim.things) else []
        parts += ["side"] if any(thing.side for thing in claim.things) else []
    parts += ["size"] if claim.body else []
    part = parts[index % len(parts)]
    if part in ("sky", "ground"):
        names = SKIES if part == "sky" else GROUNDS
        other = rng.choice([name for name in names if name != getattr(claim, part)])
        return part, replace(claim, sky=other) if part == "sky" else replace(claim, ground=other)
    if part == "size":
        assert claim.body is not None
        kind, size, side = claim.body
        return part, replace(claim, body=(kind, next(name for name in BODY_RADII if name != size), side))
    able = [i for i, thing in enumerate(claim.things) if part == "kind" or getattr(thing, part)]
    position = rng.choice(able)
    thing = claim.things[position]
    present = {thing.kind for thing in claim.things}
    sides = {thing.side for thing in claim.scene.things} | {
        balloon.side for balloon in [claim.scene.balloon] if balloon
    }
    values = {
        "kind": [kind for kind in (*THING_PHRASES, _BALLOON) if kind not in present],
        "color": [color for color in COLORS if color != thing.color],
        "side": [side for side in SIDES if side not in sides],
    }[part]
    changed = replace(thing, **{part: rng.choice(values)})
    things = (*claim.things[:position], changed, *claim.things[position + 1 :])
    return part, replace(claim, things=things)
