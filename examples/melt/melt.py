"""A parameter study of the Lennard-Jones melt: pressure and energy over temperature and density.

    ./lwfm.sh run examples/melt/melt.py
    ./lwfm.sh run examples/melt/melt.py --temperatures 1,2,4 --densities 0.7,0.85 --engine python

One job per point, as many at once as there are cores. Each puts its log; a data handler fires an analysis per log; when
all have been analysed, a job event fires the summary, which puts a table (summary.csv) and a plot (summary.png). This
script only sets that up and ends; the jobs go on without it. README.md beside this file tells more.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from engines import find_lammps, how_to_install

from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent, Resources, Workflow

HERE = Path(__file__).resolve().parent
ENDED = ("COMPLETE", "FAILED", "CANCELLED")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A job has one core: libraries that would start a thread for every core they see are told so."""


def positive_numbers(text: str) -> list[float]:
    """A comma-separated list of numbers above zero, without repetitions."""
    try:
        values = sorted({float(word) for word in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 1.0,1.5") from None
    if not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: temperatures and densities are above 0")
    return values


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--temperatures", type=positive_numbers, default="1.0,1.5,2.0,3.0", help="default %(default)s")
    parser.add_argument("--densities", type=positive_numbers, default="0.7,0.8,0.9", help="default %(default)s")
    parser.add_argument("--steps", type=int, default=20000, help="of each point, after melting; default %(default)s")
    parser.add_argument("--melt-steps", type=int, default=1000, help="default %(default)s")
    parser.add_argument("--timestep", type=float, default=0.004, help="tau; default %(default)s")
    parser.add_argument("--cells", type=int, default=4, help="4 cells^3 atoms; default %(default)s: 256 atoms")
    parser.add_argument("--seed", type=int, default=4711, help="default %(default)s")
    parser.add_argument("--engine", choices=("auto", "lammps", "python"), default="auto", help="default %(default)s")
    parser.add_argument("--lmp", help="LAMMPS' program, where it has an unusual name or place")
    parser.add_argument("--out", type=Path, help="default melt-results/ID, ID being that of the workflow")
    return parser.parse_args()


def choose_engine(options: argparse.Namespace) -> str:
    """``lammps`` or ``python``; says how to install what is missing."""
    lammps = find_lammps(options.lmp)
    if options.engine != "python" and lammps:
        return "lammps"
    if options.engine == "lammps":
        sys.exit(how_to_install(options.lmp) + "\nOr use --engine python.")
    if options.engine == "auto":
        print(how_to_install(options.lmp))
        print("The study runs with the Python code that comes with it, lj_md.py; its data say engine=python.")
    if importlib.util.find_spec("numpy") is None:
        sys.exit("lj_md.py needs numpy: python -m pip install numpy")
    return "python"


def point(options: argparse.Namespace, engine: str, temperature: float, density: float, out: Path) -> JobDefn:
    """The job of one point, in a directory of its own."""
    directory = out / f"T{temperature:g}_rho{density:g}"
    directory.mkdir(parents=True, exist_ok=True)
    asked: dict[str, Any] = {
        "temperature": temperature,
        "density": density,
        "engine": engine,
        "cells": options.cells,
        "steps": options.steps,
        "melt-steps": options.melt_steps,
        "timestep": options.timestep,
        "seed": options.seed,
    }
    if options.lmp:
        asked["lmp"] = options.lmp
    return JobDefn(
        [sys.executable, str(HERE / "point.py"), *(f"--{name}={value}" for name, value in asked.items())],
        name=directory.name,
        cwd=str(directory),
        env=ONE_THREAD,
        resources=Resources(cores=1),
        inputs=[str(HERE / ("in.melt" if engine == "lammps" else "lj_md.py"))],
        meta={"role": "point", "T": temperature, "rho": density, "engine": engine, "atoms": 4 * options.cells**3},
    )


def main() -> None:
    """Set up the study."""
    options = arguments()
    engine = choose_engine(options)
    grid = [(temperature, density) for density in options.densities for temperature in options.temperatures]
    manager = LwfManager()
    # `lwfm run` has made a workflow for this script, which only needs a description; otherwise this makes one.
    workflow = manager.put_workflow(
        Workflow("melt", workflow_id=manager.context().workflow_id or ""),
        description="Pressure and energy of the Lennard-Jones fluid over temperature and density",
        meta={"engine": engine, "temperatures": options.temperatures, "densities": options.densities},
    )
    out = (options.out or Path("melt-results") / workflow.workflow_id[:18]).resolve()
    out.mkdir(parents=True, exist_ok=True)

    def job(script: str, *words: str) -> JobDefn:
        return JobDefn([sys.executable, str(HERE / f"{script}.py"), *words], name=script, cwd=str(out))

    # The handler first: no log can be put before somebody waits for it. The ids of all its jobs are known from now on.
    analyses = manager.set_event(
        MetadataEvent({"kind": "thermo"}, job("analyse"), repeat=len(grid), name="analyse each log"), workflow=workflow
    )
    points = manager.get_site("local").run.submit_many(
        [point(options, engine, temperature, density, out) for temperature, density in grid], workflow=workflow
    )
    manager.set_event(
        JobEvent(points, ENDED, job("settle", analyses.handler_id), name="all points have ended"), workflow=workflow
    )
    summary = manager.set_event(
        JobEvent(analyses.job_ids, ENDED, job("summarise"), name="all logs are analysed"), workflow=workflow
    )
    print(f"{len(grid)} points with engine={engine}, {options.steps} steps each, in {out}")
    print(f"workflow {workflow.workflow_id}, summary job {summary.job_id}")


if __name__ == "__main__":
    main()
