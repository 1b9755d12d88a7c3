"""Calling drivers: each site has a thread of its own, in which its calls come one after the other. Those that move data have
one each, where the driver allows that, so that a long transfer holds up nothing; so has each definition that is judged.

So a driver that hangs holds up its own site alone: not the other sites, not the event loop, and not the agent's leaving, for
which no thread of these is waited for long. Who waits for a call can say how long; a call that has begun cannot be ended.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Optional

from ..errors import SiteError
from .base import Repo
from .registry import called

WAIT_S = 30.0
"""How long a person's call waits for its turn, unless it says otherwise."""
_BUSY_HINT = "calls for one site do not overlap; try again in a moment"


class _Call:
    """One call that waits for its turn, or has it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, work: Callable[[], Any]):
        self.name = name
        self.work = work
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[Any] = loop.create_future()
        self.done.add_done_callback(_noticed)
        self.started = self.withdrawn = False


class _Line:
    """The calls of one site, and the thread that makes them."""

    def __init__(self, site: str, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._queue: queue.SimpleQueue[Optional[_Call]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.current: Optional[tuple[_Call, float]] = None
        threading.Thread(target=self._work, name=f"lwfm-site-{site}", daemon=True).start()

    def put(self, name: str, work: Callable[[], Any]) -> _Call:
        """Have a call made when its turn comes."""
        call = _Call(self._loop, name, work)
        self._queue.put(call)
        return call

    def withdraw(self, call: _Call) -> bool:
        """Take a call back; whether it had not begun."""
        with self._lock:
            call.withdrawn = not call.started
            return call.withdrawn

    def end(self) -> None:
        """Let the thread end once its calls are made."""
        self._queue.put(None)

    def _work(self) -> None:
        while True:
            call = self._queue.get()
            if call is None:
                return
            with self._lock:
                if call.withdrawn:
                    continue
                call.started = True
                self.current = call, time.monotonic()
            self._tell(call.begun, None, None)
            try:
                result, error = call.work(), None
            except BaseException as raised:
                result, error = None, raised
            with self._lock:
                self.current = None
            self._tell(call.done, result, error)

    def _tell(self, future: asyncio.Future[Any], result: Any, error: Optional[BaseException]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, future, result, error)
        except RuntimeError:  # the loop is closed: the agent has left
            pass


class SiteCalls:
    """Calls drivers from one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, _Line] = {}
        self._apart = itertools.count(1)

    async def call(
        self,
        site: str,
        function: Callable[..., Any],
        *arguments: Any,
        wait_s: Optional[float] = WAIT_S,
        run_s: Optional[float] = None,
    ) -> Any:
        """What a driver's function answers.

        Args:
            site: whose. ``function``: what is called, with ``arguments``.
            wait_s: how long to wait for its turn. ``run_s``: how long for its answer; None: for ever.

        Raises:
            SiteError: the time is over, or as the driver has it.
        """
        name = getattr(function, "__name__", "a call")
        pillar = getattr(function, "__self__", None)
        alone = name == "check" or (isinstance(pillar, Repo) and pillar.thread_safe)
        apart = f"{site}/{next(self._apart)}" if alone else None
        line = self._line(apart or site)
        call = line.put(name, lambda: called(site, function, *arguments))
        try:
            if not await _comes(call.begun, wait_s) and line.withdraw(call):
                busy = f"its {self.busy_with(site)}" if self.busy_with(site) else "other calls wait"
                raise SiteError(f"site {site!r} is busy: {busy}", hint=_BUSY_HINT, transient=True)
            if not await _comes(call.done, run_s):
                raise SiteError(f"site {site!r} has not answered {name} within {run_s:.0f} s", transient=True)
        except asyncio.CancelledError:
            line.withdraw(call)
            raise
        finally:
            if apart is not None:
                self._lines.pop(apart).end()
        return call.done.result()

    def busy_with(self, site: str) -> Optional[str]:
        """The call that a site is at, and for how long; None when there is none."""
        line = self._lines.get(site)
        current = line.current if line is not None else None
        return None if current is None else f"{current[0].name} has taken {time.monotonic() - current[1]:.0f} s"

    async def close(self, patience_s: float) -> None:
        """Let calls that have begun end, as far as they do so in time."""
        running = [line.current[0].done for line in self._lines.values() if line.current is not None]
        for line in self._lines.values():
            line.end()
        if running:
            await asyncio.wait(running, timeout=patience_s)

    def _line(self, site: str) -> _Line:
        if site not in self._lines:
            self._lines[site] = _Line(site, self._loop)
        return self._lines[site]


async def _comes(future: asyncio.Future[Any], within_s: Optional[float]) -> bool:
    """Whether a future is done within that time; it is left alone."""
    done, _ = await asyncio.wait({future}, timeout=within_s)
    return bool(done)


def _settle(future: asyncio.Future[Any], result: Any, error: Optional[BaseException]) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception):
        future.set_exception(error)
    else:
        future.set_exception(SiteError(f"the driver was ended by {type(error).__name__}"))


def _noticed(future: asyncio.Future[Any]) -> None:
    """What a call has raised for which nobody waits any more is no mistake of ours."""
    if not future.cancelled():
        future.exception()
