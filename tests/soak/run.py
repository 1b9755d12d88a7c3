"""A soak: mixed load on two instances and a real Slurm, while everything fails that can, and a report of what came of it.

    ./lwfm.sh soak --minutes 15 --seed 4
    ./lwfm.sh soak --minutes 2 --plan        show what would happen, and when

Needs root, Slurm, sshd and namespaces, as the tests of clusters do. The same seed has the same plan; what it meets differs. Ends
with 1 when anything acknowledged is lost, done twice or falsely called COMPLETE, a process is left, or something grows that
should not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "build" / "link"), str(root / "tests")]

from soak.load import Caller, Ledger, Load
from soak.measures import FILES_TOLERANCE, MEMORY_TOLERANCE, STORE_BYTES_PER_JOB, Sampler, Series, size_of
from soak.plan import Plan, make_plan
from soak.verdict import SHOWN, TERMINAL, Verdict, judge
from soak.world import World, a_world

from support.agents import Agent
from support.journals import Journal
from support.slurm import Cluster
from support.waiting import wait_until

DEFAULT_MINUTES, DEFAULT_SEED = 5.0, 20261123
END_WITHIN_S = 240.0
GONE_WITHIN_S = 60.0
FILES_LEFT = 200
"""In both homes, however many jobs there were: no job leaves a file of its own, unless it printed much."""


@dataclass
class Outcome:
    """All there is to report."""

    plan: Plan
    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ran: int = 0
    seconds: float = 0.0
    store_jobs: int = 0
    store_bytes: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Series] = field(default_factory=dict)
    files: dict[str, Series] = field(default_factory=dict)
    stores: dict[str, Series] = field(default_factory=dict)
    kept: Path | None = None


def soak(plan: Plan, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Carry out a plan; what came of it.

    Raises:
        AssertionError: the bed could not be made, or not mended.
    """
    scratch = Path(tempfile.mkdtemp(prefix="lwfm-soak-"))
    try:
        say("making a cluster of four nodes and two instances ...")
        with a_world(plan.seconds / 60, scratch) as world:
            try:
                return _carry_out(plan, world, Journal(scratch / "journal"), say)
            except BaseException:
                sys.stderr.write(world.log() + "\n")
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _carry_out(plan: Plan, world: World, journal: Journal, say: Callable[[str], None]) -> Outcome:
    outcome = Outcome(plan)
    ledgers = (Ledger(), Ledger())
    here = Caller(Agent(world.here.home.root), journal, ledgers[0])
    there = Caller(Agent(world.inside.home), journal, ledgers[1])
    stores = {"store here": world.here.home.database, "store there": world.there.home.database}
    sampler = Sampler(world.measured, stores)
    begun = time.monotonic()
    load = Load(plan.loads, here, there, begun)
    sampler.start()
    load.start()
    for step in plan.faults:
        time.sleep(max(0.0, begun + step.at_s - time.monotonic()))
        if time.monotonic() > begun + plan.seconds or load.error is not None:
            break
        say(f"{time.monotonic() - begun:6.1f} s  {step.what}")
        world.faults[step.what](step.size)
        outcome.faults[step.what] += 1
    load.join(max(0.0, begun + plan.seconds - time.monotonic()) + END_WITHIN_S)
    say(f"{time.monotonic() - begun:6.1f} s  nothing more fails; all that was asked for comes to its end")
    world.mend()
    load.join(END_WITHIN_S)
    assert not load.is_alive(), f"the load is stuck\n{world.log()}"
    if load.error is not None:
        raise load.error
    both = (here.agent, there.agent)
    wait_until(lambda: not any(map(_open, both)), "all jobs to end", timeout_s=END_WITHIN_S, on_timeout=world.log)
    outcome.seconds = time.monotonic() - begun
    _sync_until_equal(world)
    sampler.end()
    outcome.memory, outcome.files, outcome.stores = sampler.memory, sampler.files, sampler.stores
    outcome.asked = load.done
    outcome.refused = ledgers[0].refused + ledgers[1].refused
    outcome.ran = journal.count("end")
    outcome.verdict = judge(journal, ledgers, world.here.query)
    outcome.store_jobs = int(world.here.query("select count(*) from jobs")[0][0])
    _judge_world(outcome, world, (here.agent, there.agent))
    _judge_growth(outcome)
    if not outcome.verdict.good:
        outcome.kept = _keep(world, journal)
    return outcome


