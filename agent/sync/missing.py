"""Which files are to come: what the agent of this side lacks of what a request means. Fetches nothing."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Optional

from ..data.contents import harmless_name
from ..data.outputs import BROUGHT_NAME
from ..records import JSON
from .contents import Asked
from .frames import Refused
from .wanted import DataRequest

BLOB_BYTES = 64 * 1024
"""Output of a job up to this size is kept in the store, as the agent does with that of its own."""
REMEMBERED_FILES = 10_000
"""Up to so many files that are wanted are kept in mind; of more the agent is asked a second time."""


@dataclass(frozen=True)
class Wanted:
    """A file that is to come.

    Args:
        sha256, size: what it is. name: as it is told, harmless. record: the id of its metasheet, or of the job that printed it.
        output: whether it is the latter. here: paths of this host where it may be already. resume: whether a part of it is trusted.
    """

    sha256: str
    size: int
    name: str
    record: str
    output: bool = False
    here: tuple[str, ...] = ()
    resume: bool = True

    @property
    def blob(self) -> bool:
        """Whether it goes to the store, not to a file."""
        return self.output and self.size <= BLOB_BYTES

    @property
    def copy_name(self) -> str:
        """What the copy is called."""
        return BROUGHT_NAME if self.output else self.name


Portion = dict[str, Wanted]
"""Files that have been asked for together and have not come yet, by their checksums."""


def missing(agent: Asked, request: DataRequest, among: Optional[Container[str]]) -> Iterator[Wanted]:
    """The files that are not here.

    Args:
        agent: of this side. request: which are meant. among: the checksums of all that the sender has, where that is known.
    """
    kinds = [kind for kind, asked in (("data", request.data), ("outputs", request.outputs)) if asked]
    for kind in kinds:
        after: Optional[str] = None
        seen: set[str] = set()
        while True:
            body = {**request.to_json(), "kind": kind, "after": after}
            page = agent.post("/v1/contents/missing", body, repeatable=True)
            for item in page["files"]:
                if among is not None and item["sha256"] not in among:
                    continue
                wanted = _wanted(item, kind == "outputs")
                if not wanted.output or wanted.sha256 not in seen:
                    yield wanted
                if wanted.output and len(seen) < REMEMBERED_FILES:
                    seen.add(wanted.sha256)
            after = page["after"]
            if after is None:
                break


def expected(portion: Portion, sha256: Any) -> Wanted:
    """The file that the other side names, if it was asked for.

    Raises:
        Refused: it was not.
    """
    file = portion.get(sha256) if isinstance(sha256, str) else None
    if file is None:
        raise Refused(f"the other side sent a file that it was not asked for: {str(sha256)[:64]}")
    return file


def _wanted(item: JSON, output: bool) -> Wanted:
    """A file as the agent names it."""
    name = f"{item['job_id']}.out" if output else harmless_name(item.get("path"))
    record = str(item["job_id"] if output else item["data_id"])
    return Wanted(item["sha256"], item["size_bytes"], name, record, output, tuple(item.get("here", ())))
