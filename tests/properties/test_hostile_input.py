"""Whatever others write, it is answered or refused: any bytes, and real ones that were changed, on every target of the fuzzer.

The same each time; ``$LWFM_FUZZ_EXAMPLES`` asks for more than CI runs. ``./lwfm.sh fuzz`` looks further, guided by what is reached.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, seeds

EXAMPLES = int(os.environ.get("LWFM_FUZZ_EXAMPLES", "150"))
SETTINGS = settings(max_examples=EXAMPLES)
AWKWARD = [
    b"\0", b"\n", b"\r", b"\x1b[2J", b"\xff", b"\xc2\xb2", b"\xd9\xa1", b"NaN", b"inf", b"-1", b"1e999", b"9" * 5000,
    b"null", b"true", b"[]",
    b"{}", b'""', b"[" * 3000, b"|" * 9, b"\xe2\x80\xae", b"\xed\xa0\x80",
    b"<", b"&", b"'", b'"', b"../", b"n[0-99999999]", b" ", b"=", b":",
]  # fmt: skip
"""What parsers stumble over."""


@st.composite
def changed(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A real input with some pieces cut out, doubled, moved or replaced."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from([b"", data[start:end] * 2, *AWKWARD]) | st.binary(max_size=6))
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", list(TARGETS))
def test_it_is_answered_or_refused(name: str) -> None:
    originals = list(seeds(name).values())
    assert originals, f"no corpus for {name}"

    @SETTINGS
    @given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8")) | changed(originals))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()
