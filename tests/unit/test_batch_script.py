"""The script of a batch job, run by real shells as a scheduler would, without a scheduler; and its exit record."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.models import JobDefn, Resources
from lwfm.sites.base import JobRequest
from lwfm.sites.batch.record import ExitRecord, read_claim, read_record
from lwfm.sites.batch.script import STANDS_DOWN, job_script, submitted_script
from lwfm.sites.batch.slurm import Slurm

from support.waiting import wait_until

JOB = "00000000-0000-7000-8000-0000000000ab"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    name = str(request.param)
    return [name, "sh"] if name == "busybox" else [name]


class Node:
    """Runs scripts as Slurm would start them."""

    def __init__(self, directory: Path, shell: list[str]) -> None:
        self.jobs = directory / "jobs"
        (self.jobs / JOB[-2:]).mkdir(parents=True)
        self.script = directory / "it's a script.sh"
        self.shell = shell
        self.directory = directory

    def write(self, *commands: Any, **keys: Any) -> None:
        keys.setdefault("cwd", str(self.directory))
        requests = [
            JobRequest(
                JOB if number == 0 else f"{JOB[:-4]}{number:02d}ab",
                1,
                JobDefn(command, **keys),
                "",
                {"PATH": os.environ["PATH"], "FROM": "a 'b' $c", "bad-name": "x", "SLURM_JOB_ID": "of another"},
                {"LWFM_JOB_ID": JOB},
            )
            for number, command in enumerate(commands)
        ]
        self.script.write_text(
            job_script(requests, str(self.jobs), str(self.script), Slurm().words, os.uname().nodename)
        )

    def start(self, native: str = "7", **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": native, **variables}
        return subprocess.Popen(
            [*self.shell, str(self.script)],
            env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True, cwd="/",
        )  # fmt: skip

    def run(self, native: str = "7", **variables: str) -> tuple[int, str]:
        with self.start(native, **variables) as process:
            _, said = process.communicate(timeout=30)
        return process.returncode, said

    def text(self, kind: str, job: str = JOB) -> str:
        return (self.jobs / "ab" / f"{job}.1.{kind}").read_text()

    def record(self, job: str = JOB) -> Optional[ExitRecord]:
        return read_record(self.text("exit", job))

    def files(self) -> list[str]:
        return sorted(path.name.rpartition(".")[2] for path in (self.jobs / "ab").iterdir())


def is_gone(group: int) -> bool:
    """Whether nothing of a process group runs; what has ended may take init a while to notice."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state not in "ZX":
            return False
    return True


@pytest.fixture
def node(tmp_path: Path, shell: list[str]) -> Node:
    return Node(tmp_path, shell)


@pytest.mark.parametrize(
    ("command", "code", "stdout"),
    [
        (["printf", "%s|", "two words", "it's", "$HOME", "*", ""], 0, "two words|it's|$HOME|*||"),
        ("echo $FROM; cd /; exit 3", 3, "a 'b' $c\n"),
        ('echo "$SLURM_JOB_ID $LWFM_JOB_ID $OWN"', 0, f"7 {JOB} \u00fc\n2\n"),
        (["no-such-program"], 127, None),
        ("kill -9 $$", 137, None),
        ("true", 0, None),
    ],
)
def test_a_command_runs_as_it_is(node: Node, command: Any, code: int, stdout: Optional[str]) -> None:
    node.write(command, env={"OWN": "\u00fc\n2"})
    assert node.run()[0] == code
    record = node.record()
    assert record is not None
    assert (record.status, record.native, record.caught, record.cause, record.missing) == (code, "7", None, None, ())
    assert record.started_at is not None
    assert record.ended_at is not None
    assert 0 <= record.ended_at - record.started_at < 20
    assert record.cpu_seconds is not None
    assert record.host == os.uname().nodename
    assert ("stdout" in node.files()) == (stdout is not None), "what is empty is removed"
    if stdout is not None:
        assert node.text("stdout") == stdout
    claim = read_claim(node.text("claim"))
    assert claim is not None
    assert (claim.native, claim.restart) == ("7", 0)


def test_an_element_finds_its_own_part(node: Node) -> None:
    node.write("echo one; exit 1", "echo two; exit 2", ["echo", "three"])
    for number, (code, text) in enumerate(((1, "one\n"), (2, "two\n"), (0, "three\n"))):
        told = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": str(number + 1)}
        assert node.run("71", **told)[0] == code
        job = JOB if number == 0 else f"{JOB[:-4]}{number:02d}ab"
        assert node.text("stdout", job) == text
        record = node.record(job)
        assert record is not None
        assert record.native == f"70_{number + 1}"


def test_the_second_submission_of_a_job_stands_down(node: Node) -> None:
    node.write("echo ran")
    assert node.run("7")[0] == 0
    code, said = node.run("8")
    assert code == STANDS_DOWN
    assert "8 does not run job" in said
    (node.jobs / "ab" / f"{JOB}.1.claim").unlink()
    assert node.run("8")[0] == STANDS_DOWN, "it has ended"
    assert node.text("stdout") == "ran\n"


