"""The tables of the thread store and their migrations.

What is history is projected from ``log`` and can be rebuilt from it (``PROJECTIONS``); what is not history lives in the
``local_`` tables, which never leave this instance. The layout is described for users in ``docs/store.md``.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from ..errors import StoreTooNew
from . import engine

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA_VERSION = 9
"""Raised with every migration; a store with a higher one was written by a newer lwfm."""

PROJECTIONS = (
    "origins",
    "contexts",
    "workflows",
    "jobs",
    "statuses",
    "metasheets",
    "properties",
    "handlers",
    "handler_jobs",
    "unsets",
    "firings",
    "logs",
    "search",
    "job_counts",
    "nodes",
    "adoptions",
    "prunings",
    "pruned",
)

_TABLES = """
create table log (
    origin text not null, seq integer not null, prev text not null, hash text not null, uid text not null,
    kind text not null, hlc text not null, wall_utc text not null, body text not null,
    primary key (origin, seq)
) without rowid;

create table origins (id text primary key, store_id text, host text, user text, home text, minted_at text) without rowid;

create table contexts (
    id text primary key, origin text not null, host text, user text, cwd text, git_commit text, git_dirty integer,
    python text, version text, env text not null, body text not null
) without rowid;

create table workflows (
    id text primary key, origin text not null, name text not null, description text not null, parent_job text,
    created_at text not null, meta text not null, hlc text not null, extra text, record_id text not null
);

create index workflows_by_parent on workflows (parent_job) where parent_job is not null;

create table jobs (
    id text primary key, origin text not null, name text not null, command text not null, site text not null,
    workflow_id text, parent_id text, context_id text, handler_id text, trigger_job text, trigger_data text,
    state text not null, attempt integer not null, reason text, native_status text, native_id text,
    host text, allocation text, submitted_at text not null, started_at text, ended_at text, status_at text not null,
    exit_code integer, signal text, cpu_seconds real, peak_rss_bytes integer, read_bytes integer, write_bytes integer,
    stdout_bytes integer, stderr_bytes integer, stdout text, stderr text,
    cores integer, memory_bytes integer, gpus integer, time_limit_s real, cwd text, retries integer not null,
    meta text not null, definition text not null, state_key text not null
);
create index jobs_by_state on jobs (state, id);
create index jobs_by_workflow on jobs (workflow_id, id);
create index jobs_by_parent on jobs (parent_id) where parent_id is not null;
create index jobs_by_handler on jobs (handler_id) where handler_id is not null;
create index jobs_by_site on jobs (site, id) where site <> 'local';

create table statuses (
    job_id text not null, id text not null, origin text not null, attempt integer not null, state text not null,
    native_status text, reason text, time text not null, hlc text not null, facts text not null, status_key text not null,
    primary key (job_id, id)
) without rowid;

create table metasheets (
    id text primary key, origin text not null, op text not null, site text not null, url text, path text, host text,
    size_bytes integer, sha256 text, source_url text, job_id text, workflow_id text, time text not null,
    properties text not null, extra text
);
create index metasheets_by_path on metasheets (path, op, id) where path is not null;
create index metasheets_by_sha256 on metasheets (sha256, op, id) where sha256 is not null;
create index metasheets_by_url on metasheets (url, op, id) where url is not null;
create index metasheets_by_job on metasheets (job_id, id) where job_id is not null;
create index metasheets_by_workflow on metasheets (workflow_id, id);

create table properties (
    owner_kind text not null, owner text not null, key text not null, text text not null, number real,
    primary key (owner_kind, key, text, owner)
) without rowid;
create index properties_by_number on properties (owner_kind, key, number, owner);
create index properties_by_owner on properties (owner, key, number);

