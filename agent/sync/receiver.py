"""The side of an exchange of contents that lacks them: asks its agent what is missing, fetches it, verifies, keeps, records.

What the other side sends is believed in nothing: it may only send what was asked for, to its announced size, which is that of
the record here; names come from records, made harmless; a file with another checksum is gone again. What has come whole is
recorded while it goes on, so that a cut costs at most the records of the last portion, and these are found again next time.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..data.contents import ContentStore, Incoming, WrongContent, harmless_name, has_content, open_file
from ..data.outputs import BROUGHT_NAME, brought_outputs
from ..errors import SiteError, StoreFull
from ..paths import Home
from .contents import (
    PORTION_BYTES,
    PORTION_FILES,
    SMALL_BYTES,
    Asked,
    Moved,
    Pace,
    Tell,
    reasons,
    silent,
)
from .frames import Line, Refused
from .wanted import DataRequest

JSON = dict[str, Any]
BLOB_BYTES = 64 * 1024
"""Output of a job up to this size is kept in the store, as the agent does with that of its own."""
REMEMBERED_FILES = 10_000
"""Up to so many files that are wanted are kept in mind; of more the agent is asked a second time."""
DISK_THREADS = 8
"""The disk is waited for in so many threads, each with up to KEPT_TOGETHER small files."""
KEPT_TOGETHER = 16
PIECES_BEHIND = 4
"""So many pieces of a large file may wait to be written, and for their checksum, while the next ones come."""
RECORD_FILES = 200
RECORD_INTERVAL_S = 2.0
LOOK_FOR_ROOM_BYTES = 64 * 1024 * 1024
RESERVE = 0.05
"""This share of what is to come must be free beyond it."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Wanted:
    """A file that is to come.

    Args:
        sha256, size: what it is. name: as it is told, harmless. record: the id of its metasheet, or of the job that printed it.
        output: whether it is the latter. here: paths of this host where it may be already. resume: whether a part of it is trusted.
    """

    sha256: str
    size: int
    name: str
    record: str
    output: bool = False
    here: tuple[str, ...] = ()
    resume: bool = True

    @property
    def blob(self) -> bool:
        """Whether it goes to the store, not to a file."""
        return self.output and self.size <= BLOB_BYTES

    @property
    def copy_name(self) -> str:
        """What the copy is called."""
        return BROUGHT_NAME if self.output else self.name


