"""Workflows: jobs and data that belong together, found again by the workflow they belong to, and taken away as a whole.

Run it:   ./lwfm.sh run examples/workflows.py
Expect:   the workflow found by name and by property, its jobs and data, and what its dump holds.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager

manager = LwfManager()
site = manager.get_site("local")
workflow = manager.put_workflow("calibration", description="of the beam line", meta={"beamline": 7, "run": "2024-A"})

with tempfile.TemporaryDirectory() as directory:
    first = site.run.submit(JobDefn("echo 1.02 > gain.txt", name="fit", cwd=directory), workflow=workflow)
    check = JobDefn("cat gain.txt", name="check", cwd=directory)
    second = manager.set_event(JobEvent(first, "COMPLETE", check), workflow=workflow).job_id
    manager.wait_all([first, second])
    site.repo.put(Path(directory, "gain.txt"), metadata={"kind": "gain", "value": 1.02}, workflow=workflow)
manager.log("looks good", workflow=workflow)

found = manager.find_workflows(name="calib*", match={"beamline": 7})
assert workflow.workflow_id in [each.workflow_id for each in found]
print(f"{manager.get_workflow(workflow).name}: {dict(manager.get_workflow(workflow).job_counts)}")
for job in manager.jobs(workflow=workflow):
    print(f"  job  {job.job_id} {job.name:6} {job.state}")
for sheet in manager.data(workflow=workflow):
    print(f"  data {sheet.data_id} {sheet.path} {dict(sheet.properties)}")

dump = manager.dump_workflow(workflow)
text = json.dumps(dump)  # plain JSON: keep it beside the paper
print(f"its dump: {len(text)} characters, " + ", ".join(f"{len(dump[key])} {key}" for key in ("jobs", "data", "logs")))
assert {job.name for job in manager.jobs(workflow=workflow)} == {"fit", "check"}
assert [sheet.properties["value"] for sheet in manager.data(workflow=workflow, match={"kind": "gain"})] == [1.02]
assert (len(dump["jobs"]), len(dump["data"]), len(dump["handlers"])) == (2, 1, 1)
assert [line["message"] for line in dump["logs"]] == ["looks good"]
