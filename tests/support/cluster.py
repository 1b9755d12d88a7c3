"""The real clusters that tests share: a Slurm of four nodes, each with an sshd, on this one machine, as root.

::

    from support import cluster as bed

    cluster = bed.cluster  # the fixture, in each module that uses it

What nodes are is told by ``support.machines``, what Slurm is by ``support.slurm``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rooms import remove_leftovers
from support.slurm import BatchJob, Cluster

__all__ = ["BatchJob", "Cluster", "cluster", "remove_leftovers"]

_shared: list[Cluster] = []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes of two cores, the same in all modules that import this, until the tests end.

    A test that harms it calls ``cluster.restore()`` when it is done.
    """
    reason = Cluster.why_not()
    if reason:
        pytest.skip(reason)
    if not _shared:
        _shared.append(Cluster(nodes=4, cores=2).__enter__())
    yield _shared[0]
    _shared[0].close()
