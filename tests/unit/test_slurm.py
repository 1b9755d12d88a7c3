"""The hooks of Slurm. What Slurm 22.05 really answered is called RECORDED; what is from its manual says so."""

from __future__ import annotations

import pytest

from lwfm.errors import InvalidRecord
from lwfm.sites.batch import slurm
from lwfm.sites.batch.request import BatchRequest, request_of
from lwfm.sites.batch.scheduler import BatchJob, Partition
from lwfm.sites.batch.slurm import Slurm, gpus_of, inside_variables, node_state

MIB = 1024 * 1024
NOW = 1_800_000_000.0

RECORDED_PARTITIONS = """\
test*|up|infinite
short|up|30:00
closed|inactive|1-00:00:00
empty|drain|infinite
"""
RECORDED_NODES = """\
short|n1|allocated|2|2/0/0/2|4000|gpu:2|none
test*|n1|allocated|2|2/0/0/2|4000|gpu:2|none
short|n2|allocated|2|2/0/0/2|4000|gpu:2|none
test*|n2|allocated|2|2/0/0/2|4000|gpu:2|none
test*|n3|mixed|2|1/1/0/2|4000|gpu:2|none
closed|n4|drained|2|0/0/2/2|4000|gpu:2|bad | disk, really
test*|n4|drained|2|0/0/2/2|4000|gpu:2|bad | disk, really
"""
RECORDED_JOBS = """\
1|COMPLETING|1|9:01|1795359880|1795359270|n1|None|lwfm:abc def|x
5|FAILED|1|10:00|1795359848|1795359247|n3|NonZeroExitCode|(null)
2|PENDING|4|10:00|N/A|N/A||Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions|(null)
6|PENDING|400|UNLIMITED|N/A|N/A||PartitionConfig|(null)
3|PENDING|1|10:00|N/A|N/A||JobHeldUser|(null)
4|TIMEOUT|1|0:30|1795359878|1795359848|n3|TimeLimit|(null)
"""
RECORDED_RUNNING = "1|RUNNING|2|9:32|2026-11-22T14:48:52|2026-11-22T14:39:00|n[1-2]|None|lwfm:abc def|x\n"
"""Asked without ``SLURM_TIME_FORMAT``."""


def test_partitions_and_nodes_as_recorded() -> None:
    partitions, nodes = Slurm().read_resources([RECORDED_PARTITIONS, RECORDED_NODES])
    assert [(node.name, node.state, node.native_state, node.cores, node.cores_free, node.gpus) for node in nodes] == [
        ("n1", "busy", "allocated", 2, 0, 2),
        ("n2", "busy", "allocated", 2, 0, 2),
        ("n3", "mixed", "mixed", 2, 1, 2),
        ("n4", "draining", "drained", 2, 0, 2),
    ]
    assert (nodes[0].partitions, nodes[3].reason, nodes[0].reason) == (("short", "test"), "bad | disk, really", None)
    assert nodes[0].memory_bytes == 4000 * MIB
    test, short, closed, empty = partitions
    assert test == Partition("test", "up", "up", True, None, 4, 0, 8, 1, 2, 4000 * MIB, 2)
    assert (short.default, short.time_limit_s, short.nodes, short.state) == (False, 1800.0, 2, "up")
    assert (closed.state, closed.native_state, closed.time_limit_s) == ("closed", "inactive", 86400.0)
    assert (empty.state, empty.nodes, empty.node_cores) == ("closed", 0, None)


def test_lines_that_make_no_sense_are_left_out() -> None:
    assert Slurm().read_resources(["", "sinfo: warning\n|||\n"]) == ([], [])
    (partition,), (node,) = Slurm().read_resources(["p|strange|forever\n", "p|n1|odd|x|y|z+|(null)|\n"])
    assert (partition.state, partition.native_state, partition.time_limit_s) == ("unknown", "strange", None)
    assert (node.state, node.native_state, node.cores, node.memory_bytes, node.gpus) == (
        "unknown",
        "odd",
        None,
        None,
        0,
    )


