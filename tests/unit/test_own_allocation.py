"""The launchers' processes: where their programs are found, and which are ended when the agent leaves."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import cast

import pytest

from lwfm.allocations import own
from lwfm.allocations.own import AllocatedWorkers
from lwfm.launch.allocation import Allocation, NodeShare
from lwfm.launch.launchers import Launch
from lwfm.launch.programs import find_program
from lwfm.paths import Home
from lwfm.workers.protocol import WorkerServer


def test_programs_of_grid_engine_are_found_where_it_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("path", "told"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "qstat").write_text("")
        (tmp_path / place / "qstat").chmod(0o755)
    (tmp_path / "told" / "qrsh").write_text("")
    (tmp_path / "told" / "qrsh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("SGE_BINARY_PATH", raising=False)
    assert find_program("qrsh") is None
    monkeypatch.setenv("SGE_BINARY_PATH", str(tmp_path / "told"))
    assert find_program("qrsh") == str(tmp_path / "told" / "qrsh")
    assert find_program("qstat") == str(tmp_path / "path" / "qstat")


def test_a_launcher_that_stays_is_ended_unless_that_would_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "LEAVE_S", 0.0)
    nodes = (NodeShare("n1"), NodeShare("n2"), NodeShare("n3"))
    workers = AllocatedWorkers(Home(tmp_path), Allocation("sge", "9", nodes), cast(WorkerServer, None), "auto")
    launches = [Launch(("sleep",), ("n2",)), Launch(("sleep",), ("n3",), ends_job=True)]
    processes = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in launches]
    try:
        workers._launched._processes = list(zip(processes, launches))
        asyncio.run(workers.close(stop=True))
        assert processes[0].wait(30) == -15
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait()
