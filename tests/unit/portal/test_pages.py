"""The pages for people, as text: whole, escaped, free of inline code, and readable without eyes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from authproxy.portal import pages
from authproxy.portal.pages import CSP, STATIC, Choice, Pages, PasswordForm, duration, safe_href

PAGES = Pages(prefix="/oauth2")
HOSTILE = """"><script>alert(1)</script>'&<img src=x onerror=alert(1)> {{ 7 * 7 }}"""
VOID = {"meta", "link", "input", "img", "br"}
Tag = tuple[str, dict[str, str | None]]


class Parsed(HTMLParser):
    """A page as its tags; fails on a tag that is not closed in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[Tag] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every ``tag``."""
        return [attributes for name, attributes in self.tags if name == tag]

    def fields(self) -> dict[str, str | None]:
        """Name and value of every input."""
        return {str(at["name"]): at.get("value") for at in self.all("input")}


def form(text: str = "x", error: str = "") -> PasswordForm:
    return PasswordForm("/oauth2/sign_in", text, text, text, text, text, error)


def refusal(status: int, title: str = "", links: Sequence[tuple[str, str]] = ()) -> Parsed:
    return Parsed(PAGES.error(status=status, code="c", title=title, message="m", request_id="r", links=links))


def every(text: str) -> dict[str, bytes]:
    """Every page, with ``text`` wherever text may come from outside."""
    choice = Choice(text, "/oauth2/start?provider=a", text)
    return {
        "choices": PAGES.sign_in(app_title=text, choices=[choice, choice], form=None, notice=text),
        "form": PAGES.sign_in(app_title="", choices=[], form=form(text, text)),
        "both": PAGES.sign_in(app_title=text, choices=[choice], form=form(text)),
        "neither": PAGES.sign_in(app_title=text, choices=[], form=None),
        "error": PAGES.error(
            status=403, code=text, title=text, message=text, request_id=text, links=[(text, "/"), (text, "/x")]
        ),
        "failure": PAGES.error(status=502, code=text, title="", message=text, request_id=text),
        "throttled": PAGES.throttled(retry_after=61, request_id=text, back="/oauth2/sign_in?rd=%2F"),
        "sign_out": PAGES.sign_out(action="/oauth2/sign_out", csrf_token=text, user=text, rd=text),
        "signed_out": PAGES.signed_out(sign_in="/oauth2/sign_in"),
        "signed_in": PAGES.signed_in(target="/"),
    }


NAMES = sorted(every("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_whole_and_says_what_it_is(name: str) -> None:
    """Tags close in order; there is a language, a title, a width for phones, one heading and one main part."""
    page = Parsed(every("Text")[name])
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_stays_text(name: str) -> None:
    """No value opens a tag or leaves its attribute: the tags are those of the same page with harmless text."""
    calm, hostile = Parsed(every("Text")[name]), Parsed(every(HOSTILE)[name])
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in calm.tags]
    assert [sorted(at) for _, at in hostile.tags] == [sorted(at) for _, at in calm.tags]
    assert "49" not in hostile.text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(name: str) -> None:
    """Scripts and styles are files of ours; no event attribute, no style attribute: the policy would block them."""
    page = Parsed(every("x")[name])
    assert page.all("style") == []
    assert all(str(at.get("src")).startswith("/oauth2/static/") for at in page.all("script"))
    assert all(str(at.get("href")).startswith("/oauth2/static/") for at in page.all("link"))
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], tag


@pytest.mark.parametrize("name", NAMES)
def test_every_static_file_that_is_linked_exists(name: str) -> None:
    """What a page links below ``static/`` is in STATIC, under an address that changes with the content."""
    linked = re.findall(rb'"/oauth2/static/([\w.]+)\?v=[0-9a-f]{10}"', every("x")[name])
    assert {name.decode() for name in linked} == {"authproxy.css", "authproxy.js", "mark.svg"} == set(STATIC)


