"""Placing jobs on nodes: nothing is sent before it is claimed, nothing twice, and room is counted right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Optional

import pytest

from lwfm.capacity import Capacity, shape_of
from lwfm.errors import ResourcesImpossible, StoreFull
from lwfm.models import JobDefn, Resources
from lwfm.placing import choosing, waiting
from lwfm.placing import dispatcher as module
from lwfm.placing.dispatcher import Dispatcher
from lwfm.placing.flights import Flight
from lwfm.placing.gangs import Part, run_message
from lwfm.placing.node import Node
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
        self.parts: dict[str, list[str]] = {}
        self.gone: set[str] = set()
        self.known: dict[str, JobRequest] = {}
        self.dropped: list[str] = []
        self.failure: Optional[Exception] = None
        self.dispatcher = Dispatcher(
            self._claim,
            self.turns.append,
            self._spawn,
            Capacity(4, 8 * GIB, 1),
            lambda job, _: self.dropped.append(job),
        )

    async def _claim(self, worker: str, parts: Sequence[str], jobs: list[tuple[str, int]]) -> Mapping[str, JobRequest]:
        if self.failure is not None:
            raise self.failure
        self.claimed += [(worker, job, attempt) for job, attempt in jobs]
        self.parts.update((job, list(parts)) for job, _ in jobs if parts)
        return {job: self.known[job] for job, _ in jobs if job not in self.gone}

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        try:
            asyncio.run(run())
        except StoreFull:
            pass

    def node(
        self,
        name: str = "w1",
        cores: int = 2,
        memory: int = 8 * GIB,
        gpus: int = 0,
        labels: Sequence[str] = (),
        allocation: str = "",
    ) -> Channel:
        channel = Channel()
        capacity = Capacity(cores, memory, gpus)
        node = Node(name, name, 1, capacity, channel, allocation=allocation, labels=frozenset(labels))
        self.dispatcher.joined(node, [])
        return channel

    def holding(self, worker: str, job: str, attempt: int = 1) -> None:
        self.dispatcher.flights.holding(worker, job, attempt, Part(worker, worker, (0,), ()))

    def turn(self) -> None:
        turns = list(self.turns)
        self.turns.clear()
        for function in turns:
            function()

    def place(self, *requests: JobRequest) -> None:
        self.known.update((item.job_id, item) for item in requests)
        self.dispatcher.place(requests)
        self.turn()

    def end(self, job: str, attempt: int = 1) -> None:
        self.dispatcher.ended(job, attempt)
        self.turn()


@pytest.fixture
def place() -> Place:
    return Place()


def request(job: str, attempt: int = 1, priority: int = 0, **resources: Any) -> JobRequest:
    defn = JobDefn(["true"], resources=Resources(**resources), priority=priority)
    return JobRequest(job, attempt, defn, "c1", {"PATH": "/bin"}, {})


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
    assert "j0" not in place.dispatcher.flights
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
    assert "j0" in place.dispatcher.flights


def test_memory_and_gpus_are_kept_apart(place: Place) -> None:
    channel = place.node(cores=8, memory=4 * GIB, gpus=1)
    place.place(
        request("big", memory_bytes=3 * GIB),
        request("more", memory_bytes=2 * GIB),
        request("gpu", gpus=1),
        request("gpu2", gpus=1),
    )
    assert channel.jobs() == ["gpu", "big"]
    place.end("gpu")
    place.end("big")
    assert channel.jobs() == ["gpu", "big", "gpu2", "more"]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which stands still."""
    moment = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: moment[0])
    return moment


def test_narrower_jobs_go_ahead_but_not_forever(place: Place, now: list[float]) -> None:
    channel = place.node(cores=2)
    place.place(request("running"))
    place.place(request("wide", cores=2), request("small"))
    assert channel.jobs() == ["running", "small"]
    now[0] += choosing.OVERTAKING_S + 1
    place.place(request("late"))
    place.end("small")
    assert channel.jobs() == ["running", "small"]
    assert "room, which is being made for it on w1" in str(place.dispatcher.why_waiting("wide"))
    place.end("running")
    assert channel.jobs() == ["running", "small", "wide"]
    place.end("wide")
    assert channel.jobs()[-1] == "late"


