"""Who is at the other end of a Unix socket: only the same user, or root, is spoken to.

The kernel notes it when a socket begins to listen and when one connects (unix(7), ``SO_PEERCRED``), so that it holds whatever lies
at the socket's path, and whoever has put it there. On systems without it the modes of the socket and its directory remain.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Optional, Protocol

from ..errors import InsecureState

_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid."""


class HasOptions(Protocol):
    """A socket, or what asyncio shows of one."""

    def getsockopt(self, level: int, option: int, buflen: int, /) -> bytes:
        """See getsockopt(2)."""


def peer_user(connected: HasOptions) -> Optional[int]:
    """The uid of the process at the other end; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(told)[1])


def check_peer(connected: HasOptions) -> None:
    """Make sure that the other end is ours.

    Raises:
        InsecureState: it is somebody else's. OSError: it is gone.
    """
    user = peer_user(connected)
    if user is not None and user not in (os.getuid(), 0):
        raise InsecureState(f"at the other end of the socket is user {user}, not you", hint="lwfm doctor looks into it")
