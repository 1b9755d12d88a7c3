"""What all verbs of the library stand on: the connection to the agent, and where this process finds itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from ..client import Client, find_endpoint
from ..errors import InvalidRecord
from ..models import JobContext
from .values import JobLike, PathLike, optional_id


class Instance:
    """An instance of lwfm and the way to its agent.

    Args:
        home: the instance's directory; that of the environment (``$LWFM_HOME``, else ``~/.lwfm``) when None. Its agent
            is started by the first call when it does not run.
    """

    def __init__(self, home: PathLike | None = None):
        self._client = Client(find_endpoint(home))

    @property
    def client(self) -> Client:
        """The connection to the agent."""
        return self._client

    def context(self) -> JobContext:
        """The job this process is part of, and what triggered it; empty outside any job."""
        return read_context(os.environ)

    def close(self) -> None:
        """Close the connections; the manager can be used on."""
        self._client.close()

    def this_job(self, job: JobLike | None) -> str:
        """The id of ``job``, else of the job this process is part of.

        Raises:
            InvalidRecord: it is part of none.
        """
        chosen = optional_id(job, "a job") or self.context().job_id
        if chosen is None:
            raise InvalidRecord("which job? This process is not part of one", hint="give job=")
        return chosen


def read_context(environment: Mapping[str, str]) -> JobContext:
    """What the ``LWFM_*`` variables of a job's environment say."""
    try:
        properties = json.loads(environment.get("LWFM_TRIGGER_PROPERTIES") or "{}")
        attempt = int(environment.get("LWFM_ATTEMPT") or 1)
    except ValueError:
        raise InvalidRecord(
            "LWFM_TRIGGER_PROPERTIES or LWFM_ATTEMPT of this environment is not what lwfm wrote"
        ) from None
    return JobContext(
        job_id=environment.get("LWFM_JOB_ID") or None,
        workflow_id=environment.get("LWFM_WORKFLOW_ID") or None,
        attempt=attempt,
        trigger_job=environment.get("LWFM_TRIGGER_JOB") or None,
        trigger_data=environment.get("LWFM_TRIGGER_DATA") or None,
        trigger_path=environment.get("LWFM_TRIGGER_PATH") or None,
        trigger_properties=properties if isinstance(properties, dict) else {},
    )
