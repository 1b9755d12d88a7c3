"""Many short jobs: submitted in one call, waited for in another, then grouped by a property they were given.

Run it:   ./lwfm.sh run examples/many_jobs.py
Expect:   200 jobs COMPLETE in a second or two, and a line per group.
"""

from __future__ import annotations

import time
from collections import defaultdict

from lwfm import JobDefn, LwfManager

COUNT, GROUPS = 200, 4

manager = LwfManager()
began = time.perf_counter()
jobs = manager.get_site("local").run.submit_many(
    JobDefn(["/bin/echo", str(number)], name=f"job {number}", meta={"number": number, "group": number % GROUPS})
    for number in range(COUNT)
)
submitted = time.perf_counter()
ended = manager.wait_all(jobs)
print(f"{COUNT} jobs submitted in {submitted - began:.2f} s, ended {time.perf_counter() - submitted:.2f} s later")

groups = defaultdict(list)
for job in ended:
    groups[job.meta["group"]].append(job)
for group, members in sorted(groups.items()):
    cpu_ms = 1000 * sum(job.cpu_seconds or 0 for job in members) / len(members)
    print(f"group {group}: {len(members)} jobs, {cpu_ms:.1f} ms of processor time on average")

assert {job.state for job in ended} == {"COMPLETE"}
assert [job.job_id for job in ended] == [job.job_id for job in jobs], "in the order they were submitted"
assert int(manager.output(jobs[-1])) == COUNT - 1
here = manager.jobs(match={"number": f">={COUNT - 10}"}, parent=manager.context().job_id, limit=10)
assert {job.meta["number"] for job in here} == set(range(COUNT - 10, COUNT)), "the store finds them by property"