create table handlers (
    id text primary key, origin text not null, kind text not null, name text not null, site text not null,
    workflow_id text, parent_id text, context_id text, event text not null, job_ids text not null,
    fire_limit integer, fired integer not null, state text not null, reason text, created_at text not null
) without rowid;
create index handlers_by_state on handlers (state, kind, id);
create index handlers_by_workflow on handlers (workflow_id, id);
create table handler_jobs (job_id text not null, handler_id text not null, primary key (job_id, handler_id)) without rowid;
create table unsets (
    handler_id text not null, hlc text not null, id text not null, origin text not null, reason text, time text not null,
    primary key (handler_id, hlc, id)
) without rowid;

create table firings (
    handler_id text not null, trigger_id text not null, id text not null, origin text not null, job_id text,
    trigger_job text, trigger_data text, time text not null,
    primary key (handler_id, trigger_id)
) without rowid;
create index firings_by_job on firings (job_id) where job_id is not null;
create index firings_by_trigger_job on firings (trigger_job, job_id) where trigger_job is not null;
create index firings_by_trigger_data on firings (trigger_data, job_id) where trigger_data is not null;

create table logs (
    id text primary key, origin text not null, time text not null, level text not null, level_number integer not null,
    message text not null, job_id text, workflow_id text
) without rowid;
create index logs_by_job on logs (job_id, id) where job_id is not null;
create index logs_by_workflow on logs (workflow_id, id) where workflow_id is not null;

create virtual table search using fts5 (kind unindexed, id unindexed, text, tokenize = "unicode61 tokenchars '_'");

create table job_counts (
    workflow_id text not null, state text not null, jobs integer not null, primary key (workflow_id, state)
) without rowid;

create table local_settings (key text primary key, value text not null) without rowid;
create table local_claims (job_id text primary key, attempt integer not null, worker_id text not null) without rowid;
create table local_attached (job_id text primary key, pid integer not null, start_s real not null, boot_id text not null)
    without rowid;
