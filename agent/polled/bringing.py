"""What jobs leave at sites that must be asked, brought here once they have ended: small outputs, what is known of declared files,
the threads of instances that they had of their own.

The end itself is recorded before, and waits for none of this. Larger outputs stay with the site, and are asked for there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Optional

from .. import faultpoints
from ..data.files import declared_paths
from ..data.outputs import BROUGHT_BYTES, OutputStore
from ..errors import LwfmError, StoreError
from ..models import JobDefn, Metasheet
from ..recording.writer import Writer
from ..sites.base import Repo, Run
from ..sites.calls import SiteCalls
from .handover import Build
from .observing import STREAMS, record_brought

TRIES = 5
PAUSE_S = 5.0
_logger = logging.getLogger(__name__)


class Bringing:
    """Brings what ended jobs have left, site by site.

    Args:
        writer, outputs: where it is kept. ``calls``: to the drivers.
        pillar_of: a pillar of a site, None where it has none; may raise LwfmError. ``is_down``: whether a site is known to be.
        collect: takes over the thread of an instance, by its directory; raises LwfmError.
        build: finds definitions. ``spawn``: runs a coroutine in the event loop.
    """

    def __init__(
        self,
        writer: Writer,
        outputs: OutputStore,
        calls: SiteCalls,
        pillar_of: Callable[[str, str], Any],
        is_down: Callable[[str], bool],
        collect: Callable[[str], Awaitable[None]],
        build: Build,
        spawn: Callable[[Awaitable[None]], Any],
        pause_s: float = PAUSE_S,
    ):
        self._writer = writer
        self._outputs = outputs
        self._calls = calls
        self._pillar_of = pillar_of
        self._is_down = is_down
        self._collect = collect
        self._build = build
        self._spawn = spawn
        self._pause_s = pause_s
        self._queues: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, site: str, job_ids: Iterable[str]) -> None:
        """These jobs of a site have ended."""
        listed = dict.fromkeys(job_ids, 0)
        if not listed:
            return
        if site in self._queues:
            self._queues[site].update(listed)
        else:
            self._queues[site] = listed
            self._spawn(self._serve(site))

    async def printed(self, site: str, run: Run, job_id: str) -> dict[str, bytes]:
        """What a job has printed, of each stream that is small.

        Raises:
            LwfmError: the site does not say.
        """
        found = {}
        for stream in STREAMS:
            data = await self._calls.call(site, run.output, job_id, stream, 0, BROUGHT_BYTES + 1, wait_s=None)
            if len(data) <= BROUGHT_BYTES:
                found[stream] = bytes(data)
        return found

    async def _serve(self, site: str) -> None:
        """Bring what there is, the oldest first; who cannot be helped comes last, and is given up in the end."""
        queue = self._queues[site]
        while queue:
            job_id = next(iter(queue))
            if self._is_down(site):
                await asyncio.sleep(self._pause_s)
                continue
            tried = queue.pop(job_id) + 1
            try:
                await self._bring(site, job_id, give_up=tried >= TRIES)
            except LwfmError as error:
                _logger.info("site %s: what job %s has left was not brought: %s", site, job_id, error)
                queue[job_id] = tried
                await asyncio.sleep(self._pause_s)
            except Exception:
                _logger.exception("site %s: job %s", site, job_id)
        del self._queues[site]

    async def _bring(self, site: str, job_id: str, *, give_up: bool) -> None:
        try:
            run, repo = self._pillar_of(site, "run"), self._pillar_of(site, "repo")
        except LwfmError:
            if give_up:
                return  # the mark is still there: an agent that starts tries again
            raise
        printed: dict[str, bytes] = {}
        if run is not None:
            try:
                printed = await self.printed(site, run, job_id)
                for home in await self._calls.call(site, run.homes, job_id, wait_s=None):
                    await self._collect(str(home))
            except LwfmError as error:
                if not give_up:
                    raise
                _logger.warning("site %s: of job %s not all is brought: %s", site, job_id, error)
        sheets = await self._declared(site, repo, job_id) if repo is not None else []
        faultpoints.hit("bringing.fetched")
        try:
            await self._writer.durably(record_brought, job_id, printed, sheets, self._outputs)
        except StoreError:
            if give_up:
                return
            raise

    async def _declared(self, site: str, repo: Repo, job_id: str) -> list[Metasheet]:
        """The declared files that this host sees, as the site describes them where they are."""
        defn = await self._writer.read(self._definition, job_id)
        sheets = []
        for op, path in await asyncio.to_thread(lambda: list(declared_paths(defn))) if defn is not None else ():
            try:
                stored = await self._calls.call(site, repo.put, Path(path), None, {}, wait_s=None)
            except LwfmError as error:
                _logger.info("site %s: %s of job %s is not recorded: %s", site, path, job_id, error)
                continue
            sheets.append(
                Metasheet(
                    op=op, site=site, url=stored.url, path=stored.path, host=stored.host, size_bytes=stored.size_bytes,
                    sha256=stored.sha256, job_id=job_id, properties={"declared": True},
                )
            )  # fmt: skip
        return sheets

    def _definition(self, connection: Any, job_id: str) -> Optional[JobDefn]:
        built = self._build(connection, {job_id: None})
        defn = built[0].request.defn if built else None
        return defn if defn is not None and (defn.inputs or defn.outputs) else None
