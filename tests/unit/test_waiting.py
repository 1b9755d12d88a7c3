"""What waits: in the right order, nothing lost, little memory each."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from lwfm.capacity import Capacity, Shape
from lwfm.ids import new_id
from lwfm.placing.waiting import SORTED_AT_ONCE, STARVING_S, WaitingJobs

NARROW = Shape(Capacity(1, 0, 0))
WIDE = Shape(Capacity(8, 0, 0))
GANG = Shape(Capacity(1, 0, 0), nodes=2)
SOON = Shape(Capacity(1, 0, 0), priority=1)


def served(jobs: WaitingJobs, now: float) -> list[str]:
    """All that waits, in the order in which it would be served if there were room for everything."""
    order = []
    while len(jobs):
        head = next(jobs.in_order(now)).head()
        assert head is not None
        jobs.take(head, now)
        order.append(head.job_id)
    return order


def test_priority_then_width_then_who_came_first() -> None:
    jobs = WaitingJobs()
    for name, shape in (("n1", NARROW), ("w1", WIDE), ("n2", NARROW), ("g1", GANG), ("s1", SOON), ("w2", WIDE)):
        jobs.add(name, 1, shape, 0.0)
    assert served(jobs, 1.0) == ["s1", "g1", "w1", "w2", "n1", "n2"]


def test_what_was_passed_by_has_one_turn() -> None:
    jobs = WaitingJobs()
    jobs.add("n1", 1, NARROW, 0.0)
    jobs.add("n2", 1, NARROW, 0.0)
    for number in range(4):
        jobs.add(f"w{number}", 1, WIDE, 0.0)
    first = next(jobs.in_order(1.0)).head()
    assert first is not None
    jobs.take(first, 1.0)
    assert served(jobs, STARVING_S + 0.5)[:1] == ["n1"]


def test_what_is_taken_back_comes_first_again() -> None:
    jobs = WaitingJobs()
    for name in ("a", "b"):
        jobs.add(name, 1, NARROW, 0.0)
    head = next(jobs.in_order(0.0)).head()
    assert head is not None
    jobs.take(head, 0.0)
    jobs.put_back(head)
    assert served(jobs, 0.0) == ["a", "b"]


def test_a_new_kind_is_told_from_more_of_one_that_waits() -> None:
    jobs = WaitingJobs()
    assert jobs.add("a", 1, NARROW, 0.0)
    assert not jobs.add("b", 1, NARROW, 0.0)
    assert jobs.add("c", 1, WIDE, 0.0)
    jobs.drop("a")
    jobs.drop("b")
    assert jobs.add("d", 1, NARROW, 0.0)


@given(st.lists(st.tuples(st.sampled_from("adpb"), st.integers(0, 9), st.integers(0, 3))))
def test_nothing_is_lost_and_nothing_comes_twice(steps: list[tuple[str, int, int]]) -> None:
    shapes = [NARROW, WIDE, GANG, SOON]
    jobs = WaitingJobs()
    there: set[str] = set()
    for step, number, kind in steps:
        name = f"j{number}"
        if step == "a":
            jobs.add(name, 1, shapes[kind], 0.0)
            there.add(name)
        elif step == "d":
            assert jobs.drop(name) == (name in there)
            there.discard(name)
        else:
            group = next(jobs.in_order(0.0), None)
            assert (group is None) == (not there)
            head = group.head() if group else None
            if head is not None:
                jobs.take(head, 0.0)
                there.discard(head.job_id)
                if step == "b":
                    jobs.put_back(head)
                    there.add(head.job_id)
        assert len(jobs) == len(there)
    assert sorted(served(jobs, 0.0)) == sorted(there)


def test_thousands_of_kinds_are_all_found() -> None:
    jobs = WaitingJobs()
    names = {f"j{number}" for number in range(4 * SORTED_AT_ONCE)}
    for number, name in enumerate(sorted(names)):
        jobs.add(name, 1, Shape(Capacity(1, number, 0)), 0.0)
        assert any(group.head() is jobs.get(name) for group in jobs.in_order(0.5))
    assert set(served(jobs, 0.5)) == names


def test_a_waiting_job_costs_less_than_a_kilobyte() -> None:
    count = 20_000
    tracemalloc.start()
    jobs = WaitingJobs()
    for _ in range(count):
        jobs.add(new_id(), 1, NARROW, 0.0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / count < 1000
