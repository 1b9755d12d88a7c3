"""Named moments at which a process can be made to die, so that tests see what survives that. Pure but for the death.

``LWFM_FAULTPOINT=NAME`` or ``NAME:COUNT`` in the environment of the agent kills it with SIGKILL when it comes to the
point ``NAME`` for the first, or the ``COUNT``-th, time. Without it a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "LWFM_FAULTPOINT"
_lock = threading.Lock()
_wanted, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count) if _count.isdigit() else 1


def hit(name: str) -> None:
    """The process has come to the point ``name``."""
    if _wanted and name == _wanted:
        _count_down()


def _count_down() -> None:
    global _left
    with _lock:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the signal ends every thread, at the latest when this one returns from the kernel
