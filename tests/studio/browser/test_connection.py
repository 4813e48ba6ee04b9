"""The page says that the connection is lost, and goes on by itself when the server is back."""

from urllib.parse import urlsplit

import pytest

from tests.studio.browser.support import expect, generate, opened, studio

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("at_once", [False, True])
def test_the_page_finds_a_server_again(page, tmp_path, at_once):
    with studio(tmp_path) as address:
        opened(page, address)
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    with studio(tmp_path, port=urlsplit(address).port):
        if at_once:  # without the mouse: the page may find the server before the pointer has arrived
            page.get_by_role("button", name="Try now").dispatch_event("click")
        expect(page.locator("#connection")).to_have_attribute("data-state", "open")
        expect(page.locator("#lost")).to_be_hidden()
        generate(page)


def test_the_token_leaves_the_address_bar_and_opens_everything(page, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_SD_STUDIO_TOKEN", "a-token-of-this-test-alone")
    with studio(tmp_path) as address:
        assert "#token=a-token-of-this-test-alone" in address
        opened(page, address, {"steps": 2, "width": 64, "height": 64})
        assert page.url == address.partition("#")[0]
        generate(page)
        assert page.locator(".stage-image").get_attribute("src").startswith("blob:")
        page.reload()
        page.wait_for_selector('#stage[data-mode="done"] .stage-image.ready')
        stranger = page.context.browser.new_context().new_page()
        stranger.goto(page.url)
        expect(stranger.locator(".toast.error")).to_contain_text("token is missing or wrong")
        stranger.context.close()
