"""Things that happen at the same moment, in an order that a test brings about: an instance in this process, its disk
held back while work gathers for one transaction, and a worker that says what the test wants.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm import wire
from lwfm.api.call import Call
from lwfm.api.cancelling import cancel
from lwfm.api.jobs import submit as submit_jobs
from lwfm.api.waiting import progress, wait
from lwfm.capacity import Capacity
from lwfm.clock import utc_now
from lwfm.errors import Conflict, StoreFull
from lwfm.instance import Instance
from lwfm.jsontext import compact_ascii
from lwfm.models import JobDefn, Metasheet
from lwfm.paths import Home
from lwfm.placing import dispatcher
from lwfm.placing.node import Node
from lwfm.sites.base import JobRequest
from lwfm.store import queries
from lwfm.wire import PROTOCOL, Decoder, Message, encode

from support.agents import new_home

JSON = dict[str, Any]
PATIENCE_S = 20.0
_dialled: list[asyncio.StreamWriter] = []


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop."""

    def run(**arguments: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**arguments), 3 * PATIENCE_S))

    return functools.wraps(test)(run)


@asynccontextmanager
async def an_instance() -> AsyncIterator[Instance]:
    """An instance that takes workers, and starts none."""
    home = Home(new_home())
    home.create()
    instance = Instance(home)
    await instance.workers.start()
    try:
        yield instance
    finally:
        while _dialled:
            dialled = _dialled.pop()
            dialled.close()
            with contextlib.suppress(ConnectionError):
                await dialled.wait_closed()
        await instance.close(stop_worker=False)
        shutil.rmtree(home.root)


@asynccontextmanager
async def held(instance: Instance) -> AsyncIterator[None]:
    """What is to be written within this block gathers, and becomes one transaction when it ends: the one before it waits for
    the disk."""
    go = threading.Event()
    instance.writer._disk.submit(go.wait, 3 * PATIENCE_S)
    first = instance.writer.write(lambda _: None)
    await _until(lambda: not instance.writer._queue)
    try:
        yield
    finally:
        go.set()
        await first


async def queued(instance: Instance, count: int) -> None:
    """Wait until so many pieces of work wait for the store."""
    await _until(lambda: len(instance.writer._queue) >= count)


async def call(
    function: Callable[[Instance, Call], Awaitable[Any]],
    instance: Instance,
    body: Optional[JSON] = None,
    *arguments: str,
) -> Any:
    return await function(instance, Call(arguments, {}, compact_ascii(body).encode() if body is not None else b""))


async def submit(instance: Instance, **keys: Any) -> str:
    defn = {"command": ["true"], "cwd": "/", **keys}
    answer = await call(submit_jobs, instance, {"jobs": [defn]})
    return str(answer["jobs"][0]["job_id"])


async def state(instance: Instance, job: str) -> str:
    return str((await instance.writer.read(queries.job, job))["state"])


async def states(instance: Instance, job: str) -> list[str]:
    return [status["state"] for status in await instance.writer.read(queries.statuses, job)]


