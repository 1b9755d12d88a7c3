"""A workflow over three kinds of sites: prepared here, swept in a batch queue, analysed beside it, plotted here.

How long a pendulum takes to swing, by how far it swings. A job here writes the amplitudes. They and the code go to the cluster,
where an array of jobs in its queue runs the code, one amplitude each. When all are COMPLETE their files are put there as one,
which starts the analysis there; its result starts the plot here. This script only sets that up and ends.

Set up:   lwfm self copy CLUSTER, and its sites.toml and yours, as docs/tutorial-sites.md tells
Run it:   ./lwfm.sh run examples/sweep/sweep.py --cluster cluster --queue cluster/slurm
Expect:   13 jobs COMPLETE, and sweep-results/ID/periods.svg. Without the options all of it runs here, as on any site.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent, Workflow

HERE = Path(__file__).resolve().parent
CODE = HERE.parent / "insitu" / "pendulum.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--amplitudes", type=int, nargs="+", default=[10, 30, 50, 70, 90, 110, 130, 150], help="degrees"
    )
    parser.add_argument("--cluster", default="local", help="the site of the cluster's agent; default %(default)s")
    parser.add_argument("--queue", default="local", help="the site of its queue; default %(default)s")
    parser.add_argument("--step", default="0.005", help="of the integration in time; default %(default)s")
    options = parser.parse_args()
    manager = LwfManager()
    here, cluster, queue = (manager.get_site(name) for name in ("local", options.cluster, options.queue))
    flow = manager.put_workflow(
        Workflow("sweep", workflow_id=manager.context().workflow_id or ""), meta={"amplitudes": options.amplitudes}
    )
    out = (Path("sweep-results") / flow.workflow_id[:18]).resolve()
    out.mkdir(parents=True)

    # Here: what is to be swept.
    numbers = " ".join(map(str, options.amplitudes))
    prepare = JobDefn(f"printf '%s\\n' {numbers} > amplitudes.txt", name="prepare", cwd=str(out))
    prepared = here.run.submit(prepare, workflow=flow)
    assert str(manager.wait(prepared).state) == "COMPLETE", "prepare failed: lwfm job output last"

    # To there: it and the codes. What is put under a relative path lies in the site's repository, and says where that is.
    place = f"sweep/{flow.workflow_id[:18]}"
    code = str(cluster.repo.put(CODE, f"{place}/pendulum.py", metadata={"kind": "code"}).path)
    analysis = str(cluster.repo.put(HERE / "periods.py", f"{place}/periods.py", metadata={"kind": "code"}).path)
    table = str(
        cluster.repo.put(out / "amplitudes.txt", f"{place}/amplitudes.txt", metadata={"kind": "amplitudes"}).path
    )
    there = shlex.quote(str(Path(table).parent))

    # In the queue: one submission, an array. Handlers are set before what they wait for can happen.
    trajectories = [f"{Path(table).parent}/trajectory-{number}.csv" for number in range(1, len(options.amplitudes) + 1)]
    sweep = [
        JobDefn(
            f"python3 {shlex.quote(code)} $(sed -n {number}p {shlex.quote(table)}) --step {options.step}"
            f" > {shlex.quote(trajectory)}",
            name=f"swing-{amplitude}",
            meta={"amplitude": amplitude},
            inputs=[code, table],
            outputs=[trajectory],
        )
        for number, (amplitude, trajectory) in enumerate(zip(options.amplitudes, trajectories), 1)
    ]
    study = {"study": flow.workflow_id}
    tagged = f"--meta study={flow.workflow_id}"
    analyse = JobDefn(
        f'python3 {shlex.quote(analysis)} "$LWFM_TRIGGER_PATH" > {there}/periods.csv'
        f" && lwfm put {there}/periods.csv --meta kind=periods {tagged}",
        name="analyse",
    )
    plot = JobDefn(
        f'lwfm get "$LWFM_TRIGGER_DATA" periods.csv && {shlex.quote(sys.executable)} {shlex.quote(str(HERE / "plot.py"))}'
        " periods.csv > periods.svg && lwfm put periods.svg --meta kind=plot",
        name="plot",
        cwd=str(out),
    )
    collect = JobDefn(
        f"cd {there} && cat trajectory-*.csv > sweep.csv && lwfm put sweep.csv --meta kind=sweep {tagged}",
        name="collect",
        inputs=trajectories,
    )
    manager.set_event(MetadataEvent({"kind": "sweep", **study}, analyse, site=options.cluster), workflow=flow)
    manager.set_event(MetadataEvent({"kind": "periods", **study}, plot), workflow=flow)
    swung = queue.run.submit_many(sweep, workflow=flow)
    manager.set_event(JobEvent([job.job_id for job in swung], "COMPLETE", collect, site=options.cluster), workflow=flow)
    print(f"{len(swung)} amplitudes at {options.queue}; the plot will be {out}/periods.svg")


if __name__ == "__main__":
    main()
