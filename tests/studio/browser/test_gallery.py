"""The gallery: searched, compared, emptied into the trash and back, and scrolled over ten thousand pictures."""

import os

import pytest

from tests.studio.browser.support import expect, generate, opened, png, studio

pytestmark = pytest.mark.browser

MANY = 10_000
MOST_TILES = 500
FRAMES = 300
FRAME = 50.0  # milliseconds within which 95% of the frames come
WORK_OF_A_FRAME = 14.0  # milliseconds of processor time of the page's thread, less than a frame at 60 Hz has
FREE = 0.8  # share of a core that the page must get for its frames to be timed

# Scrolls slowly, fast and in jumps, for so many frames; returns the times between frames and the most tiles at once.
SCROLL = """
async (frames) => {
  const scroller = document.querySelector(".gallery-scroll");
  const times = [];
  let [most, last] = [0, 0];
  for (let frame = 0; frame < frames; frame++) {
    const now = await new Promise(requestAnimationFrame);
    if (last) times.push(now - last);
    last = now;
    most = Math.max(most, document.querySelectorAll(".tile").length);
    if (frame % 60 === 59) scroller.scrollTop = scroller.scrollHeight * Math.random();
    else scroller.scrollTop += frame % 60 < 30 ? 24 : 400;
  }
  return { times, most };
}
"""

# Computes for a while, and returns how long that took.
WORK = """
() => {
  const start = performance.now();
  let sum = 0;
  for (let i = 0; i < 3e7; i++) sum += Math.sqrt(i);
  return [performance.now() - start, sum];
}
"""


class MainThread:
    """The processor time of the page's main thread."""

    def __init__(self, page):
        self.page, self.session = page, page.context.new_cdp_session(page)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds(self):
        metrics = {entry["name"]: entry["value"] for entry in self.session.send("Performance.getMetrics")["metrics"]}
        return metrics["TaskDuration"]

    def share_of_a_core(self):
        """How much of the time the thread runs while it has work to do."""
        before = self.seconds()
        passed, _ = self.page.evaluate(WORK)
        return min(1.0, (self.seconds() - before) / (passed / 1000))


@pytest.fixture
def filled(tmp_path):
    """The address of a Studio with three pictures, the newest first in its list."""
    for number, prompt in enumerate(("a tent", "a house", "a boat")):
        settings = {"prompt": prompt, "seed": number, "steps": 10 + number}
        path = png(tmp_path / f"picture-{number}.png", colour=(80 * number, 90, 120), settings=settings)
        os.utime(path, (1.7e9 + number, 1.7e9 + number))
    with studio(tmp_path) as address:
        yield address


def names(page):
    tiles = page.locator(".tile:visible").evaluate_all("(all) => all.map((e) => [+e.dataset.index, e.dataset.name])")
    return [name for _, name in sorted(tiles)]


def test_pictures_are_searched_opened_and_walked_through(page, filled):
    opened(page, filled, view="gallery")
    expect(page.locator(".tile:visible")).to_have_count(3)
    assert names(page) == ["picture-2.png", "picture-1.png", "picture-0.png"]
    page.get_by_label("Search in prompts and settings").fill("house")
    expect(page.locator(".tile:visible")).to_have_count(1)
    page.get_by_label("Search in prompts and settings").fill("no such words")
    expect(page.locator(".gallery-empty")).to_contain_text("No picture has these words")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator(".tile:visible")).to_have_count(3)
    page.get_by_role("button", name="a boat", exact=True).click()
    dialog = page.get_by_role("dialog", name="Picture")
    expect(dialog.locator(".settings-list")).to_contain_text("12")
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".detail-prompt")).to_have_text("a house")
    dialog.get_by_role("button", name="Use its settings").click()
    expect(page.locator("#prompt-field")).to_have_value("a house")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("11")


def test_two_pictures_are_compared_by_what_differs(page, filled):
    opened(page, filled, view="gallery")
    page.get_by_role("button", name="a boat", exact=True).focus()
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    page.get_by_role("button", name="Compare", exact=True).click()
    rows = page.locator(".compare-table tbody tr")
    expect(rows).to_have_text(["Prompta boata house", "Seed21", "Steps1211"])


