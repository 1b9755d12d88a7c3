"""The worker's command line. Parsed by hand: a parser for all occasions would cost more memory than the whole queue."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..errors import UsageError

HELP = """lwfm worker starts, watches and stops the jobs of this node for an agent, which starts it; it is not for use by hand.

  --connect SOCKET   the agent's socket, for a worker on the agent's node
  --rendezvous FILE  the file that tells where the agent is, for a worker on another node of its allocation
  --spool DIR        where it remembers its jobs: a directory of this node (default with --rendezvous: in $TMPDIR or /tmp)
  --cores N, --gpus N, --memory BYTES
                     what of this node may be used (default: all)
  --linger-s S       how long it stays without an agent and without jobs
  --discard          remove the spool at the end, if nothing is left in it
"""
USAGE = (
    "lwfm worker --connect SOCKET --spool DIR | --rendezvous FILE [--cores N] [--gpus N] [--memory BYTES] [--linger-s S]"
    " [--discard]"
)
DEFAULT_LINGER_S = 60.0


class Options(NamedTuple):
    """What a worker was told at its start.

    Args:
        connect: path of the agent's socket. ``rendezvous``: the file that tells where it is; with both, the socket is tried first.
        spool: directory of the spool, on a disk of this node.
        cores, gpus, memory_bytes: how much of the node jobs may use; None: what there is.
        linger_s: seconds to stay without an agent when nothing runs.
        keeper: what identifies the keeper; set by it.
        discard: whether the spool is removed at the end, when nothing is left in it.
    """

    connect: str
    spool: str
    cores: Optional[int] = None
    gpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    linger_s: float = DEFAULT_LINGER_S
    keeper: str = ""
    rendezvous: str = ""
    discard: bool = False

    @property
    def of_allocation(self) -> bool:
        """Whether its node is one that a scheduler gives and takes, so that SIGTERM is the scheduler's."""
        return bool(self.rendezvous) and not self.connect


def parse(argv: list[str]) -> Options:
    """The options in ``argv``.

    Raises:
        UsageError: an unknown option, a missing value, or one that is no number.
    """
    given: dict[str, str] = {}
    words = iter([word for word in argv if word != "--discard"])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--connect", "--rendezvous", "--spool", "--cores", "--gpus", "--memory", "--linger-s"):
            raise UsageError(f"worker: no option {name}", hint=USAGE)
        if not equals:
            value = next(words, "")
        if not value:
            raise UsageError(f"worker: {name} needs a value", hint=USAGE)
        given[name] = value
    if "--connect" not in given and "--rendezvous" not in given:
        raise UsageError("worker: --connect or --rendezvous is needed", hint=USAGE)
    if "--connect" in given and "--spool" not in given:
        raise UsageError("worker: --spool is missing", hint=USAGE)
    linger = given.get("--linger-s", str(DEFAULT_LINGER_S))
    try:
        linger_s = float(linger)
    except ValueError:
        raise UsageError(f"worker: --linger-s must be seconds, not {linger!r}", hint=USAGE) from None
    return Options(
        connect=given.get("--connect", ""),
        rendezvous=given.get("--rendezvous", ""),
        spool=given.get("--spool", ""),
        cores=_count(given, "--cores"),
        gpus=_count(given, "--gpus"),
        memory_bytes=_count(given, "--memory"),
        linger_s=linger_s,
        discard="--discard" in argv,
    )


def _count(given: dict[str, str], name: str) -> Optional[int]:
    value = given.get(name)
    if value is None:
        return None
    if not value.isdigit():
        raise UsageError(f"worker: {name} must be a whole number, not {value!r}", hint=USAGE)
    return int(value)
