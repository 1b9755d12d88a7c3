"""Placing jobs on nodes: nothing is sent before it is claimed, nothing twice, and room is counted right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Optional

import pytest

from lwfm import dispatcher as module
from lwfm.dispatcher import Capacity, Dispatcher, Node, needs_of, run_message
from lwfm.errors import ResourcesImpossible, StoreFull
from lwfm.models import JobDefn, Resources
from lwfm.sites.base import JobRequest
from lwfm.wire import Message

GIB = 2**30


class Channel:
    """What a worker has been sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        self.sent.extend(messages)

    def jobs(self, kind: str = "run") -> list[str]:
        return [message["job"] for message in self.sent if message["t"] == kind]


class Place:
    """A dispatcher whose event loop turns when it is told to."""

    def __init__(self) -> None:
        self.turns: list[Callable[[], None]] = []
        self.claimed: list[tuple[str, str, int]] = []
        self.gone: set[str] = set()
        self.failure: Optional[Exception] = None
        self.dispatcher = Dispatcher(self._claim, self.turns.append, self._spawn, Capacity(4, 8 * GIB, 1))

    async def _claim(self, worker: str, jobs: list[tuple[str, int]]) -> set[str]:
        if self.failure is not None:
            raise self.failure
        self.claimed += [(worker, job, attempt) for job, attempt in jobs]
        return {job for job, _ in jobs} - self.gone

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        try:
            asyncio.run(run())
        except StoreFull:
            pass

    def node(self, name: str = "w1", cores: int = 2, memory: int = 8 * GIB, gpus: int = 0) -> Channel:
        channel = Channel()
        self.dispatcher.joined(Node(name, name, 1, Capacity(cores, memory, gpus), channel), [])
        return channel

    def turn(self) -> None:
        turns = list(self.turns)
        self.turns.clear()
        for function in turns:
            function()

    def place(self, *requests: JobRequest) -> None:
        self.dispatcher.place(requests)
        self.turn()

    def end(self, job: str, attempt: int = 1) -> None:
        self.dispatcher.ended(job, attempt)
        self.turn()


@pytest.fixture
def place() -> Place:
    return Place()


def request(job: str, attempt: int = 1, **resources: Any) -> JobRequest:
    return JobRequest(job, attempt, JobDefn(["true"], resources=Resources(**resources)), "c1", {"PATH": "/bin"}, {})


def test_jobs_go_out_as_room_becomes_free_in_the_order_they_came(place: Place) -> None:
    channel = place.node(cores=2)
    place.place(*(request(f"j{number}") for number in range(5)))
    assert channel.jobs() == ["j0", "j1"]
    assert place.dispatcher.waiting == 3
    place.end("j1")
    place.end("j0")
    assert channel.jobs() == ["j0", "j1", "j2", "j3"]


def test_the_claim_comes_before_the_job_and_the_context_once(place: Place) -> None:
    channel = place.node()
    place.place(request("j0"), request("j1"))
    assert [message["t"] for message in channel.sent] == ["context", "run", "run"]
    assert place.claimed == [("w1", "j0", 1), ("w1", "j1", 1)]


def test_what_was_not_claimed_is_not_sent_and_waits_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLAIM_AGAIN_S", 0)
    place.failure = StoreFull()
    channel = place.node()
    place.place(request("j0"))
    assert channel.jobs() == []
    assert place.dispatcher.waiting == 1
    assert not place.dispatcher.has("j0")
    assert place.dispatcher.nodes["w1"].cores_used == 0
    place.failure = None
    place.place(request("j1"))
    assert channel.jobs() == ["j0", "j1"]


def test_what_has_ended_meanwhile_is_not_sent_and_takes_no_room(place: Place) -> None:
    place.gone = {"j0"}
    channel = place.node(cores=1)
    place.place(request("j0"), request("j1"))
    place.turn()
    assert channel.jobs() == ["j1"]
    assert place.dispatcher.nodes["w1"].cores_used == 1


def test_a_job_that_is_here_already_is_not_placed_again(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("j0"), request("j0"), request("j1"))
    place.place(request("j0"), request("j1"))
    place.end("j0")
    place.end("j1")
    assert channel.jobs() == ["j0", "j1"]


def test_the_next_attempt_is_placed_when_the_one_before_has_left(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("j0"))
    place.end("j0")
    place.place(request("j0", attempt=2))
    place.end("j0", attempt=1)
    assert [message["attempt"] for message in channel.sent if message["t"] == "run"] == [1, 2]
    assert place.dispatcher.has("j0")


