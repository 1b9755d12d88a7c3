"""Frames between agent and worker: what is refused, and the version both speak. Round trips are in properties/."""

from __future__ import annotations

import struct

import pytest

from lwfm import wire
from lwfm.errors import InvalidRecord, ProtocolMismatch
from lwfm.wire import Decoder, agree, decode_body, encode


def test_a_frame_is_its_length_and_its_messages_in_ascii() -> None:
    frame = encode([{"t": "x", "name": "ä\udcff"}])
    assert frame[:4] == struct.pack(">I", len(frame) - 4)
    assert frame[4:] == b'[{"t":"x","name":"\\u00e4\\udcff"}]'


def test_half_a_frame_gives_nothing_yet() -> None:
    decoder, frame = Decoder(), encode([{"t": "x"}])
    assert [list(decoder.feed(bytes([byte]))) for byte in frame][-1] == [{"t": "x"}]
    assert list(decoder.feed(b"")) == []
    assert list(decoder.feed(frame * 3 + frame[:5])) == [{"t": "x"}] * 3


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"t":"x"}', b"[1]", b"[{}]", b'[{"t":5}]', b"\xff\xff", b"null", b"[" * 100_000, b'[{"t":"x"}] x'],
)
def test_what_is_no_body(body: bytes) -> None:
    with pytest.raises(InvalidRecord, match="a frame does not hold"):
        decode_body(body)


def test_a_frame_that_is_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRecord, match="is larger than"):
        list(Decoder().feed(b"\xff\xff\xff\xff"))
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 10)
    with pytest.raises(InvalidRecord, match="is larger than 10"):
        encode([{"t": "longer than that"}])


def test_the_version_both_speak() -> None:
    assert agree([1, 2, 3], [2, 3, 4]) == 3
    assert agree([wire.PROTOCOL]) == wire.PROTOCOL
    with pytest.raises(ProtocolMismatch, match=r"speaks protocol \[7\]"):
        agree([7])
    with pytest.raises(ProtocolMismatch):
        agree([])