Portion = dict[str, Wanted]
"""Files that have been asked for together and have not come yet, by their checksums."""


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
        self._among = among
        self._line = line
        self._agent = agent
        self._request = request
        self._tell = tell
        self._data = ContentStore(home.contents)
        self._outputs = brought_outputs(home.outputs)
        self._moved = Moved()
        self._pace = Pace()
        self._again: list[Wanted] = []
        self._asked: Portion = {}
        self._incoming: dict[str, Incoming] = {}
        self._kept: deque[tuple[list[Wanted], Future[list[Optional[Path]]]]] = deque()
        self._threads = ThreadPoolExecutor(DISK_THREADS, "lwfm-disk")
        self._writer = ThreadPoolExecutor(1, "lwfm-write")
        self._recorder = ThreadPoolExecutor(1, "lwfm-record")
        self._recording: Optional[Future[None]] = None
        self._arrived: list[JSON] = []
        self._blobs: list[str] = []
        self._recorded_at = time.monotonic()
        self._unlooked_bytes = 0

    def run(self) -> Moved:
        """Fetch all there is to fetch, and tell the other side what became of it.

        Raises:
            Cut: the connection ended. Refused: the other side does not keep to the exchange. StoreFull: there is no room.
            LwfmError: what the other side reports, or the agent.
        """
        wanted = self._survey()
        self._line.send({"t": "wanted", "files": self._pace.total_files, "bytes": self._pace.total_bytes})
        with ExitStack() as held:
            held.callback(self._threads.shutdown)
            held.callback(self._writer.shutdown)
            held.callback(self._recorder.shutdown)
            held.callback(self._record)
            held.callback(self._leave)
            self._fetch(wanted if wanted is not None else self._missing())
            self._fetch(self._from_the_start())
            self._collect()
        told = self._moved.to_json()
        self._line.send({"t": "enough", **told})
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
            there += min(wanted.size, self._store_of(wanted).part_bytes(wanted.sha256)) if not wanted.blob else 0
            if remembered is not None:
                remembered.append(wanted)
                if len(remembered) > REMEMBERED_FILES:
                    remembered = None
        self._pace = Pace(0, 0, files, total)
        self._tell(self._pace)
        needed, room = int((total - there) * (1 + RESERVE)), self._data.room_bytes()
        if files and needed > room:
            raise StoreFull(
                f"{files} files need {needed} bytes with a reserve, {self._data.directory} has {room} left;"
                f" the largest is {largest.name} with {largest.size} bytes",
                hint="free some space, or ask for less, for instance with --max-size",
            )
        return remembered

    def _missing(self) -> Iterator[Wanted]:
        kinds = [kind for kind, asked in (("data", self._request.data), ("outputs", self._request.outputs)) if asked]
        for kind in kinds:
            after: Optional[str] = None
            seen: set[str] = set()
            while True:
                body = {**self._request.to_json(), "kind": kind, "after": after}
                page = self._agent.post("/v1/contents/missing", body, repeatable=True)
                for item in page["files"]:
                    if self._among is not None and item["sha256"] not in self._among:
                        continue
                    wanted = _wanted(item, kind == "outputs")
                    if not wanted.output or wanted.sha256 not in seen:
                        yield wanted
                    if wanted.output and len(seen) < REMEMBERED_FILES:
                        seen.add(wanted.sha256)
                after = page["after"]
                if after is None:
                    break

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
                with _room_for(self._data, file):
                    incoming = self._store_of(file).begin(file.sha256, file.size, file.copy_name, resume=file.resume)
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
        self._collect()

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
            self._moved.found += 1
            self._note(file, Path(path))
            self._advance(1, file.size, file.name)
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
        self._collect(waiting=PORTION_FILES // KEPT_TOGETHER)
        self._record_if_time()

    def _take_small(self, portion: Portion, head: JSON, body: bytes) -> None:
        listed = head.get("files")
        if not isinstance(listed, list) or not listed:
            raise Refused("the other side sent contents of no file")
        position = 0
        whole: list[tuple[Wanted, bytes]] = []
        for item in listed:
            file = _expected(portion, item[0] if isinstance(item, list) and len(item) == 2 else None)
            if file.size > SMALL_BYTES or item[1] != file.size:
                raise Refused(f"the other side announced {file.name} with {item[1]} bytes, not {file.size}"[:300])
            data = body[position : position + file.size]
            position += file.size
            self._settle(portion, file)
            if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
                self._moved.refuse(file.name, "what came is not what was recorded: its checksum is another")
            elif file.blob:
                self._blobs.append(base64.b64encode(data).decode("ascii"))
                self._came(file, None)
            else:
                whole.append((file, data))
        self._keep(whole)
        if position != len(body):
            raise Refused("the other side sent more than the files it announced")
        self._advance(len(listed), len(body), "")

    def _keep(self, whole: Sequence[tuple[Wanted, bytes]]) -> None:
        """Have small files written in threads, which mostly wait for the disk."""
        for store in (self._data, self._outputs):
            own = [(file, data) for file, data in whole if self._store_of(file) is store]
            for start in range(0, len(own), KEPT_TOGETHER):
                part = own[start : start + KEPT_TOGETHER]
                contents = [(file.sha256, file.copy_name, data) for file, data in part]
                self._kept.append(([file for file, _ in part], self._threads.submit(store.keep, contents)))

    def _collect(self, waiting: int = 0) -> None:
        """Take account of the small files that are on the disk; up to ``waiting`` groups of them may still be waited for."""
        failed: Optional[tuple[Wanted, Future[Any]]] = None
        while self._kept and (failed or len(self._kept) > waiting or self._kept[0][1].done()):
            files, kept = self._kept.popleft()
            if kept.exception() is not None:  # those that are well count all the same
                failed = failed or (files[0], kept)
                continue
            for file, path in zip(files, kept.result()):
                if path is None:
                    self._moved.busy += 1
                else:
                    self._came(file, path)
        if failed is not None:
            with _room_for(self._data, failed[0]):
                failed[1].result()

    def _take_large(self, portion: Portion, head: JSON) -> None:
        file = _expected(portion, head.get("sha256"))
        incoming = self._incoming.get(file.sha256)
        if incoming is None or head.get("size") != file.size or head.get("from") != incoming.offset:
            raise Refused(f"the other side announced {file.name} with another size or beginning than it was asked for")
        resumed = incoming.offset
        self._advance(0, resumed, file.name)
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
                self._look_for_room(file, file.size - position, len(piece))
                behind.append(self._writer.submit(incoming.write, piece))
                if len(behind) > PIECES_BEHIND:
                    with _room_for(self._data, file):
                        behind.popleft().result()
                self._advance(0, len(piece), file.name)
            with _room_for(self._data, file):
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
            self._came(file, path)
        finally:
            wait(behind)
        self._settle(portion, file)
        self._advance(1, 0, file.name)
        self._record_if_time()

    def _wrong(self, file: Wanted, resumed: int, error: WrongContent) -> None:
        """A file whose checksum is wrong: when it was gone on with, it may be the part that was wrong."""
        if resumed and file.resume:
            self._again.append(replace(file, resume=False))
        else:
            self._moved.refuse(file.name, error.message)

    def _give_up(self, portion: Portion, sha256: str, reason: str) -> None:
        file = _expected(portion, sha256)
        incoming = self._incoming.get(sha256)
        if incoming is not None and incoming.offset:
            incoming.leave()  # another sender may have the rest
        elif incoming is not None:
            incoming.discard()
        self._settle(portion, file)
        self._moved.miss(file.name, reason)
        self._advance(1, 0, file.name)

    def _look_for_room(self, file: Wanted, left: int, count: int) -> None:
        self._unlooked_bytes += count
        if self._unlooked_bytes < LOOK_FOR_ROOM_BYTES:
            return
        self._unlooked_bytes = 0
        room = self._data.room_bytes()
        if room < left:
            raise StoreFull(f"{left} bytes of {file.name} are still to come, {self._data.directory} has {room} left")

    # -- keeping account

    def _came(self, file: Wanted, path: Optional[Path]) -> None:
        self._moved.files += 1
        self._moved.bytes += file.size
        if path is not None:
            self._note(file, path)

    def _note(self, file: Wanted, path: Path) -> None:
        if not file.output:
            self._arrived.append({"sha256": file.sha256, "size": file.size, "path": str(path), "of": file.record})

    def _record_if_time(self) -> None:
        waiting = len(self._arrived) + len(self._blobs)
        if waiting >= RECORD_FILES or time.monotonic() - self._recorded_at > RECORD_INTERVAL_S:
            if self._recording is not None and not self._recording.done():
                return
            self._await_record()
            self._recorded_at = time.monotonic()
            arrived, self._arrived = self._arrived, []
            blobs, self._blobs = self._blobs, []
            self._recording = self._recorder.submit(self._tell_agent, arrived, blobs)

    def _record(self) -> None:
        """Have the agent record all that has come."""
        self._await_record()
        arrived, self._arrived = self._arrived, []
        blobs, self._blobs = self._blobs, []
        self._tell_agent(arrived, blobs)

    def _await_record(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.result()

    def _tell_agent(self, arrived: Sequence[JSON], blobs: Sequence[str]) -> None:
        """While the next files come. What is not told because this fails is found to be here the next time."""
        for start in range(0, len(arrived), RECORD_FILES):
            copies = {"copies": arrived[start : start + RECORD_FILES]}
            self._agent.post("/v1/contents/arrived", copies, repeatable=True)
        for start in range(0, len(blobs), RECORD_FILES):
            outputs = {"outputs": blobs[start : start + RECORD_FILES]}
            self._agent.post("/v1/contents/outputs", outputs, repeatable=True)

    def _advance(self, files: int, count: int, name: str) -> None:
        pace = self._pace
        self._pace = Pace(pace.files + files, pace.bytes + count, pace.total_files, pace.total_bytes, name)
        self._tell(self._pace)

    def _store_of(self, file: Wanted) -> ContentStore:
        return self._outputs if file.output else self._data


def _wanted(item: JSON, output: bool) -> Wanted:
    """A file as the agent names it."""
    name = f"{item['job_id']}.out" if output else harmless_name(item.get("path"))
    record = str(item["job_id"] if output else item["data_id"])
    return Wanted(item["sha256"], item["size_bytes"], name, record, output, tuple(item.get("here", ())))


def _expected(portion: Portion, sha256: Any) -> Wanted:
    """The file that the other side names, if it was asked for.

    Raises:
        Refused: it was not.
    """
    file = portion.get(sha256) if isinstance(sha256, str) else None
    if file is None:
        raise Refused(f"the other side sent a file that it was not asked for: {str(sha256)[:64]}")
    return file


@contextmanager
def _room_for(store: ContentStore, file: Wanted) -> Iterator[None]:
    """Errors of the disk as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StoreFull(
                f"no space left in {store.directory} for {file.name}", hint="free some space; what came whole is kept"
            ) from error
        raise SiteError(f"cannot write {file.name} to {store.directory}: {error.strerror}") from error
