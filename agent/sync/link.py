"""The line of a site to another instance: opened when it is first needed, kept, and opened again when it has broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Callable, NamedTuple, Optional, TypeVar

from ..errors import LoginRequired, LwfmError, NotSupported, SiteError, UsageError
from .address import Address
from .frames import Cut, Line, Refused
from .remote import RemoteReplica
from .session import connected, connected_beside
from .transport import Asker

T = TypeVar("T")
AT_ONCE_S, ANSWER_S = 0.5, 2.0
"""How long what is to be done at once waits for the line, and in all."""


class There(NamedTuple):
    """The other instance, as it said when the line was opened."""

    origin: str
    host: str


class Link:
    """The line to one instance. For threads, one after the other.

    Args:
        address: where. ``site``: its name, for people.
    """

    def __init__(self, address: Address, site: str):
        self._address = address
        self._site = site
        self._lock = threading.RLock()
        self._held = ExitStack()
        self._line: Optional[Line] = None
        self._there = There("", "")

    def ask(self, work: Callable[[Line, There], T]) -> T:
        """Do something over the line that may be done again: when the line turns out to have broken, it is opened once more.

        Raises:
            LoginRequired: a person has to log in first. SiteError: the other side cannot be reached, ``transient``.
        """
        with self._lock:
            was_open = self._line is not None
            try:
                return self._once(work)
            except Cut:
                if not was_open:
                    raise
            return self._once(work)

    def ask_apart(self, work: Callable[[Line, There], T]) -> T:
        """As :meth:`ask`, for what takes long: over a line of its own beside the one, so that nothing else waits for it.

        Where the other side lets no more in (``MaxSessions`` of its sshd, or a person would have to), it goes over the one line.
        """
        with ExitStack() as held:
            with self._lock:
                there, line = self._opened(), self._line
            assert line is not None
            try:
                apart = held.enter_context(connected_beside(line, self._address))
                RemoteReplica(apart).hello(None)
            except (OSError, LwfmError):
                return self.ask(work)
            try:
                return work(apart, there)
            except Cut:  # the connection, perhaps: the one line finds out, and is opened again
                pass
        return self.ask(work)

    def ask_at_once(self, work: Callable[[Line], object]) -> None:
        """Do something over the line, if it is there, nobody else uses it, and it answers at once; an answer that is late is lost.

        Raises:
            LwfmError: what came of it, but that the line is in trouble.
        """
        raised: list[Exception] = []

        def attempt() -> None:
            if not self._lock.acquire(timeout=AT_ONCE_S):
                return
            try:
                if self._line is not None:
                    self._once(lambda line, _: work(line))
            except Exception as error:
                raised.append(error)
            finally:
                self._lock.release()

        if self._line is None:
            return
        asking = threading.Thread(target=attempt, daemon=True)
        asking.start()  # it has the line until the answer has come, or the connection has ended
        asking.join(ANSWER_S)
        for error in raised:
            if not (isinstance(error, SiteError) and error.transient):
                raise error

    def open(self, asker: Optional[Asker]) -> There:
        """Open the line, if it is not; the other side.

        Args:
            asker: whom to ask for passwords and the like; None: nobody.
        """
        with self._lock:
            if self._line is None:
                try:
                    self._line = self._held.enter_context(connected(self._address, asker))
                    hello = RemoteReplica(self._line).hello(None)
                    self._there = There(hello.origin, hello.host)
                except BaseException:
                    self.close()
                    raise
            return self._there

    @property
    def is_open(self) -> bool:
        """Whether there is a line, as far as is known."""
        return self._line is not None

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._line = None
            self._held.close()

    def _once(self, work: Callable[[Line, There], T]) -> T:
        there = self._opened()
        assert self._line is not None
        try:
            return work(self._line, there)
        except Cut as cut:
            self._line = None
            held, self._held = self._held, ExitStack()
            with _way_there():
                held.__exit__(type(cut), cut, cut.__traceback__)  # raises what explains it, where something does
            raise
        except Refused:  # the two sides do not understand each other any more
            self.close()
            raise
        except LwfmError:
            raise
        except BaseException:  # half an answer may be on the line
            self.close()
            raise

    def _opened(self) -> There:
        """The other side, to which there is a line.

        Raises:
            LoginRequired: a person has to log in first. SiteError: it cannot be reached.
        """
        try:
            with _way_there():
                return self.open(None)
        except LoginRequired as error:
            raise LoginRequired(f"{self._address}: {error.message}", hint=f"lwfm site login {self._site}") from error


@contextmanager
def _way_there() -> Iterator[None]:
    """What is wrong with the way to the other side is no answer to what was to be asked there, as that it has no such job."""
    try:
        yield
    except (UsageError, NotSupported) as error:  # as where there is no lwfm any more
        raise SiteError(error.message, hint=error.hint, transient=True) from error