def test_room_that_was_being_made_is_used_when_the_job_is_cancelled(place: Place, now: list[float]) -> None:
    channel = place.node(cores=2)
    place.place(request("running"))
    place.place(request("wide", cores=2))
    now[0] += choosing.OVERTAKING_S + 1
    place.place(request("late"))
    assert channel.jobs() == ["running"]
    place.dispatcher.cancel("wide", 1, "no")
    place.turn()
    assert channel.jobs() == ["running", "late"]


def test_room_that_was_being_made_elsewhere_is_used_when_the_job_found_some(place: Place, now: list[float]) -> None:
    first = place.node("w1", cores=2)
    second = place.node("w2", cores=2)
    place.place(request("a"), request("b", cores=2))
    place.place(request("wide", cores=2))
    now[0] += choosing.OVERTAKING_S + 1
    place.place(request("narrow"))
    assert (first.jobs(), second.jobs()) == (["b"], ["a"])
    place.end("b")
    place.turn()
    assert first.jobs() == ["b", "wide"]
    assert second.jobs() == ["a", "narrow"]


def test_wide_before_narrow_and_priority_before_both(place: Place) -> None:
    channel = place.node(cores=4, gpus=1)
    place.place(request("busy", cores=4))
    place.place(
        request("one"),
        request("two", cores=2),
        request("three", cores=3),
        request("device", gpus=1),
        request("soon", priority=5),
        request("late", cores=4, priority=-1),
    )
    for job in ("busy", "soon", "device", "two", "one", "three"):
        place.end(job)
    assert channel.jobs() == ["busy", "soon", "device", "two", "one", "three", "late"]


def test_what_is_always_passed_by_has_its_turn_in_the_end(place: Place, now: list[float]) -> None:
    channel = place.node(cores=2)
    place.place(request("first", cores=2))
    place.place(request("narrow"), *(request(f"wide{number}", cores=2) for number in range(4)))
    for running in ("first", "wide0"):
        place.end(running)
    assert channel.jobs() == ["first", "wide0", "wide1"]
    now[0] += waiting.STARVING_S + 1
    place.end("wide1")
    assert channel.jobs()[-1] == "narrow"
    place.end("narrow")
    assert channel.jobs()[-1] == "wide2"


def test_jobs_go_only_where_they_belong(place: Place) -> None:
    plain, large = place.node("n1.cluster", cores=2), place.node("n2", cores=2, labels=["bigmem"])
    place.place(
        request("a", labels=["bigmem"]), request("b", labels=["n1"]), request("c", labels=["n1.cluster"]), request("d")
    )
    assert sorted(large.jobs()) == ["a", "d"]
    assert sorted(plain.jobs()) == ["b", "c"]
    with pytest.raises(ResourcesImpossible, match="no node is labelled smallmem") as raised:
        place.dispatcher.check(request("x", labels=["smallmem"]).defn)
    assert "bigmem, n1, n1.cluster, n2" in str(raised.value.hint)
    with pytest.raises(ResourcesImpossible, match="no node is labelled bigmem and n1"):
        place.dispatcher.check(request("x", labels=["n1", "bigmem"]).defn)


def test_nodes_with_gpus_are_left_to_those_that_need_them(place: Place) -> None:
    with_gpu, without = place.node("n1", gpus=1), place.node("n2")
    place.place(request("a"), request("b"))
    assert (without.jobs(), with_gpu.jobs()) == (["a", "b"], [])
    place.place(request("c"))
    assert with_gpu.jobs() == ["c"]


# ------------------------------------------------------------------------------------------------- gangs


