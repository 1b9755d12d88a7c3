"""The worker against a small agent: what the protocol promises, with real processes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.fake_agent import FakeAgent, alive, printed, run_message
from support.waiting import wait_until
from support.worker_fixtures import StartWorker, agent, place, start_worker

__all__ = ["agent", "place", "start_worker"]


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def read_pid(path: Path) -> int:
    return int(wait_until(lambda: path.read_text().strip() if path.exists() else None, f"a pid in {path}"))


# ------------------------------------------------------------------------------------------------- greeting


def test_greets_with_what_the_node_has(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker("--cores", "1", "--gpus", "2", "--memory", "1000000000")
    agent.wait_connected()
    hello = agent.hellos[0]
    assert hello["protocols"] == [1]
    assert hello["jobs"] == []
    assert hello["first_unacked"] == 1
    assert hello["node"] == {
        "cores": [min(os.sched_getaffinity(0))],
        "memory_bytes": 1_000_000_000,
        "gpus": [0, 1],
    }
    assert hello["pid"] != worker.keeper
    agent.send({"t": "ping"}, {"t": "of another release", "key": 1})
    agent.wait(lambda: agent.pongs == 1, "a pong")


def test_an_agent_that_refuses_it_is_not_asked_again_at_once(agent: FakeAgent, start_worker: StartWorker) -> None:
    agent.refuses = "the other side speaks protocol [7], this side [9]"
    worker = start_worker()
    wait_until(
        lambda: "speaks protocol [7]" in worker.log() if agent.hellos else None, "the reason in the worker's log"
    )
    time.sleep(0.5)  # else it dials again after 0.05 s
    assert len(agent.hellos) == 1


def test_only_one_worker_has_a_spool(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    second = start_worker()
    assert second.wait() == 0
    assert "another worker has this spool" in second.log()
    assert len(agent.hellos) == 1


def test_spool_of_somebody_else_is_refused(place: Path, start_worker: StartWorker) -> None:
    (place / "spool").write_text("in the way")
    worker = start_worker()
    assert worker.wait() == 2


def test_spool_is_private(place: Path, agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_ended(agent_job(agent, "j"))
    assert (place / "spool").stat().st_mode & 0o777 == 0o700
    for path in (place / "spool").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def agent_job(agent: FakeAgent, name: str) -> tuple[str, int]:
    agent.wait_connected()
    return agent.run(name, "/bin/true")


# ------------------------------------------------------------------------------------------------- running


def test_a_job_runs_and_is_accounted(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    key = agent.run("j", "sh", "-c", "echo out; echo err >&2; exit 3")
    ended = agent.wait_ended(key)
    started = agent.started[key]
    assert started["n"] < ended["n"]
    assert started["cores"] == []
    assert (ended["cause"], ended["exit_code"], ended["signal"]) == ("exit", 3, None)
    assert printed(ended) == b"out\n"
    assert printed(ended, "stderr") == b"err\n"
    assert ended["cpu_seconds"] >= 0
    assert ended["started"] == started["time"] <= ended["time"]
    assert ended["missing_outputs"] == []


def test_what_a_job_finds(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker(
        "--gpus",
        "2",
        env={
            "SLURM_PROCID": "7",
            "SLURM_STEP_ID": "1",
            "PMI_RANK": "0",
            "LWFM_JOB_ID": "outer",
            "NODE": "n1",
            "PATH": "/bin",
        },
    )
    agent.wait_connected()
    agent.send({"t": "context", "id": "c", "env": {"FROM": "context", "BOTH": "context", "GOES": "1"}})
    script = """
