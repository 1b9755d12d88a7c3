"""Calls of an agent's API as ``docs/api.md`` describes them, seen from the other side, however the agent is reached.

Turns what is asked into a path and bytes, and an answer into a value or the error that the agent reports. Knows nothing of records.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union
from urllib.parse import quote, urlencode

from .. import errors
from ..errors import AgentUnreachable, LwfmError

CALL_TIMEOUT_S = 300.0
"""How long an ordinary call may take before the agent counts as hung."""
NO_TIMEOUT = float("inf")

Query = Union[Mapping[str, Any], Sequence["tuple[str, Any]"]]


@dataclass(frozen=True)
class Answer:
    """An answer of the agent, not interpreted."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Caller(ABC):
    """Calls of an agent's API, however it is reached."""

    @abstractmethod
    def exchange(self, method: str, target: str, data: bytes | None, repeatable: bool, timeout_s: float) -> Answer:
        """One call and its answer, whatever that is.

        Args:
            target: path and query. ``data``: the body.
            repeatable: making the call twice is the same as making it once.

        Raises:
            AgentUnreachable: it could not be asked, or has not answered in time.
        """

    def get(self, path: str, query: Query = (), timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """GET; the JSON of the answer.

        Raises:
            LwfmError: what the agent reported. AgentUnreachable: it could not be asked.
        """
        return value_of(self.exchange("GET", target_of(path, query), None, True, timeout_s))

    def get_bytes(self, path: str, query: Query = (), timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """GET of something that is not JSON; raises like :meth:`get`."""
        return _checked(self.exchange("GET", target_of(path, query), None, True, timeout_s))

    def post(self, path: str, body: Any, *, repeatable: bool = False, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """POST ``body`` as JSON (bytes are sent as they are); raises like :meth:`get`.

        Args:
            repeatable: making the call twice is the same as making it once, so it may be sent again when the connection
                breaks before the answer.
        """
        return value_of(self.exchange("POST", target_of(path), encoded(body), repeatable, timeout_s))

    def post_bytes(self, path: str, body: Any) -> Answer:
        """POST, which must be repeatable, for something that is not JSON; raises like :meth:`get`."""
        return _checked(self.exchange("POST", target_of(path), encoded(body), True, CALL_TIMEOUT_S))

    def delete(self, path: str, query: Query = ()) -> Any:
        """DELETE, which is always repeatable; raises like :meth:`get`."""
        return value_of(self.exchange("DELETE", target_of(path, query), None, True, CALL_TIMEOUT_S))


def path_of(*parts: str) -> str:
    """``/v1/…`` with each part quoted: an id or a name may hold anything."""
    return "/v1/" + "/".join(quote(part, safe="", errors="surrogateescape") for part in parts)


def target_of(path: str, query: Query = ()) -> str:
    """Path and query; what is None is left out."""
    pairs = query.items() if isinstance(query, Mapping) else query
    flat: list[tuple[str, str]] = []
    for name, value in pairs:
        values = value if isinstance(value, (list, tuple)) else [value]
        flat.extend((name, str(item)) for item in values if item is not None)
    return f"{path}?{urlencode(flat, errors='surrogateescape')}" if flat else path


def encoded(body: Any) -> bytes:
    """A body as it is sent: JSON, or bytes as they are."""
    if isinstance(body, bytes):
        return body
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _checked(answer: Answer) -> Answer:
    if answer.status < 400:
        return answer
    try:
        reported = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        raise LwfmError(
            f"the agent answered with HTTP status {answer.status}", hint="lwfm agent logs may tell more"
        ) from None
    raise errors.from_json(reported)


def value_of(answer: Answer) -> Any:
    """The JSON of an answer. Raises LwfmError: the one that it reports."""
    _checked(answer)
    try:
        return json.loads(answer.body) if answer.body else {}
    except ValueError:
        raise AgentUnreachable("what answers at the agent's socket does not speak as an agent does") from None
