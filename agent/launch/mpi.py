"""Which MPI an ``mpiexec`` is of: they share the name, not the options. Pure.

Sources: ``mpiexec --version`` of Open MPI 4.1 and MPICH 4.0, as they say it; the Intel MPI developer reference; mpiexec of HPE
PALS.
"""

from __future__ import annotations

import re
from typing import Optional

INTEL, HYDRA, OPEN_MPI, PALS = "intel", "hydra", "open mpi", "pals"
_SAID = (
    (INTEL, r"intel\(r\) mpi"),
    (HYDRA, r"hydra|mpich"),
    (OPEN_MPI, r"open ?mpi|openrte|prrte"),
    (PALS, r"\bpals\b"),
)


def family_of(told: str) -> Optional[str]:
    """The family by what ``mpiexec --version`` says; None for one that is not known here."""
    return next((family for family, pattern in _SAID if re.search(pattern, told, re.IGNORECASE)), None)
