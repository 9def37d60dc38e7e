"""Every page of ours in a real browser: light and dark, on a phone and on a desk, with and without JavaScript.

``SCREENSHOTS=folder`` keeps the pictures, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, async_playwright

from authproxy.portal.pages import CSP, STATIC, Choice, Pages, PasswordForm
from tests.stories.conftest import CHROMIUM, CHROMIUM_WORDS

PAGES = Pages(prefix="/oauth2")
LONG = "Partners and guests of the North-Western region of the company"
FORM = PasswordForm("/oauth2/sign_in", "ldap", "Company directory", "alice@example.com", "csrf", "/deep", "")
CHOICES = [Choice("Company login", "/oauth2/start?provider=a", "a"), Choice(LONG, "/oauth2/start?provider=b", "b")]
ALL = {
    "choose": PAGES.sign_in(app_title="Dashboard", choices=CHOICES, form=None),
    "form": PAGES.sign_in(app_title="Dashboard", choices=[], form=FORM),
    "both": PAGES.sign_in(app_title=LONG, choices=CHOICES, form=FORM._replace(error="That is not right.")),
    "forbidden": PAGES.error(
        status=403, code="not_allowed", title="You may not open this page", message="You may not: " + "x" * 90,
        request_id="r" * 16, links=(("Back to the start", "/"), ("Sign in as someone else", "/oauth2/sign_out")),
    ),
    "missing": PAGES.error(status=404, code="no_app", title="There is nothing here", message="No.", request_id="r"),
    "unreachable": PAGES.error(status=502, code="upstream_unreachable", title="Away", message="No.", request_id="r"),
    "throttled": PAGES.throttled(retry_after=6, request_id="r" * 16, back="/oauth2/sign_in"),
    "sign_out": PAGES.sign_out(action="/oauth2/sign_out", csrf_token="c", user="alice@example.com", rd="/"),
    "signed_out": PAGES.signed_out(sign_in="/oauth2/sign_in"),
}  # fmt: skip
SIZES = {"phone": (390, 844), "narrow": (320, 568), "desk": (1280, 800)}


@pytest.fixture(scope="module")
def shots() -> Path | None:
    """Where pictures are kept, if anywhere."""
    wanted = os.environ.get("SCREENSHOTS")
    if not wanted:
        return None
    folder = Path(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A real browser."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_WORDS)
        yield browser
        await browser.close()


def serving(body: bytes) -> Any:
    """Answers ``/page`` with ``body`` under our policy, the static files as the portal does, and nothing else."""

    async def route(one: Route) -> None:
        name = one.request.url.partition("?")[0].rpartition("/")[2]
        if name == "page":
            headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CSP}
            await one.fulfill(status=200, body=body, headers=headers)
        elif name in STATIC:
            await one.fulfill(status=200, body=STATIC[name][1], headers={"Content-Type": STATIC[name][0]})
        else:
            await one.fulfill(status=204)

    return route


def listening(page: Page) -> list[str]:
    """What the page complains of from now on."""
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_and_says_nothing_wrong(
    chromium: Browser, shots: Path | None, scheme: Any, script: bool
) -> None:
    """No page is wider than the screen, breaks its own policy or logs an error, and each follows the colour scheme."""
    for size, (width, height) in SIZES.items():
        context = await chromium.new_context(
            color_scheme=scheme, java_script_enabled=script, viewport={"width": width, "height": height}
        )
        page = await context.new_page()
        complaints = listening(page)
        for name, body in ALL.items():
            await page.route("**/*", serving(body))
            await page.goto("http://ours.test/page")
            box = await page.locator("main").bounding_box()
            assert box is not None
            assert box["x"] >= 0, (name, size)
            assert box["x"] + box["width"] <= width, (name, size)
            if script:
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, (name, size)
                light = await page.evaluate(LUMINANCE)
                assert (light > 0.5) == (scheme == "light"), (name, light)
            if shots:
                await page.screenshot(path=shots / f"{name}-{scheme}-{size}{'' if script else '-plain'}.png")
            assert complaints == [], (name, size)
            await page.unroute_all()
        await context.close()


LUMINANCE = """() => {
  const [r, g, b] = getComputedStyle(document.querySelector('main')).backgroundColor.match(/[\\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


async def test_the_throttle_page_counts_down(chromium: Browser) -> None:
    """With script the number of seconds goes down and the way back opens; the clock is the browser's, moved by hand."""
    page = await chromium.new_page()
    await page.clock.install()
    await page.route("**/*", serving(ALL["throttled"]))
    await page.goto("http://ours.test/page")
    before = await page.locator("main").inner_text()
    await page.clock.run_for(3000)
    assert await page.locator("main").inner_text() != before
    await page.close()


async def test_a_keyboard_reaches_everything(chromium: Browser) -> None:
    """Tab goes through the ways to sign in and the form, and the focus can be seen."""
    page = await chromium.new_page()
    await page.route("**/*", serving(ALL["both"]))
    await page.goto("http://ours.test/page")
    wanted = await page.locator("main a:visible, main button:visible, main input:not([type=hidden])").count()
    seen = set()
    for _ in range(wanted + 5):
        await page.keyboard.press("Tab")
        focused = await page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        if focused.startswith("<body"):
            continue
        seen.add(focused)
        outline = await page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.boxShadow })()"
        )
        assert outline != "nonenone"
    assert len(seen) == wanted
    await page.close()
