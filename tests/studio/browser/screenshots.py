"""The guide's pictures of the page: python -m tests.studio.browser.screenshots.

The embedded checkpoint makes a few pictures in a folder that is thrown away, and Chromium shows them in light, in dark
and as a phone does.
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.studio.browser import support

FOLDER = support.ROOT / "docs" / "pictures"
LARGEST = 300_000  # bytes of a file
PROMPTS = (
    "a red tent on green grass, under a clear day sky",
    "a house with a yellow roof on white snow, mountains, under a night sky",
    "a cactus on yellow desert, mountains, a large sun",
    "a white lighthouse in the blue sea, clouds in the sky",
    "a house and a green tree on green meadow, under an overcast sky",
    "two balloons over the blue sea, under a sunset sky",
    "a snowman on white snow, under a clear day sky",
    "a sailboat with blue sails on the left on the blue sea, under a sunset sky",
)
NEGATIVE = "blurred"
SHOTS = {  # name -> colours, width, height
    "light": ("light", 1440, 900),
    "dark": ("dark", 1440, 900),
    "phone": ("light", 390, 844),
}


def main():
    """Makes the pictures and writes the screenshots."""
    from playwright.sync_api import sync_playwright

    path = support.chromium_path()
    if path is None:
        sys.exit("there is no Chromium; install it, or name it in MLX_SD_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLX_SD_CACHE"] = str(Path(folder, "cache"))
        shutil.copytree(support.ROOT / "tests/goldens/previews", Path(folder, "cache/previews"))
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        with support.studio(pictures) as address, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            fill(browser, address)
            for name, (colours, width, height) in SHOTS.items():
                write(FOLDER / f"studio-{name}.png", shoot(browser, address, name, colours, width, height))
            browser.close()


def page_of(browser, address, form, **context):
    """Returns an opened page."""
    page = browser.new_context(reduced_motion="reduce", **context).new_page()
    support.Watch(page)
    return support.opened(page, address, form)


def fill(browser, address):
    """Makes the pictures of the gallery."""
    page = page_of(browser, address, {"speed": "fast"})
    for seed, prompt in enumerate(PROMPTS):
        page.get_by_label("Seed", exact=True).fill(str(20 + seed))
        support.generate(page, prompt)
    page.context.close()


def shoot(browser, address, name, colours, width, height):
    """Returns a screenshot: of a picture that is being made in dark, of a finished one else."""
    form = {
        "speed": "fast",
        "prompt": PROMPTS[-1].replace("blue sails", "(blue:1.2) sails"),
        "negative": NEGATIVE,
        "seed": 27,
    }
    if name == "dark":
        form = {"steps": 60, "deepcache": "3", "prompt": PROMPTS[1], "seed": 21}
    page = page_of(browser, address, form, color_scheme=colours, viewport={"width": width, "height": height})
    page.wait_for_selector(".stage-image.ready")
    page.locator(".cost-words").wait_for()
    if name == "dark":
        for prompt in (PROMPTS[1], PROMPTS[0], PROMPTS[4]):
            page.fill("#prompt-field", prompt)
            page.keyboard.press("Control+Enter")
            page.locator(".queue-item", has_text=prompt[:20]).first.wait_for()
        page.fill("#prompt-field", PROMPTS[1])
        support.expect(page.locator(".stage-words")).to_contain_text("Step 1")
        page.locator(".stage-preview[src]").wait_for()
    page.locator("#prompt-field").blur()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    shot = page.screenshot()
    if name == "dark":
        for job in page.locator("[data-act=cancel]").all()[::-1]:
            job.evaluate("(button) => button.click()")
    page.context.close()
    return shot


def write(target, shot):
    """Writes a screenshot as a small file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(shot)).convert("RGB").save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target}: {size // 1000} kB")
    if size > LARGEST:
        sys.exit(f"{target} has {size} bytes; at most {LARGEST} are taken")


if __name__ == "__main__":
    main()
