"""The exchange of records between two instances: what each lacks of the other's is sent, and both are equal after it.

Everything follows from what the two stores hold at this moment. Nothing is remembered from one exchange to the next that could be
wrong; wherever one is cut off, each side has whole beginnings of all logs, and the next exchange goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..errors import Conflict, InvalidRecord, ProtocolMismatch
from ..store.batch import BATCH_ROWS, Vector
from .frames import UPDATE, WITH_PRUNED, Refused
from .replica import Hello, Packet, Ranges, Replica, Want

PROBES = 15
"""Records whose hashes are compared in one round while the place of a fork is looked for: four bits of it each time."""
MAX_FORKS = 30
"""Forks that are settled in one exchange; each moves the beginnings of at least one branch apart, so there are only a few."""
MAX_RECORDS = 2_000_000_000
"""What the other side claims to have is not believed beyond this."""


class Progress(NamedTuple):
    """How far an exchange has come.

    Args:
        received, sent: records. ``to_receive``, ``to_send``: how many there are in all.
    """

    received: int = 0
    to_receive: int = 0
    sent: int = 0
    to_send: int = 0


@dataclass
class Outcome:
    """What came of it.

    Args:
        near, far: the two sides, as they said before it; of the far one, with what was pushed.
        received, sent: records.
        skew_s: by how much the far side's clock is ahead of ours, give or take ``skew_error_s``.
        notices: what the user should be told, one sentence each.
    """

    near: Hello
    far: Hello
    skew_s: float
    skew_error_s: float
    received: int = 0
    sent: int = 0
    notices: list[str] = field(default_factory=list)


class Lack(NamedTuple):
    """What each side lacks of the other's records, origin by origin."""

    near: list[Want]
    far: list[Want]


Report = Callable[[Progress], None]


def greet(near: Replica, far: Replica) -> Outcome:
    """The first round: who both are, and whether they know the same."""
    ours = near.hello(None)
    asked_at = time.time()
    theirs = far.hello(ours.digest)
    answered_at = time.time()
    outcome = Outcome(
        ours, theirs, theirs.time_s - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2,
        notices=[*(f"here: {notice}" for notice in ours.notices), *(f"{theirs.host}: {notice}" for notice in theirs.notices)],
    )  # fmt: skip
    if (ours.pruned or theirs.pruned) and theirs.protocol < WITH_PRUNED:
        raise ProtocolMismatch(f"records were pruned that {theirs.host} has not got yet", hint=UPDATE)
    if ours.origin == theirs.origin:
        outcome.notices.append("both sides are the same instance, or one is an undetected copy of the other")
    return outcome


def lacks(outcome: Outcome) -> Lack:
    """What each side lacks, as far as they have said."""
    ours, theirs = outcome.near.vector or {}, outcome.far.vector
    if theirs is None:
        return Lack([], [])
    return Lack(_lacking(ours, theirs), _lacking(theirs, ours))


def exchange(near: Replica, far: Replica, *, pull: bool, push: bool, report: Report = lambda _: None) -> Outcome:
    """Bring over what is new there (``pull``), then what is new here (``push``).

    Raises:
        LwfmError: it was cut off, or refused; what was taken over before that stays.
    """
    outcome = greet(near, far)
    if outcome.far.vector is not None:
        _exchange_news(near, far, outcome, pull, push, report)
    _fill(near, far, outcome, pull, push)
    _note(
        near, far, outcome, equal=outcome.far.vector is None and not outcome.received and not outcome.sent, asked=push
    )
    return outcome


def _note(near: Replica, far: Replica, outcome: Outcome, *, equal: bool, asked: bool) -> None:
    """Have each side remember how far the other knows the logs now.

    Args:
        equal: whether both knew the same before. asked: whether somebody wanted a whole sync: who only asks every second whether
            there is anything new costs nobody a word where there is not.
    """
    if equal and not asked:
        return
    near.note(outcome.far)
    if outcome.far.protocol >= WITH_PRUNED:
        far.note(replace(outcome.near, vector=None) if equal else near.hello(None))


def _exchange_news(near: Replica, far: Replica, outcome: Outcome, pull: bool, push: bool, report: Report) -> None:
    """Bring over what each side lacks at the ends of the logs."""
    _settle_forks(near, far, outcome)
    lack = lacks(outcome)
    to_receive = _count(lack.near) if pull else 0
    to_send = _count(lack.far) if push else 0
    if to_receive > MAX_RECORDS:
        raise Refused(f"the other side says that it has {to_receive} records that are not here")

    def tell() -> None:
        report(Progress(outcome.received, to_receive, outcome.sent, to_send))

    tell()
    if pull and lack.near:

        def received(packet: Packet) -> None:
            outcome.received += packet.rows
            tell()

        near.take(_as_wanted(far.give(lack.near), lack.near), received)
    if push and lack.far:

        def sent(packet: Packet) -> None:
            outcome.sent += packet.rows
            tell()

        far.take(near.give(lack.far), sent)
        ours, theirs = outcome.near.vector or {}, outcome.far.vector or {}
        known = {**theirs, **{want.origin: ours[want.origin] for want in lack.far}}
        outcome.far = replace(outcome.far, vector=known)


