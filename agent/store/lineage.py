"""What made this, from what; what used it: the graph of jobs and data around one of them.

Nodes are jobs and data; an edge points from cause to effect. Data is one node per content: metasheets that name the same
checksum, or the same place where there is no checksum, are one piece of data seen several times. Empty files are all
alike without having anything to do with each other, so they are known by their place.

So what one instance has made and another has read hangs together by its checksum, wherever it lies; a path alone does not name it,
since two hosts may have the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import NotFound
from . import origins, parts, queries, stubs
from .columns import text

MAX_NODES = 500
"""Beyond so many the graph ends, and says so."""
_OPS = ("put", "event", "get")
"""In the order in which they tell more of data."""
_CONTENT = "select id, sha256, url, size_bytes from metasheets"

Node = tuple[str, str]
"""``job`` or ``data``, and the job's id or what identifies the content."""


@dataclass
class _Graph:
    """What has been found so far."""

    nodes: dict[Node, None] = field(default_factory=dict)
    edges: dict[tuple[Node, Node, str], None] = field(default_factory=dict)
    truncated: bool = False

    def add(self, node: Node) -> bool:
        """Take a node in, if there is room for it."""
        if node not in self.nodes and len(self.nodes) >= MAX_NODES:
            self.truncated = True
            return False
        self.nodes[node] = None
        return True


def trace(connection: sqlite3.Connection, of: str, direction: str = "both", depth: int = 0) -> dict[str, Any]:
    """The graph around ``of``, as ``docs/api.md`` has it.

    Args:
        connection: on the store.
        of: a path, url, checksum, data id or job id; ids may be shortened.
        direction: ``up`` (causes), ``down`` (effects) or ``both``.
        depth: how many steps to follow; 0 follows all.

    Raises:
        NotFound: nothing is known of it.
    """
    start = _start(connection, of)
    graph = _Graph()
    graph.add(start)
    for way in ("up", "down"):
        if direction not in (way, "both"):
            continue
        frontier, seen, steps = [start], {start}, 0
        while frontier and not graph.truncated and (depth == 0 or steps < depth):
            steps += 1
            following: list[Node] = []
            for node, neighbour, relation in _steps(connection, frontier, way):
                if not graph.add(neighbour):
                    break
                graph.edges[(neighbour, node, relation) if way == "up" else (node, neighbour, relation)] = None
                if neighbour not in seen:
                    seen.add(neighbour)
                    following.append(neighbour)
            frontier = following
    return _described(connection, graph, start)


def _steps(connection: sqlite3.Connection, frontier: Sequence[Node], way: str) -> Iterator[tuple[Node, Node, str]]:
    for node in frontier:
        kind, key = node
        found = _around_data(connection, key, way) if kind == "data" else _around_job(connection, key, way)
        for neighbour, relation in found:
            yield node, neighbour, relation


def _start(connection: sqlite3.Connection, of: str) -> Node:
    of = text(of)
    here = origins.own(connection)
    for column, of_instance in (("path", " and origin = ?3"), ("path", ""), ("url", ""), ("sha256", "")):
        query = f"{_CONTENT} where {column} = ?1 and op = ?2{of_instance} order by id desc limit 1"
        values = (here,) if of_instance else ()
        found = [row for op in _OPS for row in connection.execute(query, (of, op, *values))]
        if found:
            return ("data", _content_key(max(found)))
    for kind in ("data", "job"):
        try:
            identifier = queries.resolve(connection, kind, of)
        except NotFound:
            gone = stubs.pruned(connection, kind, of)
            if gone is not None:
                return ("job", gone[0])
            continue
        if kind == "job":
            return ("job", identifier)
        return ("data", _content_key(connection.execute(f"{_CONTENT} where id = ?", (identifier,)).fetchone()))
    raise NotFound(f"nothing is known of {of!r}", hint="give a path, a url, a checksum, or the id of a job or of data")


def _content_key(row: Sequence[Any]) -> str:
    """What identifies the content a metasheet is about: its checksum, else its place, else itself."""
    identifier, sha256, url, size_bytes = row
    return f"sha256:{sha256}" if sha256 and size_bytes != 0 else f"url:{url}" if url else f"id:{identifier}"


def _sheets(key: str) -> tuple[str, str]:
    """The clause on metasheets that are about a content, and its parameter."""
    scheme, _, value = key.partition(":")
    if scheme == "url":
        return "m.url = ? and (m.sha256 is null or m.size_bytes = 0)", value
    return f"m.{scheme} = ?", value


