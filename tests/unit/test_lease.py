"""The lease of a shared home: what proves that its owner is gone, that one of many gets it, and what becomes of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from lwfm.client import elsewhere
from lwfm.errors import AgentElsewhere, LwfmError, SiteError, StoreLocked
from lwfm.host.processes import boot_id, pid_space
from lwfm.ownership import lease, owner
from lwfm.ownership.endings import all_ended
from lwfm.ownership.lease import Lease, LeaseLost, Ownership, find_owner, take
from lwfm.ownership.owner import Owner, parse_owner, this_process, told_of, why_gone
from lwfm.paths import Home

ELSEWHERE = Owner("n9", 4711, 12.5, "another boot", "", "m9", "", "2026-01-01T00:00:00.000000Z", "token")


def never(_: Sequence[str]) -> Mapping[str, str]:
    return {}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(lease, "is_shared", lambda _: True)
    monkeypatch.setattr(lease, "NOTICE_S", 0.0)
    monkeypatch.setattr("lwfm.host.processes._MACHINE", tmp_path / "machine-id")
    (tmp_path / "machine-id").write_text("m1\n")
    return Home(tmp_path)


@pytest.fixture
def taken(home: Home) -> Iterator[list[Ownership]]:
    """What was taken; given back at the end."""
    found: list[Ownership] = []
    yield found
    for one in found:
        one.release()


def take_it(home: Home, taken: list[Ownership], lost: Optional[list[str]] = None, **options: Any) -> Lease:
    reasons = [] if lost is None else lost
    got = take(home, reasons.append, options.pop("ended", never), **options)
    assert isinstance(got, Lease)
    taken.append(got)
    return got


def write_lease(home: Home, owner: Owner, number: int = 3, later: Optional[Mapping[str, str]] = None) -> Path:
    home.lease.mkdir(mode=0o700, exist_ok=True)
    path = home.lease / f"{number:08d}"
    path.write_text(json.dumps(told_of(owner)) + "\n" + (json.dumps(dict(later)) + "\n" if later else ""))
    return path


def a_dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_it_is_had_by_one_and_given_back(home: Home, taken: list[Ownership]) -> None:
    first = take_it(home, taken)
    owner = find_owner(home, never)
    assert owner is not None
    assert (owner.host, owner.pid, owner.left) == (socket.gethostname(), os.getpid(), False)
    with pytest.raises(StoreLocked, match=f"pid {os.getpid()} on .*, since 20.*, last heard of at 20") as refused:
        take(home, print, never)
    assert str(refused.value.hint).endswith(f"kill -9 {os.getpid()}")
    first.confirm()
    taken.remove(first)
    first.release()
    assert find_owner(home, never) is None
    second = take_it(home, taken)
    assert [path.name for path in home.lease.iterdir()] == ["00000002"]
    assert not second.ousts


class TestProof:
    def proof(self, home: Home, owner: Owner, ended: Any = never, **later: str) -> str:
        path = write_lease(home, owner, later=later)
        found = parse_owner(path.read_bytes())
        assert found is not None
        return why_gone(found, path, ended)

    def test_silence_is_none(self, home: Home) -> None:
        assert self.proof(home, ELSEWHERE) == ""

    def test_it_said_so(self, home: Home) -> None:
        assert self.proof(home, ELSEWHERE, left="2026-01-01T00:00:00Z") == "it has left"

    def test_its_process(self, home: Home) -> None:
        here = replace(ELSEWHERE, boot_id=boot_id(), pid_space=pid_space())
        assert self.proof(home, replace(here, pid=a_dead_process())) == "its process is gone"
        assert self.proof(home, replace(here, pid=os.getpid(), start_s=1e9)) == "its process is gone"
        assert self.proof(home, replace(this_process(""))) == ""

    def test_a_pid_of_another_container_says_nothing(self, home: Home) -> None:
        other = replace(ELSEWHERE, boot_id=boot_id(), pid_space="pid:[1]", pid=a_dead_process())
        assert self.proof(home, other) == ""

    def test_its_host_was_started_anew(self, home: Home) -> None:
        ours = replace(ELSEWHERE, host=socket.gethostname(), machine="m1")
        assert self.proof(home, ours) == "its host has been started anew"
        assert self.proof(home, replace(ours, host="n9")) == "", "hosts may be clones of one image"
        assert self.proof(home, replace(ours, machine="m2")) == "", "hosts may have one name"

    def test_a_host_without_identity_proves_nothing(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "machine-id").unlink()
        assert self.proof(home, replace(ELSEWHERE, host=socket.gethostname(), machine="")) == ""

    def test_its_allocation_has_ended(self, home: Home) -> None:
        owner = replace(ELSEWHERE, allocation="slurm-4711")
        assert self.proof(home, owner, lambda names: dict.fromkeys(names, ": TIMEOUT")) == (
            "its allocation slurm-4711 has ended: TIMEOUT"
        )
        assert self.proof(home, owner) == ""

        def silent(_: Sequence[str]) -> Mapping[str, str]:
            raise SiteError("squeue did not answer")

        assert self.proof(home, owner, silent) == ""

    @pytest.mark.parametrize("reaching", [True, False])
    def test_its_lock_where_locks_reach_other_hosts(
        self, home: Home, taken: list[Ownership], monkeypatch: pytest.MonkeyPatch, reaching: bool
    ) -> None:
        monkeypatch.setattr(owner, "locks_reach_other_hosts", lambda _: reaching)
        assert self.proof(home, ELSEWHERE) == ("its lock is free" if reaching else "")
        (home.lease / "00000003").unlink()
        held = take_it(home, taken)
        assert why_gone(replace(ELSEWHERE), held.path, never) == ""


def test_an_owner_elsewhere_is_named_and_ousted_only_by_force(home: Home, taken: list[Ownership]) -> None:
    old = write_lease(home, ELSEWHERE)
    with pytest.raises(AgentElsewhere, match=r"runs on n9, .*: pid 4711 on n9, since 2026-01-01T00:00:00Z") as refused:
        take(home, print, never)
    assert "if n9 is gone for good: lwfm agent start --take-over" in str(refused.value.hint)
    assert old.exists()
    got = take_it(home, taken, force=True)
    assert got.ousts
    assert not old.exists()


def test_one_that_ousted_and_died_leaves_it_to_the_next_to_finish(home: Home, taken: list[Ownership]) -> None:
    here = replace(ELSEWHERE, boot_id=boot_id(), pid_space=pid_space(), pid=a_dead_process(), ousts=True)
    write_lease(home, here)
    got = take_it(home, taken)
    assert got.ousts
    got.settle()
    taken.remove(got)
    got.release()
    assert not take_it(home, taken).ousts


def test_a_lease_that_says_nothing_is_somebodys(home: Home, taken: list[Ownership]) -> None:
    home.lease.mkdir(mode=0o700)
    (home.lease / "00000001").write_bytes(b'{"host": "n1", "p')
    with pytest.raises(AgentElsewhere, match="one on an unknown host"):
        take(home, print, never)
    assert take_it(home, taken, force=True).ousts


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_find_an_owner_gone_one_gets_it(
    home: Home, taken: list[Ownership], monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also where there are no hard links, as on some file systems."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "no links")

        monkeypatch.setattr(os, "link", refuse)
    for _ in range(10):
        gone = replace(ELSEWHERE, boot_id=boot_id(), pid_space=pid_space(), pid=a_dead_process())
        number = max(lease._numbers(home.lease), default=0) + 1 if home.lease.exists() else 1
        write_lease(home, gone, number)
        start = threading.Barrier(8)
        got: list[Ownership] = []
        refused: list[LwfmError] = []

        def compete(
            start: threading.Barrier = start, got: list[Ownership] = got, refused: list[LwfmError] = refused
        ) -> None:
            start.wait()
            try:
                got.append(take(home, print, never))
            except LwfmError as error:
                refused.append(error)

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (1, 7)
        got[0].confirm()
        got[0].release()
    assert [name for name in os.listdir(home.lease) if name.startswith(".")] == []


def test_whoever_sees_an_old_directory_gets_nothing(
    home: Home, taken: list[Ownership], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a number that is free again, and finds that there is a higher one."""
    write_lease(home, replace(this_process(""), token="x"), 7)
    looks = iter([(3, ELSEWHERE, Path("/gone"))])
    newest = lease._newest
    monkeypatch.setattr(lease, "_newest", lambda directory: next(looks, None) or newest(directory))
    with pytest.raises(StoreLocked):
        take(home, print, never, force=True)
    assert os.listdir(home.lease) == ["00000007"]


