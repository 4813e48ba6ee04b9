"""Where pictures go: names, patterns, numbers, and files that must not be replaced."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_sd import metadata
from mlx_sd.cli import flags, replay
from mlx_sd.cli.plan import Plan
from mlx_sd.cli.prompt_list import templates_of
from mlx_sd.cli.targets import Names, Targets, safe
from mlx_sd.core.errors import InputError
from tests.support.effort import slow_but

pytestmark = pytest.mark.usefixtures("tiny_once")

FAST = ("--steps", 1, "--width", 32, "--height", 32)
NAMES = {  # flags -> the names of the pictures
    ("--output", "{seed}-{prompt}.png"): ["7-a-tent.png"],
    ("--output", "{number:03}_{sampler}_{steps}_{width}x{height}.png"): ["001_dpmpp_2m_sde_1_32x32.png"],
    ("--output", "{model}/{seed}.webp"): ["tiny/7.webp"],
    ("--output", "new/"): ["new/a-tent-7.png"],
    ("--output", "{model}-{seed}/"): ["tiny-7/a-tent-7.png"],
    ("--output", "{{x}}{seed}.jpg"): ["{x}7.jpg"],
    ("--output", "p.jpeg", "--count", 2): ["p-7.jpeg", "p-8.jpeg"],
}


@pytest.mark.parametrize("options", slow_but(list(NAMES)[:2], NAMES), ids=lambda options: options[1])
def test_a_pattern_names_the_pictures(run, tmp_path, options):
    code, out, _ = run("a tent!", *FAST, "--seed", 7, *options)
    assert (code, out.split()) == (0, NAMES[options])
    for name in NAMES[options]:
        assert metadata.read(tmp_path / name)["prompt"] == "a tent!"


MISTAKES = {
    "{sed}.png": "there is no field {sed}; did you mean 'seed'? there are prompt, seed, number, model",
    "{}.png": "there is no field {}; there are prompt",
    "{seed!r}.png": "there is no field {seed};",
    "{seed.real}.png": "there is no field {seed.real}",
    "{seed:>99999999}.png": "{seed:>99999999} is not a width of a number",
    "{prompt:5}.png": "{prompt:5} is not a width of a number",
    "{seed.png": "write a brace of the name twice",
    "{seed}": "pictures are written as .png, .jpg, .jpeg, .webp",
    "a.bmp": "pictures are written as .png, .jpg, .jpeg, .webp; give a name that ends in one of them, or a folder",
    f"{'x' * 300}{{seed}}.png": "is too long",
    f"{'x' * 300}.png": "is too long",
    f"{'é' * 120}.png": "is too long",
    "file.txt/{seed}.png": "cannot be written (Not a directory)",
}


@pytest.mark.parametrize("output", MISTAKES)
def test_a_wrong_pattern_is_one_line_and_nothing_is_written(run, tmp_path, output):
    (tmp_path / "file.txt").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("a tent", *FAST, "--output", output)
    assert (code, out, err.count("\n")) == (2, "", 1) and MISTAKES[output] in err, err
    assert sorted(tmp_path.rglob("*")) == before


def test_one_name_for_several_pictures_is_refused(run, tmp_path):
    code, _, err = run("a tent", *FAST, "--count", 2, "--output", "{prompt}.png")
    assert code == 2 and "a-tent.png would be the name of several pictures; put {seed} or {number} into it" in err
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=300))
def test_any_prompt_is_a_safe_and_short_name(text):
    name = safe(text)
    assert name and len(os.fsencode(name)) <= 120 and name[0] not in "-."
    assert not set('/\\\0{}:*?"<>|\n') & set(name)


def test_a_name_that_the_user_gives_replaces_our_pictures_and_no_other_files(run, tmp_path):
    assert run("a tent", *FAST, "--seed", 1, "--output", "a.png")[0] == 0
    assert run("a tent", *FAST, "--seed", 2, "--output", "a.png")[0] == 0
    assert metadata.read(tmp_path / "a.png")["seed"] == 2
    Image.new("RGB", (9, 9)).save("holiday.png")
    before = Path("holiday.png").read_bytes()
    code, _, err = run("a tent", *FAST, "--output", "holiday.png")
    assert code == 2 and "holiday.png exists and does not say that mlx-sd made it" in err
    assert Path("holiday.png").read_bytes() == before
    assert run("a tent", *FAST, "--output", "holiday.png", "--overwrite")[0] == 0
    (tmp_path / "folder.png").mkdir()
    assert run("a tent", *FAST, "--output", "folder.png/{seed}.png")[0] == 0


def test_more_pictures_than_a_list_can_hold_are_refused_at_once(run):
    code, _, err = run("a tent", "--count", 4_000_000_000, "--output", "p/")
    assert code == 2 and "one run makes at most 1000000 pictures, not 4000000000" in err


def test_numbers_go_on_from_what_exists_and_from_what_is_taken():
    names, there = Names(), {Path("a.png"), Path("a.3.png")}
    numbered = [names.number(Path("a.png"), lambda path: path not in there) for _ in range(3)]
    assert numbered == [Path("a.2.png"), Path("a.4.png"), Path("a.5.png")]
    assert names.number(Path("a.png"), lambda path: True) == Path("a.png")


def test_a_dangling_link_is_not_replaced(run, tmp_path):
    (tmp_path / "a-tent-1.png").symlink_to("nowhere")
    assert run("a tent", *FAST, "--seed", 1)[1] == "a-tent-1.2.png\n"
    assert (tmp_path / "a-tent-1.png").is_symlink()


def _calls(tmp_path, *words):
    """The number of Python calls from the arguments to the targets."""
    arguments = flags.parser("x").parse_args([str(word) for word in words])
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        request = replay.request_of(arguments)
        plan = Plan(arguments, templates_of(arguments, request))
        for draft in plan.drafts:
            plan.decide(draft, request)
    finally:
        sys.setprofile(None)
    assert len({draft.target for draft in plan.drafts}) == len(plan.drafts)
    return count


@pytest.mark.parametrize("kind", ["count", "equal lines", "name"])
def test_the_work_before_the_first_picture_is_linear_in_their_number(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)

    def work(pictures):
        if kind == "equal lines":
            Path("prompts.txt").write_text("a tent\n" * pictures)
            return _calls(tmp_path, "--prompts", "prompts.txt", "--seed", 0, "--output", "new/")
        output = "new/" if kind == "count" else "a.png"
        return _calls(tmp_path, "a tent", "--count", pictures, "--seed", 0, "--output", output)

    few, many = work(200), work(800)
    assert many / few < 4.4 and many / 800 < (900 if kind == "equal lines" else 150)


@pytest.mark.parametrize("folder", ["", "{number}/"])
def test_targets_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="pictures are written as"):
        Targets(f"{folder}a.tiff", 1, 1)
