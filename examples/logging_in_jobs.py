"""Python's own logging in a job: its lines become part of the job's record, and can be read and searched later.

Run it:   ./lwfm.sh run examples/logging_in_jobs.py
Expect:   the lines that the job has logged, each with its level; ./lwfm.sh job log last shows them too.
"""

from __future__ import annotations

import logging
import sys

import lwfm


def in_the_job() -> None:
    """What the job does: nothing here names it; inside a job everything is tagged by itself."""
    handlers = [lwfm.logging_handler(), logging.StreamHandler(sys.stdout)]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    log = logging.getLogger("solver")
    for step in range(3):
        log.info("step %d: residual %.1e", step, 10.0**-step)
    log.warning("the matrix is badly conditioned")
    lwfm.LwfManager().emit_status("INFO", "converged")  # a message among the statuses; the state stays RUNNING


def main() -> None:
    """Run this file as a job, and read what it has logged."""
    manager = lwfm.LwfManager()
    job = manager.get_site("local").run.submit([sys.executable, __file__, "in-the-job"])
    status = manager.wait(job)
    lines = manager.logs(job=job)
    for line in lines:
        print(f"{line['time']} {line['level']:8} {line['message']}")
    assert status.state == "COMPLETE", manager.output_text(job, "stderr")
    assert [line["level"] for line in lines] == ["INFO"] * 3 + ["WARNING"]
    assert [line["message"] for line in manager.logs(job=job, level="WARNING")] == ["the matrix is badly conditioned"]
    assert any(each["state"] == "INFO" and each.get("reason") == "converged" for each in manager.statuses(job))


if __name__ == "__main__":
    if sys.argv[1:] == ["in-the-job"]:
        in_the_job()
    else:
        main()
