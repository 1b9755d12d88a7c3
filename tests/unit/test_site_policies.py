"""Limits, the pace of questions, health, the queue of a site, the choice among several, and calls in threads of their own."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lwfm.config import read_sites
from lwfm.errors import ConfigError, InvalidRecord, LoginRequired, ResourcesImpossible, SiteError
from lwfm.limits import Limits, without_limits
from lwfm.models import JobDefn, Resources
from lwfm.placing.candidates import Placing, Standing, candidates_of
from lwfm.polled.backlog import Backlog, Waiting
from lwfm.polled.pace import ClockWatch, Health, Pace
from lwfm.recording.recorder import Recorder
from lwfm.sites.base import StoredData
from lwfm.sites.calls import SiteCalls
from lwfm.sites.local import LocalRepo
from lwfm.states import JobState
from lwfm.store.log import Record

from support.threads import Thread, folded, thread

__all__ = ["thread"]


class TestLimits:
    def read(self, directory: Path, text: str) -> Limits:
        (directory / "sites.toml").write_text(text)
        return read_sites(directory / "sites.toml")["far"].limits

    def test_they_are_read_and_are_not_the_drivers(self, tmp_path: Path) -> None:
        text = '[far]\ndriver = "x:Y"\nmax_jobs = 100\npoll_s = 30\nsubmit_batch = 50\nuser = "ada"\n'
        assert self.read(tmp_path, text) == Limits(100, 30.0, 50)
        options = read_sites(tmp_path / "sites.toml")["far"].options
        assert without_limits(options) == {"user": "ada"}
        assert self.read(tmp_path, '[far]\ndriver = "x:Y"\n') == Limits(None, 1.0, 1000)

    @pytest.mark.parametrize(
        "line",
        ["max_jobs = 0", "max_jobs = true", "max_jobs = 1.5", "poll_s = 0", "poll_s = '1'", "poll_s = inf",
         "poll_s = nan", "submit_batch = -1", "submit_batch = 'all'"],
    )  # fmt: skip
    def test_a_wrong_one_is_named(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(ConfigError, match=rf"{line.split()[0]} of \[far\] must be"):
            self.read(tmp_path, f'[far]\ndriver = "x:Y"\n{line}\n')

    def test_they_have_no_meaning_where_jobs_go_to_our_own_nodes(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"max_jobs of \[local\] has no meaning"):
            self.read(tmp_path, "[local]\nmax_jobs = 3\n")


class TestPace:
    def test_it_slows_down_until_something_changes(self) -> None:
        pace, now, pauses = Pace(), 0.0, []
        for _ in range(20):
            pace.asked(now, 2.0, changed=False)
            pauses.append(pace.due_at(2.0) - now)
            now = pace.due_at(2.0)
        assert pauses[:3] == [3.0, 4.5, 6.75]
        assert pauses[-1] == 60.0
        pace.asked(now, 2.0, changed=True)
        assert pace.due_at(2.0) == now + 2.0

    def test_never_faster_than_it_may(self) -> None:
        pace = Pace()
        pace.asked(100.0, 30.0, changed=False)
        pace.hurry()
        assert pace.due_at(30.0) == 130.0
        pace.asked(130.0, 300.0, changed=False)
        assert pace.due_at(300.0) == 430.0
        pace.at_once()
        assert pace.due_at(30.0) < 0


class TestHealth:
    def test_it_backs_off_with_jitter_and_heals(self) -> None:
        for draw, share in ((1.0, 1.0), (0.0, 0.5)):
            health = Health(draw=lambda draw=draw: draw)  # type: ignore[misc]
            news = [health.failed(SiteError(f"no {count}"), 10.0, f"t{count}") for count in range(9)]
            assert news == [True] + [False] * 8
            assert (health.state, health.since, health.reason) == ("down", "t0", "no 8")
            assert health.retry_at == 10.0 + 60.0 * share
            assert health.succeeded() is True
            assert (health.bad, health.succeeded()) == (False, False)
            health.failed(SiteError("again"), 10.0, "t")
            assert health.retry_at == 10.0 + share
            health.failed(SiteError("again"), 10.0, "t", 30.0)
            assert health.retry_at == 40.0

    def test_a_login_is_another_matter(self) -> None:
        health = Health()
        assert health.failed(SiteError("no"), 0.0, "t1") is True
        assert health.failed(LoginRequired("who"), 0.0, "t2") is True
        assert (health.state, health.since) == ("login", "t2")
        assert health.retry_at >= 150.0
        health.try_now()
        assert health.retry_at < 0

    def test_the_clock_after_a_sleep(self) -> None:
        watch = ClockWatch(1000.0, 5.0)
        seen = [watch.jumped(*times) for times in ((1010.0, 15.0), (8000.0, 20.0), (8005.0, 25.0), (7000.0, 30.0))]
        assert seen == [False, True, False, True]


class TestBacklog:
    def test_priority_then_age_and_room(self) -> None:
        backlog = Backlog()
        for job in (Waiting("b"), Waiting("a"), Waiting("d", priority=1), Waiting("c", priority=-1)):
            backlog.add(job)
        assert backlog.first(9) == ["d", "a", "b", "c"]
        assert backlog.room(None) == 4
        assert [job.job_id for job in backlog.hand(2)] == ["d", "a"]
        backlog.known("d")
        assert (backlog.with_site, backlog.room(3), backlog.room(2), len(backlog)) == (2, 1, 0, 4)

    def test_what_was_forgotten_or_comes_again_is_handed_over_once(self) -> None:
        backlog = Backlog()
        backlog.add(Waiting("a"))
        backlog.forget("a")
        backlog.add(Waiting("a", priority=3))
        backlog.add(Waiting("b"))
        backlog.add(Waiting("b"))
        assert [job.job_id for job in backlog.hand(9)] == ["a", "b"]
        assert backlog.hand(9) == []
        backlog.wait_again("b")
        backlog.wait_again("nobody")
        assert (backlog.first(9), list(backlog.doubtful)) == (["b"], ["a"])

    def test_missed_three_times_in_a_row(self) -> None:
        backlog = Backlog()
        backlog.known("a")
        assert [backlog.missed("a"), backlog.missed("a")] == [False, False]
        backlog.known("a")
        assert [backlog.missed("a") for _ in range(3)] == [False, False, True]
        assert backlog.missed("gone") is False


class TestCandidates:
    def test_what_names_sites(self) -> None:
        assert candidates_of("a") == ("a",)
        assert candidates_of("a, b,a") == candidates_of(["a", "b"]) == ("a", "b")
        for given in ("", "a,,b", [], ["a", 3], {"a": 1}, 7):
            with pytest.raises(InvalidRecord, match="site"):
                candidates_of(given)

    def test_like_jobs_are_judged_once(self) -> None:
        asked: list[tuple[str, Any]] = []

        def accepts(site: str, defn: JobDefn) -> None:
            asked.append((site, defn.resources.cores))
            if site == "a":
                raise ResourcesImpossible("too small")

        placing = Placing(accepts, lambda site: Standing())
        for cores in [1] * 1000 + [2] * 1000:
            assert placing.place(("a", "b"), JobDefn("true", resources=Resources(cores=cores))).site == "b"
        assert asked == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]

    def test_what_all_refuse_for_different_reasons(self) -> None:
        errors = {"a": ResourcesImpossible("too small"), "b": ConfigError("no driver")}

        def accepts(site: str, defn: JobDefn) -> None:
            raise errors[site]

        placing = Placing(accepts, lambda site: Standing())
        with pytest.raises(SiteError, match=r"no site takes the job: site a: too small; site b: no driver"):
            placing.place(("a", "b"), JobDefn("true"))
        with pytest.raises(ConfigError, match=r"^no driver$"):
            placing.place(("b",), JobDefn("true"))


class TestCalls:
    def test_one_after_the_other_and_other_sites_beside(self) -> None:
        async def test() -> None:
            calls, go, begun, order = SiteCalls(), threading.Event(), threading.Event(), []

            def slow() -> str:
                begun.set()
                assert go.wait(20)
                order.append("slow")
                return "done"

            def quick() -> None:
                order.append("quick")

            first = asyncio.ensure_future(calls.call("a", slow))
            second = asyncio.ensure_future(calls.call("a", quick))
            await calls.call("b", quick)
            assert await asyncio.to_thread(begun.wait, 20)
            assert (order, first.done(), second.done()) == (["quick"], False, False)
            assert (calls.busy_with("a") or "").startswith("slow has taken")
            with pytest.raises(SiteError, match="site 'a' is busy: its slow has taken 0 s") as raised:
                await calls.call("a", order.append, "never", wait_s=0.01)
            assert raised.value.transient
            go.set()
            assert await first == "done"
            await second
            assert order == ["quick", "slow", "quick"]
            assert calls.busy_with("a") is None

        asyncio.run(test())

    def test_who_waits_long_enough_hears_so_and_the_rest_goes_on(self) -> None:
        async def test() -> None:
            calls, go = SiteCalls(), threading.Event()
            with pytest.raises(SiteError, match="site 'a' has not answered wait within 0 s"):
                await calls.call("a", go.wait, 20, run_s=0.01)
            go.set()
            assert await calls.call("a", max, 1, 2) == 2
            with pytest.raises(SiteError, match="site 'a' failed: ZeroDivisionError"):
                await calls.call("a", divmod, 1, 0)

        asyncio.run(test())

    def test_data_that_may_be_moved_meanwhile_hold_up_nothing(self) -> None:
        class Transfers(LocalRepo):
            thread_safe = False

            def remove(self, stored: StoredData) -> None:
                assert go.wait(20)

        class Safe(Transfers):
            thread_safe = True

        go = threading.Event()
        safe, plain = Safe(Path("/")).remove, Transfers(Path("/")).remove

        async def test() -> None:
            calls, stored = SiteCalls(), StoredData("", "")
            moving = [asyncio.ensure_future(calls.call("a", safe, stored)) for _ in range(2)]
            assert await calls.call("a", max, 1, 2, wait_s=20) == 2
            assert calls.busy_with("a") is None
            moving.append(asyncio.ensure_future(calls.call("a", plain, stored)))
            await asyncio.sleep(0)
            with pytest.raises(SiteError, match="is busy"):
                await calls.call("a", max, 1, 2, wait_s=0.05)
            go.set()
            await asyncio.gather(*moving)

        asyncio.run(test())

    def test_a_hung_call_holds_up_no_leaving(self) -> None:
        go = threading.Event()

        async def test() -> None:
            calls = SiteCalls()
            waiting = asyncio.ensure_future(calls.call("a", go.wait, 20))
            await asyncio.sleep(0)
            await calls.close(0.01)
            waiting.cancel()

        began = time.monotonic()
        asyncio.run(test())
        assert time.monotonic() - began < 10
        go.set()


class TestTheSiteOfAJob:
    """A change of site is a fact like others: the tables say the same in whatever order records come."""

    def moved(self, thread: Thread) -> list[Record]:
        job = thread.submit("true", retries=1)

        def status(state: str, attempt: int = 1, **facts: Any) -> None:
            def work(recorder: Recorder) -> None:
                now = recorder.job_now(job)
                assert now is not None
                recorder.record_status(now, JobState(state), attempt=attempt, **facts)

            thread.unit(work)

        status("PENDING", site="a", reason="goes to site a")
        status("RUNNING", native_id="7")
        status("PENDING", attempt=2, reason="trying again")
        status("PENDING", attempt=2, site="b", reason="goes to site b")
        status("COMPLETE", attempt=2)
        return [record for record in thread.records() if record.kind in ("job", "status")]

    def test_each_step(self, thread: Thread) -> None:
        job = thread.submit("true", retries=1)
        thread.status(job, "PENDING", site="a")
        assert thread.job(job)["site"] == "a"
        thread.status(job, "RUNNING")
        thread.unit(lambda r: r.record_status(r.job_now(job), JobState.PENDING, attempt=2))
        assert thread.job(job)["site"] == "a"
        thread.unit(lambda r: r.record_status(r.job_now(job), JobState.PENDING, site="b"))
        assert thread.unit(lambda r: r.job_now(job).site) == "b"
        thread.crash()
        assert thread.unit(lambda r: r.job_now(job).site) == "b"

    def test_in_every_order(self, thread: Thread) -> None:
        records = self.moved(thread)
        others = [record for record in thread.records() if record.kind not in ("job", "status")]
        expected = folded([*others, *records])
        assert len(records) == 6
        sites = {row[4] for row in expected["jobs"]}
        assert sites == {"b"}
        for order in itertools.permutations(records):
            assert folded([*others, *order]) == expected
