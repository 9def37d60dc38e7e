"""The browser without JavaScript, against the recording application: what it sends is what a test wrote."""

from __future__ import annotations

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.peers.browser_client import Browser, Page
from tests.peers.upstream_app import UpstreamApp, echoed

DEEP = "/reports//2026?a=1&b=%2F%2Fx&c=//y"


def page(body: str, **headers: str) -> Page:
    """A page as if it had been answered."""
    fields = CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))
    return Page("http://app.test:1/a/b", 200, fields, body.encode())


async def test_targets_are_sent_as_written(browser: Browser, upstream_app: UpstreamApp) -> None:
    """Double slashes and escapes survive in a navigation, and in a redirect that is followed."""
    base = f"http://dashboard.test:{upstream_app.port}"
    seen = echoed((await browser.navigate(base + DEEP)).text)
    assert seen["target"] == DEEP
    redirect = page("")._replace(url=base, status=302, headers=CIMultiDictProxy(CIMultiDict({"Location": DEEP})))
    await browser.follow(redirect)
    assert upstream_app.last.target == DEEP
    assert upstream_app.last.get("Sec-Fetch-Mode") == "navigate"
    assert upstream_app.last.get("Host") == f"dashboard.test:{upstream_app.port}"


async def test_cookies_belong_to_their_host(browser: Browser, upstream_app: UpstreamApp) -> None:
    """A host-only cookie without Secure is sent to its own host alone."""
    one, two = (f"http://{name}.test:{upstream_app.port}/" for name in ("one", "two"))
    browser.jar.update_cookies({"kept": "a.b-c_d"}, URL(one))
    await browser.navigate(one)
    assert upstream_app.last.get("Cookie") == "kept=a.b-c_d"
    await browser.navigate(two)
    assert upstream_app.last.get("Cookie") is None


async def test_forms_are_found_and_submitted(browser: Browser, upstream_app: UpstreamApp) -> None:
    """Hidden fields, selections and typed values arrive; the page's referrer policy decides what Origin says."""
    body = """<form action="/other"><input name="q"></form>
    <form method="post" action="../sign_out"><input type="hidden" name="csrf_token" value="t&amp;1">
    <input name="user"><input type="checkbox" name="off"><input type="submit" name="go" value="x">
    <select name="c"><option value="1"><option value="2" selected></select></form>"""
    form = page(body).form("csrf_token", action="sign_out")
    assert (form.method, form.fields) == ("POST", {"csrf_token": "t&1", "user": "", "c": "2"})

    here = page(body)._replace(url=f"http://app.test:{upstream_app.port}/a/b")
    await browser.submit(here, form, user="alice")
    assert (upstream_app.last.method, upstream_app.last.target) == ("POST", "/sign_out")
    assert upstream_app.last.get("Origin") == f"http://app.test:{upstream_app.port}"
    assert upstream_app.last.body_length == len("csrf_token=t%261&user=alice&c=2")

    shy = page(body, Referrer_Policy="no-referrer")._replace(url=here.url)
    await browser.submit(shy, form)
    assert upstream_app.last.get("Origin") == "null"
