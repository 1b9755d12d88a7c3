"""Real agents that sync by the real command, over a real sshd: what comes, what fires, and what a death or a cut leaves behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lwfm.client.calls import path_of

from support.agents import new_home
from support.peers import Network, Place, a_network, kill
from support.ssh_server import sshd_program
from support.waiting import wait_until

JSON = dict[str, Any]
SMALL_BYTES = 1024
"""What a sync that finds nothing new may send in each direction."""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if sshd_program() is None:
        pytest.skip("there is no sshd")
    with a_network(tmp_path) as made:
        yield made


def jobs_known(place: Place) -> set[str]:
    return {job["job_id"] for job in place.client.get("/v1/jobs", {"limit": 0})["jobs"]}


def nothing_new(told: JSON) -> None:
    assert (told["rows_received"], told["rows_sent"]) == (0, 0)
    assert told["bytes_sent"] <= SMALL_BYTES
    assert told["bytes_received"] <= SMALL_BYTES


def test_pull_push_both_and_nothing_new(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    theirs, ours = far.submit("echo there"), near.submit("echo here")
    far.wait(theirs)
    near.wait(ours)
    pulled = network.synced(near, far, "pull")
    assert pulled["rows_received"] == far.count()
    assert pulled["rows_sent"] == 0
    assert (jobs_known(near), jobs_known(far)) == ({ours, theirs}, {theirs})
    assert near.job(theirs)["state"] == "COMPLETE"
    pushed = network.synced(near, far, "push")
    assert (pulled["host"], pushed["rows_received"]) == (far.client.get("/v1/agent")["host"], 0)
    assert jobs_known(far) == {ours, theirs}
    network.equal(near, far)
    for way in ("both", "pull", "push"):
        nothing_new(network.synced(near, far, way))
    nothing_new(network.synced(far, near))
    more = near.submit("true")
    far.wait_all([far.submit("true")])
    near.wait(more)
    told = network.synced(near, far)
    assert told["rows_received"] > 0
    assert told["rows_sent"] > 0
    network.equal(near, far)
    shown = near.lwfm("sync", "both", "far")  # it has been remembered with all it takes to reach it
    assert shown.returncode == 0, shown.stderr
    assert "far: nothing new on either side" in shown.stdout


def test_what_each_lacks_is_shown_and_nothing_is_changed(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    far.write_logs(3)
    before = near.log_of(), far.log_of()
    told = json.loads(near.lwfm("sync", "status", "far", "--json", *network.options(far)).stdout)
    assert list(told["missing_here"].values()) == [far.count()]
    assert list(told["missing_there"].values()) == [near.count()]
    shown = near.lwfm("sync", "status", "far", *network.options(far))
    assert f"{far.count()} records" in shown.stdout, shown.stderr
    assert (near.log_of(), far.log_of()) == before
    assert near.json("peer", "list") == []


def test_agents_that_do_not_run_are_started(network: Network) -> None:
    near, far = network.place("near", started=False), network.place("far")
    job = far.submit("true")
    far.wait(job)
    far.leave()
    told = network.synced(near, far)
    assert told["rows_received"] > 0
    assert len(near.agent_pids()) == len(far.agent_pids()) == 1
    assert jobs_known(near) == {job}
    network.equal(near, far)


def test_a_relay_brings_everything_everywhere(network: Network) -> None:
    cluster, login, desktop = (network.place(name) for name in ("cluster", "login", "desktop"))
    job = cluster.submit("true")
    cluster.wait(job)
    desktop.write_logs(5)
    network.synced(login, cluster)
    network.synced(desktop, login)
    assert jobs_known(desktop) == {job}
    network.synced(login, cluster)
    network.equal(cluster, login, desktop)
    nothing_new(network.synced(desktop, login))
    nothing_new(network.synced(login, cluster))


def test_what_jobs_elsewhere_come_to_fires_here_once(network: Network) -> None:
    """While jobs run on both sides; and who waits here for a job there is told by the sync that brings its end."""
    near, far = network.place("near"), network.place("far")
    gate = far.home.root / "gate"
    os.mkfifo(gate)
    there = far.submit(f"read line < {gate}")
    far.wait_state(there, "RUNNING")
    busy = near.submit("sleep 1000")
    near.wait_state(busy, "RUNNING")
    elsewhere = far.on_job(there, "true")  # theirs: it fires there alone
    far.on_data({"kind": "thermo"}, "true")
    network.synced(near, far)
    assert near.state(there) == "RUNNING"
    handler = near.on_job(there, "echo fired")
    data = near.on_data({"kind": "thermo"}, "true", repeat=True)
    with near.running("job", "wait", there, "--json") as waiting:
        near.put({"kind": "other"})
        gate.write_text("go\n")
        far.wait(there)
        far.put({"kind": "thermo", "T": 1})
        far.wait_all(elsewhere["job_ids"])
        network.synced(near, far)
        assert waiting.wait(30) == 0
    fired = near.wait(handler["job_ids"][0])
    assert fired["state"] == "COMPLETE"
    assert fired["trigger_job"] == there
    wait_until(lambda: near.handler(data["handler_id"])["fired"] == 1, "the data handler to fire", on_timeout=near.log)
    for _ in range(2):
        network.synced(near, far)
    assert near.handler(handler["handler_id"])["fired"] == 1
    assert near.handler(data["handler_id"])["fired"] == 1
    firings = near.query("select handler_id, origin from firings")
    assert sorted(owner for handler_id, owner in firings if handler_id == elsewhere["handler_id"]) == [
        far.client.get("/v1/agent")["origin"]
    ]
    assert far.query("select count(*) from jobs where handler_id = ?", handler["handler_id"]) == [(1,)]
    assert near.state(busy) == "RUNNING"
    near.cancel(busy)
    near.wait(busy)
    network.synced(near, far)
    network.equal(near, far)


def test_syncs_at_once_in_both_directions(network: Network) -> None:
    one, other = places = (network.place("one"), network.place("other"))
    for place in places:
        place.write_logs(1500)
    with ExitStack() as stack:
        running = [
            stack.enter_context(near.running(*network.words(far, way)))
            for near, far in ((one, other), (other, one))
            for way in ("both", "pull")
        ]
        ends = [(process.communicate(timeout=90), process.returncode) for process in running]
    assert [code for _, code in ends] == [0] * 4, ends
    network.synced(one, other)
    network.equal(one, other)
    nothing_new(network.synced(one, other))


# ---------------------------------------------------------------------------------------------- deaths


@pytest.mark.slow
def test_whoever_is_killed_the_next_sync_completes(network: Network) -> None:
    """At any moment of a pull of thousands of records, seeded; the store of either side is sound after each death."""
    draw = random.Random(7)
    near, far = network.place("near"), network.place("far")
    far.write_logs(3000, 3000)
    partly = 0
    for number in range(6):
        far.write_logs(700, 3000)
        missing, begun = far.count() - near.count(), near.count()
        moment = draw.choice([0, 1, draw.randrange(missing), draw.randrange(missing)])
        victims = {2: near.agent_pids(), 3: far.agent_pids()}
        with near.running(*network.words(far, "pull")) as process:
            serving = wait_until(far.serving, "it to begin", on_timeout=far.log)
            near.await_count(begun + moment, process)
            kill({0: [process.pid], 1: serving, **victims}[number % 4])
            partly += begun < near.count() < begun + missing
            _, complaint = process.communicate(timeout=60)
        assert "Traceback" not in complaint, complaint
        wait_until(lambda: not far.serving(), "the far end of it to be gone")
        if number % 4 >= 2 or number > 4:
            for place in (near, far):
                assert place.json("store", "check")["ok"]
            near.client.close()
            far.client.close()
    assert partly, "none was killed on its way"
    network.synced(near, far)
    network.equal(near, far)
    nothing_new(network.synced(near, far))


def test_an_interrupted_sync_leaves_nothing_running(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    far.write_logs(3000, 3000)
    for least in (0, 1, 1, 1, 1):
        begun, all_of_it = near.count(), far.count()
        with near.running(*network.words(far, "pull")) as process:
            wait_until(far.serving, "it to be under way", on_timeout=far.log)
            near.await_count(begun + least, process)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=30)
        wait_until(lambda: not far.serving() and not network.server.sessions(), "the end of the far side")
        if process.returncode == 0:  # it was done before the signal came
            far.write_logs(3000, 3000)
            continue
        assert (process.returncode, complaint.strip()) == (130, "lwfm: interrupted")
        assert near.count() < all_of_it
        if least:
            break
    else:
        raise AssertionError("it was never interrupted on its way")
    network.synced(near, far)
    network.equal(near, far)


# ---------------------------------------------------------------------------------------------- peers


def test_an_unknown_host_is_refused_without_asking(tmp_path: Path) -> None:
    with a_network(tmp_path, known=False) as network:
        near, far = network.place("near"), network.place("far", started=False)
        done = network.sync(near, far)
        assert done.returncode == 9
        assert "lwfm: " in done.stderr
        assert "→" in done.stderr
        assert near.json("peer", "list") == []
        assert far.agent_pids() == []


def test_peers_are_added_shown_and_forgotten(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    assert near.json("peer", "list") == []
    added = near.json("peer", "add", "cluster", "far", "--every", "1h", "--data", "kind=thermo", *network.options(far))
    assert (added["name"], added["address"]["host"], added["every_s"]) == ("cluster", "far", 3600)
    twice = near.lwfm("peer", "add", "cluster", "elsewhere")
    assert twice.returncode == 4
    assert "→ lwfm peer remove cluster" in twice.stderr
    assert near.lwfm("peer", "add", "x y").returncode == 2
    assert near.lwfm("peer", "add", "often", "--every", "1s").returncode == 2
    wait_until(
        lambda: near.json("peer", "list")[0].get("last_success"), "the first sync by itself", on_timeout=near.log
    )
    assert near.lwfm("sync", "both", "cluster", "--once").returncode == 0
    (peer,) = near.json("peer", "list")
    assert "every_s" not in peer
    shown = near.lwfm("peer", "list").stdout
    assert "cluster" in shown
    assert near.lwfm("peer", "remove", "cluster").returncode == 0
    assert near.lwfm("peer", "remove", "cluster").returncode == 3
    assert near.json("peer", "list") == []
    none = near.lwfm("sync", "both")
    assert none.returncode == 3
    assert "→ name a host" in none.stderr
    network.equal(near, far)


def test_of_several_peers_one_that_is_down_does_not_stop_the_others(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    far.write_logs(3)
    for name in ("down", "far", "gone"):
        address = network.address(far, "down" if name != "far" else "far")
        near.client.post("/v1/peers", {"name": name, "address": address})
    done = near.lwfm("sync", "both", "--batch", "--json")
    assert done.returncode == 6, done.stderr
    told = {answer["peer"]: answer for answer in json.loads(done.stdout)}
    assert told["far"]["rows_received"] == far.count() - told["far"]["rows_sent"]
    for name in ("down", "gone"):
        assert told[name]["error"]["transient"] is True
        assert f"lwfm: {name}: " in done.stderr
    peers = {peer["name"]: peer for peer in near.json("peer", "list")}
    assert (peers["down"]["failures"], peers["far"].get("error")) == (1, None)
    assert peers["far"]["last_success"]
    shown = near.lwfm("sync", "both", "--batch")
    assert shown.returncode == 6
    assert "far: nothing new" in shown.stdout
    assert "failed 2 times" in near.lwfm("peer", "list").stdout
    network.equal(near, far)
    far.write_logs(2)
    compared = near.lwfm("sync", "status", "--batch", "--json")
    assert compared.returncode == 6
    told = {answer["peer"]: answer for answer in json.loads(compared.stdout)}
    assert [sum(told["far"][side].values()) for side in ("missing_here", "missing_there")] == [2, 0]
    assert told["down"]["error"]["transient"] is True
    shown = near.lwfm("sync", "status", "--batch")
    assert "2 records" in shown.stdout
    assert "lwfm: gone: " in shown.stderr


@pytest.mark.slow
def test_a_sync_that_repeats(network: Network) -> None:
    """By the agent alone; when the other side is gone it says so and tries less often, and goes on when it is back."""
    near, far = network.place("near"), network.place("far")
    first = far.submit("true")
    far.wait(first)
    body = {"name": "far", "address": network.address(far), "every_s": 5}
    near.client.post("/v1/peers", body)

    def peer() -> JSON:
        (found,) = near.client.get("/v1/peers")["peers"]
        return dict(found)

    wait_until(lambda: peer().get("last_success"), "the first sync", on_timeout=near.log)
    assert jobs_known(near) == {first}
    assert "far every 5.00s" in near.lwfm("agent", "status").stdout
    second = far.submit("true")
    far.wait(second)
    wait_until(lambda: second in jobs_known(near), "the second", on_timeout=near.log)
    near.client.delete(path_of("peers", "far"))
    near.client.post("/v1/peers", {**body, "address": network.address(far, "down")})
    wait_until(lambda: peer().get("error"), "its failure to be noted", on_timeout=near.log)
    assert peer()["failures"] == 1
    status = near.lwfm("agent", "status").stdout
    assert "far every 5.00s, not yet; " in status
    assert peer()["error"] in status
    third = far.submit("true")
    far.wait(third)
    failed_at = time.monotonic()
    near.client.post("/v1/peers", body)
    wait_until(lambda: peer().get("failures") == 0, "it to recover", timeout_s=40, on_timeout=near.log)
    assert time.monotonic() - failed_at > 5, "it was to be tried less often"
    assert third in jobs_known(near)
    assert peer().get("error") is None
    near.client.delete(path_of("peers", "far"))
    wait_until(lambda: not far.serving(), "the last one's end")
    near.verify()


@pytest.mark.parametrize("change", ["address", "another", "removed"])
def test_what_becomes_of_a_peer_while_it_is_synced_with_stays(network: Network, tmp_path: Path, change: str) -> None:
    """The sync that goes on writes back nothing that it has only read."""
    near, far = network.place("near"), network.place("far")
    gate, script = tmp_path / "gate", tmp_path / "far-that-waits"
    os.mkfifo(gate)
    script.write_text(f'#!/bin/sh\n: < {gate}\nexec {network.script} "$@"\n')
    script.chmod(0o755)
    near.client.post("/v1/peers", {"name": "far", "address": {**network.address(far), "remote_path": str(script)}})
    down = {"name": "far", "address": network.address(far, "down")}
    with near.running("sync", "both", "far", "--batch", "--json") as process:
        with gate.open("w"):  # it has come so far
            if change != "address":
                near.client.delete(path_of("peers", "far"))
            if change != "removed":
                near.client.post("/v1/peers", down)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    peers = near.client.get("/v1/peers")["peers"]
    assert [peer["address"] for peer in peers] == ([] if change == "removed" else [down["address"]])
    assert ["last_success" in peer for peer in peers] == {"address": [True], "another": [False], "removed": []}[change]


def test_an_agent_that_is_to_sync_again_does_not_leave(network: Network) -> None:
    near, other, far = network.place("near", started=False), network.place("other", started=False), network.place("far")
    for place in (near, other):
        place.options = ["--idle-exit", "3"]
        place.start()
        place.client.post("/v1/peers", {"name": "far", "address": network.address(far)})
    near.client.post("/v1/peers", {"name": "far", "every_s": 3600})
    for place in (near, other):
        place.client.close()
    wait_until(lambda: not other.alive, "the one to leave that has nothing to do", on_timeout=other.log)
    wait_until(lambda: near.query("select 1 from origins limit 2 offset 1"), "the first sync")
    assert near.alive
    near.client.delete(path_of("peers", "far"))
    near.client.close()
    wait_until(lambda: not near.alive, "the other to leave when it is not to any more", on_timeout=near.log)


def test_an_agent_that_is_stopped_ends_the_sync_it_has_started(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    far.write_logs(3000, 3000)
    near.client.post("/v1/peers", {"name": "far", "address": network.address(far), "every_s": 5})
    wait_until(far.serving, "the sync to begin", on_timeout=near.log)
    near.stop()
    wait_until(lambda: not near.processes() and not far.serving(), "all of it to be gone")
    near.start()
    near.client.delete(path_of("peers", "far"))
    network.synced(near, far)
    network.equal(near, far)


# ---------------------------------------------------------------------------------------------- homes


@pytest.mark.root
def test_a_disk_that_is_full(network: Network, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    root = new_home()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(root)], check=True)
    try:
        near, far = network.place("near", root=root), network.place("far")
        far.write_logs(2000)
        before = near.log_of()
        done = network.sync(near, far, "pull")
        assert done.returncode == 8, done.stderr
        assert "MiB are needed to take over more records" in done.stderr
        assert "→ free some space or quota, then sync again" in done.stderr
        assert near.log_of() == before
        pushed = network.sync(far, near, "push")
        assert pushed.returncode == 8
        assert "the other side: " in pushed.stderr
        assert "→ free some space" in pushed.stderr
        subprocess.run(["mount", "-o", "remount,size=300m", str(root)], check=True)
        network.synced(near, far)
        network.equal(near, far)
        near.leave()
    finally:
        for place in network.places:
            if place.home.root == root:
                place.kill_everything()
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_a_home_that_is_copied_and_both_go_on(network: Network) -> None:
    near = network.place("near")
    before = near.submit("true")
    near.wait(before)
    waiting = near.on_job(near.submit("sleep 1000"), "true")
    near.stop(kill=True)
    near.leave()
    copy = new_home()
    shutil.rmtree(copy)
    shutil.copytree(near.home.root, copy, symlinks=True)
    near.start()
    clone = network.place("clone", root=copy)
    origins = [place.client.get("/v1/agent")["origin"] for place in (near, clone)]
    assert origins[0] != origins[1]
    (notice,) = clone.client.get("/v1/agent")["notices"]
    assert "a copy" in notice
    assert near.client.get("/v1/agent")["notices"] == []
    theirs, ours = clone.submit("true"), near.submit("true")
    clone.wait(theirs)
    near.wait(ours)
    told = network.synced(near, clone)
    assert any("a copy" in sentence for sentence in told["notices"])
    assert {before, theirs, ours} <= jobs_known(near)
    assert jobs_known(near) == jobs_known(clone)
    assert near.job(ours)["state"] == clone.job(ours)["state"] == "COMPLETE"
    assert waiting
    network.equal(near, clone)
    nothing_new(network.synced(clone, near))


def test_an_installation_that_is_lost_comes_back(network: Network) -> None:
    near, far = network.place("near"), network.place("far")
    job = near.submit("true")
    near.wait(job)
    network.synced(near, far)
    before = near.log_of()
    near.leave()
    shutil.rmtree(near.home.root)
    near.home.root.mkdir(mode=0o700)
    near.start()
    assert jobs_known(near) == set()
    network.synced(near, far)
    assert jobs_known(near) == {job}
    assert set(before) <= set(near.log_of())
    assert near.job(job)["elsewhere"]
    network.equal(near, far)
