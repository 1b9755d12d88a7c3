"""How lwfm.pyz starts: which parts this interpreter needs, where they lie unpacked, and off to lwfm.

This module is compiled anew at every start, so it is kept short; what only an empty cache needs is in ``lwfm_unpack``.
Parts are unpacked into ``lwfm-parts-UID/BUILD/TARGET/GROUP`` of a directory on this node; beside each lies ``GROUP.files``, which
lists what must be there. ``docs/decisions/0004-one-file.md`` tells why it is as it is.
"""

from __future__ import annotations

import os
import stat
import sys

BUILD = VERSION = "@filled in by build/make_pyz.py@"
PYTHONS = ((3, 9), (3, 14))
MACHINES = ("x86_64", "aarch64")
GROUPS = {"worker": ("lwfm", "worker"), "": ("lwfm", "worker", "base")}
"""By the first word of the command line: which groups of packages it needs. ``ssh`` is fetched when something imports it."""
CACHE_VARIABLE = "LWFM_CACHE"
UNUSABLE = 2
"""The exit code, that of a usage error."""

archive = os.path.abspath(sys.argv[0])
_in_use: list[int] = []
_in_charge: list[bool] = []


class Refused(Exception):
    """lwfm.pyz cannot run here; the text says what was found, what is supported and what to do."""


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    if words == ["--version"]:
        sys.stdout.write(f"lwfm {VERSION}\n")
        return
    try:
        check_interpreter()
        directories = [provide(group) for group in GROUPS.get(words[0] if words else "", GROUPS[""])]
    except Refused as error:
        sys.stderr.write(f"lwfm: {error}\n")
        sys.exit(UNUSABLE)
    _in_charge.append(True)
    sys.path[:1] = directories  # the first was this archive
    sys.path.append(archive)  # for this module and lwfm_unpack
    sys.dont_write_bytecode = False  # into the cache, which is ours: else all is compiled at every start
    from lwfm.__main__ import main as run

    sys.exit(run())


def in_charge() -> bool:
    """Whether this process was started from the one file; else somebody has only imported this module."""
    return bool(_in_charge)


def target() -> str:
    """What the parts for this interpreter are called, such as ``cp311-x86_64``."""
    return f"cp{sys.version_info[0]}{sys.version_info[1]}-{os.uname().machine}"


def check_interpreter() -> None:
    """Make sure that there are parts for this interpreter.

    Raises:
        Refused: there are none.
    """
    lowest, highest = PYTHONS
    found = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    supported = f"lwfm.pyz has parts for CPython {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}"
    if sys.implementation.name != "cpython" or not lowest <= sys.version_info[:2] <= highest:
        raise Refused(f"this is {found} ({sys.executable}); {supported}: run it with one of those")
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or "t" in getattr(sys, "abiflags", ""):
        raise Refused(f"this is a free-threaded {found}; {supported} with its usual build: run it with that")
    machine, system = os.uname().machine, os.uname().sysname
    if system != "Linux" or machine not in MACHINES or sys.maxsize < 2**32:
        bits = "" if sys.maxsize > 2**32 else ", 32 bits"
        raise Refused(
            f"this is {system} on {machine}{bits}; lwfm.pyz has parts for 64-bit Linux on {' and '.join(MACHINES)}: "
            "install lwfm from its source instead (README.md)"
        )


def libc() -> tuple[str, tuple[int, ...]]:
    """The C library's name and version; an empty name for one that does not tell."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return name, tuple(int(number) for number in version.split(".")[:2])
    except (ValueError, OSError):
        return "", ()


def places() -> list[str]:
    """Where the cache may be, best first: ``$LWFM_CACHE`` alone when set, else directories of this node."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return [os.path.abspath(os.path.expanduser(given))]
    listed = [os.environ.get("TMPDIR") or "", "/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108 - checked to be ours
    return list(dict.fromkeys(os.path.abspath(place) for place in listed if place))


def root_of(place: str) -> str:
    """The directory in ``place`` that is this user's."""
    return os.path.join(place, f"lwfm-parts-{os.getuid()}")


def provide(group: str) -> str:
    """The directory with the unpacked parts of ``group``, unpacked now if need be.

    Raises:
        Refused: that is not possible.
    """
    for place in places():
        build = os.path.join(root_of(place), BUILD)
        directory = os.path.join(build, target(), group)
        if is_guarded(place) and is_ours(root_of(place)) and is_whole(directory):
            use(build)
            return directory
    import lwfm_unpack

    directory = lwfm_unpack.unpack(group)
    use(os.path.dirname(os.path.dirname(directory)))
    return directory


def is_guarded(place: str) -> bool:
    """Whether no stranger can put something else in the place of what is ours there: the sticky bit, or not open to all."""
    try:
        found = os.stat(place)
    except OSError:
        return False
    return found.st_uid in (0, os.getuid()) and (not found.st_mode & 0o002 or bool(found.st_mode & stat.S_ISVTX))


def is_ours(directory: str) -> bool:
    """Whether it is a directory of this user's that nobody else can look into; no link counts."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def is_whole(directory: str) -> bool:
    """Whether all files are there with the sizes they had: who tidies up temporary directories may have taken some."""
    try:
        with open(f"{directory}.files", encoding="utf-8") as stream:
            wanted = [line.rstrip("\n").split(" ", 2) for line in stream]
        sizes: dict[str, int] = {}
        _sizes(directory, "", sizes)
    except (OSError, ValueError):
        return False
    return bool(wanted) and all(len(line) == 3 and sizes.get(line[2]) == int(line[0]) for line in wanted)


def _sizes(directory: str, prefix: str, sizes: dict[str, int]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    _sizes(entry.path, f"{prefix}{entry.name}/", sizes)
            else:
                sizes[prefix + entry.name] = entry.stat(follow_symlinks=False).st_size


def use(build: str) -> None:
    """Hold ``build`` for as long as this process lives, so that neither a later lwfm nor systemd-tmpfiles(8) removes it."""
    if _in_use:
        return
    try:
        import fcntl

        descriptor = os.open(build, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        _in_use.append(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(build)
    except OSError:  # a file system without locks: there, only what is long unused is removed
        pass