class Worker:
    """A worker of ours: what it says is what the test says."""

    def __init__(self, instance: Instance, name: str = "w1", cores: int = 4) -> None:
        self.instance, self.name, self.cores = instance, name, cores
        self.number = 0
        self.messages: list[Message] = []

    async def connect(self, *jobs: tuple[str, int, str]) -> Worker:
        """Come, or come again, with these jobs."""
        await self.dial(*jobs)
        await self.next("welcome")
        return self

    async def dial(self, *jobs: tuple[str, int, str], protocols: Sequence[int] = (1,)) -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self.instance.home.worker_socket))
        _dialled.append(self.writer)
        self.decoder, self.messages = Decoder(), []
        node = {"cores": list(range(self.cores)), "memory_bytes": 1 << 30, "gpus": []}
        hello = {
            "t": "hello",
            "protocols": list(protocols),
            "worker": self.name,
            "pid": 1,
            "host": "here",
            "version": "0",
            "node": node,
        }
        self.say({**hello, "jobs": [list(job) for job in jobs], "first_unacked": 1})

    def hang_up(self) -> None:
        self.writer.close()

    def say(self, *messages: Message) -> None:
        self.writer.write(encode(messages))

    def started(self, job: str, attempt: int = 1, **keys: Any) -> int:
        self.number = keys.pop("n", self.number + 1)
        self.say(
            {"t": "started", "n": self.number, "job": job, "attempt": attempt, "time": utc_now(), "pid": 77, **keys}
        )
        return self.number

    def ended(self, job: str, attempt: int = 1, **keys: Any) -> int:
        self.number = keys.pop("n", self.number + 1)
        told = {"t": "ended", "n": self.number, "job": job, "attempt": attempt, "time": utc_now(), "started": utc_now()}
        self.say({**told, "cause": "exit", "exit_code": 0, **keys})
        return self.number

    async def next(self, kind: str) -> Message:
        """The next message of a kind; others are kept."""
        while True:
            for position, message in enumerate(self.messages):
                if message["t"] == kind:
                    del self.messages[position]
                    return message
            data = await asyncio.wait_for(self.reader.read(1 << 20), PATIENCE_S)
            assert data, f"hung up while {kind} was awaited"
            self.messages += self.decoder.feed(data)

    async def acked(self, number: int) -> None:
        while int((await self.next("ack"))["n"]) < number:
            pass


# ---------------------------------------------------------------------------------------------- who waits


@in_loop
async def test_an_end_in_the_transaction_of_the_look_wakes_who_waits() -> None:
    async with an_instance() as instance:
        job = await submit(instance)
        async with held(instance):
            body = {"jobs": [job], "mode": "all", "timeout_s": 60}
            waiting = asyncio.ensure_future(call(wait, instance, body))
            await queued(instance, 1)
            emitted = instance.writer.write(instance.service.emit_status, job, {"state": "COMPLETE"})
        await emitted
        answer = await asyncio.wait_for(waiting, PATIENCE_S)
        assert answer["done"]
        assert not instance.watch._ends


@pytest.mark.parametrize("of", ["workflow", "jobs"])
@in_loop
async def test_a_change_in_the_transaction_of_the_look_is_counted_once(of: str) -> None:
    async with an_instance() as instance:
        workflow = (await instance.writer.write(instance.service.put_workflow, {"name": "w"}))["workflow_id"]
        defn = {"command": "true", "cwd": "/"}
        answer = await call(submit_jobs, instance, {"jobs": [defn, defn], "workflow": workflow})
        first, second = (job["job_id"] for job in answer["jobs"])
        follow = {"workflow": workflow} if of == "workflow" else {"jobs": [first, second, first]}
        async with held(instance):
            before = instance.writer.write(instance.service.emit_status, first, {"state": "COMPLETE"})
            following = [asyncio.ensure_future(call(progress, instance, follow)) for _ in range(2)]
            await queued(instance, 3)
            after = instance.writer.write(instance.service.emit_status, second, {"state": "FAILED"})
        await asyncio.gather(before, after, *following)
        for _ in range(2):
            answer = await call(progress, instance, follow)
            assert answer["counts"] == {"COMPLETE": 1, "FAILED": 1}
            assert (answer["total"], answer["active"]) == (2, 0)


# ---------------------------------------------------------------------------------------------- placing


def gate_claims(instance: Instance) -> asyncio.Event:
    """Let nothing be claimed but in the transaction of its submission, until the event is set."""
    gate, claim = asyncio.Event(), instance.dispatcher._claim

    async def gated(worker_id: str, parts: Sequence[str], jobs: list[tuple[str, int]]) -> Mapping[str, JobRequest]:
        await gate.wait()
        return await claim(worker_id, parts, jobs)

    instance.dispatcher._claim = gated
    return gate


async def submit_waiting(instance: Instance, **keys: Any) -> str:
    """Submit a job that waits in the queue, since another one does when it is recorded."""
    instance.dispatcher.reserve = lambda requests: {}  # type: ignore[method-assign]
    try:
        return await submit(instance, **keys)
    finally:
        del instance.dispatcher.reserve


