"""Trying a site: each pillar once, within a time, and what came of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from ..data.files import checksum
from ..errors import LwfmError, NotSupported, SiteError
from ..instance import Instance
from ..instance.placement import place
from ..models import JobDefn
from ..sites.base import Auth, Repo, Run, Spin
from ..sites.registry import called
from ..states import JobState
from ..store import queries
from .call import JSON
from .cancelling import end_jobs
from .waiting import until_ended

TIMEOUT_S = 60.0
CHECK_BYTES = 4096


async def check_site(
    instance: Instance, name: str, pillars: Sequence[str], timeout_s: float, submission: Optional[JSON]
) -> JSON:
    """Try the pillars of a site, one after the other.

    Args:
        instance: whose site. ``name``: of the site. ``pillars``: which. ``timeout_s``: for each of them.
        submission: run a small job too, submitted as by this body of a call; None: do not.

    Returns:
        ``{name, checks: [{pillar, ok, offered, seconds, message}…]}``.

    Raises:
        LwfmError: there is no such site, or its driver cannot be made.
    """
    sites = instance.sites.current()
    await asyncio.to_thread(called, name, lambda: sites.start(name, at_once=True))
    offered = sites.describe(name)["pillars"]
    tries: dict[str, Callable[..., Awaitable[str]]] = {"auth": _auth, "run": _run, "repo": _repo, "spin": _spin}
    checks: list[JSON] = []
    for pillar in pillars:
        if pillar not in offered:
            checks.append({"pillar": pillar, "ok": True, "offered": False, "seconds": 0.0, "message": "not offered"})
        else:
            found: Any = sites.pillar(name, pillar)
            checks.append(await _timed(pillar, timeout_s, tries[pillar](instance, name, found, timeout_s)))
    if submission is not None and "run" in offered:
        checks.append(await _timed("run a job", timeout_s, _job(instance, name, submission, timeout_s)))
    if all(check["ok"] for check in checks):
        instance.sites.polled.try_now(name)
    return {"name": name, "checks": checks}


async def _timed(pillar: str, timeout_s: float, trying: Awaitable[str]) -> JSON:
    began = time.monotonic()
    try:
        ok, message = True, await asyncio.wait_for(trying, timeout_s + 1.0)
    except asyncio.TimeoutError:
        ok, message = False, f"took longer than {timeout_s:.0f} s"
    except LwfmError as error:
        ok, message = False, error.message
    return {"pillar": pillar, "ok": ok, "offered": True, "seconds": time.monotonic() - began, "message": message}


def _caller(instance: Instance, name: str, timeout_s: float) -> Callable[..., Awaitable[Any]]:
    """Calls the site's driver within what is left of the time."""
    until = time.monotonic() + timeout_s

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        left_s = max(0.1, until - time.monotonic())
        return await instance.sites.call(name, function, *arguments, wait_s=left_s, run_s=left_s)

    return call


async def _auth(instance: Instance, name: str, auth: Auth, timeout_s: float) -> str:
    if not await _caller(instance, name, timeout_s)(auth.is_auth_current):
        raise SiteError(f"a login is needed: lwfm site login {name}")
    return "logged in"


async def _run(instance: Instance, name: str, run: Run, timeout_s: float) -> str:
    call = _caller(instance, name, timeout_s)
    await call(run.check, JobDefn(["true"]))
    if not run.reports_itself:
        await call(run.status, [])
    return "takes jobs"


async def _repo(instance: Instance, name: str, repo: Repo, timeout_s: float) -> str:
    """Put a small file, get it back, compare, remove."""
    call = _caller(instance, name, timeout_s)
    with tempfile.TemporaryDirectory(prefix="lwfm-check-") as directory:
        here, back = Path(directory) / "sent", Path(directory) / "back"
        here.write_bytes(os.urandom(CHECK_BYTES))
        sent = checksum(here)
        stored = await call(repo.put, here, f".lwfm-check-{instance.store.origin[:8]}", {})
        try:
            if stored.sha256 not in (None, sent):
                raise SiteError(f"what was put has another checksum there: {stored.path}")
            await call(repo.get, stored, back)
            if checksum(back) != sent:
                raise SiteError(f"what came back is not what was put: {stored.path}")
        finally:
            left = ""
            try:
                await call(repo.remove, stored)
            except NotSupported:
                left = f"; {stored.path} is left there"
    return f"keeps and gives back {CHECK_BYTES} bytes{left}"


async def _spin(instance: Instance, name: str, spin: Spin, timeout_s: float) -> str:
    count = len(await _caller(instance, name, timeout_s)(spin.list))
    return f"{count} resource{'' if count == 1 else 's'}"


async def _job(instance: Instance, name: str, submission: JSON, timeout_s: float) -> str:
    """Run a small job as any other; one that does not end in time is cancelled."""
    defn = JobDefn(["true"], name="lwfm-site-check")
    placements = await place(instance.sites, name, [defn])
    body = {"context": submission.get("context"), "site": name}
    answer = await instance.writer.write(instance.service.submit, body, [defn], placements)
    job_id = answer["jobs"][0]["job_id"]
    await until_ended(instance, [job_id], timeout_s)
    job = await instance.writer.read(queries.job, job_id)
    state = JobState(job["state"])
    if state is JobState.COMPLETE:
        return f"job {job_id} is COMPLETE"
    if not state.terminal:
        await end_jobs(instance, [job_id], "the check took too long")
        raise SiteError(f"job {job_id} is {state} after {timeout_s:.0f} s: {job.get('reason') or 'no reason known'}")
    raise SiteError(f"job {job_id} is {state}: {job.get('reason') or 'no reason known'}")
