"""The built file does what the checkout does: made once, then used as a new user would, in an empty home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.artifact


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly built ``lwfm.pyz``."""
    target = tmp_path_factory.mktemp("dist") / "lwfm.pyz"
    subprocess.run(
        [sys.executable, str(ROOT / "build" / "make_pyz.py"), "--output", str(target)], check=True, timeout=300
    )
    return target


class Pyz:
    """The built file in a home of its own."""

    def __init__(self, archive: Path, home: Path):
        self.archive = archive
        kept = ("PATH", "LANG", "TMPDIR")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment["HOME"] = str(home)
        self.home = home

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run it; the exit code must be ``code``. Returns what it printed."""
        done = subprocess.run(
            [sys.executable, str(self.archive), *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def pyz(archive: Path, tmp_path: Path) -> Iterator[Pyz]:
    """The built file, its agent stopped afterwards."""
    made = Pyz(archive, tmp_path)
    yield made
    made("agent", "stop", "--kill")


def test_says_its_version(pyz: Pyz) -> None:
    """Without an agent."""
    assert pyz("--version").startswith("lwfm ")


def test_runs_the_smallest_workflow(pyz: Pyz) -> None:
    """The library is there for a script, the summary at its end."""
    summary = json.loads(pyz("run", "--json", str(ROOT / "examples" / "hello.py")))
    assert summary["workflow"]["job_counts"].get("FAILED", 0) == 0
    assert (pyz.home / ".lwfm" / "thread.db").stat().st_mode & 0o777 == 0o600


def test_puts_finds_and_traces_data(pyz: Pyz) -> None:
    """A job puts data from inside, by the same file; it is found, and led back to the job."""
    script = (
        f"echo 42 > result.txt && '{sys.executable}' '{pyz.archive}' put result.txt --meta kind=answer --meta T=0.70"
    )
    job = pyz("submit", "--wait", "--", "sh", "-c", script).split()[0]
    (found,) = json.loads(pyz("find", "--json", "kind=answer", "T=0.7"))
    assert found["job_id"] == job
    lineage = json.loads(pyz("lineage", "--json", "--up", str(pyz.home / "result.txt")))
    assert job in {node["id"] for node in lineage["nodes"]}
    assert json.loads(pyz("store", "verify", "--json"))["ok"] is True


def test_an_impossible_request_is_refused_with_its_numbers(pyz: Pyz) -> None:
    """One line of what is wrong, one of what to do, no traceback."""
    done = subprocess.run(
        [sys.executable, str(pyz.archive), "submit", "--cores", "100000", "--", "true"],
        env=pyz.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5
    assert "100000 cores" in done.stderr
    assert "Traceback" not in done.stderr