def test_one_that_was_cancelled_does_not_begin(node: Node) -> None:
    node.write("echo ran")
    (node.jobs / "ab" / f"{JOB}.1.cancel").touch()
    code, said = node.run()
    assert (code, node.files()) == (STANDS_DOWN, ["cancel"])
    assert "it was cancelled" in said


def test_one_that_was_stopped_may_be_started_again(node: Node) -> None:
    """What its first run left is not what it ends as."""
    node.write(f"echo $SLURM_RESTART_COUNT; [ -e {node.directory}/second ] || sleep 60")
    with node.start() as process:
        wait_until(lambda: "stdout" in node.files() and node.text("stdout"), "it to run")
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(20) == 143
    record = node.record()
    assert record is not None
    assert (record.status, record.caught) == (143, "TERM")
    (node.directory / "second").touch()
    assert node.run(SLURM_RESTART_COUNT="1")[0] == 0
    record = node.record()
    assert record is not None
    assert (record.status, record.caught, record.restart) == (0, None, 1)
    assert node.run(SLURM_RESTART_COUNT="2")[0] == STANDS_DOWN, "it ended by itself: that was its end"


def test_a_signal_for_the_script_alone_is_passed_on(node: Node) -> None:
    node.write("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done")
    with node.start() as process:
        wait_until(lambda: "stdout" in node.files() and node.text("stdout"), "it to run")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 5
    record = node.record()
    assert record is not None
    assert (record.status, record.caught, node.text("stdout")) == (5, None, "ready\ngot\n")


@pytest.mark.parametrize("deaf", [False, True])
def test_a_limit_finer_than_minutes_is_kept_by_the_script(node: Node, deaf: bool) -> None:
    before = "trap '' TERM; " if deaf else ""
    node.write(f"{before}sleep 60 & sleep 61", resources=Resources(time_limit_s=0.3), grace_s=0.3)
    with node.start() as process:
        assert process.wait(20) == (-9 if deaf else 143)
    record = node.record()
    assert record is not None
    assert record.cause == "time_limit"
    wait_until(lambda: is_gone(process.pid), "all its processes to be gone")


def test_a_limit_that_is_not_reached_leaves_nothing_behind(node: Node) -> None:
    node.write("true", resources=Resources(time_limit_s=50.5))
    with node.start() as process:
        assert process.wait(20) == 0
    wait_until(lambda: is_gone(process.pid), "its watcher to be gone")


def test_outputs_that_are_missing(node: Node) -> None:
    node.write("touch 'a b' c1", outputs=["a b", "c*", "d e", "/no/such/*"])
    assert node.run()[0] == 1
    record = node.record()
    assert record is not None
    assert (record.status, record.missing) == (0, ("d e", "/no/such/*"))


def test_a_directory_that_is_not_there(node: Node) -> None:
    node.write("true", cwd="/no/such/directory")
    assert node.run()[0] == 126
    record = node.record()
    assert record is not None
    assert (record.status, record.cause) == (126, "not_started")


def test_tasks_run_the_command_with_the_jobs_variables(node: Node) -> None:
    """The starter is made up: it starts as many as it is told, in an empty environment."""
    tool = node.directory / "starter"
    tool.write_text(
        '#!/bin/sh\n[ $2 = -n ] || exit 9\nfor n in $(seq $3); do env -i PATH=$PATH "$4" "$5" $6 $7; done\n'
    )
    tool.chmod(0o755)
    (node.directory / "scontrol").write_text("#!/bin/sh\necho n1; echo n2\n")
    (node.directory / "scontrol").chmod(0o755)
    path = f"{node.directory}:{os.environ['PATH']}"
    resources = Resources(nodes=2, tasks_per_node=2, starter=f"'{tool}' -x")
    node.write('echo "$OWN $LWFM_JOB_ID"', resources=resources, env={"OWN": "mine"})
    assert node.run(PATH=path, SLURM_JOB_NODELIST="n[1-2]")[0] == 0, node.text("stderr")
    assert node.text("stdout") == f"mine {JOB}\n" * 4
    record = node.record()
    assert record is not None
    assert record.hosts == "n1,n2"
    assert node.files() == ["claim", "exit", "stdout"]


def test_what_is_submitted_shows_nothing_of_the_job() -> None:
    assert submitted_script("/a b/c.sh").splitlines()[-1] == "exec /bin/sh '/a b/c.sh'"


RECORD = """\
native 12_3
restart 1
host n1
hosts n1,n2
started 1700000000.5
ended 1700000001.N
status 3
caught TERM
missing a b
missing c
times
0m0,01s 0m0,02s
1m1,50s 0m0,25s
end
"""


def test_a_record_is_read() -> None:
    assert read_record(RECORD) == ExitRecord(
        "12_3", 3, 1, "n1", "n1,n2", 1700000000.5, 1700000001.0, "TERM", None, ("a b", "c"), 61.75
    )


@pytest.mark.parametrize("text", ["", "end\n", RECORD[:-5], RECORD.replace("status 3\n", ""), "native x\nend"])
def test_what_is_not_whole_is_no_record(text: str) -> None:
    assert read_record(text) is None


@pytest.mark.parametrize("words", [(), ("7",), ("7", "0", "n1")])
def test_what_is_not_whole_is_no_claim(words: Sequence[str]) -> None:
    assert read_claim(" ".join(words)) is None
