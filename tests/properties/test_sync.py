"""Seeded random topologies of instances that write, sync in any order, are cut off, killed, copied, restored and installed anew.

Whatever happens: a store is always sound, a sync loses nothing and doubles nothing, and when all have synced all are equal, tables
and all, so that a further sync sends no record.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from itertools import combinations
from pathlib import Path
from typing import Optional

import pytest

from lwfm.errors import Conflict
from lwfm.host.filesystems import birth_time_ns
from lwfm.models import JobDefn
from lwfm.recording.bodies import Adopted
from lwfm.recording.recorder import Recorder
from lwfm.states import JobState
from lwfm.store import schema
from lwfm.store.identity import FILE
from lwfm.sync.frames import Cut

from support.pruned import chains, prune, stubs, whole
from support.replicas import StoreReplica, sync, write_something
from support.threads import Thread, tables

TOPOLOGIES = int(os.environ.get("LWFM_SYNC_TOPOLOGIES", "24"))
STEPS = 45
CUTS = 1000


class Killed(Exception):
    """The process of a store ends here."""


class World:
    """Some instances, and everything that happens to them."""

    def __init__(self, root: Path, seed: int, *, pruning: bool = False):
        self.pruning = pruning
        self.pruned = 0
        self.root = root
        self.draw = random.Random(seed)
        self.made = 0
        self.cuts = 0
        self.forks = 0
        self.threads: list[Thread] = []
        self.backups: dict[int, Path] = {}
        self.handed: list[tuple[str, str]] = []
        for _ in range(self.draw.randint(4, 6)):
            self.threads.append(Thread(self._directory()))

    def _directory(self) -> Path:
        self.made += 1
        path = self.root / f"home{self.made}"
        path.mkdir()
        return path

    def run(self) -> None:
        actions = {
            "write": 40, "sync": 25, "cut": 25, "kill": 6, "backup": 8, "clone": 2, "restore": 2, "unseen": 5, "twin": 4, "anew": 1,
            "hand": 12, "tell": 12, "finish": 25 * self.pruning, "prune": 20 * self.pruning,
        }  # fmt: skip
        for _ in range(STEPS):
            name = self.draw.choices(list(actions), list(actions.values()))[0]
            getattr(self, f"do_{name}")()

    def pick(self) -> int:
        return self.draw.randrange(len(self.threads))

    def do_write(self) -> None:
        write_something(self.threads[self.pick()], self.draw)

    def do_prune(self) -> None:
        """An instance prunes what it need not keep."""
        thread = self.threads[self.pick()]
        whole_before = set(whole(thread))
        what = self.draw.choice([(), ("jobs",), ("logs",), ("jobs", "handlers", "workflows")])
        self.pruned += prune(thread, *what, unsynced=self.draw.random() < 0.5)
        assert whole_before - set(whole(thread)) <= stubs(thread, "here")

    def do_finish(self) -> None:
        """An instance submits jobs, and runs some of those that wait."""
        thread = self.threads[self.pick()]
        for _ in range(self.draw.randint(1, 3)):
            thread.submit("true")
        query = "select id from jobs where origin = ? and runner is null and state = 'PENDING'"
        for (job,) in thread.connection.execute(query, (thread.store.origin,)).fetchall():
            if self.draw.random() < 0.8:
                thread.run(job, self.draw.choice([0, 0, 1]))

    def do_hand(self) -> None:
        """One instance hands a job to another, perhaps not for the first time, or its answer is lost on the way."""
        near, far = self.draw.sample(self.threads, 2)
        if near.store.origin == far.store.origin:
            return
        waiting = {row[0] for row in near.connection.execute("select id from jobs where state = 'PENDING'")}
        open_jobs = [job for job, origin in self.handed if origin == near.store.origin and job in waiting]
        job = self.draw.choice(open_jobs) if open_jobs and self.draw.random() < 0.3 else near.submit("true")
        self.handed.append((job, near.store.origin))
        near.unit(near.service.hand_over, [(job, 1)], far.store.origin, "far")
        if self.draw.random() < 0.9:
            asked = Adopted(job, "local", JobDefn("true"))
            for _ in range(self.draw.choice([1, 1, 2])):
                far.unit(far.service.adopt, near.store.origin, [asked])

    def do_tell(self) -> None:
        """An instance tells of a job that it runs for another, or of one that it only once ran."""
        thread = self.threads[self.pick()]
        jobs = [row[0] for row in thread.connection.execute("select job_id from local_adopted order by job_id")]
        if jobs:
            thread.unit(tell, self.draw.choice(jobs), self.draw.choice(["RUNNING", "FINISHING", "COMPLETE", "FAILED"]))

    def do_sync(self, cut_after: Optional[int] = None) -> None:
        near, far = self.draw.sample(self.threads, 2)
        before = [ids(near), ids(far)]
        pull, push = self.draw.choice([(True, True), (True, True), (True, False), (False, True)])
        try:
            outcome, _ = sync(StoreReplica(near), StoreReplica(far), pull=pull, push=push, cut_after=cut_after)
            self.forks += sum("two copies" in notice for notice in outcome.notices)
        except Cut:
            assert cut_after is not None
            self.cuts += 1
        except Conflict as error:
            if not error.transient:  # else two twins have written at this very moment: the next sync settles it
                raise
        for known, thread in zip(before, (near, far)):
            assert known <= ids(thread)

    def do_cut(self) -> None:
        self.do_sync(cut_after=self.draw.choice([self.draw.randint(1, 2000), self.draw.randint(1, 20_000)]))

    def do_kill(self) -> None:
        """One side dies in the middle of a transaction, which may have taken any number of records over."""
        near, far = self.draw.sample(self.threads, 2)
        known = ids(near)
        replica = StoreReplica(near)
        after = self.draw.randint(1, 30)

        def dying(*_: object) -> None:
            nonlocal after
            after -= 1
            if after == 0:
                raise Killed

        original = near.rules.consequences

        def consequences(transaction: object, record: object) -> object:
            dying()
            return original(transaction, record)  # type: ignore[arg-type]

        near.rules.consequences = consequences  # type: ignore[assignment, method-assign]
        try:
            sync(replica, StoreReplica(far), pull=True, push=False)
        except Killed:
            self.cuts += 1
        near.crash()
        assert known <= ids(near)

    def do_backup(self) -> None:
        number = self.pick()
        backup = self.root / f"backup{number}-{self.made}"
        shutil.rmtree(backup, ignore_errors=True)
        thread = self.threads[number]
        thread.close()
        shutil.copytree(thread.directory, backup)
        thread.open()
        self.backups[number] = backup

    def do_clone(self) -> None:
        """Somebody copies a home, and works with both."""
        if len(self.threads) >= 7:
            return
        original, directory = self._copied()
        known = original.store.origin
        clone = Thread(directory)
        assert clone.store.origin != known
        assert clone.store.notice is not None
        self.threads.append(clone)

    def do_restore(self) -> None:
        """The database of a home is brought back from a backup, and the mark beside it is not."""
        if not self.backups:
            return
        number, backup = self.draw.choice(sorted(self.backups.items()))
        thread = self.threads[number]
        thread.close()
        shutil.copyfile(backup / "thread.db", thread.directory / "copy.db")
        os.replace(thread.directory / "copy.db", thread.directory / "thread.db")
        known = thread.store.origin
        thread.open()
        assert thread.store.origin != known

    def do_unseen(self) -> None:
        """A machine is set back as a whole, as from a snapshot of its disk: nothing at hand tells."""
        if not self.backups:
            return
        number, backup = self.draw.choice(sorted(self.backups.items()))
        thread = self.threads[number]
        thread.close()
        for name in ("thread.db", FILE):
            shutil.copyfile(backup / name, thread.directory / name)
        self._believe(thread.directory)
        known = thread.store.origin
        thread.open()
        assert thread.store.origin in (known, self._origin_of(backup))

    def do_twin(self) -> None:
        """A machine is copied as a whole, and both go on, each believing that it is the only one."""
        if len(self.threads) >= 7:
            return
        original, directory = self._copied()
        self._believe(directory)
        self.threads.append(Thread(directory))
        assert self.threads[-1].store.origin == original.store.origin

    def _copied(self) -> tuple[Thread, Path]:
        """One of the homes, and a copy of it."""
        original = self.threads[self.pick()]
        original.close()
        directory = self._directory()
        shutil.copytree(original.directory, directory, dirs_exist_ok=True)
        original.open()
        return original, directory

    def _origin_of(self, directory: Path) -> str:
        return str(json.loads((directory / FILE).read_text())["origin"])

    def _believe(self, directory: Path) -> None:
        """Make the mark say that the database beside it is the right one."""
        mark = directory / FILE
        database = directory / "thread.db"
        file = {"inode": os.stat(database).st_ino, "born_ns": birth_time_ns(database)}
        mark.write_text(json.dumps({**json.loads(mark.read_text()), **file}))

    def do_anew(self) -> None:
        """A home is lost, and lwfm installed again: what others know of it comes back from them."""
        number = self.pick()
        self.threads[number].close()
        self.backups.pop(number, None)
        self.threads[number] = Thread(self._directory())

    def meet(self, near: Thread, far: Thread) -> int:
        try:
            outcome, _ = sync(StoreReplica(near), StoreReplica(far))
        except Conflict as error:
            if not error.transient:
                raise
            return 1
        self.forks += sum("two copies" in notice for notice in outcome.notices)
        return outcome.received + outcome.sent

    def settle(self) -> None:
        """Sync until nobody has anything new; consequences of what comes, such as handlers that fire, are new too."""
        for _ in range(12):
            if self.pruning:  # what one has pruned does not pass through it
                pairs = list(combinations(self.threads, 2))
            else:
                pairs = list(zip(self.threads, self.threads[1:]))
            moved = sum(self.meet(*pair) for pair in [*pairs, *reversed(pairs)])
            if not moved:
                return
        raise AssertionError("the instances do not come to rest")


def ids(thread: Thread) -> set[str]:
    """What a store knows, whatever origin it stands under."""
    query = "select case when kind = 'pruned' then json_extract(body, '$.kind') else kind end, uid from log"
    return {f"{kind} {uid}" for kind, uid in thread.connection.execute(query)}


def tell(recorder: Recorder, job_id: str, state: str) -> None:
    job = recorder.job_now(job_id)
    if job is not None:
        recorder.record_status(job, JobState(state))


def log_of(thread: Thread) -> list[tuple[object, ...]]:
    return thread.connection.execute("select * from log order by origin, seq").fetchall()


@pytest.mark.parametrize("seed", range(TOPOLOGIES))
def test_whatever_happens_all_become_equal_and_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    world = World(tmp_path, seed)
    world.run()
    known = set().union(*(ids(thread) for thread in world.threads))
    for thread in world.threads:
        assert thread.verify() == []
    world.settle()
    first = world.threads[0]
    everything, folded = log_of(first), tables(first.connection)
    assert known <= ids(first)
    for thread in world.threads[1:]:
        assert log_of(thread) == everything
        found = tables(thread.connection)
        assert [table for table in schema.PROJECTIONS if found.get(table) != folded.get(table)] == []
    for thread in world.threads:
        assert thread.verify() == []
        thread.close()


@pytest.mark.parametrize("seed", range(TOPOLOGIES * 2 // 3))
def test_with_pruning_all_become_equal_but_for_what_each_has_pruned(seed: int, tmp_path: Path) -> None:
    """Whoever has not pruned something has it in the end, if anybody has; nobody gets back what it has pruned itself."""
    world = World(tmp_path, seed, pruning=True)
    world.run()
    known = set().union(*(ids(thread) for thread in world.threads))
    for thread in world.threads:
        assert thread.verify() == []
    pruned = [stubs(thread, "here") for thread in world.threads]
    world.settle()
    everything: dict[tuple[str, int], tuple[object, ...]] = {}
    for thread in world.threads:
        assert thread.verify() == []
        assert known <= ids(thread)
        assert chains(thread) == chains(world.threads[0])
        everything.update(whole(thread))
    places = {(origin, seq) for origin, seq, *_ in chains(world.threads[0])}
    for thread, before in zip(world.threads, pruned):
        assert stubs(thread, "here") <= before
        if not world.forks:
            assert stubs(thread, "here") == before
        assert whole(thread) == {place: everything[place] for place in everything if place not in stubs(thread, "here")}
        assert stubs(thread, "elsewhere") == places - stubs(thread, "here") - everything.keys()
    for thread in world.threads:
        thread.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_thousand_cuts(seed: int, tmp_path: Path) -> None:
    """Each at a random byte of a sync, in either direction: a valid beginning is left, and the next sync goes on from there."""
    draw = random.Random(seed)
    threads = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        threads.append(Thread(tmp_path / str(number)))
    cuts = length = 0
    while cuts < CUTS / 8:
        write_something(draw.choice(threads), draw)
        near, far = draw.sample(threads, 2)
        before = [ids(near), ids(far)]
        try:
            _, length = sync(StoreReplica(near), StoreReplica(far), cut_after=draw.randint(1, max(length, 3000)))
        except Cut:
            cuts += 1
        assert before[0] <= ids(near)
        assert before[1] <= ids(far)
        if cuts % 40 == 0:
            assert [thread.verify() for thread in threads] == [[], [], []]
    for _ in range(8):
        for near_at, far_at in ((0, 1), (1, 2), (0, 1)):
            outcome, _ = sync(StoreReplica(threads[near_at]), StoreReplica(threads[far_at]))
    assert (outcome.received, outcome.sent) == (0, 0)
    assert log_of(threads[0]) == log_of(threads[1]) == log_of(threads[2])
    for thread in threads:
        assert thread.verify() == []
        thread.close()
