"""The canonical job states and the rules between them. Pure: knows nothing of stores, sites or processes."""

from __future__ import annotations

from enum import Enum

from .errors import InvalidRecord


class JobState(str, Enum):
    """A job's state, the same word on every site; the site's own word is kept beside it as ``native_status``."""

    READY = "READY"
    """Defined, its trigger has not happened yet."""
    PENDING = "PENDING"
    """Accepted, waits for resources."""
    RUNNING = "RUNNING"
    """Its process has started."""
    INFO = "INFO"
    """A message from a running job; does not change the state a person sees."""
    FINISHING = "FINISHING"
    """Its work is done or was stopped; cleaning up."""
    COMPLETE = "COMPLETE"
    """Ended, and proved its success."""
    FAILED = "FAILED"
    """Ended without success."""
    CANCELLED = "CANCELLED"
    """Ended because somebody, or a rule, asked for it."""
    UNKNOWN = "UNKNOWN"
    """Cannot be known now; the reason says why."""

    terminal: bool
    """Whether nothing follows this state within the same attempt."""

    def __init__(self, word: str) -> None:
        self.terminal = word in ("COMPLETE", "FAILED", "CANCELLED")

    def __str__(self) -> str:
        return str(self.value)

    __hash__ = str.__hash__  # that of an enumeration is a Python function, called for every look into a dict


TERMINAL: frozenset[JobState] = frozenset(state for state in JobState if state.terminal)
STATES = {state.value: state for state in JobState}
"""The states by their words: for words that are known to be right."""
WORDS = {state: state.value for state in JobState}
"""The words by their states: asking an enumeration for its value takes longer."""

_IMPLIES: tuple[tuple[JobState, frozenset[JobState]], ...] = (
    (JobState.PENDING, frozenset({JobState.RUNNING, JobState.FINISHING, JobState.COMPLETE})),
    (JobState.RUNNING, frozenset({JobState.FINISHING, JobState.COMPLETE})),
    (JobState.FINISHING, frozenset({JobState.COMPLETE})),
)


def parse_state(word: object) -> JobState:
    """The state that ``word`` names, in any letter case.

    Raises:
        InvalidRecord: no such state; the hint lists them.
    """
    try:
        return JobState(str(word).upper())
    except ValueError:
        raise InvalidRecord(
            f"{word!r} is not a job state", hint="one of " + ", ".join(state.value for state in JobState)
        ) from None


def implied_by(seen: JobState) -> frozenset[JobState]:
    """The states a job must have passed when it is seen in ``seen``, itself included.

    A polled site may show only some of them: a handler that waits for RUNNING must fire for a job first seen COMPLETE.
    """
    return frozenset({seen} | {state for state, later in _IMPLIES if seen in later})