def test_a_gang_starts_when_its_parts_are_kept_free_on_all_its_nodes(place: Place) -> None:
    first, second = place.node("w1"), place.node("w2")
    place.place(request("gang", nodes=2, tasks_per_node=2))
    assert place.claimed == [("w1", "gang", 1)]
    assert place.parts == {"gang": ["w2"]}
    assert first.jobs() == []
    (asked,) = second.sent
    assert (asked["t"], asked["job"], asked["worker"], asked["cores"]) == ("hold", "gang", "w1", 2)
    place.holding("w2", "gang")
    assert first.jobs() == ["gang"]
    assert first.sent[-1]["files"]["LWFM_NODEFILE"] == "w1 slots=2\nw2 slots=2\n"
    place.place(request("next"))
    assert first.jobs() + second.jobs() == ["gang"]
    place.end("gang")
    assert [message["t"] for message in second.sent] == ["hold", "release"]
    assert first.jobs() == ["gang", "next"]
    assert [node.cores_used for node in place.dispatcher.nodes.values()] == [1, 0]
    assert [node.gang_parts for node in place.dispatcher.nodes.values()] == [0, 0]


def test_a_gang_takes_nodes_of_one_allocation(place: Place) -> None:
    place.node("w1", allocation="slurm-1")
    place.node("w2", allocation="slurm-2")
    with pytest.raises(ResourcesImpossible, match="it asks for 2 nodes of 1"):
        place.dispatcher.check(request("x", nodes=2).defn)
    place.place(request("gang", nodes=2))
    assert place.claimed == []
    place.node("w3", allocation="slurm-2")
    place.turn()
    assert place.claimed == [("w2", "gang", 1)]
    assert place.parts == {"gang": ["w3"]}


def test_room_is_made_for_a_gang_that_narrow_jobs_would_starve(place: Place, now: list[float]) -> None:
    first, second = place.node("w1", cores=1), place.node("w2", cores=1)
    place.place(request("a"), request("b"))
    place.place(request("gang", nodes=2))
    place.place(*(request(f"j{number}") for number in range(4)))
    place.end("a")
    assert first.jobs() == ["a", "j0"]
    now[0] += choosing.OVERTAKING_S + 1
    place.end("j0")
    place.end("b")
    assert (first.jobs(), second.jobs()) == (["a", "j0"], ["b"])
    place.holding("w2", "gang")
    assert first.jobs()[-1] == "gang"


def test_a_gang_that_is_cancelled_before_it_begins_lets_go(place: Place) -> None:
    _, second = place.node("w1"), place.node("w2")
    place.place(request("gang", nodes=2))
    place.dispatcher.cancel("gang", 1, "no")
    assert place.dropped == ["gang"]
    assert [message["t"] for message in second.sent] == ["hold", "release"]
    place.holding("w2", "gang")
    assert "gang" not in place.dispatcher.flights


def test_when_a_node_of_a_gang_is_lost_it_is_stopped_or_waits_again(place: Place) -> None:
    first = place.node("w1")
    place.node("w2")
    place.place(request("gang", nodes=2))
    place.dispatcher.dismissed("w2", "node w2 is lost")
    assert place.dispatcher.waiting == 1
    third = place.node("w3")
    place.turn()
    assert place.parts == {"gang": ["w3"]}
    place.holding("w3", "gang")
    assert first.jobs() == ["gang"]
    place.dispatcher.dismissed("w3", "node w3 is lost")
    (told,) = [message for message in first.sent if message["t"] == "cancel"]
    assert (told["cause"], told["reason"]) == ("node_lost", "node w3 is lost")
    assert [message["t"] for message in third.sent] == ["hold"]


def test_when_the_head_of_a_gang_is_lost_its_other_nodes_are_free(place: Place) -> None:
    place.node("w1")
    second = place.node("w2", cores=2)
    place.place(request("gang", nodes=2, cores=2))
    place.holding("w2", "gang")
    place.dispatcher.dismissed("w1")
    assert [message["t"] for message in second.sent] == ["hold", "release"]
    assert place.dispatcher.nodes["w2"].cores_used == 0


