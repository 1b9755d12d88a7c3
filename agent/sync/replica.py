"""One side of a sync: what is asked of an instance, whether it is at hand or at the other end of a line.

The exchange (:mod:`.exchange`) knows only this; :mod:`.agent_replica` is the one at hand, :mod:`.remote` the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Protocol

from ..errors import InvalidRecord
from ..records import JSON
from ..store.batch import Vector, check_place, vector_from_json, vector_to_json
from .frames import PROTOCOL


@dataclass(frozen=True)
class Hello:
    """What an instance says of itself.

    Args:
        origin, store_id: of its store. ``host``, ``user``, ``home``: where it is.
        version, schema: of its lwfm, and of its store.
        time_s: its wall clock, seconds since the epoch.
        digest: of what it knows. ``vector``: that itself; None when the digest was enough.
        notices: what its user should be told, one sentence each.
        pruned: how many of its records were pruned. ``absent``: how many of them elsewhere, so that it would take them.
        protocol: the version of the exchange.
    """

    origin: str
    store_id: str
    host: str
    user: str
    home: str
    version: str
    schema: int
    time_s: float
    digest: str
    vector: Optional[Vector] = None
    notices: tuple[str, ...] = ()
    pruned: int = 0
    absent: int = 0
    protocol: int = PROTOCOL

    def to_json(self, known_digest: Optional[str] = None) -> JSON:
        """As it travels; without the vector for somebody who knows the same."""
        told: JSON = {name: value for name, value in self.__dict__.items() if name not in ("vector", "notices")}
        if self.notices:
            told["notices"] = list(self.notices)
        if self.vector is not None and self.digest != known_digest:
            told["vector"] = vector_to_json(self.vector)
        return told

    @classmethod
    def from_json(cls, told: Any) -> Hello:
        """What travelled.

        Raises:
            InvalidRecord: it is no hello.
        """
        try:
            vector = vector_from_json(told["vector"]) if told.get("vector") is not None else None
            words = {
                name: _text(told[name]) for name in ("origin", "store_id", "host", "user", "home", "version", "digest")
            }
            notices = tuple(_text(notice) for notice in list(told.get("notices") or ())[:20])
            schema, time_s = int(told["schema"]), float(told["time_s"])
            pruned, absent = int(told.get("pruned") or 0), int(told.get("absent") or 0)
            protocol = int(told.get("protocol") or PROTOCOL)
            if not math.isfinite(time_s):
                raise ValueError
            return cls(
                **words, schema=schema, time_s=time_s, vector=vector, notices=notices, pruned=pruned, absent=absent,
                protocol=protocol,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise InvalidRecord("what the other side says of itself cannot be understood") from None


class Want(NamedTuple):
    """Records that one side lacks: those of ``origin`` behind record ``after``, up to record ``upto``."""

    origin: str
    after: int
    upto: int


class Packet(NamedTuple):
    """A batch of records as it travels: so many ``rows``, of ``origin``, behind record ``after``. ``data``: not looked into."""

    origin: str
    after: int
    rows: int
    data: bytes


Ranges = dict[str, list[tuple[int, int]]]
"""By origin, from which to which number."""


class Gaps(NamedTuple):
    """The records of which one side has but stubs.

    Args:
        absent: those that others pruned, which it would take. ``every``: all of them.
    """

    absent: Ranges
    every: Ranges

    def to_json(self) -> JSON:
        """As they travel."""
        return {"absent": self.absent, "every": self.every}

    @classmethod
    def from_json(cls, told: Any) -> Gaps:
        """What travelled.

        Raises:
            InvalidRecord: it is something else.
        """
        try:
            absent, every = (
                {check_origin(origin): _ordered(ranges) for origin, ranges in told[name].items()}
                for name in ("absent", "every")
            )
            return cls(absent, every)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidRecord("what the other side says of pruned records cannot be understood") from None


Taken = Callable[[Packet], None]
"""Called with each packet that is durable at its new place."""


class Replica(Protocol):
    """One side."""

    def hello(self, known_digest: Optional[str]) -> Hello:
        """What it says of itself; without its vector for a caller who knows the same."""

    def hashes(self, asked: Mapping[str, Sequence[int]]) -> dict[str, list[Optional[str]]]:
        """The hashes of its records, by origin and number."""

    def give(self, wants: Sequence[Want]) -> Iterator[Packet]:
        """The records that are wanted, in order."""

    def take(self, packets: Iterable[Packet], taken: Taken) -> None:
        """Take records over, in order."""

    def settle_fork(self, origin: str, at: int, their_hash: str) -> Optional[str]:
        """Move its branch of a fork if it is the one to go; a sentence that says so, or None where it stays."""

    def gaps(self) -> Gaps:
        """Where it has stubs of pruned records."""

    def give_again(self, origin: str, seqs: Sequence[int]) -> bytes:
        """These records of an origin, as far as it has them, each with its own proof."""

    def take_again(self, data: bytes) -> int:
        """Take records over whose stubs it has, pruned by others; how many that were."""

    def note(self, other: Hello) -> None:
        """Remember how far the other side of this exchange knows each log, which is as far as this one where its digest is the
        same and its vector is left out: nothing is pruned that it lacks."""


def check_origin(origin: str) -> str:
    """An origin that came. Raises InvalidRecord."""
    check_place(origin, 0)
    return origin


def _ordered(told: Any) -> list[tuple[int, int]]:
    """Ranges in order that do not touch. Raises TypeError, ValueError."""
    ranges: list[tuple[int, int]] = []
    end = 0
    for first, last in told:
        if type(first) is not int or type(last) is not int or not end < first <= last < 2**53:
            raise ValueError
        ranges.append((first, last))
        end = last
    return ranges


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:4096]