def is_empty(instance: Instance) -> bool:
    """Whether no room is taken and nothing is on its way."""
    placing = instance.dispatcher
    taken = [(node.cores_used, node.memory_used, node.running) for node in placing.nodes.values()]
    return not placing.flights and not placing.waiting and set(taken) <= {(0, 0, 0)}


@pytest.mark.parametrize("room", [True, False])
@in_loop
async def test_a_job_cancelled_in_the_transaction_of_its_submission_ends(room: bool) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance, cores=1).connect()
        if not room:
            blocker = await submit(instance)
            await worker.next("run")
        job = "00000000-0000-7000-8000-000000000001"
        async with held(instance):
            submitting = asyncio.ensure_future(submit(instance, job_id=job))
            await queued(instance, 1)
            cancelling = asyncio.ensure_future(call(cancel, instance, {}, job))
            await queued(instance, 2)
        await submitting
        assert (await cancelling)["state"] == ("FINISHING" if room else "CANCELLED")
        if room:
            assert (await worker.next("run"))["job"] == job
            assert (await worker.next("cancel"))["job"] == job
            worker.ended(job, cause="cancel", exit_code=None, reason="cancelled by the user")
        else:
            worker.ended(blocker)
        await worker.acked(1)
        assert await state(instance, job) == "CANCELLED"
        await _until(lambda: is_empty(instance))
        assert "run" not in [message["t"] for message in worker.messages]


@in_loop
async def test_a_job_cancelled_before_its_claim_never_goes_to_a_worker() -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        gate = gate_claims(instance)
        job = await submit_waiting(instance)
        await _until(lambda: job in instance.dispatcher.flights)
        assert (await call(cancel, instance, {}, job))["state"] == "CANCELLED"
        gate.set()
        other = await submit(instance)
        assert (await worker.next("run"))["job"] == other
        assert instance.dispatcher.nodes["w1"].cores_used == 1


@in_loop
async def test_a_failure_in_the_transaction_of_a_submission_takes_nothing_from_it() -> None:
    """What is undone is undone by itself: the job beside it has its claim, its room and one message."""
    async with an_instance() as instance:
        worker = await Worker(instance).connect()

        def fail(_: Any) -> None:
            raise Conflict("not now")

        async with held(instance):
            submitting = asyncio.ensure_future(submit(instance))
            await queued(instance, 1)
            failing = instance.writer.write(fail)
            again = asyncio.ensure_future(submit(instance))
            await queued(instance, 3)
        with pytest.raises(Conflict):
            await failing
        jobs = [await submitting, await again]
        assert sorted([(await worker.next("run"))["job"] for _ in jobs]) == sorted(jobs)
        assert instance.dispatcher.nodes["w1"].cores_used == 2
        for job in jobs:
            worker.ended(job)
        await worker.acked(2)
        assert is_empty(instance)
        assert "run" not in [message["t"] for message in worker.messages]


@in_loop
async def test_a_job_cancelled_when_a_failure_beside_it_has_put_it_back_ends() -> None:
    async with an_instance() as instance:
        await Worker(instance, cores=1).connect()
        gate = gate_claims(instance)

        def fail(_: Any) -> None:
            raise Conflict("not now")

        async with held(instance):
            submitting = asyncio.ensure_future(submit(instance))
            await queued(instance, 1)
            failing = instance.writer.write(fail)
            await queued(instance, 2)
        job = await submitting
        with pytest.raises(Conflict):
            await failing
        answer = await call(cancel, instance, {}, job)
        assert answer["state"] in ("FINISHING", "CANCELLED")
        gate.set()
        if (flight := instance.dispatcher.flights.get(job)) is not None and flight.claimed:
            return  # it went to the worker all the same, which is asked
        await _until_async(lambda: _is(instance, job, "CANCELLED"))


