"""What the mutations begin with: requests, responses and paths, good ones and such as have bitten others.

A finding belongs here, as the octets that showed it, under the name of its target.
"""

from __future__ import annotations

HOST = b"Host: app.example.com\r\n"

REQUESTS = [
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a?b HTTP/1.1\r\n" + HOST + b"\r\nGET /c HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    + HOST
    + b"\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\n" + HOST + b"\n\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://app.example.com/x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\nGET / HTTP/1.0\r\n\r\n",
    b"GET / RTSP/1.0\r\n" + HOST + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
    b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
]

PATHS = [
    b"/", b"/a/b/c", b"/a//b", b"/a/../b", b"/a/%2e%2e/b", b"/a/..;x/b", b"/%C3%A9", b"/a%2fb", b"/a%252fb",
    b"/a;b=c/d",
    b"/.%00", b"/a\\b", b"/%ef%bc%8f..%ef%bc%8f", b"/a%3fb", b"/a%23b", b"/~!$&'()*+,=:@-._", b"/%zz", b"/...",
]  # fmt: skip

WORDS = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"0\r\n\r\n", b"-1", b"+5", b"0x5",
    b"ffffffffffffffff", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET / HTTP/1.1\r\n", b"%2f", b"%2e",
    b"..",
    b"/", b"//", b"%", b"%25", b"\xff", b"\xc3\xa9",
]  # fmt: skip
