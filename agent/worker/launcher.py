"""Starting a job's process: its environment, its program, one posix_spawn.

Owns what a job finds when it begins (``docs/protocol.md``). Keeps no books and writes no journal. The worker has one
thread, so directory and affinity are changed in the worker itself for the moment of the start: the child inherits them
before its first instruction, which no call after the start could promise.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Container, Mapping, Sequence
from typing import Any, Callable, Optional

from ..host.processes import ATTEMPT_VARIABLE, JOB_VARIABLE, WORKER_VARIABLE
from ..host.shortages import OF_STARTING, shortage_of
from ..variables import GPU_VARIABLES
from .files import JobFiles
from .jobs import Job
from .ledger import Grant

_LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "PALS_", "QRSH_", "LWFM_", "MPI_LOCAL", "OMPI_COMM_WORLD_")
_OPEN_MPI = ("OMPI_COMM_WORLD_RANK", ("OMPI_", "PRTE_"), "OMPI_ALLOW_RUN_AS_ROOT")
"""What is in the environment of each process that Open MPI's mpiexec started, how the names begin of what it puts there, with
which a further mpiexec takes itself for a part of it and fails, and of what it does not. Settings of the users' own, which
have such names too, come with the submission."""
_LAUNCHER_NAMES = ("SLURM_PROCID", "SLURM_LOCALID", "OLDPWD")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_MAX_PROGRAMS = 4096
_FIXED = (signal.SIGKILL, signal.SIGSTOP)
_IGNORED: list[int] = []

Environment = dict[str, str]


class NotStarted(Exception):
    """The job cannot be started; the text tells a person why."""


class TryAgain(Exception):
    """The node cannot start it at this moment; the text tells a person why.

    Args:
        short: whether the node has run out of something, so that it can start no other job either until that is over.
    """

    def __init__(self, why: str, *, short: bool):
        self.short = short
        super().__init__(why)


class Launcher:
    """Starts processes.

    Args:
        environment: the worker's own; what a launcher of workers put there for itself is left out.
        gpus: the names of the node's GPUs, as their variables take them.
        cores: the node's real cores; granted indices beyond them wrap around.
        files: makes the files that jobs are given.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        gpus: Sequence[str],
        cores: Sequence[int],
        files: JobFiles,
    ) -> None:
        self._base = {name: value for name, value in environment.items() if not _of_a_launcher(name, environment)}
        self._gpus = gpus
        self._cores = cores
        self._files = files
        self._told: Mapping[str, str] = {}
        self._contexts: dict[Optional[int], Environment] = {None: self._base}
        self._programs: dict[tuple[str, str], str] = {}
        self._inside = False
        self._spawn: Callable[..., int] = _posix_spawn

    def tell(self, variables: Mapping[str, str]) -> None:
        """Give these variables to every job that starts from now on."""
        self._told = variables

    def add_context(self, context: int, environment: Mapping[str, str]) -> None:
        """Make ``environment`` known as ``context``: merged once, then used by many jobs."""
        self._contexts[context] = {**self._base, **environment}

    def keep_contexts(self, used: Container[int]) -> None:
        """Forget all contexts but these."""
        self._contexts = {key: env for key, env in self._contexts.items() if key is None or key in used}

    def environment(self, job: Job) -> Environment:
        """The whole environment of a job's process."""
        environment = self._contexts.get(job.context, self._base).copy()
        message = job.message
        own = message.get("env")
        if own:
            environment.update(own)
        environment.update(self._told)
        for name in message.get("unset") or ():
            environment.pop(name, None)
        if message.get("files"):
            environment.update(self._files.variables(job))
        environment[JOB_VARIABLE] = job.key[0]
        environment[ATTEMPT_VARIABLE] = str(job.key[1])
        environment[WORKER_VARIABLE] = job.worker
        environment["PWD"] = job.cwd
        if self._gpus:
            names = ",".join(self.gpu_names(job.grant) if job.grant else ())
            for variable in GPU_VARIABLES:
                environment[variable] = names
        return environment

    def forget_files(self, job: Job) -> None:
        """The job is over: its files go."""
        self._files.remove(job)

    def gpu_names(self, grant: Grant) -> list[str]:
        """The names of granted GPUs, as their variables take them."""
        return [self._gpus[index] for index in grant.gpus]

    def real_cores(self, grant: Grant) -> list[int]:
        """The node's cores that stand for granted ones."""
        real = self._cores
        return sorted({core if core in real else real[core % len(real)] for core in grant.cores})

    def step_out(self) -> None:
        """Leave the last job's directory, so that it can be unmounted."""
        if self._inside:
            os.chdir("/")
            self._inside = False

    def start(self, job: Job, stdout: str, stderr: str) -> int:
        """Start the job's process.

        Args:
            stdout: path of the file that takes its standard output, appended to; ``stderr`` likewise.

        Returns:
            Its pid.

        Raises:
            NotStarted: it never can be.
            TryAgain: not now.
        """
        message = job.message
        shell = message.get("shell")
        argv: list[str] = ["/bin/sh", "-c", shell] if shell is not None else message["argv"]
        environment = self.environment(job)
        path = environment.get("PATH", _DEFAULT_PATH)
        self._inside = True
        try:
            os.chdir(job.cwd)
        except OSError as error:
            raise NotStarted(_no_directory(job.cwd, error)) from None
        program = self._find(argv[0], path)
        if message.get("files"):
            try:
                self._files.write(job)
            except OSError as error:
                short = shortage_of(error) is not None
                raise TryAgain(f"the node cannot write the job's files: {error.strerror}", short=short) from None
        try:
            return self._start_pinned(job, program, argv, environment, stdout, stderr)
        except FileNotFoundError:
            self._programs.pop((argv[0], path), None)
            if self._find(argv[0], path) != program:
                return self.start(job, stdout, stderr)  # it has moved since it was last looked up
            raise NotStarted(_explain(program, FileNotFoundError(errno.ENOENT, ""))) from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (*OF_STARTING, errno.ETXTBSY):
                short = error.errno != errno.ETXTBSY
                raise TryAgain(f"the node could not start a process: {error.strerror}", short=short) from None
            raise NotStarted(_explain(program, error)) from None

    def _start_pinned(
        self, job: Job, program: str, argv: list[str], environment: Environment, stdout: str, stderr: str
    ) -> int:
        if not job.grant or not job.grant.cores or not hasattr(os, "sched_setaffinity"):
            return self._start(program, argv, environment, stdout, stderr)
        before = os.sched_getaffinity(0)
        wanted = self.real_cores(job.grant)
        try:
            os.sched_setaffinity(0, wanted)
        except OSError as error:
            raise NotStarted(f"cannot pin it to cores {wanted}: {error.strerror}") from None
        try:
            return self._start(program, argv, environment, stdout, stderr)
        finally:
            os.sched_setaffinity(0, before)

    def _start(self, program: str, argv: list[str], environment: Environment, stdout: str, stderr: str) -> int:
        try:
            return self._spawn(program, argv, environment, stdout, stderr)
        except NotImplementedError:  # Python was built against a C library without POSIX_SPAWN_SETSID
            self._spawn = _fork_exec
            return self._start(program, argv, environment, stdout, stderr)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that names its interpreter: what every shell and execvp(3) do.
            return self._spawn("/bin/sh", ["/bin/sh", program, *argv[1:]], environment, stdout, stderr)

    def _find(self, name: str, path: str) -> str:
        """The file that ``name`` stands for in a search path, which is the job's own, not the worker's."""
        if "/" in name:
            return name
        known = self._programs.get((name, path))
        if known is not None:
            return known
        refused = ""
        for directory in path.split(":"):
            candidate = os.path.join(directory, name) if directory else os.path.join(".", name)
            if os.path.isfile(candidate):
                if os.access(candidate, os.X_OK):
                    if os.path.isabs(candidate):
                        if len(self._programs) >= _MAX_PROGRAMS:
                            self._programs.clear()
                        self._programs[name, path] = candidate
                    return candidate
                refused = refused or candidate
        if refused:
            raise NotStarted(f"not executable: {refused}")
        raise NotStarted(f"no such program: {name} (searched in PATH {path})")


