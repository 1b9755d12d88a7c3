"""The exceptions of lwfm: one tree, so that a caller can catch as widely or as narrowly as wanted.

::

    LwfmError                     anything lwfm itself reports
    ├── UsageError                the request makes no sense as it stands
    │   ├── InvalidRecord         a definition, property or message is malformed
    │   ├── NotFound              no such job, workflow, data, handler, site or file
    │   ├── AmbiguousId           a prefix that fits more than one id
    │   ├── Conflict              the thing is in a state that does not allow this
    │   └── ConfigError           sites.toml or a setting is wrong
    ├── ResourcesImpossible       the request can never be satisfied by the site
    ├── SiteError                 a site refused or failed
    │   ├── UnknownSite           no site of that name
    │   ├── LoginRequired         the site asks for a login first
    │   └── NotSupported          the site's driver does not offer this
    ├── AgentError                the agent cannot be reached or started
    │   ├── AgentUnreachable
    │   ├── AgentElsewhere        it is on another host that shares the home, and cannot be reached from here
    │   ├── ProtocolMismatch      the two sides speak versions that do not meet
    │   └── AgentBusy             it cannot accept anything now (full disk, stopping)
    ├── StoreError                the thread store
    │   ├── StoreTooNew           written by a newer lwfm
    │   ├── StoreCorrupt          the chain or a projection does not verify
    │   ├── StoreLocked           another process owns it
    │   ├── StoreFull             no space or quota left
    │   └── StoreUnwritable       its disk takes no writes now
    ├── InsecureState             a file or socket of ours belongs to somebody else
    └── WaitTimeout               the time given to a wait has passed

Each class has an exit code for the command line, an HTTP status for the wire, and says whether trying again may help.
The first paragraph of a class's docstring is its message when none is given.
"""

from __future__ import annotations

from typing import Any, Optional


class LwfmError(Exception):
    """Something went wrong in lwfm.

    Args:
        message: one line: what went wrong.
        hint: one line: what to do about it.
        transient: whether the same request may succeed later; the class's own answer when None.
    """

    exit_code = 1
    http_status = 500
    transient = False

    def __init__(self, message: Optional[str] = None, *, hint: Optional[str] = None, transient: Optional[bool] = None):
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        if transient is not None:
            self.transient = transient
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """The class's name: what identifies the error on the wire."""
        return type(self).__name__

    def to_json(self) -> dict[str, Any]:
        """The error as it travels: ``code``, ``message``, ``hint`` and ``transient``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "transient": self.transient}


class UsageError(LwfmError):
    """The request makes no sense as it stands."""

    exit_code = 2
    http_status = 400


class InvalidRecord(UsageError):
    """A definition, property or message is malformed."""


class NotFound(UsageError):
    """There is no such thing."""

    exit_code = 3
    http_status = 404


class AmbiguousId(UsageError):
    """The prefix fits more than one id."""

    exit_code = 3
    http_status = 409


class Conflict(UsageError):
    """The thing is in a state that does not allow this."""

    exit_code = 4
    http_status = 409


class ConfigError(UsageError):
    """The configuration is wrong."""


class ResourcesImpossible(LwfmError):
    """The request can never be satisfied by this site."""

    exit_code = 5
    http_status = 422


class SiteError(LwfmError):
    """The site refused or failed."""

    exit_code = 6
    http_status = 502


class UnknownSite(SiteError):
    """There is no site of that name."""

    exit_code = 3
    http_status = 404


class LoginRequired(SiteError):
    """The site asks for a login first."""

    http_status = 401


class NotSupported(SiteError):
    """The site's driver does not offer this."""

    http_status = 501


class AgentError(LwfmError):
    """The agent cannot be reached or started."""

    exit_code = 7
    http_status = 503


class AgentUnreachable(AgentError):
    """The agent does not answer."""

    transient = True


class AgentElsewhere(AgentError):
    """The agent is on another host that shares the home, and cannot be reached from here."""


class ProtocolMismatch(AgentError):
    """The two sides speak versions of the protocol that do not meet."""

    http_status = 426


class AgentBusy(AgentError):
    """The agent cannot accept anything now."""

    transient = True


class StoreError(LwfmError):
    """The thread store failed."""

    exit_code = 8
    http_status = 500


class StoreTooNew(StoreError):
    """The thread store was written by a newer lwfm."""


class StoreCorrupt(StoreError):
    """The thread store does not verify."""


class StoreLocked(StoreError):
    """Another process owns the thread store."""

    transient = True


class StoreFull(StoreError):
    """There is no space left for the thread store."""

    http_status = 507
    transient = True


class StoreUnwritable(StoreError):
    """The thread store cannot be written now."""

    http_status = 503
    transient = True


class InsecureState(LwfmError):
    """A file or socket of lwfm's belongs to somebody else, or others may change it."""

    exit_code = 9
    http_status = 403


class WaitTimeout(LwfmError):
    """The time given to the wait has passed."""

    exit_code = 10
    http_status = 408
    transient = True


def _tree(root: type[LwfmError]) -> dict[str, type[LwfmError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_json(body: dict[str, Any]) -> LwfmError:
    """The exception that travelled as ``body`` (see :meth:`LwfmError.to_json`); an unknown code becomes LwfmError."""
    kind = _tree(LwfmError).get(str(body.get("code")), LwfmError)
    hint = body.get("hint")
    return kind(
        str(body.get("message") or "") or None,
        hint=str(hint) if hint else None,
        transient=bool(body.get("transient", False)),
    )
