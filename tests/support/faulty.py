"""Machines that refuse: disks that are full, over quota or read-only, clocks that jump, limits that are reached.

Each is a context that ends with all as it was before. What a machine cannot be made to do is a skip that says why, which is a
failure where skipping is an error (see ``tests/conftest.py``).
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("refusing_disk.c")
FILLER = "filler"
_LIMITS = {"files": resource.RLIMIT_NOFILE, "memory": resource.RLIMIT_AS, "file size": resource.RLIMIT_FSIZE}


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"{what} needs root")


class Disk:
    """A small file system of its own at ``root``, in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, leave: int = 0) -> None:
        """Take all its space, but for so many bytes."""
        piece = bytes(1 << 20)
        with (self.root / FILLER).open("ab", buffering=0) as file:
            while len(piece) >= 4096:
                try:
                    written = file.write(piece)
                    if written < len(piece):
                        raise OSError(errno.ENOSPC, "")
                except OSError:
                    piece = piece[: len(piece) // 2]
            if leave:
                file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        """Give the space back."""
        (self.root / FILLER).unlink(missing_ok=True)


@contextmanager
def a_disk(megabytes: int = 24, at: Path | None = None) -> Iterator[Disk]:
    """A disk of so many megabytes; by itself in a directory with a short path."""
    need_root("mounting")
    root = at or Path(tempfile.mkdtemp(prefix="lwfm-disk-"))
    root.mkdir(exist_ok=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(root)], check=True)
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
        if at is None:
            shutil.rmtree(root, ignore_errors=True)


class Quota:
    """A directory at ``root`` that may hold so much, by a quota of the kernel's; its file system, ``whole``, has much more."""

    def __init__(self, root: Path, whole: Path) -> None:
        self.root, self._whole = root, whole

    def use_up(self) -> None:
        """Let what is there be all that may be."""
        os.sync()  # what is counted is on the disk
        group, used, *_ = self._run("show", "--raw", "-f", "--sync", str(self.root)).splitlines()[-1].split()
        self._group = group
        self._run("limit", used, group, str(self._whole))

    def lift(self) -> None:
        """Allow any amount."""
        self._run("limit", "none", self._group, str(self._whole))

    def _run(self, *words: str) -> str:
        return subprocess.run(["btrfs", "qgroup", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def a_quota(scratch: Path) -> Iterator[Quota]:
    """One on btrfs, the only kind that some kernels have; the image lies in ``scratch``."""
    need_root("mounting")
    if shutil.which("mkfs.btrfs") is None:
        missing = "a quota needs btrfs-progs"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    image, mounted = scratch / "btrfs", scratch / "mounted"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    mounted.mkdir()
    if subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], capture_output=True).returncode:
        pytest.skip("no loop device with btrfs can be mounted here")
    root = Path(tempfile.mkdtemp(prefix="lwfm-quota-"))
    try:
        for words in (["quota", "enable", str(mounted)], ["subvolume", "create", str(mounted / "home")]):
            subprocess.run(["btrfs", *words], check=True, capture_output=True)
        (mounted / "home").chmod(0o700)
        subprocess.run(["mount", "--bind", str(mounted / "home"), str(root)], check=True)
        yield Quota(root, mounted)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", str(mounted)], check=False, capture_output=True)
        root.rmdir()


class Refusal:
    """A directory whose disk can be made to refuse to whoever has ``env`` in its environment."""

    def __init__(self, directory: Path, library: Path, control: Path) -> None:
        self._control = control
        self.env = {
            "LD_PRELOAD": str(library),
            "REFUSING_DISK": str(directory),
            "REFUSING_DISK_WITH": str(control),
        }

    def begin(self, number: int) -> None:
        """Refuse with this error number from now on."""
        part = self._control.with_suffix(".part")
        part.write_text(str(number))
        part.replace(self._control)

    def end(self) -> None:
        """Take everything again."""
        self._control.unlink(missing_ok=True)


def refusing(directory: Path, scratch: Path) -> Refusal:
    """One for ``directory``; what it needs is built in ``scratch``."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a disk that refuses needs a C compiler (gcc)")
    library = scratch / "refusing_disk.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True, capture_output=True
    )
    return Refusal(directory, library, scratch / "refuse-with")


class Clock:
    """A wall clock that can be set, for whoever has ``env`` in its environment; the monotonic one goes on as it is."""

    def __init__(self, library: Path, control: Path) -> None:
        self._control = control
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(control),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Be so far from the truth from now on."""
        part = self._control.with_suffix(".part")
        part.write_text(f"{seconds:+.0f}s\n")
        part.replace(self._control)


def a_clock(scratch: Path) -> Clock:
    """One whose setting lies in ``scratch``."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("setting a clock needs libfaketime (apt install faketime)")
    return Clock(found[0], scratch / "clock")


@contextmanager
def limited(pid: int, what: str, limit: int) -> Iterator[None]:
    """A process may have no more of something, as of ``files`` (descriptors), until the block ends."""
    kind = _LIMITS[what]
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            resource.prlimit(pid, kind, before)


@contextmanager
def a_group(controller: str, name: str, setting: str, value: int, *pids: int) -> Iterator[Path]:
    """A control group with one setting, and these processes in it.

    Args:
        controller: as ``memory``. ``setting``: the file, as ``pids.max``.
    """
    need_root("a control group")
    parents = [Path(f"/sys/fs/cgroup/{controller}"), Path("/sys/fs/cgroup")]
    parent = next((item for item in parents if _offers(item, controller)), None)
    if parent is None:
        pytest.skip(f"no control groups for {controller} here")
    group = parent / name
    group.mkdir()
    try:
        (group / setting).write_text(str(value))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            try:
                (parent / "cgroup.procs").write_text(left)
            except OSError:
                pass  # it has ended
        group.rmdir()


def _offers(parent: Path, controller: str) -> bool:
    if parent.name == controller:
        return (parent / "cgroup.procs").exists()
    controllers = parent / "cgroup.subtree_control"
    return controllers.exists() and controller in controllers.read_text().split()
