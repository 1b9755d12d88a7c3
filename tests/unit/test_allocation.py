"""What schedulers leave behind in a job, as their manuals show it, and the allocation that is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import pytest

from lwfm.errors import ConfigError
from lwfm.launch.allocation import Allocation, NodeShare, discover, from_hostfile

NOW = 1_700_000_000.0
GIB = 1024**3


class Outside:
    """Files and commands that a test has; what it does not have raises OSError, as on a real machine."""

    def __init__(self, files: Optional[dict[str, str]] = None, answers: Optional[dict[str, str]] = None) -> None:
        self.files = files or {}
        self.answers = answers or {}
        self.asked: list[str] = []

    def read(self, name: str) -> str:
        if name not in self.files:
            raise FileNotFoundError(2, "No such file or directory", name)
        return self.files[name]

    def ask(self, words: Sequence[str]) -> str:
        self.asked.append(" ".join(words))
        if self.asked[-1] not in self.answers:
            raise FileNotFoundError(2, "No such file or directory", words[0])
        return self.answers[self.asked[-1]]


def look(environment: Mapping[str, str], outside: Optional[Outside] = None) -> Optional[Allocation]:
    outside = outside or Outside()
    return discover(environment, outside.read, outside.ask, NOW)


def found(environment: Mapping[str, str], outside: Optional[Outside] = None) -> Allocation:
    allocation = look(environment, outside)
    assert allocation is not None
    return allocation


def hosts(allocation: Allocation) -> list[str]:
    return [node.host for node in allocation.nodes]


# sbatch(1) of 22.05, OUTPUT ENVIRONMENT VARIABLES, and what such a job has besides.
SLURM = {
    "SLURM_CLUSTER_NAME": "cluster",
    "SLURM_CPUS_ON_NODE": "48",
    "SLURM_JOBID": "4242",
    "SLURM_JOB_CPUS_PER_NODE": "48(x2),24",
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NODELIST": "n[01-02],m5",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_MEM_PER_NODE": "192000",
    "SLURM_NNODES": "3",
    "SLURM_NODELIST": "n[01-02],m5",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_SUBMIT_HOST": "login1",
    "SLURM_TASKS_PER_NODE": "48(x2),24",
    "SLURMD_NODENAME": "n01",
}
# pbsdsh(1B) of OpenPBS and the PBS guide; TORQUE's "exported batch environment variables" for PBS_NUM_PPN.
PBS = {
    "PBS_ENVIRONMENT": "PBS_BATCH",
    "PBS_JOBID": "123.server",
    "PBS_NODEFILE": "/var/spool/pbs/aux/123.server",
    "PBS_O_HOST": "login1.cluster",
}
# LSF 10.1 reference, environment variables.
LSF = {
    "LSB_DJOB_HOSTFILE": "/home/u/.lsbatch/1700000000.77.hostfile",
    "LSB_DJOB_NUMPROC": "9",
    "LSB_HOSTS": "batch1 h1 h1 h1 h1 h2 h2 h2 h2",
    "LSB_JOBID": "77",
    "LSB_JOBINDEX": "0",
    "LSB_MCPU_HOSTS": "batch1 1 h1 4 h2 4 ",
}
# What a batch script on three nodes saw in a running Grid Engine 8.1.9 (tests/support/gridengine.py); paths are shortened.
SGE = {
    "ARC": "lx-amd64",
    "HOME": "/home/u",
    "HOSTNAME": "n2",
    "JOB_ID": "9",
    "JOB_NAME": "script",
    "JOB_SCRIPT": "/sge/spool/n2/job_scripts/9",
    "LOGNAME": "u",
    "NHOSTS": "3",
    "NQUEUES": "3",
    "NSLOTS": "6",
    "PATH": "/run/9.1.all.q:/usr/local/bin:/bin:/usr/bin",
    "PE": "round",
    "PE_HOSTFILE": "/sge/spool/n2/active_jobs/9.1/pe_hostfile",
    "QUEUE": "all.q",
    "REQNAME": "script",
    "REQUEST": "script",
    "RESTARTED": "0",
    "SGE_ACCOUNT": "sge",
    "SGE_ARCH": "lx-amd64",
    "SGE_BINARY_PATH": "/sge/bin/lx-amd64",
    "SGE_CELL": "default",
    "SGE_CWD_PATH": "/home/u",
    "SGE_EXECD_PORT": "54097",
    "SGE_JOB_SPOOL_DIR": "/sge/spool/n2/active_jobs/9.1",
    "SGE_O_HOST": "login",
    "SGE_QMASTER_PORT": "42617",
    "SGE_ROOT": "/sge",
    "SGE_RSH_COMMAND": "builtin",
    "SGE_STDIN_PATH": "/dev/null",
    "SGE_TASK_FIRST": "undefined",
    "SGE_TASK_ID": "undefined",
    "SGE_TASK_LAST": "undefined",
    "SGE_TASK_STEPSIZE": "undefined",
    "SHELL": "/bin/sh",
    "TERM": "",
    "TMP": "/run/9.1.all.q",
}
SGE_HOSTS = "n2 2 all.q@n2 UNDEFINED\nn3 2 all.q@n3 UNDEFINED\nn1 2 all.q@n1 UNDEFINED\n"
# Of a job with -l h_rt=2:0:0, s_rt=1:59:0, and of what its queue allows; what is left out between has nothing to do with it.
QSTAT_JOB = "qstat -xml -j 9"
SGE_JOB = """\
<?xml version='1.0'?>
<detailed_job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/detailed_job_info.xsd">
  <djob_info>
    <element>
      <JB_job_number>9</JB_job_number>
      <JB_submission_time>1795359272</JB_submission_time>
      <JB_hard_resource_list>
        <qstat_l_requests>
          <CE_name>h_rt</CE_name>
          <CE_valtype>3</CE_valtype>
          <CE_stringval>7200</CE_stringval>
          <CE_doubleval>7200.000000</CE_doubleval>
          <CE_relop>0</CE_relop>
        </qstat_l_requests>
        <qstat_l_requests>
          <CE_name>s_rt</CE_name>
          <CE_valtype>3</CE_valtype>
          <CE_stringval>7140</CE_stringval>
          <CE_doubleval>7140.000000</CE_doubleval>
          <CE_relop>0</CE_relop>
        </qstat_l_requests>
      </JB_hard_resource_list>
      <JB_ja_tasks>
        <ulong_sublist>
          <JAT_status>128</JAT_status>
          <JAT_task_number>1</JAT_task_number>
          <JAT_scaled_usage_list>
            <scaled>
              <UA_name>cpu</UA_name>
              <UA_value>0.000000</UA_value>
            </scaled>
          </JAT_scaled_usage_list>
          <JAT_start_time>1795359273</JAT_start_time>
          <JAT_ntix>0.500000</JAT_ntix>
        </ulong_sublist>
      </JB_ja_tasks>
