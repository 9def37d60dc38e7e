"""Bad requests to a whole proxy, byte for byte: each gets its answer and one audit line; nobody else hears of it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from tests.hostile.harness import Stage
from tests.peers.program import PATIENCE

GET = "GET /inside HTTP/1.1\r\nHost: app.corp.test\r\n"


class Case(NamedTuple):
    """A request, and the answer that it deserves."""

    request: str
    status: int
    code: str


CASES = {
    "no host": Case("GET / HTTP/1.1\r\n\r\n", 400, ""),
    "two hosts": Case("GET / HTTP/1.1\r\nHost: app.corp.test\r\nHost: b\r\n\r\n", 400, ""),
    "empty host": Case("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "bad_host"),
    "host with a path": Case("GET / HTTP/1.1\r\nHost: app.corp.test/x\r\n\r\n", 400, "bad_host"),
    "host with a user": Case("GET / HTTP/1.1\r\nHost: me@app.corp.test\r\n\r\n", 400, "bad_host"),
    "host with a bad port": Case("GET / HTTP/1.1\r\nHost: app.corp.test:99x\r\n\r\n", 400, "bad_host"),
    "unknown host": Case("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", 404, "no_app"),
    "dot segments": Case("GET /a/../b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_path"),
    "encoded dots": Case("GET /a/%2e%2e/b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_path"),
    "dots encoded twice": Case("GET /a/%252e%252e/b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_path"),
    "dots with a parameter": Case("GET /a/..;x/b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_path"),
    "backslash": Case("GET /a%5cb HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_path"),
    "NUL": Case("GET /a%00b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, ""),
    "bad escape": Case("GET /a%zz HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "bad_path"),
    "fragment": Case("GET /a#b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "bad_target"),
    "raw umlaut": Case("GET /\xe4 HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, ""),
    "another host in the target": Case(
        "GET http://evil.test/ HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "ambiguous_target"
    ),
    "ftp": Case("GET ftp://app.corp.test/ HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "bad_target"),
    "star": Case("OPTIONS * HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "bad_target"),
    "CONNECT": Case("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 405, "method_not_served"),
    "TRACE": Case("TRACE / HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 405, "method_not_served"),
    "lower-case method": Case("get / HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, ""),
    "HTTP/0.9": Case("GET / HTTP/0.9\r\nHost: app.corp.test\r\n\r\n", 505, ""),
    "HTTP/2.0": Case("GET / HTTP/2.0\r\nHost: app.corp.test\r\n\r\n", 505, ""),
    "no version": Case("GET /\r\n\r\n", 400, "malformed_request"),
    "garbage": Case("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed_request"),
    "two lengths": Case(GET + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, ""),
    "length and coding": Case(GET + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
    "unknown coding": Case(GET + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer_coding"),
    "negative length": Case(GET + "Content-Length: -1\r\n\r\n", 400, "malformed_request"),
    "space before colon": Case(GET + "X-A : b\r\n\r\n", 400, "malformed_request"),
    "folded header": Case(GET + "X-A: b\r\n c\r\n\r\n", 400, "malformed_request"),
    "unknown expectation": Case(GET + "Expect: a miracle\r\n\r\n", 417, "expectation_failed"),
    "header of 100 KB": Case(GET + f"X-A: {'b' * 100_000}\r\n\r\n", 431, "head_too_large"),
    "a thousand headers": Case(GET + "".join(f"X-{n}: b\r\n" for n in range(1000)) + "\r\n", 431, "head_too_large"),
    "our page that is none": Case("GET /oauth2/nothing HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 404, "no_such_page"),
    "our page, another method": Case(
        "DELETE /oauth2/sign_in HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 405, "method_not_allowed"
    ),
    "our form without a form": Case(
        "POST /oauth2/sign_in HTTP/1.1\r\nHost: app.corp.test\r\nContent-Length: 2\r\n\r\n{}", 400, "not_a_form"
    ),
    "our form, a parameter twice": Case(
        "GET /oauth2/sign_in?rd=/a&rd=/b HTTP/1.1\r\nHost: app.corp.test\r\n\r\n", 400, "duplicate_parameter"
    ),
    "odd cookies": Case(GET + "Cookie: ===;;;\x01=\xff; authproxy=4~x; authproxy_1=y\r\n\r\n", 400, ""),
    "not signed in": Case(GET + "\r\n", 401, "not_signed_in"),
}


async def conversation(port: int, request: bytes) -> bytes:
    """Everything that is answered until the connection is closed or quiet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    heard = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while b"\r\n\r\n" not in heard:
                piece = await reader.read(65536)
                if not piece:
                    break
                heard += piece
    except ConnectionError:
        pass
    writer.close()
    return heard


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_request_is_answered_and_recorded_once(stage: Stage, name: str) -> None:
    """The status fits, one audit line has the code, the upstream hears nothing, and no traceback is logged."""
    case = CASES[name]
    before = len(stage.records())
    answer = await conversation(stage.port(), case.request.encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 %d " % case.status), answer[:200]
    records = [one for one in stage.records()[before:] if one["event"] == "exchange"]
    assert len(records) == 1, records
    assert records[0]["status"] == case.status
    assert case.code in ("", records[0]["code"])
    code, request_id = records[0]["code"], records[0]["request_id"]
    assert f"Authproxy-Refusal: {code}\r\n".encode() in answer
    assert f"X-Request-Id: {request_id}\r\n".encode() in answer
    assert stage.reached() == 0
    assert b"aiohttp" not in answer
    assert b"Traceback" not in answer


async def test_an_upstream_that_is_away_is_502_in_the_clients_own_terms(stage: Stage) -> None:
    """People get a page, scripts JSON, both with the code; the session is untouched."""
    await stage.sign_in()
    await stage.app.__aexit__(None, None, None)
    page = await stage.browser.navigate(stage.at("/inside"))
    script = await stage.browser.xhr(stage.at("/inside"))
    for answer, kind in ((page, "text/html"), (script, "application/json")):
        assert answer.status == 502
        assert answer.headers["Authproxy-Refusal"] == "upstream_unreachable"
        assert answer.headers["Content-Type"].startswith(kind)
    stage.browser.visited.clear()  # looked at here
    await stage.app.__aenter__()
