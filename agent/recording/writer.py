"""Units of work on the store: queued, done in transactions of as many as there are, answered when they are durable.

Statements run in the event loop; only the wait for the disk at a transaction's end is left to a thread. (With statements in
a thread, loop and thread hand the interpreter to each other at every one of them, which costs more than the statement.)
While one transaction waits for the disk the next one's work gathers; so the more there is to do, the more one holds.
Reading does not wait for writing where the store allows a second connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from .. import faultpoints
from ..errors import AgentBusy, LwfmError, StoreError
from ..host.shortages import busy_with
from ..host.troubles import STORE, Troubles
from ..store import Store, Transaction
from ..store.failures import mapped_errors
from .events import Rules
from .recorder import Effects, Recorder

T = TypeVar("T")
TURN_S = 0.05
"""A transaction takes in no further unit of work after this long, so that the loop comes to everything else in time."""
BUSY_RECORDS_PER_S = 200
GATHER_S = 0.02
"""While many jobs are under way, work is left to gather so long before a transaction begins: each record then costs less."""
RATE_WINDOW_S = 0.1
AGAIN_S = 1.0
"""How long to wait before writing again what the disk could not take."""
FOLD_RECORDS = 5000
"""After so many records the write-ahead log is folded into the database, in a thread: some 8 MB, a tenth of a second."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Item:
    """One piece of queued work; ``alone``: in a thread, outside any transaction, with the store itself."""

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
        store: from now on used by this object alone.
        rules: evaluated in every transaction.
        on_commit: called with the effects of every unit once it is durable, in order, before its caller is answered.
        complete: called at the end of every unit, in its transaction.
        crowded: whether so many jobs are under way that nobody waits for a particular one.
        on_undone: called when a unit was undone, to forget what was learned from it.
        troubles: where it is told that nothing can be written now.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        on_commit: Callable[[Effects], None],
        complete: Callable[[Recorder], None] = lambda _: None,
        crowded: Callable[[], bool] = lambda: False,
        on_undone: Callable[[], None] = lambda: None,
        troubles: Optional[Troubles] = None,
    ):
        self._store = store
        self._rules = rules
        self._on_commit = on_commit
        self._complete = complete
        self._crowded = crowded
        self._on_undone = on_undone
        self._troubles = Troubles() if troubles is None else troubles
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Item] = deque()
        self._wanted = asyncio.Event()
        self._closing = False
        self._rate = _Rate()
        self._disk = ThreadPoolExecutor(1, "lwfm-disk")
        self._reader = store.reader()
        self._read_pool = ThreadPoolExecutor(1, "lwfm-read") if self._reader else None
        self._unfolded = 0
        self._folding: Optional[asyncio.Future[None]] = None
        self._task = self._loop.create_task(self._work())

    def write(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run ``work(recorder, *arguments)``; the future has its result once it is durable, or what it raised.

        What it raised has undone it, and only it. It runs in the event loop: it must be quick.
        """
        return self._put(work, arguments, alone=False)

    async def durably(self, work: Callable[..., T], *arguments: Any) -> T:
        """The same for what must not get lost: while the disk takes nothing, it is tried again and again."""
        while True:
            try:
                return await self.write(work, *arguments)
            except (StoreError, AgentBusy) as error:
                if not error.transient or self._closing:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def read(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run ``work(connection, *arguments)``, which only reads; it sees everything that has been answered."""
        if self._read_pool is None or self._reader is None:
            return await self.write(lambda recorder: work(recorder.transaction.connection, *arguments, **options))
        return await self._loop.run_in_executor(self._read_pool, self._read, work, arguments, options)

    async def alone(self, work: Callable[[Store], T]) -> T:
        """Run ``work(store)`` in a thread, between transactions."""
        return await self._put(work, (), alone=True)

    async def close(self) -> None:
        """Finish what is queued, then close the store."""
        self._closing = True
        self._wanted.set()
        await self._task
        if self._folding is not None:
            await asyncio.wait([self._folding])
        if self._read_pool is not None and self._reader is not None:
            self._read_pool.shutdown(wait=True)
            self._reader.close()
        await self._loop.run_in_executor(self._disk, self._store.close)
        self._disk.shutdown(wait=True)

    def _put(self, work: Callable[..., T], arguments: tuple[Any, ...], *, alone: bool) -> asyncio.Future[T]:
        if self._closing:
            raise AgentBusy("the agent is stopping", hint="try again in a moment")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append(_Item(work, arguments, future, alone))
        self._wanted.set()
        return future

    def _read(self, work: Callable[..., T], arguments: tuple[Any, ...], options: dict[str, Any]) -> T:
        assert self._reader is not None
        with mapped_errors(self._store.path):
            return work(self._reader, *arguments, **options)

    async def _work(self) -> None:
        while not (self._closing and not self._queue):
            await self._wanted.wait()
            self._wanted.clear()
            while self._queue:
                if self._crowded() and self._rate.busy() and not self._closing:
                    await asyncio.sleep(GATHER_S)
                if self._queue[0].alone:
                    self._deliver([await self._run_alone(self._queue.popleft())])
                else:
                    self._deliver(await self._transact(self._batch()))

    def _batch(self) -> Iterator[_Item]:
        """What goes into one transaction: what is queued, as far as it can be done in ``TURN_S``."""
        until = time.monotonic() + TURN_S
        while self._queue and not self._queue[0].alone:
            yield self._queue.popleft()
            if time.monotonic() > until:
                return

    async def _run_alone(self, item: _Item) -> _Answer:
        try:
            return item.future, await self._loop.run_in_executor(self._disk, item.work, self._store), None
        except Exception as error:
            return item.future, _reported(error), None

    async def _transact(self, batch: Iterator[_Item]) -> list[_Answer]:
        """Run units in one transaction. Only the wait for the disk is left to a thread: statements are too short for that."""
        answers: list[_Answer] = []
        transaction: Optional[Transaction] = None
        item: Optional[_Item] = None
        try:
            for item in batch:
                if transaction is None:
                    transaction = self._store.begin()
                answers.append(self._run(transaction, item))
                item = None
            if transaction is not None:
                self._rate.count(transaction.appended)
                faultpoints.hit("writer.before_commit")
                await self._loop.run_in_executor(self._disk, transaction.commit)
                if self._troubles and transaction.wrote:
                    self._troubles.over(STORE)
                faultpoints.hit("writer.after_commit")
                self._fold_when_due(transaction.appended)
        except Exception as error:
            if transaction is not None:
                self._roll_back(transaction)
            self._undone()
            reported = _reported(error)
            if isinstance(reported, (StoreError, AgentBusy)) and reported.transient:
                self._troubles.meet(STORE, reported.message, reported.hint)
            futures = [future for future, _, _ in answers] + ([item.future] if item else [])
            return [(future, reported, None) for future in futures]
        return answers

    def _roll_back(self, transaction: Transaction) -> None:
        try:
            with mapped_errors(self._store.path):
                transaction.rollback()
        except Exception as error:  # the next one begins with that
            _logger.error("a transaction could not be undone: %s", error)

    def _fold_when_due(self, appended: int) -> None:
        self._unfolded += appended
        if self._unfolded >= FOLD_RECORDS and (self._folding is None or self._folding.done()):
            self._unfolded = 0
            self._folding = self._loop.run_in_executor(None, self._fold)

    def _fold(self) -> None:
        try:
            self._store.fold_journal()
        except StoreError as error:  # nothing is lost by it: the log holds all, and a later commit folds it in
            _logger.warning("the write-ahead log was not folded in: %s", error)

    def _run(self, transaction: Transaction, item: _Item) -> _Answer:
        recorder = Recorder(transaction, self._rules)
        try:
            with transaction.step():
                result = item.work(recorder, *item.arguments)
                self._complete(recorder)
        except StoreError:
            raise
        except Exception as error:
            self._undone()
            return item.future, _reported(error), None
        return item.future, result, recorder.effects

    def _undone(self) -> None:
        self._rules.reset()
        self._on_undone()

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


def _reported(error: Exception) -> Exception:
    if not isinstance(error, LwfmError):
        busy = busy_with(error)
        if busy is not None:
            _logger.error("a unit of work failed: %s: %s", type(error).__name__, error)
            return busy
        _logger.error("a unit of work failed", exc_info=error)
        return LwfmError(f"internal error: {type(error).__name__}: {error}", hint="the agent's log has the details")
    return error
