"""Lists of hosts as schedulers write them: ``n[01-03,7],m5``. Turns text into names and names into text. Pure.

The notation is Slurm's (``scontrol show hostnames``) and Flux's (RFC 29): any number of brackets in a name, ranges in
brackets, zeros in front kept. Lists with commas or white space between plain names are of the same notation.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Optional

from .errors import InvalidRecord

MAX_HOSTS = 100_000
"""Names in one list: ten times the nodes of the largest machine, and little enough to hold in memory."""

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_PIECE = re.compile(r"[^\[\]]+|\[[^\[\]]*\]")
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_NUMBERED = re.compile(r"(.*?)(\d{1,18})(\D*)", re.ASCII)


def expand(text: str) -> list[str]:
    """The hosts that ``text`` lists, in its order; a host that is listed twice is there twice.

    Args:
        text: names between commas or white space, with ranges in brackets. A range has as many digits as its first number.

    Raises:
        InvalidRecord: the list is empty or malformed, a name could not be a host's, or there are more than ``MAX_HOSTS``.
    """
    hosts: list[str] = []
    for item in _items(text):
        parts = [_numbers(piece, item) if piece.startswith("[") else [piece] for piece in _pieces(item)]
        if len(hosts) + math.prod(map(len, parts)) > MAX_HOSTS:
            raise _too_many()
        hosts.extend(check_name("".join(combination)) for combination in itertools.product(*parts))
    if not hosts:
        raise InvalidRecord("a list of hosts is empty")
    return hosts


def fold(hosts: Sequence[str]) -> str:
    """A short text that :func:`expand` turns into ``hosts`` again, in the same order; ``""`` for none.

    Only neighbours in the list are put into one bracket, by the last number in their names. A command that names a
    thousand nodes stays far below the length that the system allows one argument (128 KiB on Linux).
    """
    return ",".join(_bracket(*run) for run in _runs(hosts))


def check_name(host: str) -> str:
    """``host``, which must look like a host's name: no spaces, nothing a shell would take up, no ``-`` in front.

    Raises:
        InvalidRecord: it does not.
    """
    if not _NAME.fullmatch(host):
        raise InvalidRecord(f"{host[:80]!r} cannot be a host's name")
    return host


def same_host(one: str, other: str) -> bool:
    """Whether two names may mean one host: they are equal, or one of them is short and is how the other begins.

    ``n1`` is ``n1.cluster``, but ``n1.east`` is not ``n1.west``. Case does not count.
    """
    one, other = one.lower(), other.lower()
    if one == other:
        return True
    return ("." not in one or "." not in other) and one.split(".")[0] == other.split(".")[0]


def _items(text: str) -> Iterator[str]:
    """The names of the list, each with its brackets."""
    start = depth = 0
    for position, letter in enumerate(text + ","):
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        elif letter == "," and depth == 0:
            names = text[start:position].split()
            if not names and text.strip():
                raise InvalidRecord(
                    f"the list of hosts {_shown(text)} has nothing between two commas or after the last"
                )
            yield from names
            start = position + 1
        if depth not in (0, 1):
            raise _malformed(text)
    if depth:
        raise _malformed(text)


def _pieces(item: str) -> list[str]:
    pieces: list[str] = _PIECE.findall(item)
    if "".join(pieces) != item:
        raise _malformed(item)
    return pieces


def _numbers(bracket: str, item: str) -> list[str]:
    numbers: list[str] = []
    for part in bracket[1:-1].split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise InvalidRecord(
                f"the list of hosts {_shown(item)} has {_shown(part)} where a number or a range must be"
            )
        first, last = found.group(1), found.group(2) or found.group(1)
        if int(last) < int(first):
            raise InvalidRecord(f"the list of hosts {_shown(item)} has the range {part}, which runs backwards")
        if last.startswith("0") and len(last) != len(first):
            raise InvalidRecord(f"the list of hosts {_shown(item)} has the range {part}, whose ends differ in zeros")
        if len(numbers) + int(last) - int(first) + 1 > MAX_HOSTS:
            raise _too_many()
        numbers.extend(str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return numbers


def _runs(hosts: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    """Neighbours that differ in their last number only: what stands before it, the ranges, and what follows it."""
    current: Optional[tuple[str, list[tuple[str, str]], str]] = None
    for host in hosts:
        found = _NUMBERED.fullmatch(host)
        before, number, after = found.groups() if found else (host, "", "")
        if current is None or not number or not current[1] or (before, after) != (current[0], current[2]):
            if current is not None:
                yield current
            current = (before, [(number, number)] if number else [], after)
            continue
        first, last = current[1][-1]
        if number == str(int(last) + 1).zfill(len(first)):
            current[1][-1] = (first, number)
        else:
            current[1].append((number, number))
    if current is not None:
        yield current


def _bracket(before: str, ranges: list[tuple[str, str]], after: str) -> str:
    numbers = ",".join(first if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{before}[{numbers}]{after}" if "," in numbers or "-" in numbers else before + numbers + after


def _malformed(text: str) -> InvalidRecord:
    return InvalidRecord(
        f"the list of hosts {_shown(text)} has brackets that do not match", hint="one level of brackets: n[01-03,7]"
    )


def _too_many() -> InvalidRecord:
    return InvalidRecord(f"a list of more than {MAX_HOSTS} hosts")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
