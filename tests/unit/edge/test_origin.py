"""The addresses of our own pages, as the browser that asked must see them."""

from __future__ import annotations

from authproxy.edge.origin import Origins
from tests.unit.values import info

PUBLIC = "https://Auth.example.com:8443"


def origins(cookie_domain: str | None = None) -> Origins:
    """Ours, with the pages under ``/oauth2``."""
    return Origins(public_url=PUBLIC, prefix="/oauth2", cookie_domain=cookie_domain)


def test_without_a_cookie_domain_everything_happens_on_the_host_itself() -> None:
    """A host-only cookie must be set by the host that needs it."""
    asked = info("/a//b?c=//d", host="App.example.com:9443")
    assert origins().of(asked) == "https://app.example.com:9443"
    assert origins().page(asked, "/sign_out") == "https://app.example.com:9443/oauth2/sign_out"
    assert origins().here(asked) == "/a//b?c=//d"
    assert origins().sign_in(asked) == "https://app.example.com:9443/oauth2/sign_in?rd=%2Fa%2F%2Fb%3Fc%3D%2F%2Fd"
    assert origins().callback(asked, "dex") == "https://app.example.com:9443/oauth2/callback/dex"


def test_with_a_cookie_domain_the_public_host_signs_in_for_its_hosts() -> None:
    """For hosts under the domain: sign-in on ``public_url``, and the way back is absolute."""
    shared, asked = origins(".Example.com"), info("/a", host="app.example.com")
    assert shared.page(asked, "/start") == "https://auth.example.com:8443/oauth2/start"
    assert shared.here(asked) == "https://app.example.com/a"
    assert shared.callback(asked, "a b") == "https://auth.example.com:8443/oauth2/callback/a%20b"


def test_a_host_outside_the_cookie_domain_keeps_to_itself() -> None:
    """A name that only ends in the same letters is another site."""
    shared, stranger = origins("example.com"), info("/a", host="badexample.com")
    assert shared.portal(stranger) == "https://badexample.com"
    assert shared.here(stranger) == "/a"


def test_the_public_host_itself_returns_by_path() -> None:
    """Where the pages and the app share an authority, a path is enough."""
    asked = info("/a", host="auth.example.com:8443")
    assert origins("example.com").here(asked) == "/a"


def test_a_target_that_looks_like_a_host_is_made_absolute() -> None:
    """``//x`` as a return target would lead to another site."""
    asked = info("//x/y", host="app.example.com")
    assert origins().here(asked) == "https://app.example.com//x/y"


def test_the_parts_of_the_public_url_are_known() -> None:
    """Host and port, canonical."""
    ours = origins()
    assert (ours.public, ours.public_host, ours.public_port) == (
        "https://auth.example.com:8443",
        "auth.example.com",
        8443,
    )