def test_jobs_as_recorded() -> None:
    jobs = {job.job_id: job for job in Slurm().read_jobs(RECORDED_JOBS, NOW)}
    assert {job.job_id: job.phase for job in jobs.values()} == {
        "1": "ending", "5": "ended", "2": "pending", "6": "pending", "3": "pending", "4": "ended",
    }  # fmt: skip
    assert jobs["1"] == BatchJob(
        "1", "ending", "COMPLETING", None, 1, ("n1",), 1795359880.0, "lwfm:abc def|x", 1795359270.0
    )
    assert {job.job_id: job.outcome for job in jobs.values()} == dict.fromkeys("1236") | {"4": "failed", "5": "failed"}
    assert str(jobs["2"].reason).startswith("Nodes required for job are DOWN, DRAINED")
    assert (jobs["2"].nodes, jobs["2"].hosts, jobs["2"].ends_at) == (4, (), None)
    assert jobs["4"].reason == "TimeLimit"


def test_an_end_that_is_not_told_in_seconds_is_that_of_the_time_left() -> None:
    (job,) = Slurm().read_jobs(RECORDED_RUNNING, NOW)
    assert job == BatchJob("1", "running", "RUNNING", None, 2, ("n1", "n2"), NOW + 572, "lwfm:abc def|x")


@pytest.mark.parametrize(
    ("native", "state"),
    [
        # RECORDED
        ("idle", "free"), ("mixed", "mixed"), ("allocated", "busy"), ("drained", "draining"), ("idle+drain", "draining"),
        # sinfo(1), "NODE STATE CODES"
        ("idle~", "free"), ("idle*", "down"), ("down*", "down"), ("mixed-", "mixed"), ("allocated+", "busy"),
        ("draining@", "draining"), ("draining*", "down"), ("idle$", "reserved"), ("maint", "reserved"), ("planned", "reserved"),
        ("idle#", "off"), ("allocated#", "off"), ("idle%", "off"), ("powered_down", "off"), ("future", "off"), ("inval", "down"),
        ("completing", "busy"), ("reboot^", "draining"), ("fail", "down"), ("failing", "draining"), ("unknown", "unknown"),
        ("unk*", "unknown"), ("blocked", "free"), ("", "unknown"), ("*", "unknown"),
    ],
)  # fmt: skip
def test_states_of_nodes(native: str, state: str) -> None:
    assert node_state(native) == state


def test_every_state_of_a_job_in_the_manual_is_known() -> None:
    """squeue(1) of 22.05, "JOB STATE CODES"; what comes later is not guessed."""
    told = (
        "BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED RUNNING"
        " RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED"
        " SUSPENDED TIMEOUT"
    )
    assert set(told.split()) <= set(slurm.JOB_PHASES)
    (job,) = Slurm().read_jobs("9|DREAMING|1|1:00|N/A|N/A||None|(null)\n", NOW)
    assert (job.phase, job.native_state) == ("unknown", "DREAMING")


def test_the_accounting_tells_of_jobs_that_are_gone() -> None:
    """Form of sacct(1); the recorded Slurm keeps none."""
    told = "11|TIMEOUT|0:0\n12|CANCELLED by 1000|0:15\n13_4|FAILED|3:0\n\n14||\n"
    assert [
        (job.job_id, job.phase, job.native_state, job.outcome, job.exit_code) for job in Slurm().read_ended(told)
    ] == [
        ("11", "ended", "TIMEOUT", "failed", 0),
        ("12", "ended", "CANCELLED", "cancelled", None),
        ("13_4", "ended", "FAILED", "failed", 3),
    ]
    (command,) = Slurm().ask_ended(["11", "12"])
    assert command.argv[:6] == ("sacct", "-n", "-P", "-X", "-j", "11,12")


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("gpu:2", 2), ("(null)", 0), ("", 0), ("gpu:a100:4(S:0-1)", 4), ("gpu:a100:2,gpu:v100:1,nvme:100", 3),
        ("nvme:1,gpu:1(IDX:0)", 1), ("gpu", 1), ("mps:400,notgpu:3", 0), ("gpu:tesla:no_consume:2", 2),
    ],
)  # fmt: skip
def test_gpus(gres: str, count: int) -> None:
    assert gpus_of(gres) == count


def test_what_users_have_set_for_themselves_does_not_change_the_answers() -> None:
    for command in (*Slurm().ask_resources(), Slurm().ask_jobs("me"), Slurm().cancel(["1"])):
        for name in ("SQUEUE_STATES", "SQUEUE_PARTITION", "SINFO_PARTITION", "SINFO_FORMAT", "SCANCEL_STATE"):
            assert command.environment[name] is None
    assert Slurm().ask_jobs("me").environment["SLURM_TIME_FORMAT"] == "%s"


