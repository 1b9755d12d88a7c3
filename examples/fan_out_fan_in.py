"""Fan-out and fan-in: many jobs at once, one that follows all of them, one that follows the first of them.

Run it:   ./lwfm.sh run examples/fan_out_fan_in.py
Expect:   "first" runs as soon as one part is done, "gather" when all are; "alarm" waited for a failure: CANCELLED.
"""

from __future__ import annotations

import tempfile

from lwfm import JobDefn, JobEvent, LwfManager

PARTS = 4

manager = LwfManager()
run = manager.get_site("local").run
with tempfile.TemporaryDirectory() as directory:
    parts = run.submit_many(
        JobDefn(f"sleep 0.{part}; echo {part * part} > part{part}", name=f"part {part}", cwd=directory)
        for part in range(1, PARTS + 1)
    )
    add = JobDefn("cat part* | awk '{ sum += $1 } END { print sum }'", name="gather", cwd=directory)
    gather = manager.set_event(JobEvent(parts, "COMPLETE", add, mode="all")).job_id
    look = JobDefn("ls part*", name="first", cwd=directory)
    first = manager.set_event(JobEvent(parts, "COMPLETE", look, mode="any")).job_id
    alarm = manager.set_event(JobEvent(parts, "FAILED", JobDefn("echo alarm", name="alarm"), mode="any")).job_id
    ended = manager.wait_all([first, gather, alarm])

for job in ended:
    print(f"{job.name:8} {job.state:10} {manager.output_text(job).split() or job.reason}")
assert [job.state for job in ended] == ["COMPLETE", "COMPLETE", "CANCELLED"]
assert manager.output_text(gather).strip() == str(sum(part * part for part in range(1, PARTS + 1)))
assert manager.output_text(first).split(), "when the first part was done there was something to list"
