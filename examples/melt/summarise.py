"""The summary of the study: a table of all points as CSV, and the isochores p(T) as a plot. Puts both.

Runs when every analysis has ended, however it ended: a point that failed has its line in the table, saying so.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import johnson

from lwfm import JobStatus, LwfManager

COLUMNS = (
    "T", "rho", "engine", "atoms", "state",
    "p", "p_error", "u", "u_error", "T_mean", "T_error", "p_johnson", "u_johnson",
    "samples", "discarded", "converged", "point_job", "reason",
)  # fmt: skip

ENGINES = {"lammps": "LAMMPS", "python": "lj_md.py"}

Row = Mapping[str, Any]


def rows_of(points: Sequence[JobStatus], analyses: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per point, in order of density and temperature, with its analysis where there is one."""
    by_point = {(found["T"], found["rho"]): found for found in analyses}
    rows: list[Row] = []
    for point in sorted(points, key=lambda job: (job.meta["rho"], job.meta["T"])):
        temperature, density = point.meta["T"], point.meta["rho"]
        row: dict[str, Any] = {
            "T": temperature,
            "rho": density,
            "engine": point.meta["engine"],
            "atoms": point.meta["atoms"],
            "state": str(point.state),
            "p_johnson": round(johnson.pressure(temperature, density), 5),
            "u_johnson": round(johnson.energy(temperature, density), 5),
            "point_job": point.job_id,
            "reason": point.reason or "",
        }
        found = by_point.get((temperature, density))
        if found:
            for short, name in (("p", "pressure"), ("u", "potential_energy"), ("T", "temperature")):
                average = found[name]
                row["T_mean" if short == "T" else short] = round(average["mean"], 6)
                row[f"{short}_error"] = round(average["error"], 6)
            row["samples"], row["discarded"] = found["samples"], found["discarded"]
            row["converged"] = found["equilibrated"] and found["pressure"]["converged"]
        elif str(point.state) == "COMPLETE":
            row["reason"] = "its analysis failed"
        rows.append(row)
    return rows


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """The table; a point without an analysis has empty fields."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The isochores with error bars over the equation of state, and below how far they are from it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 7), gridspec_kw={"height_ratios": (2, 1)}, layout="constrained"
    )
    done = [row for row in rows if "p" in row]
    temperatures = [row["T"] for row in done]
    low, high = min(temperatures), max(temperatures)
    margin = 0.04 * (high - low) or 0.1
    curve = [low - margin + (high - low + 2 * margin) * step / 100 for step in range(101)]
    densities = sorted({row["rho"] for row in done})
    for place, density in enumerate(densities):
        isochore = [row for row in done if row["rho"] == density]
        x = [row["T"] for row in isochore]
        errors = [row["p_error"] for row in isochore]
        style = {"fmt": "o", "markersize": 4, "capsize": 3}
        points = above.errorbar(x, [row["p"] for row in isochore], errors, label=f"ρ = {density:g}", **style)
        colour = points[0].get_color()
        above.plot(curve, [johnson.pressure(at, density) for at in curve], color=colour, linewidth=0.8)
        beside = [at + (place - (len(densities) - 1) / 2) * margin / 4 for at in x]  # else they hide each other
        below.errorbar(beside, [row["p"] - row["p_johnson"] for row in isochore], errors, color=colour, **style)
    engines = " and ".join(sorted({ENGINES[row["engine"]] for row in done}))
    above.plot([], [], color="grey", linewidth=0.8, label="Johnson et al. 1993")
    above.set_title(f"Lennard-Jones fluid, {done[0]['atoms']} atoms, by {engines}")
    above.set_ylabel("pressure p σ³/ε")
    above.legend(frameon=False)
    below.axhline(0, color="grey", linewidth=0.8)
    below.set_ylabel("p minus Johnson et al.")
    below.set_xlabel("temperature kT/ε")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Summarise the workflow that this job is part of, into the current directory."""
    manager = LwfManager()
    workflow = manager.context().workflow_id
    if workflow is None:
        sys.exit("summarise.py is to run as a job of the study's workflow")
    analyses = []
    for sheet in manager.data(workflow=workflow, match={"kind": "analysis"}, op="put"):
        path = Path(str(sheet.path))
        analyses.append(json.loads(path.read_text(encoding="utf-8")))
        manager.notate_get(path, {"use": "summary"})  # so that the table's lineage leads back to it
    points = manager.jobs(workflow=workflow, match={"role": "point"})
    rows = rows_of(points, analyses)
    metadata = {"kind": "summary", "points": len(points), "analysed": len(analyses)}
    repo = manager.get_site("local").repo

    table = Path("summary.csv")
    write_csv(rows, table)
    repo.put(table, metadata={**metadata, "format": "csv"})
    print(f"{'T':>6} {'rho':>6} {'p':>10} {'error':>8} {'Johnson':>9} {'u':>10} {'error':>8} {'Johnson':>9}")
    for row in rows:
        if "p" in row:
            print(
                f"{row['T']:6g} {row['rho']:6g} {row['p']:10.4f} {row['p_error']:8.4f} {row['p_johnson']:9.4f} "
                f"{row['u']:10.4f} {row['u_error']:8.4f} {row['u_johnson']:9.4f}"
            )
        else:
            print(f"{row['T']:6g} {row['rho']:6g}  {row['state']}: {row['reason']}")
    if not analyses:
        sys.exit("no point could be analysed: there is nothing to plot")
    plot = Path("summary.png")
    try:
        draw(rows, plot)
    except ImportError:
        sys.exit("the plot needs matplotlib: python -m pip install matplotlib (the table is there)")
    repo.put(plot, metadata={**metadata, "format": "png"})


if __name__ == "__main__":
    main()
