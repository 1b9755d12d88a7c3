"""One point of the study: runs it with LAMMPS or lj_md.py in the current directory and puts its log with metadata.

melt.py submits this as a job, one for each point, each in a directory of its own.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import thermolog
from engines import find_lammps, how_to_install

from lwfm import LwfManager

HERE = Path(__file__).resolve().parent
LOG = Path("thermo.log")


def run_lammps(options: argparse.Namespace) -> str:
    """Run in.melt; the version of LAMMPS that did it."""
    program = find_lammps(options.lmp)
    if program is None:
        sys.exit(how_to_install(options.lmp))
    variables = {
        "T": options.temperature,
        "rho": options.density,
        "cells": options.cells,
        "steps": options.steps,
        "melt": options.melt_steps,
        "dt": options.timestep,
        "seed": options.seed,
    }
    words = [program, "-in", str(HERE / "in.melt"), "-log", str(LOG), "-screen", "none"]
    for name, value in variables.items():
        words += ["-var", name, str(value)]
    code = subprocess.run(words, check=False, stdin=subprocess.DEVNULL).returncode
    text = LOG.read_text(encoding="utf-8", errors="replace") if LOG.exists() else ""
    if code != 0:
        sys.exit(f"{program} ended with code {code}: {thermolog.find_error(text) or 'see ' + str(LOG.resolve())}")
    first = text.partition("\n")[0]
    return first[first.find("(") + 1 : first.rfind(")")] if first.startswith("LAMMPS (") else "unknown"


def run_python(options: argparse.Namespace) -> str:
    """Run lj_md.py; its version."""
    import lj_md
    import numpy

    study = lj_md.Study(
        temperature=options.temperature,
        density=options.density,
        cells=options.cells,
        steps=options.steps,
        melt_steps=options.melt_steps,
        timestep=options.timestep,
        seed=options.seed,
    )
    try:
        with LOG.open("w", encoding="utf-8") as log:
            lj_md.simulate(study, log)
    except (ArithmeticError, ValueError) as error:
        sys.exit(f"lj_md.py: {error}")
    return f"lj_md.py with numpy {numpy.__version__}"


def properties(options: argparse.Namespace, version: str) -> dict[str, Any]:
    """What is put with the log: what was asked for, and where the run ended."""
    run = thermolog.read_log(LOG)[-1]
    final = dict(zip(run.columns, run.rows[-1]))
    if not run.complete or not all(math.isfinite(value) for value in final.values()):
        sys.exit(f"the run did not come to a good end: see {LOG.resolve()}")
    return {
        "kind": "thermo",
        "T": options.temperature,
        "rho": options.density,
        "final_pressure": final["Press"],
        "final_temperature": final["Temp"],
        "final_potential_energy": final["PotEng"],
        "engine": options.engine,
        "engine_version": version,
        "units": "lj",
        "atoms": 4 * options.cells**3,
        "steps": options.steps,
        "timestep": options.timestep,
        "cutoff": 2.5,
        "tail_corrections": True,
        "ensemble": "NVT",
        "seed": options.seed,
        "seconds": run.seconds,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--temperature", type=float, required=True, help="epsilon/k")
    parser.add_argument("--density", type=float, required=True, help="atoms per sigma^3")
    parser.add_argument("--engine", choices=("lammps", "python"), required=True)
    parser.add_argument("--lmp", help="LAMMPS' program")
    parser.add_argument("--cells", type=int, default=4, help="FCC cells along an edge")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--melt-steps", type=int, default=1000)
    parser.add_argument("--timestep", type=float, default=0.004, help="tau")
    parser.add_argument("--seed", type=int, default=4711)
    options = parser.parse_args()

    print(f"T={options.temperature} rho={options.density}: {options.steps} steps with {options.engine}", flush=True)
    version = run_lammps(options) if options.engine == "lammps" else run_python(options)
    found = properties(options, version)
    LwfManager().get_site("local").repo.put(LOG, metadata=found)
    print(f"final pressure {found['final_pressure']:.4f}, {found['seconds']} s")


if __name__ == "__main__":
    main()
