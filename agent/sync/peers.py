"""The instances that this one syncs with, by name: how each is reached, and what came of it. Nothing of it is history."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Optional

from ..clock import parse_utc, utc_now
from ..errors import InvalidRecord, NotFound
from ..records import JSON
from ..store import Connection

MIN_EVERY_S = 5.0
MAX_BACK_OFF_S = 3600.0
"""A peer that cannot be reached is tried at least this often, if it was to be synced with more often."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:\[\]-]{0,99}")
_GIVEN = ("address", "every_s", "data", "way")
WAYS = ("both", "pull", "push")
_TOLD = ("origin", "store_id", "host", "skew_s", "vector")


def listed(connection: Connection) -> list[JSON]:
    """All peers, by name."""
    return [json.loads(row[0]) for row in connection.execute("select body from local_peers order by name")]


def find(connection: Connection, name: str) -> Optional[JSON]:
    """A peer; None when there is none of that name."""
    found = connection.execute("select body from local_peers where name = ?", (name,)).fetchone()
    return json.loads(found[0]) if found else None


def put(connection: Connection, body: Mapping[str, Any]) -> JSON:
    """Remember a peer, or change what ``body`` says of it: ``name``, ``address``, and what is repeated (``every_s``, ``way``,
    ``data``); null forgets.

    Raises:
        InvalidRecord: a value that cannot be.
    """
    name = body.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRecord(
            f"{name!r} cannot be a peer's name"[:200], hint="letters, digits, and .-_@: behind the first"
        )
    peer = find(connection, name) or {"name": name, "added_at": utc_now()}
    for key in _GIVEN:
        if key in body:
            peer[key] = body[key]
    if not isinstance(peer.get("address"), dict) or not isinstance(peer["address"].get("host"), str):
        raise InvalidRecord("a peer without an address")
    every_s = peer.get("every_s")
    if every_s is not None and (
        isinstance(every_s, bool) or not isinstance(every_s, (int, float)) or every_s < MIN_EVERY_S
    ):
        raise InvalidRecord(f"syncs can be repeated every {MIN_EVERY_S:.0f} s or less often, not {every_s!r}"[:200])
    if peer.get("way") not in (None, *WAYS):
        raise InvalidRecord(f"{peer['way']!r} is no way to sync: {', '.join(WAYS)}"[:200])
    return _write(connection, peer)


def remove(connection: Connection, name: str) -> None:
    """Forget a peer.

    Raises:
        NotFound: there is none.
    """
    if connection.execute("delete from local_peers where name = ?", (name,)).rowcount == 0:
        raise NotFound(f"there is no peer {name!r}", hint="lwfm peer list shows them")


def note(connection: Connection, name: str, body: Mapping[str, Any]) -> JSON:
    """Note what came of a sync with a peer: ``error`` (null when it went well), and what it said of itself.

    ``added_at``: of the peer that it was; one that was added under its name later has had no sync.

    Raises:
        NotFound: there is none.
    """
    peer = find(connection, name)
    if peer is None or body.get("added_at", peer["added_at"]) != peer["added_at"]:
        raise NotFound(f"there is no peer {name!r}", hint="lwfm peer list shows them")
    peer["last_attempt"] = utc_now()
    peer["error"] = body.get("error")
    if peer["error"] is None:
        peer["last_success"] = peer["last_attempt"]
        peer["failures"] = 0
        for key in _TOLD:
            if body.get(key) is not None:
                peer[key] = body[key]
    else:
        peer["failures"] = int(peer.get("failures") or 0) + 1
    return _write(connection, peer)


def due_in_s(peer: Mapping[str, Any], now_s: float) -> Optional[float]:
    """In how many seconds a peer is to be synced with again; None when that is not to be repeated.

    One that cannot be reached is tried less and less often.
    """
    every_s = peer.get("every_s")
    if every_s is None:
        return None
    last = peer.get("last_attempt")
    if not last:
        return 0.0
    failures = min(int(peer.get("failures") or 0), 10)
    pause_s = min(every_s * 2**failures, max(every_s, MAX_BACK_OFF_S)) if failures else every_s
    since_s = now_s - parse_utc(str(last))
    return 0.0 if since_s < 0 else max(0.0, pause_s - since_s)  # a clock that was set back shall not stop it


def _write(connection: Connection, peer: JSON) -> JSON:
    text = json.dumps({key: value for key, value in peer.items() if value is not None})
    connection.execute("insert or replace into local_peers values (?, ?)", (peer["name"], text))
    return peer
