"""What made this, from what; what used it."""

from __future__ import annotations

from typing import Any

import pytest

from lwfm.api.call import Call
from lwfm.data.files import file_url
from lwfm.errors import NotFound
from lwfm.models import JobDefn
from lwfm.store import lineage

from support.threads import Thread, thread

__all__ = ["thread"]


def put(thread: Thread, path: str, op: str = "put", sha256: Any = None, **more: Any) -> str:
    return thread.put(op=op, path=path, url=file_url("h", path), sha256=sha256, size_bytes=5, **more)


def trace(thread: Thread, of: str, direction: str = "both", depth: int = 0) -> dict[str, Any]:
    return lineage.trace(thread.connection, of, direction, depth)


def edges(graph: dict[str, Any]) -> set[tuple[str, str, str]]:
    labels = {node["id"]: node["label"] for node in graph["nodes"]}
    return {(labels[edge["from"]], edge["relation"], labels[edge["to"]]) for edge in graph["edges"]}


def chain(thread: Thread) -> list[str]:
    """make → /a → use → /b, and a handler on /b that starts sum."""
    thread.on_data({"kind": "b"}, defn={"command": "sum"})
    jobs = [thread.submit("make"), thread.submit("use")]
    put(thread, "/a", job_id=jobs[0], sha256="a" * 64)
    put(thread, "/a", "get", job_id=jobs[1], sha256="a" * 64)
    put(thread, "/b", job_id=jobs[1], sha256="b" * 64, properties={"kind": "b"})
    return jobs


def test_up_and_down(thread: Thread) -> None:
    chain(thread)
    up = {("make", "wrote", "/a"), ("/a", "read", "use"), ("use", "wrote", "/b")}
    assert edges(trace(thread, "/b", "up")) == up
    assert edges(trace(thread, "/b", "down")) == {("/b", "triggered", "sum")}
    assert edges(trace(thread, "/a")) == up | {("/b", "triggered", "sum")}
    assert edges(trace(thread, "/a", "down", depth=1)) == {("/a", "read", "use")}
    assert trace(thread, "/a")["truncated"] is False


def test_by_path_url_checksum_and_shortened_id(thread: Thread) -> None:
    jobs = chain(thread)
    found = [trace(thread, of) for of in ("/a", "file://h/a", "a" * 64)]
    assert found[0] == found[1] == found[2]
    assert found[0]["root"] == [node["id"] for node in found[0]["nodes"] if node["label"] == "/a"]
    assert trace(thread, jobs[0][:-2])["root"] == [jobs[0]]
    for nothing in ("/nowhere", "zz", ""):
        with pytest.raises(NotFound):
            trace(thread, nothing)


def test_a_file_whose_name_is_no_unicode(thread: Thread) -> None:
    put(thread, "/\udcff", job_id=thread.submit("make"))
    assert edges(trace(thread, "/\udcff", "up")) == {("make", "wrote", "/\\udcff")}
    asked = Call((), {"of": [b"/\xff"]}, b"").value("of")
    assert asked == "/\\udcff"
    assert edges(trace(thread, asked, "up")) == {("make", "wrote", "/\\udcff")}


def test_a_copy_is_the_same_data(thread: Thread) -> None:
    one, other = thread.submit("one"), thread.submit("other")
    put(thread, "/a", job_id=one, sha256="c" * 64)
    put(thread, "/elsewhere/a", "get", job_id=other, sha256="c" * 64)
    assert edges(trace(thread, "/elsewhere/a", "up")) == {("one", "wrote", "/a")}
    assert edges(trace(thread, "/a", "down")) == {("/a", "read", "other")}


def test_empty_files_have_nothing_to_do_with_each_other(thread: Thread) -> None:
    one, other = thread.submit("one"), thread.submit("other")
    for job, path in ((one, "/done-1"), (other, "/done-2")):
        thread.put(path=path, url=f"file://h{path}", sha256="e" * 64, size_bytes=0, job_id=job)
    assert edges(trace(thread, "/done-1")) == {("one", "wrote", "/done-1")}


def test_an_event_and_the_job_that_told_of_it(thread: Thread) -> None:
    thread.on_data({"kind": "e"}, defn={"command": "react"})
    job = thread.submit("tell")
    event = thread.put(op="event", properties={"kind": "e"}, job_id=job)
    graph = trace(thread, event)
    assert ("event", "triggered", "react") in edges(graph)


def test_jobs_that_started_jobs(thread: Thread) -> None:
    parent = thread.submit("parent")
    body = {"parent": parent, "context": {"git": {"commit": "abc", "dirty": True}}}
    (child,) = thread.unit(thread.service.submit, body, [JobDefn("child")])["jobs"]
    thread.on_jobs([child["job_id"]], "after")
    thread.run(child["job_id"])
    graph = trace(thread, parent, "down")
    assert edges(graph) == {("parent", "started", "child"), ("child", "triggered", "after")}
    (node,) = (node for node in graph["nodes"] if node["label"] == "child")
    assert node["git"] == {"commit": "abc", "dirty": True}


def test_a_job_that_only_another_instance_knows(thread: Thread) -> None:
    put(thread, "/a", job_id="0199f3c2-0000-7000-8000-000000000000")
    (node,) = (node for node in trace(thread, "/a")["nodes"] if node["kind"] == "job")
    assert node["missing"] is True


def test_a_circle_comes_to_an_end(thread: Thread) -> None:
    job = thread.submit("loop")
    put(thread, "/a", job_id=job)
    put(thread, "/a", "get", job_id=job)
    assert edges(trace(thread, "/a")) == {("loop", "wrote", "/a"), ("/a", "read", "loop")}


def test_what_everybody_reads_is_cut_off_and_says_so(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_NODES", 10)
    for _ in range(30):
        put(thread, "/shared", "get", job_id=thread.submit("reader"), sha256="d" * 64)
    statements: list[str] = []
    thread.connection.set_trace_callback(statements.append)
    graph = trace(thread, "/shared")
    thread.connection.set_trace_callback(None)
    assert graph["truncated"] is True
    assert len(graph["nodes"]) == 10
    assert len(graph["edges"]) == 9
    assert len(statements) < 40, "each node is read once, however many edges it has"


def test_the_view_for_people_tells_the_same(thread: Thread) -> None:
    chain(thread)
    rows = thread.connection.execute("select relation, count(*) from lineage_edges group by 1 order by 1").fetchall()
    assert rows == [("read", 1), ("triggered", 1), ("wrote", 2)]