"""
QSTAT_QUEUE = "qstat -xml -F h_rt,s_rt -q all.q@n2"
SGE_QUEUE = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <Queue-List>
      <name>all.q@n2</name>
      <qtype>BIP</qtype>
      <slots_used>2</slots_used>
      <slots_resv>0</slots_resv>
      <slots_total>2</slots_total>
      <load_avg>0.30713</load_avg>
      <arch>lx-amd64</arch>
      <resource name="s_rt" type="qf">infinity</resource>
      <resource name="h_rt" type="qf">04:00:00</resource>
"""
# flux-environment(7): an initial program has FLUX_URI and hardly anything else.
FLUX = {"FLUX_URI": "local:///tmp/flux-AbCdEf/local-0"}
COBALT = {"COBALT_JOBID": "555", "COBALT_JOBSIZE": "2", "COBALT_NODEFILE": "/var/tmp/cobalt.555"}

MISSING = object()


def changed(environment: Mapping[str, str], **changes: Any) -> dict[str, str]:
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not MISSING}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HOME": "/home/u", "PATH": "/bin"},
        {"JOB_ID": "7"},  # anybody's name
        {"SGE_ROOT": "/usr/lib/gridengine", "SGE_TASK_ID": "undefined"},
        {"SLURM_JOB_ID": "", "PBS_JOBID": "", "LSB_JOBID": "", "COBALT_JOBID": "", "FLUX_URI": ""},
        {"SLURM_CONF": "/etc/slurm.conf", "PBS_NODEFILE": "/x"},
    ],
)
def test_no_scheduler(environment: dict[str, str]) -> None:
    outside = Outside()
    assert look(environment, outside) is None
    assert outside.asked == []


