"""What can be done to jobs: they are submitted, run for others or by others, told of, and cancelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..clock import utc_now
from ..errors import Conflict, InvalidRecord
from ..ids import new_id
from ..models import JobDefn
from ..placing.candidates import Placement
from ..records import JSON, check_facts, without_none
from ..states import JobState, parse_state
from ..store import origins, queries
from ..store.columns import FACTS, command_line
from .bodies import Adopted, checked_id, occurrence_of
from .commands import Caller, Commands
from .recorder import JobNow, Recorder


class JobCommands(Commands):
    """The commands on jobs."""

    def submit(
        self,
        recorder: Recorder,
        body: Mapping[str, Any],
        definitions: Sequence[JobDefn],
        placements: Sequence[Placement] = (),
    ) -> JSON:
        """Record new jobs, PENDING at their sites. A definition whose ``job_id`` is known already is not recorded again.

        Args:
            recorder: the unit of work. ``body``: of the call. ``definitions``: what it says under ``jobs``.
            placements: where each goes; without them, to the site that is named.
        """
        caller = self._caller(recorder, body)
        default_site = str(body.get("site") or "local")
        earlier = self._earlier_runs(recorder, body, caller.parent)
        answers = []
        given = [checked_id(defn.extra["job_id"]) for defn in definitions if defn.extra.get("job_id") is not None]
        known = recorder.transaction.find_jobs(given)
        for index, defn in enumerate(definitions):
            job_id = defn.extra.get("job_id")
            if job_id is not None:
                if job_id in known:
                    answers.append(queries.job(recorder.transaction.connection, job_id))
                    continue
                known.add(job_id)
            place = placements[index] if placements else Placement(str(defn.extra.get("site") or default_site))
            if earlier is not None and "occurrence" in defn.extra:
                wanted = self._sealed(defn, "", caller.cwd, place.sites)
                made = earlier.job(place.site, wanted, occurrence_of(defn.extra))
                if made is not None:
                    answers.append(queries.job(recorder.transaction.connection, made))
                    continue
            answers.append(self._new_job(recorder, defn, place, caller, job_id or new_id()))
        return {"jobs": answers}

    def attach(self, recorder: Recorder, body: Mapping[str, Any]) -> JSON:
        """Record a job that the caller executes itself: RUNNING, its process one that we watch but did not start."""
        caller = self._caller(recorder, body)
        defn = JobDefn.from_json(body.get("definition"))
        given = defn.extra.get("job_id")
        if given is not None and recorder.job_now(checked_id(given)) is not None:
            return queries.job(recorder.transaction.connection, given)
        job_id = given or new_id()
        place = Placement(str(body.get("site") or "local"))
        recorder.record_job(self._job_body(defn, place, caller, JobState.READY, job_id), job_id, defn)
        facts: JSON = {"host": caller.host, "native_id": str(body.get("pid")), "native_status": "attached"}
        job = recorder.active_job(job_id)
        recorder.record_status(job, JobState.RUNNING, started_at=utc_now(), **facts)
        return queries.job(recorder.transaction.connection, job_id)

    def adopt(self, recorder: Recorder, origin: str, jobs: Sequence[Adopted]) -> JSON:
        """Take over jobs of another instance, to run them here; one that was taken over before is not run again.

        Raises:
            Conflict: there is a job of that id here which is not that instance's.
        """
        answers = []
        recorder.transaction.find_jobs([job.job_id for job in jobs])
        for job in jobs:
            known = recorder.job_now(job.job_id)
            beside = {"variables": dict(job.variables), "environment": dict(job.environment)}
            if known is not None and known.origin != origin:
                raise Conflict(f"there is a job {job.job_id} here already, and it is no job of the instance that asks")
            if known is None or not known.adopted:
                body: JSON = {"site": job.site, "workflow_id": job.workflow_id, "workflow_name": job.workflow_name}
                body["parent_id"] = job.parent_id
                body["definition"] = self._sealed(job.defn, job.job_id, None)
                recorder.adopt(job.job_id, origin, without_none(body), beside)
            now = recorder.job_now(job.job_id)
            if now is not None and job.attempt > now.attempt:
                recorder.adopt_again(now, job.attempt, self._sealed(job.defn, job.job_id, None), beside)
                now = recorder.job_now(job.job_id)
            answers.append({"job_id": job.job_id, "state": now.state.value if now else "UNKNOWN"})
        return {"jobs": answers}

    def hand_over(self, recorder: Recorder, jobs: Sequence[tuple[str, int]], runner: str, host: str) -> JSON:
        """Record which instance runs attempts of jobs of ours from now on, before it hears of them.

        Returns:
            As ``withheld`` those that have ended, that another one may have, or that are not ours to hand over, and as
            ``workflows`` the names of the others' workflows, by id.
        """
        withheld, workflows = [], set()
        recorder.transaction.find_jobs([job_id for job_id, _ in jobs])
        for job_id, attempt in jobs:
            job = recorder.job_now(job_id)
            if job is None:
                continue  # there is nothing to record, and nothing against it
            ended = job.state.terminal and job.attempt >= attempt
            if ended or job.state is JobState.UNKNOWN or job.origin != recorder.transaction.origin:
                withheld.append(job_id)
                continue
            if job.runner != runner:
                reason = f"handed to the instance on {host}"
                state = JobState.PENDING if job.state.terminal else job.state
                recorder.record_status(job, state, attempt=max(attempt, job.attempt), reason=reason, runner=runner)
            workflows.add(job.workflow_id)
        names = {each: queries.workflow(recorder.transaction.connection, each)["name"] for each in workflows if each}
        return {"withheld": withheld, "workflows": names}

    def emit_status(self, recorder: Recorder, job_id: str, body: Mapping[str, Any]) -> JSON:
        """Record a status that somebody tells of a job."""
        connection = recorder.transaction.connection
        job = recorder.active_job(queries.resolve(connection, "job", job_id))
        state = parse_state(body.get("state"))
        if state in (JobState.READY, JobState.PENDING):
            raise InvalidRecord(
                f"{state} cannot be emitted: it would have the job run again", hint="submit a new job instead"
            )
        if job.state in (JobState.READY, JobState.PENDING) and not (state.terminal or state is JobState.INFO):
            raise Conflict(
                f"job {job.job_id} has not been started: {job.state}", hint="it tells its states when it runs"
            )
        facts = {key: value for key, value in body.items() if key in FACTS or key in ("reason", "native_status")}
        check_facts(facts)
        recorder.record_status(job, state, **facts)
        return queries.job(connection, job.job_id)

    def cancel(self, recorder: Recorder, job_id: str, reason: str, *, placed: bool) -> Optional[JobNow]:
        """Record that a job shall end.

        Args:
            recorder: the unit of work.
            job_id: the job. ``reason``: why.
            placed: whether a site has it; then it is FINISHING until the site says that it has ended.

        Returns:
            The job as it was, if its site is to be told; None otherwise.

        Raises:
            Conflict: it is another instance's, and has not ended as far as is known.
        """
        job = recorder.job_now(job_id)
        if job is None or job.state.terminal:
            return None
        if not recorder.is_ours(job):
            raise origins.refusal(recorder.transaction.connection, f"job {job_id}", job.origin, "cancel it there")
        if job.state is JobState.READY or not placed:
            recorder.record_status(job, JobState.CANCELLED, reason=reason)
            return None
        if job.state is not JobState.FINISHING:
            recorder.record_status(job, JobState.FINISHING, reason=reason, native_status="cancel requested")
        return job

    def _new_job(self, recorder: Recorder, defn: JobDefn, place: Placement, caller: Caller, job_id: str) -> JSON:
        """Record a new job; what is known of it, without asking the store."""
        body = self._job_body(defn, place, caller, JobState.PENDING, job_id)
        record = recorder.record_job(body, job_id, defn)
        answer = {
            "job_id": job_id, "state": "PENDING", "site": place.site, "name": defn.name, "attempt": 1,
            "submitted_at": record.wall_utc, "command": command_line(body["definition"]["command"]),
        }  # fmt: skip
        for name in ("workflow_id", "parent_id", "reason"):
            if name in body:
                answer[name] = body[name]
        return answer

    def _job_body(self, defn: JobDefn, place: Placement, caller: Caller, state: JobState, job_id: str) -> JSON:
        body: JSON = {"state": state.value, "site": place.site}
        if place.reason:
            body["reason"] = place.reason
        if caller.workflow:
            body["workflow_id"] = caller.workflow
        if caller.parent:
            body["parent_id"] = caller.parent
        body["context_id"] = caller.context_id
        body["definition"] = self._sealed(defn, job_id, caller.cwd, place.sites)
        return body
