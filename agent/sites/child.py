"""One process of a driver as the agent has it: started, called, ended. Calls block, from as many threads as there are.

It is started with one end of a pair of sockets, and told the rest over that: its arguments and its environment hold nothing of a
site's options or of jobs. When that connection ends, on either side, so does the process.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ..errors import LwfmError, SiteError, from_json
from ..host.logfiles import SHARED_LOG, LogFile
from ..records import JSON
from .pipe import Broken, Message, Pipe

SEND_LIMIT_S = 60.0
"""A process that takes nothing for so long hangs."""
LEAVE_S = 5.0
"""How long it may take to leave after the connection has ended."""
Ask = Callable[[str, bool], str]
_logger = logging.getLogger(__name__)


class Unsent(SiteError):
    """The process has ended before it was given the call."""

    transient = True


class Child:
    """A process that serves calls.

    Args:
        site: its name, for messages. ``command``: starts it; ``--fd N`` is added.
        environment: its variables. ``log``: what it prints goes there.

    Raises:
        SiteError: it cannot be started.
    """

    def __init__(self, site: str, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self._site = site
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Message]] = {}
        self._guard = threading.Lock()
        self._end: Optional[str] = None
        self.started = self.ended = time.monotonic()
        ours, theirs = socket.socketpair()
        try:
            with _opened(log) as stream:
                self.process = subprocess.Popen(
                    [*command, "--fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, pass_fds=(theirs.fileno(),),
                    env=dict(environment), cwd="/", start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise SiteError(f"the driver of site {site!r} cannot be started: {error}", transient=True) from error
        finally:
            theirs.close()
        self._pipe = Pipe(ours, SEND_LIMIT_S)
        self._reader = threading.Thread(target=self._read, name=f"lwfm-site-{site}", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return self._end is None

    def call(
        self, head: JSON, body: bytes = b"", limit_s: Optional[float] = None, ask: Optional[Ask] = None
    ) -> Message:
        """Send a message, and wait for what it answers.

        Args:
            limit_s: how long that may take; then the process is killed, as nothing else ends a call that hangs.
            ask: answers what the driver asks of the person meanwhile.

        Raises:
            LwfmError: what the driver raised. SiteError, transient: the process has ended, or was too slow.
            Unsent: it had ended before; another may be given the call.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        with self._guard:
            if self._end is not None:
                raise self._gone(Unsent)
            self._waiting[number] = answers
        try:
            self._send({**head, "id": number}, body)
            return self._answer(number, answers, None if limit_s is None else time.monotonic() + limit_s, ask)
        except queue.Empty:
            self.kill()
            raise SiteError(
                f"site {self._site!r} has not answered within {limit_s:g} s; its driver was stopped", transient=True
            ) from None
        finally:
            self._waiting.pop(number, None)

    def close(self, grace_s: float = LEAVE_S) -> None:
        """Let it leave; kill it if it does not within ``grace_s``. Blocks."""
        self._pipe.shut()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            _logger.warning("the driver of site %s does not leave; it is killed", self._site)
            self.kill()
        self._reader.join()

    def kill(self) -> None:
        """End it at once, with the processes that it started in its session."""
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._pipe.shut()

    def _send(self, head: JSON, body: bytes = b"") -> None:
        try:
            self._pipe.send(head, body)
        except Broken:
            self.kill()  # it hangs, or is about to end; the thread that reads says how it ended
            self._reader.join(LEAVE_S)
            raise self._gone(Unsent) from None

    def _answer(
        self, number: int, answers: queue.SimpleQueue[Message], until: Optional[float], ask: Optional[Ask]
    ) -> Message:
        while True:
            got = answers.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            kind = got.head["t"]
            if kind == "ask":
                self._ask(number, got.head, ask)
            elif kind == "gone":
                raise self._gone()
            elif kind in ("error", "failed"):
                raise from_json(got.head["error"])
            else:
                return got

    def _ask(self, number: int, question: JSON, ask: Optional[Ask]) -> None:
        """Answer a question of the driver; it is told too that there is no answer, and why."""
        error: LwfmError = SiteError("the question was not answered")
        try:
            if ask is not None:
                text = ask(question["prompt"], question["secret"])
                self._send({"t": "told", "id": number, "text": text})
                return
        except LwfmError as raised:
            error = raised
        except BaseException:
            self._send({"t": "told", "id": number, "error": error.to_json()})
            raise
        self._send({"t": "told", "id": number, "error": error.to_json()})

    def _gone(self, kind: type[SiteError] = SiteError) -> SiteError:
        return kind(f"the driver of site {self._site!r} {self._end}", hint=f"see {self._log}", transient=True)

    def _read(self) -> None:
        """Hand answers to who waits for them, until the connection ends; then reap the process."""
        try:
            while True:
                message = self._pipe.receive()
                number = message.head.get("id", 1)  # its first words answer the first call
                waiting = self._waiting.get(number)
                if waiting is not None:
                    waiting.put(message)
        except Broken as error:
            _logger.info("the driver of site %s: %s", self._site, error)
        try:
            code = self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self._pipe.close()
        with self._guard:
            self._end, self.ended = _said(code), time.monotonic()
            waiting_now = list(self._waiting.values())
        for answers in waiting_now:
            answers.put(Message({"t": "gone"}, b""))


def _said(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}" if code else "has ended"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _opened(log: Path) -> Any:
    """The log to append to; one that has grown too large makes way, and goes on doing so while the process runs."""
    log.parent.mkdir(mode=0o700, exist_ok=True)
    file = LogFile(str(log), SHARED_LOG.configured())
    file.append()
    return os.fdopen(file.open(), "ab")
