"""Identity, kinship and the stopping of processes, on real ones."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from lwfm.host import processes
from lwfm.host.processes import Mark
from lwfm.host.stopping import TreeStop, send_signal
from lwfm.host.trees import Census, OwnChildren, Tree, group_alive

from support.waiting import wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


def stop_tree(tree: Tree, grace_s: float) -> bool:
    """Stop a tree and wait for its end; whether nothing of it is left."""
    stop = TreeStop(tree, grace_s)
    deadline = time.monotonic() + grace_s + 60
    while time.monotonic() < deadline:
        pause = stop.step()
        if pause is None:
            return True
        time.sleep(pause)
    return False


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs in a session of their own; what is left of them is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str, **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, start_new_session=True, env={**os.environ, **env}, stdin=subprocess.DEVNULL)
        started.append(process)
        return process

    yield begin
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(10)


def tree_of(process: subprocess.Popen[bytes], mark: Mark | None = None) -> Tree:
    entry = processes.inspect(process.pid)
    assert entry is not None
    return Tree(process.pid, entry.start_s, entry.start_s, mark)


def children_of(pid: int) -> list[int]:
    return Census().children([pid])


def test_a_process_is_known_by_its_start(start: Start) -> None:
    before = processes.boot_clock()
    process = start("sleep", "100")
    entry = processes.inspect(process.pid)
    assert entry is not None
    assert processes.started_within(entry, before, processes.boot_clock())
    assert not processes.started_within(entry, before - 10, before - 1)
    assert entry.ppid == os.getpid()
    assert entry.session == entry.group == process.pid
    assert processes.is_running(process.pid, entry.start_s)
    assert not processes.is_running(process.pid, entry.start_s - 10)
    process.kill()
    wait_until(lambda: not processes.is_running(process.pid, entry.start_s), "the end")  # not waited for yet
    process.wait()
    assert processes.inspect(process.pid) is None


def test_boot_id_is_that_of_the_kernel() -> None:
    assert processes.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_name_with_brackets_does_not_confuse(start: Start, tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    process = start(str(odd), "100")
    entry = processes.inspect(process.pid)
    assert entry is not None
    assert entry.ppid == os.getpid()


def test_the_same_answers_without_proc(start: Start) -> None:
    process = start("sleep", "100")
    here, there = processes.inspect(process.pid), processes._inspect_portably(process.pid)
    assert here is not None
    assert there is not None
    assert (here.ppid, here.group, here.session, here.dead) == (there.ppid, there.group, there.session, there.dead)
    assert abs(here.start_s - there.start_s) < 1.5
    assert there.rss_bytes > 0
    assert process.pid in processes._pids_portably()
    assert processes._inspect_portably(2**22) is None


def test_mark_of_a_process(start: Start) -> None:
    marked = start("sleep", "100", LWFM_JOB_ID="some-job", LWFM_ATTEMPT="3")
    plain = start("env", "-u", "LWFM_JOB_ID", "sleep", "100", NOT_LWFM_JOB_ID="x")
    wait_until(lambda: processes.mark_of(marked.pid), "exec")
    assert processes.mark_of(marked.pid) == ("some-job", 3, "")
    wait_until(lambda: Path(f"/proc/{plain.pid}/comm").read_text() == "sleep\n", "exec")
    assert processes.mark_of(plain.pid) is None
    assert processes.mark_of(2**22) is None


def _has_members(tree: Tree, count: int) -> bool:
    return len(Census().members(tree)) == count


def test_members_are_the_session_the_descendants_and_the_marked(start: Start) -> None:
    script = "sleep 100 & setsid sleep 100 & (setsid sleep 100 &) ; wait"
    mark = Mark("census", 1, os.urandom(4).hex())
    process = start("sh", "-c", script, LWFM_JOB_ID="census", LWFM_ATTEMPT="1", LWFM_WORKER=mark.worker)
    tree = tree_of(process, mark)
    wait_until(lambda: len(Census().members(tree)) == 4, "all four")
    wait_until(lambda: len(Census().members(tree, search=False)) == 3, "the daemon to have left")
    for other in (mark._replace(attempt=2), mark._replace(worker="another")):
        wait_until(functools.partial(_has_members, tree._replace(mark=other), 3), "all but the daemon")
    assert Census().rss_bytes(tree) > 0
    assert os.getpid() not in Census().members(tree)
    assert stop_tree(tree, grace_s=5)
    process.wait(10)
    assert stop_tree(tree, grace_s=5)


def test_a_number_that_was_given_away_is_no_member(start: Start) -> None:
    process = start("sleep", "100")
    tree = tree_of(process)
    earlier = tree._replace(start_s=tree.start_s - 50, latest_s=tree.start_s - 50)
    assert Census().members(earlier) == []
    assert stop_tree(earlier, grace_s=0)
    assert not send_signal(process.pid, tree.start_s - 50, signal.SIGKILL)
    assert process.poll() is None
    assert send_signal(process.pid, tree.start_s, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_what_does_not_obey_is_killed_with_all_it_starts_meanwhile(start: Start) -> None:
    script = 'trap "" TERM; while :; do sleep 0.01; (sleep 50 &); done'
    process = start("sh", "-c", script)
    tree = tree_of(process)
    wait_until(lambda: len(Census().members(tree)) > 3, "some children")
    stop = TreeStop(tree, grace_s=1000)
    assert stop.step() is not None
    assert process.poll() is None
    stop.hurry(0)

    def over() -> bool:
        process.poll()
        return stop.step() is None

    wait_until(over, "the end of the tree")
    assert process.wait(10) == -signal.SIGKILL
    assert Census().members(tree) == []


def test_own_children_as_the_kernel_lists_them(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    children = OwnChildren()
    process = start("sleep", "100")
    listed = children.pids()
    assert listed is not None
    assert process.pid in listed
    process.kill()
    process.wait()
    after = children.pids()
    assert after is not None
    assert process.pid not in after
    monkeypatch.setattr(os, "open", lambda *args: (_ for _ in ()).throw(FileNotFoundError()))
    assert OwnChildren().pids() is None


def test_group_alive(start: Start) -> None:
    process = start("sh", "-c", "sleep 100 & exit")
    assert process.wait(10) == 0
    assert group_alive(process.pid)
    assert stop_tree(Tree(process.pid, processes.boot_clock() - 60, processes.boot_clock()), grace_s=5)
    wait_until(lambda: not group_alive(process.pid), "the group to be gone")


def test_a_subreaper_gets_the_orphans() -> None:
    script = """
import os, subprocess, sys
from lwfm.host.processes import become_subreaper
assert become_subreaper()
subprocess.run(["sh", "-c", "(setsid sh -c 'exit 7' &)"], check=True)
pid, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""
    link = Path(__file__).resolve().parents[2] / "build" / "link"
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(link)}, capture_output=True, check=True
    )
    assert found.stdout == b"7\n"


def test_importing_costs_no_psutil() -> None:
    link = Path(__file__).resolve().parents[2] / "build" / "link"
    script = (
        "import sys, lwfm.worker.loop, lwfm.worker.main;"
        "heavy = {'psutil', 'asyncio', 'ssl', 'sqlite3', 'tornado', 'subprocess', 'logging', 'argparse', 'hashlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(link)}, capture_output=True, check=True
    )
    assert found.stdout == b"[]\n"
