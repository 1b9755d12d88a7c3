"""The process of a driver: makes it, serves the agent's calls to it, each in a thread, and ends with the agent.

Imports nothing but the standard library and lwfm's own pure modules, so that it runs in a virtual environment that has no lwfm, on
another Python than the agent's. ``lwfm site-host`` runs it, or :mod:`.sandboxed`.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from .. import errors
from ..config import PILLARS
from ..errors import ConfigError, LwfmError, NotSupported, SiteError
from ..host.logfiles import SHARED_LOG, LogFile
from ..models import JobDefn
from ..records import JSON
from .base import JobRequest, Observation, SiteContext, SiteDriver, StoredData, in_turn
from .loading import load
from .pipe import Broken, Pipe

LEAVE_S = 2.0
"""When the agent is gone: how long calls may go on, and then how long the driver may take to close."""
_logger = logging.getLogger("lwfm.site")


class Answer(NamedTuple):
    """What a call gave: a JSON value, and bytes where it gave such."""

    value: Any = None
    body: bytes = b""


def main(words: Sequence[str]) -> int:
    """Serve the agent at the other end of the socket ``--fd``; the exit code."""
    parser = argparse.ArgumentParser(prog="lwfm site-host", description="Run a site's driver for the agent.")
    parser.add_argument("--fd", type=int, required=True, help="a socket, the other end of which the agent has")
    link = socket.socket(fileno=parser.parse_args(words).fd)
    link.set_inheritable(False)  # what the driver starts must not keep it open
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    pipe = Pipe(link)
    try:
        asked = pipe.receive().head
    except Broken:
        return 0
    if "log" in asked:
        LogFile(asked["log"], SHARED_LOG.configured(), (1, 2)).follow()
    made = threading.Event()
    threading.Thread(target=_leave_with_agent, args=(link, made), daemon=True).start()
    try:
        driver = _made(asked)
        made.set()
        pipe.send({"t": "ready", **_described(driver)})
    except BaseException as error:
        told = _told(error, f"the driver of site {asked['name']!r} failed", ConfigError)
        try:
            pipe.send({"t": "failed", "error": told})
        except Broken:
            pass  # the agent is gone
        return 1
    _Host(asked["name"], driver, pipe).serve()
    return 0


def _leave_with_agent(link: socket.socket, made: threading.Event) -> None:
    """Until the driver is made nobody reads: end the process if the agent goes meanwhile."""
    try:
        gone = not link.recv(1, socket.MSG_PEEK)
    except OSError:
        gone = True
    if gone and not made.is_set():
        os._exit(0)


def _made(asked: JSON) -> SiteDriver:
    home = Path(asked["home"])
    kind = load(asked["driver"], home)
    return kind(SiteContext(asked["name"], asked["options"], home, Path(asked["repository"])))


def _described(driver: SiteDriver) -> JSON:
    run = driver.run
    return {
        "pillars": [name for name in PILLARS if getattr(driver, name) is not None],
        "reports_itself": run is not None and bool(run.reports_itself),
        "records_come": run is not None and bool(run.records_come),
        "labels": sorted(run.labels) if run is not None else [],
        "thread_safe": [name for name in PILLARS if getattr(getattr(driver, name), "thread_safe", False)],
    }


class _Host:
    """Calls to a driver, by their numbers.

    Args:
        site: its name. ``pipe``: the agent.
    """

    def __init__(self, site: str, driver: SiteDriver, pipe: Pipe):
        self._site = site
        self._driver = driver
        self._pipe = pipe
        self._environments: dict[str, Mapping[str, str]] = {}
        self._going: dict[int, queue.SimpleQueue[JSON]] = {}

    def serve(self) -> None:
        """Until the agent is gone. Does not return: threads of the driver may be left that never end."""
        try:
            while True:
                head = self._pipe.receive().head
                if head["t"] == "call":
                    if "environments" in head:  # calls that are under way keep the mapping they have
                        kept = {} if head.get("forget") else self._environments
                        self._environments = {**kept, **head["environments"]}
                    self._going[head["id"]] = queue.SimpleQueue()
                    threading.Thread(target=self._call, args=(head, self._environments), daemon=True).start()
                elif head["t"] == "told" and head["id"] in self._going:
                    self._going[head["id"]].put(head)
        except Broken:
            pass
        self._leave()

    def _call(self, head: JSON, environments: Mapping[str, Mapping[str, str]]) -> None:
        number, name = head["id"], f"{head['pillar']}.{head['method']}"
        try:
            pillar = getattr(self._driver, head["pillar"])
            if pillar is None:
                raise NotSupported(f"site {self._site!r} has no {head['pillar']} pillar")
            with in_turn(getattr(pillar, head["method"])):
                given = [*head["args"], environments] if name == "run.submit" else head["args"]
                value, body = self._login(number, pillar) if name == "auth.login" else _SERVED[name](pillar, *given)
            self._answer({"t": "answer", "id": number, "value": value}, body)
        except Broken:
            pass
        except BaseException as error:  # what a driver raises ends its call, not the process
            told = _told(error, f"site {self._site!r} failed", SiteError)
            self._answer({"t": "error", "id": number, "error": told})
        finally:
            del self._going[number]

    def _answer(self, head: JSON, body: bytes = b"") -> None:
        try:
            self._pipe.send(head, body)
        except Broken:
            pass  # nobody is left to tell

    def _login(self, number: int, auth: Any) -> Answer:
        def ask(prompt: str, secret: bool) -> str:
            self._pipe.send({"t": "ask", "id": number, "prompt": str(prompt), "secret": bool(secret)})
            told = self._going[number].get()
            if "error" in told:
                raise errors.from_json(told["error"])
            return str(told["text"])

        auth.login(ask)
        return Answer()

    def _leave(self) -> None:
        until = time.monotonic() + LEAVE_S
        while self._going and time.monotonic() < until:
            time.sleep(0.01)
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(LEAVE_S)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(0)

    def _close(self) -> None:
        try:
            self._driver.close()
        except Exception:
            _logger.exception("closing")


def _told(error: BaseException, what: str, kind: type[LwfmError]) -> JSON:
    """An error as it travels: as the nearest of lwfm's own; any other as a ``kind``, with its traceback in the log."""
    if isinstance(error, LwfmError):
        nearest = next(item for item in type(error).__mro__ if item.__module__ == errors.__name__)
        return {**error.to_json(), "code": nearest.__name__}
    _logger.error("%s", what, exc_info=error)
    return kind(f"{what}: {type(error).__name__}: {error}", hint="its log has the details").to_json()