def _keep(world: World, journal: Journal) -> Path:
    """What there is to look into, where it is not removed."""
    kept = Path(tempfile.mkdtemp(prefix="lwfm-soak-kept-"))
    shutil.copy(journal.path, kept)
    for name, home in (("here", world.here.home), ("there", world.there.home)):
        (kept / name).mkdir()
        logs = [*home.root.glob("*.log*"), *home.root.rglob("worker.log*"), *home.root.glob("sites/*.log")]
        for path in (home.database, *logs):
            shutil.copy(path, kept / name)
    return kept


def _open(agent: Agent) -> int:
    counts: dict[str, int] = agent.client.get("/v1/agent")["jobs"]
    return sum(count for state, count in counts.items() if state not in TERMINAL and state != "READY")


def _sync_until_equal(world: World) -> None:
    """Twice, so that what the first leaves for the second is told too; then both stores hold the same."""
    for _ in range(2):
        done = world.here.lwfm(*world.sync_words(), timeout_s=240)
        assert done.returncode == 0, f"{done.stderr}\n{world.log()}"


def _judge_world(outcome: Outcome, world: World, agents: Sequence[Agent]) -> None:
    """Both stores are sound and hold the same; nothing is thought to run; everything leaves when it is told to."""
    verdict = outcome.verdict
    for name, agent in zip(("here", "there"), agents):
        answer: dict[str, Any] = agent.client.post("/v1/store/check", {})
        verdict.add("unsound", (f"store {name}: {problem}" for problem in answer["problems"]))
        told = agent.client.get("/v1/agent")
        verdict.add("unsound", (f"{name}: still in trouble: {item}" for item in told["troubles"]))
        busy = [node for node in told["workers"] if node["jobs"] or node["cores_used"]]
        verdict.add("unsound", (f"{name}: a node is taken to be busy: {node}" for node in busy))
    jobs = "select id, state, attempt from jobs where origin = '{}' order by id"
    for agent in agents:
        origin = agent.client.get("/v1/agent")["origin"]
        both = [_rows(world, where, jobs.format(origin)) for where in ("here", "there")]
        if both[0] != both[1]:
            different = set(both[0]) ^ set(both[1])
            verdict.add("unsound", (f"the stores differ: {row}" for row in list(different)[:SHOWN]))
    for home in (world.here.home.root, world.inside.home):
        files = [path for path in home.rglob("*") if path.is_file() and "outputs" not in path.parts]
        if len(files) > FILES_LEFT:
            verdict.add("unsound", [f"{len(files)} files are left in {home}"])
    for agent in agents:
        agent.client.post("/v1/agent/stop", {"kill": True})
        agent.client.close()
    try:
        wait_until(lambda: not world.left(), "all processes to be gone", timeout_s=GONE_WITHIN_S)
    except AssertionError:
        verdict.add("leaked processes", world.left())
    for name, place in (("store here", world.here.home), ("store there", world.there.home)):
        outcome.store_bytes[name] = size_of(place.database)


def _rows(world: World, where: str, statement: str) -> list[Any]:
    if where == "here":
        return world.here.query(statement)
    import sqlite3

    connection = sqlite3.connect(f"{world.there.home.database.absolute().as_uri()}?mode=ro", uri=True, timeout=20)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def _judge_growth(outcome: Outcome) -> None:
    for found, (fixed, by_minute) in ((outcome.memory, MEMORY_TOLERANCE), (outcome.files, FILES_TOLERANCE)):
        for name, series in found.items():
            allowed = fixed + by_minute * series.minutes()
            if series.growth() > allowed:
                told = f"{name} grows by {series.growth():.1f} {series.unit}, more than {allowed:.1f}"
                outcome.verdict.add("unsound", [told])
    for name, size in outcome.store_bytes.items():
        per_job = size / max(1, outcome.store_jobs)
        if per_job > STORE_BYTES_PER_JOB:
            outcome.verdict.add("unsound", [f"{name} has {per_job:.0f} bytes for each job"])


