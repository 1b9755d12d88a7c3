"""The thread that owns the store: work is queued, done in batches of one transaction each, and answered when it is durable.

While one batch waits for the disk the next one gathers; so the more there is to do, the more a transaction holds.
Reading does not wait for writing where the store allows a second connection.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Optional, TypeVar, cast

from . import faultpoints
from .errors import AgentBusy, LwfmError, StoreError
from .events import Rules
from .recorder import Effects, Recorder
from .store import Store
from .store.database import mapped_errors

T = TypeVar("T")
MAX_BATCH = 500
BUSY_RECORDS_PER_S = 200
GATHER_S = 0.02
"""While many jobs are under way, work is left to gather so long before a transaction begins: each record then costs less."""
RATE_WINDOW_S = 0.1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Item:
    """One piece of queued work; ``alone``: outside any transaction, with the store itself."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]
    alone: bool = False


class _Rate:
    """How many records come at the moment."""

    def __init__(self) -> None:
        self._began = 0.0
        self._count = 0
        self._last = 0.0

    def count(self, records: int) -> None:
        """So many were just written."""
        now = time.monotonic()
        elapsed = now - self._began
        if elapsed > RATE_WINDOW_S:
            self._last = self._count / elapsed
            self._began, self._count = now, 0
        self._count += records

    def busy(self) -> bool:
        """Whether they come faster than ``BUSY_RECORDS_PER_S``."""
        return self._last > BUSY_RECORDS_PER_S and time.monotonic() - self._began < 2 * RATE_WINDOW_S


_Answer = tuple["asyncio.Future[Any]", Any, Optional[Effects]]


class Writer:
    """Runs units of work on the store, for one event loop.

    Args:
        store: from now on used by this object's threads alone.
        rules: evaluated in every transaction.
        on_commit: called in the loop with the effects of every unit, in order, before its caller is answered.
        complete: called in the store's thread at the end of every unit, in its transaction.
        crowded: whether so many jobs are under way that nobody waits for a particular one.
        on_undone: called in the store's thread when a unit was undone, to forget what was learned from it.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        on_commit: Callable[[Effects], None],
        complete: Callable[[Recorder], None] = lambda _: None,
        crowded: Callable[[], bool] = lambda: False,
        on_undone: Callable[[], None] = lambda: None,
    ):
        self._store = store
        self._rules = rules
        self._on_commit = on_commit
        self._complete = complete
        self._crowded = crowded
        self._on_undone = on_undone
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._closing = False
        self._rate = _Rate()
        self._reader = store.reader()
        self._read_pool = ThreadPoolExecutor(1, "lwfm-read") if self._reader else None
        self._thread = threading.Thread(target=self._work, name="lwfm-write", daemon=True)
        self._thread.start()

    def write(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run ``work(recorder, *arguments)``; the future has its result once it is durable, or what it raised.

        What it raised has undone it, and only it.
        """
        if self._closing:
            raise AgentBusy("the agent is stopping", hint="try again in a moment")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Item(work, arguments, future))
        return future

    async def read(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run ``work(connection, *arguments)``, which only reads; it sees everything that has been answered."""
        if self._read_pool is None or self._reader is None:
            return await self.write(lambda recorder: work(recorder.transaction.connection, *arguments, **options))
        return await self._loop.run_in_executor(self._read_pool, self._read, work, arguments, options)

    async def alone(self, work: Callable[[Store], T]) -> T:
        """Run ``work(store)`` between batches, outside any transaction."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Item(work, (), future, alone=True))
        return await future

    async def close(self) -> None:
        """Finish what is queued, then close the store."""
        self._closing = True
        self._queue.put(_END)
        await self._loop.run_in_executor(None, self._thread.join)
        if self._read_pool is not None and self._reader is not None:
            self._read_pool.shutdown(wait=True)
            self._reader.close()
        self._store.close()

    def _read(self, work: Callable[..., T], arguments: tuple[Any, ...], options: dict[str, Any]) -> T:
        assert self._reader is not None
        with mapped_errors(self._store.path):
            return work(self._reader, *arguments, **options)

    def _work(self) -> None:
        while True:
            batch, follower = self._gather()
            if batch:
                self._answer(self._commit(batch))
            if follower is None:
                continue
            if follower is _END:
                return
            self._answer([self._run_alone(follower)])

    def _gather(self) -> tuple[list[_Item], Optional[_Item]]:
        """Wait for work, then take all there is: what goes into one transaction, and what must come after it."""
        batch: list[_Item] = []
        item = self._queue.get()
        if self._crowded() and self._rate.busy():
            time.sleep(GATHER_S)
        while True:
            if item.alone:
                return batch, item
            batch.append(item)
            if len(batch) >= MAX_BATCH:
                return batch, None
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None

    def _run_alone(self, item: _Item) -> _Answer:
        try:
            return item.future, item.work(self._store), None
        except Exception as error:
            return item.future, _reported(error), None

    def _commit(self, batch: list[_Item]) -> list[_Answer]:
        answers: list[_Answer] = []
        try:
            with self._store.transaction() as transaction:
                for item in batch:
                    recorder = Recorder(transaction, self._rules)
                    try:
                        with transaction.step():
                            result = item.work(recorder, *item.arguments)
                            self._complete(recorder)
                        answers.append((item.future, result, recorder.effects))
                    except StoreError:
                        raise
                    except Exception as error:
                        self._undone()
                        answers.append((item.future, _reported(error), None))
                self._rate.count(transaction.appended)
                faultpoints.hit("writer.before_commit")
            faultpoints.hit("writer.after_commit")
        except Exception as error:
            self._undone()
            reported = _reported(error)
            return [(item.future, reported, None) for item in batch]
        return answers

    def _undone(self) -> None:
        self._rules.reset()
        self._on_undone()

    def _answer(self, answers: list[_Answer]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, answers)
        except RuntimeError:
            _logger.warning("the loop was gone before %d answers could be given", len(answers))

    def _deliver(self, answers: list[_Answer]) -> None:
        faultpoints.hit("writer.before_effects")
        for future, result, effects in answers:
            if effects is not None:
                try:
                    self._on_commit(effects)
                except Exception:  # the record is durable, and who waits for others of the batch must not suffer
                    _logger.exception("the effects of a unit of work failed")
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _nothing() -> None:
    """The work of the last item."""


_END = _Item(_nothing, (), cast("asyncio.Future[Any]", None), alone=True)


def _reported(error: Exception) -> Exception:
    if not isinstance(error, LwfmError):
        _logger.error("a unit of work failed", exc_info=error)
        return LwfmError(f"internal error: {type(error).__name__}: {error}", hint="the agent's log has the details")
    return error
