"""Ids that sort by their making, and clocks that never run backwards."""

from __future__ import annotations

import re
import threading
import time
import uuid

import pytest

from lwfm.clock import MAX_ADVANCE_MS, HybridClock, parse_utc, utc_now, utc_text
from lwfm.ids import derived_id, new_id, new_origin, short

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_ids_are_uuids_in_the_order_of_their_making() -> None:
    before = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert all(UUID.fullmatch(identifier) for identifier in made)
    first = uuid.UUID(made[0])
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert 0 <= (first.int >> 80) - before <= 60_000


def test_ids_go_on_when_the_clock_is_set_back_or_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    last = new_id()
    for now in (10**18, 5, 5):
        monkeypatch.setattr("lwfm.ids.time.time_ns", lambda now=now: now)
        for _ in range(5000):
            following = new_id()
            assert following > last
            last = following


def test_threads_never_share_an_id() -> None:
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(new_id() for _ in range(3000))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identifier for own in made for identifier in own}) == 12_000
    assert all(own == sorted(own) for own in made)


def test_a_derived_id_is_always_the_same_and_lies_among_those_of_its_time() -> None:
    triggers = [new_id() for _ in range(300)]
    derived = [derived_id(trigger, "firing", "handler") for trigger in triggers]
    assert derived == [derived_id(trigger, "firing", "handler") for trigger in triggers]
    assert derived == sorted(set(derived))
    assert all(UUID.fullmatch(identifier) and uuid.UUID(identifier).version == 8 for identifier in derived)
    assert all(trigger < identifier for trigger, identifier in zip(triggers, derived))
    assert all(identifier[:13] == trigger[:13] for trigger, identifier in zip(triggers, derived))
    assert derived_id(triggers[0], "a", "b") != derived_id(triggers[0], "ab", "")
    for odd in ("", "x", "not an id at all", "\udcff", "01-"):
        assert UUID.fullmatch(derived_id(odd, "y"))


def test_what_people_see_of_ids_and_origins() -> None:
    identifier = new_id()
    assert identifier.startswith(short(identifier))
    assert re.fullmatch("[0-9a-f]{32}", new_origin())


@pytest.mark.parametrize("seconds", [0.0, 0.000001, 1.9999999, 1735689600.5, 4102444800.999999, -0.5])
def test_times_are_text_and_back(seconds: float) -> None:
    text = utc_text(seconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert abs(parse_utc(text) - seconds) <= 1e-6


def test_times_sort_as_text() -> None:
    assert utc_now() <= utc_now()
    moments = [0.1, 0.9999996, 1.0, 59.9999999, 60.0, 3600.25]
    assert [utc_text(moment) for moment in moments] == sorted(utc_text(moment) for moment in moments)
    for wrong in ("", "2025-01-01", "2025-01-01T00:00:00Z", "yesterday"):
        with pytest.raises(ValueError):
            parse_utc(wrong)


def test_a_hybrid_clock_never_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid, stamps = HybridClock(), []
    for now_ms in (1000, 1000, 500, 2000):
        monkeypatch.setattr("lwfm.clock.time.time_ns", lambda now_ms=now_ms: now_ms * 1_000_000)
        stamps.append(hybrid.tick())
    assert stamps == ["0000000003e8-0000", "0000000003e8-0001", "0000000003e8-0002", "0000000007d0-0000"]
    for _ in range(0x10000):
        last = hybrid.tick()
    assert last == "0000000007d1-0000"


def test_a_hybrid_clock_follows_others_but_not_into_the_far_future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwfm.clock.time.time_ns", lambda: 1_000_000_000)
    hybrid = HybridClock()
    hybrid.witness("0000000007d0-0005")
    assert hybrid.tick() == "0000000007d0-0006"
    hybrid.witness(f"{1000 + MAX_ADVANCE_MS + 1:012x}-0000")
    assert hybrid.tick() == "0000000007d0-0007"
    hybrid.witness("0000000003e8-0000")
    assert hybrid.tick() == "0000000007d0-0008"
    assert HybridClock("0000000007d0-0008").tick() == "0000000007d0-0009"