class TestLosing:
    def test_one_that_was_ousted(self, home: Home, taken: list[Ownership]) -> None:
        lost: list[str] = []
        old = take_it(home, taken, lost)
        old.path.unlink()
        write_lease(home, ELSEWHERE, 2)
        with pytest.raises(LeaseLost, match="taken over by pid 4711 on n9"):
            old.confirm()
        assert lost[0].startswith("the lease was taken over by pid 4711 on n9")
        old.release()
        taken.remove(old)
        found = find_owner(home, never)
        assert found is not None
        assert found.token == ELSEWHERE.token, "whoever ceases to be the owner leaves the next one's lease alone"

    def test_another_ones_file_under_its_number(self, home: Home, taken: list[Ownership]) -> None:
        old = take_it(home, taken)
        write_lease(home, ELSEWHERE, 1)
        with pytest.raises(LeaseLost):
            old.confirm()

    def test_one_that_cannot_be_read_is_tried_for_a_while(
        self, home: Home, taken: list[Ownership], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        got = take_it(home, taken)
        look, failures = Lease._look, iter([errno.EIO, errno.ESTALE, errno.EACCES])

        def fail(self: Lease) -> None:
            number = next(failures, 0)
            if number:
                raise OSError(number, os.strerror(number))
            look(self)

        monkeypatch.setattr(Lease, "_look", fail)
        monkeypatch.setattr(lease, "LOOK_AGAIN_S", 0.001)
        got.confirm()

    def test_but_not_for_ever(self, home: Home, taken: list[Ownership], monkeypatch: pytest.MonkeyPatch) -> None:
        lost: list[str] = []
        got = take_it(home, taken, lost)

        def fail(_: Lease) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Lease, "_look", fail)
        monkeypatch.setattr(lease, "LOOK_AGAIN_S", 0.001)
        monkeypatch.setattr(lease, "GIVE_UP_S", 0.05)
        with pytest.raises(LeaseLost, match="Input/output error"):
            got.confirm()
        assert "Input/output error" in lost[0]


