"""The vault: the secret parts of jobs that have not ended, beside the store, never in it.

A record holds a definition with its secrets blotted out; the values themselves lie here, one file per job, readable by the
owner alone, until the job has ended.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import StoreError, StoreUnwritable
from ..host.shortages import shortage_of
from ..paths import write_private
from ..records import JSON
from ..redaction import redact_environment, redact_text, redact_words


class Vault:
    """Keeps secrets by the id of what they belong to: a job, or a handler for all its jobs.

    Args:
        directory: of ours alone.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._held = {path.stem for path in directory.glob("*.json")} if directory.is_dir() else set()

    @staticmethod
    def redacted(notification: JSON) -> JSON:
        """A notification as it may be recorded beside the job that delivers it."""
        command, url = notification.get("command"), notification.get("url")
        shown = dict(notification)
        if command is not None:
            shown["command"] = redact_text(command) if isinstance(command, str) else redact_words(command)
        if url is not None:
            shown["url"] = redact_text(url)
        return shown

    def seal(self, owner: str, definition: JSON) -> JSON:
        """``definition`` as it may be recorded; what was blotted out is kept for ``owner``."""
        given = definition.get("env")
        environment, secrets = redact_environment(given) if given else ({}, {})
        command = definition["command"]
        redacted = redact_text(command) if isinstance(command, str) else redact_words(command)
        kept: JSON = {"env": secrets} if secrets else {}
        if redacted != command:
            kept["command"] = command
        if not kept:
            return definition
        if owner:
            self._write(owner, kept)
        return {**definition, "command": redacted, **({"env": environment} if environment else {})}

    def unseal(self, owners: list[str], definition: JSON) -> JSON:
        """``definition`` with its secrets in place again; ``owners``: where to look, in this order."""
        for owner in owners:
            if owner in self._held:
                kept = json.loads((self._directory / f"{owner}.json").read_text(encoding="utf-8"))
                env = {**(definition.get("env") or {}), **(kept.get("env") or {})}
                return {**definition, **kept, "env": env}
        return definition

    def owners(self) -> list[str]:
        """What secrets are kept for."""
        return list(self._held)

    def holds(self, owner: str) -> bool:
        """Whether secrets are kept for ``owner``."""
        return owner in self._held

    def forget(self, owner: str) -> None:
        """Remove what is kept for ``owner``."""
        if owner in self._held:
            self._held.discard(owner)
            with contextlib.suppress(OSError):
                (self._directory / f"{owner}.json").unlink()

    def _write(self, owner: str, kept: Mapping[str, Any]) -> None:
        path = self._directory / f"{owner}.json"
        try:
            write_private(path, json.dumps(kept).encode("utf-8"))
        except OSError as error:
            short = shortage_of(error)
            if short is not None:
                raise StoreUnwritable(f"cannot keep a secret in {path}: {short.message}", hint=short.hint) from error
            raise StoreError(f"cannot keep a secret in {path}: {error.strerror}") from error
        self._held.add(owner)
