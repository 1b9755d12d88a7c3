"""The first tutorial's study: a source is simulated with several seeds, each result fitted as it comes, then the mean taken.

Run it:   ./lwfm.sh run examples/decay/study.py
Expect:   18 jobs COMPLETE, and decay-results/ID/mean.txt, which says about 7.5.
"""

from __future__ import annotations

from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent, Workflow

HERE = Path(__file__).resolve().parent
SEEDS = range(1, 9)

lwf = LwfManager()
run = lwf.get_site("local").run
flow = lwf.put_workflow(Workflow("decay", workflow_id=lwf.context().workflow_id or ""))
out = (Path("decay-results") / flow.workflow_id[:18]).resolve()
out.mkdir(parents=True)


def job(name: str, line: str, **more: object) -> JobDefn:
    return JobDefn(line, name=name, cwd=str(out), **more)  # type: ignore[arg-type]


# Whenever counts are put, a fit starts, and knows which. Set before any can be put.
fit = job("fit", f'python3 {HERE}/fit.py "$LWFM_TRIGGER_PATH" > "fit-$LWFM_TRIGGER_DATA.txt"')
fitted = lwf.set_event(MetadataEvent({"kind": "counts"}, fit, repeat=len(SEEDS)), workflow=flow)

# The simulations, all at once: they run as cores become free.
run.submit_many(
    [
        job(
            f"decay-{seed}",
            f"python3 {HERE}/decay.py 7.5 {seed} > counts-{seed}.csv"
            f" && lwfm put counts-{seed}.csv --meta kind=counts --meta seed={seed}",
            inputs=[f"{HERE}/decay.py"],
        )
        for seed in SEEDS
    ],
    workflow=flow,
)

# When all fits are COMPLETE: their ids were known from the start.
mean = "cat fit-*.txt | awk '{ s += $1 } END { print s / NR }' > mean.txt && lwfm put mean.txt --meta kind=mean"
lwf.set_event(JobEvent(fitted.job_ids, "COMPLETE", job("mean", mean)), workflow=flow)
print(f"{len(SEEDS)} seeds, in {out}")
