"""The site `allocation` where there is none: refused, whether the agent or a driver of the user's own asks."""

from __future__ import annotations

import pytest

from lwfm import errors

from support.agents import running_agent


def test_without_an_allocation_its_jobs_are_refused() -> None:
    with running_agent() as agent:
        agent.worker()
        with pytest.raises(errors.ResourcesImpossible, match="there is no allocation to run the job in") as raised:
            agent.submit("true", site="allocation")
        assert "lwfm spin create allocation" in str(raised.value.hint)
        names = [site["name"] for site in agent.client.get("/v1/sites")["sites"]]
        assert names == ["local", "allocation"]
        checks = agent.client.post("/v1/sites/allocation/check", {})["checks"]
        assert [check["ok"] for check in checks] == [True, False, True, True]
