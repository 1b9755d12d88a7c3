"""The entry point: decides what is asked for, and imports only that.

``--version`` answers before anything else is loaded; a worker and an agent start without the command line's libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run lwfm with ``argv`` (without the program's name); the process's own arguments when None.

    Returns:
        The exit code; those of the command line are listed in ``docs/cli.md``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        sys.stdout.write(f"lwfm {__version__}\n")
        return 0
    if words[:1] == ["worker"]:
        from .worker.main import main as run_worker

        return run_worker(words[1:])
    if words[:2] == ["agent", "serve"]:
        from .daemon import main as serve

        return serve(words[2:])
    if words[:1] == ["allocation-workers"]:  # what the batch job of an allocation runs
        from .allocations.batchjob import main as bring_up

        return bring_up(words[1:])
    if words[:1] == ["site-host"]:  # the process of a site's driver
        from .sites.host import main as host

        return host(words[1:])
    if words[:1] == ["notify"]:  # what the job of a notification runs
        from .notify import main as notify

        return notify(words[1:])
    if words[:1] == ["tunnel"]:  # what ssh runs on a node that cannot reach the agent's
        from .worker.tunnel import main as tunnel

        return tunnel(words[1:])
    if words[:1] == ["tasks"]:  # what a job that asks for tasks runs
        from .tasks import main as tasks

        return tasks(words[1:])
    from .cli.main import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
