"""Declared inputs and outputs: recorded with their checksums, so that lineage comes by itself.

A job that has not written what it declared has FAILED, whatever its exit code.

Run it:   ./lwfm.sh python examples/outputs.py
Expect:   what the jobs printed, and the way from totals.txt back to numbers.txt.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lwfm import JobDefn, JobEvent, LwfManager

manager = LwfManager()
run = manager.get_site("local").run
with tempfile.TemporaryDirectory() as directory:
    Path(directory, "numbers.txt").write_text("3\n1\n2\n", encoding="utf-8")
    order = JobDefn(
        "sort -n numbers.txt | tee sorted.txt; echo sorted >&2",
        name="sort", cwd=directory, inputs=["numbers.txt"], outputs=["sorted.txt"],
    )  # fmt: skip
    total = JobDefn(
        "awk '{ sum += $1 } END { print sum }' sorted.txt > totals.txt",
        name="total", cwd=directory, inputs=["sorted.txt"], outputs=["totals.txt"],
    )  # fmt: skip
    first = run.submit(order)
    second = manager.set_event(JobEvent(first, "COMPLETE", total)).job_id
    liar = run.submit(JobDefn("echo done", name="liar", cwd=directory, outputs=["results.txt"]))
    ended = manager.wait_all([first, second, liar])

    print(f"stdout: {manager.output_text(first).split()}, stderr: {manager.output_text(first, 'stderr').split()}")
    print(f"liar: exit code {ended[2].exit_code}, {ended[2].state}: {ended[2].reason}")
    graph = manager.lineage(Path(directory, "totals.txt"), direction="up")

labels = {node["id"]: f"{Path(node['label']).name} ({node['kind']})" for node in graph["nodes"]}
for edge in graph["edges"]:
    print(f"{labels[edge['from']]} {edge['relation']} {labels[edge['to']]}")

assert manager.output(first) == b"1\n2\n3\n"
assert [job.state for job in ended] == ["COMPLETE", "COMPLETE", "FAILED"]
assert "results.txt" in (ended[2].reason or "")
assert {"numbers.txt (data)", "sort (job)", "sorted.txt (data)", "total (job)"} <= set(labels.values())
