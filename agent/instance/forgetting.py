"""Forgetting secrets that nothing needs any more: of jobs that have ended, of handlers whose last job has."""

from __future__ import annotations

from collections.abc import Iterable

from ..recording.recorder import Recorder
from ..recording.sealing import Vault
from ..recording.writer import Writer
from ..store import Connection
from ..store.atrest import ENDED

_NEEDED = (
    f"select 1 from jobs where (id = ?1 or handler_id = ?1) and state not in {ENDED}"  # noqa: S608
    " and (origin = ?2 or id in (select job_id from local_adopted))"
    " union select 1 from handlers where id = ?1 and state = 'waiting' and origin = ?2"
)


class Forgetting:
    """Forgets secrets.

    Args:
        vault: holds them. ``writer``: by which it is seen whether they are needed.
    """

    def __init__(self, vault: Vault, writer: Writer):
        self._vault = vault
        self._writer = writer
        self._handlers: set[str] = set()

    def ended(self, job_id: str) -> None:
        """A job has."""
        self._vault.forget(job_id)

    def used(self, handlers: Iterable[str]) -> None:
        """These handlers have fired, or were unset: their secrets are needed until the last of their jobs has ended."""
        self._handlers.update(filter(self._vault.holds, handlers))

    async def begin(self) -> None:
        """Forget those of what has ended while no agent ran."""
        await self._writer.write(self._forget, self._vault.owners())

    async def look(self) -> None:
        """Forget those of handlers, as far as they are needed no more."""
        self._handlers = set(filter(self._vault.holds, self._handlers))
        if self._handlers:
            await self._writer.write(self._forget, list(self._handlers))

    def _forget(self, recorder: Recorder, owners: Iterable[str]) -> None:
        for owner in owners:
            if not is_needed(recorder.transaction.connection, owner, recorder.transaction.origin):
                self._vault.forget(owner)


def is_needed(connection: Connection, owner: str, origin: str) -> bool:
    """Whether the secrets of a job or handler are: it is of this instance, or runs here, and has not ended."""
    return connection.execute(_NEEDED, (owner, origin)).fetchone() is not None