def _around_data(connection: sqlite3.Connection, key: str, way: str) -> Iterator[tuple[Node, str]]:
    where, value = _sheets(key)
    op, relation = ("put", "wrote") if way == "up" else ("get", "read")
    query = f"select m.job_id from metasheets m where {where} and m.op = ? and m.job_id is not null order by m.id desc"
    for (job_id,) in connection.execute(query, (value, op)):
        yield ("job", job_id), relation
    if way == "down":
        query = (
            f"select f.job_id from metasheets m join firings f on f.trigger_data = m.id where {where}"
            " and m.op in ('put', 'event') and f.job_id is not null order by m.id desc"
        )
        for (job_id,) in connection.execute(query, (value,)):
            yield ("job", job_id), "triggered"


def _around_job(connection: sqlite3.Connection, job_id: str, way: str) -> Iterator[tuple[Node, str]]:
    op, relation = ("get", "read") if way == "up" else ("put", "wrote")
    for row in connection.execute(f"{_CONTENT} where job_id = ? and op = ? order by id desc", (job_id, op)):
        yield ("data", _content_key(row)), relation
    if way == "up":
        yield from _causes(connection, job_id)
        return
    for (child,) in connection.execute("select id from jobs where parent_id = ? order by id desc", (job_id,)):
        yield ("job", child), "started"
    query = "select job_id from firings where trigger_job = ? and trigger_data is null and job_id is not null"
    for (child,) in connection.execute(query, (job_id,)):
        yield ("job", child), "triggered"


def _causes(connection: sqlite3.Connection, job_id: str) -> Iterator[tuple[Node, str]]:
    found = connection.execute(
        "select parent_id, trigger_job, trigger_data from jobs where id = ?", (job_id,)
    ).fetchone()
    parent, trigger_job, trigger_data = found or (None, None, None)
    if parent:
        yield ("job", parent), "started"
    if trigger_data:
        row = connection.execute(f"{_CONTENT} where id = ?", (trigger_data,)).fetchone()
        if row:
            yield ("data", _content_key(row)), "triggered"
    elif trigger_job:
        yield ("job", trigger_job), "triggered"


def _described(connection: sqlite3.Connection, graph: _Graph, start: Node) -> dict[str, Any]:
    """The graph with everything that is known of its nodes, each read once."""
    names: dict[Node, str] = {}
    for node in graph.nodes:
        names[node] = node[1] if node[0] == "job" else _sheet_of(connection, node[1])
    jobs = {
        job["job_id"]: job
        for job in queries.jobs_by_id(connection, [key for kind, key in graph.nodes if kind == "job"])
    }
    sheets = {sheet["data_id"]: sheet for sheet in queries.data_by_id(connection, list(names.values()))}
    commits = _commits(connection, list(jobs))
    nodes = []
    for (kind, _), identifier in names.items():
        if kind == "data":
            sheet = sheets[identifier]
            label = sheet.get("path") or sheet.get("url") or "event"
            nodes.append({**sheet, "id": identifier, "kind": "data", "label": label})
        elif identifier in jobs:
            job = jobs[identifier]
            nodes.append({**job, "id": identifier, "kind": "job", "label": job["name"], **commits.get(identifier, {})})
        else:
            gone = stubs.pruned(connection, "job", identifier)
            label = "a job this store does not know" if gone is None else "a job whose record was pruned"
            said = {} if gone is None else {"pruned": gone[1]}
            nodes.append({"id": identifier, "kind": "job", "label": label, "missing": True, **said})
    return {
        "root": [names[start]],
        "nodes": nodes,
        "edges": [{"from": names[one], "to": names[other], "relation": how} for one, other, how in graph.edges],
        "truncated": graph.truncated,
    }


def _sheet_of(connection: sqlite3.Connection, key: str) -> str:
    """The metasheet that stands for a content: where it was put last, else where it was seen last."""
    where, value = _sheets(key)
    query = f"select m.id from metasheets m where {where} and m.op = ? order by m.id desc limit 1"
    for op in _OPS:
        found = connection.execute(query, (value, op)).fetchone()
        if found:
            return str(found[0])
    raise NotFound(f"no data {key}")


def _commits(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Under which commit jobs were submitted, where that is known."""
    query = (
        "select j.id, c.git_commit, c.git_dirty from jobs j join contexts c on c.id = j.context_id"
        " where c.git_commit is not null and j.id in (?)"
    )
    found = parts.execute(connection, query, job_ids)
    return {job_id: {"git": {"commit": commit, "dirty": bool(dirty)}} for job_id, commit, dirty in found}
