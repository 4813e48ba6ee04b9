"""Pictures come into the page: dropped with their settings, begun with, and painted over with a mask."""

import io

import pytest
from PIL import Image

from tests.studio.browser.support import drop, expect, generate, opened, png

pytestmark = pytest.mark.browser

SETTINGS = {"prompt": "a snowman on white snow", "seed": 4711, "steps": 7, "guidance": 4.0, "sampler": "ddim"}


def test_a_dropped_picture_fills_the_form(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "ours.png", settings=SETTINGS))
    dialog = page.get_by_role("dialog", name="This picture says how it was made")
    expect(dialog).to_contain_text("a snowman on white snow")
    dialog.get_by_role("button", name="Use its settings").click()
    expect(page.locator("#prompt-field")).to_have_value("a snowman on white snow")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4711")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("7")
    expect(page.get_by_label("Sampler", exact=True)).to_have_value("ddim")


def test_a_dropped_picture_is_begun_with(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "ours.png", settings=SETTINGS))
    page.get_by_role("button", name="Begin with the picture").click()
    expect(page.locator(".start .picked")).to_be_visible()
    expect(page.locator("#prompt-field")).to_have_value("")
    page.get_by_label("How much changes", exact=True).fill("0.5")
    generate(page, "a blue tent")
    expect(page.locator(".stage-caption")).to_contain_text("a blue tent")


def test_a_picture_without_settings_is_begun_with_at_once(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "plain.png"), target=".picture-input")
    expect(page.locator(".start .picked")).to_be_visible()
    page.get_by_role("button", name="Take out: Start picture").click()
    expect(page.locator(".start .picked")).to_be_hidden()


def painted(page, address):
    """The mask that the form holds once the editor is closed, as a picture."""
    expect(page.get_by_role("dialog")).to_have_count(0)
    source = page.locator(".mask-picture").get_attribute("src")
    answer = page.request.get(f"{address.rstrip('/')}{source}")
    return Image.open(io.BytesIO(answer.body())).convert("L")


def test_a_mask_is_painted_erased_undone_and_inverted(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "plain.png"))
    page.locator(".start-part").get_by_role("button", name="Paint a mask").click()
    box = page.locator(".mask-canvas").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + 0.1 * side, y + 0.5 * side)
    page.mouse.down()
    page.mouse.move(x + 0.9 * side, y + 0.5 * side, steps=6)
    page.mouse.up()
    page.get_by_label("Feather in pixels").fill("3")
    page.get_by_role("button", name="Use the mask").click()
    mask = painted(page, address)
    assert mask.size == (64, 64)
    assert mask.getpixel((32, 32)) == 255 and mask.getpixel((32, 5)) == 0
    assert page.evaluate("JSON.parse(localStorage['mlx-sd-form']).mask_blur") == 3

    page.get_by_role("button", name="Change the mask").click()
    canvas = page.locator(".mask-canvas")
    expect(canvas).to_be_focused()
    page.keyboard.press("e")
    page.keyboard.press(" ")
    page.keyboard.press("i")
    page.get_by_role("button", name="Use the mask").click()
    mask = painted(page, address)
    assert mask.getpixel((32, 32)) == 255, "erased, and then inverted"
    assert mask.getpixel((10, 32)) == 0 and mask.getpixel((32, 5)) == 255

    page.get_by_role("button", name="Change the mask").click()
    expect(canvas).to_be_focused()
    page.keyboard.press("i")
    for _ in range(3):
        page.keyboard.press("Control+z")
    page.get_by_role("button", name="Use the mask").click()
    assert painted(page, address).tobytes() == mask.tobytes(), "undo ends at the mask that there was"
    generate(page, "a moon")
    expect(page.locator(".stage-caption")).to_contain_text("a moon")

    page.get_by_role("button", name="Take the mask out").click()
    assert "mask_blur" not in page.evaluate("JSON.parse(localStorage['mlx-sd-form'])"), "it is about a mask"
    generate(page, "a sun")
    expect(page.locator(".stage-caption")).to_contain_text("a sun")


def test_a_mask_in_which_everything_is_erased_is_none(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "plain.png"))
    page.locator(".start-part").get_by_role("button", name="Paint a mask").click()
    expect(page.locator(".mask-canvas")).to_be_focused()
    page.keyboard.press(" ")
    page.get_by_label("Feather in pixels").fill("3")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("button", name="Use the mask").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    form = page.evaluate("JSON.parse(localStorage['mlx-sd-form'])")
    assert "mask" not in form and "mask_blur" not in form


def test_a_mask_is_painted_by_the_keyboard_alone(page, address, tmp_path):
    opened(page, address)
    drop(page, png(tmp_path / "plain.png"))
    page.locator(".start-part").get_by_role("button", name="Paint a mask").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".mask-canvas")).to_be_focused()
    page.keyboard.press(" ")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.get_by_role("button", name="Use the mask").focus()
    page.keyboard.press("Enter")
    mask = painted(page, address)
    assert mask.getpixel((32, 32)) == 255 and mask.getpixel((44, 32)) == 255 and mask.getpixel((2, 2)) == 0
