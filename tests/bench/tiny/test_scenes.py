"""The drawn world: deterministic, described truthfully, and never to drift."""

import hashlib
import random
import re

import numpy as np
import pytest

from bench.tiny.painting import BALLOON_TINT, COLORS, GROUND_COLORS, SKIES, THING_TINT
from bench.tiny.scenes import (
    GROUNDS,
    LABELS,
    SIDE_PHRASES,
    SKY_PHRASES,
    Balloon,
    Scene,
    Thing,
    caption,
    label,
    render,
    sample_scene,
)

SEEDS = range(120)
COLOR = re.compile(rf"\b({'|'.join(COLORS)})\b")
GREEN_ANYWAY = ("pine tree", "cactus")
GOLDEN_CAPTIONS = "95f404346622195dd5a39bd953077157d60c4ba2575e6de545edd3de93823138"
GOLDEN_PIXELS = "90585063a06e5e19d7a3d1422283a54966586ad227f2ce845e1571b89945c9fa"


def described(seed: int) -> tuple[Scene, str]:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    return scene, caption(scene, rng)


def nearest(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """How far the closest pixel is from `color`, in the channel that differs most."""
    return int(np.abs(picture.astype(int) - color).max(axis=-1).min())


def empty(**changes: object) -> Scene:
    """A bare meadow by day, but for `changes`."""
    plain = {"sky": "day", "ground": "meadow", "mountains": None, "clouds": 0, "body": None}
    plain |= {"body_side": "left", "body_size": "small", "things": (), "balloon": None, "seed": 1}
    return Scene(**(plain | changes))


def test_the_domain_is_the_one_that_the_checkpoint_was_trained_on():
    captions, pixels = hashlib.sha256(), hashlib.sha256()
    for seed in range(400):
        captions.update(described(seed)[1].encode() + b"\n")
    for seed in SEEDS:
        pixels.update(render(described(seed)[0], 128).tobytes())
    assert captions.hexdigest() == GOLDEN_CAPTIONS, "scenes or captions changed: retrain or undo"
    assert pixels.hexdigest() == GOLDEN_PIXELS, "pictures changed (or Pillow draws differently): retrain or undo"


def test_a_class_is_the_one_thing_that_a_scene_shows():
    found = set()
    for scene, text in map(described, range(400)):
        kind = label(scene)
        assert (kind is None) == (len(scene.things) + bool(scene.balloon) != 1)
        if kind is not None:
            found.add(LABELS[kind])
            others = {word for name in LABELS for word in name.split()} - set(LABELS[kind].split())
            assert not others - {"round"} & set(text.split()), text
    assert found == set(LABELS)


def test_the_same_seed_gives_the_same_picture_and_caption():
    for seed in range(20):
        (scene, text), (again, same_text) = described(seed), described(seed)
        assert (scene, text) == (again, same_text)
        assert render(scene).tobytes() == render(again).tobytes()


def test_different_seeds_give_different_pictures():
    assert len({render(described(seed)[0]).tobytes() for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("size", [32, 128, 200, 256])
def test_size_is_honoured(size):
    picture = render(described(3)[0], size)
    assert (picture.size, picture.mode) == ((size, size), "RGB")


def test_the_default_size_is_the_one_of_training():
    assert render(described(3)[0]).size == (256, 256)


@pytest.mark.parametrize("sky", SKIES)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_each_coloured_thing_shows_its_colour_and_only_because_of_it(ground, color, sky):
    tinted = SKIES[sky].shade(COLORS[color], THING_TINT)
    for kind in GROUNDS[ground].kinds:
        if kind in GREEN_ANYWAY:
            continue
        with_thing = render(empty(sky=sky, ground=ground, things=(Thing(kind, color, "center", 1.0),)), 256)
        assert nearest(np.asarray(with_thing), tinted) == 0
        assert nearest(np.asarray(render(empty(sky=sky, ground=ground), 256)), tinted) > 0


def test_colours_named_in_captions_are_in_the_picture():
    checked = 0
    for seed in SEEDS:
        scene, text = described(seed)
        sky, picture = SKIES[scene.sky], np.asarray(render(scene, 256))
        visible = [(thing.color, THING_TINT) for thing in scene.things if thing.kind not in GREEN_ANYWAY]
        visible += [(scene.balloon.color, BALLOON_TINT)] if scene.balloon else []
        # Words of the backdrop that are colours too, and the cactus that is green whatever its colour.
        for phrase in (*sum(SKY_PHRASES.values(), ()), *sum((g.phrases for g in GROUNDS.values()), ())):
            text = text.replace(phrase, "")
        for phrase in ("green hills", "white clouds", "green cactus", "and white lighthouse"):
            text = text.replace(phrase, "")
        for name in COLOR.findall(text):
            shades = [sky.shade(COLORS[name], tint) for color, tint in visible if color == name]
            assert shades, f"{name!r} is said of nothing in {scene}"
            # A front object may hide part of another one, never all of its colour but for a few pixels.
            assert min(nearest(picture, shade) for shade in shades) <= 2, (seed, name, text)
            checked += 1
    assert checked > 40


def test_a_sky_named_in_a_caption_is_the_one_painted():
    named = 0
    for seed in SEEDS:
        scene, text = described(seed)
        skies = [sky for sky, phrases in SKY_PHRASES.items() if text.endswith(phrases)]
        skies += [sky for sky, phrases in SKY_PHRASES.items() if any(f"{p}," in text for p in phrases)]
        top = np.median(np.asarray(render(scene))[0], axis=0)
        closest = min(SKIES, key=lambda sky: np.abs(top - SKIES[sky].top).sum())
        assert closest == scene.sky
        assert set(skies) <= {closest}
        named += bool(skies)
    assert named > len(SEEDS) * 0.8


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_ground_has_its_colour(ground):
    for sky in SKIES.values():
        bottom = np.asarray(render(empty(sky=next(n for n in SKIES if SKIES[n] is sky), ground=ground)))[-1]
        expected = np.array(sky.shade(GROUND_COLORS[ground])) * 0.82  # it darkens towards the viewer
        assert np.abs(np.median(bottom, axis=0) - expected).max() <= 3


@pytest.mark.parametrize(("side", "columns"), [("left", (0, 85)), ("center", (85, 171)), ("right", (171, 256))])
def test_things_and_balloons_stand_on_the_side_that_the_caption_names(side, columns):
    bare = np.asarray(render(empty(), 256)).astype(int)
    first, last = columns
    for change in ({"things": (Thing("tent", "red", side, 1.0),)}, {"balloon": Balloon("red", side)}):
        scene = empty(**change)
        differs = np.abs(np.asarray(render(scene, 256)) - bare).max(axis=-1) > 60
        assert first <= np.median(np.nonzero(differs)[1]) < last
        texts = {caption(scene, random.Random(seed)) for seed in range(30)}
        assert any(SIDE_PHRASES[side] in text for text in texts)
        assert not any(other in text for text in texts for name, other in SIDE_PHRASES.items() if name != side)


def test_scenes_are_possible():
    for seed in range(2000):
        scene = sample_scene(random.Random(seed))
        assert all(thing.kind in GROUNDS[scene.ground].kinds for thing in scene.things)
        assert len({thing.side for thing in scene.things}) == len(scene.things)
        assert not (scene.sky == "night" and scene.clouds)
        assert scene.body is None or scene.sky != "stormy"
        if scene.balloon and scene.body:
            assert scene.balloon.side != scene.body_side