def test_workers_that_come_again_are_asked_again_for_their_part(place: Place) -> None:
    first = place.node("w1")
    place.node("w2")
    place.place(request("gang", nodes=2))
    place.dispatcher.left("w2")
    again = Channel()
    node = Node("w2", "w2", 1, Capacity(2, 8 * GIB, 0), again)
    place.dispatcher.joined(node, [], [("gang", 1), ("old", 1)])
    assert [(message["t"], message["job"]) for message in again.sent] == [("release", "old"), ("hold", "gang")]
    assert (node.cores_used, node.gang_parts) == (1, 1)
    place.holding("w2", "gang")
    assert first.jobs() == ["gang"]


def test_a_gang_of_an_earlier_agent_is_taken_over(place: Place) -> None:
    gang = request("gang", nodes=2)
    shape = shape_of(gang.defn)
    place.dispatcher.restore([Flight("gang", 1, shape, "w1", ("w2",), gang, claimed=True, sent=True)])
    second = place.node("w2")
    assert [message["t"] for message in second.sent] == ["hold"]
    first = Channel()
    place.dispatcher.joined(Node("w1", "w1", 1, Capacity(2, 8 * GIB, 0), first), [gang])
    assert [flight.parts for flight in place.dispatcher.flights.values()] == [("w2",)]
    place.end("gang")
    assert [message["t"] for message in second.sent] == ["hold", "release"]


def test_a_gang_whose_node_was_lost_while_its_head_was_away_is_stopped_then(place: Place) -> None:
    gang = request("gang", nodes=2)
    place.dispatcher.restore([Flight("gang", 1, shape_of(gang.defn), "w1", ("w2",), gang, claimed=True, sent=True)])
    place.dispatcher.dismissed("w2", "node w2 is lost")
    first = Channel()
    place.dispatcher.joined(Node("w1", "w1", 1, Capacity(2, 8 * GIB, 0), first), [gang])
    assert [(message["t"], message["cause"]) for message in first.sent] == [("cancel", "node_lost")]


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
    assert "runs" in place.dispatcher.flights
    place.end("runs")
    assert channel.jobs() == ["runs", "after"]


def test_a_worker_that_is_away_gets_nothing_and_keeps_what_it_has(place: Place) -> None:
    channel = place.node(cores=2)
    place.place(request("j0"))
    place.dispatcher.left("w1")
    place.place(request("j1"))
    assert channel.jobs() == ["j0"]
    assert "j0" in place.dispatcher.flights
    back = Channel()
    node = Node("w1", "w1", 1, Capacity(2, 8 * GIB, 0), back)
    place.dispatcher.joined(node, [request("j0")])
    place.turn()
    assert back.jobs() == ["j1"]
    assert (node.cores_used, node.running) == (2, 2)
    assert back.sent[0]["t"] == "context"


def test_a_worker_that_lost_a_job_has_room_again(place: Place) -> None:
    place.node(cores=1)
    place.place(request("lost"), request("next"))
    back = place.node(cores=1)
    place.turn()
    assert "lost" not in place.dispatcher.flights
    assert back.jobs() == ["next"]


def test_room_reserved_within_a_transaction_is_used_or_given_back(place: Place) -> None:
    channel = place.node(cores=2)
    requests = [request(f"j{number}") for number in range(3)]
    assert place.dispatcher.reserve(requests) == {"w1": [("j0", 1), ("j1", 1)]}
    place.dispatcher.release()
    assert place.dispatcher.nodes["w1"].cores_used == 0
    assert "j0" not in place.dispatcher.flights
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
    assert "waits" in place.dispatcher.flights


def test_a_busy_worker_is_sent_ahead_a_little_but_only_simple_jobs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwfm.placing.dispatcher.time.monotonic", lambda: 5.0)
    channel = place.node(cores=1, memory=4 * GIB)
    for number in range(40):
        place.place(request(f"j{number}"))
        place.end(f"j{number}")
    before = len(channel.jobs())
    place.place(*(request(f"k{number}") for number in range(30)))
    place.place(request("heavy", memory_bytes=GIB))
    ahead = channel.jobs()[before:]
    assert 1 < len(ahead) <= 30
    assert "heavy" not in ahead