# ---------------------------------------------------------------------------------------------- the report


def report(outcome: Outcome) -> str:
    """All of it, for people."""
    plan, verdict = outcome.plan, outcome.verdict
    jobs = sum(verdict.states.values())
    lines = [
        f"soak of {plan.seconds / 60:g} min, seed {plan.seed}",
        f"load held   {outcome.ran} jobs did their work in {outcome.seconds:.0f} s: {outcome.ran / outcome.seconds:.1f} jobs/s",
        f"asked for   {_counts(outcome.asked)}",
        f"refused     {_counts(outcome.refused)}; asked again until it was taken",
        f"faults      {sum(outcome.faults.values())}: {_counts(outcome.faults)}",
        f"jobs        {jobs}: {_counts(verdict.states)}",
        *(f"  FAILED    {count:5d}  {reason}" for reason, count in verdict.reasons.most_common(SHOWN)),
        "",
        f"{'':16}{'first':>8}{'last':>8}{'growth':>8}",
    ]
    for found in (outcome.memory, outcome.files, outcome.stores):
        for name, series in sorted(found.items()):
            points = series.judged()
            if points:
                ends = f"{points[0][1]:8.1f}{points[-1][1]:8.1f}{series.growth():+8.1f}"
                lines.append(f"{name:16}{ends} {series.unit:6}{series.chart()}")
    fixed, files = MEMORY_TOLERANCE, FILES_TOLERANCE
    store = f"{STORE_BYTES_PER_JOB // 1024} KiB of the store for each job"
    for name, size in outcome.store_bytes.items():
        lines.append(
            f"{name:16}{size / 1024 / max(1, outcome.store_jobs):8.1f} KiB for each job when its agent has left"
        )
    lines.append(
        "growth: the rise of the fitted line after the first 30 % of the time. Allowed, and for each minute of it:"
    )
    lines.append(f"{fixed[0]:g} + {fixed[1]:g} MiB of memory, {files[0]:g} + {files[1]:g} descriptors; {store}")
    lines.append("")
    for kind, items in verdict.wrong.items():
        lines.append(f"{kind:18}{len(items)}")
        lines += [f"    {item}" for item in items[:SHOWN]]
    if outcome.kept is not None:
        lines.append(f"stores, logs and the journal of the jobs are in {outcome.kept}")
    return "\n".join(lines)


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common()) or "nothing"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lwfm.sh soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES, help="how long (default: %(default)g)")
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="what is asked for, and fails (default: %(default)s)"
    )
    parser.add_argument("--plan", action="store_true", help="show the plan and do nothing")
    parser.add_argument("--json", action="store_true", help="what was found, for programs")
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        parser.error("--minutes must be more than 0")
    plan = make_plan(given.minutes, given.seed)
    if given.plan:
        steps = sorted([*plan.loads, *plan.faults], key=lambda step: step.at_s)
        print("\n".join(f"{step.at_s:7.1f} s  {step.what}  ({step.size:.2f})" for step in steps))
        return 0
    reason = Cluster.why_not()
    if reason is not None:
        print(
            f"lwfm: no soak here: {reason}\n  → be root on Debian, and: apt install slurm-wlm munge openssh-server",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        outcome = soak(plan, lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("lwfm: interrupted; all of it is gone", file=sys.stderr)
        return 130
    except AssertionError:
        traceback.print_exc()
        print("lwfm: the soak did not come to its end: see above", file=sys.stderr)
        return 1
    if given.json:
        wrong = outcome.verdict.wrong
        print(json.dumps({"seed": plan.seed, "jobs": dict(outcome.verdict.states), "faults": dict(outcome.faults),
                          "jobs_per_s": outcome.ran / outcome.seconds, "wrong": wrong}))  # fmt: skip
    else:
        print(report(outcome))
    return 0 if outcome.verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
