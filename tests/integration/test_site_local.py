"""The local site through the agent: data put and fetched, recorded with what they are; the site's checks and resources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwfm import errors
from lwfm.client.calls import path_of

from support.agents import Agent, running_agent

JSON = dict[str, Any]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent('[local]\ndriver = "local"\n[again]\ndriver = "local"\n') as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(100_000))
    return path


def put(agent: Agent, path: Path, **keys: Any) -> JSON:
    answer: JSON = agent.client.post("/v1/data", {"op": "put", "path": str(path), "properties": {"k": "v"}, **keys})
    return answer


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_put_without_a_place_records_the_file_where_it_is(agent: Agent, file: Path) -> None:
    for keys in ({}, {"notate": True}):
        sheet = put(agent, file, **keys)
        assert (sheet["path"], sheet["sha256"], sheet["size_bytes"]) == (str(file), digest(file), 100_000)
        assert sheet["url"].startswith("file://")
        assert agent.client.get(path_of("data", sheet["data_id"])) == sheet


def test_put_to_the_repository_and_fetch(agent: Agent, file: Path, tmp_path: Path) -> None:
    sheet = put(agent, file, site_path="kept/here.bin")
    kept = agent.home.repository / "kept" / "here.bin"
    assert sheet["path"] == str(kept)
    assert digest(kept) == digest(file)
    assert sheet["source_url"].endswith(str(file))
    for number, name in enumerate((sheet["data_id"], sheet["url"], sheet["path"], sheet["data_id"][:35])):
        target = tmp_path / f"back{number}"
        got = agent.client.post("/v1/data/fetch", {"data": name, "path": str(target)})
        assert (got["op"], got["path"], got["sha256"]) == ("get", str(target), digest(file))
        assert got["source_url"] == sheet["url"]
        assert digest(target) == digest(file)
    into = tmp_path / "directory"
    into.mkdir()
    agent.client.post("/v1/data/fetch", {"data": sheet["data_id"], "path": str(into)})
    assert digest(into / "here.bin") == digest(file)


def test_fetching_what_has_changed_or_gone(agent: Agent, file: Path, tmp_path: Path) -> None:
    sheet = put(agent, file, site_path="changing.bin")
    (agent.home.repository / "changing.bin").write_text("something else")
    with pytest.raises(errors.SiteError, match="changed"):
        agent.client.post("/v1/data/fetch", {"data": sheet["data_id"], "path": str(tmp_path / "never")})
    (agent.home.repository / "changing.bin").unlink()
    with pytest.raises(errors.NotFound, match="gone"):
        agent.client.post("/v1/data/fetch", {"data": sheet["data_id"], "path": str(tmp_path / "never")})
    assert not (tmp_path / "never").exists()


def test_what_cannot_be_put(agent: Agent, file: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    for path, keys, error in (
        (tmp_path / "absent", {}, errors.NotFound),
        (tmp_path / "absent", {"notate": True}, errors.NotFound),
        (file, {"site_path": "../outside"}, errors.InvalidRecord),
        (file, {"site_path": str(file / "below-a-file")}, errors.SiteError),
        (file, {"site": "nowhere", "site_path": "x"}, errors.UnknownSite),
        (Path("relative"), {}, errors.InvalidRecord),
    ):
        with pytest.raises(error):
            put(agent, path, **keys)


def test_values_that_are_no_json(agent: Agent, file: Path) -> None:
    for body in (b'{"path": "%s", "properties": {"x": NaN}}', b'{"path": "%s", "properties": {"x": 1e999}}'):
        status, answer = agent.raw("POST", "/v1/data", body % os.fsencode(file))
        assert status == 400
        assert b"JSON" in answer


def test_data_of_another_site(agent: Agent, file: Path, tmp_path: Path) -> None:
    sheet = put(agent, file, site="again", site_path="elsewhere.bin")
    assert sheet["site"] == "again"
    listed = agent.client.get("/v1/data", {"site": "again"})["data"]
    assert [item["data_id"] for item in listed] == [sheet["data_id"]]
    job = agent.submit("true", site="again")
    assert agent.wait(job)["site"] == "again"


def test_found_by_what_was_said_of_it(agent: Agent, file: Path) -> None:
    one = put(agent, file, properties={"T": 0.7, "kind": "thermo"})["data_id"]
    other = put(agent, file, properties={"T": 1.1, "kind": "thermal", "box": {"n": [1, 2]}})["data_id"]

    def find(*terms: str) -> list[str]:
        return sorted(sheet["data_id"] for sheet in agent.client.get("/v1/data", {"match": list(terms)})["data"])

    assert find("kind=therm*") == sorted([one, other])
    assert find("kind=therm*", "T<1") == [one]
    assert find("T=0.70") == [one]
    assert find("box.n=2") == [other]
    assert find("kind~mal$") == [other]
    assert find("kind=nothing") == []


def test_what_the_site_says_of_itself(agent: Agent) -> None:
    described = agent.client.get("/v1/sites/local")
    assert described["pillars"] == ["auth", "run", "repo", "spin"]
    checks = agent.client.post("/v1/sites/local/check", {})["checks"]
    assert [check["ok"] for check in checks] == [True] * 4
    assert agent.client.post("/v1/sites/local/login", {}) == {"name": "local", "current": True, "questions": []}
    worker = agent.worker()
    found = agent.client.get("/v1/sites/local/resources")["resources"]
    (resource,) = [resource for resource in found if resource["kind"] == "node"]
    # Slurm's programs may be here without a Slurm.
    assert {resource["kind"] for resource in found} <= {"node", "scheduler"}
    assert (resource["kind"], resource["state"], resource["facts"]["cores"]) == ("node", "up", worker["cores"])
    with pytest.raises(errors.NotSupported):
        agent.client.post("/v1/sites/local/resources", {"kind": "node", "spec": {}})
    with pytest.raises(errors.NotFound):
        agent.client.delete("/v1/sites/local/resources/here")
    for path in ("/v1/sites/nowhere", "/v1/sites/nowhere/resources"):
        with pytest.raises(errors.UnknownSite):
            agent.client.get(path)


def test_lineage_from_file_to_file(agent: Agent, file: Path, tmp_path: Path) -> None:
    result = tmp_path / "result"
    job = agent.submit(f"cp {file} {result}", inputs=[str(file)], outputs=[str(result)])
    agent.wait(job)
    user = agent.submit(f"cat {result}", inputs=[str(result)])
    agent.wait(user)
    up = agent.client.get("/v1/lineage", {"of": str(result), "direction": "up"})
    down = agent.client.get("/v1/lineage", {"of": str(result), "direction": "down"})
    assert job in {node["id"] for node in up["nodes"]}
    assert user in {node["id"] for node in down["nodes"]}
    with pytest.raises(errors.NotFound):
        agent.client.get("/v1/lineage", {"of": "/no/such/file"})


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b", "sur\ud800rogate"])
def test_what_cannot_be_a_path_is_refused(agent: Agent, file: Path, name: str) -> None:
    for place in (name, f"/tmp/{name}"):
        with pytest.raises(errors.InvalidRecord, match="cannot be the path of a file"):
            put(agent, file, site_path=place)