# ----------------------------------------------------------------------------------------------------- Slurm


def test_slurm() -> None:
    outside = Outside(answers={"squeue -h -j 4242 -o %A %L": "4242 1-02:03:04\n"})
    memory = 192_000 * 1024**2
    assert look(SLURM, outside) == Allocation(
        "slurm",
        "4242",
        (NodeShare("n01", 48, None, memory), NodeShare("n02", 48, None, memory), NodeShare("m5", 24, None, memory)),
        NOW + 93_784,
    )


def test_slurm_as_it_was_long_ago() -> None:
    old = {"SLURM_JOBID": "7", "SLURM_NODELIST": "n1", "SLURM_CPUS_ON_NODE": "4"}
    assert look(old) == Allocation("slurm", "7", (NodeShare("n1", 4),))


def test_a_step_of_slurm_is_in_the_same_allocation() -> None:
    # srun(1), OUTPUT ENVIRONMENT VARIABLES: in a step SLURM_NODELIST and SLURM_CPUS_ON_NODE are the step's.
    step = changed(
        SLURM, SLURM_STEP_ID="3", SLURM_STEPID="3", SLURM_STEP_NODELIST="n02", SLURM_NODELIST="n02",
        SLURM_CPUS_ON_NODE="1", SLURM_STEP_NUM_NODES="1", SLURMD_NODENAME="n02",
    )  # fmt: skip
    assert look(step) == look(SLURM)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ("4242 2-00:00:00", 172_800), ("4242 10:11:12", 36_672), ("4242 4:05", 245), ("4242 0:00", 0),
        ("4242 UNLIMITED", None), ("4242 NOT_SET", None), ("4242 INVALID", None), ("", None), ("4242 soon", None), ("4242", None),
        ("4242 1", None), ("4242 -1:00", None),
        # The last job of an array: all others of the array are listed too.
        ("4240 1:00\n4242 2:00\n4241 3:00\n", 120), ("4240 1:00\n", None),
    ],
)  # fmt: skip
def test_when_a_job_of_slurm_ends(answer: str, seconds: Optional[int]) -> None:
    outside = Outside(answers={"squeue -h -j 4242 -o %A %L": answer})
    assert found(SLURM, outside).ends_at == (None if seconds is None else NOW + seconds)


def test_a_newer_slurm_says_when_the_job_ends() -> None:
    outside = Outside()
    assert found(changed(SLURM, SLURM_JOB_END_TIME="1700003600"), outside).ends_at == NOW + 3600
    assert outside.asked == []
    assert found(changed(SLURM, SLURM_JOB_END_TIME="0"), outside).ends_at is None
    assert outside.asked


def test_the_end_is_unknown_where_squeue_does_not_answer() -> None:
    assert found(SLURM).ends_at is None


@pytest.mark.parametrize(
    ("changes", "cores"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "1,2,3"}, [1, 2, 3]),
        ({"SLURM_JOB_CPUS_PER_NODE": "72(x3)"}, [72, 72, 72]),
        ({"SLURM_JOB_CPUS_PER_NODE": MISSING}, [None, None, None]),
    ],
)
def test_cores_of_slurm(changes: dict[str, Any], cores: list[Optional[int]]) -> None:
    assert [node.cores for node in found(changed(SLURM, **changes)).nodes] == cores


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({"SLURM_GPUS_PER_NODE": "4"}, [4, 4, 4]),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, [4, 4, 4]),
        ({"SLURM_GPUS_PER_NODE": "a100:2,v100:1"}, [3, 3, 3]),
        ({"SLURM_GPUS_PER_NODE": "4", "SLURM_JOB_GPUS": "0", "SLURM_GPUS_ON_NODE": "1"}, [4, 4, 4]),
        ({"SLURM_JOB_GPUS": "0,1,3"}, [3, None, None]),
        ({"SLURM_JOB_GPUS": "0-3"}, [4, None, None]),
        ({"SLURM_GPUS_ON_NODE": "2"}, [2, None, None]),
        ({"SLURM_GPUS_ON_NODE": "2", "SLURMD_NODENAME": "m5"}, [None, None, 2]),
        ({"SLURM_GPUS_ON_NODE": "2", "SLURMD_NODENAME": MISSING}, [None, None, None]),
    ],
)
def test_gpus_of_slurm(changes: dict[str, Any], gpus: list[Optional[int]]) -> None:
    assert [node.gpus for node in found(changed(SLURM, **changes)).nodes] == gpus


