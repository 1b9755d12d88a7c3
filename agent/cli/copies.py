"""``data``: copies of data on this host, verified, and what is known but not here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..data.contents import CHUNK_BYTES, is_file_of
from ..matching import parse_terms
from ..sync.wanted import DataRequest
from . import render
from .groups import Group, example
from .options import json_option, limit_option
from .screen import Screen
from .session import Session
from .text import harmless, plural, size

if TYPE_CHECKING:
    from ..records import JSON

EXIT_NOT_VERIFIED = 1
SHOW_INTERVAL_S = 0.2


@click.group(cls=Group, short_help="Copies of data: verify, missing.")
def data() -> None:
    """Copies of data: what of it is on this host and still what it was, and what is elsewhere alone."""


@data.command(
    short_help="Whether recorded files are still what they were.",
    epilog=example("lwfm data verify", "lwfm data verify kind=result"),
)
@click.option("--all", "everything", is_flag=True, help="Files that were only read or fetched too.")
@json_option
@click.argument("terms", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def verify(session: Session, everything: bool, as_json: bool, terms: tuple[str, ...]) -> int:
    """Read the files that this instance has recorded and look whether they are what they were. The exit code is 1 if not.

    These are the files that were put here, and the copies that came from other instances; of each path the newest record
    counts. CHANGED: the content is another. GONE: there is no such file any more. UNREADABLE: it cannot be seen.
    KEY=VALUE as of find.
    """
    parse_terms(terms)
    meter = Meter()
    problems: list[JSON] = []
    files = count = 0
    try:
        for sheet, host in _recorded(session, terms, everything):
            verdict, read = _verdict(sheet, host, meter)
            if verdict is None:
                continue
            files, count = files + 1, count + read
            meter.file_done()
            if verdict:
                problems.append({"verdict": verdict, **sheet})
    finally:
        meter.close()
    if as_json:
        render.print_json({"ok": not problems, "files": files, "bytes": count, "problems": problems})
    else:
        rows = (
            (item["verdict"], str(item.get("path")), item["data_id"], size(item.get("size_bytes"))) for item in problems
        )
        render.table(("VERDICT", "PATH", "DATA", "SIZE"), rows)
        outcome = plural(len(problems), "problem") if problems else "all is well"
        render.say(f"{plural(files, 'file')}, {size(count)}: {outcome}")
    return EXIT_NOT_VERIFIED if problems else 0


@data.command(
    short_help="What is known, but has no copy here.",
    epilog=example("lwfm data missing", "lwfm data missing kind=thermo --max-size 1G"),
)
@click.option("--min-size", metavar="SIZE", help="Only files from this size, as 500K or 1G.")
@click.option("--max-size", metavar="SIZE", help="Only files up to this size.")
@limit_option(50)
@json_option
@click.argument("terms", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def missing(
    session: Session, min_size: str | None, max_size: str | None, limit: int, as_json: bool, terms: tuple[str, ...]
) -> None:
    """What data is known, but has no copy here, newest first; and where it was recorded.

    'lwfm sync pull HOST --data KEY=VALUE' brings it. KEY=VALUE as of find.
    """
    request = DataRequest.parse(terms or ("all",), min_size=min_size, max_size=max_size)
    found: list[JSON] = []
    for item in _pages(session, "/v1/contents/missing", request.to_json()):
        item.pop("here", None)
        found.append(item)
        if limit and len(found) == limit:
            break
    if as_json:
        render.print_json(found)
        return
    rows = (
        (item["data_id"], str(item.get("path") or item.get("url") or ""), size(item["size_bytes"]), _place(item))
        for item in found
    )
    render.table(("DATA", "PATH", "SIZE", "WHERE"), rows, empty="lwfm: everything that is known is here")


def _place(item: JSON) -> str:
    """The host that has it, and whose record says so where that is another."""
    host, origin = str(item.get("host") or ""), str(item.get("elsewhere") or item.get("origin_host") or "")
    return host if not origin or origin == host else f"{host} ({origin})"


def _recorded(session: Session, terms: tuple[str, ...], everything: bool) -> Iterator[tuple[JSON, str]]:
    body = {"match": list(terms), "all": everything}
    after: Any = None
    while True:
        page = session.client.post("/v1/contents/recorded", {**body, "after": after}, repeatable=True)
        for sheet in page["files"]:
            yield sheet, page["host"]
        after = page["after"]
        if after is None:
            return


def _pages(session: Session, path: str, body: JSON) -> Iterator[JSON]:
    after: Any = None
    while True:
        page = session.client.post(path, {**body, "after": after}, repeatable=True)
        yield from page["files"]
        after = page["after"]
        if after is None:
            return


def _verdict(sheet: JSON, host: str, meter: Meter) -> tuple[str | None, int]:
    """What is wrong with a file, empty when nothing, None when that cannot be said here; and how much of it was read."""
    import hashlib

    path, expected = sheet.get("file"), sheet.get("size_bytes")
    if path is None or (sheet.get("host") != host and not os.path.exists(path)):
        return None, 0  # of a node whose files this host does not see
    if not os.path.lexists(path):
        return "GONE", 0
    if not is_file_of(path, expected if isinstance(expected, int) else -1):
        return ("CHANGED" if os.access(path, os.R_OK) else "UNREADABLE"), 0
    digest, read = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(CHUNK_BYTES):
                digest.update(piece)
                read += len(piece)
                meter.advance(len(piece))
    except OSError:
        return "UNREADABLE", read
    return ("" if digest.hexdigest() == sheet["sha256"] else "CHANGED"), read


class Meter:
    """Tells on a terminal how much has been read; how much there is in all is not known beforehand."""

    def __init__(self) -> None:
        self._screen = Screen() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
        self._files = self._bytes = 0
        self._began = time.monotonic()
        self._shown = 0.0

    def file_done(self) -> None:
        """One more file has been read."""
        self._files += 1
        self.advance(0)

    def advance(self, count: int) -> None:
        """So many more bytes have been read."""
        self._bytes += count
        now = time.monotonic()
        if self._screen is not None and now - self._shown > SHOW_INTERVAL_S:
            self._shown = now
            rate = self._bytes / max(now - self._began, 0.001)
            text = f"{plural(self._files, 'file')}, {size(self._bytes)} read, {size(int(rate))}/s"
            self._screen.set_footer(harmless(text), "", 0)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._screen is not None:
            self._screen.set_footer("", "", 0)
