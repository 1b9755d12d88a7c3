"""What the bodies of calls say, checked: definitions, contexts, ids, and the jobs of other instances that are to be run here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import InvalidRecord
from ..jsontext import compact_ascii
from ..models import JobDefn
from ..records import JSON, check_properties
from ..redaction import taken_along
from ..store.columns import MAX_ATTEMPT

_OWN = frozenset({"command", "name", "job_id"})
"""The keys of a definition in which jobs of one submission usually differ."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Adopted:
    """A job of another instance that this one is asked to run.

    Args:
        site: of ours. ``defn``: what to run, secrets in place. ``attempt``: which attempt.
        variables: what the job is told beside. ``environment``: of its submitter, as far as it means something here.
        workflow_name: what its workflow is called, of which nothing else may be known here.
    """

    job_id: str
    site: str
    defn: JobDefn
    workflow_id: Optional[str] = None
    workflow_name: Optional[str] = None
    parent_id: Optional[str] = None
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1

    @classmethod
    def from_json(cls, body: Any) -> Adopted:
        """As it is asked for.

        Raises:
            InvalidRecord: it is malformed.
        """
        if not isinstance(body, Mapping):
            raise InvalidRecord("a job is an object")
        variables = body.get("variables") or {}
        if not isinstance(variables, Mapping) or not all(
            isinstance(value, str) and name.startswith("LWFM_TRIGGER_") for name, value in variables.items()
        ):
            raise InvalidRecord("variables must be an object of LWFM_TRIGGER_ names and texts")
        environment, attempt = body.get("environment") or {}, body.get("attempt", 1)
        if not isinstance(environment, Mapping) or not all(isinstance(value, str) for value in environment.values()):
            raise InvalidRecord("environment must be an object of texts")
        if isinstance(attempt, bool) or not isinstance(attempt, int) or not 1 <= attempt <= MAX_ATTEMPT:
            raise InvalidRecord("attempt must be a number from 1")
        for name in ("workflow_id", "workflow_name", "parent_id"):
            if body.get(name) is not None:
                text_of(body, name)
        return cls(
            checked_id(body.get("job_id")),
            text_of(body, "site"),
            JobDefn.from_json(body.get("definition")),
            body.get("workflow_id"),
            body.get("workflow_name"),
            body.get("parent_id"),
            dict(variables),
            taken_along(environment),
            attempt,
        )


def job_ids_of(body: Mapping[str, Any]) -> list[str]:
    """The ids under ``jobs``.

    Raises:
        InvalidRecord: they are not a list of text.
    """
    given = body.get("jobs")
    if not isinstance(given, list) or not all(isinstance(job, str) for job in given):
        raise InvalidRecord("jobs must be a list of job ids")
    return given


def definitions_of(body: Mapping[str, Any]) -> list[JobDefn]:
    """The definitions under ``jobs``, checked.

    Raises:
        InvalidRecord: one is malformed; the message says which.
    """
    given = body.get("jobs")
    if not isinstance(given, list) or not given:
        raise InvalidRecord("jobs must be a list of at least one definition")
    definitions: list[JobDefn] = []
    known, model = "", None
    for index, item in enumerate(given):
        try:
            shared = _shared(item)
            if model is None or shared != known or not shared:
                known, model = shared, JobDefn.from_json(item)
                definitions.append(model)
            else:
                extra = {key: value for key, value in model.extra.items() if key != "job_id"}
                if "job_id" in item:
                    extra["job_id"] = item["job_id"]
                definitions.append(model.with_command(item["command"], item.get("name", ""), extra))
        except InvalidRecord as error:
            where = f"job {index + 1} of {len(given)}: " if len(given) > 1 else ""
            raise InvalidRecord(where + error.message, hint=error.hint) from None
    return definitions


def context_of(body: Mapping[str, Any]) -> JSON:
    """The ``context`` of a body; empty when there is none.

    Raises:
        InvalidRecord: it is not what ``docs/api.md`` says.
    """
    if body.get("context") is None:
        return {}
    check_properties(body["context"], "context")
    context = dict(body["context"])  # as it came: a directory's name need not be Unicode
    for key in ("host", "user", "cwd", "python", "version"):
        if context.get(key) is not None:
            text_of(context, key)
    if not str(context.get("cwd") or "/").startswith("/"):
        raise InvalidRecord(f"context: cwd must be an absolute path, not {context['cwd']!r}")
    env, git = context.get("env") or {}, context.get("git") or {}
    for key, part in (("env", env), ("git", git)):
        check_properties(part, f"context: {key}")
    if not all(isinstance(value, str) for value in env.values()):
        raise InvalidRecord("context: env must hold text")
    if not isinstance(git.get("commit") or "", str) or not isinstance(git.get("dirty") or False, bool):
        raise InvalidRecord("context: git must hold a commit, and whether it is dirty")
    return {**context, "env": env, "git": git} if "git" in context else {**context, "env": env}


def text_of(body: Mapping[str, Any], key: str) -> str:
    """The text under ``key``.

    Raises:
        InvalidRecord: it is not text.
    """
    value = body.get(key)
    if not isinstance(value, str):
        raise InvalidRecord(f"{key} must be text, not {type(value).__name__}")
    return value


def checked_id(job_id: Any) -> str:
    """A job id that somebody gives.

    Raises:
        InvalidRecord: it is none.
    """
    if not isinstance(job_id, str) or not _UUID.fullmatch(job_id):
        raise InvalidRecord(f"{job_id!r} is not a job id", hint="leave it out, or give a UUID")
    return job_id


def occurrence_of(body: Mapping[str, Any]) -> int:
    """Which request of its kind this is, from 0: of a run that resumes others.

    Raises:
        InvalidRecord: it is no such number.
    """
    number = body.get("occurrence")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InvalidRecord(f"occurrence must be a whole number from 0, not {number!r}")
    return number


def _shared(item: Any) -> str:
    """What jobs of one submission have in common, as text that is the same for the same alone; empty if that cannot be told.

    Thousands that differ only in the words of their command need their environment, their resources and so on looked at once.
    """
    if not isinstance(item, dict) or "command" not in item:
        return ""
    return compact_ascii({key: value for key, value in item.items() if key not in _OWN})
