"""Which projection each kind of record has."""

from __future__ import annotations

from collections.abc import Callable

from ..connection import Connection
from ..log import PRUNED, Record
from . import handlers, instances, jobs, statuses, things


def project(connection: Connection, record: Record, *, fresh: bool = False) -> None:
    """Fold one record into the tables, whatever has come before it.

    Args:
        connection: in a transaction. ``record``: the record.
        fresh: it was made here just now, so that nothing can have come before it that refers to it.
    """
    projection = _PROJECTIONS.get(record.kind)
    if projection is not None:
        projection(connection, record, fresh)


def contradicts(connection: Connection, record: Record) -> bool:
    """Whether a record that is not the first of its thing has the id of another one, and says something else: which of the two
    counted would depend on who came first."""
    contradiction = _CONTRADICTIONS.get(record.kind)
    return contradiction is not None and contradiction(connection, record)


_PROJECTIONS: dict[str, Callable[[Connection, Record, bool], None]] = {
    "instance": instances.project_instance,
    "fork": instances.project_fork,
    "context": things.project_context,
    "workflow": things.project_workflow,
    "job": jobs.project_job,
    "status": statuses.project_status,
    "metasheet": things.project_metasheet,
    "handler": handlers.project_handler,
    "unset": handlers.project_unsetting,
    "firing": handlers.project_firing,
    "log": things.project_log,
    "node": things.project_node,
    "adopt": jobs.project_adoption,
    "prune": things.project_pruning,
    PRUNED: things.project_stub,
}
_CONTRADICTIONS: dict[str, Callable[[Connection, Record], bool]] = {
    "status": statuses.contradicts,
    "unset": handlers.contradicts,
    "workflow": things.contradicts,
}
