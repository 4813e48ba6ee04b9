"""What training sees: new scenes in every epoch, none of the measured captions, masks that cover the things."""

import random
from dataclasses import replace

import numpy as np
import pytest

from bench.tiny import data
from bench.tiny.claims import claims, held_out
from bench.tiny.scenes import caption, render, sample_scene


def first(epoch, count=60):
    return data.first_scenes(epoch, count)


def test_an_epoch_is_the_same_each_time_and_like_no_other():
    assert first(3) == first(3)
    assert not set(first(3)) & set(first(4))


def test_an_epoch_never_reaches_the_scenes_of_the_next():
    kept = np.mean([data.share_kept(sample_scene(random.Random(seed))) for seed in range(600)])
    assert 10_000 / (kept / 2) < data.SEEDS_PER_EPOCH


def test_scenes_with_two_things_are_more_frequent_than_in_the_world():
    def share(scenes):
        return np.mean([len(scene.things) + (scene.balloon is not None) == 2 for scene in scenes])

    world = [sample_scene(random.Random(seed)) for seed in range(600)]
    assert share(first(0, 600)) > 1.3 * share(world)


def test_colours_in_dim_light_are_more_frequent_than_in_the_world():
    def share(scenes):
        return np.mean([scene.sky in data.DIM and bool(scene.things) for scene in scenes])

    world = [sample_scene(random.Random(seed)) for seed in range(600)]
    assert share(first(0, 600)) > 1.2 * share(world)
    assert max(data.share_kept(scene) for scene in world) < 2, "hardly a kind is cut off at all of its scenes"


def test_no_measured_caption_is_trained_on():
    scenes = [claim.scene for claim in claims()[:40]]
    rng = random.Random(0)
    texts = [data.trained_caption(scene, rng, held_out()) for scene in scenes for _ in range(40)]
    assert len(set(texts)) > len(scenes) and not held_out() & set(texts)
    unrestricted = {caption(scene, random.Random(seed)) for scene in scenes for seed in range(400)}
    assert held_out() & unrestricted, "the measured captions are of the kind that training draws"


@pytest.mark.parametrize(("width", "height"), [(256, 256), (384, 256), (128, 192)])
def test_a_mask_covers_what_the_things_change_and_nothing_else(width, height):
    scene = next(scene for scene in first(1) if scene.things and not scene.body)
    image, mask = data.paint_one(scene, width, height)
    assert (image == np.asarray(render(scene, width, height))).all()
    assert mask.shape == (height // data.CELL, width // data.CELL)
    assert 0.005 < mask.mean() < 0.5 and mask.min() == 0 and mask.max() > 0.9
    bare = data.paint_one(replace(scene, things=(), balloon=None), width, height)[1]
    assert not bare.any()


@pytest.mark.parametrize(("width", "height"), [(256, 256), (384, 256), (128, 192)])
def test_a_mask_covers_the_sun_or_the_moon_wherever_it_stands_and_little_more(width, height):
    for scene in [scene for scene in first(1) if scene.body][:12]:
        scene = replace(scene, things=(), balloon=None, clouds=0)
        image, mask = data.paint_one(scene, width, height)
        other = "right" if scene.body_side == "left" else "left"
        moved = np.asarray(render(replace(scene, body_side=other), width, height))
        changed = np.abs(image.astype(int) - moved).sum(-1) > 150  # not its glow
        here = np.zeros_like(changed)
        here[data.body_area(scene, width, height)] = True
        there = np.zeros_like(changed)
        there[data.body_area(replace(scene, body_side=other), width, height)] = True
        assert changed[here].any() and changed[~(here | there)].mean() < 0.01, "only the ends of rays lie outside"
        assert 0 < mask.mean() < 0.2


def test_an_epoch_is_drawn_when_its_first_step_comes_and_again_on_resuming():
    drawn = []

    def draw(epoch):
        drawn.append(epoch)
        return epoch

    epochs = data.Epochs(draw, 5)
    assert [epochs.at(step) for step in range(12)] == [0] * 5 + [1] * 5 + [2] * 2
    assert drawn == [0, 1, 2]
    assert data.Epochs(draw, 5).at(11) == 2 and drawn == [0, 1, 2, 2]


@pytest.mark.parametrize(("width", "height"), [(384, 256), (256, 384)])
def test_an_oblong_picture_shows_the_scene_on_more_room(width, height):
    for claim in claims()[:6]:
        picture = claim.true_picture(width, height)
        assert picture.size == (width, height)
        square = np.asarray(claim.true_picture(256))
        assert np.abs(np.asarray(picture)[0].mean(0) - square[0].mean(0)).max() < 12  # the same sky