def _ignored() -> list[int]:
    """The signals this process ignores: exec resets what is handled, not what is ignored."""
    if not _IGNORED:
        _IGNORED.extend(n for n in range(1, 32) if n not in _FIXED and signal.getsignal(n) == signal.SIG_IGN)
    return _IGNORED


def _of_a_launcher(name: str, environment: Container[str]) -> bool:
    mark, begins, kept = _OPEN_MPI
    if mark in environment and name.startswith(begins) and not name.startswith(kept):
        return True
    return (
        name.startswith(_LAUNCHER_PREFIXES) or name in _LAUNCHER_NAMES or (name.startswith("SLURM_") and "STEP" in name)
    )


def _posix_spawn(program: str, argv: list[str], environment: Environment, stdout: str, stderr: str) -> int:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=(
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout, append, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, stderr, append, 0o600),
        ),
        setsid=True,
        setsigmask=(),
        setsigdef=_ignored(),
    )


def _fork_exec(program: str, argv: list[str], environment: Environment, stdout: str, stderr: str) -> int:
    import subprocess

    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    out = os.open(stdout, append, 0o600)
    try:
        err = os.open(stderr, append, 0o600)
        try:
            process: Any = subprocess.Popen(
                argv,
                executable=program,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                restore_signals=True,
            )
        finally:
            os.close(err)
    finally:
        os.close(out)
    process.returncode = 0  # the loop waits for it; Popen must never try to
    return int(process.pid)


def _no_directory(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"no such directory: {path}"
    if error.errno == errno.ENOTDIR:
        return f"not a directory: {path}"
    return f"cannot enter directory {path}: {error.strerror}"


def _explain(program: str, error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"cannot start {program}: {error}"  # such as a NUL character in a word
    if error.errno == errno.ENOENT:
        interpreter = _interpreter(program)
        if interpreter is not None:
            return f"{program} cannot run: its interpreter {interpreter} does not exist"
        if os.path.exists(program):
            return f"{program} cannot run: its loader does not exist (built for another system?)"
        return f"no such program: {program}"
    if error.errno == errno.EACCES:
        return f"{program} is a directory" if os.path.isdir(program) else f"not executable: {program}"
    if error.errno == errno.E2BIG:
        return f"cannot start {program}: its arguments and environment are longer than the system takes"
    return f"cannot start {program}: {error.strerror}"


def _interpreter(program: str) -> Optional[str]:
    try:
        with open(program, "rb") as source:
            first = source.readline(256)
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else None