def test_on_the_only_node_its_name_does_not_matter() -> None:
    one = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_GPUS_ON_NODE": "0", "SLURM_CPUS_ON_NODE": "8"}
    assert found(one).nodes == (NodeShare("n1", 8, 0),)


@pytest.mark.parametrize(
    ("changes", "gib"),
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, [2, 2, 2]),
        ({"SLURM_MEM_PER_NODE": "2G"}, [2, 2, 2]),
        ({"SLURM_MEM_PER_NODE": "1T"}, [1024, 1024, 1024]),
        ({"SLURM_MEM_PER_NODE": "1048576K"}, [1, 1, 1]),
        ({"SLURM_MEM_PER_NODE": "0"}, [None, None, None]),
        ({"SLURM_MEM_PER_NODE": MISSING}, [None, None, None]),
        ({"SLURM_MEM_PER_NODE": MISSING, "SLURM_MEM_PER_CPU": "1024"}, [48, 48, 24]),
        ({"SLURM_MEM_PER_NODE": MISSING, "SLURM_MEM_PER_CPU": "1024", "SLURM_JOB_CPUS_PER_NODE": MISSING}, [None] * 3),
        ({"SLURM_MEM_PER_NODE": MISSING, "SLURM_MEM_PER_GPU": "1024", "SLURM_GPUS_PER_NODE": "4"}, [4, 4, 4]),
    ],
)
def test_memory_of_slurm(changes: dict[str, Any], gib: list[Optional[int]]) -> None:
    expected = [None if size is None else size * GIB for size in gib]
    assert [node.memory_bytes for node in found(changed(SLURM, **changes)).nodes] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_ID", "4242; true"), ("SLURM_JOB_NODELIST", "n[1-"), ("SLURM_JOB_NODELIST", "(null)"),
        ("SLURM_JOB_NODELIST", "n1,n2,n1"), ("SLURM_JOB_CPUS_PER_NODE", "48"), ("SLURM_JOB_CPUS_PER_NODE", "48(x4)"),
        ("SLURM_JOB_CPUS_PER_NODE", "48(x2)"), ("SLURM_JOB_CPUS_PER_NODE", "48(2),24"), ("SLURM_JOB_CPUS_PER_NODE", "many"),
        ("SLURM_JOB_CPUS_PER_NODE", "48(x999999)"), ("SLURM_MEM_PER_NODE", "lots"), ("SLURM_MEM_PER_NODE", "-1"),
        ("SLURM_GPUS_PER_NODE", "a100"), ("SLURM_GPUS_PER_NODE", "4,"), ("SLURM_JOB_GPUS", "GPU-1"),
        ("SLURM_GPUS_ON_NODE", "two"), ("SLURM_JOB_END_TIME", "tomorrow"),
    ],
)  # fmt: skip
def test_what_slurm_would_not_say(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        look(changed(SLURM, **{name: value}))


def test_a_job_of_slurm_without_nodes() -> None:
    with pytest.raises(ConfigError, match="SLURM_JOB_NODELIST"):
        look({"SLURM_JOB_ID": "1"})


# ----------------------------------------------------------------------------------------------------- PBS


def test_torque_has_a_line_for_each_slot() -> None:
    outside = Outside({PBS["PBS_NODEFILE"]: "n1\nn1\nn1\nn2\nn2\n"})
    torque = changed(PBS, PBS_NUM_PPN="3", PBS_NP="5", PBS_VERSION="TORQUE-6.1.2")
    nodes = (NodeShare("n1", 3, index=0), NodeShare("n2", 2, index=3))
    assert look(torque, outside) == Allocation("pbs", "123.server", nodes)


def test_openpbs_with_one_rank_on_each_node() -> None:
    # select=2:ncpus=36: one line for each node; NCPUS is about the first.
    outside = Outside({PBS["PBS_NODEFILE"]: "n1.cluster\nn2.cluster\n"})
    nodes = found(changed(PBS, NCPUS="36", OMP_NUM_THREADS="36"), outside).nodes
    assert nodes == (NodeShare("n1.cluster", 36, index=0), NodeShare("n2.cluster", None, index=1))


def test_openpbs_with_a_rank_for_each_core() -> None:
    # select=2:ncpus=2:mpiprocs=2:ompthreads=1
    outside = Outside({PBS["PBS_NODEFILE"]: "n1\nn1\nn2\nn2\n"})
    nodes = found(changed(PBS, NCPUS="1"), outside).nodes
    assert nodes == (NodeShare("n1", 2, index=0), NodeShare("n2", 2, index=2))


def test_a_node_that_comes_twice_in_the_node_file_keeps_its_first_line() -> None:
    outside = Outside({PBS["PBS_NODEFILE"]: "n1\nn2\nn1\n\n"})
    assert found(PBS, outside).nodes == (NodeShare("n1", 2, index=0), NodeShare("n2", 1, index=1))


@pytest.mark.parametrize("text", ["", "\n\n", "n1 n2\n", "-n1\n"])
def test_a_node_file_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="PBS_NODEFILE"):
        look(PBS, Outside({PBS["PBS_NODEFILE"]: text}))


