"""What the local site lists and makes, where there is a batch scheduler. Its commands are made up here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lwfm.errors import NotSupported
from lwfm.sites.base import Resource
from lwfm.sites.local import LocalSpin

NODE = Resource("n1", "node", "up", {"cores": 4, "allocation": "slurm-1"})


class FakeNodes:
    """The agent's nodes, as far as listing goes: a fake."""

    def __init__(self, *nodes: Resource) -> None:
        self.nodes = nodes

    def describe(self) -> Sequence[Resource]:
        return self.nodes


class FakeAllocations:
    """The agent's allocations: a fake that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def list(self, ask: bool) -> Sequence[Resource]:
        self.calls.append(("list", ask))
        return [Resource("1", "allocation", "running")]

    def create(self, spec: Mapping[str, Any]) -> Resource:
        self.calls.append(("create", spec))
        return Resource("2", "allocation", "pending")

    def destroy(self, resource_id: str) -> None:
        self.calls.append(("destroy", resource_id))


def spin(*nodes: Resource, allocations: Any = None) -> LocalSpin:
    fake: Any = FakeNodes(*nodes)
    return LocalSpin(fake, allocations)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the scheduler's commands, the only one on PATH that has any."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(directory: Path, sinfo: str) -> None:
    for name, text in {"sinfo": sinfo, "squeue": "exit 1", "sbatch": "exit 1", "scancel": "exit 1"}.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        os.chmod(directory / name, 0o755)


@pytest.mark.usefixtures("programs")
def test_without_a_scheduler_there_are_the_nodes() -> None:
    assert list(spin(NODE).list()) == [NODE]


def test_with_one_there_are_its_partitions_and_nodes(programs: Path) -> None:
    lines = "case \"$*\" in *-N*) echo 'p*|n1|idle|4|0/4/0/4|1000|(null)|none';; *) echo 'p*|up|1:00:00';; esac"
    write(programs, lines)
    allocations = FakeAllocations()
    found = {resource.resource_id: resource for resource in spin(NODE, allocations=allocations).list()}
    assert list(found) == ["n1", "1", "partition:p", "batch-node:n1"]
    assert found["partition:p"].facts == {
        "name": "p", "native_state": "up", "default": True, "time_limit_s": 3600.0, "nodes": 1, "nodes_free": 1, "cores": 4,
        "cores_free": 4, "node_cores": 4, "node_memory_bytes": 1000 * 2**20, "node_gpus": 0,
    }  # fmt: skip
    assert (found["batch-node:n1"].state, found["batch-node:n1"].facts["partitions"]) == ("free", ("p",))
    assert allocations.calls == [("list", True)]


def test_one_that_does_not_answer_is_told_of_and_the_rest_is_listed(programs: Path) -> None:
    write(programs, "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    allocations = FakeAllocations()
    node, allocation, scheduler = spin(NODE, allocations=allocations).list()
    assert (node, allocation.resource_id) == (NODE, "1")
    assert (scheduler.resource_id, scheduler.kind, scheduler.state) == ("slurm", "scheduler", "unknown")
    assert "Unable to contact slurm controller" in scheduler.facts["reason"]
    assert allocations.calls == [("list", False)]  # not asked again what does not answer


@pytest.mark.usefixtures("programs")
def test_a_host_with_workers_of_several_allocations_is_listed_for_each() -> None:
    nodes = [
        NODE,
        Resource("n1", "node", "up", {"allocation": "slurm-2"}),
        Resource("n1", "node", "up"),
        Resource("n2", "node", "up"),
    ]
    assert [resource.resource_id for resource in spin(*nodes).list()] == ["n1@slurm-1", "n1@slurm-2", "n1@here", "n2"]


def test_allocations_are_what_it_makes() -> None:
    allocations = FakeAllocations()
    site = spin(allocations=allocations)
    assert site.create("allocation", {"nodes": 2}).resource_id == "2"
    site.destroy("2")
    assert allocations.calls == [("create", {"nodes": 2}), ("destroy", "2")]
    with pytest.raises(NotSupported, match="cannot create 'disk'"):
        site.create("disk", {})
    with pytest.raises(NotSupported):
        spin().create("allocation", {})
    with pytest.raises(NotSupported):
        spin().destroy("2")
