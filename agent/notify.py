"""Telling somebody: a notification is delivered by a job, so that it happens once, is recorded, and can be looked up.

``main`` is what such a job runs to post to a URL.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from .clock import utc_now
from .models import JobDefn, Notification, Resources
from .paths import self_command
from .redaction import redact_text

TIMEOUT_S = 20.0
POST_RETRIES = 3
URL_VARIABLE = "LWFM_NOTIFY_URL"


def delivery(notification: Notification) -> JobDefn:
    """The job that delivers a notification."""
    if notification.url is not None:
        return JobDefn(
            [*self_command(), "notify"],
            name="notify",
            env={URL_VARIABLE: notification.url},  # many are secret, and everybody on the node can see command lines
            resources=Resources(cores=0, time_limit_s=60.0),
            retries=POST_RETRIES,
        )
    return JobDefn(notification.command or "true", name="notify", resources=Resources(cores=0))


def main(arguments: Sequence[str]) -> int:
    """Post what triggered this job to the URL in ``$LWFM_NOTIFY_URL``, as a JSON object; 0 when it was accepted."""
    url = os.environ.get(URL_VARIABLE)
    if arguments or not url:
        sys.stderr.write(f"usage: {URL_VARIABLE}=URL lwfm notify (it is run by the job of a notification)\n")
        return 2
    variables = {
        name[len("LWFM_") :].lower(): value for name, value in os.environ.items() if name.startswith("LWFM_TRIGGER_")
    }
    if "trigger_properties" in variables:
        variables["trigger_properties"] = json.loads(variables["trigger_properties"])
    body = {
        "time": utc_now(),
        "workflow_id": os.environ.get("LWFM_WORKFLOW_ID"),
        "job_id": os.environ.get("LWFM_JOB_ID"),
        **variables,
    }
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked when the handler was set
        url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "User-Agent": "lwfm"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            sys.stdout.write(f"{answer.status} {answer.reason}\n")
    except (urllib.error.URLError, OSError) as error:
        sys.stderr.write(redact_text(f"cannot post to {url}: {error}\n"))
        return 1
    return 0
