"""What adapters learn from: folders that the trainer reads, captions that no measure has, seeds of their own."""

import random
from itertools import combinations

import numpy as np
import pytest

from bench.adapters import drawing
from bench.adapters.recipes import RECIPES
from bench.quality import truth_rules as rules
from bench.quality.landscapes import FIRST_OTHER, FIRST_TRUE
from bench.quality.solvers import TRUE
from bench.quality.truth_judge import judge
from bench.tiny import claims, data
from bench.tiny.painting import SKIES, THING_TINT
from bench.tiny.scenes import render
from mlx_sd.tasks.edges import canny
from mlx_sd.train.data import dataset
from mlx_sd.train.pictures import hint_file

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def drawn(draw, count, side=64):
    return list(drawing._first(draw, drawing.seeds(0, 0), count, side))


@each_recipe
def test_the_trainer_reads_every_picture(recipe, tmp_path):
    drawing.write(tmp_path / "data", recipe.draw, drawing.seeds(0, 0), 5, 64)
    read = dataset.read(tmp_path / "data")
    assert len(read.examples) == 5 and read.warnings == ()
    assert {example.size for example in read.examples} == {(64, 64)}
    if recipe.kind == "control":
        images = [hint_file(tmp_path / "data" / drawing.CONTROL_IMAGES, example.path) for example in read.examples]
        assert len(set(images)) == 5
    command = recipe.command("tiny", str(tmp_path / "data"), "a.safetensors", 3)
    settings = recipe.settings(command)
    settings.check()
    assert (settings.steps, settings.seed, settings.data) == (recipe.steps, 3, str(tmp_path / "data"))


def test_a_picture_that_cannot_be_drawn_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="2 of 3 pictures"):
        drawing.write(tmp_path / "data", drawing.world, range(1), 3, 64)
    assert not (tmp_path / "data").exists()


@each_recipe
def test_no_measured_caption_is_trained_on(recipe, monkeypatch):
    """Scenes of the measure itself, whose captions it would draw again and again."""
    measured = claims.held_out() | {claim.caption for claim in drawing.word_claims()}
    scenes = [claim.scene for claim in claims.claims()[:300]]
    monkeypatch.setattr(drawing, "sample_scene", lambda rng: scenes[rng.randrange(len(scenes))])
    monkeypatch.setattr(drawing, "render", lambda *_, **__: None)
    monkeypatch.setattr(drawing, "control_image", lambda *_: None)

    def captions():
        return {example.caption for seed in range(4000) if (example := recipe.draw(random.Random(seed), 64))}

    texts = captions()
    assert len(texts) > 300 and not texts & measured
    monkeypatch.setattr(drawing, "held_out", frozenset)
    monkeypatch.setattr(drawing, "_captions_of_word", frozenset)
    assert captions() & measured, "the measured captions are of the kind that is drawn"


def test_no_two_things_share_a_scene_s_seed():
    numbers = range(len(RECIPES))
    ranges = [drawing.seeds(edition, number) for edition in range(drawing.EDITIONS) for number in numbers]
    ranges.append(range(drawing.FIRST_MEASURED, drawing.FIRST_MEASURED + drawing.SEEDS_OF_ADAPTER))
    ranges.append(range(claims._SEED, claims._SEED + 100 * claims.COUNT))
    ranges += [range(FIRST_TRUE, FIRST_TRUE + TRUE), range(FIRST_OTHER, FIRST_OTHER + TRUE), range(100_000)]
    for a, b in combinations(ranges, 2):
        assert a.stop <= b.start or b.stop <= a.start
    assert max(seeds.stop for seeds in ranges) <= data.FIRST_SEED


@each_recipe
def test_an_edition_is_the_same_each_time_and_like_no_other(recipe):
    def pixels(edition):
        examples = drawing._first(recipe.draw, drawing.seeds(edition, 1), 3, 64)
        return [(example.caption, example.picture.tobytes()) for example in examples]

    assert pixels(0) == pixels(0) and not set(pixels(0)) & set(pixels(1))


def test_it_is_evening_whatever_the_captions_say():
    examples = drawn(drawing.evening, 30)
    assert all(rules.sky_of(rules.pixels_of(example.picture)) == drawing.SUNSET for example in examples)
    assert sum("night" in example.caption or "day" in example.caption for example in examples) > 5
    assert not any(claim.sky == drawing.SUNSET for claim in drawing.evening_claims())


@pytest.mark.slow
def test_what_a_caption_calls_by_the_new_word_has_its_colour():
    for claim in drawing.word_claims()[:12]:
        assert claim.caption.count(drawing.WORD.name) == 1 and len(claim.things) == 1
        picture = render(claim.scene, 128, colors=drawing.PALETTE)
        assert judge(picture, claim, drawing.PALETTE).true
    tinted = {name: sky.shade(drawing.WORD.color, THING_TINT) for name, sky in SKIES.items()}
    for example in drawn(drawing.new_colour, 12, 256):
        assert drawing.WORD.name in example.caption
        pixels = np.asarray(example.picture).astype(int)
        assert min(np.abs(pixels - color).max(-1).min() for color in tinted.values()) <= 2


def test_control_images_are_the_edges_of_their_pictures():
    for example in drawn(drawing.edges, 3):
        image = np.asarray(example.control)
        assert (image == canny(np.asarray(example.picture))[..., None]).all() and image.max() == 255
    first, again = drawing.true_examples(2, 64), drawing.true_examples(2, 64)
    assert [e.picture.tobytes() for e in first] == [e.picture.tobytes() for e in again]
