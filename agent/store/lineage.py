"""What made this, from what; what used it: the graph of jobs and data around one of them.

Nodes are jobs and data; an edge points from cause to effect. Data is one node per content: metasheets that name the same
checksum, or the same place where there is no checksum, are one piece of data seen several times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import NotFound
from . import queries

MAX_NODES = 5000


@dataclass
class Graph:
    """What has been found so far."""

    root: list[str] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[tuple[str, str, str], None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As ``docs/api.md`` has it."""
        edges = [{"from": cause, "to": effect, "relation": relation} for cause, effect, relation in self.edges]
        return {
            "root": self.root,
            "nodes": list(self.nodes.values()),
            "edges": edges,
            "truncated": len(self.nodes) >= MAX_NODES,
        }


def trace(connection: sqlite3.Connection, of: str, direction: str = "both", depth: int = 0) -> dict[str, Any]:
    """The graph around ``of``.

    Args:
        connection: on the store.
        of: a path, url, checksum, data id or job id; ids may be shortened.
        direction: ``up`` (causes), ``down`` (effects) or ``both``.
        depth: how many steps to follow; 0 follows all.

    Raises:
        NotFound: nothing is known of it.
    """
    graph = Graph()
    starts = _starts(connection, of)
    graph.root = [_add(connection, graph, kind, key) for kind, key in starts]
    for way in ("up", "down"):
        if direction not in (way, "both"):
            continue
        frontier, seen, steps = starts, set(starts), 0
        while frontier and len(graph.nodes) < MAX_NODES and (depth == 0 or steps < depth):
            steps += 1
            following: list[tuple[str, str]] = []
            for node in frontier:
                for neighbour, relation in _neighbours(connection, node, way):
                    here, there = _add(connection, graph, *node), _add(connection, graph, *neighbour)
                    graph.edges[(there, here, relation) if way == "up" else (here, there, relation)] = None
                    if neighbour not in seen:
                        seen.add(neighbour)
                        following.append(neighbour)
            frontier = following
    return graph.to_json()


def _starts(connection: sqlite3.Connection, of: str) -> list[tuple[str, str]]:
    for column in ("path", "url", "sha256"):
        query = f"select id from metasheets where {column} = ? order by id desc limit 1"
        found = connection.execute(query, (of,)).fetchone()
        if found:
            return [("data", _content_key(connection, found[0]))]
    for kind in ("data", "job"):
        try:
            identifier = queries.resolve(connection, kind, of)
        except NotFound:
            continue
        return [(kind, _content_key(connection, identifier) if kind == "data" else identifier)]
    raise NotFound(f"nothing is known of {of!r}", hint="give a path, a url, a checksum, or the id of a job or of data")


def _content_key(connection: sqlite3.Connection, data_id: str) -> str:
    """What identifies the content a metasheet is about: its checksum, else its place, else itself."""
    sha256, url = connection.execute("select sha256, url from metasheets where id = ?", (data_id,)).fetchone()
    return f"sha256:{sha256}" if sha256 else f"url:{url}" if url else f"id:{data_id}"


def _sheets(connection: sqlite3.Connection, key: str, op: Optional[str] = None) -> list[tuple[str, Optional[str], str]]:
    """The metasheets about a content: id, job and op."""
    scheme, _, value = key.partition(":")
    column = {"sha256": "sha256", "url": "url", "id": "id"}[scheme]
    query = f"select id, job_id, op from metasheets where {column} = ?"
    found = connection.execute(query + " order by id", (value,)).fetchall()
    return [row for row in found if op is None or row[2] == op]


def _neighbours(
    connection: sqlite3.Connection, node: tuple[str, str], way: str
) -> Iterator[tuple[tuple[str, str], str]]:
    kind, key = node
    if kind == "data":
        wanted, relation = ("put", "wrote") if way == "up" else ("get", "read")
        for _, job_id, _ in _sheets(connection, key, wanted):
            if job_id:
                yield ("job", job_id), relation
        if way == "down":
            for data_id, _, _ in _sheets(connection, key):
                query = "select job_id from firings where trigger_data = ? and job_id is not null"
                for (job_id,) in connection.execute(query, (data_id,)).fetchall():
                    yield ("job", job_id), "triggered"
        return
    op, relation = ("get", "read") if way == "up" else ("put", "wrote")
    sheets = connection.execute(
        "select id from metasheets where job_id = ? and op = ? order by id", (key, op)
    ).fetchall()
    for (data_id,) in sheets:
        yield ("data", _content_key(connection, data_id)), relation
    yield from _job_neighbours(connection, key, way)


def _job_neighbours(connection: sqlite3.Connection, job_id: str, way: str) -> Iterator[tuple[tuple[str, str], str]]:
    if way == "up":
        found = connection.execute(
            "select parent_id, trigger_job, trigger_data from jobs where id = ?", (job_id,)
        ).fetchone()
        parent, trigger_job, trigger_data = found or (None, None, None)
        if parent:
            yield ("job", parent), "started"
        if trigger_job:
            yield ("job", trigger_job), "triggered"
        if trigger_data and connection.execute("select 1 from metasheets where id = ?", (trigger_data,)).fetchone():
            yield ("data", _content_key(connection, trigger_data)), "triggered"
        return
    for (child,) in connection.execute("select id from jobs where parent_id = ? order by id", (job_id,)).fetchall():
        yield ("job", child), "started"
    query = "select job_id from firings where trigger_job = ? and trigger_data is null and job_id is not null"
    for (child,) in connection.execute(query, (job_id,)).fetchall():
        yield ("job", child), "triggered"


def _add(connection: sqlite3.Connection, graph: Graph, kind: str, key: str) -> str:
    """Describe a node, once; returns its id in the graph."""
    if kind == "job":
        if key not in graph.nodes:
            graph.nodes[key] = _job_node(connection, key)
        return key
    sheets = _sheets(connection, key)
    puts = [sheet for sheet in sheets if sheet[2] == "put"]
    identifier = (puts or sheets)[-1][0]
    if identifier not in graph.nodes:
        sheet = queries.data(connection, identifier)
        label = sheet.get("path") or sheet.get("url") or "event"
        graph.nodes[identifier] = {**sheet, "id": identifier, "kind": "data", "label": label}
    return identifier


def _job_node(connection: sqlite3.Connection, job_id: str) -> dict[str, Any]:
    try:
        found = queries.job(connection, job_id)
    except NotFound:
        return {"id": job_id, "kind": "job", "label": "a job this store does not know", "missing": True}
    commit = connection.execute(
        "select c.git_commit, c.git_dirty from jobs j join contexts c on c.id = j.context_id where j.id = ?", (job_id,)
    ).fetchone()
    node = {**found, "id": job_id, "kind": "job", "label": found["name"]}
    if commit and commit[0]:
        node["git"] = {"commit": commit[0], "dirty": bool(commit[1])}
    return node
