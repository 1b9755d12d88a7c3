"""What all records share: JSON in both directions, unknown keys kept, and the checks on what their fields hold. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, TypeVar

from .errors import InvalidRecord

JSON = dict[str, Any]
T = TypeVar("T", bound="Record")

MAX_DEPTH = 32
"""Levels of lists and objects in properties."""
MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class Record:
    """What all records share: JSON in both directions, unknown keys kept."""

    _terse: ClassVar[bool] = False
    """Whether a field that has its default value is left out of the JSON too."""

    def to_json(self) -> JSON:
        """The record as a JSON object; fields that hold nothing are left out."""
        body: JSON = {}
        values, terse = self.__dict__, self._terse
        for name, default in _fields(type(self)):
            value = values[name]
            if value is None or (terse and value is default):
                continue
            if value == () or value == {} or (terse and value == default):
                continue
            plain = value if type(value) in _PLAIN else _plain(value)
            if plain != {}:
                body[name] = plain
        body.update(values.get("extra") or {})
        return body

    @classmethod
    def from_json(cls: type[T], body: Any) -> T:
        """The record that ``body`` describes.

        Raises:
            InvalidRecord: a value is of the wrong type or a required key is missing; the message names it.
        """
        if isinstance(body, cls):
            return body
        if not isinstance(body, Mapping):
            raise InvalidRecord(f"{cls.__name__}: a JSON object is needed, not {type(body).__name__}")
        known = dict(_fields(cls))
        values = {key: value for key, value in body.items() if key in known}
        values["extra"] = {key: value for key, value in body.items() if key not in known}
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidRecord(f"{cls.__name__}: {_missing(error)}") from None


_PLAIN = frozenset({str, int, float, bool})
"""The types that JSON has as they are."""


def check_facts(facts: Mapping[str, Any]) -> None:
    """Make sure that what is told of a status is of the type its field in :class:`JobStatus` has.

    Raises:
        InvalidRecord: it is not; the message names it.
    """
    for name, value in facts.items():
        if value is None:
            continue
        if name in _WHOLE_FACTS:
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
                raise InvalidRecord(f"{name} must be a whole number, not {value!r}"[:200])
        elif name == "cpu_seconds":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_INTEGER:
                raise InvalidRecord(f"{name} must be a number of seconds, not {value!r}"[:200])
        elif not isinstance(value, str) or "\0" in value:
            raise InvalidRecord(f"{name} must be text, not {value!r}"[:200])


_WHOLE_FACTS = frozenset({"exit_code", "peak_rss_bytes", "read_bytes", "write_bytes", "stdout_bytes", "stderr_bytes"})


def without_none(body: Mapping[str, Any]) -> JSON:
    """What of ``body`` holds something."""
    return {key: value for key, value in body.items() if value is not None}


def check_properties(value: Any, what: str, depth: int = 1) -> JSON:
    """``value`` as a JSON object with text keys.

    Raises:
        InvalidRecord: not a mapping, a key that is not text, or a value that JSON does not have; the message names it.
    """
    if not isinstance(value, Mapping):
        raise InvalidRecord(f"{what} must be an object of names and values, not {type(value).__name__}")
    checked = {}
    for key, item in value.items():
        if not isinstance(key, str) or not key or "\0" in key:
            raise InvalidRecord(f"{what}: {key!r} is not a name")
        checked[_unicode(key)] = _json_value(item, f"{what}: {key}"[:200], depth)
    return checked


def _json_value(value: Any, what: str, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _unicode(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidRecord(f"{what}: {value} is not a JSON number", hint="put it as text, or leave it out")
        return value
    if depth >= MAX_DEPTH:
        raise InvalidRecord(f"{what}: more than {MAX_DEPTH} levels of lists and objects", hint="put it into a file")
    if isinstance(value, Mapping):
        return check_properties(value, what, depth + 1)
    if isinstance(value, (list, tuple)):
        return [_json_value(item, what, depth + 1) for item in value]
    raise InvalidRecord(
        f"{what}: a {type(value).__name__} is not a JSON value",
        hint="use text, numbers, true, false, null, lists or objects",
    )


def _unicode(text: str) -> str:
    """``text`` with what Unicode cannot say shown with backslashes, so that it can be searched for; without NUL likewise."""
    text = text.replace("\0", "\\x00") if "\0" in text else text
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


_FIELDS: dict[type[Any], tuple[tuple[str, Any], ...]] = {}


def _fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """The names and defaults of a record's fields, without ``extra``; looked up once for each class."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple((item.name, item.default) for item in dataclasses.fields(kind) if item.name != "extra")
    return _FIELDS[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [item if type(item) is str else _plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value


def set_field(record: Record, name: str, value: Any) -> None:
    """Give a frozen record's field its checked value."""
    object.__setattr__(record, name, value)


def check_text(record: Record, name: str) -> str:
    """The field's value, which must be text without NUL.

    Raises:
        InvalidRecord: it is not.
    """
    value = getattr(record, name)
    if not isinstance(value, str) or "\0" in value:
        raise InvalidRecord(f"{name} must be text, not {value!r}")
    return value


def check_integer(record: Record, name: str, *, minimum: int, optional: bool = False) -> None:
    """Make sure that the field holds a whole number from ``minimum``, or None where ``optional``.

    Raises:
        InvalidRecord: it does not.
    """
    value = getattr(record, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRecord(f"{name} must be a whole number, not {value!r}")
    if value < minimum:
        raise InvalidRecord(f"{name} must be at least {minimum}, not {value}")
    if value > MAX_INTEGER:
        raise InvalidRecord(f"{name} must be at most {MAX_INTEGER}")


def check_number(record: Record, name: str) -> float:
    """The field's value, which must be a number.

    Raises:
        InvalidRecord: it is not.
    """
    value = getattr(record, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_INTEGER:
        raise InvalidRecord(f"{name} must be a number, not {value!r}"[:200])
    return float(value)


def check_words(record: Record, name: str) -> tuple[str, ...]:
    """The field's value as a tuple of text, which it becomes.

    Raises:
        InvalidRecord: it is not a list of text.
    """
    value = getattr(record, name)
    if value == ():
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
        raise InvalidRecord(f"{name} must be a list of text, not {value!r}"[:200])
    if "\0" in "".join(value):
        raise InvalidRecord(f"{name} holds a NUL character, which no program and no file name can have")
    set_field(record, name, tuple(value))
    return tuple(value)


def _missing(error: TypeError) -> str:
    text = str(error)
    _, _, names = text.partition("argument")
    return f"{names.lstrip('s: ')} is missing" if "missing" in text else text
