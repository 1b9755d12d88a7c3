"""What becomes of a job, and the job that a process finds itself in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ..records import JSON, Record, set_field
from ..states import JobState, parse_state


@dataclass(frozen=True)
class JobStatus(Record):
    """Where a job stands, and all that is known of how it went. The same for every site.

    Times are UTC ISO-8601 text with microseconds; None where the thing has not happened or cannot be known.

    Args:
        job_id: the job.
        state: its canonical state.
        attempt: which attempt this is about, from 1.
        reason: why it is in this state, for a person to read.
        native_status: the site's own word for the state.
        native_id: the site's own id of the job; on a node ``pid``.
        name, command, site, workflow_id, parent_id: as it was submitted.
        origin: the instance that recorded the job; ``origin_host`` the host of it. ``elsewhere``: how people call that instance;
            None when it is the one that was asked.
        submitted_at, started_at, ended_at: of the current attempt, except the first.
        time: when this state was recorded.
        host: the node it runs on, of several the first. ``allocation``: the batch allocation of that node.
        hosts: all its nodes where it has several, folded as ``n[1-4]``.
        exit_code: of the process; None when it was ended by a signal. ``signal``: that signal's name, as ``SIGKILL``.
        cpu_seconds: user and system time of the process and its descendants.
        peak_rss_bytes: largest resident memory seen of the process tree.
        read_bytes, write_bytes: moved to and from storage.
        stdout_bytes, stderr_bytes: how much it printed.
        cores: how many it asked for of each node; None: one, free to roam.
        meta: the job's properties.
    """

    job_id: str
    state: JobState
    attempt: int = 1
    reason: Optional[str] = None
    native_status: Optional[str] = None
    native_id: Optional[str] = None
    name: str = ""
    command: str = ""
    site: str = "local"
    workflow_id: Optional[str] = None
    parent_id: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    submitted_at: Optional[str] = None
    started_at: Optional[str] = None
    ended_at: Optional[str] = None
    time: Optional[str] = None
    host: Optional[str] = None
    hosts: Optional[str] = None
    allocation: Optional[str] = None
    exit_code: Optional[int] = None
    signal: Optional[str] = None
    cpu_seconds: Optional[float] = None
    peak_rss_bytes: Optional[int] = None
    read_bytes: Optional[int] = None
    write_bytes: Optional[int] = None
    stdout_bytes: Optional[int] = None
    stderr_bytes: Optional[int] = None
    cores: Optional[int] = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field(self, "state", parse_state(self.state))

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state.terminal


@dataclass(frozen=True)
class JobContext(Record):
    """Where a process finds itself: the job and the workflow it is part of, as its environment tells.

    Args:
        job_id: the job this process belongs to; None outside any job.
        workflow_id: the workflow of that job.
        attempt: which attempt of the job.
        trigger_job: the job whose state fired this job. ``trigger_data``: the metasheet that fired it.
        trigger_path: the path of that data. ``trigger_properties``: its properties.
    """

    job_id: Optional[str] = None
    workflow_id: Optional[str] = None
    attempt: int = 1
    trigger_job: Optional[str] = None
    trigger_data: Optional[str] = None
    trigger_path: Optional[str] = None
    trigger_properties: Mapping[str, Any] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)
