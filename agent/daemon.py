"""The agent as a process: becomes the owner of the home, starts the instance and its API, and leaves in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Optional

from .api.routes import routes
from .api.server import Server
from .errors import LwfmError
from .host.logfiles import SHARED_LOG, LogFile
from .host.shortages import busy_with
from .instance import Instance
from .ownership.lease import Ownership
from .ownership.owning import owned
from .paths import Home, locate, write_program

GC_THRESHOLDS = (20_000, 20, 50)
SWITCH_INTERVAL_S = 0.0005
"""How soon a thread that waits for the interpreter gets it: threads here mostly wait, and their turns are short."""
_logger = logging.getLogger("lwfm.agent")


class LogHandler(logging.Handler):
    """What this process has to say, into a log file."""

    def __init__(self, log: LogFile):
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Append one record; what goes wrong goes to standard error, as with other handlers."""
        try:
            self._log.append(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the agent in the foreground until it is told to leave, or idle for long enough."""
    parser = argparse.ArgumentParser(prog="lwfm agent serve", description="Run the agent in the foreground.")
    parser.add_argument("--home", help="the instance's directory (default: $LWFM_HOME or ~/.lwfm)")
    parser.add_argument("--idle-exit", type=float, default=0.0, help="leave after so many idle seconds; 0: never")
    parser.add_argument(
        "--at-rest",
        action="store_true",
        help="only answer: the work of this instance is over, what had not ended will not",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="oust an owner on another host of which it is not known whether it is gone",
    )
    parser.add_argument("--ready-fd", type=int, help="a descriptor to report readiness on")
    options = parser.parse_args(arguments)
    try:
        home = locate(options.home)
        home.create()
        write_program(home)
        _start_log(home)
        with owned(home, force=options.take_over, at_rest=options.at_rest) as ownership:
            serving = _serve(home, ownership, options.idle_exit or None, options.ready_fd, at_rest=options.at_rest)
            asyncio.run(serving)
    except LwfmError as error:
        return _refused(error, options.ready_fd)
    except Exception as error:
        busy = busy_with(error)
        if busy is not None:
            return _refused(busy, options.ready_fd)
        _logger.exception("the agent failed")
        raise
    return 0


def _refused(error: LwfmError, ready_fd: Optional[int]) -> int:
    """There can be no agent now: tell whoever started it; the exit code."""
    _logger.error("%s", error)
    _report(ready_fd, {"error": error.to_json()})
    if ready_fd is None:
        sys.stderr.write(f"lwfm: {error.message}\n" + (f"  → {error.hint}\n" if error.hint else ""))
    return error.exit_code


async def _serve(
    home: Home, ownership: Ownership, idle_exit_s: Optional[float], ready_fd: Optional[int], *, at_rest: bool
) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    instance = Instance(home, idle_exit_s, at_rest=at_rest, confirm=ownership.confirm)
    server = Server(instance, routes(), home.socket)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, instance.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    loop.set_exception_handler(_unhandled)
    await instance.start()
    server.start()
    _spare_the_collector()
    _logger.info("serving %s, pid %d", home.root, os.getpid())
    _report(ready_fd, {"ok": True})
    await instance.stopping.wait()
    _logger.info("leaving")
    await server.stop()
    await instance.close(stop_worker=True, kill=instance.kill_on_stop)


def _unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the event loop itself met, such as a worker that it could not let in."""
    error = context.get("exception")
    busy = busy_with(error) if error is not None else None
    if busy is not None:
        _logger.error("%s: %s", context.get("message"), busy)
    else:
        loop.default_exception_handler(context)


def _spare_the_collector() -> None:
    """What is there after the start stays: the collector need not look through it, nor as often as it does by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _report(descriptor: Optional[int], message: object) -> None:
    """One line to whoever started us, if anybody is still listening."""
    if descriptor is None:
        return
    with contextlib.suppress(OSError), os.fdopen(descriptor, "w") as pipe:
        pipe.write(json.dumps(message) + "\n")


def _start_log(home: Home) -> None:
    log = LogFile(str(home.agent_log), SHARED_LOG.configured(), (1, 2))
    handler = LogHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.raiseExceptions = False  # a full disk: what it says of that would take the first space there is again
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    with contextlib.suppress(OSError):
        log.append()  # it is there, for its owner alone, before the worker is given it to print into
        os.chmod(home.agent_log, 0o600)
