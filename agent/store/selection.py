"""Which rows fulfil conditions, the newest first: found by reading as few as possible of a store that may hold millions.

Ids begin with their time, so that the newest are the largest. A property that many rows have is met soon among the newest
rows; one that few rows have is listed by its index; only one that many rows have, but none of the newest, is sorted out.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Optional

from ..matching import Condition
from . import origins
from .parts import marks

SOME = 1000
"""Up to how many rows with a property are taken together and filtered, before anything else is tried."""
RECENT = 2000
"""How many of the newest rows are looked at, one after the other, for properties."""
FEW = 40_000
"""Up to how many rows with a property are taken together when those were not enough. At a million rows the two leave no gap:
what is rarer than 50 among ``RECENT`` is not more than ``FEW``."""
_CHUNK = 500
_INDEXED = frozenset({"eq", "lt", "le", "gt", "ge"})
"""Conditions whose rows lie together in an index."""
_RECORDED_AS = {"jobs": "job", "metasheets": "metasheet", "logs": "log"}
"""Tables whose rows have the id of the record that they come from, and its kind."""
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}

Clause = tuple[str, list[Any]]
"""A condition in SQL and its parameters."""


@dataclass
class Selection:
    """The rows of a table that fulfil all that is given.

    Args:
        table: of the store; its rows are ``t`` in clauses. ``owner_kind``: what their properties are filed under.
        clauses: each must hold.
        states: if any, the row's state must be one of them; each is looked up by itself.
        workflow: if given, jobs of it.
        conditions: on properties; each must hold.
        words: a full-text query whose results the rows must be among.
        origins: if any, the row must come from one of these instances.
    """

    table: str
    owner_kind: str
    clauses: list[Clause] = field(default_factory=list)
    states: Sequence[str] = ()
    workflow: Optional[str] = None
    conditions: Sequence[Condition] = ()
    words: Optional[str] = None
    origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.origins:
            self.clauses.append(origins.clause("t.origin", self.origins))

    def newest(self, connection: sqlite3.Connection, limit: int) -> list[str]:
        """The ids of the newest ``limit`` of them, newest first; 0: of all."""
        wanted = limit or None
        if self.words is not None:
            return self._with_words(connection, wanted)
        of_few = self._of_small_origins(connection)
        if of_few is not None:
            return self._filtered(connection, of_few, wanted)
        if not self.conditions:
            return list(self._stream(connection, wanted))
        few = self._few(connection, [condition for condition in self.conditions if condition.op in _INDEXED], SOME)
        if few is not None:
            return self._filtered(connection, few, wanted)
        if wanted is not None:
            seen, recent = 0, self._stream(connection, RECENT)
            found: list[str] = []
            for chunk in _chunks(recent):
                seen += len(chunk)
                found.extend(self._with_properties(connection, chunk, self.conditions))
                if len(found) >= wanted:
                    return found[:wanted]
            if seen < RECENT:
                return found
        return self._by_properties(connection, wanted)

    def _of_small_origins(self, connection: sqlite3.Connection) -> Optional[Iterator[str]]:
        """All that the instances asked for have recorded of the kind, newest first, if that is not much.

        Among a million rows of others it would be met late; of an instance that has recorded much, something is met soon.
        """
        kind = _RECORDED_AS.get(self.table)
        if not self.origins or kind is None:
            return None
        heads = [
            connection.execute("select max(seq) from log where origin = ?", (origin,)).fetchone()[0] or 0
            for origin in self.origins
        ]
        if sum(heads) > FEW:
            return None
        found: set[str] = set()
        for origin in self.origins:
            query = "select uid from log where origin = ? and kind = ?"
            found.update(row[0] for row in connection.execute(query, (origin, kind)))
        return iter(sorted(found, reverse=True))

    def _by_properties(self, connection: sqlite3.Connection, wanted: Optional[int]) -> list[str]:
        """Begin with the owners of a rare property."""
        candidates = self._few(connection, self.conditions, FEW)
        if candidates is None:
            easiest = min(self.conditions, key=lambda condition: condition.op != "eq")
            candidates = self._owners_in_order(connection, easiest)
        return self._filtered(connection, candidates, wanted)

    def _few(
        self, connection: sqlite3.Connection, conditions: Sequence[Condition], most: int
    ) -> Optional[Iterator[str]]:
        """The owners of the rarest of these properties, newest first, if there are no more than ``most``."""
        counts = [self._count(connection, condition, most + 1) for condition in conditions]
        if not counts or min(counts) > most:
            return None
        rarest = conditions[counts.index(min(counts))]
        return iter(sorted(self._owners(connection, rarest), reverse=True))

    def _with_words(self, connection: sqlite3.Connection, wanted: Optional[int]) -> list[str]:
        """The text index knows what was recorded last here: among a great many results those count as the newest."""
        query = "select id from search where search match ? and kind = ? order by rowid desc"
        values: list[Any] = [self.words, self.owner_kind]
        for most in (10 * wanted, FEW) if wanted is not None else ():
            latest = [str(row[0]) for row in connection.execute(f"{query} limit {most + 1}", values)]
            found = self._filtered(connection, iter(sorted(set(latest), reverse=True)), wanted)
            if len(found) == wanted or len(latest) <= most:
                return found
        everything = {str(row[0]) for row in connection.execute(query, values)}
        return self._filtered(connection, iter(sorted(everything, reverse=True)), wanted)

    def _filtered(self, connection: sqlite3.Connection, ids: Iterator[str], wanted: Optional[int]) -> list[str]:
        """Those of ``ids``, which come newest first, that fulfil everything."""
        found: list[str] = []
        where, values = _joined(self._all_clauses())
        for chunk in _chunks(ids):
            left: Sequence[str] = chunk
            query = f"select t.id from {self.table} t where t.id in ({marks(chunk)}){where} order by t.id desc"
            left = [str(row[0]) for row in connection.execute(query, [*chunk, *values])]
            found.extend(self._with_properties(connection, left, self.conditions))
            if wanted is not None and len(found) >= wanted:
                break
        return found[:wanted]

    def _with_properties(
        self, connection: sqlite3.Connection, ids: Sequence[str], conditions: Iterable[Condition]
    ) -> list[str]:
        """Those of ``ids`` whose properties fulfil the conditions, in the same order."""
        left = list(ids)
        for condition in conditions:
            if not left:
                break
            alternatives = condition_sql(condition)
            clause = " or ".join(part for part, _ in alternatives)
            values = [value for _, part in alternatives for value in part]
            query = (
                f"select owner from properties indexed by properties_by_owner where owner in ({marks(left)})"
                f" and key = ? and owner_kind = ? and ({clause})"
            )
            fitting = {row[0] for row in connection.execute(query, [*left, condition.key, self.owner_kind, *values])}
            left = [identifier for identifier in left if identifier in fitting]
        return left

    def _count(self, connection: sqlite3.Connection, condition: Condition, limit: int) -> int:
        """How many such properties there are; counting ends at ``limit``."""
        counted = 0
        for clause, values in condition_sql(condition):
            query = f"select count(*) from ({_owners_where(clause)} limit {int(limit)})"
            counted += connection.execute(query, [self.owner_kind, condition.key, *values]).fetchone()[0]
        return counted

    def _owners(self, connection: sqlite3.Connection, condition: Condition) -> set[str]:
        """The owners of such a property."""
        owners: set[str] = set()
        for clause, values in condition_sql(condition):
            found = connection.execute(_owners_where(clause), [self.owner_kind, condition.key, *values])
            owners.update(row[0] for row in found)
        return owners

    def _owners_in_order(self, connection: sqlite3.Connection, condition: Condition) -> Iterator[str]:
        """All owners of such a property, newest first."""
        alternatives = condition_sql(condition)
        query = " union ".join(_owners_where(clause) for clause, _ in alternatives) + " order by owner desc"
        parameters = [value for _, values in alternatives for value in (self.owner_kind, condition.key, *values)]
        last = None
        for (owner,) in connection.execute(query, parameters):
            if owner != last:
                yield owner
            last = owner

    def _stream(self, connection: sqlite3.Connection, limit: Optional[int]) -> Iterator[str]:
        """The newest rows that fulfil all but the conditions; with several states those of each, put in order."""
        if not self.states or limit is None:
            return self._rows(connection, self._all_clauses(), limit)
        streams = []
        for state in dict.fromkeys(self.states):
            clause: Clause = ("t.state = ?", [state])
            if self.workflow is not None:
                better = _state_is_rarer(connection, state, self.workflow)
                mark_state, mark_workflow = ("", "+") if better else ("+", "")
                clause = (f"{mark_workflow}t.workflow_id = ? and {mark_state}t.state = ?", [self.workflow, state])
            streams.append(self._rows(connection, [*self.clauses, clause], limit))
        if len(streams) == 1:
            return streams[0]
        return islice(heapq.merge(*streams, reverse=True), limit)

    def _rows(self, connection: sqlite3.Connection, clauses: list[Clause], limit: Optional[int]) -> Iterator[str]:
        where, values = _joined(clauses)
        query = f"select t.id from {self.table} t where true{where} order by t.id desc"
        query += f" limit {int(limit)}" if limit is not None else ""
        for (identifier,) in connection.execute(query, values):
            yield str(identifier)

    def _all_clauses(self) -> list[Clause]:
        clauses = list(self.clauses)
        if self.workflow is not None:
            clauses.append(("t.workflow_id = ?", [self.workflow]))
        if self.states:
            clauses.append((f"t.state in ({marks(self.states)})", list(self.states)))
        return clauses


def _state_is_rarer(connection: sqlite3.Connection, state: str, workflow_id: str) -> bool:
    """Whether fewer jobs are in a state than in a workflow, so that the index of the states is the better one."""
    (of_workflow,) = connection.execute(
        "select coalesce(sum(jobs), 0) from job_counts where workflow_id = ?", (workflow_id,)
    ).fetchone()
    most = min(of_workflow, FEW)
    (in_state,) = connection.execute(
        "select count(*) from (select 1 from jobs where state = ? limit ?)", (state, most)
    ).fetchone()
    return bool(in_state < most)


def _owners_where(clause: str) -> str:
    """The owners of a kind and a key for whose property a clause holds, by the index that has them together."""
    index = " indexed by properties_by_number" if "number" in clause else ""
    return f"select owner from properties{index} where owner_kind = ? and key = ? and {clause}"


def condition_sql(condition: Condition) -> list[Clause]:
    """Clauses on a row of ``properties`` of which one must hold; each can use an index by itself.

    They mean what :meth:`~lwfm.matching.Condition.accepts` means. A property's number follows from its text.
    """
    text, number = condition.text, condition.number
    if condition.op == "glob":
        low, high = _bounds(text)
        clauses = [glob_clause("text", text)]
        clauses += [("text >= ?", [low])] if low else []
        clauses += [("text < ?", [high])] if high else []
        return [(" and ".join(part for part, _ in clauses), [value for _, part in clauses for value in part])]
    if condition.op == "regex":
        return [("text regexp ?", [text])]
    if condition.op == "eq":
        return [("text = ?", [text])] if number is None else [("number = ?", [number])]
    if condition.op == "ne":
        return [("text <> ?", [text])] if number is None else [("number is not ?", [number])]
    operator = _COMPARISONS[condition.op]
    if number is None:
        return [(f"text {operator} ?", [text])]
    return [(f"number {operator} ?", [number]), (f"(number is null and text {operator} ?)", [text])]


def glob_clause(column: str, pattern: str) -> Clause:
    """A clause that means what :func:`fnmatch.fnmatchcase` does; SQLite's own ``glob`` knows other sets in brackets."""
    return (f"fnmatch({column}, ?)" if "[" in pattern else f"{column} glob ?", [pattern])


def _bounds(pattern: str) -> tuple[str, str]:
    """Between which texts everything lies that a glob fits; an empty one: no bound."""
    plain = next((index for index, mark in enumerate(pattern) if mark in "*?["), len(pattern))
    low = pattern[:plain]
    after = ord(low[-1]) + 1 if low else 0
    if 0xD800 <= after <= 0xDFFF:
        after = 0xE000
    return low, low[:-1] + chr(after) if low and after <= 0x10FFFF else ""


def _joined(clauses: Iterable[Clause]) -> tuple[str, list[Any]]:
    listed = list(clauses)
    return "".join(f" and {clause}" for clause, _ in listed), [value for _, values in listed for value in values]


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Parts of what comes: small ones first, since often the first few are enough."""
    iterator, size = iter(ids), 100
    while True:
        chunk = list(islice(iterator, size))
        if not chunk:
            return
        yield chunk
        size = _CHUNK
