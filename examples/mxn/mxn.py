"""M applications built and checked on N sites: one script, one table of green and red, the lineage behind each cell.

Each application of the directory apps is copied to each site, built there by its build.sh, and when that is COMPLETE checked by its
check.sh, which writes result.txt. All of that are jobs: what a cell of the table says is in their records, wherever they ran.

Run it:   ./lwfm.sh run examples/mxn/mxn.py
Expect:   a table whose 3 cells are green, and mxn-results/ID/mxn.csv. Other sites: --sites local,cluster,cluster/slurm
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from lwfm import JobDefn, JobEvent, JobStatus, LwfManager, Workflow

HERE = Path(__file__).resolve().parent
GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"


@dataclass
class Cell:
    """One application on one site: its jobs, or why it did not come that far."""

    app: str
    site: str
    build: str = ""
    check: str = ""
    problem: str = ""

    def judge(self, manager: LwfManager) -> bool:
        """Whether it is green; else ``problem`` says why not."""
        for step, job in (("build", self.build), ("check", self.check)):
            if job and not self.problem:
                status: JobStatus = manager.job(job)
                if str(status.state) != "COMPLETE":
                    self.problem = f"{step}: {status.reason or status.state}"
        return not self.problem


def set_up(manager: LwfManager, app: Path, site_name: str, flow: str) -> Cell:
    """Copy an application to a site, and have it built and then checked there."""
    cell, site = Cell(app.name, site_name), manager.get_site(site_name)
    meta = {"app": app.name, "on": site_name}
    try:
        sheet = site.repo.put(app, f"mxn/{flow[:18]}/{site_name.replace('/', '-')}/{app.name}", metadata=meta)
        place = str(sheet.path)
        inside = f"cd {shlex.quote(place)} && sh"
        build = JobDefn(f"{inside} build.sh", name=f"build {app.name}", meta=meta)
        cell.build = site.run.submit(build).job_id
        check = JobDefn(f"{inside} check.sh", name=f"check {app.name}", meta=meta, outputs=[f"{place}/result.txt"])
        cell.check = manager.set_event(JobEvent(cell.build, "COMPLETE", check, site=site_name)).job_id or ""
    except Exception as error:  # a site that cannot even be asked is a red cell as well
        cell.problem = f"{type(error).__name__}: {error}"
    return cell


def shown(cells: list[Cell], green: dict[tuple[str, str], bool], *, colour: bool) -> str:
    """The table: applications down, sites across."""
    sites = list(dict.fromkeys(cell.site for cell in cells))
    apps = list(dict.fromkeys(cell.app for cell in cells))
    width = max(map(len, [*sites, "red"])) + 2
    lines = ["".ljust(12) + "".join(site.ljust(width) for site in sites)]
    for app in apps:
        line = app.ljust(12)
        for site in sites:
            word = ("green" if green[app, site] else "red").ljust(width)
            line += f"{GREEN if green[app, site] else RED}{word}{PLAIN}" if colour else word
        lines.append(line.rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sites", default="local", help="their names, with commas between; default %(default)s")
    parser.add_argument("--apps", type=Path, default=HERE / "apps", help="a directory of applications")
    parser.add_argument("--out", type=Path, help="where the table goes; default mxn-results/ID")
    options = parser.parse_args()
    manager = LwfManager()
    flow = manager.put_workflow(Workflow("mxn", workflow_id=manager.context().workflow_id or "")).workflow_id
    apps = sorted(path for path in options.apps.iterdir() if (path / "build.sh").is_file())
    cells = [set_up(manager, app, site, flow) for app in apps for site in options.sites.split(",")]
    manager.wait_all([cell.build for cell in cells if cell.build])
    manager.wait_all([cell.check for cell in cells if cell.check and manager.job(cell.build).state == "COMPLETE"])
    green = {(cell.app, cell.site): cell.judge(manager) for cell in cells}

    out = (options.out or Path("mxn-results") / flow[:18]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "mxn.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["app", "site", "green", "build", "check", "problem"])
        for cell in cells:
            table.writerow([cell.app, cell.site, green[cell.app, cell.site], cell.build, cell.check, cell.problem])
    manager.get_site().repo.put(out / "mxn.csv", metadata={"kind": "mxn", "green": sum(green.values())})
    print(shown(cells, green, colour=sys.stdout.isatty()))
    for cell in cells:
        if cell.problem:
            print(f"red: {cell.app} on {cell.site}: {cell.problem}")
    print(
        f"{sum(green.values())} of {len(cells)} green; {out / 'mxn.csv'}; behind a cell: lwfm lineage ID of its check"
    )
    return 0 if all(green.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
