"""The thread store: an append-only, hash-chained log of records, and the tables that people query.

Only this package imports SQLite; what others ask of the tables goes through its connections and transactions. It is synchronous and
used from one thread at a time; the agent owns it.
"""

from __future__ import annotations

from .connection import Connection
from .database import Store
from .log import Record
from .transaction import Transaction

__all__ = ["Connection", "Record", "Store", "Transaction"]
