"""The commands that start workers. That real launchers take them is for the tests that have one."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from typing import Optional

import pytest

from lwfm import hostlist
from lwfm.errors import ConfigError
from lwfm.launch.allocation import Allocation, NodeShare
from lwfm.launch.launchers import Launch, commands

WORDS = ["/opt/python3", "lwfm.pyz", "worker"]
AWKWARD = [
    "/opt/my python",
    "it's",
    'say "$HOME"',
    "a;b|c&d",
    "`x`",
    "*",
    "",
    "back\\slash",
    "two\nlines",
    "--flag=x y",
    "ü",
]

# What the programs say of themselves: Debian's for Slurm, Open MPI 4 and MPICH; the others' own pages.
OUTLIVING = ("/bin/sh", "-c", 'trap : HUP INT TERM USR1 USR2 XCPU; "$@"; exit 0', "sh")
OPEN_MPI_4 = "mpiexec (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n"
OPEN_MPI_5 = "mpiexec (Open MPI) 5.0.3\n"
MPICH = "HYDRA build details:\n    Version:                                 4.0.2\n"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307\nCopyright 2003-2023, Intel Corporation.\n"
PALS = "PALS 1.2.12\n"


def of(scheduler: str, *names: str) -> Allocation:
    return Allocation(scheduler, "4242", tuple(NodeShare(name, index=4 * place) for place, name in enumerate(names)))


def on_path(*programs: str) -> Callable[[str], Optional[str]]:
    return lambda program: f"/usr/bin/{program}" if program in programs else None


def start(
    allocation: Allocation,
    *programs: str,
    words: Sequence[str] = WORDS,
    own_host: str = "n1",
    version: Optional[str] = "slurm 22.05.8",
    launcher: Optional[str] = None,
) -> list[Launch]:
    def versions(asked: Sequence[str]) -> str:
        if version is None:
            raise TimeoutError(110, "no answer")
        assert list(asked) in (["srun", "--version"], ["mpiexec", "--version"])
        return version

    return commands(
        allocation, words, own_host=own_host, versions=versions, which=on_path(*programs), launcher=launcher
    )


def test_slurm_has_one_step_for_all_nodes() -> None:
    (launch,) = start(of("slurm", "n1", "n2", "n3", "m5"), "srun")
    assert launch.argv == (
        "srun", "--overlap", "--jobid=4242", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--nodelist=n[2-3],m5",
        "--cpu-bind=none", "--mem=0", "--mpi=none", "--kill-on-bad-exit=0", "--wait=0", "--no-kill", "--input=none",
        "--export=ALL", *WORDS,
    )  # fmt: skip
    assert launch.hosts == ("n2", "n3", "m5")
    assert launch.files == {}


def test_what_the_job_script_asked_for_does_not_shrink_the_step() -> None:
    (launch,) = start(of("slurm", "n1", "n2"), "srun")
    assert set(launch.environment.values()) == {None}
    assert {"SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU", "SLURM_GPUS", "SLURM_NTASKS", "SLURM_HINT"} <= set(
        launch.environment
    )
    # Where to find Slurm and the job must stay.
    assert not {"SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_CLUSTERS"} & set(launch.environment)


@pytest.mark.parametrize(
    ("version", "overlap"),
    [
        ("slurm 22.05.8", True), ("slurm 20.11.0", True), ("slurm-wlm 21.08.5", True), ("slurm 20.11.9-Bull.1.0", True),
        ("slurm 20.02.7", False), ("slurm 19.05.5", False), ("slurm 17.11.2", False), ("slurm 100.1.2", True),
        ("", True), (None, True),
    ],
)  # fmt: skip
def test_an_older_srun_knows_no_overlap(version: Optional[str], overlap: bool) -> None:
    (launch,) = start(of("slurm", "n1", "n2"), "srun", version=version)
    assert ("--overlap" in launch.argv) is overlap


def test_ten_thousand_nodes_fit_into_one_argument() -> None:
    names = hostlist.expand("frontier[00001-10000]")
    (launch,) = start(of("slurm", *names), "srun", own_host="frontier00001")
    assert max(map(len, launch.argv)) < 1000
    assert len(launch.hosts) == 9999


def test_pbs_has_a_command_for_each_node() -> None:
    launches = start(of("pbs", "n1", "n2", "n3"), "pbsdsh")
    assert [launch.argv for launch in launches] == [
        ("pbsdsh", "-n", "4", "--", "bash", "-l", "-c", "exec /opt/python3 lwfm.pyz worker"),
        ("pbsdsh", "-n", "8", "--", "bash", "-l", "-c", "exec /opt/python3 lwfm.pyz worker"),
    ]
    assert [launch.hosts for launch in launches] == [("n2",), ("n3",)]


def test_lsf_has_one_command_for_all_nodes() -> None:
    (launch,) = start(of("lsf", "n1", "n2", "n3"), "blaunch")
    assert launch == Launch(("blaunch", "-n", "-no-shell", "-z", "n2 n3", *WORDS), ("n2", "n3"))


def test_grid_engine_has_a_command_for_each_node() -> None:
    launches = start(of("sge", "n1", "n2", "n3"), "qrsh")
    shell = tuple(map(shlex.quote, OUTLIVING))
    assert [launch.argv for launch in launches] == [
        ("qrsh", "-inherit", "-nostdin", "-V", "n2", *shell, *WORDS),
        ("qrsh", "-inherit", "-nostdin", "-V", "n3", *shell, *WORDS),
    ]


def test_a_task_of_grid_engine_outlives_a_worker_that_is_killed() -> None:
    """Grid Engine kills the whole job when a signal has ended a task."""
    (launch,) = start(of("sge", "n1", "n2"), "qrsh", words=["sh", "-c", "kill -KILL $$"])
    for signals in ("", "kill -USR1 $PPID $$; "):  # that one is ignored by the task, but not by the worker
        script = " ".join(launch.argv[launch.argv.index("n2") + 1 :]).replace("kill -KILL", f"{signals}kill -KILL")
        assert subprocess.run(["/bin/sh", "-c", script], stderr=subprocess.DEVNULL).returncode == 0


def test_flux_has_one_command_for_the_ranks_of_the_nodes() -> None:
    nodes = tuple(NodeShare(f"n{rank}", index=rank) for rank in (0, 1, 2, 3, 7))
    (launch,) = start(Allocation("flux", "f1", nodes), "flux", own_host="n0")
    assert launch == Launch(("flux", "exec", "--noinput", "--rank=1-3,7", *WORDS), ("n1", "n2", "n3", "n7"))
    (launch,) = start(Allocation("flux", "f1", nodes[:2]), "flux", own_host="n1")
    assert launch.argv[3] == "--rank=0"


def test_ssh_has_a_command_for_each_node() -> None:
    (launch,) = start(of("hostfile", "n1", "n2"), "ssh")
    options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-n")
    assert launch == Launch(("ssh", *options, "n2", "/opt/python3 lwfm.pyz worker"), ("n2",))


@pytest.mark.parametrize(
    ("version", "argv"),
    [
        (OPEN_MPI_4, ("--bind-to", "none", "--map-by", "ppr:1:node", "-n", "2", "--hostfile", "{file:hosts}")),
        (OPEN_MPI_5, ("--bind-to", "none", "--map-by", "ppr:1:node", "-n", "2", "--hostfile", "{file:hosts}")),
        (MPICH, ("-bind-to", "none", "-ppn", "1", "-n", "2", "-f", "{file:hosts}")),
        (INTEL, ("-genv", "I_MPI_PIN", "off", "-ppn", "1", "-n", "2", "-f", "{file:hosts}")),
        (PALS, ("--cpu-bind", "none", "--ppn", "1", "-n", "2", "--hostfile", "{file:hosts}")),
    ],
)
def test_mpiexec_has_one_command_and_a_file_of_hosts(version: str, argv: tuple[str, ...]) -> None:
    (launch,) = start(of("cobalt", "n1", "n2", "n3"), "mpiexec", "ssh", version=version)
    assert launch.argv == ("mpiexec", *argv, *OUTLIVING, *WORDS)
    assert launch.files == {"hosts": "n2\nn3\n"}
    assert launch.hosts == ("n2", "n3")
    assert launch.with_files({"hosts": "/tmp/h"}) == ("mpiexec", *argv[:-1], "/tmp/h", *OUTLIVING, *WORDS)


def test_the_files_are_put_in_place_of_their_names_only() -> None:
    launch = Launch(("x", "{file:hosts}", "{file:other}", "a{file:hosts}"), ("n1",), {}, {"hosts": ""})
    assert launch.with_files({"hosts": "H", "other": "O"}) == ("x", "H", "{file:other}", "a{file:hosts}")
    with pytest.raises(KeyError):
        launch.with_files({})
    assert Launch(("x",), ("n1",)).with_files({}) == ("x",)


@pytest.mark.parametrize("version", ["", "mpiexec 1.0 of somebody", None])
def test_an_unknown_mpiexec_is_not_tried(version: Optional[str]) -> None:
    with pytest.raises(ConfigError, match="mpiexec"):
        start(of("cobalt", "n1", "n2"), "mpiexec", version=version)


@pytest.mark.parametrize(
    ("scheduler", "programs", "chosen"),
    [
        ("slurm", ["srun", "mpiexec", "ssh"], "srun"), ("slurm", ["mpiexec", "ssh"], "mpiexec"), ("slurm", ["ssh"], "ssh"),
        ("pbs", ["pbsdsh", "mpiexec", "ssh"], "pbsdsh"), ("pbs", ["srun", "ssh"], "ssh"),
        ("lsf", ["blaunch", "ssh"], "blaunch"), ("sge", ["qrsh", "ssh"], "qrsh"), ("flux", ["flux", "srun", "ssh"], "flux"),
        ("cobalt", ["srun", "mpiexec", "ssh"], "mpiexec"), ("cobalt", ["ssh"], "ssh"),
        ("hostfile", ["srun", "mpiexec", "ssh"], "ssh"), ("hostfile", ["mpiexec"], "mpiexec"),
    ],
)  # fmt: skip
def test_which_launcher_is_chosen(scheduler: str, programs: list[str], chosen: str) -> None:
    version = OPEN_MPI_4 if chosen == "mpiexec" else "slurm 22.05.8"
    assert start(of(scheduler, "n1", "n2"), *programs, version=version)[0].argv[0] == chosen


def test_a_launcher_that_is_asked_for() -> None:
    assert start(of("slurm", "n1", "n2"), "srun", "ssh", launcher="ssh")[0].argv[0] == "ssh"
    assert start(of("slurm", "n1", "n2"), "srun", "mpiexec", launcher="mpiexec", version=MPICH)[0].argv[0] == "mpiexec"
    assert start(of("slurm", "n1", "n2"), "srun", launcher="srun")[0].argv[0] == "srun"


@pytest.mark.parametrize(
    ("scheduler", "launcher", "about"),
    [
        ("slurm", "rsh", "no launcher 'rsh'"), ("slurm", "", "no launcher ''"), ("slurm", "mpiexec", "not on PATH"),
        ("hostfile", "srun", "does not fit"), ("flux", "pbsdsh", "does not fit"), ("pbs", "flux", "does not fit"),
        ("slurm", "blaunch", "does not fit"), ("slurm", "qrsh", "does not fit"), ("lsf", None, "nothing is on PATH"),
    ],
)  # fmt: skip
def test_launchers_that_cannot_do_it(scheduler: str, launcher: Optional[str], about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        start(of(scheduler, "n1", "n2"), "srun", launcher=launcher)


@pytest.mark.parametrize("words", [[], ["a", "b\0c"]])
def test_words_that_cannot_be_a_command(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="command of a worker"):
        start(of("slurm", "n1", "n2"), "srun", words=words)


@pytest.mark.parametrize("own_host", ["n1", "n1.cluster", "N1"])
def test_the_own_host_gets_no_worker(own_host: str) -> None:
    assert start(of("hostfile", "n1", "n2"), "ssh", own_host=own_host)[0].hosts == ("n2",)
    assert start(of("hostfile", "n2", "n1"), "ssh", own_host=own_host)[0].hosts == ("n2",)


def test_localhost_is_the_own_host() -> None:
    assert [launch.hosts for launch in start(of("hostfile", "localhost", "n2"), "ssh")] == [("n2",)]


def test_from_a_launch_node_all_nodes_get_one() -> None:
    (launch,) = start(of("slurm", "n1", "n2"), "srun", own_host="login1")
    assert launch.hosts == ("n1", "n2")


def test_no_other_node_needs_no_command() -> None:
    assert start(of("slurm", "n1")) == []
    assert start(of("hostfile", "localhost")) == []


@pytest.mark.parametrize("scheduler", ["slurm", "lsf", "flux", "cobalt"])
def test_words_arrive_as_they_are_where_no_shell_is_between(scheduler: str) -> None:
    (launch,) = start(
        of(scheduler, "n1", "n2"), "srun", "blaunch", "flux", "mpiexec", words=AWKWARD, version=OPEN_MPI_4
    )
    assert launch.argv[-len(AWKWARD) :] == tuple(AWKWARD)


@pytest.mark.parametrize(("scheduler", "program"), [("pbs", "pbsdsh"), ("sge", "qrsh"), ("hostfile", "ssh")])
def test_words_arrive_as_they_are_through_a_shell(scheduler: str, program: str) -> None:
    words = ["printf", r"%s\0", *AWKWARD]
    (launch,) = start(of(scheduler, "n1", "n2"), program, words=words)
    # What ssh and qrsh do: they join what follows the host with spaces and give it to the shell there.
    script = launch.argv[-1] if scheduler == "pbs" else " ".join(launch.argv[launch.argv.index("n2") + 1 :])
    done = subprocess.run(["/bin/sh", "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split("\0")[:-1] == AWKWARD
