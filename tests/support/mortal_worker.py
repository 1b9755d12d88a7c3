"""A worker whose loops die at a chosen step: ``python mortal_worker.py SOCKET SPOOL STEP...``

A step is the moment before or after a system call by which a loop changes the world or learns what it must not forget.
The first loop kills itself with SIGKILL at the first number of steps, the second at the second, and so on; a loop that
has no number, or makes fewer steps, lives on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Callable

from lwfm.host.processes import boot_clock
from lwfm.worker.keeper import Keeper
from lwfm.worker.log import Log
from lwfm.worker.main import _run_loop
from lwfm.worker.options import Options

CALLS = ("write", "posix_spawn", "wait4", "waitid", "unlink", "replace", "truncate", "rename", "kill", "killpg")


def arm(steps: int) -> None:
    """Let this process die after so many steps."""
    left = steps

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            kill(os.getpid(), signal.SIGKILL)

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keys: Any) -> Any:
            step()
            try:
                return call(*args, **keys)
            finally:
                step()

        return wrapped

    kill = os.kill
    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def main() -> int:
    connect, spool, *steps = sys.argv[1:]
    os.makedirs(os.path.join(spool, "out"), mode=0o700, exist_ok=True)
    log = Log(os.path.join(spool, "worker.log"), "keeper")
    options = Options(connect, spool, cores=2, keeper=f"{os.getpid()}.{boot_clock()}")

    def start_loop(generation: int, bell: int) -> int:
        if generation <= len(steps):
            arm(int(steps[generation - 1]))
        return _run_loop(options, generation, bell)

    return Keeper(spool, log).keep(start_loop)


if __name__ == "__main__":
    sys.exit(main())
