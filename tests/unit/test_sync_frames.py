"""Frames on a stream: what goes in comes out, within bounds, and whatever else comes is refused with a sentence."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import zlib
from typing import Any, Optional

import pytest

from lwfm.errors import Conflict, LwfmError, NotFound, StoreFull
from lwfm.sync.frames import (
    COMPRESSED_FROM_BYTES,
    GREETING,
    MAX_BODY_BYTES,
    MAX_CHATTER_BYTES,
    MAX_HEAD_BYTES,
    Cut,
    Line,
    Refused,
)

from support.agents import environment

JSON = dict[str, Any]


class Pipe:
    """A stream from what is put into it, in pieces of any size; and what is written to it."""

    def __init__(self, data: bytes = b"", pieces: int = 1 << 30, complaint: str = "", deaf: bool = False):
        self.data = data
        self.pieces = pieces
        self.written = b""
        self.deaf = deaf
        self._complaint = complaint

    def read(self, most: int) -> bytes:
        count = min(most, self.pieces)
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def write(self, data: bytes) -> None:
        if self.deaf:
            raise BrokenPipeError(32, "Broken pipe")
        self.written += data

    def close(self) -> None:
        pass

    def complaint(self) -> str:
        return self._complaint


def sent(head: JSON, body: bytes = b"", **options: bool) -> bytes:
    pipe = Pipe()
    Line(pipe).send(head, body, **options)
    return pipe.written


def framed(head: bytes, body: bytes = b"", lengths: Optional[tuple[int, int]] = None) -> bytes:
    return struct.pack(">II", *(lengths or (len(head), len(body)))) + head + body


@pytest.mark.parametrize("pieces", [1, 2, 7, 4096, 1 << 30])
@pytest.mark.parametrize("compress", [False, True])
def test_what_goes_in_comes_out(pieces: int, compress: bool) -> None:
    draw = random.Random(pieces)
    frames: list[tuple[JSON, bytes]] = [
        ({"t": "empty"}, b""), ({"t": "ä€𝄞", "x": [1, None, {"y": "\udcff"}]}, b"short"), ({"t": "zeros"}, bytes(5000)),
        ({"t": "noise"}, draw.randbytes(3000)), ({"t": "edge"}, b"x" * (COMPRESSED_FROM_BYTES - 1)),
        ({"t": "edge"}, b"x" * COMPRESSED_FROM_BYTES), ({"t": "frame in frame"}, sent({"t": "inner"}, b"y")),
    ]  # fmt: skip
    pipe = Pipe()
    sender = Line(pipe)
    for head, body in frames:
        sender.send(head, body, compress=compress)
    line = Line(Pipe(pipe.written, pieces))
    for head, body in frames:
        frame = line.receive(str(head["t"]))
        assert {name: value for name, value in frame.head.items() if name != "z"} == head
        assert frame.body == body
    assert sender.bytes_sent == line.bytes_received == len(pipe.written)
    with pytest.raises(Cut):
        line.receive()


def test_compression_is_used_only_where_it_helps() -> None:
    assert len(sent({"t": "x"}, bytes(100_000), compress=True)) < 500
    noise = os.urandom(100_000)
    assert len(sent({"t": "x"}, noise, compress=True)) < len(noise) + 50
    assert b'"z"' not in sent({"t": "x"}, noise, compress=True)
    assert b'"z"' not in sent({"t": "x"}, b"x" * (COMPRESSED_FROM_BYTES - 1), compress=True)


@pytest.mark.parametrize("pieces", [1, 11, 1 << 20])
def test_the_greeting_is_found_behind_what_a_login_shell_prints(pieces: int) -> None:
    chatter = b"Welcome!\nlwfm sync\n\xff\xfe" + b"=" * 50_000 + b"\nlwfm sync 0"
    line = Line(Pipe(chatter + GREETING + sent({"t": "hello"}), pieces))
    assert line.await_greeting().startswith("Welcome!")
    assert line.receive("hello").body == b""


def test_a_greeting_that_never_comes() -> None:
    with pytest.raises(Refused, match="what answers there is not lwfm"):
        Line(Pipe(b"x" * (MAX_CHATTER_BYTES * 100))).await_greeting()
    with pytest.raises(Cut, match="sh: lwfm: not found"):
        Line(Pipe(b"motd\n", complaint="warning\nsh: lwfm: not found\n")).await_greeting()
    with pytest.raises(Cut, match="the last line"):
        Line(Pipe(b"motd\nthe last line\n\n")).await_greeting()
    with pytest.raises(Cut, match="ended before it answered"):
        Line(Pipe()).await_greeting()


def test_no_more_is_read_of_something_else_than_is_allowed() -> None:
    pipe = Pipe(b"x" * (MAX_CHATTER_BYTES * 100))
    line = Line(pipe)
    with pytest.raises(Refused):
        line.await_greeting()
    assert line.bytes_received <= MAX_CHATTER_BYTES * 6


class TestLimits:
    @pytest.mark.parametrize(
        "lengths", [(MAX_HEAD_BYTES + 1, 0), (0, MAX_BODY_BYTES + 1), (2**32 - 1, 2**32 - 1), (2**31, 5)]
    )
    def test_what_is_announced_as_too_large_is_not_read(self, lengths: tuple[int, int]) -> None:
        line = Line(Pipe(framed(b"", b"", lengths) + b"x" * 100))
        with pytest.raises(Refused, match=f"{sum(lengths)} bytes: too large"):
            line.receive()

    def test_the_largest_of_each(self) -> None:
        head = b'{"t":"x","y":"' + b"y" * (MAX_HEAD_BYTES - 16) + b'"}'
        frame = Line(Pipe(framed(head, bytes(MAX_BODY_BYTES)))).receive()
        assert len(head) == MAX_HEAD_BYTES
        assert len(frame.body) == MAX_BODY_BYTES
        packed = zlib.compress(bytes(MAX_BODY_BYTES))
        assert len(Line(Pipe(framed(b'{"t":"x","z":1}', packed))).receive().body) == MAX_BODY_BYTES

    def test_what_unpacks_to_more_than_it_may_is_refused_before_it_has(self) -> None:
        """A quarter of a gigabyte of zeros, in a process of its own."""
        script = (
            "import resource, zlib\n"
            "from lwfm.sync.frames import Line, Refused\n"
            "from lwfm.sync import frames\n"
            "import struct\n"
            "class Pipe:\n"
            "    def __init__(self, data): self.data = data\n"
            "    def read(self, most): piece, self.data = self.data[:most], self.data[most:]; return piece\n"
            "packer = zlib.compressobj(9)\n"
            "bomb = b''.join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()\n"
            'head = b\'{"t":"x","z":1}\'\n'
            "pipe = Pipe(struct.pack('>II', len(head), len(bomb)) + head + bomb)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n"
            "    Line(pipe).receive()\n"
            "except Refused as error:\n"
            "    print(error.message)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True, timeout=60
        )
        message, grown = done.stdout.splitlines()
        assert "unpacks to more than" in message
        assert int(grown) < 4 * MAX_BODY_BYTES >> 20


def drain(line: Line) -> None:
    """Receive until something is wrong."""
    while True:
        line.receive()


class TestGarbage:
    @pytest.mark.parametrize(
        "head",
        [b"", b"x", b"[]", b"7", b"null", b'"t"', b"{}", b'{"t":7}', b'{"t":null}', b'{"T":"x"}', b"\xff\xfe", b"[" * 99_999,
         b'{"t":"x"}}', b'{"t":"x"', b"9" * 10_000],
    )  # fmt: skip
    def test_heads_that_are_none(self, head: bytes) -> None:
        with pytest.raises(Refused, match=r"not JSON|no message"):
            Line(Pipe(framed(head))).receive()

    @pytest.mark.parametrize(
        "body", [b"", b"x", zlib.compress(b"x" * 999)[:-1], zlib.compress(b"x")[1:], b"\x78\x9c" + b"\xff" * 50]
    )
    def test_what_cannot_be_unpacked(self, body: bytes) -> None:
        with pytest.raises(Refused, match="cannot be decompressed"):
            Line(Pipe(framed(b'{"t":"x","z":1}', body))).receive()

    def test_anything_at_all(self) -> None:
        draw = random.Random(3)
        for _ in range(2000):
            data = bytearray(sent({"t": "rows", "origin": "0" * 32, "after": 5}, b"some body" * 40, compress=True))
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            line = Line(Pipe(bytes(data)))
            with pytest.raises(LwfmError, match=r"^.{1,2100}$"):
                drain(line)

    def test_another_frame_than_is_to_come(self) -> None:
        with pytest.raises(Refused, match="'surprise' where 'hello' was to come"):
            Line(Pipe(sent({"t": "surprise"}))).receive("hello")


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            NotFound("there is none", hint="look elsewhere"),
            StoreFull(),
            Conflict("both", transient=True),
            LwfmError("ä\n€"),
        ],
    )
    def test_they_travel(self, error: LwfmError) -> None:
        line = Line(Pipe(sent({"t": "error", "error": error.to_json()})))
        with pytest.raises(type(error)) as raised:
            line.receive("hello")
        came = raised.value
        assert came.message == f"the other side: {error.message}" == str(came)
        assert (came.hint, came.transient, came.exit_code) == (error.hint, error.transient, error.exit_code)

    def test_what_the_other_side_told_before_it_went_is_the_reason(self) -> None:
        told = sent({"t": "taken"}) + sent({"t": "error", "error": StoreFull("no room").to_json()})
        line = Line(Pipe(told, deaf=True))
        with pytest.raises(StoreFull, match="the other side: no room"):
            line.send({"t": "rows"}, b"x")

    def test_one_that_went_without_a_word(self) -> None:
        with pytest.raises(Cut, match="the last of it") as raised:
            Line(Pipe(deaf=True, complaint="x\nthe last of it\n")).send({"t": "rows"})
        assert raised.value.transient

    @pytest.mark.parametrize(
        "told",
        [
            None,
            7,
            [],
            "x",
            {},
            {"code": []},
            {"message": {"a": 1}},
            {"hint": ["a"], "transient": "x"},
            {"code": "BaseException"},
        ],
    )
    def test_those_that_are_none(self, told: Any) -> None:
        with pytest.raises(LwfmError, match="the other side: ") as raised:
            Line(Pipe(sent({"t": "error", "error": told}))).receive()
        assert isinstance(raised.value.hint, (str, type(None)))
        json.dumps(raised.value.to_json())


def test_a_conversation_cut_at_each_byte() -> None:
    """What is whole before the cut comes; then it is said that it was cut."""
    frames: list[tuple[JSON, bytes]] = [
        ({"t": "hello", "protocols": [1]}, b""),
        ({"t": "rows"}, bytes(600)),
        ({"t": "taken"}, b""),
        ({"t": "end"}, b"xyz"),
    ]
    pieces = [sent(head, body, compress=True) for head, body in frames]
    whole = GREETING + b"".join(pieces)
    ends = [len(GREETING) + sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    for cut in range(len(whole)):
        line = Line(Pipe(whole[:cut], 13))
        if cut < len(GREETING):
            with pytest.raises(Cut):
                line.await_greeting()
            continue
        assert line.await_greeting() == ""
        for (head, body), end in zip(frames, ends):
            if cut < end:
                with pytest.raises(Cut, match="ended") as raised:
                    line.receive()
                assert raised.value.transient
                break
            assert line.receive(str(head["t"])).body == body