def test_on_a_file_system_of_one_host_it_is_a_lock(tmp_path: Path) -> None:
    home = Home(tmp_path)
    got = take(home, print, never)
    with pytest.raises(StoreLocked, match=f"pid {os.getpid()} on "):
        take(home, print, never, force=True)
    owner = find_owner(home, never)
    assert owner is not None
    assert owner.pid == os.getpid()
    assert not home.lease.exists()
    got.release()
    assert find_owner(home, never) is None


def test_there_one_that_has_just_begun_is_of_this_host_though_it_has_not_said_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.lock_file.open("wb") as begun:
        fcntl.flock(begun, fcntl.LOCK_EX)
        found = find_owner(home, never)
        assert found is not None
        assert found.host == socket.gethostname()
        assert elsewhere.find(home) is None
        with pytest.raises(StoreLocked, match=r"one on .* that has not said yet who it is") as refused:
            take(home, lambda _: None, never)
    assert "kill" not in str(refused.value.hint)


def test_who_knows_that_its_allocation_has_ended_need_not_ask(home: Home, taken: list[Ownership]) -> None:
    write_lease(home, replace(ELSEWHERE, allocation="sge-12"))
    assert find_owner(home, never) is not None
    assert find_owner(home, all_ended) is None
    assert not take_it(home, taken, ended=all_ended).ousts
