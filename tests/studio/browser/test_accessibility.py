"""axe-core finds nothing serious in any view, in light and in dark; the page fits a phone and a wide screen."""

import pytest

from tests.studio.browser.support import Watch, drop, expect, generate, opened, png

pytestmark = pytest.mark.browser

BEYOND = """
(all, width) => all.filter((each) => each.getBoundingClientRect().right > width + 1).map((each) => each.outerHTML)
"""
VIEWS = ("create", "gallery", "models")


def serious(page):
    """What axe-core says is serious or critical, with the elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'").Axe()
    page.wait_for_timeout(400)  # colours that fade in are judged at their end
    violations = axe.run(page).response["violations"]
    return [
        (violation["id"], [node["html"][:160] for node in violation["nodes"]])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def coloured(chromium, request):
    """A page in light or dark."""
    context = chromium.new_context(color_scheme=request.param, reduced_motion="reduce")
    page = context.new_page()
    watch = Watch(page)
    yield page
    context.close()
    assert watch.outside == [] and watch.problems == []


@pytest.mark.parametrize("coloured", ("light", "dark"), indirect=True)
def test_nothing_serious_is_found_in_any_view(coloured, address, tmp_path):
    page = opened(coloured, address)
    assert serious(page) == [], "before the first picture"
    generate(page, "a (red:1.3) tent")
    drop(page, png(tmp_path / "plain.png"))
    expect(page.locator(".start .picked")).to_be_visible()
    page.locator("details.group").evaluate_all("(all) => all.forEach((each) => (each.open = true))")
    assert serious(page) == [], "create"
    for view in ("gallery", "models"):
        page.get_by_role("link", name=view.capitalize()).click()
        expect(page.locator(f"#view-{view}")).to_be_visible()
        assert serious(page) == [], view


@pytest.mark.parametrize("coloured", ("light", "dark"), indirect=True)
def test_nothing_serious_is_found_in_any_dialog(coloured, address, tmp_path):
    page = opened(coloured, address)
    generate(page)
    page.get_by_role("button", name="An X/Y grid of two settings").click()
    assert serious(page) == [], "grid"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Paint a mask").first.click()
    expect(page.locator(".mask-canvas")).to_be_visible()
    assert serious(page) == [], "mask"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Prompts used before").click()
    assert serious(page) == [], "menu"
    page.keyboard.press("Escape")
    drop(page, png(tmp_path / "ours.png", settings={"prompt": "a tent", "seed": 1}))
    expect(page.get_by_role("dialog", name="This picture says how it was made")).to_be_visible()
    assert serious(page) == [], "choice"
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Gallery").click()
    page.locator(".tile-open").first.click()
    expect(page.locator(".settings-list")).to_be_visible()
    assert serious(page) == [], "picture"


@pytest.mark.parametrize("width", (360, 768, 1024, 1440, 1920))
def test_nothing_is_wider_than_the_window(page, address, width):
    page.set_viewport_size({"width": width, "height": 800})
    opened(page, address)
    for view in VIEWS:
        page.evaluate("(view) => { location.hash = view }", view)
        expect(page.locator(f"#view-{view}")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        beyond = page.locator("button:visible, input:visible, select:visible").evaluate_all(BEYOND, width)
        assert beyond == [], view
    page.evaluate("location.hash = 'create'")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_in_viewport()
