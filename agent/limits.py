"""How much is asked of a site: the keys of its section in ``sites.toml`` that are lwfm's, whatever drives it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .errors import ConfigError

KEYS = ("max_jobs", "poll_s", "submit_batch")
FASTEST_POLL_S = 1.0
SUBMIT_BATCH = 1000


@dataclass(frozen=True)
class Limits:
    """What a site is spared.

    Args:
        max_jobs: so many jobs may be with it at once, the rest wait in the agent; None: any number.
        poll_s: the shortest time between two questions, in seconds.
        submit_batch: so many jobs are handed over in one call at most.
    """

    max_jobs: Optional[int] = None
    poll_s: float = FASTEST_POLL_S
    submit_batch: int = SUBMIT_BATCH


NO_LIMITS = Limits()


def limits_of(site: str, options: Mapping[str, Any]) -> Limits:
    """The limits that the options of a site's section set.

    Raises:
        ConfigError: one is malformed; the message names it.
    """
    max_jobs = options.get("max_jobs")
    if max_jobs is not None and not _is_count(max_jobs):
        raise _wrong(site, "max_jobs", "a whole number from 1", max_jobs)
    poll_s = options.get("poll_s", FASTEST_POLL_S)
    if isinstance(poll_s, bool) or not isinstance(poll_s, (int, float)) or not 0 < poll_s < float("inf"):
        raise _wrong(site, "poll_s", "a number of seconds more than 0", poll_s)
    submit_batch = options.get("submit_batch", SUBMIT_BATCH)
    if not _is_count(submit_batch):
        raise _wrong(site, "submit_batch", "a whole number from 1", submit_batch)
    return Limits(max_jobs, float(poll_s), submit_batch)


def without_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are the driver's own."""
    return {key: value for key, value in options.items() if key not in KEYS}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _wrong(site: str, key: str, wanted: str, given: Any) -> ConfigError:
    return ConfigError(f"sites.toml: {key} of [{site}] must be {wanted}, not {given!r}")
