"""Pictures are made in the page: by mouse and by keyboard, with previews, cancelled, refused, and after a reload."""

import pytest

from tests.studio.browser.support import expect, generate, opened

pytestmark = pytest.mark.browser


def test_a_picture_is_made_with_previews_and_hangs_in_the_gallery(page, address):
    opened(page, address, {"steps": 12, "seed": 1})
    page.evaluate("""
        window.previews = new Set();
        new MutationObserver(() => window.previews.add(document.querySelector(".stage-preview").src))
            .observe(document.querySelector(".stage-preview"), { attributes: true, attributeFilter: ["src"] });
    """)
    name = generate(page, "a red tent on green grass, under a clear day sky")
    assert page.evaluate("[...window.previews].filter((src) => src.startsWith('data:image/jpeg')).length") >= 1
    assert page.locator(".stage-image").evaluate("(image) => image.naturalWidth") == 256
    assert "12 steps" in page.locator(".caption-settings").inner_text()
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(f'.tile[data-name="{name}"] img.ready')).to_be_visible()


def test_a_picture_is_cancelled_before_it_is_ready(page, address):
    opened(page, address, {"steps": 900, "width": 64, "height": 64})
    page.fill("#prompt-field", "a house on white snow")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#stage[data-mode="working"]')
    expect(page.locator(".stage-words")).to_contain_text("of 900")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.wait_for_selector('#stage:not([data-mode="working"])')
    expect(page.locator("#queue-body")).to_contain_text("Nothing waits")


def test_a_late_answer_about_the_newest_picture_does_not_cover_the_work(page, address):
    opened(page, address)
    generate(page)
    held = []
    page.route("**/api/gallery/*.png", lambda route: held.append(route))
    page.add_init_script("localStorage.setItem('mlx-sd-form', JSON.stringify({ steps: 900, width: 128, height: 128 }))")
    page.reload()
    page.wait_for_selector("body.ready")
    while not held:
        page.wait_for_timeout(20)
    page.fill("#prompt-field", "a house on white snow")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#stage[data-mode="working"]')
    for route in held:
        route.continue_()
    expect(page.locator(".stage-words")).to_contain_text("of 900")
    page.wait_for_timeout(200)
    expect(page.locator("#stage")).to_have_attribute("data-mode", "working")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.wait_for_selector('#stage:not([data-mode="working"])')


def test_pictures_that_wait_are_moved_and_taken_out(page, address):
    opened(page, address, {"steps": 900, "width": 64, "height": 64})
    for prompt in ("first", "second", "third"):
        page.fill("#prompt-field", prompt)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".queue-item", has_text=prompt)).to_be_visible()
    prompts = page.locator(".queue-item:not(.running) .item-prompt")
    expect(prompts).to_have_text(["second", "third"])
    page.get_by_role("button", name="Move up: third").focus()
    page.keyboard.press("Enter")
    expect(prompts).to_have_text(["third", "second"])
    page.locator(".queue-item", has_text="second").hover()
    page.get_by_role("button", name="Take out: second").click()
    expect(prompts).to_have_text(["third"])
    page.get_by_role("button", name="Take out: third").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Cancel: first").click()
    expect(page.locator("#queue-body")).to_contain_text("Nothing waits")


def test_an_error_stands_at_its_field_and_takes_the_focus(page, address):
    opened(page, address, {"steps": 3, "guidance_rescale": 7})
    page.fill("#prompt-field", "a tent")
    page.keyboard.press("Control+Enter")
    field = page.locator('[data-setting="guidance_rescale"]')
    expect(field.locator("input")).to_be_focused()
    expect(field.locator("input")).to_have_attribute("aria-invalid", "true")
    error = field.locator(".field-error")
    expect(error).to_contain_text("guidance rescale must be from 0 to 1")
    assert error.get_attribute("id") in field.locator("input").get_attribute("aria-describedby")


def test_a_reload_keeps_the_form(page, address):
    opened(page, address, {})
    page.fill("#prompt-field", "a lighthouse")
    page.get_by_label("Negative", exact=True).fill("clouds")
    page.get_by_role("radio", name="Fastest", exact=True).click()
    page.get_by_label("Seed", exact=True).fill("77")
    page.get_by_label("Pictures", exact=True).fill("3")
    page.get_by_label("Pictures", exact=True).press("Tab")
    page.reload()
    page.wait_for_selector("body.ready")
    expect(page.locator("#prompt-field")).to_have_value("a lighthouse")
    expect(page.get_by_label("Negative", exact=True)).to_have_value("clouds")
    expect(page.get_by_role("radio", name="Fastest", exact=True)).to_have_attribute("aria-checked", "true")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")
    expect(page.get_by_role("button", name="Generate 3")).to_be_visible()


def test_a_picture_is_made_by_the_keyboard_alone(page, address):
    opened(page, address)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt-field")).to_be_focused()
    page.keyboard.type("a tent")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#stage[data-mode="done"] .stage-image.ready')
    page.keyboard.press("Escape")
    page.locator("#prompt-field").fill("")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#prompt-field")).to_have_value("a tent")
    page.locator("#prompt-field").blur()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_have_count(0)
    page.keyboard.press("2")
    expect(page.locator(".tile-open").first).to_have_accessible_name("a tent")
    page.locator('.tile-open[tabindex="0"]').focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Picture")).to_contain_text("a tent")


def test_tokens_and_weights_are_shown(page, address):
    opened(page, address, {})
    page.fill("#prompt-field", "a (red:1.3) tent")
    expect(page.locator('[data-setting="prompt"] .token-count')).to_contain_text("3/75 tokens")
    expect(page.locator('[data-setting="prompt"] .weights')).to_have_text("red \N{MULTIPLICATION SIGN}1.3")


def test_a_model_of_tokens_has_samplers_of_its_own(page, address):
    opened(page, address, {"steps": 4})
    field = page.locator('[data-setting="sampler"] select')
    field.select_option("euler")
    page.locator('[data-setting="model"] select').select_option("tiny-tokens")
    expect(field).to_have_value("")
    names = field.locator("option").evaluate_all("(options) => options.map((option) => option.value)")
    assert "maskgit" in names and "dndm" in names and "euler" not in names
    field.select_option("maskgit")
    generate(page, "a house on white snow")
    assert "maskgit" in page.locator(".caption-settings").inner_text()
    page.locator('[data-setting="model"] select').select_option("tiny")
    expect(field).to_have_value("")
    expect(field.locator('option[value="euler"]')).to_have_count(1)


def test_every_setting_of_the_server_has_a_field(page, address):
    opened(page, address)
    settings = page.evaluate("fetch('/api/state').then((r) => r.json()).then((s) => s.settings.map((e) => e.name))")
    fields = page.locator("[data-setting]").evaluate_all("(all) => all.map((e) => e.dataset.setting)")
    assert len(settings) > 50
    assert sorted(set(settings) - set(fields)) == []


def test_a_preset_shows_what_it_costs_and_trades(page, address):
    opened(page, address, {})
    page.fill("#prompt-field", "a tent")
    page.get_by_role("radio", name="Fast", exact=True).click()
    expect(page.locator(".cost-words")).to_contain_text("times fewer multiplications")
    expect(page.locator(".cost .hint")).to_contain_text("come true")
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("placeholder", "8")
