"""A running instance: its parts put together (``composition``), and what is done between them.

Data flows one way: a request becomes a unit of work in the writer; its effects come back once they are durable (``following``),
wake who waits, and hand pending jobs to their sites (``sites``); sites and workers report, which becomes units of work again.
"""

from __future__ import annotations

from .composition import Instance

__all__ = ["Instance"]
