"""Return targets that somebody might smuggle in, and what a browser makes of an address.

The list is built from what is known about how addresses are read: who drops which characters, who decodes when, what
starts an authority.  Every entry leads, for some reader, to another site or to no page at all.
"""

from __future__ import annotations

import json
import subprocess
from itertools import product

from tests.peers.program import PATIENCE

EVIL = "evil.example"

_STARTS = [
    "//", "///", "////", "/////", "/\\", "\\/", "\\\\", "\\", "/\\/", "//\\", "\\\\\\", "/\t/", "/\n/", "/\r/",
    "/\r\n/",
    "\t//", " //", "\n//", "/ /", "/\x00/", "\x00//", "/\x0b/", "/\x0c/", "//\t", "/\t\\", "\x08//", "\x1f//",
    "/%2f", "/%5c", "%2f%2f", "%5c%5c", "/%09/", "/%0a/", "/%0d%0a/", "/%00/", "/%20/", "/%2F%2F", "/%5C/", "/%09%2f",
    "/%252f", "/%255c",
    "/.//", "/..//", "/././/", "/../..//", "/%2e//", "/%2e%2e//", "/.%2e//", "/./%2f", "/../%5c", "/.\\/", "/..\\\\",
    "/;//", "./\\", ".//", "..//",
    "/\u3000/", "/\u2028/", "/\u200b/", "/\ufeff/", "\ufeff//", "/\u2044", "/\uff0f", "\uff0f\uff0f", "/\u29f8",
    "\u2215\u2215",
    "/\xa0/", "/\x85/", "/\xad/", "?//", "#//", "@", "/@", "//@", ":", "://", ":/", "::",
]  # fmt: skip

_SCHEMES = [
    "http:", "https:", "http:/", "https:/", "http:///", "https:///", "http:\\\\", "https:\\", "HTTP://", "hTTps://",
    "ftp://", "ws://", "wss://", "gopher://", "\thttps://", " https://", "ht\ttps://", "https:\t//", "https://\t",
    "https\n://",
    "\x01https://", "http+unix://", "view-source:https://", "https%3a//", "https%3A%2F%2F", "//https://",
    "blob:https://",
    "feed:https://", "jar:https://", "https:////", "https:/\\", "https:%2f%2f",
]  # fmt: skip

_NO_PAGES = [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", "javascript://%0aalert(1)",
    "\x01javascript:alert(1)",
    "javascript:/*//*/alert(1)", "data:text/html,<script>alert(1)</script>", "data:;base64,PHNjcmlwdD4=",
    "vbscript:msgbox(1)",
    "file:///etc/passwd", "file://evil.example/x", "about:blank", "mailto:a@evil.example", "tel:1", "blob:null/1",
    "filesystem:x",
    "intent://evil.example#Intent;end", "x:", "/\r\nSet-Cookie: authproxy=x", "/\r\nLocation: https://evil.example",
    "/%0d%0aSet-Cookie:a=b\r\n\r\n<html>", "/\u010d\u010aSet-Cookie: x=y", "\udcff/", "/\udc80/evil", "",
]  # fmt: skip

_IMPOSTORS = [
    "{scheme}://{host}@evil.example/", "{scheme}://{host}:80@evil.example/", "{scheme}://{host}%40evil.example/",
    "{scheme}://{host}.evil.example/", "{scheme}://evil.example/{host}", "{scheme}://evil.example?{host}",
    "{scheme}://evil.example#{host}", "{scheme}://evil.example\\@{host}/", "{scheme}://evil.example\\.{host}/",
    "{scheme}://evil.example%2f{host}/", "{scheme}://evil.example%5c{host}/", "{scheme}://evil.example%23.{host}/",
    "{scheme}://evil.example\t.{host}/", "{scheme}://evil.example\u3002{host}",
    "{scheme}://{host}\u3002evil.example/",
    "{scheme}://evil.example;{host}/", "{scheme}://user:pass@{host}:pass@evil.example/", "{scheme}://@evil.example/",
    "{scheme}://:@evil.example/", "{scheme}://[::ffff:192.0.2.1]/", "{scheme}://[evil.example]/",
    "{scheme}://192.0.2.1/",
    "{scheme}://3221225985/", "{scheme}://0xc0000201/", "{scheme}://0300.0.2.1/", "{scheme}://192.0.513/",
    "{scheme}://{host}:/@evil.example/..", "{scheme}://not-{host}/", "{scheme}://{host}x/", "{scheme}://x{host}/",
    "{scheme}://{host}:65536/", "{scheme}://{host}:1/", "{scheme}://{host}:0/", "{scheme}://{host}:+80/",
    "{scheme}://{host}:8o/",
    "{scheme}://{host} .evil.example/", "{scheme}://\u212aelvin.{host}/", "{scheme}://{host}\u200b.evil.example/",
    "{scheme}:///{host}@evil.example/", "{scheme}:{host}@evil.example/", "{scheme}:/{host}@evil.example",
    "//{host}@evil.example/",
    "/\\{host}@evil.example", "{scheme}://\uff45vil.example/", "{scheme}://xn--vil-hia.example/",
    "{scheme}://{host}\\evil.example",
    "{scheme}://{host}/\r\nX: y", "{scheme}://..{host}/", "{scheme}://{host}..evil.example",
]  # fmt: skip


def targets(scheme: str, host: str) -> list[str]:
    """Every hostile target, for an application at ``scheme://host``."""
    led = [start + EVIL + "/x" for start in (*_STARTS, *_SCHEMES)]
    credentials = [f"{start}{host}@{EVIL}" for start in ("//", "/\\", "///", "\\\\", "/%2f", "/\t/")]
    spelled = [a + b + EVIL for a, b in product(["/", "%2f", "\\", "%5c", "/\t", "/\n"], ["/", "%2f", "\\", "%5c"])]
    impostors = [form.format(scheme=scheme, host=host) for form in _IMPOSTORS]
    return list(dict.fromkeys([*led, *credentials, *spelled, *_NO_PAGES, *impostors]))


_READ = """
const [base, all] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const at = text => { try { return new URL(text, base).origin } catch { return "none" } };
const once = text => { try { return decodeURIComponent(text) } catch { return text } };
console.log(JSON.stringify(all.map(text => [at(text), at(once(text))])));
"""


def origins(base: str, locations: list[str]) -> list[tuple[str, str]]:
    """Where a browser on ``base`` is led: by each text, and by what it becomes when somebody decodes it on the way."""
    done = subprocess.run(
        ["node", "-e", _READ],
        input=json.dumps([base, locations]),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return [(plain, decoded) for plain, decoded in json.loads(done.stdout)]
