"""Running the commands of a batch scheduler: each with a time limit, and with what goes wrong as a SiteError.

The one seam between the pure hooks of :mod:`.scheduler` and the machine. Calls block; call them from a thread.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Optional

from ...errors import NotSupported, SiteError
from ...launch.launching import HOSTFILE_VARIABLE
from .request import BatchRequest
from .scheduler import BatchJob, BatchNode, Command, Partition, Scheduler
from .slurm import Slurm, inside_variables

TIMEOUT_S = 20.0
"""How long a question may take. A controller that is busy answers after seconds; one that is down, never."""
SUBMIT_TIMEOUT_S = 60.0
NEEDED = r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|LD_LIBRARY_PATH|KRB5CCNAME"
"""The variables without which a command may not work."""
SCHEDULERS: tuple[Scheduler, ...] = (Slurm(),)
"""Those whose hooks there are; the first whose programs are on PATH is used."""


def find_scheduler() -> Optional[BatchCommands]:
    """The batch scheduler whose commands are here; None: there is none."""
    for scheduler in SCHEDULERS:
        if all(shutil.which(program) for program in scheduler.programs):
            return BatchCommands(scheduler)
    return None


def the_scheduler() -> BatchCommands:
    """The batch scheduler that is here.

    Raises:
        NotSupported: there is none.
    """
    found = find_scheduler()
    if found is None:
        raise NotSupported(
            "there is no batch scheduler here that lwfm can ask", hint="its commands must be on PATH: sinfo, sbatch …"
        )
    return found


class BatchCommands:
    """A batch scheduler that answers.

    Args:
        scheduler: its hooks.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler

    @property
    def name(self) -> str:
        """The scheduler's."""
        return self.scheduler.name

    def resources(self) -> tuple[list[Partition], list[BatchNode]]:
        """The partitions and nodes. Raises SiteError, as all here."""
        return self.scheduler.read_resources([self._told(command) for command in self.scheduler.ask_resources()])

    def members(self, name: Optional[str]) -> tuple[Optional[Partition], list[str]]:
        """A partition (None: the default one) and the names of its nodes; of all nodes where it is not known."""
        partitions, nodes = self.resources()
        found = next((one for one in partitions if (one.default if name is None else one.name == name)), None)
        members = [node.name for node in nodes if found is None or found.name in node.partitions]
        return found, members or [node.name for node in nodes]

    def jobs(self, user: str) -> list[BatchJob]:
        """The user's jobs that the scheduler still knows."""
        return self.scheduler.read_jobs(self._told(self.scheduler.ask_jobs(user)), time.time())

    def ended(self, job_ids: Sequence[str]) -> dict[str, BatchJob]:
        """What is kept of jobs that :meth:`jobs` no longer lists; nothing where nothing is kept."""
        found: dict[str, BatchJob] = {}
        for command in self.scheduler.ask_ended(job_ids) if job_ids else ():
            with suppress(SiteError):  # there is no accounting, or it is down: what became of them is not known
                found.update({job.job_id: job for job in self.scheduler.read_ended(self._told(command))})
        return found

    def largest_array(self) -> Optional[int]:
        """The most elements an array may have; None: it is not told."""
        command = self.scheduler.ask_limits()
        return None if command is None else self.scheduler.read_limits(self._told(command))

    def submit(self, request: BatchRequest, script: str, output: str, directory: str, *, bare: bool = False) -> str:
        """Submit a batch script; its id.

        Args:
            request: what it needs. ``script``: its text. ``output``: the file for what it prints. ``directory``: where it starts.
            bare: schedulers give jobs the environment of the command that submits them: let that be only what the command needs.

        Raises:
            SiteError: it was refused; ``transient``, when it is not known whether it was taken.
        """
        command = self.scheduler.submit(request, script, output, directory)
        if bare:
            needed = re.compile(f"{NEEDED}|{self.scheduler.kept}" if self.scheduler.kept else NEEDED)
            gone = {name: None for name in os.environ if not needed.fullmatch(name)}
            command = replace(command, environment={**gone, **command.environment})
        try:
            told = self._told(command, SUBMIT_TIMEOUT_S, outside=True)
        except SiteError as error:
            raise SiteError(
                error.message, transient=error.transient or self.scheduler.is_doubtful(error.message)
            ) from error
        job_id = self.scheduler.read_submitted(told)
        if job_id is None:
            raise SiteError(f"{self.name} does not tell the id of what it took: {told.strip()[:200]!r}", transient=True)
        return job_id

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs; harmless when they have ended."""
        try:
            self._told(self.scheduler.cancel(job_ids))
        except SiteError as error:
            if not self.scheduler.is_unknown_job(error.message):
                raise

    def _told(self, command: Command, timeout_s: float = TIMEOUT_S, *, outside: bool = False) -> str:
        """What a command says on its standard output; ``outside``: what it starts is not to be of the job that we are in."""
        changes = dict(command.environment)
        if outside:
            changes.update({**inside_variables(os.environ), HOSTFILE_VARIABLE: None})
        environment = {name: value for name, value in os.environ.items() if name not in changes}
        environment.update({name: value for name, value in changes.items() if value is not None})
        return run(command.argv, command.stdin, environment, timeout_s)


def run(argv: Sequence[str], stdin: str, environment: dict[str, str], timeout_s: float) -> str:
    """The standard output of a command that succeeds.

    Raises:
        SiteError: it cannot be run or failed, with the last line of what it said; ``transient``, when it did not answer in time or
            was killed: what it was to do may have been done.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise SiteError(f"cannot run {argv[0]}: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate(stdin.encode("utf-8", "surrogateescape"), timeout_s)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started: a site's own wrapper, for instance
            if isinstance(error, subprocess.TimeoutExpired):
                raise SiteError(f"{argv[0]} did not answer in {timeout_s:.0f} s", transient=True) from None
            raise
    if process.returncode:
        how = f"exit code {process.returncode}" if process.returncode > 0 else f"ended by signal {-process.returncode}"
        told = (err.strip() or out.strip()).decode("utf-8", "replace")
        said = [line for line in told.splitlines() if line.strip() not in ("", "Exiting.")] or [how]
        killed = process.returncode < 0 or (process.returncode > 128 and not told)
        raise SiteError(f"{argv[0]}: {_without_name(said[-1], argv[0])}", transient=killed)
    return out.decode("utf-8", "replace")


def _without_name(line: str, name: str) -> str:
    """``sbatch: error: no such partition``, without what is said already."""
    for beginning in (f"{name}: ", "error: "):
        line = line[len(beginning) :] if line.startswith(beginning) else line
    return line[:300]
