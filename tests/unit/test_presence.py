"""When nodes came and went: recorded once each, also where nobody saw them go."""

from __future__ import annotations

from typing import Any

from lwfm.capacity import Capacity
from lwfm.recording import presence
from lwfm.store import queries

from support.threads import Thread, thread

__all__ = ["thread"]

LARGE = Capacity(4, 2**30, 1)


def came(thread: Thread, worker: str, host: str, capacity: Capacity = LARGE, allocation: str = "") -> None:
    thread.unit(presence.came, worker, host, allocation, capacity)


def changes(thread: Thread, **asked: Any) -> list[tuple[str, str]]:
    found = queries.node_changes(thread.connection, asked.get("since"), asked.get("until"), asked.get("limit", 0))
    return [(change["worker_id"], change["state"]) for change in found]


def test_coming_again_is_not_coming(thread: Thread) -> None:
    came(thread, "w1", "n1")
    came(thread, "w1", "n1")
    assert changes(thread) == [("w1", "up")]
    came(thread, "w1", "n1", Capacity(2, 2**30, 1), "slurm-7")  # less of it is ours now
    assert changes(thread) == [("w1", "up"), ("w1", "up")]
    last = queries.node_changes(thread.connection, None, None, 1)[0]
    assert (last["cores"], last["gpus"], last["allocation"]) == (2, 1, "slurm-7")


def test_going_is_recorded_once_and_only_of_who_was_there(thread: Thread) -> None:
    came(thread, "w1", "n1")
    thread.unit(presence.went, "w1", presence.LOST, "nothing was heard of it")
    thread.unit(presence.went, "w1", presence.LEFT, "again")
    thread.unit(presence.went, "w2", presence.LEFT, "never seen")
    assert changes(thread) == [("w1", "up"), ("w1", "lost")]
    came(thread, "w1", "n1")
    assert changes(thread)[-1] == ("w1", "up")


def test_another_worker_on_the_same_node_takes_the_place(thread: Thread) -> None:
    came(thread, "w1", "n1")
    came(thread, "w2", "n2")
    came(thread, "w3", "n1")
    assert changes(thread) == [("w1", "up"), ("w2", "up"), ("w1", "left"), ("w3", "up")]
    assert presence.present(thread.connection, thread.store.origin) == {"w2": ("n2", None), "w3": ("n1", None)}
    thread.unit(presence.all_left, "the agent has left")
    assert presence.present(thread.connection, thread.store.origin) == {}


def test_what_was_there_before_a_time_is_told_with_what_came_after(thread: Thread) -> None:
    came(thread, "w1", "n1")
    came(thread, "w2", "n2")
    thread.unit(presence.went, "w1", presence.LEFT, "so")
    middle = queries.node_changes(thread.connection, None, None, 0)[2]["time"]
    came(thread, "w3", "n3")
    assert changes(thread, since=middle) == [("w1", "up"), ("w2", "up"), ("w1", "left"), ("w3", "up")]
    assert changes(thread, until=middle) == [("w1", "up"), ("w2", "up"), ("w1", "left")]