def _fill(near: Replica, far: Replica, outcome: Outcome, pull: bool, push: bool) -> None:
    """Bring over what has been pruned before it came to one side, and the other still has."""
    if not ((pull and outcome.near.absent) or (push and outcome.far.absent)):
        return
    ours, theirs = near.gaps(), far.gaps()
    here = outcome.near.vector or {}
    there = here if outcome.far.vector is None else outcome.far.vector
    if pull:
        outcome.received += _give_again(far, near, ours.absent, theirs.every, there)
    if push:
        outcome.sent += _give_again(near, far, theirs.absent, ours.every, here)


def _give_again(giver: Replica, taker: Replica, absent: Ranges, lacking: Ranges, known: Vector) -> int:
    """Have the records given that are ``absent`` at one side, known to the other, and not ``lacking`` there; how many."""
    count = 0
    for origin, ranges in sorted(absent.items()):
        head = known[origin].seq if origin in known else 0
        seqs = list(_without(ranges, [*lacking.get(origin, ()), (head + 1, MAX_RECORDS)]))
        for start in range(0, len(seqs), BATCH_ROWS):
            count += taker.take_again(giver.give_again(origin, seqs[start : start + BATCH_ROWS]))
    return count


def _without(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> Iterator[int]:
    """The numbers in some ranges that are not in others; both are in order, and do not touch."""
    at = 0
    for first, last in ranges:
        seq = first
        while seq <= last:
            while at < len(others) and others[at][1] < seq:
                at += 1
            if at < len(others) and others[at][0] <= seq:
                seq = others[at][1] + 1
            else:
                yield seq
                seq += 1


def _lacking(ours: Vector, theirs: Vector) -> list[Want]:
    """What those who know ``ours`` lack of what others know."""
    wants = []
    for origin in sorted(theirs):
        have = ours[origin].seq if origin in ours else 0
        if theirs[origin].seq > have:
            wants.append(Want(origin, have, theirs[origin].seq))
    return wants


def _count(wants: list[Want]) -> int:
    return sum(want.upto - want.after for want in wants)


def _as_wanted(packets: Iterator[Packet], wants: list[Want]) -> Iterator[Packet]:
    """The packets, as long as they are those that were asked for."""
    left = {want.origin: (want.after, want.upto) for want in wants}
    for packet in packets:
        after, upto = left.get(packet.origin, (-1, -1))
        if packet.after != after or packet.rows < 1 or after + packet.rows > upto:
            raise Refused("the other side sends records that were not asked for")
        left[packet.origin] = (after + packet.rows, upto)
        yield packet
    if any(after < upto for after, upto in left.values()):
        raise Refused("the other side has sent less than it said it has")


def _settle_forks(near: Replica, far: Replica, outcome: Outcome) -> None:
    """Until no origin goes two ways: find where, and have the branch moved that is to go."""
    for _ in range(MAX_FORKS):
        ours, theirs = outcome.near.vector or {}, outcome.far.vector or {}
        forked = _forked(near, far, ours, theirs)
        if not forked:
            return
        for origin in forked:
            at, our_hash, their_hash = _place(near, far, origin, min(ours[origin].seq, theirs[origin].seq))
            moved = (
                far.settle_fork(origin, at, our_hash)
                if their_hash > our_hash
                else near.settle_fork(origin, at, their_hash)
            )
            if moved is None:
                raise Conflict(f"the two sides do not agree on the fork of origin {origin} behind record {at}")
            outcome.notices.append(moved)
        outcome.near, outcome.far = near.hello(None), far.hello(None)
    raise Refused("there is no end to the forks of the other side's logs")


def _forked(near: Replica, far: Replica, ours: Vector, theirs: Vector) -> list[str]:
    """The origins of which the two sides have different records with one number."""
    here: dict[str, list[int]] = {}
    there: dict[str, list[int]] = {}
    for origin in ours.keys() & theirs.keys():
        if ours[origin] == theirs[origin]:
            continue
        if ours[origin].seq >= theirs[origin].seq:
            here[origin] = [theirs[origin].seq]
        else:
            there[origin] = [ours[origin].seq]
    found = [origin for origin, known in near.hashes(here).items() if known != [theirs[origin].hash]] if here else []
    if there:
        found += [origin for origin, known in far.hashes(there).items() if known != [ours[origin].hash]]
    return sorted(found)


def _place(near: Replica, far: Replica, origin: str, differs: int) -> tuple[int, str, str]:
    """Where an origin forks: the last record in common, and the hashes of the two that follow it.

    Args:
        differs: the number of a record that both have, and that differs.
    """
    same = 0
    while differs - same > 1:
        step = max(1, (differs - same) // (PROBES + 1))
        asked = {origin: sorted({min(same + step * count, differs - 1) for count in range(1, PROBES + 1)})}
        answers = zip(asked[origin], _known(near, asked, origin), _known(far, asked, origin))
        for seq, ours, theirs in answers:
            if ours == theirs:
                same = max(same, seq)
            else:
                differs = min(differs, seq)
        if same >= differs:
            raise InvalidRecord(f"the other side's log of origin {origin} contradicts itself")
    last = {origin: [differs]}
    return same, _known(near, last, origin)[0], _known(far, last, origin)[0]


def _known(side: Replica, asked: dict[str, list[int]], origin: str) -> list[str]:
    found = side.hashes(asked).get(origin) or []
    known = [answer for answer in found if answer]
    if len(known) != len(asked[origin]):
        raise Refused(f"one side does not have the records of origin {origin} that it says it has")
    return known
