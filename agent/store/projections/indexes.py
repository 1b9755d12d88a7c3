"""By what things are found: their properties, and the words of their names, commands and messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...matching import flatten
from ..columns import text

Write = Callable[[str, tuple[Any, ...]], Any]
"""Executes a statement with a row: at once, or with others like it before anything is read."""
_INSERT_PROPERTY = "insert into properties values (?,?,?,?,?) on conflict do nothing"
_INSERT_WORDS = "insert into search (kind, id, text) values (?,?,?)"


def index_properties(write: Write, kind: str, owner: str, properties: Mapping[str, Any]) -> None:
    """A thing of a kind has these properties."""
    for key, value, number in flatten(properties):
        write(_INSERT_PROPERTY, (kind, owner, text(key), text(value), number))


def index_words(write: Write, kind: str, identifier: str, words: str) -> None:
    """A thing of a kind has these words."""
    write(_INSERT_WORDS, (kind, identifier, text(words)))
