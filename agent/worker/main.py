"""The worker's beginning: checks the spool, takes its lock, becomes the keeper. Imports the loop only after the fork."""

from __future__ import annotations

import os
import sys
from typing import Callable, Optional

from ..errors import LwfmError
from ..host import locks
from ..host.processes import boot_clock
from .keeper import LOOP_FAILED, Keeper
from .log import Log
from .options import HELP, Options, parse

LOCK = "lock"
EMPTY = "empty"
"""Made by a loop that leaves nothing behind in a spool that is to be discarded."""


def main(argv: Optional[list[str]] = None) -> int:
    """Be a worker: ``lwfm worker …``.

    Returns:
        The exit code; 0 as well when another worker has this spool.
    """
    given = sys.argv[1:] if argv is None else argv
    if "--help" in given:
        sys.stdout.write(HELP)
        return 0
    try:
        options = parse(given)
        options = _whole(options)
    except LwfmError as error:
        return _refuse(error)
    code = _apart(lambda: make_private(options.spool))
    if code:
        return code
    log = Log(os.path.join(options.spool, "worker.log"), "keeper")
    _let_go()
    lock = os.open(os.path.join(options.spool, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not locks.take(lock):  # of the open file, which the loops inherit: it is free when the last of them is gone
        log("another worker has this spool: leaving")
        return 0
    options = options._replace(keeper=f"{os.getpid()}.{boot_clock():.6f}")
    code = Keeper(options.spool, log).keep(lambda generation, bell: _run_loop(options, generation, bell))
    if options.discard and os.path.exists(os.path.join(options.spool, EMPTY)):
        _discard(options.spool)
    return code


def _whole(options: Options) -> Options:
    """The options with absolute paths; without a spool, one of this node's for this rendezvous."""
    connect = os.path.abspath(options.connect) if options.connect else ""
    rendezvous = os.path.abspath(options.rendezvous) if options.rendezvous else ""
    spool = os.path.abspath(options.spool) if options.spool else own_spool(rendezvous)
    return options._replace(connect=connect, rendezvous=rendezvous, spool=spool)


def own_spool(rendezvous: str) -> str:
    """A directory of this node. Its host's name is part of it: some clusters have scratch that several nodes share."""
    import zlib

    digest = f"{zlib.crc32(os.fsencode(rendezvous)):08x}"
    scratch = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - checked to be ours
    return os.path.join(scratch, f"lwfm-{os.getuid()}", f"{digest}-{os.uname().nodename}", "spool")


def make_private(spool: str) -> int:
    """Make the spool's directory, its owner's alone; an exit code, not 0 when that cannot be."""
    from pathlib import Path

    from ..host.private import private_directory

    try:
        above = Path(spool).parents[1]
        if above.name == f"lwfm-{os.getuid()}":  # in the scratch of the node, where others could have made it
            private_directory(above)
            private_directory(above / Path(spool).parent.name)
        private_directory(Path(spool))
        private_directory(Path(spool) / "out")
    except LwfmError as error:
        return _refuse(error)
    return 0


def _apart(action: Callable[[], int]) -> int:
    """The result of ``action`` done in a child: what it imports would else stay with the keeper for ever."""
    child = os.fork()
    if child == 0:
        code = LOOP_FAILED
        try:
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _refuse(error: LwfmError) -> int:
    sys.stderr.write(f"lwfm: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
    sys.stderr.flush()
    return error.exit_code


def _let_go() -> None:
    """Hold nothing of who started us: its directory, its input, descriptors that would leak into jobs."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    for name in os.listdir("/dev/fd"):
        try:
            if int(name) > 2:
                os.set_inheritable(int(name), False)
        except OSError:
            pass  # the one that listed them


def _discard(spool: str) -> None:
    """Remove a spool, and the directory above that was made for it alone."""
    import shutil

    shutil.rmtree(spool, ignore_errors=True)
    try:
        os.rmdir(os.path.dirname(spool))
    except OSError:
        pass  # something else lies there


def _run_loop(options: Options, generation: int, bell: int) -> int:
    log = Log(os.path.join(options.spool, "worker.log"), f"loop {generation}")
    try:
        from .loop import Loop

        loop = Loop(options, generation, bell, log)
        code = loop.run()
        if options.discard and loop.leaves_nothing:
            os.close(os.open(os.path.join(options.spool, EMPTY), os.O_CREAT | os.O_WRONLY, 0o600))
        return code
    except BaseException as error:  # whatever it was, it belongs into the log, and the keeper goes on
        log(f"{type(error).__name__}: {error}")  # without descriptors, nothing can be imported to tell more
        import traceback

        log(traceback.format_exc())
        return LOOP_FAILED
