"""What is known of data: the metadata by which it is found, and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import InvalidRecord
from ..records import JSON, Record, check_properties, check_text, set_field


@dataclass(frozen=True)
class Metasheet(Record):
    """What is known of a piece of data: where it is, what it is, who put it, under which properties.

    Args:
        data_id: given by the store.
        op: ``put`` (made or stored), ``get`` (read or fetched) or ``event`` (properties without a file).
        site: the site that holds the data. ``url``: where, as ``file://HOST/PATH`` for a file.
        path: the path on that site. ``host``: the host that sees it.
        size_bytes, sha256: of the content when it was recorded; None for a directory or an event.
        source_url: where a stored or fetched copy came from.
        job_id, workflow_id: who put it.
        properties: the metadata: JSON values under text keys.
        time: when it was recorded, UTC.
        origin, origin_host, elsewhere: as in :class:`JobStatus`.
    """

    data_id: str = ""
    op: str = "put"
    site: str = "local"
    url: Optional[str] = None
    path: Optional[str] = None
    host: Optional[str] = None
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None
    source_url: Optional[str] = None
    job_id: Optional[str] = None
    workflow_id: Optional[str] = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    time: Optional[str] = None
    origin: Optional[str] = None
    origin_host: Optional[str] = None
    elsewhere: Optional[str] = None
    extra: JSON = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.op not in ("put", "get", "event"):
            raise InvalidRecord(f"op must be put, get or event, not {self.op!r}")
        for name in ("site", "url", "path", "host", "sha256", "source_url", "job_id", "workflow_id"):
            if getattr(self, name) is not None:
                check_text(self, name)
        set_field(self, "properties", check_properties(self.properties, "properties"))
