"""Fixtures of the tests in Chromium."""

import pytest

from tests.studio.browser import support


@pytest.fixture(scope="session")
def chromium():
    """Chromium, started once; a reason to skip where it is not installed."""
    path = support.chromium_path()
    if path is None:
        pytest.skip("there is no Chromium; install it, or name it in MLX_SD_CHROMIUM")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[browser]'"
    )
    playwright.expect.set_options(timeout=support.PATIENCE)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A Studio for the tests of one module."""
    with support.studio(tmp_path_factory.mktemp("pictures")) as address:
        yield address


@pytest.fixture
def page(chromium):
    """A page that asks nothing of other machines and makes no mistakes: both are checked at the end of each test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    page = context.new_page()
    watch = support.Watch(page)
    yield page
    context.close()
    assert watch.outside == []
    assert watch.problems == []
