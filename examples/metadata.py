"""Data with metadata: put it, find it by what it is instead of where it is, get it, and ask where it came from.

Conditions compare by equality (numbers as numbers), by glob, by regular expression after ~, or by < <= > >= !=.

Run it:   ./lwfm.sh run examples/metadata.py
Expect:   what each question finds, and who made the file that is fetched back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lwfm import JobDefn, LwfManager

manager = LwfManager()
repo = manager.get_site("local").repo
workflow = manager.context().workflow_id  # the questions below are about the data of this run only


def ask(**conditions: object) -> list[str]:
    """The names of the files that match."""
    found = sorted(Path(str(sheet.path)).name for sheet in manager.data(workflow=workflow, match=conditions, op="put"))
    print(f"{conditions} -> {' '.join(found)}")
    return found


with tempfile.TemporaryDirectory() as directory:
    for temperature in (77, 300, 1200.5):
        path = Path(directory) / f"at{temperature}K.txt"
        path.write_text(f"a spectrum at {temperature} K\n", encoding="utf-8")
        about = {"kind": "spectrum", "T": temperature, "sample": f"SiC-{path.stem}", "detector": {"gain": 2.5}}
        repo.put(path, metadata=about)

    assert ask(kind="spectrum", T=300) == ask(T="300.0") == ["at300K.txt"]
    assert ask(T=">=100") == ["at1200.5K.txt", "at300K.txt"]
    assert ask(sample="SiC-*") == ask(sample="~^SiC-at\\d+") == ask(**{"detector.gain": 2.5})
    assert ask(sample="SiC") == []

    make = JobDefn("printf '%s\\n' calibrated > result.txt", name="calibration", cwd=directory, outputs=["result.txt"])
    job = manager.wait(manager.get_site("local").run.submit(make))
    result = Path(directory) / "result.txt"
    # With a path on the site it is copied there; without one, as above, it is recorded where it is.
    stored = repo.put(result, "calibrations/result.txt", {"kind": "calibration"})
    result.unlink()
    copy = Path(repo.get(stored, directory))
    print(f"{stored.url} -> {copy.name}: {copy.read_text(encoding='utf-8').strip()}")
    assert copy.read_text(encoding="utf-8") == "calibrated\n"

    causes = manager.lineage(stored, direction="up")
    names = {node["id"]: node["label"] for node in causes["nodes"]}
    makers = sorted({names[edge["from"]] for edge in causes["edges"] if edge["relation"] == "wrote"})
    print(f"it was written by {' and copied by '.join(makers)}")
    assert job.name in makers
