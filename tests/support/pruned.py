"""Pruning the history of a thread without an agent, and what is left of it."""

from __future__ import annotations

from typing import Any, Optional

from lwfm.store import pruning, sharing
from lwfm.store.maintenance import snapshot

from support.threads import Thread

LATER = "2999-01-01T00:00:00.000000Z"
"""Everything is older."""


def prune(thread: Thread, *what: str, before: str = LATER, limit: int = 7, unsynced: bool = False) -> int:
    """Prune all that can be, in small steps; how many things that were.

    Args:
        unsynced: also what others are not known to have.
    """
    count = 0
    for kind in what or tuple(pruning.KINDS):
        after: Optional[str] = None
        while True:
            chosen = choose(thread, kind, before, after, limit, unsynced)
            if chosen.places:
                with thread.store.transaction() as transaction:
                    count += pruning.prune(transaction, chosen, list(chosen.places))
                thread.rules.reset()
                thread.service.reset()
            after = chosen.after
            if after is None:
                break
    return count


def choose(
    thread: Thread,
    kind: str,
    before: str = LATER,
    after: Optional[str] = None,
    limit: int = 100,
    unsynced: bool = False,
) -> pruning.Chosen:
    """What could be pruned."""
    with snapshot(thread.connection):
        known = [] if unsynced else sharing.knowers(thread.connection)
        return pruning.choose(thread.connection, kind, before, known, after, limit)


def whole(thread: Thread) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The records that are there whole, by their places."""
    found = thread.connection.execute("select * from log where prev <> ''")
    return {(row[0], row[1]): tuple(row) for row in found}


def stubs(thread: Thread, where: str) -> set[tuple[str, int]]:
    """The places of those that were pruned, by this store ('here') or by others ('elsewhere')."""
    query = "select origin, seq from log where prev = '' and json_extract(body, '$.pruned') = ?"
    return set(thread.connection.execute(query, (where,)).fetchall())


def chains(thread: Thread) -> list[Any]:
    """Every record's place, hash and id, pruned or not."""
    return thread.connection.execute("select origin, seq, hash, uid from log order by origin, seq").fetchall()
