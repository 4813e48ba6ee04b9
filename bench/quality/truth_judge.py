"""Judges pictures against claims: part by part, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from PIL import Image

from ..tiny.claims import Claim, ThingClaim
from ..tiny.painting import COLORS, SIDES, Color
from . import truth_rules as rules


@dataclass(frozen=True)
class Verdict:
    """Which parts of a caption are true of a picture, in the order of the claim."""

    sky: bool
    ground: bool
    things: tuple[bool, ...]
    body: bool | None  # None where the caption names neither sun nor moon

    @property
    def true(self) -> bool:
        """Whether all that the caption says is true."""
        return self.sky and self.ground and all(self.things) and self.body is not False


def judge(picture: Image.Image, claim: Claim, palette: Mapping[str, Color] = COLORS) -> Verdict:
    """Judges a picture of any size against a claim. Things are judged in the light of the picture's own sky.

    palette: the colours that things may have, by name; results are measured with the world's.
    """
    pixels = rules.pixels_of(picture)
    sky = rules.sky_of(pixels)
    light = sky or claim.sky
    body = None
    if claim.body:
        kind, size, side = claim.body
        match = rules.body_at(pixels, light, side)
        body = match.sure and (match.kind, match.color) == (kind, size)
    return Verdict(
        sky=sky == claim.sky,
        ground=rules.ground_of(pixels, light) == claim.ground,
        things=tuple(_shows(pixels, light, thing, palette) for thing in claim.things),
        body=body,
    )


def _shows(pixels: rules.Pixels, sky: str, thing: ThingClaim, palette: Mapping[str, Color]) -> bool:
    at = rules.balloon_at if thing.kind == "balloon" else rules.thing_at
    matches = (at(pixels, sky, side, palette) for side in ([thing.side] if thing.side else SIDES))
    return any(m.sure and m.kind == thing.kind and thing.color in (None, m.color) for m in matches)


@dataclass(frozen=True)
class Share:
    """How many of some captions are true, with Wilson's 95% interval in percent."""

    true: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95%, in percent."""
        if not self.count:
            return 0.0, 100.0
        z, n, p = 1.959964, self.count, self.true / self.count
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
        return 100 * max(low, 0.0), 100 * min(high, 1.0)

    def to_json(self) -> dict[str, float | int]:
        """Returns the share and its interval in percent, rounded."""
        low, high = self.interval
        percent = 100 * self.true / self.count if self.count else 0.0
        return {
            "true": self.true,
            "count": self.count,
            "percent": round(percent, 1),
            "low": round(low, 1),
            "high": round(high, 1),
        }


def shares(pairs: Iterable[tuple[Claim, Verdict]]) -> dict[str, dict[str, dict[str, float | int]]]:
    """Returns shares of true captions, by number of things, and of true parts by kind, colour, sky and ground."""
    counts: dict[tuple[str, str], list[bool]] = {}

    def add(group: str, name: str, true: bool) -> None:
        """Counts one more judgement."""
        counts.setdefault((group, name), []).append(true)

    for claim, verdict in pairs:
        add("captions", "all", verdict.true)
        add("captions", ("no thing", "one thing", "two things")[len(claim.things)], verdict.true)
        add("sky", claim.sky, verdict.sky)
        add("ground", claim.ground, verdict.ground)
        if claim.body and verdict.body is not None:
            add("sun and moon", f"{claim.body[1]} {claim.body[0]}", verdict.body)
        for thing, true in zip(claim.things, verdict.things, strict=True):
            add("kind", thing.kind, true)
            add("side", thing.side or "any", true)
            if thing.color:
                add("color", thing.color, true)
    tables: dict[str, dict[str, dict[str, float | int]]] = {}
    for (group, name), judgements in sorted(counts.items()):
        tables.setdefault(group, {})[name] = Share(sum(judgements), len(judgements)).to_json()
    return tables
