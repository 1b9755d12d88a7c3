"""A script that runs in the foreground: started, its output passed through and kept, reaped with what it used.

Knows nothing of the agent. The script shares our process group: what is typed at the terminal reaches it by itself.
"""

from __future__ import annotations

import base64
import codecs
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, BinaryIO

from ..errors import ConfigError
from .screen import Screen
from .text import harmless_live

if TYPE_CHECKING:
    from ..records import JSON

KEPT_BYTES = 64 * 1024
"""How much of each stream is kept for the record."""
PIECE_BYTES = 64 * 1024
DRAIN_S = 1.0
"""How long to read on after the script's end, when something it started holds its output open."""
REPEAT_INTERRUPT_S = 3.0
INTERRUPT_GRACE_S = 10.0
TERM_GRACE_S = 5.0
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Foreground:
    """One run of a script.

    Args:
        command: what to run. environment: all of its environment.
        screen: where its output goes on a terminal.
        output: where its standard output goes; standard error always goes to ours.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], screen: Screen, output: IO[str]):
        self._screen = screen
        self._own_peak = _peak(resource.RUSAGE_SELF)
        try:
            self._process = subprocess.Popen(
                list(command), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise ConfigError(f"cannot start {command[0]}: {error.strerror}", hint="--python names another") from error
        self._ended = threading.Event()
        self._status = 0
        self._usage: resource.struct_rusage | None = None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pumps = (
            _Pump(self._process.stdout, output, screen),
            _Pump(self._process.stderr, sys.stderr, screen),
        )
        threading.Thread(target=self._reap, name="lwfm-script", daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether the script has not ended."""
        return not self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the script's end and the last of its output; whether that came in time."""
        if not self._ended.wait(timeout_s):
            return False
        for pump in self._pumps:
            pump.join(DRAIN_S)
        return True

    def stop(self, number: int) -> None:
        """Make it end as signal ``number``, which we have got, wants it: then TERM, then KILL.

        The terminal sends its INT to the script as well, which may be tidying up and is not disturbed at once.
        """
        if number == signal.SIGINT and _in_terminals_foreground() and self.wait(REPEAT_INTERRUPT_S):
            return
        for sent, grace_s in ((number, INTERRUPT_GRACE_S), (signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, None)):
            self._signal(sent)
            if self.wait(grace_s):
                return

    @property
    def exit_code(self) -> int:
        """As a shell gives it: the script's own, or 128 and the signal's number."""
        return 128 + os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else os.WEXITSTATUS(self._status)

    def outcome(self) -> JSON:
        """How it went, with the keys of ``POST /v1/jobs/ID/finish``."""
        result: JSON = {"cause": "exit", "stdout": self._pumps[0].kept(), "stderr": self._pumps[1].kept()}
        if os.WIFSIGNALED(self._status):
            result["signal"] = _signal_name(os.WTERMSIG(self._status))
        else:
            result["exit_code"] = os.WEXITSTATUS(self._status)
        if self._usage is not None:
            result["cpu_seconds"] = round(self._usage.ru_utime + self._usage.ru_stime, 6)
            peak = self._usage.ru_maxrss * _RSS_UNIT_BYTES
            if peak > self._own_peak:  # the kernel counts our memory at the moment of the start to the child
                result["peak_rss_bytes"] = peak
        return result

    def _reap(self) -> None:
        _, self._status, self._usage = os.wait4(self._process.pid, 0)
        self._process.returncode = self.exit_code
        self._ended.set()

    def _signal(self, number: int) -> None:
        try:
            if self.running:
                os.kill(self._process.pid, number)
        except ProcessLookupError:
            pass  # it ended at this moment


class _Pump(threading.Thread):
    """Passes one stream through, and keeps its beginning."""

    def __init__(self, source: IO[bytes], sink: IO[str], screen: Screen):
        super().__init__(name="lwfm-pump", daemon=True)
        self._source, self._sink, self._screen = source, sink, screen
        self._raw: BinaryIO | None = getattr(sink, "buffer", None)
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._filtered = sink.isatty()
        self._head = bytearray()
        self._size = 0
        self.start()

    def run(self) -> None:
        """Until the end of the stream."""
        with self._source:
            while True:
                piece = os.read(self._source.fileno(), PIECE_BYTES)
                if not piece:
                    return
                self._size += len(piece)
                if len(self._head) < KEPT_BYTES:
                    self._head += piece[: KEPT_BYTES - len(self._head)]
                try:
                    self._pass_on(piece)
                except (OSError, ValueError):
                    self._pass_on = _ignore  # type: ignore[method-assign]  # nobody reads; the script goes on

    def kept(self) -> JSON:
        """The stream as it is recorded."""
        if not self._size:
            return {"size": 0}
        return {"size": self._size, "data": base64.b64encode(bytes(self._head)).decode("ascii")}

    def _pass_on(self, piece: bytes) -> None:
        if self._filtered:
            text = harmless_live(self._decode(piece))
            self._screen.write(lambda: self._sink.write(text), text.endswith("\n"))
            self._sink.flush()
        elif self._raw is not None:
            self._raw.write(piece)
            self._raw.flush()
        else:
            self._sink.write(self._decode(piece))


def _ignore(piece: bytes) -> None:
    """Drop it."""


def _in_terminals_foreground() -> bool:
    """Whether what is typed at the terminal reaches this process's group."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * _RSS_UNIT_BYTES


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
