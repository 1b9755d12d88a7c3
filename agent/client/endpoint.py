"""Which agent is meant, and where it is spoken to. Speaks to nobody."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .. import paths
from ..variables import RENDEZVOUS_VARIABLE, SOCKET_VARIABLE


@dataclass(frozen=True)
class Endpoint:
    """Where the agent is spoken to.

    Args:
        home: the instance.
        socket: its agent's socket.
        may_start: whether the agent may be started here when it does not answer.
        rendezvous: the file that tells where the agent is, for a job that may run on another node of its allocation.
        at_rest: whether an agent that is started here shall only answer, since the instance's work is over.
    """

    home: paths.Home
    socket: Path
    may_start: bool = True
    rendezvous: Path | None = None
    at_rest: bool = False


def find_endpoint(home: str | os.PathLike[str] | None = None) -> Endpoint:
    """The agent of ``home``, else of ``$LWFM_SOCKET``, else of ``$LWFM_HOME``, else of ``~/.lwfm``.

    A socket named by the environment (as inside a job) that is not the home's own belongs to an agent that may run on
    another host: it is never started from here. Nor is it from a job on another node, which dials the agent over TLS.
    """
    here = paths.locate(os.fspath(home) if home is not None else None)
    given = os.environ.get(SOCKET_VARIABLE)
    if not given or (home is not None and here != paths.locate()):
        return Endpoint(here, here.socket)
    knows_home = bool(home is not None or os.environ.get(paths.HOME_VARIABLE))
    elsewhere = os.environ.get(RENDEZVOUS_VARIABLE)
    return Endpoint(
        here, Path(given), knows_home and Path(given) == here.socket, Path(elsewhere) if elsewhere else None
    )
