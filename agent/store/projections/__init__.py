"""From records to tables: how each kind of record changes what people query.

The tables are a fold of the log that does not depend on the order in which origins are folded: every projection may run
twice, and may run before the record it refers to has come. Unknown kinds are left alone; they stay in the log.
"""

from __future__ import annotations

from .folding import contradicts, project
from .jobs import project_new_job
from .statuses import project_new_status
from .whose import decides

__all__ = ["contradicts", "decides", "project", "project_new_job", "project_new_status"]
