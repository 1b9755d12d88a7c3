"""Running a scheduler's commands: real processes, made up for what a scheduler does when it is not well."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lwfm.errors import SiteError
from lwfm.sites.batch.commands import BatchCommands, find_scheduler, run
from lwfm.sites.batch.request import BatchRequest
from lwfm.sites.batch.scheduler import Command
from lwfm.sites.batch.slurm import Slurm

from support.waiting import wait_until

ENVIRONMENT = dict(os.environ)


def shell(text: str, stdin: str = "", timeout_s: float = 30.0) -> str:
    return run(["sh", "-c", text], stdin, ENVIRONMENT, timeout_s)


def programs(directory: Path, **texts: str) -> None:
    """Shell scripts in place of a scheduler's commands."""
    for name, text in texts.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)


def test_what_it_says_and_reads() -> None:
    assert shell("cat; echo heard >&2", "told") == "told"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo one >&2; echo 'sh: error: no such partition' >&2; exit 1", "^sh: no such partition$"),
        ("exit 3", "^sh: exit code 3$"),
    ],
)
def test_a_failure_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SiteError, match=message) as caught:
        shell(text)
    assert not caught.value.transient


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(SiteError, match="cannot run there-is-none"):
        run(["there-is-none"], "", ENVIRONMENT, 5.0)


def test_what_does_not_answer_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="did not answer in 3 s") as caught:
        shell(f"sleep 600 & echo $! > {tmp_path}/pid; wait", timeout_s=3.0)
    assert caught.value.transient
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX",
        "what it started to be gone",
    )


def test_the_scheduler_whose_programs_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_scheduler() is None
    programs(tmp_path, sinfo="", squeue="", sbatch="")
    assert find_scheduler() is None
    programs(tmp_path, scancel="")
    found = find_scheduler()
    assert found is not None
    assert found.name == "slurm"


def test_no_accounting_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    programs(tmp_path, sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert BatchCommands(Slurm()).ended(["1"]) == {}
    programs(tmp_path, sacct="echo '1|TIMEOUT|0:0'")
    assert BatchCommands(Slurm()).ended(["1"])["1"].native_state == "TIMEOUT"
    assert BatchCommands(Slurm()).ended([]) == {}


def test_a_submission_that_tells_no_id_may_have_been_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    programs(tmp_path, sbatch='echo "$SLURM_JOB_ID" >&2; echo queued')
    request = BatchRequest(1, 60.0)
    with pytest.raises(SiteError, match="does not tell the id") as caught:
        BatchCommands(Slurm()).submit(request, "", "o", "/")
    assert caught.value.transient
    timed_out = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    for complaint, doubtful in ((timed_out, True), ("sbatch: error: Invalid partition name specified", False)):
        programs(tmp_path, sbatch=f"echo '{complaint}' >&2; exit 1")
        with pytest.raises(SiteError) as caught:
            BatchCommands(Slurm()).submit(request, "", "o", "/")
        assert caught.value.transient == doubtful
    programs(tmp_path, sbatch='test -z "$SLURM_JOB_ID" && echo 7')
    assert BatchCommands(Slurm()).submit(request, "", "o", "/") == "7"


class Recording(Slurm):
    """Answers from a shell script: a fake."""

    def ask_resources(self) -> Sequence[Command]:
        """What tells the environment it was asked in."""
        return [Command(("sh", "-c", 'echo "$LC_ALL|$KEPT|$GONE"'), environment={"LC_ALL": "C", "GONE": None})]

    def read_resources(self, answers: Sequence[str]) -> tuple[list, list]:  # type: ignore[type-arg]
        """As it is."""
        return list(answers), []


def test_the_environment_is_changed_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("GONE", "not gone")
    told, _ = BatchCommands(Recording()).resources()
    assert [str(text) for text in told] == ["C|kept|\n"]
