from __future__ import annotations

from typing import Any

import click
import pytest

from lwfm.cli.typed import Duration, Memory, parse_environment, parse_properties, parse_repeated, parse_value
from lwfm.errors import InvalidRecord


@pytest.mark.parametrize(
    ("typed", "count"),
    [("4G", 4 * 2**30), ("512M", 512 * 2**20), ("512MiB", 512 * 2**20), ("1.5g", 3 * 2**29), ("4GB", 4 * 10**9),
     ("2T", 2 * 2**40), ("2048k", 2 * 2**20), ("1073741824", 2**30), (" 1 GiB ", 2**30)],
)  # fmt: skip
def test_memory(typed: str, count: int) -> None:
    assert Memory().convert(typed, None, None) == count


@pytest.mark.parametrize("typed", ["", "4", "4K", "-1G", "G", "4X", "4Gb/s", "1e9", "nan"])
def test_memory_that_is_none(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        Memory().convert(typed, None, None)


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("90", 90), ("0.5", 0.5), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("2d", 172800), ("1d 2h", 93600), ("30s", 30),
     ("1.5h", 5400), ("10:00", 600), ("1:30:00", 5400), ("1-00:00:00", 86400)],
)  # fmt: skip
def test_duration(typed: str, seconds: float) -> None:
    assert Duration().convert(typed, None, None) == seconds


@pytest.mark.parametrize("typed", ["", "0", "-5", "abc", "1:2:3:4", "10x", "m", "1..5h", "nan", "inf"])
def test_duration_that_is_none(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(typed, None, None)


@pytest.mark.parametrize(
    ("typed", "value"),
    [("0.70", 0.7), ("7", 7), ("true", True), ("null", None), ("[1, 2]", [1, 2]), ('{"a": 1}', {"a": 1}), ('"7"', "7"),
     ("thermo", "thermo"), ("007", "007"), ("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e999", "1e999"), ("", ""),
     ("True", "True"), ("[" * 100_000, "[" * 100_000)],
)  # fmt: skip
def test_value(typed: str, value: Any) -> None:
    parsed = parse_value(typed)
    assert parsed == value
    assert type(parsed) is type(value)


def test_repeated() -> None:
    """They stay text: an account may be a number, and begin with 0."""
    typed = ("account=0123", "option=--a=b", "option=--c", "qos=")
    assert parse_repeated(typed) == {"account": "0123", "option": ["--a=b", "--c"], "qos": ""}
    with pytest.raises(InvalidRecord):
        parse_repeated(("partition",))


def test_properties() -> None:
    assert parse_properties(("T=0.7", "expression=a=b", "empty=")) == {"T": 0.7, "expression": "a=b", "empty": ""}
    for item in ("T", "=1", ""):
        with pytest.raises(InvalidRecord):
            parse_properties((item,))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "over")
    monkeypatch.delenv("MISSING", raising=False)
    assert parse_environment(("A=1", "B=", "TAKEN")) == {"A": "1", "B": "", "TAKEN": "over"}
    with pytest.raises(InvalidRecord, match="MISSING"):
        parse_environment(("MISSING",))
