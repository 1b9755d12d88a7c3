"""What the commands of one invocation share: the instance that is meant, and the connection to its agent."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..client import Client, Endpoint, find_endpoint
from ..client.calls import path_of
from ..errors import NotFound
from ..paths import Home

if TYPE_CHECKING:
    from ..models import JobContext

_LOOKS_LIKE_ID = r"[0-9a-f][0-9a-f-]*|last"


@dataclass
class Session:
    """One invocation of the command line.

    Args:
        home: the instance that ``--home`` names; that of the environment when None.
        debug: whether to show tracebacks.
    """

    home: str | None = None
    debug: bool = False
    _client: Client | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        """The connection to the agent; the first call on it starts the agent when it does not run."""
        if self._client is None:
            self._client = Client(self.endpoint)
        return self._client

    @property
    def endpoint(self) -> Endpoint:
        """Where the agent is."""
        return find_endpoint(self.home)

    @property
    def instance(self) -> Home:
        """The instance's places."""
        return self.endpoint.home

    @property
    def context(self) -> JobContext:
        """The job this command is run in, if it is."""
        from ..library.instance import read_context

        return read_context(os.environ)

    def workflow_id(self, given: str | None) -> str | None:
        """The workflow that ``--workflow`` names by its id, a unique prefix of it, ``last``, or its name.

        Of several of one name it is the newest. Without ``given``, the one this command runs in, if any.

        Raises:
            NotFound: there is none.
        """
        if given is None:
            return self.context.workflow_id
        return str(self.workflow(given)["workflow_id"])

    def workflow(self, given: str) -> Any:
        """The record of the workflow that ``given`` names; see :meth:`workflow_id`."""
        missing = NotFound(f"there is no workflow {given!r}", hint="lwfm workflow list shows them")
        if re.fullmatch(_LOOKS_LIKE_ID, given):
            try:
                return self.client.get(path_of("workflows", given))
            except NotFound as error:
                missing = error  # unless it is a name that looks like an id
        found = self.client.get("/v1/workflows", {"name": _literal_glob(given), "limit": 1})["workflows"]
        if not found:
            raise missing
        return found[0]


def _literal_glob(name: str) -> str:
    """A glob that fits only ``name``."""
    return re.sub(r"([*?[])", r"[\1]", name)
