"""Job events: B starts when A is COMPLETE, C when B is; and another job when something FAILED.

The id of the job that an event will start is known as soon as the event is set: whole chains can be set up at once.
A job that waits for what can no longer happen is cancelled, and the reason says why.

Run it:   ./lwfm.sh python examples/chain.py
Expect:   A, B, C one after the other; "rescue" runs because "broken" failed, "after broken" is CANCELLED.
"""

from __future__ import annotations

from lwfm import JobDefn, JobEvent, LwfManager

manager = LwfManager()
run = manager.get_site("local").run

a = run.submit(JobDefn("sleep 0.5; echo A", name="A"))
b = manager.set_event(JobEvent(a, "COMPLETE", JobDefn("echo B, started by $LWFM_TRIGGER_JOB", name="B"))).job_id
c = manager.set_event(JobEvent([b], "COMPLETE", JobDefn("echo C", name="C"))).job_id

broken = run.submit(JobDefn("echo something is wrong >&2; exit 3", name="broken"))
after = manager.set_event(JobEvent(broken, "COMPLETE", JobDefn("echo never", name="after broken"))).job_id
rescue = manager.set_event(JobEvent(broken, "FAILED", JobDefn("echo rescued", name="rescue"))).job_id

ended = {job.name: job for job in manager.wait_all([a, b, c, broken, after, rescue])}
for job in ended.values():
    said = manager.output_text(job).strip()
    print(f"{job.name:13} {job.state:10} {said or job.reason}")

assert [str(ended[name].state) for name in "ABC"] == ["COMPLETE"] * 3
assert ended["A"].ended_at <= ended["B"].started_at <= ended["B"].ended_at <= ended["C"].started_at
assert manager.output_text(b).endswith(a.job_id + "\n")
assert (ended["broken"].state, ended["broken"].exit_code) == ("FAILED", 3)
assert ended["after broken"].state == "CANCELLED"
assert ended["rescue"].state == "COMPLETE"
