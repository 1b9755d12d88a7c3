"""The side at the other end of a line: each question a frame, each answer another; records in a stream of frames."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

from ..errors import ProtocolMismatch
from ..store.batch import check_hash
from .frames import SPOKEN, Line, Refused
from .replica import Gaps, Hello, Packet, Taken, Want

WINDOW = 8
"""Packets that are on their way at once before the first is answered: the line is not idle while they are written."""


class RemoteReplica:
    """The other end of ``line``, where :mod:`.serve` answers."""

    def __init__(self, line: Line):
        self._line = line

    def hello(self, known_digest: Optional[str]) -> Hello:
        """See :class:`~.replica.Replica`; this is the first thing that is said on the line.

        Raises:
            ProtocolMismatch: the two sides have no version of the exchange in common.
        """
        told = self._ask({"t": "hello", "protocols": list(SPOKEN), "digest": known_digest}, "hello")
        if told.get("protocol") not in SPOKEN:
            raise ProtocolMismatch(
                "the other side speaks another version of the exchange", hint="update both to the same lwfm"
            )
        return Hello.from_json(told)

    def hashes(self, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
        """See :class:`~.replica.Replica`."""
        told = self._ask({"t": "hashes", "asked": asked}, "hashes").get("found")
        if not isinstance(told, dict) or told.keys() != asked.keys():
            raise Refused("the other side does not answer what it was asked")
        for origin, found in told.items():
            if not isinstance(found, list) or len(found) != len(asked[origin]):
                raise Refused("the other side does not answer what it was asked")
            for answer in found:
                if answer is not None:
                    check_hash(answer)
        return told

    def give(self, wants: Sequence[Want]) -> Iterator[Packet]:
        """See :class:`~.replica.Replica`."""
        self._line.send({"t": "pull", "wants": wants})
        while True:
            frame = self._line.receive()
            if frame.head["t"] == "end":
                return
            yield packet_of(frame.head, frame.body)

    def take(self, packets: Iterable[Packet], taken: Taken) -> None:
        """See :class:`~.replica.Replica`."""
        under_way: list[Packet] = []
        for packet in packets:
            self._line.send(head_of(packet), packet.data, compress=True)
            under_way.append(packet)
            if len(under_way) >= WINDOW:
                self._line.receive("taken")
                taken(under_way.pop(0))
        for packet in under_way:
            self._line.receive("taken")
            taken(packet)

    def settle_fork(self, origin: str, at: int, their_hash: str) -> Optional[str]:
        """See :class:`~.replica.Replica`."""
        told = self._ask({"t": "settle", "origin": origin, "at": at, "hash": their_hash}, "settled")
        notice = told.get("notice")
        return str(notice)[:1000] if notice else None

    def gaps(self) -> Gaps:
        """See :class:`~.replica.Replica`."""
        self._line.send({"t": "gaps"})
        return Gaps.from_json(json_of(self._line.receive("gaps").body))

    def give_again(self, origin: str, seqs: Sequence[int]) -> bytes:
        """See :class:`~.replica.Replica`."""
        self._line.send({"t": "again", "origin": origin, "seqs": list(seqs)})
        return self._line.receive("fragment").body

    def take_again(self, data: bytes) -> int:
        """See :class:`~.replica.Replica`."""
        self._line.send({"t": "fragment"}, data, compress=True)
        return count_of(self._line.receive("taken").head)

    def note(self, other: Hello) -> None:
        """See :class:`~.replica.Replica`; nothing is waited for."""
        self._line.send({"t": "known", **other.to_json()})

    def _ask(self, question: dict[str, Any], answer: str) -> dict[str, Any]:
        self._line.send(question)
        return self._line.receive(answer).head


def json_of(body: bytes) -> Any:
    """The JSON that a body holds. Raises Refused."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("what the other side sent is not JSON") from None


def count_of(head: Mapping[str, Any]) -> int:
    """The number that the head of a frame tells. Raises Refused."""
    count = head.get("count")
    if type(count) is not int or count < 0:
        raise Refused("the other side does not say how many")
    return count


def head_of(packet: Packet) -> dict[str, Any]:
    """The head of the frame in which a packet travels."""
    return {"t": "rows", "origin": packet.origin, "after": packet.after, "count": packet.rows}


def packet_of(head: dict[str, Any], body: bytes) -> Packet:
    """The packet that travelled.

    Raises:
        Refused: it is none.
    """
    origin, after, count = head.get("origin"), head.get("after"), head.get("count")
    if head["t"] != "rows" or not isinstance(origin, str) or type(after) is not int or type(count) is not int:
        raise Refused("the other side sent something else than records")
    return Packet(origin, after, count, body)
