"""The hooks of Grid Engine and PBS. What Son of Grid Engine 8.1.9 really answered is called RECORDED; what others have shown of
PBS 19 and 2022, and what is from manuals, says so."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from lwfm.errors import InvalidRecord, SiteError
from lwfm.sites.batch.pbs import Pbs
from lwfm.sites.batch.request import BatchRequest
from lwfm.sites.batch.scheduler import Scheduler
from lwfm.sites.batch.sge import GridEngine, job_phase

RECORDED_QSTAT = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>1</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>job-lwfm-job-abc</JB_name>
      <JB_owner>root</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-22T22:17:31</JAT_start_time>
      <queue_name>all.q@n2</queue_name>
      <slots>1</slots>
      <tasks>3</tasks>
      <full_job_name>job-lwfm-job-abc</full_job_name>
      <binding>NONE</binding>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>2</JB_job_number>
      <JAT_prio>0.00000</JAT_prio>
      <JB_name>other</JB_name>
      <JB_owner>root</JB_owner>
      <state>qw</state>
      <JB_submission_time>2026-11-22T22:17:31</JB_submission_time>
      <queue_name></queue_name>
      <slots>3</slots>
      <full_job_name>other</full_job_name>
      <requested_pe name="round">3</requested_pe>
    </job_list>
  </job_info>
</job_info>
"""
RECORDED_QACCT = """\
==============================================================
qname        all.q
hostname     n1
jobname      job-lwfm-job-abc
jobnumber    1
taskid       2
failed       100 : assumedly after job
exit_status  137                  (Killed)
ru_wallclock 3s
==============================================================
qname        all.q
jobnumber    1
taskid       3
failed       0
exit_status  0
==============================================================
jobnumber    3
taskid       undefined
failed       0
exit_status  3
"""
RECORDED_QHOST = """\
<?xml version='1.0'?>
<qhost xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qhost/qhost.xsd">
 <host name='global'>
   <hostvalue name='num_proc'>-</hostvalue>
   <hostvalue name='mem_total'>-</hostvalue>
 </host>
 <host name='n1'>
   <hostvalue name='num_proc'>2</hostvalue>
   <hostvalue name='mem_total'>23.5G</hostvalue>
 <queue name='all.q'>
   <queuevalue qname='all.q' name='qtype_string'>BIP</queuevalue>
   <queuevalue qname='all.q' name='slots_used'>1</queuevalue>
   <queuevalue qname='all.q' name='slots'>2</queuevalue>
   <queuevalue qname='all.q' name='slots_resv'>0</queuevalue>
   <queuevalue qname='all.q' name='state_string'></queuevalue>
 </queue>
 </host>
 <host name='n2'>
   <hostvalue name='num_proc'>2</hostvalue>
   <hostvalue name='mem_total'>23.5G</hostvalue>
 <queue name='all.q'>
   <queuevalue qname='all.q' name='slots_used'>0</queuevalue>
   <queuevalue qname='all.q' name='slots'>2</queuevalue>
   <queuevalue qname='all.q' name='state_string'>au</queuevalue>
 </queue>
 </host>
</qhost>
"""


def test_jobs_of_grid_engine_as_recorded() -> None:
    task, waiting = GridEngine().read_jobs(RECORDED_QSTAT, 0.0)
    assert (task.job_id, task.phase, task.native_state, task.hosts, task.mark) == (
        "1.3",
        "running",
        "r",
        ("n2",),
        "lwfm-job-abc",
    )
    assert task.started_at == 1795385851.0
    assert (waiting.job_id, waiting.phase, waiting.hosts, waiting.mark, waiting.started_at) == (
        "2",
        "pending",
        (),
        None,
        None,
    )
    with pytest.raises(SiteError, match="no XML"):
        GridEngine().read_jobs("", 0.0)


