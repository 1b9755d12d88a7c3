"""Events of your own: a running job tells how far it is; a script tells of something that is no file.

Run it:   ./lwfm.sh run examples/emit.py
Expect:   the messages of the job among its statuses, and the job that started when "beam on" was emitted.
"""

from __future__ import annotations

import sys

from lwfm import JobDefn, LwfManager, MetadataEvent

WORK = """
from lwfm import LwfManager
manager = LwfManager()
for percent in (50, 100):
    manager.emit_status("INFO", f"{percent} % done")
"""

manager = LwfManager()
run = manager.get_site("local").run

worker = manager.wait(run.submit(JobDefn([sys.executable, "-c", WORK], name="worker")))
messages = [status.get("reason") for status in manager.statuses(worker) if status["state"] == "INFO"]
print(f"worker: {worker.state}, on its way it said {messages}")

acquire = JobDefn('echo "acquire at $LWFM_TRIGGER_PROPERTIES"', name="acquire")
handler = manager.set_event(MetadataEvent({"event": "beam on", "energy": ">=6"}, acquire))
manager.emit_data({"event": "beam on", "energy": 2.0})  # not enough
manager.emit_data({"event": "beam on", "energy": 6.5})
fired = manager.wait(str(handler.job_id))
print(manager.output_text(fired), end="")

assert worker.state == "COMPLETE", manager.output_text(worker, "stderr")
assert messages == ["50 % done", "100 % done"]
assert fired.state == "COMPLETE"
assert "6.5" in manager.output_text(fired)
