"""What people type for an id: the whole of it, its beginning, or ``last``."""

from __future__ import annotations

import pytest

from lwfm.errors import AmbiguousId, NotFound
from lwfm.store import queries

from support.threads import Thread, thread

__all__ = ["thread"]


def test_ids_by_prefix(thread: Thread) -> None:
    with pytest.raises(NotFound, match="there is no job yet"):
        queries.resolve(thread.connection, "job", "last")
    jobs = [thread.submit() for _ in range(7)]
    connection = thread.connection
    assert queries.resolve(connection, "job", jobs[0]) == jobs[0]
    assert queries.resolve(connection, "job", "last") == jobs[-1]
    assert queries.resolve(connection, "job", jobs[3][:-1]) == jobs[3]
    with pytest.raises(AmbiguousId, match=r"begins the ids of several: .*, …"):
        queries.resolve(connection, "job", jobs[0][:3])
    for nothing in ("zz", "", "%", "' or 1=1"):
        with pytest.raises(NotFound):
            queries.resolve(connection, "job", nothing)
