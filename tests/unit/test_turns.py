"""What comes of turns with a site: whatever it answers, each thing is recorded once, and nothing is handed over twice."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from lwfm.errors import InvalidRecord, LoginRequired, NotFound, ResourcesImpossible, SiteError
from lwfm.limits import Limits
from lwfm.models import Resources
from lwfm.polled.polling import PolledSites
from lwfm.sites.base import Observation, Repo, StoredData
from lwfm.states import JobState

from support.polled import COMPLETE, FAILED, PENDING, RUNNING, ScriptedRun, rig
from support.threads import Thread, thread

__all__ = ["thread"]
REFUSED = Observation(JobState.FAILED, reason="no such queue", facts={"refused": True})


def script(test: Callable[..., Any]) -> Callable[..., None]:
    """A test that is a coroutine."""

    def run(thread: Thread) -> None:
        asyncio.run(asyncio.wait_for(test(thread), 60))

    def run_method(self: Any, thread: Thread) -> None:
        asyncio.run(asyncio.wait_for(test(self, thread), 60))

    return run_method if "self" in test.__code__.co_varnames[:1] else run


class TestOneSite:
    @script
    async def test_from_submission_to_end(self, thread: Thread) -> None:
        a = ScriptedRun()
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            a.answers[job] = RUNNING
            await sites.turn()
            await sites.turn()
            a.answers[job] = COMPLETE
            await sites.turn()
            await sites.brought()
            assert await sites.states(job) == ["PENDING", "PENDING", "RUNNING", "COMPLETE", "COMPLETE"]
            assert a.said("status") == [[], [job], [job], [job]]
            assert a.said("submit") == [[job]]
            assert len(sites.site("a").backlog) == 0

    @script
    async def test_a_lost_answer_is_held_against_what_the_site_says(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"submit": [SiteError("lost")]})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            a.answers[job] = RUNNING
            await sites.turn()
            assert a.said("submit") == [[job]]
            assert (await sites.job(job))["state"] == "RUNNING"

    @script
    async def test_what_never_came_there_is_handed_over_again(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"submit": [SiteError("lost")]})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.turn()
            assert a.said("submit") == [[job], [job]]
            assert list(sites.site("a").backlog.there) == [job]

    @script
    async def test_nothing_is_handed_to_a_site_that_does_not_answer(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"status": [SiteError("no route"), SiteError("no route again")]})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.turn()
            assert a.said("submit") == []
            assert (await sites.reasons(job))[1:] == ["site a: no route"]  # told once
            assert sites.site("a").trouble is not None
            await sites.turn()
            assert a.said("submit") == [[job]]
            assert sites.site("a").trouble is None

    @script
    async def test_a_login_is_asked_for(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"status": [LoginRequired("expired")]})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            assert (await sites.reasons(job))[-1] == "waits for a login: lwfm site login a"
            assert sites.site("a").health.retry_at - asyncio.get_running_loop().time() > 100
            other = await sites.submit()
            assert (await sites.job(other))["reason"] == "waits for a login: lwfm site login a"

    @script
    async def test_a_site_that_was_removed_keeps_its_jobs_waiting(self, thread: Thread) -> None:
        a = ScriptedRun()
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            sites.runs = {}
            await sites.turn()
            assert (await sites.reasons(job))[-1] == "site a: there is no site 'a'"
            sites.runs = {"a": a}
            await sites.turn()
            assert a.said("submit") == [[job]]

    @script
    async def test_a_job_that_the_site_forgets_is_unknown(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            del a.answers[job]
            for _ in range(2):
                await sites.turn()
            assert (await sites.job(job))["state"] == "RUNNING"
            for _ in range(2):
                await sites.turn()
            assert (await sites.states(job))[2:] == ["UNKNOWN"]
            a.answers[job] = COMPLETE
            await sites.turn()
            assert (await sites.job(job))["state"] == "COMPLETE"

    @script
    async def test_what_has_ended_otherwise_is_asked_for_no_more(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.writer.write(lambda r: r.record_status(r.job_now(job), JobState.FAILED, reason="by hand"))
            sites.site("a").backlog.known(job)  # as when the site's answer was on its way
            await sites.turn()
            assert len(sites.site("a").backlog) == 0

    @script
    async def test_a_partial_answer_leaves_the_rest_in_doubt(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=None)
        async with rig(thread, a=a) as sites:
            here, gone = await sites.submit_many(2)
            await sites.turn()
            assert set(sites.site("a").backlog.doubtful) == {here, gone}
            a.answers[here], a.on_submit = RUNNING, PENDING
            await sites.turn()
            assert a.said("submit") == [[here, gone], [gone]]

    @script
    async def test_the_site_is_heard_out_when_the_store_fails(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            a.answers[job] = COMPLETE
            write, sites.turns._writer = sites.writer.write, sites.turns._writer

            def full(work: Any, *arguments: Any) -> Any:
                raise OSError("disk full")

            sites.writer.write = full  # type: ignore[method-assign]
            with pytest.raises(OSError, match="disk full"):
                await sites.turn()
            sites.writer.write = write  # type: ignore[method-assign]
            await sites.turn()
            assert (await sites.job(job))["state"] == "COMPLETE"


class TestLimits:
    @script
    async def test_so_many_at_once_the_first_first(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, {"a": Limits(max_jobs=2, submit_batch=1)}, a=a) as sites:
            jobs = await sites.submit_many(4)
            urgent = await sites.submit(priority=5)
            assert "max_jobs" in (await sites.job(jobs[3]))["reason"]
            assert (await sites.job(jobs[0])).get("reason") is None
            await sites.turn()
            assert a.said("submit") == [[urgent], [jobs[0]]]
            a.answers[urgent] = COMPLETE
            await sites.turn()
            assert a.said("submit")[2:] == [[jobs[1]]]

    @script
    async def test_what_waits_survives_a_restart(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, {"a": Limits(max_jobs=1)}, a=a) as sites:
            there, waits = await sites.submit_many(2)
            urgent = await sites.submit(priority=1)
            await sites.turn()
            await sites.restart()
            assert list(sites.site("a").backlog.there) == [urgent]
            assert sites.site("a").backlog.first(9) == [there, waits]
            a.answers[urgent] = COMPLETE
            await sites.turn()
            assert a.said("submit") == [[urgent], [there]]


class TestCancel:
    @script
    async def test_what_was_not_handed_over_is_cancelled_at_once(self, thread: Thread) -> None:
        a = ScriptedRun()
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.cancel(job)
            assert await sites.states(job) == ["PENDING", "CANCELLED"]
            await sites.turn()
            assert a.said("submit") == a.said("cancel") == []

    @script
    async def test_it_is_told_again_until_it_is_heard_and_keeps_nothing_else(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.cancel(job)
            a.fail["cancel"] = [SiteError("not now"), SiteError("not now")]
            other = await sites.submit()
            await sites.turn()
            assert a.said("submit") == [[job], [other]]
            await sites.turn()
            assert sum("not now" in reason for reason in await sites.reasons(job)) == 1
            await sites.turn()
            await sites.turn()
            assert len(a.said("cancel")) == 3
            a.answers[job] = Observation(JobState.CANCELLED, "gone", reason="enough")
            await sites.turn()
            assert (await sites.job(job))["state"] == "CANCELLED"

    @script
    async def test_it_is_told_again_after_a_restart(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.cancel(job)
            await sites.restart()
            await sites.turn()
            assert a.said("cancel") == [job]

    @script
    async def test_in_doubt_it_is_not_handed_over_again(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"submit": [SiteError("lost")]})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.cancel(job)
            assert (await sites.job(job))["state"] == "FINISHING"
            await sites.turn()
            assert (await sites.job(job))["state"] == "CANCELLED"
            assert a.said("submit") == [[job]]
            assert len(sites.site("a").backlog) == 0

    @script
    async def test_what_the_site_says_of_it_later_changes_nothing(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            asking = threading.Event()
            a.hold = asking
            turn = asyncio.ensure_future(sites.turn())
            await sites.writer.write(lambda r: r.record_status(r.job_now(job), JobState.CANCELLED, reason="by hand"))
            asking.set()
            await turn
            assert (await sites.states(job))[-1] == "CANCELLED"
            assert len(sites.site("a").backlog) == 0


class TestSeveralSites:
    @script
    async def test_the_first_that_accepts(self, thread: Thread) -> None:
        a, b = ScriptedRun(impossible=ResourcesImpossible("2 cores at most")), ScriptedRun()
        async with rig(thread, a=a, b=b) as sites:
            job = await sites.submit("a,b")
            found = await sites.job(job)
            assert (found["site"], found["definition"]["sites"]) == ("b", ["a", "b"])
            assert found["reason"] == "site a: 2 cores at most; goes to site b"
            b.impossible = ResourcesImpossible("no GPUs")
            with pytest.raises(
                ResourcesImpossible, match="no site takes the job: site a: 2 cores at most; site b: no GPUs"
            ):
                await sites.submit("a,b")

    @script
    async def test_one_that_is_down_is_skipped_and_if_all_are_the_first_has_it(self, thread: Thread) -> None:
        a, b = ScriptedRun(fail={"status": [SiteError("no route")] * 9}), ScriptedRun()
        async with rig(thread, a=a, b=b) as sites:
            first = await sites.submit("a")
            await sites.turn("a")
            job = await sites.submit("a,b")
            assert (await sites.job(job))["site"] == "b"
            assert "no route; goes to site b" in (await sites.job(job))["reason"]
            b.fail["status"] = [SiteError("no power")] * 9
            await sites.turn("b")
            last = await sites.submit("b,a")
            assert (await sites.job(last))["site"] == "b"
            assert "waits for site b" in (await sites.job(last))["reason"]
            assert (await sites.job(first))["site"] == "a"

    @script
    async def test_full_ones_are_passed_over(self, thread: Thread) -> None:
        limits = {"a": Limits(max_jobs=2), "b": Limits(max_jobs=1)}
        async with rig(thread, limits, a=ScriptedRun(), b=ScriptedRun()) as sites:
            jobs = await sites.submit_many(5, "a,b")
            assert [(await sites.job(job))["site"] for job in jobs] == ["a", "a", "b", "a", "a"]
            assert sum([call[0] == "check" for call in sites.run("a").calls]) == 0

    @script
    async def test_it_moves_on_while_nothing_was_handed_over(self, thread: Thread) -> None:
        a, b = ScriptedRun(fail={"status": [SiteError("no route")]}), ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a, b=b) as sites:
            job, stays = await sites.submit("a,b"), await sites.submit("a")
            await sites.turn("a")
            found = await sites.job(job)
            assert (found["site"], found["state"]) == ("b", "PENDING")
            assert found["reason"].endswith("no route; goes to site b")
            await sites.turn("b")
            await sites.turn("a")
            assert (a.said("submit"), b.said("submit")) == ([[stays]], [[job]])
            assert (await sites.job(job))["state"] == "RUNNING"

    @script
    async def test_never_after_a_doubtful_submission(self, thread: Thread) -> None:
        a, b = ScriptedRun(fail={"submit": [SiteError("lost")]}), ScriptedRun()
        async with rig(thread, a=a, b=b) as sites:
            job = await sites.submit("a,b")
            await sites.turn("a")
            a.fail["status"] = [SiteError("no route")]
            await sites.turn("a")
            await sites.restart()
            a.fail["status"] = [SiteError("no route")]
            await sites.turn("a")
            assert (await sites.job(job))["site"] == "a"
            a.fail["status"] = []
            await sites.turn("a")  # the site has never had it; but it answers now
            assert (await sites.job(job))["site"] == "a"
            assert b.calls == []

    @script
    async def test_one_that_refuses_is_not_asked_again(self, thread: Thread) -> None:
        a, b = ScriptedRun(on_submit=REFUSED), ScriptedRun(on_submit=REFUSED)
        async with rig(thread, a=a, b=b) as sites:
            job = await sites.submit("a,b")
            await sites.turn("a")
            assert (await sites.job(job))["site"] == "b"
            await sites.restart()
            await sites.turn("b")
            found = await sites.job(job)
            assert (found["state"], found["reason"]) == ("FAILED", "site b did not take it: no such queue")
            assert len(a.said("submit")) == len(b.said("submit")) == 1

    @script
    async def test_of_many_that_are_refused_together_the_good_ones_go(self, thread: Thread) -> None:
        class Picky(ScriptedRun):
            def submit(self, requests: Any) -> Any:
                if any(request.defn.resources.cores == 3 for request in requests):
                    self.calls.append(("refused", len(requests)))
                    raise ResourcesImpossible("3 is not to be had")
                return super().submit(requests)

        a = Picky()
        async with rig(thread, a=a) as sites:
            good = await sites.submit_many(5)
            bad = await sites.submit_many(3, resources=Resources(cores=3))
            await sites.turn()
            assert [(await sites.job(job))["state"] for job in bad] == ["FAILED"] * 3
            assert sorted(job for batch in a.said("submit") for job in batch) == good
            assert a.said("refused") == [8, 4, 2, 1, 2]  # the last two are alike: one word is enough for both

    @script
    async def test_a_malformed_one_fails_alone(self, thread: Thread) -> None:
        class Picky(ScriptedRun):
            def submit(self, requests: Any) -> Any:
                if any(request.defn.name == "bad" for request in requests):
                    raise InvalidRecord("what a name")
                return super().submit(requests)

        a = Picky()
        async with rig(thread, a=a) as sites:
            good = await sites.submit_many(2)
            bad = await sites.submit(name="bad")
            more = await sites.submit_many(2)
            await sites.turn()
            assert (await sites.job(bad))["reason"] == "site a did not take it: what a name"
            assert [(await sites.job(job))["native_status"] for job in good + more] == ["Q"] * 4


class TestRetries:
    @script
    async def test_a_failed_attempt_is_followed_by_another(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING, printed={"stdout": b"first"})
        async with rig(thread, a=a) as sites:
            job = await sites.submit(retries=1)
            await sites.turn()
            a.answers[job] = FAILED
            await sites.turn()
            assert (await sites.job(job))["attempt"] == 2
            assert a.said("submit") == [[job], [job]]
            ends = [item for item in await sites.writer.read(_statuses, job) if "ended_attempt" in item]
            assert [(end["ended_attempt"]["attempt"], end["ended_attempt"]["stdout_bytes"]) for end in ends] == [(1, 5)]
            a.answers[job] = FAILED
            await sites.turn()
            found = await sites.job(job)
            assert (found["state"], found["attempt"], found["reason"]) == ("FAILED", 2, "exit code 1")

    @script
    async def test_one_that_is_to_be_stopped_is_not_tried_again(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit(retries=3)
            await sites.turn()
            await sites.cancel(job)
            a.answers[job] = FAILED
            await sites.turn()
            assert ((await sites.job(job))["state"], len(a.said("submit"))) == ("FAILED", 1)

    @script
    async def test_an_answer_of_the_attempt_before_does_not_count(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING)
        async with rig(thread, a=a) as sites:
            job = await sites.submit(retries=1)
            await sites.turn()
            a.answers[job] = FAILED
            a.fail["submit"] = [SiteError("lost")]
            await sites.turn()  # the second attempt is in doubt: the site may still speak of the first
            await sites.turn()
            assert len(a.said("submit")) == 3
            found = await sites.job(job)
            assert (found["state"], found["attempt"]) == ("RUNNING", 2)


class TestWhatIsLeft:
    @script
    async def test_small_outputs_are_kept_once_after_the_end(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING, printed={"stdout": b"out", "stderr": b"x" * 70_000})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            a.answers[job] = COMPLETE
            await sites.turn()
            assert (await sites.job(job))["state"] == "COMPLETE"
            await sites.restart()
            await sites.brought()
            found = await sites.job(job)
            assert (found["stdout_bytes"], found["exit_code"], found["native_status"]) == (3, 0, "C")
            assert "stderr" not in found
            assert (await sites.states(job)).count("COMPLETE") == 2
            await sites.restart()
            await sites.brought()
            assert (await sites.states(job)).count("COMPLETE") == 2

    @script
    async def test_a_kill_before_they_are_here_is_made_good(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING, printed={"stdout": b"out"})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            a.answers[job] = COMPLETE
            sites.bringing.add = lambda site, job_ids: None  # type: ignore[method-assign]
            await sites.turn()
            del sites.bringing.add
            await sites.restart()
            await sites.brought()
            assert (await sites.job(job))["stdout_bytes"] == 3

    @script
    async def test_the_thread_of_its_own_instance(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=COMPLETE, kept_homes=["/1.home", "/2.home"], fail={"homes": [SiteError("away")]})
        async with rig(thread, a=a) as sites:
            await sites.submit()
            await sites.turn()
            await sites.brought()
            assert sites.collected == ["/1.home", "/2.home"]

    @script
    async def test_a_site_that_does_not_say_is_given_up(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=COMPLETE, fail={"output": [SiteError("gone")] * 9})
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.brought()
            assert len(a.said("output")) == 5
            assert await sites.states(job) == ["PENDING", "COMPLETE"]

    @script
    async def test_declared_files_are_recorded_where_they_are(self, thread: Thread) -> None:
        (thread.directory / "in.dat").write_text("in")
        (thread.directory / "out1.csv").write_text("out")
        fired = thread.on_data({"declared": True}, workflow=None)

        class InPlace(Repo):
            def put(self, local_path: Path, site_path: Optional[str], properties: Any) -> StoredData:
                assert site_path is None
                if local_path.name == "unseen":
                    raise NotFound("not here")
                return StoredData(f"site://a{local_path}", str(local_path), "n1", 3, "ab" * 32)

            def get(self, stored: StoredData, local_path: Path) -> StoredData:
                raise AssertionError

        async with rig(thread, a=ScriptedRun(on_submit=COMPLETE)) as sites:
            sites.repos["a"] = InPlace()
            cwd = str(thread.directory)
            job = await sites.submit(cwd=cwd, inputs=["in.dat", "unseen"], outputs=["out*.csv"])
            await sites.turn()
            await sites.brought()
        rows = thread.connection.execute(
            "select op, site, path, sha256 from metasheets where job_id = ? order by op", (job,)
        ).fetchall()
        assert [(op, site, Path(path).name) for op, site, path, _ in rows] == [
            ("get", "a", "in.dat"),
            ("put", "a", "out1.csv"),
        ]
        assert thread.handler(fired["handler_id"])["fired"] == 1


class TestRecordsThatCome:
    @script
    async def test_nothing_is_taken_from_its_answers(self, thread: Thread) -> None:
        a = ScriptedRun(on_submit=RUNNING, records_come=True)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.turn()
            assert await sites.states(job) == ["PENDING"]
            assert a.said("status") == [[], []]
            assert list(sites.site("a").backlog.there) == [job]
            await sites.restart()
            await sites.turn()
            assert a.said("submit") == [[job]]
            await sites.writer.write(lambda r: r.record_status(r.job_now(job), JobState.COMPLETE))
            assert len(sites.site("a").backlog) == 0
            assert a.said("output") == []

    @script
    async def test_what_is_in_doubt_is_handed_over_again(self, thread: Thread) -> None:
        a, b = ScriptedRun(fail={"submit": [SiteError("lost")]}, records_come=True), ScriptedRun()
        async with rig(thread, a=a, b=b) as sites:
            job = await sites.submit("a,b")
            await sites.turn()
            await sites.restart()
            await sites.turn()
            assert a.said("submit") == [[job], [job]]

    @script
    async def test_cancelled_in_doubt_it_need_not_be_there(self, thread: Thread) -> None:
        a = ScriptedRun(fail={"submit": [SiteError("lost")], "cancel": [NotFound("no such job")]}, records_come=True)
        async with rig(thread, a=a) as sites:
            job = await sites.submit()
            await sites.turn()
            await sites.cancel(job)
            await sites.turn()
            assert (await sites.job(job))["state"] == "CANCELLED"
            assert a.said("submit") == [[job]]

    @script
    async def test_a_refusal_counts(self, thread: Thread) -> None:
        a, b = ScriptedRun(on_submit=REFUSED, records_come=True), ScriptedRun()
        async with rig(thread, a=a, b=b) as sites:
            job = await sites.submit("a,b")
            await sites.turn()
            assert (await sites.job(job))["site"] == "b"


@script
async def test_a_site_that_hangs_is_down_until_it_answers(thread: Thread) -> None:
    a, b = ScriptedRun(hold=threading.Event()), ScriptedRun(on_submit=RUNNING)
    async with rig(thread, hung_s=0.05, a=a, b=b) as sites:
        stuck, goes = await sites.submit("a"), await sites.submit("a,b")
        turn = asyncio.ensure_future(sites.turn("a"))
        while (await sites.job(goes))["site"] != "b":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await sites.turn("b")
        assert (await sites.job(goes))["state"] == "RUNNING"
        assert "it does not answer: status has taken" in (await sites.reasons(stuck))[-1]
        assert a.hold is not None
        a.hold.set()
        await turn
        assert sites.site("a").trouble is None
        assert a.said("submit") == [[stuck]]


@script
async def test_after_a_sleep_what_was_missed_fires_once(thread: Thread) -> None:
    a = ScriptedRun(on_submit=RUNNING)
    async with rig(thread, a=a) as sites:
        jobs = await sites.submit_many(3)
        await sites.turn()
        body = {"kind": "job", "event": {"jobs": jobs, "defn": {"command": "true"}}}
        handler = await sites.writer.write(sites.service.set_handler, body)
        a.answers.update(dict.fromkeys(jobs, COMPLETE))
        await sites.turn()
        await sites.turn()
        await sites.restart()
        await sites.brought()
        await sites.turn()
    assert thread.handler(handler["handler_id"])["fired"] == 1
    assert thread.state(handler["job_ids"][0]) == "PENDING"


@script
async def test_a_site_heals_without_any_job(thread: Thread) -> None:
    """Else who names several sites would pass it by for ever."""
    a, b = ScriptedRun(fail={"status": [SiteError("no route")] * 2}), ScriptedRun()
    async with rig(thread, a=a, b=b) as sites:
        tasks: list[asyncio.Future[None]] = []
        spawn = lambda work: tasks.append(asyncio.ensure_future(work))  # noqa: E731
        polled = PolledSites(sites.turns, sites.calls, sites.limit, sites.bringing, spawn)
        job = await sites.submit("a,b")
        site = sites.sites["a"] = polled._site("a")
        site.health.draw = lambda: 0.0
        polled.submit("a", [item.request for item in sites.effects[-1].requests])
        await asyncio.wait_for(a.until("status", 1), 20)
        polled.try_now("a")
        await asyncio.wait_for(a.until("status", 3), 20)
        assert (await sites.job(job))["site"] == "b"
        assert (len(polled), a.said("submit")) == (0, [])
        while polled.is_down("a"):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()


@script
async def test_where_records_come_some_may_come_after_the_end(thread: Thread) -> None:
    """So such a site is asked for a while after its last job, and no other."""
    a, b = ScriptedRun(records_come=True), ScriptedRun()
    limits = {"a": Limits(poll_s=0.01), "b": Limits(poll_s=0.01)}
    async with rig(thread, limits, a=a, b=b) as sites:
        tasks: list[asyncio.Future[None]] = []
        spawn = lambda work: tasks.append(asyncio.ensure_future(work))  # noqa: E731
        polled = PolledSites(sites.turns, sites.calls, sites.limit, sites.bringing, spawn, listen_s=1.0)
        polled._site("a").records_come = True
        for name in ("a", "b"):
            polled.forget(name, polled._site(name).name)
        await asyncio.wait_for(a.until("status", 2), 20)
        while asyncio.get_running_loop().time() < polled._site("a").listen_until + 0.2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        asked = len(a.said("status"))
        await asyncio.sleep(0.3)
        assert (len(a.said("status")), len(b.said("status")), len(polled)) == (asked, 0, 0)
        assert set(map(tuple, a.said("status"))) == {()}, "it is asked of no job"
        for task in tasks:
            task.cancel()


@script
async def test_one_not_heard_of_for_long_is_asked_first(thread: Thread) -> None:
    a, b = ScriptedRun(), ScriptedRun()
    async with rig(thread, a=a, b=b) as sites:
        await sites.submit("a")
        await sites.turn("a")
        a.answers.clear()
        sites.site("a").backlog.there.clear()
        sites.site("a").heard_at -= 61
        a.fail["status"] = [SiteError("no route")]
        job = await sites.submit("a,b")
        await sites.turn("a")
        assert ((await sites.job(job))["site"], len(a.said("submit"))) == ("b", 1)


@script
async def test_after_a_sleep_the_site_is_asked_at_once(thread: Thread) -> None:
    """Our clock may have stood still meanwhile, and the next question be far."""
    a = ScriptedRun(on_submit=RUNNING)
    async with rig(thread, {"a": Limits(poll_s=10_000.0)}, a=a) as sites:
        tasks: list[asyncio.Future[None]] = []
        clock = [1000.0]
        polled = PolledSites(
            sites.turns, sites.calls, sites.limit, sites.bringing,
            lambda work: tasks.append(asyncio.ensure_future(work)), tick_s=0.001, wall=lambda: clock[0],
        )  # fmt: skip
        job = await sites.submit()
        sites.sites["a"] = polled._site("a")
        polled.submit("a", [item.request for item in sites.effects[-1].requests])
        await asyncio.wait_for(a.until("submit", 1), 20)
        other = await sites.submit()  # that something is to be done is no reason to ask sooner
        polled.submit("a", [item.request for item in sites.effects[-1].requests])
        await asyncio.wait_for(a.until("submit", 2), 20)
        a.answers[job] = a.answers[other] = COMPLETE
        assert a.said("status") == [[]]
        clock[0] += 3600.0
        await asyncio.wait_for(a.until("status", 2), 20)
        await asyncio.wait_for(a.until("output", 2), 20)
        assert (await sites.job(job))["state"] == "COMPLETE"
        for task in tasks:
            task.cancel()


def _statuses(connection: Any, job_id: str) -> Any:
    from lwfm.store import queries

    return queries.statuses(connection, job_id)
