"""The site ``local``: this node. Jobs go to the agent's own worker; data are files this node sees."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import unquote, urlsplit

from ..data.files import checksum, file_url
from ..errors import InvalidRecord, NotFound, NotSupported, SiteError
from ..host.private import private_directory
from ..models import JobDefn
from ..states import JobState
from .base import (
    Allocations,
    Auth,
    JobRequest,
    Nodes,
    Observation,
    Repo,
    Resource,
    Run,
    SiteContext,
    SiteDriver,
    Spin,
    StoredData,
)
from .batch.commands import find_scheduler
from .batch.resources import scheduler_resources

PART_SUFFIX = ".lwfm-part"


class LocalSite(SiteDriver):
    """This node: no login, jobs through the agent's worker, files as they are."""

    def __init__(self, context: SiteContext):
        super().__init__(context)
        if context.nodes is None:
            raise SiteError("the local site needs the agent's own worker")
        self.auth = LocalAuth()
        self.run = LocalRun(context.nodes)
        self.repo = LocalRepo(context.repository)
        self.spin = LocalSpin(context.nodes, context.allocations)


class LocalAuth(Auth):
    """Who can reach the agent is in."""

    thread_safe = True

    def login(self, ask: Callable[[str, bool], str]) -> None:
        """Nothing to do."""

    def is_auth_current(self) -> bool:
        """Always."""
        return True


class LocalRun(Run):
    """Jobs on the nodes that the agent has workers on."""

    reports_itself = True
    thread_safe = True

    def __init__(self, nodes: Nodes):
        self._nodes = nodes

    def check(self, defn: JobDefn) -> None:
        """Refuse what the node could never run."""
        super().check(defn)
        self._nodes.check(defn)

    def submit(self, requests: Sequence[JobRequest]) -> Mapping[str, Observation]:
        """Queue jobs for the worker; it reports what becomes of them."""
        self._nodes.place(requests)
        return {request.job_id: Observation(JobState.PENDING) for request in requests}

    def status(self, job_ids: Sequence[str]) -> Mapping[str, Observation]:
        """Nothing that was not reported already."""
        return {}

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Stop a job."""
        self._nodes.cancel(job_id, attempt, reason)

    def output(self, job_id: str, stream: str, offset: int, limit: int) -> bytes:
        """A piece of a running job's output."""
        return self._nodes.output(job_id, stream, offset, limit)


