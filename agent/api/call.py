"""One call of the API and its answer, apart from HTTP; and the route by which it comes to the function that answers it."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Optional, Union

from ..errors import InvalidRecord
from ..instance import Instance

MAX_NUMBER = 2.0**53
JSON = dict[str, Any]


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON: bytes, with headers."""

    body: bytes
    headers: dict[str, str]


class Call:
    """One request, its parts where they are easy to get at.

    Args:
        arguments: what stands in the path. ``query``: of the request.
    """

    def __init__(self, arguments: tuple[str, ...], query: dict[str, list[bytes]], raw_body: bytes):
        self.arguments = arguments
        self._query = query
        self._raw_body = raw_body

    def body(self) -> JSON:
        """The body, a JSON object; empty when there is none.

        Raises:
            InvalidRecord: it is not.
        """
        if not self._raw_body:
            return {}
        try:
            parsed = json.loads(self._raw_body, parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise InvalidRecord(f"the body is not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise InvalidRecord("the body must be a JSON object")
        return parsed

    def data(self) -> bytes:
        """The body, as it is."""
        return self._raw_body

    def values(self, name: str) -> list[str]:
        """All values of a query parameter; what is no Unicode, such as a file name may be, as the store shows it."""
        texts = [value.decode("utf-8", "surrogateescape") for value in self._query.get(name, ())]
        return [text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts]

    def value(self, name: str) -> Optional[str]:
        """The last value of a query parameter; None when it is absent or empty."""
        found = self.values(name)
        return found[-1] or None if found else None

    def number(self, name: str, default: float) -> float:
        """A query parameter as a number that is not negative.

        Raises:
            InvalidRecord: it is not one.
        """
        value = self.value(name)
        return default if value is None else _number(value, name)

    def limit(self) -> int:
        """How many rows are wanted; 0: all."""
        return int(self.number("limit", 50))


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def number_of(body: JSON, name: str) -> float:
    """A number of a body that is not negative; 0 when it is absent.

    Raises:
        InvalidRecord: it is not one.
    """
    value = body.get(name)
    return 0.0 if value is None else _number(value, name)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number <= MAX_NUMBER:
        raise InvalidRecord(f"{name} must be a number from 0, not {value!r}"[:200])
    return number


Answer = Union[JSON, Raw]
Function = Callable[[Instance, Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """Which function answers which calls.

    Args:
        always: also when the agent has run out of file descriptors.
    """

    method: str
    pattern: re.Pattern[str]
    function: Function
    always: bool = False


def route(method: str, path: str, function: Function, *, always: bool = False) -> Route:
    """A route for ``path``, in which ``*`` stands for one part of it."""
    return Route(method, re.compile(re.escape(path).replace(r"\*", "([^/]+)") + "$"), function, always)
