"""Calls of the far instance's API over a line, between its frames: for what is done there rather than known.

=============  ==========  =================================================================================
``call``       near → far  ``method``, ``target`` (path and query of ``docs/api.md``); the body is that of the request
``answer``     far → near  ``status``, ``headers`` (those of lwfm's own); the body is that of the answer
=============  ==========  =================================================================================

A call that fails is answered by its error and does not end the line.
"""

from __future__ import annotations

import json

from ..client.calls import CALL_TIMEOUT_S, Answer, Caller
from ..errors import LwfmError
from .frames import Frame, Line, Refused

_METHODS = ("GET", "POST", "DELETE")
_OWN_HEADERS = "lwfm-"
FAILED = 500


class RemoteApi(Caller):
    """The API of the agent at the other end of ``line``."""

    def __init__(self, line: Line):
        self._line = line

    def exchange(self, method: str, target: str, data: bytes | None, repeatable: bool, timeout_s: float) -> Answer:
        """See :class:`~lwfm.client.calls.Caller`. Raises Cut: the line has ended."""
        del (
            repeatable,
            timeout_s,
        )  # whoever has the line tries again, or the far end where it only reads, and has a limit
        self._line.send({"t": "call", "method": method, "target": target}, data or b"", compress=True)
        head, body = self._line.receive("answer")
        status, headers = head.get("status"), head.get("headers")
        if not isinstance(status, int) or not isinstance(headers, dict):
            raise Refused("the other side answered a call with something else")
        return Answer(status, headers, body)


def answer(line: Line, frame: Frame, client: Caller) -> None:
    """As the far side: make the call that a frame asks for, and pass its answer on."""
    method, target = frame.head.get("method"), frame.head.get("target")
    if method not in _METHODS or not isinstance(target, str) or not target.startswith("/v1/"):
        raise Refused("the other side asks for a call that makes no sense")
    try:
        told = client.exchange(method, target, frame.body or None, method == "GET", CALL_TIMEOUT_S)
    except LwfmError as error:
        told = Answer(FAILED, {}, json.dumps({"error": error.to_json()}).encode())
    headers = {name: value for name, value in told.headers.items() if name.startswith(_OWN_HEADERS)}
    line.send({"t": "answer", "status": told.status, "headers": headers}, told.body, compress=True)