class LocalRepo(Repo):
    """Files of this node. A relative site path lies in the instance's repository."""

    thread_safe = True

    def __init__(self, repository: Path):
        self._repository = repository
        self._host = socket.gethostname()

    def put(self, local_path: Path, site_path: Optional[str], properties: Mapping[str, Any]) -> StoredData:
        """Copy a file or directory to ``site_path``; without one, it stays where it is."""
        if not _is_there(local_path):
            raise NotFound(f"there is no file {local_path}")
        if site_path is None:
            return self._described(local_path)
        target = Path(site_path)
        if not target.is_absolute():
            private_directory(self._repository)
            target = self._repository / target
            if self._repository not in Path(os.path.normpath(target)).parents:
                raise InvalidRecord(
                    f"{site_path!r} leads out of the repository", hint="give an absolute path to put it elsewhere"
                )
        return self._copied(local_path, Path(os.path.normpath(target)))

    def get(self, stored: StoredData, local_path: Path) -> StoredData:
        """Copy data to ``local_path``, and compare it with its checksum."""
        source = self._source(stored)
        if not _is_there(source):
            raise NotFound(f"{source} is gone", hint="lwfm lineage tells what made it")
        if _is_there(local_path) and local_path.is_dir() and not source.is_dir():
            local_path = local_path / source.name
        return self._copied(source, local_path, expected=stored.sha256)

    def remove(self, stored: StoredData) -> None:
        """Remove a file or directory."""
        path = self._source(stored)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise SiteError(f"cannot remove {stored.path}: {error.strerror}") from error

    def _source(self, stored: StoredData) -> Path:
        parts = urlsplit(stored.url)
        if parts.scheme == "file" and parts.netloc not in ("", "localhost", self._host):
            raise SiteError(f"the data lies on {parts.netloc}, this is {self._host}")
        return (
            Path(os.fsdecode(unquote(parts.path).encode("utf-8", "surrogateescape")))
            if parts.scheme == "file"
            else Path(stored.path)
        )

    def _copied(self, source: Path, target: Path, expected: Optional[str] = None) -> StoredData:
        """Copy by way of a file beside the target that is renamed when it is whole."""
        if _is_there(target) and _is_there(source) and os.path.samefile(source, target):
            return self._described(target)
        part = target.with_name(target.name + PART_SUFFIX)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
                return self._described(target)
            shutil.copyfile(source, part)
            shutil.copymode(source, part)
            digest = checksum(part)
            if expected is not None and digest != expected:
                raise SiteError(
                    f"{source} has changed since it was recorded: its checksum differs",
                    hint="put it again to record the new content",
                )
            with part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
        except OSError as error:
            raise SiteError(f"cannot copy {source} to {target}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
        return self._described(target, digest)

    def _described(self, path: Path, digest: Optional[str] = None) -> StoredData:
        absolute = Path(os.path.abspath(path))
        try:
            regular = absolute.is_file()
            size = absolute.stat().st_size if regular else None
            return StoredData(
                file_url(self._host, str(absolute)),
                str(absolute),
                self._host,
                size,
                (digest or checksum(absolute)) if regular else None,
            )
        except OSError as error:
            raise SiteError(f"cannot read {absolute}: {error.strerror}") from error


def _is_there(path: Path) -> bool:
    """Whether there is such a file or directory.

    Raises:
        InvalidRecord: there can be none of that name: too long, or no text that a file system takes. SiteError: it cannot be seen.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InvalidRecord(f"{str(path)[:100]!r} cannot be the path of a file: {error!s:.100}") from None
        raise SiteError(f"cannot look at {path}: {error.strerror}") from error
    return True


class LocalSpin(Spin):
    """The nodes that the agent has workers on; and, where there is a batch scheduler, what it has, and what we have of it."""

    thread_safe = True

    def __init__(self, nodes: Nodes, allocations: Optional[Allocations] = None):
        self._nodes = nodes
        self._allocations = allocations

    def list(self) -> Sequence[Resource]:
        """The agent's nodes, the allocations it has asked for, the scheduler's partitions and nodes.

        A scheduler that does not answer is among them, with the reason in place of what it has.
        """
        found = _distinct(self._nodes.describe())
        scheduler = find_scheduler()
        told, answers = ([], False) if scheduler is None else scheduler_resources(scheduler)
        if self._allocations is not None:
            found += self._allocations.list(ask=answers)
        return [*found, *told]

    def create(self, kind: str, spec: Mapping[str, Any]) -> Resource:
        """Ask the batch scheduler for an allocation, whose nodes get workers."""
        if kind != "allocation":
            raise NotSupported(f"this site cannot create {kind!r}", hint="it creates: allocation")
        if self._allocations is None:
            raise NotSupported("this site cannot create allocations")
        return self._allocations.create(spec)

    def destroy(self, resource_id: str) -> None:
        """Give an allocation back."""
        if self._allocations is None:
            raise NotSupported("this site has no allocations")
        self._allocations.destroy(resource_id)


def _distinct(nodes: Sequence[Resource]) -> list[Resource]:
    """A host that is in several allocations has a worker for each: its id then names the allocation too."""
    hosts = [resource.resource_id for resource in nodes]
    return [
        replace(resource, resource_id=f"{resource.resource_id}@{resource.facts.get('allocation') or 'here'}")
        if hosts.count(resource.resource_id) > 1
        else resource
        for resource in nodes
    ]
