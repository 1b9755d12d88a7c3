"""Where the jobs of a submission go: what their sites think of them is found out before anything is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from ..config import LOCAL_SITE
from ..errors import LwfmError
from ..models import JobDefn
from ..placing.candidates import Placement, candidates_of
from ..sites.process import ProcessRun
from ..sites.registry import called
from .sites import Sites

JUDGE_S = 240.0
"""So long a driver may take, which may have to be started, and its environment made, before: somebody waits for the answer."""


async def place(sites: Sites, site: Any, definitions: Sequence[JobDefn]) -> list[Placement]:
    """Where the jobs of a submission go; ``site``: what is asked for those that name none.

    Raises:
        InvalidRecord: what names the sites is malformed. UnknownSite: one of them does not exist. Else what they raise.
    """
    placing = sites.placing()
    parsed: dict[str, tuple[str, ...]] = {}
    placements = []
    for defn in definitions:
        given = defn.extra.get("site") or defn.extra.get("sites") or site or LOCAL_SITE
        key = given if isinstance(given, str) else repr(given)
        if key not in parsed:
            parsed[key] = candidates_of(given)
            for name in parsed[key]:
                sites.current().limits(name)  # that one of several exists excuses no mistake in another
        for name in placing.unjudged(parsed[key], defn):
            placing.judge(name, defn, await _refusal(sites, name, defn))
        placements.append(placing.place(parsed[key], defn))
    return placements


async def _refusal(sites: Sites, site: str, defn: JobDefn) -> Optional[LwfmError]:
    """Why a site refuses a job; only a driver in a process of its own is waited for, while the event loop goes on."""
    try:
        run = await sites.pillar(site, "run")
        if "/" in site:
            return None  # it is judged where it leads to
        if isinstance(run, ProcessRun):
            await sites.call(site, run.check, defn, run_s=JUDGE_S)
        else:
            called(site, run.check, defn)
    except LwfmError as error:
        return error
    return None
