"""Cancelling: a running job with all its children, a job that waits for an event, and the same job twice.

Run it:   ./lwfm.sh run examples/cancel.py
Expect:   all CANCELLED with the reason given; nothing of the process tree is left.
"""

from __future__ import annotations

import os
import time

from lwfm import JobDefn, JobEvent, LwfManager

manager = LwfManager()
run = manager.get_site("local").run

family = JobDefn("sleep 100 & echo $!; echo started; wait", name="family", grace_s=1)
running = run.submit(family)
later = manager.set_event(JobEvent(running, "COMPLETE", JobDefn("echo never", name="later"))).job_id
while "started" not in manager.output_text(running):
    time.sleep(0.05)
child = int(manager.output_text(running).split()[0])

manager.cancel(running, reason="changed my mind")
ended = manager.wait_all([running, later])
again = manager.cancel(running)  # harmless
for job in ended:
    print(f"{job.name:7} {job.state}: {job.reason}")

assert [job.state for job in ended] == ["CANCELLED", "CANCELLED"]
assert "changed my mind" in (ended[0].reason or "")
assert again.state == "CANCELLED"
try:
    os.kill(child, 0)
    alive = True
except ProcessLookupError:
    alive = False
print(f"process {child}, a child of the job, is {'still there' if alive else 'gone'}")
assert not alive