@pytest.mark.parametrize("first", ["claim", "greeting"])
@in_loop
async def test_a_worker_comes_again_while_a_job_is_on_its_way_to_it(first: str) -> None:
    async with an_instance() as instance:
        gate = gate_claims(instance)
        worker = await Worker(instance).connect()
        job = await submit_waiting(instance)
        await _until(lambda: job in instance.dispatcher.flights)
        worker.hang_up()
        await _until(lambda: not instance.workers.connections)
        async with held(instance):
            for number, step in enumerate(("claim", "greeting") if first == "claim" else ("greeting", "claim")):
                if step == "claim":
                    gate.set()
                else:
                    await worker.dial()
                await queued(instance, number + 1)
        await worker.next("welcome")
        assert (await worker.next("run"))["job"] == job
        worker.started(job)
        worker.ended(job)
        await worker.acked(2)
        assert await state(instance, job) == "COMPLETE"
        assert is_empty(instance)
        assert "run" not in [message["t"] for message in worker.messages]


@in_loop
async def test_a_worker_comes_again_while_a_submission_is_becoming_durable() -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        async with held(instance):
            submitting = asyncio.ensure_future(submit(instance))
            await queued(instance, 1)
        worker.hang_up()
        await worker.dial()
        await worker.next("welcome")
        job = await submitting
        assert (await worker.next("run"))["job"] == job
        worker.ended(job)
        await worker.acked(1)
        await _until(lambda: is_empty(instance))
        assert await state(instance, job) == "COMPLETE"


@in_loop
async def test_a_job_cancelled_while_its_worker_comes_again_is_stopped_there() -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        job = await submit(instance)
        await worker.next("run")
        await worker.acked(worker.started(job))
        worker.hang_up()
        await _until(lambda: not instance.workers.connections)
        async with held(instance):
            await worker.dial((job, 1, "running"))
            await queued(instance, 1)
            cancelling = asyncio.ensure_future(call(cancel, instance, {}, job))
            await queued(instance, 2)
        assert (await cancelling)["state"] == "FINISHING"
        assert (await worker.next("cancel"))["job"] == job
        worker.ended(job, cause="cancel", exit_code=None, signal="SIGTERM", reason="no longer wanted")
        await worker.acked(2)
        assert await state(instance, job) == "CANCELLED"


@in_loop
async def test_a_claim_that_cannot_be_recorded_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        monkeypatch.setattr(dispatcher, "CLAIM_AGAIN_S", 0.01)
        claim, failures = instance.dispatcher._claim, [StoreFull(), StoreFull()]

        async def failing(
            worker_id: str, parts: Sequence[str], jobs: list[tuple[str, int]]
        ) -> Mapping[str, JobRequest]:
            if failures:
                raise failures.pop()
            return await claim(worker_id, parts, jobs)

        instance.dispatcher._claim = failing
        jobs = [await submit_waiting(instance) for _ in range(3)]
        assert {(await worker.next("run"))["job"] for _ in jobs} == set(jobs)
        assert instance.dispatcher.nodes["w1"].cores_used == 3


@in_loop
async def test_more_jobs_than_a_frame_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 50_000)
    async with an_instance() as instance:
        jobs = [await submit(instance, command=["true", "x" * 10_000]) for _ in range(40)]
        worker = await Worker(instance, cores=64).connect()
        assert {(await worker.next("run"))["job"] for _ in jobs} == set(jobs)