def test_fields_have_labels_and_say_what_they_are_for() -> None:
    """Each visible input has a label and tells password stores what it holds; an error is tied to the fields."""
    page = Parsed(PAGES.sign_in(app_title="A", choices=[], form=form("alice", "Wrong.")))
    labelled = {at["for"] for at in page.all("label")}
    visible = [at for at in page.all("input") if at.get("type") != "hidden"]
    assert {at["id"] for at in visible} == labelled == {"username", "password"}
    assert [at["autocomplete"] for at in visible] == ["username", "current-password"]
    assert all(at["aria-describedby"] == "form-error" for at in visible)


def test_the_form_posts_what_the_contract_names() -> None:
    """username, password, csrf_token, provider and rd; what was typed comes back, but never a password."""
    values = PasswordForm("/oauth2/sign_in", "ldap", "LDAP", "alice", "csrf", "/deep?a=1&b=2", "")
    page = Parsed(PAGES.sign_in(app_title="A", choices=[], form=values))
    assert page.fields() == {
        "csrf_token": "csrf", "provider": "ldap", "rd": "/deep?a=1&b=2", "username": "alice", "password": None
    }  # fmt: skip
    assert page.all("form")[0]["method"] == "post"
    assert page.all("form")[0]["action"] == "/oauth2/sign_in"


def test_signing_out_is_a_post_with_its_token() -> None:
    """The confirmation posts csrf_token and rd, and offers a way back."""
    page = Parsed(PAGES.sign_out(action="/oauth2/sign_out", csrf_token="t", user="alice", rd="/bye", cancel="/home"))
    assert page.fields() == {"csrf_token": "t", "rd": "/bye"}
    assert page.all("form")[0]["method"] == "post"
    assert [at["href"] for at in page.all("a")] == ["/home"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 418, 500, 501, 502, 503, 504, 599])
def test_an_error_says_what_happened_and_what_to_do(status: int) -> None:
    """Status, code, message, request id and advice are on the page, whatever the status."""
    page = Parsed(PAGES.error(status=status, code="why_code", title="", message="It is so.", request_id="id-1"))
    for piece in (f"{status} why_code", "It is so.", "id-1", pages._advice(status).todo, pages._advice(status).heading):
        assert piece in page.text


def test_the_phrase_of_a_status_is_no_title() -> None:
    """The bare phrase "Forbidden" becomes a sentence; a title that somebody wrote stays."""
    assert "You may not open this page" in refusal(403, "Forbidden").text
    assert "Our words" in refusal(403, "Our words").text


def test_only_a_failure_offers_to_try_again() -> None:
    """A 5xx without links can be repeated; a no cannot; links that are given take the place of it."""
    assert [at["href"] for at in refusal(502).all("a")] == [""]
    assert refusal(403).all("a") == []
    assert [at["href"] for at in refusal(502, links=[("Home", "/")]).all("a")] == ["/"]


def test_waiting_works_without_script() -> None:
    """The browser goes on by itself when the time is up, and the time is said in words."""
    page = Parsed(PAGES.throttled(retry_after=61, request_id="r", back="/oauth2/sign_in?rd=%2Fa%27"))
    refresh = [at["content"] for at in page.all("meta") if at.get("http-equiv") == "refresh"]
    assert refresh == ["61; url=/oauth2/sign_in?rd=%2Fa%27"]
    assert "1 minute 1 second" in page.text


def test_waiting_is_never_shorter_than_a_second() -> None:
    """A page that refreshes at once would be a storm."""
    assert b'content="1; url=/"' in PAGES.throttled(retry_after=0, request_id="r", back="/")


@pytest.mark.parametrize(
    "href",
    ["javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "//evil.example", "/\\evil.example", "/\t/evil.example",
     "\n//evil.example", "/a\\b", "relative", "", " /", "vbscript:x", "https:evil", "/a b"],
)  # fmt: skip
def test_an_address_that_may_lead_astray_leads_home(href: str) -> None:
    """Anything but a path of this host or an http(s) URL becomes ``/``, in every place that links."""
    assert safe_href(href) == "/"
    shown = (
        PAGES.signed_out(sign_in=href)
        + PAGES.signed_in(target=href)
        + PAGES.sign_in(app_title="", choices=[Choice("t", href, "n")], form=form()._replace(action=href))
        + PAGES.sign_out(action=href, csrf_token="", user="", rd="", cancel=href)
        + PAGES.error(status=403, code="", title="", message="", request_id="", links=[("l", href)])
    )
    found = re.findall(rb' (?:href|action)="([^"]*)"', shown)
    assert {address for address in found if not address.startswith(b"/oauth2/static/")} == {b"/"}


