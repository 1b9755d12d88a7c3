"""The threads of instances that batch jobs had of their own, taken over when the jobs have ended."""

from __future__ import annotations

import asyncio
import json

from ..errors import SiteError
from ..paths import Home
from ..recording.recorder import Recorder
from ..recording.writer import Writer
from ..store import nesting
from .own_command import run_own_command

LONGEST_S = 3600.0


class Collecting:
    """Takes threads over, one after another.

    Args:
        home: of the instance that takes them. ``writer``: of its store.
    """

    def __init__(self, home: Home, writer: Writer):
        self._home = home
        self._writer = writer
        self._turn = asyncio.Lock()

    async def collect(self, inner: str) -> None:
        """Bring the thread of the instance in the directory ``inner``; harmless when it was brought before.

        Raises:
            SiteError: it did not come, or not all.
        """
        async with self._turn:
            try:
                ended = await run_own_command(self._home, "sync", "collect", inner, "--json", limit_s=LONGEST_S)
            except (OSError, asyncio.TimeoutError) as error:
                raise SiteError(f"the thread in {inner} was not brought: {str(error) or 'it took too long'}") from error
        if ended.code != 0:
            raise SiteError(f"the thread in {inner} was not brought: {ended.complaint or f'exit code {ended.code}'}")
        origin = str(json.loads(ended.printed)["origin"])

        def work(recorder: Recorder) -> None:
            nesting.note_inner(recorder.transaction, origin, inner)

        await self._writer.durably(work)
