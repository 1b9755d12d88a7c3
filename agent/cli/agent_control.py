"""Whether the agent runs, and having it leave: what several commands need. Never starts one."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..client import Client
from ..errors import AgentUnreachable, LwfmError, SiteError
from .node_view import missing_nodes
from .session import Session

if TYPE_CHECKING:
    from ..records import JSON

STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
LOOK_S = 0.2


def ask_agent(session: Session) -> JSON | None:
    """What the agent says of itself; None when it does not run."""
    client = _quiet_client(session)
    try:
        answer: JSON = client.get("/v1/agent")
        return answer
    except AgentUnreachable as error:
        if isinstance(error.__cause__, LwfmError):
            raise
        return None
    finally:
        client.close()


def stop_agent(session: Session, *, kill: bool = False) -> JSON | None:
    """Have the agent leave, and wait until it has; what it said of itself before, None when it did not run."""
    try:
        before = ask_agent(session)
    except LwfmError:  # it answers, but is not well: all the more reason
        before = {"pid": None}
    if before is not None:
        try:
            _quiet_client(session).post("/v1/agent/stop", {"kill": kill}, repeatable=True)
        except AgentUnreachable:
            pass  # it left before it could answer
        _until_gone(session, before["pid"])
    return before


def wait_for_all_nodes(client: Client) -> None:
    """Wait until every node of the allocation is up.

    Raises:
        SiteError: one did not come up in time.
    """
    while True:
        found = client.get("/v1/agent")
        missing = missing_nodes(found)
        if missing:
            raise SiteError(
                f"{', '.join(missing)} did not come up",
                hint="lwfm agent logs may tell why; or go on without --require-all",
            )
        states = (found.get("allocation") or {}).get("other_nodes") or {}
        if all(state == "up" for state in states.values()):
            return
        time.sleep(LOOK_S)  # a launcher tells nobody how far it is


def _until_gone(session: Session, pid: int | None) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        now = _running_pid(session)
        if pid and now not in (None, -1, pid):
            return  # somebody has started the next one
        if now is None and not (pid and _alive(pid)):
            return
        time.sleep(POLL_S)  # another process's end is not announced
    who = f" (pid {pid})" if pid else ""
    raise AgentUnreachable(f"the agent{who} has not left after {STOP_TIMEOUT_S:.0f} s", hint="lwfm agent logs")


def _running_pid(session: Session) -> int | None:
    """The pid of the agent that answers now, -1 if it does not say; None when none answers."""
    try:
        now = ask_agent(session)
    except LwfmError:
        return -1
    return None if now is None else int(now["pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that has ended but was not waited for is as good as gone
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _quiet_client(session: Session) -> Client:
    """A client that does not start the agent."""
    return Client(replace(session.endpoint, may_start=False))
