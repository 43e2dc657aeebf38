"""The page in a real browser: nothing leaves it, nothing in it fails, its first screen says what matters."""

import os
import shutil

import pytest
from tests.report.recordings import EVERYTHING, HISTORY, HOSTILE_TEXTS, VARIANTS, hostile, recording

from whynan.report.saved import save

CHROMIUM = os.environ.get("WHYNAN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FACTS = ("loss is NaN at step 1417", "acos at train.py:58 in rotation_loss", "domain ends at 1", "dataset index 9310")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        # Continuous integration says that there has to be one.
        assert not os.environ.get("WHYNAN_BROWSER_REQUIRED"), "no Chromium: apt-get install chromium"
        pytest.skip("no Chromium here: apt-get install chromium, or set WHYNAN_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Return a function that saves a recording and opens its page; afterwards nothing may have gone wrong in it."""
    seen, pages = [], []

    def visit(recorded, width=1280, height=900, scheme="light"):
        save(recorded, tmp_path / "out")
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: seen.append(request.url) if _is_foreign(request.url) else None)
        page.goto((tmp_path / "out" / "report.html").as_uri())
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert seen == []


def _is_foreign(url):
    return not url.startswith("data:") and not url.endswith("/out/report.html")


WHOLE = recording(EVERYTHING, history=HISTORY)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_first_screen_says_what_where_why_which_and_what_helps(visit, size, scheme):
    page = visit(WHOLE, *size, scheme)
    summary = page.locator(".summary").first
    text = summary.inner_text()
    for fact in FACTS:
        assert fact in text
    assert "clamp the cosine inside its domain" in text
    assert "proved" in text
    box = summary.bounding_box()
    assert box["y"] + box["height"] <= size[1]
    # Nothing makes the page itself scroll sideways.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_colours_have_contrast(visit):
    """WCAG AA asks 4.5 of text against its ground."""
    for scheme in ("light", "dark"):
        page = visit(WHOLE, scheme=scheme)
        for selector in ("h1", ".faint", ".chip.yes", ".chip.no", ".chip.untried", ".slug", "pre .add", "pre .del"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, (scheme, selector)


CONTRAST = """element => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  let ground = element;
  while (ground && (parts(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
  const a = light(parts(getComputedStyle(element).color)), b = light(parts(getComputedStyle(ground).backgroundColor));
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}"""


def test_pictures_and_plots_have_a_size_and_a_text(visit):
    page = visit(WHOLE)
    drawn = page.locator('svg[role="img"]')
    assert drawn.count() >= 8
    for svg in drawn.all():
        assert svg.get_attribute("aria-label")
        assert svg.bounding_box()["height"] > 30
    assert page.locator("svg image").count() == 2
    assert page.locator("svg .anomaly").count() >= 1


def test_the_patch_is_copied_as_it_stands(visit):
    page = visit(WHOLE)
    page.evaluate("window.copied = []; Object.defineProperty(navigator, 'clipboard', "
                  "{value: {writeText: async text => { window.copied.push(text) }}})")  # fmt: skip
    button = page.locator("button.copy").first
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("window.copied.length === 1")
    patch = page.evaluate("window.copied[0]")
    assert patch.startswith("--- a/train.py\n+++ b/train.py\n")
    assert "\n+    angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))\n" in patch
    page.wait_for_selector("button.copy:has-text('Copied')")


@pytest.mark.parametrize("text", HOSTILE_TEXTS[:3])
def test_hostile_text_does_nothing(visit, text):
    page = visit(hostile(text))
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0


def test_timeline_leads_to_the_incident(visit):
    page = visit(VARIANTS["several"])
    page.locator("svg a text").nth(3).click()
    assert page.url.endswith("#incident-4")


def test_print_has_no_button_and_all_of_the_patch(visit):
    page = visit(WHOLE)
    page.emulate_media(media="print")
    assert not page.locator("button.copy").first.is_visible()
    assert page.locator("pre .add").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_page_is_small_without_pictures(tmp_path):
    save(VARIANTS["long-lines"], tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
