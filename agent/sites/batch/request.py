"""A batch job as it is asked for, and what people may say of one, checked. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from ...errors import InvalidRecord
from ...quantities import bytes_of, seconds_of


@dataclass(frozen=True)
class BatchRequest:
    """A batch job as it is asked for: an allocation, or a job of ours.

    Args:
        nodes: how many. ``time_s``: for how long; infinity: as the scheduler does with jobs that do not say.
        mark: identifies the request, so that a job whose submission was not answered is found again.
        partition, account, qos, name: as the scheduler knows them; None: its default.
        cores, gpus: of each node; cores None: whole nodes. ``memory_bytes``: of each node; None: what the scheduler gives.
        options: more words for the command that submits.
        tasks_per_node: how many of its programs the scheduler shall take it to start on each node; they share the cores.
        gres: further generic resources. ``environment``: the parallel environment. Each where the scheduler has such a thing.
        elements: 0: one job; else an array of so many, numbered from 1.
        survives: whether it lives on when one of its nodes fails.
    """

    nodes: int
    time_s: float
    mark: str = ""
    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    name: str = "lwfm"
    cores: Optional[int] = None
    gpus: Optional[int] = None
    memory_bytes: Optional[int] = None
    options: tuple[str, ...] = ()
    tasks_per_node: int = 1
    gres: Optional[str] = None
    environment: Optional[str] = None
    elements: int = 0
    survives: bool = True


def request_of(spec: Mapping[str, Any], mark: str) -> BatchRequest:
    """What a person asks for, checked; keys that are not ours are refused.

    Args:
        spec: ``nodes`` (default 1), ``time`` (needed), ``partition``, ``account``, ``qos``, ``name``, ``cores``, ``gpus``,
            ``memory``, ``option`` (a word, or a list of them). ``mark``: of the request.

    Raises:
        InvalidRecord: a key is unknown or a value malformed; the message names it.
    """
    unknown = sorted(set(spec) - _KEYS)
    if unknown:
        raise InvalidRecord(f"an allocation has no {unknown[0]}", hint=f"it has {', '.join(sorted(_KEYS))}")
    time_s = quantity(spec, "time", seconds_of, "1:00:00 or 90m")
    if time_s is None:
        raise InvalidRecord("time is missing: how long the allocation shall last", hint="such as time=1:00:00")
    memory = quantity(spec, "memory", bytes_of, "4G")
    return BatchRequest(
        nodes=_count(spec, "nodes", 1) or 1,
        time_s=time_s,
        mark=mark,
        partition=_word(spec, "partition"),
        account=_word(spec, "account"),
        qos=_word(spec, "qos"),
        name=_word(spec, "name") or "lwfm",
        cores=_count(spec, "cores", 1),
        gpus=_count(spec, "gpus", 0),
        memory_bytes=None if memory is None else math.ceil(memory),
        options=_options(spec.get("option")),
    )


_KEYS = frozenset(("nodes", "time", "partition", "account", "qos", "name", "cores", "gpus", "memory", "option"))


def quantity(spec: Mapping[str, Any], name: str, read: Any, example: str, *, zero: bool = False) -> Optional[float]:
    """A time or a size of ``spec``: a number, or text that ``read`` understands; None where it is not given.

    Raises:
        InvalidRecord: it is neither, or not more than 0 (with ``zero``: less than 0).
    """
    value = spec.get(name)
    if value is None:
        return None
    number = read(value) if isinstance(value, str) else value
    sensible = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not sensible or number < 0 or (number == 0 and not zero):
        raise InvalidRecord(f"{name} must be like {example}, not {value!r}"[:200])
    return float(number)


def job_request(keys: frozenset[str], given: Mapping[str, Any], request: BatchRequest) -> BatchRequest:
    """``request`` with what somebody gives for the scheduler alone, checked.

    Args:
        keys: those the scheduler knows, of ``partition``, ``account``, ``qos``, ``gres``, ``environment``, ``option``.
        given: the values. ``option``: a word, or a list of them, which go to the command that submits as they are.

    Raises:
        InvalidRecord: a key is unknown or a value malformed; the message names it.
    """
    unknown = sorted(set(given) - keys)
    if unknown:
        raise InvalidRecord(
            f"this site knows no option {unknown[0]!r}"[:200], hint=f"it knows {', '.join(sorted(keys))}"
        )
    words: dict[str, Any] = {name: _word(given, name) for name in keys - {"option"}}
    return replace(
        request,
        options=(*request.options, *_options(given.get("option"))),
        **{name: value for name, value in words.items() if value is not None},
    )


def check_options(options: Sequence[str], refused: frozenset[str]) -> list[str]:
    """Options such as ``-l gpu=1`` as the words of a command, an option and what it takes apart.

    Raises:
        InvalidRecord: one of them would make the command something else than the submission of one job.
    """
    words: list[str] = []
    for option in options:
        if option[:2] in refused or option.split()[0] in refused:
            raise InvalidRecord(f"option {option!r} is not possible here: lwfm sets it"[:200])
        words += option.split(None, 1)
    return words


def _count(spec: Mapping[str, Any], name: str, least: int) -> Optional[int]:
    value = spec.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**7:
        raise InvalidRecord(f"{name} must be a whole number from {least}, not {value!r}"[:200])
    return int(value)


def _word(spec: Mapping[str, Any], name: str) -> Optional[str]:
    value = spec.get(name)
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # an account may be a number
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or text.startswith("-"):
        raise InvalidRecord(f"{name} must be a name, not {value!r}"[:200])
    return text


def _options(given: Any) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given or ()
    if not isinstance(listed, (list, tuple)) or not all(isinstance(word, str) for word in listed):
        raise InvalidRecord(f"option must be words such as --reservation=mine, not {given!r}"[:200])
    for word in listed:
        if not word.startswith("-") or not word.isprintable():
            raise InvalidRecord(
                f"option {word!r} does not begin with a dash"[:200], hint="such as option=--reservation=mine"
            )
    return tuple(listed)
