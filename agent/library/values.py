"""Turning what a script hands over into what travels: ids out of records, paths and numbers into JSON. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Union

from ..errors import InvalidRecord
from ..matching import parse_match, value_text
from ..models import Handler, JobDefn, JobStatus, Metasheet, Workflow
from ..records import JSON, check_properties

JobLike = Union[str, JobStatus]
WorkflowLike = Union[str, Workflow]
DataLike = Union[str, Metasheet]
HandlerLike = Union[str, Handler]
CommandLike = Union[JobDefn, str, "list[str]", "tuple[str, ...]"]
PathLike = Union[str, "os.PathLike[str]"]

_ID_OF = {JobStatus: "job_id", Workflow: "workflow_id", Metasheet: "data_id", Handler: "handler_id"}


def id_of(thing: Any, what: str) -> str:
    """The id of a record, or of what is one already.

    Raises:
        InvalidRecord: it is neither.
    """
    for kind, name in _ID_OF.items():
        if isinstance(thing, kind):
            thing = getattr(thing, name)
            break
    if not isinstance(thing, str) or not thing:
        raise InvalidRecord(f"{what} must be given as its record or its id, not {thing!r}")
    return thing


def optional_id(thing: Any, what: str) -> str | None:
    """:func:`id_of`, or None."""
    return None if thing is None else id_of(thing, what)


def definition_of(command: CommandLike) -> JobDefn:
    """A definition as it is; a list of words or a line for the shell as the definition of that."""
    return command if isinstance(command, JobDefn) else JobDefn(command=command)


def match_terms(match: Mapping[str, Any]) -> list[str]:
    """A match mapping as the terms ``KEY=CONDITION`` of the API.

    Raises:
        InvalidRecord: not a valid match, or a key that a term cannot hold.
    """
    parse_match(match)
    terms = []
    for key, value in match.items():
        if any(mark in key for mark in "=<>!~"):
            raise InvalidRecord(f"a property named {key!r} cannot be asked for")
        # A value that is not text is meant as it stands, whatever characters its JSON has.
        terms.append(f"{key}={value}" if isinstance(value, str) else f"{key}=={value_text(plain(value))}")
    return terms


def properties_of(mapping: Mapping[str, Any] | None) -> JSON:
    """Metadata as JSON: paths become text, numbers of numpy and its likes ordinary numbers.

    Raises:
        InvalidRecord: a value that JSON does not have; the message names it.
    """
    return {} if mapping is None else check_properties(plain(mapping), "metadata")


def plain(value: Any) -> Any:
    """``value``, with paths as text and array scalars and arrays as numbers and lists."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    to_list = getattr(value, "tolist", None)  # numpy and what imitates it: scalars give a number, arrays lists
    return to_list() if callable(to_list) else value
