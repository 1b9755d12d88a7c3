"""Pieces of a report's HTML: text made safe, tables, the signs of states. Knows nothing of workflows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

from ..ids import short
from .report_style import STATES, fill_of
from .text import harmless

Cell = tuple[str, str]
"""What is in a cell, as HTML, and the class of the cell."""


def clean(text: object, length: int = 0) -> str:
    """Text for HTML: control characters shown, cut to ``length`` when that is given, escaped."""
    plain = harmless(str(text))
    return escape(plain if not length or len(plain) <= length else plain[: length - 1] + "…")


def utc(moment: float | None) -> str:
    """Seconds since the epoch as date and time, in UTC."""
    if moment is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    except (ValueError, OverflowError, OSError):
        return ""


def table(titles: Sequence[Cell], rows: Iterable[Sequence[Cell]], caption: str = "", kind: str = "") -> str:
    """A table; it scrolls by itself where the page is narrow.

    Args:
        titles: of the columns. kind: a class for the table; ``small`` is no wider than it needs to be.
    """
    head = "".join(f'<th scope="col"{_class(cell)}>{text}</th>' for text, cell in titles)
    lines = "".join(f"<tr>{''.join(f'<td{_class(cell)}>{text}</td>' for text, cell in row)}</tr>\n" for row in rows)
    told = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="wide"><table{_class(kind)}>{told}<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def state_cell(state: str) -> Cell:
    """A state as a word, with its colour and pattern before it."""
    return f"{state_key(state)}{escape(state)}", "s"


def state_key(state: str) -> str:
    """The sign of a state: its colour and pattern."""
    shape = f'<rect width="12" height="12" style="fill:{fill_of(state)}"/>'
    return f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{shape}</svg>'


def identifier(whole: object) -> str:
    """An id as people see it; the whole one when pointed at."""
    return f'<code title="{clean(whole)}">{clean(short(str(whole)))}</code>'


def number(text: str) -> Cell:
    """A cell of a column of numbers."""
    return text, "n"


def in_order(states: Iterable[str]) -> list[str]:
    """States in the order in which they are told."""
    return sorted(states, key=lambda state: (STATES.index(state) if state in STATES else len(STATES), state))
