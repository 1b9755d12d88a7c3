"""A site that is a batch scheduler: each job is a job of its own there. For a login node; only the scheduler's commands are needed.

The driver, and its classes for Slurm, Grid Engine and PBS. What it does with jobs is told by :mod:`.batch.run`, how a scheduler is
spoken to by :mod:`.batch.scheduler`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, InvalidRecord
from .base import Resource, SiteContext, SiteDriver, Spin
from .batch.commands import BatchCommands
from .batch.ledger import Ledger
from .batch.pbs import Pbs
from .batch.request import BatchRequest, job_request
from .batch.resources import scheduler_resources
from .batch.run import GRACE_S, LARGEST_ARRAY, BatchRun
from .batch.scheduler import Scheduler
from .batch.sge import GridEngine
from .batch.slurm import Slurm
from .local import LocalAuth, LocalRepo

_SITE_OPTIONS = frozenset(("directory", "array_max", "grace_s"))


class BatchSite(SiteDriver):
    """A batch scheduler. Options in ``sites.toml``: ``directory``, ``array_max``, ``grace_s``, and those of its jobs by default."""

    scheduler: Scheduler

    def __init__(self, context: SiteContext):
        super().__init__(context)
        options = context.options
        known = _SITE_OPTIONS | self.scheduler.keys
        unknown = sorted(set(options) - known)
        if unknown:
            raise ConfigError(
                f"sites.toml: [{context.name}] has an option {unknown[0]!r} that {self.scheduler.name} does not know",
                hint=f"it knows {', '.join(sorted(known))}",
            )
        missing = [program for program in self.scheduler.programs if shutil.which(program) is None]
        if missing:
            raise ConfigError(
                f"site {context.name!r} needs {', '.join(missing)} on the agent's PATH",
                hint="load the scheduler's module, then restart the agent: lwfm agent stop",
            )
        directory = Path(str(options.get("directory") or context.home / "batch" / context.name)).expanduser()
        if not directory.is_absolute():
            raise ConfigError(
                f"sites.toml: directory of [{context.name}] must be an absolute path, not {str(directory)!r}"
            )
        defaults = {name: value for name, value in options.items() if name not in _SITE_OPTIONS}
        try:
            job_request(self.scheduler.keys, defaults, BatchRequest(1, math.inf))
        except InvalidRecord as error:
            raise ConfigError(f"sites.toml: [{context.name}]: {error.message}") from None
        commands = BatchCommands(self.scheduler)
        run = BatchRun(
            commands,
            Ledger(directory),
            defaults,
            array_max=int(_number(context, "array_max", LARGEST_ARRAY, 1)),
            grace_s=_number(context, "grace_s", GRACE_S, 0),
        )
        self.auth = LocalAuth()
        self.run: BatchRun = run
        self.repo = LocalRepo(context.repository)
        self.spin: BatchSpin = BatchSpin(commands, run)


class SlurmSite(BatchSite):
    """Slurm."""

    scheduler = Slurm()


class GridEngineSite(BatchSite):
    """Grid Engine."""

    scheduler = GridEngine()


class PbsSite(BatchSite):
    """PBS."""

    scheduler = Pbs()


class BatchSpin(Spin):
    """The scheduler's partitions and nodes."""

    def __init__(self, commands: BatchCommands, run: BatchRun):
        self._commands = commands
        self._run = run

    def list(self) -> Sequence[Resource]:
        """The partitions and nodes; the scheduler with the reason, when it does not answer."""
        return scheduler_resources(self._commands, self._run.know)[0]


def _number(context: SiteContext, name: str, default: float, least: float) -> float:
    value = context.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
        raise ConfigError(f"sites.toml: {name} of [{context.name}] must be a number from {least}, not {value!r}")
    return float(value)
