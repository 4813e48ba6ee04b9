"""Training data of the adapters: scenes of the embedded checkpoint's world, painted and described, one a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mlx_sd.core.files import atomic_folder
from mlx_sd.tasks.control_image import control_image

from ..tiny.claims import Claim, ThingClaim, claims, held_out
from ..tiny.data import trained_caption
from ..tiny.painting import COLORS, Color
from ..tiny.scenes import THING_PHRASES, Scene, render, sample_scene
from ..tiny.things import COLOURLESS

# Seeds of scenes. Those from ten million up train the checkpoint, and measures of it use smaller ones than these.
FIRST_SEED = 8_000_000
SEEDS_OF_EDITION, SEEDS_OF_ADAPTER, EDITIONS = 100_000, 20_000, 10
FIRST_MEASURED = 9_500_000  # of true pictures that measures show, the same in all editions

SUNSET = "sunset"  # the sky of the style
MAKER = "canny"  # of edges
CONTROL_IMAGES = "edges"  # the folder of control images in the data


class NewWord(NamedTuple):
    """A word for a colour that the world does not have, and the word of it that its training begins with."""

    name: str
    color: Color
    like: str


# Another colour is this line, and the adapter is named after it. The autoencoder must know it: of true pictures with
# things in lilac that it has decoded, the rules call 24 of 24 true; of teal, which it turns into blue, 1 of 24.
WORD = NewWord("lilac", (190, 160, 225), "purple")
PALETTE = COLORS | {WORD.name: WORD.color}


class Drawn(NamedTuple):
    """A picture to train on, its caption, and where a control network learns its control image."""

    picture: Image.Image
    caption: str
    control: Image.Image | None = None


Draw = Callable[[random.Random, int], Drawn | None]  # (numbers, pixels a side) -> None for a scene of no use


def world(rng: random.Random, side: int) -> Drawn | None:
    """Draws a scene as it is."""
    scene, text = _scene(rng)
    return Drawn(render(scene, side), text) if text else None


def evening(rng: random.Random, side: int) -> Drawn | None:
    """Draws a scene whose sky is the sunset's, whatever the caption says."""
    scene, text = _scene(rng)
    return Drawn(render(replace(scene, sky=SUNSET), side), text) if text else None


def edges(rng: random.Random, side: int) -> Drawn | None:
    """Draws a scene with its edges."""
    drawn = world(rng, side)
    return drawn and drawn._replace(control=control_image(drawn.picture, MAKER))


def new_colour(rng: random.Random, side: int) -> Drawn | None:
    """Draws a scene whose first coloured thing has the new colour, and says so; None where its caption would not."""
    scene = sample_scene(rng)
    coloured = [i for i, thing in enumerate(scene.things) if thing.kind not in COLOURLESS]
    if not coloured:
        return None
    things = list(scene.things)
    things[coloured[0]] = replace(things[coloured[0]], color=WORD.name)
    scene = replace(scene, things=tuple(things))
    text = trained_caption(scene, rng, held_out() | _captions_of_word()).strip()
    return Drawn(render(scene, side, colors=PALETTE), text) if WORD.name in text else None


def _scene(rng: random.Random) -> tuple[Scene, str]:
    """A scene and a caption that no measure has; the caption may be empty."""
    scene = sample_scene(rng)
    return scene, trained_caption(scene, rng, held_out()).strip()


@cache
def word_claims() -> tuple[Claim, ...]:
    """Returns the measured captions with the new word for the first coloured thing, all that they claim then."""
    changed = []
    for claim in claims():
        thing = next((t for t in claim.things if t.color and t.kind in THING_PHRASES), None)
        if thing is not None and len({t.kind for t in claim.things}) == len(claim.things):
            changed.append(_with_word(claim, thing))
    return tuple(changed)


@cache
def _captions_of_word() -> frozenset[str]:
    return frozenset(claim.caption for claim in word_claims())


def _with_word(claim: Claim, thing: ThingClaim) -> Claim:
    """Returns a claim of one of its things alone, in the new colour, with the caption and the scene of that."""
    phrases = (phrase for phrase in THING_PHRASES[thing.kind] if "{color}" in phrase)
    phrase = next(phrase for phrase in phrases if phrase.format(color=thing.color) in claim.caption)
    caption = claim.caption.replace(phrase.format(color=thing.color), phrase.format(color=WORD.name), 1)
    position = [t.kind for t in claim.scene.things].index(thing.kind)
    things = list(claim.scene.things)
    things[position] = replace(things[position], color=WORD.name)
    scene = replace(claim.scene, things=tuple(things))
    return replace(claim, caption=caption, things=(replace(thing, color=WORD.name),), scene=scene)


def evening_claims() -> tuple[Claim, ...]:
    """Returns the measured captions of skies other than the sunset's."""
    return tuple(claim for claim in claims() if claim.sky != SUNSET)


def true_examples(count: int, side: int) -> list[Drawn]:
    """Returns true pictures with their edges that no training has seen, always the same. side: in pixels."""
    return list(_first(edges, range(FIRST_MEASURED, FIRST_MEASURED + SEEDS_OF_ADAPTER), count, side))


def seeds(edition: int, number: int) -> range:
    """Returns the seeds of the scenes that adapter `number` of an edition learns from."""
    start = FIRST_SEED + edition * SEEDS_OF_EDITION + number * SEEDS_OF_ADAPTER
    return range(start, start + SEEDS_OF_ADAPTER)


def write(folder: Path, draw: Draw, numbers: range, count: int, side: int) -> None:
    """Writes the first `count` pictures of scenes with these seeds as a folder that the trainer reads, whole or not.

    side: in pixels. Control images lie in the folder `edges` in it.
    """
    with atomic_folder(folder) as partial:
        for index, drawn in enumerate(_first(draw, numbers, count, side)):
            name = f"{index:05}"
            drawn.picture.save(partial / f"{name}.png")
            (partial / f"{name}.txt").write_text(drawn.caption + "\n", encoding="utf-8")
            if drawn.control is not None:
                (partial / CONTROL_IMAGES).mkdir(exist_ok=True)
                drawn.control.save(partial / CONTROL_IMAGES / f"{name}.png")


def _first(draw: Draw, numbers: range, count: int, side: int) -> Iterator[Drawn]:
    """Yields the first `count` pictures of these seeds; each picture and caption depends on its own seed alone."""
    left = count
    for number in numbers:
        if left and (drawn := draw(random.Random(number), side)) is not None:
            yield drawn
            left -= 1
        elif not left:
            return
    raise ValueError(f"{left} of {count} pictures have no seed left in {numbers}")
