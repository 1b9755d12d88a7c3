"""Times and sizes as people and schedulers write them, turned into seconds and bytes. Pure."""

from __future__ import annotations

import re
from typing import Optional

_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def seconds_of(text: str) -> Optional[float]:
    """The seconds in ``90``, ``10m``, ``1h30m``, ``2d``, ``10:00`` (minutes), ``1:30:00`` or ``2-03:04:05``; None: no time."""
    text = text.strip().lower()
    return _clock_seconds(text) if ":" in text else _unit_seconds(text)


def count_of(text: str) -> Optional[int]:
    """A whole number as schedulers write it, of no more digits than any of theirs has; None: it is none."""
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def bytes_of(text: str) -> Optional[int]:
    """The bytes in ``4G``, ``512M``, ``1.5GiB`` (powers of 1024), ``4GB`` (powers of 1000) or a number; None: no size."""
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{0,18})?)\s*([kmgt]?)(i?b?)\s*", text.lower(), re.ASCII)
    if not found:
        return None
    number, unit, suffix = found.groups()
    return int(float(number) * (_DECIMAL[unit] if suffix == "b" and unit else _BINARY[unit]))


def _clock_seconds(text: str) -> Optional[float]:
    found = re.fullmatch(r"(?:(\d{1,9})-)?(?:(\d{1,9}):)?(\d{1,9}):(\d{1,9}(?:\.\d{0,9})?)", text, re.ASCII)
    if not found:
        return None
    days, hours, minutes, seconds = found.groups(default="0")
    return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _unit_seconds(text: str) -> Optional[float]:
    if re.fullmatch(r"\d{1,18}(\.\d{0,18})?", text, re.ASCII):
        return float(text)
    number = r"([\d.]{1,18})"
    units = rf"(?:{number}d)?\s*(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?"
    found = re.fullmatch(units, text, re.ASCII)
    if not found or not text:
        return None
    try:
        days, hours, minutes, seconds = (float(part) for part in found.groups(default="0"))
    except ValueError:
        return None
    return days * 86400 + hours * 3600 + minutes * 60 + seconds
