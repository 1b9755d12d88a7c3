"""Showing things: tables, pairs, trees and JSON; fitted and coloured on a terminal, plain elsewhere.

Everything that comes from records passes through ``text.harmless`` here. Asks nobody anything.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, Optional

from ..ids import short
from .text import harmless

STATE_STYLES = {
    "COMPLETE": "green",
    "RUNNING": "cyan",
    "FINISHING": "cyan",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "UNKNOWN": "magenta",
    "PENDING": "blue",
    "READY": "bright_black",
    "ok": "green",
    "warning": "yellow",
    "failure": "bold red",
}

GAP = "  "
NARROWEST = 8
_FLEXIBLE = ("NAME", "ORIGIN", "COMMAND", "PATH", "DATA", "WHEN", "DESCRIPTION")

Row = Sequence[Optional[str]]


def on_terminal() -> bool:
    """Whether a person looks at what is printed."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def identifier(whole: str) -> str:
    """An id of a list: short for a person, whole for a program."""
    return short(whole) if on_terminal() else whole


def say(text: str = "") -> None:
    """A line for the person."""
    print(text)


def note(text: str) -> None:
    """A line about what is going on, beside the result: on standard error."""
    sys.stdout.flush()
    print(harmless(text), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """JSON for programs: a list with one element per line, an object indented."""
    if not isinstance(value, list):
        print(json.dumps(value, indent=2))
        return
    write = sys.stdout.write
    write("[")
    for index, item in enumerate(value):
        write(("," if index else "") + "\n" + json.dumps(item))
    write("\n]\n" if value else "]\n")


def table(titles: Sequence[str], rows: Iterable[Row], *, empty: str = "") -> None:
    """Rows under titles. Columns with long texts give way when the terminal is narrow; elsewhere nothing is cut.

    Args:
        empty: what to say when there is no row.
    """
    cells = [[harmless(cell or "") for cell in row] for row in rows]
    if not cells:
        if empty and on_terminal():
            note(empty)
        return
    used = [index for index in range(len(titles)) if any(row[index] for row in cells)]
    titles = [titles[index] for index in used]
    cells = [[row[index] for index in used] for row in cells]
    if on_terminal():
        _terminal_table(titles, cells)
    else:
        _plain_table(titles, cells)


def pairs(values: Iterable[tuple[str, str | None]]) -> None:
    """Names and values, one pair a line; what is empty is left out."""
    shown = [(name, harmless(value)) for name, value in values if value]
    width = max((len(name) for name, _ in shown), default=0)
    colour = colours_wanted()
    for name, value in shown:
        label = f"{name:<{width}}"
        print(f"{_dim(label) if colour else label}  {_coloured(value) if colour else value}")


def tree(node: Any, label: Callable[[Any], str]) -> Iterator[str]:
    """The lines of a tree of objects with their ``children``; ``label`` gives the text of one."""
    yield label(node)
    below = node.get("children") or []
    for index, child in enumerate(below):
        last = index == len(below) - 1
        for number, line in enumerate(tree(child, label)):
            lead = ("└─ " if last else "├─ ") if number == 0 else ("   " if last else "│  ")
            yield lead + line


def colours_wanted() -> bool:
    """Whether to use colours on standard output."""
    return on_terminal() and not os.environ.get("NO_COLOR")


def _plain_table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [list(titles), *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(titles))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip())


def _terminal_table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    import shutil

    from rich.cells import cell_len, set_cell_size  # the rest of rich is not needed, and slow to load

    colour = colours_wanted()
    lines = [list(titles), *cells]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(titles))]
    flexible = [index for index, title in enumerate(titles) if title in _FLEXIBLE or index == len(titles) - 1]
    widths = _squeezed(widths, flexible, shutil.get_terminal_size().columns - len(GAP) * (len(titles) - 1))
    for number, line in enumerate(lines):
        shown = []
        for cell, width in zip(line, widths):
            fits = cell if cell_len(cell) <= width else set_cell_size(cell, max(0, width - 1)) + "…"
            padded = set_cell_size(fits, width)
            shown.append(_bold(padded) if colour and number == 0 else _coloured(padded) if colour else padded)
        print(GAP.join(shown).rstrip())


def _squeezed(widths: list[int], flexible: Sequence[int], room: int) -> list[int]:
    """``widths`` made to fit into ``room``: the widest of the flexible columns gives way first."""
    widths = list(widths)
    while sum(widths) > room:
        index = max(flexible, key=lambda column: widths[column])
        if widths[index] <= NARROWEST:
            break
        others = max((widths[column] for column in flexible if column != index), default=0)
        widths[index] -= max(1, min(sum(widths) - room, widths[index] - max(others, NARROWEST)))
    return widths


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


_ANSI = {
    "green": "32",
    "cyan": "36",
    "bold red": "1;31",
    "yellow": "33",
    "magenta": "35",
    "blue": "34",
    "bright_black": "90",
}


def _coloured(value: str) -> str:
    """``value``, in its colour when it is (or begins with) a state."""
    style = STATE_STYLES.get(value.split(" ", 1)[0])
    return f"\x1b[{_ANSI[style]}m{value}\x1b[0m" if style else value


def coloured_state(state: str) -> str:
    """A state in its colour, where colours are wanted."""
    return _coloured(state) if colours_wanted() else state
