"""How the one file unpacks its parts: all or nothing, once however many start, into a place that will do, and what is left of old
ones."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import otheruser
from support.onefile import Pyz
from support.otheruser import other_process
from support.waiting import wait_until

pytestmark = pytest.mark.artifact
MakePyz = Callable[..., Pyz]
stranger_uid, scratch = otheruser.stranger_uid, otheruser.scratch
STATUS = ("agent", "status")


def start(pyz: Pyz, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [pyz.python, str(pyz.archive), *words], env={**pyz.environment, **variables}, cwd=pyz.home,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def unfinished(pyz: Pyz) -> list[Path]:
    return list(pyz.cache.glob("*/*/.*"))


def target(pyz: Pyz) -> Path:
    (found,) = pyz.cache.glob("*/*")
    return found


def test_many_that_start_at_once_unpack_once(pyz: Pyz) -> None:
    """One unpacks while the others wait; all of them then run."""
    running = [start(pyz, *STATUS) for _ in range(64)]
    inodes: set[int] = set()
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (7, ""), errors
        inodes.add(target(pyz).joinpath("base").stat().st_ino)
    assert len(inodes) == 1
    assert unfinished(pyz) == []


def test_it_is_the_owners_alone(pyz: Pyz) -> None:
    os.umask(0o022)
    pyz(*STATUS, code=7)
    directories = [path for path in [pyz.cache, *pyz.cache.rglob("*")] if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in directories if path.name != "__pycache__"} == {0o700}
    modes = {path.stat().st_mode & 0o777 for path in pyz.cache.glob("*/*/base/**/*.py")}
    assert modes == {0o600}


@pytest.mark.parametrize("after_s", [0.05, 0.1, 0.15, 0.2, 0.25])
def test_a_start_that_is_killed_is_made_good_by_the_next(pyz: Pyz, after_s: float) -> None:
    process = start(pyz, *STATUS)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pyz(*STATUS, code=7)
    whole = files(target(pyz))
    assert unfinished(pyz) == []
    shutil.rmtree(pyz.cache)
    pyz(*STATUS, code=7)
    assert files(target(pyz)) == whole


@pytest.mark.parametrize("harm", ["removed", "cut", "list", "directory"])
def test_what_was_damaged_is_unpacked_anew(pyz: Pyz, harm: str) -> None:
    """By who tidies up temporary directories, or by a disk that was full or lost power."""
    pyz(*STATUS, code=7)
    before = files(target(pyz))
    victim = target(pyz) / "base" / "click" / "core.py"
    if harm == "removed":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(b"")
    elif harm == "list":
        (target(pyz) / "base.files").write_text("")
    else:
        shutil.rmtree(target(pyz) / "base" / "click")
    pyz(*STATUS, code=7)
    assert files(target(pyz)) == before
    assert unfinished(pyz) == []


def test_a_change_that_keeps_the_size_is_seen_by_the_doctor(pyz: Pyz) -> None:
    pyz(*STATUS, code=7)
    victim = target(pyz) / "base" / "rich" / "diagnose.py"  # which nothing imports
    victim.write_bytes(b"#" + victim.read_bytes()[1:])
    done = pyz.run("doctor")
    assert done.returncode == 1
    assert "diagnose.py was changed" in done.stdout


def test_a_worker_unpacks_what_a_worker_needs(pyz: Pyz) -> None:
    """Neither the libraries of the command line nor those of ssh are unpacked, or loaded."""
    worker = start(pyz, "worker", "--connect", str(pyz.home / "nobody"), "--spool", str(pyz.home / "spool"))
    try:
        wait_until(lambda: (pyz.home / "spool" / "journal").exists() or None, "the worker's journal")
        assert pyz.groups() == {"lwfm", "worker"}
        loop = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        loaded = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in [worker.pid, *loop])
        assert not [name for name in ("tornado", "cryptography", "_cffi") if name in loaded]
    finally:
        worker.terminate()
        worker.communicate(timeout=30)


def test_ssh_is_unpacked_only_when_it_is_asked_for(pyz: Pyz) -> None:
    pyz("job", "list")
    assert pyz.groups() == {"lwfm", "worker", "base"}
    pyz("doctor")
    assert pyz.groups() == {"lwfm", "worker", "base", "ssh"}


def test_without_a_place_it_says_which_were_tried_and_why(pyz: Pyz, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = pyz.run("job", "list", LWFM_CACHE=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr
    assert "set LWFM_CACHE" in done.stderr


def test_a_directory_of_that_name_that_others_can_use_is_not_trusted(make_pyz: MakePyz, tmp_path: Path) -> None:
    """Somebody else may have made it, to have us load what lies in it."""
    scratch = tmp_path / "scratch"
    (scratch / f"lwfm-parts-{os.getuid()}").mkdir(parents=True)
    (scratch / f"lwfm-parts-{os.getuid()}").chmod(0o777)
    pyz = make_pyz(LWFM_CACHE=str(scratch))
    done = pyz.run("job", "list")
    assert done.returncode == 2
    assert "not a directory that is yours alone" in done.stderr
    linked = tmp_path / "linked"
    linked.mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (linked / f"lwfm-parts-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert pyz.run("job", "list", LWFM_CACHE=str(linked)).returncode == 2
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.root
def test_where_a_stranger_could_replace_what_is_loaded_nothing_is_unpacked(
    make_pyz: MakePyz, tmp_path: Path, stranger_uid: int
) -> None:
    """Neither into a directory open to all without the sticky bit, nor into one of theirs; nor is what lies there loaded."""
    whole = tmp_path / "whole"
    whole.mkdir(mode=0o700)
    make_pyz(LWFM_CACHE=str(whole))(*STATUS, code=7)
    for name, mode, owner in (("open", 0o777, 0), ("theirs", 0o700, stranger_uid), ("sticky", 0o1777, stranger_uid)):
        place = tmp_path / name
        shutil.copytree(whole, place, symlinks=True)
        os.chown(place, owner, -1)
        place.chmod(mode)
        (victim,) = place.glob("*/*/*/lwfm/lwfm/__main__.py")
        text = victim.read_bytes()
        victim.write_bytes(b"raise SystemExit(99)".ljust(len(text), b"#"))
        os.utime(victim, (0, 0))  # Python takes what it compiled for the same while second and size are the same
        done = make_pyz().run(*STATUS, LWFM_CACHE=str(place))
        assert done.returncode == 2, name
        assert "somebody else could replace" in done.stderr
    place.chmod(0o1777)
    os.chown(place, 0, -1)
    assert make_pyz().run(*STATUS, LWFM_CACHE=str(place)).returncode == 99  # as in /tmp: what is ours stays ours


@pytest.mark.root
def test_in_a_directory_as_tmp_a_stranger_changes_nothing_of_it(make_pyz: MakePyz, scratch: Path) -> None:
    """While it is unpacked by several, and afterwards: nothing of theirs is in the way of it, or in it."""
    place = scratch
    root = place / f"lwfm-parts-{os.getuid()}"
    trap = place / "trap"

    def trial() -> bool:
        for act in (
            trap.mkdir, lambda: root.rename(place / "moved"), lambda: shutil.rmtree(root),
            lambda: os.link(root / ".lock", place / "link"), lambda: (place / "moved").symlink_to(root),
            lambda: root.chmod(0o777), lambda: (root / "x").write_text(""),
        ):  # fmt: skip
            try:
                act()
            except OSError:
                pass
        return trap.exists()

    root.mkdir(mode=0o700)
    pyz = make_pyz(LWFM_CACHE=str(place))
    with other_process(trial):
        running = [start(pyz, *STATUS) for _ in range(4)]
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert (process.returncode, errors) == (7, ""), errors
    strange = [path for path in root.rglob("*") if path.lstat().st_uid != os.getuid() or path.lstat().st_mode & 0o022]
    assert not strange
    assert sorted(os.listdir(place)) == sorted([root.name, "moved", "trap"])


@pytest.mark.root
@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_a_stranger_has_laid_in_its_place_is_not_used(
    make_pyz: MakePyz, tmp_path: Path, stranger_uid: int, kind: str
) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    place.chmod(0o1777)
    root = place / f"lwfm-parts-{os.getuid()}"
    (tmp_path / "ours").mkdir(mode=0o700)
    if kind == "directory":
        root.mkdir(mode=0o700)
    else:
        root.symlink_to(tmp_path / "ours")
    os.chown(root, stranger_uid, -1, follow_symlinks=False)
    done = make_pyz().run(*STATUS, LWFM_CACHE=str(place))
    assert done.returncode == 2
    assert "not a directory that is yours alone" in done.stderr
    assert list(root.iterdir()) == []


@pytest.fixture
def unheard_of(pyz: Pyz, tmp_path: Path) -> Iterator[Pyz]:
    """A copy of the file that takes itself for another build, of which nothing can lie anywhere; without ``$LWFM_CACHE``."""
    del pyz.environment["LWFM_CACHE"]
    name = f"test{os.getpid()}{time.time_ns():x}"
    copy = tmp_path / "copy" / "lwfm.pyz"
    copy.parent.mkdir()
    with zipfile.ZipFile(pyz.archive) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "lwfm_start.py":
                content = re.sub(rb'BUILD, VERSION = "\w+"', f'BUILD, VERSION = "{name}"'.encode(), content)
            target.writestr(info, content)
    pyz.archive = copy
    yield pyz
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        shutil.rmtree(Path(place) / f"lwfm-parts-{os.getuid()}" / name, ignore_errors=True)


def test_without_the_variable_the_scratch_of_the_node_is_used(unheard_of: Pyz, tmp_path: Path) -> None:
    """``$TMPDIR`` first; a place that will not do is passed over."""
    first, second = tmp_path / "first", tmp_path / "second"
    unheard_of(*STATUS, code=7, TMPDIR=str(second))  # is not there
    assert not second.exists()
    first.mkdir()
    unheard_of(*STATUS, code=7, TMPDIR=str(first))
    assert not (first / f"lwfm-parts-{os.getuid()}").exists()  # what lies whole elsewhere is used
    shutil.rmtree(next(Path("/tmp").glob(f"lwfm-parts-{os.getuid()}/test{os.getpid()}*")))
    unheard_of(*STATUS, code=7, TMPDIR=str(first))
    assert (first / f"lwfm-parts-{os.getuid()}").is_dir()


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A file system from which no program may be run."""
    place = tmp_path / "noexec"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,mode=1777", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_place_mounted_noexec_will_not_do(unheard_of: Pyz, noexec: Path) -> None:
    done = unheard_of.run(*STATUS, LWFM_CACHE=str(noexec))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{noexec} (mounted noexec)" in done.stderr
    unheard_of(*STATUS, code=7, TMPDIR=str(noexec))
    assert os.listdir(noexec) == []


