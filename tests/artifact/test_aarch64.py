"""The one file on aarch64, under user-mode emulation: ``LWFM_TEST_AARCH64`` names a tree that ``tests/support/
make_aarch64_tree.sh`` has made. Opt-in: it needs root, a download of 150 MB and some minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.onefile import ROOT

pytestmark = [pytest.mark.artifact, pytest.mark.optin]
TREE = os.environ.get("LWFM_TEST_AARCH64")
Run = Callable[..., str]


@pytest.fixture
def run(archive: Path) -> Iterator[Run]:
    """Runs the file with the tree's Python, in a home in the tree."""
    if not TREE:
        pytest.skip("set LWFM_TEST_AARCH64 to a tree made by tests/support/make_aarch64_tree.sh")
    home = Path(TREE) / "home-of-the-test"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    shutil.copy(archive, home / "lwfm.pyz")
    shutil.copy(ROOT / "examples" / "hello.py", home)

    def run_it(*words: str, code: int = 0) -> str:
        environment = {"HOME": f"/{home.name}", "PATH": "/usr/bin:/bin", "LWFM_CACHE": f"/{home.name}"}
        inside = ["/usr/bin/env", "-C", f"/{home.name}", "/usr/bin/python3", "lwfm.pyz", *words]
        done = subprocess.run(
            [shutil.which("chroot") or "chroot", TREE or "", *inside],
            env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run_it
    run_it("agent", "stop", "--kill")
    shutil.rmtree(home, ignore_errors=True)


def test_the_smallest_workflow_and_data(run: Run) -> None:
    findings = {finding["subject"]: finding for finding in json.loads(run("doctor", "--json"))}
    assert "-aarch64 (base, lwfm, worker)" in findings["archive"]["message"]
    assert "cryptography" in findings["ssh"]["message"]
    assert {finding["result"] for finding in findings.values()} <= {"ok", "warning"}
    summary = json.loads(run("run", "--json", "hello.py"))
    assert summary["workflow"]["job_counts"] == {"COMPLETE": 2}
    job = run(
        "submit", "--wait", "--", "sh", "-c", "echo 42 > result.txt && lwfm put result.txt --meta kind=answer"
    ).split()[0]
    (found,) = json.loads(run("find", "--json", "kind=answer"))
    assert found["job_id"] == job
    lineage = json.loads(run("lineage", "--json", "--up", found["data_id"]))
    assert job in {node["id"] for node in lineage["nodes"]}
    assert json.loads(run("store", "check", "--json"))["ok"] is True
