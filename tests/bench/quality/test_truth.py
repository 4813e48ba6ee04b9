"""The rules call true pictures true and others not; the captions are pinned, and no training sees them."""

import hashlib
import json
from dataclasses import replace

import pytest
from PIL import Image, ImageFilter

from bench import results
from bench.adapters.drawing import PALETTE, word_claims
from bench.quality import truth
from bench.quality import truth_rules as rules
from bench.quality.truth_judge import Share, judge, shares
from bench.tiny import data, scenes
from bench.tiny.claims import COUNT, claims, swapped
from bench.tiny.painting import COLORS, SIDES
from bench.tiny.scenes import render
from tests.support.effort import slow_but

FEW, SOME = claims()[:10], claims()[:40]


def test_the_captions_are_those_that_earlier_results_are_of():
    text = "\n".join(claim.caption for claim in claims())
    assert len({claim.caption for claim in claims()}) == COUNT
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "82a7be07a902903f"


def test_every_kind_colour_side_sky_and_ground_is_in_them():
    kinds = [thing.kind for claim in claims() for thing in claim.things]
    colors = [thing.color for claim in claims() for thing in claim.things if thing.color]
    assert min(map(kinds.count, scenes.LABELS)) >= 45 and min(map(colors.count, scenes.COLORS)) >= 40
    for values, names in (
        ([claim.sky for claim in claims()], scenes.SKIES),
        ([claim.ground for claim in claims()], scenes.GROUNDS),
    ):
        assert min(map(values.count, names)) >= 60
    assert {len(claim.things) for claim in claims()} == {0, 1, 2}


def test_the_rules_are_those_that_earlier_results_are_of():
    rows = []
    for claim in claims()[:8]:
        pixels = rules.pixels_of(claim.true_picture(128))
        for match in (at(pixels, claim.sky, side) for side in SIDES for at in (rules.thing_at, rules.balloon_at)):
            rows.append((match.kind, match.color, round(match.distance, 1)))
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "bacbf2a127e6715b"


def test_a_palette_of_the_world_s_colours_changes_nothing():
    for claim in FEW[:4]:
        pixels = rules.pixels_of(claim.true_picture(128))
        for at in (rules.thing_at, rules.balloon_at):
            assert at(pixels, claim.sky, "left", dict(COLORS)) == at(pixels, claim.sky, "left")


@pytest.mark.parametrize("count", slow_but([12], [12, 100]))
def test_a_palette_tells_its_new_colour_from_those_like_it(count):
    """A thing in lilac, in purple and in pink, one after the other: each is what it is and not the next colour."""
    colors, right, mistaken = ("lilac", "purple", "pink"), 0, 0
    for index, claim in enumerate(word_claims()[:count]):
        color, other = colors[index % 3], colors[(index + 1) % 3]
        [thing] = claim.things
        things = [replace(t, color=color) if t.color == "lilac" else t for t in claim.scene.things]
        picture = render(replace(claim.scene, things=tuple(things)), 128, colors=PALETTE)
        right += judge(picture, replace(claim, things=(replace(thing, color=color),)), PALETTE).true
        mistaken += judge(picture, replace(claim, things=(replace(thing, color=other),)), PALETTE).true
    assert right >= 0.95 * count and mistaken <= 0.05 * count


def test_training_draws_no_scene_of_the_measure():
    trained = {data.training_scene(index) for index in range(2000)}
    assert not trained & {claim.scene for claim in claims()}


@pytest.mark.parametrize("size", slow_but([128], [128, 256, 384]))
def test_true_pictures_are_true(size):
    assert all(judge(claim.true_picture(size), claim).true for claim in FEW)


@pytest.mark.slow
def test_all_but_few_are_true_and_not_to_changed_captions():
    """As `python -m bench truth --rules` measures, on 100 of the 500 captions."""
    measured = truth.rules_measured(claims()[:100], 256, 256)
    assert measured["shares"]["captions"]["all"]["true"] >= 98
    assert sum(part["true"] for part in measured["changed_captions"].values()) <= 5


def test_they_are_not_true_to_changed_captions():
    changed = [swapped(claim, index) for index, claim in enumerate(SOME)]
    assert {part for part, _ in changed} == {"kind", "color", "side", "sky", "ground", "size"}
    assert not any(judge(c.true_picture(128), other).true for c, (_, other) in zip(FEW, changed, strict=False))


def test_a_changed_claim_differs_from_the_scene():
    for index, claim in enumerate(claims()):
        part, other = swapped(claim, index)
        assert other != claim and other.scene == claim.scene
        if part == "side":
            sides = {thing.side for thing in claim.scene.things}
            assert any(thing.side not in sides | {None} for thing in other.things)


@pytest.mark.slow
def test_nothing_is_true_of_pictures_of_nothing():
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    for picture in (noise, Image.new("RGB", (128, 128), (128, 128, 128)), Image.new("RGB", (128, 128))):
        assert not any(judge(picture, claim).true or any(judge(picture, claim).things) for claim in FEW[:2])


@pytest.mark.slow
def test_a_blur_as_of_an_autoencoder_changes_little():
    blurred = [claim.true_picture(256).filter(ImageFilter.GaussianBlur(2)) for claim in SOME[:20]]
    assert sum(judge(p, claim).true for p, claim in zip(blurred, SOME, strict=False)) >= 18


@pytest.mark.parametrize(
    ("true", "count", "low", "high"), [(470, 500, 91.6, 95.8), (0, 10, 0.0, 27.8), (60, 60, 94.0, 100)]
)
def test_intervals_are_wilson_s(true, count, low, high):
    assert Share(true, count).interval == pytest.approx((low, high), abs=0.05)


def test_shares_count_captions_and_their_parts():
    pairs = [(claim, judge(claim.true_picture(128), claim)) for claim in FEW[:6]]
    tables = shares(pairs)
    assert tables["captions"]["all"]["count"] == 6
    assert sum(row["count"] for row in tables["kind"].values()) == sum(len(claim.things) for claim in FEW[:6])
    assert {"kind", "color", "sky", "ground", "side", "sun and moon"} <= tables.keys()


@pytest.mark.slow
def test_the_command_judges_pictures_of_the_checkpoint(tmp_path, capsys):
    flags = ["--captions", "3", "--steps", "2", "--width", "64", "--height", "64"]
    assert truth.main([*flags, "--json", str(tmp_path / "a.json"), "--sheet", str(tmp_path / "a.png")]) == 0
    values = results.read(tmp_path / "a.json")
    assert values == json.loads(capsys.readouterr().out)
    assert (values["captions"], values["size"], len(values["true"])) == (3, [64, 64], 3)
    assert len(values["false"]) == values["true"].count(0)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size[0] == 1024


@pytest.mark.parametrize(
    "flags", [["--captions", "0"], ["--captions", "501"], ["--batch", "0"], ["--sheet", "no/a.png"]]
)
def test_bad_flags_are_one_line(flags, capsys):
    assert truth.main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_picture_does_not_depend_on_the_batch():
    from mlx_sd import StableDiffusion

    sd, settings = StableDiffusion.load("tiny", "float32"), {"steps": 2, "width": 64, "height": 64}
    one = truth.pictures_of(sd, SOME[:2], 5, 1, settings)
    both = truth.pictures_of(sd, SOME[:2], 5, 2, settings)
    difference = [
        max(abs(a - b) for a, b in zip(x.tobytes(), y.tobytes(), strict=True)) for x, y in zip(one, both, strict=True)
    ]
    assert max(difference) <= 1
