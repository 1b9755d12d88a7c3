"""The directory of an allocation that the agent has asked for: what the agent and the batch job tell each other through it.

Each file is written by one side only, whole or not at all: ``request.json``, the key and the rendezvous by the agent,
``allocation.json`` by the batch job. All are the owner's alone. Knows nothing of the scheduler, and of no process.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from .. import rendezvous
from ..errors import InvalidRecord, LwfmError, NotFound
from ..host.private import check_private, private_directory, write_private
from ..jsontext import compact_ascii
from ..launch.allocation import Allocation, NodeShare
from ..worker.testament import PREFIX as LEFT

PREFIX = "created-"
REQUEST = "request.json"
FACTS = "allocation.json"
SCRIPT = "job.sh"
OUTPUT = "job.out"
TAIL_BYTES = 4000


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Args:
        token: names the directory, and the batch job to the scheduler. ``scheduler``: its name.
        nodes: how many. ``time_s``: for how long. ``created_at``: seconds since the epoch.
        idle_s: without work it is given back after so long; 0: never.
        agent: whether the batch job is to run an agent where none runs.
        towards: some of the nodes that it may get, by which the address is chosen at which they reach the agent.
        job_id: the scheduler's id; None as long as that is not known.
        cores, memory_bytes, gpus: what each node may have, as far as that is known; None: any number.
        giving_back: why it is being given back; None: it is not.
    """

    token: str
    scheduler: str
    nodes: int
    time_s: float
    created_at: float
    idle_s: float
    agent: bool = False
    towards: tuple[str, ...] = ()
    job_id: Optional[str] = None
    cores: Optional[int] = None
    memory_bytes: Optional[int] = None
    gpus: Optional[int] = None
    giving_back: Optional[str] = None


@dataclass(frozen=True)
class Begun:
    """What the batch job has found when it began.

    Args:
        allocation: where it is. ``began_at``: seconds since the epoch.
        problems: what went wrong there: workers that could not be started, an agent that cannot be reached.
    """

    allocation: Allocation
    began_at: float
    problems: tuple[str, ...] = ()


class Allotment:
    """The directory.

    Args:
        directory: in ``allocations/`` of the home.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @property
    def key(self) -> Path:
        """The key of this allocation."""
        return self.directory / rendezvous.KEY

    @property
    def rendezvous(self) -> Path:
        """The file that tells workers where the agent is."""
        return self.directory / rendezvous.FILE

    @property
    def output(self) -> Path:
        """What the batch job prints."""
        return self.directory / OUTPUT

    def create(self, asked: Asked) -> None:
        """Make it.

        Raises:
            ConfigError: it cannot be made. OSError: it cannot be written.
        """
        private_directory(self.directory.parent)
        private_directory(self.directory)
        self.write_asked(asked)

    def write_asked(self, asked: Asked) -> None:
        """Write the request. Raises OSError."""
        _write(self.directory / REQUEST, asdict(asked))

    def read_asked(self) -> Asked:
        """The request.

        Raises:
            NotFound: there is none. InvalidRecord: it is not one of ours.
        """
        body = _read(self.directory / REQUEST)
        try:
            known = {name: value for name, value in body.items() if name in Asked.__dataclass_fields__}
            return Asked(**{**known, "towards": tuple(known.get("towards") or ())})
        except TypeError as error:
            raise InvalidRecord(f"{self.directory / REQUEST}: {error}") from None

    def write_begun(self, begun: Begun) -> None:
        """Write where the batch job is. Raises OSError."""
        _write(
            self.directory / FACTS, {**asdict(begun.allocation), "began_at": begun.began_at, "problems": begun.problems}
        )

    def read_begun(self) -> Begun:
        """Where the batch job is.

        Raises:
            NotFound: it has not told yet. InvalidRecord: it is not one of ours.
        """
        body = _read(self.directory / FACTS)
        try:
            nodes = tuple(NodeShare(**node) for node in body["nodes"])
            allocation = Allocation(str(body["scheduler"]), str(body["id"]), nodes, body["ends_at"])
            return Begun(allocation, float(body["began_at"]), tuple(map(str, body["problems"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRecord(f"{self.directory / FACTS}: {error!r}") from None

    def testaments(self) -> list[tuple[Path, dict[str, Any]]]:
        """What workers have left here that had to go while no agent was there (:mod:`lwfm.worker.testament`)."""
        found = []
        for path in sorted(self.directory.glob(f"{LEFT}*.json")):
            try:
                body = _read(path)
            except LwfmError:
                continue  # not ours, or not whole, which it never is under this name
            if isinstance(body.get("events"), list) and body.get("worker"):
                found.append((path, body))
        return found

    def last_words(self) -> str:
        """The last line of what the batch job printed; empty when it printed nothing."""
        try:
            with self.output.open("rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - TAIL_BYTES))
                lines = stream.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return re.sub(r"[^\x20-\x7e]+", " ", lines[-1])[:300] if lines else ""

    def remove(self) -> None:
        """Remove it with all there is in it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def find_allotments(directory: Path, *, created: bool = True) -> list[Allotment]:
    """Those in ``allocations/`` of a home; without ``created`` the others: of allocations that agents have been in."""
    return [
        Allotment(path)
        for path in sorted(directory.glob("*"))
        if path.is_dir() and path.name.startswith(PREFIX) == created
    ]


def _write(path: Path, body: Mapping[str, Any]) -> None:
    write_private(path, compact_ascii(body).encode("ascii"))


def _read(path: Path) -> dict[str, Any]:
    try:
        check_private(path)
        found = json.loads(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    except LwfmError:
        raise
    except (OSError, ValueError) as error:
        raise InvalidRecord(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRecord(f"{path} holds no object")
    return found