def test_a_full_place_leaves_nothing_half_done(pyz: Pyz, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        done = pyz.run(*STATUS, LWFM_CACHE=str(place))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "No space left" in done.stderr
        assert not list(place.glob("*/*/*/.*"))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_damaged_copy_of_the_file_says_so(archive: Path, make_pyz: MakePyz, tmp_path: Path) -> None:
    pyz = make_pyz()
    harmed = tmp_path / "harmed" / "lwfm.pyz"
    harmed.parent.mkdir()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(harmed, "w", zipfile.ZIP_DEFLATED) as copy:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "site-packages/base.tar":
                content = content.replace(b"def ", b"dfe ", 1)
            copy.writestr(info, content)
    pyz.archive = harmed
    done = pyz.run(*STATUS)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is damaged (part base): copy it again" in done.stderr
    assert not (target(pyz) / "base").exists()


def _old_build(pyz: Pyz, age_s: float) -> Path:
    build = pyz.cache / "an-older-build"
    (build / "cp311-x86_64" / "base").mkdir(parents=True)
    (build / "cp311-x86_64" / "base" / "module.py").write_text("")
    os.utime(build, (time.time() - age_s, time.time() - age_s))
    return build


@pytest.mark.parametrize(
    ("age_s", "held", "stays"), [(3600.0, False, True), (2 * 86400.0, True, True), (2 * 86400.0, False, False)]
)
def test_builds_that_nobody_uses_any_more_are_removed(pyz: Pyz, age_s: float, held: bool, stays: bool) -> None:
    pyz.cache.mkdir(parents=True, mode=0o700)
    build = _old_build(pyz, age_s)
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH);"
        "print(1, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(build if held else pyz.cache.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    pyz(*STATUS, code=7)
    holder.communicate()
    assert build.exists() is stays


def test_a_running_lwfm_holds_what_it_uses(pyz: Pyz) -> None:
    """Against a later lwfm, and against systemd-tmpfiles(8), which leaves alone what somebody has locked."""
    import fcntl

    pyz("agent", "start")
    descriptor = os.open(target(pyz).parent, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_what_an_instance_keeps_in_the_scratch_is_none_of_its_business(unheard_of: Pyz, tmp_path: Path) -> None:
    """Sockets and spools of instances with a home on a shared file system lie in the same scratch."""
    scratch = tmp_path / "scratch"
    spool = scratch / f"lwfm-{os.getuid()}" / "0123456789ab" / "spool"
    spool.mkdir(parents=True)
    for path in (spool, spool.parent, spool.parent.parent):
        os.utime(path, (0, 0))
    unheard_of(*STATUS, code=7, TMPDIR=str(scratch))
    assert spool.is_dir()