def test_a_job_of_pbs_without_node_file() -> None:
    with pytest.raises(ConfigError, match="PBS_NODEFILE"):
        look(changed(PBS, PBS_NODEFILE=MISSING))
    with pytest.raises(ConfigError, match="PBS_NODEFILE: cannot read"):
        look(PBS)
    with pytest.raises(ConfigError, match="NCPUS"):
        look(changed(PBS, NCPUS="all"), Outside({PBS["PBS_NODEFILE"]: "n1\n"}))


# ----------------------------------------------------------------------------------------------------- LSF


def test_lsf_keeps_the_batch_host() -> None:
    nodes = (NodeShare("batch1", 1), NodeShare("h1", 4), NodeShare("h2", 4))
    assert look(LSF) == Allocation("lsf", "77", nodes)


def test_lsf_with_a_host_file() -> None:
    outside = Outside({LSF["LSB_DJOB_HOSTFILE"]: "h1\nh1\nh2\n"})
    assert found(changed(LSF, LSB_MCPU_HOSTS=MISSING), outside).nodes == (NodeShare("h1", 2), NodeShare("h2", 1))


def test_jobs_of_an_array_of_lsf_have_names_of_their_own() -> None:
    assert found(changed(LSF, LSB_JOBINDEX="3")).id == "77[3]"
    assert found(changed(LSF, LSB_JOBINDEX=MISSING)).id == "77"


@pytest.mark.parametrize("value", ["h1", "h1 4 h2", "h1 four", "4 h1", " ", "h1 4 -h2 4"])
def test_what_lsf_would_not_say(value: str) -> None:
    with pytest.raises(ConfigError, match="LSB_MCPU_HOSTS"):
        look(changed(LSF, LSB_MCPU_HOSTS=value))


def test_a_job_of_lsf_without_hosts() -> None:
    with pytest.raises(ConfigError, match="LSB_DJOB_HOSTFILE"):
        look({"LSB_JOBID": "77"})
    with pytest.raises(ConfigError, match="LSB_DJOB_HOSTFILE: cannot read"):
        look(changed(LSF, LSB_MCPU_HOSTS=MISSING))


# ----------------------------------------------------------------------------------------------------- Grid Engine


