"""What becomes of jobs that fail: retries where asked for, limits of time and memory, requests that can never be met.

Run it:   ./lwfm.sh python examples/retries_and_limits.py
Expect:   "flaky" COMPLETE in its second attempt, the others FAILED with the reason, and one refused at once.
"""

from __future__ import annotations

import sys
import tempfile

from lwfm import JobDefn, LwfManager, LwfmError, Resources

MEGABYTE = 1024 * 1024
GREEDY = f"import time; block = bytearray(300 * {MEGABYTE}); time.sleep(30)"

manager = LwfManager()
run = manager.get_site("local").run
with tempfile.TemporaryDirectory() as directory:
    flaky = JobDefn("echo attempt $LWFM_ATTEMPT; test $LWFM_ATTEMPT -ge 2", name="flaky", retries=3, cwd=directory)
    hopeless = JobDefn("exit 7", name="hopeless", retries=1)
    slow = JobDefn(["sleep", "30"], name="slow", resources=Resources(time_limit_s=0.5), grace_s=1)
    greedy = JobDefn([sys.executable, "-c", GREEDY], name="greedy", resources=Resources(memory_bytes=100 * MEGABYTE))
    ended = manager.wait_all(run.submit_many([flaky, hopeless, slow, greedy]))

for job in ended:
    print(f"{job.name:9} {job.state:9} attempt {job.attempt}: {job.reason or ''}")
    for status in manager.statuses(job):
        print(f"          {status['attempt']} {status['state']:9} {status.get('reason', '')}")
try:
    run.submit(JobDefn("true", resources=Resources(cores=1_000_000)))
    refused = None
except LwfmError as error:
    refused = error
    print(f"refused: {error.message}")

done, failed, late, big = ended
assert (done.state, done.attempt) == ("COMPLETE", 2)
assert (failed.state, failed.attempt, failed.exit_code) == ("FAILED", 2, 7)
assert late.state == "FAILED"
assert "limit of 0.5 s" in (late.reason or "")
assert big.state == "FAILED"
assert "memory" in (big.reason or "")
assert refused is not None
assert refused.code == "ResourcesImpossible"
