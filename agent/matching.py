"""Conditions on metadata: what ``find``, ``job list --match`` and data handlers ask of properties. Pure.

A condition is a property name and what its value must be:

============================  =====================================================================
``{"T": 0.7}``                equal; numbers compare as numbers, so ``0.7``, ``"0.7"`` and ``"0.70"`` are one
``{"kind": "therm*"}``        a text with ``*``, ``?`` or ``[`` is a glob (case matters)
``{"kind": "~^thermo"}``      a text after ``~`` is a regular expression, searched for
``{"T": ">=0.7"}``            ``<``, ``<=``, ``>``, ``>=`` and ``!=`` compare; as numbers where both are
``{"note": "=a*b"}``          a text after ``=`` is taken as it stands
============================  =====================================================================

All conditions of a match must hold. A property that is a list matches when one of its elements does; nested objects
are addressed with dots, ``{"box.x": 4}``.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .errors import InvalidRecord

MAX_EXPRESSION_LENGTH = 1000


@dataclass(frozen=True)
class Condition:
    """One property's condition.

    Args:
        key: the property.
        op: one of ``eq ne lt le gt ge glob regex``.
        text: what to compare with, as text.
        number: the same as a number, where it is one.
    """

    key: str
    op: str
    text: str
    number: Optional[float]

    def accepts(self, text: str, number: Optional[float]) -> bool:
        """Whether a value holds that reads ``text`` and, where it is a number, ``number``."""
        if self.op == "glob":
            return fnmatch.fnmatchcase(text, self.text)
        if self.op == "regex":
            return re.search(self.text, text) is not None
        if self.number is not None and number is not None:
            return bool(_COMPARE[self.op](number, self.number))
        return bool(_COMPARE[self.op](text, self.text))


@dataclass(frozen=True)
class Match:
    """All of its conditions together."""

    conditions: tuple[Condition, ...]

    def accepts(self, properties: Mapping[str, Any]) -> bool:
        """Whether ``properties`` fulfils every condition."""
        rows: dict[str, list[tuple[str, Optional[float]]]] = {}
        for key, text, number in flatten(properties):
            rows.setdefault(key, []).append((text, number))
        return all(
            any(condition.accepts(text, number) for text, number in rows.get(condition.key, ()))
            for condition in self.conditions
        )


_COMPARE: dict[str, Any] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_PREFIXES = ((">=", "ge"), ("<=", "le"), ("!=", "ne"), (">", "gt"), ("<", "lt"), ("~", "regex"), ("=", "eq"))


def parse_match(match: Mapping[str, Any]) -> Match:
    """The parsed form of a mapping of property names to conditions.

    Raises:
        InvalidRecord: a name that is not text, or an expression that is too long or not a regular expression.
    """
    return Match(tuple(_condition(key, value) for key, value in match.items()))


def parse_terms(terms: Sequence[str]) -> dict[str, str]:
    """What a command line's ``KEY=VALUE``, ``KEY~REGEX``, ``KEY>=N``, ``KEY!=VALUE`` … mean, as a match mapping.

    Raises:
        InvalidRecord: a term without an operator, or without a name before it, or nothing behind one that compares.
    """
    match: dict[str, str] = {}
    for term in terms:
        found = re.match(r"([^=<>!~]+)(>=|<=|!=|=|>|<|~)(.*)", term, re.DOTALL)
        if not found:
            raise InvalidRecord(
                f"{term!r} is not a condition", hint="write KEY=VALUE, KEY=GLOB*, KEY~REGEX or KEY>=NUMBER"
            )
        key, operator, value = found.groups()
        if not value and operator[0] in "<>":
            raise InvalidRecord(f"{term!r} compares with nothing", hint=f"write a number or a text behind {operator}")
        match[key.strip()] = value if operator == "=" else operator + value
    return match


def _condition(key: Any, value: Any) -> Condition:
    if not isinstance(key, str) or not key:
        raise InvalidRecord(f"{key!r} is not a property's name")
    if not isinstance(value, str):
        text = value_text(value)
        return Condition(key, "eq", text, as_number(value))
    if len(value) > MAX_EXPRESSION_LENGTH:
        raise InvalidRecord(f"the condition on {key} is longer than {MAX_EXPRESSION_LENGTH} characters")
    found = next(((name, value[len(prefix) :]) for prefix, name in _PREFIXES if value.startswith(prefix)), None)
    op, text = found or ("glob" if any(mark in value for mark in "*?[") else "eq", value)
    if op in ("regex", "glob"):
        try:
            re.compile(text if op == "regex" else fnmatch.translate(text))
        except (re.error, RecursionError, OverflowError) as error:
            what = "regular expression" if op == "regex" else "glob"
            raise InvalidRecord(f"the condition on {key} is not a {what}: {error}") from None
    return Condition(key, op, text, as_number(text) if op not in ("glob", "regex") else None)


def flatten(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Optional[float]]]:
    """One row per value: its key (dots between levels), its text, and its number where it is one."""
    for key, value in properties.items():
        name = prefix + key
        if isinstance(value, Mapping):
            yield from flatten(value, name + ".")
        elif isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, Mapping):
                    yield from flatten(item, name + ".")
                else:
                    yield name, value_text(item), as_number(item)
        else:
            yield name, value_text(value), as_number(value)


def value_text(value: Any) -> str:
    """A value as it is compared: text as it is, everything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def as_number(value: Any) -> Optional[float]:
    """The finite number that a value is or reads as; None for booleans and everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
