"""A thread in a file: what a sync would send, for places that no ssh reaches.

A bundle is a greeting and frames (:mod:`.frames`): ``bundle`` (who wrote it, and what it holds), ``rows`` or ``fragment`` (records,
as in a sync, or those of one workflow alone), ``file`` and its ``piece`` frames (contents), ``end``. Each record is proved by its
hash, each file by its checksum, so that a bundle that was cut or changed is found out; what is sound before that is taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

from ..client import Client
from ..data.contents import open_file
from ..data.files import pieces
from ..errors import Conflict, InvalidRecord, NotFound
from ..paths import Home
from ..records import JSON
from ..store.batch import BATCH_ROWS, Vector, vector_from_json, vector_to_json
from ..wire import agree
from .agent_replica import BATCH_TIMEOUT_S, AgentReplica
from .contents import Moved, Tell, silent
from .frames import GREETING, SPOKEN, WITH_PRUNED, Cut, Line, Refused
from .remote import head_of, packet_of
from .replica import Hello, Want
from .shelf import fetch_from_bundle
from .streams import FileStream
from .wanted import DataRequest

Count = Callable[[int, int], None]
"""Told of so many records, of how many in all."""


@dataclass
class Bundled:
    """What a bundle holds, or what came of taking it over.

    Args:
        records: in it, or new here. ``files``, ``bytes``: of data. ``workflow``: the one that it is about alone.
        source: who wrote it. ``moved``: what became of the data. ``notices``: for the user, one sentence each.
    """

    records: int = 0
    files: int = 0
    bytes: int = 0
    workflow: Optional[str] = None
    source: Optional[Hello] = None
    moved: Optional[Moved] = None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> JSON:
        """For programs."""
        told: JSON = {"records": self.records, "files": self.files, "bytes": self.bytes, "notices": self.notices}
        if self.workflow:
            told["workflow"] = self.workflow
        if self.source:
            told.update(host=self.source.host, origin=self.source.origin)
        if self.moved:
            told["data"] = self.moved.to_json()
        return told


def export(
    client: Client, target: Path, *, since: Optional[Vector] = None, workflow: Optional[str] = None,
    request: Optional[DataRequest] = None, count: Count = lambda *_: None,
) -> Bundled:  # fmt: skip
    """Write a bundle; the file is there whole or not at all.

    Args:
        since: what the receiver knows already. ``workflow``: only its records, whatever the receiver knows.
        request: the files to put in too.

    Raises:
        OSError: it cannot be written. LwfmError: what the agent reports.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            bundled = _write(client, Line(FileStream(file)), since or {}, workflow, request or DataRequest(), count)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return bundled


def _write(
    client: Client, line: Line, since: Vector, workflow: Optional[str], request: DataRequest, count: Count
) -> Bundled:
    replica = AgentReplica(client)
    hello = replica.hello(None)
    line.greet()
    bundled = Bundled(workflow=workflow, source=hello)
    spoken = [WITH_PRUNED] if hello.pruned and not workflow else list(SPOKEN)
    head: JSON = {"t": "bundle", "protocols": spoken, **hello.to_json()}
    if workflow:
        found = client.post(
            "/v1/sync/fragments/find", {"workflow": workflow}, repeatable=True, timeout_s=BATCH_TIMEOUT_S
        )
        bundled.workflow = found["workflow"]
        total = sum(len(seqs) for seqs in found["places"].values())
        line.send({**head, "workflow": bundled.workflow, "records": total})
        for origin, seqs in found["places"].items():
            for start in range(0, len(seqs), BATCH_ROWS):
                part = seqs[start : start + BATCH_ROWS]
                answer = client.post_bytes("/v1/sync/fragments/read", {"origin": origin, "seqs": part})
                line.send({"t": "fragment", "count": len(part)}, answer.body, compress=True)
                bundled.records += len(part)
                count(bundled.records, total)
    else:
        wants = _behind(replica, since, hello.vector or {}, bundled)
        total = sum(want.upto - want.after for want in wants)
        line.send({**head, "since": vector_to_json(since), "records": total})
        for packet in replica.give(wants):
            line.send(head_of(packet), packet.data, compress=True)
            bundled.records += packet.rows
            count(bundled.records, total)
    for sha256, size, paths in _present(client, request, bundled.workflow):
        if _write_file(line, sha256, size, paths):
            bundled.files += 1
            bundled.bytes += size
        else:
            bundled.notices.append(f"{paths[0] if paths else sha256} is gone or has changed; it is not in the bundle")
    line.send({"t": "end", "records": bundled.records, "files": bundled.files})
    return bundled


def _behind(replica: AgentReplica, since: Vector, ours: Vector, bundled: Bundled) -> list[Want]:
    """What a store that knows ``since`` lacks; of an origin that it knows otherwise than we do, all."""
    common = {
        origin: [since[origin].seq] for origin in since if origin in ours and since[origin].seq <= ours[origin].seq
    }
    known = replica.hashes(common) if common else {}
    wants = []
    for origin, head in sorted(ours.items()):
        after = since[origin].seq if origin in since else 0
        if after > head.seq:
            continue
        if after and known[origin] != [since[origin].hash]:
            bundled.notices.append(f"origin {origin[:8]} has forked: its records are put in from the first on")
            after = 0
        if after < head.seq:
            wants.append(Want(origin, after, head.seq))
    return wants


