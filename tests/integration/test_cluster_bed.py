"""The cluster that other tests run on: it is a real one, what it does to its nodes happens, and it leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import cluster as bed
from support.cluster import Cluster
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.root]

SERVER = """\
import socket, sys
listening = socket.create_server(("", 0))
print(listening.getsockname()[1], flush=True)
connection, peer = listening.accept()
connection.sendall(connection.recv(100).upper())
"""
CLIENT = """\
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
connection.sendall(b"hello")
print(connection.recv(100).decode())
"""
OWNER = """\
import signal, sys
from support.cluster import Cluster
with Cluster(nodes=2) as cluster:
    cluster.batch("sleep 1000", nodes=2).wait_state("RUNNING")
    print(cluster.root, cluster.address, flush=True)
    signal.pause()
"""

cluster = bed.cluster


@pytest.fixture
def harmed(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, made whole again afterwards."""
    yield cluster
    cluster.restore()


def test_slurm_shows_its_nodes_idle(cluster: Cluster) -> None:
    cluster.restore()
    listed = cluster.run("sinfo", "-h", "-N", "-o", "%N %c %T").stdout.splitlines()
    assert listed == ["n1 2 idle", "n2 2 idle", "n3 2 idle", "n4 2 idle"]


def test_a_step_runs_on_all_nodes_each_with_its_own_name(cluster: Cluster) -> None:
    done = cluster.run("srun", "-N4", "hostname")
    assert sorted(done.stdout.split()) == cluster.hosts == ["n1", "n2", "n3", "n4"]


def test_slurm_commands_run_with_the_environment_alone(cluster: Cluster) -> None:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%N"], env=cluster.environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "n[1-4]\n"


def test_a_batch_job_runs_on_two_nodes(cluster: Cluster) -> None:
    job = cluster.batch("echo $SLURM_JOB_NODELIST $MARK; srun hostname", nodes=2, env={"MARK": "here"})
    assert job.wait() == "COMPLETED"
    assert job.exit_code() == 0
    first, *names = job.output().split()
    assert first == "n[1-2]"
    assert names[0] == "here"
    assert sorted(names[1:]) == job.hosts() == ["n1", "n2"]


def test_the_exit_code_of_a_batch_job_is_passed_on(cluster: Cluster) -> None:
    job = cluster.batch("exit 7", nodes=2)
    assert (job.wait(), job.exit_code()) == ("FAILED", 7)


def test_a_batch_job_is_cancelled(cluster: Cluster) -> None:
    job = cluster.batch("sleep 1000")
    job.wait_state("RUNNING")
    (host,) = job.hosts()
    wait_until(lambda: running(cluster, host, "sleep 1000"), "the job's process")
    job.cancel()
    assert job.wait() == "CANCELLED"
    wait_until(lambda: not cluster.processes(host, daemons=False), f"{host} to be empty", on_timeout=cluster.log)


