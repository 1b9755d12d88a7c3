"""The site ``allocation``: the nodes of the allocations that the agent is in or has asked for, without any other node it has.

Beside them the site ``local`` has the node that the agent runs on, wherever that is.
"""

from __future__ import annotations

from ..capacity import ALLOCATED
from ..errors import ResourcesImpossible
from ..models import JobDefn
from .base import Nodes, Run, SiteContext
from .local import LocalRun, LocalSite


class AllocationSite(LocalSite):
    """The nodes of allocations; data are those that this node sees."""

    def __init__(self, context: SiteContext):
        super().__init__(context)
        if context.nodes is not None:
            self.run = AllocationRun(context.nodes)


class AllocationRun(LocalRun):
    """Jobs on the nodes of allocations."""

    labels = frozenset({ALLOCATED})

    def __init__(self, nodes: Nodes):
        super().__init__(nodes)
        self._nodes_of_agent = nodes

    def check(self, defn: JobDefn) -> None:
        """Refuse what no node of an allocation could ever run."""
        Run.check(self, defn)
        try:
            self._nodes_of_agent.check(defn, self.labels)
        except ResourcesImpossible as error:
            if f"labelled {ALLOCATED}" not in error.message:
                raise
            raise ResourcesImpossible(
                "there is no allocation to run the job in",
                hint="start the agent inside one, or ask for one: lwfm spin create allocation nodes=2 time=1:00:00",
            ) from None
