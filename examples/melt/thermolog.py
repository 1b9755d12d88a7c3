"""Reads the thermodynamic tables in a log of LAMMPS (or of lj_md.py, which writes the same)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

END_OF_RUN = "Loop time of"


@dataclass
class Run:
    """The table of one ``run`` command.

    Args:
        columns: the names in its header, as ``Step``, ``Temp``.
        rows: its numbers, a list per line.
        complete: whether the log says that the run came to its end.
        seconds: how long it took, if it did.
    """

    columns: list[str]
    rows: list[list[float]] = field(default_factory=list)
    complete: bool = False
    seconds: float | None = None

    def column(self, name: str) -> list[float]:
        """The values under ``name``.

        Raises:
            ValueError: there is no such column; the message lists those there are.
        """
        if name not in self.columns:
            raise ValueError(f"the log has no column {name}, only {', '.join(self.columns)}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def parse_log(text: str) -> list[Run]:
    """The runs of a log, in order.

    Lines between the rows that are no rows (warnings, messages of a fix) are passed over. A last line without an end is
    left out, for nobody knows what its last number would have been.
    """
    runs: list[Run] = []
    lines = text.split("\n")
    lines.pop()  # what follows the last newline: nothing, or half a line
    for line in lines:
        words = line.split()
        if _is_header(words):
            runs.append(Run(words))
        elif runs and not runs[-1].complete:
            if line.lstrip().startswith(END_OF_RUN):
                runs[-1].complete = True
                runs[-1].seconds = _number(words[3]) if len(words) > 3 else None
            else:
                row = [_number(word) for word in words]
                if len(row) == len(runs[-1].columns) and None not in row:
                    runs[-1].rows.append([value for value in row if value is not None])
    return runs


def read_log(path: Path) -> list[Run]:
    """The runs in the log at ``path``; bytes that are not UTF-8 are of no consequence.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no table.
    """
    runs = [run for run in parse_log(path.read_text(encoding="utf-8", errors="replace")) if run.rows]
    if not runs:
        raise ValueError(f"{path} holds no thermodynamic output")
    return runs


def find_error(text: str) -> str | None:
    """The last line in which LAMMPS says why it gave up, if it did."""
    errors = [line.strip() for line in text.splitlines() if line.lstrip().startswith("ERROR")]
    return errors[-1] if errors else None


def _is_header(words: list[str]) -> bool:
    return len(words) > 1 and words[0] == "Step" and all(_number(word) is None for word in words)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