# ------------------------------------------------------------------------------------------------- the calls


def _submit(run: Any, requests: Sequence[JSON], environments: Mapping[str, Mapping[str, str]]) -> Answer:
    made = [JobRequest.from_json(body, environments[body["environment"]]) for body in requests]
    return _observed(run.submit(made))


def _observed(said: Mapping[str, Observation]) -> Answer:
    return Answer({job_id: observation.to_json() for job_id, observation in said.items()})


def _done(method: Callable[..., None], *given: Any) -> Answer:
    method(*given)  # whatever a driver returns where nothing is wanted
    return Answer()


def _put(repo: Any, local_path: str, site_path: Optional[str], properties: JSON) -> Answer:
    return Answer(repo.put(Path(local_path), site_path, properties).to_json())


def _get(repo: Any, stored: JSON, local_path: str) -> Answer:
    return Answer(repo.get(StoredData.from_json(stored), Path(local_path)).to_json())


_SERVED: dict[str, Callable[..., Answer]] = {
    "auth.is_auth_current": lambda auth: Answer(bool(auth.is_auth_current())),
    "run.check": lambda run, defn: _done(run.check, JobDefn.recorded(defn)),
    "run.submit": _submit,
    "run.status": lambda run, job_ids: _observed(run.status(job_ids)),
    "run.cancel": lambda run, job_id, attempt, reason: _done(run.cancel, job_id, attempt, reason),
    "run.output": lambda run, *given: Answer(None, bytes(run.output(*given))),
    "run.homes": lambda run, job_id: Answer([str(home) for home in run.homes(job_id)]),
    "repo.put": _put,
    "repo.get": _get,
    "repo.remove": lambda repo, stored: _done(repo.remove, StoredData.from_json(stored)),
    "spin.list": lambda spin: Answer([resource.to_json() for resource in spin.list()]),
    "spin.create": lambda spin, kind, spec: Answer(spin.create(kind, spec).to_json()),
    "spin.destroy": lambda spin, resource_id: _done(spin.destroy, resource_id),
}
