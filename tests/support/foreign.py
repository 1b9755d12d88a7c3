"""Other instances, whose records are brought into a store as a sync brings them: whole chains, in order, at once or bit by bit.

::

    cluster = Elsewhere("cluster1")
    job = cluster.job("simulate", state="RUNNING")
    cluster.bring(store)
    cluster.status(job, "COMPLETE")
    cluster.bring(store)        # what is new
"""

from __future__ import annotations

from typing import Any, Optional

from lwfm.clock import HybridClock, utc_now
from lwfm.ids import new_id, new_origin
from lwfm.recording.recorder import Recorder
from lwfm.store import Record, Store, Transaction, log, projections
from lwfm.store.batch import Batch, Row, chain

JSON = dict[str, Any]


class Elsewhere:
    """Another instance.

    Args:
        host, user, home: what it says of itself. ``origin``: its identity; a new one when None.
    """

    def __init__(
        self, host: str = "cluster1", user: str = "ada", home: str = "/scratch/ada/.lwfm", origin: Optional[str] = None
    ) -> None:
        self.origin = origin or new_origin()
        self.host = host
        self.records: list[Record] = []
        self._clock = HybridClock()
        self.record("instance", {"store_id": new_origin(), "host": host, "user": user, "home": home, "time": utc_now()})

    def record(self, kind: str, body: JSON, uid: Optional[str] = None) -> str:
        """Its next record; the id of that."""
        uid = uid or new_id()
        told = {key: value for key, value in body.items() if value is not None}
        self.records.append(Record(self.origin, len(self.records) + 1, uid, kind, self._clock.tick(), utc_now(), told))
        return uid

    def workflow(self, name: str = "study", workflow_id: Optional[str] = None, **body: Any) -> str:
        """A workflow, or with an id a new version of one; its id."""
        uid = new_id()
        identifier = workflow_id or uid
        self.record("workflow", {"workflow_id": identifier, "name": name, "description": "", "meta": {}, **body}, uid)
        return identifier

    def job(self, command: str = "true", state: Optional[str] = None, **body: Any) -> str:
        """A job, PENDING or as ``body`` has it, and a status that it has come to ``state``; its id."""
        definition = {"command": command, "name": command, "cwd": "/", **body.pop("definition", {})}
        uid = body.pop("job_id", None)
        job = self.record("job", {"state": "PENDING", "site": "local", "definition": definition, **body}, uid)
        if state is not None:
            self.status(job, state)
        return job

    def status(self, job_id: str, state: str, **facts: Any) -> str:
        """A status of a job."""
        return self.record("status", {"job_id": job_id, "attempt": 1, "state": state, **facts})

    def put(self, path: str, op: str = "put", sha256: Optional[str] = None, **sheet: Any) -> str:
        """Data in a file."""
        url = f"file://{self.host}{path}"
        body = {
            "op": op,
            "site": "local",
            "path": path,
            "url": url,
            "host": self.host,
            "size_bytes": 5,
            "sha256": sha256,
        }
        return self.record("metasheet", {**body, **sheet})

    def event(self, properties: JSON, **sheet: Any) -> str:
        """Data without a file."""
        return self.record("metasheet", {"op": "event", "site": "local", "properties": properties, **sheet})

    def log(self, message: str, level: str = "INFO", **body: Any) -> str:
        """A line of log."""
        return self.record("log", {"level": level, "message": message, **body})

    def on_jobs(self, *jobs: str, command: str = "true", workflow: Optional[str] = None) -> tuple[str, str]:
        """A handler for jobs; its id, and that of the job it is to run, READY."""
        event = {"jobs": list(jobs), "states": ["COMPLETE"], "mode": "all"}
        return self._on("job", event, command, workflow)

    def on_data(self, match: JSON, command: str = "true", workflow: Optional[str] = None) -> tuple[str, str]:
        """The same for data."""
        return self._on("data", {"match": match}, command, workflow)

    def _on(self, kind: str, event: JSON, command: str, workflow: Optional[str]) -> tuple[str, str]:
        handler = new_id()
        defn = {"command": command, "name": command, "cwd": "/"}
        ready = {"state": "READY", "site": "local", "definition": defn, "handler_id": handler, "workflow_id": workflow}
        job = self.record("job", {**ready, "reason": "waits"})
        body = {
            "kind": kind,
            "event": {**event, "defn": defn},
            "job_ids": [job],
            "workflow_id": workflow,
            "fire_limit": 1,
        }
        self.record("handler", body, handler)
        return handler, job

    def write(self, transaction: Transaction, upto: Optional[int] = None) -> list[Record]:
        """Append and fold what the store lacks, of the first ``upto`` records; those."""
        connection = transaction.connection
        head = log.read_head(connection, self.origin)
        new = self.records[head.seq : upto]
        prev = head.hash
        for record in new:
            body = log.encode_body(record.body)
            _, seq, uid, kind, hlc, wall_utc, _ = record
            digest = log.row_hash(self.origin, seq, prev, uid, kind, hlc, wall_utc, body)
            connection.execute(log.INSERT, (self.origin, seq, prev, digest, uid, kind, hlc, wall_utc, body))
            projections.project(connection, record)
            prev = digest
        transaction.forget_rows()
        return new

    def bring(self, store: Store, upto: Optional[int] = None) -> None:
        """Bring what a store lacks to it; nothing follows from it there."""
        with store.transaction() as transaction:
            self.write(transaction, upto)

    def deliver(self, recorder: Recorder) -> None:
        """A unit of work: what the store lacks comes as a sync brings it, with what follows from it there."""
        head = log.read_head(recorder.transaction.connection, self.origin)
        rows = [
            Row(record.uid, record.kind, record.hlc, record.wall_utc, log.encode_body(record.body))
            for record in self.records[head.seq :]
        ]
        if rows:
            hashed = chain(self.origin, head.seq, head.hash, rows)
            recorder.receive(Batch(self.origin, head.seq, head.hash, hashed[-1], rows), hashed)
