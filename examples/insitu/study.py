"""A study for the nodes of an allocation: how long a pendulum takes to swing, by how far it swings.

One job per amplitude runs the code, pendulum.py, and puts its trajectory; a data handler fires a measurement per trajectory; when
all are measured, a job event fires the table, which gets them all and puts periods.csv. This script only sets that up and ends; the
jobs use all nodes there are. job.sh beside it runs it by sbatch, docs/tutorial-sync.md brings it home.

Run it:   ./lwfm.sh run examples/insitu/study.py
Expect:   14 jobs COMPLETE, and pendulum-results/ID/periods.csv, whose periods are those of the exact solution.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent, Workflow

HERE = Path(__file__).resolve().parent


def set_up(options: argparse.Namespace) -> None:
    """What is run when: all ids are known from the start, and nothing waits here."""
    manager = LwfManager()
    flow = manager.put_workflow(
        Workflow("pendulum", workflow_id=manager.context().workflow_id or ""),
        description="The period of a pendulum by its amplitude",
        meta={"amplitudes": options.amplitudes},
    )
    out = (options.out or Path("pendulum-results") / flow.workflow_id[:18]).resolve()

    out.mkdir(parents=True, exist_ok=True)

    def job(role: str, *words: str) -> JobDefn:
        return JobDefn([sys.executable, str(HERE / "study.py"), role, *words], name=role, cwd=str(out))

    def simulation(amplitude: float) -> JobDefn:
        (out / f"{amplitude:g}").mkdir(exist_ok=True)
        return replace(
            job("simulate", f"{amplitude:g}", str(options.code.resolve()), f"--step={options.step}"),
            name=f"simulate-{amplitude:g}",
            cwd=str(out / f"{amplitude:g}"),
            inputs=[str(options.code.resolve())],
            meta={"amplitude": amplitude},
        )

    # The handler first: no trajectory can be put before somebody waits for it.
    trajectory = {"kind": "trajectory", "study": flow.workflow_id}
    measured = manager.set_event(
        MetadataEvent(trajectory, job("measure"), repeat=len(options.amplitudes)), workflow=flow
    )
    manager.get_site("local").run.submit_many(map(simulation, options.amplitudes), workflow=flow)
    manager.set_event(JobEvent(measured.job_ids, "COMPLETE", job("tabulate")), workflow=flow)
    print(f"{len(options.amplitudes)} amplitudes, in {out}")


def simulate(amplitude: str, code: str, *options: str) -> None:
    """Run the code, and put what it has made."""
    manager = LwfManager()
    with open("trajectory.csv", "w", encoding="utf-8") as file:
        subprocess.run([sys.executable, code, amplitude, *options], stdout=file, check=True)
    about = {"kind": "trajectory", "amplitude": float(amplitude), "study": manager.context().workflow_id}
    manager.get_site("local").repo.put("trajectory.csv", metadata=about)


def measure() -> None:
    """The time between the two passes through the lowest point of the trajectory that fired this job."""
    manager = LwfManager()
    repo = manager.get_site("local").repo
    context = manager.context()
    about = context.trigger_properties or {}
    directory = Path(f"{about['amplitude']:g}")
    trajectory = repo.get(str(context.trigger_data), directory / "trajectory-read.csv")
    with open(trajectory, encoding="utf-8") as file:
        rows = [(float(row["time"]), float(row["angle"])) for row in csv.DictReader(file)]
    passes = [
        time + (later - time) * angle / (angle - after)
        for (time, angle), (later, after) in zip(rows, rows[1:])
        if angle > 0 >= after
    ]
    period = passes[1] - passes[0]
    (directory / "period.txt").write_text(f"{period:.9f}\n", encoding="utf-8")
    repo.put(directory / "period.txt", metadata={"kind": "period", "amplitude": about["amplitude"], "period": period})
    print(f"{about['amplitude']:g} degrees: {period:.9f}")


def tabulate() -> None:
    """A table of all periods, beside those of the exact solution, 2 pi / agm(1, cos(amplitude / 2))."""
    manager = LwfManager()
    repo = manager.get_site("local").repo
    found = manager.data(workflow=manager.context().workflow_id, match={"kind": "period"})
    lines = ["amplitude,period,exact"]
    for sheet in sorted(found, key=lambda sheet: float(sheet.properties["amplitude"])):
        amplitude = sheet.properties["amplitude"]
        period = float(Path(repo.get(sheet, f"{amplitude:g}/period-read.txt")).read_text(encoding="utf-8"))
        a, b = 1.0, math.cos(math.radians(amplitude) / 2)
        for _ in range(8):
            a, b = (a + b) / 2, math.sqrt(a * b)
        exact = 2 * math.pi / a
        assert abs(period - exact) < 1e-6 * exact, f"{amplitude:g} degrees: {period:.9f} instead of {exact:.9f}"
        lines.append(f"{amplitude:g},{period:.6f},{exact:.6f}")
    Path("periods.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    repo.put("periods.csv", metadata={"kind": "result", "amplitudes": len(lines) - 1})
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--amplitudes", type=float, nargs="+", default=[10, 30, 60, 90, 120, 170], help="degrees")
    parser.add_argument("--step", type=float, default=0.005, help="of the integration in time; default %(default)s")
    parser.add_argument("--code", type=Path, default=HERE / "pendulum.py", help="another code with the same arguments")
    parser.add_argument("--out", type=Path, help="default pendulum-results/ID, ID being that of the workflow")
    if sys.argv[1:2] == ["simulate"]:  # one of its own jobs, as the next two
        simulate(*sys.argv[2:])
    elif sys.argv[1:2] == ["measure"]:
        measure()
    elif sys.argv[1:2] == ["tabulate"]:
        tabulate()
    else:
        set_up(parser.parse_args())


if __name__ == "__main__":
    main()