def test_handing_over_the_same_job_again_is_harmless() -> None:
    claims: list[list[tuple[str, int]]] = []

    async def claim(worker_id: str, parts: Sequence[str], jobs: list[tuple[str, int]]) -> Mapping[str, JobRequest]:
        claims.append(jobs)
        return {job: JobRequest(job, attempt, JobDefn("true", cwd="/")) for job, attempt in jobs}

    async def work() -> None:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Future[None]] = []
        capacity = Capacity(1, 1 << 30, 0)
        placing = dispatcher.Dispatcher(
            claim, loop.call_soon, lambda c: tasks.append(asyncio.ensure_future(c)), capacity, lambda *_: None
        )
        request = JobRequest("job", 1, JobDefn("true", cwd="/"))
        again = JobRequest("job", 2, JobDefn("true", cwd="/"))
        placing.place([request, request])
        assert placing.waiting == 1
        sent: list[Message] = []
        channel: Any = type("Channel", (), {"send": lambda self, messages: sent.extend(messages)})()
        placing.joined(Node("w", "here", 1, capacity, channel), [])
        await _until(lambda: bool(sent))
        placing.place([request])
        assert placing.waiting == 0
        placing.ended("job", 1)
        placing.place([again])
        await _until(lambda: [message["attempt"] for message in sent if message["t"] == "run"] == [1, 2])

    asyncio.run(work())


# ---------------------------------------------------------------------------------------------- what a worker tells


@in_loop
async def test_an_end_told_again_does_not_touch_the_next_attempt() -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        job = await submit(instance, retries=1)
        await worker.next("run")
        worker.started(job)
        await worker.acked(worker.ended(job, exit_code=1))
        assert (await worker.next("run"))["attempt"] == 2
        await worker.acked(worker.started(job, 2))
        worker.ended(job, 1, exit_code=1, n=4)  # as after a reconnection that crossed the acknowledgement
        await worker.acked(4)
        worker.hang_up()
        await _until(lambda: not instance.workers.connections)
        await worker.connect((job, 2, "running"))
        worker.ended(job, 2, n=5)
        await worker.acked(5)
        assert "cancel" not in [message["t"] for message in worker.messages]
        assert await states(instance, job) == ["PENDING", "RUNNING", "PENDING", "RUNNING", "COMPLETE"]


@in_loop
async def test_a_start_told_again_after_a_cancel_is_no_news() -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        job = await submit(instance)
        await worker.next("run")
        assert (await call(cancel, instance, {"reason": "too hot"}, job))["state"] == "FINISHING"
        await worker.next("cancel")
        for number in (1, 2, 3):
            worker.started(job, n=number)
        worker.ended(job, cause="cancel", exit_code=None, signal="SIGTERM", reason="too hot", n=4)
        await worker.acked(4)
        assert await states(instance, job) == ["PENDING", "FINISHING", "FINISHING", "CANCELLED"]
        assert (await instance.writer.read(queries.job, job))["reason"] == "too hot"


@in_loop
async def test_a_job_cancelled_while_its_files_are_read_has_ended_as_it_did(tmp_path: Path) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        reading, go = threading.Event(), threading.Event()
        declared = instance.files.declared

        def slowly(defn: JobDefn, job_id: str) -> list[Metasheet]:
            reading.set()
            go.wait(PATIENCE_S)
            return declared(defn, job_id)

        instance.files.declared = slowly  # type: ignore[method-assign]
        (tmp_path / "out").write_text("done")
        job = await submit(instance, outputs=[str(tmp_path / "out")])
        await worker.next("run")
        worker.started(job)
        worker.ended(job)
        await asyncio.to_thread(reading.wait, PATIENCE_S)
        assert (await call(cancel, instance, {}, job))["state"] == "FINISHING"
        go.set()
        await worker.acked(2)
        assert await states(instance, job) == ["PENDING", "RUNNING", "FINISHING", "COMPLETE"]
        assert (await call(cancel, instance, {}, job))["state"] == "COMPLETE"
        assert not instance.dispatcher.flights


@in_loop
async def test_acknowledged_is_only_what_is_durable_up_to_the_first_that_is_not(tmp_path: Path) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        go = threading.Event()
        declared = instance.files.declared

        def slowly(defn: JobDefn, job_id: str) -> list[Metasheet]:
            go.wait(PATIENCE_S)
            return declared(defn, job_id)

        instance.files.declared = slowly  # type: ignore[method-assign]
        slow = await submit(instance, inputs=["in"])
        quick = await submit(instance)
        for _ in range(2):
            await worker.next("run")
        worker.started(slow)
        worker.ended(slow)
        worker.started(quick)
        worker.ended(quick)
        await _until_async(lambda: _is(instance, quick, "COMPLETE"))
        assert await state(instance, slow) == "RUNNING"
        worker.started("nobody", n=5)
        assert int((await worker.next("ack"))["n"]) <= 1
        go.set()
        await worker.acked(5)
        assert await state(instance, slow) == "COMPLETE"


