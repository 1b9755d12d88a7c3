"""Which of several sites a job goes to: the first that accepts it, is not known to be down, and has room. Pure.

Where all that would accept it are down or full, it waits for the first of those; where all refuse, the error says why for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

from ..capacity import shape_of
from ..errors import InvalidRecord, LwfmError, ResourcesImpossible, SiteError
from ..models import JobDefn


class Standing(NamedTuple):
    """How a site stands: why it takes nothing now, if so; how many more jobs it has room for, None: any number."""

    trouble: Optional[str] = None
    room: Optional[int] = None
    max_jobs: Optional[int] = None


class Choice(NamedTuple):
    """What was chosen.

    Args:
        site: None: all refuse. ``waits``: it will take the job later.
        why: what was wrong with the others, and with it, if it waits.
        errors: of those that refuse.
    """

    site: Optional[str]
    waits: bool = False
    why: str = ""
    errors: tuple[LwfmError, ...] = ()


class Placement(NamedTuple):
    """Where a new job goes; ``sites``: all that were named, where these are several. ``reason``: if there is something to say."""

    site: str
    sites: tuple[str, ...] = ()
    reason: Optional[str] = None


def candidates_of(given: Any) -> tuple[str, ...]:
    """The sites that a caller names: text, with commas between several, or a list.

    Raises:
        InvalidRecord: it is neither, or names none.
    """
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise InvalidRecord(f"site must be a name, or several, not {given!r}"[:200], hint="as site=a or site=a,b")
    names = tuple(dict.fromkeys(word.strip() for word in words))
    if not names or not all(names):
        raise InvalidRecord(f"site names no site: {given!r}"[:200], hint="as site=a or site=a,b")
    return names


class Placing:
    """Chooses for the jobs of one submission: like ones are judged once, and what is chosen counts against the sites' room.

    Args:
        accepts: raises where a site refuses a definition. ``standing``: how a site stands.
    """

    def __init__(self, accepts: Callable[[str, JobDefn], None], standing: Callable[[str], Standing]):
        self._accepts = accepts
        self._standing = standing
        self._judged: dict[tuple[str, Any], Optional[LwfmError]] = {}
        self._stands: dict[str, Standing] = {}
        self._taken: Counter[str] = Counter()

    def place(self, candidates: Sequence[str], defn: JobDefn) -> Placement:
        """Where a new job goes.

        Raises:
            LwfmError: all refuse it; that of the only site as it is.
        """
        choice = self.choose(candidates, defn)
        if choice.site is None:
            raise _all_refuse(choice)
        if len(candidates) == 1:
            return Placement(choice.site, reason=choice.why or None)
        reason = (
            f"{choice.why}; {'waits for' if choice.waits else 'goes to'} site {choice.site}" if choice.why else None
        )
        return Placement(choice.site, tuple(candidates), reason)

    def choose(self, candidates: Sequence[str], defn: JobDefn) -> Choice:
        """The first of the candidates that takes the job, now if possible."""
        waiting: Optional[str] = None
        said: list[str] = []
        errors: list[LwfmError] = []
        asked = _asked(defn)
        for site in candidates:
            error = self._refusal(site, defn, asked)
            if error is not None:
                errors.append(error)
                said.append(f"site {site}: {error.message}")
                continue
            obstacle = self._obstacle(site)
            if obstacle is None:
                self._taken[site] += 1
                return Choice(site, why="; ".join(said))
            said.append(obstacle)
            waiting = waiting or site
        if waiting is not None:
            self._taken[waiting] += 1
        return Choice(waiting, waiting is not None, "; ".join(said), tuple(errors))

    def unjudged(self, candidates: Sequence[str], defn: JobDefn) -> list[str]:
        """Those sites that have not been asked what they think of such a job."""
        asked = _asked(defn)
        return [site for site in candidates if (site, asked) not in self._judged]

    def judge(self, site: str, defn: JobDefn, refusal: Optional[LwfmError]) -> None:
        """Note what a site thinks of such a job: why it refuses it, None where it does not."""
        self._judged[site, _asked(defn)] = refusal

    def _refusal(self, site: str, defn: JobDefn, asked: Any) -> Optional[LwfmError]:
        if (site, asked) not in self._judged:
            refusal = None
            try:
                self._accepts(site, defn)
            except LwfmError as error:
                refusal = error
            self._judged[site, asked] = refusal
        return self._judged[site, asked]

    def _obstacle(self, site: str) -> Optional[str]:
        """Why a site that accepts a job does not take it now."""
        if site not in self._stands:
            self._stands[site] = self._standing(site)
        standing = self._stands[site]
        if standing.trouble is not None:
            return standing.trouble
        if standing.room is not None and self._taken[site] >= standing.room:
            return full(site, standing.max_jobs)
        return None


def _asked(defn: JobDefn) -> Any:
    """What a job asks of a site: those that ask for the same are judged once."""
    return shape_of(defn), repr(defn.options) if defn.options else ""


def full(site: str, max_jobs: Optional[int]) -> str:
    """What is said of a site that may have no more jobs."""
    return f"site {site} has, or awaits, as many jobs as it may have at once (max_jobs = {max_jobs})"


def _all_refuse(choice: Choice) -> LwfmError:
    if len(choice.errors) == 1:
        return choice.errors[0]
    kind = ResourcesImpossible if all(isinstance(error, ResourcesImpossible) for error in choice.errors) else SiteError
    return kind(f"no site takes the job: {choice.why}")
