"""Starting the agent from any other process, and waiting until it answers or says why it does not.

The agent is started in its own session, away from the terminal, with its home as directory; it tells on a pipe how its
start went. Two that start at once are harmless: the one that comes second finds the store taken, and leaves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, TypeVar

from .. import errors, paths
from ..errors import AgentUnreachable, ConfigError
from ..host.private import append_private
from ..variables import RENDEZVOUS_VARIABLE, SOCKET_VARIABLE

START_TIMEOUT_S = 60.0
"""How long a start may take; a store that was not closed properly is looked through first."""
SETTLE_TIMEOUT_S = 10.0
"""How long an agent may take to answer that said it is there."""
COMMAND_VARIABLE = "LWFM_COMMAND"
"""The words (JSON) that start lwfm, for processes that cannot do so themselves: scripts that see only the library."""
IDLE_EXIT_VARIABLE = "LWFM_IDLE_EXIT_S"
LOG_TAIL_BYTES = 2000
_OF_A_JOB = ("LWFM_JOB_ID", "LWFM_WORKFLOW_ID", "LWFM_ATTEMPT", SOCKET_VARIABLE, RENDEZVOUS_VARIABLE)

T = TypeVar("T")


def start_agent(
    home: paths.Home,
    idle_exit_s: float | None,
    connect: Callable[[], T],
    *,
    at_rest: bool = False,
    take_over: bool = False,
) -> T:
    """Start the agent of ``home`` and return what ``connect`` gives once it succeeds.

    Args:
        idle_exit_s: after how long without work it leaves; None: never. ``$LWFM_IDLE_EXIT_S`` overrides a number.
        connect: raises FileNotFoundError or ConnectionRefusedError as long as nobody answers.
        at_rest: it shall only answer.
        take_over: from an owner on another host of which it is not known whether it is gone.

    Raises:
        LwfmError: what the agent said; AgentUnreachable, with the end of its log, when it said nothing.
    """
    home.create()
    command = [*lwfm_command(), "agent", "serve", "--home", str(home.root)]
    if idle_exit_s is not None:
        command += ["--idle-exit", os.environ.get(IDLE_EXIT_VARIABLE) or f"{idle_exit_s:g}"]
    if at_rest:
        command.append("--at-rest")
    if take_over:
        command.append("--take-over")
    answer = _launch(command, home)
    if "error" in answer:
        error = errors.from_json(answer["error"])
        if error.code != "StoreLocked":
            raise error
        try:  # somebody else has started it at the same moment, or it is still leaving
            return _until_connected(connect, home)
        except AgentUnreachable:
            raise error from None
    return _until_connected(connect, home)


def lwfm_command() -> list[str]:
    """The words that start lwfm: as this process was, or as ``$LWFM_COMMAND`` says where it has only the library.

    Raises:
        AgentUnreachable: neither is possible.
    """
    if paths.running_archive() or importlib.util.find_spec("tornado") is not None:
        return paths.self_command()
    try:
        words = json.loads(os.environ.get(COMMAND_VARIABLE, "null"))
    except ValueError:
        words = None
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return words
    raise AgentUnreachable(
        "the agent does not run, and this Python has only the library", hint="start it with: lwfm agent start"
    )


def _launch(command: list[str], home: paths.Home) -> dict[str, Any]:
    """Start it; what it said on its pipe."""
    reading, writing = os.pipe()
    try:
        with _log(home.agent_log) as log:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home.root,
                env=_environment(home),
                start_new_session=True,
                pass_fds=(writing,),
            )
    except OSError as error:
        os.close(reading)
        raise AgentUnreachable(f"cannot start the agent: {error}") from error
    finally:
        os.close(writing)
    threading.Thread(target=process.wait, name="lwfm-agent-reaper", daemon=True).start()
    try:
        line = _read_line(reading, time.monotonic() + START_TIMEOUT_S)
    finally:
        os.close(reading)
    if line is None:
        raise AgentUnreachable(
            f"the agent (pid {process.pid}) is not ready after {START_TIMEOUT_S:.0f} s", hint=f"see {home.agent_log}"
        )
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and (answer.get("ok") or isinstance(answer.get("error"), dict)):
        return answer
    raise AgentUnreachable("the agent ended while it started", hint=_log_hint(home.agent_log))


def _read_line(descriptor: int, deadline: float) -> bytes | None:
    """What is written up to the end of a line or of the pipe; None when that takes until ``deadline``."""
    line = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return None
        if poll.poll(left_s * 1000):
            piece = os.read(descriptor, 65536)
            if not piece:
                break
            line += piece
    return line


def _until_connected(connect: Callable[[], T], home: paths.Home) -> T:
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    pause_s = 0.005
    while True:
        try:
            return connect()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise AgentUnreachable(
                    "the agent was started but does not answer", hint=_log_hint(home.agent_log)
                ) from None
        time.sleep(pause_s)  # the socket's file system tells nobody when it appears
        pause_s = min(pause_s * 2, 0.2)


def _log(path: Path) -> Any:
    try:
        return append_private(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="make room, or set LWFM_HOME") from error


def _log_hint(path: Path) -> str:
    last = ""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        lines = stream.read().decode("utf-8", "replace").strip().splitlines()
        last = lines[-1].strip() if lines else ""
    return f"the end of {path}: {last}" if last else f"see {path}"


def _environment(home: paths.Home) -> dict[str, str]:
    """The agent's environment: this one, without what belongs to a job, with the package where Python finds it."""
    environment = without_job(os.environ)
    environment[paths.HOME_VARIABLE] = str(home.root)
    search = [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if paths.running_archive() is None:
        parent = package_parent()
        if parent not in search and parent not in installed_paths():
            search.insert(0, parent)
    if search:
        environment["PYTHONPATH"] = os.pathsep.join(search)
    return environment


def without_job(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what is told to a job."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _OF_A_JOB and not name.startswith("LWFM_TRIGGER_")
    }


def package_parent() -> str:
    """The directory from which ``import lwfm`` was served."""
    return str(Path(os.path.abspath(__file__)).parents[2])


def installed_paths() -> list[str]:
    """Where this Python finds packages by itself."""
    import site

    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