def test_the_message_says_everything_a_worker_must_know() -> None:
    defn = JobDefn(
        "echo $A", cwd="/work", env={"A": "1"}, outputs=["out"], grace_s=2.0,
        resources=Resources(cores=2, memory_bytes=GIB, gpus=1, time_limit_s=3.5),
    )  # fmt: skip
    message = run_message(JobRequest("j", 3, defn, "c", {}, {"LWFM_JOB_ID": "j"}), shape_of(defn), "n1")
    assert message == {
        "t": "run", "job": "j", "attempt": 3, "cwd": "/work", "context": "c", "shell": "echo $A",
        "env": {"A": "1", "LWFM_JOB_ID": "j"}, "grace_s": 2.0, "outputs": ["out"], "cores": 2, "memory_bytes": GIB,
        "time_limit_s": 3.5, "gpus": 1,
    }  # fmt: skip
    assert shape_of(defn).needs == Capacity(2, GIB, 1)
    assert shape_of(JobDefn(["x"])).needs == Capacity(1, 0, 0)
    assert shape_of(JobDefn(["x"], resources=Resources(tasks_per_node=4))).needs == Capacity(4, 0, 0)


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


def test_a_node_without_cores_is_sent_nothing_ahead(place: Place) -> None:
    """That of a login node, where jobs wait for an allocation."""
    channel = place.node(cores=0)
    requests = [request(f"j{number}") for number in range(module.MANY_WAITING + 1)]
    assert place.dispatcher.reserve([*requests, request("script", cores=0)]) == {}
    place.place(*requests, request("script", cores=0))
    assert channel.jobs() == ["script"]
    assert place.dispatcher.waiting == len(requests)


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
    for module_name in ("node", "judging"):
        monkeypatch.setattr(f"lwfm.placing.{module_name}.deadline_time", lambda: now)
    channel = place.node(cores=4)
    place.dispatcher.last_start_by(now + 100)
    requests = [limited("long", 101.0), limited("short", 99.0), limited("free", None)]
    assert place.dispatcher.reserve(requests) == {"w1": [("short", 1), ("free", 1)]}
    place.dispatcher.launch(requests)
    place.place(*requests)
    assert channel.jobs() == ["short", "free"]
    assert "its time limit is 101 s, and of this one 100 s are left" in str(place.dispatcher.why_waiting("long"))
    assert place.dispatcher.why_waiting("short") is None
    now += 100.5
    place.place(limited("late", None))
    assert "is about to end" in str(place.dispatcher.why_waiting("late"))
    assert place.dispatcher.forget("late", 1, "cancelled") is False
    assert place.dispatcher.why_waiting("late") is None


def test_what_one_allocation_has_no_time_for_another_may_have(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    for module_name in ("node", "judging"):
        monkeypatch.setattr(f"lwfm.placing.{module_name}.deadline_time", lambda: now)
    place.dispatcher.last_start_by(now + 100, "slurm-1")
    first = place.node("n1", allocation="slurm-1")
    place.place(limited("long", 101.0), limited("short", 99.0))
    assert first.jobs() == ["short"]
    second = place.node("n2", allocation="slurm-2")
    place.turn()
    assert second.jobs() == ["long"]
    place.dispatcher.cut_off("slurm-2", "cut off", 5.0)
    assert [message["job"] for message in second.sent if message["t"] == "cancel"] == ["long"]
    assert not first.jobs("cancel")


def test_at_the_end_of_the_allocation_workers_are_told_to_stop(place: Place) -> None:
    channel = place.node(cores=1)
    place.place(request("runs"), request("waits"))
    place.dispatcher.cut_off("", "cut off: it ends", 5.0)
    (told,) = [message for message in channel.sent if message["t"] == "cancel"]
    assert (told["job"], told["cause"], told["grace_s"]) == ("runs", "cut_off", 5.0)
    place.end("runs")
    assert channel.jobs() == ["runs"]
    assert "is about to end" in str(place.dispatcher.why_waiting("waits"))