import json, os
print(json.dumps({
    "env": dict(os.environ), "cwd": os.getcwd(), "sid": os.getsid(0) == os.getpid() == os.getpgid(0),
    "stdin": os.readlink("/proc/self/fd/0"), "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
}))
"""
    keys = {"context": "c", "env": {"BOTH": "job", "OWN": "ü"}, "unset": ["GOES"], "cwd": str(place), "gpus": 1}
    ended = agent.wait_ended(agent.run("j", sys.executable, "-c", script, attempt=2, **keys))
    found = json.loads(printed(ended))
    env = found["env"]
    assert env["FROM"] == "context"
    assert env["BOTH"] == "job"
    assert env["OWN"] == "ü"
    assert env["NODE"] == "n1"
    assert "GOES" not in env
    assert env["LWFM_JOB_ID"] == "j"
    assert env["LWFM_ATTEMPT"] == "2"
    assert not {"SLURM_PROCID", "SLURM_STEP_ID", "PMI_RANK"} & set(env)
    assert env["PWD"] == found["cwd"] == str(place)
    assert env["CUDA_VISIBLE_DEVICES"] == env["ROCR_VISIBLE_DEVICES"] == env["ZE_AFFINITY_MASK"] == "0"
    assert found["sid"]
    assert found["stdin"] == "/dev/null"
    assert found["fds"][:3] == [0, 1, 2]
    assert len(found["fds"]) <= 4  # the fourth is the directory being listed
    # Python ignores SIGPIPE and SIGXFSZ itself, so another program looks. 32 and 33 belong to the C library.
    signals = agent.wait_ended(agent.run("s", "grep", "-E", "SigIgn|SigBlk", "/proc/self/status"))
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in printed(signals).splitlines()] == [0, 0]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            {"argv": ["nonesuch"], "env": {"PATH": "/bin:/usr/bin"}},
            "no such program: nonesuch (searched in PATH /bin:/usr/bin)",
        ),
        ({"argv": ["/nowhere/program"]}, "no such program: /nowhere/program"),
        ({"argv": ["/etc/passwd"]}, "not executable: /etc/passwd"),
        ({"argv": ["/etc"]}, "/etc is a directory"),
        ({"argv": ["/bin/true"], "cwd": "/nowhere"}, "no such directory: /nowhere"),
        ({"argv": ["/bin/true"], "cwd": "/etc/passwd"}, "not a directory: /etc/passwd"),
        (
            {"argv": ["{place}/script"]},
            "{place}/script cannot run: its interpreter /no/such/interpreter does not exist",
        ),
        ({"argv": ["/bin/true"], "cores": 999}, "it needs 999 cores, the node has 2 for jobs"),
        ({"argv": ["/bin/true"], "gpus": 3}, "it needs 3 GPUs, the node has 0"),
        ({"argv": ["/bin/true"], "memory_bytes": 1 << 60}, "bytes of memory, the node has"),
        ({"argv": [1, 2]}, "run: argv must be a list of words"),
        ({"argv": ["/bin/true"], "context": "unknown"}, "run: no context 'unknown'"),
        ({"argv": ["/bin/true", "x" * 200_000]}, "its arguments and environment are longer than the system takes"),
        ({"argv": ["/bin/true", "a\0b"]}, "embedded null"),
    ],
)
def test_a_job_that_cannot_start_says_why(
    message: dict[str, object], reason: str, agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    script = place / "script"
    script.write_text("#!/no/such/interpreter -x\n")
    script.chmod(0o755)
    start_worker("--cores", "2", "--gpus", "0")
    agent.wait_connected()
    if isinstance(message["argv"], list):
        message = {**message, "argv": [w.format(place=place) if isinstance(w, str) else w for w in message["argv"]]}
    agent.send({**run_message("j"), **message})
    ended = agent.wait_ended(("j", 1))
    assert ended["cause"] == "not_started"
    assert reason.format(place=place) in ended["reason"]
    assert ended["started"] is None
    assert ended["exit_code"] is None
    assert ("j", 1) not in agent.started


def test_a_script_without_an_interpreter_is_run_by_the_shell(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    script = place / "script"
    script.write_text("echo $1 $#\n")
    script.chmod(0o755)
    start_worker()
    agent.wait_connected()
    assert printed(agent.wait_ended(agent.run("j", str(script), "a b", "c"))) == b"a b 2\n"


def test_the_program_is_looked_up_in_the_jobs_own_path(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
        tool = place / name / "tool"
        tool.write_text(f"#!/bin/sh\necho {name}\n")
        tool.chmod(0o755)
    start_worker()
    agent.wait_connected()
    both = f"{place}/one:{place}/two:/bin"
    assert printed(agent.wait_ended(agent.run("a", "tool", env={"PATH": both}))) == b"one\n"
    (place / "one" / "tool").unlink()
    assert printed(agent.wait_ended(agent.run("b", "tool", env={"PATH": both}))) == b"two\n"
    assert agent.wait_ended(agent.run("c", "tool", env={"PATH": "/bin"}))["cause"] == "not_started"
    assert printed(agent.wait_ended(agent.run("d", "./tool", cwd=str(place / "two")))) == b"two\n"


def test_a_repeated_run_starts_nothing(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker()
    agent.wait_connected()
    agent.acknowledges = False
    line = f"echo x >> {place}/journal; sleep 0.2"
    for _ in range(3):
        agent.send(run_message("j", shell=line), run_message("j", shell=line))
    agent.wait_ended(("j", 1))
    agent.send(run_message("j", shell=line))
    agent.wait_ended(agent.run("after", "/bin/true"))
    assert (place / "journal").read_text() == "x\n"
    agent.wait_ended(agent.run("j", "/bin/true", attempt=2))
    assert not agent.duplicates


def test_outputs_that_are_missing_are_told(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker()
    agent.wait_connected()
    outputs = ["there", "sub/missing", "/nowhere/at/all"]
    (place / "there").touch()
    good = agent.run("good", "/bin/true", cwd=str(place), outputs=outputs)
    bad = agent.run("bad", "/bin/false", cwd=str(place), outputs=outputs)
    assert agent.wait_ended(good)["missing_outputs"] == ["sub/missing", "/nowhere/at/all"]
    assert agent.wait_ended(bad)["missing_outputs"] == []


def test_signals_are_told_by_name(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    for word, name in (("KILL", "SIGKILL"), ("SEGV", "SIGSEGV"), ("40", "SIGRTMIN+6")):
        ended = agent.wait_ended(agent.run(word, "sh", "-c", f"kill -{word} $$"))
        assert (ended["cause"], ended["exit_code"], ended["signal"]) == ("exit", None, name)


# ------------------------------------------------------------------------------------------------- resources


def test_cores_are_handed_out_first_come_first_served(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "2")
    agent.wait_connected()
    hold = place / "hold"
    os.mkfifo(hold)
    first = agent.run("first", shell=f"read x < {hold}", cores=2)
    agent.wait_started(first)
    assert agent.started[first]["cores"] == agent.hellos[0]["node"]["cores"]
    second = agent.run(
        "second", "sh", "-c", "taskset -p $$ 2>/dev/null || grep Cpus_allowed_list /proc/self/status", cores=1
    )
    script = agent.run("script", "/bin/true", cores=0)
    agent.wait_ended(script)  # needs nothing, so it does not wait
    assert second not in agent.started
    hold.write_text("\n")
    agent.wait_ended(first)
    agent.wait_ended(second)
    assert agent.started[second]["cores"] == agent.hellos[0]["node"]["cores"][:1]


def test_a_pinned_job_is_pinned_from_its_first_instruction(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    core = agent.hellos[0]["node"]["cores"][0]
    pinned = agent.wait_ended(agent.run("p", "grep", "Cpus_allowed_list", "/proc/self/status", cores=1))
    roaming = agent.wait_ended(agent.run("r", "grep", "Cpus_allowed_list", "/proc/self/status"))
    assert printed(pinned).split()[1] == str(core).encode()
    assert roaming["stdout"] != pinned["stdout"] or len(os.sched_getaffinity(0)) == 1


def test_memory_and_gpus_are_handed_out(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "8", "--gpus", "2", "--memory", "1000000000", env={"LWFM_GPUS": "4,6"})
    agent.wait_connected()
    hold = place / "hold"
    os.mkfifo(hold)
    show = "echo $CUDA_VISIBLE_DEVICES"
    one = agent.run("one", shell=f"{show}; read x < {hold}", gpus=2, memory_bytes=600_000_000)
    agent.wait_started(one)
    assert agent.started[one]["gpus"] == [0, 1]
    two = agent.run("two", shell=show, gpus=1)
    agent.wait_ended(agent.run("none", shell=show, cores=0))
    assert two not in agent.started
    hold.write_text("\n")
    assert printed(agent.wait_ended(one)) == b"4,6\n"
    assert printed(agent.wait_ended(two)) == b"4\n"
    assert printed(agent.ended["none", 1]) == b"\n"


# ------------------------------------------------------------------------------------------------- stopping


def test_cancel_stops_the_whole_tree(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker()
    agent.wait_connected()
    # A child, a child in its own session, a daemon of two forks without a parent, and one that does not obey TERM.
    script = f"""
        sleep 1000 & echo $! > {place}/child
        setsid sleep 1000 & echo $! > {place}/session
        (setsid sh -c 'echo $$ > {place}/daemon; exec sleep 1000' >/dev/null 2>&1 &)
        sh -c 'trap "" TERM; echo $$ > {place}/stubborn; while :; do sleep 1; done' &
        wait
    """
    key = agent.run("j", shell=script)
    pids = [read_pid(place / name) for name in ("child", "session", "daemon", "stubborn")]
    assert all(alive(pid) for pid in pids)
    for _ in range(3):  # as often as wanted
        agent.send({"t": "cancel", "job": "j", "attempt": 1, "reason": "no longer wanted", "grace_s": 0.3})
    ended = agent.wait_ended(key)
    assert (ended["cause"], ended["reason"], ended["signal"]) == ("cancel", "no longer wanted", "SIGTERM")
    assert not [pid for pid in [*pids, agent.started[key]["pid"]] if alive(pid)]


def test_cancel_of_what_has_not_started_drops_it(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "1")
    agent.wait_connected()
    first = agent.run("first", "sleep", "1000")
    agent.wait_started(first)
    second = agent.run("second", "touch", f"{place}/ran")
    agent.send({"t": "cancel", "job": "second", "attempt": 1, "reason": "r"}, {"t": "cancel", "job": "x", "attempt": 1})
    ended = agent.wait_ended(second)
    assert (ended["cause"], ended["started"], ended["exit_code"]) == ("cancel", None, None)
    agent.send({"t": "cancel", "job": "first", "attempt": 1})
    agent.wait_ended(first)
    agent.wait_ended(agent.run("third", "/bin/true"))
    assert not (place / "ran").exists()


def test_cancel_at_the_moment_of_the_end(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker("--cores", "2")
    agent.wait_connected()
    names = [f"j{n}" for n in range(200)]
    agent.send(*[run_message(name, "/bin/true") for name in names])
    while len(agent.ended) < 200:
        agent.send(*[{"t": "cancel", "job": name, "attempt": 1} for name in names if (name, 1) in agent.started])
        count = min(len(agent.ended), 199)
        agent.wait(lambda c=count: len(agent.ended) > c, "more ends")  # type: ignore[misc]
    assert not agent.duplicates
    assert {event["cause"] for event in agent.ended.values()} <= {"exit", "cancel"}


def test_many_jobs_are_cancelled_together(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker()
    agent.wait_connected()
    agent.send(*[run_message(f"j{n}", "sleep", "1000", cores=0) for n in range(200)])
    agent.wait(lambda: len(agent.started) == 200, "200 jobs to run")
    ticks = cpu_ticks(worker.loop_pid(agent))
    agent.send(*[{"t": "cancel", "job": f"j{n}", "attempt": 1} for n in range(200)])
    agent.wait(lambda: len(agent.ended) == 200, "200 ends")
    assert {event["signal"] for event in agent.ended.values()} == {"SIGTERM"}
    assert cpu_ticks(worker.loop_pid(agent)) - ticks < 300  # of 10 ms; looking at the node once for each would be more


def test_a_stopped_job_can_be_cancelled(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    key = agent.run("j", shell="kill -STOP $$; exit 7")
    pid = agent.wait_started(key)["pid"]
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the stop")
    agent.send({"t": "cancel", "job": "j", "attempt": 1, "grace_s": 20})
    assert agent.wait_ended(key, 10)["signal"] == "SIGTERM"


def test_what_a_job_leaves_behind_is_stopped(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker()
    agent.wait_connected()
    script = f"""
        sleep 1000 & echo $! > {place}/child
        (setsid sh -c 'echo $$ > {place}/daemon; exec sleep 1000' >/dev/null 2>&1 &)
        while ! [ -s {place}/daemon ]; do sleep 0.01; done
        exit 5
    """
    key = agent.run("j", shell=script)
    ended = agent.wait_ended(key)
    assert (ended["cause"], ended["exit_code"]) == ("exit", 5)
    for name in ("child", "daemon"):
        pid = read_pid(place / name)
        wait_until(lambda pid=pid: not alive(pid), f"the end of the {name}")  # type: ignore[misc]


def test_a_daemon_that_cleaned_its_environment_is_known_by_its_output(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    start_worker()
    agent.wait_connected()
    script = f"""
        (setsid env -i /bin/sh -c 'echo $$ > {place}/daemon; exec sleep 1000' &)
        while ! [ -s {place}/daemon ]; do sleep 0.01; done
    """
    agent.wait_ended(agent.run("j", shell=script))
    pid = read_pid(place / "daemon")
    wait_until(lambda: not alive(pid), "the end of the daemon")


def test_a_process_that_gives_up_the_mark_outlives_its_job(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    worker = start_worker()
    agent.wait_connected()
    script = f"""
        (setsid env -u LWFM_JOB_ID /bin/sh -c 'echo $$ > {place}/daemon; exec sleep 1000' >/dev/null 2>&1 &)
        while ! [ -s {place}/daemon ]; do sleep 0.01; done
    """
    agent.wait_ended(agent.run("j", shell=script))
    pid = read_pid(place / "daemon")
    wait_until(
        lambda: f"process {pid} was left by a job" in worker.log(), "the worker to notice", on_timeout=worker.log
    )
    agent.wait_ended(agent.run("k", "/bin/true"))
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to wait for it")


def test_time_limit(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    ended = agent.wait_ended(agent.run("j", "sleep", "1000", time_limit_s=0.2))
    assert (ended["cause"], ended["signal"]) == ("time_limit", "SIGTERM")
    assert "0.2 s" in ended["reason"]


def test_memory_limit_counts_the_whole_tree(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    eat = "import time; x = bytearray(60_000_000); time.sleep(1000)"
    script = f"{sys.executable} -c '{eat}' & {sys.executable} -c '{eat}' & wait"
    ended = agent.wait_ended(agent.run("j", shell=script, memory_bytes=100_000_000))
    assert ended["cause"] == "memory_limit"
    assert "100000000" in ended["reason"]
    assert ended["peak_rss_bytes"] > 100_000_000


def test_peak_memory_of_a_job_without_limits(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    big = agent.run("big", sys.executable, "-c", "x = bytearray(120_000_000)")
    small = agent.run("small", "/bin/true")
    assert 120_000_000 < agent.wait_ended(big)["peak_rss_bytes"] < 200_000_000
    assert agent.wait_ended(small)["peak_rss_bytes"] is None


# ------------------------------------------------------------------------------------------------- output


def test_much_output_stays_in_a_file_until_it_is_forgotten(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    start_worker()
    agent.wait_connected()
    key = agent.run("j", shell="printf begin; head -c 70000 /dev/zero; printf end; echo small >&2")
    ended = agent.wait_ended(key)
    out = ended["stdout"]
    assert out["size"] == 70008
    path = Path(out["path"])
    assert path.parent == place / "spool" / "out"
    assert path.stat().st_size == 70008
    assert base64.b64decode(out["head"])[:5] == b"begin"
    assert base64.b64decode(out["tail"])[-3:] == b"end"
    assert len(base64.b64decode(out["tail"])) == 4096
    assert printed(ended, "stderr") == b"small\n"
    assert agent.read(key, offset=70005)["data"] == b"end"
    agent.wait_ended(agent.run("other", "echo", "x"))
    agent.send({"t": "forget", "job": "j", "attempt": 1})
    wait_until(lambda: not path.exists(), "the file to go")
    assert agent.read(key)["ended"]


def test_output_can_be_followed(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "1")
    agent.wait_connected()
    until = "until [ -e {0} ]; do sleep 0.01; done"
    go = [place / "go1", place / "go2"]
    key = agent.run("j", shell=f"echo one; {until.format(go[0])}; echo two; {until.format(go[1])}; echo three")
    waiting = agent.run("waiting", "echo", "x")
    first = agent.read(key, wait_s=20)
    assert (first["data"], first["ended"]) == (b"one\n", False)
    assert agent.read(key, offset=4)["data"] == b""
    assert agent.read(waiting)["size"] == 0
    go[0].touch()
    second = agent.read(key, offset=4, wait_s=20)
    assert (second["data"], second["offset"], second["size"]) == (b"two\n", 4, 8)
    agent.acknowledges = False
    go[1].touch()
    assert agent.read(key, offset=8, wait_s=20)["data"] == b"three\n"
    agent.wait_ended(key)
    last = agent.read(key, offset=4, limit=6, wait_s=20)
    assert (last["data"], last["size"], last["ended"]) == (b"two\nth", 14, True)
    assert agent.read(("unknown", 1), wait_s=20)["ended"]


def test_jobs_make_no_files_of_their_own(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "2")
    agent.wait_connected()
    agent.send(*[run_message(f"j{n}", shell=f"echo {n}; echo {n}{n} >&2") for n in range(300)])
    agent.wait(lambda: len(agent.ended) == 300, "300 jobs")
    for n in range(300):
        assert printed(agent.ended[f"j{n}", 1]) == f"{n}\n".encode()
        assert printed(agent.ended[f"j{n}", 1], "stderr") == f"{n}{n}\n".encode()
    assert len(list((place / "spool" / "out").iterdir())) < 50


# ------------------------------------------------------------------------------------------------- connection


def test_events_wait_for_the_agent(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    start_worker("--cores", "2")
    agent.wait_connected()
    agent.send(*[run_message(f"j{n}", shell=f"echo {n} >> {place}/{n}; sleep 0.05") for n in range(40)])
    agent.wait(lambda: len(agent.started) >= 2, "the first jobs")
    for _ in range(5):
        before = len(agent.hellos)
        agent.cut()
        agent.wait(lambda n=before: len(agent.hellos) > n, "the worker to come back")  # type: ignore[misc]
        agent.wait_connected()
    agent.send(*[run_message(f"j{n}", "touch", f"{place}/twice") for n in range(40) if (f"j{n}", 1) not in agent.ended])
    agent.wait(lambda: len(agent.ended) == 40, "all jobs")
    assert not agent.duplicates
    assert sorted(event["n"] for event in agent.events) == list(range(1, 81))
    assert all((place / str(n)).read_text() == f"{n}\n" for n in range(40))
    assert not (place / "twice").exists()


def test_hello_names_the_jobs(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker("--cores", "1")
    agent.wait_connected()
    agent.acknowledges = False
    agent.wait_ended(agent.run("done", "/bin/true"))
    agent.wait_started(agent.run("runs", "sleep", "1000"))
    agent.run("waits", "/bin/true")
    agent.send({"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the jobs to be taken")
    agent.cut()
    agent.wait(lambda: len(agent.hellos) == 2, "the worker to come back")
    hello = agent.hellos[1]
    assert hello["jobs"] == [["done", 1, "ended"], ["runs", 1, "running"], ["waits", 1, "queued"]]
    assert hello["first_unacked"] == 1
    assert hello["worker"] == agent.hellos[0]["worker"]


def test_garbage_from_the_agent_does_not_kill_the_worker(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    agent.send(
        {"t": "run"},
        {"t": "run", "job": "../../etc", "attempt": 1, "argv": ["/bin/true"]},
        {"t": "cancel"},
        {"t": "read", "job": "x", "attempt": 1, "stream": "neither"},
        {"t": "ack", "n": "x"},
        {"t": "ack", "n": 10**9},
        {"t": "context", "id": [], "env": 3},
        {"t": "forget", "job": 3, "attempt": []},
    )
    assert agent.wait_ended(("../../etc", 1))["cause"] == "not_started"
    agent.wait_ended(agent.run("j", "/bin/true"))
    connection = agent._connection
    assert connection is not None
    connection.sendall(b"\xff" * 100)
    agent.wait(lambda: len(agent.hellos) == 2, "the worker to dial again")
    agent.wait_connected()
    agent.wait_ended(agent.run("k", "/bin/true"))


# ------------------------------------------------------------------------------------------------- leaving


def test_stop_waits_for_what_runs(agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker("--cores", "1")
    agent.wait_connected()
    hold = place / "hold"
    os.mkfifo(hold)
    key = agent.run("runs", shell=f"read x < {hold}")
    agent.wait_started(key)
    agent.run("waits", "touch", f"{place}/ran")
    agent.send({"t": "stop", "kill": False}, {"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "the worker to have heard")
    hold.write_text("\n")
    assert agent.wait_ended(key)["exit_code"] == 0
    assert worker.wait() == 0
    assert not (place / "ran").exists()
    start_worker()  # what had not been started waits in the spool
    agent.wait_ended(("waits", 1))
    assert (place / "ran").exists()


def test_stop_with_kill(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker()
    agent.wait_connected()
    key = agent.run("j", "sleep", "1000")
    pid = agent.wait_started(key)["pid"]
    agent.send({"t": "stop", "kill": True})
    assert agent.wait_ended(key)["cause"] == "cancel"
    assert worker.wait() == 0
    assert not alive(pid)


def test_a_worker_without_agent_leaves_when_nothing_runs_and_its_results_wait(
    agent: FakeAgent, start_worker: StartWorker, place: Path
) -> None:
    worker = start_worker("--linger-s", "0.3")
    agent.wait_connected()
    key = agent.run("j", shell=f"while [ -e {agent.path} ]; do sleep 0.05; done; sleep 0.5; echo late")
    agent.wait_started(key)
    agent.close()
    assert worker.wait() == 0
    again = FakeAgent(agent.path)
    try:
        start_worker()
        ended = again.wait_ended(key)
        assert printed(ended) == b"late\n"
        assert again.hellos[0]["jobs"] == [["j", 1, "ended"]]
    finally:
        again.close()


@pytest.mark.parametrize("whom", ["keeper", "loop"])
def test_terminate_lets_jobs_end(whom: str, agent: FakeAgent, start_worker: StartWorker, place: Path) -> None:
    worker = start_worker()
    agent.wait_connected()
    hold = place / "hold"
    os.mkfifo(hold)
    key = agent.run("j", shell=f"read x < {hold}; exit 4")
    agent.wait_started(key)
    os.kill(worker.keeper, signal.SIGHUP)
    os.kill(worker.loop_pid(agent), signal.SIGHUP)
    os.kill(worker.keeper if whom == "keeper" else worker.loop_pid(agent), signal.SIGTERM)
    wait_until(lambda: "told by a signal to leave" in worker.log(), "the signal to be heard")
    hold.write_text("\n")
    assert agent.wait_ended(key)["exit_code"] == 4
    assert worker.wait() == 0


# ------------------------------------------------------------------------------------------------- frugality


def test_an_idle_worker_is_small_and_asleep(agent: FakeAgent, start_worker: StartWorker) -> None:
    worker = start_worker()
    agent.wait_connected()
    for n in range(20):
        agent.wait_ended(agent.run(f"j{n}", "sleep", "0.15" if n == 0 else "0"))
    loop = worker.loop_pid(agent)
    assert resident_kib(loop) < 25 * 1024
    assert resident_kib(worker.keeper) < 16 * 1024

    def switches() -> int:
        lines = Path(f"/proc/{loop}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("voluntary")).split()[1])

    # Once asleep it stays so: it is woken by nothing but the agent, whose ping is the clock of this test.
    agent.send({"t": "ping"})
    agent.wait(lambda: agent.pongs == 1, "a pong")
    before, ticks = switches(), cpu_ticks(loop)
    agent.run("clock", "sleep", "0.05")
    agent.wait_ended(("clock", 1))
    assert switches() - before < 30
    assert cpu_ticks(loop) - ticks <= 5


# ------------------------------------------------------------------------------------------------- parts of other nodes' jobs


def hold(agent: FakeAgent, job: str, cores: int, gpus: int = 0) -> None:
    agent.send(
        {"t": "hold", "job": job, "attempt": 1, "worker": "head", "cores": cores, "memory_bytes": 0, "gpus": gpus}
    )


def test_what_is_held_is_kept_free_and_given_back(agent: FakeAgent, start_worker: StartWorker) -> None:
    """Also before jobs that came earlier and wait; said again, it is answered again."""
    start_worker("--cores", "2", "--gpus", "2")
    agent.wait_connected()
    runs = agent.run("runs", "sleep", "0.5", cores=1)
    agent.wait_started(runs)
    waits = agent.run("waits", "true", cores=2)
    hold(agent, "gang", 1, gpus=1)
    agent.wait(lambda: len(agent.holding) == 1, "an answer")
    assert [len(agent.holding[0][name]) for name in ("cores", "gpus")] == [1, 1]
    hold(agent, "gang", 1, gpus=1)
    agent.wait(lambda: len(agent.holding) == 2, "the same answer")
    assert agent.holding[1] == agent.holding[0]
    agent.wait_ended(runs)
    assert agent.ended.get(waits) is None
    agent.send({"t": "release", "job": "gang", "attempt": 1}, {"t": "release", "job": "gang", "attempt": 1})
    agent.wait_ended(waits)


def test_a_part_waits_for_room_and_is_told_of_after_a_reconnection(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker("--cores", "1")
    agent.wait_connected()
    runs = agent.run("runs", "sleep", "0.4", cores=1)
    agent.wait_started(runs)
    hold(agent, "gang", 1)
    agent.wait_ended(runs)
    agent.wait(lambda: len(agent.holding) == 1, "an answer when there is room")
    agent.cut()
    agent.wait(lambda: len(agent.hellos) == 2, "the worker to come again")
    assert agent.hellos[1]["holds"] == [["gang", 1]]


def test_what_a_job_of_another_node_left_here_is_stopped(agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker("--cores", "1")
    agent.wait_connected()
    hold(agent, "gang", 1)
    agent.wait(lambda: bool(agent.holding), "an answer")
    marks = {"LWFM_JOB_ID": "gang", "LWFM_ATTEMPT": "1", "LWFM_WORKER": "head"}
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    left = subprocess.Popen(["sh", "-c", stubborn], env={**os.environ, **marks}, start_new_session=True)
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, **marks, "LWFM_ATTEMPT": "2"}, start_new_session=True)
    try:
        agent.send({"t": "release", "job": "gang", "attempt": 1})
        waits = agent.run("waits", "true", cores=1)
        assert left.wait(20) == -signal.SIGKILL
        agent.wait_ended(waits)
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_job_finds_its_files_and_they_go_with_it(place: Path, agent: FakeAgent, start_worker: StartWorker) -> None:
    start_worker()
    agent.wait_connected()
    text = "n1 slots=2\nn2 slots=2\n"
    key = agent.run("j", "sh", "-c", 'stat -c %a "$NODES"; cat "$NODES"', files={"NODES": text})
    assert printed(agent.wait_ended(key)) == b"600\n" + text.encode()
    wait_until(lambda: not list((place / "spool" / "files").iterdir()), "the file to be gone")
    bad = agent.run("bad", "true", files={"../x": "no"})
    assert "files must be named by variables" in agent.wait_ended(bad)["reason"]
