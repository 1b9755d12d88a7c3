"""Who knows what: the instances that this one syncs with, and those that sync with it, as far as they were heard.

Nothing is pruned of the history that one of them is not known to have. What they said is never newer than what they know, as a
store only grows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any, NamedTuple

from ..clock import utc_now
from ..jsontext import compact_ascii
from . import origins
from .batch import Vector, vector_to_json
from .transaction import Transaction


class Knower(NamedTuple):
    """An instance, and how far it knows each log; of one that has never been synced with, nothing.

    Args:
        name: how people call it. ``heads``: by origin, the number of the last record that it has.
    """

    name: str
    heads: dict[str, int]

    def knows(self, origin: str, seq: int) -> bool:
        """Whether it has a record."""
        return seq <= self.heads.get(origin, 0)


def knowers(connection: sqlite3.Connection, without: Collection[str] = ()) -> list[Knower]:
    """The instances that sync with this one.

    Args:
        without: names of such as do not count any more.
    """
    found: dict[str, Knower] = {}
    called = origins.names(connection)
    for name, body in connection.execute("select name, body from local_peers order by name"):
        peer = json.loads(body)
        _add(found, str(peer.get("origin") or name), name, peer.get("vector") or {})
    for origin, host, vector in connection.execute("select origin, host, vector from local_visitors order by origin"):
        _add(found, origin, called.get(origin) or host, json.loads(vector))
    here = {origins.own(connection)}
    return [knower for origin, knower in found.items() if origin not in here and knower.name not in without]


def note(transaction: Transaction, origin: str, host: str, vector: Vector) -> None:
    """Remember how far an instance that has synced with this one knows the logs."""
    text = compact_ascii(vector_to_json(vector))
    transaction.execute(
        "insert into local_visitors values (?,?,?,?) on conflict (origin) do update set host = excluded.host,"
        " seen_at = excluded.seen_at, vector = excluded.vector where vector <> excluded.vector",
        (origin, host, utc_now(), text),
    )


def _add(found: dict[str, Knower], origin: str, name: str, vector: dict[str, Any]) -> None:
    heads = {of: int(head[0]) for of, head in vector.items()}
    known = found.get(origin)
    if known is not None:
        heads = {of: max(heads.get(of, 0), known.heads.get(of, 0)) for of in {*heads, *known.heads}}
    found[origin] = Knower(known.name if known else name, heads)
