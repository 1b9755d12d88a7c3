"""``doctor``: looks for what is wrong with this installation and instance, and says what to do about it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import __version__, paths
from ..client import Client
from ..client.startup import package_parent
from ..clock import parse_utc
from ..errors import AgentUnreachable, LwfmError
from ..host import filesystems
from . import render
from .groups import example
from .host import FAILURE, OK, WARNING, Finding, examine_file, examine_scheduler, examine_ssh
from .options import json_option
from .session import Session
from .text import harmless, size

if TYPE_CHECKING:
    from ..records import JSON

LITTLE_SPACE_BYTES = 1024**3
CLOCK_TOLERANCE_S = 5.0
WORKER_TIMEOUT_S = 5.0
EARLIEST_YEAR = 2025


@click.command(epilog=example("lwfm doctor", "lwfm doctor --json"))
@json_option
@click.pass_obj
def doctor(session: Session, as_json: bool) -> int:
    """Look for what is wrong here, and say what to do. The exit code is 1 if something is."""
    findings: list[Finding] = []
    for finding in _examine(session):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        render.print_json([asdict(finding) for finding in findings])
    return 1 if any(finding.result == FAILURE for finding in findings) else 0


def _show(finding: Finding) -> None:
    mark = render.coloured_state(finding.result)
    render.say(f"{mark}{' ' * (9 - len(finding.result))}{finding.subject:<10}  {harmless(finding.message)}")
    if finding.advice:
        render.say(f"{'':21}→ {harmless(finding.advice)}")


def _examine(session: Session) -> Iterator[Finding]:
    yield Finding("python", OK, f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}")
    yield Finding("lwfm", OK, f"{__version__}, from {paths.running_archive() or package_parent()}")
    yield from examine_file()
    yield _clock()
    yield from examine_scheduler()
    yield from examine_ssh()
    try:
        home = session.instance
        home.create()
    except LwfmError as error:
        yield Finding("home", FAILURE, error.message, error.hint or "")
        return
    yield from _home(home)
    yield from _agent(session, home)


def _clock() -> Finding:
    now = time.gmtime()
    if now.tm_year < EARLIEST_YEAR:
        return Finding("clock", FAILURE, f"it says the year {now.tm_year}", "set this host's clock")
    return Finding("clock", OK, time.strftime("%Y-%m-%dT%H:%M:%SZ", now))


def _home(home: paths.Home) -> Iterator[Finding]:
    try:
        with tempfile.NamedTemporaryFile(dir=home.root, prefix=".doctor-") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
            skew_s = os.fstat(probe.fileno()).st_mtime - time.time()
    except OSError as error:
        yield Finding("home", FAILURE, f"cannot write to {home.root}: {error.strerror}", "make room, or set LWFM_HOME")
        return
    yield Finding("home", OK, f"{home.root}, writable")
    kind = filesystems.filesystem_type(home.root)
    shared = filesystems.is_shared(home.root)
    yield Finding("files", OK, f"file system {kind or 'unknown'}" + (", seen by other hosts" if shared else ""))
    if abs(skew_s) > CLOCK_TOLERANCE_S:
        message = f"the file server's clock is {skew_s:+.0f} s from this host's"
        yield Finding("clock", WARNING, message, "have both set by NTP")
    room = os.statvfs(home.root)
    free = room.f_bavail * room.f_frsize
    advice = "make room: the store stops accepting jobs when the disk is full" if free < LITTLE_SPACE_BYTES else ""
    yield Finding("space", WARNING if advice else OK, f"{size(free)} free", advice)


def _agent(session: Session, home: paths.Home) -> Iterator[Finding]:
    endpoint = session.endpoint
    ran = True
    try:
        try:
            found = _ask(Client(replace(endpoint, may_start=False)))
        except AgentUnreachable:
            if not endpoint.may_start:
                raise
            ran = False
            found = _with_worker(session.client)
    except LwfmError as error:
        yield Finding("agent", FAILURE, error.message, error.hint or f"see {home.agent_log}")
        return
    how = "runs" if ran else "did not run; started now"
    yield Finding("agent", OK, f"{how}: pid {found['pid']} on {found.get('host', '?')}")
    yield _version(found)
    yield from _socket(endpoint.socket)
    yield _journal(found, home)
    for trouble in found.get("troubles") or ():
        yield Finding("agent", FAILURE, f"{trouble['about']}: {trouble['message']}", str(trouble.get("hint") or ""))
    yield from _workers(found)
    yield from _agent_clock(found)


def _ask(client: Client) -> JSON:
    try:
        answer: JSON = client.get("/v1/agent")
        return answer
    finally:
        client.close()


def _with_worker(client: Client) -> JSON:
    """What an agent that has just been started says, once its worker is there (or should be)."""
    deadline = time.monotonic() + WORKER_TIMEOUT_S
    while True:
        found = _ask(client)
        if found.get("workers") or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _version(found: JSON) -> Finding:
    theirs = str(found.get("version"))
    if theirs == __version__:
        return Finding("version", OK, f"the agent's is ours, {theirs}")
    advice = "restart it when nothing is lost by that: lwfm agent stop; jobs go on meanwhile"
    return Finding("version", WARNING, f"the agent is version {theirs}, this is {__version__}", advice)


def _socket(path: Path) -> Iterator[Finding]:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("socket", FAILURE, f"{path} can be used by others (mode {mode:o})", f"chmod 600 {path}")
    else:
        yield Finding("socket", OK, f"{path}, only yours")


def _journal(found: JSON, home: paths.Home) -> Finding:
    mode = str(found.get("journal_mode", "unknown")).lower()
    if mode == "wal" and filesystems.is_shared(home.root):
        return Finding("store", FAILURE, "write-ahead log on a shared file system", "stop the agent; report this")
    return Finding("store", OK, f"{found.get('store')}, journal mode {mode}")


def _workers(found: JSON) -> Iterator[Finding]:
    workers = found.get("workers") or []
    if not workers:
        yield Finding("worker", WARNING, "none yet", "jobs wait until one is there; lwfm agent logs")
    for worker in workers:
        message = f"{worker.get('host')}: {worker.get('cores')} cores, {size(worker.get('memory_bytes'))}"
        gpus = f", {worker['gpus']} GPUs" if worker.get("gpus") else ""
        if worker.get("trouble"):
            yield Finding(
                "worker", FAILURE, f"{worker.get('host')} starts no jobs: {worker['trouble']}", "make room there"
            )
        else:
            yield Finding("worker", OK, message + gpus)


def _agent_clock(found: JSON) -> Iterator[Finding]:
    try:
        ahead_s = parse_utc(str(found.get("started_at"))) - time.time()
    except ValueError:
        return
    if ahead_s > CLOCK_TOLERANCE_S:
        message = f"the agent was started {ahead_s:.0f} s in the future"
        yield Finding("clock", WARNING, message, "the clock was set back; times of records may be out of order")