def test_ssh_reaches_a_node_by_its_name_and_knows_its_key(cluster: Cluster) -> None:
    ssh = ["ssh", "-F", str(cluster.ssh_config), "-o", "StrictHostKeyChecking=yes"]
    done = subprocess.run([*ssh, "n1", "hostname"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("n1\n", "", 0)

    none = cluster.root / "ssh" / "none"
    refused = subprocess.run(
        [*ssh, "-o", f"UserKnownHostsFile={none}", "n1", "hostname"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr

    other = ["-o", "HostKeyAlias=n2", "-o", "HostKeyAlgorithms=ssh-ed25519"]
    wrong = subprocess.run([*ssh, *other, "n1", "hostname"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 255, "n1 passed for n2"


def test_ssh_needs_no_options_within_the_cluster(cluster: Cluster) -> None:
    assert cluster.on("n2", "ssh", "n3", "hostname").stdout == "n3\n"
    assert cluster.run("ssh", "n4", "sinfo", "-h", "-o", "%N").stdout == "n[1-4]\n"


def test_a_server_on_a_node_is_reached_from_others_by_name(cluster: Cluster) -> None:
    for client in ("n2", None):
        words = cluster.command(sys.executable, "-c", SERVER, host="n1")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=cluster.environment) as server:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert cluster.run(sys.executable, "-c", CLIENT, "n1", port, host=client).stdout == "HELLO\n"
        assert server.returncode == 0


def test_a_node_reaches_this_machine_by_name(cluster: Cluster) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert cluster.on("n3", sys.executable, "-c", CLIENT, cluster.machine, port).stdout == "HELLO\n"


def test_nodes_have_run_and_shared_memory_of_their_own_and_share_the_rest(cluster: Cluster) -> None:
    shared = cluster.root / "jobs" / "shared"
    for own in ("/run/own", "/dev/shm/own"):
        cluster.on("n1", "touch", own)
        assert cluster.on("n1", "test", "-e", own).returncode == 0
        assert cluster.on("n2", "test", "-e", own, check=False).returncode == 1
        assert not Path(own).exists()
        cluster.on("n1", "rm", own)
    cluster.on("n1", "touch", str(shared))
    assert cluster.on("n2", "test", "-e", str(shared)).returncode == 0
    assert shared.exists()


def test_a_command_that_takes_too_long_is_killed(cluster: Cluster) -> None:
    with pytest.raises(AssertionError, match=r"took more than 0\.5 s"):
        cluster.on("n1", "sleep", "1001", timeout_s=0.5)
    wait_until(lambda: not cluster.processes("n1", daemons=False), "n1 to be empty")


def test_a_cut_link_makes_a_node_unreachable_and_joining_mends_it(harmed: Cluster) -> None:
    quick = ["ssh", "-F", str(harmed.ssh_config), "-o", "ConnectTimeout=1", "n2", "hostname"]
    assert harmed.run(*quick).stdout == "n2\n"
    job = harmed.batch("sleep 1000", options=["--nodelist=n2"])
    job.wait_state("RUNNING")
    (process,) = wait_until(lambda: running(harmed, "n2", "sleep 1000"), "the job's process")

    harmed.cut("n2")
    assert harmed.run(*quick, check=False).returncode == 255
    assert harmed.run("ssh", "n1", "hostname").stdout == "n1\n"
    assert running(harmed, "n2", "sleep 1000") == [process], "what runs on the node goes on"

    harmed.join("n2")
    assert harmed.run(*quick).stdout == "n2\n"
    assert harmed.run("srun", "--overlap", f"--jobid={job.job_id}", "hostname").stdout == "n2\n"


def test_a_killed_node_has_no_processes_and_comes_back(harmed: Cluster) -> None:
    job = harmed.batch("srun sh -c 'setsid sleep 1003 & sleep 1003'", options=["--nodelist=n3"])
    job.wait_state("RUNNING")
    marks = [f"sleep 100{number}" for number in (3, 4, 5)]
    harmed.run("ssh", "n3", "setsid", "sleep", "1004", ">/dev/null", "2>&1", "</dev/null", "&")
    with subprocess.Popen(harmed.command("sleep", "1005", host="n3"), env=harmed.environment) as entered:

        def all_there() -> bool:
            return [len(running(harmed, "n3", mark)) for mark in marks] == [2, 1, 1]

        wait_until(all_there, "the processes", on_timeout=lambda: str(harmed.processes("n3")))
        pids = list(harmed.processes("n3"))

        harmed.kill_node("n3")
        assert harmed.processes("n3") == {}
        assert not [pid for pid in pids if Path("/proc", str(pid), "exe").exists()]
    assert entered.returncode == -signal.SIGKILL
    assert harmed.run("ssh", "-o", "ConnectTimeout=1", "n3", "hostname", check=False).returncode == 255

    harmed.restart_node("n3")
    assert job.wait() == "NODE_FAIL"
    assert harmed.run("ssh", "n3", "hostname").stdout == "n3\n"
    assert harmed.run("srun", "--nodelist=n3", "hostname").stdout == "n3\n"


def test_restoring_removes_what_a_test_left(cluster: Cluster) -> None:
    job = cluster.batch("sleep 1000", nodes=4)
    job.wait_state("RUNNING")
    cluster.kill_node("n1")
    cluster.cut("n2")
    cluster.on("n3", "pkill", "slurmd")
    cluster.run("ssh", "n4", "setsid", "sleep", "1002", ">/dev/null", "2>&1", "</dev/null", "&")
    cluster.restore()
    assert job.state() in ("CANCELLED", "NODE_FAIL")
    assert cluster.states() == dict.fromkeys(cluster.hosts, "idle")
    assert all(not cluster.processes(host, daemons=False) for host in cluster.hosts)
    assert sorted(cluster.run("srun", "-N4", "hostname").stdout.split()) == cluster.hosts


def test_gpus_and_directories_of_a_nodes_own_and_nothing_left_after_the_block(cluster: Cluster) -> None:
    mounted = mounts()
    hosts_file = Path("/etc/hosts").read_bytes()
    with Cluster(nodes=2, cores=4, gpus=2, private=["/var/tmp"]) as second:
        assert second.address != cluster.address
        job = second.batch(
            "touch /var/tmp/made; srun sh -c 'echo $CUDA_VISIBLE_DEVICES'", options=["--gpus-per-node=2"]
        )
        assert (job.wait(), job.output()) == ("COMPLETED", "0,1\n")
        (host,) = job.hosts()
        assert (second.private(host, "/var/tmp") / "made").exists()
        assert not Path("/var/tmp/made").exists()
        second.batch("sleep 1000", nodes=2).wait_state("RUNNING")
        root, address = second.root, second.address
        assert users_of(root)
        assert address in addresses()
    assert users_of(root) == {}
    assert address not in addresses()
    assert not root.exists()
    assert Path("/etc/hosts").read_bytes() == hosts_file
    assert mounts() == mounted
    assert cluster.run("srun", "-N4", "hostname").returncode == 0, "another cluster is harmed"


def test_a_start_that_fails_leaves_nothing(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    broken = Cluster(nodes=2, private=["/no/such/directory"])
    with pytest.raises(AssertionError, match="n1 was not set up"):
        broken.__enter__()
    assert "no/such/directory" in capfd.readouterr().err
    assert not broken.root.exists()
    assert users_of(broken.root) == {}
    assert broken.address
    assert broken.address not in addresses()


def test_when_the_tests_are_killed_all_ends_and_the_next_cluster_removes_the_rest(cluster: Cluster) -> None:
    tests = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        place, address = owner.stdout.readline().split()
        root = Path(place)
        owner.kill()
    wait_until(lambda: not users_of(root), "the daemons and jobs to end", on_timeout=lambda: str(users_of(root)))
    wait_until(lambda: address not in addresses(), "the interface to be gone")
    assert root.exists()
    bed.remove_leftovers()
    assert not root.exists()
    assert cluster.root.exists(), "that of a living process is kept"


def test_it_says_why_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cluster.why_not() is None or isinstance(Cluster.why_not(), str)
    monkeypatch.setattr(Cluster, "programs", ("no-such-program",))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Cluster.why_not() == "a cluster needs programs that are not installed: no-such-program"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Cluster.why_not() == "a cluster needs to be root"


def running(cluster: Cluster, host: str, command: str) -> list[int]:
    """The processes of a node with this command line."""
    return [pid for pid, words in cluster.processes(host, daemons=False).items() if words == command]


def mounts() -> list[str]:
    """What is mounted on this machine where the nodes have something of their own."""
    places = ("/etc/hosts", "/etc/ssh/ssh_config", "/run", "/dev/shm", "/var/tmp", "/proc")
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[1] in places]


def users_of(root: Path) -> dict[int, str]:
    """The processes that have the cluster's directory on their command line or in their environment."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            words = Path("/proc", name, "cmdline").read_bytes()
            variables = Path("/proc", name, "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(root) in words or os.fsencode(root) in variables:
            found[int(name)] = words.replace(b"\0", b" ").decode("utf-8", "replace")
    return found


def addresses() -> str:
    """The addresses of this machine, as ``ip`` tells them."""
    told = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True)
    return told.stdout
