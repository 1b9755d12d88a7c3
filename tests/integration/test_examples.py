"""Every file in examples/ does what its docstring says, through the real command line and a fresh instance each."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LWFM = [sys.executable, "-m", "lwfm"]
EXIT_FAILED_JOBS = 11
TIMEOUT_S = 100

KEY_LINES = {
    "cancel.py": r"^process \d+, a child of the job, is gone$",
    "chain.py": r"^rescue +COMPLETE +rescued$",
    "data_handler.py": r"/sample4\.dat has 4 lines; it is \{.*303|304",
    "emit.py": r"^acquire at .*6\.5",
    "fan_out_fan_in.py": r"^gather +COMPLETE +\['30'\]$",
    "hello.py": r"^hello from job [0-9a-f-]{36}$",
    "logging_in_jobs.py": r" WARNING +the matrix is badly conditioned$",
    "many_jobs.py": r"^group 3: 50 jobs, ",
    "metadata.py": r"^it was written by calibration and copied by metadata\.py$",
    "notify.py": r"^command: new data: .*/result\.dat$",
    "outputs.py": r"^sorted\.txt \(data\) read total \(job\)$",
    "remote_data_in_place.py": r"^field\.raw read reader$",
    "retries_and_limits.py": r"^flaky +COMPLETE +attempt 2",
    "shell.sh": r"^the mean is 2$",
    "workflows.py": r"^its dump: \d+ characters, 2 jobs, 1 data, 1 logs$",
}
"""What each example prints, among other things. A new example belongs here."""


class Instance:
    """A fresh instance, used as a person uses it: by the command line.

    Args:
        home: its directory. ``cwd``: the directory commands are given in.
    """

    def __init__(self, home: Path, cwd: Path):
        self.cwd = cwd
        own = {name: value for name, value in os.environ.items() if not name.startswith("LWFM_")}
        self.env = {**own, "LWFM_HOME": str(home), "LWFM": shlex.join(LWFM)}

    def command(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )

    def lwfm(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.command([*LWFM, *words])

    def json(self, *words: str) -> Any:
        done = self.lwfm(*words, "--json")
        assert done.returncode == 0, report(done)
        return json.loads(done.stdout)


@pytest.fixture
def instance(tmp_path: Path) -> Generator[Instance, None, None]:
    made = Instance(tmp_path / "home", ROOT)
    yield made
    stopped = made.lwfm("agent", "stop")
    assert stopped.returncode == 0, report(stopped)


def report(done: subprocess.CompletedProcess[str]) -> str:
    """What to show of a command that did not do what it should."""
    return f"{shlex.join(map(str, done.args))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"


def listed(answer: Any, key: str) -> list[dict[str, Any]]:
    """The rows of a listing in JSON."""
    rows: list[dict[str, Any]] = answer[key] if isinstance(answer, dict) else answer
    return rows


def documented_command(example: Path) -> list[str]:
    """The command that the example's own text tells to run it with."""
    found = re.search(r"^(?:# )?Run it: +(.+)$", example.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{example.name} does not say how to run it"
    words = shlex.split(found.group(1))
    return [*LWFM, *words[1:]] if words[0] == "./lwfm.sh" else words


EXAMPLE_FILES = sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.sh")])


@pytest.mark.parametrize("example", EXAMPLE_FILES, ids=lambda path: path.name)
def test_example(example: Path, instance: Instance) -> None:
    done = instance.command(documented_command(example))
    assert done.returncode == 0, report(done)
    assert "Traceback" not in done.stderr, report(done)
    assert re.search(KEY_LINES[example.name], done.stdout, re.MULTILINE), report(done)


def test_every_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    missing = [
        path.name
        for path in [
            *EXAMPLE_FILES,
            EXAMPLES / "melt",
            EXAMPLES / "insitu",
            EXAMPLES / "mxn",
            EXAMPLES / "decay",
            EXAMPLES / "sweep",
        ]
        if f"({path.name}" not in index
    ]
    assert not missing, f"examples/README.md does not list {missing}"


def test_insitu(instance: Instance, tmp_path: Path) -> None:
    """As it is told to be run, on this machine. Its batch job, on a cluster, is part of test_story."""
    out = tmp_path / "out"
    done = instance.command([*documented_command(EXAMPLES / "insitu" / "study.py"), f"--out={out}"])
    assert done.returncode == 0, report(done)
    assert "14 jobs, 14 COMPLETE" in done.stdout
    with (out / "periods.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["amplitude"] for row in rows] == ["10", "30", "60", "90", "120", "170"]
    assert all(float(row["period"]) == pytest.approx(float(row["exact"]), rel=1e-6) for row in rows)


def test_decay(instance: Instance, tmp_path: Path) -> None:
    """As docs/tutorial-start.md tells it."""
    instance.cwd = tmp_path
    done = instance.lwfm("run", str(EXAMPLES / "decay" / "study.py"))
    assert done.returncode == 0, report(done)
    assert "18 jobs, 18 COMPLETE" in done.stdout
    (mean,) = tmp_path.glob("decay-results/*/mean.txt")
    assert float(mean.read_text()) == pytest.approx(7.5, rel=0.05)


def test_mxn(instance: Instance, tmp_path: Path) -> None:
    """On two sites, one of which has no application green: its jobs find nothing where they run."""
    (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "home" / "sites.toml").write_text('[again]\ndriver = "local"\n')
    apps = tmp_path / "apps"
    shutil.copytree(EXAMPLES / "mxn" / "apps", apps)
    (apps / "broken").mkdir()
    (apps / "broken" / "build.sh").write_text("echo no compiler >&2; exit 3\n")
    script = str(EXAMPLES / "mxn" / "mxn.py")
    done = instance.lwfm("python", script, "--sites=local,again,nowhere", f"--apps={apps}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1, report(done)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:5] == [
        ["local", "again", "nowhere"],
        ["broken", "red", "red", "red"],
        ["pi", "green", "green", "red"],
        ["primes", "green", "green", "red"],
        ["words", "green", "green", "red"],
    ], report(done)
    assert "red: broken on local: build: exit code 3" in done.stdout
    assert "red: pi on nowhere: UnknownSite: there is no site 'nowhere'" in done.stdout
    with (tmp_path / "out" / "mxn.csv").open(encoding="utf-8", newline="") as file:
        (cell,) = [row for row in csv.DictReader(file) if (row["app"], row["site"]) == ("pi", "again")]
    behind = instance.json("lineage", cell["check"])
    assert any(str(node.get("label")).endswith("result.txt") for node in behind["nodes"])
    assert cell["build"] in {node["id"] for node in behind["nodes"]}


# ------------------------------------------------------------------------------------------------- melt

TEMPERATURES, DENSITIES = (1.5, 3.0), (0.7, 0.8)
SMALL = ("--temperatures=1.5,3", "--densities=0.7,0.8", "--steps=1500", "--melt-steps=200")


def run_melt(instance: Instance, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return instance.lwfm("run", "examples/melt/melt.py", f"--out={out}", *words)


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_plot(path: Path) -> None:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert (width, height) == (910, 910)
    assert path.stat().st_size > 20_000, "an empty frame is smaller"


@pytest.mark.parametrize("engine", ["lammps", "python"])
def test_melt(engine: str, instance: Instance, tmp_path: Path) -> None:
    if engine == "lammps" and shutil.which("lmp") is None:
        pytest.skip("LAMMPS is not installed: sudo apt install lammps")
    out = tmp_path / "out"
    done = run_melt(instance, out, *SMALL, f"--engine={engine}")
    assert done.returncode == 0, report(done)

    rows = table_of(out)
    assert [(float(row["T"]), float(row["rho"])) for row in rows] == [
        (t, rho) for rho in DENSITIES for t in TEMPERATURES
    ]
    for row in rows:
        assert (row["engine"], row["state"], row["atoms"]) == (engine, "COMPLETE", "256")
        assert 0 < float(row["p_error"]) < 0.5
        allowed = 6 * float(row["p_error"]) + 0.2  # a short run; 0.05 of it is the cut-off's
        assert float(row["p"]) == pytest.approx(float(row["p_johnson"]), abs=allowed)
        assert float(row["u"]) == pytest.approx(float(row["u_johnson"]), abs=6 * float(row["u_error"]) + 0.1)
    check_plot(out / "summary.png")

    jobs = listed(instance.json("job", "list", "--limit=0"), "jobs")
    assert {job["state"] for job in jobs} == {"COMPLETE"}
    assert len({job["workflow_id"] for job in jobs}) == 1
    points = {job["job_id"]: job["meta"] for job in jobs if job.get("meta", {}).get("role") == "point"}
    assert set(points) == {row["point_job"] for row in rows}

    logs = listed(instance.json("find", "kind=thermo", f"engine={engine}", "T>=1", "units=lj"), "data")
    assert {sheet["job_id"] for sheet in logs} == set(points)
    for sheet in logs:
        about = sheet["properties"]
        assert (about["T"], about["rho"]) == (points[sheet["job_id"]]["T"], points[sheet["job_id"]]["rho"])
        assert isinstance(about["final_pressure"], float)
        assert Path(sheet["path"]).is_file()
    assert len(listed(instance.json("find", "kind=analysis"), "data")) == len(rows)
    assert {Path(sheet["path"]).name for sheet in listed(instance.json("find", "kind=summary"), "data")} == {
        "summary.csv",
        "summary.png",
    }

    graph = instance.json("lineage", str(out / "summary.csv"), "--up")
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert set(points) <= set(nodes), "the table leads back to the job of every point"
    source = "in.melt" if engine == "lammps" else "lj_md.py"
    assert source in {Path(node["label"]).name for node in nodes.values()}, "and to what was run"
    verified = instance.lwfm("store", "check")
    assert verified.returncode == 0, report(verified)


@pytest.mark.parametrize("how", ["run", "python"])
def test_melt_ends_sensibly_when_a_point_fails(how: str, instance: Instance, tmp_path: Path) -> None:
    """At a density of 1.6 the box is too small for the Python code: that point fails, the others are summarised."""
    out = tmp_path / "out"
    words = ("--temperatures=2", "--densities=0.7,0.8,1.6", "--steps=500", "--melt-steps=100", "--engine=python")
    done = instance.lwfm(how, "examples/melt/melt.py", f"--out={out}", *words)
    assert done.returncode == (EXIT_FAILED_JOBS if how == "run" else 0), report(done)
    if how == "python":  # which waits for nothing
        found = re.search(r"summary job (\S+)$", done.stdout, re.MULTILINE)
        assert found, report(done)
        waited = instance.lwfm("job", "wait", found.group(1))
        assert waited.returncode == 0, report(waited)

    rows = table_of(out)
    assert [(row["rho"], row["state"]) for row in rows] == [("0.7", "COMPLETE"), ("0.8", "COMPLETE"), ("1.6", "FAILED")]
    assert [bool(row["p"]) for row in rows] == [True, True, False]
    assert rows[2]["reason"]
    check_plot(out / "summary.png")
    jobs = listed(instance.json("job", "list", "--limit=0"), "jobs")
    states = sorted((job["name"], job["state"]) for job in jobs if job["name"] in ("analyse", "summarise", "T2_rho1.6"))
    assert states == [
        ("T2_rho1.6", "FAILED"),
        ("analyse", "CANCELLED"),
        ("analyse", "COMPLETE"),
        ("analyse", "COMPLETE"),
        ("summarise", "COMPLETE"),
    ]
    failed = next(job["job_id"] for job in jobs if job["state"] == "FAILED")
    said = instance.lwfm("job", "output", "--stderr", failed)
    assert "more cells, or a lower density" in said.stdout + said.stderr


def test_melt_says_how_to_get_lammps(instance: Instance, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = run_melt(instance, out, "--engine=lammps", "--lmp=no-such-program")
    assert refused.returncode == 1, report(refused)
    assert "sudo apt install lammps" in refused.stdout + refused.stderr
    assert not out.exists()

    words = ("--temperatures=2", "--densities=0.7", "--steps=500", "--melt-steps=100", "--lmp=no-such-program")
    replaced = run_melt(instance, out, *words)
    assert replaced.returncode == 0, report(replaced)
    assert "sudo apt install lammps" in replaced.stdout
    assert [row["engine"] for row in table_of(out)] == ["python"]


def test_melt_without_matplotlib_still_makes_the_table(instance: Instance, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    instance.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(hidden), instance.env.get("PYTHONPATH")]))
    out = tmp_path / "out"
    words = ("--temperatures=2", "--densities=0.7", "--steps=500", "--melt-steps=100", "--engine=python")
    done = run_melt(instance, out, *words)
    assert done.returncode == EXIT_FAILED_JOBS, report(done)
    assert [row["state"] for row in table_of(out)] == ["COMPLETE"]
    assert [Path(sheet["path"]).name for sheet in listed(instance.json("find", "kind=summary"), "data")] == [
        "summary.csv"
    ]
    summary = listed(instance.json("job", "list", "--state=FAILED"), "jobs")
    assert [job["name"] for job in summary] == ["summarise"]
    said = instance.lwfm("job", "output", "--stderr", summary[0]["job_id"])
    assert "pip install matplotlib" in said.stdout + said.stderr
