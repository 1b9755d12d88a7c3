"""Metadata events: whenever data with certain properties is put, a job starts, and knows which data it was.

Run it:   ./lwfm.sh run examples/data_handler.py
Expect:   three analyses, one for each measurement with kind=sample; the one with kind=dark starts nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lwfm import JobDefn, LwfManager, MetadataEvent

ANALYSIS = 'echo "$LWFM_TRIGGER_PATH has $(wc -l < "$LWFM_TRIGGER_PATH") lines; it is $LWFM_TRIGGER_PROPERTIES"'

manager = LwfManager()
site = manager.get_site("local")

# With a number in `repeat` the ids of all jobs it will start are known beforehand; repeat=True would be without limit.
handler = manager.set_event(MetadataEvent({"kind": "sam*", "T": ">0"}, JobDefn(ANALYSIS, name="analysis"), repeat=3))
with tempfile.TemporaryDirectory() as directory:
    for number, kind in enumerate(("sample", "dark", "sample", "sample"), start=1):
        path = Path(directory) / f"{kind}{number}.dat"
        path.write_text("1.0\n" * number, encoding="utf-8")
        site.repo.put(path, metadata={"kind": kind, "T": 300 + number})
    ended = manager.wait_all(handler.job_ids)

said = [manager.output_text(job).strip() for job in ended]
print("\n".join(said))
assert [job.state for job in ended] == ["COMPLETE"] * 3
assert [line.split(";")[0].split("/")[-1] for line in sorted(said)] == [
    "sample1.dat has 1 lines", "sample3.dat has 3 lines", "sample4.dat has 4 lines",
]  # fmt: skip