@pytest.mark.parametrize("href", ["/", "/a?b=c#d", "https://a.example/b", "http://localhost:8080/", "/a//b"])
def test_an_honest_address_stays(href: str) -> None:
    """Paths of this host and http(s) URLs are linked as they are."""
    assert safe_href(href) == href


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 seconds"), (0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"),
        (61, "1 minute 1 second"), (150, "2 minutes 30 seconds"),
    ],
)  # fmt: skip
def test_durations_are_words(seconds: int, words: str) -> None:
    """Minutes and seconds, singular and plural."""
    assert duration(seconds) == words


def test_the_policy_allows_our_files_and_nothing_else() -> None:
    """Nothing by default, no inline code, no frames; forms may end in a redirect to another host."""
    directives = dict(part.strip().split(" ", 1) for part in CSP.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert "unsafe" not in CSP
    assert "form-action" not in directives


def test_static_files_have_types_and_no_foreign_addresses() -> None:
    """Style, script and mark are served with their types, and load nothing."""
    assert {name: kind for name, (kind, _) in STATIC.items()} == {
        "authproxy.css": "text/css; charset=utf-8",
        "authproxy.js": "text/javascript; charset=utf-8",
        "mark.svg": "image/svg+xml",
    }
    for name, (_, content) in STATIC.items():
        assert not re.search(rb"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", content), name


def test_the_style_serves_the_dark_the_keyboard_and_the_still() -> None:
    """Dark colours, a focus ring and reduced motion are in the style sheet."""
    style = STATIC["authproxy.css"][1].decode()
    for feature in ("prefers-color-scheme: dark", "prefers-reduced-motion: reduce", ":focus-visible", "forced-colors"):
        assert feature in style


def colours(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The colour variables of a style sheet: light, dark."""
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    pattern = r"--([\w-]+): (#[0-9a-f]{6});"
    day = dict(re.findall(pattern, light))
    return day, {**day, **dict(re.findall(pattern, dark.split("\n}\n", 1)[0]))}


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXT = [("ink", "panel"), ("muted", "panel"), ("accent", "panel"), ("accent", "tint"), ("on-accent", "accent")]
SHEETS = {
    "portal/static/authproxy.css": [
        *TEXT, ("on-accent", "accent-deep"), ("notice-ink", "notice"), ("alert-ink", "alert"),
    ],
    "demo/static/provider.css": [*TEXT, ("muted", "tint"), ("alert-ink", "alert"), ("face-ink", "face-1")],
    "demo/static/dashboard.css": [
        *TEXT, ("muted", "ground"), ("muted", "tint"), ("accent", "ground"), ("side-muted", "side"),
        ("side-ink", "side-tint"), ("good", "good-tint"), ("bad", "bad-tint"), ("good", "panel"), ("bad", "panel"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("sheet", SHEETS)
def test_text_can_be_read(sheet: str) -> None:
    """WCAG AA: text has a contrast of 4.5 to what it stands on, by day and by night; a field's edge has 3."""
    style = (Path(pages.__file__).parent.parent / sheet).read_text(encoding="utf-8")
    for theme in colours(style):
        weak = {pair: contrast(theme[pair[0]], theme[pair[1]]) for pair in SHEETS[sheet]}
        assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
        assert contrast(theme.get("field-line", theme["muted"]), theme["panel"]) >= 3


def test_secrets_stay_out_of_repr() -> None:
    """The CSRF token of a form is not printed."""
    assert "csrf-secret" not in repr(PasswordForm("/", "p", "t", "u", "csrf-secret", "/", ""))
    assert repr(PAGES) == "<Pages under /oauth2>"
