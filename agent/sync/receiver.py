"""The side of an exchange of contents that lacks them: asks its agent what is missing, fetches it, verifies, keeps, records.

What the other side sends is believed in nothing: it may only send what was asked for, to its announced size, which is that of
the record here; names come from records, made harmless; a file with another checksum is gone again. What has come whole is
recorded while it goes on, so that a cut costs at most the records of the last portion, and these are found again next time.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from ..data.contents import Incoming, WrongContent, has_content, open_file
from ..errors import StoreFull
from ..paths import Home
from ..records import JSON
from . import missing
from .arrivals import Arrivals
from .contents import PORTION_BYTES, PORTION_FILES, SMALL_BYTES, Asked, Moved, Pacer, Tell, reasons, silent
from .frames import Line, Refused
from .keeping import Places, SmallFiles
from .missing import Portion, Wanted, expected
from .wanted import DataRequest

PIECES_BEHIND = 4
"""So many pieces of a large file may wait to be written, and for their checksum, while the next ones come."""


class Receiver:
    """Fetches from one sender.

    Args:
        line: to it. agent: of this side; home: its places. request: what is wanted.
        among: the checksums of all that the sender has, where that is known.
    """

    def __init__(
        self,
        line: Line,
        agent: Asked,
        home: Home,
        request: DataRequest,
        tell: Tell = silent,
        among: Optional[Container[str]] = None,
    ):
        self._line = line
        self._agent = agent
        self._request = request
        self._among = among
        self._pacer = Pacer(tell)
        self._places = Places(home)
        self._arrivals = Arrivals(agent)
        self._moved = self._arrivals.moved
        self._small = SmallFiles(self._places, self._arrivals)
        self._writer = ThreadPoolExecutor(1, "lwfm-write")
        self._again: list[Wanted] = []
        self._asked: Portion = {}
        self._incoming: dict[str, Incoming] = {}

    def run(self) -> Moved:
        """Fetch all there is to fetch, and tell the other side what became of it.

        Raises:
            Cut: the connection ended. Refused: the other side does not keep to the exchange. StoreFull: there is no room.
            LwfmError: what the other side reports, or the agent.
        """
        wanted = self._survey()
        pace = self._pacer.pace
        self._line.send({"t": "wanted", "files": pace.total_files, "bytes": pace.total_bytes})
        with ExitStack() as held:
            held.callback(self._small.close)
            held.callback(self._writer.shutdown)
            held.callback(self._arrivals.close)
            held.callback(self._arrivals.record)
            held.callback(self._leave)
            self._fetch(wanted if wanted is not None else self._missing())
            self._fetch(self._from_the_start())
            self._small.collect()
        self._line.send({"t": "enough", **self._moved.to_json()})
        return self._moved

    # -- what is wanted

    def _survey(self) -> Optional[list[Wanted]]:
        """Count what is wanted, and see that there is room; the files, unless they are too many to remember."""
        remembered: Optional[list[Wanted]] = []
        files = total = there = 0
        largest = Wanted("", -1, "", "")
        for wanted in self._missing():
            files, total = files + 1, total + wanted.size
            largest = wanted if wanted.size > largest.size else largest
            there += self._places.part_bytes(wanted)
            if remembered is not None:
                remembered.append(wanted)
                if len(remembered) > missing.REMEMBERED_FILES:
                    remembered = None
        self._pacer.begin(files, total)
        self._places.check_room(files, total - there, largest)
        return remembered

    def _missing(self) -> Iterator[Wanted]:
        return missing.missing(self._agent, self._request, self._among)

    def _from_the_start(self) -> Iterator[Wanted]:
        """Files whose parts turned out to be of something else, once more."""
        while self._again:
            yield self._again.pop()

    # -- asking for it

    def _fetch(self, wanted: Iterable[Wanted]) -> None:
        """Ask for files in portions, one portion ahead of what comes."""
        before: Optional[Portion] = None
        for portion in self._portions(wanted):
            self._line.send({"t": "fetch", "files": [self._request_of(file) for file in portion.values()]})
            if before is not None:
                self._take(before)
            before = portion
        if before is not None:
            self._take(before)

    def _portions(self, wanted: Iterable[Wanted]) -> Iterator[Portion]:
        portion: Portion = {}
        count = 0
        for file in wanted:
            if file.sha256 in self._asked:  # a job has printed what is data as well
                self._again.append(file)
                continue
            if self._is_here(file):
                continue
            if file.size > SMALL_BYTES:
                with self._places.errors_of(file):
                    incoming = self._places.of(file).begin(file.sha256, file.size, file.copy_name, resume=file.resume)
                if incoming is None:
                    self._moved.busy += 1
                    continue
                self._incoming[file.sha256] = incoming
            portion[file.sha256] = self._asked[file.sha256] = file
            count += file.size
            if len(portion) >= PORTION_FILES or count >= PORTION_BYTES:
                yield portion
                portion, count = {}, 0
        if portion:
            yield portion

    def _request_of(self, file: Wanted) -> list[Any]:
        incoming = self._incoming.get(file.sha256)
        request = [file.sha256, file.size, incoming.offset if incoming else 0]
        return [*request, file.record] if file.output else request

    def _settle(self, portion: Portion, file: Wanted) -> None:
        """Nothing more is to come of a file."""
        portion.pop(file.sha256)
        self._asked.pop(file.sha256)
        self._incoming.pop(file.sha256, None)

    def _leave(self) -> None:
        """Let what has not come whole be, to be gone on with; what has is kept."""
        for incoming in self._incoming.values():
            if incoming.offset:
                incoming.leave()
            else:
                incoming.discard()
        self._incoming.clear()
        self._small.collect()

    def _is_here(self, file: Wanted) -> bool:
        """Whether one of the places where it may be turns out to have it."""
        for path in file.here:
            descriptor = open_file(path, file.size)
            if descriptor is None:
                continue
            try:
                if not has_content(descriptor, file.sha256):
                    continue
            except OSError:
                continue
            finally:
                os.close(descriptor)
            self._arrivals.was_here(file, Path(path))
            self._pacer.advance(1, file.size, file.name)
            return True
        return False

    # -- taking it

    def _take(self, portion: Portion) -> None:
        """Take the answer to a request: each file once, or why it does not come."""
        while True:
            head, body = self._line.receive()
            kind = head["t"]
            if kind == "served":
                break
            if kind == "small":
                self._take_small(portion, head, body)
            elif kind == "large":
                self._take_large(portion, head)
            elif kind == "absent":
                told = reasons(head.get("files"), PORTION_FILES)
                if not told:
                    raise Refused("the other side named no file as absent")
                for sha256, reason in told:
                    self._give_up(portion, sha256, reason)
            else:
                raise Refused(f"the other side sent {str(kind)[:40]!r} where contents were to come")
        if portion:
            raise Refused(f"the other side sent {len(portion)} files less than it was asked for")
        self._small.collect(waiting=PORTION_FILES)
        self._arrivals.record_if_time()

    def _take_small(self, portion: Portion, head: JSON, body: bytes) -> None:
        listed = head.get("files")
        if not isinstance(listed, list) or not listed:
            raise Refused("the other side sent contents of no file")
        position = 0
        whole: list[tuple[Wanted, bytes]] = []
        for item in listed:
            file = expected(portion, item[0] if isinstance(item, list) and len(item) == 2 else None)
            if file.size > SMALL_BYTES or item[1] != file.size:
                raise Refused(f"the other side announced {file.name} with {item[1]} bytes, not {file.size}"[:300])
            data = body[position : position + file.size]
            position += file.size
            self._settle(portion, file)
            if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
                self._moved.refuse(file.name, "what came is not what was recorded: its checksum is another")
            elif file.blob:
                self._arrivals.came_small(file, data)
            else:
                whole.append((file, data))
        self._small.keep(whole)
        if position != len(body):
            raise Refused("the other side sent more than the files it announced")
        self._pacer.advance(len(listed), len(body), "")

    def _take_large(self, portion: Portion, head: JSON) -> None:
        file = expected(portion, head.get("sha256"))
        incoming = self._incoming.get(file.sha256)
        if incoming is None or head.get("size") != file.size or head.get("from") != incoming.offset:
            raise Refused(f"the other side announced {file.name} with another size or beginning than it was asked for")
        resumed = incoming.offset
        self._pacer.advance(0, resumed, file.name)
        position = resumed
        behind: deque[Future[None]] = deque()
        try:
            while position < file.size:
                told, piece = self._line.receive()
                if told["t"] == "absent":
                    given = reasons(told.get("files"), 1)
                    wait(behind)
                    incoming.discard()
                    self._give_up(portion, file.sha256, given[0][1] if given else "")
                    return
                if told["t"] != "piece" or not piece:
                    raise Refused(
                        f"the other side sent {str(told['t'])[:40]!r} where a piece of {file.name} was to come"
                    )
                position += len(piece)
                if position > file.size:
                    raise Refused(f"the other side sent more of {file.name} than the {file.size} bytes of its record")
                self._places.look_for_room(file, file.size - position, len(piece))
                behind.append(self._writer.submit(incoming.write, piece))
                if len(behind) > PIECES_BEHIND:
                    with self._places.errors_of(file):
                        behind.popleft().result()
                self._pacer.advance(0, len(piece), file.name)
            with self._places.errors_of(file):
                while behind:
                    behind.popleft().result()
                incoming.verify()
                incoming.sync()
                path = incoming.finish()
        except Refused:
            wait(behind)
            incoming.discard()
            raise
        except StoreFull as full:
            wait(behind)
            if full.__cause__ is not None:  # the disk says so: what there is of it makes room for others to write
                incoming.discard()
            raise
        except WrongContent as error:
            self._wrong(file, resumed, error)
        else:
            self._arrivals.came(file, path)
        finally:
            wait(behind)
        self._settle(portion, file)
        self._pacer.advance(1, 0, file.name)
        self._arrivals.record_if_time()

    def _wrong(self, file: Wanted, resumed: int, error: WrongContent) -> None:
        """A file whose checksum is wrong: when it was gone on with, it may be the part that was wrong."""
        if resumed and file.resume:
            self._again.append(replace(file, resume=False))
        else:
            self._moved.refuse(file.name, error.message)

    def _give_up(self, portion: Portion, sha256: str, reason: str) -> None:
        file = expected(portion, sha256)
        incoming = self._incoming.get(sha256)
        if incoming is not None and incoming.offset:
            incoming.leave()  # another sender may have the rest
        elif incoming is not None:
            incoming.discard()
        self._settle(portion, file)
        self._moved.miss(file.name, reason)
        self._pacer.advance(1, 0, file.name)