def grid_engine(job: str = SGE_JOB, queue: str = SGE_QUEUE) -> Outside:
    return Outside({SGE["PE_HOSTFILE"]: SGE_HOSTS}, {QSTAT_JOB: job, QSTAT_QUEUE: queue})


def test_grid_engine() -> None:
    nodes = (NodeShare("n2", 2), NodeShare("n3", 2), NodeShare("n1", 2))
    assert look(SGE, grid_engine()) == Allocation("sge", "9", nodes, 1795359273 + 7140)


def test_grid_engine_with_a_host_in_two_queues() -> None:
    lines = "n1.cluster 4 all.q@n1.cluster UNDEFINED\nn2.cluster 6 all.q@n2.cluster 0,0:0,1\nn1.cluster 2 b.q@n1.cluster <NULL>\n"
    nodes = (NodeShare("n1.cluster", 6), NodeShare("n2.cluster", 6))
    assert look(SGE, Outside({SGE["PE_HOSTFILE"]: lines})) == Allocation("sge", "9", nodes)


def test_grid_engine_without_a_parallel_environment() -> None:
    serial = changed(SGE, PE=MISSING, PE_HOSTFILE=MISSING, SGE_RSH_COMMAND=MISSING, NHOSTS="1", NQUEUES="1", NSLOTS="1")
    assert look(serial) == Allocation("sge", "9", (NodeShare("n2", 1),))
    assert look(serial, grid_engine()) == Allocation("sge", "9", (NodeShare("n2", 1),), 1795359273 + 7140)
    assert found(changed(serial, NSLOTS=MISSING, NHOSTS=MISSING)).nodes == (NodeShare("n2"),)


def test_tasks_of_an_array_of_grid_engine_have_names_and_ends_of_their_own() -> None:
    third, fifth = (
        f"<JAT_task_number>{number}</JAT_task_number><JAT_start_time>179535927{number}</JAT_start_time>"
        for number in (3, 5)
    )
    outside = grid_engine(third + "</ulong_sublist><ulong_sublist><JAT_status>128</JAT_status>" + fifth)
    allocation = found(changed(SGE, SGE_TASK_ID="5"), outside)
    assert (allocation.id, allocation.ends_at) == ("9.5", 1795359275 + 4 * 3600)
    allocation = found(changed(SGE, SGE_TASK_ID="4"), outside)
    assert (allocation.id, allocation.ends_at) == ("9.4", None)
    assert found(changed(SGE, SGE_TASK_ID=MISSING), outside).id == "9"


@pytest.mark.parametrize(
    ("job", "queue", "seconds"),
    [
        (SGE_JOB, SGE_QUEUE.replace("infinity", "00:30:00"), 1800),
        (SGE_JOB.replace("hard_resource", "soft_resource"), SGE_QUEUE, 4 * 3600),
        (SGE_JOB.replace("hard_resource", "soft_resource"), SGE_QUEUE.replace("04:00:00", "infinity"), None),
        (SGE_JOB.replace("hard_resource", "soft_resource"), SGE_QUEUE.replace("04:00:00", "4::"), 4 * 3600),
        (SGE_JOB.replace("hard_resource", "soft_resource"), SGE_QUEUE.replace("04:00:00", "300"), 300),
        (SGE_JOB.replace("s_rt", "h_vmem"), SGE_QUEUE, 7200),
        (SGE_JOB.replace("1795359273", "1795359273000"), SGE_QUEUE, None),  # a unit that is not known
        (SGE_JOB.replace("1795359273", "0"), SGE_QUEUE, None),
        ("<unknown_jobs/>", SGE_QUEUE, None),
        ("", "", None),
    ],
)
def test_when_a_job_of_grid_engine_ends(job: str, queue: str, seconds: Optional[int]) -> None:
    assert found(SGE, grid_engine(job, queue)).ends_at == (None if seconds is None else 1795359273 + seconds)


def test_the_end_is_unknown_where_a_node_may_not_ask_grid_engine() -> None:
    for answers in ({}, {QSTAT_JOB: SGE_JOB}):
        outside = Outside({SGE["PE_HOSTFILE"]: SGE_HOSTS}, answers)
        assert found(SGE, outside).ends_at is None


