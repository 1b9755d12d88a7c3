"""Jobs of a batch scheduler: accepted or refused, handed over, cancelled, their output read.

A job is written down before it is handed over (:mod:`.ledger`), runs by a script that leaves an exit record
(:mod:`.script`), and is followed by that and by what the scheduler says (:mod:`.following`). Like jobs that come together
are one submission: an array.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ... import faultpoints
from ...errors import InvalidRecord, LwfmError, ResourcesImpossible, SiteError
from ...models import JobDefn, Resources
from ...paths import user_name
from ...states import JobState
from ..base import JobRequest, Observation, Run
from .commands import BatchCommands
from .following import Following
from .ledger import Ledger
from .request import BatchRequest, job_request
from .scheduler import Partition
from .script import job_script, submitted_script

LARGEST_ARRAY = 1000
"""Jobs in one submission, unless the site says otherwise or the scheduler allows fewer."""
GRACE_S = 30.0
"""So long after its end a job's exit record may take to be seen here."""
SETTLE_S = 15.0
"""A submission that was not answered may take so long to appear in the queue."""
RESOURCES_FRESH_S = 600.0
"""What the scheduler has is asked for again after this long."""
_logger = logging.getLogger(__name__)


class BatchRun(Run):
    """Jobs of a batch scheduler.

    Args:
        commands: the scheduler. ``ledger``: what was handed to it. ``defaults``: options of jobs that do not give them.
        array_max: jobs in one submission. ``grace_s``: how late exit records may be seen here.
    """

    def __init__(
        self,
        commands: BatchCommands,
        ledger: Ledger,
        defaults: Mapping[str, Any],
        array_max: int = LARGEST_ARRAY,
        grace_s: float = GRACE_S,
    ):
        self._commands = commands
        self._scheduler = commands.scheduler
        self._ledger = ledger
        self._defaults = defaults
        self._array_max = array_max
        self._following = Following(commands, ledger, grace_s)
        self._lock = threading.Lock()
        self._partitions: Sequence[Partition] = ()
        self._partitions_at = -math.inf

    # ------------------------------------------------------------------------------------------ accepted or refused

    def check(self, defn: JobDefn) -> None:
        """Refuse what no partition could ever give, as far as they are known by now, and options that make no sense."""
        request = self._request(defn)
        if defn.resources.labels:
            raise InvalidRecord(
                "a batch site knows no labels of nodes",
                hint="say it in the scheduler's words, as option=--constraint=…",
            )
        named = request.partition.split(",") if request.partition else None
        partitions = [one for one in self._partitions if named is None or one.name in named]
        if partitions and not any(_fits(request, one) for one in partitions):
            limit = "" if math.isinf(request.time_s) else f", {request.time_s:.0f} s"
            asked = f"{request.nodes} nodes with {request.cores} cores, {request.memory_bytes or 0} bytes of memory,"
            raise ResourcesImpossible(
                f"no partition has {asked} {request.gpus or 0} GPUs each{limit}",
                hint="there are " + "; ".join(map(_described, partitions[:5])),
            )

    def know(self, partitions: Sequence[Partition]) -> None:
        """What the scheduler has, as it has just said."""
        self._partitions, self._partitions_at = partitions, time.monotonic()

    def _look_around(self) -> None:
        if time.monotonic() - self._partitions_at < RESOURCES_FRESH_S:
            return
        self._partitions_at = time.monotonic()
        try:
            self.know(self._commands.resources()[0])
            largest = self._commands.largest_array()
            if largest is not None:
                self._array_max = min(self._array_max, largest)
        except LwfmError as error:
            _logger.info("what %s has is not known: %s", self._scheduler.name, error)

    # ------------------------------------------------------------------------------------------ handed over

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Hand jobs to the scheduler, like ones as one array. What may have been handed over before is looked for first."""
        with self._lock:
            distinct = {(request.job_id, request.attempt): request for request in requests}.values()
            known = [one for one in distinct if self._ledger.is_known(one.job_id, one.attempt)]
            said = self._following.ask([one.job_id for one in known]) if known else {}
            errors: list[SiteError] = []
            new = [one for one in distinct if one not in known]
            for one in known:
                entry = self._ledger.entry(one.job_id)
                if one.job_id in said or entry is None or entry.submission.native is not None:
                    continue
                if time.time() - entry.submission.created_at < SETTLE_S:
                    doubt = f"it is not known yet whether {self._scheduler.name} has taken it"
                    errors = errors or [SiteError(doubt, transient=True)]
                else:
                    new.append(one)  # should the first one come all the same: only one of the two claims the job
            if new:
                self._look_around()
            for like in self._grouped(new):
                try:
                    said.update(self._hand_over(like))
                except SiteError as error:
                    errors.append(error)
            if errors and not said:
                raise errors[0]
            for trouble in errors:
                _logger.warning("%s: %s", self._scheduler.name, trouble)
            return said

    def _grouped(self, requests: Sequence[JobRequest]) -> list[list[JobRequest]]:
        """Those that can be one array, in order."""
        groups: dict[str, list[JobRequest]] = {}
        for request in requests:
            defn = request.defn
            told = defn.resources.to_json(), dict(defn.options), defn.grace_s
            groups.setdefault(json.dumps(told, sort_keys=True, default=str), []).append(request)
        size = self._array_max
        return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]

    def _hand_over(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """One submission.

        Raises:
            SiteError: it was not taken; ``transient``: it is not known whether it was.
        """
        is_array = len(requests) > 1
        submission = self._ledger.begin(requests, is_array=is_array)
        faultpoints.hit("batch.begun")
        path = str(self._ledger.script_path(submission))
        jobs = str(self._ledger.jobs_directory)
        self._ledger.write_script(
            submission, job_script(requests, jobs, path, self._scheduler.words, os.uname().nodename)
        )
        names = {request.defn.name for request in requests}
        name = names.pop() if len(names) == 1 else "lwfm"
        try:
            request = self._request(requests[0].defn, name, submission.mark, len(requests) if is_array else 0)
            output, directory = str(self._ledger.output_path(submission)), str(self._ledger.directory)
            native = self._commands.submit(request, submitted_script(path), output, directory, bare=True)
        except SiteError as error:
            if error.transient:
                raise
            self._ledger.drop(submission)
            if not self._scheduler.is_refusal(error.message):
                raise
            return {one.job_id: Observation(JobState.FAILED, "refused", None, error.message) for one in requests}
        except InvalidRecord as error:
            self._ledger.drop(submission)
            return {one.job_id: Observation(JobState.FAILED, "refused", None, error.message) for one in requests}
        faultpoints.hit("batch.submitted")
        self._ledger.taken(submission, native)
        return {
            one.job_id: Observation(JobState.PENDING, "submitted", self._following.id_in(submission, number))
            for number, one in enumerate(requests, 1)
        }

    def _request(self, defn: JobDefn, name: str = "lwfm", mark: str = "", elements: int = 0) -> BatchRequest:
        """What the scheduler is asked for, so that the job gets what it would get in an allocation.

        Raises:
            InvalidRecord: its options make no sense.
        """
        asked: Resources = defn.resources
        tasks = asked.tasks_per_node or 1
        request = BatchRequest(
            nodes=asked.nodes or 1,
            time_s=math.inf if asked.time_limit_s is None else asked.time_limit_s,
            mark=mark,
            name=re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:64].lstrip("-") or "lwfm",
            cores=max(1, tasks if asked.cores is None else asked.cores),
            gpus=asked.gpus,
            memory_bytes=asked.memory_bytes,
            tasks_per_node=tasks,
            elements=elements,
            survives=False,
        )
        given = {**self._defaults, **defn.options}
        if "option" in self._defaults and "option" in defn.options:
            given["option"] = [*_listed(self._defaults["option"]), *_listed(defn.options["option"])]
        request = job_request(self._scheduler.keys, given, request)
        self._scheduler.submit(request, "", "", "/")  # refuses what cannot be said in its words
        return request

    # ------------------------------------------------------------------------------------------ asked, ended, read

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """What is known of jobs, by one question for all of the user's, and by the exit records of those that are not at work."""
        with self._lock:
            return self._following.ask(job_ids)

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """End a job; one that the scheduler has not started stands down, even if it is not known whether it has it."""
        with self._lock:
            entry = self._ledger.entry(job_id)
            if entry is None or entry.attempt > attempt:
                return
            self._ledger.ask_cancel(job_id, entry.attempt)
            if entry.submission.native is None:
                self._following.settle([entry], self._commands.jobs(user_name()))
            natives = {entry.claimed_by, self._following.id_in(entry.submission, entry.number)} - {None}
            if natives:
                self._commands.cancel(sorted(str(native) for native in natives))

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of the file that the job writes."""
        self._ledger.refresh([job_id])
        try:
            with self._ledger.output_file(job_id, stream).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise SiteError(f"the output of {job_id} cannot be read: {error.strerror}") from error

    def homes(self, job_id: str) -> Sequence[str]:
        """Those of the attempts that have called lwfm."""
        self._ledger.refresh([job_id])
        return self._ledger.homes(job_id)


def _listed(option: Any) -> list[Any]:
    return [option] if isinstance(option, str) else list(option)


def _fits(request: BatchRequest, partition: Partition) -> bool:
    """Whether a partition could ever run it; what is not told of it is no obstacle."""
    asked_and_had = (
        (request.nodes, partition.nodes or None),
        (request.cores, partition.node_cores),
        (request.memory_bytes, partition.node_memory_bytes),
        (request.gpus, partition.node_gpus),
        (None if math.isinf(request.time_s) else request.time_s, partition.time_limit_s),
    )
    return all(asked is None or had is None or asked <= had for asked, had in asked_and_had)


def _described(partition: Partition) -> str:
    limit = "" if partition.time_limit_s is None else f", {partition.time_limit_s:.0f} s"
    memory = partition.node_memory_bytes or 0
    return f"{partition.name}: {partition.nodes} nodes with {partition.node_cores} cores, {memory} bytes{limit}"
