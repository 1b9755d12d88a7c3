"""The verbs of data: recording, finding, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..client.calls import NO_TIMEOUT, path_of
from ..errors import InvalidRecord
from ..models import Metasheet
from ..records import JSON
from .bodies import absolute, without_none
from .instance import Instance
from .resuming import marked
from .values import DataLike, JobLike, PathLike, WorkflowLike, id_of, match_terms, optional_id, properties_of


class DataVerbs(Instance):
    """What :class:`~lwfm.library.manager.LwfManager` can do with data."""

    def data(
        self,
        workflow: WorkflowLike | None = None,
        match: Mapping[str, Any] | None = None,
        limit: int = 0,
        *,
        job: JobLike | None = None,
        site: str | None = None,
        op: str | None = None,
        origin: str | None = None,
    ) -> list[Metasheet]:
        """What data is known, newest first.

        Args:
            match: conditions on its properties; see :mod:`lwfm.matching`.
            job: only what that job put or got. op: ``put``, ``get`` or ``event``. limit: at most so many; 0: all.
            origin: only what this instance has recorded: its host, how its id begins, or ``here``.
        """
        query = {
            "workflow": optional_id(workflow, "a workflow"),
            "job": optional_id(job, "a job"),
            "match": match_terms(match or {}),
            "site": site,
            "op": op,
            "origin": origin,
            "limit": limit,
        }
        return [Metasheet.from_json(body) for body in self._client.get("/v1/data", query)["data"]]

    def find(self, match: Mapping[str, Any] | None = None, **properties: Any) -> list[Metasheet]:
        """Data whose properties match, newest first: ``find(kind="thermo", T=">=0.7")`` or a mapping."""
        conditions = {**(match or {}), **properties}
        if not conditions:
            raise InvalidRecord("find needs at least one property", hint="data() lists everything")
        return self.data(match=conditions)

    def get_data(self, data: DataLike) -> Metasheet:
        """What is known of one piece of data."""
        return Metasheet.from_json(self._client.get(path_of("data", id_of(data, "data"))))

    def notate_put(
        self,
        path: PathLike,
        metadata: Mapping[str, Any] | None = None,
        *,
        site: str = "local",
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
    ) -> Metasheet:
        """Record that a file (or directory) has been written, where it is; nothing is copied."""
        return self.record_data("put", path, metadata, site=site, job=job, workflow=workflow, notate=True)

    def notate_get(
        self,
        path: PathLike,
        metadata: Mapping[str, Any] | None = None,
        *,
        site: str = "local",
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
    ) -> Metasheet:
        """Record that a file (or directory) has been read, where it is; nothing is copied."""
        return self.record_data("get", path, metadata, site=site, job=job, workflow=workflow, notate=True)

    def emit_data(
        self,
        properties: Mapping[str, Any],
        *,
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
        site: str | None = None,
    ) -> Metasheet:
        """Record properties without a file: what data handlers see as well."""
        return self.record_data("event", None, properties, site=site, job=job, workflow=workflow)

    def record_data(
        self,
        op: str,
        path: PathLike | None,
        metadata: Mapping[str, Any] | None,
        *,
        site: str | None = None,
        site_path: str | None = None,
        job: JobLike | None = None,
        workflow: WorkflowLike | None = None,
        notate: bool = False,
    ) -> Metasheet:
        """``POST /v1/data``: what the methods for data share."""
        context = self.context()
        body = without_none(
            op=op,
            path=None if path is None else absolute(path),
            site=site,
            site_path=site_path,
            properties=properties_of(metadata),
            job=optional_id(job, "a job") or context.job_id,
            workflow=optional_id(workflow, "a workflow") or (None if job else context.workflow_id),
            notate=notate or None,
        )
        body = marked(body, "data", op, body.get("path"), site_path, body["properties"])
        return Metasheet.from_json(self._client.post("/v1/data", body, timeout_s=NO_TIMEOUT))

    def lineage(self, of: JobLike | DataLike | PathLike, direction: str = "both", depth: int | None = None) -> JSON:
        """What led to a file, data or job (``up``), what came of it (``down``), or both.

        Args:
            of: a path, a URL, a checksum, an id or a record.

        Returns:
            ``root`` (node ids), ``nodes`` and ``edges``, which point from cause to effect.
        """
        wanted = of if isinstance(of, str) else os.fspath(of) if isinstance(of, os.PathLike) else id_of(of, "of")
        if isinstance(of, os.PathLike) or os.path.lexists(wanted):
            wanted = absolute(wanted)
        graph: JSON = self._client.get("/v1/lineage", {"of": wanted, "direction": direction, "depth": depth})
        return graph