create table local_blobs (sha256 text primary key, size_bytes integer not null, data blob not null);
"""

_VIEWS = {
    "job_current": """
        select j.id, j.name, j.state, j.reason, j.site, j.host, w.name as workflow, j.attempt, j.submitted_at,
            j.started_at, j.ended_at,
            round((julianday(j.ended_at) - julianday(j.started_at)) * 86400, 3) as seconds,
            j.exit_code, j.signal, j.cpu_seconds, j.peak_rss_bytes, j.command, j.workflow_id, j.parent_id,
            c.git_commit, c.git_dirty, o.host as origin_host
        from jobs j left join workflows w on w.id = j.workflow_id left join contexts c on c.id = j.context_id
            left join origins o on o.id = j.origin
    """,
    "lineage_edges": """
        select job_id as cause, id as effect, 'wrote' as relation from metasheets where op = 'put' and job_id is not null
        union all select id, job_id, 'read' from metasheets where op = 'get' and job_id is not null
        union all select parent_id, id, 'started' from jobs where parent_id is not null
        union all select coalesce(trigger_data, trigger_job), job_id, 'triggered' from firings
            where job_id is not null and coalesce(trigger_data, trigger_job) is not null
    """,
}


def _begin(db: Database) -> None:
    """Make a migration one transaction with the record that it was made, which commits it (sqlite-migrate begins none)."""
    if not db.conn.in_transaction:
        db.conn.execute("begin immediate")


def _migrations() -> Any:
    migrations = engine.migrations("lwfm")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m001_thread_store(db: Database) -> None:
        _begin(db)
        for statement in _TABLES.split(";\n"):
            if statement.strip():
                db.execute(statement)
        for name, query in _VIEWS.items():
            db.execute(f"create view {name} as {query}")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m002_workers(db: Database) -> None:
        """Where each worker was last seen: a claim on a worker is no longer one on this node's only worker."""
        _begin(db)
        db.execute(
            "create table local_workers (worker_id text primary key, host text not null, seen_at text not null) without rowid"
        )

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m003_gangs(db: Database) -> None:
        """The workers of a job's further nodes: a JSON list, null for a job on one node."""
        _begin(db)
        db.execute("alter table local_claims add column parts text")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m004_nodes(db: Database) -> None:
        """Which nodes there were, and when."""
        _begin(db)
        db.execute(
            "create table nodes ("
            " id text primary key, origin text not null, worker_id text not null, host text not null, allocation text,"
            " state text not null, cores integer, memory_bytes integer, gpus integer, reason text, time text not null"
            ") without rowid"
        )
        db.execute("create index nodes_by_worker on nodes (worker_id, origin, id)")
        db.execute("create index nodes_by_host on nodes (host, origin, worker_id, id)")
        db.execute("create index nodes_by_time on nodes (time)")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m005_places(db: Database) -> None:
        """Which created allocation a worker is of: two of them may have shares of one host."""
        _begin(db)
        db.execute("alter table local_workers add column place text not null default ''")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m006_hosts(db: Database) -> None:
        """The nodes of a job that runs on several."""
        _begin(db)
        db.execute("alter table jobs add column hosts text")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m007_sync(db: Database) -> None:
        """Origins that come of others, records that came without those before them, and the peers to sync with."""
        _begin(db)
        db.execute("alter table origins add column parent text")
        db.execute("alter table origins add column parent_seq integer")
        db.execute("alter table origins add column reason text")
        db.execute(
            "create table fragments ("
            " origin text not null, seq integer not null, prev text not null, hash text not null, uid text not null,"
            " kind text not null, hlc text not null, wall_utc text not null, body text not null, primary key (origin, seq)"
            ") without rowid"
        )
        db.execute("create table local_peers (name text primary key, body text not null) without rowid")

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m008_adoptions(db: Database) -> None:
        """Jobs that another instance runs than the one that recorded them, and those of others that this one runs."""
        _begin(db)
        db.execute("alter table jobs add column runner text")
        db.execute(
            "create table adoptions ("
            " job_id text not null, id text not null, origin text not null, job_origin text not null, site text not null,"
            " hlc text not null, time text not null, primary key (job_id, id)"
            ") without rowid"
        )
        db.execute(
            "create table local_adopted (job_id text primary key, site text not null, request text not null) without rowid"
        )

    @migrations()  # type: ignore[untyped-decorator, unused-ignore]
    def m009_pruning(db: Database) -> None:
        """What was pruned, by whom, and which of it people may ask for; what other instances have taken of this one's."""
        _begin(db)
        db.execute(  # the first stores with schema 4 were made without it
            "create index if not exists nodes_by_host on nodes (host, origin, worker_id, id)"
        )
        db.execute("create index log_pruned on log (origin, seq) where prev = ''")
        db.execute(
            "create table prunings ("
            " id text primary key, origin text not null, time text not null, what text not null, before text,"
            " larger_than integer, things integer, records integer, digest text, places text not null"
            ") without rowid"
        )
        db.execute(
            "create table pruned ("
            " id text not null, origin text not null, seq integer not null, kind text not null, pruned_where text not null,"
            " primary key (id, origin, seq)"
            ") without rowid"
        )
        db.execute(
            "create table local_visitors ("
            " origin text primary key, host text not null, seen_at text not null, vector text not null"
            ") without rowid"
        )

    return migrations


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the store up to ``SCHEMA_VERSION``.

    Raises:
        StoreTooNew: it is beyond that.
    """
    found = schema_version(connection)
    if found > SCHEMA_VERSION:
        raise StoreTooNew(
            f"the thread store has schema {found}; this lwfm knows up to {SCHEMA_VERSION}",
            hint="use the newer lwfm that wrote it, or another LWFM_HOME",
        )
    if found < SCHEMA_VERSION:
        try:
            _migrations().apply(engine.database(connection))
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def schema_version(connection: sqlite3.Connection) -> int:
    """The schema version of the database; 0 for an empty one."""
    return int(connection.execute("pragma user_version").fetchone()[0])
