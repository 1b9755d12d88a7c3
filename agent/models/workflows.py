"""What jobs and data belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import InvalidRecord
from ..records import JSON, Record, check_properties, check_text, set_field


@dataclass(frozen=True)
class Workflow(Record):
    """A named undertaking that jobs and data belong to.

    Args:
        name: for people; need not be unique.
        workflow_id: given by the store.
        description: for people.
        meta: properties by which it can be found.
        parent_job: the job that created it, if one did.
        created_at: UTC time.
        origin: the instance that recorded it. ``elsewhere``: how people call that, when it is not the one that was asked.
        job_counts: how many jobs it has in each state; filled in when it is read. ``jobs_elsewhere``: those of other instances.
    """

    name: str
    workflow_id: str = ""
    description: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    parent_job: Optional[str] = None
    created_at: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    job_counts: Mapping[str, int] = field(default_factory=dict)
    jobs_elsewhere: Mapping[str, int] = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text(self, "name")
        if not self.name.strip():
            raise InvalidRecord("a workflow needs a name")
        set_field(self, "meta", check_properties(self.meta, "meta"))