def test_an_allocation_is_asked_for_as_whole_nodes() -> None:
    request = BatchRequest(4, 3601.0, "lwfm:token", "debug", "phys", "high", "study", options=("--constraint=ib",))
    command = Slurm().submit(request, "#!/bin/sh\n", "/home/me/100%/job.out", "/home/me")
    assert command.stdin == "#!/bin/sh\n"
    assert command.argv == (
        "sbatch", "--parsable", "--no-requeue", "--no-kill", "--nodes=4", "--time=61", "--job-name=study",
        "--output=/home/me/100%%/job.out", "--open-mode=append", "--chdir=/home/me", "--ntasks-per-node=1", "--comment=lwfm:token",
        "--exclusive", "--partition=debug", "--account=phys", "--qos=high", "--mem=0", "--constraint=ib",
    )  # fmt: skip


def test_or_as_parts_of_nodes() -> None:
    request = BatchRequest(1, 60.0, cores=3, gpus=1, memory_bytes=5 * 1024 * MIB)
    words = Slurm().submit(request, "", "o", "/").argv
    assert {"--cpus-per-task=3", "--gpus-per-node=1", "--mem=5120M", "--time=1"} <= set(words)
    assert not {"--exclusive", "--mem=0"} & set(words)


@pytest.mark.parametrize(
    "option", ["--array=1-3", "-a1-3", "--wrap=true", "-W", "--test-only", "--nodes=3", "-N3", "-o/tmp/x"]
)
def test_an_option_must_not_make_it_something_else(option: str) -> None:
    with pytest.raises(InvalidRecord, match="is not possible here"):
        Slurm().submit(BatchRequest(1, 60.0, options=(option,)), "", "o", "/")


@pytest.mark.parametrize(
    ("answer", "job"),
    [("6\n", "6"), ("6;cluster\n", "6"), ("Welcome!\nBe kind.\n4711\n", "4711"), ("", None), ("queued\n", None)],
)
def test_the_id_of_what_was_submitted(answer: str, job: str | None) -> None:
    assert Slurm().read_submitted(answer) == job


def test_the_job_that_we_are_in_is_none_of_the_next_one() -> None:
    names = ["SLURM_JOB_ID", "SLURM_CONF", "SLURMD_NODENAME", "PATH", "SLURM_CLUSTERS", "PMI_RANK", "SBATCH_ACCOUNT"]
    assert list(inside_variables(names)) == ["SLURM_JOB_ID", "SLURMD_NODENAME", "PMI_RANK"]


def test_what_a_person_asks_for() -> None:
    spec = {
        "nodes": 2, "time": "1:30:00", "partition": "p", "account": 4711, "cores": 8, "gpus": 0, "memory": "4G",
        "option": ["--a=1", "-C ib"],
    }  # fmt: skip
    assert request_of(spec, "m") == BatchRequest(
        2, 5400.0, "m", "p", "4711", None, "lwfm", 8, 0, 4 * 1024 * MIB, ("--a=1", "-C ib")
    )
    assert request_of({"time": 90}, "") == BatchRequest(1, 90.0)
    assert request_of({"time": "10m", "option": "--x"}, "").options == ("--x",)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({}, "time is missing"),
        ({"time": "soon"}, "time must be like"),
        ({"time": 0}, "time must be like"),
        ({"time": True}, "time must be like"),
        ({"time": float("nan")}, "time must be like"),
        ({"time": 1, "nodes": 0}, "nodes must be a whole number from 1"),
        ({"time": 1, "nodes": "many"}, "nodes must be"),
        ({"time": 1, "cores": 1.5}, "cores must be"),
        ({"time": 1, "gpus": True}, "gpus must be"),
        ({"time": 1, "memory": "much"}, "memory must be like"),
        ({"time": 1, "partition": "--wrap=x"}, "partition must be a name"),
        ({"time": 1, "name": "a\nb"}, "name must be a name"),
        ({"time": 1, "option": "reservation"}, "does not begin with a dash"),
        ({"time": 1, "option": [1]}, "option must be words"),
        ({"time": 1, "colour": "red"}, "has no colour"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(spec: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidRecord, match=complaint):
        request_of(spec, "m")
