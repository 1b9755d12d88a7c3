"""What conditions mean. That the store selects the same is in properties/test_selection.py."""

from __future__ import annotations

from typing import Any

import pytest

from lwfm.errors import InvalidRecord
from lwfm.matching import MAX_EXPRESSION_LENGTH, as_number, flatten, parse_match, parse_terms


@pytest.mark.parametrize(
    ("condition", "value", "accepted"),
    [
        (0.7, 0.7, True), (0.7, "0.70", True), ("0.7", 0.7, True), ("0.7", "7e-1", True), (0.7, "0.7x", False),
        (1, True, False), (True, True, True), ("true", True, True), (None, None, True), ("null", None, True),
        ("therm*", "thermo", True), ("therm*", "Thermo", False), ("[tp]*", "plot", True), ("=a*b", "a*b", True),
        ("=a*b", "axb", False), ("~^th.*o$", "thermo", True), ("~er", "thermo", True), ("!=a", "b", True), ("!=a", "a", False),
        ("!=1", "1.0", False), (">=10", 9, False), (">=10", 11, True), (">=10", "9", False), ("<b", "a", True),
        (">2024-05", "2024-06-01", True),
        ("a", ["b", "a"], True), ("!=a", ["a", "b"], True), ("!=a", ["a"], False),
        ("a", [], False), ("", "", True), ("x", "", False),
    ],
)  # fmt: skip
def test_a_condition(condition: Any, value: Any, accepted: bool) -> None:
    assert parse_match({"k": condition}).accepts({"k": value}) is accepted


def test_all_conditions_must_hold_and_a_missing_property_fulfils_none() -> None:
    match = parse_match({"kind": "thermo", "T": ">=1"})
    assert match.accepts({"kind": "thermo", "T": 1, "more": 2})
    assert not match.accepts({"kind": "thermo"})
    assert not parse_match({"absent": "!=x"}).accepts({"kind": "x"})
    assert parse_match({}).accepts({})


def test_levels_are_joined_with_dots() -> None:
    assert parse_match({"box.x": ">3"}).accepts({"box": {"x": 4}})
    assert list(flatten({"a": {"b": [1, {"c": "x"}]}, "e": {}, "l": []})) == [("a.b", "1", 1.0), ("a.b.c", "x", None)]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), ("1", 1.0), (" 1.5e3 ", 1500.0), ("+.5", 0.5), ("5.", 5.0), (True, None), ("", None),
        ("1_000", None), ("0x10", None),
        ("nan", None), ("inf", None), ("1e999", None), (10**400, None), (None, None), ([1], None), ("1 2", None),
    ],
)  # fmt: skip
def test_what_counts_as_a_number(value: Any, number: Any) -> None:
    assert as_number(value) == number


@pytest.mark.parametrize(
    "match", [{"": 1}, {1: 1}, {"k": "~["}, {"k": "~(" * 9}, {"k": "x" * (MAX_EXPRESSION_LENGTH + 1)}]
)
def test_what_is_no_condition(match: Any) -> None:
    with pytest.raises(InvalidRecord):
        parse_match(match)


def test_the_terms_of_a_command_line() -> None:
    terms = ["kind=thermo", "T>=0.7", "T2!=1", "name~^a=b", "note==a*b", "x<3", " spaced =1", "empty=", "many=a=b"]
    assert parse_terms(terms) == {
        "kind": "thermo", "T": ">=0.7", "T2": "!=1", "name": "~^a=b", "note": "=a*b", "x": "<3", "spaced": "1", "empty": "",
        "many": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("term", ["kind", "=x", "", "!x=1"])
def test_what_is_no_term(term: str) -> None:
    with pytest.raises(InvalidRecord, match="is not a condition"):
        parse_terms([term])


@pytest.mark.parametrize("term", ["T<", "T>="])
def test_a_term_that_compares_with_nothing(term: str) -> None:
    with pytest.raises(InvalidRecord, match="compares with nothing"):
        parse_terms([term])
    assert parse_terms(["T="]) == {"T": ""}
