"""Notifications: when something happens, run a command or post to a URL instead of starting a job.

The URL here is a small server in this script; in real life it is that of a chat room or of a monitoring system.

Run it:   ./lwfm.sh python examples/notify.py
Expect:   the message that was posted when the job ended, and the line that the command wrote when data was put.
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager, MetadataEvent, Notification

posted: queue.Queue[dict[str, object]] = queue.Queue()


class Receiver(BaseHTTPRequestHandler):
    """Takes what is posted."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        posted.put(json.loads(body))

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


server = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()

manager = LwfManager()
site = manager.get_site("local")
with tempfile.TemporaryDirectory() as directory:
    note = Path(directory, "note.txt")
    write = f'echo "new data: $LWFM_TRIGGER_PATH" > {note}.part; mv {note}.part {note}'
    manager.set_event(MetadataEvent({"kind": "result"}, notify=Notification(command=write)))
    job = site.run.submit(JobDefn("sleep 0.3; exit 4", name="night shift"))
    hook = Notification(url=f"http://127.0.0.1:{server.server_port}/hook")
    manager.set_event(JobEvent(job, ["FAILED", "CANCELLED"], notify=hook))
    result = Path(directory, "result.dat")
    result.write_text("42\n", encoding="utf-8")
    site.repo.put(result, metadata={"kind": "result"})

    message = posted.get(timeout=30)
    deadline = time.monotonic() + 30
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    line = note.read_text(encoding="utf-8").strip()
server.shutdown()

print(f"posted: {json.dumps(message)}")
print(f"command: {line}")
assert job.job_id in json.dumps(message)
assert line == f"new data: {result}"