def test_a_picture_is_deleted_and_taken_back(page, filled, tmp_path):
    opened(page, filled, view="gallery")
    page.get_by_role("button", name="a house", exact=True).focus()
    page.keyboard.press("Delete")
    expect(page.locator(".tile:visible")).to_have_count(2)
    assert not (tmp_path / "picture-1.png").exists()
    assert (tmp_path / "trash" / "picture-1.png").exists()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".tile:visible")).to_have_count(3)
    assert (tmp_path / "picture-1.png").exists()


def test_a_new_picture_comes_to_the_front(page, filled):
    opened(page, filled, view="gallery")
    expect(page.locator(".tile:visible")).to_have_count(3)
    page.get_by_role("link", name="Create").click()
    name = generate(page)
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".tile:visible")).to_have_count(4)
    assert names(page)[0] == name


def test_a_grid_over_two_settings_is_a_table_of_pictures(page, filled):
    opened(page, filled, {"steps": 2, "width": 64, "height": 64})
    page.fill("#prompt-field", "a tent")
    page.get_by_role("button", name="An X/Y grid of two settings").click()
    page.get_by_label("Values across").fill("3, 9")
    page.get_by_label("Values down").fill("5-7")
    dialog = page.get_by_role("dialog", name="X/Y grid")
    expect(dialog).to_contain_text("2 \N{MULTIPLICATION SIGN} 3 = 6 pictures")
    dialog.get_by_role("button", name="Make the grid").click()
    expect(page.locator(".grid-table thead th")).to_have_text(["3", "9"])
    expect(page.locator(".grid-table tbody th")).to_have_text(["5", "6", "7"])
    pictures = page.locator(".grid-cell[data-state=done] img[src]")
    expect(pictures).to_have_count(6)
    labels = pictures.evaluate_all("(all) => all.map((image) => image.alt)")
    assert labels == [f"Guidance {x}, Seed {y}" for y in (5, 6, 7) for x in (3, 9)]
    for index, (guidance, seed) in enumerate((x, y) for y in (5, 6, 7) for x in (3, 9)):
        name = pictures.nth(index).get_attribute("src").split("/")[3]
        request = page.request.get(f"{filled}api/gallery/{name}").json()["request"]
        assert (request["guidance"], request["seed"]) == (guidance, seed)


def test_ten_thousand_pictures_scroll_smoothly(page, tmp_path):
    content = png(tmp_path / "picture-00000.png", settings={"prompt": "a tent", "seed": 0}).read_bytes()
    for number in range(1, MANY):
        (tmp_path / f"picture-{number:05d}.png").write_bytes(content)
    with studio(tmp_path) as address:
        opened(page, address, view="gallery")
        expect(page.locator("#view-gallery .count")).to_have_text("10,000")
        clock = MainThread(page)
        share = clock.share_of_a_core()
        before = clock.seconds()
        measured = page.evaluate(SCROLL, FRAMES)
        work = 1000 * (clock.seconds() - before) / FRAMES
        times = sorted(measured["times"])
        late = times[int(0.95 * len(times))]
        print(
            f"frames: median {times[len(times) // 2]:.1f} ms, 95% {late:.1f} ms, worst {times[-1]:.1f} ms; the page's "
            f"thread works {work:.1f} ms in each, and gets {share:.0%} of a core; at most {measured['most']} tiles"
        )
        assert measured["most"] <= MOST_TILES
        assert work <= WORK_OF_A_FRAME
        page.evaluate("document.querySelector('.gallery-scroll').scrollTop = 1e9")
        last = page.locator(f'.tile[data-index="{MANY - 1}"]:not(.blank) img.ready')
        expect(last).to_be_visible()
        if late > FRAME and share < FREE:
            pytest.skip(f"other programs leave the page {share:.0%} of a core: its frames cannot be timed here")
        assert late <= FRAME
