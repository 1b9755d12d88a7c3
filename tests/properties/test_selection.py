"""What ``find`` and ``job list`` select is what a data handler with the same conditions would have fired for."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lwfm.errors import InvalidRecord
from lwfm.matching import Condition, as_number, parse_match, value_text
from lwfm.records import check_properties
from lwfm.store import queries, selection
from lwfm.store.connection import Connection, connect
from lwfm.store.log import Record
from lwfm.store.projections import project

from support.threads import empty_store

SETTINGS = settings(max_examples=150)
LETTERS = "aZ019.*?[]!^-~=<>+ eé\n\U0001f40d"
ALIKE = st.sampled_from(
    [
        0,
        0.7,
        1,
        1.0,
        2,
        10,
        -0.0,
        1e300,
        2**70,
        True,
        None,
        "0.70",
        "1e0",
        " 7 ",
        "007",
        "true",
        "null",
        "therm-1",
        "thermo",
        "a*b",
        "ab",
        "a",
        "",
        "x" * 3000,
    ]
)
"""Values that are nearly, or in some sense, the same as each other."""
VALUE = ALIKE | ALIKE | ALIKE | st.integers(-3, 12) | st.text(LETTERS, max_size=4)
KEY = st.sampled_from(["T", "T", "T", "box.x"])
PROPERTIES = st.dictionaries(KEY, VALUE | VALUE | st.lists(VALUE, max_size=3), min_size=1, max_size=2)
PREFIX = st.sampled_from(["", "=", "!=", "<", "<=", ">", ">=", "~"])
PLAIN = st.sampled_from(["0.7", "1", "2", "10", "a", "true", "therm", "ab", "*", "a*", "?", "[!a]*", "^a", "0", "1.0"])
MATCH = st.dictionaries(
    KEY,
    st.builds(lambda prefix, value: prefix + value, PREFIX, PLAIN | st.text(LETTERS, max_size=4)) | VALUE,
    min_size=1,
    max_size=2,
)


@pytest.fixture(scope="module")
def store() -> Iterator[Connection]:
    connection = empty_store()
    yield connection
    connection.close()


@given(rows=st.lists(PROPERTIES, min_size=1, max_size=8), match=MATCH, limit=st.integers(0, 3))
@example(rows=[{"T": "a"}, {"T": 1}], match={"T": "<2"}, limit=0)
@example(rows=[{"kind": "^"}, {"kind": "b"}], match={"kind": "[^a]"}, limit=0)
@example(rows=[{"kind": "["}], match={"kind": "[*"}, limit=0)
@SETTINGS
@pytest.mark.parametrize("how", ["few", "recent", "rare", "many"])
def test_the_store_selects_what_matching_accepts(
    store: Connection, how: str, rows: list[dict[str, Any]], match: dict[str, Any], limit: int
) -> None:
    try:
        parsed = parse_match(match)
    except InvalidRecord:
        assume(False)
    store.execute("savepoint example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SOME", 100 if how == "few" else 0)
        if how != "recent":
            patch.setattr(selection, "RECENT", 1)
        if how == "many":
            patch.setattr(selection, "FEW", 0)
        try:
            for number, properties in enumerate(rows):
                _put(store, f"d{number}", check_properties(properties, "properties"))
            found = [sheet["data_id"] for sheet in queries.list_data(store, match=match, limit=limit)]
        finally:
            store.execute("rollback to example")
            store.execute("release example")
    expected = [f"d{number}" for number, properties in enumerate(rows) if parsed.accepts(properties)][::-1]
    assert found == (expected[:limit] if limit else expected)


def _put(store: Connection, identifier: str, properties: dict[str, Any]) -> None:
    project(store, Record("o", 1, identifier, "metasheet", "h", "w", {"properties": properties}))


@given(value=VALUE)
@SETTINGS
def test_a_number_follows_from_its_text(value: Any) -> None:
    """What selection relies on: a value and what it reads as are the same number."""
    assert as_number(value) == as_number(value_text(value))


@given(pattern=st.text("ab*?[]!^-", max_size=6), text=st.text("ab[]!^-", max_size=4))
@example(pattern="[^a]", text="^")
@example(pattern="[]-a]", text="^")
@SETTINGS
def test_a_glob_means_in_sql_what_it_means_in_python(store: Connection, pattern: str, text: str) -> None:
    (clause, values) = selection.condition_sql(Condition("k", "glob", pattern, None))[0]
    found = store.execute(f"select 1 from (select ? as text) where {clause}", [text, *values]).fetchone()
    assert bool(found) == fnmatch.fnmatchcase(text, pattern)


def test_many_conditions_of_a_large_store_agree_with_matching(store: Connection) -> None:
    rows = [{"T": number / 10, "kind": f"k{number % 7}", "one": 1} for number in range(900)]
    store.execute("savepoint example")
    try:
        for number, properties in enumerate(rows):
            _put(store, f"d{number:04d}", properties)
        for match in ({"T": ">=40"}, {"kind": "k3", "T": "<5"}, {"one": 1}, {"one": 1, "kind": "~[56]"}, {"T": 3}):
            parsed = parse_match(match)
            expected = [f"d{number:04d}" for number, row in enumerate(rows) if parsed.accepts(row)][::-1]
            for limit in (0, 1, 50, 700):
                for some, recent, few in ((1000, 4000, 20_000), (0, 4000, 20_000), (0, 150, 20_000), (0, 150, 10)):
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(selection, "SOME", some)
                        patch.setattr(selection, "RECENT", recent)
                        patch.setattr(selection, "FEW", few)
                        found = [sheet["data_id"] for sheet in queries.list_data(store, match=match, limit=limit)]
                    assert found == (expected[:limit] if limit else expected), (match, limit, some, recent, few)
    finally:
        store.execute("rollback to example")
        store.execute("release example")


def test_properties_are_stored_as_json_and_once_per_value(store: Connection) -> None:
    connection = connect(":memory:")
    store.backup(connection)
    _put(connection, "d", {"a": [1, 1.0, "1"], "b": {"c": None}, "e": []})
    listed = connection.execute("select key, text, number from properties order by key, text").fetchall()
    assert listed == [("a", "1", 1.0), ("a", "1.0", 1.0), ("b.c", "null", None)]
    (text,) = connection.execute("select properties from metasheets").fetchone()
    assert json.loads(text) == {"a": [1, 1.0, "1"], "b": {"c": None}, "e": []}
    connection.close()
