"""The analysis of one point: reads the log that triggered this job, puts means and errors as a small JSON file.

It fires by itself whenever data with kind=thermo is put; which data that was, the job's context tells. By hand:

    python examples/melt/analyse.py LOG     prints the analysis of a log and puts nothing
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import averages
import thermolog

QUANTITIES = {"pressure": "Press", "temperature": "Temp", "potential_energy": "PotEng"}
"""What is averaged: its name here, and in the log."""


def analyse(log: Path) -> dict[str, Any]:
    """Means and standard errors over the equilibrated part of the last run in ``log``.

    Raises:
        OSError: the log cannot be read.
        ValueError: it does not hold a run that came to its end, or too little of it.
    """
    run = thermolog.read_log(log)[-1]
    if not run.complete:
        raise ValueError(f"{log}: the run did not come to its end")
    series = {name: run.column(column) for name, column in QUANTITIES.items()}
    discarded = max(averages.equilibrated_from(series[name]) for name in ("pressure", "potential_energy"))
    found: dict[str, Any] = {
        "samples": len(run.rows) - discarded,
        "discarded": discarded,
        "equilibrated": discarded < len(run.rows) // 2 - averages.BATCH,
        "steps_between_samples": run.column("Step")[1] - run.column("Step")[0],
    }
    for name, values in series.items():
        found[name] = dataclasses.asdict(averages.block_average(values[discarded:]))
    return found


def as_job() -> None:
    """Analyse what triggered this job."""
    from lwfm import LwfManager

    manager = LwfManager()
    context = manager.context()
    if not context.trigger_path:
        sys.exit("this job was not triggered by a log; give one: analyse.py LOG")
    log = Path(context.trigger_path)
    about = {key: context.trigger_properties[key] for key in ("T", "rho", "engine", "units", "atoms")}
    found = {**about, "log": str(log), "thermo_data": context.trigger_data, **analyse(log)}
    result = log.with_name("analysis.json")
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    pressure = found["pressure"]
    if not found["equilibrated"] or not pressure["converged"]:
        manager.log("the run is short: its errors are probably too small", level="WARNING")
    manager.get_site("local").repo.put(
        result,
        metadata={
            "kind": "analysis",
            **about,
            "pressure": pressure["mean"],
            "pressure_error": pressure["error"],
            "potential_energy": found["potential_energy"]["mean"],
            "potential_energy_error": found["potential_energy"]["error"],
        },
    )
    print(f"T={about['T']} rho={about['rho']}: p = {pressure['mean']:.4f} ± {pressure['error']:.4f}")


def main() -> None:
    """The command line."""
    try:
        if len(sys.argv) > 1:
            print(json.dumps(analyse(Path(sys.argv[1])), indent=1))
        else:
            as_job()
    except (OSError, ValueError) as error:
        sys.exit(f"analyse.py: {error}")


if __name__ == "__main__":
    main()