@in_loop
async def test_a_large_output_that_is_gone_does_not_keep_the_job_from_ending(tmp_path: Path) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        job = await submit(instance)
        await worker.next("run")
        worker.started(job)
        small = {"size": 3, "data": base64.b64encode(b"err").decode()}
        worker.ended(job, stdout={"size": 1 << 20, "path": str(tmp_path / "gone")}, stderr=small)
        await worker.next("forget")
        found = await instance.writer.read(queries.job, job)
        assert (found["state"], found["stdout_bytes"], found["stderr_bytes"]) == ("COMPLETE", 1 << 20, 3)


@in_loop
async def test_a_large_output_told_of_twice_is_taken_over_once(tmp_path: Path) -> None:
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        job = await submit(instance)
        await worker.next("run")
        worker.started(job)
        (tmp_path / "out").write_bytes(b"x" * 100_000)
        for _ in range(4):
            worker.ended(job, stdout={"size": 100_000, "path": str(tmp_path / "out")}, n=2)
        for _ in range(4):
            await worker.next("forget")
        assert await states(instance, job) == ["PENDING", "RUNNING", "COMPLETE"]
        piece = await instance.writer.read(
            lambda c: instance.outputs.read(c, queries.job_details(c, job)["stdout"], 99_990, 100)
        )
        assert piece == b"x" * 10


@in_loop
async def test_the_spool_under_a_new_name_keeps_its_jobs() -> None:
    """A node was restarted: what was queued goes on, what ran was lost, and the worker tells so itself."""
    async with an_instance() as instance:
        worker = await Worker(instance).connect()
        waiting, ran, unknown = [await submit(instance) for _ in range(3)]
        for _ in range(3):
            await worker.next("run")
        await worker.acked(worker.started(ran))
        worker.hang_up()
        await _until(lambda: not instance.workers.connections)
        renamed = await Worker(instance, "w2").connect((waiting, 1, "queued"), (ran, 1, "ended"))
        renamed.ended(ran, cause="lost", exit_code=None, reason="the node was restarted while it ran")
        await renamed.acked(1)
        assert await states(instance, ran) == ["PENDING", "RUNNING", "UNKNOWN", "FAILED"]
        assert "restarted" in (await instance.writer.read(queries.job, ran))["reason"]
        assert await states(instance, unknown) == ["PENDING", "UNKNOWN", "FAILED"]
        renamed.started(waiting)
        await renamed.acked(renamed.ended(waiting))
        assert await state(instance, waiting) == "COMPLETE"
        assert list(instance.dispatcher.nodes) == ["w2"]
        assert not instance.dispatcher.flights
        assert "cancel" not in [message["t"] for message in renamed.messages]


async def _is(instance: Instance, job: str, wanted: str) -> bool:
    return await state(instance, job) == wanted


async def _until(condition: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return condition()

    await _until_async(ask)


async def _until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not await condition():
        assert loop.time() < deadline, "it does not come about"
        await asyncio.sleep(0.001)


@in_loop
async def test_a_worker_one_release_ahead_is_taken_in_the_version_of_both() -> None:
    async with an_instance() as instance:
        worker = Worker(instance)
        await worker.dial(protocols=(PROTOCOL + 1, PROTOCOL))
        assert (await worker.next("welcome"))["protocol"] == PROTOCOL


@in_loop
async def test_a_worker_without_a_common_version_is_told_so() -> None:
    async with an_instance() as instance:
        worker = Worker(instance)
        await worker.dial(protocols=(98, 99))
        refused = await worker.next("refused")
        assert "[98, 99]" in refused["reason"]
        assert not instance.dispatcher.nodes
