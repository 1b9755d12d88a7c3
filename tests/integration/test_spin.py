"""Allocations that an agent outside of any has asked a real Slurm for: several serve one instance, each ends in its own way."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from lwfm import hostlist
from lwfm.clock import parse_utc

from support import cluster as bed
from support.allocations import Login, a_login, an_allocation
from support.cluster import Cluster
from support.journals import Journal
from support.waiting import wait_until

cluster = bed.cluster


def test_two_allocations_serve_one_instance(cluster: Cluster) -> None:
    """The agent is killed meanwhile; one allocation is given back while jobs run there, the other one is taken away."""
    with a_login(cluster) as login:
        login.run("agent", "start")
        first, second = login.create("nodes=2", "time=10:00"), login.create("time=5:00", "cores=1")
        hosts = login.wait_workers(first, second, count=3)
        assert sorted(hosts) == cluster.hosts[:3]
        (alone,) = login.wait_workers(second, count=1)
        told = login.run("node", "list")
        assert f"Allocation {first} (slurm), 2 nodes, " in told
        status = login.run("agent", "status")
        assert f"of slurm-{second} up: 0/1 cores" in status, status

        listed = login.allocations()
        assert {name: (facts["state"], facts["workers"], facts["nodes"]) for name, facts in listed.items()} == {
            first: ("running", 2, 2),
            second: ("running", 1, 1),
        }
        assert 290 < listed[second]["time_left_s"] <= 300
        shown = login.run("spin", "list")
        assert "partition:test" in shown
        assert f"hosts={alone} " in shown
        no_secrets(login, hosts)

        journal = Journal(login.home / "journal")
        jobs = login.submit(15, journal.command("sleep 1"))
        wait_until(lambda: journal.count("start") >= 5, "jobs on all nodes")
        login.kill(login.hosts[0], "agent serve")
        login.run("agent", "start")
        found = login.wait_states(jobs, "COMPLETE")
        journal.judge(list(found.values()), {job: login.ask("job", "statuses", job) for job in jobs})
        assert Counter(line.job for line in journal.lines() if line.what == "start") == Counter(jobs)
        ran = {(job["allocation"], job["host"]) for job in found.values()}
        assert ran == {(f"slurm-{second if host == alone else first}", host) for host in hosts}

        (wide,) = login.submit(1, 'lwfm log "on $LWFM_NODELIST"', "--nodes", "2", "--cores", "2")
        assert login.wait_states([wide], "COMPLETE", "FAILED")[wide]["state"] == "COMPLETE", login.run(
            "job", "why", wide
        )
        (line,) = [line for line in login.ask("log") if line.get("job_id") == wide]  # told from another node
        nodes = sorted(set(hosts) - {alone})
        assert hostlist.expand(line["message"].split()[1]) in (nodes, nodes[::-1])

        running = login.submit(5, "sleep 60")
        login.wait_states(running, "RUNNING")
        waiting = login.submit(1, "sleep 60", "--retries", "1")
        on = {job: record["allocation"] for job, record in login.jobs().items() if job in running}
        login.run("spin", "destroy", first)
        login.run("spin", "destroy", first)  # once more is harmless
        there = [job for job in running if on[job] == f"slurm-{first}"]
        (kept,) = set(running) - set(there)
        found = login.wait_states(there, "FAILED")
        assert {job["reason"] for job in found.values()} == {
            f"cut off: the allocation {first} of slurm is given back: lwfm spin destroy"
        }
        wait_until(lambda: login.allocations()[first]["state"] == "ended", "the first to end", on_timeout=login.log)
        assert (login.jobs()[kept]["state"], login.jobs()[waiting[0]]["state"]) == ("RUNNING", "PENDING")

        killed = login.directory(second)
        login.kill(alone, "allocation")  # the batch job and its worker: nobody is left to tell anything
        found = login.wait_states([kept], "FAILED")
        assert f"the allocation {second} of slurm has ended: " in found[kept]["reason"]
        assert login.jobs()[waiting[0]]["state"] == "PENDING"
        wait_until(lambda: login.allocations()[second]["state"] == "ended", "the second to end", on_timeout=login.log)
        login.run("agent", "stop", "--kill")
        for host in cluster.hosts:
            end_orphans(cluster, host)  # this bed's Slurm does not end what has left its process group
        login.nothing_is_left(killed)  # the spool of who was killed stays


def no_secrets(login: Login, hosts: list[str]) -> None:
    """The keys are in no command line, environment, script or log."""
    keys = [path.read_bytes().splitlines()[1] for path in login.home.glob("allocations/*/key.pem")]
    assert len(set(keys)) == 2
    for directory in login.home.glob("allocations/*"):
        assert {path.stat().st_mode & 0o777 for path in directory.glob("*.pem")} == {0o600}
        assert directory.stat().st_mode & 0o777 == 0o700
    texts = [path.read_bytes() for path in login.home.glob("allocations/*/job.*")]
    texts += [path.read_bytes() for path in (login.home / "agent.log", *login.cluster.root.glob("state/hash.*/*/*"))]
    for host in hosts:
        for pid in login.cluster.processes(host, daemons=False):
            texts += [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert len(texts) > 8
    assert not any(key in text for key in keys for text in texts)


def end_orphans(cluster: Cluster, host: str) -> None:
    for pid, words in cluster.processes(host, daemons=False).items():
        if "sleep 60" in words:
            cluster.run("kill", "-9", str(pid), check=False)


def test_two_allocations_on_one_host_are_apart(cluster: Cluster) -> None:
    """Neither worker answers for what the other one has, not after a restart of the agent either."""
    with a_login(cluster) as login:
        login.run("agent", "start")
        first, second = (
            login.create("time=10:00", "cores=1", f"option=--nodelist={cluster.hosts[0]}") for _ in range(2)
        )
        assert login.wait_workers(first, second, count=2) == [cluster.hosts[0]] * 2
        jobs = login.submit(2, "sleep 3")
        found = login.wait_states(jobs, "RUNNING")
        assert {job["allocation"] for job in found.values()} == {f"slurm-{first}", f"slurm-{second}"}
        login.kill(login.hosts[0], "agent serve")
        login.run("agent", "start")
        login.wait_workers(first, second, count=2)
        login.wait_states(jobs, "COMPLETE")
        names = {item["resource_id"] for item in login.ask("spin", "list") if item["kind"] == "node"}
        assert names == {f"n1@slurm-{first}", f"n1@slurm-{second}", login.hosts[0]}
        came = [(item["host"], item.get("allocation"), item["state"]) for item in login.ask("node", "history")]
        assert [state for _, allocation, state in came if allocation] == ["up", "up"]
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_at_the_end_of_its_time_what_runs_is_cut_off_and_the_rest_waits_for_the_next(cluster: Cluster) -> None:
    """The end is moved by an administrator; the other allocation goes on."""
    with a_login(cluster, sites="end_notice_s = 2\n") as login:
        login.run("agent", "start")
        short = login.create("time=10:00", "cores=1")
        login.wait_workers(short, count=1)
        (runs,) = login.submit(1, "trap 'exit 0' TERM; sleep 60 & wait")
        login.wait_states([runs], "RUNNING")
        (waits,) = login.submit(1, "true")
        cluster.run("scontrol", "update", f"JobId={short}", "EndTime=now+5")
        assert login.allocations()[short]["time_left_s"] <= 5
        long = login.submit(1, "true", "--time", "1:00:00")
        found = login.wait_states([runs], "FAILED")
        assert f"cut off: the allocation slurm-{short} ends at" in found[runs]["reason"]
        wait_until(lambda: login.allocations()[short]["state"] == "ended", "the end", on_timeout=login.log)
        assert {login.jobs()[job]["state"] for job in (waits, *long)} == {"PENDING"}
        login.create("time=2:00:00", "cores=1")
        login.wait_states([waits, *long], "COMPLETE")
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_what_scancel_ends_is_recorded_as_cut_off_by_the_worker_itself(cluster: Cluster) -> None:
    """SIGTERM comes first; what had not started is as if it had never been there."""
    with a_login(cluster) as login:
        login.run("agent", "start")
        made = login.create("time=10:00", "nodes=2")
        login.wait_workers(made, count=2)
        jobs = login.submit(4, "sleep 60")
        login.wait_states(jobs, "RUNNING")
        again = login.submit(2, "true")
        cluster.run("scancel", made)
        found = login.wait_states(jobs, "FAILED")
        assert {job["reason"] for job in found.values()} == {"cut off: the scheduler has ended the allocation"}
        wait_until(lambda: login.allocations()[made]["native_state"] == "CANCELLED", "the end", on_timeout=login.log)
        assert {login.jobs()[job]["state"] for job in again} == {"PENDING"}
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_an_allocation_with_nothing_to_do_is_given_back(cluster: Cluster) -> None:
    with a_login(cluster) as login:
        login.run("agent", "start")
        idle = login.create("time=10:00", "nodes=2", "idle=3")
        busy = login.create("time=10:00", "idle=0", "cores=1")
        login.wait_workers(idle, busy, count=3)
        (job,) = login.submit(1, "sleep 2", "--cores", "2")
        done = login.wait_states([job], "COMPLETE")[job]
        login.wait_ended(idle)
        assert time.time() - parse_utc(done["ended_at"]) > 2.5
        ended = login.allocations()
        assert (ended[idle]["state"], ended[idle]["reason"]) == ("ended", "given back: nothing to do for 3 s")
        assert ended[busy]["state"] == "running"
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_what_ended_while_no_agent_was_there_is_known_to_the_next(cluster: Cluster) -> None:
    """Its workers leave when they have nothing to do; what they know waits for the agent where it can see it."""
    with a_login(cluster) as login:
        login.run("agent", "start")
        other = login.create("time=10:00", "cores=1")
        made = login.create("time=10:00", "idle=2")
        login.wait_workers(made, other, count=2)
        (job,) = login.submit(1, f"sleep 2; seq 1 100000; echo x > {login.home}/result", "--cores", "2", "--out", "result",
                              "--cwd", str(login.home))  # fmt: skip
        login.wait_states([job], "RUNNING")
        login.kill(login.hosts[0], "agent serve")
        login.wait_ended(made)
        assert login.home.joinpath("result").exists()
        login.run("agent", "start")
        found = login.wait_states([job], "COMPLETE", "FAILED")[job]
        assert (found["state"], found["attempt"], found["allocation"]) == ("COMPLETE", 1, f"slurm-{made}")
        assert login.run("job", "output", job) == "".join(f"{number}\n" for number in range(1, 100001))
        (sheet,) = login.ask("find")
        assert (sheet["path"], sheet["op"], sheet["job_id"]) == (f"{login.home}/result", "put", job)
        wait_until(lambda: made not in login.allocations() or ended_at(login, made), "the news", on_timeout=login.log)
        login.wait_workers(other, count=1)  # that one is still there
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def ended_at(login: Login, allocation: str) -> bool:
    return bool(login.allocations()[allocation]["state"] == "ended")


def test_so_it_is_with_the_allocation_that_an_agent_was_in(cluster: Cluster) -> None:
    """Agent and allocation are gone; the next agent, elsewhere, knows what the worker of the other node knew."""
    with an_allocation(cluster, nodes=2) as inside:
        inside.run("agent", "start")
        inside.wait_nodes()
        jobs = inside.submit(4, "sleep 60")
        there = [job for job, found in inside.wait_states(jobs, "RUNNING").items() if found["host"] == inside.hosts[1]]
        inside.kill(inside.hosts[0], "agent serve")
        cluster.run("scancel", inside.environment["SLURM_JOB_ID"])
        wait_until(lambda: list(inside.home.glob("allocations/*/left-*.json")), "what it leaves", on_timeout=inside.log)
        inside.environment = {name: text for name, text in inside.environment.items() if not name.startswith("SLURM")}
        inside.run("agent", "start")
        found = inside.wait_states(there, "FAILED")
        assert {job["reason"] for job in found.values()} == {"cut off: the scheduler has ended the allocation"}
        assert not list(inside.home.glob("allocations/*/left-*.json"))
        inside.run("agent", "stop", "--kill")


def test_an_agent_that_cannot_be_reached_is_told_of_and_found_when_it_can(cluster: Cluster) -> None:
    with a_login(cluster) as login:
        login.run("agent", "start")
        made = login.create("time=10:00", "cores=1", "option=--hold")
        wait_until(lambda: login.allocations()[made].get("reason") == "JobHeldUser", "it to wait", on_timeout=login.log)
        assert login.allocations()[made]["state"] == "pending"
        login.run("submit", "--cores", "2", "--", "true", code=5)  # never, with one core
        (job,) = login.submit(1, "true")  # for nodes that are still to come
        (file,) = login.home.glob("allocations/*/agent.json")
        (host, port), right = json.loads(file.read_text())["addresses"][0], file.read_text()
        file.write_text(json.dumps({"format": 1, "key": "key.pem", "addresses": [[host, 9]]}))  # where nobody listens
        cluster.run("scontrol", "release", made)
        problem = wait_until(lambda: login.allocations()[made].get("problem"), "the problem", on_timeout=login.log)
        assert "it runs, but no worker has come for" in problem
        assert f"they dial {host}:{port}" in problem
        assert f"cannot reach the agent at {host}:9 (Connection refused)" in problem
        file.write_text(right)
        login.wait_states([job], "COMPLETE")
        assert "problem" not in login.allocations()[made] or "dial" not in login.allocations()[made]["problem"]
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_a_submission_whose_answer_was_lost_is_found_again(cluster: Cluster) -> None:
    """What is refused leaves nothing."""
    with a_login(cluster) as login:
        real = cluster.run("sh", "-c", "command -v sbatch").stdout.strip()
        (login.home / "bin").mkdir()
        wrapper = login.home / "bin" / "sbatch"
        wrapper.write_text(f'#!/bin/sh\n{real} "$@" >/dev/null\n')
        wrapper.chmod(0o755)
        login.environment["PATH"] = f"{login.home}/bin:{cluster.environment['PATH']}"
        login.run("agent", "start")
        login.run("spin", "create", "allocation", "time=10:00", "partition=nowhere", code=6)
        login.run("spin", "create", "allocation", "nodes=2", code=2)
        login.run("spin", "destroy", "4711", code=3)
        assert list((login.home / "allocations").iterdir()) == []
        token = login.create("time=10:00", "nodes=2")
        assert not token.isdigit() or len(token) == 8
        (name,) = wait_until(
            lambda: [name for name in login.allocations() if name != token], "it to be found", on_timeout=login.log
        )
        login.wait_workers(name, count=2)
        assert len(cluster.run("squeue", "-h").stdout.splitlines()) == 1
        login.run("spin", "destroy", token)
        login.run("agent", "stop", "--kill")
        login.nothing_is_left()


def test_an_agent_inside_where_none_runs_outside(cluster: Cluster) -> None:
    """What waited is done on all nodes of the allocation; with an agent outside, the nodes are that one's."""
    with a_login(cluster) as login:
        login.run("agent", "start")
        inside = login.create("time=10:00", "nodes=2", "agent=true", "idle=2", "option=--hold")
        outside = login.create("time=10:00", "cores=1", "agent=true")
        login.wait_workers(outside, count=1)
        (job,) = login.submit(1, "true")
        login.wait_states([job], "COMPLETE")
        login.run("spin", "destroy", outside)
        wait_until(lambda: login.allocations()[outside]["state"] == "ended", "its end", on_timeout=login.log)
        jobs = login.submit(4, "hostname; sleep 1")
        login.run("agent", "stop")
        cluster.run("scontrol", "release", inside)
        login.wait_ended(inside)  # its agent leaves when it had nothing to do for 2 s
        login.run("agent", "start")
        found = login.wait_states(jobs, "COMPLETE")
        assert {job["allocation"] for job in found.values()} == {f"slurm-{inside}"}
        assert len({job["host"] for job in found.values()}) == 2
        wait_until(lambda: not list((login.home / "allocations").iterdir()), "it to be settled", on_timeout=login.log)
        login.run("agent", "stop", "--kill")
        login.nothing_is_left(f"slurm-{inside}")
