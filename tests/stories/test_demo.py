"""`authproxy demo`: with nothing installed beside the package, somebody can look around in a minute."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urljoin

import pytest

from tests.peers.authproxy_process import COMMAND
from tests.peers.browser_client import Browser, Page
from tests.peers.program import Program, free_port


class Demo(NamedTuple):
    """The running demo, as its own output describes it."""

    program: Program
    url: str

    def password_of(self, username: str) -> str:
        """The word that is printed behind a user's name."""
        found = re.search(rf"\b{username}\b\W+(?:password\W+)?([\w-]+)", "\n".join(self.program.stdout.all()))
        assert found is not None, self.program.transcript()
        return found[1]


def _url(line: str) -> str | None:
    found = re.search(r"http://[\w.:-]+/?", line)
    return found[0] if found else None


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """The demo on a free port."""
    async with Program(*COMMAND, "demo", "--port", str(free_port())) as program:
        yield Demo(program, await program.line(_url))


async def sign_in(demo: Demo, browser: Browser, username: str) -> Page:
    """From the URL that was printed, through the demo's provider; the page at the end."""
    page = await browser.open(demo.url)
    form = page.form("username", "password")
    return await browser.submit(page, form, username=username, password=demo.password_of(username))


async def test_alice_sees_the_dashboard(demo: Demo, browser: Browser) -> None:
    """The printed URL leads to a sign-in, and the printed user behind it to the application, which knows her name."""
    page = await sign_in(demo, browser, "alice")
    assert page.status == 200, demo.program.transcript()
    assert page.url.startswith(demo.url)
    assert "alice" in page.text
    assert (await browser.open(urljoin(demo.url, "/admin/"))).status == 200


async def test_bob_may_not_administrate(demo: Demo, browser: Browser) -> None:
    """Bob signs in as well, and is told no at /admin/, in words."""
    assert (await sign_in(demo, browser, "bob")).status == 200
    page = await browser.open(urljoin(demo.url, "/admin/"))
    assert page.status == 403
    assert page.headers["Authproxy-Refusal"] == "not_allowed"


async def test_the_demo_ends_when_told(demo: Demo) -> None:
    """Control-C ends it in order, without a traceback."""
    demo.program.send(signal.SIGINT)
    assert await demo.program.ended() in (0, 130)
    assert "Traceback" not in demo.program.transcript()
