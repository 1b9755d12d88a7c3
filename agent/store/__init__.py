"""The thread store: an append-only, hash-chained log of records, and the tables that people query.

Only this package imports SQLite; what others ask of the tables goes through its connections and transactions. It is synchronous and
used from one thread at a time; the agent owns it.

To read it: :mod:`.log` is what is true, :mod:`.projections` what becomes of it in the tables of :mod:`.schema`; :mod:`.transaction`
writes both, in the file that :mod:`.database` opens. :mod:`.queries` is what is asked, with :mod:`.selection`, :mod:`.lineage` and
:mod:`.copies`. With the records of other stores deal :mod:`.batch`, :mod:`.exchange`, :mod:`.foreign`, :mod:`.forks` and
:mod:`.fragments`; with the health and the size of this one :mod:`.maintenance`, :mod:`.repair`, :mod:`.snapshots`, :mod:`.pruning`
and :mod:`.compaction`.
"""

from __future__ import annotations

from .connection import Connection
from .database import Store
from .log import Record
from .transaction import Transaction

__all__ = ["Connection", "Record", "Store", "Transaction"]
