"""The far side of a sync: answers the frames of one line from its instance, until the line ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from ..errors import InvalidRecord, LwfmError, ProtocolMismatch
from ..jsontext import compact_ascii
from ..store.batch import check_hash, check_place
from ..wire import agree
from .frames import SPOKEN, WITH_PRUNED, Cut, Frame, Line
from .remote import head_of, packet_of
from .replica import Hello, Replica, Want

MAX_WANTS = 100_000
_NO_OTHERS: Mapping[str, Callable[[Frame], object]] = {}


class Server:
    """Answers what comes on ``line`` from ``replica``; what has to do with the contents of data, and calls, go elsewhere.

    Args:
        others: what answers a frame, by its type.
    """

    def __init__(self, line: Line, replica: Replica, others: Mapping[str, Callable[[Frame], object]] = _NO_OTHERS):
        self._line = line
        self._replica = replica
        self._others = others
        self._agreed: Optional[int] = None

    def run(self) -> None:
        """Answer until the other side has gone. What cannot be answered is told to it, and ends the line."""
        while True:
            try:
                frame = self._line.receive()
            except Cut:
                return
            except LwfmError as error:
                self._tell(error)
                return
            try:
                self._answer(frame)
            except Cut:
                return
            except LwfmError as error:
                self._tell(error)
                return

    def _answer(self, frame: Frame) -> None:
        head = frame.head
        kind = head["t"]
        if kind == "hello":
            self._hello(head)
        elif self._agreed is None:
            raise InvalidRecord("a hello must come first")
        elif kind == "hashes":
            self._line.send({"t": "hashes", "found": self._replica.hashes(_asked(head.get("asked")))})
        elif kind == "pull":
            for packet in self._replica.give(_wants(head.get("wants"))):
                self._line.send(head_of(packet), packet.data, compress=True)
            self._line.send({"t": "end"})
        elif kind == "rows":
            self._replica.take([packet_of(head, frame.body)], lambda _: self._line.send({"t": "taken"}))
        elif kind == "settle":
            origin, at, theirs = head.get("origin"), head.get("at"), head.get("hash")
            check_place(origin, at)
            check_hash(theirs)
            notice = self._replica.settle_fork(str(origin), int(at or 0), str(theirs))
            self._line.send({"t": "settled", "notice": notice})
        elif kind == "gaps":
            self._line.send({"t": "gaps"}, compact_ascii(self._replica.gaps().to_json()).encode("ascii"), compress=True)
        elif kind == "again":
            ((origin, seqs),) = _asked({head.get("origin"): head.get("seqs")}).items()
            self._line.send({"t": "fragment"}, self._replica.give_again(origin, seqs), compress=True)
        elif kind == "fragment":
            self._line.send({"t": "taken", "count": self._replica.take_again(frame.body)})
        elif kind == "known":
            self._replica.note(Hello.from_json(head))
        elif kind in self._others:
            self._others[kind](frame)
        else:
            raise InvalidRecord(f"{str(kind)[:40]!r} is nothing that is asked here")

    def _hello(self, head: dict[str, Any]) -> None:
        theirs = head.get("protocols")
        if not isinstance(theirs, list) or not all(isinstance(version, int) for version in theirs):
            raise InvalidRecord("a hello without the versions it speaks")
        self._agreed = agree(theirs, SPOKEN)
        known = head.get("digest")
        told = self._replica.hello(known if isinstance(known, str) else None)
        if told.pruned and self._agreed < WITH_PRUNED:
            raise ProtocolMismatch(
                "records of this instance were pruned, which who asks does not know of",
                hint="update the lwfm that asks",
            )
        self._line.send({"t": "hello", **told.to_json(known), "protocol": self._agreed})

    def _tell(self, error: LwfmError) -> None:
        try:
            self._line.send({"t": "error", "error": error.to_json()})
        except Cut:
            return


def _asked(told: Any) -> dict[str, list[int]]:
    if not isinstance(told, dict) or not all(isinstance(seqs, list) for seqs in told.values()):
        raise InvalidRecord("this is no question for hashes")
    for origin, seqs in told.items():
        for seq in seqs:
            check_place(origin, seq)
    return told


def _wants(told: Any) -> list[Want]:
    if not isinstance(told, list) or len(told) > MAX_WANTS:
        raise InvalidRecord("this is no question for records")
    wants = []
    for item in told:
        if not isinstance(item, list) or len(item) != 3:
            raise InvalidRecord("this is no question for records")
        origin, after, upto = item
        check_place(origin, after)
        check_place(origin, upto)
        wants.append(Want(origin, after, upto))
    return wants