def test_memory_and_gpus_are_kept_apart(place: Place) -> None:
    channel = place.node(cores=8, memory=4 * GIB, gpus=1)
    place.place(
        request("big", memory_bytes=3 * GIB),
        request("more", memory_bytes=2 * GIB),
        request("gpu", gpus=1),
        request("gpu2", gpus=1),
    )
    assert channel.jobs() == ["big", "gpu"]
    place.end("gpu")
    place.end("big")
    assert channel.jobs() == ["big", "gpu", "gpu2", "more"]


def test_smaller_jobs_go_ahead_but_not_forever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lwfm.dispatcher.time.monotonic", lambda: now[0])
    channel = place.node(cores=2)
    place.place(request("running"), request("wide", cores=2), request("small"))
    assert channel.jobs() == ["running", "small"]
    now[0] = module.OVERTAKING_S + 1
    place.place(request("late"))
    place.end("small")
    assert channel.jobs() == ["running", "small"]
    place.end("running")
    assert channel.jobs() == ["running", "small", "wide"]
    place.end("wide")
    assert channel.jobs()[-1] == "late"


def test_a_job_of_no_cores_always_has_room(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("busy"), request("script", cores=0))
    assert channel.jobs() == ["busy", "script"]


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"cores": 5}, "it asks for 5 cores of 4 (the node has less)"),
        ({"gpus": 2}, "it asks for 2 GPUs of 1"),
        ({"memory_bytes": 9 * GIB}, "it asks for 9.0 GiB of memory of 8.0"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(place: Place, resources: dict[str, int], said: str) -> None:
    with pytest.raises(ResourcesImpossible) as raised:
        place.dispatcher.check(request("j", **resources).defn)
    assert said in raised.value.message
    place.node(name="large", cores=64, memory=64 * GIB, gpus=8)
    place.node(name="small")
    place.dispatcher.check(request("j", **resources).defn)


def test_cancelling_what_waits_what_runs_and_what_is_gone(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("runs"), request("waits"), request("after"))
    place.dispatcher.cancel("waits", 1, "no")
    place.dispatcher.cancel("runs", 1, "no")
    place.dispatcher.cancel("nobody", 1, "no")
    assert channel.jobs("cancel") == ["runs"]
    assert place.dispatcher.has("runs")
    place.end("runs")
    assert channel.jobs() == ["runs", "after"]


def test_a_worker_that_is_away_gets_nothing_and_keeps_what_it_has(place: Place) -> None:
    channel = place.node(cores=2)
    place.place(request("j0"))
    place.dispatcher.left("w1")
    place.place(request("j1"))
    assert channel.jobs() == ["j0"]
    assert place.dispatcher.has("j0")
    back = Channel()
    node = Node("w1", "w1", 1, Capacity(2, 8 * GIB, 0), back)
    place.dispatcher.joined(node, [(request("j0"), True)])
    place.turn()
    assert back.jobs() == ["j1"]
    assert (node.cores_used, node.running) == (2, 2)
    assert back.sent[0]["t"] == "context"


def test_a_worker_that_lost_a_job_has_room_again(place: Place) -> None:
    place.node(cores=1)
    place.place(request("lost"), request("next"))
    back = place.node(cores=1)
    place.turn()
    assert not place.dispatcher.has("lost")
    assert back.jobs() == ["next"]


def test_room_reserved_within_a_transaction_is_used_or_given_back(place: Place) -> None:
    channel = place.node(cores=2)
    requests = [request(f"j{number}") for number in range(3)]
    assert place.dispatcher.reserve(requests) == {"w1": [("j0", 1), ("j1", 1)]}
    place.dispatcher.release()
    assert place.dispatcher.nodes["w1"].cores_used == 0
    assert not place.dispatcher.has("j0")
    place.dispatcher.reserve(requests)
    place.dispatcher.launch(requests)
    assert channel.jobs() == ["j0", "j1"]
    place.place(*requests)
    assert channel.jobs() == ["j0", "j1"]
    assert place.dispatcher.waiting == 1
    place.end("j0")
    assert channel.jobs() == ["j0", "j1", "j2"]


def test_nobody_overtakes_by_reserving(place: Place) -> None:
    place.node(cores=1)
    place.place(request("runs"), request("waits"))
    place.dispatcher.ended("runs", 1)
    assert place.dispatcher.reserve([request("new")]) == {}
    place.dispatcher.launch([request("new")])
    place.turn()
    assert place.dispatcher.has("waits")


def test_a_busy_worker_is_sent_ahead_a_little_but_only_simple_jobs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwfm.dispatcher.time.monotonic", lambda: 5.0)
    channel = place.node(cores=1, memory=4 * GIB)
    for number in range(40):
        place.place(request(f"j{number}"))
        place.end(f"j{number}")
    before = len(channel.jobs())
    place.place(*(request(f"k{number}") for number in range(30)), request("heavy", memory_bytes=GIB))
    ahead = channel.jobs()[before:]
    assert 1 < len(ahead) <= 30
    assert "heavy" not in ahead


def test_the_message_says_everything_a_worker_must_know() -> None:
    defn = JobDefn(
        "echo $A", cwd="/work", env={"A": "1"}, outputs=["out"], grace_s=2.0,
        resources=Resources(cores=2, memory_bytes=GIB, gpus=1, time_limit_s=3.5),
    )  # fmt: skip
    message = run_message(JobRequest("j", 3, defn, "c", {}, {"LWFM_JOB_ID": "j"}))
    assert message == {
        "t": "run", "job": "j", "attempt": 3, "cwd": "/work", "context": "c", "shell": "echo $A",
        "env": {"A": "1", "LWFM_JOB_ID": "j"}, "grace_s": 2.0, "outputs": ["out"], "cores": 2, "memory_bytes": GIB,
        "time_limit_s": 3.5, "gpus": 1,
    }  # fmt: skip
    assert needs_of(defn) == Capacity(2, GIB, 1)
    assert needs_of(JobDefn(["x"])) == Capacity(1, 0, 0)


def test_of_many_a_node_alone_is_sent_some_ahead_from_the_first(place: Place) -> None:
    channel = place.node(cores=2)
    requests = [request(f"j{number}") for number in range(module.MANY_WAITING + 1)]
    assert place.dispatcher.reserve(requests) == {"w1": [(item.job_id, 1) for item in requests]}
    place.dispatcher.launch(requests)
    assert len(channel.jobs()) == len(requests)
    place.place(*[request(f"k{number}") for number in range(2 * module.FIRST_BACKLOG)])
    for job in channel.jobs():
        place.end(job)
        place.turn()
    assert len(channel.jobs()) >= module.FIRST_BACKLOG
    assert place.dispatcher.nodes["w1"].running <= module.FIRST_BACKLOG + 2


def test_of_several_nodes_none_is_sent_what_another_could_have_sooner(place: Place) -> None:
    place.node("w1", cores=2)
    place.node("w2", cores=2)
    claims = place.dispatcher.reserve([request(f"j{number}") for number in range(200)])
    assert {worker: len(jobs) for worker, jobs in claims.items()} == {"w1": 2, "w2": 2}


def limited(job: str, time_limit_s: Optional[float]) -> JobRequest:
    defn = JobDefn(["true"], resources=Resources(time_limit_s=time_limit_s))
    return JobRequest(job, 1, defn, "c", {}, {})


def test_a_job_that_would_outlive_the_allocation_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    channel = place.node(cores=4)
    place.dispatcher.last_start_by(now + 100)
    requests = [limited("long", 101.0), limited("short", 99.0), limited("free", None)]
    assert place.dispatcher.reserve(requests) == {"w1": [("short", 1), ("free", 1)]}
    place.dispatcher.launch(requests)
    place.place(*requests)
    assert channel.jobs() == ["short", "free"]
    assert "its time limit is 101 s, and of this one 100 s are left" in str(place.dispatcher.kept("long"))
    assert place.dispatcher.kept("short") is None
    now += 100.5
    place.place(limited("late", None))
    assert "is about to end" in str(place.dispatcher.kept("late"))
    assert place.dispatcher.forget("late", 1, "cancelled") is False
    assert place.dispatcher.kept("late") is None


def test_at_the_end_of_the_allocation_workers_are_told_to_stop(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("runs"), request("waits"))
    place.dispatcher.cut_off("cut off: it ends", 5.0)
    (told,) = [message for message in channel.sent if message["t"] == "cancel"]
    assert (told["job"], told["cause"], told["grace_s"]) == ("runs", "cut_off", 5.0)
    place.end("runs")
    assert channel.jobs() == ["runs"]
    assert place.dispatcher.kept("waits")
