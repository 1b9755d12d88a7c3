"""The allocation of a job of Grid Engine, as sge_submit(1), sge_pe(5) and qstat(1) tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from ...errors import ConfigError
from .model import Allocation, Ask, NodeShare, Read
from .parts import check_host, first_set, read_named, whole_number

_LIMITS = ("h_rt", "s_rt")
"""How long a job may run: at the one it is killed, at the other it gets a signal that ends who does not expect it."""


def find(environment: Mapping[str, str], read: Read, ask: Ask, _now: float) -> Optional[Allocation]:
    """Grid Engine. ``JOB_ID`` is too common a name to count alone: ``SGE_TASK_ID`` is in every job, array or not."""
    job, task = environment.get("JOB_ID"), environment.get("SGE_TASK_ID")
    if not job or not (task or environment.get("PE_HOSTFILE")):
        return None
    index = "" if task in (None, "", "undefined") else task
    nodes = _nodes(environment, read)
    # The script runs on the first of the nodes.
    ends_at = _end(job, index or "1", environment.get("QUEUE"), nodes[0].host, ask)
    return Allocation("sge", f"{job}.{index}" if index else job, nodes, ends_at)


def _nodes(environment: Mapping[str, str], read: Read) -> tuple[NodeShare, ...]:
    name = "PE_HOSTFILE"
    if not environment.get(name):  # no parallel environment: one host
        if (whole_number(environment, "NHOSTS") or 1) > 1:
            raise ConfigError(f"NHOSTS is {environment['NHOSTS']}, but {name} is not set")
        host = check_host(environment[first_set(environment, "HOSTNAME", told="JOB_ID")], "HOSTNAME")
        return (NodeShare(host, cores=whole_number(environment, "NSLOTS")),)
    slots: dict[str, int] = {}
    for line in read_named(environment, name, read).splitlines():
        words = line.split()  # host slots queue binding; a host has a line for each queue
        if not words:
            continue
        if len(words) < 2 or not re.fullmatch(r"\d{1,9}", words[1], re.ASCII):
            raise ConfigError(
                f"{name}: the file has the line {line.strip()[:200]!r}, where a host and its slots must be"
            )
        host = check_host(words[0], name)
        slots[host] = slots.get(host, 0) + int(words[1])
    if not slots:
        raise ConfigError(f"{name}: the file {environment[name]} names no host")
    return tuple(NodeShare(host, cores=count) for host, count in slots.items())


def _end(job: str, task: str, queue: Optional[str], host: str, ask: Ask) -> Optional[float]:
    """When the job is ended: its start and the shortest of the limits that it asked for and that its queue has.

    A node may ask only where it is a submit or administrative host, which the sites decide. Then the end is unknown.
    """
    try:
        told = ask(["qstat", "-xml", "-j", job])
        started = _start(told, task)
        limits = _requested(told)
        if queue and started is not None:
            limits += _of_queue(ask(["qstat", "-xml", "-F", ",".join(_LIMITS), "-q", f"{queue}@{host}"]))
    except OSError:
        return None
    return started + min(limits) if started is not None and limits else None


# What is told is picked out of the text: that it is well-formed depends on what the users named their jobs and variables.


def _start(told: str, task: str) -> Optional[float]:
    """Seconds since the epoch. A longer number is in another unit, as descendants of Grid Engine have it: not known."""
    for number, rest in re.findall(r"<JAT_task_number>(\d+)<(.*?)(?=<JAT_task_number>|\Z)", told, re.DOTALL):
        found = re.search(r"<JAT_start_time>([1-9]\d{8,9})<", rest)
        if number == task and found:
            return float(found[1])
    return None


def _requested(told: str) -> list[float]:
    """The seconds that the job asked for, of those requests that bind (not ``-soft``)."""
    section = re.search(r"<JB_hard_resource_list>(.*?)</JB_hard_resource_list>", told, re.DOTALL)
    requests = re.split(r"<CE_name>", section[1]) if section else []
    found = []
    for request in requests:
        seconds = re.search(r"<CE_doubleval>(\d{1,12}(?:\.\d+)?)<", request)
        if request.partition("<")[0] in _LIMITS and seconds:
            found.append(float(seconds[1]))
    return found


def _of_queue(told: str) -> list[float]:
    """The seconds that the queue allows on that host."""
    texts = re.findall(r'<resource name="(?:h|s)_rt"[^>]*>([\d:.]+)<', told)
    return [seconds for seconds in map(_seconds, texts) if seconds is not None]


def _seconds(text: str) -> Optional[float]:
    """``04:00:00``, ``4::`` or ``14400`` in seconds (sge_types(1), time_specifier)."""
    if not re.fullmatch(r"(?=.*\d)(?:\d{0,9}:\d{0,9}:)?\d{0,12}(?:\.\d+)?", text, re.ASCII):
        return None
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part or 0)
    return seconds