def _present(client: Client, request: DataRequest, workflow: Optional[str]) -> Iterator[tuple[str, int, list[str]]]:
    """The contents that a request means and this instance has."""
    if not request.data:
        return
    after: Optional[str] = None
    while True:
        body = {**request.to_json(), "after": after, "workflow": workflow}
        page = client.post("/v1/contents/present", body, repeatable=True)
        for item in page["files"]:
            yield item["sha256"], item["size_bytes"], item["here"]
        after = page["after"]
        if after is None:
            return


def _write_file(line: Line, sha256: str, size: int, paths: Sequence[str]) -> bool:
    """Put a file in; whether one of its places still has it. (Its content is proved where it is taken out.)"""
    for path in paths:
        descriptor = open_file(path, size)
        if descriptor is None:
            continue
        with os.fdopen(descriptor, "rb") as file:
            line.send({"t": "file", "sha256": sha256, "size": size})
            for piece in pieces(file, size):
                line.send({"t": "piece"}, piece, compress=True)
        return True
    return False


def take_in(
    client: Client, home: Home, source: Path, *, request: Optional[DataRequest] = None, count: Count = lambda *_: None,
    tell: Tell = silent,
) -> Bundled:  # fmt: skip
    """Take over what a bundle holds and is not here.

    Raises:
        OSError: it cannot be read. InvalidRecord, Refused: it is no bundle, was changed, or ends too early.
    """
    with source.open("rb") as file:
        line = Line(FileStream(file))
        if file.read(len(GREETING)) != GREETING:
            raise InvalidRecord(f"{source} is no bundle", hint="lwfm sync export writes them")
        with _whole():
            head = line.receive("bundle").head
            agree([version for version in head.get("protocols") or [] if isinstance(version, int)], SPOKEN)
            bundled = Bundled(workflow=head.get("workflow"), source=Hello.from_json(head))
            records = _Records(line, client, count, int(head.get("records") or 0))
            records.run()
        bundled.records = records.new
        if records.files:
            bundled.files, bundled.bytes = len(records.files), sum(size for _, size in records.files.values())
            if request is None or request.data:
                bundled.moved = fetch_from_bundle(
                    source, records.files, client, home, request or DataRequest(True), tell
                )
    if bundled.workflow:
        bundled.notices.append("this bundle holds one workflow alone; a later sync brings what belongs around it")
    return bundled


@contextmanager
def _whole() -> Iterator[None]:
    """See that a bundle is read to its end."""
    try:
        yield
    except Cut:
        raise Refused("the bundle ends too early; what was whole of it is taken over", hint="copy it again") from None


class _Records:
    """The records of a bundle on their way into the store; the files behind them are passed over, and noted."""

    def __init__(self, line: Line, client: Client, count: Count, total: int):
        self._line = line
        self._client = client
        self._count = count
        self._total = total
        self._seen = 0
        self.new = 0
        self.files: dict[str, tuple[int, int]] = {}
        """By checksum: where in the bundle its pieces begin, and its size."""

    def run(self) -> None:
        """Until the end of the bundle."""
        for body, rows, path in self._bodies():
            self.new += int(self._client.post(path, body, repeatable=True, timeout_s=BATCH_TIMEOUT_S)["new"])
            self._seen += rows
            self._count(self._seen, max(self._total, self._seen))

    def _bodies(self) -> Iterator[tuple[bytes, int, str]]:
        while True:
            frame = self._line.receive()
            kind = frame.head["t"]
            if kind == "rows":
                packet = packet_of(frame.head, frame.body)
                yield packet.data, packet.rows, "/v1/sync/records"
            elif kind == "fragment":
                yield frame.body, int(frame.head.get("count") or 0), "/v1/sync/fragments"
            elif kind == "file":
                self._pass_over(frame.head)
            elif kind == "end":
                return
            else:
                raise Refused(f"there is {str(kind)[:40]!r} in the bundle, which is nothing that belongs there")

    def _pass_over(self, head: Mapping[str, Any]) -> None:
        sha256, size = head.get("sha256"), head.get("size")
        if not isinstance(sha256, str) or type(size) is not int or size < 0:
            raise Refused("there is a file without checksum or size in the bundle")
        self.files[sha256] = (len(GREETING) + self._line.position, size)
        passed = 0
        while passed < size:
            passed += len(self._line.receive("piece").body)


def parse_since(text: str, peers: Sequence[Mapping[str, Any]]) -> Vector:
    """What the receiver of a bundle knows: the name of a peer, a file that ``sync vector`` wrote, or that itself.

    Raises:
        NotFound: no such peer or file. InvalidRecord: it is no vector. Conflict: there was no sync with that peer yet.
    """
    for peer in peers:
        if peer["name"] == text:
            if not peer.get("vector"):
                raise Conflict(f"what {text} knows is not known: there was no sync with it", hint="leave --since away")
            return vector_from_json(peer["vector"])
    try:
        told = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="ascii"))
    except FileNotFoundError:
        raise NotFound(
            f"{text!r} is neither a peer nor a file", hint="lwfm sync vector > FILE writes one, there"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidRecord(f"{text[:100]!r} is no vector: {error}") from None
    return vector_from_json(told)
