"""The two codes that can run a point of the study, and how to get the faster one."""

from __future__ import annotations

import shutil

LAMMPS_NAMES = ("lmp", "lmp_serial", "lmp_mpi", "lammps")
"""What LAMMPS is called: by Debian, conda and its own build; by older builds; by some modules."""

HOW_TO_INSTALL = """\
LAMMPS is not installed here (no {names} on PATH). To install it:
  Debian, Ubuntu   sudo apt install lammps
  conda            conda install -c conda-forge lammps
  a cluster        module avail lammps; module load lammps"""


def find_lammps(wanted: str | None = None) -> str | None:
    """The full path of LAMMPS, or of the program ``wanted`` instead; None where there is none."""
    names = (wanted,) if wanted else LAMMPS_NAMES
    return next((found for found in map(shutil.which, names) if found), None)


def how_to_install(wanted: str | None = None) -> str:
    """What to tell somebody who has no LAMMPS."""
    return HOW_TO_INSTALL.format(names=wanted or "lmp")