@pytest.mark.parametrize("text", ["", "n1\n", "n1 many q@n1\n", "n[1-2] 4 q\n"])
def test_a_host_file_of_grid_engine_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="PE_HOSTFILE"):
        look(SGE, Outside({SGE["PE_HOSTFILE"]: text}))


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({}, "PE_HOSTFILE: cannot read"),
        ({"PE_HOSTFILE": MISSING}, "NHOSTS is 3, but PE_HOSTFILE"),
        ({"PE_HOSTFILE": MISSING, "NHOSTS": "1", "HOSTNAME": MISSING}, "HOSTNAME"),
        ({"PE_HOSTFILE": MISSING, "NHOSTS": "1", "HOSTNAME": "a b"}, "HOSTNAME"),
        ({"PE_HOSTFILE": MISSING, "NHOSTS": "1", "NSLOTS": "x"}, "NSLOTS"),
        ({"PE_HOSTFILE": MISSING, "NHOSTS": "x"}, "NHOSTS"),
    ],
)
def test_what_grid_engine_would_not_say(changes: dict[str, Any], about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        look(changed(SGE, **changes))


# ----------------------------------------------------------------------------------------------------- Flux


def resource_set(**execution: Any) -> str:
    """As ``flux resource R`` prints it (RFC 20)."""
    body = {
        "R_lite": [
            {"rank": "0,2", "children": {"core": "0-35", "gpu": "0-1"}},
            {"rank": "1", "children": {"core": "0-7,9"}},
        ],
        "starttime": 1699990000.0,
        "expiration": 1700003600.0,
        "nodelist": ["fluke[3-4]", "pi5"],
    }
    return json.dumps({"version": 1, "execution": {**body, **execution}})


def test_an_instance_of_flux() -> None:
    outside = Outside(answers={"flux resource R": resource_set(), "flux getattr jobid": "ƒ2Xyz\n"})
    nodes = (
        NodeShare("fluke3", 36, 2, index=0), NodeShare("fluke4", 9, 0, index=1), NodeShare("pi5", 36, 2, index=2),
    )  # fmt: skip
    assert look(FLUX, outside) == Allocation("flux", "ƒ2Xyz", nodes, NOW + 3600)


def test_an_instance_of_flux_that_is_no_job() -> None:
    outside = Outside(answers={"flux resource R": resource_set(expiration=0.0)})
    allocation = found(FLUX, outside)
    assert (allocation.id, allocation.ends_at) == (FLUX["FLUX_URI"], None)


def test_a_task_of_a_job_of_flux() -> None:
    lite = [{"rank": "[7-8]", "children": {"core": "6-7"}}]
    answer = resource_set(R_lite=lite, nodelist=["n7", "n8"], expiration=4_900_591_421)
    outside = Outside(answers={"flux job info fABC R": answer})
    nodes = (NodeShare("n7", 2, 0, index=7), NodeShare("n8", 2, 0, index=8))
    assert look({**FLUX, "FLUX_JOB_ID": "fABC"}, outside) == Allocation("flux", "fABC", nodes, 4_900_591_421.0)


def test_brokers_of_one_node_count_once() -> None:
    lite = [{"rank": "0-3", "children": {"core": "0-35"}}]
    answer = resource_set(R_lite=lite, nodelist=["quartz[2306,2306,2306,2306]"])
    assert found(FLUX, Outside(answers={"flux resource R": answer})).nodes == (NodeShare("quartz2306", 36, 0, index=0),)


def test_flux_inside_slurm_is_what_is_ours() -> None:
    assert found({**SLURM, **FLUX}, Outside(answers={"flux resource R": resource_set()})).scheduler == "flux"


def test_a_proxy_to_flux_elsewhere_is_no_allocation() -> None:
    assert look({**FLUX, "FLUX_PROXY_REMOTE": "elsewhere"}) is None
    assert found({**SLURM, **FLUX, "FLUX_PROXY_REMOTE": "elsewhere"}).scheduler == "slurm"


@pytest.mark.parametrize(
    "answer",
    [
        "", "[]", "{}", '{"execution": 1}', '{"execution": {"R_lite": []}}', '{"execution": {"R_lite": [{}], "nodelist": []}}',
        resource_set(nodelist=["n[1-2]"]), resource_set(nodelist=["n[1-"]), resource_set(expiration="later"),
        resource_set(R_lite=[]), resource_set(R_lite=[{"rank": "x", "children": {}}]), resource_set(R_lite=[{"rank": "0"}]),
    ],
)  # fmt: skip
def test_what_flux_would_not_say(answer: str) -> None:
    with pytest.raises(ConfigError, match="FLUX_URI"):
        look(FLUX, Outside(answers={"flux resource R": answer}))


def test_flux_that_does_not_answer() -> None:
    with pytest.raises(ConfigError, match="FLUX_URI") as caught:
        look(FLUX)
    assert caught.value.hint


# ----------------------------------------------------------------------------------------------------- Cobalt


def test_cobalt() -> None:
    outside = Outside({COBALT["COBALT_NODEFILE"]: "thetagpu01\nthetagpu02\n"})
    assert look(COBALT, outside) == Allocation("cobalt", "555", (NodeShare("thetagpu01"), NodeShare("thetagpu02")))


def test_cobalt_without_node_file() -> None:
    with pytest.raises(ConfigError, match="COBALT_NODEFILE"):
        look({"COBALT_JOBID": "555"})
    with pytest.raises(ConfigError, match="COBALT_NODEFILE"):
        look(COBALT)


# ----------------------------------------------------------------------------------------------------- host files


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1\n", [("n1", None)]),
        ("n1\nn2 # the other\n# none\n\n", [("n1", None), ("n2", None)]),
        ("n1 slots=4\nn2:8\n", [("n1", 4), ("n2", 8)]),
        ("n1\nn2\nn1\nn1\n", [("n1", 3), ("n2", None)]),
        ("n1 slots=4\nn1\nn1:2", [("n1", 7)]),
        ("n[1-2] slots=4", [("n1", 4), ("n2", 4)]),
        ("  localhost\t#here", [("localhost", None)]),
        ("10.0.0.1:2\r\n", [("10.0.0.1", 2)]),
    ],
)
def test_a_host_file(text: str, nodes: list[tuple[str, Optional[int]]]) -> None:
    allocation = from_hostfile(text)
    assert allocation.scheduler == "hostfile"
    assert [(node.host, node.cores) for node in allocation.nodes] == nodes
    assert allocation.ends_at is None


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "names no host"), ("# n1\n", "names no host"), ("n1\nn2 slots=x\n", "line 2"), ("n1 slots=0", "line 1"),
        ("n1 n2", "line 1"), ("n1:4 slots=4", "line 1"), ("n1:", "line 1"), ("n1\n\n-oX\n", "line 3"), ("n[1", "line 1"),
        ("n1 gpus=2", "line 1"), ("user@n1", "line 1"), (":4", "line 1"), ("n1:many", "line 1"),
    ],
)  # fmt: skip
def test_what_is_no_host_file(text: str, about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        from_hostfile(text)


def test_the_same_hosts_make_the_same_id() -> None:
    assert from_hostfile("n1\nn2\n").id == from_hostfile("# comment\nn[1-2]").id
    assert from_hostfile("n1\nn2\n").id != from_hostfile("n2\nn1\n").id


# ----------------------------------------------------------------------------------------------------- shares


def test_the_share_of_a_host() -> None:
    allocation = from_hostfile("n1.cluster\nn2\nn2.cluster\n")
    assert [share and share.host for share in map(allocation.share_of, ["n1", "n1.cluster", "n2", "n2.cluster", "n3"])] == [
        "n1.cluster", "n1.cluster", "n2", "n2.cluster", None,
    ]  # fmt: skip


def test_localhost_is_the_host_that_asks() -> None:
    share = from_hostfile("localhost\nn2\n").share_of("n1")
    assert share is not None
    assert share.host == "localhost"
    assert hosts(from_hostfile("localhost\nn2\n")) == ["localhost", "n2"]
