"""The allocation of an instance or a job of Flux: flux-environment(7), flux-resource(1) and the RFCs 20, 22 and 29."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from ...errors import ConfigError
from .model import Allocation, Ask, NodeShare, Read
from .parts import expand_hosts, expand_ids


def find(environment: Mapping[str, str], _read: Read, ask: Ask, _now: float) -> Optional[Allocation]:
    """Flux: the resource set (RFC 20) of the job that we are a task of, else of the instance that we run in.

    Flux takes away the SLURM variables in the instances it starts, so Flux itself must be asked. With
    ``FLUX_PROXY_REMOTE`` the instance is on another machine, and none of our business.
    """
    uri = environment.get("FLUX_URI")
    if not uri or environment.get("FLUX_PROXY_REMOTE"):
        return None
    job = environment.get("FLUX_JOB_ID")
    words = ["flux", "job", "info", job, "R"] if job else ["flux", "resource", "R"]
    try:
        told = ask(words)
    except OSError as error:
        raise ConfigError(
            f"FLUX_URI is set, but `{' '.join(words)}` does not answer: {error}",
            hint="unset FLUX_URI if this is no job of Flux",
        ) from None
    try:
        nodes, ends_at = _resource_set(json.loads(told))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"FLUX_URI: `{' '.join(words)}` answers with what is no resource set: {told[:200]!r}"
        ) from None
    if not job:
        try:
            job = ask(["flux", "getattr", "jobid"]).strip()
        except OSError:  # an instance that is no job of another one has none
            job = None
    return Allocation("flux", job or uri, nodes, ends_at)


def _resource_set(body: Any) -> tuple[tuple[NodeShare, ...], Optional[float]]:
    """Nodes and end of a Flux resource set. A node on which several brokers run counts once, with the first rank."""
    execution = body["execution"]
    told = "FLUX_URI: the resource set"
    parts = {
        rank: [expand_ids(entry["children"].get(kind, ""), told) for kind in ("core", "gpu")]
        for entry in execution["R_lite"]
        for rank in expand_ids(entry["rank"], told)
    }
    hosts = [host for part in execution["nodelist"] for host in expand_hosts(part, told)]
    if not parts or len(hosts) != len(parts):
        raise ConfigError(f"{told} has {len(parts)} ranks and {len(hosts)} hosts")
    found: dict[str, tuple[int, set[int], set[int]]] = {}
    for rank, host in zip(sorted(parts), hosts):
        _, cores, gpus = found.setdefault(host, (rank, set(), set()))
        cores.update(parts[rank][0])
        gpus.update(parts[rank][1])
    nodes = tuple(
        NodeShare(host, cores=len(cores), gpus=len(gpus), index=rank) for host, (rank, cores, gpus) in found.items()
    )
    return nodes, float(execution.get("expiration") or 0) or None
