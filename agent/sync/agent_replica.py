"""The side at hand: the agent of this instance, asked over its API."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

from ..client import Client
from ..store.batch import vector_to_json
from .frames import Refused
from .replica import Gaps, Hello, Packet, Taken, Want

BATCH_TIMEOUT_S = 600.0
"""For one batch, and for a fork, which has all tables made anew."""


class AgentReplica:
    """The instance that ``client`` reaches; its agent is started when it does not run."""

    def __init__(self, client: Client):
        self._client = client

    def hello(self, known_digest: Optional[str]) -> Hello:
        """See :class:`~.replica.Replica`."""
        return Hello.from_json(self._client.get("/v1/sync", {"digest": known_digest}))

    def hashes(self, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
        """See :class:`~.replica.Replica`."""
        found: dict[str, list[Optional[str]]] = self._client.post("/v1/sync/hashes", {"asked": asked}, repeatable=True)[
            "found"
        ]
        return found

    def give(self, wants: Sequence[Want]) -> Iterator[Packet]:
        """See :class:`~.replica.Replica`."""
        for origin, first, upto in wants:
            after = first
            while after < upto:
                query = {"origin": origin, "after": after, "upto": upto}
                answer = self._client.get_bytes("/v1/sync/records", query, BATCH_TIMEOUT_S)
                count = int(answer.headers.get("lwfm-count") or 0)
                if not count:
                    raise Refused(f"record {after + 1} of origin {origin} is not there any more")
                yield Packet(origin, after, count, answer.body)
                after += count

    def take(self, packets: Iterable[Packet], taken: Taken) -> None:
        """See :class:`~.replica.Replica`; the next packet is fetched while the agent writes the last."""
        under_way: deque[Packet] = deque()

        def bodies() -> Iterator[bytes]:
            for packet in packets:
                under_way.append(packet)
                yield packet.data

        answers: Iterator[Any] = self._client.post_each("/v1/sync/records", bodies(), BATCH_TIMEOUT_S)
        for _ in answers:
            taken(under_way.popleft())

    def settle_fork(self, origin: str, at: int, their_hash: str) -> Optional[str]:
        """See :class:`~.replica.Replica`."""
        body = {"origin": origin, "at": at, "hash": their_hash}
        answer = self._client.post("/v1/sync/fork", body, repeatable=False, timeout_s=BATCH_TIMEOUT_S)
        notice: Optional[str] = answer["notice"]
        return notice

    def gaps(self) -> Gaps:
        """See :class:`~.replica.Replica`."""
        return Gaps.from_json(self._client.get("/v1/sync/gaps"))

    def give_again(self, origin: str, seqs: Sequence[int]) -> bytes:
        """See :class:`~.replica.Replica`."""
        return self._client.post_bytes("/v1/sync/fragments/read", {"origin": origin, "seqs": list(seqs)}).body

    def take_again(self, data: bytes) -> int:
        """See :class:`~.replica.Replica`."""
        answer = self._client.post("/v1/sync/again", data, repeatable=True, timeout_s=BATCH_TIMEOUT_S)
        return int(answer["new"])

    def note(self, other: Hello) -> None:
        """See :class:`~.replica.Replica`."""
        known = other.vector
        if known is None:
            ours = self.hello(None)
            known = ours.vector if ours.digest == other.digest else None
        if known is not None:
            body = {"origin": other.origin, "host": other.host, "vector": vector_to_json(known)}
            self._client.post("/v1/sync/visitors", body, repeatable=True)
