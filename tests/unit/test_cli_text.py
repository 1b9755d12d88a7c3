from __future__ import annotations

import time

import pytest

from lwfm.cli import text
from lwfm.clock import utc_now, utc_text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain text, \u00e4\u00f6\u00fc \u65e5\u672c", "plain text, \u00e4\u00f6\u00fc \u65e5\u672c"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\x00\x7f", "\\x00\\x7f"),
    ],
)
def test_harmless(given: str, shown: str) -> None:
    assert text.harmless(given) == shown
    text.harmless(given).encode("utf-8")


def test_lines_stay_lines() -> None:
    assert text.harmless_lines("a\r\nb\tc\x1b[2J\rd\n") == "a\nb\tc\\x1b[2J\\rd\n"


def test_a_foreground_program_may_colour_and_return() -> None:
    assert text.harmless_live("\x1b[1;31mred\x1b[0m 10%\r20%\n") == "\x1b[1;31mred\x1b[0m 10%\r20%\n"
    assert text.harmless_live("\x1b[2J\x1b]0;t\x07\x1bc") == "\\x1b[2J\\x1b]0;t\\x07\\x1bc"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.004, "0.00s"), (9.994, "9.99s"), (12.3, "12s"), (59.7, "1m00s"), (184, "3m04s"), (7500, "2h05m"),
     (97_200, "1d03h")],
)  # fmt: skip
def test_duration(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**60, "1024.0 PiB")],
)
def test_size(count: int | None, shown: str) -> None:
    assert text.size(count) == shown


def test_moment_is_local_and_short_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC+3")
    time.tzset()
    try:
        now = utc_now()
        assert len(text.moment(now)) == 8
        assert text.moment("2020-01-02T02:04:05.000000Z") == "2020-01-01 23:04:05"
        assert text.moment("whenever") == "whenever"
        assert text.moment(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_elapsed() -> None:
    assert text.elapsed_s(None, None) is None
    assert text.elapsed_s("2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:02.500000Z") == 2.5
    assert 0 <= (text.elapsed_s(utc_now(), None) or 0) < 5
    assert text.elapsed_s(utc_text(time.time() + 100), None) == 0.0  # a clock that is ahead
    assert text.elapsed_s("nonsense", None) is None


def test_properties() -> None:
    assert (
        text.properties({"T": 0.7, "kind": "thermo", "ok": True, "n": [1, 2]}) == "T=0.7 kind=thermo ok=true n=[1, 2]"
    )
    assert text.properties(None) == ""


def test_plural() -> None:
    assert [text.plural(count, "job") for count in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
