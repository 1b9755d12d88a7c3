"""Starting the tasks of a job: the words for each MPI, and what a task finds on its node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwfm import tasks
from lwfm.capacity import shape_of
from lwfm.errors import ConfigError, InvalidRecord
from lwfm.models import JobDefn, Resources
from lwfm.placing.gangs import Part, run_message
from lwfm.sites.base import JobRequest
from lwfm.tasks import Grant, Layout, start_command, wrapped

LAYOUT = Layout(("n2", "n3"), 4, "/spool/nodes")
VERSIONS = {
    "openmpi": "mpiexec (OpenRTE) 4.1.4",
    "openmpi5": "mpirun (Open MPI) 5.0.3",
    "mpich": "HYDRA build details:\n    Version: 4.0.2",
    "intel": "Intel(R) MPI Library for Linux* OS, Version 2021.9",
    "pals": "PALS mpiexec version 1.2.12",
}
"""Open MPI 4.1 and MPICH 4.0 as they say it; the others as their documentation shows it."""


def mpi(directory: Path, told: str) -> str:
    """A program named mpiexec that tells this version, and else prints its arguments as JSON."""
    program = directory / "mpiexec"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print({told!r} if '--version' in sys.argv else json.dumps(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("openmpi", "--bind-to none --map-by ppr:4:node --hostfile /spool/nodes -n 8 -x A"),
        ("openmpi5", "--bind-to none --map-by ppr:4:node --hostfile /spool/nodes -n 8 -x A"),
        ("mpich", "-bind-to none -n 8 -hosts n2:4,n3:4"),
        ("intel", "-genv I_MPI_PIN off -ppn 4 -n 8 -hosts n2,n3"),
        ("pals", "--cpu-bind none --ppn 4 -n 8 --hosts n2,n3"),
    ],
)
def test_each_mpi_is_told_in_its_own_words(tmp_path: Path, kind: str, words: str) -> None:
    program = mpi(tmp_path, VERSIONS[kind])
    exported = ["A", "SLURM_JOB_ID", "HOSTNAME"]
    assert start_command([program], LAYOUT, ["prog", "x y"], exported) == [program, *words.split(), "prog", "x y"]


def test_srun_is_told_the_nodes_and_keeps_its_options() -> None:
    found = start_command(["srun", "--mpi=pmix"], LAYOUT, ["prog"], [])
    assert found[:2] == ["srun", "--mpi=pmix"]
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--nodelist=n2,n3", "--overlap"} <= set(found)


def test_an_mpi_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not known here"):
        start_command([mpi(tmp_path, "something else")], LAYOUT, ["prog"], [])


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}).stdout


def test_a_task_finds_its_jobs_variables_and_what_it_was_given_on_this_node() -> None:
    here = os.uname().nodename
    core = min(os.sched_getaffinity(0))
    variables = {"LWFM_JOB_ID": "a'b $c", "LWFM_NODEFILE": "/gone", "OTHER": "no"}
    script = 'printf "%s|%s|%s|%s|%s" "$LWFM_JOB_ID" "$LWFM_NODEFILE" "$OTHER" "$CUDA_VISIBLE_DEVICES" "$(nproc)"'
    words = ["sh", "-c", script]
    assert run(wrapped(words, variables, {here: Grant([core], ["2", "3"])})) == "a'b $c|||2,3|1"
    elsewhere = {"n8": Grant([0, 1], ["0"]), "n9": Grant([0, 1], ["0"]), here: Grant([core], ["3"])}
    assert run(wrapped(words, variables, elsewhere)) == "a'b $c|||3|1"
    assert run(wrapped(words, variables, {here: Grant((), ())})).startswith("a'b $c||||")


def test_a_task_finds_the_way_to_the_agent_from_its_node() -> None:
    here = os.uname().nodename
    words = ["sh", "-c", 'echo "$LWFM_SOCKET|$LWFM_RENDEZVOUS"']
    ways = {
        "n8": {"LWFM_SOCKET": "/8"},
        "n9": {"LWFM_SOCKET": "/8"},
        here: {"LWFM_SOCKET": "/h", "LWFM_RENDEZVOUS": ""},
    }
    found = run(wrapped(words, {"LWFM_SOCKET": "/no"}, {host: Grant((), (), way) for host, way in ways.items()}))
    assert found == "/h|\n"


def test_many_nodes_that_are_alike_make_a_short_command() -> None:
    grants = {f"node{number}": Grant(list(range(64)), ["0", "1"], {"LWFM_SOCKET": "/s"}) for number in range(4000)}
    assert len("".join(wrapped(["prog"], {}, grants))) < 2000


def tasks_of(tmp_path: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    nodes = tmp_path / "nodes"
    nodes.write_text("n2 slots=2\nn3 slots=2\n")
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "LWFM_NODEFILE": str(nodes), "LWFM_TASKS_PER_NODE": "2"}
    return subprocess.run(
        [sys.executable, "-m", "lwfm", "tasks", "--", *words],
        capture_output=True, text=True, check=False, env={**variables, **environment},
    )  # fmt: skip


def test_the_command_becomes_the_starter(tmp_path: Path) -> None:
    mpi(tmp_path, VERSIONS["openmpi"])
    parts = json.dumps({"n3": [[0], [], {"LWFM_SOCKET": "/s"}]})
    done = tasks_of(tmp_path, {"PATH": str(tmp_path), "LWFM_PARTS": parts, "LWFM_EXPORT": "A B", "A": "1"}, "prog", "x")
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout)
    assert words[: words.index("/bin/sh")][-2:] == ["-x", "A"]
    assert words[-2:] == ["prog", "x"]
    assert "LWFM_PARTS" not in str(words)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PATH": "/nowhere"}, "nothing on the job's PATH starts tasks: neither mpiexec nor mpirun nor srun"),
        ({"PATH": "/nowhere", "LWFM_TASK_STARTER": "aprun -x"}, "'aprun' is not on the job's PATH"),
        ({"LWFM_NODEFILE": "/nowhere/nodes", "PATH": "/nowhere"}, "runs only inside a job that asks for tasks"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    done = tasks_of(tmp_path, environment, "prog")
    assert done.returncode == tasks.NOT_STARTED
    assert said.replace("'aprun'", "aprun") in done.stderr.replace("'aprun'", "aprun")
    assert "Traceback" not in done.stderr


def test_a_job_is_told_its_nodes() -> None:
    defn = JobDefn("prog 'a b'", cwd="/", env={"E": "1"}, resources=Resources(nodes=2, tasks_per_node=2, gpus=1))
    request = JobRequest("j", 1, defn, "c", {"PATH": "/bin"}, {"LWFM_JOB_ID": "j"})
    part = Part("n3.cluster", "n3", (4, 5), ("GPU-1",), {"LWFM_SOCKET": "/s"})
    message = run_message(request, shape_of(defn), "n2", "slurm-7", [part])
    assert message["argv"][-4:] == ["--", "/bin/sh", "-c", "prog 'a b'"]
    assert (message["cores"], message["gpus"]) == (2, 1)
    assert message["files"] == {"LWFM_NODEFILE": "n2 slots=2\nn3 slots=2\n", "SLURM_HOSTFILE": "n2\nn2\nn3\nn3\n"}
    env = message["env"]
    assert (env["LWFM_NODES"], env["LWFM_NODELIST"], env["LWFM_TASKS_PER_NODE"]) == ("2", "n[2-3]", "2")
    assert json.loads(env["LWFM_PARTS"]) == {"n3.cluster": [[4, 5], ["GPU-1"], {"LWFM_SOCKET": "/s"}]}
    assert env["LWFM_EXPORT"].split() == ["E", "PATH"]
    assert (env["SLURM_NODELIST"], env["SLURM_TASKS_PER_NODE"], env["SLURM_NTASKS"]) == ("n[2-3]", "2(x2)", "4")
    alone = JobDefn(["prog"], resources=Resources(nodes=1, cores=3))
    message = run_message(JobRequest("j", 1, alone, "c", {}, {}), shape_of(alone), "here")
    assert message["argv"] == ["prog"]
    assert message["files"] == {"LWFM_NODEFILE": "here slots=3\n"}
    assert not any(name.startswith("SLURM") for name in message["env"])


def test_part_of_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRecord, match="a GPU is given to one job at a time"):
        Resources(gpus=0.5)  # type: ignore[arg-type]
