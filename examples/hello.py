"""The smallest possible workflow: one job.

Run it:   ./lwfm.sh run examples/hello.py
Expect:   "hello from job 0…", and COMPLETE in the table at the end.
"""

from __future__ import annotations

from lwfm import LwfManager

manager = LwfManager()
job = manager.get_site("local").run.submit("echo hello from job $LWFM_JOB_ID")
status = manager.wait(job)

print(manager.output_text(job), end="")
print(f"it is {status.state}, with exit code {status.exit_code}")
assert manager.output_text(job) == f"hello from job {job.job_id}\n"
