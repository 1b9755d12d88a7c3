"""Data that stays where it is: too large to copy, or written and read by a program of its own.

notate_put and notate_get record that a file was written or read, with metadata and checksum, and move nothing. It is
found like all data, and it is part of the lineage.

Run it:   ./lwfm.sh run examples/remote_data_in_place.py
Expect:   who has written and who has read the file, though it was never handed to lwfm.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager

WRITE = """
from lwfm import LwfManager
open("field.raw", "wb").write(bytes(1000))
LwfManager().notate_put("field.raw", {"kind": "field", "shape": [10, 10, 10], "dtype": "uint8"})
"""
READ = """
from lwfm import LwfManager
manager = LwfManager()
sheet = manager.find(kind="field")[0]
manager.notate_get(sheet.path, {"purpose": "check"})
print(len(open(sheet.path, "rb").read()), "bytes of shape", sheet.properties["shape"])
"""

manager = LwfManager()
with tempfile.TemporaryDirectory() as directory:
    writer = manager.get_site("local").run.submit(JobDefn([sys.executable, "-c", WRITE], name="writer", cwd=directory))
    read = JobDefn([sys.executable, "-c", READ], name="reader", cwd=directory)
    reader = manager.wait(str(manager.set_event(JobEvent(writer, "COMPLETE", read)).job_id))
    field = manager.find(kind="field")[0]
    graph = manager.lineage(field)

print(f"{field.path}: {field.size_bytes} bytes, sha256 {str(field.sha256)[:12]}…")
print(manager.output_text(reader), end="")
names = {node["id"]: node["label"] for node in graph["nodes"]}
relations = {(names[edge["from"]], edge["relation"], names[edge["to"]]) for edge in graph["edges"]}
for cause, relation, effect in sorted(relations):
    print(f"{Path(cause).name} {relation} {Path(effect).name}")
assert reader.state == "COMPLETE", manager.output_text(reader, "stderr")
assert field.size_bytes == 1000
assert field.job_id == writer.job_id
assert any(relation == "wrote" and cause == "writer" for cause, relation, _ in relations)
assert any(relation == "read" and effect == "reader" for _, relation, effect in relations)
