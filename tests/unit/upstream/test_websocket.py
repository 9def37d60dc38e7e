"""Frame boundaries of a WebSocket, whatever the pieces in which its octets come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.upstream.websocket import GOING_AWAY, Frames, close_frame, masked_close_frame

DATA = st.sampled_from([0x0, 0x1, 0x2])
CONTROL = st.sampled_from([0x9, 0xA])
SIZES = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65535, 65536, 70000]))


def frame(opcode: int, size: int, *, final: bool = True, masked: bool = False, reserved: int = 0) -> bytes:
    """A frame with a payload of ``size`` octets that look like the beginning of frames themselves."""
    first = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 1 << 16:
        length = bytes([mask | 126]) + size.to_bytes(2)
    else:
        length = bytes([mask | 127]) + size.to_bytes(8)
    return first + length + (b"\x88\x02\x03\xe8" if masked else b"") + (b"\x88\x02\x03\xe8" * (size // 4 + 1))[:size]


@st.composite
def frames(draw: st.DrawFn) -> list[bytes]:
    """A few frames of any kind but Close."""
    masked = draw(st.booleans())
    drawn = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            drawn.append(frame(draw(CONTROL), draw(st.integers(0, 125)), masked=masked))
        else:
            final, reserved = draw(st.booleans()), draw(st.integers(0, 7))
            drawn.append(frame(draw(DATA), draw(SIZES), final=final, masked=masked, reserved=reserved))
    return drawn


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


PLACES = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(frames(), PLACES)
def test_boundaries_are_found_in_any_pieces(drawn: list[bytes], places: list[int]) -> None:
    """After each piece the direction stands between frames exactly where one has ended."""
    ends, at = {0}, 0
    for one in drawn:
        at += len(one)
        ends.add(at)
    followed, seen = Frames(), 0
    assert followed.between
    for piece in cut(b"".join(drawn), places):
        followed.follow(piece)
        seen += len(piece)
        assert followed.between == (seen in ends)
    assert followed.known
    assert not followed.closed


@given(frames(), st.integers(0, 1 << 20), PLACES)
def test_the_frame_under_way_is_finished_and_nothing_more(drawn: list[bytes], place: int, places: list[int]) -> None:
    """From anywhere inside a frame, what is let through ends with that very frame."""
    data = b"".join(drawn)
    start = place % (len(data) + 1)
    end = at = 0
    for one in drawn:
        if end < start:
            end += len(one)
    followed = Frames()
    followed.follow(data[:start])
    for piece in cut(data[start:], places):
        at += followed.finish(piece)
        if followed.between:
            break
    assert start + at == end
    assert followed.finish(b"\x81\x01a") == 0


@given(frames(), PLACES)
def test_a_close_frame_is_seen(drawn: list[bytes], places: list[int]) -> None:
    """Both of ours are Close frames with two octets of payload, and end a direction."""
    for ours in (close_frame(GOING_AWAY), masked_close_frame(GOING_AWAY)):
        followed = Frames()
        for piece in cut(b"".join(drawn) + ours, places):
            followed.follow(piece)
        assert followed.closed
        assert followed.between


def test_our_close_frames_say_their_code() -> None:
    """Plain towards a client, masked towards a server (RFC 6455 sections 5.1, 5.3, 5.5.1)."""
    assert close_frame(1008) == b"\x88\x02\x03\xf0"
    sent = masked_close_frame(1001)
    assert sent[:2] == b"\x88\x82"
    assert bytes(octet ^ key for octet, key in zip(sent[6:], sent[2:4], strict=True)) == (1001).to_bytes(2)
    assert len({masked_close_frame(1001) for _ in range(20)}) > 1


BROKEN = {
    "reserved data opcode": b"\x83\x00",
    "reserved control opcode": b"\x8b\x00",
    "a length with the top bit": b"\x82\x7f\x80" + b"\x00" * 7,
    "a long ping": b"\x89\x7e\x00\x7e",
    "a ping in fragments": b"\x09\x00",
    "HTTP": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("bytewise", [True, False])
def test_what_is_no_framing_is_not_followed(name: str, bytewise: bool) -> None:
    """From then on no place is a boundary, and everything is let through."""
    followed = Frames()
    data = frame(0x1, 3) + BROKEN[name]
    for piece in [data[at : at + 1] for at in range(len(data))] if bytewise else [data]:
        followed.follow(piece)
    assert not followed.known
    followed.follow(frame(0x1, 0))
    assert not followed.between
    assert not followed.closed
    assert followed.finish(b"anything") == 8


def test_another_protocol_has_no_boundaries() -> None:
    """Nothing is said about what is not a WebSocket."""
    followed = Frames(known=False)
    followed.follow(frame(0x8, 0))
    assert not followed.between
    assert not followed.closed
    assert followed.finish(b"\x81\x00\x81\x00") == 4


def test_nothing_is_kept() -> None:
    """Of 16 MiB nothing stays but a count; the representation shows it."""
    followed = Frames()
    followed.follow(frame(0x2, 16 << 20)[: 8 << 20])
    assert repr(followed) == f"<Frames {(8 << 20) + 10} octets left>"
    assert not followed._head
