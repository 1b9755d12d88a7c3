"""The agent opens the store of an earlier release, and goes on with what waits in it."""

from __future__ import annotations

import pytest

from lwfm.store import schema
from lwfm.store.connection import connect

from support import earlier_stores
from support.agents import Agent, new_home
from support.waiting import wait_until


@pytest.mark.parametrize("version", [1, 4, 8])
def test_what_waited_in_an_earlier_store_runs(version: int) -> None:
    root = new_home()
    earlier_stores.make(version, root / "thread.db")
    connection = connect(str(root / "thread.db"))
    connection.execute("delete from local_settings where key = 'marked'")  # its mark was not brought along
    connection.close()
    agent = Agent(root)
    try:
        agent.start()
        (waiting,) = agent.client.get("/v1/jobs", {"state": "READY"})["jobs"]
        agent.client.post("/v1/data", {"op": "event", "properties": {"kind": "never"}})
        wait_until(
            lambda: agent.client.get(f"/v1/jobs/{waiting['job_id']}")["state"] == "COMPLETE",
            "the job that waited to run",
            on_timeout=agent.log,
        )
        answer = agent.client.post("/v1/store/check", {})
        assert answer["ok"], answer
        assert agent.client.get("/v1/sync")["schema"] == schema.SCHEMA_VERSION
    finally:
        agent.close()
