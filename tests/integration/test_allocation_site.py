"""The site `allocation`: under the contract on real nodes; refused where there are none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from lwfm import errors
from lwfm.testing import SiteContract, SiteUnderTest

from support import cluster as bed
from support.agents import new_home, running_agent
from support.allocations import an_allocation
from support.cluster import Cluster
from support.peers import a_network, site_through_ssh
from support.ssh_server import sshd_program

cluster = bed.cluster


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


class TestOnAllocatedNodes(SiteContract):
    """The site under the contract, on the nodes of a batch job in which its agent runs; that is reached by ssh."""

    @pytest.fixture(scope="class")
    def site(self, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteUnderTest]:
        if sshd_program() is None:
            pytest.skip("there is no sshd")
        with a_network(tmp_path_factory.mktemp("ssh")) as network, an_allocation(cluster, nodes=2) as inside:
            near = network.place("near")
            inside.run("agent", "start")
            inside.wait_nodes(*inside.hosts)
            there = new_home()
            here = tmp_path_factory.mktemp("here")
            with site_through_ssh(network, near, inside.home, here, there, site="allocation") as made:
                yield made
            shutil.rmtree(there)

    def test_its_jobs_run_on_those_nodes(self, site: SiteUnderTest) -> None:
        job_id = site.submit("hostname")
        assert site.until(job_id).facts["host"] in {"n1", "n2", "n3", "n4"}
        assert site.output(job_id).decode().strip() in {"n1", "n2", "n3", "n4"}
