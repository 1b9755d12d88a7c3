"""Putting the one file on another host: one login, one program there, which says what it has before anything is sent.

What runs there is a script for ``sh`` (:mod:`.far`), since there may be no lwfm yet; it needs ``head -c``, and ``sha256sum``,
``shasum`` or a Python. The file is written beside its place, compared, made executable and put there with one rename: at no moment
does a half of it stand there, and what stands there is not replaced by itself.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from ..errors import InvalidRecord, LwfmError, NotFound, SiteError
from .address import Address
from .far import AT_HOME, FIND_PYTHON, WHOLE_WORDS, shell_line
from .frames import MAX_CHATTER_BYTES, Cut, Refused
from .opening import explained, open_stream
from .transport import Asker, SshStream

DEFAULT_PLACE = "~/lwfm.pyz"
_GREETING = b"\nlwfm copy 1\n"
_PIECE_BYTES = 256 * 1024
_MAX_LINE_BYTES = 16 * 1024

_SUM_OF = (
    'sum_of() { sum=$( { sha256sum <"$1" || shasum -a 256 <"$1" || { find_python "$python" && "$py" -I -S -c '
    '"import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())" <"$1"; }; } 2>/dev/null ); '
    "sum=${sum%% *}; }; "
)
_SCRIPT = (
    WHOLE_WORDS + FIND_PYTHON + AT_HOME + _SUM_OF + "cd; "
    'at_home "$1"; to=$at; size=$2; want=$3; held=$4; at_home "$5"; python=$at; '
    'case "$to" in /*) ;; *) to=$PWD/$to;; esac; '
    'case "$to" in */) to=${to%/}/lwfm.pyz;; *) [ -d "$to" ] && to=$to/lwfm.pyz;; esac; '
    'echo; echo "lwfm copy 1"; printf %s "$to"; echo; '
    'sum=; [ -f "$to" ] && sum_of "$to"; '
    'if [ "$sum" = "$held" ] && [ -n "$sum" ]; then chmod u+rx "$to"; echo same; else '
    'part=$to.part.$$; cleanup() { rm -f "$part"; }; trap cleanup 0; trap "exit 1" 1 2 13 15; '
    'mkdir -p "${to%/*}/" || exit 1; (umask 077; : >"$part") || exit 1; echo send; '
    'head -c "$size" >"$part"; got=$(wc -c <"$part"); got=$((got)); '
    'if [ "$got" -ne "$size" ]; then echo "only $got of $size bytes could be written: is the disk, or a quota, full?"; exit 1; fi; '
    'sum_of "$part"; [ "$sum" = "$want" ] || { echo "it came there as another (sha256 $sum)"; exit 1; }; '
    'chmod 700 "$part" && mv -f "$part" "$to" || { echo "it cannot be put in its place"; exit 1; }; '
    "echo stored; fi; "
    'if find_python "$python"; then echo "$py"; said=$("$py" "$to" --version </dev/null 2>&1); echo $?; '
    'printf %s "$said"; echo; else echo none; fi'
)


@dataclass(frozen=True)
class Copied:
    """What came of it.

    Args:
        path: of the file there. ``sent``: whether it was; else the same one was there.
        size: in bytes. ``sha256``: of its content.
        python: that ran it there; None when none that is new enough was found.
        version: what it answered when it was run, ``lwfm 1.2``; None when it was not, or failed.
        problem: why it cannot be run there, one sentence; empty when it can.
    """

    path: str
    sent: bool
    size: int
    sha256: str
    python: Optional[str]
    version: Optional[str]
    problem: str = ""


def copy(
    address: Address,
    file: Path,
    to: str,
    ask: Optional[Asker],
    *,
    force: bool = False,
    progress: Optional[Callable[[int], object]] = None,
) -> Copied:
    """Copy ``file`` to ``to`` on another host, and see whether it runs there.

    Args:
        to: a path there, from the home directory; of a directory, it becomes the file ``lwfm.pyz`` in it.
        force: send it even when it is there already.
        progress: called with how many bytes have been sent so far.

    Raises:
        NotFound: there is no such file here. InvalidRecord: it is not lwfm.pyz, or ``to`` is no path.
        SiteError: it cannot be written there, and what is there is as it was. What :func:`~.opening.open_stream` raises.
    """
    content = _content(file)
    digest = hashlib.sha256(content).hexdigest()
    if not to or not to.isprintable():
        raise InvalidRecord(f"{to!r} is no path for it"[:200])
    words = [to, str(len(content)), digest, "" if force else digest, address.remote_python or ""]
    stream = open_stream(address, shell_line(_SCRIPT, words), ask)
    try:
        return _exchange(stream, address, content, digest, progress)
    except (Cut, Refused) as problem:
        raise explained(stream, address, problem) from None
    finally:
        stream.close()


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from None
    if not content.startswith(b"#!") or not zipfile.is_zipfile(file):
        raise InvalidRecord(f"{file} is not lwfm.pyz")
    return content


def _exchange(
    stream: SshStream,
    address: Address,
    content: bytes,
    digest: str,
    progress: Optional[Callable[[int], object]],
) -> Copied:
    lines = _Lines(stream)
    lines.pass_greeting()
    path = lines.next()
    word = lines.next()
    sent = word == "send"
    if sent:
        _send(stream, content, progress)
        word = lines.next()
    if word not in ("same", "stored"):
        raise SiteError(f"{path} on {address}: {word}"[:500])
    python = lines.next()
    if python == "none":
        named = f"{address.remote_python} there is" if address.remote_python else "on it there is"
        return Copied(path, sent, len(content), digest, None, None, f"{named} no Python 3.9 or newer")
    code, said = lines.next(), lines.rest()
    if code != "0":
        told = next((line for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}")
        return Copied(path, sent, len(content), digest, python, None, told.strip()[:500])
    return Copied(path, sent, len(content), digest, python, said.strip()[:200])


def _send(stream: SshStream, content: bytes, progress: Optional[Callable[[int], object]]) -> None:
    view = memoryview(content)
    for start in range(0, len(view), _PIECE_BYTES):
        try:
            stream.write(bytes(view[start : start + _PIECE_BYTES]))
        except OSError:
            return  # the far side has ended, and may have said why
        if progress is not None:
            progress(min(start + _PIECE_BYTES, len(view)))


class _Lines:
    """What the script says, line by line."""

    def __init__(self, stream: SshStream):
        self._stream = stream
        self._buffer = b""

    def pass_greeting(self) -> None:
        """Pass over what the login shell prints."""
        while _GREETING not in self._buffer:
            if len(self._buffer) > MAX_CHATTER_BYTES:
                raise Refused("what answers there is not a shell that can be used")
            self._fill()
        self._buffer = self._buffer.partition(_GREETING)[2]

    def next(self) -> str:
        """The next line."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise Refused("what the far side says makes no sense")
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace")

    def rest(self) -> str:
        """All that comes until the end, or as much of it as is of use."""
        while len(self._buffer) < _MAX_LINE_BYTES:
            try:
                self._fill()
            except Cut:
                break
        return self._buffer.decode("utf-8", "replace")

    def _fill(self) -> None:
        try:
            piece = self._stream.read(_PIECE_BYTES)
        except OSError as error:
            raise Cut(f"the connection broke: {error}") from error
        if not piece:
            said = [line.strip() for line in self._stream.complaint().splitlines() if line.strip()]
            raise Cut(said[-1][:500] if said else "the far side ended before it was done")
        self._buffer += piece


def refused(copied: Copied, address: Address) -> Optional[LwfmError]:
    """What to tell when the file is there but does not run; None when it does."""
    if not copied.problem:
        return None
    if copied.python is None:
        return NotFound(
            f"{copied.path} is on {address}, but {copied.problem}",
            hint="name one with --remote-python; on a cluster `module avail python` lists them",
        )
    return SiteError(f"{copied.path} does not run on {address} with {copied.python}: {copied.problem}")