@pytest.mark.parametrize(
    ("letters", "phase"),
    [
        ("qw", "pending"), ("hqw", "pending"), ("Eqw", "pending"), ("hRwq", "pending"), ("t", "running"), ("r", "running"),
        ("Rr", "running"), ("dr", "running"), ("S", "running"), ("T", "running"), ("x", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_states_of_grid_engine_in_the_manual(letters: str, phase: str) -> None:
    assert job_phase(letters) == phase


def test_the_accounting_of_grid_engine_as_recorded() -> None:
    told = {job.job_id: (job.outcome, job.exit_code) for job in GridEngine().read_ended(RECORDED_QACCT)}
    assert told == {"1.2": ("killed", None), "1.3": ("succeeded", 0), "3": ("failed", 3)}
    assert [command.argv for command in GridEngine().ask_ended(["1.2", "1.3", "7"])] == [
        ("qacct", "-j", "1"),
        ("qacct", "-j", "7"),
    ]


def test_hosts_and_queues_of_grid_engine_as_recorded() -> None:
    (queue,), nodes = GridEngine().read_resources([RECORDED_QHOST])
    assert [(node.name, node.state, node.cores, node.cores_free, node.partitions) for node in nodes] == [
        ("n1", "mixed", 2, 1, ("all.q",)),
        ("n2", "down", 2, 2, ("all.q",)),
    ]
    assert (queue.name, queue.nodes, queue.cores, queue.node_cores) == ("all.q", 2, 4, 2)


def test_a_job_is_asked_of_grid_engine() -> None:
    request = BatchRequest(
        2, 61.0, "lwfm-job-ab", "all.q", name="7 up", cores=3, memory_bytes=3000, environment="mpi", elements=9,
        options=("-l gpu=1", "-notify"),
    )  # fmt: skip
    command = GridEngine().submit(request, "text", "/o", "/d")
    assert command.stdin == "text"
    assert command.argv == (
        "qsub", "-terse", "-S", "/bin/sh", "-r", "n", "-j", "y", "-o", "/o", "-wd", "/d", "-N", "j7 up.lwfm-job-ab", "-t", "1-9",
        "-l", "h_rt=120", "-q", "all.q", "-pe", "mpi", "6", "-l", "h_vmem=1000", "-l", "gpu=1", "-notify",
    )  # fmt: skip
    with pytest.raises(InvalidRecord, match="6 slots need a parallel environment"):
        GridEngine().submit(BatchRequest(2, math.inf, cores=3), "", "", "")
    with pytest.raises(InvalidRecord, match="calls GPUs otherwise"):
        GridEngine().submit(BatchRequest(1, math.inf, cores=1, gpus=1), "", "", "")


@pytest.mark.parametrize(
    ("scheduler", "answer", "job", "element"),
    [
        (GridEngine(), "4711\n", "4711", "4711.3"), (GridEngine(), "Hello\n4711.1-9:1\n", "4711", "4711.3"),
        (Pbs(), "4711[].server.org\n", "4711[].server.org", "4711[3].server.org"), (Pbs(), "qsub: waiting\n", None, ""),
        (GridEngine(), "", None, ""),
    ],
)  # fmt: skip
def test_ids(scheduler: Scheduler, answer: str, job: str | None, element: str) -> None:
    assert scheduler.read_submitted(answer) == job
    if job is not None:
        assert scheduler.element(job, 3) == element
        assert scheduler.whole(element) == job


PBS_QSTAT = {
    "timestamp": 1664911414,
    "pbs_version": "19.0.0",
    "pbs_server": "meta",
    "Jobs": {
        "128[4].meta": {
            "Job_Name": "swrap_01",
            "job_state": "R",
            "stime": "Tue Oct  4 21:23:33 2022",
            "exec_host": "charon24/0*2+charon21/0*2",
            "Variable_List": {"PBS_O_HOME": "/", "LWFM_MARK": "lwfm-job-ab"},
        },
        "128[].meta": {"job_state": "B", "array": "True"},
        "129.meta": {"job_state": "H", "comment": "held", "Hold_Types": "u"},
        "130.meta": {"job_state": "M"},
    },
}
"""In the form that PBS 19 was seen to answer in; shortened."""


def test_jobs_of_pbs() -> None:
    jobs = {job.job_id: job for job in Pbs().read_jobs(json.dumps(PBS_QSTAT), 0.0)}
    running = jobs["128[4].meta"]
    assert (running.phase, running.hosts, running.mark) == ("running", ("charon24", "charon21"), "lwfm-job-ab")
    assert running.started_at == 1664918613.0
    assert {job_id: (job.phase, job.reason) for job_id, job in jobs.items() if job is not running} == {
        "128[].meta": ("pending", None), "129.meta": ("pending", "held"), "130.meta": ("unknown", None),
    }  # fmt: skip
    assert Pbs().read_jobs('{"timestamp":1,"pbs_version":"19.0.0","pbs_server":"x"}', 0.0) == []
    with pytest.raises(SiteError, match="no JSON"):
        Pbs().read_jobs("qstat: cannot", 0.0)


@pytest.mark.parametrize(
    ("told", "outcome", "code"),
    [
        ({"Exit_status": 0}, "succeeded", 0), ({"Exit_status": 3}, "failed", 3), ({"Exit_status": 271}, "killed", None),
        ({"Exit_status": 143}, "killed", None), ({"Exit_status": -29}, "failed", None), ({"Exit_status": -1}, "failed", None),
        ({"substate": 91}, "cancelled", None), ({}, None, None),
    ],
)  # fmt: skip
def test_ends_of_pbs_in_the_manual(told: dict[str, Any], outcome: str | None, code: int | None) -> None:
    answer = {"Jobs": {"1.s": {"job_state": "F", **told}, "2.s": {"job_state": "R"}}}
    (job,) = Pbs().read_ended(json.dumps(answer))
    assert (job.outcome, job.exit_code) == (outcome, code)
    assert (job.told is None) == (outcome is None or code is not None)


def test_nodes_and_queues_of_pbs() -> None:
    nodes = {
        "nodes": {
            "n1": {
                "state": "free",
                "resources_available": {"mem": "4194304kb", "ncpus": 4, "ngpus": 1},
                "resources_assigned": {"ncpus": 1},
            },
            "n2": {"state": "down,offline", "resources_available": {"ncpus": "8"}},
            "pbs": "broken",
        }
    }
    queues = {"Queue": {"qexp": {"enabled": "True", "started": "False", "resources_max": {"walltime": "01:00:00"}}}}
    (queue,), listed = Pbs().read_resources([json.dumps(queues), json.dumps(nodes)])
    assert [(node.state, node.cores, node.cores_free, node.memory_bytes) for node in listed] == [
        ("mixed", 4, 3, 4 * 2**30),
        ("down", 8, 8, None),
    ]
    assert (queue.state, queue.time_limit_s, queue.node_cores, queue.node_gpus) == ("closed", 3600.0, 8, 1)


def test_a_job_is_asked_of_pbs() -> None:
    request = BatchRequest(
        2, 3600.0, "lwfm-job-ab", "qexp", "proj", name="a-very-long-name-of-a-job", cores=4, gpus=1, memory_bytes=5,
        tasks_per_node=2, elements=3, options=("-l filesystems=home",),
    )  # fmt: skip
    assert Pbs().submit(request, "text", "/o", "/d").argv == (
        "qsub", "-S", "/bin/sh", "-r", "n", "-j", "oe", "-o", "/o", "-N", "a-very-long-nam", "-l",
        "select=2:ncpus=4:mpiprocs=2:mem=5b:ngpus=1", "-l", "place=scatter", "-l", "walltime=3600", "-J", "1-3",
        "-v", "LWFM_MARK=lwfm-job-ab", "-q", "qexp", "-A", "proj", "-l", "filesystems=home",
    )  # fmt: skip
    with pytest.raises(InvalidRecord, match="not possible here"):
        Pbs().submit(BatchRequest(1, math.inf, cores=1, options=("-J1-4",)), "", "", "")


@pytest.mark.parametrize(
    ("scheduler", "complaint", "doubtful", "refused"),
    [
        # RECORDED
        (GridEngine(), 'Unable to run job: Job was rejected because job requests unknown queue "nope.q"', False, True),
        (GridEngine(), 'Unable to run job: unknown resource "gpu"', False, True),
        (GridEngine(), 'Unable to run job: unable to contact qmaster using port 52511 on host "vm"', False, False),
        # seen by others
        (Pbs(), "cannot connect to server aqua (errno=15010)", True, False),
        (Pbs(), "Unknown queue", False, True),
        (Pbs(), "would exceed queue generic's per-user limit", False, False),
    ],
)
def test_complaints(scheduler: Scheduler, complaint: str, doubtful: bool, refused: bool) -> None:
    assert (scheduler.is_doubtful(complaint), scheduler.is_refusal(complaint)) == (doubtful, refused)
