"""Data and outputs of another instance brought here: real agents on two hosts, as they think, and the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors
from lwfm.store import Store, log, projections
from lwfm.store.connection import connect
from lwfm.sync.contents import Moved
from lwfm.sync.transfer import answer, pull, push
from lwfm.sync.wanted import DataRequest

from support.agents import Agent, environment, new_home
from support.hosts import make_hostname, on_host
from support.sides import ALL, beside

JSON = dict[str, Any]


@pytest.fixture
def hostname(tmp_path: Path) -> Path:
    return make_hostname(tmp_path)


@pytest.fixture
def far(hostname: Path) -> Iterator[Agent]:
    yield from agent_on("far", hostname)


@pytest.fixture
def near(hostname: Path) -> Iterator[Agent]:
    yield from agent_on("near", hostname)


def agent_on(host: str, hostname: Path) -> Iterator[Agent]:
    agent = Agent(new_home(), env=on_host(host, hostname))
    try:
        yield agent.start()
    except BaseException:
        sys.stderr.write(agent.log() + "\n")
        agent.kill_everything()
        raise
    finally:
        agent.close()


def bring_records(source: Agent, target: Agent) -> None:
    """All that an instance has recorded, into the store of another, whose agent is stopped for it."""
    target.stop()
    reader = connect(f"{source.home.database.absolute().as_uri()}?mode=ro", uri=True)
    rows = reader.execute("select * from log order by origin, seq").fetchall()
    reader.close()
    store = Store.open(target.home.database, host="near", user="ada", home=str(target.home.root))
    with store.transaction() as transaction:
        known = set(transaction.execute("select origin, seq from log").fetchall())
        for row in rows:
            if (row[0], row[1]) not in known:
                transaction.execute("insert into log values (?,?,?,?,?,?,?,?,?)", tuple(row))
                record = log.parsed([row[0], row[1], *row[4:9]])
                projections.project(transaction.connection, record)
    store.close()
    target.start()


def put(agent: Agent, path: Path, content: bytes, **properties: Any) -> str:
    path.write_bytes(content)
    sheet = agent.client.post("/v1/data", {"op": "put", "path": str(path), "properties": properties})
    return str(sheet["data_id"])


def bring(far: Agent, near: Agent, request: DataRequest = ALL) -> Moved:
    came, sent = beside(
        lambda line: pull(line, near.client, near.home, request),
        lambda line: answer(line, line.receive("contents"), far.client, far.home),
    )
    assert isinstance(came, Moved), came
    assert sent == came
    return came


def lwfm(agent: Agent, hostname: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment(**{**on_host("near", hostname), "LWFM_HOME": str(agent.home.root)})
    return subprocess.run([sys.executable, "-m", "lwfm", *words], env=env, capture_output=True, text=True, timeout=60)


def test_data_and_outputs_come_and_are_used_like_ones_own(
    far: Agent, near: Agent, hostname: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    large = os.urandom(3_000_000)
    thermo = put(far, there / "thermo.csv", b"T,p\n0.7,1.2\n", kind="thermo", T=0.7)
    dump = put(far, there / "dump.bin", large, kind="dump")
    small_job = far.submit("echo printed at far; echo complaint >&2")
    large_job = far.submit("seq 200000")
    far.wait_all([small_job, large_job])
    printed = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    assert far.output(large_job) == printed
    bring_records(far, near)

    # what is known but not here
    listed = json.loads(lwfm(near, hostname, "data", "missing", "--json").stdout)
    assert [item["data_id"] for item in listed] == [dump, thermo]
    shown = lwfm(near, hostname, "data", "missing", "kind=thermo")
    assert shown.returncode == 0, shown.stderr
    assert "thermo.csv" in shown.stdout
    assert "far" in shown.stdout
    assert "dump.bin" not in shown.stdout
    with pytest.raises(errors.NotFound, match="no copy of this data here") as caught:
        near.client.post("/v1/data/fetch", {"data": thermo, "path": str(tmp_path / "never")})
    assert caught.value.hint == "lwfm sync pull far --data kind=thermo"
    with pytest.raises(errors.NotFound, match="not here") as caught:
        near.output(small_job)
    assert "lwfm sync pull far --outputs" in str(caught.value.hint)

    # brought
    assert bring(far, near, DataRequest.parse(["kind=thermo"])).files == 1
    assert bring(far, near, DataRequest.parse(["all"])).files == 1
    assert bring(far, near).files == 3
    assert bring(far, near).files == 0
    assert json.loads(lwfm(near, hostname, "data", "missing", "--json").stdout) == []
    for data, content in ((thermo, b"T,p\n0.7,1.2\n"), (dump, large)):
        target = tmp_path / f"{data}.back"
        got = near.client.post("/v1/data/fetch", {"data": data, "path": str(target)})
        assert target.read_bytes() == content
        assert got["op"] == "get"
    (into := tmp_path / "into").mkdir()
    near.client.post("/v1/data/fetch", {"data": thermo, "path": str(into)})
    assert [path.name for path in into.iterdir()] == ["thermo.csv"]
    assert near.output(small_job) == b"printed at far\n"
    assert near.output(small_job, "stderr") == b"complaint\n"
    assert near.output(large_job) == printed
    assert near.output(large_job, offset=10, limit=5) == printed[10:15]

    # recorded: each copy once, and searches show no doubles of the originals
    copies = near.client.get("/v1/data", {"op": "get", "limit": 0})["data"]
    kept = [sheet for sheet in copies if sheet["path"].startswith(str(near.home.contents))]
    assert sorted(Path(sheet["path"]).name[65:] for sheet in kept) == ["dump.bin", "thermo.csv"]
    (again := tmp_path / "again").mkdir()
    near.client.post("/v1/data/fetch", {"data": kept[0]["data_id"], "path": str(again)})
    assert [path.name for path in again.iterdir()] == [Path(kept[0]["path"]).name[65:]]
    assert {sheet["host"] for sheet in kept} == {"near"}
    puts = near.client.get("/v1/data", {"match": "kind=dump", "op": "put"})["data"]
    assert [sheet["data_id"] for sheet in puts] == [dump]
    lineage = near.client.get("/v1/lineage", {"of": kept[0]["path"]})
    assert len(lineage["nodes"]) == 1
    near.verify()

    # and the other way
    here = put(near, tmp_path / "here.txt", b"from near", kind="input")
    bring_records(near, far)
    sent, came = beside(
        lambda line: push(line, near.client, ALL),
        lambda line: answer(line, line.receive("contents"), far.client, far.home),
    )
    assert isinstance(sent, Moved), sent
    assert sent == came
    assert sent.files == 1
    target = tmp_path / "at far"
    far.client.post("/v1/data/fetch", {"data": here, "path": str(target)})
    assert target.read_bytes() == b"from near"
    far.verify()


def test_verify_finds_what_has_changed_or_gone(far: Agent, near: Agent, hostname: Path, tmp_path: Path) -> None:
    for name in ("well", "changed", "gone", "shorter"):
        put(far, tmp_path / name, name.encode() * 100, kind=name)
    own = put(near, tmp_path / "own", b"my own")
    bring_records(far, near)
    assert bring(far, near).files == 4
    good = lwfm(near, hostname, "data", "verify")
    assert (good.returncode, good.stdout) == (0, "5 files, 2.2 KiB: all is well\n"), good.stderr
    copies = {path.name.partition("-")[2]: path for path in near.home.contents.glob("*/*")}
    copies["changed"].write_bytes(b"CHANGED" * 100)
    copies["gone"].unlink()
    copies["shorter"].write_bytes(b"")
    (tmp_path / "own").write_bytes(b"MY OWN")
    bad = lwfm(near, hostname, "data", "verify", "--json")
    assert bad.returncode == 1
    told = json.loads(bad.stdout)
    assert {(item["verdict"], Path(item["path"]).name.rpartition("-")[2]) for item in told["problems"]} == {
        ("CHANGED", "changed"),
        ("GONE", "gone"),
        ("CHANGED", "shorter"),
        ("CHANGED", "own"),
    }
    shown = lwfm(near, hostname, "data", "verify")
    assert "CHANGED" in shown.stdout
    assert own in shown.stdout
    # what has gone is missing again, and comes again
    assert {item["path"] for item in near.client.post("/v1/contents/missing", ALL.to_json())["files"]} == {
        str(tmp_path / "gone"),
        str(tmp_path / "shorter"),
    }
    assert bring(far, near).files == 2
    assert {path.name.partition("-")[2] for path in near.home.contents.glob("*/*")} == set(copies)
    # a file recorded anew is judged by its newest record; what was only fetched counts with --all
    put(near, tmp_path / "own", b"MY OWN")
    fetched = tmp_path / "fetched"
    near.client.post("/v1/data/fetch", {"data": str(tmp_path / "own"), "path": str(fetched)})
    fetched.unlink()
    for words, expected in (((), {"changed"}), (("--all",), {"changed", "fetched"}), (("kind=none", "--all"), set())):
        listed = json.loads(lwfm(near, hostname, "data", "verify", "--json", *words).stdout)["problems"]
        assert {Path(item["path"]).name.rpartition("-")[2] for item in listed} == expected


def test_calls_that_make_no_sense(near: Agent, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    for name, body in (
        ("missing", {"match": 7}),
        ("missing", {"match": ["no condition"]}),
        ("missing", {"after": 7}),
        ("missing", {"limit": -1}),
        ("where", {"files": 7}),
        ("where", {"files": [{"sha256": "../..", "size": 1}]}),
        ("where", {"files": [{"sha256": digest}], "request": {}}),
        ("arrived", {"copies": 7}),
        ("arrived", {"copies": [7]}),
        ("arrived", {"copies": [{"path": "relative", "size": 0}]}),
        ("arrived", {"copies": [{"path": str(tmp_path), "size": 0, "sha256": digest, "of": "0199"}]}),
        ("arrived", {"copies": [{"path": "/dev/null", "size": 0, "sha256": digest, "of": 5}]}),
        ("outputs", {"outputs": 7}),
        ("outputs", {"outputs": ["%%"]}),
        ("recorded", {"match": ["a~("]}),
    ):
        with pytest.raises(errors.UsageError):
            near.client.post(f"/v1/contents/{name}", body)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with pytest.raises(errors.InvalidRecord, match="no data"):
        near.client.post(
            "/v1/contents/arrived", {"copies": [{"path": str(empty), "size": 0, "sha256": digest, "of": "0199"}]}
        )


def test_a_path_of_another_instance_is_only_read_where_it_is_such_a_file(
    far: Agent, near: Agent, hostname: Path, tmp_path: Path
) -> None:
    """What others record may say anything of this host."""
    store = Store.open(tmp_path / "hostile.db", host="near", user="eve", home="/")
    with store.transaction() as transaction:
        ids = [
            transaction.append(
                "metasheet",
                {
                    "op": "put",
                    "site": "local",
                    "path": path,
                    "url": f"file://near{path}",
                    "host": "near",
                    "size_bytes": 4096,
                    "sha256": hashlib.sha256(b"").hexdigest(),
                },
            ).uid
            for path in ("/dev/zero", "/etc", str(near.home.database), "/../../etc/passwd", str(tmp_path))
        ]
    store.close()
    hostile = Agent(tmp_path)
    (tmp_path / "hostile.db").rename(hostile.home.database)
    bring_records(hostile, near)
    for data in ids:
        with pytest.raises((errors.NotFound, errors.SiteError)):
            near.client.post("/v1/data/fetch", {"data": data, "path": str(tmp_path / "fetched" / data)})
    assert not (tmp_path / "fetched").exists() or not list((tmp_path / "fetched").iterdir())
